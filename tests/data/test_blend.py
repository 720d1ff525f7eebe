"""The greedy rule: Megatron's order, and never far from the target."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtnlg.data.blend import blend
from minimtnlg.errors import InputError

MTNLG = [0.14336, 0.19336, 0.05689, 0.02897, 0.04771, 0.00873, 0.01007, 0.00208]
MTNLG += [0.01359, 0.01588, 0.09446, 0.13017, 0.15652, 0.08962, 0.00859]  # [S9], in Table 1's order
WEIGHTS = st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=6)


def megatrons(weights, size):
    cpp = pytest.importorskip("megatron.core.datasets.helpers_cpp")
    weights = np.array(weights) / np.sum(weights)
    source, number = np.zeros(size, np.int16), np.zeros(size, np.int64)
    cpp.build_blending_indices(source, number, weights, len(weights), size, False)
    return source, number


@settings(max_examples=40, deadline=None)
@given(WEIGHTS, st.integers(0, 300))
def test_equals_megatron(weights, size):
    for ours, theirs in zip(blend(weights, size), megatrons(weights, size), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


def test_equals_megatron_on_the_published_weights_and_on_ties():
    for weights in (MTNLG, [1, 1, 1, 1], [2, 1, 1]):
        for ours, theirs in zip(blend(weights, 20_000), megatrons(weights, 20_000), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=30, deadline=None)
@given(WEIGHTS, st.integers(1, 300))
def test_each_source_is_read_in_order_and_never_far_ahead(weights, size):
    source, number = blend(weights, size)
    for d, share in enumerate(np.array(weights) / np.sum(weights)):
        assert number[source == d].tolist() == list(range((source == d).sum()))
        drawn = np.cumsum(source == d)
        assert np.all(drawn <= share * np.arange(1, size + 1) + 1)


def test_published_weights_stay_within_the_stated_bounds():
    source, _ = blend(MTNLG, 40_000)
    target = np.arange(1, 40_001)[:, None] * np.array(MTNLG)
    ahead = np.cumsum(source[:, None] == np.arange(15), axis=0) - target
    assert ahead.max() <= 1
    assert ahead.min() >= -1.1


@pytest.mark.parametrize("weights", [[], [1, 0], [1, -1], [1, float("nan")], [float("inf"), 1]])
def test_bad_weights(weights):
    with pytest.raises(InputError, match="positive numbers"):
        blend(weights, 3)
