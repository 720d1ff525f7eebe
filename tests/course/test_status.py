"""What `course status` tells of one learner's file."""

import pytest

from minimtnlg.course import progress
from minimtnlg.course.sources import lessons
from minimtnlg.course.status import GUESSES, advice, report, right, status


def guess(lesson_row, root, number=None):
    """Make the first `number` guesses of the lesson, all of them right."""
    lesson = next(x for x in lessons(root) if x.name == lesson_row["name"])
    code = "\n".join(cell.source for cell in lesson.cells)
    for name in GUESSES.findall(code)[:number]:
        progress.note("predictions", name, guess=4, measured=4)


def test_every_guess_of_every_lesson_is_known():
    for lesson in lessons():
        code = "\n".join(c.source for c in lesson.cells if c.cell_type == "code")
        assert len(set(GUESSES.findall(code))) == code.count("\npredict(") + code.startswith(
            "predict("
        ), f"{lesson.name}: a guess has no plain name"


def test_a_lesson_is_open_begun_and_done(course, capsys):
    (row,) = report(course)
    assert (row["made"], row["done"]) == (0, False)
    assert advice([row]).startswith("next: open lesson 00")
    guess(row, course, 1)
    (row,) = report(course)
    assert (row["made"], row["right"], row["done"]) == (1, 1, False)
    assert advice([row]).startswith("next: go on with lesson 00")
    guess(row, course)
    (row,) = report(course)
    assert row["done"] and row["right"] == row["made"]
    assert advice([row]) == "next: exercise 00_template is open"
    progress.note("exercises", "template", attempts=1)
    status(course)
    assert "template~" in capsys.readouterr().out
    progress.note("exercises", "template", solved=True)
    status(course)
    out = capsys.readouterr().out
    assert "template*" in out and "1 of 1 exercises solved" in out and "all is solved" in out
    assert "1 of 1 lessons done" in out


def test_a_guess_that_met_no_measurement_does_not_count(course):
    (row,) = report(course)
    lesson = lessons(course)[0]
    for name in GUESSES.findall("\n".join(c.source for c in lesson.cells)):
        progress.note("predictions", name, guess=1, measured=None)
    (row,) = report(course)
    assert (row["right"], row["done"]) == (0, False)


def test_an_exercise_left_behind_is_named_beside_the_next_lesson(course):
    (row,) = report(course)
    done = row | {"done": True}
    assert advice([done, row | {"number": "01"}]) == (
        f"next: open lesson 01, {row['name']}.ipynb; exercise 00_template is open"
    )


@pytest.mark.parametrize(
    "guess, measured, verdict",
    [
        (4, 4, True), (2, 4, True), (8, 4, True), (1.9, 4, False), (-4, 4, False), (0, 0, True),
        (0, 4, False), ("a", "a", True), ("a", "b", False), (3, "a", False),
        (float("inf"), 4, False),
    ],
)  # fmt: skip
def test_what_counts_as_right(guess, measured, verdict):
    assert right(guess, measured) is verdict
