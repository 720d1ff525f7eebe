"""Tensor parallelism: each matrix cut over t ranks; sequence parallelism on top [S24, S13].

- A column-parallel matrix, then a row-parallel one: one sum forward and one backward for the two.
- f is the identity forward and a sum backward, g the other way round [S24, fig. 3].
- The embedding and the loss are cut by vocabulary: no rank ever holds full logits.
- Sequence parallelism replaces f by an all-gather and g by a reduce-scatter along the sequence, so
  that what lies between the matrices is cut too [S13].

A group of one is the ordinary case: every operation then returns what it is given. Each module says
in `split` along which dimension its parameters are cut; what is not named is the same on all ranks.
Activations are [s, b, h], or [s/t, b, h] where the sequence is cut.
"""

import torch
import torch.nn.functional as F
from torch import nn

from minimtnlg.device import fp32
from minimtnlg.errors import InputError
from minimtnlg.parallel.collectives import (
    all_gather,
    all_reduce,
    rank,
    reduce_scatter,
    size,
    summed,
)


class _F(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return x

    @staticmethod
    def backward(ctx, gradient):
        return summed(gradient, ctx.group), None


class _G(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, group):
        return summed(x, group)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return reduce_scatter(x, group)

    @staticmethod
    def backward(ctx, gradient):
        return all_gather(gradient, ctx.group), None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return all_gather(x, group)

    @staticmethod
    def backward(ctx, gradient):
        return reduce_scatter(gradient, ctx.group), None


def f(x, group):
    """x itself; its gradient is summed over the ranks of the group [S24, fig. 3].

    For what all ranks have and each uses in its own way, so that each sees a part of the gradient:
    the input of a column-parallel matrix, or a parameter used on a piece of the sequence.
    """
    return x if group is None else _F.apply(x, group)  # apply costs as much as a small matrix


def g(x, group):
    """The sum of x over the ranks of the group; its gradient passes unchanged [S24, fig. 3]."""
    return x if group is None else _G.apply(x, group)


def gather_sequence(x, group):
    """[s/t, b, h] -> [s, b, h]: f with the sequence cut; backward is a reduce-scatter [S13: g]."""
    return _Gather.apply(x, group)


def scatter_sequence(x, group):
    """[s, b, h] -> this rank's [s/t, b, h] of the sum: g with the sequence cut [S13: g-bar]."""
    return _Scatter.apply(x, group)


class _GatheredLinear(torch.autograd.Function):
    """F.linear(gather_sequence(x), weight, bias) that keeps the piece x, not the whole.

    Backward gathers x a second time: the price of 1/t of the memory [S13].
    """

    @staticmethod
    def forward(ctx, x, weight, bias, group):
        ctx.save_for_backward(x, weight)
        ctx.group = group
        return F.linear(all_gather(x, group), weight, bias)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        rows = gradient.flatten(0, -2)
        for_x = reduce_scatter(gradient @ weight, ctx.group) if ctx.needs_input_grad[0] else None
        for_weight = for_bias = None
        if ctx.needs_input_grad[1]:
            for_weight = rows.t() @ all_gather(x, ctx.group).flatten(0, -2)
        if ctx.needs_input_grad[2]:
            for_bias = rows.sum(0)
        return for_x, for_weight, for_bias, None


def column_linear(x, weight, bias, group, sequence_parallel):
    """x W^T + b for a W of which this rank has a block of rows: a part of the output's columns.

    x: [s, b, h], or [s/t, b, h] with sequence_parallel -> [s, b, rows of weight]. bias or None.
    """
    if sequence_parallel:
        return _GatheredLinear.apply(x, weight, bias, group)
    return F.linear(f(x, group), weight, bias)


def _part(total, what, group):
    """total / t; InputError where t does not divide it."""
    if total % size(group):
        raise InputError(f"{what} of {total} can't be cut over {size(group)} tensor-parallel ranks")
    return total // size(group)


class ColumnParallel(nn.Module):
    """The first matrix of a pair, [outputs, inputs], cut by rows: each rank makes its own outputs.

    group: the tensor group. sequence_parallel: inputs come as [s/t, b, inputs].
    """

    split = {"weight": 0, "bias": 0}

    def __init__(self, inputs, outputs, group=None, sequence_parallel=False):
        super().__init__()
        self.group, self.sequence_parallel = group, sequence_parallel
        rows = _part(outputs, "a matrix with outputs", group)
        self.weight = nn.Parameter(torch.zeros(rows, inputs))
        self.bias = nn.Parameter(torch.zeros(rows))

    def forward(self, x):
        """x: [s, b, inputs] (cut: [s/t, b, inputs]) -> [s, b, outputs/t]."""
        return column_linear(x, self.weight, self.bias, self.group, self.sequence_parallel)


class RowParallel(nn.Module):
    """The second matrix of a pair, [outputs, inputs], cut by columns: each rank makes one summand.

    The bias is whole on every rank and added once, after the sum.
    """

    split = {"weight": 1}

    def __init__(self, inputs, outputs, group=None, sequence_parallel=False):
        super().__init__()
        self.group, self.sequence_parallel = group, sequence_parallel
        columns = _part(inputs, "a matrix with inputs", group)
        self.weight = nn.Parameter(torch.zeros(outputs, columns))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        """x: [s, b, inputs/t] -> [s, b, outputs] (cut: [s/t, b, outputs])."""
        if self.sequence_parallel:
            y = scatter_sequence(F.linear(x, self.weight), self.group)
            return y + f(self.bias, self.group)
        return g(F.linear(x, self.weight), self.group) + self.bias


class VocabularyEmbedding(nn.Module):
    """The table [vocab, h] cut by rows; its second use is the output layer.

    A token is looked up by the one rank that has its row; the others add zeros.
    """

    split = {"weight": 0}

    def __init__(self, vocab, hidden, group=None, sequence_parallel=False):
        super().__init__()
        self.group, self.sequence_parallel = group, sequence_parallel
        rows = _part(vocab, "a vocabulary", group)
        self.weight = nn.Parameter(torch.zeros(rows, hidden))

    def forward(self, tokens):
        """tokens: [s, b], the same on all ranks -> [s, b, h] (cut: [s/t, b, h])."""
        row, elsewhere = _local(tokens, self.weight.shape[0], self.group)
        x = F.embedding(row, self.weight).masked_fill(elsewhere[..., None], 0)
        return (scatter_sequence if self.sequence_parallel else g)(x, self.group)

    def logits(self, x):
        """x: [s, b, h] (cut: [s/t, b, h]) -> this rank's columns of the logits, [s, b, vocab/t]."""
        return column_linear(x, self.weight, None, self.group, self.sequence_parallel)


def _local(tokens, rows, group):
    """(row of this rank's table, whether the row is on another rank), for each token.

    Where it is elsewhere the row is given as 0, and what comes of it has to be dropped. A token
    that no rank has stays outside of every table, so that looking it up is an error.
    """
    row = tokens - rank(group) * rows
    known = (tokens >= 0) & (tokens < rows * size(group))
    elsewhere = known & ((row < 0) | (row >= rows))
    return row.masked_fill(elsewhere, 0), elsewhere


class LayerNorm(nn.LayerNorm):
    """LayerNorm on a piece of the sequence: each rank sees a part of its parameters' gradients.

    They pass through f, so that they are complete in any engine, at the price of two small
    all-reduces in every backward pass; Megatron sums them once a step.

    group: the tensor group where the sequence is cut, None where every rank has all of it.
    """

    def __init__(self, hidden, eps, group=None):
        super().__init__(hidden, eps=eps)
        self.group = group

    def forward(self, x):
        """x: [..., h] -> [..., h]."""
        weight, bias = f(self.weight, self.group), f(self.bias, self.group)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, labels, group):
        row, elsewhere = _local(labels, logits.shape[-1], group)
        largest = all_reduce(logits.amax(-1, keepdim=True), group, "max").to(fp32(logits.dtype))
        shifted = logits - largest  # in fp32 by the type of `largest`
        label = shifted.gather(-1, row[:, None])[:, 0].masked_fill(elsewhere, 0)
        weights = shifted.exp_()
        total, label = all_reduce(torch.stack([weights.sum(-1), label]), group)
        ctx.save_for_backward(weights.div_(total[:, None]), row, elsewhere)
        ctx.dtype = logits.dtype
        return total.log() - label

    @staticmethod
    def backward(ctx, gradient):
        weights, row, elsewhere = ctx.saved_tensors
        result = weights * gradient[:, None]
        label = gradient.masked_fill(elsewhere, 0)
        result.scatter_add_(-1, row[:, None], -label[:, None])
        return result.to(ctx.dtype), None, None


def cross_entropy(logits, labels, group=None):
    """-log softmax(logits)[label] in nats for each row, over logits cut by vocabulary.

    logits: [n, V/t], this rank's columns. labels: [n] ids of the whole vocabulary, the same on all
    ranks. Returns [n] in fp32 (float64 for float64), the same on all ranks. Two all-reduces: the
    maximum, then the sum of exponentials together with the label's logit; Megatron makes three.
    """
    return _CrossEntropy.apply(logits, labels, group)


def split_dimensions(model):
    """{parameter's name: dimension along which tensor parallelism cuts it, or None}."""
    return {
        f"{prefix}.{name}".lstrip("."): getattr(module, "split", {}).get(name)
        for prefix, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
    }


def whole_shape(x, dimension, tp):
    """Shape of the tensor of which `x` is one of tp blocks along `dimension`; None: all of it."""
    return tuple(n * tp if i == dimension else n for i, n in enumerate(x.shape))


def cut(whole, dimension, group):
    """This rank's block of a whole tensor, a view; all of it where `dimension` is None."""
    return whole if dimension is None else whole.chunk(size(group), dimension)[rank(group)]
