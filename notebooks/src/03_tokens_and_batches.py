# ---
# question: How does a pile of texts become the same batch on every machine, at any cluster size?
# needs: [layout, rank]
# introduces:
#   byte-pair encoding: "A vocabulary made from text by joining, again and again, the two symbols
#     that stand side by side most often, starting from single bytes."
#   packing: "Laying documents end to end in a memory-mapped file and cutting the row every $s$
#     tokens, wherever documents begin or end, so that no place of a batch is empty."
#   blend: "The order in which several sources give samples: at each sample the source farthest
#     behind its share comes next."
# proves: "Vocabulary, files, order and blend equal the package's number for number, and the batch
#   is the same at every number of replicas."
# minutes: 40
# seconds: 17
# ---

# %% [markdown]
# # Tokens and batches
#
# A model never sees a letter. It sees whole numbers, in rows of equal length. Thousands of
# processes must agree on their order without asking each other.
#
# This lesson builds the way from text to these rows: a vocabulary, two files, three arrays and one
# greedy rule. At the end we compare each of them with the package's, number for number.

# %% [markdown]
# ## Question
#
# How does a pile of texts become the batch of step 4711? It must be the same batch on 8 replicas as
# on 16, with next to no token wasted and every source in its proportion.
#
# Real texts are at hand. Python comes with the pages of its own `help()`. The course's **corpus**,
# its collection of texts, holds a piece of Wikipedia beside Python's documentation and source.

# %%
import json
import struct
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics

import matplotlib.pyplot as plt
import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from minimtnlg.config import preset
from minimtnlg.course.check import measured, predict
from minimtnlg.course.need import need
from minimtnlg.course.plots import COLOURS
from minimtnlg.course.rank import MTNLG, my_rank
from minimtnlg.course.show import figure, show
from minimtnlg.data import published
from minimtnlg.data.batches import Samples, draw, micro_batches
from minimtnlg.data.blend import blend
from minimtnlg.data.corpus import Corpus
from minimtnlg.data.indexed import Reader, Writer

texts = list(topics.values())
print(f"{len(texts)} documents, {sum(map(len, texts)):,} characters")
print(texts[0][:180])

# %% tags=["parameters"]
merges: int = 256  # joins that our vocabulary learns
blend_size: int = 40_000  # samples drawn from the 15 data sets of MT-NLG
consumed: int = 100_000_000  # samples before the step of MT-NLG that we look at

# %% [markdown]
# ## Predict
#
# Put your guesses in place of `None` and run the cell.
#
# 1. We begin with the 256 bytes as symbols. Then 256 times we take the two neighbours that stand
#    together most often, and make one new symbol of them. How many bytes of the pages of `help()`
#    is a symbol then, on average?
# 2. We put each of these documents in a row of its own, and fill each row up to the length of the
#    longest. What percentage of all places is filling?
# 3. Each of the 1920 sequences of a batch comes from one of 15 data sets, drawn at random by their
#    weights. In how many of 20 such batches is every data set within one sequence of its share?
# 4. Suppose that MT-NLG's 339 billion tokens are stored with 2 bytes each. How many terabytes is
#    that?

# %%
predict("bytes_per_token", None)
predict("places_filled_up", None)
predict("batches_in_proportion", None)
predict("terabytes_of_tokens", None)

# %% [markdown]
# ## Trouble
#
# Two simple ways fail at once. The first is to number the *words*. We collect the words of one half
# of the documents, and look them up for the other half.

# %%
first, second = texts[: len(texts) // 2], texts[len(texts) // 2 :]
known = {word for text in first for word in text.split()}
others = [word for text in second for word in text.split()]
unknown = sum(word not in known for word in others) / len(others)

print(f"{len(known):,} words have a number; {100 * unknown:.1f} % of the other half have none")
assert unknown > 0.05

# %% [markdown]
# A word without a number cannot be read at all. Numbering the 256 *bytes* instead reads everything,
# but then a sequence of 2048 numbers is less than a page.
#
# The second simple way is to give each document a row of the batch. A batch is a rectangle, so the
# shorter documents must be filled up with a number that means nothing.

# %% tags=["predict"]
lengths = np.array([len(text.encode()) for text in texts])
filled_up = 1 - lengths.sum() / (len(lengths) * lengths.max())
measured(
    "places_filled_up",
    100 * filled_up,
    unit="%",
    tell=f"The longest document has {lengths.max():,} bytes; half of them have at most "
    f"{int(np.median(lengths)):,}.",
)

# %% [markdown]
# The GPUs would waste that share of their time. And the longest document would still not fit into a
# model whose sequences end at 2048.

# %% [markdown]
# ## Idea
#
# **Tokens.** Begin with bytes, and join what often stands together. Take four words that occur so
# often:
#
# `tea` 4 times, `team` 2 times, `tease` 3 times, `eat` 2 times.
#
# Count the pairs of neighbours. `e a` stands in all four words, 4 + 2 + 3 + 2 = 11 times. `t e`
# stands in three of them, 9 times. So `ea` becomes one symbol. Now the words are `t ea`, `t ea m`,
# `t ea s e` and `ea t`. The most frequent pair is `t ea`, 9 times: the second join makes `tea`.
#
# The third join has a tie: `tea s` and `s e` both occur 3 times. A rule must decide, or two
# machines would make two vocabularies. Our rule is that of the library we compare with. Of equally
# frequent pairs, take the one whose left symbol has the lower number; if the left symbols are
# equal, look at the right ones. The single letters are numbered first, in their order, and the
# joins after them. So `s e` wins over `tea s`.
#
# This is **byte-pair encoding**. No word is unknown to it, since every byte is a symbol, and a
# frequent word costs only one token.

# %% [markdown]
# **Batches.** Lay the documents end to end and cut the row every $s$ tokens, wherever a document
# happens to end. That is **packing**. Below are five documents of 5, 3, 9, 2 and 6 tokens. The last
# token of each is a mark, *end of document*, so that the model can see the seam.

# %%
sizes, s = [5, 3, 9, 2, 6], 4
hues = [COLOURS[name] for name in ("sky", "orange", "green", "pink", "blue")]


def tokens_drawn(ax, x, y, document, k):
    """One token as a coloured square with its document's number; the last one is a mark."""
    ax.add_patch(plt.Rectangle((x, y), 0.94, 0.8, color=hues[document], alpha=0.55, lw=0))
    label = "end" if k == sizes[document] - 1 else str(document)
    ax.text(x + 0.47, y + 0.4, label, ha="center", va="center", fontsize=8)


fig, (above, below) = plt.subplots(2, 1, figsize=(8, 4.4), height_ratios=[5, 3.4])
for document, size in enumerate(sizes):
    for k in range(max(sizes)):
        if k < size:
            tokens_drawn(above, k, -document, document, k)
        else:
            above.add_patch(
                plt.Rectangle((k, -document), 0.94, 0.8, fill=False, hatch="///", ec="0.7", lw=0)
            )
row = [(document, k) for document, size in enumerate(sizes) for k in range(size)]
for x, (document, k) in enumerate(row):
    tokens_drawn(below, x, 0, document, k)
for i in range((len(row) - 1) // s):
    y = -0.3 - 0.42 * (i % 2)
    below.plot([i * s, i * s + s + 0.94], [y, y], color="black", ls="-", marker="|", ms=7)
    below.text(i * s + s / 2 + 0.5, y - 0.1, f"sample {i}", ha="center", va="top", fontsize=8)
above.set(xlim=(-0.2, 25.2), ylim=(-4.2, 1), title="One document a row: hatched places are wasted")
below.set(xlim=(-0.2, 25.2), ylim=(-1.5, 1), title="Packed: samples cut across documents")
for ax in (above, below):
    ax.axis("off")
figure(
    fig,
    alt="Above, five rows of 9 places hold 25 tokens and 20 hatched, empty places. Below, the same "
    "25 tokens in one row with six brackets of 5 tokens; neighbours share one token.",
)

# %% [markdown]
# A **sample** is one sequence with its answers. It holds $s + 1$ tokens: the first $s$ are the
# inputs, the last $s$ are the answers, the next token at each place. So a sample begins with the
# last token of the one before, and sample $i$ is the tokens from $i s$ to $i s + s$ of the row. A
# row of $N$ tokens gives $\lfloor (N - 1) / s \rfloor$ samples; here $\lfloor 24 / 4 \rfloor = 6$.
#
# Three arrays say which tokens belong to which sample, without moving a single token.
#
# - The **document index** describes the row: it lists the numbers of the documents, in an order
#   drawn at random.
# - The **sample index** says where each sample begins: at which place of the document index, and at
#   which token of that document. In the picture, sample 1 begins in document 0 at token 4.
# - The **shuffle index** is the order in which the samples are read. It is drawn at random too,
#   since neighbours in the row often come from the same document.

# %% [markdown]
# **Sources.** Let Wikipedia give 0.5 of the samples, books 0.3 and code 0.2. Which source gives
# sample $i$? The one farthest behind its share. After $i$ samples source $k$ should have given $w_k
# i$ and has given $n_k$, so the next sample comes from
#
# $$\arg\max_k \; \left( w_k \max(i, 1) - n_k \right),$$
#
# and in a tie from the source that stands first [S9]. The $\max$ matters at $i = 0$ only: without
# it all would be equal there. By hand: at $i = 0$ the errors are 0.5, 0.3 and 0.2, so Wikipedia. At
# $i = 1$ they are $0.5 - 1 = -0.5$, 0.3 and 0.2, so books. At $i = 2$ they are $1 - 1 = 0$, $0.6 -
# 1 = -0.4$ and 0.4, so code. This greedy rule makes the **blend**. Nothing in it is left to chance.

# %% [markdown]
# ## Code
#
# ### A vocabulary in forty lines
#
# The library calls joins *merges*. They never cross the border of a word, so we first cut the text
# into words and count equal ones. We take two things from the library, so that both sides begin
# with the same symbols: the cutting, and GPT-2's way of writing each byte as one printable sign. A
# space is written Ġ, a new line Ċ.

# %%
cut = pre_tokenizers.ByteLevel(add_prefix_space=False)
words = Counter(word for text in texts for word, _ in cut.pre_tokenize_str(text))

print(f"{sum(words.values()):,} words, of which {len(words):,} different; the most frequent:")
print(words.most_common(9))

# %%
def count_pairs(words):
    """How often each pair of neighbours stands in words {tuple of symbols: count}."""
    pairs = Counter()
    for word, count in words.items():
        for pair in pairwise(word):
            pairs[pair] += count
    return pairs


def join(word, pair):
    """`word` with each occurrence of `pair` made one symbol, from the left."""
    joined, i = [], 0
    while i < len(word):
        width = 2 if word[i : i + 2] == pair else 1
        joined.append("".join(word[i : i + width]))
        i += width
    return tuple(joined)


# %%
def learn(words, merges):
    """Pairs in the order in which they are joined, and the number of each symbol."""
    number = {sign: i for i, sign in enumerate(sorted(cut.alphabet()))}
    words = {tuple(word): count for word, count in words.items()}
    order = []
    for _ in range(merges):
        pairs = count_pairs(words)
        best = min(pairs, key=lambda p: (-pairs[p], number[p[0]], number[p[1]]))
        order.append(best)
        number.setdefault("".join(best), len(number))
        words = {join(word, best): count for word, count in words.items()}
    return order, number


def encode(text, order, number):
    """The numbers of a text: in each word, join the pair that was learned first, then the next."""
    rank = {pair: i for i, pair in enumerate(order)}
    ids = []
    for word, _ in cut.pre_tokenize_str(text):
        word = tuple(word)
        while found := rank.keys() & set(pairwise(word)):
            word = join(word, min(found, key=rank.get))
        ids += [number[symbol] for symbol in word]
    return ids


# %% [markdown]
# The four words of the hand calculation come out as we found them, with the tie broken as stated.

# %%
small, _ = learn({"tea": 4, "team": 2, "tease": 3, "eat": 2}, 3)
print(small)
assert small == [("e", "a"), ("t", "ea"), ("s", "e")]

# %% [markdown]
# Now the pages of `help()`: our forty lines against the `tokenizers` library, which is written in
# Rust and used in practice. Ours take a while.

# %%
begin = time.perf_counter()
order, number = learn(words, merges)
ours = time.perf_counter() - begin

library = Tokenizer(models.BPE())
library.pre_tokenizer = cut
trainer = trainers.BpeTrainer(
    vocab_size=256 + merges, initial_alphabet=cut.alphabet(), show_progress=False
)
begin = time.perf_counter()
library.train_from_iterator(texts, trainer)
theirs = time.perf_counter() - begin

learned = [tuple(pair) for pair in json.loads(library.to_str())["model"]["merges"]]
for i in range(12):
    print(f"join {i:2}   ours {' + '.join(order[i]):<12} library {' + '.join(learned[i])}")
print(f"all {merges} joins equal: {order == learned}; {ours:.1f} s against {theirs:.2f} s")
assert order == learned and number == library.get_vocab()

# %% [markdown]
# All joins are the same, in the same order, with the same numbers. The library is much faster: it
# updates only the counts that a join changes, where we count everything again.
#
# What do the joins buy?

# %% tags=["predict"]
sample_text = texts[3]
ids = encode(sample_text, order, number)
assert ids == library.encode(sample_text).ids

lengths_in_tokens = [len(e.ids) for e in library.encode_batch(texts)]
measured(
    "bytes_per_token",
    lengths.sum() / sum(lengths_in_tokens),
    unit="bytes",
    tell=f"Vocabulary {len(number)}; our encoding of one document equals the library's, "
    f"{len(ids):,} tokens.",
)

# %%
steps = [n for n in (0, 8, 16, 32, 64, 128, 192, 256) if n <= merges]
pieces = {tuple(word): count for word, count in words.items()}
totals, done = [], 0
for n in steps:
    for pair in order[done:n]:
        pieces = {join(word, pair): count for word, count in pieces.items()}
    done = n
    totals.append(sum(len(word) * count for word, count in pieces.items()))

fig, ax = plt.subplots()
ax.plot(steps, [lengths.sum() / total for total in totals])
ax.set(
    xlabel="joins learned",
    ylabel="bytes a token",
    title="The first joins buy most, the later ones less and less",
)
figure(
    fig,
    alt="Bytes of text a token against joins learned, a curve that bends down: 1 with no join, "
    f"{lengths.sum() / totals[-1]:.2f} with {steps[-1]}.",
)

# %% [markdown]
# ### Two files
#
# Tokens are made once and read for months. Megatron's format is two files. `.bin` holds nothing but
# tokens, 2 bytes each if the vocabulary is smaller than 65 500 [S10]. `.idx` says where each
# sequence begins.
#
# We write three small documents with the package and look at each byte.

# %%
documents = [[7, 300, 12], [1, 2], [5, 6, 51_199, 0]]
with Writer("tiny", vocab=51_200) as writer:
    for document in documents:
        writer.add(document)

raw = Path("tiny.bin").read_bytes()
print(len(raw), "bytes of tiny.bin:", raw.hex(" ", 2))

# %% [markdown]
# 300 is 1 × 256 + 44, in hexadecimal 01 2c. The file says `2c01`: the low byte comes first, which
# is called little-endian. Now the index, read by hand with `struct`. All that it needs is a letter
# for the type of each field; the type says how many bytes the field has.

# %%
n = len(documents)
fields = [("magic", "9s"), ("version", "Q"), ("type of a token: 8 is uint16", "B")]
fields += [("sequences", "Q"), ("documents + 1", "Q")]
fields += [(f"length of sequence {i}, tokens", "i") for i in range(n)]
fields += [(f"start of sequence {i}, bytes", "q") for i in range(n)]
fields += [(f"first sequence of document {i}", "q") for i in range(n)] + [("their end", "q")]

raw, at, values = Path("tiny.idx").read_bytes(), 0, []
for name, kind in fields:
    size = struct.calcsize("<" + kind)
    values += struct.unpack("<" + kind, raw[at : at + size])
    print(f"byte {at:3}   {raw[at : at + size].hex(' '):<26}   {name:<31} {values[-1]}")
    at += size
assert at == len(raw) == 34 + 12 * n + 8 * (n + 1)

# %% [markdown]
# That is the whole format: 34 bytes of header, then 12 bytes a sequence and 8 a document. Megatron
# lets a document have several sequences; for a GPT each document is one.
#
# **Memory-mapped.** Nobody *loads* such a file. `np.memmap` asks the operating system, by a call
# named `mmap`, to pretend that the file is in memory. Opening reads nothing. Only when the program
# touches a token does the system fetch the page around it, usually 4096 bytes, and it keeps the
# page as long as there is room. Eight processes of one machine that map the same file share these
# pages.

# %%
mapped = np.memmap("tiny.bin", dtype="<u2", mode="r")
begin, length = values[5 + n + 2], values[5 + 2]  # of sequence 2, from the list above
print("sequence 2:", mapped[begin // 2 : begin // 2 + length])
assert mapped[begin // 2 : begin // 2 + length].tolist() == documents[2]

# %% [markdown]
# To see that opening reads nothing, we map a file as large as all of MT-NLG's tokens, here on this
# machine. It is a file of which we set the length and wrote nothing. It reads as zeros, which take
# no room on the disk.

# %%
tokens_of_mtnlg = 339_000_000_000  # [S3]; its table adds up to 338.6 billion
try:
    with open("huge.bin", "wb") as file:
        file.truncate(2 * tokens_of_mtnlg)
    begin = time.perf_counter()
    huge = np.memmap("huge.bin", dtype="<u2", mode="r")
    sequence = np.array(huge[200_000_000_000 : 200_000_000_000 + 2049])
    took = time.perf_counter() - begin
    print(f"{huge.nbytes / 1e9:.0f} GB mapped, 2049 tokens out of the middle read: {took:.4f} s")
    del huge
except OSError as error:
    print(f"This file system allows no file of that size: {error}")
Path("huge.bin").unlink(missing_ok=True)

# %% [markdown]
# ### Packing by hand
#
# The five documents of the picture go into a file. Token $10 (d + 1) + k$ is token $k$ of document
# $d$, so that each token shows where it comes from; 0 marks the end of a document.

# %%
with Writer("five", vocab=100) as writer:
    for d, size in enumerate(sizes):
        writer.add([10 * (d + 1) + k for k in range(size - 1)] + [0])
five = Reader("five")

draws = np.random.RandomState(1)
document_index = np.arange(5)
draws.shuffle(document_index)
row = np.concatenate([five[d] for d in document_index])
print("document index", document_index)
print("row           ", row)

# %% [markdown]
# We made this row only to look at it. A real one is never made: it would be a second copy of the
# data. Instead we walk along the documents, and every $s$ tokens we note where we are.

# %%
def walk(lengths, document_index, s):
    """Place in the document index, and token in there, where each sample begins; and the end."""
    stops, place, token = [(0, 0)], 0, 0
    for _ in range((sum(lengths[d] for d in document_index) - 1) // s):
        token += s
        while token >= lengths[document_index[place]]:
            token -= lengths[document_index[place]]
            place += 1
        stops.append((place, int(token)))
    return stops


sample_index = walk(five.lengths, document_index, s)
shuffle_index = np.arange(len(sample_index) - 1)
draws.shuffle(shuffle_index)
print("sample index  ", sample_index)
print("shuffle index ", shuffle_index)
for i, k in enumerate(shuffle_index):
    at = k * s
    print(f"drawn as {i}: tokens {at:2} to {at + s:2} of the row  {row[at : at + s + 1]}")

# %% [markdown]
# The package's `Samples` makes the same three arrays. It reads the pieces of a sample from the
# mapped file, document by document.

# %%
packed = Samples(five, range(5), samples=None, seq=s, seed=1)

assert packed.document_index.tolist() == document_index.tolist()
assert packed.sample_index.tolist() == [list(stop) for stop in sample_index]
assert packed.shuffle_index.tolist() == shuffle_index.tolist()
for i, k in enumerate(shuffle_index):
    assert packed[i].tolist() == row[k * s : k * s + s + 1].tolist()
show(Samples.__getitem__)

# %% [markdown]
# One thing is *not* done at a seam, as in Megatron by default: positions do not start again, and
# attention is not cut off. A token may look into the document before its own. Only the mark between
# them tells the model of the seam; it has to learn what the mark means.

# %% [markdown]
# ### The blend
#
# The greedy rule in six lines, on the shares of the hand calculation.

# %%
def greedy(weights, size):
    """The source of each of `size` samples."""
    given, chosen = np.zeros(len(weights)), []
    for i in range(size):
        chosen.append(int(np.argmax(weights * max(i, 1) - given)))
        given[chosen[-1]] += 1
    return np.array(chosen)


three = greedy(np.array([0.5, 0.3, 0.2]), 20)
print("sources of samples 0 to 19:", three)
print("given after 20 samples:    ", np.bincount(three))
assert three[:3].tolist() == [0, 1, 2] and np.bincount(three).tolist() == [10, 6, 4]

# %% [markdown]
# The course's corpus has three sources. The package has ready-made settings, its presets; the
# smallest, `nano`, gives them these weights:

# %%
corpus = Corpus(need("corpus"))
weights = preset("nano").data.weights
for name, tokens in corpus.tokens.items():
    print(f"{name:<14} {tokens:>10,} tokens   weight {weights[name]}")

# %% [markdown]
# How fast do the shares of a run settle on these weights?

# %%
names, shares = list(weights), np.array(list(weights.values()))
chance = np.random.default_rng(1)
fig, panels = plt.subplots(1, 2, figsize=(8, 3.6), sharey=True)
for ax, title, chosen in (
    (panels[0], "Farthest behind comes next", greedy(shares, 200)),
    (panels[1], "Drawn at random by weight", chance.choice(3, 200, p=shares)),
):
    given = np.cumsum(chosen[:, None] == np.arange(3), axis=0)
    realised = given / np.arange(1, 201)[:, None]
    for k, name in enumerate(names):
        (line,) = ax.plot(np.arange(1, 201), realised[:, k], markevery=40, label=name)
        ax.axhline(shares[k], color=line.get_color(), lw=0.8, ls="-", marker="")
    ax.set(xlabel="samples drawn", title=title, xlim=(0, 200), ylim=(0, 1))
panels[0].set_ylabel("share of the samples so far")
panels[1].legend(fontsize=9)
fig.tight_layout()
assert chosen[:20].tolist().count(1) == 0  # python-docs, at random
figure(
    fig,
    alt="Shares of three sources so far, over 200 samples, with lines at their weights "
    f"{shares.tolist()}. Greedy: zigzags onto them in 20 samples. Random: wanders around them.",
)

# %% [markdown]
# On the right the smallest source does not come up at all at first, and the others wander around
# their lines. On the left the source that is farthest behind comes next, so the zigzags shrink.

# %% [markdown]
# ### Which replica reads what
#
# All replicas of the model share one batch. Each takes its part in **micro-batches** of $b$
# sequences, one after the other; lesson 04 says why. With $c$ samples consumed before this step,
# sequence $j$ of micro-batch $k$ of replica $r$ is
#
# $$\text{sample} = c + (k \, d + r) \, b + j .$$
#
# No process asks another; each computes its own numbers.

# %%
def numbers(c, B, b, d, r):
    """The samples of replica r in one step, micro-batch by micro-batch."""
    return [[c + (k * d + r) * b + j for j in range(b)] for k in range(B // (b * d))]


for d in (1, 2, 4):
    for r in range(d):
        print(f"d = {d}   replica {r}   {numbers(c=48, B=8, b=2, d=d, r=r)}")
    everything = sorted(sum((sum(numbers(48, 8, 2, d, r), []) for r in range(d)), []))
    assert everything == list(range(48, 56))

# %% [markdown]
# At each $d$ the step reads samples 48 to 55, each once. So a run may stop on 16 replicas and go on
# with 8. To continue with the next sample it needs one number, $c$. If each replica had its own
# part of the data, another $d$ would make another batch.

# %% [markdown]
# ## You might think
#
# *A batch is large. So it is enough to draw the source of each sequence at random, by weight: every
# batch will come close to its proportions.*
#
# We try it with the 15 data sets and weights of MT-NLG and batches of 1920 [S3; S9], and count the
# batches in which every data set is within one sequence of its share.

# %%
datasets = published.MTNLG  # tokens, weights and epochs [S3, Table 1]; exact weights [S9]
exact = np.array([row.weight for row in datasets.values()])
assert abs(exact.sum() - 1) < 1e-9

# %% tags=["predict"]
B = 1920
by_rule, _ = blend(exact, blend_size)
by_chance = np.random.default_rng(1).choice(len(exact), blend_size, p=exact)


def off(chosen):
    """For each batch, how many sequences the worst data set is away from its share."""
    batches = chosen[: len(chosen) // B * B].reshape(-1, B)
    counts = np.array([np.bincount(batch, minlength=len(exact)) for batch in batches])
    return np.abs(counts - B * exact).max(axis=1)


for name, chosen in (("greedy", by_rule), ("random", by_chance)):
    print(f"{name}: worst of the 15 in each batch {off(chosen).round(1)}")
measured(
    "batches_in_proportion",
    int((off(by_chance) < 1).sum()),
    unit="batches",
    tell=f"At random; by the greedy rule {(off(by_rule) < 1).sum()} of {len(off(by_rule))}.",
)
assert off(by_rule).max() < 2.1  # between two distances of -1.1 to 1, see below

# %% [markdown]
# Random draws are right on average and wrong in every batch. The number of sequences from a data
# set of weight $w$ has a standard deviation of $\sqrt{B w (1 - w)}$: for $w = 0.193$ and $B = 1920$
# that is 17 sequences.
#
# Nor does time heal it. What was missed is never made up for, and the distance to the target grows
# like the root of the number of samples.

# %%
assert round(np.sqrt(B * 0.193 * (1 - 0.193))) == 17


def distances(chosen):
    """[samples, data sets]: given minus target, after each sample."""
    given = np.cumsum(chosen[:, None] == np.arange(len(exact)), axis=0)
    return given - np.arange(1, len(chosen) + 1)[:, None] * exact


rule, luck = distances(by_rule), distances(by_chance)
at = np.unique(np.geomspace(1, blend_size, 200).astype(int)) - 1
fig, ax = plt.subplots()
for label, distance in (("drawn at random by weight", luck), ("greedy rule", rule)):
    worst = np.maximum.accumulate(np.abs(distance).max(axis=1))[at]
    ax.plot(at + 1, worst, label=label, markevery=25)
ax.set(
    xscale="log",
    yscale="log",
    xlabel="samples drawn",
    ylabel="largest distance so far (samples)",
    title="The greedy rule stays at one sample, chance walks away",
)
ax.legend()
figure(
    fig,
    alt=f"Largest distance of any of 15 data sets from its target, logarithmic. Random grows to "
    f"{np.abs(luck).max():.0f} after {blend_size:,} samples; greedy to {np.abs(rule).max():.2f}.",
)
print(f"greedy over {blend_size:,} samples: at most {rule.max():.3f} above a target, "
      f"{-rule.min():.3f} below")  # fmt: skip
assert rule.max() < 1 and -rule.min() < 1.1
assert np.argmax(by_rule == 7) < 0.5 / exact[7]  # NIH ExPorter's first sample

# %% [markdown]
# No source can ever be one sample *above* its target, whatever the weights. The errors $w_k i -
# n_k$ add up to zero, so the largest is not negative: the source that is chosen was not ahead, and
# is then ahead by less than one. *Below* the target there is no such bound at one. The worst that
# we measured with these weights is printed below the figure.

# %% [markdown]
# ## Proof
#
# So far the pieces were small. Now we set each beside the package's, on the real corpus where there
# is one, and count the differences.

# %%
tokenizer, reader = corpus.tokenizer, corpus.readers["wikipedia"]
model = json.loads((corpus.folder / "tokenizer.json").read_text())["model"]
order_there = [tuple(pair) for pair in model["merges"]]

article = reader[0]  # its last token is the mark of the end
text = tokenizer.decode(article[:-1])
print(f"{len(order_there):,} joins; article 0 has {len(article):,} tokens and begins:")
print(text[:200].strip())


# %%
def differences(a, b):
    """How many entries of two arrays of equal shape differ."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape and a.size > 0
    return int((a != b).sum()), a.size


header = struct.Struct("<9sQBQQ")
raw = Path(f"{reader.prefix}.idx").read_bytes()
_, _, _, n, d = header.unpack(raw[: header.size])
by_hand = np.frombuffer(raw, "<i4", n, header.size)

s, wanted = 128, 2000
packed = Samples(reader, range(len(reader)), samples=None, seq=s, seed=1234)
draws = np.random.RandomState(1234)
document_index = np.arange(len(reader))
draws.shuffle(document_index)
sample_index = walk(reader.lengths.tolist(), document_index.tolist(), s)
shuffle_index = np.arange(len(sample_index) - 1)
draws.shuffle(shuffle_index)
row = np.concatenate([reader[d] for d in document_index])

results = {
    "joins learned from help(), ours and the library's": differences(order, learned),
    "article 0, our encode and the tokens in .bin": differences(
        encode(text, order_there, model["vocab"]) + [corpus.eod], article
    ),
    "lengths in .idx, struct and Reader": differences(by_hand, reader.lengths),
    "document index, ours and Samples": differences(document_index, packed.document_index),
    "sample index": differences(sample_index, packed.sample_index),
    "shuffle index": differences(shuffle_index, packed.shuffle_index),
    "tokens of 200 samples": differences(
        [row[k * s : k * s + s + 1] for k in shuffle_index[:200]], [packed[i] for i in range(200)]
    ),
    "blend of the 15 data sets, six lines and blend()": differences(
        greedy(exact, blend_size), by_rule
    ),
}
for what, (wrong, of) in results.items():
    print(f"{what:<52} {wrong} of {of:,} differ")
    assert wrong == 0

# %% [markdown]
# Last, the batch of a step, which the package draws from all three sources. It must be the same set
# of samples at every number of replicas.

# %%
dataset = draw(corpus, "train", samples=wanted, seq=s, seed=1234, weights=weights)


def rows(d):
    """The rows of the step after 96 samples, from all d replicas together, sorted."""
    parts = [b.tokens.numpy() for r in range(d) for b in micro_batches(dataset, 96, 32, 2, d, r)]
    return sorted(map(tuple, np.concatenate(parts).tolist()))


for d in (2, 4, 16):
    wrong, of = differences(rows(d), rows(1))
    print(f"d = {d:2} against d = 1: {wrong} of {of:,} tokens differ")
    assert wrong == 0
show(micro_batches)

# %% [markdown]
# ## Cost
#
# On disk, $N$ tokens in $D$ documents take $2 N$ bytes of `.bin` and $34 + 12 D + 8 (D + 1)$ of
# `.idx`. In memory the document index takes 4 bytes a document. The sample index takes 8 bytes a
# sample, and 8 for the end; the shuffle index takes 4 bytes a sample.

# %%
for name, reader in corpus.readers.items():
    N, D = reader.tokens, len(reader)
    on_disk = [Path(f"{reader.prefix}{suffix}").stat().st_size for suffix in (".bin", ".idx")]
    formula = [2 * N, 34 + 12 * D + 8 * (D + 1)]
    print(f"{name:<14} .bin and .idx {on_disk}   formula {formula}")
    assert on_disk == formula

held = packed.document_index.nbytes + packed.sample_index.nbytes + packed.shuffle_index.nbytes
formula = 4 * len(packed.document_index) + 8 * (len(packed) + 1) + 4 * len(packed)
print(f"three indices  {held:,} bytes      formula {formula:,}")
assert held == formula

# %% [markdown]
# And the time: how many tokens a second can one process of this machine read from the mapped files,
# as micro-batches ready for the model?

# %%
begin = time.perf_counter()
read = sum(batch.tokens.numel() for batch in micro_batches(dataset, 0, wanted, 8))
rate = read / (time.perf_counter() - begin)
print(f"this process: {rate:,.0f} tokens a second, from files that are in memory by now")

tokens_per_step, seconds_per_step = 1920 * 2048, 60.1  # on 280 nodes [S1, S2, S3]
consumption = tokens_per_step / seconds_per_step
print(f"MT-NLG on 2240 GPUs: {consumption:,.0f} tokens a second, {2 * consumption / 1e6:.2f} MB/s")
print(f"processes like this one that feed them all: {int(np.ceil(consumption / rate))}")

# %% [markdown]
# The bytes a second are few for any disk, and so are the processes that it would take. Reading is
# not the slow part of such a training. What must be right is *which* tokens are read.

# %% [markdown]
# ## MT-NLG
#
# ### The vocabulary and its padding
#
# The papers of the family use GPT-2's vocabulary: 256 bytes, 50 000 joins and one mark for the end
# of a document. That MT-NLG itself used it is not confirmed. It is padded to 51 200 [S12; S13]. The
# embedding, the table with a row for each token, is cut into $t = 8$ slices of rows. Each slice
# should be a multiple of 128 rows, a size that suits the matrix units of a GPU. So the number of
# rows must be a multiple of $128 \times 8 = 1024$.

# %%
size = 256 + 50_000 + 1
padded = -(-size // (128 * 8)) * 128 * 8
h = preset("mtnlg-530b").model.hidden
extra = (padded - size) * h
print(f"{size:,} rows become {padded:,}; a slice has {padded // 8:,} = {padded // 8 // 128} x 128")
print(f"{padded - size} rows of padding x {h:,} = {extra:,} parameters,")
print(f"{100 * extra / preset('mtnlg-530b').model.parameters():.4f} % of the model, "
      f"{20 * extra / 1e6:.0f} MB of training state at 20 bytes a parameter [S3]")  # fmt: skip
assert (size, padded, extra) == (50_257, 51_200, 19_312_640) and size > 7 * padded // 8

# %% [markdown]
# No text ever holds a padding token. Its row gets a gradient all the same, since the softmax runs
# over all 51 200, and so the model learns that it is unlikely. All these rows lie in the last
# slice.
#
# ### The data
#
# 339 billion tokens were available and 270 billion were used, in batches of 1920 sequences of 2048
# [S1; S3]. The weights do not follow the sizes: some text is read several times, and much of Common
# Crawl, pages collected from the whole web, not at all.

# %% tags=["predict"]
assert published.TOKENS == 275.5
epochs = {name: 275.5 * row.weight / row.tokens for name, row in datasets.items()}
print(f"{'data set':<20}{'tokens, 10^9':>12}{'weight, %':>11}{'epochs':>8}{'derived':>9}")
for name, row in datasets.items():
    print(f"{name:<20}{row.tokens:>12}{row.percent:>11}{row.epochs:>8}{epochs[name]:>9.2f}")
total = sum(row.tokens for row in datasets.values())
agree = sum(round(epochs[name], 1) == row.epochs for name, row in datasets.items())
print(f"{'all':<20}{total:>12.1f}; {agree} of 15 derived epochs round to the printed ones")
assert round(total, 1) == 338.6 and agree == 12

measured(
    "terabytes_of_tokens",
    2 * tokens_of_mtnlg / 1e12,
    unit="TB",
    tell=f"A step reads {tokens_per_step:,} tokens, {2 * tokens_per_step / 1e6:.1f} MB.",
)
assert tokens_per_step == 3_932_160

# %% [markdown]
# *Epochs* says how often a data set is read from end to end. The last column is derived: 275.5
# billion times weight over tokens. These are 270 billion for training and 5.5 billion held out to
# measure the loss, a split of 98 to 2 [S3]. Three of the derived values differ from the printed
# ones by one in the last digit, which the rounded token counts explain.

# %%
ranked = sorted(epochs, key=epochs.get)
fig, ax = plt.subplots(figsize=(7, 4.6))
ax.barh(ranked, [epochs[name] for name in ranked], color=COLOURS["sky"], edgecolor="black", lw=0.6)
ax.axvline(1, color="black", lw=1, ls="--", marker="")
ax.text(1.03, 0, "read once", fontsize=9, va="center")
ax.grid(axis="y", visible=False)
ax.set(xlabel="times read in the whole training",
       title="Some text is read several times, half of the web crawl never")  # fmt: skip
figure(
    fig,
    alt="Epochs of 15 data sets: OpenWebText2 3.6, Wikipedia 3.1, down to GitHub and ArXiv 0.2; "
    "eight of 15 are read more than once.",
)
assert sum(e > 1 for e in epochs.values()) == 8 and ranked[-1] == "openwebtext2"
assert all(round(epochs[name], 1) == 0.5 for name in ("pile-cc", "cc-2020-50", "cc-2021-04"))

# %% [markdown]
# What do the three indices cost here? The run draws 270 billion / 2048 samples. The blend keeps
# another 10 bytes a sample: 2 for the source, and 8 for the number of the sample in that source.

# %%
samples = 270_000_000_000 // 2048
print(f"{samples / 1e6:.1f} million samples: sample and shuffle index {12 * samples / 1e9:.2f} GB, "
      f"blend {10 * samples / 1e9:.2f} GB")  # fmt: skip

# %% [markdown]
# They can be files as well, memory-mapped, so that the eight GPUs of a node share one copy.
#
# ### Your rank
#
# On 280 nodes 2240 ranks form $d = 8$ replicas of $p = 35$ stages with $t = 8$ slices [S3]. The
# micro-batch was not published; everybody who modelled the run assumes 1 (not confirmed). Only the
# first stage needs the tokens, and only the last needs the answers, called *labels* in code. The 33
# stages between them get activations from their neighbours and need no data file.

# %%
rank = my_rank()
place = MTNLG.place(rank)
mine = numbers(c=consumed, B=1920, b=1, d=MTNLG.dp, r=place.dp)
print(f"rank {rank}: stage {place.pp} of 0 to 34, replica {place.dp} of 0 to 7, slice {place.tp}")
low, high = (slice_ * padded // 8 for slice_ in (place.tp, place.tp + 1))
print(f"stages 0 and 34: slice {place.tp} holds rows {low:,} to {high - 1:,} of the embedding")
print(f"in the step after {consumed:,} samples its replica reads {len(mine)} samples:")
print(", ".join(f"{k[0]:,}" for k in mine[:3]), "...", f"{mine[-1][0]:,}")
if place.pp in (0, 34):
    print(f"It reads them itself, as {'tokens' if place.pp == 0 else 'labels'}.")
else:
    first_rank, last_rank = (MTNLG.rank(pp=pp, dp=place.dp, tp=place.tp) for pp in (0, 34))
    print(f"It reads none. Rank {first_rank} reads the tokens for it, rank {last_rank} the labels.")
reading = [r for r in range(MTNLG.world) if MTNLG.place(r).pp in (0, 34)]
print(f"{len(reading)} of {MTNLG.world:,} ranks need the data")
assert len(mine) == 240 and len(reading) == 128

# %% [markdown]
# The eight slices of a stage read the same samples: tensor parallelism cuts the model, not the
# batch.

# %% [markdown] tags=["deeper"]
# ### Deeper: more than one epoch
#
# The run reads OpenWebText2 3.6 times. The document index then holds each document four times, and
# of the last epoch only a part is read.
#
# If all four epochs were shuffled together, the unread part could lie anywhere: one document would
# be read four times, another twice. So when less than 80 % of the last epoch is needed, Megatron
# shuffles that epoch by itself and reads it last [S10].

# %% tags=["deeper"]
for needed in (14, 17):
    more = Samples(five, range(5), samples=needed, seq=4, seed=1)
    print(f"{needed} samples: documents {more.document_index}, shuffle {more.shuffle_index}")

# %% [markdown] tags=["deeper"]
# An epoch gives 6 samples. 14 samples need a small part of a third epoch. So its
# documents 0 to 4 stand by themselves at the end of the document index, and its samples at the end
# of the shuffle index. 17 samples need almost all of the third epoch, so everything is shuffled
# together.

# %% [markdown]
# ## Check yourself
#
# 1. The only word is `abababab`, and `a b` is joined. How many symbols are left? Why can the count
#    of a pair not always tell how many joins are made?
#
# <details><summary>Answer</summary>
#
# Four: `ab ab ab ab`. Here counting works, 4 pairs. In `aaa` the pair `a a` is counted twice, at
# places 0 and 1, but the two overlap and only one join is possible: `aa a`. One has to walk from
# the left.
#
# </details>
#
# 2. Your file has 3 documents and 1000 tokens. You open it with a program that thinks tokens have 4
#    bytes. What goes wrong, and which byte of which file would have told the program?
#
# <details><summary>Answer</summary>
#
# Two tokens are read as one number, mostly far beyond the vocabulary. Byte 17 of `.idx`, after 9
# bytes of magic and 8 of version, gives the type: 8 for 2 bytes, 4 for 4 bytes.
#
# </details>
#
# 3. Why do two neighbouring samples of the row share a token, and is any token predicted twice?
#
# <details><summary>Answer</summary>
#
# The last token of one sample is only an answer there, never an input. As the first input of the
# next sample it serves to predict what follows. Each token is predicted once.
#
# </details>
#
# 4. A source has weight 0.002. After how many samples does the greedy rule take it first?
#
# <details><summary>Answer</summary>
#
# When its error is the largest of all. The others are kept within about one of their targets, so
# its turn comes when its own target is a sizeable part of one sample, well before $1 / 0.002 = 500$
# samples. For NIH ExPorter, with a weight near 0.002, `np.argmax(by_rule == 7)` gives the number.
#
# </details>
#
# 5. A cluster of 16 replicas stops after 1000 steps and the run goes on with 8. What has to be
#    stored so that no sample is read twice?
#
# <details><summary>Answer</summary>
#
# The number of samples consumed, $c$. The three indices are rebuilt from the seed, the files and
# the number of samples of the whole run. So that number must be fixed at the start and never
# change.
#
# </details>

# %% [markdown]
# ## Exercises
#
# Write the step at the heart of the vocabulary yourself. Then write the blend so that no rounding
# error decides a tie.
