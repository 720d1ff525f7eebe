"""Our corpora through Megatron-Core's own reader: its data sets on our .bin and .idx files."""


import torch
import torch.distributed as dist
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

from minimtnlg.data.batches import SURPLUS, split_documents
from minimtnlg.errors import InputError
from minimtnlg.train import ramps
from minimtnlg.train.mini import valid_samples
from minimtnlg.train.start import together


class _Tokenizer:
    """What Megatron's data sets ask of a tokenizer."""

    def __init__(self, corpus):
        self.eod, self.pad = corpus.eod, -1  # nothing is padded
        self.vocab_size = corpus.padded
        self.unique_identifiers = {"sha256": corpus.manifest["tokenizer"]["sha256"]}


class _Samples:
    """A data set of Megatron's with ours as its face: self[i] is int64 [seq + 1]."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, i):
        sample = self.dataset[i]
        return torch.cat([sample["tokens"], sample["labels"][-1:]]).numpy()


def read(config, corpus):
    """(train, valid) by Megatron's BlendedMegatronDatasetBuilder, on our .bin and .idx files.

    Its indices are kept in the corpus's folder, under `megatron`; rank 0 makes them, all others
    read them there. InputError where they can't, and for a source with no document in a part that
    is drawn: ours leaves it out there, Megatron would look for one forever.
    """
    cache = corpus.folder / "megatron"
    _refuse_unwritable(cache)
    weights = corpus.weights(config.data.weights)
    prefixes = [str(corpus.folder / name) for name in weights]
    shares = list(weights.values())
    for name in weights:
        parts = split_documents(len(corpus.readers[name]), config.data.split)
        if empty := [part for part in ("train", "valid") if not parts[part]]:
            raise InputError(
                f"--engine megatron: data.split={list(config.data.split)} leaves no document of "
                f"{name} for {empty[0]}: give it a larger share, or leave the source out of "
                "data.weights"
            )
    dataset = GPTDatasetConfig(
        random_seed=config.train.seed,
        sequence_length=config.model.seq,
        blend=(prefixes, None if len(prefixes) == 1 else shares),
        split=",".join(str(share) for share in config.data.split),
        path_to_cache=str(cache),
        tokenizer=_Tokenizer(corpus),
        create_attention_mask=False,
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        mid_level_dataset_surplus=SURPLUS,
    )
    sizes = [ramps.total_samples(config.train, config.model.seq), valid_samples(config.train), 0]
    train, valid, _ = BlendedMegatronDatasetBuilder(
        GPTDataset, sizes, lambda: True, dataset
    ).build()
    return _Samples(train), _Samples(valid)


def _refuse_unwritable(cache):
    """InputError, on every rank, unless rank 0 can write into `cache` and all see that."""
    mark = cache / "written-by-rank-0"
    with together():
        if dist.get_rank() == 0:
            try:
                cache.mkdir(exist_ok=True)
                mark.touch()
            except OSError as error:
                raise InputError(
                    f"--engine megatron keeps its indices beside the data: {error}"
                ) from None
    with together():
        if not mark.exists():
            raise InputError(
                f"--engine megatron: rank 0 writes its indices into {cache}, where this node sees "
                "nothing of them: keep the corpus in a folder that all nodes share"
            )
