"""Ranks in a sandbox: `minimtnlg.run` forks them from a process that is a fork of the worker.

Elsewhere `ranks.py` starts a server that loads torch, which takes seconds; here it is loaded.
"""

import contextlib
import os
import sys
import time

from minimtnlg import _rank, ranks
from minimtnlg.course import integrity


def start(exercise, modules, known, enclosed):
    """Give `minimtnlg.run` a server that is a fork of this process, before any answer runs.

    It has torch loaded already, and its ranks refuse what the worker refuses. Returns the picture
    of what the checks rely on (`integrity.picture`), which the ranks look at as well.

    exercise         the Exercise whose checks will run
    modules          names of the modules that its code imports
    known, enclosed  as in `integrity.refuse`
    """
    work = _rank.work

    def only():
        if not ranks._idle:
            raise ranks.RankError("the process that starts ranks has ended, or is busy")
        return ranks._idle.pop()

    def watched(*arguments):
        ours = _set_aside()
        value = work(*arguments)
        changed = ""
        if ours:
            changed = integrity.changed_copy()
            sys.modules.update(ours)
            del sys.path[0]
        if changed := changed or picture():
            raise RuntimeError(f"your code replaces {changed}")
        return value

    # Both before the picture, which is to show them as they are from now on.
    ranks._server, _rank.work = only, watched
    checks = [check.run for check in exercise.checks]
    picture = integrity.picture(checks, modules)
    ranks._idle.append(_Forked(known, enclosed))
    return picture


def _set_aside():
    """Forget the package's modules if the check has put a copy of it first, as the labs do.

    The rank then imports the copy, as a rank does that has nothing loaded. Returns the modules.
    """
    if not integrity.another_package():
        return {}
    names = [name for name in sys.modules if name.partition(".")[0] == "minimtnlg"]
    return {name: sys.modules.pop(name) for name in names}


class _Forked:
    """A server of ranks, as far as `ranks.py` knows one: stdin, stdout, poll, kill, wait."""

    def __init__(self, known, enclosed):
        orders, self.stdin = os.pipe()
        self.stdout, answers = os.pipe()
        caller, self.code = os.getpid(), None
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._serve(orders, answers, caller, known, enclosed)
            finally:
                os._exit(1)
        os.close(orders)
        os.close(answers)
        self.stdin = open(self.stdin, "wb", buffering=0)
        self.stdout = open(self.stdout, "rb", buffering=0)
        self.stdout.readline()

    def _serve(self, orders, answers, caller, known, enclosed):
        os.setsid()
        os.dup2(orders, 0)
        os.dup2(answers, 1)
        os.closerange(3, 256)
        sys.stdin = open(0, closefd=False)
        integrity.refuse(known, enclosed)
        _rank.serve(caller)

    def poll(self):
        if self.code is None:
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def kill(self):
        if self.poll() is None:
            os.kill(self.pid, 9)

    def wait(self):
        while self.poll() is None:
            time.sleep(0.01)
