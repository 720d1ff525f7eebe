"""need: made once, by one of two lessons that ask at the same time, and never half."""

import dataclasses
import json
import threading
import time

import pytest

from minimtnlg import config
from minimtnlg.course.need import need
from minimtnlg.data import prepare as prepare_module
from minimtnlg.errors import InputError
from minimtnlg.train import trainer


@pytest.fixture
def made(tmp_path, monkeypatch):
    """What was made, in order; making costs nothing here."""
    log = []

    def prepare(out, sources=None, vocab=2048, progress=True):
        log.append("corpus")
        out.mkdir(parents=True)
        (out / "tokenizer.json").write_text("{}")
        (out / "corpus.json").write_text("{}")

    def train(recipe, out, progress=True):
        log.append(("nano", recipe.data.path))
        time.sleep(0.05)  # so that a second lesson comes while the first is at it
        out.mkdir(parents=True)
        (out / "latest").write_text("step-1")

    monkeypatch.setenv("MINIMTNLG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepare_module, "prepare", prepare)
    monkeypatch.setattr(trainer, "train", train)
    return log


def test_each_thing_is_made_once_and_said_beforehand(made, tmp_path, capsys):
    corpus = need("corpus")
    assert json.loads((corpus / "corpus.json").read_text()) == {}
    assert "making the default corpus" in capsys.readouterr().out
    assert need("tokenizer") == corpus / "tokenizer.json"
    nano = need("nano")
    assert (nano / "latest").exists() and nano.parent == tmp_path / "cache"
    assert need("nano") == nano and need("corpus") == corpus
    assert made == ["corpus", ("nano", str(corpus))]


def test_two_lessons_at_once_make_it_once(made, capsys):
    need("corpus")
    threads = [threading.Thread(target=need, args=["nano"]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 2


def test_what_was_interrupted_is_made_again(made, monkeypatch):
    def fails(recipe, out, progress=True):
        out.mkdir(parents=True)
        (out / "config.yaml").write_text("half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train", fails)
        with pytest.raises(KeyboardInterrupt):
            need("nano")
    nano = need("nano")
    assert (nano / "latest").exists() and not (nano / "config.yaml").exists()


def test_another_recipe_is_another_nano(made, monkeypatch):
    first = need("nano")
    nano = config.preset("nano")
    other = dataclasses.replace(nano, train=dataclasses.replace(nano.train, seed=99))
    monkeypatch.setattr(config, "preset", lambda name: other)
    assert need("nano") != first


def test_unknown_thing_is_one_line():
    with pytest.raises(InputError, match="need\\('gpt4'\\).*corpus, tokenizer, nano"):
        need("gpt4")
