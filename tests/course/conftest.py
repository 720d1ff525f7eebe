"""A course of one lesson and one exercise, made of the two templates."""

import shutil
import sys
from pathlib import Path

import pytest

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
