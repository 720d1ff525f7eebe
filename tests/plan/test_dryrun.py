"""The dry run counts what real ranks do, in a small world and in the real one's size."""

import pytest
import torch

from minimtnlg import config as configuration
from minimtnlg import run
from minimtnlg.engines import installed
from minimtnlg.errors import InputError
from minimtnlg.parallel.collectives import Recorder
from minimtnlg.parallel.layout import Layout
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.plan.dryrun import Counter, Ours, dry_run
from minimtnlg.plan.estimate import job_of
from minimtnlg.plan.expected import expected

WORLD = 4
CASES = {
    "tp pp": ["parallel.tp=2", "parallel.pp=2", "parallel.recompute=selective"],
    "pp dp": ["parallel.pp=2", "parallel.recompute=full"],
    "sequence": ["parallel.tp=2", "parallel.sequence_parallel=true", "parallel.recompute=full"],
    "interleaved": ["parallel.pp=2", "parallel.schedule=interleaved", "parallel.virtual=2"],
    "deep": ["parallel.pp=4"],
    "zero 1": ["parallel.tp=2", "parallel.zero=1", "parallel.recompute=full"],
    "zero 2": ["parallel.zero=2"],
    "zero 3": ["parallel.tp=2", "parallel.zero=3"],
    "gpipe": ["parallel.pp=2", "parallel.tp=2", "parallel.schedule=gpipe"],
}


def config(case, *more):
    return configuration.sized(
        configuration.load("nano", [
            "model.layers=4", "model.seq=32", "model.vocab=256", "model.attention=readable",
            "model.dropout=0.1", "train.dtype=bfloat16", "train.ramp=null", "train.global_batch=24",
            *CASES.get(case, case), *more,
        ]), WORLD,
    )  # fmt: skip


def really():
    """{case: (traffic of a step, FLOPs of it, bytes at the peak of the second)} of this rank."""
    found = {}
    for case in CASES:
        c = config(case)
        p = c.parallel
        mesh = Mesh(Layout(tp=p.tp, pp=p.pp, dp=p.dp))
        m = c.train.global_batch // (p.dp * c.train.micro_batch)
        with Counter() as seen:
            rank = Ours(c, mesh)
            rank.step(p.pp)  # after a step the optimizer has its moments
            before, seen.peak = seen.flops, seen.alive
            with Recorder() as calls:
                rank.step(m)
        traffic = {key: vars(sums) for key, sums in calls.traffic().items()}
        held = {name: x.numel() for name, x in rank.model.named_parameters()}
        found[case] = traffic, seen.flops - before, seen.peak, held
    return found


@pytest.fixture(scope="module")
def real():
    return run(really, WORLD, timeout=300)


@pytest.mark.parametrize("case", CASES)
def test_it_counts_what_real_ranks_do(case, real):
    """Calls, bytes and FLOPs of a whole step exactly, though it takes a few micro-batches alone."""
    c = config(case)
    for rank in (0, WORLD - 1):
        dry = dry_run(c, rank)
        traffic, flops, peak, held = real[rank][case]
        assert {key: vars(sums) for key, sums in dry.traffic.items()} == traffic
        assert dry.m * dry.flops == flops
        assert {name: n for name, (n, _) in dry.parameters.items()} == held
        # what is under way is held until it is over, and here it is over at once
        assert dry.peak == pytest.approx(peak, rel=0.1 if c.parallel.zero else 0.02)


@pytest.mark.parametrize("case", [case for case in CASES if case not in ("gpipe", "zero 3")])
def test_the_formulas_are_what_is_counted(case):
    c = config(case)
    job = job_of(c, "readable")
    for stage in range(c.parallel.pp):
        dry = dry_run(c, Layout(tp=job.tp, pp=job.pp, dp=job.dp).rank(stage))
        told = expected(c, job, stage)
        assert dry.count == told["parameters"] and dry.flops == told["FLOPs a micro-batch"]
        sent, summed = (
            sum(s.bytes for key, s in dry.traffic.items() if key == wanted)
            for wanted in (("send", "pp"), ("all_reduce", "tp"))
        )
        assert ("bytes sent to other stages" in told) == (job.pp > 1 and job.virtual == 1)
        assert ("bytes summed over tensor ranks" in told) == (
            job.tp > 1 and not job.sequence_parallel
        )
        assert sent == told.get("bytes sent to other stages", sent)
        assert summed == told.get("bytes summed over tensor ranks", summed)


REAL = configuration.load("mtnlg-530b")


@pytest.fixture(scope="module")
def mtnlg():
    """{stage: the dry run of one of its ranks} of the first, the middle and the last stage."""
    layout = Layout(tp=8, pp=35, dp=8)
    return {stage: dry_run(REAL, layout.rank(stage, 3, 5)) for stage in (0, 17, 34)}


def test_the_real_job(mtnlg):
    """Known: parameters, FLOPs of a micro-batch and calls on each kind of stage."""
    assert [dry.count for dry in mtnlg.values()] == [2_060_874_240, 1_887_859_200, 2_018_972_160]
    assert [round(dry.flops / 1e9) for dry in mtnlg.values()] == [31_439, 31_439, 33_050]
    for stage, dry in mtnlg.items():
        calls = {key: sums.calls for key, sums in dry.traffic.items()}
        assert calls["all_reduce", "tp"] == 240 * {0: 19, 17: 18, 34: 21}[stage] + 1
        assert calls["send", "pp"] == calls["receive", "pp"] == 240 * (2 if stage == 17 else 1)
        states = dry.bytes["parameters"] + dry.bytes["gradients"] + dry.bytes["optimizer"]
        assert states == pytest.approx(18 * dry.count, rel=1e-6)
        whole = configuration.sized(REAL)
        told = expected(whole, job_of(whole, "readable"), stage)
        assert dry.peak == pytest.approx(told["peak bytes"], rel=0.04)


def test_the_parameters_of_the_real_job_are_all_there(mtnlg):
    """529 600 819 200: slices add up, copies and the tied embedding count once."""
    total = 0
    for stage, dry in mtnlg.items():
        for name, (count, cut) in dry.parameters.items():
            if not (stage == 34 and name == "embedding.weight"):
                total += count * (8 if cut else 1) * (33 if stage == 17 else 1)
    assert total == REAL.model.parameters() == 529_600_819_200


def test_nothing_is_allocated(mtnlg):
    import resource

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2 * 2**20  # KiB
    assert sum(dry.peak for dry in mtnlg.values()) > 100 * 2**30
    assert not torch.distributed.is_initialized()


@pytest.mark.skipif(not installed("megatron.core"), reason="needs megatron-core")
@pytest.mark.parametrize("case", ["tp pp", "pp dp", "interleaved", "sequence"])
def test_megatron_counts_the_same(case):
    """Its own GPTModel: the same parameters, the same FLOPs, the same bytes between stages."""
    from minimtnlg.engines.megatron_dry_run import MegatronModel

    c = config(case, "model.dropout=0")
    for rank in (0, WORLD - 1):
        ours, theirs = dry_run(c, rank), dry_run(c, rank, engine=MegatronModel)
        assert theirs.parameters == ours.parameters
        assert theirs.flops == ours.flops
        sent = {kind: sums for (kind, _), sums in theirs.traffic.items()}
        if ("send", "pp") in ours.traffic:  # it sends whole tensors, we slices
            mine = ours.traffic["send", "pp"]
            whole = 1 if c.parallel.sequence_parallel else c.parallel.tp
            assert sent["send"].bytes == whole * mine.bytes and sent["send"].calls == mine.calls


def test_what_cannot_be():
    with pytest.raises(InputError, match="no rank 2240: the 2240 ranks go from 0 to 2239"):
        dry_run(REAL, 2240)
    with pytest.raises(InputError, match="make 2240 ranks, not 2000"):
        dry_run(REAL, 0, gpus=2000)
    assert not torch.distributed.is_initialized()


def test_a_failed_one_leaves_no_group():
    with pytest.raises(ZeroDivisionError):
        dry_run(config("zero 2"), engine=lambda *_: 1 / 0)
    assert not torch.distributed.is_initialized()
    assert dry_run(config("zero 2")).count
