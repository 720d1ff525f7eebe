"""Text from a model: one token after the other, the likeliest or a drawn one; or by beam search.

- Every function here is called by all ranks of the model's mesh with the same arguments, and gives
  the same on all of them, in any layout.
- A text continues alike by itself and in a batch. A draw is named by the seed, the prompt's number
  and the position in the text, so batches and layouts make no difference to samples either.
- A text ends before `eod`, where `stop` says so, after `count` tokens, or with the context: the
  token after the model's last position is the last. A window that slid on would give every token
  another position, so that nothing in the cache would hold any more.
"""

from functools import partial

import torch

from minimtnlg.device import generator
from minimtnlg.errors import InputError
from minimtnlg.evaluate.decoder import Decoder
from minimtnlg.evaluate.sampling import distribution, drawn


@torch.no_grad()
def generate(
    model, prompts, count, *, temperature=0.0, top_k=None, top_p=None, seed=1, eod=None,
    vocab=None, stop=None, batch=64, cache=True,
):  # fmt: skip
    """Continue each prompt by up to `count` tokens; returns the new ids, a list for each prompt.

    model        a GPT, on every rank of its mesh
    prompts      lists of ids, of any lengths from 1 to model.config.seq
    temperature  0: the likeliest token, which top_k and top_p leave as it is; else the token is
                 drawn, by `seed`, from sampling.distribution(logits, temperature, top_k, top_p)
    eod          the token that ends a text and is no part of it
    vocab        rows of the embedding from here on are padding and are never chosen
    stop         stop(new ids of a text) says whether it ends there, its last token included, as
                 lambda ids: ids[-2:] == [7, 9], or by a look at the decoded text
    batch        how many texts grow together; they are of nearly the same length
    cache        False: each step computes all tokens again, for the same ids

    InputError, on every rank, for an empty or too long prompt, and for numbers out of range.
    """
    _refuse(model, prompts, count)
    _refuse_sampling(temperature, top_k, top_p)

    def choose(uniform, logits):
        logits = logits[:, :vocab]
        if temperature == 0:
            return logits.argmax(-1)
        return drawn(distribution(logits, temperature, top_k, top_p), uniform.to(logits.device))

    def ends(ids):
        return stop is not None and stop(ids)

    results = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for first in range(0, len(order), batch):
        some = order[first : first + batch]
        texts, draws = [prompts[i] for i in some], [_draws(model, seed, i) for i in some]
        grown = _grown(model, texts, count, choose, torch.stack(draws), eod, ends, cache)
        for i, ids in zip(some, grown, strict=True):
            results[i] = ids
    return results


def greedy(model, tokens, count, eod=None, vocab=None):
    """Continue `tokens` (ids) by up to `count` of the likeliest ones: `generate` for one prompt."""
    return generate(model, [tokens], count, eod=eod, vocab=vocab)[0]


@torch.no_grad()
def beam(model, prompt, count, width, *, eod=None, vocab=None, cache=True):
    """The likeliest continuations that beam search finds: [(new ids, log-probability)], best first.

    Of all continuations of the `width` texts that are kept, the best `width` are kept for the next
    step. One that ends with `eod` stands aside, if it is among them; its log-probability (nats, the
    sum over new tokens) counts `eod`, its ids do not have it. The search ends when no text that
    still grows can come among the best, or as `generate` does. width: from 1; 1 is greedy.
    """
    _refuse(model, [prompt], count)
    if not _whole(width, 1):
        raise InputError(f"a beam of width {width!r}: a whole number from 1")
    seq, vocab = model.config.seq, vocab or model.config.vocab
    decoder = Decoder(model, width, min(seq, len(prompt) + count - 1), cache)
    texts = [list(prompt)] * width
    sums = [0.0] + [float("-inf")] * (width - 1)  # one text at first, the others are its copies
    ended = []

    def best(logits):
        before = torch.tensor(sums, dtype=torch.float64, device=logits.device)
        every = before[:, None] + logits[:, :vocab].log_softmax(-1)
        found, at = every.flatten().topk(min(2 * width, every.numel()))  # half of them may end
        return torch.stack([found, at // vocab, at % vocab])

    for _ in range(min(count, seq + 1 - len(prompt))):
        found = decoder.step(texts, best, (3, min(2 * width, width * vocab))).T.tolist()
        ended += [(texts[int(row)], total) for total, row, token in found[:width] if token == eod]
        going = [(total, int(row), int(token)) for total, row, token in found if token != eod]
        sums, rows, tokens = zip(*going[:width], strict=True)
        texts = [texts[row] + [token] for row, token in zip(rows, tokens, strict=True)]
        decoder.reorder(rows)
        if len(ended) >= width and sorted(total for _, total in ended)[-width] >= sums[0]:
            break
    every = sorted([*ended, *zip(texts, sums, strict=True)], key=lambda pair: -pair[1])[:width]
    return [(text[len(prompt) :], total) for text, total in every if total > float("-inf")]


def until(tokenizer, ends):
    """(stop, cut): what ends a text at the first of the texts `ends`, and what takes it off.

    stop is for `generate`. Both look at the text: in tokens it can be written in many ways.
    InputError for an empty one, at which every text would end.
    """
    if not all(ends):
        raise InputError("a text can't end at the empty text: leave it out")

    def cut(text):
        return text[: min((text.index(end) for end in ends if end in text), default=len(text))]

    def stop(ids):
        text = tokenizer.decode(ids)
        return any(end in text for end in ends)

    return stop, cut


def _draws(model, seed, prompt):
    """The numbers in [0, 1) that decide over prompt number `prompt`, one for each position."""
    g = generator("sample", seed, prompt)
    return torch.rand(model.config.seq + 2, dtype=torch.float64, generator=g)


def _grown(model, prompts, count, choose, draws, eod, ends, cache):
    """New ids for prompts that grow together; choose(the draw of each, logits) -> their ids."""
    seq, texts, going = model.config.seq, [list(ids) for ids in prompts], set(range(len(prompts)))
    decoder = Decoder(model, len(texts), min(seq, max(map(len, texts)) + count - 1), cache)
    for _ in range(count):
        at = torch.tensor([[len(text)] for text in texts])
        pick = partial(choose, draws.gather(1, at)[:, 0])
        ids = decoder.step(texts, pick, (len(texts),)).long().tolist()
        for i in sorted(going):
            if ids[i] != eod:
                texts[i].append(ids[i])
            if ids[i] == eod or len(texts[i]) > seq or ends(texts[i][len(prompts[i]) :]):
                going.remove(i)
        if not going:
            break
    return [text[len(ids) :] for text, ids in zip(texts, prompts, strict=True)]


def _refuse(model, prompts, count):
    seq, vocab = model.config.seq, model.config.vocab
    if not _whole(count, 0):
        raise InputError(f"{count!r} tokens to generate: a whole number from 0")
    for number, ids in enumerate(prompts):
        if not 0 < len(ids) <= seq:
            fits = f"the model sees {seq}" if ids else "begin with the token that ends a document"
            raise InputError(f"prompt {number} has {len(ids)} tokens: {fits}")
        if not (0 <= min(ids) and max(ids) < vocab):
            raise InputError(f"prompt {number} has tokens outside of the {vocab} of the model")


def _refuse_sampling(temperature, top_k, top_p):
    if not 0 <= temperature < float("inf"):
        raise InputError(f"temperature={temperature}: 0 for the likeliest token, or above")
    if top_k is not None and not _whole(top_k, 1):
        raise InputError(f"top_k={top_k!r}: how many tokens stay, a whole number from 1")
    if top_p is not None and not 0 < top_p <= 1:
        raise InputError(f"top_p={top_p}: the probability that stays, above 0 and at most 1")


def _whole(number, least):
    return isinstance(number, int) and not isinstance(number, bool) and number >= least
