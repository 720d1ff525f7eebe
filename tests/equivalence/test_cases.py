"""The cases are what they are said to be: complete, legal, and as nasty as promised."""

from itertools import product

import pytest
import torch
from cases import AXES, PADDING, STEPS, candidates, everything, expected, few, legal, pairs
from on_ranks import Part
from reference import shapes
from special import SPECIAL

from minimtnlg.errors import InputError

FEW = few(everything())


def test_the_product_has_every_legal_layout():
    cases = everything()
    assert len(set(map(str, cases + SPECIAL))) == len(cases + SPECIAL)
    assert all(map(legal, cases + SPECIAL))
    for axis, values in AXES.items():
        assert {getattr(case, axis) for case in cases} == set(values)
    for tp, pp, dp in product((1, 2, 4), (1, 2, 4), (1, 2, 4, 8)):
        there = [case for case in cases if (case.tp, case.pp, case.dp) == (tp, pp, dp)]
        stages, pieces, schedules = 4 if pp == 1 else 2, 1 + (tp > 1), 3 if pp > 1 else 2
        assert len(there) == (stages * pieces * schedules * 3 if tp * pp * dp <= 8 else 0)


def accepted(case):
    try:
        return case.config is not None
    except InputError:
        return False


def test_the_configuration_accepts_what_is_legal_and_nothing_else():
    assert [accepted(case) for case in candidates()] == [legal(case) for case in candidates()]
    assert all(map(accepted, SPECIAL))


def test_few_cases_have_every_pair_of_values():
    assert set().union(*map(pairs, FEW)) == set().union(*map(pairs, everything()))


@pytest.mark.parametrize("case", FEW + SPECIAL, ids=str)
def test_the_ranks_have_all_and_each_number_once(case):
    """Put together, the shards that ranks update are the whole; the tied embedding is on two."""
    for name, shape in shapes(case.model).items():
        seen = torch.zeros(shape)
        for rank in range(case.layout.world):
            part = Part(case, rank)
            if part.has(name):
                part.shard(name, seen).add_(1)
        blocks = case.tp if part.block(name, seen).shape == seen.shape else 1
        shards = 1 if case.zero else case.dp
        stages = 2 if name.startswith("embedding") and case.pp > 1 else 1
        assert (seen == blocks * shards * stages).all(), name


def test_every_case_of_the_product_is_nasty():
    for serial in {case.serial for case in FEW}:
        batches = [batch for step in range(STEPS) for batch in serial.batches(step)]
        counts = [batch.mask.sum().item() for batch in batches]
        assert len(set(counts)) > 2
        assert min(batch.mask.sum(1).min() for batch in batches) == 0  # a row that doesn't count
        assert max(batch.tokens.max() for batch in batches) < serial.vocab - PADDING
        assert serial.s < serial.seq and serial.dropout > 0
        for number in range(STEPS if serial.dp > 1 else 0):
            replicas = [Part(serial, rank * serial.tp).batches(number) for rank in range(serial.dp)]
            assert len({sum(batch.mask.sum().item() for batch in own) for own in replicas}) > 1
        for steps in expected(serial).values():
            assert isinstance(steps, torch.Tensor) or all(s.norm > serial.clip for s in steps)
    vector = torch.zeros(FEW[0].hidden)
    shards = {
        len(Part(case, rank).shard("norm.weight", vector))
        for case in FEW
        for rank in range(case.layout.world)
        if case.zero and case.dp == 8
    }
    assert shards == {3, 2, 0}  # whole, short and empty ones
