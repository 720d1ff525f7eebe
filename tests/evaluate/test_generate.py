"""Greedy continuation."""

import dataclasses

import torch

from minimtnlg.config import preset
from minimtnlg.evaluate.generate import greedy
from minimtnlg.model import GPT

CONFIG = dataclasses.replace(preset("nano").model, layers=2, hidden=16, seq=12, vocab=40)


def test_each_token_is_the_likeliest_of_the_window():
    model = GPT(CONFIG, dtype=torch.float64)
    start = [3, 1, 4]
    text = start + greedy(model, start, 20)
    assert len(text) == 23
    for end in range(3, 23):
        logits = model(torch.tensor([text[max(0, end - 12) : end]]))
        assert text[end] == logits[-1, 0].argmax()


def test_padding_rows_are_never_chosen():
    model = GPT(CONFIG, dtype=torch.float64)
    favourite = greedy(model, [3, 1, 4], 1)[0]
    limited = greedy(model, [3, 1, 4], 20, vocab=favourite)
    assert limited and max(limited) < favourite


def test_it_stops_at_the_end_of_the_document():
    model = GPT(CONFIG, dtype=torch.float64)
    free = greedy(model, [3, 1, 4], 20)
    eod = free[5]
    assert greedy(model, [3, 1, 4], 20, eod=eod) == free[: free.index(eod)]
