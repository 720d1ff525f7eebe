"""need: made once, by one of two lessons that ask at the same time, never half, never again."""

import dataclasses
import json
import sys
import threading
import time

import pytest

from minimtnlg import config
from minimtnlg.cli import main
from minimtnlg.course.need import need
from minimtnlg.data import prepare as prepare_module
from minimtnlg.errors import InputError
from minimtnlg.train import trainer
from minimtnlg.train.mini import Mini


@pytest.fixture
def made(tmp_path, monkeypatch):
    """What was made, in order; making costs nothing here."""
    log = []

    def prepare(out, sources=None, vocab=2048, progress=True):
        log.append("corpus")
        out.mkdir(parents=True)
        (out / "tokenizer.json").write_text("{}")
        (out / "corpus.json").write_text("{}")

    def train(recipe, out, progress=True, ranks=None, resume=False):
        assert resume and ranks in (1, 2)
        log.append((recipe.model.hidden, recipe.data.path))
        time.sleep(0.05)  # so that a second lesson comes while the first is at it
        out.mkdir(parents=True, exist_ok=True)
        (out / "latest").write_text("step-1")
        return {"stopped": ""}

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
    small = need("small")
    assert (small / "latest").exists() and need("small") == small != nano
    hidden = [config.preset(name).model.hidden for name in ("nano", "small")]
    assert made == ["corpus", *((size, str(corpus)) for size in hidden)]


def test_the_command_says_where_it_is(made, monkeypatch, capsys):
    """`make model` is this command: the second time it does nothing."""
    monkeypatch.setattr(sys, "argv", ["minimtnlg", "course", "need", "small"])
    for _ in range(2):
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        assert capsys.readouterr().out.splitlines()[-1] == str(need("small"))
    assert len(made) == 2  # the corpus and one training


def test_two_lessons_at_once_make_it_once(made, capsys):
    need("corpus")
    threads = [threading.Thread(target=need, args=["nano"]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 2


def interrupted(recipe, out, progress=True, ranks=None, resume=False):
    out.mkdir(parents=True)
    (out / "config.yaml").write_text("half")
    raise KeyboardInterrupt


def signalled(recipe, out, progress=True, ranks=None, resume=False):
    out.mkdir(parents=True)
    (out / "config.yaml").write_text("half")
    (out / "latest").write_text("step-1")
    return {"stopped": "SIGTERM"}


@pytest.mark.parametrize(
    "ends, error", [(interrupted, KeyboardInterrupt), (signalled, InputError)]
)
def test_what_was_interrupted_goes_on(made, monkeypatch, ends, error):
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train", ends)
        with pytest.raises(error):
            need("small")
    small = need("small")  # given the folder as it was left, train goes on in it
    assert (small / "latest").exists() and (small / "config.yaml").read_text() == "half"
    assert not list(small.parent.glob("*.begun")) and need("small") == small
    assert len(made) == 2  # the corpus and the second training


def test_a_real_training_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    """In two pieces it has every step once, with the losses of one piece."""
    monkeypatch.setenv("MINIMTNLG_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text").mkdir()
    for i in range(20):
        (tmp_path / f"text/{i:02}.txt").write_text(f"node {i} sends a slice to the next one. " * 20)
    corpus = tmp_path / "cache" / "corpus"
    prepare_module.prepare(corpus, [tmp_path / "text"], vocab=270, progress=False)
    tiny = config.load("nano", [
        "model.layers=1", "model.hidden=16", "model.heads=2", "model.seq=16", "model.vocab=1024",
        "train.tokens=0", "train.steps=12", "train.global_batch=4", "train.ramp=null",
        "train.save_every=4", "train.async_save=false", "data.weights={}", "data.split=[90,10,0]",
    ])  # fmt: skip
    monkeypatch.setattr(config, "preset", lambda name: tiny)
    step, seen = Mini.step, []

    def mortal(self, *args, **kwargs):
        seen.append(args)
        if len(seen) == 7:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Mini, "step", mortal)
        with pytest.raises(KeyboardInterrupt):
            need("nano", progress=False)
        [begun] = corpus.parent.glob("nano-*.begun")
        assert (begun / "latest").read_text() == "step-4"
    run = need("nano", progress=False)
    whole = config.load(run / "config.yaml")
    trainer.train(whole, tmp_path / "whole", progress=False)
    losses = [
        [json.loads(row)["loss"] for row in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (run, tmp_path / "whole")
    ]
    assert len(losses[0]) == 12 and losses[0] == losses[1]


def test_another_recipe_is_another_nano(made, monkeypatch):
    first = need("nano")
    nano = config.preset("nano")
    other = dataclasses.replace(nano, train=dataclasses.replace(nano.train, seed=99))
    monkeypatch.setattr(config, "preset", lambda name: other)
    assert need("nano") != first


def test_unknown_thing_is_one_line():
    with pytest.raises(InputError, match="need\\('gpt4'\\).*corpus, tokenizer, nano, small"):
        need("gpt4")
