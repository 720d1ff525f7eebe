"""Bytes on each rank: parameters, their states, activations that wait for backward, and the rest.

One table says which tensors of a layer backward needs, operation by operation. S13's formulas,
sbh (10 + 24/t + 5as/ht) and the others, are its sums in 16 bits with dropout.
"""

from typing import NamedTuple

GIB = 2**30


def saved(model, tp=1, b=1, sequence_parallel=False, size=2):
    """{operation: bytes} that the backward pass of one layer needs on a rank.

    size: bytes of an activation. The path of the attention and the dropout are the model's.
    """
    s, h, t = model.seq, model.hidden, tp
    x = s * b * h  # elements between the matrices, cut along the sequence or on all ranks
    outside = x / t if sequence_parallel else x
    statistics = 2 * 4 * outside / h  # mean and deviation of each token in fp32
    scores = b * model.heads * s * s / t
    drops = model.dropout > 0
    table = {
        "attention norm": size * outside + statistics,
        "qkv": size * outside,
        "query, key, value": size * 3 * x / t,
        "out": size * x / t,
        "out dropout": outside * drops,
        "mlp norm": size * outside + statistics,
        "up": size * outside,
        "gelu": size * 4 * x / t,
        "down": size * 4 * x / t,
        "mlp dropout": outside * drops,
    }
    if model.attention == "sdpa":  # a fused kernel keeps a number for each row of the scores
        return table | {"attention": 4 * b * model.heads * s / t}
    table["softmax"] = size * scores
    return table | ({"attention dropout": (size + 1) * scores} if drops else {})


CORE = "attention", "softmax", "attention dropout"  # what selective recomputation drops


def per_layer(model, tp=1, b=1, sequence_parallel=False, recompute="none", size=2):
    """Bytes that one layer of one micro-batch keeps on a rank until its backward pass."""
    table = saved(model, tp, b, sequence_parallel, size)
    if recompute == "full":
        return size * model.seq * b * model.hidden / (tp if sequence_parallel else 1)
    if recompute == "selective":
        return sum(bytes for name, bytes in table.items() if name not in CORE)
    return sum(table.values())


def parameters(job):
    """[parameters on a rank of each stage], the second copy of the embedding counted."""
    h, t = job.model.hidden, job.tp
    counts = [n * (12 * h * h / t + (7 / t + 6) * h) for n in job.layers]
    counts[0] += job.model.vocab * h / t + job.model.seq * h
    counts[-1] += 2 * h + (job.model.vocab * h / t if job.pp > 1 else 0)
    return counts


def in_flight(job, stage):
    """Layers whose activations wait on a stage at most, those of each micro-batch counted.

    That many chunks are passed forward before the first backward pass, and one more.
    """
    chunks = min(job.schedule.warm_up(stage) + 1, job.m * job.virtual)
    return chunks * job.layers[stage] // job.virtual


class Memory(NamedTuple):
    """GiB on a rank of one stage. reserved is what nvidia-smi shows: allocated, context, gaps."""

    parameters: float
    gradients: float
    optimizer: float
    activations: float
    working: float
    allocated: float
    reserved: float


def memory(job, hw, stack, stages=None):
    """[Memory of each stage, or of some]; the largest decides whether a layout fits."""
    model, b = job.model, job.micro_batch
    shared = model.seq * b * model.hidden
    layer = (model, job.tp, b, job.sequence_parallel)
    kept, whole = per_layer(*layer, job.recompute), per_layer(*layer)
    gradient = stack.gradient + (2 if stack.gradient == 4 and not stack.fused else 0)
    found, counts = [], parameters(job)
    for stage in range(job.pp) if stages is None else stages:
        count = counts[stage]
        activations = in_flight(job, stage) * kept + (whole - kept) * (job.recompute != "none")
        # gradients of the MLP and of its largest matrix, messages
        working = 2 * 8 * (shared + model.hidden**2 / 2) / job.tp + 2 * 2 * shared
        if stage == job.pp - 1:  # logits in 16 bits and in fp32, the softmax and its gradient
            working += (2 + 4 + 4 + 2) * model.seq * b * model.vocab / job.tp
        states = (
            2 * count / (job.dp if job.zero == 3 else 1),
            gradient * count / (job.dp if job.zero >= 2 else 1),
            12 * count / (job.dp if job.zero else 1),
        )
        parts = [size / GIB for size in (*states, activations, working)]
        reserved = sum(parts) * (1 + hw.fragments) + hw.reserved_gib
        found.append(Memory(*parts, sum(parts), reserved))
    return found
