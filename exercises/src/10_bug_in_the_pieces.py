# ---
# mark: 2
# minutes: 20
# help: half
# needs: [saved tensor, autograd.Function, collective, f and g, column-parallel, row-parallel, sequence parallelism]
# draws:
#   BUG: [piece_of_the_gradient_without_sum, row_bias_gradient_of_one_piece, layer_norm_gradient_of_one_piece]
# ---

# %% [markdown]
# # Find the bug: right forward, wrong backward
#
# Somebody switched `parallel.sequence_parallel` on. Before the first update the loss is the same to
# the last digit, so it was kept. A week later the run is behind the old one, and nobody knows why.
#
# The suspects are in the cell below: three classes of the package, without their comments, that do
# something else when the sequence is cut. Find what is wrong, and mend it.
#
# **Target:** loss, gradients, norm and weights of one process to the last digits, on 2 and on 4
# ranks, with `parallel.sequence_parallel` and without it. And no more is sent than needed: a
# column-parallel matrix makes one all-gather forward, one more and a reduce-scatter backward.
#
# After the cell of the suspects,
# `lab.compare(LayerNorm, "parallel.tp=2", "parallel.sequence_parallel=true")` takes three steps with
# the code that stands there. It prints what differs from one process in any of the three, so also
# the loss once wrong gradients have moved the weights, and which parameters have a wrong gradient.
# `lab.compare` and `check` are given the last class, and take the other two of the cell with it.
#
# (The installed package has the right lines, and the lesson showed some of them. Who compares finds
# the place, not the reason, and the reason is what you will be asked for.)
#
# ```
#           [s/t, b, h]          [s, b, ../t]               [s/t, b, h]
#  x ── LayerNorm ── column-parallel ── GeLU ── row-parallel ── + bias ──
#                    all-gather                 reduce-scatter
# ```
#
# `f(x, group)` gives x and sums its gradient over the ranks. `scatter_sequence` is a reduce-scatter,
# and an all-gather backward.

# %% tags=["target"]
from minimtnlg.course.labs import excerpt

FILE, SUSPECTS = "parallel/tensor.py", ["_GatheredLinear", "RowParallel", "LayerNorm"]
PLANTED, RIGHT = excerpt(FILE, SUSPECTS, BUG), excerpt(FILE, SUSPECTS)

# %%
from minimtnlg.course.labs import Lab

lab = Lab(FILE, SUSPECTS)


# %% tags=["stub"]
{{PLANTED}}


# %% [markdown] tags=["hint"]
# Bisect. Is it equal without `parallel.sequence_parallel`? Then read only what is done where the
# sequence is cut. And which gradients differ: all, or those of some parameters? A wrong gradient of an
# activation spoils every parameter before it, a wrong gradient of a parameter only itself.

# %% [markdown] tags=["hint"]
# Each rank has used some tokens only. Go through the parameters: which are cut over the ranks and see
# all tokens, which are whole on every rank and see some? For the latter a rank's gradient is a part
# of the sum. Then go through the activations: which rank used the token of another one?

# %% [markdown] tags=["hint"]
# Three places need a sum over the ranks in backward: the bias of a row-parallel matrix and the two
# parameters of LayerNorm, by `f`; and the input of a column-parallel matrix, which all ranks have
# gathered: each adds a part to the gradient of every token, and a token's own rank needs the sum.

# %% [markdown] tags=["oral"]
# **Q.** Which gradients would be wrong if LayerNorm's f were missing, and which if the
# reduce-scatter in the backward of the column-parallel matrix were a mere cut? Why so many more?
#
# **A.** Without f those of LayerNorm's own weight and bias. The cut makes the gradient of an activation
# wrong, and all that lies before it is computed from this gradient.
#
# **Q.** Megatron leaves f out and sums these gradients once a step. What does it save, and what could
# go wrong?
#
# **A.** Two small all-reduces in each backward pass of each LayerNorm. The sum must then be made for
# exactly those parameters, which somebody has to mark; a forgotten mark is this bug.


# %% tags=["solution"]
{{RIGHT}}


# %% tags=["check"]
import torch
import torch.distributed as dist

from minimtnlg.course.check import expect
from minimtnlg.parallel.collectives import Recorder

_CUT = ("parallel.sequence_parallel=true",)
_S, _H = 4, 3


def _numbers():
    """x [s, 1, h], gradient of the output, and parameters, whole."""
    draw = torch.Generator().manual_seed(4)
    shapes = {"x": (_S, 1, _H), "gradient": (_S, 1, _H), "norm_weight": (_H,), "norm_bias": (_H,),
              "up": (4, _H), "up_bias": (4,), "down": (_H, 4), "down_bias": (_H,)}  # fmt: skip
    return {n: torch.randn(shape, generator=draw).double() for n, shape in shapes.items()}


def _piece_of_layer():
    """One rank: gradients through LayerNorm, column- and row-parallel matrix; calls of each pass."""
    from minimtnlg.parallel.tensor import ColumnParallel, LayerNorm, RowParallel

    group, rank, t = dist.group.WORLD, dist.get_rank(), dist.get_world_size()
    numbers = _numbers()
    norm = LayerNorm(_H, 1e-5, group).double()
    up, down = ColumnParallel(_H, 4, group, True).double(), RowParallel(4, _H, group, True).double()
    x = numbers["x"].chunk(t)[rank].clone().requires_grad_()
    with torch.no_grad():
        norm.weight.copy_(numbers["norm_weight"])
        norm.bias.copy_(numbers["norm_bias"])
        up.weight.copy_(numbers["up"].chunk(t)[rank])
        up.bias.copy_(numbers["up_bias"].chunk(t)[rank])
        down.weight.copy_(numbers["down"].chunk(t, 1)[rank])
        down.bias.copy_(numbers["down_bias"])
    with Recorder() as forward:
        y = down(up(norm(x)) ** 2)
    with Recorder() as backward:
        y.backward(numbers["gradient"].chunk(t)[rank])
    calls = [sorted(call.operation for call in seen.calls) for seen in (forward, backward)]
    found = {"y": y.detach(), "x": x.grad, "norm_weight": norm.weight.grad,
             "norm_bias": norm.bias.grad, "up": up.weight.grad, "up_bias": up.bias.grad,
             "down": down.weight.grad, "down_bias": down.bias.grad}  # fmt: skip
    return found, calls


def _check_layer(student, t):
    """Output and gradients on t ranks against one process."""
    w = {name: x.requires_grad_(name != "gradient") for name, x in _numbers().items()}
    centred = w["x"] - w["x"].mean(-1, keepdim=True)
    z = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    z = (z * w["norm_weight"] + w["norm_bias"]) @ w["up"].T + w["up_bias"]
    y = z**2 @ w["down"].T + w["down_bias"]
    y.backward(w["gradient"])
    # From the output back, and LayerNorm last: what is wrong first has not been spoiled by another.
    order = ["down", "down_bias", "up", "up_bias", "x", "norm_weight", "norm_bias"]
    right = {"y": y.detach()} | {name: w[name].grad for name in order}
    cuts = {"x": 0, "y": 0, "up": 0, "up_bias": 0, "down": 1}
    for rank, (found, _) in enumerate(lab.run(student, _piece_of_layer, t)):
        for name, whole in right.items():
            part = whole.chunk(t, cuts[name])[rank] if name in cuts else whole
            what, look_at = f"the gradient of {name}", "which tokens does this rank know it from?"
            if name == "y":
                what, look_at = "the output y", "which summands come together here, and how often?"
            expect(found[name], part, f"{what} on rank {rank} of {t}", look_at)


def pieces_are_one_process(student):
    """Three steps with the sequence cut over two ranks are those of one process"""
    look_at = "lab.compare: is it equal without the cut, and what is wrong next to the output?"
    lab.expect_equal(student, "parallel.tp=2", *_CUT, look_at=look_at)


def a_layer_by_itself(student):
    """LayerNorm, a column- and a row-parallel matrix on two ranks"""
    _check_layer(student, 2)


# %% tags=["hidden"]
def four_pieces(student):
    """The same on four ranks, one token each"""
    _check_layer(student, 4)


def whole_sequence(student):
    """Without sequence parallelism nothing has changed"""
    lab.expect_equal(student, "parallel.tp=2", look_at="where all ranks have all tokens, f is too much")


def sends_no_more(student):
    """What is sent in forward and in backward"""
    for rank, (_, calls) in enumerate(lab.run(student, _piece_of_layer, 2)):
        expect(calls[0], ["all_gather", "reduce_scatter"], f"calls of rank {rank} in forward")
        vectors = ["all_reduce"] * 3  # the gradients of norm_weight, norm_bias and down_bias
        right = ["all_gather", "all_gather", *vectors, "reduce_scatter"]
        expect(calls[1], right, f"calls of rank {rank} in backward", "a sum that is cut: one call")


# %% tags=["wrong"]
class as_it_is(LayerNorm):
    """Caught by: pieces_are_one_process. LayerNorm is not cut, so nothing about it is sent."""

    def forward(self, x):
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class sums_for_x(LayerNorm):
    """Caught by: pieces_are_one_process. f is put on the activation, which is this rank's own."""

    def forward(self, x):
        return F.layer_norm(f(x, self.group), self.normalized_shape, self.weight, self.bias, self.eps)


class sums_everything(LayerNorm):
    """Caught by: pieces_are_one_process. f on all that comes in, to be on the safe side."""

    def forward(self, x):
        weight, bias = f(self.weight, self.group), f(self.bias, self.group)
        return F.layer_norm(f(x, self.group), self.normalized_shape, weight, bias, self.eps)


class forgets_the_bias(LayerNorm):
    """Caught by: pieces_are_one_process. The weight is thought of, the bias is not."""

    def forward(self, x):
        weight = f(self.weight, self.group)
        return F.layer_norm(x, self.normalized_shape, weight, self.bias, self.eps)


class averages(LayerNorm):
    """Caught by: pieces_are_one_process. Gradients of several ranks are averaged, as of replicas."""

    def forward(self, x):
        t = 1 if self.group is None else self.group.size()
        weight, bias = (
            f(p / t, self.group) + (p - p / t).detach() for p in (self.weight, self.bias)
        )
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class sums_forward(LayerNorm):
    """Caught by: a_layer_by_itself. g is taken for f."""

    def forward(self, x):
        weight, bias = g(self.weight, self.group), g(self.bias, self.group)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class normalizes_all_tokens(LayerNorm):
    """Caught by: sends_no_more. Gathered, normalized and cut again: right, and sent for nothing."""

    def forward(self, x):
        weight, bias = f(self.weight, self.group), f(self.bias, self.group)
        whole = x if self.group is None else gather_sequence(x, self.group)
        y = F.layer_norm(whole, self.normalized_shape, weight, bias, self.eps)
        return y if self.group is None else y.chunk(self.group.size())[self.group.rank()]
