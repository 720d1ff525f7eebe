"""A corpus that isn't whole is refused, and its statistics are counts."""

import json
from collections import Counter
from math import log

import pytest

from minimtnlg.data.corpus import Corpus, unigram_entropy
from minimtnlg.errors import InputError


@pytest.fixture
def corpus(build, tokens):
    return build({"a": tokens(1, 50), "b": tokens(2, 100)})


def edit(corpus, change):
    manifest = json.loads((corpus.folder / "corpus.json").read_text())
    change(manifest)
    (corpus.folder / "corpus.json").write_text(json.dumps(manifest))


def refused(corpus, match):
    with pytest.raises(InputError, match=match) as caught:
        Corpus(corpus.folder)
    assert "\n" not in str(caught.value)


def test_a_whole_corpus_verifies(corpus):
    Corpus(corpus.folder).verify()


def test_a_folder_below_the_home(corpus, monkeypatch):
    monkeypatch.setenv("HOME", str(corpus.folder.parent))
    assert Corpus(f"~/{corpus.folder.name}").tokens == corpus.tokens


@pytest.mark.parametrize("file", ["tokenizer.json", "a.bin", "b.idx"])
def test_missing_and_truncated_files(corpus, file):
    path = corpus.folder / file
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    refused(corpus, rf"{file} has {len(content) - 1} bytes but had {len(content)} when")
    path.unlink()
    refused(corpus, f"no file .*{file}; remove .* prepare it again")


@pytest.mark.parametrize("file", ["tokenizer.json", "a.bin", "b.bin"])
def test_a_changed_byte_is_found_by_verify(corpus, file):
    path = corpus.folder / file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{file} has changed since it was prepared"):
        Corpus(corpus.folder).verify()


def test_unfinished_and_foreign_manifests(corpus):
    path = corpus.folder / "corpus.json"
    for content in ("", "[]", "{}", '{"format": 1', "\x00"):
        path.write_text(content)
        refused(corpus, "corpus.json isn't the manifest of a corpus")
    path.write_text('{"format": 2}')
    refused(corpus, "has format 2; only format 1")
    path.unlink()
    refused(corpus, "isn't a finished corpus: it has no corpus.json")
    with pytest.raises(InputError, match="no corpus at nowhere; make one"):
        Corpus("nowhere")


def test_a_manifest_with_parts_missing(corpus):
    edit(corpus, lambda manifest: manifest.pop("tokenizer"))
    refused(corpus, "isn't the manifest of a corpus: .*tokenizer")


def test_tokens_beyond_the_vocabulary(corpus):
    edit(corpus, lambda manifest: manifest["tokenizer"].update(size=499))
    refused(corpus, "a holds token 499, but the vocabulary has 499")


def test_weights(corpus):
    assert corpus.weights() == corpus.weights({}) == corpus.tokens
    assert list(corpus.weights({"b": 2, "a": 1}).items()) == [("a", 1), ("b", 2)]
    assert corpus.weights({"b": 0.5}) == {"b": 0.5}
    with pytest.raises(InputError, match="no source 'aa' in .*, which has a, b; did you mean 'a'"):
        corpus.weights({"aa": 1})
    with pytest.raises(InputError, match="positive numbers"):
        corpus.weights({"a": 0})


def test_unigram_entropy_of_the_blend(corpus):
    split, weights = (80, 10, 10), {"a": 3, "b": 1}
    p = Counter()
    for name, weight in weights.items():
        reader = corpus.readers[name]
        train = sum((reader[i].tolist() for i in range(len(reader) * 8 // 10)), [])
        for token, count in Counter(train).items():
            p[token] += weight / 4 * count / len(train)
    expected = -sum(x * log(x) for x in p.values())
    assert unigram_entropy(corpus, weights, split) == pytest.approx(expected)
    assert 0 < expected < log(500)
