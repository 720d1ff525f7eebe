"""How alike are two texts? Sets of shingles, Jaccard, and signatures that estimate it.

- `shingles`: a text as the set of all runs of 5 characters in it, each hashed to 32 bits.
- `jaccard`: what two sets share, over what they hold together.
- `signature`: for each of many hash functions the smallest value that it takes on the set. Two sets
  have the same smallest value with a probability of just their Jaccard similarity.
- `bands`: the signature cut into bands; documents that agree in a whole band meet in a bucket. With
  20 bands of 13 values they do with probability 1 - (1 - s^13)^20 [S3].
"""

import numpy as np

BANDS, ROWS = 20, 13  # 260 hash functions [S3]
BLOCK = 8192  # shingles that meet all hash functions at a time: a table of 17 MB
STRETCH = 1 << 20  # characters of a text that are hashed at a time
P = np.uint64(0x9E3779B97F4A7C15)  # any odd number with well-mixed bits


def shingles(text, length=5):
    """The set of shingles of a text: uint32 [n], sorted, each once.

    A shingle is `length` characters [S10]; small letters, any white space counts as one blank. A
    text shorter than that is one shingle; one without a character has none.
    """
    text = " ".join(text.lower().split())
    if not text:
        return np.empty(0, np.uint32)
    characters = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    length = min(length, len(characters))
    found = []
    for start in range(0, len(characters) - length + 1, STRETCH):
        stretch = characters[start : start + STRETCH + length - 1].astype(np.uint64)
        hashed = np.zeros(len(stretch) - length + 1, np.uint64)
        for i in range(length):
            hashed = hashed * P + stretch[i : i + len(hashed)] + np.uint64(1)  # modulo 2^64
        hashed ^= hashed >> np.uint64(29)
        found.append(_unique((hashed * P >> np.uint64(32)).astype(np.uint32)))
    return found[0] if len(found) == 1 else _unique(np.concatenate(found))


def _unique(values):
    """np.unique, which takes ten times as long since it hashes; one value at least."""
    values.sort()
    return values[np.append(True, values[1:] != values[:-1])]


def jaccard(a, b):
    """|a and b| / |a or b| of two sets of shingles; two empty ones are alike."""
    if len(a) > len(b):
        a, b = b, a
    if not len(a):
        return float(len(b) == 0)
    places = np.searchsorted(b, a)
    places[places == len(b)] = 0
    both = np.count_nonzero(b[places] == a)
    return both / (len(a) + len(b) - both)


def functions(count=BANDS * ROWS, seed=1):
    """(a, b), uint64 [count] each, of `count` hash functions.

    h(x) = (a x + b mod 2^64) >> 32 is strongly universal for x of 32 bits: it takes no prime.
    """
    a, b = np.random.PCG64(seed).random_raw((2, count))
    return a, b


def signature(shingles, functions):
    """The smallest value of each hash function on a set of shingles: uint32 [functions].

    For an empty set that is the largest number there is.
    """
    a, b = (x[:, None] for x in functions)
    smallest = np.full(len(a), 2**64 - 1, np.uint64)
    table = np.empty((len(a), min(BLOCK, len(shingles))), np.uint64)
    for start in range(0, len(shingles), BLOCK):
        block = shingles[start : start + BLOCK].astype(np.uint64)
        hashed = np.multiply(a, block, out=table[:, : len(block)])
        hashed += b
        np.minimum(smallest, hashed.min(axis=1), out=smallest)
    return (smallest >> np.uint64(32)).astype(np.uint32)  # >> keeps the order: once is enough


def bands(signature, bands=BANDS, rows=ROWS):
    """The bucket of each band, uint64 [bands]: a hash of its `rows` values.

    signature: uint32 [bands * rows]. Buckets of different bands have nothing to do with each other.
    """
    factors = np.random.PCG64(2).random_raw(rows) | np.uint64(1)
    mixed = (signature.reshape(bands, rows).astype(np.uint64) * factors).sum(axis=1)
    return mixed ^ (mixed >> np.uint64(31))


def probability(s, bands=BANDS, rows=ROWS):
    """How likely two documents of Jaccard similarity `s` share a bucket: 1 - (1 - s^rows)^bands."""
    return 1 - (1 - np.asarray(s, dtype=np.float64) ** rows) ** bands
