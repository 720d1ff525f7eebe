"""Exercises for one class: `minimtnlg course release`.

    DIR/class/     what students get: notebooks, and sources that hold the visible checks alone
    DIR/private/   what the teacher keeps: whole sources, solutions, oral questions, what was drawn

Every exercise is proven before the folder appears: its solution passes the checks of both sources,
its stub does not, and nothing that students get holds an answer.
"""

import csv
import hashlib
import inspect
import io
import json
import os
import re
import shlex
from pathlib import Path

import jinja2
import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell

import minimtnlg
from minimtnlg.course import exercises, nbgrader, pages
from minimtnlg.course.sources import ROOT, exercise_sources, read_exercise
from minimtnlg.course.variants import (
    assignments,
    class_source,
    private_source,
    secrets,
    variant,
)  # fmt: skip
from minimtnlg.errors import InputError
from minimtnlg.files import appearing

SETUP = """\
# Set-up, the same in every notebook of this class.
from minimtnlg.course import setup

setup("{id}")"""

PAGES = {  # what lies around the exercises: file -> its template
    "class/class.toml": "class-marker.toml",
    "class/README.md": "class-readme.md",
    "class/requirements.txt": "class-requirements.txt",
    "class/.gitignore": "class-gitignore",
    "class/.github/workflows/classroom.yml": "class-workflow.yml",
    "private/class.toml": "class-marker.toml",
    "private/README.md": "class-private.md",
    "private/requirements.txt": "class-requirements.txt",
    "private/setup.sh": "gradescope-setup.sh",
    "private/run_autograder": "gradescope-run.sh",
}


def release(chosen, seed, out, with_nbgrader=False, root=ROOT):
    """Make the folder `out` for one class; print a line for each exercise.

    Parameters:
        chosen         which exercises: "06-12", "06", names, several divided by commas
        seed           whole number that decides what is drawn
        out            a folder that does not exist yet
        with_nbgrader  write private/nbgrader, a course of nbgrader, too

    InputError for an unknown exercise, a folder that is there, or an exercise that can't be handed
    out; then nothing is left behind.
    """
    out = Path(out)
    if os.path.lexists(out):
        raise InputError(f"{out} is there already; give --out a new folder, or move this one away")
    variants = [variant(source, seed) for source in select(chosen, root)]
    with appearing(out) as aside:
        facts = _facts(variants, root)
        facts |= {"chosen": chosen, "seed": seed, "nbgrader": with_nbgrader}
        for name, template in PAGES.items():
            _write(aside / name, TEMPLATES.get_template(template).render(facts))
        for name in ("setup.sh", "run_autograder"):  # Gradescope starts them
            (aside / "private" / name).chmod(0o755)
        _write(aside / "private" / "draws.csv", _table(variants))
        _write(aside / "private" / "oral.md", _oral(variants))
        for one in variants:
            _write_exercise(one, aside, facts["id"], root)
            _prove(one, aside)
            drawn = ", ".join(f"{name} {value}" for name, value in one.draws.items())
            print(f"{one.source.stem:<30} {drawn or 'nothing drawn'}", flush=True)
        _write(aside / "class" / "exercises" / "adapters.py", pages.adapters(aside / "class"))
        if (policy := Path(root) / "exercises" / "AGENTS.md").is_file():
            _write(aside / "class" / "AGENTS.md", policy.read_text(encoding="utf-8"))
        _refuse_leaks(variants, aside / "class")
        if with_nbgrader:
            nbgrader.write(variants, aside)
    print(f"{out / 'class'} is for your students, {out / 'private'} for you alone")


def select(chosen, root=ROOT):
    """The exercises that a text means: "06-12", "06", names, several divided by commas.

    Each once, in the course's order. InputError for a part that means none.
    """
    known = exercise_sources(root)
    found = []
    for part in (part.strip() for part in chosen.split(",")):
        span = re.fullmatch(r"(\d\d)-(\d\d)", part)
        first, last = span.groups() if span else (part, part)
        meant = [s for s in known if part in (s.name, s.stem) or first <= s.number <= last]
        if not meant:
            names = ", ".join(s.stem for s in known) or "none: this copy has no exercises/src"
            raise InputError(f"no exercise {part!r}; there are {names}")
        found += meant
    return [source for source in known if source in found]


# ----------------------------------------------------------------------------- one exercise


def _write_exercise(one, out, class_id, root):
    stem = one.source.stem
    path = out / "class" / "exercises" / "src" / f"{stem}.py"
    _write(path, class_source(one))
    _write(out / "private" / "exercises" / "src" / f"{stem}.py", private_source(one))
    notebook = student_notebook(read_exercise(path), class_id, root)
    _write(out / "class" / "exercises" / f"{stem}.ipynb", notebook)
    _write(out / "private" / "solutions" / f"{stem}.ipynb", solution_notebook(one))


def student_notebook(source, class_id, root=ROOT):
    """The notebook of a class's source. Its lesson is linked to where everybody can read it."""
    notebook = pages.exercise_notebook(source, root)
    notebook.cells[1].source = SETUP.format(id=class_id)
    lessons = f"]({pages.repository(root)}/blob/main/notebooks/"
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = cell.source.replace("](../notebooks/", lessons)
    return notebook


def solution_notebook(one):
    """The teacher's notebook: solution, every check, and wrong answers with their beliefs."""
    exercise = one.exercise
    title, *given = one.cells(None)
    numbers = [new_code_cell(assignments(one.draws)), *one.cells("target")] if one.draws else []
    names = ", ".join(check.name for check in exercise.checks)
    run = f"for check in ({names}):\n    check({exercise.target})\n    print(check.__doc__)"
    beliefs = [
        f"- `{name}`: {inspect.getdoc(answer).removeprefix('Caught by: ')}"
        for name, (answer, _) in exercise.wrong.items()
    ]
    wrong = "## Wrong answers\n\nEach with the check that catches it and the belief behind it.\n\n"
    cells = [
        title,
        *numbers,
        *given,
        new_markdown_cell("## Solution"),
        *one.cells("solution"),
        new_markdown_cell("## Visible checks"),
        *one.cells("check"),
        new_markdown_cell("## Hidden checks"),
        *one.cells("hidden"),
        new_code_cell(run),
        new_markdown_cell(wrong + "\n".join(beliefs)),
        *one.cells("wrong"),
    ]
    for cell in cells:
        cell.metadata = {}
    return pages.notebook_of(cells, one.source.stem)


def _prove(one, out):
    """InputError unless the two sources and the notebook can be handed out and graded with."""
    stem, given = one.source.stem, f"with {one.draws}" if one.draws else "as it is"
    whole = exercises.load(out / "private" / "exercises" / "src" / f"{stem}.py")
    handed = exercises.load(out / "class" / "exercises" / "src" / f"{stem}.py")
    hidden = [check for check in whole.checks if check.hidden]
    outcomes = handed.grade(whole.solution)
    outcomes += [whole.try_check(check, whole.solution) for check in hidden]
    for outcome in outcomes:
        if outcome.kind != "passed":
            text = " ".join(outcome.text.split())
            raise InputError(f"{stem} {given}: its solution fails {outcome.check.name}: {text}")
    if handed.grade(handed.stub, stop=True)[-1].kind == "passed":
        raise InputError(f"{stem} {given}: its stub passes every check")
    if handed.solution or len(outcomes) != len(whole.checks):
        raise InputError(f"{stem} {given}: the class's source must hold its visible checks alone")


def _refuse_leaks(variants, folder):
    """InputError if a file for students tells an answer: to its exercise, or to any exercise."""
    stems = {one.source.stem for one in variants}
    texts = [(path, _text(path)) for path in sorted(folder.rglob("*")) if path.is_file()]
    for one in variants:
        stem = one.source.stem
        for path, text in texts:
            if path.stem in stems - {stem}:
                continue
            if told := next((secret for secret in secrets(one) if secret in text), None):
                words = " ".join(told.split())[:80]
                raise InputError(f"{stem} {one.draws or ''}: {path.name} would tell: {words}")


def _text(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join(cell.source for cell in nbformat.reads(text, as_version=4).cells)
    return text


# ---------------------------------------------------------------------------- the whole class


def _facts(variants, root):
    """What the pages say. The class's id is a hash of what students are given."""
    text = "".join(class_source(one) for one in variants)
    first, last = variants[0].source.number, variants[-1].source.number
    return {
        "title": f"Exercises {first}" + (f" to {last}" if last != first else ""),
        "id": hashlib.sha256(text.encode()).hexdigest()[:12],
        "version": minimtnlg.__version__,
        "url": pages.repository(root),
        "exercises": [one.source for one in variants],
        "public": [one.source for one in variants if one.public],
    }


def _table(variants):
    """draws.csv: exercise, name, value."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("exercise", "name", "value"))
    for one in variants:
        for name, value in one.draws.items():
            text = value if isinstance(value, str) else json.dumps(value)
            writer.writerow((one.source.name, name, text))
    return file.getvalue()


def _oral(variants):
    """oral.md: two questions for each exercise, which a copied solution does not answer."""
    parts = ["# Questions to ask, with answers\n\nFor the teacher only."]
    for one in variants:
        questions = [cell.source for cell in one.cells("oral")]
        parts += [f"## {one.source.number} {one.source.title}", *questions] if questions else []
    return "\n\n".join(parts) + "\n"


def _write(path, content):
    """Write a text or a notebook."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, str):
        nbformat.validate(content)
        content = nbformat.writes(content, version=4) + "\n"
    path.write_text(content, encoding="utf-8", newline="\n")


TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("minimtnlg"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)
TEMPLATES.filters |= {"json": json.dumps, "sh": shlex.quote}  # a TOML string is JSON's
