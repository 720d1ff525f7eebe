# ---
# question: Do Megatron-Core and DeepSpeed compute what the engine of this course computes, and what
#   do they do that it does not?
# needs: [layout, rank, process group, collective, micro-batch, number format, bucket, overlap,
#   ZeRO, activation checkpointing, f and g, row-parallel, sequence parallelism, stage, schedule,
#   node]
# introduces:
#   engine: "The program that computes the steps of a run, which are model, passes, communication
#     and update, and leaves files, configuration and logs to others."
#   adapter: "Code that turns the words, weights and inputs of one program into those of another,
#     and computes nothing itself."
#   parity: "What two engines have if the same weights and batches give the same losses, gradient
#     norms and weights in both, but for the order of additions."
# proves: "Losses, norms and weights of a run by Megatron-Core and DeepSpeed are those of the
#   course's engine."
# minutes: 40
# seconds: 60
# requires: [megatron, deepspeed]
# ---

# %% [markdown]
# # The real engines
#
# In lessons 07 to 12 you have taken a training step apart and built it again, small enough to read.
# MT-NLG was trained with two other programs, Megatron-LM and DeepSpeed. Their heirs are in wide
# use.
#
# Both run on a laptop, too. So we can ask them. At the end you have seen the same run three times,
# you can read the calls of all three programs side by side, and you know what a comparison of two
# loss curves proves, and what it does not.

# %% [markdown]
# ## Question
#
# An **engine** computes the steps of a run. Ours has the name `mini`. What are the others?

# %%
import dataclasses
import functools
import json
import os
import statistics
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

# Nothing here is compiled. Without its compiler torch loads the engines in half the time.
os.environ["TORCHDYNAMO_DISABLE"] = "1"

from minimtnlg import engines, run
from minimtnlg.config import load, preset, sized
from minimtnlg.course.check import measured, predict
from minimtnlg.course.need import need
from minimtnlg.course.rank import MTNLG, my_rank
from minimtnlg.course.show import figure, show
from minimtnlg.data.batches import Batch
from minimtnlg.device import device, synchronize
from minimtnlg.engines import deepspeed, megatron
from minimtnlg.model.convert import from_megatron_name, megatron_name
from minimtnlg.parallel.collectives import Recorder
from minimtnlg.parallel.layout import Layout
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.train.checkpoint import load_run
from minimtnlg.train.mini import Mini
from minimtnlg.train.ramps import learning_rate
from minimtnlg.train.trainer import train

ENGINES = {"mini": "ours", "megatron": "Megatron", "deepspeed": "DeepSpeed"}
PACKAGES = {"ours": "minimtnlg", "Megatron": "megatron-core", "DeepSpeed": "deepspeed"}
FOLDERS = {"ours": "minimtnlg", "Megatron": "megatron.core", "DeepSpeed": "deepspeed"}


def lines_of_python(package):
    """Lines in all Python files below a package, comments and blank lines included."""
    folder = Path(find_spec(package).submodule_search_locations[0])
    return sum(len(file.read_bytes().splitlines()) for file in folder.rglob("*.py"))


for name, package in PACKAGES.items():
    lines = lines_of_python(FOLDERS[name])
    print(f"{name:10} {package} {version(package):10} {lines:>8,} lines of Python")

# %% [markdown]
# The line of ours counts this course, its data tools and its trainer; the engine alone is much
# less.
#
# **Do Megatron-Core and DeepSpeed compute what the engine of this course computes, and what do they
# do that it does not?**

# %% tags=["parameters"]
steps: int = 10  # of each run
times: int = 3  # how often each engine is timed

# %% [markdown]
# ## Predict
#
# Type your guess in place of `None`, then run the cell.
#
# 1. Three engines train the same model on the same batches, on four ranks, in fp32. In how many
#    leading digits do their losses agree, at least?
# 2. In one step of such a run a rank on the last stage calls a collective or a transfer 60 times,
#    with our engine. How often does it with DeepSpeed?
# 3. In one experiment two engines agree in all losses, to about seven digits. The largest weights
#    are near 1. How far apart is the weight in which they differ most?

# %%
predict("digits_that_agree", None)
predict("calls_of_deepspeed", None)
predict("weights_behind_equal_losses", None, choices=["1e-7", "1e-5", "1e-3"])

# %% [markdown]
# ## Trouble
#
# We take the weights of our model and give them to Megatron's. Only the names have to be changed.
# To its configuration we give the sizes that it asks for, and switch dropout off.

# %%
SIZES = ["model.layers=4", "model.hidden=64", "model.heads=4", "model.seq=64", "train.ramp=null"]
BATCH = ["train.global_batch=8", "train.micro_batch=2"]
RATE = ["optim.lr=1e-2", "optim.min_lr=1e-3", "optim.warmup_tokens=2048", "optim.eps=1e-3"]
OURS = {  # Megatron's words, and ours
    "decoder.layers": "blocks",
    "input_layernorm": "attention_norm",
    "self_attention.linear_qkv": "attention.qkv",
    "self_attention.linear_proj": "attention.out",
    "pre_mlp_layernorm": "mlp_norm",
    "mlp.linear_fc1": "mlp.up",
    "mlp.linear_fc2": "mlp.down",
    "embedding.word_embeddings": "embedding",
    "embedding.position_embeddings": "position",
    "decoder.final_layernorm": "norm",
}


def our_name(name):
    """ "decoder.layers.3.mlp.linear_fc1.weight" -> "blocks.3.mlp.up.weight"."""
    for theirs, ours in OURS.items():
        name = name.replace(theirs, ours)
    return name


def random_batch(config, mesh):
    """The micro-batches of this rank's replica; all replicas together have one global batch."""
    shape = config.train.global_batch, config.model.seq + 1
    ids = torch.randint(config.model.vocab, shape, generator=torch.Generator().manual_seed(1))
    mine = ids.to(device()).split(config.train.micro_batch)[mesh.place.dp :: mesh.layout.dp]
    return [Batch(x[:, :-1], x[:, 1:], torch.ones_like(x[:, 1:], dtype=torch.float)) for x in mine]


@torch.no_grad()
@megatron.on_device  # on a CPU its "cuda" means the CPU; on a GPU nothing is changed
def first_losses(config, weights, batches, choices):
    """Megatron's mean loss on `batches` with our `weights`, for each choice of its settings."""
    from megatron.core import parallel_state, tensor_parallel
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.transformer import TransformerConfig

    parallel_state.initialize_model_parallel()
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    losses = []
    for others in choices:
        settings = TransformerConfig(
            num_layers=config.model.layers,
            hidden_size=config.model.hidden,
            num_attention_heads=config.model.heads,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            use_cpu_initialization=True,
            **others,
        )
        model = GPTModel(
            settings,
            get_gpt_layer_local_spec(),
            vocab_size=config.model.vocab,
            max_sequence_length=config.model.seq,
            share_embeddings_and_output_weights=True,
        ).to(device())
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[our_name(name)])
        each = []
        for batch in batches:
            positions = torch.arange(config.model.seq, device=device()).expand_as(batch.tokens)
            each.append(model(batch.tokens, positions, None, labels=batch.labels).mean())
        losses.append(torch.stack(each).mean().item())
    return losses


torch.set_num_threads(1)  # this process computes like a rank
small = sized(load("nano", [*SIZES, *BATCH, *RATE]))
mini = Mini(small, Mesh())
batches, weights = random_batch(small, Mesh()), mini.state()
TANH = {"activation_func": functools.partial(F.gelu, approximate="tanh")}
left_alone, with_tanh = run(first_losses, 1, small, weights, batches, [{}, TANH])[0]
ours = mini.evaluate(batches)
apart = abs(left_alone - ours)
print(f"ours      {ours:.7f}")
print(f"Megatron  {left_alone:.7f}")
print(f"differs by {apart:.1e}, {apart / ours:.0e} of it; fp32 has a number every "
      f"{np.spacing(np.float32(ours)):.1e}")  # fmt: skip
assert 0 < apart / ours < 1e-5
assert all(our_name(megatron_name(name)) == name for name in weights)

# %% [markdown]
# All names are there, all shapes fit, no error, no warning, and a loss that agrees to about one
# millionth.
#
# Is the rest rounding, or is something wrong? From this number alone nobody can tell.

# %% [markdown]
# ## Idea
#
# ### How large is rounding here?
#
# That we can measure with our own engine alone. The same global batch in micro-batches of one, two
# and eight sequences is the same sum in another order (lesson 04). We take ten steps each way. A
# loss is compared relative to itself, a weight by its difference, as weights are near 1 at most.


# %%
def trained(engine, batches):
    """(losses, gradient norms, weights) of some steps, all on the same batch."""
    told = np.array([engine.step(batches, small.optim.lr, number) for number in range(steps)])
    return told[:, 0], told[:, 1], engine.state()


def furthest(weights, others):
    """(largest difference of a weight, the name of its parameter)."""
    return max(((weights[name] - others[name]).abs().max().item(), name) for name in weights)


def with_micro_batch(b):
    config = sized(load("nano", [*SIZES, *BATCH, *RATE, f"train.micro_batch={b}"]))
    return trained(Mini(config, Mesh()), random_batch(config, Mesh()))


LIMIT = 2e-6  # how far apart we let them be
reference = with_micro_batch(2)
print("micro-batch      losses     norms   weights    differ at most by")
for b in (1, 8):
    other = with_micro_batch(b)
    apart = [np.abs(x / y - 1).max() for x, y in zip(other[:2], reference[:2], strict=True)]
    apart.append(furthest(other[2], reference[2])[0])
    print(f"{b:>11}" + "".join(f"{x:>10.0e}" for x in apart))
    assert max(apart[0], apart[2]) < LIMIT > apart[1] / 10
print(f"largest weight: {max(x.abs().max() for x in reference[2].values()):.2f}\n")

every = [x.flatten() for x in reference[2].values()]
exact = torch.cat(every).double().norm()
for how, norm in (
    ("in one sum", torch.cat(every).norm()),
    ("parameter by parameter", torch.stack([x.norm() for x in every]).norm()),
):
    error = abs(norm.item() / exact.item() - 1)
    print(f"norm of all {sum(map(len, every)):,} weights, {how:23} off by {error:.0e}")
    assert error < 10 * LIMIT

# %% [markdown]
# Losses and weights stay within $2 \cdot 10^{-6}$ for some steps. (The difference grows, as each
# step builds on the one before.) A norm is a sum of so many squares that the order alone makes more
# of a difference; it gets ten times as much.
#
# We say that two engines have **parity** if they start from the same weights, get the same batches,
# and differ by no more than that, in a run of several steps. A first loss is a single number, made
# before any gradient. Megatron's above lies within the limit. And yet:

# %%
for what, loss in (("left alone", left_alone), ("with the tanh form of GeLU", with_tanh)):
    print(f"Megatron {what:27} differs by {abs(loss / ours - 1):.0e}")
assert abs(with_tanh / ours - 1) < abs(left_alone / ours - 1) / 2

# %% [markdown]
# GeLU has two forms, one with the error function and one with tanh. Ours is the tanh form;
# Megatron's configuration, left alone, takes the other. Both are fine models. But they are two
# models, and we will see how far apart they are after ten steps.
#
# ### What an adapter translates
#
# Four things go into an engine, three come out:
#
# - **words**: the configuration, with every default that is not ours;
# - **weights**: names, numbers of layers, and which slice of which matrix;
# - **batches**, in their order, and the sum that is a *loss*: here, the mean over all unmasked
#   tokens of the global batch;
# - the **learning rate** of the step.
#
# Out come the loss, the norm of the gradients before clipping, and the weights. An **adapter** is
# the code for this. The trainer sees only these, so that corpus, batch ramp, log and files are the
# same for all engines.
#
# What the engines share proves nothing about it. So it matters who does what:

# %%
PARTS = {  # ours, Megatron, DeepSpeed, as adapted here
    "layers, loss": ("ours", "Megatron", "ours"),
    "tensor parallelism": ("ours", "Megatron", "ours"),
    "pipeline": ("ours", "Megatron", "DeepSpeed"),
    "replicas, ZeRO": ("ours", "Megatron", "DeepSpeed"),
    "norm, clipping": ("ours", "Megatron", "DeepSpeed"),
    "update of Adam": ("PyTorch", "PyTorch", "PyTorch"),
    "reading the corpus": ("ours", "Megatron", "ours"),
    "initial weights": ("ours", "ours", "ours"),
    "learning rate, log": ("ours", "ours", "ours"),
}
LOOKS = {"ours": "#eeeeee", "Megatron": "#A6D5F2", "DeepSpeed": "#F6D58E", "PyTorch": "white"}
fig, ax = plt.subplots(figsize=(7.5, 4))
for row, owners in enumerate(PARTS.values()):
    for column, owner in enumerate(owners):
        box = dict(facecolor=LOOKS[owner], edgecolor="black", lw=0.6)
        ax.add_patch(plt.Rectangle((column, row), 1, 1, **box))
        ax.text(column + 0.5, row + 0.5, owner, ha="center", va="center", fontsize=10)
ax.set(xlim=(0, 3), ylim=(len(PARTS), 0), title="Who does what in a run of each engine")
ax.set_xticks([0.5, 1.5, 2.5], [f"--engine {name}" for name in ENGINES])
ax.set_yticks(np.arange(len(PARTS)) + 0.5, PARTS)
ax.xaxis.tick_top()
ax.tick_params(length=0)
ax.grid(False)
figure(
    fig,
    alt="A table of parts of a run and who does them for each engine. "
    + "; ".join(f"{part}: {', '.join(owners)}" for part, owners in PARTS.items())
    + ".",
)

# %% [markdown]
# Megatron brings everything but the initial weights, the learning rate and the log. (The update is
# PyTorch's in all of them here; with its GPU extensions installed, Megatron takes a kernel of
# NVIDIA's.) DeepSpeed leaves layers and tensor parallelism to its user. It gets ours, as in 2021 it
# got Megatron's.
#
# ### A gradient that is nothing but rounding
#
# Here is a trap for whoever compares weights. Attention takes the softmax of $q_i \cdot (k_j + b)$
# over all positions $j$, with $b$ the bias of the keys. As
#
# $$q_i \cdot (k_j + b) = q_i \cdot k_j + q_i \cdot b,$$
#
# the bias adds the same number to all $j$, and softmax does not see it. So the gradient of $b$ is
# exactly zero. In fp32 it is what is left over from rounding, say $10^{-9}$, and each engine has
# its own. Then comes Adam. Its first update is
#
# $$\Delta = \eta\,\frac{g}{|g| + \epsilon}.$$
#
# With small numbers, $\eta = 10^{-2}$:

# %%
lr = 1e-2
print(f"{'gradient':>10} {'epsilon':>9} {'update':>9}")
for gradient in (1e-2, 1e-9):
    for epsilon in (1e-8, 1e-3):
        update = lr * gradient / (gradient + epsilon)
        print(f"{gradient:>10.0e} {epsilon:>9.0e} {update:>9.0e}")
assert lr * 1e-9 / (1e-9 + 1e-8) > 9e-4 and lr * 1e-9 / (1e-9 + 1e-3) < 2e-8

# %% [markdown]
# With $\epsilon = 10^{-8}$, the usual value, Adam makes an update of $10^{-3}$ out of noise. With
# $10^{-3}$ the noise stays noise, and real gradients still move the weights. Therefore $\epsilon$
# is $10^{-3}$ in the experiments of this lesson, unless they say otherwise.

# %% [markdown]
# ## Code
#
# ### Words
#
# One configuration in three dialects. Megatron-Core has dataclasses; the command line of today's
# Megatron-LM has the same words with dashes [S10]. DeepSpeed has a JSON file, and classes that are
# told the rest. These are the real objects:

# %%
CUT = ["parallel.tp=2", "parallel.pp=2", "parallel.zero=1"]
job = sized(load("nano", [*SIZES, *BATCH, *RATE, *CUT]))
DIALECTS = (  # section, our word, Megatron-LM's flag, where DeepSpeed has it
    ("parallel", "tp", "--tensor-model-parallel-size", "num_mp of its topology"),
    ("parallel", "pp", "--pipeline-model-parallel-size", "num_pp of its topology"),
    ("parallel", "zero", "--use-distributed-optimizer", "zero_optimization.stage"),
    ("model", "layers", "--num-layers", "layers of PipelineModule"),
    ("model", "hidden", "--hidden-size", "of the model"),
    ("model", "heads", "--num-attention-heads", "of the model"),
    ("model", "seq", "--seq-length", "of the model"),
    ("train", "micro_batch", "--micro-batch-size", "train_micro_batch_size_per_gpu"),
    ("train", "global_batch", "--global-batch-size", "train_batch_size"),
    ("optim", "clip", "--clip-grad", "gradient_clipping"),
)


def dialects(config):
    for section, word, flag, key in DIALECTS:
        value = getattr(getattr(config, section), word)
        print(f"{section + '.' + word:19} {value:>6}   {flag:31} {key}")


dialects(job)
theirs = megatron.settings(job)
fields = dataclasses.fields(theirs)
unset = dataclasses.MISSING
own = [x.name for x in fields if x.default is not unset and getattr(theirs, x.name) != x.default]
print(f"\nMegatron's TransformerConfig has {len(fields)} fields, {len(own)} not at their default:")
for i in range(0, len(own), 3):
    print("  " + ", ".join(own[i : i + 3]))
assert theirs.tensor_model_parallel_size == theirs.pipeline_model_parallel_size == 2
assert "activation_func" in own and len(fields) > 200

# %%
print(json.dumps(deepspeed.settings(job), indent=1))

# %% [markdown]
# DeepSpeed's file is short, because what concerns the model is in none of its words: it is in
# Python. (One accumulation step is where it begins; the adapter tells it the number of
# micro-batches at every step, since the batch may grow.) Where MT-NLG was put together, both
# dialects were spoken at once [S9].
#
# ### Names
#
# Now four ranks, two slices by two stages. Each engine is built in the same ranks, one after the
# other, and takes two steps. The recorder of lesson 06 lists what goes through PyTorch's
# communication, and does not care who calls.


# %%
def local_names(engine):
    """{our name: (the engine's own name, shape)} of all parameters of this rank."""
    ours = {id(x): name for name, x in getattr(engine, "parameters", {}).items()}
    if isinstance(engine, Mini):
        found = list(engine.model.named_parameters())
    elif hasattr(engine, "chunks"):
        found = [pair for chunk in engine.chunks for pair in chunk.named_parameters()]
    else:
        found = list((engine.pipeline or engine.stage).named_parameters())
    return {ours.get(id(x), name): (name, tuple(x.shape)) for name, x in found}


def side_by_side(config):
    """{engine: (its names, its calls in step 1, in step 2, what step 2 returned)} of this rank."""
    p = config.parallel
    mesh = Mesh(Layout(tp=p.tp, pp=p.pp, dp=p.dp))
    batches, seen = random_batch(config, mesh), {}
    for name, title in ENGINES.items():
        engine = engines.named(name)(config, mesh)
        names = local_names(engine)
        with Recorder() as first:
            engine.step(batches, config.optim.lr, 1)
        with Recorder() as second:
            told = engine.step(batches, config.optim.lr, 2)
        seen[title] = names, first, second, told
    return seen


ranks = run(side_by_side, 4, job)
last = ranks[-1]
names = {title: last[title][0] for title in ENGINES.values()}
print("the last rank: slice 1 of stage 1\n")
for name in names["ours"]:
    if "blocks.2" in name and "norm" not in name or name in ("embedding.weight", "norm.weight"):
        (other, shape), (third, _) = (names[title].get(name) for title in ("Megatron", "DeepSpeed"))
        print(f"{name:32} {shape}\n    {other}\n    {third}")
assert names["Megatron"]["blocks.2.mlp.up.weight"][0] == "decoder.layers.0.mlp.linear_fc1.weight"

# %% [markdown]
# Megatron counts the layers of each stage anew: its layer 0 here is our block 2. And the copy of
# the embedding on the last stage, which makes the logits, has another name, `output_layer`. In
# DeepSpeed all names begin with `tied_modules`, since both stages are ends of its pipeline, which
# share the embedding; the rest of the name is ours. Whoever moves weights by name alone puts layer
# 0 of Megatron's stage 1 where layer 0 of stage 0 belongs, and all shapes fit.
#
# The package has the names in one place, and the adapter sees to the number of the layer:

# %%
show(from_megatron_name)

# %% [markdown]
# ### Calls
#
# What did this rank call in its second step? First in each engine's own words.

# %%
for title, (_, _, second, told) in last.items():
    print(f"{title}: {len(second.calls)} calls; loss {told[0]:.7f}, norm {told[1]:.7f}")
    print("  groups:", *sorted({call.group for call in second.calls}), sep="\n    ")

# %% [markdown]
# Our groups are named after the axis, Megatron's after their use. DeepSpeed's have no names, so the
# recorder prints their ranks. With a dictionary the tables can be put side by side:

# %%
layout = Layout(tp=2, pp=2)
AXES = {"tp": "tensor", "pp": "pipeline", "dp": "data", "all": "all ranks"}
THEIRS = {
    "TENSOR_MODEL_PARALLEL_GROUP": "tp",
    "PIPELINE_MODEL_PARALLEL_GROUP": "pp",
    "EMBEDDING_GROUP": "pp",
    "ends": "pp",
    "DATA_PARALLEL_GROUP_WITH_CP": "dp",
}


def axis_of(call, rank):
    """The axis of a recorded call, by the name of its group, or by its ranks."""
    if call.operation in ("send", "receive"):
        return "pp"  # DeepSpeed sends in the group of all ranks
    ranks_of = {",".join(map(str, layout.group(rank, axis))): axis for axis in ("tp", "pp", "dp")}
    return (THEIRS | ranks_of | {axis: axis for axis in AXES}).get(call.group, "all")


def summed(calls, rank):
    """{(axis, operation): (number of calls, bytes that this rank sends on a ring)}."""
    sums = {}
    for call in calls:
        key = axis_of(call, rank), call.operation
        number, sent = sums.get(key, (0, 0))
        sums[key] = number + 1, sent + call.wire_bytes
    return sums


def table(rank):
    sums = {title: summed(seen[2].calls, rank) for title, seen in ranks[rank].items()}
    keys = sorted(set().union(*sums.values()), key=lambda key: (list(AXES).index(key[0]), key[1]))
    print(f"{'':28}" + "".join(f"{title:^18}" for title in sums))
    print(f"{'axis':12}{'operation':16}" + f"{'calls':>9}{'kB':>9}" * len(sums))
    for key in keys:
        row = [one.get(key, ("", None)) for one in sums.values()]
        cells = [f"{n:>9}{'' if kB is None else f'{kB / 1e3:.1f}':>9}" for n, kB in row]
        print(f"{AXES[key[0]]:12}{key[1]:16}" + "".join(cells))
    return sums


calls = table(rank=3)

# %% [markdown]
# Most rows agree in their bytes, some to the last one. Row by row, what differs?
#
# - **Sums in layers.** The same in all three, but for the loss over a cut vocabulary: Megatron sums
#   three times a micro-batch, ours twice, as it sends the label's logit and the sum of exponentials
#   together (lesson 09). DeepSpeed has our layers.
# - **Between stages.** An activation is the same on both slices. Ours sends half of it and puts it
#   together over there (lesson 12). DeepSpeed does so, too, but sends a message with the shape
#   before each half. Megatron-Core sends all of it.
# - **Groups of one.** With one replica there is nothing to sum. We make no call. Megatron and
#   DeepSpeed make theirs, for a library that returns at once: zero bytes.
# - **The norm.** Ours sums it over slices, then over stages; they do it once, over all ranks.
#   DeepSpeed asks one more time, whether any gradient has overflowed.
# - **The loss** is told to all stages by one broadcast. Megatron tells them the number of tokens,
#   too, by which each divides its gradients.

# %%
m = job.train.global_batch // job.train.micro_batch
tensor = {title: one["tp", "all_reduce"] for title, one in calls.items()}
assert tensor["Megatron"][0] - tensor["DeepSpeed"][0] == m
assert tensor["ours"][0] - tensor["DeepSpeed"][0] == 1  # the norm
sent = {title: one["pp", "send"] for title, one in calls.items()}
half = m * 4 * job.train.micro_batch * job.model.seq * job.model.hidden / 2
assert sent["ours"] == (m, half) and sent["Megatron"] == (m, 2 * half)
assert sent["DeepSpeed"][0] == 2 * m and half < sent["DeepSpeed"][1] < 1.01 * half
assert all(calls[title]["dp", "all_reduce"][1] == 0 for title in ("Megatron", "DeepSpeed"))
assert ("dp", "all_reduce") not in calls["ours"]

# %% [markdown]
# The first rank shows one thing more.

# %%
first = table(rank=0)
gathers = {title: one.get(("tp", "all_gather"), (0, 0))[0] for title, one in first.items()}
assert gathers == {"ours": m, "Megatron": 0, "DeepSpeed": 2 * m}
once = len(ranks[0]["DeepSpeed"][1].calls) - len(ranks[0]["DeepSpeed"][2].calls)
print(f"\nDeepSpeed's first step has {once} call more than its second")
assert once == 1

# %% [markdown]
# DeepSpeed gathers twice as often on the first stage. It keeps only its half of an output until
# backward comes, then puts it together again: that saves memory, for a call. (Ours has freed the
# output after sending it, and keeps only where in the graph to go on, lesson 11.) And in its first
# step it sends once which shapes are to come. Ours knows them from the configuration.

# %% tags=["predict"]
print({title: len(seen[2].calls) for title, seen in last.items()})
assert len(last["ours"][2].calls) == 60
measured(
    "calls_of_deepspeed",
    len(last["DeepSpeed"][2].calls),
    unit="calls",
    tell="Shapes with each message, and sums in groups of one.",
)

# %% [markdown]
# ## You might think
#
# ### "The losses agree, so the engines agree"
#
# We compare Megatron with our engine in four ways, always on the same batch:
#
# - with nothing forgotten;
# - with the GeLU of above, left at Megatron's default;
# - with Adam's $\beta_2$ left at Megatron's default of 0.999, where ours has MT-NLG's 0.95;
# - with nothing forgotten, but $\epsilon = 10^{-8}$ in both.


# %%
EXACT = {"activation_func": F.gelu, "bias_activation_fusion": False}
CASES = {  # epsilon of both, an override for Megatron alone, fields of its TransformerConfig
    "nothing forgotten": ("1e-3", [], {}),
    "GeLU forgotten": ("1e-3", [], EXACT),
    "beta2 forgotten": ("1e-3", ["optim.beta2=0.999"], {}),
    "epsilon 1e-8 in both": ("1e-8", [], {}),
}


def compared():
    """{case: (what our engine did, what Megatron did)}, each as from `trained`."""
    mesh, translate, results = Mesh(Layout()), megatron.settings, {}

    def forgetful(config, fields):
        theirs = translate(config)
        for name, value in fields.items():
            setattr(theirs, name, value)
        return theirs

    def some_steps(engine, epsilon, more=()):
        config = sized(load("nano", [*SIZES, *BATCH, *RATE, f"optim.eps={epsilon}", *more]))
        return trained(engine(config, mesh), random_batch(config, mesh))

    ours = {epsilon: some_steps(Mini, epsilon) for epsilon in ("1e-3", "1e-8")}
    for case, (epsilon, more, fields) in CASES.items():
        megatron.settings = functools.partial(forgetful, fields=fields)
        results[case] = ours[epsilon], some_steps(megatron.Megatron, epsilon, more)
    return results


sides = run(compared, 1)[0]
print(f"{'':21}{'loss of step':^32}{'weight':>9}  furthest apart in")
print(f"{'':21}" + "".join(f"{number:>8}" for number in (1, 2, 3, steps)))
off, worst = {}, {}
for case, (mine, theirs) in sides.items():
    off[case] = np.abs(theirs[0] / mine[0] - 1)
    worst[case] = furthest(mine[2], theirs[2])
    cells = "".join(f"{off[case][i]:>8.0e}" for i in (0, 1, 2, steps - 1))
    print(f"{case:21}{cells}{worst[case][0]:>9.0e}  {worst[case][1]}")

# %%
def key_biases(weights):
    """{name: its part that belongs to keys} of all QKV biases; rows are [heads, 3, h/a]."""
    shape = small.model.heads, 3, small.model.head_size
    return {name: x.view(shape)[:, 1] for name, x in weights.items() if name.endswith("qkv.bias")}


def without_key_biases(weights):
    rest = {name: x.clone() for name, x in weights.items()}
    for part in key_biases(rest).values():
        part.zero_()
    return rest


mine, theirs = (side[2] for side in sides["epsilon 1e-8 in both"])
noise = furthest(key_biases(mine), key_biases(theirs))[0]
rest = furthest(without_key_biases(mine), without_key_biases(theirs))[0]
print(f"epsilon 1e-8: key biases {noise:.0e} apart, all others {rest:.0e}")

# %% tags=["predict"]
fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.8), width_ratios=(3, 2))
for case, difference in off.items():
    left.semilogy(np.arange(1, steps + 1), np.maximum(difference, 1e-8), label=case)
left.axhline(LIMIT, color="black", ls=":", marker="", lw=1, label="limit of parity")
left.set(xlabel="step", ylim=(5e-9, 1), title="How far the losses are apart")
left.set_ylabel("relative difference (equal: 1e-8)")
left.legend(fontsize=8, loc="upper left")
for row, (case, (difference, _)) in enumerate(worst.items()):
    right.plot(difference, row, ls="", ms=9)
    right.text(3e-6, row - 0.3, f"{case}: {difference:.0e}", fontsize=9)
right.axvline(LIMIT, color="black", ls=":", marker="", lw=1)
right.set(xscale="log", xlim=(1e-8, 1e-1), ylim=(len(worst) - 0.5, -0.7))
right.set(yticks=[], xlabel="largest difference of a weight")
right.set_title(f"and the weights, after {steps} steps")
fig.tight_layout()
figure(
    fig,
    alt=f"Left: relative difference of the losses of Megatron and our engine over {steps} steps, "
    "on a log scale, from the first to the last step: "
    + ", ".join(f"{case} {d[0]:.0e} to {d[-1]:.0e}" for case, d in off.items())
    + ". Right: the largest difference of a weight after them: "
    + ", ".join(f"{case} {d:.0e}" for case, (d, _) in worst.items())
    + f". A dotted line marks the limit of parity, {LIMIT:.0e}.",
)
assert max(off["nothing forgotten"]) < LIMIT > worst["nothing forgotten"][0]
assert off["GeLU forgotten"][0] < LIMIT < 1e-5 < off["GeLU forgotten"][-1]
assert max(off["beta2 forgotten"][:2]) < 3e-7 and off["beta2 forgotten"][2] > 1e-5
assert max(off["epsilon 1e-8 in both"]) < LIMIT and noise > 1e-4
measured(
    "weights_behind_equal_losses",
    min(("1e-7", "1e-5", "1e-3"), key=lambda x: abs(np.log10(float(x) / noise))),
    tell="All of it is in key biases, of which the loss knows nothing.",
)

# %% [markdown]
# Three ways in which the belief fails:
#
# - **GeLU.** The first loss agrees within rounding. Each step moves the two models a little further
#   apart.
# - **$\beta_2$.** The first *two* losses agree to the last digit or nearly so. The first loss is
#   made before any update. And the first update does not depend on $\beta_2$: Adam divides its sums
#   by $1 - \beta_1$ and $1 - \beta_2$, and what is left is the formula above. Only the third loss
#   shows it.
# - **$\epsilon$.** All losses agree, and weights are far outside the limit. Nobody made a mistake:
#   these are the key biases, moved by noise. The loss cannot see them.
#
# So agreeing losses do not prove equal engines, and weights that differ do not prove a mistake. A
# comparison needs several steps, the norm of the gradients, all weights, and a setting in which
# noise stays small.

# %% [markdown]
# ## Proof
#
# Now the run itself: a real text, the trainer of the package, two slices by two stages. What one
# types for it is `minimtnlg train CONFIG --engine megatron`; here is the same from Python. Megatron
# reads the corpus by its own reader.


# %%
def run_of(name):
    """Train with an engine; return the rows of its log and its weights."""
    fixed = [f"train.steps={steps}", "train.tokens=0", "train.eval_every=0", "train.eval_batches=1"]
    config = load("nano", [*SIZES, *BATCH, *RATE, *CUT, *fixed, f"data.path={corpus}"])
    folder = Path("runs") / name
    train(config, folder, progress=False, engine=engines.named(name))
    rows = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
    told = [f"{row['loss']:.7f}" for row in (rows[0], rows[-1])]
    print(f"{ENGINES[name]:10} loss {told[0]} in step 1, {told[1]} in step {len(rows)}")
    return rows, load_run(folder)[1].state_dict()


corpus = need("corpus")
told = {"ours": run_of("mini")}

# %%
told["Megatron"] = run_of("megatron")

# %%
told["DeepSpeed"] = run_of("deepspeed")

# %% tags=["predict"]
losses = {title: np.array([row["loss"] for row in rows]) for title, (rows, _) in told.items()}
numbers = np.arange(1, steps + 1)
fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6))
for (title, values), wide in zip(losses.items(), (7, 4, 1.5), strict=True):
    left.plot(numbers, values, marker="", lw=wide, label=title)
right.plot([], [])  # the first look belongs to ours
for title in ("Megatron", "DeepSpeed"):
    apart = np.abs(losses[title] / losses["ours"] - 1)
    right.semilogy(numbers, np.maximum(apart, 1e-8), ls="", ms=7, fillstyle="none", label=title)
right.axhline(LIMIT, color="black", ls=":", marker="", lw=1, label="limit of parity")
left.set(xlabel="step", ylabel="loss, nats per token", title="Three runs, one curve")
right.set(xlabel="step", ylim=(5e-9, 1e-2), title="How far from ours")
right.set_ylabel("relative difference (equal: 1e-8)")
left.legend(fontsize=9)
right.legend(fontsize=9)
fig.tight_layout()
most = max(np.abs(losses[title] / losses["ours"] - 1).max() for title in losses)
figure(
    fig,
    alt=f"Left: the losses of {steps} steps by our engine, Megatron and DeepSpeed lie on each "
    f"other, from {losses['ours'][0]:.2f} to {losses['ours'][-1]:.2f} nats per token. Right: their "
    f"relative differences from ours on a log scale, at most {most:.0e}, below the limit "
    f"of {LIMIT:.0e}.",
)
measured(
    "digits_that_agree",
    int(-np.log10(most)),
    unit="digits",
    tell=f"The largest difference is {most:.0e} of a loss; fp32 has about seven digits.",
)

# %% [markdown]
# The left picture alone would hide a mistake of a thousandth. The right one would not. But you know
# by now that losses are not enough:

# %%
rows, weights = told["ours"]
print(f"{'difference from ours':22}{'losses':>9}{'norms':>9}{'valid':>9}{'weights':>9}")
for title in ("Megatron", "DeepSpeed"):
    other, others = told[title]
    apart = [
        max(abs(x[key] / y[key] - 1) for x, y in zip(other, rows, strict=True))
        for key in ("loss", "grad_norm")
    ]
    apart.append(abs(other[-1]["valid_loss"] / rows[-1]["valid_loss"] - 1))
    apart.append(furthest(weights, others)[0])
    print(f"{title:22}" + "".join(f"{x:>9.0e}" for x in apart))
    assert max(apart[0], *apart[2:]) < LIMIT > apart[1] / 10
    assert others.keys() == weights.keys()
    for key in ("tokens", "lr", "batch_size"):
        assert [row[key] for row in other] == [row[key] for row in rows]
moved = furthest(weights, Mini(small, Mesh()).state())
print(f"\nthe weights have moved by up to {moved[0]:.2f} since the start")
assert moved[0] > 0.01

# %% [markdown]
# Parity, in all of it. The weights moved by far more than they differ. The tests of the package do
# the same for other layouts: interleaved stages, sequence parallelism, ZeRO 0 to 3, eight ranks.
#
# What is proven? Where the picture above says Megatron or DeepSpeed, two programs that were written
# apart give the same. Where it says ours or PyTorch in all columns, nothing is: those parts have
# their own proofs, in the lessons before.

# %% [markdown]
# ## Cost
#
# Two ranks on two cores can be timed. Each engine takes a step in turn, so that a busy machine
# slows all of them. The model is half of `nano`. All three layouts come up: slices with sequence
# parallelism, stages, and replicas with ZeRO 1.

# %%
LAYOUTS = {
    "TP2, sequence": ["parallel.tp=2", "parallel.sequence_parallel=true"],
    "PP2": ["parallel.pp=2", "parallel.zero=1"],
    "DP2, ZeRO 1": ["parallel.dp=2", "parallel.zero=1"],
}
jobs = {
    title: sized(load("nano", ["model.layers=4", "train.ramp=null", "train.global_batch=4", *cut]))
    for title, cut in LAYOUTS.items()
}


def timed():
    """{layout: {engine: (seconds of each step, its recorded calls, parameters held)}}."""
    results = {}
    for layout, config in jobs.items():
        p = config.parallel
        mesh = Mesh(Layout(tp=p.tp, pp=p.pp, dp=p.dp))
        batches, lr = random_batch(config, mesh), config.optim.lr
        sides = {title: engines.named(name)(config, mesh) for name, title in ENGINES.items()}
        seconds, calls = {title: [] for title in sides}, {}
        for title, engine in sides.items():
            with Recorder() as seen:
                engine.step(batches, lr, 1)  # warms up, too
            calls[title] = seen.calls
        for number in range(times):
            for title, engine in sides.items():
                dist.barrier()
                start = time.perf_counter()
                engine.step(batches, lr, 2 + number)
                synchronize()
                seconds[title].append(time.perf_counter() - start)
        held = sum(x.numel() for x in sides["ours"].model.parameters())
        results[layout] = {title: (seconds[title], calls[title], held) for title in sides}
    return results


clock = run(timed, 2)[1]  # the last rank
print(f"{'median of':15}" + "".join(f"{title:^27}" for title in ENGINES.values()))
print(f"{f'{times} steps':15}" + f"{'ms':>9}{'calls':>8}{'kB sent':>10}" * 3)
sent = {}
for layout, sides in clock.items():
    row = ""
    for title, (seconds, calls, _) in sides.items():
        sent[layout, title] = sum(call.wire_bytes for call in calls)
        ms = statistics.median(seconds) * 1e3
        row += f"{ms:>9.0f}{len(calls):>8}{sent[layout, title] / 1e3:>10.0f}"
    print(f"{layout:15}{row}")

# %% [markdown]
# The times are of a CPU and of a small model. Megatron and DeepSpeed are made for GPUs, where their
# fused kernels run, and an engine's own Python hides behind them. **From here no order follows for
# a GPU.**
#
# Calls and bytes are the same everywhere, and formulas say what they have to be. With $P$
# parameters on a rank and two ranks, the lessons before give:
#
# - **PP2**: $m$ activations or gradients of $4\,b\,s\,h$ bytes, and the gradient of the embedding,
#   $4\,V h$ bytes, in an all-reduce of two.
# - **DP2, ZeRO 1**: a reduce-scatter of the gradients, $\frac{1}{2}\,4P$, and an all-gather of the
#   weights, the same: together $4P$.

# %%
c = jobs["PP2"]
tokens = c.train.global_batch * c.model.seq
pipeline = 4 * c.model.hidden * (tokens + c.model.vocab)
P = clock["DP2, ZeRO 1"]["ours"][2]
print(f"{'kB sent':15}{'formula':>9}" + "".join(f"{title:>11}" for title in ENGINES.values()))
for layout, formula in (("PP2", pipeline), ("DP2, ZeRO 1", 4 * P)):
    row = [sent[layout, title] for title in ENGINES.values()]
    print(f"{layout:15}{formula / 1e3:>9.0f}" + "".join(f"{x / 1e3:>11.0f}" for x in row))
    assert all(abs(x / formula - 1) < 1e-3 for x in row[:2])
assert abs(sent["DP2, ZeRO 1", "DeepSpeed"] / (1.5 * 4 * P) - 1) < 1e-3

# %% [markdown]
# One number is not that of the lesson: with ZeRO 1, DeepSpeed sends half as much again. It sums
# *all* gradients on all replicas, an all-reduce of $4P$, and gathers the weights afterwards,
# $\frac{1}{2}\,4P$. Every replica thus gets sums that it does not need.
#
# And one count is not: with sequence parallelism ours makes many more calls than Megatron.
# LayerNorms and the biases of row-parallel layers see only half of the tokens there, so their
# gradients have to be summed over the slices (lesson 10). Ours does that in each backward pass, by
# f, in one small all-reduce for each parameter. Megatron adds them up on each slice and sums all of
# them once a step.

# %%
c = jobs["TP2, sequence"]
m = c.train.global_batch // c.train.micro_batch
parameters = 6 * c.model.layers + 2 + 1  # in layers, in the last LayerNorm, positions
ours, theirs = (clock["TP2, sequence"][title][1] for title in ("ours", "Megatron"))
sums = [call for call in theirs if call.operation == "all_reduce" and "TENSOR" in call.group]
once = len(sums) - 3 * m - m  # without those of the loss and of the embedding
print(f"ours:     {parameters} parameters x {m} passes = {parameters * m} of {len(ours)} calls")
print(f"Megatron: {once} of {len(theirs)} calls")
assert once == 1 and len(ours) - len(theirs) > parameters * m / 2

# %% [markdown]
# For bytes it hardly matters, as they are vectors. For time it may: each call has its latency
# (lesson 06), and MT-NLG has 240 micro-batches. It did not have sequence parallelism, which is of
# 2022 [S13].

# %% [markdown] tags=["deeper"]
# ### Deeper: the learning rate, one step apart
#
# Megatron's own scheduler says which rate the *next* step has, from what has been trained so far.
# So the first step of a warm-up has the rate zero, and the whole schedule is one step behind ours,
# which counts the tokens of the step itself. Here is the real scheduler, with tokens as its unit.
# The adapter does not use it; it hands our rate to Megatron's optimizer.

# %% tags=["deeper"]
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler


class Groups:
    """As much of an optimizer as a scheduler sees."""

    param_groups = [{"lr": None, "weight_decay": 0.1}]


optim = load("nano").optim
scheduler = OptimizerParamScheduler(
    Groups, 0.0, optim.lr, optim.min_lr, int(optim.warmup_tokens), int(optim.decay_tokens),
    "cosine", start_wd=0.1, end_wd=0.1, wd_incr_steps=1, wd_incr_style="constant",
)  # fmt: skip
a_step, mine, theirs = 4096, [], []
for number in range(8):
    theirs.append(Groups.param_groups[0]["lr"])
    mine.append(learning_rate((number + 1) * a_step, optim))
    scheduler.step(a_step)
print("ours    ", " ".join(f"{rate:.5f}" for rate in mine))
print("Megatron", " ".join(f"{rate:.5f}" for rate in theirs))
assert theirs[0] == 0 and np.allclose(theirs[1:], mine[:-1], rtol=1e-12)

# %% [markdown]
# ## MT-NLG
#
# ### Who did what
#
# The slices of a layer came from Megatron-LM, stages and replicas from DeepSpeed [S1; S3, sec.
# 2.2]. The two were joined in a repository of their own [S9]. (Megatron-LM had stages, too, by then
# [S12].)

# %%
MADE_BY = {
    "layers cut in slices, in a node": ("Megatron-LM", "S3, sec. 2.2"),
    "stages, across nodes": ("DeepSpeed", "S3, sec. 2.2"),
    "replicas": ("DeepSpeed", "S1"),
    "schedule": ("1F1B, DeepSpeed's pipeline", "S3; that it is not interleaved is inferred"),
    "ZeRO": ("not stated", "S1 to S3 name no stage"),
    "micro-batch": ("not stated", "all models of the run take 1"),
}
for part, (who, source) in MADE_BY.items():
    print(f"{part:33}{who:28}{source}")
print("\nMT-NLG in three dialects:")
dialects(preset("mtnlg-530b"))

# %% [markdown]
# (Slices, stages, sizes and batch are published [S1, S3]; the micro-batch and ZeRO are the preset's
# choice.) Today each has all three axes. Megatron-Core has its own pipeline and its own form of
# ZeRO 1, as you saw. DeepSpeed has slices of its own, in `deepspeed.runtime.tensor_parallel`. We
# did not use them, to be near to 2021.
#
# ### Your rank
#
# How many calls would your rank make in one step of 60.1 s, and whose code makes them? It has three
# layers, 240 micro-batches and full recomputation, so six sums a layer and micro-batch (lesson 12).
# We count for the layout $8 \times 35 \times 8$ and a micro-batch of one. The names are those of
# 2021.

# %%
mine = my_rank()
at, m = MTNLG.place(mine), 240
ends = (at.pp == 0) + (at.pp == 34)
sums = 3 * 6 * m + (m if at.pp == 0 else 0) + (4 * m if at.pp == 34 else 0)
messages = 2 * (2 - ends) * m
print(f"rank {mine}: slice {at.tp}, stage {at.pp}, replica {at.dp}")
print(f"  Megatron-LM: {sums:>5} all-reduces in the tensor group, one every {60.1e3 / sums:.0f} ms")
print(f"  DeepSpeed:   {messages:>5} messages to and from the stages beside it")
print("  DeepSpeed:   the sum of the gradients, once, in as many calls as there are buckets")
assert ends or (sums, messages) == (4320, 960)

# %% [markdown]
# (A message here is one activation or gradient; what DeepSpeed sends along with it is not counted.
# On the last stage the loss takes three sums, as in Megatron, and the logits a fourth.)
#
# ### What they do that we left out
#
# A hundred thousand lines are not there for nothing. Here is some of it, where you find it, and why
# one would want it. Each place is looked up in the packages that are installed here.

# %%
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.optimizer import OptimizerConfig
from megatron.core.transformer import TransformerConfig

CONFIGS = (TransformerConfig, OptimizerConfig, DistributedDataParallelConfig, DeepSpeedZeroConfig)
LEFT_OUT = (  # what, why, where in Megatron-Core, where in DeepSpeed
    ("fused kernels", "numbers are read from memory once for several operations",
     "megatron.core.fusions", "deepspeed.ops.adam"),
    ("8-bit formats", "twice the arithmetic a second on GPUs that have it",
     "TransformerConfig.fp8", ""),
    ("sequences cut inside attention", "texts too long for one GPU",
     "TransformerConfig.context_parallel_size", "deepspeed.sequence"),
    ("experts", "more parameters for the same arithmetic",
     "TransformerConfig.num_moe_experts", "deepspeed.moe"),
    ("sums hidden behind matrices", "the wires of a node work while it computes",
     "TransformerConfig.tp_comm_overlap", ""),
    ("messages hidden behind passes", "so do those between stages",
     "TransformerConfig.overlap_p2p_comm", ""),
    ("weights gathered while computing", "ZeRO's all-gather costs no time of its own",
     "DistributedDataParallelConfig.overlap_param_gather",
     "DeepSpeedZeroConfig.prefetch_bucket_size"),
    ("memory of the CPU, disks", "models larger than all GPUs together",
     "OptimizerConfig.optimizer_cpu_offload", "deepspeed.runtime.swap_tensor"),
    ("fewer bits on the wire", "slow networks", "", "DeepSpeedZeroConfig.zero_quantized_gradients"),
    ("a step as one graph", "thousands of small kernels start at once",
     "TransformerConfig.enable_cuda_graph", ""),
    ("files written while training", "a checkpoint of terabytes stops nobody",
     "megatron.core.dist_checkpointing.strategies.async_utils",
     "deepspeed.runtime.checkpoint_engine.decoupled_checkpoint_engine"),
    ("a step computed again", "a GPU that computes wrongly is found",
     "megatron.core.rerun_state_machine", ""),
    ("search for a configuration", "nobody knows which is the fastest", "", "deepspeed.autotuning"),
    ("serving", "a trained model has users", "megatron.core.inference", "deepspeed.inference"),
)  # fmt: skip


def is_there(place):
    """Whether the installed package has this module, or its configuration this field."""
    name, _, field = place.rpartition(".")
    for config in CONFIGS:
        if config.__name__ == name:
            known = getattr(config, "model_fields", None) or config.__dataclass_fields__
            return field in known
    return find_spec(place) is not None


assert is_there("deepspeed.runtime.tensor_parallel")
for what, why, *places in LEFT_OUT:
    print(f"{what}: {why}")
    for place in filter(None, places):
        assert is_there(place), place
        print(f"    {place}")

# %% [markdown]
# Experts and 8-bit formats change what is computed. Nearly all else buys time or memory with lines
# of code, and the numbers stay. That is why a small engine can be compared with them at all, and
# why nobody would train a large model with it.

# %% [markdown]
# ## Check yourself
#
# 1. Two engines give the same first loss, bit by bit. Name three mistakes that this cannot show.
#
# <details><summary>Answer</summary>
#
# Anything that begins with backward: a wrong gradient, a missing sum over slices or replicas, a
# norm that leaves out a stage, wrong numbers of the optimizer. With a warm-up as Megatron's, whose
# first rate is zero, even the second loss shows none of them.
#
# </details>
#
# 2. You move a GPT from one engine to another. Names, shapes and the first loss fit. What else has
#    to be the same that is in no file of weights?
#
# <details><summary>Answer</summary>
#
# What the configuration says and weights do not: the number of heads (other heads, same shapes),
# the form of GeLU, the epsilon of LayerNorm, the scale of attention, dropout. A wrong number of
# heads shows soon; the form of GeLU hides in the last digits.
#
# </details>
#
# 3. On stage 3 of 4 equal stages, Megatron calls a parameter
#    `decoder.layers.1.mlp.linear_fc2.weight`. The model has 24 layers. Which layer is it? And with
#    two chunks a stage, in the first chunk?
#
# <details><summary>Answer</summary>
#
# A stage has 6 layers, and stage 3 is the last: $3 \cdot 6 + 1 = 19$. With two chunks there are
# eight virtual stages of 3 layers. The first chunk of stage 3 is virtual stage 3, so it is $3 \cdot
# 3 + 1 = 10$.
#
# </details>
#
# 4. Somebody reports: "Our new engine is right. After 1000 steps its loss curve lies on that of
#    Megatron." And somebody else: "It is wrong, some weights differ by 0.01." What do you ask each?
#
# <details><summary>Answer</summary>
#
# The first: how far apart are the losses on a log scale, step by step from the first, and are norms
# and weights compared? The second: which weights, and with which epsilon? Key biases drift by noise
# alone, and after many steps rounding grows in any run.
#
# </details>
#
# 5. The table of calls shows `data all_reduce`, three calls, zero bytes. Is it worth avoiding?
#
# <details><summary>Answer</summary>
#
# On the wire it costs nothing. A call still costs the time to start it. For three calls a step that
# is nothing; for one in each layer of each micro-batch it would be thousands. Ours asks in one
# place whether a group has more than one rank.
#
# </details>

# %% [markdown]
# ## Exercises
#
# Say a layout in Megatron's words. Then bring the weights home: from the ranks of somebody else's engine to whole matrices under our
# names.
#
# Three engines, one run: what you have built from lesson 07 to 12 is what the large programs
# compute. They add speed, and words. Lesson 17 takes the same configuration to a cluster.
