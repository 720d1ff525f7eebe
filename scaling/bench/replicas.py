"""Two replicas of nano, ours beside PyTorch's: DistributedDataParallel and FSDP.

    python scaling/bench/replicas.py              # needs two cores that do nothing else

All take the same micro-batches by turns in the same two ranks, one thread each, with Adam and
clipping; the table gives medians. Accumulation, masks and the mean over tokens are alike. FSDP is
used as fully_shard on each block and on the model, the counterpart of ZeRO 3.
"""

import contextlib
import statistics
import time

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from minimtnlg import run
from minimtnlg.config import preset
from minimtnlg.data.batches import Batch
from minimtnlg.model import GPT
from minimtnlg.parallel.layout import Layout
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.train.optimizer import Optimizer
from minimtnlg.train.step import step

ROUNDS, MICRO_BATCHES, SEQUENCES = 7, 4, 2


class Loss(torch.nn.Module):
    """The model as PyTorch's wrappers want it: forward gives the loss."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        return self.model.loss(batch)


def ours(config, zero):
    """A function that takes one step of ours at this stage of ZeRO and returns the loss."""
    model = GPT(config.model, Mesh(Layout(dp=2)))
    optimizer = Optimizer(model, config.optim, zero)
    return lambda batches: step(model, optimizer, batches, lr=1e-3, seed=1, number=1)[0]


def theirs(config, wrap):
    """The same step with a wrapper of PyTorch, which divides gradients by the number of ranks."""
    model = wrap(Loss(GPT(config.model)))
    adam = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True)

    def take(batches):
        tokens = torch.stack([batch.mask.sum() for batch in batches]).sum()
        dist.all_reduce(tokens)
        adam.zero_grad()
        total = 0.0
        for k, batch in enumerate(batches):
            last = k == len(batches) - 1
            quiet = isinstance(model, DistributedDataParallel) and not last
            with model.no_sync() if quiet else contextlib.nullcontext():
                share = model(batch) * 2 / tokens
                share.backward()
            total += share.detach() / 2
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        dist.all_reduce(total)
        return total

    return take


def sharded(module):
    """FSDP as ZeRO 3: parameters freed after forward, gathered again for backward."""
    for block in module.model.blocks:
        fully_shard(block)
    return fully_shard(module)


SIDES = {
    "ours, ZeRO 0": lambda config: ours(config, 0),
    "DistributedDataParallel": lambda config: theirs(config, DistributedDataParallel),
    "ours, ZeRO 1": lambda config: ours(config, 1),
    "ours, ZeRO 2": lambda config: ours(config, 2),
    "ours, ZeRO 3": lambda config: ours(config, 3),
    "FSDP": lambda config: theirs(config, sharded),
}


def measure():
    """{side: (median seconds of a step, its loss)} on this rank."""
    config = preset("nano")
    g = torch.Generator().manual_seed(dist.get_rank())
    ids = torch.randint(2048, (MICRO_BATCHES * SEQUENCES, 129), generator=g)
    batches = [
        Batch(part[:, :-1], part[:, 1:], torch.ones(SEQUENCES, 128))
        for part in ids.split(SEQUENCES)
    ]
    steps = {name: make(config) for name, make in SIDES.items()}
    losses = {name: take(batches).item() for name, take in steps.items()}  # also warms up
    seconds = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, take in steps.items():
            dist.barrier()
            start = time.perf_counter()
            take(batches).item()
            seconds[name].append(time.perf_counter() - start)
    return {name: (statistics.median(seconds[name]), losses[name]) for name in steps}


if __name__ == "__main__":
    result = run(measure, 2, timeout=600)[0]
    tokens = 2 * MICRO_BATCHES * SEQUENCES * 128
    print(f"{'':<25}{'tokens/s':>9}{'loss of the first step':>24}")
    for name, (seconds, loss) in result.items():
        print(f"{name:<25}{tokens / seconds:>9,.0f}{loss:>24.5f}")
    pairs = (("ours, ZeRO 0", "DistributedDataParallel"), ("ours, ZeRO 3", "FSDP"))
    for name, peer in pairs:
        print(f"{name} has {result[peer][0] / result[name][0]:.2f} times the speed of {peer}")
