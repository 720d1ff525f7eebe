# ---
# mark: 2
# minutes: 20
# help: half
# needs: [stage, schedule, bubble]
# draws:
#   STAGES: [4, 5]
#   MICRO_BATCHES: [6, 9]
#   COUNTED: [first, last]
# ---

# %% [markdown]
# # One forward, one backward
#
# Write the order of 1F1B for one stage: the list of the forward and backward passes that it makes.
# Any number of stages and micro-batches, also fewer micro-batches than stages.
#
# `Forward(j)` and `Backward(j)` are the passes of micro-batch `j`. The messages between stages
# follow from the order; the checks add them and play all stages against a clock.
#
# The lesson printed the order of three stages. Draw that of {{STAGES}} stages and {{MICRO_BATCHES}}
# micro-batches on paper first: which forward passes does each stage make before its first backward
# pass? Here stages are counted from the {{COUNTED}} one, which has number 0.
#
# **Target:** each micro-batch goes forward and backward once on every stage; no stage waits for
# ever; the bubble is exactly $(p-1)/m$; stage $i$ never has more than $\min(m, {{IN_FLIGHT}})$
# micro-batches in flight. With {{STAGES}} stages and {{MICRO_BATCHES}} micro-batches all is over after
# {{TOTAL}} forward passes' time.
#
# Write the order yourself: the schedules of the package refuse to help while it is checked.
#
# To look at your order: `print(played(one_f_one_b, p={{STAGES}}, m={{MICRO_BATCHES}}))`. It prints the
# first stage of the model at the top.

# %%
from dataclasses import dataclass
from typing import Any

from minimtnlg.parallel.schedules import Backward, Forward, Schedule
from minimtnlg.parallel.simulate import simulate


@dataclass(frozen=True, kw_only=True)
class Given(Schedule):
    """The schedule that an order makes; its messages follow from it."""

    passes: Any

    def order(self, stage):
        return self.passes[stage]


def played(order, p, m, backward=2):
    """A Simulation of all stages; a forward pass takes 1, a backward pass `backward`."""
    numbers = range(p) if COUNTED == "first" else reversed(range(p))
    passes = [list(order(p, m, stage)) for stage in numbers]
    return simulate(Given(pp=p, m=m, passes=passes), backward=backward)


# %% tags=["target"]
IN_FLIGHT, BELOW = {"first": ("p - i", "p - stage - 1"), "last": ("i + 1", "stage")}[COUNTED]
TOTAL = 3 * (MICRO_BATCHES + STAGES - 1)


# %% tags=["stub"]
def one_f_one_b(p, m, stage):
    """What `stage` (0 to p - 1) computes for m micro-batches: a list of Forward and Backward."""
    raise NotImplementedError("how many forward passes come ahead, which are pairs, what is left?")
    # Take the raise away and put your lines in its place; those below are a start.
    ahead = 0  # forward passes before the first backward pass
    passes = [Forward(j) for j in range(ahead)]
    for j in range(m - ahead):
        passes += [Forward(j), Backward(j)]  # are these the right two?
    return passes


# %% [markdown] tags=["hint"]
# Begin with the last stage: it alternates from the start. Then the one before: how many forward
# passes can it make until the first gradient comes up from below? Your drawing tells.

# %% [markdown] tags=["hint"]
# There are three parts. Some forward passes ahead; then pairs, one forward and one backward pass;
# then the backward passes that are left. A stage makes as many forward passes ahead as there are
# stages after it. What if there are fewer micro-batches than that?

# %% [markdown] tags=["hint"]
# ```python
# ahead = min({{BELOW}}, m)
# passes = [Forward(j) for j in range(ahead)]
# for j in range(m - ahead):
#     ...  # the forward pass of micro-batch ahead + j, and which backward pass?
# ```
# The backward passes come in the order 0, 1, 2 ... on every stage. In the end `ahead` of them are
# left.


# %% tags=["solution"]
def one_f_one_b(p, m, stage):
    ahead = min({{BELOW}}, m)
    passes = [Forward(j) for j in range(ahead)]
    for j in range(m - ahead):
        passes += [Forward(ahead + j), Backward(j)]
    return passes + [Backward(j) for j in range(m - ahead, m)]


# %% [markdown] tags=["oral"]
# **Q.** GPipe has the same bubble. What is gained by 1F1B, and on which stage most?
#
# **A.** Memory. GPipe keeps all $m$ micro-batches on each stage. In 1F1B the first stage keeps $p$ of
# them, the last keeps one and gains most. With $m \le p$ the first stage gains nothing.
#
# **Q.** What happens if every stage makes one forward pass more ahead?
#
# **A.** The bubble stays, and each stage keeps one micro-batch more. Time is lost while the pipeline
# fills and empties, and a longer warm-up makes neither shorter.


# %% tags=["check"]
from collections import Counter
from unittest.mock import patch

from minimtnlg.course.check import Feedback, expect
from minimtnlg.errors import InputError


def _number(p, stage):
    """What the student calls the stage that is the package's `stage`, counted from the first."""
    return stage if COUNTED == "first" else p - 1 - stage


def _refuse(schedule, stage):
    what, got = "who writes the order", f"the package's {type(schedule).__name__}"
    raise Feedback(what, "you do", got, "loops that append Forward(j) and Backward(j) to a list")


def _passes(student, p, m, stage):
    """The student's list for one stage, if it is a list of passes, each once."""
    name = f"stage {_number(p, stage)} of {p}, {m} micro-batches"
    with patch.object(Schedule, "order", _refuse):
        answer = student(p, m, _number(p, stage))
    try:
        passes = list(answer)
    except TypeError:
        raise Feedback(name, "a list of Forward and Backward", answer) from None
    for op in passes:
        if not isinstance(op, Forward | Backward):
            raise Feedback(f"a pass of {name}", "Forward(j) or Backward(j)", repr(op))
    wanted = Counter(kind(i) for kind in (Forward, Backward) for i in range(m))
    for op in (wanted - Counter(passes)) + (Counter(passes) - wanted):
        look_at = "m forward and m backward passes, of micro-batches 0 to m - 1: what is left over?"
        expect(passes.count(op), wanted[op], f"how often {_say(op)} comes on {name}", look_at)
    return passes


def _say(op):
    return f"{type(op).__name__}({op.micro_batch})"


def _played(student, p, m, backward=2):
    """The Simulation; an order in which somebody waits for ever is put into words."""
    passes = [_passes(student, p, m, stage) for stage in range(p)]
    for stage, ops in enumerate(passes):
        for i in range(m):
            if ops.index(Backward(i)) < ops.index(Forward(i)):
                raise Feedback(
                    f"stage {_number(p, stage)} of {p}, {m} micro-batches",
                    f"Forward({i}) before Backward({i})", "the other way round",
                    "a backward pass needs what the forward pass has saved",
                )  # fmt: skip
    try:
        return simulate(Given(pp=p, m=m, passes=passes), backward=backward)
    except InputError as error:
        raise Feedback(
            f"{p} stages, {m} micro-batches: does every stage come to its end?",
            "yes", f"no: {error} (stages counted from the first)",
            "what does this pass wait for, and what does the neighbour do before it sends that?",
        ) from None  # fmt: skip


def _check_in_flight(student, p, m):
    most = _played(student, p, m).in_flight
    look_at = "a stage needs no more forward passes ahead than there are stages below it"
    for stage, number in enumerate(most):
        limit = min(m, p - stage)
        if number > limit:
            what = f"micro-batches in flight on stage {_number(p, stage)} of {p}, {m} micro-batches"
            raise Feedback(what, f"at most {limit}", number, look_at)


def _check_bubble(student, p, m, backward=2):
    simulation = _played(student, p, m, backward)
    what = f"time until {p} stages are done with {m} micro-batches; forward 1, backward {backward}"
    look_at = "played: where does a stage wait, for which pass, and what could it do meanwhile?"
    expect(simulation.total, (m + p - 1) * (1 + backward), what, look_at)
    what = f"waiting by computing of {p} stages with {m} micro-batches"
    expect(simulation.idle_over_ideal, (p - 1) / m, what, look_at)


def the_order_of_1f1b(student):
    """All stages come to an end with the bubble (p - 1)/m and no more in flight than allowed"""
    for p in (STAGES, 3):
        _check_bubble(student, p, MICRO_BATCHES)
        _check_in_flight(student, p, MICRO_BATCHES)


def two_stages(student):
    """Two stages with three micro-batches: each pass once, the bubble"""
    _check_bubble(student, 2, 3)


def in_flight(student):
    """Six stages never have more in flight than there are stages from there to the last"""
    _check_in_flight(student, 6, 8)


# %% tags=["hidden"]
def fewer_than_stages(student):
    """Fewer micro-batches than stages"""
    for m in (1, 2, 3):
        _check_bubble(student, 4, m)
        _check_in_flight(student, 4, m)


def a_single_stage(student):
    """One stage needs no warm-up"""
    _check_bubble(student, 1, 3)
    _check_in_flight(student, 1, 3)


def any_size(student):
    """Up to five stages and seven micro-batches, and slower backward passes"""
    for p in range(1, 6):
        for m in range(1, 8):
            _check_bubble(student, p, m)
            _check_bubble(student, p, m, backward=3)
            _check_in_flight(student, p, m)


def no_deadlock(student):
    """No deadlock on the strictest network"""
    for p, m in ((2, 2), (4, 6), (5, 3)):
        passes = [_passes(student, p, m, stage) for stage in range(p)]
        found = simulate(Given(pp=p, m=m, passes=passes), blocking=True).deadlock
        expect(found, "", f"{p} stages, {m} micro-batches: who waits for whom")


# %% tags=["wrong"]
from minimtnlg.parallel.schedules import OneFOneB


def _below(p, stage):
    """Stages after this one."""
    return p - stage - 1 if COUNTED == "first" else stage


def of_the_package(p, m, stage):
    """Caught by: the_order_of_1f1b. The package has a schedule of this name: why write it?"""
    return OneFOneB(pp=p, m=m).order(stage if COUNTED == "first" else p - 1 - stage)


def gpipe(p, m, stage):
    """Caught by: in_flight. All forward passes first: the same bubble, and m in flight."""
    return [Forward(i) for i in range(m)] + [Backward(i) for i in range(m)]


def alternates_everywhere(p, m, stage):
    """Caught by: the_order_of_1f1b. One forward, one backward, taken by the word on every stage."""
    return [kind(i) for i in range(m) for kind in (Forward, Backward)]


def same_warm_up_for_all(p, m, stage):
    """Caught by: in_flight. Every stage makes p - 1 forward passes ahead, as the first one does."""
    return one_f_one_b(p, m, 0 if COUNTED == "first" else p - 1)


def one_pass_too_many(p, m, stage):
    """Caught by: in_flight. p - stage passes ahead, and then a forward pass before the backward."""
    ahead = min(_below(p, stage) + 1, m)
    passes = [Forward(i) for i in range(ahead)]
    for i in range(m - ahead):
        passes += [Forward(ahead + i), Backward(i)]
    return passes + [Backward(i) for i in range(m - ahead, m)]


def counts_from_the_wrong_end(p, m, stage):
    """Caught by: the_order_of_1f1b. The stages are counted from the other end."""
    return one_f_one_b(p, m, p - 1 - stage)


def forgets_the_cool_down(p, m, stage):
    """Caught by: two_stages. The backward passes of the warm-up never come."""
    ahead = min(_below(p, stage), m)
    return one_f_one_b(p, m, stage)[: 2 * m - ahead]


def cools_down_backwards(p, m, stage):
    """Caught by: the_order_of_1f1b. The last forward pass is undone first, as on a stack."""
    ahead = min(_below(p, stage), m)
    passes = one_f_one_b(p, m, stage)
    return passes[: 2 * m - ahead] + passes[2 * m - ahead :][::-1]


def undoes_the_latest(p, m, stage):
    """Caught by: the_order_of_1f1b. After each forward pass comes its own backward pass."""
    ahead = min(_below(p, stage), m)
    passes = [Forward(i) for i in range(ahead)]
    for i in range(ahead, m):
        passes += [Forward(i), Backward(i)]
    return passes + [Backward(i) for i in range(ahead)]


def as_many_micro_batches_as_stages(p, m, stage):
    """Caught by: fewer_than_stages. The warm-up is not cut off at m."""
    ahead = _below(p, stage)
    passes = [Forward(i) for i in range(ahead)]
    for i in range(m - ahead):
        passes += [Forward(ahead + i), Backward(i)]
    return passes + [Backward(i) for i in range(max(m - ahead, 0), m)]


def gpipe_if_there_are_few(p, m, stage):
    """Caught by: fewer_than_stages. With m < p, all forward passes first: more in flight."""
    return one_f_one_b(p, m, stage) if m >= p else gpipe(p, m, stage)


def no_longer_than_two(p, m, stage):
    """Caught by: the_order_of_1f1b. One pass ahead is enough for any stage but the last."""
    last = _below(p, stage) == 0
    return one_f_one_b(2, m, int(last) if COUNTED == "first" else int(not last))


# %% tags=["picture"]
def picture(student):
    """The student's order, played with the sizes of the target."""
    from minimtnlg.course.plots import time_line

    simulation = _played(student, STAGES, MICRO_BATCHES)
    title = f"Your order ends at {simulation.total:g}; 1F1B ends at {TOTAL}"
    fig, ax = time_line(simulation, title=title)
    ax.set_xlabel("time, 1 = a forward pass")
    alt = f"Time line of your order, the first stage at the top:\n{simulation.text(120)}"
    return fig, alt
