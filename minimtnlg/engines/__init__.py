"""Adapters to the real engines, heirs of those that trained MT-NLG; imported only when asked for.

An engine answers what train/mini.py does, for the same configuration, weights and batches.
"""

import difflib
import importlib
import logging
import warnings
from importlib.util import find_spec

from minimtnlg.errors import InputError

# name -> (module, class, the package that it needs)
ENGINES = {
    "mini": ("minimtnlg.train.mini", "Mini", "torch"),
    "megatron": ("minimtnlg.engines.megatron", "Megatron", "megatron.core"),
    "deepspeed": ("minimtnlg.engines.deepspeed", "DeepSpeed", "deepspeed"),
}

# What the engines say while they are imported and used, and no user can act on: packages that they
# would like to have, names that torch would change, and on a CPU that its random state is in use.
warnings.filterwarnings("ignore", module="megatron")
warnings.filterwarnings("ignore", message="`torch.distributed", category=FutureWarning)
logging.getLogger("megatron.core.tensor_parallel.random").setLevel(logging.ERROR)


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


def installed(package):
    """Whether `package` can be imported; nothing is imported but what it lies in."""
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False
