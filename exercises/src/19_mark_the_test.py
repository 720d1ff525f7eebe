# ---
# mark: 2
# minutes: 20
# needs: [likelihood scoring, standard error]
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
# The option with the largest value wins; of equal ones the first. The value is
#
# - for the norm `"sum"`: the log-probability,
# - for `"token"` and `"character"`: the same for each token, or each character of the text, spaces
#   included,
# - for `"answer"`: the logarithm of P(option | question) / P(option | "Answer:").
#
# Return the share $p$ of right answers and its standard error, $\sqrt{p (1 - p) / (n - 1)}$ for $n$
# questions. One question alone says nothing about scatter: then the error is `None`.
#
# **Target:** for the two questions `(0, [(-4, 2, "a cat", -5), (-6, 4, "a cat or a dog", -9)])` and
# `(1, [(-3, 1, "no", -2), (-4, 1, "yes", -5)])` the norm `"sum"` gives `(0.5, 0.5)`, being right on the
# first one, `"token"` gives `(0.0, 0.0)`, and `"answer"` `(0.5, 0.5)`, being right on the second one.

# %%
import math


# %% tags=["stub"]
def marked(questions, norm):
    """(share of right answers, its standard error or None).

    questions  list of (gold, [(logprob, tokens, text, alone), ...])
    norm       "sum", "token", "character" or "answer"
    """
    raise NotImplementedError("a value for each option, the largest wins, count, and the formula")

# %% [markdown] tags=["hint"]
# Three steps: a number for each option, the winner of each question, and then only the winners matter.

# %% [markdown] tags=["hint"]
# The logarithm of a quotient is a difference. `max(range(len(values)), key=values.__getitem__)` is the
# number of the largest value, and of equal ones the first.

# %% [markdown] tags=["hint"]
# With `right` as a list of True and False: `p = sum(right) / n`, and for `n > 1` the error is
# `math.sqrt(p * (1 - p) / (n - 1))`. For the four norms a dict of functions will do.

# %% tags=["solution"]
def marked(questions, norm):
    value = {
        "sum": lambda logprob, tokens, text, alone: logprob,
        "token": lambda logprob, tokens, text, alone: logprob / tokens,
        "character": lambda logprob, tokens, text, alone: logprob / len(text),
        "answer": lambda logprob, tokens, text, alone: logprob - alone,
    }[norm]
    right = []
    for gold, options in questions:
        values = [value(*option) for option in options]
        right.append(values.index(max(values)) == gold)
    n, p = len(right), sum(right) / len(right)
    return p, math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else None

# %% tags=["check"]
from minimtnlg.course.check import expect

LONG = [(-4, 2, "a cat", -5), (-6, 4, "a cat or a dog", -9)]
SHORT = [(-3, 1, "no", -2), (-4, 1, "yes", -5)]


def the_target(student):
    """The two questions of the target"""
    for norm, right, look in (
        ("sum", (0.5, 0.5), "-4 is larger than -6"),
        ("token", (0.0, 0.0), "-6 / 4 is larger than -4 / 2"),
        ("answer", (0.5, 0.5), "-6 - -9 is larger than -4 - -5, and -4 - -5 than -3 - -2"),
    ):
        expect(student([(0, LONG), (1, SHORT)], norm), right, f"share and error by {norm}", look)


def each_norm_by_itself(student):
    """What each norm chooses of two options"""
    for norm, number, look in (
        ("sum", 0, "the likelier text wins, short or long"),
        ("token", 1, "per token the longer one is likelier: -1.5 against -2"),
        ("character", 1, "per character, spaces included: -6 / 14 against -4 / 5"),
        ("answer", 1, "a gain of 3 nats against a gain of 1"),
    ):
        expect(student([(number, LONG)], norm)[0], 1.0, f"share by {norm} of one question", look)
        expect(student([(1 - number, LONG)], norm)[0], 0.0, f"share by {norm} of one question", look)


def the_error_of_a_share(student):
    """9 of 10 answers right"""
    rows = [(0, SHORT)] * 9 + [(1, SHORT)]
    expect(student(rows, "sum"), (0.9, 0.1), "share and error of 9 of 10",
           "the root of 0.9 x 0.1 / 9 is 0.1; divide by n - 1")  # fmt: skip


def one_question_has_no_error(student):
    """The error of a single answer is None"""
    expect(student([(0, SHORT)], "sum")[1] is None, True, "that the error of one answer is None",
           "one answer does not scatter; n - 1 is zero")  # fmt: skip


def of_equal_ones_the_first(student):
    """A tie goes to the first option"""
    tie = [(-2, 1, "x", -1), (-2, 1, "y", -1), (-5, 1, "z", -1)]
    expect(student([(0, tie), (0, tie)], "sum"), (1.0, 0.0), "share and error with a tie",
           "of equal values the first one wins")  # fmt: skip

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
            items.append(asked("?", [text for _, _, text, _ in options], gold))
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
def _marked(questions, value, tie=lambda values: values.index(max(values)), root=None):
    right = []
    for gold, options in questions:
        right.append(tie([value(*option) for option in options]) == gold)
    n, p = len(right), sum(right) / len(right)
    error = root or (lambda p, n: math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else None)
    return p, error(p, n)


VALUES = {
    "sum": lambda logprob, tokens, text, alone: logprob,
    "token": lambda logprob, tokens, text, alone: logprob / tokens,
    "character": lambda logprob, tokens, text, alone: logprob / len(text),
    "answer": lambda logprob, tokens, text, alone: logprob - alone,
}


def always_sums(questions, norm):
    """Caught by: the_target. The norm is not looked at."""
    return _marked(questions, VALUES["sum"])


def divides_logarithms(questions, norm):
    """Caught by: each_norm_by_itself. A quotient of probabilities is taken for one of their logarithms."""
    values = VALUES | {"answer": lambda logprob, tokens, text, alone: logprob / alone}
    return _marked(questions, values[norm])


def counts_letters(questions, norm):
    """Caught by: as_the_package_marks. Spaces are left out of the characters."""

    def per_letter(logprob, tokens, text, alone):
        return logprob / len(text.replace(" ", ""))

    return _marked(questions, (VALUES | {"character": per_letter})[norm])


def takes_the_last_of_equals(questions, norm):
    """Caught by: of_equal_ones_the_first. A comparison by "at least as large"."""

    def last(values):
        return len(values) - 1 - values[::-1].index(max(values))

    return _marked(questions, VALUES[norm], last)


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
