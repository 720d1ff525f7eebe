"""Before the first step: meeting the ranks that a launcher started, refusing what can't go well.

What would end in a hang, or in a model that is quietly wrong, is found here, on every rank: an
environment that makes no sense, a port in use, a node with another configuration, other data or
other versions, a model too large for the machine.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
from datetime import timedelta
from importlib.metadata import version

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from minimtnlg.device import backend, device, gpus, memory, select
from minimtnlg.errors import InputError
from minimtnlg.parallel.collectives import all_reduce
from minimtnlg.parallel.layout import Layout

PATIENCE = 300  # seconds that ranks wait for each other; nodes of a cluster start unevenly


def launched():
    """(this process's rank, number of ranks) where a launcher has started it, else (0, None).

    InputError for an environment that no launcher would leave behind.
    """
    if "RANK" not in os.environ or dist.is_initialized():
        return 0, None
    rank, world, port = (_number(name) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    address = os.environ.get("MASTER_ADDR", "")
    if not 0 <= rank < world or not address or not 0 < port < 65536:
        raise InputError(
            f"{_told('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')} in the environment: a "
            "launcher such as torchrun sets all four, with RANK below WORLD_SIZE; without one, "
            "unset RANK"
        )
    if "LOCAL_WORLD_SIZE" in os.environ or "LOCAL_RANK" in os.environ:
        local, here = _number("LOCAL_RANK"), _number("LOCAL_WORLD_SIZE")
        if not 0 <= local < here or world % here:
            raise InputError(
                f"{_told('LOCAL_RANK', 'LOCAL_WORLD_SIZE', 'WORLD_SIZE')} in the environment: a "
                "launcher numbers the ranks of each node from 0, and gives all nodes equally many"
            )
    return rank, world


def _number(name):
    text = os.environ.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() else -1


def _told(*names):
    return ", ".join(f"{name}={os.environ.get(name, '')!r}" for name in names)


@contextlib.contextmanager
def joined():
    """This process as one of a launcher's ranks, in the process group of all of them.

    InputError where they can't meet: the port is in use, or some of them don't come.
    """
    select()
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        store, rank, world = next(rendezvous("env://", timeout=timedelta(seconds=PATIENCE)))
        store = dist.PrefixStore("minimtnlg", store)
        _refuse_other_backends(store, rank, world)
        later = dist.default_pg_timeout  # 30 minutes: rank 0 may have a corpus to prepare
        store.set_timeout(later)
        dist.init_process_group(
            backend(), store=store, rank=rank, world_size=world, timeout=later
        )
    except dist.DistNetworkError as error:
        reason = " ".join(str(error).split())
        if "EADDRINUSE" in reason:
            raise InputError(
                f"port {os.environ['MASTER_PORT']} is in use on this node, by another job or by "
                "what is left of an earlier one: choose another MASTER_PORT"
            ) from None
        raise InputError(f"rank 0 can't be reached at {address}: {reason[:200]}") from None
    except dist.DistStoreError:
        raise InputError(
            f"after {PATIENCE} s not all {os.environ['WORLD_SIZE']} ranks have come to {address}: "
            "start as many as WORLD_SIZE says"
        ) from None
    try:
        yield
    finally:
        dist.destroy_process_group()


def _refuse_other_backends(store, rank, world):
    """InputError, on every rank, where not all have a GPU of their own, or all have none.

    They would wait for each other in different libraries.
    """
    seen = gpus()
    if seen and backend() == "gloo":
        mine = f"sees {seen} GPUs for {os.environ.get('LOCAL_WORLD_SIZE', 1)} local ranks"
    else:
        mine = "has a GPU" if seen else "has no GPU"
    store.set(f"rank {rank}", mine)
    if rank == 0:
        told = [store.get(f"rank {other}").decode() for other in range(world)]
        wrong = [f"rank {r} {words}" for r, words in enumerate(told) if "sees" in words]
        if not wrong and len(set(told)) > 1:
            wrong = [f"rank {told.index(words)} {words}" for words in sorted(set(told))]
        store.set("wrong", ", ".join(wrong[:2]))
    if wrong := store.get("wrong").decode():
        raise InputError(
            f"{wrong}: give each rank a GPU (no --gpus-per-task or --gpu-bind, no more ranks than "
            "GPUs), or hide them from all, CUDA_VISIBLE_DEVICES="
        )


@contextlib.contextmanager
def together(failed=""):
    """An InputError, or OSError, of one rank becomes an InputError of all: none waits for it.

    Where ranks complain of different things, it is the first rank's complaint. failed: what an
    OSError means here, in words that are put before its own.
    """
    complaint = None
    try:
        yield
    except (InputError, OSError) as error:
        told = failed and not isinstance(error, InputError)
        complaint = f"{failed}: {error}" if told else str(error)
        if not dist.is_initialized():
            raise InputError(complaint) from None
    if dist.is_initialized():
        complaints = gathered(complaint)
        for rank, complaint in enumerate(complaints):
            if complaint:
                everyone = complaints.count(complaint) == len(complaints)
                raise InputError(complaint if everyone else f"rank {rank}: {complaint}") from None


def gathered(value):
    """[value of each rank], on every rank; [value] where there are no others."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def refuse_other_ranks(config, corpus, packages):
    """InputError, on every rank, where ranks have other configurations, data or versions.

    corpus: data.corpus.Corpus as this rank finds it on its node. packages: those that have to be
    the same on all nodes.
    """
    if not dist.is_initialized():
        return
    mine = {"configuration": _digest(dataclasses.asdict(config)), "corpus": digest_of(corpus)}
    mine |= {f"version of {package}": version(package) for package in packages}
    everyone = gathered(mine)
    for what, first in everyone[0].items():
        for rank, theirs in enumerate(everyone):
            if theirs[what] != first:
                raise InputError(
                    f"rank {rank} has another {what} than rank 0, {theirs[what]} and not {first}: "
                    "all nodes need the same files and the same versions"
                )


def digest_of(corpus):
    """A few digits that tell one corpus from another: its tokenizer, its files."""
    sources = corpus.manifest["sources"]
    return _digest([corpus.manifest["tokenizer"], [s["files"] for s in sources.values()]])


def _digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


@torch.no_grad()
def refuse_other_weights(state, dimensions, mesh):
    """InputError, on every rank, where ranks that should start from the same weights do not.

    state: {name: this rank's tensor}, before anything is shared. dimensions: {name: dimension along
    which tensor parallelism cuts it, or None}. Every rank draws its own; a rank with another
    version of PyTorch, say, would draw others.
    """
    sums = {name: x.double().abs().sum() for name, x in state.items()}
    whole = [total for name, total in sums.items() if dimensions[name] is None]
    tied = [sums["embedding.weight"]] if mesh.ends else []
    for axis, sums_of in (("dp", sums.values()), ("tp", whole), ("ends", tied)):
        mine = torch.stack([*sums_of, torch.zeros((), dtype=torch.float64, device=device())])
        largest = all_reduce(mine.clone(), getattr(mesh, axis), "max")
        smallest = -all_reduce(-mine, getattr(mesh, axis), "max")
        if not torch.equal(largest, smallest):
            raise InputError(
                f"ranks of a {axis} group did not draw the same weights: install the "
                "same version of PyTorch for all of them"
            )


def refuse_too_large(config):
    """Refuse a model whose weights, gradients and Adam's moments alone exceed the memory here."""
    each = {"float64": 32, "float32": 16}.get(config.train.dtype, 20)  # 20 bytes [S3, sec. 2.1.1]
    p, count = config.parallel, config.model.parameters()
    world = Layout.of(p).world
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world))  # ranks on this machine
    copies = p.dp if p.zero == 0 else 1  # with ZeRO at the very least
    need, there = count * each * copies * here / world, memory(here)
    if need > there:
        raise InputError(
            f"{count:,} parameters take {need / 1e9:,.0f} GB with gradients and moments, this "
            f"machine has {there / 1e9:,.0f} GB: lower model.layers or model.hidden"
        )
