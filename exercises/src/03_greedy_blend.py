# ---
# mark: 2
# minutes: 25
# help: half
# needs: [blend]
# draws:
#   TIE: [last, larger, smaller]
#   SEEN: ["max(i, 1)", "i + 1"]
# ---

# %% [markdown]
# # The blend, to the last tie
#
# At each sample the source farthest behind its share comes next. Write the rule so that every machine
# makes the same order, whatever it does with the last digit of a fraction.
#
# - The weights are whole numbers with the sum $W$; a source of weight $w$ has the share $w / W$. When
#   sample $i$ is chosen, a source of weight $w$ that has given $n$ samples is behind by
#   `{{BEHIND}}`. {{SEEN_SAID}}
# - **Ties** are decided exactly: sources that are equally far behind are equal, and 0.1 times 3 is
#   0.3. {{TIE_SAID}} (The lesson takes the one that stands first.)
# - Each sample is a pair: its source, and which of that source's own samples it is, from 0 on.
#
# **Target:** the weights 1, 2, 6, 1 give ten samples from the sources
# {{ORDER}}.

# %% tags=["target"]
import random
from fractions import Fraction

SEEN_SAID = {
    "max(i, 1)": "(The lesson's rule.)",
    "i + 1": "(What it should give including this sample; the lesson has max(i, 1).)",
}[SEEN]
BEHIND = "w / W * {} - n".format("(i + 1)" if SEEN == "i + 1" else SEEN)
TIMES_W = BEHIND.replace("w / W", "w").replace("- n", "- W * n")
TIE_SAID = {
    "last": "Of equal sources the one that stands last comes next.",
    "larger": "Of equal sources the one of the larger weight comes next, and of these the first.",
    "smaller": "Of equal sources the one of the smaller weight comes next, and of these the first.",
}[TIE]


def _order(weights, size):
    """The blend in fractions: list all that are farthest behind, then look at the rule."""
    given, order = [0] * len(weights), []
    for i in range(size):
        seen = i + 1 if SEEN == "i + 1" else 1 if i == 0 else i
        shares = [Fraction(w, sum(weights)) for w in weights]
        behind = [share * seen - n for share, n in zip(shares, given, strict=True)]
        equal = [k for k, error in enumerate(behind) if error == max(behind)]
        if TIE == "last":
            chosen = equal[-1]
        else:
            wanted = (max if TIE == "larger" else min)(weights[k] for k in equal)
            chosen = next(k for k in equal if weights[k] == wanted)
        order.append((chosen, given[chosen]))
        given[chosen] += 1
    return order


_draw = random.Random(3)
_e = 10**15
NEAR = [  # weights of which some sources are nearly, and not, equally far behind
    (_e + 1, _e, _e, _e + 2), (2 * _e + 1, _e, _e + 1), (_e, _e + 1, 2 * _e), (3 * _e, _e + 1, 2 * _e)
]  # fmt: skip
_some = [tuple(_draw.choices(range(1, 40), k=_draw.randint(1, 8))) for _ in range(20)]
ORDERS = {  # weights -> their order; the first four are in the checks by name
    weights: _order(weights, 60)
    for weights in [(1, 2, 6, 1), (1, 1, 7), (7, 1, 1), (2, 6, 7), (3, 3, 3), *_some, *NEAR]
}
ORDER = ", ".join(str(source) for source, _ in ORDERS[1, 2, 6, 1][:10])
# What decides a tie in the printed solution.
SECOND = {"last": "k", "larger": "weights[k], -k", "smaller": "-weights[k], -k"}[TIE]


# %% tags=["stub"]
def greedy_blend(weights, size):
    """The order of `size` samples: a list of pairs (source, number within the source).

    weights  list of positive whole numbers, in any unit
    """
    order, given = [None] * size, [0] * len(weights)
    for i in range(size):
        raise NotImplementedError(f"choose order[{i}] and count it; the sources gave {given} so far")
    return order


# %% [markdown] tags=["hint"]
# Compute one number for each source, how far it is behind, and take the largest. Which operation
# makes two equal numbers differ in the last digit, and can you do without it?

# %% [markdown] tags=["hint"]
# Multiply by $W$: the source that is farthest behind has the largest `{{TIMES_W}}`, and these are whole
# numbers. For the ties, `max` takes a `key` that returns a tuple: what comes
# second in it decides where the first is equal.

# %% [markdown] tags=["hint"]
# ```python
# behind = [{{TIMES_W}} for w, n in zip(weights, given)]  # W is sum(weights)
# chosen = max(range(len(weights)), key=lambda k: (behind[k], {{SECOND}}))
# ```
# The number within the source is `given[chosen]` before you count it up.


# %% tags=["solution"]
def greedy_blend(weights, size):
    samples, given, total = [None] * size, [0] * len(weights), sum(weights)
    for i in range(size):
        seen = {{SEEN}}
        behind = [w * seen - total * n for w, n in zip(weights, given, strict=True)]
        chosen = max(range(len(weights)), key=lambda k: (behind[k], {{SECOND}}))
        samples[i] = chosen, given[chosen]
        given[chosen] += 1
    return samples


# %% tags=["check"]
from minimtnlg.course.check import Feedback, expect

PAIRS = "pairs (source, number within the source, from 0)"


def _look_at(weights, i, wanted, got):
    """Why sample `i` is `wanted` and not `got`."""
    try:
        (right, _), (source, _) = wanted, got
        if source == right:
            return f"source {right} is right; its number counts that source's own samples, from 0"
        seen = i + 1 if SEEN == "i + 1" else max(i, 1)
        given = [source for source, _ in ORDERS[weights][:i]]
        behind = [w * seen - sum(weights) * given.count(k) for k, w in enumerate(weights)]
        off = behind[right] - behind[source]
    except (TypeError, ValueError, IndexError):
        return PAIRS
    if off == 0:
        return f"sources {right} and {source} are behind by exactly the same. {TIE_SAID}"
    return f"{BEHIND} is larger for source {right} than for {source}, by {off / sum(weights):.2g}"


def _compare(student, weights, size):
    """Compare sample by sample, and show the way to the first one that differs."""
    answer = student(list(weights), size)
    if not isinstance(answer, list | tuple) or len(answer) != size:
        raise Feedback(f"{size} samples of the weights {weights}", f"a list of {size} {PAIRS}", answer)
    for i, (wanted, got) in enumerate(zip(ORDERS[weights], answer, strict=False)):
        if not isinstance(got, list | tuple) or tuple(got) != wanted:
            so_far = "".join(f"{source} " for source, _ in ORDERS[weights][:i]) or "none "
            what = f"sample {i} of the weights {weights}: (source, number); sources so far: {so_far}"
            raise Feedback(what.rstrip(), wanted, got, _look_at(weights, i, wanted, got))


def the_target(student):
    """Ten samples of the weights 1, 2, 6, 1"""
    _compare(student, (1, 2, 6, 1), 10)


def ties_are_exact(student):
    """Sources that are equally far behind are equal, to the last digit"""
    for weights in ((1, 1, 7), (7, 1, 1), (2, 6, 7)):
        _compare(student, weights, 40)


def nearly_equal_is_no_tie(student):
    """Large weights: sources that are nearly equally far behind are not equal"""
    for weights in NEAR:
        _compare(student, weights, 40)


def equal_weights(student):
    """Three equal sources take turns"""
    _compare(student, (3, 3, 3), 12)


# %% tags=["hidden"]
def other_weights(student):
    """Twenty other blends, from one source to eight"""
    for weights in ORDERS:
        _compare(student, weights, 60)


def any_size(student):
    """No sample, one sample; a longer blend begins like a shorter one"""
    expect(list(student([2, 3], 0)), [], "no sample of the weights 2, 3")
    long, short = student([2, 3, 4], 50), student([2, 3, 4], 20)
    expect(short, list(long)[:20], "the first 20 of 50 samples, and 20 samples")


def never_one_ahead(student):
    """No source is ever a whole sample above its share; in the long run all get it"""
    weights, size = (193, 130, 97, 50, 7, 1), 4780
    given, order = [0] * 6, student(list(weights), size)
    for i, (source, _) in enumerate(order, start=1):
        given[source] += 1
        if given[source] * sum(weights) - weights[source] * i >= sum(weights):
            what = f"what source {source} has given after {i} samples of the weights {weights}"
            below = f"less than {weights[source] * i / sum(weights):.2f} + 1"
            raise Feedback(what, below, given[source], "who is farthest behind can't get ahead")
    off = [abs(n * sum(weights) - w * size) for n, w in zip(given, weights, strict=True)]
    expect(max(off) < 2 * sum(weights), True, f"that all shares of {weights} are met within 2")


# %% tags=["wrong"]
import random


def _blend(weights, size, key):
    """A blend by another key(w, W, n, i, k)."""
    given, order, total = [0] * len(weights), [], sum(weights)
    for i in range(size):
        pairs = zip(weights, given, strict=True)
        keys = [key(w, total, n, i, k) for k, (w, n) in enumerate(pairs)]
        chosen = keys.index(max(keys))
        order.append((chosen, given[chosen]))
        given[chosen] += 1
    return order


def _seen(i):
    return i + 1 if SEEN == "i + 1" else max(i, 1)


def _tie(w, k):
    return {"last": k, "larger": w, "smaller": -w}[TIE]


def first_of_equals(weights, size):
    """Caught by: the_target. argmax decides a tie, by the place."""
    return _blend(weights, size, lambda w, W, n, i, k: w * _seen(i) - W * n)


def in_fractions_of_two(weights, size):
    """Caught by: ties_are_exact. Shares are floats, and ties are theirs to decide."""
    return _blend(weights, size, lambda w, W, n, i, k: (w / W * _seen(i) - n, _tie(w, k)))


def rounds_to_nine_digits(weights, size):
    """Caught by: nearly_equal_is_no_tie. Rounding makes floats exact."""

    def key(w, W, n, i, k):
        return round(w / W * _seen(i) - n, 9), _tie(w, k)

    return _blend(weights, size, key)


def the_other_start(weights, size):
    """Caught by: the_target. What should be given is counted with this sample, or without it."""

    def other(i):
        return max(i, 1) if SEEN == "i + 1" else i + 1

    return _blend(weights, size, lambda w, W, n, i, k: (w * other(i) - W * n, _tie(w, k)))


def weights_for_shares(weights, size):
    """Caught by: the_target. The weights are used as though they added up to 1."""
    return _blend(weights, size, lambda w, W, n, i, k: (w * _seen(i) - n, _tie(w, k)))


def by_ratio(weights, size):
    """Caught by: the_target. Farthest behind is measured as a ratio of share and given."""
    return _blend(weights, size, lambda w, W, n, i, k: (w / (n + 1), _tie(w, k)))


def number_in_the_blend(weights, size):
    """Caught by: the_target. A sample's number in the blend is taken for that in its source."""
    return [(source, i) for i, (source, _) in enumerate(greedy_blend(weights, size))]


def numbers_from_one(weights, size):
    """Caught by: the_target. The source is counted up first, its number noted then."""
    return [(source, number + 1) for source, number in greedy_blend(weights, size)]


def in_blocks(weights, size):
    """Caught by: the_target. First all samples of one source, then all of the next."""
    row = [k for k, w in enumerate(weights) for _ in range(w)]
    given, order = [0] * len(weights), []
    for i in range(size):
        source = row[i % len(row)]
        order.append((source, given[source]))
        given[source] += 1
    return order


def by_chance(weights, size):
    """Caught by: the_target. Drawing by weight is right on average, with a fixed seed on each machine."""
    given, order = [0] * len(weights), []
    for source in random.Random(1).choices(range(len(weights)), weights, k=size):
        order.append((source, given[source]))
        given[source] += 1
    return order


# %% tags=["picture"]
def picture(student):
    """How far each source is from its share, sample by sample."""
    import matplotlib.pyplot as plt

    weights, size = (1, 2, 6, 1), 30
    fig, ax = plt.subplots()
    order = [source for source, _ in student(list(weights), size)]
    for k, weight in enumerate(weights):
        ahead = [order[:i].count(k) - weight / 10 * i for i in range(size + 1)]
        ax.plot(range(size + 1), ahead, markevery=5, label=f"source {k}, weight {weight}")
    ax.set(xlabel="samples drawn", ylabel="given above the share (samples)", ylim=(-1.6, 1.6))
    ax.set_title("Your blend: each source about its share")
    ax.legend(ncols=2)
    return fig, "Samples given above the share, against samples drawn, for weights 1, 2, 6 and 1."


# %% [markdown] tags=["oral"]
# **Q.** Your code compares whole numbers. What could go wrong on a cluster if half of the machines
# compared floats that are rounded a little differently?
#
# **A.** A tie would be decided otherwise on some of them. From that sample on their orders differ, so
# replicas would read samples twice and others never, and no step could be repeated; nothing would
# crash.
#
# **Q.** After some samples every source has exactly its share. Does the order begin again from there?
#
# **A.** With `i + 1`, yes: each source is behind by its share of the next sample alone, as at the start.
# With `max(i, 1)`, not always: sample 0 came from the largest weight, while here all sources are behind
# by 0, so the tie rule decides.
