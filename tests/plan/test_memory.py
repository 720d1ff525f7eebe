"""Memory: S13's formulas and figures, what autograd really saves, what a rank really holds."""

import dataclasses

import pytest
import torch
from saving import kept

from minimtnlg import run
from minimtnlg.config import Model, preset
from minimtnlg.model import GPT
from minimtnlg.model.layers import Draw
from minimtnlg.parallel.layout import Layout
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.plan.estimate import Job
from minimtnlg.plan.hardware import hardware, stack
from minimtnlg.plan.memory import GIB, in_flight, memory, parameters, per_layer, saved

A100 = hardware("a100-80gb")
SHAPES = {"22B": (48, 6144, 64), "175B": (96, 12288, 96), "530B": (105, 20480, 128),
          "1T": (128, 25600, 160)}  # fmt: skip


def model(name):
    layers, hidden, heads = SHAPES[name]
    return Model(layers=layers, hidden=hidden, heads=heads, seq=2048, vocab=51200, dropout=0.1,
                 attention="readable")  # fmt: skip


@pytest.mark.parametrize("tp", [1, 2, 8])
@pytest.mark.parametrize("name", SHAPES)
def test_the_formulas_of_s13(name, tp):
    shape = model(name)
    s, b, h, a, t = shape.seq, 4, shape.hidden, shape.heads, tp
    small = 1e-3  # statistics of LayerNorm are left out there
    near = pytest.approx
    sbh, core = s * b * h, 5 * a * s / h
    assert per_layer(shape, t, b) == near(sbh * (10 + 24 / t + core / t), rel=small)
    assert per_layer(shape, t, b, True) == near(sbh * (34 + core) / t, rel=small)
    assert per_layer(shape, t, b, False, "selective") == near(sbh * (10 + 24 / t), rel=small)
    assert per_layer(shape, t, b, True, "selective") == near(sbh * 34 / t, rel=small)
    assert per_layer(shape, t, b, False, "full") == 2 * sbh


@pytest.mark.parametrize("name, pp, virtual, m, b, states, baseline, present", [
    ("22B", 1, 1, 1, 4, 45.5625, 59.25, 9.5625),
    ("175B", 8, 3, 64, 1, 45.5625, 66.84375, 12.3515625),
    ("530B", 35, 3, 280, 1, 31.640625, 114.0234375, 23.076171875),
    ("1T", 64, 1, 512, 1, 32.958984375, 131.25, 26.5625),
])  # fmt: skip
def test_the_figures_of_s13(name, pp, virtual, m, b, states, baseline, present):
    """Figure 1 by S14: 18 bytes a parameter without embeddings, activations of the first stage."""
    shape, soft = model(name), stack("megatron-2022")
    job = Job(shape, 8, pp, 1, b, m * b, virtual)
    bare = dataclasses.replace(shape, vocab=8, seq=1)
    found = memory(job._replace(model=bare), A100, soft)[0]
    assert found.parameters + found.gradients + found.optimizer == pytest.approx(states, rel=1e-3)
    for sequence, recompute, figure in ((False, "none", baseline), (True, "selective", present)):
        kept = per_layer(shape, 8, b, sequence, recompute) * in_flight(job, 0)
        assert kept / GIB == pytest.approx(figure, rel=2e-3)


@pytest.mark.parametrize("name, told", [
    ("megatron-2021", 16), ("megatron-2022", 18), ("deepspeed-2021", 20),
])  # fmt: skip
def test_bytes_a_parameter(name, told):
    job = Job(model("530B"), 8, 35, 8, 1, 1920)
    found, count = memory(job, A100, stack(name))[1], parameters(job)[1]
    states = (found.parameters, found.gradients, found.optimizer)
    assert sum(states) * GIB == pytest.approx(told * count)
    one, two, three = (memory(job._replace(zero=z, pp=1), A100, stack(name))[0] for z in (1, 2, 3))
    whole = memory(job._replace(pp=1), A100, stack(name))[0]
    assert one.optimizer == pytest.approx(whole.optimizer / 8) and one.gradients == whole.gradients
    assert two.gradients == pytest.approx(whole.gradients / 8)
    assert three.parameters == pytest.approx(whole.parameters / 8)


SMALL = Model(layers=4, hidden=64, heads=8, seq=48, vocab=96, dropout=0.1, attention="readable")


def kept_by_autograd(shape, mesh, sequence_parallel, recompute):
    """Bytes that one block of a rank keeps for its backward pass."""
    gpt = GPT(shape, mesh, recompute=recompute, sequence_parallel=sequence_parallel)
    rows = shape.seq // (mesh.layout.tp if sequence_parallel else 1)
    x = torch.randn(rows, 3, shape.hidden, requires_grad=True)
    return kept(gpt.blocks[gpt.chunks[0][0]], x, Draw(1, 0, 0))


CASES = [  # sdpa is a fused kernel without dropout alone on a CPU
    ("sdpa", 0.0, "none"),
    *(("readable", dropout, again) for dropout in (0.0, 0.1) for again in ("none", "selective")),
]


def on_ranks(tp):
    """{case: bytes} of every case on this rank."""
    mesh, found = Mesh(Layout(tp=tp)), {}
    for attention, dropout, recompute in CASES:
        shape = dataclasses.replace(SMALL, attention=attention, dropout=dropout)
        for sequence in (False, True) if tp > 1 else (False,):
            case = attention, dropout, recompute, sequence
            found[case] = kept_by_autograd(shape, mesh, sequence, recompute)
    return found


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_what_autograd_saves(tp):
    """In fp32. The causal mask, a byte for each pair of tokens, is not in the table."""
    for found in run(on_ranks, tp, tp):
        for (attention, dropout, recompute, sequence), saves in found.items():
            shape = dataclasses.replace(SMALL, attention=attention, dropout=dropout)
            told = per_layer(shape, tp, 3, sequence, recompute, size=4)
            mask = shape.seq**2 if attention == "readable" and recompute == "none" else 0
            assert saves == told + mask, (attention, dropout, recompute, sequence)


def test_each_operation_of_the_table_is_named_once():
    assert sum(saved(SMALL).values()) == per_layer(SMALL)
    without = saved(dataclasses.replace(SMALL, dropout=0.0))
    gone = {name for name, size in saved(SMALL).items() if not without.get(name)}
    assert gone == {"out dropout", "mlp dropout", "attention dropout"}


@pytest.mark.parametrize("pp, virtual, m", [(1, 1, 3), (4, 1, 2), (4, 1, 9), (4, 2, 8), (2, 4, 2)])
def test_in_flight_as_the_simulation_counts(pp, virtual, m):
    from minimtnlg.parallel.simulate import simulate

    job = Job(dataclasses.replace(SMALL, layers=8), 1, pp, 1, 1, m, virtual)
    chunks = simulate(job.schedule).in_flight
    assert [in_flight(job, stage) for stage in range(pp)] == [
        n * 8 // (pp * virtual) for n in chunks
    ]


@pytest.mark.parametrize("pp, tp", [(1, 1), (1, 2), (2, 1), (4, 1), (2, 2)])
def test_parameters_of_a_rank(pp, tp):
    counts = run(count_parameters, pp * tp, pp, tp)
    told = parameters(Job(SMALL, tp, pp, 1, 1, pp))
    assert counts == [told[rank // tp] for rank in range(pp * tp)]


def count_parameters(pp, tp):
    return sum(p.numel() for p in GPT(SMALL, Mesh(Layout(tp=tp, pp=pp))).parameters())


def test_a_copy_of_the_embedding_stands_on_the_last_stage():
    shape = preset("mtnlg-530b").model
    counts = parameters(Job(shape, 8, 35, 8, 1, 1920))
    assert counts[0] == 2_060_874_240 and counts[1] == 1_887_859_200
    assert counts[34] == 2_018_972_160
