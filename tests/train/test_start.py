"""What can't go well is found before the first step: on every rank, in one line, without a hang."""

import os
import socket
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

from minimtnlg import run
from minimtnlg.config import load
from minimtnlg.data.corpus import Corpus
from minimtnlg.data.prepare import prepare
from minimtnlg.errors import InputError
from minimtnlg.train import start
from minimtnlg.train.trainer import train

SMALL = [
    "model.layers=1", "model.hidden=16", "model.heads=2", "model.seq=16", "model.vocab=1024",
    "train.tokens=0", "train.steps=1", "train.global_batch=4", "train.micro_batch=1",
    "train.ramp=null", "train.eval_batches=1", "data.weights={}", "data.split=[80,20,0]",
]  # fmt: skip
WHOLE = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
LAUNCHER = [*WHOLE, "LOCAL_RANK", "LOCAL_WORLD_SIZE"]


def corpus_of(folder, word):
    text = folder / "text"
    text.mkdir(parents=True)
    for i in range(10):
        (text / f"{i}.txt").write_text(f"a rank {word} for its neighbour and goes on " * 50)
    prepare(folder / "corpus", [str(text)], vocab=300, progress=False)
    return folder


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """The home folders of three nodes: the first two have the same data, the third has other."""
    folders = [tmp_path_factory.mktemp(name) for name in ("first", "second", "third")]
    for folder, word in zip(folders, ("waits", "waits", "looks"), strict=True):
        corpus_of(folder, word)
    return folders


@pytest.fixture
def environment(monkeypatch):
    """Sets what a launcher would, and nothing else of it."""

    def given(values):
        for name in LAUNCHER:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return given


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"RANK": ""},
        {"RANK": "-1"},
        {"RANK": "2"},
        {"WORLD_SIZE": "abc"},
        {"WORLD_SIZE": "0"},
        {"MASTER_ADDR": ""},
        {"MASTER_PORT": ""},
        {"MASTER_PORT": "70000"},
    ],
    ids=str,
)
def test_an_environment_that_no_launcher_leaves(environment, wrong):
    environment(WHOLE | wrong)
    (name, value), *_ = wrong.items()
    with pytest.raises(InputError, match=f"{name}='{value}'.*launcher such as torchrun sets all"):
        start.launched()


@pytest.mark.parametrize("local", [("2", "2"), ("0", ""), ("", "2"), ("0", "3")])
def test_ranks_of_a_node_that_can_not_be(environment, local):
    environment(WHOLE | dict(zip(LAUNCHER[-2:], local, strict=True)))
    with pytest.raises(InputError, match=f"LOCAL_RANK='{local[0]}', LOCAL_WORLD_SIZE='{local[1]}'"):
        start.launched()


def test_without_a_launcher_or_with_a_whole_environment(environment):
    environment({"WORLD_SIZE": "4"})
    assert start.launched() == (0, None)
    environment(WHOLE | {"RANK": "1"})
    assert start.launched() == (1, 2)


def test_a_world_that_is_not_the_layout_s(environment, tmp_path):
    environment(WHOLE | {"WORLD_SIZE": "3"})
    config = load("nano", [*SMALL, "parallel.tp=2"])
    with pytest.raises(InputError, match="make 2 ranks, not 3: give a multiple of tp x pp = 2"):
        train(config, tmp_path / "run")
    with pytest.raises(InputError, match="--ranks 4: a launcher has started 3; leave it out"):
        train(load("nano", SMALL), tmp_path / "run", ranks=4)
    assert not (tmp_path / "run").exists()


def test_a_port_in_use(environment):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        environment(WHOLE | {"MASTER_PORT": str(port)})
        with pytest.raises(InputError, match=f"port {port} is in use on this node"):
            with start.joined():
                pass
    assert not dist.is_initialized()


@pytest.mark.parametrize("rank", ["0", "1"])
def test_ranks_that_do_not_come(environment, monkeypatch, rank):
    monkeypatch.setattr(start, "PATIENCE", 1)
    environment(WHOLE | {"RANK": rank, "MASTER_PORT": str(free_port())})
    with pytest.raises(InputError, match="after 1 s not all 2 ranks|rank 0 can't be reached"):
        with start.joined():
            pass
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    "here, there, says",
    [
        (0, "has no GPU", None),
        (0, "has a GPU", "rank 1 has a GPU, rank 0 has no GPU: give each rank a GPU"),
        (1, "has no GPU", "rank 0 sees 1 GPUs for 8 local ranks: give each rank a GPU"),
        (0, "sees 1 GPUs for 8 local ranks", "rank 1 sees 1 GPUs for 8 local ranks"),
    ],
)
def test_ranks_with_and_without_gpus_do_not_meet(environment, monkeypatch, here, there, says):
    environment({"LOCAL_WORLD_SIZE": "8"})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: here)
    store = dist.HashStore()
    store.set("rank 1", there)
    for rank in (0, 1):  # the second reads what the first has found
        if says:
            with pytest.raises(InputError, match=says):
                start._refuse_other_backends(store, rank, 2)
        else:
            start._refuse_other_backends(store, rank, 2)
        store.set("rank 1", there)


def launch(nodes, *overrides, out):
    """One rank on each node, as a launcher starts them: [(exit code, stderr)]."""
    world = {"WORLD_SIZE": str(len(nodes)), "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-m", "minimtnlg", "train", "nano", *SMALL, "data.path=corpus"]
    ranks = [
        subprocess.Popen(
            [*command, *overrides, "--out", str(out)],
            cwd=node,
            env=os.environ | WHOLE | world | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, node in enumerate(nodes)
    ]
    said = [rank.communicate(timeout=100)[1] for rank in ranks]
    return [(rank.returncode, text) for rank, text in zip(ranks, said, strict=True)]


def one_line(stderr):
    lines = [line for line in stderr.splitlines() if line.startswith("minimtnlg:")]
    assert len(lines) == 1 and "Traceback" not in stderr, stderr
    return lines[0]


def test_nodes_that_agree_train(nodes, tmp_path):
    """Their log has lines of progress, and no bar that never ends its line."""
    (code, stderr), other = launch(nodes[:2], out=tmp_path / "run")
    assert code == other[0] == 0 and other[1] == ""
    assert (tmp_path / "run" / "latest").exists()
    lines = stderr.splitlines()
    assert lines[-1].startswith("train: 100%") and "loss" in lines[-1]
    assert "\r" not in stderr


def test_a_node_with_other_data_or_none_is_found_on_every_rank(nodes, tmp_path):
    (tmp_path / "empty").mkdir()
    for node, says in (
        (nodes[2], "minimtnlg: rank 1 has another corpus than rank 0"),
        (tmp_path / "empty", "minimtnlg: rank 1: no corpus at corpus"),
    ):
        for code, stderr in launch([nodes[0], node], out=tmp_path / "run"):
            assert code == 2
            assert one_line(stderr).startswith(says)
        assert not (tmp_path / "run").exists()


def told(folder, differs):
    """What this rank is told when one thing is another on rank 1."""
    config, corpus, packages = load("nano", SMALL), Corpus(folder / "corpus"), ["torch"]
    if differs and dist.get_rank() == 1:
        if differs == "version of torch":
            start.version = lambda package: "0.1"
        else:
            config = load("nano", [*SMALL, "train.seed=2"])
    try:
        start.refuse_other_ranks(config, corpus, packages)
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("differs", ["version of torch", "configuration", ""])
def test_every_rank_says_what_differs(nodes, differs):
    for words in run(told, 2, nodes[0], differs):
        if differs:
            assert words.startswith(f"rank 1 has another {differs} than rank 0, ")
        else:
            assert words is None


def test_an_error_of_the_disk_says_what_it_means_here():
    with pytest.raises(InputError, match=r"^can't save step 3: .*No space left"):
        with start.together("can't save step 3"):
            raise OSError(28, "No space left on device")
    with pytest.raises(InputError, match="^no such layout$"):  # one that says so itself
        with start.together("can't save step 3"):
            raise InputError("no such layout")
