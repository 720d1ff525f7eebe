# ---
# mark: 2
# minutes: 25
# help: half
# needs: [rank, process group, collective, saved tensor, autograd.Function, sequence parallelism]
# draws:
#   NORM: [LayerNorm, RMSNorm]
#   RANKS: [2, 3, 4]
# ---

# %% [markdown]
# # A norm on pieces of the sequence
#
# The sequence is cut: each rank of a tensor group has some tokens, `x` of shape $[\text{tokens}, b,
# h]$. The pieces need not be equally long. The norm's `weight` $w$ and `bias` $c$ are whole on every
# rank. For each token, with means over its $h$ numbers:
#
# $${{FORMULA}}$$
#
# ({{REMARK}})
#
# Forward is given: it keeps the normalized numbers $\hat x$ (without $w$ and $c$), the root $\sigma$
# below them and $w$. Write backward by hand, so that all three gradients are *complete*.
#
# **Target:** on {{RANKS}} ranks, and in any tensor group, output and gradients are those of one
# process that has all tokens. Forward sends nothing. Backward makes one call, an all-reduce of $2h$
# numbers.

# %% tags=["target"]
FORMULA = {
    "LayerNorm": r"y = \frac{x - \overline{x}}{\sqrt{\overline{(x - \overline{x})^2} + 10^{-5}}}\,"
    r"w + c",
    "RMSNorm": r"y = \frac{x}{\sqrt{\overline{x^2} + 10^{-5}}}\,w + c",
}[NORM]
REMARK = {
    "LayerNorm": "This is the lesson's LayerNorm.",
    "RMSNorm": "This is RMSNorm, which many later models use: a LayerNorm that leaves the mean "
    "where it is.",
}[NORM]
CENTRE = {
    "LayerNorm": "x = x - x.mean(-1, keepdim=True)",
    "RMSNorm": "# the mean stays",
}[NORM]

# %%
import torch
import torch.distributed as dist

from minimtnlg import run


# %% tags=["stub"]
class NormOnAPiece(torch.autograd.Function):
    """The norm of this rank's tokens x [tokens, b, h]; weight, bias: [h], whole."""

    @staticmethod
    def forward(ctx, x, weight, bias, group):
        {{CENTRE}}
        root = (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        normalized = x / root
        ctx.save_for_backward(normalized, root, weight)
        ctx.group = group
        return normalized * weight + bias

    @staticmethod
    def backward(ctx, gradient):
        normalized, root, weight = ctx.saved_tensors
        raise NotImplementedError("gradients of x, weight and bias, and None for the group")


# %% [markdown] tags=["hint"]
# $w$ and $c$ are used by every token of the sequence, and a rank has some of them: its gradients are
# parts of a sum. No mean: pieces are parts of one sum, however long they are. And the gradient of
# $x$: does a token ask another token for anything?

# %% [markdown] tags=["hint"]
# With $y = \hat x\,w + c$: the gradient of $w$ is $\sum g\,\hat x$ over tokens, that of $c$ is $\sum g$.
# The gradient of $\hat x$ is $v = g\,w$, token by token. {{UNCHANGED}}

# %% [markdown] tags=["hint"]
# ```python
# parts = torch.stack([(gradient * normalized).sum((0, 1)), gradient.sum((0, 1))])
# dist.all_reduce(parts, group=ctx.group)
# v = gradient * weight
# for_x = ({{REST}}) / root
# ```
# Means are over the last axis, with `keepdim=True`. Backward returns one entry for each argument of
# `forward`.

# %% tags=["target"]
UNCHANGED = {
    "LayerNorm": "Now $\\hat x$ does not change when all numbers of a token are raised by the same, or "
    "multiplied by the same. So two parts of $v$ must not reach $x$: its mean, and what points along "
    "$\\hat x$, which is $\\hat x\\,\\overline{v \\hat x}$. The rest is divided by $\\sigma$.",
    "RMSNorm": "Now $\\hat x$ does not change when all numbers of a token are multiplied by the same. So "
    "one part of $v$ must not reach $x$: what points along $\\hat x$, which is "
    "$\\hat x\\,\\overline{v \\hat x}$. The rest is divided by $\\sigma$.",
}[NORM]
REST = {
    "LayerNorm": "v - (mean of v) - normalized * (mean of v * normalized)",
    "RMSNorm": "v - normalized * (mean of v * normalized)",
}[NORM]

# %% [markdown] tags=["oral"]
# **Q.** Why does the norm need no call in forward here, and would need one if the h numbers of a
# token were cut?
#
# **A.** It takes means over the numbers of one token, and a rank has all of these. With the h numbers
# cut, each mean would be a sum over the ranks, in forward; then weight and bias would be cut too, and
# need no sum in backward.
#
# **Q.** You leave the sum out and train. When does the loss notice, and what is different on the
# ranks?
#
# **A.** Not in the first step. Each rank moves its copy of weight and bias by its own tokens; after
# the update the copies differ, and the ranks no longer compute one model.


# %% tags=["solution"]
class NormOnAPiece(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, group):
        if "{{NORM}}" == "LayerNorm":
            x = x - x.mean(-1, keepdim=True)
        root = (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        normalized = x / root
        ctx.save_for_backward(normalized, root, weight)
        ctx.group = group
        return weight * normalized + bias

    @staticmethod
    def backward(ctx, gradient):
        normalized, root, weight = ctx.saved_tensors
        parts = torch.stack([(gradient * normalized).sum((0, 1)), gradient.sum((0, 1))])
        dist.all_reduce(parts, group=ctx.group)
        v = gradient * weight
        for_x = v - normalized * (v * normalized).mean(-1, keepdim=True)
        if "{{NORM}}" == "LayerNorm":
            for_x = for_x - v.mean(-1, keepdim=True)
        return for_x / root, parts[0], parts[1], None


# %% tags=["check"]
import re
from functools import cache

import torch.nn.functional as F

from minimtnlg.course.check import Feedback, expect
from minimtnlg.parallel.collectives import Recorder
from minimtnlg.ranks import RankError

_PATIENCE = 10  # seconds; a job takes a fraction of one
_B, _H = 2, 6
_NAMES = "weight", "bias"
_OF = {"weight": "of g times the normalized numbers", "bias": "of g itself"}


def _numbers(seed, tokens):
    """(x, gradient of y, weight, bias), whole, in float64."""
    draw = torch.Generator().manual_seed(seed)
    shapes = (tokens, _B, _H), (tokens, _B, _H), (_H,), (_H,)
    x, *others = (torch.randn(s, generator=draw, dtype=torch.float64) for s in shapes)
    return x + 1, *others  # a mean that is not zero


@cache
def _alone(seed, tokens):
    """(y, gradient of x, of weight, of bias) of one process, the norm by PyTorch."""
    x, gradient, weight, bias = (n.requires_grad_() for n in _numbers(seed, tokens))
    if NORM == "LayerNorm":
        y = F.layer_norm(x, (_H,), weight, bias)
    else:
        y = F.rms_norm(x, (_H,), weight, eps=1e-5) + bias
    found = torch.autograd.grad(y, [x, weight, bias], gradient.detach())
    return y.detach(), *found


def _program(student, lists, tokens):
    """What one rank reports; lists: the ranks of each tensor group, which has its own numbers."""
    rank = dist.get_rank()
    made = [dist.new_group(ranks) for ranks in lists]
    (seed,) = (i for i, ranks in enumerate(lists) if rank in ranks)
    group, index, t = made[seed], lists[seed].index(rank), len(lists[seed])
    x, gradient, weight, bias = _numbers(seed, tokens)
    x, gradient = (whole.tensor_split(t)[index].clone() for whole in (x, gradient))
    leaves = [n.requires_grad_() for n in (x, weight, bias)]
    with Recorder() as forward:
        y = student.apply(*leaves, group)
    if not isinstance(y, torch.Tensor) or y.shape != x.shape or not y.requires_grad:
        return {"unusable": f"{type(y).__name__} {list(getattr(y, 'shape', []))}"}
    with Recorder() as backward:
        y.backward(gradient)
    calls = [[(c.operation, c.elements) for c in seen.calls] for seen in (forward, backward)]
    elsewhere = any(c.n != t for seen in (forward, backward) for c in seen.calls)
    return {"y": y.detach(), "calls": calls, "elsewhere": elsewhere} | {
        name: leaf.grad for name, leaf in zip(("x", *_NAMES), leaves, strict=True)
    }


@cache  # several checks look at one job, and a deadlock is waited for once
def _job(student, lists, tokens):
    try:
        world = sum(map(len, lists))
        return run(_program, world, student, lists, tokens, timeout=_PATIENCE), None
    except RankError as error:
        return None, error


def _reports(student, lists, tokens):
    """What `_program` returned on each rank; a failure is put into words."""
    if not hasattr(student, "apply"):
        raise Feedback("NormOnAPiece", "an autograd.Function", type(student).__name__)
    reports, error = _job(student, lists, tokens)
    world = sum(map(len, lists))
    if error is not None:
        if error.type == "NotImplementedError":
            raise NotImplementedError(error.message)
        got, look_at = str(error).splitlines()[0], _where(error)
        if error.type == "TimeoutError":
            got, look_at = "a deadlock", "every rank of a group makes the same calls, in its group"
        raise Feedback(f"{tokens} tokens on {world} ranks", "each rank returns y", got, look_at)
    for rank, report in enumerate(reports):
        if "unusable" in report:
            what = f"the output of NormOnAPiece on rank {rank} of {world}"
            wanted = "a Tensor shaped like x, through which backward goes"
            raise Feedback(what, wanted, report["unusable"])
    return reports


def _where(error):
    """The student's line in the report of a failed rank."""
    frames = re.findall(r"line (\d+), in (\S+)\n *(.+)", error.traceback)
    theirs = [frame for frame in frames if frame[1] != "_program"]
    return "line {}, in {}: {}".format(*theirs[-1]) if theirs else ""


def _check(student, lists, tokens):
    """Output and gradients on every rank against one process."""
    reports, world = _reports(student, lists, tokens), sum(map(len, lists))
    for seed, ranks in enumerate(lists):
        y, for_x, *for_vectors = _alone(seed, tokens)
        for index, rank in enumerate(ranks):
            where = f"on rank {rank} of {world}, {tokens} tokens in all"
            right = y.tensor_split(len(ranks))[index]
            expect(reports[rank]["y"], right, f"y {where}", f"the formula of this {NORM}")
            for name, whole in zip(_NAMES, for_vectors, strict=True):
                look_at = f"a sum over all tokens, of which this rank has some; {_OF[name]}"
                if reports[rank]["elsewhere"]:
                    look_at = "all_reduce sums over all ranks there are, unless it is told the group"
                expect(reports[rank][name], whole, f"the gradient of {name} {where}", look_at)
            right = for_x.tensor_split(len(ranks))[index]
            also = "the mean and the root depend" if NORM == "LayerNorm" else "the root depends"
            look_at = f"through w and the norm: {also} on x, too; no sum, as these tokens are mine alone"
            expect(reports[rank]["x"], right, f"the gradient of x {where}", look_at)


def as_one_process(student):
    """Output and gradients of one process"""
    _check(student, (tuple(range(RANKS)),), 12)


def one_call(student):
    """Nothing is sent in forward, and one all-reduce of 2h numbers in backward"""
    for rank, report in enumerate(_reports(student, (tuple(range(RANKS)),), 12)):
        forward, backward = report["calls"]
        look_at = "every token is normalized by itself, and weight and bias are alike on all ranks"
        expect(forward, [], f"calls of rank {rank} of {RANKS} in forward", look_at)
        what = f"calls of rank {rank} of {RANKS} in backward, and their numbers; h = {_H}"
        expect(backward, [("all_reduce", 2 * _H)], what, "both gradients in one tensor")


def pieces_of_other_lengths(student):
    """Pieces that are not equally long"""
    _check(student, (tuple(range(RANKS)),), 12 + RANKS - 1)


# %% tags=["hidden"]
def inside_a_group(student):
    """Two tensor groups side by side, of ranks that are no neighbours"""
    _check(student, ((0, 2), (1, 3)), 7)


def a_rank_without_tokens(student):
    """Three ranks and two tokens: one has none, and makes its call all the same"""
    _check(student, ((0, 1, 2),), 2)


# %% tags=["wrong"]
def _parts(gradient, normalized):
    """This rank's parts of the gradients of weight and bias."""
    return torch.stack([(gradient * normalized).sum((0, 1)), gradient.sum((0, 1))])


class left_alone(NormOnAPiece):
    """Caught by: as_one_process. What autograd would give on one rank is taken for the whole."""

    @staticmethod
    def backward(ctx, gradient):
        for_x, *_ = NormOnAPiece.backward(ctx, gradient)
        return for_x, *_parts(gradient, ctx.saved_tensors[0]), None


class takes_the_mean(NormOnAPiece):
    """Caught by: as_one_process. Gradients of several ranks are averaged, as among replicas."""

    @staticmethod
    def backward(ctx, gradient):
        for_x, for_weight, for_bias, _ = NormOnAPiece.backward(ctx, gradient)
        return for_x, for_weight / ctx.group.size(), for_bias / ctx.group.size(), None


class only_the_weight(NormOnAPiece):
    """Caught by: as_one_process. The bias is only added, so it seems to be complete."""

    @staticmethod
    def backward(ctx, gradient):
        for_x, for_weight, *_ = NormOnAPiece.backward(ctx, gradient)
        return for_x, for_weight, gradient.sum((0, 1)), None


class two_calls(NormOnAPiece):
    """Caught by: one_call. f for each vector: right, and two latencies."""

    @staticmethod
    def backward(ctx, gradient):
        v, normalized, root = gradient * ctx.saved_tensors[2], *ctx.saved_tensors[:2]
        for_x = v - normalized * (v * normalized).mean(-1, keepdim=True)
        if NORM == "LayerNorm":
            for_x = for_x - v.mean(-1, keepdim=True)
        parts = _parts(gradient, normalized)
        for part in parts:
            dist.all_reduce(part, group=ctx.group)
        return for_x / root, *parts, None


class all_three_are_summed(NormOnAPiece):
    """Caught by: as_one_process. The gradient of x is summed as well, which mixes the ranks' tokens."""

    @staticmethod
    def backward(ctx, gradient):
        for_x, *others = NormOnAPiece.backward(ctx, gradient)
        dist.all_reduce(for_x, group=ctx.group)
        return for_x, *others


class root_is_a_constant(NormOnAPiece):
    """Caught by: as_one_process. The root is taken for a number that x does not change."""

    @staticmethod
    def backward(ctx, gradient):
        _, *others = NormOnAPiece.backward(ctx, gradient)
        _, root, weight = ctx.saved_tensors
        return gradient * weight / root, *others


class the_mean_of_the_other_norm(NormOnAPiece):
    """Caught by: as_one_process. The mean of v is left in, or taken off where it belongs to x."""

    @staticmethod
    def backward(ctx, gradient):
        for_x, *others = NormOnAPiece.backward(ctx, gradient)
        _, root, weight = ctx.saved_tensors
        mean = (gradient * weight).mean(-1, keepdim=True) / root
        return for_x + mean if NORM == "LayerNorm" else for_x - mean, *others


class forgets_the_weight(NormOnAPiece):
    """Caught by: as_one_process. The gradient of y is taken for that of the normalized numbers."""

    @staticmethod
    def backward(ctx, gradient):
        for_x, *_ = NormOnAPiece.backward(ctx, gradient / ctx.saved_tensors[2])
        _, *others = NormOnAPiece.backward(ctx, gradient)
        return for_x, *others


class agrees_in_forward(NormOnAPiece):
    """Caught by: one_call. The vectors are made equal again in each forward, to be safe."""

    @staticmethod
    def forward(ctx, x, weight, bias, group):
        both = torch.stack([weight, bias])
        dist.all_reduce(both, group=group)
        return NormOnAPiece.forward(ctx, x, weight, bias, group)


class all_ranks_there_are(NormOnAPiece):
    """Caught by: inside_a_group. all_reduce without a group sums over all ranks."""

    @staticmethod
    def forward(ctx, x, weight, bias, group):
        return NormOnAPiece.forward(ctx, x, weight, bias, dist.group.WORLD)


class stays_away_without_tokens(NormOnAPiece):
    """Caught by: a_rank_without_tokens. With nothing to add, a rank makes no call."""

    @staticmethod
    def backward(ctx, gradient):
        if len(gradient) == 0:
            return gradient, *_parts(gradient, ctx.saved_tensors[0]), None
        return NormOnAPiece.backward(ctx, gradient)
