"""Tokens on disk in Megatron's two files: `.bin` holds tokens, `.idx` says where sequences begin.

`.bin` is the tokens of all sequences, one after another, nothing between them. `.idx` is,
all little-endian:

    9 bytes   "MMIDIDX" and two zero bytes
    uint64    version, 1
    uint8     type of a token: 8 is uint16, 4 is int32
    uint64    n, the number of sequences
    uint64    d, the number of documents plus one
    int32[n]  length of each sequence, in tokens
    int64[n]  where each sequence begins in `.bin`, in bytes
    int64[d]  the first sequence of each document, and n

Here a document is one sequence; files of others with several sequences a document are read
sequence by sequence, as Megatron's GPT data set does. Files are memory-mapped: opening reads no
token, and the ranks of one machine share the pages.
"""

import os
import struct
from pathlib import Path

import numpy as np

from minimtnlg.errors import InputError

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")  # magic, version, token type, sequences, documents + 1
CODES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
UINT16_BELOW = 65500  # Megatron's threshold, a little under 65 536


def token_type(vocab):
    """The numpy type that Megatron stores tokens of a vocabulary of `vocab` in: uint16 or int32."""
    return np.uint16 if vocab < UINT16_BELOW else np.int32


class Writer:
    """Writes `prefix.bin` and `prefix.idx`, one document a call of `add`.

    A context manager. Both files appear under their names at the end of the block; when it is
    left by an exception, neither does.

        prefix: path without suffix
        vocab:  size of the vocabulary; it decides the type, and a token beyond it is an InputError
    """

    def __init__(self, prefix, vocab):
        self.prefix = Path(prefix)
        self.vocab = vocab
        self.dtype = np.dtype(token_type(vocab)).newbyteorder("<")
        self.lengths = []
        self.max_token = -1
        self._bin = open(self._aside(".bin"), "wb")

    def add(self, tokens):
        """Append one document: a sequence of token ids, at least one."""
        tokens = np.asarray(tokens, dtype=np.int64)
        if tokens.size == 0:
            raise InputError(f"document {len(self.lengths)} for {self.prefix} holds no token")
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.vocab:
            wrong = low if low < 0 else high
            raise InputError(
                f"token {wrong} in document {len(self.lengths)} for {self.prefix}: "
                f"the vocabulary has {self.vocab} tokens, 0 to {self.vocab - 1}"
            )
        self._bin.write(tokens.astype(self.dtype).tobytes())
        self.lengths.append(tokens.size)
        self.max_token = max(self.max_token, high)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        try:
            self._bin.close()
            if kind is None:
                self._write_index()
                for suffix in (".bin", ".idx"):
                    os.replace(self._aside(suffix), _path(self.prefix, suffix))
        finally:
            for suffix in (".bin", ".idx"):
                self._aside(suffix).unlink(missing_ok=True)

    def _aside(self, suffix):
        return _path(self.prefix, suffix + ".partial")

    def _write_index(self):
        n = len(self.lengths)
        lengths = np.array(self.lengths, dtype="<i4")
        code = {kind: code for code, kind in CODES.items()}[self.dtype.type]
        with open(self._aside(".idx"), "wb") as f:
            f.write(HEADER.pack(MAGIC, 1, code, n, n + 1))
            f.write(lengths.tobytes())
            f.write(_begins(lengths, self.dtype.itemsize).tobytes())
            f.write(np.arange(n + 1, dtype="<i8").tobytes())


class Reader:
    """The sequences of `prefix.bin` and `prefix.idx`, memory-mapped.

    Opening checks everything that can be checked without reading the tokens; a file that is
    missing, cut short, foreign or inconsistent is an InputError of one line.

        lengths    int32 [n], tokens of each sequence
        pointers   int64 [n], first byte of each sequence in `.bin`
        documents  int64 [documents + 1], first sequence of each document, and n
        tokens     their number in all
        dtype      numpy type of a token
    """

    def __init__(self, prefix):
        self.prefix = Path(prefix)
        self.idx, self.bin = _path(self.prefix, ".idx"), _path(self.prefix, ".bin")
        for path in (self.idx, self.bin):
            if not path.is_file():
                raise InputError(f"no file {path}; a pair of .bin and .idx makes a data set")
        self.dtype, n, d = self._read_header()
        index = np.asarray(np.memmap(self.idx, mode="r"))[HEADER.size :]
        self.lengths = index[: 4 * n].view("<i4")
        self.pointers = index[4 * n : 12 * n].view("<i8")
        self.documents = index[12 * n :].view("<i8")
        self.tokens = int(self.lengths.sum(dtype=np.int64))
        self._check_index(n)
        self._flat = np.asarray(np.memmap(self.bin, mode="r", dtype=self.dtype))

    def __reduce__(self):
        return Reader, (self.prefix,)  # a rank that is sent a Reader maps the files itself

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, i):
        """Sequence `i`, a view of the file: [lengths[i]] of `dtype`."""
        return self.read(i)

    def read(self, i, start=0, length=None):
        """`length` tokens (all that remain if None) of sequence `i` from its token `start`."""
        if not 0 <= i < len(self):
            raise IndexError(f"sequence {i} of {len(self)} in {self.prefix}")
        first = int(self.pointers[i]) // self.dtype.itemsize
        end = int(self.lengths[i]) if length is None else start + int(length)
        return self._flat[first + start : first + end]

    def flat(self, begin, end):
        """The tokens of sequences `begin` to `end` - 1, one after another."""
        edge = [
            int(self.pointers[i]) // self.dtype.itemsize if i < len(self) else self.tokens
            for i in (begin, end)
        ]
        return self._flat[edge[0] : edge[1]]

    def check_tokens(self, vocab):
        """Read every token; one outside 0 to `vocab` - 1 is an InputError that names its place."""
        block = 1 << 24  # tokens at a time, so that memory stays flat
        for begin in range(0, self.tokens, block):
            part = self._flat[begin : begin + block]
            wrong = np.flatnonzero((part < 0) | (part >= vocab))
            if wrong.size:
                place = begin + int(wrong[0])
                raise InputError(
                    f"token {int(self._flat[place])} at position {place} of {self.bin}: "
                    f"the vocabulary has {vocab} tokens; was it made with another tokenizer?"
                )

    def _read_header(self):
        size = self.idx.stat().st_size
        with open(self.idx, "rb") as f:
            head = f.read(HEADER.size)
        if not MAGIC.startswith(head[: len(MAGIC)]):
            raise InputError(f"{self.idx} isn't Megatron's index: it doesn't begin with MMIDIDX")
        if len(head) < HEADER.size:
            raise InputError(f"{self.idx} is cut short: {size} bytes, less than its header")
        _, version, code, n, d = HEADER.unpack(head)
        if version != 1:
            raise InputError(f"{self.idx} has version {version}; only version 1 can be read")
        if code not in CODES:
            known = ", ".join(map(str, CODES))
            raise InputError(f"{self.idx} gives {code} as the type of a token; known are {known}")
        if size != (needed := HEADER.size + 12 * n + 8 * d):
            raise InputError(
                f"{self.idx} has {size} bytes, but its header promises {n} sequences, which take "
                f"{needed}; it is cut short or damaged, make it again"
            )
        return np.dtype(CODES[code]).newbyteorder("<"), n, d

    def _check_index(self, n):
        damaged = f"{self.idx} is damaged: "
        if n == 0:
            raise InputError(f"{self.idx} holds no sequence")
        if self.lengths.min() < 0:
            place = int(self.lengths.argmin())
            raise InputError(damaged + f"sequence {place} has a negative length")
        wrong = np.flatnonzero(self.pointers != _begins(self.lengths, self.dtype.itemsize))
        if wrong.size:
            raise InputError(
                damaged + f"sequence {int(wrong[0])} should begin where the one before it ends"
            )
        d = self.documents
        if len(d) < 2 or d[0] != 0 or d[-1] != n or np.any(np.diff(d) < 0):
            raise InputError(damaged + f"its documents don't divide 0 to {n} into sequences")
        size, needed = self.bin.stat().st_size, self.tokens * self.dtype.itemsize
        if size != needed:
            raise InputError(
                f"{self.bin} has {size} bytes, but {self.idx.name} describes {self.tokens} tokens "
                f"of {self.dtype.itemsize} bytes; it is cut short or belongs to another index"
            )
        if self.tokens == 0:
            raise InputError(f"{self.bin} holds no token")


def _begins(lengths, itemsize):
    """int64 [n]: the first byte of each sequence, when they follow each other."""
    ends = np.cumsum(lengths, dtype="<i8") * itemsize
    return np.concatenate([np.zeros(1, "<i8"), ends[:-1]]) if len(lengths) else ends


def _path(prefix, suffix):
    return prefix.with_name(prefix.name + suffix)
