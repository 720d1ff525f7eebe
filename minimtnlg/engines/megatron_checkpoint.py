"""A run as a distributed checkpoint of Megatron-Core's, and back, both by Megatron-Core itself.

    metadata.json    which format this is
    .metadata        a pickle: name, shape and place of every tensor
    *.distcp         the tensors
    common.pt        a pickle: what is no tensor; here nothing
    step             ours: the number of the step
    config.yaml      ours, as the tokenizer.json: so that the folder can become a run again

Any layout of Megatron's can read it. Where `model` is a GPTModel of the same sizes:

    sharded = model.sharded_state_dict()
    model.load_state_dict(megatron.core.dist_checkpointing.load(sharded, folder))
"""

import dataclasses
import math
import sys
import warnings
from pathlib import Path

import torch
from torch.distributed.checkpoint.api import CheckpointException

from minimtnlg.config import Parallel
from minimtnlg.device import DTYPES
from minimtnlg.engines import installed
from minimtnlg.errors import InputError
from minimtnlg.ranks import RankError, run
from minimtnlg.train.checkpoint import load_run, step_of
from minimtnlg.train.export import carry, dtype_of, new_folder, settings, write_run

FILES = ("metadata.json", ".metadata", "common.pt")
MODEL = ("embedding.", "decoder.", "output_layer.")  # how the names of a model's tensors begin


def to_megatron(source, out):
    """Write the latest weights of the run `source` as the new folder `out`; returns their step.

    InputError for a folder that is no run or damaged, for an `out` that is there already, and where
    Megatron-Core is not installed.
    """
    source = Path(source)
    with new_folder(out) as folder:
        step = _in_a_rank(_save, source, folder)
        (folder / "step").write_text(f"{step}\n")
        carry(source, folder)
    return step


def from_megatron(source, out, given=None, trust=False):
    """Write the Megatron folder `source` as a run, the new folder `out`; returns its step.

    given: a YAML file or the name of a preset for the run's Config; None: the config.yaml that our
    own export carries along. The sizes of the tensors are compared with it, but the number of heads
    and the constants of a GPT, such as its GeLU, are not in the folder: they are taken on trust.

    trust: whether to read at all, since pickles can run any code when they are read. The step is
    Megatron-LM's iteration where the folder is not ours, 0 where it says none. InputError as in
    `to_megatron`.
    """
    source = Path(source)
    if not trust:
        raise InputError(
            f"{source} is a Megatron folder: it holds pickles, which can run any code on this "
            "machine when they are read; if you trust whoever made it, say --trust"
        )
    print(f"reading the pickles in {source}, which can run any code", file=sys.stderr, flush=True)
    with new_folder(out) as folder:
        return _in_a_rank(_load, source, settings(source, given), folder)


def _in_a_rank(function, *args):
    """function(*args) in a process of its own: Megatron keeps its groups in global variables."""
    if not installed("megatron.core"):
        raise InputError(
            "a Megatron folder needs Megatron-Core: pip install 'minimtnlg[engines]' brings it"
        )
    try:
        return run(_rank, 1, function, *args, timeout=math.inf)[0]
    except RankError as error:
        if error.type == "InputError":
            raise InputError(error.message) from None
        raise


def _rank(function, *args):
    from minimtnlg.engines.cpu_as_cuda import on_device

    # of things that PyTorch's part of the loader is built on
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    return on_device(function)(*args)


@torch.no_grad()
def _save(source, folder):
    from megatron.core import dist_checkpointing

    config, ours = load_run(source)
    model, named = _whole(config)
    for name, parameter in named.items():
        parameter.copy_(ours.get_parameter(name))
    dist_checkpointing.save(model.sharded_state_dict(), str(folder))
    return step_of(source)


def _load(source, config, folder):
    for name in FILES:
        if not (source / name).is_file():
            raise InputError(f"{source} has no {name}: it is no whole folder of Megatron's")
    try:
        state, step = _read(source, config)
    except InputError:
        raise
    except (Exception, CheckpointException) as error:  # the second is no Exception
        if isinstance(error, CheckpointException):
            error = next(iter(error.failures.values()))[0]  # of the one rank that there is
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"can't read the Megatron folder {source}: {reason}") from None
    write_run(folder, config, state, step, source)
    return step


def _read(source, config):
    """({our name: tensor}, number of the step) of a Megatron folder."""
    from megatron.core import dist_checkpointing

    stored = {
        key: tensor
        for key, tensor in dist_checkpointing.load_tensors_metadata(str(source)).items()
        if key.startswith(MODEL)  # and not of its optimizer
    }
    train = dataclasses.replace(config.train, dtype=dtype_of(stored, source))
    model, named = _whole(dataclasses.replace(config, train=train))
    wanted = model.sharded_state_dict()
    names, keys = list(wanted), {x.key: x for x in wanted.values()}
    for key in sorted(stored.keys() | {key for key in keys if not key.endswith("_extra_state")}):
        there, asked = (
            list(part[key].global_shape) if key in part else "missing" for part in (stored, keys)
        )
        if there != asked:
            raise InputError(f"{source}: {key} is {there}, by the run's configuration {asked}")
    found = dist_checkpointing.load(wanted, str(source))
    model.load_state_dict({name: found[name] for name in names})
    own = source / "step"
    step = own.read_text() if own.is_file() else found.get("iteration", 0)
    return {name: x.detach() for name, x in named.items()}, int(step)


def _whole(config):
    """(Megatron's GPTModel with all layers and whole matrices, {our name: its parameter})."""
    from minimtnlg.engines import megatron_model as megatron

    config = dataclasses.replace(config, parallel=Parallel())
    megatron.take_over_groups(config)
    [model] = megatron.gpt_chunks(config, megatron.settings(config))
    model.to(DTYPES[config.train.dtype])  # its table of positions is float32 whatever it is told
    return model, megatron.our_names([model])
