"""Replicas add up what each of them has found: sums, order, formats, and what is sent when.

Ranks are started once for each world size and run all cases. The reference is one copy of the net
in the same process, which sees what all replicas see and shares no code with the engine.
"""

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from nets import Layer, fill
from torch import nn

from minimtnlg import run
from minimtnlg.parallel.collectives import Recorder
from minimtnlg.parallel.replicas import BUCKET_BYTES, Bucket, Replicas, in_buckets
from minimtnlg.parallel.zero import elements_sent

WIDTHS = (6, 5, 7, 1, 8)  # no two layers alike; some that no number of ranks divides


class Net(nn.Module):
    """Layers, a vector that is used twice, one that is never used, one that is frozen."""

    def __init__(self, dtype=torch.float64, widths=WIDTHS):
        super().__init__()
        self.scale = nn.Parameter(torch.empty(widths[-1]))
        self.layers = nn.ModuleList(map(Layer, widths[:-1], widths[1:]))
        self.unused = nn.Parameter(torch.empty(3))
        self.frozen = nn.Parameter(torch.empty(widths[-1]), requires_grad=False)
        fill(self, dtype)

    def forward(self, x, without=()):
        for i, layer in enumerate(self.layers):
            x = layer(x, with_bias=i not in without)
        return (x * self.scale * self.frozen + self.scale).sum()


def x_of(rank, k, dtype=torch.float64):
    """What replica `rank` reads in its micro-batch k."""
    g = torch.Generator().manual_seed(100 * rank + k)
    return torch.randn(4, WIDTHS[0], generator=g, dtype=torch.float64).to(dtype)


def expected(n, m, without=lambda rank, k: ()):
    """{name: gradient} of one process over the micro-batches of all replicas, in float64."""
    net = Net()
    for rank in range(n):
        for k in range(m):
            net(x_of(rank, k), without(rank, k)).backward()
    trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in trained.items()}


def found(net, replicas):
    """{name: gradient} of what this rank updates."""
    names = {p: name for name, p in net.named_parameters()}
    pairs = zip(replicas.parameters, replicas.gradients, strict=True)
    return {names[p]: gradient for p, gradient in pairs}


def passes(net, replicas, me, m, without=lambda rank, k: ()):
    """The backward passes of a step; yields after each."""
    for k in range(m):
        replicas.begin(last=k == m - 1)
        net(x_of(me, k, net.scale.dtype), without(me, k)).backward()
        replicas.accumulate()
        yield k


def group():
    """The group of all ranks, as a Mesh has it: None where there is one."""
    return dist.group.WORLD if dist.is_initialized() and dist.get_world_size() > 1 else None


def of_net(net, **sizes):
    return Replicas(in_buckets(net.parameters(), **sizes), group())


# The cases, as the ranks run them.


def sums_equal_one_process(me, n):
    for m in (1, 3):
        net = Net()
        replicas = of_net(net)
        assert len(replicas.buckets) > 2
        for _ in range(2):  # the second step has forgotten the first
            replicas.zero()
            list(passes(net, replicas, me, m))
            replicas.finish()
            got, wanted = found(net, replicas), expected(n, m)
            assert got.keys() == wanted.keys()
            for name in got:
                assert (got[name] - wanted[name]).abs().max() < 1e-12, name
            assert not got["unused"].any()
        assert net.frozen.grad is None


def gradients_come_in_any_order(me, n):
    """A replica that misses a gradient calls in the same order as the others, and the sum holds."""
    for lacking in range(n):
        for layer in range(len(WIDTHS) - 1):

            def without(rank, k, lacking=lacking, layer=layer):
                return {layer} if rank == lacking and k == 1 else ()

            net = Net()
            replicas = of_net(net)
            replicas.zero()
            with Recorder() as seen:
                list(passes(net, replicas, me, 2, without))
                replicas.finish()
            sizes = [bucket.ends[-1] for bucket in replicas.buckets]
            assert [call.elements for call in seen.calls] == (sizes if n > 1 else [])
            got, wanted = found(net, replicas), expected(n, 2, without)
            for name in got:
                assert (got[name] - wanted[name]).abs().max() < 1e-12, (lacking, layer, name)


def accumulation_sends_nothing(me, n):
    for m in (1, 3):
        net = Net()
        net.unused.requires_grad_(False)  # else its bucket waits for finish()
        replicas = of_net(net)
        replicas.zero()
        with Recorder() as seen:
            after = [len(seen.calls) for _ in passes(net, replicas, me, m)]
            replicas.finish()
        assert after == [0] * (m - 1) + [len(replicas.buckets) * (n > 1)]
        parameters = sum(p.numel() for p in replicas.parameters)
        wire = sum(call.wire_bytes for call in seen.calls) / 8
        assert wire == pytest.approx(elements_sent(parameters, n, 0, m), rel=1e-12)


def buckets_leave_during_backward(me, n):
    """When the first layer's gradient is computed, the last layers' buckets are on their way."""
    net, under_way = Net(), []
    net.unused.requires_grad_(False)
    replicas = of_net(net, size=1)  # a bucket for each parameter
    replicas.zero()
    replicas.begin(last=True)
    with Recorder() as seen:
        net.layers[0].weight.register_hook(lambda _: under_way.append(len(seen.calls)))
        net(x_of(me, 0)).backward()
        replicas.accumulate()
        replicas.finish()
    assert len(replicas.buckets) == 2 * len(net.layers) + 1
    assert len(seen.calls) == len(replicas.buckets) * (n > 1)
    if n > 1:  # those of all layers but the first, whose bias may have left too
        assert 2 * len(net.layers) - 2 <= under_way[0] < 2 * len(net.layers)


def nothing_leaves_before_finish_unless_told(me, n):
    net = Net()
    replicas = of_net(net)
    replicas.zero()
    with Recorder() as seen:
        net(x_of(me, 0)).backward()  # no begin(): the caller does not know which pass is the last
        replicas.accumulate()
        before = len(seen.calls)
        replicas.finish()
    assert before == 0 and len(seen.calls) == len(replicas.buckets) * (n > 1)
    for name, gradient in found(net, replicas).items():
        assert (gradient - expected(n, 1)[name]).abs().max() < 1e-12


def narrow_gradients_are_summed_in_fp32(me, n):
    """256 + 1 is 256 in bfloat16: every later 1 would be lost."""
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        p = nn.Parameter(torch.ones(5, dtype=dtype))
        replicas = Replicas([[p]], group())
        replicas.zero()
        for k in range(4):
            replicas.begin(last=k == 3)
            (p * (4096.0 if k == 0 and me == 0 else 1.0)).sum().backward()
            assert p.grad is None or p.grad.dtype == dtype
            replicas.accumulate()
        replicas.finish()
        (gradient,) = replicas.gradients
        assert gradient.dtype == torch.float32
        assert gradient.tolist() == [4096.0 + 4 * n - 1] * 5


def wide_gradients_are_added_in_place(me, n):
    """Where weights have the format of the sums, there is one copy of the gradients, not two."""
    net = Net()
    replicas = of_net(net)
    replicas.zero()
    for _ in passes(net, replicas, me, 2):
        for p, gradient in zip(replicas.parameters, replicas.gradients, strict=True):
            assert p.grad is gradient
    storages = {g.untyped_storage().data_ptr(): g.untyped_storage() for g in replicas.gradients}
    total = sum(p.numel() for p in replicas.parameters)
    assert len(storages) == len(replicas.buckets)
    assert sum(storage.nbytes() for storage in storages.values()) == 8 * total
    replicas.finish()
    assert all(p.grad is g for p, g in zip(replicas.parameters, replicas.gradients, strict=True))


def a_leftover_gradient_is_forgotten(me, n):
    for dtype in (torch.float64, torch.bfloat16):
        net = Net(dtype)
        replicas = of_net(net)
        results = []
        for _ in range(2):
            replicas.zero()
            list(passes(net, replicas, me, 1))
            replicas.finish()
            results.append([g.clone() for g in replicas.gradients])
            for p in replicas.parameters:
                p.grad = torch.ones_like(p)
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def all_of_a_replica_is_whole(me, n):
    net = Net()
    replicas = of_net(net)
    assert replicas.owned == replicas.parameters and not replicas.cut
    with Recorder() as seen, replicas.gathered():
        replicas.publish()
    assert seen.calls == []
    trained = [p for p in net.parameters() if p.requires_grad]
    assert all(a is b for a, b in zip(replicas.parameters, trained, strict=True))  # order of use


CASES = [
    sums_equal_one_process,
    gradients_come_in_any_order,
    accumulation_sends_nothing,
    buckets_leave_during_backward,
    nothing_leaves_before_finish_unless_told,
    narrow_gradients_are_summed_in_fp32,
    wide_gradients_are_added_in_place,
    a_leftover_gradient_is_forgotten,
    all_of_a_replica_is_whole,
]


def all_cases():
    """One that fails ends the job with its lines."""
    for case in CASES:
        case(dist.get_rank(), dist.get_world_size())


@pytest.mark.parametrize("n", (2, 4))
def test_on_ranks(n):
    run(all_cases, n)


@pytest.mark.parametrize("case", CASES)
def test_alone(case):
    case(0, 1)


# Without ranks.

SHAPES = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1, max_size=8)


@given(shapes=SHAPES, frozen=st.sets(st.integers(0, 7)), size=st.integers(1, 400))
def test_buckets_hold_the_trained_parameters_from_last_to_first(shapes, frozen, size):
    parameters = [
        nn.Parameter(torch.empty(shape), i not in frozen) for i, shape in enumerate(shapes)
    ]
    buckets = in_buckets(parameters, size)
    trained = [p for p in parameters if p.requires_grad]
    in_order = [p for bucket in buckets for p in bucket]
    assert all(a is b for a, b in zip(in_order, reversed(trained), strict=True))
    enough = min(size, sum(4 * p.numel() for p in trained) / 4)
    for i, bucket in enumerate(buckets):
        held = [4 * p.numel() for p in bucket]
        assert sum(held[:-1]) < enough  # as few as will do
        assert sum(held) >= enough or i == len(buckets) - 1


def test_bytes_are_those_of_fp32_sums():
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        parameters = [nn.Parameter(torch.empty(10, dtype=dtype)) for _ in range(12)]
        assert [len(bucket) for bucket in in_buckets(parameters, 80)] == [2] * 6
        assert [len(bucket) for bucket in in_buckets(parameters)] == [3] * 4
    assert BUCKET_BYTES == 64 * 2**20
    assert in_buckets([]) == []
    assert Replicas([], None).gradients == []


@given(shapes=SHAPES, lanes=st.integers(1, 6))
def test_pieces_put_together_are_the_whole(shapes, lanes):
    parameters = [nn.Parameter(torch.empty(shape)) for shape in shapes]
    bucket = Bucket(parameters, lanes)
    values = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    flat = bucket.zeros(torch.float64)
    assert flat.shape == (lanes, bucket.ends[-1])
    for i, x in enumerate(values):
        bucket.add(flat, i, x.transpose(0, -1).contiguous().transpose(0, -1))  # any memory layout
    for i, x in enumerate(values):
        assert torch.equal(bucket.whole_in(flat, i), x)
        rows = -(-len(x) // lanes)
        assert flat.shape[1] >= rows * x[0].numel()
        for lane in range(lanes):
            piece = bucket.piece(x, i, lane)
            assert torch.equal(piece, x[lane * rows : (lane + 1) * rows])  # may be short or empty
            assert torch.equal(bucket.piece_in(flat[lane : lane + 1], i, piece), piece)
    assert flat.count_nonzero() == sum(x.numel() for x in values)  # the rest is filled with zeros
    bucket.add(flat, 0, values[0])
    assert torch.equal(bucket.whole_in(flat, 0), 2 * values[0])
    if lanes == 1:
        assert bucket.whole_in(flat, 0).data_ptr() == flat.data_ptr()
