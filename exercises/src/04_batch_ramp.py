# ---
# mark: 1
# minutes: 15
# help: worked
# needs: [micro-batch]
# draws:
#   ROUND: [down, up]
#   UNEVEN: [refused, allowed]
#   MULTIPLE: [3, 4]
# ---

# %% [markdown]
# # A ramp of legal batches
#
# MT-NLG's global batch climbs from 32 to 1920 sequences. The stub holds the lesson's rule, in whole
# numbers so that no rounding error moves a border. Change it for a job that cannot cut every batch:
# $d$ replicas take micro-batches of $b$ sequences, so each batch must be a multiple of $b\,d$.
#
# - The batch of the rule is rounded {{ROUND_SAID}}
# - If `full` is not a multiple of `multiple`, raise a `ValueError`.
# - {{UNEVEN_SAID}}
#
# By hand, from 2 in increments of 2 to 12 over a ramp of 100 sequences, and `multiple` {{MULTIPLE}}:
# there are 5 increments, so each lasts for 20 sequences.
#
# ```
# sequences before   0  19  20  40  60  80  99 100
# lesson's rule      2   2   4   6   8  10  10  12
# legal             {{LEGAL}}
# ```
#
# **Target:** the last row.

# %% tags=["target"]
ROUND_SAID = {
    "down": "**down** to a multiple of `multiple`, but never below `multiple` itself.",
    "up": "**up** to a multiple of `multiple`.",
}[ROUND]
UNEVEN_SAID = {
    "refused": "If `increment` does not divide `full - start`, raise a `ValueError`, too.",
    "allowed": "If `increment` does not divide `full - start`, there is one increment more, the last: "
    "it lasts as long as the others and is smaller, for it ends at `full`.",
}[UNEVEN]
_near = {  # the multiples of 3 and of 4 below and above 2, 4, 6, 8, 10, 12
    ("down", 3): (3, 3, 6, 6, 9, 12),
    ("down", 4): (4, 4, 4, 8, 8, 12),
    ("up", 3): (3, 6, 6, 9, 12, 12),
    ("up", 4): (4, 4, 8, 8, 12, 12),
}[ROUND, MULTIPLE]
WORKED = [_near[i] for i in (0, 0, 1, 2, 3, 4, 4, 5)]
LEGAL = "".join(f"{batch:>4}" for batch in WORKED)[2:]
# What the printed solution asks, counts and does.
ILLEGAL = "full % multiple" + {"refused": " or (full - start) % increment", "allowed": ""}[UNEVEN]
COUNT = {"refused": "(full - start) // increment", "allowed": "-(-(full - start) // increment)"}[UNEVEN]
ROUNDED = {
    "down": "max(multiple, batch // multiple * multiple)",
    "up": "-(-batch // multiple) * multiple",
}[ROUND]
STEP = {"down": "over", "up": "over - multiple"}[ROUND]
COUNT_SAID = {
    "refused": "The two lines of the stub stay.",
    "allowed": f"The number of increments is rounded up, `{COUNT}`; the last line of the stub stays.",
}[UNEVEN]


# %% tags=["stub"]
def batch_ramp(consumed, start, increment, full, ramp, multiple):
    """Global batch of the step that starts after `consumed` sequences.

    start, increment, full  the ramp: sequences in a step
    ramp                    sequences in all of the ramp, at least 1
    multiple                b * d: a batch is a multiple of it
    """
    increments = (full - start) // increment
    batch = min(full, start + increment * (consumed * increments // ramp))
    raise NotImplementedError(f"the rule says {batch}: refuse or round it, and return the batch")


# %% [markdown] tags=["hint"]
# Two lines of the stub stay, or nearly so. What must be asked before them, and what must happen to
# `batch` after them?

# %% [markdown] tags=["hint"]
# `x % y` is 0 where `y` divides `x`. `x // y` rounds the quotient down, and `-(-x // y)` rounds it up;
# so no fraction is needed. How many multiples are in a batch?

# %% [markdown] tags=["hint"]
# Refuse if `{{ILLEGAL}}`. {{COUNT_SAID}} Then return
# `{{ROUNDED}}`.


# %% tags=["solution"]
def batch_ramp(consumed, start, increment, full, ramp, multiple):
    if {{ILLEGAL}}:
        raise ValueError(f"no ramp from {start} by {increment} to {full} in multiples of {multiple}")
    increments = {{COUNT}}
    batch = min(full, start + increment * (consumed * increments // ramp))
    over = batch % multiple
    if over:
        batch -= {{STEP}}
    return max(multiple, batch)


# %% tags=["check"]
from bisect import bisect_right
from fractions import Fraction

from minimtnlg.course.check import Feedback, expect


def _legal(consumed, start, increment, full, ramp, multiple):
    """The batch, by lists: the borders of the ramp, its batches, the legal batches."""
    batches = [*range(start, full, increment), full]
    last = len(batches) - 1
    borders = [Fraction(k * ramp, last) for k in range(1, last + 1)] if last else []
    batch = batches[bisect_right(borders, consumed)]
    legal = range(multiple, full + 1, multiple)
    if ROUND == "up":
        return next(m for m in legal if m >= batch)
    return max((m for m in legal if m <= batch), default=multiple)


def _compare(student, consumed, look_at, **ramp):
    what = f"the batch after {consumed} sequences; " + ", ".join(f"{k} {v}" for k, v in ramp.items())
    _expect(student(consumed, **ramp), _legal(consumed, **ramp), what, look_at)


def _expect(got, batch, what, look_at):
    """Compare, and recognise a batch of nothing."""
    nothing = isinstance(got, int) and got == 0
    expect(got, batch, what, "a batch is at least `multiple`" if nothing else look_at)


TABLE = dict(start=2, increment=2, full=12, ramp=100, multiple=MULTIPLE)


def the_example(student):
    """The example of the statement"""
    look_at = f"the lesson's rule, rounded {ROUND} to a multiple of {MULTIPLE}"
    for consumed, batch in zip((0, 19, 20, 40, 60, 80, 99, 100), WORKED, strict=True):
        _expect(student(consumed, **TABLE), batch, f"the batch after {consumed} sequences", look_at)


def legal_batches_stay(student):
    """Where every batch is legal, it is the lesson's"""
    for consumed in (0, 99_311, 99_312, 3_000_000, 5_859_374, 5_859_375, 10**8):
        look_at = "MT-NLG with d = 8 and b = 1: each batch of the rule is a multiple of 8 already"
        mtnlg = dict(start=32, increment=32, full=1920, ramp=5_859_375, multiple=8)
        _compare(student, consumed, look_at, **mtnlg)


def illegal_is_refused(student):
    """What cannot be cut is refused"""
    cases = [(dict(start=2, increment=2, full=10, ramp=100, multiple=4), "multiple 4 and full 10")]
    if UNEVEN == "refused":
        uneven = dict(start=2, increment=4, full=12, ramp=100, multiple=4)
        cases.append((uneven, "increment 4 and full - start = 10"))
    for ramp, look_at in cases:
        try:
            got = student(30, **ramp)
        except ValueError:
            continue
        said = ", ".join(f"{k} {v}" for k, v in ramp.items())
        raise Feedback(said, "ValueError", got, f"{look_at}: does the one divide the other?")


# %% tags=["hidden"]
def borders_are_exact(student):
    """No rounding error moves a border of the ramp"""
    for ramp in (29, 58, 100, 116, 333):
        for consumed in range(ramp + 2):
            look_at = "a border between two increments: compute in whole numbers"
            one = dict(start=1, increment=1, full=8, ramp=ramp, multiple=1)
            _compare(student, consumed, look_at, **one)


def a_last_increment_of_another_size(student):
    """An increment that does not divide `full - start`"""
    uneven = dict(start=4, increment=6, full=24, ramp=80, multiple=MULTIPLE)
    if UNEVEN == "allowed":
        for consumed in range(0, 100, 5):
            _compare(student, consumed, "4, 10, 16, 22, 24: four increments of 20", **uneven)
        return
    try:
        got = student(0, **uneven)
    except ValueError:
        return
    what = "from 4 by 6 to 24, at the first step"
    raise Feedback(what, "ValueError", got, "6 does not divide 24 - 4, whatever the step")


def a_whole_run(student):
    """Each step of runs with several multiples"""
    for multiple in (1, 5, 12, 48, 96):
        ramp = dict(start=16, increment=16, full=480, ramp=20_000, multiple=multiple)
        consumed = 0
        while consumed < 21_000:
            _compare(student, consumed, "the lesson's rule, then the rounding", **ramp)
            consumed += _legal(consumed, **ramp)


def no_ramp_at_all(student):
    """A run that starts with its full batch"""
    for consumed in (0, 5, 1000):
        flat = dict(start=24, increment=8, full=24, ramp=100, multiple=8)
        _compare(student, consumed, "no increment: the batch is full from the start", **flat)


# %% tags=["wrong"]
def _rounded(batch, multiple):
    return -(-batch // multiple) * multiple if ROUND == "up" else max(multiple, batch // multiple * multiple)


def never_rounds(consumed, start, increment, full, ramp, multiple):
    """Caught by: the_example. The engine is trusted to cut any batch."""
    return min(full, start + increment * (consumed * ((full - start) // increment) // ramp))


def rounds_the_other_way(consumed, start, increment, full, ramp, multiple):
    """Caught by: the_example. To round is to round down; or up, to be safe."""
    batch = never_rounds(consumed, start, increment, full, ramp, multiple)
    down = max(multiple, batch // multiple * multiple)
    return -(-batch // multiple) * multiple if ROUND == "down" else down


def rounds_to_nothing(consumed, start, increment, full, ramp, multiple):
    """Caught by: the_example. A small batch is rounded to 0, or to be safe always by one too many."""
    batch = never_rounds(consumed, start, increment, full, ramp, multiple)
    return batch // multiple * multiple + (multiple if ROUND == "up" else 0)


def rounds_to_the_nearest(consumed, start, increment, full, ramp, multiple):
    """Caught by: the_example. round() is taken for rounding."""
    batch = never_rounds(consumed, start, increment, full, ramp, multiple)
    return max(1, round(batch / multiple)) * multiple


def climbs_by_multiples(consumed, start, increment, full, ramp, multiple):
    """Caught by: the_example. The increment is rounded, and not the batch."""
    climb = max(multiple, increment // multiple * multiple)
    return min(full, start + climb * (consumed * ((full - start) // increment) // ramp))


def one_increment_too_many(consumed, start, increment, full, ramp, multiple):
    """Caught by: legal_batches_stay. The ramp is divided by the number of batches, not of climbs."""
    batch = min(full, start + increment * (consumed * (full // increment) // ramp))
    return _rounded(batch, multiple)


def climbs_on_a_line(consumed, start, increment, full, ramp, multiple):
    """Caught by: legal_batches_stay. The batch is thought to climb with every sequence."""
    return _rounded(min(full, start + (full - start) * consumed // ramp), multiple)


def goes_one_further(consumed, start, increment, full, ramp, multiple):
    """Caught by: legal_batches_stay. A batch is moved to the next multiple although it is one."""
    batch = never_rounds(consumed, start, increment, full, ramp, multiple)
    if ROUND == "up":
        return (batch // multiple + 1) * multiple
    return max(multiple, (batch - 1) // multiple * multiple)


def takes_anything(consumed, start, increment, full, ramp, multiple):
    """Caught by: illegal_is_refused. What does not divide is rounded like all the rest."""
    return _rounded(never_rounds(consumed, start, increment, full, ramp, multiple), multiple)


def in_floats(consumed, start, increment, full, ramp, multiple):
    """Caught by: borders_are_exact. The sequences of one increment are a fraction, rounded."""
    batch_ramp(consumed, start, increment, full, ramp, multiple)
    each = ramp / max(1, -(-(full - start) // increment))
    return _rounded(min(full, start + increment * int(consumed / each)), multiple)


# %% [markdown] tags=["oral"]
# **Q.** Your run stops at full batch and goes on with twice as many replicas. Which numbers of your
# function change, and can the run go on in any case?
#
# **A.** Only `multiple` doubles; the sequences consumed are the same. It can if the full batch is a
# multiple of the doubled number as well; otherwise the batch that was meant cannot be cut, and the
# function must refuse.
#
# **Q.** The rule counts sequences and not steps. During the ramp, which of two equal increments takes
# more steps, an early or a late one, and how many more?
#
# **A.** The early one: both last for the same number of sequences, and a step takes fewer of them. At a
# batch of 32 it takes ten times the steps that it takes at 320.
