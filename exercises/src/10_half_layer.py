# ---
# mark: 3
# minutes: 35
# help: empty
# needs: [saved tensor, autograd.Function, f and g, column-parallel, row-parallel,
#   sequence parallelism]
# draws:
#   ACTIVATION: [GeLU, SiLU]
#   RANKS: [2, 4]
# ---

# %% [markdown]
# # Half a layer with the sequence cut
#
# Write $x + \text{MLP}(\text{LayerNorm}(x))$ for one rank of a tensor group. Each rank has its
# piece of the sequence and its slices of the two matrices.
#
# Three parameters are whole on every rank: LayerNorm's two vectors and the bias of the second
# matrix. `GatheredLinear` is the first product. It works on all tokens and keeps only its own.
#
# **Target:** output and all gradients are those of one process, on every rank, for any tensor
# group. Forward sends $2\,sbh\,(t-1)/t$ numbers and backward $3\,sbh\,(t-1)/t$, besides sums of $h$
# numbers. Each rank keeps $(1 + 1 + 4 + 4)\,sbh/t$ numbers: the input of LayerNorm, its output, and
# what goes into the {{ACTIVATION}} between the matrices and comes out. The checks run {{RANKS}} ranks,
# with $s = 8$, $b = 3$ and $h = 16$: a rank keeps {{KEPT}} numbers.
#
# The {{ACTIVATION}} is `{{CALL}}`, the LayerNorm `F.layer_norm(x, (h,), weight, bias)`.

# %% tags=["target"]
CALL = {"GeLU": 'F.gelu(y, approximate="tanh")', "SiLU": "F.silu(y)"}[ACTIVATION]
KEPT = 10 * 8 * 3 * 16 // RANKS

# %%
import torch
import torch.distributed as dist
import torch.nn.functional as F

from minimtnlg import run
from minimtnlg.parallel.collectives import all_gather, reduce_scatter
from minimtnlg.parallel.tensor import f


class Scatter(torch.autograd.Function):
    """[s, b, h] -> [s/t, b, h]: this rank's piece of the sum over the group, as in the lesson."""

    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return reduce_scatter(x, group)

    @staticmethod
    def backward(ctx, gradient):
        return all_gather(gradient, ctx.group), None


# %% tags=["stub"]
class GatheredLinear(torch.autograd.Function):
    """F.linear(x of all ranks, weight, bias): [s/t, b, h] -> [s, b, rows of weight]."""

    @staticmethod
    def forward(ctx, x, weight, bias, group):
        raise NotImplementedError("multiply all tokens, and keep this rank's tokens for backward")

    @staticmethod
    def backward(ctx, gradient):
        raise NotImplementedError("the gradients of x, weight and bias, and None for the group")


def half_layer(x, w, group):
    """x + MLP(LayerNorm(x)) on this rank's piece of the sequence, [s/t, b, h].

    w: the parameters by name. The same on all ranks: norm_weight, norm_bias, down_bias, each [h].
    This rank's slices: up_weight [4h/t, h], up_bias [4h/t], down_weight [h, 4h/t].
    """
    raise NotImplementedError("norm, GatheredLinear, {{ACTIVATION}}, second matrix, Scatter, x +")


# %% [markdown] tags=["hint"]
# Begin with `half_layer`, and with the lesson's picture beside you: what does the rank hold at each
# step, all tokens or its own? Each parameter that is whole and used on *some* tokens passes through
# `f`. Which are these, and which are not?

# %% [markdown] tags=["hint"]
# In `GatheredLinear.backward` the incoming gradient has all tokens. The gradient of the gathered
# input is `gradient @ weight`. Every rank used all tokens, so it must be summed over the ranks, and
# each rank wants its own tokens of the sum. The gradient of `weight` needs the input of all tokens:
# gather it again. The bias is cut like the weight, so its gradient needs nobody.

# %% [markdown] tags=["hint"]
# ```python
# rows = gradient.flatten(0, 1)                        # [s b, rows of weight]
# for_weight = rows.T @ all_gather(x, ctx.group).flatten(0, 1)
# for_bias = rows.sum(0)
# ```
# Save `x` and `weight` with `ctx.save_for_backward`, the group as an attribute. After the activation:
# `F.linear` without bias, `Scatter.apply`, and only then `f(w["down_bias"], group)` and `x`.
# LayerNorm's two vectors pass through `f` as well; `up_bias` is cut and does not.

# %% [markdown] tags=["oral"]
# **Q.** Backward sends half as much again as forward. What is the third part, and what does it buy?
#
# **A.** The input of the first matrix is gathered once more, for the gradient of the weight. So a rank
# keeps its own tokens of it from forward to backward, and not all.
#
# **Q.** Three parameters pass through f and the bias of the first matrix does not. How do you tell, for
# any parameter?
#
# **A.** Is it whole on every rank, and used on some of the tokens only? Then its gradient is a part of
# a sum over the ranks. A slice is used by one rank alone, on all tokens.


# %% tags=["solution"]
class GatheredLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, group):
        ctx.save_for_backward(x, weight)
        ctx.group = group
        return F.linear(all_gather(x, group), weight, bias)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        rows = gradient.flatten(0, 1)
        for_x = reduce_scatter(gradient @ weight, ctx.group)
        for_weight = rows.T @ all_gather(x, ctx.group).flatten(0, 1)
        return for_x, for_weight, rows.sum(0), None


def half_layer(x, w, group):
    norm_weight, norm_bias = f(w["norm_weight"], group), f(w["norm_bias"], group)
    y = F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias)
    y = GatheredLinear.apply(y, w["up_weight"], w["up_bias"], group)
    y = F.linear({{CALL}}, w["down_weight"])
    return x + (Scatter.apply(y, group) + f(w["down_bias"], group))


# %% tags=["check"]
import re
from functools import cache

from torch.autograd.graph import saved_tensors_hooks

from minimtnlg.course.check import Feedback, expect
from minimtnlg.parallel.collectives import Recorder
from minimtnlg.ranks import RankError

_PATIENCE = 10  # seconds; a job takes a fraction of one
_S, _B, _H = 8, 3, 16
_CUTS = {"norm_weight": None, "norm_bias": None, "down_bias": None, "up_weight": 0, "up_bias": 0,
         "down_weight": 1}  # fmt: skip
_WHOLE = [name for name, cut in _CUTS.items() if cut is None]


def _numbers(seed):
    """(x, gradient of the output, parameters), whole, in float64."""
    draw = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    shapes = {"norm_weight": (_H,), "norm_bias": (_H,), "down_bias": (_H,), "up_bias": (4 * _H,),
              "up_weight": (4 * _H, _H), "down_weight": (_H, 4 * _H)}  # fmt: skip
    w = {name: random(*shape) / 4 for name, shape in shapes.items()}
    return random(_S, _B, _H), random(_S, _B, _H), w


def _one_process(seed):
    """Output and gradients without ranks."""
    x, gradient, w = _numbers(seed)
    leaves = {name: p.requires_grad_() for name, p in w.items()}
    x.requires_grad_()
    centred = x - x.mean(-1, keepdim=True)
    y = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    y = (y * w["norm_weight"] + w["norm_bias"]) @ w["up_weight"].T + w["up_bias"]
    if ACTIVATION == "GeLU":
        y = 0.5 * y * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (y + 0.044715 * y**3)))
    else:
        y = y / (1 + (-y).exp())
    y = x + y @ w["down_weight"].T + w["down_bias"]
    y.backward(gradient)
    return {"output": y.detach(), "x": x.grad} | {name: p.grad for name, p in leaves.items()}


def _on_ctx(node, seen):
    """Tensors that Functions of this graph hold as attributes, on which no hook is called."""
    if node is None or node in seen:
        return
    seen.add(node)
    for value in getattr(node, "__dict__", {}).values():
        for x in value if isinstance(value, list | tuple) else [value]:
            if isinstance(x, torch.Tensor):
                yield x
    for following, _ in node.next_functions:
        yield from _on_ctx(following, seen)


def _program(student, lists):
    """What one rank reports. lists: the ranks of each tensor group; each group has its own data."""
    rank = dist.get_rank()
    made = [dist.new_group(ranks) for ranks in lists]
    (seed,) = (i for i, ranks in enumerate(lists) if rank in ranks)
    group, t = made[seed], len(lists[seed])
    x, gradient, w = _numbers(seed)
    index = lists[seed].index(rank)
    x, gradient = (whole.chunk(t)[index].clone() for whole in (x, gradient))
    mine = {
        name: (p if _CUTS[name] is None else p.chunk(t, _CUTS[name])[index]).clone()
        for name, p in w.items()
    }
    leaves = {name: p.requires_grad_() for name, p in mine.items()}
    x.requires_grad_()
    parameters = {p.untyped_storage().data_ptr() for p in leaves.values()}
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor), Recorder() as forward:
        y = student(x, dict(leaves), group)
    if not isinstance(y, torch.Tensor) or y.shape != x.shape or not y.requires_grad:
        return {"unusable": f"{type(y).__name__} {list(getattr(y, 'shape', []))}"}
    for tensor in _on_ctx(y.grad_fn, set()):
        kept[tensor.untyped_storage().data_ptr()] = tensor
    sizes = [k.untyped_storage().nbytes() // 8 for p, k in kept.items() if p not in parameters]
    kept.clear()
    with Recorder() as backward:
        y.backward(gradient)
    grads = {name: p.grad for name, p in leaves.items()} | {"x": x.grad}
    sent = [sum(call.wire_bytes for call in calls) / 8 for calls in (forward.calls, backward.calls)]
    return {"output": y.detach(), "sent": sent, "kept": sum(sizes)} | grads


@cache  # several checks look at one job, and a deadlock is waited for once
def _job(student, world, lists):
    """(reports of the ranks, None), or (None, the RankError)."""
    try:
        return run(_program, world, student, lists, timeout=_PATIENCE), None
    except RankError as error:
        return None, error


def _reports(student, world, lists=None):
    """What `_program` returned on each rank; a failure is put into words."""
    lists = lists or (tuple(range(world)),)
    reports, error = _job(student, world, lists)
    if error is not None:
        if error.type == "NotImplementedError":
            raise NotImplementedError(error.message)
        got, look_at = str(error).splitlines()[0], _where(error)
        if error.type == "TimeoutError":
            got, look_at = "a deadlock", "every rank makes the same calls in the same order"
        raise Feedback(f"{world} ranks", "each rank returns its piece", got, look_at)
    for rank, report in enumerate(reports):
        if "unusable" in report:
            shape = [_S // len(lists[0]), _B, _H]
            what = f"what half_layer returns on rank {rank} of {world}"
            look_at = "this rank's tokens, computed from x so that backward works"
            raise Feedback(what, f"a Tensor {shape} with a gradient", report["unusable"], look_at)
    return reports


def _where(error):
    """The student's line in the report of a failed rank."""
    frames = re.findall(r"line (\d+), in (\S+)\n *(.+)", error.traceback)
    theirs = [frame for frame in frames if frame[1] != "_program"]
    return "line {}, in {}: {}".format(*theirs[-1]) if theirs else ""


def _look_at(student, name, look_at):
    """look_at, or what has to be mended before since it may have spoiled the gradient of `name`."""
    before = {"down_bias": [], "norm_weight": ["output", "x"], "norm_bias": ["output", "x"]}
    for earlier in before.get(name, ["output"]):
        try:
            _compare(student, earlier, "")
        except Feedback:
            kind = "the output" if earlier == "output" else "the gradient of x"
            return f"{kind} is wrong: mend that first, this may come of it"
    return look_at


def _compare(student, name, look_at, world=RANKS, lists=None):
    """`name` on every rank against one process."""
    lists = lists or (tuple(range(world)),)
    reports = _reports(student, world, lists)
    for seed, ranks in enumerate(lists):
        whole = _one_process(seed)[name]
        cut = 0 if name in ("x", "output") else _CUTS[name]
        for index, rank in enumerate(ranks):
            right = whole if cut is None else whole.chunk(len(ranks), cut)[index]
            kind = "the output" if name == "output" else f"the gradient of {name}"
            expect(reports[rank][name], right, f"{kind} on rank {rank} of {world}", look_at)


def output(student):
    """Each rank's piece of the output is that of one process"""
    look_at = f"in turn: LayerNorm, the {ACTIVATION} as given, the sum, what is added once after it"
    _compare(student, "output", look_at)


def gradient_of_x(student):
    """Each rank's piece of the gradient of x"""
    look_at = "which ranks used this token, and which part of its gradient does each of them know?"
    _compare(student, "x", _look_at(student, "x", look_at))


def whole_parameters(student):
    """The gradients of norm_weight, norm_bias and down_bias are complete on every rank"""
    for name in _WHOLE:
        look_at = _look_at(student, name, "a whole parameter that was used on some tokens: f")
        _compare(student, name, look_at)


def cut_parameters(student):
    """The gradients of this rank's slices"""
    for name in ("up_weight", "up_bias", "down_weight"):
        look_at = "a slice is used on all tokens, and by this rank alone"
        _compare(student, name, _look_at(student, name, look_at))


def _check_traffic(student, t):
    numbers = _S * _B * _H * (t - 1) / t
    vectors = 2 * (t - 1) / t * 3 * _H  # all-reduces of three gradients of h numbers
    for rank, report in enumerate(_reports(student, t)):
        forward, backward = report["sent"]
        look_at = "a gather and a reduce-scatter; an all-reduce sends twice what each of them does"
        expect(forward, 2 * numbers, f"numbers that rank {rank} of {t} sends in forward", look_at)
        low, high = 3 * numbers, 3 * numbers + vectors
        if not low <= backward <= high:
            what = f"numbers that rank {rank} of {t} sends in backward"
            look_at = "two gathers and a reduce-scatter: gradient, x again, gradient of x"
            raise Feedback(what, f"{low:g}, and at most {vectors:g} more", f"{backward:g}", look_at)


def _check_memory(student, t):
    limit = 10 * _S * _B * _H // t
    small = 2 * _S * _B // t + 4 * _H  # LayerNorm keeps two numbers a token; copies of vectors
    for rank, report in enumerate(_reports(student, t)):
        if report["kept"] > limit + small:
            what = f"numbers that rank {rank} of {t} keeps for backward"
            look_at = "which tensor is kept beside these four, or with all tokens?"
            expected = f"{limit}, and at most {small} more for LayerNorm"
            raise Feedback(what, expected, str(report["kept"]), look_at)


def keeps_pieces(student):
    """Each rank keeps (1 + 1 + 4 + 4) sbh/t numbers"""
    _check_memory(student, RANKS)


def sends_no_more(student):
    """Numbers sent in forward and in backward"""
    _check_traffic(student, RANKS)


# %% tags=["hidden"]
def other_ranks(student):
    """Everything on another number of ranks"""
    others = {2: 4, 4: 2}[RANKS]
    for name in ("output", "x", *_CUTS):
        _compare(student, name, "what depends on the number of ranks?", world=others)
    _check_memory(student, others)
    _check_traffic(student, others)


def inside_a_group(student):
    """Two tensor groups side by side, of ranks that are no neighbours"""
    for name in ("output", "x", *_CUTS):
        look_at = "each collective, and f, is given the group"
        _compare(student, name, look_at, world=4, lists=((0, 2), (1, 3)))


# %% tags=["wrong"]
class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return all_gather(x, group)

    @staticmethod
    def backward(ctx, gradient):
        return reduce_scatter(gradient, ctx.group), None


def _activation(y):
    return F.gelu(y, approximate="tanh") if ACTIVATION == "GeLU" else F.silu(y)


class _AllReduceThenCut(Scatter):
    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total.chunk(group.size())[group.rank()].clone()


class _OwnPart(GatheredLinear):
    @staticmethod
    def backward(ctx, gradient):
        for_x, *others = GatheredLinear.backward(ctx, gradient)
        whole = gradient @ ctx.saved_tensors[1]
        return whole.chunk(ctx.group.size())[ctx.group.rank()], *others


class _KeepsOnCtx(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, group):
        ctx.save_for_backward(weight)
        ctx.group, ctx.whole = group, all_gather(x, group)
        return F.linear(ctx.whole, weight, bias)

    @staticmethod
    def backward(ctx, gradient):
        (weight,) = ctx.saved_tensors
        rows = gradient.flatten(0, 1)
        for_x = reduce_scatter(gradient @ weight, ctx.group)
        return for_x, rows.T @ ctx.whole.flatten(0, 1), rows.sum(0), None


class _OwnTokensOnly(GatheredLinear):
    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        for_x = reduce_scatter(gradient @ weight, ctx.group)
        rows = gradient.chunk(ctx.group.size())[ctx.group.rank()].flatten(0, 1)
        return for_x, rows.T @ x.flatten(0, 1), rows.sum(0), None


def _built(x, w, group, norm=f, first=GatheredLinear, last=Scatter, up_bias=None, down_bias=f):
    """The solution with one part exchanged."""
    y = F.layer_norm(x, x.shape[-1:], norm(w["norm_weight"], group), norm(w["norm_bias"], group))
    y = first.apply(y, w["up_weight"], w["up_bias"] if up_bias is None else up_bias, group)
    y = F.linear(_activation(y), w["down_weight"])
    return x + last.apply(y, group) + down_bias(w["down_bias"], group)


def _as_it_is(parameter, group):
    return parameter


def layer_norm_left_alone(x, w, group):
    """Caught by: whole_parameters. Forward is right, so LayerNorm seems to need nothing."""
    return _built(x, w, group, norm=_as_it_is)


def bias_without_f(x, w, group):
    """Caught by: whole_parameters. Only LayerNorm is thought of; the bias is whole as well."""
    return _built(x, w, group, down_bias=_as_it_is)


def averages_the_gradients(x, w, group):
    """Caught by: whole_parameters. Gradients of several ranks are averaged, as among replicas."""

    def mean(parameter, group):
        half = parameter / group.size()
        return f(half, group) * 1 + (parameter - half).detach()

    return _built(x, w, group, norm=mean)


def every_parameter_through_f(x, w, group):
    """Caught by: cut_parameters. f is put on all biases, to be on the safe side."""
    return _built(x, w, group, up_bias=f(w["up_bias"], group))


def bias_before_the_sum(x, w, group):
    """Caught by: output. F.linear takes a bias; each summand then has it."""
    y = F.layer_norm(x, x.shape[-1:], f(w["norm_weight"], group), f(w["norm_bias"], group))
    y = GatheredLinear.apply(y, w["up_weight"], w["up_bias"], group)
    y = F.linear(_activation(y), w["down_weight"], w["down_bias"])
    return x + Scatter.apply(y, group)


def another_activation(x, w, group):
    """Caught by: output. PyTorch's GeLU without an argument is not the tanh form, nor a SiLU."""
    y = F.layer_norm(x, x.shape[-1:], f(w["norm_weight"], group), f(w["norm_bias"], group))
    y = GatheredLinear.apply(y, w["up_weight"], w["up_bias"], group)
    y = F.linear(F.gelu(y), w["down_weight"])
    return x + Scatter.apply(y, group) + f(w["down_bias"], group)


def keeps_what_it_gathered(x, w, group):
    """Caught by: keeps_pieces. Gather, then an ordinary product: right, and it keeps its input."""
    y = F.layer_norm(x, x.shape[-1:], f(w["norm_weight"], group), f(w["norm_bias"], group))
    y = F.linear(_Gather.apply(y, group), w["up_weight"], w["up_bias"])
    y = F.linear(_activation(y), w["down_weight"])
    return x + Scatter.apply(y, group) + f(w["down_bias"], group)


def keeps_it_on_ctx(x, w, group):
    """Caught by: keeps_pieces. An attribute of ctx is thought not to count."""
    return _built(x, w, group, first=_KeepsOnCtx)


def normalizes_all_tokens(x, w, group):
    """Caught by: keeps_pieces. Gathered one step too early: LayerNorm is whole on every rank."""
    y = _Gather.apply(x, group)
    y = F.layer_norm(y, x.shape[-1:], f(w["norm_weight"], group), f(w["norm_bias"], group))
    y = F.linear(y, w["up_weight"], w["up_bias"])
    y = F.linear(_activation(y), w["down_weight"])
    return x + Scatter.apply(y, group) + f(w["down_bias"], group)


def takes_its_own_part(x, w, group):
    """Caught by: gradient_of_x. Backward of a gather is taken for a cut; the others' parts drop."""
    return _built(x, w, group, first=_OwnPart)


def own_tokens_only(x, w, group):
    """Caught by: cut_parameters. The piece is kept, and the gradient made of the piece alone."""
    return _built(x, w, group, first=_OwnTokensOnly)


def sums_and_then_cuts(x, w, group):
    """Caught by: sends_no_more. All-reduce and take a piece: right, and twice the traffic."""
    return _built(x, w, group, last=_AllReduceThenCut)


def all_ranks_there_are(x, w, group):
    """Caught by: inside_a_group. The group is taken for all ranks."""
    return _built(x, w, dist.group.WORLD)
