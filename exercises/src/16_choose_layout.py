# ---
# mark: 4
# minutes: 60
# help: empty
# needs: [layout, bubble, performance model, sequence parallelism, activation checkpointing, node]
# draws:
#   GPUS: [1024, 768, 1536]
#   GIB: [80, 40]
#   SEQUENCES: [1536, 768]
# ---

# %% [markdown]
# # Choose the layout
#
# A cluster is new, and a model as large as GPT-3 is to be trained on it, {{SEQUENCES}} sequences an
# iteration on {{GPUS}} GPUs of {{GIB}} GiB. Find the fastest layout.
#
# `layouts(gpus, sequences)` yields all that are legal, and what they need is arithmetic: `gib` tells
# it. How fast they are has to be tried. `trial(layout)` runs a layout on all GPUs and returns its
# seconds, `inf` if it does not fit. It is dear: you have `trials` of them, and one more ends the search.
#
# The formula of the seconds is below, but your function is not told the rates of the cluster. The first
# check has the `A100` below. The others have fast or slow GPUs, wires and networks, and products that lose
# little or much when they are small. They have other sizes, too: 256 to 1536 GPUs of 16 to 80 GiB, 256 to
# 1536 sequences.
#
# **Target:** with 24 trials, the seconds of your layout are at most 3 % above those of the fastest that
# fits, on each cluster of the checks. On the twelve clusters of the check "Clusters of all kinds", the best
# of 24 layouts at random, of those that fit, is on average {{AT_RANDOM}} % above.
#
# To try it: `tried = Tried(A100, {{GIB}}, {{SEQUENCES}})`, then
# `choose_layout({{GPUS}}, {{GIB}}, {{SEQUENCES}}, tried, 24)`, and look at `tried.seconds`. Then try a
# cluster that is not like it: `Cluster(300e12, 3000, 900e9, 200e9)`.

# %% tags=["target"]
AT_RANDOM = 18  # per cent; `any_cluster` works it out

# %%
from itertools import product
from math import inf
from typing import NamedTuple

L, S, H, A, V = 96, 2048, 12288, 96, 51200  # layers, sequence, hidden size, heads, vocabulary
PER_NODE = 8  # GPUs


class Layout(NamedTuple):
    t: int  # slices, with sequence parallelism
    p: int  # stages
    d: int  # replicas
    v: int  # chunks a stage; above 1 the schedule is interleaved
    b: int  # sequences in a micro-batch
    recompute: str  # "none", "selective" or "full"


class Cluster(NamedTuple):
    flops: float  # FLOP/s of a GPU in large products
    half: float  # a product of so many rows or columns has half of them
    nvlink: float  # bytes/s of a GPU to others of its node
    network: float  # bytes/s of a GPU to other nodes


A100 = Cluster(flops=200e12, half=150, nvlink=250e9, network=20e9)


def layouts(gpus, sequences):
    """Every Layout that the rules allow."""
    for p, t, b in product(range(1, L + 1), (1, 2, 4, 8, 16), (1, 2, 4, 8)):
        d = gpus // (t * p)
        if L % p or gpus % (t * p) or sequences % (d * b):
            continue
        m = sequences // (d * b)
        for v in range(1, L // p + 1):
            if L % (p * v) == 0 and (v == 1 or (p > 1 and m % p == 0)):
                yield from (Layout(t, p, d, v, b, r) for r in ("none", "selective", "full"))


def gib(layout, sequences):
    """GiB on a GPU of the first stage: 18 bytes a parameter, and the layers in flight."""
    t, p, d, v, b, recompute = layout
    m = sequences // (d * b)
    chunks = min(p if v == 1 else (v + 1) * p - 1, m * v)  # in flight, of L / (p v) layers each
    whole = S * b * H / t * (34 + 5 * A * S / H)  # of a layer
    kept = {"none": whole, "selective": S * b * H / t * 34, "full": 2 * S * b * H / t}[recompute]
    again = whole if recompute != "none" else 0  # one layer at a time
    parameters = 12 * L * H**2 / (t * p) + V * H / t
    return (18 * parameters + chunks * L / (p * v) * kept + again) / 2**30


def iteration(layout, sequences, cluster):
    """Seconds of an iteration on this Cluster."""
    t, p, d, v, b, recompute = layout
    m, rows = sequences // (d * b), S * b
    block, attention = 24 * rows * H**2 + 4 * rows * S * H, 4 * rows * S * H
    again = {"none": 0, "selective": attention, "full": block}[recompute]
    rate = cluster.flops * rows / (rows + cluster.half) * (H / t) / (H / t + cluster.half)
    inside = cluster.nvlink if t <= PER_NODE else cluster.network
    sums = (6 if recompute == "full" else 4) * 2 * (t - 1) / t * 2 * rows * H / inside
    sent = 4 * v * rows * H / t / cluster.network if p > 1 else 0
    stage = L / p * ((3 * block + again) / (t * rate) + sums) + sent  # of one micro-batch
    gradients = 4 * (12 * L * H**2 / (t * p) + V * H / t)
    across = cluster.nvlink if t * d <= PER_NODE else cluster.network
    return (m + (p - 1) / v) * stage + 2 * (d - 1) / d * gradients / across


class Tried:
    """A `trial` of layouts on a cluster. `seconds` holds what was tried, in its order."""

    def __init__(self, cluster, memory, sequences):
        self.cluster, self.memory, self.sequences, self.seconds = cluster, memory, sequences, {}

    def __call__(self, layout):
        fits = gib(layout, self.sequences) <= self.memory
        self.seconds[layout] = iteration(layout, self.sequences, self.cluster) if fits else inf
        return self.seconds[layout]


# %% tags=["stub"]
def choose_layout(gpus, memory, sequences, trial, trials):
    """A Layout that fits and is as fast as any, or nearly.

    memory     GiB of a GPU
    sequences  of an iteration
    trial      function of a Layout: its seconds on this cluster
    trials     how often `trial` may be called
    """
    raise NotImplementedError("drop what does not fit, decide what to try, learn from each trial")


# %% [markdown] tags=["hint"]
# Which parts of the seconds do you know without any trial? How many passes over the layers there are,
# and how long the bubble is beside them. Two layouts that differ in nothing else can be compared on
# paper.

# %% [markdown] tags=["hint"]
# What you do not know is how well products and sums run. That depends on `t`, which cuts them, and on
# `b`, which makes them longer, and hardly on anything else. There are at most 20 pairs of the two. Or fit
# the formula to the trials: for a given `half`, `iteration` is a sum of parts with one rate each, so the
# rates are a matter of least squares. Layouts that are fast on the A100 may all be slow elsewhere.

# %% [markdown] tags=["hint"]
# Let `rough(layout)` be `passes * (1 + (p - 1) / (v * m))`, with 3 passes, a little more for selective
# recomputation, 4 for full. After a trial of a layout keep `seconds / rough` for its pair `(t, b)`.
# Times `rough` it predicts all others of this pair, best those with as many chunks. Try one layout of
# each pair first, the one that is roughly the best; then always the one whose prediction is the
# smallest.

# %% [markdown] tags=["oral"]
# **Q.** Which layouts did your search never try, and how do you know that none of them is the fastest?
#
# **A.** One does not know, one has reasons: what was left out has a longer bubble or more recomputation
# than one that was tried with the same slices and micro-batches, so its products run no better and there
# is more of them to do. What the reasons leave out, as transfers between stages, is small here. A proof
# would need a lower bound of its seconds.
#
# **Q.** You get the same GPUs with a network ten times as slow. Which choices change first, and why?
#
# **A.** What crosses nodes gets dear: the sums over replicas and the transfers of many chunks. So slices
# fill a node and not more, which leaves fewer replicas; there are more stages, each with fewer gradients to
# sum; and the chunks go, down to one a stage, although the bubble grows.


# %% tags=["solution"]
def choose_layout(gpus, memory, sequences, trial, trials):
    fit = [x for x in layouts(gpus, sequences) if gib(x, sequences) <= memory]
    passes = {"none": 3, "selective": 3.1, "full": 4}

    def rough(x):
        """What paper tells: how much is computed, and how long the bubble is beside it."""
        m = sequences // (x.d * x.b)
        return passes[x.recompute] * (1 + (x.p - 1) / (x.v * m))

    seconds, told = {}, {}  # of layouts; of pairs (t, b) the last seconds / rough for each v

    def predicted(x):
        known = told.get((x.t, x.b))
        if not known:
            return 0, rough(x)  # a pair that nobody tried comes first
        return known[min(known, key=lambda v: abs(v - x.v))] * rough(x), rough(x)

    while len(seconds) < min(trials, len(fit)):
        x = min((x for x in fit if x not in seconds), key=predicted)
        seconds[x] = trial(x)
        told.setdefault((x.t, x.b), {})[x.v] = seconds[x] / rough(x)
    return min(seconds, key=seconds.get)


# %% tags=["check"]
import math
from functools import cache

from minimtnlg.course.check import Feedback, expect

_TRIALS, _NEAR = 24, 1.03


@cache
def _best(gpus, memory, sequences, cluster):
    """(seconds, Layout) of the fastest that fits, of all."""
    fit = (x for x in layouts(gpus, sequences) if gib(x, sequences) <= memory)
    return min((iteration(x, sequences, cluster), x) for x in fit)


def _chosen(student, gpus, memory, sequences, cluster, trials=_TRIALS):
    """The student's Layout with what it tried; a trial too many is put into words."""
    tried = Tried(cluster, memory, sequences)
    words = f"{gpus} GPUs of {memory} GiB, {sequences} sequences, {trials} trials"
    count = 0

    def trial(layout):
        nonlocal count
        count += 1
        if count > trials:
            raise Feedback(f"trials on {words}", f"at most {trials}", "one more",
                           "count the calls of trial, those of a layout tried before, too")  # fmt: skip
        _legal(layout, gpus, sequences, f"a layout that is tried, {words}")
        return tried(Layout(*layout))

    return student(gpus, memory, sequences, trial, trials), tried, words


@cache
def _all(gpus, sequences):
    return set(layouts(gpus, sequences))


def _legal(layout, gpus, sequences, what):
    try:
        known = layout in _all(gpus, sequences)
    except TypeError:  # a list, say
        known = False
    if not known:
        raise Feedback(what, "one of layouts(gpus, sequences)", layout, "read the rules in `layouts`")


def _check(student, gpus, memory, sequences, cluster, look_at, trials=_TRIALS):
    layout, _, words = _chosen(student, gpus, memory, sequences, cluster, trials)
    _legal(layout, gpus, sequences, f"what is chosen, {words}")
    layout = Layout(*layout)
    if gib(layout, sequences) > memory:
        raise Feedback(f"GiB of what is chosen, {layout}, {words}", f"at most {memory}",
                       f"{gib(layout, sequences):.1f}", "`gib` tells it without a trial")  # fmt: skip
    least, _ = _best(gpus, memory, sequences, cluster)
    seconds = iteration(layout, sequences, cluster)
    if seconds > _NEAR * least:
        raise Feedback(f"seconds of what is chosen, {layout}, {words}",
                       f"at most {_NEAR * least:.2f}: the fastest takes {least:.2f}",
                       f"{seconds:.2f}, which is {seconds / least - 1:.1%} above", look_at)  # fmt: skip


def as_fast_as_any(student):
    """The cluster of the statement: legal, it fits, and within 3 % of the fastest"""
    look_at = "the bubble and what is computed again you know; try what you don't"
    _check(student, GPUS, GIB, SEQUENCES, A100, look_at)
    _check(student, 512, 80, 1536, A100, look_at)


def slow_wires(student):
    """NVLink and network are slow: fewer slices"""
    for memory in (80, 40):
        _check(student, 1024, memory, 1536, Cluster(200e12, 100, 30e9, 5e9),
               "all kinds of slices have to be tried before one is left out")  # fmt: skip


def small_products(student):
    """Small products are slow and wires fast: larger micro-batches, fewer slices"""
    for sequences in (768, 1536):
        _check(student, 1536, 80, sequences, Cluster(300e12, 3000, 900e9, 200e9),
               "a micro-batch of more sequences has larger products, and there are fewer of them")  # fmt: skip


# %% tags=["hidden"]
def any_cluster(student):
    """Clusters of all kinds"""
    import random

    draw, above = random.Random(532), []
    for _ in range(12):
        cluster = Cluster(
            draw.uniform(80e12, 400e12), draw.choice((50, 600, 3000)),
            draw.choice((50e9, 250e9, 900e9)), draw.choice((10e9, 20e9, 100e9)),
        )  # fmt: skip
        gpus, memory = draw.choice((512, 768, 1024, 1536)), draw.choice((40, 80))
        sequences = draw.choice((768, 1536))
        _check(student, gpus, memory, sequences, cluster, f"the cluster is {cluster}")
        above.append(_at_random(gpus, memory, sequences, cluster))
    what = "per cent that the statement says of layouts at random"
    expect(round(100 * sum(above) / len(above)), AT_RANDOM, what)


@cache
def _at_random(gpus, memory, sequences, cluster):
    """How far the best of as many layouts that fit as there are trials is above the fastest: its mean."""
    fit = (x for x in layouts(gpus, sequences) if gib(x, sequences) <= memory)
    seconds = sorted(iteration(x, sequences, cluster) for x in fit)
    ways, count = math.comb(len(seconds), _TRIALS), len(seconds)
    # the i-th is the best if it is drawn, and the others are of those after it
    mean = sum(x * math.comb(count - 1 - i, _TRIALS - 1) for i, x in enumerate(seconds)) / ways
    return mean / seconds[0] - 1


def few_layouts(student):
    """Hardly any layout fits, fewer than there are trials"""
    few = [x for x in layouts(256, 256) if gib(x, 256) <= 16]
    expect(0 < len(few) < _TRIALS, True, "whether there are few layouts")
    _check(student, 256, 16, 256, A100, "there may be fewer layouts than trials")


def one_trial(student):
    """A single trial still chooses a layout that fits"""
    layout, _, words = _chosen(student, 1024, 80, 1536, A100, trials=1)
    _legal(layout, 1024, 1536, f"what is chosen, {words}")
    fits = gib(Layout(*layout), 1536) <= 80
    expect(fits, True, f"whether what is chosen fits, {words}")


# %% tags=["wrong"]
def _tried_first(ordered, trial, trials):
    return min(ordered[:trials], key=trial)


def _fit(gpus, memory, sequences):
    return [x for x in layouts(gpus, sequences) if gib(x, sequences) <= memory]


def tries_the_first(gpus, memory, sequences, trial, trials):
    """Caught by: as_fast_as_any. The first that come are as good as any."""
    return _tried_first(_fit(gpus, memory, sequences), trial, trials)


def tries_at_random(gpus, memory, sequences, trial, trials):
    """Caught by: any_cluster. Two dozen of some hundred will hold a good one."""
    import random

    fit = _fit(gpus, memory, sequences)
    random.Random(1).shuffle(fit)
    return _tried_first(fit, trial, trials)


def tries_all(gpus, memory, sequences, trial, trials):
    """Caught by: as_fast_as_any. A search looks at all of them."""
    return _tried_first(_fit(gpus, memory, sequences), trial, None)


def forgets_the_memory(gpus, memory, sequences, trial, trials):
    """Caught by: as_fast_as_any. The shortest bubble without recomputation, whether it fits or not."""
    return min(
        (x for x in layouts(gpus, sequences) if x.recompute == "none"),
        key=lambda x: x.d * x.b * (x.p - 1) / x.v,
    )


def believes_the_bubble(gpus, memory, sequences, trial, trials):
    """Caught by: as_fast_as_any. What paper tells is all: the shortest bubbles are tried."""
    passes = {"none": 3, "selective": 3.1, "full": 4}

    def rough(x):
        return passes[x.recompute] * (1 + x.d * x.b * (x.p - 1) / (x.v * sequences))

    return _tried_first(sorted(_fit(gpus, memory, sequences), key=rough), trial, trials)


def knows_that_eight_slices_are_best(gpus, memory, sequences, trial, trials):
    """Caught by: slow_wires. A node has eight GPUs, so there are eight slices, always."""
    eight = [x for x in _fit(gpus, memory, sequences) if x.t == 8 and x.b == 1]
    return _tried_first(sorted(eight, key=lambda x: (x.recompute == "full", x.p / x.v)), trial, trials)


def takes_single_sequences(gpus, memory, sequences, trial, trials):
    """Caught by: small_products. The smallest micro-batch has the shortest bubble, so it is best."""
    kept = [x for x in _fit(gpus, memory, sequences) if x.b == 1 and x.recompute != "full"]
    kept.sort(key=lambda x: (x.p - 1) * x.d / x.v)
    return _tried_first(kept, trial, trials)


def tries_what_the_a100_likes(gpus, memory, sequences, trial, trials):
    """Caught by: small_products. The best of the A100's best: one of these is good anywhere."""
    fit = _fit(gpus, memory, sequences)
    return _tried_first(sorted(fit, key=lambda x: iteration(x, sequences, A100)), trial, trials)


def trusts_a_known_cluster(gpus, memory, sequences, trial, trials):
    """Caught by: slow_wires. No trial at all: the rates of the last cluster will do."""
    return min(
        _fit(gpus, memory, sequences),
        key=lambda x: iteration(x, sequences, A100),
    )


# %% tags=["picture"]
def picture(student):
    """All layouts that fit, those that were tried, and the one that was chosen."""
    import matplotlib.pyplot as plt

    from minimtnlg.course.plots import COLOURS

    chosen, tried, _ = _chosen(student, GPUS, GIB, SEQUENCES, A100)
    fit = [x for x in layouts(GPUS, SEQUENCES) if gib(x, SEQUENCES) <= GIB]

    def points(some):
        return [gib(x, SEQUENCES) for x in some], [iteration(x, SEQUENCES, A100) for x in some]

    fig, ax = plt.subplots()
    ax.plot(*points(fit), ".", color="grey", label=f"{len(fit)} layouts that fit")
    ax.plot(*points(tried.seconds), "s", color=COLOURS["blue"], label=f"{len(tried.seconds)} tried")
    ax.plot(*points([Layout(*chosen)]), "*", color=COLOURS["red"], ms=14, label="chosen")
    ax.set(xlabel="GiB on a GPU", ylabel="seconds an iteration", yscale="log")
    ax.set_title("What your search has looked at")
    ax.legend()
    least = _best(GPUS, GIB, SEQUENCES, A100)[0]
    found = iteration(Layout(*chosen), SEQUENCES, A100)
    alt = f"{len(fit)} layouts by memory and seconds; {len(tried.seconds)} were tried. The chosen one "
    return fig, alt + f"takes {found:.2f} s, the fastest {least:.2f} s."
