"""The training step of any rank of the real job, on a laptop: nothing is computed or allocated.

Tensors are fake: they have a shape and a type, but no numbers. So is the process group: a call
returns at once, and nobody is at the other end. The code is that of every run: the model, the
schedule, `train/step.py` and the optimizer, as rank 1 234 of 2 240 would carry them out.

What is counted: parameters; FLOPs of each product; calls and bytes of each collective and transfer;
bytes of all tensors that are alive at the same time.
"""

import weakref
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from minimtnlg.config import sized
from minimtnlg.data.batches import Batch
from minimtnlg.errors import InputError
from minimtnlg.model import build
from minimtnlg.parallel.collectives import Recorder, Traffic
from minimtnlg.parallel.layout import Layout, Place
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.parallel.schedules import named
from minimtnlg.parallel.tensor import split_dimensions
from minimtnlg.train.optimizer import Optimizer
from minimtnlg.train.step import step


class DryRun(NamedTuple):
    """What one rank does in one step of m micro-batches.

    parameters  {name: (elements, whether the tensor group has cut it)} of this rank
    flops       of one micro-batch, with the forward passes that are made again
    traffic     {(operation, group): Traffic} of the whole step
    bytes       {kind: bytes}: parameters, gradients, optimizer, and activations at the peak
    """

    rank: int
    place: Place
    m: int
    parameters: dict
    flops: int
    traffic: dict
    bytes: dict

    @property
    def count(self):
        """Parameters on this rank."""
        return sum(elements for elements, _ in self.parameters.values())

    @property
    def counted(self):
        """{quantity: value}, under the names of `expected.expected`."""
        def sent(operation, group):
            return self.traffic.get((operation, group), Traffic()).bytes

        return {
            "parameters": self.count,
            "FLOPs a micro-batch": self.flops,
            "bytes sent to other stages": sent("send", "pp"),
            "bytes summed over tensor ranks": sent("all_reduce", "tp"),
            "peak bytes": self.peak,
        }

    @property
    def peak(self):
        """Bytes of all tensors together at the peak."""
        return sum(self.bytes.values())


class Ours:
    """The package's own rank: model and optimizer. config: a whole Config. mesh: its Mesh."""

    def __init__(self, config, mesh):
        self.config, self.model = config, build(config, mesh)
        self.optimizer = Optimizer(self.model, config.optim, config.parallel.zero)

    def parameters(self):
        """{name: (elements, whether it is cut over the tensor group)}."""
        cut = split_dimensions(self.model)
        return {n: (p.numel(), cut[n] is not None) for n, p in self.model.named_parameters()}

    def step(self, m):
        """One training step of m micro-batches."""
        p, batch = self.config.parallel, fake_batch(self.config)
        schedule = named(p.schedule, p.pp, m, p.virtual)
        step(self.model, self.optimizer, [batch] * m, lr=0, seed=1, number=0, schedule=schedule)

    def held(self):
        """{kind: tensors} that stay from step to step."""
        replicas, state = self.optimizer.replicas, self.optimizer.adam.state
        return {
            "parameters": [*self.model.parameters(), *replicas.owned],
            "gradients": replicas.gradients,
            "optimizer": [
                *self.optimizer.masters.masters, *(x for s in state.values() for x in s.values()),
            ],
        }  # fmt: skip


def dry_run(config, rank=0, gpus=None, engine=Ours):
    """The DryRun of `rank` in the world that a config.Config describes.

    gpus    ranks of the world, as for `config.sized`
    engine  what is run: a class like Ours

    The attention is the readable one, whose scores are counted in memory.

    InputError for a rank that there isn't, and in a process that is a real rank.
    """
    config = sized(config, gpus)
    # Fused kernels of a CPU are not those of a GPU: the formula is carried out.
    config = replace(config, model=replace(config.model, attention="readable"))
    p, train = config.parallel, config.train
    layout = Layout.of(p)
    place, m = layout.place(rank), train.global_batch // (p.dp * train.micro_batch)
    # Enough micro-batches to fill this stage, and one more: nothing new happens after that.
    fills = {"gpipe": m, "1f1b": p.pp - place.pp + 1, "interleaved": 2 * p.pp}[p.schedule]
    few, many = min(m, p.pp if p.virtual > 1 else 1), min(m, fills)
    if dist.is_initialized():
        raise InputError("a dry run only pretends to be a rank; here is a real one already")
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=layout.world)
    try:
        mesh = Mesh(layout)  # groups are made of numbers: outside of what is fake
        with FakeTensorMode(), Counter() as seen:
            run = engine(config, mesh)
            first = _step(run, seen, few)  # this makes Adam's moments, too
            second = _step(run, seen, many) if many > few else first
            held, parameters = _held(run.held()), run.parameters()
    finally:
        dist.destroy_process_group()
    held["activations"] = seen.peak - sum(held.values())
    traffic = _scaled(first[1], second[1], few, many, m)
    return DryRun(rank, place, m, parameters, second[0] // many, traffic, held)


def fake_batch(config):
    """A Batch of a Config's shape."""
    shape = config.train.micro_batch, config.model.seq
    tokens = torch.zeros(shape, dtype=torch.int64)
    return Batch(tokens, tokens, torch.ones(shape))


class Counter(TorchDispatchMode):
    """Counts FLOPs of products, and bytes of the storages that are alive, in the block.

    PyTorch's own counter of FLOPs holds on to what is computed again, and so hides its end.
    """

    def __init__(self):
        super().__init__()
        self.flops, self.alive, self.peak, self._seen = 0, 0, 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **kwargs, out_val=result)
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._notice(tensor.untyped_storage())
        return result

    def _notice(self, storage):
        address = storage._cdata
        if address not in self._seen:
            self._seen[address] = storage.nbytes()
            self.alive += storage.nbytes()
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self._ended, address)

    def _ended(self, address):
        self.alive -= self._seen.pop(address)


def _step(run, seen, m):
    """(FLOPs, traffic) of one step of m micro-batches; `seen` has its peak afterwards."""
    before, seen.peak = seen.flops, seen.alive
    with Recorder() as calls:
        run.step(m)
    return seen.flops - before, calls.traffic()


def _scaled(first, second, few, many, m):
    """Traffic of m micro-batches, from that of few and of many: each adds the same."""
    found = {}
    for key, high in second.items():
        low, sums = vars(first.get(key, Traffic())), {}
        for name, value in vars(high).items():
            sums[name] = value + (m - many) * (value - low[name]) / max(1, many - few)
        found[key] = Traffic(*map(round, list(sums.values())[:3]), sums["wire_bytes"])
    return found


def _held(kinds):
    """{kind: bytes}, a storage that two kinds share counted for the first."""
    found, known = {}, set()
    for kind, tensors in kinds.items():
        sizes = {x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in tensors}
        found[kind] = sum(size for address, size in sizes.items() if address not in known)
        known |= sizes.keys()
    return found
