"""Megatron-Core and DeepSpeed compute what one process of ours computes, in every layout they have.

See parity.py for what is run. That the cases on the page are these is checked as well.
"""

import re

import parity
import pytest

from minimtnlg.engines import ENGINES, installed

FEW = 2  # ranks; every process loads the engine, so more of them are for --full and `make parity`
STARTS = [
    pytest.param(name, world, marks=[pytest.mark.long] * (world != FEW), id=f"{name}-{world}")
    for name, worlds in parity.CASES.items()
    for world in worlds
]


@pytest.mark.parametrize("name, world", STARTS)
def test_equals_one_process(name, world, tmp_path, monkeypatch, capfd, request):
    if not installed(ENGINES[name][2]):
        pytest.skip(f"pip install 'minimtnlg[engines]' brings {name}")
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")  # DeepSpeed loads in half the time
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "built"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    cases = parity.CASES[name][world]
    if not request.config.getoption("full"):
        monkeypatch.setitem(parity.CASES[name], world, cases[::2])
    for case, found in parity.compare(name, world).items():
        for what, difference in found.items():
            assert difference <= parity.LIMIT, (case, what)
    compiled = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not compiled  # nothing was, behind anybody's back, and no lock is left
    assert capfd.readouterr() == ("", "")


def test_the_page_has_these_cases():
    table = parity.PAGE.read_text().partition("<!-- parity -->")[2]
    rows = re.findall(r"^\| (\w+) \| `(.*?)` \|", table, re.M)
    wanted = []
    for name, worlds in parity.CASES.items():
        wanted += [(name, case) for cases in worlds.values() for case in cases]
    assert rows == wanted
