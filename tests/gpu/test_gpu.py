"""The package on a GPU in bf16: its numbers, its memory, its libraries. See docs/gpu.md."""

import functools
import json
import math
import os
import shutil
import sys
from pathlib import Path

import commands
import pytest
import torch
import torch.distributed as dist
from metrics import rows

from minimtnlg import run
from minimtnlg.config import Model, load, sized
from minimtnlg.data.batches import Batch
from minimtnlg.device import DTYPES, device, generator, gpus, peak_memory
from minimtnlg.model import GPT, Draw
from minimtnlg.model.attention import readable_core, sdpa_core
from minimtnlg.parallel import collectives
from minimtnlg.plan.estimate import Job
from minimtnlg.plan.hardware import hardware, stack
from minimtnlg.plan.memory import GIB, memory, per_layer
from minimtnlg.train.optimizer import Optimizer
from minimtnlg.train.step import step
from minimtnlg.train.verify import configure, equal, verify

sys.path.insert(0, str(Path(__file__).parents[2] / "scaling" / "bench"))

SHAPE = "layers=2 hidden=64 heads=4 seq=64 vocab=256".split()


def config_of(*overrides, batch=8):
    small = [f"model.{x}" for x in SHAPE] + [f"train.global_batch={batch}", "train.ramp=null"]
    return sized(load("nano", [*small, *overrides]), 1)


def trained(config, steps=3, change=lambda model: None, before=lambda: None):
    """(losses, norms, model) of some steps on one batch, cut into micro-batches."""
    model = GPT(
        config.model, dtype=DTYPES[config.train.dtype], recompute=config.parallel.recompute
    )
    change(model)
    optimizer, m = Optimizer(model, config.optim), config.model
    text = torch.randint(m.vocab, (config.train.global_batch, m.seq + 1), generator=generator("x"))
    ones = torch.ones(config.train.micro_batch, m.seq, device=device())
    batches = [
        Batch(t[:, :-1], t[:, 1:], ones) for t in text.to(device()).split(config.train.micro_batch)
    ]
    found = []
    for number in range(steps):
        if number == 1:  # the first one makes Adam's moments
            before()
        found.append(step(model, optimizer, batches, lr=1e-3, seed=1, number=number))
    return *zip(*found, strict=True), model


def numbers(tensors):
    return [x.item() for x in tensors]


def test_a_run_in_bf16_from_the_command_line(settings, monkeypatch, capsys, tmp_path):
    call = functools.partial(commands.call, monkeypatch, capsys)
    out, tail = tmp_path / "run", ("--out", tmp_path / "run")
    overrides = [*settings, "train.dtype=bfloat16", "train.save_every=10", "train.keep=0"]
    assert call("train", "nano", *overrides, *tail)[0] == 0
    whole = rows(out)
    assert whole[-1]["valid_loss"] < whole[0]["loss"] - 2
    assert call("checkpoint", "verify", out)[0] == 0

    shutil.rmtree(out / "checkpoints" / f"step-{whole[-1]['step']}")
    (out / "latest").write_text("step-10\n")
    assert call("train", out / "config.yaml", *tail, "--resume")[0] == 0
    # Kernels of a GPU may add in another order each time, so the numbers are not the same bits.
    resumed = [row["loss"] for row in rows(out)]
    assert resumed == pytest.approx([row["loss"] for row in whole], abs=0.05)

    status, text, _ = call("generate", out, "--prompt", "the node", "--count", 8)
    assert status == 0 and text.startswith("the node")
    scores = tmp_path / "scores.json"
    arguments = ("--tasks", "hans", "--limit", "4", "--json", scores)
    assert call("evaluate", out, *arguments)[0] == 0
    assert json.loads(scores.read_text())
    assert call("checkpoint", "convert", out, "--to", "hf", "--out", tmp_path / "hf")[0] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("s, d", [(64, 16), (200, 64), (512, 128)])
def test_the_fused_attention_is_the_formula(s, d, dtype):
    """Against float64, its error is that of the formula in the same format, or at most twice it.

    Both round their inputs alike; the fused kernel keeps scores in fp32, the formula in `dtype`.
    16 eps are for what is added in another order.
    """
    g = generator("attention", s, d)
    exact = torch.randn(4, 2, 3, s, d, generator=g, dtype=torch.float64).to(dtype).to(device())

    def of(core, to):
        q, k, v, weight = (x.to(to).detach().requires_grad_() for x in exact)
        y = core(q, k, v, 0.0, None, 0)
        (y * weight).sum().backward()
        return [x.double() for x in (y.detach(), q.grad, k.grad, v.grad)]

    eps = torch.finfo(dtype).eps
    columns = of(readable_core, torch.float64), of(readable_core, dtype), of(sdpa_core, dtype)
    for right, formula, fused in zip(*columns, strict=True):
        size = right.abs().max()
        assert (fused - right).abs().max() <= 2 * (formula - right).abs().max() + 16 * eps * size


def test_dropout_repeats_and_leaves_no_trace():
    q, k, v = torch.randn(3, 1, 2, 64, 16, device=device())
    draw = Draw(seed=1, step=2, micro_batch=3)
    before = torch.rand(4, device=device(), generator=generator("a", device=device()))
    for core in (sdpa_core, readable_core):
        one, two, other = (core(q, k, v, 0.5, draw, layer) for layer in (0, 0, 1))
        assert torch.equal(one, two) and not torch.equal(one, other)
    again = torch.rand(4, device=device(), generator=generator("a", device=device()))
    assert torch.equal(before, again)


@pytest.mark.parametrize(
    "attention, recompute", [("sdpa", "full"), ("readable", "selective"), ("readable", "full")]
)
def test_recomputation_repeats_what_was_computed(attention, recompute):
    config = "model.dropout=0.1", f"model.attention={attention}", "train.dtype=float64"
    kept = trained(config_of(*config))
    again = trained(config_of(*config, f"parallel.recompute={recompute}"))
    for one, two in zip(kept[:2], again[:2], strict=True):
        assert numbers(one) == pytest.approx(numbers(two), rel=1e-12)


def test_a_step_never_waits_for_the_device(no_waiting):
    losses, _, _ = trained(config_of("train.dtype=bfloat16"), before=no_waiting)
    assert len(losses) == 3


def test_one_layer_keeps_what_the_formula_says():
    """Measured after a forward pass; a tenth is for copies of layout and the allocator's blocks."""
    b, found = 4, {}
    for layers in (2, 6):
        shape = Model(layers=layers, hidden=512, heads=8, seq=512, vocab=512)
        model = GPT(shape, dtype=torch.bfloat16)
        tokens = torch.zeros(b, shape.seq, dtype=torch.long, device=device())
        model(tokens).sum().backward()  # makes what a library keeps for itself
        before = torch.cuda.memory_allocated() if gpus() else 0
        y = model(tokens)
        found[layers] = (torch.cuda.memory_allocated() if gpus() else 0) - before
        del y, model
    if gpus():
        assert 1 <= (found[6] - found[2]) / 4 / per_layer(shape, 1, b) < 1.1


def test_the_peak_of_a_step_is_the_plans():
    config = config_of(
        "model.layers=8", "model.hidden=512", "model.seq=512", "model.vocab=8192",
        "model.heads=8", "train.dtype=bfloat16", "train.micro_batch=4",
    )  # fmt: skip
    peak_memory()
    trained(config, steps=2)
    most, soft = peak_memory(), stack("deepspeed-2021")  # which sums as we do: 20 bytes
    job = Job(config.model, 1, 1, 1, 4, 8)
    plan = memory(job, hardware("a100-80gb"), soft)[0].allocated * GIB
    assert most is None or plan * 0.8 < most < plan * 1.1


def losses_in_float64(ranks_share=False):
    config = config_of("train.dtype=float64", "model.dropout=0")
    losses, norms, _ = trained(config)
    return device().type, numbers(losses), numbers(norms)


def test_float64_gives_the_losses_of_the_cpu(monkeypatch):
    [(where, *here)] = run(losses_in_float64, 1)
    assert where == device().type
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    [(where, *there)] = run(losses_in_float64, 1)
    assert where == "cpu"
    for one, two in zip(here, there, strict=True):
        assert one == pytest.approx(two, rel=1e-10)


def test_one_process_and_a_rank_are_equal():
    """The step, its fused Adam and its clipping against the plain loop of verify.py."""
    assert equal(verify(configure("nano")))


@pytest.mark.parametrize("layout", ["tp=2", "pp=2", "dp=2"])
def test_layouts_on_as_many_gpus(layout):
    if gpus() == 1:
        pytest.skip("one GPU: the ranks of a layout would have none")
    zero = ["parallel.zero=1"] if layout == "dp=2" else []
    assert equal(verify(configure("nano", [f"parallel.{layout}", *zero])))


def test_more_ranks_than_gpus_compute_on_the_cpu():
    """gloo moves no tensor of a GPU from rank to rank, so all of them fall back, and say so."""
    count = 2 * max(1, gpus())
    found = run(losses_in_float64, count)
    [(_, *right)] = run(losses_in_float64, 1)
    assert {where for where, *_ in found} == {"cpu"}
    for _, *losses in found:
        for one, two in zip(losses, right, strict=True):
            assert one == pytest.approx(two, rel=1e-10)


def calls_alone(name):
    """Every operation of collectives.py in a group of this rank alone: what comes back."""
    group, where = dist.new_group([0]), device()
    x = torch.arange(6, device=where).to(getattr(torch, name)).view(3, 2)
    c = collectives
    found = [
        c.all_reduce(x.clone(), group), c.all_reduce(x.clone(), group, "max"),
        c.all_reduce(x.t().clone().t(), group), c.broadcast(x.clone(), 0, group),
        c.all_gather(x, group), c.reduce_scatter(x, group), c.summed(x, group),
    ]  # fmt: skip
    for call in (c.all_reduce, c.reduce_scatter):
        result, work = call(x.clone(), group, wait=False)
        work.wait()
        found.append(result)
    same = all(torch.equal(y, x) and y.device == x.device for y in found)
    values = [None]
    dist.all_gather_object(values, name)
    gathered = [None]
    dist.gather_object(name, gathered)
    dist.barrier(group)
    on_cpu = torch.ones(2)
    dist.all_reduce(on_cpu)  # as a cell of a notebook may do, whatever the device
    return same, values, gathered, on_cpu.tolist(), dist.get_backend(group)


@pytest.mark.parametrize("name", ["float64", "float32", "bfloat16", "int64"])
def test_the_library_of_the_gpu(name):
    same, values, gathered, on_cpu, backend = run(calls_alone, 1, name)[0]
    assert same and values == gathered == [name] and on_cpu == [1, 1]
    assert ("nccl" in backend) == (device().type != "cpu")


@pytest.mark.parametrize("clip", [0.0, 0.1])
def test_fused_adam_is_the_rule_of_lesson_4(clip):
    config = config_of("train.dtype=float64", f"optim.clip={clip}")
    model = GPT(config.model, dtype=torch.float64)
    optimizer, o, lr = Optimizer(model, config.optim), config.optim, 1e-2
    owned = optimizer.replicas.owned
    weights = [p.detach().clone() for p in owned]
    first = [torch.zeros_like(p) for p in weights]
    second = [torch.zeros_like(p) for p in weights]
    g = generator("adam", device=device())
    for t in range(1, 4):
        optimizer.zero()
        for p in owned:
            p.grad.copy_(torch.randn(p.shape, generator=g, device=p.device, dtype=p.dtype))
        gradients = [x.clone() for x in optimizer.replicas.gradients]
        norm = optimizer.step(lr)
        right = torch.stack([x.square().sum() for x in gradients]).sum().sqrt()
        assert norm.item() == pytest.approx(right.item(), rel=1e-12)
        factor = min(1.0, clip / (right.item() + 1e-6)) if clip else 1.0
        for w, m, v, gradient in zip(weights, first, second, gradients, strict=True):
            gradient = gradient * factor
            m.lerp_(gradient, 1 - o.beta1)
            v.lerp_(gradient.square(), 1 - o.beta2)
            if w.dim() >= 2:
                w.mul_(1 - lr * o.weight_decay)
            root = (v / (1 - o.beta2**t)).sqrt() + o.eps
            w.sub_(lr / (1 - o.beta1**t) * m / root)
    for w, p in zip(weights, owned, strict=True):
        torch.testing.assert_close(p.detach(), w, rtol=1e-10, atol=1e-12)


def test_compiled_blocks_give_the_same_losses():
    backend = "inductor" if device().type != "cpu" else "aot_eager"

    def change(model):
        for block in model.blocks:
            block.compile(backend=backend, fullgraph=True)

    config = config_of("train.dtype=float32")
    plain, compiled = (trained(config, change=how)[0] for how in (lambda model: None, change))
    assert numbers(compiled) == pytest.approx(numbers(plain), rel=1e-4)


def test_the_benchmark_times_each_side_and_survives_what_does_not_fit(monkeypatch):
    import single

    config = config_of("train.dtype=bfloat16")

    def too_large(config):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setitem(single.SIDES, "compiled", too_large)
    sides = ["minimtnlg", "compiled", "transformers"]
    found = single.turns(config, sides, runs=2, steps=1)
    lines = list(single.rows_of("tiny", config, found, 1e15, 1e15))
    assert lines[1]["failed"] == single.line(lines[1]).split(maxsplit=2)[2] == "out of memory"
    for row in (lines[0], lines[2]):
        assert row["loss"] == pytest.approx(math.log(256), abs=1) and row["mfu"] > 0
        assert os.path.basename(row["side"]) in single.line(row)
