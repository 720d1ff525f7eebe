"""Fuzzy deduplication: of documents that are nearly the same, one stays [S3].

1. Every document gets its buckets, 20 numbers; documents that share one are candidates.
2. In each bucket a document is taken at random and compared with all others there, exactly. Those
   as alike as 0.8 are its duplicates and leave the bucket. This is done up to ten times.
3. Duplicates of duplicates belong together: connected components. Of each the document of the best
   source stays.

Texts are read one at a time. What is held in memory is one band of buckets and a few numbers a
document; sets of shingles lie on disk, those of candidates alone. "At random" is a draw about the
text, and among equals the smallest key wins, so the order of documents changes nothing.
"""

import functools
import hashlib
from itertools import accumulate

import numpy as np

from minimtnlg.data import minhash
from minimtnlg.data.minhash import bands as buckets_of
from minimtnlg.data.minhash import functions, shingles, signature
from minimtnlg.data.records import draw, key, reading
from minimtnlg.data.shards import Outcome
from minimtnlg.errors import InputError
from minimtnlg.files import appearing

COMPARED = 1 << 20  # comparisons that are remembered, since a pair often meets in several bands
FACTS = np.dtype([("rank", "u4"), ("key", "u8"), ("tie", "u8"), ("name", "u8")])


def find(
    shards, work, workers, priority, *, bands=20, rows=13, jaccard=0.8, rounds=10, shingle=5
):
    """Which documents of some shards are duplicates of another one.

        shards    paths of files of documents
        work      a folder for what lies on disk meanwhile; what is finished there is used
        workers   a `shards.Workers`
        priority  {source: rank}; the smallest of a component stays, a source without one is last
        returns   (a path for each shard, facts); the path holds int8 [documents] for `survives`,
                  facts are numbers for a report

    Two texts of one 64-bit key count as the same text: among a million documents, a mistake once in
    thirty million times.
    """
    tasks = [(s, work / f"{s.name}.npz", priority, bands, rows, shingle) for s in shards]
    sketches = workers.each("signatures", sketch, tasks)
    parts = [_part(path, "facts") for path in sketches]
    facts = np.concatenate([np.empty(0, FACTS), *parts])
    starts = [0, *accumulate(map(len, parts))]
    del parts

    def band(number):
        parts = (_part(path, f"band{number}") for path in sketches)
        return np.concatenate([np.empty(0, np.uint64), *parts])

    first = _first_of_key(facts)
    candidate = np.zeros(len(facts), bool)
    for number in range(bands):
        for members in _buckets(band(number), first):
            candidate[members] = True
    wanted = [candidate[a:b] for a, b in zip(starts, starts[1:], strict=False)]
    tasks = [
        (shard, work / f"{shard.name}.sets.npy", work / f"{shard.name}.ends.npy", mask, shingle)
        for shard, mask in zip(shards, wanted, strict=True)
    ]
    sets = Sets(candidate, workers.each("candidates", keep_sets, tasks))
    pairs, compared = _pairs(
        (_buckets(band(number), first) for number in range(bands)), facts["key"],
        lambda i, j: sets.alike(i, j) >= jaccard, rounds,
    )  # fmt: skip
    survivor, sizes = _survivors(facts, first, pairs)
    removed = np.where(facts["key"] == facts["key"][survivor], 2, 1).astype(np.int8)
    removed[survivor == np.arange(len(facts))] = 0
    found = []
    for shard, a, b in zip(shards, starts, starts[1:], strict=False):
        found.append(work / f"{shard.name}.removed.npy")
        _put(found[-1], removed[a:b])
    index = facts.nbytes + first.nbytes + candidate.nbytes + survivor.nbytes + removed.nbytes
    return found, {
        "candidates": int(candidate.sum()),
        "compared": compared,
        "pairs": len(pairs),
        "components": int(np.sum(sizes > 1)),
        "largest component": int(sizes.max(initial=0)),
        "repeated ids": len(facts) - len(np.unique(facts["name"])),
        "index bytes per document": round((index + 2 * 8 * len(facts)) / max(1, len(facts))),
    }


def survives(document, value):
    """What becomes of a document by its number from `find`: 0 stays."""
    if value:
        return Outcome(reason=("", "near-duplicate", "duplicate")[value])
    return Outcome((document,))


def duplicates(texts, *, bands=20, rows=13, jaccard=0.8, rounds=10, shingle=5):
    """The number of the text that stays in its place, for each of some texts: int64 [n].

    The same as `find`, for texts in memory that are all of one source.
    """
    sets = [shingles(text, shingle) for text in texts]
    chosen = functions(bands * rows)
    table = np.array([buckets_of(signature(s, chosen), bands, rows) for s in sets], np.uint64)
    facts = np.zeros(len(texts), FACTS)
    facts["key"] = [key(text) for text in texts]
    facts["tie"] = range(len(texts))
    first = _first_of_key(facts)
    columns = (_buckets(column, first) for column in table.reshape(-1, bands).T)
    pairs, _ = _pairs(
        columns, facts["key"], lambda i, j: minhash.jaccard(sets[i], sets[j]) >= jaccard, rounds
    )
    return _survivors(facts, first, pairs)[0]


def sketch(shard, target, priority, bands, rows, shingle):
    """Keep the buckets of each document of a shard, band by band, and what decides who stays."""
    if target.is_file():
        return target
    chosen, facts, buckets = functions(bands * rows), [], []
    for d in reading(shard):
        rank = priority.get(d.source, 2**32 - 1)
        name = _hash(f"{d.source}\0{d.id}")
        facts.append((rank, d.key, _hash(f"{d.source}\0{d.url}\0{d.id}"), name))
        buckets.append(buckets_of(signature(shingles(d.text, shingle), chosen), bands, rows))
    table = np.array(buckets, np.uint64).reshape(len(facts), bands)
    columns = {f"band{number}": column for number, column in enumerate(table.T)}
    with appearing(target) as aside, open(aside, "wb") as f:
        np.savez(f, facts=np.array(facts, FACTS), **columns)
    return target


def keep_sets(shard, sets, ends, wanted, shingle):
    """Keep the sets of shingles of the documents that are wanted, one after the other."""
    if not (sets.is_file() and ends.is_file()):
        found = [
            shingles(document.text, shingle)
            for document, want in zip(reading(shard), wanted, strict=True)
            if want
        ]
        _put(sets, np.concatenate([np.empty(0, np.uint32), *found]))
        _put(ends, np.cumsum([len(one) for one in found], dtype=np.int64))
    return sets, ends


class Sets:
    """Sets of shingles on disk, and how alike two of them are.

    candidate: bool [documents], whose sets there are; files: (path of sets, of their ends) a shard.
    """

    def __init__(self, candidate, files):
        self.place = np.cumsum(candidate) - 1
        self.sets = [np.load(sets, mmap_mode="r") for sets, _ in files]
        self.ends = [np.load(ends) for _, ends in files]
        self.starts = np.cumsum([0, *map(len, self.ends)])
        self.alike = functools.lru_cache(COMPARED)(self._alike)

    def _alike(self, i, j):
        return minhash.jaccard(self._set(i), self._set(j))

    def _set(self, i):
        place = self.place[i]
        shard = np.searchsorted(self.starts, place, "right") - 1
        number, ends = place - self.starts[shard], self.ends[shard]
        return self.sets[shard][int(ends[number - 1]) if number else 0 : int(ends[number])]


def _put(path, array):
    with appearing(path) as aside, open(aside, "wb") as f:
        np.save(f, array)


def _part(path, name):
    with np.load(path) as parts:
        return parts[name]


def _hash(text):
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")


def _first_of_key(facts):
    """For each document the number of the one of the same text that would stay: int64 [n]."""
    order = np.lexsort((facts["tie"], facts["rank"], facts["key"]))
    new = np.ones(len(order), bool)
    new[1:] = facts["key"][order[1:]] != facts["key"][order[:-1]]
    first = np.empty(len(order), np.int64)
    first[order] = order[new][np.cumsum(new) - 1] if len(order) else order
    return first


def _buckets(band, first):
    """Numbers of the documents of each bucket that holds several, one for each different text."""
    one = np.flatnonzero(first == np.arange(len(first)))
    order = one[np.argsort(band[one], kind="stable")]
    edges = np.flatnonzero(np.diff(band[order], prepend=~band[order[:1]], append=~band[order[-1:]]))
    for start, end in zip(edges, edges[1:], strict=False):
        if end - start > 1:
            yield order[start:end]


def _pairs(bands, keys, similar, rounds):
    """(pairs of near-duplicates, number of comparisons) that the buckets of all bands give."""
    pairs, compared = set(), 0
    for buckets in bands:
        for members in buckets:
            rest = sorted(members.tolist(), key=lambda i: (draw(keys[i], "bucket"), keys[i]))
            for _ in range(rounds):
                if len(rest) < 2:
                    break
                taken, *others = rest
                rest = []
                for other in others:
                    compared += 1
                    pair = (min(taken, other), max(taken, other))
                    if similar(*pair):
                        pairs.add(pair)
                    else:
                        rest.append(other)
    return pairs, compared


def _survivors(facts, first, pairs):
    """(for each document the one that stays in its place, documents of each component)."""
    try:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components
    except ImportError:
        raise InputError(
            "deduplication takes scipy, which isn't installed: pip install 'minimtnlg[data]'"
        ) from None
    number = np.arange(len(facts))
    left, right = np.array(sorted(pairs), np.int64).reshape(-1, 2).T
    left, right = np.concatenate([left, number]), np.concatenate([right, first])
    graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(len(facts),) * 2)
    count, component = connected_components(graph, directed=False)
    order = np.lexsort((facts["tie"], facts["key"], facts["rank"]))
    best = np.full(count, -1)
    best[component[order[::-1]]] = order[::-1]  # the last to be written is the smallest
    return best[component], np.bincount(component)
