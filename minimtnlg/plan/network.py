"""Seconds on the wire: sums among the GPUs of a node and between nodes, transfers of a pipeline.

A call takes a time that it takes at least, and its bytes over the rate of the slowest wire on its
ring [S41]. A ring that goes through whole nodes uses all their network cards; when several groups
go through the same nodes at once, as data-parallel groups do, they share them.
"""


def sum_seconds(size, ranks, hw, apart=1):
    """Seconds of an all-reduce of `size` bytes among `ranks`, `apart` numbers from one another.

    Ranks lie on GPUs in their order: a tensor group has apart=1, a data group apart=tp. Neighbours
    use their groups at the same time.
    """
    start, rate = _ring(ranks, hw, apart)
    return start + 2 * (ranks - 1) / ranks * size / rate


def half_seconds(size, ranks, hw, apart=1):
    """Seconds of a reduce-scatter or an all-gather; `size` is the whole, in bytes."""
    start, rate = _ring(ranks, hw, apart)
    return start + (ranks - 1) / ranks * size / rate


def _ring(ranks, hw, apart):
    """(seconds that a call takes at least, bytes/s of the slowest wire) of a ring."""
    if ranks == 1:
        return 0.0, 1.0
    rate, inside = hw.near * hw.near_share * 1e9, min(ranks, -(-hw.per_node // apart))
    start = hw.near_seconds if inside > 1 else 0.0
    if ranks > inside:
        rings = min(apart, hw.per_node)  # that leave a node
        rate = min(rate, hw.nic * hw.nic_share * 1e9 * hw.per_node / rings)
        start += hw.far_seconds * (ranks / inside - 1)
    return start, rate


def transfer_seconds(size, hw, far, slices=1, gather=True):
    """Seconds in which a tensor of `size` bytes goes from each GPU of a stage to one of the next.

    slices: how many tensor ranks send a part each, which the receivers then gather, if they want.
    """
    if far:
        rate = min(hw.pair, hw.nic * hw.nic_share)
        seconds = hw.far_seconds + size / slices / (rate * 1e9)
    else:
        seconds = hw.near_seconds + size / slices / (hw.near * hw.near_share * 1e9)
    return seconds + (half_seconds(size, slices, hw) if gather else 0.0)
