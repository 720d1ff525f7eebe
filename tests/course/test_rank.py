"""The reader's rank: kept, found again, refused when MT-NLG has no such rank."""

import json

import numpy as np
import pytest

from minimtnlg.course import progress
from minimtnlg.course.rank import MTNLG, choose_rank, my_rank
from minimtnlg.errors import InputError


def test_default_until_chosen():
    assert my_rank() == 1000
    assert choose_rank(0) == 0  # a rank that counts as false
    assert my_rank() == 0


@pytest.mark.parametrize("rank", [0, 17, 2239, np.int64(5)])
def test_a_chosen_rank_is_found_again(rank):
    choose_rank(rank)
    assert my_rank() == rank
    assert type(my_rank()) is int


@pytest.mark.parametrize("rank", [-1, 2240, 1.5, "7", None])
def test_what_is_no_rank_is_refused_and_the_old_one_stays(rank):
    choose_rank(8)
    with pytest.raises(InputError, match="2239"):
        choose_rank(rank)
    assert my_rank() == 8


def test_guesses_and_the_rank_share_a_file_and_keep_each_other(progress_file):
    progress.note("predictions", "x", guess=3)
    choose_rank(9)
    progress.note("exercises", "y", attempts=1)
    assert my_rank() == 9
    assert progress.read()["predictions"]["x"]["guess"] == 3
    assert progress_file.exists()


@pytest.mark.parametrize("kept", [2240, -3, "12", None, 2.0])
def test_a_spoilt_file_means_the_default(progress_file, kept):
    progress_file.write_text(json.dumps({"choices": {"rank": {"value": kept}}}))
    assert my_rank() == 1000


def test_it_is_the_layout_of_the_paper():
    assert MTNLG.world == 280 * 8
