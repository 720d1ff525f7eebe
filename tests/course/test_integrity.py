"""What the checks rely on is watched, and what a teacher may want to look at is named."""

import math
import types

import pytest

from minimtnlg.course import exercises, integrity
from minimtnlg.course.sources import ROOT

TEMPLATE = ROOT / "exercises" / "src" / "_template.py"


@pytest.fixture
def picture():
    checks = exercises.load(TEMPLATE, answers=False).checks
    replaced = integrity.picture([check.run for check in checks])
    assert replaced() == ""
    return replaced


def other(*a, **k):
    return True


@pytest.mark.parametrize(
    "where, name",
    [
        ("math", "isclose"),
        ("builtins", "abs"),
        ("numpy", "isfinite"),
        ("torch", "equal"),
        ("torch.nn.functional", "softmax"),
        ("torch.distributed", "all_reduce"),
        ("minimtnlg.course.feedback", "expect"),
        ("minimtnlg.course.feedback", "TOLERANCE"),
        ("minimtnlg.course.feedback", "isinstance"),  # would hide the built-in one
    ],
)
def test_a_replaced_name_is_told(picture, monkeypatch, where, name):
    import importlib

    monkeypatch.setattr(importlib.import_module(where), name, other, raising=False)
    assert picture() == f"{where}.{name}"
    monkeypatch.undo()
    assert picture() == ""


def test_a_replaced_method_is_told(picture, monkeypatch):
    import torch

    monkeypatch.setattr(torch.Tensor, "__eq__", other)
    assert picture() == "torch.Tensor.__eq__"


def test_replaced_code_is_told(picture, monkeypatch):
    from minimtnlg.course import feedback

    monkeypatch.setattr(feedback.explain, "__defaults__", (None,))
    assert picture() == "minimtnlg.course.feedback.explain"


def test_a_replaced_module_is_told(picture, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "math", types.ModuleType("math"))
    assert picture() == "the module math"
    assert math.pi > 3


def test_what_a_check_imports_later_is_watched_as_well(monkeypatch):
    from minimtnlg.plan import planner

    replaced = integrity.picture([], {"minimtnlg.plan.planner"})
    monkeypatch.setattr(planner, "frontier", other)
    assert replaced() == "minimtnlg.plan.planner.frontier"
