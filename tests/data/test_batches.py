"""Samples and batches are Megatron's, number for number, and the same at every dp."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtnlg.data.batches import Samples, draw, micro_batches
from minimtnlg.data.corpus import PARTS, split_documents
from minimtnlg.errors import InputError


@pytest.fixture(scope="module")
def corpus(build, tokens):
    return build({"a": tokens(1, 40), "b": tokens(2, 300), "c": tokens(3, 90)})


class Tokenizer:
    """What GPTDatasetConfig asks of a tokenizer."""

    eod, pad, vocab_size, unique_identifiers = 0, -1, 500, {"class": "Tokenizer"}


def megatrons(corpus, names, weights, samples, seq, seed, split):
    """The three splits that megatron-core draws from files of `corpus`."""
    pytest.importorskip("megatron.core")
    from megatron.core.datasets.blended_megatron_dataset_builder import (
        BlendedMegatronDatasetBuilder,
    )
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

    config = GPTDatasetConfig(
        random_seed=seed,
        sequence_length=seq,
        blend=([str(corpus.folder / name) for name in names], weights),
        split=",".join(map(str, split)),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
        tokenizer=Tokenizer(),
        path_to_cache=None,
    )
    return BlendedMegatronDatasetBuilder(GPTDataset, samples, lambda: True, config).build()


def assert_same_samples(ours, theirs):
    np.testing.assert_array_equal(ours.document_index, theirs.document_index)
    np.testing.assert_array_equal(ours.sample_index, theirs.sample_index)
    np.testing.assert_array_equal(ours.shuffle_index, theirs.shuffle_index)
    assert ours.document_index.dtype == theirs.document_index.dtype
    assert ours.sample_index.dtype == theirs.sample_index.dtype
    assert ours.shuffle_index.dtype == theirs.shuffle_index.dtype


def assert_same_texts(ours, theirs):
    assert len(ours) == len(theirs)
    for i in range(len(ours)):
        np.testing.assert_array_equal(ours[i][:-1], theirs[i]["tokens"].numpy())
        np.testing.assert_array_equal(ours[i][1:], theirs[i]["labels"].numpy())


# Source "a" has 1 091 tokens for training: 68 samples of 16 an epoch, of which 80 % are 54.
@pytest.mark.parametrize(
    "seq, samples, seed",
    [
        (16, 5, 1),  # within one epoch
        (16, 80, 1),  # little of the second: shuffled apart
        (16, 130, 1),  # most of the second: shuffled together
        (16, 121, 4),  # 53 of the second, the last that is shuffled apart
        (16, 122, 4),
        (16, 1000, 1234),  # many epochs
        (2000, 3, 7),  # a sample longer than the source
        (1, 300, 7),
    ],
)
def test_one_source_equals_megatron(corpus, seq, samples, seed):
    split = (90, 8, 2)
    theirs = megatrons(corpus, ["a"], None, [samples, 2, 1], seq, seed, split)
    for part, number, expected in zip(PARTS, (samples, 2, 1), theirs, strict=True):
        ours = draw(corpus, part, number, seq, seed, {"a": 1}, split)
        assert_same_samples(ours, expected)
        assert_same_texts(ours, expected)
        assert len(ours) >= number


@settings(max_examples=25, deadline=None)
@given(
    samples=st.integers(1, 400),
    seq=st.integers(2, 50),
    seed=st.integers(0, 2**31),
    epoch_parts=st.integers(1, 300),
)
def test_indices_equal_megatrons_rule(corpus, samples, seq, seed, epoch_parts):
    pytest.importorskip("megatron.core")
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
    from megatron.core.datasets.indexed_dataset import IndexedDataset
    from megatron.core.datasets.utils import Split

    config = GPTDatasetConfig(
        random_seed=seed, sequence_length=seq, blend=None, reset_position_ids=False,
        reset_attention_mask=False, eod_mask_loss=False, tokenizer=Tokenizer(),
    )  # fmt: skip
    documents = np.arange(epoch_parts, dtype=np.int32)
    file = IndexedDataset(str(corpus.folder / "b"))
    theirs = GPTDataset(file, None, documents, samples, Split.train, config)
    ours = Samples(corpus.readers["b"], range(epoch_parts), samples, seq, seed)
    assert_same_samples(ours, theirs)


@pytest.mark.parametrize(
    "weights, samples",
    [((0.3, 0.6, 0.1), 500), ((1.0, 1.0, 1.0), 10), ((5.0, 1.0, 30.0), 2000)],
)
def test_blend_equals_megatron(corpus, weights, samples):
    split, names = (90, 8, 2), ["a", "b", "c"]
    sizes = [samples, 20, 3]
    theirs = megatrons(corpus, names, list(weights), sizes, 16, 5, split)
    for part, number, expected in zip(PARTS, sizes, theirs, strict=True):
        ours = draw(corpus, part, number, 16, 5, dict(zip(names, weights, strict=True)), split)
        np.testing.assert_array_equal(ours.dataset_index, expected.dataset_index)
        np.testing.assert_array_equal(ours.dataset_sample_index, expected.dataset_sample_index)
        assert_same_texts(ours, expected)


def test_default_weights_are_token_counts_and_order_of_naming_is_ignored(corpus):
    by_default = draw(corpus, "train", 200, 16)
    given = draw(corpus, "train", 200, 16, weights=dict(reversed(corpus.tokens.items())))
    assert [by_default[i].tolist() for i in range(200)] == [given[i].tolist() for i in range(200)]
    drawn = np.bincount(by_default.dataset_index) / len(by_default)
    share = np.array(list(corpus.tokens.values())) / sum(corpus.tokens.values())
    np.testing.assert_allclose(drawn, share, atol=0.01)


def test_an_epoch_holds_every_token_once_in_packed_documents(corpus):
    reader, seq = corpus.readers["c"], 16
    samples = Samples(reader, range(len(reader)), None, seq, seed=3)
    order = np.argsort(samples.shuffle_index)
    row = np.concatenate([samples[i][:-1] for i in order])
    expected = np.concatenate([reader[i] for i in samples.document_index])
    np.testing.assert_array_equal(row, expected[: len(row)])
    assert 0 <= len(expected) - 1 - len(row) < seq
    for this, following in itertools.pairwise(order):
        assert samples[this][-1] == samples[following][0]  # neighbours share a token


def test_splits_do_not_overlap(corpus):
    drawn = [draw(corpus, part, 50, 16, weights={"b": 1}, split=(80, 15, 5)) for part in PARTS]
    seen = [set(samples.document_index.tolist()) for samples in drawn]
    assert sum(map(len, seen)) == 300
    assert set.union(*seen) == set(range(300))


@given(st.integers(0, 10_000), st.tuples(*[st.integers(0, 99)] * 3).filter(any))
def test_split_covers_all_documents_in_order(documents, split):
    parts = split_documents(documents, split)
    assert sum(map(list, parts.values()), []) == list(range(documents))


def test_split_of_the_presets():
    assert split_documents(106, (98, 2, 0)) == {
        "train": range(104), "valid": range(104, 106), "test": range(106, 106)
    }  # fmt: skip


@pytest.mark.parametrize("dp, micro", [(1, 1), (1, 12), (2, 3), (4, 3), (3, 2), (12, 1)])
def test_global_batch_is_the_same_set_at_every_layout(corpus, dp, micro):
    dataset = draw(corpus, "train", 100, 16)
    expected = np.stack([dataset[i] for i in range(30, 42)])
    got = np.zeros_like(expected)
    for rank in range(dp):
        batches = list(micro_batches(dataset, 30, 12, micro, dp, rank))
        assert len(batches) == 12 // (dp * micro)
        for k, batch in enumerate(batches):
            assert batch.tokens.shape == batch.labels.shape == batch.mask.shape == (micro, 16)
            assert batch.mask.eq(1).all()
            for j in range(micro):
                sample = (k * dp + rank) * micro + j
                got[sample, :-1] = batch.tokens[j]
                got[sample, 1:] = batch.labels[j]
    np.testing.assert_array_equal(got, expected)


def test_batches_that_cannot_be(corpus):
    dataset = draw(corpus, "train", 20, 16, weights={"a": 1})
    with pytest.raises(InputError, match="12 .* micro-batches of 4 on 2 data .* multiple of 8"):
        next(micro_batches(dataset, 0, 12, 4, dp=2))
    end = len(dataset)
    with pytest.raises(InputError, match=f"samples {end - 3} to {end} .* were drawn"):
        next(micro_batches(dataset, end - 3, 4, 1))
    assert len(list(micro_batches(dataset, end - 4, 4, 1))) == 4
    for samples in (dataset, draw(corpus, "train", 20, 16)):
        for i in (-1, len(samples)):
            with pytest.raises(IndexError, match="were drawn"):
                samples[i]


def test_token_beyond_the_vocabulary_is_found_when_it_is_read(build):
    corpus = build({"a": [[1, 2, 3]] * 9 + [[4, 499]]})
    corpus.vocab = 499
    samples = draw(corpus, "train", 30, 2, split=(1, 0, 0))
    with pytest.raises(InputError, match=r"token 499 at position 28 of .*a\.bin"):
        [samples[i] for i in range(30)]


def test_source_too_small_for_a_part(build, tokens):
    corpus = build({"large": tokens(1, 100), "small": tokens(2, 3)})
    assert isinstance(draw(corpus, "valid", 5, 16), Samples)  # of "large" alone
    with pytest.raises(InputError, match="small has 3 documents, .* leaves none for 'valid'"):
        draw(corpus, "valid", 5, 16, weights={"small": 1})
    with pytest.raises(InputError, match="leaves none for 'test'"):
        draw(corpus, "test", 5, 16)
    with pytest.raises(InputError, match="large has 100 documents, .* leaves none for 'train'"):
        draw(corpus, "train", 5, 16, split=(0, 1, 0))


def test_many_sources_and_few_samples(build, tokens):
    corpus = build({f"s{i}": tokens(i, 4) for i in range(20)})
    weights = {f"s{i}": 1 + i for i in range(20)}
    dataset = draw(corpus, "train", 7, 16, weights=weights, split=(1, 0, 0))
    assert all(len(dataset[i]) == 17 for i in range(len(dataset)))
