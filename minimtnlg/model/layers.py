"""The pieces of a block besides attention: dropout without state, recomputation, the MLP.

Activations are [s, b, h] throughout: sequence first, so that later the sequence can be cut.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from minimtnlg.device import generator
from minimtnlg.parallel.tensor import ColumnParallel, RowParallel


@dataclass(frozen=True)
class Draw:
    """Names the random draws of one forward pass: seed of the run, step, micro-batch of the step.

    Nothing is consumed: a second pass with the same Draw (recomputation, resume) repeats all masks.
    """

    seed: int
    step: int
    micro_batch: int

    def purpose(self, layer, site, piece=0):
        """What a draw is for: e.g. ("dropout", 1, 20, 3, 7, "mlp", 0).

        piece: index of this rank where ranks hold pieces of one tensor, whose masks must differ; 0
        where all of them hold the same tensor, whose masks must agree.
        """
        return ("dropout", self.seed, self.step, self.micro_batch, layer, site, piece)


def dropout(x, p, draw, layer, site, piece=0):
    """Zero each element of x with probability p and scale the rest by 1 / (1 - p).

    x: any shape. draw: Draw, or None in evaluation, when x is returned. piece: see Draw.purpose.
    Backward keeps the mask alone, one byte an element [S13, sec. 4.1].
    """
    if draw is None or p == 0:
        return x
    g = generator(*draw.purpose(layer, site, piece), device=x.device)
    random = torch.rand(x.shape, generator=g, device=x.device)
    return x * (random >= p) / (1 - p)


def recomputed(function, *args):
    """function(*args), keeping only `args`: what backward needs is computed again when it comes.

    The second forward runs to its end, as Megatron's does, so that its cost is the formula's.
    """
    with set_checkpoint_early_stop(False):
        return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)


class MLP(nn.Module):
    """h -> 4h -> GeLU -> h, the GeLU in its tanh form as in every engine.

    group: the tensor group, over which the 4h are cut; see parallel/tensor.py for the rest.
    """

    def __init__(self, config, group=None, sequence_parallel=False):
        super().__init__()
        self.up = ColumnParallel(config.hidden, config.ffn, group, sequence_parallel)
        self.down = RowParallel(config.ffn, config.hidden, group, sequence_parallel)

    def forward(self, x):
        """x: [s, b, h] -> [s, b, h], both cut to [s/t, b, h] under sequence parallelism."""
        return self.down(F.gelu(self.up(x), approximate="tanh"))
