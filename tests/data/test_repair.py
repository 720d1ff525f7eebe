"""Damaged characters are mended, and short documents go."""


import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtnlg.data.records import Document
from minimtnlg.data.repair import mended, repaired

pytest.importorskip("ftfy")


def document(text, kind="text"):
    return Document(text, "web", "1", "http://a.example", {"kind": kind})


def long(text, length=600):
    """The text, made longer by words that nothing is to be done about."""
    return f"{text} " + "word " * ((length - len(text)) // 5)


@pytest.mark.parametrize(
    "broken, whole",
    [
        ("The caf\u00c3\u00a9\u00e2\u20ac\u2122s menu", "The café\u2019s menu"),
        ("Tom &amp; Jerry &lt;3", "Tom & Jerry <3"),
        ("one\r\ntwo\rthree", "one\ntwo\nthree"),
        ("a\x00b\x08c\ufeffd", "abcd"),
        ("cafe\u0301", "café"),  # NFC
        ("\u201cquoted\u201d", "\u201cquoted\u201d"),  # curly quotes are no damage
        ("  \n text \n\n", "text"),
        ("text \x00", "text"),
        ("x = <b>&amp;</b>", "x = <b>&amp;</b>"),  # HTML that is meant as such
    ],
)
def test_text_is_as_it_was_meant(broken, whole):
    assert mended(broken) == whole


def test_only_what_was_mended_is_counted():
    sound = repaired(document(long("sound")))
    assert sound.counts == () and sound.documents[0].text == long("sound").strip()
    outcome = repaired(document(long("caf\u00c3\u00a9")))
    assert outcome.counts == ("text repaired",) and outcome.documents[0].text[:4] == "café"
    assert repaired(document("\n" + long("sound") + "\n ")).counts == ()  # ends are no damage
    found = outcome.documents[0]
    assert (found.id, found.url, found.meta) == ("1", "http://a.example", {"kind": "text"})


def test_the_shortest_that_stays():
    assert repaired(document("é" * 512)).documents  # characters, not bytes
    outcome = repaired(document("é" * 511))
    assert outcome == ((), "below 512 characters", ())
    assert repaired(document("é" * 511), shortest=511).documents


@pytest.mark.parametrize("word", ["javascript", "JavaScript", "JAVASCRIPT"])
def test_javascript_has_its_own_reason(word):
    def of(length):
        return repaired(document(word + "x" * (length - 10)))

    assert of(255).reason == "javascript below 256"
    assert of(256).reason == of(511).reason == "below 512 characters"
    assert of(512).documents
    below = repaired(document(word + "x" * 20), shortest=20, shortest_javascript=30)
    assert below.documents and not below.reason  # 30 is not below 30
    below = repaired(document(word + "x" * 20), shortest=20, shortest_javascript=31)
    assert below.reason == "javascript below 31"


def test_length_is_that_after_the_repair():
    broken = "caf\u00c3\u00a9 " * 100  # 600 characters, 499 when mended and stripped
    outcome = repaired(document(broken))
    assert len(broken) == 600 and outcome.reason == "below 512 characters"
    assert outcome.counts == ("text repaired",)
    assert repaired(document(" " * 600 + "short")).reason == "below 512 characters"


def test_code_is_neither_mended_nor_measured():
    code = document("x = '&amp;\u00c3\u00a9'\r\n", "code")
    assert repaired(code) == ((code,), "", ())


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_one_outcome_that_utf8_can_hold(text):
    outcome = repaired(document(text), shortest=100, shortest_javascript=50)
    assert outcome == repaired(document(text), shortest=100, shortest_javascript=50)
    assert bool(outcome.documents) != bool(outcome.reason)
    for found in outcome.documents:
        assert len(found.text) >= 100 and found.text == found.text.strip()
        found.text.encode("utf-8")


def test_a_huge_line_is_mended_to_its_end():
    line = "The caf\u00c3\u00a9 is open. "
    assert mended(line * 32_000) == ("The caf\u00e9 is open. " * 32_000).strip()
