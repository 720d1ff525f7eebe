"""How ranks talk: the few operations in use, what they cost on a ring, a recorder of what was sent.

- A group is a torch ProcessGroup, or None: a group of one, which returns its input and makes no
  call. No other file asks how large a group is before it calls.
- Sum is the one reduction needed; the loss over a split vocabulary also takes a maximum.
- Cost: a message takes alpha seconds, and its bytes go at beta bytes a second. Payload is the
  tensor that a rank hands in; wire bytes are what the rank then sends on a ring.
- Recorder lists each call, whoever makes it: this file, PyTorch, Megatron or DeepSpeed.

Strided views (x.T, x[:, ::2]) are copied first: libraries send the memory as it lies, and gloo
does so without a word.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from minimtnlg.errors import InputError

_REDUCTIONS = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}


class _Done:
    """The work of a group of one: nothing is under way."""

    def wait(self):
        return True


def size(group):
    """Number of ranks n of the group; 1 for None."""
    return 1 if group is None else group.size()


def rank(group):
    """This rank's index in the group, 0 to n - 1; 0 for None."""
    return 0 if group is None else group.rank()


def all_reduce(x, group, op="sum", wait=True):
    """Replaces x by the sum (or op="max") of the x of all ranks, in place; returns x.

    x     any shape, the same on each rank; integers too
    wait  False: returns (x, work) at once; x is neither read nor written before work.wait().
          x must be contiguous then.
    """
    if op not in _REDUCTIONS:
        raise InputError(f"all_reduce: op={op!r}, but there are only {', '.join(_REDUCTIONS)}")
    if not wait and not x.is_contiguous():
        raise InputError("all_reduce: wait=False needs a contiguous tensor; call x.contiguous()")
    if group is None:
        return x if wait else (x, _Done())
    if not wait:
        return x, dist.all_reduce(x, _REDUCTIONS[op], group, async_op=True)
    return _in_place(x, lambda y: dist.all_reduce(y, _REDUCTIONS[op], group))


def summed(x, group):
    """The sum of the x of all ranks as a new tensor; x itself in a group of one."""
    return x if group is None else all_reduce(x.clone(), group)


def broadcast(x, source, group):
    """Replaces x by the x of the rank with index `source` in the group, in place; returns x.

    InputError where the group has no such index.
    """
    if not 0 <= source < size(group):
        raise InputError(f"broadcast: no source {source} in a group of {size(group)} ranks")
    if group is None:
        return x
    return _in_place(x, lambda y: dist.broadcast(y, group=group, group_src=source))


def all_gather(x, group):
    """The x of all ranks one after the other: [r, ...] on each of n ranks gives [n r, ...]."""
    if group is None:
        return x
    whole = x.new_empty(size(group) * x.shape[0], *x.shape[1:])
    dist.all_gather_single(whole, x.contiguous(), group=group)
    return whole


def reduce_scatter(x, group, wait=True):
    """This rank's part of the sum over all ranks: [r, ...] gives rows [r/n, ...] of the sum.

    Rank i of the group has the i-th part. wait=False: returns (part, work) at once; until
    work.wait() x is not written and the part not read. InputError where n does not divide r.
    """
    if group is None:
        return x if wait else (x, _Done())
    n, rows = size(group), x.shape[0]
    if rows % n:
        above = rows - rows % n + n
        fits = f"{above - n} or {above}" if above > n else f"{above}"
        raise InputError(
            f"reduce_scatter: {rows} rows can't be cut into {n} equal parts, one for each rank of "
            f"the group {group_name(group)}; {fits} rows would fit"
        )
    part = x.new_empty(rows // n, *x.shape[1:])
    work = dist.reduce_scatter_single(part, x.contiguous(), group=group, async_op=not wait)
    return part if wait else (part, work)


def exchange(sends, receives, group=None):
    """Starts transfers that go on together; returns the works to wait for.

    sends     [(tensor, rank that receives it)]; a tensor isn't changed until it is sent
    receives  [(contiguous tensor to fill, rank that sends it)]
    group     the group whose links are used, all ranks by default. Peers are ranks of the world,
              not indices in the group.

    Two ranks that send to each other at the same time don't wait for each other, as they might if
    each called send, then recv. Between two ranks, messages arrive in the order of the lists.
    """
    ops = [dist.P2POp(dist.isend, x.contiguous(), peer, group) for x, peer in sends]
    ops += [dist.P2POp(dist.irecv, x, peer, group) for x, peer in receives]
    return dist.batch_isend_irecv(ops) if ops else []


def _in_place(x, operation):
    dense = x.contiguous()  # x itself, where it is
    operation(dense)
    return x if dense is x else x.copy_(dense)


# What an operation costs.


# On a ring of n ranks: (messages that a rank sends, pieces that its payload is cut into). An
# all-reduce is a reduce-scatter, then an all-gather of the parts.
_RING = {
    "all_reduce": lambda n: (2 * (n - 1), n),
    "reduce_scatter": lambda n: (n - 1, n),
    "all_gather": lambda n: (n - 1, 1),  # the payload is one part
    "all_to_all": lambda n: (n - 1, n),
    "broadcast": lambda n: (n - 1, max(n - 1, 1)),  # piece by piece; all but the last rank send
    "reduce": lambda n: (n - 1, max(n - 1, 1)),
    "gather": lambda n: (min(n - 1, 1), 1),
    "scatter": lambda n: (n - 1, n),
    "send": lambda n: (1, 1),
    "receive": lambda n: (0, 1),  # counted where it is sent
    "barrier": lambda n: (2 * (n - 1), n),
}


def _ring(operation, n):
    if operation not in _RING:
        raise InputError(f"no cost for {operation!r}; there is one for {', '.join(_RING)}")
    return _RING[operation](n)


def wire_bytes(operation, payload, n):
    """Bytes that each of n ranks sends on a ring for a call whose input has `payload` bytes.

    2 (n-1)/n payload for all_reduce, (n-1)/n payload for reduce_scatter, (n-1) payload for
    all_gather, where the input is 1/n of the result: (n-1)/n of the full tensor for these two.
    """
    messages, pieces = _ring(operation, n)
    return payload * messages / pieces


def ring_seconds(operation, payload, n, alpha, beta):
    """Seconds that a rank sends in a call on a ring of n ranks: messages x alpha + bytes / beta.

    For the operations in use that is the time of the call. A broadcast or a reduce also has to wait
    until its first piece has gone around the ring, which is not counted.

    payload  bytes of the input tensor
    alpha    seconds that a message takes, however short
    beta     bytes a second that a rank sends
    """
    return _ring(operation, n)[0] * alpha + wire_bytes(operation, payload, n) / beta


# What was sent.


class Call(NamedTuple):
    """One call of one rank. bytes is its payload; n the number of ranks in the group."""

    operation: str
    group: str
    elements: int
    bytes: int
    n: int

    @property
    def wire_bytes(self):
        """Bytes that this rank sends if the call is a ring (see wire_bytes)."""
        return wire_bytes(self.operation, self.bytes, self.n)


@dataclass
class Traffic:
    """Sums over calls: their number, elements, payload bytes and ring bytes."""

    calls: int = 0
    elements: int = 0
    bytes: int = 0
    wire_bytes: float = 0


class Recorder(TorchDispatchMode):
    """Lists the calls that this rank makes in the block, asynchronous ones and transfers included.

        with Recorder() as seen:
            all_reduce(x, mesh.tp)
        seen.calls      # [Call(operation="all_reduce", group="tp", elements=..., bytes=..., n=2)]
        print(seen.table())

    It sees PyTorch's operators (namespaces c10d and _c10d_functional), so any code may make the
    calls, on real tensors or on fake ones.
    """

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.rpartition("::")
        if name[0] in ("c10d", "_c10d_functional", "_dtensor"):
            names = [argument.name for argument in func._schema.arguments]
            given = dict(zip(names, args, strict=False)) | (kwargs or {})
            self.calls += _calls(name[2], given)
        return func(*args, **(kwargs or {}))

    def traffic(self):
        """{(operation, group): Traffic}, in the order of the first calls."""
        sums = {}
        for call in self.calls:
            total = sums.setdefault((call.operation, call.group), Traffic())
            total.calls += 1
            total.elements += call.elements
            total.bytes += call.bytes
            total.wire_bytes += call.wire_bytes
        return sums

    def table(self):
        """The traffic as text: a line for each operation and group."""
        heads = ("operation", "group", "calls", "elements", "payload bytes", "ring bytes")
        rows = [
            (*key, f"{t.calls:,}", f"{t.elements:,}", f"{t.bytes:,}", f"{t.wire_bytes:,.0f}")
            for key, t in self.traffic().items()
        ]
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        line = "  ".join(f"{{:{'<' if i < 2 else '>'}{w}}}" for i, w in enumerate(widths))
        return "\n".join(line.format(*row) for row in (heads, *rows))


# The argument that holds what the rank hands in; the others hold what comes out.
_PAYLOADS = "input inputs input_tensor input_tensors input_list tensor tensors".split()


def _calls(operator, given):
    """The Calls that one operator with these arguments (by name) stands for."""
    payload = next((given[name] for name in _PAYLOADS if name in given), [])
    batch = zip(given["op_list"], payload, strict=True) if "op_list" in given else None
    for name, nested in batch or [(operator, payload)]:
        if operation := _operation(name):
            group = _group(given.get("process_group", given.get("group_name")))
            tensors = [] if operation == "barrier" else list(_tensors(nested))
            elements, nbytes = sum(x.numel() for x in tensors), sum(x.nbytes for x in tensors)
            yield Call(operation, group_name(group), elements, nbytes, group.size())


def _operation(operator):
    """What an operator does, by its name; "" where it moves nothing, as wait_tensor."""
    flat = operator.replace("_", "").replace("recv", "receive")  # reducescatterbase is no reduce,
    return next((known for known in _RING if known.replace("_", "") in flat), "")  # so order counts


def _group(argument):
    """An operator names its group by a string, or holds it in a box."""
    if isinstance(argument, str):
        return dist.distributed_c10d._resolve_process_group(argument)
    return dist.ProcessGroup.unbox(argument)


def _tensors(nested):
    if isinstance(nested, torch.Tensor):
        yield nested
    else:
        for part in nested:
            yield from _tensors(part)


def group_name(group):
    """A group in words: the name that its maker gave it ("tp"), else its ranks ("0,4", "0-7")."""
    if group.group_desc not in ("undefined", "default_pg"):
        return group.group_desc
    ranks = dist.get_process_group_ranks(group)
    step = ranks[1] - ranks[0] if len(ranks) > 1 else 1
    if len(ranks) < 3 or ranks != list(range(ranks[0], ranks[-1] + 1, step)):
        return ",".join(map(str, ranks))
    return f"{ranks[0]}-{ranks[-1]}" + (f" by {step}" if step > 1 else "")
