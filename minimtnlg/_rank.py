"""The other side of ranks.py: the server that forks ranks, and what a rank does from birth to end.

This file is run as a script, by its path, and imports nothing of minimtnlg: so the server holds no
module of the package or of the user, each rank imports them as they are on disk at that moment,
and neither a notebook nor a script is ever imported again as `__main__`.

A job is a folder, and all that the processes have to say to each other are files in it, each
written aside and renamed, so that none is ever seen half-written:

    call             the function, its arguments and the caller's surroundings, for all ranks
    store            the rendezvous of the process group
    3.out, 3.err     what rank 3 has printed
    3.ready          rank 3 has loaded what it needs (only where ranks are spawned)
    3.value          its function has returned this
    3.error          or has raised this
    3.exit           the process has ended: its exit code, or minus the signal
    3.stopped        a signal has suspended it
    where            the caller asks where the ranks are; 3.where is the answer of rank 3,
    3.dump           and this the answer when its interpreter is stuck and cannot give one
"""

import contextlib
import faulthandler
import gc
import importlib
import io
import json
import linecache
import os
import pickle
import select
import shutil
import signal
import sys
import threading
import time
import traceback
import types
from datetime import timedelta

HERE = os.path.dirname(os.path.abspath(__file__))
LAUNCHER = [os.path.join(HERE, name) for name in ("ranks.py", "_job.py", "_rank.py")]
STDLIB = os.path.dirname(os.__file__)
LONGEST = 1e8  # seconds; three years, and still a number that every clock below takes
# What the package imports of others: else each rank of each job would load it again.
LOADED = (
    "cloudpickle", "filelock", "numpy", "pydantic.dataclasses", "pydantic.types", "ruamel.yaml",
    "safetensors.torch", "torch.distributed",
)  # fmt: skip
JOB = "MINIMTNLG_JOB"  # variable of the environment of a rank: the job's folder


def write(folder, name, data):
    """Writes bytes to a file of the job's folder; it appears whole or not at all."""
    path = os.path.join(folder, name)
    with open(path + ".part", "wb") as file:
        file.write(data)
    os.replace(path + ".part", path)


# The server: one process with torch loaded that forks the ranks of one job at a time.


def preload():
    """Load what every fork would load again, and compute nothing: a thread pool can't be forked."""
    for name in LOADED:
        importlib.import_module(name)
    import torch

    torch.optim.SGD([torch.zeros(1)], lr=1)  # the first optimizer loads a second half of torch
    gc.collect()
    gc.freeze()  # else the first collection in a fork would copy all pages that forks share


def serve(caller):
    """Forks ranks on request until the caller closes the pipe or is gone. Never returns."""
    replies = os.dup(1)
    os.dup2(2, 1)  # what a library prints while it loads must not be taken for a reply
    preload()
    os.write(replies, b"ready\n")
    folder, ranks = "", {}
    try:
        while os.getppid() == caller:
            if select.select([0], [], [], 0.02 if ranks else 1)[0]:
                line = sys.stdin.buffer.readline()
                if not line:
                    break
                reply = "done"
                if order := json.loads(line):
                    folder, world = order
                    reply = fork(folder, world, ranks, replies)
                else:
                    end(ranks)
                os.write(replies, f"{reply}\n".encode())
            reap(folder, ranks)
    except OSError:
        pass  # the caller was gone before its answer came
    end(ranks)
    shutil.rmtree(folder, ignore_errors=True)  # nobody else is left to do it
    os._exit(0)


def fork(folder, world, ranks, replies):
    """Forks ranks 0 to world - 1 into `ranks` (rank -> process id). Returns "done" or a reason."""
    server = os.getpid()
    for rank in range(world):
        try:
            pid = os.fork()
        except OSError as error:
            end(ranks)
            return f"rank {rank} of {world} cannot be started: {error}"
        if pid == 0:
            try:
                os.setpgid(0, 0)
                os.close(replies)
                live(folder, rank, parent=server)
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        ranks[rank] = pid
        with contextlib.suppress(OSError):  # it may have ended already
            os.setpgid(pid, pid)  # here too: the group must exist before anybody kills it
    return "done"


def reap(folder, ranks):
    """Writes down which ranks have ended or been suspended since the last look."""
    for rank, pid in list(ranks.items()):
        pid, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if pid and os.WIFSTOPPED(status):
            write(folder, f"{rank}.stopped", b"")
        elif pid:
            kill(ranks.pop(rank))
            write(folder, f"{rank}.exit", b"%d" % os.waitstatus_to_exitcode(status))


def end(ranks):
    """Kills all ranks with their children and waits until they are gone."""
    for pid in ranks.values():
        kill(pid)
    while ranks:
        os.waitpid(ranks.popitem()[1], 0)


def kill(group):
    """Kills a rank and the children that it has started, which share its process group."""
    with contextlib.suppress(ProcessLookupError):  # all of them have ended already
        os.killpg(group, signal.SIGKILL)


# The rank.


def live(folder, rank, parent):
    """What a rank does: take the caller's surroundings, join the others, call the function, stay.

    It stays when its function has returned or raised, until the job is ended from outside: its
    connections stay open, so no other rank fails because this one was first.
    """
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout = redirect(1, os.path.join(folder, f"{rank}.out"))
    sys.stderr = redirect(2, os.path.join(folder, f"{rank}.err"))
    with open(os.path.join(folder, "call"), "rb") as file:
        call = pickle.load(file)
    dump = open(os.path.join(folder, f"{rank}.dump"), "w")
    faulthandler.enable()  # a crash in native code prints the line of Python that led to it
    limit = min(call["timeout"], LONGEST)
    faulthandler.dump_traceback_later(limit + 1, file=dump)  # needs no turn of the interpreter
    threading.Thread(target=watch, args=(folder, rank, parent, limit), daemon=True).start()
    try:
        settle(rank, call)
        os.environ[JOB] = folder
        write(folder, f"{rank}.value", work(folder, rank, call))
    except BaseException as error:
        write(folder, f"{rank}.error", pickle.dumps(account(error)))
    while True:
        time.sleep(3600)


def fail(error):
    """Ends the job with an error of this rank, from any thread of it."""
    told = pickle.dumps(account(error))
    write(os.environ[JOB], f"{os.environ['RANK']}.error", told)


def redirect(descriptor, path):
    """Sends a stream of this process and of its children to a file; returns it for Python.

    It has no buffer: a rank that is killed loses nothing, and its children write in between.
    """
    file = io.FileIO(path, "a")
    os.dup2(file.fileno(), descriptor)
    text = {"encoding": "utf-8", "errors": "backslashreplace", "newline": "\n"}
    return io.TextIOWrapper(file, **text, write_through=True)


def settle(rank, call):
    """Makes this process look like the caller's: its environment, paths, folder and cells."""
    import numpy
    import torch

    os.environ.clear()
    os.environ.update(call["env"])
    os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(rank)
    os.environ["WORLD_SIZE"] = os.environ["LOCAL_WORLD_SIZE"] = str(call["world"])
    if os.name == "posix":  # no name of this machine has to be looked up, on no network
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    os.chdir(call["cwd"])
    sys.path[:], sys.argv[:] = call["path"], call["argv"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    linecache.cache.update(call["cells"])
    torch.set_num_threads(1)
    torch.seed()  # forks of one server would all draw the same numbers; as any two
    numpy.random.seed()  # processes do, ranks differ until the function seeds them


def work(folder, rank, call):
    """Joins the process group, calls the function and returns its value as bytes."""
    import cloudpickle
    import torch.distributed as dist

    from minimtnlg.device import backend, select

    select()
    fn, args, kwargs = cloudpickle.loads(call["call"])
    limit = min(call["timeout"], LONGEST)
    dist.init_process_group(
        backend(cpu=True),
        store=dist.FileStore(os.path.join(folder, "store"), call["world"]),
        rank=rank,
        world_size=call["world"],
        timeout=timedelta(seconds=limit + 60),  # the caller's clock is the one that counts
    )
    value = fn(*args, **kwargs)
    try:
        return cloudpickle.dumps(value)
    except Exception as error:
        text = f"the {type(value).__name__} that it returned cannot be sent to the caller: {error}"
        raise TypeError(text) from None


def watch(folder, rank, parent, limit):
    """A thread of each rank. Says where the rank is when asked, ends it when nobody ever will."""
    main, last = threading.main_thread().ident, time.monotonic() + limit + 60
    while os.getppid() == parent and time.monotonic() < last:
        if os.path.exists(os.path.join(folder, "where")):
            frames = [frame for frame, _ in traceback.walk_stack(sys._current_frames()[main])]
            answer = place([(summary(frame), frame.f_locals) for frame in frames])
            write(folder, f"{rank}.where", pickle.dumps(answer))
            return
        time.sleep(0.2)
    if os.name == "posix":
        kill(os.getpgrp())
    os._exit(1)


# What a user wants to read of a stack: the own lines, and the call in which the last one waits.


def mine(filename):
    """True for a file or cell of the user or the package, False for libraries and this launcher."""
    if filename.startswith(HERE + os.sep):
        return filename not in LAUNCHER
    elsewhere = ("site-packages", "dist-packages", "<frozen ")
    return not filename.startswith(STDLIB) and not any(part in filename for part in elsewhere)


def summary(frame):
    """A frame as tracebacks describe it, with the part of the line that is being carried out."""
    code = frame.f_code
    _, end, start, stop = list(code.co_positions())[frame.f_lasti // 2]
    where = code.co_filename, frame.f_lineno, code.co_name
    return traceback.FrameSummary(*where, end_lineno=end, colno=start, end_colno=stop)


def place(stack):
    """A stack (summary, variables), innermost first -> (the call it is in or "", lines of text)."""
    call, distributed, lines = "", False, []
    for line, variables in stack:
        if mine(line.filename):
            if not call and not lines and line.lineno == line.end_lineno:  # a call of native code
                source = linecache.getline(line.filename, line.lineno).encode()
                text = source[line.colno : line.end_colno].decode()
                call = text if text.endswith(")") else ""
            lines.insert(0, line)
        elif lines or line.filename in LAUNCHER:
            continue
        elif line.name != "wrapper" and line.name[0] not in "_<":
            now = f"torch{os.sep}distributed" in line.filename
            if now or not distributed:  # the outermost call, but rather recv() than forward()
                call, distributed = f"{line.name}({peer(variables)})", now
    return call, "".join(traceback.format_list(lines))


def peer(variables):
    """The other rank that a call names, as "src=1"; "" when it names none."""
    for name in ("src", "dst", "group_src", "group_dst"):
        if isinstance(variables.get(name), int):
            return f"{name}={variables[name]}"
    return ""


def account(error):
    """An exception as the caller needs it: type, message, the user's part of the traceback."""
    told = traceback.TracebackException.from_exception(error)
    link, seen = told, set()
    while link and id(link) not in seen:  # the exception, then those that led to it
        seen.add(id(link))
        link.stack[:] = [line for line in link.stack if mine(line.filename)]
        link = link.__cause__ or link.__context__
    text = "".join(told.format())
    return {"type": type(error).__name__, "message": str(told), "text": text, "time": time.time()}


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(caller=int(sys.argv[2]))
    import torch.distributed  # noqa: F401

    write(sys.argv[2], f"{sys.argv[3]}.ready", b"")
    live(sys.argv[2], int(sys.argv[3]), parent=int(sys.argv[4]))
