# make course   set everything up, prepare the corpus, train nano, execute every lesson
# make model    train small, 20 minutes on two cores: lessons 18 to 20 take it instead of nano
# make test     set up what the tests need too, and run them
# make check    what has to hold before a commit: ruff, notebooks as their sources, no keys, valid forms
# make audit    the pinned versions against published advisories; needs a network
# make equivalence   every legal layout against one process, and docs/equivalence.md
# make drills   kills ranks, damages files, fills disks: the run goes on; and docs/drills.md
# make mutants   switches on one bug after the other: the tests notice each of them
# make graders   every exercise, every draw, every wrong and hostile answer; and releases for a class
# make slurm    the launch scripts, run: on a private Slurm of two nodes (as root), by torchrun, by DeepSpeed
# make lab      JupyterLab on the course map, among your own copies of lessons and exercises in work/
#
# Nothing is assumed but make and Python 3.11 or newer; another one: make PYTHON=/path/to/python course

PYTHON ?= $(shell command -v python3.11 || command -v python3 || command -v python)
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: course model test check audit equivalence drills mutants graders slurm lab
course: .venv/course
	$(BIN)/minimtnlg doctor
	$(BIN)/minimtnlg course run

model: .venv/course
	$(BIN)/minimtnlg course need small

test: .venv/test
	$(BIN)/python -m pytest

check: .venv/test
	$(BIN)/pre-commit run --all-files

# pip-audit lives by itself: it always should be the newest. Without --strict it passes whatever it
# could not ask about.
audit: .venv/python
	$(BIN)/python -m venv build/audit
	build/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	build/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

equivalence: .venv/test
	$(BIN)/python -m pytest tests/equivalence --full
	$(BIN)/python tests/equivalence/table.py

drills: .venv/test
	$(BIN)/python -m pytest tests/faults --full
	$(BIN)/python tests/faults/page.py

mutants: .venv/test
	$(BIN)/python tests/mutants.py

graders: .venv/test
	$(BIN)/python -m pytest tests/course --full --record graders

slurm: .venv/test
	$(BIN)/python -m pytest tests/slurm tests/test_launch.py --full --record slurm

# The repository is the root, so that links to docs and code work; in a container one may be root.
lab: .venv/course
	$(BIN)/minimtnlg course start work
	$(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/work/course_map.ipynb \
		$(if $(filter 0,$(shell id -u)),--allow-root)

# The environment is made again when it is missing, half made, older than the files that it is made
# from, or when its interpreter has gone.
ifeq ($(shell $(BIN)/python -c 'print("runs")' 2>/dev/null),)
$(shell rm -rf .venv)
endif

.venv/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("minimtnlg needs Python 3.11 or newer, not " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11 ...")'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/course: .venv/python pyproject.toml constraints.txt
	@echo "installing what the course needs into .venv"
	@$(PIP) --editable '.[course]'
	@touch $@

.venv/test: .venv/course
	@echo "installing the engines and what the tests need into .venv"
	@$(PIP) --editable '.[course,engines,test]'
	@touch $@
