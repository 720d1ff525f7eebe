"""Seconds: parts that add up, a layer as measured, published runs, the pipeline's closed form."""

import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtnlg.config import Model
from minimtnlg.plan.estimate import (
    Job,
    estimate,
    job_of,
    layer,
    limit,
    passes,
    product,
    simulated,
    stage,
)
from minimtnlg.plan.hardware import hardware, names, stack
from minimtnlg.plan.network import half_seconds, sum_seconds, transfer_seconds
from minimtnlg.plan.planner import layouts, published

A100 = hardware("a100-80gb")
ROWS = published("scaling/published_runs.csv")


def error(rows):
    """Mean absolute error of the iteration time."""
    found = [abs(estimate(job, hw, soft).seconds / t - 1) for _, job, hw, soft, t in rows]
    return sum(found) / len(found)


def test_published_runs():
    assert error(ROWS) < 0.04
    assert error([row for row in ROWS if row[0]["source"] == "S3"]) < 0.05
    assert max(error([row]) for row in ROWS) < 0.07


def test_a_run_that_is_in_no_file():
    """GPT-3's 175 B on 1 024 GPUs: 32 s for a batch of 1 536 [S10, README of October 2021]."""
    shape = Model(layers=96, hidden=12288, heads=96, seq=2048, vocab=51200, attention="readable")
    job = Job(shape, 8, 16, 8, 1, 1536, recompute="full")
    assert estimate(job, A100, stack("megatron-2021")).seconds == pytest.approx(32, rel=0.09)


@pytest.mark.parametrize("sequence_parallel, recompute, forward, backward", [
    (False, "none", 7.7, 11.9), (True, "none", 7.2, 11.8), (False, "full", 7.7, 19.5),
    (False, "selective", 7.7, 13.2), (True, "selective", 7.2, 13.1),
])  # fmt: skip
def test_a_layer_as_measured(sequence_parallel, recompute, forward, backward):
    """A layer of 22 B on eight GPUs, in milliseconds [S13, table 4]."""
    shape = Model(layers=48, hidden=6144, heads=64, seq=2048, vocab=51200, attention="readable")
    found = layer(shape, 8, 4, sequence_parallel, recompute, A100, stack("megatron-2022"))
    told = [1e3 * sum(parts) for parts in found]
    assert told == pytest.approx([forward, backward], rel=0.08)


JOBS = []
for gpus, layers, heads, batch in ((16, 12, 8, 96), (24, 14, 12, 96), (64, 32, 16, 256)):
    shape = Model(layers=layers, hidden=heads * 128, heads=heads, seq=1024, vocab=51200 - 51200 % 12
                  if heads == 12 else 51200, attention="readable")  # fmt: skip
    JOBS += list(layouts(shape, gpus, [batch], A100))
SOME = random.Random(1).sample(JOBS, 100)
STACKS = [stack(name) for name in names("stacks.yaml")]


def test_the_closed_form_is_the_simulation():
    """Within 1 % on 100 random legal layouts: even and not, interleaved and not, long and short."""
    assert {job.virtual for job in SOME} > {1, 2} and {job.pp for job in SOME} > {1, 2, 4}
    worst = 0.0
    for job in SOME:
        soft = STACKS[job.pp % 3]
        found = estimate(job, A100, soft)
        pipeline = found.seconds - found.data - found.optimizer
        total = simulated(job, A100, soft).total
        worst = max(worst, abs(pipeline / total - 1))
    assert worst < 0.01


@given(st.sampled_from(JOBS), st.sampled_from(STACKS), st.sampled_from(names("hardware.yaml")))
def test_parts_add_up_and_nothing_beats_the_limit(job, soft, name):
    hw = hardware(name)
    found = estimate(job, hw, soft)
    pipeline = found.seconds - found.data - found.optimizer
    assert pipeline >= job.m * max(map(sum, passes(job, hw, soft))) * (1 - 1e-9)
    assert min(found) >= 0
    assert limit(job, hw, soft) < found.seconds
    for number, both in enumerate(passes(job, hw, soft)):
        one, two, sent = stage(job, number, hw, soft)
        assert both == pytest.approx((sum(one) + sent / 2, sum(two) + sent / 2))


@given(st.sampled_from(JOBS), st.sampled_from(STACKS))
def test_better_machines_are_not_slower(job, soft):
    before = estimate(job, A100, soft).seconds
    for key in ("tflops", "hbm", "near", "nic"):
        better = dataclasses.replace(A100, **{key: 2 * getattr(A100, key)})
        assert estimate(job, better, soft).seconds <= before


def test_small_products_leave_multiprocessors_idle():
    rates = [2 * n**3 / product(n, n, n, A100) / 312e12 for n in (256, 512, 1024, 2048, 8192)]
    assert rates == sorted(rates)
    assert rates[0] < 0.05 and rates[2] < 0.6 and 0.7 < rates[4] < 0.8


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_replicas_send_what_a_dry_run_counts(zero):
    """Bytes over the rate, and ZeRO's stages in their order; a wire without latency."""
    from minimtnlg import config
    from minimtnlg.plan.dryrun import dry_run

    settings = config.load("nano", [
        f"parallel.zero={zero}", "train.global_batch=24", "train.ramp=null", "model.layers=4",
        "train.dtype=bfloat16",
    ])  # fmt: skip
    dry = dry_run(settings, 0, 4)
    sent = sum(sums.wire_bytes for (_, group), sums in dry.traffic.items() if group == "dp")
    bare = dataclasses.replace(A100, near_seconds=0)
    job = job_of(config.sized(settings, 4))
    seconds = estimate(job, bare, stack("megatron-2022")).data
    assert seconds * bare.near * bare.near_share * 1e9 == pytest.approx(sent, rel=0.02)


def test_a_pipeline_in_one_node_does_not_leave_it():
    job = next(job for job in JOBS if (job.tp, job.pp, job.dp) == (1, 8, 2))._replace(dp=1)
    slow = dataclasses.replace(A100, nic=0.1)
    assert estimate(job, slow, STACKS[0]) == estimate(job, A100, STACKS[0])


def test_fused_attention_writes_no_scores():
    long = Model(layers=8, hidden=4096, heads=32, seq=16384, vocab=51200, attention="readable")
    readable, fused = (
        layer(long, 8, 1, False, "none", A100, dataclasses.replace(STACKS[1], attention=kind))
        for kind in ("readable", "sdpa")
    )
    for one, other in zip(readable, fused, strict=True):
        assert other.bytes < 0.5 * one.bytes and other.products < one.products


def test_recomputation_is_launched_as_well():
    tiny = Model(layers=8, hidden=128, heads=8, seq=128, vocab=2048, attention="readable")
    seconds = [sum(layer(tiny, 1, 1, False, how, A100, STACKS[1])[1]) for how in ("none", "full")]
    assert seconds == pytest.approx([1.4e-3, 2.2e-3])


def test_sums_among_eight_as_measured():
    """64 MiB in 580 us and 1 GiB in 8.19 ms over NVSwitch."""
    assert sum_seconds(2**26, 8, A100) == pytest.approx(580e-6, rel=0.05)
    assert sum_seconds(2**30, 8, A100) == pytest.approx(8.19e-3, rel=0.05)


def test_groups_that_leave_a_node_share_its_cards():
    size = 10**9
    assert sum_seconds(size, 1, A100) == half_seconds(size, 1, A100) == 0
    whole, alone = sum_seconds(size, 16, A100, 1), sum_seconds(size, 16, A100, 8)
    assert alone > 5 * whole - A100.near_seconds  # eight groups at once, with a card each
    assert half_seconds(size, 16, A100, 8) < alone < 2 * half_seconds(size, 16, A100, 8) + 1e-9
    assert transfer_seconds(size, A100, True, 8) < transfer_seconds(size, A100, True)
    assert transfer_seconds(size, A100, False) < transfer_seconds(size, A100, True)
