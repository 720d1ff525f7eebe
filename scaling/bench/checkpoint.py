"""Saving a gigabyte of state: ours beside torch.save and torch.distributed.checkpoint.

    python scaling/bench/checkpoint.py       # needs a disk and two cores that do nothing else

1. The same tensors, 1 GB as masters and moments of a model are cut, go to disk by turns, and are
   there for good (fsync) when the clock stops. "disk": the same bytes in one plain file, written
   from memory: what the disk takes. Ours also reads back, checksums and renames.
2. A training run without saves, with asynchronous saves and with saves that it waits for, by turns;
   the interval is Young's for the measured cost and one failure in half an hour.
"""

import os
import shutil
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp

from minimtnlg import config as configuration
from minimtnlg.course.need import need
from minimtnlg.plan.failures import young
from minimtnlg.train import checkpoint
from minimtnlg.train.boxes import Box
from minimtnlg.train.trainer import train

ROUNDS, PIECES, SIZE = 5, 60, 2**22  # 60 tensors of 4 Mi float32: 1.007 GB
FAILS_EVERY = 1800.0  # seconds; far more often than a cluster does
STEPS = 120


def disk(tensors, folder):
    """The bytes alone, in one file."""
    with open(folder / "plain", "wb", buffering=0) as file:
        for x in tensors.values():
            file.write(memoryview(x.numpy()).cast("B"))
        os.fsync(file.fileno())


def ours(tensors, folder):
    """A whole checkpoint: file, read back, index, renamed, latest moved."""
    aside = checkpoint.aside_of(folder, 1)
    aside.mkdir(parents=True)
    pieces = {key: (Box((0,), tuple(x.shape)), x) for key, x in tensors.items()}
    files = {checkpoint.file_name(0): checkpoint.write(aside, 0, pieces)}
    about = {key: checkpoint.described(x, x.shape, None) for key, x in tensors.items()}
    checkpoint.commit(folder, 1, {"step": 1, "files": files, "tensors": about})


def torch_save(tensors, folder):
    """One pickle."""
    torch.save(tensors, folder / "state.pt")
    _to_disk(folder)


def distributed(tensors, folder):
    """torch.distributed.checkpoint, in one process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is one process
        dcp.save(tensors, checkpoint_id=folder / "dcp")
    _to_disk(folder)


def _to_disk(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def writing():
    """Print gigabytes a second of each way to write."""
    tensors = {f"weights/{i}": torch.randn(SIZE) for i in range(PIECES)}
    size = sum(x.nbytes for x in tensors.values())
    ways, seconds = (disk, ours, torch_save, distributed), {}
    for _ in range(ROUNDS):
        for way in ways:
            folder = Path(tempfile.mkdtemp(dir="."))
            os.sync()
            began = time.perf_counter()
            way(tensors, folder)
            seconds.setdefault(way.__name__, []).append(time.perf_counter() - began)
            shutil.rmtree(folder)
    print(f"{size / 1e9:.3f} GB, medians of {ROUNDS}")
    for name, times in seconds.items():
        median = statistics.median(times)
        share = statistics.median(seconds["disk"]) / median
        print(f"{name:<12} {median:6.2f} s  {size / median / 1e9:5.2f} GB/s  {share:5.2f} of disk")


def training():
    """Print how much longer a run with saves takes."""
    corpus = need("corpus", progress=False)
    keys = [f"data.path={corpus}", "train.tokens=0", "train.ramp=null", f"train.steps={STEPS}"]

    def seconds(every=0, asynchronous=True):
        more = [f"train.save_every={every}", f"train.async_save={str(asynchronous).lower()}"]
        with tempfile.TemporaryDirectory(dir=".") as folder:
            config = configuration.load("nano", [*keys, *more])
            return train(config, Path(folder) / "run", progress=False)["seconds"]

    seconds(every=STEPS)  # loads what is needed
    rows, each = {}, seconds() / STEPS
    cost = max((seconds(every=10, asynchronous=False) - STEPS * each) / (STEPS / 10), 0.01)
    every = max(1, round(young(cost, FAILS_EVERY) / each))
    for _ in range(3):
        for name, way in (("none", (0,)), ("async", (every,)), ("waited for", (every, False))):
            rows.setdefault(name, []).append(seconds(*way))
    print(
        f"nano, {STEPS} steps of {each:.3f} s; a save that is waited for costs {cost:.3f} s, so "
        f"with a failure in {FAILS_EVERY:g} s the best interval is {every} steps"
    )
    none = statistics.median(rows["none"])
    for name, times in rows.items():
        median = statistics.median(times)
        print(f"{name:<12} {median:7.1f} s  {100 * (median / none - 1):+.1f} %")


if __name__ == "__main__":
    writing()
    training()
