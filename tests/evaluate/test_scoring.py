"""Scores against an independent computation: one pair at a time, softmax over full logits."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from minimtnlg import run
from minimtnlg.config import preset
from minimtnlg.errors import InputError
from minimtnlg.evaluate.scoring import Score, _shared, encoded, preferred, scores
from minimtnlg.model import GPT
from minimtnlg.model.convert import to_gpt2
from minimtnlg.parallel.layout import Layout
from minimtnlg.parallel.mesh import Mesh

CONFIG = dataclasses.replace(
    preset("nano").model, layers=4, hidden=16, heads=4, seq=12, vocab=40, dropout=0.1
)
EOD = 7


def model_of(mesh=None, dtype=torch.float64, **options):
    model = GPT(CONFIG, mesh, dtype=dtype, **options)
    with torch.no_grad():  # weights as drawn hardly tell tokens apart
        for parameter in model.parameters():
            parameter *= 3
    return model


def some_pairs():
    """Of all lengths; some equal, some sharing a context, one too long, one without a context."""
    g = torch.Generator().manual_seed(3)
    pairs = []
    for context in range(1, 11):
        for continuation in (1, 2, 12 - context):
            ids = torch.randint(40, (context + continuation,), generator=g).tolist()
            pairs.append((ids[:context], ids[context:]))
    return [
        *pairs,
        ([1, 2, 3, 4], [5]),
        ([1, 2, 3, 4], [6]),
        ([1, 2, 3, 4], [5]),
        ([1, 2], [3, 4]),
        ([1, 2, 3, 4], [5, 9]),
        (list(range(20)), [1, 2, 3]),
        ([], [3, 1]),
        ([2], list(range(12))),
    ]


def expected(model, context, continuation, vocab=None):
    """The definition: P(token | all before it) of each token, multiplied."""
    tokens = [*(context or [EOD]), *continuation]
    tokens = tokens[-(CONFIG.seq + 1) :]
    with torch.no_grad():
        logits = model(torch.tensor([tokens[:-1]]))[:, 0, :vocab].double()
    rows = logits.softmax(-1)[-len(continuation) :]
    logprob = sum(math.log(row[token]) for row, token in zip(rows, continuation, strict=True))
    greedy = rows.argmax(-1).tolist() == continuation
    cut = max(0, len(context or [EOD]) + len(continuation) - 1 - CONFIG.seq)
    return Score(logprob, len(continuation), greedy, cut)


def differences(found, right):
    """What is wrong, in words."""
    assert len(found) == len(right)
    return [
        f"{i}: {mine}, not {other}"
        for i, (mine, other) in enumerate(zip(found, right, strict=True))
        if abs(mine.logprob - other.logprob) > 1e-10 or mine[1:] != other[1:]
    ]


@pytest.mark.parametrize("batch", [1, 30, 4096])
def test_every_pair_by_itself_gives_the_same(batch):
    model, pairs = model_of(), some_pairs()
    right = [expected(model, *pair) for pair in pairs]
    assert not differences(scores(model, pairs, eod=EOD, batch=batch), right)
    assert right[-3].cut == 10 and not any(score.cut for score in right[:-3])


def test_the_likeliest_continuation_is_greedy_and_no_other():
    model = model_of()
    text = [3, 1, 4]
    for _ in range(4):
        text.append(model(torch.tensor([text]))[-1, 0].argmax().item())
    other = [*text[3:6], (text[6] + 1) % 40]
    found = scores(model, [(text[:3], text[3:]), (text[:3], other), (text[:5], text[5:])])
    assert [score.greedy for score in found] == [True, False, True]


def test_padding_rows_have_no_probability():
    model, pairs = model_of(), [([3, 1], [token]) for token in range(25)]
    found = scores(model, pairs, vocab=25)
    assert not differences(found, [expected(model, *pair, vocab=25) for pair in pairs])
    assert sum(math.exp(score.logprob) for score in found) == pytest.approx(1, abs=1e-12)
    assert sum(score.greedy for score in found) == 1


def test_of_equally_likely_tokens_the_first_is_the_greedy_one():
    model = model_of()
    with torch.no_grad():
        model.embedding.weight[9] = model.embedding.weight[4] = 100 * model.norm.bias.add(1)
        model.norm.bias.copy_(model.embedding.weight[4])
    found = scores(model, [([1, 2], [4]), ([1, 2], [9])])
    assert found[0].logprob == found[1].logprob
    assert [score.greedy for score in found] == [True, False]


def test_what_begins_another_is_read_once(monkeypatch):
    model, seen = model_of(), []
    forward = GPT.forward
    monkeypatch.setattr(
        GPT, "forward", lambda self, x, **rest: seen.append(x.shape) or forward(self, x, **rest)
    )
    scores(model, [([1, 2, 3], [4]), ([1, 2, 3], [5]), ([1], [2]), ([1, 2], [3, 9])])
    assert seen == [(1, 3)]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), max_size=12))
def test_shared_rows_are_few_and_serve_all(inputs):
    rows, row_of = _shared(inputs)
    for tokens, row in zip(inputs, row_of, strict=True):
        assert rows[row][: len(tokens)] == tokens
    for i, row in enumerate(rows):
        assert row in inputs
        assert not any(other[: len(row)] == row for j, other in enumerate(rows) if j != i)


def test_scores_of_transformers():
    model, pairs = model_of(), [pair for pair in some_pairs() if pair[0]]
    shape = GPT2Config(
        vocab_size=40, n_positions=12, n_embd=16, n_layer=4, n_head=4, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    theirs = GPT2LMHeadModel(shape).double().eval()
    theirs.load_state_dict(to_gpt2(model.state_dict(), 4))
    for (context, continuation), found in zip(pairs, scores(model, pairs), strict=True):
        tokens = torch.tensor([[*context, *continuation][-13:]])
        with torch.no_grad():
            rows = theirs(tokens[:, :-1]).logits[0].log_softmax(-1)[-len(continuation) :]
        right = rows.gather(1, torch.tensor(continuation)[:, None]).sum().item()
        assert found.logprob == pytest.approx(right, abs=1e-10)


def on_ranks(layouts, vocab):
    """What each layout of so many ranks makes of the pairs, on this rank."""
    found = {}
    for name, (sizes, options) in layouts.items():
        model = model_of(Mesh(Layout(**sizes)), **options)
        found[name] = scores(model, some_pairs(), eod=EOD, vocab=vocab, batch=30)
    return found


LAYOUTS = {
    2: {
        "tp 2": (dict(tp=2), {}),
        "pp 2": (dict(pp=2), {}),
        "pp 2, two chunks each": (dict(pp=2), dict(virtual=2)),
        "dp 2": (dict(dp=2), {}),
    },
    4: {
        "tp 4": (dict(tp=4), {}),
        "pp 4": (dict(pp=4), {}),
        "tp 2 x pp 2": (dict(tp=2, pp=2), {}),
        "pp 2 x dp 2": (dict(pp=2, dp=2), {}),
    },
}


@pytest.mark.parametrize("n", [2, 4])
def test_every_layout_gives_every_rank_the_scores_of_one_process(n):
    right = scores(model_of(), some_pairs(), eod=EOD, vocab=33)
    for rank, by_layout in enumerate(run(on_ranks, n, LAYOUTS[n], 33)):
        for name, found in by_layout.items():
            assert not differences(found, right), f"rank {rank}, {name}"


def test_no_pairs_no_scores():
    assert scores(model_of(), []) == []


def test_progress_counts_every_pair():
    counted = []
    scores(model_of(), some_pairs(), eod=EOD, batch=30, progress=counted.append)
    assert len(counted) > 1 and sum(counted) == len(some_pairs())


@pytest.mark.parametrize("dtype, limit", [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_in_fewer_bits_nearly_the_same(dtype, limit):
    """With weights as drawn: larger ones turn roundings into other texts."""
    found, right = (
        scores(GPT(CONFIG, dtype=dtype), some_pairs(), eod=EOD)
        for dtype in (getattr(torch, dtype), torch.float64)
    )
    for mine, other in zip(found, right, strict=True):
        assert mine.logprob == pytest.approx(other.logprob, rel=limit)


@pytest.mark.parametrize(
    "pair, says",
    [
        (([1], []), "pair 1 has an empty continuation"),
        (([], [1]), "pair 1 has an empty context: give eod"),
        (([1], list(range(13))), "pair 1 has a continuation of 13 tokens, the model has 12"),
    ],
)
def test_pairs_that_can_not_be_scored(pair, says):
    with pytest.raises(InputError, match=says):
        scores(model_of(), [([1], [2]), pair])


def test_a_cut_sequence_is_refused():
    model = model_of()
    model.sequence_parallel = True
    with pytest.raises(InputError, match="leave it out"):
        scores(model, [([1], [2])])


class Letters:
    """A tokenizer of characters."""

    def encode_batch(self, texts):
        return [[ord(c) for c in text] for text in texts]


def test_white_space_goes_with_the_word_behind_it():
    texts = [("a: ", "b"), ("a:", " b"), ("", " b"), ("a\n\n", "b")]
    found = encoded(Letters(), texts)
    decoded = [tuple("".join(map(chr, ids)) for ids in pair) for pair in found]
    assert decoded == [("a:", " b"), ("a:", " b"), ("", " b"), ("a", "\n\nb")]


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_model_that_computes_no_numbers_has_no_scores(weight):
    model = model_of()
    with torch.no_grad():
        model.norm.weight.fill_(weight)
    with pytest.raises(InputError, match="pair 0 has no log-probability"):
        scores(model, [([1, 2], [3])])


def test_the_ranking_depends_on_the_norm():
    options = ["yes", "a long answer", "certainly"]
    found = [Score(-3.0, 1, True), Score(-8.0, 4, False), Score(-4.4, 2, False)]
    alone = [Score(-1.0, 1, False), Score(-7.5, 4, False), Score(-3.0, 2, False)]
    assert preferred("sum", found, options) == 0
    assert preferred("token", found, options) == 1  # -2 nats a token; the others -3 and -2.2
    assert preferred("character", found, options) == 2  # -0.49 a character; -1 and -0.62
    assert preferred("answer", found, options, alone) == 1  # -0.5; -2 and -1.4


def test_of_equal_options_the_first():
    assert preferred("sum", [Score(-1, 1, False)] * 2, ["b", "a"]) == 0
