# ---
# question: A model gives the probabilities of one token. How does it write a text with them, and what
#   does it take to serve 530 billion parameters?
# needs: [causal attention, rank, layout, stage, schedule, bubble, micro-batch, roofline, node, link]
# introduces:
#   temperature: "The number by which logits are divided before a token is drawn: below 1 the likely
#     become likelier, above 1 all become alike."
#   top-p: "Drawing from the fewest tokens, the likeliest first, whose probabilities reach $p$
#     together."
#   key-value cache: "Keys and values of all tokens so far, kept by every layer, so that the next token
#     needs a pass of its own alone."
# proves: "A cache, a batch and a layout change no token."
# minutes: 40
# seconds: 60
# ---

# %% [markdown]
# # Generation
#
# A model is asked one question over and over: what comes next? Its answer is a probability for each
# token of the vocabulary. That is all that it ever says.
#
# In this lesson we make texts of such answers. We choose tokens in different ways and see what becomes
# of the text. We keep what need not be computed twice. Then we let four ranks write together, and
# count what MT-NLG needs to answer one reader, and a hundred.

# %% [markdown]
# ## Question
#
# Take the model that this course trains within a minute, and the beginning of a text.

# %%
import statistics
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from minimtnlg import run
from minimtnlg.config import preset
from minimtnlg.course.check import measured, predict
from minimtnlg.course.need import need
from minimtnlg.course.plots import COLOURS, time_line
from minimtnlg.course.show import figure, show
from minimtnlg.data.corpus import Corpus, split_documents
from minimtnlg.data.tokenizer import Tokenizer
from minimtnlg.device import device
from minimtnlg.evaluate.decoder import Decoder
from minimtnlg.evaluate.generate import beam, generate
from minimtnlg.evaluate.sampling import distribution, drawn
from minimtnlg.model.cache import Cache
from minimtnlg.parallel.layout import Layout
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.parallel.schedules import OneFOneB
from minimtnlg.parallel.simulate import simulate
from minimtnlg.plan.hardware import hardware
from minimtnlg.train.checkpoint import load_run

# %% tags=["parameters"]
which: str = "nano"  # the model, as need() knows it
prompt: str = "The history of the"
seed: int = 1
repeats: int = 3  # of each measured time; the fastest counts

# %%
folder = need(which)
words = Tokenizer.load(folder / "tokenizer.json")
config, model = load_run(folder)
model.requires_grad_(False)
start = words.encode(prompt)
print(f"{which}: {config.model.parameters():,} parameters, {words.size} tokens, "
      f"{config.model.seq} positions")  # fmt: skip
print([words.decode([i]) for i in start])

# %% [markdown]
# One pass over these few tokens gives one distribution. A text needs a thousand of them.
#
# **How does one write a text with probabilities, and what does it take to serve a model of 530
# billion parameters?**

# %% [markdown]
# ## Predict
#
# Type your guess in place of `None`, then run the cell.
#
# 1. We always take the likeliest token. Does our small model write ever new words, or the same over
#    and over?
# 2. Its vocabulary has 2048 tokens. After the beginning above, how many of them share 90 % of the
#    probability?
# 3. A text grows from 8 tokens to 128. Each new token needs the model's view of all before it. How
#    many times fewer FLOPs does it take if nothing is computed twice?
# 4. MT-NLG writes for one reader, on 16 A100 GPUs in two nodes: eight slices, two stages. How many
#    tokens can it write in a second, at the very most?

# %%
predict("the_likeliest_text", None, choices=["ever new words", "the same over and over"])
predict("tokens_that_share_ninety_percent", None)
predict("fewer_flops_with_a_cache", None)
predict("tokens_a_second_for_one_reader", None)

# %% [markdown]
# ## Trouble
#
# The obvious way: look at the distribution, take the likeliest token, append it, look again.


# %% tags=["predict"]
def logits_after(model, ids):
    """[len(ids), V]: what the model says after each of them; one pass over all."""
    return model(torch.tensor([ids], device=device()))[:, 0].cpu()


def next_distribution(ids):
    """Probabilities of the token after `ids`."""
    return logits_after(model, ids)[-1, : words.size].softmax(-1)


text = list(start)
for _ in range(40):
    text.append(next_distribution(text).argmax().item())
print(words.decode(text))
tail = text[-24:]
loops = len(set(tail)) <= 8
measured("the_likeliest_text", "the same over and over" if loops else "ever new words")

# %% [markdown]
# This is *greedy* decoding. A few tokens that often follow one another drive out all others. Large
# models fall into such loops later, and into longer ones, but they do.
#
# There is a second trouble, which one does not see: for each new token, all tokens before it went
# through the model again.

# %%
passes = sum(range(len(start), len(start) + 40))
print(f"{passes} tokens went through the model to write 40")
assert passes == 40 * len(start) + 40 * 39 // 2

# %% [markdown]
# ## Idea
#
# ### Draw, but not from everything
#
# The model does not say *this token*. It says how probable each one is. So draw: roll a die with as
# many faces as the vocabulary has tokens, each as wide as it is probable.
#
# Three knobs change the die. **Temperature** $T$ divides the logits $l_i$ before the softmax:
#
# $$p_i = \frac{e^{l_i/T}}{\sum_j e^{l_j/T}}$$
#
# By hand: four tokens with probabilities 0.5, 0.25, 0.15, 0.1. At $T = \frac12$ each is squared, and
# the squares are scaled to a sum of 1 again.

# %%
small = torch.tensor([0.5, 0.25, 0.15, 0.1], dtype=torch.float64)
for T in (0.5, 1.0, 2.0):
    print(f"T = {T}:", [round(x, 3) for x in distribution(small.log(), T).tolist()])
squares = small**2 / (small**2).sum()
assert torch.allclose(distribution(small.log(), 0.5), squares)

# %% [markdown]
# And the model's own answer, at three temperatures. A dot stands for a space.

# %%
logits = logits_after(model, start)[-1, : words.size]
likeliest = logits.topk(14).indices
names = [words.decode([i]).replace(" ", "·").replace("\n", "\\n") for i in likeliest.tolist()]
fig, axes = plt.subplots(3, 1, figsize=(7, 5.6), sharex=True)
shares = []
for ax, T, colour in zip(axes, (0.5, 1.0, 2.0), ("sky", "blue", "black"), strict=True):
    p = distribution(logits, T)
    shares.append(p[likeliest].sum().item())
    ax.bar(range(14), p[likeliest], color=COLOURS[colour])
    ax.set(ylabel="probability", ylim=(0, 1.15 * p.max().item()))
    ax.set_title(f"T = {T}: these 14 have {shares[-1]:.0%}, the other {words.size - 14} the rest")
axes[-1].set_xticks(range(14), names)
fig.tight_layout()
figure(
    fig,
    alt=f"Bars of the 14 likeliest tokens after the prompt, at temperatures 0.5, 1 and 2. Together "
    f"they have {shares[0]:.0%}, {shares[1]:.0%} and {shares[2]:.0%} of the probability: the lower "
    "the temperature, the more the first bars stand out.",
)
assert shares[0] > shares[1] > shares[2]

# %% [markdown]
# Look at the rest. Each token outside is rare. But there are two thousand of them, and a text draws
# many times. If the junk at the end of the list has 10 % together, then 40 draws hit it with near
# certainty, and one odd token spoils what follows.

# %%
print(f"{1 - 0.9**40:.1%} of texts of 40 tokens hold a token from the last tenth")
assert 1 - 0.9**40 > 0.98

# %% [markdown]
# So cut the end off. *Top-k* keeps the $k$ likeliest tokens. **Top-p** keeps the fewest whose
# probabilities reach $p$ together. Both scale what is left to a sum of 1.
#
# By hand, with the four tokens above and $p = 0.7$: the first has 0.5, which is too little. The first
# two have $0.5 + 0.25 = 0.75$, which is enough. They stay, with $\frac23$ and $\frac13$.

# %% tags=["predict"]
kept = distribution(small.log(), top_p=0.7)
assert torch.allclose(kept, torch.tensor([2 / 3, 1 / 3, 0, 0], dtype=torch.float64))


def how_many(ids, p=0.9):
    """Of how many tokens the fewest that reach p are."""
    return int((distribution(next_distribution(ids).log(), top_p=p) > 0).sum())


measured("tokens_that_share_ninety_percent", how_many(start), unit="tokens",
         tell=f"The other {words.size - how_many(start)} have a tenth together.")  # fmt: skip

# %% [markdown]
# Why is a fixed $k$ not as good? Because a model is surer at some places than at others. Here is the
# number that top-p keeps, at each place of a sentence that no model wrote.

# %%
human = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, "
    "must be in want of a wife."
)
ids = words.encode(human)
counts = [how_many(ids[:n]) for n in range(1, len(ids))]
fig, ax = plt.subplots(figsize=(7.5, 3.4))
ax.bar(range(1, len(ids)), counts, color=COLOURS["blue"])
ax.axhline(statistics.median(counts), color="black", ls=":", label="a fixed k")
ax.set(xlabel="tokens read so far", ylabel="tokens that reach 90 %",
       title="How many tokens may come next differs from place to place")  # fmt: skip
ax.set_ylim(0, 1.25 * max(counts))
ax.legend(loc="upper left")
figure(
    fig,
    alt=f"Bars for {len(counts)} places of a sentence: top-p with p = 0.9 keeps between {min(counts)} "
    f"and {max(counts)} tokens. A dotted line marks the median, {statistics.median(counts):g}: too "
    "many at some places, too few at others.",
)
assert max(counts) > 1.5 * min(counts)

# %% [markdown]
# Hundreds everywhere: a model that trained for a minute is sure nowhere. A large one goes from a single
# token, in the middle of a name, to hundreds, and no fixed $k$ fits both.
#
# ### Keep what can't change
#
# Now the second trouble. In causal attention a token looks at itself and at the tokens before it.
# Nothing that comes later reaches it. So whatever a layer computed for token 5 stays right when
# token 6 arrives, and any token after it.
#
# And of an old token, new ones need two things only: its *key*, with which it is found, and its
# *value*, which it then gives. Keep both, in each layer. This is the **key-value cache**. Then the new
# token goes through the model alone.

# %%
done, n = 6, 8
fig, axes = plt.subplots(1, 2, figsize=(7.5, 3.5), sharey=True)
for ax, cached in zip(axes, (False, True), strict=True):
    for row in range(n):
        for column in range(row + 1):
            new = row == n - 1 or not cached
            ax.add_patch(plt.Rectangle((column, row), 1, 1, ec="black", lw=0.8, hatch="" if new else "//",
                                       fc=COLOURS["orange"] if new else "white"))  # fmt: skip
    ax.set(xlim=(0, n), ylim=(n, 0), xticks=[], yticks=[x + 0.5 for x in range(n)], aspect="equal")
    ax.set(title="with a cache" if cached else "without", xlabel="looks at token 0 ... 7")
    ax.set_yticklabels([f"token {i}" for i in range(n)], fontsize=8)
    ax.grid(False)
fig.tight_layout()
figure(
    fig,
    alt="Two triangles of 8 rows, a row for each token and a square for each token that it looks at. "
    "Without a cache all 36 squares are computed when token 7 comes. With a cache its row of 8 is "
    "computed; the 28 squares above are hatched, they were done before.",
)
print(f"{n * (n + 1) // 2} squares without, {n} with")

# %% [markdown]
# What does that save? Count FLOPs as in lesson 01. A pass over $m$ new tokens that look at $n$ in all
# costs
#
# $$L\,(24\,m\,h^2 + 4\,m\,n\,h) + 2\,h\,V$$
#
# where the logits are needed after the last token alone. Without a cache $m = n$, with one $m = 1$.

# %% [markdown]
# ## Code
#
# One head of attention, with a cache that is a list. The query of the new token meets all keys.


# %%
def attend_last(q, keys, values):
    """What the newest token gets: softmax(q k / sqrt(d)) v over all that is kept. [d]."""
    scores = torch.stack(keys) @ q / len(q) ** 0.5
    return scores.softmax(0) @ torch.stack(values)


g = torch.Generator().manual_seed(seed)
q, k, v = torch.randn(3, 6, 4, generator=g, dtype=torch.float64)  # six tokens, d = 4
keys, values, rows = [], [], []
for token in range(6):
    keys.append(k[token])
    values.append(v[token])
    rows.append(attend_last(q[token], keys, values))
at_once = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
print(f"one by one and all at once differ by {(torch.stack(rows) - at_once).abs().max():.0e}")
assert torch.allclose(torch.stack(rows), at_once)

# %% [markdown]
# No mask was needed: the newest token may look at everything that is there.
#
# The package keeps one tensor a layer and fills it from the left. Prompts of different lengths share a
# batch. Column $j$ of the cache is position $j$ of its own text, so each text keeps its positions, and
# what lies beyond its end is masked.

# %%
show(Cache.attend)

# %% [markdown]
# To draw, lay the tokens side by side on a line, each as long as it is probable. A number between 0
# and 1 points at one of them.

# %%
show(drawn)

# %% [markdown]
# The number comes from a generator that is named by the seed and by the prompt's number in the list;
# it has one number for each position. So the texts are the same however the list is cut into batches,
# and in any layout. Now texts, at last:

# %%
settings = {
    "greedy": {},
    "drawn": dict(temperature=1.0),
    "temperature 0.5": dict(temperature=0.5),
    "top-p 0.9": dict(temperature=1.0, top_p=0.9),
    "top-p 0.5": dict(temperature=1.0, top_p=0.5),
}
common = dict(eod=words.eod, vocab=words.size, seed=seed)
for name, options in settings.items():
    (new,) = generate(model, [start], 40, **options, **common)
    print(f"{name:16}{words.decode(start + new)!r}\n")

# %% [markdown]
# Our model is small, and none of these is English. What the knobs do, one text each does not show. So
# write forty with each, and ask the model how much each token surprises it: $-\log P$, in nats. (The
# forty greedy ones are all the same.)


# %%
def nats(ids, after):
    """-log P of each token of `ids` after the tokens `after`."""
    p = logits_after(model, after + ids)[len(after) - 1 : -1, : words.size].log_softmax(-1)
    return -p[range(len(ids)), ids]


surprise = {}
for name, options in settings.items():
    many = generate(model, [start] * 40, 40, **options, **common)
    each = torch.cat([nats(new, start) for new in many if new])
    surprise[name] = each.mean().item(), each.quantile(0.99).item()
    print(f"{name:16}{surprise[name][0]:5.1f} nats a token, one in a hundred above {surprise[name][1]:.1f}")
for tamed in ("temperature 0.5", "top-p 0.9", "top-p 0.5"):
    assert all(less < more for less, more in zip(surprise[tamed], surprise["drawn"], strict=True))

# %% [markdown]
# A low temperature brings the likely tokens back. Top-p with 0.9 changes the mean little, but
# the oddest tokens are gone.

# %% [markdown]
# ## You might think
#
# *The likeliest text is the best one. Greedy just does not find it, since it never looks ahead.*
#
# **Beam search** does look ahead. It keeps the $w$ likeliest texts so far, tries every token after
# each, and keeps the $w$ likeliest of all those.

# %%
count = 24
articles = Corpus(need("corpus")).readers["wikipedia"]
unseen = split_documents(len(articles), config.data.split)["valid"]  # held out of the training
article = articles[unseen[-1]].tolist()
people = [nats(part[4:], part[:4]) for part in (article[i : i + 4 + count] for i in range(0, 1000, 25))]

found = beam(model, start, count, 8, vocab=words.size)
(greedy_ids,) = generate(model, [start], count, vocab=words.size)
(top_p_ids,) = generate(model, [start], count, temperature=1.0, top_p=0.9, vocab=words.size, seed=seed)
texts = {
    "beam search": nats(found[0][0], start),
    "greedy": nats(greedy_ids, start),
    "top-p 0.9": nats(top_p_ids, start),
    "people": people[0],
}
print("people:     ", repr(words.decode(article[: 4 + count])))
print("beam search:", repr(words.decode(start + found[0][0])))
print(f"{'the very text of greedy' if found[0][0] == greedy_ids else 'not the text of greedy'}\n")
for name, each in texts.items():
    print(f"{name:14}{each.sum():7.1f} nats, {each.mean():.2f} a token")
print(f"{len(people)} parts of the article: {torch.cat(people).mean():.2f} a token")
assert abs(texts["beam search"].sum() + found[0][1]) < 1e-3
assert max(texts["beam search"].sum(), texts["greedy"].sum()) < min(each.sum() for each in people)

# %% [markdown]
# Nano's beam of eight finds greedy's own text, and no likelier one. (Not even that is promised: greedy's
# beginning may fall out of the eight before it pays.) It is no better for being likely.
#
# What people write is far *less* likely: here the beginning of an article that was held out of the
# training, and is of the same kind as what was in it.

# %%
fig, ax = plt.subplots(figsize=(7.5, 3.8))
for (name, each), colour in zip(texts.items(), ("black", "orange", "blue", "red"), strict=True):
    if name != "greedy":
        ax.plot(range(count), each, label=f"{name}, mean {each.mean():.1f}", color=COLOURS[colour])
ax.set(xlabel="token of the text", ylabel="surprise, -log P (nats)", ylim=(0, 11),
       title="People surprise the model, its own likely text does not")  # fmt: skip
ax.legend(fontsize=9, loc="upper left", ncols=3, columnspacing=1)
figure(
    fig,
    alt=f"Surprise of each of {count} tokens. Beam search stays at "
    f"{texts['beam search'].mean():.1f} nats on average, a text drawn with top-p at "
    f"{texts['top-p 0.9'].mean():.1f}, a held-out article at {texts['people'].mean():.1f}, with high "
    "peaks.",
)

# %% [markdown]
# Think of a biased coin that shows heads in three of five throws. The likeliest series of 100 throws is
# heads a hundred times, and nobody ever sees it. A typical series has surprises, and so has a text.
#
# For translation, where one answer is right, beam search helps. For open text one draws.

# %% [markdown]
# ## Proof
#
# **A cache changes nothing.** And neither do the others in a batch: here are prompts of different
# lengths together, each by itself, and without a cache, in float64.

# %%
exact = load_run(folder)[1].double().requires_grad_(False)
prompts = [start, ids[:11], ids[:2], [words.eod]]
options = dict(temperature=1.0, top_p=0.9, vocab=words.size, seed=seed)
together = generate(exact, prompts, 20, **options)
assert generate(exact, prompts, 20, cache=False, **options) == together
assert generate(exact, prompts, 20, batch=1, **options) == together
print(f"{len(prompts)} prompts of {[len(p) for p in prompts]} tokens: the same {20 * len(prompts)} tokens, three times")

# %% [markdown]
# **And no layout does.** Four real ranks load their parts of the same weights: four slices, four
# stages, and two times two. A stage has the cache of its layers, a slice that of its heads. The last
# stage draws and tells the others which tokens came, since the first stage needs them to go on.


# %%
def write(folder, layout, prompts, options, texts):
    """What a rank of `layout` writes, and the logits after `texts` that it is told."""
    mesh = Mesh(layout)
    part = load_run(folder, mesh)[1].double().requires_grad_(False)
    new = generate(part, prompts, 20, **options)
    shape = len(texts), part.config.vocab
    with torch.no_grad():
        told = Decoder(part, len(texts), part.config.seq).step(texts, lambda logits: logits, shape)
    kept = sum(kv[0].numel() * 2 for kv in Cache(part, 1, 1).kv.values())
    return new, told.cpu(), kept


grown = [p + new for p, new in zip(prompts, together, strict=True)]
right = torch.stack([logits_after(exact, text)[-1] for text in grown])
whole = 2 * config.model.layers * config.model.hidden
for layout in (Layout(tp=4), Layout(pp=4), Layout(tp=2, pp=2)):
    told = run(write, 4, folder, layout, prompts, options, grown)
    assert all(new == together for new, _, _ in told)
    worst = max((logits - right).abs().max().item() for _, logits, _ in told)
    print(f"tp {layout.tp} pp {layout.pp}: the same tokens on all ranks, logits within {worst:.0e}; "
          f"{told[0][2]} of {whole} numbers of a token's cache on each")  # fmt: skip
    assert worst < 1e-9 and all(kept * 4 == whole for _, _, kept in told)

# %% [markdown]
# ## Cost
#
# We count what one more token costs, at each length of a text: first with PyTorch's counter of FLOPs,
# which watches the kernels, then by the formula.

# %% tags=["predict"]
c, S = config.model, 128
attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # which the counter lacks
counts_it = {attention: lambda q, k, v, *args, out_shape=None, **kwargs: sdpa_flop_count(q, k, v)}


def costs(cached, first=8):
    """(FLOPs, least seconds) of each step of a text that grows from `first` tokens to S."""
    decoder, text, rows = Decoder(model, 1, S, cached), list(range(first)), []
    while len(text) < S:
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=counts_it) as counter:
            decoder.step([text], lambda logits: logits.argmax(-1), (1,))
        rows.append(counter.get_total_flops())
        text.append(0)
    seconds = np.full((repeats, S - first), np.inf)
    for turn in seconds:
        decoder, text = Decoder(model, 1, S, cached), list(range(first))
        for i in range(S - first):
            began = time.perf_counter()
            with torch.no_grad():
                decoder.step([text], lambda logits: logits.argmax(-1), (1,)).item()
            turn[i] = time.perf_counter() - began
            text.append(0)
    return rows, seconds.min(0)


def formula(m, n):
    """FLOPs of a pass over m new tokens that look at n."""
    return c.layers * (24 * m * c.hidden**2 + 4 * m * n * c.hidden) + 2 * c.hidden * c.vocab


lengths = range(8, S)
(without, without_s), (with_, with_s) = costs(False), costs(True)
assert without == [formula(n, n) for n in lengths]
assert with_ == [formula(8, 8), *(formula(1, n) for n in lengths[1:])]
saved = sum(without) / sum(with_)
measured("fewer_flops_with_a_cache", saved, unit="times",
         tell=f"Without, a step takes the whole text, {statistics.mean(lengths):.0f} tokens on average.")  # fmt: skip

# %%
fig, axes = plt.subplots(1, 2, figsize=(8.5, 3.6))
for ax, (one, other), unit, scale in (
    (axes[0], (without, with_), "MFLOP", 1e6), (axes[1], (without_s, with_s), "ms", 1e-3)
):  # fmt: skip
    ax.plot(lengths, [x / scale for x in one], label="without", marker="", color=COLOURS["red"])
    ax.plot(lengths, [x / scale for x in other], label="with a cache", marker="", color=COLOURS["blue"])
    ax.set(xlabel="tokens of the text", ylabel=f"{unit} for the next token")
axes[1].set_ylim(0, 1100 * sorted(without_s)[-3])
axes[0].set_title("FLOPs, counted")
axes[1].set_title("Time, measured")
axes[0].legend()
fig.tight_layout()
late_without, late_with = np.median(without_s[-40:]), np.median(with_s[-40:])
figure(
    fig,
    alt=f"Left: FLOPs of the next token. Without a cache they grow to {without[-1] / 1e6:.0f} million at "
    f"{S} tokens, with one they stay near {with_[-1] / 1e6:.1f} million. Right: the time, at the end "
    f"{1e3 * late_without:.1f} ms without and {1e3 * late_with:.1f} ms with.",
)
print(f"at {S} tokens: {without[-1] / with_[-1]:.0f} times fewer FLOPs, {late_without / late_with:.1f} times less time")

# %% [markdown]
# The FLOPs fall as the formula says. The time falls by less. A step with one token is so little work
# that nano's time goes to starting some hundred small operations, whatever their size. On a large
# model something else takes that place, as we shall see: reading the weights.
#
# The price of the cache is memory: $2\,L\,h$ numbers for each token, two vectors of each layer.

# %%
numbers = sum(kv.numel() for kv in Cache(model, 1, S).kv.values())
print(f"nano: {numbers // S:,} numbers a token, {4 * numbers / 2**20:.1f} MiB for {S} tokens in fp32")
assert numbers == S * 2 * c.layers * c.hidden

# %% [markdown]
# **A pipeline writes slowly.** Token $n + 1$ can't begin before token $n$ has come out of the last
# stage. For a single text three of four stages wait at any time. Four texts fill the pipeline better:
# stage 0 starts the second while stage 1 has the first. Here is one step of each, simulated, in units of
# the time that a stage takes for one text. It ends when the last stage has chosen.

# %%
alone, four = (simulate(OneFOneB(pp=4, m=m, forward_only=True)) for m in (1, 4))
fig, axes = plt.subplots(2, 1, figsize=(7.5, 4.2))
time_line(alone, axes[0], title="One text: a step takes four units of time", legend=False)
time_line(four, axes[1], title="Four texts: seven units, for four tokens", legend=False)
for ax in axes:
    ax.set_xlim(0, 7)
fig.tight_layout()
figure(
    fig,
    alt="Two time lines of one step on four stages. One text passes through the stages one after "
    "another and takes 4 units. Four texts follow each other and take 7 units together.",
)
for m, line in ((1, alone), (4, four)):
    print(f"{m} texts: {line.total:g} units a step, stages busy {m / line.total:.0%} of it")
    assert line.total == m + 3

# %% [markdown]
# The package waits for the last text; without that, four texts would fill four stages. Stage 0 could go on
# with the first text as soon as its token is known.

# %% [markdown]
# ## MT-NLG
#
# Its weights in 16 bits, and the smallest number of A100 GPUs that have room for them:

# %%
mt, a100 = preset("mtnlg-530b").model, hardware("a100-80gb")
weights = 2 * mt.parameters()
token = 2 * 2 * mt.layers * mt.hidden  # bytes of the cache: keys and values, two bytes each
room = (a100.memory_gib - a100.reserved_gib) * 2**30
print(f"weights {weights / 1e12:.2f} TB: at least {-(-weights // room):.0f} GPUs of 80 GB, "
      f"{-(-weights // (36 * 2**30)):.0f} of 40 GB")  # fmt: skip
print(f"cache {token / 1e6:.1f} MB a token, {2048 * token / 1e9:.1f} GB for a text of 2048")
free = 16 * room - weights
texts_fit = int(free // (2048 * token))
print(f"16 GPUs of 80 GB, eight slices and two stages: {free / 1e9:.0f} GB are left, {texts_fit} texts")
assert (round(weights / 1e12, 2), round(token / 1e6, 1), texts_fit) == (1.06, 8.6, 13)

# %% [markdown]
# The DeepSpeed team states at least 40 GPUs of 40 GB [S11], and 28 is the weights and nothing else.
# Whole nodes of eight slices, and as many layers on each stage, leave few choices:

# %%
for stages in (4, 5, 7):
    largest = -(-mt.layers // stages)  # layers of the largest stage
    each = largest / mt.layers * weights / 8
    print(f"{8 * stages} GPUs: {largest} layers on the largest stage, {each / 2**30:.0f} GiB of weights "
          f"on a GPU, {'even' if mt.layers % stages == 0 else 'uneven'}")  # fmt: skip
assert [mt.layers % stages for stages in (4, 5, 7)] == [1, 0, 0]

# %% [markdown]
# Five stages of 21 layers are the first that come out even and leave a GPU a third of its memory.
#
# **How fast for one reader?** A token takes $2P$ FLOPs, with $P$ parameters: the matrix units of eight
# GPUs would need less than a millisecond. But each weight is read from memory for it, once, and then
# not used again. This is the left end of the roofline of lesson 15. Eight slices read at the same time.
# The two stages do not: stage 1 waits for what stage 0 hands on.

# %% tags=["predict"]
P = mt.parameters()
read = weights / (8 * a100.hbm * 1e9)
compute = 2 * P / (8 * a100.tflops * 1e12)
print(f"reading {1e3 * read:.0f} ms, computing {1e3 * compute:.1f} ms a token")
for pp in (2, 5, 35):
    print(f"{8 * pp:4} GPUs: {1 / read:.1f} tokens a second for one reader")
measured("tokens_a_second_for_one_reader", 1 / read, unit="tokens/s",
         tell="280 GPUs of eight slices would not write one token faster: stages take turns.")  # fmt: skip
assert 64 < 1e3 * read < 66 and compute < read / 100

# %% [markdown]
# Sums among the slices come on top: two in each layer, 210 for a token. Each adds up one vector of $h$
# numbers, which is 41 kB. Our model of the machine (plan/hardware.yaml) has 90 microseconds for any sum
# inside a node, and 30 more for a second node. The 90 come from sums of 64 MiB and 1 GiB. They were not
# measured for 41 kB.
#
# Sixteen slices on one stage would read in half the time. But then each sum goes between two nodes.

# %%
vector, calls = 2 * mt.hidden, 2 * mt.layers
print(f"{calls} sums of {vector / 1e3:.0f} kB a token")
for slices, seconds in ((8, a100.near_seconds), (16, a100.near_seconds + a100.far_seconds)):
    reads = weights / (slices * a100.hbm * 1e9)
    print(f"{slices:3} slices: reading {1e3 * reads:.0f} ms, a bound of {1 / reads:.0f} tokens a second; sums "
          f"{1e3 * calls * seconds:.0f} ms, so {1 / (reads + calls * seconds):.0f}")  # fmt: skip
assert (calls, round(vector / 1e3), round(1 / reads)) == (210, 41, 31)
assert (round(1e6 * a100.near_seconds), round(1e6 * a100.far_seconds)) == (90, 30)

# %% [markdown]
# **And for many readers?** The weights that are read for one token serve a token of every text in the
# batch. Only the FLOPs grow, and the cache: each text reads its own.
#
# $$t = \max\left(\frac{2P + n\,B\,c}{8\,\beta},\ \frac{2PB}{8\,\phi}\right)$$
#
# with $P$ parameters, $B$ texts of $n$ tokens, $c$ bytes of cache a token, $\beta$ and $\phi$ the bytes
# and FLOPs a second of a GPU. That $2P$ stands twice is an accident: on the left it is two bytes a
# parameter, on the right two FLOPs a parameter.
#
# This is for one batch, which one stage has at a time. A second batch can use the other stage meanwhile,
# if there is room for its cache.

# %%
B = np.arange(1, 513)
balance = a100.tflops * 1e12 / (a100.hbm * 1e9)
turns = []
fig, ax = plt.subplots(figsize=(7.5, 4.4))
for n, colour in ((128, "blue"), (512, "orange"), (2048, "red")):
    memory = (weights + n * B * token) / (8 * a100.hbm * 1e9)
    t = np.maximum(memory, 2 * P * B / (8 * a100.tflops * 1e12))
    ax.plot(B, B / t, label=f"texts of {n} tokens", color=COLOURS[colour], marker="")
    fits = int(free // (n * token))
    if fits <= 512:
        ax.plot([fits], [(B / t)[fits - 1]], "X", color="black", ms=9, ls="")
    print(f"{n:5} tokens: {fits:4} texts fit; then {1e3 * t[min(fits, 512) - 1]:.0f} ms a token, "
          f"{(B / t)[min(fits, 512) - 1]:,.0f} tokens/s")  # fmt: skip
    spare = 2 * P / balance - n * token  # bytes read in the time of a text's FLOPs, beyond its cache
    turns.append(round(weights / spare) if spare > 0 else None)
    when = f"from {turns[-1]} texts on" if turns[-1] else "at no number of texts"
    print(f"{'':14}{when} the FLOPs take longer than the reading")
ax.axvline(balance, color="black", ls=":", label=f"{balance:.0f}: balance if there were no cache")
ax.plot([], [], "X", color="black", ls="", label="no room for more on 16 GPUs")
ax.set(xscale="log", yscale="log", xlabel="texts at a time", ylabel="tokens a second, all texts",
       title="One pass over the weights serves many, until the cache outweighs them")  # fmt: skip
ax.legend(fontsize=9)
figure(
    fig,
    alt="Tokens a second against texts at a time, for texts of 128, 512 and 2048 tokens. All rise from "
    f"15 tokens a second. Long texts bend away soon. Short ones rise until, at {turns[0]} texts of 128 "
    f"tokens and {turns[1]} of 512, FLOPs take longer than reading. A dotted line marks {balance:.0f}, "
    "where they would without a cache. Crosses mark where the memory of 16 GPUs is full: 13 texts of "
    "2048 tokens, 55 of 512, 223 of 128.",
)
assert round(balance) == 153 and [int(free // (n * token)) for n in (128, 512, 2048)] == [223, 55, 13]
assert turns == [182, 421, None]
print(f"the cache outweighs the weights from {weights / token:,.0f} tokens on, in all texts together")

# %% [markdown]
# Without a cache FLOPs and bytes would be in balance at 153 texts. Each text's cache is read as well,
# which puts that off: to 182 texts of 128 tokens, which fit, and to 421 of 512 tokens, which do not. For
# texts of 2048 it never comes, as a text's cache takes longer to read than its FLOPs to compute.
#
# So serving is a different trade than training. Training is bound by FLOPs. Serving is bound by bytes,
# but for many short texts: by the weights for few readers, by the cache for many. That is why people
# cut the cache down, share it among heads, and store weights in fewer bits, all of which would change
# little in training.
#
# And without a cache? The last token of a text of 2048 would pass 2048 tokens through the model.

# %%
again = 2 * P * 2048 / (8 * a100.tflops * 1e12)
print(f"{1e3 * again:.0f} ms of pure FLOPs, {again / read:.0f} times the {1e3 * read:.0f} ms of reading")
assert again / read > 10

# %% [markdown]
# ## Check yourself
#
# 1. Greedy decoding takes the likeliest token each time. Why need not the text be the likeliest one?
#
# <details><summary>Answer</summary>
#
# A token that is likely now may lead to places where nothing is likely. The product over the whole text
# counts, and greedy never looks beyond one factor.
#
# </details>
#
# 2. Top-k with $k = 40$ and top-p with $p = 0.9$. After "New Yor" the model is nearly sure of one
#    token. What may each of them draw?
#
# <details><summary>Answer</summary>
#
# Top-p keeps the one token that has more than 0.9 by itself. Top-k keeps 39 others, and now and then
# draws one.
#
# </details>
#
# 3. Why are queries not kept, when keys and values are?
#
# <details><summary>Answer</summary>
#
# A query is used once, by its own token, to look back. No later token ever asks for it.
#
# </details>
#
# 4. MT-NLG runs on 16 GPUs, eight slices and two stages, and one reader complains that it writes slowly.
#    You may have 16 more GPUs. Two more stages, or twice the slices?
#
# <details><summary>Answer</summary>
#
# Twice the slices. Sixteen memories read a stage's weights in half the time. Their sums then go between
# nodes, 210 times a token, which takes back a part of the gain. Two more stages give this reader nothing:
# a token goes through one after the other. They do give room for the caches of more readers, but that
# was not the complaint.
#
# </details>
#
# 5. A cache holds positions. What happens when a text is longer than the positions that the model has
#    learned?
#
# <details><summary>Answer</summary>
#
# It ends. One could drop the oldest tokens, but then every other token would stand at a new position,
# and all keys and values would have to be computed again, for each further token.
#
# </details>

# %% [markdown]
# ## Exercises
#
# Write top-p yourself, from sorted probabilities to the token. Then write attention with a cache, so
# that no token is computed twice.
