# ---
# question: There are 2240 GPUs and a model of 530 billion parameters. Which of all layouts should one
#   run, and how can one be sure of it before the first GPU is paid?
# needs: [performance model, bubble, layout, sequence parallelism, activation checkpointing]
# introduces:
#   dry run: "The program of one rank of a job, carried out without its numbers: every shape, call and
#     byte is counted, nothing is computed or allocated."
#   frontier: "Of many layouts those that no other one beats in both time and memory."
#   strong scaling: "The same job on more GPUs; ideal if twice as many take half the time."
# proves: "A dry run counts what the formulas say, and its ranks together hold every parameter."
# minutes: 40
# seconds: 60
# ---

# %% [markdown]
# # Planning 530B
#
# You know all three kinds of parallelism and what each costs. Now you are the one who decides.
#
# The lesson searches all layouts, asks why MT-NLG took the one that it took, and carries out the
# step of your own rank of the real job on this machine.

# %% [markdown]
# ## Question
#
# The cluster is reserved, the model is designed, the batch is fixed at 1920 sequences. What is left
# is the layout: how many slices, stages and replicas, how large a micro-batch, what is computed
# again.
#
# **Which one, and how can one be sure before the first GPU is paid?**

# %%
import dataclasses
import resource
import time

import matplotlib.pyplot as plt
import numpy as np

from minimtnlg import config
from minimtnlg.config import preset
from minimtnlg.course.check import measured, predict
from minimtnlg.course.plots import COLOURS
from minimtnlg.course.rank import MTNLG, my_rank
from minimtnlg.course.show import figure, show
from minimtnlg.plan import planner
from minimtnlg.plan.dryrun import dry_run
from minimtnlg.plan.estimate import Job, estimate, job_of
from minimtnlg.plan.expected import expected
from minimtnlg.plan.hardware import hardware, stack
from minimtnlg.plan.memory import memory

# %% tags=["parameters"]
gpus: int = 2240  # of the search; MT-NLG's smallest cluster
cluster: str = "a100-80gb"  # a preset, or the path of your own YAML file

# %% [markdown]
# ## Predict
#
# Type your guess in place of `None`, then run the cell.
#
# 1. In how many ways can 2240 GPUs train MT-NLG, if the size of a micro-batch, recomputation,
#    sequence parallelism, interleaving and ZeRO are chosen, too? Slices go up to 16, and the batch
#    grows from 32 to 1920 in steps of 32.
# 2. MT-NLG's iteration took 60.1 s. How many seconds would the fastest layout take on the same
#    GPUs, with the software of a year later?
# 3. Twice as many nodes, 560 instead of 280, and the same batch. How many times faster is an
#    iteration of MT-NLG?

# %%
predict("legal_layouts", None)
predict("fastest_on_2240", None)
predict("speed_up_of_twice_the_nodes", None)

# %% [markdown]
# ## Trouble
#
# Take a few layouts that come to mind.

# %%
selene, yours = hardware("a100-80gb"), hardware(cluster)
old, new = stack("deepspeed-2021"), stack("megatron-2022")
model = dataclasses.replace(preset("mtnlg-530b").model, attention="readable")


def verdict(job, soft):
    """What a planner says to a layout: refused, too large, or its seconds."""
    if rule := planner.broken(job):
        return rule
    most = max(stage.reserved for stage in memory(job, selene, soft))
    if most > selene.memory_gib:
        return f"{most:.0f} GiB a GPU do not fit"
    return f"{estimate(job, selene, soft).seconds:.1f} s, {most:.0f} GiB"


tries = {
    "no pipeline": Job(model, 8, 1, 280, 1, 1920, recompute="full"),
    "no slices": Job(model, 1, 35, 64, 1, 1920, recompute="full"),
    "MT-NLG's": Job(model, 8, 35, 8, 1, 1920, recompute="full"),
    "interleaved": Job(model, 8, 35, 8, 1, 1920, 3, "full"),
    "few stages": Job(model, 8, 7, 40, 1, 1920, recompute="full"),
    "nothing again": Job(model, 8, 35, 8, 1, 1920),
}
for name, job in tries.items():
    print(f"{name:14} {job.tp} x {job.pp} x {job.dp}: {verdict(job, old)}")
for name, words in {"no pipeline": "not divisible", "few stages": "do not fit",
                    "nothing again": "do not fit", "interleaved": "not divisible"}.items():  # fmt: skip
    assert words in verdict(tries[name], old)

# %% [markdown]
# The memory is what a GPU reserves on the fullest stage. Some layouts do not fit, some are against the
# rules. Trying by hand may find a layout. It does not find the
# best.

# %% [markdown]
# ## Idea
#
# An estimate takes a fraction of a millisecond. So look at all of them.
#
# Time and memory pull in two directions: what is computed again takes time and saves memory. There
# is no single best layout, there is a **frontier**: layouts that no other beats in both.

# %% tags=["predict"]
whole = config.load("mtnlg-530b")
began = time.perf_counter()
found, count = planner.search(whole, gpus, yours, new)
took = time.perf_counter() - began
edge = planner.frontier(found)
measured("legal_layouts", count, unit="layouts", tell=f"{len(found)} of them fit into a GPU.")
print(f"{count} layouts in {took:.1f} s")
for seconds, most, job in edge:
    print(f"{seconds:7.1f} s {most:5.1f} GiB   tp {job.tp:2} pp {job.pp:3} dp {job.dp:3}  b {job.micro_batch}"
          f"  recompute {job.recompute:9} sequence {job.sequence_parallel!s:5} zero {job.zero}")  # fmt: skip

# %%
fig, ax = plt.subplots(figsize=(7, 4.6))
for recompute, marker, colour in (("none", "o", "red"), ("selective", "s", "blue"),
                                  ("full", "^", "orange")):  # fmt: skip
    points = [(most, seconds) for seconds, most, job in found if job.recompute == recompute]
    ax.plot(*zip(*points, strict=True), marker, color=COLOURS[colour], ls="", ms=4, alpha=0.6,
            label=f"recompute {recompute}")  # fmt: skip
ax.step([most for _, most, _ in edge], [seconds for seconds, _, _ in edge], color="black", marker="",
        where="post", label="frontier")  # fmt: skip
ax.set(xlabel="GiB reserved on the fullest GPU", ylabel="seconds an iteration", yscale="log",
       title=f"Every layout of MT-NLG that fits into {gpus} GPUs")  # fmt: skip
ax.set_yticks(range(40, 101, 10), [f"{tick}" for tick in range(40, 101, 10)])
ax.minorticks_off()
ax.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
figure(
    fig,
    alt=f"{len(found)} points, from {found[0][0]:.0f} seconds upwards. The frontier goes from "
    f"{edge[0][1]:.0f} GiB and {edge[0][0]:.0f} s to {edge[-1][1]:.0f} GiB and {edge[-1][0]:.0f} s. "
    "Full recomputation is slow and small, none is fast and large, selective nearly as fast.",
)

# %% [markdown]
# ## Code
#
# A plan is arithmetic. How can one be sure that the program does what the plan says?
#
# By running it, without its numbers. A **dry run** gives every tensor a shape and a type, and no
# memory; a call to another rank returns at once. The code is that of every other run in this course.

# %%
show(dry_run)

# %% [markdown]
# Here is your own rank, the one that you chose in lesson 00.

# %%
rank = my_rank()
place = MTNLG.place(rank)
began = time.perf_counter()
dry = dry_run(whole, rank)
print(f"rank {rank}: stage {place.pp}, replica {place.dp}, slice {place.tp}; "
      f"{time.perf_counter() - began:.0f} s")  # fmt: skip
print(f"{dry.count:,} parameters, {dry.flops / 1e9:,.0f} GFLOP a micro-batch\n")
print(f"{'in one step':22}{'calls':>8}{'GiB':>9}")
for (operation, group), sums in dry.traffic.items():
    print(f"{operation + ' ' + group:22}{sums.calls:>8,}{sums.bytes / 2**30:>9.2f}")
print()
for kind, size in dry.bytes.items():
    print(f"{kind:14}{size / 2**30:7.2f} GiB")
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(f"\n{dry.peak / 2**30:.1f} GiB at the peak of a GPU; this notebook uses {used:.1f} GiB")
assert dry.peak > 30 * 2**30

# %% [markdown]
# Above, the same layout took 54 GiB. That was the fullest stage, with DeepSpeed's 20 bytes a parameter
# instead of our $2 + 4 + 12 = 18$, and with 4 GiB and 5 % for the driver, buffers and gaps. Our ranks
# also send an eighth of each activation, where MT-NLG's sent the whole.

# %% [markdown]
# ## You might think
#
# *They forgot to interleave. A bubble of 12 % of the time would have become one of 4 %.*
#
# Interleaving moves micro-batches through the stages in groups of $p$. The batch of 1920 makes
# $1920/8 = 240$ micro-batches on 8 replicas, and 35 does not divide 240. Which batch would?

# %%
base = tries["MT-NLG's"]
for batch in range(1400, 2521, 40):
    job = base._replace(global_batch=batch, virtual=3)
    if batch % 8 == 0 and not planner.broken(job):
        plain = estimate(base._replace(global_batch=batch), selene, old)
        inter = estimate(job, selene, old)
        print(f"batch {batch}: {job.m} micro-batches, 1F1B {1e3 * plain.seconds / batch:.1f} ms a sequence, "
              f"interleaved {1e3 * inter.seconds / batch:.1f} ms, {inter.bubble / inter.seconds:.0%} bubble")  # fmt: skip
        assert batch % 280 == 0

# %% [markdown]
# Multiples of 280. At 1960, hardly more than 1920, it would have been legal. But
# DeepSpeed's pipeline had no interleaving, and three times as many transfers of whole tensors would
# have eaten the gain: with its way of sending, interleaving is slower.

# %%
job = base._replace(global_batch=1960, virtual=3)
assert estimate(job, selene, old).seconds > estimate(base._replace(global_batch=1960), selene, old).seconds
assert estimate(job, selene, new).seconds < estimate(base._replace(global_batch=1960), selene, new).seconds

# %% [markdown]
# ## Proof
#
# The dry run counted. The plan has formulas. They must agree: exactly in what is counted, and nearly
# in the memory, where the plan does not follow every tensor.

# %%
settings = config.sized(whole)
told = expected(settings, job_of(settings, "readable"), place.pp)
for name, value in told.items():
    counted = dry.counted[name]
    print(f"{name:32}{counted:>22,.0f}{value:>22,.0f}{counted / value - 1:8.1%}")
    assert abs(counted / value - 1) < (0.05 if name == "peak bytes" else 1e-9)

# %% [markdown]
# And the ranks together have the whole model. We look at one rank of the first, a middle and the last
# stage; slices count eight times, what all slices have counts once, and the second copy of the
# embedding not at all.

# %%
total = 0
for stage, alike in ((0, 1), (17, 33), (34, 1)):
    one = dry_run(whole, MTNLG.rank(stage))
    for name, (elements, cut) in one.parameters.items():
        if not (stage == 34 and name == "embedding.weight"):
            total += elements * (8 if cut else 1) * alike
print(f"{total:,} parameters on all ranks, {model.parameters():,} by the formula")
assert total == model.parameters() == 529_600_819_200

# %% [markdown]
# ## Cost
#
# What would one run on the same GPUs a year later? Sequence parallelism and selective recomputation
# were not there in 2021. ZeRO's first stage was; MT-NLG's papers name none, so our 2021 row has none.

# %% tags=["predict"]
now = found[0]
small = next(one for one in found if one[2].recompute == "selective")
runs = {"MT-NLG, 2021": (estimate(base, selene, old).seconds, base, selene.watts),
        "fastest": (now[0], now[2], yours.watts),
        "with selective recomputation": (small[0], small[2], yours.watts)}  # fmt: skip
for name, (seconds, job, watts) in runs.items():
    days = 270e9 / (1920 * 2048) * seconds / 86400
    mwh = days * 24 * job.gpus * watts / 1e6
    layout = f"{job.tp} x {job.pp} x {job.dp}, {job.recompute}"
    print(f"{name:34}{layout:26}{seconds:6.1f} s {days:6.1f} days {mwh:7,.0f} MWh")
print(f"counted for a node of eight GPUs: {8 * yours.watts / 1e3:.1f} kW")
measured(
    "fastest_on_2240",
    now[0],
    unit="s",
    tell="What is gained: no forward pass twice, slices sent instead of whole tensors.",
)

# %% [markdown]
# The numbers of energy take 6.5 kW for a node with eight GPUs, and nothing for cooling.
#
# Have you a cluster of your own? Write what it is into a YAML file, as the presets in
# `minimtnlg/plan/hardware.yaml`, put its path and the number of GPUs into the cell of parameters, and
# run the lesson again: search, frontier and these rows are then yours.
#
# More nodes for the same job is **strong scaling**: ideal if twice as many take half the time. The
# batch stays 1920, so each replica has fewer micro-batches, and the pipeline takes as long as before
# to fill.

# %% tags=["predict"]
nodes = np.array([280, 350, 420, 560, 840])
seconds = np.array([
    estimate(base._replace(dp=int(n) * 8 // 280), selene, old).seconds for n in nodes
])  # fmt: skip
fig, ax = plt.subplots()
ax.plot(nodes, seconds[0] / seconds, label="computed", color=COLOURS["blue"])
ax.plot(nodes, nodes / 280, color="black", ls="--", marker="", label="ideal")
published = [1, 60.1 / 50.2, 60.1 / 44.4]
ax.plot([280, 350, 420], published, "D", ls="", color=COLOURS["red"],
        label="published")  # fmt: skip
ax.set(xlabel="nodes", ylabel="times faster than on 280 nodes",
       title="Each replica has less to do, the bubble stays")  # fmt: skip
ax.legend()
figure(
    fig,
    alt=f"Computed speed-up: 1, {seconds[0] / seconds[1]:.2f}, {seconds[0] / seconds[2]:.2f}, "
    f"{seconds[0] / seconds[3]:.2f} and {seconds[0] / seconds[4]:.2f} on 280, 350, 420, 560 and 840 "
    f"nodes, ever further below the ideal line. The published points, 1, {published[1]:.2f} and "
    f"{published[2]:.2f}, lie on the computed line, the last a little below.",
)
for n, t in zip(nodes, seconds, strict=True):
    share = estimate(base._replace(dp=int(n) * 8 // 280), selene, old).bubble / t
    print(f"{n} nodes: {t:5.1f} s, bubble {share:.0%}, {280 * seconds[0] / (n * t):.0%} of ideal")
assert share > 0.25
measured("speed_up_of_twice_the_nodes", float(seconds[0] / seconds[3]), unit="times")

# %% [markdown]
# ## MT-NLG
#
# Why 8 x 35? Ask the planner as it would have been in 2021: whole tensors sent, everything computed
# again, no sequence parallelism and, as we assume of MT-NLG, no ZeRO. The ramp of the batch is left
# out.

# %%
then = []
for job in planner.layouts(model, 2240, [1920], selene):
    if (job.virtual, job.recompute, job.sequence_parallel, job.zero) == (1, "full", False, 0):
        most = max(stage.reserved for stage in memory(job, selene, old, {0, job.pp - 1}))
        if most <= selene.memory_gib:
            then.append((estimate(job, selene, old).seconds, most, job))
then.sort(key=lambda one: one[:2])
for seconds_, most, job in then[:6]:
    print(f"tp {job.tp:2} x pp {job.pp:3} x dp {job.dp:3}, b {job.micro_batch}: {seconds_:6.1f} s {most:6.1f} GiB")
place_ = [(job.tp, job.pp, job.dp, job.micro_batch) for _, _, job in then].index((8, 35, 8, 1))
print(f"MT-NLG's layout is number {place_ + 1} of {len(then)}, "
      f"{then[place_][0] / then[0][0] - 1:.1%} behind the first")  # fmt: skip
assert place_ < 3 and then[place_][0] < 1.01 * then[0][0]
assert then[0][2].pp == 28 and round(then[0][1] - then[place_][1]) == 13
even = [p for p in range(1, 106) if 105 % p == 0 and 280 % p == 0]
fit = {job.pp for _, _, job in then if job.tp == 8} & set(even)
print(f"numbers of stages that divide 105 layers and 280 nodes: {even}; with room for them: {fit}")
assert fit == {35}

# %% [markdown]
# Eight slices fill a node and not more. Of the numbers of stages that divide both the layers and the
# nodes, 35 alone leaves room for what a GPU must hold. And 28 uneven stages are as fast, to a hundredth
# of a second, but take 13 GiB more.

# %% [markdown]
# ## Check yourself
#
# 1. Why does a layout with fewer stages need more memory on each GPU, though there are as many GPUs?
#
# <details><summary>Answer</summary>
#
# The replicas take their place, and each replica holds everything again. Only ZeRO would cut what
# they hold.
#
# </details>
#
# 2. The dry run takes 36 micro-batches on the first stage instead of 240. Why is its peak of memory
#    right all the same?
#
# <details><summary>Answer</summary>
#
# At most 35 micro-batches are in flight on the first of 35 stages. After that a backward pass frees
# what the next forward pass takes.
#
# </details>
#
# 3. On 840 nodes the bubble takes more than a quarter of the time. Name two changes that would help.
#
# <details><summary>Answer</summary>
#
# A larger batch, fewer stages, or interleaving, if each rank sends its eighth and 35 divides the
# micro-batches. Each has a price: what the model learns from a batch, memory, transfers.
#
# </details>

# %% [markdown]
# ## Exercises
#
# Find out why 35 stages can't interleave, and the frontier of any cloud of layouts. Then choose the
# layout for a cluster yourself, and beat a target.
