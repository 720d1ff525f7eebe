"""A GPT-2 of the hub becomes a run that computes what transformers computes.

The hub is a small server on this machine; the client is the real one, in processes of its own,
since it reads its settings when it is imported.
"""

import functools
import http.server
import json
import os
import subprocess
import sys
import threading
from hashlib import sha1

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

from minimtnlg.data import tokenizer
from minimtnlg.data.tokenizer import Tokenizer
from minimtnlg.errors import InputError
from minimtnlg.evaluate.generate import greedy
from minimtnlg.train.checkpoint import load_run
from minimtnlg.train.hub import fetched
from minimtnlg.train.huggingface import from_huggingface, to_huggingface

COMMIT = "0123456789" * 4
TEXT = "one rank sends, the other rank's caf\u00e9 receives \u65e5  <|endoftext|> 'tis\n"


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A random GPT-2 as transformers saves it, with GPT-2's two older files of its vocabulary."""
    folder = tmp_path_factory.mktemp("theirs")
    words = tokenizer.train([TEXT * 9], 300)
    words.bpe.model.save(str(folder))
    torch.manual_seed(1)
    model = GPT2LMHeadModel(
        GPT2Config(
            n_layer=2, n_embd=32, n_head=4, n_positions=48, vocab_size=words.size,
            bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    (folder / "flax_model.msgpack").write_bytes(b"the same again, in a format of others")
    return folder


@pytest.fixture(scope="module")
def run(theirs, tmp_path_factory):
    out = tmp_path_factory.mktemp("ours") / "run"
    assert from_huggingface(theirs, out, "nano") == 0
    return out


def test_transformers_computes_the_same(theirs, run):
    config, model = load_run(run)
    reference = GPT2LMHeadModel.from_pretrained(theirs)
    vocab = reference.config.vocab_size
    assert vocab <= 300 and config.model.vocab == 1024
    tokens = torch.randint(vocab, (3, 48), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        found, expected = model(tokens).transpose(0, 1), reference(tokens).logits
    torch.testing.assert_close(found[..., :vocab], expected, rtol=0, atol=1e-5)
    # Padding takes no more of the probability than its share of the rows.
    share = found.double().softmax(-1)[..., vocab:].sum(-1)
    assert 0 < share.max() <= (1024 - vocab) / 1024


def test_text_is_read_as_gpt2_reads_it(theirs, run):
    ours = Tokenizer.load(run / "tokenizer.json")
    reference = GPT2Tokenizer(str(theirs / "vocab.json"), str(theirs / "merges.txt"))
    reference.split_special_tokens = True
    for text in (TEXT, "", " ", "the café\n\n  ranks' 'd 12 \u65e5\u672c"):
        assert ours.encode(text) == reference.encode(text)
        assert ours.decode(ours.encode(text)) == text
    assert ours.eod == reference.eos_token_id


def test_it_goes_back_to_transformers_and_writes_the_same(theirs, run, tmp_path):
    to_huggingface(run, tmp_path / "hf")
    _, model = load_run(run)
    own, words = Tokenizer.load(run / "tokenizer.json"), AutoTokenizer.from_pretrained(
        tmp_path / "hf"
    )
    prompt = words("the other rank", return_tensors="pt")
    found = GPT2LMHeadModel.from_pretrained(tmp_path / "hf").generate(
        **prompt, max_new_tokens=12, do_sample=False
    )
    expected = greedy(model, own.encode("the other rank"), 12, own.eod, own.size)
    assert found[0, prompt["input_ids"].shape[1] :].tolist() == expected


def test_a_vocabulary_larger_than_the_embedding(theirs, tmp_path):
    for path in theirs.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    vocabulary = json.loads((theirs / "vocab.json").read_text())
    vocabulary |= {f"more{i}": len(vocabulary) + i for i in range(5)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(InputError, match="has 305 tokens, its model has only 300 rows"):
        from_huggingface(tmp_path, tmp_path / "run", "nano")


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("vocab.json", "[", "are no vocabulary"),
        ("merges.txt", "#version\nno-pair", "are no vocabulary"),
        ("merges.txt", None, "can't read .*merges.txt: No such file"),
    ],
)
def test_files_that_are_no_vocabulary(theirs, tmp_path, name, content, says):
    for path in (theirs / "vocab.json", theirs / "merges.txt"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=says) as error:
        tokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt")
    assert "\n" not in str(error.value)


class Hub(http.server.BaseHTTPRequestHandler):
    """What the client asks a hub for: facts of a model, the list of its files, the files."""

    def __init__(self, folder, asked, *args):
        self.folder, self.asked = folder, asked
        super().__init__(*args)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.asked.append(path)
        files = {file.name: file.read_bytes() for file in self.folder.iterdir()}
        if path.startswith("/api/models/tiny/gpt2/tree/"):
            tree = [
                {"type": "file", "path": name, "size": len(x), "oid": sha1(x).hexdigest()}
                for name, x in files.items()
            ]
            self.answer(json.dumps(tree).encode())
        elif path.startswith("/api/models/tiny/gpt2"):
            self.answer(json.dumps({"id": "tiny/gpt2", "sha": COMMIT, "siblings": []}).encode())
        elif path.startswith(f"/tiny/gpt2/resolve/{COMMIT}/"):
            self.answer(files[path.rpartition("/")[2]])
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def answer(self, content):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def hub(theirs):
    """(address of a hub that has the model tiny/gpt2, list of the paths that it is asked for)."""
    asked = []
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Hub, theirs, asked)
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def command(home, *words, **environment):
    """The command in a process of its own; home: the client's cache."""
    return subprocess.run(
        [sys.executable, "-m", "minimtnlg", *words],
        env=os.environ | {"HF_HOME": str(home)} | environment,
        capture_output=True,
        text=True,
    )


def convert(name, out, home, **environment):
    words = ["checkpoint", "convert", name, "--to", "run", "--out", out, "--config", "nano"]
    return command(home, *words, **environment)


def test_from_the_hub_and_again_without_it(theirs, run, hub, tmp_path):
    address, asked = hub
    first = convert("hf:tiny/gpt2", tmp_path / "first", tmp_path / "cache", HF_ENDPOINT=address)
    assert first.returncode == 0, first.stderr
    assert any(path.endswith("/model.safetensors") for path in asked)
    assert not any("flax" in path for path in asked if "/resolve/" in path)
    del asked[:]
    offline = dict(HF_HUB_OFFLINE="1")
    again = convert("hf:tiny/gpt2", tmp_path / "again", tmp_path / "cache", **offline)
    assert again.returncode == 0 and not asked, again.stderr
    _, expected = load_run(run)
    for folder in ("first", "again"):
        _, found = load_run(tmp_path / folder)
        assert all(
            torch.equal(x, y)
            for x, y in zip(found.parameters(), expected.parameters(), strict=True)
        )
        assert (tmp_path / folder / "tokenizer.json").is_file()
    words = ["generate", "hf:tiny/gpt2", "--prompt", "the other rank", "--count", "5"]
    written = command(tmp_path / "cache", *words, **offline)
    own, (_, model) = Tokenizer.load(run / "tokenizer.json"), load_run(run)
    ids = greedy(model, own.encode("the other rank"), 5, own.eod, own.size)
    assert written.stdout == f"the other rank{own.decode(ids)}\n", written.stderr


@pytest.mark.parametrize("reached", ["a hub without it", "no network"])
def test_what_can_not_be_had_is_one_line(hub, tmp_path, reached):
    nowhere = "http://127.0.0.1:9"  # the port of discard, where nobody answers
    address = hub[0] if reached == "a hub without it" else nowhere
    failed = convert("hf:gpt2", tmp_path / "out", tmp_path / "cache", HF_ENDPOINT=address)
    assert (failed.returncode, failed.stdout) == (2, "")
    [line] = failed.stderr.splitlines()
    assert line.startswith("minimtnlg: couldn't fetch hf:gpt2: ")
    assert line.endswith("check the name and the network")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["hf:", "hf:a/b/c", "hf:../gpt2"])
def test_what_is_no_name(name):
    with pytest.raises(InputError, match=f"couldn't fetch {name}: .*Repo id") as error:
        fetched(name)
    assert "\n" not in str(error.value)


def test_without_the_library_it_says_what_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match="pip install 'minimtnlg\\[data\\]'"):
        fetched("hf:gpt2")
