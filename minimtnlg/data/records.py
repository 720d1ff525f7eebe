"""Documents on disk: JSON lines, compressed, in files that appear whole or not at all.

    {"text": "...", "source": "wikipedia", "id": "Alchemy", "url": "https://...", "meta": {...}}

A file of them is called a shard. Its bytes depend on the documents alone, not on the time or the
machine: two runs over the same input can be compared by checksum.
"""

import contextlib
import gzip
import hashlib
import io
import json
import struct
import zlib
from dataclasses import dataclass, field

import zstandard

from minimtnlg.errors import InputError
from minimtnlg.files import appearing

SUFFIX = ".jsonl.zst"


@dataclass(frozen=True)
class Document:
    """One document.

        text    the text itself; of a page that isn't extracted yet, its HTML
        source  name of the source
        id      its own name there
        url     its address, if it has one
        meta    whatever else is known; "kind" is text, code or page (HTML)
    """

    text: str
    source: str
    id: str
    url: str = ""
    meta: dict = field(default_factory=dict)

    @property
    def key(self):
        """64 bits that depend on the text alone: the seed of every random draw about it.

        Where it came from and as the how-manieth do not matter, so the order of input can't either.
        """
        return key(self.text)

    @property
    def kind(self):
        """text, code, or page."""
        return self.meta.get("kind", "text")

    @property
    def size(self):
        """Bytes of the text in UTF-8."""
        return len(self.text.encode("utf-8"))


def key(text):
    """64 bits of the checksum of a text, as an int."""
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return struct.unpack("<Q", digest)[0]


def draw(key, purpose):
    """A number in [0, 1) for a document's key and what it is drawn for; the same on any machine."""
    digest = hashlib.blake2b(struct.pack("<Q", key) + purpose.encode("utf-8"), digest_size=8)
    return struct.unpack("<Q", digest.digest())[0] / 2**64


def valid(text):
    """The text with a question mark for each half of a character, which UTF-8 has no bytes for."""
    return text.encode("utf-8", "replace").decode("utf-8")


@contextlib.contextmanager
def writing(path):
    """Give write(document); the shard `path` appears when the block ends well."""
    with appearing(path) as aside, open(aside, "wb") as raw:
        with _compressing(raw, path) as f:

            def write(document):
                line = json.dumps(vars(document), ensure_ascii=False)
                f.write(line.encode("utf-8") + b"\n")

            yield write


def put(path, documents):
    """Write a shard."""
    with writing(path) as write:
        for document in documents:
            write(document)


def reading(path):
    """The Documents of a shard, one by one; an InputError if it is cut short or isn't one."""
    try:
        with opened(path) as f:
            for line in f:
                yield Document(**json.loads(line))
    except (OSError, EOFError, ValueError, TypeError, zlib.error, zstandard.ZstdError) as error:
        raise InputError(f"{path} isn't a whole file of documents: {error}") from None


def opened(path):
    """A file opened for reading bytes; .gz and .zst are decompressed, an EOFError if cut short."""
    if path.suffix.lower() == ".gz":
        return gzip.open(path)
    if path.suffix.lower() == ".zst":
        return io.BufferedReader(_Zstd(path), 1 << 20)
    return open(path, "rb")


class _Zstd(io.RawIOBase):
    """The bytes of a file of zstd frames. zstandard's own reader takes a cut end for the end."""

    def __init__(self, path):
        self.file, self.frame, self.ready = open(path, "rb"), None, b""

    def readable(self):
        return True

    def readinto(self, buffer):
        while not self.ready:
            more = (self.frame.unused_data if self.frame and self.frame.eof else b"") or (
                self.file.read(1 << 18)
            )
            if not more:
                if self.frame and not self.frame.eof:
                    raise EOFError("the file ends within a zstd frame")
                return 0
            if self.frame is None or self.frame.eof:
                self.frame = zstandard.ZstdDecompressor().decompressobj()
            self.ready = self.frame.decompress(more)
        taken = min(len(buffer), len(self.ready))
        buffer[:taken], self.ready = self.ready[:taken], self.ready[taken:]
        return taken

    def close(self):
        self.file.close()
        super().close()


def _compressing(raw, path):
    if path.suffix == ".gz":
        return gzip.GzipFile("", "wb", fileobj=raw, mtime=0)
    return zstandard.ZstdCompressor(level=3, write_checksum=True).stream_writer(raw, closefd=False)
