"""Where a rank stands: rank <-> (pp, dp, tp), its groups and its node. Arithmetic only, no process.

One order, Megatron's and DeepSpeed's: rank = tp + TP * (dp + DP * pp). Neighbours in the tensor
group are neighbours in number, so 8 of them share a node; stages lie furthest apart [S3, sec. 2.2].
"""

from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from minimtnlg.errors import InputError

ORDER = ("pp", "dp", "tp")  # slowest to fastest: rank = tp + TP * (dp + DP * pp)


class Place(NamedTuple):
    """Coordinates of one rank: its stage pp, its replica dp, its slice tp (each from 0)."""

    pp: int
    dp: int
    tp: int


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A world of tp * pp * dp ranks.

    Layout(tp=8, pp=35, dp=8) is MT-NLG on 280 nodes: 2 240 ranks [S3, sec. 2.2].
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1

    def __post_init__(self):
        for axis in ("tp", "pp", "dp"):
            if not isinstance(size := getattr(self, axis), int) or size < 1:
                raise InputError(f"parallel.{axis}={size!r}: sizes are whole numbers from 1")

    @property
    def world(self):
        """Number of ranks, tp * pp * dp."""
        return self.tp * self.pp * self.dp

    def place(self, rank):
        """The Place of `rank`; InputError where there is no such rank."""
        if not 0 <= rank < self.world:
            raise InputError(
                f"no rank {rank}: the {self.world} ranks go from 0 to {self.world - 1}"
            )
        rest, tp = divmod(rank, self.tp)
        pp, dp = divmod(rest, self.dp)
        return Place(pp, dp, tp)

    def rank(self, pp=0, dp=0, tp=0):
        """The rank at these coordinates."""
        return tp + self.tp * (dp + self.dp * pp)

    def group(self, rank, axis):
        """The ranks that differ from `rank` along `axis` ("tp", "pp" or "dp") alone, in order."""
        here = self.place(rank)
        return [self.rank(**(here._asdict() | {axis: i})) for i in range(getattr(self, axis))]

    def node(self, rank, gpus_per_node=8, order=ORDER):
        """(node, GPU in it) of `rank`, where GPUs fill the nodes in order.

        order: the axes, from the one that changes slowest to the one that changes fastest from GPU
        to GPU. The default puts rank i on GPU i; another one shows what that would cost, see links.
        """
        if sorted(order) != sorted(ORDER):
            raise InputError(f"order={order!r}: give each of {', '.join(ORDER)} once")
        place, gpu = self.place(rank), 0
        for axis in order:
            gpu = gpu * getattr(self, axis) + getattr(place, axis)
        return divmod(gpu, gpus_per_node)

    def links(self, axis, gpus_per_node=8, order=ORDER):
        """(links inside a node, links between nodes) that the groups along `axis` use in all.

        A link joins two neighbours of a group's ring; a ring of two has one. What goes between
        nodes takes InfiniBand, what stays inside NVLink [S3, sec. 2.3].
        """
        size = getattr(self, axis)
        nodes = [self.node(rank, gpus_per_node, order)[0] for rank in range(self.world)]
        inside = between = 0
        for rank in range(self.world):
            at = getattr(self.place(rank), axis)
            if size == 1 or (size == 2 and at == 1):
                continue
            after = self.rank(**(self.place(rank)._asdict() | {axis: (at + 1) % size}))
            if nodes[rank] == nodes[after]:
                inside += 1
            else:
                between += 1
        return inside, between

    @classmethod
    def of(cls, parallel):
        """The Layout of a config.Parallel whose dp is a number."""
        return cls(tp=parallel.tp, pp=parallel.pp, dp=parallel.dp)


def virtual_stages(layers, count):
    """The ranges of layers of each of `count` pieces, in order; the first ones get what is over.

    virtual_stages(105, 35) gives MT-NLG's 35 stages of three layers each.
    """
    if not 1 <= count <= layers:
        raise InputError(f"{layers} layers can't be cut into {count} pieces of one layer or more")
    each, over = divmod(layers, count)
    sizes = [each + (piece < over) for piece in range(count)]
    ends = list(accumulate(sizes))
    return [range(end - size, end) for end, size in zip(ends, sizes, strict=True)]
