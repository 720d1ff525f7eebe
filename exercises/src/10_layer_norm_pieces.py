# ---
# mark: 2
# minutes: 25
# help: half
# needs: [rank, process group, collective, autograd.Function, f and g, sequence parallelism]
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
# Write the norm, so that backward gives *complete* gradients. The lesson passes each vector through
# f. Here both go through `Together`, a Function that takes both and makes one call for them.
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

# %%
import torch
import torch.distributed as dist
import torch.nn.functional as F

from minimtnlg import run


# %% tags=["stub"]
class Together(torch.autograd.Function):
    """f for two vectors at once: both as they are, and their gradients summed in one call."""

    @staticmethod
    def forward(ctx, weight, bias, group):
        ctx.group = group
        return weight.clone(), bias.clone()

    @staticmethod
    def backward(ctx, for_weight, for_bias):
        both = torch.stack([for_weight, for_bias])
        raise NotImplementedError(f"sum these {both.shape} numbers over the group, and part them")


def norm_on_a_piece(x, weight, bias, group):
    """y for this rank's tokens: [tokens, b, h], like x; weight, bias: [h]."""
    weight, bias = Together.apply(weight, bias, group)
    raise NotImplementedError(f"normalize each token, then use {weight.shape} and {bias.shape}")


# %% [markdown] tags=["hint"]
# The gradient of $w$ is a sum over all tokens of the sequence, of the gradient of $y$ times the
# normalized number. A rank has a part of this sum. And the gradient of $x$: does a token ask another
# token for anything?

# %% [markdown] tags=["hint"]
# Autograd makes each rank's part of the sums by itself, if you write $y$ with ordinary operations.
# `Together.backward` receives these parts. What is left to do is `dist.all_reduce(both,
# group=ctx.group)`. No mean: pieces are parts of one sum, however long they are.

# %% [markdown] tags=["hint"]
# `backward` ends with `both[0], both[1], None`: one entry for each argument of `forward`. The norm:
#
# ```python
# {{CODE}}
# ```
# and then times `weight`, plus `bias`.

# %% tags=["target"]
CODE = {
    "LayerNorm": "centred = x - x.mean(-1, keepdim=True)\n"
    "normalized = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()",
    "RMSNorm": "normalized = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()",
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
class Together(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, bias, group):
        ctx.group = group
        return weight.view_as(weight), bias.view_as(bias)

    @staticmethod
    def backward(ctx, for_weight, for_bias):
        both = torch.stack([for_weight, for_bias])
        dist.all_reduce(both, group=ctx.group)
        return both[0], both[1], None


def norm_on_a_piece(x, weight, bias, group):
    weight, bias = Together.apply(weight, bias, group)
    if "{{NORM}}" == "LayerNorm":
        x = x - x.mean(-1, keepdim=True)
    normalized = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return normalized * weight + bias


# %% tags=["check"]
import re
from functools import cache

from minimtnlg.course.check import Feedback, expect
from minimtnlg.parallel.collectives import Recorder
from minimtnlg.ranks import RankError

_PATIENCE = 10  # seconds; a job takes a fraction of one
_B, _H = 2, 6
_NAMES = "weight", "bias"


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
        y = student(*leaves, group)
    if not isinstance(y, torch.Tensor) or y.shape != x.shape or not y.requires_grad:
        return {"unusable": f"{type(y).__name__} {list(getattr(y, 'shape', []))}"}
    with Recorder() as backward:
        y.backward(gradient)
    calls = [[(c.operation, c.elements) for c in seen.calls] for seen in (forward, backward)]
    return {"y": y.detach(), "calls": calls} | {
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
            what = f"what norm_on_a_piece returns on rank {rank} of {world}"
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
                look_at = "a sum over all tokens, of which this rank has some"
                expect(reports[rank][name], whole, f"the gradient of {name} {where}", look_at)
            right = for_x.tensor_split(len(ranks))[index]
            look_at = "these tokens are this rank's alone"
            expect(reports[rank]["x"], right, f"the gradient of x {where}", look_at)


def as_one_process(student):
    """Output and gradients of one process"""
    _check(student, (tuple(range(RANKS)),), 12)


def one_call(student):
    """Nothing is sent in forward, and one all-reduce of 2h numbers in backward"""
    for rank, report in enumerate(_reports(student, (tuple(range(RANKS)),), 12)):
        forward, backward = report["calls"]
        look_at = "every token is normalized by itself"
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
def _normalized(x, kind=NORM):
    x = x - x.mean(-1, keepdim=True) if kind == "LayerNorm" else x
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def left_alone(x, weight, bias, group):
    """Caught by: as_one_process. Forward is right, so nothing seems to be needed."""
    return _normalized(x) * weight + bias


def other_norm(x, weight, bias, group):
    """Caught by: as_one_process. With the mean for without it, or the other way round."""
    kind = "RMSNorm" if NORM == "LayerNorm" else "LayerNorm"
    weight, bias = Together.apply(weight, bias, group)
    return _normalized(x, kind) * weight + bias


class _Mean(Together):
    @staticmethod
    def backward(ctx, *gradients):
        total = Together.backward(ctx, *gradients)
        return total[0] / ctx.group.size(), total[1] / ctx.group.size(), None


def takes_the_mean(x, weight, bias, group):
    """Caught by: as_one_process. Gradients of several ranks are averaged, as among replicas."""
    weight, bias = _Mean.apply(weight, bias, group)
    return _normalized(x) * weight + bias


class _WeightAlone(Together):
    @staticmethod
    def backward(ctx, for_weight, for_bias):
        total = for_weight.clone()
        dist.all_reduce(total, group=ctx.group)
        return total, for_bias, None


def only_the_weight(x, weight, bias, group):
    """Caught by: as_one_process. The bias is only added, so it seems to be complete."""
    weight, bias = _WeightAlone.apply(weight, bias, group)
    return _normalized(x) * weight + bias


class _EachByItself(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        total = gradient.clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


def two_calls(x, weight, bias, group):
    """Caught by: one_call. f for each vector: right, and two latencies."""
    weight, bias = (_EachByItself.apply(v, group) for v in (weight, bias))
    return _normalized(x) * weight + bias


def output_through_f(x, weight, bias, group):
    """Caught by: as_one_process. The sum is put on y, where it mixes the tokens of all ranks."""
    return _EachByItself.apply(_normalized(x) * weight + bias, group)


def input_through_f_too(x, weight, bias, group):
    """Caught by: as_one_process. x is taken for whole as well, and its gradient is summed."""
    return norm_on_a_piece(_EachByItself.apply(x, group), weight, bias, group)


def agrees_in_forward(x, weight, bias, group):
    """Caught by: one_call. The vectors are made equal again in each forward, to be safe."""
    with torch.no_grad():
        both = torch.stack([weight, bias])
        dist.all_reduce(both, group=group)
    return norm_on_a_piece(x, weight, bias, group)


def all_ranks_there_are(x, weight, bias, group):
    """Caught by: inside_a_group. The group is taken for all ranks."""
    return norm_on_a_piece(x, weight, bias, dist.group.WORLD)


def stays_away_without_tokens(x, weight, bias, group):
    """Caught by: a_rank_without_tokens. With nothing to add, a rank makes no call."""
    if len(x) == 0:
        return left_alone(x, weight, bias, group)
    return norm_on_a_piece(x, weight, bias, group)
