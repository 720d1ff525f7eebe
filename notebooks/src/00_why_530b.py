# ---
# question: "What does a model of 530 billion parameters cost, and why must thousands of GPUs
#   share it in three ways at once?"
# needs: []
# introduces:
#   training state: "What training keeps for every parameter whatever the data is: the weight,
#     its gradient and the optimizer's two averages, 20 bytes a parameter in MT-NLG."
#   layout: "The way a job is cut among GPUs: each layer into $t$ slices (tensor parallel), the
#     stack of layers into $p$ stages (pipeline parallel), the batch among $d$ replicas of the
#     model (data parallel), so that $n = t p d$ GPUs work."
#   rank: "The number of one GPU of a job, from $0$ to $n - 1$, from which its slice, replica,
#     stage and node follow."
# proves: "The parameters add up to the published count, and each rank has one place in one group of
#   each kind."
# minutes: 35
# seconds: 8
# ---

# %% [markdown]
# # Why 530 billion parameters need thousands of GPUs
#
# In October 2021 Microsoft and NVIDIA announced a language model of 530 billion parameters:
# Megatron-Turing NLG 530B, in short MT-NLG [S1, S2]. A paper tells how it was made [S3]. Two
# programs trained it, NVIDIA's Megatron and Microsoft's DeepSpeed; both names will come up often.
#
# This course rebuilds its data, its model and its training. Each part is small enough for the
# machine in front of you, and each is checked against what was published of the real one.
#
# This first lesson needs nothing but arithmetic. It works out what 530 billion parameters cost. At
# its end you choose one of 2240 GPUs as your own, and you follow it through the course.
#
# Marks such as [S3] name a source; the [bibliography](../docs/bibliography.md) lists all of them.

# %% [markdown]
# ## Question
#
# A language model reads text and says which word is likely to come next. A few terms first:
#
# - A **parameter**, or **weight**, is one number of the model that is learned. To train is to find
#   good values for all of them.
# - A **token** is a word or a piece of a word: the unit in which the model reads. MT-NLG reads
#   **sequences** of 2048 tokens.
# - A **batch** is the set of sequences that the model looks at before it changes its parameters
#   once. One such change is a **step**.
# - A **byte** is the unit of memory. One number takes 2 or 4 bytes here. A GB is $10^9$ bytes, a
#   TB is $10^{12}$.
# - A **FLOP** is one addition or one multiplication. A TFLOP is $10^{12}$ of them; TFLOP/s counts
#   them per second.
# - A **GPU** is a processor built to do many FLOPs at once. It has its own memory. A **node** is
#   one computer; MT-NLG's nodes hold 8 GPUs each.
#
# Look first at how fast such models grew. The sizes are those of [S3, Figure 1].

# %%
import math
import time

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown, display

from minimtnlg.config import preset
from minimtnlg.course.check import measured, predict
from minimtnlg.course.pages import course_map
from minimtnlg.course.plots import COLOURS
from minimtnlg.course.rank import choose_rank
from minimtnlg.course.show import figure, show
from minimtnlg.parallel.layout import Layout

# %% tags=["parameters"]
rank: int = 1000  # the GPU that you make your own, 0 to 2239; used near the end
laptop_gb: float = 16.0  # memory of your machine

# %%
MODELS = [  # name, year and month of first publication, parameters
    ("ELMo", 2018, 2, 94e6),
    ("BERT-Large", 2018, 10, 340e6),
    ("GPT-2", 2019, 2, 1.5e9),
    ("Megatron-LM", 2019, 9, 8.3e9),
    ("T5", 2019, 10, 11e9),
    ("Turing-NLG", 2020, 2, 17.2e9),
    ("GPT-3", 2020, 5, 175e9),
    ("MT-NLG", 2021, 10, 530e9),
]
growth = MODELS[-1][3] / MODELS[0][3]
assert round(MODELS[-1][3] / MODELS[-2][3]) == 3
months = 12 * (2021 - 2018) + (10 - 2)
print(f"{growth:.0f} times as many parameters in {months} months:")
print(f"doubled every {months / math.log2(growth):.1f} months")

# %%
fig, ax = plt.subplots()
labels = []
when = [year + (month - 0.5) / 12 for _, year, month, _ in MODELS]
ax.plot(when, [size for *_, size in MODELS])
for x, (name, *_, size) in zip(when, MODELS, strict=True):
    left = name in ("MT-NLG", "GPT-3", "Turing-NLG", "Megatron-LM")
    labels += [f"{name}  {size / 1e9:g} B" if size >= 1e9 else f"{name}  {size / 1e6:g} M"]
    place_at = dict(xytext=(-8, 2), ha="right") if left else dict(xytext=(8, -9), ha="left")
    ax.annotate(labels[-1], (x, size), textcoords="offset points", fontsize=9.5, **place_at)
ax.set(yscale="log", ylim=(4e7, 1.6e12), xlim=(2017.8, 2022.1), xticks=range(2018, 2023))
ax.set(xlabel="year of first publication", ylabel="parameters")
ax.set_title(f"In under four years models grew {round(growth, -2):.0f}-fold")
figure(
    fig,
    alt=f"Parameters of published models from {MODELS[0][1]} to {MODELS[-1][1]}, in millions and "
    f"billions, on a logarithmic axis: {', '.join(labels)}. Nearly a straight line up to GPT-3, then "
    "flatter.",
)

# %% [markdown]
# On this axis each line of the grid is ten times the one below, so a straight line means steady
# doubling. Up to GPT-3 it is nearly straight; MT-NLG then tripled GPT-3.
#
# The memory of one GPU did not grow like this. The record runs that DeepSpeed reported in 2020 used
# GPUs of 32 GB [S16]; those of MT-NLG have 80 GB [S3, section 2.3].
#
# Why did people want such sizes? Larger models gave better answers, even in tasks that they were
# not trained for. Asked yes-or-no questions about a paragraph (the test BoolQ, no example shown),
# GPT-3 was right in 60.5 % of the cases, MT-NLG in 78.2 % [S3, Tables 2 to 6]. Size was not the
# only difference between them. And whether so many parameters were the best use of the computing
# time is a fair question: [S18] argues for smaller models that read more. This course asks how it
# was done.
#
# So our question: **what do 530 billion parameters cost in bytes, FLOPs and days, and why must
# thousands of GPUs share them, cut in three ways at once?**

# %% [markdown]
# ## Predict
#
# Guess before you calculate. A guess that is wrong by a factor of ten teaches more than a number
# read off a page. Put your guess in place of `None` and run the cell.
#
# 1. One GPU holds 80 GB. Training keeps more for each parameter than its value. How many GPUs does
#    it take to hold all that for 530 billion parameters, and nothing else?
# 2. Suppose that one GPU had enough memory. At the speed that each GPU reached in the real run, how
#    many years would the training take?
# 3. Give each of 2240 GPUs a whole copy of the model and its own part of the batch. What happens
#    to the memory that one GPU needs for what training keeps?

# %%
predict("gpus_for_training_state", None)
predict("years_on_one_gpu", None)
predict("copies_and_memory", None, choices=["falls to 1/2240", "stays the same", "grows"])

# %% [markdown]
# ## Trouble
#
# What does training keep for each parameter? In every step the model makes predictions, and one
# number says how wrong they are, the error. The **gradient** says for each parameter how fast the
# error grows when that parameter grows. The **optimizer**, here Adam, moves each parameter against
# its gradient. For that it keeps two running averages, one of the gradient and one of its square.
#
# MT-NLG calculates with numbers of 2 bytes. Such numbers are too coarse to add up small changes, as
# lesson 04 shows. So it keeps each weight and each gradient a second time, with 4 bytes [S3,
# section 2.1.1].
#
# We keep exactly this for a million parameters, and count.

# %%
KEPT = [  # what is kept for each parameter, bytes of the number [S3, sec. 2.1.1]
    ("weight, for calculating", 2),
    ("weight, accurate", 4),
    ("gradient, as calculated", 2),
    ("gradient, summed up", 4),
    ("Adam: average of the gradient", 4),
    ("Adam: average of its square", 4),
]


def keep(parameters):
    """Memory for all that training keeps; "f2" and "f4" are numbers of 2 and 4 bytes."""
    return [np.empty(parameters, f"f{size}") for _, size in KEPT]


million = keep(10**6)
for (what, _), array in zip(KEPT, million, strict=True):
    print(f"{what:<32}{array.nbytes / 1e6:3.0f} MB")
BYTES = sum(array.nbytes for array in million) // 10**6
print(f"{'together':<32}{BYTES:3d} bytes a parameter")

# %% [markdown]
# These bytes are the **training state**. Every weight of 2 bytes brings 18 more with it.
#
# Now ask this machine for the same with 530 billion.

# %%
try:
    promised = keep(530 * 10**9)
    print("This system promises memory that it does not have; writing into it would fail.")
    del promised
except MemoryError as error:
    print("MemoryError:", error)

# %% [markdown]
# Most systems refuse the first of the six arrays (a GiB is $2^{30}$ bytes). A few promise the
# memory and fail when it is touched.
#
# Which of the models in our picture fit, and where? We give all of them GPUs of 80 GB.

# %% tags=["predict"]
GPU = 80e9  # bytes, A100 [S3, sec. 2.3]
for name, *_, size in MODELS:
    state = BYTES * size
    fits = [
        place
        for place, room in (("laptop", laptop_gb * 1e9), ("one GPU", GPU), ("one node", 8 * GPU))
        if state <= room
    ]
    print(f"{name:<12}{state / 1e9:>9.0f} GB  fits: {', '.join(fits) or 'none of them'}")
gpus = math.ceil(BYTES * 530e9 / GPU)
measured("gpus_for_training_state", gpus, unit="GPUs", tell="And then they are full.")

# %% [markdown]
# Up to GPT-2 one such GPU is enough. From Megatron-LM on, the GPUs of a node must share a model.
# GPT-3 no longer fits into one node.

# %% [markdown]
# ## Idea
#
# ### Two kinds of memory
#
# The training state depends on the number of parameters $P$ alone:
#
# $$\text{training state} = 20\, P \ \text{bytes}.$$
#
# By hand: a model of 3 parameters keeps $20 \cdot 3 = 60$ bytes.
#
# The second kind depends on the data. A model is a stack of $L$ **layers**. Each takes a list of
# $h$ numbers for every token and hands on a new list of $h$ numbers. On the way up (the **forward
# pass**) these lists are calculated. On the way down (the **backward pass**), when the gradients
# are calculated, they are needed again. What is kept for the way down is called **activations**.
#
# Much else is calculated inside a layer. MT-NLG keeps only the list at the entrance of each layer,
# and calculates the rest a second time when it is needed. With $B$ sequences of $s$ tokens and 2
# bytes a number:
#
# $$\text{activations at layer boundaries} = 2\, B\, L\, s\, h \ \text{bytes}.$$
#
# By hand: 2 sequences of 4 tokens through 3 layers of $h = 5$ are $2 \cdot 3 \cdot 4 \cdot 5 =
# 120$ numbers, or 240 bytes.

# %%
def boundary_bytes(sequences, layers, seq, hidden):
    """Bytes of the lists at the entrance of each layer."""
    return 2 * sequences * layers * seq * hidden


model = preset("mtnlg-530b").model
L, h, s, V = model.layers, model.hidden, model.seq, model.vocab
P = model.parameters()
print(f"L = {L}, h = {h}, s = {s}, P = {P:,} parameters")
print(f"training state            {BYTES * P / 1e12:7.2f} TB")
print(f"activations, B = 1920     {boundary_bytes(1920, L, s, h) / 1e12:7.2f} TB")
print(f"activations, 1 sequence   {boundary_bytes(1, L, s, h) / 1e9:7.2f} GB")
assert boundary_bytes(2, 3, 4, 5) == 240

# %% [markdown]
# MT-NLG's batch has 1920 sequences. The line for $B = 1920$ says what it would take to send all of
# them through the model at once. Nobody does that. The sequences go through one after another,
# their gradients are added up, and the parameters change once at the end. This is **gradient
# accumulation**. It gives the same step, and the activations shrink to the last line.
#
# So patience makes activations small. It does nothing for the training state.
#
# ### Time
#
# On the way up, each parameter meets each token once: one multiplication, one addition, 2 FLOPs.
# The way down takes twice as many, 4 FLOPs. MT-NLG goes up a second time during the way down,
# because it kept so little: 2 more. So about
#
# $$\text{FLOPs} = 8 \times \text{parameters} \times \text{tokens}.$$
#
# By hand: 3 parameters and 10 tokens take 240 FLOPs. MT-NLG was trained on 270 billion tokens. The
# package counts every matrix multiplication. The rule of thumb comes close:

# %%
tokens = 270e9  # [S1, S3]
work = model.flops(tokens / s, recompute="full")
print(f"rule of thumb   {8 * P * tokens:.3e} FLOPs")
print(f"counted         {work:.3e} FLOPs")
assert abs(8 * P * tokens / work - 1) < 0.02

# %% [markdown]
# ### Three cuts
#
# There are three ways to share the work between GPUs. Each picture shows a model of four layers;
# read it from the bottom up.

# %%
def draw(ax, t, p, d, title):
    """Draw d replicas of a four-layer model, cut into t slices and p stages; number the GPUs."""
    fills = ["#cfe3f2", "#f7deb0", "#c4e6da", "#f5cdb3", "#e3f1fa", "#fbefd5", "#e0f2ec", "#fae5d8"]
    for replica in range(d):
        left = 4.6 * replica
        for stage in range(p):
            for piece in range(t):
                number = piece + t * (replica + d * stage)
                x, y, wide, high = left + piece * 4 / t, stage * 4 / p, 4 / t, 4 / p
                box = plt.Rectangle((x, y), wide, high, fc=fills[number], ec="black", lw=1.6)
                ax.add_patch(box)
                label = dict(boxstyle="square,pad=0.2", fc=fills[number], ec="none")
                middle = x + wide / 2, y + high / 2
                ax.text(*middle, f"GPU {number}", ha="center", va="center", bbox=label, zorder=3)
        for layer in (1, 2, 3):
            ax.plot([left, left + 4], [layer, layer], "k:", lw=0.8, marker="", zorder=2)
        part = "whole batch" if d == 1 else f"batch: {'2nd' if replica else '1st'} half"
        ax.text(left + 2, -0.25, part, ha="center", va="top", fontsize=9.5)
    ax.set_xlim(-0.1, 4.6 * d - 0.5)
    ax.set_ylim(-0.9, 4.1)
    ax.set_title(title, fontsize=11, loc="center")
    ax.axis("off")


fig, axes = plt.subplots(1, 4, figsize=(10, 2.9), width_ratios=[4, 8.6, 4, 4])
draw(axes[0], 1, 1, 1, "one GPU")
draw(axes[1], 1, 1, 2, "data parallel\n2 replicas")
draw(axes[2], 2, 1, 1, "tensor parallel\n2 slices")
draw(axes[3], 1, 2, 1, "pipeline parallel\n2 stages")
fig.tight_layout(w_pad=2.5)
figure(
    fig,
    alt="Four drawings of a model of four layers. One GPU holds all of it. Data: two GPUs hold a "
    "whole copy each, and each takes half of the batch. Tensor: every layer is cut from top to "
    "bottom, GPU 0 holds the left half of each, GPU 1 the right. Pipeline: GPU 0 holds the lower "
    "two layers, GPU 1 the upper two.",
)

# %% [markdown]
# - **Data parallel**: $d$ copies of the model, called **replicas**, share the batch. At the end of
#   a step they add up their gradients. Time shrinks; the memory that a GPU needs does not.
# - **Tensor parallel**: every layer is cut into $t$ **slices**. Memory shrinks, and time too. But
#   the slices must exchange partial results inside every layer, so they should sit close together,
#   best in one node [S3, section 2.1.2]. Each of them also needs the whole list at the entrance of
#   a layer: tensor parallelism cuts the parameters, not these lists.
# - **Pipeline parallel**: the stack is cut into $p$ **stages**, and each hands its results to the
#   next. Several sequences are on their way at once. Memory shrinks, and little is sent. But a
#   stage has to wait until something arrives, and there cannot be more stages than layers.
#
# The three can be combined: each of $d$ replicas is cut into $p$ stages and each stage into $t$
# slices. This is a **layout**. It needs
#
# $$n = t \cdot p \cdot d \ \text{GPUs, and each keeps about}\ \frac{20\, P}{t\, p}\ \text{bytes}.$$
#
# Note that $d$ is not in the second formula.
#
# ### A number for every GPU
#
# A job numbers its GPUs from 0 to $n - 1$. The number is called the **rank**. Slices count
# fastest, then replicas, then stages:
#
# $$\text{rank} = \text{slice} + t\,(\text{replica} + d \cdot \text{stage}).$$
#
# By hand, with $t = p = d = 2$: rank 5 is $1 + 2\,(0 + 2 \cdot 1)$, so slice 1 of stage 1 in
# replica 0. Find it in the picture.

# %%
fig, ax = plt.subplots(figsize=(6.5, 3))
draw(ax, 2, 2, 2, "All three cuts at once: 2 slices x 2 stages x 2 replicas = 8 GPUs")
figure(
    fig,
    alt="Two replicas of a model side by side, each cut into four quarters. In the left one GPUs 0 "
    "and 1 share the lower two layers, GPUs 4 and 5 the upper two. In the right one GPUs 2 and 3 "
    "share the lower, GPUs 6 and 7 the upper.",
)

# %% [markdown]
# ## Code
#
# To go back from the rank to the three numbers, divide twice and keep the remainders.

# %%
def place(rank, t, p, d):
    """(stage, replica, slice) of a rank."""
    rest, piece = divmod(rank, t)
    stage, replica = divmod(rest, d)
    return stage, replica, piece


for number in range(8):
    stage, replica, piece = place(number, t=2, p=2, d=2)
    print(f"rank {number}: stage {stage}, replica {replica}, slice {piece}")
assert place(5, 2, 2, 2) == (1, 0, 1)

# %% [markdown]
# What a GPU must keep follows from the layout, on average over its replica.

# %%
def state_per_gpu(t, p):
    """Bytes of training state on one GPU; the number of replicas does not matter."""
    return BYTES * P / (t * p)


def days(gpus, flops_per_second):
    """Days that `gpus` need for all of MT-NLG's training at this speed each."""
    return work / (gpus * flops_per_second) / 86_400

# %% [markdown]
# Now try each cut alone, as far as it goes. A layer of MT-NLG has 128 **heads**, parts that work
# side by side; we cut it into at most 128 slices. It has 105 layers, so at most 105 stages.

# %%
LAYOUTS = [  # name, t, p
    ("copies only, any number", 1, 1),
    ("8 slices, one node", 8, 1),
    ("105 stages, a layer each", 1, L),
    ("128 slices, a head each", model.heads, 1),
    ("8 slices x 35 stages", 8, 35),
]
for name, t, p in LAYOUTS:
    one = state_per_gpu(t, p)
    verdict = "fits" if one <= GPU else "does not fit"
    print(f"{name:<26}{t * p:>4} GPUs a replica {one / 1e9:>9.1f} GB each  {verdict}")
one_kind = [state_per_gpu(t, p) for _, t, p in LAYOUTS[:-1]]
assert min(one_kind) > GPU > state_per_gpu(8, 35)

# %%
fig, ax = plt.subplots(figsize=(7, 3.2))
for y, (_, t, p) in enumerate(LAYOUTS):
    one = state_per_gpu(t, p) / 1e9
    colour = COLOURS["green"] if one <= 80 else "#dddddd"
    ax.barh(y, one, color=colour, edgecolor="black", height=0.6)
    ax.text(11, y, f"{one:,.0f} GB".replace(",", " "), va="center")
ax.axvline(80, color="black", linestyle="--", label="one GPU: 80 GB")
ax.set(yticks=range(len(LAYOUTS)), yticklabels=[name for name, *_ in LAYOUTS], xscale="log")
ax.set(xlim=(10, 6e4), xlabel="training state on each GPU (GB)")
ax.set_title("No cut alone brings MT-NLG below 80 GB a GPU", x=-0.42)
ax.invert_yaxis()
ax.legend(loc="lower right")
ax.grid(axis="y", visible=False)
sizes = [f"{name} {state_per_gpu(t, p) / 1e9:.0f} GB" for name, t, p in LAYOUTS]
figure(
    fig,
    alt="Training state on each GPU for five layouts, logarithmic axis. "
    f"{'; '.join(sizes[:-1])}: all end right of the line at 80 GB. Only {sizes[-1]} ends left of it.",
)

# %% [markdown]
# One layer on each GPU is still too much. So is one head of every layer, and its 128 slices would
# span 16 nodes. Two cuts together fit and leave room to work in. This is the layout of MT-NLG: 8
# slices and 35 stages of 3 layers, 280 GPUs for one replica [S3, section 2.2].
#
# The package does the same arithmetic for every layout. This is all there is to it.

# %%
show(Layout.place)

# %% [markdown]
# ## You might think
#
# *"With enough GPUs, give each a copy. Thousands of them share the work, so each needs less."*
#
# Data parallel training is the simplest of the three cuts, and the belief is common. Put it to the
# test.

# %% tags=["predict"]
PUBLISHED = 126e12  # FLOP/s of one GPU in the real run, on 2240 GPUs [S1, S3]
for n in (1, 8, 280, 2240, 4480):
    copies = Layout(dp=n)
    memory = state_per_gpu(copies.tp, copies.pp)
    print(f"{n:>5} copies: {days(n, PUBLISHED):>9.0f} days, {memory / 1e9:>8.0f} GB on each GPU")
    assert memory > GPU
measured("copies_and_memory", "stays the same", tell="A copy is a copy, however many there are.")

# %% [markdown]
# Copies divide the time and leave the memory. The column on the right never changes, and it is 132
# times too large. (The days assume that each copy works as fast as a GPU of the real run did.)
#
# *"Then memory is the only problem: with 280 GPUs it fits, and we are done."*

# %% tags=["predict"]
years = days(1, PUBLISHED) / 365.25
measured("years_on_one_gpu", years, unit="years", tell="Memory alone would not save us.")
for t, p, d in ((8, 35, 1), (8, 105, 1), (8, 35, 8), (8, 35, 16)):
    n = Layout(tp=t, pp=p, dp=d).world
    print(f"t = {t}, p = {p:>3}, d = {d:>2}: {n:>4} GPUs, {days(n, PUBLISHED):>4.0f} days")
assert state_per_gpu(1, 1) / GPU > 132 and days(280, PUBLISHED) > 365

# %% [markdown]
# One replica fits, but it would compute for more than a year. With 8 slices and as many stages as
# there are layers we use 840 GPUs, and there it ends. As long as the slices stay inside a node,
# these two cuts never use thousands.
#
# So the third cut comes back. Tensor and pipeline parallelism make the model fit; data parallelism
# gets the work done in time.

# %% [markdown]
# ## Proof
#
# You should not have to take three things above on trust.
#
# **The number of parameters is exact.** Each layer has $12 h^2 + 13 h$ of them; a table holds $h$
# numbers for each of the $V$ tokens that the model knows, another holds $h$ for each of $s$
# positions, and $2h$ more stand at the end. Lesson 01 builds every one. Here we add them up and
# compare with the package, and with a published formula [S12, eq. 2] that leaves the last $2h$ out.

# %%
parts = {
    "layers": L * (12 * h**2 + 13 * h),
    "table of tokens": V * h,
    "table of positions": s * h,
    "at the end": 2 * h,
}
for name, count in parts.items():
    print(f"{name:<20}{count:>16,}  {count / P:8.4%}")
print(f"{'sum':<20}{sum(parts.values()):>16,}")
formula = 12 * L * h**2 * (1 + 13 / (12 * h) + (V + s) / (12 * L * h))
print("sum - package:          ", sum(parts.values()) - P)
print("sum - formula of S12:   ", round(sum(parts.values()) - formula), "= 2h")
assert sum(parts.values()) == P == 529_600_819_200
assert round(P - formula) == 2 * h

# %% [markdown]
# **Our `place` is the package's** at all 2240 ranks, and the formula leads back to the rank.

# %%
mtnlg = Layout(tp=8, pp=35, dp=8)
wrong = 0
for number in range(mtnlg.world):
    stage, replica, piece = place(number, t=8, p=35, d=8)
    wrong += (stage, replica, piece) != tuple(mtnlg.place(number))
    wrong += piece + 8 * (replica + 8 * stage) != number
print(f"{mtnlg.world} ranks, {wrong} differences")
assert wrong == 0 and mtnlg.world == 2240

# %% [markdown]
# **Groups leave nobody out.** Ranks that differ in only one of the three numbers form a **group**:
# the slices of a stage, the stages of a replica, the replicas of a slice. Along each of the three
# directions every rank must be in exactly one group.

# %%
for axis in ("tp", "pp", "dp"):
    groups = {tuple(mtnlg.group(number, axis)) for number in range(mtnlg.world)}
    members = sorted(number for group in groups for number in group)
    assert members == list(range(mtnlg.world))
    print(f"{axis}: {len(groups):>3} groups of {len(next(iter(groups))):>2}, each rank in one")
slices = [mtnlg.group(number, "tp") for number in range(mtnlg.world)]
assert all(len({mtnlg.node(other)[0] for other in group}) == 1 for group in slices)
print("every tp group lies in one node")

# %% [markdown]
# ## Cost
#
# ### Bytes
#
# Our numbers beside the published ones [S3, section 2.1.1].

# %%
rows = [
    ("training state", BYTES * P / 1e12, "TB", "over 10"),
    ("activations, 1920 sequences at once", boundary_bytes(1920, L, s, h) / 1e12, "TB", "16.9"),
    ("activations, one after another", boundary_bytes(1, L, s, h) / 1e9, "GB", "8.8"),
]
for what, value, unit, published in rows:
    print(f"{what:<38}{value:>7.2f} {unit}   published: {published}")
assert [round(value, 1) for _, value, *_ in rows] == [10.6, 16.9, 8.8]

# %% [markdown]
# Read the second line for what it is. The 16.9 TB are the lists at the layer boundaries, if all
# 1920 sequences of a batch went through the model at once. They never existed; their size is the
# reason to accumulate gradients.
#
# ### FLOPs
#
# The FLOPs of one step, divided by GPUs and seconds, give the speed of a GPU. All three published
# sizes of the machine use the same batch [S1, S3]. The most that the hardware can do, its peak,
# is 312 TFLOP/s a GPU.

# %%
step = model.flops(1920, recompute="full")
print(f"one step: {step:.4e} FLOPs\n")
print("nodes  GPUs  seconds a step  TFLOP/s a GPU  published  share of the peak")
for nodes, seconds, published in [(280, 60.1, 126), (350, 50.2, 121), (420, 44.4, 113)]:
    speed = step / (8 * nodes * seconds) / 1e12
    print(f"{nodes:>5}{8 * nodes:>6}{seconds:>16}{speed:>15.1f}{published:>11}{speed / 312:>14.1%}")
    assert abs(speed - published) < 0.7

# %% [markdown]
# Our count reproduces the published speeds within 0.7 TFLOP/s. The paper prints no formula beside
# them. This agreement is our evidence that the second way up was counted.
#
# Look at the last column. More GPUs finish sooner, but each of them does a little less. The lessons
# on pipelines and planning will say why.
#
# ### Days

# %%
ramp = 12e9  # tokens of the first part, with a smaller batch [S1, S3]
steps = math.ceil((tokens - ramp) / (1920 * s))
full = steps * 60.1 / 86_400
gpu_hours = 3e6 / (mtnlg.world * 24)
print(f"{steps:,} steps with the full batch at 60.1 s: {full:.1f} days (derived)")
print(f"3 million GPU hours on {mtnlg.world} GPUs:          {gpu_hours:.1f} days (derived)")
print("published: 3 months, over 2 thousand GPUs, over 3 million GPU hours [S11, 2021]")
assert steps == 65_613 and round(full, 1) == 45.6

# %% [markdown]
# For 2240 GPUs the derived 45.6 days are a lower bound: only the steps with the full batch, without
# a single pause. The published three months contain more. The first 12 billion tokens were read
# with a growing batch, in many smaller steps. What else filled the time (other numbers of GPUs,
# failures, restarts, evaluation) was not published. The three numbers of the last line are nearly
# all that we have, and a later post speaks of over 4000 GPUs [S11, 2023].
#
# ### And your machine?
#
# A matrix multiplication of two $n \times n$ matrices takes $2 n^3$ FLOPs. We time a few.

# %%
n = 1536
a = np.random.default_rng(0).standard_normal((n, n), dtype=np.float32)
best = math.inf
for _ in range(4):
    start = time.perf_counter()
    a @ a
    best = min(best, time.perf_counter() - start)
here = 2 * n**3 / best
print(f"this machine: {here / 1e9:,.0f} GFLOP/s, measured on {n} x {n} matrices")
print(f"MT-NLG on it: {round(days(1, here) / 365.25, -3):,.0f} years")

# %% [markdown]
# This is why the course shrinks the model, and keeps the method.

# %% [markdown]
# ## MT-NLG
#
# ### Choose your rank
#
# On 280 nodes, the smallest of the three machines above, MT-NLG's layout is $t = 8$ slices, $p =
# 35$ stages and $d = 8$ replicas: ranks 0 to 2239. The paper gives $t$ and $p$ [S3, section 2.2];
# $d$ follows from the 2240 GPUs. Ranks fill the nodes in order, 8 to each.
#
# One of them is yours. To choose it, change `rank` in the cell near the top that begins with `rank:
# int`, run that cell, and go on from here. Your choice is kept on this machine, and every later
# lesson comes back to it. Lesson 16 runs your rank as in the real job, without
# allocating its memory.

# %%
choose_rank(rank)
mine = mtnlg.place(rank)
node, gpu = mtnlg.node(rank)
layers = L // mtnlg.pp
first = mine.pp * layers

print(f"rank    {rank} of 0 to {mtnlg.world - 1}")
print(f"node    {node} of 0 to 279, GPU {gpu} in it")
print(f"stage   {mine.pp} of 0 to 34: layers {first} to {first + layers - 1} of 0 to 104")
print(f"slice   {mine.tp} of 0 to 7: an eighth of each layer, {model.heads // 8} heads of it")
print(f"replica {mine.dp} of 0 to 7: {1920 // mtnlg.dp} of the 1920 sequences of each step")
print(f"state   {state_per_gpu(8, 35) / 1e9:.1f} GB of 80 on average")

# %%
for axis, meaning in (("tp", "slices"), ("dp", "replicas"), ("pp", "stages")):
    group = mtnlg.group(rank, axis)
    spread = len({mtnlg.node(other)[0] for other in group})
    shown = ", ".join(map(str, group[:8])) + (", ..." if len(group) > 8 else "")
    where = "in one node" if spread == 1 else f"on {spread} nodes"
    print(f"{meaning:<9}{len(group):>3} ranks {where}: {shown}")

# %% [markdown]
# These are your three neighbourhoods. With the other slices you share every layer you hold, so
# they sit in your node. With the stages below and above you share a sequence on its way. With the
# other replicas you share nothing until the step ends; then you all add up the gradient of the
# same parameters.
#
# In the picture each block of eight is a node, each row a stage, and each column of blocks a
# replica.

# %%
def spot(number):
    """Where a rank is drawn: replicas side by side with gaps, stages from the bottom up."""
    at = mtnlg.place(number)
    return at.dp * 9.5 + at.tp, at.pp


fig, ax = plt.subplots(figsize=(9, 5.6))
ax.scatter(*zip(*map(spot, range(mtnlg.world)), strict=True), s=9, marker="s", color="#c8c8c8")
for axis, label, marker, colour in (
    ("pp", "stages of its replica (35)", "^", COLOURS["green"]),
    ("dp", "replicas of its slice (8)", "o", COLOURS["red"]),
    ("tp", "slices of its stage (8), one node", "s", COLOURS["blue"]),
):
    x, y = zip(*map(spot, mtnlg.group(rank, axis)), strict=True)
    ax.scatter(x, y, s=34, marker=marker, color=colour, ec="black", lw=0.5, label=label)
ax.scatter(*spot(rank), s=190, marker="*", color="white", edgecolor="black", label=f"rank {rank}")
ax.set_xticks([9.5 * i + 3.5 for i in range(8)], range(8))
ax.set_yticks(range(0, 35, 2))
ax.set(xlabel="replica (each block of 8 is one node)", ylabel="stage (3 layers each)")
ax.set_title(f"2240 ranks on 280 nodes: rank {rank} and its three groups", pad=30)
ax.legend(loc="lower left", bbox_to_anchor=(-0.01, 1), ncols=4, fontsize=9, handletextpad=0.2)
ax.grid(False)
figure(
    fig,
    alt="A grid of 2240 ranks: 35 rows are stages, 8 columns of blocks are replicas, each block "
    f"is a node of 8 GPUs. Rank {rank} is marked in stage {mine.pp}, replica {mine.dp}. Its tensor "
    "group fills its block, its data group has one rank in every block of its row, its pipeline "
    "group one rank in every row of its column.",
)

# %% [markdown]
# The three groups have only your rank in common: two ranks that agree in slice, replica and stage
# are the same.
#
# ### The map of the course
#
# Everything that this lesson left open is a lesson of its own. The picture shows them in the order
# in which things are needed.

# %%
PLAN = [  # what, lessons, the question in short
    ("model", "01", "what are all\nthe parameters?"),
    ("data", "02 03", "what does\nit read?"),
    ("step", "04", "how does\nit learn?"),
    ("memory", "05", "what must be\nkept, and when?"),
    ("ranks", "06", "how do\nGPUs talk?"),
    ("replicas", "07", "how is a\nbatch shared?"),
    ("ZeRO", "08", "must a copy\nbe whole?"),
    ("slices", "09 10", "how is a\nlayer cut?"),
    ("stages", "11", "how is the\nstack cut?"),
    ("3 dimensions", "12", "how do the\ncuts combine?"),
    ("engines", "13", "do the real\nones agree?"),
    ("failures", "14", "what if a\nGPU dies?"),
    ("planning", "15 16", "which layout,\nhow long?"),
    ("cluster", "17", "how is the\njob started?"),
    ("use", "18 19 20", "what can it do,\nwhat not?"),
]
numbers = " ".join(numbers for _, numbers, _ in PLAN).split()
assert numbers == [row["number"] for row in course_map()[1:]]

fig, ax = plt.subplots(figsize=(9.5, 4.3))
for i, (what, numbers, question) in enumerate(PLAN):
    row, column = divmod(i, 5)
    x, y = column * 2.2, -row * 1.75  # each row is read from left to right
    ax.add_patch(plt.Rectangle((x, y), 1.8, 1.3, ec="black", fc="#e3f1fa", lw=1.8))
    ax.text(x + 0.9, y + 1.04, what, ha="center", va="center", weight="bold", fontsize=10)
    ax.text(x + 0.9, y + 0.56, question, ha="center", va="center", fontsize=9)
    ax.text(x + 0.9, y + 0.14, numbers, ha="center", va="center", fontsize=8.5, color="#444444")
    if column < 4:
        ends = (x + 2.18, y + 0.65), (x + 1.82, y + 0.65)
        ax.annotate("", *ends, arrowprops=dict(arrowstyle="->"))
ax.set(xlim=(-0.1, 10.75), ylim=(-3.6, 1.4))
ax.set_title("The way through the course, row by row")
ax.axis("off")
figure(
    fig,
    alt="The plan of the course in fifteen boxes, in order: "
    + ", ".join(f"{what} (lessons {numbers})" for what, numbers, _ in PLAN),
)

# %% [markdown]
# What the lessons ask:

# %%
lines = [
    f"- [{row['number']} {row['title']}]({row['name']}.ipynb): {row['question']}"
    for row in course_map()[1:]
]
display(Markdown("\n".join(lines)))

# %% [markdown]
# ## Check yourself
#
# 1. The weights of MT-NLG, as it calculates with them, take 2 bytes each: about 1.06 TB. Why did
#    training need ten times that?
#
# <details><summary>Answer</summary>
#
# The 2-byte weight is one of six numbers that training keeps for each parameter. With the accurate
# weight, two gradients and Adam's two averages there are 20 bytes, ten times 2.
#
# </details>
#
# 2. A friend says: "MT-NLG used 16.9 TB for activations." What would you answer?
#
# <details><summary>Answer</summary>
#
# That is what the lists at the layer boundaries would take if all 1920 sequences of a batch went
# through the model at once. They went one after another, with the gradients added up; one sequence
# takes 8.8 GB, and each of the 35 stages keeps only the part of its own layers.
#
# </details>
#
# 3. Could a pipeline of 105 stages, without slices, hold the model on GPUs of 80 GB?
#
# <details><summary>Answer</summary>
#
# No. Each GPU would hold one layer, and the training state of one layer is about 101 GB. A pipeline
# cannot cut finer than a layer. That takes slices.
#
# </details>
#
# 4. Ranks 1000 and 1008: do they share a node, a stage, a replica?
#
# <details><summary>Answer</summary>
#
# They share only the stage. They differ by 8, which is $t$: the same slice, but the next replica
# and the next node. They hold the same parameters and meet at the end of the step, to add up
# gradients.
#
# </details>
#
# 5. Why are 45.6 days not in conflict with "three months"?
#
# <details><summary>Answer</summary>
#
# They count different things. The 45.6 days are derived: the 65 613 steps with the full batch, at
# 60.1 s each, on 2240 GPUs, without a pause. Three months is what the job took with the growing
# batch at the start and everything that was not published.
#
# </details>

# %%
assert place(1008, 8, 35, 8) == (place(1000, 8, 35, 8)[0], place(1000, 8, 35, 8)[1] + 1, 0)
assert round(state_per_gpu(1, L) / 1e9) == 101 and round(2 * P / 1e12, 2) == 1.06

# %% [markdown]
# ## Exercises
#
# You now have all that it takes to answer the first question before any large job.
