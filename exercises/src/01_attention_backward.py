# ---
# mark: 2
# minutes: 35
# help: half
# needs: [causal attention]
# draws:
#   SCALE: ["math.sqrt(q.shape[-1])", "q.shape[-1]"]
# ---

# %% [markdown]
# # Causal attention, backwards
#
# The forward pass is given: the weights are the softmax of scaled, masked scores, and the result is
# `weights @ v`. {{SCALE_SAID}}
#
# The backward pass starts from `grad`, the gradient of the loss with respect to the result, and finds
# the gradients with respect to `q`, `k` and `v`. Write it without autograd, which the checks switch
# off. It uses `weights` as they are, for they may come from another forward pass with another mask.
# You need two facts; $dX$ is the gradient for $X$:
#
# - A product $C = A B$ has $dA = dC\, B^T$ and $dB = A^T dC$.
# - One row of weights $w$ with the gradient $g$: score $j$ of the row has $w_j\,(g_j - \sum_i g_i w_i)$.
#
# All tensors have the shape `[..., s, d]`, with any axes in front: one head, or every head of a
# batch at once.
#
# **Target:** for `q = 1, 1, 1`, `k = 0, ln 2, ln 5`, `v = 0, 4, 8` and `grad = 0, 0, 1` (three
# tokens, $d = 1$) the last row of the weights is $\frac18, \frac28, \frac58$. The gradient for `v`
# is that row, the one for `k` is $-0.75, -0.5, 1.25$. In general: what autograd finds.

# %% tags=["target"]
DIVISOR = {"math.sqrt(q.shape[-1])": "sqrt(d)", "q.shape[-1]": "d"}[SCALE]
SCALE_SAID = {
    "sqrt(d)": "Scores are divided by $\\sqrt d$.",
    "d": "Scores are divided by $d$ here, where the lesson has $\\sqrt d$.",
}[DIVISOR]

# %%
import math

import torch


def attention(q, k, v):
    """Causal attention: q, k, v [..., s, d] -> (result [..., s, d], weights [..., s, s])."""
    scores = q @ k.mT / {{SCALE}}
    future = torch.ones_like(scores, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, float("-inf")).softmax(-1)
    return weights @ v, weights


# %% tags=["stub"]
def attention_backward(grad, q, k, v, weights):
    """Gradients (grad_q, grad_k, grad_v), each [..., s, d].

    grad: gradient of the loss for the result, [..., s, d]. q, k, v, weights: as in `attention`.
    """
    grad_v = weights.mT @ grad
    grad_weights = grad @ v.mT
    found = [tuple(x.shape) for x in (grad_v, grad_weights)]
    raise NotImplementedError(f"{found} are found: go on through the softmax and q @ k.mT / {{DIVISOR}}")


# %% [markdown] tags=["hint"]
# Go backwards, one operation at a time: first `weights @ v`, which is done, then the softmax, then the
# scores. In a product, which tensor is $A$ and which is $B$? Check by shapes.

# %% [markdown] tags=["hint"]
# Raising one score raises its own weight and lowers all others of the row: that is what the sum is for.
# It runs along the row, `(grad_weights * weights).sum(-1, keepdim=True)`. Where $w_j = 0$, in the
# future, nothing arrives: the mask needs no further care.

# %% [markdown] tags=["hint"]
# From `grad_weights` make `grad_scores` by the second fact, divided by `{{DIVISOR}}`, because the scores
# were. Then `grad_scores @ k` for `q`, and its transpose times `q` for `k`. `.mT` swaps the
# last two axes alone.

# %% tags=["solution"]
def attention_backward(grad, q, k, v, weights):
    grad_v = weights.mT @ grad
    grad_weights = grad @ v.mT
    mean = (grad_weights * weights).sum(-1, keepdim=True)
    grad_scores = weights * (grad_weights - mean) / {{SCALE}}
    return grad_scores @ k, grad_scores.mT @ q, grad_v


# %% tags=["check"]
from minimtnlg.course.check import Feedback, expect


def _three(student, *inputs):
    """The student's three gradients, found where autograd records nothing."""
    try:
        with torch.inference_mode():
            answer = student(*(x.detach() for x in inputs))
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        raise Feedback("how the gradients are found", "without autograd", str(error)) from None
    if not (isinstance(answer, tuple | list) and len(answer) == 3):
        raise Feedback("what is returned", "three tensors (grad_q, grad_k, grad_v)", answer)
    return answer


def _same(one, other):
    """Whether two tensors are equal but for rounding."""
    try:
        expect(one, other, "")
    except Feedback:
        return False
    return True


def _check(got, wanted, case):
    """Compare (grad_q, grad_k, grad_v) with what they should be, and say what can be told."""
    right = {name: _same(*pair) for name, *pair in zip("qkv", got, wanted, strict=True)}
    if not right["v"]:
        look_at = "grad_v is the stub's, and the last of three"
    elif _same(got[0], wanted[1]) and _same(got[1], wanted[0]):
        look_at = "q and k have changed places"
    elif right["q"] or right["k"]:
        fine, off = "qk" if right["q"] else "kq"
        look_at = f"grad_{fine} is right, so the scores' gradient is: look at the last product for {off}"
    else:
        look_at = "grad_q and grad_k are both off: look at what they share, the gradient of the scores"
        length = wanted[1].norm()
        factor = (got[1].norm() / length).item() if torch.is_tensor(got[1]) and length > 0 else 0.0
        if all(_same(got[i], factor * wanted[i]) for i in (0, 1)):
            look_at = f"right but for a factor of {factor:.4g}: the scores were divided by {DIVISOR}"
    for name, mine, theirs in zip("vkq", reversed(got), reversed(wanted), strict=True):
        expect(mine, theirs, f"the gradient for {name}{case}", look_at)


def _compare(student, shape, row=None, seed=1):
    """Compare with autograd for random inputs of `shape`; `row`: the only row with a gradient."""
    source = torch.Generator().manual_seed(seed)
    q, k, v, grad = torch.randn(4, *shape, generator=source, dtype=torch.float64)
    if row is not None:
        grad = grad * (torch.arange(shape[-2]) == row)[:, None]
    inputs = [x.requires_grad_() for x in (q, k, v)]
    result, weights = attention(*inputs)
    wanted = torch.autograd.grad((result * grad).sum(), inputs)
    got = _three(student, grad, q, k, v, weights)
    _check(got, wanted, f", with inputs of shape {shape}")


def three_tokens(student):
    """The example by hand: three tokens, d = 1"""
    q, k, v, grad = (
        torch.tensor(x, dtype=torch.float64)[:, None]
        for x in ([1, 1, 1], [0, math.log(2), math.log(5)], [0, 4, 8], [0, 0, 1])
    )
    _, weights = attention(q, k, v)
    last = -0.5 * math.log(2) + 1.25 * math.log(5)
    wanted = [
        torch.tensor(x, dtype=torch.float64)[:, None]
        for x in ([0.0, 0.0, last], [-0.75, -0.5, 1.25], [1 / 8, 2 / 8, 5 / 8])
    ]
    _check(_three(student, grad, q, k, v, weights), wanted, "")


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


def any_mask(student):
    """Weights from elsewhere, in which each token sees itself and the one before"""
    source = torch.Generator().manual_seed(2)
    q, k, v, grad = torch.randn(4, 6, 3, generator=source, dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    scores = q @ k.mT / {{SCALE}}
    elsewhere = torch.randn(6, 6, generator=source, dtype=torch.float64) - scores.detach()
    seen = torch.ones_like(scores, dtype=torch.bool).tril().triu(-1)
    weights = (scores + elsewhere).masked_fill(~seen, float("-inf")).softmax(-1)
    wanted = torch.autograd.grad((weights @ v * grad).sum(), inputs)
    got = _three(student, grad, q, k, v, weights)
    look_at = "the weights are given: nothing of the forward pass has to be computed again"
    for name, mine, theirs in zip("qkv", got, wanted, strict=True):
        expect(mine, theirs, f"the gradient for {name} with a window of two tokens", look_at)


def past_only(student):
    """A gradient at token 2 alone reaches no later token"""
    _compare(student, (6, 2), row=2)


# %% tags=["wrong"]
def forgets_the_scale(grad, q, k, v, weights):
    """Caught by: as_autograd. Dividing the scores belongs to forward only."""
    grad_weights = grad @ v.mT
    mean = (grad_weights * weights).sum(-1, keepdim=True)
    grad_scores = weights * (grad_weights - mean)
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad


def divides_as_usual(grad, q, k, v, weights):
    """Caught by: as_autograd. The divisor is taken from memory, or forgotten to be one over another."""
    usual = q.shape[-1] if DIVISOR == "sqrt(d)" else math.sqrt(q.shape[-1])
    grad_weights = grad @ v.mT
    mean = (grad_weights * weights).sum(-1, keepdim=True)
    grad_scores = weights * (grad_weights - mean) / usual
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad


def each_weight_by_itself(grad, q, k, v, weights):
    """Caught by: three_tokens. The slope of a softmax is w (1 - w), as for a sigmoid."""
    grad_scores = grad @ v.mT * weights * (1 - weights) / {{SCALE}}
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad


def sums_down_the_columns(grad, q, k, v, weights):
    """Caught by: three_tokens. The sum in the softmax's gradient runs over the tokens that look."""
    grad_weights = grad @ v.mT
    mean = (grad_weights * weights).sum(-2, keepdim=True)
    grad_scores = weights * (grad_weights - mean) / {{SCALE}}
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad


def keys_without_transpose(grad, q, k, v, weights):
    """Caught by: three_tokens. Queries and keys are alike, so their gradients are formed alike."""
    grad_weights = grad @ v.mT
    mean = (grad_weights * weights).sum(-1, keepdim=True)
    grad_scores = weights * (grad_weights - mean) / {{SCALE}}
    return grad_scores @ k, grad_scores @ q, weights.mT @ grad


def one_head_only(grad, q, k, v, weights):
    """Caught by: many_heads. The .T of a stack of matrices transposes each of them."""

    def transposed(x):
        return x.permute(*range(x.dim() - 1, -1, -1))  # what .T does, or did, with more axes

    grad_weights = grad @ transposed(v)
    mean = (grad_weights * weights).sum(-1, keepdim=True)
    grad_scores = weights * (grad_weights - mean) / {{SCALE}}
    return grad_scores @ k, transposed(grad_scores) @ q, transposed(weights) @ grad


def computes_the_weights_again(grad, q, k, v, weights):
    """Caught by: any_mask. The forward pass is run again, with the mask that one knows."""
    return attention_backward(grad, q, k, v, attention(q, k, v)[1])


def differentiates_the_function(grad, q, k, v, weights):
    """Caught by: any_mask. torch.func is not autograd by name; it runs the forward pass again."""

    def forward(q, k, v):
        scores = (q @ k.mT / {{SCALE}}).masked_fill(weights == 0, float("-inf"))
        return scores.softmax(-1) @ v

    return torch.func.vjp(forward, q, k, v)[1](grad)


def lets_autograd_do_it(grad, q, k, v, weights):
    """Caught by: three_tokens. Even the mask is found again, where the weights are zero."""
    q, k, v = inputs = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    scores = (q @ k.mT / {{SCALE}}).masked_fill(weights == 0, float("-inf"))
    return torch.autograd.grad((scores.softmax(-1) @ v * grad).sum(), inputs)


def leaves_it_to_backward(grad, q, k, v, weights):
    """Caught by: three_tokens. To call backward is thought to be something else than autograd."""
    with torch.enable_grad():
        q, k, v = inputs = [x.detach().clone().requires_grad_() for x in (q, k, v)]
        (attention(q, k, v)[0] * grad).sum().backward()
    return [x.grad for x in inputs]


def queries_for_keys(grad, q, k, v, weights):
    """Caught by: three_tokens. The first two gradients change places."""
    grad_q, grad_k, grad_v = attention_backward(grad, q, k, v, weights)
    return grad_k, grad_q, grad_v


# %% [markdown] tags=["oral"]
# **Q.** For the first token all of `grad_q` is zero, whatever `grad` is. Why?
#
# **A.** It sees only itself, so its one weight is 1 and no score can change it. In the formula the mean
# over the row is the only gradient there is, and the difference is zero.
#
# **Q.** The mask set scores to minus infinity, and your backward pass does not mention it. Where does
# it act?
#
# **A.** Through the weights: they are zero in the future, and both gradients that pass there are
# multiplied by them. So no later token gets a gradient from an earlier one's result.
