"""Tensor parallel layers against plain formulas on whole tensors, in float64; what they send."""

import pytest
import torch
import torch.distributed as dist
from comparing import Outcomes, complaints
from torch.utils._python_dispatch import TorchDispatchMode

from minimtnlg.errors import InputError
from minimtnlg.parallel import tensor
from minimtnlg.parallel.collectives import Recorder

S, B, H, OUT, V = 8, 3, 12, 20, 32  # sequence, batch, inputs, outputs, vocabulary


def world():
    """The group of all ranks, as a Mesh has it: None where there is one."""
    return dist.group.WORLD if dist.is_initialized() else None


def random(*shape, seed=0, grad=True):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64).requires_grad_(grad)


def gradients(y, way, *inputs):
    """Those of (y * way).sum()."""
    return torch.autograd.grad((y * way).sum(), inputs)


def piece(x, me, n, dimension=0):
    return x.detach().chunk(n, dimension)[me]


def layer(kind, *args, **whole):
    """A layer on this rank, with its blocks of the whole parameters."""
    made = kind(*args).double()
    for name, parameter in made.named_parameters():
        block = tensor.cut(whole[name].detach(), made.split.get(name), world())
        with torch.no_grad():
            parameter.copy_(block)
    return made


# The cases, as the ranks run them.


def f_and_g(me, n):
    """f sums the gradient alone, g the value alone; neither changes what it is given."""
    x, way = random(3, 4, seed=me), random(3, 4, seed=10 + me, grad=False)
    whole = sum(random(3, 4, seed=rank, grad=False) for rank in range(n))
    ways = sum(random(3, 4, seed=10 + rank, grad=False) for rank in range(n))
    for name, function, value, gradient in (("f", tensor.f, x, ways), ("g", tensor.g, whole, way)):
        before, y = x.detach().clone(), function(x, world())
        yield f"{name}", y, value
        yield f"gradient of {name}", gradients(y, way, x)[0], gradient
        yield f"input of {name}", x, before


def gather_and_scatter(me, n):
    whole, way = random(S, B, H), random(S, B, H, seed=1)
    x = piece(whole, me, n).requires_grad_()
    y = tensor.gather_sequence(x, world())
    yield "gathered", y, whole
    yield "its gradient", gradients(y, way, x)[0], n * piece(way, me, n)  # the same way n times
    summands = [random(S, B, H, seed=2 + rank) for rank in range(n)]
    y = tensor.scatter_sequence(summands[me], world())
    yield "scattered", y, piece(sum(summands), me, n)
    yield "its gradient", gradients(y, piece(way, me, n), summands[me])[0], way


def _column(me, n, sequence_parallel):
    x, w, b = random(S, B, H), random(OUT, H, seed=1), random(OUT, seed=2)
    way = random(S, B, OUT, seed=3)
    y = x @ w.T + b
    for_x, for_w, for_b = gradients(y, way, x, w, b)
    if sequence_parallel:
        mine, for_x = piece(x, me, n), piece(for_x, me, n)
    else:
        mine = x.detach().clone()
    made = layer(tensor.ColumnParallel, H, OUT, world(), sequence_parallel, weight=w, bias=b)
    found = made(mine.requires_grad_())
    grads = gradients(found, piece(way, me, n, -1), mine, made.weight, made.bias)
    yield "output", found, piece(y, me, n, -1)
    yield "gradient of the input", grads[0], for_x
    yield "gradient of the weight", grads[1], piece(for_w, me, n)
    yield "gradient of the bias", grads[2], piece(for_b, me, n)


def column_linear(me, n):
    yield from _column(me, n, False)


def column_linear_of_pieces(me, n):
    yield from _column(me, n, True)


def _row(me, n, sequence_parallel):
    x, w, b = random(S, B, H), random(OUT, H, seed=1), random(OUT, seed=2)
    way = random(S, B, OUT, seed=3)
    y = x @ w.T + b
    for_x, for_w, for_b = gradients(y, way, x, w, b)
    if sequence_parallel:
        y, way = piece(y, me, n), piece(way, me, n)
    mine = piece(x, me, n, -1).requires_grad_()
    made = layer(tensor.RowParallel, H, OUT, world(), sequence_parallel, weight=w, bias=b)
    found = made(mine)
    grads = gradients(found, way, mine, made.weight, made.bias)
    yield "output", found, y
    yield "gradient of the input", grads[0], piece(for_x, me, n, -1)
    yield "gradient of the weight", grads[1], piece(for_w, me, n, 1)
    yield "gradient of the bias", grads[2], for_b  # whole, on every rank


def row_linear(me, n):
    yield from _row(me, n, False)


def row_linear_of_pieces(me, n):
    yield from _row(me, n, True)


def frozen_parts(me, n):
    """What needs no gradient gets none, and the others are as ever."""
    x, w, b = random(S, B, H), random(OUT, H, seed=1), random(OUT, seed=2)
    way = random(S, B, OUT, seed=3)
    whole = dict(zip("xwb", gradients(x @ w.T + b, way, x, w, b), strict=True))
    for trained in ("x", "w", "b", "xb", "wb"):
        mine = piece(x, me, n).requires_grad_("x" in trained)
        made = layer(tensor.ColumnParallel, H, OUT, world(), True, weight=w, bias=b)
        made.weight.requires_grad_("w" in trained)
        made.bias.requires_grad_("b" in trained)
        (made(mine) * piece(way, me, n, -1)).sum().backward()
        for name, tensor_ in zip("xwb", (mine, made.weight, made.bias), strict=True):
            if name in trained:
                yield f"{name} of {trained}", tensor_.grad, piece(whole[name], me, n)
            else:
                yield f"{name} of {trained}", tensor_.grad, None


def _embedding(me, n, sequence_parallel):
    """Both uses of the table: looking up, and the logits."""
    table, way = random(V, H), random(S, B, H, seed=1)
    tokens = torch.randint(V, (S, B), generator=torch.Generator().manual_seed(2))
    x = table[tokens]
    (for_table,) = gradients(x, way, table)
    made = layer(tensor.VocabularyEmbedding, V, H, world(), sequence_parallel, weight=table)
    found = made(tokens)
    if sequence_parallel:
        x, way = piece(x, me, n), piece(way, me, n)
    yield "output", found, x
    yield "gradient of the table", gradients(found, way, made.weight)[0], piece(for_table, me, n)
    x, way = random(S, B, H, seed=3), random(S, B, V, seed=4)
    for_x, for_table = gradients(x @ table.T, way, x, table)
    mine = piece(x, me, n) if sequence_parallel else x.detach().clone()
    found = made.logits(mine.requires_grad_())
    grads = gradients(found, piece(way, me, n, -1), mine, made.weight)
    yield "logits", found, piece(x @ table.T, me, n, -1)
    yield "gradient of their input", grads[0], piece(for_x, me, n) if sequence_parallel else for_x
    yield "gradient of the table from them", grads[1], piece(for_table, me, n)


def embedding(me, n):
    yield from _embedding(me, n, False)


def embedding_of_pieces(me, n):
    yield from _embedding(me, n, True)


def layer_norm_of_pieces(me, n):
    """And on whole sequences, where its gradients are whole already."""
    x, w, b, way = random(S, B, H), random(H, seed=1), random(H, seed=2), random(S, B, H, seed=3)
    centred = x - x.mean(-1, keepdim=True)
    y = centred / ((centred**2).mean(-1, keepdim=True) + 1e-5).sqrt() * w + b
    for_x, for_w, for_b = gradients(y, way, x, w, b)
    for group in (world(), None):
        parts = n if group else 1
        made = tensor.LayerNorm(H, 1e-5, group).double()
        with torch.no_grad():
            made.weight.copy_(w)
            made.bias.copy_(b)
        mine = piece(x, me % parts, parts).requires_grad_()
        found = made(mine)
        grads = gradients(found, piece(way, me % parts, parts), mine, made.weight, made.bias)
        yield f"output, {parts}", found, piece(y, me % parts, parts)
        yield f"gradient of the input, {parts}", grads[0], piece(for_x, me % parts, parts)
        yield f"gradient of the weight, {parts}", grads[1], for_w
        yield f"gradient of the bias, {parts}", grads[2], for_b


def _losses(logits, labels):
    """The formula, on whole logits: log of the sum of exponentials, less the label's logit."""
    largest = logits.amax(-1, keepdim=True)
    return ((logits - largest).exp().sum(-1).log() + largest[:, 0]
            - logits.gather(-1, labels[:, None])[:, 0])  # fmt: skip


def loss(me, n):
    """Rows whose largest logit is on each rank in turn, far above the others' too."""
    labels = torch.randint(V, (40,), generator=torch.Generator().manual_seed(1))
    for size in (1.0, 1e3):  # exp(1000) is too large for any format
        logits, way = random(40, V).detach() * size, random(40, seed=2)
        logits.requires_grad_()
        each = _losses(logits, labels)
        mine = piece(logits, me, n, -1).clone().requires_grad_()
        found = tensor.cross_entropy(mine, labels, world())
        yield f"loss, {size:g}", found, each
        expected = piece(gradients(each, way, logits)[0], me, n, -1)
        yield f"gradient, {size:g}", gradients(found, way, mine)[0], expected


def loss_of_narrow_logits(me, n):
    """Logits of 16 bits, statistics of 32, gradients of 16."""
    labels = torch.randint(V, (40,), generator=torch.Generator().manual_seed(1))
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        logits = random(40, V).to(dtype)
        exact = logits.detach().double().requires_grad_()
        mine = piece(logits, me, n, -1).clone().requires_grad_()
        found = tensor.cross_entropy(mine, labels, world())
        assert found.dtype == torch.float32
        yield f"loss, {dtype}", found.double(), _losses(exact, labels), 1e-5
        wanted = piece(gradients(_losses(exact, labels), 1, exact)[0], me, n, -1)
        (gradient,) = gradients(found, 1, mine)
        assert gradient.dtype == dtype
        yield f"gradient, {dtype}", gradient.double(), wanted, 2 * torch.finfo(dtype).eps


class Largest(TorchDispatchMode):
    """The largest tensor that any operation gives, in elements."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def no_rank_has_whole_logits(me, n):
    labels = torch.randint(V, (40,), generator=torch.Generator().manual_seed(1))
    mine = piece(random(40, V), me, n, -1).requires_grad_()
    with Largest() as seen:
        tensor.cross_entropy(mine, labels, world()).sum().backward()
    yield "elements", seen.elements, 40 * V // n


def blocks_put_together_are_the_whole(me, n):
    whole = random(8, 12, grad=False)
    for dimension in (0, 1):
        block = tensor.cut(whole, dimension, world())
        parts = [torch.empty_like(block) for _ in range(n)]
        dist.all_gather(parts, block.contiguous()) if n > 1 else parts[0].copy_(block)
        yield f"dimension {dimension}", torch.cat(parts, dimension), whole
    yield "not cut", tensor.cut(whole, None, world()), whole


def what_does_not_fit(me, n):
    """A token that no rank has is an error on every rank; so is what the ranks don't divide."""
    made = layer(tensor.VocabularyEmbedding, V, H, world(), weight=random(V, H))
    for token in (-1, V):
        yield f"token {token}", _refusal(made, torch.tensor([[0, token]]))[0], IndexError
    for what, kind, sizes in (
        ("a matrix with outputs", tensor.ColumnParallel, (H, 4 * n + 1)),
        ("a matrix with inputs", tensor.RowParallel, (4 * n + 1, H)),
        ("a vocabulary", tensor.VocabularyEmbedding, (4 * n + 1, H)),
    ):
        words = f"{what} of {4 * n + 1} can't be cut over {n} tensor-parallel ranks"
        yield what, _refusal(kind, *sizes, world()), (InputError, words) if n > 1 else (None, "")


def _refusal(call, *args):
    try:
        call(*args)
    except (IndexError, InputError) as error:
        return type(error), str(error)
    return None, ""


# What is sent: (operation, elements that a rank hands in), forward and backward.


def _calls(made, x):
    """Those of one pass through a layer, and of its backward pass."""
    with Recorder() as forward:
        y = made(x)
    with Recorder() as backward:
        y.sum().backward()
    return [
        [(call.operation, call.elements) for call in seen.calls] for seen in (forward, backward)
    ]


def what_layers_send(me, n):
    """Nothing alone. With t ranks, one sum of [s, b, h] each way for two matrices [S24, fig. 3]."""
    whole = S * B * H
    up, down = (
        lambda cut: tensor.ColumnParallel(H, OUT, world(), cut).double(),
        lambda cut: tensor.RowParallel(OUT, H, world(), cut).double(),
    )
    embedding = lambda cut: tensor.VocabularyEmbedding(V, H, world(), cut).double()  # noqa: E731
    tokens, x = torch.zeros(S, B, dtype=torch.long), torch.zeros(S, B, H, dtype=torch.float64)
    part = piece(x, me, n)
    y = torch.zeros(S, B, OUT // n, dtype=torch.float64)
    x, part, y = (z.requires_grad_() for z in (x, part, y))
    a, r, g = "all_reduce", "reduce_scatter", "all_gather"
    for what, made, given, forward, backward in (
        ("column", up(False), x, [], [(a, whole)]),
        ("row", down(False), y, [(a, whole)], []),
        ("pair", torch.nn.Sequential(up(False), down(False)), x, [(a, whole)], [(a, whole)]),
        ("embedding", embedding(False), tokens, [(a, whole)], []),
        ("column of pieces", up(True), part, [(g, whole // n)], [(r, whole), (g, whole // n)]),
        ("row of pieces", down(True), y, [(r, whole)], [(a, H), (g, whole // n)]),
        ("embedding of pieces", embedding(True), tokens, [(r, whole)], [(g, whole // n)]),
    ):
        found = _calls(made, given)
        yield what, found, [forward, backward] if n > 1 else [[], []]


def what_the_loss_sends(me, n):
    """A maximum for each row, then two sums for each; nothing in backward [S24, sec. 3]."""
    logits = piece(random(40, V), me, n, -1).requires_grad_()
    labels = torch.zeros(40, dtype=torch.long)
    found = _calls(lambda x: tensor.cross_entropy(x, labels, world()), logits)
    calls = [("all_reduce", 40), ("all_reduce", 80)]
    yield "calls", found, [calls, []] if n > 1 else [[], []]


CASES = [
    f_and_g, gather_and_scatter, column_linear, column_linear_of_pieces, row_linear,
    row_linear_of_pieces, frozen_parts, embedding, embedding_of_pieces, layer_norm_of_pieces, loss,
    loss_of_narrow_logits, no_rank_has_whole_logits, blocks_put_together_are_the_whole,
    what_does_not_fit, what_layers_send, what_the_loss_sends,
]  # fmt: skip


def program(cases):
    return complaints(cases)


@pytest.fixture(scope="module")
def outcomes(request):
    return Outcomes(request, program)


@pytest.mark.parametrize("n", (1, 2, 4))
@pytest.mark.parametrize("case", CASES)
def test_equals_the_formula(case, n, outcomes):
    if words := outcomes(case, n):
        pytest.fail("\n".join(words), pytrace=False)
