"""Looks at the folder of a run: what its checkpoints hold, and whether every byte is sound."""

import json
import math
from pathlib import Path

from minimtnlg import config as configuration
from minimtnlg.device import DTYPES
from minimtnlg.errors import InputError
from minimtnlg.train import checkpoint
from minimtnlg.train.checkpoint import KINDS, Checkpoint
from minimtnlg.train.disk import Damaged, refuse_changed
from minimtnlg.train.settings import refuse_others, settings_of


def opened(path):
    """The Checkpoint at `path`: a folder of one, or a run, of which it is the latest."""
    path = Path(path)
    return Checkpoint(path) if (path / checkpoint.INDEX).is_file() else checkpoint.latest(path)


def contents(found):
    """What a Checkpoint holds, as a dict: step, samples, layout, bytes on disk, kinds.

    kinds: a dict for each kind of tensor: how many tensors, their type, numbers and bytes.
    """
    kinds = {}
    for key, about in found.tensors.items():
        size = math.prod(about["shape"])
        row = kinds.setdefault(key.partition("/")[0], [0, about["dtype"], 0, 0])
        row[0] += 1
        row[2] += size
        row[3] += size * DTYPES[about["dtype"]].itemsize
    names = "kind", "tensors", "dtype", "numbers", "bytes"
    return {
        "step": found.index["step"],
        "samples": found.index.get("samples"),
        "layout": found.index.get("parallel"),
        "numbers": found.index.get("numbers"),
        "files": len(found.files),
        "bytes": sum(entry["bytes"] for entry in found.files.values()),
        "kinds": [dict(zip(names, (k, *kinds[k]), strict=True)) for k in KINDS if k in kinds],
    }


def complaints(path):
    """What is wrong with a run's folder, or with that of one checkpoint: a list of lines.

    Of a run: every checkpoint, byte for byte; `latest`; the configuration and the tokenizer, which
    have to be those of the checkpoints; and the logs up to the step of the newest.
    """
    path = Path(path)
    if (path / checkpoint.INDEX).is_file():
        return _complaint(lambda: Checkpoint(path).verify())
    steps = checkpoint.steps(path)
    if not steps:
        raise InputError(f"{path} is no checkpoint and holds none")
    told = []
    for step in steps:
        told += _complaint(lambda step=step: _whole(checkpoint.folder_of(path, step)))
    told += _complaint(lambda: checkpoint.latest(path))
    if not told:
        newest = Checkpoint(checkpoint.folder_of(path, steps[0]))
        told += _complaint(lambda: _as_saved(path, newest.index))
    return told


def _whole(folder):
    found = Checkpoint(folder)
    found.verify()
    for key, about in found.tensors.items():
        there = [entry["boxes"][key] for entry in found.files.values() if key in entry["boxes"]]
        if sum(math.prod(shape) for _, shape in there) != math.prod(about["shape"]):
            raise Damaged(f"{folder} does not have all numbers of {key}")


def _as_saved(run, index):
    """InputError where a file beside the checkpoints is not as the index has it."""
    config = configuration.load(run / "config.yaml")
    if "settings" in index:
        settings = settings_of(config, index["settings"]["corpus"])
        refuse_others(index, settings, run)
    for name, right in index.get("beside", {}).items():
        refuse_changed(run / name, right, index["step"])


def _complaint(look):
    try:
        look()
    except (InputError, OSError, json.JSONDecodeError) as error:
        return [str(error)]
    return []
