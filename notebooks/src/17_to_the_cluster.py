# ---
# question: The program is ready. What changes between one laptop and 280 nodes, and what has to be
#   checked before a cluster is paid by the hour?
# needs: [layout, rank, process group, collective, bubble, stage, micro-batch, node, link, placement]
# introduces:
#   rendezvous: "The meeting of all processes of a job at one address that each of them was given:
#     there they learn their ranks, how many they are, and how to reach each other."
#   sbatch: "Slurm's command that hands in a batch script: its lines with `#SBATCH` ask for nodes and
#     time, and once these are free, the rest runs on the first node."
#   straggler: "A rank that takes longer than the others for the same work; all of them wait for it
#     in the next collective, so the job is as slow as this rank."
# proves: "The launcher changes no loss, and the probe names the rank that is slow."
# minutes: 40
# seconds: 60
# ---

# %% [markdown]
# # To the cluster
#
# Up to now you started a job by calling a function. On a cluster nobody calls: 2240 processes are
# started on 280 computers, and they have to find each other. Somebody else owns the computers, and
# each hour of each GPU costs money.
#
# In this lesson you let processes meet, read a batch script and the logs that it leaves behind, and
# hunt for the one GPU that slows down all others. What can be run on a laptop you run; the logs come
# from a real Slurm, and were recorded.

# %% [markdown]
# ## Question
#
# Here are four of the configurations that come with the course, from a laptop to MT-NLG.

# %%
import difflib
import json
import os
import re
import socket
import subprocess
import sys
import textwrap
import time
from datetime import timedelta
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from minimtnlg import run
from minimtnlg.config import load
from minimtnlg.course.check import measured, predict
from minimtnlg.course.need import need
from minimtnlg.course.plots import COLOURS
from minimtnlg.course.rank import MTNLG, my_rank
from minimtnlg.course.show import figure, show
from minimtnlg.course.sources import ROOT
from minimtnlg.launch import script
from minimtnlg.train.trainer import train

CONFIGS, RECORDED = ROOT / "scaling" / "configs", ROOT / "notebooks" / "recorded"

print(f"{'file':30}{'parameters':>16}{'t x p x d':>14}{'ranks':>7}")
for name in ("nano", "gpt-1.3b", "megatron-8b", "mtnlg-530b-280-nodes"):
    config = load(CONFIGS / f"{name}.yaml")
    p = config.parallel
    sizes = p.tp, p.pp, p.dp if isinstance(p.dp, int) else 1
    shape = " x ".join(map(str, sizes))
    print(f"{name + '.yaml':30}{config.model.parameters():>16,}{shape:>14}{np.prod(sizes):>7}")

# %% [markdown]
# One program trains all of them: `minimtnlg train FILE`. The model's code asks for the groups of
# its rank and never for the number of computers (lesson 12). So where do the computers come in?
#
# **What changes between one laptop and 280 nodes, and what has to be checked before a cluster is
# paid by the hour?**

# %% tags=["parameters"]
ranks: int = 8  # in the experiment with a slow rank
dollars_per_gpu_hour: float = 2.0  # an assumption, not a quotation; put in what you pay

# %% [markdown]
# ## Predict
#
# Type your guess in place of `None`, then run the cell.
#
# 1. A batch script starts MT-NLG on 280 nodes. How many lines of it, comments left out, have to be
#    changed for 420 nodes?
# 2. In a job of eight ranks the system kills one, because memory ran out. The log is full of
#    tracebacks, the reports that Python writes about an error. Whose are they?
# 3. In a job of eight ranks one runs at 80 % of the speed of the others. How many percent of its speed
#    does the whole job lose?
# 4. MT-NLG took over 3 million GPU hours. How many million dollars is that, at 2 dollars an hour?

# %%
predict("lines_from_280_to_420", None)
predict(
    "whose_tracebacks", None, choices=["the killed rank's", "others' and the killed rank's", "others'"]
)
predict("percent_lost_to_one_rank", None)
predict("million_dollars", None)

# %% [markdown]
# ## Trouble
#
# So far `run` started the ranks: all at once, on one machine, and it told each its number. Let us
# start rank 0 of two without it. PyTorch's ranks first meet at a small server, the *store*. Rank 0
# opens it at an address, and waits for the others. We give it two seconds.

# %%
def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


port = free_port()
try:
    dist.TCPStore("127.0.0.1", port, world_size=2, is_master=True, timeout=timedelta(seconds=2))
except dist.DistStoreError as error:
    print(re.sub(r" after \d+ seconds", "", str(error).partition("\n")[0]))

# %% [markdown]
# Rank 0 did all that it should. But on the other computer nothing runs, and if something ran there,
# it would not know where to go. There are things that no program can find out by itself:
#
# - how many processes belong to the job, and which of them this one is,
# - which GPU of its computer is its own,
# - at which address they meet.
#
# Whoever starts the processes has to say so. By custom it is said in environment variables: `RANK`
# and `WORLD_SIZE`, `LOCAL_RANK` and `LOCAL_WORLD_SIZE`, `MASTER_ADDR` and `MASTER_PORT`.

# %% [markdown]
# ## Idea
#
# ### A meeting point
#
# All processes are given one address. The first one opens the store there; the others knock until
# it opens. Each leaves a note that it has come and waits until all notes are there. This is the
# **rendezvous**. Afterwards each knows all others, and process groups can be made.
#
# Where does the number of a node come from? There are two ways. In the *static* way the scheduler
# says it: node 0, node 1, node 2. In the *dynamic* way the nodes find it out at the store. In our
# toy the store counts: who comes first is node 0. (torchrun's dynamic rendezvous sorts the nodes by
# address once all are there.)
#
# By hand, three nodes of two GPUs. In both ways the ranks of a node are neighbours:
#
# $$\text{RANK} = \text{node} \cdot \text{LOCAL\_WORLD\_SIZE} + \text{LOCAL\_RANK}.$$
#
# GPU 1 of node 2 is rank $2 \cdot 2 + 1 = 5$ of $3 \cdot 2 = 6$. Because of this formula the slices
# of a layer share a node, as placement wants it (lesson 12).
#
# Here is the toy, with a process for each of three nodes. They wake up at different times (they
# sleep first), as computers do.


# %%
def come(port, delays, gpus=2):
    """One node comes to the meeting; returns (seconds of arrival and of departure, its ranks)."""
    me, n = dist.get_rank(), dist.get_world_size()
    start = time.perf_counter()
    time.sleep(delays[me])
    store = dist.TCPStore("127.0.0.1", port, is_master=me == 0, wait_for_workers=False)
    node = store.add("nodes", 1) - 1  # the store counts: who comes first is node 0
    came = time.perf_counter() - start
    store.set(f"node {node} is here", "")
    store.wait([f"node {i} is here" for i in range(n)])
    went = time.perf_counter() - start
    dist.barrier()  # the store lives in one of them: nobody leaves before all have read
    return came, went, [node * gpus + local for local in range(gpus)]


delays = {"a": 0.0, "b": 1.5, "c": 0.6}
meeting = dict(zip(delays, run(come, 3, free_port(), list(delays.values())), strict=True))
for name, (came, went, numbers) in meeting.items():
    print(f"node {name} came after {came:.1f} s, left after {went:.1f} s, has ranks {numbers}")
assert {name: numbers for name, (*_, numbers) in meeting.items()} == {
    "a": [0, 1], "b": [4, 5], "c": [2, 3]
}  # fmt: skip

# %%
fig, ax = plt.subplots(figsize=(7.5, 2.2))
end = max(went for _, went, _ in meeting.values())
for row, (came, went, numbers) in enumerate(meeting.values()):
    bar = dict(height=0.5, edgecolor="black", lw=0.6)
    ax.barh(row, came, color="white", label="starting (slept)" if row == 0 else None, **bar)
    wait = dict(left=came, color=COLOURS["orange"], hatch="///", **bar)
    ax.barh(row, went - came, label="waiting at the store" if row == 0 else None, **wait)
    work = dict(left=went, color=COLOURS["sky"], **bar)
    ax.barh(row, 0.4, label="all are there" if row == 0 else None, **work)
    ax.text(end + 0.45, row, f"ranks {numbers[0]} and {numbers[1]}", va="center", fontsize=10)
ax.set_yticks(range(3), [f"node {name}" for name in meeting])
ax.invert_yaxis()
ax.grid(axis="y", visible=False)
ax.set(xlabel="seconds", xlim=(0, end + 1.3), title="Nobody begins before the last one has come")
ax.legend(loc="upper center", bbox_to_anchor=(0.45, -0.32), ncols=3, fontsize=9)
figure(
    fig,
    alt="Three nodes at a rendezvous. "
    + " ".join(
        f"Node {name} comes after {came:.1f} s, waits {went - came:.1f} s and gets ranks "
        f"{numbers[0]} and {numbers[1]}."
        for name, (came, went, numbers) in meeting.items()
    ),
)

# %% [markdown]
# Two things to keep. Everybody waits for the last one, so a node that does not come up keeps all
# others from working, and they are paid for. And in the dynamic way the numbers are not the
# scheduler's: here `c` has lower ranks than `b`, and with another way to count they would be placed
# otherwise. The scheduler knows which nodes are close to each other in the network; the store does
# not.
#
# ### Who starts the processes
#
# On a laptop, `minimtnlg train` starts its ranks itself. On a node, `torchrun` does it: one launcher
# for each node, which starts a process for each GPU. On a cluster you share, a *scheduler* decides
# when the nodes are yours; Slurm is the most common one. You hand in a shell script with `sbatch`.
# It waits in a queue, and once the nodes are free Slurm runs the script on the first of them. Only
# the command `srun` in it starts processes on all nodes.

# %% [markdown]
# ## Code
#
# ### A batch script
#
# `minimtnlg launch` writes the script from the configuration. This is the one for MT-NLG on 280
# nodes, without its comments; read them once in a file of your own.

# %%
HERE = dict(here="/home/you/minimtnlg", python="python")


def batch_script(*overrides):
    source = CONFIGS / "mtnlg-530b-280-nodes.yaml"
    text = script(source, ["train.ramp=null", *overrides], target="slurm", **HERE)
    return text.replace(f"{ROOT}/", "")


def without_comments(text):
    return [x for x in text.splitlines() if x.strip() and not re.match(r"\s*#(?!SBATCH|!)", x)]


lines = without_comments(batch_script())
print("\n".join(lines))

# %% [markdown]
# Read it in three parts.
#
# - `#SBATCH` lines are for **sbatch**: how many nodes, how many processes and GPUs on each, how long,
#   where the log goes. They are comments for the shell. `--signal` and `--requeue` are for the day
#   when the nodes are taken away: Slurm sends a signal first, the run saves itself, and the script
#   puts itself back into the queue. Started again, the run goes on from what it saved (lesson 14).
# - Then the rendezvous: the address of this node, the first, and a port that is free.
# - `srun` starts a command once for each GPU of each node; here it is in the function `on_all_ranks`.
#   From Slurm's own variables come `RANK` and the others: this is the static way. `--label` puts the
#   rank before each line of the log, and `--kill-on-bad-exit` ends all ranks when one fails.
#
# Now for 420 nodes: 12 replicas instead of 8. Which lines change?

# %% tags=["predict"]
more = without_comments(batch_script("parallel.dp=12"))
changed = [x for x in difflib.ndiff(lines, more) if x[0] in "-+"]
print("\n".join(textwrap.shorten(x, 95) for x in changed))
measured(
    "lines_from_280_to_420",
    sum(x[0] == "+" for x in changed),
    tell="How many nodes, and how many replicas. No line of the program changes.",
)

# %% [markdown]
# The number of nodes follows from the layout, so really there is one decision. (`train.ramp=null`
# is in both scripts because 12 replicas do not divide the batches of the ramp, lesson 12.)
#
# From a laptop to the cluster, step by step, this is all that changes:

# %%
STARTS = [
    ("laptop", "minimtnlg train nano --out runs/nano"),
    ("data", "minimtnlg data prepare --out corpora/web --vocab gpt2 --sources ~/texts"),
    ("one GPU", "minimtnlg train scaling/configs/gpt-1.3b.yaml --out runs/1.3b"),
    ("one node", "minimtnlg launch scaling/configs/megatron-8b.yaml --target torchrun --out node.sh"),
    ("", "bash node.sh"),
    ("many nodes", "minimtnlg launch scaling/configs/turing-17b.yaml --target slurm --out job.sh"),
    ("", "sbatch job.sh"),
]
for where, command in STARTS:
    print(f"{where:12}{command}")

# %% [markdown]
# ### The log of a job that went well
#
# Most readers have no Slurm, so this log and the next were recorded, with the scripts of `minimtnlg
# launch`, on a Slurm of two nodes that `python notebooks/recorded/17_slurm.py` starts on one
# machine. First a small job, two nodes of two ranks. The number at the start of a line is its rank.

# %%
print((RECORDED / "17_slurm_good.log").read_text())

# %% [markdown]
# The first line comes from the script: which nodes, the meeting point, the folder. Then rank 0
# speaks for all. Write such a first line into every job: when you look for the cause of trouble a
# week later, it says where it ran. (The warning about cpu binding is this small Slurm's own.)
#
# ### The log of a job that did not
#
# Two nodes of four ranks. Rank 5 was killed with signal 9 after its second step, as the system does
# when memory runs out. Who writes what?

# %%
failed = (RECORDED / "17_slurm_failed.log").read_text()


def spoken(log):
    """[(rank or "srun", text)]: who wrote each line."""
    found = []
    for line in log.splitlines():
        match = re.match(r"(\d+): (.*)", line)
        found.append((int(match[1]), match[2]) if match else ("srun", line))
    return found


said = spoken(failed)
with_traceback = sorted({who for who, text in said if "Traceback" in text})
print(f"{len(said)} lines; tracebacks of ranks {with_traceback}, which end so:")
for who, text in said:
    if re.search(r"\w+Error: ", text):
        short = re.sub(r"\[/.*/(\w+\.cc:\d+)\]", r"[\1]", text.partition("]: ")[2])
        print(f"  {who}: {textwrap.shorten(short, 85)}")
print("all other lines:")
for who, text in said:
    if "[rank" not in text:
        print("  " + textwrap.shorten(text if who == "srun" else f"{who}: {text}", 92))

# %% tags=["predict"]
cause, killed = next(
    (i, int(match[1]))
    for i, (_, text) in enumerate(said)
    if (match := re.search(r"task (\d+): (?:Killed|Exited with exit code 137)", text))
)
guilty, others = killed in with_traceback, len(with_traceback) > (killed in with_traceback)
fig, ax = plt.subplots(figsize=(7.5, 3.2))
looks = [
    ("inside a traceback", "orange", "s", lambda who, text: "[rank" in text),
    ("other lines of a rank", "blue", "o", lambda who, text: who != "srun" and "[rank" not in text),
    ("the script and srun", "black", "D", lambda who, text: who == "srun"),
]
for label, colour, marker, chosen in looks:
    at = [(i, 8 if who == "srun" else who) for i, (who, text) in enumerate(said) if chosen(who, text)]
    ax.plot(*np.transpose(at), ls="", marker=marker, ms=4, color=COLOURS[colour], label=label)
ax.axhspan(killed - 0.4, killed + 0.4, color=COLOURS["red"], alpha=0.15, lw=0, label="the rank that failed")
ax.set_yticks(range(9), [*(f"rank {r}" for r in range(8)), "srun"])
ax.invert_yaxis()
ax.set(xlabel="line of the log", title="Those that shout are not the one that failed")
ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)
own = sum(who == killed for who, _ in said)
figure(
    fig,
    alt=f"Who wrote each of the {len(said)} lines of the log. Tracebacks of ranks {with_traceback} "
    f"fill most of it. Rank {killed}, which failed, has {own}; srun reports its end in line {cause}.",
)
measured(
    "whose_tracebacks",
    {(True, False): "the killed rank's", (False, True): "others'"}.get(
        (guilty, others), "others' and the killed rank's"
    ),
    tell="They lost the connection to the killed rank, which had no time to say anything.",
)

# %% [markdown]
# The ranks that fill the log are those that did nothing wrong: `Connection reset by peer` means that
# somebody *else* is gone. The killed rank is silent; the line under its number comes from the shell
# that had started it. Ask of each line whether it is a cause or a consequence:
#
# - An error that a rank raised by itself is a cause, a lost connection is a consequence.
# - Exit code $137 = 128 + 9$ is a cause: a process that signal 9 has ended, most often because memory
#   ran out. Many clusters then add `Out Of Memory` or `oom_kill event`. It is no cause below the line
#   `Terminating StepId`: there srun kills those that would not go.
# - `Terminated`, or exit code $143 = 128 + 15$, is a consequence: srun ended those that were left.
#   Our script reports these with exit code 1, so that the job's own is the one of the rank that
#   failed.
# - A timeout of many ranks is a consequence. The cause is the rank that is *not* among them (lesson
#   06).
#
# The place of what ranks wrote proves nothing: lines are written late, and clocks of nodes differ.
#
# (This log is gloo's. With NCCL the others often say nothing at all, until a watchdog or srun ends
# them.)
#
# NCCL's watchdog is a thread of each process: it ends the process if a collective has not come to its
# end in time, ten minutes by default. Its line tells which collective that was, as a number that counts
# the calls of its group on this rank:
#
# `Watchdog caught collective operation timeout: WorkNCCL(SeqNum=4711, OpType=ALLREDUCE, ...) ran for
# 600034 milliseconds before timing out.`
#
# If fifteen of sixteen ranks write `4711`, look at the sixteenth: it wrote no such line, or a smaller
# number.

# %% [markdown]
# ### Before the first hour is paid
#
# What an operator checks, from the cheapest to the dearest:
#
# 1. **Alike.** All nodes have the same GPUs, driver, PyTorch and data: `minimtnlg doctor` on each.
#    (`train` compares versions, configuration and data of all ranks when it starts.)
# 2. **Clocks.** Each GPU multiplies as fast as the others. `nvidia-smi -q -d CLOCK,PERFORMANCE` says
#    why one does not: heat, power, a limit that somebody set.
# 3. **Links inside.** `nvidia-smi topo -m` shows `NV` and a number between any two GPUs of a node,
#    `nvidia-smi nvlink --status` each wire.
# 4. **Links between.** `ibstat` shows each adapter as active, at its full rate. With
#    `NCCL_DEBUG=INFO` the log has to say `NET/IB`. If it says `NET/Socket`, everything goes through
#    the ordinary network, and nothing fails: it is only slow.
# 5. **Collectives.** An all-reduce inside nodes and between nodes reaches what the wires promise.
# 6. **Stragglers.** No rank is slower than the others at the same work.
# 7. **The job itself, for ten steps**, with its data and one checkpoint: tokens a second as planned?
#
# `scaling/probe.py` does 2, 5 and 6 in ten minutes, on any job that a launcher can start:
#
# `torchrun --nproc-per-node 8 scaling/probe.py`
#
# It has to compare with a promise. An all-reduce takes a time that depends on the number of ranks;
# the wire does not. So one divides what a rank *sends* by the time (lesson 06):
#
# $$\text{bus bandwidth} = \frac{2 (n-1)}{n} \cdot \frac{\text{bytes of the tensor}}{\text{seconds}}$$
#
# By hand: 256 MB among 8 GPUs of a node in 2 ms are $1.75 \cdot 256 / 2 = 224$ MB a millisecond, 224
# GB/s. NVLink of an A100 has 300 GB/s each way [S14], so this is 75 % of it. The same 2 ms among two
# GPUs would be 128 GB/s.

# %%
sys.path.insert(0, str(ROOT / "scaling"))
import probe

show(probe.add_up)
print(f"{'':18}{'TFLOP/s':>9}{'GB/s inside':>13}{'GB/s between nodes':>20}")
for gpu, (flops, near, far) in probe.PROMISED.items():
    print(f"{gpu:18}{flops:>9}{near:>13}{far:>20}")
assert 1.75 * 256e6 / 2e-3 == 224e9

# %% [markdown]
# ## You might think
#
# ### "The slow rank is the one that spends longest in the all-reduce"
#
# It sounds right: look at the profile of each rank, and take the one whose collectives take longest.
#
# Eight ranks do steps of equal work and then sum. Their work is sleep, of 0.2 s; rank 5 needs 0.25 s,
# so it has 80 % of the speed. Each rank measures its own work and its own time in the all-reduce.

# %%
WORK, SLOW, STEPS = 0.2, 5 % ranks, 5


def steps(slow_rank):
    """(seconds of work, seconds in the all-reduce, seconds of a step) of this rank, medians."""
    rank, x, times = dist.get_rank(), torch.zeros(1), []
    dist.all_reduce(x)
    for _ in range(STEPS):
        start = time.perf_counter()
        time.sleep(WORK / 0.8 if rank == slow_rank else WORK)
        worked = time.perf_counter()
        dist.all_reduce(x)
        done = time.perf_counter()
        times.append((worked - start, done - worked, done - start))
    return np.median(times, axis=0).tolist()


healthy, ill = (np.array(run(steps, ranks, slow)) for slow in (None, SLOW))
print(f"{'rank':6}{'work':>8}{'all-reduce':>12}{'step':>8}  seconds")
for rank, (work, waited, step_seconds) in enumerate(ill):
    print(f"{rank:<6}{work:>8.3f}{waited:>12.3f}{step_seconds:>8.3f}")
shortest = int(ill[:, 1].argmin())
assert shortest == SLOW == int(ill[:, 0].argmax())

# %%
fig, ax = plt.subplots(figsize=(7.5, 3))
ax.barh(range(ranks), ill[:, 0], color=COLOURS["sky"], edgecolor="black", lw=0.6, label="work (slept)")
wait = dict(color=COLOURS["orange"], hatch="///", edgecolor="black", lw=0.6)
ax.barh(range(ranks), ill[:, 1], left=ill[:, 0], label="in the all-reduce", **wait)
ax.axvline(healthy[:, 2].max(), color="black", ls="--", lw=1.2, label="step without the slow rank")
ax.set_yticks(range(ranks), [f"rank {r}" for r in range(ranks)])
ax.invert_yaxis()
ax.grid(axis="y", visible=False)
ax.set(xlabel="seconds of a step", title=f"The straggler, rank {SLOW}, waits least")
ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)
figure(
    fig,
    alt=f"Bars of {ranks} ranks: work, then time in the all-reduce. Rank {SLOW} works "
    f"{ill[SLOW, 0]:.3f} s and is {ill[SLOW, 1]:.3f} s in the all-reduce; the others work "
    f"{np.median(ill[:, 0]):.3f} s and wait {np.median(ill[:, 1]):.3f} s. A step without the slow "
    f"rank took {healthy[:, 2].max():.3f} s.",
)

# %% [markdown]
# It is the other way round. Everybody leaves the all-reduce at the same moment, so who came last has
# waited least. The **straggler** has the *shortest* time there. Seven healthy ranks look slow, and
# the profile of any single one of them says: the network is the problem.
#
# Therefore a probe lets each rank work by itself, without any collective, and compares.

# %% [markdown]
# ## Proof
#
# ### The launcher does not matter
#
# The same configuration on four ranks, started in three ways. First by `train` itself.

# %%
torch.set_num_threads(1)
SMALL = RECORDED / "17_slurm.yaml"
corpus = need("corpus")


def losses(folder):
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(row)["loss"] for row in rows]


train(load(SMALL, [f"data.path={corpus}"]), Path("runs/itself"), progress=False)
curves = {"started by train": losses(Path("runs/itself"))}

# %% [markdown]
# Then by `torchrun`, on two nodes. A node is where a launcher runs, so two launchers make two nodes,
# also on one machine. Both get the same address; `--node-rank` is the only thing in which their
# commands differ. On a cluster you would type this on each node, or let Slurm do it.

# %%
def launcher(node, port):
    """Start torchrun as one of two nodes."""
    command = ["-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={node}"]
    command += ["--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={port}"]
    command += ["-m", "minimtnlg", "train", SMALL, f"data.path={corpus}", "--out=runs/torchrun"]
    return subprocess.Popen(
        [sys.executable, *command],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


port, began = free_port(), time.perf_counter()
nodes = [launcher(node, port) for node in (0, 1)]
first = Path("runs/torchrun/metrics.jsonl")
while not (first.exists() and first.stat().st_size) and any(n.poll() is None for n in nodes):
    time.sleep(0.05)
start_up = time.perf_counter() - began
for node, process in enumerate(nodes):
    text = process.communicate(timeout=300)[0]
    assert process.returncode == 0, text
    print(f"node {node} wrote: {text.strip().splitlines()[0] if text.strip() else 'nothing'}")
curves["torchrun, two nodes"] = losses(Path("runs/torchrun"))
print(f"{start_up:.0f} s from the command to the end of the first step")

# %% [markdown]
# And by Slurm, from the recorded job whose log you saw.

# %%
rows = (RECORDED / "17_slurm_metrics.jsonl").read_text().splitlines()
curves["Slurm, two nodes (recorded)"] = [json.loads(row)["loss"] for row in rows]
reference = curves["started by train"]
for name, curve in curves.items():
    off = max(abs(a - b) for a, b in zip(curve, reference, strict=True))
    print(f"{name:30}{' '.join(f'{x:.6f}' for x in curve)}   differs by {off:.0e}")
    assert off < 1e-4
assert curves["torchrun, two nodes"] == reference

# %% [markdown]
# On one machine the losses are the same to the last bit: the same program got the same numbers in
# its environment. (The recorded ones come from another run, perhaps on another processor; with the
# layout alike, they differ in the last digits at most.)
#
# ### The probe finds the straggler
#
# Four ranks, which the probe takes for two nodes. Rank 2 does each matrix product eight times, as if
# its clock had fallen, so it has an eighth of the others' speed at most. On a laptop ranks share
# cores and memory, and rates scatter; we ask for those below half of the median.


# %%
class SlowChip(TorchDispatchMode):
    """Each matrix product is done eight times."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name == "aten::mm":
            for _ in range(7):
                func(*args)
        return func(*args, **(kwargs or {}))


def probed(seconds, nbytes):
    rank, hosts = dist.get_rank(), ["node0", "node0", "node1", "node1"]
    if rank == 2:
        with SlowChip():
            return probe.measure(hosts, rank, 2, seconds, nbytes)
    return probe.measure(hosts, rank, 2, seconds, nbytes)


kinds = run(probed, 4, 1, 4 * 2**20)[0]
print(probe.table(kinds))
print()
print("\n".join(kinds[0].slow(0.5)))
assert min(kinds[0].values, key=kinds[0].values.get) == "rank 2 on node1"

# %% [markdown]
# It is named, with its node. The sums and exchanges do not show it: it does them as fast as the
# others. They are there to find wires. Neighbours exchange a pair at a time; a bad wire shows in one
# pair, a bad rank in all of its pairs.
#
# With gloo nothing is promised, since the wire is this machine's memory. On GPUs the column holds
# what you saw in the table above. The probe ends with exit code 1 if somebody is below 0.8 of the
# median of its kind, or below half of the promise, so that a script can stop there. In a batch script
# that `minimtnlg launch` has written, take away the `#` before
#
# `#on_all_ranks python scaling/probe.py`
#
# The promise is that of a DGX. Machines with the same GPUs have been built with fewer wires; tell the
# probe yours with `--near` and `--far`, in GB/s each way of a GPU.

# %% [markdown]
# ## Cost
#
# ### One slow rank
#
# With times of work $w_1 \dots w_n$, a step takes as long as the longest, and the GPUs work for
# their mean. The part of the GPU hours that is lost is
#
# $$1 - \frac{\text{mean of } w_i}{\max w_i}.$$
#
# In the experiment above one rank had 80 % of the speed. How much speed did the job lose?

# %% tags=["predict"]
quick, slow = healthy[:, 2].max(), ill[:, 2].max()
lost = 100 * (1 - ill[:, 0].mean() / ill[:, 0].max())
print(f"a step took {quick:.3f} s, with the straggler {slow:.3f} s")
print(f"GPU time lost to waiting: {lost:.1f} %; by the formula with 0.2 and 0.25 s: ", end="")
print(f"{100 * (1 - ((ranks - 1) * 0.2 + 0.25) / ranks / 0.25):.1f} %")
measured(
    "percent_lost_to_one_rank",
    100 * (1 - quick / slow),
    unit="%",
    tell="Not 20 % of one rank in eight, but 20 % of all. In a job of 2240 it would be the same.",
)
assert abs(100 * (1 - quick / slow) - 20) < 12

# %% [markdown]
# With eight ranks or with thousands, the job has the speed of its slowest rank. The more ranks, the
# likelier is it that one of them is slow.
#
# ### Hours and money
#
# A cluster charges for GPUs, whether they compute or wait:
#
# $$\text{GPU hours} = n \cdot \frac{\text{steps} \cdot \text{seconds a step} + \text{starts} \cdot
# \text{seconds of a start}}{3600}.$$
#
# You measured one start, on this machine. On a cluster it takes minutes: processes load their
# libraries from a shared disk, thousands of connections are made. Suppose 5 minutes (an assumption):

# %%
gpus = MTNLG.world


def gpu_hours(n, seconds):
    return n * seconds / 3600


print(f"here: {start_up:.0f} s on 4 ranks, {gpu_hours(4, start_up):.3f} rank hours")
one_start = gpu_hours(gpus, 300)
probing = gpu_hours(gpus, 600)
day = gpu_hours(gpus, 86400)
for what, hours in (
    ("a start of 5 minutes", one_start),
    ("a probe of 10 minutes", probing),
    ("a day with a rank at 90 %", 0.1 * day),
    ("a night of 8 hours in which all ranks wait for one that hangs", gpu_hours(gpus, 8 * 3600)),
):
    dollars = hours * dollars_per_gpu_hour
    print(f"{gpus} GPUs, {what:62}{hours:8,.0f} GPU hours{dollars:9,.0f} dollars")
assert 0.1 * day > 14 * probing

# %% [markdown]
# The probe costs less than two hours of a slow rank. A job that hangs costs most of all, for it looks
# like one that works: therefore a watchdog ends it after minutes, and a script wakes somebody up.

# %% [markdown]
# ## MT-NLG
#
# ### Days or hours
#
# Three sizes of the cluster are published, with the time of an iteration [S1, S3]. How long would
# the 65 613 steps of the full batch have taken on each? (After the 12 billion tokens of the ramp,
# up to 270 billion; derived.)

# %%
full_steps = round((270e9 - 12e9) / (1920 * 2048))
PUBLISHED = {280: 60.1, 350: 50.2, 420: 44.4}  # nodes: seconds an iteration
days = {n: full_steps * s / 86400 for n, s in PUBLISHED.items()}
millions = {n: gpu_hours(8 * n, days[n] * 86400) / 1e6 for n in PUBLISHED}
print(f"{full_steps:,} steps")
print("nodes   s/step   days   million GPU hours   million dollars")
for n, seconds in PUBLISHED.items():
    cost = millions[n] * dollars_per_gpu_hour
    print(f"{n:5}{seconds:9}{days[n]:7.1f}{millions[n]:15.2f}{cost:18.1f}")
assert full_steps == 65613 and round(days[280], 1) == 45.6 and round(millions[280], 2) == 2.45

# %%
fig, ax = plt.subplots(figsize=(7, 3.4))
ax.plot(list(days.values()), list(millions.values()), ms=8)
for n in PUBLISHED:
    ax.annotate(f"{n} nodes", (days[n], millions[n]), (8, 6), textcoords="offset points")
ax.set(xlabel="days", ylabel="million GPU hours", xlim=(32, 49), ylim=(2.35, 2.85))
ax.set_title("More nodes: fewer days, and more GPU hours in all")
figure(
    fig,
    alt="Days against million GPU hours for the full-batch steps of MT-NLG, derived: "
    + ", ".join(f"{n} nodes {days[n]:.1f} days and {millions[n]:.2f} million" for n in PUBLISHED)
    + ".",
)
assert 0.25 < 1 - days[420] / days[280] < 0.27 and 0.1 < millions[420] / millions[280] - 1 < 0.12

# %% [markdown]
# More nodes do not only cost more an hour, they cost more in all: fewer micro-batches a replica, so
# a larger bubble (lesson 11). Time is bought with money, at a price that can be computed before.
#
# ### What it came to
#
# The DeepSpeed team wrote later: 3 months on over 2000 A100, and over 3 million GPU hours [S11,
# December 2021]. Our 2.45 million are without the ramp. In the ramp a batch has $B = 32, 64, \dots$
# sequences, so few micro-batches fill the pipeline: we let a step take $m + p - 1$ times as long as
# a micro-batch, with $m = B/8$, and scale it by the 60.1 s at $m = 240$.

# %% tags=["predict"]
ramp_samples, stages = 12e9 / 2048, 35
ramp = 0.0
for batch in range(32, 1920, 32):
    steps_of_it = ramp_samples / 59 / batch
    ramp += gpu_hours(gpus, steps_of_it * 60.1 * (batch / 8 + stages - 1) / (240 + stages - 1))
print(f"ramp, 4 % of the tokens: {ramp / 1e6:.2f} million GPU hours")
print(f"both: {millions[280] + ramp / 1e6:.2f} million")
assert 0.15e6 < ramp < 0.18e6
measured(
    "million_dollars",
    3 * dollars_per_gpu_hour,
    unit="million dollars",
    tell=f"At {dollars_per_gpu_hour:g} dollars an hour, an assumption. What was paid is not public.",
)

# %% [markdown]
# The published sum is higher, by a tenth or more. What the rest went into is not published. It can be
# starts and restarts, evaluation, checkpoints, steps that were computed twice, other numbers of nodes.
# On 2240 GPUs, 3 million hours are 56 days and not three months: so on the other days something else
# happened, or nothing.

# %%
print(f"{3e6 / gpus / 24:.0f} days")
assert round(3e6 / gpus / 24) == 56

# %% [markdown]
# ### What a probe of Selene should have found
#
# Its nodes have eight A100 with 312 TFLOP/s in 16 bits, and eight adapters of 200 Gb/s [S3, sec.
# 2.3]: 25 GB/s a GPU. NVLink has 300 GB/s each way [S14], not confirmed for MT-NLG. The probe sums
# inside nodes as the tensor groups do, and between nodes among GPUs of the same number, as the data
# groups do:

# %%
tensor, between = MTNLG.links("tp"), MTNLG.links("dp")
print(f"tensor groups: {tensor[0]} links inside nodes at 300 GB/s, {tensor[1]} between")
print(f"data groups: {between[0]} links inside nodes, {between[1]} between at 25 GB/s")
k = 2 * 2048 * 20480  # bytes of an activation (lesson 12)
at_best = 2 * 7 / 8 * k / 300e9
print(f"an activation of {k / 1e6:.0f} MB, summed among 8 GPUs: {at_best * 1e3:.2f} ms at best")

mine = my_rank()
node, gpu = MTNLG.node(mine)
print(f"\nyour rank {mine}: node {node}, LOCAL_RANK {gpu}; its lines begin with '{mine}: '")
assert node * 8 + gpu == mine

# %% [markdown]
# And if your GPU ran at 90 % of its speed? Its tensor group would wait for it in each layer, the next
# stage for that group, all replicas for that pipeline: a tenth of 2240 GPUs lost, and every rank but
# yours would look slow.

# %% [markdown]
# ## Check yourself
#
# 1. A job asks for 4 nodes of 8 GPUs. What are `RANK`, `LOCAL_RANK` and `WORLD_SIZE` of GPU 3 on node
#    2, and on which node is the store?
#
# <details><summary>Answer</summary>
#
# `RANK` is $2 \cdot 8 + 3 = 19$, `LOCAL_RANK` 3, `WORLD_SIZE` 32. The store is on node 0, where rank 0
# runs; `MASTER_ADDR` and `MASTER_PORT` say where.
#
# </details>
#
# 2. The script's last line is `python -m minimtnlg train ...` instead of `srun ... python -m minimtnlg
#    train ...`. The layout needs 32 ranks on four nodes. What happens?
#
# <details><summary>Answer</summary>
#
# The script runs on the first node only, so one process starts there and no other. The other three
# nodes idle, and are paid for. Without a launcher, `train` starts all 32 ranks by itself on the one
# node, or refuses the model as too large for it.
#
# </details>
#
# 3. An all-reduce among the 8 GPUs of a node takes as long as it should. Among the GPUs with the same
#    number on 16 nodes it reaches a tenth of what the wire promises, in all groups alike. What do you
#    suspect?
#
# <details><summary>Answer</summary>
#
# All groups alike is no straggler. The bytes take another way: the ordinary network instead of
# InfiniBand. The log says so with `NCCL_DEBUG=INFO`: `NET/Socket` instead of `NET/IB`. Comparing with
# the median would not have found it; comparing with the promise does.
#
# </details>
#
# 4. In a profile, rank 17 spends 2 % of a step in collectives, all others 15 %. Which rank do you look
#    at, and how do you make sure?
#
# <details><summary>Answer</summary>
#
# Rank 17: it comes last and waits least. To make sure, let each rank compute alone, without any
# collective, and compare: that is what the probe's products do.
#
# </details>
#
# 5. A job on 280 nodes has been at step 4000 for two hours. No error, all GPUs at 100 %. What has
#    happened, and what did it cost?
#
# <details><summary>Answer</summary>
#
# A collective waits for a rank that does not come. A GPU that waits in NCCL shows as busy, so its use
# tells nothing. The rank to look for is the one that is *not* in the collective. Two hours of 2240
# GPUs are $2 \cdot 2240 = 4480$ GPU hours.
#
# </details>

# %% [markdown]
# ## Exercises
#
# Read the log of any failed job: find the rank that broke it, among hundreds of lines of ranks that
# only noticed.
#
# Between a laptop and 280 nodes the program stays; a script tells it where it is. The rest is care:
# compare each rank with the others and each wire with its promise, before you pay for all of them.
