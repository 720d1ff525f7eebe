# ---
# mark: 2
# minutes: 25
# help: half
# needs: [rank, process group, collective, saved tensor, autograd.Function, sharding, ZeRO]
# draws:
#   REDUCE: [sum, mean]
#   RANKS: [2, 3, 4]
# ---

# %% [markdown]
# # Gather, use, free
#
# A layer computes $y = \tanh(x W^T + b)$, with $W$ of $k \times k$ and $b$ of $k$ numbers. In
# ZeRO-3 no rank has them. $W$ and $b$ are laid end to end, first $W$ row by row, then $b$, and
# filled up with zeros to $n$ equal parts. Rank $r$ keeps part $r$: its `shard`, a vector.
#
# Write the layer as a Function. Forward gathers, computes and forgets; backward gathers again. Each
# rank has rows `x` of its own. The gradient of a shard is the {{REDUCE}} over the ranks of the
# gradients that they found for these numbers; the rank that keeps the shard gets it, and nobody
# else.
#
# **Target:** three such layers on {{RANKS}} ranks give the outputs and all gradients of one
# process. Whenever a rank gathers a layer, no other layer is whole on it, neither its weights nor
# their gradient, and none is when forward is over. A rank sends at most three laps for each layer:
# {{NUMBERS}} numbers for $k = 8$.

# %% tags=["target"]
NUMBERS = 3 * (8 * 8 + 8) * (RANKS - 1) // RANKS

# %%
import torch
import torch.distributed as dist
import torch.nn.functional as F

from minimtnlg import run
from minimtnlg.parallel.collectives import all_gather, reduce_scatter


def end_to_end(W, b, n):
    """W and b in one vector, filled up with zeros so that n divides its length."""
    flat = torch.cat([W.flatten(), b])
    return F.pad(flat, (0, -len(flat) % n))


def apart(flat, k):
    """(W, b) in such a vector, as views."""
    return flat[: k * k].view(k, k), flat[k * k : k * k + k]


# %% tags=["stub"]
class GatherAndFree(torch.autograd.Function):
    """tanh(x W^T + b) for x [rows, k] and this rank's shard of W and b; over all ranks."""

    @staticmethod
    def forward(ctx, x, shard):
        W, b = apart(all_gather(shard, dist.group.WORLD), x.shape[1])
        y = torch.tanh(x @ W.T + b)
        ctx.save_for_backward(y)
        raise NotImplementedError("what else must be kept for backward? And hand back the output")

    @staticmethod
    def backward(ctx, gradient):
        raise NotImplementedError("gather; gradients of x, W and b; then the {{REDUCE}} of my part")


# %% [markdown] tags=["hint"]
# A local variable is freed when its function returns, unless somebody else holds it. Who could hold
# $W$? `ctx.save_for_backward`, an attribute of `ctx`, and a view of it. What is small and enough to
# make $W$ once more?

# %% [markdown] tags=["hint"]
# Let $u = x W^T + b$. Then $\tanh'(u) = 1 - y^2$, number by number: that gives the gradient of $u$.
# As in the lesson's `ShardedLinear` it gives those of $x$ and $W$; $b$ was added to every row.
# `reduce_scatter` sums over the ranks and leaves each its part. Is that the {{REDUCE}}?

# %% [markdown] tags=["hint"]
# ```python
# x, shard, y = ctx.saved_tensors
# W, _ = apart(all_gather(shard, dist.group.WORLD), x.shape[1])
# for_u = gradient * (1 - y * y)
# for_W, for_b = for_u.T @ x, for_u.sum(0)
# ```
# `end_to_end(for_W, for_b, n)` is what `reduce_scatter` takes. The gradient of `x` is `for_u @ W`,
# and no other rank is asked about it: these rows are this rank's alone.

# %% [markdown] tags=["oral"]
# **Q.** Your backward gathers $W$ although forward had it a moment ago. What would it cost to keep
# it, for a model of 100 such layers, and what would it save?
#
# **A.** All 100 layers would be whole on every rank from forward to backward, which is what ZeRO-3
# is there to avoid. It would save one of three laps.
#
# **Q.** Why is the gradient of x not summed over the ranks, and that of W is?
#
# **A.** Every rank used all of W, on its own rows; the rows themselves belong to one rank.


# %% tags=["solution"]
class GatherAndFree(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, shard):
        W, b = apart(all_gather(shard, dist.group.WORLD), x.shape[1])
        y = torch.tanh(x @ W.T + b)
        ctx.save_for_backward(x, shard, y)
        return y

    @staticmethod
    def backward(ctx, gradient):
        x, shard, y = ctx.saved_tensors
        n, everybody = dist.get_world_size(), dist.group.WORLD
        W, _ = apart(all_gather(shard, everybody), x.shape[1])
        for_u = gradient * (1 - y * y)
        part = reduce_scatter(end_to_end(for_u.T @ x, for_u.sum(0), n), everybody)
        return for_u @ W, part / {"sum": 1, "mean": n}["{{REDUCE}}"]


# %% tags=["check"]
import gc
import re
import time
import weakref
from functools import cache

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minimtnlg.course.check import Feedback, expect
from minimtnlg.parallel.collectives import Recorder
from minimtnlg.ranks import RankError

_PATIENCE = 15  # seconds; a job takes a fraction of one
_LAYERS, _ROWS = 3, 4
_OURS = "_program", "__torch_dispatch__", "all_gather", "reduce_scatter", "end_to_end", "apart"


def _layers(k):
    """[(W, b)] of the model, the same on every rank."""
    draw = torch.Generator().manual_seed(k)
    pairs = [torch.randn(k, k + 1, dtype=torch.float64, generator=draw) for _ in range(_LAYERS)]
    return [(pair[:, :k] / k**0.5, pair[:, k].clone()) for pair in pairs]


def _rows(rank, k, micro_batch):
    draw = torch.Generator().manual_seed(100 * micro_batch + rank)
    return torch.randn(_ROWS, k, dtype=torch.float64, generator=draw)


class _Whole(TorchDispatchMode):
    """Counts tensors as large as a W: how many are alive when another layer is gathered."""

    def __init__(self, size):
        super().__init__()
        self.size, self.alive, self.seen = size, set(), []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if "gather" in str(operation).replace("_", "").lower():
            target = {x.untyped_storage()._cdata for x in tree_leaves(args) if _is_tensor(x)}
            self.note(target)
        result = operation(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if _is_tensor(x) and x.untyped_storage().nbytes() >= self.size:
                storage = x.untyped_storage()
                if storage._cdata not in self.alive:
                    self.alive.add(storage._cdata)
                    weakref.finalize(storage, self.alive.discard, storage._cdata)
        return result

    def note(self, target=frozenset()):
        for _ in range(15):  # a thread of the library may hold what was sent for a moment
            gc.collect()
            if not self.alive - target:
                break
            time.sleep(0.01)
        self.seen.append(len(self.alive - target))


def _is_tensor(x):
    return isinstance(x, torch.Tensor)


def _program(student, k, micro_batches):
    """What one rank reports: outputs, gradients, whole layers seen, numbers sent."""
    rank, n = dist.get_rank(), dist.get_world_size()
    shards = []
    for W, b in _layers(k):
        flat = torch.cat([W.flatten(), b, torch.zeros(-(k * k + k) % n, dtype=torch.float64)])
        shards.append(flat.chunk(n)[rank].clone().requires_grad_())
    outputs, for_x, seen = [], [], []
    with Recorder() as recorder:
        for m in range(micro_batches):
            x = y = _rows(rank, k, m).requires_grad_()
            with _Whole(8 * k * k) as whole:
                for shard in shards:
                    y = student.apply(y, shard)
                    if not _is_tensor(y) or y.shape != x.shape or not y.requires_grad:
                        shape = list(y.shape) if _is_tensor(y) else ""
                        return {"unusable": f"{type(y).__name__} {shape}"}
                whole.note()
                y.square().sum().backward()
            outputs.append(y.detach().clone())
            for_x.append(x.grad)
            seen.append(whole.seen)
    sent = sum(call.wire_bytes for call in recorder.calls) / 8 / micro_batches
    return {"outputs": outputs, "x": for_x, "shards": [s.grad for s in shards], "seen": seen,
            "sent": sent}  # fmt: skip


@cache  # several checks look at one job, and a deadlock is waited for once
def _job(student, n, k, micro_batches):
    try:
        return run(_program, n, student, k, micro_batches, timeout=_PATIENCE), None
    except RankError as error:
        return None, error


def _reports(student, n, k=8, micro_batches=1):
    """What `_program` returned on each rank; a failure is put into words."""
    if not hasattr(student, "apply"):
        raise Feedback("GatherAndFree", "an autograd.Function", type(student).__name__)
    reports, error = _job(student, n, k, micro_batches)
    what = f"{_LAYERS} layers of k = {k} on {n} ranks"
    if error is not None:
        if error.type == "NotImplementedError":
            raise NotImplementedError(error.message)
        got, look_at = str(error).splitlines()[0], _where(error)
        if error.type == "TimeoutError":
            got, look_at = "a deadlock", "every rank makes the same calls in the same order"
        raise Feedback(what, "each rank returns", got, look_at)
    for rank, report in enumerate(reports):
        if "unusable" in report:
            wanted = f"a Tensor [{_ROWS}, {k}] through which backward goes"
            what = f"{what}: the output of a layer, rank {rank}"
            raise Feedback(what, wanted, report["unusable"])
    return reports


def _where(error):
    """The student's line in the report of a failed rank."""
    frames = re.findall(r"line (\d+), in (\S+)\n *(.+)", error.traceback)
    theirs = [frame for frame in frames if frame[1] not in _OURS]
    return "line {}, in {}: {}".format(*theirs[-1]) if theirs else ""


def _only_forward(u):
    """tanh(u), whose backward is that of u: what who forgets tanh' computes."""
    return u + (torch.tanh(u) - u).detach()


@cache
def _alone(n, k, micro_batches, tanh=torch.tanh):
    """(outputs, gradients of x) of each micro-batch and rank; gradients of (W, b) of each layer."""
    layers = [(W.requires_grad_(), b.requires_grad_()) for W, b in _layers(k)]
    outputs, for_x = [], []
    for m in range(micro_batches):
        x = y = torch.cat([_rows(rank, k, m) for rank in range(n)]).requires_grad_()
        for W, b in layers:
            y = tanh(y @ W.T + b)
        y.square().sum().backward()
        outputs.append(y.detach().chunk(n))
        for_x.append(x.grad.chunk(n))
    return outputs, for_x, [(W.grad, b.grad) for W, b in layers]


def _check_gradients(student, n, k=8, micro_batches=1):
    outputs, for_x, for_layers = _alone(n, k, micro_batches)
    for rank, report in enumerate(_reports(student, n, k, micro_batches)):
        where = f"on rank {rank} of {n}, k = {k}"
        for m in range(micro_batches):
            expect(report["outputs"][m], outputs[m][rank], f"the output of three layers {where}")
            look_at = _why(report["x"][m], _alone(n, k, micro_batches, _only_forward)[1][m][rank])
            expect(report["x"][m], for_x[m][rank], f"the gradient of x {where}", look_at)
        for layer, (for_W, for_b) in enumerate(for_layers):
            flat = torch.cat([for_W.flatten(), for_b])
            flat = flat / (n if REDUCE == "mean" else 1)
            flat = torch.cat([flat, flat.new_zeros(-len(flat) % n)])
            look_at = f"through tanh; W row by row, then b; the {REDUCE} over all ranks; my part of it"
            what = f"the gradient of the shard of layer {layer} {where}"
            expect(report["shards"][layer], flat.chunk(n)[rank], what, look_at)


def _why(got, without_tanh):
    """The idea to look at when the gradient of x is wrong, as far as it can be told."""
    if _is_tensor(got) and got.shape == without_tanh.shape and torch.allclose(got, without_tanh):
        return "the gradient of y is not that of x W^T + b: tanh lies between"
    return "through tanh, then through the whole W; these rows are this rank's alone, so no sum"


def gradients_of_one_process(student):
    """Outputs and all gradients are those of one process"""
    _check_gradients(student, RANKS)


def one_layer_at_a_time(student):
    """When a layer is gathered no other is whole, and none is when forward is over"""
    for rank, report in enumerate(_reports(student, RANKS)):
        seen = report["seen"][0]
        times = [f"gather {i}" for i in range(len(seen))]
        if len(seen) > _LAYERS:
            times = [f"the gather of layer {i}, forward" for i in range(_LAYERS)] + ["backward"]
            times += [f"gather {i} of backward" for i in range(1, len(seen) - _LAYERS)]
        for when, number in zip(times, seen, strict=True):
            if number:
                raise Feedback(
                    f"tensors as large as a W that are alive on rank {rank} of {RANKS} before "
                    f"{when}", 0, number, "what holds on to W, to what was gathered, or to its "
                    "gradient?",
                )  # fmt: skip


def three_laps(student):
    """A rank sends at most three laps for each layer"""
    for rank, report in enumerate(_reports(student, RANKS)):
        if report["sent"] > _LAYERS * NUMBERS * (1 + 1e-9):
            raise Feedback(
                f"numbers that rank {rank} of {RANKS} sends for {_LAYERS} layers",
                f"{_LAYERS * NUMBERS} at the most", f"{report['sent']:g}",
                "a gather, a gather, a reduce-scatter; W and b travel together",
            )  # fmt: skip


# %% tags=["hidden"]
def parts_that_were_filled_up(student):
    """Parts that had to be filled up with zeros"""
    _check_gradients(student, 4, k=5)


def micro_batches_add_up(student):
    """Two micro-batches: the gradients of the shards add up"""
    _check_gradients(student, 2, k=6, micro_batches=2)


def one_rank(student):
    """A single rank, which keeps everything"""
    _check_gradients(student, 1, k=4)


# %% tags=["wrong"]
def _gradients(ctx, gradient, W=None):
    """(gradient of x, of W, of b)"""
    x, shard, y = ctx.saved_tensors
    if W is None:
        W, _ = apart(all_gather(shard, dist.group.WORLD), x.shape[1])
    for_u = gradient * (1 - y * y)
    return for_u @ W, for_u.T @ x, for_u.sum(0)


def _share(flat):
    part = reduce_scatter(flat, dist.group.WORLD)
    return part / (dist.get_world_size() if REDUCE == "mean" else 1)


class keeps_the_weights(GatherAndFree):
    """Caught by: one_layer_at_a_time. What backward needs is kept, so W is kept."""

    @staticmethod
    def forward(ctx, x, shard):
        W, b = apart(all_gather(shard, dist.group.WORLD), x.shape[1])
        y = torch.tanh(x @ W.T + b)
        ctx.save_for_backward(x, shard, y, W)
        return y

    @staticmethod
    def backward(ctx, gradient):
        x, shard, y, W = ctx.saved_tensors
        for_u = gradient * (1 - y * y)
        flat = end_to_end(for_u.T @ x, for_u.sum(0), dist.get_world_size())
        return for_u @ W, _share(flat)


class keeps_a_copy_on_ctx(GatherAndFree):
    """Caught by: one_layer_at_a_time. An attribute of ctx is thought not to count."""

    @staticmethod
    def forward(ctx, x, shard):
        ctx.W = apart(all_gather(shard, dist.group.WORLD), x.shape[1])[0].clone()
        return GatherAndFree.forward(ctx, x, shard)


class own_rows_alone(GatherAndFree):
    """Caught by: gradients_of_one_process. A rank cuts its part from what it found itself."""

    @staticmethod
    def backward(ctx, gradient):
        for_x, for_W, for_b = _gradients(ctx, gradient)
        n = dist.get_world_size()
        return for_x, end_to_end(for_W, for_b, n).chunk(n)[dist.get_rank()].clone()


class other_reduction(GatherAndFree):
    """Caught by: gradients_of_one_process. A mean for a sum, or a sum for a mean."""

    @staticmethod
    def backward(ctx, gradient):
        for_x, part = GatherAndFree.backward(ctx, gradient)
        n = dist.get_world_size()
        return for_x, part * n if REDUCE == "mean" else part / n


class all_reduce_then_cut(GatherAndFree):
    """Caught by: three_laps. The whole sum goes to everybody, and then each takes its part."""

    @staticmethod
    def backward(ctx, gradient):
        for_x, for_W, for_b = _gradients(ctx, gradient)
        n = dist.get_world_size()
        flat = end_to_end(for_W, for_b, n)
        dist.all_reduce(flat)
        part = flat.chunk(n)[dist.get_rank()].clone()
        return for_x, part / (n if REDUCE == "mean" else 1)


class sums_the_gradient_of_x(GatherAndFree):
    """Caught by: gradients_of_one_process. Every gradient is thought to be summed over ranks."""

    @staticmethod
    def backward(ctx, gradient):
        for_x, part = GatherAndFree.backward(ctx, gradient)
        dist.all_reduce(for_x)
        return for_x, part


class forgets_the_tanh(GatherAndFree):
    """Caught by: gradients_of_one_process. The gradient of y is taken for that of x W^T + b."""

    @staticmethod
    def backward(ctx, gradient):
        return GatherAndFree.backward(ctx, gradient / (1 - ctx.saved_tensors[2] ** 2))


class bias_first(GatherAndFree):
    """Caught by: gradients_of_one_process. The gradients are laid end to end in another order."""

    @staticmethod
    def backward(ctx, gradient):
        for_x, for_W, for_b = _gradients(ctx, gradient)
        flat = torch.cat([for_b, for_W.flatten()])
        return for_x, _share(F.pad(flat, (0, -len(flat) % dist.get_world_size())))


class transposed(GatherAndFree):
    """Caught by: gradients_of_one_process. The rows of W are taken for its columns."""

    @staticmethod
    def backward(ctx, gradient):
        for_x, for_W, for_b = _gradients(ctx, gradient)
        return for_x, _share(end_to_end(for_W.T, for_b, dist.get_world_size()))


class not_filled_up(GatherAndFree):
    """Caught by: parts_that_were_filled_up. The zeros at the end are thought to be a detail."""

    @staticmethod
    def backward(ctx, gradient):
        for_x, for_W, for_b = _gradients(ctx, gradient)
        return for_x, _share(torch.cat([for_W.flatten(), for_b]))


_LATER = []


class frees_in_the_next_step(GatherAndFree):
    """Caught by: one_layer_at_a_time. Gathered layers are kept, in case they are needed."""

    @staticmethod
    def forward(ctx, x, shard):
        _LATER.append(all_gather(shard, dist.group.WORLD))
        return GatherAndFree.forward(ctx, x, shard)
