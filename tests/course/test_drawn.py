"""What is drawn for a class stands in text and code alike; what can't be drawn is refused."""

import re

import pytest

from minimtnlg.course import drawn, exercises, pages
from minimtnlg.course.sources import ROOT, read_exercise
from minimtnlg.errors import InputError

TEMPLATE = ROOT / "exercises" / "src" / "_template.py"


@pytest.fixture
def source():
    return read_exercise(TEMPLATE)


def test_public_values_come_first_and_others_replace_them(source):
    assert drawn.values(source) == {"FIRST": "011", "SECOND": "001", "PLACES": 2}
    assert drawn.values(source, {"FIRST": "110"})["PLACES"] == 1


@pytest.mark.parametrize(
    "draws, words", [({"LAST": 1}, "there are FIRST"), ({"FIRST": "1"}, "not '1'")]
)
def test_what_is_not_listed_is_refused(source, draws, words):
    with pytest.raises(InputError, match=words):
        drawn.values(source, draws)


def test_only_known_names_are_replaced():
    known = {"RANKS": 4}
    assert drawn.fill("{{RANKS}} of {{NODES}}, ${{x}}$", known) == "4 of {{NODES}}, ${{x}}$"


def test_code_is_given_what_it_uses_and_does_not_set():
    known = {"RANKS": 4, "WAY": "left", "SECRET": 7}
    assert drawn.assignments("WAY = 1\nf(RANKS)", known) == "RANKS = 4"
    assert drawn.assignments("f(RANKS, WAY)", known) == "RANKS = 4\nWAY = 'left'"


def test_the_check_and_the_page_follow_the_draw(source):
    for first, answer in (("011", lambda a, b: 2), ("01101", lambda a, b: 3)):
        exercise = exercises.load(TEMPLATE, draws={"FIRST": first})
        assert exercise.grade(answer)[0].kind == "passed"
    text = pages.exercise_notebook(source).cells[0].source
    assert "**Target:** 011 and 001 agree in 2 places" in text


def test_filled_code_is_quoted_as_it_ran(tmp_path):
    text = TEMPLATE.read_text().replace(
        "raise NotImplementedError(", "assert a, '{{FIRST}}'\n    raise NotImplementedError("
    )
    path = tmp_path / "00_template.py"
    path.write_text(text)
    stub = exercises.load(path, draws={"FIRST": "110"}).stub
    assert "assert a, '110'" in exercises.code_of(stub)


def test_answers_are_left_out_on_request():
    exercise = exercises.load(TEMPLATE, answers=False)
    assert (exercise.solution, exercise.solution_code, exercise.wrong) == (None, "", {})
    assert exercise.checks and exercise.stub


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("help: half", "help: none", "write worked, half, empty"),
        ("FIRST: [", "first: [", "NAME: "),
        ('FIRST: ["011", "110", "01101"]', "FIRST: []", "NAME: "),
    ],
)
def test_front_matter_that_cannot_be_meant_is_refused(tmp_path, old, new, words):
    text = TEMPLATE.read_text()
    assert text.count(old) == 1
    (tmp_path / "00_template.py").write_text(text.replace(old, new))
    with pytest.raises(InputError, match=re.escape(words)):
        read_exercise(tmp_path / "00_template.py")
