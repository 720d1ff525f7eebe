"""What the long runs found: results/*.json, from which pages and README's table are written.

Each file names the machine, the day, how long it took, and a hash of the code that it depends on:
`make report` refuses results of other code. Comments, docstrings and the form of the code are no
part of it. The files are committed; `make equivalence | parity | mutants | dryrun | drills |
graders | slurm | times` write them anew, when everything has passed.
"""

import ast
import datetime
import hashlib
import json
import os
import platform
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
DOCUMENTED = ast.Module, ast.ClassDef, ast.FunctionDef


def fingerprint(*paths):
    """A hash of the code in these files and folders, relative to the root."""
    total = hashlib.sha256()
    for file in sorted({file for path in paths for file in _files(ROOT / path)}):
        content = file.read_text(encoding="utf-8")
        if file.suffix == ".py":
            content = _code(content)
        total.update(f"{file.relative_to(ROOT).as_posix()}\0{content}\0".encode())
    return total.hexdigest()


class Clock:
    """Started with a long run: remembers the code that runs, which may be changed meanwhile."""

    def __init__(self, *paths):
        self.sources, self.start = fingerprint(*paths), time.perf_counter()

    def write(self, name, **found):
        """Keep results/NAME.json: about the run, then what was found, a row a line."""
        about = {
            "sources": self.sources,
            "date": datetime.date.today().isoformat(),
            "seconds": round(time.perf_counter() - self.start),
            "torch": torch.__version__,
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        }
        lines = [f" {json.dumps(key)}: {_rows(value)}" for key, value in (about | found).items()]
        RESULTS.mkdir(exist_ok=True)
        text = "{\n" + ",\n".join(lines) + "\n}\n"
        (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")


def read(name, *paths):
    """What results/NAME.json holds; ValueError where it is missing or of other code in `paths`."""
    file = RESULTS / f"{name}.json"
    if not file.exists():
        raise ValueError(f"results/{name}.json is missing: run {command(name)}")
    found = json.loads(file.read_text(encoding="utf-8"))
    if found["sources"] != fingerprint(*paths):
        raise ValueError(f"results/{name}.json is of other code: run {command(name)}")
    return found


def command(name):
    """What writes results/NAME.json."""
    return f"make {'times' if name in ('course', 'tests') else name}"


# What pytest --record NAME depends on.
RECORDED = {
    "tests": ["minimtnlg", "tests"],
    "graders": ["minimtnlg/course", "minimtnlg/cli_grade.py", "exercises/src", "tests/course"],
    "slurm": ["minimtnlg/launch.py", "minimtnlg/templates", "tests/slurm", "tests/test_launch.py"],
}


def _rows(value):
    if not isinstance(value, list):
        return json.dumps(value)
    return "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in value) + "\n ]"


def _files(path):
    """The files below a folder, or the file itself."""
    if path.is_file():
        return [path]
    return [x for x in path.rglob("*") if x.is_file() and "__pycache__" not in x.parts]


def _code(text):
    """The code of a Python file without comments, docstrings and layout."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body.pop(0)
    return ast.dump(tree)
