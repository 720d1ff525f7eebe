"""ZeRO: what each rank holds and sends equals the formulas; the updates equal those of one process.

Ranks are started once for each world size and run all cases. The reference is one copy of the model
in the same process, which sees what all replicas see and shares no code with the engine.
"""

import gc
import time

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from nets import Layer, fill
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from minimtnlg import run
from minimtnlg.config import Model, Optim
from minimtnlg.data.batches import Batch
from minimtnlg.errors import InputError
from minimtnlg.model import GPT
from minimtnlg.parallel.collectives import Recorder, all_reduce
from minimtnlg.parallel.layout import Layout
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.parallel.replicas import Replicas
from minimtnlg.parallel.zero import Zero, bytes_held, elements_sent
from minimtnlg.train.optimizer import Optimizer
from minimtnlg.train.step import evaluate, step

STAGES = (0, 1, 2, 3)
WIDTHS = (6, 5, 7, 1, 2, 8)  # no number of ranks divides all: the last shards are short or empty
RATE = 0.1


class Net(nn.Module):
    """Layers, and weights of the net itself: one used before and after them, one not at all."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.tied = nn.Parameter(torch.empty(WIDTHS[0], WIDTHS[-1]))
        self.layers = nn.ModuleList(map(Layer, WIDTHS[:-1], WIDTHS[1:]))
        self.unused = nn.Parameter(torch.empty(3))
        self.frozen = nn.Parameter(torch.empty(WIDTHS[-1]), requires_grad=False)
        fill(self, dtype)

    def forward(self, x, without=()):
        x = x + self.tied.mean(1)
        for i, layer in enumerate(self.layers):
            x = layer(x, with_bias=i not in without)
        return (x * self.frozen) @ self.tied.T


def everywhere(rank, k):
    """Layers whose bias is left out in micro-batch k of replica `rank`: none."""
    return ()


def x_of(rank, k, dtype=torch.float64):
    g = torch.Generator().manual_seed(100 * rank + k)
    return torch.randn(4, WIDTHS[0], generator=g, dtype=torch.float64).to(dtype)


def expected(n, m, steps=1, without=everywhere):
    """({name: gradient of the last step}, {name: weight}) of one process, in float64, by SGD."""
    net = Net()
    trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
    for _ in range(steps):
        for p in trained.values():
            p.grad = torch.zeros_like(p)
        for rank in range(n):
            for k in range(m):
                net(x_of(rank, k), without(rank, k)).sum().backward()
        with torch.no_grad():
            for p in trained.values():
                p -= RATE * p.grad
    return {n: p.grad for n, p in trained.items()}, {n: p.detach() for n, p in trained.items()}


def group():
    """The group of all ranks, as a Mesh has it: None where there is one."""
    return dist.group.WORLD if dist.get_world_size() > 1 else None


def of_net(net, stage):
    """Buckets of a layer each, the net's own weights last; at stage 0 the plain Replicas."""
    layers = list(reversed(net.layers))
    own = [p for p in (net.tied, net.unused) if p.requires_grad]
    buckets = [list(layer.parameters()) for layer in layers] + [own]
    if stage == 0:
        return Replicas(buckets, group())
    return Zero(buckets, group(), stage, [*layers, net] if stage == 3 else ())


def passes(net, replicas, me, m, without=everywhere):
    """The backward passes of a step; yields after each."""
    for k in range(m):
        replicas.begin(last=k == m - 1)
        net(x_of(me, k, net.tied.dtype), without(me, k)).sum().backward()
        replicas.accumulate()
        yield k


def update(replicas):
    """SGD on what this rank owns."""
    replicas.finish()
    with torch.no_grad():
        for owned, gradient in zip(replicas.owned, replicas.gradients, strict=True):
            owned -= RATE * gradient
    replicas.publish()


def assert_same(net, replicas, stage, me, n, wanted):
    """Gradients of this rank's rows, and the weights whole."""
    gradients, weights = wanted
    names = {p: name for name, p in net.named_parameters()}
    assert {names[p] for p in replicas.parameters} == gradients.keys()
    for p, gradient in zip(replicas.parameters, replicas.gradients, strict=True):
        whole = gradients[names[p]]
        rows = -(-len(whole) // n)
        mine = whole[me * rows :][:rows] if stage else whole
        assert gradient.shape == mine.shape
        assert ((gradient - mine).abs() < 1e-12).all(), names[p]
    with replicas.gathered():
        for name, weight in weights.items():
            assert (net.get_parameter(name) - weight).abs().max() < 1e-12, name


# The cases, as the ranks run them.


def updates_equal_one_process(me, n):
    for stage in STAGES:
        for m in (1, 3):
            net = Net()
            replicas = of_net(net, stage)
            for _ in range(3):
                replicas.zero()
                list(passes(net, replicas, me, m))
                update(replicas)
            assert_same(net, replicas, stage, me, n, expected(n, m, steps=3))


def shards_may_be_short_or_empty(me, n):
    """Row by row, every parameter lies on the ranks once."""
    for stage in (1, 2, 3):
        net = Net()
        whole = {name: p.detach().clone() for name, p in net.named_parameters()}
        names = {p: name for name, p in net.named_parameters()}
        replicas = of_net(net, stage)
        lengths = []
        for p, owned in zip(replicas.parameters, replicas.owned, strict=True):
            rows = -(-len(p) // n)
            assert torch.equal(owned, whole[names[p]][me * rows :][:rows])
            lengths.append(len(owned))
        summed = all_reduce(torch.tensor(lengths), group())
        assert summed.tolist() == [len(whole[names[p]]) for p in replicas.parameters]
    return lengths


def gradients_come_in_any_order(me, n):
    """One replica misses a gradient, of the last layer, one between or the first.

    Returns its calls: they must be the same in the same order on all ranks.
    """
    calls = []
    for stage in STAGES:
        for layer in (4, 2, 0):

            def without(rank, k, layer=layer):
                return {layer} if rank == n - 1 and k == 1 else ()

            net = Net()
            replicas = of_net(net, stage)
            replicas.zero()
            with Recorder() as seen:
                list(passes(net, replicas, me, 2, without))
                update(replicas)
            assert_same(net, replicas, stage, me, n, expected(n, 2, without=without))
            calls += [call[:3] for call in seen.calls]
    return calls


def accumulation_sends_what_it_must(me, n):
    """Calls after each of three passes, after the update, and no other."""
    if n == 1:
        return
    for stage in STAGES:
        net = Net()
        net.unused.requires_grad_(False)  # else its bucket waits for finish()
        replicas = of_net(net, stage)
        replicas.zero()
        b, seen = len(replicas.buckets), Recorder()
        with seen:
            after = [operations(seen) for _ in passes(net, replicas, me, 3)]
            update(replicas)
        expected = {
            0: [[0, 0, 0], [0, 0, 0], [b, 0, 0]],
            1: [[0, 0, 0], [0, 0, 0], [0, b, 0]],
            2: [[0, b, 0], [0, 2 * b, 0], [0, 3 * b, 0]],
            3: [[0, b, 2 * b], [0, 2 * b, 4 * b], [0, 3 * b, 6 * b]],
        }[stage]
        assert after == expected, stage
        end = {0: [b, 0, 0], 1: [0, b, b], 2: [0, 3 * b, b], 3: [0, 3 * b, 6 * b]}[stage]
        assert operations(seen) == end, stage


def operations(seen):
    """[all-reduces, reduce-scatters, all-gathers] so far."""
    called = [call.operation for call in seen.calls]
    return [called.count(name) for name in ("all_reduce", "reduce_scatter", "all_gather")]


def buckets_leave_during_backward(me, n):
    """When the first layer's gradient is computed, those of the layers behind are on their way."""
    for stage in STAGES:
        net, under_way = Net(), []
        replicas = of_net(net, stage)
        replicas.zero()
        replicas.begin(last=True)
        with Recorder() as seen:
            x = x_of(me, 0).requires_grad_()  # its gradient is computed last of all
            net.layers[0].register_full_backward_pre_hook(
                lambda *_, seen=seen, found=under_way: found.append(operations(seen)[:2])
            )
            net(x).sum().backward()
            replicas.accumulate()
        left = (len(net.layers) - 1) * (n > 1)
        assert under_way == [[0, left] if stage else [left, 0]], stage


def narrow_gradients_are_summed_in_fp32(me, n):
    """4096 + 1 is 4096 in both formats of 16 bits: every later 1 would be lost."""
    for stage in (1, 2, 3):
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            layer = nn.Linear(3, 8, bias=False, dtype=dtype)
            modules = [layer] if stage == 3 else ()
            replicas = Zero([[layer.weight]], group(), stage, modules)
            replicas.zero()
            for k in range(4):
                replicas.begin(last=k == 3)
                x = torch.ones(1, 3, dtype=dtype)
                (layer(x) * (4096.0 if k == 0 and me == 0 else 1.0)).sum().backward()
                replicas.accumulate()
            replicas.finish()
            (gradient,), (owned,) = replicas.gradients, replicas.owned
            assert gradient.dtype == torch.float32 and owned.dtype == dtype
            assert gradient.shape == (8 // n, 3) and (gradient == 4096 + 4 * n - 1).all()


def a_leftover_gradient_is_forgotten(me, n):
    for stage in (1, 2, 3):
        net = Net()
        replicas = of_net(net, stage)
        for _ in range(2):
            replicas.zero()
            list(passes(net, replicas, me, 1))
            update(replicas)
            net(x_of(me, 7)).sum().backward()  # and no accumulate()
        assert_same(net, replicas, stage, me, n, expected(n, 1, steps=2))


# The same with a GPT and Adam in bfloat16, of which every dimension is a multiple of the ranks.

CONFIG = Model(layers=3, hidden=16, heads=2, seq=8, vocab=32)
OPTIM = Optim(lr=1e-3, min_lr=0.0, warmup_tokens=0, decay_tokens=1)


def batch(number, me):
    g = torch.Generator().manual_seed(100 * number + me)
    ids = torch.randint(CONFIG.vocab, (2, CONFIG.seq + 1), generator=g)
    return Batch(ids[:, :-1], ids[:, 1:], torch.ones(2, CONFIG.seq))


def gpt(stage, mesh, recompute="none", attention="sdpa", dtype=torch.bfloat16):
    config = Model(**(vars(CONFIG) | {"attention": attention}))
    model = GPT(config, mesh, dtype=dtype, recompute=recompute)
    return model, Optimizer(model, OPTIM, zero=stage)


def storages():
    """{address: bytes} of all tensors that are alive; bare numbers are left out."""
    with_numbers = (x for x in gc.get_objects() if issubclass(type(x), torch.Tensor) and x.dim())
    found = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in with_numbers}
    return {address: size for address, size in found.items() if size}


def alive():
    gc.collect()
    return sum(storages().values())


def quiet():
    """Bytes alive once every rank is past its last collective, and none goes any more.

    A thread of the library lets go of a collective's tensors a moment after it has ended. Those of
    an earlier case must be gone before counting begins: they would be missed later.
    """
    dist.barrier()
    last, since = alive(), time.monotonic()
    while time.monotonic() - since < 0.3:
        time.sleep(0.02)
        if (now := alive()) != last:
            last, since = now, time.monotonic()
    return last


def settles_at(wanted, more_than):
    """Bytes alive beyond `more_than`; what a thread of the library still holds goes in a moment."""
    for _ in range(200):
        held = alive() - more_than
        if held == wanted:
            break
        time.sleep(0.01)
    return held


def bytes_held_equal_the_formula(me, n):
    """Between micro-batches and between steps, in the second step, when Adam has its moments."""
    for stage in STAGES:
        before = quiet()
        model, optimizer = gpt(stage, mesh_of(n))
        wanted = bytes_held(CONFIG.parameters(), n, stage)
        for number in range(2):
            optimizer.zero()
            for k in range(3):
                optimizer.replicas.begin(last=k == 2)
                model.loss(batch(k, me)).backward()
                optimizer.accumulate()
                assert all(p.grad is None for p in model.parameters())
                if number and k < 2:
                    assert (held := settles_at(wanted, before)) == wanted, (stage, k, held)
            optimizer.step(1e-3)
        assert (held := settles_at(wanted, before)) == wanted, (stage, held)
        del model, optimizer


def elements_sent_equal_the_formula(me, n):
    mesh = mesh_of(n)
    for stage in STAGES:
        for m in (1, 3):
            model, optimizer = gpt(stage, mesh)
            for _ in range(2):
                with Recorder() as seen:
                    step(
                        model,
                        optimizer,
                        [batch(k, me) for k in range(m)],
                        lr=1e-3,
                        seed=1,
                        number=1,
                    )
                calls = [call for call in seen.calls if call.elements > 1]  # loss, norm, tokens
                sent = sum(call.wire_bytes / call.bytes * call.elements for call in calls)
                wanted = elements_sent(CONFIG.parameters(), n, stage, m)
                assert sent == pytest.approx(wanted, rel=1e-12), (stage, m)
                assert len(seen.calls) - len(calls) == (0 if n == 1 else 2 if stage == 0 else 3)
                width = {"all_gather": 2, "all_reduce": 4, "reduce_scatter": 4}
                assert all(call.bytes == width[call.operation] * call.elements for call in calls)


class WholeBlocks(TorchDispatchMode):
    """Counts, at every operation, the blocks whose weights are there."""

    def __init__(self, model):
        super().__init__()
        self.blocks = [list(block.parameters()) for block in model.blocks]
        self.parameters, self.most = list(model.parameters()), 0

    def now(self):
        return [all(p.untyped_storage().nbytes() for p in block) for block in self.blocks]

    def any_weight(self):
        return any(p.untyped_storage().nbytes() for p in self.parameters)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.most = max(self.most, sum(self.now()))
        return func(*args, **(kwargs or {}))


def weights_are_there_for_one_block_at_a_time(me, n):
    """At stage 3: in forward, in backward, with any recomputation, in evaluation."""
    mesh = mesh_of(n)
    for recompute in ("none", "selective", "full"):
        model, optimizer = gpt(3, mesh, recompute, "readable")
        with WholeBlocks(model) as whole, Recorder() as seen:
            assert not whole.any_weight()
            optimizer.zero()
            for k in range(2):
                optimizer.replicas.begin(last=k == 1)
                loss = model.loss(batch(k, me))
                assert not whole.any_weight() and whole.most == 1
                loss.backward()
                optimizer.accumulate()
                assert not whole.any_weight()
            optimizer.step(1e-3)
            assert not whole.any_weight() and whole.most == 1
            # forward and backward, three blocks and the rest; recomputation gathers no more
            assert operations(seen)[2] == 2 * 2 * 4 * (n > 1)
            evaluate(model, [batch(9, me)])
            assert not whole.any_weight() and whole.most == 1
            with optimizer.replicas.gathered():
                assert all(whole.now())
            assert not whole.any_weight()


MESHES = {}


def mesh_of(n):
    if n not in MESHES:
        MESHES[n] = Mesh(Layout(dp=n)) if n > 1 else Mesh()
    return MESHES[n]


CASES = [
    updates_equal_one_process,
    shards_may_be_short_or_empty,
    gradients_come_in_any_order,
    accumulation_sends_what_it_must,
    buckets_leave_during_backward,
    narrow_gradients_are_summed_in_fp32,
    a_leftover_gradient_is_forgotten,
    bytes_held_equal_the_formula,
    elements_sent_equal_the_formula,
    weights_are_there_for_one_block_at_a_time,
]


def all_cases():
    """{name of a case: what it returned}. One that fails ends the job with its lines."""
    return {case.__name__: case(dist.get_rank(), dist.get_world_size()) for case in CASES}


@pytest.mark.parametrize("n", (1, 2, 4))
def test_on_ranks(n):
    first, *others = told = run(all_cases, n)
    for other in others:
        assert other["gradients_come_in_any_order"] == first["gradients_come_in_any_order"]
    lengths = set(zip(*(each["shards_may_be_short_or_empty"] for each in told), strict=True))
    if n == 4:  # of one row, of two, of five
        assert {(1, 0, 0, 0), (1, 1, 0, 0), (2, 2, 1, 0)} <= lengths


# Without ranks.


def test_bytes_of_the_paper():
    """7.5 billion parameters on 64 ranks [S15, fig. 1], gradients in 2 bytes; ours in 4."""
    theirs = [bytes_held(7.5e9, 64, stage, gradient=2) / 1e9 for stage in STAGES]
    assert [round(x, 1) for x in theirs] == [120.0, 31.4, 16.6, 1.9]
    assert [bytes_held(64, 64, stage) for stage in STAGES] == [
        18 * 64,
        6 * 64 + 12,
        2 * 64 + 16,
        18,
    ]
    assert bytes_held(1, 1, 3) == bytes_held(1, 1, 0) == 18
    assert bytes_held(10, 2, 1, optimizer=8) == 10 * (2 + 4 + 4)


def test_elements_by_hand():
    """1000 parameters on 4 ranks: a whole pass over all costs 750."""
    times = {1: (2, 2, 2, 3), 3: (2, 2, 4, 9)}
    for m, row in times.items():
        assert [elements_sent(1000, 4, stage, m) for stage in STAGES] == [750 * x for x in row]


@given(p=st.integers(1, 10**12), n=st.integers(1, 4480), m=st.integers(1, 300))
def test_more_is_cut_at_each_stage_and_no_less_sent(p, n, m):
    held = [bytes_held(p, n, stage) for stage in STAGES]
    sent = [elements_sent(p, n, stage, m) for stage in STAGES]
    assert held == sorted(held, reverse=True) or n == 1
    assert sent == sorted(sent) and sent[0] <= 2 * p
    assert held[3] * n == pytest.approx(held[0])


@pytest.mark.parametrize("stage", (0, 4, True, "2"))
def test_other_stages_are_refused(stage):
    p = nn.Parameter(torch.ones(2))
    if stage is True:  # equals 1
        return
    with pytest.raises(InputError, match=r"the stages of ZeRO are 1, 2 and 3"):
        Zero([[p]], None, stage)
