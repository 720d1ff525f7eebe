"""From a corpus folder to micro-batches: which tokens a sample holds, and which rank reads it.

A source's documents, in an order drawn anew for every epoch, make one endless row of tokens. Sample
i is the s + 1 tokens from position i * s of that row: inputs and the same shifted by one, so that
neighbours share a token. Three arrays say it all, and they are Megatron's bit for bit, given the
same files, seed and number of samples:

    document index   the row: document numbers, epoch after epoch, shuffled
    sample index     where each sample begins: place in the document index, token within it
    shuffle index    the order in which samples are drawn

Positions and attention aren't reset at the start of a document; the end-of-document token is what
the model has to go by.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np
import torch

from minimtnlg.data.blend import blend, normalized
from minimtnlg.data.corpus import Corpus, split_documents, unigram_entropy
from minimtnlg.errors import InputError

__all__ = [
    "Batch", "Blended", "Corpus", "Samples", "draw", "micro_batches", "split_documents",
    "unigram_entropy",
]  # fmt: skip

SURPLUS = 0.005  # Megatron draws so much more of each source than the blend should need


@dataclass(frozen=True)
class Batch:
    """One micro-batch: tokens and labels int64 [b, s]; mask float32 [b, s], 1 where loss counts."""

    tokens: torch.Tensor
    labels: torch.Tensor
    mask: torch.Tensor


class Samples:
    """The samples of one source: `self[i]` is int64 [seq + 1], drawn from `documents` only.

        reader     the source
        documents  range of its documents (sequences of the file), see `split_documents`
        samples    how many are needed; None: as many as one epoch gives. At least so many are drawn
        seq        tokens of a sample, s; one more is read, so that each has its label
        seed       of the order, 0 to 2**32 - 1
        vocab      if given, a token at or beyond it is an InputError when its sample is read

    The last epoch is shuffled by itself when less than 80 % of it is needed; else all epochs are
    shuffled as one. The rule is that of megatron-core's `GPTDataset`.
    """

    def __init__(self, reader, documents, samples, seq, seed, vocab=None):
        self.reader, self.seq, self.vocab = reader, seq, vocab
        documents = np.arange(documents.start, documents.stop, dtype=np.int32)
        epoch = int(reader.lengths[documents].sum(dtype=np.int64))  # tokens
        if epoch == 0:
            raise InputError(f"no token in the documents of {reader.prefix} that were to be drawn")
        needed = 0 if samples is None else samples * seq + 1
        epochs = max(1, -(-needed // epoch))
        total = (epochs * epoch - 1) // seq
        before_last = ((epochs - 1) * epoch - 1) // seq
        last_apart = epochs > 1 and samples - before_last < int(0.80 * ((epoch - 1) // seq))

        draw = np.random.RandomState(seed)  # one generator, in this order: documents, then samples
        self.document_index = _shuffled(documents, epochs, last_apart, draw)
        self.sample_index = _sample_index(reader.lengths, self.document_index, total, seq)
        self.shuffle_index = _shuffle_index(before_last if last_apart else total, total, draw)

    def __len__(self):
        return len(self.shuffle_index)

    def __getitem__(self, i):
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {self.reader.prefix}, of which {len(self)} were drawn")
        begin = self.shuffle_index[i]
        (first, start), (last, end) = self.sample_index[begin : begin + 2].tolist()
        pieces = []
        for place in range(first, last + 1):
            skip = start if place == first else 0
            length = end + 1 - skip if place == last else None
            pieces.append(self.reader.read(self.document_index[place], skip, length))
        text = np.concatenate(pieces).astype(np.int64)
        if self.vocab is not None and not 0 <= text.min() <= text.max() < self.vocab:
            self.reader.check_tokens(self.vocab)
        return text


def _shuffled(documents, epochs, last_apart, draw):
    """int32 [epochs * len(documents)]: the documents of all epochs, shuffled together."""
    if last_apart:
        first = _shuffled(documents, epochs - 1, False, draw)
        return np.concatenate([first, _shuffled(documents, 1, False, draw)])
    index = np.tile(documents, epochs)
    draw.shuffle(index)
    return index


def _sample_index(lengths, document_index, samples, seq):
    """[samples + 1, 2]: place in `document_index`, and token in there, of position i * seq."""
    ends = np.cumsum(lengths[document_index], dtype=np.int64)
    positions = np.arange(samples + 1, dtype=np.int64) * seq
    place = np.searchsorted(ends, positions, side="right")
    token = positions - (ends[place] - lengths[document_index[place]])
    largest = max(len(document_index), int(lengths.max()))
    dtype = np.int32 if largest <= np.iinfo(np.int32).max else np.int64
    return np.stack([place, token], axis=1).astype(dtype)


def _shuffle_index(first, total, draw):
    """[total]: samples 0 to first - 1 in random order, then the others in random order."""
    dtype = np.uint32 if total < np.iinfo(np.uint32).max - 1 else np.int64
    runs = [np.arange(first, dtype=dtype), np.arange(first, total, dtype=dtype)]
    for run in runs:
        draw.shuffle(run)
    return np.concatenate(runs)


class Blended:
    """Samples of several sources in the order of `blend`: `self[i]` is int64 [seq + 1]."""

    def __init__(self, datasets, weights, size):
        self.datasets = datasets
        self.dataset_index, self.dataset_sample_index = blend(weights, size)

    def __len__(self):
        return len(self.dataset_index)

    def __getitem__(self, i):
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of a blend of which {len(self)} were drawn")
        return self.datasets[self.dataset_index[i]][self.dataset_sample_index[i]]


def draw(corpus, part, samples, seq, seed=1, weights=None, split=(98, 2, 0)):
    """At least `samples` samples of one part of a corpus: Samples of one source, or Blended.

        corpus   a Corpus
        part     "train", "valid" or "test": which share of `split`
        samples  how many, over the whole training; it decides the order, so it must not change
        seq      tokens of a sample, s; one more is read, so that each has its label
        weights  {source: positive number}; a source not named is left out. None or {}: each source
                 weighs as many as it has tokens
        split    shares of train, valid and test among each source's documents

    A source too small to have a document in "valid" or "test" is left out of that part. Number for
    number what megatron-core's BlendedMegatronDatasetBuilder draws with the same arguments.
    """
    weights = corpus.weights(weights)
    parts = {name: split_documents(len(corpus.readers[name]), split)[part] for name in weights}
    empty = [name for name in weights if not parts[name]]
    if len(empty) == len(weights) or (empty and part == "train"):
        raise InputError(
            f"{empty[0]} has {len(corpus.readers[empty[0]])} documents, of which split "
            f"{tuple(split)} leaves none for {part!r}; give that part a larger share"
        )

    def of(name, number):
        return Samples(corpus.readers[name], parts[name], number, seq, seed, corpus.vocab)

    names = [name for name in weights if parts[name]]
    if len(names) == 1:
        return of(names[0], samples)
    shares = normalized([weights[name] for name in names])
    targets = [ceil(samples * share) for share in shares.tolist()]
    datasets = [of(name, ceil(n * (1 + SURPLUS))) for name, n in zip(names, targets, strict=True)]
    blended = Blended(datasets, shares, sum(targets))
    used = np.bincount(blended.dataset_index, minlength=len(names)).tolist()
    for i, name in enumerate(names):
        if used[i] > len(datasets[i]):  # few samples of many sources; Megatron stops here
            datasets[i] = of(name, used[i])
    return blended


def micro_batches(dataset, consumed, global_batch, micro_batch, dp=1, rank=0):
    """The micro-batches of data rank `rank` in the step that begins after `consumed` samples.

        returns: an iterator of B / (b d) Batches

    Micro-batch k of rank r holds the samples consumed + (k * dp + r) * b + j for j < b: the global
    batch is the same set of samples at every dp. It is an InputError to ask for a sample beyond
    those that were drawn, or for a global batch that doesn't divide.
    """
    if global_batch % (micro_batch * dp):
        raise InputError(
            f"a global batch of {global_batch} can't be cut into micro-batches of {micro_batch} "
            f"on {dp} data ranks: it must be a multiple of {micro_batch * dp}"
        )
    if consumed + global_batch > len(dataset):
        raise InputError(
            f"samples {consumed} to {consumed + global_batch - 1} were asked for, but "
            f"{len(dataset)} were drawn; draw as many as the whole training needs"
        )

    def batch(begin):
        text = torch.from_numpy(np.stack([dataset[begin + j] for j in range(micro_batch)]))
        tokens, labels = text[:, :-1].contiguous(), text[:, 1:].contiguous()
        return Batch(tokens, labels, torch.ones(tokens.shape))

    for k in range(global_batch // (micro_batch * dp)):
        yield batch(consumed + (k * dp + rank) * micro_batch)
