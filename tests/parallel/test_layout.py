"""rank <-> (pp, dp, tp): Megatron's order, groups that partition the world, MT-NLG's numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtnlg.errors import InputError
from minimtnlg.parallel.layout import Layout, Place, virtual_stages

sizes = st.integers(1, 5)


@given(tp=sizes, pp=sizes, dp=sizes)
def test_ranks_are_numbered_as_in_an_array(tp, pp, dp):
    layout = Layout(tp=tp, pp=pp, dp=dp)
    places = [Place(p, d, t) for p in range(pp) for d in range(dp) for t in range(tp)]
    assert [layout.place(rank) for rank in range(layout.world)] == places
    assert [layout.rank(*place) for place in places] == list(range(layout.world))


@given(tp=sizes, pp=sizes, dp=sizes, axis=st.sampled_from(["tp", "pp", "dp"]))
def test_groups_of_an_axis_partition_the_world(tp, pp, dp, axis):
    layout = Layout(tp=tp, pp=pp, dp=dp)
    groups = {tuple(layout.group(rank, axis)) for rank in range(layout.world)}
    assert sorted(rank for group in groups for rank in group) == list(range(layout.world))
    for group in groups:
        assert len(group) == getattr(layout, axis)
        assert list(group) == sorted(group)


def test_mtnlg_on_280_nodes():
    layout = Layout(tp=8, pp=35, dp=8)
    assert layout.world == 2240
    assert layout.place(1000) == Place(pp=15, dp=5, tp=0)
    assert layout.node(1000) == (125, 0)
    for rank in (0, 1000, 2239):  # a tensor group never leaves its node [S3, sec. 2.2]
        assert len({layout.node(peer)[0] for peer in layout.group(rank, "tp")}) == 1
        assert len({layout.node(peer)[0] for peer in layout.group(rank, "pp")}) == 35


def test_impossible_layouts_and_ranks():
    with pytest.raises(InputError, match="parallel.tp=0"):
        Layout(tp=0)
    with pytest.raises(InputError, match="no rank 8: the 8 ranks go from 0 to 7"):
        Layout(tp=2, pp=2, dp=2).place(8)
    with pytest.raises(InputError, match="no rank -1"):
        Layout().place(-1)


def test_mtnlg_crosses_nodes_where_it_hurts_least():
    """Tensor groups never leave a node; all pipeline and data links do [S3, sec. 2.2]."""
    layout = Layout(tp=8, pp=35, dp=8)
    assert layout.links("tp") == (2240, 0)
    assert layout.links("dp") == (0, 2240)
    assert layout.links("pp") == (0, 2240)
    other = ("tp", "pp", "dp")  # the tensor axis slowest
    assert layout.links("tp", order=other) == (0, 2240)
    assert layout.links("dp", order=other) == (2240, 0)


@given(tp=sizes, pp=sizes, dp=sizes, gpus=st.sampled_from([1, 2, 4, 8]),
       order=st.permutations(["tp", "pp", "dp"]))  # fmt: skip
def test_links_are_those_of_rings(tp, pp, dp, gpus, order):
    layout = Layout(tp=tp, pp=pp, dp=dp)
    taken = {layout.node(rank, gpus, order) for rank in range(layout.world)}
    assert taken == {divmod(gpu, gpus) for gpu in range(layout.world)}  # each GPU once
    for axis in ("tp", "pp", "dp"):
        pairs = set()
        for rank in range(layout.world):
            ring = layout.group(rank, axis)
            pairs |= {frozenset(p) for p in zip(ring, ring[1:] + ring[:1], strict=True)}
        nodes = [{layout.node(r, gpus, order)[0] for r in pair} for pair in pairs if len(pair) == 2]
        assert layout.links(axis, gpus, order) == (
            sum(len(n) == 1 for n in nodes), sum(len(n) == 2 for n in nodes),
        )  # fmt: skip


@given(layers=st.integers(1, 40), count=st.integers(1, 12))
def test_virtual_stages_share_the_layers(layers, count):
    if count > layers:
        with pytest.raises(InputError, match=f"{layers} layers can't be cut into {count} pieces"):
            virtual_stages(layers, count)
        return
    stages = virtual_stages(layers, count)
    assert [layer for stage in stages for layer in stage] == list(range(layers))
    assert {len(stage) for stage in stages} <= {layers // count, -(-layers // count)}
    assert len(stages) == count


def test_an_order_names_each_axis_once():
    with pytest.raises(InputError, match="give each of pp, dp, tp once"):
        Layout().node(0, order=("pp", "dp"))
