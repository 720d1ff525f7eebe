"""Our corpora through Megatron-Core's own reader: its data sets on our .bin and .idx files."""


import torch
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

from minimtnlg.data.batches import SURPLUS
from minimtnlg.errors import InputError
from minimtnlg.train import ramps
from minimtnlg.train.mini import valid_samples


class _Tokenizer:
    """What Megatron's data sets ask of a tokenizer."""

    def __init__(self, corpus):
        self.eod = self.pad = corpus.eod
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
    read them there. InputError where they can't be written.
    """
    cache = corpus.folder / "megatron"
    try:
        cache.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"--engine megatron keeps its indices beside the data: {error}") from None
    weights = corpus.weights(config.data.weights)
    prefixes = [str(corpus.folder / name) for name in weights]
    shares = list(weights.values())
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
