# ---
# question: "In which order should the stages of a pipeline compute, so that few of them wait and
#   little is kept?"
# needs: [layout, rank, training state, micro-batch, saved tensor, activation checkpointing,
#   process group, collective, ZeRO]
# introduces:
#   stage: "One of the $p$ pieces of consecutive layers that pipeline parallelism makes of a model,
#     and the ranks that hold it; it gets activations from the stage before and gradients from the
#     one after."
#   schedule: "For each stage, the order of its forward and backward passes and the messages between
#     them: GPipe, 1F1B, interleaved 1F1B."
#   bubble: "The time in which the stages of a pipeline wait instead of computing, divided by the
#     time that they compute: $(p - 1)/m$ with $m$ micro-batches, $(p - 1)/(v m)$ with $v$
#     chunks on each stage."
# proves: "Every schedule equals one process; a tied embedding that is not summed and a forgotten
#   division are noticed."
# minutes: 40
# seconds: 50
# ---

# %% [markdown]
# # Pipelines
#
# Cut the stack of layers like a loaf: each GPU gets a few slices of it, and hands its result to the
# next. No layer is touched, little is sent, and any depth fits. Only one thing goes wrong: while
# one works, the others wait.
#
# This lesson is about waiting. The order of work becomes data: it is drawn, it is simulated, and the
# same object then runs on real ranks.

# %% [markdown]
# ## Question
#
# The training state of MT-NLG takes 10.6 TB (lesson 00). Cut in eight within a node, this is still
# 1.3 TB for each GPU, and a GPU has 0.08. ZeRO 1 does not save enough, ZeRO 2 and 3 would send too
# much (lesson 08). So the stack of 105 layers is cut as well, into $p = 35$ pieces of three layers.
#
# A piece and the ranks that hold it are a **stage**. Stage 0 reads tokens, computes its layers and
# sends the activations on. The last stage computes the loss. Then gradients go back the same way.
# Activations and gradients go between neighbours only; two exceptions come later.
#
# **In which order should the stages compute, so that few of them wait and little is kept?**

# %%
import time
import weakref
from contextlib import nullcontext
from itertools import accumulate

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.distributed as dist
from torch.autograd.graph import get_gradient_edge  # a tensor's place in the graph
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minimtnlg import run
from minimtnlg.config import Model, preset
from minimtnlg.course.check import measured, predict
from minimtnlg.course.mutants import mutant
from minimtnlg.course.plots import COLOURS, time_line
from minimtnlg.course.rank import MTNLG, my_rank
from minimtnlg.course.show import figure, show
from minimtnlg.data.batches import Batch
from minimtnlg.errors import InputError
from minimtnlg.model import GPT
from minimtnlg.parallel.collectives import Recorder, all_reduce, exchange
from minimtnlg.parallel.layout import Layout, virtual_stages
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.parallel.pipeline import carry_out
from minimtnlg.parallel.schedules import (
    Backward,
    Exchange,
    Forward,
    Free,
    GPipe,
    Interleaved,
    Message,
    OneFOneB,
    needed,
    produced,
)
from minimtnlg.parallel.simulate import Simulation, Span, simulate
from minimtnlg.ranks import RankError
from minimtnlg.train.verify import configure, equal, verify

# %% tags=["parameters"]
p: int = 4  # stages, each one rank; 2 to 8
m: int = 8  # micro-batches; a multiple of p, which the interleaved schedule needs
v: int = 2  # chunks of a stage in the interleaved schedule
forward_ms: int = 20  # a stage that only sleeps sleeps so long for a forward pass

# %% [markdown]
# ## Predict
#
# Type your guess in place of `None`, then run the cell. The cell above says how many stages $p$ and
# micro-batches $m$ there are. A backward pass takes twice as long as a forward pass.
#
# 1. The whole batch goes through the $p$ stages at once: forward down, backward up. For what share
#    of the time does a stage compute, in percent?
# 2. Now the batch is cut into $m$ micro-batches that follow each other. Divide the time a stage
#    waits by the time it computes. What is this in percent?
# 3. The order called GPipe makes all forward passes first, then all backward passes. The one called
#    1F1B begins each backward pass as early as it can. How long do its stages wait, compared with
#    GPipe's?
# 4. MT-NLG has 35 stages. On 280 nodes, 240 micro-batches go through each pipeline. If nothing else
#    makes them wait, for what share of the time do its GPUs compute, in percent?

# %%
predict("naive_percent_computing", None)
predict("percent_waiting_over_computing", None)
predict("waiting_in_1f1b", None, choices=["shorter", "the same", "longer"])
predict("mtnlg_percent_computing", None)

# %% [markdown]
# ## Trouble
#
# We begin with the whole batch at once. For timing, a stage's work is a *sleep* of fixed length,
# and what it sends is a real message between real processes. There may be more ranks than cores
# here, and then real arithmetic would be timed wrongly. Sleeping needs no core.

# %%
pause = forward_ms / 1000  # seconds of a forward pass through one stage


def work(op, virtual=1):
    """Sleep as long as this pass takes; return a Span: when it began, when it ended, what it was."""
    start = time.monotonic()  # one clock for all processes of this machine
    time.sleep(pause * (1 if isinstance(op, Forward) else 2) / virtual)
    return Span(start, time.monotonic(), op)


def whole_batch():
    """One batch through all stages, forward and back; returns what this stage did, and when."""
    stage, last = dist.get_rank(), dist.get_world_size() - 1
    x = torch.zeros(1000)
    if stage > 0:
        dist.recv(x, stage - 1)
    spans = [work(Forward(0))]
    if stage < last:
        dist.send(x, stage + 1)  # activations go down
        dist.recv(x, stage + 1)
    spans.append(work(Backward(0)))
    if stage > 0:
        dist.send(x, stage - 1)  # gradients go up
    return spans


# %% [markdown]
# Each rank returns its list of spans. We put them on one time line, in units of one forward pass.
# The package's class for this prints itself; `time_line` draws it.


# %%
def in_flight(ops):
    """After each of these passes: how many forward passes still wait for their backward pass."""
    return list(accumulate(1 if isinstance(op, Forward) else -1 for op in ops))


def on_one_clock(stages):
    """A Simulation of measured spans, a list for each stage."""
    first = min(spans[0].start for spans in stages)
    computing = [
        [Span((start - first) / pause, (end - first) / pause, op) for start, end, op in spans]
        for spans in stages
    ]
    most = [max(in_flight(op for *_, op in spans)) for spans in stages]
    return Simulation(computing, [[] for _ in stages], most, deadlock="")


naive = on_one_clock(run(whole_batch, p))
print(naive.text(120))

# %% tags=["predict"]
fig, ax = time_line(naive, title=f"Measured: one stage works, {p - 1} wait")
ax.set_xlabel("time, 1 = a forward pass through one stage")
figure(
    fig,
    alt=f"Time line of {p} sleeping stages and one batch: forward passes go down the stages one "
    "after the other, then backward passes go up. At no time do two stages compute. Total "
    f"{naive.total:.1f} forward passes; each stage computes for 3 of them.",
)
measured(
    "naive_percent_computing",
    100 * (1 - naive.idle_over_total),
    unit="%",
    tell=f"At best 1/p = {100 / p:.1f} %: {p} GPUs are as fast as one.",
)

# %% [markdown]
# The memory is solved: each GPU holds $1/p$ of the layers. The time is not. What goes through the
# stages here is a single thing, so it can be in one place only.

# %% [markdown]
# ## Idea
#
# ### Many small things
#
# A batch is many sequences, and a step adds up the gradients of its micro-batches anyway (lesson
# 04). So cut the batch into $m$ micro-batches. While stage 1 works on the first, stage 0 begins the
# second.
#
# The simplest such order is **GPipe**: all forward passes, then all backward passes. Here it is
# with four stages and four micro-batches. No rank has run yet. `simulate` takes an order and a
# clock and works out when everything happens.

# %%
by_hand = simulate(GPipe(pp=4, m=4), forward=1, backward=2)
print(by_hand)
fig, ax = time_line(by_hand, title="Simulated: stages wait while the pipeline fills and empties")
ax.set_xlabel("time, 1 = a forward pass through one stage")
figure(
    fig,
    alt="GPipe with 4 stages and 4 micro-batches. Stage 0 makes forward passes 0 to 3 from time 0 "
    "to 4, waits until 13, and makes its backward passes until 21. Stage 3 waits until 3 and "
    "computes without a break until 15. Each stage computes for 12 of 21.",
)
assert by_hand.total == 21 and by_hand.idle == [9, 9, 9, 9]

# %% [markdown]
# Count on the bottom row. Stage 3 waits 3 until the first micro-batch has come down through the
# three stages above. Then it computes, $4 \cdot (1 + 2) = 12$. Then it waits $3 \cdot 2 = 6$ until
# the last gradient has gone up. Stage 0 waits in the middle instead, but just as long: 9.
#
# The waiting is called the **bubble**. In general, with a forward pass of time $\tau_F$ and a
# backward pass of $\tau_B$, a stage computes for $m\,(\tau_F + \tau_B)$ and waits for
# $(p - 1)(\tau_F + \tau_B)$, since the first micro-batch has to go down, and the last one up, through
# the $p - 1$ others. So [S12]
#
# $$\text{bubble} = \frac{\text{waiting}}{\text{computing}} = \frac{p - 1}{m}.$$
#
# In the example it is $9/12 = 0.75$. There is a second way to say it, and the two are often mixed
# up. The **efficiency** is the share of *all* time in which a stage computes [S3, sec. 2.1.2]:
#
# $$\text{efficiency} = \frac{\text{computing}}{\text{all time}} = \frac{m}{m + p - 1}.$$
#
# In the example, $12/21 = 0.57$. The bubble compares with the time that would be needed without
# waiting; it may exceed 1. The efficiency compares with the time that passes; it stays below 1.

# %%
print("4 stages\nmicro-batches   waiting / computing   waiting / all time   efficiency")
for count in (1, 4, 8, 16, 32):
    line = simulate(GPipe(pp=4, m=count))
    over, share = line.idle_over_ideal, line.idle_over_total
    print(f"{count:>13}{over:>22.1%}{share:>21.1%}{1 - share:>13.1%}")
    assert abs(over - 3 / count) < 1e-12 and abs(share - 3 / (count + 3)) < 1e-12

# %% [markdown]
# One micro-batch is the trouble from above. With eight times as many micro-batches as stages, here
# less than a tenth is lost, by either count. So use as many as possible. What stands in the way?
#
# ### What is kept
#
# A forward pass leaves behind what its backward pass will need: the saved tensors of lesson 05, or
# with full recomputation the inputs of its layers. A micro-batch is **in flight** on a stage
# between its forward and its backward pass there. In GPipe all $m$ are in flight at once. More
# micro-batches, a smaller bubble, and more memory.
#
# Look at the last stage. It could begin the backward pass of micro-batch 0 right after its forward
# pass. The gradient would go up early, and each stage could let go of micro-batch 0 early.
#
# This order is **1F1B**, one forward, one backward. The last stage alternates from the start. Each
# stage above it makes one more forward pass ahead, to have something to do until the first gradient
# has come up to it. (Its full name is PipeDream-Flush: the first 1F1B, that of PipeDream, never
# emptied the pipeline between steps and paid with older weights [S12].) Both orders, on the same
# clock:

# %%
gpipe, alternating = simulate(GPipe(pp=p, m=m)), simulate(OneFOneB(pp=p, m=m))
print(f"GPipe\n{gpipe.text(120)}\n\n1F1B\n{alternating.text(120)}")
fig, axes = plt.subplots(2, 1, figsize=(7.5, 0.9 + 0.72 * p), sharex=True)
time_line(gpipe, axes[0], title="GPipe: all forward passes, then all backward passes")
time_line(alternating, axes[1], title="1F1B: backward as early as possible", legend=False)
axes[0].set_xlabel("")
axes[1].set_xlabel("time, 1 = a forward pass through one stage")
fig.tight_layout()
figure(
    fig,
    alt=f"Simulated time lines of {p} stages and {m} micro-batches. Above GPipe: a block of forward "
    "passes, a gap, a block of backward passes. Below 1F1B: stage 0 makes "
    f"{alternating.in_flight[0]} forward passes, then forward and backward passes alternate. They "
    f"end at {gpipe.total:g} and {alternating.total:g}.",
)
assert gpipe.in_flight == [m] * p
assert alternating.in_flight == [min(m, p - stage) for stage in range(p)]

# %% [markdown]
# In 1F1B stage $i$ has at most $p - i$ micro-batches in flight, however many there are in all: as
# many as there are stages from here down to the last.
#
# An order like these, for every stage, is a **schedule**.
#
# ### Shorter ways
#
# The bubble comes from the way through the other $p - 1$ stages, at one pass each. Could each pass
# be shorter? Give every stage $v$ **chunks**, small pieces that do not lie next to each other:

# %%
pieces = virtual_stages(2 * p * v, p * v)
for stage in range(p):
    chunks = [pieces[chunk * p + stage] for chunk in range(v)]
    layers = "   ".join(f"layers {piece.start:>2} to {piece.stop - 1:>2}" for piece in chunks)
    print(f"stage {stage}:   {layers}")

# %% [markdown]
# The pieces, in the order of the layers, are the **virtual stages**: piece $x$ lives on stage $x$
# modulo $p$. A micro-batch now goes down through all stages $v$ times. From the last stage it comes
# back to stage 0, for its next chunk: the one message that is not between neighbours. Each visit is
# $v$ times shorter, so the pipeline fills and empties in $1/v$ of the time. This is the
# **interleaved** schedule [S12]:
#
# $$\text{bubble} = \frac{p - 1}{v\,m}.$$

# %%
one_chunk = dict(forward=1 / v, backward=2 / v)  # passes through one chunk of a stage
few = simulate(OneFOneB(pp=p, m=p))
few_interleaved = simulate(Interleaved(pp=p, m=p, virtual=v), **one_chunk)
print(few_interleaved.text(120))
fig, axes = plt.subplots(2, 1, figsize=(7.5, 1.1 + 1.08 * p), sharex=True, height_ratios=[1, 2])
time_line(few, axes[0], title=f"1F1B, {p} micro-batches", legend=False)
saved_time = few.total - few_interleaved.total
title = f"Interleaved, {v} chunks a stage: ends {saved_time:g} forward passes earlier"
time_line(few_interleaved, axes[1], title=title)
axes[0].set_xlabel("")
axes[1].set_xlabel("time, 1 = a forward pass through one whole stage")
fig.tight_layout()
figure(
    fig,
    alt=f"Simulated time lines of {p} stages and {p} micro-batches. 1F1B ends at "
    f"{few.total:g}. The interleaved schedule with {v} chunks a stage has passes of half "
    f"the length or less and ends at {few_interleaved.total:g}; its bubble is "
    f"{few_interleaved.idle_over_ideal:.1%} instead of {few.idle_over_ideal:.1%}.",
)
interleaved = simulate(Interleaved(pp=p, m=m, virtual=v), **one_chunk)
assert abs(interleaved.idle_over_ideal - (p - 1) / (v * m)) < 1e-12
assert abs(alternating.idle_over_ideal - (p - 1) / m) < 1e-12
assert abs(gpipe.idle_over_ideal - (p - 1) / m) < 1e-12

# %% [markdown]
# Two prices. There are $v$ times as many messages. And stage 0 works ahead with more chunks, so
# more is in flight; *Cost* counts both.
#
# There is also a condition. Stage 0 sends micro-batches in groups through its first chunk. When a
# group of $p$ is through, its first member has just come round for the second chunk. With a smaller
# group, stage 0 would stand still until it comes. A group of more than $p$ would do, with more in
# flight. S12's schedule, and ours, take exactly $p$, so $m$ must be a multiple. GPipe and 1F1B take
# any number, also fewer than there are stages.

# %%
try:
    Interleaved(pp=p, m=p + 1, virtual=v)
except InputError as error:
    print("the package says:", error)

# %% [markdown] tags=["deeper"]
# ### Deeper: what if we force it?
#
# The same order for any number of micro-batches, without the refusal:


# %% tags=["deeper"]
class Forced(Interleaved):
    """The interleaved order for any m, without the refusal."""

    def __post_init__(self):
        pass


def forced_bubble(count, stages=p, chunks=v):
    try:
        forced = simulate(Forced(pp=stages, m=count, virtual=chunks))
        return f"{forced.idle_over_ideal:.1%}"
    except InputError:  # no order to carry out
        return "waits for ever"


print(f"{'m':>3}{'bubble of 1F1B':>17}{'interleaved, forced':>22}{'(p - 1) / (v m)':>18}")
for count in range(p, 2 * p + 1):
    plain = simulate(OneFOneB(pp=p, m=count)).idle_over_ideal
    print(f"{count:>3}{plain:>17.1%}{forced_bubble(count):>22}{(p - 1) / (v * count):>18.1%}")
assert forced_bubble(10, stages=8, chunks=2) == "waits for ever"

# %% [markdown] tags=["deeper"]
# It reaches its formula at the multiples only. Between them some or all of the gain is lost. With
# eight stages of two chunks and ten micro-batches this order would even wait for ever.

# %% [markdown]
# ## Code
#
# ### An order is data
#
# A schedule is a list of passes for each stage. GPipe's fits in a line:


# %%
def written(ops):
    """A list of passes in short: F0 F1 B0 B1."""
    return " ".join(f"{type(op).__name__[0]}{op.micro_batch}" for op in ops)


def gpipe_order(count):
    return [Forward(i) for i in range(count)] + [Backward(i) for i in range(count)]


print("GPipe, any stage:", written(gpipe_order(4)))
for stage in range(3):
    print(f"1F1B, stage {stage} of 3:", written(OneFOneB(pp=3, m=4).order(stage)))

# %% [markdown]
# The order of 1F1B you will write yourself in the exercise.
#
# ### Who waits for whom
#
# What is missing are the messages. It looks easy: after a forward pass send the activations down,
# before a backward pass receive the gradient from below. Two stages, two micro-batches, 1F1B, and
# plain `send` and `recv`, which wait for the other side (lesson 06):


# %%
def two_stages(send):
    mine, theirs = torch.zeros(1000), torch.zeros(1000)
    works = []
    if dist.get_rank() == 0:
        works.append(send(mine, 1))  # after F0
        works.append(send(mine, 1))  # after F1
        dist.recv(theirs, 1)  # before B0
        dist.recv(theirs, 1)  # before B1
    else:
        dist.recv(theirs, 0)  # before F0
        works.append(send(mine, 0))  # after B0
        dist.recv(theirs, 0)  # before F1
        works.append(send(mine, 0))  # after B1
    for work in filter(None, works):  # dist.send waits by itself and returns None
        work.wait()
    return "done"


try:
    outcome = run(two_stages, 2, dist.send, timeout=2)
except RankError as error:
    print(error)
    outcome = error.type
assert outcome == "TimeoutError"

# %% [markdown]
# Stage 0 wants to send the second activation down; stage 1 wants to send the first gradient up.
# Each waits for the other to receive.
#
# `simulate` finds this without any process. It takes passes and transfers for each stage, and
# plays them on the *strictest network* that we can think of: a transfer begins when both sides have
# come to it, and a stage makes its transfers one after the other.

# %%
down = [Message(i, source=0, target=1) for i in range(2)]
up = [Message(i, source=1, target=0) for i in range(2)]


def sends(message):
    return Exchange(sends=(message,), receives=())


def receives(message):
    return Exchange(sends=(), receives=(message,))


# fmt: off
unpaired = [
    [Forward(0), sends(down[0]), Forward(1), sends(down[1]), receives(up[0]), Backward(0),
     receives(up[1]), Backward(1)],
    [receives(down[0]), Forward(0), Backward(0), sends(up[0]), receives(down[1]), Forward(1),
     Backward(1), sends(up[1])],
]
# fmt: on
print(simulate(unpaired))
assert simulate(unpaired).deadlock

# %% [markdown]
# The same circle, in words. (A message names virtual stages; with one chunk on each stage these are
# the stages.)
#
# The way out is that of lesson 06: both transfers are started together. As data, they are *one*
# instruction.

# %%
show(Exchange)

# %%
unpaired[0][3:5] = [Exchange(sends=(down[1],), receives=(up[0],))]
unpaired[1][3:5] = [Exchange(sends=(up[0],), receives=(down[1],))]
print(simulate(unpaired))
assert not simulate(unpaired).deadlock

# %% [markdown]
# One warning. What if the bad order uses `isend`, which does not wait?

# %%
run(two_stages, 2, dist.isend)

# %% [markdown]
# It runs through, on *this* machine. The library here (gloo) lets a receive overtake a send that
# nobody has taken yet. The library of GPUs (NCCL) makes the transfers between two ranks one after the
# other, in the order in which they were started. There the same program is free to hang, and does
# once messages outgrow its buffers.
#
# So a run that ends proves little. A simulation on the strictest network proves it for all of them,
# for the transfers between stages (what else the ranks send in other groups is another matter). And
# it is cheap enough to try everything small:

# %%
tried = 0
for stages in range(1, 6):
    for count in range(1, 9):
        for kind in (GPipe, OneFOneB):
            # blocking: a stage waits in each exchange until it is over, and computes nothing
            assert simulate(kind(pp=stages, m=count), blocking=True).deadlock == ""
            tried += 1
        if stages > 1 and count % stages == 0:
            kind = Interleaved(pp=stages, m=count, virtual=2)
            assert simulate(kind, blocking=True).deadlock == ""
            tried += 1
print(f"{tried} schedules, no deadlock")

# %% [markdown]
# ### Four instructions
#
# The package puts the exchanges into an order by itself. Here is what stage 0 of two stages gets
# for two micro-batches.

# %%
for op in OneFOneB(pp=2, m=2)[0]:
    if isinstance(op, Exchange):
        print(
            "  Exchange: send", [str(x) for x in op.sends], "receive", [str(x) for x in op.receives]
        )
    elif isinstance(op, Free):
        print("  Free", [str(x) for x in op.sends])
    else:
        print(op)

# %% [markdown]
# An `Exchange` starts its transfers and lets the stage go on computing. `Free` is about memory. Once
# an output has been sent, this stage has no use for its numbers. Its backward pass needs what was
# saved *inside*, and the output's place in autograd's graph, from which to start. So the numbers go
# [S13].
#
# Now a program that carries these four instructions out. It knows neither a model nor a schedule.
# What a forward pass is, it is told: a function that gets a tensor and returns two things, what to
# send on and what to keep.


# %%
def carry_out_here(schedule, forward, backward, like):
    """This rank's instructions of `schedule`, first to last. Rank and stage are one number here.

    forward(op, x) returns (what goes to the next stage, what backward will need).
    backward(op, kept, gradient) returns the gradient of x. At the ends of the model x or gradient
    is None. like: a tensor of the shape and type of every message.
    """
    at = dist.get_rank(), schedule.pp, schedule.virtual
    kept, out, coming, works = {}, {}, {}, {}

    def take(message):
        if message:  # None at the ends of the model
            works.pop(message).wait()
            return coming.pop(message)

    for op in schedule[dist.get_rank()]:
        if isinstance(op, Exchange):
            coming |= {message: torch.empty_like(like) for message in op.receives}
            started = exchange(
                [(out[message], message.target % schedule.pp) for message in op.sends],
                [(coming[message], message.source % schedule.pp) for message in op.receives],
            )
            works |= zip((*op.sends, *op.receives), started, strict=True)
        elif isinstance(op, Free):
            for message in op.sends:
                works.pop(message).wait()
                del out[message]
        elif isinstance(op, Forward):
            y, kept[op.micro_batch, op.chunk] = forward(op, take(needed(op, *at)))
            out[produced(op, *at)] = y
        else:
            gradient = take(needed(op, *at))
            out[produced(op, *at)] = backward(op, kept.pop((op.micro_batch, op.chunk)), gradient)


# %% [markdown]
# `needed` and `produced` name the message that a pass waits for and the one it results in. Nobody
# waits for a message before the pass that needs it.
#
# First run: the three schedules on sleeping stages. Starting ranks takes longer than such a step, so
# several calls go into one job. Each schedule runs three times and we keep the fastest: what else
# this machine does can only make a run slower.


# %%
def one_after_the_other(function, calls):
    return [function(*call) for call in calls]


def for_each(function, calls, ranks=p):
    """For each of these calls, the list of what the ranks return."""
    return list(zip(*run(one_after_the_other, ranks, function, calls), strict=True))


# %%
def sleeping(schedule):
    """Carry out the schedule with sleeps for work; returns the spans of this stage."""
    spans, x = [], torch.zeros(1000)

    def forward(op, incoming):
        spans.append(work(op, schedule.virtual))
        return x, None

    def backward(op, kept, gradient):
        spans.append(work(op, schedule.virtual))
        return x

    dist.barrier()  # all begin together
    carry_out_here(schedule, forward, backward, like=x)
    return spans


def fastest(schedules, times):
    """For each schedule, the fastest of so many runs on sleeping stages."""
    runs = for_each(sleeping, [(schedule,) for schedule in schedules for _ in range(times)])
    lines = [on_one_clock(stages) for stages in runs]
    return [
        min(lines[i : i + times], key=lambda line: line.total) for i in range(0, len(lines), times)
    ]


schedules = {
    "GPipe": GPipe(pp=p, m=m),
    "1F1B": OneFOneB(pp=p, m=m),
    "Interleaved": Interleaved(pp=p, m=m, virtual=v),
}
slept = dict(zip(schedules, fastest(schedules.values(), 3), strict=True))
for name, line in slept.items():
    print(f"{name}\n{line.text(120)}\n")
    ideal = simulate(
        schedules[name], forward=1 / schedules[name].virtual, backward=2 / schedules[name].virtual
    )
    assert line.total > 0.999 * ideal.total  # a sleep never ends early
    for stage in range(p):
        assert [op for *_, op in line.computing[stage]] == schedules[name].order(stage)

# %% tags=["predict"]
fig, axes = plt.subplots(3, 1, figsize=(7.5, 1.2 + 1.45 * p), sharex=True, height_ratios=[1, 1, 2])
longest = max(slept.values(), key=lambda line: line.total)
axes[0].set_xlim(0, longest.total)
for ax, (name, line) in zip(axes, slept.items(), strict=True):
    time_line(
        line, ax, title=f"{name}, measured: ends at {line.total:.1f}", legend=name == "Interleaved"
    )
    ax.set_xlabel("")
axes[2].set_xlabel("time, 1 = a forward pass through one whole stage")
fig.tight_layout()
figure(
    fig,
    alt=f"Measured time lines of {p} sleeping stages and {m} micro-batches, the fastest of three "
    "runs, the same pictures as "
    "the simulated ones. "
    + ", ".join(f"{name} ends at {line.total:.1f}" for name, line in slept.items())
    + " forward passes.",
)
measured(
    "percent_waiting_over_computing",
    100 * slept["GPipe"].idle_over_ideal,
    unit="%",
    tell=f"The formula says (p - 1)/m = {100 * (p - 1) / m:.1f} %, if messages take no time.",
)

# %% [markdown]
# ## You might think
#
# ### "1F1B has a smaller bubble than GPipe"
#
# It begins its backward passes so early, and no stage has a long gap in the middle. But look where
# the gaps went.

# %% tags=["predict"]
print(f"simulated ends: GPipe {gpipe.total:g}, 1F1B {alternating.total:g}\n")
print("measured: the fastest of three runs")
print(f"{'':12}{'bubble,':>9}{'':>9}{'ends at,':>10}{'':>11}{'simulated with':>16}")
print(f"{'':12}{'measured':>9}{'formula':>9}{'measured':>10}{'simulated':>11}{'slow messages':>16}")
for name, line in slept.items():
    chunks = schedules[name].virtual
    one = dict(forward=1 / chunks, backward=2 / chunks)  # passes through one chunk
    ideal, slow = (simulate(schedules[name], transfer=t, **one).total for t in (0, 0.1))
    print(
        f"{name:12}{line.idle_over_ideal:>9.1%}{(p - 1) / (chunks * m):>9.1%}"
        f"{line.total:>10.2f}{ideal:>11.2f}{slow:>16.2f}"
    )
shorter = alternating.total < gpipe.total
measured(
    "waiting_in_1f1b",
    "the same" if alternating.total == gpipe.total else "shorter" if shorter else "longer",
    tell="Compared where nothing blurs it, in the simulation. 1F1B only moves the gaps.",
)

# %% [markdown]
# The answer to the prediction comes from the two simulated ends. The measured ends lie above them by
# what messages take and by what a sleep oversleeps, which differs from run to run.
#
# The first micro-batch still has to go down, the last gradient still has to go up, and between
# these each stage has the same work to do. As long as a backward pass is one piece, no order avoids
# that. (Newer schedules split it: the gradient of the input goes up at once, that of the weights
# fills the gaps.) Interleaving makes the way shorter. When messages take time, in the last column a
# tenth of a forward pass each, all of them get slower and the two still hardly differ.
#
# What 1F1B saves is memory. From the measured runs, how many forward passes of stage 0 wait for
# their backward pass?

# %%
fig, ax = plt.subplots(figsize=(7.5, 3.2))
for name, line in slept.items():
    ends = [0] + [end for _, end, _ in line.computing[0]]
    counts = [0] + in_flight(op for *_, op in line.computing[0])
    share = schedules[name].virtual
    label = name if share == 1 else f"{name}, a chunk counts 1/{share}"
    ax.step(ends, np.array(counts) / share, where="post", label=label, marker="")
most = {name: line.in_flight[0] / schedules[name].virtual for name, line in slept.items()}
ax.set(
    xlabel="time, 1 = a forward pass through one whole stage",
    ylabel="in flight on stage 0, micro-batches",
    title=", ".join(f"{name} {number:g}" for name, number in most.items())
    + " micro-batches at most",
)
ax.legend()
figure(
    fig,
    alt=f"Micro-batches in flight on stage 0 over time, measured. GPipe rises to {m} and stays "
    f"there until its backward passes begin. 1F1B rises to {slept['1F1B'].in_flight[0]} and stays "
    "at or below that. Interleaved, counted in whole stages, rises to "
    f"{slept['Interleaved'].in_flight[0] / v:g}.",
)
print("in flight at most, stages 0 to", p - 1)
for name, line in slept.items():
    print(
        f"  {name:12} {line.in_flight}"
        + (f" chunks of 1/{v} stage" if name == "Interleaved" else "")
    )
assert slept["GPipe"].in_flight == [m] * p
assert slept["1F1B"].in_flight == [min(m, p - stage) for stage in range(p)]
assert slept["Interleaved"].in_flight == [
    min(2 * (p - stage - 1) + (v - 1) * p + 1, v * m) for stage in range(p)
]

# %% [markdown]
# And through memory, 1F1B helps against the bubble after all. GPipe cannot afford many
# micro-batches, because it keeps them all. 1F1B can, because it does not. So it may raise $m$, and
# it is $m$ that makes the bubble small.

# %% [markdown]
# ## Proof
#
# Does a pipeline compute what one process computes? A small GPT in float64, with uneven masks. The
# loss of a step is the mean over all unmasked tokens of the batch (lesson 04), so each
# micro-batch's sum is divided by the number of tokens of *all* of them.

# %%
config = Model(layers=p * v, hidden=32, heads=4, seq=16, vocab=64)
uneven_config = Model(layers=p * v + 1, hidden=32, heads=4, seq=16, vocab=64)


def micro_batches(count):
    """`count` micro-batches of two random sequences, with tokens masked at random."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(config.vocab, (count, 2, config.seq + 1), generator=draw)
    masks = (
        torch.rand(count, 2, config.seq, generator=draw) < torch.rand(count, 1, 1, generator=draw)
    ).float()
    masks[:, :, 0] = 1
    return [Batch(x[:, :-1], x[:, 1:], mask) for x, mask in zip(ids, masks, strict=True)]


def one_process(batches, config=config):
    """(loss, {name: gradient}) of one process that sees the whole batch at once."""
    fields = [[getattr(x, name) for x in batches] for name in ("tokens", "labels", "mask")]
    whole = Batch(*map(torch.cat, fields))
    model = GPT(config, dtype=torch.float64)
    loss = model.loss(whole) / whole.mask.sum()
    loss.backward()
    return loss.item(), {name: w.grad for name, w in model.named_parameters()}


# %% [markdown]
# And the pipeline. A stage is the same model with fewer blocks. Two places are worth a look. What
# goes on is `y.detach()`: the next stage is another process, and no graph reaches across. And what
# is kept is the *edge* of $y$, its place in the graph, without its numbers.


# %%
def stages_of_gpt(schedule, batches, config=config, tie=True):
    """(loss, {name: gradient}) of this stage; the loss is 0 on all but the last."""
    mesh = Mesh(Layout(pp=schedule.pp))
    model = GPT(config, mesh, dtype=torch.float64, virtual=schedule.virtual)
    tokens, losses = sum(batch.mask.sum() for batch in batches), [0.0]

    def forward(op, x):
        batch = batches[op.micro_batch]
        if x is not None:
            x.requires_grad_()
        y = model.stage(batch, x, chunk=op.chunk)
        if model.ends(op.chunk):
            y = y / tokens
            losses.append(y.item())
        return y.detach(), (x, get_gradient_edge(y))  # backward begins there, without y's numbers

    def backward(op, kept, gradient):
        x, edge = kept
        torch.autograd.backward(edge, gradient)
        return None if x is None else x.grad

    size = (config.seq, len(batches[0].tokens), config.hidden)
    carry_out_here(schedule, forward, backward, like=torch.empty(size, dtype=torch.float64))
    if tie and mesh.place.pp in (0, schedule.pp - 1):
        all_reduce(model.embedding.weight.grad, mesh.ends)
    return sum(losses), {name: w.grad for name, w in model.named_parameters()}


def difference(ranks, serial):
    """Largest difference from the serial run, relative to its largest: (of the loss, {name: ...})."""
    loss, gradients = serial
    far = {}
    for _, found in ranks:
        for name, gradient in found.items():
            off = (gradient - gradients[name]).abs().max() / gradients[name].abs().max()
            far[name] = max(far.get(name, 0), off.item())
    assert set(far) == set(gradients)  # every parameter is on some stage
    return abs(ranks[-1][0] - loss) / loss, far


# %% [markdown]
# ### One tensor is off
#
# First without the last two lines of `stages_of_gpt`, `tie=False`.

# %%
batches = micro_batches(m)
((serial,),) = for_each(one_process, [(batches,)], ranks=1)
loss_off, far = difference(run(stages_of_gpt, p, OneFOneB(pp=p, m=m), batches, tie=False), serial)
print(f"loss off by {loss_off:.0e}")
wrong = {name: off for name, off in far.items() if off > 1e-10}
for name, off in wrong.items():
    print(f"{name}: off by {off:.2f}")
rest = max(off for name, off in far.items() if name not in wrong)
print(f"the other {len(far) - len(wrong)} tensors: off by at most {rest:.0e}")
assert list(wrong) == ["embedding.weight"]

# %% [markdown]
# The embedding is used twice: to look tokens up, and at the end to make logits (lesson 01). In a
# pipeline the first use is on the first stage and the second on the last. So both stages hold a
# copy, and each has only its own share of the gradient. The two must be added, once, after all
# micro-batches. That is an all-reduce in a process group of two, `mesh.ends`. Forget it and the
# copies drift apart from the first step on.
#
# ### All schedules
#
# With the sum in place: any schedule, fewer micro-batches than stages, and layers that do not
# divide evenly.

# %%
cases = {
    "GPipe": (GPipe(pp=p, m=m), config),
    "1F1B": (OneFOneB(pp=p, m=m), config),
    f"Interleaved, {v} chunks": (Interleaved(pp=p, m=m, virtual=v), config),
    "1F1B, one micro-batch": (OneFOneB(pp=p, m=1), config),
    f"1F1B, m = {p - 1} < p": (OneFOneB(pp=p, m=p - 1), config),
    f"1F1B, {uneven_config.layers} layers": (OneFOneB(pp=p, m=m), uneven_config),
}
calls = [(schedule, micro_batches(schedule.m), shape) for schedule, shape in cases.values()]
serials = for_each(one_process, [call[1:] for call in calls], ranks=1)
parallels = for_each(stages_of_gpt, calls)
for name, (serial,), ranks in zip(cases, serials, parallels, strict=True):
    loss_off, far = difference(ranks, serial)
    print(f"{name:26} loss off by {loss_off:.0e}, gradients by {max(far.values()):.0e}")
    assert loss_off < 1e-13 and max(far.values()) < 1e-12

# %% [markdown]
# ### The package's version
#
# The package's interpreter is `carry_out`. It also serves tensor parallelism, evaluation without
# backward passes and stages on which all is frozen. Here it runs the same steps.

# %%
show(carry_out)


# %%
def with_the_package(schedule, batches, config=config):
    """The same step, carried out by the package."""
    mesh = Mesh(Layout(pp=schedule.pp))
    model = GPT(config, mesh, dtype=torch.float64, virtual=schedule.virtual)
    tokens, losses = sum(batch.mask.sum() for batch in batches), [0.0]

    def forward(micro_batch, chunk, x):
        y = model.stage(batches[micro_batch], x, chunk=chunk)
        if model.ends(chunk):
            y = y / tokens
            losses.append(y.item())
        return y

    def backward(micro_batch, chunk, y, gradient):
        torch.autograd.backward(y, gradient)

    size = (config.seq, len(batches[0].tokens), config.hidden)
    carry_out(schedule, mesh, forward, backward, shape=size, dtype=torch.float64)
    if mesh.place.pp in (0, schedule.pp - 1):
        all_reduce(model.embedding.weight.grad, mesh.ends)
    return sum(losses), {name: w.grad for name, w in model.named_parameters()}


assert GPipe(pp=p, m=m).order(0) == gpipe_order(m)
same = [call[:2] for call in calls[:3]]  # GPipe, 1F1B and interleaved from above
for name, ours, theirs in zip(cases, parallels, for_each(with_the_package, same), strict=False):
    far = max(
        (mine[w] - other[w]).abs().max().item()
        for (_, mine), (_, other) in zip(ours, theirs, strict=True)
        for w in mine
    )
    print(f"{name:26} our interpreter and the package's differ by {far:.0e}")
    assert far < 1e-14

# %% [markdown]
# ### A division forgotten
#
# The commonest mistake in pipelines raises no error: to add up the means that a loss function
# returns for each micro-batch (lessons 04 and 07). The gradient is then about $m$ times too large,
# and Adam, which divides it by its own size, hardly shows it. So a pipeline that trains well is not
# proven right; comparing with one process proves it.
#
# `minimtnlg verify` makes this comparison for any layout, and `mutant` switches a known mistake on
# in the ranks (lesson 07). First without one, then with both mistakes of this section:

# %%
shape = [
    f"model.layers={p * v}",
    "model.hidden=32",
    "model.heads=8",
    "model.seq=32",
    "model.vocab=64",
]
layout = [f"parallel.pp={p}", "parallel.schedule=interleaved", f"parallel.virtual={v}"]
to_verify = configure("nano", shape + layout)
for mistake in ("none", "tied_embedding_not_summed", "no_division_by_micro_batches"):
    with nullcontext() if mistake == "none" else mutant(mistake) as bug:
        result = verify(to_verify)
    print(f"{mistake}: {bug.belief if bug else 'equal to one process'}")
    print("  off by", ", ".join(f"{k} {x:.0e}" for k, x in result["max_abs_diff"].items()))
    assert equal(result) == (mistake == "none")

# %% [markdown]
# ## Cost
#
# ### Time
#
# Sleeping stages again, with more and more micro-batches, beside the two formulas. Each point is the
# faster of two runs.

# %%
counts = [1, p, 2 * p, 4 * p]
kinds = {
    "GPipe": (GPipe, 1, {}),
    "1F1B": (OneFOneB, 1, {}),
    f"Interleaved, v = {v}": (Interleaved, v, {"virtual": v}),
}
swept, slowest = {}, 0
for name, (kind, chunks, more) in kinds.items():
    fitting = [count for count in counts if chunks == 1 or count % p == 0]
    lines = fastest([kind(pp=p, m=count, **more) for count in fitting], 2)
    swept[name] = dict(zip(fitting, lines, strict=True))
    for count, line in swept[name].items():
        best = 3 * (count + (p - 1) / chunks)  # sleeps and messages can only add to it
        slowest = max(slowest, line.total / best - 1)
        assert line.total > 0.999 * best
print(f"no run was faster than its formula; the slowest took {slowest:.1%} longer")

# %%
fine = np.geomspace(counts[0], counts[-1], 100)
long = fine[fine >= p]
fig, axes = plt.subplots(1, 2, figsize=(8.5, 3.6))
looks = [
    dict(marker="o", ms=9, fillstyle="none", color=COLOURS["blue"]),
    dict(marker="s", color=COLOURS["orange"]),
    dict(marker="^", color=COLOURS["red"]),
]
for (name, lines), look in zip(swept.items(), looks, strict=True):
    bubbles = [line.idle_over_ideal for line in lines.values()]
    efficiencies = [1 - line.idle_over_total for line in lines.values()]
    axes[0].plot(list(lines), bubbles, ls="", label=name, **look)
    axes[1].plot(list(lines), efficiencies, ls="", **look)
solid = dict(color="black", ls="-", lw=1, marker="")
dashed = solid | dict(ls="--")
axes[0].plot(fine, (p - 1) / fine, label="(p - 1) / m", **solid)
axes[0].plot(long, (p - 1) / (v * long), label="(p - 1) / (v m)", **dashed)
axes[1].plot(fine, fine / (fine + p - 1), label="m / (m + p - 1)", **solid)
axes[1].plot(long, long / (long + (p - 1) / v), label="m / (m + (p - 1) / v)", **dashed)
axes[0].set(xscale="log", yscale="log", ylabel="waiting / computing", title="Bubble")
axes[1].set(xscale="log", ylim=(0, 1), ylabel="computing / all time", title="Efficiency")
axes[0].set_yticks([0.1, 0.2, 0.5, 1, 2, 5], ["0.1", "0.2", "0.5", "1", "2", "5"])
for ax in axes:
    ax.set_xlabel("micro-batches m")
    ax.set_xticks(counts, [str(n) for n in counts])
    ax.minorticks_off()
    ax.legend(fontsize=8)
title = f"{p} sleeping stages, measured: more micro-batches, less waiting"
fig.suptitle(title, x=0.02, ha="left", fontsize=12)
fig.tight_layout()
figure(
    fig,
    alt=f"Two panels against the number of micro-batches, {p} stages. Left, waiting by computing, "
    "both axes logarithmic: "
    + "; ".join(
        name + " " + ", ".join(f"{line.idle_over_ideal:.2f} at {n}" for n, line in lines.items())
        for name, lines in swept.items()
    )
    + f". The formula (p - 1) / m gives {p - 1} at 1 and {(p - 1) / (4 * p):.2f} at {4 * p}. Right, "
    "the efficiency of the same runs, which rises towards 1.",
)

# %% [markdown]
# No point can lie on the fast side of its line, and the cell asserts it: a message takes a moment,
# and a sleep ends a moment late. How far off they lie on this machine is printed above the figure.
#
# ### Messages
#
# Each micro-batch crosses each border between virtual stages twice, down and up. So a step takes
# $2m\,(pv - 1)$ messages in all, each of $sbh$ numbers. The recorder of lesson 06 counts what was
# sent.


# %%
def messages_of(schedule, batches):
    with Recorder() as seen:
        stages_of_gpt(schedule, batches)
    return [call for call in seen.calls if call.operation == "send"]


batches = micro_batches(m)
calls = [(schedule, batches) for schedule in schedules.values()]
for (name, schedule), ranks in zip(schedules.items(), for_each(messages_of, calls), strict=True):
    sent = sum(ranks, [])
    formula = 2 * m * (p * schedule.virtual - 1)
    size = sent[0].elements
    print(f"{name:12} {len(sent):>4} messages, formula {formula:>4}, {size:,} numbers each")
    assert len(sent) == formula
    assert {call.elements for call in sent} == {config.seq * 2 * config.hidden}

# %% [markdown]
# ### Memory
#
# What a stage keeps are the micro-batches in flight, counted above.
#
# The interleaved schedule has more in flight. Before its first backward pass, stage 0 sends all $p$
# micro-batches of the first group through all its chunks, and then some. In whole stages, it keeps
# $1 + (p - 1)/(pv)$ times as much as 1F1B [S13].

# %%
chunks = min(2 * (p - 1) + (v - 1) * p + 1, v * m)
print(f"stage 0: {slept['Interleaved'].in_flight[0]} chunks in flight, measured; formula {chunks}")
print(f"in whole stages {chunks / v:g}, in 1F1B {min(m, p)}: {chunks / v / min(m, p):.3f} times")
print(f"1 + (p - 1) / (p v) = {1 + (p - 1) / (p * v):.3f}")

# %% [markdown] tags=["deeper"]
# ### Deeper: the tensors of real stages
#
# Now real stages. We take three layers each and full recomputation, as in MT-NLG. Then of every
# micro-batch in flight a stage keeps the inputs of three layers, three tensors $[s, b, h]$.
#
# The meter sees every operation of PyTorch. It adds up each storage that appears, and takes it off
# when its last reference dies. (Lesson 05 built it in a deeper part.) We read it at the end of each
# forward pass, when most is kept.


# %% tags=["deeper"]
class Meter(TorchDispatchMode):
    """Bytes that are alive of the storages that were made inside the block."""

    def __init__(self, already_there):
        super().__init__()
        self.alive = 0
        self.known = {x.untyped_storage()._cdata for x in already_there}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor) and x.untyped_storage()._cdata not in self.known:
                storage = x.untyped_storage()
                self.known.add(storage._cdata)
                self.alive += storage.nbytes()
                weakref.finalize(storage, self.freed, storage._cdata, storage.nbytes())
        return result

    def freed(self, name, size):
        self.known.discard(name)
        self.alive -= size


three_layers = Model(layers=3 * p, hidden=32, heads=4, seq=32, vocab=64)
one_tensor = 32 * 2 * 32 * 4  # bytes of [s, b, h] in fp32


def alive_after_forward(schedule, keep_outputs=False):
    """Tensors [s, b, h] that are alive on this stage at the end of each of its forward passes."""
    model = GPT(three_layers, Mesh(Layout(pp=schedule.pp)), recompute="full")
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(three_layers.vocab, (2, three_layers.seq + 1), generator=draw)
    batch = Batch(ids[:, :-1], ids[:, 1:], torch.ones(2, three_layers.seq))
    for w in model.parameters():
        w.grad = torch.zeros_like(w)  # there from the start, so that the meter leaves them out
    weights = list(model.parameters())
    alive = []

    def forward(op, x):
        if x is not None:
            x.requires_grad_()
        y = model.stage(batch, x, chunk=op.chunk)
        alive.append(meter.alive / one_tensor)
        return y.detach(), (x, y if keep_outputs else get_gradient_edge(y))

    def backward(op, kept, gradient):
        x, y = kept
        torch.autograd.backward(y, gradient)
        return None if x is None else x.grad

    with Meter([ids, batch.mask, *weights, *(w.grad for w in weights)]) as meter:
        like = torch.empty(three_layers.seq, 2, three_layers.hidden)
        carry_out_here(schedule, forward, backward, like)
    return alive


calls = {
    "GPipe": (schedules["GPipe"],),
    "1F1B": (schedules["1F1B"],),
    "1F1B, outputs kept": (schedules["1F1B"], True),
}
alive = dict(zip(calls, for_each(alive_after_forward, list(calls.values())), strict=True))
print(f"tensors [s, b, h] alive at most, stages 0 to {p - 1}")
for name, stages in alive.items():
    print(f"{name:20}" + "".join(f"{max(tensors):>8.1f}" for tensors in stages))
rising = np.diff(alive["GPipe"][0])[1:]
assert (abs(rising - 3) < 0.1).all()  # three more with each micro-batch

# %% tags=["deeper"]
fig, ax = plt.subplots(figsize=(7.5, 3.4))
for name, stages in alive.items():
    ax.plot(range(m), stages[0], label=name)
ax.set(
    xlabel="after the forward pass of micro-batch",
    ylabel="tensors [s, b, h] alive on stage 0",
    ylim=(0, None),
    title=f"1F1B stops at {alternating.in_flight[0]} micro-batches, three tensors each",
)
ax.legend()
figure(
    fig,
    alt="Tensors alive on stage 0 at the end of each forward pass. GPipe rises by 3 with each "
    f"micro-batch, to {alive['GPipe'][0][-1]:.1f} at the last. 1F1B rises until "
    f"{alternating.in_flight[0]} are in flight and stays at {max(alive['1F1B'][0]):.1f}. With "
    f"outputs kept it stays at {max(alive['1F1B, outputs kept'][0]):.1f}.",
)

# %% [markdown] tags=["deeper"]
# Each micro-batch in flight adds its three tensors. A few more are always there: what is on its way
# in or out, and what the pass at work uses itself.
#
# If the stage holds on to the outputs that it has sent, each of them is a fourth tensor, kept for
# nothing. The fewer tensors recomputation leaves, the more it matters.
#
# The last stage stands out. Its output is not sent, so it also keeps the logits of each micro-batch
# in flight, and what the loss saved. In 1F1B that is one micro-batch, in GPipe all of them.

# %% [markdown]
# ## MT-NLG
#
# ### How many micro-batches
#
# The batch has 1920 sequences. With $d$ replicas and one sequence a micro-batch, each pipeline gets
# $m = 1920/d$ of them. (The paper does not state the micro-batch; everyone who modelled the run
# assumes 1.) The schedule was 1F1B [S3, sec. 2.1.2]; that it was not interleaved is inferred.


# %% tags=["predict"]
def efficiency(stages, count):
    return count / (count + stages - 1)


step_seconds = {280: 60.1, 350: 50.2, 420: 44.4}  # nodes: seconds of a step [S3]
print(f"{'nodes':>5}{'replicas':>10}{'m':>5}{'bubble':>9}{'efficiency':>12}{'seconds waiting':>17}")
for nodes, seconds in step_seconds.items():
    count = 1920 * 35 // nodes  # 280 GPUs a replica, 8 GPUs a node
    share = efficiency(35, count)
    print(
        f"{nodes:>5}{1920 // count:>10}{count:>5}{34 / count:>9.1%}{share:>12.1%}"
        f"{(1 - share) * seconds:>12.1f} of {seconds}"
    )
line = simulate(OneFOneB(pp=35, m=240))
assert abs(1 - line.idle_over_total - efficiency(35, 240)) < 1e-12
measured(
    "mtnlg_percent_computing",
    100 * (1 - line.idle_over_total),
    unit="%",
    tell="240 micro-batches in 35 stages: 240/274. The bubble, 34/240, is 14.2 %.",
)

# %% [markdown]
# The efficiencies follow from $p$ and $m$ (derived); so do the seconds, if the bubble were the only
# waiting. More nodes at the same batch mean more replicas and fewer micro-batches for each. The work
# of a pipeline gets shorter, the waiting does not. That is one reason why 420 nodes are not $420/280 = 1.5$
# times as fast as 280.
#
# What counts is the ratio of $m$ to $p$. The paper says that 4 or 8 times as many micro-batches as
# stages give 81 % and 90 % [S3, sec. 2.1.2]; for 35 stages it is a little less.

# %%
fine = np.geomspace(1, 1000, 200)
points = {
    "first steps, m = 4": (4, "v", "red"),
    "m = 4p": (140, "s", "orange"),
    "m = 8p": (280, "D", "green"),
    "420 nodes, m = 160": (160, "^", "sky"),
    "350 nodes, m = 192": (192, "P", "pink"),
    "280 nodes, m = 240": (240, "o", "black"),
}
fig, ax = plt.subplots(figsize=(7.5, 3.8))
ax.plot(fine, 100 * efficiency(35, fine), marker="", label="m / (m + 34)")
for name, (count, marker, colour) in points.items():
    share = 100 * efficiency(35, count)
    look = dict(ls="", marker=marker, color=COLOURS[colour], ms=8)
    ax.plot(count, share, label=f"{name}: {share:.1f} %", **look)
ax.set(xscale="log", xlabel="micro-batches m", ylabel="efficiency, %", ylim=(0, 100))
ax.set_xticks([1, 4, 10, 35, 100, 240, 1000], ["1", "4", "10", "35", "100", "240", "1000"])
ax.minorticks_off()
ax.set_title("35 stages need hundreds of micro-batches")
ax.legend(loc="upper left", fontsize=9)
figure(
    fig,
    alt="Efficiency m / (m + 34) of 35 stages against the number of micro-batches, logarithmic: "
    + "; ".join(f"{name}: {100 * efficiency(35, n):.1f} %" for name, (n, *_) in points.items())
    + ".",
)

# %% [markdown]
# The point on the far left is real. The batch grew from 32 sequences to 1920 over the first 12 B
# tokens [S3]. On 8 replicas the first steps had $32/8 = 4$ micro-batches for 35 stages (derived):
# most of the pipeline was empty at any time. A schedule that needs a multiple of $p$ could not have
# taken these steps.
#
# ### What it keeps
#
# Of every micro-batch in flight a GPU keeps the inputs of three layers, $3 \cdot 2\,sbh$ bytes
# (lesson 05). All eight slices of a stage keep the same ones, unless MT-NLG partitioned them, which
# is not published.

# %%
model = preset("mtnlg-530b").model
tensor = 2 * model.seq * model.hidden  # bytes of [s, b, h] in 16 bits, b = 1
by_stage = np.arange(35)
kept = {"GPipe": np.full(35, 240) * 3 * tensor, "1F1B": np.array(line.in_flight) * 3 * tensor}
assert line.in_flight == [min(240, 35 - stage) for stage in range(35)]
state_of_first = 41.2e9  # bytes of training state on stage 0 (lesson 05)
print(
    f"stage 0 keeps {kept['GPipe'][0] / 1e9:.1f} GB in GPipe, {kept['1F1B'][0] / 1e9:.1f} GB in 1F1B"
)
print(f"the last keeps {kept['1F1B'][-1] / 1e9:.2f} GB in 1F1B")
print(f"with the state, GPipe would need {(kept['GPipe'][0] + state_of_first) / 1e9:.0f} of 80 GB")
print(
    f"outputs not freed on stage 0: 35 x {tensor / 2**20:.0f} MiB = {35 * tensor / 2**30:.2f} GiB"
)
assert kept["GPipe"][0] + state_of_first > 80e9 > kept["1F1B"][0] + state_of_first
assert round(kept["1F1B"][0] / 1e9, 1) == 8.8 and round(35 * tensor / 2**30, 2) == 2.73

# %%
fig, ax = plt.subplots(figsize=(7.5, 3.4))
for name, sizes in kept.items():
    ax.plot(by_stage, sizes / 1e9, label=name, markevery=5)
mine = MTNLG.place(my_rank()).pp
ax.plot(mine, kept["1F1B"][mine] / 1e9, "D", color="black", ms=8, label="your rank")
ax.axhline(
    80 - 41.2, color="black", ls=":", lw=1.2, marker="", label="free beside the state, stage 0"
)
ax.set(xlabel="stage", ylabel="GB kept on each GPU", ylim=(0, 66))
ax.set_title("MT-NLG: GPipe would keep 60 GB, 1F1B keeps 9 GB or less")
ax.legend(fontsize=9, loc="center right", bbox_to_anchor=(1, 0.36))
figure(
    fig,
    alt="Layer inputs kept on each GPU, by stage, computed. GPipe: 60.4 GB on all 35 stages, more "
    "than the 38.8 GB that are free beside the training state of stage 0. 1F1B: from 8.8 GB on "
    f"stage 0 down to 0.25 GB on stage 34; your rank, stage {mine}, "
    f"{kept['1F1B'][mine] / 1e9:.1f} GB.",
)

# %% [markdown]
# With GPipe, 240 micro-batches would not have fitted. The 2.73 GiB for outputs that were sent long
# ago is the published figure [S13].
#
# ### Interleaved
#
# Would three chunks of one layer have helped? 240 is not a multiple of 35, and neither are 192 and
# 160. But an earlier benchmark of this model [S12, Table 1; S9] had chunks of one layer, and 2520
# sequences on 9 replicas: $m = 280$ (derived).

# %%
for count in (240, 192, 160):
    try:
        Interleaved(pp=35, m=count, virtual=3)
    except InputError as error:
        print(str(error).split(":")[0], "- refused")
print(f"m = 280: bubble {34 / 280:.1%} in 1F1B, {34 / 3 / 280:.1%} interleaved")
chunked = simulate(Interleaved(pp=35, m=70, virtual=3))  # in flight it has as many as with m = 280
print(f"in flight on stage 0: {chunked.in_flight[0]} layers instead of {3 * 35}")
assert abs(chunked.idle_over_ideal - 34 / 3 / 70) < 1e-12 and chunked.in_flight[0] == 139

# %% [markdown]
# ### Your rank

# %%
rank = my_rank()
place = MTNLG.place(rank)
pipeline = MTNLG.group(rank, "pp")
layers = virtual_stages(105, 35)[place.pp]
before = pipeline[place.pp - 1] if place.pp > 0 else "none"
after = pipeline[place.pp + 1] if place.pp < 34 else "none"
print(f"rank {rank}: stage {place.pp} of 0..34, layers {layers.start} to {layers.stop - 1}")
print(f"activations come from rank {before}, gradients from rank {after}")
print(f"in flight at most {line.in_flight[place.pp]} of 240 micro-batches")
per_micro_batch = 60.1 / (240 + 34)  # seconds of forward and backward on one stage, if equal
print(f"one micro-batch keeps it busy for {per_micro_batch:.3f} s (derived)")
print(f"a message, {tensor / 1e6:.0f} MB, takes {1e3 * tensor / 25e9:.1f} ms at 25 GB/s")

# %% [markdown]
# A message takes little beside the work, and only the neighbours see it. This is why stages may
# lie on different nodes, and slices may not (lesson 09).

# %% [markdown] tags=["deeper"]
# ### Deeper: 81 % and 90 %
#
# For how many stages are the paper's two numbers right as printed?

# %% tags=["deeper"]
for stages in (8, 16, 35):
    row = ", ".join(f"m = {n}p: {efficiency(stages, n * stages):.1%}" for n in (4, 8))
    print(f"p = {stages:>2}   {row}")
as_printed = [
    stages
    for stages in range(2, 100)
    if [round(100 * efficiency(stages, n * stages)) for n in (4, 8)] == [81, 90]
]
print("rounded to 81 % and 90 % for p =", as_printed)
assert as_printed == list(range(11, 17))
assert [round(100 * efficiency(35, n * 35), 1) for n in (4, 8)] == [80.5, 89.2]

# %% [markdown] tags=["deeper"]
# For 11 to 16 stages. With ever more stages it would be $4/5 = 80$ % and $8/9 = 88.9$ %.

# %% [markdown] tags=["deeper"]
# ### Deeper: unequal stages, slow messages
#
# The formulas assume equal stages and messages that take no time. Neither is quite true. The last
# stage also multiplies with the embedding to make logits, which is a fifth of a layer. And a
# message takes its 3.4 ms, or an eighth if each GPU of the stage sends an eighth of it and the
# pieces are gathered over there [S12]. We let `simulate` count, with a backward pass of
# three forward passes, since each layer is computed again.

# %% tags=["deeper"]
h, s = model.hidden, model.seq
logits = 2 * model.vocab * s * h / (24 * s * h**2 + 4 * s**2 * h)  # in forward passes of a layer
forward_seconds = per_micro_batch / 4
print(f"logits: {logits:.2f} of a layer\n")
cases = {
    "equal stages, no time for messages": (0, 0),
    "logits on the last stage": (logits / 3, 0),
    "logits, messages cut in eight": (logits / 3, tensor / 8 / 25e9),
    "logits, whole messages": (logits / 3, tensor / 25e9),
}
print("efficiency of the other 34 stages, m = 240")
for name, (more, seconds) in cases.items():
    slow = simulate(
        OneFOneB(pp=35, m=240),
        forward=[1] * 34 + [1 + more],
        backward=[3] * 34 + [3 + 2 * more],  # logits are not computed again
        transfer=seconds / forward_seconds,
    )
    print(f"  {name:36}{240 * 4 / slow.total:>7.1%}")

# %% [markdown] tags=["deeper"]
# The slowest stage sets the pace for all: 5 % more work there is 5 % more time everywhere. What
# messages cost is rather overstated, since the network of `simulate` is the strictest one. Whether
# MT-NLG cut its messages in eight is not stated.

# %% [markdown]
# ## Check yourself
#
# 1. A pipeline has 8 stages and 32 micro-batches. What are its bubble and its efficiency? How many
#    micro-batches does an efficiency of 95 % take?
#
# <details><summary>Answer</summary>
#
# Bubble $7/32 = 21.9$ %, efficiency $32/39 = 82.1$ %. For 95 % of $m + p - 1$,
# $m = 19\,(p - 1)$, which is $19 \cdot 7 = 133$.
#
# </details>
#
# 2. One report says that MT-NLG's pipeline lost 14 %, another 12 %. Who is right?
#
# <details><summary>Answer</summary>
#
# Both can be: $34/240 = 14.2$ % of the computing time, $34/274 = 12.4$ % of all time. Ask for the
# denominator.
#
# </details>
#
# 3. With $p = 35$ and the 4 micro-batches of the first steps, how many are in flight on each stage
#    in 1F1B? And in GPipe?
#
# <details><summary>Answer</summary>
#
# $\min(4, 35 - i)$ on stage $i$: four on stages 0 to $35 - 4 = 31$, then 3, 2, 1. In GPipe four
# everywhere. With so few micro-batches the two hardly differ.
#
# </details>
#
# 4. Somebody adds the gradients of the tied embedding of both ends after every micro-batch, in
#    place, instead of once at the end. What comes out?
#
# <details><summary>Answer</summary>
#
# A gradient that is too large. After the first all-reduce, both copies hold the sum. The next one
# adds up two of these, so what came first is counted again and again.
#
# </details>
#
# 5. A stage ends in $x + \text{dropout}(y)$, and its output is let go once it is sent. What would
#    change if it ended in a $\tanh$?
#
# <details><summary>Answer</summary>
#
# The sum keeps nothing, so letting go of the output frees it. $\tanh$ keeps its own output for
# backward (lesson 05). To drop our reference would do no harm and free nothing. To overwrite the
# memory, as some programs do, would make the gradient wrong.
#
# </details>

# %% [markdown]
# ## Exercises
#
# Write the order of 1F1B, for any number of stages and micro-batches, then that of interleaved
# 1F1B. At last look for a schedule of your own that waits less and keeps within its memory.
#
# Now you have three ways of cutting, each proved alone. Lesson 12 uses them at once.
