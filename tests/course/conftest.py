"""A course of one lesson and one exercise, made of the two templates."""

import shutil
import sys
from pathlib import Path

import pytest

from minimtnlg.course import grade, sandbox
from minimtnlg.course.sources import ROOT

sys.path.insert(0, str(Path(__file__).parent))  # lesson_rules.py, which is no test


def small_course(folder):
    for kind in ("notebooks", "exercises"):
        (folder / kind / "src").mkdir(parents=True)
        template = ROOT / kind / "src" / "_template.py"
        shutil.copy(template, folder / kind / "src" / "00_template.py")
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.fixture
def course(tmp_path):
    return small_course(tmp_path / "course")


@pytest.fixture(autouse=True)
def progress_file(tmp_path, monkeypatch):
    """No test reads or writes what a person guessed or solved here."""
    monkeypatch.setenv("MINIMTNLG_PROGRESS", str(tmp_path / "progress.json"))
    return tmp_path / "progress.json"


@pytest.fixture(scope="session")
def boxes():
    """boxes() -> a Sandbox that waits, or a new one, which takes seconds. Closed ones wait."""
    waiting, closing = [], []

    def box():
        if waiting:
            return waiting.pop()
        made = sandbox.Sandbox()
        closing.append(made.close)
        made.close = lambda: made.server.poll() is None and waiting.append(made)
        return made

    yield box
    for close in closing:
        close()


@pytest.fixture
def shared_boxes(boxes, monkeypatch):
    monkeypatch.setattr(grade, "Sandbox", boxes)
