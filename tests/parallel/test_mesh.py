"""A Mesh holds this rank's groups, and they are the layout's, from 1 rank to MT-NLG's 2 240."""

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional

from minimtnlg import run
from minimtnlg.errors import InputError
from minimtnlg.parallel import collectives as c
from minimtnlg.parallel.layout import Layout, Place
from minimtnlg.parallel.mesh import Mesh

AXES = ("tp", "pp", "dp")
LAYOUTS = {
    1: [Layout()],
    2: [Layout(tp=2), Layout(pp=2), Layout(dp=2)],
    4: [Layout(tp=2, pp=2), Layout(pp=2, dp=2), Layout(tp=4), Layout(tp=2, dp=2)],
    8: [Layout(tp=2, pp=2, dp=2), Layout(pp=4, dp=2), Layout(tp=8)],
}


def groups(mesh):
    """{axis: ranks of this rank's group}; none for an axis of size 1."""
    own = {axis: getattr(mesh, axis) for axis in AXES}
    return {axis: dist.get_process_group_ranks(g) for axis, g in own.items() if g is not None}


def expected(layout, rank):
    return {axis: layout.group(rank, axis) for axis in AXES if getattr(layout, axis) > 1}


def program(layouts):
    """Makes a Mesh of each layout, sums the numbers of the ranks along each axis of it."""
    for layout in layouts:
        rank = dist.get_rank()
        mesh = Mesh(layout)
        assert mesh.layout == layout
        assert mesh.place == layout.place(rank)
        assert groups(mesh) == expected(layout, rank)
        for axis in AXES:
            group = getattr(mesh, axis)
            assert c.size(group) == getattr(layout, axis)
            assert c.rank(group) == getattr(mesh.place, axis)
            with c.Recorder() as seen:
                total = c.all_reduce(torch.tensor([rank]), group)
            assert total.item() == sum(layout.group(rank, axis))
            assert [call.group for call in seen.calls] == ([axis] if group is not None else [])
    assert groups(Mesh()) == {} and Mesh().place == Place(0, 0, 0)  # one process within many
    try:
        Mesh(Layout(tp=2, pp=3))
    except InputError as error:
        divided = str(error)
    try:
        Mesh(Layout(tp=2, dp=32))
    except InputError as error:
        return divided, str(error)


@pytest.mark.parametrize("n", LAYOUTS)
def test_groups_and_refusals_on_ranks(n):
    told = run(program, n, LAYOUTS[n], timeout=60)
    assert len(set(told)) == 1  # each rank says the same
    divided, fits = told[0]
    there = "there is 1" if n == 1 else f"there are {n}"
    assert divided == (
        f"parallel.tp=2, parallel.pp=3, parallel.dp=1 make 6 ranks, but {there}: "
        f"tp x pp = 6 would have to divide {n}, or start 6"
    )
    if n > 1:
        assert f"but {there}: parallel.dp={n // 2} would fit, or start 64" in fits


def test_one_process_needs_no_other():
    assert not dist.is_initialized()
    for mesh in (Mesh(), Mesh(Layout())):
        assert (mesh.tp, mesh.pp, mesh.dp) == (None, None, None)
        assert (mesh.layout, mesh.place) == (Layout(), Place(0, 0, 0))
    assert repr(Mesh()) == "Mesh(pp 0 of 1, dp 0 of 1, tp 0 of 1)"
    with pytest.raises(InputError, match="there is 1: parallel.dp=1 would fit, or start 4"):
        Mesh(Layout(dp=4))


def mtnlg(rank):
    """One rank of 2 240, the others pretended: its groups, and a micro-batch's traffic of 80 MiB.

    No memory is touched: the tensors are fake.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.testing._internal.distributed.fake_pg import FakeStore

    layout = Layout(tp=8, pp=35, dp=8)
    dist.destroy_process_group()
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=layout.world)
    with c.Recorder() as outside, FakeTensorMode():
        mesh = Mesh(layout)
        x = torch.empty(2048, 1, 20480, dtype=torch.bfloat16)  # [s, b, h]
        pipeline = dist.get_process_group_ranks(mesh.pp)
        after, before = (pipeline[(mesh.place.pp + way) % layout.pp] for way in (1, -1))
        with c.Recorder() as seen:
            c.all_reduce(x, mesh.tp)
            c.all_reduce(x, mesh.dp, wait=False)[1].wait()
            part = c.reduce_scatter(x, mesh.tp)
            c.all_gather(part, mesh.tp)
            for work in c.exchange([(part, after)], [(torch.empty_like(part), before)], mesh.pp):
                work.wait()
            functional.all_reduce(x, "sum", mesh.tp)
            c.all_reduce(torch.empty(1), dist.group.WORLD)
            c.all_reduce(torch.empty(1), dist.new_group(range(rank % 5, 2240, 5)))
    assert [call.operation for call in outside.calls[:1]] == ["all_reduce"]  # it opens links
    assert outside.calls[1:] == seen.calls
    return groups(mesh), tuple(mesh.place), tuple(part.shape), seen.calls


@pytest.mark.parametrize("rank", [0, 1000, 2239])
def test_mtnlg_in_a_world_that_is_not_there(rank):
    layout = Layout(tp=8, pp=35, dp=8)
    [(ranks, place, shape, calls)] = run(mtnlg, 1, rank, timeout=60)
    assert ranks == expected(layout, rank)
    assert place == layout.place(rank)
    assert shape == (256, 1, 20480)
    mib = 2**20
    assert [(call.operation, call.group, call.bytes, call.wire_bytes) for call in calls] == [
        ("all_reduce", "tp", 80 * mib, 140 * mib),
        ("all_reduce", "dp", 80 * mib, 140 * mib),
        ("reduce_scatter", "tp", 80 * mib, 70 * mib),
        ("all_gather", "tp", 10 * mib, 70 * mib),
        ("send", "pp", 10 * mib, 10 * mib),
        ("receive", "pp", 10 * mib, 0),
        ("all_reduce", "tp", 80 * mib, 140 * mib),
        ("all_reduce", "0-2239", 4, pytest.approx(8 * 2239 / 2240)),
        ("all_reduce", f"{rank % 5}-{2235 + rank % 5} by 5", 4, pytest.approx(8 * 447 / 448)),
    ]
