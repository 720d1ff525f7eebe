# ---
# mark: 1
# minutes: 15
# help: worked
# needs: [layout, rank, process group, collective, micro-batch, stage, node, link, placement]
# draws:
#   ORDER: ["pp > dp > tp", "pp > tp > dp", "tp > dp > pp", "dp > pp > tp"]
#   SUMS: [4, 6]
#   SHARE: [a t-th, all]
# ---

# %% [markdown]
# # Bytes on a link
#
# How many bytes leave a node in a step, and for which of the three kinds of parallelism? GPUs are
# counted through the nodes, `gpus` in each, and here the order of the axes is {{ORDER}}, slowest
# axis first. `gradients_out` below does it for the replicas. Read it, then make the other two.
#
# The job is that of the lesson: 8 layers, 4 micro-batches in each replica, an activation of 1 MB,
# 10 million parameters.
#
# - **Tensor.** {{SUMS}} all-reduces of an activation, in each layer and micro-batch. Slices are a
#   ring, as replicas are.
# - **Pipeline.** For each micro-batch an activation goes down to the next stage and a gradient of
#   the same size up to the one before. Each GPU sends {{SHARE}} of it. Stages are no ring: the
#   first has nobody before it, the last nobody after it.
#
# **Target:** $4 \times 2 \times 2$ ($t \times p \times d$) on nodes of two. Node 0 sends to other
# nodes, in MB: tensor {{TENSOR}}, pipeline {{PIPELINE}}, data {{DATA}}. For any node, and any
# sizes at which $p$ divides the 8 layers.
#
# By hand, the data in the order pp > dp > tp: on node 0 are slices 0 and 1 of replica 0, stage 0.
# The next replica of both is on another node. Each sends $2 \cdot 1/2$ times its $4 \cdot 10/(4
# \cdot 2)$ MB of gradients, 5 MB. Together 10.

# %%
from itertools import product

LAYERS, MICRO_BATCHES, ACTIVATION, PARAMETERS = 8, 4, 1e6, 10e6  # activation: bytes
AXES = ORDER.split(" > ")


def places(t, p, d):
    """Who sits on GPU 0, 1, 2 ...: a list of dicts such as {"pp": 0, "dp": 1, "tp": 0}."""
    sizes = {"tp": t, "pp": p, "dp": d}
    return [dict(zip(AXES, at, strict=True)) for at in product(*(range(sizes[a]) for a in AXES))]


def gradients_out(t, p, d, gpus, node):
    """Bytes that leave `node` in a step for the sum of the gradients."""
    gpu = places(t, p, d)
    each = 2 * (d - 1) / d * 4 * PARAMETERS / (t * p)  # what a GPU sends to the next of its ring
    total = 0
    for place in gpu[node * gpus : (node + 1) * gpus]:  # those who sit on the node
        after = place | {"dp": (place["dp"] + 1) % d}  # the same slice and stage, the next replica
        if gpu.index(after) // gpus != node:
            total += each
    return total


# %% tags=["target"]
_gpu = {  # of (slice, stage, replica): numbers with three digits, the fastest axis last
    "pp > dp > tp": lambda s, i, r: (i * 2 + r) * 4 + s,
    "pp > tp > dp": lambda s, i, r: (i * 4 + s) * 2 + r,
    "tp > dp > pp": lambda s, i, r: (s * 2 + r) * 2 + i,
    "dp > pp > tp": lambda s, i, r: (r * 2 + i) * 4 + s,
}[ORDER]
_here = [(s, i, r) for s in range(4) for i in range(2) for r in range(2) if _gpu(s, i, r) < 2]
# MB that one GPU sends: 4 layers, 4 micro-batches, 2 x 3/4 of 1 MB; a quarter or all of 4 x 1 MB; 5
TENSOR = SUMS * 24 * sum(_gpu((s + 1) % 4, i, r) > 1 for s, i, r in _here)
PIPELINE = (4 if SHARE == "all" else 1) * sum(_gpu(s, 1 - i, r) > 1 for s, i, r in _here)
DATA = 5 * sum(_gpu(s, i, 1 - r) > 1 for s, i, r in _here)
SENT = "ACTIVATION" if SHARE == "all" else "ACTIVATION / t"


# %% tags=["stub"]
def bytes_on_a_link(t, p, d, gpus, node):
    """{"tp": bytes, "pp": bytes, "dp": bytes} that leave `node` in a step."""
    raise NotImplementedError("add the bytes of tp and pp, in the manner of gradients_out")
    # Take the raise away and put your lines in its place; the line below is a start.
    return {"tp": 0, "pp": 0, "dp": gradients_out(t, p, d, gpus, node)}


# %% [markdown] tags=["hint"]
# Tensor: copy the body of `gradients_out`. Two lines change: how much a GPU sends, and who comes
# after it. A rank has `LAYERS / p` layers.

# %% [markdown] tags=["hint"]
# Pipeline: a stage in the middle sends twice, down and up, so look at both neighbours, stage
# `place["pp"] + 1` and stage `place["pp"] - 1`. If there is no such stage, nothing is sent.

# %% [markdown] tags=["hint"]
# ```python
# each = {{SUMS}} * LAYERS / p * MICRO_BATCHES * 2 * (t - 1) / t * ACTIVATION  # tensor, a ring
# each = MICRO_BATCHES * {{SENT}}  # pipeline, each way
# for stage in (place["pp"] - 1, place["pp"] + 1):
#     if 0 <= stage < p: ...
# ```


# %% tags=["solution"]
def bytes_on_a_link(t, p, d, gpus, node):
    out = {"tp": 0, "pp": 0, "dp": gradients_out(t, p, d, gpus, node)}
    gpu = places(t, p, d)
    for place in gpu[node * gpus : (node + 1) * gpus]:
        after = place | {"tp": (place["tp"] + 1) % t}
        if gpu.index(after) // gpus != node:
            out["tp"] += {{SUMS}} * LAYERS / p * MICRO_BATCHES * 2 * (t - 1) / t * ACTIVATION
        for stage in (place["pp"] - 1, place["pp"] + 1):
            if 0 <= stage < p and gpu.index(place | {"pp": stage}) // gpus != node:
                out["pp"] += MICRO_BATCHES * {{SENT}}
    return out


# %% [markdown] tags=["oral"]
# **Q.** The batch of each replica doubles. Which of the three numbers change?
#
# **A.** Tensor and pipeline double, since each micro-batch brings its sums and messages. Gradients
# are summed once a step: data stays.
#
# **Q.** In the usual order, pp > dp > tp, when do slices send anything through the network?
#
# **A.** When a tensor group has GPUs on two nodes: $t$ is larger than a node, or does not divide
# it, so that a border cuts through a group.


# %% tags=["check"]
import numpy as np

from minimtnlg.course.check import Feedback, expect

_LOOK = {
    "tp": "who is the next slice, and on which node? What does a rank of L / p layers send?",
    "pp": "down if there is a next stage, up if there is one before; what does a GPU send of it?",
    "dp": "gradients_out has it",
}


def _right(t, p, d, gpus, node):
    """Bytes by axis: an array of the nodes, compared with itself moved by one."""
    sizes = {"tp": t, "pp": p, "dp": d}
    nodes = np.arange(t * p * d).reshape([sizes[axis] for axis in AXES]) // gpus
    moved = {axis: np.roll(nodes, -1, AXES.index(axis)) for axis in AXES}
    leaves = {axis: ((nodes == node) & (moved[axis] != node)).sum() for axis in ("tp", "dp")}
    stages = np.moveaxis(nodes, AXES.index("pp"), 0)
    down = ((stages[:-1] == node) & (stages[1:] != node)).sum()
    up = ((stages[1:] == node) & (stages[:-1] != node)).sum()
    return {
        "tp": float(leaves["tp"] * SUMS * (8 / p) * 4 * 1e6 * 2 * (t - 1) / t),
        "pp": float((down + up) * 4e6 / (1 if SHARE == "all" else t)),
        "dp": float(leaves["dp"] * 4 * 10e6 / (t * p) * 2 * (d - 1) / d),
    }


def _differs(got, expected):
    try:
        expect(got, expected, "")
    except Feedback:
        return True
    return False


def _say(x):
    return f"{x:,.10g}".replace(",", " ") if isinstance(x, int | float) else repr(x)


def _check(student, t, p, d, gpus, node, right=None):
    right = right or _right(t, p, d, gpus, node)
    got = student(t, p, d, gpus, node)
    what = f"bytes out of node {node}, {t} x {p} x {d} on nodes of {gpus}, order {ORDER}"
    if not isinstance(got, dict) or set(got) != set(right):
        expect(got, right, what)
    wrong = [axis for axis in ("tp", "pp", "dp") if _differs(got[axis], right[axis])]
    if wrong:
        said = [", ".join(f"{axis} {_say(x[axis])}" for axis in wrong) for x in (right, got)]
        raise Feedback(what, *said, "; ".join(_LOOK[axis] for axis in wrong))


def the_target(student):
    """The target, and the last node of the same with four replicas"""
    _check(student, 4, 2, 2, 2, 0, {"tp": TENSOR * 1e6, "pp": PIPELINE * 1e6, "dp": DATA * 1e6})
    _check(student, 4, 2, 4, 2, 15)


def stages_in_the_middle(student):
    """Four stages: those in the middle send both ways, those at the ends one way"""
    for node in range(8):
        _check(student, 2, 4, 2, 2, node)


# %% tags=["hidden"]
def groups_across_the_border(student):
    """Three slices on nodes of four, two stages on nodes of three"""
    for t, p, d, gpus in ((3, 2, 4, 4), (4, 2, 3, 3), (3, 4, 2, 8)):
        for node in range(t * p * d // gpus):
            _check(student, t, p, d, gpus, node)


def alone(student):
    """Axes of size one, nodes of one GPU, all in one node"""
    for t, p, d, gpus in ((1, 4, 2, 2), (4, 1, 2, 2), (2, 4, 1, 2), (2, 2, 2, 1), (2, 2, 2, 8)):
        for node in range(t * p * d // gpus):
            _check(student, t, p, d, gpus, node)


def a_larger_job(student):
    """Eight slices, four stages, eight replicas on nodes of eight"""
    for node in (0, 17, 31):
        _check(student, 8, 4, 8, 8, node)


# %% tags=["wrong"]
def _with(t, p, d, gpus, node, tensor=1.0, pipeline=1.0):
    out = bytes_on_a_link(t, p, d, gpus, node)
    return out | {"tp": out["tp"] * tensor, "pp": out["pp"] * pipeline}


def stages_are_a_ring(t, p, d, gpus, node):
    """Caught by: stages_in_the_middle. The last stage sends to the first."""
    gpu, total = places(t, p, d), 0
    for place in gpu[node * gpus : (node + 1) * gpus]:
        for stage in ((place["pp"] - 1) % p, (place["pp"] + 1) % p):
            if gpu.index(place | {"pp": stage}) // gpus != node:
                total += MICRO_BATCHES * ACTIVATION / (1 if SHARE == "all" else t)
    return bytes_on_a_link(t, p, d, gpus, node) | {"pp": total}


def activations_only(t, p, d, gpus, node):
    """Caught by: stages_in_the_middle. What goes up is forgotten."""
    gpu, total = places(t, p, d), 0
    for place in gpu[node * gpus : (node + 1) * gpus]:
        after = place | {"pp": place["pp"] + 1}
        if after["pp"] < p and gpu.index(after) // gpus != node:
            total += MICRO_BATCHES * ACTIVATION / (1 if SHARE == "all" else t)
    return bytes_on_a_link(t, p, d, gpus, node) | {"pp": total}


def the_other_share(t, p, d, gpus, node):
    """Caught by: stages_in_the_middle. All of the activation for a t-th, or a t-th for all."""
    return _with(t, p, d, gpus, node, pipeline=1 / t if SHARE == "all" else t)


def the_other_sums(t, p, d, gpus, node):
    """Caught by: the_target. Four sums a layer for six, or six for four."""
    return _with(t, p, d, gpus, node, tensor=(10 - SUMS) / SUMS)


def all_layers_on_each_stage(t, p, d, gpus, node):
    """Caught by: the_target. A rank is thought to sum in all layers of the model."""
    return _with(t, p, d, gpus, node, tensor=p)


def one_way_of_the_ring(t, p, d, gpus, node):
    """Caught by: the_target. An all-reduce is taken for a reduce-scatter, half of it."""
    return _with(t, p, d, gpus, node, tensor=0.5)


def one_micro_batch(t, p, d, gpus, node):
    """Caught by: stages_in_the_middle. One micro-batch a step."""
    return _with(t, p, d, gpus, node, tensor=0.25, pipeline=0.25)


def once_for_the_node(t, p, d, gpus, node):
    """Caught by: the_target. A node sends what one of its GPUs sends."""
    out = bytes_on_a_link(t, p, d, gpus, node)
    tensor = SUMS * LAYERS / p * MICRO_BATCHES * 2 * (t - 1) / t * ACTIVATION
    pipeline = MICRO_BATCHES * ACTIVATION / (1 if SHARE == "all" else t)
    return out | {"tp": min(out["tp"], tensor), "pp": min(out["pp"], pipeline)}


def slices_stay_at_home(t, p, d, gpus, node):
    """Caught by: the_target. Tensor groups never leave a node, as in MT-NLG."""
    return bytes_on_a_link(t, p, d, gpus, node) | {"tp": 0}


def only_the_example(t, p, d, gpus, node):
    """Caught by: stages_in_the_middle. The three numbers of the target."""
    return {"tp": TENSOR * 1e6, "pp": PIPELINE * 1e6, "dp": DATA * 1e6}


def replicas_alone(t, p, d, gpus, node):
    """Caught by: the_target. What is given is handed in."""
    return {"dp": gradients_out(t, p, d, gpus, node)}


# %% tags=["picture"]
def picture(student):
    """The links of each axis, with the student's bytes."""
    import matplotlib.pyplot as plt

    from minimtnlg.course.plots import on_nodes
    from minimtnlg.parallel.layout import Layout

    out = student(4, 2, 2, 2, 0)
    fig, axes = plt.subplots(3, 1, figsize=(7, 6))
    names = {"tp": "tensor", "pp": "pipeline", "dp": "data"}
    titles = [f"{name}: {out[axis] / 1e6:g} MB out of node 0" for axis, name in names.items()]
    for ax, axis, title in zip(axes, names, titles, strict=True):
        on_nodes(Layout(tp=4, pp=2, dp=2), axis, 2, AXES, ax, title=title)
    fig.tight_layout()
    alt = f"4 x 2 x 2 on eight nodes of two, order {ORDER}. Your numbers: {'; '.join(titles)}."
    return fig, alt
