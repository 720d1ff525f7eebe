"""DeepSpeed computes what one process of our own does, in all of its layouts; what it refuses.

The batches are random, their masks are uneven, and the second step has more of them.
"""

import dataclasses
import os

import pytest
import torch
from torch.testing import assert_close

from minimtnlg import config as configuration
from minimtnlg import run
from minimtnlg.config import Parallel
from minimtnlg.data.batches import Batch
from minimtnlg.device import generator
from minimtnlg.engines import installed
from minimtnlg.errors import InputError
from minimtnlg.parallel.layout import Layout
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.train.mini import Mini

pytestmark = pytest.mark.skipif(
    not installed("deepspeed"), reason="pip install 'minimtnlg[engines]' brings DeepSpeed"
)

SMALL = (
    "model.layers=3 model.hidden=16 model.heads=4 model.seq=8 model.vocab=32 train.micro_batch=2 "
    "train.global_batch=24 train.ramp=null optim.eps=1e-3 optim.clip=0.1"
)
MICRO_BATCHES, LR = [2, 3], 1e-2  # of a replica in each step
# With these numbers a step of AdamW is one of plain SGD: it shows the gradient.
SGD = {"lr": 1e6, "eps": 1e6, "weight_decay": 0.0, "clip": 0.0}
FULL = "model.dropout=0.2 parallel.recompute=full"
CORE = "model.dropout=0.2 parallel.recompute=selective model.attention=readable"
CASES = {
    1: ["zero=0"],
    2: [
        *[f"zero={stage}" for stage in range(4)],
        f"zero=3 {FULL}",
        "pp=2 zero=0 optim.clip=0",
        f"pp=2 zero=1 {FULL}",
        f"pp=2 zero=1 {CORE}",
        "tp=2 zero=0",
        "tp=2 zero=3",
        "tp=2 sequence_parallel=true zero=1",
    ],
    4: [
        *[f"zero={stage}" for stage in range(4)],
        "pp=2 zero=0 optim.clip=0",
        "pp=2 zero=1",
        "tp=2 pp=2 zero=1",
        "tp=2 pp=2 sequence_parallel=true zero=1",
        "tp=2 zero=2",
        "pp=4 zero=1 model.layers=6",  # 2, 2, 1 and 1 layers
    ],
    8: ["tp=2 pp=2 zero=1"],
}


def configure(case, world=None):
    """The Config of a case: overrides, those of parallel without the name of the section."""
    words = [word if "." in word else f"parallel.{word}" for word in case.split()]
    return configuration.sized(configuration.load("nano", [*SMALL.split(), *words]), world)


def layout(config):
    return Layout(tp=config.parallel.tp, pp=config.parallel.pp, dp=config.parallel.dp)


def sgd(config):
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, **SGD))


def batches(config, m, replica=None):
    """A global batch of m micro-batches a replica, in the order of samples; or a replica's own."""
    seq, vocab, dp, b = config.model.seq, config.model.vocab, config.parallel.dp, 2
    g = generator("deepspeed", m)
    ids = torch.randint(vocab, (m * dp, b, seq + 1), generator=g)
    kept = torch.rand(m * dp, b, 1, generator=g)  # another share of each sequence
    mask = (torch.rand(m * dp, b, seq, generator=g) < kept).float()
    rows = zip(ids[..., :-1], ids[..., 1:], mask, strict=True)
    return [Batch(*row) for row in rows][replica : None : 1 if replica is None else dp]


def trained(engine, steps):
    """[(loss, norm, validation loss)] of each step; steps: the replica's micro-batches in each."""
    return [
        (*engine.step(mine, LR, number), engine.evaluate(steps[0]))
        for number, mine in enumerate(steps)
    ]


def gradients(engine, mine):
    """{name: gradient} of one step, by an engine with the numbers of SGD."""
    before = engine.state()
    engine.step(mine, SGD["lr"], 0)
    return {name: before[name] - after for name, after in engine.state().items()}


def serial(config):
    """(what `trained` returns, weights, gradients) by our own engine in one process."""
    alone = dataclasses.replace(config, parallel=Parallel(dp=1))
    steps = [batches(config, m) for m in MICRO_BATCHES]
    engine = Mini(alone, Mesh())
    return trained(engine, steps), engine.state(), gradients(Mini(sgd(alone), Mesh()), steps[0])


def program(configs):
    """The same of this rank for each Config, and how many numbers it holds at the start."""
    from minimtnlg.engines.deepspeed import DeepSpeed

    results = []
    for config in configs:
        mesh = Mesh(layout(config))
        steps = [batches(config, m, mesh.place.dp) for m in MICRO_BATCHES]
        engine = DeepSpeed(config, mesh)
        held = sum(x.numel() for x in engine.parameters.values())
        told, weights = trained(engine, steps), engine.state()
        results.append((told, weights, gradients(DeepSpeed(sgd(config), mesh), steps[0]), held))
    return results


def in_bfloat16(configs):
    """[what `trained` returns and weights of Mini, those of DeepSpeed] for each Config."""
    from minimtnlg.engines.deepspeed import DeepSpeed

    results = []
    for config in configs:
        mesh = Mesh(layout(config))
        steps = [batches(config, MICRO_BATCHES[0], mesh.place.dp)] * 2
        engines = Mini(config, mesh), DeepSpeed(config, mesh)
        results.append([(trained(engine, steps), engine.state()) for engine in engines])
    return results


@pytest.fixture
def start(tmp_path, monkeypatch, capfd):
    """start(function, world, configs) on ranks. Nothing is compiled, nothing is printed."""

    def start_(function, world, configs):
        monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
        monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")  # DeepSpeed loads in half the time
        results = run(function, world, configs, timeout=600)
        assert os.listdir(tmp_path) == []
        assert capfd.readouterr() == ("", "")
        return results

    return start_


def equal(found, right, where, **tolerances):
    tensors = [torch.as_tensor(x, dtype=torch.float64) for x in (found, right)]
    assert_close(*tensors, **tolerances, msg=lambda text: f"{where}: {text}")


def block(whole, name, sizes, place):
    """The part of a whole parameter that a rank has."""
    cut = {"qkv": 0, "up": 0, "embedding": 0, "out": 1, "down": 1}
    *_, module, kind = name.split(".")
    if module not in cut or (kind == "bias" and cut[module] == 1):
        return whole
    return whole.chunk(sizes.tp, cut[module])[place.tp]


@pytest.mark.parametrize("world", CASES)
def test_deepspeed_equals_one_process(world, start):
    """Losses and norms within 2e-6 of their size; gradients, and weights after two steps, too."""
    configs = [configure(case, world) for case in CASES[world]]
    ranks = start(program, world, configs)
    for case, config, *results in zip(CASES[world], configs, *ranks, strict=True):
        told, *right = serial(config)
        sizes, names = layout(config), set()
        for rank, (told_here, *found, held) in enumerate(results):
            where = f"{case}, rank {rank}"
            equal(told_here, told, where, rtol=2e-6, atol=0)
            for whole, here in zip(right, found, strict=True):
                for name, x in here.items():
                    y = block(whole[name], name, sizes, sizes.place(rank))
                    equal(x, y, f"{where}, {name}", rtol=0, atol=2e-6)
            everything = sum(x.numel() for x in found[0].values())
            assert held == (0 if config.parallel.zero == 3 else everything), where
            names |= found[0].keys()
        assert names == right[0].keys()


def test_in_bfloat16_it_equals_our_own_ranks(start):
    """Weights to the last bit: both sum gradients in fp32 and keep fp32 masters."""
    cases = [*[f"zero={stage}" for stage in (1, 2, 3)], "pp=2 zero=1", "tp=2 zero=1"]
    configs = [configure(f"{case} train.dtype=bfloat16", 2) for case in cases]
    for results in start(in_bfloat16, 2, configs):
        for case, ((told, weights), (told_here, found)) in zip(cases, results, strict=True):
            equal(told_here, told, case, rtol=1e-6, atol=0)
            assert found.keys() == weights.keys()
            for name, x in found.items():
                assert x.dtype is torch.bfloat16
                equal(x, weights[name], f"{case}, {name}", rtol=0, atol=0)


@pytest.mark.parametrize(
    "case, words",
    [
        ("train.dtype=float64", ("float64", "choose float32 or bfloat16")),
        ("train.dtype=float16", ("float16", "choose float32 or bfloat16")),
        ("pp=2 schedule=gpipe zero=1", ("gpipe", "choose 1f1b")),
        ("pp=2 schedule=interleaved virtual=2 zero=1 model.layers=4", ("choose 1f1b",)),
        ("train.dtype=bfloat16", ("parallel.zero=0", "choose parallel.zero=1")),
        ("pp=2", ("optim.clip=0.1", "choose parallel.zero=1, or optim.clip=0")),
    ],
)
def test_what_it_refuses(case, words):
    """Before any rank starts: in one line that says what would do."""
    from minimtnlg.engines.deepspeed import DeepSpeed

    with pytest.raises(InputError) as error:
        DeepSpeed.refuse(configure(case))
    text = str(error.value)
    assert text.startswith("--engine deepspeed has no ") and "\n" not in text
    assert all(word in text for word in words)


@pytest.mark.parametrize("case", ["", "schedule=gpipe", "pp=2 optim.clip=0", "pp=2 zero=1"])
def test_what_it_does_not_refuse(case):
    from minimtnlg.engines.deepspeed import DeepSpeed

    DeepSpeed.refuse(configure(case))
