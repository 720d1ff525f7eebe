"""Files of checkpoints: whole or not there at all, every byte accounted for, nothing executable."""

import json
import os
import random
import shutil

import pytest
import safetensors.torch
import torch

from minimtnlg import config as configuration
from minimtnlg.errors import InputError
from minimtnlg.train import checkpoint
from minimtnlg.train.audit import complaints, contents, opened
from minimtnlg.train.boxes import Box
from minimtnlg.train.checkpoint import Checkpoint, Damaged


@pytest.fixture
def whole():
    return torch.arange(24.0).reshape(6, 4)


@pytest.fixture
def run(tmp_path, whole):
    """A run with one checkpoint: a matrix in three boxes of two files' makers, a bias in one."""
    folder = tmp_path / "run"
    boxes = [((0, 0), (6, 2)), ((0, 2), (4, 2)), ((4, 2), (2, 2))]
    bias = torch.tensor([0.5, -0.0, float("nan")], dtype=torch.bfloat16)
    save(folder, 3, whole, boxes, bias)
    return folder


def save(folder, step, whole, boxes, bias, keep=0):
    aside = checkpoint.aside_of(folder, step)
    aside.mkdir(parents=True)
    configuration.save(configuration.preset("nano"), folder / "config.yaml")
    files = {}
    for rank, (offset, shape) in enumerate(boxes):
        rows, columns = (slice(o, o + n) for o, n in zip(offset, shape, strict=True))
        pieces = {"weights/m.weight": (Box(offset, shape), whole[rows, columns].contiguous())}
        if rank == 0:
            pieces["weights/m.bias"] = Box((0,), (3,)), bias
        files[checkpoint.file_name(rank)] = checkpoint.write(aside, rank, pieces)
    tensors = {
        "weights/m.weight": checkpoint.described(whole, whole.shape, 1),
        "weights/m.bias": checkpoint.described(bias, bias.shape, None),
    }
    checkpoint.commit(folder, step, {"step": step, "files": files, "tensors": tensors}, keep)


def test_any_box_is_put_together_from_those_that_were_written(run, whole):
    found = Checkpoint(checkpoint.folder_of(run, 3))
    assert torch.equal(found.read("weights/m.weight"), whole)
    for rows in range(6):
        for columns in range(4):
            box = Box((rows, columns), (6 - rows, 4 - columns))
            assert torch.equal(found.read("weights/m.weight", box), whole[rows:, columns:])
    bias = found.read("weights/m.bias")
    assert bias.dtype == torch.bfloat16 and bias[2].isnan() and bias[1].signbit()
    assert found.read("weights/m.weight", Box((2, 0), (0, 4))).shape == (0, 4)


def test_what_is_not_there_is_no_number(run):
    found = Checkpoint(checkpoint.folder_of(run, 3))
    with pytest.raises(InputError, match="has no masters/m.weight"):
        found.read("masters/m.weight")
    del found.files["rank-00001.safetensors"]
    with pytest.raises(InputError, match="lacks 8 numbers of weights/m.weight"):
        found.read("weights/m.weight")


def test_others_read_the_files(run, whole):
    """They are plain safetensors: the library's own loader gives the boxes."""
    path = checkpoint.folder_of(run, 3) / "rank-00001.safetensors"
    assert torch.equal(safetensors.torch.load_file(path)["weights/m.weight"], whole[:4, 2:])


def test_a_changed_bit_anywhere_is_found(run, tmp_path):
    """Up to 700 bits of each file, drawn at random: of the index, what ranks write, `latest`."""
    draw = random.Random(0)
    for path in [*checkpoint.folder_of(run, 3).iterdir(), run / "latest"]:
        content = path.read_bytes()
        for bit in draw.sample(range(8 * len(content)), min(8 * len(content), 700)):
            changed = bytearray(content)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            told = complaints(run)
            assert len(told) >= 1 and all("\n" not in line for line in told), (path.name, bit)
        path.write_bytes(content)
    assert complaints(run) == []


@pytest.mark.parametrize("name", ["index.json", "rank-00000.safetensors", "rank-00002.safetensors"])
def test_a_file_that_is_cut_or_missing_is_named(run, name):
    path = checkpoint.folder_of(run, 3) / name
    content = path.read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        [line, *_] = complaints(run)
        assert name in line and "damaged" in line
    path.unlink()
    [line, *_] = complaints(run)
    assert name in line and ("missing" in line or "No such file" in line)


def test_an_index_of_another_time_or_shape(run, tmp_path):
    index = checkpoint.folder_of(run, 3) / "index.json"
    for text in ("", "null", "[]", "3", "{}", '{"xxh3": 1}', "[" * 10**5, "\udcff"):
        index.write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(Damaged, match="index.json is damaged"):
            Checkpoint(index.parent)
    index.write_text(checkpoint._sealed({"format": 99}))
    with pytest.raises(InputError, match="has format 99, this reads 1"):
        Checkpoint(index.parent)


def test_only_the_newest_are_kept_and_latest_names_the_newest(tmp_path, whole):
    run, bias = tmp_path / "run", torch.zeros(3, dtype=torch.bfloat16)
    for step in (5, 10, 20):
        save(run, step, whole + step, [((0, 0), (6, 4))], bias, keep=2)
    assert checkpoint.steps(run) == [20, 10]
    assert torch.equal(opened(run).read("weights/m.weight"), whole + 20)
    assert sorted(os.listdir(run / "checkpoints")) == ["step-10", "step-20"]


@pytest.mark.parametrize("stop", ["rename", "point"])
def test_a_checkpoint_is_never_seen_half_there(tmp_path, whole, monkeypatch, stop):
    """Stopped before its last acts, a save leaves the one before as it was, and `latest` too."""
    run, bias = tmp_path / "run", torch.zeros(3, dtype=torch.bfloat16)
    save(run, 5, whole, [((0, 0), (6, 4))], bias)

    def fail(*_):
        raise OSError(28, "No space left on device")

    holder = checkpoint if stop == "point" else checkpoint.os
    monkeypatch.setattr(holder, stop, fail)
    with pytest.raises(OSError, match="No space left"):
        save(run, 6, whole + 1, [((0, 0), (6, 4))], bias)
    monkeypatch.undo()
    assert complaints(run) == [] and opened(run).index["step"] == 5
    assert checkpoint.steps(run) == ([6, 5] if stop == "point" else [5])
    checkpoint.clean(run)
    assert not list(run.rglob("*.partial"))


def test_what_the_disk_does_not_give_back_is_no_checkpoint(tmp_path, whole, monkeypatch):
    other = whole.clone()
    other[5, 3] += 1
    monkeypatch.setattr(
        checkpoint, "save_file", lambda t, path: safetensors.torch.save_file({"k": other}, path)
    )
    with pytest.raises(OSError, match="does not hold what was written to it"):
        checkpoint.write(tmp_path, 0, {"k": (Box((0, 0), (6, 4)), whole)})


def test_a_damaged_pointer_is_one_line(run):
    for text in ("", "step-", "step-x", "step-4", "../run", "model", "step-3\nstep-4"):
        (run / "latest").write_text(text)
        with pytest.raises(InputError, match="latest names|index.json is missing") as error:
            checkpoint.latest(run)
        assert "\n" not in str(error.value)


def test_contents_say_what_is_there(run, tmp_path):
    about = contents(opened(checkpoint.folder_of(run, 3)))
    assert (about["step"], about["files"], about["samples"]) == (3, 3, None)
    assert about["bytes"] == sum(p.stat().st_size for p in run.rglob("*.safetensors"))
    [kind] = about["kinds"]
    assert kind == {
        "kind": "weights", "tensors": 2, "numbers": 27, "bytes": 24 * 4 + 3 * 2,
        "dtype": "bfloat16",  # of the first tensor; a run has one for each kind
    }  # fmt: skip
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(InputError, match="is no checkpoint and holds none"):
        complaints(run)


def test_nothing_in_the_folder_can_be_executed(run):
    for path in (run / "checkpoints").rglob("*"):
        if path.name == "index.json":
            json.loads(path.read_text())
        elif path.is_file():
            assert path.suffix == ".safetensors" and path.read_bytes()[8:9] == b"{"


def test_a_step_that_is_saved_again_takes_the_place_of_the_first(run, whole):
    save(run, 3, whole + 1, [((0, 0), (6, 4))], torch.zeros(3, dtype=torch.bfloat16))
    assert torch.equal(opened(run).read("weights/m.weight"), whole + 1)
    assert complaints(run) == [] and not list(run.rglob("*.partial"))
