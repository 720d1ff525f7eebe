# ---
# question: Replicas all hold the same training state. Which of the copies are needed, and what does
#   it cost to do without them?
# needs: [training state, layout, rank, number format, master weights, micro-batch, saved tensor,
#   autograd.Function, activation checkpointing, process group, collective, gradient hook, bucket,
#   overlap]
# introduces:
#   sharding: "Cutting a tensor among the ranks of a group, so that each keeps one part of it, its
#     shard, and the whole is put together only where it is needed."
#   ZeRO: "Data parallelism whose replicas shard what they would all hold alike: ZeRO-1 the
#     optimizer's state, ZeRO-2 the gradients too, ZeRO-3 the weights too."
# proves: "All three stages equal one process, and an update that is never gathered is noticed."
# minutes: 40
# seconds: 40
# ---

# %% [markdown]
# # ZeRO
#
# Data parallelism makes training faster and no model smaller. Each of its replicas holds the whole
# training state, and all of them hold the same.
#
# ZeRO stands for *zero redundancy optimizer* [S15]. It takes the copies away in three stages, which
# we call ZeRO-1, ZeRO-2 and ZeRO-3. We build each in a few lines, then count what a rank still
# holds and what it has to send.

# %% [markdown]
# ## Question
#
# $d$ replicas have taken a step. Each has weights, gradients, master weights and the two averages
# of Adam (lesson 04). After the sum of lesson 07 all of this is the same on all of them.
#
# **Which of the copies are needed, and what does it cost to do without them?** In this lesson the
# replicas are the only ranks there are, so $d$ is also the number of ranks.

# %%
import gc
import time
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.distributed as dist
from matplotlib.patches import Rectangle
from torch.utils._python_dispatch import TorchDispatchMode

from minimtnlg import run
from minimtnlg.config import Model, Optim, preset
from minimtnlg.course.check import measured, predict
from minimtnlg.course.mutants import mutant
from minimtnlg.course.plots import COLOURS
from minimtnlg.course.rank import MTNLG, my_rank
from minimtnlg.course.show import figure, show
from minimtnlg.data.batches import Batch
from minimtnlg.model import GPT
from minimtnlg.parallel.collectives import Recorder, all_gather, reduce_scatter
from minimtnlg.parallel.layout import Layout
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.parallel.zero import Zero, bytes_held, elements_sent
from minimtnlg.train.optimizer import Optimizer
from minimtnlg.train.step import step
from minimtnlg.train.verify import configure, verify

bf16, fp64 = torch.bfloat16, torch.float64
GB = 1e9

# %% tags=["parameters"]
ranks: int = 4  # d, the replicas: 2, 4 or 8
micro_batches: int = 3  # m, of each replica in a step

# %% [markdown]
# ## Predict
#
# Type your guess in place of `None`, then run the cell. $d$ is the number of `ranks` in the cell
# above.
#
# 1. Between two micro-batches our package holds 18 bytes a parameter (18, not the 20 of lesson 00:
#    the last section explains): 2 for the weight, 4 for the summed gradient, 12 for the optimizer.
#    ZeRO-1 cuts the optimizer's part among the $d$ ranks. How many bytes a parameter does a rank
#    hold then?
# 2. To do so it replaces the all-reduce of the gradients by a reduce-scatter, and adds an
#    all-gather of the new weights. How many percent more numbers does a rank send than before?
# 3. A layer multiplies by a matrix of 256 rows. In ZeRO-3 each rank keeps $256/d$ of its rows. How
#    many rows has the matrix by which a rank multiplies?
# 4. ZeRO-2 gives gradients away after every micro-batch. Suppose that MT-NLG's replicas take 240
#    micro-batches in a step. How many times as much would they send with ZeRO-2 as with ZeRO-1?

# %%
predict("bytes_a_parameter_at_stage_1", None)
predict("percent_more_sent_at_stage_1", None)
predict("rows_multiplied_at_stage_3", None)
predict("stage_2_sends_times_stage_1", None)

# %% [markdown]
# ## Trouble
#
# A small GPT in bfloat16 is trained by $d$ replicas, each on sequences of its own. After a step we
# ask every rank for all that it holds, and compare, bit by bit.

# %%
small = Model(layers=4, hidden=64, heads=8, seq=64, vocab=256)
optim = Optim(lr=1e-3, min_lr=0.0, warmup_tokens=0, decay_tokens=1)
P = small.parameters()


def batch(number, replica):
    """Two random sequences, others for each micro-batch and replica."""
    draw = torch.Generator().manual_seed(1000 * number + replica)
    ids = torch.randint(small.vocab, (2, small.seq + 1), generator=draw)
    return Batch(ids[:, :-1], ids[:, 1:], torch.ones(2, small.seq))


def replica(stage, dtype=bf16):
    """This rank's model and its optimizer, at a stage of ZeRO; 0 is plain data parallelism."""
    model = GPT(small, Mesh(Layout(dp=dist.get_world_size())), dtype=dtype)
    return model, Optimizer(model, optim, zero=stage)


def kinds(model, optimizer):
    """All tensors that this rank keeps from step to step, by what they are for."""
    moments = optimizer.adam.state.values()
    return {
        "weights": list(model.parameters()),
        "gradients": optimizer.replicas.gradients,
        "master weights": optimizer.masters.masters,
        "Adam, mean": [each["exp_avg"] for each in moments],
        "Adam, mean of squares": [each["exp_avg_sq"] for each in moments],
    }


def after_a_step(stage):
    model, optimizer = replica(stage)
    step(model, optimizer, [batch(0, dist.get_rank())], lr=1e-3, seed=1, number=0)
    held = kinds(model, optimizer).items()
    return {kind: torch.cat([x.detach().flatten() for x in tensors]) for kind, tensors in held}


first, *others = run(after_a_step, ranks, 0)
print(f"{P:,} parameters, {ranks} replicas")
for kind, numbers in first.items():
    same = all(torch.equal(numbers, other[kind]) for other in others)
    print(f"{kind:22} {numbers.nbytes / P:3.0f} bytes a parameter, same on all ranks: {same}")
    assert same
together = sum(numbers.nbytes for numbers in first.values())
assert together == 18 * P
print(f"\nheld {ranks * together / 1e6:.1f} MB, of which different {together / 1e6:.1f} MB")

# %% [markdown]
# They have read different tokens and hold the same state, down to the last bit. One of them knows
# all that all of them know.
#
# And there is work done $d$ times over: every rank computes the same update of the same weights.

# %% [markdown]
# ## Idea
#
# ### Who needs what, and when
#
# Walk through a step and ask what each tensor is needed for.
#
# - **Optimizer state** (12 bytes a parameter: the master weight and two averages): only for the
#   update. And Adam moves every weight by itself: for one weight it needs the gradient and the
#   averages of this weight, and no others.
# - **Gradients** (4 bytes): to be summed over the replicas, and then for the update.
# - **Weights** (2 bytes): by all ranks, in forward and backward. But not all at the same time: one
#   layer after the other.
#
# So give each rank one $d$-th of the weights to look after. It alone updates them, and it alone
# keeps Adam's averages of them. Cutting a tensor like this is called **sharding**, and the part
# that a rank keeps is its **shard**.
#
# Now the sum of the gradients has less to do. No rank needs the whole sum, only its shard of it:
# that is a reduce-scatter. And after the update all need all weights: that is an all-gather. In
# lesson 06 an all-reduce was a reduce-scatter, then an all-gather. **ZeRO puts the update between
# the two.**
#
# ### By hand
#
# Four weights, two ranks, and an update that subtracts a tenth of the gradient.

# %%
weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
gradients = [torch.tensor([10.0, 0.0, 20.0, 0.0]), torch.tensor([0.0, 10.0, 0.0, 20.0])]

print("gradients of rank 0 and 1  ", *(g.tolist() for g in gradients))
sums = sum(gradients).chunk(2)  # what a reduce-scatter leaves on each rank
print("after the reduce-scatter   ", *(s.tolist() for s in sums))
shards = [w - 0.1 * s for w, s in zip(weights.chunk(2), sums, strict=True)]  # each its own half
print("after the update           ", *(s.tolist() for s in shards))
gathered = torch.cat(shards)  # what an all-gather gives to both
print("after the all-gather       ", gathered.tolist())
assert gathered.tolist() == (weights - 0.1 * sum(gradients)).tolist() == [0.0, 1.0, 1.0, 2.0]

# %% [markdown]
# ### Three stages
#
# - **ZeRO-1**: only the optimizer's state is cut.
# - **ZeRO-2**: gradients too. A gradient is reduce-scattered as soon as backward has made it, and
#   the rest of it is thrown away.
# - **ZeRO-3**: weights too. Before a layer computes, its weights are gathered; after it, they are
#   thrown away. Backward gathers them a second time.
#
# PyTorch calls ZeRO-3 FSDP (`fully_shard`). With `reshard_after_forward=False` weights stay whole
# from forward to backward; that is close to ZeRO-2.
#
# In the picture every bar is what one of four ranks holds, as wide as its bytes. What is filled is
# held.

# %%
CALLED = ["replicas", "ZeRO-1", "ZeRO-2", "ZeRO-3"]  # by the number of the stage
LOOK = {  # bytes a parameter
    "weights": (2, COLOURS["blue"], ""),
    "gradients": (4, COLOURS["orange"], "//"),
    "optimizer": (12, COLOURS["sky"], ""),
}
CUT = {"weights": 3, "gradients": 2, "optimizer": 1}  # the stage at which each is cut

fig, axes = plt.subplots(2, 2, figsize=(7.5, 4.1))
for stage, ax in enumerate(axes.flat):
    for rank in range(4):
        left = 0
        for kind, (width, colour, hatch) in LOOK.items():
            ax.add_patch(Rectangle((left, rank - 0.38), width, 0.76, fill=False, lw=0.6))
            begin, size = (rank / 4, 1 / 4) if stage >= CUT[kind] else (0, 1)
            look = dict(facecolor=colour, hatch=hatch, edgecolor="white", lw=0)
            at = (left + begin * width, rank - 0.38)
            label = kind if stage == rank == 0 else None
            ax.add_patch(Rectangle(at, size * width, 0.76, label=label, **look))
            left += width
    each = bytes_held(1, 4, stage)
    ax.set_title(f"{CALLED[stage]}: {each:g} bytes a parameter", fontsize=10.5)
    ax.set(xlim=(-0.2, 18.2), ylim=(3.6, -0.6), xticks=[])
    ax.set_yticks(range(4), [f"rank {rank}" for rank in range(4)], fontsize=8)
    ax.tick_params(length=0)
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
title = "Each ZeRO stage cuts one more thing: optimizer, gradients, weights"
fig.suptitle(title, x=0.05, ha="left", fontsize=12)
fig.tight_layout(rect=(0, 0.05, 1, 1))
fig.legend(loc="lower center", ncols=3, fontsize=9)
figure(
    fig,
    alt="What each of four ranks holds, in bytes a parameter. Replicas: all 2 + 4 + 12 = 18 on "
    "each rank. ZeRO-1: the optimizer's 12 are cut in four, 9 on each. ZeRO-2: gradients too, 6. "
    "ZeRO-3: weights too, 4.5; no two ranks hold the same then.",
)
assert [bytes_held(1, 4, stage) for stage in range(4)] == [18, 9, 6, 4.5]

# %% [markdown]
# ### The formulas
#
# Bytes of training state that a rank holds for each parameter:
#
# $$\underbrace{2 + 4 + 12}_{\text{replicas}} \qquad
# \underbrace{2 + 4 + \frac{12}{d}}_{\text{ZeRO-1}} \qquad
# \underbrace{2 + \frac{4 + 12}{d}}_{\text{ZeRO-2}} \qquad
# \underbrace{\frac{2 + 4 + 12}{d}}_{\text{ZeRO-3}}$$
#
# Now what it sends. A reduce-scatter or an all-gather of $P$ numbers costs a rank $P(d-1)/d$
# numbers on a ring (lesson 06). Call this one *lap*. In a step of $m$ micro-batches:
#
# - replicas: one all-reduce, 2 laps;
# - ZeRO-1: one reduce-scatter and one all-gather, 2 laps;
# - ZeRO-2: a reduce-scatter for every micro-batch, since whole gradients are not kept, and one
#   all-gather: $m + 1$ laps;
# - ZeRO-3: for every micro-batch two gathers and a reduce-scatter: $3m$ laps. The gather after
#   the update falls away: the next forward gathers anyway.

# %% [markdown]
# ## Code
#
# Three layers $\tanh(xW^T)$ are enough to build all of it. A rank is a replica with rows of its
# own.

# %%
WIDTH, LAYERS, STEPS = 64, 3, 4


def matrices():
    """The weights at the start, the same on every rank: [WIDTH, WIDTH] each."""
    draw = torch.Generator().manual_seed(1)
    shape = LAYERS, WIDTH, WIDTH
    return [W / WIDTH**0.5 for W in torch.randn(shape, dtype=fp64, generator=draw)]


def rows(rank, number, k):
    """What replica `rank` reads in micro-batch k of a step."""
    draw = torch.Generator().manual_seed(10_000 * rank + 100 * number + k)
    return torch.randn(8, WIDTH, dtype=fp64, generator=draw)


def loss(weights, x):
    for W in weights:
        x = torch.tanh(x @ W.T)
    return (x**2).sum()


# %% [markdown]
# The reference is one process that reads all rows of all replicas, with Adam as it comes from
# PyTorch. It knows nothing of ranks.

# %%
def alone():
    weights = [W.requires_grad_() for W in matrices()]
    adam = torch.optim.Adam(weights, lr=0.01)
    for number in range(STEPS):
        everything = [rows(r, number, k) for r in range(ranks) for k in range(micro_batches)]
        adam.zero_grad()
        loss(weights, torch.cat(everything)).backward()
        adam.step()
    return [W.detach() for W in weights]


expected = alone()

# %% [markdown]
# **ZeRO-1.** `chunk(d)[rank]` is this rank's shard. It is a *view*: when Adam moves the shard, it
# moves those rows of the whole matrix. Adam is handed shards, so it makes averages for shards only.

# %%
def stage_1():
    rank, d, everybody = dist.get_rank(), dist.get_world_size(), dist.group.WORLD
    weights = [W.requires_grad_() for W in matrices()]
    shards = [W.detach().chunk(d)[rank] for W in weights]
    adam = torch.optim.Adam(shards, lr=0.01)
    with Recorder() as seen:
        for number in range(STEPS):
            for k in range(micro_batches):
                loss(weights, rows(rank, number, k)).backward()  # adds up in W.grad
            for W, shard in zip(weights, shards, strict=True):
                shard.grad = reduce_scatter(W.grad, everybody)
                W.grad = None
            adam.step()
            for W, shard in zip(weights, shards, strict=True):
                W.data.copy_(all_gather(shard, everybody))
    averages = sum(each["exp_avg"].numel() for each in adam.state.values())
    return [W.detach() for W in weights], averages, seen


# %% [markdown]
# **ZeRO-2.** A gradient hook (lesson 07) runs as soon as a matrix has its gradient. It gives the
# gradient away and drops it. So at most one whole gradient is there at a time.

# %%
def give_away(W, shard):
    """Called by autograd when W.grad is complete: only this rank's shard of the sum stays."""
    part = reduce_scatter(W.grad, dist.group.WORLD)
    shard.grad = part if shard.grad is None else shard.grad + part
    W.grad = None


def stage_2():
    rank, d, everybody = dist.get_rank(), dist.get_world_size(), dist.group.WORLD
    weights = [W.requires_grad_() for W in matrices()]
    shards = [W.detach().chunk(d)[rank] for W in weights]
    adam = torch.optim.Adam(shards, lr=0.01)
    for W, shard in zip(weights, shards, strict=True):
        W.register_post_accumulate_grad_hook(partial(give_away, shard=shard))
    with Recorder() as seen:
        for number in range(STEPS):
            adam.zero_grad()
            for k in range(micro_batches):
                loss(weights, rows(rank, number, k)).backward()
            adam.step()
            for W, shard in zip(weights, shards, strict=True):
                W.data.copy_(all_gather(shard, everybody))
    averages = sum(each["exp_avg"].numel() for each in adam.state.values())
    return [W.detach() for W in weights], averages, seen


# %% [markdown]
# **ZeRO-3.** Now the whole matrix must not even be kept for backward. Autograd would keep it among
# the saved tensors. An `autograd.Function` (lesson 05) decides for itself: it keeps the shard, and
# gathers again.

# %%
class ShardedLinear(torch.autograd.Function):
    """x W^T for a W of which each rank keeps some rows."""

    @staticmethod
    def forward(ctx, x, shard):
        ctx.save_for_backward(x, shard)
        W = all_gather(shard, dist.group.WORLD)  # first lap
        return x @ W.T

    @staticmethod
    def backward(ctx, gradient):
        x, shard = ctx.saved_tensors
        W = all_gather(shard, dist.group.WORLD)  # second lap
        for_x, for_W = gradient @ W, gradient.T @ x
        return for_x, reduce_scatter(for_W, dist.group.WORLD)  # third lap


def stage_3():
    rank, d, everybody = dist.get_rank(), dist.get_world_size(), dist.group.WORLD
    shards = [W.chunk(d)[rank].clone().requires_grad_() for W in matrices()]
    adam = torch.optim.Adam(shards, lr=0.01)
    with Recorder() as seen:
        for number in range(STEPS):
            adam.zero_grad()
            for k in range(micro_batches):
                x = rows(rank, number, k)
                for shard in shards:
                    x = torch.tanh(ShardedLinear.apply(x, shard))
                (x**2).sum().backward()
            adam.step()
    averages = sum(each["exp_avg"].numel() for each in adam.state.values())
    return [all_gather(shard.detach(), everybody) for shard in shards], averages, seen


# %% [markdown]
# `W` is a local variable here. When `forward` returns, nobody holds the matrix any more, and its
# memory is given back. For a few lines of Python that is the whole of ZeRO-3.
#
# What did the ranks send, and how many averages do they keep?

# %%
numbers = LAYERS * WIDTH**2
results = {stage: run(fn, ranks) for stage, fn in enumerate((stage_1, stage_2, stage_3), start=1)}
one_lap = numbers * (ranks - 1) / ranks
for stage, of_ranks in results.items():
    _, averages, seen = of_ranks[0]
    laps = sum(call.wire_bytes for call in seen.calls) / 8 / STEPS / one_lap
    print(f"{CALLED[stage]}: {averages / numbers:.3f} of the averages, {laps:g} laps a step")
    assert averages == numbers / ranks
    assert abs(laps - {1: 2, 2: micro_batches + 1, 3: 3 * micro_batches}[stage]) < 1e-9

# %% [markdown]
# ### What the package adds
#
# The package's `Zero` does the same with the parameters of a real model. Four things are new.
#
# - **Rows that do not divide.** A parameter of 5 rows on 4 ranks is cut into 2, 2, 1 and 0 rows.
#   For the collective each piece is filled up with zeros to 2 rows.
# - **Buckets** (lesson 07). Shards are packed, and the reduce-scatter of one bucket overlaps with
#   the backward pass that fills the next.
# - **Formats.** Gradients are summed in fp32 and weights travel in bfloat16.
# - **Any layer.** Hooks gather a block before it computes, forward and backward. Freeing it means
#   to take the memory from under its tensors; autograd holds the same tensors, and finds them
#   filled again when backward comes.
#
# The engines of real runs differ from it in two points. In ZeRO-3 they gather the next block while
# one computes; ours waits. And Megatron-Core, in ZeRO-1, cuts whole buckets, wherever the cut may
# fall. The bytes are the same. Our cut makes each shard some rows of one parameter, so it can be
# saved and read back by name.
#
# Here is the gathering of one bucket. `flat`, all that was gathered, and the weights that are
# copied out of it are there at the same time. So for a moment a bucket takes twice its size.

# %%
show(Zero._gather)

# %% [markdown]
# ## You might think
#
# ### "ZeRO-3 splits the computation"
#
# In ZeRO-3 a rank keeps a $d$-th of each matrix. So it seems to do a $d$-th of each layer's
# work, and $d$ ranks seem to work on a layer together. Let us look at the products themselves.
#
# A `TorchDispatchMode` sees every operation of a rank (lesson 05). Ours writes down each product of
# matrices and counts its FLOPs. We run one sequence through forward and backward: in one process,
# on each rank in ZeRO-3, and with *tensor* parallelism, which lesson 09 is about.

# %%
class Products(TorchDispatchMode):
    """Lists the shape of the right-hand matrix of each product, and counts FLOPs."""

    def __init__(self):
        super().__init__()
        self.flops, self.shapes = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        if name in ("aten::mm", "aten::addmm", "aten::bmm"):
            left, right = args[-2:]
            self.flops += 2 * left.numel() * right.shape[-1]
            if name != "aten::bmm":  # those are in attention, and have no weights
                self.shapes.append(tuple(right.shape))
        return func(*args, **(kwargs or {}))


one_block = Model(layers=1, hidden=64, heads=8, seq=64, vocab=256, attention="readable")
NAMES = "attention.qkv", "attention.out", "mlp.up", "mlp.down", "embedding (logits)"


def products(tp, dp):
    """({name: shape of the matrix} in forward, FLOPs of forward and backward) for one sequence."""
    model = GPT(one_block, Mesh(Layout(tp=tp, dp=dp)) if tp * dp > 1 else None)
    optimizer = Optimizer(model, optim, zero=3 if dp > 1 else 0)
    ids = torch.arange(65)[None]
    optimizer.zero()
    with Products() as seen:
        total = model.loss(Batch(ids[:, :-1], ids[:, 1:], torch.ones(1, 64)))
        shapes = dict(zip(NAMES, seen.shapes, strict=True))
        total.backward()
    return shapes, seen.flops


ways = {
    "one process": run(products, 1, tp=1, dp=1)[0],
    "ZeRO-3": run(products, ranks, tp=1, dp=ranks)[0],
    "tensor parallel": run(products, ranks, tp=ranks, dp=1)[0],
}
print(f"a rank of {ranks}, one sequence" + "".join(f"{way:>18}" for way in ways))
for name in NAMES:
    shapes = [f"{a} x {b}" for a, b in (found[name] for found, _ in ways.values())]
    print(f"{name:25}" + "".join(f"{shape:>18}" for shape in shapes))
print(f"{'MFLOP':25}" + "".join(f"{flops / 1e6:>18.2f}" for _, flops in ways.values()))

whole, zero_3, tensor = ways.values()
assert whole == zero_3 and whole[1] == one_block.flops(1)
assert tensor[1] * ranks == whole[1]

# %% tags=["predict"]
measured(
    "rows_multiplied_at_stage_3",
    ways["ZeRO-3"][0]["mlp.up"][1],  # W^T is on the right: its columns are the rows of W
    tell="All of them. The shards are put together before the product.",
)

# %% [markdown]
# In ZeRO-3 each rank multiplies by the whole matrices and does all the work of its sequence, the
# same as one process. Tensor parallelism does what the belief says: its matrices are narrower, and
# a rank has $1/t$ of the FLOPs ($t$ ranks share a layer, lesson 09).
#
# **ZeRO cuts what is stored. The work is cut as in all data parallelism: by sequences.** What it
# gains is room. Three things follow.
#
# - Without a sequence of its own a rank has nothing to do. So $d$ is at most the number of
#   sequences in the batch.
# - The largest layer must fit whole, in the package twice, if only for a moment.
# - Activations are those of whole layers, in all of ZeRO. Recomputation (lesson 05) helps against
#   them, ZeRO does not.

# %% [markdown]
# ## Proof
#
# Our three stages against the one process, in float64:

# %%
for stage, of_ranks in results.items():
    far = max(
        (W - right).abs().max().item()
        for weights, *_ in of_ranks
        for W, right in zip(weights, expected, strict=True)
    )
    print(f"{CALLED[stage]} by hand: weights after {STEPS} steps differ by {far:.0e}")
    assert far < 1e-12
moved = max((a - b).abs().max().item() for a, b in zip(expected, matrices(), strict=True))
print(f"(and they moved by {moved:.2f})")
assert moved > 0.01

# %% [markdown]
# Now the package with the GPT. The reference is again a single process with PyTorch's own AdamW:
# all sequences in one batch, the mean over all tokens, one norm for clipping. It shares the layers
# of the model with the ranks, and no line about replicas.

# %%
FIELDS = "tokens", "labels", "mask"


def gpt_alone():
    model = GPT(small, dtype=fp64)
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
    for number in range(STEPS):
        parts = [batch(100 * number + k, r) for r in range(ranks) for k in range(micro_batches)]
        everything = [torch.cat([getattr(part, name) for part in parts]) for name in FIELDS]
        adam.zero_grad()
        (model.loss(Batch(*everything)) / everything[2].sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
    return [p.detach() for p in model.parameters()]


def gpt_with_zero():
    """The weights of this rank after STEPS steps, at each stage."""
    for stage in range(4):
        model, optimizer = replica(stage, fp64)
        for number in range(STEPS):
            parts = [batch(100 * number + k, dist.get_rank()) for k in range(micro_batches)]
            step(model, optimizer, parts, lr=1e-3, seed=1, number=number)
        with optimizer.replicas.gathered():  # in ZeRO-3 there is nothing to see without
            yield [p.detach().clone() for p in model.parameters()]


assert (optim.beta1, optim.beta2, optim.eps, optim.weight_decay, optim.clip) == (
    0.9, 0.95, 1e-8, 0.1, 1.0,
)  # fmt: skip
right = gpt_alone()
of_ranks = run(lambda: list(gpt_with_zero()), ranks)
for stage in range(4):
    far = max(
        (a - b).abs().max().item()
        for of_rank in of_ranks
        for a, b in zip(of_rank[stage], right, strict=True)
    )
    print(f"{CALLED[stage]}: weights of {ranks} ranks after {STEPS} steps differ by {far:.0e}")
    assert far < 1e-10

# %% [markdown]
# ### A proof that can fail
#
# Is such a comparison able to notice anything? We ask `mutant` and `verify` (lesson 07). The bug
# comes from a belief that sounds sensible: "in ZeRO-1 all ranks have whole weights, so after the
# update nothing has to be gathered".

# %%
tiny = ["model.layers=2", "model.hidden=64", f"parallel.dp={ranks}", "parallel.zero=1"]
sound = verify(configure("nano", tiny))["max_abs_diff"]
with mutant("new_weights_not_told") as bug:
    broken = verify(configure("nano", tiny))["max_abs_diff"]
print(bug.diff())
print(f"{'largest difference':20}{'package':>10}{'with the bug':>14}")
for what, far in sound.items():
    print(f"{what:20}{far:>10.0e}{broken[what]:>14.0e}")
assert max(sound.values()) < 1e-10 < min(broken["sgd"], broken["adam"], broken["loss"])
assert broken["gradient"] < 1e-10

# %% [markdown]
# The gradient is still right: it is compared in the first step, when all weights are as they were
# drawn. The update is right too, on each rank for its own rows. Only the others are never told, and
# from the second step on each rank computes with weights that are mostly old. No error is raised.
#
# From a terminal you can ask for the proof of any layout, for instance
# `minimtnlg verify nano parallel.dp=4 parallel.zero=3`.

# %% [markdown]
# ## Cost
#
# ### Bytes held
#
# In each rank we count all tensors that are alive, whoever holds them. The moment is between two
# micro-batches of the second step: by then Adam has its averages. Then we count the tensors by kind
# and see whether anything was forgotten.

# %%
def storage_bytes(tensors):
    """Bytes of the memory under these tensors. Views of one piece of memory count once."""
    storages = (x.untyped_storage() for x in tensors)
    return sum({memory.data_ptr(): memory.nbytes() for memory in storages}.values())


def alive():
    """Bytes of all tensors of this process, but for single numbers."""
    gc.collect()
    everything = (x for x in gc.get_objects() if issubclass(type(x), torch.Tensor))
    return storage_bytes([x for x in everything if x.dim()])


def held(stage):
    """(bytes alive, {kind: bytes}) between two micro-batches of the second step."""
    before = alive()
    model, optimizer = replica(stage)
    r = dist.get_rank()
    step(model, optimizer, [batch(0, r)], lr=1e-3, seed=1, number=0)
    optimizer.zero()
    optimizer.replicas.begin(last=False)  # more micro-batches will follow
    model.loss(batch(1, r)).backward()
    optimizer.accumulate()
    by_kind = kinds(model, optimizer)
    if stage == 3:
        by_kind["weights"] = [*by_kind["weights"], *optimizer.replicas.owned]
    by_kind = {kind: storage_bytes(tensors) for kind, tensors in by_kind.items()}
    for _ in range(100):  # a thread of the library may hold what was sent for another moment
        if alive() - before <= sum(by_kind.values()):
            break
        time.sleep(0.01)
    return alive() - before, by_kind


bytes_of = {stage: run(held, ranks, stage) for stage in range(4)}
print(f"bytes a parameter on each of {ranks} ranks, counted")
names = list(bytes_of[0][0][1])
print(f"{'':22}" + "".join(f"{name:>10}" for name in CALLED))
for kind in names:
    print(f"{kind:22}" + "".join(f"{bytes_of[s][0][1][kind] / P:>10.2f}" for s in range(4)))
print(f"{'all tensors alive':22}" + "".join(f"{bytes_of[s][0][0] / P:>10.2f}" for s in range(4)))
print(f"{'formula':22}" + "".join(f"{bytes_held(1, ranks, s):>10.2f}" for s in range(4)))
for stage, of_ranks in bytes_of.items():
    for everything, by_kind in of_ranks:
        assert everything == sum(by_kind.values()) == bytes_held(P, ranks, stage)

# %% tags=["predict"]
measured(
    "bytes_a_parameter_at_stage_1",
    bytes_of[1][0][0] / P,
    unit="bytes",
    tell=f"2 + 4 + 12 / {ranks}. What is not cut sets a floor of 6, however many ranks there are.",
)

# %% [markdown]
# ### Bytes held for a moment
#
# The formula of ZeRO-3 leaves something out: the block that is at work. So we also watch the
# weights at every operation of a forward and a backward pass.

# %%
class Watch(TorchDispatchMode):
    """Notes before every operation how many bytes of weights this rank holds."""

    def __init__(self, model, optimizer):
        super().__init__()
        self.weights = [*model.parameters(), *optimizer.replicas.owned]
        self.line = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.line.append(storage_bytes(self.weights))
        return func(*args, **(kwargs or {}))


def weights_alive(stage):
    """(bytes of weights at each operation, the operation at which forward ends)."""
    model, optimizer = replica(stage)
    optimizer.zero()
    optimizer.replicas.begin(last=True)
    with Watch(model, optimizer) as watch:
        total = model.loss(batch(0, dist.get_rank()))
        forward_ends = len(watch.line)
        total.backward()
        optimizer.accumulate()
    return watch.line, forward_ends


lines = {stage: run(weights_alive, ranks, stage)[0] for stage in (2, 3)}
block = 12 * small.hidden**2 + 13 * small.hidden
rest = P - small.layers * block  # embedding, positions, the last LayerNorm
highest = max(lines[3][0])
assert highest == 2 * (P / ranks + block + rest)
assert min(lines[3][0]) == 2 * P / ranks and set(lines[2][0]) == {2 * P}

fig, ax = plt.subplots(figsize=(7, 3.2))
for stage, look in ((2, dict(ls="--")), (3, dict(ls="-"))):
    line = np.array(lines[stage][0]) / (2 * P)
    ax.plot(np.linspace(0, 1, len(line)), line, marker="", label=CALLED[stage], **look)
ends = lines[3][1] / len(lines[3][0])
ax.axvline(ends, color="black", ls=":", marker="", lw=1.2, label="forward ends (ZeRO-3)")
ax.axhline(1 / ranks, color="black", lw=0.8, marker="", label=f"1 / {ranks}")
ax.set(xlabel="share of the operations of a pass", ylabel="share of the weights held")
ax.set(ylim=(0, 1.1), xlim=(0, 1))
ax.set_title("In ZeRO-3 weights come and go, block by block")
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
figure(
    fig,
    alt="Share of the weights that a rank holds during forward and backward. ZeRO-2: all of them, "
    f"always. ZeRO-3: between 1/{ranks} and {highest / 2 / P:.2f}: its own shards, what belongs "
    f"to no block, and one of {small.layers} blocks at a time, in forward and again in backward.",
)

# %% [markdown]
# The stairs are the parameters of a block, filled one after the other.
#
# On top of its shards a rank holds one block, and whatever belongs to no block. That is mainly the
# embedding, which is needed at both ends of a pass. In a small model this is a large share. With a
# hundred layers a block is one percent.
#
# The figure counts weights only. While a block is being filled, the flat tensor that was gathered
# is there too. So at the highest point a rank holds *two* blocks: the weights and what they are
# copied from.
#
# ### Numbers sent
#
# The `Recorder` counts every call of a rank in one whole step. The first table is in *laps*,
# $P(d-1)/d$ numbers each. Calls of a single number are left out: they sum the tokens, the loss and
# the norm.

# %%
def sent(stage, m):
    """(numbers, bytes) that a rank sends in a step of m micro-batches."""
    model, optimizer = replica(stage)
    with Recorder() as seen:
        parts = [batch(k, dist.get_rank()) for k in range(m)]
        step(model, optimizer, parts, lr=1e-3, seed=1, number=0)
    calls = [call for call in seen.calls if call.elements > 1]
    wire = sum(call.wire_bytes for call in calls)
    return sum(call.wire_bytes / call.bytes * call.elements for call in calls), wire


one_lap = P * (ranks - 1) / ranks
traffic = {}
print(f"laps of each of {ranks} ranks, counted (and by the formula)")
print(f"{'m':>3}" + "".join(f"{name:>14}" for name in CALLED))
for m in sorted({1, micro_batches}):
    traffic[m] = run(lambda m: [sent(stage, m) for stage in range(4)], ranks, m)[0]
    formula = [elements_sent(P, ranks, stage, m) / one_lap for stage in range(4)]
    row = [f"{n / one_lap:.2f} ({f:.0f})" for (n, _), f in zip(traffic[m], formula, strict=True)]
    print(f"{m:>3}" + "".join(f"{cell:>14}" for cell in row))
    for stage, (n, _) in enumerate(traffic[m]):
        assert abs(n / elements_sent(P, ranks, stage, m) - 1) < 1e-12
print("\nthe same in bytes a parameter")
for m, row in traffic.items():
    print(f"{m:>3}" + "".join(f"{wire / P:>14.2f}" for _, wire in row))

# %% tags=["predict"]
(replicas_send, replica_bytes), (stage_1_sends, stage_1_bytes) = traffic[micro_batches][:2]
measured(
    "percent_more_sent_at_stage_1",
    round(100 * (stage_1_sends / replicas_send - 1), 6),
    unit="%",
    tell="An all-reduce was a reduce-scatter and an all-gather all along.",
)
assert abs(stage_1_bytes / replica_bytes - 0.75) < 1e-12

# %% [markdown]
# In bytes ZeRO-1 even sends a quarter *less*. The second half of an all-reduce carries sums in 4
# bytes. The all-gather of ZeRO-1 carries new weights in 2.
#
# So in bytes ZeRO-1 costs nothing. But its gather comes after the update, when no backward is left
# to hide it. Megatron-Core hides it in the next forward pass (`overlap-param-gather`).
#
# With one micro-batch ZeRO-2 sends no more either, and ZeRO-3 half as many numbers again; in bytes
# it is level with plain replicas. With many micro-batches both send a lot, since they send in every
# one of them. They are of use where accumulation is not needed: on many ranks with few sequences
# each.
#
# ### The example of the paper
#
# The ZeRO paper's own picture is for 7.5 billion parameters on 64 ranks [S15, fig. 1]. It counts 16
# bytes a parameter: its gradients have 2 bytes. With this one change our function gives its
# numbers.

# %%
psi = 7.5e9
paper = [bytes_held(psi, 64, stage, gradient=2) / GB for stage in range(4)]
print("S15:   ", "".join(f"{size:>9.1f} GB" for size in paper))
print("we:    ", "".join(f"{bytes_held(psi, 64, stage) / GB:>9.1f} GB" for stage in range(4)))
assert [round(size, 1) for size in paper] == [120, 31.4, 16.6, 1.9]

counts = np.array([1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024])
fig, ax = plt.subplots(figsize=(7, 3.6))
for stage in range(4):
    sizes = [bytes_held(psi, n, stage, gradient=2) / GB for n in counts]
    ax.plot(counts, sizes, label=CALLED[stage])
    ax.annotate(f"{paper[stage]:.1f}", (64, paper[stage]), (4, 5), textcoords="offset points",
                fontsize=9)  # fmt: skip
ax.axvline(64, color="black", ls=":", lw=1, marker="")
ax.set(xscale="log", yscale="log", xlabel="replicas d", ylabel="GB on each rank")
ax.set_xticks([1, 4, 16, 64, 256, 1024], ["1", "4", "16", "64", "256", "1024"])
ax.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
ax.set_title("ZeRO-1 and ZeRO-2 reach a floor, ZeRO-3 does not")
ax.legend(loc="lower left")
figure(
    fig,
    alt="GB of training state on each rank for 7.5 billion parameters at 16 bytes, against "
    "replicas, both logarithmic. Plain copies: 120 always. With 64 of them ZeRO-1 has 31.4, "
    "ZeRO-2 16.6, ZeRO-3 1.9. Beyond that ZeRO-1 stays near 30 and ZeRO-2 near 15; ZeRO-3 goes on "
    "falling.",
)

# %% [markdown]
# ## MT-NLG
#
# ### 20, 18 and 16 bytes
#
# MT-NLG's paper counts 20 bytes a parameter [S3, sec. 2.1.1], the ZeRO paper 16 [S15, sec. 3.1],
# and we have just counted 18. None of them is wrong. They do not have the same copies.

# %%
def in_backward():
    """{kind: bytes a parameter} of plain replicas after a backward pass whose hooks do nothing."""
    model, optimizer = replica(0)
    r = dist.get_rank()
    step(model, optimizer, [batch(0, r)], lr=1e-3, seed=1, number=0)
    optimizer.zero()
    model.loss(batch(1, r)).backward()  # without begin(): gradients stay as backward makes them
    fresh = storage_bytes([p.grad for p in model.parameters()])
    found = {kind: storage_bytes(tensors) for kind, tensors in kinds(model, optimizer).items()}
    return {kind: size / P for kind, size in (found | {"fresh": fresh}).items()}


ours = {kind: size / P for kind, size in bytes_of[0][0][1].items()} | {"fresh": 0}
table = {  # kind: (in words, MT-NLG's paper, the ZeRO paper)
    "weights": ("weights, 16 bits", 2, 2),
    "master weights": ("weights, fp32 masters", 4, 4),
    "fresh": ("gradients of one backward, 16 bits", 2, 2),
    "gradients": ("gradients, fp32 sums", 4, 0),
    "Adam, mean": ("Adam, mean of the gradients", 4, 4),
    "Adam, mean of squares": ("Adam, mean of their squares", 4, 4),
}
now = run(in_backward, ranks)[0]
print(f"{'bytes a parameter':36}{'MT-NLG':>8}{'ZeRO':>8}{'we':>13}{'we, no hooks':>14}")
for kind, (words, mtnlg, zero) in table.items():
    print(f"{words:36}{mtnlg:>8}{zero:>8}{ours[kind]:>13.0f}{now[kind]:>14.0f}")
sums = [sum(row[i] for row in table.values()) for i in (1, 2)]
sums += [round(sum(found.values()), 9) for found in (ours, now)]
print(f"{'':36}{sums[0]:>8}{sums[1]:>8}{sums[2]:>13.0f}{sums[3]:>14.0f}")
assert sums == [20, 16, 18, 20]

# %% [markdown]
# The ZeRO paper has no fp32 sum of the gradients: it was written with fp16 in mind, and keeps
# gradients in 2 bytes. bfloat16 has too few digits to add up in (lesson 04). So Megatron sums in
# fp32 [S10], and MT-NLG's paper counts both gradients. Our hooks add each 16-bit gradient to its
# sum and free it at once, so we hold 18, and while backward runs one gradient more. Without the
# hooks, as the last column shows, there are 20 when a backward pass ends.
#
# ### Which stage did MT-NLG use?
#
# We do not know. The paper describes ZeRO as a way to make data parallelism lighter [S3,
# sec. 2.1.2], but neither it nor the two announcements [S1, S2] say that a stage was switched on.
# People who later simulated this run assume none, ZeRO-1 or ZeRO-3. DeepSpeed's first combination
# of the three kinds of parallelism, in 2020, had ZeRO-1 [S16].
#
# It fits without. A replica of MT-NLG spans 280 GPUs (lessons 09 and 11 cut it), so the state is
# less than half of a GPU's 80 GB, a little more on the first and the last pipeline stage (lesson
# 05). And $d = 8$ GPUs hold the same 280th. What would ZeRO make of it, in bytes and on the wire?

# %% tags=["predict"]
mt = preset("mtnlg-530b").model
share = mt.parameters() / 280  # parameters of one GPU, evenly cut
d, m, wire_rate, iteration = 8, 1920 // 8, 25e9, 60.1  # [S3, sec. 2.3 and 2.4; S12, sec. 5]
rows_of_table = []
for stage in range(4):
    memory = bytes_held(share, d, stage, gradient=6)  # MT-NLG's 20 bytes: gradients are 2 + 4
    times = elements_sent(share, d, stage, m) / (share * (d - 1) / d)
    gathers = {0: 0, 1: 1, 2: 1, 3: 2 * m}[stage]  # of weights in 2 bytes; else fp32 sums
    seconds = (4 * (times - gathers) + 2 * gathers) * share * (d - 1) / d / wire_rate
    rows_of_table.append((memory / GB, times, seconds))
    sending = f"{times:4.0f} laps, {seconds:6.2f} s of sending"
    print(f"{CALLED[stage]:8}: {memory / GB:5.1f} GB held, {sending}")
assert [round(row[0], 1) for row in rows_of_table] == [37.8, 18.0, 8.0, 4.7]
assert rows_of_table[0][0] < 80 / 2
assert [round(row[1]) for row in rows_of_table] == [2, 2, 241, 720]
assert rows_of_table[0][2] < 1 and rows_of_table[2][2] > iteration
measured(
    "stage_2_sends_times_stage_1",
    rows_of_table[2][1] / rows_of_table[1][1],
    tell="A reduce-scatter for each of 240 micro-batches and an all-gather: 241 laps against 2.",
)

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.5, 2.5), sharey=True)
memory, _, seconds = (np.array(column) for column in zip(*rows_of_table, strict=True))
bars = axes[0].barh(CALLED, memory, color=COLOURS["blue"])
axes[0].bar_label(bars, [f"{x:.1f}" for x in memory], padding=3, fontsize=9)
axes[0].set(xlabel="GB of state on each GPU, of 80", xlim=(0, 48))
bars = axes[1].barh(CALLED, seconds, color=COLOURS["orange"], hatch="//", edgecolor="white")
axes[1].bar_label(bars, [f"{x:.1f}" for x in seconds], padding=3, fontsize=9)
axes[1].axvline(iteration, color="black", ls=":", marker="", label="one iteration, 60.1 s")
axes[1].set(xlabel="seconds of sending in a step", xlim=(0, 155))
axes[1].legend(fontsize=9, loc="upper right")
axes[0].invert_yaxis()
for ax in axes:
    ax.grid(axis="y", visible=False)
title = "For MT-NLG ZeRO-1 would send no more, ZeRO-2 and 3 would fill the wire"
fig.suptitle(title, x=0.02, ha="left", fontsize=12)
fig.tight_layout()
figure(
    fig,
    alt="Computed for one GPU of MT-NLG with 8 replicas. State held: "
    + ", ".join(f"{name} {x:.1f} GB" for name, x in zip(CALLED, memory, strict=True))
    + ". Seconds of sending in a step of 240 micro-batches at 25 GB/s: "
    + ", ".join(f"{name} {x:.1f}" for name, x in zip(CALLED, seconds, strict=True))
    + ". One iteration took 60.1 s.",
)

# %% [markdown]
# (Derived. The eight replicas sit on different nodes, so they send over InfiniBand at 25 GB/s for
# each GPU. That 240 micro-batches are one sequence each is not stated by the paper.)
#
# ZeRO-1 would have halved the state and sent less. ZeRO-2 and ZeRO-3 would have sent for longer
# than an iteration took. Accumulation over many micro-batches keeps a pipeline busy (lesson 11),
# and ZeRO-2 or ZeRO-3 do not go with it at full savings. FSDP can skip the reduction between
# micro-batches or keep weights gathered, at the price of the memory. Our package refuses both with
# a pipeline, and so does DeepSpeed.
#
# ### Why not ZeRO-3 alone?
#
# On 2240 GPUs ZeRO-3 would cut the 10.6 TB of state into small pieces, without slices of layers and
# pipeline stages. Why did anybody bother with those?

# %%
n = 2240
state = 20 * mt.parameters() / n / GB
layer = 12 * mt.hidden**2 + 13 * mt.hidden
to_send = (2 + 2 + 4) * mt.parameters() * (n - 1) / n  # two gathers in 2 bytes, a sum in 4
activations = 2 * mt.seq * mt.hidden * mt.layers / GB
print(f"state on each of {n} GPUs     {state:6.1f} GB")
print(f"one layer whole, 16 bits       {2 * layer / GB:6.1f} GB")
print(f"inputs of all layers, 1 seq.   {activations:6.1f} GB (lesson 05)")
print(f"sequences in the batch         {1920:6}    for {n} GPUs")
print(f"sent by each GPU in a step     {to_send / 1e12:6.1f} TB")
print(f"  in one ring                  {to_send / wire_rate:6.1f} s at 25 GB/s")
print(f"  a ring for each adapter      {to_send / 8 / wire_rate:6.1f} s at 25 GB/s")
assert n - 1920 == 320 and state < 5

# %% [markdown]
# It would fit. And on the wire it would be the sum of lesson 07 over again: by chance the same 8
# bytes a parameter as for those copies, almost three minutes in one ring and an eighth of that with
# a ring for each adapter. (In one ring a node sends by one of its eight adapters.)
#
# But two things hold for any wire. 1920 sequences are fewer than 2240 GPUs: 320 would idle, and
# each of the others would have one sequence to compute on, between one gather of a layer and the
# next. And a layer of 10.1 GB is whole at a time, twice that while it is copied.
#
# For models of this size the computation itself has to be cut. That begins in lesson 09.
#
# ### Your rank

# %%
mine = my_rank()
place, group = MTNLG.place(mine), MTNLG.group(mine, "dp")
print(f"rank {mine} holds slice {place.tp} of pipeline stage {place.pp}, and so do ranks {group}")
slice_rows = 4 * mt.hidden // MTNLG.tp  # of mlp.up, [4h, h]: lesson 09 cuts it by rows
each = slice_rows // MTNLG.dp
print(f"of mlp.up in each of its layers it has {slice_rows} rows of {mt.hidden} numbers;")
print(f"in ZeRO-1 it would update rows {place.dp * each} to {(place.dp + 1) * each - 1} of these,")
print(f"and keep Adam's averages for {each / slice_rows:.3f} of them")
assert {MTNLG.node(r)[0] for r in group} == {MTNLG.node(mine)[0] + i - place.dp for i in range(8)}

# %% [markdown]
# ## Check yourself
#
# 1. A matrix of 5 rows and a bias of 1 are sharded over 4 ranks, each by its first dimension. Who
#    has what? And what does a rank do that has nothing?
#
# <details><summary>Answer</summary>
#
# The matrix: 2, 2, 1 and 0 rows. The bias: 1, 0, 0 and 0. A rank with nothing takes part in the
# reduce-scatter and in the all-gather like the others, with zeros in its place. All ranks of a
# group make the same calls.
#
# </details>
#
# 2. Gradients are clipped by their norm. In ZeRO-1 each rank computes the norm of the shards that
#    it has. What is missing, and what would go wrong?
#
# <details><summary>Answer</summary>
#
# The squares of all shards must be summed over the data group, one number, before the root is
# taken. Otherwise each rank clips by a norm that is too small and different from the others': the
# parts of one weight matrix are scaled by different factors.
#
# </details>
#
# 3. You double the number of replicas from 64 to 128. How much room does that give with ZeRO-1, 2
#    and 3, at 18 bytes?
#
# <details><summary>Answer</summary>
#
# ZeRO-1: from $6 + 12/64 = 6.19$ to $6 + 12/128 = 6.09$ bytes a parameter; ZeRO-2: from
# $2 + 16/64 = 2.25$ to $2 + 16/128 = 2.125$; ZeRO-3: from $18/64 = 0.28$ to $18/128 = 0.14$. Where the floor is reached, only the next of them helps.
#
# </details>
#
# 4. With full recomputation a block's forward runs again in backward. Is that one more gather in
#    ZeRO-3?
#
# <details><summary>Answer</summary>
#
# No. Backward of a block has to gather its weights anyway, and the second forward is a part of it.
# It comes just before they are used. So three laps for a micro-batch, as without.
#
# </details>
#
# 5. Why can't ZeRO-2 keep its gradients whole until the last micro-batch, and send once like
#    ZeRO-1?
#
# <details><summary>Answer</summary>
#
# It could; then it would be ZeRO-1. What ZeRO-2 saves is just the memory of whole gradients, and
# the price is to give them away before they have a chance to add up.
#
# </details>

# %% [markdown]
# ## Exercises
#
# Gather the weights of a layer when it needs them and free them after. Find the bug of a run whose
# weights are cut. Then write ZeRO-1 for parameters whose rows do not divide, so that no rank keeps a number of Adam's
# state that another one keeps, and none sends more than an all-reduce would.
