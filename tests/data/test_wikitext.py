"""Of Wikipedia's markup, running text stays and furniture goes."""

import io

import pytest

from minimtnlg.data.wikitext import articles, plain


@pytest.mark.parametrize(
    "markup, text",
    [
        ("'''Bold''', ''italic'' and '''''both'''''.", "Bold, italic and both."),
        ("A [[link]], [[page|words]] and [http://a.b site].", "A link, words and site."),
        ("One.<ref>Source, p. 2</ref> Two.<ref name=x/>", "One. Two."),
        ("Text{{citation needed|date=May}}.\n{{Infobox\n|a=[[b]]\n}}\nMore.", "Text.\n\nMore."),
        ("[[File:a.jpg|thumb|A [[dog]].]]A.\n[[Category:Dogs]]\n[[de:Hund]]", "A."),
        ("{| class=x\n! head\n|-\n| cell\n|}\nAfter.", "After."),
        ("Name ({{IPA|x}}; {{lang-de|Wort}}) is", "Name (Wort) is"),
        ("Name ({{IPA|x}}, ) is", "Name is"),
        ("{{convert|5|km|mi}} or {{convert|6|to|8|kg}}", "5 km or 6 to 8 kg"),
        ("a&nbsp;b &amp; c<!-- note --> d<br/>e", "a b & c d\ne"),
        ("* one\n** two\n# three", "- one\n- two\n- three"),
        ("A\n==Life==\nB\n==See also==\nC\n===D===\nE\n==Work==\nF", "A\n\nLife\n\nB\n\nWork\n\nF"),
        ("x<math>a^2</math> H<sub>2</sub>O", "x H2O"),
        ("{{unclosed [[also|''this", None),
    ],
)  # fmt: skip
def test_plain(markup, text):
    assert text is None or plain(markup) == text
    assert isinstance(plain(markup), str)


def test_articles_are_pages_of_the_encyclopedia_that_lead_nowhere_else():
    page = "<page><title>{}</title><ns>{}</ns>{}<revision><text>{}</text></revision></page>"
    dump = "<mediawiki xmlns='http://w.org/export'>"
    dump += page.format("A", 0, "", "text of A") + page.format("Talk:A", 1, "", "no")
    dump += page.format("B", 0, "<redirect title='A'/>", "no") + page.format("C", 0, "", "")
    found = list(articles(io.BytesIO((dump + "</mediawiki>").encode())))
    assert found == [("A", "text of A"), ("C", "")]
