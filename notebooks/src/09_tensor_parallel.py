# ---
# question: How can several GPUs share one layer, and how often must they talk while they do?
# needs:
#   [layout, rank, process group, collective, residual stream, causal attention, training state,
#   micro-batch, saved tensor, autograd.Function, activation checkpointing, ZeRO]
# introduces:
#   column-parallel: "A matrix cut by its outputs, the columns of $A$ in $XA$: each rank has the
#     whole input and makes its own part of the output."
#   row-parallel: "A matrix cut by its inputs, the rows of $A$ in $XA$: each rank has a part of the
#     input and makes one summand of the whole output."
#   f and g: "The two ends of a piece of a layer that is cut: $f$ does nothing in forward and an
#     all-reduce in backward, $g$ the other way round."
# proves: "Both cuts equal the package's, a cut model equals one process, and a forgotten f is
#   noticed."
# minutes: 40
# seconds: 45
# ---

# %% [markdown]
# # Tensor parallelism
#
# So far each rank computed every layer whole, on sequences of its own. ZeRO spread the training
# state over the ranks, but put a layer together again before it was used (lesson 08). Now the
# computation itself is cut. Several ranks work on the same sequence in the same layer, and each
# has a part of every matrix.
#
# What makes it cheap is one decision: which way the first matrix of a pair is cut, and which way
# the second.

# %% [markdown]
# ## Question
#
# A GPU of MT-NLG has 80 GB. How much is *one* of its 105 layers, with the training state that
# belongs to it?

# %%
import contextlib
import time

import matplotlib.pyplot as plt
import torch
import torch.distributed as dist
import torch.nn.functional as F
from matplotlib.patches import Patch, Rectangle
from torch.autograd.graph import saved_tensors_hooks

from minimtnlg import run
from minimtnlg.config import Model, preset
from minimtnlg.course.check import measured, predict
from minimtnlg.course.mutants import mutant
from minimtnlg.course.plots import COLOURS
from minimtnlg.course.rank import MTNLG, my_rank
from minimtnlg.course.show import figure, show
from minimtnlg.data.batches import Batch
from minimtnlg.device import device, synchronize
from minimtnlg.model import GPT, Draw
from minimtnlg.model.layers import recomputed
from minimtnlg.parallel import tensor
from minimtnlg.parallel.collectives import Recorder, wire_bytes
from minimtnlg.parallel.layout import Layout
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.train.verify import configure, equal, verify

mt = preset("mtnlg-530b").model
layer_parameters = 12 * mt.hidden**2 + 13 * mt.hidden
print(f"one layer: {layer_parameters / 1e9:.2f} billion parameters")
print(f"at 20 bytes each: {20 * layer_parameters / 1e9:.1f} GB")
assert 20 * layer_parameters > 80e9

# %% [markdown]
# One layer is already too much. ZeRO could spread this state. But each GPU would still compute whole
# layers, each on a sequence of its own, and a batch of 1920 sequences is too few for 2240 GPUs
# (lesson 08). So we cut the computation.
#
# **How can several GPUs share one layer, and how often must they talk while they do?** A layer is
# a matter of milliseconds. Whoever waits for others in each of them waits all the time.

# %% tags=["parameters"]
ranks: int = 2  # t, how many share a layer; 4, 8 and 16 divide everything below as well
seq: int = 128  # s, tokens
hidden: int = 160  # h
heads: int = 16  # a
micro_batch: int = 2  # b, sequences
vocab: int = 1024  # V

# %% [markdown]
# ## Predict
#
# Type your guess in place of `None`, then run the cell.
#
# 1. A layer has four matrices, two in attention and two in the MLP. Each is cut among $t$ ranks.
#    How many all-reduces do forward and backward of one layer take, together?
# 2. One of the functions that we build does nothing at all in forward. We leave it out. What do we
#    get?
# 3. With $t = 4$ each rank has a quarter of every matrix. How many percent of what a whole layer
#    keeps for backward (lesson 05) does it keep? Sizes as in the cell above, 16 bits, dropout 0.1,
#    attention weights written out.
# 4. The logits are cut too: each rank has those of its part of the vocabulary. How many numbers a
#    token must a rank hand to the others, so that all of them know the loss?
# 5. One stage of MT-NLG is 3 layers, shared by 8 GPUs of one node. For one micro-batch it computes
#    101 ms at the peak rate. Its sums take 9 ms over NVLink, at 300 GB/s. How many ms would they
#    take if the 8 GPUs were in 8 different nodes, with 25 GB/s for each GPU (lesson 06)?

# %%
predict("all_reduces_of_a_layer", None)
predict("without_f", None, choices=["an error", "a wrong loss", "only wrong gradients"])
predict("percent_kept_at_four", None)
predict("numbers_for_the_loss", None)
predict("ms_of_sums_on_eight_nodes", None)

# %% [markdown]
# ## Trouble
#
# Take the MLP of a layer: $Y = \text{GeLU}(XA)\,B$. Two ranks share the first matrix. Here is the
# cut that comes to mind first: rank 0 takes the first half of what comes in, rank 1 the second.
# Then $XA$ is a sum of two products,
#
# $$XA = X_0 A_0 + X_1 A_1,$$
#
# and each rank makes one of them. Each applies GeLU, and at the end they add up.
#
# A rank draws all numbers from the same seed and then takes its part. So we can always compare with
# one process that has everything.

# %%
def normal(*shape, seed=1):
    """Random float64 numbers, the same on every rank."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X = normal(seq, micro_batch, hidden, seed=1)
A = normal(hidden, 4 * hidden, seed=2) / hidden**0.5
B = normal(4 * hidden, hidden, seed=3) / hidden**0.5


def part(whole, dim):
    """This rank's part of a tensor that is cut along one dimension."""
    return whole.chunk(dist.get_world_size(), dim)[dist.get_rank()]


def summed(x):
    """The sum over all ranks, as a new tensor."""
    total = x.clone()
    dist.all_reduce(total)
    return total


def inputs_cut():
    summand = part(X, -1) @ part(A, 0)  # what comes in is cut, and with it the rows of A
    return summed(F.gelu(summand)), F.gelu(summed(summand))


def apart(a, b):
    """The largest difference, relative to the largest number."""
    return ((a - b).abs().max() / b.abs().max()).item()


gelu_then_sum, sum_then_gelu = run(inputs_cut, ranks)[0]
alone = F.gelu(X @ A)
print(f"GeLU, then the sum: {apart(gelu_then_sum, alone):.0e} from one process")
print(f"the sum, then GeLU: {apart(sum_then_gelu, alone):.0e} from one process")
assert apart(gelu_then_sum, alone) > 0.01 and apart(sum_then_gelu, alone) < 1e-12

# %% [markdown]
# No error, and a wrong result. GeLU of a sum is not the sum of GeLUs. So the sum has to come first,
# in the middle of the MLP, where the tensor is $4h$ wide. And after the second matrix there is
# another one.
#
# The result is right that way. But the ranks talk twice, once about the widest tensor of the layer.
# Can they get by with less?

# %% [markdown]
# ## Idea
#
# ### Column, then row
#
# Cut $A$ the other way, by its *outputs*. Each rank has the whole $X$ and some columns of $A$, and
# so it makes some columns of $XA$, complete ones. GeLU works number by number. A rank can apply it
# to its own columns and needs nobody for that. This cut is called **column-parallel**.
#
# For the second matrix each rank then has *some inputs*, and that is just what the cut by inputs
# asks for: the rows of $B$ that belong to these columns. Each rank makes a summand of $Y$. This cut
# is **row-parallel**. There is a single sum, at the end, where the tensor is $h$ wide.
#
# By hand, with two ranks, and with ReLU (negative numbers become 0) in place of GeLU, so that the
# numbers stay round:

# %%
x = torch.tensor([[2, 1]])
a = torch.tensor([[1, -1], [1, 3]])
b = torch.tensor([[1, 2], [4, 5]])
by_columns = [(x @ a[:, [r]]).relu() for r in (0, 1)]  # column-parallel: 3 and 1
summands = [by_columns[r] @ b[[r]] for r in (0, 1)]  # row-parallel
half_products = [x[:, [r]] @ a[[r]] for r in (0, 1)]  # the cut of Trouble
print("column first:", [h.tolist() for h in by_columns], "->", [s.tolist() for s in summands])
print("row first:   ", [h.tolist() for h in half_products])
print("whole:       ", (x @ a).relu().tolist(), "->", ((x @ a).relu() @ b).tolist())
assert sum(summands).tolist() == ((x @ a).relu() @ b).tolist() == [[7, 11]]
assert sum(h.relu() for h in half_products).tolist() == [[3, 3]] != (x @ a).relu().tolist()

# %%
OWNERS = {
    0: (COLOURS["blue"], "white"),
    1: (COLOURS["orange"], "black"),
    None: ("#dddddd", "black"),
}


def draw_matrix(ax, left, centre, rows, owner, name=""):
    """Draw a matrix of numbers; owner(i, j) is the rank that has the number, None for both."""
    top = centre + len(rows) / 2
    for i, row in enumerate(rows):
        for j, number in enumerate(row):
            fill, ink = OWNERS[owner(i, j)]
            ax.add_patch(Rectangle((left + j, top - i - 1), 1, 1, fc=fill, ec="white", lw=1.5))
            ax.text(left + j + 0.5, top - i - 0.5, number, ha="center", va="center", color=ink)
    ax.text(left + len(rows[0]) / 2, centre + 1.35, name, ha="center", fontsize=10)


def both(i, j):
    return None


def of_row(i, j):
    return i


def of_column(i, j):
    return j


def draw_chain(ax, chain, title):
    """Draw matrices and signs from left to right; title above."""
    left = 0.0
    for item in chain:
        if isinstance(item, str):
            room = 1 if len(item) == 1 else 2.2
            weight = "bold" if item == "sum" else "normal"
            ax.text(left + room / 2, 0, item, ha="center", va="center", fontsize=10, weight=weight)
            left += room
        else:
            rows, owner, name = item
            draw_matrix(ax, left, 0, rows, owner, name)
            left += len(rows[0])
    ax.set(xlim=(-0.2, 26.8), ylim=(-1.1, 2), aspect="equal")
    ax.axis("off")
    ax.set_title(title, fontsize=11)


def listed(tensors):
    return torch.cat(tensors).tolist()


hidden_row = (x @ a).relu().tolist()
end = [(b.tolist(), of_row, "B"), "=", (listed(summands), of_row, "summands"), "sum",
       (sum(summands).tolist(), both, "Y")]  # fmt: skip
fig, axes = plt.subplots(2, 1, figsize=(9, 3.2), gridspec_kw={"hspace": 0.1})
draw_chain(
    axes[0],
    [(x.tolist(), both, "X"), "×", (a.tolist(), of_column, "A"), "=",
     ((x @ a).tolist(), of_column, "XA"), "ReLU", (hidden_row, of_column, "H"), "×", *end],
    "Column, then row: one sum",
)  # fmt: skip
draw_chain(
    axes[1],
    [(x.tolist(), of_column, "X"), "×", (a.tolist(), of_row, "A"), "=",
     (listed(half_products), of_row, "summands"), "sum", ((x @ a).tolist(), both, "XA"), "ReLU",
     (hidden_row, of_column, "H"), "×", *end],
    "Row first: a sum before ReLU, and one at the end",
)  # fmt: skip
labels = {0: "rank 0", 1: "rank 1", None: "the same on both"}
patches = [Patch(fc=OWNERS[owner][0], label=name) for owner, name in labels.items()]
fig.legend(handles=patches, loc="lower center", ncols=3, fontsize=10)
figure(
    fig,
    alt="Two chains of small matrices, coloured by the rank that holds them. Column, then row: X = "
    "(2, 1) is on both ranks; rank 0 has the first column of A and makes 3, rank 1 the second and "
    "makes 1; ReLU; with its row of B rank 0 makes (3, 6), rank 1 makes (4, 5); one sum gives "
    "(7, 11). Row first: the ranks make (2, -2) and (1, 3), which must be summed to (3, 1) before "
    "ReLU, and there is a second sum at the end.",
)

# %% [markdown]
# In the upper row follow one colour: nothing crosses over to the other until the sum. In the lower
# row both colours have to meet before ReLU.
#
# There are four ways to cut two matrices. What does a rank send in each of them, forward, if the
# input and the output are to be whole on all ranks? Summands become a whole tensor by an
# all-reduce, columns by an all-gather. If each rank needs only its own columns of a sum, a
# reduce-scatter is enough. The tensor in the middle is $4h$ wide.

# %%
def per_token(operation, width, n):
    """Numbers a token that a rank sends on a ring, in units of h; the tensor is `width` h wide."""
    payload = width / n if operation == "all_gather" else width
    return wire_bytes(operation, payload, n)


ways = [  # A cut by, B cut by, between them, after them
    ("columns", "rows", "nothing", "all_reduce"),
    ("columns", "columns", "all_gather", "all_gather"),
    ("rows", "rows", "reduce_scatter", "all_reduce"),
    ("rows", "columns", "all_reduce", "all_gather"),
]
print(f"{'A by':10}{'B by':10}{'between':16}{'after':14}numbers a token, in units of h")
sent = {}
for first, second, between, after in ways:
    sent[first, second] = per_token(after, 1, ranks)
    sent[first, second] += 0 if between == "nothing" else per_token(between, 4, ranks)
    print(f"{first:10}{second:10}{between:16}{after:14}{sent[first, second]:.2f}")
assert min(sent, key=sent.get) == ("columns", "rows")

# %% [markdown]
# One order fits: what the first matrix leaves is what the second one wants.
#
# ### The way back: f and g
#
# Now backward, with the same numbers. Let the gradient of $Y$ be $(1, 1)$; all ranks have it, as
# all have $Y$. A summand has the gradient of the sum, so nothing needs to be sent here. Rank 0
# takes it through its row of $B$: $1 \cdot 1 + 1 \cdot 2 = 3$. Rank 1 gets $1 \cdot 4 + 1 \cdot 5 =
# 9$. Then through ReLU, which lets positive numbers pass, and through $A$. Rank 0 ends with
# $3 \cdot (1, 1) = (3, 3)$, rank 1 with $9 \cdot (-1, 3) = (-9, 27)$.
#
# Which of them is the gradient of $X$? Neither. $X$ went into both columns, so its gradient is the
# sum, $(-6, 30)$. **What every rank uses, each in its own part of the work, has a gradient that
# must be summed.**

# %%
leaf = x.double().requires_grad_()
((leaf @ a.double()).relu() @ b.double()).sum().backward()
upstream = torch.tensor([[1, 1]])
to_h = [upstream @ b[[r]].T for r in (0, 1)]
to_x = [to_h[r] @ a[:, [r]].T for r in (0, 1)]
print("rank 0:", to_x[0].tolist(), " rank 1:", to_x[1].tolist(), " sum:", sum(to_x).tolist())
assert sum(to_x).tolist() == leaf.grad.tolist() == [[-6, 30]]

# %% [markdown]
# So a piece that is cut has two ends. Megatron's first paper names them [S24]:
#
# - **f**, where $X$ enters: nothing in forward, an all-reduce in backward;
# - **g**, where $Y$ leaves: an all-reduce in forward, nothing in backward.
#
# Each is the other one backwards.
#
# ### A whole layer
#
# Attention is such a pair as well. Its first matrix makes queries, keys and values, its second one
# mixes the results of the heads. Between them each head works by itself. So give each rank some
# *heads*: their columns of the first matrix and their rows of the second.
#
# What stands between two such pairs stays whole, on all ranks: the residual stream, the LayerNorms,
# the dropout of what is added to the stream. A LayerNorm needs the mean over all $h$ numbers of a
# token. Each rank computes it for itself, all get the same.

# %%
def draw_half(ax, start, boxes, title):
    """Half a layer on two ranks: what is whole in grey, what is cut in the colours of the ranks."""
    arrow = dict(arrowstyle="->", lw=1.2)

    def box(left, width, y, text, owner):
        fill, ink = OWNERS[owner]
        ax.add_patch(Rectangle((left, y - 0.36), width, 0.72, fc=fill, ec="black", lw=0.8))
        ax.text(left + width / 2, y, text, ha="center", va="center", fontsize=9, color=ink)

    for rank, y in ((0, 1), (1, 0)):
        ax.annotate("", (17, y), (-0.6, y), arrowprops=arrow, zorder=0)
        box(0, 2.1, y, start, None)
        for left, text in zip((3.9, 6.9, 9.9), boxes, strict=True):
            box(left, 2.6, y, text.format(("0-7", "8-15")[rank]), rank)
        box(14.3, 2.1, y, "dropout, +", None)
        ax.text(-0.8, y, f"rank {rank}", ha="right", va="center", fontsize=9)
    for left, letter, where in ((2.6, "f", "backward"), (13.0, "g", "forward")):
        ax.add_patch(Rectangle((left, -0.5), 0.8, 2.0, fc="white", ec="black", lw=1.8, zorder=2))
        ax.text(left + 0.4, 0.5, letter, ha="center", va="center", fontsize=13, style="italic")
        ax.text(left + 0.4, -0.85, f"all-reduce in {where}", ha="center", fontsize=9)
    ax.set(xlim=(-2, 17.2), ylim=(-1.1, 1.6))
    ax.axis("off")
    ax.set_title(title, fontsize=10)


fig, axes = plt.subplots(2, 1, figsize=(9, 4.6))
fig.suptitle("A layer: two sums forward, two backward", x=0.12, ha="left", fontsize=12)
draw_half(axes[0], "LayerNorm", ("QKV, columns", "heads {}", "out, rows"), "attention (16 heads)")
draw_half(axes[1], "LayerNorm", ("up, columns", "GeLU", "down, rows"), "MLP")
fig.legend(handles=patches, loc="lower center", ncols=3, fontsize=10)
figure(
    fig,
    alt="A layer on two ranks, as two chains. Attention: LayerNorm on both ranks; f; then on each "
    "rank its columns of QKV, its heads (0 to 7 on rank 0, 8 to 15 on rank 1) and its rows of the "
    "output matrix; g; dropout and addition to the stream on both. MLP: the same with up, GeLU and "
    "down. Each f is an all-reduce in backward, each g one in forward.",
)

# %% [markdown]
# Count the letters: two g, so **two all-reduces in forward**; two f, so **two in backward**. Each
# sums a tensor of $s \times b \times h$ numbers. On a ring a rank sends $2(t-1)/t$ of a tensor for
# an all-reduce (lesson 06), so for one layer and one micro-batch
#
# $$4 \cdot 2\,\frac{t-1}{t}\,sbh = 8\,sbh\,\frac{t-1}{t} \text{ numbers [S12]}.$$
#
# With full recomputation the forward pass runs twice, and there are six.
#
# ### The vocabulary
#
# Two large things are left: the embedding at the start, and the logits at the end. Both use one
# matrix of $V$ rows. Cut it by rows: each rank has some *tokens* of the vocabulary.
#
# To look up a token, the rank that has its row takes it, all others take zeros, and g adds up. The
# logits are a column-parallel product: each rank makes the logits of its own tokens.
#
# The loss needs all of them: $-\ln\left(e^{z_y} / \sum_j e^{z_j}\right)$, where $y$ is the token
# that came. Does somebody have to put the logits together? By hand: four tokens with logits
# $\ln 1, \ln 2$ on rank 0 and $\ln 3, \ln 4$ on rank 1, and token 2 came. The sums of the
# exponentials are 3 and 7, together 10. The logit of token 2 is $\ln 3$ on rank 1; rank 0 doesn't
# have it and says 0. So the loss is $\ln 10 - \ln 3$: two numbers from each rank, summed.
#
# A real loss first subtracts the largest logit, so that no exponential overflows. To agree on it
# takes one number more. The gradient of a logit is its probability, less 1 for the token that came.
# Each rank has all it takes to compute that for its own logits.
#
# So two all-reduces are enough: the largest logit first, then both numbers in one call. Megatron
# makes three, one for each number.

# %%
z = torch.tensor([1.0, 2, 3, 4]).log()
exponentials = [mine.exp().sum() for mine in z.chunk(2)]
print("sums of exponentials:", [round(e.item(), 4) for e in exponentials])
loss_by_hand = sum(exponentials).log() - (0 + z[2])
print(f"ln 10 - ln 3 = {loss_by_hand:.4f}; PyTorch: {F.cross_entropy(z, torch.tensor(2)):.4f}")
assert (loss_by_hand - F.cross_entropy(z, torch.tensor(2))).abs() < 1e-6

# %% [markdown]
# ## Code
#
# ### f and g
#
# Four lines each, as `autograd.Function` (lesson 05).

# %%
class EnterCutPart(torch.autograd.Function):
    """f"""

    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, gradient):
        return summed(gradient)


class LeaveCutPart(torch.autograd.Function):
    """g"""

    @staticmethod
    def forward(ctx, x):
        return summed(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


f, g = EnterCutPart.apply, LeaveCutPart.apply

# %% [markdown]
# ### A pair of matrices
#
# Attention and MLP are the same three steps; only what stands in the middle differs. So we write
# them once. First whole, for one process; then cut. The biases join here. That of the first matrix
# is cut like its outputs. That of the second is whole, and it is added after the sum.

# %%
def whole_pair(middle, x, A, a, B, b):
    return middle(x @ A + a) @ B + b


def cut_pair(middle, x, A, a, B, b, f=f, g=g):
    """The same on all ranks together; each hands in its parts of A, a and B, and x and b whole."""
    return g(middle(f(x) @ A + a) @ B) + b


def gelu(y):
    return F.gelu(y, approximate="tanh")


def look_back(y):
    """Causal attention of all heads in y: [s, b, heads * 3 * head size] (lesson 01)."""
    q, k, v = y.unflatten(-1, (-1, 3, hidden // heads)).permute(3, 1, 2, 0, 4)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return mixed.permute(2, 0, 1, 3).flatten(2)


def numbers_of(middle):
    """x, A, a, B, b of the MLP or of attention, whole."""
    inner, outer = (3 * hidden, hidden) if middle is look_back else (4 * hidden, 4 * hidden)
    shapes = [(seq, micro_batch, hidden), (hidden, inner), (inner,), (outer, hidden), (hidden,)]
    return [normal(*shape, seed=i) / hidden**0.5 for i, shape in enumerate(shapes, start=10)]


# %% [markdown]
# Both cuts are a `chunk` along one dimension. That this gives each rank whole heads is owed to the
# order of the columns of QKV: query, key and value of head 0, then those of head 1 (lesson 01). If
# all queries came first, rank 0 would get queries without their keys.
#
# We take any loss that depends on all outputs, run backward, and compare every gradient with that
# of one process.

# %%
CUTS = (None, 1, 0, 0, None)  # the dimension along which x, A, a, B, b are cut


def loss_and_gradients(pair, middle, numbers):
    """[loss, then the gradients of x, A, a, B, b]"""
    numbers = [n.clone().requires_grad_() for n in numbers]
    loss = pair(middle, *numbers).square().sum()
    loss.backward()
    return [loss.detach()] + [n.grad for n in numbers]


def on_a_rank(middle, numbers, f=f):
    mine = [n if dim is None else part(n, dim) for n, dim in zip(numbers, CUTS, strict=True)]
    return loss_and_gradients(lambda *args: cut_pair(*args, f=f), middle, mine)


def compare(results, alone):
    """{name: how far the ranks are from one process}, the cut gradients put together."""
    found = {}
    for i, (name, dim) in enumerate(zip("XAaBb", CUTS, strict=True), start=1):
        parts = [r[i] for r in results]
        wholes = parts if dim is None else [torch.cat(parts, dim)]
        found[f"grad {name}"] = max(apart(whole, alone[i]) for whole in wholes)
    return {"loss": max(apart(r[0], alone[0]) for r in results)} | found


for middle in (gelu, look_back):
    numbers = numbers_of(middle)
    alone = loss_and_gradients(whole_pair, middle, numbers)
    found = compare(run(on_a_rank, ranks, middle, numbers), alone)
    print(f"{middle.__name__:10}", "  ".join(f"{n} {far:.0e}" for n, far in found.items()))
    assert max(found.values()) < 1e-12

# %% [markdown]
# MLP and attention, shared, and equal to one process in every gradient.
#
# ### Without f
#
# In forward f returns what it was given. What if somebody tidies it away?

# %% tags=["predict"]
def nothing(x):
    return x


numbers = numbers_of(gelu)
alone = loss_and_gradients(whole_pair, gelu, numbers)
without = run(on_a_rank, ranks, gelu, numbers, f=nothing)
found = compare(without, alone)
for name, far in found.items():
    print(f"{name:8}{far:8.0e} from one process")
assert found["loss"] < 1e-12 and found["grad X"] > 0.1
assert max(far for name, far in found.items() if name != "grad X") < 1e-12
far = max(apart(r[1], without[0][1]) for r in without[1:])
print(f"\nthe ranks' gradients of X among themselves: up to {far:.1f} apart")
measured(
    "without_f",
    "only wrong gradients",
    tell="One gradient is wrong, that of X, and everything below the MLP is computed from it.",
)

# %% [markdown]
# The loss is right to the last digit, and so are the gradients of the matrices themselves. Wrong is
# only what goes on downwards: to the LayerNorm, to the residual stream, to all layers below. Each
# rank sends down only its own summand.
#
# Would one notice in training? We train the package's GPT on one small batch, with its f and
# without. As in lesson 07, `mutant(name)` switches a known bug on, in the ranks of its block. This
# is the bug:

# %%
ids = torch.randint(vocab, (micro_batch, seq + 1), generator=torch.Generator().manual_seed(5))
text = Batch(ids[:, :-1], ids[:, 1:], torch.ones(micro_batch, seq))


def mesh_of(t):
    """The Mesh of a world of t slices."""
    return Mesh(Layout(tp=t)) if t > 1 else Mesh()


def config_of(layers=1, h=hidden, a=heads, **options):
    return Model(layers=layers, hidden=h, heads=a, seq=seq, vocab=vocab, **options)


def text_here():
    """The batch, on this rank's device."""
    return Batch(*(x.to(device()) for x in (text.tokens, text.labels, text.mask)))


def train():
    """(losses of 31 steps, this rank's copy of the last LayerNorm)"""
    model = GPT(config_of(layers=2), mesh_of(dist.get_world_size()))
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(31):
        adam.zero_grad()
        loss = model.loss(text_here()) / text.mask.sum()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    return losses, model.norm.weight.detach().cpu()


trained = {"with f": run(train, ranks)}
with mutant("f_without_all_reduce") as bug:
    trained["without f"] = run(train, ranks)
print(bug.diff())
steps = "".join(f"{step:8}" for step in range(0, 31, 10))
print(f"{'loss at step':14}{steps}   copies differ by")
for which, results in trained.items():
    losses, norm = results[0]
    differ = max((other - norm).abs().max().item() for _, other in results)
    row = "".join(f"{loss:8.3f}" for loss in losses[::10])
    print(f"{which:14}{row}{differ:18.4f}")
    assert losses[-1] < losses[0] / 2 and (differ == 0) == (which == "with f")
first_losses = [results[0][0][0] for results in trained.values()]
assert abs(first_losses[0] - first_losses[1]) < 1e-4

# %% [markdown]
# The loss begins right and falls, also without f. Who looks at the curve alone sees a run like any
# other. But the ranks change their copies of a LayerNorm in different ways, and what should be the
# same on all of them no longer is. This is why the course compares gradients, and not losses.
#
# ### The loss over a cut vocabulary
#
# You write it in the exercise. Here is what the package's version sends and what it gives. Each
# rank holds $V/t$ of the logits of each token.

# %% tags=["predict"]
tokens = seq * micro_batch
logits = 3 * normal(tokens, vocab, seed=20)
labels = torch.randint(vocab, (tokens,), generator=torch.Generator().manual_seed(21))


def shared_loss():
    mine = part(logits, 1).clone().requires_grad_()
    with Recorder() as seen:
        losses = tensor.cross_entropy(mine, labels, dist.group.WORLD)
        losses.sum().backward()
    return losses.detach(), mine.grad, seen


losses, _, seen = (results := run(shared_loss, ranks))[0]
print(seen.table())
leaf = logits.clone().requires_grad_()
in_one = F.cross_entropy(leaf, labels, reduction="none")
in_one.sum().backward()
far = apart(losses, in_one.detach()), apart(torch.cat([r[1] for r in results], 1), leaf.grad)
print(f"\nlosses {far[0]:.0e}, gradients {far[1]:.0e} from one process")
assert max(far) < 1e-12
on_the_ring = sum(call.wire_bytes for call in seen.calls) / 8 / tokens
to_gather = wire_bytes("all_gather", vocab / ranks, ranks)
print(
    f"sent on a ring, a token: {on_the_ring:.1f} numbers; to gather the logits: {to_gather:.0f}\n"
)
handed_in = sum(call.elements for call in seen.calls) / tokens
measured(
    "numbers_for_the_loss",
    handed_in,
    unit="numbers a token",
    tell="The largest logit; then a sum of exponentials and the label's logit. Not V of them.",
)
assert handed_in == 3

# %% [markdown]
# In backward nothing is sent. And no rank ever held the logits of the whole vocabulary.

# %% [markdown]
# ## You might think
#
# ### "All memory falls by t"
#
# Each rank has a $t$-th of each matrix, so it should need a $t$-th of the memory. For the training
# state this is nearly so: of the $12h^2 + 13h$ parameters of a layer only the LayerNorms and the
# biases of the second matrices are whole on each rank.

# %%
def parameters_of_a_layer(t):
    block = GPT(config_of(), mesh_of(t)).blocks[0]
    return sum(p.numel() for p in block.parameters())


SLICES = (1, 2, 4)
counts = {t: run(parameters_of_a_layer, t, t)[0] for t in SLICES}
for t, count in counts.items():
    print(f"t = {t}: {count:>8,} parameters of a layer, {100 * count / counts[1]:5.1f} %")
    assert count == (12 * hidden**2 + 7 * hidden) / t + 6 * hidden

# %% [markdown]
# Now what a layer keeps for backward. We count the saved tensors of one rank with the hooks of
# lesson 05: 16 bits, dropout 0.1, attention weights written out.

# %%
def bytes_saved(call, module):
    """Bytes of all storages that autograd puts aside in call(), weights left out (lesson 05)."""
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    found = {}

    def pack(x):
        found[x.untyped_storage().data_ptr()] = x
        return x

    with saved_tensors_hooks(pack, lambda x: x):
        output = call()
    del output
    return sum(x.untyped_storage().nbytes() for at, x in found.items() if at not in weights)


def kept(t):
    """What one layer keeps on this rank in units of sbh bytes: all, and with full recomputation."""
    config = config_of(dropout=0.1, attention="readable")
    block = GPT(config, mesh_of(t), dtype=torch.bfloat16).blocks[0]
    x = normal(seq, micro_batch, hidden).to(device(), torch.bfloat16).requires_grad_()
    draw = Draw(seed=1, step=0, micro_batch=0)
    ways = (lambda: block(x, draw)), (lambda: recomputed(block, x, draw))
    return [bytes_saved(way, block) / x.numel() for way in ways]


# %% tags=["predict"]
found = {t: run(kept, t, t)[0] for t in SLICES}
totals, full = ({t: both[i] for t, both in found.items()} for i in (0, 1))
print(f"{'in units of sbh bytes':26}" + "".join(f"{f't = {t}':>8}" for t in SLICES))
print(f"{'kept by one rank':26}" + "".join(f"{totals[t]:8.2f}" for t in SLICES))
print(f"{'if all fell by t':26}" + "".join(f"{totals[1] / t:8.2f}" for t in SLICES))
print(f"{'with full recomputation':26}" + "".join(f"{full[t]:8.2f}" for t in SLICES))
stay = 2 * totals[2] - totals[1]  # x in x + y = totals[1] and x + y / 2 = totals[2]
print(f"\n{stay:.2f} of it stay at every t, {totals[1] - stay:.2f} are divided by t")
assert abs(totals[4] - (stay + (totals[1] - stay) / 4)) < 1e-9 and stay > 10
assert set(full.values()) == {2.0}
measured(
    "percent_kept_at_four",
    100 * totals[4] / totals[1],
    unit="%",
    tell="What is whole on every rank does not fall.",
)

# %% [markdown]
# Nearly all that stays lies outside the cut parts, on the way from g to the next f. (The rest is
# the causal mask and LayerNorm's two numbers a token.) Each rank has all of it, and the more slices,
# the more it weighs.
#
# The line of full recomputation is the sharpest case. **Nothing falls.** The input of the layer is
# all that is kept, and every rank keeps it whole. MT-NLG recomputed in full, so each of its eight
# slices kept the same numbers, unless it partitioned them: Megatron and DeepSpeed both can, and
# whether it did is not published.
#
# Lesson 10 finds out which tensors these are, one by one, and cuts them too.

# %% [markdown]
# ## Proof
#
# ### Our pair and the package's
#
# The package has the two cuts as modules. A matrix is kept as outputs $\times$ inputs there, as
# everywhere in PyTorch: the columns of $A$ are the *rows* of `weight`. The names come from the
# papers, which write $XA$. (PyTorch's own names: `ColwiseParallel`, `RowwiseParallel`, and
# `loss_parallel` for the loss.)

# %%
show(tensor.ColumnParallel)

# %%
show(tensor.RowParallel)

# %% [markdown]
# What belongs to `sequence_parallel` waits for lesson 10. Without it the forward of the second is
# one line: g, and then the bias.

# %%
def by_the_package(middle, numbers):
    x, A, a, B, b = numbers
    group = dist.group.WORLD
    first = tensor.ColumnParallel(*A.shape, group).double()
    second = tensor.RowParallel(*B.shape, group).double()
    with torch.no_grad():
        for module, weight, bias in ((first, part(A, 1), part(a, 0)), (second, part(B, 0), b)):
            module.weight.copy_(weight.T)
            module.bias.copy_(bias)
    x = x.clone().requires_grad_()
    loss = second(middle(first(x))).square().sum()
    loss.backward()
    theirs = [loss.detach(), x.grad, first.weight.grad.T, first.bias.grad, second.weight.grad.T]
    theirs.append(second.bias.grad)
    return [apart(*pair) for pair in zip(theirs, on_a_rank(middle, numbers), strict=True)]


for middle in (gelu, look_back):
    far = max(max(r) for r in run(by_the_package, ranks, middle, numbers_of(middle)))
    print(f"{middle.__name__:10} cells and package differ by {far:.0e}")
    assert far < 1e-12

# %% [markdown]
# ### Any layout, by one command
#
# Embedding, layers and loss together: `verify` (lesson 07) compares a whole model on ranks with one
# process. Here on a `nano` of two layers, first as it is, then with a bug in it. In a terminal it
# is `minimtnlg verify nano parallel.tp=2`.

# %%
nano = configure("nano", ["model.layers=2", "model.seq=32", f"parallel.tp={min(ranks, 8)}"])
bugs = [None, "f_without_all_reduce", "g_summed_backward_too", "row_bias_added_by_every_rank"]
kinds = ("loss", "gradient", "sgd", "adam")
print(f"{'bug':30}" + "".join(f"{kind:>10}" for kind in kinds) + "   gradients right")
for name in bugs:
    with mutant(name) if name else contextlib.nullcontext():
        result = verify(nano)
    differences = "".join(f"{result['max_abs_diff'][kind]:10.0e}" for kind in kinds)
    right = sum(far < 1e-10 for far in result["gradients"].values())
    print(f"{name or 'none':30}{differences}{right:>8} of {len(result['gradients'])}")
    assert equal(result) == (name is None)

# %% [markdown]
# Without f not one gradient of the model is right: the logits are a cut part as well, and
# everything lies below them. That the loss is off too is a matter of the three steps. A wrong
# gradient in the first makes a wrong loss in the second.
#
# The last two bugs are asked about in *Check yourself*.

# %% [markdown] tags=["deeper"]
# ### Deeper: a whole model
#
# `verify` takes the package's layers on both sides. Here the package's GPT on ranks is compared with
# the page of lesson 01, written once more: one process, whole matrices, PyTorch's own loss. The
# page shares no code with the package.
#
# Fresh biases are zero, and many errors do not show on zeros. So we shift every weight a little.

# %% tags=["deeper"]
small = config_of(layers=2)
whole = {
    name: p.detach() + 0.1 * normal(*p.shape, seed=i)
    for i, (name, p) in enumerate(GPT(small, dtype=torch.float64).cpu().named_parameters())
}


def one_page(w):
    """The sum of the losses, by lesson 01's page."""

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = w["embedding.weight"][text.tokens.T] + w["position.weight"][:, None]
    future = torch.ones(seq, seq, dtype=torch.bool).triu(1)
    for layer in range(small.layers):
        block = f"blocks.{layer}"
        y = linear(norm(x, f"{block}.attention_norm"), f"{block}.attention.qkv")
        q, k, v = y.view(seq, micro_batch, heads, 3, -1).permute(3, 1, 2, 0, 4)
        scores = (q @ k.mT / (hidden // heads) ** 0.5).masked_fill(future, -torch.inf)
        mixed = (scores.softmax(-1) @ v).permute(2, 0, 1, 3).reshape(x.shape)
        x = x + linear(mixed, f"{block}.attention.out")
        y = linear(norm(x, f"{block}.mlp_norm"), f"{block}.mlp.up")
        x = x + linear(F.gelu(y, approximate="tanh"), f"{block}.mlp.down")
    logits = norm(x, "norm") @ w["embedding.weight"].T
    return F.cross_entropy(logits.flatten(0, 1), text.labels.T.flatten(), reduction="sum")


def shared_model():
    """(loss, {name: (gradient, the dimension along which it is cut)}) on this rank."""
    mesh = mesh_of(dist.get_world_size())
    model = GPT(small, mesh, dtype=torch.float64)
    cuts = tensor.split_dimensions(model)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(tensor.cut(whole[name], cuts[name], mesh.tp))
    loss = model.loss(text_here())
    loss.backward()
    return loss.detach().cpu(), {n: (p.grad.cpu(), cuts[n]) for n, p in model.named_parameters()}


leaves = {name: p.clone().requires_grad_() for name, p in whole.items()}
in_one = one_page(leaves)
in_one.backward()
results = run(shared_model, ranks)
far = {}
for name, leaf in leaves.items():
    parts, dims = zip(*(gradients[name] for _, gradients in results), strict=True)
    wholes = parts if dims[0] is None else [torch.cat(parts, dims[0])]
    far[name] = max(apart(gradient, leaf.grad) for gradient in wholes)
print(f"loss {max(apart(loss, in_one.detach()) for loss, _ in results):.0e} from one process")
print(f"{len(far)} gradients: at most {max(far.values()):.0e}")
whole_on_all = sorted(name for name, (_, dim) in results[0][1].items() if dim is None)
print(f"{len(whole_on_all)} of them are whole on every rank, for instance {whole_on_all[0]}")
assert max(far.values()) < 1e-11
assert all(apart(loss, in_one.detach()) < 1e-12 for loss, _ in results)

# %% [markdown]
# ## Cost
#
# ### Calls and bytes
#
# Counted on real ranks, beside the formula. We count forward and backward apart, and let backward
# recompute in three ways.

# %% tags=["predict"]
def calls_of_a_layer(recompute):
    """(calls in forward, calls in backward, ring bytes of both)."""
    config = config_of(attention="readable")
    block = GPT(config, mesh_of(dist.get_world_size()), recompute=recompute).blocks[0]
    x = normal(seq, micro_batch, hidden).to(device(), torch.float32).requires_grad_()
    with Recorder() as forward:
        y = recomputed(block, x, None) if recompute == "full" else block(x, None)
    with Recorder() as backward:
        y.sum().backward()
    calls = forward.calls + backward.calls
    assert {(call.operation, call.elements) for call in calls} == {("all_reduce", x.numel())}
    return len(forward.calls), len(backward.calls), sum(call.wire_bytes for call in calls)


k = 4 * seq * micro_batch * hidden  # bytes of one [s, b, h] in fp32
counted = {}
print(f"{'recompute':12}{'forward':>8}{'backward':>9}{'MB sent':>10}{'formula':>10}")
for recompute in ("none", "selective", "full"):
    forward, backward, ring = run(calls_of_a_layer, ranks, recompute)[0]
    counted[recompute] = forward, backward
    formula = (forward + backward) * 2 * (ranks - 1) / ranks * k
    print(f"{recompute:12}{forward:>8}{backward:>9}{ring / 1e6:>10.3f}{formula / 1e6:>10.3f}")
    assert abs(ring - formula) < 1e-6
assert counted == {"none": (2, 2), "selective": (2, 2), "full": (2, 4)}
measured(
    "all_reduces_of_a_layer",
    sum(counted["none"]),
    tell="Two g in forward and two f in backward; full recomputation repeats the two of forward.",
)

# %% [markdown]
# Selective recomputation repeats the attention core, which lies between the two matrices. Nothing
# is sent there.
#
# ### Seconds
#
# Does sharing pay? The arithmetic of a layer grows with $h^2$, its sums with $h$. So the wider, the
# better. We time forward and backward of one layer in fp32 on one rank and on two, and four sums
# alone. Each rank has a core to itself, if nothing else runs; the fastest of seven rounds counts.

# %%
widths = [64, 128, 256, 512, 1024]


def time_layers(t):
    """[(seconds of a layer, seconds of four sums)] for each width."""
    found = []
    for h in widths:
        block = GPT(config_of(h=h, a=8), mesh_of(t)).blocks[0]
        x = normal(seq, micro_batch, h).to(device(), torch.float32).requires_grad_()
        ones, buffer = torch.ones_like(x), torch.zeros_like(x)

        def layer(block=block, x=x, ones=ones):
            block(x, None).backward(ones)

        def four_sums(buffer=buffer):
            for _ in range(4):
                dist.all_reduce(buffer)

        found.append((fastest(layer), fastest(four_sums)))
    return found


def fastest(call):
    seconds = []
    for _ in range(7):
        dist.barrier()
        synchronize()
        start = time.perf_counter()
        call()
        synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


one, two = run(time_layers, 1, 1)[0], run(time_layers, 2, 2)[0]
print(f"{'h':>6}{'one rank, ms':>14}{'two ranks, ms':>15}{'four sums, ms':>15}{'faster by':>11}")
gains = []
for h, (alone_s, _), (shared_s, sums_s) in zip(widths, one, two, strict=True):
    gains.append(alone_s / shared_s)
    row = f"{h:>6}{1e3 * alone_s:>14.2f}{1e3 * shared_s:>15.2f}{1e3 * sums_s:>15.2f}"
    print(f"{row}{gains[-1]:>11.2f}")

# %%
fig, ax = plt.subplots(figsize=(7, 3.4))
ax.plot(widths, gains, label="measured, two ranks")
ax.axhline(2, color="black", ls="--", lw=1.2, marker="", label="twice as fast")
ax.axhline(1, color="black", ls=":", lw=1.2, marker="", label="no gain")
ax.set_xscale("log", base=2)
ax.set_xticks(widths, widths)
ax.set(
    xlabel="width h of the layer",
    ylabel="time on one rank / on two",
    ylim=(0, 1.1 * max(2.1, *gains)),
)
if gains[0] < 1 < gains[-1]:
    finding = "Sharing pays in wide layers, not in narrow ones"
elif max(1, gains[0]) < gains[-1]:
    finding = "Sharing pays more in wide layers than in narrow ones"
else:
    finding = "No gain from width here: was the machine busy?"
ax.set_title(finding)
ax.legend(loc="lower right")
figure(
    fig,
    alt="Time of a layer on one rank over time on two, against its width h: "
    + ", ".join(f"{gain:.2f} at h = {h}" for h, gain in zip(widths, gains, strict=True))
    + ". Lines mark 1, no gain, and 2, twice as fast.",
)

# %% [markdown]
# A point below the dotted line is a layer that got slower by being shared. A point above the dashed
# line is no error: half a matrix may fit into a core's cache where the whole one does not, and then
# two cores are more than twice as fast. And whatever else computes on these cores moves single
# points, widely.
#
# Now as a formula, for the forward pass on a machine that computes $F$ FLOP/s and sends $\beta$
# bytes a second. A layer has $12h^2$ weights in its matrices, and each takes 2 FLOPs for every
# token: $24\,sbh^2$, a $t$-th of them on each rank. The two sums send $4\,sbh\,(t-1)/t$ numbers of
# 2 bytes. Divide the one time by the other:
#
# $$\frac{\text{sums}}{\text{arithmetic}} = \frac{8\,sbh\,(t-1)/t\,/\,\beta}{24\,sbh^2/t\,/\,F} =
# \frac{(t-1)\,F}{3\,h\,\beta}.$$
#
# (The attention core's share of the FLOPs is left out.) Neither $s$ nor $b$ is left in it: larger
# batches do not help. A wide layer does, and a fast link.
# And it *grows* with $t$: each further slice takes away arithmetic and leaves the sums as they are.

# %% [markdown]
# ## MT-NLG
#
# ### Why eight, and why inside a node
#
# One micro-batch of one sequence (not confirmed), 16 bits. A stage has 3 layers. With full
# recomputation [S3, sec. 2.1.1] a layer does the work of four forward passes: two forward, and
# backward, which is two. And it takes six sums. The rates: 312 TFLOP/s at peak [S3, sec. 2.3]; 25
# GB/s a GPU between nodes, from eight adapters of 200 Gb/s [S12, sec. 5]; and 300 GB/s for NVLink
# [S14], which no source about MT-NLG confirms.

# %% tags=["predict"]
PEAK, NVLINK, INFINIBAND = 312e12, 300e9, 25e9
tensor_bytes = mt.seq * 1 * mt.hidden * 2
forward_flops = 24 * mt.seq * mt.hidden**2 + 4 * mt.seq**2 * mt.hidden  # a layer, one sequence
assert tensor_bytes == 80 * 2**20


def arithmetic(t):
    """Seconds that 3 layers on t GPUs compute on one micro-batch, at peak."""
    return 3 * 4 * forward_flops / t / PEAK


def sums(t, rate):
    """Seconds of the 3 * 6 all-reduces, on a ring whose slowest link has this rate."""
    return 3 * 6 * wire_bytes("all_reduce", tensor_bytes, t) / rate


inside, outside = sums(8, NVLINK), sums(8, INFINIBAND)
print(f"arithmetic at peak      {1e3 * arithmetic(8):6.1f} ms")
print(f"sums, in one node       {1e3 * inside:6.1f} ms, {100 * inside / arithmetic(8):.0f} %")
print(f"sums, in eight nodes    {1e3 * outside:6.1f} ms, {100 * outside / arithmetic(8):.0f} %")
longer = 240 * (outside - inside)
print(f"a step of 240 micro-batches would take at least {longer:.0f} s longer than its 60.1 s")
less_ideal = 240 * (outside / 0.9 - inside / 0.65)
print(f"at the shares of the rates that [S14] assumes, {less_ideal:.0f} s longer")
assert [round(1e3 * v) for v in (arithmetic(8), inside, outside)] == [101, 9, 106]
assert (round(longer), round(less_ideal)) == (23, 25)
forward_only = (8 - 1) * PEAK / (3 * mt.hidden * NVLINK)
print(f"by the formula, forward alone: {100 * forward_only:.0f} % in one node")
measured(
    "ms_of_sums_on_eight_nodes",
    1e3 * outside,
    unit="ms",
    tell="More than the arithmetic.",
)

# %% [markdown]
# With 280 nodes a stage sees 240 micro-batches a step, and a step took 60.1 s [S3]. The seconds on
# top are derived: first with rates that are fully reached, then with the shares that [S14] assumes,
# 0.65 for NVLink and 0.9 for InfiniBand.
#
# Could the sums hide behind arithmetic, like those of lesson 07? In forward the very next operation
# needs the result. Without cutting the product into chunks, as newer programs do
# (`tp-comm-overlap` in Megatron), nothing can be hidden there. In backward there is something to do
# meanwhile, though not enough: while the gradient of $X$ is summed, that of $A$ can be computed.
#
# Why not more slices, then, with the links of whole nodes together? When $t$ is a multiple of 8,
# each GPU can first add up inside its node, then exchange an eighth of the tensor with its partners
# in the other nodes, then spread the result. That is the best case, and the third line of the
# picture.

# %%
def two_levels(t):
    """Seconds of the sums if nodes of 8 add up inside first, and an eighth crosses on each link."""
    inside = wire_bytes("all_reduce", tensor_bytes, 8) / NVLINK
    across = wire_bytes("all_reduce", tensor_bytes / 8, t // 8) / INFINIBAND
    return 3 * 6 * (inside + across)


slices = [1, 2, 4, 8, 16, 32, 64, 128]
lines = {
    "arithmetic at peak": (slices, [arithmetic(t) for t in slices]),
    "sums, every GPU in another node": (slices[1:], [sums(t, INFINIBAND) for t in slices[1:]]),
    "sums, whole nodes, at best": (slices[4:], [two_levels(t) for t in slices[4:]]),
    "sums, inside one node": (slices[1:4], [sums(t, NVLINK) for t in slices[1:4]]),
}
fig, ax = plt.subplots(figsize=(7, 4.2))
for name, (where, seconds) in lines.items():
    ax.plot(where, [1e3 * v for v in seconds], label=name)
ax.set_xscale("log", base=2)
ax.set_yscale("log")
ax.set_xticks(slices, slices)
ax.set(xlabel="slices t", ylabel="ms a micro-batch, 3 layers (computed)", ylim=(3, 1500))
ax.set_title("More slices take away arithmetic, but no sums")
ax.legend(fontsize=10)
figure(
    fig,
    alt="Computed time of 3 layers of MT-NLG for one micro-batch against slices t, both axes "
    f"logarithmic. Arithmetic falls from {1e3 * arithmetic(1):.0f} ms at t = 1 to "
    f"{1e3 * arithmetic(8):.0f} at 8 and {1e3 * arithmetic(128):.1f} at 128. Sums inside a node "
    f"rise from {1e3 * sums(2, NVLINK):.0f} to {1e3 * inside:.0f} ms at 8; with every GPU in "
    f"another node they take {1e3 * sums(2, INFINIBAND):.0f} to "
    f"{1e3 * sums(128, INFINIBAND):.0f} ms; with whole nodes at best "
    f"{1e3 * two_levels(16):.0f} ms at 16 and {1e3 * two_levels(64):.0f} at 64.",
)
share = two_levels(16) / arithmetic(16)
print(f"t = 16 on two whole nodes, at best: sums are {100 * share:.0f} % of the arithmetic")
assert two_levels(16) < arithmetic(16) and two_levels(64) > arithmetic(64)
assert 30 < 100 * share < 35  # about a third

# %% [markdown]
# Up to eight the sums are small beside the arithmetic. At sixteen, in the best case, they are a
# third of it. To cut the model further there is a cheaper way: by layers, into stages. A stage
# hands on one tensor of $sbh$ forward and one backward for each micro-batch, where the sums of
# three layers send

# %%
print(f"{18 * wire_bytes('all_reduce', tensor_bytes, 8) / 1e9:.2f} GB; a stage hands on "
      f"{2 * tensor_bytes / 1e9:.2f} GB")  # fmt: skip

# %% [markdown]
# This was also measured: a model of 162 billion parameters on 64 GPUs, with every mix of slices and
# stages, was fastest with 8 slices, the size of a node [S12, Fig. 13]. So MT-NLG has 8 slices,
# each tensor group in one node, and stages between nodes [S3, sec. 2.2].
#
# ### Your rank
#
# Which part of the model does your GPU hold?

# %%
mine, t = my_rank(), MTNLG.tp
place = MTNLG.place(mine)


def range_of(total):
    """This rank's part of `total` things in a row, as text."""
    each = total // t
    return f"{place.tp * each:,} to {(place.tp + 1) * each - 1:,} of {total:,}"


print(f"rank {mine}: slice {place.tp} of stage {place.pp}, replica {place.dp}")
print("its group:      ranks", ", ".join(map(str, MTNLG.group(mine, "tp"))))
print("heads          ", range_of(mt.heads))
print("MLP columns    ", range_of(mt.ffn))
if place.pp in (0, MTNLG.pp - 1):
    print("tokens         ", range_of(mt.vocab))
h = mt.hidden
cut, copied = 3 * (12 * h**2 + 7 * h) / t, 3 * 6 * h
print(f"of 3 layers it holds {cut / 1e9:.2f} billion parameters of its own")
print(f"and {copied / 1e6:.2f} million that its group holds {t} times")
print(f"input of a layer, kept for backward: {tensor_bytes / 1e6:.0f} MB, the same on all {t}")

# %% [markdown]
# Copies of weights are nothing to speak of. Copies of activations are: if they were not partitioned,
# each of the eight GPUs of a group kept the same input of each layer, for every micro-batch that it
# had under way. Lesson 10 cuts these copies.

# %% [markdown]
# ## Check yourself
#
# 1. Somebody adds the bias of the second matrix before g. By how much is the result off, and why
#    does a test with a fresh model not notice?
#
# <details><summary>Answer</summary>
#
# Each rank adds the bias to its summand, so the sum has it $t$ times: $(t - 1)$ times too often.
# Fresh biases are zero, and $t$ times zero is zero: loss and gradients are right. It shows after
# the first step.
#
# </details>
#
# 2. The derivative of a sum over ranks, by the book, sums over ranks as well: each rank's summand
#    went into the result of all. Yet backward of g passes the gradient on as it is. Why?
#
# <details><summary>Answer</summary>
#
# All ranks compute the *same* loss from the same sum. It is one loss, not $t$ of them to be added
# up. A sum in backward would count it $t$ times: the gradients of the pair's matrices would be $t$
# times too large. What goes down from here would be too large as well, and is then added to what
# comes past on the residual stream, which is not. Adam divides by the size of a gradient and so
# hides the first error, but not this wrong mixture.
#
# </details>
#
# 3. A LayerNorm has its $2h$ parameters on every rank. Must their gradients be summed over the
#    tensor group?
#
# <details><summary>Answer</summary>
#
# No. Its output goes through f, so the gradient that arrives is complete and the same on all ranks.
# Each of them computes the same gradient for its copy. A sum would be $t$ times too large. It would
# be needed without f, when each rank sees only a part.
#
# </details>
#
# 4. A model has 12 heads. Which $t$ are possible, and what else must $t$ divide?
#
# <details><summary>Answer</summary>
#
# 1, 2, 3, 4, 6 and 12: a head is not cut. $t$ must also divide the width of the MLP and the number
# of rows of the vocabulary. This is one reason to pad the vocabulary (lesson 03).
#
# </details>
#
# 5. From $t = 4$ to $t = 8$, all inside a node: what becomes of a rank's arithmetic in a layer, of
#    the bytes it sends, and of what it keeps for backward?
#
# <details><summary>Answer</summary>
#
# The arithmetic of the matrices halves. The bytes rise a little, from $2 \cdot 3/4$ to $2 \cdot
# 7/8$ of each tensor. Of what is kept, the cut part halves and the rest stays as it is.
#
# </details>

# %% [markdown]
# ## Exercises
#
# Write f and g, and find the bug of a job that slices its layers. Then write the loss over a cut vocabulary yourself, with its gradient, in two all-reduces.
