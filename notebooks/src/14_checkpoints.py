# ---
# question: A run of three months on thousands of GPUs is interrupted many times. What must be kept
#   so that nothing is lost, in which form, and how often?
# needs: [training state, layout, rank, number format, master weights, micro-batch, blend,
#   column-parallel, row-parallel, sharding, ZeRO, stage, node]
# introduces:
#   checkpoint: "All that a run has to remember, on disk: whoever reads it goes on as if the run had
#     never stopped."
#   box: "A block of a tensor, told by the place of its first number and its size in each dimension;
#     what a rank has of a tensor is a box of it."
#   mean time between failures: "How long a machine works on average until something in it fails;
#     that of a cluster is that of one node divided by the number of nodes."
# proves: "A state loaded into another layout has the same bits and goes on with the same losses;
#   one flipped bit is found."
# minutes: 40
# seconds: 90
# ---

# %% [markdown]
# # Checkpoints and failures
#
# A thousand computers work on one job, and each waits for all others. If one of them breaks, all
# stop. The larger the job, the sooner that happens.
#
# So a run saves its state now and then, and after a failure it goes on from there. In this lesson
# you kill ranks of your own and see that nothing is missing afterwards. You load a state into
# another layout than the one that saved it. And you compute how often MT-NLG should save.

# %% [markdown]
# ## Question
#
# In 54 days, the run of Llama 3 on 16 384 GPUs was interrupted 419 times without anybody's wish
# [S46, sec. 3.3.4]. How long is that from one interruption to the next?

# %%
import collections
import contextlib
import io
import json
import math
import os
import shutil
import signal
import time
from pathlib import Path
from statistics import mean, stdev

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.distributed as dist
from matplotlib.patches import Rectangle

from minimtnlg import run
from minimtnlg.config import load, preset, sized
from minimtnlg.course.check import measured, predict
from minimtnlg.course.plots import COLOURS
from minimtnlg.course.rank import MTNLG, my_rank
from minimtnlg.course.show import figure, show
from minimtnlg.data.prepare import prepare
from minimtnlg.device import generator
from minimtnlg.parallel.layout import Layout
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.plan.failures import (
    READ,
    checkpoint_bytes,
    daly,
    lost_fraction,
    mtbf,
    save_seconds,
    simulate,
    state_bytes,
    young,
)
from minimtnlg.ranks import RankError
from minimtnlg.train import checkpoint, ramps, trainer
from minimtnlg.train.audit import complaints, contents
from minimtnlg.train.boxes import Box, held, overlap, owned
from minimtnlg.train.health import Signals, straggler
from minimtnlg.train.loop import Run
from minimtnlg.train.mini import Mini
from minimtnlg.train.optimizer import Optimizer
from minimtnlg.train.saving import Saver
from minimtnlg.train.trainer import open_corpus, train

MINUTE, HOUR, DAY = 60, 3600, 86_400

hours_apart = 54 * 24 / 419
node_days = 54 * (16_384 / 8) / 419  # 8 GPUs a node [S46, sec. 3.3.1]
print(f"one interruption every {hours_apart:.1f} hours")
print(f"that is one in {node_days:.0f} days of each node (derived)")
assert 3 < hours_apart < 3.2 and 263 < node_days < 265

# %% [markdown]
# A single node is quite reliable: it works for most of a year. Two thousand of them fail eight
# times a day.
#
# **What must be kept so that nothing is lost, in which form, and how often?**

# %% tags=["parameters"]
restart: float = 600.0  # seconds from a failure until the run computes again; assumed
plays: int = 40  # simulated runs for each point of the last figure

# %% [markdown]
# ## Predict
#
# Type your guess in place of `None`, then run the cell.
#
# 1. Training in 16 bits holds 20 bytes a parameter (lesson 00). How many of them have to be saved?
# 2. A rank is killed in the middle of a step, and the run goes on from the last save. How do the
#    losses of the following steps compare with those of a run that nobody disturbed?
# 3. A run goes on with its weights, exact to the last bit, and with nothing else. What does its
#    loss do in the first steps?
# 4. MT-NLG on 420 nodes, each failing once in 264 days. Suppose that a save stops the run for 27
#    seconds. How many minutes should lie between two saves?

# %%
predict("bytes_saved_a_parameter", None)
predict("losses_after_a_kill", None, choices=["the same bits", "the same but for rounding", "near"])
predict("loss_with_weights_alone", None, choices=["goes on", "rises for a while", "starts anew"])
predict("minutes_between_saves", None)

# %% [markdown]
# ## Trouble
#
# We train a tiny GPT on real ranks: two slices times two stages. Its text is a single sentence,
# turned around, so that it learns within seconds. Dropout is on, and the batch climbs from 8 to 16.

# %%
words = "the node sends a slice of the gradient to the next rank and waits for its own".split()
Path("text").mkdir()
for i in range(40):
    turned = words[i % 7 :] + words[: i % 7]
    Path(f"text/{i:02}.txt").write_text(" ".join(turned * (20 + i)) + ".\n")
prepare(Path("corpus"), ["text"], vocab=300, progress=False)

STEPS = 18
TINY = [
    "model.layers=2", "model.hidden=32", "model.heads=4", "model.seq=32", "model.vocab=512",
    "train.tokens=0", f"train.steps={STEPS}", "train.global_batch=16", "train.micro_batch=2",
    "train.ramp=[8,4,3000]", "train.eval_every=0", "train.eval_batches=1", "optim.lr=1e-2",
    "optim.warmup_tokens=500", "optim.decay_tokens=8000", "data.weights={}",
    "data.split=[90,10,0]", "data.path=corpus", "train.keep=0", "train.async_save=false",
]  # fmt: skip


def tiny(*overrides):
    """A Config of the tiny run; in bfloat16 with dropout, in 2 slices and 2 stages by default."""
    usual = ["train.dtype=bfloat16", "model.dropout=0.1", "parallel.tp=2", "parallel.pp=2"]
    return sized(load("nano", [*TINY, "parallel.dp=1", *usual, *overrides]))


def log(folder):
    """The rows of a run's metrics.jsonl, one a step."""
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").open()]


# %% [markdown]
# Now a failure. The function below is what a rank of a run does, with a trap in it: when the victim
# comes to a certain call, it sends itself SIGKILL. No process can catch this signal. The rank is
# gone between two instructions, as if its power had failed.

# %%
TRAPS = {"step": (Optimizer, "step"), "save": (checkpoint, "write")}


def mortal(config, folder, victim, trap, at, resume=False):
    """A rank of a run; `victim` dies when it begins the at-th update, or the at-th save."""
    holder, name = TRAPS[trap]
    original, calls = getattr(holder, name), []

    def deadly(*args, **kwargs):
        calls.append(name)
        if dist.get_rank() == victim and len(calls) == at:
            time.sleep(0.5)  # the others come as far as they can
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(holder, name, deadly)
    trainer._rank(config, folder, progress=False, engine=Mini, resume=resume)


def until_killed(*args, **kwargs):
    """What the death of a rank leaves to the others: one error that names it."""
    try:
        run(mortal, 4, *args, **kwargs)
    except RankError as error:
        print(str(error).splitlines()[0])


until_killed(tiny(), Path("careless"), victim=2, trap="step", at=6)
print(len(log("careless")), "steps done, checkpoints:", checkpoint.steps("careless"))
assert len(log("careless")) == 5 and checkpoint.steps("careless") == []

# %% [markdown]
# Rank 2 died in the sixth step, when gradients were there and weights not yet moved. The other
# three had done nothing wrong. But rank 2 had a quarter of the model, so they cannot go on.
#
# Five steps are lost. On the fiftieth day it would have been fifty days.

# %% [markdown]
# ## Idea
#
# ### What a run has to remember
#
# Ask of each thing: if it were gone, could it be made again?
#
# - **Weights**, **master weights** and the two **moments** of Adam: no. Each is what thousands of
#   steps have left. They are 2 + 4 + 8 bytes a parameter.
# - **Gradients**: yes. A step begins by forgetting them. Six bytes a parameter need not be saved.
# - **Activations**: yes. They live for one micro-batch.
# - **The position in the data**: sample number $i$ is the same for all runs of this seed (lesson
#   03). So *how many samples were consumed* says which one is next.
# - **The size of the batch and the learning rate**: both are functions of that same number.
# - **Random numbers**: what dropout draws is named by what it is for: this seed, this step, this
#   micro-batch. It depends on no draw before.
#
# So a **checkpoint** is four kinds of tensors and a few numbers. For MT-NLG:

# %% tags=["predict"]
mt = preset("mtnlg-530b")
P = mt.model.parameters()
states, saved = state_bytes(mt), checkpoint_bytes(mt)
for name, size in states.items():
    print(f"{name:10} {size / P:3.0f} bytes a parameter {size / 1e12:6.2f} TB", end="   ")
    print("saved" if name in saved else "made anew in each step")
SAVED, ALL = sum(saved.values()), sum(states.values())
print(f"held {ALL / 1e12:.1f} TB, saved {SAVED / 1e12:.1f} TB")
assert round(ALL / 1e12, 1) == 10.6 and round(SAVED / 1e12, 1) == 7.4
measured("bytes_saved_a_parameter", SAVED / P, unit="bytes", tell="All but the gradients.")

# %% [markdown]
# The usual random generator is a machine with a state: what it gives next depends on all it gave
# before. Then each rank would have a state of its own to save, and in another layout it would be
# of no use. A *named* draw has none:

# %%
first = torch.rand(3, generator=generator("dropout", 1, 12))
torch.rand(1000)  # whatever happens in between
again = torch.rand(3, generator=generator("dropout", 1, 12))
print(first.tolist() == again.tolist(), [round(x, 3) for x in again.tolist()])
assert torch.equal(first, again)

# %% [markdown]
# ### In which form
#
# A rank has a part of each tensor: a block of a few rows and columns. We call it a **box** and
# write it as `(offset, shape)`: where in the whole tensor its first number is, and how far it goes.
#
# Tensor parallelism cuts a matrix into boxes, ZeRO cuts it into other boxes. Each rank writes the
# boxes that it has, with their places. Whoever reads says which box it wants. The two need not
# match: **what a reader gets from one file is what two boxes have in common.**
#
# In one dimension: a file has numbers 0 to 5, and the reader wants 4 to 9. Common are 4 and 5: from
# the larger of the two beginnings to the smaller of the two ends. In more dimensions each is done
# by itself.


# %%
def common(a, b):
    """The box that two boxes have in common, None if there is none; a box is (offset, shape)."""
    first = [max(x, y) for x, y in zip(a[0], b[0], strict=True)]
    ends = [[o + n for o, n in zip(*box, strict=True)] for box in (a, b)]
    last = [min(x, y) for x, y in zip(*ends, strict=True)]
    shape = [end - begin for begin, end in zip(first, last, strict=True)]
    return (tuple(first), tuple(shape)) if min(shape) > 0 else None


print(common(((0,), (6,)), ((4,), (6,))))
assert common(((0,), (6,)), ((4,), (6,))) == ((4,), (2,))

# %% [markdown]
# Now a matrix of 8 rows and 16 columns. Two slices have cut it by its columns, as they cut the
# second matrix of an MLP (row-parallel: a slice has some of the *inputs*). Four replicas with
# ZeRO-1 read Adam's moments of it. Each keeps two rows.

# %%
ROWS, COLUMNS = 8, 16
written = {f"file {i}": ((0, 8 * i), (ROWS, 8)) for i in range(2)}
wanted = {f"rank {i}": ((2 * i, 0), (2, COLUMNS)) for i in range(4)}
LOOK = {"file 0": (COLOURS["sky"], ""), "file 1": (COLOURS["orange"], "//")}


def draw(ax, box, name, text):
    (row, column), (rows, columns) = box
    colour, hatch = LOOK[name]
    ax.add_patch(Rectangle((column, row), columns, rows, fc=colour, ec="white", lw=0, hatch=hatch))
    ax.add_patch(Rectangle((column, row), columns, rows, fill=False, ec="black", lw=1.4))
    around = dict(facecolor="white", edgecolor="none", pad=2)
    middle = column + columns / 2, row + rows / 2
    ax.text(*middle, text, ha="center", va="center", fontsize=9, bbox=around)


fig, axes = plt.subplots(1, 2, figsize=(8.5, 3.4), sharey=True)
for name, box in written.items():
    draw(axes[0], box, name, f"{name}\noffset {box[0]}\nshape {box[1]}")
pieces = collections.defaultdict(list)
for rank, want in wanted.items():
    for name, have in written.items():
        if found := common(have, want):
            pieces[rank].append((name, found))
            draw(axes[1], found, name, f"{rank} reads {name}")
for ax, title in zip(axes, ("saved by two slices", "read by four replicas, ZeRO-1"), strict=True):
    ax.set(xlim=(0, COLUMNS), ylim=(ROWS, 0), xticks=range(0, 17, 4), yticks=range(0, 9, 2))
    ax.set(title=title, xlabel="column", aspect="equal")
    ax.grid(False)
axes[0].set_ylabel("row")
fig.tight_layout()
figure(
    fig,
    alt="A matrix of 8 rows and 16 columns, twice. Left: file 0 has columns 0 to 7, file 1 has "
    "columns 8 to 15. Right: ranks 0 to 3 want two rows each, and each reads half of them from "
    "either file.",
)
for rank, found in pieces.items():
    print(rank, *(f"{name}: offset {box[0]}, shape {box[1]}" for name, box in found), sep="   ")
assert all(sum(math.prod(box[1]) for _, box in found) == 32 for found in pieces.values())

# %% [markdown]
# No rank reads a whole file, and nobody has to hold the whole matrix. Neither side knows the layout
# of the other. That is why a run that was started on 280 nodes can go on with 420.
#
# ### How often
#
# A save stops the run for $C$ seconds. If one is made every $\tau$ seconds, saves take a share of
# $C/\tau$ of the time.
#
# A failure comes every $M$ seconds on average: $M$ is the **mean time between failures**. It throws
# away all that was computed since the last save, half an interval on average. That is a share of
# $\tau/2M$.
#
# $$\text{lost} \approx \frac{C}{\tau} + \frac{\tau}{2M}$$
#
# The one falls with $\tau$, the other rises. Their sum is smallest where both are equal:
# $C/\tau = \tau/2M$, so
#
# $$\tau = \sqrt{2\,C\,M}.$$
#
# This is Young's interval [S44]. By hand: a save takes half a minute, a failure comes every 15
# hours, 900 minutes. $\sqrt{2 \cdot 0.5 \cdot 900} = 30$ minutes. Saves cost 0.5/30, failures
# 30/1800, each a sixtieth.

# %%
assert young(0.5, 900) == 30 and math.isclose(0.5 / 30, 30 / 1800)
print(f"lost, to first order: {0.5 / 30 + 30 / 1800:.1%}")

# %% [markdown]
# ## Code
#
# ### A run that is killed twice
#
# First the run that nobody disturbs, with a save every five steps. Beside it a second one. A rank
# dies in its 13th step. It is started again with `resume`, and then another rank dies *while the
# state is being saved*. It is started once more.

# %%
config = tiny("train.save_every=5")
result = train(config, Path("calm"), progress=False)
print(f"calm: {result['steps']} steps, checkpoints {checkpoint.steps('calm')}")

# %%
history = []  # what each process of the other run has logged


def note():
    names = sorted(path.name for path in Path("rough/checkpoints").iterdir())
    print(f"   logged up to step {len(log('rough'))}; {names}; latest: {newest('rough')}\n")
    history.append([row["step"] for row in log("rough")])


def newest(folder):
    return (Path(folder) / "latest").read_text().strip()


until_killed(config, Path("rough"), victim=2, trap="step", at=13)
note()
until_killed(config, Path("rough"), victim=1, trap="save", at=1, resume=True)
note()
half = sorted(path.name for path in Path("rough/checkpoints/.step-15.partial").iterdir())
train(config, Path("rough"), progress=False, resume=True)
note()

# %%
fig, ax = plt.subplots(figsize=(8, 2.5))
begins = [1, 11, 11]
kept = [10, 10, STEPS]  # the last step of each process that counts
for row, (steps, begin, end) in enumerate(zip(history, begins, kept, strict=True)):
    for step in range(begin, len(steps) + 1):
        lost = step > end
        colour, hatch = (COLOURS["orange"], "///") if lost else (COLOURS["blue"], "")
        label = ("lost, computed again", "kept")[not lost] if step in (begin, STEPS) else None
        if row == 2 and step == begin:
            label = None
        ax.barh(row, 0.9, 0.6, step - 0.45, color=colour, hatch=hatch, ec="white", label=label)
handles, labels = ax.get_legend_handles_labels()
ax.legend(*zip(*dict(zip(labels, zip(handles, labels, strict=True), strict=True)).values(),
               strict=True), loc="upper left", bbox_to_anchor=(1, 1))  # fmt: skip
for step in (5, 10, 15):
    ax.axvline(step + 0.5, color="black", ls=":", marker="")
said = dict(va="center", fontsize=9, bbox=dict(facecolor="white", edgecolor="none", pad=2))
ax.text(13, 0, "killed in step 13", **said)
ax.text(16, 1, "killed in the save", **said)
ax.set_yticks(range(3), ["first start", "second", "third"])
ax.set(ylim=(2.5, -0.5), xlim=(0.4, 19.4), xlabel="step", xticks=[1, 5, 10, 15, 18])
ax.set_title("Two deaths cost seven steps; dotted: saves")
ax.grid(False)
figure(
    fig,
    alt="Which start of the run has computed which steps. First: 1 to 12, of which 11 and 12 are "
    "lost. Second: 11 to 15, all lost, since its save was never completed. Third: 11 to 18.",
)
assert [len(steps) for steps in history] == [12, 15, STEPS]

# %% [markdown]
# Steps 11 to 15 were computed two or three times. Do their losses agree with those of the calm run?

# %% tags=["predict"]
print("step  batch  learning rate  loss, calm             loss, killed twice")
for calm, rough in zip(log("calm"), log("rough"), strict=True):
    mark = " <- saved" if calm["step"] in (5, 10, 15) else ""
    print(f"{calm['step']:>4} {calm['batch_size']:>6} {calm['lr']:>14.6f}  {calm['loss']!r:<22} "
          f"{rough['loss']!r:<22}{mark}")  # fmt: skip
    assert all(calm[key] == rough[key] for key in ("loss", "grad_norm", "lr", "batch_size"))
for key in checkpoint.latest("calm").tensors:
    assert torch.equal(*(checkpoint.latest(name).read(key) for name in ("calm", "rough")))
measured(
    "losses_after_a_kill",
    "the same bits",
    tell="So are all weights, masters and moments after the last step.",
)

# %% [markdown]
# Bit for bit, dropout and all. The batch grew from 12 to 16 right after the save of step 10, so
# each restart had to cross this border. Nothing about the ramp had been saved. Beside the tensors
# there was this:

# %%
ten = checkpoint.Checkpoint(checkpoint.folder_of("calm", 10))
for key in ("step", "samples", "numbers", "parallel"):
    print(f"{key:9} {ten.index[key]}")
consumed, row = ten.index["samples"], log("calm")[10]
batch = ramps.batch_size(consumed, config.train, config.model.seq)
rate = ramps.learning_rate((consumed + batch) * config.model.seq, config.optim)
print(f"\nafter {consumed} samples: {batch} samples in the next step, learning rate {rate:.6f}")
assert (batch, rate) == (row["batch_size"], row["lr"]) == (16, rate)

# %% [markdown]
# Batch, rate and place in the data all follow from `samples`. `adam_step` counts the updates, for
# Adam's correction of its first steps. (The index also has the last few losses, by which the run
# judges whether a new one is far too large, and all settings, so that a run goes on as it began.)
#
# ### Half a checkpoint
#
# The second rank died while it was saving. This is what it left, and what a reader sees:

# %%
print("in .step-15.partial:", half)
assert "index.json" not in half and "rank-00001.safetensors" not in half
assert "rank-00000.safetensors" in half

# %% [markdown]
# Others had written their files, rank 1 had not. A reader who took this for a checkpoint would have
# part of step 15. Therefore everything is written *aside*, in a folder with another name. When all
# files are on disk, an index with their checksums is added. Then the folder is renamed.
#
# A rename happens or it does not: there is no half of it. Here is the package's last act of a save.
# `_to_disk` waits until a loss of power would do no harm.

# %%
show(checkpoint.commit)

# %% [markdown]
# ### Who writes what
#
# Data-parallel replicas all have the same weights. Should the first write them, and the others
# wait? With eight replicas that takes eight times as long. Instead each writes its share of the
# rows. What all slices have alike is written by the first of them.

# %%
show(owned)

# %% [markdown]
# ## You might think
#
# **that the weights are enough.** They are the model, after all; Adam finds its averages again in a
# few steps. We take the state of step 10 and go on with everything. Then we go on with the weights
# alone: masters made from them, averages zero. We also look at the first update: what share of the
# weights moves by (nearly) the whole learning rate?


# %%
LAYOUT = Layout(tp=2, pp=2, dp=1)


def going_on(forget, lr):
    """Make the steps after 10; `forget`: with nothing left but the weights.

    Returns the share of this rank's weights that the first update moves by 0.9 `lr` or more.
    """
    corpus = open_corpus(config, progress=False)
    training = Run(config, Path(f"forget-{forget}"), Mini(config, Mesh(LAYOUT)), corpus, False)
    training.begin(corpus, resume=True)
    optimizer = training.engine.optimizer
    masters, update, shares = optimizer.masters.masters, optimizer.step, []
    if forget:
        for weight, master in zip(optimizer.replicas.owned, masters, strict=True):
            master.data.copy_(weight)
            for x in optimizer.adam.state[master].values():  # both moments and the step
                x.zero_()

    def watched(*args, **kwargs):
        before = torch.cat([x.flatten() for x in masters]).clone()
        told = update(*args, **kwargs)
        moved = (torch.cat([x.flatten() for x in masters]) - before).abs()
        shares.append((moved >= 0.9 * lr).float().mean().item())
        return told

    optimizer.step = watched
    training.go(Signals(None))
    return shares[0]


losses, shares = {}, {}
for forget in (False, True):
    folder = Path(f"forget-{forget}")
    shutil.copytree("calm", folder)
    for later in (15, STEPS):
        shutil.rmtree(checkpoint.folder_of(folder, later))
    shares[forget] = mean(run(going_on, 4, forget, log("calm")[10]["lr"]))
    losses[forget] = [row["loss"] for row in log(folder)]
    name = "weights alone" if forget else "whole state"
    print(f"{name:14} {shares[forget]:6.1%} of the weights move by 0.9 of the rate or more")
assert losses[False] == [row["loss"] for row in log("calm")]
assert shares[True] > 0.9 and shares[False] < 0.5

# %% tags=["predict"]
fig, ax = plt.subplots()
steps = range(6, STEPS + 1)
ax.plot(steps, losses[False][5:], label="whole state: as if nothing had happened")
ax.plot(steps[4:], losses[True][9:], label="weights alone")
ax.axvline(10, color="black", ls=":", marker="", label="stopped and resumed")
ax.set(xlabel="step", ylabel="loss (nats per token)", title="Without its moments a run falls back")
ax.legend()
worse = [b - a for a, b in zip(losses[False][10:], losses[True][10:], strict=True)]
figure(
    fig,
    alt="Loss against steps. After the stop at step 10 the run with its whole state goes on as "
    f"before. The one with weights alone rises: in step 12 it is {worse[1]:.2f} nats worse. Some "
    "steps later the two lie close together, but not on each other.",
)
print("worse by", *(f"{x:.3f}" for x in worse), "nats in steps 11 to", STEPS)
assert losses[True][11] > losses[True][10] and worse[0] == 0 and worse[1] > 0.1
assert all(worse[1:])
measured(
    "loss_with_weights_alone",
    "rises for a while",
    tell="Step 11 is computed with the same weights; its update is another one.",
)

# %% [markdown]
# In step 11 the losses are still equal: the same weights in 16 bits, the same batch. But then Adam
# has a single gradient, and divides it by its own size. So nearly *every* weight moves by the whole
# learning rate, whether its gradient means something or is noise. The averages are what makes steps
# small where gradients disagree.
#
# This tiny run recovers within a few steps and is no worse in the end. So the harm is not lasting
# here. But it is another run from then on. Whoever looks for the cause of a jump in the loss can no
# longer repeat what happened, and a restart must not be one of the causes.
#
# **That saving more often is always better.** It loses less in a failure. But it is paid for
# whether there are failures or not.

# %%
cost, between = save_seconds(SAVED), mtbf(node_days * DAY, 420)
print(f"a save of {cost:.0f} s, a failure every {between / HOUR:.1f} hours")
for minutes in (1, 5, 30, 120):
    share = lost_fraction(minutes * MINUTE, cost, restart, between)
    print(f"saved every {minutes:>3} minutes: {share:6.1%} of the time lost")
assert lost_fraction(MINUTE, cost, restart, between) > 0.3

# %% [markdown]
# ## Proof
#
# ### Another layout
#
# Now in float64 and without dropout, so that nothing but rounding may differ. Two slices times two
# stages save at step 9. Four replicas with ZeRO-1 go on from there: no slices, no stages.
#
# First we read as the picture says, with `common`, and compare with the package's `Checkpoint.read`
# for every box that any of the four ranks wants.


# %%
def by_hand(found, key, want):
    """The box `want` of a tensor, put together from all files of a checkpoint."""
    result = torch.full(want.shape, math.nan, dtype=torch.float64)
    for name, about in found.files.items():
        have = about["boxes"].get(key)
        both = have and common(have, want)
        if both:
            numbers = found._file(name).get_tensor(key)
            result[place_in(both, want)] = numbers[place_in(both, have)]
    return result


def place_in(box, outer):
    """The slices of `outer` that are `box`."""
    starts = [o - at for o, at in zip(box[0], outer[0], strict=True)]
    return tuple(slice(start, start + n) for start, n in zip(starts, box[1], strict=True))


PROOF = ["train.dtype=float64", "model.dropout=0", "train.save_every=9", f"train.steps={12}"]
cut = tiny(*PROOF)
whole = tiny(*PROOF, "parallel.tp=1", "parallel.pp=1", "parallel.dp=4", "parallel.zero=1",
             "train.micro_batch=1")  # fmt: skip
train(cut, Path("cut"), progress=False)
shutil.copytree("cut", "moved")
shutil.rmtree(checkpoint.folder_of("moved", 12))


def compare_all():
    """(tensors, numbers, differing bits) of what this rank has after loading."""
    corpus = open_corpus(whole, progress=False)
    mesh = Mesh(Layout(dp=4))
    training = Run(whole, Path("moved"), Mini(whole, mesh), corpus, False)
    training.saver.restore()
    found = checkpoint.Checkpoint(checkpoint.folder_of("cut", 9))
    tensors = numbers = wrong = 0
    for key, part in training.engine.parts().items():
        want = held(part.whole, part.split, whole.parallel, mesh.place, part.cut)
        expected = by_hand(found, key, want)
        for got in (found.read(key, want), part.tensor.detach()):
            wrong += (got.view(torch.int64) != expected.view(torch.int64)).sum().item()
        tensors, numbers = tensors + 1, numbers + expected.numel()
    return tensors, numbers, wrong


compared = run(compare_all, 4)
for rank, (tensors, numbers, wrong) in enumerate(compared):
    print(f"rank {rank} of 4: {tensors} tensors, {numbers:,} numbers, {wrong} differ")
    assert wrong == 0
count = cut.model.parameters()
assert sum(numbers for _, numbers, _ in compared) == 4 * count + 2 * count

# %% [markdown]
# Each rank has all weights and a quarter of the moments. Every number has the bits that other ranks
# of another layout had written. Our `common` also says the same as the package's `overlap`, which
# gives slices instead of boxes:

# %%
nine = checkpoint.Checkpoint(checkpoint.folder_of("cut", 9))
pairs = 0
for key, about in nine.tensors.items():
    for entry in nine.files.values():
        have = entry["boxes"].get(key)
        for replica in range(4):
            place = Layout(dp=4).place(replica)
            want = held(about["shape"], about["split"], whole.parallel, place, cut=True)
            if have:
                both, slices = common(have, want), overlap(Box(*have), want)
                assert slices == (both and (place_in(both, have), place_in(both, want)))
                pairs += 1
print(f"{pairs} pairs of boxes: common and overlap agree")

# %% [markdown]
# And the next losses. They need not have the same bits: four replicas add up the same numbers in
# another order.

# %%
train(whole, Path("moved"), progress=False, resume=True)
for a, b in list(zip(log("cut"), log("moved"), strict=True))[9:]:
    apart = abs(a["loss"] - b["loss"])
    print(f"step {a['step']}: 2 x 2 x 1 {a['loss']:.15f}, 1 x 1 x 4 {b['loss']:.15f}, {apart:.0e}")
    assert apart < 1e-12
found = contents(checkpoint.latest("moved"))
print(f"the last checkpoint was saved by {found['files']} ranks, dp {found['layout']['dp']}")

# %% [markdown]
# ### One bit
#
# Disks and networks fail silently, too. We flip one bit in the middle of one file.

# %%
shutil.copytree("calm", "flipped")
victim = checkpoint.folder_of("flipped", STEPS) / "rank-00003.safetensors"
data = bytearray(victim.read_bytes())
data[len(data) // 2] ^= 0b00010000
victim.write_bytes(data)
for complaint in complaints("flipped"):
    print("audit:", complaint)
assert len(complaints("flipped")) == 1 and not complaints("calm")

# %% [markdown]
# Each file's checksum is in the index, and the index has its own. A resumed run looks at both
# before it loads anything. It sets the damaged checkpoint aside and takes the one before. That is a
# reason to keep more than one.


# %%
def resumed_from():
    """The step from which a run in "flipped" would go on, and what it says on stderr."""
    corpus, told = open_corpus(config, progress=False), io.StringIO()
    training = Run(config, Path("flipped"), Mini(config, Mesh(LAYOUT)), corpus, False)
    with contextlib.redirect_stderr(told):
        training.begin(corpus, resume=True)
    return training.step, told.getvalue().strip()


step, told = run(resumed_from, 4)[0]
print(f"{told}\n\ngoes on from step {step}")
assert step == 15 and "checksum" in told

# %% [markdown]
# ## Cost
#
# **Bytes.** The formula says 14 a parameter. Is that what lies on disk? The embedding counts once,
# though both ends of the pipeline have it.

# %%
found = contents(checkpoint.latest("calm"))
for row in found["kinds"]:
    sizes = f"{row['numbers']:>7,} numbers {row['bytes']:>8,} bytes"
    print(f"{row['kind']:11} {row['dtype']:9} {sizes}")
tensors = sum(row["bytes"] for row in found["kinds"])
assert tensors == sum(checkpoint_bytes(config).values()) == 14 * config.model.parameters()
print(f"tensors {tensors:,} bytes, by formula {14 * config.model.parameters():,}")
print(f"files   {found['bytes']:,} bytes, the rest are names and places")

# %% [markdown]
# **Seconds.** A save has two parts. The state has to be *copied*, since training changes it; for
# this the run must stop. Then the copy has to be *written*. This a thread can do while training
# goes on: an *asynchronous* save. How long does either way stop a run? (One process, one larger
# model; the best of three saves. Writing includes that the disk has it, and reading it back.)


# %%
def seconds_of_a_save(asynchronous, size=512):
    """(seconds that training stops, seconds until the checkpoint is complete, bytes)."""
    model = [f"model.hidden={size}", "model.layers=4", "model.heads=8", "parallel.tp=1"]
    about = tiny(*model, "parallel.pp=1", f"train.async_save={str(asynchronous).lower()}")
    engine, best = Mini(about, Mesh()), (math.inf, math.inf)
    saver = Saver(engine, Path(f"saved-{asynchronous}"), {})
    for step in (1, 2, 3):
        began = time.perf_counter()
        saver.begin({"step": step, "samples": 0})
        stopped = time.perf_counter() - began
        saver.finish()
        best = min(best, (stopped, time.perf_counter() - began))
    return *best, sum(checkpoint_bytes(about).values())


stops = {}
for asynchronous in (False, True):
    stopped, complete, size = seconds_of_a_save(asynchronous)
    stops[asynchronous] = stopped
    name = "asynchronous" if asynchronous else "waited for"
    print(f"{name:13} {size / 1e6:.0f} MB: training stops for {stopped:.3f} s, "
          f"complete after {complete:.3f} s, {size / complete / 1e6:.0f} MB/s")  # fmt: skip
print(f"\n{stops[False] / stops[True]:.0f} times as long if training waits for the disk")
assert stops[True] < stops[False]

# %% [markdown]
# Until the copy is written it takes memory: at MT-NLG's size 3.3 GB for each GPU, in the memory of
# its node. And a failure before the end of the write makes this save worthless. So an asynchronous
# save costs less, and comes into effect as late as before.

# %% [markdown] tags=["deeper"]
# ### Deeper: more numbers that are state
#
# In float16 a loss scale is state as well (lesson 04). It is doubled after some steps without an
# overflow, so it depends on what happened before. A resumed run that began with the usual scale
# may overflow at first and skip steps.

# %% tags=["deeper"]
half_precision = tiny("train.dtype=float16", "parallel.tp=1", "parallel.pp=1")
print(Mini(half_precision, Mesh()).numbers())

# %% [markdown] tags=["deeper"]
# Not all failures kill. A rank that waits for ever for another gives no error. In the package a
# thread of each rank looks where its main thread is; after `train.patience` seconds without a step
# the late ranks compare notes, and the one that does *not* wait for others is named. A rank that is
# merely slow shows in its seconds of work:

# %% tags=["deeper"]
print(straggler([10.1, 10.3, 17.9, 10.2]))
assert straggler([10.1, 10.3, 12.0, 10.2]) == ""

# %% [markdown]
# ## MT-NLG
#
# ### One save
#
# How often MT-NLG saved, how long it took, and how often it was interrupted was not published. What
# is known is the file system of Selene, the machine that it ran on. With a model of $10^{12}$
# parameters, a checkpoint had 13.8 TB, saves went at 273 GB/s, and loading it on 384 nodes reached
# 1 TB/s [S12, sec. 5.10].

# %%
trillion = sum(checkpoint_bytes(preset("gpt-1t")).values())
print(f"1 T parameters: {trillion / 1e12:.1f} TB by the formula, 13.8 TB published")
print(f"MT-NLG: {SAVED / 1e12:.1f} TB, written in {cost:.0f} s, "
      f"read in {save_seconds(SAVED, READ):.0f} s (both derived)")  # fmt: skip
print(f"each of {MTNLG.world} ranks writes about {SAVED / MTNLG.world / 1e9:.1f} GB")
assert abs(trillion / 13.8e12 - 1) < 0.03 and round(cost) == 27

# %% [markdown]
# The formula gives 2 % more than was published; the paper does not say what was counted. What does
# your rank write of the first matrix of an MLP? It is cut by its rows among eight slices
# (column-parallel). The eight replicas share the rows of a slice.

# %%
mine = my_rank()
place = MTNLG.place(mine)
shape = 4 * mt.model.hidden, mt.model.hidden
layout = sized(load("mtnlg-530b", ["train.ramp=null", "parallel.dp=8"])).parallel
box = owned(shape, 0, layout, place)
print(f"rank {mine}: slice {place.tp}, stage {place.pp}, replica {place.dp}")
print(f"of {shape} in each layer of its stage: offset {box.offset}, shape {box.shape}")
print(f"{14 * math.prod(box.shape) / 1e6:.0f} MB with masters and moments")
assert math.prod(box.shape) * 64 == math.prod(shape)

# %% [markdown]
# ### Failures
#
# Nor do we know how often Selene's nodes failed. From three later reports one can compute how many
# days a node works between two interruptions:
#
# - Llama 3: 264 days, as above [S46].
# - OPT-175B: at least 35 restarts by hand and an estimated 70 or more automatic ones in two months
#   on 992 GPUs [S47, sec. 2.5].
# - BLOOM: one or two GPUs a week on 48 nodes [S48]. Only failures of GPUs are counted.

# %%
reports = {
    "OPT-175B, all restarts": (992 / 8) * 61 / (35 + 70),
    "BLOOM, two a week": 48 * 7 / 2,
    "OPT-175B, by hand alone": (992 / 8) * 61 / 35,
    "Llama 3": node_days,
    "BLOOM, one a week": 48 * 7 / 1,
}
for name, days in reports.items():
    print(f"{name:24} {days:4.0f} days a node (derived)")
assert 70 < min(reports.values()) and max(reports.values()) < 350

# %% [markdown]
# The reports disagree by a factor of five, as they count different things. We take 70 to 350 days
# as the range, and 264 for the figures. Three months are 90 days. The paper has 280, 350 and 420
# nodes [S3]; the whole machine has 560.

# %% tags=["predict"]
NODES = (280, 420, 560)
print("nodes  days a node  hours to a failure  failures in 90 days  best interval  lost")
for nodes in NODES:
    for days in (70, 264, 350):
        mean_time = mtbf(days * DAY, nodes)
        best = daly(cost, mean_time)
        share = lost_fraction(best, cost, restart, mean_time)
        print(f"{nodes:>5} {days:>12} {mean_time / HOUR:>19.1f} {90 * DAY / mean_time:>20.0f} "
              f"{best / MINUTE:>10.0f} min {share:>6.1%}")  # fmt: skip
best = daly(cost, between)
print(f"\n420 nodes: Young {young(cost, between) / MINUTE:.1f} min, Daly {best / MINUTE:.1f} min")
measured("minutes_between_saves", best / MINUTE, unit="min", tell="The square root of 2 C M.")

# %% [markdown]
# Daly's formula [S45] is a finer one than Young's, for saves that are not short beside $M$. Here
# they hardly differ. Next to the square root nothing else matters much: a quarter of the failures
# only doubles the interval.
#
# Do these formulas hold? They are about averages. So we play whole runs: 90 days of work, failures
# drawn at random, also during saves and during restarts. Each point of the figure is the mean of
# many runs, its bar the spread of single ones.


# %%
def share_lost(*args, **kwargs):
    """Of a simulated run with 90 days of work."""
    return 1 - 90 * DAY / simulate(90 * DAY, *args, **kwargs).seconds


tries = np.geomspace(2, 480, 10)  # minutes
smooth = np.geomspace(1.5, 600, 200)
fig, ax = plt.subplots(figsize=(8, 4.6))
played, optimum = {}, {}
for nodes, colour in zip(NODES, ("blue", "orange", "red"), strict=True):
    mean_time = mtbf(node_days * DAY, nodes)
    exact = [100 * lost_fraction(t * MINUTE, cost, restart, mean_time) for t in smooth]
    look = dict(color=COLOURS[colour], ls={280: "-", 420: "--", 560: "-."}[nodes], marker="")
    ax.plot(smooth, exact, **look, label=f"{nodes} nodes, Daly's exact model")
    shares = np.array([
        [share_lost(t * MINUTE, cost, restart, mean_time, seed=1000 * nodes + i)
         for i in range(plays)]
        for t in tries
    ])  # fmt: skip
    middle, spread = 100 * shares.mean(1), 100 * shares.std(1, ddof=1)
    marker = {280: "o", 420: "s", 560: "^"}[nodes]
    ax.errorbar(tries, middle, spread, ls="", marker=marker, color=COLOURS[colour], capsize=2,
                label=f"{nodes} nodes, {plays} runs and their spread")  # fmt: skip
    there = [100 * lost_fraction(t * MINUTE, cost, restart, mean_time) for t in tries]
    played[nodes] = middle, spread, there
    at = daly(cost, mean_time) / MINUTE
    optimum[nodes] = at, 100 * lost_fraction(at * MINUTE, cost, restart, mean_time)
    ax.plot(*optimum[nodes], "*", ms=15, mfc="white", mec=COLOURS[colour], zorder=5)
ax.plot([], [], "*", ms=13, mfc="white", mec="black", ls="", label="best interval (Daly)")
ax.set(xscale="log", ylim=(0, 34), xlabel="minutes between two saves", ylabel="% of the time lost")
ax.set_xticks([2, 5, 10, 30, 60, 120, 480], ["2", "5", "10", "30", "60", "120", "480"])
ax.minorticks_off()
ax.set_title(f"MT-NLG: saves of {cost:.0f} s, a restart of {restart / MINUTE:.0f} min (assumed)")
ax.legend(fontsize=9)
figure(
    fig,
    alt="Lost share of the time against the interval between saves, computed and played. All "
    "curves are a wide valley. Best: "
    + ", ".join(f"{n} nodes {t:.0f} minutes with {x:.1f} %" for n, (t, x) in optimum.items())
    + ". At 2 minutes about 20 % are lost on any number of nodes.",
)
for nodes, (middle, spread, exact) in played.items():
    off = max(abs(middle - exact) / (spread / plays**0.5))
    best_at, least = optimum[nodes]
    print(f"{nodes} nodes: best {best_at:.0f} min, {least:.2f} % lost; what was played is off by "
          f"{off:.1f} standard errors at most")  # fmt: skip
    assert off < 4

# %% [markdown]
# The valley is wide. Half or twice the best interval costs less than a percent more. So it does not
# matter that nobody knows the rate of failures exactly. What does matter: to be within a factor of
# two or three.

# %%
valley = {x: lost_fraction(x * best, cost, restart, between) for x in (1 / 3, 1 / 2, 1, 2, 3)}
for factor, share in valley.items():
    print(f"{factor * best / MINUTE:5.0f} min: {share:.2%} lost")
assert max(valley[1 / 2], valley[2]) < valley[1] + 0.01

# %% [markdown]
# With asynchronous saves a save stops the run only for the copy. Suppose that 3.3 GB go from a GPU
# to its node's memory at 20 GB/s (assumed), and the write takes the same 27 s as before. Then one
# can save far more often, and what is left is mainly restarts.

# %%
copy = SAVED / MTNLG.world / 20e9
print(f"a copy takes {copy:.2f} s; on 420 nodes, {plays} runs played")
for minutes in (30, 10, 5, 2):
    about = minutes * MINUTE, copy, restart, between
    lost = [share_lost(*about, seed=seed, delay=cost) for seed in range(plays)]
    print(f"saved every {minutes:>2} min: {mean(lost):.2%} lost, {stdev(lost):.2%} spread")
only_restarts = restart / between
print(f"restarts alone: {only_restarts:.2%}")
print(f"\nall saves of a day, every 30 min: {48 * SAVED / 1e12:.0f} TB, so only a few are kept")
assert only_restarts < mean(lost) < 0.015

# %% [markdown]
# Llama 3 spent more than 90 % of its time in useful training, at a failure every three hours [S46].

# %% [markdown]
# ## Check yourself
#
# 1. A colleague also wants to save the state of the data loader: its random generator, its list of
#    shuffled documents, its place in them. What do you answer?
#
# <details><summary>Answer</summary>
#
# That the number of consumed samples is enough, if the order of samples is a function of the seed.
# It also works in another layout, where there are other loaders.
#
# </details>
#
# 2. A job has 16 replicas without ZeRO. How much larger is its checkpoint than that of one replica?
#
# <details><summary>Answer</summary>
#
# Not at all. All replicas have the same state. Each of them writes a sixteenth of the rows.
#
# </details>
#
# 3. The file system becomes four times as fast. How does the best interval change, and the share of
#    time that saves and lost work cost?
#
# <details><summary>Answer</summary>
#
# $C$ is a quarter, so $\sqrt{2CM}$ is half. At the best interval the loss is $2C/\tau$: a quarter
# over a half, so half as much. What restarts cost stays the same.
#
# </details>
#
# 4. Why is `latest` moved last, and why does a save read its files back before that?
#
# <details><summary>Answer</summary>
#
# At every moment `latest` has to name something complete. If it moved first, a kill would leave it
# pointing at half a checkpoint. And a disk that does not give back what was written to it should be
# noticed while the checkpoint before still exists.
#
# </details>
#
# 5. A run resumes in another layout, and its loss differs in the 16th digit. A mistake?
#
# <details><summary>Answer</summary>
#
# No. The loaded bits are the same, but another number of ranks adds them up in another order. In
# float64 the next loss may differ by about $10^{-15}$; one of $10^{-6}$ would be a mistake.
#
# </details>

# %% [markdown]
# ## Exercises
#
# Find out how often to save. Then put a tensor together from what any layout has left, and notice when something is missing.
#
# Of all that thousands of GPUs hold, 14 bytes a parameter and one number of samples are enough. As
# boxes with their places they fit any layout. Saved about every half hour, they turn a broken
# machine into a loss of minutes.
