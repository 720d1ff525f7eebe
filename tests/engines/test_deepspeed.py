"""What is DeepSpeed's alone: layouts that parity.py does not have, bfloat16, ZeRO 3, refusals."""

import parity
import pytest
import torch

from minimtnlg import engines, run
from minimtnlg.errors import InputError
from minimtnlg.parallel.layout import Layout
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.train.mini import Mini

pytestmark = pytest.mark.skipif(
    not engines.installed("deepspeed"), reason="pip install 'minimtnlg[engines]' brings DeepSpeed"
)

LAYOUTS = [
    "pp=2 dp=2 zero=0 optim.clip=0",
    "pp=2 dp=2 zero=1 model.dropout=0.2 recompute=selective model.attention=readable",
    "tp=2 pp=2 zero=1 sequence_parallel=true",  # messages between stages that are not slices
]


@pytest.mark.long  # each process loads DeepSpeed
def test_layouts_of_four_ranks_equal_one_process(monkeypatch):
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")  # DeepSpeed loads in half the time
    configs = [parity.configure(case) for case in LAYOUTS]
    ranks = run(parity.on_ranks, 4, "deepspeed", configs, timeout=600)
    for case, config, found in zip(LAYOUTS, configs, zip(*ranks, strict=True), strict=True):
        for what, difference in parity.differences(config, parity.serial(config), found).items():
            assert difference <= parity.LIMIT, (case, what)


def both(configs):
    """[(what `trained` says of Mini, and of DeepSpeed, what is never cut)] for each Config."""
    results = []
    for config in configs:
        p = config.parallel
        mesh = Mesh(Layout(tp=p.tp, pp=p.pp, dp=p.dp))
        engine = engines.named("deepspeed")(config, mesh)
        whole = {name for name, x in engine.parameters.items() if x.numel() or x.ds_persist}
        results.append((trained(Mini(config, mesh)), trained(engine), whole))
    return results


def trained(engine):
    """([loss, norm, validation loss] of two steps, {name: weight}); masks are uneven."""
    mine, told = parity.mine(engine, 1), []
    for number in (0, 1):
        told += [*engine.step(mine, parity.LR, number), engine.evaluate(mine)]
    return told, engine.state()


def test_in_bfloat16_it_equals_our_own_ranks(monkeypatch):
    """Weights but for a last bit: both sum gradients in fp32 and keep fp32 masters."""
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    cases = ["dp=2 zero=1", "dp=2 zero=2", "dp=2 zero=3", "pp=2 zero=1", "tp=2 zero=1"]
    configs = [parity.configure(f"{case} train.dtype=bfloat16") for case in cases]
    for results in run(both, 2, configs, timeout=600):
        for case, ((told, weights), (told_here, found), whole) in zip(cases, results, strict=True):
            assert told_here == pytest.approx(told, rel=1e-6), case
            assert found.keys() == weights.keys()
            for name, x in found.items():
                assert x.dtype is torch.bfloat16
                assert torch.allclose(x, weights[name], rtol=2**-7, atol=1e-7), (case, name)
            cut = {name for name, x in found.items() if x.dim() > 1 and "zero=3" in case}
            assert whole == found.keys() - cut, case


@pytest.mark.parametrize(
    "case, words",
    [
        ("train.dtype=float64", ("float64", "choose float32 or bfloat16")),
        ("train.dtype=float16", ("float16", "choose float32 or bfloat16")),
        ("pp=2 schedule=gpipe zero=1", ("gpipe", "choose 1f1b")),
        ("pp=2 schedule=interleaved virtual=2 zero=1", ("interleaved", "choose 1f1b")),
        ("train.dtype=bfloat16", ("parallel.zero=0", "choose parallel.zero=1")),
        ("pp=2", ("optim.clip=0.1", "choose parallel.zero=1, or optim.clip=0")),
    ],
)
def test_what_it_refuses(case, words):
    """Before any rank starts: in one line that says what would do."""
    with pytest.raises(InputError) as error:
        engines.named("deepspeed").refuse(parity.configure(case))
    text = str(error.value)
    assert text.startswith("--engine deepspeed has no ") and "\n" not in text
    assert all(word in text for word in words)


@pytest.mark.parametrize("case", ["", "schedule=gpipe", "pp=2 optim.clip=0", "pp=2 zero=1"])
def test_what_it_does_not_refuse(case):
    engines.named("deepspeed").refuse(parity.configure(case))
