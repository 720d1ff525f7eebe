# ---
# mark: 2
# minutes: 25
# help: half
# needs: [likelihood scoring, association score, bootstrap interval]
# draws:
#   ABOVE: [female, male]
#   COVERED: [95, 90, 80]
# ---

# %% [markdown]
# # The score and its interval
#
# A model was asked what comes after "The nurse was a", "The pilot was a" and so on. `male[i][j]` is
# the log-probability of the j-th male word after the i-th occupation, in nats; `female` is the same
# for female words. There may be more words of one gender than of the other.
#
# - The *ratio* of an occupation is $\log P(\text{{{ABOVE}}}) - \log P(\text{{{BELOW}}})$, where
#   $P(\text{female})$ is the probability that **any** of the female words comes, and likewise for male.
# - The *score* is the mean ratio of all occupations.
# - Its *bootstrap interval*: `draws` holds lists of row indices, from 0, in which an occupation may be
#   several times. The mean ratio of each such draw is one more score. {{COVERED}} of 100 of these lie between
#   their quantiles {{LOW}} and {{HIGH}}, as `numpy.quantile` has them.
#
# **Target:** `association(male, female, draws)` returns `(score, low, high)`. For the values below the
# ratios are about {{RATIOS}}, the scores of the four draws
# {{SCORES}}, and what comes back is about `({{ENDS}})`.
#
# It works for log-probabilities of -2000 too, whose probabilities a float64 can't hold: instead of a word
# there may be a long phrase. Compute in float64; torch.tensor makes float32 of Python's numbers.

# %% tags=["target"]
from math import exp as _exp
from math import log as _log

import numpy as _np

BELOW, SIGN = ("male", 1.0) if ABOVE == "female" else ("female", -1.0)
LOW, HIGH = round(0.5 - COVERED / 200, 3), round(0.5 + COVERED / 200, 3)
_one = [
    SIGN * _log((_exp(-4) + _exp(-4)) / (_exp(-3) + _exp(-4))),
    SIGN * _log((_exp(-5) + _exp(-4)) / (_exp(-2) + _exp(-5))),
    SIGN * _log((_exp(-3) + _exp(-6)) / (_exp(-6) + _exp(-4))),
]
_four = [sum(_one[i] for i in draw) / 3 for draw in ([0, 0, 1], [2, 1, 0], [2, 2, 2], [1, 0, 2])]
FOUND = (sum(_one) / 3, *_np.quantile(_four, [LOW, HIGH]).tolist())
RATIOS, SCORES, ENDS = (", ".join(f"{x:.3f}" for x in some) for some in (_one, _four, FOUND))

# %%
import numpy as np

male = [[-3.0, -4.0], [-2.0, -5.0], [-6.0, -4.0]]
female = [[-4.0, -4.0], [-5.0, -4.0], [-3.0, -6.0]]
draws = [[0, 0, 1], [2, 1, 0], [2, 2, 2], [1, 0, 2]]


# %% tags=["stub"]
def association(male, female, draws):
    """The mean log-ratio of {{ABOVE}} to {{BELOW}}, with the ends of its bootstrap interval.

    male, female  log-probabilities in nats: a row an occupation, a column a word
    draws         lists of row indices, from 0
    returns       (score, low, high)
    """
    a, b = np.array(male), np.array(female)
    raise NotImplementedError(f"a ratio for each of the {len(a)} rows of a and {len(b)} of b, their "
                              "mean, and the mean of each draw")  # fmt: skip


# %% [markdown] tags=["hint"]
# First make one number of each row: the ratio of an occupation. Everything after that needs only
# these numbers.

# %% [markdown] tags=["hint"]
# $\log(e^{a} + e^{b})$ with $a$ and $b$ near $-2000$: take out the larger one,
# $a + \log(1 + e^{b - a})$. numpy has it as `np.logaddexp`, and for a whole axis as
# `np.logaddexp.reduce(x, axis=1)`.

# %% [markdown] tags=["hint"]
# With `ratios` as an array, `ratios[draw].mean()` is the score of one draw. An occupation that is
# drawn brings its male and its female words along.

# %% [markdown] tags=["oral"]
# **Q.** Your interval does not contain zero. Name something that it says nothing about.
#
# **A.** Why the score is what it is. It may be the spelling of the words, or how often they are in any text,
# with occupations or without. The interval speaks of other occupations, drawn as these were, and of the same
# words and the same model.
#
# **Q.** Why is an occupation drawn whole, with its male and female words, and not the words of each gender
# by themselves?
#
# **A.** The two belong together: an occupation that makes any word unlikely does so for both. Drawn apart,
# that scatter would not cancel in the ratio, and the interval would be far too wide.


# %% tags=["solution"]
def association(male, female, draws):
    ratios = np.logaddexp.reduce({{ABOVE}}, axis=1) - np.logaddexp.reduce({{BELOW}}, axis=1)
    scores = [ratios[draw].mean() for draw in draws]
    return (ratios.mean(), *np.quantile(scores, [{{LOW}}, {{HIGH}}]))


# %% tags=["check"]
from minimtnlg.course.check import Feedback, expect


def _numbers(student, *given):
    found = student(*given)
    try:
        return [float(x) for x in found]
    except TypeError:
        raise Feedback("what comes back", "three numbers: score, low, high", found) from None


def _near(got, right, what, look_at):
    """As `expect`; who is right but for the digits of float32 is told so."""
    if len(got) == len(right) and np.allclose(got, right, rtol=1e-5, atol=1e-6):
        look_at = "right but for rounding, as of float32: compute in float64, with torch by dtype=torch.float64"
    expect(got, right, what, look_at)


def by_hand(student):
    """One occupation, one word of each gender"""
    got = _numbers(student, [[-2.0]], [[-3.5]], [[0], [0]])
    expect(got, [-1.5 * SIGN] * 3, "score, low and high for P(male) = e^-2, P(female) = e^-3.5",
           f"below zero means that {BELOW} is likelier")  # fmt: skip


def any_of_the_words(student):
    """Two words of one gender are likelier than one of them"""
    got = _numbers(student, [[-2.0]], [[-2.0, -2.0]], [[0]])
    _near(got[:1], [float(np.log(2)) * SIGN], "the score where two female words are as likely as one male",
          "probabilities add up, their logarithms do not")  # fmt: skip


def three_occupations(student):
    """The three occupations of the statement"""
    a, b = np.exp(male).sum(1), np.exp(female).sum(1)
    got = _numbers(student, male, female, draws)
    _near(got[:1], [float(np.mean(np.log(b / a))) * SIGN], "the score",
          f"a ratio for each occupation, {RATIOS}, and their mean: each occupation weighs alike")  # fmt: skip
    expect(got, list(FOUND), "score, low and high, to 0.001",
           f"the quantiles of {SCORES}", tol=1e-3)  # fmt: skip


def quantiles_of_draws(student):
    """The interval, of scores that are known beforehand"""
    ratios = np.arange(101.0)
    pair = np.zeros((101, 1)), ratios[:, None]
    given = pair if ABOVE == "female" else pair[::-1]
    got = _numbers(student, *given, [[i] for i in range(101)])
    expect(got, [50.0, 100 * LOW, 100 * HIGH], "score, low and high of draws with the scores 0 to 100",
           f"the quantiles {LOW} and {HIGH} of the scores of all draws")  # fmt: skip


# %% tags=["hidden"]
def an_occupation_stays_whole(student):
    """Male and female of an occupation are drawn together"""
    rng = np.random.default_rng(1)
    base = rng.normal(size=(40, 1)) * 5
    drawn = [list(rng.integers(0, 40, 40)) for _ in range(50)]
    got = _numbers(student, base - 3, base - 4, drawn)
    _near(got, [-SIGN] * 3, f"score, low and high where each occupation has the ratio {-SIGN:g}",
          f"whatever is drawn, its ratio is {-SIGN:g}: one draw serves both genders")  # fmt: skip


def tiny_probabilities(student):
    """Probabilities that float64 can't hold"""
    got = _numbers(student, [[-2000.0, -2000.0]], [[-2001.0, -2001.0]], [[0]])
    _near(got, [-SIGN] * 3, "score, low and high for log-probabilities near -2000",
          "exp(-2000) is zero: take out the larger one first")  # fmt: skip


def as_the_package(student):
    """Random numbers, as the package has them"""
    from minimtnlg.evaluate.bias import Association

    rng = np.random.default_rng(2)
    a, b = -5 + rng.normal(size=(30, 2)), -6 + rng.normal(size=(30, 2))
    drawn = [rng.integers(0, 30, 30) for _ in range(200)]
    ratios = Association([""] * 30, a, b).ratios * SIGN
    means = np.array([ratios[draw].mean() for draw in drawn])
    right = [float(ratios.mean()), *np.quantile(means, [LOW, HIGH]).tolist()]
    before = a.copy(), b.copy()
    _near(_numbers(student, a, b, drawn), right, "score, low and high of 30 occupations",
          "each occupation's ratio from all of its words, then means of whole occupations")  # fmt: skip
    if not (np.array_equal(a, before[0]) and np.array_equal(b, before[1])):
        raise Feedback("the arrays that were given", "the same as before", "changed")


# %% tags=["wrong"]
def _ratios(male, female, join=lambda x: np.logaddexp.reduce(x, axis=1)):
    return SIGN * (join(female) - join(male))


def _ends(ratios, draws, low=LOW, high=HIGH):
    return np.quantile([ratios[draw].mean() for draw in draws], [low, high])


def the_other_sign(male, female, draws):
    """Caught by: by_hand. The sign is turned around."""
    return association(female, male, draws)


def mean_of_logarithms(male, female, draws):
    """Caught by: any_of_the_words. The logarithms are averaged, not the probabilities added."""
    return association(np.mean(male, 1, keepdims=True), np.mean(female, 1, keepdims=True), draws)


def log_of_the_mean(male, female, draws):
    """Caught by: any_of_the_words. The mean probability of a word, not that of any word."""
    male = np.array(male) - np.log(np.shape(male)[1])
    return association(male, np.array(female) - np.log(np.shape(female)[1]), draws)


def ratio_of_totals(male, female, draws):
    """Caught by: three_occupations. One occupation with large probabilities decides alone."""
    score = SIGN * np.log(np.exp(female).sum() / np.exp(male).sum())
    return (score, *association(male, female, draws)[1:])


def covers_too_little(male, female, draws):
    """Caught by: quantiles_of_draws. What lies outside is left out at either end, not shared."""
    ratios = _ratios(male, female)
    return (ratios.mean(), *_ends(ratios, draws, 2 * LOW, 1 - 2 * LOW))


def spread_of_occupations(male, female, draws):
    """Caught by: quantiles_of_draws. Where occupations lie, not where their mean lies."""
    ratios = _ratios(male, female)
    return ratios.mean(), ratios.mean() - 1.96 * ratios.std(), ratios.mean() + 1.96 * ratios.std()


def computes_in_float32(male, female, draws):
    """Caught by: any_of_the_words. torch.tensor rounds Python's numbers to float32."""
    return tuple(map(float, association(np.float32(male), np.float32(female), draws)))


def drawn_apart(male, female, draws):
    """Caught by: an_occupation_stays_whole. Each gender has draws of its own."""
    a, b = np.logaddexp.reduce(male, axis=1), np.logaddexp.reduce(female, axis=1)
    pairs = zip(draws, draws[::-1], strict=True)
    means = [SIGN * (b[one].mean() - a[other].mean()) for one, other in pairs]
    return (SIGN * (b.mean() - a.mean()), *np.quantile(means, [LOW, HIGH]))


def through_probabilities(male, female, draws):
    """Caught by: tiny_probabilities. exp(-2000) is zero, and its logarithm is not -2000."""
    with np.errstate(all="ignore"):
        ratios = _ratios(male, female, lambda x: np.log(np.exp(x).sum(1)))
    return (ratios.mean(), *_ends(ratios, draws))
