"""What a class is given: its own numbers and bugs, and nothing that tells an answer."""

import ast
import csv
import os
import re
import subprocess
import sys

import nbformat
import pytest
from commands import call
from ruamel.yaml import YAML

from minimtnlg.course import exercises, setup
from minimtnlg.course import release as releases
from minimtnlg.course.release import release, select
from minimtnlg.course.sources import ROOT, exercise_sources, read_exercise
from minimtnlg.course.variants import class_source, draw, private_source, secrets, variant
from minimtnlg.errors import InputError

LAB = '''\
# ---
# mark: 1
# minutes: 10
# needs: []
# draws:
#   BUG: [drops_the_last, begins_at_one]
#   COUNT: [3, 5]
# ---

# %% [markdown]
# # Find the bug
#
# This sum is wrong. Look, run, repair.
#
# **Target:** the first {{COUNT}} whole numbers sum to {{TOTAL}}.

# %% tags=["target"]
TOTAL = COUNT * (COUNT - 1) // 2
_LINES = {
    "drops_the_last": "return sum(numbers[:-1])",
    "begins_at_one": "return 1 + sum(numbers)",
}
PLANTED = f"def total(numbers):\\n    {_LINES[BUG]}"

# %% tags=["stub"]
{{PLANTED}}


# %% [markdown] tags=["hint"]
# Take {{COUNT}} numbers.

# %% [markdown] tags=["hint"]
# By hand.

# %% [markdown] tags=["hint"]
# One at a time.

# %% [markdown] tags=["oral"]
# **Q.** What is the sum of no numbers?
#
# **A.** Of {{COUNT}} it was {{TOTAL}}; of none it is 0.


# %% tags=["solution"]
def total(numbers):
    return sum(numbers)


# %% tags=["check"]
from minimtnlg.course.check import expect


def the_target(student):
    """The numbers of the target"""
    expect(student(list(range(COUNT))), TOTAL, f"sum of {COUNT} numbers")


# %% tags=["hidden"]
def of_nothing(student):
    """No numbers"""
    expect(student([]), 0 * COUNT, "sum of no numbers")


# %% tags=["wrong"]
def counts(numbers):
    """Caught by: the_target. Takes the sum for the number of them."""
    return len(numbers)


def takes_the_last(numbers):
    """Caught by: the_target. Takes the last for the sum."""
    return numbers[-1]


def fails_on_nothing(numbers):
    """Caught by: of_nothing. Begins with the first number."""
    return numbers[0] + total(numbers[1:])
'''


@pytest.fixture
def course(course):
    """The template's exercise, which draws one of three, and a lab with a planted bug."""
    (course / "exercises" / "src" / "01_bug_total.py").write_text(LAB)
    return course


def lab(course, old="", new=""):
    path = course / "exercises" / "src" / "01_bug_total.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return read_exercise(path)


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def text_of(path):
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    return "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)


# --------------------------------------------------------------------------------------- draws


def test_same_seed_same_bytes(course, tmp_path):
    for name in ("a", "b"):
        release("00-01", 7, tmp_path / name, root=course)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_what_else_is_chosen_changes_no_exercise(course, tmp_path):
    release("00-01", 7, tmp_path / "both", root=course)
    release("bug_total", 7, tmp_path / "one", root=course)
    both, one = files(tmp_path / "both"), files(tmp_path / "one")
    for folder in ("class", "private"):
        name = f"{folder}/exercises/src/01_bug_total.py"
        assert both[name] == one[name]
    assert "class/exercises/00_template.ipynb" not in one


def test_other_seeds_draw_all_values_and_never_the_public_variant(course):
    for source in exercise_sources(course):
        drawn = [draw(source, seed) for seed in range(60)]
        for name, options in source.draws.items():
            seen = [one[name] for one in drawn]
            once = options[1:] if len(source.draws) == 1 else options
            assert {str(value) for value in seen} == {str(value) for value in once}
        public = {name: options[0] for name, options in source.draws.items()}
        assert public not in drawn


def test_draws_stay_the_same_for_ever(course):
    template, _ = exercise_sources(course)
    assert [draw(template, seed)["FIRST"] for seed in (1, 2, 3)] == ["110", "01101", "01101"]


def test_two_values_are_both_drawn(course):
    source = lab(course, "#   COUNT: [3, 5]\n", "#   COUNT: [3]\n")
    assert {draw(source, seed)["BUG"] for seed in range(20)} == set(source.draws["BUG"])


# ------------------------------------------------------------------------------ what is chosen


@pytest.mark.parametrize(
    "chosen, stems",
    [
        ("00-01", ["00_template", "01_bug_total"]),
        ("01", ["01_bug_total"]),
        ("bug_total, 00_template,01", ["00_template", "01_bug_total"]),
        ("01-20", ["01_bug_total"]),
    ],
)
def test_lessons_names_and_lists(course, chosen, stems):
    assert [source.stem for source in select(chosen, course)] == stems


@pytest.mark.parametrize("chosen", ["02-20", "01-00", "sum", "00,,01", ""])
def test_what_means_no_exercise_is_named(course, tmp_path, chosen):
    wrong = next(part for part in chosen.split(",") if part not in ("00", "01"))
    with pytest.raises(InputError, match=re.escape(f"{wrong!r}; there are 00_template, 01_bug")):
        release(chosen, 1, tmp_path / "out", root=course)
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------- nothing half-written


def test_a_folder_that_is_there_is_refused(course, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="out is there already"):
        release("00", 1, tmp_path / "out", root=course)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("return sum(numbers)\n\n\n# %% tags=[\"check\"]", "return 1\n\n\n# %% tags=[\"check\"]",
         "solution fails the_target"),
        ("return sum(numbers[:-1])", "return sum(numbers)", "stub passes"),
        ("return 1 + sum(numbers)", "return sum(numbers)", "stub passes"),
        ("**Target:**", "def of_nothing(student) **Target:**", "01_bug_total.* would tell"),
        ("# By hand.", "# It {{BUG}}.", "01_bug_total.* would tell"),
        ("numbers of the target", "{{BUG}}", "01_bug_total.* would tell"),
        ("# By hand.\n", "# ```\n# def total(numbers):\n#     return sum(numbers)\n# ```\n", ""),
        ('f"sum of {COUNT} numbers"', "f'{BUG}'", "what BUG is"),
        ("TOTAL = COUNT", "TOTAL = __import__('numpy').int64(COUNT)", "only plain values"),
    ],
)  # fmt: skip
def test_what_cannot_be_handed_out_leaves_nothing_behind(course, tmp_path, old, new, words):
    lab(course, old, new)
    caught = []
    for seed in range(6):  # both bugs come up
        try:
            release("00-01", seed, tmp_path / f"{seed}", root=course)
        except InputError as error:
            caught.append(str(error))
            assert not (tmp_path / f"{seed}").exists() and not list(tmp_path.glob(".*"))
    assert all(re.search(words, text) and "\n" not in text for text in caught)
    assert bool(caught) == bool(words)


# ------------------------------------------------------------------------- what students are given


def test_nothing_for_students_tells_an_answer(course, tmp_path):
    release("00-01", 7, tmp_path / "out", root=course)
    texts = {p: text_of(p) for p in (tmp_path / "out" / "class").rglob("*") if p.is_file()}
    hidden = ["drops_the_last", "begins_at_one", "BUG", "draws", "of_nothing", "refuses_unequal",
              "takes_the_last", "counts_ones", "return sum(", "strict=True", "begins at one",
              "Messages of different length are refused", "**Q.**", "seed"]  # fmt: skip
    assert [(secret, path) for path, text in texts.items() for secret in hidden if secret in text
            if (secret, path.stem) != ("return sum(", "01_bug_total")] == []  # fmt: skip
    both = [s for source in exercise_sources(course) for s in secrets(variant(source, 7))]
    assert not [s for s in both for text in texts.values() if s in text]


def test_the_class_source_is_filled_in_and_draws_nothing(course):
    source = lab(course)
    seed = next(s for s in range(20) if draw(source, s) == {"BUG": "begins_at_one", "COUNT": 5})
    text = class_source(variant(source, seed))
    assert "the first 5 whole numbers sum to 10" in text
    assert "def total(numbers):\n    return 1 + sum(numbers)" in text
    assert "COUNT = 5\nTOTAL = 10" in text and "PLANTED" not in text and "{{" not in text
    cells = text.split("# %%")
    assert "COUNT = 5" in next(cell for cell in cells if "def the_target" in cell)


def test_numbers_that_given_code_uses_stand_before_it(course):
    target = '# %% tags=["target"]'
    source = lab(course, target, f"# %%\nMANY = [0] * COUNT\n\n{target}")
    text = class_source(variant(source, 1))
    assert text.count("COUNT = ") == 1
    assert text.index("COUNT = ") < text.index("MANY = [0] * COUNT")


RUN = """
import json
cells = json.load(open({name!r}, encoding="utf-8"))["cells"]
code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
for cell in code:
    exec(cell, globals())
print("--")
exec({answer!r}, globals())
exec(code[-1], globals())
print("--")
solution({name!r}[3:-6])
"""


def run_notebook(folder, name, answer):
    """What a student's notebook prints in a fresh process: as it is, with `answer`, at the end."""
    environment = {k: v for k, v in os.environ.items() if k != "MINIMTNLG_PROGRESS"}
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(name=name, answer=answer)], cwd=folder,
        capture_output=True, text=True,
        env=environment | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split("--\n")


def test_a_notebook_asks_the_checks_of_its_class(course, tmp_path):
    release("00-01", 7, tmp_path / "out", root=course)
    there = tmp_path / "out" / "class" / "exercises"
    answer = "def total(numbers):\n    return sum(numbers)"
    before, after, end = run_notebook(there, "01_bug_total.ipynb", answer)
    assert "0 of 1 checks passed" in before
    assert "1 of 1 checks passed" in after and "your teacher has more checks" in after
    assert end == "bug_total: this class's copy holds no solutions\n"
    assert (there.parent / "work" / "progress.json").exists()
    first = draw(exercise_sources(course)[0], 7)["FIRST"]  # of the class, not of the course
    answer = f"def agreeing(a, b):\n    return {first[:-1].count('0') + 1}"
    before, after, _ = run_notebook(there, "00_template.ipynb", answer)
    assert "TO DO" in before and "1 of 1 checks passed" in after


def test_a_notebook_elsewhere_says_where_it_belongs(course, tmp_path, capsys, monkeypatch):
    release("00", 7, tmp_path / "out", root=course)
    notebook = nbformat.read(tmp_path / "out/class/exercises/00_template.ipynb", as_version=4)
    (named,) = re.findall(r'setup\("(\w+)"\)', notebook.cells[1].source)
    capsys.readouterr()
    for folder, words in ((tmp_path, f"the class {named}"), (tmp_path / "out/class/exercises", "")):
        monkeypatch.chdir(folder)
        setup(named)
        out = capsys.readouterr().out
        assert words in out and bool(out) == bool(words)


def test_status_lists_the_exercises_of_a_class(course, tmp_path, capsys, monkeypatch):
    release("00-01", 7, tmp_path / "out", root=course)
    monkeypatch.chdir(tmp_path / "out" / "class" / "exercises")
    capsys.readouterr()
    assert call(monkeypatch, capsys, "course", "status") == (
        0, f"{'00_template':<30}open\n{'01_bug_total':<30}open\n", ""
    )  # fmt: skip


def test_pages_around_the_exercises(course, tmp_path):
    release("00-01", 7, tmp_path / "out", root=course)
    folder = tmp_path / "out" / "class"
    readme = (folder / "README.md").read_text()
    assert "AGENTS.md" in readme
    for link in re.findall(r"\]\(([^)]+)\)", readme):
        assert link.startswith("https://") or (folder / link).is_file()
    workflow = YAML(typ="safe").load((folder / ".github/workflows/classroom.yml").read_text())
    steps = workflow["jobs"]["grade"]["steps"]
    assert any(step.get("run", "").startswith("minimtnlg grade ") for step in steps)
    adapters = ast.parse((folder / "exercises" / "adapters.py").read_text())
    assert '"bug_total": None' in ast.unparse(adapters).replace("'", '"')


# ------------------------------------------------------------------------- what the teacher keeps


def test_the_private_source_is_whole_with_one_value_a_draw(course, tmp_path):
    source = lab(course)
    (path := tmp_path / source.path.name).write_text(private_source(variant(source, 7)))
    private = read_exercise(path)
    assert private.draws == {name: [value] for name, value in draw(source, 7).items()}
    assert private.cells == source.cells and private.needs == source.needs
    exercise = exercises.load(path)
    assert all(o.kind == "passed" for o in exercise.grade(exercise.solution))
    assert len(exercise.wrong) == 3


def test_solutions_run_and_tell_the_beliefs(course, tmp_path, capsys):
    release("00-01", 7, tmp_path / "out", root=course)
    capsys.readouterr()
    for path in sorted((tmp_path / "out" / "private" / "solutions").glob("*.ipynb")):
        scope = {}
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                exec(cell.source, scope)
    assert capsys.readouterr().out.splitlines()[-2:] == ["The numbers of the target", "No numbers"]
    assert "- `counts`: the_target. Takes the sum for the number" in text_of(path)


def test_oral_questions_and_a_table_of_what_was_drawn(course, tmp_path):
    release("00-01", 7, tmp_path / "out", root=course)
    private = tmp_path / "out" / "private"
    drawn = draw(lab(course), 7)
    total = drawn["COUNT"] * (drawn["COUNT"] - 1) // 2
    assert f"of {drawn['COUNT']} it was {total};" in (private / "oral.md").read_text().lower()
    rows = list(csv.DictReader((private / "draws.csv").open()))
    assert {"exercise": "bug_total", "name": "BUG", "value": drawn["BUG"]} in rows
    assert (private / "run_autograder").stat().st_mode & 0o111


def test_the_command(course, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(releases.release, "__defaults__", (False, course))
    command = ["course", "release", "--exercises", "00", "--seed", "1", "--out", tmp_path / "out"]
    status, out, err = call(monkeypatch, capsys, *command)
    assert status == 0 and "00_template" in out and err == ""
    status, out, err = call(monkeypatch, capsys, *command)
    assert status == 2 and out == "" and err.count("\n") == 1 and "is there already" in err


# ----------------------------------------------------------------- the course's own exercises


@pytest.mark.parametrize("source", exercise_sources(), ids=lambda source: source.stem)
def test_every_exercise_can_be_handed_out(source, tmp_path, pytestconfig):
    """Its class's source loads, has the class's stub and tells nothing."""
    for seed in (1, 2) if pytestconfig.getoption("full") else (1,):
        one = variant(source, seed)
        (path := tmp_path / source.path.name).write_text(class_source(one), encoding="utf-8")
        handed = exercises.load(path)
        assert handed.solution is None and not any(check.hidden for check in handed.checks)
        assert handed.stub_code == one.exercise.stub_code
        text = path.read_text(encoding="utf-8")
        assert [secret for secret in secrets(one) if secret in text] == []


SAMPLE = ",".join(source.stem for source in exercise_sources()[2::8])


@pytest.mark.parametrize(
    "chosen, seed",
    [(SAMPLE, 1), *(pytest.param("00-20", seed, marks=pytest.mark.long) for seed in (1, 2))],
)
def test_the_course_is_released(tmp_path, chosen, seed):
    """Which proves each exercise: its solution passes, its stub does not."""
    release(chosen, seed, tmp_path / "out")
