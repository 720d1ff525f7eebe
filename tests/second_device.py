"""A second device on a machine that has none: tensors in the memory of the CPU, under guard.

PyTorch lets a program add a device of its own ("PrivateUse1"). This one is called "pretend": a
tensor of it wraps one of the CPU, with which each operation is carried out. What a GPU would refuse
is refused: tensors of both devices in one operation, `.numpy()`. `Mode.waits` counts how often a
program waits for the device: `.item()`, copies from one to the other.

A process that has called `begin` keeps the device: call it in a rank of its own.
"""

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

COPIES = "_to_copy", "copy_", "_foreach_copy_"  # the operations that lead from one to the other
GENERATORS = {}  # by their seed: of which device they are; PyTorch makes none for this one
READS = "_local_scalar_dense", "equal", "is_nonzero", "nonzero"


def begin():
    """Add the device to this process, for good, and let it be minimtnlg's. Before its imports."""
    _setup_privateuseone_for_python_backend("pretend")
    where = torch.device("pretend", 0)
    from minimtnlg import device

    def generator(*purpose, device="cpu"):
        GENERATORS[seed_of(*purpose)] = torch.device(device).type
        return torch.Generator().manual_seed(seed_of(*purpose))

    seed_of, device.device, device.generator = device.seed_of, lambda: where, generator
    dist.new_group = _also_for(where, dist.new_group)
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=) is seen as a copy
    mode = Mode()
    mode.__enter__()
    return mode


def _also_for(device, new_group):
    """`new_group`, whose groups take the device's tensors to the library of the CPU's."""

    def made(*args, **kwargs):
        group = new_group(*args, **kwargs)
        if isinstance(group, dist.ProcessGroup):
            gloo = group._get_backend(torch.device("cpu"))
            group._register_backend(device, dist.ProcessGroup.BackendType.GLOO, gloo)
        return group

    return made


class Tensor(torch.Tensor):
    """A tensor of the device; `inside` is the CPU's."""

    @staticmethod
    def __new__(cls, inside):
        made = torch.Tensor._make_wrapper_subclass(
            cls, inside.shape, strides=inside.stride(), storage_offset=inside.storage_offset(),
            dtype=inside.dtype, device="pretend:0",
        )  # fmt: skip
        made.inside = inside
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def untyped_storage(self):
        return self.inside.untyped_storage()

    def tolist(self):
        return self.cpu().tolist()

    def __repr__(self):
        return f"pretend({self.inside})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return carried_out(func, args, kwargs or {})


class Mode(TorchDispatchMode):
    """Sees the operations that have no tensor of the device yet, since they make one."""

    waits = 0  # how often the program has waited for the device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return carried_out(func, args, kwargs or {})


def carried_out(func, args, kwargs):
    """The operation on the CPU; its results are of the device where it should have taken place."""
    name = func._schema.name.removeprefix("aten::")
    leaves = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    ours = [isinstance(x, Tensor) for x in leaves]
    device = kwargs.get("device")
    if name not in COPIES and any(ours):
        # As everywhere in PyTorch, a single number of the CPU may meet tensors of any device.
        alien = [x for x, mine in zip(leaves, ours, strict=True) if not mine and x.dim() > 0]
        if alien:
            raise RuntimeError(f"{func}: tensors of pretend and of the CPU, {alien[0].shape}")
    if device is not None:
        there = torch.device(device).type == "pretend"
        kwargs = kwargs | ({"device": torch.device("cpu")} if there else {})
    else:
        there = ours[0] if name in ("copy_", "_foreach_copy_") and ours else any(ours)
    crossed = name in COPIES and any(there != mine for mine in ours)
    Mode.waits += crossed or (any(ours) and name in READS)
    if generator := kwargs.get("generator"):
        where = GENERATORS.get(generator.initial_seed(), "cpu")
        if (where == "pretend") != there:
            raise RuntimeError(f"{func}: a generator of {where} for a tensor of another device")
    result = func(*tree_map(_inside, args), **tree_map(_inside, kwargs))
    known = {id(x.inside): x for x in leaves if isinstance(x, Tensor)}

    def outside(x):
        if not isinstance(x, torch.Tensor) or not there:
            return x
        return known[id(x)] if id(x) in known else Tensor(x)

    return tree_map(outside, result)


def _inside(x):
    return x.inside if isinstance(x, Tensor) else x
