"""The classifier of good against raw text, and the Pareto rule."""

import random
from pydoc_data.topics import topics

import numpy as np
import pytest

from minimtnlg.data import quality
from minimtnlg.data.quality import Classifier, good_enough, kept_share, pareto, train
from minimtnlg.data.records import Document, draw
from minimtnlg.errors import InputError


def pieces(text, size=300):
    return [text[start : start + size] for start in range(0, len(text) - size, size)]


@pytest.fixture(scope="module", autouse=True)
def small():
    """Fewer features than the default, so that each training takes a moment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "FEATURES", 2**15)
        quality._counts.cache_clear()
        yield
    quality._counts.cache_clear()


@pytest.fixture(scope="module")
def texts():
    """Prose and, as the raw class, the same words without their order and much of another list."""
    good = [piece for _, text in sorted(topics.items()) for piece in pieces(text)][:300]
    shuffle = random.Random(0)
    raw = []
    for piece in good:
        words = piece.split() + ["click", "login", "cookies"] * 2
        shuffle.shuffle(words)
        raw.append(" ".join(words))
    return good, raw


@pytest.fixture(scope="module")
def made(texts):
    return train(*texts)


@pytest.fixture
def saved(made, tmp_path):
    made.save(tmp_path / "classifier.npz")
    return tmp_path / "classifier.npz"


def test_it_learns_and_says_how_well(texts, made):
    facts = made.facts
    wrong = facts["good taken for raw"] + facts["raw taken for good"]
    assert facts["held out"] == 60 and facts["documents"] == 600
    assert facts["accuracy"] == pytest.approx(1 - wrong / 60) and facts["accuracy"] > 0.9
    assert made.score(texts[0]).mean() > 0.7 > 0.3 > made.score(texts[1]).mean()


def test_accuracy_is_that_of_texts_it_has_not_seen():
    """Random labels can be learned by heart, but not foretold."""
    rng = np.random.default_rng(0)
    texts = [" ".join(map(str, rng.integers(0, 9999, 40))) for _ in range(400)]
    made = train(texts[:200], texts[200:], held_out=0.5)
    share = made.facts["accuracy"]
    assert abs(share - 0.5) < 0.2
    assert made.facts["standard error"] == pytest.approx((share * (1 - share) / 200) ** 0.5)
    seen = np.r_[made.score(texts[:200]) > 0.5, made.score(texts[200:]) <= 0.5]
    assert 0.65 < seen.mean() < 0.85  # the learned half right, the other half by chance


def test_order_and_repetition_change_nothing(texts, made):
    good, raw = ([*reversed(one), one[0]] for one in texts)
    again = train(good, iter(raw))
    assert np.array_equal(again.weights, made.weights) and again.facts == made.facts


def test_the_seed_chooses_what_is_held_out(texts, made):
    assert not np.array_equal(train(*texts, seed=2).weights, made.weights)


def test_both_classes_count_alike(texts):
    assert train(texts[0], texts[1][:100]).facts["documents"] == 200


def test_saved_and_loaded(made, saved, texts):
    again = Classifier.load(saved)
    assert np.array_equal(again.score(texts[0]), made.score(texts[0]))
    assert again.facts == made.facts


def test_too_few_documents_are_one_line():
    with pytest.raises(InputError, match="too few"):
        train(["a b"], ["c d"])


def test_what_is_no_classifier_is_one_line(tmp_path):
    (tmp_path / "other.npz").write_text("hello")
    for name in ("other.npz", "missing.npz"):
        with pytest.raises(InputError, match=name):
            Classifier.load(tmp_path / name)


def test_the_pareto_numbers_are_numpys():
    u = np.random.default_rng(0).random(20000)
    ours, theirs = np.sort(pareto(u, 3.0)), np.sort(np.random.default_rng(1).pareto(3.0, 20000))
    for share in (0.1, 0.5, 0.9):
        there = int(share * 20000)
        assert ours[there] == pytest.approx(theirs[there], rel=0.05)


@pytest.mark.parametrize("alpha", [1.0, 3.0, 9.0])
@pytest.mark.parametrize("score", [0.0, 0.3, 0.8, 1.0])
def test_the_kept_share(score, alpha):
    drawn = np.array([draw(key, "pareto") for key in range(20000)])
    kept = np.mean(pareto(drawn, alpha) > 1 - score)
    assert kept_share(score, alpha) == pytest.approx(kept, abs=0.015)
    assert kept_share(1.0, alpha) == 1 and kept_share(0.0) == 1 / 8


def test_the_rule_on_documents(texts, made, saved):
    kept = 0
    for text in texts[1]:
        document = Document(text, "web", "1", meta={"kind": "text"})
        outcome = good_enough(document, saved)
        score = made.score([text])[0]
        stays = pareto(draw(document.key, "pareto"), 3.0) > 1 - score
        tenth = f"{int(score * 10) / 10:.1f}"
        if stays:
            (one,) = outcome.documents
            assert one.meta == {"kind": "text", "quality": round(float(score), 4)}
            assert outcome.counts == (f"score {tenth}", f"kept score {tenth}")
        else:
            assert outcome == ((), "low quality", (f"score {tenth}",))
        kept += stays
    assert kept == pytest.approx(kept_share(made.score(texts[1])).sum(), abs=25)  # 3.5 sigma


def test_only_raw_sources_are_judged(texts, saved):
    document = Document(texts[1][0], "wikipedia", "1")
    assert good_enough(document, saved, raw={"web"}) == ((document,), "", ())
    assert good_enough(document, saved, raw={"wikipedia"}).counts
