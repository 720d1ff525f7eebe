# ---
# question: "How can a step over 1920 sequences be taken one sequence at a time, in numbers of 16
#   bits, and still be the step that was meant?"
# needs: [training state, rank, initial variance, packing]
# introduces:
#   number format: "How bits stand for a number: the exponent's bits set the range, the fraction's
#     bits set the spacing, and every result is rounded to the nearest number that exists."
#   master weights: "The copy of the weights in 32 bits that the optimizer moves, from which the
#     16-bit weights for the next forward and backward are rounded."
#   micro-batch: "The $b$ sequences that go through the model at once; a step adds up the gradients
#     of $m$ of them (accumulation) before it moves the weights."
# proves: "A step taken in pieces equals one over the whole batch, in every cut; rate and batch
#   follow MT-NLG's at each step."
# minutes: 40
# seconds: 50
# ---

# %% [markdown]
# # A training step
#
# Between two versions of the weights lies one step. It is a few lines of code, and MT-NLG took
# about 80 thousand of them.
#
# Each of these lines can be wrong without any error message. The loss still falls, only more slowly
# or to a worse model. So we write the step by hand and look at each decision alone. At the end we
# measure that our step equals the package's, to the last digits.

# %% [markdown]
# ## Question
#
# MT-NLG averages the gradient over 1920 sequences before it moves a weight. They do not go through
# the model together: lesson 00 counted the terabytes that this would take. They go one after
# another. And the numbers on the way have 16 bits, which is two or three decimal digits.
#
# **How can a step be taken in pieces, in such coarse numbers, and still be the step that was
# meant?**

# %%
import json
import math
import time
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Patch

from minimtnlg import config
from minimtnlg.config import Model, Optim, preset
from minimtnlg.course.check import measured, predict
from minimtnlg.course.need import need
from minimtnlg.course.plots import COLOURS
from minimtnlg.course.rank import MTNLG, my_rank
from minimtnlg.course.show import figure, show
from minimtnlg.data.batches import Batch, draw, micro_batches
from minimtnlg.data.corpus import Corpus
from minimtnlg.device import device, synchronize
from minimtnlg.model import GPT
from minimtnlg.train import ramps
from minimtnlg.train.optimizer import Optimizer
from minimtnlg.train.precision import LossScale, Masters
from minimtnlg.train.step import step

bf16, fp16, fp32, fp64 = torch.bfloat16, torch.float16, torch.float32, torch.float64

# %% tags=["parameters"]
updates: int = 1000  # small updates of one weight, in Trouble
training_steps: int = 120  # steps of each small training, in You might think

# %% [markdown]
# ## Predict
#
# Type your guess in place of `None`, then run the cell.
#
# 1. A weight is 1.0 and held in bfloat16, a format of 16 bits. A thousand times, 0.001 is
#    subtracted from it. What is it in the end?
# 2. Eight sequences go through the model two at a time, and the four gradients are added up the
#    right way. Compared with the gradient of all eight at once, the result is ... ?
# 3. MT-NLG read the first 12 of its 270 billion tokens, 4.4 %, with a batch that grew from 32
#    sequences to the full 1920. What percentage of its steps was that?
# 4. The **learning rate** sets how far a step moves the weights. MT-NLG's was to fall slowly, to
#    10 % of its peak after 340 billion tokens. The run ended at 270 billion. At what percentage of
#    the peak was the rate then?

# %%
predict("weight_after_a_thousand_steps", None)
predict("gradient_of_micro_batches", None, choices=["the same", "noisier", "smaller"])
predict("ramp_share_of_steps", None)
predict("last_rate_of_mtnlg", None)

# %% [markdown]
# ## Trouble
#
# The smallest training there is: one weight, one constant update, three formats.

# %% tags=["predict"]
path = {}
for name, dtype in (("float32", fp32), ("float16", fp16), ("bfloat16", bf16)):
    weight, path[name] = torch.tensor(1.0, dtype=dtype), []
    for _ in range(updates):
        weight = weight - 0.001
        path[name].append(weight.item())
    print(f"{name:<9} after {updates} updates: {weight.item():.4f}")
measured(
    "weight_after_a_thousand_steps",
    path["bfloat16"][-1],
    tell="Not one update arrived. No error was raised.",
)

# %%
fig, ax = plt.subplots(figsize=(7, 3.2))
for name, values in path.items():
    ax.plot(range(1, updates + 1), values, label=name, markevery=max(1, updates // 8))
ax.set(xlabel="updates", ylabel="weight", title="In bfloat16 the weight never moves")
ax.legend()
figure(
    fig,
    alt=f"One weight against updates. In float32 it falls from 1 to {path['float32'][-1]:.3f}; in "
    f"float16 to {path['float16'][-1]:.3f}; in bfloat16 it stays at {path['bfloat16'][-1]:.0f}.",
)

# %% [markdown]
# float16, the other format of 16 bits, moves but ends in the wrong place. bfloat16, the format in
# which MT-NLG was trained [S3], does not move at all. And yet MT-NLG learned.

# %% [markdown]
# ## Idea
#
# ### What 16 bits can say
#
# A floating-point number is a sign, an exponent $E$ and a fraction $F$:
#
# $$x = \pm\, 2^{E} \left(1 + \frac{F}{2^{f}}\right), \qquad F = 0, 1, \dots, 2^{f} - 1.$$
#
# $f$ is the number of bits of the fraction. This is how one writes $6.02 \cdot 10^{23}$, but with
# powers of two. The exponent says how large the number is; the fraction gives its digits.

# %%
FORMATS = {  # bits of exponent and fraction; the sign takes one more
    "float64": (fp64, 11, 52),
    "float32": (fp32, 8, 23),
    "float16": (fp16, 5, 10),
    "bfloat16": (bf16, 8, 7),
}
INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # the same bits, read as an integer

fig, ax = plt.subplots(figsize=(8, 2.6))
for y, (_, exponent, fraction) in enumerate(FORMATS.values()):
    for left, width, colour, ink in (
        (0, 1, COLOURS["black"], "black"),
        (1, exponent, COLOURS["blue"], "white"),
        (1 + exponent, fraction, COLOURS["sky"], "black"),
    ):
        ax.barh(y, width, left=left, color=colour, edgecolor="white", height=0.6)
        if width > 1:
            ax.text(left + width / 2, y, width, ha="center", va="center", fontsize=10, color=ink)
ax.set(yticks=range(4), yticklabels=FORMATS, xlabel="bits", xlim=(0, 65))
ax.set_title("bfloat16 keeps the range of float32 and gives up digits")
names = {"black": "sign", "blue": "exponent: range", "sky": "fraction: spacing"}
ax.legend(handles=[Patch(color=COLOURS[c], label=n) for c, n in names.items()], loc="center right")
ax.invert_yaxis()
ax.grid(False)
figure(
    fig,
    alt="Bits of four formats. float64: sign 1, exponent 11, fraction 52. float32: 1, 8, 23. "
    "float16: 1, 5, 10. bfloat16: 1, 8, 7, that is the first half of a float32.",
)

# %% [markdown]
# By hand: $5 = 2^2 \cdot 1.25$, and $1.25 = 1 + 32/128$. So in bfloat16, where $f = 7$, the
# exponent is 2 and $F = 32$, in binary `0100000`. The exponent is stored with 127 added,
# $2 + 127 = 129$, in binary `10000001`. The machine agrees:

# %%
def bits(x):
    """The bits of a tensor of one number, sign, exponent and fraction apart."""
    _, exponent, fraction = next(v for v in FORMATS.values() if v[0] == x.dtype)
    pattern = x.view(INTEGER[x.element_size()]).item() & (2 ** (8 * x.element_size()) - 1)
    text = f"{pattern:0{8 * x.element_size()}b}"
    return f"{text[0]} {text[1:1 + exponent]} {text[1 + exponent:]}"


def next_above(x):
    """The next number of the same format: one added to the bits, read as an integer."""
    return (x.view(INTEGER[x.element_size()]) + 1).view(x.dtype)


five = torch.tensor(5.0, dtype=bf16)
print("5 in bfloat16:    ", bits(five))
print("the next number:  ", bits(next_above(five)), "=", next_above(five).item())
assert bits(five) == "0 10000001 0100000" and next_above(five) == 5.03125

# %% [markdown]
# Between 5 and 5.03125 there is nothing. From the formula: with the exponent $E$ of $x$,
#
# $$\text{spacing}(x) = 2^{E - f}.$$
#
# An update smaller than half the spacing is rounded away. Just below 1 the exponent is $-1$, and
# the spacing of bfloat16 is $2^{-8} \approx 0.0039$. Half of that is more than 0.001, so our weight
# never moved.

# %%
def spacing(x, fraction):
    """Distance from x > 0 to the next number above."""
    return 2.0 ** (math.floor(math.log2(x)) - fraction)


print(f"{'':<10}{'largest':>10}{'smallest normal':>17}{'spacing at 1':>15}{'digits':>8}")
for name, (dtype, _, f) in FORMATS.items():
    info = torch.finfo(dtype)
    digits = (f + 1) * math.log10(2)
    print(f"{name:<10}{info.max:>10.2g}{info.tiny:>17.2g}{spacing(1.0, f):>15.2g}{digits:>8.1f}")
    for x in (0.004, 0.75, 1.0, 300.0):  # the formula against the bits
        x = torch.tensor(x, dtype=dtype)
        assert next_above(x).double() - x.double() == spacing(x.item(), f)
assert torch.tensor(0.997).to(bf16) == 0.99609375 and torch.tensor(1.003).to(bf16) == 1

# %%
fig, ax = plt.subplots()
for name, (dtype, _, f) in FORMATS.items():
    info = torch.finfo(dtype)
    x = np.geomspace(max(info.tiny, 1e-12), min(info.max, 1e9), 200)
    ax.plot(x, [spacing(v, f) for v in x], label=name, markevery=40)
smallest, largest = torch.finfo(fp16).tiny, torch.finfo(fp16).max
ax.axvspan(smallest, largest, color=COLOURS["green"], alpha=0.12, lw=0, label="range of float16")
ax.set(xscale="log", yscale="log", xlabel="size of the number", ylabel="spacing there")
ax.set_title("float16 is finer than bfloat16, and ends where bfloat16 goes on")
ax.legend(fontsize=9)
figure(
    fig,
    alt="Spacing against the size of a number, both logarithmic: four parallel staircases. At 1: "
    + ", ".join(f"{name} {spacing(1.0, f):.1g}" for name, (_, _, f) in FORMATS.items())
    + f". float16 ends at {largest:.0f} and below {smallest:.0e} loses digits; the others go on to "
    "both sides.",
)

# %% [markdown]
# The price of 16 bits can be paid in two ways. float16 has finer steps in a narrow range. bfloat16
# has the whole range of float32 with coarse steps. Training needs the range more, because gradients
# are spread over many powers of ten. (The first deeper part shows them.)
#
# ### A sum depends on its order
#
# Rounding after each addition has a second effect. By hand, in bfloat16: above 256 the spacing is
# 2, so $256 + 1$ is rounded back to 256.

# %%
a, b = torch.tensor(256.0, dtype=bf16), torch.tensor(1.0, dtype=bf16)
print("(256 + 1) + 1 =", ((a + b) + b).item())
print("256 + (1 + 1) =", (a + (b + b)).item())
assert (a + b) + b == 256 and a + (b + b) == 258

# %% [markdown]
# Now we add a thousand random numbers between 0 and 1, one after another, in 200 different orders.
# Between which values do the 200 sums lie?

# %%
numbers = torch.rand(1000, generator=torch.Generator().manual_seed(1), dtype=fp64)
shuffles = np.random.default_rng(1).permuted(np.tile(np.arange(1000), (200, 1)), axis=1)
for name, (dtype, _, _) in FORMATS.items():
    orders = numbers.to(dtype)[torch.from_numpy(shuffles)]
    total = torch.zeros(200, dtype=dtype)
    for column in orders.T:
        total = total + column
    low, high = total.min().double(), total.max().double()
    print(f"{name:<9} {low:.14g} to {high:.14g}, apart by {(high - low) / high:.0e} of the sum")
assert (total == 256).all()  # the last one, bfloat16

# %% [markdown]
# In bfloat16 all orders agree, and all give only half of the true sum: from 256 on, adding a number
# below 1 changes nothing. Agreement is no proof.
#
# In the other formats the orders disagree, and none of them is *the* right one. A step that is cut
# into pieces adds in a different order. So in float32 it differs in the last digits from a step
# that is not cut, and a step with a small mistake may differ just as little. In float64 the noise
# of the order is so small that a mistake stands out. **That is why every proof of equality in this
# course runs in float64.**
#
# ### A finer copy to remember with
#
# Our first trouble has a simple cure. Calculate in 16 bits, but keep a copy of the weights in 32:
# the **master weights**. The optimizer moves the copy, where a small update arrives. After each
# step the copy is rounded into the 16-bit weights. Updates that are too small one by one add up in
# the copy, until the rounded weight moves too.

# %%
master = torch.tensor(1.0, dtype=fp32)
seen = []
for _ in range(updates):
    master -= 0.001
    seen.append(master.to(bf16).item())
print("what forward sees after 1, 2, 3, ... updates:", seen[:9])
print(f"after {updates}: master {master.item():.6f}, distance {abs(master.item()):.0e} from 0")
assert seen[0] == 1.0 and abs(master) < 1e-4

# %% [markdown]
# The gradient has the same problem, because a step adds up many small ones. So it is summed in 32
# bits as well. Megatron insists on this for bfloat16 [S10].
#
# ### A batch in pieces
#
# Now the second half of the question. The loss of a step is the mean over all its tokens that
# count. Not every token does: padding is **masked** out, and so is text that the model should read
# but not learn to predict. Here is a batch of eight sequences, cut into four **micro-batches** of
# $b = 2$.

# %%
LENGTHS = [64, 64, 5, 40, 64, 2, 0, 0]  # unmasked tokens of each sequence
s, b = 64, 2
mask = (torch.arange(s) < torch.tensor(LENGTHS)[:, None]).float()
N = [int(n) for n in mask.view(-1, b, s).sum(dim=(1, 2))]  # tokens of each micro-batch

fig, ax = plt.subplots(figsize=(8, 3))
ax.imshow(1 - mask, cmap="gray", vmin=-0.3, vmax=1.2, aspect="auto", interpolation="nearest")
for k, n in enumerate(N):
    ax.axhline(b * k - 0.5, color="black", lw=1.5, ls="-", marker="")
    ax.text(s + 0.5, b * k + 0.5, f"k = {k}:  {n} tokens", va="center")
ax.axhline(7.5, color="black", lw=1.5, ls="-", marker="")
ax.set(xlabel="position", ylabel="sequence", yticks=range(8))
ax.set_title("Four micro-batches with very different numbers of tokens (dark: counts)")
ax.grid(False)
figure(
    fig,
    alt=f"Eight sequences of 64 positions, two to a micro-batch. Unmasked tokens: {N}. The last "
    "micro-batch has none at all.",
)

# %% [markdown]
# By hand, with smaller numbers. Micro-batch 0 has one token, with loss 6. Micro-batch 1 has three,
# each with loss 2.
#
# - The mean over tokens is $(6 + 2 + 2 + 2) / 4 = 3$.
# - The means of the micro-batches are 6 and 2, and *their* mean is 4.
#
# In the second, the lonely token counts three times as much as each of the others. The first is
# what was meant. With $N_k$ unmasked tokens in micro-batch $k$ and the losses $\ell_i$ of single
# tokens:
#
# $$\text{loss} = \frac{1}{N} \sum_{k=0}^{m-1} \sum_{i \in k} \ell_i,
# \qquad N = \sum_{k=0}^{m-1} N_k .$$
#
# The gradient of a sum is the sum of the gradients. So first count $N$, over *all* micro-batches.
# Then let each add the gradient of its summed loss, divided by $N$. This is **accumulation**.
#
# ### What happens to the gradient
#
# Three more decisions follow, with one formula each. $g$ is the gradient of all parameters, taken
# as one long vector. MT-NLG's values are in brackets [S3].
#
# **Clipping**: if $g$ is longer than $c$ (1.0), it is shortened to $c$. Its direction stays.
#
# $$g \leftarrow g \cdot \min\left(1, \frac{c}{\lVert g \rVert}\right)$$
#
# **Adam**: each weight moves by the running average of its gradient, divided by the root of the
# running average of the gradient's square ($\beta_1 = 0.9$, $\beta_2 = 0.95$, $\epsilon =
# 10^{-8}$). How far depends on the learning rate $\eta$.
#
# $$m \leftarrow \beta_1 m + (1 - \beta_1)\, g, \quad v \leftarrow \beta_2 v + (1 - \beta_2)\, g^2,
# \quad w \leftarrow w - \eta\, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}$$
#
# Both averages start at 0, which makes them too small at first; the divisors $1 - \beta^t$ make up
# for that in step $t$. ($m$, $v$ and $t$ are Adam's usual letters. Everywhere else in the course
# $m$ counts micro-batches and $t$ slices.)
#
# By hand, first step ($t = 1$): $m / (1 - \beta_1) = g$ and $v / (1 - \beta_2) = g^2$, so the
# weight moves by $\eta \cdot g / |g|$. That is the rate, whatever the size of the gradient.
#
# **Weight decay**: just before that, matrices shrink by $w \leftarrow w - \eta \lambda w$
# ($\lambda = 0.1$). Biases and LayerNorms do not.
#
# Two numbers remain, and they change during the run: the rate $\eta$ and the batch $B$. Both start
# small.

# %% [markdown]
# ## Code
#
# The model is a small one in float64, and the text is real. The mask is that of the picture.

# %%
corpus = Corpus(need("corpus"))
small = Model(layers=2, hidden=64, heads=4, seq=s, vocab=corpus.padded)
text = draw(corpus, "train", samples=8 * training_steps, seq=s)


def rows(cut, mask=mask):
    """The first eight sequences as micro-batches of `cut` sequences, with the mask above."""
    return [
        Batch(one.tokens.to(device()), one.labels.to(device()), part.to(device()))
        for one, part in zip(micro_batches(text, 0, 8, cut), mask.split(cut), strict=True)
    ]


print(f"{small.parameters():,} parameters, {sum(N)} tokens that count, micro-batches {N}")

# %% [markdown]
# **Accumulate.** `model.loss` returns the *sum* of the losses of the unmasked tokens. `backward`
# adds to the gradients that are already there.

# %%
def accumulate(model, batches):
    """(loss, gradients) of the mean over all unmasked tokens, one micro-batch after the other."""
    tokens = sum(batch.mask.sum() for batch in batches)
    model.zero_grad()
    loss = 0.0
    for batch in batches:
        share = model.loss(batch) / tokens
        share.backward()
        loss += share.item()
    return loss, [p.grad for p in model.parameters()]


model = GPT(small, dtype=fp64)
loss, gradients = accumulate(model, rows(2))
print(f"loss {loss:.4f}; lesson 01 expects ln V + 1/6 = {math.log(small.vocab) + 1 / 6:.4f}")

# %% [markdown]
# **Clip.** The norm is taken over all gradients together. The tiny number avoids a division by zero
# when the gradient is zero, as in Megatron.

# %%
def clip(gradients, limit):
    """Shorten all gradients in place to a common norm of at most `limit`; return the norm."""
    norm = math.sqrt(sum((g**2).sum().item() for g in gradients))
    for g in gradients:
        g *= min(1.0, limit / (norm + 1e-6))
    return norm


before = clip(gradients, 1.0)
print(f"norm {before:.3f}, after clipping {clip(gradients, math.inf):.3f}")

# %% [markdown]
# **Adam.** Two running averages for each weight, and a counter.

# %%
class Adam:
    """Adam with weight decay on matrices, as in the formulas."""

    def __init__(self, weights, beta1=0.9, beta2=0.95, eps=1e-8, decay=0.1):
        self.weights, self.t = list(weights), 0
        self.beta1, self.beta2, self.eps, self.decay = beta1, beta2, eps, decay
        self.m = [torch.zeros_like(w) for w in self.weights]
        self.v = [torch.zeros_like(w) for w in self.weights]

    @torch.no_grad()
    def move(self, gradients, rate):
        self.t += 1
        for w, m, v, g in zip(self.weights, self.m, self.v, gradients, strict=True):
            m += (1 - self.beta1) * (g - m)
            v += (1 - self.beta2) * (g**2 - v)
            if w.dim() == 2:
                w -= rate * self.decay * w
            m_now, v_now = m / (1 - self.beta1**self.t), v / (1 - self.beta2**self.t)
            w -= rate * m_now / (v_now.sqrt() + self.eps)


x = torch.tensor([1.0, 1.0, 1.0], dtype=fp64)
Adam([x]).move([torch.tensor([1e-3, 1.0, -1e3], dtype=fp64)], rate=0.01)
print("after one step with gradients 0.001, 1 and -1000:", x.tolist())
assert torch.allclose(x, torch.tensor([0.99, 0.99, 1.01], dtype=fp64), atol=1e-6)

# %% [markdown]
# The gradients differ by a factor of a million, the steps by next to nothing. Adam's step has the
# size of the rate, so it is the rate that must be chosen with care.
#
# **The rate** climbs on a straight line while Adam's averages are still young; this is the
# *warm-up*. Then it falls on half a cosine. It depends on the tokens read, not on the steps. **The
# batch** grows in equal increments, and each of them lasts for the same number of sequences. This
# is the *ramp*.

# %%
def rate_after(tokens, peak, floor, warmup, decay):
    """Learning rate after so many tokens."""
    if tokens < warmup:
        return peak * tokens / warmup
    way = min(1.0, (tokens - warmup) / (decay - warmup))
    return floor + (peak - floor) * (1 + math.cos(math.pi * way)) / 2


def batch_after(sequences, start, increment, full, ramp):
    """Global batch of the step that begins after so many sequences; the ramp lasts `ramp`."""
    each = ramp / ((full - start) / increment)  # sequences for one increment
    return min(full, start + increment * int(sequences / each))


print("rate: ", [rate_after(t, 5e-5, 5e-6, 1e9, 340e9) for t in (0, 5e8, 1e9, 340e9)])
print("batch:", [batch_after(n, 32, 32, 1920, 12e9 / 2048) for n in (0, 99_311, 99_312, 6e6)])

# %% [markdown]
# That is all we need. The step:

# %%
def our_step(model, adam, batches, rate):
    """Accumulate, clip, move; returns (loss, norm before clipping)."""
    loss, gradients = accumulate(model, batches)
    norm = clip(gradients, 1.0)
    adam.move(gradients, rate)
    return loss, norm


model = GPT(small, dtype=fp64)
adam = Adam(model.parameters())
for _ in range(4):
    print("loss {:.4f}, norm {:.2f}".format(*our_step(model, adam, rows(2), rate=1e-3)))

# %% [markdown]
# ## You might think
#
# ### "A smaller batch at a time gives a noisier gradient"
#
# It would, if the weights moved after each piece. They do not. We take the gradient of the eight
# sequences at once and in micro-batches of 4, 2 and 1.

# %% tags=["predict"]
def distance(a, b):
    """Largest difference of two lists of tensors, relative to the largest entry of the second."""
    largest = max(y.abs().max() for y in b)
    far = max((x - y.to(x.device)).abs().max() for x, y in zip(a, b, strict=True))
    return far.item() / largest.item()


model = GPT(small, dtype=fp64)
_, whole = accumulate(model, rows(8))
apart = {cut: distance(accumulate(model, rows(cut))[1], whole) for cut in (4, 2, 1)}
for cut, far in apart.items():
    print(f"micro-batches of {cut}: gradients differ by {far:.0e} of the largest")
measured(
    "gradient_of_micro_batches",
    "the same" if max(apart.values()) < 1e-12 else "noisier",
    tell="Up to the last digits of float64, which come from the order of the sum.",
)

# %% [markdown]
# ### "Then average the losses of the micro-batches"
#
# This is the usual way to write accumulation: take the mean loss of each micro-batch, divide by
# their number $m$. Run it on two masks: ours, and one where every token counts.

# %%
def mean_of_means(model, batches):
    """The usual code: the mean loss of each micro-batch, divided by their number."""
    model.zero_grad()
    for batch in batches:
        mean = model.loss(batch) / batch.mask.sum().clamp(min=1)
        (mean / len(batches)).backward()
    return [p.grad for p in model.parameters()]


for name, some_mask in (("every token counts", torch.ones(8, s)), ("uneven masks", mask)):
    _, right = accumulate(model, rows(8, some_mask))
    wrong = mean_of_means(model, rows(2, some_mask))
    print(f"{name:<20} gradients differ by {distance(wrong, right):.0e} of the largest")
assert distance(wrong, right) > 0.1

# %% [markdown]
# Where every token counts, both are right, and packed text is of that kind (lesson 03). So the
# mistake can stay hidden for a long time. It begins to matter with the first padded document. Even
# then nothing crashes, and the loss goes on falling.
#
# ### "bfloat16 is good enough for gradients, so it is for weights"
#
# A gradient is used once. A weight remembers. We train the small model three times: in float32; in
# bfloat16 with master weights; and in bfloat16 where the master forgets what the rounding cut off.
# `Optimizer` and `step` are the package's; the next section compares them with ours.
#
# Which learning rate is fair? What matters is how large an update is beside a weight. MT-NLG's
# weights started with $\sigma = \sqrt{1 / (3h)}$, about 0.004 (lesson 01). We train at two rates.
# Their ratios to our $\sigma$ are those that MT-NLG had at its peak and at its last step.

# %%
def sigma(h):
    """Standard deviation of the weights at the start [S3]."""
    return math.sqrt(1 / (3 * h))


mtnlg = preset("mtnlg-530b")
last_rate = rate_after(270e9, 5e-5, 5e-6, 1e9, 340e9)
RATES = {
    name: rate / sigma(mtnlg.model.hidden) * sigma(small.hidden)
    for name, rate in (("peak", 5e-5), ("last", last_rate))
}
for name, rate in RATES.items():
    print(f"{name}: {rate / sigma(small.hidden):.2%} of sigma, here a rate of {rate:.1e}")


# %%
def train(dtype, rate, forget=False):
    """(losses, share of weights that the last step left where they were)."""
    model = GPT(small, dtype=dtype)
    optim = Optim(lr=rate, min_lr=0.0, warmup_tokens=0, decay_tokens=1)
    optimizer, losses = Optimizer(model, optim), []
    pairs = list(zip(optimizer.masters.masters, model.parameters(), strict=True))
    for number in range(training_steps):
        batches = [
            Batch(one.tokens.to(device()), one.labels.to(device()), one.mask.to(device()))
            for one in micro_batches(text, 8 * number, 8, 8)
        ]
        before = [master.detach().clone() for master, _ in pairs]
        loss, _ = step(model, optimizer, batches, lr=rate, seed=1, number=number)
        losses.append(loss.item())
        if forget:
            for master, weight in pairs:
                master.data.copy_(weight)
    still = sum((old == new).sum().item() for old, (new, _) in zip(before, pairs, strict=True))
    return losses, still / small.parameters()


# %%
runs = {}
for when, rate in RATES.items():
    for name, args in {
        "float32": (fp32, rate),
        "bfloat16 with master weights": (bf16, rate),
        "bfloat16 alone": (bf16, rate, True),
    }.items():
        losses, still = runs[when, name] = train(*args)
        print(f"{when} rate, {name:<29} last ten losses {np.mean(losses[-10:]):.3f}, "
              f"weights that stood still {still:3.0%}")  # fmt: skip

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
for ax, when in zip(axes, RATES, strict=True):
    exact = np.array(runs[when, "float32"][0])
    for name in ("bfloat16 with master weights", "bfloat16 alone"):
        behind = np.array(runs[when, name][0]) - exact
        ax.plot(range(1, training_steps + 1), behind, label=name, markevery=20)
    ax.set(xlabel="steps", title=f"ratio of MT-NLG's {when} rate")
axes[0].set_ylabel("loss above float32 (nats)")
axes[0].legend(loc="upper left")
fig.suptitle("Without master weights the lower rate falls behind", x=0.07, ha="left", fontsize=12)
fig.tight_layout()
gap = {when: np.mean(np.subtract(runs[when, "bfloat16 alone"][0], runs[when, "float32"][0])[-10:])
       for when in RATES}  # fmt: skip
figure(
    fig,
    alt="Loss above that of float32 against steps, for two rates. With master weights it stays at "
    f"0. In bfloat16 alone it ends {gap['peak']:.3f} nats above at the ratio of the peak rate and "
    f"{gap['last']:.3f} above at that of the last.",
)

# %% [markdown]
# With master weights the loss follows that of float32 so closely that the picture shows no
# difference. Without them many weights stood still in the last step, and at the lower rate more of
# them. At the ratio of the peak rate the loss hardly shows it in so few steps. At the ratio of the
# last rate the training falls far behind.
#
# Note what this looks like. There is no crash, only a loss curve that is too high.

# %% [markdown]
# ## Proof
#
# We compare our step with the package's: three steps from the same weights, with the same uneven
# masks. Ours takes the eight sequences at once, in float64. The package's takes them in every cut,
# and in two coarser formats as well.
#
# Read `forward` and `backward` in the middle; much of the rest waits. The same lines also train on
# thousands of GPUs, and `mesh`, `schedule` and the sums over ranks belong to lessons 06 to 12. In
# one process a sum over all ranks is what this one has, and `carry_out` calls `forward` and
# `backward` for one micro-batch after the other. `optimizer.accumulate` adds gradients up in 32
# bits. `Draw` names the random numbers of dropout (lesson 05); here there is no dropout.
# `loss_scale` is 1, except in float16 (first deeper part).

# %%
show(step)
show(Masters)

# %%
def three_steps(dtype, cut):
    """The package: [losses, gradients after clipping, weights] after three steps."""
    model = GPT(small, dtype=dtype)
    optimizer = Optimizer(model, Optim(lr=1e-3, min_lr=0.0, warmup_tokens=0, decay_tokens=1))
    losses = [
        step(model, optimizer, rows(cut), lr=1e-3, seed=1, number=number)[0] for number in range(3)
    ]
    gradients = [master.grad for master in optimizer.masters.masters]
    return [[torch.stack(losses)], gradients, list(model.parameters())]


model = GPT(small, dtype=fp64)
adam = Adam(model.parameters())
losses = [our_step(model, adam, rows(8), 1e-3)[0] for _ in range(3)]
gradients = [p.grad for p in model.parameters()]
ours = [[torch.tensor(losses, dtype=fp64)], gradients, list(model.parameters())]

print(f"{'package, format and cut':<26}{'loss':>9}{'gradient':>10}{'weights':>9}")
for dtype, cut in [(fp64, 8), (fp64, 4), (fp64, 2), (fp64, 1), (fp32, 2), (bf16, 2)]:
    theirs = three_steps(dtype, cut)
    far = [distance(a, b) for a, b in zip(theirs, ours, strict=True)]
    name = f"{str(dtype).removeprefix('torch.')}, {8 // cut} of {cut}"
    print(f"{name:<26}{far[0]:>9.0e}{far[1]:>10.0e}{far[2]:>9.0e}")
    assert dtype != fp64 or max(far) < 1e-9

# %% [markdown]
# In float64 accumulation, clipping and Adam agree to the last digits, in every cut. The two bottom
# rows are the same right step in coarser numbers. In bfloat16 the noise is so large that many
# mistakes could hide in it.
#
# Now rate and batch: ours against the package's, at every step of MT-NLG.

# %%
sizes = list(ramps.batches(mtnlg.train, mtnlg.model.seq))
sequences, wrong = 0, 0
for size in sizes:
    wrong += size != batch_after(sequences, 32, 32, 1920, 12e9 / 2048)
    sequences += size
    tokens = 2048 * sequences
    there = ramps.learning_rate(tokens, mtnlg.optim)
    wrong += not math.isclose(there, rate_after(tokens, 5e-5, 5e-6, 1e9, 340e9), rel_tol=1e-12)
print(f"{len(sizes):,} steps, {wrong} differences in rate or batch")
assert wrong == 0

# %% [markdown]
# ## Cost
#
# ### Bytes
#
# A step in bfloat16 with master weights holds, for each parameter [S3, section 2.1.1]:
#
# $$\underbrace{2 + 4}_{\text{weight}} + \underbrace{2 + 4}_{\text{gradient}} +
# \underbrace{4 + 4}_{\text{Adam's } m, v} = 20 \text{ bytes}.$$
#
# We count real tensors just after a backward, when all of them exist:

# %%
model = GPT(small, dtype=bf16)
optimizer = Optimizer(model, Optim(lr=1e-3, min_lr=0.0, warmup_tokens=0, decay_tokens=1))
step(model, optimizer, rows(2), lr=1e-3, seed=1, number=1)
optimizer.zero()
model.loss(rows(2)[0]).backward()

masters = optimizer.masters.masters
held = {
    "weights, 16 bits": list(model.parameters()),
    "master weights": masters,
    "gradients, 16 bits": [p.grad for p in model.parameters()],
    "gradient sums": [master.grad for master in masters],
    "Adam's m": [optimizer.adam.state[master]["exp_avg"] for master in masters],
    "Adam's v": [optimizer.adam.state[master]["exp_avg_sq"] for master in masters],
}
each = {k: sum(t.nbytes for t in tensors) / small.parameters() for k, tensors in held.items()}
for name, size in each.items():
    print(f"{name:<20}{size:>3.0f} bytes a parameter")
print(f"{'together':<20}{sum(each.values()):>3.0f}")
assert sum(each.values()) == 20

# %% [markdown] tags=["deeper"]
# ### Deeper: the time of a micro-batch
#
# A smaller micro-batch needs less memory for activations, which lesson 05 counts. What does it cost
# in time? The multiplications are the same in every cut. But each micro-batch also takes a fixed
# time $\alpha$, to start its many operations. With a time $\gamma$ for the work of one sequence:
#
# $$T = m\, \alpha + B\, \gamma .$$
#
# We time forward and backward of $B = 32$ sequences in every cut, for our small model and for
# `nano`, and fit the two numbers.

# %% tags=["deeper"]
B, cuts = 32, [1, 2, 4, 8, 16, 32]
pieces = np.array([B // cut for cut in cuts])


def seconds(gpt, ids, cut):
    """Time of forward and backward over all sequences, `cut` at a time."""
    begin = time.perf_counter()
    for part in ids.split(cut):
        gpt.loss(Batch(part[:, :-1], part[:, 1:], torch.ones_like(part[:, 1:]).float())).backward()
    synchronize()
    return time.perf_counter() - begin


for name, shape, repeats in (("small", small, 5), ("nano", preset("nano").model, 2)):
    gpt = GPT(shape)
    ids = torch.randint(shape.vocab, (B, shape.seq + 1), device=device())
    seconds(gpt, ids, 8)  # the first pass allocates
    took = np.array([[seconds(gpt, ids, cut) for cut in cuts] for _ in range(repeats)]).min(0)
    (alpha, gamma), *_ = np.linalg.lstsq(np.stack([pieces, np.full(6, B)], axis=1), took)
    formula = pieces * alpha + B * gamma
    print(f"{name}: alpha {1e3 * alpha:.1f} ms, gamma {1e3 * gamma:.1f} ms")
    print("   m of b   ", "".join(f"{f'{B // cut} of {cut}':>10}" for cut in cuts))
    print("   measured ", "".join(f"{t:>8.3f} s" for t in took))
    print("   formula  ", "".join(f"{t:>8.3f} s" for t in formula))

# %% [markdown] tags=["deeper"]
# In the small model $\alpha$ weighs more beside $\gamma$ than in `nano`, so many pieces cost more.
# The larger the model, the less it costs to take one sequence at a time.
#
# The formula is only a rough fit: the time of a sequence depends a little on the cut too, probably
# because large tensors leave the processor's caches. On a busy machine $\alpha$ can drown in the
# scatter and even come out negative.

# %% [markdown]
# ## MT-NLG
#
# ### The recipe
#
# Adam with 0.9, 0.95 and $10^{-8}$; decay 0.1; clipping at 1.0; bfloat16. The rate climbs to 5e-5
# within 1 billion tokens and falls to 10 % at 340 billion. The batch climbs from 32 sequences in
# increments of 32 to 1920 over the first 12 billion tokens [S1; S3].

# %% tags=["predict"]
s_big, full = mtnlg.model.seq, mtnlg.train.global_batch
steps_of = Counter(sizes)
in_ramp = len(sizes) - steps_of[full]
print(f"full batch: {full} x {s_big} = {full * s_big:,} tokens")
print(f"ramp: {len(steps_of) - 1} batches below it, {in_ramp:,} steps")
print(f"full: {steps_of[full]:,} steps; all {len(sizes):,} (derived; the count is not published)")
measured(
    "ramp_share_of_steps",
    100 * in_ramp / len(sizes),
    unit="%",
    tell="A small batch makes many steps of few tokens.",
)
measured(
    "last_rate_of_mtnlg",
    100 * last_rate / 5e-5,
    unit="%",
    tell=f"The run ended at 270 of 340 billion tokens, at a rate of {last_rate:.1e} (derived).",
)
assert len(steps_of) == 60 and full * s_big == 3_932_160
assert math.isclose(len(sizes), 80_100, rel_tol=1e-3)
warm_up = np.searchsorted(np.cumsum(sizes) * s_big, 1e9)
assert round(100 * warm_up / len(sizes)) == 9
assert math.isclose(steps_of[full], 65_613, abs_tol=2) and f"{last_rate:.1e}" == "9.6e-06"

# %%
ends = np.cumsum(sizes) * s_big / 1e9  # tokens after each step, billions
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
left.plot(ends, sizes, marker="", label="batch")
left.set(xlim=(0, 15), xlabel="tokens (billions)", ylabel="sequences in a step")
left.set_title("59 increments in 12 billion tokens")
t = np.linspace(0, 340, 500)
rates = [1e5 * rate_after(1e9 * x, 5e-5, 5e-6, 1e9, 340e9) for x in t]
right.plot(t[t <= 270], np.array(rates)[t <= 270], marker="", label="used")
right.plot(t[t >= 270], np.array(rates)[t >= 270], marker="", label="planned")
right.set(xlabel="tokens (billions)", ylabel="learning rate ($10^{-5}$)", ylim=(0, 5.3))
right.set_title("The run ended before its floor")
right.legend()
fig.tight_layout()
figure(
    fig,
    alt="Left: the batch climbs as a staircase from 32 to 1920 sequences over 12 billion tokens. "
    "Right: the rate climbs to 5e-5 in the first billion tokens and falls on a cosine towards 5e-6 "
    "at 340 billion; the run stopped at 270 billion and 9.6e-6.",
)

# %% [markdown]
# Why start with a small batch? One reason is often given: early in training the gradients of
# different sequences agree so well that a few of them show the direction, and more steps help more
# than better ones.
#
# ### What bfloat16 alone would have lost
#
# An update of Adam is about as large as the rate, or smaller. Beside it we set half the spacing of
# bfloat16, below which an update is rounded away:

# %%
for what, weight in (("a LayerNorm's weight, 1.0", 0.999), ("a matrix's weight, sigma", 4.034e-3)):
    half = spacing(weight, 7) / 2
    print(f"{what:<27} half a spacing {half:.1e}: {half / 5e-5:5.1f} x the peak rate, "
          f"{half / last_rate:5.1f} x the last rate")  # fmt: skip
shrink = 5e-5 * 0.1
print(f"weight decay: a weight shrinks by {shrink:.0e} of itself; the spacing is at least "
      f"{2**-8:.1e} of it")  # fmt: skip
assert spacing(0.999, 7) / 2 > 5e-5 and spacing(4.034e-3, 7) / 2 > last_rate
assert shrink < 2**-9

# %% [markdown]
# The weights of the LayerNorms would never have moved from 1. At the last rate no weight of size
# $\sigma$ or more would be moved by an update of the size of the rate. And weight decay by itself
# is below half a spacing, for every weight, at every rate.
#
# ### The curve
#
# Now a real run, small and complete: `nano`, with MT-NLG's recipe scaled down, on the corpus of
# lesson 03. `need` trains it once on this machine and keeps it. Its ramp is short: half the batch
# first, then the full one. The *validation* loss is measured on text that was held out of training.

# %%
folder = need("nano")
rows_of_run = [json.loads(line) for line in open(folder / "metrics.jsonl")]
recipe = config.load(folder / "config.yaml")
tokens = np.array([row["tokens"] for row in rows_of_run])
assert 1e5 < 270e9 / tokens[-1] < 1e6
clipped = np.mean([row["grad_norm"] > recipe.optim.clip for row in rows_of_run])
print(f"nano: {len(rows_of_run)} steps, {tokens[-1]:,} tokens, loss {rows_of_run[0]['loss']:.2f} "
      f"to {rows_of_run[-1]['loss']:.2f}, {clipped:.0%} of the steps clipped")  # fmt: skip
batches = sorted({row["batch_size"] for row in rows_of_run})
print(f"batches of {batches} sequences; the last rate is "
      f"{rows_of_run[-1]['lr'] / recipe.optim.lr:.0%} of the peak")  # fmt: skip
assert len(batches) == 2 and 2 * batches[0] == batches[1]

# %% [markdown]
# Beside it we set the published curve [S3, Figure 2], read off the figure to about 0.01.

# %%
FIGURE_2 = {  # tokens in billions: validation cross-entropy [S3, Figure 2], digitised
    2: 2.81, 3: 2.64, 5: 2.50, 8: 2.39, 10: 2.34, 12: 2.31, 15: 2.26, 20: 2.22, 25: 2.18,
    30: 2.16, 40: 2.12, 50: 2.09, 60: 2.06, 70: 2.04, 80: 2.02, 90: 2.00, 100: 1.985,
    110: 1.973, 120: 1.957, 130: 1.944, 140: 1.936, 150: 1.927, 160: 1.916, 170: 1.910,
    180: 1.898, 190: 1.888, 200: 1.883, 210: 1.878, 220: 1.872, 230: 1.864, 240: 1.858,
    250: 1.854, 260: 1.848, 269: 1.85,
}  # fmt: skip

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8))
left.plot(tokens / tokens[-1], [row["loss"] for row in rows_of_run], marker="", lw=1,
          color=COLOURS["sky"], label="training")  # fmt: skip
valid = [(row["tokens"] / tokens[-1], row["valid_loss"]) for row in rows_of_run
         if "valid_loss" in row]  # fmt: skip
left.plot(*zip(*valid, strict=True), color=COLOURS["black"], ls="--", label="validation")
left.set_title(f"nano: {tokens[-1] / 1e6:.2g} million tokens")
left.set_ylabel("loss (nats per token)")
right.plot([t / 270 for t in FIGURE_2], FIGURE_2.values(), color=COLOURS["black"], ls="--",
           markersize=3.5, label="validation")  # fmt: skip
right.set_title("MT-NLG: 270 billion tokens")
right.set_ylabel("loss (nats per token)")
ramp_ends = (recipe.train.ramp[2] / tokens[-1], 12 / 270)
for ax, end in zip((left, right), ramp_ends, strict=True):
    ax.axvspan(0, end, color=COLOURS["orange"], alpha=0.25, lw=0, label="batch ramp")
    ax.set(xlabel="share of the run's tokens", xlim=(0, 1.02))
    ax.legend()
fig.suptitle("Both fall steeply at first, then ever more slowly", x=0.07, ha="left", fontsize=12)
fig.tight_layout()
figure(
    fig,
    alt="Two loss curves, each over the share of its own tokens and on its own vertical axis. nano "
    f"falls from {rows_of_run[0]['loss']:.1f} to a validation loss of {valid[-1][1]:.2f}; MT-NLG's "
    "validation loss is 2.81 after 2, 2.31 after 12 and 1.85 after 270 billion tokens.",
)

# %% [markdown]
# Compare the shapes, not the heights. The vocabularies differ, so a token is not the same thing.
# The texts differ too. And one run read hundreds of thousands of times as many tokens as the other.
#
# How much of the way down lies in the ramp? MT-NLG's loss at the start is not published. We take
# the loss that lesson 01 expects, $\ln V + 1/6$, with the vocabulary of the family (not confirmed).

# %%
start = math.log(51_200) + 1 / 6
down = (start - FIGURE_2[12]) / (start - FIGURE_2[269])
at = np.searchsorted(tokens, recipe.train.ramp[2])
ours = np.mean([row["loss"] for row in rows_of_run[at - 3 : at + 4]])
mine = (rows_of_run[0]["loss"] - ours) / (rows_of_run[0]["loss"] - valid[-1][1])
print(f"MT-NLG: {down:.0%} of the way within {12 / 270:.1%} of the tokens (derived)")
print(f"nano:   {mine:.0%} of the way within {ramp_ends[0]:.1%} of the tokens")
assert min(down, mine) > 0.5

# %% [markdown]
# Both runs cover more than half of the way down in a small part of their tokens.
#
# The published curve also has two small spikes that our points leave out: up to 2.53 near 5.5 to 6
# billion tokens, and up to 2.47 near 7.3 billion [S3, Figure 2]. The authors report that the
# learning rate, the starting weights and Adam's parameters affect stability. They lowered $\beta_2$
# to 0.95 to reduce spikes [S3]. The last deeper part tries it.
#
# ### Your rank
#
# Your replica is one of $d = 8$. It takes an eighth of the batch, in micro-batches of one sequence
# (not confirmed; everyone who modelled the run assumes it).

# %%
rank = my_rank()
place = MTNLG.place(rank)
m = full // MTNLG.dp
print(f"rank {rank}: stage {place.pp}, replica {place.dp}, slice {place.tp}")
print(f"micro-batches in a step: {32 // MTNLG.dp} at the start, {m} with the full batch")
print(f"micro-batches in the run: {sum(sizes) // MTNLG.dp:,}")
average = mtnlg.model.parameters() / (MTNLG.tp * MTNLG.pp)
print(f"gradient sums in 32 bits: {4 * average / 1e9:.1f} GB, for {average / 1e9:.2f} billion "
      "parameters on average")  # fmt: skip
assert m == 240

# %% [markdown]
# So your rank adds 240 gradients into each sum, before the eight replicas add theirs. What if it
# summed in bfloat16? A test with 240 random numbers for each of a thousand parameters:

# %%
parts = torch.rand(240, 1000, generator=torch.Generator().manual_seed(2), dtype=fp64)
for name, dtype in (("float32", fp32), ("bfloat16", bf16)):
    total = torch.zeros(1000, dtype=dtype)
    for part in parts.to(bf16):  # as backward hands them over
        total += part
    exact = parts.to(bf16).double().sum(0)
    error = ((total.double() - exact).abs() / exact).mean()
    print(f"{name:<9} mean error of the sum of {m}: {error:.0e}")

# %% [markdown]
# All these numbers are positive, so the sum grows and its spacing with it. Real gradients have both
# signs and cancel. What is left is smaller still beside the errors made on the way. That is why 4
# bytes a parameter, a fifth of the training state, are spent on the sum.

# %% [markdown] tags=["deeper"]
# ### Deeper: float16 and the loss scale
#
# Megatron's example script for GPT-3 uses float16 [S10]. The largest number of float16 is 65 504.
# Below $6 \cdot 10^{-5}$ it has ever fewer digits, and its smallest number is $6 \cdot 10^{-8}$.
# Where do gradients lie?
#
# We take the gradients of the small model for 512 tokens. Then we take the same ones as a share of
# MT-NLG's batch, divided by its 3.9 million tokens instead of 512.

# %% tags=["deeper"]
model = GPT(small)
accumulate(model, rows(8, torch.ones(8, s)))
small_batch = torch.cat([p.grad.flatten() for p in model.parameters()])
shares = {"batch of 512 tokens": small_batch, "part of 3.9 million": small_batch * 512 / 3_932_160}

fig, ax = plt.subplots(figsize=(7, 3.4))
edges = np.geomspace(1e-14, 1, 85)
for i, (name, values) in enumerate(shares.items()):
    ax.hist(values.abs().cpu().numpy(), bins=edges, histtype="step", lw=1.8, ls=("-", "--")[i],
            label=name)  # fmt: skip
ax.axvspan(2.0**-24, 1, color=COLOURS["green"], alpha=0.12, lw=0, label="float16 can say it")
ax.set(xscale="log", xlabel="size of a gradient", ylabel="parameters")
ax.set_title("In a large batch many gradients fall out of float16's range")
ax.legend(loc="upper left", fontsize=9)
figure(
    fig,
    alt="Histogram of gradient sizes. For a batch of 512 tokens nearly all lie above 6e-8, the "
    "smallest number of float16. As a part of 3.9 million tokens they are "
    f"{3_932_160 // 512} times as small, and a large part lies below it.",
)
for name, values in shares.items():
    for scale in (1.0, 2.0**16):
        lost = ((values * scale).to(fp16) == 0).float().mean().item()
        print(f"{name:<21} loss times {scale:>6.0f}: {lost:6.2%} of the gradients become zero")
print(f"in bfloat16: {(shares['part of 3.9 million'].to(bf16) == 0).float().mean().item():.2%}")

# %% [markdown] tags=["deeper"]
# So the loss is multiplied by a large number before backward, the *loss scale*. Afterwards the
# gradient is divided by it, in 32 bits. The chain rule is linear, so every gradient on the way is
# larger by the same factor.
#
# How large should the scale be? As large as possible without overflow, and that is found by trial.
# Too large a scale shows as `inf` or `nan` in the gradient. Then the step is skipped and the scale
# is halved. After many good steps it is doubled.

# %% tags=["deeper"]
show(LossScale.update)

# %% [markdown] tags=["deeper"]
# Watch it on a tiny model, because float16 products are slow on most CPUs. The first scale is far
# too large on purpose.

# %% tags=["deeper"]
tiny = GPT(Model(layers=1, hidden=16, heads=2, seq=8, vocab=32), dtype=fp16)
scaled = Optimizer(tiny, Optim(lr=1e-2, min_lr=0.0, warmup_tokens=0, decay_tokens=1))
scaled.loss_scale.scale.fill_(2.0**21)
scaled.loss_scale.window = 8  # 1000 in earnest
ids = torch.randint(32, (4, 9), generator=torch.Generator().manual_seed(1)).to(device())
batch = Batch(ids[:, :-1], ids[:, 1:], torch.ones(4, 8, device=device()))
for number in range(24):
    before, weight = scaled.loss_scale.scale.item(), tiny.norm.weight.detach().clone()
    loss, norm = step(tiny, scaled, [batch], lr=1e-2, seed=1, number=number)
    moved = "moved" if not torch.equal(weight, tiny.norm.weight) else "SKIPPED"
    if moved == "SKIPPED" or scaled.loss_scale.scale != before or number == 23:
        after = scaled.loss_scale.scale.item()
        print(f"step {number:>2}: scale 2^{math.log2(before):.0f}, norm {norm.item():5.2f}, "
              f"weights {moved}, next scale 2^{math.log2(after):.0f}")  # fmt: skip
print(f"loss {loss.item():.2f} after {number + 1} steps")

# %% [markdown] tags=["deeper"]
# The first overflow is forgiven; from the second on the scale is halved each time. (In the code
# this is `hysteresis`.) After eight good steps a larger scale is tried again. A skipped step moves
# neither the weights nor Adam's averages.
#
# bfloat16 needs none of this: its range is that of float32, and the scale stays 1.

# %% [markdown] tags=["deeper"]
# ### Deeper: a spike, and why $\beta_2$ is 0.95
#
# MT-NLG lowered $\beta_2$ from 0.99 to 0.95 "to reduce spikes in the training loss" [S3]. What does
# a single freak gradient do? We give one weight random gradients of size about 1, and at one step a
# gradient of 100. Nothing is clipped.

# %% tags=["deeper"]
noise = torch.randn(600, generator=torch.Generator().manual_seed(3), dtype=fp64)
noise[300] = 100.0
fig, ax = plt.subplots(figsize=(7, 3.6))
kick = {}
for beta2 in (0.95, 0.99):
    x = torch.zeros(1, dtype=fp64)
    one, moves = Adam([x], beta2=beta2), []
    for g in noise:
        last = x.clone()
        one.move([g.view(1)], rate=1.0)
        moves.append((last - x).item())
    ax.plot(range(-20, 200), np.abs(moves[280:500]), marker="", label=f"beta2 = {beta2}")
    theory, kick[beta2] = (1 - 0.9) / math.sqrt(1 - beta2), abs(moves[300])
    typical = np.mean(np.abs(moves[100:300]))
    after = np.mean(np.abs(moves[330:430]))
    print(f"beta2 {beta2}: at the spike {moves[300]:.2f} rates, formula {theory:.2f}; typical move "
          f"{typical:.2f} before, {after:.2f} in steps 30 to 130 after")  # fmt: skip
ax.set(xlabel="steps after the spike", ylabel="size of the move (rates)")
ax.set_title("A smaller beta2: a smaller kick, and sooner forgotten")
ax.legend()
figure(
    fig,
    alt="Size of Adam's move against steps after a gradient of 100. At the spike it is "
    f"{kick[0.99]:.2f} rates for beta2 = 0.99 and {kick[0.95]:.2f} for 0.95. Within about 30 steps "
    "the moves sink to near zero. For 0.95 they come back after about a hundred steps; for 0.99 "
    "they stay small for much longer.",
)

# %% [markdown] tags=["deeper"]
# Two effects. The **kick**: a gradient $g$ far above all before gives $m = (1 - \beta_1) g$ and
# $\sqrt v = \sqrt{1 - \beta_2}\, |g|$, so the weight moves by $(1 - \beta_1) / \sqrt{1 - \beta_2}$
# rates, however large $g$ is. The **memory**: $v$ stays inflated for about $1 / (1 - \beta_2)$
# steps times a logarithm, and as long as it does the weight hardly moves.
#
# Now in a model. Once, we add to each gradient of the small model a random direction 100 times as
# long as the gradient itself. How far does the training fall behind the same one without the spike?

# %% tags=["deeper"]
def with_spike(beta2, size, at=50):
    """Losses of a short training in float32 without clipping, with one planted gradient."""
    model, losses = GPT(small), []
    adam = Adam(model.parameters(), beta2=beta2)
    random = torch.Generator().manual_seed(4)
    for number in range(training_steps):
        (one,) = micro_batches(text, 8 * number, 8, 8)
        one = Batch(one.tokens.to(device()), one.labels.to(device()), one.mask.to(device()))
        loss, gradients = accumulate(model, [one])
        for g in gradients if number == at else []:
            direction = torch.randn(g.shape, generator=random).to(g.device)
            g += size * g.norm() * direction / direction.norm()
        adam.move(gradients, RATES["peak"] * min(1.0, (number + 1) / 20))
        losses.append(loss)
    return np.array(losses)


for beta2 in (0.95, 0.99):
    behind = with_spike(beta2, size=100.0) - with_spike(beta2, size=0.0)
    print(f"beta2 {beta2}, nats behind: {behind[51]:.3f} just after the spike,", ", ".join(
        f"{behind[i : i + 20].mean():.3f} in steps {i} to {i + 19}"
        for i in range(20, training_steps - 19, 20)))  # fmt: skip

# %% [markdown] tags=["deeper"]
# The step with the spike does little harm by itself: the loss does not jump. What shows is the
# memory. With $v$ inflated both trainings learn more slowly for the rest of the run.
#
# That 0.95 is the better choice does not show at this size and length. By the formula it halves the
# kick. That this reduces spikes in the loss of a large model is the reason that the authors give
# [S3]; we have not shown it.

# %% [markdown]
# ## Check yourself
#
# 1. A LayerNorm weight is 1.0, the update is 0.003, everything in bfloat16. Does it arrive, added
#    and subtracted?
#
# <details><summary>Answer</summary>
#
# Subtracted, yes: below 1 the spacing is $2^{-8} \approx 0.0039$, and half of it is
# $2^{-9} \approx 0.00195$. So $1 - 0.003 = 0.997$ is rounded to $1 - 2^{-8} \approx 0.99609$. Added,
# no: above 1 the spacing is $2^{-7}$, and half of it is 0.0039.
#
# </details>
#
# 2. A batch is cut into 4 micro-batches with 100, 100, 100 and 4 tokens. How much more does a token
#    of the last one count in the mean of means than it should?
#
# <details><summary>Answer</summary>
#
# It counts $\frac{1}{4} \cdot \frac{1}{4} = 1/16$ instead of $1/304$: $304/16 = 19$ times as
# much.
#
# </details>
#
# 3. Two implementations of the step differ by $10^{-7}$ in float32. Is one of them wrong?
#
# <details><summary>Answer</summary>
#
# One cannot tell. Another order of the sum makes such a difference, and so does a small mistake.
# Run both in float64: a difference that comes from the order falls to about $10^{-16}$, while a
# mistake stays where it is.
#
# </details>
#
# 4. By mistake every gradient is multiplied by 10, from the first step on. The optimizer is Adam,
#    and nothing is clipped. What happens to the training?
#
# <details><summary>Answer</summary>
#
# Next to nothing: $m$ becomes 10 times as large, and so does $\sqrt v$. Only beside $\epsilon$ does
# it matter. So Adam hides wrong factors, and a test of the step must compare gradients, not only
# weights or losses. With clipping the mistake would change which steps are clipped.
#
# </details>
#
# 5. Why does MT-NLG's rate count tokens and not steps?
#
# <details><summary>Answer</summary>
#
# During the ramp a step holds between 65 536 and 3 932 160 tokens. The first billion tokens, the
# warm-up, are 9 % of the steps but $1/270 = 0.4$ % of the tokens. Tokens measure how much text the
# model has learned from.
#
# </details>

# %% [markdown]
# ## Exercises
#
# Change the ramp for a job that can't cut every batch. Write the loss scale of float16, and
# accumulation that is right for any masks, however uneven.
