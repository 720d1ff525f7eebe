"""A rank is killed in each phase of a run: one error that names it, and nothing half-written."""

import dataclasses
import os
import signal

import pytest

from minimtnlg.config import Parallel, load
from minimtnlg.data.prepare import prepare
from minimtnlg.model.gpt import GPT
from minimtnlg.parallel import pipeline
from minimtnlg.parallel.replicas import Replicas
from minimtnlg.ranks import RankError, run
from minimtnlg.train import checkpoint, mini, trainer
from minimtnlg.train.optimizer import Optimizer

VICTIM = 5  # of eight: the last stage's, second replica's second slice

# phase -> (what holds the function, its name, at which of its calls on the victim)
PHASES = {
    "start": (mini, "refuse_other_weights", 1),
    "forward": (GPT, "stage", 3),
    "exchange": (pipeline._Links, "exchange", 4),
    "backward": (Replicas, "begin", 3),
    "gradient reduction": (Replicas, "_leave", 2),
    "update": (Optimizer, "step", 2),
    "evaluation": (mini, "evaluate", 1),
    "saving": (checkpoint, "write", 1),
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    text = tmp_path_factory.mktemp("text")
    for i in range(10):
        (text / f"{i}.txt").write_text("a rank waits for its neighbour and goes on " * 200)
    corpus = tmp_path_factory.mktemp("corpus") / "corpus"
    prepare(corpus, [str(text)], vocab=300, progress=False)
    config = load("nano", [
        "model.layers=2", "model.hidden=32", "model.heads=2", "model.seq=32", "model.vocab=1024",
        "train.tokens=0", "train.steps=3", "train.global_batch=8", "train.micro_batch=1",
        "train.ramp=null", "train.eval_every=2", "train.eval_batches=1", "data.weights={}",
        "data.split=[80,20,0]", "optim.warmup_tokens=0", f"data.path={corpus}",
    ])  # fmt: skip
    return dataclasses.replace(config, parallel=Parallel(tp=2, pp=2, dp=2))


def die_in(phase, config, out):
    """One rank of a run; the victim is killed when it comes to `phase`."""
    holder, name, at = PHASES[phase]
    original, calls = getattr(holder, name), []

    def deadly(*args, **kwargs):
        calls.append(name)
        if int(os.environ["RANK"]) == VICTIM and len(calls) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(holder, name, deadly)
    trainer._rank(config, out, False, mini.Mini)


@pytest.mark.parametrize("phase", PHASES)
def test_a_killed_rank_ends_the_run(config, tmp_path, phase):
    with pytest.raises(RankError, match=f"rank {VICTIM} of 8 .*SIGKILL"):
        run(die_in, 8, phase, config, tmp_path / "run", timeout=100)
    assert not (tmp_path / "run" / "latest").exists()
    checkpoints = [path.name for path in (tmp_path / "run" / "checkpoints").glob("*")]
    assert set(checkpoints) <= {".step-3.partial"}  # removed when the run begins again
