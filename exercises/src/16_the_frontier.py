# ---
# mark: 2
# minutes: 25
# needs: [frontier]
# ---

# %% [markdown]
# # The frontier
#
# A search found many layouts. Keep those that are worth a thought.
#
# A layout is a tuple `(seconds, gib, name)`. Layout A **beats** layout B if it takes no more seconds
# and no more memory, and less of at least one of them.
#
# Return the layouts that no other beats, fastest first. Of layouts with the same seconds and the same
# memory all stay, in the order in which they came.
#
# **Target:** `[(3, 9, "a"), (2, 9, "b"), (5, 1, "c"), (2, 9, "d")]` gives
# `[(2, 9, "b"), (2, 9, "d"), (5, 1, "c")]`. A search may find a hundred thousand layouts, so don't
# compare each with each: there is a way that looks at each once.

# %%


# %% tags=["stub"]
def frontier(layouts):
    """The layouts that no other one beats, fastest first.

    layouts  list of (seconds, gib, name)
    returns  a list of some of them
    """
    raise NotImplementedError("sort, walk along, and remember the least memory so far")

# %% [markdown] tags=["hint"]
# Sort by seconds. Whatever comes later is not faster; so it can stay only if it takes less memory than
# everything before it.

# %% [markdown] tags=["hint"]
# Among layouts of the same seconds only those of the least memory can stay: sort by seconds, then by
# memory. `sorted` keeps the order of what is equal.

# %% [markdown] tags=["hint"]
# Keep `last`, the pair of the last layout that stayed. A layout stays if its memory is below that of
# `last`, or if it has the same seconds and the same memory as `last`.

# %% tags=["solution"]
def frontier(layouts):
    kept = []
    for layout in sorted(layouts, key=lambda one: one[:2]):
        if not kept or layout[1] < kept[-1][1] or layout[:2] == kept[-1][:2]:
            kept.append(layout)
    return kept

# %% tags=["check"]
from minimtnlg.course.check import expect


def the_target(student):
    """The four layouts of the target"""
    given = [(3, 9, "a"), (2, 9, "b"), (5, 1, "c"), (2, 9, "d")]
    expect(student(given), [(2, 9, "b"), (2, 9, "d"), (5, 1, "c")], "the frontier")


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
    expect(student([(4, 5, "a"), (2, 5, "b")]), [(2, 5, "b")], "the frontier",
           "with the same memory, fewer seconds are enough to beat")  # fmt: skip


def twins_stay(student):
    """Layouts that are equal in both all stay, in their order"""
    given = [(2, 5, "z"), (1, 9, "y"), (2, 5, "a")]
    expect(student(given), [(1, 9, "y"), (2, 5, "z"), (2, 5, "a")], "the frontier",
           "neither of two equal layouts beats the other; their names don't matter")  # fmt: skip
    expect(student([(1, 1, "a"), (1, 1, "a")]), [(1, 1, "a"), (1, 1, "a")], "of the same one twice")

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

        right = sorted((one for one in given if not beaten(one)), key=lambda one: one[:2])
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


def many_are_quick(student):
    """Twenty thousand layouts on one line"""
    given = [(i, 20_000 - i, "x") for i in range(20_000)]
    expect(len(student(given)), 20_000, "layouts of which none beats another")

# %% tags=["wrong"]
def only_strictly_better(layouts):
    """Caught by: the_same_seconds_the_least_memory. Beating needs less of both."""
    return sorted(
        (one for one in layouts if not any(a < one[0] and b < one[1] for a, b, _ in layouts)),
        key=lambda one: one[:2],
    )


def drops_twins(layouts):
    """Caught by: twins_stay. Of equal layouts only the first stays."""
    kept = []
    for layout in sorted(layouts, key=lambda one: one[:2]):
        if not kept or layout[1] < kept[-1][1]:
            kept.append(layout)
    return kept


def sorts_by_name(layouts):
    """Caught by: twins_stay. Twins are put into the order of their names."""
    kept = []
    for layout in sorted(layouts):
        if not kept or layout[1] < kept[-1][1] or layout[:2] == kept[-1][:2]:
            kept.append(layout)
    return kept


def keeps_equal_memory(layouts):
    """Caught by: the_same_memory_the_least_seconds. A slower layout of the same memory stays."""
    kept = []
    for layout in sorted(layouts, key=lambda one: one[:2]):
        if not kept or layout[1] <= kept[-1][1]:
            kept.append(layout)
    return kept


def sorts_by_seconds_alone(layouts):
    """Caught by: the_same_seconds_the_least_memory. Of equal seconds the first to come stays, too."""
    kept = []
    for layout in sorted(layouts, key=lambda one: one[0]):
        if not kept or layout[1] < kept[-1][1] or layout[:2] == kept[-1][:2]:
            kept.append(layout)
    return kept


def fails_on_nothing(layouts):
    """Caught by: nothing_and_one. Takes the first layout before it looks whether there is one."""
    ordered = sorted(layouts, key=lambda one: one[:2])
    kept = [ordered[0]]
    for layout in ordered[1:]:
        if layout[1] < kept[-1][1] or layout[:2] == kept[-1][:2]:
            kept.append(layout)
    return kept


def only_the_fastest(layouts):
    """Caught by: the_target. The fastest layouts are all that counts."""
    least = min((one[:2] for one in layouts), default=None)
    return [one for one in layouts if one[:2] == least]
