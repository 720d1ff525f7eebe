"""Loaded before any test imports torch, so that the package's settings of threads hold."""

import sys
from pathlib import Path

import hypothesis

import minimtnlg  # noqa: F401

# No test asserts a time: on a busy machine an example takes as long as it takes.
hypothesis.settings.register_profile("minimtnlg", deadline=None)
hypothesis.settings.load_profile("minimtnlg")
sys.path.insert(0, str(Path(__file__).parent / "equivalence"))  # reference.py, for others as well


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="equivalence of every legal layout")
