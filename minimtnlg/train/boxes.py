"""Which part of the whole model a rank has: boxes of tensors. Pure arithmetic.

A tensor of the model has one name and one shape, whatever the layout. What a rank has of it is a
box: tensor parallelism cuts one dimension, ZeRO cuts the rows of what is left. So two layouts are
two ways to cut the same tensors into boxes, and going from one to the other is intersection.

    the whole: [8, 4]      saved at tp 2 (columns)      wanted at tp 1, ZeRO over dp 4 (rows)
                           rank 0: [8, 2] at (0, 0)     rank 1: [2, 4] at (2, 0): rows 2 and 3 of
                           rank 1: [8, 2] at (0, 2)     both files
"""

from typing import NamedTuple

from minimtnlg.parallel.layout import virtual_stages


class Box(NamedTuple):
    """A block of a tensor: where its first number is, and how far it goes in each dimension."""

    offset: tuple
    shape: tuple

    @property
    def empty(self):
        """Whether there is no number in it."""
        return 0 in self.shape


def held(whole, split, parallel, place, cut):
    """The Box of what the rank at `place` works with, of a tensor of shape `whole`.

    split     the dimension that tensor parallelism cuts; None: all tensor ranks have all of it
    parallel  config.Parallel with dp filled in. place: the rank's layout.Place
    cut       whether it has the rows of its replica alone, as ZeRO gives them out
    """
    offset, shape = [0] * len(whole), list(whole)
    if split is not None:
        shape[split] //= parallel.tp
        offset[split] = place.tp * shape[split]
    box = Box(tuple(offset), tuple(shape))
    return _rows(box, parallel.dp, place.dp) if cut else box


def owned(whole, split, parallel, place):
    """The Box that the rank at `place` writes into a checkpoint; an empty one where it is not its.

    What all replicas have is written in equal parts by all of them, so that every rank writes: the
    same rows that ZeRO gives out. What all tensor ranks have is written by the first of them.
    """
    box = held(whole, split, parallel, place, cut=True)
    return box._replace(shape=(0,) * len(whole)) if split is None and place.tp else box


def stage_of(name, layers, parallel):
    """The pipeline stage that writes the tensor of the parameter `name` into a checkpoint.

    layers: of the model. The embedding, which both ends have, is the first one's.
    """
    first, number, *_ = name.split(".")
    if first != "blocks":
        return {"embedding": 0, "position": 0, "norm": parallel.pp - 1}[first]
    pieces = virtual_stages(layers, parallel.pp * parallel.virtual)
    return next(i for i, piece in enumerate(pieces) if int(number) in piece) % parallel.pp


def overlap(a, b):
    """(slices of a, slices of b) of the numbers that both boxes have; None where there are none."""
    in_a, in_b = [], []
    for (a0, an), (b0, bn) in zip(zip(*a, strict=True), zip(*b, strict=True), strict=True):
        begin, end = max(a0, b0), min(a0 + an, b0 + bn)
        if begin >= end:
            return None
        in_a.append(slice(begin - a0, end - a0))
        in_b.append(slice(begin - b0, end - b0))
    return tuple(in_a), tuple(in_b)


def _rows(box, n, i):
    """The i-th of n pieces of a box along its first dimension; the last may be short or empty."""
    rows = -(-box.shape[0] // n)
    first = min(i * rows, box.shape[0])
    offset = (box.offset[0] + first, *box.offset[1:])
    return Box(offset, (min(rows, box.shape[0] - first), *box.shape[1:]))
