"""What conversions share: a folder that appears whole, and a run of weights from elsewhere.

huggingface.py and engines/megatron_checkpoint.py read and write the other formats.
"""

import contextlib
import dataclasses
import functools
import os
import shutil
import sys
from pathlib import Path

import torch

from minimtnlg import config as configuration
from minimtnlg.device import DTYPES
from minimtnlg.errors import InputError
from minimtnlg.files import appearing
from minimtnlg.model import GPT
from minimtnlg.train.checkpoint import save_model

CARRIED = ("config.yaml", "tokenizer.json")  # of a run, copied to every export
KINDS = {  # what a folder is -> the file that tells
    "run": "latest",
    "hf": "config.json",
    "megatron": "metadata.json",
}


def kind_of(folder):
    """What a folder of weights is, one of KINDS; InputError where it is none of them."""
    for kind, name in KINDS.items():
        if (Path(folder) / name).is_file():
            return kind
    told = ", ".join(f"{kind} ({name})" for kind, name in KINDS.items())
    raise InputError(f"{folder} is no folder of weights: none of {told} is there")


@contextlib.contextmanager
def new_folder(out):
    """Give a folder to fill; it becomes `out`, in one move, when the block ends well.

    InputError where `out` is there already.
    """
    if os.path.lexists(out):
        raise InputError(f"{out} is there already: choose another --out or remove it")
    with appearing(Path(out)) as folder:
        folder.mkdir()
        yield folder


def carry(source, folder):
    """Copy to `folder` what a run and its exports have in common, as far as `source` has it."""
    for name in CARRIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def settings(source, given=None):
    """The Config for a run from the folder `source`: `given`, else what our export carried along.

    given: a YAML file or the name of a preset.
    """
    if given is None and not (source / "config.yaml").is_file():
        raise InputError(
            f"{source} has no config.yaml, it is not minimtnlg's own export: name a YAML file or "
            "a preset for the settings of the run with --config"
        )
    return configuration.load(given or source / "config.yaml")


def dtype_of(tensors, source):
    """The train.dtype that holds every number of {name: tensor} from `source` as it is."""
    found = sorted({x.dtype for x in tensors.values()}, key=str)
    known = {dtype: name for name, dtype in DTYPES.items()}
    if not found or not set(found) <= known.keys():
        told = ", ".join(map(str, found)) or "missing"
        raise InputError(f"the weights in {source} are {told}: expected {', '.join(DTYPES)}")
    return known[functools.reduce(torch.promote_types, found)]


def write_run(folder, config, state, step, source):
    """Fill the new `folder` as a run of `config` with the weights `state`, {our name: tensor}.

    train.dtype becomes that of the weights, so that no number is rounded. source: the folder that
    they come from, with the tokenizer; where it has none, a note on stderr says so.
    """
    dtype = dtype_of(state, source)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, dtype=dtype))
    model = GPT(config.model, dtype=DTYPES[dtype])
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"the weights in {source} do not fit its sizes: {reason}") from None
    carry(source, folder)
    path = folder / "config.yaml"
    if not path.is_file() or configuration.load(path) != config:  # else it stays byte for byte
        configuration.save(config, path)
    save_model(model, folder, step)
    if not (folder / "tokenizer.json").is_file():
        print(
            f"{source} has no tokenizer.json, so the run has none: copy the model's own into it "
            "where text is to be read or written",
            file=sys.stderr,
        )
