"""FLOPs: the published rates from the published seconds, and exact counts of stages."""

import pytest

from minimtnlg.config import preset
from minimtnlg.plan import flops

MTNLG = preset("mtnlg-530b").model


@pytest.mark.parametrize("gpus, seconds, told, ours", [
    (2240, 60.1, 126, 125.7), (2800, 50.2, 121, 120.4), (3360, 44.4, 113, 113.5),
])  # fmt: skip
def test_the_published_rates(gpus, seconds, told, ours):
    """S3's 126, 121 and 113 by S12's eq. 3, but for 121, which no rounding of 50.2 s gives."""
    _, hfu = flops.shares(MTNLG, 1920, seconds, gpus, 312, "full")
    assert round(312 * hfu, 1) == ours
    assert (round(312 * hfu) == told) == (told != 121) and abs(312 * hfu - told) < 0.7


def test_the_share_that_palm_gives():
    mfu, hfu = flops.shares(MTNLG, 1920, 60.1, 2240, 312, "full")
    assert (round(mfu, 3), round(hfu, 3)) == (0.302, 0.403)


def test_selective_recomputation_counts_what_is_repeated():
    shares = [flops.shares(MTNLG, 280, 37.83, 280, 312, how)[1] for how in
              ("none", "selective", "full")]  # fmt: skip
    assert shares[0] < shares[1] < shares[2]
    core = 4 * MTNLG.layers * MTNLG.seq**2 * MTNLG.hidden  # forward products of the attention
    assert (shares[1] - shares[0]) * 37.83 * 280 * 312e12 == pytest.approx(280 * core)


def test_a_rank_of_each_stage():
    """31 439 GFLOP for a micro-batch on every stage but the last, which has the logits."""
    stages = flops.stages(MTNLG, 35, tp=8, recompute="full")
    assert {round(stage / 1e9) for stage in stages[:-1]} == {31_439}
    assert round(stages[-1] / 1e9) == 33_050


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("pp, virtual", [(1, 1), (7, 1), (7, 3), (8, 1)])
def test_stages_add_up_to_the_model(pp, virtual, recompute):
    stages = flops.stages(MTNLG, pp, virtual, 4, 3, recompute)
    assert 4 * sum(stages) == pytest.approx(MTNLG.flops(3, recompute), rel=1e-12)
