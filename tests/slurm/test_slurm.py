"""The script for Slurm, run by a real Slurm: placement, exit codes, failures, requeueing, training.

Most jobs start a stand-in for Python, which computes nothing: what is tested is the script.
"""

import os
import re
import signal
import socket
import sys

import psutil
import pytest
from metrics import rows

from minimtnlg.config import load
from minimtnlg.engines import ENGINES, installed
from minimtnlg.launch import script
from minimtnlg.parallel.layout import Layout
from minimtnlg.train.trainer import train

LAYOUT = ["parallel.tp=2", "parallel.pp=2", "parallel.dp=2", "train.micro_batch=1"]
TRICKY = 'data.path="it\'s $HOME `id` \\"here\\"; * {}"'


@pytest.fixture
def job(tmp_path):
    """job(what, ...) -> script of a job on two nodes whose ranks do `what`, shell code."""

    def of(what, overrides=LAYOUT, **options):
        python = tmp_path / "its python"  # a blank in its name, as nothing forbids
        python.write_text(
            f'#!/bin/bash\nif [ "${{!#}}" = --help ]; then echo "$HELP"; exit 0; fi\n{what}\n'
        )
        python.chmod(0o755)
        options = dict(gpus_per_node=4, here=tmp_path, run="runs/one run") | options
        return script("nano", overrides, target="slurm", python=python, **options)

    return of


def lines_of(log):
    """{rank: its lines} of a log, without those that Slurm's own step writes among them."""
    lines = {}
    for rank, text in re.findall(r"^ *(\d+): (?!slurmstepd-)(.*)$", log, re.MULTILINE):
        lines.setdefault(int(rank), []).append(text)
    return lines


def test_slurm_accepts_the_script(slurm, tmp_path):
    many = ["parallel.dp=16", "train.micro_batch=1", "train.ramp=null"]
    for overrides, gpus in ((LAYOUT, 4), ([], 8), (many, 8)):
        path = tmp_path / "job.sh"
        path.write_text(script("nano", overrides, target="slurm", gpus_per_node=gpus))
        status, told = slurm.call("sbatch", "--test-only", str(path))
        assert status == 0, told
    path.write_text(script("nano", overrides, target="slurm", gpus_per_node=4))  # four nodes
    assert slurm.call("sbatch", "--test-only", str(path))[0] != 0


def test_ranks_are_where_the_mesh_wants_them(slurm, job, tmp_path):
    tell = 'echo "$RANK $LOCAL_RANK $LOCAL_WORLD_SIZE $WORLD_SIZE $SLURMD_NODENAME $PWD"'
    words = 'printf "<%s>" "$@"; echo'
    number = slurm.submit(job(f"{tell}; {words}", [*LAYOUT, TRICKY]))
    assert slurm.outcome(number) == ("COMPLETED", 0), slurm.log(number)
    told, layout = lines_of(slurm.log(number)), Layout(tp=2, pp=2, dp=2)
    assert sorted(told) == list(range(8))
    for rank, (place, arguments) in told.items():
        node, gpu = layout.node(rank, gpus_per_node=4)
        assert place == f"{rank} {gpu} 4 8 node{node + 1} {tmp_path}"
        given = ["nano", *LAYOUT, TRICKY, "--engine", "mini", "--resume", "--out", "runs/one run"]
        assert arguments == "".join(f"<{word}>" for word in ["-m", "minimtnlg", "train", *given])


def test_ranks_share_one_rendezvous_and_the_environment(slurm, job):
    number = slurm.submit(job('echo "$MASTER_ADDR $MASTER_PORT $OMP_NUM_THREADS"'))
    assert slurm.outcome(number) == ("COMPLETED", 0), slurm.log(number)
    told = {line for lines in lines_of(slurm.log(number)).values() for line in lines}
    assert len(told) == 1
    assert re.fullmatch(r"127\.0\.0\.1 \d+ 1", told.pop())


def test_a_port_that_somebody_listens_at_is_left_to_him(slurm, job):
    number = slurm.submit(job('echo "$MASTER_PORT"'), "--hold")
    own = 20000 + int(number) % 10000
    with socket.create_server(("127.0.0.1", own)):
        slurm.call("scontrol", "release", number)
        assert slurm.outcome(number) == ("COMPLETED", 0), slurm.log(number)
    assert lines_of(slurm.log(number))[0] == [str(own + 1)]


def test_part_of_a_node_has_cores_and_memory(slurm, job):
    """Two GPUs of eight. What srun asks for can't be seen without binding, only that it's told."""
    what = 'echo "$SRUN_CPUS_PER_TASK"'
    number = slurm.submit(job(what, ["parallel.dp=2", "train.ramp=null"], gpus_per_node=8))
    facts = slurm.facts(number)
    assert slurm.outcome(number) == ("COMPLETED", 0), slurm.log(number)
    assert (facts["NumCPUs"], facts["MemPerTres"]) == ("16", "gres:gpu:65536")
    assert lines_of(slurm.log(number)) == {0: ["8"], 1: ["8"]}


def test_the_probe_gets_all_ranks_and_may_end_the_job(slurm, job):
    tell = 'echo "$RANK of $WORLD_SIZE: $1"; exit 3'
    text = job(tell).replace("\n#on_all_ranks ", "\non_all_ranks ")
    number = slurm.submit(text)
    assert slurm.outcome(number) == ("FAILED", 3)
    told = {line for lines in lines_of(slurm.log(number)).values() for line in lines}
    assert told and told <= {f"{rank} of 8: scaling/probe.py" for rank in range(8)}


def test_the_exit_code_of_the_ranks_is_that_of_the_job(slurm, job, tmp_path):
    path = tmp_path / "job.sh"
    path.write_text(job("exit 3"))
    status, told = slurm.call("sbatch", "--wait", "--parsable", str(path))
    assert status == 3
    assert slurm.outcome(told) == ("FAILED", 3)


def test_a_rank_that_fails_ends_the_job_with_its_message(slurm, job):
    fail = 'echo "minimtnlg: why it ends" >&2; exit 2'
    number = slurm.submit(job(f'if [ "$RANK" = 5 ]; then {fail}; fi; exec sleep 1000'))
    assert slurm.outcome(number) == ("FAILED", 2)
    assert lines_of(slurm.log(number))[5] == ["minimtnlg: why it ends"]


def test_a_rank_that_somebody_else_terminates_ends_the_job(slurm, job):
    number = slurm.submit(job('echo "$RANK is $$"; exec sleep 1000'))
    slurm.wait(number, lambda facts: len(lines_of(log(slurm, number))) == 8)
    os.kill(int(lines_of(slurm.log(number))[5][0].split()[-1]), signal.SIGTERM)
    assert slurm.outcome(number) == ("FAILED", 1)
    assert re.search("^5: Terminated$.*Terminating StepId", slurm.log(number), re.M | re.S)


def test_ranks_that_are_all_terminated_are_no_success(slurm, job):
    number = slurm.submit(job("echo at work; exec sleep 1000"))
    slurm.wait(number, lambda facts: len(lines_of(log(slurm, number))) == 8)
    slurm.call("scancel", "--signal=TERM", f"{number}.0")
    assert slurm.outcome(number) == ("FAILED", 1)


def work_until(tmp_path):
    """What a rank of another engine does: it does not mind the signal, and ends by itself."""
    return f"echo at work; for _ in {{1..60}}; do [ -e {tmp_path}/enough ] && exit 4; sleep 1; done"


# Slurm starts tasks with USR1 ignored: a program may still ask for it, a shell can't.
SAVES = f"""exec {sys.executable} -c '
import signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: (print("saved", flush=True), sys.exit(0)))
print("at work", flush=True)
time.sleep(60)'"""


def test_another_engine_that_cannot_be_requeued_goes_on(slurm, job, tmp_path):
    """Slurm refuses; the ranks end later, by themselves, and twice is as once."""
    number = slurm.submit(
        job(work_until(tmp_path), [*LAYOUT, "parallel.zero=1"], engine="deepspeed"), "--no-requeue"
    )
    slurm.wait(number, lambda facts: len(lines_of(log(slurm, number))) == 8)
    for times in (1, 2):
        slurm.call("scancel", "--batch", "--signal=USR1", number)
        refused = "not requeued: going on.*" * times
        slurm.wait(number, lambda facts, r=refused: re.search(r, log(slurm, number), re.S), 60)
    (tmp_path / "enough").touch()
    assert slurm.outcome(number) == ("FAILED", 4)


def test_a_run_that_cannot_be_requeued_is_saved(slurm, job, tmp_path):
    number = slurm.submit(job(SAVES), "--no-requeue")
    slurm.wait(number, lambda facts: len(lines_of(log(slurm, number))) == 8)
    slurm.call("scancel", "--batch", "--signal=USR1", number)
    assert slurm.outcome(number) == ("COMPLETED", 0), slurm.log(number)
    told = slurm.log(number)
    assert {lines[-1] for lines in lines_of(told).values()} == {"saved"}
    assert "not requeued: submit this script again to go on" in told


@pytest.mark.parametrize("engine", ["mini", "deepspeed"])
def test_a_job_that_gets_the_signal_goes_back_into_the_queue(slurm, job, tmp_path, engine):
    """At first a rank makes the run's folder and computes on; the second time it ends."""
    work = f'mkdir -p "runs/one run"; {SAVES}'
    what = f'echo "given ${{*: -3}}"; if [ "$SLURM_RESTART_COUNT" = "" ]; then {work}; fi'
    number = slurm.submit(job(what, [*LAYOUT, "parallel.zero=1"], engine=engine))
    slurm.wait(number, lambda facts: len(re.findall("at work", log(slurm, number))) == 8)
    slurm.call("scancel", "--batch", "--signal=USR1", number)
    queued = {"Restarts": "1", "JobState": "PENDING"}
    slurm.wait(number, lambda facts: queued.items() <= facts.items())
    slurm.call("scontrol", "update", f"JobId={number}", "StartTime=now")  # Slurm would wait
    assert slurm.outcome(number) == ("COMPLETED", 0), slurm.log(number)
    first, second = log(slurm, number).split("back into the queue")
    own = "--resume --out runs/one run"
    assert f"given {own if engine == 'mini' else 'deepspeed --out runs/one run'}\n" in first
    again = own if engine == "mini" else "deepspeed --out runs/one run-restart-1"
    assert [lines[0] for lines in lines_of(second.partition("restart 1")[2]).values()] == [
        f"given {again}"
    ] * 8
    told = "can't resume a run; it starts again from step 0, in runs/one run-restart-1\n" in second
    assert told == (engine != "mini")
    assert (first.count(": saved\n") == 8) == (engine == "mini")


def log(slurm, number):
    """The log, "" as long as there is none."""
    return slurm.log(number) if list(slurm.folder.glob(f"*-{number}.log")) else ""


# Real training.


def small(corpus, *more):
    return [
        "model.layers=2", "model.hidden=32", "model.heads=2", "model.seq=32", "model.vocab=1024",
        "train.tokens=0", "train.steps=3", "train.global_batch=8", "train.micro_batch=1",
        "train.ramp=null", "train.eval_every=2", "train.eval_batches=1", "data.weights={}",
        "data.split=[80,20,0]", "optim.warmup_tokens=0", f"data.path={corpus}", *more,
    ]  # fmt: skip


def losses(run):
    return [(row["step"], row["loss"], row.get("valid_loss")) for row in rows(run)]


def start(slurm, corpus, folder, engine, layout, *options):
    """Number of a job that trains in `layout` on two nodes, into folder/run; options: sbatch's."""
    overrides, ranks = small(corpus, *layout), Layout(**sizes(layout)).world
    return slurm.submit(
        script(
            "nano", overrides, target="slurm", engine=engine, gpus_per_node=ranks // 2,
            here=folder, run="run",
        ),
        *options,
    )  # fmt: skip


def sizes(layout):
    """{"tp": 2, ...} of a list of overrides."""
    pairs = [override.removeprefix("parallel.").split("=") for override in layout]
    return {key: int(value) for key, value in pairs if key in ("tp", "pp", "dp")}


@pytest.fixture(scope="module")
def alone(corpus, tmp_path_factory):
    """The losses of one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    train(load("nano", small(corpus)), out, progress=False)
    return losses(out)


FOUR = ["parallel.tp=2", "parallel.pp=2", "parallel.zero=1"]
EIGHT = [*FOUR, "parallel.dp=2"]


@pytest.mark.long
@pytest.mark.parametrize("layout", [FOUR, EIGHT], ids=["four", "eight"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_on_two_nodes(slurm, corpus, tmp_path, alone, engine, layout):
    if not installed(ENGINES[engine][2]):
        pytest.skip(f"{engine} is not installed: pip install -e '.[engines]'")
    number = start(slurm, corpus, tmp_path, engine, layout)
    assert slurm.outcome(number) == ("COMPLETED", 0), slurm.log(number)
    found = losses(tmp_path / "run")
    assert [step for step, _, _ in found] == [1, 2, 3]
    for one, other in zip(found, alone, strict=True):
        assert one == pytest.approx(other, abs=2e-5)


@pytest.mark.long
def test_a_folder_that_holds_a_run_is_one_line_of_each_rank(slurm, corpus, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("mine")
    number = start(slurm, corpus, tmp_path, "mini", FOUR)
    assert slurm.outcome(number) == ("FAILED", 2)
    lines = lines_of(slurm.log(number))
    assert sorted(lines) == [0, 1, 2, 3]
    for complaints in lines.values():
        assert complaints[0].startswith("minimtnlg: ")
        assert "run holds files, but no run to go on with" in complaints[0]
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == "mine"


@pytest.mark.long
def test_a_rank_that_is_killed_ends_the_run(slurm, corpus, tmp_path):
    number = start(slurm, corpus, tmp_path, "mini", [*FOUR, "train.steps=100000"])
    metrics = tmp_path / "run" / "metrics.jsonl"
    slurm.wait(number, lambda facts: metrics.exists() and metrics.read_text())
    [victim] = [process for process in psutil.process_iter() if is_rank(process, number, 2)]
    victim.kill()
    assert slurm.outcome(number) == ("FAILED", 128 + 9)
    assert re.search(r"^ *2: .*Killed", slurm.log(number), re.MULTILINE)


def is_rank(process, job, rank):
    """Whether a process computes as this rank of this job."""
    try:
        told = process.environ()
    except psutil.Error:
        return False
    here = {"SLURM_JOB_ID": job, "RANK": str(rank)}
    return here.items() <= told.items() and process.name().startswith("python")


@pytest.mark.long
def test_a_pre_empted_run_ends_with_the_undisturbed_curve(slurm, corpus, tmp_path):
    """The signal comes in the middle of a run; requeued, the run goes on where it was."""
    overrides = [*FOUR, "train.steps=150", "train.eval_every=0", "train.save_every=40"]
    number = start(slurm, corpus, tmp_path, "mini", overrides)
    metrics = tmp_path / "run" / "metrics.jsonl"
    slurm.wait(number, lambda facts: metrics.exists() and metrics.read_text().count("\n") > 50)
    slurm.call("scancel", "--batch", "--signal=USR1", number)
    queued = {"Restarts": "1", "JobState": "PENDING"}
    slurm.wait(number, lambda facts: queued.items() <= facts.items())
    at = len(losses(tmp_path / "run"))
    assert 50 < at < 150, slurm.log(number)
    slurm.call("scontrol", "update", f"JobId={number}", "StartTime=now")
    assert slurm.outcome(number) == ("COMPLETED", 0), slurm.log(number)
    assert f"SIGUSR1: saved after step {at}; --resume goes on there" in slurm.log(number)
    (tmp_path / "other").mkdir()
    undisturbed = start(slurm, corpus, tmp_path / "other", "mini", overrides)
    assert slurm.outcome(undisturbed) == ("COMPLETED", 0), slurm.log(undisturbed)
    assert losses(tmp_path / "run") == losses(tmp_path / "other" / "run")
