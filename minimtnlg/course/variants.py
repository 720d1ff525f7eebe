"""An exercise as one class gets it: what is drawn, and the two sources that hold it.

The class's source has numbers in place of draws, and neither solution, hidden checks, wrong answers
nor oral questions. The private one is whole; one value is left to each draw.
"""

import ast
import hashlib
import itertools
import json
from dataclasses import dataclass

import jupytext
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from minimtnlg.course import drawn, exercises
from minimtnlg.course.sources import tags
from minimtnlg.errors import InputError

SHOWN = {"stub", "hint", "check", "picture"}  # and what has no tag; all other cells are private


@dataclass(frozen=True)
class Variant:
    """An exercise with the values of one class."""

    source: object  # ExerciseSource, the public one
    draws: dict  # name -> the value drawn
    values: dict  # these and the targets computed from them
    exercise: object  # Exercise, loaded with these values

    @property
    def public(self):
        """Whether the class gets what everybody can read, solution and all."""
        return all(self.source.draws[name][0] == value for name, value in self.draws.items())

    def cells(self, *wanted):
        """Copies of the cells with one of these tags (None: without any), names filled in."""
        return [self._filled(c) for c in self.source.cells if (tags(c) or [None])[0] in wanted]

    def code(self, *wanted):
        """The code of these cells as one text."""
        cells = [cell for cell in self.cells(*wanted) if cell.cell_type == "code"]
        return "\n\n\n".join(cell.source for cell in cells)

    def _filled(self, cell):
        make = new_code_cell if cell.cell_type == "code" else new_markdown_cell
        metadata = {"tags": tags(cell)} if tags(cell) else {}
        return make(drawn.fill(cell.source, self.values), metadata=metadata)


def variant(source, seed):
    """The Variant of an exercise for the class of this seed."""
    draws = draw(source, seed)
    exercise = exercises.load(source.path, draws=draws)
    return Variant(source, draws, drawn.values(source, draws), exercise)


def draw(source, seed):
    """name -> value for the class of this seed, a whole number.

    A hash decides and no library's generator: it is the same everywhere and for ever, whatever else
    is drawn. Of more than two combinations, the public one is never drawn as a whole.
    """
    combinations = list(itertools.product(*source.draws.values()))
    if len(combinations) > 2:
        del combinations[0]
    digest = hashlib.sha256(f"{seed} {source.name}".encode()).digest()
    chosen = combinations[int.from_bytes(digest) % len(combinations)]
    return dict(zip(source.draws, chosen, strict=True))


def class_source(variant):
    """Text of the source that students get; InputError if it needs what they must not read.

    InputError too for a value that can't be written down in it.
    """
    cells = variant.cells(None, *SHOWN)
    given = _numbers(variant, variant.code(None, "stub"))
    asked = _numbers(variant, variant.code("check", "picture"))
    if asked := {name: value for name, value in asked.items() if name not in given}:
        first = next(cell for cell in cells if "check" in tags(cell))
        first.source = f"{assignments(asked)}\n\n{first.source}"
    if given:
        cells.insert(1, new_code_cell(assignments(given)))
    notebook = new_notebook(cells=cells)
    notebook.metadata["jupytext"] = {"notebook_metadata_filter": "-all"}
    return _front(variant.source, {}) + jupytext.writes(notebook, fmt="py:percent")


def private_source(variant):
    """Text of the whole source, with the class's value as the only one of each draw."""
    text = variant.source.path.read_text(encoding="utf-8")
    _, _, rest = text.split("# ---\n", 2)
    return _front(variant.source, variant.draws) + rest


def assignments(numbers):
    """`NAME = value`, one a line."""
    return "\n".join(f"{name} = {value!r}" for name, value in numbers.items())


def secrets(variant):
    """Texts of which none may stand in what students get: each tells an answer or a hidden check.

    What stub, hints and visible checks say of the solution is no secret.
    """
    code = variant.exercise.solution_code
    functions = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef)]
    parts = [ast.get_source_segment(code, part) for f in functions for part in (f, f.body[-1])]
    shown = "\n".join(cell.source for cell in variant.cells(None, *SHOWN))
    hidden = [check.name for check in variant.exercise.checks if check.hidden]
    return [
        *(f"def {name}(" for name in [*hidden, *variant.exercise.wrong]),
        *(part for part in parts if part not in shown),
        *variant.source.draws.get("BUG", []),
    ]


def _front(source, draws):
    """A front matter. JSON is YAML as well."""
    lines = [f"mark: {source.mark}", f"minutes: {source.minutes}", f"help: {source.help}"]
    lines.append(f"needs: {_json(source.needs)}")
    if draws:
        lines += ["draws:", *(f"  {name}: {_json([value])}" for name, value in draws.items())]
    return "# ---\n" + "".join(f"# {line}\n" for line in lines) + "# ---\n\n"


def _json(value):
    return json.dumps(value, ensure_ascii=False)


def _numbers(variant, code):
    """The drawn names and targets that `code` uses, with values that can be written down."""
    path, known = variant.source.path, variant.values
    used = {name: x for name, x in known.items() if drawn.assignments(code, {name: x})}
    if "BUG" in used:
        raise InputError(f"{path}: students would read what BUG is; let a target name hide it")
    for name, value in used.items():
        try:
            plain = ast.literal_eval(repr(value)) == value
        except (ValueError, SyntaxError):
            plain = False
        if not plain:
            raise InputError(f"{path}: {name} is {value!r:.60}; only plain values can be given")
    return used
