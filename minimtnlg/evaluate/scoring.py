"""How likely a text is: the log-probability of a continuation after its context, many at a time.

- A pair takes one pass: the model reads context and continuation but for the last token, and logits
  are made of those positions alone that predict the continuation.
- Attention is causal, so padding to the right changes nothing. Pairs are sorted by length, so that
  there is little of it.
- What the model would read for one pair is often the beginning of what it reads for another: "yes"
  and "no" after one passage, or the same pair again. Then one pass serves both.
- A pipeline is kept full: several micro-batches at a time, all of one shape. Replicas share out the
  pairs. Every rank of the model's mesh calls `scores` with the same pairs and gets all results.
"""

import math
from typing import NamedTuple

import torch

from minimtnlg.device import device
from minimtnlg.errors import InputError
from minimtnlg.parallel.collectives import all_reduce, broadcast, rank, size
from minimtnlg.parallel.pipeline import carry_out
from minimtnlg.parallel.schedules import named
from minimtnlg.parallel.tensor import cross_entropy

FULL = 4  # micro-batches a stage in the pipeline at once: 4 p of them use it to 81 % [S3, S16]


class Score(NamedTuple):
    """Of a continuation: log P(continuation | context) in nats; its number of tokens; whether each
    of them is the most likely one; how many tokens of the context did not fit and were left out.
    """

    logprob: float
    tokens: int
    greedy: bool
    cut: int = 0


@torch.no_grad()
def scores(model, pairs, *, eod=None, vocab=None, batch=4096, progress=None):
    """[Score] of each (context, continuation) in `pairs`, two lists of ids, in their order.

    model     a GPT, of any layout but sequence parallel
    eod       the token that ends a document: what stands before a continuation without a context
    vocab     rows of the embedding from here on are padding and have no probability; None: none is
    batch     tokens of a micro-batch, padding included; one row may have more
    progress  called after each pass with the number of pairs that this replica has scored in it

    The model reads at most model.config.seq tokens, so the continuation's last one is number
    seq + 1 at the latest: of a longer pair the context is cut from the left. InputError for a
    continuation that does not fit by itself or has no token, named by its number in `pairs`.
    """
    if model.sequence_parallel:
        raise InputError("scoring is not done with parallel.sequence_parallel: leave it out")
    read, cut = _read(pairs, model.config.seq, eod)
    rows, row_of = _shared(read)
    served = [[] for _ in rows]  # the numbers of the pairs that a row is read for
    for i, row in enumerate(row_of):
        served[row].append(i)
    mesh, judged = model.mesh, []
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]), reverse=True)
    for group in _groups(order[rank(mesh.dp) :: size(mesh.dp)], rows, batch, model):
        micro_batches = []
        for chosen in group:
            tokens = torch.zeros(len(group[0]), len(rows[group[0][0]]), dtype=torch.long)
            wanted = []  # (position in the flat [s b], label, pair)
            for column, row in enumerate(chosen):
                tokens[column, : len(rows[row])] = torch.tensor(rows[row])
                for i in served[row]:
                    first = len(read[i]) - len(pairs[i][1])  # its output predicts the first label
                    for position, label in enumerate(pairs[i][1], first):
                        wanted.append((position * len(tokens) + column, label, i))
            at = torch.tensor(wanted, dtype=torch.long).view(-1, 3).T
            micro_batches.append((tokens.to(device()), *at.to(device())))
        judged += _pass(model, micro_batches, vocab)
        if progress:
            progress(sum(len(served[row]) for chosen in group for row in chosen))
    logprob, unlikely = _everyones(mesh, judged, len(pairs)).tolist()
    for i, value in enumerate(logprob):
        if math.isnan(value):
            raise InputError(f"pair {i} has no log-probability: the model computes no number (NaN)")
    return [
        Score(logprob[i], len(pairs[i][1]), unlikely[i] == 0, cut[i]) for i in range(len(pairs))
    ]


def encoded(tokenizer, texts):
    """[(ids of the context, ids of the continuation)] of (context, continuation) texts.

    Each is encoded by itself; white space at a context's end goes to the continuation, since a
    token has its space in front.
    """
    moved = []
    for context, continuation in texts:
        bare = context.rstrip()
        moved.append((bare, context[len(bare) :] + continuation))
    distinct = list({text: None for pair in moved for text in pair})
    ids = dict(zip(distinct, tokenizer.encode_batch(distinct), strict=True))
    return [(ids[context], ids[continuation]) for context, continuation in moved]


def of_texts(model, tokenizer, **how):
    """Function of a list of (context, continuation) texts: the log-probability of each, in nats.

    how: batch and progress of `scores`. A question of which the beginning does not fit is another
    question, so an InputError refuses contexts that are too long.
    """

    def logprobs(texts):
        pairs = encoded(tokenizer, texts)
        found = scores(model, pairs, eod=tokenizer.eod, vocab=tokenizer.size, **how)
        most = max((score.cut for score in found), default=0)
        if most:
            raise InputError(
                f"a text is {most} tokens longer than the {model.config.seq} that the model reads: "
                "take fewer shots, or a model of more positions"
            )
        return [score.logprob for score in found]

    return logprobs


NORMS = {  # what of an option is compared with the other options' [S3; S19]
    "sum": lambda score, option, alone: score.logprob,
    "token": lambda score, option, alone: score.logprob / score.tokens,
    "character": lambda score, option, alone: score.logprob / max(1, len(option)),
    "answer": lambda score, option, alone: score.logprob - alone.logprob,
}


def preferred(norm, found, options, alone=None):
    """The number of the option that is most likely by `norm`, a key of NORMS; the first of equals.

    found    the Scores of the options in their context
    options  their texts, without the space before them
    alone    for "answer": their Scores after "Answer:" and nothing else, so that what is likely
             anyway has no advantage: P(option | context) / P(option | "Answer:")
    """
    rows = zip(found, options, alone or [None] * len(options), strict=True)
    values = [NORMS[norm](*row) for row in rows]
    return values.index(max(values))


def _read(pairs, seq, eod):
    """(what the model reads for each pair, how many tokens of its context were left out)."""
    read, cut = [], []
    for i, (context, continuation) in enumerate(pairs):
        if not continuation:
            raise InputError(f"pair {i} has an empty continuation: there is nothing to score")
        if not context and eod is None:
            raise InputError(f"pair {i} has an empty context: give eod, the token to start from")
        if len(continuation) > seq:
            raise InputError(
                f"pair {i} has a continuation of {len(continuation)} tokens, the model has {seq} "
                "positions: shorten it, or take a model of more"
            )
        tokens = [*(context or [eod]), *continuation[:-1]]
        cut.append(max(0, len(tokens) - seq))
        read.append(tokens[cut[-1] :])
    return read, cut


def _shared(inputs):
    """(the different inputs that begin no other one; for each input the number of one it begins).

    Sorted as words in a dictionary, from back to front: what begins others comes right after them.
    """
    rows, row_of = [], [0] * len(inputs)
    for i in sorted(range(len(inputs)), key=inputs.__getitem__, reverse=True):
        if not rows or rows[-1][: len(inputs[i])] != inputs[i]:
            rows.append(inputs[i])
        row_of[i] = len(rows) - 1
    return rows, row_of


def _groups(order, rows, batch, model):
    """Cut `order`, numbers of rows from long to short, into groups of micro-batches.

    A group goes through the pipeline at once; where there is none it is one micro-batch. All of a
    group have the shape of its first one, so the last may have rows that nobody asked for.
    """
    pp = model.mesh.layout.pp
    at_once = FULL * pp if pp > 1 else 1
    while order:
        height = max(1, batch // len(rows[order[0]]))
        height = min(height, -(-len(order) // at_once))
        mine, order = order[: height * at_once], order[height * at_once :]
        group = [mine[i : i + height] for i in range(0, len(mine), height)]
        if model.virtual > 1:
            group += [[]] * (-len(group) % pp)  # the interleaved schedule takes multiples of p
        yield group


def _pass(model, micro_batches, vocab):
    """One forward-only schedule; what this rank learns of labels: [(pair, log P, not likeliest)].

    micro_batches: [(tokens [b, s], at, labels, pair)] of one shape: `at` are places in the
    flattened [s b] whose outputs predict `labels`.
    """
    b, s = micro_batches[0][0].shape
    mesh, found = model.mesh, []

    def forward(k, chunk, x):
        tokens, at, labels, pair = micro_batches[k]
        y = model(tokens if model.begins(chunk) else x, chunk=chunk, rows=at)
        if model.ends(chunk):
            found.append(torch.stack([pair.double(), *_judge(y, labels, vocab, mesh.tp)]))
        return y

    name = "interleaved" if model.virtual > 1 else "1f1b"
    schedule = named(name, mesh.layout.pp, len(micro_batches), model.virtual, forward_only=True)
    dtype = next(model.parameters()).dtype
    carry_out(schedule, mesh, forward, shape=(s, b, model.config.hidden), dtype=dtype)
    return found


def _judge(logits, labels, vocab, group):
    """(log P of each label, 1 where another token is likelier), both float64 [n].

    logits: [n, V/t], this rank's columns. Of equally likely tokens the first one counts, as in
    greedy generation.
    """
    columns = logits.shape[-1]
    before = rank(group) * columns
    if vocab is not None:
        logits[:, max(0, vocab - before) :] = -torch.inf
    largest, first = logits.max(-1)
    everywhere = all_reduce(largest.clone(), group, "max")
    first = torch.where(largest == everywhere, first + before, size(group) * columns)
    first = -all_reduce(-first, group, "max")
    return -cross_entropy(logits, labels, group).double(), (first != labels).double()


def _everyones(mesh, judged, count):
    """Sums over the labels of each pair, float64 [2, count]: log P, and how many are unlikely.

    judged: what the last stage of each replica has found; the same comes out on every rank.
    """
    total = torch.zeros(2, count, dtype=torch.float64)
    if judged:
        pair, *values = torch.cat(judged, 1).cpu()
        total.index_add_(1, pair.long(), torch.stack(values))
    total = all_reduce(total.to(device()), mesh.dp)
    return broadcast(total, size(mesh.pp) - 1, mesh.pp)
