# ---
# mark: 2
# minutes: 25
# help: half
# needs: [rank, process group, node, link, placement]
# draws:
#   FIRST: [slowest, fastest]
#   NVLINK_GB: [300, 450]
# ---

# %% [markdown]
# # Seat the ranks
#
# A job is a grid of slices, replicas and stages. Its GPUs are counted through nodes of
# `gpus_per_node` each. In which order do you put the three axes, so that a GPU sends for the
# shortest time?
#
# `sizes` says how long each axis is, `sent` how many bytes a GPU sends along it in a step:
# `{"tp": 8, "pp": 35, "dp": 8}` and `{"tp": 634e9, "pp": 5e9, "dp": 13e9}`. An axis has NVLink if
# *all* its groups lie in one node each. If even a single group leaves its node, the axis has
# InfiniBand. An axis of size 1 leaves nowhere.
#
# **Target:** `seat` returns the order, {{FIRST}} axis first (so the {{SINGLE}} one counts single GPUs),
# and a dict with the seconds of each axis. No other order has a smaller sum of seconds. For the job
# above on nodes of eight such an order is `{{BEST}}`, with {{SECONDS}} seconds in all. For any sizes,
# also those that nodes cut through.
#
# Write the arithmetic yourself, without `Layout`. To try it, call it with the two dicts above and
# `gpus_per_node=8`.

# %%
from itertools import permutations, product

NVLINK, INFINIBAND = NVLINK_GB * 1e9, 25e9  # bytes a second


# %% tags=["target"]
# Slices fill a node; the other two leave it in any order, and are as slow.
SINGLE = "last" if FIRST == "slowest" else "first"
BEST = '("pp", "dp", "tp")' if FIRST == "slowest" else '("tp", "dp", "pp")'
SECONDS = f"{634 / NVLINK_GB + (5 + 13) / 25:.2f}"
IN_TURN = "order" if FIRST == "slowest" else "reversed(order)"


# %% tags=["stub"]
def seat(sizes, sent, gpus_per_node):
    """(order of the axes, {{FIRST}} first; {axis: seconds}) with the smallest sum of seconds."""
    raise NotImplementedError("on which node is each rank in an order, and which axes leave nodes?")
    # Take the raise away and put your lines in its place; those below are a start.

    def node(place, order):
        """The node of the rank at `place`, such as {"tp": 1, "pp": 0, "dp": 2}."""
        return 0

    places = [dict(zip(sizes, at, strict=True)) for at in product(*map(range, sizes.values()))]
    answers = []
    for order in permutations(sizes):
        near = {axis: all(node(at, order) == 0 for at in places) for axis in sizes}  # is it so?
        answers.append((order, {a: sent[a] / (NVLINK if near[a] else INFINIBAND) for a in sizes}))
    return min(answers, key=lambda answer: sum(answer[1].values()))


# %% [markdown] tags=["hint"]
# Begin with one order and one rank. Its coordinates say on which GPU it sits: the fastest axis
# counts single GPUs, the next one counts in steps of the fastest axis's size, and so on. Divided by
# `gpus_per_node`, without the remainder, that is its node.

# %% [markdown] tags=["hint"]
# The ranks of a group along an axis agree in the other two coordinates. So a group lies in one node
# if each of its ranks is on the same node as the one with coordinate 0 on that axis. The axis has
# NVLink if this holds for every rank of the job.

# %% [markdown] tags=["hint"]
# ```python
# def node(place, order):  # place: {"tp": ..., "pp": ..., "dp": ...}
#     gpu = 0
#     for axis in {{IN_TURN}}:
#         gpu = gpu * sizes[axis] + place[axis]
#     ...  # the number of the GPU; which node is it in?
# ```
# For each order of `permutations(sizes)` ask for each axis whether
# `node(place, order) == node(place | {axis: 0}, order)` for all places. Take the order with the
# smallest sum.


# %% tags=["solution"]
def seat(sizes, sent, gpus_per_node):
    def node(place, order):
        gpu = 0
        for axis in {{IN_TURN}}:
            gpu = gpu * sizes[axis] + place[axis]
        return gpu // gpus_per_node

    places = [dict(zip(sizes, at, strict=True)) for at in product(*map(range, sizes.values()))]
    best = None
    for order in permutations(sizes):
        seconds = {}
        for axis in sizes:
            near = all(node(at, order) == node(at | {axis: 0}, order) for at in places)
            seconds[axis] = sent[axis] / (NVLINK if near else INFINIBAND)
        if best is None or sum(seconds.values()) < sum(best[1].values()):
            best = order, seconds
    return best


# %% [markdown] tags=["oral"]
# **Q.** Why can a group of three leave its node of four, though its ranks are neighbours?
#
# **A.** The first group has GPUs 0 to 2, the second 3 to 5: the border lies between 3 and 4. All
# groups stay inside only if their stretch divides the node, or the whole job is in one node.
#
# **Q.** Does another order of the axes change the losses of the run, or what is sent in all?
#
# **A.** Neither. Groups and their messages are the same, only the wires are others. Losses are the
# same bits, if the order in a group stays.


# %% tags=["check"]
import random

import numpy as np

from minimtnlg.course.check import Feedback, expect

_AXES = ("tp", "pp", "dp")
_DIRECTION = f"the {SINGLE} axis counts single GPUs"
_MTNLG = dict(tp=8, pp=35, dp=8), dict(tp=634e9, pp=5e9, dp=13e9), 8


def _right(sizes, sent, gpus_per_node, order):
    """{axis: seconds} of an order, from an array of the nodes of all ranks."""
    order = order if FIRST == "slowest" else order[::-1]
    nodes = (
        np.arange(np.prod(list(sizes.values()))).reshape([sizes[a] for a in order]) // gpus_per_node
    )
    near = {a: np.ptp(nodes, axis=i).max() == 0 for i, a in enumerate(order)}
    return {a: sent[a] / (NVLINK_GB * 1e9 if near[a] else 25e9) for a in _AXES}


def _say(sizes, sent, gpus_per_node):
    each = ", ".join(f"{axis} {sizes[axis]} ({sent[axis] / 1e9:.4g} GB)" for axis in sizes)
    return f"a job of {each} on nodes of {gpus_per_node}"


def _answer(student, sizes, sent, gpus_per_node):
    """The student's (order, seconds), if they have the right form."""
    answer = student(dict(sizes), dict(sent), gpus_per_node)
    job = _say(sizes, sent, gpus_per_node)
    try:
        order, seconds = answer
        order = tuple(order)
    except (TypeError, ValueError):
        raise Feedback(
            f"what seat returns for {job}",
            "a pair: order of the axes, dict of seconds",
            repr(answer),
        ) from None
    if sorted(map(str, order)) != sorted(_AXES):
        raise Feedback(f"the order for {job}", "each of tp, pp, dp once", repr(order))
    return order, seconds, job


def _check_seconds(student, sizes, sent, gpus_per_node):
    order, seconds, job = _answer(student, sizes, sent, gpus_per_node)
    what = f"seconds of the returned order {order}, {job}"
    look_at = f"{_DIRECTION}; an axis has NVLink only if every group of it lies in one node"
    expect(seconds, _right(sizes, sent, gpus_per_node, order), what, look_at)


def _check_best(student, sizes, sent, gpus_per_node):
    order, _, job = _answer(student, sizes, sent, gpus_per_node)
    totals = {o: sum(_right(sizes, sent, gpus_per_node, o).values()) for o in permutations(_AXES)}
    best = min(totals, key=totals.get)
    if totals[order] > totals[best] * (1 + 1e-9):
        look_at = "which axes can lie inside nodes together, and which choice saves most?"
        raise Feedback(
            f"the sum of the seconds, {job}",
            f"{totals[best]:.4g} s",
            f"{totals[order]:.4g} s with {order}, {FIRST} first",
            f"{_DIRECTION}; {look_at}",
        )  # fmt: skip


_REPLICAS = dict(tp=2, pp=4, dp=8), dict(tp=20e9, pp=1e9, dp=300e9), 8


def two_jobs(student):
    """MT-NLG, and a job whose replicas send most: the best order, and its seconds"""
    for job in (_MTNLG, _REPLICAS):
        _check_best(student, *job)
        _check_seconds(student, *job)


def mtnlg_seconds(student):
    """MT-NLG: the seconds of each axis"""
    _check_seconds(student, *_MTNLG)


def mtnlg(student):
    """MT-NLG: no order sends for a shorter time"""
    _check_best(student, *_MTNLG)


def too_large_for_a_node(student):
    """Replicas send most, but sixteen of them fit into no node of eight"""
    _check_best(student, dict(tp=4, pp=2, dp=16), dict(tp=50e9, pp=2e9, dp=100e9), 8)


# %% tags=["hidden"]
def groups_across_the_border(student):
    """Three slices on nodes of four: some groups lie in one node, some do not"""
    job = dict(tp=3, pp=2, dp=4), dict(tp=90e9, pp=1e9, dp=60e9), 4
    _check_best(student, *job)
    _check_seconds(student, *job)


def two_axes_in_one_node(student):
    """The axis that sends most fills a node; two others together would save more"""
    job = dict(tp=8, pp=4, dp=2), dict(tp=60e9, pp=40e9, dp=40e9), 8
    _check_best(student, *job)
    _check_seconds(student, *job)


def one_large_node(student):
    """All ranks in one node, and nodes of one GPU"""
    for gpus_per_node in (1, 64):
        _check_seconds(student, dict(tp=2, pp=3, dp=4), dict(tp=3e9, pp=2e9, dp=1e9), gpus_per_node)


def any_job(student):
    """Two hundred random jobs"""
    draw = random.Random(12)
    for _ in range(200):
        sizes = {axis: draw.choice((1, 2, 3, 4, 5, 6, 8)) for axis in _AXES}
        sent = {axis: 0.0 if sizes[axis] == 1 else draw.uniform(1e9, 99e9) for axis in _AXES}
        job = sizes, sent, draw.choice((2, 3, 4, 6, 8))
        _check_best(student, *job)
        _check_seconds(student, *job)


# %% tags=["wrong"]
import math


def _drawn(order):
    """An order with the slowest axis first as this variant wants it, or back."""
    return tuple(order) if FIRST == "slowest" else tuple(order)[::-1]


def _nodes(sizes, gpus_per_node, order):
    """{coordinates in the order of `sizes`: node}; the slowest axis of `order` comes first."""
    found = {}
    for gpu, at in enumerate(product(*(range(sizes[axis]) for axis in order))):
        place = dict(zip(order, at, strict=True))
        found[tuple(place[axis] for axis in sizes)] = gpu // gpus_per_node
    return found


def _with_order(sizes, sent, gpus_per_node, order):
    """What seat would return for this order, right."""
    nodes, seconds = _nodes(sizes, gpus_per_node, order), {}
    for i, axis in enumerate(sizes):
        near = all(node == nodes[(*at[:i], 0, *at[i + 1 :])] for at, node in nodes.items())
        seconds[axis] = sent[axis] / (NVLINK if near else INFINIBAND)
    return _drawn(order), seconds


def _least(sizes, sent, near):
    """The best order, with near(axis, order) in place of the right question."""
    answers = [
        (_drawn(order), {a: sent[a] / (NVLINK if near(a, order) else INFINIBAND) for a in sizes})
        for order in permutations(sizes)
    ]
    return min(answers, key=lambda answer: sum(answer[1].values()))


def _stretch(sizes, order, axis):
    """GPUs from the first to the last of a group, if it begins at GPU 0, roughly."""
    return math.prod(sizes[a] for a in order[order.index(axis) :])


def slices_are_always_fastest(sizes, sent, gpus_per_node):
    """Caught by: two_jobs. What is right for MT-NLG is taken for right everywhere."""
    return _with_order(sizes, sent, gpus_per_node, ("pp", "dp", "tp"))


def most_bytes_are_fastest(sizes, sent, gpus_per_node):
    """Caught by: too_large_for_a_node. The axis that sends most, even if no node can hold it."""
    return _with_order(sizes, sent, gpus_per_node, sorted(sizes, key=sent.get))


def most_bytes_that_fit(sizes, sent, gpus_per_node):
    """Caught by: two_axes_in_one_node. One axis after the other, as long as there is room."""
    order = sorted(sizes, key=lambda axis: (sizes[axis] <= gpus_per_node, sent[axis]))
    return _with_order(sizes, sent, gpus_per_node, order)


def fastest_axis_first(sizes, sent, gpus_per_node):
    """Caught by: mtnlg. The right order, read from the other end."""
    order, seconds = seat(sizes, sent, gpus_per_node)
    return order[::-1], seconds


def any_order_will_do(sizes, sent, gpus_per_node):
    """Caught by: mtnlg. The groups are the same in any order, so the first one is as good."""
    return _with_order(sizes, sent, gpus_per_node, ("tp", "pp", "dp"))


def small_groups_fit(sizes, sent, gpus_per_node):
    """Caught by: two_jobs. A group no larger than a node is thought to lie in one node."""
    return _least(sizes, sent, lambda axis, order: sizes[axis] <= gpus_per_node)


def stretch_no_longer_than_a_node(sizes, sent, gpus_per_node):
    """Caught by: groups_across_the_border. Three neighbours fit into four; not if one sits at 3."""
    return _least(sizes, sent, lambda axis, order: _stretch(sizes, order, axis) <= gpus_per_node)


def stretch_divides_the_node(sizes, sent, gpus_per_node):
    """Caught by: one_large_node. All is in one node of 64, though 24 does not divide 64."""
    return _least(
        sizes, sent, lambda axis, order: gpus_per_node % _stretch(sizes, order, axis) == 0
    )


def first_group_stands_for_all(sizes, sent, gpus_per_node):
    """Caught by: groups_across_the_border. Rank 0's groups are looked at, the others are alike."""

    def near(axis, order):
        step = _stretch(sizes, order, axis) // sizes[axis]
        return step * (sizes[axis] - 1) < gpus_per_node

    return _least(sizes, sent, near)


def mean_of_the_links(sizes, sent, gpus_per_node):
    """Caught by: groups_across_the_border. A ring with some slow links is a little slow."""

    def seconds(order):
        nodes, found = _nodes(sizes, gpus_per_node, order), {}
        for i, axis in enumerate(sizes):
            ends = [(*at[:i], (at[i] + 1) % sizes[axis], *at[i + 1 :]) for at in nodes]
            slow = sum(nodes[at] != nodes[end] for at, end in zip(nodes, ends, strict=True))
            share = slow / len(nodes)
            found[axis] = sent[axis] * (share / INFINIBAND + (1 - share) / NVLINK)
        return found

    order = min(permutations(sizes), key=lambda order: sum(seconds(order).values()))
    return _drawn(order), seconds(order)


def counts_in_gigabits(sizes, sent, gpus_per_node):
    """Caught by: mtnlg_seconds. 200 Gb/s, taken as bytes."""
    order, seconds = seat(sizes, sent, gpus_per_node)
    return order, {a: s / 8 if s == sent[a] / INFINIBAND else s for a, s in seconds.items()}
