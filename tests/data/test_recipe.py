"""The recipe: MT-NLG's numbers by default, and one line for what can't be."""

import pytest

from minimtnlg.data.recipe import Recipe, load
from minimtnlg.errors import InputError


def test_the_default_is_the_papers():
    recipe = load()
    assert recipe == Recipe()
    assert (recipe.dedup.bands, recipe.dedup.rows, recipe.dedup.jaccard) == (20, 13, 0.8)
    assert (recipe.repair.shortest, recipe.repair.shortest_javascript) == (512, 256)
    assert (recipe.quality.alpha, recipe.quality.held_out) == (3, 0.1)
    cut = recipe.decontaminate
    assert (cut.longest, cut.shortest, cut.common) == (13, 8, 10)
    assert (cut.margin, cut.shortest_piece, cut.splits) == (200, 200, 10)


def test_a_file_and_overrides(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("dedup:\n  jaccard: 0.7\nindex:\n  vocab: gpt2\n")
    recipe = load(path, ["dedup.bands=9", "index.weights={a: 2}"])
    assert (recipe.dedup.jaccard, recipe.dedup.bands, recipe.dedup.rows) == (0.7, 9, 13)
    assert (recipe.index.vocab, recipe.index.weights) == ("gpt2", {"a": 2})


@pytest.mark.parametrize(
    "override, match",
    [
        ("dedup.jacard=0.7", "unknown key 'dedup.jacard'.*did you mean 'jaccard'"),
        ("deduplicate.jaccard=0.7", "no section 'deduplicate'.*did you mean 'dedup'"),
        ("dedup.jaccard=1.5", "dedup.jaccard=1.5: .*less than or equal to 1"),
        ("dedup.bands=0", "dedup.bands=0"),
        ("repair.shortest=-1", "repair.shortest=-1"),
        ("extract.engine=lynx", "extract.engine='lynx'.*justext"),
        ("quality.alpha=true", "quality.alpha=True"),
        ("decontaminate.shortest=14", "decontaminate.shortest=14 is above"),
        ("index.weights={a: 0}", "index.weights.a=0"),
        ("jaccard=0.7", "section.key=value"),
        ("language.keep=English", "language.keep='English'"),
        ("quality.good=wikipedia", r"quality.good='wikipedia': expected a list, as \[a, b\]"),
        ("index.weights=3", "index.weights=3: expected pairs, as {a: 1}"),
        ("index.vocab=gpt3", "index.vocab='gpt3': expected a size to train, or gpt2"),
        ("index.vocab=0", "index.vocab=0: expected a size"),
        ("index.vocab=3.5", "index.vocab"),
        ("dedup.bands=1000", "dedup.bands=1000 of dedup.rows=13 take 13000 hash functions"),
        ("decontaminate.longest=101", "decontaminate.longest=101 is above 100 words"),
    ],
)
def test_what_cannot_be(override, match):
    with pytest.raises(InputError, match=match):
        load(None, [override])


def test_a_source_is_good_or_raw():
    with pytest.raises(InputError, match="quality.good and quality.raw both name b: take one out"):
        load(None, ["quality.good=[a, b]", "quality.raw=[b, c]"])


@pytest.mark.parametrize(
    "content, match",
    [
        (None, "can't read the recipe .*r.yaml"),
        (b"\xff", "can't read the recipe"),
        (b"dedup: [", "r.yaml: not YAML"),
        (b"- a", "r.yaml: expected the sections extract, language"),
        (b"dedup: 3", "r.yaml: section 'dedup' should hold keys"),
    ],
)
def test_a_file_that_cannot_be(tmp_path, content, match):
    path = tmp_path / "r.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=match):
        load(path)
