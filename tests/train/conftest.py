"""A small corpus with something to learn, and a config whose run on it takes a second."""

import pytest

from minimtnlg.config import load
from minimtnlg.data.prepare import prepare

SMALL = [
    "model.layers=2", "model.hidden=32", "model.heads=2", "model.seq=32", "model.vocab=1024",
    "train.global_batch=8", "train.ramp=[4,4,1000]", "train.tokens=6000", "train.eval_every=10",
    "optim.warmup_tokens=500", "optim.decay_tokens=6000", "data.weights={}",
    "data.split=[90,10,0]", "optim.lr=1e-2",
]  # fmt: skip


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Forty documents about the same few words, so that there is something to learn in seconds."""
    folder = tmp_path_factory.mktemp("text")
    words = "the node sends a slice of the gradient to the next rank and waits for its own".split()
    for i in range(40):
        turned = words[i % 7 :] + words[: i % 7]
        (folder / f"{i:02}.txt").write_text(" ".join(turned * (20 + i)) + ".\n")
    out = tmp_path_factory.mktemp("corpus") / "corpus"
    prepare(out, [str(folder)], vocab=300, progress=False)
    return out


@pytest.fixture(scope="session")
def config(corpus):
    return load("nano", [*SMALL, f"data.path={corpus}"])
