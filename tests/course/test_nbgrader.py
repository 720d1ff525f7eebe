"""A release for nbgrader, put through nbgrader itself, where it is installed."""

import csv
import linecache
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from minimtnlg.course.nbgrader import assignment
from minimtnlg.course.release import release, student_notebook
from minimtnlg.course.sources import ROOT, exercise_sources, read_exercise
from minimtnlg.course.variants import class_source, secrets, variant

SEED = 7
ANSWERS = {  # student -> what stands in the answer's cell; None: what it was
    "nothing": None,
    "leaves": "def agreeing(a, b):\n    print('passed')\n    raise SystemExit",
    "most": "def agreeing(a, b):\n    return sum(x == y for x, y in zip(a, b))",
}


@pytest.fixture
def folder(course, tmp_path):
    release("00", SEED, tmp_path / "out", with_nbgrader=True, root=course)
    return tmp_path / "out" / "private" / "nbgrader"


def cells_of(path):
    cells = nbformat.read(path, as_version=4).cells
    return {c.metadata.nbgrader["grade_id"]: c for c in cells if "nbgrader" in c.metadata}


def test_the_source_holds_everything_and_every_check_has_a_point(folder):
    cells = cells_of(folder / "source" / "lesson_00" / "00_template.ipynb")
    assert list(cells) == ["answer", "checks-0", "check-0", "check-1"]
    answer = cells["answer"]
    assert answer.metadata.nbgrader["solution"] and not answer.metadata.nbgrader["locked"]
    before, solution = answer.source.split("### BEGIN SOLUTION\n")
    assert "raise NotImplementedError" in before and "strict=True" in solution
    assert "example(agreeing)" == cells["check-0"].source
    assert "example(agreeing)\nrefuses_unequal(agreeing)\n### END HIDDEN" in cells["check-1"].source
    for name, cell in cells.items():
        assert cell.metadata.nbgrader.get("points") == (1 if name.startswith("check-") else None)


def exercises_of_the_course():
    """One in eight; all of them with --full."""
    for i, source in enumerate(exercise_sources()):
        yield pytest.param(source, id=source.stem, marks=[] if i % 8 == 2 else [pytest.mark.long])


@pytest.mark.parametrize("source", list(exercises_of_the_course()))
def test_solution_and_checks_get_along_in_one_notebook(source, tmp_path):
    one = variant(source, SEED)
    (path := tmp_path / source.path.name).write_text(class_source(one), encoding="utf-8")
    handed = read_exercise(path)
    whole = assignment(one, student_notebook(handed, "id"), handed.tagged("check"))
    scope = {"__name__": "__main__"}
    for i, cell in enumerate(whole.cells):
        if cell.cell_type == "code":  # a check that fails raises
            name, lines = f"<cell {i} of {source.stem}>", cell.source.splitlines(keepends=True)
            linecache.cache[name] = len(cell.source), None, lines, name
            exec(compile(cell.source, name, "exec"), scope)


def nbgrader(folder, *arguments):
    """Run a command of nbgrader, whose database wants alembic on the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [sys.executable, "-m", "nbgrader", *arguments], cwd=folder, capture_output=True, text=True,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def submit(folder, student, answer):
    """A student's notebook: the released one, with another answer and a hidden check taken out."""
    released = folder / "release" / "lesson_00" / "00_template.ipynb"
    notebook = nbformat.read(released, as_version=4)
    for cell in notebook.cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id", "")
        if answer is not None and name == "answer":
            cell.source = answer
        if name == "check-0":
            cell.source = "pass"  # the checks are put back
    (there := folder / "submitted" / student / "lesson_00").mkdir(parents=True)
    nbformat.write(notebook, there / "00_template.ipynb")


@pytest.mark.long  # thirteen starts of Python and of kernels
def test_nbgrader_takes_out_the_answers_and_gives_the_points(folder, course):
    pytest.importorskip("nbgrader", reason="pip install 'minimtnlg[nbgrader]'")
    nbgrader(folder, "generate_assignment", "lesson_00")
    released = folder / "release" / "lesson_00" / "00_template.ipynb"
    text = "\n".join(cell.source for cell in nbformat.read(released, as_version=4).cells)
    (source,) = exercise_sources(course)
    one = variant(source, SEED)
    assert [secret for secret in secrets(one) if secret in text] == []
    assert "HIDDEN" not in text and "SOLUTION" not in text and "refuses_unequal" not in text
    assert cells_of(released)["answer"].source.strip() == one.exercise.stub_code
    for student, answer in ANSWERS.items():
        submit(folder, student, answer)
    warns = "import sys\n\nprint('slow', file=sys.stderr)\n\n\n"  # is no failure
    submit(folder, "solution", warns + one.exercise.solution_code)
    nbgrader(folder, "autograde", "lesson_00")
    nbgrader(folder, "export")
    grades = {row["student_id"]: row for row in csv.DictReader((folder / "grades.csv").open())}
    assert {float(row["max_score"]) for row in grades.values()} == {2}
    points = {student: float(row["score"]) for student, row in grades.items()}
    assert points == {"nothing": 0, "leaves": 0, "most": 1, "solution": 2}
