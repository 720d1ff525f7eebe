"""Generation against one forward pass a token, against transformers, and in every layout."""

import dataclasses
import itertools
import re

import pytest
import torch
from comparing import Outcomes, complaints
from transformers import GPT2Config, GPT2LMHeadModel

from minimtnlg.config import preset
from minimtnlg.device import generator
from minimtnlg.errors import InputError
from minimtnlg.evaluate.decoder import Decoder
from minimtnlg.evaluate.generate import beam, generate, greedy
from minimtnlg.evaluate.sampling import distribution, drawn
from minimtnlg.model import GPT
from minimtnlg.model.convert import to_gpt2
from minimtnlg.parallel.layout import Layout
from minimtnlg.parallel.mesh import Mesh

CONFIG = dataclasses.replace(
    preset("nano").model, layers=4, hidden=16, heads=4, seq=16, vocab=40
)
PROMPTS = [[3, 1, 4], [15, 9, 26, 5, 35, 8, 9], [7], [2, 7, 1], list(range(16))]
EOD = 9
SAMPLING = dict(temperature=1.5, top_k=30, top_p=0.95, seed=5)


def gpt(mesh=None, config=CONFIG, **options):
    """A model of clear opinions, other ones after other texts; no bias of it is zero."""
    model = GPT(config, mesh, dtype=torch.float64, **options).requires_grad_(False)
    for p in model.parameters():
        p.mul_(3).add_(0.05)  # which any slice of a parameter can do by itself
    return model


@pytest.fixture(scope="module")
def model():
    return gpt()


def next_logits(model, text):
    """What the model says after a text: one forward pass, without a cache."""
    with torch.no_grad():
        return model(torch.tensor([text]))[-1, 0]


def alone(model, number, prompt, count, temperature=0.0, top_k=None, top_p=None, seed=1):
    """The continuation of a prompt by itself, each token from a forward pass over the whole text.
    """
    text = list(prompt)
    while len(text) < len(prompt) + count and len(text) <= model.config.seq:
        logits = next_logits(model, text)
        if temperature:
            g = generator("sample", seed, number)
            uniform = torch.rand(model.config.seq + 2, dtype=torch.float64, generator=g)
            text.append(drawn(distribution(logits, temperature, top_k, top_p), uniform[len(text)]))
        else:
            text.append(logits.argmax())
        text[-1] = text[-1].item()
    return text[len(prompt) :]


def by_heart(text, vocab=12, seq=8):
    """A model that writes `text` at its positions, whatever it has read: it learned only where."""
    config = dataclasses.replace(CONFIG, layers=1, hidden=16, vocab=vocab, seq=seq)
    model = GPT(config, dtype=torch.float64).requires_grad_(False)
    for p in model.parameters():
        p.zero_()
    model.norm.weight.fill_(10)
    model.embedding.weight.copy_(torch.eye(vocab, 16))
    for position, token in enumerate(text):
        model.position.weight[position, token] = 100
    return model


# One process.


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("sampling", [{}, SAMPLING], ids=["greedy", "sampled"])
def test_each_prompt_continues_as_it_does_alone(model, cache, sampling):
    found = generate(model, PROMPTS, 9, cache=cache, **sampling)
    assert found == [alone(model, i, ids, 9, **sampling) for i, ids in enumerate(PROMPTS)]
    assert [len(ids) for ids in found] == [9, 9, 9, 9, 1]
    assert len({tuple(ids) for ids in found}) == len(PROMPTS)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_batches_make_no_difference(model, batch):
    whole = generate(model, PROMPTS, 9, **SAMPLING)
    assert generate(model, PROMPTS, 9, batch=batch, **SAMPLING) == whole


def test_samples_differ_by_seed_and_by_the_number_of_the_prompt(model):
    first = generate(model, [[3, 1, 4]] * 3, 9, temperature=1.0)
    assert len({tuple(ids) for ids in first}) == 3
    assert first == generate(model, [[3, 1, 4]] * 3, 9, temperature=1.0, seed=1)
    assert first != generate(model, [[3, 1, 4]] * 3, 9, temperature=1.0, seed=2)
    assert generate(model, [[3, 1, 4]] * 2, 9, temperature=1.0) == first[:2]


def test_samples_are_as_frequent_as_probable(model):
    probabilities = distribution(next_logits(model, [3, 1, 4]), 1.0, None, 0.8)
    ids = generate(model, [[3, 1, 4]] * 4000, 1, temperature=1.0, top_p=0.8, batch=4000)
    shares = torch.tensor(ids).flatten().bincount(minlength=40) / 4000
    assert (shares[probabilities == 0] == 0).all()
    spread = (probabilities * (1 - probabilities) / 4000).sqrt()
    assert ((shares - probabilities).abs() <= 5 * spread).all()


def test_a_top_k_of_one_is_greedy(model):
    sharp = generate(model, PROMPTS, 9, temperature=1.0, top_k=1)
    assert sharp == generate(model, PROMPTS, 9)


def test_padding_rows_are_never_chosen(model):
    favourite = greedy(model, [3, 1, 4], 1)[0]
    limited = greedy(model, [3, 1, 4], 9, vocab=favourite)
    assert limited and max(limited) < favourite
    drawn_ids = generate(model, [[3, 1, 4]] * 50, 9, temperature=9.0, vocab=7)
    assert max(map(max, drawn_ids)) == 6
    assert all(max(ids) < 7 for ids, _ in beam(model, [3, 1, 4], 5, 4, vocab=7))


def test_it_stops_at_the_end_of_the_document(model):
    free = generate(model, PROMPTS, 9)
    eod = free[0][5]
    cut = [ids[: ids.index(eod)] if eod in ids else ids for ids in free]
    assert generate(model, PROMPTS, 9, eod=eod) == cut != free
    assert greedy(model, PROMPTS[0], 9, eod=eod) == cut[0]


def test_it_stops_where_it_is_told_to(model):
    """Each text by itself: the others grow on."""
    free = generate(model, PROMPTS, 9)
    wanted = free[3][2:4]
    found = generate(model, PROMPTS, 9, stop=lambda ids: ids[-2:] == wanted)
    ends = [
        next((n for n in range(2, len(ids) + 1) if ids[n - 2 : n] == wanted), len(ids))
        for ids in free
    ]
    assert ends[3] == 4 and 9 in ends
    assert found == [ids[:n] for ids, n in zip(free, ends, strict=True)]


def test_planted_text_comes_out():
    """Positions 0 to 7 say 3 1 4 1 5 9 2 6: a prompt of n tokens goes on with the rest."""
    text, eod = [3, 1, 4, 1, 5, 9, 2, 6], 9
    model = by_heart(text)
    prompts = [[0], [0, 0, 0, 0], [0] * 8]
    assert generate(model, prompts, 99) == [text, text[3:], text[7:]]
    assert generate(model, prompts, 99, eod=eod) == [text[:5], text[3:5], text[7:]]
    assert generate(model, prompts, 2) == [text[:2], text[3:5], text[7:]]
    assert generate(model, prompts, 99, stop=lambda ids: 2 in ids) == [text[:7], text[3:7], [6]]
    assert generate(model, prompts, 99, temperature=1.0) == [text, text[3:], text[7:]]
    assert beam(model, [0], 99, 3)[0][0] == text


def test_the_context_is_used_to_its_end_and_no_further(model):
    """The last token was predicted from all 16 positions; to go on would need a 17th."""
    text = PROMPTS[0] + greedy(model, PROMPTS[0], 99)
    assert len(text) == 17 and text[16] == next_logits(model, text[:16]).argmax()
    assert len(greedy(model, list(range(16)), 99)) == 1


def test_nothing_is_asked_for(model):
    assert generate(model, [], 9) == []
    assert generate(model, PROMPTS, 0) == [[]] * 5
    assert beam(model, [3], 0, 2) == [([], 0.0)]


@pytest.mark.parametrize(
    "prompts, count, options, says",
    [
        ([[1], []], 5, {}, "prompt 1 has 0 tokens: begin with the token that ends a document"),
        ([[1] * 17], 5, {}, "prompt 0 has 17 tokens: the model sees 16"),
        ([[1, 40]], 5, {}, "prompt 0 has tokens outside of the 40"),
        ([[-1]], 5, {}, "prompt 0 has tokens outside of the 40"),
        ([[1]], -1, {}, "-1 tokens to generate"),
        ([[1]], 5, {"temperature": -0.1}, "temperature=-0.1"),
        ([[1]], 5, {"temperature": float("nan")}, "temperature=nan"),
        ([[1]], 5, {"temperature": 1.0, "top_p": 0.0}, "top_p=0.0"),
        ([[1]], 5, {"temperature": 1.0, "top_p": 1.1}, "top_p=1.1"),
        ([[1]], 5, {"temperature": 1.0, "top_k": 0}, "top_k=0"),
    ],
)
def test_what_can_not_be_is_refused(model, prompts, count, options, says):
    with pytest.raises(InputError, match="^" + re.escape(says)) as told:
        generate(model, prompts, count, **options)
    assert "\n" not in str(told.value)


def test_a_beam_needs_a_width(model):
    with pytest.raises(InputError, match="a beam of width 0"):
        beam(model, [1], 5, 0)


# Beam search.


def test_a_beam_as_wide_as_the_tree_finds_the_best_of_all():
    config = dataclasses.replace(CONFIG, layers=2, vocab=5)
    model, prompt, eod = gpt(config=config), [3, 1], 2
    every = {}
    for ids in itertools.product(range(5), repeat=3):
        ids = ids[: ids.index(eod) + 1] if eod in ids else ids
        steps = (next_logits(model, prompt + list(ids[:n])).log_softmax(0) for n in range(len(ids)))
        every[ids] = sum(step[token] for step, token in zip(steps, ids, strict=True)).item()
    best = sorted(every.items(), key=lambda pair: -pair[1])
    found = beam(model, prompt, 3, 100, eod=eod)
    assert [ids for ids, _ in found] == [[i for i in ids if i != eod] for ids, _ in best]
    torch.testing.assert_close([x for _, x in found], [x for _, x in best], rtol=0, atol=1e-12)


def test_a_beam_of_one_is_greedy(model):
    (ids, total), = beam(model, [3, 1, 4], 9, 1)
    assert ids == greedy(model, [3, 1, 4], 9)
    logits = [next_logits(model, [3, 1, 4] + ids[:n]).log_softmax(0) for n in range(9)]
    assert abs(total - sum(x[i] for x, i in zip(logits, ids, strict=True))) < 1e-12


def test_a_beam_finds_what_greedy_misses(model):
    gains = [beam(model, p, 6, 8)[0][1] - beam(model, p, 6, 1)[0][1] for p in PROMPTS[:4]]
    assert min(gains) > -1e-12 and max(gains) > 0.01


# transformers, on the same weights.


@pytest.fixture(scope="module")
def theirs(model):
    m = model.config
    shape = GPT2Config(
        vocab_size=m.vocab, n_positions=m.seq, n_embd=m.hidden, n_layer=m.layers, n_head=m.heads,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    other = GPT2LMHeadModel(shape).double().eval()
    other.load_state_dict(to_gpt2(model.state_dict(), m.heads))
    return other


def padded_left(prompts, pad):
    longest = max(map(len, prompts))
    ids = [[pad] * (longest - len(p)) + p for p in prompts]
    mask = [[0] * (longest - len(p)) + [1] * len(p) for p in prompts]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


@pytest.mark.parametrize("eod", [None, 9, 8])
def test_transformers_continues_alike(model, theirs, eod):
    prompts, longest = PROMPTS[:4], max(map(len, PROMPTS[:4]))
    found = theirs.generate(
        **padded_left(prompts, 0), max_new_tokens=9, do_sample=False, eos_token_id=eod,
        pad_token_id=0,
    )  # fmt: skip
    ours = generate(model, prompts, 9, eod=eod)
    for ids, row in zip(ours, found[:, longest:].tolist(), strict=True):
        assert row[: len(ids)] == ids
        assert len(ids) == 9 or row[len(ids)] == eod


@pytest.mark.parametrize("width", [2, 5])
@pytest.mark.parametrize("eod", [None, 9, 34])
def test_beams_and_their_scores_are_those_of_transformers(model, theirs, width, eod):
    for prompt in PROMPTS[:4]:
        found = theirs.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=8,
            num_beams=width, num_return_sequences=width, do_sample=False, length_penalty=0.0,
            eos_token_id=eod, pad_token_id=0, output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
        ours = beam(model, prompt, 8, width, eod=eod)
        assert len(ours) == width
        for (ids, total), row, score in zip(
            ours, found.sequences.tolist(), found.sequences_scores.tolist(), strict=True
        ):
            assert row[len(prompt) :][: len(ids)] == ids
            assert abs(total - score) < 1e-5  # theirs adds up in fp32


# Every layout.

COUNT, MODELS = 5, {}
LAYOUTS = {  # and how many chunks a stage has
    1: [(Layout(), 1)],
    2: [(Layout(tp=2), 1), (Layout(pp=2), 1), (Layout(pp=2), 2)],
    4: [(Layout(pp=4), 1), (Layout(tp=2, pp=2), 2), (Layout(tp=2, dp=2), 1)],
}


def models(n):
    """(name, this rank's model) for each layout of n ranks."""
    for layout, virtual in LAYOUTS[n]:
        if (layout, virtual) not in MODELS:
            mesh = Mesh(layout) if layout.world > 1 else Mesh()
            MODELS[layout, virtual] = gpt(mesh, virtual=virtual)
        yield f"{layout}, virtual {virtual}", MODELS[layout, virtual]


def the_likeliest_tokens(me, n):
    expected = [alone(gpt(), i, ids, COUNT) for i, ids in enumerate(PROMPTS)]
    for name, model in models(n):
        yield name, generate(model, PROMPTS, COUNT), expected
        yield f"{name}, no cache", generate(model, PROMPTS, COUNT, cache=False), expected
        yield f"{name}, one", greedy(model, PROMPTS[0], COUNT), expected[0]


def drawn_tokens(me, n):
    expected = [alone(gpt(), i, ids, COUNT, **SAMPLING) for i, ids in enumerate(PROMPTS)]
    for name, model in models(n):
        yield name, generate(model, PROMPTS, COUNT, batch=3, **SAMPLING), expected


def beams(me, n):
    expected = beam(gpt(), PROMPTS[1], COUNT, 3, eod=EOD)
    for name, model in models(n):
        found = beam(model, PROMPTS[1], COUNT, 3, eod=EOD)
        yield name, [ids for ids, _ in found], [ids for ids, _ in expected]
        sums = [torch.tensor([x for _, x in pairs]) for pairs in (found, expected)]
        yield name, *sums, 1e-9


def logits_of_every_step(me, n):
    """What the last stage chooses from, told to all ranks; texts of different lengths."""
    serial = gpt()
    for name, model in models(n):
        texts = [list(ids) for ids in PROMPTS[:4]]
        decoder = Decoder(model, 4, 12)
        for token in (5, 31, 17):
            found = decoder.step(texts, lambda logits: logits, (4, 40))
            expected = torch.stack([next_logits(serial, text) for text in texts])
            yield f"{name}, token {token}", found, expected, 1e-9
            texts = [text + [token] for text in texts]


def stops_on_all_ranks(me, n):
    def stop(ids):
        return len(ids) == 2 + ids[0] % 3

    expected = generate(gpt(), PROMPTS, COUNT, eod=EOD, stop=stop)
    for name, model in models(n):
        yield name, generate(model, PROMPTS, COUNT, eod=EOD, stop=stop), expected


def a_cut_sequence_is_refused(me, n):
    if n == 2:
        model = gpt(Mesh(Layout(tp=2)), sequence_parallel=True)
        try:
            told = generate(model, PROMPTS, COUNT)
        except InputError as error:
            told = str(error)
        yield "told", "parallel.sequence_parallel=true" in told and "\n" not in told, True


CASES = [
    the_likeliest_tokens, drawn_tokens, beams, logits_of_every_step, stops_on_all_ranks,
    a_cut_sequence_is_refused,
]  # fmt: skip


def program(cases):
    return complaints(cases)


@pytest.fixture(scope="module")
def outcomes(request):
    return Outcomes(request, program)


@pytest.mark.parametrize("n", (1, 2, 4))
@pytest.mark.parametrize("case", CASES)
def test_every_layout_equals_one_process(case, n, outcomes):
    if words := outcomes(case, n):
        pytest.fail("\n".join(words), pytrace=False)
