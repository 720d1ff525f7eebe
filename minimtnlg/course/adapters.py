"""Answers in a package of the reader's own: named in adapters.py, found by check and grade.

    ANSWERS = {"ring_all_reduce": "my_package.rings:all_reduce", "top_p": None}

None stands for what is not written yet.
"""

import importlib
import os
import sys

from minimtnlg.course.check import check
from minimtnlg.errors import InputError


def resolve(name, answer):
    """The function or class that `answer` is or names as "package.module:function".

    name  the exercise, for the words of an InputError if there is no such thing
    """
    if not isinstance(answer, str):
        return answer
    module, colon, attribute = answer.partition(":")
    if not (module and colon and attribute):
        raise InputError(f'{name}: {answer!r}: write "package.module:function"')
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # their module is there, and what it imports is not
        where = f"in {os.getcwd()} or installed"
        raise InputError(f"{name}: there is no module {error.name!r} {where}") from None
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise InputError(f"{name}: {module} has no {attribute!r}")
        found = getattr(found, part)
    return found


def check_all(answers, names=()):
    """Check the answers called `names`, or all that are written; print what `check` prints.

    A name that leads nowhere ends the program with one line.
    """
    sys.path.insert(0, os.getcwd())  # a script has its own folder there
    for name in names or [name for name, answer in answers.items() if answer is not None]:
        if answers.get(name) is None:
            sys.exit(f"{name}: nothing stands for it in ANSWERS")
        try:
            check(name, resolve(name, answers[name]))
        except InputError as mistake:
            sys.exit(str(mistake))
        print()
