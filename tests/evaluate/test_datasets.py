"""Records come from the data sets' own files, a folder of them, the hub, a package."""

import gzip
import json
import re
import sys
from types import ModuleType

import pytest

from minimtnlg.errors import InputError
from minimtnlg.evaluate import datasets
from minimtnlg.evaluate.cloze import SHORTEST, WORDS, passages
from minimtnlg.evaluate.datasets import load, origin, records_in
from minimtnlg.evaluate.tasks import TASKS

ROWS = [
    {"passage": f"Passage {i}.", "question": f"is it {i}", "answer": i % 2 == 0} for i in range(4)
]
HANS = "gold_label\tsentence1\tsentence2\nentailment\tA \"b\" c.\tA c.\nnon-entailment\tD.\tE.\n"


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def records(path):
    return [record for _, record in records_in(path)]


def test_a_json_object_a_line(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines(ROWS[:2]) + "\n" + lines(ROWS[2:]))
    assert records(tmp_path / "a.jsonl") == ROWS
    assert [where for where, _ in records_in(tmp_path / "a.jsonl")][1:3] == [
        f"{tmp_path}/a.jsonl line 2", f"{tmp_path}/a.jsonl line 4"
    ]  # fmt: skip


def test_other_forms_of_the_same(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(ROWS, indent=1))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines(ROWS).encode()))
    (tmp_path / "c.jsonl").write_bytes(lines(ROWS).replace("\n", "\r\n").encode())
    for name in ("a.json", "b.jsonl.gz", "c.jsonl"):
        assert records(tmp_path / name) == ROWS


@pytest.mark.parametrize(
    "content, first",
    [
        (lines(ROWS), ROWS[0]),
        (json.dumps(ROWS), ROWS[0]),
        ("label\tword\na\tb\n", {"label": "a", "word": "b"}),
        ("It was a dog\n", {"text": "It was a dog"}),
    ],
)
def test_a_byte_order_mark_is_no_part_of_a_record(tmp_path, content, first):
    (tmp_path / "a.txt").write_text(content, encoding="utf-8-sig")
    assert records(tmp_path / "a.txt")[0] == first


def test_a_table_with_a_heading(tmp_path):
    (tmp_path / "heuristics_evaluation_set.txt").write_text(HANS)
    found = records(tmp_path / "heuristics_evaluation_set.txt")
    assert found[0] == {"gold_label": "entailment", "sentence1": 'A "b" c.', "sentence2": "A c."}
    items, _ = load("hans", tmp_path / "heuristics_evaluation_set.txt")
    assert [item.gold for item in items] == [0, 1]


def test_a_table_with_long_fields_and_empty_lines(tmp_path):
    long = "a b\rc " * 50_000
    (tmp_path / "a.txt").write_bytes(f"\nlabel\ttext\n\n0\t{long}\r\n\t\n1\t\n".encode())
    assert list(records_in(tmp_path / "a.txt")) == [
        (f"{tmp_path}/a.txt line 4", {"label": "0", "text": long}),
        (f"{tmp_path}/a.txt line 6", {"label": "1", "text": ""}),
    ]


def test_a_text_a_line(tmp_path):
    (tmp_path / "lambada.txt").write_text("a b c\n\nd e f\n")
    items, _ = load("lambada", tmp_path / "lambada.txt")
    assert [item.options for item in items] == [("c",), ("f",)]


def test_answers_in_a_file_of_their_own(tmp_path):
    rows = [{"goal": "a", "sol1": "b", "sol2": "c"}] * 3
    (tmp_path / "valid.jsonl").write_text(lines(rows))
    (tmp_path / "valid-labels.lst").write_text("0\n1\n1\n")
    assert [item.gold for item in load("piqa", tmp_path / "valid.jsonl")[0]] == [0, 1, 1]


@pytest.mark.parametrize(
    "labels, says",
    [
        (b"0\n1\n", "valid-labels.lst has 2 answers for the 3 records of valid.jsonl"),
        (b"0\n1\n1\n0\n", "valid-labels.lst has 4 answers for the 3 records of valid.jsonl"),
        (b"0\n\xff\n1\n", "valid-labels.lst line 2 isn't UTF-8 text"),
        (b"\xef\xbb\xbf0\n2\n1\n", "valid.jsonl line 2 is no record of piqa: the answer is '2'"),
    ],
)
def test_malformed_answers(tmp_path, labels, says):
    (tmp_path / "valid.jsonl").write_text(lines([{"goal": "a", "sol1": "b", "sol2": "c"}] * 3))
    (tmp_path / "valid-labels.lst").write_bytes(labels)
    with pytest.raises(InputError) as error:
        load("piqa", tmp_path / "valid.jsonl")
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["piqa.jsonl", ""])
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_each_split_has_answers_of_its_own(tmp_path, name, suffix):
    for split, answers in (("piqa", "01"), ("piqa.train", "110")):
        text = lines([{"goal": split, "sol1": "b", "sol2": "c"}] * len(answers)).encode()
        content = gzip.compress(text) if suffix.endswith("gz") else text
        (tmp_path / f"{split}{suffix}").write_bytes(content)
        (tmp_path / f"{split}-labels.lst").write_text("\n".join(answers))
    items, pool = load("piqa", tmp_path / (name and f"piqa{suffix}"), shots=1)
    assert [item.gold for item in items] == [0, 1]
    assert [item.gold for item in pool] == [1, 1, 0]


def test_answers_in_the_folder_of_a_task_are_no_records(tmp_path):
    (tmp_path / "piqa").mkdir()
    rows = [{"goal": "a", "sol1": "b", "sol2": "c"}] * 3
    (tmp_path / "piqa" / "valid.jsonl").write_text(lines(rows))
    (tmp_path / "piqa" / "valid-labels.lst").write_text("0\n1\n1\n")
    assert [item.gold for item in load("piqa", tmp_path)[0]] == [0, 1, 1]


def test_a_folder_of_articles_in_their_order(tmp_path):
    folder = tmp_path / "race-h"
    folder.mkdir()
    for i in (2, 10, 1):
        article = {"article": f"{i}", "questions": ["a"], "options": [["b", "c"]], "answers": ["A"]}
        (folder / f"{i}.txt").write_text(json.dumps(article))
    items, _ = load("race-h", tmp_path)
    assert [item.before[0].split("\n")[0] for item in items] == [
        "Article: 1", "Article: 2", "Article: 10"
    ]  # fmt: skip


def test_a_folder_of_examples_beside_it(tmp_path):
    for split in ("race-h", "race-h.train"):
        (tmp_path / split).mkdir()
        article = {"article": split, "question": "a", "options": ["b", "c"], "answer": "A"}
        (tmp_path / split / "1.txt").write_text(json.dumps(article))
    for shots, drawn in ((0, "race-h"), (1, "race-h.train")):
        (item,), (example,) = load("race-h", tmp_path, shots)
        assert item.before[0].startswith("Article: race-h\n")
        assert example.before[0].startswith(f"Article: {drawn}\n")
    (tmp_path / "race-h").rename(tmp_path / "other")
    with pytest.raises(InputError, match="nothing there is called race-h, or race-h.jsonl"):
        load("race-h", tmp_path)


@pytest.mark.parametrize("kind", ["boolq", "boolq.train"])
def test_two_of_one_name(tmp_path, kind):
    (tmp_path / "boolq.jsonl").write_text(lines(ROWS))
    (tmp_path / f"{kind}.json").write_text(json.dumps(ROWS))
    (tmp_path / f"{kind}.jsonl").write_text(lines(ROWS))
    with pytest.raises(InputError) as error:
        load("boolq", tmp_path)
    assert str(error.value) == (
        f"--data {tmp_path}: {kind}.json and {kind}.jsonl are all called {kind}: leave one of them "
        "there"
    )
    (tmp_path / kind).write_text(lines(ROWS[:1]))
    items, pool = load("boolq", tmp_path, shots=1)
    assert len(items if kind == "boolq" else pool) == 1  # the exact name wins


@pytest.mark.parametrize("name", ["boolq.jsonl", ""])
def test_examples_come_from_the_training_split_beside_it(tmp_path, name):
    (tmp_path / "boolq.jsonl").write_text(lines(ROWS[:2]))
    items, pool = load("boolq", tmp_path / name, shots=1)
    assert pool == items and len(items) == 2
    (tmp_path / "boolq.train.jsonl").write_text(lines(ROWS[2:]))
    again, pool = load("boolq", tmp_path / name, shots=1)
    assert again == items and len(pool) == 2 and not set(pool) & set(items)


@pytest.mark.parametrize(
    "content, says",
    [
        (lines(ROWS[:1]) + '{"passage": \n', "boolq.jsonl line 2 isn't JSON"),
        (lines(ROWS[:1]) + "[1]\n", "boolq.jsonl line 2 isn't a JSON object"),
        (lines(ROWS[:1]) + '{"passage": "a"}\n', "boolq.jsonl line 2 is no record of boolq"),
        ("[1]", "boolq.jsonl entry 0 isn't a JSON object"),
        ("[{]", "boolq.jsonl isn't JSON"),
        ("a\tb\n1\t2\t3\n", "boolq.jsonl line 2 has 3 columns of 2"),
        ("some prose", "boolq.jsonl line 1 is no record of boolq: it has no 'answer'"),
        ("", "there is no item of boolq in"),
        (b"\xff{}", "boolq.jsonl line 1 isn't UTF-8"),
    ],
)
def test_malformed_files(tmp_path, content, says):
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "boolq.jsonl").write_bytes(content)
    with pytest.raises(InputError) as error:
        load("boolq", tmp_path / "boolq.jsonl")
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_cut_short(tmp_path):
    (tmp_path / "boolq.jsonl.gz").write_bytes(gzip.compress(lines(ROWS).encode())[:-9])
    with pytest.raises(InputError, match="can't read .*boolq.jsonl.gz"):
        load("boolq", tmp_path / "boolq.jsonl.gz")


def test_what_is_not_there(tmp_path):
    with pytest.raises(InputError, match="nowhere: there is no such file or folder"):
        load("boolq", tmp_path / "nowhere")
    with pytest.raises(InputError, match="nothing there is called boolq, or boolq.jsonl"):
        load("boolq", tmp_path)
    with pytest.raises(InputError, match="no package carries race-h: give --data FILE or DIR"):
        load("race-h")


def test_what_packages_carry():
    try:
        boolq, piqa = load("boolq")[0], load("piqa")[0]
    except InputError as error:
        pytest.skip(f"no package index: {error}")
    assert (len(boolq), len(piqa)) == (3270, 1500)
    assert sum(item.gold for item in boolq) == 2033  # 62.17 % yes
    assert sum(item.gold for item in piqa) == 746


def test_cloze_is_made_of_prose(monkeypatch):
    try:
        texts = [record["text"] for record in passages()]
    except InputError as error:
        pytest.skip(f"no package index: {error}")
    assert 200 < len(texts) == len(set(texts))
    for text in texts:
        context, _, word = text.rpartition(" ")
        assert len(context.split()) >= WORDS and len(word) >= SHORTEST and word.isalpha()
        assert re.search(rf"\b{word}\b", context, re.IGNORECASE)
    assert load("cloze")[0][0].options == (texts[0].split()[-1],)


def test_sentences_in_the_form_of_hans_are_made():
    items, pool = load("hans", shots=1)
    assert len(items) == len(set(items)) == 3000 and pool == items
    assert sum(item.gold for item in items) == 1500


def test_where_items_come_from_is_said():
    assert origin("piqa") == "PIQA, 1500 of 1838 validation items"
    assert origin("cloze").endswith("; not LAMBADA") and origin("hans").endswith("; not HANS")
    assert origin("wic", "hub") == "hf:aps/super_glue:wic:validation"
    assert origin("wic", "sets/wic.jsonl") == "sets/wic.jsonl"


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the library `datasets`, that notes what it is asked for."""
    asked, module = [], ModuleType("datasets")
    module.load_dataset = lambda *args, split: asked.append((*args, split)) or ROWS
    monkeypatch.setitem(sys.modules, "datasets", module)
    return asked


def test_the_hub(hub):
    items, pool = load("boolq", "hub", shots=2)
    assert len(items) == len(pool) == 4
    assert hub == [
        ("aps/super_glue", "boolq", "validation"), ("aps/super_glue", "boolq", "train")
    ]  # fmt: skip
    with pytest.raises(InputError, match="cloze is made here and on no hub"):
        load("cloze", "hub")


def test_without_a_training_split_on_the_hub(hub):
    hub_rows = [{"text": "a b"}, {"text": "c d"}]
    sys.modules["datasets"].load_dataset = lambda *args, split: hub_rows
    items, pool = load("lambada", "hub", shots=1)
    assert pool == items and items[0].before == ("a ____. ->",)


def test_every_task_but_our_own_is_on_the_hub():
    for name, task in TASKS.items():
        assert name == "cloze" or task.split in task.hub
        assert task.hub is None or set(task.hub) <= {"test", "dev", "train"}


def test_the_library_itself(tmp_path, monkeypatch):
    """On a folder in the hub's form: the real loading, without the network."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    pytest.importorskip("datasets")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text(lines(ROWS[:1]))
    (folder / "validation.jsonl").write_text(lines(ROWS[1:]))
    specs = {"dev": f"hf:{folder}::validation", "train": f"hf:{folder}::train"}
    changed = TASKS["boolq"]._replace(hub=specs)
    monkeypatch.setitem(TASKS, "boolq", changed)
    items, pool = datasets.load("boolq", "hub", shots=1)
    assert (len(items), len(pool)) == (3, 1)
