# ---
# question: >-
#   What does tensor parallelism leave whole on every rank, and can it be cut without sending more?
# needs:
#   [training state, layout, rank, residual stream, causal attention, micro-batch, saved tensor,
#   autograd.Function, activation checkpointing, process group, collective, f and g,
#   column-parallel, row-parallel]
# introduces:
#   sequence parallelism: "Tensor parallelism that also cuts what lies between the matrices, by
#     tokens: an all-gather before a column-parallel matrix and a reduce-scatter after a
#     row-parallel one take the place of the all-reduce."
#   random state per rank: "The rule for random numbers on several ranks: where ranks hold pieces of
#     one tensor each draws its own, and where they all hold the same tensor they draw the same."
# proves: "Cut sequences equal whole ones, with dropout and recomputation on, and a norm that is
#   left alone is noticed."
# minutes: 40
# seconds: 45
# ---

# %% [markdown]
# # Sequence parallelism and recomputation
#
# Lesson 09 cut the matrices of a layer among several ranks. The weights became as small as one
# could wish. The activations did not. Here you find out which of them stayed whole, cut them too,
# and count what that costs on the wire.
#
# Then the two remedies of lesson 05, selective and full recomputation, meet the cuts. Six formulas
# come out of it, and you measure all six.

# %% [markdown]
# ## Question
#
# A layer on one GPU keeps $sbh\,(34 + 5as/h)$ bytes for backward (lesson 05). MT-NLG shares each
# layer among eight GPUs. If each of them kept an eighth of that, selective recomputation would be
# enough for it. But a part stays whole on every rank (lesson 09), and with that part it does not
# fit.
#
# **What does tensor parallelism leave whole on every rank, and can it be cut without sending
# more?**

# %%
import contextlib

import matplotlib.pyplot as plt
import torch
import torch.distributed as dist
import torch.nn.functional as F
from matplotlib.patches import Rectangle
from torch.autograd.graph import saved_tensors_hooks

from minimtnlg import run
from minimtnlg.config import Model, preset
from minimtnlg.course.check import measured, predict
from minimtnlg.course.mutants import mutant
from minimtnlg.course.plots import COLOURS
from minimtnlg.course.rank import MTNLG, my_rank
from minimtnlg.course.show import figure, show
from minimtnlg.device import device, generator
from minimtnlg.model import GPT, Draw
from minimtnlg.model.layers import recomputed
from minimtnlg.parallel import tensor
from minimtnlg.parallel.collectives import Recorder, all_gather, reduce_scatter
from minimtnlg.parallel.layout import Layout
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.train.verify import configure, equal, verify

GB = 1e9
bf16, float64 = torch.bfloat16, torch.float64

# %% [markdown]
# The layer is the tiny one of lesson 05. Its ratio $5as/h$ is that of MT-NLG's layers: 64.

# %% tags=["parameters"]
ranks: int = 4  # t, the ranks that share a layer: 2 or more; must divide seq and heads
seq: int = 128  # s, tokens
hidden: int = 160  # h
heads: int = 16  # a
micro_batch: int = 2  # b, sequences

# %% [markdown]
# ## Predict
#
# Type your guess in place of `None`, then run the cell.
#
# 1. On one rank, selective recomputation takes 65 % off what a layer of this shape keeps (lesson
#    05). Now eight ranks share the layer, as in lesson 09. How many percent does selective
#    recomputation take off what *each* of them keeps?
# 2. Between the matrices each rank now holds only its own tokens. So before each pair of matrices
#    the ranks must gather all tokens, and afterwards split them up again. By how many percent does
#    that change the bytes that a rank sends in the *forward* pass of a layer?
# 3. Each rank now normalizes its own tokens, with its own copy of LayerNorm's parameters. We forget
#    to do anything about this. What comes of it in the first step?
# 4. A layer of MT-NLG on eight GPUs: tokens cut, and the attention core recomputed (selective).
#    What it keeps, in percent of what tensor parallelism alone keeps?

# %%
predict("percent_off_on_each_of_eight", None)
predict("percent_more_sent_in_forward", None)
predict(
    "layernorm_left_alone",
    None,
    choices=["a wrong loss", "an error", "equal but too small gradients", "unequal gradients"],
)
predict("percent_kept_of_mt_nlg_layer", None)

# %% [markdown]
# ## Trouble
#
# Lesson 09 saw that a part of what a layer keeps does not fall with $t$. Which tensors are these?
# We count as in lesson 05. A hook sees every tensor that autograd puts aside; each piece of memory
# counts once, and weights do not count. The count runs inside a rank, on that rank's part of the
# layer.
#
# The formula knows nothing of the causal mask and of the two numbers that LayerNorm keeps for each
# token. We sort these out by their shape.

# %%
def saved(call, module):
    """[bytes of each storage that autograd puts aside during call()], what the formula leaves out.

    In order of the forward pass, weights of `module` left out. The second value is a sum of bytes.
    """
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    found = {}  # address -> (storage, whether the formula has it)

    def pack(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            causal_mask = x.dtype == torch.bool and x.dim() == 2
            of_layer_norm = x.is_floating_point() and x.shape[-1] == 1
            counts = not (causal_mask or of_layer_norm)
            found.setdefault(storage.data_ptr(), (storage, counts))
        return x

    with saved_tensors_hooks(pack, lambda x: x):
        output = call()
    del output
    inside = [storage.nbytes() for storage, counts in found.values() if counts]
    return inside, sum(storage.nbytes() for storage, counts in found.values() if not counts)


draw = Draw(seed=1, step=0, micro_batch=0)  # names the dropout masks (lesson 05)
sbh = seq * micro_batch * hidden


def model_on_rank(layers=1, dtype=bf16, **options):
    """This rank's part of a GPT, all ranks being one tensor group: dropout 0.1, readable core."""
    config = Model(
        layers=layers, hidden=hidden, heads=heads, seq=seq, vocab=64 * ranks, dropout=0.1,
        attention="readable",
    )  # fmt: skip
    mesh = Mesh(Layout(tp=dist.get_world_size() if dist.is_initialized() else 1))
    return GPT(config, mesh, dtype=dtype, **options)


def tokens_of(whole, sequence_parallel):
    """What this rank holds of [s, b, h]: its piece of the sequence, or all of it."""
    return whole.chunk(dist.get_world_size())[dist.get_rank()] if sequence_parallel else whole


def block_keeps(**options):
    """What one layer keeps on this rank."""
    block = model_on_rank(**options).blocks[0]
    x = torch.randn(seq, micro_batch, hidden, device=device()).to(bf16)
    x = tokens_of(x, options.get("sequence_parallel", False)).clone().requires_grad_()
    return saved(lambda: block(x, draw), block)


# %% [markdown]
# First one rank, then several. The list is the one of lesson 05.

# %%
core = heads * seq / hidden  # as/h
TERMS = [  # (name, bytes in units of sbh on one rank, whether lesson 09 cuts it)
    ("input of LayerNorm 1", 2, False),
    ("input of the QKV product", 2, False),
    ("Q, K, V", 6, True),
    ("softmax", 2 * core, True),
    ("mask of its dropout", core, True),
    ("softmax after dropout", 2 * core, True),
    ("input of the output product", 2, True),
    ("mask of dropout", 1, False),
    ("input of LayerNorm 2", 2, False),
    ("input of the MLP", 2, False),
    ("input of GeLU, 4h wide", 8, True),
    ("output of GeLU, 4h wide", 8, True),
    ("mask of dropout, MLP", 1, False),
]
(alone, _), *_ = run(block_keeps, 1)
(shared, left_out), *_ = run(block_keeps, ranks)
print(f"{'in units of sbh':30}{'1 rank':>8}{f'each of {ranks}':>12}")
for (name, units, is_cut), one, several in zip(TERMS, alone, shared, strict=True):
    remark = "" if is_cut else "   whole"
    print(f"{name:30}{one / sbh:8.2f}{several / sbh:12.2f}{remark}")
    assert abs(one / sbh - units) < 1e-9
    assert abs(several / sbh - (units / ranks if is_cut else units)) < 1e-9
print(f"{'together':30}{sum(alone) / sbh:8.2f}{sum(shared) / sbh:12.2f}")
whole = sum(units for _, units, is_cut in TERMS if not is_cut)
assert whole == 10 and sum(units for _, units, is_cut in TERMS if is_cut) == 24 + 5 * core

# %% [markdown]
# Seven lines were cut by the number of ranks: they lie *between* the two matrices of a pair, where
# each rank has its own heads or its own columns. Six lines did not move. They lie *outside* the
# pairs. There every rank has the same residual stream, takes the same LayerNorm of it and draws the
# same dropout mask. The six come to $10\,sbh$, so on each rank
#
# $$\text{bytes kept by each rank} = sbh \left(10 + \frac{24}{t} + \frac{5as}{ht}\right).$$
#
# More ranks make the second and the third term small, and the first stays. So selective
# recomputation, which takes away the third, takes away less and less of the whole.

# %% tags=["predict"]
worlds = [t for t in sorted({1, 2, 4, 8, ranks}) if seq % t == 0 and heads % t == 0]


def block_keeps_both():
    """What one layer keeps on this rank in units of sbh, without and with selective."""
    return [sum(block_keeps(recompute=r)[0]) / sbh for r in ("none", "selective")]


kept = {t: run(block_keeps_both, t)[0] for t in worlds}
for t, (none, selective) in kept.items():
    off = 100 * (1 - selective / none)
    print(f"{t} ranks: each keeps {none:5.2f} sbh, selective {selective:5.2f}: {off:.0f} % off")
    assert abs(none - (10 + 24 / t + 5 * core / t)) < 1e-9
    assert abs(selective - (10 + 24 / t)) < 1e-9
measured(
    "percent_off_on_each_of_eight",
    off,
    unit="%",
    tell=f"With {max(worlds)} ranks the core is cut already; 10 sbh is whole on each.",
)

# %%
fig, ax = plt.subplots(figsize=(7, 3.6))
for column, name in enumerate(("kept by each rank", "the same, selective")):
    ax.plot(worlds, [both[column] for both in kept.values()], label=name)
ax.axhline(10, color="black", ls=":", marker="", lw=1.4, label="10 sbh whole on every rank")
ax.set(xscale="log", yscale="log", xlabel="tensor-parallel ranks t", ylabel="units of sbh")
ax.set_xticks(worlds, worlds)
ax.set_yticks([10, 20, 50, 100], [10, 20, 50, 100])
ax.minorticks_off()
ax.set_title("With more ranks both lines come down to the same 10")
ax.legend()
figure(
    fig,
    alt="Measured bytes that a layer keeps on each rank, in units of sbh, against the "
    "tensor-parallel ranks, both logarithmic: "
    + ", ".join(f"{none:g} at {t} (selective {less:g})" for t, (none, less) in kept.items())
    + ". Both come closer to a level line at 10, which is what is whole on every rank.",
)

# %% [markdown]
# The whole part is also *done* on every rank: each of them normalizes all tokens and draws all
# masks, and throws nothing of it away. It is work done $t$ times.

# %% [markdown]
# ## Idea
#
# ### Cut by tokens
#
# Look at what the six lines belong to: LayerNorm, dropout, and the sum with the residual stream.
# All three treat every token by itself. No token asks what another one holds. So they can be cut by
# tokens: rank $i$ takes the $i$-th piece of the sequence, $s/t$ tokens of it.
#
# The matrices cannot be cut that way as well. A rank has its own columns of them, and needs *all*
# tokens for these. So all tokens have to come together before the first matrix of a pair, and part
# again after the second.
#
# The picture shows half a layer on one rank of four. In each square the rows are tokens and the
# columns are numbers of a token. The filled part is what the rank holds.

# %%
KEPT, PASSING = dict(color=COLOURS["blue"]), dict(facecolor="white", hatch="///", edgecolor="0.45")
SAME = dict(facecolor="none")  # what f gives is what it was given: nothing more is kept
WHOLE, COLUMNS, TOKENS = (0, 0, 1, 1), (0.25, 0, 0.25, 1), (0, 0.5, 1, 0.25)
STEPS = ["x", "LayerNorm", "input of the\nfirst matrix", "between the\nmatrices",
         "a summand of\nthe output", "x + dropout\nof the sum"]  # fmt: skip
ROWS = {
    "tensor\nparallel": (
        [(WHOLE, KEPT), (WHOLE, KEPT), (WHOLE, SAME), (COLUMNS, KEPT), (WHOLE, PASSING),
         (WHOLE, KEPT)],
        {1: "f", 4: "g: all-\nreduce"},
    ),
    "sequence\nparallel": (
        [(TOKENS, KEPT), (TOKENS, KEPT), (WHOLE, PASSING), (COLUMNS, KEPT), (WHOLE, PASSING),
         (TOKENS, KEPT)],
        {1: "all-\ngather", 4: "reduce-\nscatter"},
    ),
}  # fmt: skip
GAP = 2.75  # from one square to the next
fig, ax = plt.subplots(figsize=(9, 3.1))
for row, (name, (squares, links)) in enumerate(ROWS.items()):
    top = -1.75 * row
    ax.text(-0.25, top + 0.5, name, ha="right", va="center")
    for step, ((left, bottom, width, height), look) in enumerate(squares):
        at = GAP * step
        ax.add_patch(Rectangle((at + left, top + bottom), width, height, lw=0, **look))
        line = "--" if look is SAME else "-"
        ax.add_patch(Rectangle((at, top), 1, 1, fill=False, lw=0.9, ls=line))
        if look is SAME:
            ax.text(at + 0.5, top + 0.5, "same\ntensor", ha="center", va="center", fontsize=8)
        if step < len(squares) - 1:
            arrow = dict(arrowstyle="->", lw=1.6 if step in links else 0.8)
            ends = (at + GAP - 0.12, top + 0.32), (at + 1.12, top + 0.32)
            ax.annotate("", *ends, arrowprops=arrow)
            said = links.get(step, {2: "W", 3: "W'"}.get(step, ""))
            bold = "bold" if step in links else "normal"
            middle = at + (GAP + 1) / 2
            ax.text(middle, top + 0.4, said, ha="center", va="bottom", fontsize=8, weight=bold)
for step, name in enumerate(STEPS):
    ax.text(GAP * step + 0.5, 1.15, name, ha="center", va="bottom", fontsize=9)
for at, label, look in ((1.2, "kept for backward", KEPT), (5.6, "there for a moment", PASSING)):
    ax.add_patch(Rectangle((at, -2.45), 0.5, 0.35, **look))
    ax.text(at + 0.7, -2.28, label, va="center", fontsize=9)
ax.set(xlim=(-2, 15.3), ylim=(-2.6, 1.9), aspect="equal")
ax.axis("off")
ax.set_title("Outside the matrices a rank now keeps only its own tokens", x=0.02)
figure(
    fig,
    alt="Half a layer on one rank of four, twice. Tensor parallel: x and LayerNorm are whole and "
    "kept; f hands on the same tensor as the input of the first matrix; after it the rank has a "
    "strip of columns; after the second a whole summand, there for a moment; after g, an all-reduce, x plus "
    "dropout is whole and kept. Sequence parallel: x and LayerNorm are a strip of tokens; an "
    "all-gather makes the whole input, there for a moment; then a strip of columns; a whole "
    "summand, for a moment; a reduce-scatter leaves a strip of tokens.",
)

# %% [markdown]
# ### An all-reduce, taken apart
#
# Lesson 06 had a sentence to keep in mind: a reduce-scatter, then an all-gather, is an all-reduce.
# Tensor parallelism ends each pair with an all-reduce. Split it. The reduce-scatter stays where it
# was, and leaves each rank with *its tokens* of the sum. The all-gather is put off until the next
# pair needs all tokens. What lies between the two works on a piece.
#
# This is **sequence parallelism**, as Megatron means it [S13]. (DeepSpeed-Ulysses and context
# parallelism have similar names and cut attention itself by tokens. They are something else.)
#
# ### Small numbers
#
# Two ranks, two tokens, one number a token: $x = (5, 7)$. Rank 0 holds the 5, rank 1 the 7. The
# first matrix has a column for each rank, 2 and 3, the second a row for each, 1 and $-1$. There is
# nothing in between, so the pair multiplies each token by $2 \cdot 1 + 3 \cdot (-1) = -1$.
#
# Forward:
#
# - all-gather: both ranks have $(5, 7)$;
# - rank 0 multiplies by 2 and by 1: $(10, 14)$. Rank 1 by 3 and by $-1$: $(-15, -21)$;
# - reduce-scatter: the sum is $(-5, -7)$; rank 0 keeps $-5$, rank 1 keeps $-7$.
#
# Backward, where the gradients of the two outputs are 1 on rank 0 and 10 on rank 1:
#
# - both tokens of the sum came from both ranks, so each rank needs both gradients. All-gather: both
#   have $(1, 10)$;
# - rank 0 multiplies by 1 and by 2: $(2, 20)$. Rank 1 by $-1$ and by 3: $(-3, -30)$;
# - each token was used by both ranks, so its gradient is a sum. Reduce-scatter: the sum is
#   $(-1, -10)$; rank 0 keeps $-1$, rank 1 keeps $-10$.
#
# As it should be: the output is $-x$, so the gradient changes its sign. And note the symmetry.
# **Backward of the all-gather is a reduce-scatter; backward of the reduce-scatter is an
# all-gather.** With $f$ and $g$ it was the same: each is the other's backward.
#
# ### Parameters that are whole
#
# LayerNorm's two vectors are whole on every rank, and so is the bias after the second matrix. But
# each rank now uses them on its own tokens only. The gradient of a parameter is a sum over the
# tokens that it was used on, so each rank gets a part of the sum. In our example: a bias after the
# sum has gradient 1 on rank 0 and 10 on rank 1. The right one is 11, on both.
#
# The operator for this is already there: $f$, which changes nothing forward and adds up backward.
# So each such parameter passes through $f$ before it is used.
#
# ### Random numbers
#
# Last, dropout. A layer has two kinds of places:
#
# - where ranks hold **pieces** of one tensor, each must draw its *own* mask. Otherwise token 1 of
#   every piece would lose the same numbers;
# - where all ranks hold the **same** tensor, they must draw the *same* mask. Otherwise their
#   residual streams, which should be equal, part for ever.
#
# This **random state per rank** needs care in both directions. Under tensor parallelism the
# attention weights are pieces (its own heads), the residual stream is not. Under sequence
# parallelism both are pieces. Megatron keeps two generators on each rank, one seeded alike and one
# seeded by rank [S10]. We name each draw by what it is for, as in lesson 05: seed, step,
# micro-batch, layer, site. Where the tensor is a piece, the piece's index belongs to the name.
#
# ### The formulas
#
# With the sequence cut, every one of the thirteen terms is divided by $t$. Recomputation takes off
# what it takes off, as in lesson 05. So there are six cases [S13]. (A fused attention kernel, flash
# attention, never writes the attention weights out. With it the term $5as/h$ is gone from the
# start, and selective recomputation has nothing left to save.)

# %%
def formula(t, sequence_parallel, recompute, ratio=5 * core):
    """Bytes that a layer keeps on each rank, in units of sbh [S13]. ratio: 5as/h."""
    inside = {"none": 24 + ratio, "selective": 24, "full": 0}[recompute]  # between the matrices
    outside = {"none": 10, "selective": 10, "full": 2}[recompute]
    return inside / t + outside / (t if sequence_parallel else 1)


print(f"{'units of sbh at t = ' + str(ranks):26}{'tensor':>8}{'+ sequence':>12}")
for recompute in ("none", "selective", "full"):
    row = [formula(ranks, sequence, recompute) for sequence in (False, True)]
    print(f"recompute {recompute:16}{row[0]:8.2f}{row[1]:12.2f}")
assert abs(formula(ranks, True, "none") - (34 + 5 * core) / ranks) < 1e-9
assert abs(formula(ranks, True, "selective") - 34 / ranks) < 1e-9

# %% [markdown]
# ## Code
#
# ### Two operators
#
# Each is a short `autograd.Function`. The paper calls them $g$ and $\bar g$ [S13]; since
# our $g$ is something else, we call them by what they do. The collectives are those of the package,
# which cut along the first dimension. This is why our activations have the sequence there.

# %%
class Gather(torch.autograd.Function):
    """[s/t, b, h] -> [s, b, h]: the pieces of all ranks."""

    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return all_gather(x, group)

    @staticmethod
    def backward(ctx, gradient):
        return reduce_scatter(gradient, ctx.group), None


class Scatter(torch.autograd.Function):
    """[s, b, h] -> [s/t, b, h]: this rank's piece of the sum over all ranks."""

    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return reduce_scatter(x, group)

    @staticmethod
    def backward(ctx, gradient):
        return all_gather(gradient, ctx.group), None


def small_numbers():
    rank, group = dist.get_rank(), dist.group.WORLD
    x = torch.tensor([5.0, 7.0])[rank : rank + 1].requires_grad_()
    first, second = torch.tensor([2.0, 3.0])[rank], torch.tensor([1.0, -1.0])[rank]
    bias = torch.zeros(1, requires_grad=True)
    partial = Gather.apply(x, group) * first * second
    y = Scatter.apply(partial, group) + tensor.f(bias, group)
    y.backward(torch.tensor([1.0, 10.0])[rank : rank + 1])
    return partial.tolist(), y.item(), x.grad.item(), bias.grad.item()


for rank, (partial, y, for_x, for_bias) in enumerate(run(small_numbers, 2)):
    print(f"rank {rank}: summand {partial}, output {y:g}, gradient of x {for_x:g}, of the bias "
          f"{for_bias:g}")  # fmt: skip
    assert partial == [[10, 14], [-15, -21]][rank]
    assert (y, for_x, for_bias) == (-[5, 7][rank], -[1, 10][rank], 11)

# %% [markdown]
# The numbers are those of *Idea*, and the bias has its 11 on both ranks.
#
# ### The package's layer
#
# The package has one model for both cases. A matrix of a pair is told whether the sequence is cut.
# Here is what the second one then does, the forward of the class that lesson 09 showed. Note where
# the bias is added, and what it passes through.

# %%
show(tensor.RowParallel.forward)

# %% [markdown]
# ### What if LayerNorm is left alone?
#
# Its class passes both vectors through $f$, over a group that is the tensor group where the
# sequence is cut. `mutant` (lesson 07) takes the $f$ away in the ranks of its block. We compare the
# gradients with it and without.

# %% tags=["predict"]
def whole_tensors():
    """x and the gradient of the output, [s, b, h], the same on all ranks."""
    source = torch.Generator().manual_seed(3)
    shape = (2, seq, micro_batch, hidden)
    return torch.randn(shape, generator=source, dtype=float64).to(device())


def layer_norm_gradients():
    block = model_on_rank(dtype=float64, sequence_parallel=True).blocks[0]
    x, gradient = (tokens_of(w, True) for w in whole_tensors())
    y = block(x, draw)
    y.backward(gradient)
    return y.detach(), block.attention_norm.weight.grad


rows = {"with f": run(layer_norm_gradients, ranks)}
with mutant("layer_norm_gradient_of_one_piece") as bug:
    rows["without f"] = run(layer_norm_gradients, ranks)
print(f"{bug.name}: {bug.belief}\n")
for which, results in rows.items():
    print(which)
    for rank, (_, gradient) in enumerate(results):
        said = " ".join(f"{number:8.2f}" for number in gradient[:4].tolist())
        print(f"  rank {rank}: gradient of LayerNorm 1's weight {said} ...")
complete = rows["with f"][0][1]
same_output = all(torch.equal(a, b) for (a, _), (b, _) in zip(*rows.values(), strict=True))
parts = sum(gradient for _, gradient in rows["without f"])
difference = (parts - complete).abs().max() / complete.abs().max()
print(f"same outputs: {same_output}; the parts add up to the gradient, within {difference:.0e}")
assert same_output and difference < 1e-12
assert all(torch.equal(gradient, complete) for _, gradient in rows["with f"])
assert all((g - complete).abs().max() > 0.1 * complete.abs().max() for _, g in rows["without f"])
measured(
    "layernorm_left_alone",
    "unequal gradients",
    tell="The loss is right until the step; after it, the copies of the weight differ.",
)

# %% [markdown]
# The forward pass cannot notice. After the first step each rank has a LayerNorm of its own, and
# from then on the ranks do not train one model. Nothing reports it.
#
# ### Masks
#
# A saved mask is a saved tensor, so the hook can show us which masks the layer really drew. We ask
# the real layer on real ranks, and print the first 40 numbers of each; a dot is a number dropped.

# %%
def masks_of(block, x):
    """The dropout masks of one pass of the layer, by site."""
    found = []

    def pack(x):
        if x.dtype == torch.bool and x.dim() > 2:
            found.append(x.clone())
        return x

    with saved_tensors_hooks(pack, lambda x: x):
        y = block(x, draw)
    return dict(zip(("attention", "out", "mlp"), found, strict=True)), y.detach()


def masks_on_rank(sequence_parallel, piece=None):
    """Masks and output of a layer; `piece` replaces the index by which it names its draws."""
    block = model_on_rank(dtype=float64, sequence_parallel=sequence_parallel).blocks[0]
    block.piece = block.piece if piece is None else piece[dist.get_rank()]
    return masks_of(block, tokens_of(whole_tensors()[0], sequence_parallel))


def alike(results, site):
    first, *others = (masks[site] for masks, _ in results)
    return all(torch.equal(first, other) for other in others)


for sequence in (False, True):
    results = run(masks_on_rank, ranks, sequence)
    print("tensor parallel" if not sequence else "sequence parallel")
    for site in ("attention", "out"):
        print(f"  {site}: {'the same' if alike(results, site) else 'each its own'}")
        for rank, (masks, _) in enumerate(results):
            row = masks[site].flatten()[:40].tolist()
            print(f"    rank {rank}  {''.join('1' if stays else '.' for stays in row)}")
        assert alike(results, site) == (site == "out" and not sequence)

# %% [markdown]
# `out` is the dropout on what attention adds to the residual stream. Tensor-parallel ranks all hold
# that tensor, and draw alike. Sequence-parallel ranks hold pieces of it, and do not.
#
# Both rules can be broken in the name alone. First we let tensor-parallel ranks draw each its own,
# then sequence-parallel ranks all the same.

# %%
own = run(masks_on_rank, ranks, False, list(range(ranks)))
apart = max((y - own[0][1]).abs().max().item() for _, y in own)
size = own[0][1].abs().max().item()
print(f"own masks on one tensor: outputs of the ranks differ by up to {apart:.1f} of {size:.1f}")
shared_mask = run(masks_on_rank, ranks, True, [0] * ranks)
print(f"one mask for all pieces: every rank drops the same places: {alike(shared_mask, 'out')}")
assert apart > 0.01 * size and alike(shared_mask, "out")

# %% [markdown]
# The first bug breaks the model: ranks that should agree do not. The second breaks only the
# randomness. Its loss looks like any other, and a comparison with one process and no dropout
# passes. *Proof* shows that.
#
# The package's names:

# %%
show(Draw)

# %% [markdown]
# ## You might think
#
# ### "Sequence parallelism costs more traffic"
#
# Two operations where there was one, and twice as many calls. It looks like more. The recorder
# counts the ring bytes of each call (lesson 06). We let one layer run forward and backward, and
# count both passes.
#
# One more variant goes with it: `whole inputs`. There the first matrix of a pair is our `Gather`,
# then an ordinary product. You will see why it is there.

# %%
def one_pass(sequence_parallel, recompute="none", whole_inputs=False):
    """Calls of one layer in forward and in backward, and bytes that it keeps: on this rank."""
    if whole_inputs:  # in this process only: a product that keeps what was gathered
        tensor.column_linear = lambda x, weight, bias, group, _: F.linear(
            Gather.apply(x, group), weight, bias
        )
    inner = "none" if recompute == "full" else recompute  # whole layers are recomputed below
    block = model_on_rank(recompute=inner, sequence_parallel=sequence_parallel).blocks[0]
    x, gradient = (tokens_of(w, sequence_parallel).to(bf16) for w in whole_tensors())
    x.requires_grad_()
    call = (lambda: recomputed(block, x, draw)) if recompute == "full" else lambda: block(x, draw)
    kept, _ = saved(call, block)
    with Recorder() as forward:
        y = call()
    with Recorder() as backward:
        y.backward(gradient)
    return forward, backward, sum(kept) / sbh


VARIANTS = {
    "tensor parallel": dict(sequence_parallel=False),
    "sequence, whole inputs": dict(sequence_parallel=True, whole_inputs=True),
    "sequence parallel": dict(sequence_parallel=True),
}
passes = {name: run(one_pass, ranks, **options)[0] for name, options in VARIANTS.items()}
for name in ("tensor parallel", "sequence parallel"):
    print(f"{name}, forward\n{passes[name][0].table()}\n")

# %% tags=["predict"]
def sent(recorder, small=False):
    """Ring traffic in numbers, in units of sbh (t - 1) / t; small: of calls with h numbers only."""
    calls = [c for c in recorder.calls if (c.elements == hidden) == small]
    return round(sum(c.wire_bytes for c in calls) / 2 / (sbh * (ranks - 1) / ranks), 9)


one, other = (sent(passes[name][0]) for name in ("tensor parallel", "sequence parallel"))
measured(
    "percent_more_sent_in_forward",
    100 * (other / one - 1),
    unit="%",
    tell="A ring all-reduce was a reduce-scatter and an all-gather all along.",
)
assert one == other == 4

# %% [markdown]
# Not one byte more. An all-gather sends $(t-1)/t$ of the whole tensor and so does a reduce-scatter;
# an all-reduce sends twice that. Only the place of the second half has changed.
#
# And backward?

# %%
print(f"{'in sbh (t-1)/t numbers':26}{'forward':>9}{'backward':>10}{'small ones':>12}{'kept':>8}")
for name, (forward, backward, keeps) in passes.items():
    row = f"{sent(forward):>9.2f}{sent(backward):>10.2f}{sent(backward, small=True):>12.4f}"
    print(f"{name:26}{row}{keeps:>8.2f}")
assert [sent(backward) for _, backward, _ in passes.values()] == [4, 4, 6]
assert abs(passes["sequence, whole inputs"][2] - (4 + (30 + 5 * core) / ranks)) < 1e-9
assert abs(passes["sequence parallel"][2] - (34 + 5 * core) / ranks) < 1e-9

# %% [markdown]
# Cutting the sequence costs nothing in backward either, as the second line shows. But look at what
# is *kept* there: more than an even share. A product keeps its input, and the input of the first
# matrix is the gathered, whole tensor. Two pairs, $2\,sbh$ each: 4 of the 10 have come back.
#
# So the package, as the paper [S13], keeps the piece and **gathers once more in
# backward**, when the gradient of the matrix asks for its input. This buys the last line: 2 more on
# the wire, and everything divided by $t$. It is a trade of traffic for memory, and a choice. The
# cut itself was free.
#
# The small ones, apart in the table, are six sums of $h$ numbers, in each layer and for each
# micro-batch: for the vectors of the LayerNorms and the biases that pass through $f$. (Outside the
# layers the table of positions and the last LayerNorm pass through $f$ too.) In bytes they are next
# to nothing, but each is a call with a latency, and nobody works meanwhile. Megatron puts them off:
# it lets these gradients add up over the micro-batches and sums them once a step.
#
# Traffic is now $4 + 6 = 10$, against $4 + 4 = 8$ of tensor parallelism alone. Is that much?
# Compare with what it replaces. Full recomputation runs the forward pass again, with all its calls.

# %%
VARIANTS = {
    "sequence parallel, selective": dict(sequence_parallel=True, recompute="selective"),
    "tensor parallel, full": dict(sequence_parallel=False, recompute="full"),
    "sequence parallel, full": dict(sequence_parallel=True, recompute="full"),
}
passes |= {name: run(one_pass, ranks, **options)[0] for name, options in VARIANTS.items()}
parts = {}  # forward, backward, forward again, inputs gathered again
for name, (forward, backward, keeps) in passes.items():
    again = sent(forward) if "full" in name else 0
    parts[name] = [sent(forward), 4, again, sent(backward) - 4 - again]
    print(f"{name:30}{sum(parts[name]):6.1f} sbh (t-1)/t, kept {keeps:6.2f} sbh")
assert [sum(row) for row in parts.values()] == [8, 8, 10, 10, 12, 14]

# %%
fig, ax = plt.subplots(figsize=(7.4, 3.2))
looks = {
    "forward": dict(color=COLOURS["blue"]),
    "backward": dict(color=COLOURS["sky"]),
    "forward again": dict(facecolor="white", edgecolor=COLOURS["blue"], hatch="///"),
    "inputs gathered again": dict(facecolor="white", edgecolor=COLOURS["red"], hatch="xx"),
}
for row, sizes in enumerate(parts.values()):
    left = 0
    for size, look in zip(sizes, looks.values(), strict=True):
        if size:
            ax.barh(row, size, left=left, **look)
        left += size
    ax.text(left + 0.15, row, f"{left:g}", va="center")
for label, look in looks.items():
    ax.barh(0, 0, label=label, **look)
ax.set_yticks(range(len(parts)), list(parts))
ax.invert_yaxis()
ax.grid(axis="y", visible=False)
ax.set(xlabel="numbers sent by each rank, in units of sbh (t-1)/t", xlim=(0, 15.5))
ax.set_title("The cut is free; keeping less is paid for", x=-0.4)
ax.legend(loc="upper center", bbox_to_anchor=(0.3, -0.22), ncols=4, fontsize=9, columnspacing=1)
figure(
    fig,
    alt="Numbers that each rank sends for one layer, forward and backward, in sbh (t-1)/t: "
    + "; ".join(f"{name} {sum(row):g}" for name, row in parts.items())
    + ". Forward and backward are 4 each everywhere. Full recomputation adds 4 for the forward "
    "pass again, keeping only pieces adds 2 for gathering inputs again.",
)

# %% [markdown]
# Selective recomputation repeats the attention core, which lies between the matrices and sends
# nothing. So sequence parallelism with selective recomputation sends *less* than what MT-NLG did.
#
# (The 8 of tensor parallelism is the paper's $8\,bsh\,(t-1)/t$ [S12].)

# %% [markdown]
# ## Proof
#
# ### Our operators and the package's
#
# The package has our two operators under the names `gather_sequence` and `scatter_sequence`.

# %%
def both_pairs():
    group, source = dist.group.WORLD, torch.Generator().manual_seed(dist.get_rank())
    x = torch.randn(6, 2, 3, generator=source, dtype=float64, requires_grad=True)
    found = []
    for gather, scatter in (
        (Gather.apply, Scatter.apply),
        (tensor.gather_sequence, tensor.scatter_sequence),
    ):
        x.grad = None
        y = scatter(gather(x, group).sin() * (1 + dist.get_rank()), group)
        y.square().sum().backward()
        found.append((y.detach(), x.grad))
    return max((a - b).abs().max().item() for a, b in zip(*found, strict=True))


differences = run(both_pairs, ranks)
print("largest difference on each rank:", differences)
assert max(differences) == 0

# %% [markdown]
# ### A whole model
#
# `verify` (lesson 07) compares three steps of training on ranks with one process. Here on a `nano`
# of two layers with the sequence cut over two ranks: first as it is, then with LayerNorm left
# alone, then with one mask for all pieces. In a terminal it is `minimtnlg verify nano parallel.tp=2
# parallel.sequence_parallel=true`.

# %%
options = ["model.layers=2", "model.seq=32", "parallel.tp=2", "parallel.sequence_parallel=true"]
nano = configure("nano", options)
kinds = ("loss", "gradient", "sgd", "adam")
print(f"{'bug':34}" + "".join(f"{kind:>10}" for kind in kinds) + "   gradients right")
for name in (None, "layer_norm_gradient_of_one_piece", "pieces_share_a_mask"):
    with mutant(name) if name else contextlib.nullcontext():
        result = verify(nano)
    differences = "".join(f"{result['max_abs_diff'][kind]:10.0e}" for kind in kinds)
    right = sum(far < 1e-10 for far in result["gradients"].values())
    print(f"{name or 'none':34}{differences}{right:>8} of {len(result['gradients'])}")
    assert equal(result) == (name != "layer_norm_gradient_of_one_piece")

# %% [markdown]
# LayerNorm left alone makes ten gradients wrong, two vectors in each of five LayerNorms, and after a
# step the loss. The shared mask goes by unseen: `verify` switches dropout off, since one process
# draws other masks than several. So dropout needs a comparison of its own.

# %% [markdown] tags=["deeper"]
# ### Deeper: a layer without ranks
#
# Is it right with dropout as well? We write the layer down once more, plainly, for one process and
# in float64. It shares nothing with the package but the names of the masks. It is given whole
# masks: where ranks hold pieces, the pieces' masks put side by side, heads beside heads and tokens
# below tokens.

# %% tags=["deeper"]
P_DROP = 0.1


def mask(site, piece, shape):
    """The mask of one draw, scaled: 0 or 1 / (1 - p)."""
    source = generator(*draw.purpose(0, site, piece), device=device())
    stays = torch.rand(shape, generator=source, device=device()) >= P_DROP
    return stays.double() / (1 - P_DROP)


def whole_masks(t, sequence_parallel):
    """The masks of all ranks as one tensor for each site."""
    s, b, h, a = seq, micro_batch, hidden, heads
    masks = {"attention": torch.cat([mask("attention", i, (b, a // t, s, s)) for i in range(t)], 1)}
    for site in ("out", "mlp"):
        pieces = [mask(site, i, (s // t, b, h)) for i in range(t)]
        masks[site] = torch.cat(pieces) if sequence_parallel else mask(site, 0, (s, b, h))
    return masks


def plain_layer(x, w, masks):
    """One layer on one process. x: [s, b, h]. w: its weights by name."""
    s, b, h = x.shape

    def norm(x, name):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def product(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    qkv = product(norm(x, "attention_norm"), "attention.qkv").view(s, b, heads, 3, h // heads)
    q, k, v = qkv.permute(3, 1, 2, 0, 4)
    scores = q @ k.mT / (h // heads) ** 0.5
    future = torch.ones(s, s, device=x.device).triu(1).bool()
    mixed = scores.masked_fill(future, float("-inf")).softmax(-1) * masks["attention"] @ v
    x = x + product(mixed.permute(2, 0, 1, 3).reshape(s, b, h), "attention.out") * masks["out"]
    y = product(norm(x, "mlp_norm"), "mlp.up")
    y = 0.5 * y * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (y + 0.044715 * y**3)))
    return x + product(y, "mlp.down") * masks["mlp"]


source = torch.Generator().manual_seed(4)
weights = {}  # drawn at random, biases and LayerNorms too, so that no error hides behind a zero
for name, p in model_on_rank().blocks[0].named_parameters():
    values = torch.randn(p.shape, generator=source, dtype=float64) / (8 if p.dim() > 1 else 4)
    weights[name] = values.to(device())


def on_one_process(masks):
    """Output and gradients, x's among them, of the plain layer."""
    x, gradient = whole_tensors()
    leaves = {name: p.clone().requires_grad_() for name, p in weights.items()}
    x.requires_grad_()
    y = plain_layer(x, leaves, masks)
    y.backward(gradient)
    return {"output": y.detach(), "x": x.grad} | {name: p.grad for name, p in leaves.items()}


# %% [markdown] tags=["deeper"]
# The package's layer on ranks gets the same weights, each rank its cut. Then the results are put
# together: what is cut is joined, what is whole must be right on *every* rank.

# %% tags=["deeper"]
def on_ranks(sequence_parallel):
    """The same from the package's layer, this rank's part, for each way to recompute."""
    return {
        recompute: on_rank(sequence_parallel, recompute)
        for recompute in ("none", "selective", "full")
    }


def on_rank(sequence_parallel, recompute):
    """(this rank's part by name, the dimension along which each is cut, None where it is whole)."""
    inner = "none" if recompute == "full" else recompute  # whole layers are recomputed below
    gpt = model_on_rank(dtype=float64, recompute=inner, sequence_parallel=sequence_parallel)
    block, cuts = gpt.blocks[0], tensor.split_dimensions(gpt.blocks[0])
    with torch.no_grad():
        for name, p in block.named_parameters():
            p.copy_(tensor.cut(weights[name], cuts[name], gpt.mesh.tp))
    x, gradient = (tokens_of(w, sequence_parallel).clone() for w in whole_tensors())
    x.requires_grad_()
    y = recomputed(block, x, draw) if recompute == "full" else block(x, draw)
    y.backward(gradient)
    gradients = {name: p.grad for name, p in block.named_parameters()}
    activations = 0 if sequence_parallel else None  # the dimension along which they are cut
    cuts |= {"output": activations, "x": activations}
    return {"output": y.detach(), "x": x.grad} | gradients, cuts


def farthest(results, expected):
    """The largest relative difference between what ranks have and one process has."""
    far = 0
    for name, right in expected.items():
        parts, dimension = [found[name] for found, _ in results], results[0][1][name]
        versions = parts if dimension is None else [torch.cat(parts, dimension)]
        far = max(far, *((v - right).abs().max() / right.abs().max() for v in versions))
    return float(far)


for t in sorted({worlds[1], ranks}):
    for sequence in (False, True):
        expected = on_one_process(whole_masks(t, sequence))
        results = run(on_ranks, t, sequence)
        row = {r: farthest([found[r] for found in results], expected) for r in results[0]}
        kind = "sequence" if sequence else "tensor"
        said = ", ".join(f"{r} {far:.0e}" for r, far in row.items())
        print(f"{t} ranks, {kind:8} parallel; recompute {said}")
        assert max(row.values()) < 1e-10

# %% [markdown] tags=["deeper"]
# Output, gradient of the input and gradients of all parameters agree with one process to rounding,
# with dropout on. Recomputation changes nothing, since a mask that has a name is drawn again by its
# name.

# %% [markdown]
# ## Cost
#
# ### Memory, all six
#
# Each rank builds a model of one layer and one of two. The difference of what they keep is a layer
# inside a model. Three ways to recompute, with and without a cut sequence, beside the formulas.

# %%
CASES = [(seq_par, r) for seq_par in (False, True) for r in ("none", "selective", "full")]


def six_cases():
    """{case: bytes that one more layer adds to what a model keeps, in units of sbh}."""
    tokens = torch.zeros(micro_batch, seq, dtype=torch.long, device=device())
    found = {}
    for sequence_parallel, recompute in CASES:
        if sequence_parallel and dist.get_world_size() == 1:
            continue  # nothing to cut among
        totals = []
        for layers in (1, 2):
            gpt = model_on_rank(layers, recompute=recompute, sequence_parallel=sequence_parallel)
            inside, _ = saved(lambda gpt=gpt: gpt(tokens, draw), gpt)
            totals.append(sum(inside))
        found[sequence_parallel, recompute] = (totals[1] - totals[0]) / sbh
    return found


table = {t: run(six_cases, t)[0] for t in worlds}
label = {case: f"{'+ sequence' if case[0] else 'tensor'}, {case[1]}" for case in CASES}
print(f"{'measured (formula), sbh':24}" + "".join(f"{f't = {t}':>18}" for t in worlds))
for case in CASES:
    row = ""
    for t in worlds:
        if case in table[t]:
            row += f"{table[t][case]:9.2f} ({formula(t, *case):6.2f})"
            assert abs(table[t][case] - formula(t, *case)) < 1e-9
        else:
            row += " " * 18
    print(f"{label[case]:24}{row}")

# %%
fig, ax = plt.subplots(figsize=(7, 4.2))
for case in CASES:
    colour = {"none": "blue", "selective": "orange", "full": "black"}[case[1]]
    points = {t: table[t][case] for t in worlds if case in table[t]}
    style = dict(ls="-", marker="s") if case[0] else dict(ls="--", marker="o")
    ax.plot(list(points), list(points.values()), color=COLOURS[colour], label=label[case], **style)
ax.set(xscale="log", yscale="log", xlabel="tensor-parallel ranks t", ylabel="units of sbh")
ax.set_xticks(worlds, worlds)
ax.set_yticks([0.2, 0.5, 1, 2, 5, 10, 20, 50, 100], [0.2, 0.5, 1, 2, 5, 10, 20, 50, 100])
ax.minorticks_off()
ax.set_title("Only with the sequence cut does a layer keep 1/t (measured)")
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
figure(
    fig,
    alt="Measured bytes kept by a layer on each rank in units of sbh, against ranks, both "
    "logarithmic. At the most ranks: "
    + "; ".join(f"{label[case]} {table[worlds[-1]][case]:g}" for case in CASES)
    + ". With tensor parallelism alone the lines flatten out, and full is level at 2; with the "
    "sequence cut all three fall as 1/t.",
)

# %% [markdown]
# All six are exact, once the causal mask and LayerNorm's two numbers a token are set apart. How
# large are they?

# %%
(_, without), (_, cut) = (run(block_keeps, ranks, sequence_parallel=s)[0] for s in (False, True))
print(f"left out by the formula: {without / sbh:.2f} sbh, with the sequence cut {cut / sbh:.2f}")
print(f"of this the causal mask: {seq * seq / sbh:.2f} sbh in both")
assert (without - seq**2) == ranks * (cut - seq**2)

# %% [markdown]
# The mask is $s^2$ bytes, whole on every rank: attention needs all tokens, and so all pairs. It
# does not grow with the micro-batch. A fused kernel has none at all.

# %% [markdown] tags=["deeper"]
# ### Deeper: time
#
# A time of ours would mislead. Here ranks talk through sockets, where a call costs more than the
# LayerNorm of a tiny tensor, and backward has more calls with the sequence cut:

# %% tags=["deeper"]
for name in ("tensor parallel", "sequence parallel"):
    forward, backward, _ = passes[name]
    print(f"{name:20} calls: {len(forward.calls)} in forward, {len(backward.calls)} in backward")

# %% [markdown] tags=["deeper"]
# We tried, on two cores: the calls outweigh the work that is saved, and sequence parallelism is
# slower. Published times say more: one layer of a model of 22 billion parameters on eight GPUs
# [S13, Table 4].

# %% tags=["deeper"]
published = {  # milliseconds of forward, backward
    "tensor parallel": (7.7, 11.9),
    "sequence parallel": (7.2, 11.8),
    "tensor parallel, selective": (7.7, 13.2),
    "sequence parallel, selective": (7.2, 13.1),
    "tensor parallel, full": (7.7, 19.5),
}
base = sum(published["tensor parallel"])
fig, ax = plt.subplots(figsize=(7, 2.9))
for row, (forward, backward) in enumerate(published.values()):
    ax.barh(row, forward, color=COLOURS["blue"])
    ax.barh(row, backward, left=forward, color=COLOURS["sky"], hatch="//", edgecolor="white")
    more = 100 * ((forward + backward) / base - 1)
    said = f"{forward + backward:.1f}" + (f" ({more:+.0f} %)" if row else "")
    ax.text(forward + backward + 0.4, row, said, va="center", fontsize=9)
ax.set_yticks(range(len(published)), list(published))
ax.invert_yaxis()
ax.grid(axis="y", visible=False)
ax.set(xlabel="milliseconds of one layer, published", xlim=(0, 33))
ax.set_title("The cut wins back part of what recomputing costs", x=-0.4)
ax.legend(ax.containers[:2], ["forward", "backward"], loc="upper right")
figure(
    fig,
    alt="Published times of one layer, forward plus backward, in milliseconds: "
    + "; ".join(f"{name} {sum(times):.1f}" for name, times in published.items())
    + ".",
)
overheads = [round(100 * (sum(times) / base - 1)) for times in published.values()]
assert overheads == [0, -3, 7, 4, 39]

# %% [markdown] tags=["deeper"]
# Forward gets faster: LayerNorm and dropout are no longer done by every GPU for all tokens.
# Backward hardly changes, although it gathers more: the paper sends these gathers while the
# gradient of the input is computed, to hide them [S13].

# %% [markdown]
# ## MT-NLG
#
# ### What it did, and what came after
#
# Sequence parallelism was published in 2022 [S13], when MT-NLG had been trained. MT-NLG cut its
# layers by tensor parallelism alone and recomputed each of them in full [S3, sec. 2.1.1]. So it
# kept $2\,sbh$ a layer, whole on each of eight GPUs unless it partitioned them, which is not
# published. And it did every forward pass twice.
#
# The paper on sequence parallelism takes MT-NLG's shape as one of its examples. One layer, $t = 8$,
# by the six formulas, beside the percentages of the published figure as read by [S14]:

# %% tags=["predict"]
model = preset("mtnlg-530b").model
s, h, a, b, t = model.seq, model.hidden, model.heads, 1, 8
ratio = 5 * a * s / h
units = {case: formula(t, *case, ratio) for case in CASES}
baseline = units[False, "none"]
figure_7 = {(True, "none"): 58.31, (False, "selective"): 62.04, (True, "selective"): 20.27,
            (False, "full"): 9.42}  # fmt: skip
print(f"{'':24}{'sbh':>7}{'percent':>9}{'published':>11}")
for case in CASES:
    share, known = 100 * units[case] / baseline, figure_7.get(case)
    said = f"{known:11.2f}" if known else ""
    print(f"{label[case]:24}{units[case]:7.2f}{share:9.1f}{said}")
    assert known is None or abs(share - known) < 0.2
assert (ratio, baseline) == (64, 21)
measured(
    "percent_kept_of_mt_nlg_layer",
    100 * units[True, "selective"] / baseline,
    unit="%",
    tell="A fifth. Full recomputation keeps half of that, and runs every layer forward twice.",
)

# %% [markdown]
# ### Does it fit?
#
# The paper's runs of this shape use 8 slices and 35 stages, 280 GPUs, and the interleaved schedule
# of lesson 11, with $v = 3$ chunks a stage. The first stage then holds $L\,(1 + (p-1)/(pv))$ layers'
# worth of activations; take that factor on trust until then. The paper's figure counts 18 bytes a
# parameter and no embeddings.

# %%
L, p, v = model.layers, 35, 3
state = 18 * 12 * L * h**2 / (p * t)
under_way = L * (1 + (p - 1) / (p * v)) * s * b * h  # in bytes, for one unit of sbh
cases = {
    "tensor": (False, "none"),
    "tensor, selective": (False, "selective"),
    "+ sequence": (True, "none"),
    "+ sequence, selective": (True, "selective"),
    "tensor, full": (False, "full"),
}
memory = {name: under_way * units[case] for name, case in cases.items()}
for name, size in memory.items():
    verdict = "fits" if state + size < 80 * GB else "too much"
    print(f"{name:24}{size / GB:7.1f} GB + state {state / GB:.1f} GB of 80 GB: {verdict}")
assert state / 2**30 == 31.640625  # GiB; these three are the published figures [S14]
assert abs(memory["tensor"] / 2**30 - 114.0234375) < 1e-6
assert abs(memory["+ sequence, selective"] / 2**30 - 23.076171875) < 1e-6

# %%
fig, ax = plt.subplots(figsize=(7, 2.9))
ax.barh(list(memory), state / GB, color=COLOURS["black"], label="training state")
sizes = [size / GB for size in memory.values()]
ax.barh(list(memory), sizes, left=state / GB, color=COLOURS["sky"], label="activations")
ax.axvline(80, color=COLOURS["red"], ls="--", marker="", label="memory of the GPU")
for row, size in enumerate(sizes):
    ax.text(state / GB + size + 1.5, row, f"{state / GB + size:.0f}", va="center", fontsize=9)
ax.invert_yaxis()
ax.grid(axis="y", visible=False)
ax.set(xlabel="GB on a GPU of the first stage (formulas)", xlim=(0, 185))
ax.set_title("530B: cut and selective together fit into 80 GB", x=-0.3)
ax.legend(loc="lower right")
figure(
    fig,
    alt=f"GB on a GPU of the first stage of a 530B model: training state {state / GB:.0f} and "
    "activations. Together: "
    + "; ".join(f"{name} {(state + size) / GB:.0f}" for name, size in memory.items())
    + ". The GPU has 80.",
)
fits = [name for name, size in memory.items() if state + size < 80 * GB]
assert fits == ["+ sequence, selective", "tensor, full"]

# %% [markdown]
# Neither half is enough by itself. Together they fit, and the second forward pass is gone. What did
# that gain? One iteration of the 530B model on 280 GPUs, 280 sequences [S13, Table 5]:

# %%
full_s, now_s = 49.05, 37.83  # seconds: full recomputation; sequence parallel and selective
for name, seconds in (("full recomputation", full_s), ("sequence, selective", now_s)):
    mfu = model.flops(280) / seconds / 280 / 312e12
    print(f"{name:22}{seconds:7.2f} s, {100 * mfu:.1f} % of the peak goes into the model")
print(f"throughput {100 * (full_s / now_s - 1):.1f} % higher")
assert round(100 * (full_s / now_s - 1), 1) == 29.7
assert round(100 * model.flops(280) / now_s / 280 / 312e12, 1) == 56.0
assert round(100 * model.flops(280) / full_s / 280 / 312e12, 1) == 43.2

# %% [markdown]
# For this shape the paper gives 36 % more time a layer with full recomputation and 2 % with both
# remedies [S13]; a layer of its 22-billion model had 39 and 4 %. (These are not MT-NLG's own runs:
# they have the interleaved schedule and no data parallelism. Each replica of MT-NLG, 280 GPUs too,
# had 240 sequences and took 60.1 s [S3].)
#
# The inputs that are gathered again, over NVLink at 300 GB/s [S14; not confirmed for MT-NLG]:

# %%
gathers = 2 * (t - 1) / t * s * b * h * 2 / 300e9
arithmetic = 2 * (24 * s * h**2 + 4 * s**2 * h) / t / 312e12  # backward of one layer, at peak
print(f"two gathers {1e3 * gathers:.2f} ms, backward of the layer {1e3 * arithmetic:.1f} ms: "
      f"{100 * gathers / arithmetic:.1f} %")  # fmt: skip
assert round(1e3 * gathers, 2) == 0.49 and round(100 * gathers / arithmetic, 1) == 2.9

# %% [markdown]
# Three percent if both ran at their peaks, and less where the gathers are hidden.
#
# ### Your rank
#
# Your GPU is one of a tensor group of eight. Which tokens would be its own, and what would it keep?
# A stage has three layers, and stage $i$ has $35 - i$ micro-batches under way (lesson 11).

# %%
mine = my_rank()
place = MTNLG.place(mine)
piece = s // t
flight = p - place.pp
print(f"rank {mine}: slice {place.tp}, stage {place.pp}, {flight} micro-batches under way")
print(f"its tokens: {place.tp * piece} to {(place.tp + 1) * piece - 1} of each sequence")
for name, case in (("full, as MT-NLG", (False, "full")), ("sequence and full", (True, "full")),
                   ("sequence and selective", (True, "selective"))):  # fmt: skip
    size = 3 * flight * units[case] * s * b * h
    print(f"{name:24}{size / GB:6.2f} GB kept")
first = 3 * p * s * b * h / GB  # on stage 0, for one unit of sbh
assert round(2 * first, 1) == 8.8 and round(2 * first / t, 1) == 1.1
# Beside the 41.2 GB of its state (lesson 05), selective fits with the sequence cut and only then.
assert 41.2 + first * units[True, "selective"] < 80 < 41.2 + first * units[False, "selective"]

# %% [markdown]
# On the first stage the second line is 1.1 GB in place of the 8.8 GB of lesson 05: the same inputs
# of layers, now cut in eight. (If MT-NLG partitioned them, it had the second line without cutting
# the sequence, and sent for it.) The third keeps more than the first. It fits all the same, and
# saves a forward pass.
#
# A layer now fits a node. 105 of them do not: lesson 11 cuts the stack.

# %% [markdown]
# ## Check yourself
#
# 1. The attention core is not cut by tokens, although its memory is the largest. Why not, and how
#    is it cut?
#
# <details><summary>Answer</summary>
#
# Each token looks at all tokens before it, so a rank with a piece of the sequence would miss most
# of what it needs. The core is cut by heads, which do not look at each other. That is also why the
# gather comes before the QKV product and not after it.
#
# </details>
#
# 2. Under tensor parallelism alone LayerNorm's gradients must not be summed over the ranks (lesson
#    09). Under sequence parallelism they must. Why the difference?
#
# <details><summary>Answer</summary>
#
# Alone, every rank normalizes all tokens, and the gradient that arrives is complete: a sum would be
# $t$ times too large. With the sequence cut each rank normalizes its own tokens. The gradient is a
# sum over tokens, so each rank has a summand. The package gives LayerNorm the group only in the
# second case.
#
# </details>
#
# 3. A GPT-3 layer has $5as/h = 80$. What does it keep on each of eight GPUs, in units of $sbh$:
#    with tensor parallelism alone, with the sequence cut, with selective recomputation as well?
#
# <details><summary>Answer</summary>
#
# $10 + 24/8 + 80/8 = 23$; $(34 + 80)/8 = 14.25$; $34/8 = 4.25$. The last does not depend on
# $5as/h$, so it is that of MT-NLG.
#
# </details>
#
# 4. A run with dropout stops at $t = 4$ and goes on at $t = 8$, with the same seed. Is the loss
#    curve the one that it would have had?
#
# <details><summary>Answer</summary>
#
# Not to the last digit. The pieces are others, and so are the masks: they are named by the piece.
# It is as good a run, with other random numbers. With dropout 0 the two curves agree to rounding.
#
# </details>
#
# 5. With the sequence cut, full recomputation sends 14 and not 12. Where do the 2 come from, and
#    could one do without them?
#
# <details><summary>Answer</summary>
#
# In backward the layer runs forward again, and gathers its inputs. Its products keep pieces, so a
# moment later, for the gradients of the matrices, the same inputs are gathered once more. One could
# keep the whole inputs in this second forward: then 12 are sent. It costs up to $4\,sbh$, but for
# one layer at a time, and not for all of them.
#
# </details>

# %% [markdown]
# ## Exercises
#
# Complete the gradients of a LayerNorm whose tokens lie on several ranks, and find a bug that shows
# with cut sequences alone. Then write half a layer with the sequence cut: complete gradients everywhere, nothing whole is kept,
# and not a byte more is sent than need be.
