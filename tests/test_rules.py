"""Which layouts can be: a refusal names the key and what would fit; the rest can be built."""

import itertools
import re

import pytest

from minimtnlg.config import load
from minimtnlg.errors import InputError
from minimtnlg.parallel.schedules import named

SMALL = ["train.micro_batch=1", "train.ramp=null"]


@pytest.mark.parametrize(
    "overrides, says",
    [
        (["parallel.tp=3"], "tp=3 does not divide model.heads=8: choose one of [1, 2, 4, 8]"),
        (["parallel.tp=8", "model.vocab=2052"], "tp=8 does not divide model.vocab=2052"),
        (["parallel.pp=9"], "pp=9 stages need at least one layer each: model.layers=8"),
        (["parallel.zero=2", "parallel.pp=2"], "choose parallel.zero=1 or parallel.pp=1"),
        (["parallel.zero=3", "parallel.pp=2"], "choose parallel.zero=1 or parallel.pp=1"),
        (["parallel.sequence_parallel=true"], "choose a tp above 1 or switch it off"),
        (
            ["parallel.sequence_parallel=true", "parallel.tp=8", "model.seq=100"],
            "divide model.seq=100, cut by parallel.sequence_parallel: choose one of [1, 2, 4]",
        ),
        (["parallel.virtual=2"], "choose it, or virtual=1"),
        (["parallel.schedule=interleaved"], "choose a pp above 1 or parallel.schedule=1f1b"),
        (
            ["parallel.schedule=interleaved", "parallel.pp=2"],
            "parallel.virtual=1 is 1f1b: choose parallel.virtual=2 or more",
        ),
        (
            ["parallel.schedule=interleaved", "parallel.pp=3", "parallel.virtual=2"],
            "choose a product of [1, 2, 4, 8], or parallel.schedule=1f1b",
        ),
        (
            ["parallel.schedule=interleaved", "parallel.pp=4", "parallel.virtual=2",
             "train.global_batch=6", "train.ramp=null", "train.micro_batch=1"],
            "a global batch of 6 is not divisible by train.micro_batch * parallel.dp * parallel.pp"
            " (interleaved) = 1 * 1 * 4: change train.global_batch, train.ramp or the layout",
        ),
        (["parallel.dp=8"], "= 2 * 8: train.micro_batch=1 would fit this batch"),
        (["parallel.recompute=selective"], "choose model.attention=readable, or recompute none"),
        (["parallel.zero=4"], "parallel.zero=4: input should be less than or equal to 3"),
        (["parallel.dp=half"], "dp='half': input should be a whole number from 1, or auto"),
        (["parallel.sequence_parallel=3"], "sequence_parallel=3: input should be a valid boolean"),
        (["parallel.schedule=gpip"], "input should be 'gpipe', '1f1b' or 'interleaved'"),
        (["parallel.vitrual=2"], "did you mean 'virtual'?"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_would_fit(overrides, says):
    with pytest.raises(InputError, match=re.escape(says)):
        load("nano", overrides)


def test_what_the_rules_allow_can_be_built():
    """Every combination on 8 layers that is not refused has a schedule."""
    allowed, names = 0, ("gpipe", "1f1b", "interleaved")
    for tp, pp, dp, virtual, zero, name in itertools.product(
        (1, 2, 4), (1, 2, 3, 4, 8), (1, 2), (1, 2, 4), range(4), names
    ):
        parallel = dict(tp=tp, pp=pp, dp=dp, virtual=virtual, zero=zero, schedule=name)
        overrides = [f"parallel.{key}={value}" for key, value in parallel.items()]
        try:
            config = load("nano", [*SMALL, "train.global_batch=24", *overrides])
        except InputError:
            continue
        allowed += 1
        m = config.train.global_batch // dp
        assert len(named(name, pp, m, virtual)) == pp
        assert pp == 1 or zero < 2
        assert name != "interleaved" or 8 % (pp * virtual) == 0
    # For each tp and dp, by hand. gpipe and 1f1b, with v = 1: four stages of ZeRO at pp = 1, two at
    # pp = 2, 3, 4, 8. interleaved, with two each: v = 2 and 4 at pp = 2, v = 2 at pp = 4.
    assert allowed == 3 * 2 * (2 * 12 + 6)


def test_the_examples_of_the_design_are_legal():
    load("nano", ["parallel.tp=8"])
    load("nano", ["parallel.pp=8"])
    load("nano", ["parallel.pp=4", "parallel.schedule=interleaved", "parallel.virtual=2"])
    load("nano", ["parallel.tp=2", "parallel.pp=2", "parallel.dp=2", "parallel.zero=1",
                  "parallel.schedule=interleaved", "parallel.virtual=2",
                  "parallel.sequence_parallel=true"])  # fmt: skip

