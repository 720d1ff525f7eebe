# ---
# question: How do processes that share no memory add up a tensor, and what does it cost them?
# needs: [rank, layout, number format]
# introduces:
#   process group: "Ranks that communicate among themselves: each has an index from $0$ to $n - 1$ in
#     it, and one rank may belong to several."
#   collective: "A call that every rank of a process group makes and that none can leave before the
#     data of the others has come: broadcast, all-gather, reduce-scatter, all-reduce."
#   alpha-beta model: "The time of a message of $k$ bytes, $\\alpha + k / \\beta$: a latency
#     $\\alpha$ that any message pays, and a bandwidth $\\beta$ in bytes per second."
# proves: "A ring written by hand gives PyTorch's sum, the same bits on all ranks; the bytes are
#   those of the formula."
# minutes: 40
# seconds: 25
# ---

# %% [markdown]
# # Ranks and collectives
#
# The lessons so far ran in one process. From now on several work together. They share nothing, so
# whatever one of them needs from another has to be sent.
#
# All of parallel training rests on a handful of such exchanges. In a first sitting you meet them.
# In a second one you build the most important of them by hand, count its bytes and predict its
# time.

# %% [markdown]
# ## Question
#
# Eight GPUs each hold a tensor of the same shape. Each needs the sum of all eight. No GPU can see
# the memory of another; all they can do is send and receive.
#
# **How do they add up, and what does it cost them?** This sum is taken in every layer of MT-NLG and
# for every gradient, so the answer decides where its 2240 GPUs are placed.

# %%
import os
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.distributed as dist
from matplotlib.patches import Rectangle

from minimtnlg import run
from minimtnlg.config import preset
from minimtnlg.course.check import measured, predict
from minimtnlg.course.plots import COLOURS
from minimtnlg.course.rank import MTNLG, my_rank
from minimtnlg.course.show import figure, show
from minimtnlg.parallel import collectives
from minimtnlg.ranks import RankError

# %% tags=["parameters"]
megabytes: int = 8  # the tensor that is added up, in Cost; 10^6 bytes each
rounds: int = 30  # repetitions of each timing; the fastest counts

# %% [markdown]
# ## Predict
#
# Type your guess in place of `None`, then run the cell.
#
# 1. In this notebook `counter = 0`. Four ranks run a function that adds 1 to `counter`. What is
#    `counter` in the notebook afterwards?
# 2. Two ranks exchange a number. Each first receives the other's, then sends its own. What happens?
# 3. Eight ranks each hold a tensor of 8 MB, and each needs the sum. How many MB does each rank
#    send, if the work is shared as well as possible?
# 4. In MT-NLG such a tensor has 84 MB. Between nodes a GPU sends 25 GB/s. How many milliseconds
#    would the sum among eight GPUs take?

# %%
predict("counter_after_four_ranks", None)
predict("both_receive_first", None, choices=["they exchange", "an error at once", "they wait"])
predict("mb_sent_by_one_of_eight", None)
predict("ms_between_nodes", None)

# %% [markdown]
# ## Trouble
#
# ### One program, many copies
#
# `run(function, n)` starts $n$ processes. Each calls the same function and gets a number, its
# **rank**. What the ranks return comes back as a list.

# %%
def hello():
    rank, n = dist.get_rank(), dist.get_world_size()
    print(f"I am rank {rank} of {n}")
    return os.getpid()


pids = run(hello, 4)
print(f"{len(set(pids))} different processes, none of them this notebook: {os.getpid() not in pids}")
assert len(set(pids)) == 4

# %% [markdown]
# The program is the same for all; only the number differs. A rank that should do something else
# asks for its number and decides: `if rank == 0: ...`. This style is called SPMD, *single program,
# multiple data*. A job on 2240 GPUs is one script, started 2240 times.
#
# Now the counter.

# %% tags=["predict"]
counter = 0


def add_one():
    global counter
    counter += 1
    return counter


print("the ranks return", run(add_one, 4))
print("the notebook has", counter)
measured(
    "counter_after_four_ranks",
    counter,
    tell="Each rank got a copy of the variable, changed its copy, and took it along.",
)

# %% [markdown]
# Variables of the notebook are *copied* into each rank. Only what the function returns comes back.
# Nothing is shared, and so nothing is ever added up by itself.
#
# ### A message
#
# The smallest exchange: rank 0 sends, rank 1 receives. The receiver must know the shape and the
# type, since only the bare numbers travel.

# %%
def one_message():
    if dist.get_rank() == 0:
        dist.send(torch.tensor([3.0, 4.0]), 1)  # to rank 1
        return "sent"
    x = torch.empty(2)
    dist.recv(x, 0)  # from rank 0; fills x
    return x.tolist()


run(one_message, 2)

# %% [markdown]
# Both calls **block**: `recv` returns when the message is there, `send` when the other side has
# begun to take it. So what if both ranks first receive, then send?

# %% tags=["predict"]
def swap_badly():
    other = 1 - dist.get_rank()
    mine, theirs = torch.ones(1), torch.empty(1)
    dist.recv(theirs, other)
    dist.send(mine, other)
    return theirs


try:
    run(swap_badly, 2, timeout=2)
    outcome = "they exchange"
except RankError as error:
    print(error)
    outcome = "they wait" if error.type == "TimeoutError" else "an error at once"
print()
measured(
    "both_receive_first",
    outcome,
    tell="A deadlock: each waits for a message that the other sends only afterwards.",
)

# %% [markdown]
# Read the report from the top. *How many* ranks had not returned when the two seconds of `timeout`
# were over. Then for each rank *the call* in which it hangs, and the line of your program. Rank 0
# waits for 1, and 1 waits for 0: the circle is in the report.
#
# Nothing was computed wrongly and no error was raised. Without the timeout the ranks would wait for
# ever, and on a cluster thousands of GPUs would wait with them.
#
# Would sending first help? Both would wait in `send`, for a `recv` that never begins. One way out:
# start the send without waiting for it, receive, then wait.

# %%
def swap_well():
    other = 1 - dist.get_rank()
    mine, theirs = torch.tensor([float(dist.get_rank())]), torch.empty(1)
    work = dist.isend(mine, other)  # i for immediate: it returns at once
    dist.recv(theirs, other)
    work.wait()
    return theirs.item()


print("rank 0 and rank 1 now hold", run(swap_well, 2))

# %% [markdown]
# Messages between pairs are enough for anything. They are also easy to get wrong. So most exchanges
# are written with a few ready-made patterns.

# %% [markdown]
# ## Idea
#
# ### Four patterns
#
# A **process group** is a set of ranks that communicate. A **collective** is a call that all of
# them make. Four collectives carry nearly everything in this course.
#
# To see what they do, each rank holds four numbers. The *digit* says which piece of the tensor it
# is, 1 to 4. The *decimal place* says whose it is: ones for rank 0, tens for rank 1, and so on.
# Then a sum shows which ranks are in it. For instance
# $3 + 300 + 3000 = 3303$ is piece 3 of ranks 0, 2 and 3. In the pictures a place that is taken has
# its rank's colour.

# %%
def pieces(rank):
    """The four pieces of this rank: digits 1 to 4 in its own decimal place."""
    return torch.tensor([1, 2, 3, 4]) * 10**rank


for rank in range(4):
    print(f"rank {rank} holds {pieces(rank).tolist()}")
print("the sum is  ", sum(pieces(rank) for rank in range(4)).tolist())

# %%
RANK_COLOURS = [COLOURS[name] for name in ("sky", "orange", "green", "pink")]


def draw_blocks(ax, rows, title, strong=None, text=True):
    """Draw the numbers of each rank: a row a rank, a column a piece, a strip a decimal place.

    strong: {rank: number} draws all but these faintly.
    """
    for rank, numbers in enumerate(rows):
        for number in filter(None, numbers):
            column = int(max(str(number)))
            alpha = 1 if strong is None or strong.get(rank) == number else 0.25
            for place, digit in enumerate(reversed(str(number))):
                left = column + 0.45 - 0.225 * (place + 1)
                if digit != "0":
                    look = dict(color=RANK_COLOURS[place], lw=0, alpha=alpha)
                    ax.add_patch(Rectangle((left, rank - 0.4), 0.225, 0.8, **look))
                if text:
                    ax.text(left + 0.1125, rank, digit, ha="center", va="center", fontsize=10)
            outline = dict(fill=False, edgecolor="black", lw=0.8, alpha=alpha)
            ax.add_patch(Rectangle((column - 0.45, rank - 0.4), 0.9, 0.8, **outline))
    ax.set(xlim=(0.4, 4.6), ylim=(3.6, -0.6), xticks=[], yticks=[], aspect=0.6)
    ax.set_title(title, fontsize=10, loc="center")
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def picture(before, after, title):
    """One collective on four ranks: what each rank holds before and after."""
    fig, axes = plt.subplots(1, 2, figsize=(7.5, 2.1), gridspec_kw={"wspace": 0.35})
    draw_blocks(axes[0], before, "before")
    draw_blocks(axes[1], after, "after")
    for ax in axes:
        ax.set_yticks(range(4), [f"rank {rank}" for rank in range(4)])
        ax.tick_params(length=0)
    fig.suptitle(title, x=0.07, y=1.02, ha="left", fontsize=12)

    def told(rows):
        return "; ".join(
            f"rank {rank}: {', '.join(str(n) for n in numbers if n) or 'nothing'}"
            for rank, numbers in enumerate(rows)
        )

    figure(fig, alt=f"{title}. Before: {told(before)}. After: {told(after)}.")


# %% [markdown]
# **Broadcast**: one rank's tensor goes to all. It is used at the start, when rank 0 has read
# something that all need. Every picture shows what four real ranks returned.

# %%
def broadcast():
    x = pieces(1) if dist.get_rank() == 1 else torch.zeros(4, dtype=torch.int64)
    before = x.tolist()
    dist.broadcast(x, 1)  # from rank 1
    return before, x.tolist()


picture(*zip(*run(broadcast, 4), strict=True), "Broadcast: all get what one has")

# %% [markdown]
# **All-gather**: each rank has one piece, and in the end each has all of them. This is how a tensor
# is put together that was cut among ranks.

# %%
def all_gather():
    rank = dist.get_rank()
    mine = pieces(rank)[rank : rank + 1]
    whole = torch.empty(4, dtype=torch.int64)
    dist.all_gather_single(whole, mine)
    return mine.tolist(), whole.tolist()


picture(*zip(*run(all_gather, 4), strict=True), "All-gather: all get the pieces of all")

# %% [markdown]
# **Reduce-scatter**: the tensors are added up, and each rank gets one piece of the sum. Here the
# strips meet for the first time: all four ranks are in each number.

# %%
def reduce_scatter():
    x, mine = pieces(dist.get_rank()), torch.empty(1, dtype=torch.int64)
    dist.reduce_scatter_single(mine, x)
    return x.tolist(), mine.tolist()


picture(*zip(*run(reduce_scatter, 4), strict=True), "Reduce-scatter: each gets a piece of the sum")

# %% [markdown]
# **All-reduce**: the tensors are added up, and everybody gets the whole sum.

# %%
def all_reduce():
    x = pieces(dist.get_rank())
    before = x.tolist()
    dist.all_reduce(x)  # in place
    return before, x.tolist()


picture(*zip(*run(all_reduce, 4), strict=True), "All-reduce: all get the whole sum")

# %% [markdown]
# Lay the pictures side by side. What reduce-scatter leaves is what all-gather starts from: one
# piece each. **So a reduce-scatter, then an all-gather, is an all-reduce.** Keep this in mind for
# the second sitting.
#
# ### A group
#
# So far all four ranks took part. A collective may also run inside a smaller group. Here a layout
# of two slices and two replicas (lesson 00): each rank is in a tensor group and in a data group.

# %%
def two_groups():
    found = {}
    for name, lists in {"tensor": [[0, 1], [2, 3]], "data": [[0, 2], [1, 3]]}.items():
        for ranks in lists:
            group = dist.new_group(ranks)  # all four make this call, also those not in `ranks`
            if dist.get_rank() in ranks:
                x = torch.tensor([10 ** dist.get_rank()])
                dist.all_reduce(x, group=group)
                found[name] = x.item()
    return found


for rank, sums in enumerate(run(two_groups, 4)):
    print(f"rank {rank}: sum over its tensor group {sums['tensor']:4}, data group {sums['data']:4}")

# %% [markdown]
# The places tell who took part: rank 0 is added to 1 in one group and to 2 in the other. Groups
# work side by side without knowing of each other. Each GPU of MT-NLG is in three.
#
# There is one rule, and to break it is the commonest deadlock of real programs: **all ranks of a
# group make the same calls in the same order.** Here rank 3 skips one.

# %%
def skips_a_call():
    x = torch.ones(1)
    if dist.get_rank() != 3:  # say, because rank 3 had nothing to report
        dist.all_reduce(x)
    return x.item()


try:
    run(skips_a_call, 4, timeout=2)
except RankError as error:
    print(error)

# %% [markdown]
# The three that wait did nothing wrong. The culprit stands in the first line of the report: the rank
# that had finished.
#
# ### Second sitting: a ring
#
# How does an all-reduce move its bytes? The first idea is that rank 0 collects all tensors, adds,
# and sends the sum to all. Then rank 0 does all the work, and the others watch.
#
# Better: put the ranks in a **ring**. Each sends only to its right-hand neighbour and receives only
# from its left-hand one, all at the same time. And cut the tensor into as many pieces as there are
# ranks, so that each rank has one to work on at any moment.
#
# By hand, with four ranks. Follow piece 1. Rank 1 sends its own, 10, to rank 2. Rank 2 adds its
# own, 100, and sends $10 + 100 = 110$ to rank 3. Rank 3 adds 1000 and sends $110 + 1000 = 1110$ to
# rank 0, which adds 1: now 1111 is complete, on rank 0. The other pieces do the same, each one place further on. After three
# steps each rank has one complete piece: that was the reduce-scatter.
#
# Three more steps pass the complete pieces round, without adding: the all-gather.

# %%
own = [pieces(rank).tolist() for rank in range(4)]
held = [list(row) for row in own]
moving = [own[r][r - 1] for r in range(4)]  # what each rank sends first; own[0][-1] closes the ring
states = [("start", [list(row) for row in held], None)]
for step in range(1, 7):
    moving = [moving[r - 1] for r in range(4)]  # everything moves to the right-hand neighbour
    for r in range(4):
        column = (r - 1 - step) % 4
        if step < 4:
            moving[r] += own[r][column]
        held[r][column] = moving[r]
    states.append((f"step {step}", [list(row) for row in held], dict(enumerate(moving))))
assert all(row == [1111, 2222, 3333, 4444] for row in held)

fig, axes = plt.subplots(2, 4, figsize=(8, 3.6))
for ax, (title, rows, strong) in zip(axes.flat, states, strict=False):
    draw_blocks(ax, rows, title, strong, text=False)
for ax in axes[:, 0]:
    ax.set_yticks(range(4), [f"rank {rank}" for rank in range(4)], fontsize=8)
    ax.tick_params(length=0)
axes[1, 3].axis("off")
for rank, colour in enumerate(RANK_COLOURS):
    axes[1, 3].add_patch(Rectangle((2.2 - 0.4 * rank, 1.1), 0.4, 0.8, color=colour, lw=0))
    axes[1, 3].text(2.4 - 0.4 * rank, 1.5, rank, ha="center", va="center", fontsize=9)
axes[1, 3].set(xlim=(0.4, 4.6), ylim=(3.6, -0.6))
axes[1, 3].text(1, 0.8, "strips: which ranks are in it", fontsize=8.5)
axes[1, 3].text(1, 2.6, "strong: has just arrived", fontsize=8.5)
fig.suptitle("Three steps of adding, three steps of passing on", x=0.07, ha="left", fontsize=12)
fig.tight_layout()
figure(
    fig,
    alt="Seven states of four ranks with four pieces each. In steps 1 to 3 the piece that has just "
    "arrived holds 2, 3, then all 4 ranks: on rank r it is then piece r + 1. In steps 4 to 6 "
    "complete pieces are passed on, until each rank has all four.",
)

# %% [markdown]
# Now count. With $n$ ranks and a tensor of $k$ bytes there are $2(n-1)$ steps, and in each of them
# every rank sends one piece of $k/n$ bytes:
#
# $$\text{bytes that each rank sends} = 2\,(n-1)\,\frac{k}{n} = 2\,\frac{n-1}{n}\,k .$$
#
# Half of it belongs to the reduce-scatter, half to the all-gather.
#
# ### What a message costs
#
# A message needs some time to get under way, whatever its size: the latency $\alpha$, in seconds.
# Then its bytes flow at the bandwidth $\beta$, in bytes per second. This is the **alpha-beta
# model** (some books write $\beta$ for the inverse):
#
# $$T(k) = \alpha + \frac{k}{\beta}, \qquad
# T_\text{ring}(k, n) = 2\,(n-1) \left(\alpha + \frac{k}{n \beta}\right).$$
#
# By hand: four ranks, $k = 4$ MB, $\alpha = 0.1$ ms, $\beta = 1$ GB/s. A piece is 1 MB and takes
# $0.1 + 1 = 1.1$ ms. Six steps take 6.6 ms. Rank 0 as the collector receives three whole tensors
# and sends three, one after the other: $6 \cdot (0.1 + 4) = 24.6$ ms.

# %%
def message(k, alpha, beta):
    """Seconds of a message of k bytes."""
    return alpha + k / beta


def ring(k, n, alpha, beta):
    """Seconds of an all-reduce of k bytes among n ranks in a ring."""
    return 2 * (n - 1) * message(k / n, alpha, beta)


by_ring, by_collector = ring(4e6, 4, 1e-4, 1e9), 6 * message(4e6, 1e-4, 1e9)
print(f"ring {1e3 * by_ring:.1f} ms, collector {1e3 * by_collector:.1f} ms")
assert round(1e3 * by_ring, 1) == 6.6 and round(1e3 * by_collector, 1) == 24.6

# %% [markdown]
# ## Code
#
# Everything in the ring is made of one move: send to the right while receiving from the left. It is
# `swap_well` again, with two neighbours. We write down the bytes of each message; each rank has its
# own list.

# %%
sent = []  # bytes of each message of this rank


def shift(piece):
    """Send `piece` to the right-hand neighbour; return what the left-hand one sends meanwhile."""
    rank, n = dist.get_rank(), dist.get_world_size()
    incoming = torch.empty_like(piece)
    work = dist.isend(piece, (rank + 1) % n)
    dist.recv(incoming, (rank - 1) % n)
    work.wait()
    sent.append(piece.nbytes)
    return incoming


# %% [markdown]
# **Reduce-scatter.** Rank $r$ begins with the piece before its own. It passes on a partial sum,
# receives the next, adds its own part of it. The last one to arrive is its own piece, complete.

# %%
def ring_reduce_scatter(x):
    """[n * m] on each rank -> this rank's [m] of the sum."""
    rank, n = dist.get_rank(), dist.get_world_size()
    assert len(x) % n == 0, "n pieces of the same size"
    mine = x.chunk(n)
    partial = mine[(rank - 1) % n]
    for step in range(1, n):
        partial = shift(partial) + mine[(rank - 1 - step) % n]
    return partial


# %% [markdown]
# **All-gather.** Pass on what came last, and put it where it belongs.

# %%
def ring_all_gather(piece):
    """[m] on each rank -> [n * m], the pieces in the order of the ranks."""
    rank, n = dist.get_rank(), dist.get_world_size()
    whole = [piece] * n
    for step in range(1, n):
        piece = shift(piece)
        whole[(rank - step) % n] = piece
    return torch.cat(whole)


# %% [markdown]
# **All-reduce** is one after the other. On the numbers of the picture:

# %%
def ring_all_reduce(x):
    """The sum of the x of all ranks, on each of them."""
    return ring_all_gather(ring_reduce_scatter(x))


def on_the_picture():
    x = pieces(dist.get_rank())
    return ring_reduce_scatter(x).tolist(), ring_all_reduce(x).tolist()


for rank, (part, whole) in enumerate(run(on_the_picture, 4)):
    print(f"rank {rank}: reduce-scatter {part}, all-reduce {whole}")
    assert whole == [1111, 2222, 3333, 4444] and part == [whole[rank]]

# %% [markdown]
# ## You might think
#
# ### "An all-reduce grows with the ranks"
#
# More ranks, more tensors to add, more to send. It is true of the obvious program: let every
# tensor travel once round the ring, and add whatever comes by.

# %%
def whole_tensors_round(x):
    """The sum of the x of all ranks: right, and wasteful."""
    total, moving = x, x
    for _ in range(dist.get_world_size() - 1):
        moving = shift(moving)
        total = total + moving
    return total


def bytes_sent(all_reduce, elements):
    """Bytes that this rank sends in one all-reduce of float64 numbers, and in how many messages."""
    sent.clear()
    x = torch.full((elements,), 1.0 + dist.get_rank(), dtype=torch.float64)
    total, n = all_reduce(x), dist.get_world_size()
    assert (total == n * (n + 1) / 2).all()
    return sum(sent), len(sent)


# %% tags=["predict"]
SIZE = 840 * 1000  # elements: divisible by every n up to 8
worlds = [2, 3, 4, 5, 6, 7, 8]
obvious, shared = {}, {}
for n in worlds:
    for found, program in ((obvious, whole_tensors_round), (shared, ring_all_reduce)):
        (found[n], _), *others = run(bytes_sent, n, program, SIZE)
        assert all(other == found[n] for other, _ in others)  # every rank sends the same
    print(f"{n} ranks: each sends {obvious[n] / SIZE / 8:.0f} tensors, or {shared[n] / SIZE / 8:.3f}")
measured(
    "mb_sent_by_one_of_eight",
    8 * shared[8] / SIZE / 8,
    unit="MB",
    tell="2 * 7/8 of the tensor. A ninth rank would add very little.",
)

# %%
many = np.array([2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32])
fig, ax = plt.subplots(figsize=(7, 3.4))
ax.plot(worlds, [obvious[n] / SIZE / 8 for n in worlds], label="whole tensors round, counted")
ax.plot(worlds, [shared[n] / SIZE / 8 for n in worlds], label="ring of pieces, counted")
ax.plot(many, 2 * (many - 1) / many, label="2 (n - 1) / n", marker="", zorder=1)
ax.axhline(2, color="black", lw=0.8, ls=":", marker="")
ax.set(xlabel="ranks n", ylabel="tensors that each rank sends", ylim=(0, 7.5))
ax.set_title("In a ring of pieces no rank ever sends two whole tensors")
ax.legend()
figure(
    fig,
    alt="Tensors that each rank sends, against ranks. Whole tensors round: n - 1, from 1 at 2 ranks "
    "to 7 at 8. Ring of pieces: 1 at 2 ranks, 1.5 at 4, 1.75 at 8, on the curve 2 (n - 1) / n, "
    "which stays below 2.",
)

# %% [markdown]
# In the ring, what a rank sends settles below two tensors, for eight ranks or a thousand. Each new
# rank brings a tensor to be added. It also brings a wire and a pair of hands, and the pieces get
# smaller.
#
# One thing does grow: the number of messages, $2(n-1)$. *Cost* shows when that matters.

# %% [markdown]
# ## Proof
#
# Our ring against PyTorch's `all_reduce`, on random numbers in float64. Two things are compared:
# the result with PyTorch's, and the results of the ranks with each other, bit by bit.

# %%
def both_ways(elements):
    generator = torch.Generator().manual_seed(dist.get_rank())
    x = torch.randn(elements, dtype=torch.float64, generator=generator)
    ours, theirs = ring_all_reduce(x), x.clone()
    dist.all_reduce(theirs)
    return ours, theirs


for n in (2, 3, 4, 8):
    results = run(both_ways, n, 8400)
    ours, theirs = results[0]
    far = (ours - theirs).abs().max() / theirs.abs().max()
    alike = all(torch.equal(ours, other) for other, _ in results)
    print(f"{n} ranks: differ by {far:.0e} of the largest; same bits on all ranks: {alike}")
    assert far < 1e-14 and alike and (n > 2 or far == 0)

# %% [markdown]
# With two ranks there is no difference at all: $a + b$ and $b + a$ are rounded alike. From three
# ranks on, the order of the sum may differ, and the last digits with it (lesson 04). Whole numbers
# are not rounded, and there nothing is left:

# %%
def whole_numbers(elements):
    x = torch.arange(elements, dtype=torch.float64) * (1 + dist.get_rank())
    ours, theirs = ring_all_reduce(x), x.clone()
    dist.all_reduce(theirs)
    return (ours - theirs).abs().max().item()


print("largest differences on whole numbers:", run(whole_numbers, 4, 8400))

# %% [markdown]
# Look again at "same bits on all ranks". Each piece was summed once, and then copied. With
# `whole_tensors_round` each rank adds in an order of its own:

# %%
def by_whole_tensors(elements):
    generator = torch.Generator().manual_seed(dist.get_rank())
    return whole_tensors_round(torch.randn(elements, dtype=torch.float64, generator=generator))


first, *others = run(by_whole_tensors, 4, 8400)
for rank, other in enumerate(others, start=1):
    print(f"rank {rank} differs from rank 0 in {(other != first).sum()} of {len(first)} numbers")
assert any((other != first).any() for other in others)

# %% [markdown]
# Such differences are tiny, but replicas of a model that add gradients in different orders have
# different weights after the first step, and drift apart from there. An all-reduce has to give the
# same *bits* to all.
#
# ### The package's version
#
# The package builds no rings: it calls the collectives that come with PyTorch, which know the wires
# below. What it adds is that a group of one rank (`None`) is no special case for anybody who calls.
# Here is its all-reduce:

# %%
show(collectives.all_reduce)

# %%
def with_the_package(elements):
    generator = torch.Generator().manual_seed(dist.get_rank())
    x = torch.randn(elements, dtype=torch.float64, generator=generator)
    everybody = dist.group.WORLD
    with collectives.Recorder() as seen:
        whole = collectives.all_reduce(x.clone(), everybody)
        part = collectives.reduce_scatter(x, everybody)
        again = collectives.all_gather(part, everybody)
    pairs = ((whole, ring_all_reduce(x)), (part, ring_reduce_scatter(x)), (again, whole))
    far = max((a - b).abs().max().item() for a, b in pairs)
    alone = collectives.all_reduce(x, None)  # None: a group of one
    return far, alone is x, seen


far, unchanged, seen = run(with_the_package, 4, 8400)[0]
print(f"largest difference between the package and our ring: {far:.0e}")
print(f"a group of one returns what it was given: {unchanged}\n")
print(seen.table())
assert far < 1e-14 and unchanged
assert seen.calls[0].wire_bytes == 2 * 3 / 4 * 8400 * 8

# %% [markdown]
# The table comes from the package's `Recorder`, which writes down every call. *Payload* is what
# the rank hands in, *ring bytes* what it would then send by the formulas above. From now on it
# counts for us.

# %% [markdown]
# ## Cost
#
# ### Bytes
#
# Counted, beside the formula.

# %%
elements = megabytes * 1_000_000 // 8
print(f"all-reduce of {megabytes} MB{'messages':>12}{'MB sent, counted':>19}{'formula':>10}")
for n in (2, 4, 8):
    (count, messages), *_ = run(bytes_sent, n, ring_all_reduce, elements)
    formula = 2 * (n - 1) / n * 8 * elements
    print(f"{n:>10} ranks     {messages:>12}{count / 1e6:>19.3f}{formula / 1e6:>10.3f}")
    assert count == formula and messages == 2 * (n - 1)

# %% [markdown]
# ### Seconds
#
# Time is worth measuring only where every rank has a core to itself, so with two ranks. First we
# time single shifts of many sizes and fit $\alpha$ and $\beta$. Other programs can only add time,
# so the fastest round counts.

# %%
def fastest(call, *arguments):
    """Seconds of the fastest of `rounds` calls; all ranks start together."""
    seconds = []
    for _ in range(rounds):
        dist.barrier()
        start = time.perf_counter()
        call(*arguments)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def time_shifts(sizes):
    return [fastest(shift, torch.zeros(k, dtype=torch.uint8)) for k in sizes]


sizes = np.array([2**power for power in range(6, 25, 2)])
times = np.array(run(time_shifts, 2, sizes.tolist())[0])
# Least squares of relative errors, so that small messages count as much as large ones.
(alpha, per_byte), *_ = np.linalg.lstsq(
    np.stack([1 / times, sizes / times], axis=1), np.ones(len(sizes)), rcond=None
)
beta = 1 / per_byte
print(f"alpha = {1e6 * alpha:.0f} microseconds, beta = {beta / 1e9:.2f} GB/s")

# %%
fig, ax = plt.subplots(figsize=(7, 3.6))
ax.plot(sizes, 1e6 * times, ls="", label="measured")
fine = np.geomspace(sizes[0], sizes[-1], 100)
ax.plot(fine, 1e6 * message(fine, alpha, beta), marker="", label="alpha + k / beta, fitted")
ax.axvline(alpha * beta, color="black", ls=":", marker="", lw=1.2, label="k = alpha beta")
ax.set(xscale="log", yscale="log", xlabel="bytes k of a message", ylabel="microseconds")
ax.set_title("Small messages all cost the same")
ax.legend()
figure(
    fig,
    alt=f"Time of a message against its size, both logarithmic: level at about {1e6 * alpha:.0f} "
    f"microseconds up to some {alpha * beta / 1e3:.0f} kB, then rising in proportion, at "
    f"{beta / 1e9:.1f} GB/s.",
)

# %% [markdown]
# Up to about $k = \alpha \beta$ bytes a message costs its latency and hardly anything else. Below
# that size it pays to put several messages into one: lesson 07 will do so with gradients.
#
# Does the model predict what it was not fitted to? Our all-reduce on two ranks is two shifts of
# half a tensor.

# %%
def time_all_reduce(k):
    x = torch.zeros(k // 8, dtype=torch.float64)
    return fastest(ring_all_reduce, x), fastest(dist.all_reduce, x)


print(f"{'bytes':>12}{'model, ms':>12}{'our ring':>12}{'PyTorch':>12}")
for k in (1_024, 65_536, 1_048_576, 16_777_216):
    ours, theirs = run(time_all_reduce, 2, k)[0]
    model = ring(k, 2, alpha, beta)
    print(f"{k:>12,}{1e3 * model:>12.2f}{1e3 * ours:>12.2f}{1e3 * theirs:>12.2f}")

# %% [markdown]
# Small tensors come out near the model. Large ones take longer, up to a few times. The model leaves
# out the additions and the copy at the end, and one pair of $\alpha$ and $\beta$ cannot say that
# small tensors fit into a cache and large ones do not. What it gives is the order of magnitude, and
# how time grows with $k$ and $n$. For deciding what to send where, this is usually enough.
#
# ### When the ranks do count
#
# More ranks than cores would be timed wrongly here, so we let the model speak. Each size in a ring
# of more and more ranks, with the $\alpha$ and $\beta$ of this machine:

# %%
print(f"{'model, ms':>12}" + "".join(f"{n:>10} ranks" for n in (2, 8, 64, 512)))
for k in (1e3, 1e6, 1e9):
    row = "".join(f"{1e3 * ring(k, n, alpha, beta):>16,.1f}" for n in (2, 8, 64, 512))
    print(f"{k / 1e6:>9,g} MB{row}")
assert ring(1e3, 512, alpha, beta) > 100 * ring(1e3, 2, alpha, beta)
assert ring(1e9, 64, alpha, beta) < 3 * ring(1e9, 2, alpha, beta)

# %% [markdown]
# The large tensor hardly notices the ranks: its time about doubles. The small one pays $2(n-1)$
# latencies and little else. So the belief from above is true for small tensors. For those a tree of
# ranks is the better shape: its steps grow with $\log_2 n$ only.

# %% [markdown]
# ## MT-NLG
#
# ### One sum of one layer
#
# In MT-NLG each layer is cut among the eight GPUs of a tensor group. Each of them ends with a
# tensor of the full shape $[s, b, h]$ that is only its part of a sum; lesson 09 derives why. One
# micro-batch is one sequence (not stated by the paper; later models of the run take 1), in 16 bits:
#
# $$s\,b\,h \cdot 2 \text{ bytes} = 2048 \cdot 1 \cdot 20480 \cdot 2 .$$
#
# How long does the sum take inside a node, over NVLink, and how long would it take between nodes?
# A node had eight InfiniBand adapters of 200 Gb/s for its eight GPUs [S12, sec. 5], so 25 GB/s each
# (derived). For NVLink we take the 300 GB/s in each direction of [S14]; no source about MT-NLG
# confirms it.

# %% tags=["predict"]
model = preset("mtnlg-530b").model
k = model.seq * 1 * model.hidden * 2
assert k == 80 * 2**20
LINKS = {"NVLink": (300e9, 0.65), "InfiniBand": (25e9, 0.9)}  # bytes/s, share reached [S14]
wire = 2 * 7 / 8 * k
print(f"tensor {k / 1e6:.1f} MB = {k / 2**20:.0f} MiB; each GPU sends {wire / 1e6:.1f} MB")
print(f"{'':12}{'GB/s':>6}{'ms':>9}{'ms at the share reached':>26}")
for name, (rate, share) in LINKS.items():
    row = f"{1e3 * wire / rate:>9.2f}{1e3 * wire / rate / share:>26.2f}"
    print(f"{name:12}{rate / 1e9:>6.0f}{row}")
measured(
    "ms_between_nodes",
    1e3 * wire / 25e9,
    unit="ms",
    tell="Twelve times as long as inside the node, in every layer, again and again.",
)

# %% [markdown]
# Latency is left out: the ring has 14 steps of 10 MiB each, and we know of no published $\alpha$
# for this machine.
#
# Is six milliseconds much? Compare with the arithmetic of the same layer: its forward pass on one
# sequence, an eighth of it on each GPU, at the peak of 312 TFLOP/s [S3, sec. 2.3].

# %%
s, h = model.seq, model.hidden
flops = 24 * s * h**2 + 4 * s**2 * h  # matrix products of one layer, forward, one sequence
arithmetic = flops / 8 / 312e12
names = ["arithmetic of the layer, at peak", "its sum over NVLink", "its sum over InfiniBand"]
values = [1e3 * arithmetic] + [1e3 * wire / rate for rate, _ in LINKS.values()]
fig, ax = plt.subplots(figsize=(7, 1.9))
bars = ax.barh(names, values, color=[COLOURS["black"], COLOURS["sky"], COLOURS["orange"]])
bars[2].set_hatch("//")
ax.bar_label(bars, [f"{v:.1f} ms" for v in values], padding=4)
ax.invert_yaxis()
ax.grid(axis="y", visible=False)
ax.set(xlabel="milliseconds (computed)", xlim=(0, 10))
ax.set_title("Between nodes, one sum costs almost as much as the layer itself", x=-0.4)
figure(
    fig,
    alt=f"Computed times: arithmetic of one layer {values[0]:.1f} ms, one all-reduce over NVLink "
    f"{values[1]:.1f} ms, over InfiniBand {values[2]:.1f} ms.",
)
assert [round(v, 1) for v in values] == [8.4, 0.5, 5.9] and 2 * values[2] > values[0]

# %% [markdown]
# And a layer needs two such sums in forward, as lesson 09 will show. Between nodes they would take
# longer than the arithmetic of the forward pass. So MT-NLG kept its tensor groups inside a node
# [S3, sec. 2.2].
#
# ### Your rank
#
# Each GPU of MT-NLG is in three process groups. Yours:

# %%
mine = my_rank()
place = MTNLG.place(mine)
print(f"rank {mine}: stage {place.pp}, replica {place.dp}, slice {place.tp}, on node "
      f"{MTNLG.node(mine)[0]}")  # fmt: skip
for axis, name in (("tp", "tensor"), ("dp", "data"), ("pp", "pipeline")):
    ranks = MTNLG.group(mine, axis)
    nodes = len({MTNLG.node(rank)[0] for rank in ranks})
    link = "NVLink" if nodes == 1 else "InfiniBand"
    listed = ", ".join(map(str, ranks[:3]))
    print(f"{name + ' group':15} {len(ranks):>3} ranks: {listed}, ... on {nodes:>2} nodes: {link}")
assert {MTNLG.node(rank)[0] for rank in MTNLG.group(mine, "tp")} == {MTNLG.node(mine)[0]}

# %% [markdown]
# The tensor group sums in every layer, and has the fast wire. The data group sums gradients, once a
# step (lesson 07). The pipeline group hands on activations from neighbour to neighbour, by sends
# and receives (lesson 11). Who shares a node follows from the order in which ranks are numbered,
# and nothing else; lesson 12 comes back to it.

# %% [markdown]
# ## Check yourself
#
# 1. A function appends each rank's result to a list of the notebook. After `run` the list is empty.
#    Why, and what should the function do?
#
# <details><summary>Answer</summary>
#
# Each rank appended to its own copy of the list. The function should return its result; `run` gives
# back a list with the values of all ranks.
#
# </details>
#
# 2. Four ranks; each calls `dist.send` to the right, then `dist.recv` from the left. It hangs. Only
#    rank 0 is changed, to receive first. Does it still hang?
#
# <details><summary>Answer</summary>
#
# No. Rank 0 receives from rank 3, so rank 3's send ends and it receives from rank 2, and so on
# round. It is right but slow: one message moves at a time. The exercise asks for something better.
#
# </details>
#
# 3. How many bytes does each of 16 ranks send in an all-gather whose result has 160 MB? In an
#    all-reduce of 160 MB?
#
# <details><summary>Answer</summary>
#
# All-gather: messages of $160/16 = 10$ MB, $15 \cdot 10 = 150$ MB of them. All-reduce: twice that,
# $2 \cdot 150 = 300$ MB.
#
# </details>
#
# 4. A link has $\alpha = 10$ microseconds and $\beta = 25$ GB/s. From which message size on does
#    the bandwidth matter more than the latency?
#
# <details><summary>Answer</summary>
#
# $\alpha \beta = 10^{-5} \cdot 25 \cdot 10^{9} = 250 \cdot 10^{3}$ bytes.
#
# </details>
#
# 5. All ranks end an all-reduce with the same bits, and yet the result is wrong in the first digit.
#    How can that be?
#
# <details><summary>Answer</summary>
#
# Agreement proves nothing: if one rank contributed the wrong tensor, or a piece was added twice,
# all get the same wrong sum. Compare with a sum made in another way, as *Proof* does.
#
# </details>

# %% [markdown]
# ## Exercises
#
# Count the bytes on each wire of a ring. Then build the ring once more, with sends that block and tensors that cannot be cut evenly.
