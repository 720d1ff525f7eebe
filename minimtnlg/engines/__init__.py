"""Adapters to the real engines, heirs of those that trained MT-NLG; imported only when asked for.

An engine answers what train/mini.py does, for the same configuration, weights and batches.
"""

import difflib
import importlib
import logging
import warnings
from importlib.util import find_spec

import torch

from minimtnlg.errors import InputError

# Before an engine is imported, by whomever: silence what no user can act on. That is names that
# torch would change; on a CPU packages for GPUs, which are missing, and that the random state of
# the "GPU", which is the CPU's, changes.
warnings.filterwarnings("ignore", message="`torch.distributed", category=FutureWarning)
if not torch.cuda.is_available():
    warnings.filterwarnings("ignore", module="megatron")
    logging.getLogger("megatron.core.tensor_parallel.random").setLevel(logging.ERROR)

# name -> (module, class, the package that it needs)
ENGINES = {
    "mini": ("minimtnlg.train.mini", "Mini", "torch"),
    "megatron": ("minimtnlg.engines.megatron", "Megatron", "megatron.core"),
    "deepspeed": ("minimtnlg.engines.deepspeed", "DeepSpeed", "deepspeed"),
}


def named(name):
    """The class of an engine; InputError where there is none, or its package is not installed."""
    if name not in ENGINES:
        near = difflib.get_close_matches(name, ENGINES, 1, 0)[0]
        raise InputError(
            f"no engine {name!r}; there are {', '.join(ENGINES)}; did you mean {near!r}?"
        )
    module, cls, package = ENGINES[name]
    if not installed(package):
        raise InputError(
            f"--engine {name} needs {package}: pip install 'minimtnlg[engines]' brings it"
        )
    return getattr(importlib.import_module(module), cls)


def refuse(name, config, sentences):
    """InputError for the first thing that `config` asks for and the engine `name` doesn't do.

    sentences: {what it is, what to choose: whether it applies}. Checkpoints on the way, and going
    back to one, are for our own engine alone.
    """
    train = config.train
    everywhere = {
        f"train.save_every={train.save_every}, its weights are saved at the end: choose 0":
            train.save_every > 0,
        f"train.on_bad_step={train.on_bad_step}: choose stop": train.on_bad_step != "stop",
    }  # fmt: skip
    for sentence, applies in (everywhere | sentences).items():
        if applies:
            raise InputError(f"--engine {name} has no {sentence}")


def installed(package):
    """Whether `package` can be imported; nothing is imported but what it lies in."""
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False
