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
from minimtnlg.parallel.collectives import rank
from minimtnlg.parallel.tensor import ColumnParallel, RowParallel


def readable_core(q, k, v, p, draw, layer, piece=0):
    """softmax(q k^T / sqrt(head size) + causal mask) v, with dropout p on the softmax.

    q, k, v: [b, a, s, h/a] -> [b, a, s, h/a], a this rank's heads. The [b, a, s, s] weights exist
    in memory: the 5 a s / h of S13's activation formula [S13]. piece: see Draw.purpose.
    """
    s = q.shape[-2]
    # Dividing q instead would keep a second q for backward; dividing the product keeps nothing.
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    future = torch.ones(s, s, dtype=torch.bool, device=q.device).triu(1)
    weights = scores.masked_fill(future, float("-inf")).softmax(dim=-1)
    return dropout(weights, p, draw, layer, "attention", piece) @ v


def sdpa_core(q, k, v, p, draw, layer, piece=0):
    """The same by F.scaled_dot_product_attention, which never holds the [b, a, s, s] weights.

    Its dropout comes from PyTorch's own generator, seeded here for this one draw.
    """
    if draw is None or p == 0:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    with default_generator(*draw.purpose(layer, "attention", piece)):
        return F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)


class Attention(nn.Module):
    """Multi-head causal self-attention of one block.

    config: config.Model. layer: the block's index in the whole model. recompute: "selective"
    computes the core again in backward [S13]. group: the tensor group, over which the heads
    are cut; see parallel/tensor.py for the rest.
    """

    def __init__(self, config, layer, recompute, group=None, sequence_parallel=False):
        super().__init__()
        self.config, self.layer, self.recompute = config, layer, recompute
        self.core = {"sdpa": sdpa_core, "readable": readable_core}[config.attention]
        self.piece = rank(group)  # its heads are its own: so are their dropout masks
        h = config.hidden
        self.qkv = ColumnParallel(h, 3 * h, group, sequence_parallel)
        self.out = RowParallel(h, h, group, sequence_parallel)

    def forward(self, x, draw, cache=None):
        """x: [s, b, h] -> [s, b, h], both cut to [s/t, b, h] under sequence parallelism.

        cache: the Cache of the texts that x goes on with, in generation.
        """
        y = self.qkv(x)  # [s, b, 3h/t]
        heads = y.unflatten(-1, (-1, 3, self.config.head_size))
        q, k, v = heads.permute(3, 1, 2, 0, 4)  # each [b, a/t, s, h/a]
        mixed = cache.attend(self.layer, q, k, v) if cache else self._core(q, k, v, draw)
        return self.out(mixed.permute(2, 0, 1, 3).flatten(2))

    def _core(self, q, k, v, draw):
        args = (q, k, v, self.config.dropout, draw, self.layer, self.piece)
        return recomputed(self.core, *args) if self.recompute == "selective" else self.core(*args)
