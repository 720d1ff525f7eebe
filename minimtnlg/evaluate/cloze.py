"""A cloze set in the form of LAMBADA, made of public-domain prose; not LAMBADA itself.

LAMBADA's passages are of novels, some four sentences and a last one whose last word people guess
after the whole passage, and not after the last sentence alone. People have not been asked here.
Instead the word has to stand in the passage before, as it does in most of LAMBADA's: so whoever
remembers the passage can find it. What is measured is the same; the numbers can't be compared.
"""

import re

from minimtnlg.data.sources import documents

SOURCE = "moby-dick"
WORDS = 50  # that a passage has at least before its last sentence; of LAMBADA's order
SHORTEST = 5  # letters of the word to guess: shorter ones can be guessed without the passage
QUOTES = "\"'\u2019\u201d"
SENTENCE = re.compile(rf"(?:(?<=[.!?])|(?<=[.!?][{QUOTES}]))\s+(?=[\"'\u2018\u201c]*[A-Z])")
LAST_WORD = re.compile(rf"\s([A-Za-z][a-z]+)[.!?][{QUOTES}]*$")


def passages(source=SOURCE):
    """{text} records of a source's documents, in order; no sentence is in two of them.

    The text ends with the word to guess, without what stood behind it.
    """
    for document in documents(source):
        before = []
        for sentence in SENTENCE.split(" ".join(document.text.split())):
            context = " ".join(before)
            found = LAST_WORD.search(sentence)
            if len(context.split()) >= WORDS and found and _told(found[1], context):
                yield {"text": f"{context} {sentence[: found.end(1)]}"}
                before = []
                continue
            before.append(sentence)
            while len(" ".join(before[1:]).split()) >= WORDS:  # no more sentences than it takes
                del before[0]


def _told(word, context):
    return len(word) >= SHORTEST and re.search(rf"\b{word}\b", context, re.IGNORECASE)
