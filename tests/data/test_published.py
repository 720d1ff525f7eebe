"""The table of the 15 data sets agrees with itself, with the configurations and with the rule."""

from pathlib import Path

import numpy as np
import pytest

from minimtnlg.config import load
from minimtnlg.data.blend import blend
from minimtnlg.data.published import MTNLG, TOKENS, epochs

CONFIGS = Path(__file__).parents[2] / "scaling" / "configs"
WEIGHTS = {name: row.weight for name, row in MTNLG.items()}


def test_weights_are_the_printed_ones_with_more_digits():
    assert len(MTNLG) == 15 and sum(WEIGHTS.values()) == pytest.approx(1, abs=1e-9)
    for name, row in MTNLG.items():
        assert 100 * row.weight == pytest.approx(row.percent, abs=0.051), name


def test_epochs_are_the_published_ones():
    sizes = {name: row.tokens for name, row in MTNLG.items()}
    for name, found in epochs(sizes, WEIGHTS, TOKENS).items():
        assert found == pytest.approx(MTNLG[name].epochs, abs=0.12), name


def test_epochs_follow_the_weights_in_any_unit():
    found = epochs({"a": 10, "b": 100, "c": 5}, {"a": 3, "b": 1}, 40)
    assert found == {"a": 3.0, "b": 0.1}


@pytest.mark.parametrize("nodes", [280, 350, 420])
def test_the_configurations_have_them(nodes):
    assert load(CONFIGS / f"mtnlg-530b-{nodes}-nodes.yaml").data.weights == WEIGHTS


def test_the_rule_keeps_every_batch_on_them():
    """At most one sample above, at most 1.1 below, at each of 40 000 samples."""
    chosen, _ = blend(list(WEIGHTS.values()), 40_000)
    shares = np.array(list(WEIGHTS.values()))
    used = np.cumsum(np.eye(15)[chosen], axis=0)
    ahead = used - np.arange(1, 40_001)[:, None] * shares
    assert ahead.max() <= 1 and ahead.min() >= -1.1
