# ---
# mark: 2
# minutes: 15
# help: half
# needs: [bucket, gradient hook, overlap]
# draws:
#   RULE: [reach, fit]
#   LIMIT: [40, 100]
# ---

# %% [markdown]
# # Which bucket leaves when
#
# Before the first step the parameters are put into buckets, in the order in which backward makes
# their gradients: the last parameter of the model first. In a step each bucket leaves as soon as it
# is full and all buckets before it have left. What has not left when backward ends, leaves in
# `finish`.
#
# The rule of this exercise for the size: {{RULE_IN_WORDS}}
#
# `parameters` lists `(name, numbers)` in the order of the model, and a number of a gradient takes 4
# bytes on the wire. `arrivals` lists the names of the gradients in the order in which one backward
# pass really made them. It need not be the expected order, and some names may be missing.
#
# Your function returns `[(bucket, when), ...]`: each bucket as a list of names, and the name of the
# gradient whose hook lets it leave, or `"finish"`.
#
# **Target:** five parameters a, b, c, d, e of 10, 5, 20, 3 and 8 numbers and a limit of {{LIMIT}}
# bytes give the buckets {{BUCKETS}} (each written as one word here). When gradients come in the
# order e, c, d, b, a, the buckets leave at {{WHEN}}.

# %% tags=["target"]
RULE_IN_WORDS = {
    "reach": "a bucket is closed when it has `limit` bytes or more, so it may be larger.",
    "fit": "a bucket never has more than `limit` bytes, unless a single gradient has; a gradient "
    "that does not fit opens the next bucket.",
}[RULE]
BUCKETS, WHEN = {  # by hand: e 32, d 12, c 80, b 20, a 40 bytes
    ("reach", 100): (["edc", "ba"], ["d", "a"]),
    ("fit", 100): (["ed", "cb", "a"], ["d", "b", "a"]),
    ("reach", 40): (["ed", "c", "ba"], ["d", "d", "a"]),
    ("fit", 40): (["e", "d", "c", "b", "a"], ["e", "d", "d", "b", "a"]),
}[RULE, LIMIT]


# %% tags=["stub"]
def departures(parameters, limit, arrivals):
    """[(names of a bucket, the gradient at which it leaves, or "finish"), ...], in order.

    parameters: [(name, numbers)] of the model, first to last. limit: bytes, at 4 a number.
    arrivals: names, in the order in which backward made the gradients; each at most once.
    """
    buckets, filled = [], 0
    for name, numbers in reversed(parameters):
        if not buckets:  # or the last one is closed: what does the rule say?
            raise NotImplementedError("open a bucket; and below, let buckets leave in their order")
        buckets[-1].append(name)
        filled += 4 * numbers
    missing = [set(bucket) for bucket in buckets]
    for name in arrivals:
        missing = [names - {name} for names in missing]
        # which buckets leave now, with this gradient?
    return [(bucket, "finish") for bucket in buckets]  # not yet: when did each leave?


# %% [markdown] tags=["hint"]
# Two things that are easily mixed up: the order in which buckets were *made* is fixed, the order in
# which gradients *come* is not. First make all buckets, without looking at `arrivals`.

# %% [markdown] tags=["hint"]
# {{RULE_HINT}} For the second half keep a list `left`: when bucket 0 left, then bucket 1, and so on.
# *While* the first bucket that has not left misses nothing, it leaves. One gradient may let several
# buckets go.

# %% tags=["target"]
RULE_HINT = {
    "reach": "Begin with no bucket. Open one if there is none, or if `filled >= limit`: then "
    "`filled` is 0 again.",
    "fit": "Begin with no bucket. Open one if there is none, or if `filled + 4 * numbers > limit`: "
    "then `filled` is 0 again.",
}[RULE]
CLOSED = {"reach": "filled >= limit", "fit": "filled + 4 * numbers > limit"}[RULE]

# %% [markdown] tags=["hint"]
# ```python
# for name, numbers in reversed(parameters):
#     if not buckets or {{CLOSED}}:
#         buckets.append([])
#         filled = 0
#     buckets[-1].append(name)
#     filled += 4 * numbers
# ```
# In the second loop: `while len(left) < len(buckets) and not missing[len(left)]:
# left.append(name)`. After it, fill `left` up with `"finish"`, and `zip` it with the buckets.

# %% [markdown] tags=["oral"]
# **Q.** On one rank the first gradient comes last. What does that do to the wire during backward,
# and why is it right all the same?
#
# **A.** The first bucket is full only at the end, and all others wait for it; nothing overlaps. But
# every rank sends its buckets in the same order, so the sums are those of the same parameters.
#
# **Q.** You halve the limit. Which of the two gets better, the time until the first bucket leaves or
# the number of latencies that are paid?
#
# **A.** The first bucket leaves earlier. There are about twice as many calls, and each pays its
# latencies.


# %% tags=["solution"]
def departures(parameters, limit, arrivals):
    buckets, filled = [], 0
    for name, numbers in reversed(parameters):
        closed = {"reach": filled >= limit, "fit": filled + 4 * numbers > limit}["{{RULE}}"]
        if not buckets or closed:
            buckets.append([])
            filled = 0
        buckets[-1].append(name)
        filled += 4 * numbers
    missing = [set(bucket) for bucket in buckets]
    left = []
    for name in arrivals:
        for names in missing:
            names.discard(name)
        while len(left) < len(buckets) and not missing[len(left)]:
            left.append(name)
    left += ["finish"] * (len(buckets) - len(left))
    return list(zip(buckets, left, strict=True))


# %% tags=["check"]
from minimtnlg.course.check import Feedback, expect

_FIVE = [("a", 10), ("b", 5), ("c", 20), ("d", 3), ("e", 8)]


def _buckets(parameters, limit):
    """The buckets by the rule, each found as the longest or shortest run that the rule allows."""
    rest, buckets = [(name, 4 * numbers) for name, numbers in parameters][::-1], []
    while rest:
        totals = [sum(size for _, size in rest[: i + 1]) for i in range(len(rest))]
        if RULE == "reach":
            length = next((i + 1 for i, total in enumerate(totals) if total >= limit), len(rest))
        else:
            length = max(1, sum(total <= limit for total in totals))
        buckets.append([name for name, _ in rest[:length]])
        rest = rest[length:]
    return buckets


def _expected(parameters, limit, arrivals):
    """A bucket leaves at the last arrival of all that it and the buckets before it need."""
    place = {name: i for i, name in enumerate(arrivals)}
    found, latest = [], -1
    for bucket in _buckets(parameters, limit):
        latest = max([latest, *(place.get(name, len(arrivals)) for name in bucket)])
        found.append((bucket, [*arrivals, "finish"][latest]))
    return found


def _check(student, parameters, limit, arrivals, look_at):
    arrivals = list(arrivals)
    case = f"{', '.join(f'{n} {4 * k}' for n, k in parameters)} bytes, limit {limit}, arrivals "
    case += " ".join(arrivals) or "none"
    got = student(list(parameters), limit, list(arrivals))
    _compare(got, _expected(parameters, limit, arrivals), case, look_at)


def _compare(got, right, case, look_at):
    """First the buckets, then when they leave: each mistake gets its own words."""
    pairs = isinstance(got, list) and all(isinstance(x, tuple | list) for x in got)
    if not pairs or any(len(x) != 2 for x in got):
        raise Feedback(f"what departures returns; {case}", "[(bucket, when), ...]", got)
    what = f"the buckets; {case}"
    rule = "last parameter first, and the rule for the size of a bucket"
    expect([list(bucket) for bucket, _ in got], [bucket for bucket, _ in right], what, rule)
    what = f"when each bucket leaves; {case}"
    expect([when for _, when in got], [when for _, when in right], what, look_at)


def the_target(student):
    """Five parameters, and the arrivals of the target"""
    case = f"e 32, d 12, c 80, b 20, a 40 bytes, limit {LIMIT}, arrivals e c d b a"
    right = [(list(names), when) for names, when in zip(BUCKETS, WHEN, strict=True)]
    look_at = "a bucket leaves when it and all before it have their gradients"
    _compare(student(list(_FIVE), LIMIT, list("ecdba")), right, case, look_at)


def the_expected_order(student):
    """Gradients come in the order that was expected"""
    look_at = "a bucket leaves with the last of its gradients"
    for limit in (8, 20, 52, 100, 1000):
        _check(student, _FIVE, limit, "edcba", look_at)


def buckets_wait_for_their_turn(student):
    """A bucket that is full early waits for those before it"""
    look_at = "the lesson's section 'The same order everywhere'; how many may leave at one gradient?"
    for limit in (8, 40, 64):
        _check(student, _FIVE, limit, "abcde", look_at)
        _check(student, _FIVE, limit, "baced", look_at)


def gradients_that_do_not_come(student):
    """What has not left when backward ends, leaves in finish"""
    look_at = "one missing gradient holds its bucket and all buckets after it"
    for arrivals in ("edba", "dcba", "edcb", ""):
        _check(student, _FIVE, 40, arrivals, look_at)


# %% tags=["hidden"]
def many_cases(student):
    """Random sizes, limits and arrivals"""
    import random

    draw = random.Random(7)
    for _ in range(60):
        parameters = [(name, draw.randint(1, 12)) for name in "abcdefgh"[: draw.randint(1, 8)]]
        names = [name for name, _ in parameters]
        arrivals = draw.sample(names, draw.randint(0, len(names)))
        _check(student, parameters, draw.choice([4, 16, 24, 40, 60]), arrivals, "the rules")


def exactly_the_limit(student):
    """A bucket with exactly the limit, and a gradient larger than it"""
    look_at = "exactly the limit"
    _check(student, [("a", 5), ("b", 5), ("c", 5), ("d", 5)], 40, "dcba", look_at)
    _check(student, [("a", 1), ("b", 50), ("c", 1), ("d", 1)], 40, "dcba", look_at)


def of_a_real_backward(student):
    """A real network's hooks say in which order gradients come"""
    import torch

    names = ["first", "second", "third", "fourth"]
    weights = {name: torch.ones(3, 3, requires_grad=True) for name in names}
    arrived = []
    for name, w in weights.items():
        w.register_post_accumulate_grad_hook(lambda _, name=name: arrived.append(name))
    x = torch.ones(3)
    for name in ("second", "first", "fourth", "third"):  # another way than they are listed
        x = torch.tanh(weights[name] @ x)
    x.sum().backward()
    parameters = [(name, 9) for name in names]
    for limit in (36, 60, 72, 80):
        _check(student, parameters, limit, arrived, "gradients come as the network was really run")


# %% tags=["wrong"]
def _made(parameters, limit, closed):
    buckets, filled = [], 0
    for name, numbers in reversed(parameters):
        if not buckets or closed(filled, 4 * numbers, limit):
            buckets.append([])
            filled = 0
        buckets[-1].append(name)
        filled += 4 * numbers
    return buckets


def _reach(filled, more, limit):
    return filled >= limit


def _fit(filled, more, limit):
    return filled + more > limit


_RULES = {"reach": (_reach, _fit), "fit": (_fit, _reach)}[RULE]  # the right one, the other one


def _leave(buckets, arrivals, in_order=True, at_once=False, first=False):
    missing, when = [set(bucket) for bucket in buckets], {}
    for name in arrivals:
        for b, names in enumerate(missing):
            came = name in names
            names.discard(name)
            if not in_order and came and (first or not names):
                when.setdefault(b, name)
        while in_order and len(when) < len(buckets) and not missing[len(when)]:
            when[len(when)] = name
            if at_once:
                break
    return [(bucket, when.get(b, "finish")) for b, bucket in enumerate(buckets)]


def other_rule(parameters, limit, arrivals):
    """Caught by: the_expected_order. The other reading of a limit."""
    return _leave(_made(parameters, limit, _RULES[1]), arrivals)


def first_layer_first(parameters, limit, arrivals):
    """Caught by: the_target. Buckets are filled from the front, in the order of the model."""
    return departures(list(parameters)[::-1], limit, arrivals)


def two_bytes_a_number(parameters, limit, arrivals):
    """Caught by: the_target. Weights have 16 bits, so gradients are counted so on the wire."""
    return departures(parameters, 2 * limit, arrivals)


def leaves_when_full(parameters, limit, arrivals):
    """Caught by: buckets_wait_for_their_turn. A bucket leaves when it is full, out of its turn."""
    return _leave(_made(parameters, limit, _RULES[0]), arrivals, in_order=False)


def leaves_with_its_first_gradient(parameters, limit, arrivals):
    """Caught by: the_target. A bucket leaves when the first of its gradients comes."""
    return _leave(_made(parameters, limit, _RULES[0]), arrivals, in_order=False, first=True)


def one_bucket_an_arrival(parameters, limit, arrivals):
    """Caught by: buckets_wait_for_their_turn. An `if` for the `while`: one gradient, one bucket."""
    return _leave(_made(parameters, limit, _RULES[0]), arrivals, at_once=True)


def in_the_order_of_arrival(parameters, limit, arrivals):
    """Caught by: buckets_wait_for_their_turn. Buckets are made of what comes, as it comes."""
    sizes = dict(parameters)
    return departures([(name, sizes[name]) for name in arrivals][::-1], limit, arrivals)


def forgets_finish(parameters, limit, arrivals):
    """Caught by: gradients_that_do_not_come. What has not left is not listed."""
    return [pair for pair in departures(parameters, limit, arrivals) if pair[1] != "finish"]


def zeros_leave_with_the_last(parameters, limit, arrivals):
    """Caught by: gradients_that_do_not_come. The last hook is thought to send what is left."""
    last = (list(arrivals) or ["finish"])[-1]
    return [(b, last if when == "finish" else when)
            for b, when in departures(parameters, limit, arrivals)]  # fmt: skip


def one_byte_off(parameters, limit, arrivals):
    """Caught by: exactly_the_limit. `>` for `>=`, or the other way round."""
    off = 1 if RULE == "reach" else -1
    return _leave(_made(parameters, limit + off, _RULES[0]), arrivals)
