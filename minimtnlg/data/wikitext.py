"""Wikipedia's markup to plain text.

What a reader sees as running text stays: paragraphs, headings, lists, the words of a link. What is
for the page or the editor goes: references, tables, templates, pictures, categories, links to other
languages, and the sections at the end that only list sources.
"""

import re
from xml.etree import ElementTree

from minimtnlg.errors import InputError

SKIPPED_TAGS = {"ref", "references", "table", "gallery", "math", "timeline", "imagemap", "div"}
SKIPPED_SECTIONS = {
    "bibliography", "citations", "external links", "footnotes", "further reading", "notes",
    "notes and references", "references", "see also", "sources",
}  # fmt: skip
# A link with such a prefix is no word of the text: [[Category:...]], [[File:...]], [[de:...]].
SKIPPED_LINK = re.compile(r"\s*:?\s*([a-z][a-z-]{1,11}|file|image|category|media)\s*:\s*\S", re.I)
# Most templates are furniture; of these few, the argument of this number is a part of the sentence.
WORDS_OF_TEMPLATE = {
    "nowrap": 0, "small": 0, "smaller": 0, "smallcaps": 0, "flag": 0, "nihongo": 0,
    "quote": 0, "blockquote": 0, "cquote": 0, "lang": 1, "transl": -1,
}  # fmt: skip
RANGE = {"-", "–", "to", "and", "or", "by", "x"}  # {{convert|60|to|80|kg}}

TIDY = [
    (re.compile(r"'{2,}|__[A-Z]+__"), ""),  # bold and italic marks, switches such as __NOTOC__
    (re.compile(r"\(\s*(?:[;,:]\s*)*\)"), ""),  # brackets that held only a template
    (re.compile(r"\(\s*(?:[;,:]\s*)+"), "("),
    (re.compile(r"[ \t\u00a0]+"), " "),
    (re.compile(r" ?\n ?"), "\n"),
    (re.compile(r"^(?:- )+", re.M), "- "),  # items of items
    (re.compile(r"^[-#:;*,.]+[ \t]*$", re.M), ""),  # an item whose content went
    (re.compile(r" +([,.;:)])"), r"\1"),
    (re.compile(r"\n{3,}"), "\n\n"),
]


def articles(stream):
    """(title, markup) of each article of a dump of pages: no redirects, no talk or help pages.

        stream  the dump's XML, as bytes
    """
    for _, page in ElementTree.iterparse(stream):
        if not page.tag.endswith("}page"):
            continue
        ns = page.tag.removesuffix("page")
        if page.findtext(f"{ns}ns") == "0" and page.find(f"{ns}redirect") is None:
            yield page.findtext(f"{ns}title"), page.findtext(f"{ns}revision/{ns}text") or ""
        page.clear()


def plain(markup):
    """The running text of an article, paragraphs separated by an empty line.

    InputError where mwparserfromhell is not installed.
    """
    try:
        import mwparserfromhell
    except ImportError:
        raise InputError(
            "Wikipedia's markup is read with mwparserfromhell, which isn't installed: "
            "pip install 'minimtnlg[data]'"
        ) from None

    # Bold and italic marks are often unbalanced; `TIDY` removes them, the parser may ignore them.
    nodes = mwparserfromhell.parse(markup, skip_style_tags=True).nodes
    text = "".join(_words(node) for node in _kept_sections(nodes))
    for pattern, replacement in TIDY:
        text = pattern.sub(replacement, text)
    return text.strip()


def _kept_sections(nodes):
    """The nodes that stand under no heading of SKIPPED_SECTIONS."""
    skipped = 7  # level of the heading that is being skipped; 6 is the deepest that there is
    for node in nodes:
        if type(node).__name__ == "Heading" and node.level <= skipped:
            skip = str(node.title).strip().lower() in SKIPPED_SECTIONS
            skipped = node.level if skip else 7
        if skipped == 7:
            yield node


def _words(node):
    """What a reader sees of one node of the parse tree."""

    def inside(code):
        return "".join(map(_words, code.nodes)) if code is not None else ""

    match type(node).__name__:
        case "Text":
            return str(node.value)
        case "Heading":
            return f"\n\n{inside(node.title).strip()}\n\n"
        case "Wikilink":
            if SKIPPED_LINK.match(str(node.title)):
                return ""
            return inside(node.text if node.text is not None else node.title)
        case "ExternalLink":
            return inside(node.title)
        case "HTMLEntity":
            return node.normalize()
        case "Template":
            return _words_of_template(node, inside)
        case "Tag":
            tag = str(node.tag).strip().lower()
            if tag in SKIPPED_TAGS:
                return ""
            if node.wiki_markup in ("*", "#"):
                return "- "
            return "\n" if tag == "br" else inside(node.contents)
    return ""  # comments and the arguments of templates


def _words_of_template(node, inside):
    name = str(node.name).strip().lower()
    values = [inside(p.value).strip() for p in node.params if not p.showkey]
    if name == "convert" and len(values) > 1:
        values[1] = values[1].removesuffix("(-)")
        return " ".join(values[: 4 if values[1] in RANGE else 2])
    if name == "chem":
        return "".join(values)
    if name == "as of":
        return " ".join(["As of", *values[:1]])
    number = 0 if name.startswith("lang-") else WORDS_OF_TEMPLATE.get(name)
    known = number is not None and len(values) > max(number, 0)
    return values[number] if known else ""
