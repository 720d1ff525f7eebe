"""Files that would outlive a loss of power, and checksums that find a byte that has changed."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import xxhash

from minimtnlg.errors import InputError


class Damaged(InputError):
    """A file that is not as it was written; the text names the file."""


def digest(data):
    """The xxh3 of some bytes, 32 hexadecimal digits: it finds accidents, not intentions."""
    return xxhash.xxh3_128(data).hexdigest()


def checksum(path):
    """`digest` of a file."""
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


def to_disk(path):
    """Wait until a file, or the names in a folder, would outlive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def entry(path):
    """What an index says of a file, which is on disk for good by then: its length and checksum."""
    with ThreadPoolExecutor(1) as aside:  # the disk needs no processor
        durable = aside.submit(to_disk, path)
        found = {"bytes": path.stat().st_size, "xxh3": checksum(path)}
    durable.result()
    return found


def refuse_changed(path, right, step):
    """Damaged unless a file, which may have grown, begins as the entry of it in step's index."""
    with open(path, "rb") as file:
        if digest(file.read(right["bytes"])) != right["xxh3"]:
            raise Damaged(
                f"{path} is not as it was at step {step}: put it back, or remove it and resume"
            )
