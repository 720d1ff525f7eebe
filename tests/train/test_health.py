"""Bad steps, signals, stalled and slow ranks: each has its answer, and the run its curve."""

import dataclasses
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import torch
from metrics import rows

from minimtnlg.config import Parallel, save, sized
from minimtnlg.data.batches import Batch
from minimtnlg.errors import InputError
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.ranks import RankError, run
from minimtnlg.train import checkpoint, loop
from minimtnlg.train.audit import complaints
from minimtnlg.train.health import RECENT, SURE, Signals, Watch, straggler, where
from minimtnlg.train.mini import Mini
from minimtnlg.train.trainer import _rank, train


def short(config, parallel=None, **changes):
    few = dict(tokens=0, steps=8, ramp=None, micro_batch=1, save_every=2, keep=0, eval_every=0)
    return dataclasses.replace(
        config,
        parallel=parallel or Parallel(),
        train=dataclasses.replace(config.train, **few | changes),
    )


def losses(out):
    return [(row["loss"], row["grad_norm"]) for row in rows(out)]


def test_a_spike_is_many_times_the_median_of_the_last_good_steps(config):
    watch = Watch(dataclasses.replace(config.train, loss_spike=2.0, norm_spike=10.0))
    for i in range(RECENT // 2):
        assert watch.limits() == (math.inf, math.inf)  # too few to know what is usual
        assert watch.complaint(1e9, 1e9) == ""
        watch.note(3.0 + i % 2, 0.5)
    assert watch.limits() == (7.0, 5.0)
    assert watch.complaint(7.0, 5.0) == ""
    assert watch.complaint(7.5, 1.0) == "loss is 7.5, above 7"
    assert watch.complaint(1.0, 5.5) == "grad_norm is 5.5, above 5"
    for _ in range(RECENT):
        watch.note(1.0, 0.25)
    assert watch.limits() == (2.0, 2.5) and len(watch.recent[0]) == RECENT
    again = Watch(dataclasses.replace(config.train, loss_spike=2.0), watch.recent)
    assert again.limits() == (2.0, math.inf)


def test_what_is_no_number_is_bad_but_for_an_overflow_in_fp16(config):
    watch = Watch(config.train)
    assert watch.complaint(math.nan, 1.0) == "loss is nan"
    assert watch.complaint(1.0, math.inf) == "grad_norm is inf"
    fp16 = Watch(dataclasses.replace(config.train, dtype="float16"))
    assert fp16.complaint(1.0, math.inf) == ""
    fp16.note(1.0, math.inf)
    assert fp16.recent == [[1.0], []]


def spoil(monkeypatch, at, factor):
    """From now on the loss of micro-batches of step `at`, or steps, is multiplied by `factor`."""
    at = at if isinstance(at, range) else [at]
    from minimtnlg.model import GPT

    stage = GPT.stage

    def spoiled(self, batch, x=None, draw=None, chunk=0):
        y = stage(self, batch, x, draw, chunk)
        return y * factor if draw and draw.step in at and self.ends(chunk) else y

    monkeypatch.setattr(GPT, "stage", spoiled)


def with_dropout(settings):
    """Dropout, so that the model is told in which step it is."""
    return dataclasses.replace(settings, model=dataclasses.replace(settings.model, dropout=0.1))


@pytest.mark.parametrize("factor", [math.nan, 50.0])
def test_a_bad_step_is_skipped(config, tmp_path, monkeypatch, factor):
    """The step changes no weight and no moment; the others go on as if it had not been."""
    settings = with_dropout(
        short(config, steps=14, save_every=1, on_bad_step="skip", loss_spike=3.0, dtype="float64")
    )
    spoil(monkeypatch, 12, factor)
    train(settings, tmp_path / "run", progress=False)
    bad = rows(tmp_path / "run")[11]
    assert bad["bad"].startswith("loss is ") and bad["bad"].endswith(": skipped")
    assert (bad["loss"] is None) == math.isnan(factor)
    assert not any("bad" in row for row in rows(tmp_path / "run") if row["step"] != 12)
    before, after, later = (
        checkpoint.Checkpoint(checkpoint.folder_of(tmp_path / "run", n)) for n in (11, 12, 13)
    )
    for key in before.tensors:
        assert (before.read(key) == after.read(key)).all(), key
    assert (before.index["samples"], after.index["samples"]) == (88, 96)
    assert before.index["numbers"] == after.index["numbers"] != later.index["numbers"]


def test_a_bad_step_rolls_back(config, tmp_path, monkeypatch):
    """To the state of the last checkpoint, and on with the samples after the bad ones."""
    settings = with_dropout(short(config, steps=7, on_bad_step="rollback"))
    spoil(monkeypatch, 6, math.nan)
    train(settings, tmp_path / "run", progress=False)
    told = rows(tmp_path / "run")
    assert told[5]["bad"] == "loss is nan: back to the state of step 4, on with the next samples"
    after, before = (
        checkpoint.Checkpoint(checkpoint.folder_of(tmp_path / "run", n)) for n in (6, 4)
    )
    for key in before.tensors:
        assert (before.read(key) == after.read(key)).all(), key
    assert after.index["samples"] == 48
    monkeypatch.undo()
    train(dataclasses.replace(settings), tmp_path / "right", progress=False)
    assert losses(tmp_path / "right")[:5] == losses(tmp_path / "run")[:5]


@pytest.mark.parametrize("answer, steps", [("rollback", 7), ("skip", 5 + RECENT)])
def test_weights_that_are_bad_themselves_end_the_run(config, tmp_path, monkeypatch, answer, steps):
    """Every step from the sixth on is bad; the checkpoints of before stay."""
    settings = with_dropout(short(config, steps=40, on_bad_step=answer, keep=0))
    spoil(monkeypatch, range(6, 99), math.nan)
    said = f"step {steps}: loss is nan, the last of {steps - 5} bad steps in a row"
    with pytest.raises(InputError, match=said):
        train(settings, tmp_path / "run", progress=False)
    assert {2, 4} <= set(checkpoint.steps(tmp_path / "run"))


def test_an_infinite_loss_with_finite_gradients_is_skipped_too(config):
    """As where the logit of a label is minus infinity."""
    batch = [Batch(*(torch.zeros(2, 32, dtype=kind) for kind in (torch.int64, torch.int64)),
                   torch.ones(2, 32))]  # fmt: skip
    engine = Mini(sized(short(config)), Mesh())
    stage = engine.model.stage
    engine.model.stage = lambda *args: stage(*args) + math.inf
    before = [p.detach().clone() for p in engine.model.parameters()]
    loss, norm = engine.step(batch, 1e-2, 1, limits=(math.inf, math.inf))
    assert loss == math.inf and math.isfinite(norm)
    assert all(torch.equal(a, b) for a, b in zip(before, engine.model.parameters(), strict=True))


def test_without_a_checkpoint_a_bad_step_ends_the_run(config, tmp_path, monkeypatch):
    settings = with_dropout(short(config, save_every=0, on_bad_step="rollback"))
    spoil(monkeypatch, 2, math.nan)
    with pytest.raises(InputError, match="step 2: loss is nan, with no checkpoint to go back to"):
        train(settings, tmp_path / "run", progress=False)


def test_a_run_that_stops_has_saved_what_was_good(config, tmp_path, monkeypatch):
    settings = with_dropout(short(config))
    spoil(monkeypatch, 7, math.inf)
    with pytest.raises(InputError, match="step 7: loss is inf, the run has diverged"):
        train(settings, tmp_path / "run", progress=False)
    assert checkpoint.steps(tmp_path / "run") == [6, 4, 2]
    assert complaints(tmp_path / "run") == []


@pytest.mark.parametrize(
    "name, parallel", [("SIGTERM", Parallel()), ("SIGUSR1", Parallel(tp=2))], ids=["alone", "tp2"]
)
def test_a_signal_saves_and_ends(config, tmp_path, name, parallel):
    """The command, as a user starts it, gets a signal; resumed it has the undisturbed curve."""
    settings, out = short(config, parallel, steps=400, save_every=0), tmp_path / "run"
    save(settings, tmp_path / "config.yaml")
    command = [sys.executable, "-m", "minimtnlg", "train", tmp_path / "config.yaml", "--out", out]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(1200):
        if (out / "metrics.jsonl").exists() and len(rows_so_far(out)) >= 3:
            break
        time.sleep(0.05)
    process.send_signal(getattr(signal, name))
    told, _ = process.communicate(timeout=100)
    done = len(rows(out))
    assert process.returncode == 0 and 3 <= done < 400
    assert told.startswith(f"{name}: saved after step {done}; --resume goes on there")
    assert checkpoint.steps(out) == [done] and complaints(out) == []
    assert not (out / ".stop").exists()


def rows_so_far(out):
    return (out / "metrics.jsonl").read_text().splitlines()


def test_one_rank_that_gets_a_signal_stops_all(config, tmp_path):
    settings = sized(short(config, Parallel(dp=2), steps=60))

    def program(settings, out):
        import torch.distributed as dist

        from minimtnlg.train import loop

        one = loop.Run._one

        def signalled(self, batch):
            if self.step == 4 and dist.get_rank() == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return one(self, batch)

        loop.Run._one = signalled
        return _rank(settings, out, False, Mini)

    found = run(program, 2, settings, tmp_path / "run")
    assert {each["stopped"] for each in found} == {"SIGTERM"}
    assert {each["steps"] for each in found} == {5} == {*checkpoint.steps(tmp_path / "run")[:1]}


def test_a_signal_handler_leaves_what_was_there(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with Signals(tmp_path / "stop", relay=True) as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.name == "SIGUSR1" == (tmp_path / "stop").read_text()
        with Signals(tmp_path / "stop") as other:
            assert other.name == "SIGUSR1"
    assert signal.getsignal(signal.SIGTERM) is before and not (tmp_path / "stop").exists()
    elsewhere = []
    thread = threading.Thread(target=lambda: elsewhere.append(Signals(None).__enter__().name))
    thread.start()
    thread.join()
    assert elsewhere == [""]


def stuck(how, settings, out):
    """A rank of a run whose rank 1 comes to a stop in its third step."""
    import torch.distributed as dist

    from minimtnlg.train import loop

    one = loop.Run._one

    def stop(self, batch):
        if self.step == 2 and dist.get_rank() == 1:
            if how == "suspended":
                os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(1000)
        return one(self, batch)

    loop.Run._one = stop
    _rank(settings, out, False, Mini)


@pytest.mark.parametrize(
    "layout, how, says",
    [
        (Parallel(dp=2), "suspended", "rank 1 does not answer"),
        (Parallel(pp=2), "asleep", r"rank 1 is at test_health.py:\d+, in stop"),
    ],
    ids=["suspended", "asleep"],
)
def test_a_stalled_rank_is_named(config, tmp_path, layout, how, says):
    settings = sized(short(config, layout, patience=3.0, save_every=1))
    with pytest.raises(RankError, match=f"no step for 3 s after step 2: {says}") as error:
        run(stuck, 2, how, settings, tmp_path / "run", timeout=90)
    assert error.value.type == "Stalled"
    assert complaints(tmp_path / "run") == []


def test_where_a_thread_is():
    waits, place = where(threading.get_ident())
    assert not waits and place.startswith("health.py:")
    assert where(-1) == (False, "its end")


def test_a_slow_rank_is_named(config, tmp_path, capsys):
    settings = sized(short(config, Parallel(dp=3), steps=12, global_batch=6, save_every=0))

    def program(settings, out):
        import torch.distributed as dist

        from minimtnlg.train import loop

        one = loop.Run._one

        def slow(self, batch):
            time.sleep(0.6 if dist.get_rank() == 2 else 0.01)
            return one(self, batch)

        loop.Run._one = slow
        _rank(settings, out, False, Mini)

    run(program, 3, settings, tmp_path / "run")
    assert "up to step 12 rank 2 is slow: " in capsys.readouterr().err
    [line] = (tmp_path / "run" / "ranks.jsonl").read_text().splitlines()
    work = json.loads(line)["work_s"]
    assert work[2] == max(work) > SURE > work[0]


def test_who_is_slow():
    assert straggler([10.0, 10.0, 14.9]) == ""
    assert straggler([1.0, 1.0, 1.9]) == ""  # too short to tell
    assert straggler([10.0, 30.0, 10.0]) == (
        "rank 1 is slow: 30.00 s of work where the median is 10.00 s"
    )
    assert loop.REPORT_EVERY >= 10


LAUNCHED = """
import os, signal, sys
from pathlib import Path
from minimtnlg import cli
from minimtnlg.train import loop

one = loop.Run._one

def stop(self, batch):
    if self.step == 2 and os.environ["RANK"] == os.environ["VICTIM"]:
        os.kill(os.getpid(), signal.SIGSTOP)
    return one(self, batch)

loop.Run._one = stop
cli.main()
"""


@pytest.mark.parametrize(
    "victim, says",
    [(1, "rank 1 does not answer"), (0, "rank 0, through which ranks meet, does not answer")],
)
def test_a_launcher_s_stalled_rank_is_named_by_the_others(config, tmp_path, victim, says):
    """The ranks have one store; where the rank that keeps it stalls, that is what can be said."""
    save(sized(short(config, Parallel(dp=2), patience=3.0)), tmp_path / "config.yaml")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    world |= {"LOCAL_WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo", "VICTIM": str(victim)}
    train_it = ["train", tmp_path / "config.yaml", "--out", tmp_path / "run"]
    command = [sys.executable, "-c", LAUNCHED, *train_it]
    ranks = [
        subprocess.Popen(
            command,
            env=os.environ | world | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        _, said = ranks[1 - victim].communicate(timeout=90)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert ranks[1 - victim].returncode == 1
    assert f"minimtnlg: no step for 3 s after step 2: {says}\n" in said
