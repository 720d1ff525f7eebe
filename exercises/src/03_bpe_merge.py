# ---
# mark: 1
# minutes: 15
# help: half
# needs: [byte-pair encoding]
# draws:
#   TIE: [last, first]
#   END: [right, left]
# ---

# %% [markdown]
# # One join of a vocabulary
#
# Byte-pair encoding is one step, repeated: count the pairs of neighbours, choose the most frequent, join
# it everywhere. The stub counts as the lesson does. Take the rest from there as well (section Code), and
# change what is different here.
#
# `words` is a dict. A key is a word, as a tuple of symbols (strings); its value says how often the
# word occurs. Return the chosen pair and the new dict. If no word has two symbols, return `None`
# and the words as they are.
#
# - A word that occurs 5 times gives each of its pairs 5 times. Count every place, overlapping ones
#   too: `("a", "a", "a")` holds the pair `("a", "a")` twice.
# - **Tie rule:** of equally frequent pairs take the one that Python sorts {{TIE}}, `{{LEAST}}` of the
#   tuples. (The lesson takes the `min`, and of the numbers of the symbols; here we compare the strings.)
# - Join from the {{END}}, and never use a symbol twice: `("a", "a", "a")` becomes `{{THREE}}`.
#   {{END_SAID}}
# - Two words may become equal. Then their counts add up.
#
# **Target:** `{("h", "u", "g"): 5, ("h", "u", "m"): 2}` gives the pair `("h", "u")` and `{("hu",
# "g"): 5, ("hu", "m"): 2}`.

# %% tags=["target"]
LEAST = {"first": "min", "last": "max"}[TIE]
THREE = {"left": '("aa", "a")', "right": '("a", "aa")'}[END]
END_SAID = {"left": "(As in the lesson.)", "right": "(The lesson begins at the left.)"}[END]
# Of the printed solution: the choice, and the loop that joins.
BEST = {
    "first": "min(pairs, key=lambda pair: (-pairs[pair], pair))",
    "last": "max(pairs, key=lambda pair: (pairs[pair], pair))",
}[TIE]
LOOP = {
    "left": """joined, i = [], 0
while i < len(word):
    width = 2 if word[i : i + 2] == pair else 1
    joined.append("".join(word[i : i + width]))
    i += width""",
    "right": """joined, i = [], len(word)
while i > 0:
    width = 2 if word[max(0, i - 2) : i] == pair else 1
    joined.append("".join(word[i - width : i]))
    i -= width""",
}[END]
IN_ORDER = {"left": "tuple(joined)", "right": "tuple(reversed(joined))"}[END]
_lines = ["def _joined(word, pair):", *LOOP.splitlines(), f"return {IN_ORDER}"]
JOINING = "\n    ".join(_lines)

# %%
from collections import Counter
from itertools import pairwise


# %% tags=["stub"]
def join_most_frequent(words):
    """The most frequent pair of neighbours in `words`, and the words with it joined.

    words    {tuple of symbols: how often the word occurs}
    returns  ((left, right), the new dict), or (None, words) if there is no pair
    """
    pairs = Counter()
    for word, count in words.items():
        for pair in pairwise(word):
            pairs[pair] += count
    raise NotImplementedError(f"choose one of {len(pairs)} pairs, rebuild each word with it joined")

# %% [markdown] tags=["hint"]
# Two parts are left: one `min` or `max` over the counted pairs, and a loop that rebuilds each word. The
# lesson's `learn` and `join` have both. What does it do if there is no pair?

# %% [markdown] tags=["hint"]
# Most frequent first, and then by the tie rule: `{{BEST}}`. For the joining, walk along the word from the
# {{END}}: at the first place where the pair stands, put the joined symbol, and go on behind both.

# %% [markdown] tags=["hint"]
# The lesson's loop, begun at the {{END}}:
#
# ```python
# {{LOOP}}
# ```
# The word is then `{{IN_ORDER}}`. In the new dict *add* its count, since another word may have become
# the same: `result[new] = result.get(new, 0) + count`.

# %% tags=["solution"]
def join_most_frequent(words):
    pairs = Counter()
    for word, count in words.items():
        for pair in pairwise(word):
            pairs[pair] += count
    if not pairs:
        return None, words
    best = {{BEST}}
    joined = Counter()
    for word, count in words.items():
        joined[_joined(word, best)] += count
    return best, dict(joined)


{{JOINING}}

# %% tags=["check"]
from minimtnlg.course.check import Feedback, expect


def _step(student, words):
    """(pair, new words) of the student, or Feedback if the answer isn't such a pair of values."""
    answer = student(dict(words))
    if not (isinstance(answer, tuple | list) and len(answer) == 2):
        raise Feedback("what is returned", "two things, (pair, new words)", answer)
    return answer


def _chose(got, expected, what, look_at=""):
    """Compare the chosen pair as a whole, so that the message shows both of its symbols."""
    if got != expected:
        raise Feedback(what, expected, got, look_at)


def two_words(student):
    """The target: hug and hum"""
    pair, words = _step(student, {("h", "u", "g"): 5, ("h", "u", "m"): 2})
    _chose(pair, ("h", "u"), "the chosen pair", "h u stands in both words, 5 + 2 = 7 times")
    expect(words, {("hu", "g"): 5, ("hu", "m"): 2}, "the words after the join")


def counts_words_as_often_as_they_occur(student):
    """A pair of one frequent word beats a pair of many rare words"""
    words = {("o", "n"): 9, ("a", "t"): 2, ("h", "a", "t"): 2, ("c", "a", "t"): 2}
    pair, _ = _step(student, words)
    _chose(pair, ("o", "n"), "the chosen pair (o n occurs 9 times, a t 6 times)",
           "a word that occurs 9 times gives its pairs 9 times")  # fmt: skip


def stays_inside_words(student):
    """The end of one word and the beginning of the next are no pair"""
    words = {("a", "b"): 3, ("c", "a", "b"): 1, ("b", "c"): 3, ("d", "a"): 1, ("b",): 9}
    pair, new = _step(student, words)
    _chose(pair, ("a", "b"), "the chosen pair (a b occurs 4 times, b c 3 times)",
           "count neighbours within each word only; a word of one symbol has no pair")  # fmt: skip
    expected = {("ab",): 3, ("c", "ab"): 1, ("b", "c"): 3, ("d", "a"): 1, ("b",): 9}
    expect(new, expected, "the words after the join", "words without the pair stay as they are")


def uses_no_symbol_twice(student):
    """aaa becomes two symbols, aaaa becomes aa aa"""
    for n, expected in ((3, ("aa", "a")), (4, ("aa", "aa")), (5, ("aa", "aa", "a"))):
        expected = expected if END == "left" else expected[::-1]
        _, words = _step(student, {("a",) * n: 1})
        _chose(words, {expected: 1}, f"the word of {n} times a after joining a a",
               f"walk from the {END}; after a join go on behind both symbols")  # fmt: skip


def breaks_ties_as_stated(student):
    """Of equally frequent pairs the one of the tie rule is taken"""
    for words, first, last in (
        ({("z", "y"): 4, ("b", "c"): 4, ("b", "a"): 4}, ("b", "a"), ("z", "y")),
        ({("b", "a"): 4, ("b", "c"): 4, ("z", "y"): 4}, ("b", "a"), ("z", "y")),
        ({("ab", "c"): 2, ("a", "d"): 2}, ("a", "d"), ("ab", "c")),
    ):
        pair, _ = _step(student, words)
        expected = first if TIE == "first" else last
        _chose(pair, expected, f"the pair chosen among {list(words)}, all equally frequent",
               f"the tie rule: {LEAST} of the tuples, whatever the order of the words")  # fmt: skip

# %% tags=["hidden"]
def adds_counts_of_words_that_became_equal(student):
    """No occurrence is lost when two words become the same"""
    _, words = _step(student, {("a", "b"): 6, ("ab",): 5, ("x", "a", "b"): 1})
    expect(words, {("ab",): 11, ("x", "ab"): 1}, "the words after joining a b",
           "a b and ab are the same word now: 6 + 5 occurrences")  # fmt: skip


def joins_symbols_not_letters(student):
    """The pair (a, b) is not joined where the letters stand inside longer symbols"""
    words = {("a", "b"): 5, ("xa", "b"): 2, ("a", "bc"): 1, ("c", "a", "b", "a", "b"): 1}
    pair, new = _step(student, words)
    _chose(pair, ("a", "b"), "the chosen pair (a b occurs 7 times)")
    expected = {("ab",): 5, ("xa", "b"): 2, ("a", "bc"): 1, ("c", "ab", "ab"): 1}
    expect(new, expected, "the words after the join", "compare whole symbols, not their letters")


def overlapping_places_count(student):
    """In aaaa the pair a a is counted three times"""
    pair, _ = _step(student, {("a", "a", "a", "a"): 2, ("b", "c"): 5})
    _chose(pair, ("a", "a"), "the chosen pair (a a at 3 places x 2 = 6, b c 5)",
           "count every place where the pair begins, overlapping ones too")  # fmt: skip


def nothing_left_to_join(student):
    """Words of one symbol give None and stay"""
    for words in ({("abc",): 3, ("d",): 1}, {}):
        pair, new = _step(student, words)
        look_at = "where no word has two symbols, return None and the words as they are"
        _chose(pair, None, f"the chosen pair of {words}", look_at)
        expect(new, words, f"the words returned for {words}", look_at)


def repeated_on_text(student):
    """Fifty steps on a real text join it without losing a letter"""
    from pydoc_data.topics import topics

    text = topics["for"] + topics["while"] + topics["in"]
    words = dict(Counter(map(tuple, text.split())))
    letters = Counter({"".join(word): count for word, count in words.items()})
    for step in range(50):
        counts = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                counts[pair] += count
        most = max(counts.values())
        equal = [pair for pair in counts if counts[pair] == most]
        best = sorted(equal)[0 if TIE == "first" else -1]
        pair, words = _step(student, words)
        _chose(pair, best, f"the pair of step {step} on the text of help()")
        expect({"".join(word): count for word, count in words.items()}, dict(letters),
               f"the words after step {step}, read as letters")  # fmt: skip
        if any(best in pairwise(word) for word in words):
            raise Feedback(f"step {step}", f"no {best} left in any word", "some are left")

# %% tags=["wrong"]
def _with(words, best, glue=None):
    new = Counter()
    for word, count in words.items():
        new[(glue or _joined)(word, best)] += count
    return best, dict(new)


def _counts(words):
    pairs = Counter()
    for word, count in words.items():
        for pair in pairwise(word):
            pairs[pair] += count
    return pairs


def _best(pairs):
    most = max(pairs.values())
    return (min if TIE == "first" else max)(pair for pair in pairs if pairs[pair] == most)


def counts_each_word_once(words):
    """Caught by: counts_words_as_often_as_they_occur. The dict's counts are forgotten."""
    pairs = Counter(pair for word in words for pair in pairwise(word))
    return _with(words, _best(pairs)) if pairs else (None, words)


def joins_overlapping(words):
    """Caught by: uses_no_symbol_twice. Each place is joined, so that aaa becomes aa aa."""

    def glue(word, pair):
        starts = {i for i, neighbours in enumerate(pairwise(word)) if neighbours == pair}
        return tuple(
            "".join(pair) if i in starts else symbol
            for i, symbol in enumerate(word)
            if i in starts or i - 1 not in starts
        )

    pairs = _counts(words)
    return _with(words, _best(pairs), glue) if pairs else (None, words)


def counts_across_words(words):
    """Caught by: stays_inside_words. All words are laid end to end before counting."""
    row = [symbol for word, count in words.items() for symbol in word * count]
    pairs = Counter(pairwise(row))
    return _with(words, _best(pairs)) if pairs else (None, words)


def takes_the_pair_met_first(words):
    """Caught by: breaks_ties_as_stated. Counter.most_common keeps the order of insertion."""
    pairs = _counts(words)
    return _with(words, pairs.most_common(1)[0][0]) if pairs else (None, words)


def takes_the_other_end_of_a_tie(words):
    """Caught by: breaks_ties_as_stated. max over (count, pair) is thought the same as min."""
    pairs, other = _counts(words), max if TIE == "first" else min
    most = max(pairs.values(), default=0)
    equal = [pair for pair in pairs if pairs[pair] == most]
    return _with(words, other(equal)) if pairs else (None, words)


def joins_from_the_other_end(words):
    """Caught by: uses_no_symbol_twice. It is thought to make no difference where one begins."""

    def glue(word, pair):
        turned = _joined(tuple(reversed(word)), pair[::-1])
        return tuple(symbol[::-1] for symbol in reversed(turned))

    pairs = _counts(words)
    return _with(words, _best(pairs), glue) if pairs else (None, words)


def overwrites_equal_words(words):
    """Caught by: adds_counts_of_words_that_became_equal. A dict comprehension keeps the last."""
    pairs = _counts(words)
    if not pairs:
        return None, words
    best = _best(pairs)
    return best, {_joined(word, best): count for word, count in words.items()}


def replaces_in_strings(words):
    """Caught by: joins_symbols_not_letters. A space between symbols and str.replace."""

    def glue(word, pair):
        return tuple(" ".join(word).replace(" ".join(pair), "".join(pair)).split())

    pairs = _counts(words)
    return _with(words, _best(pairs), glue) if pairs else (None, words)


def counts_places_without_overlap(words):
    """Caught by: overlapping_places_count. Only the places that could be joined are counted."""
    pairs = Counter()
    for word, count in words.items():
        for pair in set(pairwise(word)):
            pairs[pair] += count * (len(word) - len(_joined(word, pair)))
    return _with(words, _best(pairs)) if pairs else (None, words)


def returns_nothing_without_a_pair(words):
    """Caught by: nothing_left_to_join. Nothing to join is taken for nothing to return."""
    return join_most_frequent(words) if any(len(word) > 1 for word in words) else None


def empties_the_words(words):
    """Caught by: nothing_left_to_join. The new dict is begun and never filled."""
    return join_most_frequent(words) if any(len(word) > 1 for word in words) else (None, {})


def forgets_that_there_may_be_no_pair(words):
    """Caught by: nothing_left_to_join. min of nothing raises."""
    return _with(words, _best(_counts(words)))


# %% [markdown] tags=["oral"]
# **Q.** In which word does it matter from which end you join? Why is the rule stated all the same?
#
# **A.** Only where places of the pair overlap, so only for a pair of equal symbols that stand three
# times in a row, such as in aaa. Two programs that differ there make other tokens, and from the next
# join on perhaps other vocabularies.
#
# **Q.** Your step counts all pairs anew. After one join, which counts have really changed?
#
# **A.** Only those of pairs in words that held the joined pair: the pairs that its two symbols made with
# their neighbours, and the new ones of the joined symbol. Programs in use update just these.
