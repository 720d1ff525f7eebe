"""Each public name of the package says what it is, in the words of its own signature."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "minimtnlg"
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
NAMES = r"([a-z_]\w*(?:, [a-z_]\w*)*)"
# "names: what they are" where a sentence begins, or names in a column of their own.
DESCRIBED = re.compile(rf"(?:(?<=\n\n)|(?<=\.\n)){NAMES}: |^{NAMES}  +\S", re.MULTILINE)


def public(node, outer=""):
    """(dotted name, node) of the public functions, classes and methods in a module or class."""
    for child in node.body:
        if isinstance(child, FUNCTIONS | ast.ClassDef) and not child.name.startswith("_"):
            yield f"{outer}{child.name}", child
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{outer}{child.name}.")


TREES = {
    path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
}
NAMED = [(file, name, node) for file, tree in TREES.items() for name, node in public(tree)]
METHODS = {name: node for _, name, node in NAMED if "." in name}
BASES = {
    name: [base.id for base in node.bases if isinstance(base, ast.Name)]
    for _, name, node in NAMED
    if isinstance(node, ast.ClassDef)
}


def is_inherited(name):
    """Whether a method's docstring is that of a class which its own class builds on."""
    cls, _, method = name.rpartition(".")
    above = [f"{base}.{method}" for base in BASES.get(cls, ())]
    return any(n in METHODS and (ast.get_docstring(METHODS[n]) or is_inherited(n)) for n in above)


def is_trivial(name, node):
    """Whether a name needs no words: a single line, or what the class above explains."""
    if isinstance(node, ast.ClassDef):
        return False
    one_line = len(node.body) == 1 and node.body[0].lineno == node.body[0].end_lineno
    return one_line or is_inherited(name)


def undocumented(file, name, node):
    """A complaint about a public name without a docstring, or ""."""
    if ast.get_docstring(node) or is_trivial(name, node):
        return ""
    return f"{file}: {name} has no docstring"


def unknown_names(file, name, node):
    """A complaint about words that describe what is neither an argument nor in the code, or ""."""
    known = {"returns"}
    for part in ast.walk(node):
        known |= {getattr(part, key, None) for key in ("id", "attr", "arg", "name")}
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and " " not in part.value:
            known.add(part.value)
    groups = DESCRIBED.findall(ast.get_docstring(node) or "")
    said = {word for group in groups for word in "".join(group).split(", ")}
    if strange := sorted(said - known):
        return f"{file}: the docstring of {name} describes {', '.join(strange)}: not in its code"
    return ""


@pytest.mark.parametrize("look", [undocumented, unknown_names])
def test_public_names_say_what_they_are(look):
    complaints = [words for named in NAMED if (words := look(*named))]
    assert not complaints, "\n".join(["", *complaints])


def test_modules_say_what_they_are():
    assert [file for file, tree in TREES.items() if tree.body and not ast.get_docstring(tree)] == []


@pytest.mark.parametrize(
    "code, look, words",
    [
        ("def f(x):\n    y = x\n    return y", undocumented, "f has no docstring"),
        ("class C:\n    pass", undocumented, "C has no docstring"),
        ('class C:\n    "A"\n    def g(self):\n        a = 1\n        b = a', undocumented, "C.g"),
        ('def f(x):\n    """A.\n\n    y: old name.\n    """', unknown_names, "describes y"),
        ('def f(x):\n    """A.\n\n    x, z   old name\n    """', unknown_names, "describes z"),
    ],
)
def test_what_is_missing_is_found(code, look, words):
    assert words in "".join(look("file.py", *named) for named in public(ast.parse(code)))
