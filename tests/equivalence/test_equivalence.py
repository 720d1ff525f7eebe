"""Parallel equals serial: every layout against one process that sees the whole batch.

    make equivalence                                                   # every legal layout
    .venv/bin/python -m pytest tests/equivalence -k "zero3 and frozen" # some of the fast ones

Loss, every gradient, the gradients' norm, and every parameter after a step of SGD and after each of
three steps of Adam, on every rank, in float64.
"""

import pytest


def test_equals_one_process(case, outcome):
    if complaint := outcome(case).complaint():
        pytest.fail(f"{case}\n{complaint}", pytrace=False)
