"""Calibration on published runs: four numbers of the hardware, shared by all rows.

They are moved from what is expected of them as little as the rows demand: a row counts with 3 %, an
expectation with its own width. Nothing is fitted to a row, a source or a stack.
"""

import dataclasses

import numpy as np

from minimtnlg.errors import InputError
from minimtnlg.plan.estimate import estimate

EXPECTED = {  # name: (expected, width, why)
    "matmul": (0.79, 0.03, "products of 0.77 to 0.82 of the peak were measured"),
    "hbm_share": (0.8, 0.1, "a copy reaches 0.85, kernels with a sum in them less"),
    "nic_share": (0.8, 0.15, "sums over eight network cards of a node"),
    "pair": (10.0, 5.0, "GB/s of one pair of GPUs, whose one or two channels leave a card idle"),
}
ROW = 0.03


def errors(numbers, rows):
    """Relative errors, float64 [rows], of the predictions of `planner.published`'s rows."""
    changed = {name: float(x) for name, x in zip(EXPECTED, numbers, strict=True)}
    return np.array([
        estimate(job, dataclasses.replace(hw, **changed), soft).seconds / measured - 1
        for _, job, hw, soft, measured in rows
    ])  # fmt: skip


def fitted(rows):
    """The numbers that fit some rows, in the order of EXPECTED."""
    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise InputError("fitting takes scipy: pip install 'minimtnlg[data]'") from None
    expected, width = (np.array([row[i] for row in EXPECTED.values()]) for i in (0, 1))

    def distance(x):
        return np.concatenate([np.log1p(errors(x, rows)) / ROW, (x - expected) / width])

    highest = [25 if name == "pair" else 0.99 for name in EXPECTED]
    return least_squares(distance, expected, bounds=([0.05] * len(expected), highest)).x


def left_out(rows):
    """{source: absolute errors of its rows with numbers that were fitted without it}."""
    found = {}
    for source in sorted({row[0]["source"] for row in rows}):
        others = [row for row in rows if row[0]["source"] != source]
        inside = [row for row in rows if row[0]["source"] == source]
        found[source] = np.abs(errors(fitted(others), inside)) if others else np.array([])
    return found
