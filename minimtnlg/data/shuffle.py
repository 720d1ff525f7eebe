"""Documents in the order of a draw about each, however many there are and however they came.

A source may be larger than memory. So each of its shards is dealt into files by the first digits of
the draws, and then each of those, small enough, is sorted.
"""

from minimtnlg.data.records import draw, put, reading
from minimtnlg.data.shards import Outcome, Tally


def deal(shard, folder, ways, seed):
    """Deal the documents of a shard into `ways` files, by the first digits of their draws.

    The files lie in `folder`; their names are the number of the way, a hyphen, the shard's name.
    """
    dealt = [[] for _ in range(ways)]
    for document in reading(shard):
        dealt[int(_place(document, seed) * ways)].append(document)
    for way, part in enumerate(dealt):
        put(folder / f"{way}-{shard.name}", part)


def gather(target, sources, seed):
    """Sort the documents of some files by their draws into the shard `target`; the Tally."""
    found = [document for source in sources for document in reading(source)]
    found.sort(key=lambda d: (_place(d, seed), d.text, d.url, d.id))
    tally = Tally()
    for document in found:
        tally.add(document, Outcome((document,)))
    put(target, found)
    return tally


def _place(document, seed):
    return draw(document.key, f"order {seed}")
