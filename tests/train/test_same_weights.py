"""A run does not start where ranks that should hold the same weights hold others."""

import pytest
import torch
import torch.distributed as dist

from minimtnlg import run
from minimtnlg.config import Model
from minimtnlg.errors import InputError
from minimtnlg.model import GPT
from minimtnlg.parallel.layout import Layout
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.parallel.tensor import split_dimensions
from minimtnlg.train.start import refuse_other_weights

CONFIG = Model(layers=2, hidden=16, heads=2, seq=8, vocab=32)


SAYS = "ranks of a {} group did not draw the same weights"


def program(axis, names):
    """What this rank is told, for each parameter of which one number differs on rank 1."""
    mesh, told = Mesh(Layout(**{axis: 2})), []
    for name in names:
        model = GPT(CONFIG, mesh)
        if name and dist.get_rank() == 1:
            with torch.no_grad():
                model.get_parameter(name).view(-1)[-1] += 0.01
        try:
            refuse_other_weights(model.state_dict(), split_dimensions(model), mesh)
            told.append("")
        except InputError as error:
            told.append(str(error))
    return told


@pytest.mark.parametrize("axis, whole", [("dp", True), ("tp", False)])
def test_all_ranks_refuse(axis, whole):
    """whole: whether the ranks have the whole of a matrix, and not each its own slice."""
    names = {"": False, "blocks.0.mlp_norm.bias": True, "blocks.1.mlp.up.weight": whole}
    for told in run(program, 2, axis, list(names)):
        assert [SAYS.format(axis) in words for words in told] == list(names.values())
