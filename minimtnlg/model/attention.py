"""Causal self-attention, twice: the formula in five lines, and PyTorch's fused kernel.

The rows of the QKV matrix are laid out [a, 3, h/a]: first head's query, key, value, then the next
head's, as in Megatron. To give t ranks their heads is then to cut the matrix into t blocks of rows.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from minimtnlg.device import default_generator
from minimtnlg.model.layers import dropout, recomputed


def readable_core(q, k, v, p, draw, layer):
    """softmax(q k^T / sqrt(head size) + causal mask) v, with dropout p on the softmax.

    q, k, v: [b, a, s, h/a] -> [b, a, s, h/a]. The [b, a, s, s] weights exist in memory: the
    5 a s / h of S13's activation formula [S13, sec. 4.1].
    """
    s = q.shape[-2]
    # Dividing q instead would keep a second q for backward; dividing the product keeps nothing.
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    future = torch.ones(s, s, dtype=torch.bool, device=q.device).triu(1)
    weights = scores.masked_fill(future, float("-inf")).softmax(dim=-1)
    return dropout(weights, p, draw, layer, "attention") @ v


def sdpa_core(q, k, v, p, draw, layer):
    """The same by F.scaled_dot_product_attention, which never holds the [b, a, s, s] weights.

    Its dropout comes from PyTorch's own generator, seeded here for this one draw.
    """
    if draw is None or p == 0:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    with default_generator(*draw.purpose(layer, "attention")):
        return F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)


class Attention(nn.Module):
    """Multi-head causal self-attention of one block.

    config: config.Model. layer: the block's index in the whole model. recompute: "selective"
    computes the core again in backward [S13, sec. 5].
    """

    def __init__(self, config, layer, recompute):
        super().__init__()
        self.config, self.layer, self.recompute = config, layer, recompute
        self.core = {"sdpa": sdpa_core, "readable": readable_core}[config.attention]
        self.qkv = nn.Linear(config.hidden, 3 * config.hidden)
        self.out = nn.Linear(config.hidden, config.hidden)

    def forward(self, x, draw):
        """x: [s, b, h] -> [s, b, h]."""
        s, b, h = x.shape
        heads = self.qkv(x).view(s, b, self.config.heads, 3, self.config.head_size)
        q, k, v = heads.permute(3, 1, 2, 0, 4)  # each [b, a, s, h/a]
        args = (q, k, v, self.config.dropout, draw, self.layer)
        mixed = recomputed(self.core, *args) if self.recompute == "selective" else self.core(*args)
        return self.out(mixed.permute(2, 0, 1, 3).reshape(s, b, h))
