"""What a teacher is told to look at in a submission, and what not."""

import pytest

from minimtnlg.course import suspicion


@pytest.mark.parametrize(
    "code, found",
    [
        ("import torch\ntorch.allclose = f", ["torch.allclose = ..."]),
        ("import torch as t\nt.equal = f", ["t.equal = ..."]),
        ("import sys\nsys._getframe(1)", ["_getframe"]),
        ("class A:\n    def __eq__(self, o): return True", ["__eq__"]),
        ("from minimtnlg.course import exercises", ["imports minimtnlg.course.exercises"]),
        ("from minimtnlg.course import setup, check", []),
        ("from minimtnlg.plan import planner", ["imports minimtnlg.plan"]),
        ("from minimtnlg.course.check import check\nself.x = 1", []),
        ("from minimtnlg import run", []),
        ("def f(:", ["code that can't be read"]),
        ("import torch\ntorch" + ".a" * 2000 + " = 1", ["torch" + (".a" * 98)[:195] + " = ..."]),
    ],
)
def test_scan(code, found):
    assert suspicion.scan(code) == found


def test_what_is_given_is_not_told():
    given = "from minimtnlg.plan import planner"
    assert suspicion.scan(given, given) == []
