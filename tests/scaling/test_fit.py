"""The calibration: the preset is its result, and it holds for a source that it has not seen."""

import subprocess
import sys

import pytest

from minimtnlg.plan.hardware import hardware


def test_the_preset_is_its_result():
    told = subprocess.run(
        [sys.executable, "scaling/fit.py"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for line in told[:4]:
        name, value = line.split()[:2]
        assert getattr(hardware("a100-80gb"), name) == pytest.approx(float(value), rel=0.005)
    *sources, every = (line.rsplit(maxsplit=3) for line in told[6:])
    assert len(sources) == 3 and int(every[1]) == 21
    error, left_out = (float(text.rstrip("%")) / 100 for text in every[2:])
    assert error < 0.04 and left_out < 0.06
    assert round(left_out, 2) == hardware("a100-80gb").error


def test_a_file_that_cannot_be_is_one_line(tmp_path):
    ended = subprocess.run(
        [sys.executable, "scaling/fit.py", str(tmp_path / "no.csv")], capture_output=True, text=True
    )
    assert ended.returncode == 1 and ended.stderr.startswith("fit.py: can't read")
