"""Which source gives the next sample: a greedy rule that keeps every batch on its proportions.

A random choice by weight would be right on average and wrong in each batch. MT-NLG tracks instead
how far each data set lies behind its share, and lets the one farthest behind give the next sample
[S3; S9]. Nothing is random, so the order depends on the weights alone.
"""

import numpy as np

from minimtnlg.errors import InputError


def blend(weights, size):
    """The source of each of `size` samples, and which of its own samples that is.

        weights: one positive number a source, in any unit
        returns: source int16 [size], number within the source int64 [size]

    At sample i the source with the largest error  w * max(i, 1) - used  comes next, the first of
    them in a tie. Equal to Megatron's `build_blending_indices`, bit for bit [S9].
    """
    shares = normalized(weights).tolist()
    used = [0] * len(shares)
    source = np.empty(size, dtype=np.int16)
    number = np.empty(size, dtype=np.int64)
    for i in range(size):
        n = max(i, 1)
        errors = [share * n - count for share, count in zip(shares, used, strict=True)]
        chosen = errors.index(max(errors))
        source[i], number[i] = chosen, used[chosen]
        used[chosen] += 1
    return source, number


def normalized(weights):
    """Weights as float64 that sum to one; an InputError unless all are positive and finite."""
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 1 or not weights.size or not np.all(np.isfinite(weights) & (weights > 0)):
        raise InputError(f"weights of a blend must be positive numbers, got {weights.tolist()}")
    return weights / weights.sum()
