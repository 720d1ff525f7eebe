"""Machines and software as numbers: what a GPU, its node and its wires do, how a stack uses them.

    hardware("a100-80gb")       a preset of hardware.yaml
    hardware("mine.yaml")       one of yours: the same keys in a file
    stack("megatron-2022")      how a generation of software sends, reduces and accumulates

Numbers of the data sheet stand above those that were calibrated. The calibrated ones belong to the
hardware and are shared by all that is predicted on it; those of a stack come from its code.
"""

import dataclasses
import functools
import json
import statistics
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from minimtnlg.errors import InputError
from minimtnlg.sections import (
    Count,
    NotNegative,
    Number,
    Positive,
    Share,
    Whole,
    built,
    parsed,
    section,
)

Share1 = Annotated[float, Number, Field(gt=0.0, le=1.0)]


@section
class Hardware:
    """A GPU in its node. Rates in units of 10^12 FLOP/s or 10^9 bytes/s, one way, for each GPU."""

    memory_gib: Positive
    tflops: Positive  # peak of the matrix units in 16 bits
    hbm: Positive  # GB/s of the memory
    sms: Count  # multiprocessors: tiles of a product that are computed at a time
    per_node: Count  # GPUs
    near: Positive  # GB/s to the GPUs of the same node
    nic: Positive  # GB/s to other nodes, of one GPU's share of the network cards
    watts: Positive  # of a GPU and its share of the node, for the energy

    # Calibrated: shares of the above that are reached, and what a call takes at least.
    matmul: Share1  # of tflops, by a product of many large tiles
    small: Share1  # of that, by tiles of half the size
    start: Whole  # columns of a product in whose time a tile is set up
    hbm_share: Share1  # of hbm, by element-wise kernels
    near_share: Share1  # of near, by a sum among the GPUs of a node
    nic_share: Share1  # of nic, by a sum among nodes
    pair: Positive  # GB/s of a transfer from one GPU to one of another node, where nic allows more
    near_seconds: NotNegative  # of a collective inside a node
    far_seconds: NotNegative  # of a collective or a transfer between nodes, for each node
    launch: tuple[NotNegative, NotNegative]  # seconds of a layer's kernels, forward and backward
    reserved_gib: NotNegative  # context of the driver, buffers of the communication
    fragments: NotNegative  # reserved but not allocated, as a share of what is allocated
    error: NotNegative = 0  # mean error of predictions of sources that were left out; 0: not known

    def perfect(self):
        """The same data sheet with perfect kernels and wires: nothing can be faster."""
        return dataclasses.replace(
            self, matmul=1, hbm_share=1, near_share=1, nic_share=1, pair=self.nic,
            near_seconds=0, far_seconds=0, launch=(0, 0),
        )  # fmt: skip


@section
class Stack:
    """A generation of software, by what its code does."""

    sends: Literal["slices", "whole"]  # a pipeline sends 1/tp of a tensor and gathers it, or all
    transfers: Count  # one after the other, for a micro-batch on a stage
    gradient: Literal[2, 4]  # bytes in which gradients are summed, over micro-batches and replicas
    fused: bool  # products add to the gradients themselves; else a kernel of its own does
    attention: Literal["readable", "sdpa"]  # whether its scores stand in memory, or a fused kernel
    hidden: Share  # of the backward pass's sums over tensor ranks, behind products


def hardware(name):
    """The Hardware of a preset or of a YAML file; InputError where it is neither, or malformed."""
    return _named(name, "hardware.yaml", Hardware)


def stack(name):
    """The Stack of a preset or of a YAML file."""
    return _named(name, "stacks.yaml", Stack)


def probed(hw, path):
    """`hw` with the rates that `scaling/probe.py --json` measured on a cluster of it.

    An InputError for a file that isn't the probe's. Its expected error is not known.
    """
    try:
        rates = json.loads(Path(path).read_text(encoding="utf-8"))["rates"]
        found = {one["what"]: statistics.median(one["values"].values()) for one in rates}
        products = found.pop("products") / hw.tflops
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path} isn't what scaling/probe.py --json writes: {error!r}") from None
    measured = {"matmul": min(products, 0.99)}  # 1 would be perfect
    if inside := found.get("sums inside nodes"):  # switches that add up are faster than the wire
        measured["near_share"] = min(inside / hw.near, 1.0)
    if between := found.get("sums between nodes"):
        measured["nic_share"] = min(between / hw.nic, 1.0)
    if pair := found.get("exchanges between nodes"):
        measured["pair"] = pair
    return dataclasses.replace(hw, error=0, **measured)


def names(kind):
    """Names of the presets in hardware.yaml or stacks.yaml."""
    return list(_presets(kind))


def _named(name, kind, cls):
    presets = _presets(kind)
    if name in presets:
        return built(cls, presets[name])
    path = Path(name).expanduser()
    try:
        text = path.read_text()
    except (OSError, ValueError):
        raise InputError(
            f"no {cls.__name__.lower()} {name!r}: {', '.join(presets)}, or a YAML file"
        ) from None
    return built(cls, parsed(text, path, ()))


@functools.cache
def _presets(kind):
    text = files("minimtnlg.plan").joinpath(kind).read_text(encoding="utf-8")
    return parsed(text, kind, ())
