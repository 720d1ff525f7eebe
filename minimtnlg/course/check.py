"""What a learner calls: predict and measured, check, hint and solution. Plain text, at once.

Guesses and attempts are kept in one file of this machine (`progress.py`).
"""

import functools
import math
import numbers

from minimtnlg.course import exercises, progress
from minimtnlg.course.feedback import Feedback, expect
from minimtnlg.errors import InputError

__all__ = ["Feedback", "check", "expect", "hint", "measured", "predict", "solution"]

SIGN = {"passed": "passed  ", "failed": "FAILED  ", "stub": "TO DO   "}


def predict(name, guess, choices=None):
    """Keep a guess before the cell that measures is run.

    Parameters:
        name     the same as in the later call of `measured`
        guess    a number, one of `choices`, or None while there is none
        choices  the possible answers, texts, for a question that is not about a number
    """
    if guess is None:
        options = f" one of {', '.join(map(repr, choices))}" if choices else " your number"
        print(f"{name}: no guess yet. Put{options} in place of None and run this cell again.")
        return
    if choices and guess not in choices:
        print(f"{name}: {guess!r} is not among the choices {', '.join(map(repr, choices))}.")
        return
    if not choices and not _is_number(guess):
        print(f"{name}: {guess!r} is not a number. Write it without unit and quotes.")
        return
    progress.note("predictions", name, guess=guess if choices else _plain(guess), measured=None)
    print(f"{name}: your guess {_say(guess)} is kept.")


def measured(name, value, unit="", tell=""):
    """Show a measured value beside the guess of `predict(name, ...)`.

    Parameters:
        value  a number (also a tensor of one element) or the right choice
        unit   of the number
        tell   one sentence that says what the value means
    """
    value = value if isinstance(value, str) else _plain(value)
    entry = progress.note("predictions", name, measured=value)
    guess = entry.get("guess")
    print(f"{name}")
    print(f"  you guessed  {_say(guess, unit) if guess is not None else 'nothing yet'}")
    print(f"  measured     {_say(value, unit)}")
    if guess is not None:
        print(f"  {_compare(guess, value)}")
    if tell:
        print(f"  {tell}")


def _in_words(call):
    """A mistake in calling `check`, `hint` or `solution` is one line, not a traceback."""

    @functools.wraps(call)
    def wrapper(*arguments):
        try:
            call(*arguments)
        except InputError as mistake:
            print(mistake)

    return wrapper


@_in_words
def check(name, answer):
    """Check your function or class for the exercise `name` and say in words what was found.

    All visible checks run; a hidden one runs when all before it have passed.
    """
    exercise = exercises.load(name)
    if isinstance(answer, str) or not callable(answer):
        wanted = exercise.target
        raise InputError(f"check({name!r}, ...) takes the function or class itself: {wanted}")
    outcomes = exercise.grade(answer)
    passed = sum(o.kind == "passed" for o in outcomes)
    _note_attempt(exercise, answer, outcomes)
    waiting = len(exercise.checks) - len(outcomes)
    print(f"{name}: {passed} of {len(exercise.checks)} checks passed")
    for outcome in outcomes:
        print(f"\n{SIGN.get(outcome.kind, 'ERROR   ')}{outcome.check.title}")
        for line in outcome.text.splitlines():
            print(f"        {line}")
        if outcome.kind == "stub":  # the others would say the same
            break
    if waiting and not any(o.kind == "stub" for o in outcomes):
        print(f"\n{waiting} more {'check runs' if waiting == 1 else 'checks run'} when these pass.")
    if passed == len(exercise.checks):
        more = "Solved, as far as this copy can say: your teacher has more checks."
        print("\nSolved." if exercise.solution_code else f"\n{more}")
    elif any(o.kind != "stub" for o in outcomes):
        print(f'\nA hint: hint("{name}")')
    _draw(exercise, answer, outcomes)


@_in_words
def hint(name):
    """Print the next hint of exercise `name`; after the last one, all of them again."""
    exercise = exercises.load(name)
    name = exercise.source.name
    given = progress.read()["exercises"].get(name, {}).get("hints", 0)
    if given >= len(exercise.hints):
        print(f"{name}: that was the last hint. All of them again:")
        steps = range(len(exercise.hints))
    else:
        progress.note("exercises", name, hints=given + 1)
        steps = [given]
    for i in steps:
        print(f"hint {i + 1} of {len(exercise.hints)}: {exercise.hints[i]}")


@_in_words
def solution(name):
    """Print the solution of exercise `name`, once you have made an attempt of your own."""
    exercise = exercises.load(name)
    name = exercise.source.name
    if not exercise.solution_code:
        print(f"{name}: this class's copy holds no solutions")
        return
    if not progress.read()["exercises"].get(name, {}).get("attempts"):
        print(f"{name}: the solution opens after your first attempt. Change the stub, then run")
        print(f'check("{name}", {exercise.target}). It need not be right. A start: hint("{name}")')
        return
    print(exercise.solution_code)


def _note_attempt(exercise, answer, outcomes):
    """An attempt is code that differs from the stub; the stub itself does not open the solution."""
    name = exercise.source.name
    entry = progress.read()["exercises"].get(name, {})
    stub = any(o.kind == "stub" for o in outcomes)
    if not stub and exercises.is_attempt(exercises.code_of(answer), exercise.stub_code):
        progress.note("exercises", name, attempts=entry.get("attempts", 0) + 1)
    if len(outcomes) == len(exercise.checks) and all(o.kind == "passed" for o in outcomes):
        progress.note("exercises", name, solved=True)


def _draw(exercise, answer, outcomes):
    """Show the exercise's picture of the answer; an answer too broken to draw is not an error."""
    if exercise.picture is None or any(o.kind == "stub" for o in outcomes):
        return
    from minimtnlg.course.show import figure

    try:
        fig, alt = exercise.picture(answer)
    except (Exception, SystemExit):  # the checks have said already what is wrong with the answer
        return
    figure(fig, alt)


def _is_number(x):
    return isinstance(x, numbers.Real) or (hasattr(x, "item") and getattr(x, "size", 1) != 0)


def _plain(x):
    """A number of any library as Python's int or float."""
    x = x.item() if hasattr(x, "item") else x
    return int(x) if isinstance(x, numbers.Integral) else float(x)


def _say(x, unit=""):
    """A value for reading: thousands apart, four digits of a fraction."""
    if isinstance(x, str):
        return x
    if float(x).is_integer() and abs(x) < 1e15:
        text = f"{int(x):,}".replace(",", " ")
    else:
        text = f"{x:.4g}"
    return f"{text} {unit}".rstrip()


def _compare(guess, value):
    """How far the guess was, in words."""
    if isinstance(value, str) or isinstance(guess, str):
        return "Right." if guess == value else "Not so; read on for the reason."
    if guess == value:
        return "Exactly right."
    if not (math.isfinite(guess) and math.isfinite(value)) or guess * value <= 0:
        return f"Your guess is off by {_say(abs(guess - value))}."
    ratio, side = guess / value, "high" if abs(guess) > abs(value) else "low"
    factor = max(ratio, 1 / ratio)
    if factor <= 1.02:
        return f"Within {max(100 * (factor - 1), 0.1):.1f} %: as good as measured."
    if factor < 2:
        return f"{100 * abs(ratio - 1):.0f} % too {side}: the right order of magnitude."
    return f"Too {side} by a factor of {_say(float(f'{factor:.2g}'))}."
