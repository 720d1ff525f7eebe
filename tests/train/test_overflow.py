"""An fp16 gradient that overflows on one rank alone stops the update on every rank."""

import pytest
import torch
import torch.distributed as dist

from minimtnlg import run
from minimtnlg.config import Model, Optim
from minimtnlg.model import GPT
from minimtnlg.parallel.layout import Layout
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.train.optimizer import Optimizer

CONFIG = Model(layers=2, hidden=16, heads=2, seq=8, vocab=32)
OPTIM = Optim(lr=0.1, min_lr=0.0, warmup_tokens=0, decay_tokens=1)


def program(axis, zero):
    """(norm, scale, patience, whether any weight moved) of two steps: the first overflows."""
    mesh = Mesh(Layout(**{axis: 2}))
    model = GPT(CONFIG, mesh, dtype=torch.float16)
    optimizer = Optimizer(model, OPTIM, zero)
    last = next(block for block in model.blocks if block is not None).attention.qkv.bias
    told = []
    for overflow in (True, False):
        before = [p.clone() for p in model.parameters()]
        optimizer.zero()
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        if overflow and dist.get_rank() == 1:
            last.grad[-1] = float("inf")  # a row of the shard that rank 1 owns
        optimizer.accumulate()
        norm = optimizer.step(0.1).item()
        moved = any(not torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
        scale = optimizer.loss_scale
        told.append((norm, scale.scale.item(), scale.patience.item(), moved))
    return told


@pytest.mark.parametrize("axis, zero", [("tp", 0), ("pp", 0), ("dp", 0), ("dp", 1), ("dp", 2)])
def test_all_ranks_skip_the_update(axis, zero):
    one, other = run(program, 2, axis, zero)
    assert one == other
    (norm, scale, patience, moved), after = one
    assert not moved and norm == float("inf")
    assert (scale, patience) == (2.0**16, 1)  # one overflow is forgiven
    assert after[0] < float("inf") and after[3]
