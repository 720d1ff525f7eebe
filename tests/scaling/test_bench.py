"""The benchmarks of one device: what they fit, what they write, a model that does not fit."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

from minimtnlg.config import Config
from minimtnlg.errors import InputError
from minimtnlg.plan.estimate import product
from minimtnlg.plan.hardware import hardware

sys.path.insert(0, str(Path(__file__).parents[2] / "scaling" / "bench"))

import gemms  # noqa: E402
import single  # noqa: E402


@pytest.mark.parametrize("numbers", [(0.7, 0.8, 200), (0.85, 0.6, 600)])
def test_products_give_the_numbers_back_that_they_were_made_of(numbers, tmp_path):
    sheet = hardware("h100-80gb")
    made = dataclasses.replace(sheet, **dict(zip(gemms.FITTED, numbers, strict=True)))
    measured = {mnk: product(*mnk, made) for mnk in gemms.shapes()}
    found = gemms.fitted(measured, sheet)
    for mnk, seconds in measured.items():
        assert product(*mnk, found) == pytest.approx(seconds, rel=0.01)
    assert found.matmul == pytest.approx(numbers[0], rel=0.01)
    assert "mean error of the fit 0." in gemms.table(measured, found)

    gemms.save(found, tmp_path / "here.yaml")
    assert hardware(tmp_path / "here.yaml") == found  # what `plan --cluster here.yaml` reads
    others = {name: getattr(sheet, name) for name in gemms.FITTED}
    assert dataclasses.replace(found, **others) == dataclasses.replace(sheet, error=0)


def test_a_device_is_measured_and_written(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gemms, "shapes", lambda: [(8, 3, 16), (16, 16, 16), (64, 32, 16)])
    gemms.main("a100-80gb", tmp_path / "here.yaml", 0)
    found = hardware(tmp_path / "here.yaml")
    assert found.memory_gib == 80 and 0 < found.matmul <= 1 and 0 < found.hbm_share < 1
    assert capsys.readouterr().out.count("\n") == 10
    with pytest.raises(InputError, match="no preset has the data sheet of CPU"):
        gemms.main(None)


def test_sizes_are_their_names():
    found = single.configs_of("nano", ",".join(single.SIZES), ["optim.lr=1e-4"], 4)
    assert list(found) == list(single.SIZES)
    for name, config in found.items():
        assert isinstance(config, Config) and config.optim.lr == 1e-4
        millions = float(name[:-1]) * (1000 if name.endswith("b") else 1)
        assert config.model.parameters() / 1e6 == pytest.approx(millions, rel=0.09)
        assert config.train.global_batch == 4 * config.train.micro_batch
    with pytest.raises(InputError, match="--sizes 3b: there are 125m"):
        single.configs_of("nano", "3b", [], 4)


def test_what_does_not_fit_is_a_row(monkeypatch):
    def too_large(config):
        raise torch.OutOfMemoryError("tried to allocate")

    monkeypatch.setitem(single.SIDES, "megatron", too_large)
    small = [f"model.{x}" for x in "layers=1 hidden=16 heads=2 seq=8 vocab=32".split()]
    [(name, config)] = single.configs_of("nano", "", small, 2).items()
    found = single.turns(config, ["megatron", "minimtnlg"], runs=2, steps=1)
    failed, timed = single.rows_of(name, config, found, 1e12, 2e12)
    assert failed["failed"] == "out of memory"
    assert single.line(failed).split() == ["nano", "megatron", "out", "of", "memory"]
    assert len(found["minimtnlg"]) == 2 and timed["memory_gib"] is None
    tokens = config.train.global_batch * 8
    assert timed["tokens_per_s"] == pytest.approx(tokens / timed["ms"] * 1e3)
    rate = config.model.flops(config.train.global_batch) / timed["ms"] * 1e3
    assert timed["mfu"] == pytest.approx(rate / 1e12)
    assert timed["mfu"] == pytest.approx(2 * timed["of_measured_peak"])
    assert len(single.line(timed).split()) == 9
