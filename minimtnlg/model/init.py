"""Initial weights: each parameter is drawn whole, from a generator seeded by its own name.

So a weight does not depend on the order of construction, on the stage that holds it or on who else
draws; a rank that needs a slice draws the whole and cuts. The spread is MT-NLG's [S3].
"""

import math

import torch

from minimtnlg.device import generator
from minimtnlg.parallel.collectives import size
from minimtnlg.parallel.tensor import cut, split_dimensions, whole_shape

# Both add to the residual stream, 2 L times in all: their variance is divided by that number, so
# that the stream's variance does not grow with depth.
RESIDUAL_OUTPUTS = ("attention.out.weight", "mlp.down.weight")


def draw(name, shape, config, seed):
    """The initial value of parameter `name`, whole: float32, on the CPU, of `shape`.

    LayerNorm weights are 1, biases 0, all other tensors N(0, std^2) with std = sqrt(1 / 3h), those
    named in RESIDUAL_OUTPUTS std / sqrt(2 L). config: config.Model.
    """
    if name.endswith("bias"):
        return torch.zeros(shape)
    if "norm" in name:
        return torch.ones(shape)
    std = config.init_std
    if name.endswith(RESIDUAL_OUTPUTS):
        std /= math.sqrt(2 * config.layers)
    return torch.empty(shape).normal_(0.0, std, generator=generator(seed, "init", name))


@torch.no_grad()
def initialize(model, config, seed, group=None):
    """Fill every parameter of `model` in place by `draw`, in the parameter's own dtype.

    group: the tensor group; a parameter that it cuts gets this rank's block of the whole.
    """
    dimensions = split_dimensions(model)
    for name, parameter in model.named_parameters():
        dimension = dimensions[name]
        shape = whole_shape(parameter, dimension, size(group))
        parameter.copy_(cut(draw(name, shape, config, seed), dimension, group))
