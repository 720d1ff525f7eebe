# ---
# mark: 2
# minutes: 20
# help: half
# needs: [frontier]
# draws:
#   FIRST: [fastest, smallest]
#   TWINS: [all, one]
# ---

# %% [markdown]
# # The frontier
#
# A search found many layouts. Keep those that are worth a thought.
#
# A layout is a tuple `(seconds, gib, name)`. Layout A **beats** layout B if it takes no more seconds
# and no more memory, and less of at least one of them.
#
# Return the layouts that no other beats, the {{FIRST}} first. Of layouts with the same seconds and the
# same memory {{STAY}}.
#
# **Target:** `[(3, 9, "a"), (2, 9, "b"), (5, 1, "c"), (2, 9, "d")]` gives
# `{{SAYS}}`. A search may find a hundred thousand layouts, so don't compare each with
# each: there is a way that sorts them and then looks at each once. A check counts comparisons.

# %% tags=["target"]
STAY = {
    "all": "all stay, in the order in which they came",
    "one": "the one that came first stays, and no other",
}[TWINS]
RESULT = [(2, 9, "b"), (2, 9, "d"), (5, 1, "c")] if TWINS == "all" else [(2, 9, "b"), (5, 1, "c")]
if FIRST == "smallest":
    RESULT = [(5, 1, "c"), *RESULT[:-1]]
SAYS = str(RESULT).replace("'", '"')
BY, THEN = (0, 1) if FIRST == "fastest" else (1, 0)
KEY = "one[:2]" if FIRST == "fastest" else "(one[1], one[0])"
STAYS = f"layout[{THEN}] < kept[-1][{THEN}]" + " or layout[:2] == kept[-1][:2]" * (TWINS == "all")


# %% tags=["stub"]
def frontier(layouts):
    """The layouts that no other one beats, the {{FIRST}} first.

    layouts  list of (seconds, gib, name)
    returns  a list of some of them
    """
    kept = []
    for layout in sorted(layouts, key=lambda one: one[{{BY}}]):  # is this order enough?
        if not kept:
            kept.append(layout)
            continue
        raise NotImplementedError("append it to `kept` as well, unless what is there beats it")


# %% [markdown] tags=["hint"]
# Whatever comes later in the order is not better in what you sort by. So it can stay only if it takes
# less of the other than everything before it.

# %% [markdown] tags=["hint"]
# Among layouts that are equal in what you sort by, only those with the least of the other can stay:
# sort by both, first the one and then the other. `sorted` keeps the order of what is equal.

# %% [markdown] tags=["hint"]
# The last of `kept` has the least so far of what you do not sort by first. A layout stays if it is
# below that. And if it is the same in both? Then it depends on what the exercise says about equals.

# %% [markdown] tags=["oral"]
# **Q.** Your function looks at each layout once. What did the sorting do, so that comparing with the
# last of `kept` is enough?
#
# **A.** Everything before is no worse in what was sorted by. So a new layout can stay only by being
# better in the other, and the best in the other so far is the last one that was kept.
#
# **Q.** MT-NLG's planner has a frontier of some ten layouts. Why may somebody run one that is not on it?
#
# **A.** Seconds and memory are estimates, and not everything counts in them: a layout may be illegal for
# the real software, harder to place on nodes, or leave no room for a longer sequence. The frontier holds
# only if both numbers are right and nothing else matters.


# %% tags=["solution"]
def frontier(layouts):
    kept = []
    for layout in sorted(layouts, key=lambda one: {{KEY}}):
        if not kept or {{STAYS}}:
            kept.append(layout)
    return kept


# %% tags=["check"]
import math

from minimtnlg.course.check import Feedback, expect


def the_target(student):
    """The four layouts of the target"""
    given = [(3, 9, "a"), (2, 9, "b"), (5, 1, "c"), (2, 9, "d")]
    got = student(given)
    beaten = isinstance(got, list) and given[0] in got
    look_at = '(2, 9, "b") beats (3, 9, "a")' if beaten else f"the {FIRST} first; of equals {STAY}"
    expect(got, RESULT, f"the frontier, the {FIRST} first", look_at)


def nothing_and_one(student):
    """No layout gives none, one stays"""
    expect(student([]), [], "the frontier of nothing")
    expect(student([(1, 1, "a")]), [(1, 1, "a")], "the frontier of one")


def the_same_seconds_the_least_memory(student):
    """Of equal seconds the one of less memory beats the others"""
    given = [(2, 7, "a"), (2, 5, "b"), (2, 6, "c")]
    expect(student(given), [(2, 5, "b")], "the frontier",
           "with the same seconds, less memory is enough to beat")  # fmt: skip


def the_same_memory_the_least_seconds(student):
    """Of equal memory the faster one beats the others"""
    given = [(7, 2, "a"), (5, 2, "b"), (6, 2, "c")]
    expect(student(given), [(5, 2, "b")], "the frontier",
           "with the same memory, fewer seconds are enough to beat")  # fmt: skip


def twins(student):
    """Layouts that are equal in both"""
    given = [(2, 5, "z"), (1, 9, "y"), (2, 5, "a")]
    both = [given[0], given[2]] if TWINS == "all" else [given[0]]
    right = [given[1], *both] if FIRST == "fastest" else [*both, given[1]]
    expect(student(given), right, f"the frontier, the {FIRST} first",
           f"neither of two equal layouts beats the other; of equals {STAY}")  # fmt: skip
    right = [(1, 1, "a")] * (2 if TWINS == "all" else 1)
    expect(student([(1, 1, "a"), (1, 1, "a")]), right, "the frontier of the same one twice")


# %% tags=["hidden"]
def as_each_with_each(student):
    """Random layouts, as comparing each with each would have it"""
    import random

    draw = random.Random(1)
    for count in (5, 50, 200):
        given = [(draw.randrange(20), draw.randrange(20), str(i)) for i in range(count)]

        def beaten(one, given=given):
            return any(
                a <= one[0] and b <= one[1] and (a, b) != one[:2] for a, b, _ in given
            )

        right = sorted((one for one in given if not beaten(one)), key=lambda one: (one[BY], one[THEN]))
        if TWINS == "one":
            right = [one for i, one in enumerate(right) if one[:2] not in [x[:2] for x in right[:i]]]
        expect(student(list(given)), right, f"the frontier of {count} random layouts")


def of_the_real_search(student):
    """The planner's own search of MT-NLG on 2240 GPUs"""
    from minimtnlg import config
    from minimtnlg.plan import planner
    from minimtnlg.plan.hardware import hardware, stack

    found, _ = planner.search(
        config.load("mtnlg-530b"), 2240, hardware("a100-80gb"), stack("megatron-2022")
    )
    given = [(seconds, most, str(i)) for i, (seconds, most, _) in enumerate(found)]
    theirs = [one[:2] for one in planner.frontier(found)]
    expect(sorted({one[:2] for one in student(given)}), theirs, "seconds and GiB of the frontier")


class _Counted(int):
    """A number that counts its comparisons, and ends a function that makes too many."""

    left = 0

    def _count(self):
        _Counted.left -= 1
        if _Counted.left < 0:
            raise Feedback(f"comparisons for {_MANY} layouts", f"{_MOST} a layout, or fewer", "more",
                           "sort, then go through them once")  # fmt: skip

    def __lt__(self, other):
        self._count()
        return int(self) < other

    def __le__(self, other):
        self._count()
        return int(self) <= other

    def __gt__(self, other):
        self._count()
        return int(self) > other

    def __ge__(self, other):
        self._count()
        return int(self) >= other

    def __eq__(self, other):
        self._count()
        return int(self) == other

    def __ne__(self, other):
        self._count()
        return int(self) != other

    __hash__ = int.__hash__


_MANY, _MOST = 5000, 200  # to sort them takes about 30 a layout, each with each 5000 or more


def many_are_quick(student):
    """Five thousand layouts, with far fewer comparisons than each with each"""
    import random

    for most in (_MANY, 2 * _MANY):  # none beats another; half of them are beaten
        numbers = list(range(_MANY))
        random.Random(16).shuffle(numbers)
        given = [
            (_Counted(i), _Counted(most - i if i % 2 else _MANY - i), str(i)) for i in numbers
        ]
        _Counted.left = _MANY * _MOST
        try:
            got = student(given)
        finally:
            _Counted.left = math.inf
        expect(len(got), _MANY if most == _MANY else _MANY // 2, f"layouts of {_MANY} that stay")


# %% tags=["wrong"]
def _walked(layouts, key, stays):
    kept = []
    for layout in sorted(layouts, key=key):
        if not kept or stays(layout, kept[-1]):
            kept.append(layout)
    return kept


def _both(one):
    return one[BY], one[THEN]


def _stays(layout, last):
    return layout[THEN] < last[THEN] or (TWINS == "all" and layout[:2] == last[:2])


def only_strictly_better(layouts):
    """Caught by: the_same_seconds_the_least_memory. Beating needs less of both."""
    return sorted(
        (one for one in layouts if not any(a < one[0] and b < one[1] for a, b, _ in layouts)),
        key=_both,
    )


def treats_twins_the_other_way(layouts):
    """Caught by: twins. Of equals one stays where all should, or all where one should."""
    other = TWINS != "all"
    return _walked(
        layouts, _both, lambda one, last: one[THEN] < last[THEN] or (other and one[:2] == last[:2])
    )


def sorts_by_name(layouts):
    """Caught by: twins. Twins are put into the order of their names."""
    return _walked(layouts, lambda one: (*_both(one), one[2]), _stays)


def begins_at_the_other_end(layouts):
    """Caught by: the_target. The right layouts, in the reverse order."""
    return frontier(layouts)[::-1]


def keeps_what_is_equal_in_the_other(layouts):
    """Caught by: as_each_with_each. Whoever takes no more than the last one stays."""
    return _walked(layouts, _both, lambda one, last: one[THEN] <= last[THEN])


def sorts_by_one_alone(layouts):
    """Caught by: as_each_with_each. Of those equal in what is sorted by, the first stays, too."""
    return _walked(layouts, lambda one: one[BY], _stays)


def fails_on_nothing(layouts):
    """Caught by: nothing_and_one. Takes the first layout before it looks whether there is one."""
    ordered = sorted(layouts, key=_both)
    return [ordered[0], *frontier(layouts)[1:]]


def compares_each_with_each(layouts):
    """Caught by: many_are_quick. Layouts are compared with all others, as the rule reads."""
    stay = []
    for one in sorted(layouts, key=_both):
        if any(a <= one[0] and b <= one[1] and (a < one[0] or b < one[1]) for a, b, _ in layouts):
            continue
        if TWINS == "all" or all(one[:2] != other[:2] for other in stay):
            stay.append(one)
    return stay


def compares_with_all_that_stay(layouts):
    """Caught by: many_are_quick. Sorted, and yet each is compared with all that were kept."""
    stay = []
    for one in sorted(layouts, key=_both):
        if not any(other[THEN] <= one[THEN] and (other[:2] != one[:2] or TWINS == "one")
                   for other in stay):  # fmt: skip
            stay.append(one)
    return stay


def only_the_best_in_one(layouts):
    """Caught by: the_target. The fastest layouts, or the smallest, are all that counts."""
    least = min((_both(one) for one in layouts), default=None)
    return [one for one in layouts if _both(one) == least]
