# ---
# mark: 2
# minutes: 25
# help: half
# needs: [likelihood scoring]
# draws:
#   MIDDLE: [mean, median]
#   EQUAL: [True, False]
# ---

# %% [markdown]
# # Move the threshold
#
# A model that likes the word *True* answers *True* to each question of HANS. What does it know once that
# is taken off?
#
# Its *log-odds* are $\log P(\text{True}) - \log P(\text{False})$. Before, it says *True* where they exceed
# 0. After, where they exceed the {{MIDDLE}} of the log-odds of all rows{{PAPER}}. No label
# is used for that. Log-odds that are equal to the threshold count as *{{EQUAL}}*, both times.{{LESSON}}
#
# A row is `(true, false, label, heuristic)`: two log-probabilities, whether *True* is right, and the
# shortcut that the sentence follows.
#
# **Target:** `hans_shifted(ROWS)` returns the shares of right answers, before and after, of all rows and
# of each heuristic: `{"all": ({{ALL}}), "subsequence": ({{SUB}}), "constituent": ({{CON}})}`. These are
# printed to three digits; don't round yours.

# %% tags=["target"]
# By hand: right answers of all 7 rows, of 3 and of 4, before and after.
SHARES = {
    ("mean", True): ((4, 5), (1, 3), (3, 2)), ("mean", False): ((4, 6), (2, 3), (2, 3)),
    ("median", True): ((4, 4), (1, 2), (3, 2)), ("median", False): ((4, 5), (2, 3), (2, 2)),
}[MIDDLE, EQUAL]  # fmt: skip
ALL, SUB, CON = (
    f"{a / n:.3g}, {b / n:.3g}" for (a, b), n in zip(SHARES, (7, 3, 4), strict=True)
)
PAPER = " [S3, sec. 6]" if MIDDLE == "mean" else " (the paper takes the mean [S3, sec. 6])"
LESSON = " (Where the lesson counts how often *True* is said, it counts `odds > 0` alone.)" if EQUAL else ""
SAYS = "odds >= threshold" if EQUAL else "odds > threshold"
MOVED = f"np.{MIDDLE}"

# %%
import numpy as np

ROWS = [
    (-1.0, -9.0, True, "subsequence"),
    (-1.5, -5.5, True, "constituent"),
    (-2.0, -4.0, False, "constituent"),
    (-2.5, -3.5, False, "subsequence"),
    (-3.0, -3.0, False, "subsequence"),
    (-2.0, -2.0, True, "constituent"),
    (-4.0, -3.0, False, "constituent"),
]


# %% tags=["stub"]
def hans_shifted(rows):
    """{"all" or a heuristic: (share of right answers before, share after)}.

    rows  list of (true, false, label, heuristic), at least one
    """
    odds = np.array([true - false for true, false, _, _ in rows])
    labels = np.array([label for _, _, label, _ in rows])
    before = (odds > 0) == labels  # > says False where both are equal
    raise NotImplementedError(f"the same after, then shares of all {len(before)} rows and of some")


# %% [markdown] tags=["hint"]
# Only the threshold changes, and it is one number for all rows. Make the list of right answers once with
# each threshold; what remains is counting.

# %% [markdown] tags=["hint"]
# `right[mine].mean()` is the share of the rows where `mine` is true, an array as long as `right`. For a
# heuristic it is `np.array([row[3] == name for row in rows])`.

# %% [markdown] tags=["hint"]
# `>` says False where both are equal, `>=` says True. numpy has `np.mean(odds)` and `np.median(odds)`. The
# heuristics that there are: `dict.fromkeys(row[3] for row in rows)`.

# %% [markdown] tags=["oral"]
# **Q.** After the threshold is moved, a model that always said True is right in 60 % of the cases. Did it
# know more than it showed, or did you help it?
#
# **A.** No label was used, so nothing was told about single questions. What was used is that half of the
# answers of HANS are True; the middle of the log-odds supposes that. What the share is above one half lies
# in the order of the log-odds, and that is the model's own.
#
# **Q.** On another test one answer of ten is True. What would this rule do there?
#
# **A.** It would go on saying True to about half of the questions, so at least four of ten answers would be
# wrong. The threshold would have to lie where a tenth of the log-odds are above it.


# %% tags=["solution"]
def hans_shifted(rows):
    odds = np.array([true - false for true, false, _, _ in rows])
    labels = np.array([label for _, _, label, _ in rows])
    heuristics = np.array([heuristic for _, _, _, heuristic in rows])
    right = [({{SAYS}}) == labels for threshold in (0.0, {{MOVED}}(odds))]
    shares = {"all": tuple(float(r.mean()) for r in right)}
    for name in dict.fromkeys(heuristics.tolist()):
        shares[name] = tuple(float(r[heuristics == name].mean()) for r in right)
    return shares


# %% tags=["check"]
import random

from minimtnlg.course.check import Feedback, expect


def by_hand(student):
    """The seven rows of the statement"""
    names = ("all", "subsequence", "constituent")
    right = {
        name: (a / n, b / n) for name, (a, b), n in zip(names, SHARES, (7, 3, 4), strict=True)
    }
    expect(student(list(ROWS)), right, "shares of right answers, before and after",
           f"log-odds 8 4 2 1 0 0 -1: their {MIDDLE} is {2 if MIDDLE == 'mean' else 1}, and what equals "
           f"a threshold counts as {EQUAL}. Shares are not rounded")  # fmt: skip


def one_threshold_for_all(student):
    """The threshold is that of all rows, not of a heuristic"""
    rows = [(odds - 6.0, -6.0, label, heuristic) for odds, label, heuristic in (
        (5, True, "lexical"), (3, False, "lexical"), (-1, True, "other"), (-3, False, "other")
    )]  # fmt: skip
    right = {"all": (0.5, 0.5), "lexical": (0.5, 0.5), "other": (0.5, 0.5)}
    expect(student(rows), right, "shares where one heuristic has log-odds 5 and 3, another -1 and -3",
           "one threshold, 1, for all rows: log-odds 5 and 3 are both above it")  # fmt: skip


def a_favourite_word(student):
    """What every row prefers does not matter after"""
    for favour in (0.0, 16.0, -64.0):
        rows = [(true + favour, false, label, name) for true, false, label, name in ROWS]
        got = student(rows)
        after = {name: share[1] for name, share in got.items()} if isinstance(got, dict) else got
        right = dict(zip(("all", "subsequence", "constituent"),
                         (b / n for (_, b), n in zip(SHARES, (7, 3, 4), strict=True)), strict=True))  # fmt: skip
        expect(after, right, f"shares after, with all log-odds changed by {favour:g}",
               "the threshold moves with the log-odds")  # fmt: skip


def labels_do_not_move_it(student):
    """With all labels turned around, what was right is wrong"""
    turned = [(true, false, not label, name) for true, false, label, name in ROWS]
    expect(student(turned)["all"], tuple(1 - x / 7 for x in SHARES[0]),
           "shares of all rows, with every label turned around", "the threshold depends on log-odds alone")  # fmt: skip


# %% tags=["hidden"]
def as_the_package(student):
    """Random answers, as the package has them"""
    from minimtnlg.evaluate.hans import Answers, Example

    draw = random.Random(60)
    for count in (1, 10, 200):
        rows = [
            (draw.uniform(-3, 0), draw.uniform(-9, -3 * (i % 2)), draw.random() < 0.5, draw.choice("lsc"))
            for i in range(count)
        ]
        examples = [Example(str(i), "", label, name, "") for i, (_, _, label, name) in enumerate(rows)]
        answers = Answers(examples, *(np.array([row[k] for row in rows]) for k in (0, 1)))
        middle = float({"mean": np.mean, "median": np.median}[MIDDLE](answers.odds))
        parts = {"all": answers, **answers.by("heuristic")}
        right = {name: (a.accuracy()[0], a.accuracy(middle)[0]) for name, a in parts.items()}
        if count == 1 and not EQUAL:  # its odds are the threshold
            right = {name: (before, 1 - after) for name, (before, after) in right.items()}
        expect(student(list(rows)), right, f"shares of {count} random rows")


def leaves_the_rows(student):
    """The rows are as before"""
    rows = list(ROWS)
    student(rows)
    if rows != ROWS:
        raise Feedback("the list of rows", "the same as before", "changed")


# %% tags=["wrong"]
def _shifted(rows, middle=None, equal=EQUAL, odds=lambda true, false: true - false, per=None):
    middle = middle or {"mean": np.mean, "median": np.median}[MIDDLE]
    of = [odds(true, false) for true, false, _, _ in rows]
    found = {}
    for name in ["all", *dict.fromkeys(row[3] for row in rows)]:
        mine = [i for i, row in enumerate(rows) if name in ("all", row[3])]
        moved = middle([of[i] for i in mine] if per else of)
        found[name] = tuple(
            sum((of[i] > at or (of[i] == at and equal)) == rows[i][2] for i in mine) / len(mine)
            for at in (0.0, moved)
        )
    return found


def takes_the_other_middle(rows):
    """Caught by: by_hand. Mean and median are taken for the same."""
    return _shifted(rows, np.median if MIDDLE == "mean" else np.mean)


def says_the_other_where_equal(rows):
    """Caught by: by_hand. What equals the threshold is thought not to matter."""
    return _shifted(rows, equal=not EQUAL)


def shifts_the_other_way(rows):
    """Caught by: by_hand. The middle is added to the log-odds instead of taken off."""
    return _shifted(rows, lambda odds: -{"mean": np.mean, "median": np.median}[MIDDLE](odds))


def a_threshold_for_each(rows):
    """Caught by: one_threshold_for_all. Each heuristic gets a threshold of its own."""
    return _shifted(rows, per=True)


def compares_probabilities(rows):
    """Caught by: as_the_package. The middle of P(True) - P(False): likely rows weigh more."""
    return _shifted(rows, odds=lambda true, false: np.exp(true) - np.exp(false))


def keeps_the_best_threshold(rows):
    """Caught by: labels_do_not_move_it. The threshold with the best share: it has seen the labels."""
    found = [_shifted(rows, lambda odds, at=true - false: at) for true, false, _, _ in rows]
    return max(found, key=lambda shares: shares["all"][1])


def averages_the_heuristics(rows):
    """Caught by: by_hand. The share of all as the mean of the shares, whatever their sizes."""
    found = _shifted(rows)
    parts = [share for name, share in found.items() if name != "all"]
    return found | {"all": tuple(np.mean(parts, axis=0).tolist())}


def moves_nothing(rows):
    """Caught by: a_favourite_word. Zero is the natural threshold."""
    return _shifted(rows, lambda odds: 0.0)


def rounds_to_three_digits(rows):
    """Caught by: by_hand. The digits that the statement prints are taken for the result."""
    return {name: tuple(float(f"{x:.3g}") for x in share) for name, share in _shifted(rows).items()}


def gives_percents(rows):
    """Caught by: by_hand. Shares times a hundred."""
    return {name: tuple(100 * x for x in share) for name, share in _shifted(rows).items()}
