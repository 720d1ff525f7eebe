"""Scripts that start a run on a cluster: `minimtnlg launch CONFIG --target slurm`.

    torchrun     one node, by PyTorch's own launcher
    slurm        a job for sbatch
    deepspeed    hosts that ssh reaches, by DeepSpeed's launcher
    kubernetes   a TrainJob of the Kubeflow Trainer, and the runtime that it refers to
    azureml      a command job of Azure Machine Learning

Each is a template in templates/, a script to read and to edit; the layout fills in its numbers.
All end in `minimtnlg train`, one process a GPU. With n GPUs a node, rank i is on node i // n as its
GPU i % n: so the mesh wants it (parallel/layout.py), since tensor groups then stay inside a node.
"""

import difflib
import json
import os
import re
import shlex
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import jinja2

from minimtnlg import config as configuration
from minimtnlg import engines
from minimtnlg.errors import InputError
from minimtnlg.files import appearing
from minimtnlg.presets import PRESETS


class Target(NamedTuple):
    """A kind of script."""

    template: str  # in templates/
    start: str  # the command that starts it; {} is the file


TARGETS = {
    "torchrun": Target("torchrun.sh", "bash {}"),
    "slurm": Target("slurm.sh", "sbatch {}"),
    "deepspeed": Target("deepspeed.sh", "bash {}"),
    "kubernetes": Target("kubernetes.yaml", "kubectl create -f {}"),
    "azureml": Target("azureml.yaml", "az ml job create --file {}"),
}
REMOTE = ("kubernetes", "azureml")  # see this folder, but under another path
WHERE_GPUS_END = {"azureml": 8}  # on an NDm A100 v4


def script(
    source,
    overrides=(),
    *,
    target,
    engine="mini",
    run=None,
    nodes=None,
    gpus_per_node=8,
    here=None,
    python=sys.executable,
):
    """The text of a script that trains `source` on a cluster.

    source         a YAML file or a preset's name, overrides: "section.key=value"; as of `train`
    target         one of TARGETS
    engine         mini, megatron or deepspeed
    run            the run's folder; None: runs/NAME; Azure has its own place
    nodes          how many; None: as many as the layout needs
    gpus_per_node  how many GPUs a node has; a layout of fewer ranks takes so many of one node
    here           the folder that relative paths start from; None: the present one
    python         the interpreter that nodes start, where they see this machine's files

    Raises InputError for a layout that doesn't fill whole nodes or cuts a tensor group between
    nodes, and for what engine or target can't do.
    """
    _known("target", target, TARGETS)
    _known("engine", engine, engines.ENGINES)
    configuration.require(gpus_per_node > 0, f"--gpus-per-node {gpus_per_node}: one or more")
    configuration.require(nodes is None or nodes > 0, f"--nodes {nodes}: one or more")
    if run is not None and target == "azureml":
        raise InputError(f"--run {run}: Azure keeps the run as the job's output; leave --run out")
    config = configuration.load(source, overrides)
    config = configuration.sized(config, nodes and nodes * gpus_per_node)
    nodes, gpus = _machines(config.parallel, target, gpus_per_node)
    if engines.installed(engines.ENGINES[engine][2]):  # else the cluster has it, and train asks
        engines.named(engine).refuse(config)
    here, name = Path(here or os.getcwd()), _name(source)
    command = ["train", _found_from(here, source, target), *overrides, "--engine", engine]
    return _TEMPLATES.get_template(TARGETS[target].template).render(
        name=name,
        parallel=config.parallel,
        nodes=nodes,
        gpus=gpus,
        whole_nodes=gpus == gpus_per_node,
        command=command,
        resumes=engine == "mini",
        run=str(run or f"runs/{Path(source).stem}"),
        corpus=config.data.path and str(here / config.data.path),
        here=str(here),
        python=str(python),
        environment=_environment(engine, config.parallel.tp),
    )


def write(text, out):
    """Write a script to the new file `out`, a Path; InputError where there is something already."""
    if out.exists():
        raise InputError(f"{out} is there already: remove it, or choose another --out")
    with appearing(out) as aside:
        aside.write_text(text, encoding="utf-8")


def _known(what, name, names):
    if name not in names:
        near = difflib.get_close_matches(name, names, 1, 0)[0]
        raise InputError(
            f"no {what} {name!r}; there are {', '.join(names)}; did you mean {near!r}?"
        )


def _machines(parallel, target, gpus_per_node):
    """(nodes, ranks on each) for a layout; InputError where ranks would not lie as they should."""
    ranks = parallel.tp * parallel.pp * parallel.dp
    layout = f"parallel.tp={parallel.tp} x pp={parallel.pp} x dp={parallel.dp} = {ranks} ranks"
    gpus = min(ranks, gpus_per_node)
    if ranks % gpus:
        raise InputError(
            f"{layout} do not fill whole nodes of {gpus_per_node} GPUs: choose a multiple of "
            f"{gpus_per_node} ranks, by parallel.dp say, or another --gpus-per-node"
        )
    if gpus % parallel.tp:
        raise InputError(
            f"{layout}, {gpus} of them on a node, would cut tensor groups of {parallel.tp} between "
            "nodes: choose a parallel.tp that divides the GPUs of a node"
        )
    most = WHERE_GPUS_END.get(target, gpus)
    if gpus > most:
        raise InputError(f"--gpus-per-node {gpus}: a node of --target {target} has {most}")
    if target == "torchrun" and ranks > gpus:
        raise InputError(
            f"{layout} need {ranks // gpus} nodes of {gpus} GPUs, torchrun's script is for one: "
            "choose --target slurm"
        )
    return ranks // gpus, gpus


def _name(source):
    """A name for the job: letters, digits and dashes, as each of the schedulers accepts it."""
    words = re.sub(r"[^a-z0-9]+", "-", Path(source).stem.lower())[:40].strip("-")
    return words if words[:1].isalpha() else f"run-{words}".strip("-")


def _found_from(here, source, target):
    """CONFIG as nodes find it, which start in the folder `here`, or in a copy of it."""
    path = Path(source)
    if str(source) in PRESETS or target not in REMOTE:
        return str(source)
    absolute = (here / path).resolve()
    if not absolute.is_relative_to(here.resolve()):
        raise InputError(
            f"{source} lies outside of {here}, the folder that the job sees: call launch in a "
            "folder that holds it"
        )
    return absolute.relative_to(here.resolve()).as_posix()


def _environment(engine, tp):
    """{variable: (value, why it is set)} of every rank, the same on each target."""
    variables = {
        "OMP_NUM_THREADS": (1, "Ranks share a node's cores; what there is to compute, GPUs do."),
        "PYTHONUNBUFFERED": (
            1,
            "What a rank prints is in the log at once, also if the rank is killed next.",
        ),
        "NCCL_DEBUG": (
            "WARN",
            "NCCL finds links and network adapters by itself. With WARN it says why it gives up; "
            "INFO lists what it found, worth reading once on a new cluster (NCCL user guide).",
        ),
    }
    if engine == "megatron" and tp > 1:
        variables["CUDA_DEVICE_MAX_CONNECTIONS"] = (
            1,
            "Megatron-Core sums a gradient over the tensor group while it computes the next. With "
            "one queue, a GPU starts kernels in the order of their calls, so the sum goes first: "
            "needed for speed, not for the result (megatron-core, tensor_parallel/layers.py).",
        )
    return variables


def _escaped(words):
    """Words as Kubernetes hands them on unchanged: it replaces $(NAME), and $$ by $."""
    return [word.replace("$", "$$") for word in words]


_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("minimtnlg"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters |= {
    "sh": shlex.quote,  # one word of a shell
    "words": shlex.join,
    "yaml": json.dumps,  # JSON is YAML
    "wrapped": lambda text: textwrap.wrap(text, 90),
    "escaped": _escaped,
}
