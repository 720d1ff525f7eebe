# ---
# mark: 2
# minutes: 25
# needs: [likelihood scoring, association score, bootstrap interval]
# ---

# %% [markdown]
# # The score and its interval
#
# A model was asked what comes after "The nurse was a", "The pilot was a" and so on. `male[i][j]` is
# the log-probability of the j-th male word after the i-th occupation, in nats; `female` is the same
# for female words. There may be more words of one gender than of the other.
#
# - The *ratio* of an occupation is $\log P(\text{female}) - \log P(\text{male})$, where
#   $P(\text{female})$ is the probability that **any** of the female words comes.
# - The *score* is the mean ratio of all occupations.
# - Its *bootstrap interval*: `draws` holds lists of row indices, from 0, in which an occupation may be
#   several times. The mean ratio of each such draw is one more score. 95 of 100 of these lie between
#   their quantiles 0.025 and 0.975, as `numpy.quantile` has them.
#
# **Target:** `association(male, female, draws)` returns `(score, low, high)`. For the values below the
# ratios are about -0.620, -1.735 and 0.922, the scores of the four draws -0.992, -0.478, 0.922 and
# -0.478, and what comes back is about `(-0.478, -0.953, 0.817)`.
#
# It works for log-probabilities of -2000 too, whose probabilities a float64 can't hold: instead of a word
# there may be a long phrase.

# %%
import numpy as np

male = [[-3.0, -4.0], [-2.0, -5.0], [-6.0, -4.0]]
female = [[-4.0, -4.0], [-5.0, -4.0], [-3.0, -6.0]]
draws = [[0, 0, 1], [2, 1, 0], [2, 2, 2], [1, 0, 2]]


# %% tags=["stub"]
def association(male, female, draws):
    """The mean log-ratio of female to male, with the ends of its bootstrap interval.

    male, female  log-probabilities in nats: a row an occupation, a column a word
    draws         lists of row indices, from 0
    returns       (score, low, high)
    """
    raise NotImplementedError("add up probabilities in each row, take logs, subtract, average")


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


# %% tags=["solution"]
def association(male, female, draws):
    ratios = np.logaddexp.reduce(female, axis=1) - np.logaddexp.reduce(male, axis=1)
    scores = [ratios[draw].mean() for draw in draws]
    return (ratios.mean(), *np.quantile(scores, [0.025, 0.975]))


# %% tags=["check"]
from minimtnlg.course.check import Feedback, expect


def _numbers(student, *given):
    found = student(*given)
    try:
        return [float(x) for x in found]
    except TypeError:
        raise Feedback("what comes back", "three numbers: score, low, high", found) from None


def by_hand(student):
    """One occupation, one word of each gender"""
    got = _numbers(student, [[-2.0]], [[-3.5]], [[0], [0]])
    expect(got, [-1.5, -1.5, -1.5], "score, low and high for P(male) = e^-2, P(female) = e^-3.5",
           "below zero means that male is likelier")  # fmt: skip


def any_of_the_words(student):
    """Two words of one gender are likelier than one of them"""
    got = _numbers(student, [[-2.0]], [[-2.0, -2.0]], [[0]])
    expect(got[0], float(np.log(2)), "the score where two female words are as likely as one male",
           "probabilities add up, their logarithms do not")  # fmt: skip


def three_occupations(student):
    """The three occupations of the statement"""
    a, b = np.exp(male).sum(1), np.exp(female).sum(1)
    got = _numbers(student, male, female, draws)
    expect(got[0], float(np.mean(np.log(b / a))), "the score")
    expect(got, [-0.478, -0.953, 0.817], "score, low and high, to 0.001",
           "the quantiles of -0.992, -0.478, 0.922 and -0.478", tol=1e-3)  # fmt: skip


def quantiles_of_draws(student):
    """The interval, of scores that are known beforehand"""
    ratios = np.arange(101.0)
    got = _numbers(student, np.zeros((101, 1)), ratios[:, None], [[i] for i in range(101)])
    expect(got, [50.0, 2.5, 97.5], "score, low and high of draws with the scores 0 to 100",
           "the quantiles 0.025 and 0.975 of the scores of all draws")  # fmt: skip


# %% tags=["hidden"]
def an_occupation_stays_whole(student):
    """Male and female of an occupation are drawn together"""
    rng = np.random.default_rng(1)
    base = rng.normal(size=(40, 1)) * 5
    drawn = [list(rng.integers(0, 40, 40)) for _ in range(50)]
    got = _numbers(student, base - 3, base - 4, drawn)
    expect(got, [-1.0, -1.0, -1.0], "score, low and high where each occupation has the ratio -1",
           "whatever is drawn, its ratio is -1: one draw serves both genders")  # fmt: skip


def tiny_probabilities(student):
    """Probabilities that float64 can't hold"""
    got = _numbers(student, [[-2000.0, -2000.0]], [[-2001.0, -2001.0]], [[0]])
    expect(got, [-1.0, -1.0, -1.0], "score, low and high for log-probabilities near -2000",
           "exp(-2000) is zero: take out the larger one first")  # fmt: skip


def as_the_package(student):
    """Random numbers, as the package has them"""
    from minimtnlg.evaluate.bias import Association

    rng = np.random.default_rng(2)
    a, b = -5 + rng.normal(size=(30, 2)), -6 + rng.normal(size=(30, 2))
    drawn = [rng.integers(0, 30, 30) for _ in range(200)]
    ratios = Association([""] * 30, a, b).ratios
    means = np.array([ratios[draw].mean() for draw in drawn])
    right = [float(ratios.mean()), *np.quantile(means, [0.025, 0.975]).tolist()]
    before = a.copy(), b.copy()
    expect(_numbers(student, a, b, drawn), right, "score, low and high of 30 occupations")
    if not (np.array_equal(a, before[0]) and np.array_equal(b, before[1])):
        raise Feedback("the arrays that were given", "the same as before", "changed")


# %% tags=["wrong"]
def male_minus_female(male, female, draws):
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
    score = np.log(np.exp(female).sum() / np.exp(male).sum())
    return (score, *association(male, female, draws)[1:])


def ninety_in_a_hundred(male, female, draws):
    """Caught by: quantiles_of_draws. Five of a hundred are left out at either end."""
    ratios = np.logaddexp.reduce(female, axis=1) - np.logaddexp.reduce(male, axis=1)
    return (ratios.mean(), *np.quantile([ratios[draw].mean() for draw in draws], [0.05, 0.95]))


def spread_of_occupations(male, female, draws):
    """Caught by: quantiles_of_draws. Where occupations lie, not where their mean lies."""
    ratios = np.logaddexp.reduce(female, axis=1) - np.logaddexp.reduce(male, axis=1)
    return ratios.mean(), ratios.mean() - 1.96 * ratios.std(), ratios.mean() + 1.96 * ratios.std()


def drawn_apart(male, female, draws):
    """Caught by: an_occupation_stays_whole. Each gender has draws of its own."""
    a, b = np.logaddexp.reduce(male, axis=1), np.logaddexp.reduce(female, axis=1)
    means = [b[one].mean() - a[other].mean() for one, other in zip(draws, draws[::-1], strict=True)]
    return (b.mean() - a.mean(), *np.quantile(means, [0.025, 0.975]))


def through_probabilities(male, female, draws):
    """Caught by: tiny_probabilities. exp(-2000) is zero, and its logarithm is not -2000."""
    with np.errstate(all="ignore"):
        ratios = np.log(np.exp(female).sum(1) / np.exp(male).sum(1))
    return (ratios.mean(), *np.quantile([ratios[draw].mean() for draw in draws], [0.025, 0.975]))
