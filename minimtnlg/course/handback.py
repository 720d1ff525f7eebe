"""One page a student: what was checked, expected and got, and which idea to look at again.

A page is one HTML file without scripts that needs no other file. Of a hidden check it tells the
title and whether it passed, and no number.
"""

import re
from importlib.resources import files

import jinja2

from minimtnlg.course.grade import FULL
from minimtnlg.course.gradebook import total, write

WORDS = {
    "passed": "passed",
    "failed": "not yet",
    "error": "your code raised",
    "unusable": "could not be used",
    "stub": "to do",
    "not run": "not run",
}


def write_pages(folder, table, roster=None):
    """Write FOLDER/STUDENT.html for each student of the table; returns the paths."""
    paths, taken = [], set()
    for student, row in table.items():
        name = re.sub(r"[^\w.-]", "_", student).lstrip(".")[:100] or "_"
        while name.lower() in taken:  # two names that differ in what a file's name can't hold
            name += "_"
        taken.add(name.lower())
        paths.append(folder / f"{name}.html")
        write(paths[-1], page((roster or {}).get(student, {}).get("name") or student, row))
    return paths


def page(student, row):
    """The page of one student, as text; `row` holds the Results by exercise."""
    template = files("minimtnlg").joinpath("templates", "feedback.html").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    exercises = [
        {
            "name": key,
            "title": result.title or key,
            "points": f"{result.points:g}",
            "trouble": result.trouble,
            "checks": [_shown(check) for check in result.checks],
        }
        for key, result in row.items()
    ]
    return environment.from_string(template).render(
        student=student,
        exercises=exercises,
        points=f"{total(row):g}",
        of=FULL * len(row),
        full=FULL,
    )


def _shown(check):
    silent = check["hidden"] or check["kind"] in ("passed", "not run")
    text = "" if silent else check["text"]
    return {
        "title": check["title"],
        "hidden": check["hidden"],
        "kind": check["kind"].replace(" ", "-"),
        "word": WORDS[check["kind"]],
        "text": text,
    }
