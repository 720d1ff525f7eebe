# ---
# mark: 2
# minutes: 20
# help: half
# needs: [checkpoint, mean time between failures, node]
# draws:
#   NODES: [420, 350, 280]
#   NODE_DAYS: [264, 168, 70]
#   FROM: [the newest save, the save before the newest]
# ---

# %% [markdown]
# # The best interval
#
# A run saves after every so many steps. How many are best, and what share of the time is lost then?
#
# - A step takes `step` seconds. A save stops the run for `cost` seconds.
# - Failures come at any moment, every `mtbf` seconds on average. After a failure the run goes on from
#   {{FROM}}. What was computed since then is lost, and `restart` seconds more.
# - All shares are small: to first order, as in the lesson, add them up.
#
# The interval is a whole number of steps, and at least one.
#
# **Target:** MT-NLG on {{NODES}} nodes, each failing once in {{NODE_DAYS}} days: `step` {{STEP}},
# `cost` 27, `restart` 600, `mtbf` {{MTBF}} seconds. A save after every {{BEST}} steps loses
# {{LOST}} % of the time, and no other number loses less.

# %%
import math

# %% tags=["target"]
STEP = {420: 44.4, 350: 50.2, 280: 60.1}[NODES]  # seconds [S3]
MTBF = round(NODE_DAYS * 86_400 / NODES)
BACK = {"the newest save": 0, "the save before the newest": 1}[FROM]
_share = {
    n: 27 / (n * STEP) + sum((BACK + part) * n * STEP for part in (0.25, 0.75)) / 2 / MTBF
    for n in range(1, 1000)
}
BEST = min(_share, key=_share.get)
LOST = f"{100 * (_share[BEST] + 600 / MTBF):.2f}"
SPENT = "interval / 2" if BACK == 0 else "3 * interval / 2"


# %% tags=["stub"]
def best_interval(step, cost, restart, mtbf):
    """(steps between two saves, share of the time that is lost): the best whole number, from 1."""

    def lost(steps):
        """The share of the time that is lost if a save comes after so many steps."""
        raise NotImplementedError("add what each failure throws away, and what a restart takes")
        interval = steps * step  # seconds of computing between two saves
        return cost / interval

    number = 1  # how many steps are best?
    return number, lost(number)


# %% [markdown] tags=["hint"]
# Make `lost` right first, and print it for 1, 10, 20, 40, 80 steps of the target. A failure comes
# once in `mtbf` seconds, so what it costs, divided by `mtbf`, is a share.

# %% [markdown] tags=["hint"]
# A failure strikes anywhere in an interval, in its middle on average. From {{FROM}} to there, how
# many intervals is that? {{LESSON}} The best interval is where the two shares that depend on it
# are equal.

# %% [markdown] tags=["hint"]
# On average `{{SPENT}}` seconds are thrown away. The two shares are equal where `interval ** 2` is
# `{{SQUARE}}`. In steps this is seldom a whole number. Try the one below and the one above, and let
# `lost` decide: `min(..., key=lost)`. Below may be 0.

# %% tags=["target"]
SQUARE = "2 * cost * mtbf" if BACK == 0 else "2 * cost * mtbf / 3"
LESSON = "It is the lesson's rule." if BACK == 0 else "The lesson has another rule."


# %% tags=["solution"]
def best_interval(step, cost, restart, mtbf):
    def lost(steps):
        interval = steps * step
        thrown_away = {{SPENT}}
        return cost / interval + (thrown_away + restart) / mtbf

    below = max(1, int(math.sqrt({{SQUARE}}) / step))
    best = min(below, below + 1, key=lost)
    return best, lost(best)


# %% [markdown] tags=["oral"]
# **Q.** `restart` is in the share but not in the number of steps. Why?
#
# **A.** A failure costs one restart, however often one saves. It moves the whole valley up and not
# its lowest point.
#
# **Q.** The nodes turn out to fail four times as often as assumed. You keep the interval. How bad
# is that?
#
# **A.** The best interval would have been half as long. At twice the best interval one of the two
# shares is doubled, the other halved: their sum is 5/4 of the best. The valley is flat.


# %% tags=["check"]
import random
from numbers import Integral

import numpy as np

from minimtnlg.course.check import Feedback, expect


def _expected(step, cost, restart, mtbf, steps):
    """{steps: share lost}, from the mean over a hundred places at which a failure may strike."""
    places = (np.arange(100) + 0.5) / 100  # of an interval
    steps = np.asarray(steps)
    interval = steps * step
    back = (places[None, :] * interval[:, None] + BACK * interval[:, None]).mean(1)
    return dict(zip(steps.tolist(), cost / interval + (back + restart) / mtbf, strict=True))


def _check(student, step, cost, restart, mtbf, what):
    got = student(step, cost, restart, mtbf)
    said = f"{what}: step {step:g}, cost {cost:g}, restart {restart:g}, mtbf {mtbf:g} s"
    try:
        steps, share = got
        share = float(share)
    except (TypeError, ValueError):
        raise Feedback(said, "a pair: steps and the share that is lost", repr(got)) from None
    if isinstance(steps, bool) or not isinstance(steps, Integral) or steps < 1:
        look_at = "round, and look at what becomes 0"
        raise Feedback(f"steps, {said}", "a whole number from 1", repr(steps), look_at)
    mine = float(_expected(step, cost, restart, mtbf, [float(steps)])[steps])
    look_at = "saves, work since the save that is loaded, restart: each as a share of the time"
    expect(share, mine, f"share lost if a save comes after {steps} steps, {said}", look_at)
    most = 2 + int(math.sqrt(2 * cost * mtbf) / step)
    by_steps = _expected(step, cost, restart, mtbf, range(1, most + 1))
    best = min(by_steps, key=by_steps.get)
    if mine > by_steps[best] * (1 + 1e-12):
        near = "your share is right: compare it for the whole numbers on both sides"
        look_at = near if abs(steps - best) == 1 else "at which interval are the two shares equal?"
        right, got = f"{best}, which loses {by_steps[best]:.6%}", f"{steps}, which loses {mine:.6%}"
        raise Feedback(f"steps, {said}", right, got, look_at)


def mtnlg(student):
    """MT-NLG: the number of steps and the share that is lost"""
    _check(student, STEP, 27.0, 600.0, float(MTBF), f"{NODES} nodes")
    _check(student, STEP, 27.0, 600.0, MTBF / 5, f"{NODES} nodes that fail five times as often")


def other_machines(student):
    """Short steps, slow saves, no restart"""
    for step, cost, restart, mtbf in ((1.0, 5.0, 0.0, 1e5), (30.0, 300.0, 60.0, 2e5)):
        _check(student, step, cost, restart, mtbf, "a made-up run")


# %% tags=["hidden"]
def on_both_sides(student):
    """Few steps: not the nearest number, but the better one"""
    for real in (1.39, 1.43, 1.47, 2.43, 2.46, 2.52, 3.455, 3.47):
        cost = (real * 100.0) ** 2 * (BACK + 0.5) / 1e6  # the best real number of steps is `real`
        _check(student, 100.0, cost, 10.0, 1e6, f"best at {real} steps, if they were real")


def never_zero(student):
    """A step that is longer than the best interval: save after each"""
    _check(student, 5000.0, 10.0, 60.0, 1e5, "long steps")


def any_run(student):
    """Sixty random runs"""
    draw = random.Random(14)
    for _ in range(60):
        run = draw.uniform(5, 90), draw.uniform(1, 90), draw.uniform(0, 900), draw.uniform(2e4, 5e5)
        _check(student, *run, "a random run")


def _played(interval, cost, mtbf, seed):
    """Share of the time that is no progress, of a run that is played until its 4000th failure."""
    draw = random.Random(seed)
    saved = loaded = wall = 0.0  # intervals, intervals, seconds
    for _ in range(4000):
        up = draw.expovariate(1 / mtbf)
        wall += up
        saved += up // (interval + cost)
        loaded = max(loaded, saved - BACK)  # a save that was loaded once is whole
        saved = loaded
    return 1 - loaded * interval / wall


def a_second_look(student):
    """Runs that are played, failure by failure, lose more with far fewer or far more steps"""
    for seed, (step, cost, mtbf) in enumerate(((10.0, 20.0, 1e5), (2.0, 10.0, 3e4))):
        steps, _ = student(step, cost, 0.0, mtbf)
        lost = {x: _played(x * steps * step, cost, mtbf, seed) for x in (0.4, 1, 2.5)}
        for x in (0.4, 2.5):
            if lost[x] <= lost[1]:
                what = f"share lost by 4000 failures, a save after {steps} steps of {step:g} s"
                right = f"less than after {x} times as many, {lost[x]:.3%}"
                look_at = "what does a failure throw away here?"
                raise Feedback(what, right, f"{lost[1]:.3%}", look_at)


# %% tags=["wrong"]
def _best(step, cost, restart, mtbf, back=None, among=(0, 1)):
    """The right answer with another part of an interval thrown away, or other candidates."""
    back = BACK + 0.5 if back is None else back

    def lost(steps):
        return cost / (steps * step) + (back * steps * step + restart) / mtbf

    below = int(math.sqrt(cost * mtbf / back) / step)
    best = min((max(1, below + more) for more in among), key=lost)
    return best, lost(best)


def whole_interval_is_lost(step, cost, restart, mtbf):
    """Caught by: mtnlg. A failure is thought to strike at the end of an interval."""
    return _best(step, cost, restart, mtbf, back=BACK + 1)


def the_other_save(step, cost, restart, mtbf):
    """Caught by: mtnlg. From the newest save, or from the one before, whichever it is not."""
    return _best(step, cost, restart, mtbf, back=1.5 - BACK)


def lost_interval_in_the_share_alone(step, cost, restart, mtbf):
    """Caught by: other_machines. The steps of another rule, and their right share."""
    steps = _best(step, cost, restart, mtbf, back=1.5 - BACK)[0]
    return steps, cost / steps / step + ((BACK + 0.5) * steps * step + restart) / mtbf


def rounds_down(step, cost, restart, mtbf):
    """Caught by: on_both_sides. The whole number below is good enough."""
    return _best(step, cost, restart, mtbf, among=(0,))


def rounds_up(step, cost, restart, mtbf):
    """Caught by: on_both_sides. The whole number above is the safe one."""
    return _best(step, cost, restart, mtbf, among=(1,))


def rounds_to_the_nearest(step, cost, restart, mtbf):
    """Caught by: on_both_sides. The valley is thought to be as steep on both sides."""
    steps = max(1, round(math.sqrt(cost * mtbf / (BACK + 0.5)) / step))
    return steps, cost / steps / step + ((BACK + 0.5) * steps * step + restart) / mtbf


def may_be_zero(step, cost, restart, mtbf):
    """Caught by: never_zero. Rounded down, and nothing saved in between."""
    steps = int(math.sqrt(cost * mtbf / (BACK + 0.5)) / step)
    return (steps, 0.0) if steps == 0 else best_interval(step, cost, restart, mtbf)


def seconds_for_steps(step, cost, restart, mtbf):
    """Caught by: mtnlg. The interval in seconds."""
    steps, share = best_interval(step, cost, restart, mtbf)
    return round(steps * step), share


def restart_is_no_loss(step, cost, restart, mtbf):
    """Caught by: mtnlg. Nothing is computed twice in a restart, so nothing is lost."""
    return best_interval(step, cost, 0, mtbf)


def saves_are_no_loss(step, cost, restart, mtbf):
    """Caught by: mtnlg. Only what failures cost is counted."""
    steps, share = best_interval(step, cost, restart, mtbf)
    return steps, share - cost / (steps * step)


def in_percent(step, cost, restart, mtbf):
    """Caught by: mtnlg. 4.3 for 4.3 %."""
    steps, share = best_interval(step, cost, restart, mtbf)
    return steps, 100 * share


def steps_may_be_parts(step, cost, restart, mtbf):
    """Caught by: mtnlg. The real number at which the loss is smallest."""
    steps = math.sqrt(cost * mtbf / (BACK + 0.5)) / step
    return steps, cost / steps / step + ((BACK + 0.5) * steps * step + restart) / mtbf


def as_young_had_it(step, cost, restart, mtbf):
    """Caught by: mtnlg. The lesson's interval, with the restart taken for a part of the save."""
    return _best(step, cost + restart, 0, mtbf)


# %% tags=["picture"]
def picture(student):
    """The valley, and where the student's answer lies in it."""
    import matplotlib.pyplot as plt

    from minimtnlg.course.plots import COLOURS

    steps, share = student(STEP, 27.0, 600.0, float(MTBF))
    valley = _expected(STEP, 27.0, 600.0, float(MTBF), range(1, 4 * BEST + 1))
    fig, ax = plt.subplots(figsize=(7, 3.4))
    ax.plot(list(valley), [100 * x for x in valley.values()], marker="", label="all whole numbers")
    ax.plot(steps, 100 * share, "*", ms=14, mfc="white", mec=COLOURS["red"], ls="", label="yours")
    ax.set(xlabel="steps between two saves", ylabel="% of the time lost", ylim=(0, 4 * float(LOST)))
    ax.set_title(f"{NODES} nodes, each failing once in {NODE_DAYS} days")
    ax.legend(fontsize=9)
    alt = f"Share lost by steps between saves: a valley, lowest at {BEST} steps with {LOST} %. "
    return fig, alt + f"Your answer: {steps} steps, {share:.2%}."
