# ---
# mark: 1
# minutes: 10
# help: half
# needs: [bit]
# draws:
#   FIRST: ["011", "110", "01101"]
# ---

# %% [markdown]
# # Count the bits that agree
#
# Two messages are lists of 0 and 1. Count the places where they agree.
#
# **Target:** {{FIRST}} and {{SECOND}} agree in {{PLACES}} places; messages of different length are
# refused.

# %% tags=["target"]
SECOND = FIRST[:-1].replace("1", "0") + FIRST[-1]
PLACES = FIRST[:-1].count("0") + 1


# %% tags=["stub"]
def agreeing(a, b):
    """Places where the lists of bits `a` and `b` agree; ValueError if one is longer."""
    raise NotImplementedError("compare a[i] with b[i] for each i and count the equal pairs")


# %% [markdown] tags=["hint"]
# Walk along both lists together.

# %% [markdown] tags=["hint"]
# `zip(a, b)` gives the pairs. What does it do when one list is longer?

# %% [markdown] tags=["hint"]
# `x == y` is True or False, and in a sum True counts 1. `zip` has an argument `strict`.

# %% [markdown] tags=["oral"]
# **Q.** For which two messages of length n is your result n, and for which is it 0?
#
# **A.** For a message and itself; for a message and the one with every bit turned over.


# %% tags=["solution"]
def agreeing(a, b):
    return sum(x == y for x, y in zip(a, b, strict=True))


# %% tags=["check"]
from minimtnlg.course.check import Feedback, expect


def example(student):
    """The messages of the target"""
    what = f"places where {FIRST} and {SECOND} agree"
    pair = [[int(bit) for bit in message] for message in (FIRST, SECOND)]
    expect(student(*pair), PLACES, what, "a pair of zeros agrees as well")


# %% tags=["hidden"]
def refuses_unequal(student):
    """Messages of different length are refused"""
    try:
        got = student([0], [0, 1])
    except ValueError:
        return
    raise Feedback("1 bit and 2 bits", "ValueError", got, "zip stops at the shorter list")


# %% tags=["wrong"]
def counts_ones(a, b):
    """Caught by: example. Agreement is taken for both being 1."""
    return sum(x and y for x, y in zip(a, b, strict=True))


def stops_at_the_shorter(a, b):
    """Caught by: refuses_unequal. zip is silent about lengths."""
    return sum(x == y for x, y in zip(a, b, strict=False))


def counts_differences(a, b):
    """Caught by: example. The distance instead of the agreement."""
    return len(a) - agreeing(a, b)
