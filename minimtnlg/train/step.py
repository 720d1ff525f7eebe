"""One training step as a function of (model, optimizer, micro-batches): tensors in, tensors out.

No file, no data loader, no waiting for the device: reading numbers back is the trainer's business.
"""

import torch

from minimtnlg.model import Draw


def step(model, optimizer, micro_batches, *, lr, seed, number):
    """Forward and backward of every micro-batch, then one update; returns (loss, norm).

    micro_batches: list of data.batches.Batch on the model's device, together the global batch.
    seed, number: of the run and of this step; they name the dropout masks.

    Both are scalar tensors. loss is the mean over all unmasked tokens of the global batch, not the
    mean of the micro-batches' means: so the step divides by the number of tokens first, whatever
    the masks. norm is the gradients' norm before clipping.
    """
    tokens = torch.stack([batch.mask.sum() for batch in micro_batches]).sum().clamp(min=1)
    loss = torch.zeros((), device=tokens.device)
    optimizer.zero()
    for k, batch in enumerate(micro_batches):
        share = model.loss(batch, Draw(seed, number, k)) / tokens
        (share * optimizer.loss_scale.scale).backward()
        optimizer.accumulate()
        loss = loss + share.detach()
    return loss, optimizer.step(lr)


@torch.no_grad()
def evaluate(model, micro_batches):
    """Mean cross-entropy (nats, scalar tensor) over all unmasked tokens, without dropout."""
    tokens = torch.stack([batch.mask.sum() for batch in micro_batches]).sum().clamp(min=1)
    return torch.stack([model.loss(batch) for batch in micro_batches]).sum() / tokens
