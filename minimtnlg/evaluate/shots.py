"""Few-shot examples: drawn anew for each item, by a seed, and never the item itself.

An item's examples depend on nothing but the seed, the task, the item's number and what there is to
draw from: not on what was evaluated before, how much, or by how many ranks.
"""

import random

from minimtnlg.device import seed_of
from minimtnlg.errors import InputError


def examples_for(name, number, item, pool, shots, seed):
    """`shots` Items of `pool` that are not `item`, in random order; none is taken twice.

    name, number: of the task, and of the item in it. pool: the training split where there is one,
    else all items. InputError where it has too few.
    """
    if not shots:
        return []
    others = len(pool) - pool.count(item)
    if shots > others:
        raise InputError(
            f"--shots {shots}: {name} has {len(pool)} examples to draw from, {others} of them not "
            f"item {number} itself; ask for fewer"
        )
    rng, chosen = random.Random(seed_of("shots", seed, name, number)), {}
    while len(chosen) < shots:
        at = rng.randrange(len(pool))
        if pool[at] != item:
            chosen[at] = pool[at]
    return list(chosen.values())
