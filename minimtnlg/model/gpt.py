"""GPT as Megatron's: pre-LayerNorm blocks, learned positions, GeLU, tied embeddings [S13, sec. 3].

- tokens [b, s] -> activations [s, b, h] -> logits [s, b, V].
- One model for all layouts: a rank has the blocks of its pipeline stage and its slice of each
  matrix. A process by itself is the layout of one rank.
- The output layer is the embedding matrix used a second time, so first and last stage both have it.
- The loss is returned as a sum over tokens: the mean over the global batch is the step's business.
"""

import torch
from torch import nn

from minimtnlg.device import DTYPES, device
from minimtnlg.errors import InputError
from minimtnlg.model.attention import Attention
from minimtnlg.model.init import initialize
from minimtnlg.model.layers import MLP, dropout, recomputed
from minimtnlg.parallel.collectives import rank, size
from minimtnlg.parallel.layout import virtual_stages
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.parallel.tensor import LayerNorm, VocabularyEmbedding, cross_entropy, f

EPS = 1e-5  # of every LayerNorm; Megatron's default [S10], not confirmed for MT-NLG


class Block(nn.Module):
    """One transformer layer: x + attention(norm(x)), then x + mlp(norm(x)).

    group: the tensor group. sequence_parallel: x is this rank's piece of the sequence.
    """

    def __init__(self, config, layer, recompute, group=None, sequence_parallel=False):
        super().__init__()
        self.config, self.layer = config, layer
        pieces = group if sequence_parallel else None
        self.piece = rank(pieces)
        self.attention_norm = LayerNorm(config.hidden, EPS, pieces)
        self.attention = Attention(config, layer, recompute, group, sequence_parallel)
        self.mlp_norm = LayerNorm(config.hidden, EPS, pieces)
        self.mlp = MLP(config, group, sequence_parallel)

    def forward(self, x, draw, cache=None):
        """x: [s, b, h] -> [s, b, h], both cut to [s/t, b, h] under sequence parallelism."""
        p, layer = self.config.dropout, self.layer
        y = self.attention(self.attention_norm(x), draw, cache)
        x = x + dropout(y, p, draw, layer, "out", self.piece)
        y = self.mlp(self.mlp_norm(x))
        return x + dropout(y, p, draw, layer, "mlp", self.piece)


def _table(rows, width):
    """An embedding that draws nothing of its own: on the meta device that takes a second."""
    return nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False)


class GPT(nn.Module):
    """What one rank has of the model; all of it where there is one rank.

    config             config.Model
    mesh               the Mesh of this rank; None: one process
    seed, dtype        of the initial weights; of weights and activations
    recompute          what backward computes again: "none", "selective" (attention core), "full"
                       (blocks)
    virtual            chunks a stage has, for the interleaved schedule
    sequence_parallel  cut activations along the sequence between the matrices

    blocks[i] is layer i of the whole model, None where another stage has it, so that a parameter
    has one name in every layout. Virtual stage x is chunk x // p of stage x % p.
    """

    def __init__(
        self, config, mesh=None, *, seed=1, dtype=torch.float32, recompute="none", virtual=1,
        sequence_parallel=False,
    ):  # fmt: skip
        super().__init__()
        self.config, self.mesh, self.recompute = config, mesh or Mesh(), recompute
        self.sequence_parallel, self.virtual = sequence_parallel, virtual
        group, stage, pp = self.mesh.tp, self.mesh.place.pp, self.mesh.layout.pp
        self.pieces = group if sequence_parallel else None
        self.chunks = virtual_stages(config.layers, pp * virtual)[stage::pp]  # its layers, by chunk
        mine = {layer for chunk in self.chunks for layer in chunk}
        with torch.device("meta"):  # no memory and no random numbers before `initialize`
            if stage in (0, pp - 1):
                self.embedding = VocabularyEmbedding(
                    config.vocab, config.hidden, group, sequence_parallel
                )
            if stage == 0:
                self.position = _table(config.seq, config.hidden)
            self.blocks = nn.ModuleList(
                Block(config, i, recompute, group, sequence_parallel) if i in mine else None
                for i in range(config.layers)
            )
            if stage == pp - 1:
                self.norm = LayerNorm(config.hidden, EPS, self.pieces)
        for module in self.modules():  # by hand: a dry run's parameters can't be converted
            for name, p in module.named_parameters(recurse=False):
                empty = torch.empty(p.shape, dtype=dtype, device=device())
                setattr(module, name, nn.Parameter(empty))
        initialize(self, config, seed, group)

    def begins(self, chunk=0):
        """Whether this chunk takes tokens: it is the first virtual stage."""
        return self.mesh.place.pp == 0 and chunk == 0

    def ends(self, chunk=0):
        """Whether this chunk makes logits: it is the last virtual stage."""
        return self.mesh.place.pp == self.mesh.layout.pp - 1 and chunk == self.virtual - 1

    def forward(self, x, draw=None, chunk=0, rows=None, cache=None):
        """One chunk: tokens [b, s] or activations in, activations or logits [s, b, V/t] out.

        x: tokens with s <= config.seq where begins(chunk), else what the virtual stage before
        returned. Activations are [s, b, h], [s/t, b, h] under sequence parallelism. Logits, where
        ends(chunk), are this rank's columns. draw: the Draw of this pass; None: no dropout.
        rows: indices into the flattened [s b] for which logits are made, then [n, V/t]; None: all.
        cache: a model.cache.Cache, for generation: the tokens go on with the texts that it holds.
        """
        if self.begins(chunk):
            x = self._embed(x, draw, cache)
        for layer in self.chunks[chunk]:
            block, args = self.blocks[layer], (x, draw, cache)
            x = recomputed(block, *args) if self.recompute == "full" else block(*args)
        if not self.ends(chunk):
            return x
        return self.embedding.logits(self.norm(x if rows is None else x.flatten(0, 1)[rows]))

    def _embed(self, tokens, draw, cache):
        s = tokens.shape[1]
        if s > self.config.seq:
            raise InputError(
                f"a sequence of {s} tokens is longer than the {self.config.seq} positions of the "
                "model: shorten it or raise model.seq"
            )
        x = self.embedding(tokens.t())
        if cache:
            return x + self.position.weight[cache.positions]
        first = rank(self.pieces) * len(x)
        positions = f(self.position.weight, self.pieces)[first : first + len(x)]
        x = x + positions[:, None]
        return dropout(x, self.config.dropout, draw, 0, "embedding", rank(self.pieces))

    def stage(self, batch, x=None, draw=None, chunk=0):
        """This chunk's part of one pass: what to hand on, or at the end the sum of the losses.

        batch: data.batches.Batch of the micro-batch; used where the chunk begins or ends the model.
        x: what the virtual stage before handed on; None where begins(chunk).
        """
        y = self(batch.tokens if self.begins(chunk) else x, draw, chunk)
        if not self.ends(chunk):
            return y
        each = cross_entropy(y.flatten(0, 1), batch.labels.t().flatten(), self.mesh.tp)
        return (each * batch.mask.t().flatten()).sum()

    def handed_on(self, batch):
        """Shape of what a chunk that does not end the model returns for a Batch like this one."""
        b, s = batch.tokens.shape
        return s // size(self.pieces), b, self.config.hidden

    def loss(self, batch, draw=None):
        """Sum of the cross-entropies of the unmasked tokens of a data.batches.Batch: a scalar.

        For a model without other stages. In nats, summed in fp32, in float64 for a float64 model.
        """
        return self.stage(batch, None, draw)


def build(config, mesh=None):
    """The GPT that a whole config.Config describes, on `mesh`."""
    parallel = config.parallel
    return GPT(
        config.model,
        mesh,
        seed=config.train.seed,
        dtype=DTYPES[config.train.dtype],
        recompute=parallel.recompute,
        virtual=parallel.virtual,
        sequence_parallel=parallel.sequence_parallel,
    )
