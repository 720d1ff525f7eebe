"""GPT as MT-NLG's: pre-LayerNorm blocks, learned positions, GeLU, tied embeddings [S3, S13 sec. 3].

- tokens [b, s] -> activations [s, b, h] -> logits [s, b, V].
- The output layer is the embedding matrix used a second time.
- The loss is returned as a sum over tokens: the mean over the global batch is the step's business.
"""

import torch
import torch.nn.functional as F
from torch import nn

from minimtnlg.device import device, fp32
from minimtnlg.errors import InputError
from minimtnlg.model.attention import Attention
from minimtnlg.model.init import initialize
from minimtnlg.model.layers import MLP, dropout, recomputed

EPS = 1e-5  # of every LayerNorm; Megatron's default [S10], not confirmed for MT-NLG


class Block(nn.Module):
    """One transformer layer: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config, layer, recompute):
        super().__init__()
        self.config, self.layer = config, layer
        self.attention_norm = nn.LayerNorm(config.hidden, eps=EPS)
        self.attention = Attention(config, layer, recompute)
        self.mlp_norm = nn.LayerNorm(config.hidden, eps=EPS)
        self.mlp = MLP(config)

    def forward(self, x, draw):
        """x: [s, b, h] -> [s, b, h]."""
        p = self.config.dropout
        x = x + dropout(self.attention(self.attention_norm(x), draw), p, draw, self.layer, "out")
        return x + dropout(self.mlp(self.mlp_norm(x)), p, draw, self.layer, "mlp")


def _table(rows, width):
    """An embedding that draws nothing of its own: on the meta device that takes a second."""
    return nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False)


class GPT(nn.Module):
    """The whole model.

    config: config.Model. seed: of the initial weights. dtype: of the weights and activations.
    recompute: what backward computes again: "none", "selective" (attention core), "full" (blocks).
    """

    def __init__(self, config, *, seed=1, dtype=torch.float32, recompute="none"):
        super().__init__()
        self.config, self.recompute = config, recompute
        with torch.device("meta"):  # no memory and no random numbers before `initialize`
            self.embedding = _table(config.vocab, config.hidden)
            self.position = _table(config.seq, config.hidden)
            self.blocks = nn.ModuleList(
                Block(config, layer, recompute) for layer in range(config.layers)
            )
            self.norm = nn.LayerNorm(config.hidden, eps=EPS)
        self.to(dtype).to_empty(device=device())
        initialize(self, config, seed)

    def forward(self, tokens, draw=None):
        """Logits [s, b, V] of tokens [b, s] with s <= config.seq.

        draw: the Draw of this pass; None switches dropout off.
        """
        s = tokens.shape[1]
        if s > self.config.seq:
            raise InputError(
                f"a sequence of {s} tokens is longer than the {self.config.seq} positions of the "
                "model: shorten it or raise model.seq"
            )
        positions = torch.arange(s, device=tokens.device)
        x = self.embedding(tokens.t()) + self.position(positions)[:, None]
        x = dropout(x, self.config.dropout, draw, 0, "embedding")
        for block in self.blocks:
            x = recomputed(block, x, draw) if self.recompute == "full" else block(x, draw)
        return F.linear(self.norm(x), self.embedding.weight)

    def loss(self, batch, draw=None):
        """Sum of the cross-entropies of the unmasked tokens of a data.batches.Batch: a scalar.

        In nats, summed in fp32, or in float64 for a float64 model.
        """
        logits = self(batch.tokens, draw).flatten(0, 1)  # [s b, V]
        each = F.cross_entropy(
            logits.to(fp32(logits.dtype)), batch.labels.t().flatten(), reduction="none"
        )
        return (each * batch.mask.t().flatten()).sum()
