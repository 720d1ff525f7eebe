"""Failures: bytes of S3 and S12, Young's and Daly's numbers, a run played against its formula."""

import dataclasses
import math
import random
from statistics import mean, stdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtnlg.config import preset
from minimtnlg.errors import InputError
from minimtnlg.plan.failures import (
    READ,
    WRITE,
    checkpoint_bytes,
    daly,
    lost_fraction,
    mtbf,
    save_seconds,
    simulate,
    state_bytes,
    young,
)

HOUR, DAY = 3600, 86400
NEVER = 1e30  # an mtbf


def test_mtnlg_holds_10_tb_and_saves_7():
    config = preset("mtnlg-530b")
    count = config.model.parameters()
    assert checkpoint_bytes(config) == {
        "weights": 2 * count, "masters": 4 * count, "moments": 8 * count,
    }  # fmt: skip
    assert sum(state_bytes(config).values()) == 20 * count
    assert sum(state_bytes(config).values()) == pytest.approx(10.6e12, rel=5e-3)
    assert sum(checkpoint_bytes(config).values()) == pytest.approx(7.4e12, rel=5e-3)


def test_the_checkpoint_that_s12_tells():
    size = sum(checkpoint_bytes(preset("gpt-1t")).values())
    assert size == pytest.approx(13.8e12, rel=0.03)
    assert save_seconds(size) == size / WRITE == pytest.approx(51.7, abs=0.1)
    assert save_seconds(size, READ) == pytest.approx(14.1, abs=0.1)


@pytest.mark.parametrize("dtype, saved, held", [
    ("bfloat16", 14, 20), ("float16", 14, 20), ("float32", 12, 16), ("float64", 24, 32),
])  # fmt: skip
def test_bytes_a_parameter(dtype, saved, held):
    config = preset("nano")
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, dtype=dtype))
    count = config.model.parameters()
    assert sum(checkpoint_bytes(config).values()) == saved * count
    assert sum(state_bytes(config).values()) == held * count


def test_a_cluster_fails_as_often_as_all_its_nodes():
    assert mtbf(264 * 24, 420) == pytest.approx(15.086, abs=1e-3)  # hours


def test_young_and_daly_by_hand():
    assert young(50, 10_000) == 1000
    # C / 2M = 0.0025, its root 0.05: 1000 (1 + 0.05 / 3 + 0.0025 / 9) - 50
    assert daly(50, 10_000) == pytest.approx(966.9444, abs=1e-4)
    assert daly(2, 1) == daly(7, 1) == 1


@pytest.mark.parametrize("hours, minutes", [(24, 117), (6, 57), (0.25, 9.1)])
def test_the_figures_of_daly(hours, minutes):
    """Figures 3 to 5 of the paper: a save of 5 minutes, what "the new model predicts"."""
    assert daly(5, hours * 60) == pytest.approx(minutes, abs=0.5 if minutes > 10 else 0.05)


def best(cost, restart, mean_time):
    """The interval that loses least, by golden section over its logarithm."""
    low, high, share = math.log(1e-6 * mean_time), math.log(10 * mean_time), 0.6180339887
    for _ in range(80):
        one, two = high - share * (high - low), low + share * (high - low)
        if lost_fraction(math.exp(one), cost, restart, mean_time) < lost_fraction(
            math.exp(two), cost, restart, mean_time
        ):
            high = two
        else:
            low = one
    return math.exp(low)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.floats(-5, 0.5), st.floats(-4, 0), st.floats(-3, 8))
def test_dalys_interval_loses_least(cost, restart, mean_time):
    """From a save of 1e-5 of the mtbf to one of 3: wall time is within 0.2 % of the shortest."""
    mean_time = 10**mean_time
    cost, restart = 10**cost * mean_time, 10**restart * mean_time
    found = best(cost, restart, mean_time)
    kept = 1 - lost_fraction(daly(cost, mean_time), cost, restart, mean_time)
    most = 1 - lost_fraction(found, cost, restart, mean_time)
    assert most * 0.998 <= kept <= most * (1 + 1e-9)
    if cost < mean_time / 2:
        assert kept >= most * (1 - 2e-5)
        assert daly(cost, mean_time) == pytest.approx(found, rel=0.01)
    for factor in (0.1, 10):
        assert lost_fraction(factor * found, cost, restart, mean_time) > 1 - most


def test_the_model_of_daly_as_he_writes_it():
    tau, cost, restart, m = 40.0, 3.0, 5.0, 90.0
    wall = m * math.exp(restart / m) * (math.exp((tau + cost) / m) - 1) / tau
    assert lost_fraction(tau, cost, restart, m) == pytest.approx(1 - 1 / wall)
    assert lost_fraction(1e6, 1, 1, 1) == 1  # and no overflow


@pytest.mark.parametrize("tau, cost, restart, m", [
    (60, 5, 10, 360), (10, 5, 10, 15), (200, 1, 2, 100), (2, 1, 30, 100),
])  # fmt: skip
def test_many_runs_agree_with_the_model(tau, cost, restart, m):
    """Daly's time is exact for runs whose last interval is whole."""
    runs = [simulate(40 * tau, tau, cost, restart, m, seed).seconds for seed in range(600)]
    told = 40 * tau / (1 - lost_fraction(tau, cost, restart, m))
    # a failure before the first save restarts as well: nothing differs at the beginning
    assert abs(mean(runs) - told) < 3 * stdev(runs) / math.sqrt(len(runs))
    assert stdev(runs) / math.sqrt(len(runs)) < 0.02 * told


def ticked(work, interval, cost, restart, mean_time, seed, delay):
    """The same run in another way: span after span on a clock, with a list of saves under way."""
    draw, now, computed, safe, done = random.Random(seed), 0.0, 0.0, 0.0, False
    spent, failures = dict(computing=0.0, saving=0.0, restarting=0.0), 0
    failure, under_way = draw.expovariate(1 / mean_time), []

    def passes(kind, seconds):
        """Whether `seconds` of `kind` pass without a failure; saves that end in them are safe."""
        nonlocal now, safe
        spent[kind] += min(seconds, failure - now)
        fails, now = failure < now + seconds, min(failure, now + seconds)
        safe = max([safe] + [progress for ends, progress in under_way if ends <= now])
        return not fails

    def until_a_failure():
        nonlocal computed
        if failures and not passes("restarting", restart):
            return False
        while True:
            piece = min(interval, work - computed)
            before = spent["computing"]
            whole = passes("computing", piece)
            computed += spent["computing"] - before
            if not whole:
                return False
            under_way.append((now + delay, computed))
            last = work - computed < 1e-9
            if not passes("saving", delay if last else cost):
                return False
            if last:
                return True

    while not done:
        done = until_a_failure()
        if not done:
            failures, computed, under_way = failures + 1, safe, []
            failure = now + draw.expovariate(1 / mean_time)
    return now, failures, spent["computing"] - work, spent["saving"], spent["restarting"]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.floats(1, 100), st.floats(1, 20), st.floats(0.1, 10), st.floats(0.1, 5), st.floats(5, 200),
    st.floats(0, 1), st.integers(0, 2**32),
)  # fmt: skip
def test_a_run_second_by_second(work, interval, cost, restart, mean_time, late, seed):
    delay = cost + late * interval
    run = simulate(work, interval, cost, restart, mean_time, seed, delay)
    assert run == pytest.approx(
        ticked(work, interval, cost, restart, mean_time, seed, delay), rel=1e-9, abs=1e-7
    )
    assert run.seconds == work + run.lost + run.saving + run.restarting
    assert min(run) >= 0
    assert run == simulate(work, interval, cost, restart, mean_time, seed, delay)


def test_without_failures():
    assert simulate(100, 10, 2, 5, NEVER, 1) == (120, 0, 0, 20, 0)
    assert simulate(95, 10, 2, 5, NEVER, 1) == (115, 0, 0, 20, 0)
    late = simulate(100, 10, 2, 5, NEVER, 1, delay=6)
    assert late == (124, 0, 0, 24, 0)  # the last save is waited for
    assert lost_fraction(10, 2, 5, NEVER) == pytest.approx(2 / 12)


def test_seeds_differ():
    assert len({simulate(1000, 10, 2, 5, 50, seed).seconds for seed in range(20)}) == 20


def test_too_often_and_too_seldom_are_worse():
    """MT-NLG on 420 nodes that fail every 264 days each."""
    m, cost, restart = mtbf(264 * DAY, 420), 27, 300
    found = daly(cost, m)
    few, good, many = (
        mean(simulate(90 * DAY, each, cost, restart, m, seed).seconds for seed in range(20))
        for each in (DAY, found, 60)
    )
    assert good < few and good < many
    assert lost_fraction(found, cost, restart, m) < 0.05 < lost_fraction(DAY, cost, restart, m)


def test_an_asynchronous_save_costs_less():
    blocking = mean(simulate(4000, 40, 10, 5, 200, seed).seconds for seed in range(50))
    behind = mean(simulate(4000, 40, 1, 5, 200, seed, delay=10).seconds for seed in range(50))
    assert behind < blocking


@pytest.mark.parametrize("call, text", [
    (lambda: save_seconds(0), "bytes=0"),
    (lambda: save_seconds(1, -1), "bytes_per_second=-1"),
    (lambda: mtbf(1, 0), "nodes=0"),
    (lambda: young(0, 1), "cost=0"),
    (lambda: daly(1, math.inf), "mtbf=inf"),
    (lambda: lost_fraction(1, 1, -2, 1), "restart=-2"),
    (lambda: lost_fraction(math.nan, 1, 1, 1), "interval=nan"),
    (lambda: simulate(-1, 1, 1, 1, 1, 1), "work=-1"),
    (lambda: simulate(9, 1, 2, 1, 1, 1, delay=1), "delay=1"),
    (lambda: simulate(9, 1, 2, 1, 1, 1, delay=4), "delay=4"),
    (lambda: simulate(9, 50, 1, 1, 1, 1), "hardly ever"),
])  # fmt: skip
def test_one_clear_line(call, text):
    with pytest.raises(InputError, match=text) as error:
        call()
    assert "\n" not in str(error.value)
