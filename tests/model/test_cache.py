"""The cache: a model that is fed a text in pieces says what it says of the whole."""

import pytest
import torch

from minimtnlg.model import GPT
from minimtnlg.model.cache import Cache


def tokens_of(config, b, s, seed=0):
    return torch.randint(config.vocab, (b, s), generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model(tiny, scramble):
    return scramble(GPT(tiny(), dtype=torch.float64)).requires_grad_(False)


def last_logits(model, text):
    return model(torch.tensor([text]))[-1, 0]


@pytest.mark.parametrize("attention", ["readable", "sdpa"])
@pytest.mark.parametrize("recompute", ["none", "full"])
def test_token_by_token_equals_all_at_once(tiny, scramble, attention, recompute):
    config = tiny(attention=attention)
    model = scramble(GPT(config, dtype=torch.float64, recompute=recompute)).requires_grad_(False)
    tokens, cache = tokens_of(config, 3, config.seq), Cache(model, 3, config.seq)
    whole = model(tokens)
    start = 4
    for end in range(start, config.seq + 1):
        new = tokens[:, :start] if end == start else tokens[:, end - 1 : end]
        cache.feed([new.shape[1]] * 3, new.shape[1])
        logits = model(new, cache=cache)
        torch.testing.assert_close(logits, whole[:end][-len(logits) :], rtol=0, atol=1e-12)


def test_texts_of_different_lengths_do_not_disturb_each_other(model):
    """Padding is of a token that would be noticed, and so is what lies in the cache beforehand."""
    g, config = torch.Generator().manual_seed(1), model.config
    lengths, cache = [2, 5, 1, 4], Cache(model, 4, config.seq)
    for kv in cache.kv.values():
        kv.fill_(1e6)
    texts = [torch.randint(config.vocab, (n,), generator=g).tolist() for n in lengths]
    padded = torch.tensor([text + [7] * (5 - len(text)) for text in texts])
    new, counts = padded, lengths
    for _ in range(5):
        cache.feed(counts, new.shape[1])
        logits = model(new, cache=cache)
        for row, text in enumerate(texts):
            found = logits[counts[row] - 1, row]
            torch.testing.assert_close(found, last_logits(model, text), rtol=0, atol=1e-12)
        more = torch.randint(config.vocab, (4, 1), generator=g)
        texts = [text + ids for text, ids in zip(texts, more.tolist(), strict=True)]
        new, counts = more, [1] * 4


def test_parts_share_the_memory_and_rows_can_be_reordered(model):
    config, cache = model.config, Cache(model, 4, 5)
    tokens = tokens_of(config, 4, 3)
    for rows in (slice(0, 2), slice(2, 4)):
        part = cache.part(rows)
        part.feed([3, 3], 3)
        model(tokens[rows], cache=part)
    order = [2, 2, 0, 1]
    cache.reorder(order, 3)
    cache.lengths = [3] * 4
    cache.feed([1] * 4, 1)
    new = tokens_of(config, 4, 1, seed=2)
    logits = model(new, cache=cache)[0]
    for row, token, found in zip(order, new.tolist(), logits, strict=True):
        expected = last_logits(model, tokens[row].tolist() + token)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_full_text_writes_over_its_end_and_over_nothing_else(model):
    """So that a batch goes on when one of its texts has ended."""
    cache, ids = Cache(model, 2, 4), tokens_of(model.config, 2, 6).tolist()
    cache.feed([4, 2], 4)
    model(torch.tensor([ids[0][:4], ids[1][:2] + [0, 0]]), cache=cache)
    for end in (3, 4):
        cache.feed([1, 1], 1)
        logits = model(torch.tensor([[0], [ids[1][end - 1]]]), cache=cache)
        expected = last_logits(model, ids[1][:end])
        torch.testing.assert_close(logits[0, 1], expected, rtol=0, atol=1e-12)


def test_its_size_is_the_formulas(model):
    """2 L h numbers a token: keys and values of each layer."""
    config = model.config
    held = sum(kv.numel() for kv in Cache(model, 3, 7).kv.values())
    assert held == 3 * 7 * 2 * config.layers * config.hidden


def test_it_begins_with_numbers(model):
    """What is masked counts 0 times, and 0 times what memory happens to hold may be no number."""
    assert all((kv == 0).all() for kv in Cache(model, 3, 7).kv.values())
