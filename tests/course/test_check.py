"""What a learner sees from predict, measured, check, hint and solution."""

import json
import math

import pytest

from minimtnlg.course import exercises
from minimtnlg.course.check import check, hint, measured, predict, solution
from minimtnlg.course.sources import ROOT


@pytest.fixture(autouse=True)
def only_the_template(monkeypatch):
    """`check("template", ...)` finds the template without a course being built."""
    load = exercises.load
    template = ROOT / "exercises" / "src" / "_template.py"
    monkeypatch.setattr(
        exercises, "load", lambda name: load(template if name == "template" else name)
    )


def right(a, b):
    if len(a) != len(b):
        raise ValueError("different length")
    return sum(x == y for x, y in zip(a, b, strict=True))


def test_guess_is_shown_beside_the_measured_value(capsys, progress_file):
    predict("size", 8)
    measured("size", 4, unit="GB", tell="Adam keeps two moments.")
    out = capsys.readouterr().out
    assert "you guessed  8 GB" in out and "measured     4 GB" in out
    assert "Too high by a factor of 2." in out and "Adam keeps two moments." in out
    assert json.loads(progress_file.read_text())["predictions"]["size"] == {
        "guess": 8,
        "measured": 4,
    }


@pytest.mark.parametrize(
    "guess, value, words",
    [
        (1.01, 1.0, "as good as measured"),
        (1.5, 1.0, "50 % too high"),
        (1.0, 4.0, "Too low by a factor of 4."),
        (-3, 4, "off by 7"),
        (3, 0, "off by 3"),
        (3, math.inf, "off by inf"),
        (5, 5, "Exactly right."),
        ("a", "a", "Right."),
        ("a", "b", "Not so"),
    ],
)
def test_distance_in_words(capsys, guess, value, words):
    predict("x", guess, choices=["a", "b"] if isinstance(guess, str) else None)
    measured("x", value)
    assert words in capsys.readouterr().out


def test_no_guess_and_unusable_guesses_are_said_and_run_on(capsys):
    predict("x", None)
    predict("x", "many")
    predict("x", "c", choices=["a", "b"])
    measured("x", 529_600_819_200, unit="parameters")
    out = capsys.readouterr().out
    assert "no guess yet" in out and "not a number" in out and "not among the choices" in out
    assert "nothing yet" in out and "529 600 819 200 parameters" in out


def test_damaged_progress_file_stops_nobody(capsys, progress_file):
    progress_file.write_text("{not json")
    predict("x", 1)
    measured("x", 1)
    assert "Exactly right." in capsys.readouterr().out


def test_right_answer_is_solved(capsys, progress_file):
    check("template", right)
    out = capsys.readouterr().out
    assert "2 of 2 checks passed" in out and "Solved." in out
    assert json.loads(progress_file.read_text())["exercises"]["template"]["solved"] is True


def test_failed_check_says_what_expected_got_and_idea(capsys):
    check("template", lambda a, b: 1)
    out = capsys.readouterr().out
    assert "0 of 2 checks passed" in out and "FAILED  The messages of the target" in out
    assert "expected  2" in out and "got       1" in out and "look at" in out
    assert "1 more check runs when these pass" in out and "Traceback" not in out


def test_exception_shows_type_message_and_the_students_line(capsys):
    def broken(a, b):
        return a[99]

    check("template", broken)
    out = capsys.readouterr().out
    assert "IndexError: list index out of range" in out
    assert "return a[99]" in out and "Traceback" not in out


def test_leaving_the_interpreter_is_an_error_of_the_answer(capsys):
    def leaves(a, b):
        raise SystemExit(0)

    check("template", leaves)
    assert "SystemExit" in capsys.readouterr().out


def test_calls_that_cannot_work_are_one_line(capsys):
    check("nowhere", right)
    check("template", 3)
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 2 and "no exercise 'nowhere'" in out[0] and "agreeing" in out[1]


def test_solution_opens_after_an_attempt_not_after_the_stub(capsys):
    def agreeing(a, b):
        """My own words."""
        raise NotImplementedError("compare a[i] with b[i] for each i and count the equal pairs")

    solution("template")
    check("template", agreeing)
    solution("template")
    out = capsys.readouterr().out
    assert out.count("opens after your first attempt") == 2 and "TO DO" in out
    assert "compare a[i]" in out and "zip(a, b" not in out

    def empty(a, b):
        return None

    check("template", empty)
    solution("template")
    assert "zip(a, b" not in capsys.readouterr().out

    check("template", lambda a, b: a == b)  # a lambda has no statement to compare
    check("template", right)
    capsys.readouterr()
    solution("template")
    assert "zip(a, b, strict=True)" in capsys.readouterr().out


def test_hints_come_one_a_call_then_all(capsys):
    for i in (1, 2, 3):
        hint("template")
        assert capsys.readouterr().out.startswith(f"hint {i} of 3: ")
    hint("template")
    assert capsys.readouterr().out.count(" of 3: ") == 3
