"""`minimtnlg generate`: texts on stdout, one line for a mistake, and any layout."""

import functools
import io
import sys

import commands
import pytest

from minimtnlg.data.tokenizer import Tokenizer
from minimtnlg.evaluate.generate import beam, generate
from minimtnlg.train.checkpoint import load_run

PROMPT = "the other rank"


@pytest.fixture
def call(monkeypatch, capsys):
    """call("generate", run, ...) -> (exit status, stdout, stderr)."""

    return functools.partial(commands.call, monkeypatch, capsys)


@pytest.fixture(scope="module")
def run(random_run):
    return random_run("float64", layers=4)


@pytest.fixture(scope="module")
def words(run):
    return Tokenizer.load(run / "tokenizer.json")


@pytest.fixture(scope="module")
def written(run, words):
    """written(count, **options) -> the text that the package writes after PROMPT."""
    _, model = load_run(run)

    def write(count, prompt=PROMPT, samples=1, **options):
        ids = words.encode(prompt) or [words.eod]
        common = dict(eod=words.eod, vocab=words.size)
        found = generate(model, [ids] * samples, count, **common, **options)
        return [prompt + words.decode(new) for new in found]

    return write


def test_the_text_goes_on(call, run, written):
    status, out, err = call("generate", run, "--prompt", PROMPT, "--count", 6)
    assert (status, out) == (0, written(6)[0] + "\n")
    assert err.startswith("6 tokens in ") and err.count("\n") == 1


def test_samples(call, run, written):
    options = dict(temperature=1.2, top_k=50, top_p=0.9, seed=4)
    words = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
    status, out, _ = call("generate", run, "--prompt", PROMPT, "--count=5", "--samples=3", *words)
    texts = written(5, samples=3, **options)
    assert (status, out) == (0, "\n\n".join(texts) + "\n") and len(set(texts)) == 3


def test_beams_come_with_their_log_probabilities(call, run, words):
    _, model = load_run(run)
    found = beam(model, words.encode(PROMPT), 4, 3, eod=words.eod, vocab=words.size)
    status, out, _ = call("generate", run, "--prompt", PROMPT, "--count", 4, "--beams", 3)
    expected = [f"{total:8.3f}  {PROMPT}{words.decode(ids)}" for ids, total in found]
    assert (status, out) == (0, "\n\n".join(expected) + "\n")


def test_the_prompt_may_come_from_stdin_or_be_empty(call, run, written, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(PROMPT + "\n"))
    assert call("generate", run, "--prompt", "-", "--count", 6)[1] == written(6)[0] + "\n"
    assert call("generate", run, "--prompt", "", "--count", 6)[1] == written(6, "")[0] + "\n"


def test_it_ends_before_a_stop_wherever_tokens_begin(call, run, written):
    text = written(8)[0].removeprefix(PROMPT)
    end = text[3:5]  # two characters of no token in particular
    status, out, _ = call("generate", run, "--prompt", PROMPT, "--count", 8, "--stop", end)
    assert (status, out) == (0, PROMPT + text[: text.index(end)] + "\n")


@pytest.mark.parametrize("layout", [["parallel.tp=2", "parallel.pp=2"], ["parallel.pp=4"]])
def test_local_ranks_write_the_same(call, run, written, layout):
    status, out, _ = call("generate", run, *layout, "--prompt", PROMPT, "--count", 5)
    assert (status, out) == (0, written(5)[0] + "\n")


@pytest.mark.parametrize(
    "args, says",
    [
        (["--prompt", "the other rank receives " * 9], "tokens: the model sees 24"),
        (["--prompt", "x", "--temperature", "1", "--top-p", "1.5"], "top_p=1.5"),
        (["--prompt", "x", "--temperature", "-1"], "temperature=-1.0"),
        (["--prompt", "x", "--top-p", "0.9"], "add --temperature 1"),
        (["--prompt", "x", "--samples", "2"], "add --temperature 1"),
        (["--prompt", "x", "--beams", "0"], "a beam of width 0"),
        (["--prompt", "x", "--beams", "2", "--temperature", "1"], "leave out the others"),
        (["--prompt", "x", "--count", "-3"], "-3 tokens to generate"),
        (["--prompt", "x", "--stop", ""], "can't end at the empty text"),
        (["--prompt", "x", "parallel.tp=3"], "parallel.tp=3 does not divide model.heads=4"),
        (["--prompt", "x", "parallel.zero=1"], "parallel.zero: a model in use is cut by"),
        (["--prompt", "x" * 99, "parallel.tp=2"], "tokens: the model sees 24"),
    ],
)
def test_a_mistake_is_one_line(call, run, args, says):
    status, out, err = call("generate", run, *args)
    assert (status, out) == (2, "") and says in err
    assert err.startswith("minimtnlg: ") and err.count("\n") == 1


def test_a_folder_that_is_no_run(call, tmp_path):
    status, _, err = call("generate", tmp_path / "nowhere", "--prompt", "x")
    assert status == 2 and "is no folder of weights" in err and err.count("\n") == 1


def test_a_tokenizer_of_another_model(call, random_run, words):
    run = random_run(vocab=256)
    status, _, err = call("generate", run, "--prompt", "x")
    assert status == 2 and "they do not belong together" in err and err.count("\n") == 1
