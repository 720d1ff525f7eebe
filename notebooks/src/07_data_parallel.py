# ---
# question: What must the replicas of a model send each other, and when, so that computing does not
#   wait for the wire?
# needs: [layout, rank, training state, number format, micro-batch, process group, collective,
#   alpha-beta model]
# introduces:
#   gradient hook: "A function that autograd calls in the middle of backward, at the moment when the
#     gradient of one parameter is complete."
#   bucket: "The gradients of several parameters laid end to end in one tensor, so that one
#     all-reduce sums them all."
#   overlap: "To start a collective without waiting for it and to compute on, so that its time is
#     hidden behind arithmetic."
# proves: "Buckets of gradients equal one process that sees all rows, and bugs that raise no error
#   are noticed."
# minutes: 40
# seconds: 40
# ---

# %% [markdown]
# # Data parallelism
#
# The simplest way to use more GPUs is to copy. Each gets the whole model and its own part of the
# batch. All forward and backward passes then run side by side, and nothing inside the model
# changes.
#
# One thing is left to do: the gradients must be added up. This lesson does it three times. First
# right, then without waiting, then as the package does it.

# %% [markdown]
# ## Question
#
# A **replica** is one of $d$ copies of the model (lesson 00). All start from the same weights. If
# all move them by the same gradient, they have the same weights after the step, and after every
# step. So each replica needs the gradient of the *whole* batch, and it has seen only a part.
#
# Lesson 06 knows the tool: an all-reduce. It also knows the price: a wire that carries all
# gradients of a model is busy for a while, and meanwhile the GPUs could compute.
#
# **What must replicas send each other, and when, so that computing does not wait for the wire?**

# %%
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.distributed as dist
from matplotlib.patches import Patch

from minimtnlg import run
from minimtnlg.config import Model, preset
from minimtnlg.course.check import measured, predict
from minimtnlg.course.mutants import mutant
from minimtnlg.course.plots import COLOURS
from minimtnlg.course.rank import MTNLG, my_rank
from minimtnlg.course.show import figure, show
from minimtnlg.data.batches import Batch
from minimtnlg.device import device
from minimtnlg.model import GPT
from minimtnlg.parallel.collectives import Recorder, ring_seconds, wire_bytes
from minimtnlg.parallel.layout import Layout
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.parallel.replicas import Replicas, in_buckets
from minimtnlg.ranks import RankError
from minimtnlg.train.optimizer import Optimizer
from minimtnlg.train.step import step
from minimtnlg.train.verify import configure, verify

bf16, fp32, fp64 = torch.bfloat16, torch.float32, torch.float64

# %% tags=["parameters"]
replicas: int = 2  # in Proof, and where bytes are counted
alpha: float = 0.0005  # seconds; latency of a message on the slowed link
beta: float = 80e6  # bytes per second on the slowed link
slow_alpha: float = 0.003  # the latency where sizes of buckets are compared, in Cost
rows: int = 1024  # what each replica takes through the model in a step
rounds: int = 8  # repetitions of each timing; the fastest counts

# %% [markdown]
# ## Predict
#
# Type your guess in place of `None`, then run the cell.
#
# 1. Two replicas sum their gradients over a slow wire. First in one call after backward. Then in
#    eight pieces, each of which leaves as soon as it is ready, while backward goes on. By how many
#    percent does the second way shorten the wait after backward?
# 2. A step adds up four micro-batches. The gradients travel in eight pieces. How many all-reduces
#    does each replica start in a step?
# 3. Two replicas, and two pieces of one weight each. On one replica the weight of the last piece
#    gets no gradient, because its part of the batch did not use it. A piece leaves when its
#    gradient is there. What happens?
# 4. Suppose that each of 2240 GPUs had room for all of MT-NLG. How many seconds would the sum of
#    the 530 billion gradients take, at 4 bytes each, in one ring of all GPUs whose slowest links
#    carry 25 GB/s? (An iteration took 60.1 s.)

# %%
predict("percent_of_the_wait_hidden", None)
predict("all_reduces_for_four_micro_batches", None)
predict(
    "a_replica_without_gradient",
    None,
    choices=["a zero is added", "the others wait", "wrong sums, no error"],
)
predict("seconds_for_all_gradients", None)

# %% [markdown]
# ## Trouble
#
# ### The mean of what?
#
# Lesson 04 had a batch of four tokens: one with loss 6, three with loss 2. Their mean is 3. Now the
# first token is on rank 0 and the others are on rank 1. There is one weight $w$, and the loss of
# token $i$ is $w x_i$, so its gradient is $x_i$.
#
# Each rank takes the mean of its own tokens, and then the ranks take the mean of their gradients:

# %%
TOKENS = [[6.0], [2.0, 2.0, 2.0]]  # x_i of each rank


def mean_of_means():
    w, x = torch.ones((), requires_grad=True), torch.tensor(TOKENS[dist.get_rank()])
    (w * x).mean().backward()
    dist.all_reduce(w.grad)
    return w.grad.item() / dist.get_world_size()


gradients = run(mean_of_means, 2)
print("gradient on the two ranks:", gradients, " it should be 3")
assert gradients == [4.0, 4.0]

# %% [markdown]
# Both ranks agree, and both are wrong. It is the old trap: the lonely token counts three times as
# much as each of the others. It snaps whenever masks are uneven, and no error tells.
#
# The cure is the old one too. The divisor is $N$, the number of tokens in the *global* batch. No
# rank knows it, so it is summed first. Then each rank divides its summed loss by $N$, and gradients
# are only added:

# %%
def sum_over_all():
    w, x = torch.ones((), requires_grad=True), torch.tensor(TOKENS[dist.get_rank()])
    N = torch.tensor(len(x))
    dist.all_reduce(N)
    ((w * x).sum() / N).backward()
    dist.all_reduce(w.grad)
    return w.grad.item()


gradients = run(sum_over_all, 2)
print("gradient on the two ranks:", gradients)
assert gradients == [3.0, 3.0]

# %% [markdown]
# So there are two sums in a step: a tiny one of the number of tokens, before backward, and a huge
# one of the gradients. From here on we care about the huge one.
#
# ### The wait
#
# The two ranks of this machine talk through its memory, which is much faster than a network. To see
# what a network does, we need a slower link. Here is one. **It makes real all-reduces, but one at a
# time, and it sleeps before each**, for as long as a ring with our $\alpha$ and $\beta$ would take
# (lesson 06). A thread of its own does this, so the rank can compute meanwhile.

# %%
class SlowLink:
    """Real all-reduces, one after the other, slowed to a stated alpha and beta."""

    def __init__(self, alpha, beta):
        self.alpha, self.beta = alpha, beta
        self.thread = ThreadPoolExecutor(1)  # one wire, one call at a time
        self.busy = []  # (begin, end) of each call

    def all_reduce(self, x):
        """Start the sum of x and return at once: a function that waits until x is the sum."""
        return self.thread.submit(self.carry, x).result

    def carry(self, x):
        begin, n = time.perf_counter(), dist.get_world_size()
        time.sleep(ring_seconds("all_reduce", x.nbytes, n, self.alpha, self.beta))
        dist.all_reduce(x)
        self.busy.append((begin, time.perf_counter()))


# %% [markdown]
# And a model: a plain stack of layers, in fp32. Every rank makes the same weights. A row of the
# input plays the part of a token.

# %%
LAYERS, WIDTH = 16, 256


class Stack(torch.nn.Module):
    """x + tanh(x A + b), layer after layer; the loss of each row at the end."""

    def __init__(self, width=WIDTH, dtype=fp32):
        super().__init__()
        torch.manual_seed(1)
        self.layers = torch.nn.ModuleList(
            torch.nn.Linear(width, width, dtype=dtype) for _ in range(LAYERS)
        )

    def forward(self, x):
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return x.square().mean(1)


def rows_of(rank, count, width=WIDTH, dtype=fp32):
    """Input of one rank, [count, width]."""
    draw = torch.Generator().manual_seed(100 + rank)
    return torch.randn(count, width, dtype=dtype, generator=draw)


parameters = sum(p.numel() for p in Stack().parameters())
payload = 4 * parameters  # bytes of all gradients
print(f"{parameters:,} parameters, {payload / 1e6:.1f} MB of gradients")
print(f"alpha = {1e3 * alpha:g} ms, beta = {beta / 1e6:g} MB/s: between two ranks their sum takes",
      f"{1e3 * ring_seconds('all_reduce', payload, 2, alpha, beta):.0f} ms")  # fmt: skip

# %% [markdown]
# One step: forward, backward, then all gradients in one tensor through the slowed link. Two ranks,
# one for each core.

# %%
def one_call_at_the_end():
    net, x, link = Stack(), rows_of(dist.get_rank(), rows), SlowLink(alpha, beta)
    found = []
    for _ in range(rounds):
        net.zero_grad()
        dist.barrier()
        times = [time.perf_counter()]
        loss = net(x).sum() / (rows * dist.get_world_size())
        times.append(time.perf_counter())
        loss.backward()
        flat = torch.cat([p.grad.flatten() for p in net.parameters()])
        times.append(time.perf_counter())
        wait = link.all_reduce(flat)
        wait()
        times.append(time.perf_counter())
        found.append(1e3 * np.diff(times))
    return found


spent = min(zip(*run(one_call_at_the_end, 2), strict=True), key=lambda both: max(map(sum, both)))
for rank, own in enumerate(spent):  # of the round that was fastest for both
    for name, ms in zip(("forward", "backward", "waiting"), own, strict=True):
        print(f"rank {rank}: {name:9}{ms:6.0f} ms  {100 * ms / own.sum():3.0f} % of the step")
link_alone = 1e3 * ring_seconds("all_reduce", payload, 2, alpha, beta)
rest = min(own[2] for own in spent) - link_alone
print(f"\nThe rank that waits less waits {link_alone:.0f} ms for the slowed link, {rest:.0f} ms "
      "for the rest:\nthe additions, the waking of threads, other programs here.")  # fmt: skip

# %% [markdown]
# The rank that is done first also waits for the other: a sum begins when both are there. (Laying
# the gradients end to end counts as backward.)
#
# While the wire works the core does nothing, and while the core works the wire lies idle. Each
# waits for the other.

# %% [markdown]
# ## Idea
#
# ### Gradients are ready early
#
# Backward runs from the last layer to the first. When it has done the last layer, the gradients of
# that layer are complete. Nothing later in the step changes them. They could be on their way while
# backward goes on with the layer below.
#
# To start a call and compute on is called **overlap**. By hand, with four layers:
#
# - Forward takes 4 ms. Backward takes 2 ms a layer, so it ends at 12 ms.
# - On the wire, a call pays 0.5 ms, and each layer's gradients another 1.5 ms.
#
# One call at the end takes $0.5 + 4 \cdot 1.5 = 6.5$ ms, and the step ends at 18.5 ms. With a call
# for each layer, gradients are ready at 6, 8, 10 and 12 ms and each call takes 2 ms. So the sums
# are there at 8, 10, 12 and 14 ms.

# %%
def sums_there(ready, seconds):
    """When each sum is there: calls go over one wire, in order, none before it is ready."""
    there, free = [], 0.0
    for r, t in zip(ready, seconds, strict=True):
        free = max(r, free) + t
        there.append(free)
    return there


def by_hand(layers_in_a_call, forward=4.0, backward=2.0, call=0.5, layer=1.5):
    """(when each call's gradients are ready, when their sums are there), in ms."""
    calls = 4 // layers_in_a_call
    ready = [forward + backward * layers_in_a_call * (i + 1) for i in range(calls)]
    return ready, sums_there(ready, [call + layer * layers_in_a_call] * calls)


for layers_in_a_call in (4, 2, 1):
    ready, there = by_hand(layers_in_a_call)
    print(f"{layers_in_a_call} layers in a call: ready at {ready}, sums there at {there} ms")
assert by_hand(4)[1] == [18.5] and by_hand(1)[1] == [8, 10, 12, 14]

# %%
FORWARD, WAIT = dict(facecolor=COLOURS["blue"]), dict(facecolor="white", hatch="....")
BACKWARD = [dict(facecolor="#F6D58E"), dict(facecolor="#FBEBC8")]  # neighbours differ
WIRE = [dict(facecolor=COLOURS["sky"], hatch="//"), dict(facecolor="#CBE6F7", hatch="//")]


def draw_step(ax, row, forward, ready, wire, right):
    """Two rows, what a rank computes and what is on its wire, with the number of each call.

    forward: (begin, end); ready: when the gradients of each call are complete;
    wire: [(begin, end)]; right: where the picture ends
    """
    edge = dict(edgecolor="black", lw=0.6)
    ax.barh(row, forward[1] - forward[0], 0.8, forward[0], **edge, **FORWARD)
    begins = [forward[1], *ready[:-1]]
    spans = [*zip(begins, ready, strict=True), *wire]
    for i, (begin, end) in enumerate(spans):
        on_wire, number = divmod(i, len(ready))
        look, y = (WIRE if on_wire else BACKWARD)[number % 2], row + on_wire
        ax.barh(y, end - begin, 0.8, begin, **edge, **look)
        box = dict(boxstyle="round,pad=0.15", fc="white", ec="none", alpha=0.8)
        at = dict(ha="center", va="center", fontsize=8)
        if end - begin > 0.025 * right:  # else the number is wider than its bar
            ax.text((begin + end) / 2, y, number, bbox=box, **at)
    if wire[-1][1] > ready[-1]:
        ax.barh(row, wire[-1][1] - ready[-1], 0.8, ready[-1], **edge, **WAIT)


def finish_time_line(ax, labels, right, title):
    looks = {"forward": FORWARD, "backward": BACKWARD[0], "waiting": WAIT, "on the wire": WIRE[0]}
    handles = [Patch(label=k, edgecolor="black", lw=0.6, **v) for k, v in looks.items()]
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4, fontsize=9)
    ax.set_yticks(range(len(labels)), labels)
    ax.set(xlim=(0, right), ylim=(len(labels) - 0.5, -0.5), xlabel="ms")
    ax.xaxis.set_label_coords(1.0, -0.09)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    ax.set_axisbelow(True)
    ax.set_title(title)


fig, ax = plt.subplots(figsize=(7.5, 3))
labels, row = [], 0
for layers_in_a_call, name in ((4, "one call"), (1, "four calls")):
    ready, there = by_hand(layers_in_a_call)
    took = 0.5 + 1.5 * layers_in_a_call
    draw_step(ax, row, (0, 4), ready, [(end - took, end) for end in there], 19)
    labels += [f"{name}: computes", "its wire"]
    row += 2
finish_time_line(ax, labels, 19, "By hand: sent during backward, three of four sums cost no time")
ax.set_xticks(range(0, 19, 2))
figure(
    fig,
    alt="Two time lines by hand. One call: forward to 4 ms, backward to 12, then the wire from 12 "
    "to 18.5 while nothing is computed. Four calls: the same passes; the wire carries call 0 from "
    "6 to 8 ms, call 1 to 10, call 2 to 12, call 3 to 14. The wait is 2 ms, not 6.5.",
)

# %% [markdown]
# Call by call: number $i$ begins when its gradients are ready, at $r_i$, and when the wire is free.
# With $k_i$ bytes between $n$ ranks it takes $T(k_i)$, the time of a ring (lesson 06). So its sum
# is there at
#
# $$e_i = \max(r_i,\, e_{i-1}) + T(k_i), \qquad
# T(k) = 2\,(n - 1) \left( \alpha + \frac{k}{n \beta} \right).$$
#
# Two things can never be hidden behind backward. The last call begins only when backward has ended.
# And if the wire needs longer than backward, the calls queue up, and the queue is waited for.
#
# On GPUs overlap itself is not free: the programs that communicate take some of the processor and
# of the memory's bandwidth, and backward is slower meanwhile.
#
# ### Not one call for each gradient
#
# If early is good, why not send each gradient by itself? Because each call pays its latencies
# again. A layer of a GPT has matrices with millions of numbers and biases with a few thousand, and
# for a small message the latency is nearly all of the price.
#
# So several gradients are laid end to end in one tensor, a **bucket**. A large bucket wastes few
# latencies but leaves late. A small one leaves early but pays more. *Cost* measures the compromise.

# %% [markdown]
# ## Code
#
# ### A hook
#
# How do we learn, in the middle of `backward()`, that a gradient is complete? We ask autograd to
# call us. The function that it calls is a **gradient hook**:

# %%
net, order = Stack(), []
for name, p in net.named_parameters():
    p.register_post_accumulate_grad_hook(lambda p, name=name: order.append(name))
net(rows_of(0, 4)).sum().backward()
print("gradients arrive in this order:", ", ".join(order[:4]), "...", ", ".join(order[-2:]))
assert sorted(order) == sorted(name for name, _ in net.named_parameters())

# %% [markdown]
# The last layer comes first, as it should. So buckets are filled from the back: the first bucket
# holds the parameters of the last layers.

# %%
def cut_into_buckets(net, layers_in_a_bucket):
    """Lists of parameters, last layers first."""
    backwards = list(net.layers)[::-1]
    groups = [backwards[i : i + layers_in_a_bucket] for i in range(0, LAYERS, layers_in_a_bucket)]
    return [[p for layer in group for p in layer.parameters()] for group in groups]


buckets = cut_into_buckets(net, 2)
sizes = [sum(p.nbytes for p in bucket) / 1e6 for bucket in buckets]
print(f"{len(buckets)} buckets of {sizes[0]:.2f} MB")
assert len(buckets) == 8 and sum(map(len, buckets)) == len(order)

# %% [markdown]
# Now the machine itself. It counts how many gradients of each bucket are missing. When none is, the
# bucket leaves: its gradients are laid end to end, and the sum is started. `finish` waits for the
# sums and gives each parameter its piece.
#
# `all_reduce` is a function as above: it starts a sum and returns a function that waits.

# %%
class Buckets:
    """Sums gradients over all ranks; each bucket leaves when it is full."""

    def __init__(self, buckets, all_reduce):
        self.buckets, self.all_reduce = buckets, all_reduce
        for i, bucket in enumerate(buckets):
            for p in bucket:
                p.register_post_accumulate_grad_hook(partial(self.arrived, i))

    def begin(self, last=True):
        """Before a backward pass; last: whether it is the last one of the step."""
        self.sending, self.under_way = last, []
        self.missing = [len(bucket) for bucket in self.buckets]

    def arrived(self, i, parameter):
        self.missing[i] -= 1
        if self.sending and self.missing[i] == 0:
            self.full(i)

    def full(self, i):
        self.leave(i)

    def leave(self, i):
        flat = torch.cat([p.grad.flatten() for p in self.buckets[i]])
        self.under_way.append((i, flat, self.all_reduce(flat)))

    def finish(self):
        """After the last backward pass: wait for all sums."""
        for i, flat, wait in self.under_way:
            wait()
            pieces = flat.split([p.numel() for p in self.buckets[i]])
            for p, piece in zip(self.buckets[i], pieces, strict=True):
                p.grad = piece.view_as(p)


# %% [markdown]
# ### Calls in flight
#
# Two ranks, two layers in a bucket, over the slowed link. Each rank writes down when each bucket
# was full, laid end to end and handed to the link, and when its call was on the wire. One bucket
# for all layers would be the one call at the end, so the same program will measure both.
#
# From here on **the wait** begins when the last bucket is handed over. All gradients are there
# then. (`backward()` itself returns a little later, when its thread gets its turn.)

# %%
class Timed(Buckets):
    """Writes down when each bucket was handed to the link."""

    def __init__(self, buckets, link):
        super().__init__(buckets, self.hand_over)
        self.link = link

    def hand_over(self, flat):
        self.ready.append(time.perf_counter())
        return self.link.all_reduce(flat)


def one_step(net, sums, link):
    """One step of one rank: the moments at which things began and ended, in seconds."""
    x = rows_of(dist.get_rank(), rows)
    net.zero_grad()
    sums.begin()
    sums.ready, link.busy = [], []
    dist.barrier()
    at = {"begin": time.perf_counter()}
    loss = net(x).sum() / (rows * dist.get_world_size())
    at["forward"] = time.perf_counter()
    loss.backward()
    at["backward"] = sums.ready[-1]  # all gradients are there
    sums.finish()
    return at | {"end": time.perf_counter(), "ready": sums.ready, "wire": link.busy}


def time_lines(cuts, alpha, beta):
    """What this rank did, in several rounds; in each round every way to cut takes its turn."""
    link, ways = SlowLink(alpha, beta), []
    for cut in cuts:
        net = Stack()
        ways.append((net, Timed(cut(net), link), link))
    return [[one_step(*way) for way in ways] for _ in range(rounds)]


def fastest(cuts, alpha=alpha, beta=beta):
    """For each cut the time lines of both ranks in its fastest round, in ms since it began."""
    found, (rank_0, rank_1) = [], run(time_lines, 2, cuts, alpha, beta)  # [round][cut] of each
    for i in range(len(cuts)):
        pairs = [(a[i], b[i]) for a, b in zip(rank_0, rank_1, strict=True)]
        ranks = min(pairs, key=lambda pair: max(x["end"] - x["begin"] for x in pair))
        zero = min(x["begin"] for x in ranks)
        found.append([{k: 1e3 * (np.array(v) - zero) for k, v in x.items()} for x in ranks])
    return found


def cut_by(layers_in_a_bucket):
    return partial(cut_into_buckets, layers_in_a_bucket=layers_in_a_bucket)


(lines,) = fastest([cut_by(2)])
for rank, x in enumerate(lines):
    print(f"rank {rank}: forward ends at {x['forward']:.0f} ms, backward at {x['backward']:.0f},"
          f" the last sum is there at {x['end']:.0f}")  # fmt: skip
    for i, (full, (on, off)) in enumerate(zip(x["ready"], x["wire"], strict=True)):
        print(f"    bucket {i}: full at {full:4.0f}, on the wire from {on:4.0f} to {off:4.0f}")
    early = sum(full < x["backward"] for full in x["ready"][:-1])
    assert early == len(x["ready"]) - 1  # all but the last left before backward ended

# %%
fig, ax = plt.subplots(figsize=(7.5, 3.2))
last = max(x["end"] for x in lines)
for rank, x in enumerate(lines):
    draw_step(ax, 2 * rank, (x["begin"], x["forward"]), x["ready"], x["wire"], last)
labels = [f"rank {rank}: {what}" for rank in (0, 1) for what in ("computes", "wire")]
finish_time_line(ax, labels, 1.02 * last, "Measured: calls are in flight while backward computes")
x = lines[0]
figure(
    fig,
    alt="Measured time lines of two ranks over the slowed link, eight buckets. On rank 0 forward "
    f"ends at {x['forward']:.0f} ms and backward at {x['backward']:.0f}. The wire is busy from "
    f"{x['wire'][0][0]:.0f} ms on, with bucket after bucket, until {x['end']:.0f}. The rank waits "
    f"only the last {x['end'] - x['backward']:.0f} ms. Rank 1 does the same.",
)

# %% [markdown]
# A number in the upper row of a rank says for which bucket backward computes gradients, the same
# number in the lower row that they are on the wire. Both rows are busy at the same time: that is
# overlap. The wire begins when the first two layers are done, not when all sixteen are. (A bar
# narrower than its number goes without.)
#
# ### The same order everywhere
#
# Our `Buckets` has a flaw, and it is the dangerous kind. Collectives of a group are matched by
# their order (lesson 06): the third call of one rank meets the third call of the others, whatever
# is in it. So all ranks must send their buckets in the same order. Do gradients arrive in the same
# order on all ranks?
#
# In our stack they do. But a model may take another way on another rank, because the data say so.
# The smallest case: two weights, which rank 0 uses in one order and rank 1 in the other. Each is a
# bucket by itself.

# %%
def start_all_reduce(x):
    """A real all-reduce, not slowed: starts it and returns the function that waits."""
    return dist.all_reduce(x, async_op=True).wait


def two_weights(kind, way_of_rank_1):
    """Gradients of a and b, and what this rank added to them."""
    a, b = (torch.tensor(x, requires_grad=True) for x in ([1.0, 2.0], [30.0, 40.0]))
    sums = kind([[b], [a]], start_all_reduce)
    sums.begin()
    rank = dist.get_rank()
    way = way_of_rank_1 if rank == 1 else "a, then b"
    y = torch.ones(2) * (rank + 1)
    for name in way.split(", then "):
        y = y * {"a": a, "b": b}[name]
    y.sum().backward()
    own = {"a": numbers(a.grad), "b": numbers(b.grad)}
    sums.finish()
    return own, {"a": numbers(a.grad), "b": numbers(b.grad)}


def numbers(x):
    return None if x is None else x.tolist()


right = {"a": [90.0, 120.0], "b": [3.0, 6.0]}
for rank, (own, got) in enumerate(run(two_weights, 2, Buckets, "b, then a")):
    print(f"rank {rank} hands in {own}\n           gets {got}")
    assert got != right
print("      should be", right)

# %% [markdown]
# No error, and every number is wrong: a gradient of $a$ was added to one of $b$. The buckets had
# the same size, so nobody noticed.
#
# And if rank 1 does not use $a$ at all?

# %% tags=["predict"]
try:
    run(two_weights, 2, Buckets, "b", timeout=3)
    outcome = "a zero is added"
except RankError as error:
    print(error)
    outcome = "the others wait" if error.type == "TimeoutError" else error.type
print()
measured(
    "a_replica_without_gradient",
    outcome,
    tell="Rank 1's bucket is never full, so rank 0 waits for a call that never comes.",
)

# %% [markdown]
# A third bucket would have made it worse: rank 1's call for it would have met rank 0's call for
# $a$, and the sums would be wrong again, without an error.
#
# Two rules mend both:
#
# - **Buckets leave in one order**, fixed at the start. One that is full early waits for its turn.
# - **What has not left when backward ends, leaves then**, with zeros where no gradient came.

# %%
class InOrder(Buckets):
    """Buckets that leave in their order, all of them, on every rank."""

    def begin(self, last=True):
        super().begin(last)
        self.next = 0

    def full(self, i):
        while self.next < len(self.buckets) and self.missing[self.next] == 0:
            self.leave(self.next)
            self.next += 1

    def finish(self):
        for i in range(self.next, len(self.buckets)):
            for p in self.buckets[i]:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            self.leave(i)
        super().finish()


for way in ("a, then b", "b, then a", "b"):
    (own_0, got_0), (own_1, got_1) = run(two_weights, 2, InOrder, way)
    zero = [0.0, 0.0]
    wanted = {n: [u + v for u, v in zip(own_0[n], own_1[n] or zero, strict=True)] for n in "ab"}
    print(f"rank 1 uses {way:10} both ranks get {got_0}")
    assert got_0 == got_1 == wanted

# %% [markdown]
# A zero is the right thing to add. A weight that was not used has gradient zero in one process too.
#
# ### Accumulation is silent
#
# A step often has several micro-batches on each replica (lesson 04). When should their gradients be
# sent? The sum over micro-batches is a sum like any other, and a rank can take it alone. So it adds
# up its own first, and **only the last backward pass sends**. That is what `begin(last)` is for.
#
# We count with the package's `Recorder` (lesson 06).

# %% tags=["predict"]
def counted(micro_batches):
    """The traffic of one step of `micro_batches` backward passes."""
    net = Stack()
    sums = InOrder(cut_into_buckets(net, 2), start_all_reduce)
    parts = rows_of(dist.get_rank(), 64).chunk(micro_batches)
    with Recorder() as seen:
        for k, x in enumerate(parts):
            sums.begin(last=k == micro_batches - 1)
            (net(x).sum() / (64 * dist.get_world_size())).backward()
        sums.finish()
    return len(seen.calls), sum(call.bytes for call in seen.calls)


for m in (1, 2, 4):
    calls, handed_in = run(counted, replicas, m)[0]
    print(f"{m} micro-batches: {calls} all-reduces, {handed_in / 1e6:.2f} MB handed in")
    assert (calls, handed_in) == (8, payload)
measured(
    "all_reduces_for_four_micro_batches",
    calls,
    tell="One for each bucket, however many micro-batches there are.",
)

# %% [markdown]
# ### In which format?
#
# MT-NLG's weights have 16 bits, and so has the gradient that backward makes of them. But in
# bfloat16 a long sum stops growing (lesson 04), and this one is long: first the micro-batches of a
# replica, then the replicas. So gradients are summed in fp32, and the price is twice the bytes on
# the wire. Megatron enforced it for bfloat16 in 2022, for the micro-batches and for the all-reduce
# [S10]; it can be switched off today.
#
# ### The package's version
#
# `Replicas` does all of the above. PyTorch's own data parallelism, `DistributedDataParallel` or
# DDP, does it too and has names for our rules: `bucket_cap_mb` is the size of a bucket,
# `no_sync()` keeps all but the last backward pass silent, and `find_unused_parameters` is for
# weights without a gradient. In one point it differs: DDP expects each replica's *mean*, so it
# divides by the number of replicas. Ours have divided by all tokens already, and only add.
#
# `Replicas` keeps the fp32 sums of each bucket in one flat tensor, so
# that nothing is laid end to end when a bucket leaves. Its hook, and the rule by which parameters
# are put into buckets:

# %%
show(Replicas._arrived)

# %%
show(in_buckets)

# %% [markdown]
# ## You might think
#
# ### "One all-reduce at the end is as good"
#
# There are good reasons to believe it. The bytes are the same. One call pays the latencies once, so
# the wire is busy for a *shorter* time. And there are no hooks that can go wrong.
#
# We run it, with the program that drew the time line: one bucket with all layers leaves when the
# last gradient has come, at the end of backward.

# %% tags=["predict"]
at_the_end, in_eight = (ranks[0] for ranks in fastest([cut_by(LAYERS), cut_by(2)]))
print(f"one sum over the slowed link, by the formula: {link_alone:.0f} ms")
waits = {}
for name, x in (("one bucket", at_the_end), ("8 buckets", in_eight)):
    busy = sum(off - on for on, off in x["wire"])
    waits[name] = x["end"] - x["backward"]
    early = sum(full < x["backward"] for full in x["ready"][:-1])  # the last comes with the end
    print(f"{name:10}: {early} calls start in the midst of backward, the wire is busy for "
          f"{busy:4.0f} ms, the rank waits {waits[name]:4.0f} ms of {x['end'] - x['begin']:4.0f}")
    assert early == len(x["ready"]) - 1
hidden = 100 * (1 - waits["8 buckets"] / waits["one bucket"])
tell = "The wire works longer, and is waited for less."
disturbed = "Other programs took the cores meanwhile: run this cell again when they are idle."
measured("percent_of_the_wait_hidden", hidden, unit="%", tell=tell if hidden > 0 else disturbed)

# %%
fig, ax = plt.subplots(figsize=(7.5, 3.2))
labels, last = [], max(at_the_end["end"], in_eight["end"])
for row, (name, x) in enumerate((("one bucket", at_the_end), ("8 buckets", in_eight))):
    draw_step(ax, 2 * row, (x["begin"], x["forward"]), x["ready"], x["wire"], last)
    labels += [f"{name}: computes", "its wire"]
finish_time_line(ax, labels, 1.02 * last, "Measured: one call at the end is waited for in full")
figure(
    fig,
    alt="Measured time lines of rank 0. With one bucket backward ends at "
    f"{at_the_end['backward']:.0f} ms and the call is on the wire until "
    f"{at_the_end['end']:.0f}, all of it waiting. With eight buckets backward ends at "
    f"{in_eight['backward']:.0f} ms and the last sum is there at {in_eight['end']:.0f}.",
)

# %% [markdown]
# What counts is not how long the wire works but how long somebody waits for it.
#
# In two cases the belief does little harm. One is a fast wire. Over the memory of this machine, not
# slowed:

# %%
for x, _ in fastest([cut_by(LAYERS), cut_by(2)], alpha=0.0, beta=np.inf):
    print(f"buckets: {len(x['ready'])}, link not slowed: the rank waits "
          f"{x['end'] - x['backward']:.0f} ms of {x['end'] - x['begin']:.0f}")  # fmt: skip

# %% [markdown]
# Over the fast wire the wait is short either way; little is left to hide. (What is left is mostly
# the wait for the other rank and for a free core.)
#
# The other case is many micro-batches. Only the last backward pass has anything to send, so only it
# can hide anything. The more passes a step has, the less the one sum matters. MT-NLG is such a
# case; we come to it.

# %% [markdown]
# ## Proof
#
# ### Our buckets
#
# Each replica gets its own rows, with a mask that leaves some replicas many rows and others few.
# One process sees all rows at once and takes the mean with plain autograd. All in float64.

# %%
def masks(n):
    """Which of 60 rows count on each of n ranks: all, then fewer and fewer; none on the last."""
    return [torch.arange(60) < 60 * (n - 1 - r) ** 2 / max(1, n - 1) ** 2 for r in range(n)]


def by_buckets(micro_batches, divide="by all"):
    rank, n = dist.get_rank(), dist.get_world_size()
    net = Stack(48, fp64)
    sums = InOrder(cut_into_buckets(net, 3), start_all_reduce)
    x, mask = rows_of(rank, 60, 48, fp64), masks(n)[rank]
    N = mask.sum()
    if divide == "by all":
        dist.all_reduce(N)
    else:  # the mean of the replicas' means, as in Trouble
        N = N.clamp(min=1) * n
    pairs = zip(x.chunk(micro_batches), mask.chunk(micro_batches), strict=True)
    for k, (x, mask) in enumerate(pairs):
        sums.begin(last=k == micro_batches - 1)
        ((net(x) * mask).sum() / N).backward()
    sums.finish()
    return [p.grad for p in net.parameters()]


def by_one_process(n):
    net = Stack(48, fp64)
    losses = net(torch.cat([rows_of(rank, 60, 48, fp64) for rank in range(n)]))
    mean = losses[torch.cat(masks(n))].mean()
    return torch.autograd.grad(mean, list(net.parameters()))


def apart(some, others):
    """The largest difference, relative to the largest number."""
    largest = max(x.abs().max() for x in others)
    return max(((x - y).abs().max() / largest).item() for x, y in zip(some, others, strict=True))


for n in sorted({2, 3, replicas} - {1}):
    serial = by_one_process(n)
    for m in (1, 4):
        ranks = run(by_buckets, n, m)
        far = max(apart(gradients, serial) for gradients in ranks)
        alike = all(torch.equal(x, y) for g in ranks for x, y in zip(g, ranks[0], strict=True))
        print(f"{n} replicas, {m} micro-batches: {far:.0e} from one process; same bits: {alike}")
        assert far < 1e-13 and alike
    wrong = apart(run(by_buckets, n, 1, divide="by own")[0], serial)
    print(f"{n} replicas, mean of their means:  {wrong:.0e} from one process")
    assert wrong > 1e-2

# %% [markdown]
# All replicas have the same bits, so they stay copies of each other. The last line shows that this
# is no proof of anything else: the mean of means has the same bits everywhere as well.
#
# ### The package
#
# The same for the package's whole step: a small GPT, random text, uneven masks, `replicas` ranks,
# and three micro-batches on each.

# %%
SMALL = Model(layers=2, hidden=64, heads=4, seq=32, vocab=128)
EACH = 3  # micro-batches a replica


def batches(r):
    """The micro-batches of replica r, of two sequences; their masks are of every length."""
    draw, found = torch.Generator().manual_seed(r), []
    for _ in range(EACH):
        ids = torch.randint(SMALL.vocab, (2, SMALL.seq + 1), generator=draw).to(device())
        counts = torch.randint(SMALL.seq + 1, (2, 1), generator=draw) // (1 + 3 * r)
        mask = (torch.arange(SMALL.seq) < counts).to(fp32).to(device())
        found.append(Batch(ids[:, :-1], ids[:, 1:], mask))
    return found


def by_the_package(dtype=fp64):
    """(gradient of each parameter, loss, the traffic) on one replica of several."""
    n = dist.get_world_size()
    mesh = Mesh(Layout(dp=n))
    model = GPT(SMALL, mesh, dtype=dtype)
    optimizer = Optimizer(model, replace(preset("nano").optim, clip=0.0))
    with Recorder() as seen:
        loss, _ = step(model, optimizer, batches(mesh.place.dp), lr=0.0, seed=1, number=0)
    sums = optimizer.replicas
    names = {p: name for name, p in model.named_parameters()}
    pairs = zip(sums.parameters, sums.gradients, strict=True)
    gradients = {names[p]: gradient.cpu() for p, gradient in pairs}
    return gradients, loss.item(), seen, len(sums.buckets)


def all_in_one(n):
    """The mean loss over all tokens and its gradients: one process, one backward."""
    model = GPT(SMALL, dtype=fp64)
    everything = [batch for r in range(n) for batch in batches(r)]
    whole = Batch(*(torch.cat([getattr(b, x) for b in everything]) for x in vars(everything[0])))
    loss = model.loss(whole) / whole.mask.sum()
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters)
    return {name: g.cpu() for name, g in zip(names, gradients, strict=True)}, loss.item()


serial, loss = all_in_one(replicas)
for r, (gradients, its_loss, *_) in enumerate(run(by_the_package, replicas)):
    far = {name: apart([gradients[name]], [serial[name]]) for name in serial}
    worst = max(far, key=far.get)
    print(f"replica {r}: loss differs by {abs(its_loss - loss):.0e}, of {len(far)} gradients "
          f"{worst} most, by {far[worst]:.0e}")  # fmt: skip
    assert set(gradients) == set(serial) and far[worst] < 1e-12 and abs(its_loss - loss) < 1e-12

# %% [markdown]
# ### A proof that can fail
#
# Two tools that most lessons from here on use:
#
# - **`verify(config)`** makes the same proof for any layout. It trains three steps on the ranks of
#   the layout and in a single process, in float64, and returns the largest differences: of the
#   loss, the gradient, its norm, and the weights after SGD and after Adam. On the command line:
#   `minimtnlg verify nano parallel.dp=2`.
# - **`with mutant("name") as bug:`** switches a bug on. Ranks that are started in the block run a
#   copy of the package with a line or two changed. The single process stays right. `bug.belief` is
#   what somebody thinks who writes it, `bug.diff()` the change.
#
# Here is a smaller nano, first as it is, then with three bugs:

# %%
BUGS = [
    "mean_of_replica_means",
    "sent_before_the_last_micro_batch",
    "divided_by_the_replicas_once_more",
]
smaller = ["model.layers=2", "model.hidden=64", "model.seq=32"]
d = max(2, replicas)
small_nano = configure("nano", [*smaller, f"parallel.dp={d}", f"train.global_batch={3 * d}"])


def largest_differences(title):
    found = verify(small_nano)["max_abs_diff"]
    print(title)
    print("    differs by: " + ", ".join(f"{kind} {value:.0e}" for kind, value in found.items()))
    return found


assert max(largest_differences("As it is.").values()) < 1e-10
for name in BUGS:
    with mutant(name) as bug:
        try:
            found = largest_differences(f'"{bug.belief}"')
            assert max(found.values()) > 1e-6
        except RankError as error:
            print(f'"{bug.belief}"\n    {error.type}: {error.message}')
assert found["grad_norm"] > 10 * max(found["sgd"], found["adam"])

# %% [markdown]
# Each belief is a plausible sentence, and a bug like these need not raise an error. Only the
# comparison tells.
#
# The last belief is true of DDP, which is handed means. It is a bug here, where each loss has been
# divided by the tokens of all replicas: the gradients are divided twice.
#
# So every gradient is too small by the same factor. Its norm shows that at once. The weights, a few
# steps later, show it far less: SGD has made small steps, and Adam divides a gradient by its own
# size (lesson 04). Weights alone would be a poor witness.

# %% [markdown]
# ## Cost
#
# ### Bytes
#
# The table is that of one rank in the package's step, now with weights in bfloat16. The first
# all-reduce is that of the number of tokens, the last that of the loss. Between them are the
# buckets.

# %%
results = run(by_the_package, replicas, bf16)
_, _, seen, buckets = results[0]
P_small = SMALL.parameters()
sent = [call for call in seen.calls if call.operation == "all_reduce"]
for call in sent:
    print(f"{call.operation} in group {call.group}: {call.elements:>7,} elements, "
          f"{call.bytes:>8,} bytes")  # fmt: skip
large = [call for call in sent if call.elements > 1]
ring_bytes = sum(call.wire_bytes for call in large)
print(f"{len(large)} buckets, each rank sends {ring_bytes:,.0f} bytes on a ring")
print(f"2 (n - 1)/n x 4 x {P_small:,} parameters = "
      f"{wire_bytes('all_reduce', 4 * P_small, replicas):,.0f}")  # fmt: skip
if replicas > 1:
    assert len(large) == buckets and len(sent) == buckets + 2
    assert abs(ring_bytes - wire_bytes("all_reduce", 4 * P_small, replicas)) < 1

# %% [markdown]
# Four bytes a parameter although the weights have two, and one sum for three micro-batches. In a
# ring of $d$ replicas, each of which holds $P$ parameters, every rank sends
#
# $$2\,\frac{d - 1}{d} \cdot 4\, P \ \text{bytes a step, whatever } m \text{ is}.$$
#
# ### How large should a bucket be?
#
# We measure the wait for buckets of every size. With the latency that we had, even 32 calls pay
# little, so the link gets a larger one here, `slow_alpha`. Beside the measurement stands the
# formula: it takes the moments $r_i$ at which buckets were handed over, and $T(k_i)$ for the rest.

# %%
def each_by_itself(net):
    return [[p] for p in list(net.parameters())[::-1]]


ways = {"all": cut_by(LAYERS)} | {f"{x} layers": cut_by(x) for x in (8, 4, 2, 1)}
ways["a tensor"] = each_by_itself
counts, waited, formula = [], [], []
print(f"{'':20}{'':14}{'wire, ms':^22}{'wait, ms':^24}")
print(f"{'in a bucket':12}{'buckets':>8}{'backward, ms':>14}{'formula':>12}{'measured':>10}"
      f"{'formula':>14}{'measured':>10}")  # fmt: skip
for (name, cut), (x, _) in zip(
    ways.items(), fastest([*ways.values()], alpha=slow_alpha), strict=True
):
    bytes_in = [sum(p.nbytes for p in bucket) for bucket in cut(Stack())]
    seconds = [ring_seconds("all_reduce", k, 2, slow_alpha, beta) for k in bytes_in]
    counts.append(len(bytes_in))
    waited.append(x["end"] - x["backward"])
    formula.append(sums_there(x["ready"], [1e3 * t for t in seconds])[-1] - x["backward"])
    busy = sum(off - on for on, off in x["wire"])
    computing = x["backward"] - x["forward"]
    print(f"{name:12}{counts[-1]:>8}{computing:>14.0f}{1e3 * sum(seconds):>12.0f}{busy:>10.0f}"
          f"{formula[-1]:>14.0f}{waited[-1]:>10.0f}")  # fmt: skip
assert abs(formula[0] - 1e3 * ring_seconds("all_reduce", payload, 2, slow_alpha, beta)) < 1e-6

# %%
fig, ax = plt.subplots(figsize=(7, 3.4))
ax.plot(counts, waited, ls="", label="measured")
ax.plot(counts, formula, marker="", label="formula, from the moments when buckets were full")
ax.set(xscale="log", xlabel="buckets", ylabel="ms waited after backward")
ax.set_ylim(0, 1.3 * max(waited))  # room for the legend
ax.set_xticks(counts, counts)
ax.minorticks_off()
best = int(np.argmin(waited))
ax.set_title(
    f"Measured wait: {waited[0]:.0f} ms with one bucket, {waited[-1]:.0f} ms with {counts[-1]}, "
    f"least with {counts[best]}",
    fontsize=11,
)
ax.legend(loc="upper left")
figure(
    fig,
    alt="Wait after backward against the number of buckets: "
    + ", ".join(f"{n} buckets {w:.0f} ms (formula {f:.0f})"
                for n, w, f in zip(counts, waited, formula, strict=True))
    + ".",
)  # fmt: skip

# %% [markdown]
# One bucket is waited for in full. With more of them the wait falls, towards that for the last
# bucket alone.
#
# With very many buckets the latencies add up. Once the wire is busy for longer than backward, the
# wait grows again. A slow processor computes long enough to hide even that; compare the columns
# "backward" and "wire".
#
# Measured points lie above the formula, which leaves out the additions and the time until a
# sleeping thread is awake. A point far above it was disturbed by other programs.
#
# In real programs buckets reach from 25 MB (PyTorch) to $40 \cdot 4 = 160$ MB and more (Megatron-Core:
# 40 million gradients, and more with the number of replicas, as a ring's latencies grow with it). Our package takes 64 MiB, or a
# quarter of all gradients where these are few.

# %% [markdown]
# ## MT-NLG
#
# ### Copies alone
#
# Could 2240 replicas have trained MT-NLG, one on each GPU? Lesson 00 ruled it out by memory: the
# training state is 10.6 TB, a GPU has 80 GB. Suppose that the memory were there. What would the
# wire say?
#
# Begin with **one ring**, from GPU to GPU and from node to node. It leaves each node by one network
# adapter, at 25 GB/s (200 Gb/s, [S12, sec. 5]), and it is as fast as its slowest link.

# %% tags=["predict"]
mtnlg = preset("mtnlg-530b").model
P, n, wire, iteration = mtnlg.parameters(), MTNLG.world, 25e9, 60.1  # [S3]
copies = {size: wire_bytes("all_reduce", size * P, n) / wire for size in (2, 4)}
rings = wire_bytes("all_reduce", 4 * P / 8, n) / wire  # eight rings, an eighth of the bytes each
cut = wire_bytes("all_reduce", 4 * P / (8 * 35), MTNLG.dp) / wire
print(f"an iteration took                                   {iteration:6.1f} s")
print(f"2240 copies, one ring, 4 bytes a gradient           {copies[4]:6.1f} s on the wire")
print(f"2240 copies, one ring, 2 bytes                      {copies[2]:6.1f} s")
print(f"2240 copies, a ring for each adapter, 4 bytes       {rings:6.1f} s")
print(f"8 x 35 x 8: a 280th of the model among 8            {cut:6.2f} s")
measured(
    "seconds_for_all_gradients",
    copies[4],
    unit="s",
    tell="Nearly three iterations, for the sum alone, with one ring.",
)
assert copies[2] > iteration > 2 * rings and rings > 30 * cut and cut < iteration / 100
assert 2 * (n - 1) == 4478

# %% [markdown]
# With one ring the gradients alone would need nearly three iterations. But a node has eight
# adapters, and seven of them would lie idle. So a library builds a ring for each adapter: every
# adapter carries an eighth. That makes 21.2 s, a third of the step. With one micro-batch a replica
# there is less than one sequence's backward to hide it. And each call goes round a ring of 2240
# ranks twice, so it pays 4478 latencies.
#
# In the real layout each GPU holds a 280th of the model, so it has a 280th of the gradients to sum,
# and only 8 GPUs to sum them with. (Shares are an average; first and last stage also hold the
# embedding. Which format MT-NLG's gradients had on the wire was not published.)
#
# ### What decides
#
# Set the wire beside the arithmetic. Let each replica take $N_r$ tokens a step. A GPU that holds
# $P'$ parameters computes $8 P' N_r$ FLOPs (lesson 00), at a speed of $F$ FLOP/s. It sends almost
# $2 \cdot 4 P'$ bytes. In one ring, over adapters of speed $\beta$,
#
# $$\frac{\text{time on the wire}}{\text{time computing}} =
# \frac{8 P' / \beta}{8 P' N_r / F} \cdot \frac{d - 1}{d} = \frac{F}{\beta\, N_r} \cdot
# \frac{d - 1}{d}.$$
#
# (With a ring for each of a node's eight adapters, an eighth of that. In the real layout the eight
# GPUs of a node belong to eight different groups, each with a ring and an adapter of its own.)
#
# The parameters cancel. **What decides is the number of tokens that a replica takes between two
# sums**, not the size of the model.

# %%
F = 126e12  # FLOP/s reached by each GPU [S3]
batch_tokens = 1920 * mtnlg.seq


def wire_over_computing(N_r, d, rings=1):
    return F / (rings * wire * N_r) * (d - 1) / d


CASES = [  # name, tokens of a replica between two sums, replicas, rings that share the bytes
    ("2240 copies, one ring", batch_tokens / n, n, 1),
    ("2240 copies, a ring per adapter", batch_tokens / n, n, 8),
    ("8 x 35 x 8, a sum for each micro-batch", mtnlg.seq, MTNLG.dp, 1),
    ("8 x 35 x 8, a sum for each step", batch_tokens / MTNLG.dp, MTNLG.dp, 1),
]
for name, *case in CASES:
    ratio = wire_over_computing(*case)
    print(f"{name:40}{case[0]:>9,.0f} tokens a replica: wire / computing = {ratio:.3f}")
ratios = [round(wire_over_computing(*case), 2) for _, *case in CASES]
assert ratios == [2.87, 0.36, 2.15, 0.01]
assert abs(cut / iteration / wire_over_computing(*CASES[-1][1:]) - 1) < 0.03

# %%
fig, ax = plt.subplots(figsize=(7, 3.8))
tokens = np.geomspace(500, 1e6, 50)
ax.plot(tokens, F / (wire * tokens), marker="", color=COLOURS["black"], label=r"$F / (\beta N_r)$")
ax.axhline(1, color="black", ls=":", lw=1.2, marker="", label="as long as computing")
for (name, *case), marker, colour in zip(
    CASES, ("s", "D", "^", "o"), ("orange", "orange", "sky", "green"), strict=True
):
    point = dict(ls="", marker=marker, ms=9, color=COLOURS[colour], mec="black")
    ax.plot(case[0], wire_over_computing(*case), label=name, **point)
ax.set(xscale="log", yscale="log", xlabel="tokens of a replica between two sums, $N_r$")
ax.set_ylabel("wire / computing")
ax.set_title("Sums are cheap for a replica that computes long enough between them")
ax.legend(fontsize=9)
figure(
    fig,
    alt="Time on the wire over time computing, against tokens of a replica between two sums, both "
    "logarithmic: a falling straight line. 2240 copies with 1 755 tokens each lie at 2.87 with one "
    "ring, above the level 1, and at 0.36 with a ring per adapter, below it and below the line; "
    "8 x 35 x 8 with a sum after each micro-batch of 2 048 tokens at 2.15; with one sum a step, "
    "491 520 tokens, at 0.009.",
)

# %% [markdown]
# Now the layout is clear from this side as well. A batch of 1920 sequences gives 2240 copies less
# than a sequence each: little work between two sums. Eight replicas have 240 sequences each, taken
# one at a time (micro-batch 1: not confirmed), and send once. So accumulation brings more here than
# overlap could: only one of 240 backward passes can hide anything. The paper names both means
# [S3, sec. 2.1.2].
#
# Eight replicas need groups of 280 GPUs that share one copy. Lessons 09 to 11 build such groups.
#
# ### Your rank

# %%
mine = my_rank()
group = MTNLG.group(mine, "dp")
nodes = [MTNLG.node(rank)[0] for rank in group]
print(f"rank {mine} sums its gradients with ranks {', '.join(map(str, group))}")
print(f"on nodes {', '.join(map(str, nodes))}")
print(f"about {4 * P / 280 / 1e9:.1f} GB of gradients, {len(set(nodes))} nodes: over InfiniBand")
print(f"{n // MTNLG.dp - 1} other groups do the same, each over adapters of its own")
assert len(set(nodes)) == 8

# %% [markdown]
# After the sum all eight hold the same gradients. All eight make the same update of the same
# weights, with the same averages of Adam. Seven of eight copies of this work and memory are
# superfluous. Lesson 08 takes them away.

# %% [markdown]
# ## Check yourself
#
# 1. Rank 0 has 10 tokens that count, rank 1 has 990. Each takes its own mean, and the gradients are
#    averaged. How much more does a token of rank 0 count than it should?
#
# <details><summary>Answer</summary>
#
# It counts $\frac12 \cdot \frac1{10} = 1/20$ instead of $1/1000$: 50 times as much.
#
# </details>
#
# 2. Four buckets of 10 MB each are ready at 10, 20, 30 and 40 ms; backward ends at 40 ms. A call
#    takes 5 ms on wire A and 15 ms on wire B. How long is the wait on each? And with one bucket,
#    that takes four times as long?
#
# <details><summary>Answer</summary>
#
# A: the wire is free each time, so the last sum is there at $40 + 5$: 5 ms. B: the calls queue up
# from 10 ms on, $10 + 4 \cdot 15 = 70$: 30 ms. With one bucket 20 ms and 60 ms.
#
# </details>
#
# 3. A program reduces after *every* micro-batch: it all-reduces `.grad` in place, and the next
#    backward adds to it. Two ranks, two micro-batches. Rank 0 has gradients 1 and 2, rank 1 has 10
#    and 20. What comes out, and what should?
#
# <details><summary>Answer</summary>
#
# After the first: $1 + 10 = 11$ on both. Then rank 0 has $11 + 2 = 13$, rank 1 has $11 + 20 = 31$,
# and the sum is $13 + 31 = 44$. It should be $1 + 2 + 10 + 20 = 33$: the first sum was counted
# twice. And twice as many bytes were sent.
#
# </details>
#
# 4. Which gradients can never be hidden behind backward, and which parameters of a GPT are they?
#
# <details><summary>Answer</summary>
#
# Those that are complete last: the bucket of the first layer and of the embeddings. In a GPT whose
# output layer is the embedding matrix used again (lesson 01), that large matrix is used first and
# last, so its gradient is complete only at the very end.
#
# </details>
#
# 5. A cluster doubles its replicas and keeps the global batch. What happens to the time on the
#    wire, and to its share of the step?
#
# <details><summary>Answer</summary>
#
# The bytes that each rank sends hardly change, $2(d-1)/d$ of the same gradients. Each replica has
# half as many tokens, so computing takes half as long and the share of the wire about doubles.
#
# </details>

# %% [markdown]
# ## Exercises
#
# Pack gradients into buckets, and find a bug that only replicas have. Then build the bucket machine for real use: several micro-batches, weights in 16 bits, gradients that
# come late or not at all.
