"""Calibrate the numbers of a100-80gb that no micro-benchmark gives, on published runs.

    python scaling/fit.py                          # scaling/published_runs.csv
    python scaling/fit.py mine.csv

Prints the numbers, the mean error, and for each source the error of its rows with numbers that were
fitted without it: what to expect of runs that are not in the file. minimtnlg/plan/fit.py does it.
"""

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from minimtnlg.errors import InputError
from minimtnlg.plan.fit import EXPECTED, errors, fitted, left_out
from minimtnlg.plan.planner import published


def main(rows: Annotated[Path, typer.Argument(help="As scaling/published_runs.csv.")] = None):
    """Fit, and leave out one source after the other."""
    found = published(rows or Path(__file__).with_name("published_runs.csv"))
    numbers = fitted(found)
    for (name, (expected, width, why)), x in zip(EXPECTED.items(), numbers, strict=True):
        print(f"{name:10} {x:6.3f}   expected {expected:g} +- {width:g}: {why}")
    print(f"\n{'source':13} rows   error   left out")
    without, own = left_out(found), np.abs(errors(numbers, found))
    for source, part in without.items():
        mine = own[[row[0]["source"] == source for row in found]]
        print(f"{source:13} {len(mine):4} {mine.mean():7.1%} {part.mean():10.1%}")
    every = np.concatenate(list(without.values()))
    print(f"{'all':13} {len(found):4} {own.mean():7.1%} {every.mean():10.1%}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(f"fit.py: {error}")
