"""An exercise brought to life from its source: stub, solution, checks and wrong answers.

Each part runs in its own copy of what is given, so that a solution never stands in for the
student's function, and a check sees neither.
"""

import ast
import inspect
import linecache
from dataclasses import dataclass, replace
from pathlib import Path

from minimtnlg.course import drawn, feedback
from minimtnlg.course.sources import ExerciseSource, exercise_sources, home, read_exercise, tags
from minimtnlg.errors import InputError


@dataclass(frozen=True)
class Check:
    """One property that an answer must have. `run(answer)` raises Feedback if it has not."""

    name: str
    title: str
    run: object
    hidden: bool


@dataclass(frozen=True)
class Outcome:
    """How one check went. `kind` is passed, failed, error, unusable or stub; `text` the words."""

    check: Check
    kind: str
    text: str = ""


@dataclass(frozen=True)
class Exercise:
    """A loaded exercise. `target` is the name that the student defines."""

    source: object  # ExerciseSource
    target: str
    stub: object
    stub_code: str
    solution: object  # None in a class's copy, which holds none
    solution_code: str
    checks: list  # of Check, the visible ones first
    wrong: dict  # name -> (object, name of the check that must catch it)
    hints: list  # of text, from a nudge to nearly all
    picture: object = None  # function of the answer -> (figure, alt), or None

    def grade(self, answer, hidden=True, stop=False):
        """Outcomes of the checks on `answer`, in order.

        A hidden check runs only if all before it have passed, and only if `hidden`. `stop` ends at
        the first check that does not pass.
        """
        outcomes = []
        for check in self.checks:
            if check.hidden and (not hidden or any(o.kind != "passed" for o in outcomes)):
                break
            outcomes.append(self.try_check(check, answer))
            if stop and outcomes[-1].kind != "passed":
                break
        return outcomes

    def try_check(self, check, answer):
        """The Outcome of one check; whatever the student's code does is put into words."""
        try:
            check.run(answer)
        except feedback.Feedback as found:
            return Outcome(check, "failed", str(found))
        except NotImplementedError as missing:
            return Outcome(check, "stub", f"not written yet: {missing}")
        except (Exception, SystemExit) as error:
            text, theirs = feedback.explain(error, files_of(answer))
            if theirs or type(error).__name__ == "RankError":
                return Outcome(check, "error", text)
            return Outcome(check, "unusable", f"the check could not use what it was given: {text}")
        return Outcome(check, "passed")


def find(name, root=None):
    """The source of exercise `name` ("agreeing" or "03_agreeing"); InputError if there is none.

    root  of a course; else that of the class whose folder this is, else the public one
    """
    known = exercise_sources(root or home())
    for source in known:
        if name in (source.name, source.stem):
            return source
    names = ", ".join(source.name for source in known) or "none: this copy has no exercises/src"
    raise InputError(f"no exercise {name!r}; there are {names}")


def questions(source):
    """An exercise's source without what answers it.

    Solution, wrong answers, hints, picture and oral part are left out.
    """
    asking = {"target", "stub", "check", "hidden"}
    return replace(source, cells=[c for c in source.cells if set(tags(c)) <= asking])


def asked(source):
    """(name of what the student defines, [(name, title, hidden) of each check]); runs no check."""
    values = drawn.values(source)
    stub = drawn.fill(_code(source.tagged("stub")), values)
    checks = []
    for tag in ("check", "hidden"):
        for node in ast.parse(drawn.fill(_code(source.tagged(tag)), values)).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                checks.append((node.name, ast.get_docstring(node) or node.name, tag == "hidden"))
    return (_names(stub) or [""])[-1], checks


def load(name, root=None, draws=None, answers=True):
    """The exercise `name`, or the one in the file `name` if it is a Path, or that of this source.

    root     of a course, as in `find`
    draws    name -> value, instead of the public ones (`drawn.py`)
    answers  False leaves solution and wrong answers out, so that nobody finds them in memory
    """
    if isinstance(name, ExerciseSource):
        source, text = name, ""  # its file may be hidden from who loads it
    else:
        source = read_exercise(name) if isinstance(name, Path) else find(name, root)
        text = source.path.read_text(encoding="utf-8")
    values = drawn.values(source, draws)
    given = {"__name__": f"exercise_{source.stem}", "__file__": str(source.path), **values}

    def execute(cells, scope):
        return _execute(source, text, cells, scope, values)

    def code(tag):
        return drawn.fill(_code(source.tagged(tag)), values)

    execute([c for c in source.cells if not tags(c)], given)  # untagged code: what is given
    stub = execute(source.tagged("stub"), dict(given))
    solution = execute(source.tagged("solution") if answers else [], dict(given))
    wrong = execute(source.tagged("wrong") if answers else [], dict(solution))
    # Hidden checks may use the visible ones' imports and helpers, and the picture too.
    asking = [c for c in source.cells if {"check", "hidden", "picture"} & set(tags(c))]
    scope = execute(asking, dict(given))
    checks = [
        Check(name, inspect.getdoc(scope[name]) or name, scope[name], tag == "hidden")
        for tag in ("check", "hidden")
        for name in _defined(source.tagged(tag))
    ]
    target = (_names(code("stub")) or [""])[-1]
    solved = answers and bool(source.tagged("solution"))
    if target not in stub or (solved and target not in solution):
        raise InputError(f"{source.path}: stub and solution must define the same name")
    mistakes = _defined(source.tagged("wrong")) if answers else []
    return Exercise(
        source=source,
        target=target,
        stub=stub[target],
        stub_code=code("stub"),
        solution=solution[target] if solved else None,
        solution_code=code("solution") if solved else "",
        checks=checks,
        wrong={name: (wrong[name], _caught_by(source, wrong[name])) for name in mistakes},
        hints=[drawn.fill(cell.source, values) for cell in source.tagged("hint")],
        picture=next((scope[n] for n in _defined(source.tagged("picture"))), None),
    )


def _execute(source, text, cells, scope, values):
    """Run code cells in `scope` under their true file name and lines; return `scope`."""
    position = 0
    for cell in cells:
        if cell.cell_type != "code":
            continue
        code, name = drawn.fill(cell.source, values), str(source.path)
        if code == cell.source:
            position = text.find(code, position)
            code = "\n" * text.count("\n", 0, max(position, 0)) + code
        else:  # lines that no file has
            name = f"<{source.stem}, {'/'.join(tags(cell))}>"
            linecache.cache[name] = len(code), None, code.splitlines(keepends=True), name
        exec(compile(code, name, "exec"), scope)
    return scope


def _code(cells):
    return "\n\n\n".join(cell.source for cell in cells)


def _defined(cells):
    """Names of the functions and classes that these cells define, without `_helpers`."""
    return _names(_code(cells))


def _names(code):
    kinds = (ast.FunctionDef, ast.ClassDef)
    nodes = ast.parse(code).body
    return [n.name for n in nodes if isinstance(n, kinds) and not n.name.startswith("_")]


def _caught_by(source, wrong):
    doc = inspect.getdoc(wrong) or ""
    if not doc.startswith("Caught by: "):
        name = wrong.__name__
        raise InputError(f"{source.path}: begin the docstring of {name} with 'Caught by: check. '")
    return doc.removeprefix("Caught by: ").split(".")[0].strip()


def files_of(answer):
    """File names of the code of a function or class."""
    functions = [answer, *vars(answer).values()] if inspect.isclass(answer) else [answer]
    codes = [getattr(inspect.unwrap(f), "__code__", None) for f in functions if callable(f)]
    return {code.co_filename for code in codes if code}


def code_of(answer):
    """Source text of a function or class, also of one defined in a notebook; "" if unknown."""
    try:
        return inspect.getsource(answer)
    except (OSError, TypeError):
        pass
    for file in files_of(answer):  # a class in a cell: inspect looks for a module's file
        text = "".join(linecache.getlines(file))
        for node in ast.parse(text).body if text else []:
            if getattr(node, "name", None) == getattr(answer, "__name__", ""):
                return ast.get_source_segment(text, node)
    return ""


def is_attempt(code, stub_code):
    """Whether `code` says more than the stub: other statements, and more than an empty body."""
    try:
        mine, theirs = _skeleton(code), _skeleton(stub_code)
    except SyntaxError:
        return False
    return bool(mine) and mine != theirs and not theirs.startswith(mine)


def _skeleton(code):
    """Code without docstrings, comments and statements that do nothing."""
    tree = ast.parse(inspect.cleandoc("\n" + code))
    for node in ast.walk(tree):
        if isinstance(getattr(node, "body", None), list):
            node.body = [s for s in node.body if not _idle(s)]
    bodies = [n.body for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    return "".join(ast.dump(statement) for body in bodies for statement in body)


def _idle(statement):
    if isinstance(statement, ast.Expr | ast.Return):  # a docstring, `...`, `return None`
        return statement.value is None or isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.Pass)
