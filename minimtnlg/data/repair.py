"""Broken characters are mended, and documents that are too short to teach anything go.

The rules are the paper's [S3], carried out by Megatron-LM's cleaning script [S10]: ftfy
repairs text that was decoded wrongly; a document below 512 characters goes; so does one that says
"javascript" (mostly "please enable JavaScript") below 256. Applied one after the other the second
rule finds nothing that the first has left. It stands first here, so that a report shows both.
"""

import dataclasses

from minimtnlg.data.shards import Outcome
from minimtnlg.errors import InputError


def repaired(document, shortest=512, shortest_javascript=256):
    """The Outcome of a Document: its text mended, removed if it is short; code passes.

    shortest             characters that a text must have
    shortest_javascript  those of one that says "javascript", in a reason of its own
    """
    if document.kind == "code":
        return Outcome((document,))
    text = mended(document.text)
    counts = ("text repaired",) if text != document.text.strip() else ()
    if len(text) < shortest_javascript and "javascript" in text.lower():
        return Outcome(reason=f"javascript below {shortest_javascript}", counts=counts)
    if len(text) < shortest:
        return Outcome(reason=f"below {shortest} characters", counts=counts)
    return Outcome((dataclasses.replace(document, text=text),), counts=counts)


def mended(text):
    """The text as it was meant: no mojibake, HTML entities or control characters; NFC.

    Curly quotes stay curly: they are no damage. In a text with a "<" entities stay: it may be HTML.
    """
    try:
        import ftfy
    except ImportError:
        raise InputError(
            "broken characters are mended by ftfy, which isn't installed: "
            "pip install 'minimtnlg[data]'"
        ) from None
    return ftfy.fix_text(text.strip(), uncurl_quotes=False).strip()
