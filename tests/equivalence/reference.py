"""What every layout is compared with: one process that sees the whole batch, in plain formulas.

- Everything is float64 and written a second time here. Nothing of the package takes part: not its
  model, loss, accumulation, dropout, optimizer or initial weights. Its configuration gives numbers.
- Weights are a dict {name: tensor}. The global batch goes through the model in one pass, and the
  mean over its unmasked tokens is taken once, at the end.
- Two things name their random draws as the package does, so that they can be compared at all: the
  initial weights and the dropout masks.
"""

import hashlib
import math
from typing import NamedTuple

import torch

BLOCK = {  # name in a block -> its rows and columns, or its length, in units of the hidden size
    "attention_norm.weight": [1],
    "attention_norm.bias": [1],
    "attention.qkv.weight": [3, 1],
    "attention.qkv.bias": [3],
    "attention.out.weight": [1, 1],
    "attention.out.bias": [1],
    "mlp_norm.weight": [1],
    "mlp_norm.bias": [1],
    "mlp.up.weight": [4, 1],
    "mlp.up.bias": [4],
    "mlp.down.weight": [1, 4],
    "mlp.down.bias": [1],
}


class Batch(NamedTuple):
    """One micro-batch of b sequences.

    tokens, labels: ids [b, s], and the ids that follow them. mask: 1 where the loss counts, else 0.
    extra: whether training on it uses the parameter blocks.0.extra, which some models have.
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    mask: torch.Tensor
    extra: bool = False


class Draws(NamedTuple):
    """What names the dropout masks of a step besides micro-batch, layer and site.

    tp, sp: each of tp ranks draws the masks of its own heads, and with sp those of its own piece of
    the sequence; without sp the ranks agree on the masks between the matrices.
    """

    seed: int
    step: int
    tp: int = 1
    sp: bool = False


class Step(NamedTuple):
    """What one step came to: gradients are those after clipping, weights those after the update."""

    loss: torch.Tensor
    norm: torch.Tensor
    gradients: dict
    weights: dict


def shapes(model):
    """{name: shape} of all parameters of a config.Model."""
    h = model.hidden
    blocks = {
        f"blocks.{i}.{name}": [size * h for size in sizes]
        for i in range(model.layers)
        for name, sizes in BLOCK.items()
    }
    outer = {"embedding.weight": [model.vocab, h], "position.weight": [model.seq, h]}
    return outer | blocks | {"norm.weight": [h], "norm.bias": [h]}


def initial(model, seed):
    """{name: tensor}: the weights that a model starts from [S3]."""
    std, weights = math.sqrt(1 / (3 * model.hidden)), {}
    for name, shape in shapes(model).items():
        residual = name.endswith(("attention.out.weight", "mlp.down.weight"))
        scale = std / math.sqrt(2 * model.layers) if residual else std
        random = torch.empty(shape).normal_(0, scale, generator=seeded(seed, "init", name))
        constant = torch.full(shape, float(name.endswith("norm.weight")))
        weights[name] = (random if len(shape) == 2 else constant).double()
    return weights


def train(weights, model, optim, steps, update):
    """One Step for each of `steps`, a list of (list of Batch, Draws), from `weights` on.

    update: `sgd` or `adam`. Weights that require no gradient stay as they are. A parameter that no
    token reaches has a gradient of zero.
    """
    trained = [name for name, x in weights.items() if x.requires_grad]
    state, results = {name: () for name in trained}, []
    for batches, draws in steps:
        loss = mean_loss(weights, model, batches, draws)
        found = torch.autograd.grad(loss, [weights[n] for n in trained], materialize_grads=True)
        norm = sum((g**2).sum() for g in found).sqrt()
        shrink = min(1.0, optim.clip / (norm.item() + 1e-6)) if optim.clip else 1.0
        gradients = {name: g * shrink for name, g in zip(trained, found, strict=True)}
        weights = {name: x.detach() for name, x in weights.items()}
        for name, g in gradients.items():
            change, state[name] = update(g, optim, *state[name])
            decay = optim.weight_decay if g.dim() == 2 else 0.0
            weights[name] = weights[name] * (1 - optim.lr * decay) - optim.lr * change
        results.append(Step(loss.detach(), norm, gradients, weights))
        weights = {name: x.clone().requires_grad_(name in state) for name, x in weights.items()}
    return results


def sgd(g, optim):
    """(what is subtracted, times the learning rate; state): the gradient itself, and nothing."""
    return g, ()


def adam(g, optim, m=0, v=0, t=0):
    """The same for Adam. State: the moments, and the number of steps."""
    t = t + 1
    m = optim.beta1 * m + (1 - optim.beta1) * g
    v = optim.beta2 * v + (1 - optim.beta2) * g**2
    unbiased = m / (1 - optim.beta1**t), v / (1 - optim.beta2**t)
    return unbiased[0] / (unbiased[1].sqrt() + optim.eps), (m, v, t)


def mean_loss(weights, model, batches, draws=None):
    """Mean cross-entropy over the unmasked tokens of all micro-batches; 0 where there are none.

    draws: None for evaluation, without dropout.
    """
    tokens, labels, mask = (torch.cat(parts) for parts in list(zip(*batches, strict=True))[:3])
    rows = [len(batch.tokens) for batch in batches]
    drop = Dropout(model, draws, rows)
    extra = [float(batch.extra and draws is not None) for batch in batches for _ in batch.tokens]
    probabilities = logits(weights, model, tokens, drop, torch.tensor(extra)).softmax(-1)
    each = -probabilities.gather(-1, labels[..., None])[..., 0].log()
    return (each * mask).sum() / mask.sum().clamp(min=1)


def logits(w, model, tokens, drop, extra):
    """[b, s, V]; batch first, one head after the other, everything written out. extra: [b]."""
    s, d = tokens.shape[1], model.hidden // model.heads

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        scale = (centred**2).mean(-1, keepdim=True) + 1e-5
        return centred / scale.sqrt() * w[name + ".weight"] + w[name + ".bias"]

    def linear(x, name):
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    x = w["embedding.weight"][tokens] + w["position.weight"][:s]
    x = x * drop("embedding", 0, s)
    for i in range(model.layers):
        block = f"blocks.{i}."
        qkv = linear(norm(x, block + "attention_norm"), block + "attention.qkv")
        masks, heads = drop("attention", i, s), []
        for j in range(model.heads):
            q, k, v = qkv[..., 3 * d * j : 3 * d * (j + 1)].split(d, dim=-1)
            scores = torch.einsum("bid,bjd->bij", q, k) / math.sqrt(d)
            scores = scores + torch.full((s, s), -math.inf, dtype=x.dtype).triu(1)
            weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
            heads.append((weights * masks[:, j]) @ v)
        x = x + linear(torch.cat(heads, -1), block + "attention.out") * drop("out", i, s)
        y = linear(norm(x, block + "mlp_norm"), block + "mlp.up")
        y = 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
        x = x + linear(y, block + "mlp.down") * drop("mlp", i, s)
        if block + "extra" in w:
            x = x + extra[:, None, None] * w[block + "extra"].sum(0)
    return norm(x, "norm") @ w["embedding.weight"].T


class Dropout:
    """The factors, 0 or 1 / (1 - p), of the whole batch, drawn micro-batch by micro-batch."""

    def __init__(self, model, draws, rows):
        self.model, self.draws, self.rows = model, draws, rows

    def __call__(self, site, layer, s):
        """[b, a, s, s] for the site "attention", else [b, s, h]."""
        attention = site == "attention"
        heads, h = self.model.heads, self.model.hidden
        if self.model.dropout == 0 or self.draws is None:
            return torch.ones((1, heads, 1, 1) if attention else (1, 1, 1), dtype=torch.float64)
        t = self.draws.tp if attention or self.draws.sp else 1
        whole = []
        for k, b in enumerate(self.rows):
            shape = (b, heads // t, s, s) if attention else (s // t, b, h)
            pieces = [self._drawn(shape, k, layer, site, piece) for piece in range(t)]
            whole.append(torch.cat(pieces, 1) if attention else torch.cat(pieces).transpose(0, 1))
        return torch.cat(whole)

    def _drawn(self, shape, k, layer, site, piece):
        p = self.model.dropout
        g = seeded("dropout", self.draws.seed, self.draws.step, k, layer, site, piece)
        if site == "attention" and self.model.attention == "sdpa":  # as PyTorch's own kernel draws
            kept = torch.empty(shape, dtype=torch.float64).bernoulli_(1 - p, generator=g)
        else:
            kept = torch.rand(shape, generator=g) >= p
        return kept.double() / (1 - p)


def seeded(*purpose):
    """A generator for one purpose."""
    text = "/".join(map(str, purpose))
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
    return torch.Generator().manual_seed(number)
