"""Draws that repeat and leave no trace, and rates that are those of something real."""

import pytest
import torch

from minimtnlg import device


def test_nothing_changes_the_global_random_state():
    before = torch.get_rng_state()
    device.matmul_flops(size=8, seconds=0)
    torch.rand(3, generator=device.generator("a", 1))
    with device.default_generator("a", 1):
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_draw_is_named_by_all_of_its_purpose():
    purposes = [("a", 1, 2), ("a", 12), ("a", 1), ("b", 1), ("a", "1", "2", "3")]
    assert len({device.seed_of(*purpose) for purpose in purposes}) == len(purposes)
    assert all(0 <= device.seed_of(*purpose) < 2**63 for purpose in purposes)
    one, two = (torch.rand(5, generator=device.generator("a", 1)) for _ in "ab")
    assert torch.equal(one, two)
    with device.default_generator("a", 1):
        assert torch.equal(torch.rand(5), one)


def test_fp32_means_at_least_float32():
    wide = {name: device.fp32(dtype) for name, dtype in device.DTYPES.items()}
    assert wide.pop("float64") == torch.float64
    assert set(wide.values()) == {torch.float32} and len(wide) == 3


def test_memory_holds_at_least_what_is_in_use():
    assert device.memory() > 2**28


@pytest.mark.parametrize(
    ("ranks", "where", "library", "both"),
    [(2, "cuda:1", "nccl", "cpu:gloo,cuda:nccl"), (3, "cpu", "gloo", "gloo")],
)
def test_a_gpu_for_each_rank_or_for_none(ranks, where, library, both, monkeypatch):
    """On two GPUs, as a rank of this machine sees it."""
    touched = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: touched.append("synchronize"))
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert device.device() == torch.device(where)
    assert (device.backend(), device.backend(cpu=True)) == (library, both)
    device.synchronize()
    assert len(touched) == (where != "cpu")


def test_a_rank_without_a_gpu_measures_its_cpu(monkeypatch):
    """Where other ranks share the GPUs, nothing of their size is multiplied here."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    sizes = []
    monkeypatch.setattr(
        torch, "randn", lambda *size, **_: sizes.append(size) or torch.ones(2, 2)
    )
    device.matmul_flops(seconds=0)
    assert sizes == [(1024, 1024)] * 2
