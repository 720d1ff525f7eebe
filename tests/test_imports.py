"""The shape of the house: imports go down, cuda has one place, torch is not needed early."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "minimtnlg"

# From the ground up. Modules of one level do not know each other, unless they are one package.
LEVELS = [
    {"errors", "files"},
    {"presets", "rules", "sections"},
    {"config"},
    {"device"},
    {"_rank"},
    {"_job"},
    {"ranks"},
    {"parallel", "data"},
    {"model"},
    {"train"},
    {"plan", "evaluate"},
    {"engines"},
    {"course"},
    {"doctor", "launch"},
    {"cli_plan", "cli_dryrun", "cli_checkpoint", "cli_evaluate", "cli_grade", "cli_course"},
    {"cli"},
    {"__main__"},
]
FILES = sorted(PACKAGE.rglob("*.py"))


def part(path):
    """The part of the house that a file belongs to: "data" for minimtnlg/data/blend.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    """Names of the modules that a file imports anywhere, functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            if node.module == "minimtnlg":
                yield from (f"minimtnlg.{alias.name}" for alias in node.names)


def level(name):
    found = [i for i, names in enumerate(LEVELS) if name in names]
    assert found, f"minimtnlg.{name} has no level yet: give it one in LEVELS"
    return found[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path):
    if path.parent == PACKAGE and path.name == "__init__.py":
        return  # it offers names from below, loaded when they are asked for
    for module in imported(path):
        words = module.split(".")
        if words[0] != "minimtnlg" or len(words) == 1 or words[1] == part(path):
            continue
        if words[1] == "run":  # the name that the package offers itself
            words[1] = "ranks"
        assert level(words[1]) < level(part(path)), f"{path} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_names_stay_in_their_place(path):
    roots = {module.split(".")[0] for module in imported(path)}
    if part(path) != "engines":
        assert not roots & {"megatron", "deepspeed"}
    if level_of(path) < level("course"):
        assert not roots & {"matplotlib", "IPython", "jupytext", "papermill", "nbformat"}
    if part(path) not in ("device", "engines"):
        assert "cuda" not in path.read_text()


def level_of(path):
    return level(part(path)) if part(path) != "__init__" else 0


@pytest.mark.parametrize(
    "module, heavy",
    [
        ("minimtnlg", "torch"),
        ("minimtnlg.config", "torch"),
        ("minimtnlg.ranks", "torch"),
        ("minimtnlg.parallel.layout", "torch"),
        ("minimtnlg.course.check", "lark"),  # a parser for addresses, which takes a second
    ],
)
def test_what_takes_long_is_not_loaded_on_import(module, heavy):
    code = f"import sys, {module}; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
