# ---
# mark: 2
# minutes: 30
# help: empty
# needs: [decontamination]
# draws:
#   TOUCH: [one, two]
#   DROPPED: [above, from]
# ---

# %% [markdown]
# # Cut out the leak
#
# A document holds sentences of a test. Cut them out, much as MT-NLG did it. (It let stand what the
# corpus holds more than ten times; that is left out here.)
#
# `grams` is a set of tuples of words in small letters, never empty; all have the same length $n$. A word is what
# `re.finditer(r"[^\W_]+", text)` finds, letters and digits of any alphabet, in small letters.
#
# - Wherever $n$ words in a row are one of `grams`, the characters from the first of the first word
#   to the last of the last word are a match. Where nothing matches, return `[text]`, unchanged.
# - A match takes `margin` characters with it on each side, if there are so many.
# - {{TOUCH_SAID}}
# - The pieces between the cuts stay, in their order, without white space at their ends, if they
#   have at least `shortest` characters then.
# - A document that would be cut {{DROPPED_SAID}} is dropped: no piece stays.
#
# **Target:** with `margin=3` and `shortest=2`, `"aa bb. One two three! cc dd"` and the gram
# `("one", "two", "three")` give `["aa b", "c dd"]`.

# %% tags=["target"]
TOUCH_SAID = {
    "one": "What overlaps or touches is one cut.",
    "two": "What overlaps is one cut. Cuts that only touch, the end of one being the start of the next, "
    "stay two.",
}[TOUCH]
DROPPED_SAID = {"above": "more than `splits` times", "from": "`splits` times or more often"}[DROPPED]
LIMIT = {"above": 0, "from": 1}[DROPPED]  # n cuts are just allowed with splits = n + LIMIT
# Two lines of the printed solution.
JOINED = {"one": "start <= cuts[-1][1]", "two": "start < cuts[-1][1]"}[TOUCH]
TOO_MANY = {"above": "len(cuts) > splits", "from": "len(cuts) >= splits"}[DROPPED]

# %%
import re


# %% tags=["stub"]
def cut(text, grams, margin=200, shortest=200, splits=10):
    """The pieces of `text` that are left when all `grams` are cut out of it.

    grams    set of tuples of n words each, in small letters
    returns  list of strings; [text] where nothing matches
    """
    raise NotImplementedError("find the matches, widen and join them, keep what lies between")

# %% [markdown] tags=["hint"]
# First a list of all words with their places, then the matches as (start, end), then the cuts as a
# list that grows while you walk along the matches, then the pieces between.

# %% [markdown] tags=["hint"]
# `places = list(re.finditer(r"[^\W_]+", text))` has both: `place[0]` is the word, `place.start()` and
# `place.end()` say where. A new match, from its widened `start` on, belongs to the last cut if
# `{{JOINED}}`.

# %% [markdown] tags=["hint"]
# With `cuts = [[s, e], ...]` the pieces are `text[a:b]` for `a` in `[0, e1, e2, ...]` and `b` in
# `[s1, s2, ..., len(text)]`.

# %% tags=["solution"]
def cut(text, grams, margin=200, shortest=200, splits=10):
    places = list(re.finditer(r"[^\W_]+", text))
    words = [place[0].lower() for place in places]
    n = len(next(iter(grams)))
    cuts = []
    for i in range(len(words) - n + 1):
        if tuple(words[i : i + n]) in grams:
            start = max(0, places[i].start() - margin)
            end = min(len(text), places[i + n - 1].end() + margin)
            if cuts and {{JOINED}}:
                cuts[-1][1] = end
            else:
                cuts.append([start, end])
    if not cuts:
        return [text]
    if {{TOO_MANY}}:
        return []
    edges = [0, *(edge for both in cuts for edge in both), len(text)]
    pieces = [text[a:b].strip() for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return [piece for piece in pieces if len(piece) >= shortest]

# %% tags=["check"]
from minimtnlg.course.check import Feedback, expect

GRAM = ("one", "two", "three")


def _pieces(got, expected, what, look_at=""):
    """Compare whole lists, which show white space; where only that is wrong, say so."""
    if isinstance(got, tuple | list) and list(got) == expected:
        return
    if isinstance(got, tuple | list) and [str(piece).strip() for piece in got] == expected:
        look_at = "a piece has no white space at its ends"
    raise Feedback(what, expected, got, look_at)


def the_target(student):
    """The document of the target"""
    _pieces(student("aa bb. One two three! cc dd", {GRAM}, 3, 2), ["aa b", "c dd"],
            "the pieces of 'aa bb. One two three! cc dd' with margin=3, shortest=2")  # fmt: skip


def nothing_to_cut(student):
    """A document without a match stays as it is"""
    text = "  one two, and then three. "
    _pieces(student(text, {GRAM}), [text], "the pieces of a text without a match",
           "the words must follow each other; without a match nothing is stripped")  # fmt: skip


def whatever_stands_between_words(student):
    """Words match across punctuation and lines, in any case"""
    text = "x" * 20 + " ONE,\n(two)   Three " + "y" * 20
    _pieces(student(text, {GRAM}, 0, 5), ["x" * 20, "y" * 20], f"the pieces of {text!r}",
           "compare words in small letters; what stands between them doesn't matter")  # fmt: skip


def matches_side_by_side(student):
    """Matches whose margins overlap are one cut, and those that touch as the statement says"""
    text = "a" * 30 + " one two three one two three " + "b" * 30
    _pieces(student(text, {GRAM}, 5, 1, 1 + LIMIT), ["a" * 26, "b" * 26], f"the pieces of {text!r}",
           f"two matches side by side are one cut; more is dropped if cut {DROPPED_SAID}")  # fmt: skip
    text = "a" * 30 + " one two three xxxxxx one two three " + "b" * 30
    _pieces(student(text, {GRAM}, 5, 1, 1 + LIMIT), ["a" * 26, "b" * 26], f"the pieces of {text!r}",
           "both margins count: widen first, then join")  # fmt: skip
    text = "a" * 30 + " one two three  one two three " + "b" * 30
    pieces = ["a" * 30, "b" * 30]
    _pieces(student(text, {GRAM}, 1, 1, 2 + LIMIT), pieces, "the pieces where two cuts are allowed",
           "the margin of one ends where that of the other begins")  # fmt: skip
    _pieces(student(text, {GRAM}, 1, 1, 1 + LIMIT), pieces if TOUCH == "one" else [],
           "the pieces where one cut is allowed", "the margins touch: is that one cut, or two?")  # fmt: skip


def matches_that_share_a_word(student):
    """A match may begin inside another one"""
    text, grams = "xxxx a b c yyyy", {("a", "b"), ("b", "c")}
    _pieces(student(text, grams, 0, 1, 9), ["xxxx", "yyyy"], f"the pieces of {text!r}, grams {grams}",
            "a b matches, and so does b c; they overlap in b, so they are one cut")  # fmt: skip


def short_pieces_go(student):
    """A piece below `shortest` is dropped, the others stay in order"""
    text = "aaaaaaaa one two three bb one two three cccccccc"
    for shortest in (5, 8):
        _pieces(student(text, {GRAM}, 0, shortest), ["aaaaaaaa", "cccccccc"],
               f"the pieces with shortest={shortest}", "the pieces of at least `shortest` characters stay, and no others")  # fmt: skip

# %% tags=["hidden"]
def words_of_any_alphabet(student):
    """Letters with accents and digits belong to words, a low line doesn't"""
    text = "x" * 10 + " Café _3_ Übung " + "y" * 10
    _pieces(student(text, {("café", "3", "übung")}, 0, 5), ["x" * 10, "y" * 10],
            f"the pieces of {text!r}", r"a word is what [^\W_]+ finds")  # fmt: skip


def places_in_the_text_itself(student):
    """Letters that become two in small letters move no cut"""
    text = "\u0130\u0130\u0130zmir one two three yyyyyy"  # I with a dot above: two characters small
    _pieces(student(text, {GRAM}, 0, 5), ["\u0130\u0130\u0130zmir", "yyyyyy"], f"the pieces of {text!r}",
            "find the words in text; in text.lower() they may stand elsewhere")  # fmt: skip


def many_cuts_drop_the_document(student):
    """Too many cuts leave nothing, one less leaves the pieces"""
    text = " one two three ".join(["long enough"] * 4)
    splits = 3 + LIMIT
    what = f"pieces after three cuts with splits={splits}"
    _pieces(student(text, {GRAM}, 0, 3, splits), ["long enough"] * 4, what)
    what = f"the pieces after three cuts with splits={splits - 1}"
    look_at = f"cut {DROPPED_SAID}: the document goes"
    _pieces(student(text, {GRAM}, 0, 3, splits - 1), [], what, look_at)


def the_margin_ends_with_the_text(student):
    """A match near an end takes what there is"""
    text = "ab one two three " + "c" * 30
    _pieces(student(text, {GRAM}, 10, 5), ["c" * 21], f"the pieces of {text!r}, margin 10",
           "a negative start would count from the end of the text")  # fmt: skip
    _pieces(student("one two three", {GRAM}, 10, 1), [], "the pieces of a text that is all leak")


def white_space_does_not_count(student):
    """A piece is measured without white space at its ends"""
    text = "abc        one two three" + " " * 9 + "defgh"
    what = f"the pieces of {text!r} with shortest=4"
    _pieces(student(text, {GRAM}, 0, 4), ["defgh"], what, "strip first, then measure")


def as_the_package_does_it(student):
    """On a real article, with runs of 13 words"""
    from pathlib import Path
    from pydoc_data.topics import topics
    from tempfile import TemporaryDirectory

    from minimtnlg.data import decontaminate
    from minimtnlg.data.records import Document

    text = topics["assignment"]
    words = [word.lower() for word in re.findall(r"[^\W_]+", text)]
    leaks = [" ".join(words[i : i + 20]) for i in (100, 400, 405, 900)]
    grams = {tuple(leak.split()[i : i + 13]) for leak in leaks for i in range(8)}
    with TemporaryDirectory() as folder:
        index = Path(folder) / "grams.npz"
        decontaminate.Index.build(leaks).save(index)
        document = Document(text, "help", "assignment")
        theirs = decontaminate.cut(document, index, margin=100, shortest=150)
    expect(student(text, grams, 100, 150), [piece.text for piece in theirs.documents],
           "the pieces of a page of help()")  # fmt: skip

# %% tags=["wrong"]
def _cut(
    text, grams, margin, shortest, splits, small=str.lower, join=0, strip=True, low=0,
    word=r"[^\W_]+", searched=str, skips=False,
):  # fmt: skip
    places = list(re.finditer(word, searched(text)))
    words = [small(place[0]) for place in places]
    n, cuts, free = len(next(iter(grams))), [], 0
    for i in range(len(words) - n + 1):
        if i >= free and tuple(words[i : i + n]) in grams:
            free = i + n if skips else 0
            start = max(low, places[i].start() - margin)
            end = min(len(text), places[i + n - 1].end() + margin)
            if cuts and start + join + (TOUCH == "two") <= cuts[-1][1]:
                cuts[-1][1] = end
            else:
                cuts.append([start, end])
    if not cuts:
        return [text]
    if len(cuts) > splits - LIMIT:
        return []
    edges = [0, *(edge for both in cuts for edge in both), len(text)]
    pieces = [text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]
    if strip:
        return [p.strip() for p in pieces if len(p.strip()) >= shortest]
    return [p.strip() for p in pieces if len(p) >= shortest]


def minds_capitals(text, grams, margin=200, shortest=200, splits=10):
    """Caught by: the_target. Words of the text are compared as they are written."""
    return _cut(text, grams, margin, shortest, splits, small=str)


def searches_small_letters(text, grams, margin=200, shortest=200, splits=10):
    """Caught by: places_in_the_text_itself. A text in small letters is thought to be as long."""
    return _cut(text, grams, margin, shortest, splits, searched=str.lower)


def goes_on_behind_a_match(text, grams, margin=200, shortest=200, splits=10):
    """Caught by: matches_that_share_a_word. The words of a match are believed to be done with."""
    return _cut(text, grams, margin, shortest, splits, skips=True)


def leaves_white_space(text, grams, margin=200, shortest=200, splits=10):
    """Caught by: whatever_stands_between_words. Pieces are cut and not stripped."""
    padded = _cut(text, grams, margin, shortest, splits)
    return [f"{piece} " for piece in padded] if padded != [text] else padded


def joins_nothing(text, grams, margin=200, shortest=200, splits=10):
    """Caught by: matches_side_by_side. Each match is a cut of its own."""
    return _cut(text, grams, margin, shortest, splits, join=len(text))


def touches_the_other_way(text, grams, margin=200, shortest=200, splits=10):
    """Caught by: matches_side_by_side. < is written for <=, or <= for <."""
    return _cut(text, grams, margin, shortest, splits, join=1 if TOUCH == "one" else -1)


def joins_before_it_widens(text, grams, margin=200, shortest=200, splits=10):
    """Caught by: matches_side_by_side. The start of a match is compared, not its cut's."""
    return _cut(text, grams, margin, shortest, splits, join=margin)


def wants_one_more(text, grams, margin=200, shortest=200, splits=10):
    """Caught by: short_pieces_go. A piece of just `shortest` characters is dropped."""
    return _cut(text, grams, margin, shortest + 1, splits)


def knows_a_to_z(text, grams, margin=200, shortest=200, splits=10):
    """Caught by: words_of_any_alphabet. Words are made of the letters of English."""
    return _cut(text, grams, margin, shortest, splits, word="[A-Za-z]+")


def takes_the_low_line(text, grams, margin=200, shortest=200, splits=10):
    """Caught by: words_of_any_alphabet. _ counts as a letter."""
    return _cut(text, grams, margin, shortest, splits, word=r"\w+")


def measures_with_white_space(text, grams, margin=200, shortest=200, splits=10):
    """Caught by: white_space_does_not_count. Pieces are measured before they are stripped."""
    return _cut(text, grams, margin, shortest, splits, strip=False)


def counts_from_the_end(text, grams, margin=200, shortest=200, splits=10):
    """Caught by: the_margin_ends_with_the_text. A negative start is a place near the end."""
    return _cut(text, grams, margin, shortest, splits, low=-(10**9))


def searches_the_string(text, grams, margin=200, shortest=200, splits=10):
    """Caught by: whatever_stands_between_words. Looks for the words with single blanks."""
    small = text.lower()
    for gram in grams:
        start = small.find(" ".join(gram))
        if start >= 0:
            end = start + len(" ".join(gram))
            pieces = [text[: max(0, start - margin)].strip(), text[end + margin :].strip()]
            return [piece for piece in pieces if len(piece) >= shortest]
    return [text]


def keeps_short_pieces(text, grams, margin=200, shortest=200, splits=10):
    """Caught by: short_pieces_go. Only empty pieces are dropped."""
    return _cut(text, grams, margin, 1, splits)


def just_as_many_the_other_way(text, grams, margin=200, shortest=200, splits=10):
    """Caught by: many_cuts_drop_the_document. Just `splits` cuts are taken for too many, or not."""
    return _cut(text, grams, margin, shortest, splits + (-1 if DROPPED == "above" else 1))


def never_drops(text, grams, margin=200, shortest=200, splits=10):
    """Caught by: many_cuts_drop_the_document. Whatever is left after the cuts is clean, and stays."""
    return _cut(text, grams, margin, shortest, len(text))


def strips_what_is_whole(text, grams, margin=200, shortest=200, splits=10):
    """Caught by: nothing_to_cut. A document without a match is stripped as well."""
    return [piece.strip() for piece in _cut(text, grams, margin, shortest, splits)]


# %% [markdown] tags=["oral"]
# **Q.** You cut with runs of 13 words, and a colleague with runs of 5, to be on the safe side. What do
# you both find in a corpus of a billion documents?
#
# **A.** Her runs match everywhere: five words in a row of a test stand in very many innocent texts. She
# loses much of the corpus. You miss questions of fewer than 13 words, and those that were rephrased.
#
# **Q.** Why is the margin cut out as well, and not only the match?
#
# **A.** What stands around a question of a test is often its other part: the answer, or the passage. A
# model that read it would still have been told.
