"""Packages arrive through their own client, and only the pinned file is kept."""

import hashlib
import io
import os
import sys
import tarfile
import zipfile

import pytest

from minimtnlg.data import packages
from minimtnlg.errors import InputError

MEMBER = "toy/data/text.txt"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel that pip finds in a folder, pinned as package "toy"; and an empty cache."""
    index, cache = tmp_path / "index", tmp_path / "cache"
    index.mkdir()
    path = index / "toy-1.0-cp311-cp311-manylinux_2_28_x86_64.whl"
    info = "toy-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBER, "words")
        archive.writestr("toy/data/chapter_10.txt", "ten")
        archive.writestr("toy/data/chapter_9.txt", "nine")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: false\n")
        archive.writestr(f"{info}/RECORD", "")
    toy = {"client": "pip", "name": "toy", "version": "1.0", "file": path.name, "megabytes": 0.1}
    toy |= {"platform": ["manylinux_2_28_x86_64", "cp311"]}
    toy |= {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    monkeypatch.setitem(packages.PACKAGES, "toy", toy)
    monkeypatch.setenv("MINIMTNLG_CACHE", str(cache))
    for setting, value in {
        "NO_INDEX": "1", "FIND_LINKS": str(index), "CONFIG_FILE": os.devnull,
    }.items():  # fmt: skip
        monkeypatch.setenv(f"PIP_{setting}", value)
    return toy


@pytest.fixture
def copied(wheel, tmp_path, monkeypatch):
    """The same, with a client that copies the file: no need to wait for pip."""
    copy = f"import shutil; shutil.copy({str(tmp_path / 'index' / wheel['file'])!r}, '.')"
    monkeypatch.setattr(packages, "_pip", lambda *_: [sys.executable, "-c", copy])
    return wheel


def test_pip_brings_a_wheel_of_another_platform_once(wheel, monkeypatch, capsys):
    assert packages.cached("toy") is None
    path = packages.fetch("toy")
    assert path == packages.cached("toy")
    assert [p.name for p in path.parent.iterdir()] == [wheel["file"]]
    assert "fetching toy 1.0" in capsys.readouterr().err
    monkeypatch.setattr(packages, "_download", lambda *_: pytest.fail("fetched again"))
    assert packages.fetch("toy") == path
    assert list(packages.members("toy", ["*/text.txt"])) == [(MEMBER, b"words")]
    chapters = [content for _, content in packages.members("toy", ["*/chapter_*"])]
    assert chapters == [b"nine", b"ten"]  # 9 comes before 10


def test_a_damaged_cache_is_fetched_again(copied):
    path = packages.fetch("toy")
    path.write_bytes(b"damaged")
    assert list(packages.members("toy", ["*/text.txt"])) == [(MEMBER, b"words")]


def test_another_file_is_thrown_away(copied):
    copied["sha256"] = "0" * 64
    with pytest.raises(InputError, match=r"toy.*whl has sha256 .*, the pinned one is 000000000000"):
        packages.fetch("toy")
    assert list((packages.cache_dir() / "packages").iterdir()) == []


def test_what_pip_cannot_find(wheel):
    wheel["version"] = "9.9"
    with pytest.raises(InputError, match=r"couldn't fetch toy 9.9 by pip \(ERROR: .*\); check"):
        packages.fetch("toy")


def test_no_pip(wheel, monkeypatch):
    monkeypatch.setattr(packages, "_pip", lambda *_: [sys.executable, "-m", "no_such_pip"])
    with pytest.raises(InputError, match="couldn't fetch toy 1.0 by pip .*No module named"):
        packages.fetch("toy")
    assert "ensurepip" in packages._reason("/usr/bin/python3: No module named pip")


def test_no_npm(wheel, monkeypatch):
    wheel["client"] = "npm"
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="fetched by npm, which isn't installed"):
        packages.fetch("toy")


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_npm_packs_into_the_cache(wheel, monkeypatch, tmp_path):
    wheel |= {"client": "npm", "name": "@a/toy"}
    npm = tmp_path / "npm"
    npm.write_text(f'#!/bin/sh\n[ "$1 $3" = "pack @a/toy@1.0" ] && echo hello > {wheel["file"]}\n')
    npm.chmod(0o755)
    wheel["sha256"] = hashlib.sha256(b"hello\n").hexdigest()
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert packages.fetch("toy").read_text() == "hello\n"


def test_a_cache_that_cannot_be_written(wheel, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MINIMTNLG_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="set MINIMTNLG_CACHE to a folder"):
        packages.fetch("toy")


def test_default_cache(monkeypatch):
    monkeypatch.setenv("MINIMTNLG_CACHE", "")
    assert packages.cache_dir().parts[-2:] == (".cache", "minimtnlg")


def test_no_apt(wheel, monkeypatch):
    wheel["client"] = "apt"
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="fetched by apt-get, which isn't installed"):
        packages.fetch("toy")


@pytest.mark.parametrize("before", [b"2.0\n", b"2.00\n"])  # of even and of odd size: padded
def test_members_of_a_debian_package(wheel, tmp_path, monkeypatch, before):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        member = tarfile.TarInfo(f"./{MEMBER}")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"words"))
    deb = b"!<arch>\n"
    for name, content in (("debian-binary", before), ("data.tar.xz", packed.getvalue())):
        header = f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        deb += header + content + b"\n" * (len(content) % 2)
    path = tmp_path / "toy_1.0_all.deb"
    path.write_bytes(deb)
    monkeypatch.setattr(packages, "fetch", lambda name: path)
    assert list(packages.members("toy", ["*/text.txt"])) == [(f"./{MEMBER}", b"words")]
