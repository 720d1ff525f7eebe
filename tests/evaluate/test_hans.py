"""HANS: sentences that a parser understands, and the analysis against models planted by hand."""

import math
from collections import Counter
from random import Random

import numpy as np
import pytest
from hans_grammar import clauses, facts, parses, tokens
from hypothesis import given, settings
from hypothesis import strategies as st
from textblob.en.inflect import pluralize

from minimtnlg.data.tokenizer import Tokenizer
from minimtnlg.errors import InputError
from minimtnlg.evaluate.hans import (
    CONDITIONS,
    FIGURE_5,
    SUBCASES,
    WORDS,
    Answers,
    analyse,
    ask,
    draw_shots,
    examples,
    pairs,
)
from minimtnlg.evaluate.measure import PUBLISHED, accuracy
from minimtnlg.evaluate.scoring import Score, of_texts
from minimtnlg.evaluate.tasks import items_of
from minimtnlg.train.checkpoint import load_run

ITEMS, POOL = examples(20, seed=1), examples(12, seed=2)
BY_TEXT = {pairs(x)[0][0]: x for x in ITEMS + POOL}


def inside(part, whole):
    return any(whole[i : i + len(part)] == part for i in range(len(whole)))


@settings(max_examples=8)
@given(st.integers(0, 10**9))
def test_a_parser_finds_the_same_label_and_the_same_heuristic(seed):
    for x in examples(2, seed):
        premise, hypothesis = tokens(x.premise), tokens(x.hypothesis)
        assert not Counter(hypothesis) - Counter(premise), x
        for tree in parses(x.premise):
            for meant in parses(x.hypothesis):
                assert (facts(meant) <= facts(tree)) == x.label, x
            narrowest = "subsequence" if inside(hypothesis, premise) else "lexical_overlap"
            if hypothesis in clauses(tree):
                narrowest = "constituent"
            assert narrowest == x.heuristic, x


def test_the_parser_would_notice_a_wrong_form():
    for wrong in (
        "The nurses was warned by the pilot.",
        "The nurse were warned by the pilot.",
        "The nurse slept the pilot.",
        "Nurse slept.",
        "The nurse that slept.",
    ):
        with pytest.raises(AssertionError):
            parses(wrong)
    (tree,) = parses("The nurses were warned by the pilot.")
    assert facts(tree) == {("pilot", "warned", "nurses")}


def test_words_are_spelled_and_inflected():
    for person in WORDS["person"]:
        assert pluralize(person) == person + "s"
    for kind in ("praised", "slept", "helped"):
        assert all(word.endswith("ed") or word in ("slept", "taught") for word in WORDS[kind])
    for kind in WORDS.values():
        assert len({str(word) for word in kind}) == len(kind)


@settings(max_examples=10)
@given(st.integers(1, 6), st.integers(0, 10**9))
def test_every_front_is_balanced(n, seed):
    rows = examples(n, seed)
    assert len(rows) == 30 * n == len({x[:2] for x in rows})
    for k in range(1, n + 1):
        front = rows[: 30 * k]
        assert set(Counter(x.subcase for x in front).values()) == {k}
        assert Counter((x.heuristic, x.label) for x in front) == {
            (heuristic, label): 5 * k
            for heuristic in ("lexical_overlap", "subsequence", "constituent")
            for label in (True, False)
        }
    assert len(SUBCASES) == 30 and examples(n, seed) == rows
    assert examples(n, seed + 1) != rows


def test_hans_own_size_is_there_and_more_than_there_is_is_refused():
    assert len({x[:2] for x in examples(1000)}) == 30_000
    with pytest.raises(InputError, match=r"se_understood_object has only about 124\d"):
        examples(1300)


def test_the_question_is_that_of_the_task():
    x, shot = ITEMS[0], next(x for x in POOL if x.subcase == "cn_adverb")
    asked = f"{x.premise}\nQuestion: {x.hypothesis} True or False?\nAnswer:"
    assert pairs(x) == [(asked, " True"), (asked, " False")]
    solved = f"{shot.premise}\nQuestion: {shot.hypothesis} True or False?\nAnswer: False"
    assert pairs(x, [shot])[0] == (f"{solved}\n\n{asked}", " True")
    for item, x in zip(items_of("hans", [("", x.record) for x in ITEMS]), ITEMS, strict=True):
        assert item.options[item.gold] == str(x.label)


# Shots.


@settings(max_examples=60)
@given(
    st.sampled_from(ITEMS + POOL),
    st.integers(0, 8),
    st.sampled_from(["any", "balanced", "sorted", "positive", "negative"]),
    st.sampled_from(["any", "same", "other"]),
    st.integers(0, 1000),
)
def test_shots_are_what_they_are_asked_to_be(example, count, labels, source, seed):
    shots = draw_shots(example, POOL, count, labels, source, seed)
    assert len(shots) == len(set(shots)) == count and example not in shots
    assert set(shots) <= set(POOL)
    true = sum(x.label for x in shots)
    if labels in ("balanced", "sorted"):
        assert true in (count // 2, -(-count // 2))
    if labels == "sorted":
        assert [x.label for x in shots] == [True] * true + [False] * (count - true)
    if labels in ("positive", "negative"):
        assert true == (count if labels == "positive" else 0)
    of_its_own = [x.subcase == example.subcase for x in shots]
    if source == "other":
        assert not any(of_its_own)
    if source == "same":
        assert all(x.subcase == example.subcase for x in shots if x.label == example.label)
    assert draw_shots(example, POOL, count, labels, source, seed) == shots


def test_the_order_of_balanced_shots_is_random():
    orders = Counter(
        "".join(str(x.label)[0] for x in draw_shots(ITEMS[0], POOL, 4, "balanced", seed=s))
        for s in range(1200)
    )
    assert len(orders) == 6 and all(155 < n < 245 for n in orders.values())  # 200 each, +-13


def test_a_pool_that_is_too_small_or_a_wrong_word_is_told():
    with pytest.raises(InputError, match="labels='mixed': it is one of any, balanced"):
        draw_shots(ITEMS[0], POOL, 2, labels="mixed")
    with pytest.raises(InputError, match="source='none': it is one of any, same, other"):
        draw_shots(ITEMS[0], POOL, 2, source="none")
    one = next(x for x in ITEMS if x.label)
    with pytest.raises(InputError, match=f"{one.subcase}: only 12 of the 360 in the pool"):
        draw_shots(one, POOL, 13, labels="positive", source="same")


# Models that are planted: functions of the text, as `ask` calls them.


def planted(odds, mass=0.8):
    """A model that answers True with these log-odds, given shots and example."""

    def logprobs(pairs):
        found = []
        for text, answer in pairs:
            *shots, asked = text.split("\n\n")
            told = [(BY_TEXT[t[: t.rindex(" ")]], t.endswith("True")) for t in shots]
            assert all(shot.label == label for shot, label in told)
            x = odds([shot for shot, _ in told], BY_TEXT[asked])
            true = 1 / (1 + math.exp(-x))
            found.append(math.log(mass * (true if answer == " True" else 1 - true)))
        return found

    return logprobs


def noise(example, spread=1.0):
    return Random(example.premise + example.hypothesis).gauss(0, spread)


def test_an_oracle_is_always_right():
    answers = ask(planted(lambda shots, x: 3 if x.label else -3), ITEMS)
    assert answers.accuracy() == (1, 0) == answers.shifted()
    assert math.isclose(answers.mass, 0.8)
    assert np.allclose(np.abs(answers.odds), 3)


def test_who_always_says_true_is_right_in_half_and_no_shift_helps():
    answers = ask(planted(lambda shots, x: 2), ITEMS)
    assert answers.accuracy()[0] == 0.5 == answers.shifted()[0]
    assert math.isclose(answers.accuracy()[1], 0.5 / (len(ITEMS) - 1) ** 0.5)


def test_undecided_it_says_the_first_of_its_words_as_an_evaluation_does():
    """What `minimtnlg evaluate --tasks hans` makes of the same scores, error included."""
    some = [*[x for x in ITEMS if x.label][:3], *[x for x in ITEMS if not x.label][:1]]
    answers = ask(planted(lambda shots, x: 0), some)
    items = items_of("hans", [("", x.record) for x in some])
    rows = zip(answers.true, answers.false, strict=True)
    found = [([Score(t, 1, False), Score(f, 1, False)], None) for t, f in rows]
    told = accuracy("hans", items, found)
    assert answers.accuracy() == (told["accuracy"], told["standard_error"]) == (0.75, 0.25)


def test_each_heuristic_is_right_where_the_theory_says():
    def overlap(shots, x):
        return 1 if set(tokens(x.hypothesis)) <= set(tokens(x.premise)) else -1

    def subsequence(shots, x):
        return 1 if inside(tokens(x.hypothesis), tokens(x.premise)) else -1

    for subcase, part in ask(planted(overlap), ITEMS).by("subcase").items():
        assert part.accuracy()[0] == (subcase[1] == "e")
        assert len(part.examples) == 20
    for subcase, part in ask(planted(subsequence), ITEMS).by("subcase").items():
        assert part.accuracy()[0] == ((subcase[1] == "e") != (subcase[0] == "l"))
    for part in ask(planted(overlap), ITEMS).by("heuristic").values():
        assert part.accuracy()[0] == 0.5


def test_a_shift_repairs_who_is_biased_and_does_nothing_for_the_blind():
    informed = ask(planted(lambda shots, x: 6 + (1 if x.label else -1) + noise(x)), ITEMS)
    assert informed.accuracy()[0] == 0.5  # it always says True
    share, error = informed.shifted()
    assert abs(share - 0.8413) < 4 * error  # that of two normal curves two sigmas apart
    blind = ask(planted(lambda shots, x: 6 + noise(x)), ITEMS)
    share, error = blind.shifted()
    assert blind.accuracy()[0] == 0.5 and abs(share - 0.5) < 3 * error


def test_conditions_tell_models_apart_that_use_their_shots_differently():
    def counts_labels(shots, x):
        return sum(1 if shot.label else -1 for shot in shots)

    def last_label(shots, x):
        return 1 if shots and shots[-1].label else -1

    def remembers(shots, x):
        same = [shot.label for shot in shots if shot.subcase == x.subcase]
        return 1 if same == [] or same[0] else -1

    found = analyse(planted(last_label), ITEMS, POOL, counts=(0, 2))
    assert list(found) == list(CONDITIONS)
    first = found["balanced, True first"][2]
    assert (first.odds < 0).all() and first.accuracy()[0] == 0.5
    assert 0.4 < (found["balanced, shuffled"][2].odds > 0).mean() < 0.6
    only = ask(planted(counts_labels), ITEMS, POOL, 2, labels="negative")
    assert np.allclose(only.odds, -2)
    assert only.shifted()[0] == 0.5  # all alike: nothing to shift

    found = analyse(planted(remembers), ITEMS, POOL, counts=(0, 2))
    assert found["same subcase"][2].accuracy()[0] == 1
    assert found["other subcases"][2].accuracy()[0] == 0.5
    assert all(by_count[0].accuracy()[0] == 0.5 for by_count in found.values())


def test_a_real_model_answers_and_refuses_more_shots_than_it_can_read(random_run):
    run = random_run(seq=160)
    _, model = load_run(run)
    logprobs = of_texts(model, Tokenizer.load(run / "tokenizer.json"))
    answers = ask(logprobs, ITEMS[:6])
    assert (answers.true < 0).all() and (answers.false < 0).all() and 0 < answers.mass < 1
    swapped = ask(logprobs, ITEMS[5::-1])
    assert np.allclose(swapped.odds[::-1], answers.odds)
    with pytest.raises(InputError, match="longer than the 160 .* take fewer shots"):
        ask(logprobs, ITEMS[:6], POOL, 4)


def test_parts_keep_their_numbers():
    true, false = np.log(np.linspace(0.1, 0.6, 60)), np.log(np.full(60, 0.3))
    answers = Answers(ITEMS[:60], true, false)
    parts = answers.by("label")
    assert math.isclose(answers.mass, 0.65)
    for label, part in parts.items():
        chosen = [i for i, x in enumerate(ITEMS[:60]) if x.label == label]
        assert np.array_equal(part.true, true[chosen]) and len(part.false) == len(chosen) == 30


def test_published_curves_begin_and_end_at_the_published_table():
    assert FIGURE_5["shots"] == [0, 1, 2, 4, 8, 16, 32]
    best = FIGURE_5["MT-NLG, 270 B tokens"]
    for read_off, shots in zip((best[0], best[1], best[-1]), ("zero", "one", "few"), strict=True):
        assert abs(100 * read_off - PUBLISHED["hans"]["mtnlg"][shots]) < 0.05
        assert abs(100 * read_off - PUBLISHED["hans"]["blog"][shots]) > 2  # they disagree
    assert {len(x) for x in FIGURE_5.values()} == {7}
