"""SECURITY.md's promises, read off the syntax of the code and the tracked files.

What could run somebody else's code, start a program, unpack an archive or use the network is found
by its name, through imports and their aliases, and is on a list with its reason, or the test fails.
A name that is put together while the program runs is not found.
"""

import ast
import re
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = [*sorted((ROOT / "minimtnlg").rglob("*.py")), *sorted((ROOT / "scaling").rglob("*.py"))]

# Whole names, and names that are enough whatever they are called on.
RISKY = {
    *(f"{module}.{name}" for module in ("pickle", "cloudpickle", "dill", "marshal")
      for name in ("load", "loads", "Unpickler")),
    "torch.load", "torch.jit.load", "torch.hub.load", "joblib.load", "shelve.open",
    "pandas.read_pickle", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "runpy.run_path",
    "megatron.core.dist_checkpointing.load", "torch.distributed.checkpoint.load",
    "eval", "exec", "__import__", "shutil.unpack_archive",
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
    "subprocess.run", "subprocess.call", "subprocess.check_call", "subprocess.check_output",
    "subprocess.Popen",
}  # fmt: skip
RISKY_ANYWHERE = re.compile(
    r"\.(extractall|extract|\w+_object|\w+_object_list|exec[lv]p?e?|posix_spawnp?|spawn[lv]p?e?)$"
)

# (file, function, what) -> why it is no way in. Each of them stands once.
KNOWN = {
    ("minimtnlg/_rank.py", "live", "pickle.load"): "what the caller wrote for this rank",
    ("minimtnlg/_rank.py", "work", "cloudpickle.loads"): "the caller's function",
    ("minimtnlg/_job.py", "Job.load", "pickle.load"): "a rank's error, or where it is",
    ("minimtnlg/ranks.py", "_server", "subprocess.Popen"): "Python, for ranks",
    ("minimtnlg/ranks.py", "_Spawned._start", "subprocess.Popen"): "Python, for a rank",
    ("minimtnlg/ranks.py", "_Spawned.stop", "subprocess.run"): "ends ranks on Windows",
    ("minimtnlg/train/start.py", "gathered", "torch.distributed.all_gather_object"):
        "among the ranks of a job",
    ("minimtnlg/train/saving.py", "Saver._on_first", "torch.distributed.gather_object"):
        "among the ranks of a job",
    ("scaling/probe.py", "gathered", "torch.distributed.all_gather_object"):
        "among the ranks of a job",
    ("minimtnlg/engines/megatron_checkpoint.py", "_read", "megatron.core.dist_checkpointing.load"):
        "only with --trust",
    ("minimtnlg/data/packages.py", "_download", "subprocess.run"): "pip, npm or apt-get",
    ("minimtnlg/course/sandbox.py", "Sandbox.__init__", "subprocess.Popen"): "Python, for a box",
    ("minimtnlg/course/sandbox.py", "serve", "pickle.loads"): "the grader's order, by a pipe",
    ("minimtnlg/course/worker.py", "_execute", "exec"): "a submission, in its box",
    ("minimtnlg/course/exercises.py", "_execute", "exec"): "an exercise of the course",
    ("minimtnlg/course/drawn.py", "values", "exec"): "an exercise of the course",
    ("scaling/bench/curate.py", "memory", "subprocess.run"): "itself, to measure its memory",
}  # fmt: skip

# Modules that reach other machines, and who may import them.
NETWORK = {
    "aiohttp", "datasets", "ftplib", "http", "httpx", "huggingface_hub", "lm_eval",
    "requests", "smtplib", "socket", "urllib", "urllib3", "websocket",
}  # fmt: skip
ONLINE = {
    "minimtnlg/data/elsewhere.py": {"http", "urllib"},
    "minimtnlg/data/sources.py": {"datasets"},
    "minimtnlg/train/hub.py": {"huggingface_hub"},
    "minimtnlg/evaluate/harness.py": {"lm_eval"},
    "minimtnlg/course/isolation.py": {"socket"},
    "scaling/probe.py": {"socket"},
    "scaling/bench/evaluate.py": {"lm_eval"},
}


def aliases(tree):
    """{name in this file: the whole name of what it was imported as}."""
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                known[name.asname or name.name.split(".")[0]] = (
                    name.name if name.asname else name.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module:
            known |= {n.asname or n.name: f"{node.module}.{n.name}" for n in node.names}
    return known


def dotted(node, known):
    """The whole name that an expression a.b.c means; "" before a part that is no name."""
    if isinstance(node, ast.Name):
        return known.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value, known)}.{node.attr}"
    return ""


@cache
def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def risks(tree):
    """(function, what) of all that is risky in a file of Python."""
    known = aliases(tree)

    def walk(node, where):
        for child in ast.iter_child_nodes(node):
            inside = where
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inside = f"{where}.{child.name}".lstrip(".")
            elif isinstance(child, ast.Name | ast.Attribute):
                name = dotted(child, known)
                if name in RISKY or RISKY_ANYWHERE.search(name):
                    yield where, name
            elif isinstance(child, ast.keyword) and not isinstance(child.value, ast.Dict):
                harmless = isinstance(child.value, ast.Constant) and child.value.value is False
                if child.arg in ("shell", "allow_pickle", "trust_remote_code") and not harmless:
                    yield where, f"{child.arg}="
                if child.arg == "weights_only":
                    yield where, "weights_only="
                if child.arg == "typ" and getattr(child.value, "value", 0) not in ("safe", "rt"):
                    yield where, "typ="
            yield from walk(child, inside)

    return list(walk(tree, ""))


def test_what_could_run_code_is_known_with_its_reason():
    found = Counter(
        (path.relative_to(ROOT).as_posix(), where, what)
        for path in CODE
        for where, what in risks(parsed(path))
    )
    assert found == Counter(KNOWN.keys())


@pytest.mark.parametrize(
    "text, what",
    [
        ("import pickle\npickle.loads(x)", "pickle.loads"),
        ("import pickle as p\np.Unpickler(x).load()", "pickle.Unpickler"),
        ("from pickle import load as read\nmap(read, files)", "pickle.load"),
        ("def f():\n    import torch\n    return torch.load(x)", "torch.load"),
        ("import numpy as np\nnp.load(x, allow_pickle=True)", "allow_pickle="),
        ("from datasets import load_dataset\nload_dataset(x, trust_remote_code=y)",
         "trust_remote_code="),
        ("from ruamel.yaml import YAML\nYAML(typ='unsafe').load(x)", "typ="),
        ("import yaml\nyaml.load(x)", "yaml.load"),
        ("import os\nos.system(x)", "os.system"),
        ("import os\nos.execvp(x, y)", "os.execvp"),
        ("import subprocess\nsubprocess.run(x, shell=True)", "shell="),
        ("from subprocess import Popen\nPopen(x)", "subprocess.Popen"),
        ("import tarfile\ntarfile.open(x).extractall(y)", ".extractall"),
        ("import torch.distributed as dist\ndist.all_gather_object(x, y)",
         "torch.distributed.all_gather_object"),
        ("eval(x)", "eval"),
    ],
)  # fmt: skip
def test_a_new_risk_is_noticed(text, what):
    assert what in [found for _, found in risks(ast.parse(text))]


def test_who_uses_the_network_is_known():
    found = {}
    for path in CODE:
        modules = {name.split(".")[0] for name in aliases(parsed(path)).values()} & NETWORK
        if modules:
            found[path.relative_to(ROOT).as_posix()] = modules
    assert found == ONLINE


def test_the_page_names_every_place():
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    places = {file for file, _, _ in KNOWN} | set(ONLINE)
    assert [place for place in sorted(places) if f"({place})" not in page] == []


def test_no_secret_is_tracked():
    keys = (
        r"\b(AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{40,}|"
        r"hf_[A-Za-z0-9]{34}|sk-[A-Za-z0-9]{32,}|xox[abp]-[0-9A-Za-z-]{20,})\b|"
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    )
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone: which files are tracked is unknown")
    done = subprocess.run(["git", "grep", "-lIE", "-e", keys], cwd=ROOT, capture_output=True)
    assert (done.returncode, done.stdout) == (1, b""), done.stdout.decode()
