"""Files and folders that appear whole or not at all, made by one process while others wait."""

import contextlib
import functools
import os
import shutil
import sys

from filelock import FileLock, Timeout


@contextlib.contextmanager
def appearing(path):
    """Give a path beside `path` to fill; it becomes `path`, in one move, when the block ends well.

    path: pathlib.Path of a file, or of a folder that is not there or empty. Whatever interrupts the
    block, `path` is as it was before, and what was begun is gone by the next time at the latest.
    """
    aside = path.with_name(f".{path.name}.partial")
    _remove(aside)  # what a killed process left
    aside.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield aside
        if aside.is_dir() and path.is_dir():
            path.rmdir()  # empty, else this fails; not every system replaces a folder
        os.replace(aside, path)
    finally:
        _remove(aside)


@contextlib.contextmanager
def only_one(lock, what):
    """Hold the file `lock` in the block; say on stderr that another process makes `what`, if so."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process that makes {what}", file=sys.stderr, flush=True)
        held.acquire()
    try:
        yield
    finally:
        held.release()


def read_once(load):
    """`load`, a function of a path, that remembers the last file; written again, it is another."""
    once = functools.lru_cache(1)(lambda path, time: load(path))
    return lambda path: once(path, os.stat(path).st_mtime_ns)


def _remove(path):
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
