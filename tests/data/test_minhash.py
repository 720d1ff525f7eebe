"""Shingles, Jaccard and signatures: what the slow loops give, and what the formulas promise."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtnlg.data import minhash
from minimtnlg.data.minhash import bands, functions, jaccard, probability, shingles, signature

TEXT = st.text(st.sampled_from("aAbB \n\té😀"), max_size=40)
NUMBERS = st.sets(st.integers(0, 2**32 - 1), max_size=40)


def array(numbers):
    return np.array(sorted(numbers), np.uint32)


def runs_of(text, length):
    """The set of runs of characters, by hand."""
    text = " ".join(text.lower().split())
    return {text[i : i + length] for i in range(max(1, len(text) - length + 1))} - {""}


def pair(similarity, size=100):
    """Two sets of `size` numbers in all, that share so much."""
    numbers = np.random.default_rng(5).choice(2**32, size, replace=False).astype(np.uint32)
    both = round(similarity * size)
    half = (size - both) // 2
    other = np.append(numbers[:both], numbers[both + half :])
    return np.sort(numbers[: both + half]), np.sort(other)


@given(TEXT, TEXT, st.integers(1, 9))
def test_shingles_are_the_runs_of_characters(one, other, length):
    a, b = shingles(one, length), shingles(other, length)
    assert a.dtype == np.uint32 and np.all(np.diff(a.astype(np.int64)) > 0)
    runs, others = runs_of(one, length), runs_of(other, length)
    assert (len(a), len(b)) == (len(runs), len(others))
    assert len(np.intersect1d(a, b)) == len(runs & others)


def test_shingles_of_odd_texts():
    assert len(shingles("")) == len(shingles(" \n\t")) == 0
    assert len(shingles("abc")) == len(shingles("abcde")) == 1
    assert len(shingles("abcdef")) == 2
    assert np.array_equal(shingles("One  TWO\n"), shingles(" one two"))
    assert not np.array_equal(shingles("one two"), shingles("onetwo"))
    assert shingles("abc") != shingles("\0abc")  # a run of zeros isn't nothing
    assert len(shingles("abc", 10**9)) == 1


def test_shingles_do_not_depend_on_where_a_long_text_is_cut(monkeypatch):
    text = " ".join(map(str, np.random.default_rng(1).integers(0, 9999, 200)))
    whole = shingles(text)
    for stretch in (1, 7, len(text) - 5, len(text) - 4, len(text) - 3):
        monkeypatch.setattr(minhash, "STRETCH", stretch)
        assert np.array_equal(shingles(text), whole)


@given(NUMBERS, NUMBERS)
def test_jaccard_is_that_of_sets(a, b):
    expected = len(a & b) / len(a | b) if a | b else 1
    assert jaccard(array(a), array(b)) == jaccard(array(b), array(a)) == expected


@settings(max_examples=30)
@given(NUMBERS, st.integers(1, 2**63))
def test_signature_is_that_of_a_slow_loop(numbers, seed):
    a, b = functions(6, seed)
    expected = [
        min([((int(p) * x + int(q)) % 2**64) >> 32 for x in numbers], default=2**32 - 1)
        for p, q in zip(a, b, strict=True)
    ]
    found = signature(array(numbers), (a, b))
    assert found.dtype == np.uint32 and found.tolist() == expected


def test_signature_of_a_union_is_the_smaller_of_each_value():
    numbers = np.arange(0, 5 * minhash.BLOCK, 2, dtype=np.uint32)  # in several blocks
    a, b = numbers[: minhash.BLOCK + 1], numbers[minhash.BLOCK - 9 :]
    chosen = functions()
    smaller = np.minimum(signature(a, chosen), signature(b, chosen))
    assert np.array_equal(signature(numbers, chosen), smaller)
    assert len(np.unique(signature(numbers, chosen))) > 250  # functions that differ


@pytest.mark.parametrize("similarity", [0.1, 0.5, 0.8, 0.94])
def test_signatures_agree_as_often_as_sets_do(similarity):
    a, b = pair(similarity)
    assert jaccard(a, b) == similarity
    count = 20_000
    chosen = functions(count, seed=7)
    share = np.mean(signature(a, chosen) == signature(b, chosen))
    assert abs(share - similarity) < 4 * (similarity * (1 - similarity) / count) ** 0.5


@pytest.mark.parametrize("similarity", [0.7, 0.8, 0.9])
def test_pairs_meet_as_often_as_the_curve_says(similarity):
    a, b = pair(similarity)
    count, expected = 600, probability(similarity)
    met = 0
    for seed in range(count):
        chosen = functions(260, seed)
        met += np.any(bands(signature(a, chosen)) == bands(signature(b, chosen)))
    assert abs(met / count - expected) < 4 * (expected * (1 - expected) / count) ** 0.5 + 1e-9


def test_the_curve_has_the_published_values():
    s = np.array([0, 0.7, 0.8, 0.9, 1])
    assert probability(s).round(2).tolist() == [0, 0.18, 0.68, 1, 1]
    assert probability(0.5, bands=1, rows=3) == 0.125


def test_a_band_is_as_its_own_values_are():
    values = np.arange(260, dtype=np.uint32)
    before = bands(values)
    assert before.shape == (20,) and before.dtype == np.uint64 and len(set(before.tolist())) == 20
    for place in (0, 12, 13, 259):
        changed = values.copy()
        changed[place] += 1
        assert np.flatnonzero(bands(changed) != before).tolist() == [place // 13]
    swapped = values.copy()
    swapped[[0, 1]] = values[[1, 0]]
    assert bands(swapped)[0] != before[0]
    assert bands(values[:6], 3, 2).shape == (3,)


def test_memory_stays_small_on_a_long_text():
    text = " ".join(map(str, np.random.default_rng(0).integers(0, 2**40, 200_000)))
    tracemalloc.start()
    try:
        found = shingles(text)
        assert tracemalloc.get_traced_memory()[1] < 32 * len(text)
        tracemalloc.reset_peak()
        held = tracemalloc.get_traced_memory()[0]
        signature(found[:100_000], functions())
        assert tracemalloc.get_traced_memory()[1] - held < 24e6  # all at once: 208e6
    finally:
        tracemalloc.stop()
