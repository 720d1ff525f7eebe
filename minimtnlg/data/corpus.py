"""A folder of prepared text: what it holds, whether it is whole, what each document is for."""

import difflib
import hashlib
import json
from functools import cached_property
from pathlib import Path

import numpy as np

from minimtnlg.data.blend import normalized
from minimtnlg.data.indexed import Reader
from minimtnlg.errors import InputError

PARTS = ("train", "valid", "test")


class Corpus:
    """A folder made by `prepare`, opened: its manifest and a Reader for each source.

        options   sources and vocabulary that were asked for
        readers   {source: Reader}
        tokens    {source: number of tokens}
        vocab     size of the vocabulary
        padded    the same rounded up to a multiple of 1024: what a model is built with
        eod       the token that ends a document

    A folder that is unfinished, or has a file that is missing, cut short or foreign, is an
    InputError. `verify` also compares checksums, for which it reads everything.
    """

    def __init__(self, folder):
        self.folder = Path(folder).expanduser()
        self.manifest = _manifest(self.folder)
        try:
            self._open()
        except (AttributeError, KeyError, TypeError) as error:
            raise _foreign(self.folder / "corpus.json", error) from None

    def _open(self):
        self.options, tokenizer = self.manifest["options"], self.manifest["tokenizer"]
        self.vocab, self.padded, self.eod = (tokenizer[k] for k in ("size", "padded", "eod"))
        self._check_file("tokenizer.json", tokenizer)
        self.readers = {}
        for name, facts in self.manifest["sources"].items():
            for file, expected in facts["files"].items():
                self._check_file(file, expected)
            if facts["max_token"] >= self.vocab:
                raise InputError(
                    f"{self.folder}: {name} holds token {facts['max_token']}, but the vocabulary "
                    f"has {self.vocab}; remove the folder and prepare it again"
                )
            self.readers[name] = Reader(self.folder / name)
        self.tokens = {name: reader.tokens for name, reader in self.readers.items()}

    @cached_property
    def tokenizer(self):
        """The Tokenizer that made the corpus."""
        from minimtnlg.data.tokenizer import Tokenizer

        return Tokenizer.load(self.folder / "tokenizer.json")

    def weights(self, given=None):
        """{source: weight} in the folder's order: the given ones, else those that the corpus was
        made with, else each source's number of tokens.

        A source that isn't in `given` is left out; one that the corpus hasn't is an InputError, and
        so is a weight that isn't positive.
        """
        given = given or self.manifest.get("weights") or self.tokens
        for name in given:
            if name not in self.readers:
                near = difflib.get_close_matches(name, self.readers, 1, 0)[0]
                raise InputError(
                    f"no source {name!r} in {self.folder}, which has {', '.join(self.readers)}; "
                    f"did you mean {near!r}?"
                )
        normalized(list(given.values()))
        return {name: given[name] for name in self.readers if name in given}

    def verify(self):
        """Read every file and token; an InputError names the first that isn't as it was made."""
        files = {"tokenizer.json": self.manifest["tokenizer"]}
        for facts in self.manifest["sources"].values():
            files |= facts["files"]
        for file, expected in files.items():
            if sha256(self.folder / file) != expected["sha256"]:
                raise InputError(f"{self.folder / file} has changed since it was prepared")
        for reader in self.readers.values():
            reader.check_tokens(self.vocab)

    def _check_file(self, file, expected):
        path = self.folder / file
        if not path.is_file():
            raise InputError(f"no file {path}; remove {self.folder} and prepare it again")
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise InputError(
                f"{path} has {size} bytes but had {expected['bytes']} when it was prepared; "
                f"remove {self.folder} and prepare it again"
            )


def _manifest(folder):
    path = folder / "corpus.json"
    if not folder.is_dir():
        raise InputError(f"no corpus at {folder}; make one: minimtnlg data prepare --out {folder}")
    if not path.is_file():
        raise InputError(f"{folder} isn't a finished corpus: it has no corpus.json")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        kind = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise _foreign(path, error) from None
    if kind != 1:
        raise InputError(f"{path} has format {kind!r}; only format 1 can be read")
    return manifest


def _foreign(path, error):
    return InputError(f"{path} isn't the manifest of a corpus: {error!r}")


def split_documents(documents, split):
    """{"train": range, "valid": range, "test": range} of document numbers, as Megatron cuts them.

        documents  their number
        split      three shares, in any unit
    """
    if len(split) != 3 or min(split) < 0 or sum(split) <= 0:
        raise InputError(f"split must be three shares for {', '.join(PARTS)}, got {tuple(split)}")
    edges = [0.0]
    for share in (np.asarray(split, dtype=np.float64) / np.sum(split, dtype=np.float64)).tolist():
        edges.append(edges[-1] + share)
    cuts = [int(round(edge * float(documents))) for edge in edges]
    return {part: range(*cuts[i : i + 2]) for i, part in enumerate(PARTS)}


def unigram_entropy(corpus, weights=None, split=(98, 2, 0)):
    """Entropy of single tokens over the training part of a Corpus, in nats per token.

    The least loss of a model that ignores context and only knows how often each token occurs in the
    blend. `weights` and `split` as in `batches.draw`.
    """
    weights = corpus.weights(weights)
    p = np.zeros(corpus.vocab)
    for name, share in zip(weights, normalized(list(weights.values())), strict=True):
        reader = corpus.readers[name]
        documents = split_documents(len(reader), split)["train"]
        counts = np.bincount(reader.flat(documents.start, documents.stop), minlength=corpus.vocab)
        p += share * counts / counts.sum()
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def sha256(path):
    """The checksum of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
