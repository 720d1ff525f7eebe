# ---
# question: Which bytes does a training step hold, and which can be thrown away and made again?
# needs:
#   [training state, layout, rank, causal attention, number format, master weights, micro-batch]
# introduces:
#   saved tensor: A tensor that autograd puts aside in forward because backward will need it.
#   autograd.Function: A forward and a backward by hand, which PyTorch then uses as one operation.
#   activation checkpointing: >-
#     Keeping only the input of a piece of the model and running its forward again when backward
#     needs what was inside; *full* does so for whole layers, *selective* for the attention core.
# proves: "Recomputation changes no gradient, and what autograd keeps is what the formula says."
# minutes: 40
# seconds: 25
# ---

# %% [markdown]
# # Memory
#
# The weights of a model often fit into memory, and training it fails all the same. What does not
# fit is everything that stands beside the weights. Here every byte of a training step gets a name
# and a reason. Then we learn to live with fewer bytes.

# %% [markdown]
# ## Question
#
# Which bytes does a training step hold, and which can be thrown away and made again?
#
# Two kinds are held. The **training state** lives from step to step: weights, gradients, and what
# the optimizer remembers. The **activations** live from forward to backward: they are the results
# that the chain rule asks for later. The first kind depends on the model alone. The second also
# depends on how many tokens go through at once.

# %%
import statistics
import time
import weakref
from functools import partial

import matplotlib.pyplot as plt
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minimtnlg.config import Model, preset
from minimtnlg.course.check import measured, predict
from minimtnlg.course.plots import COLOURS
from minimtnlg.course.rank import MTNLG, my_rank
from minimtnlg.course.show import figure, show
from minimtnlg.data.batches import Batch
from minimtnlg.device import device, synchronize
from minimtnlg.model import GPT, Draw
from minimtnlg.model.layers import dropout, recomputed
from minimtnlg.train.optimizer import Optimizer

MB, GB, TB = 1e6, 1e9, 1e12
bf16 = torch.bfloat16

# %% [markdown]
# One layer serves for most of the lesson. It is tiny. But a ratio that we shall meet, $5as/h$, is
# that of MT-NLG's layers: 64.

# %% tags=["parameters"]
seq: int = 128  # s, tokens
hidden: int = 160  # h
heads: int = 16  # a
micro_batch: int = 2  # b, sequences

# %% [markdown]
# ## Predict
#
# Type your guess in place of `None`, then run the cell.
#
# `nano` is a model of 8 layers with $h = 128$, about two million parameters. 32 sequences of 128
# tokens go through it at once, in bfloat16 (`bf16`). Divide the bytes of its activations by the
# bytes of its whole training state. What comes out?

# %%
predict("activations_over_state", None)

# %% [markdown]
# A layer receives $s \times b \times h$ numbers. The small layer above keeps much more than this
# input until backward. How many times the bytes of the input does it keep?

# %%
predict("layer_keeps_times_its_input", None)

# %% [markdown]
# Now we keep nothing of a layer but its input, and run its forward a second time when backward
# needs the rest. By how many percent do forward and backward together take longer?

# %%
predict("full_recomputation_percent", None)

# %% [markdown]
# Last, we do the same to a layer with dropout, which sets some of its numbers to zero at random. We
# take no special care of the dropout. What do we get?

# %%
predict(
    "dropout_in_the_second_forward",
    None,
    choices=["right gradient", "an error", "wrong gradient and no error"],
)

# %% [markdown]
# ## Trouble
#
# First the state. We let the package take one step with `nano` in bf16. Then we run one more
# backward and look at everything that is alive. The text is random, because the number of bytes
# does not depend on what is read.

# %%
nano = preset("nano")
gpt = GPT(nano.model, dtype=bf16)
optimizer = Optimizer(gpt, nano.optim)


def batch_of(sequences):
    """`sequences` random sequences of nano's length."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(nano.model.vocab, (sequences, nano.model.seq + 1), generator=draw)
    ids = ids.to(device())
    return Batch(ids[:, :-1], ids[:, 1:], torch.ones_like(ids[:, 1:], dtype=torch.float32))


optimizer.zero()
gpt.loss(batch_of(1)).backward()
optimizer.accumulate()
optimizer.step(lr=1e-3)
gpt.loss(batch_of(1)).backward()  # the gradients of the next micro-batch

adam = optimizer.adam.state.values()
state = {
    "weights, bf16": list(gpt.parameters()),
    "weights, fp32 masters": optimizer.masters.masters,
    "gradients of the micro-batch, bf16": [p.grad for p in gpt.parameters()],
    "gradients, fp32 sums": [m.grad for m in optimizer.masters.masters],
    "Adam, mean of the gradients, fp32": [moments["exp_avg"] for moments in adam],
    "Adam, mean of their squares, fp32": [moments["exp_avg_sq"] for moments in adam],
}
state_bytes = {kind: sum(x.nbytes for x in tensors) for kind, tensors in state.items()}
parameters = nano.model.parameters()
for kind, size in state_bytes.items():
    print(f"{kind:36}{size / MB:7.2f} MB {size / parameters:5.0f} bytes a parameter")
total_state = sum(state_bytes.values())
print(f"{'together':36}{total_state / MB:7.2f} MB {total_state / parameters:5.0f}")
assert total_state == 20 * parameters

# %% [markdown]
# These are the **20 bytes a parameter** that MT-NLG's paper counts: 2 + 4 for weights, 2 + 4 for
# gradients, 4 + 4 for Adam [S3, sec. 2.1.1]. Lesson 04 said why each of them is there.
#
# Now the activations. When an operation runs forward, autograd puts aside the tensors that its
# backward will read: the **saved tensors**. PyTorch lets us watch. With `saved_tensors_hooks` it
# calls our function `pack` on each tensor at the moment when it is put aside.
#
# Two rules keep the count honest. Several saved tensors may be views of one piece of memory, a
# *storage*; we count each storage once. And a weight is in memory anyway, so it does not count.

# %%
def saved(call, module):
    """The storages that autograd puts aside during call(), in order, weights of `module` left out.

    Returns [(bytes, shape of the first tensor seen in it)].
    """
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    found = {}  # address -> (storage, shape); holding the storage keeps its address taken

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found.setdefault(storage.data_ptr(), (storage, tuple(tensor.shape)))
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = call()
    del output
    return [(storage.nbytes(), shape) for storage, shape in found.values()]


def saved_bytes(call, module):
    """Bytes that autograd puts aside during call()."""
    return sum(size for size, shape in saved(call, module))


# %% tags=["predict"]
sequences = [1, 4, 16, 32, 64]
kept = [saved_bytes(partial(gpt.loss, batch_of(n)), gpt) for n in sequences]
measured(
    "activations_over_state",
    kept[sequences.index(32)] / total_state,
    unit="times",
    tell="The state stays as it is when more sequences go through; what is kept grows with them.",
)

# %%
crossing = total_state / kept[-1] * sequences[-1]
fig, ax = plt.subplots()
ax.plot(sequences, [k / MB for k in kept], label="kept for backward")
ax.plot(sequences, [total_state / MB] * len(sequences), label="training state")
ax.set(
    xlabel="sequences at once",
    ylabel="MB",
    title=f"nano: from {crossing:.0f} sequences on, activations outweigh the state",
)
ax.legend()
figure(
    fig,
    alt=f"Bytes kept for backward against sequences at once: a straight line from "
    f"{kept[0] / MB:.0f} MB at 1 to {kept[-1] / MB:.0f} MB at {sequences[-1]} sequences. "
    f"The training state is a level line at {total_state / MB:.0f} MB.",
)
gpt, optimizer, state, adam = None, None, None, None  # give the memory back

# %% [markdown]
# The line rises without end. More sequences at once, longer sequences, more layers: each adds to
# what is kept. To keep less, we must know what it is made of.

# %% [markdown]
# ## Idea
#
# ### What backward needs
#
# Not every result is kept. Each operation keeps what its own derivative mentions:
#
# - a sum $x + y$ has derivative 1: nothing;
# - a product $x w$ has derivatives $w$ and $x$: both factors;
# - $\tanh x$ has derivative $1 - \tanh^2 x$: its *output*;
# - softmax, like $\tanh$, keeps its *output*;
# - GeLU and LayerNorm have derivatives that are formulas in $x$: their *input*;
# - dropout multiplies by a random mask of zeros and ones: the mask, one byte a number.
#
# A small case by hand. $x$ has $2 \times 4$ numbers in fp32, so 32 bytes. In
# $y = x + \text{dropout}(\tanh(x w))$ the product keeps $x$ (32 bytes; $w$ is a weight), tanh keeps
# its output (32 bytes), dropout its mask (8 bytes), and the sum nothing:
# $32 + 32 + 8 = 72$ bytes. The product $x w$ itself is gone as soon as tanh has read it.

# %%
linear = torch.nn.Linear(4, 4, bias=False)
x = torch.randn(2, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
mask = torch.tensor([[True, True, False, True], [True, False, True, True]])

by_hand = {"x, for the product": 32, "output of tanh": 32, "mask": 8}
found = saved(lambda: x + torch.tanh(linear(x)) * mask, linear)
for (name, expected), (size, shape) in zip(by_hand.items(), found, strict=True):
    print(f"{name:20}{expected:4} bytes by hand, {size:4} measured, shape {shape}")
    assert size == expected

# %% [markdown]
# ### A layer, term by term
#
# We reason in the same way, operation by operation, about a whole layer in 16 bits [S13, sec. 4.1].
# A tensor of $s \times b \times h$ numbers takes $2sbh$ bytes, its dropout mask $sbh$. The
# attention weights are $a$ matrices of $s \times s$ for each sequence: $as^2b$ numbers, which is
# $sbh \cdot as/h$. So every term is a number times $sbh$.
#
# The attention weights come three times. The softmax keeps its output, dropout keeps its mask, and
# the product with $V$ keeps both factors: the softmax after dropout, and $V$. Three tensors,
# $Q$, $K$ and $V$, are factors of the products inside attention: $6sbh$.
#
# In the picture each bar begins where the one above it ends: it is one stacked bar, unrolled.

# %%
def layer_terms(s, h, a):
    """[(name, bytes in units of sbh, part)] of one layer, in the order of its forward pass."""
    weights = a * s / h  # numbers in the attention weights, in units of sbh
    return [
        ("input of LayerNorm 1", 2, "input of the layer"),
        ("input of the QKV product", 2, "the rest"),
        ("Q, K, V", 6, "the rest"),
        ("softmax", 2 * weights, "attention core"),
        ("mask of its dropout", weights, "attention core"),
        ("softmax after dropout", 2 * weights, "attention core"),
        ("input of the output product", 2, "the rest"),
        ("mask of dropout", 1, "the rest"),
        ("input of LayerNorm 2", 2, "the rest"),
        ("input of the MLP", 2, "the rest"),
        ("input of GeLU, 4h wide", 8, "the rest"),
        ("output of GeLU, 4h wide", 8, "the rest"),
        ("mask of dropout, MLP", 1, "the rest"),
    ]


terms = layer_terms(seq, hidden, heads)
core = 5 * heads * seq / hidden  # 5as/h
assert abs(sum(size for _, size, _ in terms) - (34 + core)) < 1e-9

look = {
    "input of the layer": dict(color="black"),
    "attention core": dict(color=COLOURS["orange"], hatch="//"),
    "the rest": dict(color=COLOURS["blue"]),
}
fig, ax = plt.subplots(figsize=(7, 4.6))
left = 0
for row, (_, size, part) in enumerate(terms):
    ax.barh(row, size, left=left, edgecolor="white", **look[part])
    ax.text(left + size + 0.6, row, f"{size:g}", va="center", fontsize=9)
    left += size
for part, style in look.items():
    ax.barh(0, 0, label=part, **style)
ax.set_yticks(range(len(terms)), [name for name, _, _ in terms])
ax.invert_yaxis()
ax.grid(axis="y", visible=False)
ax.set_xlim(0, left * 1.06)
ax.set(xlabel="bytes, in units of $sbh$", title="A layer keeps 34 + 5as/h; its input is 2 of it")
ax.legend(loc="lower left")
figure(
    fig,
    alt="Thirteen bars, each beginning where the one before ends, in units of sbh: "
    + ", ".join(f"{name} {size:g}" for name, size, _ in terms)
    + f". Together {left:g}, of which the attention core is {core:g}.",
)

# %% [markdown]
# Add them up. The terms without $s \times s$ give 34; the three with it give $5as/h$:
#
# $$\text{bytes kept by a layer} = sbh \left(34 + 5\,\frac{as}{h}\right)$$
#
# With $as/h = 12.8$, as here and in MT-NLG, $5as/h = 64$ and the layer keeps $98\,sbh$: $98/2 = 49$
# times its own input.
#
# ### Throw away and make again
#
# Everything in the picture was computed from the first bar. So keep the first bar alone, and when
# backward arrives at the layer, run its forward again. This is **activation checkpointing**, also
# called recomputation. It trades time for memory, and there are two usual cuts:
#
# - *full*: only the input of each layer stays, $2\,sbh$. The price is one more forward pass of the
#   layer. Forward has half the arithmetic of backward, so this adds a third to both together.
# - *selective*: only the attention core is made again, from Q, K and V, which stay. $34\,sbh$
#   remain. The core is large in memory and small in arithmetic, so it is the cheapest part to throw
#   away [S13, sec. 5].
#
# In the picture, full keeps only the black bar; selective throws away the hatched ones.
#
# With full recomputation backward makes *one* layer again at a time. So a model of $L$ layers holds
# $L$ inputs, and besides them the inside of one layer. At its highest point it holds about
# $sbh\,(2L + 32 + 5as/h)$: the 2 of that layer's input is already among the $2L$.

# %% [markdown]
# ## Code
#
# ### The terms, measured
#
# We keep to the formula's conditions: 16 bits, dropout 0.1 with a mask of one byte, and the
# attention that writes out its $s \times s$ weights (`readable`, lesson 01). The hook delivers the
# storages in the order of the forward pass, so we can set them beside our list. `Draw` names the
# random numbers of the dropout; *You might think* says why.

# %%
def config_of(layers=1, s=seq, h=hidden, a=heads, dropout=0.1, attention="readable"):
    """The configuration of a model on the formula's conditions, unless asked otherwise."""
    return Model(
        layers=layers, hidden=h, heads=a, seq=s, vocab=64, dropout=dropout, attention=attention
    )


def layer(dtype=bf16, **options):
    """(block, x): a layer of our sizes and a random input [s, b, h] for it."""
    block = GPT(config_of(**options), dtype=dtype).blocks[0]
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(seq, micro_batch, hidden, generator=draw)
    return block, x.to(device(), dtype).requires_grad_()


names, not_in_formula = [], "  (not in the formula)"
for name, _, _ in terms:
    if name == "softmax":
        names.append(not_in_formula)  # the causal mask
    names.append(name)
    if "LayerNorm" in name:
        names += [not_in_formula] * 2  # mean and deviation of each row

sbh = seq * micro_batch * hidden
draw = Draw(seed=1, step=0, micro_batch=0)
block, x = layer()
found = saved(lambda: block(x, draw), block)
by_formula = {name: size for name, size, _ in terms}
print(f"{'in units of sbh':30}{'formula':>9}{'measured':>10}  shape")
for name, (size, shape) in zip(names, found, strict=True):
    expected = by_formula.get(name)
    said = "" if expected is None else f"{expected:.2f}"
    print(f"{name:30}{said:>9}{size / sbh:10.2f}  {shape}")
    assert expected is None or abs(size / sbh - expected) < 1e-9

# %% tags=["predict"]
kept = sum(size for size, _ in found)
print(f"formula {34 + core:.2f} sbh, measured {kept / sbh:.2f} sbh")
print(f"measured / formula: {kept / sbh / (34 + core):.3f}")
measured(
    "layer_keeps_times_its_input",
    kept / x.nbytes,
    unit="times",
    tell="That is one layer alone; the next one keeps as much again.",
)

# %% [markdown]
# Every term is right to the byte. The lines without a formula are what it leaves out: the causal
# mask, which does not grow with the batch, and two numbers for each token in each LayerNorm.
#
# Q, K and V appear as one storage, because one product makes all three.
#
# ### A Function by hand
#
# To throw something away and make it again, we must tell autograd what to do in backward. An
# **`autograd.Function`** is the place for that. It has three rules:
#
# - `forward` runs without recording: nothing that is computed inside is put aside.
# - What backward needs goes through `ctx`: tensors by `ctx.save_for_backward`, other things as
#   attributes.
# - `backward` receives the gradient of the output. It returns one gradient for each argument of
#   `forward`, and `None` for arguments that have none.
#
# Dropout is the smallest case with something to throw away: its mask. If the mask comes from a
# seed, it is enough to keep the seed. Backward draws the same mask again.

# %%
class SeededDropout(torch.autograd.Function):
    """Dropout that keeps a seed instead of a mask."""

    @staticmethod
    def forward(ctx, x, p, seed):
        ctx.p, ctx.seed = p, seed
        return x * SeededDropout.mask(x, p, seed) / (1 - p)

    @staticmethod
    def backward(ctx, gradient):
        again = SeededDropout.mask(gradient, ctx.p, ctx.seed)
        return gradient * again / (1 - ctx.p), None, None

    @staticmethod
    def mask(x, p, seed):
        draw = torch.Generator(device=x.device).manual_seed(seed)
        return torch.rand(x.shape, generator=draw, device=x.device) >= p


def plain_dropout(x, p, seed):
    return x * SeededDropout.mask(x, p, seed) / (1 - p)


gradients = {}
for function in (plain_dropout, SeededDropout.apply):
    x.grad = None
    size = saved_bytes(lambda f=function: f(x, 0.1, 7), block)
    function(x, 0.1, 7).sum().backward()
    gradients[function] = x.grad
    name = "by autograd" if function is plain_dropout else "by hand"
    print(f"{name:12} keeps {size / sbh:.0f} sbh")
assert torch.equal(*gradients.values())

# %% [markdown]
# The gradient is the same, bit for bit, and nothing is kept but a seed. What we did to a mask we
# can do to a whole layer.
#
# ### Checkpointing, written with it
#
# `forward` computes the output and keeps the input. `backward` takes the input without its history
# (`detach`) and computes the output again, this time with recording on. Then it calls backward on
# this small piece. That fills the gradients of the weights inside. It also fills the gradient of
# the detached input, and this one we return.

# %%
class Checkpoint(torch.autograd.Function):
    """function(x), keeping x alone. For one tensor in and one tensor out."""

    @staticmethod
    def forward(ctx, function, x):
        ctx.function = function
        ctx.save_for_backward(x)
        return function(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            y = ctx.function(x)
        y.backward(gradient)
        return None, x.grad


block, x = layer()
size = saved_bytes(lambda: Checkpoint.apply(lambda x: block(x, draw), x), block)
print(f"the layer with Checkpoint keeps {size / sbh:g} sbh")

# %% [markdown]
# It keeps the input, and nothing else. The package's version is `recomputed`. It takes any number
# of inputs and uses PyTorch's own checkpointing, which is built on the hooks that we counted with.
# A GPT with `recompute="full"` calls it on each layer (a *block* in code), one with
# `recompute="selective"` on the attention core.

# %%
show(recomputed)

# %% [markdown]
# ## You might think
#
# *The second forward is the same code on the same input, so it gives the same numbers.*
#
# Not if it draws random numbers. Ordinary dropout takes its mask from PyTorch's one global
# generator, and by the second forward this has moved on. We compare a plain call with a
# checkpointed one, in float64. Both begin with the same seed, so their outputs must agree.

# %% tags=["predict"]
def with_global_dropout(x):
    return block(torch.nn.functional.dropout(x, 0.1), None)


def with_named_dropout(x):
    return block(dropout(x, 0.1, draw, 0, "example"), draw)


def gradient_of(function, x):
    """(output, gradient of x) with the global generator seeded first."""
    torch.manual_seed(1)
    x.grad = None
    y = function(x)
    y.square().sum().backward()
    return y.detach(), x.grad


block, x = layer(dtype=torch.float64)
differences = {}
for function in (with_global_dropout, with_named_dropout):
    y, g = gradient_of(function, x)
    y_again, g_again = gradient_of(lambda x, f=function: Checkpoint.apply(f, x), x)
    differences[function] = ((g_again - g).norm() / g.norm()).item()
    print(
        f"{function.__name__:20} largest difference of the output {(y_again - y).abs().max():.0e}, "
        f"relative difference of the gradient {differences[function]:.2g}"
    )
assert differences[with_global_dropout] > 0.1 and differences[with_named_dropout] == 0
measured(
    "dropout_in_the_second_forward",
    "wrong gradient and no error",
    tell="The outputs agree, so even the loss looks right.",
)

# %% [markdown]
# There are two ways out. One is to store the state of the generator before the first forward, and
# to put it back before the second. You will do so in the exercise. The other is to name every draw
# by its purpose: the same name gives the same numbers, whatever was drawn before. The package does
# this with `Draw`, so its second forward needs no special care.

# %% [markdown]
# ## Proof
#
# ### The gradients are the same
#
# We take a model of three layers in float64, with dropout. All its gradients, with each way to
# recompute, are compared with those without. Then we do the same for one layer, with our
# `Checkpoint` as well.

# %%
ids = torch.randint(64, (micro_batch, seq + 1), generator=torch.Generator().manual_seed(2))
ids = ids.to(device())
text = Batch(ids[:, :-1], ids[:, 1:], torch.ones_like(ids[:, 1:], dtype=torch.float64))


def gradients_of_model(recompute):
    gpt = GPT(config_of(layers=3), dtype=torch.float64, recompute=recompute)
    gpt.loss(text, draw).backward()
    return [p.grad for p in gpt.parameters()]


def gradients_of_layer(function):
    block.zero_grad()
    gradient_of(function, x)
    return [x.grad, *(p.grad.clone() for p in block.parameters())]


def largest_difference(these, those):
    return max((a - b).abs().max().item() for a, b in zip(these, those, strict=True))


plain = gradients_of_model("none")
for recompute in ("selective", "full"):
    difference = largest_difference(gradients_of_model(recompute), plain)
    print(f"GPT, recompute={recompute!r:12} largest difference {difference:.1e}")
    assert difference <= 1e-12
plain = gradients_of_layer(lambda x: block(x, draw))
ways = {
    "our Checkpoint": lambda x: Checkpoint.apply(lambda x: block(x, draw), x),
    "the package's recomputed": lambda x: recomputed(block, x, draw),
}
for name, way in ways.items():
    difference = largest_difference(gradients_of_layer(way), plain)
    print(f"one layer, {name:25} largest difference {difference:.1e}")
    assert difference <= 1e-12

# %% [markdown]
# These are the same operations on the same numbers in the same order, so nothing can differ.
#
# ### The formula holds at other sizes
#
# Three sizes, three ways. `full` is exact. The other two lie slightly above the formula, by what we
# saw in the list: the LayerNorms' numbers and, without recomputation, the causal mask.

# %%
def kept_by_layer(s, b, h, a, recompute):
    """Bytes, in units of sbh, that one more layer adds to what a model keeps."""
    tokens = torch.zeros(b, s, dtype=torch.long, device=device())
    totals = []
    for layers in (1, 2):
        gpt = GPT(config_of(layers, s, h, a), dtype=bf16, recompute=recompute)
        totals.append(saved_bytes(partial(gpt, tokens, draw), gpt))
    return (totals[1] - totals[0]) / (s * b * h)


heading = f"{'s':>5}{'b':>4}{'h':>5}{'a':>4}  {'recompute':12}"
print(f"{heading}{'formula':>9}{'measured':>10}{'ratio':>8}")
for s, b, h, a in [(64, 4, 64, 4), (128, 2, 160, 16), (256, 2, 256, 8)]:
    formula = {"none": 34 + 5 * a * s / h, "selective": 34, "full": 2}
    for recompute, expected in formula.items():
        got = kept_by_layer(s, b, h, a, recompute)
        print(
            f"{s:5}{b:4}{h:5}{a:4}  {recompute:12}{expected:9.2f}{got:10.2f}{got / expected:8.3f}"
        )
        assert 1 <= got / expected < 1.015

# %% [markdown]
# ### What other settings change
#
# The formula is made for 16 bits, dropout 0.1 and attention weights in memory. What does the same
# small layer keep under other settings?

# %%
print(f"{'dtype':10}{'dropout':>8}  {'attention':10}{'kept, in units of sbh':>24}")
for dtype in (bf16, torch.float32):
    for p in (0.1, 0.0):
        for attention in ("readable", "sdpa"):
            block, x = layer(dtype=dtype, dropout=p, attention=attention)
            size = saved_bytes(lambda block=block, x=x: block(x, draw), block)
            kind = str(dtype).removeprefix("torch.")
            print(f"{kind:10}{p:8.1f}  {attention:10}{size / sbh:24.2f}")

# %% [markdown]
# - **fp32** doubles all but the masks.
# - **No dropout** saves the masks and the softmax after dropout: $2 + 3as/h$ less.
# - **SDPA** is PyTorch's own attention (lesson 01), a single operation that never stores the $s
#   \times s$ weights. Without dropout it keeps what selective recomputation keeps, less the masks.
#   It *is* selective recomputation, done inside one operation. So the package refuses a
#   configuration with both `selective` and `sdpa`.
# - **SDPA with dropout** has no such operation on a CPU. PyTorch falls back to an attention that
#   keeps more than ours. On a GPU it has one.

# %% [markdown] tags=["deeper"]
# ### Deeper: the count is real memory
#
# The hooks say what autograd asks for. Is this what the machine holds? We build a second instrument
# that knows nothing of autograd. A `TorchDispatchMode` sees every operation. We add up the storages
# as they appear, and take each off when its last reference dies.

# %% tags=["deeper"]
class Meter(TorchDispatchMode):
    """Bytes of the storages that were made inside and are still alive, after every operation."""

    def __init__(self, already_there):
        super().__init__()
        self.alive, self.line = 0, [0]
        self.known = {x.untyped_storage()._cdata for x in already_there}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor) and x.untyped_storage()._cdata not in self.known:
                storage = x.untyped_storage()
                self.known.add(storage._cdata)
                self.alive += storage.nbytes()
                weakref.finalize(storage, self.freed, storage._cdata, storage.nbytes())
        self.line.append(self.alive)
        return result

    def freed(self, name, size):
        self.known.discard(name)
        self.alive -= size


lines, peaks = {}, {}
for recompute in ("none", "selective", "full"):
    gpt = GPT(config_of(layers=6), dtype=bf16, recompute=recompute)
    count = saved_bytes(partial(gpt, text.tokens, draw), gpt)
    with Meter([*gpt.parameters(), text.tokens]) as meter:
        logits = gpt(text.tokens, draw)
        after_forward, forward_ends = meter.alive, len(meter.line)
        logits.backward(torch.ones_like(logits))
    lines[recompute] = ([m / MB for m in meter.line], forward_ends)
    peaks[recompute] = max(meter.line)
    own = logits.nbytes + text.tokens.nbytes  # the output; and the input, which hooks count too
    print(
        f"{recompute:10} hooks {count / MB:6.2f} MB, alive after forward "
        f"{after_forward / MB:6.2f} MB, peak {peaks[recompute] / MB:6.2f} MB"
    )
    assert abs(after_forward - count) <= own

# %% tags=["deeper"]
fig, axes = plt.subplots(3, 1, sharex=True, sharey=True, figsize=(7, 5.5))
for ax, (recompute, (line, forward_ends)) in zip(axes, lines.items(), strict=True):
    ax.fill_between(range(len(line)), line, color=COLOURS["blue"], linewidth=0)
    ax.axvline(forward_ends, color="black", linestyle=":", label="forward ends")
    said = f"recompute: {recompute}, peak {peaks[recompute] / MB:.1f} MB"
    ax.text(0.99, 0.92, said, transform=ax.transAxes, ha="right", va="top")
axes[0].set_title("Recomputation: a lower mountain, a longer way down")
axes[0].legend(loc="center right")
axes[1].set_ylabel("MB alive, weights left out")
axes[2].set_xlabel("operations so far")
figure(
    fig,
    alt="Memory alive against the number of operations for a model of six layers. "
    + "; ".join(
        f"{name}: highest {peaks[name] / MB:.1f} MB, {len(line)} operations"
        for name, (line, _) in lines.items()
    )
    + ". Each line rises during forward and falls during backward; with full recomputation the "
    "way down has a spike for each layer.",
)

# %% [markdown] tags=["deeper"]
# The two instruments agree. The lines rise in forward and fall in backward. What is left at the
# right edge is the gradients of the weights.
#
# With `full` the way down is a saw: each tooth is one layer, made again, used and given back. So
# the peak is not the inputs alone, $2sbhL$. *One* whole layer stands on top of them, as *Idea*
# said, and beside them the gradients of the weights. The narrow spikes are results that live only
# for a moment, such as the random numbers that become a mask.

# %% [markdown]
# ## Cost
#
# The price is time. We take a layer whose times were published, that of a model of 22 billion
# parameters [S13, Table 4]. We divide its $s$, $h$ and $a$ by eight, so that the attention core
# keeps its share of the arithmetic. It runs in float32, since many processors have no fast
# arithmetic in 16 bits. Each time is the median of seven alternating runs.

# %% tags=["predict"]
# milliseconds of forward and backward
published = {"none": (7.7, 11.9), "selective": (7.7, 13.2), "full": (7.7, 19.5)}
eighth = config_of(s=2048 // 8, h=6144 // 8, a=64 // 8)
blocks = {r: GPT(eighth, recompute=r).blocks[0] for r in ("none", "selective")}
calls = {name: partial(block, draw=draw) for name, block in blocks.items()}
calls["full"] = lambda x: recomputed(blocks["none"], x, draw)
x = torch.randn(eighth.seq, 2, eighth.hidden, device=device(), requires_grad=True)
gradient = torch.ones_like(x)


def once(call):
    """(seconds of forward, seconds of backward)."""
    synchronize()
    start = time.perf_counter()
    y = call(x)
    synchronize()
    middle = time.perf_counter()
    y.backward(gradient)
    synchronize()
    return middle - start, time.perf_counter() - middle


runs = {name: [] for name in calls}
for _ in range(8):  # the first is a warm-up
    for name, call in calls.items():
        runs[name].append(once(call))
times = {}
for name, pairs in runs.items():
    times[name] = [statistics.median(each) for each in zip(*pairs[1:], strict=True)]


def overhead(times, name):
    """Percent that forward and backward take longer than without recomputation."""
    return 100 * (sum(times[name]) / sum(times["none"]) - 1)


print(f"{'':12}{'forward ms':>12}{'backward ms':>13}{'longer':>9}{'published':>11}")
for name, (forward, backward) in times.items():
    print(
        f"{name:12}{forward * 1e3:12.1f}{backward * 1e3:13.1f}{overhead(times, name):8.0f} %"
        f"{overhead(published, name):9.0f} %"
    )
assert [round(overhead(published, name)) for name in ("selective", "full")] == [7, 39]
measured(
    "full_recomputation_percent",
    overhead(times, "full"),
    unit="%",
    tell="One more forward pass; without recomputation, forward takes "
    f"{100 * times['none'][0] / sum(times['none']):.0f} % of the layer's time.",
)

# %%
forward_look = dict(color=COLOURS["blue"])
backward_look = dict(color=COLOURS["sky"], hatch="//", edgecolor="white")
fig, ax = plt.subplots(figsize=(7, 3.4))
labels = []
for source, where in ((published, "published"), (times, "measured")):
    for name in ("none", "selective", "full"):
        row, whole = len(labels), sum(source["none"])
        forward, backward = (t / whole for t in source[name])
        ax.barh(row, forward, **forward_look)
        ax.barh(row, backward, left=forward, **backward_look)
        more = f"{overhead(source, name):+.0f} %" if name != "none" else ""
        ax.text(forward + backward + 0.02, row, more, va="center", fontsize=9)
        labels.append(f"{where}, {name}")
ax.set_yticks(range(len(labels)), labels)
ax.invert_yaxis()
ax.grid(axis="y", visible=False)
ax.set_xlim(0, 1.75)
ax.set(
    xlabel="time of one layer, 1 = without recomputation",
    title="Full costs a forward pass, selective much less",
)
ax.legend(ax.containers[:2], ["forward", "backward"])
figure(
    fig,
    alt="Time of forward and backward of one layer, relative to no recomputation. Published: "
    "selective 7 percent longer, full 39. Measured here: "
    f"selective {overhead(times, 'selective'):.0f}, full {overhead(times, 'full'):.0f} percent.",
)

# %% [markdown]
# What does the arithmetic alone predict?

# %%
for name in ("selective", "full"):
    more = eighth.flops(1, name) - eighth.flops(1)
    base = eighth.flops(1) - 6 * eighth.seq * eighth.hidden * eighth.vocab  # without the logits
    print(f"{name:10} {100 * more / base:5.1f} % more arithmetic in the layer")

# %% [markdown]
# The published overheads are above both numbers. A likely reason: dropout, softmax, LayerNorm and
# GeLU move much memory and multiply no matrices. They cost time that this count leaves out, and
# much of it lies in what is made again.
#
# Our times have two causes more: a CPU draws its random masks slowly, and it shares its cores with
# whatever else runs. So look at the order of the bars, not at our last digit.
#
# (The published layer ran on eight GPUs that share every layer. What such sharing changes in these
# figures waits for lessons 09 and 10.)

# %% [markdown] tags=["deeper"]
# ### Deeper: not every layer
#
# Why keep the input of *every* layer? We could keep every $k$-th, and make $k$ layers again at a
# time. Then the inputs take $2L/k$, and the $k$ layers in hand take $k\,(34 + 5as/h)$, all in units
# of $sbh$. (Their own first input is counted twice; it hardly matters.) The sum is smallest at
# $k = \sqrt{2L / (34 + 5as/h)}$. For MT-NLG, $L = 105$:

# %% tags=["deeper"]
mt = preset("mtnlg-530b").model
full_layer = 34 + 5 * mt.heads * mt.seq / mt.hidden
for k in (1, 2, 3, 5, 7):
    print(f"every {k} layers: {2 * mt.layers / k + k * full_layer:6.0f} sbh")
print(f"smallest at k = {(2 * mt.layers / full_layer) ** 0.5:.2f}")

# %% [markdown] tags=["deeper"]
# The best $k$ lies between one and two. The published finding is also that every one or two layers
# is best [S12]. And here all layers were on one device; a GPU of MT-NLG has three of them.

# %% [markdown]
# ## MT-NLG
#
# ### One sequence, all sequences
#
# MT-NLG's batch has 1920 sequences of 2048 tokens, which go through 105 layers of $h = 20\,480$.
# How many bytes are kept if all go through at once? And how many with recomputation, and with
# accumulation (lesson 04: one micro-batch after another)?

# %%
model = preset("mtnlg-530b").model
sh = model.seq * model.hidden  # one sequence: b = 1
ratio = 5 * model.heads * model.seq / model.hidden
everything = 1920 * model.layers * sh * (34 + ratio)
boundaries = 1920 * model.layers * sh * 2
accumulated = boundaries / 1920
state = 20 * model.parameters()
chain = {
    "1920 sequences, everything kept": everything,
    "1920 sequences, layer inputs kept": boundaries,
    "1 sequence at a time, layer inputs": accumulated,
}
for name, size in chain.items():
    print(f"{name:38}{size / TB:10.4f} TB")
print(f"{'training state, 20 bytes a parameter':38}{state / TB:10.4f} TB")
assert round(boundaries / TB, 1) == 16.9 and round(accumulated / GB, 1) == 8.8
assert round(everything / TB) == 829 and round(state / TB, 1) == 10.6

# %%
fig, ax = plt.subplots(figsize=(7, 2.4))
ax.barh(list(chain), [size / GB for size in chain.values()], color=COLOURS["blue"])
ax.axvline(state / GB, color="black", linestyle="--", label=f"training state, {state / TB:.1f} TB")
for row, size in enumerate(chain.values()):
    label = f"{size / TB:.1f} TB" if size > TB else f"{size / GB:.1f} GB"
    ax.text(size / GB * 1.2, row, label, va="center", fontsize=9)
ax.set_xscale("log")
ax.set_xlim(1, 1e7)
ax.invert_yaxis()
ax.grid(axis="y", visible=False)
ax.set(xlabel="GB for the whole model", title="From 829 TB to 8.8 GB in two steps")
ax.legend(loc="lower right")
figure(
    fig,
    alt="Activations of MT-NLG on a logarithmic scale: 829 TB if 1920 sequences go through at once "
    "and everything is kept, 16.9 TB if only layer inputs are kept, 8.8 GB for one sequence at a "
    "time. The training state is a line at 10.6 TB.",
)

# %% [markdown]
# The paper gives the second and the third, which lesson 00 quoted: 16.9 TB for what is kept at the
# boundaries of the layers, and 8.8 GB after accumulation over 1920 micro-batches [S3, sec. 2.1.1].
# Nobody ever held 16.9 TB. A step that needs so much cannot be taken, and that is the reason to
# accumulate. The first number is ours, by the formula of this lesson (derived).
#
# ### What selective recomputation would save
#
# Selective recomputation was published after MT-NLG [S13]. Its authors count what it would save for
# GPT-3 and for MT-NLG:

# %%
print(f"{'':12}{'5as/h':>7}{'saved by selective':>20}{'more arithmetic':>17}")
for name, expected in (("gpt3-175b", (80, 70)), ("mtnlg-530b", (64, 65))):
    m = preset(name).model
    r = 5 * m.heads * m.seq / m.hidden
    saving = 100 * r / (34 + r)
    more = 100 * (m.flops(1, "selective") / m.flops(1) - 1)
    print(f"{name:12}{r:7.0f}{saving:18.0f} %{more:15.1f} %")
    assert (round(r), round(saving)) == expected

# %% [markdown]
# The shares saved are the published ones, 70 % and 65 % [S13, sec. 5]. For the arithmetic the paper
# prints 2.7 % and 1.6 %. Counting only the two products that are really done again gives the
# smaller numbers above (derived).
#
# ### Your rank
#
# A GPU of MT-NLG holds one of 35 stages of 3 layers, cut in eight: a 280th of the model. Lessons 09
# and 11 build these cuts. Your rank from lesson 00:

# %%
place = MTNLG.place(my_rank())
eighth_of_3_layers = 3 * (12 * model.hidden**2 + 13 * model.hidden) / 8
embedding = model.vocab * model.hidden / 8


def state_of_stage(stage):
    """Bytes of training state of one GPU of this stage: an eighth, positions whole."""
    size = eighth_of_3_layers
    if stage == 0:
        size += embedding + sh  # its eighth of the words, and all positions
    if stage == 34:
        size += embedding + 2 * model.hidden  # the output layer uses the words again
    return 20 * size


print(f"rank {my_rank()}: stage {place.pp} of 0..34, slice {place.tp} of 0..7")
print(f"even share of the state  {state / 280 / GB:6.1f} GB")
print(f"of the first stage       {state_of_stage(0) / GB:6.1f} GB")
print(f"of your stage            {state_of_stage(place.pp) / GB:6.1f} GB of 80 GB")
assert (round(state / 280 / GB, 1), round(state_of_stage(0) / GB, 1)) == (37.8, 41.2)

# %% [markdown]
# What remains of the 80 GB is for activations. A micro-batch is one sequence (not confirmed;
# everyone who modelled the run assumes it). What do the three layers keep of it? At the first stage
# 35 micro-batches are under way, or *in flight*, at the same time. Lesson 11 shows why.

# %%
print(f"{'GB':12}{'one layer':>11}{'3 layers':>10}{'35 in flight':>14}{'an eighth of it':>17}")
for name, units in (("none", 34 + ratio), ("selective", 34), ("full", 2)):
    one = sh * units / GB
    print(f"{name:12}{one:11.2f}{3 * one:10.2f}{105 * one:14.1f}{105 * one / 8:17.1f}")
assert round(105 * sh * 2 / GB, 1) == 8.8
assert state_of_stage(0) + 105 * sh * (34 + ratio) / 8 > 80 * GB
assert state_of_stage(0) + 105 * sh * 34 / 8 < 80 * GB

# %% [markdown]
# Without recomputation even a perfect eighth does not fit beside the state of the first stage.
# Selective would fit if every term could be cut in eight. How to cut the inputs of the LayerNorms
# and the dropout masks too is the subject of lesson 10; it was published together with selective
# recomputation. MT-NLG recomputed each layer in full [S3, sec. 2.1.1].
#
# The inputs that are kept come to 8.8 GB on each GPU of the first stage. They are whole and not cut
# in eight, since each of the eight GPUs needs them (derived). These are the 8.8 GB from above
# again, and not by chance: 35 micro-batches times 3 layers keep as much as one sequence in 105
# layers.

# %% [markdown]
# ## Check yourself
#
# 1. You double the length of the sequences and halve their number in a micro-batch. What happens to
#    the bytes that a layer keeps without recomputation, and with selective?
#
# <details><summary>Answer</summary>
#
# $sb$ is unchanged, and so is $34\,sbh$; but $5as/h$ doubles. With selective nothing changes.
# Without recomputation the layer of this lesson keeps $34 + 2 \cdot 64 = 162$ $sbh$ instead
# of 98.
#
# </details>
#
# 2. What is kept of `z = x + torch.relu(x)`, and what of `z = x + 3 * x`?
#
# <details><summary>Answer</summary>
#
# ReLU keeps one tensor, its output: where it is positive, the gradient passes. The second keeps
# nothing: multiplying by a constant has a constant derivative.
#
# </details>
#
# 3. A layer keeps 98, its input is 2, and there are 24 layers. How high is the peak of the
#    activations with full recomputation, in units of $sbh$?
#
# <details><summary>Answer</summary>
#
# The inputs take $24 \cdot 2 = 48$. One layer made again takes $98 - 2 = 96$ more, since the 2 of
# its input are among the 48: together $48 + 96 = 144$. Without recomputation it is
# $24 \cdot 98 = 2352$.
#
# </details>
#
# 4. `Checkpoint.backward` calls `y.backward(gradient)` inside. Why must `x` be detached first?
#
# <details><summary>Answer</summary>
#
# Otherwise the inner backward runs on beyond the layer, into whatever made `x`. Then the outer one
# goes there again, with the gradient that we return. If `x` is a weight or an input, its gradient
# is counted twice. If `x` was computed with saved tensors, these are gone by then, and PyTorch
# raises an error.
#
# </details>
#
# 5. The input of the first layer needs no gradient, because the embedding is frozen, say. The
#    weights of the layer do. What happens with our `Checkpoint`?
#
# <details><summary>Answer</summary>
#
# The output of a Function needs a gradient only if one of its tensor arguments does. `x` does not,
# and the weights are not arguments. So the output is cut off, and the weights never get a gradient.
# The package's `recomputed` works by hooks inside the layer and has no such gap.
#
# </details>

# %% [markdown]
# ## Exercises
#
# Count what a stage holds when it holds most. Find a bug in somebody else's recomputation. Then write
# checkpointing for a real layer: several inputs, several outputs, and dropout that is the same in
# both passes.
