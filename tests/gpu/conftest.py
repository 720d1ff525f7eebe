"""What runs on a GPU alone; without one each test is skipped. `make gpu` runs them.

Who writes such a test without a GPU lets its body run on the CPU: GPU_TESTS_ON=cpu, which proves
that it has no slip, and nothing about a GPU.
"""

import os

import pytest
import torch
from train.conftest import SMALL, corpus  # noqa: F401

from minimtnlg.device import device

HERE = os.environ.get("GPU_TESTS_ON", "gpu")


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/gpu/" in item.path.as_posix() and HERE == "gpu" and device().type == "cpu":
            item.add_marker(pytest.mark.skip(reason="no GPU here"))


@pytest.fixture
def no_waiting():
    """A function: whoever waits for the GPU from then on gets an exception."""
    if device().type == "cpu":
        yield lambda: None
    else:
        yield lambda: torch.cuda.set_sync_debug_mode("error")
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def settings(corpus):  # noqa: F811
    """Overrides of nano for a run of a second."""
    return [*SMALL, f"data.path={corpus}"]
