"""From logits to tokens: the laws of the cut-offs, transformers' own cut-offs, honest draws."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.extra.numpy import arrays
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from minimtnlg.evaluate.sampling import distribution, drawn

# Halves: so that equal ones are common, and sums are exact.
LOGITS = arrays(np.float64, st.integers(1, 30), elements=st.integers(-12, 12).map(lambda n: n / 2))
TEMPERATURES = st.sampled_from([0.1, 0.7, 1.0, 3.0])
PS = st.floats(0.01, 1.0)


@given(LOGITS, TEMPERATURES, st.none() | st.integers(1, 40), st.none() | PS)
def test_what_is_kept_sums_to_one_and_keeps_its_proportions(logits, temperature, k, p):
    logits = torch.from_numpy(logits)
    got = distribution(logits, temperature, k, p)
    kept = got > 0
    assert kept[logits.argmax()] and abs(got.sum() - 1) < 1e-12
    free = distribution(logits, temperature)
    torch.testing.assert_close(got[kept], free[kept] / free[kept].sum())
    assert not (~kept).any() or logits[kept].min() >= logits[~kept].max()


@given(LOGITS, st.integers(1, 40))
def test_top_k_keeps_k_and_their_equals(logits, k):
    logits = torch.from_numpy(logits)
    kept = distribution(logits, top_k=k) > 0
    assert kept.sum() >= min(k, len(logits))
    border = logits.sort(descending=True).values[min(k, len(logits)) - 1]
    assert torch.equal(kept, logits >= border)


@given(LOGITS, PS)
def test_top_p_keeps_the_smallest_set_that_reaches_p(logits, p):
    logits = torch.from_numpy(logits)
    free, kept = distribution(logits), distribution(logits, top_p=p) > 0
    mass, rounding = free[kept].sum(), 1e-12
    assert mass >= p - rounding
    assert mass - free[kept].min() < p + rounding  # without its least one it would fall short
    assert not (~kept).any() or free[kept].min() >= free[~kept].max() - rounding
    if kept.sum() > 1:  # no other set of one token less reaches p
        assert free.sort(descending=True).values[: kept.sum() - 1].sum() < p + rounding


def test_of_equal_tokens_the_first_stay():
    got = distribution(torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0, -9.0]), top_p=0.45)
    assert (got > 0).tolist() == [False, True, True, False, False, False]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("k", [None, 1, 5, 60])
@pytest.mark.parametrize("p", [None, 0.2, 0.9, 0.999])
def test_distributions_are_those_of_transformers(temperature, k, p):
    g = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(64, 50, dtype=torch.float64, generator=g)
    theirs = TemperatureLogitsWarper(temperature)(None, logits)
    if k:
        theirs = TopKLogitsWarper(k)(None, theirs)
    if p:
        theirs = TopPLogitsWarper(p)(None, theirs)
    found = distribution(logits, temperature, k, p)
    torch.testing.assert_close(found, theirs.softmax(-1), rtol=0, atol=1e-14)


def test_very_low_temperatures_are_the_likeliest_token():
    logits = torch.tensor([1e4, 9.99e3, -1e4], dtype=torch.float32)
    assert distribution(logits, temperature=1e-30).tolist() == [1, 0, 0]


def test_16_bits_are_computed_in_fp32():
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        assert distribution(torch.zeros(3, dtype=dtype), 0.5, 2, 0.9).dtype == torch.float32


@given(LOGITS, PS, st.floats(0, 1, exclude_max=True))
def test_a_number_draws_the_token_that_it_points_at(logits, p, number):
    probabilities = distribution(torch.from_numpy(logits), top_p=p)
    token = drawn(probabilities, torch.tensor(number, dtype=torch.float64))
    assert probabilities[token] > 0
    total = probabilities.sum().item()
    assert probabilities[:token].sum() <= number * total + 1e-12
    assert probabilities[: token + 1].sum() > number * total - 1e-12


def test_the_ends_of_the_line_are_tokens_that_can_come():
    probabilities = torch.tensor([0.0, 0.4, 0.0, 0.6, 0.0])
    numbers = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert drawn(probabilities.expand(2, 5), numbers).tolist() == [1, 3]


def test_draws_follow_the_distribution():
    """Evenly spaced numbers draw each token as often as it is probable, to one draw."""
    probabilities = distribution(torch.tensor([0.3, 2.0, -1.0, 1.0], dtype=torch.float64))
    numbers = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    counts = drawn(probabilities.expand(10_000, 4), numbers).bincount(minlength=4)
    assert (counts - 10_000 * probabilities).abs().max() <= 1
