"""`minimtnlg evaluate`: one table whatever the layout, however often it was killed."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from commands import call

from minimtnlg.errors import InputError
from minimtnlg.evaluate import evaluation
from minimtnlg.evaluate.evaluation import checksum, evaluate
from minimtnlg.evaluate.measure import Memory
from minimtnlg.train.huggingface import to_huggingface

ITEMS = 300


@pytest.fixture(scope="module")
def run(random_run):
    return random_run("float64", seq=60, layers=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two tasks; questions of BoolQ's form about nothing, some too long for the model."""
    folder = tmp_path_factory.mktemp("data")
    rows = [
        {"passage": f"one rank sends {'to the other ' * (i % 9)}", "question": f"is it {i}",
         "answer": i % 3 == 0} for i in range(ITEMS)
    ]  # fmt: skip
    (folder / "boolq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "lambada.txt").write_text("one rank sends the\nthe other rank receives\n" * 3)
    return folder


@pytest.fixture
def own(run, tmp_path):
    """A copy of the run that has been asked nothing."""
    return shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation"))


def test_the_table_and_the_file(monkeypatch, capsys, own, data, tmp_path):
    status, out, _ = call(
        monkeypatch, capsys, "evaluate", own, "--tasks", "boolq,lambada", "--shots", "0,1",
        "--data", data, "--limit", 50, "--json", tmp_path / "results.json",
    )  # fmt: skip
    assert status == 0
    head, *rows = [line.split() for line in out.splitlines()[:5]]
    assert f"\nboolq: {data}\nlambada: {data}\n" in out
    assert head == ["task", "shots", "items", "accuracy", "+-", "majority", "chance", "MT-NLG",
                    "GPT-3", "Gopher"]  # fmt: skip
    assert [row[:3] for row in rows] == [
        ["boolq", "0", "50"], ["boolq", "1", "50"], ["lambada", "0", "6"], ["lambada", "1", "6"]
    ]  # fmt: skip
    assert rows[0][5:] == ["66.00", "50.00", "78.20", "60.50"]
    assert "items are longer than the model reads" in out
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    for row, result in zip(rows, results, strict=True):
        assert float(row[3]) == pytest.approx(100 * result["accuracy"], abs=0.006)
        assert result["seed"] == 1 and 0 < result["items"]
    assert results[1]["cut"] > results[0]["cut"] > 0


LAYOUTS = ["parallel.tp=2", "parallel.pp=2", "parallel.dp=2"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_table(own, data, layout):
    ask = dict(tasks=["boolq"], shots=[0, 1], data=data, limit=30, progress=False)
    right = evaluate(own, **ask)
    shutil.rmtree(own / "evaluation")
    assert evaluate(own, overrides=[layout], **ask) == right
    lines = next((own / "evaluation").iterdir()).read_text().splitlines()
    assert len(lines) == 61  # an empty one; each item and number of shots once, by one rank


def test_a_hugging_face_folder(own, data, tmp_path):
    to_huggingface(own, tmp_path / "hf")
    ask = dict(tasks=["boolq"], shots=[0], data=data, limit=30, progress=False)
    assert evaluate(tmp_path / "hf", **ask) == evaluate(own, **ask)
    (tmp_path / "hf" / "config.yaml").unlink()
    assert evaluate(tmp_path / "hf", **ask) == evaluate(own, **ask)


def test_killed_and_started_again(own, data, tmp_path):
    command = [sys.executable, "-m", "minimtnlg", "evaluate", str(own), "--tasks", "boolq"]
    command += ["--data", str(data), "--shots", "0,4", "--json", str(tmp_path / "a.json")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    memory = own / "evaluation"
    while not (memory.is_dir() and any(path.stat().st_size for path in memory.iterdir())):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "a.json").exists()
    subprocess.run(command, check=True, capture_output=True)
    found = json.loads((tmp_path / "a.json").read_text())["results"]
    (path,) = memory.iterdir()
    lines = path.read_text().split("\n")[1:]
    assert len(Memory(path).known) == 2 * ITEMS >= len(lines) - 1  # one may be cut
    shutil.rmtree(memory)
    right = evaluate(own, ["boolq"], [0, 4], data=data, progress=False)
    assert found == json.loads(json.dumps(right))


def test_other_weights_or_words_are_not_mixed(random_run, own):
    other = random_run("float64", seq=60, layers=1)
    first = checksum(own)
    assert checksum(other) != first == checksum(own)
    text = (own / "tokenizer.json").read_text()
    (own / "tokenizer.json").write_text(text + " ")
    assert checksum(own) != first


def test_a_folder_that_can_not_be_written_is_evaluated_all_the_same(own, data, capsys):
    right = evaluate(own, ["boolq"], [0], data=data, limit=5, progress=False)
    shutil.rmtree(own / "evaluation")
    (own / "evaluation").write_text("a file where the folder should be")
    assert evaluate(own, ["boolq"], [0], data=data, limit=5, progress=False) == right
    assert capsys.readouterr().err.startswith("scores are not kept for another time: ")


def test_weights_that_change_while_they_are_loaded(own, data, monkeypatch):
    def late(run, mesh):
        path = run / "tokenizer.json"
        path.write_text(path.read_text() + " ")  # as a training that saves meanwhile
        return opened(run, mesh)

    opened = evaluation.opened
    monkeypatch.setattr(evaluation, "opened", late)
    with pytest.raises(InputError, match="has other weights than a moment ago"):
        evaluate(own, ["boolq"], [0], data=data, limit=5, progress=False)
    assert not (own / "evaluation").exists()


def test_what_one_rank_of_a_launcher_misses_ends_all(own, data):
    """The second node has no such data: both end at once, with the same line."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}  # two nodes
    command = [sys.executable, "-m", "minimtnlg", "evaluate", str(own), "parallel.dp=2"]
    started = [
        subprocess.Popen(
            [*command, "--tasks", "boolq", "--data", str(place)], text=True,
            env=os.environ | common | {"RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank, place in enumerate((data, own / "nowhere"))
    ]  # fmt: skip
    for process in started:
        out, err = process.communicate(timeout=100)
        assert process.returncode == 2 and not out
        assert "rank 1: --data" in err and "there is no such file or folder" in err


@pytest.mark.parametrize(
    "args, says",
    [
        (["--tasks", "boolk"], "no task 'boolk'; did you mean 'boolq'?"),
        (["--tasks", ","], "--tasks names no task"),
        (["--tasks", "boolq", "--shots", "-1"], "--shots '-1': numbers from 0"),
        (["--tasks", "boolq", "--shots", "1,,2"], "--shots '': numbers from 0"),
        (["--tasks", "boolq", "--shots", "300"], "--shots 300: boolq has 300 examples to"),
        (["--tasks", "lambada", "--shots", "few"], "--shots 15: lambada has 6 examples"),
        (["--tasks", "boolq", "parallel.tp=3"], "parallel.tp=3 does not divide model.heads=4"),
        (["--tasks", "boolq", "parallel.zero=1"], "cut by tp, pp, dp alone"),
        (["--tasks", "boolq", "parallel.dp=auto"], "parallel.dp=auto: give the number"),
        (["--tasks", "boolq", "model.layers=3"], "no section 'model'"),
        (["--tasks", "wic"], "nothing there is called wic"),
        (["--tasks", "boolq,lambada", "--data", "FILE"], "is one file for 2 tasks"),
        (["--tasks", "lambada", "--data", "FILE"], "boolq.jsonl line 1 is no record of lambada"),
    ],
)
def test_a_mistake_is_one_line(monkeypatch, capsys, own, data, args, says):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    args = [str(data / "boolq.jsonl") if arg == "FILE" else arg for arg in args]
    args = args if "--data" in args else [*args, "--data", data]
    status, out, err = call(monkeypatch, capsys, "evaluate", own, *args)
    assert (status, out) == (2, "") and says in err
    assert err.startswith("minimtnlg: ") and err.count("\n") == 1


def test_folders_that_are_no_model(monkeypatch, capsys, own, data, tmp_path):
    (tmp_path / "megatron").mkdir()
    (tmp_path / "megatron" / "metadata.json").write_text("{}")
    for folder, says in {
        tmp_path / "nowhere": "is no folder of weights",
        tmp_path / "megatron": "checkpoint convert",
    }.items():
        args = "evaluate", folder, "--tasks", "boolq", "--data", data
        status, _, err = call(monkeypatch, capsys, *args)
        assert status == 2 and says in err and err.count("\n") == 1
    (own / "tokenizer.json").unlink()
    status, _, err = call(monkeypatch, capsys, "evaluate", own, "--tasks", "boolq", "--data", data)
    assert status == 2 and "no tokenizer at" in err
