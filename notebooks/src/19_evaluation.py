# ---
# question: How do you find out what a language model can do, and how sure are you of it?
# needs: [decontamination, byte-pair encoding]
# introduces:
#   likelihood scoring: "To take as a model's answer the option that it holds for the most likely
#     continuation of the question; nothing is generated."
#   standard error: "How far a measured share is off, on average, because the questions are only a
#     sample: $\\sqrt{p (1 - p) / n}$ for a share $p$ of $n$ answers."
#   shot: "A solved example that stands in the prompt before the question; without any the test is
#     zero-shot, with some of them few-shot, and no weight changes."
# proves: "Scores equal those by hand, follow answers that were planted, and intervals hold what
#   they promise."
# minutes: 40
# seconds: 60
# ---

# %% [markdown]
# # What the model can do
#
# A loss of 1.85 nats [S3, Figure 2] says how well MT-NLG guesses the next token. Nobody asks it for that. People
# ask questions, and want to know how many of the answers are right.
#
# In this lesson you ask your own model thousands of questions, of the sets that the paper used. It
# will not do well. So the second half of the question becomes the harder one: how do you tell that
# from luck?

# %% [markdown]
# ## Question
#
# PIQA asks which of two ways leads to a goal. GPT-3 chose the right one in 81.0 % of the cases,
# MT-NLG in 82.0 % [S3, Tables 2 to 6]. Is MT-NLG the better one?
#
# **How do you find out what a language model can do, and how sure are you of it?**

# %%
import json
import math
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import minimtnlg
from minimtnlg.config import preset
from minimtnlg.course.check import measured, predict
from minimtnlg.course.need import need
from minimtnlg.course.plots import COLOURS
from minimtnlg.course.show import figure, show
from minimtnlg.data.tokenizer import Tokenizer
from minimtnlg.device import device
from minimtnlg.evaluate import hans
from minimtnlg.evaluate.datasets import load
from minimtnlg.evaluate.generate import greedy
from minimtnlg.evaluate.measure import PUBLISHED, accuracy
from minimtnlg.evaluate.scoring import NORMS, encoded, preferred, scores
from minimtnlg.evaluate.shots import examples_for
from minimtnlg.evaluate.tasks import TASKS, pairs_of
from minimtnlg.train.checkpoint import load_run

RECORDED = Path(minimtnlg.__file__).parents[1] / "notebooks" / "recorded"

# %% tags=["parameters"]
size: str = "nano"  # or "small", which `make model` trains in 20 minutes
asked: int = 400  # questions of each task

# %%
folder = need("nano") if size == "nano" else need(size)
config, model = load_run(folder)
words = Tokenizer.load(folder / "tokenizer.json")
seq = config.model.seq
print(f"{size}: {config.model.parameters():,} parameters, reads {seq} tokens at a time")

# %% [markdown]
# ## Predict
#
# Type your guess in place of `None`, then run the cell.
#
# 1. We let your model write what comes after 20 yes-or-no questions. How many of the 20 answers
#    begin with *yes* or *no*?
# 2. Two answers to a question are compared once by the probability of all of their tokens, and once
#    by the mean of a token. In how many percent of the questions does another answer win?
# 3. A hundred models flip a coin for each answer to 1500 questions. How many percent does the best
#    of them get right?
# 4. Forty questions with their answers stand in the training text, each in eight documents. Without
#    them nano gets 23 of the 40 right. How many with them?

# %%
predict("answers_that_say_yes_or_no", None)
predict("other_winners", None)
predict("luckiest_of_a_hundred", None)
predict("right_with_the_leak", None)

# %% [markdown]
# ## Trouble
#
# Ask, and read what it writes. BoolQ has passages of Wikipedia, each with a question.

# %% tags=["predict"]
boolq, _ = load("boolq")
replies = []
for item in boolq[:20]:
    ids = words.encode(item.before[0])[4 - seq :]  # the end of it, with room for four tokens
    replies.append(words.decode(greedy(model, ids, 4, words.eod, words.size)))
for item, reply in zip(boolq[:5], replies, strict=False):
    question = item.before[0].splitlines()[-2].removeprefix("Question: ")
    print(f"{question} ({item.options[item.gold]})\n    {reply!r}")
spoken = sum(reply.strip().lower().startswith(("yes", "no")) for reply in replies)
measured("answers_that_say_yes_or_no", spoken, unit="of 20")

# %% [markdown]
# The model continues a text, and few texts continue with one bare word. What it writes can't even
# be marked. Does it know nothing, or does it only not know what we want?

# %% [markdown]
# ## Idea
#
# ### Do not let it write
#
# A model gives a probability to *every* text. So give it the question, and look up how likely it
# holds each of the possible answers. The likeliest counts as its choice. This is **likelihood
# scoring**.
#
# By hand. A question of PIQA has two answers:

# %%
piqa, _ = load("piqa")
some = piqa[:asked]
item = piqa[2]
print(item.before[0])
for number, option in enumerate(item.options):
    print(f"   {option}{'   (right)' if number == item.gold else ''}")

# %% [markdown]
# One pass gives the probabilities of the next token at each place. Of each place we take the
# probability of the token that does come next.


# %%
@torch.no_grad()
def by_hand(context, continuation):
    """[(text of a token, log of its probability)] of the continuation's tokens."""
    before, after = words.encode(context), words.encode(continuation)
    tokens = torch.tensor([before + after[:-1]], device=device())
    logits = model(tokens)[:, 0]  # [s, V]: each row is about the next token
    rows = logits[len(before) - 1 :, : words.size].double().log_softmax(-1)
    return [(words.decode([t]), row[t].item()) for t, row in zip(after, rows, strict=True)]


hand = [by_hand(item.before[0], f" {option}") for option in item.options]
for option in hand:
    print("  ".join(f"{text.strip()}:{value:.1f}" for text, value in option))
    print(f"    sum {sum(value for _, value in option):.2f} over {len(option)} tokens\n")

# %% [markdown]
# The answer with the larger sum is the model's choice. So far it need not be the right one.
#
# Probabilities of a chain multiply, so their logarithms add up. For an answer $a$ of $k$ tokens
# after the context $c$:
#
# $$\log P(a \mid c) = \sum_{i=1}^{k} \log P(a_i \mid c, a_1 \ldots a_{i-1}).$$
#
# ### A long answer is an unlikely answer
#
# Each token makes the product smaller, whatever it says. Here is a question whose answers differ in
# length.

# %%
def path(item, option):
    """log P(the first 0, 1, 2, ... tokens of an answer | question)."""
    return np.cumsum([0, *(value for _, value in by_hand(item.before[0], f" {option}"))])


def paths(item):
    """`path` of each answer."""
    return [path(item, option) for option in item.options]


def disagree(item):
    """Whether the sum prefers one answer and the mean of a token the other."""
    a, b = paths(item)
    return (a[-1] > b[-1]) != (a[-1] / (len(a) - 1) > b[-1] / (len(b) - 1))


twofold = next(x for x in piqa if len(x.before[0]) + max(map(len, x.options)) < 200 and disagree(x))
print(twofold.before[0])
fig, ax = plt.subplots()
for line, option, colour in zip(paths(twofold), twofold.options, ("blue", "orange"), strict=True):
    name = f"{option[:44]}{'...' if len(option) > 44 else ''}"
    ax.plot(line, color=COLOURS[colour], ls="-" if colour == "blue" else "--", markersize=3,
            marker="o" if colour == "blue" else "s", label=name)  # fmt: skip
    ax.annotate(f"{line[-1]:.0f} in {len(line) - 1} tokens:\n{line[-1] / (len(line) - 1):.2f} each",
                (len(line) - 1, line[-1]), (8, 0) if colour == "orange" else (-80, -22),
                textcoords="offset points", fontsize=9)  # fmt: skip
ax.set(xlabel="tokens of the answer", ylabel="log P so far (nats)",
       title="The sum is where a line ends, the mean is its slope")  # fmt: skip
ax.margins(x=0.2)
ax.legend(fontsize=9)
ends = [f"{p[-1]:.0f} nats after {len(p) - 1} tokens, {p[-1] / (len(p) - 1):.2f} each" for p in paths(twofold)]
figure(fig, alt=f"Two falling lines, one for each answer: {ends[0]}; {ends[1]}. By where it ends the "
       "shorter one wins, by its slope the longer one.")  # fmt: skip

# %% [markdown]
# Which is fair? There is no rule that is right for all. The paper takes the mean of a token unless
# it says otherwise. The harness that it is built on has two others, and GPT-3 brought a fourth:
#
# - **sum**: $\log P(a \mid c)$. The shorter answer has an advantage.
# - **token**: $\log P(a \mid c)$ divided by the number of tokens [S3].
# - **character**: divided by the number of characters, which depends on no tokenizer [S19].
# - **answer**: $\log P(a \mid c) - \log P(a \mid \text{Answer:})$. How much more likely does the
#   question make this answer? What is likely anyway, such as *yes*, gains nothing [S3, for RACE].
#
# Now all of them on all our questions. The package's `scores` does what we did by hand, many at a
# time.


# %%
def ask(name, items, shots=0):
    """Scores of the options of each item, after so many shots, which are drawn from all items."""
    pairs = []
    for number, item in enumerate(items):
        examples = examples_for(name, number, item, items, shots, seed=1)
        pairs += pairs_of(name, item, examples)
    found = iter(scores(model, encoded(words, pairs), eod=words.eod, vocab=words.size))
    return [[next(found) for _ in item.options] for item in items]


def alone(items):
    """Scores of the options after "Answer:" and nothing else."""
    pairs = [("Answer:", f" {option}") for item in items for option in item.options]
    found = iter(scores(model, encoded(words, pairs), eod=words.eod, vocab=words.size))
    return [[next(found) for _ in item.options] for item in items]


def chosen(norm, items, found, bare):
    """The number of the option that wins, for each item."""
    rows = zip(items, found, bare, strict=True)
    return np.array([preferred(norm, x, item.options, a) for item, x, a in rows])


asked_of = {"piqa": some, "boolq": boolq[:asked]}
found, bare, choice = {}, {}, {}
for name, items in asked_of.items():
    began = time.perf_counter()
    found[name], bare[name] = ask(name, items), alone(items)
    choice[name] = {norm: chosen(norm, items, found[name], bare[name]) for norm in NORMS}
    cut = np.mean([x[0].cut > 0 for x in found[name]])
    print(f"{name}: {len(items)} questions in {time.perf_counter() - began:.1f} s; of {cut:.0%} the "
          f"beginning was cut off, they are longer than {seq} tokens")  # fmt: skip
gold = {name: np.array([item.gold for item in items]) for name, items in asked_of.items()}

# %% tags=["predict"]
print(f"{'':12}{'right':>9}{'other than the sum':>21}{'the shorter answer':>21}")
short = np.array([min((0, 1), key=lambda i, x=x: x[i].tokens) for x in found["piqa"]])
even = np.array([x[0].tokens == x[1].tokens for x in found["piqa"]])
for norm, picked in choice["piqa"].items():
    print(f"{norm:12}{(picked == gold['piqa']).mean():>9.1%}"
          f"{(picked != choice['piqa']['sum']).mean():>21.1%}"
          f"{(picked == short)[~even].mean():>21.1%}")  # fmt: skip
changed = (choice["piqa"]["token"] != choice["piqa"]["sum"]).mean()
measured("other_winners", 100 * changed, unit="%", tell="The same model, the same probabilities.")
assert (choice["piqa"]["sum"] == short)[~even].mean() > 0.75

# %% [markdown]
# Where the two differ in length, the sum takes the shorter answer nearly always, and the mean takes it
# in about as many cases as the last column says. None of this is about the question.
#
# ### How sure
#
# Draw other questions of the same kind, and the share will be another one. By how much? Each answer
# is right with probability $p$, a coin with that probability. The number of right ones among $n$
# scatters by $\sqrt{n p (1 - p)}$, so the share scatters by
#
# $$\text{standard error} = \sqrt{\frac{p (1 - p)}{n}}.$$
#
# About two of three times the share is within one **standard error** of $p$, and 95 of 100 times
# within 1.96 of them. With $n = 1500$ and $p = 1/2$ one standard error is 1.3 %.
#
# How lucky can a model be that knows nothing? We flip coins for a hundred of them.


# %% tags=["predict"]
def standard_error(p, n):
    """Of a share p of n answers."""
    return math.sqrt(p * (1 - p) / n)


n = len(piqa)
assert n == 1500 and round(100 * standard_error(0.5, n), 1) == 1.3
flips = np.random.default_rng(1).random((100, n)) < 0.5
luck = 100 * flips.mean(1)
fig, ax = plt.subplots()
ax.hist(luck, bins=np.arange(45.9, 54.5, 0.4), color=COLOURS["sky"], edgecolor="black", lw=0.6)
for times, style in ((1, "--"), (1.96, ":")):
    far = 100 * times * standard_error(0.5, n)
    inside = (abs(luck - 50) < far).mean()
    for sign in (-1, 1):
        ax.axvline(50 + sign * far, color="black", ls=style,
                   label=f"{times} standard errors: {inside:.0%} inside" if sign > 0 else None)  # fmt: skip
ax.set(xlabel=f"% of {n} questions right", ylabel="models",
       title="A hundred models that flip a coin")  # fmt: skip
ax.legend(fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
figure(fig, alt=f"Histogram of the scores of a hundred coin flippers on {n} questions, from "
       f"{luck.min():.1f} to {luck.max():.1f} %, most within {100 * standard_error(0.5, n):.1f} % of 50.")  # fmt: skip
measured("luckiest_of_a_hundred", luck.max(), unit="%", tell="Whoever tries a hundred settings and "
         "reports the best one has measured this.")  # fmt: skip

# %% [markdown]
# So a score comes with two more numbers: its standard error, and what one gets without knowing
# anything. The latter is *chance*, one over the number of options, or the share of the commonest
# answer, if that is more.

# %%
Z = 1.96


def verdict(right, baseline):
    """A line: share, interval, and what it says beside a baseline."""
    p, n = np.mean(right), len(right)
    far = Z * standard_error(p, n)
    word = "above" if p - far > baseline else "below" if p + far < baseline else "not told from"
    return f"{p:6.1%}, interval {p - far:.1%} to {p + far:.1%}: {word} {baseline:.1%}"


majority = {name: max(np.bincount(g)) / len(g) for name, g in gold.items()}
for name in asked_of:
    print(f"{name}: {len(gold[name])} questions, commonest answer {majority[name]:.1%}")
    for norm in NORMS:
        print(f"  {norm:10}{verdict(choice[name][norm] == gold[name], majority[name])}")
for norm in NORMS:
    print(f"boolq by {norm}: says yes to {choice['boolq'][norm].mean():.0%} of the questions")

# %% [markdown]
# Nothing of this is knowledge. On BoolQ look at the last lines first. A model that always says *yes*
# gets the share of the commonest answer, and has read no passage. Nor has one that always says *no*,
# though its score looks much worse. The sum and the mean of a token make your model one or the other,
# by the tokenizer:

# %%
print({word: [words.decode([t]) for t in words.encode(f" {word}")] for word in ("yes", "no")})

# %% [markdown]
# ## Code
#
# The package's `scores` does what we did by hand, many pairs at a time: sorted by length, the logits
# of the answers alone, and one pass for two answers that begin alike.

# %%
show(scores)

# %% [markdown]
# It knows the paper's tasks. A task says how a record becomes a question with options, and what is
# compared.

# %%
for name, task in TASKS.items():
    print(f"{name:12}compares {task.norm:10}few-shot: {task.few:>2} shots, paper: {task.split} set")

# %% [markdown]
# Of the few-shot numbers only that of HANS is confirmed [S3, Figure 5]. The others are GPT-3's.
# BoolQ and 1500 of PIQA's 1838 questions come with a package. `cloze`, the last word of passages of
# Moby-Dick, is made here; the paper has neither it nor R1 and R3 of ANLI. All others are read from
# files of yours or from a hub.
#
# A **shot** is a solved example in front of the question. Nothing is trained: the model can only
# read from it what kind of answer is wanted.

# %%
example = pairs_of("piqa", piqa[2], [piqa[1]])
print(example[0][0] + "|" + example[0][1])

# %% [markdown]
# Does your model gain from them? We ask PIQA again after one, two and four. What does not fit into
# the context is cut off on the left.

# %%
few = {}
for shots in (0, 1, 2, 4):
    few[shots] = found["piqa"] if shots == 0 else ask("piqa", some, shots)
    right = chosen("token", some, few[shots], bare["piqa"]) == gold["piqa"]
    cut = np.mean([max(score.cut for score in x) > 0 for x in few[shots]])
    print(f"{shots} shots: {verdict(right, majority['piqa'])}; cut in {cut:.0%} of the questions")

# %% [markdown]
# ### HANS: words that mislead
#
# HANS asks whether one sentence follows from another [S60]. The sentences below are our own, in HANS'
# form: its 30 kinds, half of the answers *True*. Each word of the second is in the first, so whoever goes by the words says *True* each time. In half of the cases that is wrong. Its
# sentences follow three shortcuts: *lexical overlap*, the same words in any order; *subsequence*,
# words that stand side by side; *constituent*, a phrase of its own.

# %%
questions = hans.examples(10, seed=1)
pool = hans.examples(20, seed=2)
for kind in hans.HEURISTICS.values():
    for label in (True, False):
        e = next(x for x in questions if (x.heuristic, x.label) == (kind, label))
        print(f"{kind:16}{label!s:7}{e.premise} -> {e.hypothesis}")


# %%
too_long = []  # at each number of shots: the share of prompts that lost their beginning


def logprobs(texts):
    """Log-probability of each continuation of [(context, continuation)]."""
    found = scores(model, encoded(words, texts), eod=words.eod, vocab=words.size)
    too_long.append(np.mean([x.cut > 0 for x in found]))
    return [x.logprob for x in found]


counts = (0, 1, 2, 4)
answers = {
    count: hans.ask(logprobs, questions, pool, count, labels="balanced") for count in counts
}
for (count, one), cut in zip(answers.items(), too_long, strict=True):
    said = np.mean(one.odds > 0)
    print(f"{count} shots: {verdict(one.correct(), 0.5)}; cut in {cut:.0%} of the prompts\n"
          f"   says True in {said:.0%}, P(True) + P(False) is {one.mass:.1g}\n"
          f"   threshold moved: {verdict(one.correct(one.odds.mean()), 0.5)}")  # fmt: skip

# %%
fig, ax = plt.subplots(figsize=(7.5, 4))
groups = [(kind, label) for kind in hans.HEURISTICS.values() for label in (True, False)]
bare_odds = answers[0].odds
told = []
for at, (rule, limit, colour, hatch) in enumerate((
    ("True where its log-odds exceed 0", 0.0, "sky", ""),
    ("True where they exceed their mean", bare_odds.mean(), "orange", "//"),
)):  # fmt: skip
    ok, bars = answers[0].correct(limit), []
    for kind, label in groups:
        mine = np.array([(x.heuristic, x.label) == (kind, label) for x in questions])
        p = ok[mine].mean()
        bars.append((100 * p, 100 * Z * standard_error(p, mine.sum())))
    x = np.arange(len(groups)) + 0.4 * at - 0.2
    height, error = zip(*bars, strict=True)
    ax.bar(x, height, 0.38, yerr=error, capsize=2, color=COLOURS[colour], edgecolor="black", lw=0.6,
           hatch=hatch, label=rule)  # fmt: skip
    told.append(f"{rule}: " + ", ".join(f"{h:.0f}" for h in height))
ax.axhline(50, color="black", ls=":", lw=1)
ax.set_xticks(range(len(groups)), [f"{kind.replace('_', chr(10))}\n{label}" for kind, label in groups],
              fontsize=9)  # fmt: skip
ax.set(ylabel="% right", ylim=(0, 119), title=f"HANS, {size}, zero-shot: one word for all, or a threshold")
ax.legend(fontsize=9, ncols=2)
figure(fig, alt="Bars of the share of right answers for lexical overlap, subsequence and constituent, each True and False. "
       + "; ".join(told) + " %.")  # fmt: skip

# %% [markdown]
# A prompt that is cut has lost its first examples, or a part of one: at these numbers of shots the
# model sees fewer than it was given.
#
# A model with a favourite word is right wherever that word is, whatever the shortcut. Its mean over all
# six is one half, for a bad reason, and no draw of other questions would change that: the interval,
# which takes answers for coins, says too much. (Where all answers of a group are alike its bar has
# none: the formula is for shares that are not too near 0 or 1.)
#
# The paper's remedy: move the threshold [S3, sec. 6]. Say *True* where the log-odds, $\log P$ of True
# less $\log P$ of False, are above their mean, not above 0. The favourite word is then no longer an
# advantage. What is left is what the model makes of the sentences. If one of the four rows says
# "above", remember the coins: whoever looks at many rows finds one.

# %% [markdown]
# ### A model that trained longer
#
# `make model` trains `small`: twice the weights of nano, twice the context, eleven times the tokens.
# What it came to was recorded by `python scaling/bench/small.py`. Has it learned to answer?

# %%
small = json.loads((RECORDED / "small.json").read_text())
told, curve = small["training"], small["training"]["curve"]
fig, ax = plt.subplots()
tokens = [row["tokens"] / 1e6 for row in curve]
ax.plot(tokens, [row["loss"] for row in curve], color=COLOURS["sky"], marker="", label="training")
held_out = [(row["tokens"] / 1e6, row["valid_loss"]) for row in curve if "valid_loss" in row]
ax.plot(*zip(*held_out, strict=True), color=COLOURS["blue"], ls="--", ms=3, label="validation")
ax.axhline(told["unigram_entropy"], color="black", ls=":", label="the best without any context")
ax.set(xlabel="million tokens", ylabel="loss (nats per token)",
       title=f"small: {told['parameters'] / 1e6:.1f} million parameters")  # fmt: skip
ax.legend(fontsize=9)
figure(fig, alt=f"Loss of small over {tokens[-1]:.0f} million tokens; the validation loss falls to "
       f"{told['valid_loss']:.2f}, the entropy of single tokens is {told['unigram_entropy']:.2f}.")  # fmt: skip
above = 0
for row in small["evaluation"]:
    p, far, base = row["accuracy"], Z * row["standard_error"], max(row["majority"], row["chance"])
    word = "above" if p - far > base else "below" if p + far < base else "not told from"
    above += word == "above"
    print(f"{row['task']:12}{row['shots']} shots {p:6.1%}, interval {p - far:.1%} to {p + far:.1%}: "
          f"{word} {base:.1%}")  # fmt: skip
nano_rows = (need("nano") / "metrics.jsonl").read_text().splitlines()
nano_loss = json.loads(nano_rows[-1])["valid_loss"]
print(f"validation loss: nano {nano_loss:.2f}, small {told['valid_loss']:.2f} nats per token")
assert above == 0 and told["valid_loss"] < nano_loss - 1

# %% [markdown]
# No. Its loss is more than a nat below that of nano, so it reads far better. Nothing of that reaches the
# answers, and with 1500 or 3270 questions the intervals are narrow. What is asked here needs more of a
# model than grammar and topics.
#
# How much more? Of a dense model of 350 million weights, on 300 billion tokens of MT-NLG's corpus, PIQA
# got 69.3 % and BoolQ 53.6 % [S11, MoE-NLG post]. On BoolQ that is less than always saying *yes*.

# %% [markdown]
# ## You might think
#
# *A question that stands somewhere in the middle of other text does no harm. The model learns to
# predict text, not to pass a test.*
#
# Here nano was trained three times, by `python scaling/bench/leak.py`. Once without any question of
# PIQA. Once with 40 of them, the right answer behind each, in the middle of documents of Wikipedia:
# eight documents for each question. And once on that text after decontamination. These documents are
# four fifths of what it reads, the rest is Python. It was then asked these 40, and 40 others that no
# text holds.

# %% tags=["predict"]
leak = json.loads((RECORDED / "19_leak.json").read_text())
fig, ax = plt.subplots()
hits = {}
for at, (group, colour, marker) in enumerate((("leaked", "red", "o"), ("others", "blue", "s"))):
    rows = []
    for corpus in ("without", "with", "cleaned"):
        losses = np.array(leak[corpus][group])
        right = losses[:, 0] < losses[:, 1]
        hits[corpus, group] = right
        rows.append((100 * right.mean(), 100 * Z * standard_error(right.mean(), len(right))))
    ax.errorbar(np.arange(3) + 0.16 * at - 0.08, *zip(*rows, strict=True), ls="", marker=marker,
                color=COLOURS[colour], capsize=4, ms=7, label=f"{len(right)} {group.removesuffix('s')} questions")  # fmt: skip
ax.axhline(50, color="black", ls=":", lw=1, label="a coin")
ax.set_xticks(range(3), ["without", "with the leak", "cleaned"])
ax.set(xlim=(-0.5, 2.5), ylim=(20, 105), ylabel="% right, and its interval", title="A test that stands in the training text")
ax.legend(fontsize=9, loc="lower left")
told = [f"{c} {100 * hits[c, 'leaked'].mean():.0f} and {100 * hits[c, 'others'].mean():.0f} %" for c in ("without", "with", "cleaned")]
figure(fig, alt="Share of right answers of three trainings, leaked and other questions: " + "; ".join(told) + ". Intervals reach 15 points to each side.")
assert hits["without", "leaked"].sum() == 23
measured("right_with_the_leak", hits["with", "leaked"].sum(), unit="of 40")

# %% [markdown]
# Is that luck? The intervals are wide, there are only 40 questions. But these are the *same*
# questions, so compare question by question: how many became right, how many became wrong? If the
# leak did nothing, each change would be as likely in either direction.

# %%
before, after = hits["without", "leaked"], hits["with", "leaked"]
better, worse = int((after & ~before).sum()), int((before & ~after).sum())
chance = sum(math.comb(better + worse, k) for k in range(better, better + worse + 1)) / 2 ** (
    better + worse
)
print(f"{better} became right, {worse} became wrong; by chance {chance:.1e}")
assert chance < 0.01

# %% [markdown]
# Are the other 40 questions better off as well, since the model has seen how such an answer reads? The
# same test, and the same for both after decontamination:

# %%
for corpus, group in (("with", "others"), ("cleaned", "leaked"), ("cleaned", "others")):
    one, other = hits["without", group], hits[corpus, group]
    up, down = int((other & ~one).sum()), int((one & ~other).sum())
    most = max(up, down)
    luck_of = sum(math.comb(up + down, k) for k in range(most, up + down + 1)) / 2 ** (up + down)
    print(f"{corpus:8}{group:8}{up} became right, {down} became wrong; by chance {luck_of:.2f}")

# %% [markdown]
# Nothing there that chance would not do. The others may have gained a little; forty questions do not
# show it. After decontamination both are where they were, as far as forty questions can tell. Lesson
# 02 shows how it finds the places.

# %% [markdown]
# ## Proof
#
# **The package computes what the hand did.** Both answers of 20 questions are compared.

# %%
largest = 0.0
for item, row in zip(some[:20], found["piqa"], strict=False):
    for option, score in zip(item.options, row, strict=True):
        largest = max(largest, abs(score.logprob - path(item, option)[-1]))
print(f"largest difference {largest:.1e} nats")
assert largest < 1e-3
told = accuracy("piqa", some, [(row, None) for row in found["piqa"]])
mine = (choice["piqa"]["token"] == gold["piqa"]).mean()
assert told["accuracy"] == mine
assert abs(told["standard_error"] / standard_error(mine, len(some)) - 1) < 1 / len(some)

# %% [markdown]
# (The package divides by $n - 1$, since $p$ comes from the same answers. With hundreds of answers
# that makes no difference.)
#
# **The score follows the model.** If we plant answers, the score must find them, and not only the
# right ones. We train a copy of the model for some seconds on 24 questions, each with its *wrong*
# answer.

# %%
exam = [x for x in some if len(words.encode(x.before[0] + x.options[0] + x.options[1])) < 80][:24]
student = load_run(folder)[1]
wrong = [words.encode(f"{x.before[0]} {x.options[1 - x.gold]}") for x in exam]
texts = [torch.tensor(ids, device=device()) for ids in wrong]
rows = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=-1)
optimizer = torch.optim.AdamW(student.parameters(), lr=2e-3)
for step in range(60):
    batch = rows[8 * (step % 3) :][:8]
    logits = student(batch[:, :-1].clamp(0)).transpose(0, 1)  # [b, s, V]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(),
                                             ignore_index=-1)  # fmt: skip
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def right_of(model, items):
    """Which items a model gets right, by the mean of a token."""
    pairs = [pair for item in items for pair in pairs_of("piqa", item)]
    row = iter(scores(model, encoded(words, pairs), eod=words.eod, vocab=words.size))
    picked = [preferred("token", [next(row) for _ in x.options], x.options) for x in items]
    return np.array(picked) == np.array([x.gold for x in items])


planted = right_of(student, exam)
print(f"before {right_of(model, exam).mean():.0%} right, after 20 passes over the wrong answers "
      f"{planted.mean():.0%}; loss {loss.item():.2f}")  # fmt: skip
assert planted.mean() < 0.1

# %% [markdown]
# **The intervals hold what they promise.** A model that is right with probability 0.7 answers 1500
# questions, two thousand times. How often does the interval contain 0.7?

# %%
shares = np.random.default_rng(2).binomial(1500, 0.7, 2000) / 1500
covered = np.mean([abs(p - 0.7) < Z * standard_error(p, 1500) for p in shares])
print(f"{covered:.1%} of 2000 intervals contain it")
assert 0.935 < covered < 0.965

# %% [markdown] tags=["deeper"]
# ### Deeper: two models on the same questions
#
# Two models that answer the same questions are often right on the same ones. Then their *difference*
# is known better than each of the two: questions on which they agree tell nothing, and bring no
# scatter. With $d_i$ as $-1$, $0$ or $1$ for each question, its standard error is that of the mean of
# the $d_i$.

# %% tags=["deeper"]
one, other = (chosen("token", some, few[k], bare["piqa"]) == gold["piqa"] for k in (0, 1))
d = other.astype(int) - one
pair = d.std(ddof=1) / math.sqrt(len(d))
apart = math.hypot(standard_error(one.mean(), len(d)), standard_error(other.mean(), len(d)))
print(f"one shot against none: {d.mean():+.1%}, standard error {pair:.1%} by pairs, "
      f"{apart:.1%} if the questions had been others")  # fmt: skip
assert pair < apart

# %% [markdown]
# ## Cost
#
# A pass over the question and its options, and nothing else. A token takes two floating-point
# operations for each weight, and little more. With $K$ shots a question is about $K + 1$ times as
# long, until the context is full.

# %%
few_items = some[:100]
for shots in (0, 1, 2):
    began = time.perf_counter()
    ask("piqa", few_items, shots)
    seconds = time.perf_counter() - began
    prompts = [pairs_of("piqa", x, examples_for("piqa", i, x, few_items, shots, 1)) for i, x in enumerate(few_items)]
    read = sum(min(seq, len(a) + len(b)) for pairs in prompts for a, b in encoded(words, pairs))
    flops = 2 * config.model.parameters() * read
    print(f"{shots} shots: {read:>7,} tokens in {seconds:4.1f} s, {read / seconds:,.0f} tokens/s, "
          f"{flops / seconds / 1e9:.0f} GFLOP/s")  # fmt: skip
mt = preset("mtnlg-530b").model
full = 2 * mt.parameters() * 2 * 1838 * mt.seq
print(f"\nMT-NLG on PIQA, both answers of 1838 questions after full contexts: {full:.1e} FLOP (derived),\n"
      f"{full / mt.flops(1920, 'full'):.0%} of one step of its training")  # fmt: skip

# %% [markdown]
# ## MT-NLG
#
# ### What was measured
#
# The paper compares MT-NLG with GPT-3 and, where there are numbers, Gopher [S3, Tables 2 to 6]. The
# prompts are those of the harness [S19], and nobody searched for the best number of shots.

# %%
SIZES = {  # questions, as the sets' own papers say
    "lambada": 5153, "race-h": 3498, "boolq": 3270, "winogrande": 1267, "hellaswag": 10042,
    "piqa": 1838, "anli-r2": 1000, "hans": 30000, "wic": 638,
}  # fmt: skip
CHANCE = {"race-h": 25, "hellaswag": 25, "anli-r2": 100 / 3}
LOOKS = {"mtnlg": ("MT-NLG", "blue", "o"), "gpt3": ("GPT-3", "orange", "s"), "gopher": ("Gopher", "green", "^"), "gpt2": ("GPT-2", "red", "D")}
fig, axes = plt.subplots(3, 3, figsize=(9, 7.2), sharex=True)
for ax, (task, n) in zip(axes.flat, SIZES.items(), strict=True):
    for key, (name, colour, marker) in LOOKS.items():
        row = PUBLISHED[task].get(key, {})
        at = [i for i, k in enumerate(("zero", "one", "few")) if row.get(k)]
        value = [row[("zero", "one", "few")[i]] for i in at]
        error = [100 * Z * standard_error(v / 100, n) for v in value]
        ax.errorbar(at, value, error, color=COLOURS[colour], marker=marker, ls="-" if key == "mtnlg" else "--", capsize=3, label=name, lw=1.4)
    if task == "hans":
        ax.plot([0, 1, 2], [PUBLISHED[task]["blog"][k] for k in ("zero", "one", "few")], color=COLOURS["black"], ls=":", marker="P", label="MT-NLG, blog")
    if task != "lambada":
        ax.axhline(CHANCE.get(task, 50), color="black", lw=0.8, ls=":")
    ax.set_title(f"{PUBLISHED[task]['title']}, {n} questions", fontsize=10)
    ax.set_xticks([0, 1, 2], ["zero", "one", "few"])
    ax.margins(x=0.12)
for ax in axes[:, 0]:
    ax.set_ylabel("% right")
handles = {label: h for ax in axes.flat for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
fig.legend(handles.values(), handles, ncols=5, loc="lower center", bbox_to_anchor=(0.5, -0.04), fontsize=9)
fig.suptitle("The paper's tables, with the interval that the number of questions allows", x=0.06, ha="left", fontsize=12)
fig.tight_layout()
m = PUBLISHED
figure(fig, alt="Nine panels, a task each, with MT-NLG, GPT-3, Gopher and GPT-2 at zero, one and few shots. MT-NLG few-shot: "
       + ", ".join(f"{m[t]['title']} {m[t]['mtnlg']['few']}" for t in SIZES)
       + ". For HANS the blog's points are drawn as well.")

# %% [markdown]
# The dotted line is chance; for LAMBADA, where any word may come, there is none. Gopher's 71.6 % on RACE
# had another prompt, so it can't be compared [S3, footnote 6; S18].
#
# Is the difference between MT-NLG and GPT-3 larger than what the questions
# allow? The papers give no answers question by question, so we take the two as independent, which is
# too careful.

# %%
print(f"{'':12}{'shots':>6}{'MT-NLG':>9}{'GPT-3':>8}{'difference in standard errors':>32}")
far = {}
for task, n in SIZES.items():
    for k in ("zero", "one", "few"):
        a, b = (PUBLISHED[task].get(key, {}).get(k) for key in ("mtnlg", "gpt3"))
        if a and b:
            se = 100 * math.hypot(standard_error(a / 100, n), standard_error(b / 100, n))
            far[task, k] = (a - b) / se
            print(f"{PUBLISHED[task]['title']:12}{k:>6}{a:>9.2f}{b:>8.2f}{(a - b) / se:>32.1f}")
clear = sum(abs(x) > Z for x in far.values())
print(f"\n{clear} of {len(far)} differences exceed {Z} standard errors")
assert abs(far["piqa", "zero"]) < 1 and far["boolq", "zero"] > 10

# %% [markdown]
# So the question of the beginning has an answer: with 1838 questions, 82.0 against 81.0 is less than
# one standard error. BoolQ is another matter.
#
# GPT-3's zero-shot WiC is left out. It is printed as 0 [S3, footnote 7].
#
# ### HANS, twice
#
# MT-NLG's numbers for HANS are not the same in the announcement and in the paper. All other tasks
# agree. Prompt or scoring were changed in between; which of them is not said.

# %%
blog, paper = PUBLISHED["hans"]["blog"], PUBLISHED["hans"]["mtnlg"]
for k in ("zero", "one", "few"):
    se = 100 * standard_error(paper[k] / 100, SIZES["hans"])
    print(f"{k:5} blog {blog[k]:.1f} [S1]   paper {paper[k]:.2f} [S3]   apart by {abs(blog[k] - paper[k]) / se:.0f} standard errors")
others = [t for t in SIZES if t != "hans"]
assert all(abs(m[t]["blog"][k] - m[t]["mtnlg"][k]) < 0.051 for t in others for k in m[t]["blog"])

# %% [markdown]
# Few-shot means 4 shots in the blog and 32 in the paper. But zero-shot is zero-shot, and the two are
# farther apart than chance could explain. A number without its prompt is not a measurement.
#
# The paper's Figure 5 shows what shots do, for three moments of the training:

# %%
fig, ax = plt.subplots()
at = hans.FIGURE_5["shots"]
for (name, values), colour, marker in zip(list(hans.FIGURE_5.items())[1:], ("blue", "sky", "green", "red"), "osD^", strict=True):
    ax.plot(range(len(at)), [100 * v for v in values], color=COLOURS[colour], marker=marker, label=name)
mine = [100 * answers[c].accuracy()[0] for c in counts]
ax.errorbar([at.index(c) for c in counts], mine, [100 * Z * answers[c].accuracy()[1] for c in counts],
            color="black", ls=":", marker="P", capsize=3, label=f"yours, {size}")
ax.axhline(50, color="black", ls=":", lw=0.8)
ax.set_xticks(range(len(at)), at)
ax.set(xlabel="shots", ylabel="% right", title="HANS: size and training decide whether shots help [S3, Figure 5]")
ax.legend(fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
figure(fig, alt="Accuracy on HANS against 0 to 32 shots. MT-NLG after 270 billion tokens rises from 52 to 73 %, after 210 billion "
       "to 69 %, after 150 billion it is back at 60 %, GPT-2 falls from 55 to 50 %. Your model: " + ", ".join(f"{c} shots {x:.0f} %" for c, x in zip(counts, mine, strict=True)) + ".")
for count in counts:
    print(f"{size}, {count} shots: {verdict(answers[count].correct(), 0.5)}")

# %% [markdown]
# GPT-2 with 1.5 billion weights is above chance without shots, and at chance with any. MT-NLG gains
# most from the first two. After that the fully trained one still creeps up, the one at 210 billion
# tokens rises until eight, and the one at 150 billion loses again. The paper also moved the threshold,
# and came to 78.6 % [S3]. (Points between the printed ones are read off the figure, to 0.4 points.
# Your model was asked in our own words: its numbers are not comparable, its shape is.)

# %% [markdown]
# ## Check yourself
#
# 1. A friend reports 62.2 % on BoolQ for a model of a million weights. What do you ask?
#
# <details><summary>Answer</summary>
#
# How often it said *yes*. That is what always saying *yes* comes to on the development set.
#
# </details>
#
# 2. How many questions are needed so that a score of about 80 % is known to within one percent, in 19
#    of 20 cases?
#
# <details><summary>Answer</summary>
#
# $1.96 \sqrt{0.8 \cdot 0.2 / n} = 0.01$ gives $n = 1.96^2 \cdot 0.8 \cdot 0.2 / 0.01^2 = 6147$. Only HellaSwag and HANS have as many.
#
# </details>
#
# 3. You compare four normalisations and six numbers of shots, and report the best of the 24. The model
#    knows nothing. What will you find?
#
# <details><summary>Answer</summary>
#
# About two standard errors above chance. If you must choose, choose on other questions than you
# report on.
#
# </details>
#
# 4. A model says *no* to each question of BoolQ by the sum, and *yes* to each by the mean of a token.
#    Its tokenizer cuts *yes* into two tokens. Which of the two is the model's opinion?
#
# <details><summary>Answer</summary>
#
# Neither. The sum charges *yes* for two tokens and *no* for one, and the mean divides by two what a
# cheap second token has hardly raised. *answer* compares each word with its own usual price.
#
# </details>
#
# 5. A test was found in the training text after the training. Is the score worthless?
#
# <details><summary>Answer</summary>
#
# Not all of it. Report the questions that were in the text and the others apart, with the errors of
# both. Whether the others have gained as well is a question for the test above.
#
# </details>

# %% [markdown]
# ## Exercises
#
# Mark a test with your own code: four normalisations, ties, and how sure one may be. Shift the
# threshold of an unsure model, and decide whether a difference between two models is noise.
#
# You asked a model thousands of questions without letting it write a word. You know what each way of
# comparing prefers, what luck looks like, and what a leak does. The next lesson asks what a model
# associates, where no answer is right.
