"""The recipe of a corpus: one section for each step of the curation that can be adjusted.

The defaults are MT-NLG's [S3, sec. 3] where the paper says a number; "nc" marks one that no primary
source confirms. A YAML file holds the same sections, "section.key=value" overrides a value.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from minimtnlg.errors import InputError
from minimtnlg.sections import (
    Count,
    Number,
    Positive,
    Whole,
    built,
    overridden,
    parsed,
    require,
    section,
)

FUNCTIONS = 4096  # of MinHash: their table takes 270 MB in each process
WORDS = 100  # in an n-gram: nothing as long is found by chance
Part = Annotated[float, Number, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


@section
class Extract:
    """From HTML to text."""

    engine: Literal["justext", "resiliparse"] = "justext"  # the paper's, or the faster one


@section
class Language:
    """Which language is kept."""

    keep: Annotated[str, Field(pattern="^[a-z]{2,3}$")] = "en"  # letters of ISO 639 [S3]
    confidence: Part = 0.5  # least confidence of the classifier [S3: 0.99 of langdetect, nc]


@section
class Repair:
    """Damaged characters, and documents too short to be worth anything."""

    shortest: Whole = 512  # characters [S3]
    shortest_javascript: Whole = 256  # characters where the text says javascript [S3]


@section
class Quality:
    """The classifier that tells edited prose from raw pages."""

    judge: bool = True  # false: every page goes on
    good: tuple[str, ...] = ()  # sources to learn from; none: those marked good in `data sources`
    raw: tuple[str, ...] = ()  # sources that are judged; none: those that hold HTML pages
    documents: Count = 20_000  # of each class, at most, for training [S3: 800 000, nc]
    alpha: Positive = 3.0  # of the Pareto rule [S3]
    held_out: Part = 0.1  # of the training documents, to measure the accuracy [S3]
    seed: Whole = 1

    def __post_init__(self):
        both = sorted(set(self.good) & set(self.raw))
        require(not both, f"quality.good and quality.raw both name {', '.join(both)}: take one out")


@section
class Dedup:
    """Near-duplicates: MinHash, buckets, Jaccard, connected components."""

    bands: Count = 20  # [S3]
    rows: Count = 13  # hashes in a band [S3]
    jaccard: Part = 0.8  # above it, two documents of a bucket are duplicates [S3]
    rounds: Count = 10  # documents of a bucket that are compared with the others [S3, nc]
    shingle: Count = 5  # length of a shingle [S10: 5 characters; S3 doesn't say]

    def __post_init__(self):
        require(
            self.bands * self.rows <= FUNCTIONS,
            f"dedup.bands={self.bands} of dedup.rows={self.rows} take {self.bands * self.rows} "
            f"hash functions, of which {FUNCTIONS} fit in memory: lower one of them",
        )


@section
class Decontaminate:
    """What the evaluation will ask must not stand in the text."""

    tasks: tuple[str, ...] = ("boolq", "piqa")  # names in `data sources`, or files of JSON lines
    longest: Count = 13  # words in an n-gram [S10]
    shortest: Count = 8  # words of a text that is taken whole [S10]
    common: Count = 10  # an n-gram seen more often is an expression, not a leak [S10]
    margin: Whole = 200  # characters removed on each side [S3]
    shortest_piece: Whole = 200  # characters [S3]
    splits: Whole = 10  # a document cut more often is dropped [S3]

    def __post_init__(self):
        require(
            self.longest <= WORDS,
            f"decontaminate.longest={self.longest} is above {WORDS} words: lower it",
        )
        require(
            self.shortest <= self.longest,
            f"decontaminate.shortest={self.shortest} is above decontaminate.longest="
            f"{self.longest}: lower it",
        )


@section
class Index:
    """Order, vocabulary and weights of what training reads."""

    seed: Whole = 1  # of the order of documents
    vocab: int | str = 2048  # size to train, or "gpt2" for GPT-2's own
    weights: dict[str, Positive] = Field(default_factory=dict)  # by source; empty: by its tokens

    def __post_init__(self):
        known = self.vocab == "gpt2" or (isinstance(self.vocab, int) and self.vocab > 0)
        require(known, f"index.vocab={self.vocab!r}: expected a size to train, or gpt2")


@section
class Recipe:
    """All of them."""

    extract: Extract = Field(default_factory=Extract)
    language: Language = Field(default_factory=Language)
    repair: Repair = Field(default_factory=Repair)
    quality: Quality = Field(default_factory=Quality)
    dedup: Dedup = Field(default_factory=Dedup)
    decontaminate: Decontaminate = Field(default_factory=Decontaminate)
    index: Index = Field(default_factory=Index)


SECTIONS = list(Recipe.__dataclass_fields__)


def load(path=None, overrides=()):
    """The Recipe of a YAML file, or the default one, with "section.key=value" overrides.

    InputError for a missing or malformed file, an unknown key, or a value that can't be.
    """
    values = {}
    if path:
        try:
            values = parsed(Path(path).read_text(), path, SECTIONS)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"can't read the recipe {path}: {error}") from None
    return built(Recipe, overridden(values, overrides, SECTIONS))
