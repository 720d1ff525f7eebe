"""Documents of random tokens."""

import numpy as np

VOCAB = 500


def tokens(seed, documents, longest=60):
    """Documents of random tokens that end with token 0."""
    draw = np.random.default_rng(seed)
    return [
        np.append(draw.integers(1, VOCAB, draw.integers(0, longest)), 0) for _ in range(documents)
    ]
