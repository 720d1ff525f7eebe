"""A whole run by each engine: the same samples, rates and batch sizes, the same files."""


import pytest
import torch
from metrics import rows

from minimtnlg import engines
from minimtnlg.config import load
from minimtnlg.data.prepare import prepare
from minimtnlg.errors import InputError
from minimtnlg.train.checkpoint import load_run
from minimtnlg.train.trainer import train

LAYOUTS = ["parallel.dp=1", "parallel.pp=2 parallel.zero=1"]
KEYS = ("step", "tokens", "lr", "batch_size")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """overrides -> Config of a run of six steps with a ramp, on a corpus of two sources."""
    folder, sources = tmp_path_factory.mktemp("text"), []
    for name in ("one", "two"):
        (folder / name).mkdir()
        for i in range(20):
            (folder / name / f"{i}.txt").write_text(f"{name} rank sends to rank {i} " * (20 + i))
        sources.append(str(folder / name))
    out = tmp_path_factory.mktemp("corpus") / "corpus"
    prepare(out, sources, vocab=300, progress=False)
    small = [
        "model.layers=2", "model.hidden=32", "model.heads=2", "model.seq=32", "model.vocab=1024",
        "train.tokens=0", "train.steps=6", "train.global_batch=8", "train.ramp=[4,4,500]",
        "train.eval_every=3", "train.eval_batches=1", "train.micro_batch=2", "data.weights={}",
        "data.split=[80,20,0]", "optim.warmup_tokens=600", "optim.lr=1e-2", "optim.eps=1e-3",
        f"data.path={out}",
    ]  # fmt: skip
    return lambda overrides: load("nano", [*small, *overrides.split()])


def of(run):
    """(rows of metrics.jsonl, weights) of a run."""
    return rows(run), load_run(run)[1].state_dict()


@pytest.fixture(scope="module")
def ours(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "mini"
    train(config(LAYOUTS[0]), out, progress=False)
    return of(out)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["megatron", "deepspeed"])
def test_it_writes_what_ours_writes(name, layout, config, ours, tmp_path):
    if not engines.installed(engines.ENGINES[name][2]):
        pytest.skip(f"pip install 'minimtnlg[engines]' brings {name}")
    train(config(layout), tmp_path / "run", progress=False, engine=engines.named(name))
    rows, weights = of(tmp_path / "run")
    assert len(rows) == len(ours[0])
    for row, right in zip(rows, ours[0], strict=True):
        assert row.keys() == right.keys()
        assert [row[key] for key in KEYS] == [right[key] for key in KEYS]
        for key in {"loss", "grad_norm", "valid_loss"} & row.keys():
            assert row[key] == pytest.approx(right[key], rel=1e-5), (row["step"], key)
    assert {row["batch_size"] for row in rows} == {4, 8}
    for tensor, right in zip(weights.values(), ours[1].values(), strict=True):
        torch.testing.assert_close(tensor, right, rtol=0, atol=1e-5)


def test_an_engine_that_is_not_there(monkeypatch):
    with pytest.raises(InputError, match="no engine 'megatorn'; .* did you mean 'megatron'"):
        engines.named("megatorn")
    monkeypatch.setattr(engines, "find_spec", lambda package: package == "torch" or None)
    with pytest.raises(InputError, match="pip install 'minimtnlg\\[engines\\]' brings it"):
        engines.named("deepspeed")
    assert engines.named("mini").__name__ == "Mini"


def test_what_it_can_not_do_is_refused_before_anything_starts(config, tmp_path):
    settings = config("parallel.pp=2 parallel.schedule=gpipe")
    for name in ("megatron", "deepspeed"):
        if engines.installed(engines.ENGINES[name][2]):
            with pytest.raises(InputError, match=f"--engine {name} has no parallel.schedule=gpipe"):
                train(settings, tmp_path / name, progress=False, engine=engines.named(name))
            assert not (tmp_path / name).exists()
