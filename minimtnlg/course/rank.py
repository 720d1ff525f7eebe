"""The reader's own rank of MT-NLG: chosen once in lesson 00, met again in every later lesson.

It is kept beside the guesses of `predict` (`progress.py`): in one file on this machine.
"""

import operator

from minimtnlg.course import progress
from minimtnlg.errors import InputError
from minimtnlg.parallel.layout import Layout

MTNLG = Layout(tp=8, pp=35, dp=8)  # 280 nodes of 8 GPUs [S3, sec. 2.2]
DEFAULT = 1000  # a rank in the middle: stage 15, neither the first nor the last


def choose_rank(rank):
    """Keep `rank`, 0 to 2 239, for all later lessons; return it. InputError if there is none."""
    try:
        rank = operator.index(rank)
    except TypeError:
        last = MTNLG.world - 1
        raise InputError(f"rank {rank!r}: choose a whole number from 0 to {last}") from None
    MTNLG.place(rank)  # refuses a rank that is not there
    progress.note("choices", "rank", value=rank)
    return rank


def my_rank():
    """The rank that the reader chose; 1000 if none was chosen, or what is kept is no rank."""
    rank = progress.read()["choices"].get("rank", {}).get("value", DEFAULT)
    known = isinstance(rank, int) and 0 <= rank < MTNLG.world
    return rank if known else DEFAULT
