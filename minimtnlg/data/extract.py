"""From HTML to text: the paragraphs that a reader came for, without menus, links and footers.

`justext`, the paper's choice [S3, sec. 3.1.2], judges each paragraph by its length, its links and
its share of function words, then by its neighbours. `resiliparse` goes by the tags' names; it is
much faster and leaves more of menus (docs/corpus.md).

jusText needs to know the language, for its list of function words. It is guessed from the visible
text, so that a page in another language stays one, and is dropped as such by the next step.
"""

import dataclasses
import functools
import re
from html import escape

from minimtnlg.data.language import identified
from minimtnlg.data.shards import Outcome
from minimtnlg.errors import InputError

# Languages that jusText has a list for, of those that are common on the web.
LISTS = {
    "ar": "Arabic", "bg": "Bulgarian", "ca": "Catalan", "cs": "Czech", "da": "Danish",
    "de": "German", "el": "Greek", "en": "English", "es": "Spanish", "et": "Estonian",
    "fa": "Persian", "fi": "Finnish", "fr": "French", "he": "Hebrew", "hi": "Hindi",
    "hr": "Croatian", "hu": "Hungarian", "id": "Indonesian", "it": "Italian", "ko": "Korean",
    "lt": "Lithuanian", "lv": "Latvian", "nl": "Dutch", "no": "Norwegian_Bokmal", "pl": "Polish",
    "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak", "sl": "Slovenian",
    "sr": "Serbian", "sv": "Swedish", "tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese",
}  # fmt: skip
DEEPEST = 240  # tags inside each other; jusText's parser drops all that lies deeper than some 250


def extracted(document, engine="justext"):
    """The Outcome of a Document: of a page its text, removed if it has none; any other passes.

    A text's paragraphs are separated by an empty line. Its meta has "page" then, and kind text.
    engine: "justext" or "resiliparse".
    """
    if document.kind != "page":
        return Outcome((document,))
    text = {"justext": by_justext, "resiliparse": by_resiliparse}[engine](document.text)
    if not text:
        return Outcome(reason="no text in the page")
    meta = document.meta | {"kind": "text", "page": True}
    return Outcome((dataclasses.replace(document, text=text, meta=meta),))


def by_justext(html):
    """The paragraphs of a page that jusText takes for text; "" if there are none."""
    justext, extract = _libraries()
    tree = _parsed(html)
    visible = extract(tree, preserve_formatting=False, main_content=False)
    if not visible.strip():
        return ""
    words, limits = _function_words(identified(visible)[0])
    try:
        paragraphs = justext.justext(_shallow(html, tree), words, **limits)
    except (justext.core.JustextError, ValueError, AssertionError):  # no document, says lxml
        return ""
    return "\n\n".join(p.text.strip() for p in paragraphs if not p.is_boilerplate)


def by_resiliparse(html):
    """The main content of a page by resiliparse; "" if there is none."""
    _, extract = _libraries()
    tree = _parsed(html)
    # Its search for the main content takes the square of the depth: hours for a page made so.
    endless = html.count("<") > 2000 and _deep(str(tree))
    return extract(tree, main_content=not endless, alt_texts=False).strip()


def _parsed(html):
    """The tree of a page, by a parser that takes anything, as browsers do."""
    from resiliparse.parse.html import HTMLTree

    return HTMLTree.parse(html.replace("\0", ""))


def _shallow(html, tree):
    """HTML that lxml reads to its end: the page's own, else as browsers mend it, else its lines."""
    for page in (re.sub(r"^\s*<\?xml[^>]*\?>", "", html.replace("\0", "")), str(tree)):
        if not _deep(page):
            return page
    _, extract = _libraries()
    lines = extract(tree, main_content=False).splitlines()
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def _deep(html):
    """Whether tags stand deeper inside each other than DEEPEST, as lxml reads them."""
    from lxml import etree

    try:
        root = etree.fromstring(html.encode("utf-8"), etree.HTMLParser(encoding="utf-8"))
    except etree.XMLSyntaxError:  # nothing in it
        return False
    depth = 0
    for event, _ in etree.iterwalk(root, ("start", "end")) if root is not None else ():
        depth += 1 if event == "start" else -1
        if depth > DEEPEST:
            return True
    return False


@functools.cache
def _function_words(code):
    """jusText's list for a language, and the limits that go with it: none where there is none."""
    justext, _ = _libraries()
    if code in LISTS:
        return justext.get_stoplist(LISTS[code]), {}
    return frozenset(), {"stopwords_low": 0, "stopwords_high": 0}


@functools.cache
def _libraries():
    try:
        import justext
        from resiliparse.extract.html2text import extract_plain_text
    except ImportError:
        raise InputError(
            "pages are read with justext and resiliparse, which aren't installed: "
            "pip install 'minimtnlg[data]'"
        ) from None
    return justext, extract_plain_text
