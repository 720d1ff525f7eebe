"""expect: equal values pass, and the first difference is said in words."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minimtnlg.course.feedback import Feedback, expect

VALUES = st.recursive(
    st.integers() | st.floats() | st.text() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_every_value_equals_itself(value):
    expect(value, value, "the value")


@given(st.lists(st.integers(-100, 100), min_size=1), st.data())
def test_one_changed_number_is_found_at_its_index(numbers, data):
    i = data.draw(st.integers(0, len(numbers) - 1))
    changed = [n + (j == i) for j, n in enumerate(numbers)]
    with pytest.raises(Feedback, match=rf"index {i}\n"):
        expect(torch.tensor(changed), torch.tensor(numbers), "the numbers")


@pytest.mark.parametrize(
    "got, expected",
    [
        (None, 3),
        (3, 4),
        ("3", 3),
        ([1, 2], [1, 2, 3]),
        ({"a": 1}, {"b": 1}),
        (1.0 + 1e-8, 1.0),
        (math.nan, 1.0),
        (math.inf, -math.inf),
        (np.ones((2, 3)), np.ones((3, 2))),
        (np.float32(1.001), np.float32(1.0)),
        (torch.ones(3), 1.0),
        (torch.full((2,), 1.1, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16)),
        ("abc", ["a", "b", "c"]),
        (2**70 + 2**69, 2**70),
    ],
)
def test_differences_fail(got, expected):
    with pytest.raises(Feedback):
        expect(got, expected, "the value")


@pytest.mark.parametrize(
    "got, expected",
    [
        (1.0 + 1e-12, 1.0),
        (math.nan, math.nan),
        (torch.tensor([1.0, math.inf]), np.array([1.0, math.inf])),
        (torch.tensor(2), 2),
        (torch.tensor(1.004, dtype=torch.bfloat16), torch.tensor(1.0, dtype=torch.bfloat16)),
        ((1, 2), [1, 2]),
    ],
)
def test_rounding_and_kinds_of_container_pass(got, expected):
    expect(got, expected, "the value")


def test_tolerance_is_relative_to_the_largest_magnitude():
    expect([100.0, 0.0], [100.0, 0.0], "both")
    expect(np.array([100.0, 1e-8]), np.array([100.0, 0.0]), "both")
    with pytest.raises(Feedback):
        expect(1e-8, 0.0, "zero")
    expect(104, 100, "a rough count", tol=0.05)


def test_words_name_what_expected_got_and_the_idea():
    with pytest.raises(Feedback) as caught:
        expect({"x": [1, 5]}, {"x": [1, 2]}, "the counts", "lesson 03, Idea")
    assert str(caught.value).splitlines() == [
        "what      the counts, key 'x', item 1",
        "expected  2",
        "got       5",
        "look at   lesson 03, Idea",
    ]


def test_a_replaced_allclose_changes_nothing(monkeypatch):
    monkeypatch.setattr(torch, "allclose", lambda *a, **k: True)
    with pytest.raises(Feedback):
        expect(torch.zeros(2), torch.ones(2), "ones")
