"""Seconds of one iteration, from the products, the bytes and the wires of each stage.

- A product of matrices is computed in tiles, one a multiprocessor: waves of tiles over its time for
  one tile. Whatever isn't a product is bound by memory: bytes over its rate.
- A stage is its layers, embedding or logits, and the transfers to its neighbours.
- A pipeline: the slowest stage for every micro-batch, and the others once, over the number of
  chunks. `simulated` carries the instructions of the schedule out instead.
- Then gradients are summed over the replicas, and the optimizer reads and writes its state.
"""

import dataclasses
from functools import lru_cache
from typing import NamedTuple

from minimtnlg.config import Model
from minimtnlg.parallel.layout import virtual_stages
from minimtnlg.parallel.schedules import named
from minimtnlg.parallel.simulate import simulate
from minimtnlg.plan.memory import parameters
from minimtnlg.plan.network import half_seconds, sum_seconds, transfer_seconds

TILES = (256, 128), (128, 256), (128, 128), (64, 256), (256, 64)


class Job(NamedTuple):
    """One layout of a model, with numbers as in config.Parallel and config.Train."""

    model: Model
    tp: int
    pp: int
    dp: int
    micro_batch: int
    global_batch: int
    virtual: int = 1
    recompute: str = "none"
    sequence_parallel: bool = False
    zero: int = 0
    gpipe: bool = False

    @property
    def gpus(self):
        """Ranks of the world."""
        return self.tp * self.pp * self.dp

    @property
    def m(self):
        """Micro-batches of a pipeline."""
        return self.global_batch // (self.dp * self.micro_batch)

    @property
    def layers(self):
        """[layers of each stage]."""
        cut = virtual_stages(self.model.layers, self.pp * self.virtual)
        return [sum(map(len, cut[stage :: self.pp])) for stage in range(self.pp)]

    @property
    def schedule(self):
        """The Schedule of the pipeline."""
        kind = "gpipe" if self.gpipe else "interleaved" if self.virtual > 1 else "1f1b"
        return named(kind, self.pp, self.m, self.virtual)


def job_of(config, attention=None):
    """The Job of a config.Config whose dp is a number; attention: another path than the model's."""
    model, p, train = config.model, config.parallel, config.train
    return Job(
        dataclasses.replace(model, attention=attention or model.attention), p.tp, p.pp, p.dp,
        train.micro_batch, train.global_batch, p.virtual, p.recompute, p.sequence_parallel, p.zero,
        p.schedule == "gpipe",
    )  # fmt: skip


class Parts(NamedTuple):
    """Seconds by what they are spent on: products, reading and writing, sums over tensor ranks."""

    products: float = 0.0
    bytes: float = 0.0
    tensor: float = 0.0

    def plus(self, other):
        """The sums, part by part."""
        return Parts(*(x + y for x, y in zip(self, other, strict=True)))

    def times(self, factor):
        """Each part so many times."""
        return Parts(*(x * factor for x in self))


def product(m, n, k, hw, batch=1, more=0):
    """Seconds of [m, k] x [k, n] in 16 bits, `batch` times; more: bytes besides the operands."""
    reads = moved(2 * batch * (m * k + k * n + m * n) + more, hw)
    if hw.matmul == 1:  # perfect kernels have no tiles
        return max(2 * batch * m * n * k / (hw.tflops * 1e12), reads)
    seconds = float("inf")
    for rows, columns in TILES:
        waves = batch * -(-m // rows) * -(-n // columns) / hw.sms
        waves = max(1.0, (waves + -(-waves // 1)) / 2)  # between full waves and none lost
        rate = hw.tflops * 1e12 / hw.sms * hw.matmul * (1 if rows * columns == 32768 else hw.small)
        seconds = min(seconds, waves * 2 * rows * columns * (k + hw.start) / rate)
    return max(seconds, reads)


def moved(size, hw):
    """Seconds in which kernels read and write `size` bytes."""
    return size / (hw.hbm * hw.hbm_share * 1e9)


@lru_cache(4096)
def layer(model, tp, b, sequence_parallel, recompute, hw, stack):
    """(forward, backward) of one transformer layer, Parts; recomputation counts as backward."""
    s, h, a, t = model.seq, model.hidden, model.heads, tp
    rows, x = s * b, s * b * h
    outside = x / t if sequence_parallel else x  # elements between the matrices
    scores = b * a * s * s / t if stack.attention == "readable" else 0  # that exist in memory
    matrices = (rows, 3 * h / t, h), (rows, h, h / t), (rows, 4 * h / t, h), (rows, h, 4 * h / t)
    core = (s, s, h / a), (s, h / a, s)  # [m, n, k] of q k^T, and of the weights times v

    # A fused kernel writes no scores, and computes the first product once more in backward.
    fused = 4 * b * s * s * h / t / (hw.tflops * 1e12 * hw.matmul)
    attention, for_core = fused, 2.5 * fused
    if scores:
        attention = sum(product(m, n, k, hw, b * a / t) for m, n, k in core)
        for_core = sum(
            product(m, k, n, hw, b * a / t) + product(k, n, m, hw, b * a / t) for m, n, k in core
        )
    products = sum(product(m, n, k, hw) for m, n, k in matrices) + attention
    # LayerNorms, bias, dropout and residual; GeLU; scale, mask, softmax and dropout
    softmax = moved(9 * scores, hw)
    moves = moved(22 * outside + 16 * x / t, hw) + softmax
    half = half_seconds(2 * x, t, hw)
    summed = 2 * half if sequence_parallel else sum_seconds(2 * x, t, hw)
    forward = Parts(products, moves, 2 * summed)

    # Two products for each: gradients of the inputs and of the weights, which are added up
    added = 0 if stack.fused else (6 if stack.gradient == 2 else 10)  # bytes a parameter
    inside = 6 if stack.fused else 0
    products = sum(
        product(m, k, n, hw) + product(k, n, m, hw, more=inside * k * n) for m, n, k in matrices
    ) + for_core
    moves = moved(30 * outside + 24 * x / t + 11 * scores + added * 12 * h * h / t, hw)
    again = 2 * half if sequence_parallel else 0  # of inputs that were kept in pieces
    backward = Parts(products, moves, (1 - stack.hidden) * (2 * summed + again))
    if recompute == "full":
        backward = backward.plus(forward)
    elif recompute == "selective":
        backward = backward.plus(Parts(attention, softmax))
    # Python launches kernels one after the other: a layer takes at least so long
    least = hw.launch[0], hw.launch[1] + hw.launch[0] * (recompute == "full")
    return tuple(
        parts.plus(Parts(0, max(0, host - sum(parts))))
        for parts, host in zip((forward, backward), least, strict=True)
    )


@lru_cache(4096)
def ends(model, tp, b, hw, stack):
    """(embedding forward, backward, logits and loss forward, backward), Parts of the end stages."""
    rows, h, vocab, x = model.seq * b, model.hidden, model.vocab / tp, model.seq * b * model.hidden
    summed = sum_seconds(2 * x, tp, hw)
    logits = product(rows, vocab, h, hw)
    back = product(rows, h, vocab, hw) + product(h, vocab, rows, hw)
    table = moved(10 * x, hw)
    return (
        Parts(0, table, summed),
        Parts(0, table),
        Parts(logits, moved(30 * rows * vocab, hw)),  # in 16 bits, then in fp32
        Parts(back, moved(16 * rows * vocab, hw), summed),
    )


def stage(job, number, hw, stack):
    """(forward, backward, seconds of transfers) of one micro-batch on stage `number`."""
    how = job.model, job.tp, job.micro_batch
    parts = layer(*how, job.sequence_parallel, job.recompute, hw, stack)
    forward, backward = (each.times(job.layers[number]) for each in parts)
    first, first_back, last, last_back = ends(*how, hw, stack)
    if number == 0:
        forward, backward = forward.plus(first), backward.plus(first_back)
    if number == job.pp - 1:
        forward, backward = forward.plus(last), backward.plus(last_back)
    neighbours = (number > 0) + (number < job.pp - 1)
    return forward, backward, neighbours * _sent(job, hw, stack)


def _sent(job, hw, stack):
    """Seconds of what a stage exchanges with one neighbour for one micro-batch."""
    size = 2 * job.model.seq * job.micro_batch * job.model.hidden
    far = job.gpus > hw.per_node  # else the whole pipeline is in one node
    slices = job.tp if stack.sends == "slices" or job.sequence_parallel else 1
    one = transfer_seconds(size, hw, far, slices, not job.sequence_parallel)
    return one * stack.transfers / 2 * job.virtual


def passes(job, hw, stack):
    """[(forward, backward)] seconds of one micro-batch on each stage, half the transfers each."""
    found, alike = [], {}
    for number, count in enumerate(job.layers):
        kind = count, number == 0, number == job.pp - 1
        if kind not in alike:
            one, two, sent = stage(job, number, hw, stack)
            alike[kind] = sum(one) + sent / 2, sum(two) + sent / 2
        found.append(alike[kind])
    return found


def pipeline(each, m, virtual):
    """(seconds of a pipeline, the stage that decides) of the `passes` of all stages.

    A stage waits until the first micro-batch comes, computes m of them, and its last gradient goes
    all the way back. While its first one is behind it, it makes the forward passes of its warm-up;
    it idles for what the way to the end and back takes longer. So it does once more at the end,
    when it has backward passes alone. For equal stages that makes m times a stage, and every other
    stage once. Chunks shorten the ways, and are equal.
    """
    totals = [forward + backward for forward, backward in each]
    if virtual > 1:
        slowest = max(totals)
        return m * slowest + (sum(totals) - slowest) / virtual, totals.index(slowest)
    found, before, behind = (0.0, 0), 0.0, sum(totals)
    for number, (forward, backward) in enumerate(each):
        behind -= totals[number]
        ahead = min(len(each) - number - 1, m - 1)
        idle = max(0.0, behind - ahead * forward)
        if m - 1 > ahead:
            idle += max(0.0, behind - ahead * backward)
        found = max(found, (before + m * totals[number] + idle, number))
        before += totals[number]
    return found


class Estimate(NamedTuple):
    """Seconds of one iteration, in all and by what they are spent on; the parts add up."""

    seconds: float
    products: float
    bytes: float
    tensor: float
    pipeline: float
    bubble: float
    data: float
    optimizer: float


def estimate(job, hw, stack):
    """The Estimate of a Job on some Hardware with a Stack."""
    seconds, slowest = pipeline(passes(job, hw, stack), job.m, job.virtual)
    forward, backward, sent = stage(job, slowest, hw, stack)
    work = forward.plus(backward).times(job.m)
    bubble = max(0.0, seconds - sum(work) - sent * job.m)
    parts = (*work, sent * job.m, bubble, *_after(job, hw, stack))
    return Estimate(sum(parts), *parts)


def _after(job, hw, stack):
    """(seconds of the sums over the replicas, of the optimizer) behind the last micro-batch."""
    most = max(parameters(job))
    size = most * stack.gradient
    data = sum_seconds(size, job.dp, hw, job.tp)
    if job.zero:  # from stage 2 on nothing whole outlives a backward pass; stage 3 has no weights
        sums = job.m if job.zero > 1 else 1
        gathers = 2 * job.m if job.zero == 3 else 1
        data = sums * half_seconds(size, job.dp, hw, job.tp)
        data += gathers * half_seconds(2 * most, job.dp, hw, job.tp)
    if job.pp > 1:  # the embedding stands on the first and the last stage
        table = job.model.vocab * job.model.hidden / job.tp * stack.gradient
        data += sum_seconds(table, 2, hw, job.tp * job.dp * (job.pp - 1))
    owned = most / job.dp if job.zero else most
    return data, moved(4 * most + 40 * owned, hw)


def limit(job, hw, stack):
    """Seconds with perfect kernels and wires, but the bubble, bytes and sums of this stack."""
    return estimate(job, hw.perfect(), stack).seconds


def simulated(job, hw, stack):
    """The pipeline alone as a Simulation of the schedule's own instructions."""
    each = passes(job, hw, stack)
    chunks = [[part[way] / job.virtual for part in each] * job.virtual for way in (0, 1)]
    return simulate(job.schedule, *chunks)
