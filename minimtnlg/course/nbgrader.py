"""The exercises of a class as a course of nbgrader: `minimtnlg course release --nbgrader`.

    nbgrader_config.py
    source/lesson_NN/NN_name.ipynb    an assignment for each lesson, whole; nbgrader cuts it

`nbgrader generate_assignment` takes out solutions and hidden tests, `nbgrader autograde` puts the
tests back. The checks stand in the notebook itself, one cell and one point each, and each cell asks
the first check again: as everywhere in the course, there are no points unless it passes.
"""

import nbformat
from nbformat.v4 import new_code_cell

from minimtnlg.course import pages
from minimtnlg.course.sources import read_exercise
from minimtnlg.course.variants import assignments

CONFIG = """\
# Run nbgrader in this folder, as in: nbgrader generate_assignment lesson_{number}
c = get_config()

c.CourseDirectory.course_id = "minimtnlg"
c.ClearSolutions.code_stub = {{"python": ""}}  # the stub stands above the solution
c.Execute.timeout = 300  # seconds a cell; some start ranks
c.IgnorePattern.enabled = True  # what ranks and libraries say on stderr is no failure
c.IgnorePattern.pattern = r"."
"""
SETUP = "# Set-up, the same in every notebook.\nfrom minimtnlg.course import setup\n\nsetup()"
SOLUTION = "### BEGIN SOLUTION\n{}\n### END SOLUTION"
HIDDEN = "# Points for a check that is not shown.\n### BEGIN HIDDEN TESTS\n{}\n### END HIDDEN TESTS"


def write(variants, out):
    """Write OUT/private/nbgrader for the variants whose class OUT/class holds."""
    folder = out / "private" / "nbgrader"
    for one in variants:
        stem = one.source.stem
        student = nbformat.read(out / "class" / "exercises" / f"{stem}.ipynb", as_version=4)
        checks = read_exercise(out / "class" / "exercises" / "src" / f"{stem}.py").tagged("check")
        path = folder / "source" / f"lesson_{one.source.number}" / f"{stem}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = nbformat.writes(assignment(one, student, checks), version=4)
        path.write_text(text + "\n", encoding="utf-8", newline="\n")
    config = CONFIG.format(number=variants[0].source.number)
    (folder / "nbgrader_config.py").write_text(config, encoding="utf-8", newline="\n")


def assignment(one, student, checks):
    """The notebook in nbgrader's source/.

    Parameters:
        one      the Variant
        student  the class's notebook: title, set-up, what is given, stub, check, hints
        checks   cells with the visible checks, values included
    """
    title, _, *given, _, hints = student.cells
    stubs = [given.pop() for _ in one.source.tagged("stub")][::-1]
    stub = "\n\n\n".join(cell.source for cell in stubs)
    exercise, solution = one.exercise, SOLUTION.format(one.exercise.solution_code)
    for i, cell in enumerate(c for c in given if c.cell_type == "code"):
        _mark(cell, f"given-{i}")
    cells = [
        title,
        new_code_cell(SETUP),
        *given,
        _mark(new_code_cell(f"{stub}\n\n{solution}"), "answer", answer=True),
        hints,
        *(_mark(new_code_cell(c.source), f"checks-{i}") for i, c in enumerate(checks)),
    ]
    # The first hidden cell also holds what the hidden checks are made of.
    private = [assignments(one.draws), one.code("target"), one.code("hidden")]
    for i, check in enumerate(exercise.checks):
        names = dict.fromkeys((exercise.checks[0].name, check.name))
        code = "\n".join(f"{name}({exercise.target})" for name in names)
        if check.hidden:
            code = HIDDEN.format("\n\n".join(part for part in [*private, code] if part))
            private = []
        cells.append(_mark(new_code_cell(code), f"check-{i}", points=1))
    return pages.notebook_of(cells, one.source.stem)


def _mark(cell, name, points=None, answer=False):
    """The cell as nbgrader knows it: read-only, or a student's answer, or worth points."""
    cell.metadata["nbgrader"] = {
        "schema_version": 3,
        "grade_id": name,
        "grade": points is not None,
        "solution": answer,
        "locked": not answer,
        "task": False,
    } | ({} if points is None else {"points": points})
    return cell
