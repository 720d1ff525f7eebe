"""Near-duplicates: which are found, which document stays, and that the order changes nothing."""

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtnlg.data import dedup
from minimtnlg.data.dedup import duplicates, find, survives
from minimtnlg.data.minhash import jaccard, probability, shingles
from minimtnlg.data.records import Document, draw, key, reading, writing
from minimtnlg.data.shards import Outcome, Workers
from minimtnlg.errors import InputError

ALONE = Workers(1, progress=False)
PRIORITY = {"book": 0, "wiki": 1, "web": 2}
EASY = {"bands": 60, "rows": 3}  # pairs of 0.8 meet for certain


def words(seed, count=60):
    return [f"{random.Random(f'{seed}/{i}').getrandbits(40):x}" for i in range(count)]


def text(seed, changed=0, of=60):
    """A text of its own for a seed; `changed` of its words at the end are others."""
    return " ".join([*words(seed)[: of - changed], *words(f"{seed} {changed}", changed)])


def write_shards(folder, shards):
    paths = [folder / f"{number:05d}.jsonl.zst" for number in range(len(shards))]
    for path, documents in zip(paths, shards, strict=True):
        with writing(path) as write:
            for document in documents:
                write(document)
    return paths


def left(paths, rows):
    """(source, id) of what survives, sorted, and the reasons of what does not."""
    outcomes = [
        survives(document, value)
        for path, row in zip(paths, rows, strict=True)
        for document, value in zip(reading(path), np.load(row), strict=True)
    ]
    stay = sorted((d.source, d.id) for outcome in outcomes for d in outcome.documents)
    return stay, Counter(outcome.reason for outcome in outcomes if outcome.reason)


def run(folder, shards, workers=ALONE, **options):
    paths = write_shards(folder, shards)
    rows, facts = find(paths, folder / "work", workers, PRIORITY, **options)
    return *left(paths, rows), facts


@pytest.fixture(scope="module")
def family():
    """Documents in families: alike, the same, a chain of which the ends differ, and single ones."""
    return [
        Document(text("a"), "web", "a"),
        Document(text("a", 2), "wiki", "a2"),
        Document(text("a", 3), "wiki", "a3"),
        Document(text("b"), "book", "b"),
        Document(text("b"), "web", "same"),
        Document(text("b"), "web", "same too"),
        Document(" ".join(words("c")), "web", "c"),
        Document(" ".join([*words("c")[5:], *words("d", 5)]), "web", "c5"),
        Document(" ".join([*words("c")[10:], *words("d", 10)]), "elsewhere", "c10"),
        Document(text("e"), "web", "e"),
        Document(text("e", 20), "web", "e20"),
        Document("", "web", "empty"),
        Document(" \n", "wiki", "blank"),
        Document("tiny", "web", "tiny"),
    ]


def stay_of(family):
    """What should stay of it, in words of the rule: best source, then smallest key."""
    chain = [d for d in family if d.id in ("c", "c5")]
    wiki = [d for d in family if d.id in ("a2", "a3")]
    best = [min(group, key=lambda d: d.key) for group in (chain, wiki)]
    rest = [d for d in family if d.id in ("b", "e", "e20", "blank", "tiny")]
    return sorted((d.source, d.id) for d in best + rest)


def test_of_each_family_the_best_stays(tmp_path, family):
    sets = {d.id: shingles(d.text) for d in family}
    assert jaccard(sets["c"], sets["c5"]) > 0.8 < jaccard(sets["c5"], sets["c10"])
    assert jaccard(sets["c"], sets["c10"]) < 0.8 and jaccard(sets["e"], sets["e20"]) < 0.8
    stay, reasons, facts = run(tmp_path, [family[:5], [], family[5:]], **EASY)
    assert stay == stay_of(family)
    assert reasons == {"near-duplicate": 5, "duplicate": 2}
    assert (facts["components"], facts["largest component"]) == (4, 3)
    assert facts["repeated ids"] == 0 and facts["pairs"] >= 5


@settings(max_examples=12, deadline=None)
@given(st.randoms(use_true_random=False), st.sets(st.integers(0, 14), max_size=4))
def test_order_and_shards_change_nothing(tmp_path_factory, family, chance, cuts):
    order = chance.sample(family, len(family))
    edges = [0, *sorted(cuts), len(order)]
    shards = [order[a:b] for a, b in pairwise(edges)]
    stay, reasons, facts = run(tmp_path_factory.mktemp("order"), shards, **EASY)
    assert stay == stay_of(family)
    assert facts == {**facts, "components": 4, "largest component": 3}
    assert reasons.total() == 7


def test_with_few_bands_too_the_order_changes_nothing(tmp_path):
    """Buckets of one value hold much, few rounds leave much undone: the draws decide which."""
    documents = [Document(text(s, 3 * c), "web", f"{s}{c}") for s in "abc" for c in range(14)]
    options = {"bands": 2, "rows": 1, "rounds": 2}
    found = []
    for number in range(3):
        mixed = random.Random(number).sample(documents, len(documents))
        found.append(run(tmp_path / str(number), [mixed[:7], mixed[7:]], **options))
    assert found[0] == found[1] == found[2]
    assert found[0][0] != run(tmp_path / "all", [documents], **{**options, "rounds": 99})[0]


def test_two_processes_give_the_same(tmp_path, family):
    shards = [family[:5], family[5:]]
    one = run(tmp_path / "one", shards, **EASY)
    with Workers(2, progress=False) as workers:
        two = run(tmp_path / "two", shards, workers, **EASY)
    assert one == two
    for number in range(2):
        name = f"work/{number:05d}.jsonl.zst.removed.npy"
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


class Killed(Exception):
    pass


@pytest.mark.parametrize("moment", range(8))
def test_goes_on_after_a_kill(tmp_path, family, monkeypatch, moment):
    """The files that stand when it ends at the how-manieth write are used, half ones are not."""
    shards = [family[:5], family[5:]]
    paths = write_shards(tmp_path, shards)
    expected = run(tmp_path / "undisturbed", shards, **EASY)
    whole, calls = dedup.appearing, []

    def interrupted(path):
        calls.append(path)
        if len(calls) > moment:
            path.with_name(f".{path.name}.partial").write_bytes(b"half")
            raise Killed
        return whole(path)

    monkeypatch.setattr(dedup, "appearing", interrupted)
    (tmp_path / "work").mkdir()
    with pytest.raises(Killed):
        find(paths, tmp_path / "work", ALONE, PRIORITY, **EASY)
    monkeypatch.setattr(dedup, "appearing", whole)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*.npz")}
    rows, facts = find(paths, tmp_path / "work", ALONE, PRIORITY, **EASY)
    assert (*left(paths, rows), facts) == expected
    assert len(before) == min(moment, 2)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_the_same_text_is_never_compared(tmp_path):
    copies = [Document("the same text", "web", str(i), f"http://{i}") for i in range(50)]
    copies.append(Document("the same text", "wiki", "best"))
    stay, reasons, facts = run(tmp_path, [copies[:20], copies[20:]])
    assert (stay, reasons) == ([("wiki", "best")], {"duplicate": 50})
    assert (facts["compared"], facts["candidates"], facts["components"]) == (0, 0, 1)


def test_ids_that_occur_twice_are_counted(tmp_path):
    documents = [Document(text(i), "web", str(i % 4)) for i in range(6)]
    documents.append(Document(text("x"), "wiki", "0"))  # of another source: another id
    assert run(tmp_path, [documents])[2]["repeated ids"] == 2


def test_nothing_at_all(tmp_path):
    assert run(tmp_path / "no", [])[:2] == ([], {})
    stay, _, facts = run(tmp_path / "empty", [[], []])
    assert stay == [] and facts["components"] == facts["largest component"] == 0
    assert duplicates([]).tolist() == []


def test_a_jaccard_of_just_the_bound_is_a_duplicate():
    one, other = "abcdefghi", "bcdefghij"  # 4 shingles of 6 in common
    bound = jaccard(shingles(one), shingles(other))
    options = {"bands": 200, "rows": 1}
    assert len(set(duplicates([one, other], jaccard=bound, **options))) == 1
    assert len(set(duplicates([one, other], jaccard=bound + 1e-9, **options))) == 2


def test_a_round_compares_one_drawn_document_with_all_others():
    keys = np.array([key(str(i)) for i in range(6)], np.uint64)
    asked = []

    def similar(i, j):
        asked.append((i, j))
        return {i, j} == {first, third}

    first, second, third, *_ = sorted(range(5), key=lambda i: draw(keys[i], "bucket"))
    pairs, compared = dedup._pairs([[np.arange(5)]], keys, similar, rounds=2)
    assert pairs == {(min(first, third), max(first, third))}
    assert compared == len(asked) == 4 + 2  # the third has left when the second's turn comes
    assert all(first in pair for pair in asked[:4]) and all(second in p for p in asked[4:])


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_who_stays_is_the_smallest_of_the_component(data):
    """Against plain merging of sets."""
    count = data.draw(st.integers(1, 9))
    number = st.integers(0, 2)
    facts = np.zeros(count, dedup.FACTS)
    facts["rank"] = data.draw(st.lists(number, min_size=count, max_size=count))
    facts["key"] = data.draw(st.lists(number, min_size=count, max_size=count))
    facts["tie"] = data.draw(st.permutations(range(count)))
    ends = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1))
    pairs = data.draw(st.sets(ends, max_size=4))
    groups = [{i} for i in range(count)]
    keys = facts["key"].tolist()
    same = {(i, j) for i in range(count) for j in range(count) if keys[i] == keys[j]}
    for i, j in pairs | same:
        if groups[i] is not groups[j]:
            groups[i] |= groups[j]
            for k in groups[j]:
                groups[k] = groups[i]
    best = [min(g, key=lambda i: facts[["rank", "key", "tie"]][i].item()) for g in groups]
    survivor, sizes = dedup._survivors(facts, dedup._first_of_key(facts), pairs)
    assert survivor.tolist() == best
    assert sorted(sizes) == sorted(len(g) for g in {id(g): g for g in groups}.values())


def test_survives():
    document = Document("x", "web", "1")
    assert survives(document, np.int8(0)) == Outcome((document,))
    assert survives(document, np.int8(1)) == Outcome(reason="near-duplicate")
    assert survives(document, np.int8(2)) == Outcome(reason="duplicate")


def test_in_memory_is_the_same(tmp_path, family):
    texts = [d.text for d in family]
    documents = [Document(t, "web", str(i)) for i, t in enumerate(texts)]
    found = duplicates(texts, **EASY)
    stay, *_ = run(tmp_path, [documents], **EASY)
    kept = [texts[i] for i in np.unique(found)]
    assert sorted(kept) == sorted(texts[int(name)] for _, name in stay)
    assert found[4] == found[5] == found[3] == 3 and found[13] == 13


def all_pairs(texts):
    """{(i, j): Jaccard} of all pairs that share a shingle, exactly."""
    from scipy.sparse import csr_array

    sets = [shingles(t) for t in texts]
    sizes = np.array([len(s) for s in sets])
    _, columns = np.unique(np.concatenate(sets), return_inverse=True)
    ends = np.append(0, np.cumsum(sizes))
    table = csr_array((np.ones(len(columns), np.int32), columns, ends))
    both = (table @ table.T).tocoo()
    upper = both.row < both.col
    i, j, shared = both.row[upper], both.col[upper], both.data[upper]
    return dict(zip(zip(i.tolist(), j.tolist(), strict=True),
                    (shared / (sizes[i] + sizes[j] - shared)).tolist(), strict=True))  # fmt: skip


def test_precision_and_recall_against_all_pairs():
    """1 000 documents, 500 planted pairs of many similarities; the functions never change."""
    texts = [text(i // 2, (i % 2) * (1 + i // 2 % 19), 100) for i in range(1000)]
    alike = {pair: s for pair, s in all_pairs(texts).items() if s > 0.3}
    assert len(alike) == 500
    survivor = duplicates(texts)
    joined = {(i, int(i + 1)) for i in range(0, 1000, 2) if survivor[i] == survivor[i + 1]}
    assert all(survivor[i] in (i, i ^ 1) for i in range(1000))  # nobody joined another pair
    assert all(alike[pair] >= 0.8 for pair in joined)  # precision 1
    true = np.array([s for s in alike.values() if s >= 0.8])
    expected = probability(true)
    spread = np.sum(expected * (1 - expected)) ** 0.5
    assert 250 < len(true) < 500 and abs(len(joined) - expected.sum()) < 4 * spread


def test_without_scipy_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "scipy.sparse", None)
    with pytest.raises(InputError, match=r"scipy.*pip install 'minimtnlg\[data\]'"):
        duplicates(["a", "b"])


@pytest.mark.parametrize("suffix", [".sets.npy", ".ends.npy"])
def test_goes_on_with_a_work_folder_of_which_a_part_is_gone(tmp_path, family, suffix):
    """As after a kill while it was being removed."""
    shards = [family[:5], family[5:]]
    paths = write_shards(tmp_path, shards)
    first = find(paths, tmp_path / "work", ALONE, PRIORITY, **EASY)
    next((tmp_path / "work").glob(f"*{suffix}")).unlink()
    again = find(paths, tmp_path / "work", ALONE, PRIORITY, **EASY)
    assert left(paths, again[0]) == left(paths, first[0]) and again[1] == first[1]
