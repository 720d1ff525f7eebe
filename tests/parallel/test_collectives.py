"""Collectives equal a serial computation of the whole; the recorder counts what was sent.

Ranks are started once for each world size. They run all cases, and each draws what the others hold.
"""

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from hypothesis import given
from hypothesis import strategies as st

from minimtnlg import run
from minimtnlg.errors import InputError
from minimtnlg.parallel import collectives as c

# bfloat16 holds these small integers and their sums exactly
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.int64)
SHAPES = ((8,), (16, 2, 3), (0, 3))


def held(rank, shape, dtype):
    """What `rank` holds: small integers, other ones on each rank."""
    g = torch.Generator().manual_seed(rank)
    return torch.randint(-4, 5, shape, generator=g).to(dtype)


def layouts_of(x, rank):
    """The same values, contiguous or not; not in the same way on all ranks."""
    yield x.clone()
    if x.dim() > 1:
        turned = x.transpose(0, 1).contiguous().transpose(0, 1)
        gaps = torch.stack([x, x], -1)[..., 0]
        yield (x.clone(), turned, gaps)[rank % 3]
        yield (gaps, x.clone(), turned)[rank % 3].clone(memory_format=torch.preserve_format)


def each_tensor(me, n):
    """(mine, [that of each rank]) in all types, shapes and memory layouts."""
    for dtype in DTYPES:
        for shape in SHAPES:
            everyone = [held(rank, shape, dtype) for rank in range(n)]
            for mine in layouts_of(everyone[me], me):
                yield mine, torch.stack(everyone)


def world():
    """The group of all ranks, as a Mesh has it: None where there is one."""
    return dist.group.WORLD if dist.get_world_size() > 1 else None


# The cases, as the ranks run them.


def all_reduce(me, n):
    for op in ("sum", "max"):
        for x, everyone in each_tensor(me, n):
            whole = everyone.sum(0) if op == "sum" else everyone.amax(0)
            assert c.all_reduce(x, world(), op) is x
            assert torch.equal(x, whole.to(x.dtype))


def all_reduce_without_waiting(me, n):
    tensors = [held(me, (50,), torch.float64) for _ in range(5)]
    started = [c.all_reduce(x, world(), wait=False) for x in tensors]
    for x, (same, work) in zip(tensors, started, strict=True):
        work.wait()
        assert same is x
        assert torch.equal(x, sum(held(rank, (50,), torch.float64) for rank in range(n)))
    with pytest.raises(InputError, match="wait=False needs a contiguous tensor"):
        c.all_reduce(torch.ones(2, 3).T, world(), wait=False)


def all_gather(me, n):
    for x, everyone in each_tensor(me, n):
        before = x.clone()
        assert torch.equal(c.all_gather(x, world()), everyone.flatten(0, 1))
        assert torch.equal(x, before)


def reduce_scatter(me, n):
    for x, everyone in each_tensor(me, n):
        before = x.clone()
        part = c.reduce_scatter(x, world())
        assert torch.equal(part, everyone.sum(0).to(x.dtype).chunk(n)[me])
        assert torch.equal(x, before)


def broadcast(me, n):
    for source in {0, n // 2, n - 1}:
        for x, everyone in each_tensor(me, n):
            assert c.broadcast(x, source, world()) is x
            assert torch.equal(x, everyone[source])
    for source in (-1, n):
        with pytest.raises(InputError, match=f"no source {source} in a group of {n} ranks"):
            c.broadcast(torch.ones(2), source, world())


def rounding_alone_differs(me, n):
    everyone = torch.stack(
        [torch.randn(64, 3, generator=torch.Generator().manual_seed(r)).double() for r in range(n)]
    )
    whole = everyone.sum(0)
    parts = c.reduce_scatter(everyone[me], world())
    assert (c.all_gather(parts, world()) - whole).abs().max() < 1e-14
    assert (c.all_reduce(everyone[me].clone(), world()) - whole).abs().max() < 1e-14


def exchange(me, n):
    assert c.exchange([], []) == []
    if n == 1:
        return
    after, before = (me + 1) % n, (me - 1) % n
    for x, everyone in each_tensor(me, n):
        down, up = torch.empty(2, *x.shape, dtype=x.dtype)
        sends = [(x, after), (10 * x, before)]
        # between two ranks, both neighbours are one: messages come in the order of the lists
        for work in c.exchange(sends, [(down, before), (up, after)]):
            work.wait()
        assert torch.equal(down, everyone[before])
        assert torch.equal(up, 10 * everyone[after])


def groups_within_the_world(me, n):
    if n < 4:
        return
    odd = dist.new_group([1, 3])
    if me not in (1, 3):
        return
    other = 4 - me
    assert (c.size(odd), c.rank(odd)) == (2, me // 2)
    assert c.broadcast(torch.tensor([me]), 1, odd).item() == 3  # an index, not a rank
    assert c.all_gather(torch.tensor([me]), odd).tolist() == [1, 3]
    got = torch.zeros(1)
    for work in c.exchange([(torch.ones(1) * me, other)], [(got, other)], odd):  # ranks
        work.wait()
    assert got.item() == other


def a_group_of_one_returns_its_input(me, n):
    x = torch.randn(3, 4).T
    with c.Recorder() as seen:
        assert c.all_reduce(x, None) is x
        assert c.all_gather(x, None) is x
        assert c.reduce_scatter(x, None) is x
        assert c.broadcast(x, 0, None) is x
        same, work = c.all_reduce(y := torch.ones(2), None, wait=False)
        work.wait()
        assert same is y
    assert seen.calls == []
    assert (c.size(None), c.rank(None)) == (1, 0)
    alone = [dist.new_group([rank]) for rank in range(n)][me]  # a real group of one: the same
    assert torch.equal(c.all_gather(x, alone), x)
    assert torch.equal(c.reduce_scatter(x, alone), x)


def sizes_that_do_not_divide(me, n):
    if n == 1:
        return ""
    with pytest.raises(InputError) as told:
        c.reduce_scatter(torch.ones(n + 1, 2), world())
    with pytest.raises(InputError, match=f"; {n} rows would fit"):
        c.reduce_scatter(torch.ones(n - 1, 2), world())
    with pytest.raises(InputError, match="op='mean', but there are only sum, max"):
        c.all_reduce(torch.ones(1), world(), "mean")
    return str(told.value)


def recorder_sees_each_kind_of_call(me, n):
    if n == 1:
        return
    x, all_ranks = torch.ones(n * 4, 3, dtype=torch.bfloat16), "0,1" if n == 2 else f"0-{n - 1}"
    named = dist.new_group(list(range(n)), group_desc="tp")
    after, before = (me + 1) % n, (me - 1) % n
    with c.Recorder() as seen:
        c.all_reduce(x, named)
        c.all_reduce(x.T, named, "max")
        c.all_reduce(x, world(), wait=False)[1].wait()
        c.all_gather(x, named)
        c.reduce_scatter(x.double(), world())
        c.broadcast(x, 1, named)
        works = c.exchange([(x, after)], [(torch.empty_like(x), before)], named)
        [work.wait() for work in works]
        functional.all_reduce(x, "sum", named).sum()
        dist.all_gather([torch.empty_like(x) for _ in range(n)], x)  # the calls of other engines
        dist.reduce_scatter(torch.empty(4, 3), list(torch.ones(n, 4, 3)))
        dist.barrier()
    size = n * 4 * 3
    expected = [
        ("all_reduce", "tp", 2),
        ("all_reduce", "tp", 2),
        ("all_reduce", all_ranks, 2),
        ("all_gather", "tp", 2),
        ("reduce_scatter", all_ranks, 8),
        ("broadcast", "tp", 2),
        ("send", "tp", 2),
        ("receive", "tp", 2),
        ("all_reduce", "tp", 2),
        ("all_gather", all_ranks, 2),
        ("reduce_scatter", all_ranks, 4),
    ]
    barrier = c.Call("barrier", all_ranks, 0, 0, n)
    assert seen.calls == [c.Call(op, group, size, size * b, n) for op, group, b in expected] + [
        barrier
    ]
    sums = seen.traffic()[("all_reduce", "tp")]
    assert (sums.calls, sums.elements, sums.bytes) == (3, 3 * size, 3 * 2 * size)
    assert sums.wire_bytes == pytest.approx(3 * 2 * size * 2 * (n - 1) / n)
    head, first, *_ = seen.table().splitlines()
    assert head.split() == "operation group calls elements payload bytes ring bytes".split()
    assert first.split()[:3] == ["all_reduce", "tp", "3"] and len(first) == len(head)


def recorder_sees_backward_passes(me, n):
    class Copy(torch.autograd.Function):  # f of tensor parallelism
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, gradient):
            return c.all_reduce(gradient.clone(), world())

    x = torch.ones(6, requires_grad=True)
    with c.Recorder() as seen:
        Copy.apply(x).sum().backward()
    assert torch.equal(x.grad, torch.full((6,), float(n)))
    assert [call.operation for call in seen.calls] == ["all_reduce"] * (n > 1)


def a_ring_by_hand_sends_what_is_counted(me, n):
    if n == 1:
        return
    x = held(me, (n * 5, 3), torch.float64)
    whole = c.all_reduce(x.clone(), world())
    after, before, pieces = (me + 1) % n, (me - 1) % n, list(x.chunk(n))

    def step(send, receive, put):
        got = torch.empty_like(x[:5])
        [work.wait() for work in c.exchange([(pieces[send % n], after)], [(got, before)])]
        put(pieces[receive % n], got)

    with c.Recorder() as seen:
        for i in range(n - 1):
            step(me - i, me - i - 1, torch.Tensor.add_)
        half = seen.traffic()[("send", c.group_name(world()))].bytes
        for i in range(n - 1):
            step(me + 1 - i, me - i, torch.Tensor.copy_)
    assert torch.equal(x, whole)
    sent, received = (seen.traffic()[(op, c.group_name(world()))] for op in ("send", "receive"))
    assert sent.calls == received.calls == 2 * (n - 1)
    assert sent.bytes == received.bytes == sent.wire_bytes
    assert sent.bytes == c.wire_bytes("all_reduce", x.nbytes, n)
    assert half == c.wire_bytes("reduce_scatter", x.nbytes, n)
    assert received.wire_bytes == 0


CASES = [
    all_reduce,
    all_reduce_without_waiting,
    all_gather,
    reduce_scatter,
    broadcast,
    rounding_alone_differs,
    exchange,
    groups_within_the_world,
    a_group_of_one_returns_its_input,
    recorder_sees_each_kind_of_call,
    recorder_sees_backward_passes,
    a_ring_by_hand_sends_what_is_counted,
    sizes_that_do_not_divide,
]


def all_cases():
    """What the last case returned. One that fails ends the job with its lines."""
    for case in CASES:
        value = case(dist.get_rank(), dist.get_world_size())
    return value


@pytest.mark.parametrize("n", (1, 2, 4, 8))
def test_on_ranks(n):
    told = set(run(all_cases, n, timeout=60))
    assert len(told) == 1  # each rank says the same
    if n == 4:
        assert told == {
            "reduce_scatter: 5 rows can't be cut into 4 equal parts, one for each rank of the "
            "group 0-3; 4 or 8 rows would fit"
        }


# Without ranks.


def test_every_operator_of_pytorch_is_known_or_moves_nothing():
    import torch.distributed.tensor  # noqa: F401 - it registers operators of its own

    known = {
        "all_reduce": "allreduce_ allreduce_coalesced_ all_reduce all_reduce_ "
        "all_reduce_coalesced all_reduce_coalesced_",
        "reduce_scatter": "reduce_scatter_ _reduce_scatter_base_ reduce_scatter_tensor_coalesced_ "
        "reduce_scatter_tensor reduce_scatter_tensor_out reduce_scatter_tensor_coalesced",
        "all_gather": "allgather_ _allgather_base_ allgather_coalesced_ "
        "allgather_into_tensor_coalesced_ all_gather_into_tensor all_gather_into_tensor_out "
        "all_gather_into_tensor_coalesced",
        "all_to_all": "alltoall_ alltoall_base_ all_to_all_single shard_dim_alltoall",
        "broadcast": "broadcast broadcast_",
        "reduce": "reduce_",
        "gather": "gather_",
        "scatter": "scatter_",
        "send": "send isend",
        "receive": "recv_ recv_any_source_ irecv",
        "barrier": "barrier monitored_barrier_",
        "": "wait_tensor _wrap_tensor_autograd check_for_nan mesh_get_process_group "
        "batch_p2p_ops",  # the last one is taken apart
    }
    expected = {name: operation for operation in known for name in known[operation].split()}
    spaces = ("c10d", "_c10d_functional", "_dtensor")
    schemas = [s for s in torch._C._jit_get_all_schemas() if s.name.split("::")[0] in spaces]
    found = {schema.name.split("::")[1]: schema for schema in schemas}
    assert {name: c._operation(name) for name in found} == expected
    for name, schema in found.items():
        names = [argument.name for argument in schema.arguments]
        moves = bool(c._operation(name))
        assert not moves or any(argument in c._PAYLOADS for argument in names), name
        if not moves and "op_list" not in names:  # it is seen, and counted as nothing
            assert list(c._calls(name, dict.fromkeys(names, []))) == []


@given(payload=st.integers(0, 10**12), n=st.integers(1, 4480))
def test_an_all_reduce_is_a_reduce_scatter_and_an_all_gather(payload, n):
    two = c.wire_bytes("reduce_scatter", payload * n, n) + c.wire_bytes("all_gather", payload, n)
    assert c.wire_bytes("all_reduce", payload * n, n) == pytest.approx(two)
    assert c.wire_bytes("all_reduce", payload, n) <= 2 * payload  # it grows with no number of ranks
    alone = [c.wire_bytes(op, payload, 1) for op in c._RING if op not in ("send", "receive")]
    assert not any(alone)


def test_seconds_of_a_ring():
    # four ranks, 8 MB, 10 microseconds, 1 GB/s: 6 messages of 2 MB
    assert c.ring_seconds("all_reduce", 8e6, 4, 1e-5, 1e9) == pytest.approx(6 * (1e-5 + 2e-3))
    assert c.ring_seconds("reduce_scatter", 8e6, 4, 1e-5, 1e9) == pytest.approx(3 * (1e-5 + 2e-3))
    assert c.ring_seconds("all_gather", 2e6, 4, 1e-5, 1e9) == pytest.approx(3 * (1e-5 + 2e-3))
    assert c.ring_seconds("broadcast", 8e6, 4, 1e-5, 1e9) == pytest.approx(3e-5 + 8e-3)
    assert c.ring_seconds("send", 8e6, 2, 1e-5, 1e9) == pytest.approx(1e-5 + 8e-3)
    assert c.ring_seconds("all_reduce", 8e6, 1, 1e-5, 1e9) == 0
    with pytest.raises(InputError, match="no cost for 'allreduce'; there is one for all_reduce"):
        c.wire_bytes("allreduce", 1, 2)
