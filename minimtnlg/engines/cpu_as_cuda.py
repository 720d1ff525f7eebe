"""Lets a library that names "cuda" by hand run on a CPU; its own files stay as they are.

Megatron-Core's schedules, optimizers and buffers say device="cuda" and call torch.cuda. Inside
`cpu_as_cuda()` these names of *torch* mean the CPU; outside they are what they were. Streams and
events, of which a CPU has none, do nothing: it has always finished what it was given.
"""

import contextlib
import functools
from unittest import mock

import torch
import torch._dynamo  # before anything is replaced: it keeps a table of torch's functions

from minimtnlg.device import device

FACTORIES = (
    "arange as_tensor empty empty_like eye full full_like linspace ones ones_like rand randint "
    "randn tensor zeros zeros_like"
).split()


def _names_cuda(device):
    if isinstance(device, torch.device):
        return device.type == "cuda"
    if isinstance(device, str):
        return device.startswith("cuda")
    return isinstance(device, int) and not isinstance(device, bool)


def _on_cpu(factory):
    @functools.wraps(factory)
    def made(*args, **kwargs):
        if _names_cuda(kwargs.get("device")):
            kwargs["device"] = "cpu"
        kwargs.pop("pin_memory", None)
        return factory(*args, **kwargs)

    return made


class _Stream:
    """A stream or an event of a device that never lags behind."""

    def __init__(self, *args, **kwargs):
        pass

    def record_event(self, event=None):
        return _Stream()

    def query(self):
        return True

    def nothing(self, *args):
        pass

    synchronize = wait = record = wait_event = wait_stream = nothing


def _nothing(*args, **kwargs):
    pass


def _cuda():
    """{name in torch.cuda: what it means on a CPU}."""
    here = _Stream()
    quiet = "synchronize empty_cache set_device".split()
    return {name: functools.partial(_nothing) for name in quiet} | {
        "current_device": lambda: 0,
        "manual_seed": lambda seed: torch.default_generator.manual_seed(seed),
        "get_rng_state": lambda device="cuda": torch.get_rng_state(),
        "set_rng_state": lambda state, device="cuda": torch.set_rng_state(state),
        "current_stream": lambda *device: here,
        "default_stream": lambda *device: here,
        "stream": lambda stream: contextlib.nullcontext(),
        "Stream": _Stream,
        "Event": _Stream,
        "_initialized": True,
        "default_generators": (torch.default_generator,),
    }


def _methods():
    """{name in torch.Tensor: what it means on a CPU}."""
    to, type_ = torch.Tensor.to, torch.Tensor.type

    def to_cpu(self, *args, **kwargs):
        args = ["cpu" if _names_cuda(value) else value for value in args]
        if _names_cuda(kwargs.get("device")):
            kwargs["device"] = "cpu"
        return to(self, *args, **kwargs)

    def type_of(self, *args, **kwargs):  # "torch.FloatTensor" would not be taken for a gradient
        if args or kwargs:
            return type_(self, *args, **kwargs)
        return type_(self).replace("torch.", "torch.cuda.")

    return {"cuda": lambda self, *args, **kwargs: self, "to": to_cpu, "type": type_of}


@contextlib.contextmanager
def cpu_as_cuda():
    """Within the block, "cuda" is the CPU for whoever asks torch."""
    with contextlib.ExitStack() as stack:
        cuda = _cuda()
        for name, value in cuda.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        for name in ("get_rng_state", "set_rng_state"):
            stack.enter_context(mock.patch.object(torch.cuda.random, name, cuda[name]))
        for name, value in _methods().items():
            stack.enter_context(mock.patch.object(torch.Tensor, name, value))
        for name in FACTORIES:
            replaced = _on_cpu(getattr(torch, name))
            stack.enter_context(mock.patch.object(torch, name, replaced))
        yield


def on_device(function):
    """`function` with "cuda" meaning the process's device; where that is a GPU, nothing changes."""

    @functools.wraps(function)
    def inside(*args, **kwargs):
        with contextlib.nullcontext() if device().type == "cuda" else cpu_as_cuda():
            return function(*args, **kwargs)

    return inside
