# ---
# mark: 2
# minutes: 20
# help: half
# needs: [likelihood scoring, standard error]
# draws:
#   CONFIDENCE: [95, 99, 90]
#   DIVISOR: [n - 1, n]
# ---

# %% [markdown]
# # Is it noise?
#
# Models A and B answered the same questions, and B got more of them right. Would other questions of the
# kind say the same?
#
# For each question let $d_i$ be $1$ if only B is right, $-1$ if only A is, else $0$. The *difference* is
# the mean of the $d_i$. It has a standard error as every mean has one:
#
# $$\sqrt{\frac{\text{variance}}{n}}, \qquad \text{variance} = \frac{\sum_i (d_i - \text{mean})^2}{{{DIVISOR}}}.$$
#
# That is the error *by pairs*. Had B answered other questions than A, one would know less: the error
# *apart* is $\sqrt{e_A^2 + e_B^2}$, where $e_A$ is the same formula for the answers of A alone, 1 for a
# right one and 0 for a wrong one, and $e_B$ for those of B. The difference is *noise* if it is not larger,
# in either direction, than {{Z}} errors by pairs. Where nothing but chance is at work, {{CONFIDENCE}} % of
# all differences are that small.
#
# **Target:** for the 16 answers below the difference is 0.3125, the error by pairs {{PAIRS}}, the error
# apart {{APART}}: no noise. `is_it_noise` returns `(difference, by pairs, apart, whether it is noise)`.

# %% tags=["target"]
Z = {90: 1.645, 95: 1.96, 99: 2.576}[CONFIDENCE]
FOUND = f"{20 * (1 - CONFIDENCE / 100):.1g}"
LESS = DIVISOR == "n - 1"
PAIRS = f"{((5 - 25 / 16) / (16 - LESS) / 16) ** 0.5:.4f}"  # five times 1, eleven times 0
APART = f"{((6 * 10 + 11 * 5) / 16 / (16 - LESS) / 16) ** 0.5:.4f}"  # 6 and 11 of 16 are right

# %%
import math

A = [answer == "1" for answer in "1111110000000000"]  # whether each answer is right
B = [answer == "1" for answer in "1111111111100000"]


# %% tags=["stub"]
def is_it_noise(a, b):
    """(difference, its error by pairs, its error apart, whether it is noise).

    a, b  whether A and B are right, for each of the same questions, at least two
    """
    n = len(a)
    d = [int(y) - int(x) for x, y in zip(a, b, strict=True)]
    difference = sum(d) / n
    raise NotImplementedError(f"difference {difference:.4f}: what are its two errors, is it noise?")


# %% [markdown] tags=["hint"]
# The same formula is needed three times: for `d`, for `a` and for `b`. So write it as a function of a
# list.

# %% [markdown] tags=["hint"]
# The variance is about single questions, the standard error about their mean: the variance is divided
# by {{DIVISOR}}, and then once more by n, before the root. True and False count 1 and 0 in a sum.

# %% [markdown] tags=["hint"]
# ```python
# def error(values):
#     mean = sum(values) / n
#     variance = ...
#     return math.sqrt(variance / n)
# ```
# `math.hypot(x, y)` is $\sqrt{x^2 + y^2}$. The verdict compares `abs(difference)` with the error by pairs.

# %% [markdown] tags=["oral"]
# **Q.** Two models are right on exactly the same questions, but for eleven that only B gets right. Why does
# it not matter for the error by pairs whether both are right on 100 or on 1000 of the others?
#
# **A.** Where both are right or both wrong, $d$ is 0. The error knows only $d$, so which of the two kinds of
# agreement it is leaves no trace. Apart, it would: shares near a half scatter more than shares near one.
#
# **Q.** You compare twenty settings with one model, each at {{CONFIDENCE}} %, and one is "no noise". What do
# you report?
#
# **A.** That it is one of twenty. Chance alone finds {{FOUND}} in twenty, on average, at this level. So ask the
# winner and the model again, on questions that were not used to choose it.


# %% tags=["solution"]
def is_it_noise(a, b):
    n = len(a)

    def error(values):
        mean = sum(values) / n
        squares = sum((x - mean) ** 2 for x in values)
        return math.sqrt(squares / ({{DIVISOR}}) / n)

    d = [int(y) - int(x) for x, y in zip(a, b, strict=True)]
    difference, pairs, apart = sum(d) / n, error(d), math.hypot(error(a), error(b))
    return difference, pairs, apart, abs(difference) <= {{Z}} * pairs


# %% tags=["check"]
from itertools import product

from minimtnlg.course.check import Feedback, expect


def _answers(both, only_a, only_b, neither):
    """Two lists of answers with so many questions of each kind."""
    kinds = [(True, True)] * both + [(True, False)] * only_a
    kinds += [(False, True)] * only_b + [(False, False)] * neither
    a, b = zip(*kinds, strict=True)
    return list(a), list(b)


def _four(student, a, b):
    found = student(list(a), list(b))
    try:
        difference, pairs, apart, noise = found
    except (TypeError, ValueError):
        raise Feedback("what comes back", "four things: difference, two errors, noise", found) from None
    return difference, pairs, apart, noise


def _verdict(student, a, b, noise, what, look_at):
    got = _four(student, a, b)[3]
    expect(bool(got), noise, f"whether {what} is noise, at {CONFIDENCE} %", look_at)


def the_target(student):
    """The sixteen answers of the statement"""
    *numbers, noise = _four(student, A, B)
    right = [5 / 16, (55 / 16 / (16 - LESS) / 16) ** 0.5, (115 / 16 / (16 - LESS) / 16) ** 0.5]
    for got, wanted, what, look_at in zip(numbers, right, ("difference", "error by pairs", "error apart"), (
        "the mean of d over all questions: 1 where only B is right",
        f"squares of d less its mean over {DIVISOR}, then over n, then the root",
        f"the root of the sum of two squares, of A's error and of B's, each divided by {DIVISOR} as the "
        "error by pairs is" + (". The lesson's p (1 - p) / n divides by n instead" if LESS else ""),
    ), strict=True):  # fmt: skip
        expect(got, wanted, f"the {what}", look_at)
    expect(bool(noise), False, "whether it is noise", f"0.3125 is more than {Z} errors by pairs")
    _verdict(student, B, B, True, "a difference of 0", "0 is not larger than 0")


def all_samples(student):
    """The error by pairs, against all 3125 samples of five questions"""
    a, b = [True, False, False, True, False], [True, True, True, False, False]
    d = [int(y) - int(x) for x, y in zip(a, b, strict=True)]
    means = [sum(sample) / 5 for sample in product(d, repeat=5)]
    mean = sum(means) / len(means)
    scatter = (sum((x - mean) ** 2 for x in means) / len(means)) ** 0.5
    scatter *= (5 / (5 - LESS)) ** 0.5
    also = " times the root of 5/4, for n - 1" if LESS else ""
    expect(_four(student, a, b)[1], scatter, "the error by pairs of five questions; expected: how the mean "
           f"of d scatters over all 5**5 samples{also}")  # fmt: skip


def pairs_decide(student):
    """What is no noise by pairs, and would be apart"""
    a, b = _answers(45, 0, 11, 44)
    _verdict(student, a, b, False, "11 more of 100 right and none lost",
             "the verdict goes by the error by pairs")  # fmt: skip
    _verdict(student, b, a, False, "11 of 100 lost and none won", "a loss is a difference, too")


def the_confidence(student):
    """Differences just below and just above the limit"""
    for only_b in range(20, 60):
        d = (only_b - 20) / 400
        pairs = ((only_b + 20 - 400 * d * d) / (400 - LESS) / 400) ** 0.5
        a, b = _answers(200, 20, only_b, 180 - only_b)
        _verdict(student, a, b, d <= Z * pairs, f"{only_b} won and 20 lost of 400",
                 f"compare the difference, {d:.4f}, with {Z} times {pairs:.4f}")  # fmt: skip


# %% tags=["hidden"]
def as_all_signs(student):
    """The verdict, against all signs that chance could have given the changes"""
    limit, seen = 1 - CONFIDENCE / 100, set()
    for won, lost in product(range(13), range(4)):
        if not 8 <= won + lost <= 12 or won < lost:
            continue
        # If A and B are alike, each change is as likely in either direction: count all ways.
        ways = [sum(signs) for signs in product((-1, 1), repeat=won + lost)]
        p = sum(abs(way) >= won - lost for way in ways) / len(ways)
        if limit / 3 < p < 3 * limit:
            continue  # here an exact count and the formula may disagree
        a, b = _answers(100, lost, won, 80 - won - lost)
        _verdict(student, a, b, p > limit, f"{won} won and {lost} lost of 180", "count by hand: of "
                 f"all signs of {won + lost} changes {p:.1%} are as far from even")  # fmt: skip
        seen.add(p > limit)
    expect(sorted(seen), [False, True], "both verdicts")


def random_answers(student):
    """Random answers, in plain formulas"""
    import random

    draw = random.Random(19)
    for n in (2, 7, 300):
        a = [draw.random() < 0.6 for _ in range(n)]
        b = [x if draw.random() < 0.7 else draw.random() < 0.7 for x in a]
        difference, pairs, apart, noise = _four(student, a, b)
        k, j, changes = sum(a), sum(b), sum(x != y for x, y in zip(a, b, strict=True))
        cube = n * n * (n - LESS)  # whole numbers up to here
        e_pairs = ((changes * n - (j - k) ** 2) / cube) ** 0.5
        words = f"{n} random answers, {k} and {j} right, {changes} of them not alike"
        expect(difference, (j - k) / n, f"the difference for {words}")
        expect(pairs, e_pairs, f"the error by pairs for {words}")
        expect(apart, ((k * (n - k) + j * (n - j)) / cube) ** 0.5, f"the error apart for {words}")
        expect(bool(noise), abs(j - k) / n <= Z * e_pairs, f"the verdict for {words}")


# %% tags=["wrong"]
def _found(a, b, of=None, z=None, less=None, verdict=None):
    n = len(a)
    less = LESS if less is None else less

    def error(values):
        mean = sum(values) / n
        return math.sqrt(sum((x - mean) ** 2 for x in values) / (n - less) / n)

    d = [int(y) - int(x) for x, y in zip(a, b, strict=True)]
    difference, pairs, apart = sum(d) / n, error(d), math.hypot(error(a), error(b))
    limit = (z or Z) * (apart if of == "apart" else pairs)
    return difference, pairs, apart, verdict(difference, limit) if verdict else abs(difference) <= limit


def decides_apart(a, b):
    """Caught by: pairs_decide. Two shares, two errors: that they share the questions is forgotten."""
    return _found(a, b, of="apart")


def the_other_divisor(a, b):
    """Caught by: the_target. n and n - 1 are mixed up."""
    return _found(a, b, less=1 - LESS)


def one_error_is_enough(a, b):
    """Caught by: the_confidence. Whatever exceeds one standard error is taken for real."""
    return _found(a, b, z=1.0)


def another_confidence(a, b):
    """Caught by: the_confidence. Two errors, since everybody takes two."""
    return _found(a, b, z=2.2)


def only_gains_count(a, b):
    """Caught by: pairs_decide. A loss is below every limit."""
    return _found(a, b, verdict=lambda difference, limit: difference <= limit)


def shares_by_the_other_divisor(a, b):
    """Caught by: the_target. e_A and e_B by the lesson's p (1 - p) / n, or with n - 1 where n is asked."""
    difference, pairs, _, noise = _found(a, b)
    return difference, pairs, _found(a, b, less=1 - LESS)[2], noise


def says_whether_it_is_real(a, b):
    """Caught by: the_target. The verdict is turned around."""
    return _found(a, b, verdict=lambda difference, limit: abs(difference) > limit)


def scatter_of_one_question(a, b):
    """Caught by: the_target. The deviation of single questions, not the error of their mean."""
    n = len(a)
    difference, pairs, apart, _ = _found(a, b)
    return difference, pairs * n**0.5, apart * n**0.5, abs(difference) <= Z * pairs * n**0.5


def errors_add_up(a, b):
    """Caught by: the_target. Two errors are added, not their squares."""
    difference, pairs, _, noise = _found(a, b)
    zeros = [False] * len(a)
    return difference, pairs, _found(zeros, a)[1] + _found(zeros, b)[1], noise


def only_changes_are_questions(a, b):
    """Caught by: the_target. Where both agree there is nothing to count: n is the number of changes."""
    changed = [(x, y) for x, y in zip(a, b, strict=True) if x != y] or [(False, False)] * 2
    if len(changed) < 2:
        changed *= 2
    return _found(*map(list, zip(*changed, strict=True)))


def a_minus_b(a, b):
    """Caught by: the_target. The difference in the other direction."""
    difference, *others = _found(a, b)
    return (-difference, *others)
