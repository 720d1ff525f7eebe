"""n-grams of evaluation texts in training text: found all, none too many, and cut out."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtnlg.data import decontaminate
from minimtnlg.data.decontaminate import Index, counted, cut, texts_of
from minimtnlg.data.records import Document
from minimtnlg.errors import InputError

LEAK = "what is the name of the river that flows through the old town of"  # 14 words: two runs


def filler(count, start=0):
    return " ".join(f"w{number}" for number in range(start, start + count))


def words_of(text):
    return [word.lower() for word in re.findall(r"\w+", text)]


def plainly(texts, document, longest=13, shortest=8):
    """Counter of (first character, behind the last) of each match, without any hash."""
    grams = set()
    for words in map(words_of, texts):
        if shortest <= len(words) < longest:
            grams.add(tuple(words))
        grams.update(tuple(words[i : i + longest]) for i in range(max(0, len(words) - longest + 1)))
    places, found = list(re.finditer(r"\w+", document)), Counter()
    for gram in grams:
        for i in range(len(places) - len(gram) + 1):
            if tuple(place[0].lower() for place in places[i : i + len(gram)]) == gram:
                found[places[i].start(), places[i + len(gram) - 1].end()] += 1
    return found


few = st.lists(st.sampled_from(["a", "B", "b", "é", "x1", "A"]), max_size=12).flatmap(
    lambda words: st.sampled_from([" ", ", ", "\n", "--"]).map(lambda gap: gap.join(words))
)


@settings(max_examples=300, deadline=None)
@given(st.lists(few, max_size=4), few, st.sampled_from([(3, 2), (4, 2), (5, 5), (13, 8)]))
def test_it_finds_what_a_plain_search_finds(texts, document, sizes):
    index = Index.build(texts, *sizes)
    found = Counter((start, end) for _, start, end in index.found_in(document))
    assert found == plainly(texts, document, *sizes)


def test_hashes_that_collide_give_no_false_match(monkeypatch):
    """With base 0 the hash is that of the last word: candidates must be confirmed by all words."""
    monkeypatch.setattr(decontaminate, "P", np.uint64(0))
    texts, document = ["a b c", "b b c", "a c c", "b c"], "c b c a b c b b c d b c"
    found = Counter((start, end) for _, start, end in Index.build(texts, 3, 2).found_in(document))
    assert found == plainly(texts, document, 3, 2) and len(found) == 6


@pytest.fixture
def index(tmp_path):
    Index.build([LEAK, "one two three four five six seven"]).save(tmp_path / "index.npz")
    return tmp_path / "index.npz"


def test_saved_and_loaded(index):
    document = f"{filler(50)} {LEAK.upper()} {filler(50)}"
    again = Index.load(index)
    assert len(again.grams) == 2
    expected = list(Index.build([LEAK]).found_in(document))
    assert [m[1:] for m in again.found_in(document)] == [m[1:] for m in expected] != []


def test_an_index_of_nothing(tmp_path):
    Index.build(["too short"]).save(tmp_path / "none.npz")
    assert not list(Index.load(tmp_path / "none.npz").found_in(filler(30)))


def test_what_is_no_index_is_one_line(tmp_path):
    (tmp_path / "other.npz").write_text("hello")
    for name in ("other.npz", "missing.npz"):
        with pytest.raises(InputError, match=name):
            Index.load(tmp_path / name)


def test_a_match_goes_with_its_margins(index):
    before, after = filler(300), filler(300, 1000)
    document = Document(f"{before} {LEAK} {after}", "web", "7", "u", {"kind": "text"})
    outcome = cut(document, index)
    left, right = outcome.documents
    assert outcome.counts == ("matched", "split") and not outcome.reason
    assert left.text == f"{before} "[:-200].strip() and right.text == f" {after}"[200:].strip()
    assert (left.id, right.id) == ("7#1", "7#2")
    assert (left.source, left.url, left.meta) == ("web", "u", {"kind": "text"})


def test_a_match_at_an_end_trims(index):
    outcome = cut(Document(f"{LEAK} {filler(300)}", "web", "7"), index)
    assert outcome.counts == ("matched", "trimmed") and len(outcome.documents) == 1


def test_without_a_match_nothing_changes(index):
    document = Document(filler(300), "web", "7")
    assert cut(document, index) == ((document,), "", ())


def test_short_pieces_go(index):
    outcome = cut(Document(f"{filler(70)} {LEAK} {filler(70)}", "web", "7"), index)
    assert not outcome.documents and "nothing left" in outcome.reason
    assert outcome.counts == ("matched", "removed")
    long = cut(Document(f"{filler(200)} {LEAK} {filler(70)}", "web", "7"), index)
    assert len(long.documents) == 1 and len(long.documents[0].text) >= 200


def test_what_overlaps_is_one_cut(index):
    near = f"{filler(300)} {LEAK} {filler(40)} {LEAK} {filler(300, 1000)}"
    assert len(cut(Document(near, "web", "7"), index).documents) == 2
    far = f"{filler(300)} {LEAK} {filler(300)} {LEAK} {filler(300, 1000)}"
    assert len(cut(Document(far, "web", "7"), index).documents) == 3


@pytest.mark.parametrize(("times", "stays"), [(10, True), (11, False)])
def test_more_than_ten_cuts_are_too_many(index, times, stays):
    text = filler(150) + "".join(f" {LEAK} {filler(150)}" for _ in range(times))
    outcome = cut(Document(text, "web", "7"), index)
    assert len(outcome.documents) == (times + 1 if stays else 0)
    assert ("more than 10" in outcome.reason) is not stays


def test_expressions_stay(index):
    document = Document(f"{filler(300)} {LEAK} {filler(300)}", "web", "7")
    numbers = counted(document, index)
    assert sorted(numbers.values()) == [1, 1]
    assert cut(document, index, common=frozenset(numbers)) == ((document,), "", ())
    assert cut(document, index, common=frozenset([min(numbers)])).documents[0] != document
    twice = Document(f"{LEAK} {filler(9)} {LEAK}", "web", "8")
    assert counted(twice, index) == {number: 2 for number in numbers}


def test_every_string_of_a_record():
    record = {"a": "x", "b": ["y", {"c": "z", "d": 3}], "e": None, "f": [["w"]]}
    assert sorted(texts_of([record, {"a": "v"}])) == ["v", "w", "x", "y", "z"]


def test_an_index_that_was_written_again_is_read_again(tmp_path):
    """As when another recipe fills the same folder in the same process."""
    path, document = tmp_path / "index.npz", Document(LEAK, "web", "1")
    Index.build(["other words that are not in the document at all but many of them"]).save(path)
    assert not counted(document, path)
    Index.build([LEAK]).save(path)
    assert sum(counted(document, path).values()) == 2


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"nothing"])
def test_a_damaged_index_is_one_line(tmp_path, content):
    (tmp_path / "index.npz").write_bytes(content)
    with pytest.raises(InputError, match="isn't an index of n-grams"):
        Index.load(tmp_path / "index.npz")
