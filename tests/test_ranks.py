"""run(): what comes back, how each kind of failure ends, and that nothing is left behind."""

import asyncio
import importlib.util
import itertools
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from types import SimpleNamespace

import IPython
import psutil
import pytest
import torch
import torch.distributed as dist
from IPython.core.compilerop import CachingCompiler

from minimtnlg import _rank, ranks
from minimtnlg.errors import InputError
from minimtnlg.ranks import RankError, run

SLEEP = "86399.25"  # a child that a rank starts is found by this argument


def processes(*marks):
    """The ids of the processes, zombies apart, whose command line contains one of the marks."""
    found = set()
    for process in psutil.process_iter(["status", "cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(mark in line for mark in marks):
            found.add(process.pid)
    return found


def gone(*marks, but=()):
    """Whether all these processes end within a few seconds."""
    for _ in range(100):
        if not processes(*marks) - set(but):
            return True
        time.sleep(0.1)
    return False


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch, tmp_path_factory):
    """After each test: no rank, no child of a rank, no file; at most servers that wait."""
    folder = tmp_path_factory.mktemp("jobs")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    servers = [server.pid for server in ranks._idle]
    assert gone(f"_rank.py serve {os.getpid()}", "_rank.py rank", SLEEP, but=servers)
    assert not [path.name for path in folder.iterdir() if path.name.startswith("minimtnlg-job")]


def failure(fn, world, *args, **kwargs):
    with pytest.raises(RankError) as caught:
        run(fn, world, *args, **kwargs)
    return caught.value


def python(arguments, text, cwd):
    return subprocess.run(
        [sys.executable, *arguments], input=text, cwd=cwd, capture_output=True, text=True
    )


# What a rank is


def test_values_come_in_rank_order_from_ranks_that_talk(monkeypatch, tmp_path):
    monkeypatch.setenv("A_VARIABLE_OF_THE_CALLER", "seen")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, "a path of the caller"])
    torch.ones(1_000_000).sum()  # with more than one thread: a fork of this process could hang
    base = 100

    def program(step, *, sign):
        import numpy

        x = torch.ones(3) * dist.get_rank()
        dist.all_reduce(x)
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "A_VARIABLE_OF_THE_CALLER")
        facts = {
            "value": sign * (base + step * dist.get_rank()),
            "sum": x.tolist(),
            "backend": dist.get_backend(),
            "env": [os.environ[name] for name in names],
            "cwd": os.getcwd() == str(tmp_path),
            "path": sys.path[-1],
            "threads": torch.get_num_threads(),
            "daemon": multiprocessing.current_process().daemon,
            "stdin": sys.stdin.read(),
            "main": hasattr(sys.modules["__main__"], "__file__"),
        }
        torch.set_num_threads(2)
        torch.ones(1_000_000).sum()
        draws = (torch.rand(()).item(), numpy.random.rand())
        torch.manual_seed(7)
        return facts, draws, torch.rand(()).item()

    facts, draws, seeded = zip(*run(program, 4, 2, sign=-1), strict=True)
    assert [fact.pop("value") for fact in facts] == [-100, -102, -104, -106]
    for rank, fact in enumerate(facts):
        assert fact == {
            "sum": [6.0] * 3,
            "backend": "gloo",
            "env": [str(rank), "4", str(rank), "4", "seen"],
            "cwd": True,
            "path": "a path of the caller",
            "threads": 1,
            "daemon": False,
            "stdin": "",
            "main": False,
        }
    by_torch, by_numpy = zip(*draws, strict=True)
    assert len(set(by_torch)) == len(set(by_numpy)) == 4  # nobody seeded them
    assert len(set(seeded)) == 1



def test_a_variable_may_have_the_name_of_a_module_of_torch_distributed():
    config = 3  # torch.distributed.config is no plain module
    assert run(lambda: (dist.get_rank(), config), 2) == [(0, 3), (1, 3)]


def test_more_ranks_than_cores():
    def program():
        ones = torch.ones(1)
        dist.all_reduce(ones)
        return dist.get_rank(), ones.item()

    assert run(program, 8) == [(rank, 8.0) for rank in range(8)]


def test_large_values_and_classes_of_the_caller_come_back():
    class Result:
        def __init__(self, tensor):
            self.tensor = tensor

    def program():
        weight = torch.full((2, 13_000_000), 3.0 + dist.get_rank(), requires_grad=True)
        return Result(weight), (2 * weight[:, :3]).sum()

    for rank, (result, total) in enumerate(run(program, 2)):
        assert type(result) is Result
        assert result.tensor.shape == (2, 13_000_000) and result.tensor.requires_grad
        assert not result.tensor.is_shared()  # a handle would have died with the rank
        assert result.tensor[1, -1] == 3.0 + rank and total == 12 * (3.0 + rank)


def test_what_ranks_write_arrives_in_their_order(capfd):
    def program(fail):
        time.sleep(0.2 * (2 - dist.get_rank()))
        print("one", dist.get_rank(), "\u00fc")
        os.system(f"echo two {dist.get_rank()}")
        print("three", dist.get_rank(), end="")
        print("warning", dist.get_rank(), file=sys.stderr)
        if fail and dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def expected(*ranks):
        return [f"{word} {rank}" for rank in ranks for word in ("one", "two", "three")]

    run(program, 3, False)
    out, err = capfd.readouterr()
    assert out.replace(" \u00fc", "").splitlines() == expected(0, 1, 2)
    assert sorted(err.split()) == ["0", "1", "2", "warning", "warning", "warning"]
    failure(program, 3, True)
    out, err = capfd.readouterr()
    assert out.replace(" \u00fc", "").splitlines()[-6:] == expected(1, 2)
    assert "warning 1" in err


def test_no_rank_fails_because_another_returned_first():
    def program():
        x = torch.ones(4)
        if dist.get_rank() == 0:
            dist.send(x, 1)  # and leaves at once
        else:
            time.sleep(0.3)
            dist.recv(x, 0)
            return x.sum().item()

    assert run(program, 2) == [None, 4.0]


def test_modules_are_as_they_are_on_disk_now(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "edited_between_jobs.py"

    def program():
        import edited_between_jobs

        return edited_between_jobs.value, "minimtnlg.ranks" in sys.modules

    module.write_text("value = 1")
    assert run(program, 1) == [(1, False)]
    module.write_text("value = 22222")
    assert run(program, 1) == [(22222, False)]


def test_functions_of_a_module_that_ranks_cannot_import(monkeypatch, tmp_path):
    path = tmp_path / "submission_7.py"
    path.write_text("def helper():\n    return 5\n\ndef program(x):\n    return helper() * x\n")
    spec = importlib.util.spec_from_file_location("submission_7", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "submission_7", module)
    spec.loader.exec_module(module)
    assert run(module.program, 2, 3) == [15, 15]


SCRIPT = f"""
import os, subprocess, sys, tempfile
from minimtnlg import run
print(os.getpid())
tempfile.tempdir = sys.argv[1]
def program():
    return os.environ["RANK"]
print(run(program, 2))
def program():
    return "redefined"
print(run(program, 2), flush=True)
def program():
    subprocess.Popen(["sleep", "{SLEEP}"])
    os.kill(caller, 9)
    while True:
        pass
caller = os.getpid()
run(program, 2)
"""


def test_a_script_without_a_main_guard_and_the_death_of_the_caller(tmp_path):
    result = python(["-", tmp_path], SCRIPT, tmp_path)
    caller, *printed = result.stdout.splitlines()  # its one line would be repeated by an import
    assert printed == ["['0', '1']", "['redefined', 'redefined']"], result.stderr
    assert result.returncode == -signal.SIGKILL
    assert gone(SLEEP, f"_rank.py serve {caller}")
    for _ in range(100):  # the server of the dead caller clears up
        if not list(tmp_path.iterdir()):
            break
        time.sleep(0.1)
    assert not list(tmp_path.iterdir())


def test_a_cell_is_quoted_as_jupyter_names_it(monkeypatch):
    compiler = CachingCompiler()  # a cell has no file: the kernel keeps its lines and its number
    cell = "def program():\n    1 / 0\n"
    exec(compile(cell, compiler.cache(cell, 3), "exec"), kernel := {"__name__": "__main__"})
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(compile=compiler))
    assert "  Cell In[3], line 2, in program\n    1 / 0\n" in str(failure(kernel["program"], 2))


def test_jobs_from_threads_and_from_a_running_event_loop():
    def program(x):
        time.sleep(0.3)
        return x + dist.get_rank()

    async def both():
        inner = run(program, 2, 30)
        others = [asyncio.to_thread(run, program, 2, x) for x in (10, 20)]
        return [inner, *await asyncio.gather(*others)]

    assert asyncio.run(both()) == [[30, 31], [10, 11], [20, 21]]


def test_a_rank_may_run_ranks():
    def program():
        return os.getpid(), run(os.getenv, 2, "RANK")

    [(rank, values)] = run(program, 1)
    assert values == ["0", "1"]
    assert gone(f"_rank.py serve {rank}")


def test_a_fork_of_the_caller_does_not_share_its_server():
    run(os.getpid, 1)
    assert ranks._idle
    pid = os.fork()
    if pid == 0:
        os._exit(len(ranks._idle))
    assert os.waitpid(pid, 0)[1] == 0


# What is refused


@pytest.mark.parametrize("world", [0, -1, 1.5, "2", True, None])
def test_an_impossible_world_size(world):
    with pytest.raises(InputError, match="world_size must be a whole number"):
        run(print, world)


@pytest.mark.parametrize("timeout", [0, -1, math.nan, "5", None, True])
def test_an_impossible_timeout(timeout):
    with pytest.raises(InputError, match="timeout must be a number of seconds"):
        run(print, 1, timeout=timeout)


def test_what_cannot_be_sent():
    lock = threading.Lock()

    def program():
        return lock

    with pytest.raises(InputError, match="program cannot be sent.*lock.*create"):
        run(program, 2)
    with pytest.raises(InputError, match="must be a function, not 3"):
        run(3, 2)

    def generator():
        yield 1

    error = failure(generator, 2)
    assert "the generator that it returned cannot be sent to the caller" in str(error)


# How failures end


def test_an_error_names_the_rank_and_shows_the_users_lines():
    def helper(x):
        return torch.nn.functional.linear(x, torch.ones(2, 2))

    def program():
        dist.barrier()
        if dist.get_rank() == 2:
            try:
                {}["key"]
            except KeyError:
                helper(torch.ones(3))
        dist.barrier()

    error = failure(program, 4)
    assert (error.rank, error.type) == (2, "RuntimeError") and "shapes" in error.message
    assert str(error).startswith("rank 2 of 4 raised RuntimeError: ")
    files = [line.split('"')[1] for line in error.traceback.splitlines() if "File" in line]
    assert files == [__file__] * 3  # program; then program and helper
    assert "helper(torch.ones(3))" in error.traceback and "KeyError: 'key'" in error.traceback


def test_all_ranks_that_raise_are_named_and_input_errors_keep_their_type():
    def program():
        raise InputError("layers: 3 cannot be split")

    error = failure(program, 3)
    assert (error.type, error.message) == ("InputError", "layers: 3 cannot be split")
    assert "failed too)" in str(error)


@pytest.mark.parametrize(
    "how, text",
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "was killed by SIGKILL"),
        (lambda: os._exit(0), "ended before its function returned, with exit code 0"),
        (lambda: sys.exit(3), "left by sys.exit(3)"),
        (lambda: os.abort(), "was killed by SIGABRT"),
    ],
)
def test_a_rank_that_ends_is_the_cause_not_those_that_lose_it(how, text, capfd):
    def program():
        dist.barrier()
        if dist.get_rank() == 1:
            how()
        dist.all_reduce(torch.ones(1))

    error = failure(program, 4)
    assert str(error).startswith(f"rank 1 of 4 {text}") and "failed too" not in str(error)
    if "ABRT" in text:
        assert "in program" in capfd.readouterr().err  # a crash in native code has its line, too


def test_a_lost_connection_says_who_had_returned():
    def program():
        dist.barrier()
        if dist.get_rank() == 0:
            dist.destroy_process_group()
        else:
            dist.recv(torch.ones(1), src=0)

    error = failure(program, 2)
    assert error.rank == 1 and "(rank 0 had returned)" in str(error)


def test_children_end_with_their_rank():
    def program(fail):
        multiprocessing.get_context("fork").Process(target=time.sleep, args=(999,)).start()
        subprocess.Popen(["sleep", SLEEP])
        if fail and dist.get_rank() == 1:
            os._exit(7)

    run(program, 2, False)
    assert not processes(SLEEP)
    failure(program, 2, True)
    assert not processes(SLEEP)


def test_a_timeout_says_where_each_rank_is():
    def program():
        rank, x = dist.get_rank(), torch.ones(1)
        group = dist.new_group([4, 5, 6])
        if rank == 0:
            dist.recv(x, 1)
        while rank == 1:
            x = 1
        if rank == 2:
            sum(itertools.repeat(0))  # never gives another thread a turn
        if rank == 3:
            os.kill(os.getpid(), signal.SIGSTOP)
        if rank in (5, 6):
            dist.all_reduce(x, group=group)

    error = failure(program, 7, timeout=2)
    assert (error.type, error.rank) == ("TimeoutError", None)
    head, *report = str(error).splitlines()
    assert head == "after 2 s 6 of 7 ranks had not returned; rank 4 had finished"
    expected = [
        ("rank 0 is in recv(src=1)", "dist.recv(x, 1)"),
        ("rank 1 is at", ("while rank == 1:", "x = 1")),
        ("rank 2 is at", "sum(itertools.repeat(0))  # never gives another thread a turn"),
        ("rank 3 is at", "no line: a signal has suspended it"),
        ("ranks 5, 6 are in all_reduce()", "dist.all_reduce(x, group=group)"),
    ]
    for place, line in expected:
        start = report.index(place) + 1
        end = next((i for i in range(start, len(report)) if report[i][0] == "r"), len(report))
        quoted = [text.strip() for text in report[start:end] if set(text) - set(" ^~")]
        assert quoted[-1] in line
        assert "no line" in line or quoted[-2].startswith(f'File "{__file__}", line ')
    assert len([line for line in report if line[0] == "r"]) == len(expected)


def test_a_rank_that_waits_for_the_start_says_so():
    class Slow:
        def __reduce__(self):
            return eval, ("os.environ['RANK'] == '0' or time.sleep(99)", {"os": os, "time": time})

    error = failure(lambda slow: None, 2, Slow(), timeout=1)
    assert "rank 0 is in init_process_group()\n  the start: it waits" in str(error)


def test_an_interrupt_ends_the_job_and_says_where_it_was(capfd):
    def program():
        print("before")
        dist.barrier()
        if dist.get_rank() == 0:
            dist.recv(torch.ones(1), src=1)
        else:
            time.sleep(99)

    threading.Timer(1.0, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt) as caught:
        run(program, 2)
    (note,) = caught.value.__notes__
    assert "rank 0 is in recv(src=1)" in note and "rank 1 is in time.sleep(99)" in note
    assert capfd.readouterr().out == "before\nbefore\n"
    assert run(os.getenv, 2, "RANK") == ["0", "1"]


def test_a_killed_server_is_replaced():
    def program():
        dist.barrier()
        if dist.get_rank() == 0:
            os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(99)

    assert "the process that starts the ranks was killed" in str(failure(program, 2))
    assert run(os.getenv, 2, "RANK") == ["0", "1"]


def test_a_machine_that_cannot_start_more(monkeypatch):
    def refuse():
        raise OSError("no more processes")

    monkeypatch.setattr(os, "fork", refuse)
    reply = _rank.fork("", 2, {}, -1)
    assert reply == "rank 0 of 2 cannot be started: no more processes"


def test_where_processes_cannot_be_forked(monkeypatch, capfd):
    monkeypatch.setattr(ranks, "_FORK", False)
    base = 5

    def program():
        subprocess.Popen(["sleep", SLEEP])
        print("printed", dist.get_rank())
        x = torch.full((1,), float(base))
        dist.all_reduce(x)
        return x.item()

    assert run(program, 2) == [10.0, 10.0]
    assert capfd.readouterr().out == "printed 0\nprinted 1\n"
    assert "rank 0 of 1 ended before" in str(failure(os._exit, 1, 5))
