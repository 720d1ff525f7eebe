"""The process in which a submission meets the checks: its code, the checks, and nothing else.

It is a fork of a server that was told neither solution nor wrong answers. In this order it

1. loads the exercise's given code and checks, and takes a picture of all that the checks rely on,
2. forks a process that starts ranks, and begins to refuse what no answer needs (`integrity.py`),
3. runs the submission: the code cells of a notebook in their order without their bare expressions
   (experiments, calls of `check` and `hint`, magics), or a module as it is,
4. runs the checks. Unless the first passes the others do not run, for then there are no points.

What it says, a dict each: {"missing": why there is no answer}, {"check": name, "kind": as in
`exercises.Outcome`, "text"}, {"replaced": what the code has replaced}, {"tried": what was refused}
and at the end {"done": True}. {"fault": text} means that the grader or the exercise is broken.
"""

import ast
import contextlib
import importlib
import json
import linecache
import os
import sys
import tempfile
import traceback
import types

import cloudpickle

from minimtnlg.course import adapters, submissions

LONGEST = 3000  # characters of what is said about one check


def get_ready():
    """Load what answers and checks need, before the first fork."""
    import minimtnlg.parallel.collectives  # noqa: F401
    from minimtnlg import _rank, ranks  # noqa: F401
    from minimtnlg.course import check, exercises, integrity, rank_server  # noqa: F401

    _rank.preload()


def load_modules(source):
    """Import whatever the exercise's code imports, now or in a check later; return the names.

    The server does it, once: then each fork has them, and no submission can be there first.
    """
    names = set()
    for cell in (cell for cell in source.cells if cell.cell_type == "code"):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    for name in sorted(names - set(sys.modules)):
        with contextlib.suppress(ImportError):  # the name of a function; or of what a check lacks
            importlib.import_module(name)
    return names & set(sys.modules)


def work(job, mouth, nonce, folder, enclosed):
    """Run one job and end the process.

    job  files: name -> bytes of the submission, main: which of them is run, exercise: its source
         without answers (`exercises.questions`), key: its name in the submission's ANSWERS, or
         "", secret: folders that nobody may open

    mouth, nonce  descriptor of the pipe to the keeper, and what each line into it begins with
    folder        where files can be written
    enclosed      whether it is in namespaces of its own
    """
    from minimtnlg.course import exercises, integrity, rank_server

    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)
    sys.stderr = open(2, "w", closefd=False)

    me = os.getpid()

    def tell(**said):
        if os.getpid() != me:  # a fork that the submission has made
            os._exit(1)
        os.write(mouth, f"{nonce}{said!a}\n".encode())  # not json: its encoder can be replaced

    try:
        here = _settle(folder, job["files"])
        exercise = exercises.load(job["exercise"], answers=False)
        known = integrity.trusted(exercise.source)
        picture = rank_server.start(exercise, load_modules(exercise.source), known, enclosed)
        tried = integrity.refuse(known, enclosed, job["secret"])
    except BaseException as error:  # none of the student's code has run
        lines = traceback.format_exception(error)
        tell(fault="".join(lines))
        os._exit(0)
    answer, trouble = _load(here, job["main"], job["key"], exercise.target)
    if changed := picture():
        tell(replaced=changed)
    elif trouble:
        tell(missing=trouble[:LONGEST])
    else:
        for check in exercise.checks:
            outcome = _outcome(exercise, check, answer)
            if changed := picture():
                tell(replaced=changed)
                break
            tell(check=check.name, kind=outcome.kind, text=outcome.text[:LONGEST])
            if check is exercise.checks[0] and outcome.kind != "passed":
                break
    for what in tried:
        tell(tried=what)
    tell(done=True)
    os._exit(0)


def _outcome(exercise, check, answer):
    from minimtnlg.course.exercises import Outcome

    try:
        return exercise.try_check(check, answer)
    except BaseException as error:  # a KeyboardInterrupt or another of their making
        return Outcome(check, "error", f"{type(error).__name__} was raised")


def _settle(folder, files):
    """Write the submission's files to a folder that is the current one; return it."""
    here = os.path.join(folder, "submission")
    for name, data in files.items():
        path = os.path.join(here, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
    os.chdir(here)
    os.environ |= {"HOME": here, "TMPDIR": folder, "MINIMTNLG_PROGRESS": f"{here}/progress.json"}
    tempfile.tempdir = None
    sys.path.append(here)  # behind all others, so that it hides none of them
    sys.argv[:] = [""]
    return here


def _load(here, main, key, target):
    """(the answer, "") or (None, why there is none), from the submission's main file."""
    path, troubles = os.path.join(here, main), []
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
        cells = list(_cells(text)) if main.endswith(".ipynb") else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return None, f"{main} is not a notebook, or not text in UTF-8: {error}"
    if cells is not None:
        scope = types.ModuleType("__main__")  # as in a notebook
        sys.modules["__main__"] = scope
        for name, code in cells:
            _execute(name, code, scope, troubles)
    else:
        name = os.path.basename(main)[:-3]
        scope = types.ModuleType(f"{name}_" if name in sys.modules else name)  # abc.py of abc
        scope.__file__ = path
        sys.modules[scope.__name__] = scope
        _execute(path, text, scope, troubles, whole=True)
    cloudpickle.register_pickle_by_value(scope)  # it is sent to ranks as it is here
    answer, name = vars(scope).get(target), target
    if key:
        answers = vars(scope).get("ANSWERS")
        answer = name = answers.get(key) if isinstance(answers, dict) else None
    if isinstance(answer, str):
        try:
            answer = adapters.resolve(key, answer)
        except BaseException as error:
            troubles.append(_said(error))
    if callable(answer):
        return answer, ""
    return None, "\n".join([f"there is no function or class {name}", *troubles])


def _cells(text):
    """(name, code) of the code cells of a notebook; what is no Python in them becomes `pass`."""
    number = 0
    for cell in json.loads(text)["cells"]:
        if cell.get("cell_type") != "code":
            continue
        number += 1
        yield f"<cell {number}>", submissions.python(cell.get("source", ""))


def _execute(name, code, scope, troubles, whole=False):
    """Run a cell, or a module if `whole`; what it raises is put into words in `troubles`."""
    linecache.cache[name] = len(code), None, code.splitlines(keepends=True), name
    try:
        tree = ast.parse(code, name)
        if not whole:
            tree.body = [node for node in tree.body if not isinstance(node, ast.Expr)]
        exec(compile(tree, name, "exec"), vars(scope))
    except BaseException as error:
        troubles.append(_said(error, name))


def _said(error, name=""):
    """An exception of the student's code in words."""
    from minimtnlg.course import feedback

    if isinstance(error, SyntaxError):
        where = os.path.basename(error.filename or name).strip("<>")
        line = f"line {error.lineno}: {(error.text or '').strip()}"
        return f"{where} is not Python: {error.msg}, {line}"
    try:
        return feedback.explain(error, {name})[0]
    except BaseException:  # one of their own that can't be shown
        return f"{type(error).__name__} was raised"
