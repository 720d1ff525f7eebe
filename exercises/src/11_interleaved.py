# ---
# mark: 3
# minutes: 45
# help: empty
# needs: [stage, schedule, bubble]
# draws:
#   STAGES: [4, 3, 5]
#   CHUNKS: [2, 3]
#   GROUP: [2p, p]
# ---

# %% [markdown]
# # Interleaved 1F1B
#
# Write the order of the interleaved schedule for one stage. Each of the $p$ stages has $v$ chunks;
# virtual stage $x$ is chunk `x // p` of stage `x % p`. `Forward(j, chunk)` and `Backward(j, chunk)`
# are the passes of micro-batch `j`; the messages follow from the order.
#
# In this exercise a group is ${{GROUP}}$ micro-batches, and `m` is a multiple of it. A stage sends a
# whole group through its chunk 0, then the same group through chunk 1, and so on; then comes the
# next group. Backward passes keep the groups, too, but begin with the last chunk. What is left to
# you: how many forward passes does each stage make ahead? (The lesson counted what is in flight
# with groups of $p$. You may begin there; say what each term is for. The package's own schedule
# refuses to help while yours is checked.)
#
# **Target:** each pass once; no stage waits for ever; the bubble is $(p-1)/(v\,m)$ if messages take
# no time. If they do, the stages work on meanwhile: with {{STAGES}} stages of {{CHUNKS}} chunks,
# {{MICRO_BATCHES}} micro-batches, passes that take 1 and messages that take 1/2, all is over after
# {{TOTAL}}. At most {{MOST}} are in flight on the stages, each a micro-batch in a chunk.
#
# Here a message is under way for its time and holds nobody up. (The network of the lesson's
# `simulate` is stricter: both ends must have come to a transfer. Times may be longer there.)
# `played` below has the clock of the checks:
#
# - `print(played(interleaved, p={{STAGES}}, v={{CHUNKS}}, m={{MICRO_BATCHES}}))`, a letter for a chunk
# - `print(played(interleaved, p=2, v=2, m={{SMALL}}, message=0.5).text(180))`, with micro-batches

# %%
from minimtnlg.parallel.schedules import Backward, Forward, Schedule
from minimtnlg.parallel.simulate import Simulation, Span


def played(order, p, v, m, backward=1, message=0):
    """A Simulation: a pass through a chunk takes 1, a backward one `backward`, a message `message`.

    Each stage keeps its order and begins a pass as soon as all that it needs is over and has come.
    """
    orders = [list(order(p, v, m, stage)) for stage in range(p)]
    spans, over, moved = [[] for _ in orders], {}, True
    while moved:
        moved = False
        for stage, passes in enumerate(orders):
            while len(spans[stage]) < len(passes):
                op = passes[len(spans[stage])]
                here = op.chunk * p + stage
                needs = needed(op, here, p * v)
                if not all(need in over for need in needs):
                    break
                came = [over[need] + message * (need[2] != here) for need in needs]
                start = max([0, *(span.end for span in spans[stage][-1:]), *came])
                end = start + (1 if isinstance(op, Forward) else backward)
                spans[stage].append(Span(start, end, op))
                over[type(op), op.micro_batch, here] = end
                moved = True
    most = []
    for done in spans:
        now = [0]
        for *_, op in done:
            now.append(now[-1] + (1 if isinstance(op, Forward) else -1))
        most.append(max(now))
    left = [(i, x[len(spans[i])]) for i, x in enumerate(orders) if len(spans[i]) < len(x)]
    stuck = [f"stage {i} at {type(x).__name__}({x.micro_batch}, {x.chunk})" for i, x in left]
    waits = f"they wait for ever: {', '.join(stuck)}" if stuck else ""
    return Simulation(spans, [[] for _ in orders], most, waits)


def needed(op, here, virtual):
    """What must be over before a pass on virtual stage `here`: (kind, micro-batch, virtual stage)."""
    if isinstance(op, Forward):
        return [(Forward, op.micro_batch, here - 1)] if here > 0 else []
    below = [(Backward, op.micro_batch, here + 1)] if here < virtual - 1 else []
    return [(Forward, op.micro_batch, here), *below]


# %% tags=["target"]
TIMES = {"p": 1, "2p": 2}[GROUP]  # a group is so many times p micro-batches
MICRO_BATCHES, SMALL = 2 * TIMES * STAGES, 2 * TIMES * 2
# Only messages that nothing hides cost time: on the first way down and on the last way up. A group
# of p comes round to stage 0 just in time, so its way is that through all chunks.
TOTAL = 2 * (CHUNKS * MICRO_BATCHES + STAGES - 1) + (
    STAGES * CHUNKS - 1 if TIMES == 1 else STAGES - 1
)
MOST = ", ".join(
    str((CHUNKS - 1) * TIMES * STAGES + 2 * (STAGES - stage) - 1) for stage in range(STAGES)
)


# %% tags=["stub"]
def interleaved(p, v, m, stage):
    """What `stage` (0 to p - 1) computes: a list of Forward(j, chunk) and Backward(j, chunk).

    p: stages, 2 or more; v: chunks of each, 2 or more; m: micro-batches, a multiple of a group.
    """
    raise NotImplementedError("return a list such as [Forward(0, 0), Forward(1, 0), ...]")


# %% [markdown] tags=["hint"]
# Leave the waiting aside at first. Write the list of all forward passes of a stage in their order:
# three loops, over groups, chunks and the micro-batches of the group. The list of backward passes
# is the same with `v - 1 - chunk`. All stages have the same two lists; they differ only in how many
# forward passes come ahead.

# %% [markdown] tags=["hint"]
# The last stage: its first backward pass is of micro-batch 0 in the *last* chunk. Which forward
# passes have to come before? Then go one stage up: it is one pass more until micro-batch 0 has come
# down to the last stage, and one more until its gradient is back. Each of the two has to be filled
# with a forward pass.

# %% [markdown] tags=["hint"]
# ```python
# ahead = min(2 * (p - stage - 1) + (v - 1) * group, v * m)  # group: {{GROUP}} micro-batches
# passes = forwards[:ahead]
# ```
# Then pairs: the forward pass number `ahead + i` and the backward pass number `i`, as long as there
# are forward passes. Then the backward passes that are left.


# %% tags=["solution"]
def interleaved(p, v, m, stage):
    group = {{TIMES}} * p
    turns = [
        (j, chunk)
        for first in range(0, m, group)
        for chunk in range(v)
        for j in range(first, first + group)
    ]
    forwards = [Forward(j, chunk) for j, chunk in turns]
    backwards = [Backward(j, v - 1 - chunk) for j, chunk in turns]
    ahead = min(2 * (p - stage - 1) + (v - 1) * group, v * m)
    passes = forwards[:ahead]
    for forward, backward in zip(forwards[ahead:], backwards, strict=False):
        passes += [forward, backward]
    return passes + backwards[v * m - ahead :]


# %% [markdown] tags=["oral"]
# **Q.** One stage higher up there are two more forward passes ahead. In plain 1F1B it is one. Why?
#
# **A.** The way to the last stage is one pass longer, and so is the way back. Interleaved, forward
# passes of other chunks fill both, so that messages and passes elsewhere are not waited for. In 1F1B
# a stage waits while the gradient comes up: the bubble is there anyway, and more passes ahead would
# only be kept.
#
# **Q.** Somebody doubles the group, with the same m. What becomes of the bubble, and of memory?
#
# **A.** The bubble stays $(p-1)/(vm)$. Each stage makes $(v-1)$ times as many passes more ahead as
# the group has grown by, and has them in flight. It pays only where messages are slow: with groups
# of $p$ a stage needs the next chunk's input at once, with larger ones it has time to arrive.


# %% tags=["check"]
from collections import Counter
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from minimtnlg.course.check import Feedback, expect
from minimtnlg.parallel.simulate import simulate


def _refuse(schedule, stage):
    what, got = "who writes the order", f"the package's {type(schedule).__name__}"
    raise Feedback(what, "you do", got, "loops that make lists of Forward and Backward")


def _passes(student, p, v, m, stage):
    """The student's list for one stage, if it is a list of passes, each once."""
    name = f"stage {stage} of {p}, {v} chunks, {m} micro-batches"
    with patch.object(Schedule, "order", _refuse):
        answer = student(p, v, m, stage)
    try:
        passes = list(answer)
    except TypeError:
        raise Feedback(name, "a list of Forward and Backward", repr(answer)) from None
    for op in passes:
        if not isinstance(op, Forward | Backward):
            raise Feedback(f"a pass of {name}", "Forward(j, chunk) or Backward(...)", repr(op))
    wanted = Counter(
        kind(j, chunk) for kind in (Forward, Backward) for j in range(m) for chunk in range(v)
    )
    for op in (wanted - Counter(passes)) + (Counter(passes) - wanted):
        look_at = "v m forward and v m backward passes: what is left over at the end?"
        expect(passes.count(op), wanted[op], f"how often {_say(op)} comes on {name}", look_at)
    return passes


def _say(op):
    return f"{type(op).__name__}({op.micro_batch}, {op.chunk})"


def _clock(student, p, v, m, backward=1, message=0, say_where=False):
    """(time until all is done, most in flight on each stage), or Feedback where a stage is stuck."""
    orders = [_passes(student, p, v, m, stage) for stage in range(p)]
    end = played(lambda p, v, m, stage: orders[stage], p, v, m, backward, message)
    if end.deadlock:
        what = f"{p} stages, {v} chunks, {m} micro-batches: does every stage come to its end?"
        look_at = "what does this pass need, and what does its stage do before it makes that?"
        if not say_where:  # one of the checks does
            raise Feedback(what, "yes", "no", "the first check says where: mend that first")
        raise Feedback(what, "yes", f"no, {end.deadlock}", look_at)
    return end.total, end.in_flight


def _check_bubble(student, p, v, m, backward):
    total, _ = _clock(student, p, v, m, backward, say_where=True)
    what = (
        f"time until {p} stages of {v} chunks are done with {m} micro-batches; "
        f"forward 1, backward {backward}"
    )
    look_at = "played: where does a stage wait, for which pass, and what could it do meanwhile?"
    expect(total, (v * m + p - 1) * (1 + backward), what, look_at)


def _check_messages(student, p, v, m):
    total, _ = _clock(student, p, v, m, message=0.5)
    what = f"time until {p} stages of {v} chunks are done with {m} micro-batches; messages take 1/2"
    look_at = "played: where does a stage wait for a message, and what could it do meanwhile?"
    hidden = p * v - 1 if TIMES == 1 else p - 1
    expect(total, float(2 * (v * m + p - 1) + hidden), what, look_at)


def _check_in_flight(student, p, v, m):
    _, most = _clock(student, p, v, m)
    look_at = "no more ahead than the other chunks of a group, and both ways to the last stage"
    for stage, number in enumerate(most):
        limit = min((v - 1) * TIMES * p + 2 * (p - stage) - 1, v * m)
        if number > limit:
            what = f"in flight on stage {stage} of {p}, {v} chunks, {m} micro-batches"
            raise Feedback(what, f"at most {limit}", number, look_at)


def _check_groups(student, p, v, m):
    for stage in range(p):
        passes = _passes(student, p, v, m, stage)
        for kind, sign in ((Forward, 1), (Backward, -1)):
            mine = [(op.micro_batch, op.chunk) for op in passes if isinstance(op, kind)]
            right = sorted(mine, key=lambda x: (x[0] // (TIMES * p), sign * x[1], x[0]))
            for i, (got, wanted) in enumerate(zip(mine, right, strict=True)):
                if got != wanted:
                    what = f"{kind.__name__} pass number {i} of stage {stage} of {p}"
                    expected, got = (f"micro-batch {j} in chunk {c}" for j, c in (wanted, got))
                    look_at = f"a group is {GROUP} = {TIMES * p} micro-batches; chunk by chunk"
                    raise Feedback(f"{what}, {v} chunks, {m} micro-batches", expected, got, look_at)


def the_interleaved_bubble(student):
    """All stages come to an end, and the bubble is (p - 1)/(v m)"""
    for backward in (1, 2):
        _check_bubble(student, STAGES, CHUNKS, MICRO_BATCHES, backward)
        _check_bubble(student, 2, CHUNKS + 1, 3 * TIMES * 2, backward)


def messages_are_hidden(student):
    """While a message is under way, its stages have something else to do"""
    _check_messages(student, STAGES, CHUNKS, MICRO_BATCHES)


def chunk_by_chunk(student):
    """A group goes through a chunk before the next chunk begins"""
    _check_groups(student, STAGES, CHUNKS, MICRO_BATCHES)


def chunks_in_flight(student):
    """No stage has more in flight than it needs"""
    _check_in_flight(student, STAGES, CHUNKS, MICRO_BATCHES)


# %% tags=["hidden"]
def a_single_group(student):
    """One group alone: the warm-up of the first stages ends where the forward passes do"""
    for p in (2, 4, 6):
        _check_bubble(student, p, 2, TIMES * p, 1)
        _check_in_flight(student, p, 2, TIMES * p)


def other_sizes(student):
    """Two to five stages, two to four chunks, one to three groups"""
    for p in range(2, 6):
        for v in range(2, 5):
            for groups in range(1, 4):
                m = groups * TIMES * p
                _check_bubble(student, p, v, m, 1)
                _check_bubble(student, p, v, m, 3)
                _check_messages(student, p, v, m)
                _check_in_flight(student, p, v, m)
                _check_groups(student, p, v, m)


@dataclass(frozen=True, kw_only=True)
class _Given(Schedule):
    virtual: int
    passes: Any

    def order(self, stage):
        return self.passes[stage]


def a_second_look(student):
    """The package's own clock, on its strictest network, says the same"""
    for p, v in ((2, 2), (STAGES, CHUNKS), (3, 4)):
        m = 2 * TIMES * p
        passes = [_passes(student, p, v, m, stage) for stage in range(p)]
        given = _Given(pp=p, m=m, virtual=v, passes=passes)
        sizes = f"{p} stages, {v} chunks, {m} micro-batches"
        expect(simulate(given, blocking=True).deadlock, "", f"{sizes}: who waits for whom")
        expect(simulate(given).idle_over_ideal, (p - 1) / (v * m), f"the bubble of {sizes}")


# %% tags=["wrong"]
from minimtnlg.parallel.schedules import Interleaved


def of_the_package(p, v, m, stage):
    """Caught by: the_interleaved_bubble. The package has a schedule of this name: why write it?"""
    return Interleaved(pp=p, virtual=v, m=m).order(stage)


def _with(p, v, m, stage, group, ahead, backwards=None):
    """An interleaved order with this group and this warm-up."""
    turns = [
        (j, chunk)
        for first in range(0, m, group)
        for chunk in range(v)
        for j in range(first, min(first + group, m))
    ]
    forwards = [Forward(j, chunk) for j, chunk in turns]
    backwards = backwards or [Backward(j, v - 1 - chunk) for j, chunk in turns]
    ahead = max(0, min(ahead, v * m))
    pairs = zip(forwards[ahead:], backwards, strict=False)
    steady = [op for pair in pairs for op in pair]
    return forwards[:ahead] + steady + backwards[v * m - ahead :]


def _ahead(p, v, stage):
    return 2 * (p - stage - 1) + (v - 1) * TIMES * p


def warm_up_of_plain_1f1b(p, v, m, stage):
    """Caught by: the_interleaved_bubble. p - stage - 1 passes ahead, as if there were one chunk."""
    return _with(p, v, m, stage, TIMES * p, p - stage - 1)


def one_way_only(p, v, m, stage):
    """Caught by: messages_are_hidden. The way down is filled, the way back is not."""
    return _with(p, v, m, stage, TIMES * p, _ahead(p, v, stage) - (p - stage - 1))


def one_pass_ahead_too_many(p, v, m, stage):
    """Caught by: chunks_in_flight. One more forward pass, to be safe."""
    return _with(p, v, m, stage, TIMES * p, _ahead(p, v, stage) + 1)


def all_micro_batches_at_once(p, v, m, stage):
    """Caught by: chunk_by_chunk. All m are one group: right bubble, far more in flight."""
    return _with(p, v, m, stage, m, 2 * (p - stage - 1) + (v - 1) * m)


def the_other_group(p, v, m, stage):
    """Caught by: chunk_by_chunk. Groups of another paper: 2p for p, or p for 2p."""
    group = (3 - TIMES) * p
    return _with(p, v, m, stage, group, 2 * (p - stage - 1) + (v - 1) * group)


def each_by_itself(p, v, m, stage):
    """Caught by: the_interleaved_bubble. A micro-batch goes through all chunks, then the next."""
    return _with(p, v, m, stage, 1, _ahead(p, v, stage))


def chunks_forward_again(p, v, m, stage):
    """Caught by: the_interleaved_bubble. Backward passes begin with chunk 0, too."""
    same = [
        Backward(op.micro_batch, v - 1 - op.chunk)
        for op in interleaved(p, v, m, stage)
        if isinstance(op, Backward)
    ]
    return _with(p, v, m, stage, TIMES * p, _ahead(p, v, stage), backwards=same)


def same_warm_up_on_all_stages(p, v, m, stage):
    """Caught by: chunks_in_flight. Each stage works as far ahead as the first."""
    return interleaved(p, v, m, 0)


def all_forward_first(p, v, m, stage):
    """Caught by: chunks_in_flight. GPipe with chunks."""
    return _with(p, v, m, stage, TIMES * p, v * m)


def forgets_what_is_left(p, v, m, stage):
    """Caught by: the_interleaved_bubble. The backward passes of the warm-up never come."""
    return interleaved(p, v, m, stage)[: 2 * v * m - min(_ahead(p, v, stage), v * m)]


def gpipe_for_a_single_group(p, v, m, stage):
    """Caught by: a_single_group. With one group alone, all forward passes first."""
    ahead = v * m if m == TIMES * p else _ahead(p, v, stage)
    return _with(p, v, m, stage, TIMES * p, ahead)


def numbers_stages_from_below(p, v, m, stage):
    """Caught by: the_interleaved_bubble. The warm-up grows with the number of the stage."""
    return interleaved(p, v, m, p - 1 - stage)


# %% tags=["picture"]
def picture(student):
    """The student's order on a time line, messages take no time."""
    import matplotlib.pyplot as plt

    from minimtnlg.course.plots import time_line

    passes = [_passes(student, STAGES, CHUNKS, MICRO_BATCHES, stage) for stage in range(STAGES)]
    simulation = played(lambda p, v, m, stage: passes[stage], STAGES, CHUNKS, MICRO_BATCHES)
    right = 2 * (CHUNKS * MICRO_BATCHES + STAGES - 1)
    title = f"Your order ends at {simulation.total:g}; interleaved 1F1B ends at {right}"
    width = min(max(7.5, 0.24 * right), 18)  # so wide that micro-batches have room for their numbers
    _, ax = plt.subplots(figsize=(width, 0.9 + 0.4 * STAGES))
    fig, ax = time_line(simulation, ax, title)
    ax.set_xlabel("time, 1 = a forward pass through a chunk")
    alt = f"Time line of your order, {CHUNKS} chunks a stage:\n{simulation.text(140)}"
    return fig, alt
