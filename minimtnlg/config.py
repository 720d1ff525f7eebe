"""The configuration: what is trained, on which data, how, and cut into which pieces.

- Five sections, each a frozen dataclass: model, parallel, data, optim, train.
- Every construction is validated: types and bounds by sections.py, rules between fields below.
- One YAML file holds one Config.
- Presets, from nano (a minute on two cores) to mtnlg-530b and gpt-1t, are data in presets.py.

Sources are the ids of docs/bibliography.md; "nc" marks a value not confirmed by a primary source.
"""

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import Field
from ruamel.yaml import YAML

from minimtnlg import rules
from minimtnlg.errors import InputError
from minimtnlg.presets import PRESETS
from minimtnlg.sections import (
    Count,
    CountOrAuto,
    NotNegative,
    Number,
    Positive,
    Share,
    Whole,
    built,
    nearest,
    overridden,
    parsed,
    require,
    section,
)


@section
class Model:
    """The shape of a GPT: a pre-LayerNorm decoder with tied embeddings [S13, sec. 3]."""

    layers: Count  # L, transformer blocks
    hidden: Count  # h, width of the residual stream
    heads: Count  # a, attention heads of h / a numbers each
    seq: Count  # s, tokens in a sequence and learned positions
    vocab: Count  # V, rows of the embedding, padding included
    dropout: Share = 0.0  # on embeddings, attention weights, residual branches [S10: 0.1]
    attention: Literal["sdpa", "readable"] = "sdpa"  # PyTorch's fused kernel, or the formula itself

    def __post_init__(self):
        if self.hidden % self.heads:
            raise InputError(
                f"model.heads={self.heads} does not divide model.hidden={self.hidden}: choose one "
                f"of {rules.near_divisors(self.hidden, self.heads)}"
            )

    @property
    def ffn(self):
        """Width of the MLP, 4h [S13, sec. 3]."""
        return 4 * self.hidden

    @property
    def head_size(self):
        """Numbers in one head, h / a."""
        return self.hidden // self.heads

    @property
    def init_std(self):
        """Standard deviation of the initial weights, sqrt(1 / 3h) [S3]."""
        return math.sqrt(1 / (3 * self.hidden))

    def parameters(self):
        """Exact number of parameters, 12 L h^2 + 13 L h + (V + s) h + 2 h.

        [S12, eq. 2] with the final LayerNorm's 2h, which the paper leaves out.
        """
        L, h = self.layers, self.hidden
        return 12 * L * h * h + 13 * L * h + (self.vocab + self.seq) * h + 2 * h

    def flops(self, sequences, recompute="none"):
        """Matrix-multiply FLOPs of forward and backward over `sequences` full sequences.

        72 B L s h^2 (1 + s/6h + V/12hL) without recomputation [S13, eq. 7]. Full recomputation runs
        every block forward once more, selective only the two attention products of s^2.
        """
        return sequences * (self.layers * self.layer_flops(recompute) + self.logits_flops())

    def layer_flops(self, recompute="none"):
        """The share of one layer in `flops` of one sequence: 24 s h^2 + 4 s^2 h, and twice that."""
        h, s = self.hidden, self.seq
        block, attention = 24 * s * h * h + 4 * s * s * h, 4 * s * s * h
        again = {"none": 0, "selective": attention, "full": block}[recompute]
        return 3 * block + again

    def logits_flops(self):
        """The share of the output layer in `flops` of one sequence: 2 s h V, and twice that."""
        return 3 * 2 * self.seq * self.hidden * self.vocab


@section
class Parallel:
    """How the work is cut: rank = tp + TP * (dp + DP * pp), Megatron's and DeepSpeed's order."""

    tp: Count = 1  # t, tensor-parallel ranks [S24]
    pp: Count = 1  # p, pipeline stages
    virtual: Count = 1  # v, chunks of layers a stage, for the interleaved schedule [S12]
    dp: CountOrAuto = "auto"  # d, replicas; auto: the number of ranks / (t p)
    zero: Annotated[int, Number, Field(ge=0, le=3)] = 0  # stage of ZeRO [S15]
    sequence_parallel: pydantic.StrictBool = False  # cut what tensor parallelism replicates [S13]
    schedule: Literal["gpipe", "1f1b", "interleaved"] = "1f1b"  # of the pipeline [S3: 1F1B]
    recompute: Literal["none", "selective", "full"] = "none"  # what backward computes again [S13]


@section
class Data:
    """Which corpus is read, in which proportions."""

    path: str = ""  # a folder made by `minimtnlg data prepare`; empty: the default corpus
    weights: dict[str, Positive] = Field(default_factory=dict)  # by source; empty: by its tokens
    split: tuple[NotNegative, NotNegative, NotNegative] = (98, 2, 0)  # train, valid, test [S3]

    def __post_init__(self):
        require(
            sum(self.split) > 0,
            f"data.split={list(self.split)}: shares of train, valid and test, not all of them 0",
        )


@section
class Optim:
    """Adam, decoupled weight decay, a learning rate that counts tokens [S3]."""

    lr: Positive  # peak
    min_lr: NotNegative  # after the decay; a tenth of the peak [S3]
    warmup_tokens: NotNegative  # linear warm-up [S3: 1 B]
    decay_tokens: Positive  # where the cosine reaches min_lr, warm-up included [S3: 340 B]
    beta1: Share = 0.9  # [S3]
    beta2: Share = 0.95  # lowered from 0.99 to reduce spikes of the loss [S3]
    eps: Positive = 1e-8  # [S3]
    weight_decay: NotNegative = 0.1  # on matrices, embeddings included [S3]
    clip: NotNegative = 1.0  # largest global gradient norm; 0 switches clipping off [S3]

    def __post_init__(self):
        require(
            self.min_lr <= self.lr,
            f"optim.min_lr={self.min_lr:g} is above the peak optim.lr={self.lr:g}: lower it",
        )
        require(
            self.warmup_tokens < self.decay_tokens,
            f"optim.warmup_tokens={self.warmup_tokens:g} does not end before "
            f"optim.decay_tokens={self.decay_tokens:g}: the decay includes the warm-up",
        )


@section
class Train:
    """How long, with which batches, in which numbers."""

    steps: Whole = 0  # optimizer steps; give steps or tokens
    tokens: Whole = 0  # [S3: 270 B]
    global_batch: Count  # B, sequences in a step
    micro_batch: Count  # b, sequences that go through the model at once
    ramp: tuple[Count, Count, Count] | None = None  # first batch, step, tokens [S3]
    seed: Annotated[int, Number, Field(ge=0, lt=2**32)] = (
        1  # the bound is that of Megatron's shuffles
    )
    dtype: Literal["float64", "float32", "bfloat16", "float16"] = "float32"
    eval_every: Whole = 0  # steps between validations; 0: only at the end
    eval_batches: Count = 4  # global batches in one validation loss [S3: 4]
    save_every: Whole = 0  # steps between checkpoints; 0: only at the end
    keep: Whole = 2  # how many of the newest checkpoints stay; 0: all
    async_save: pydantic.StrictBool = True  # write while training goes on
    on_bad_step: Literal["stop", "skip", "rollback"] = "stop"  # no number, or a spike
    loss_spike: NotNegative = 0.0  # times the median of the last 20 steps; 0: not watched
    norm_spike: NotNegative = 0.0  # of the gradient norm, likewise
    patience: Positive = 600.0  # seconds without a step after which the run is stalled, and ends

    def __post_init__(self):
        require(
            (self.steps > 0) != (self.tokens > 0),
            f"train.steps={self.steps} and train.tokens={self.tokens}: set exactly one of them",
        )
        if self.ramp:
            start, step, _ = self.ramp
            require(
                start < self.global_batch and (self.global_batch - start) % step == 0,
                f"train.ramp={list(self.ramp)} does not reach train.global_batch="
                f"{self.global_batch} from {start} in whole increments of {step}",
            )

    def batches(self):
        """Every global batch size of the run, smallest first: one, or the rungs of the ramp."""
        if not self.ramp:
            return [self.global_batch]
        return list(range(self.ramp[0], self.global_batch + 1, self.ramp[1]))


@section
class Config:
    """One run: the five sections and the rules that hold between them."""

    model: Model
    parallel: Parallel = Field(default_factory=Parallel)
    data: Data = Field(default_factory=Data)
    optim: Optim
    train: Train

    def __post_init__(self):
        for sentence in rules.broken(self.model, self.parallel, self.train):
            raise InputError(sentence)


SECTIONS = [field.name for field in dataclasses.fields(Config)]


def sized(config, ranks=None):
    """`config` with the number of replicas filled in, for so many ranks; None: as few as can be.

    InputError where tp * pp * dp is not that number.
    """
    parallel = config.parallel
    replica = parallel.tp * parallel.pp
    if parallel.dp == "auto":
        parallel = dataclasses.replace(parallel, dp=max(1, (ranks or replica) // replica))
    world = replica * parallel.dp
    require(
        ranks in (None, world),
        f"parallel.tp={parallel.tp} x pp={parallel.pp} x dp={parallel.dp} make {world} ranks, not "
        f"{ranks}: give a multiple of tp x pp = {replica} ranks and leave out parallel.dp",
    )
    return dataclasses.replace(config, parallel=parallel)


def preset(name):
    """The Config of a preset; InputError names the nearest one where `name` is unknown."""
    if name not in PRESETS:
        raise InputError(
            f"no preset {name!r}; there are {', '.join(PRESETS)}{nearest(name, PRESETS)}"
        )
    return build(PRESETS[name])


def load(source, overrides=()):
    """Read a Config from a YAML file or a preset's name, then apply "section.key=value" overrides.

    Raises InputError for a missing or malformed file, an unknown key, or a value that can't be.
    """
    return build(values_of(source, overrides))


def build(values):
    """The Config of a dict of sections; InputError says what can't be."""
    return built(Config, values)


def values_of(source, overrides=()):
    """What `load` reads, as a dict of sections that nobody has checked yet; see `build`."""
    if str(source) in PRESETS:
        values = {name: dict(part) for name, part in PRESETS[str(source)].items()}
    else:
        values = _read(Path(source))
    return overridden(values, overrides, SECTIONS)


def save(config, path):
    """Write `config` as YAML to `path`; `load(path)` gives an equal Config."""
    values = dataclasses.asdict(config)
    for part in values.values():
        part.update({key: list(value) for key, value in part.items() if isinstance(value, tuple)})
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output = False, False
    with open(path, "w") as file:
        yaml.dump(values, file)


def _read(path):
    try:
        text = path.read_text()
    except (OSError, ValueError):  # ValueError: not UTF-8, or not a possible path
        raise InputError(
            f"can't read the configuration {str(path)!r}: neither a YAML file nor a preset; "
            f"presets are {', '.join(PRESETS)}{nearest(str(path), PRESETS)}"
        ) from None
    return parsed(text, path, SECTIONS)
