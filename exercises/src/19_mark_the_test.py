# ---
# mark: 1
# minutes: 15
# help: worked
# needs: [likelihood scoring, standard error]
# draws:
#   TIE: [first, last]
#   SPACES: [included, left out]
# ---

# %% [markdown]
# # Mark the test
#
# A model has looked at every option of every question. Say how many questions it got right, and how
# sure that is.
#
# A question is a pair `(gold, options)`; `gold` is the number of the right option. An option is a tuple
# `(logprob, tokens, text, alone)`: the log-probability of all its tokens after the question, how many
# tokens, its text, and the log-probability of the same tokens after "Answer:" and nothing else.
#
# The option with the largest value wins; of equal ones the {{TIE}}. The value is
#
# - for the norm `"sum"`: the log-probability,
# - for `"token"` and `"character"`: the same for each token, or each character of the text, spaces
#   {{SPACES}},
# - for `"answer"`: the logarithm of P(option | question) / P(option | "Answer:").
#
# Return the share $p$ of right answers and its standard error, $\sqrt{p (1 - p) / (n - 1)}$ for $n$
# questions. One question alone says nothing about scatter: then the error is `None`.
#
# **Target:** for the two questions `(0, [(-4, 2, "a cat", -5), (-6, 4, "a cat or a dog", -9)])` and
# `(1, [(-3, 1, "no", -2), (-4, 1, "yes", -5)])` the norm `"sum"` gives `(0.5, 0.5)`, being right on the
# first one, `"token"` gives `(0.0, 0.0)`, and `"answer"` `(0.5, 0.5)`, being right on the second one.

# %% tags=["target"]
CHARACTERS = "len(text)" if SPACES == "included" else 'len(text.replace(" ", ""))'
NUMBERS = "range(len(values))" if TIE == "first" else "reversed(range(len(values)))"
LEFT = "two more norms and the error" if TIE == "first" else "two more norms, ties and the error"
TIES = {
    "first": "`values.index(max(values))` is the number of the largest value, and of equal ones the first: "
    "nothing to change there.",
    "last": "`values.index` finds the first of equal ones. "
    "`max(reversed(range(len(values))), key=values.__getitem__)` comes from the end, so it finds the last.",
}[TIE]

# %%
import math


# %% tags=["stub"]
def marked(questions, norm):
    """(share of right answers, its standard error or None).

    questions  list of (gold, [(logprob, tokens, text, alone), ...])
    norm       "sum", "token", "character" or "answer"
    """
    value = {
        "sum": lambda logprob, tokens, text, alone: logprob,
        "token": lambda logprob, tokens, text, alone: logprob / tokens,
    }
    right = []
    for gold, options in questions:
        values = [value[norm](*option) for option in options]
        right.append(values.index(max(values)) == gold)  # index finds the first of equal ones
    p = sum(right) / len(right)
    raise NotImplementedError(f"{p:.0%} are right; what is left: {{LEFT}} of {p}")


# %% [markdown] tags=["hint"]
# Add the two other norms to the dict first, and return `p` and its error. Then look at ties: of equal
# options the {{TIE}} wins.

# %% [markdown] tags=["hint"]
# The logarithm of a quotient is a difference. {{TIES}}

# %% [markdown] tags=["hint"]
# With `right` as a list of True and False: `p = sum(right) / n`, and for `n > 1` the error is
# `math.sqrt(p * (1 - p) / (n - 1))`. For n = 1 it would divide by zero.

# %% [markdown] tags=["oral"]
# **Q.** By "sum" a model is right in 52 % of the cases, by "token" in 61 %. Which one does it know the
# answers by, and may you report the larger one?
#
# **A.** Neither norm is the truth: the sum prefers short options, the mean of a token those with a cheap
# long tail. One may report the larger one only if the norm was fixed before, or chosen on other questions.
# Else report both.
#
# **Q.** What does the norm "answer" take off, and for which options does that matter most?
#
# **A.** What the option costs without the question. It matters where the options are not equally common
# words, such as *yes* and *no*, or where the tokenizer cuts one into more pieces than the other.


# %% tags=["solution"]
def marked(questions, norm):
    value = {
        "sum": lambda logprob, tokens, text, alone: logprob,
        "token": lambda logprob, tokens, text, alone: logprob / tokens,
        "character": lambda logprob, tokens, text, alone: logprob / ({{CHARACTERS}}),
        "answer": lambda logprob, tokens, text, alone: logprob - alone,
    }[norm]
    right = []
    for gold, options in questions:
        values = [value(*option) for option in options]
        right.append(max({{NUMBERS}}, key=values.__getitem__) == gold)
    n, p = len(right), sum(right) / len(right)
    return p, math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else None


# %% tags=["check"]
from minimtnlg.course.check import Feedback, expect

ROOT = "the root of p (1 - p) / (n - 1). (The lesson's own function divides by n.)"
LONG = [(-4, 2, "a cat", -5), (-6, 4, "a cat or a dog", -9)]
SHORT = [(-3, 1, "no", -2), (-4, 1, "yes", -5)]


def _two(found):
    try:
        share, error = found
    except (TypeError, ValueError):
        raise Feedback("what comes back", "two things: share, error", found) from None
    return share, error


def the_target(student):
    """The two questions of the target"""
    for norm, right, look in (
        ("sum", (0.5, 0.5), "-4 is larger than -6"),
        ("token", (0.0, 0.0), "-6 / 4 is larger than -4 / 2"),
        ("answer", (0.5, 0.5), "-6 - -9 is larger than -4 - -5, and -4 - -5 than -3 - -2"),
    ):
        share, error = _two(student([(0, LONG), (1, SHORT)], norm))
        expect(share, right[0], f"the share by {norm}", look)
        expect(error, right[1], f"the error by {norm}, of the share {right[0]} of 2 questions", ROOT)


def each_norm_by_itself(student):
    """What each norm chooses of two options"""
    for norm, number, look in (
        ("sum", 0, "the likelier text wins, short or long"),
        ("token", 1, "per token the longer one is likelier: -1.5 against -2"),
        ("character", 1, "per character the longer one is likelier, with or without spaces"),
        ("answer", 1, "a gain of 3 nats against a gain of 1"),
    ):
        expect(student([(number, LONG)], norm)[0], 1.0, f"share by {norm} of one question", look)
        expect(student([(1 - number, LONG)], norm)[0], 0.0, f"share by {norm} of one question", look)


def the_error_of_a_share(student):
    """9 of 10 answers right"""
    rows = [(0, SHORT)] * 9 + [(1, SHORT)]
    expect(student(rows, "sum"), (0.9, 0.1), "share and error of 9 of 10", f"{ROOT} 0.9 x 0.1 / 9 is 0.01")


def one_question_has_no_error(student):
    """The error of a single answer is None"""
    expect(student([(0, SHORT)], "sum")[1] is None, True, "that the error of one answer is None",
           "one answer does not scatter; n - 1 is zero")  # fmt: skip


def of_equal_ones(student):
    """A tie between two options"""
    tie = [(-2, 1, "x", -1), (-2, 1, "y", -1), (-5, 1, "z", -1)]
    gold = 0 if TIE == "first" else 1
    expect(student([(gold, tie), (gold, tie)], "sum"), (1.0, 0.0), "share and error with a tie",
           f"of equal values the {TIE} one wins")  # fmt: skip


def spaces(student):
    """What counts as a character"""
    options = [(-6, 3, "a b c", -6), (-6, 1, "abcd", -6)]
    gold = 0 if SPACES == "included" else 1
    expect(student([(gold, options), (gold, options)], "character"), (1.0, 0.0),
           'share and error by character, options "a b c" and "abcd" of -6 nats',
           f"spaces are {SPACES}")  # fmt: skip


# %% tags=["hidden"]
def as_the_package_marks(student):
    """Random questions of two to five options, beside the package's own marks"""
    import random

    from minimtnlg.evaluate.measure import accuracy
    from minimtnlg.evaluate.scoring import Score
    from minimtnlg.evaluate.tasks import asked

    draw = random.Random(1)
    for norm in ("sum", "token", "character", "answer"):
        rows, items, found = [], [], []
        for _ in range(60):
            options = []
            for _ in range(draw.randint(2, 5)):
                tokens = draw.randint(1, 9)
                text = draw.choice(["a ", "word", "of it "]) * draw.randint(1, 9) + "x"
                options.append((-draw.uniform(1, 30), tokens, text, -draw.uniform(1, 30)))
            gold = draw.randrange(len(options))
            rows.append((gold, options))
            texts = [text for _, _, text, _ in options]
            if SPACES != "included":  # the package counts all of a text
                texts = [text.replace(" ", "") for text in texts]
            items.append(asked("?", texts, gold))
            found.append(([Score(x, k, False) for x, k, _, _ in options],
                          [Score(x, k, False) for _, k, _, x in options]))  # fmt: skip
        told = accuracy("piqa", items, found, norm)
        right = told["accuracy"], told["standard_error"]
        expect(student(rows, norm), right, f"share and error of 60 random questions by {norm}")


def the_scatter_of_real_samples(student):
    """The error tells how shares scatter that are drawn anew"""
    import random
    import statistics

    draw = random.Random(2)
    drawn = []
    for _ in range(800):
        drawn.append(student([(draw.random() < 0.3, SHORT) for _ in range(50)], "sum"))
    scatter = statistics.stdev(p for p, _ in drawn)
    told = statistics.mean(error for _, error in drawn)
    expect(abs(told / scatter - 1) < 0.08, True,
           f"that the mean error, {told:.4f}, is near the scatter of 800 shares, {scatter:.4f}")  # fmt: skip

# %% tags=["wrong"]
def _largest(values):
    return max({{NUMBERS}}, key=values.__getitem__)


def _marked(questions, value, tie=_largest, root=None):
    right = []
    for gold, options in questions:
        right.append(tie([value(*option) for option in options]) == gold)
    n, p = len(right), sum(right) / len(right)
    error = root or (lambda p, n: math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else None)
    return p, error(p, n)


VALUES = {
    "sum": lambda logprob, tokens, text, alone: logprob,
    "token": lambda logprob, tokens, text, alone: logprob / tokens,
    "character": lambda logprob, tokens, text, alone: logprob / ({{CHARACTERS}}),
    "answer": lambda logprob, tokens, text, alone: logprob - alone,
}


def always_sums(questions, norm):
    """Caught by: the_target. The norm is not looked at."""
    return _marked(questions, VALUES["sum"])


def divides_logarithms(questions, norm):
    """Caught by: each_norm_by_itself. A quotient of probabilities is taken for one of their logarithms."""
    values = VALUES | {"answer": lambda logprob, tokens, text, alone: logprob / alone}
    return _marked(questions, values[norm])


def counts_the_other_characters(questions, norm):
    """Caught by: spaces. Spaces are left out where they count, or the reverse."""

    def per_character(logprob, tokens, text, alone):
        return logprob / len(text.replace(" ", "") if SPACES == "included" else text)

    return _marked(questions, (VALUES | {"character": per_character})[norm])


def the_other_of_equals(questions, norm):
    """Caught by: of_equal_ones. "At least as large" is taken for "larger", or the reverse."""

    def winner(values):
        at = [i for i, value in enumerate(values) if value == max(values)]
        return at[-1 if TIE == "first" else 0]

    return _marked(questions, VALUES[norm], winner)


def divides_by_n(questions, norm):
    """Caught by: the_target. The error of a share that is known, not estimated."""

    def root(p, n):
        return math.sqrt(p * (1 - p) / n) if n > 1 else None

    return _marked(questions, VALUES[norm], root=root)


def tells_the_scatter_of_one_answer(questions, norm):
    """Caught by: the_target. The deviation of single answers, not of their mean."""

    def root(p, n):
        return math.sqrt(p * (1 - p) * n / (n - 1)) if n > 1 else None

    return _marked(questions, VALUES[norm], root=root)


def gives_one_question_an_error(questions, norm):
    """Caught by: one_question_has_no_error. Zero is taken for "not known"."""

    def root(p, n):
        return math.sqrt(p * (1 - p) / max(1, n - 1))

    return _marked(questions, VALUES[norm], root=root)


def takes_the_smallest(questions, norm):
    """Caught by: the_target. A log-probability is taken for a loss."""
    return _marked(questions, VALUES[norm], lambda values: values.index(min(values)))
