"""Files of the user: what is text is read, what isn't is named."""

import gzip
import json

import pytest
import zstandard

from minimtnlg.data.local import local_texts
from minimtnlg.errors import InputError


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_folder_in_order_without_what_is_hidden_or_no_text(tmp_path):
    put(tmp_path / "b.txt", "b\r\nb")
    put(tmp_path / "a" / "c.MD", "\ufeffc été")
    put(tmp_path / "a" / "d.py", "d")
    put(tmp_path / "picture.png", b"\x89PNG")
    put(tmp_path / ".git" / "x.txt", "no")
    put(tmp_path / ".hidden.txt", "no")
    put(tmp_path / "e.tar.gz", b"no")
    found = [(text, name) for text, name, *_ in local_texts(tmp_path)]
    assert found == [("c été", "a/c.MD"), ("d", "a/d.py"), ("b\nb", "b.txt")]


PACK = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.zst": zstandard.compress}


@pytest.mark.parametrize("suffix", PACK)
def test_json_lines(tmp_path, suffix):
    two = {"text": "two", "id": 7, "url": "http://a/b", "meta": {"lang": "en"}}
    records = [{"text": "one", "id": None, "url": None}, two]
    content = "\n\n".join(map(json.dumps, records)).encode()
    path = put(tmp_path / f"x.y{suffix}", PACK[suffix](content))
    expected = [("one", f"x.y{suffix}:1", "", {}), ("two", "7", "http://a/b", {"lang": "en"})]
    assert list(local_texts(path)) == list(local_texts(tmp_path)) == expected


def test_a_named_file_is_read_whatever_its_suffix(tmp_path):
    path = put(tmp_path / "README", "words")
    assert list(local_texts(path)) == [("words", "README", "", {})]
    with pytest.raises(InputError, match="no text in .*: no file there ends in one of .*[.]jsonl"):
        list(local_texts(tmp_path))


@pytest.mark.parametrize(
    "name, content, match",
    [
        ("a.txt", b"good\xff", r"a\.txt isn't UTF-8 text: byte 4 is 0xff"),
        ("a.jsonl", b'{"text": "good"}\n{"text": "\xff"}', r"a\.jsonl line 2 isn't UTF-8"),
        ("a.jsonl", b'{"text": "good"}\n{"text": ', r"a\.jsonl line 2 isn't JSON"),
        ("a.jsonl", b'{"content": "good"}', r"a\.jsonl line 1 has no string under the key 'text'"),
        ("a.jsonl", b'{"text": 3}', "line 1 has no string"),
        ("a.jsonl", b'["text"]', "line 1 has no string"),
        ("a.jsonl.gz", b"no gzip", r"can't read .*a\.jsonl\.gz: "),
        ("a.jsonl.gz", gzip.compress(b'{"text": "good"}\n' * 99, mtime=0)[:-9], "is it complete"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(tmp_path, name, content, match):
    put(tmp_path / name, content)
    with pytest.raises(InputError, match=match) as caught:
        list(local_texts(tmp_path))
    assert "\n" not in str(caught.value)


def test_who_complains_reads_on(tmp_path, monkeypatch):
    monkeypatch.setattr("minimtnlg.data.local.LARGEST", 1000)
    endless = b'{"text": "' + b"x" * 5000 + b'"}'
    lines = [b'{"text": "a"}', endless, b"{", b'{"text": "\xff"}', b'{"text": " "}']
    lines += [b'{"text": "b"}']
    put(tmp_path / "a.jsonl", b"\n".join(lines))
    put(tmp_path / "b.txt", b"\xff")
    put(tmp_path / "c.txt", b"")
    put(tmp_path / "d.jsonl.zst", zstandard.compress(b'{"text": "d"}\n' * 99)[:-4])
    put(tmp_path / "e.py", "e")
    said = []
    found = [text for text, *_ in local_texts(tmp_path, said.append) if text.strip()]
    assert [text for text in found if text != "d"] == ["a", "b", "e"]
    places = ["a.jsonl line 2 is longer than 1,000", "line 3 isn't JSON", "line 4 isn't UTF-8"]
    places += ["line 5 has no text", "b.txt isn't UTF-8", "c.txt is empty", "d.jsonl.zst"]
    assert len(said) == len(places)
    assert all(place in message for place, message in zip(places, said, strict=True))


def test_code_and_pages_say_so(tmp_path):
    put(tmp_path / "a.py", "a")
    put(tmp_path / "b.html", "<p>b")
    assert [meta["kind"] for *_, meta in local_texts(tmp_path)] == ["code", "page"]
