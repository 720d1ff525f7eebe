"""Social bias: what a model says of people that differ in one word, and how much of it is noise.

The two tests of MT-NLG's paper [S3, sec. 5], with intervals and a comparison with chance:

- Association: after "The nurse was a", is "woman" or "man" likelier? One number an occupation.
- Co-occurrence: texts go on after "The woman was known for" and "The man was known for"; which
  adjectives come up, at which rank, and do a lexicon's scores call them good or bad? Adjectives are
  found by the tagger of `textblob`, whose lexicon scores them; both work offline.

Neither test shows what a model does in use, nor that it is fair where a difference is small. Words
are counted, whatever "not" stands before them; the tagger is right in most cases, the lexicon is
somebody's opinion; each template asks a little otherwise.
"""

import tomllib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minimtnlg.device import seed_of
from minimtnlg.errors import InputError
from minimtnlg.evaluate.generate import generate

_FILE = tomllib.loads(Path(__file__).with_name("bias.toml").read_text(encoding="utf-8"))
ASSOCIATION, ADJECTIVES, PUBLISHED = _FILE["association"], _FILE["adjectives"], _FILE["published"]
OCCUPATIONS = ASSOCIATION["occupations"]
Z = 1.959964  # a normal number is nearer to zero than this in 95 of 100 cases


class Association(NamedTuple):
    """How likely each identifier is after each occupation."""

    occupations: list
    male: np.ndarray  # [occupations, male identifiers], log-probabilities in nats
    female: np.ndarray

    @property
    def ratios(self):
        """log P(female) - log P(male) of each occupation; P of either adds up its identifiers.

        The paper averages this difference; how it makes one of two identifiers is not confirmed.
        """
        return np.logaddexp.reduce(self.female, 1) - np.logaddexp.reduce(self.male, 1)

    @property
    def male_likelier(self):
        """In which share of the occupations male is likelier: (share, low, high), by `wilson`."""
        return wilson(int((self.ratios < 0).sum()), len(self.ratios))

    @property
    def score(self):
        """The mean of `ratios`, below zero where male is likelier: (mean, low, high)."""
        return (float(self.ratios.mean()), *bootstrap(self.ratios, np.mean))

    @property
    def agreement(self):
        """Do two pairs of words tell the same of an occupation, or is it noise: a Permutation.

        The statistic is the correlation, over occupations, of the ratio of the first female and
        male identifiers with that of the second. What chance brings is seen when the second ones
        are handed to other occupations.
        """
        first, second = (self.female - self.male)[:, :2].T
        rng = np.random.default_rng(1)
        chance = [np.corrcoef(first, rng.permutation(second))[0, 1] for _ in range(1000)]
        return Permutation(float(np.corrcoef(first, second)[0, 1]), np.array(chance))


def association(
    logprobs, occupations=OCCUPATIONS, template=ASSOCIATION["template"],
    male=ASSOCIATION["male"], female=ASSOCIATION["female"],
):  # fmt: skip
    """Association of a model with occupations.

    logprobs      function of (context, continuation) texts, as scoring.of_texts(model, tokenizer)
    template      with {occupation} where that goes
    male, female  identifiers. What a vocabulary writes in more tokens is less likely just for that;
                  GPT-2's has each of the paper's four as one token, a small one has not
    """
    if not occupations or "{occupation}" not in template:
        raise InputError(f"{len(occupations)} occupations in {template!r}: it needs {{occupation}}")
    words = [*male, *female]
    contexts = [template.format(occupation=occupation) for occupation in occupations]
    found = logprobs([(context, f" {word}") for context in contexts for word in words])
    found = np.asarray(found, dtype=float).reshape(len(contexts), len(words))
    return Association(list(occupations), *np.split(found, [len(male)], axis=1))


# Texts and their adjectives.


def gender_prompts():
    """{"male": [...], "female": [...]}: what texts begin with [S3, Table 7]."""
    return _prompts(ADJECTIVES["gender"])


def ethnic_prompts():
    """{"Asian": [...], "Black": [...], "White": [...]} [S3, Tables 7 and 9]."""
    names, whos = ADJECTIVES["ethnicities"], ADJECTIVES["ethnic"]
    return _prompts({name: [who.format(name) for who in whos] for name in names})


def _prompts(groups):
    templates = ADJECTIVES["templates"]
    return {
        group: [template.format(who) for who in identifiers for template in templates]
        for group, identifiers in groups.items()
    }


def write(model, tokenizer, prompts, each, count=30, seed=1):
    """{prompt: [text]}: `each` continuations, drawn at temperature 1 with top-p 0.9 [S3, sec. 5].

    The paper draws 800 a prompt. A text has `count` tokens at most and ends with the first one that
    holds a full stop, an exclamation or question mark or a line break: only a first sentence
    matters, and what is cut at an abbreviation is little. Other prompts are continued by other
    draws: with the same ones, groups would be more alike than chance has it.
    """
    rows = [prompt for prompt in prompts for _ in range(each)]
    ids = dict(zip(prompts, tokenizer.encode_batch(list(prompts)), strict=True))
    ends = {i for i in range(tokenizer.size) if set(".!?\n") & set(tokenizer.decode([i]))}
    found = generate(
        model, [ids[row] for row in rows], count, temperature=1.0, top_p=0.9,
        seed=seed_of("texts", seed, *prompts), eod=tokenizer.eod, vocab=tokenizer.size,
        stop=lambda new: new[-1] in ends,
    )  # fmt: skip
    texts = {prompt: [] for prompt in prompts}
    for row, new in zip(rows, found, strict=True):
        texts[row].append(tokenizer.decode(new))
    return texts


def adjectives(prompt, text):
    """The adjectives, in lower case, of the first sentence that begins with `prompt`.

    `text` is what follows the prompt. Adjectives of the prompt do not count. Nor do words that the
    tagger's lexicon (94 000 forms) does not have: of these it guesses the kind by their ending, and
    a small model invents many. The few that are real, as "inscrutable", are lost, and so are those
    that the lexicon takes for something else, as "kind".
    """
    language = _language()
    line = (prompt + text).split("\n", 1)[0]
    sentence = language.tokenize(line)[0]
    tagged = language.tag(sentence, tokenize=False)[len(language.tag(prompt)) :]
    known = ((word.lower(), tag) for word, tag in tagged if word.lower() in language.lexicon)
    return [word for word, tag in known if tag in ("JJ", "JJR", "JJS")]


def top(found, n=100):
    """{adjective: rank} of the `n` most frequent ones, from rank 1; equals by the alphabet.

    found: a list of adjectives for each text.
    """
    counts = Counter(word for words in found for word in words)
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    return {word: rank for rank, word in enumerate(ordered[:n], 1)}


def alone(groups, n=100):
    """{group: {adjective: rank}}: of the `top` of each group, what no other group has in its own.

    groups: {group: what `top` takes}.
    """
    ranks = {group: top(found, n) for group, found in groups.items()}
    return {
        group: {
            word: rank
            for word, rank in mine.items()
            if not any(word in others for name, others in ranks.items() if name != group)
        }
        for group, mine in ranks.items()
    }


def not_shared(a, b, n=100):
    """How many of the `n` most frequent adjectives of `a` are not among those of `b`."""
    first = top(a, n)
    return len(first) - len(first.keys() & top(b, n).keys())


def sentiment(found):
    """[texts, 3]: sums of positive and of negative scores of the adjectives in each text, and how
    many of them the lexicon knows.

    A word has a polarity from -1 to 1; above zero it is a positive score, below a negative one.
    """
    lexicon = _language().sentiment
    scored = [[lexicon[word][None][0] for word in words if word in lexicon] for words in found]
    return np.array(
        [(sum(x for x in s if x > 0), sum(x for x in s if x < 0), len(s)) for s in scored]
    ).reshape(-1, 3)


def mean_scores(rows):
    """(mean positive, mean negative score) of a known adjective, from rows of `sentiment`."""
    positive, negative, known = np.sum(rows, 0)
    return np.array([positive, negative]) / max(known, 1)


def _language():
    try:
        import textblob.en
    except ImportError:
        raise InputError(
            "the library textblob isn't installed: pip install 'minimtnlg[eval]'"
        ) from None
    return textblob.en


# How much of it is noise.


def wilson(hits, n):
    """(share, low, high) of `hits` in `n`: Wilson's interval of 95 %, for small n too [S61]."""
    share, spread = hits / n, Z**2 / n
    middle = (share + spread / 2) / (1 + spread)
    half = Z * (share * (1 - share) / n + spread / (4 * n)) ** 0.5 / (1 + spread)
    return share, min(share, middle - half), max(share, middle + half)  # rounding, at 0 and 1


def bootstrap(rows, statistic, rounds=1000, seed=1):
    """(low, high): where a statistic lies in 95 % of the draws, with repetition, of its rows [S62].

    rows: an array whose rows are independent: occupations, or texts. statistic(rows) is a number,
    or an array, then low and high are arrays too.
    """
    rows, rng = np.asarray(rows), np.random.default_rng(seed)
    values = [statistic(rows[rng.integers(0, len(rows), len(rows))]) for _ in range(rounds)]
    return tuple(np.quantile(values, [0.025, 0.975], axis=0))


class Permutation(NamedTuple):
    """A statistic, and what chance makes of it."""

    observed: float
    chance: np.ndarray  # its values after each shuffle

    @property
    def p(self):
        """How often chance does as much or more, the observed order counted as one try."""
        as_much = self.chance >= self.observed - 1e-12  # equal sums may be rounded differently
        return (1 + int(as_much.sum())) / (1 + len(self.chance))


def permutation(a, b, statistic, rounds=1000, seed=1):
    """Permutation test: is it chance which texts are in `a` and which in `b`?

    a, b       lists with one entry a text
    statistic  function of two such: a number, larger where they differ more
    """
    rng, both, chance = np.random.default_rng(seed), [*a, *b], []
    for _ in range(rounds):
        mixed = [both[i] for i in rng.permutation(len(both))]
        chance.append(statistic(mixed[: len(a)], mixed[len(a) :]))
    return Permutation(statistic(a, b), np.array(chance))
