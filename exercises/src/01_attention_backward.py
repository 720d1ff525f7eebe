# ---
# mark: 2
# minutes: 25
# needs: [causal attention]
# ---

# %% [markdown]
# # Causal attention, backwards
#
# The forward pass is given: the weights are the softmax of scaled, masked scores, and the result is
# `weights @ v`. The backward pass starts from `grad`, the gradient of the loss with respect to the
# result, and finds the gradients with respect to `q`, `k` and `v`. Write it without autograd.
#
# All tensors have the shape `[..., s, d]`, with any axes in front: one head, or every head of a
# batch at once.
#
# **Target:** for `q = 1, 1, 1`, `k = 0, ln 2, ln 5`, `v = 0, 4, 8` and `grad = 0, 0, 1` (three
# tokens, $d = 1$) the last row of the weights is $\frac18, \frac28, \frac58$. The gradient for `v`
# is that row, the one for `k` is $-0.75, -0.5, 1.25$. In general: what autograd finds.

# %%
import math

import torch


def attention(q, k, v):
    """Causal attention: q, k, v [..., s, d] -> (result [..., s, d], weights [..., s, s])."""
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    future = torch.ones_like(scores, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, float("-inf")).softmax(-1)
    return weights @ v, weights


# %% tags=["stub"]
def attention_backward(grad, q, k, v, weights):
    """Gradients (grad_q, grad_k, grad_v), each [..., s, d].

    grad: gradient of the loss for the result, [..., s, d]. q, k, v, weights: as in `attention`.
    """
    raise NotImplementedError("go back through weights @ v, the softmax, and q @ k.mT / sqrt(d)")


# %% [markdown] tags=["hint"]
# Go backwards, one operation at a time: first `weights @ v`, then the softmax, then the scores. For
# a product $C = A B$ the gradients are $dA = dC\, B^T$ and $dB = A^T dC$. Check by shapes.

# %% [markdown] tags=["hint"]
# Take the softmax of one row: raising one score raises its own weight and lowers all others of the
# row. With $w$ the weights of a row and $g$ their gradient, the gradient for score $j$ is
# $w_j\,(g_j - \sum_i g_i w_i)$. The sum runs along the row. Where $w_j = 0$, in the future, nothing
# arrives: the mask needs no further care.

# %% [markdown] tags=["hint"]
# `grad_weights = grad @ v.mT`; then `grad_scores` by the formula, divided by $\sqrt d$, because the
# scores were. Then `grad_scores @ k` for `q`, and its transpose times `q` for `k`. `.mT` swaps the
# last two axes alone.

# %% tags=["solution"]
def attention_backward(grad, q, k, v, weights):
    grad_v = weights.mT @ grad
    grad_weights = grad @ v.mT
    mean = (grad_weights * weights).sum(-1, keepdim=True)
    grad_scores = weights * (grad_weights - mean) / math.sqrt(q.shape[-1])
    return grad_scores @ k, grad_scores.mT @ q, grad_v


# %% tags=["check"]
from minimtnlg.course.check import Feedback, expect


def _three(answer):
    """The student's three gradients, or Feedback if the answer isn't three tensors."""
    if not (isinstance(answer, tuple | list) and len(answer) == 3):
        raise Feedback("what is returned", "three tensors (grad_q, grad_k, grad_v)", answer)
    return answer


def _compare(student, shape, row=None, seed=1):
    """Compare with autograd for random inputs of `shape`; `row`: the only row with a gradient."""
    source = torch.Generator().manual_seed(seed)
    q, k, v, grad = torch.randn(4, *shape, generator=source, dtype=torch.float64)
    if row is not None:
        grad = grad * (torch.arange(shape[-2]) == row)[:, None]
    inputs = [x.requires_grad_() for x in (q, k, v)]
    result, weights = attention(*inputs)
    wanted = torch.autograd.grad(result, inputs, grad)
    got = _three(student(grad, *(x.detach() for x in (q, k, v)), weights.detach()))
    hints = {
        "q": "score = q k / sqrt(d): the gradient for q is that of the scores, times k / sqrt(d)",
        "k": "row i of k takes part in column i of the scores",
        "v": "token j gives its value to every row i with weight weights[i, j]",
    }
    for name, mine, theirs in zip("vkq", reversed(got), reversed(wanted), strict=True):
        expect(mine, theirs, f"the gradient for {name}, with inputs of shape {shape}", hints[name])


def three_tokens(student):
    """The example by hand: three tokens, d = 1"""
    q, k, v, grad = (
        torch.tensor(x, dtype=torch.float64)[:, None]
        for x in ([1, 1, 1], [0, math.log(2), math.log(5)], [0, 4, 8], [0, 0, 1])
    )
    _, weights = attention(q, k, v)
    grad_q, grad_k, grad_v = _three(student(grad, q, k, v, weights))
    look = "the softmax of a row: w * (g - sum of g * w over the row)"
    back = "result = weights @ v: for C = A B, the gradient for B is A transposed times that for C"
    expect(grad_v.flatten().tolist(), [1 / 8, 2 / 8, 5 / 8], "the gradient for v", back)
    expect(grad_k.flatten().tolist(), [-0.75, -0.5, 1.25], "the gradient for k", look)
    last = -0.5 * math.log(2) + 1.25 * math.log(5)
    look = "scores = q @ k.mT: the gradient for q is that of the scores times k"
    expect(grad_q.flatten().tolist(), [0.0, 0.0, last], "the gradient for q", look)


def as_autograd(student):
    """Seven tokens, d = 4: what autograd finds"""
    _compare(student, (7, 4))


# %% tags=["hidden"]
def many_heads(student):
    """Two sequences of three heads at once"""
    _compare(student, (2, 3, 5, 4))


def one_token(student):
    """A single token: its weight is 1 whatever its score"""
    _compare(student, (1, 4))


def past_only(student):
    """A gradient at token 2 alone reaches no later token"""
    _compare(student, (6, 2), row=2)


# %% tags=["wrong"]
def forgets_the_root(grad, q, k, v, weights):
    """Caught by: as_autograd. The root belongs to forward only."""
    grad_weights = grad @ v.mT
    mean = (grad_weights * weights).sum(-1, keepdim=True)
    grad_scores = weights * (grad_weights - mean)
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad


def each_weight_by_itself(grad, q, k, v, weights):
    """Caught by: three_tokens. The slope of a softmax is w (1 - w), as for a sigmoid."""
    grad_scores = grad @ v.mT * weights * (1 - weights) / math.sqrt(q.shape[-1])
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad


def sums_down_the_columns(grad, q, k, v, weights):
    """Caught by: three_tokens. The sum in the softmax's gradient runs over the tokens that look."""
    grad_weights = grad @ v.mT
    mean = (grad_weights * weights).sum(-2, keepdim=True)
    grad_scores = weights * (grad_weights - mean) / math.sqrt(q.shape[-1])
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad


def keys_without_transpose(grad, q, k, v, weights):
    """Caught by: three_tokens. Queries and keys are alike, so their gradients are formed alike."""
    grad_weights = grad @ v.mT
    mean = (grad_weights * weights).sum(-1, keepdim=True)
    grad_scores = weights * (grad_weights - mean) / math.sqrt(q.shape[-1])
    return grad_scores @ k, grad_scores @ q, weights.mT @ grad


def one_head_only(grad, q, k, v, weights):
    """Caught by: many_heads. The .T of a stack of matrices transposes each of them."""

    def transposed(x):
        return x.permute(*range(x.dim() - 1, -1, -1))  # what .T does, or did, with more axes

    grad_weights = grad @ transposed(v)
    mean = (grad_weights * weights).sum(-1, keepdim=True)
    grad_scores = weights * (grad_weights - mean) / math.sqrt(q.shape[-1])
    return grad_scores @ k, transposed(grad_scores) @ q, transposed(weights) @ grad
