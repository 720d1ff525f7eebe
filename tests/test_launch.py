"""The scripts of `minimtnlg launch`: what they say, and, but for Slurm's, what they do when run.

Slurm's script runs on a real Slurm in tests/slurm. The files for Kubernetes and Azure are read by
the vendors' own models. A stand-in for Python tells how it was called.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from minimtnlg import launch
from minimtnlg.config import load, sized
from minimtnlg.course.release import PAGES
from minimtnlg.data.prepare import prepare
from minimtnlg.engines import ENGINES, installed
from minimtnlg.errors import InputError
from minimtnlg.launch import TARGETS, script
from minimtnlg.parallel.layout import Layout

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "scaling" / "configs"
SHELL = ("torchrun", "slurm", "deepspeed")
EIGHT = ["parallel.tp=2", "parallel.pp=2", "parallel.dp=2", "train.micro_batch=1"]
TRICKY = 'data.path="it\'s $HOME $(id) `id` \\"here\\"; * {}"'
TELL = """#!/bin/bash
printf '%s\\n' "$@"
printf 'in %s, %s ranks here, order %s\\n' "$PWD" "${LOCAL_WORLD_SIZE-}" "$OMP_NUM_THREADS"
"""


@pytest.fixture
def teller(tmp_path):
    """A stand-in for Python that prints its arguments, one a line; with a blank in its path."""
    (tmp_path / "a b").mkdir()
    path = tmp_path / "a b" / "python"
    path.write_text(TELL)
    path.chmod(0o755)
    return path


def shell(text, folder, *arguments, **variables):
    """Run a script in `folder`; give the finished process."""
    file = folder / "its name" / "go.sh"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return subprocess.run(
        ["bash", file, *map(str, arguments)], cwd=folder, env=os.environ | variables,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def read_yaml(text):
    """The documents of a file, a list."""
    return list(YAML(typ="safe", pure=True).load_all(text))


# What they say.


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("overrides", [[], EIGHT, [*EIGHT, TRICKY]], ids=["one", "eight", "tricky"])
def test_every_script_can_be_read(target, overrides, tmp_path):
    text = script("nano", overrides, target=target, here=tmp_path)
    assert script("nano", overrides, target=target, here=tmp_path) == text
    assert not re.search(r"\{%|\{\{ |\{#", text)
    assert text.endswith("\n") and not re.search(r"[ \t]+$", text, re.MULTILINE)
    if target in SHELL:
        done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr
    else:
        assert all(isinstance(document, dict) for document in read_yaml(text))


def test_every_template_is_used_and_packed():
    names = {path.name for path in (ROOT / "minimtnlg" / "templates").iterdir()}
    used = {target.template for target in TARGETS.values()}
    assert names == used | {"environment.sh", "header.txt"} | {*PAGES.values(), "feedback.html"}
    assert '"templates/*"' in (ROOT / "pyproject.toml").read_text()


CLUSTER = [p for p in sorted(CONFIGS.glob("*.yaml")) if p.stem not in ("nano", "small", "micro")]


@pytest.mark.parametrize("path", CLUSTER, ids=lambda path: path.stem)
def test_every_configuration_gets_its_machines(path):
    """As many nodes as the file says, whole ones, and no tensor group between two of them."""
    said = re.search(r"# Machines: (\d+) nodes? of (\d+) ", path.read_text()).groups()
    text = script(path, target="slurm")
    assert re.search(r"^#SBATCH --nodes=(\d+)$", text, re.MULTILINE)[1] == said[0]
    assert re.search(r"^#SBATCH --ntasks-per-node=(\d+)$", text, re.MULTILINE)[1] == said[1]
    assert ("#SBATCH --exclusive" in text) == (said[1] == "8")
    p = sized(load(path)).parallel
    _, between = Layout(tp=p.tp, pp=p.pp, dp=p.dp).links("tp", gpus_per_node=8)
    assert between == 0


def test_nodes_decide_how_many_replicas():
    text = script("nano", ["parallel.tp=2", "train.micro_batch=1"], target="slurm", nodes=2,
                  gpus_per_node=4)  # fmt: skip
    assert "tp 2 x pp 1 x dp 4 are 8 ranks" in text and "--nodes=2" in text


@pytest.mark.parametrize(
    "source, name",
    [("nano", "nano"), ("gpt-1.3b.yaml", "gpt-1-3b"), ("7B_Ü.yaml", "run-7b"), ("_.yaml", "run")],
)
def test_names_are_what_schedulers_accept(source, name):
    assert launch._name(source) == name


@pytest.mark.parametrize("target", TARGETS)
def test_one_queue_is_for_the_tensor_groups_of_megatron(target):
    if not installed("megatron.core"):
        pytest.skip("megatron-core is not installed: pip install -e '.[engines]'")
    name = "CUDA_DEVICE_MAX_CONNECTIONS"
    assert name in script("nano", EIGHT, target=target, engine="megatron")
    assert name not in script("nano", EIGHT, target=target)
    assert name not in script("nano", target=target, engine="megatron")


# What cannot be.


@pytest.mark.parametrize(
    "source, overrides, options, says",
    [
        ("nano", [], {"target": "slrum"}, "no target 'slrum'; .* did you mean 'slurm'"),
        ("nano", [], {"engine": "megatorn"}, "no engine 'megatorn'; .* did you mean 'megatron'"),
        ("nano", [], {"nodes": 0}, "--nodes 0: one or more"),
        ("nano", [], {"gpus_per_node": 0}, "--gpus-per-node 0: one or more"),
        ("nano", ["parallel.dp=2"], {"nodes": 2}, "make 2 ranks, not 16"),
        (
            "nano",
            ["parallel.pp=3", "parallel.dp=4", "train.micro_batch=1"],
            {},
            "tp=1 x pp=3 x dp=4 = 12 ranks do not fill whole nodes of 8 GPUs: choose a multiple",
        ),
        (
            "nano",
            ["parallel.tp=4", "parallel.pp=3"],
            {"gpus_per_node": 6},
            "6 of them on a node, would cut tensor groups of 4 between nodes",
        ),
        ("turing-17b", [], {"target": "torchrun"}, "need 32 nodes .* choose --target slurm"),
        (
            "nano",
            [*EIGHT, "parallel.dp=4"],
            {"target": "azureml", "gpus_per_node": 16},
            "a node of --target azureml has 8",
        ),
        ("nano", [], {"target": "azureml", "run": "mine"}, "--run mine: Azure .* leave --run out"),
        ("/etc/hosts.yaml", [], {}, "can't read the configuration"),
        ("nano", ["parallel.tp=3"], {}, "choose one of"),
    ],
)
def test_what_cannot_be_is_one_line(source, overrides, options, says):
    options = {"target": "slurm"} | options
    with pytest.raises(InputError, match=says) as error:
        script(source, overrides, **options)
    assert "\n" not in str(error.value)


def test_what_the_engine_cannot_do_is_refused_here_already():
    if not installed("deepspeed"):
        pytest.skip("deepspeed is not installed: pip install -e '.[engines]'")
    gpipe = [*EIGHT, "parallel.schedule=gpipe"]
    script("nano", gpipe, target="slurm")
    with pytest.raises(InputError, match="parallel.schedule=gpipe: choose 1f1b"):
        script("nano", gpipe, target="slurm", engine="deepspeed")


def test_an_engine_that_is_only_on_the_cluster_is_left_to_it(monkeypatch):
    monkeypatch.setattr("minimtnlg.engines.installed", lambda package: package == "torch")
    gpipe = [*EIGHT, "parallel.schedule=gpipe"]
    assert "--engine deepspeed" in script("nano", gpipe, target="slurm", engine="deepspeed")


@pytest.mark.parametrize("target", ["kubernetes", "azureml"])
def test_a_configuration_that_the_job_would_not_see(tmp_path, target):
    here = tmp_path / "project"
    (here / "configs").mkdir(parents=True)
    inside, outside = here / "configs" / "mine.yaml", tmp_path / "mine.yaml"
    for file in (inside, outside):
        file.write_text((CONFIGS / "nano.yaml").read_text())
    assert re.search(r'[ "]configs/mine\.yaml\b', script(inside, target=target, here=here))
    with pytest.raises(InputError, match="lies outside of .*, the folder that the job sees"):
        script(outside, target=target, here=here)


def test_the_command_writes_a_new_file_and_says_how_to_start_it(monkeypatch, capsys, tmp_path):
    from minimtnlg import cli

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["minimtnlg", "launch", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0, *capsys.readouterr()

    out = tmp_path / "new folder" / "go.sh"
    words = ["nano", "parallel.tp=2", "--target", "slurm"]
    status, told, _ = call(*words, "--out", str(out))
    assert (status, told) == (0, f"start it with: sbatch {shlex.quote(str(out))}\n")
    status, told, _ = call(*words)
    assert (status, told) == (0, out.read_text())
    status, told, wrong = call("nano", "--target", "slurm", "--out", str(out))
    assert (status, told) == (2, "") and wrong.count("\n") == 1
    assert f"{out} is there already" in wrong and out.read_text() == call(*words)[1]


# What they do.


def called(overrides, engine="mini", run="runs/nano"):
    return ["-m", "minimtnlg", "train", "nano", *overrides, "--engine", engine, "--out", run]


def test_torchrun_gets_every_word_as_it_is(teller, tmp_path):
    overrides = [*EIGHT, TRICKY]
    text = script("nano", overrides, target="torchrun", here=tmp_path, python=teller, run="a 'b'")
    done = shell(text, tmp_path)
    assert done.returncode == 0 and not done.stderr
    *words, surroundings = done.stdout.splitlines()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=8"]
    assert words == [*launcher, *called(overrides, run="a 'b'")]
    assert surroundings == f"in {tmp_path},  ranks here, order 1"


def test_deepspeed_starts_the_script_again_for_each_rank(teller, tmp_path):
    overrides = [*EIGHT, TRICKY]
    text = script("nano", overrides, target="deepspeed", here=tmp_path, python=teller)
    launcher = shell(text, tmp_path).stdout.splitlines()
    assert launcher[:4] == ["-m", "deepspeed.launcher.runner", "--num_gpus", "8"]
    again = ["bash", str(tmp_path / "its name" / "go.sh"), "rank"]
    assert launcher[-5:-1] == ["--no_local_rank", *again]
    *words, surroundings = shell(text, tmp_path, "rank", LOCAL_SIZE="8").stdout.splitlines()
    assert words == called(overrides)
    assert surroundings == f"in {tmp_path}, 8 ranks here, order 1"


def test_deepspeed_wants_as_many_hosts_as_nodes(teller, tmp_path):
    text = script("nano", EIGHT, target="deepspeed", gpus_per_node=4, here=tmp_path, python=teller)
    (tmp_path / "hosts").write_text("one\n\ntwo\n")
    (tmp_path / "few").write_text("one\n")
    done = shell(text, tmp_path)
    assert done.returncode == 2 and "usage: bash" in done.stderr
    done = shell(text, tmp_path, "few")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "few has 1 hosts, the layout needs 2\n"
    teller.write_text('#!/bin/bash\ncat "$4"; echo "${@:5:4}"; exit 7\n')
    for port, variables in (("29500", {}), ("1234", {"PORT": "1234"})):
        done = shell(text, tmp_path, "hosts", **variables)
        where = f"--master_addr one --master_port {port}"
        assert (done.returncode, done.stdout) == (7, f"one slots=4\ntwo slots=4\n{where}\n")


def test_kubernetes_own_model_reads_the_job(tmp_path):
    models = pytest.importorskip("kubeflow_trainer_api.models")
    overrides = [*EIGHT, TRICKY]
    text = script("nano", overrides, target="kubernetes", gpus_per_node=4, here=tmp_path)
    runtime, job = read_yaml(text)
    read = models.TrainerV1alpha1TrainingRuntime.from_dict(runtime)
    assert json.loads(read.to_json()) == runtime  # a key that it doesn't know would be lost
    read = models.TrainerV1alpha1TrainJob.from_dict(job)
    assert json.loads(read.to_json()) == job
    trainer = read.spec.trainer
    assert (trainer.num_nodes, trainer.num_proc_per_node) == (2, 4)
    resources = job["spec"]["trainer"]["resourcesPerNode"]
    assert resources["limits"] == {"nvidia.com/gpu": 4}
    assert resources["requests"] == {"nvidia.com/gpu": 4, "cpu": 32, "memory": "256Gi"}
    bash, torchrun = trainer.command[:4], trainer.command[4:]
    assert [word.replace("$$", "$") for word in torchrun] == ["torchrun", *called(overrides)]
    assert "$" not in " ".join(torchrun).replace("$$", "")  # which Kubernetes would look into
    shown = subprocess.run(
        [*bash[:2], bash[2].replace("/workspace", str(tmp_path)), bash[3], "printf", "%s\n", "a b"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert shown.stdout == "a b\n"
    job["spec"]["trainer"]["numNodes"] = "two"
    with pytest.raises(ValueError):
        models.TrainerV1alpha1TrainJob.from_dict(job)


def test_azure_starts_the_ranks_and_knows_where_the_data_is(tmp_path):
    overrides = [*EIGHT, "data.path=my corpus"]
    [job] = read_yaml(script("nano", overrides, target="azureml", gpus_per_node=4, here=tmp_path))
    words = shlex.split(job["command"])
    given = called([*overrides, "data.path=${{inputs.corpus}}"], run="${{outputs.run}}")
    assert words[0] == "python" and sorted(words[1:]) == sorted(given)
    places = [words.index(word) for word in given if word.startswith("data.path")]
    assert places == sorted(places)  # the last one counts
    assert job["inputs"]["corpus"]["path"] == f"{tmp_path}/my corpus"
    assert "inputs" not in read_yaml(script("nano", EIGHT, target="azureml", here=tmp_path))[0]
    assert job["resources"]["instance_count"] == 2
    assert job["distribution"] == {"type": "pytorch", "process_count_per_instance": 4}
    assert job["environment_variables"]["LOCAL_WORLD_SIZE"] == "4"


def test_what_failed_on_kubernetes_is_not_started_again(tmp_path):
    runtime, job = read_yaml(script("nano", EIGHT, target="kubernetes", here=tmp_path))
    spec = job["spec"]
    assert spec["runtimeRef"] == {"kind": runtime["kind"], "name": runtime["metadata"]["name"]}
    jobs = runtime["spec"]["template"]["spec"]
    assert jobs["failurePolicy"] == {"maxRestarts": 0}
    pods = jobs["replicatedJobs"][0]["template"]["spec"]
    assert pods["backoffLimit"] == 0
    assert pods["template"]["spec"]["restartPolicy"] == "Never"


@pytest.mark.azure
def test_azures_own_model_reads_the_job(tmp_path):
    azure = pytest.importorskip("azure.ai.ml", reason="pip install azure-ai-ml, 136 MB, for this")
    (tmp_path / "corpus").mkdir()
    text = script("nano", [*EIGHT, "data.path=corpus"], target="azureml", here=tmp_path)
    (tmp_path / "job.yaml").write_text(text)
    job = azure.load_job(tmp_path / "job.yaml")
    assert (job.resources.instance_count, job.distribution.process_count_per_instance) == (1, 8)
    assert job.inputs["corpus"].path == f"{tmp_path}/corpus"
    (tmp_path / "job.yaml").write_text(text.replace("instance_count: 1", "instance_count: two"))
    with pytest.raises(Exception, match="instance_count"):
        azure.load_job(tmp_path / "job.yaml")


# Real ranks.


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    text = tmp_path_factory.mktemp("text")
    for i in range(10):
        (text / f"{i}.txt").write_text("a rank waits for its neighbour and goes on " * 200)
    out = tmp_path_factory.mktemp("corpus") / "corpus"
    prepare(out, [str(text)], vocab=300, progress=False)
    return out


def small(corpus):
    return [
        "model.layers=2", "model.hidden=32", "model.heads=2", "model.seq=32", "model.vocab=1024",
        "train.tokens=0", "train.steps=2", "train.global_batch=8", "train.micro_batch=1",
        "train.ramp=null", "train.eval_every=2", "train.eval_batches=1", "data.weights={}",
        "data.split=[80, 20, 0]", f"data.path={corpus}", "parallel.zero=1",
    ]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("target", ["torchrun", "deepspeed"])
def test_ranks_of_one_node_train(corpus, tmp_path, engine, target):
    for package in ("deepspeed", ENGINES[engine][2]):
        if not installed(package):
            pytest.skip(f"{package} is not installed: pip install -e '.[engines]'")
    overrides = [*small(corpus), "parallel.pp=2"]
    text = script("nano", overrides, target=target, engine=engine, here=tmp_path, run="a run")
    done = shell(text, tmp_path)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "a run" / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.long
def test_deepspeed_trains_on_two_nodes(corpus, tmp_path):
    """Both nodes are this machine, and ssh and pdsh two lines that start here what they are given.

    This is what pdsh does: the words joined by blanks go to a shell of the node, %n is its number.
    """
    if not installed("deepspeed"):
        pytest.skip("deepspeed is not installed: pip install -e '.[engines]'")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "ssh").write_text("#!/bin/bash\necho 192.0.2.1\n")  # which nobody reaches
    (tools / "pdsh").write_text(
        '#!/bin/bash\nshift 5\nfor n in 0 1; do bash -c "${*//%n/$n}" & pids+=($!); done\n'
        'for pid in "${pids[@]}"; do wait "$pid" || exit; done\n'
    )
    for tool in tools.iterdir():
        tool.chmod(0o755)
    (tmp_path / "hosts").write_text("localhost\n127.0.0.1\n")  # rank 0 waits on the first
    overrides = [*small(corpus), "parallel.tp=2", "parallel.pp=2"]
    text = script("nano", overrides, target="deepspeed", gpus_per_node=2, here=tmp_path, run="run")
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    done = shell(text, tmp_path, "hosts", PATH=path, GLOO_SOCKET_IFNAME="lo")
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
