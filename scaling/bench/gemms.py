"""Measures matrix products on this device and writes them into a preset of the plan's hardware.

    python scaling/bench/gemms.py --out here.yaml
    minimtnlg plan mtnlg-530b --cluster here.yaml

The plan predicts a product by three numbers (minimtnlg/plan/estimate.py, `product`): the share of
the data sheet's peak that many large tiles reach (matmul), what smaller tiles reach of that
(small), and the time in which a tile is set up (start). They are fitted to the products of a layer
of several widths, each counted alike. A copy gives the share of the memory's rate (hbm_share). The
rest is that of the preset of this GPU, or of --cluster; the wires are measured by scaling/probe.py.
"""

import dataclasses
import datetime
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from ruamel.yaml import YAML
from scipy.optimize import least_squares

from minimtnlg import device
from minimtnlg.errors import InputError
from minimtnlg.files import appearing
from minimtnlg.plan.estimate import product
from minimtnlg.plan.hardware import hardware

# A part of the device's name -> the preset that has its data sheet.
SHEETS = {
    "H100 80GB HBM3": "h100-80gb",
    "A100-SXM4-80GB": "a100-80gb",
    "A100-SXM4-40GB": "a100-40gb",
    "V100-SXM3-32GB": "v100-32gb",
}
ROWS, WIDTHS = (2048, 4096, 8192), (1024, 2048, 4096)  # tokens of a micro-batch; h
FITTED = "matmul", "small", "start"
LOWEST, HIGHEST = (1e-6, 0.3, 0.0), (0.99, 1.0, 2000.0)  # matmul=1 would mean perfect kernels


def sheet(name=None):
    """The Hardware of a preset or YAML file; None: of this device. InputError where none is it."""
    here = device.name()
    found = name or next((preset for part, preset in SHEETS.items() if part in here), None)
    if found is None:
        raise InputError(f"no preset has the data sheet of {here}: name one, --cluster h100-80gb")
    return hardware(found)


def shapes(rows=ROWS, widths=WIDTHS):
    """(m, n, k) of the four products of a layer forward: QKV, output, up, down."""
    return [
        (m, n * h, k * h) for m in rows for h in widths for n, k in ((3, 1), (1, 1), (4, 1), (1, 4))
    ]


def fitted(measured, hw):
    """`hw` with the numbers of FITTED that fit {(m, n, k): seconds}."""

    def changed(x):
        return dataclasses.replace(hw, matmul=x[0], small=x[1], start=round(x[2]), error=0)

    def distance(x):
        return [np.log(product(*mnk, changed(x)) / seconds) for mnk, seconds in measured.items()]

    # From several starts, since the seconds jump where another tile becomes the faster one; `start`
    # is a whole number, so a step of the fit has to be one.
    best = max(2 * m * n * k / seconds for (m, n, k), seconds in measured.items())
    tries = [
        least_squares(
            distance,
            [min(max(best / (hw.tflops * 1e12), 2e-6), 0.98), small, start],
            bounds=(LOWEST, HIGHEST), diff_step=[1e-3, 1e-3, 0.05], x_scale=[0.1, 0.1, 100.0],
        )
        for small in (0.7, 0.95) for start in (50.0, 400.0)
    ]  # fmt: skip
    return changed([float(x) for x in min(tries, key=lambda found: found.cost).x])


def table(measured, hw):
    """Measured and predicted TFLOP/s of each product, as text."""
    lines = [f"{'m':>6}{'n':>7}{'k':>7}{'TFLOP/s':>10}{'of peak':>9}{'predicted':>11}"]
    for (m, n, k), seconds in measured.items():
        flops = 2 * m * n * k
        rate, plan = flops / seconds / 1e12, flops / product(m, n, k, hw) / 1e12
        lines.append(f"{m:>6}{n:>7}{k:>7}{rate:>10.3g}{rate / hw.tflops:>9.1%}{plan:>11.3g}")
    wrong = [abs(product(*mnk, hw) / seconds - 1) for mnk, seconds in measured.items()]
    return "\n".join([*lines, f"mean error of the fit {np.mean(wrong):.1%}"])


def save(hw, path):
    """Write `hw` as a YAML file that `minimtnlg plan --cluster` reads."""
    values = dataclasses.asdict(hw)
    values["launch"] = list(values["launch"])
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output = False, False
    with appearing(path) as aside, open(aside, "w") as file:
        file.write(
            f"# {', '.join(FITTED)}, hbm_share: measured by scaling/bench/gemms.py on "
            f"{device.name()}, torch {torch.__version__}, {datetime.date.today()}.\n"
        )
        yaml.dump(values, file)


def main(
    cluster: Annotated[str | None, typer.Option(help="Whose data sheet: preset or YAML.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the preset there.")] = None,
    seconds: Annotated[float, typer.Option(min=0, help="For each product.")] = 0.5,
):
    """Measure the products of a layer, fit the plan's numbers to them, write a preset."""
    hw = sheet(cluster)
    dtype = torch.bfloat16 if device.device().type == "cuda" else torch.float32
    print(f"{device.name()}, torch {torch.__version__}, {str(dtype).removeprefix('torch.')}")
    measured = {mnk: device.product_seconds(*mnk, dtype, seconds) for mnk in shapes()}
    share = device.copy_bytes() / (hw.hbm * 1e9)
    hw = dataclasses.replace(fitted(measured, hw), hbm_share=min(share, 1.0))
    print(table(measured, hw))
    print(*(f"{name}: {getattr(hw, name):.4g}" for name in (*FITTED, "hbm_share")), sep="\n")
    if out:
        save(hw, out)


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(f"gemms.py: {error}")
