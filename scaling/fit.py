"""Calibrate the numbers of a100-80gb that no micro-benchmark gives, on published runs.

    python scaling/fit.py                          # scaling/published_runs.csv
    python scaling/fit.py mine.csv

Four numbers of the hardware, shared by all rows, are moved from what is expected of them as little
as the rows demand: a row counts with 3 %, an expectation with its own width. Nothing is fitted to a
row, a source or a stack. Printed are the numbers, the mean error, and for each source the error of
its rows with numbers that were fitted without it: what to expect of runs that are not in the file.
"""

import dataclasses
import statistics
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from scipy.optimize import least_squares

from minimtnlg.errors import InputError
from minimtnlg.plan.estimate import estimate
from minimtnlg.plan.planner import published

EXPECTED = {  # name: (expected, width, why)
    "matmul": (0.79, 0.03, "products of 0.77 to 0.82 of the peak were measured"),
    "hbm_share": (0.8, 0.1, "a copy reaches 0.85, kernels with a sum in them less"),
    "nic_share": (0.8, 0.15, "sums over eight network cards of a node"),
    "pair": (10.0, 5.0, "GB/s of one pair of GPUs, whose one or two channels leave a card idle"),
}
ROW = 0.03


def errors(numbers, rows):
    """Relative errors of the predictions of some rows."""
    changed = {name: float(x) for name, x in zip(EXPECTED, numbers, strict=True)}
    return np.array([
        estimate(job, dataclasses.replace(hw, **changed), soft).seconds / measured - 1
        for _, job, hw, soft, measured in rows
    ])  # fmt: skip


def fitted(rows):
    """The numbers that fit some rows, in the order of EXPECTED."""
    expected, width = (np.array([row[i] for row in EXPECTED.values()]) for i in (0, 1))

    def distance(x):
        return np.concatenate([np.log1p(errors(x, rows)) / ROW, (x - expected) / width])

    highest = [25 if name == "pair" else 1 for name in EXPECTED]
    return least_squares(distance, expected, bounds=([0.05] * len(expected), highest)).x


def main(rows: Annotated[Path, typer.Argument(help="As scaling/published_runs.csv.")] = None):
    """Fit, and leave out one source after the other."""
    found = published(rows or Path(__file__).with_name("published_runs.csv"))
    numbers = fitted(found)
    for (name, (expected, width, why)), x in zip(EXPECTED.items(), numbers, strict=True):
        print(f"{name:10} {x:6.3f}   expected {expected:g} +- {width:g}: {why}")
    print(f"\n{'source':13} rows   error   left out")
    left_out = []
    for source in sorted({row[0]["source"] for row in found}):
        inside = [row for row in found if row[0]["source"] == source]
        others = [row for row in found if row[0]["source"] != source]
        without = np.abs(errors(fitted(others), inside))
        left_out += [*without]
        own = np.abs(errors(numbers, inside)).mean()
        print(f"{source:13} {len(inside):4} {own:7.1%} {without.mean():10.1%}")
    every = np.abs(errors(numbers, found)).mean()
    print(f"{'all':13} {len(found):4} {every:7.1%} {statistics.mean(left_out):10.1%}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(f"fit.py: {error}")
