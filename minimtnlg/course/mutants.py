"""Bugs of parallel training, each a small patch of one file, to be switched on and found.

    with mutant("f_without_all_reduce"):
        result = verify(configure("nano", ["parallel.tp=2"]))    # a large difference

In the block, ranks that `minimtnlg.run` starts import a patched copy of the package. This process
keeps the right one: what it computes by itself stays right, as the serial side of `verify` does.

bugs/*.toml list them, a table ["file".name] each, the file in the package, with

    belief         what somebody thinks who writes it
    before, after  the text that is replaced, which the file has exactly once, and what replaces it
    killed_by      the test that notices; `make mutants` shows that each of them does
"""

import contextlib
import difflib
import shutil
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

import minimtnlg
from minimtnlg.errors import InputError

PACKAGE = Path(minimtnlg.__file__).parent


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One bug; its fields are those of bugs/*.toml."""

    name: str
    file: str
    belief: str
    before: str
    after: str
    killed_by: str

    def source(self):
        """The whole text of the file with the bug in it."""
        text = (PACKAGE / self.file).read_text()
        if (times := text.count(self.before)) != 1:
            raise InputError(
                f"mutant {self.name}: {self.file} has its text {times} times, not once: the file "
                "has changed since, change minimtnlg/course/bugs too"
            )
        return text.replace(self.before, self.after)

    def diff(self):
        """The patch as text: what `diff -u` would print."""
        right = (PACKAGE / self.file).read_text().splitlines(keepends=True)
        wrong = self.source().splitlines(keepends=True)
        return "".join(difflib.unified_diff(right, wrong, self.file, f"{self.file}, {self.name}"))


def _load():
    tables = [tomllib.loads(path.read_text()) for path in sorted(PACKAGE.glob("course/bugs/*"))]
    return [
        Mutant(name=name, file=file, **fields)
        for table in tables
        for file, bugs in table.items()
        for name, fields in bugs.items()
    ]


MUTANTS = {bug.name: bug for bug in _load()}


def find(name):
    """The Mutant of this name; InputError names the nearest one where there is none."""
    if name not in MUTANTS:
        close = difflib.get_close_matches(str(name), MUTANTS, 1, 0.0)
        raise InputError(f"no mutant {name!r}; did you mean {close[0]!r}?")
    return MUTANTS[name]


@contextlib.contextmanager
def copied(file, text):
    """A folder with a copy of the package in which `file` has this text; gone after the block."""
    with tempfile.TemporaryDirectory(prefix="minimtnlg-mutant-") as folder:
        copy = Path(folder) / PACKAGE.name
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / file).write_text(text)
        yield Path(folder)


def patched(name):
    """A folder with a copy of the package that has the bug `name`; it is gone after the block."""
    bug = find(name)
    return copied(bug.file, bug.source())


@contextlib.contextmanager
def on_ranks(folder):
    """In the block, ranks that this process starts import the package of this folder."""
    sys.path.insert(0, str(folder))  # ranks take over this list; here, all is imported already
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextlib.contextmanager
def mutant(name):
    """In the block, ranks that this process starts run the package with the bug `name`.

    Gives the Mutant: its `belief`, and its `diff()`. InputError names the nearest one for a name
    that there is not. Of two blocks, one in the other, the inner one counts.
    """
    with patched(name) as folder, on_ranks(folder):
        yield find(name)
