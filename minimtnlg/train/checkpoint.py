"""A checkpoint on disk: every rank writes the boxes that it owns, an index says where each is.

    RUN/latest                          the newest: "step-20"
    RUN/checkpoints/step-20/
        index.json                      whole tensors, boxes of each file, checksums, numbers
        rank-00000.safetensors          what rank 0 has written: {"weights/norm.bias": tensor, ...}

- A folder appears whole or not at all: written aside, read back, then renamed; `latest` moves last.
- Any layout reads any other: what a rank wants is put together from the boxes that overlap it.
- A flipped or missing byte anywhere in the folder is found. Nothing in it can be executed.

Kinds of tensors: weights, masters (where weights have 16 bits), exp_avg and exp_avg_sq, Adam's
moments. A key is kind/name, as weights/blocks.0.mlp.up.bias.
"""

import contextlib
import json
import math
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import safetensors
import torch
import xxhash
from safetensors.torch import save_file

from minimtnlg import config as configuration
from minimtnlg.device import DTYPES, device
from minimtnlg.errors import InputError
from minimtnlg.files import appearing
from minimtnlg.model import GPT
from minimtnlg.parallel.tensor import split_dimensions, whole_shape
from minimtnlg.train.boxes import Box, held, overlap
from minimtnlg.train.disk import Damaged, checksum, digest, entry, to_disk
from minimtnlg.train.settings import refuse_others, settings_of

FORMAT, INDEX = 1, "index.json"
KINDS = ("weights", "masters", "exp_avg", "exp_avg_sq")


def folder_of(run, step):
    """Where the checkpoint of a step is."""
    return Path(run) / "checkpoints" / f"step-{step}"


def aside_of(run, step):
    """Where it is written; a folder of this kind that is found at a start is what a kill left."""
    return Path(run) / "checkpoints" / f".step-{step}.partial"


def file_name(rank):
    """The file of a rank."""
    return f"rank-{rank:05}.safetensors"


def steps(run):
    """The steps of which `run` has checkpoints, newest first."""
    numbers = [p.name.removeprefix("step-") for p in (Path(run) / "checkpoints").glob("step-*")]
    return sorted((int(n) for n in numbers if n.isascii() and n.isdecimal()), reverse=True)


def step_of(run):
    """The number of the step that `latest` of a run names."""
    name = (Path(run) / "latest").read_text(errors="replace").strip()
    number = name.removeprefix("step-")
    if not (number.isascii() and number.isdecimal() and name.startswith("step-")):
        raise InputError(f"{run}/latest names {name!r}: expected step-N, a folder of checkpoints")
    return int(number)


def point(run, step):
    """Let RUN/latest name the checkpoint of a step."""
    with appearing(Path(run) / "latest") as path:
        path.write_text(folder_of(run, step).name)
        to_disk(path)
    to_disk(Path(run))


def clean(run):
    """Remove what a killed run has left half-written or half-removed."""
    for path in (Path(run) / "checkpoints").glob(".step-*.partial"):
        shutil.rmtree(path, ignore_errors=True)


def write(folder, rank, pieces):
    """Write one rank's file into `folder`, durably, read it back; returns its entry of the index.

    pieces: {key: (Box, tensor on the CPU)}. OSError where the disk is full, or does not give back
    what was written to it.
    """
    path = Path(folder) / file_name(rank)
    tensors = {key: tensor for key, (_, tensor) in pieces.items()}
    try:
        save_file(tensors, path)
    except safetensors.SafetensorError as error:  # which the library makes of an OSError
        raise OSError(f"can't write {path}: {error}") from None
    with ThreadPoolExecutor(1) as aside:  # memory is read while the disk is at work
        meant = aside.submit(_meant, path, tensors)
        about = entry(path)
    if about["xxh3"] != meant.result():
        raise OSError(f"{path} does not hold what was written to it")
    return about | {"boxes": {key: box for key, (box, _) in pieces.items()}}


def _meant(path, tensors):
    """The checksum that the safetensors file `path` has if it holds these tensors."""
    with open(path, "rb") as file:
        length = file.read(8)
        header = file.read(int.from_bytes(length, "little"))
    told = json.loads(header)
    state = xxhash.xxh3_128(length + header)
    for key in sorted(tensors, key=lambda key: told[key]["data_offsets"]):
        state.update(tensors[key].contiguous().view(-1).view(torch.uint8).numpy())
    return state.hexdigest()


def commit(run, step, index, keep=0):
    """Complete the folder of a step, written aside, and let it be the newest of the run.

    index: a dict, see Checkpoint. keep: how many of the newest checkpoints stay; 0: all.
    """
    aside, folder = aside_of(run, step), folder_of(run, step)
    (aside / INDEX).write_text(_sealed({"format": FORMAT} | index))
    to_disk(aside / INDEX)
    to_disk(aside)
    if folder.exists():  # a damaged one, that a resumed run comes to again
        _discard(folder)
    os.rename(aside, folder)
    to_disk(folder.parent)
    point(run, step)
    for old in steps(run)[keep:] if keep else ():
        with contextlib.suppress(OSError):  # the new one is there, whatever becomes of an old one
            _discard(folder_of(run, old))


def save_model(model, run, step):
    """A checkpoint of the weights of `model` alone, all of it in this process."""
    splits, pieces, tensors = split_dimensions(model), {}, {}
    for name, x in model.named_parameters():
        key, box = f"weights/{name}", Box((0,) * x.dim(), tuple(x.shape))
        pieces[key] = box, x.detach().cpu().contiguous()
        tensors[key] = described(x, x.shape, splits[name])
    aside = aside_of(run, step)
    aside.mkdir(parents=True, exist_ok=True)
    files = {file_name(0): write(aside, 0, pieces)}
    commit(run, step, {"step": step, "tensors": tensors, "files": files})


def described(tensor, whole, split):
    """What the index says of a tensor: type, whole shape, and how tensor parallelism cuts it."""
    dtype = next(name for name, dtype in DTYPES.items() if dtype == tensor.dtype)
    return {"dtype": dtype, "shape": list(whole), "split": split}


class Checkpoint:
    """A checkpoint to read from; Damaged where its index is not as it was written.

    .index is a dict: `step`; `tensors`, {key: {dtype, shape, split}}; `files`, {name: {bytes, xxh3,
    boxes: {key: [offset, shape]}}}; and, in those of a run, `samples`, `numbers`, `recent` losses
    and norms, `parallel`, `settings` and what lies `beside` (see train/saving.py, loop.py).
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.index = _unsealed(self.folder / INDEX)
        if self.index.get("format") != FORMAT:
            raise InputError(f"{folder} has format {self.index.get('format')}, this reads {FORMAT}")
        self.tensors, self.files = self.index["tensors"], self.index["files"]
        self._open = {}

    def verify(self, names=None):
        """Damaged unless the files, all of them by default, are byte for byte what was written."""
        for name in self.files if names is None else names:
            path, right = self.folder / name, self.files[name]
            try:
                found = path.stat().st_size
                if found != right["bytes"]:
                    raise Damaged(f"{path} is damaged: {found:,} bytes of {right['bytes']:,}")
                if checksum(path) != right["xxh3"]:
                    raise Damaged(f"{path} is damaged: its checksum is not the one in {INDEX}")
            except OSError as error:
                raise Damaged(f"can't read {path}: {error.strerror}") from None

    def read(self, key, box=None):
        """The numbers of a Box of the tensor `key`, of all of it by default, on the CPU.

        InputError where the checkpoint does not have them all.
        """
        if key not in self.tensors:
            raise InputError(f"{self.folder} has no {key}")
        about = self.tensors[key]
        box = box or Box((0,) * len(about["shape"]), tuple(about["shape"]))
        result, missing = torch.empty(box.shape, dtype=DTYPES[about["dtype"]]), math.prod(box.shape)
        for name, written in self.files.items():
            found = key in written["boxes"] and overlap(Box(*written["boxes"][key]), box)
            if found:
                there, here = found
                result[here] = self._file(name).get_slice(key)[there]
                missing -= result[here].numel()
        if missing:
            raise InputError(f"{self.folder} lacks {missing:,} numbers of {key}")
        return result

    def _file(self, name):
        if name not in self._open:
            try:
                self._open[name] = safetensors.safe_open(self.folder / name, "pt")
            except (OSError, safetensors.SafetensorError) as error:
                raise Damaged(f"can't read {self.folder / name}: {error}") from None
        return self._open[name]


def latest(run):
    """The Checkpoint that RUN/latest names; InputError where there is none."""
    run = Path(run)
    if not (run / "latest").is_file():
        raise InputError(
            f"{run} holds no finished checkpoint: train one, minimtnlg train CONFIG --out {run}, "
            "with --resume if a run was begun there"
        )
    return Checkpoint(folder_of(run, step_of(run)))


@torch.no_grad()
def load_run(run, mesh=None):
    """(Config, GPT) of a run's folder, with the weights that `latest` names.

    mesh: this rank's Mesh, whose part of the model it gets; None: one process. InputError where the
    folder is no run, or its weights are missing, damaged or of another shape.
    """
    found = latest(run)
    config = configuration.load(Path(run) / "config.yaml")
    if "settings" in found.index:
        refuse_others(found.index, settings_of(config, found.index["settings"]["corpus"]), run)
    found.verify()
    model = GPT(config.model, mesh, dtype=DTYPES[config.train.dtype])
    layout, splits = model.mesh.layout, split_dimensions(model)
    for name, parameter in model.named_parameters():
        whole = [*whole_shape(parameter, splits[name], layout.tp)]
        there = found.tensors.get(f"weights/{name}", {"shape": whole})["shape"]
        if there != whole:
            raise InputError(
                f"can't use the weights in {found.folder}: {name} is {there} there, {whole} by "
                f"{run}/config.yaml"
            )
        box = held(whole, splits[name], layout, model.mesh.place, cut=False)
        parameter.copy_(found.read(f"weights/{name}", box).to(device()))
    return config, model


def _sealed(index):
    """The text of an index: JSON, in one way only, with its own checksum in it."""
    text = json.dumps(index, sort_keys=True)
    return json.dumps(index | {"xxh3": digest(text.encode())}, sort_keys=True)


def _unsealed(path):
    """The dict that `_sealed` has made a text of; Damaged where a byte of it has changed."""
    try:
        text = path.read_text()
        index = json.loads(text)
        index.pop("xxh3")
        if _sealed(index) != text:
            raise ValueError("its checksum is another")
    except FileNotFoundError:
        raise Damaged(f"{path} is missing") from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise Damaged(f"{path} is damaged: {error}") from None
    return index


def _discard(folder):
    """Remove a checkpoint: first its name, so that none is ever seen half there."""
    aside = folder.with_name(f".{folder.name}.old.partial")  # aside_of may hold the next one
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)  # what somebody still reads goes at the next start
