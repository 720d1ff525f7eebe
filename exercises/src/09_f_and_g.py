# ---
# mark: 2
# minutes: 20
# help: half
# needs: [rank, process group, collective, residual stream, autograd.Function, f and g,
#   column-parallel, row-parallel]
# draws:
#   SHAPE: [side by side, one after the other]
#   RANKS: [2, 4, 3]
# ---

# %% [markdown]
# # f and g for two branches
#
# A branch is a pair of matrices, $\tanh(x A)\,B$. A block has two of them and a residual stream,
# here {{SHAPE}}:
#
# $${{FORMULA}}$$
#
# Each rank of a tensor group has all of $x$, its columns of each $A$ and its rows of each $B$. Write
# f and g as Functions, and put them where they belong, as few as will do.
#
# **Target:** output and gradients of one process on {{RANKS}} ranks, and in any tensor group, with
# {{CALLS}} in forward and {{CALLS}} in backward, each of a tensor shaped like $x$.

# %% tags=["target"]
FORMULA = {
    "side by side": r"y = x + \tanh(x A_1)\,B_1 + \tanh(x A_2)\,B_2",
    "one after the other": r"z = x + \tanh(x A_1)\,B_1, \qquad y = z + \tanh(z A_2)\,B_2",
}[SHAPE]
PAIRS = {"side by side": 1, "one after the other": 2}[SHAPE]
CALLS = {1: "one all-reduce", 2: "two all-reduces"}[PAIRS]

# %%
import torch
import torch.distributed as dist

from minimtnlg import run


def summed(x, group):
    """The sum of the x of all ranks of the group, as a new tensor."""
    total = x.clone()
    dist.all_reduce(total, group=group)
    return total


# %% tags=["stub"]
class EnterBranch(torch.autograd.Function):
    """f"""

    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        raise NotImplementedError("what does f do in forward?")

    @staticmethod
    def backward(ctx, gradient):
        raise NotImplementedError("a gradient for x, and None for the group")


class LeaveBranch(torch.autograd.Function):
    """g"""

    @staticmethod
    def forward(ctx, x, group):
        raise NotImplementedError("what does g do in forward?")

    @staticmethod
    def backward(ctx, gradient):
        raise NotImplementedError("and in backward? As many results as forward has arguments")


def two_branches(x, first, second, group):
    """y on every rank, {{SHAPE}}; x: [tokens, h], whole.

    first, second: this rank's (A [h, width / t], B [width / t, h]) of each branch.
    """
    y = x
    for A, B in (first, second):
        y = y + torch.tanh(x @ A) @ B  # of which x? And this rank's summand alone
    raise NotImplementedError("which x does a branch get, and where do f and g belong?")


# %% [markdown] tags=["hint"]
# Draw the block and colour what is whole on all ranks. Where does a line go from whole to cut? That
# is an f. Where does one come back? That is a g. The residual stream itself is never cut.

# %% [markdown] tags=["hint"]
# {{HINT}}

# %% tags=["target"]
HINT = {
    "side by side": "Summands can be added before they are summed over the ranks: a sum of two "
    "sums is one sum. Both branches begin from the same $x$, so they can share what f gives. The "
    "residual stream must not pass through f: its gradient would be counted $t$ times.",
    "one after the other": "The second branch needs the whole $z$. So the first must be summed "
    "before the second begins, and each branch has an f and a g of its own. The residual stream "
    "must not pass through f: its gradient would be counted $t$ times.",
}[SHAPE]
CODE = {
    "side by side": "inside = EnterBranch.apply(x, group)\n"
    "total = ...  # of both branches of `inside`, this rank's summands\n"
    "y = x + LeaveBranch.apply(total, group)",
    "one after the other": "for A, B in (first, second):\n"
    "    inside = EnterBranch.apply(x, group)\n"
    "    x = x + ...  # g of this rank's summand, made of `inside`",
}[SHAPE]

# %% [markdown] tags=["hint"]
# f: backward returns `summed(gradient, ctx.group), None`. g: forward returns `summed(x, group)`, and
# backward `gradient, None`. The block:
#
# ```python
# {{CODE}}
# ```

# %% [markdown] tags=["oral"]
# **Q.** Why does g do nothing in backward? Each rank made only a summand of y.
#
# **A.** The derivative of a sum by each summand is 1, and every rank has the whole gradient of y
# already. A sum over the ranks would make it t times as large.
#
# **Q.** Your f is left out, and the loss is right. Which gradients are wrong, and in which layers?
#
# **A.** That of x through the branches: each rank has only its own summand. So everything below the
# block is wrong, on each rank in another way. The matrices of this block are right.


# %% tags=["solution"]
class EnterBranch(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return x

    @staticmethod
    def backward(ctx, gradient):
        return summed(gradient, ctx.group), None


class LeaveBranch(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, group):
        return summed(x, group)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def two_branches(x, first, second, group):
    steps = {"side by side": [(first, second)], "one after the other": [(first,), (second,)]}
    y = x
    for branches in steps["{{SHAPE}}"]:
        inside = EnterBranch.apply(y, group)
        total = sum(torch.tanh(inside @ A) @ B for A, B in branches)
        y = y + LeaveBranch.apply(total, group)
    return y


# %% tags=["check"]
import re
from functools import cache

from minimtnlg.course.check import Feedback, expect
from minimtnlg.parallel.collectives import Recorder
from minimtnlg.ranks import RankError

_PATIENCE = 10  # seconds; a job takes a fraction of one
_TOKENS, _H, _WIDTH = 5, 4, 12
_NAMES = "A of the first branch", "B of the first branch", "A of the second", "B of the second"


def _numbers(seed):
    """x, gradient of y, [A1, B1, A2, B2], whole, in float64."""
    draw = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    matrices = [random(*shape) / 3 for shape in [(_H, _WIDTH), (_WIDTH, _H)] * 2]
    return random(_TOKENS, _H), random(_TOKENS, _H), matrices


@cache
def _alone(seed):
    """(y, gradient of x, gradients of the matrices) of one process."""
    x, gradient, matrices = _numbers(seed)
    A1, B1, A2, B2 = (m.requires_grad_() for m in matrices)
    x.requires_grad_()
    z = x + (x @ A1).tanh() @ B1
    y = z + ((x if SHAPE == "side by side" else z) @ A2).tanh() @ B2
    y.backward(gradient)
    return y.detach(), x.grad, [m.grad for m in matrices]


def _program(student, lists):
    """What one rank reports; lists: the ranks of each tensor group, which has its own numbers."""
    rank = dist.get_rank()
    made = [dist.new_group(ranks) for ranks in lists]
    (seed,) = (i for i, ranks in enumerate(lists) if rank in ranks)
    group, t, index = made[seed], len(lists[seed]), lists[seed].index(rank)
    x, gradient, matrices = _numbers(seed)
    mine = [m.chunk(t, 1 - i % 2)[index].clone().requires_grad_() for i, m in enumerate(matrices)]
    x.requires_grad_()
    with Recorder() as forward:
        y = student(x, tuple(mine[:2]), tuple(mine[2:]), group)
    if not isinstance(y, torch.Tensor) or y.shape != x.shape or not y.requires_grad:
        return {"unusable": f"{type(y).__name__} {list(getattr(y, 'shape', []))}"}
    with Recorder() as backward:
        y.backward(gradient)
    calls = [[(c.operation, c.elements) for c in seen.calls] for seen in (forward, backward)]
    elsewhere = any(c.n != t for seen in (forward, backward) for c in seen.calls)
    return {"y": y.detach(), "x": x.grad, "matrices": [m.grad for m in mine], "calls": calls,
            "elsewhere": elsewhere}  # fmt: skip


@cache  # several checks look at one job, and a deadlock is waited for once
def _job(student, world, lists):
    try:
        return run(_program, world, student, lists, timeout=_PATIENCE), None
    except RankError as error:
        return None, error


def _reports(student, lists):
    """What `_program` returned on each rank; a failure is put into words."""
    world = sum(map(len, lists))
    reports, error = _job(student, world, lists)
    if error is not None:
        if error.type == "NotImplementedError":
            raise NotImplementedError(error.message)
        got, look_at = str(error).splitlines()[0], _where(error)
        if error.type == "TimeoutError":
            got, look_at = "a deadlock", "every rank of a group makes the same calls, in its group"
        raise Feedback(f"{world} ranks", "each rank returns y", got, look_at)
    for rank, report in enumerate(reports):
        if "unusable" in report:
            wanted = f"a Tensor [{_TOKENS}, {_H}] through which backward goes"
            what = f"what two_branches returns on rank {rank} of {world}"
            raise Feedback(what, wanted, report["unusable"])
    return reports


def _where(error):
    """The student's line in the report of a failed rank."""
    frames = re.findall(r"line (\d+), in (\S+)\n *(.+)", error.traceback)
    theirs = [frame for frame in frames if frame[1] not in ("_program", "summed")]
    return "line {}, in {}: {}".format(*theirs[-1]) if theirs else ""


def _check(student, lists):
    """Output and gradients on every rank against one process."""
    reports, world = _reports(student, lists), sum(map(len, lists))
    for seed, ranks in enumerate(lists):
        y, for_x, for_matrices = _alone(seed)
        for index, rank in enumerate(ranks):
            where = f"on rank {rank} of {world}, of a group of {len(ranks)}"
            other = "a call is one of `group`, not of others" if reports[rank]["elsewhere"] else ""
            look_at = f"branches {SHAPE}; a rank has a summand of each; x is added once"
            expect(reports[rank]["y"], y, f"y {where}", other or look_at)
            parts = [m.chunk(len(ranks), 1 - i % 2)[index] for i, m in enumerate(for_matrices)]
            found = reports[rank]["matrices"]
            if len(ranks) > 1 and not other and _is(found[-1], parts[-1] * len(ranks)):
                name = f"the gradient of this rank's part of {_NAMES[-1]}, {where}"
                look_at = f"{len(ranks)} times too large: every rank had the whole gradient of y, "
                expect(found[-1], parts[-1], name, look_at + "and g summed it in backward")
            look_at = "every rank used x in its own columns; the residual stream needs no sum"
            expect(reports[rank]["x"], for_x, f"the gradient of x {where}", other or look_at)
            for name, got, right in zip(_NAMES, found, parts, strict=True):
                expect(got, right, f"the gradient of this rank's part of {name}, {where}")


def _is(got, x):
    return isinstance(got, torch.Tensor) and got.shape == x.shape and torch.allclose(got, x)


def as_one_process(student):
    """Output and gradients of one process"""
    _check(student, (tuple(range(RANKS)),))


def all_reduces(student):
    """As few all-reduces as will do, forward and backward"""
    for rank, report in enumerate(_reports(student, (tuple(range(RANKS)),))):
        for when, calls in zip(("forward", "backward"), report["calls"], strict=True):
            what = f"collectives of rank {rank} of {RANKS} in {when}, and their numbers"
            look_at = "which sums can be taken together, and which tensor needs none?"
            if any(operation != "all_reduce" for operation, _ in calls):
                look_at = "f and g are one all-reduce each, in backward and in forward"
            expect(calls, [("all_reduce", _TOKENS * _H)] * PAIRS, what, look_at)


# %% tags=["hidden"]
def inside_a_group(student):
    """Two tensor groups side by side, of ranks that are no neighbours"""
    _check(student, ((0, 2), (1, 3)))


def other_numbers_of_ranks(student):
    """Two, three and six ranks, and a group of one"""
    for n in (1, 2, 3, 6):
        _check(student, (tuple(range(n)),))


# %% tags=["wrong"]
def _nothing(x, group):
    return x


def _sum_both_ways(x, group):
    return EnterBranch.apply(LeaveBranch.apply(x, group), group)


def _block(x, first, second, group, f=EnterBranch.apply, g=LeaveBranch.apply):
    """The solution with other ends."""
    for branches in [(first, second)] if SHAPE == "side by side" else [(first,), (second,)]:
        inside = f(x, group)
        x = x + g(sum(torch.tanh(inside @ A) @ B for A, B in branches), group)
    return x


def without_f(x, first, second, group):
    """Caught by: as_one_process. What does nothing in forward is left out."""
    return _block(x, first, second, group, f=_nothing)


def without_g(x, first, second, group):
    """Caught by: as_one_process. Each rank's summand is taken for the whole."""
    return _block(x, first, second, group, g=_nothing)


def g_sums_in_backward_too(x, first, second, group):
    """Caught by: as_one_process. An all-reduce is thought to have an all-reduce as its backward."""
    return _block(x, first, second, group, g=_sum_both_ways)


def f_around_the_residual_stream(x, first, second, group):
    """Caught by: as_one_process. x passes through f before it is split."""
    return _block(EnterBranch.apply(x, group), first, second, group, f=_nothing)


def residual_stream_inside_g(x, first, second, group):
    """Caught by: as_one_process. x is added before the sum over the ranks."""
    inside = EnterBranch.apply(x, group)
    if SHAPE == "side by side":
        total = sum(torch.tanh(inside @ A) @ B for A, B in (first, second))
        return LeaveBranch.apply(x + total, group)
    for A, B in (first, second):
        x = LeaveBranch.apply(x + torch.tanh(EnterBranch.apply(x, group) @ A) @ B, group)
    return x


def the_other_way_round(x, first, second, group):
    """Caught by: as_one_process. g where the branch begins, f where it ends."""
    return _block(x, first, second, group, f=LeaveBranch.apply, g=EnterBranch.apply)


def the_other_shape(x, first, second, group):
    """Caught by: as_one_process. Side by side and one after the other are taken for the same."""
    if SHAPE == "side by side":
        for branch in (first, second):
            x = _block(x, branch, (branch[0][:, :0], branch[1][:0]), group)
        return x
    inside = EnterBranch.apply(x, group)
    total = sum(torch.tanh(inside @ A) @ B for A, B in (first, second))
    return x + LeaveBranch.apply(total, group)


class _Mean(LeaveBranch):
    @staticmethod
    def forward(ctx, x, group):
        return summed(x, group) / dist.get_world_size(group)


def takes_the_mean(x, first, second, group):
    """Caught by: as_one_process. Ranks are averaged, as among replicas."""
    return _block(x, first, second, group, g=_Mean.apply)


class _GatherThenAdd(LeaveBranch):
    @staticmethod
    def forward(ctx, x, group):
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, x.contiguous(), group=group)
        return sum(parts)


def gathers_the_summands(x, first, second, group):
    """Caught by: all_reduces. All summands are collected and added: right, and more is sent."""
    return _block(x, first, second, group, g=_GatherThenAdd.apply)


def sums_the_gradient_of_x_once_more(x, first, second, group):
    """Caught by: all_reduces. To be on the safe side, gradients of y are made equal first."""

    class Mean(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            return y.clone()

        @staticmethod
        def backward(ctx, gradient):
            return summed(gradient, group) / dist.get_world_size(group)

    return Mean.apply(_block(x, first, second, group))


def all_ranks_there_are(x, first, second, group):
    """Caught by: inside_a_group. The group is taken for all ranks."""
    return two_branches(x, first, second, dist.group.WORLD)
