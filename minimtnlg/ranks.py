"""Ranks: one function, run by several processes of this machine that can talk to each other.

    def program(scale):
        x = torch.ones(1) * dist.get_rank() * scale
        dist.all_reduce(x)
        return x.item()

    run(program, 4, 0.5)     # [3.0, 3.0, 3.0, 3.0]: what each of the four ranks returned

A *rank* is a process with a number, 0 to world_size - 1, and its own memory. All ranks run the same
program; what differs is the number, so what they do may differ (SPMD: single program, multiple
data). Nothing is shared. The variables that the function uses are copied into each rank, changes
stay there, and only what the function returns comes back.

- The function may come from a notebook cell, a test, a script without a main guard or `python -c`:
  it is sent by value. Modules are imported afresh in each rank, from disk as it is now.
- The first job starts a server that loads torch once (a few seconds). Later jobs are forks of it,
  tens of milliseconds each. It has never computed, so no fork inherits a broken thread pool.
- A rank has joined the process group (gloo on the loopback device; nccl as well, for the tensors of
  GPUs, where each rank has one of its own), has RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE
  set, computes with one thread, and draws its own random numbers until the function seeds it. It
  may start processes; they end with it.
- A rank that has returned waits for the others; then all are ended at once, without exit handlers.
- What ranks print appears in rank order when the job ends; what they write to stderr, at once.
- A rank that fails ends the job with one RankError that names the cause. A deadlock ends at the
  timeout with the line where each rank waits; so does an interrupt. No process outlives the job or
  the caller.

On Windows, which cannot fork, each rank of each job is a new Python that loads torch, which takes
seconds; and what a rank has started outlives it if others kill the rank. Tested on Linux only.
"""

import atexit
import importlib
import io
import json
import linecache
import operator
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import types

from minimtnlg import _rank
from minimtnlg._job import Job
from minimtnlg.errors import InputError

_FORK = os.name == "posix"
_idle = []  # servers that wait for the next job; two jobs at once (threads) use two
_SERVER_ENV = {f"{pool}_NUM_THREADS": "1" for pool in ("OMP", "MKL", "OPENBLAS")}  # forks safely
_SERVER_ENV["OBJC_DISABLE_INITIALIZE_FORK_SAFETY"] = "YES"  # else macOS ends forks that use more


class RankError(RuntimeError):
    """A job failed; the text says which rank and why, with the user's lines of its traceback.

    `rank` is the rank that failed first (None at a timeout), `type` the name of its exception
    ("ValueError"; "TimeoutError" at a timeout; "" when the process died), `message` the text of
    that exception, `traceback` the lines.
    """

    def __init__(self, text, rank=None, type="", message="", traceback=""):
        super().__init__(text)
        self.rank, self.type, self.message, self.traceback = rank, type, message, traceback


def run(fn, world_size, *args, timeout=120, **kwargs):
    """Calls fn(*args, **kwargs) on world_size ranks; returns their values, rank 0's first.

    fn          a function; its arguments, the variables that it uses and its value are copied
    world_size  the number of processes, at least 1; more than there are cores is slow but right
    timeout     seconds until a job that has not ended is a deadlock; math.inf for no limit

    Raises InputError for a world size below 1, a timeout that is not above 0 or a function that
    cannot be sent, and RankError when a rank fails or the timeout passes.
    """
    __tracebackhide__ = True  # Jupyter and pytest show the user's own lines
    world = _checked(fn, world_size, timeout)
    call = _packed(fn, args, kwargs, world, timeout)
    folder = tempfile.mkdtemp(prefix="minimtnlg-job-")
    try:
        job = Job(folder, world)
        _rank.write(folder, "call", call)
        ranks = (_Forked if _FORK else _Spawned)(job)
        try:
            failure = job.wait(ranks.alive, timeout)
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(job.where(job.waiting(), patience=0.7))
            raise
        finally:
            ranks.stop()
            job.show()
        if failure:
            raise RankError(**failure)
        try:
            return [job.load(rank, "value") for rank in range(world)]
        except Exception as error:
            raise RankError(f"what the ranks returned cannot be read here: {error!r}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _checked(fn, world_size, timeout):
    if not callable(fn):
        raise InputError(f"run: the first argument must be a function, not {fn!r}")
    try:
        world = 0 if isinstance(world_size, bool) else operator.index(world_size)
    except TypeError:
        world = 0
    if world < 1:
        raise InputError(f"run: world_size must be a whole number from 1 on, not {world_size!r}")
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
        raise InputError(f"run: timeout must be a number of seconds above 0, not {timeout!r}")
    return world


def _packed(fn, args, kwargs, world, timeout):
    """The file `call`, as bytes: the function, and what a rank takes over from this process."""
    import cloudpickle

    module = sys.modules.get(getattr(fn, "__module__", None))
    if module and not _importable(module.__name__):
        cloudpickle.register_pickle_by_value(module)
    try:
        call = _pickled((fn, args, kwargs))
    except Exception as error:
        name = getattr(fn, "__qualname__", repr(fn))
        raise InputError(
            f"run: {name} cannot be sent to the ranks: {error}; create what cannot be copied in it"
        ) from None
    cells = {  # what tracebacks quote and no file holds
        name: (entry[0], None, *entry[2:])
        for name, entry in linecache.cache.items()
        if len(entry) == 4 and not os.path.exists(name)
    }
    surroundings = {"env": dict(os.environ), "cwd": os.getcwd(), "cells": cells}
    surroundings |= {"path": list(sys.path), "argv": list(sys.argv)}
    return pickle.dumps(surroundings | {"call": call, "world": world, "timeout": timeout})


def _pickled(value):
    """`value` as bytes, functions and classes of a cell or script included."""
    import cloudpickle

    class Pickler(cloudpickle.Pickler):
        def reducer_override(self, obj):
            # A module of a kind of its own: torch.distributed.config, which is taken along wherever
            # a function uses torch.distributed and a variable of the name config.
            if isinstance(obj, types.ModuleType) and type(obj) is not types.ModuleType:
                return importlib.import_module, (obj.__name__,)
            return super().reducer_override(obj)

    buffer = io.BytesIO()
    Pickler(buffer).dump(value)
    return buffer.getvalue()


def _importable(name):
    """Whether a rank would find the module; one that was loaded from a path is sent by value."""
    top = name.partition(".")[0]
    finders = (finder for finder in sys.meta_path if hasattr(finder, "find_spec"))
    return name == "__main__" or any(finder.find_spec(top, None) for finder in finders)


class _Forked:
    """The ranks of one job, forked by a server that this process keeps for later jobs."""

    def __init__(self, job):
        self.server = _server()
        if (reply := self._ask([job.folder, job.world])) != "done":
            self.server.stdin.close()
            raise RankError(reply or "the process that starts the ranks was killed; run again")

    def alive(self):
        return self.server.poll() is None

    def stop(self):
        if self._ask([]):
            _idle.append(self.server)

    def _ask(self, order):
        try:
            self.server.stdin.write(json.dumps(order).encode() + b"\n")
            return self.server.stdout.readline().decode().strip()
        except BrokenPipeError:
            return ""
        except BaseException:  # a second interrupt: the server ends all by itself when this closes
            self.server.stdin.close()
            raise


def _server():
    """An idle server, or a new one that has loaded torch."""
    while _idle:
        if (server := _idle.pop()).poll() is None:
            return server
    server = subprocess.Popen(
        [sys.executable, "-P", _rank.__file__, "serve", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,  # the interrupt key is for the caller alone
        env=os.environ | _SERVER_ENV,
    )
    try:
        ready = server.stdout.readline()
    except BaseException:
        server.kill()
        raise
    if not ready:
        raise RankError("no rank can be started: the server that loads torch failed (see above)")
    return server


class _Spawned:
    """The ranks of one job, each a new Python; where processes cannot be forked."""

    def __init__(self, job):
        self.ranks, self.threads = [], []
        try:
            for rank in range(job.world):
                self._start(job.folder, rank)
            while len(job.having("ready", "exit")) < job.world:  # then the clock of the job starts
                time.sleep(0.05)
        except BaseException:
            self.stop()
            raise

    def _start(self, folder, rank):
        process = subprocess.Popen(
            [sys.executable, "-P", _rank.__file__, "rank", folder, str(rank), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

        def reap():
            _rank.write(folder, f"{rank}.exit", b"%d" % process.wait())

        self.ranks.append(process)
        self.threads.append(threading.Thread(target=reap))
        self.threads[-1].start()

    def alive(self):
        return True  # nothing stands between the caller and its ranks

    def stop(self):
        for process in self.ranks:
            if os.name == "posix":
                _rank.kill(process.pid)
            else:
                tree = ["taskkill", "/T", "/F", "/PID", str(process.pid)]
                subprocess.run(tree, capture_output=True)
        for thread in self.threads:
            thread.join()


@atexit.register
def _close():
    for server in _idle:
        server.kill()  # it has no ranks
        server.wait()


if _FORK:
    os.register_at_fork(after_in_child=_idle.clear)  # a server has one caller
