"""Boxes of all ranks make up every tensor, each number once; what two boxes share is found."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtnlg.config import Parallel
from minimtnlg.parallel.layout import Layout
from minimtnlg.train.boxes import Box, held, overlap, owned, stage_of

SIZES = st.integers(0, 6)


def inside(box):
    """The box as slices of the whole."""
    return tuple(slice(o, o + n) for o, n in zip(*box, strict=True))


@given(
    tp=st.sampled_from([1, 2, 4]),
    dp=st.integers(1, 5),
    rows=st.integers(1, 9),
    columns=st.integers(1, 4),
    split=st.sampled_from([None, 0, 1]),
    matrix=st.booleans(),
)
def test_ranks_own_every_number_once(tp, dp, rows, columns, split, matrix):
    whole = [rows, 4 * columns] if matrix else [rows]
    split = None if split == 1 and not matrix else split
    if split is not None:
        whole[split] *= tp
    parallel, seen = Parallel(tp=tp, dp=dp), np.zeros(whole, int)
    layout = Layout(tp=tp, dp=dp)
    for rank in range(layout.world):
        place = layout.place(rank)
        box = owned(tuple(whole), split, parallel, place)
        if not box.empty:
            seen[inside(box)] += 1
            mine = held(tuple(whole), split, parallel, place, cut=False)
            # A rank has what it owns.
            assert overlap(box, mine)[0] == tuple(slice(0, n) for n in box.shape)
    assert (seen == 1).all()


@given(st.lists(st.tuples(SIZES, SIZES, SIZES, SIZES), min_size=1, max_size=3))
def test_an_overlap_is_what_both_have(dimensions):
    a, b = (Box(*zip(*(d[i : i + 2] for d in dimensions), strict=True)) for i in (0, 2))
    room = [13] * len(dimensions)
    in_a, in_b = np.zeros(room, bool), np.zeros(room, bool)
    in_a[inside(a)] = in_b[inside(b)] = True
    found = overlap(a, b)
    if not (in_a & in_b).any():
        assert found is None
        return
    numbers = np.arange(np.prod(room)).reshape(room)
    shared = numbers[inside(a)][found[0]]
    assert (shared == numbers[inside(b)][found[1]]).all()
    assert sorted(shared.ravel()) == sorted(numbers[in_a & in_b])


@pytest.mark.parametrize("pp, virtual, layers", [(1, 1, 3), (2, 1, 3), (3, 1, 5), (2, 2, 8)])
def test_every_parameter_has_one_stage_and_it_is_the_model_s(pp, virtual, layers):
    """By the rule of GPT: virtual stage x is chunk x // p of stage x % p, uneven ones first."""
    parallel = Parallel(pp=pp, virtual=virtual, schedule="interleaved" if virtual > 1 else "1f1b")
    stages = [stage_of(f"blocks.{i}.mlp.up.bias", layers, parallel) for i in range(layers)]
    each, over = divmod(layers, pp * virtual)
    expected = [x % pp for x in range(pp * virtual) for _ in range(each + (x < over))]
    assert stages == expected
    assert stage_of("embedding.weight", layers, parallel) == 0
    assert stage_of("position.weight", layers, parallel) == 0
    assert stage_of("norm.bias", layers, parallel) == pp - 1


def test_a_replica_may_own_nothing():
    places = [Layout(dp=4).place(rank) for rank in range(4)]
    boxes = [owned((5,), None, Parallel(dp=4), place) for place in places]
    assert boxes == [((0,), (2,)), ((2,), (2,)), ((4,), (1,)), ((5,), (0,))]
    assert [box.empty for box in boxes] == [False, False, False, True]
    shapes = product((1, 2), repeat=2)
    assert all(not held(shape, None, Parallel(dp=1), places[0], True).empty for shape in shapes)
