"""HANS: sentences in which words overlap and meanings differ; and what shots do about it.

HANS [S60] asks whether a premise entails a hypothesis. All words of the hypothesis are in the
premise, so whoever answers by one of three heuristics always says True, and is right in half of
the cases. These three are of the other half:

    lexical overlap   The nurse was warned by the pilot.      The nurse warned the pilot.
    subsequence       The nurse beside the pilot slept.       The pilot slept.
    constituent       Perhaps the nurse slept.                The nurse slept.

- Thirty subcases, five for each heuristic and label, of our own words and templates (hans.toml): as
  many examples as are asked for, none twice, of each subcase the same number.
- The analysis of MT-NLG's paper [S3, sec. 6]: accuracy against the number of shots, against their
  labels and order and whether they are of the same subcase; the probability of "True" and "False"
  together; what is won when the threshold between the two is moved.
"""

import tomllib
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np

from minimtnlg.errors import InputError
from minimtnlg.evaluate.tasks import hans, pairs_of

_FILE = tomllib.loads(Path(__file__).with_name("hans.toml").read_text(encoding="utf-8"))
WORDS, SUBCASES = _FILE["words"], _FILE["subcases"]
FIGURE_5 = _FILE["figure_5"]
HEURISTICS = {"l": "lexical_overlap", "s": "subsequence", "c": "constituent"}
LABELS = ("any", "balanced", "sorted", "positive", "negative")
SOURCES = ("any", "same", "other")
MISSES = 1000  # draws in a row without anything new, after which a subcase is used up


class Example(NamedTuple):
    """One question."""

    premise: str
    hypothesis: str
    label: bool  # whether the premise entails the hypothesis; the right answer is str(label)
    heuristic: str  # "lexical_overlap", "subsequence" or "constituent"
    subcase: str  # a key of SUBCASES

    @property
    def record(self):
        """The same in the fields of HANS on the hub, where 0 is entailment."""
        return self._asdict() | {"label": int(not self.label)}


def examples(n_per_subcase, seed=1):
    """`n_per_subcase` Examples of each of the 30 subcases, none twice; the same for the same seed.

    Any 30 in a row, counted from the front, hold one of each subcase, in random order: so the first
    30 k of them are balanced as well. InputError if a subcase has fewer different sentences.
    """
    found = {subcase: _different(subcase, n_per_subcase, seed) for subcase in SUBCASES}
    order, draw, rows = list(SUBCASES), Random(f"order {seed}"), []
    for i in range(n_per_subcase):
        draw.shuffle(order)
        rows += [found[subcase][i] for subcase in order]
    return rows


def _different(subcase, n, seed):
    """`n` Examples of a subcase."""
    draw, rows, missed = Random(f"{subcase} {seed}"), {}, 0  # a dict keeps the order
    while len(rows) < n and missed < MISSES:
        row = _example(subcase, draw)
        missed = missed + 1 if row in rows else 0
        rows[row] = True
    if len(rows) < n:
        raise InputError(
            f"{n} examples of each subcase are asked for, {subcase} has only about {len(rows)}"
        )
    return list(rows)


def _example(subcase, draw):
    words = {}
    for slot, person in zip("abc", draw.sample(WORDS["person"], 3), strict=True):
        many = draw.random() < 0.5
        words[slot] = _Word(person + "s" * many, was="were" if many else "was", plural=person + "s")
    for slot, known in WORDS.items():
        if slot != "person":
            words[slot], words[f"{slot}2"] = draw.sample(known, 2)
    verb, thing = words["ate"]
    words["ate"] = _Word(verb, object=thing)
    sentences = (template.format_map(words) for template in draw.choice(SUBCASES[subcase]))
    premise, hypothesis = (text[0].upper() + text[1:] for text in sentences)
    return Example(premise, hypothesis, subcase[1] == "e", HEURISTICS[subcase[0]], subcase)


class _Word(str):
    """A word that brings along what has to agree with it, as in "the {a} {a.was}"."""

    def __new__(cls, text, **others):
        word = super().__new__(cls, text)
        vars(word).update(others)
        return word


def pairs(example, shots=()):
    """[(context, " True"), (context, " False")] behind solved shots, as tasks.py asks of HANS."""
    (item,), solved = hans(example.record), [hans(shot.record)[0] for shot in shots]
    return pairs_of("hans", item, solved)


def draw_shots(example, pool, count, labels="any", source="any", seed=1):
    """`count` Examples out of `pool`, a list of different ones, to show before `example`.

    The example itself is never among them.

    labels  "any": as they come; "balanced": half of them True, in random order; "sorted": the same,
            the True ones first; "positive" or "negative": of one label alone
    source  "any": of any subcase; "other": none of the example's own; "same": those that have the
            example's label are of its own subcase, the others of any

    A subcase has one label. Were all shots of the example's own, they would give the answer away;
    hence the rule for "same". The odd one of a balanced draw has a random label. InputError if the
    pool has too few.
    """
    for name, value, known in (("labels", labels, LABELS), ("source", source, SOURCES)):
        if value not in known:
            raise InputError(f"{name}={value!r}: it is one of {', '.join(known)}")
    draw = Random(f"{seed} {example.premise} {example.hypothesis}")
    if labels in ("balanced", "sorted"):
        wanted = [True, False] * (count // 2) + [draw.random() < 0.5] * (count % 2)
    else:
        wanted = [{"positive": True, "negative": False}.get(labels, "any")] * count
    shots = []
    for shot in draw.sample(pool, len(pool)) if count else ():
        label = "any" if labels == "any" else shot.label
        if label in wanted and _fits(shot, example, source):
            wanted.remove(label)
            shots.append(shot)
    if wanted:
        raise InputError(
            f"{count} shots, labels={labels!r}, source={source!r}, before an example of "
            f"{example.subcase}: only {len(shots)} of the {len(pool)} in the pool will do"
        )
    draw.shuffle(shots)
    return sorted(shots, key=lambda x: not x.label) if labels == "sorted" else shots


def _fits(shot, example, source):
    if shot[:2] == example[:2]:
        return False
    if source == "other":
        return shot.subcase != example.subcase
    return source == "any" or shot.label != example.label or shot.subcase == example.subcase


class Answers(NamedTuple):
    """What a model says to some Examples; arrays of one number for each."""

    examples: list
    true: np.ndarray  # log-probability of " True" after the prompt, nats
    false: np.ndarray  # the same of " False"

    @property
    def odds(self):
        """log P(True) - log P(False); from zero on the answer is True."""
        return self.true - self.false

    @property
    def mass(self):
        """P(True) + P(False), averaged over the examples: 1 where nothing else is thought of."""
        return float(np.mean(np.exp(self.true) + np.exp(self.false)))

    def correct(self, threshold=0.0):
        """Which answers are right (bool), if True is said where the odds reach `threshold`."""
        return (self.odds >= threshold) == np.array([x.label for x in self.examples])

    def accuracy(self, threshold=0.0):
        """(share of right answers, its standard error)."""
        right = self.correct(threshold)
        share = float(right.mean())
        return share, (share * (1 - share) / max(len(right) - 1, 1)) ** 0.5

    def shifted(self):
        """`accuracy` with the threshold at the mean of the odds [S3, sec. 6].

        No label is used. What a model prefers whatever it is asked goes, what tells the examples
        apart stays. It supposes that half of the answers are True, as here they are.
        """
        return self.accuracy(float(self.odds.mean()))

    def by(self, field):
        """{value: Answers} of the examples apart by a field, such as "subcase"."""
        values = [getattr(x, field) for x in self.examples]
        parts = {}
        for value in dict.fromkeys(values):
            at = np.array([v == value for v in values])
            chosen = [x for x, there in zip(self.examples, at, strict=True) if there]
            parts[value] = Answers(chosen, self.true[at], self.false[at])
        return parts


def ask(logprobs, items, pool=(), count=0, **how):
    """Answers to the Examples `items` after `count` shots, drawn for each from `pool`.

    logprobs  function of a list of (context, continuation), texts, that returns the log-probability
              of each continuation in nats, such as scoring.of_texts(model, tokenizer)
    how       labels, source and seed of `draw_shots`
    """
    asked = [pair for x in items for pair in pairs(x, draw_shots(x, pool, count, **how))]
    found = np.asarray(logprobs(asked), dtype=float).reshape(-1, 2)
    return Answers(list(items), found[:, 0], found[:, 1])


CONDITIONS = {  # what the paper varies [S3, sec. 6]; "same subcase" is an addition
    "as they come": dict(),
    "balanced, shuffled": dict(labels="balanced"),
    "balanced, True first": dict(labels="sorted"),
    "only False": dict(labels="negative"),
    "same subcase": dict(labels="balanced", source="same"),
    "other subcases": dict(labels="balanced", source="other"),
}


def analyse(logprobs, items, pool, counts=(0, 1, 2, 4), conditions=CONDITIONS, seed=1):
    """{condition: {count: Answers}}: the same `items` after shots of every kind.

    Without shots all conditions are alike, so the model is asked once.
    """
    bare = ask(logprobs, items) if 0 in counts else None
    return {
        name: {
            count: ask(logprobs, items, pool, count, seed=seed, **how) if count else bare
            for count in counts
        }
        for name, how in conditions.items()
    }
