"""Bias: planted differences are found with sign and size, and noise is told to be noise."""

import itertools
import math
import sys

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from minimtnlg.data.tokenizer import Tokenizer
from minimtnlg.errors import InputError
from minimtnlg.evaluate import bias
from minimtnlg.evaluate.bias import (
    OCCUPATIONS,
    PUBLISHED,
    adjectives,
    alone,
    association,
    bootstrap,
    ethnic_prompts,
    gender_prompts,
    mean_scores,
    not_shared,
    permutation,
    sentiment,
    top,
    wilson,
    write,
)
from minimtnlg.evaluate.scoring import of_texts
from minimtnlg.train.checkpoint import load_run

# Association: models planted as functions of the text.


def planted(ratio):
    """P(female) / P(male) is exp(ratio(occupation, word of the pair)), for either pair of words."""

    def logprobs(pairs):
        found = []
        for context, word in pairs:
            occupation = context.removeprefix("The ").removesuffix(" was a")
            assert occupation in OCCUPATIONS
            second = word in (" man", " woman")
            x = ratio(occupation, second) if word in (" female", " woman") else 0
            found.append(-5 - second + x)
        return found

    return logprobs


def drawn(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def test_a_planted_association_is_found_with_its_sign_and_size():
    about_men = set(OCCUPATIONS[:150])
    found = association(planted(lambda occupation, _: -1.5 if occupation in about_men else 0.5))
    assert np.allclose(found.ratios, [-1.5] * 150 + [0.5] * 50)
    share, low, high = found.male_likelier
    assert share == 0.75 and 0.68 < low < 0.75 < high < 0.81
    mean, low, high = found.score
    assert math.isclose(mean, -1.0) and -1.14 < low < -1.0 < high < -0.86


def test_two_identifiers_of_a_gender_are_added_up():
    found = association(planted(lambda _, second: 3.0 if second else 0.0), ["nurse"])
    male = math.exp(-5) + math.exp(-6)
    female = math.exp(-5) + math.exp(-6 + 3)
    assert np.allclose(found.ratios, math.log(female / male))
    assert found.male.shape == found.female.shape == (1, 2)


def test_a_model_without_preference_gives_an_interval_around_zero():
    values = dict(zip(OCCUPATIONS, drawn(3, len(OCCUPATIONS)), strict=True))
    found = association(planted(lambda occupation, _: values[occupation]))
    mean, low, high = found.score
    assert low < 0 < high and high - low < 4 * len(OCCUPATIONS) ** -0.5 * 1.3
    share, low, high = found.male_likelier
    assert low < 0.5 < high


def test_two_pairs_of_words_agree_only_where_occupations_matter():
    values = dict(zip(OCCUPATIONS, drawn(4, len(OCCUPATIONS), 3), strict=True))
    same = association(planted(lambda o, second: -2 + values[o][2] + 0.5 * values[o][+second]))
    expected = 1 / (1 + 0.25)  # the variance that they share, over all of it
    assert abs(same.agreement.observed - expected) < 0.1 and same.agreement.p < 0.002
    other = association(planted(lambda o, second: -2 + values[o][+second]))
    assert abs(other.agreement.observed) < 0.2 and other.agreement.p > 0.05
    assert other.score[2] < 0  # still it prefers men, whatever their occupation


def test_association_of_a_real_model(random_run):
    config, model = load_run(random_run("float32"))
    model.double()
    tokenizer = Tokenizer.load(random_run() / "tokenizer.json")
    found = association(of_texts(model, tokenizer), ["nurse", "pilot"], "{occupation} was")
    context = tokenizer.encode("pilot was")
    for words, values in ((["male", "man"], found.male), (["female", "woman"], found.female)):
        for word, value in zip(words, values[1], strict=True):
            ids = tokenizer.encode(f" {word}")
            logits = model(torch.tensor([context + ids]))[:, 0, : tokenizer.size]
            expected = logits.log_softmax(-1)[len(context) - 1 :].gather(
                1, torch.tensor(ids)[:, None]
            )
            assert math.isclose(value, expected.sum().item(), rel_tol=1e-9)


def test_nothing_to_ask_is_refused():
    with pytest.raises(InputError, match="0 occupations"):
        association(planted(lambda *_: 0), [])
    with pytest.raises(InputError, match=r"it needs \{occupation\}"):
        association(planted(lambda *_: 0), template="The nurse was a")


# Texts and their adjectives.


@pytest.mark.parametrize(
    "prompt, text, found",
    [
        ("She was very", " beautiful and quiet.", ["beautiful", "quiet"]),
        ("The man was regarded as", " a great leader of a small country.", ["great", "small"]),
        ("He was very", " Tall", ["tall"]),
        ("He was known for", " his older friends and the best cook.", ["older", "best"]),
        ("The Asian man was very", " polite.", ["polite"]),  # Asian is of the prompt
        ("The son was well-known for", " his voice.", []),
        ("She was very", " polite to Mr. Brown, a poor painter. He was rich.", ["polite", "poor"]),
        ("She was very", " happy\nThe angry crowd", ["happy"]),
        ("She was very", " young! An old house.", ["young"]),
        ("She was very", "", []),
        ("She was very", " mulational and tall.", ["tall"]),  # which is no word
        ("The woman would be described as", " walking to the house slowly.", []),
    ],
)
def test_adjectives_of_the_first_sentence(prompt, text, found):
    assert adjectives(prompt, text) == found


def test_ranks_by_hand():
    a = [["old", "tall"], ["old"], [], ["kind", "old", "tall"], ["bold"]]
    assert top(a) == {"old": 1, "tall": 2, "bold": 3, "kind": 4}
    assert top(a, 2) == {"old": 1, "tall": 2} and top([]) == {}
    b = [["tall", "sweet"], ["sweet", "young"]]
    assert alone({"a": a, "b": b}) == {"a": {"old": 1, "bold": 3, "kind": 4},
                                       "b": {"sweet": 1, "young": 3}}  # fmt: skip
    c = [["young", "old"]]
    assert alone({"a": a, "b": b, "c": c}, 2) == {"a": {}, "b": {"sweet": 1}, "c": {"young": 2}}
    assert not_shared(a, b) == 3 and not_shared(b, a) == 2 and not_shared(a, a) == 0
    assert not_shared(a, b, 2) == 1


def test_the_hundred_most_frequent():
    words = [f"word{i:03}" for i in range(150)]
    found = [[word] * (150 - i) for i, word in enumerate(words)]
    assert list(top(found)) == words[:100] and top(found)["word099"] == 100
    assert not_shared(found, [[word] for word in words[50:]]) == 50


def test_sentiment_by_hand():
    rows = sentiment([["wonderful", "awful"], ["xyzzy"], [], ["excellent"]])
    assert rows.shape == (4, 3) and rows[:, 2].tolist() == [2, 0, 0, 1]
    assert rows[0, 0] > 0.5 and rows[0, 1] < -0.5
    assert rows[3, 0] > 0.5 and rows[3, 1] == 0
    positive, negative = mean_scores(rows)
    assert math.isclose(positive, (rows[0, 0] + rows[3, 0]) / 3)
    assert math.isclose(negative, rows[0, 1] / 3)
    assert mean_scores(sentiment([[]])).tolist() == [0, 0] == mean_scores(sentiment([])).tolist()


def test_prompts_are_those_of_the_paper():
    assert {group: len(set(x)) for group, x in gender_prompts().items()} == {
        "male": 24,
        "female": 24,
    }
    assert {group: len(set(x)) for group, x in ethnic_prompts().items()} == {
        "Asian": 18,
        "Black": 18,
        "White": 18,
    }
    assert "The daughter was thought of as" in gender_prompts()["female"]
    assert "The Black person would be described as" in ethnic_prompts()["Black"]


def test_texts_that_a_model_writes(random_run):
    run = random_run()
    _, model = load_run(run)
    tokenizer = Tokenizer.load(run / "tokenizer.json")
    texts = write(model, tokenizer, ["one rank", "the other"], 6, count=8)
    assert list(texts) == ["one rank", "the other"]
    every = [text for found in texts.values() for text in found]
    assert len(every) == 12 and len(set(every)) > 6
    assert not any(set(text[:-1]) & set(".!?\n") for text in every)
    assert write(model, tokenizer, ["one rank", "the other"], 6, count=8) == texts
    assert write(model, tokenizer, ["one rank", "the other"], 6, count=8, seed=2) != texts


def test_groups_do_not_share_their_draws(random_run, monkeypatch):
    """Or a permutation test would find them more alike than independent texts are."""
    seeds, tokenizer = [], Tokenizer.load(random_run() / "tokenizer.json")

    def generate(model, prompts, count, *, seed, **others):
        seeds.append(seed)
        return [[] for _ in prompts]

    monkeypatch.setattr(bias, "generate", generate)
    for prompts in (["He was"], ["She was"], ["He was", "She was"], ["He was"]):
        write(None, tokenizer, prompts, 2)
    assert len(set(seeds)) == 3 and seeds[0] == seeds[3]


def test_without_the_library_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "textblob.en", None)
    with pytest.raises(InputError, match=r"pip install 'minimtnlg\[eval\]'"):
        adjectives("She was", " tall.")


# Noise.


@given(st.integers(1, 3000), st.floats(0, 1))
def test_interval_of_a_share_as_scipy_has_it(n, part):
    hits = round(n * part)
    expected = scipy.stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert np.allclose(wilson(hits, n), [hits / n, expected.low, expected.high], atol=1e-6)


def test_bootstrap_holds_the_truth_in_95_of_100():
    inside = 0
    for seed in range(200):
        low, high = bootstrap(drawn(seed, 60) + 3, np.mean, rounds=200, seed=seed)
        inside += low < 3 < high
    assert 176 <= inside <= 199
    rows = drawn(1, 300)
    low, high = bootstrap(rows, np.mean)
    half = 1.96 * rows.std() / 300**0.5
    assert abs(low - rows.mean() + half) < 0.02 and abs(high - rows.mean() - half) < 0.02
    low, high = bootstrap(np.stack([rows, 2 * rows], 1), lambda x: x.mean(0))
    assert np.allclose(2 * low[0], low[1]) and np.allclose(2 * high[0], high[1])


def test_permutation_is_near_to_all_that_there_are():
    a, b = [5.0, 4.0, 6.0, 4.5], [3.0, 4.2, 2.5, 5.5]

    def apart(x, y):
        return abs(np.mean(x) - np.mean(y))

    every = a + b
    exact = [
        apart([every[i] for i in chosen], [every[i] for i in range(8) if i not in chosen])
        for chosen in itertools.combinations(range(8), 4)
    ]
    found = permutation(a, b, apart, rounds=2000)
    assert math.isclose(found.observed, apart(a, b))
    p = np.mean([x > found.observed - 1e-9 for x in exact])
    assert abs(found.p - p) < 4 * (p * (1 - p) / 2000) ** 0.5 + 1e-3
    assert permutation([0] * 20, [9] * 20, apart, rounds=99).p == 0.01


def test_where_nothing_differs_five_of_hundred_are_called_significant():
    def apart(x, y):
        return abs(np.mean(x) - np.mean(y))

    low = 0
    for seed in range(200):
        values = drawn(seed, 40).tolist()
        low += permutation(values[:20], values[20:], apart, rounds=99, seed=seed).p <= 0.05
    assert 1 <= low <= 24


def test_most_of_what_two_lists_do_not_share_is_noise():
    """The lesson's point: two halves of the same texts don't share all of their top adjectives."""
    rng = np.random.default_rng(1)
    often = 1 / np.arange(1, 401)  # as words are: few frequent ones, many rare ones

    def texts(n, weights):
        p = weights / weights.sum()
        return [[f"a{i}" for i in rng.choice(400, 2, p=p)] for _ in range(n)]

    same = permutation(texts(400, often), texts(400, often), not_shared, rounds=99)
    assert same.observed > 15 and same.p > 0.05
    planted = often.copy()
    planted[100:130] = 0.1  # thirty words that one group alone has often
    other = permutation(texts(400, often), texts(400, planted), not_shared, rounds=99)
    assert other.p == 0.01


def test_published_tables_are_whole():
    for table, groups in (("gender", 2), ("ethnicity", 3), ("religion", 6)):
        assert len(PUBLISHED[table]) == groups
        for ranks in PUBLISHED[table].values():
            assert len(ranks) == 10 and all(1 <= rank <= 100 for rank in ranks.values())
            assert len(set(ranks.values())) == 10
    for positive, negative in PUBLISHED["sentiment"].values():
        assert positive > 0 > negative
    assert PUBLISHED["mean_log_ratio"]["MT-NLG"] == -0.77
