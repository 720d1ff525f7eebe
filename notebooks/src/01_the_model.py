# ---
# question: "Which numbers is a GPT of 530 billion parameters made of, and how widely must they be
#   scattered at the start?"
# needs: [layout, rank]
# introduces:
#   residual stream: "The $h$ numbers of each token that every layer reads and adds its results to,
#     from the embedding up to the logits."
#   causal attention: "The step in which each token takes a weighted mean over itself and the
#     tokens before it, with weights that are computed from the tokens; later tokens get weight
#     zero."
#   initial variance: "How far the random starting weights scatter around zero: $\\sigma^2 = 1/(3h)$
#     in MT-NLG; Megatron's recipe divides it by $2L$ in matrices that add to the residual stream."
# proves: "The page of code written here has the package's logits, loss and gradients; the gradients
#   are slopes, and nothing comes from the future."
# minutes: 40
# seconds: 30
# ---

# %% [markdown]
# # The model
#
# MT-NLG is a function. It takes a row of tokens and says, at each of them, how likely every token
# of its vocabulary is to come next. The **vocabulary** is the list of all tokens that it knows. All
# 530 billion parameters serve that one function, and the function fits on a page.
#
# This lesson writes that page in small cells and looks at every intermediate result. Then it asks
# about something that the finished model no longer shows: the random numbers from which it started.

# %% [markdown]
# ## Question
#
# Lesson 00 counted 530 billion parameters and called the model a stack of $L$ layers that hand on
# $h$ numbers for each token. Two things stayed open.
#
# **What are these parameters, one by one?** And training has to begin somewhere: before it, nearly
# all of them are drawn at random. **How wide must the draw be?** The authors of MT-NLG report that
# training with a larger variance of the starting weights failed to converge [S3]. By *width* we
# mean the standard deviation, the root of that variance. We want to see what it does.

# %%
import math
from pydoc_data.topics import topics

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from minimtnlg.config import Model, preset
from minimtnlg.course.check import measured, predict
from minimtnlg.course.plots import COLOURS
from minimtnlg.course.rank import MTNLG, my_rank
from minimtnlg.course.show import figure, show
from minimtnlg.data.batches import Batch
from minimtnlg.model import GPT
from minimtnlg.model.attention import readable_core
from minimtnlg.model.init import draw

torch.set_num_threads(1)  # the matrices here are too small to be shared among cores

# %% tags=["parameters"]
seed: int = 1  # of all random draws
steps: int = 200  # of each training run

# %% [markdown]
# ## Predict
#
# 1. The loss is minus the logarithm of the probability that the model gave to the token that really
#    came. A model that knows nothing could give each of $V$ tokens the same probability $1/V$; its
#    loss is $-\ln(1/V) = \ln V$. We draw the weights as MT-NLG did, and do not train. How far above
#    $\ln V$ is the loss, in nats? (A nat is the unit of the natural logarithm.)

# %%
predict("loss_above_uniform", None)

# %% [markdown]
# 2. What percentage of MT-NLG's parameters sits in its layers, and not in its tables of tokens and
#    positions?

# %%
predict("percent_in_layers", None)

# %% [markdown]
# 3. Each token takes a weighted mean over itself and the tokens before it; later ones must not
#    count. A softmax makes the weights. Suppose that we take the softmax over *all* tokens, and set
#    the weights of later tokens to zero afterwards. Then we change the last token of a sequence.
#    Does the result at the first token change?

# %%
predict("mask_after_softmax_leaks", None, choices=["it changes", "it stays the same"])

# %% [markdown]
# 4. We draw all starting weights of a small model ten times as wide as MT-NLG's rule says, and
#    train it for 200 steps. Compared with the same model drawn by the rule, it ...

# %%
predict("ten_times_as_wide", None, choices=["diverges", "lags behind", "catches up"])

# %% [markdown]
# ## Trouble
#
# Let the model be a black box for a moment. The numbers of tokens go in. At each of them, one
# number for each token of the vocabulary comes out; these are the **logits**. A softmax turns
# logits into probabilities.
#
# The **loss** is minus the logarithm of the probability that the model gave to the token that
# really came, averaged over all tokens. We draw all matrices from $N(0, 1)$, the normal
# distribution of variance 1. It is a natural first try, and PyTorch's own default for embeddings.
# The tokens are random too. `GPT` is the package's model; models of this kind are called GPT after
# the first of them.

# %%
config = Model(layers=4, hidden=64, heads=4, seq=64, vocab=1024)


def start_loss(model, seed):
    """Mean loss (nats) of 32 sequences of random tokens with random successors."""
    source = torch.Generator().manual_seed(seed)
    shape = (32, model.config.seq)
    tokens, labels = (torch.randint(model.config.vocab, shape, generator=source) for _ in "tl")
    with torch.no_grad():
        return model.loss(Batch(tokens, labels, torch.ones(shape))).item() / tokens.numel()


model = GPT(config, seed=seed)
source = torch.Generator().manual_seed(seed)
with torch.no_grad():
    for weight in model.parameters():
        if weight.dim() == 2:  # matrices; biases start at 0 and LayerNorms at 1
            weight.normal_(generator=source)
first_try = start_loss(model, seed)
print(f"weights from N(0, 1)       {first_try:6.2f} nats")
print(f"the same chance for all    {math.log(config.vocab):6.2f} nats")
assert first_try > 2 * math.log(config.vocab)

# %% [markdown]
# The untrained model does far worse than one that knows nothing. It has strong opinions, and they
# are noise. Before it can learn anything, it must unlearn them.
#
# So the width of the draw matters. To see how, we have to open the box.

# %% [markdown]
# ## Idea
#
# ### One stream, and layers that add to it
#
# The **residual stream** is a table with one row of $h$ numbers for each token. The embedding
# writes it first. Then every layer reads it twice, and each time *adds* what it computed; nothing
# is ever overwritten. At the end the stream is compared with every token of the vocabulary.
#
# The picture gives shapes in brackets, for $b$ sequences of $s$ tokens.

# %%
fig, ax = plt.subplots(figsize=(10, 3.4))
ax.annotate("", (11.86, 0), (1.0, 0), arrowprops=dict(arrowstyle="-|>", lw=3, color="black"))


def box(x, y, text, fill="white", below=""):
    """A labelled box with its centre at (x, y)."""
    ax.add_patch(plt.Rectangle((x - 0.75, y - 0.35), 1.5, 0.7, fc=fill, ec="black", zorder=3))
    ax.text(x, y, text, ha="center", va="center", fontsize=9.5, zorder=4)
    ax.text(x, y - 0.65, below, ha="center", va="center", fontsize=9.5)


box(0.5, 0, "embedding\n+ position", "#cfe3f2", below="tokens [b, s]")
for left, name in ((2.0, "attention"), (5.5, "MLP")):
    box(left + 0.8, 1.4, "LayerNorm")
    box(left + 2.4, 1.4, name, "#f7deb0")
    ax.plot([left - 0.1] * 2 + [left + 0.05], [0, 1.4, 1.4], "k-", lw=1.3, marker="")
    ax.annotate("", (left + 1.69, 1.4), (left + 1.51, 1.4), arrowprops=dict(arrowstyle="->"))
    ax.plot([left + 3.15] + [left + 3.25] * 2, [1.4, 1.4, 0.2], "k-", lw=1.3, marker="")
    ax.plot(left + 3.25, 0, "o", ms=15, mfc="white", mec="black", zorder=3)
    ax.text(left + 3.25, -0.01, "+", ha="center", va="center", fontsize=13, zorder=4)
frame = dict(fill=False, color="black", lw=1, ls=":")
ax.add_patch(plt.Rectangle((1.6, -0.4), 7.4, 2.4, **frame))
ax.text(5.3, -0.7, "one layer, $L$ times; the stream is [s, b, h]", ha="center", fontsize=9.5)
box(10.2, 0, "LayerNorm")
box(12.6, 0, "embedding,\ntransposed", "#cfe3f2", below="logits [s, b, V]")
ax.set(xlim=(-0.3, 13.4), ylim=(-0.9, 2.1))
ax.set_title("Layers read the residual stream and add to it; the embedding is used twice")
ax.axis("off")
figure(
    fig,
    alt="A thick line from left to right is the residual stream. It begins at a box 'embedding + "
    "position'. In each of L layers two branches leave the line and are added to it again: "
    "LayerNorm and attention, then LayerNorm and MLP. At the right end come a last LayerNorm and "
    "the transposed embedding, which gives the logits.",
)

# %% [markdown]
# The parts, with their sizes:
#
# - **Embedding**: a matrix of $V \times h$, one row for each token of the vocabulary. **Position**:
#   one row for each of $s$ places. The sum of the two starts the stream. The embedding is used
#   again at the end: a logit is the inner product of a token's stream with one row of the
#   embedding.
# - **LayerNorm** takes the $h$ numbers of one token, subtracts their mean and divides by their
#   standard deviation. The result has mean square 1, however wide the stream is. Then it scales and
#   shifts each of the numbers: $2h$ parameters, which start at 1 and 0.
# - **Attention** has two matrices: $h \times 3h$ and $h \times h$. It is the only part in which
#   tokens meet.
# - **MLP** (multi-layer perceptron) has two matrices, $h \times 4h$ and $4h \times h$. Between them
#   stands the function GeLU, which lets positive numbers through and holds negative ones back.
#
# Each of these four matrices comes with a bias, one number for each of its outputs. By hand, one
# layer of $h = 4$: attention $48 + 12$ and $16 + 4$, MLP $64 + 16$ and $64 + 4$, two LayerNorms $2
# \cdot 8$; together 244. In general, with the final LayerNorm,
#
# $$P = L\,(12 h^2 + 13 h) + V h + s h + 2 h.$$
#
# This is [S12, eq. 2] with the $2h$ of the final LayerNorm, which the paper leaves out.

# %%
by_hand = (48 + 12) + (16 + 4) + (64 + 16) + (64 + 4) + 2 * 8
assert by_hand == 244 == 12 * 4**2 + 13 * 4

# %% [markdown]
# ### Attention looks back
#
# In **causal attention** every token makes three lists of numbers: a *query* (what am I looking
# for?), a *key* (what am I?) and a *value* (what do I tell?). The inner product of one token's
# query with another's key is a *score*: how much the one cares about the other. A softmax over the
# scores of *itself and the earlier tokens* makes weights that sum to 1. The result is the mean of
# the values with these weights.
#
# By hand, three tokens with values 0, 4, 8. Let the scores of the second be $0, \ln 3$ and those of
# the third $0, \ln 2, \ln 5$. The exponentials are $1, 3$ and $1, 2, 5$; a softmax divides them by
# their sum. The weights are $\frac14, \frac34$ and $\frac18, \frac28, \frac58$, and the means $0$,
# $3$ and $6$.
#
# The future is kept out by the score $-\infty$, whose exponential is 0.

# %%
no = float("-inf")
scores = torch.tensor([[0.0, no, no], [0, math.log(3), no], [0, math.log(2), math.log(5)]])
weights = scores.double().softmax(dim=-1)
print(weights.numpy().round(4))
print("means of 0, 4, 8:", (weights @ torch.tensor([0.0, 4, 8]).double()).numpy().round(4))

# %% [markdown]
# A layer does this in $a$ *heads* side by side, each with lists of $h/a$ numbers of its own. With
# queries $q$, keys $k$ and values $v$ of one head as matrices of $s \times h/a$,
#
# $$\text{result} = \text{softmax}\left(\frac{q k^T}{\sqrt{h/a}} + \text{mask}\right) v,$$
#
# where the mask is 0 for the token itself and the past, and $-\infty$ for the future. A score is a
# sum of $h/a$ products; dividing by the root keeps it from growing with their number.
#
# ### An opinion without knowledge costs
#
# Now the width. Take a vocabulary of two tokens with logits $+1$ and $-1$, and let both be equally
# likely to come. The loss is $\ln(e + e^{-1})$ minus the logit of the token that came, which is 0
# on average. That is $1.127$, and $\ln 2$ is $0.693$: the two opinions cost $0.434$.
#
# For many tokens there is a formula. At the start each logit is a sum of $h$ products: numbers of
# the normalised stream, whose mean square is 1, times weights from $N(0, \sigma^2)$. So the logits
# are about $N(0, h \sigma^2)$. For $z$ from this distribution the mean of $e^z$ is
# $e^{h\sigma^2/2}$. The softmax divides by the sum of $V$ such numbers, and the logit of the token
# that came is again 0 on average:
#
# $$\text{loss at the start} \approx \ln\left(V e^{h\sigma^2/2}\right) - 0 = \ln V + \frac{h
# \sigma^2}{2}.$$
#
# MT-NLG's **initial variance** is $\sigma^2 = 1/(3h)$ [S3]. It shrinks with $h$ in just such a way
# that the excess is the same at every size: $\frac12 \cdot \frac13 = \frac16$.

# %%
two_words = math.log(math.e + 1 / math.e)
print(f"{two_words:.3f} - {math.log(2):.3f} = {two_words - math.log(2):.3f}")
assert (round(two_words, 3), round(two_words - math.log(2), 3)) == (1.127, 0.434)

# %% [markdown]
# ## Code
#
# ### From bytes to logits
#
# Real tokens come in lesson 03. Here a token is a byte of Python's own documentation, so $V = 256$.
# We choose a tiny model whose sizes all differ, and take the package's random weights, in 64 bits,
# so that we can compare digits later. We take only these numbers; what happens to them we write
# ourselves.
#
# $b$ sequences go through the model at once, here two.

# %%
text = "\n".join(topics[name] for name in sorted(topics))
data = torch.tensor(list(text.encode()))
tiny = Model(layers=2, hidden=40, heads=4, seq=12, vocab=256)
w = dict(GPT(tiny, seed=seed, dtype=torch.float64).named_parameters())

rows = data[1000 : 1000 + 2 * 13].view(2, 13)
tokens, labels = rows[:, :-1], rows[:, 1:]  # what came, and what came next
print(repr(text.encode()[1000:1012]))
print("tokens [b, s]", tuple(tokens.shape), tokens[0].tolist())

# %% [markdown]
# These are all the parameters of a model, with one of its layers. PyTorch keeps a matrix as outputs
# $\times$ inputs.

# %%
for name, weight in w.items():
    if "blocks.1" not in name:
        print(f"{name:<32}{str(tuple(weight.shape)):>11}{weight.numel():>8}")

# %% [markdown]
# The embedding starts the stream. From here on the axis of the sequence comes first: `[s, b, h]`.
# Much later, sequences will be cut among GPUs, and the first axis is the one that is easy to cut.

# %%
x = w["embedding.weight"][tokens.T] + w["position.weight"][:, None]
print("stream [s, b, h]", tuple(x.shape))

# %% [markdown]
# LayerNorm, and a matrix with its bias: every part uses these two.

# %%
def norm(x, w, name):
    """[s, b, h] -> [s, b, h]: mean 0 and mean square 1 over h, then scaled and shifted."""
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    return centred / (variance + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(x, w, name):
    """[..., inputs] -> [..., outputs]."""
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


y = norm(x, w, "blocks.0.attention_norm")
print(f"std of the stream {x.std():.3f}, after LayerNorm {y.std():.3f}")

# %% [markdown]
# One matrix makes queries, keys and values of all heads. Its outputs lie head by head: query, key
# and value of head 0, then those of head 1. We sort them into `[b, a, s, h/a]`, so that each head
# of each sequence is a small matrix of its own.

# %%
def queries_keys_values(y, w, name, heads):
    """[s, b, h] -> three times [b, a, s, h/a]."""
    s, b, h = y.shape
    return linear(y, w, name).view(s, b, heads, 3, h // heads).permute(3, 1, 2, 0, 4)


q, k, v = queries_keys_values(y, w, "blocks.0.attention.qkv", tiny.heads)
print("queries [b, a, s, h/a]", tuple(q.shape))

# %% [markdown]
# Scores, mask, softmax. `triu(1)` is the triangle above the diagonal: row $i$ is a token, column
# $j$ one it may look at, and $j > i$ is the future.

# %%
def look_back(q, k):
    """Weights [b, a, s, s] of causal attention; row i sums to 1 over columns 0 to i."""
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    future = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, float("-inf")).softmax(-1)


weights = look_back(q, k)
print("weights [b, a, s, s]", tuple(weights.shape))
print(weights[0, 0, :4, :4].numpy(force=True).round(2))

# %% [markdown]
# Then the mean of the values, the heads side by side again, and the output matrix. What attention
# and MLP return is only *added* to the stream. What they must supply is the rest, the residual,
# hence the name.

# %%
def attention(x, w, block, heads):
    """What the attention of one layer adds to the stream: [s, b, h]."""
    y = norm(x, w, f"{block}.attention_norm")
    q, k, v = queries_keys_values(y, w, f"{block}.attention.qkv", heads)
    mixed = look_back(q, k) @ v  # [b, a, s, h/a]
    return linear(mixed.permute(2, 0, 1, 3).reshape(x.shape), w, f"{block}.attention.out")


def mlp(x, w, block):
    """What the MLP of one layer adds to the stream: [s, b, h]."""
    y = linear(norm(x, w, f"{block}.mlp_norm"), w, f"{block}.mlp.up")  # [s, b, 4h]
    return linear(F.gelu(y, approximate="tanh"), w, f"{block}.mlp.down")


x = x + attention(x, w, "blocks.0", tiny.heads)
x = x + mlp(x, w, "blocks.0")
print("stream after layer 0 [s, b, h]", tuple(x.shape))

# %% [markdown]
# That was one layer. The whole model is $L$ of them, between the two uses of the embedding.

# %%
def gpt(tokens, w, config):
    """Tokens [b, s] -> logits [s, b, V]."""
    x = w["embedding.weight"][tokens.T] + w["position.weight"][: tokens.shape[1], None]
    for layer in range(config.layers):
        x = x + attention(x, w, f"blocks.{layer}", config.heads)
        x = x + mlp(x, w, f"blocks.{layer}")
    return norm(x, w, "norm") @ w["embedding.weight"].T


logits = gpt(tokens, w, tiny)
print("logits [s, b, V]", tuple(logits.shape))

# %% [markdown]
# The loss: minus the logarithm of the probability of what came next, averaged over all tokens.

# %%
chances = logits.softmax(-1)
loss = -chances.gather(-1, labels.T[..., None]).log().mean()
print(f"loss {loss:.4f}, ln V {math.log(256):.4f}")

# %% [markdown]
# Two sequences of twelve tokens are few, so this number is mostly chance. What is the loss at the
# start really?
#
# ### The loss at the start
#
# We take the model of *Trouble*, draw it five times by the rule, and show it many tokens. The rule
# is the package's `draw`:

# %%
show(draw)

# %% tags=["predict"]
def drawn(config, times, seed):
    """An untrained GPT whose starting weights are `times` as wide as the rule says."""
    model = GPT(config, seed=seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:  # matrices; biases start at 0 and LayerNorms at 1
                weight *= times
    return model


uniform = math.log(config.vocab)
losses = [start_loss(drawn(config, 1, i), i) for i in range(seed, seed + 5)]
print("loss at the start:", "  ".join(f"{x:.3f}" for x in losses))
print(f"ln V + 1/6:        {uniform + 1 / 6:.3f}")
above = sum(losses) / 5 - uniform
assert abs(above - 1 / 6) < 0.03
measured("loss_above_uniform", above, unit="nats", tell="The formula says 1/6 = 0.167 at any size.")

# %% [markdown]
# The five draws lie close around the formula. This is a good check of any new training code: if it
# starts far from $\ln V + \frac16$, something was drawn wrongly.
#
# And other widths? We draw everything up to 16 times as wide.

# %%
factors = [1 / 4, 1 / 2, 1, 2, 3, 4, 6, 8, 12, 16]
spread = [[start_loss(drawn(config, f, i), i) for i in range(seed, seed + 3)] for f in factors]

fig, ax = plt.subplots()
dense = [2 ** (i / 8) for i in range(-16, 33)]
ax.plot(dense, [uniform + f**2 / 6 for f in dense], marker="", label=r"$\ln V + h\sigma^2/2$")
for i in range(3):
    points = [three[i] for three in spread]
    ax.plot(factors, points, "o", c=COLOURS["black"], mfc="none", label=None if i else "measured")
ax.axvline(math.sqrt(6 * uniform), color="grey", lw=1, ls=":", marker="")
ax.text(math.sqrt(6 * uniform) * 1.04, 7.1, r"$h\sigma^2 = 2\,\ln V$", color="#444444")
ax.axhline(uniform, color="grey", lw=1, ls="--", marker="", label=r"$\ln V$")
ax.set(xscale="log", yscale="log", xticks=[0.25, 0.5, 1, 2, 4, 8, 16], yticks=[7, 10, 20, 40])
ax.set_xticklabels(["1/4", "1/2", "1", "2", "4", "8", "16"])
ax.set_yticklabels(["7", "10", "20", "40"])
ax.minorticks_off()
ax.set(xlabel="width of the starting weights, times the rule's", ylabel="loss at the start (nats)")
ax.set_title("Wider starting weights cost quadratically, until one logit rules")
ax.legend()
figure(
    fig,
    alt="Loss at the start against the width of the weights, both logarithmic. Measured points lie "
    f"on the curve ln V + h sigma^2 / 2 from {spread[0][0]:.2f} nats at a quarter of the rule's "
    f"width to {spread[5][0]:.1f} at four times; beyond eight times they fall below it, "
    f"{spread[-1][0]:.0f} instead of {uniform + 16**2 / 6:.0f} nats at sixteen times.",
)

# %% [markdown]
# Each circle is one draw. The curve holds as long as many tokens share the sum of the exponentials.
# The mean of $e^z$ comes from logits near $h\sigma^2$, and the largest of $V$ draws lies near
# $\sqrt{2 h \sigma^2 \ln V}$. Right of the dotted line the first is larger than the second: no draw
# gets there, and a single largest logit rules the sum. Then the loss grows only in proportion to
# the width, not to its square.
#
# ### Wider with depth
#
# The stream is a sum, and sums of random numbers grow. Each layer adds two results. If all have the
# same variance, the sum of $2L$ of them has $2L$ times that variance. So Megatron divides the
# variance of the two matrices that write into the stream by $2L$ [S10].
#
# We send text through untrained models, and measure the stream after each layer.

# %%
def stream_std(layers, times=1.0, divided=True):
    """Standard deviation of the stream after each of `layers` untrained layers."""
    model = drawn(Model(layers=layers, hidden=128, heads=4, seq=64, vocab=256), times, seed)
    if not divided:
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith(("attention.out.weight", "mlp.down.weight")):
                    weight *= math.sqrt(2 * layers)
    seen = []
    for block in model.blocks:
        block.register_forward_hook(lambda block, given, x: seen.append(x.std().item()))
    with torch.no_grad():
        model(data[: 4 * 64].view(4, 64))
    return seen


depths = {
    "48 layers, not divided": stream_std(48, divided=False),
    "12 layers, the rule": stream_std(12),
    "24 layers, the rule": stream_std(24),
    "48 layers, the rule": stream_std(48),
}

# %%
fig, ax = plt.subplots()
for label, seen in depths.items():
    ax.plot(range(1, len(seen) + 1), seen, label=label, markevery=6)
ax.set(xlabel="layers passed", ylabel="standard deviation of the stream", yscale="log")
ax.set(yticks=[0.1, 0.3, 1, 3], yticklabels=["0.1", "0.3", "1", "3"], ylim=(0.06, 6))
ax.minorticks_off()
ax.set_title("Divided by $2L$, the stream ends equally wide at every depth")
ax.legend(loc="lower right", ncols=2, fontsize=9.5)
figure(
    fig,
    alt="Width of the stream against layers passed, logarithmic. "
    + "; ".join(f"{label}: from {s[0]:.2f} to {s[-1]:.2f}" for label, s in depths.items())
    + ".",
)

# %%
depths["12 layers, not divided"] = stream_std(12, divided=False)
depths["48 layers, 3 times as wide"] = stream_std(48, times=3)
for label, seen in sorted(depths.items()):
    print(f"{label:<27} ends at {seen[-1]:.2f}")

# %% [markdown]
# With the division, models of 12, 24 and 48 layers end nearly equally wide. Without it, four times
# the depth gives about twice the width: sums of random numbers grow with the square root of their
# number.
#
# Weights that are three times as wide make the stream about ten times as wide. Each branch holds
# two matrices in a row, which makes nine. The rest must come from the parts that are not linear,
# softmax and GeLU.
#
# No line explodes. Each branch starts with a LayerNorm, so a wide stream does not make the next
# branch wider. And the last LayerNorm hides all of this from the loss at the start, which depends
# on neither the depth nor the width of the stream.
#
# ### 200 steps
#
# Does the start still matter later? We train three small models on bytes of text, with two seeds
# each. They differ only in the width of their starting weights. The optimizer has MT-NLG's
# settings, and the learning rate is that of our preset `nano`. Lesson 04 explains these settings.

# %%
small = Model(layers=2, hidden=64, heads=4, seq=64, vocab=256)


def train(model, seed):
    """Loss (nats per byte) of each step of a training run; the model is changed."""
    source = torch.Generator().manual_seed(seed)
    peak = preset("nano").optim.lr
    adam = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.95), weight_decay=0.1)
    losses = []
    for step in range(steps):
        adam.param_groups[0]["lr"] = peak * min(1, (step + 1) / 20)
        starts = torch.randint(len(data) - 65, (8,), generator=source)
        rows = torch.stack([data[i : i + 65] for i in starts])
        loss = model.loss(Batch(rows[:, :-1], rows[:, 1:], torch.ones(8, 64))) / (8 * 64)
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        losses.append(loss.item())
    return torch.tensor(losses)


widths = {"a tenth as wide": 0.1, "the rule": 1.0, "ten times as wide": 10.0}

# %%
curves, trained = {}, None
for label, times in widths.items():
    runs = []
    for i in (seed, seed + 1):
        model = drawn(small, times, i)
        runs.append(train(model, i))
        if times == 1 and trained is None:
            trained = model
    curves[label] = torch.stack(runs)
    last = curves[label][:, -20:].mean(1)
    print(f"{label:<18} step 1 {runs[0][0]:6.2f}   last 20 steps {last[0]:.2f} and {last[1]:.2f}")

# %%
fig, ax = plt.subplots()
tens = [slice(i, i + 10) for i in range(0, steps, 10)]
for label, runs in curves.items():
    means = [runs[:, ten].mean() for ten in tens]
    ax.plot([ten.start + 5 for ten in tens], means, label=label, markevery=2)
ax.axhline(math.log(256), color="grey", lw=1, ls="--", marker="")
ax.text(steps, math.log(256) * 1.02, r"$\ln V$", ha="right", va="bottom", color="#444444")
ax.set(xlabel="step", ylabel="loss (nats per byte)", yscale="log", yticks=[2, 3, 4, 6, 10, 16])
ax.set_yticklabels(["2", "3", "4", "6", "10", "16"])
ax.minorticks_off()
ends = {label: runs[:, -20:].mean() for label, runs in curves.items()}
ax.set_title(f"After {steps} steps {min(ends, key=ends.get)} is ahead")
ax.legend()
figure(
    fig,
    alt=f"Loss over {steps} training steps, mean of two seeds. "
    + "; ".join(f"{x}: from {r[:, 0].mean():.1f} to {ends[x]:.2f}" for x, r in curves.items())
    + ".",
)

# %% tags=["predict"]
behind = (ends["ten times as wide"] - ends["the rule"]).item()
print(f"ten times as wide: {behind:+.2f} nats against the rule after {steps} steps")
if not ends["ten times as wide"] < curves["ten times as wide"][:, 0].mean():
    outcome = "diverges"
else:
    outcome = "lags behind" if behind > 0.1 else "catches up"
assert round(preset("mtnlg-530b").model.parameters() / small.parameters() / 1e6, 1) == 4.4
measured("ten_times_as_wide", outcome, tell="It spends its first steps on unlearning noise.")

# %% [markdown]
# Wide weights start with a large debt, and do not pay all of it back in 200 steps. Narrow ones
# start without debt, near $\ln V$, and yet they fall behind as well. A likely reason: each branch
# multiplies by two matrices in a row. While both are nearly zero, moving either of them changes
# little.
#
# What this does **not** show is a failure to converge, which MT-NLG's authors met with a larger
# variance [S3]. Here the loss of every run falls. Our model is 4.4 million times smaller and sees
# only 200 steps. At this size a bad start costs time, and no more; the rest we cannot show.
#
# ### Attention, seen
#
# One of these models, drawn by the rule, has learned a little. We look at the attention weights of
# its first layer for a short sentence, with the functions from above. A row is the byte that looks,
# a column the byte that it looks at.

# %%
sentence = "the value of a name"
letters = torch.tensor([list(sentence.encode())])


def first_layer_weights(model):
    """Attention weights [a, s, s] of the first layer for the sentence."""
    w = dict(model.named_parameters())
    x = w["embedding.weight"][letters.T] + w["position.weight"][: letters.shape[1], None]
    y = norm(x, w, "blocks.0.attention_norm")
    q, k, _ = queries_keys_values(y, w, "blocks.0.attention.qkv", small.heads)
    return look_back(q, k)[0].detach()


models = {"drawn": drawn(small, 1, seed), "trained": trained}
seen = {state: first_layer_weights(model) for state, model in models.items()}

# %%
fig, axes = plt.subplots(2, 4, figsize=(10, 5.9), sharex=True, sharey=True)
for line, (state, weights) in zip(axes, seen.items(), strict=True):
    for head, ax in enumerate(line):
        image = ax.imshow(weights[head], cmap="Greys", vmin=0, vmax=0.5)
        ax.set_title(f"{state}, head {head}", fontsize=10.5)
        for ticks in (ax.set_xticks, ax.set_yticks):
            ticks(range(len(sentence)), sentence.replace(" ", "·"), fontsize=8)
        ax.tick_params(length=0)
        ax.grid(False)
fig.suptitle("No byte sees the future; trained heads each pick other bytes", x=0.06, ha="left")
fig.supxlabel("the byte looked at (a dot is a space)", fontsize=11)
fig.supylabel("the byte that looks", fontsize=11)
fig.tight_layout(rect=(0, 0, 0.93, 1), h_pad=1.5)
fig.colorbar(image, label="weight", cax=fig.add_axes((0.945, 0.18, 0.014, 0.6)))
figure(
    fig,
    alt="Attention weights of four heads, in two rows of pictures: freshly drawn and trained. All "
    "above the diagonal is white. Freshly drawn heads are alike and fade evenly from the top, each "
    "byte taking the plain mean of its past; trained heads differ and have dark spots.",
)

# %%
for state, weights in seen.items():
    assert (weights.triu(1) == 0).all() and torch.allclose(weights.sum(-1), torch.ones(()))
    strongest = weights[:, 8:].amax(-1).mean(-1)
    print(f"{state:<8} largest weight of a row, by head:", strongest.numpy().round(2))

# %% [markdown]
# Everything above the diagonal is exactly zero, and every row sums to 1. The freshly drawn model
# gives each past byte about the same weight: it takes plain means. Training made some bytes count
# more than others, and different ones in each head.

# %% [markdown]
# ## You might think
#
# *It does not matter when the mask is applied. Compute the softmax over all tokens, and set the
# weights of the future to zero afterwards: they are gone either way.*
#
# We try it, and change the last token.

# %% tags=["predict"]
def masked_afterwards(q, k):
    """The wrong way: softmax over all tokens, then zero in the future."""
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1).tril()


other = tokens.clone()
other[:, -1] = (other[:, -1] + 1) % 256
change = {}
for way in (look_back, masked_afterwards):
    first = []
    for given in (tokens, other):
        x = w["embedding.weight"][given.T] + w["position.weight"][:, None]
        y = norm(x, w, "blocks.0.attention_norm")
        q, k, v = queries_keys_values(y, w, "blocks.0.attention.qkv", tiny.heads)
        first.append((way(q, k) @ v)[:, :, 0])
    change[way] = (first[0] - first[1]).abs().max().item()
    print(f"{way.__name__:<18} the first token changes by {change[way]:.1e}")

answer = "it changes" if change[masked_afterwards] > 0 else "it stays the same"
assert change[look_back] == 0
measured("mask_after_softmax_leaks", answer, tell="A softmax divides by a sum over all tokens.")

# %% [markdown]
# The values of the future are gone, but its scores are not: they are part of the sum that the
# softmax divides by. In training a model can learn to read hints of the answer from there. When it
# writes text of its own, there is no future and no hint.
#
# The rows no longer sum to 1 either. Dividing each row by its sum would mend both, and give exactly
# what the mask inside the softmax gives at once.

# %% [markdown]
# ## Proof
#
# **Our page is the package's model.** With the same weights and tokens we compare logits, loss and
# every gradient, for both of the package's ways to compute attention. `readable` is the formula,
# shown here; its one addition, dropout, is off in this lesson. `sdpa` is PyTorch's own function,
# which need not store the attention weights. All is in 64 bits, where rounding errors are about
# $10^{-16}$.

# %%
show(readable_core)

# %%
gradients = dict(zip(w, torch.autograd.grad(loss, list(w.values())), strict=True))
for way in ("readable", "sdpa"):
    shape = Model(layers=2, hidden=40, heads=4, seq=12, vocab=256, attention=way)
    package = GPT(shape, seed=seed, dtype=torch.float64)
    package_logits = package(tokens)
    package_loss = package.loss(Batch(tokens, labels, torch.ones(tokens.shape))) / tokens.numel()
    package_loss.backward()
    apart = [(package_logits - logits).abs().max(), (package_loss - loss).abs()]
    apart.append(max((p.grad - gradients[n]).abs().max() for n, p in package.named_parameters()))
    print(f"{way:<10} logits {apart[0]:.0e}   loss {apart[1]:.0e}   gradients {apart[2]:.0e}")
    assert max(apart) < 1e-12

# %% [markdown]
# **The gradients are slopes.** Autograd should be checked too. In each tensor of parameters we take
# one number and move it a little up and a little down. The change of the loss, divided by the
# distance, is the slope.

# %%
def slope(name, index, step=1e-5):
    """Slope of the loss in one number of parameter `name`, from two losses."""
    found = []
    for sign in (1, -1):
        moved = {n: p.detach().clone() for n, p in w.items()}
        moved[name].view(-1)[index] += sign * step
        found.append(F.cross_entropy(gpt(tokens, moved, tiny).flatten(0, 1), labels.T.flatten()))
    return (found[0] - found[1]).item() / (2 * step)


worst = 0.0
print(f"{'parameter':<32}{'autograd':>14}{'two losses':>14}")
for name, gradient in gradients.items():
    index = gradient.abs().argmax().item()
    exact, numeric = gradient.view(-1)[index].item(), slope(name, index)
    worst = max(worst, abs(exact - numeric) / abs(exact))
    if "blocks.1" not in name:
        print(f"{name:<32}{exact:>14.9f}{numeric:>14.9f}")
print(f"largest relative difference {worst:.0e}")
assert worst < 1e-5

# %% [markdown]
# **Nothing comes from the future.** We change each token in turn, and compare the logits before it
# and those from it on with what they were.

# %%
before, after = 0.0, math.inf
for j in range(tiny.seq):
    changed = tokens.clone()
    changed[:, j] = (changed[:, j] + 1) % 256
    difference = (gpt(changed, w, tiny) - logits).abs()
    before = max(before, difference[:j].max().item() if j else 0.0)
    after = min(after, difference[j:].amax(-1).min().item())
print(f"before the changed token: at most {before}   from it on: at least {after:.1e}")
assert before == 0 < after

# %% [markdown]
# The first number is not small but zero. Every later token notices the change, and no earlier one
# does.

# %% [markdown]
# ## Cost
#
# What the model costs in parameters, counted in real models and by the formula, term by term.

# %%
def terms(config):
    """Parameters of each part of a model, over all its layers."""
    L, h = config.layers, config.hidden
    return {
        "attention, h to 3h": L * (3 * h * h + 3 * h),
        "attention, h to h": L * (h * h + h),
        "MLP, h to 4h": L * (4 * h * h + 4 * h),
        "MLP, 4h to h": L * (4 * h * h + h),
        "LayerNorms": (2 * L + 1) * 2 * h,
        "embedding": config.vocab * h,
        "positions": config.seq * h,
    }


PARTS = {  # a piece of the package's names for it
    "attention, h to 3h": "attention.qkv.",
    "attention, h to h": "attention.out.",
    "MLP, h to 4h": "mlp.up.",
    "MLP, 4h to h": "mlp.down.",
    "LayerNorms": "norm.",
    "embedding": "embedding.",
    "positions": "position.",
}
nano = preset("nano").model
counted = {part: 0 for part in PARTS}
for name, weight in GPT(nano).named_parameters():
    part = next(part for part, piece in PARTS.items() if piece in name)
    counted[part] += weight.numel()

print(f"{'nano':<20}{'counted':>12}{'formula':>12}")
for part, number in terms(nano).items():
    print(f"{part:<20}{counted[part]:>12,}{number:>12,}")
print(f"{'together':<20}{sum(counted.values()):>12,}{nano.parameters():>12,}")
assert counted == terms(nano) and sum(counted.values()) == nano.parameters()

# %% [markdown]
# The embedding is counted once, though it is used twice: it is one matrix, and it receives the sum
# of two gradients. It is called *tied*.

# %% [markdown]
# ## MT-NLG
#
# The same terms at 105 layers, $h = 20480$ and 128 heads [S1, S3]. The size of its vocabulary was
# not published; $V = 51200$ is that of the benchmarks of its family [S12], and learned positions
# are assumed as in [S13]. With these the count is exact.

# %% tags=["predict"]
mtnlg = preset("mtnlg-530b").model
parts = terms(mtnlg)
for part, number in parts.items():
    print(f"{part:<20}{number:>18,}{number / mtnlg.parameters():>9.3%}")
print(f"{'together':<20}{sum(parts.values()):>18,}")
assert sum(parts.values()) == mtnlg.parameters() == 529_600_819_200
in_layers = sum(parts.values()) - parts["embedding"] - parts["positions"] - 2 * mtnlg.hidden
measured(
    "percent_in_layers",
    100 * in_layers / mtnlg.parameters(),
    unit="%",
    tell="A layer grows with the square of h, the tables only with h.",
)

# %%
names = ["nano", "gpt2-1.5b", "megatron-8b", "turing-17b", "gpt3-175b", "mtnlg-530b"]
groups = {
    "attention": ["attention, h to 3h", "attention, h to h"],
    "MLP": ["MLP, h to 4h", "MLP, 4h to h"],
    "embedding and positions": ["embedding", "positions"],
}
fig, ax = plt.subplots(figsize=(8, 3.6))
start, shares_of = [0.0] * len(names), {}
fills = zip(groups.items(), [COLOURS["blue"], "#F2C879", "white"], ["", "", "////"], strict=True)
for (group, members), fill, hatch in fills:
    shares = []
    for name in names:
        shape = preset(name).model
        shares.append(100 * sum(terms(shape)[part] for part in members) / shape.parameters())
    ax.barh(names, shares, left=start, color=fill, hatch=hatch, ec="black", lw=0.8, label=group)
    start = [a + b for a, b in zip(start, shares, strict=True)]
    for name, share in zip(names, shares, strict=True):
        shares_of.setdefault(name, []).append(share)
ax.invert_yaxis()
ax.grid(False)
ax.set(xlabel="share of the parameters (%)", xlim=(0, 100))
ax.set_title("Large models are nearly all layers: one third attention, two thirds MLP")
ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3)
figure(
    fig,
    alt="Bars of six models from nano to MT-NLG, divided into attention, MLP, and embedding with "
    f"positions. The last part shrinks from {shares_of['nano'][2]:.0f} % in nano to "
    f"{shares_of['mtnlg-530b'][2]:.1f} % in MT-NLG; there attention has "
    f"{shares_of['mtnlg-530b'][0]:.0f} % and the MLP {shares_of['mtnlg-530b'][1]:.0f} %. LayerNorms "
    "are too few to be seen.",
)

# %% [markdown]
# The width of the starting weights was published as $4.0 \cdot 10^{-3}$, with the rule
# $\sqrt{1/(3h)}$ beside it [S3].

# %%
exact, published = mtnlg.init_std, 4.0e-3
print(f"rule       {exact:.3e}   h sigma^2 / 2 = {mtnlg.hidden * exact**2 / 2:.4f}")
print(f"published  {published:.3e}   h sigma^2 / 2 = {mtnlg.hidden * published**2 / 2:.4f}")
print(f"written into the stream: {exact / math.sqrt(2 * mtnlg.layers):.2e}")
print(f"loss at the start, by the formula: {math.log(mtnlg.vocab) + 1 / 6:.2f} nats")
assert f"{exact:.3e}" == "4.034e-03"

# %% [markdown]
# The published value is the rule, rounded. Dividing the variance of the two writing matrices by
# $2L$ is what the code does by default [S10]; for MT-NLG itself it is not confirmed.
#
# No loss at the start was published. The first that was is 3.15 on held-out text, after a billion
# tokens [S3].
#
# Now back to your rank of lesson 00. Its stage holds 3 of the 105 layers, and its slice an eighth
# of each. Here it pays that the outputs of the first attention matrix lie head by head: 16 heads
# are one block of rows.

# %%
rank = my_rank()
mine = MTNLG.place(rank)
layers, heads = mtnlg.layers // MTNLG.pp, mtnlg.heads // MTNLG.tp
rows = heads * 3 * mtnlg.head_size
print(f"rank {rank}: stage {mine.pp}, slice {mine.tp}")
print(f"layers   {layers * mine.pp} to {layers * mine.pp + layers - 1}")
print(f"heads    {heads * mine.tp} to {heads * mine.tp + heads - 1} of each")
print(f"rows     {rows * mine.tp} to {rows * (mine.tp + 1) - 1} of 61440 make their q, k and v")
print(f"holds    {layers * 12 * mtnlg.hidden**2 // MTNLG.tp:,} parameters in matrices")
if mine.pp in (0, MTNLG.pp - 1):
    print(f"and {mtnlg.vocab // MTNLG.tp} rows of the embedding, which first and last stage share")
assert (layers, heads, rows * MTNLG.tp) == (3, 16, 61440)

# %% [markdown]
# ## Check yourself
#
# 1. A layer of $h = 1$ has how many parameters, and how many of them are in matrices?
#
# <details><summary>Answer</summary>
#
# $12 + 13 = 25$, of which 12 are in matrices: 3 and 1 in attention, 4 and 4 in the MLP. At $h =
# 20480$ the $13 h$ of biases and norms hardly count beside $12 h^2$.
#
# </details>
#
# 2. You start a run with $V = 51200$ and the first loss printed is 10.84. Is all well?
#
# <details><summary>Answer</summary>
#
# No. $\ln 51200 = 10.84$, so the logits have no spread at all; by the rule you expect $11.01$.
# Perhaps the embedding was drawn far too narrow, or something near zero multiplies the output.
#
# </details>
#
# 3. Doubling the number of heads at the same $h$: what happens to the number of parameters, and to
#    the attention weights?
#
# <details><summary>Answer</summary>
#
# The parameters stay the same: no matrix changes its shape. The attention weights `[b, a, s, s]`
# double in number, since every head has its own table of $s \times s$.
#
# </details>
#
# 4. Why can a model of 48 untrained layers have a stream three times too wide and still start at
#    the same loss?
#
# <details><summary>Answer</summary>
#
# The last LayerNorm divides by the width of the stream. The logits see only the direction of each
# token's list.
#
# </details>
#
# 5. A sequence has 12 tokens. How many predictions does one forward pass train?
#
# <details><summary>Answer</summary>
#
# Twelve, one at each token. The causal mask makes this possible: each is computed as if the rest of
# the sequence had not been written yet.
#
# </details>

# %%
assert 12 * 1**2 + 13 * 1 == 25
assert round(math.log(51200), 2) == 10.84 and round(math.log(51200) + 1 / 6, 2) == 11.01

# %% [markdown]
# ## Exercises
#
# Count the parameters of a model that is not MT-NLG. Then write the gradients of attention, which
# autograd gave us, once yourself.
