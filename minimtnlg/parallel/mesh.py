"""This rank's process groups, from a layout.

The whole arithmetic is one array: the ranks 0, 1, 2 ... of the world, as [pp, dp, tp]. A group is a
line along one axis. With tp=2, pp=2, dp=2 the ranks are

             tp 0  1
    pp 0  dp 0  0  1        tensor groups    0,1  2,3  4,5  6,7     neighbours
          dp 1  2  3        data groups      0,2  1,3  4,6  5,7
    pp 1  dp 0  4  5        pipeline groups  0,4  1,5  2,6  3,7     furthest apart
          dp 1  6  7
"""

import numpy as np
import torch
import torch.distributed as dist

from minimtnlg.device import device
from minimtnlg.errors import InputError
from minimtnlg.parallel.collectives import all_reduce
from minimtnlg.parallel.layout import Layout, Place


class Mesh:
    """The groups of this rank, one an axis; Mesh() is a single process and needs no other.

    layout      the Layout
    place       this rank's Place(pp, dp, tp) in it
    tp, pp, dp  its ProcessGroups, named "tp", "pp", "dp"; None where the size is 1. The index of a
                rank in a group is its coordinate.
    ends        the first and the last stage of its pipeline, which share the tied embedding; None
                on the stages between, and where there is one stage

    All ranks make the same Mesh at the same time. InputError, on each of them, where the layout has
    not as many ranks as the world.
    """

    def __init__(self, layout=None):
        self.layout = layout or Layout()
        self.tp = self.pp = self.dp = self.ends = None
        joined = layout is not None and dist.is_initialized()
        rank, world = (dist.get_rank(), dist.get_world_size()) if joined else (0, 1)
        if self.layout.world != world:
            raise InputError(_what_fits(layout, world))
        self.place = layout.place(rank) if joined else Place(0, 0, 0)
        # numpy: a tensor would hold no numbers in a dry run.
        grid = np.arange(world).reshape([getattr(self.layout, axis) for axis in Place._fields])
        for dim, axis in enumerate(Place._fields):
            if grid.shape[dim] > 1:
                setattr(self, axis, _own(np.moveaxis(grid, dim, -1), rank, axis))
        if self.layout.pp > 1:
            self.ends = _own(np.moveaxis(grid[[0, -1]], 0, -1), rank, "ends")
            # A group's first call has to be made by all, a transfer is not. It opens what moves
            # the tensors of this device, as a barrier would not where there is another library too.
            all_reduce(torch.zeros(1, device=device()), self.pp)

    def peer(self, stage):
        """Rank in the world of the same replica and slice on pipeline stage `stage`."""
        return self.layout.rank(stage, self.place.dp, self.place.tp)

    def __repr__(self):
        size, at = self.layout, self.place
        return f"Mesh(pp {at.pp} of {size.pp}, dp {at.dp} of {size.dp}, tp {at.tp} of {size.tp})"


def _own(lines, rank, axis):
    """The group of `rank` among those along the last dimension of `lines`.

    Each rank takes part in making every group, in one order, its own or not: the library counts on
    it. A group costs nothing to those outside it.
    """
    mine = None
    for ranks in lines.reshape(-1, lines.shape[-1]).tolist():
        group = dist.new_group(ranks, group_desc=axis)
        mine = group if rank in ranks else mine
    return mine


def _what_fits(layout, world):
    """One line: this layout is not for `world` ranks, and what would be."""
    replica = layout.tp * layout.pp
    if world % replica == 0:
        fits = f"parallel.dp={world // replica} would fit"
    else:
        fits = f"tp x pp = {replica} would have to divide {world}"
    there = "there is 1" if world == 1 else f"there are {world}"
    return (
        f"parallel.tp={layout.tp}, parallel.pp={layout.pp}, parallel.dp={layout.dp} make "
        f"{layout.world} ranks, but {there}: {fits}, or start {layout.world}"
    )
