"""The command line: one line for a mistake, the right exit status, and the promised files."""

import subprocess
import sys

import pytest
from commands import call

from minimtnlg import cli, doctor
from minimtnlg.ranks import RankError

SMALL = [
    "model.layers=1", "model.hidden=32", "model.heads=2", "model.seq=32", "model.vocab=1024",
    "train.global_batch=4", "train.ramp=null", "train.tokens=0", "train.steps=4",
    "data.weights={}", "data.split=[80,20,0]", "train.eval_batches=1",
]  # fmt: skip


@pytest.mark.parametrize(
    "args, says",
    [
        (["train", "nanoo", "--out", "x"], "did you mean 'nano'"),
        (["train", "nano", "model.layer=3", "--out", "x"], "did you mean 'layers'"),
        (["train", "nano", "data.path=nowhere", "--out", "x"], "no corpus at nowhere"),
        (["train", "mtnlg-530b", "--out", "x"], "take 84,736 GB with gradients and moments"),
        (["data", "prepare", "--out", "x", "--vocab", "many"], "--vocab 'many'"),
        (["data", "prepare", "--out", "x", "--sources", "wikipedie"], "wikipedia"),
        (["data", "prepare", "--out", "x", "--sources", ","], "no source was named"),
        (["course", "run", "99"], "99"),
        (["course", "need", "large"], "known are corpus, tokenizer, nano, small"),
    ],
)
def test_a_mistake_is_one_line(monkeypatch, capsys, tmp_path, args, says):
    monkeypatch.chdir(tmp_path)
    status, out, err = call(monkeypatch, capsys, *args)
    assert status == 2
    assert says in err and err.startswith("minimtnlg: ") and err.count("\n") == 1
    assert "Traceback" not in err and not list(tmp_path.iterdir())


def test_prepare_train_and_what_they_print(monkeypatch, capsys, tmp_path):
    text = tmp_path / "text"
    text.mkdir()
    for i in range(10):
        (text / f"{i}.txt").write_text("one rank sends and the other rank receives " * 40)
    corpus, run = tmp_path / "corpus", tmp_path / "run"
    status, out, _ = call(
        monkeypatch, capsys, "data", "prepare", "--out", corpus, "--sources", text, "--vocab", 300
    )
    assert status == 0 and "text" in out and (corpus / "corpus.json").is_file()
    status, out, _ = call(
        monkeypatch, capsys, "train", "nano", *SMALL, f"data.path={corpus}", "--out", run
    )
    assert status == 0
    assert "4 steps, 512 tokens" in out and "unigram entropy" in out and "greedy sample" in out
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    names = {path.name for path in run.iterdir()}
    expected = "config.yaml tokenizer.json metrics.jsonl checkpoints latest loss.png .lock".split()
    assert names == set(expected)
    status, _, err = call(
        monkeypatch, capsys, "train", "nano", *SMALL, f"data.path={corpus}", "--out", run
    )
    assert status == 2 and "holds a run or other files" in err
    for place in (text / "0.txt", text / "0.txt" / "run"):  # a file is where the folder should be
        status, _, err = call(
            monkeypatch, capsys, "train", "nano", *SMALL, f"data.path={corpus}", "--out", place
        )
        assert status == 2 and str(place) in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "error, status, says",
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device"), 2, "No space left on device"),
        (ModuleNotFoundError("No module named 'x'", name="x"), 2, "minimtnlg doctor says"),
    ],
)
def test_what_stops_a_command_is_one_line(monkeypatch, capsys, error, status, says):
    def stop(*_):
        raise error

    monkeypatch.setattr("minimtnlg.config.load", stop)
    code, _, err = call(monkeypatch, capsys, "train", "nano", "--out", "x")
    assert code == status
    assert err.startswith("minimtnlg: ") and says in err and err.count("\n") == 1


def test_a_mistake_found_in_a_rank_is_one_line_too(monkeypatch, capsys):
    def fail(message):
        raise RankError("rank 0 of 1 raised ...", 0, "InputError", message, "lines")

    monkeypatch.setattr(cli, "app", lambda: fail("parallel.tp=3 does not divide"))
    assert call(monkeypatch, capsys) == (2, "", "minimtnlg: parallel.tp=3 does not divide\n")


def test_a_corpus_that_changed_since_is_not_reused(monkeypatch, capsys, tmp_path):
    (tmp_path / "a.txt").write_text("one rank sends and the other rank receives " * 40)
    words = ["data", "prepare", "--out", tmp_path / "corpus", "--vocab", 300]
    words += ["--sources", tmp_path / "a.txt"]
    assert call(monkeypatch, capsys, *words)[0] == 0
    file = next((tmp_path / "corpus").glob("*.bin"))
    tokens = bytearray(file.read_bytes())
    tokens[0] ^= 1
    file.write_bytes(tokens)
    status, _, err = call(monkeypatch, capsys, *words)
    assert status == 2 and "has changed since it was prepared" in err


def test_a_run_becomes_a_hugging_face_folder_and_comes_back(
    monkeypatch, capsys, tmp_path, random_run
):
    monkeypatch.chdir(tmp_path)
    convert, run = ("checkpoint", "convert"), random_run()
    status, out, _ = call(monkeypatch, capsys, *convert, run, "--to", "hf", "--out", "hf")
    assert (status, out) == (0, f"hf  kind hf, from {run}, step 7\n")
    status, out, _ = call(monkeypatch, capsys, *convert, "hf", "--to", "run", "--out", "back")
    assert (status, out) == (0, "back  kind run, from hf, step 7\n")
    files = ("index.json", "rank-00000.safetensors")
    names = ("config.yaml", "tokenizer.json", "latest")
    for name in (*names, *(f"checkpoints/step-7/{file}" for file in files)):
        assert (tmp_path / "back" / name).read_bytes() == (run / name).read_bytes()


def test_conversions_that_make_no_sense(monkeypatch, capsys, tmp_path, random_run):
    run, hf, megatron = random_run(), tmp_path / "hf", tmp_path / "megatron"
    for folder, name in ((hf, "config.json"), (megatron, "metadata.json")):
        folder.mkdir()
        (folder / name).write_text("{}")
    cases = [
        (tmp_path, "hf", "is no folder of weights: none of run (latest), hf (config.json), meg"),
        (run, "onnx", "--to 'onnx': one of run, hf, megatron"),
        (run, "run", "is of the kind run already"),
        (hf, "megatron", "is of the kind hf: convert it --to run, then that --to megatron"),
        (hf, "run", "has no config.yaml, it is not minimtnlg's own export"),
        (megatron, "run", "it holds pickles, which can run any code on this machine"),
        (run, "hf --out there", "is there already"),
    ]
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    for path, to, says in cases:
        words = ["checkpoint", "convert", path, "--out", "out", "--to", *to.split()]
        status, out, err = call(monkeypatch, capsys, *words)
        assert (status, out) == (2, "") and says in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_sources_are_listed_with_their_licences(monkeypatch, capsys):
    status, out, _ = call(monkeypatch, capsys, "data", "sources")
    assert status == 0
    assert "wikipedia" in out and "CC BY-SA" in out and "python-source" in out


def test_help_names_every_command():
    done = subprocess.run(
        [sys.executable, "-m", "minimtnlg", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    for command in ("doctor", "data", "train", "checkpoint", "launch", "course"):
        assert f" {command} " in done.stdout


def test_doctor_says_what_is_missing_and_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setitem(doctor.EXTRAS, "eval", ["no-such-module"])
    monkeypatch.setitem(doctor.TOOLS, "no-such-tool", ("nothing", "apt-get install nothing"))
    status, out, _ = call(monkeypatch, capsys, "doctor")
    assert status == 0
    for word in ("torch", "GFLOP/s in bfloat16", "16 MiB between two ranks", "matplotlib"):
        assert word in out
    assert "missing no-such-module: pip install -c constraints.txt -e '.[eval]'" in out
    assert "missing (nothing): apt-get install nothing" in out
