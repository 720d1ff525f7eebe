# ---
# question: How do three kinds of parallelism become one job, and does it matter which GPU gets
#   which rank?
# needs: [layout, rank, training state, micro-batch, activation checkpointing, process group,
#   collective, alpha-beta model, overlap, ZeRO, f and g, column-parallel, row-parallel,
#   sequence parallelism, stage, schedule, bubble]
# introduces:
#   node: "One computer of a cluster: a few GPUs, eight in MT-NLG, with fast wires among themselves
#     and adapters to the slower network that joins it to other nodes."
#   link: "What two neighbours of a process group's ring send through: NVLink inside a node,
#     InfiniBand between nodes, in MT-NLG a twelfth as fast if NVLink has 300 GB/s (not confirmed)."
#   placement: "Which rank sits on which GPU of which node; it decides which link each process group
#     gets."
# proves: "All layouts give one gradient and the same losses of a run; where cuts meet, a bug is
#   noticed."
# minutes: 40
# seconds: 60
# ---

# %% [markdown]
# # Three dimensions
#
# You have built three ways to share the training of a model: replicas share the batch, slices share
# each layer, stages share the stack. Each was proved right alone. A large job needs all three at
# once.
#
# To put them together takes a page of code. What decides then is where everybody sits. At the end
# you know which rules lead to the layout of MT-NLG, 8 slices x 35 stages x 8 replicas, and what
# goes through each of its wires.

# %% [markdown]
# ## Question
#
# A layout is three numbers $t \cdot p \cdot d = n$ (lesson 00). We write it $t \times p \times d$.
# How much choice is there?

# %%
import json
import textwrap
import time
from itertools import permutations
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

from minimtnlg import run
from minimtnlg.config import load, preset
from minimtnlg.course.check import measured, predict
from minimtnlg.course.mutants import mutant
from minimtnlg.course.need import need
from minimtnlg.course.plots import COLOURS, on_nodes
from minimtnlg.course.rank import MTNLG, my_rank
from minimtnlg.course.show import figure, show
from minimtnlg.data.batches import Batch
from minimtnlg.device import device
from minimtnlg.errors import InputError
from minimtnlg.model import build
from minimtnlg.parallel import schedules
from minimtnlg.parallel.collectives import Recorder, wire_bytes
from minimtnlg.parallel.layout import Layout, virtual_stages
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.parallel.tensor import f, g
from minimtnlg.train.optimizer import Optimizer
from minimtnlg.train.step import step
from minimtnlg.train.trainer import train
from minimtnlg.train.verify import configure, verify


def ways(n):
    """All (t, p, d) whose product is n."""
    divisors = [x for x in range(1, n + 1) if n % x == 0]
    return [(t, p, n // (t * p)) for t in divisors for p in divisors if n % (t * p) == 0]


def named(t, p, d):
    return f"{t} x {p} x {d}"


print("8 GPUs:", ", ".join(named(*way) for way in ways(8)))
print(f"2240 GPUs: {len(ways(2240))} ways")
assert len(ways(2240)) == 252

# %% [markdown]
# And these are only the numbers. GPUs do not all lie equally far apart. Eight of them share a
# computer, a **node**, and talk over fast wires; to all others they talk over a network that is a
# twelfth as fast (if NVLink has 300 GB/s, which no source about MT-NLG confirms). Somebody has to decide who sits next to whom.
#
# **How do three kinds of parallelism become one job, and does it matter which GPU gets which
# rank?**

# %% tags=["parameters"]
ranks: int = 8  # in all experiments: 2, 4 or 8
gpus_per_node: int = 4  # of the small experiments; MT-NLG has 8
steps: int = 10  # of each training run
every_layout: bool = False  # True: train in every layout of so many ranks; takes minutes

# %% [markdown]
# ## Predict
#
# Type your guess in place of `None`, then run the cell.
#
# 1. There are 252 layouts of 2240 GPUs. In how many of them can MT-NLG be cut, fit into 80 GB a
#    GPU, and keep the slices of a layer in one node of eight? What counts for memory: 20 bytes a
#    parameter, plus the layer inputs of the micro-batches in flight. The 1920 sequences have to
#    divide evenly among the replicas.
# 2. The same small model takes ten steps from the same start: in one process, and in four layouts
#    of eight ranks, all in fp32. How far apart are the losses?
# 3. Of all bytes that a GPU of MT-NLG sends in a step, how many percent belong to tensor
#    parallelism?
# 4. A step of MT-NLG took 60.1 s. In its order of ranks the slices of a layer are neighbours.
#    Suppose that stages were neighbours, and the slices of a layer lay furthest apart. For how many
#    seconds of each step would a GPU send?

# %%
predict("layouts_left_of_252", None)
predict("losses_of_four_layouts", None, choices=["not at all", "in the last digits", "by percents"])
predict("percent_of_bytes_for_tensor", None)
predict("seconds_with_slices_apart", None)

# %% [markdown]
# ## Trouble
#
# Why not take 2240 GPUs with the one kind of parallelism that is easiest? The package knows which
# layouts can be, and says why not. (The batch is 1920 sequences [S3], cut into micro-batches of
# one, which everyone assumes and no source states. The ramp of the batch is left out at first.)


# %%
def refusal(source, *overrides):
    """What the package says to a configuration without a ramp; "can be" if it takes it."""
    try:
        load(source, ["train.ramp=null", *overrides])
        return "can be"
    except InputError as error:
        return str(error)


def cuts(t, p, d):
    return [f"parallel.tp={t}", f"parallel.pp={p}", f"parallel.dp={d}"]


for way in ((1, 1, 2240), (2240, 1, 1), (1, 2240, 1)):
    said = refusal("mtnlg-530b", *cuts(*way))
    print(textwrap.fill(f"{named(*way)}: {said}", 95, subsequent_indent="    "))
    assert said != "can be"
mt = preset("mtnlg-530b")
bounds = mt.train.global_batch, mt.model.heads, mt.model.layers
print(f"\nbounds: d <= {bounds[0]}, t <= {bounds[1]}, p <= {bounds[2]}")
print(f"their product: {np.prod(bounds):,} GPUs")

# %% [markdown]
# Each kind has an end: a replica needs at least one sequence, a slice one head, a stage one layer.
# And long before its end each becomes bad at something. Replicas do not make the model smaller.
# Slices sum in every layer. Stages wait.
#
# Multiplied, the three reach as far as anybody could wish, and none of them has to go near its end.

# %% [markdown]
# ## Idea
#
# ### One array
#
# Write the numbers of all ranks into an array with three axes: stages, replicas, slices. The last
# axis counts fastest. A group is a line through the array. So a layout is *written* $t \times p
# \times d$ and *stored* with the slowest axis first, as $p, d, t$.

# %%
t, p, d = {2: (2, 1, 1), 4: (2, 2, 1), 8: (2, 2, 2)}[ranks]
layout = Layout(tp=t, pp=p, dp=d)
grid = np.arange(ranks).reshape(p, d, t)  # [stages, replicas, slices]
for stage in range(p):
    print(f"stage {stage}: " + "   ".join(f"replica {i}: {grid[stage, i]}" for i in range(d)))
print()
AXES = {"tp": "tensor", "pp": "pipeline", "dp": "data"}
for axis, name in AXES.items():
    groups = {tuple(layout.group(rank, axis)) for rank in range(ranks)}
    print(f"{name + ' groups':16}", *sorted(map(list, groups)))

# %% [markdown]
# Through each rank go three lines. In the array of $2 \times 2 \times 2$, rank 5 is on stage 1 in
# replica 0 and has slice 1: it sums layers with 4, shares gradients with 7, and gets activations
# from 1. The package calls the array with its groups a *mesh*. In PyTorch this array is
# `init_device_mesh("cuda", (p, d, t), mesh_dim_names=("pp", "dp", "tp"))`; we build it by hand.
#
# ### What each axis sends
#
# Let $k$ be the bytes of one activation $[s, b, h]$, and let each replica take $m$ micro-batches a
# step.
#
# - **Tensor** (lesson 09): a layer takes 4 all-reduces of $k$ bytes a micro-batch, 6 with full
#   recomputation.
# - **Pipeline** (lesson 11): one activation down and one gradient up a micro-batch. All $t$ slices
#   of a stage have the same activation, so each sends a $t$-th of it, and it is put together over
#   there [S12].
# - **Data** (lesson 07): one all-reduce of all gradients a *step*, 4 bytes for each of the
#   $P/(t\,p)$ parameters that a rank holds.
#
# By hand: 8 layers, $t = p = d = 2$, $m = 4$, an activation of 1 MB, 10 million parameters. On a
# ring of two an all-reduce sends as much as it sums. A rank has 4 layers. Tensor: $4 \cdot 4 \cdot
# 4 = 64$ sums of 1 MB, 64 MB. Pipeline: half a MB down and half a MB up, 4 times, 4 MB; a stage at
# an end has only one of the two ways, 2 MB. Data: $10/4 = 2.5$ million gradients, 10 MB.
#
# For a stage in the middle of a pipeline, on rings:
#
# $$\text{tensor} = m\,\frac{L}{p} \cdot 4 \cdot 2\,\frac{t-1}{t}\,k, \qquad
# \text{pipeline} = m \cdot 2\,\frac{k}{t}, \qquad
# \text{data} = 2\,\frac{d-1}{d} \cdot \frac{4P}{t\,p}.$$
#
# Tensor and pipeline bytes grow with $m$, data bytes do not. More stages shrink tensor and data
# bytes, not the pipeline's own.


# %%
def bytes_of_a_step(t, p, d, m, layers, k, parameters, sums=4):
    """What a GPU of a stage in the middle sends along each axis."""
    return {
        "tp": m * layers / p * sums * wire_bytes("all_reduce", k, t),
        "pp": m * 2 * k / t,
        "dp": wire_bytes("all_reduce", 4 * parameters / (t * p), d),
    }


by_hand = bytes_of_a_step(2, 2, 2, m=4, layers=8, k=1e6, parameters=10e6)
print(", ".join(f"{AXES[axis]} {size / 1e6:.0f} MB" for axis, size in by_hand.items()))
assert by_hand == {"tp": 64e6, "pp": 4e6, "dp": 10e6}

# %% [markdown]
# ### Who sits where
#
# GPUs are counted through the cluster: those of node 0, those of node 1, and so on. Rank $i$ sits
# on GPU $i$. So the order of the axes in the array decides who shares a node: those who differ in
# the last axis. We write an order with the slowest axis first: MT-NLG's is pipeline > data >
# tensor. Here are nodes of a few GPUs with this order on the left and the reverse on the right.

# %%
USUAL, REVERSED = ("pp", "dp", "tp"), ("tp", "dp", "pp")  # slowest axis first


def in_words(order):
    return " > ".join(AXES[axis] for axis in order)


fig, axes = plt.subplots(3, 2, figsize=(9, 5.4))
lines = []
for column, order in enumerate((USUAL, REVERSED)):
    for row, (axis, name) in enumerate(AXES.items()):
        inside, between = layout.links(axis, gpus_per_node, order)
        lines.append(f"{name}: {inside} links inside nodes, {between} between")
        on_nodes(layout, axis, gpus_per_node, order, axes[row, column], title=lines[-1])
for ax in axes.flat:
    ax.title.set_fontsize(10)
fig.suptitle("The same layout in two placements: who leaves the node?", x=0.02, y=1.04, ha="left")
fig.tight_layout(rect=(0, 0.05, 1, 0.95))
for ax, head in zip(axes[0], (f"{in_words(USUAL)} (MT-NLG)", in_words(REVERSED)), strict=True):
    fig.text(ax.get_position().x0, 0.92, head, weight="bold")
for look, colour, name in (("-", "blue", "inside a node"), ("--", "red", "between nodes")):
    axes[2, 0].plot([], [], look, marker="", color=COLOURS[colour], label=name)
fig.legend(*axes[2, 0].get_legend_handles_labels(), loc="lower center", ncols=2)
figure(
    fig,
    alt=f"{ranks} ranks on nodes of {gpus_per_node} GPUs, with arcs for the links of each group. "
    f"Slices fastest: {'; '.join(lines[:3])}. Slices slowest: {'; '.join(lines[3:])}.",
)

# %% [markdown]
# This is **placement**: which rank sits on which GPU. The groups and what they send are the same on
# both sides. What differs is the **link** that each of them gets: a wire inside a node, drawn
# solid, or one between nodes, drawn dashed. A ring is as fast as its slowest link.

# %% [markdown]
# ## Code
#
# ### Groups
#
# `dist.new_group` makes one process group. Every rank has to take part in making every group, in
# the same order, also of those to which it does not belong.


# %%
def groups_by_hand(t, p, d):
    """{axis: (process group, its ranks)} of this rank: three lines through one array."""
    grid, mine = torch.arange(t * p * d).view(p, d, t), {}
    for dim, axis in enumerate(("pp", "dp", "tp")):
        for line in grid.movedim(dim, -1).reshape(-1, grid.shape[dim]).tolist():
            group = dist.new_group(line)
            if dist.get_rank() in line:
                mine[axis] = group, line
    return mine


def both_groups(t, p, d):
    by_hand, mesh = groups_by_hand(t, p, d), Mesh(Layout(tp=t, pp=p, dp=d))
    for axis, (_, line) in by_hand.items():
        group = getattr(mesh, axis)  # None where the group is this rank alone
        assert line == (dist.get_process_group_ranks(group) if group else [dist.get_rank()])
    return {axis: line for axis, (_, line) in by_hand.items()}, repr(mesh)


for rank, (found, place) in enumerate(run(both_groups, ranks, t, p, d)):
    print(f"rank {rank}: " + ", ".join(f"{AXES[axis]} {found[axis]}" for axis in AXES), f" {place}")
    assert all(found[axis] == layout.group(rank, axis) for axis in found)

# %% [markdown]
# The package's `Mesh` has the same groups, and so has `Layout`, which does only arithmetic.
#
# ### Three cuts in one program
#
# Now the job itself, with all three cuts. To see nothing but the cuts, the model is a stack of
# plain blocks $x + \text{gelu}(xA)\,B$ in float64. It needs four things you know: a column-parallel
# $A$ and a row-parallel $B$ between f and g; activations that go down and gradients that go up,
# here in GPipe's order, with `send` and `recv`; a loss divided by the size of the *whole* batch; a
# sum of gradients over the replicas.

# %%
BLOCKS, WIDTH, TOKENS, BATCH = 8, 16, 5, 16


def random_numbers(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def weights(block):
    """The whole A and B of a block."""
    a = random_numbers(2 * block, WIDTH, 4 * WIDTH) / WIDTH**0.5
    return a, random_numbers(2 * block + 1, 4 * WIDTH, WIDTH) / (4 * WIDTH) ** 0.5


def batch():
    return random_numbers(99, BATCH, TOKENS, WIDTH)


def three_cuts(t, p, d, m=2):
    """This rank's part of a step: {(block, "A" or "B"): gradient of its slice}."""
    at, group = Layout(tp=t, pp=p, dp=d).place(dist.get_rank()), groups_by_hand(t, p, d)
    (tensor, _), (replicas, _), (_, line) = group["tp"], group["dp"], group["pp"]
    first, last = at.pp == 0, at.pp == p - 1
    mine = {}
    for block in range(BLOCKS)[at.pp * BLOCKS // p : (at.pp + 1) * BLOCKS // p]:  # stage
        a, b = weights(block)
        mine[block, "A"] = a.chunk(t, 1)[at.tp].clone().requires_grad_()  # slice
        mine[block, "B"] = b.chunk(t, 0)[at.tp].clone().requires_grad_()
    kept = []
    for x in batch().chunk(d)[at.dp].clone().chunk(m):  # replica, micro-batch
        if not first:
            dist.recv(x, line[at.pp - 1])
        y = x.requires_grad_()
        for block in sorted({block for block, _ in mine}):
            y = y + g(F.gelu(f(y, tensor) @ mine[block, "A"]) @ mine[block, "B"], tensor)
        if last:
            y = y.square().sum() / (BATCH * TOKENS * WIDTH)
        else:
            dist.send(y.detach(), line[at.pp + 1])
        kept.append((x, y))
    for x, y in kept:
        gradient = None if last else torch.empty_like(y)
        if not last:
            dist.recv(gradient, line[at.pp + 1])
        y.backward(gradient)
        if not first:
            dist.send(x.grad, line[at.pp - 1])
    for w in mine.values():
        dist.all_reduce(w.grad, group=replicas)
    return at, {name: w.grad for name, w in mine.items()}


at, gradients = run(three_cuts, ranks, t, p, d)[-1]
print(f"the last of {ranks} ranks, {at}, has gradients of")
for (block, name), gradient in gradients.items():
    print(f"  block {block}, {name}: {list(gradient.shape)}")

# %% [markdown]
# Look for a place where one cut has to know of another. There is hardly one. The sums in a layer do
# not ask how many stages there are; the sends do not ask how many replicas. Each cut only needs its
# own group. This is why the three can be built, tested and explained one at a time.
#
# One thing did have to be thought of: the divisor of the loss. It belongs to the whole batch, to
# all micro-batches of all replicas.
#
# ### The package
#
# It has one class for the numbers, and one for this rank's groups. Where a rank sits is arithmetic:

# %%
show(Layout.node)

# %%
show(Layout.links)

# %% [markdown]
# ## You might think
#
# ### "Any rank order will do"
#
# The groups are the same, the sums are the same. Does anybody notice where the ranks sit?
#
# We make one real step of a small GPT twice and give it the wires of the two placements. All
# processes live on this machine, so the wires have to be made up: after each call a rank *sleeps*
# as long as the bytes that it sends would take, and does nothing else meanwhile. Rates are those
# that we will use for MT-NLG, 300 and 25 GB/s, both divided by 100 000 so that sleeping is what
# counts. So the times below are slept, not measured on a network.

# %%
NVLINK, INFINIBAND, SLOWER = 300e9, 25e9, 1e5  # bytes/s, sources in the section MT-NLG
SMALL = ["model.layers=8", "model.hidden=64", "model.heads=8", "model.seq=64", "train.ramp=null"]


class SlowWires(Recorder):
    """Records calls, and sleeps after each as long as its bytes take at the rate of its group."""

    def __init__(self, rates):
        super().__init__()
        self.rates = rates  # {group: bytes/s}; other groups take no time

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = len(self.calls)
        result = super().__torch_dispatch__(func, types, args, kwargs)
        for call in self.calls[before:]:
            time.sleep(call.wire_bytes / self.rates.get(call.group, np.inf))
        return result


def one_step(config, rates):
    """(seconds of a step, its loss, the recorded calls, parameters held) of this rank."""
    c = config.parallel
    mesh = Mesh(Layout(tp=c.tp, pp=c.pp, dp=c.dp))
    model = build(config, mesh)
    optimizer = Optimizer(model, config.optim, c.zero)
    m = config.train.global_batch // (config.train.micro_batch * c.dp)
    shape = c.dp * m, config.train.micro_batch, config.model.seq + 1
    ids = torch.randint(config.model.vocab, shape, generator=torch.Generator().manual_seed(1))
    ids = ids.to(device())
    ones = torch.ones(ids[0, :, 1:].shape, device=device())
    mine = [Batch(part[:, :-1], part[:, 1:], ones) for part in ids[mesh.place.dp :: c.dp]]
    schedule = schedules.named(c.schedule, c.pp, m, c.virtual)
    dist.barrier()
    start = time.perf_counter()
    with SlowWires(rates) as seen:
        loss, _ = step(model, optimizer, mine, lr=0.0, seed=1, number=0, schedule=schedule)
    seconds, held = time.perf_counter() - start, sum(w.numel() for w in model.parameters())
    return seconds, loss.item(), seen.calls, held


def rates_of(order):
    """The rate of each group in a placement: that of its slowest link."""
    between = {axis: layout.links(axis, gpus_per_node, order)[1] for axis in AXES}
    return {axis: (INFINIBAND if n else NVLINK) / SLOWER for axis, n in between.items()}


four_each = [f"train.global_batch={4 * d}", "train.micro_batch=1", "model.vocab=256"]
config = load("nano", [*SMALL, *four_each, *cuts(t, p, d)])
losses, slept = [], {}
for order in (USUAL, REVERSED):
    rates = rates_of(order)
    results = run(one_step, ranks, config, rates)
    seconds, losses = max(s for s, *_ in results), [*losses, results[0][1]]
    slept[order] = max(
        sum(call.wire_bytes / rates.get(call.group, np.inf) for call in calls)
        for _, _, calls, _ in results
    )
    print(f"{in_words(order)}:")
    print(f"  slept on wires {slept[order]:.2f} s, whole step {seconds:.2f} s, loss {losses[-1]}")
    assert seconds > slept[order]
assert losses[0] == losses[1]
if layout.links("tp", gpus_per_node, USUAL)[1] < layout.links("tp", gpus_per_node, REVERSED)[1]:
    assert slept[REVERSED] > 3 * slept[USUAL]

# %% [markdown]
# The belief is half true, and that makes it dangerous. The loss is the same, bit by bit: no test of
# results will ever find a bad placement. Only the clock does. In the second order the sums of every
# layer leave the node.
#
# Could one not make up for it with cleverer sums? A tensor group that lies in as many nodes as it
# has slices has nothing to sum inside a node first. All its bytes go over the slow links.

# %% [markdown]
# ## Proof
#
# ### Our page of code
#
# One process takes the whole batch through all blocks and shares no code with `three_cuts`. We cut
# its gradients and compare, in every layout of our ranks.

# %%
pairs = [[w.requires_grad_() for w in weights(block)] for block in range(BLOCKS)]
x = batch()
for a, b in pairs:
    x = x + F.gelu(x @ a) @ b
x.square().mean().backward()
whole = {(block, "AB"[i]): w.grad for block, pair in enumerate(pairs) for i, w in enumerate(pair)}
largest = max(gradient.abs().max() for gradient in whole.values())

for way in ways(ranks):
    off, seen = 0.0, set()
    for at, gradients in run(three_cuts, ranks, *way):
        for (block, name), gradient in gradients.items():
            right = whole[block, name].chunk(way[0], "BA".index(name))[at.tp]
            off = max(off, ((gradient - right).abs().max() / largest).item())
            seen.add((block, name, at.tp, at.dp))
    assert off < 1e-13 and len(seen) == 2 * BLOCKS * way[0] * way[2]
    print(f"{named(*way):10} differs by {off:.0e} of the largest gradient")

# %% [markdown]
# All layouts give the same gradient. Even ends of the range, one kind alone, need no code of their
# own: a group of one rank is a group.
#
# ### The package, in float64
#
# The package does the same with everything that lessons 07 to 11 added. `verify` (lesson 07) trains
# a model in one process, in the plainest way, and the same model on the ranks of a layout. It compares the
# loss, each gradient, their norm, and the weights after three steps of SGD and of Adam. We turn on
# the switches that go together with the layout.

# %%
LAYERS = 8


def everything(t, p, d):
    """Overrides: a layout, and the switches that go together with it."""
    chosen = cuts(t, p, d)
    if 1 < t < 8:  # its calls are many; with eight ranks on two cores they take half a minute
        chosen += ["parallel.sequence_parallel=true"]
    if p > 1 and LAYERS % (2 * p) == 0:
        chosen += ["parallel.schedule=interleaved", "parallel.virtual=2"]
    if d > 1:
        chosen += [f"parallel.zero={3 if p == 1 else 1}"]
    return chosen


to_prove = configure("nano", [*SMALL, "model.vocab=256", "model.seq=32", *everything(t, p, d)])
sound = verify(to_prove)
print(" ".join(f"{key}={value}" for key, value in sound["layout"].items()))
for what, difference in sound["max_abs_diff"].items():
    print(f"  {what:10} differs by {difference:.0e}")
    assert difference < 1e-10

# %% [markdown]
# ### Where the cuts meet
#
# In the full program there are a few places where two cuts do meet, and they are where bugs like to
# live. One is the activation between stages. All slices of a stage have the same one, so each sends
# a part of it. But under sequence parallelism they do *not* have the same one: each holds other
# tokens. `mutant` switches a bug on in the ranks (lesson 07); here is what somebody believed who
# wrote it.

# %%
both_meet = t > 1 and p > 1  # else we take a bug of the norm, which counts what slices share
name = "slices_of_different_tensors" if both_meet else "replicated_parameters_counted_on_all_ranks"
with mutant(name) as bug:
    broken = verify(to_prove)["max_abs_diff"]
print(f'"{bug.belief}"\n')
print(f"{'largest difference':20}{'package':>10}{'with the bug':>14}")
for what, difference in sound["max_abs_diff"].items():
    print(f"{what:20}{difference:>10.0e}{broken[what]:>14.0e}")
assert max(broken.values()) > 1e-6

# %% [markdown]
# No error, and a loss that looks like a loss. Each of the two cuts is right by itself, and a test
# of each alone stays green. This is why a layout is proved as a whole.

# %% [markdown]
# ### Ten steps in four layouts
#
# Now as in earnest: fp32, a real text, ten steps. First one process, then four very different
# layouts of our ranks. They also differ in the size of a micro-batch, in the schedule, in ZeRO.


# %%
def losses_of(name, overrides):
    """Train and return the loss of each step."""
    length = [f"train.steps={steps}", "train.tokens=0", f"train.global_batch={BATCH}"]
    fixed = [*SMALL, *length, "train.eval_every=0", "train.eval_batches=1", f"data.path={corpus}"]
    config = load("nano", [*fixed, *overrides])
    start = time.perf_counter()
    train(config, Path("runs") / name, progress=False)
    rows = (Path("runs") / name / "metrics.jsonl").read_text().splitlines()
    switches = " ".join(key.split(".")[1] for key in overrides if "parallel" in key)
    print(f"{name:12} {time.perf_counter() - start:5.1f} s   {switches}")
    return np.array([json.loads(row)["loss"] for row in rows])


corpus = need("corpus")
torch.set_num_threads(1)  # this process computes like a rank
alone = losses_of("one process", [f"train.micro_batch={BATCH}"])

# %%
curves = {}


def compare(*layouts):
    for way in layouts:
        b = BATCH // (way[1] * way[2])  # then each replica has as many micro-batches as stages
        if named(*way) not in curves:
            overrides = [f"train.micro_batch={b}", *everything(*way)]
            curves[named(*way)] = losses_of(named(*way), overrides)


compare((1, 1, ranks), (ranks, 1, 1))

# %%
compare((1, ranks, 1), (t, p, d), *(ways(ranks) if every_layout else []))

# %% [markdown]
# The seconds are those of starting processes and of many ranks taking turns on a few cores. **They
# say nothing about the speed of a layout.** This experiment is about the losses.

# %% tags=["predict"]
fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6))
numbers = np.arange(1, steps + 1)
left.plot(numbers, alone, color="black", lw=6, alpha=0.25, marker="", ls="-", label="one process")
apart = {name: np.abs(losses - alone) for name, losses in curves.items()}
spacing = np.spacing(np.float32(alone[0]))  # from one number of fp32 to the next, at such a loss
for name, losses in curves.items():
    left.plot(numbers, losses, label=name)
    right.plot(numbers, apart[name] / spacing, ls="", ms=7, fillstyle="none", label=name)
furthest = max(difference.max() for difference in apart.values())
left.set(xlabel="step", ylabel="loss, nats per token", title=f"{len(curves) + 1} runs, one curve")
right.set(xlabel="step", ylim=(-0.1, max(3, 1.1 * furthest / spacing)))
right.set_ylabel(f"difference in spacings of fp32 ({spacing:.1e})")
right.set_title("They differ in the last digits of fp32")
left.legend(fontsize=9)
fig.tight_layout()
figure(
    fig,
    alt=f"Left: loss of {steps} steps in one process and in {len(curves)} layouts; all curves lie "
    f"on each other, from {alone[0]:.2f} to {alone[-1]:.2f}. Right: difference of each layout from "
    f"one process, in spacings of fp32 ({spacing:.1e}); the largest is {furthest / spacing:.1f}.",
)
print(f"largest difference of a loss in fp32: {furthest:.1e} of {alone[-1]:.2f}")
assert furthest < 1e-4
measured(
    "losses_of_four_layouts",
    "in the last digits" if furthest > 0 else "not at all",
    tell="Only the order of additions differs (lesson 04).",
)

# %% [markdown]
# Numbers of fp32 near 7 lie $5 \cdot 10^{-7}$ apart. So a layout is a matter of time and memory,
# not of what is learned.

# %% [markdown]
# ## Cost
#
# ### Bytes of each axis
#
# The step on slow wires recorded all its calls. Beside them stand the formulas. If there are two
# stages each is an end of the pipeline, so there is a little more than on a middle stage: one sum a
# micro-batch for the cut embedding on the first stage, one for the logits on the last, and three
# numbers a token for the loss (lesson 09).


# %%
def ring_bytes(calls, axis, operation):
    """Bytes that these calls send on rings; those of single numbers are left out."""
    chosen = [c for c in calls if (c.group, c.operation) == (axis, operation) and c.elements > 1]
    return sum(call.wire_bytes for call in chosen)


small, m = config.model, config.train.global_batch // d
k = 4 * small.seq * small.hidden  # bytes of an activation: fp32, one sequence
print("kB of a step" + "".join(f"{name:>12} {'formula':>8}" for name in AXES.values()))
for rank, (_, _, calls, held) in enumerate(results):
    at = layout.place(rank)
    ends = (at.pp == 0) + (at.pp == p - 1)
    loss_bytes = (at.pp == p - 1) * 3 * 4 * small.seq
    sums = (4 * small.layers // p + ends) * k + loss_bytes  # of a micro-batch
    both = {
        "tp": (ring_bytes(calls, "tp", "all_reduce"), wire_bytes("all_reduce", m * sums, t)),
        "pp": (ring_bytes(calls, "pp", "send"), m * (2 - ends) * k / t),
        "dp": (ring_bytes(calls, "dp", "all_reduce"), wire_bytes("all_reduce", 4 * held, d)),
    }
    row = "".join(f"{both[axis][0] / 1e3:>12.1f} {both[axis][1] / 1e3:>8.1f}" for axis in AXES)
    print(f"rank {rank}      {row}")
    assert all(abs(counted - formula) < 1e-6 for counted, formula in both.values())

# %% [markdown]
# Equal on every rank. One thing is not in the table. The slices of an activation are put together
# by an all-gather in the *tensor* group. Of an activation that goes on to the next stage, $1/t$
# takes the link of the pipeline and $(t-1)/t$ that of the tensor group:

# %%
for axis, operation in (("pp", "send"), ("tp", "all_gather")):
    most = max(ring_bytes(calls, axis, operation) for _, _, calls, _ in results)
    print(f"{operation:10} in the {AXES[axis]} group: {most / 1e3:.1f} kB a step")

# %% [markdown] tags=["deeper"]
# ### Deeper: what does not go together
#
# The package refuses some combinations, and says why.

# %% tags=["deeper"]
REQUESTS = {
    "ZeRO 2 in a pipeline": ["parallel.pp=2", "parallel.zero=2"],
    "sequence parallelism without slices": ["parallel.sequence_parallel=true"],
    "chunks in 1F1B": ["parallel.pp=2", "parallel.virtual=2"],
    "slices that heads do not divide": ["parallel.tp=3"],
    "ZeRO 3 with slices": ["parallel.tp=2", "parallel.zero=3"],
    "ZeRO 1 with all three": [*cuts(2, 2, 2), "parallel.zero=1"],
}
for request, overrides in REQUESTS.items():
    said = f"{request}: {refusal('nano', *overrides)}"
    print(textwrap.fill(said, 95, subsequent_indent="    "))

# %% [markdown] tags=["deeper"]
# Most of these rules are arithmetic. The first is about price: ZeRO 2 keeps no whole gradients, so
# it reduces them after each micro-batch, and a pipeline lives on having many. For MT-NLG that would
# fill more time than a step took (lesson 08).

# %% [markdown]
# ## MT-NLG
#
# ### From 252 layouts to one
#
# Back to 2240 GPUs and a batch of 1920. Three questions thin out the 252 layouts. Can the model be
# cut so? Does it fit into 80 GB: 20 bytes a parameter on the fullest GPU (lesson 00), and the
# inputs of its layers for all micro-batches in flight in 1F1B (lesson 11)? Do the slices of a layer
# stay in one node?

# %% tags=["predict"]
L, h, s, V = mt.model.layers, mt.model.hidden, mt.model.seq, mt.model.vocab
P = mt.model.parameters()
k = 2 * s * h  # bytes of an activation: 16 bits, one sequence


def gigabytes(t, p, d):
    """Training state and layer inputs in flight on the fullest GPU."""
    full = 0
    for stage, layers in enumerate(virtual_stages(L, p)):
        held = len(layers) * ((12 * h**2 + 7 * h) / t + 6 * h)
        held += V * h / t if stage in (0, p - 1) else 0
        held += s * h if stage == 0 else 0
        in_flight = min(1920 // d, p - stage) * len(layers) * k
        full = max(full, 20 * held + in_flight)
    return full / 1e9


can_be = [way for way in ways(2240) if refusal("mtnlg-530b", *cuts(*way)) == "can be"]
fit = [way for way in can_be if gigabytes(*way) <= 80]
in_node = [way for way in fit if way[0] <= 8]
print(f"{len(ways(2240))} layouts, {len(can_be)} can be, {len(fit)} of these fit:")
for way in fit:
    near = "slices in a node" if way in in_node else ""
    ramp = "" if 32 % way[2] == 0 else "not with the ramp"
    print(f"  {named(*way):12} {gigabytes(*way):5.1f} GB   {near:18}{ramp}")
with_ramp = [way for way in in_node if 32 % way[2] == 0]
assert with_ramp == [(4, 70, 8), (8, 35, 8), (8, 70, 4)]
assert round(gigabytes(8, 35, 8), 1) == 50.0
assert all(min(way) > 1 for way in in_node)
measured(
    "layouts_left_of_252",
    len(in_node),
    tell="In each of them all three numbers are above 1.",
)

# %% [markdown]
# The batch began with 32 sequences and grew by 32 [S3]. With micro-batches of one, only 1, 2, 4, 8,
# 16 or 32 replicas divide every batch of this ramp: three of the six layouts fall away, and three
# are left. (`refusal` sets `train.ramp=null`, else the package would refuse the three as well.)
#
# So the product is no luxury: with the slices in a node and without ZeRO (lesson 08), all layouts
# that are left use all three kinds. What if one of them is missing?

# %%
WITHOUT = {"slices": (1, L, 16), "stages": (8, 1, 240), "both": (1, 1, 1920), "replicas": (8, L, 1)}
for what, way in WITHOUT.items():
    size = f"{gigabytes(*way):6.0f} GB on each of {np.prod(way)} GPUs"
    print(f"without {what:9} for instance {named(*way):13}{size}")
assert gigabytes(8, L, 1) < 80 < min(gigabytes(*way) for way in list(WITHOUT.values())[:3])

held = 12 * h**2 + 13 * h + V * h + s * h  # parameters on stage 0 of 1 x 105 x 16
zero_1 = held * (2 + 6 + 12 / 16) / 1e9  # weights, gradients, a share of the other 12 bytes
inputs = min(1920 // 16, L) * k / 1e9
print(f"1 x 105 x 16 with ZeRO 1: {zero_1:.1f} GB and {inputs:.1f} GB of layer inputs")
print(f"its bubble: {(L - 1) / (1920 // 16):.0%} of the computing time")
assert zero_1 + inputs < 80

# %% [markdown]
# Without ZeRO (lesson 08), it does not fit without slices or without stages, whatever the number of
# replicas. Without replicas it does, but with a layer on each stage 840 GPUs are the end.
#
# ZeRO does not replace the cuts. ZeRO 1 makes $1 \times 105 \times 16$ fit, but then 120
# micro-batches go through 105 stages, and these wait nearly as long as they compute: there are too
# few sequences. ZeRO 3 would make the others fit, and would send all weights with each micro-batch:
# too much for the wire (lesson 08).
#
# Which of the layouts that fit is the fastest? We take the lessons' formulas for a lower bound:
#
# - The fullest stage sets the pace. For each of its layers and each micro-batch there is the
#   arithmetic, at the peak of 312 TFLOP/s a GPU [S3, sec. 2.3], and there are six sums.
# - The bubble adds $(p-1)/m$ of both.
# - The sum of the gradients comes last.
#
# Rates are 25 GB/s a GPU between nodes, from eight adapters of 200 Gb/s [S12, sec. 5], and 300 GB/s
# for NVLink [S14], which no source about MT-NLG confirms. More than eight slices sum inside their
# nodes first, at best (lesson 09).

# %%
forward_flops = 24 * s * h**2 + 4 * s**2 * h  # a sequence through a layer
layer_flops = 4 * forward_flops  # forward, forward once more, and backward, which is two of them


def sum_seconds(t):
    """One all-reduce of an activation among t slices."""
    inside = wire_bytes("all_reduce", k, min(t, 8)) / NVLINK
    return inside + wire_bytes("all_reduce", k / 8, max(t // 8, 1)) / INFINIBAND


def bound(t, p, d):
    """Seconds of a step at best: arithmetic, sums in layers, bubble, sum of gradients."""
    passes = 1920 // d * len(virtual_stages(L, p)[0])  # of a layer, on the fullest stage
    arithmetic, sums = passes * layer_flops / t / 312e12, passes * 6 * sum_seconds(t)
    bubble = (p - 1) / (1920 // d) * (arithmetic + sums)
    return arithmetic, sums, bubble, wire_bytes("all_reduce", 4 * P / (t * p), d) / INFINIBAND


LOOKS = [("blue", ""), ("orange", "///"), ("sky", "..."), ("black", "")]


def stacked(ax, rows, parts):
    """Bars of several parts: rows is {name: seconds of each part}."""
    left = np.zeros(len(rows))
    for wide, part, (colour, hatch) in zip(zip(*rows.values(), strict=True), parts, LOOKS,
                                           strict=False):  # fmt: skip
        look = dict(color=COLOURS[colour], hatch=hatch, edgecolor="black", lw=0.5)
        bars = ax.barh(range(len(rows)), wide, left=left, label=part, **look)
        left += wide
    ax.bar_label(bars, [f"{x:.1f}" for x in left], padding=4, fontsize=9)
    ax.set_yticks(range(len(rows)), rows)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlim(0, 1.1 * left.max())
    ax.legend(fontsize=9)


by_time = sorted(fit, key=lambda way: sum(bound(*way)))
fig, ax = plt.subplots(figsize=(8, 4.6))
parts = ["arithmetic, fullest stage", "sums in layers", "bubble", "sum of gradients"]
stacked(ax, {named(*way): bound(*way) for way in by_time}, parts)
ax.set_xlabel("seconds of a step, at best (computed)")
ax.set_title("Of all layouts that fit, 8 x 35 x 8 has the lowest bound")
figure(
    fig,
    alt="Computed lower bounds of a step of MT-NLG for the layouts that fit, lowest first, each a "
    "bar of four parts: "
    + ", ".join(f"{named(*way)} {sum(bound(*way)):.1f} s" for way in by_time)
    + ".",
)
assert by_time[0] == (8, 35, 8)

# %% [markdown]
# It comes out first: its 8 slices and 35 stages are MT-NLG's [S3, sec. 2.2]; eight replicas follow
# from 280 nodes (derived). Those right behind it pay for 105 layers
# on a number of stages that does not divide them: the fullest stage has more than its share. Those
# with more slices pay for sums.
#
# Two cautions. It is a lower bound (logits and messages between stages are left out, too). The real
# step took twice as long, and a few percent in a bound decide nothing. A planner needs measured
# efficiencies.
#
# And 2240 is a multiple of 35 because of the layout, not the other way round. That alone rules out
# many: 2240 has a factor of 7, which can go into stages only, as it divides neither 1920 nor 128.
# So let the number of GPUs be free for a moment, and count GPU-hours.

# %%
for way in ((8, 21, 12), (8, 35, 8), (8, 105, 3)):
    n = int(np.prod(way))
    hours = n * sum(bound(*way)) / 3600
    print(f"{named(*way):12} {n} GPUs, {gigabytes(*way):5.1f} GB, {hours:.2f} GPU-hours a step")
    assert abs(hours / (2240 * sum(bound(8, 35, 8)) / 3600) - 1) < 0.02

# %% [markdown]
# Equal within a percent or so. With 21 stages, 5 of 80 GB are left for everything else; with 105, a
# stage is a single layer. The paper does not say why it was 35. What the rules do say: slices fill
# a node, the number of stages divides the layers, and replicas are few enough to have many
# micro-batches.
#
# ### Link by link
#
# What does one GPU of $8 \times 35 \times 8$ send in a step? It has three layers, $m = 240$
# micro-batches, and full recomputation [S3, sec. 2.1.1]. Three things are not stated for MT-NLG. A
# micro-batch is one sequence, as above. That activations between stages are cut in eight is
# Megatron's way [S12]; we assume it. And we take 4 bytes for a gradient.

# %% tags=["predict"]
m = 240
each = bytes_of_a_step(8, 35, 8, m=m, layers=L, k=k, parameters=P, sums=6)
sent = {  # what: (axis that it belongs to, bytes of a step, rate)
    "sums in layers": ("tp", each["tp"], NVLINK),
    "activations, a slice": ("pp", each["pp"], INFINIBAND),
    "  put together": ("pp", m * 2 * wire_bytes("all_gather", k / 8, 8), NVLINK),
    "gradients": ("dp", each["dp"], INFINIBAND),
}
total = sum(size for _, size, _ in sent.values())
heads = f"{'MB a micro-batch':>17}{'GB a step':>11}{'share':>8}{'seconds':>9}   link"
print(f"{'one GPU sends':31}{heads}")
for what, (axis, size, rate) in sent.items():
    link = "NVLink" if rate == NVLINK else "InfiniBand"
    often = "" if axis == "dp" else f"{size / m / 1e6:.0f}"
    row = f"{often:>17}{size / 1e9:>11.1f}{size / total:>8.1%}{size / rate:>9.2f}   {link}"
    print(f"{AXES[axis]:9}{what:22}{row}")
for axis, name in AXES.items():
    inside, between = MTNLG.links(axis)
    print(f"{name + ' groups:':17}{inside:>5} links inside nodes, {between:>4} between")
assert MTNLG.links("tp") == (2240, 0)
assert MTNLG.links("pp") == MTNLG.links("dp") == (0, 2240)
measured(
    "percent_of_bytes_for_tensor",
    100 * sent["sums in layers"][1] / total,
    unit="%",
    tell="Whoever sends most should have the shortest way.",
)

# %% [markdown]
# No tensor group has a link between nodes, and no other group has one inside. What goes most often
# has the fast wires to itself.
#
# Whole activations between stages would need no putting together. But all of them would take
# InfiniBand:

# %%
whole_activations = m * 2 * k
print(f"{whole_activations / 1e9:.0f} GB a step, {whole_activations / INFINIBAND:.1f} s")
assert abs(whole_activations - sum(size for axis, size, _ in sent.values() if axis == "pp")) < 1

# %% [markdown]
# Now the six orders in which the three axes can be laid over the GPUs. An axis gets NVLink only if
# none of its links leaves a node. (The all-gather above stays with the pipeline's seconds; it goes
# where the tensor group goes.)


# %% tags=["predict"]
def seconds_by_axis(order):
    """Seconds that a GPU sends in a step for each axis, as AXES."""
    rate = {axis: INFINIBAND if MTNLG.links(axis, 8, order)[1] else NVLINK for axis in AXES}
    seconds = dict.fromkeys(AXES, 0.0)
    for what, (axis, size, _) in sent.items():
        seconds[axis] += size / rate["tp" if "together" in what else axis]
    return list(seconds.values())


times = {order: seconds_by_axis(order) for order in permutations(AXES)}
orders = sorted(times, key=lambda order: sum(times[order]))
print(f"{'slowest > fastest axis':28}" + "".join(f"{name:>10}" for name in AXES.values()))
for order in orders:
    print(f"{in_words(order):28}" + "".join(f"{x:>10.2f}" for x in times[order]) + " s")
assert {order[-1] for order in orders[:2]} == {"tp"}
measured(
    "seconds_with_slices_apart",
    sum(times["tp", "dp", "pp"]),
    unit="s",
    tell=f"Instead of {sum(times[USUAL]):.1f} s, in a step of 60.1 s.",
)

# %%
fig, ax = plt.subplots(figsize=(8, 3))
rows = {in_words(order): times[order] for order in orders}
stacked(ax, rows, AXES.values())
ax.set_xlabel("seconds that a GPU sends in a step (computed)")
ax.set_title("Slices have to be neighbours; the rest matters little", x=-0.33)
figure(
    fig,
    alt="Computed seconds that a GPU of MT-NLG sends in a step, for the six orders of the axes: "
    + ", ".join(f"{name} {sum(each):.1f} s" for name, each in rows.items())
    + ". Nearly all of it is tensor parallelism.",
)

# %% [markdown]
# The two best orders are equal, because our model has only two kinds of links. In a network of
# several layers of switches it also matters how far apart two nodes are. The paper's rule: slices
# inside a node; then replicas, inside the node if there is room, else on nearby nodes; stages
# furthest apart, as they send least [S3, sec. 2.2]. That is the order pipeline > data > tensor.

# %%
mine = my_rank()
for order in orders[:2]:
    nodes = [MTNLG.node(rank, 8, order)[0] for rank in MTNLG.group(mine, "dp")]
    print(f"{in_words(order)}: replicas of rank {mine} on nodes {nodes}")

# %% [markdown]
# ### Bandwidth amplification
#
# Four bytes for each parameter are two terabytes of gradients. They are summed in half a second,
# over adapters of 25 GB/s. Three things work together [S3, sec. 2.2]:
#
# - **Less volume.** A GPU holds a 280th of a replica, so its data group sums a 280th of the
#   gradients.
# - **In parallel.** There are 280 data groups. The eight GPUs of a node are in eight different
#   ones, and each has an adapter of its own. All 2240 adapters send at once.
# - **Near by.** A group is eight GPUs on neighbouring nodes, no ring through the whole machine.
#
# Compare with whole copies, and with replicas that are one node each, whose gradients all leave
# through the eight adapters of that node.

# %%
CASES = {
    "2240 copies in one ring": (4 * P, 2240),
    "2240 copies, a ring per adapter": (4 * P / 8, 2240),
    "8 replicas of one node each": (4 * P / 8, 8),
    "8 replicas of 35 nodes each": (4 * P / 280, 8),
}
speed = {}
for what, (each, n) in CASES.items():
    seconds = wire_bytes("all_reduce", each, n) / INFINIBAND
    speed[what] = 4 * P / seconds
    print(f"{what:32} {seconds:>7.2f} s: {4 * P / 1e12:.1f} TB at {speed[what] / 1e9:>7,.1f} GB/s")
*_, one_node, placed = speed.values()
print(f"35 nodes against one: {placed / one_node:.1f} times")
assert abs(placed / one_node - 35) < 1e-9

# %% [markdown]
# A group that has all eight GPUs of each of its nodes shares eight adapters, $8 \cdot 25 = 200$ GB/s
# (NCCL builds a ring for each adapter, as in the second line); a group with one GPU a node has 25.
# That is why placement and amplification work.
#
# With 35 stages on 35 nodes the gradients move 35 times as fast as through one node. DeepSpeed
# gives the same rule with 64 stages: 64 times [S16]. The stages are there to save memory; the
# bandwidth comes with them.
#
# ### Your rank
#
# Your node has up to four neighbours: your stage in the replicas before and after, and the stages
# before and after in your replica.

# %%
at, (node, gpu) = MTNLG.place(mine), MTNLG.node(mine)
around = {  # where it is drawn: (stage, replica); the ring of replicas closes, the stages end
    (0, 0): (at.pp, at.dp),
    (1, 0): (at.pp, (at.dp + 1) % 8),
    (-1, 0): (at.pp, (at.dp - 1) % 8),
    (0, 1): (at.pp + 1, at.dp),
    (0, -1): (at.pp - 1, at.dp),
}
around = {where: there for where, there in around.items() if 0 <= there[0] < 35}
fig, ax = plt.subplots(figsize=(8.4, 5.6))
dots = np.linspace(0.14, 0.86, 8)
for (column, row), (stage, replica) in around.items():
    x, y = 2.6 * column, 1.7 * row
    ax.add_patch(plt.Rectangle((x, y), 1, 1, fc="#eeeeee", ec="black", lw=0.8, zorder=1))
    ax.plot(x + dots, y + dots, "-s", color=COLOURS["blue"], ms=6, lw=3, zorder=3)
    name = f"node {MTNLG.node(MTNLG.rank(stage, replica))[0]}\nstage {stage}, replica {replica}"
    if row:
        ax.text(x + 1.06, y + 0.5, name, va="center", fontsize=9)
    else:  # under the box, beside the lines
        ax.text(x + (0.5 if column else 1.06), y - 0.06, name, va="top", fontsize=9,
                ha="center" if column else "left")  # fmt: skip
    look, colour = (":", "black") if row else ("--", "red")
    for dot in dots if (column, row) != (0, 0) else ():
        ends = [dot, x + dot], [dot, y + dot]
        ax.plot(*ends, look, marker="", lw=1.2, color=COLOURS[colour], zorder=2)
star = dict(ms=18, color="white", mec="black", zorder=4)
ax.plot(dots[gpu], dots[gpu], "*", **star)
ax.plot([], [], "*", label=f"rank {mine}", **(star | {"ms": 11}))
for style, colour, name in (
    ("-", "blue", f"tensor, NVLink: {sent['sums in layers'][1] / 1e9:.0f} GB a step"),
    (":", "black", f"pipeline: 240 x {k / 8e6:.1f} MB each way"),
    ("--", "red", f"data: {sent['gradients'][1] / 1e9:.1f} GB, once a step"),
):
    ax.plot([], [], style, marker="", color=COLOURS[colour], label=name)
ax.set(xlim=(-2.8, 3.8), ylim=(-1.8, 2.8), xticks=[], yticks=[], aspect="equal")
ax.set_title("Eight lines to each neighbour: every GPU of the node has its own")
ax.legend(fontsize=9, loc="upper left", title="each GPU, in a step", alignment="left")
ax.grid(False)
for spine in ax.spines.values():
    spine.set_visible(False)
figure(
    fig,
    alt=f"Node {node} with stage {at.pp} of replica {at.dp} and its neighbours, eight GPUs each. "
    "Inside a node the GPUs are joined by NVLink. Eight lines lead to the nodes of the replicas "
    "beside it and eight to those of the stages before and after, one from each GPU. Rank "
    f"{mine}, GPU {gpu}, is marked.",
)

# %%
print(f"rank {mine}: node {node}, GPU {gpu}; slice {at.tp}, stage {at.pp}, replica {at.dp}")
for axis, name in AXES.items():
    group = MTNLG.group(mine, axis)
    index = group.index(mine)
    on = len({MTNLG.node(rank)[0] for rank in group})
    link = "NVLink" if on == 1 else "InfiniBand"
    near = [group[i % len(group)] for i in (index - 1, index + 1)]
    print(f"{name:9} group of {len(group):>2} on {on:>2} nodes, {link:10} neighbours {near}")
assert len({MTNLG.node(rank)[0] for rank in MTNLG.group(mine, "tp")}) == 1

# %% [markdown]
# On rings, your GPU talks to two slices, two replicas and two stages, so to six of the others, $2240 - 1 =
# 2239$, at most. (The ring of stages closes only for the tied embedding, from the last stage to the
# first.) This is how thousands of GPUs can be one job: nobody talks to many.

# %% [markdown]
# ## Check yourself
#
# 1. A layout has $t = 4$ and $d = 4$ on nodes of eight, in the usual order. What lies in one node,
#    and which links do tensor and data groups use?
#
# <details><summary>Answer</summary>
#
# Two neighbouring replicas of one stage. Tensor groups stay inside. A data group has two of its
# four GPUs in each of two nodes: in its ring, half of the links are inside and half between nodes,
# and the ring is as slow as those between.
#
# </details>
#
# 2. "A group of at most eight always fits into a node of eight, if its ranks are neighbours." Is it
#    true?
#
# <details><summary>Answer</summary>
#
# No. With $t = 3$, ranks 6, 7 and 8 are a group, and the border of the node lies between 7 and 8.
# The size has to *divide* that of the node.
#
# </details>
#
# 3. The loss curves of all layouts lie on each other. Does this prove that the gradients are right?
#
# <details><summary>Answer</summary>
#
# It proves less than it seems to. All the runs used Adam, which hides a gradient that is too large
# by a constant factor (lesson 11), and ten steps in fp32 hide small mistakes. Therefore `verify`
# compares each gradient itself, in float64, and trains with SGD too.
#
# </details>
#
# 4. On all 560 nodes of the machine there would be 16 replicas, with the same batch. What happens
#    to the bytes that a GPU sends for each axis in a step, and to the bubble?
#
# <details><summary>Answer</summary>
#
# $m$ falls from 240 to 120, so tensor and pipeline bytes halve. Data goes from $2 \cdot 7/8$ to $2
# \cdot 15/16$ of the same gradients: a little more. The bubble doubles, from $(35 - 1)/240$
# to $(35 - 1)/120$.
#
# </details>
#
# 5. Each of two programs calls `dist.all_reduce(w.grad)` without naming a group at the end of a
#    step. One has only replicas, the other $2 \times 1 \times 2$. What does each get?
#
# <details><summary>Answer</summary>
#
# Without a group all ranks sum. With replicas alone that is right. With two slices, ranks add up
# gradients of *different* weights that happen to have the same shape: a wrong gradient, and no
# error.
#
# </details>

# %% [markdown]
# ## Exercises
#
# Count the bytes that leave a node, and find the bug of a job in three dimensions. Then seat the ranks
# of any job: find the order of axes that keeps a GPU busy sending for the shortest
# time.
#
# Three kinds of parallelism are three axes of one array, and each works in its own groups. They
# send so differently that the order of the axes changes the time of a step, and nothing else. You
# have built and proved all of it on small ranks; lesson 13 goes to the real engines.
