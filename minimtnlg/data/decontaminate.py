"""What the evaluation will ask must not stand in the training text [S3; S10].

A model that has read a question is tested for its memory. So every run of 13 words of an evaluation
text is looked for in every document; a short one, of 8 to 12 words, is looked for as a whole.
Where one stands, it is cut out with 200 characters on each side. What is left goes on in pieces;
pieces below 200 characters go, and so does a document that would be cut more than ten times. A run
of words that training text holds more than ten times is an expression, not a leak, and stays.
"""

import dataclasses
import re
from collections import Counter
from zipfile import BadZipFile

import numpy as np

from minimtnlg.data.shards import Outcome
from minimtnlg.errors import InputError
from minimtnlg.files import appearing, read_once

WORD = re.compile(r"[^\W_]+")  # letters and digits; _ is how some texts stress a word
P = np.uint64(0x9E3779B97F4A7C15)  # base of the hash of a run of words, modulo 2^64
UPPER = np.uint64(64 - 22)


def texts_of(records):
    """Every string of some records (dicts of JSON), whatever lies in whatever."""
    for record in records:
        waiting = [record]
        while waiting:
            value = waiting.pop()
            if isinstance(value, str):
                yield value
            elif isinstance(value, dict):
                waiting.extend(value.values())
            elif isinstance(value, list):
                waiting.extend(value)


class Index:
    """The n-grams of evaluation texts, each a row of word numbers.

        words   {word: number}
        grams   int32 [n, longest], sorted by hash; a shorter one ends in -1
        hashes  uint64 [n]
        seen    bool [2^22]: whether any hash has these upper bits; most runs of words end there
        sizes   lengths in words, each once
    """

    def __init__(self, words, grams):
        self.words = _Numbers((word, number) for number, word in enumerate(words))
        sizes = np.count_nonzero(grams >= 0, axis=1)
        hashes = np.zeros(len(grams), np.uint64)
        for size, hashed in _hashes(grams.T, grams.shape[1]):
            hashes[sizes == size] = hashed[sizes == size]
        order = np.argsort(hashes, kind="stable")
        self.grams, self.hashes = grams[order], hashes[order]
        self.seen = np.zeros(2**22, bool)
        self.seen[hashes >> UPPER] = True
        self.sizes = set(sizes.tolist())

    @classmethod
    def build(cls, texts, longest=13, shortest=8):
        """The Index of some texts: of each all runs of `longest` words, or, if it has fewer but at
        least `shortest`, the whole of it.
        """
        numbers, found = {}, set()
        for text in texts:
            row = [numbers.setdefault(word, len(numbers)) for word in WORD.findall(_small(text))]
            if shortest <= len(row) < longest:
                found.add((*row, *[-1] * (longest - len(row))))
            for start in range(len(row) - longest + 1):
                found.add(tuple(row[start : start + longest]))
        return cls(list(numbers), np.array(sorted(found), np.int32).reshape(-1, longest))

    def save(self, path):
        """Write it as .npz, in which nothing can be executed."""
        words = np.frombuffer("\n".join(self.words).encode("utf-8"), np.uint8)
        with appearing(path) as aside, open(aside, "wb") as f:
            np.savez_compressed(f, words=words, grams=self.grams)

    @classmethod
    def load(cls, path):
        """Read what `save` wrote; InputError if it isn't that."""
        try:
            with np.load(path) as parts:
                words = parts["words"].tobytes().decode("utf-8")
                return cls(words.split("\n") if words else [], parts["grams"])
        except (OSError, EOFError, KeyError, ValueError, BadZipFile) as error:
            raise InputError(f"{path} isn't an index of n-grams: {error}") from None

    def found_in(self, text):
        """[(number of the n-gram, first character, behind the last)] of all matches in a text."""
        text, found = _small(text), []
        row = np.array([self.words[word] for word in WORD.findall(text)], np.int32)
        for size, hashes in _hashes([row[i:] for i in range(self.grams.shape[1])], len(row)):
            if size in self.sizes:
                for start in np.flatnonzero(self.seen[hashes >> UPPER]).tolist():
                    run, left = row[start : start + size], self.hashes.searchsorted(hashes[start])
                    right = self.hashes.searchsorted(hashes[start], "right")
                    for gram in range(left, right):  # one, but for hashes that collide
                        if np.array_equal(self.grams[gram][self.grams[gram] >= 0], run):
                            found.append((gram, start, start + size - 1))
        if not found:
            return []
        spans = [match.span() for match in WORD.finditer(text)]
        return [(gram, spans[first][0], spans[last][1]) for gram, first, last in found]


class _Numbers(dict):
    def __missing__(self, word):
        return -1


def counted(document, index):
    """How often each n-gram of the Index in file `index` stands in a Document: {number: times}."""
    return Counter(gram for gram, *_ in _loaded(index).found_in(document.text))


def cut(document, index, common=frozenset(), margin=200, shortest=200, splits=10):
    """Cut the n-grams of the Index in file `index` out of a Document.

        common    numbers of n-grams that stay
        margin    characters that go with a match, on each side; what overlaps is one cut
        shortest  characters of a piece that goes on
        splits    a document that would be cut more often goes

    Pieces have the id of the document and #1, #2, ...
    """
    text, zones = document.text, []
    spans = sorted((a, b) for gram, a, b in _loaded(index).found_in(text) if gram not in common)
    if not spans:
        return Outcome((document,))
    for start, end in spans:
        start, end = max(0, start - margin), min(len(text), end + margin)
        if zones and start <= zones[-1][1]:
            zones[-1][1] = max(zones[-1][1], end)
        else:
            zones.append([start, end])
    if len(zones) > splits:
        return Outcome(reason=f"cut more than {splits} times", counts=("matched", "removed"))
    edges = [0, *(edge for zone in zones for edge in zone), len(text)]
    kept = [text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]
    pieces = [piece.strip() for piece in kept if len(piece.strip()) >= shortest]
    if not pieces:
        return Outcome(reason="nothing left beside the match", counts=("matched", "removed"))
    return Outcome(
        tuple(
            dataclasses.replace(document, text=piece, id=f"{document.id}#{number}")
            for number, piece in enumerate(pieces, 1)
        ),
        counts=("matched", "split" if len(pieces) > 1 else "trimmed"),
    )


def _small(text):
    """The text in small letters, each in its place: a letter that would become two stays."""
    small = text.lower()
    if len(small) == len(text):
        return small
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def _hashes(columns, words):
    """(size, uint64 [n]): hashes of runs of 1 word, 2, ... up to all columns or all `words`.

    columns: the numbers of the first words of the runs, of the second, ...; each may be one shorter
    than the one before.
    """
    hashed = np.uint64(0)
    for size, column in enumerate(columns[: min(words, len(columns))], 1):
        number = (column.astype(np.int64) + 2).astype(np.uint64)
        hashed = (hashed[: len(number)] if size > 1 else hashed) * P + number  # modulo 2^64
        yield size, hashed ^ (hashed >> np.uint64(31))


_loaded = read_once(Index.load)  # for each document of a shard, in each process
