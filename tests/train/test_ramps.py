"""Learning rate and batch size over a run: MT-NLG's published numbers, and laws for all others."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtnlg.config import Optim, Train, preset
from minimtnlg.train.ramps import batch_size, batches, learning_rate, total_samples

MT_NLG = preset("mtnlg-530b")


def test_ramp_of_mt_nlg():
    """12 B tokens in 59 increments of 99 311 samples [S3, S10]."""
    seq, train = MT_NLG.model.seq, MT_NLG.train
    each = 12_000_000_000 / seq / 59
    assert int(each) == 99_311
    for increment in (0, 1, 30, 58):
        begin, end = int(increment * each) + 1, int((increment + 1) * each) - 1
        assert batch_size(begin, train, seq) == batch_size(end, train, seq) == 32 + 32 * increment
    assert batch_size(int(59 * each) + 1, train, seq) == 1920
    assert batch_size(10**9, train, seq) == 1920


def test_steps_of_mt_nlg():
    """About 14 470 steps of ramp, 65 613 full ones, 80 100 in all (derived from S3 and S10)."""
    sizes = list(batches(MT_NLG.train, MT_NLG.model.seq))
    rungs = Counter(sizes)
    full = rungs.pop(1920)
    assert sorted(rungs) == list(range(32, 1920, 32))
    # Each rung lasts its samples over its batch, up to one step of rounding at either end.
    assert all(abs(steps - 99_311 / batch) < 2 for batch, steps in rungs.items())
    assert sum(rungs.values()) == pytest.approx(14_470, abs=10)
    assert full == pytest.approx(65_613, abs=2)
    assert len(sizes) == pytest.approx(80_100, abs=20)


def test_rate_of_mt_nlg():
    """Half of the peak in the middle of the warm-up, a tenth after the decay [S3]."""
    optim = MT_NLG.optim
    rates = {0: 0.0, 5e8: 2.5e-5, 1e9: 5e-5, 170.5e9: 2.75e-5, 340e9: 5e-6, 400e9: 5e-6}
    for tokens, rate in rates.items():
        assert learning_rate(tokens, optim) == pytest.approx(rate, rel=1e-12)
    assert learning_rate(270e9, optim) == pytest.approx(9.6e-6, abs=5e-8)  # where the run ended


def test_no_warm_up_starts_at_the_peak():
    optim = Optim(lr=0.1, min_lr=0.0, warmup_tokens=0, decay_tokens=10)
    assert learning_rate(0, optim) == 0.1
    assert learning_rate(10, optim) == pytest.approx(0, abs=1e-15)


@given(
    peak=st.floats(1e-6, 1.0),
    floor=st.floats(0, 1),
    warmup=st.integers(0, 1000),
    more=st.integers(1, 10_000),
)
def test_rate_rises_then_falls(peak, floor, warmup, more):
    top = warmup + more
    optim = Optim(lr=peak, min_lr=floor * peak, warmup_tokens=warmup, decay_tokens=top)
    rates = [learning_rate(tokens, optim) for tokens in range(0, top + 100, max(1, top // 50))]
    peak_at = rates.index(max(rates))
    assert max(rates) <= peak * (1 + 1e-12)
    assert rates[: peak_at + 1] == sorted(rates[: peak_at + 1])
    assert all(b <= a * (1 + 1e-12) for a, b in pairwise(rates[peak_at:]))
    assert learning_rate(top, optim) == pytest.approx(floor * peak, abs=1e-12 * peak)


@st.composite
def runs(draw):
    """(Train, seq) of a run with a ramp, measured in tokens."""
    start, increment, number = (draw(st.integers(1, n)) for n in (8, 8, 12))
    seq = draw(st.integers(1, 64))
    ramp = (start, increment, draw(st.integers(1, 100_000)))
    train = Train(
        tokens=draw(st.integers(1, 200_000)),
        global_batch=start + increment * number,
        micro_batch=1,
        ramp=ramp,
    )
    return train, seq


@given(runs())
@settings(deadline=None)
def test_ramp_covers_its_tokens_and_climbs(run):
    train, seq = run
    sizes = list(batches(train, seq))
    start, increment, ramp_tokens = train.ramp
    assert sizes[0] == start
    assert sizes == sorted(sizes)
    assert set(sizes) <= set(train.batches())
    assert total_samples(train, seq) == sum(sizes)
    # The last step is the one that reaches the tokens asked for, and none comes after it.
    assert sum(sizes) * seq >= train.tokens > (sum(sizes) - sizes[-1]) * seq
    # The full batch comes when the ramp's samples are used up: not a step before or after.
    before = sum(size for size in sizes if size < train.global_batch)
    if train.global_batch in sizes:
        assert before >= ramp_tokens / seq * (1 - 1e-9)
    assert before < ramp_tokens / seq + train.global_batch


@given(runs(), st.integers(1, 500))
def test_a_run_in_steps_has_that_many(run, steps):
    train, seq = run
    train = Train(steps=steps, global_batch=train.global_batch, micro_batch=1, ramp=train.ramp)
    assert len(list(batches(train, seq))) == steps


def test_without_a_ramp_every_batch_is_whole():
    train = Train(tokens=1000, global_batch=6, micro_batch=2)
    assert list(batches(train, 10)) == [6] * 17
    assert total_samples(train, 10) == 102
