"""How far a learner has come: lessons done, right guesses, exercises solved, and what is next.

All of it is read from one file on this machine (`progress.py`); nothing is sent anywhere.
"""

import re

from minimtnlg.course import progress
from minimtnlg.course.sources import ROOT, exercise_sources, home, lessons

GUESSES = re.compile(r"""^predict\(\s*["']([^"']+)["']""", re.MULTILINE)


def status(root=None):
    """Print a row for each lesson, the sums, and what to do next; in a class, its exercises."""
    root = root or home()
    rows = report(root)
    if not rows:
        return _exercises(root)
    print(f"{'lesson':<36}{'read':<7}{'guesses right':<16}exercises")
    for row in rows:
        guesses = f"{row['right']} of {row['made']} made" if row["made"] else "-"
        solved = " ".join(f"{name}{_state(facts)}" for name, facts in row["exercises"].items())
        read = "done" if row["done"] else "begun" if row["made"] else "-"
        print(f"{row['number']} {row['title'][:32]:<33}{read:<7}{guesses:<16}{solved}".rstrip())
    exercises = [facts for row in rows for facts in row["exercises"].values()]
    print(
        f"\n{sum(row['done'] for row in rows)} of {len(rows)} lessons done, "
        f"{sum(row['right'] for row in rows)} of {sum(row['made'] for row in rows)} guesses right, "
        f"{sum(bool(f.get('solved')) for f in exercises)} of {len(exercises)} exercises solved"
    )
    print(advice(rows))
    print("(* solved, ~ tried; a guess is right if it is the choice, or within a factor of 2)")


def report(root=ROOT):
    """A dict for each lesson: number, name, title, done, made, right, exercises (name -> facts).

    A lesson is done when each of its guesses was made and has met its measurement.
    """
    stored = progress.read()
    rows = []
    for lesson in lessons(root):
        code = "\n".join(cell.source for cell in lesson.cells if cell.cell_type == "code")
        known = [stored["predictions"].get(name, {}) for name in GUESSES.findall(code)]
        met = [g for g in known if g.get("guess") is not None and g.get("measured") is not None]
        rows.append(
            {
                "number": lesson.number,
                "name": lesson.name,
                "title": lesson.title,
                "done": bool(known) and len(met) == len(known),
                "made": sum(g.get("guess") is not None for g in known),
                "right": sum(right(g["guess"], g["measured"]) for g in met),
                "exercises": {
                    source.name: stored["exercises"].get(source.name, {})
                    for source in exercise_sources(root)
                    if source.number == lesson.number
                },
            }
        )
    return rows


def right(guess, measured):
    """Whether a guess is the right choice, or a number within a factor of two."""
    if isinstance(guess, str) or isinstance(measured, str) or guess == measured:
        return guess == measured
    return guess * measured > 0 and 0.5 <= guess / measured <= 2


def advice(rows):
    """One line: the lesson to go on with, and the first exercise still open before it."""
    for row in rows:
        if not row["done"]:
            verb = "go on with" if row["made"] else "open"
            return f"next: {verb} lesson {row['number']}, {row['name']}.ipynb" + _open(rows, row)
    unsolved = _open(rows, None)
    return f"next:{unsolved.removeprefix(';')}" if unsolved else "next: nothing; all is solved"


def _open(rows, until):
    """The first exercise that is not solved in the lessons before `until`, in words; or ""."""
    for row in rows:
        if row is until:
            break
        for name, facts in row["exercises"].items():
            if not facts.get("solved"):
                return f"; exercise {row['number']}_{name} is open"
    return ""


def _exercises(root):
    stored = progress.read()["exercises"]
    for source in exercise_sources(root):
        facts = stored.get(source.name, {})
        state = "solved" if facts.get("solved") else "tried" if facts.get("attempts") else "open"
        print(f"{source.stem:<30}{state}")


def _state(facts):
    return "*" if facts.get("solved") else "~" if facts.get("attempts") else ""
