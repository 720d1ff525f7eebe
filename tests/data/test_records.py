"""Documents on disk: what is written comes back, and what is cut short is not taken for whole."""

import gzip
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtnlg.data.records import Document, draw, key, opened, reading, writing
from minimtnlg.errors import InputError

DOCUMENTS = [
    Document("two\nlines, \x00 and \u2028", "web", "1", "http://a/b", {"kind": "page", "n": 1}),
    Document("", "é", "2"),
    *(Document(f"{number} " * number, "web", str(number)) for number in range(300)),
]
SUFFIXES = (".jsonl.zst", ".jsonl.gz", ".jsonl")


@pytest.mark.parametrize("suffix", SUFFIXES[:2])
def test_what_is_written_comes_back(tmp_path, suffix):
    first, second = tmp_path / f"first{suffix}", tmp_path / f"second{suffix}"
    for path in (first, second):
        with writing(path) as write:
            for document in DOCUMENTS:
                write(document)
    assert list(reading(first)) == DOCUMENTS
    assert first.read_bytes() == second.read_bytes()  # neither name nor time stands in it


def test_a_shard_that_fails_is_not_there(tmp_path):
    with pytest.raises(TypeError), writing(tmp_path / "a.jsonl.zst") as write:
        write(DOCUMENTS[0])
        write(Document("", "", "", meta={"no JSON": object()}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES[:2])
@pytest.mark.parametrize("kept", [1, 5, 0.5, -3, -1])
def test_one_that_is_cut_short_is_refused(tmp_path, suffix, kept):
    path = tmp_path / f"a{suffix}"
    with writing(path) as write:
        for document in DOCUMENTS:
            write(document)
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(InputError, match=f"a{suffix} isn't a whole file of documents: ."):
        list(reading(path))


@pytest.mark.parametrize("suffix", SUFFIXES[:2])
def test_a_changed_byte_is_noticed(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    with writing(path) as write:
        for document in DOCUMENTS:
            write(document)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="isn't a whole file"):
        list(reading(path))


@pytest.mark.parametrize("line", [b"nothing", b"[]", b'{"words": "a"}', b'{"text": "a"}'])
def test_other_lines_are_refused(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.raises(InputError, match="isn't a whole file of documents"):
        list(reading(path))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_of_several_frames_are_one(tmp_path, suffix):
    """As `cat a.zst b.zst > c.zst` and Common Crawl make them."""
    import zstandard

    pack = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.zst": zstandard.compress}[suffix]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(pack(b"one\n" * 99_999) + pack(b"") + pack(b"two\n"))
    with opened(path) as f:
        assert list(f) == [b"one\n"] * 99_999 + [b"two\n"]


@given(st.text(), st.text())
def test_a_key_is_that_of_the_text_alone(text, other):
    documents = Document(text, "a", "1"), Document(text, "b", "2", "http://x", {"y": 1})
    assert documents[0].key == documents[1].key == key(text)
    assert (key(text) == key(other)) == (text == other)


def test_draws_are_even_independent_of_each_other_and_the_same_everywhere():
    keys = [key(str(number)) for number in range(4000)]
    ours = [draw(k, "pareto") for k in keys]
    other = [draw(k, "order") for k in keys]
    for sample in (ours, other):
        assert 0 <= min(sample) and max(sample) < 1
        for share in (0.1, 0.5, 0.9):  # of 4000, 5 standard deviations at most
            spread = (share * (1 - share) / 4000) ** 0.5
            assert abs(sum(x < share for x in sample) / 4000 - share) < 5 * spread
    both = sum(x < 0.5 and y < 0.5 for x, y in zip(ours, other, strict=True)) / 4000
    assert abs(both - 0.25) < 5 * (0.25 * 0.75 / 4000) ** 0.5
    long = [draw(keys[7], f"order 1234567890{end}") for end in "abc"]
    assert len(set(long)) == 3  # the whole of the purpose counts
    code = "from minimtnlg.data.records import *; print(draw(key('7'), 'pareto'))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(told.stdout) == ours[7]
