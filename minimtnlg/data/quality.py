"""Which pages read like edited prose? A classifier's answer, and a rule that leaves some to chance.

- The classifier learns good documents from raw ones by their words and pairs of words, as MT-NLG's
  fastText of 2-grams did [S3, sec. 3.1.2]. It is scikit-learn's: hashed counts and a logistic
  regression. fastText is archived, and on several threads it never learns the same twice.
- A document of score p is kept if a number drawn from a Pareto distribution of alpha 3 is above
  1 - p [S3; S20]. So a good one always stays, and one of score 0 in 1 of 8 cases.
"""

import dataclasses
import functools
from zipfile import BadZipFile

import numpy as np

from minimtnlg.data.records import draw, key
from minimtnlg.data.shards import Outcome
from minimtnlg.errors import InputError
from minimtnlg.files import appearing, read_once

FEATURES = 2**20  # [S3, of the hashes of deduplication; nc]


class Classifier:
    """A linear rule over hashed words and pairs of words.

        weights, bias  float64 [FEATURES] that float32 can hold, and a number
        facts          numbers for a report: documents, accuracy and its standard error, confusion
    """

    def __init__(self, weights, bias, facts):
        self.weights = weights.astype(np.float32).astype(np.float64)
        self.bias, self.facts = bias, facts

    def score(self, texts):
        """The probability that a text is a good one, for each of some: float64 [texts]."""
        found = _counts()(texts) @ self.weights + self.bias
        return 1 / (1 + np.exp(-found))

    def save(self, path):
        """Write it as .npz, in which nothing can be executed."""
        facts = {"names": list(self.facts), "numbers": list(map(float, self.facts.values()))}
        with appearing(path) as aside, open(aside, "wb") as f:
            weights = self.weights.astype(np.float32)
            np.savez_compressed(f, weights=weights, bias=self.bias, **facts)

    @classmethod
    def load(cls, path):
        """Read what `save` wrote; InputError if it isn't that."""
        try:
            with np.load(path) as parts:
                facts = dict(zip(parts["names"].tolist(), parts["numbers"].tolist(), strict=True))
                return cls(parts["weights"], float(parts["bias"]), facts)
        except (OSError, EOFError, KeyError, ValueError, BadZipFile) as error:
            raise InputError(f"{path} isn't a classifier: {error}") from None


def train(good, raw, seed=1, held_out=0.1):
    """The Classifier that learns `good` texts from `raw` ones, as many of each.

    A share of both is held out, to measure how often it is right. Which texts those are, and which
    are left out of the larger class, is drawn about each: their order doesn't matter.
    """
    _, LogisticRegression = _sklearn()
    texts, tested = drawn(good, raw, seed, held_out)
    count = len(texts[0])
    if count - tested < 2 or (held_out and not tested):
        raise InputError(
            f"the classifier has {len(set(good))} good and {len(set(raw))} raw documents to "
            "learn from, too few: name more sources in quality.good and quality.raw"
        )
    learned = [text for one in texts for text in one[tested:]]
    label = np.repeat([1, 0], count - tested)
    model = LogisticRegression(C=10.0, max_iter=200).fit(_counts()(learned), label)
    facts = {"documents": 2 * count, "held out": 2 * tested}
    made = Classifier(model.coef_[0], float(model.intercept_[0]), facts)
    if tested:
        right = made.score(texts[0][:tested]) > 0.5, made.score(texts[1][:tested]) <= 0.5
        accuracy = float(np.mean(right))
        facts["accuracy"] = accuracy
        facts["standard error"] = (accuracy * (1 - accuracy) / (2 * tested)) ** 0.5
        facts["good taken for raw"] = int(np.sum(~right[0]))
        facts["raw taken for good"] = int(np.sum(~right[1]))
    return made


def drawn(good, raw, seed, held_out):
    """([good texts, raw texts], how many of each are held out): as many of both, each text once.

    The first ones are held out; their order is drawn about each.
    """
    ordered = [sorted(set(texts), key=lambda t: draw(key(t), str(seed))) for texts in (good, raw)]
    count = min(map(len, ordered))
    return [one[:count] for one in ordered], round(held_out * count)


def good_enough(document, classifier, alpha=3.0, raw=None):
    """Keep a Document by the Pareto rule. The score is kept in its meta, as "quality".

        classifier  path of a saved Classifier
        raw         the sources that are judged, others pass; None: all are
    """
    if raw is not None and document.source not in raw:
        return Outcome((document,))
    score = float(_loaded(classifier).score([document.text])[0])
    tenth = f"{min(9, int(score * 10)) / 10}"
    if pareto(draw(document.key, "pareto"), alpha) <= 1 - score:
        return Outcome(reason="low quality", counts=(f"score {tenth}",))
    document = dataclasses.replace(document, meta=document.meta | {"quality": round(score, 4)})
    return Outcome((document,), counts=(f"score {tenth}", f"kept score {tenth}"))


def pareto(u, alpha):
    """The number of a Pareto (Lomax) distribution that belongs to u in [0, 1), as in numpy."""
    return (1 - u) ** (-1 / alpha) - 1


def kept_share(score, alpha=3.0):
    """The probability that a document of this score is kept: (2 - score)^-alpha."""
    return (2 - np.asarray(score, dtype=np.float64)) ** -alpha


@functools.cache
def _counts():
    """The function of a list of texts that gives their hashed words and pairs, a sparse matrix.

    Each row has the length 1, so that long documents are not judged by their length.
    """
    HashingVectorizer, _ = _sklearn()
    options = {"n_features": FEATURES, "ngram_range": (1, 2), "alternate_sign": False}
    return HashingVectorizer(**options).transform


_loaded = read_once(Classifier.load)  # for each document of a shard, in each process


@functools.cache
def _sklearn():
    try:
        from sklearn.feature_extraction.text import HashingVectorizer
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise InputError(
            "pages are judged with scikit-learn, which isn't installed: "
            "pip install 'minimtnlg[data]'"
        ) from None
    return HashingVectorizer, LogisticRegression
