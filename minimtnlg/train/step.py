"""One training step as a function of (model, optimizer, micro-batches): tensors in, tensors out.

No file, no data loader, no waiting for the device: reading numbers back is the trainer's business.
The same lines train one process and a mesh of thousands: a process by itself is a pipeline of one
stage, one replica and one slice.
"""

import torch

from minimtnlg.device import fp32
from minimtnlg.errors import InputError
from minimtnlg.model import Draw
from minimtnlg.parallel.collectives import all_reduce, broadcast, rank, size
from minimtnlg.parallel.pipeline import carry_out
from minimtnlg.parallel.schedules import named


def step(model, optimizer, micro_batches, *, lr, seed, number, schedule=None, limits=None):
    """Forward and backward of every micro-batch, then one update; returns (loss, norm).

    micro_batches: list of data.batches.Batch on the model's device, those of this replica, all of
    one shape; together with those of the other replicas they are the global batch. Stages between
    the first and the last take only their shapes. seed, number: of the run and of this step; they
    name the dropout masks. schedule: None for 1F1B, or interleaved for a model of several chunks.
    limits: (loss, norm); a step that comes out above one of them, or as no number, updates nothing.

    Both results are scalar tensors, the same on every rank. loss is the mean over all unmasked
    tokens of the global batch, not the mean of the micro-batches' means: so the step divides by the
    number of tokens first, whatever the masks. norm is the gradients' norm before clipping.
    """
    mesh, m = model.mesh, len(micro_batches)
    schedule = _fitting(schedule, model, m)
    tokens = _tokens(model, micro_batches)
    total = []
    optimizer.zero()

    def forward(k, chunk, x):
        draw = Draw(seed, number, k * size(mesh.dp) + rank(mesh.dp))
        y = model.stage(micro_batches[k], x, draw, chunk)
        if not model.ends(chunk):
            return y
        share = y / tokens
        total.append(share.detach())
        return share * optimizer.loss_scale.scale

    def backward(k, chunk, y, gradient):
        optimizer.replicas.begin(last=k == m - 1)
        torch.autograd.backward(y, gradient)
        optimizer.accumulate()

    carry_out(schedule, mesh, forward, backward, **_messages(model, micro_batches))
    optimizer.finish()  # first: what is left of the gradients is sent before the loss is
    loss = _mean(model, total)
    good = limits and (lambda norm: loss.isfinite() & (loss <= limits[0]) & (norm <= limits[1]))
    return loss, optimizer.step(lr, good)


@torch.no_grad()
def evaluate(model, micro_batches, schedule=None):
    """Mean cross-entropy (nats, scalar tensor) over all unmasked tokens, without dropout.

    Arguments as for `step`; the schedule, if given, is a forward-only one.
    """
    mesh = model.mesh
    schedule = _fitting(schedule, model, len(micro_batches), forward_only=True)
    tokens = _tokens(model, micro_batches)
    total = []

    def forward(k, chunk, x):
        y = model.stage(micro_batches[k], x, None, chunk)
        if model.ends(chunk):
            total.append(y / tokens)
        return y

    carry_out(schedule, mesh, forward, **_messages(model, micro_batches))
    return _mean(model, total)


def _fitting(schedule, model, m, forward_only=False):
    """`schedule`, or the usual one for this model; InputError where it has other chunks."""
    name, pp = "interleaved" if model.virtual > 1 else "1f1b", model.mesh.layout.pp
    schedule = schedule or named(name, pp, m, model.virtual, forward_only)
    if schedule.virtual != model.virtual:
        raise InputError(
            f"a schedule of {schedule.virtual} chunks a stage for a model of {model.virtual}: give "
            "both the same parallel.virtual"
        )
    return schedule


def _tokens(model, micro_batches):
    """Unmasked tokens of the global batch, at least 1; None where no loss is made."""
    if not model.ends(model.virtual - 1):
        return None
    tokens = torch.stack([batch.mask.sum() for batch in micro_batches]).sum()
    return all_reduce(tokens, model.mesh.dp).clamp(min=1)


def _mean(model, shares):
    """The sum of all replicas' shares, known to the last stage, on every rank."""
    first = next(model.parameters())
    zero = torch.zeros((), dtype=fp32(first.dtype), device=first.device)
    loss = all_reduce(torch.stack([zero, *shares]).sum(), model.mesh.dp)
    return broadcast(loss, size(model.mesh.pp) - 1, model.mesh.pp)


def _messages(model, micro_batches):
    """What stages send each other, in carry_out's words."""
    return {
        "shape": model.handed_on(micro_batches[0]),
        "dtype": next(model.parameters()).dtype,
        "slices": not model.sequence_parallel,
    }
