"""The model in a folder, to be used: a run's, a Hugging Face folder's or the hub's; any layout."""

import contextlib
import dataclasses
import tempfile
from pathlib import Path

from minimtnlg import config as configuration
from minimtnlg.data.tokenizer import Tokenizer
from minimtnlg.errors import InputError
from minimtnlg.parallel.layout import Layout
from minimtnlg.train import hub
from minimtnlg.train.checkpoint import load_run
from minimtnlg.train.export import kind_of
from minimtnlg.train.huggingface import from_huggingface


@contextlib.contextmanager
def as_run(name):
    """Give the run that a folder is, or, for the block, one made of a Hugging Face folder.

    name: the folder, or "hf:gpt2", which is fetched from the hub.
    """
    path = hub.folder_of(name)
    kind = kind_of(path)
    if kind == "megatron":
        raise InputError(
            f"{path} is Megatron's, whose pickles can run any code: if you trust it, minimtnlg "
            f"checkpoint convert {path} --to run --trust --out RUN, and take RUN"
        )
    if kind == "run":
        yield path
        return
    if not any((path / words).is_file() for words in ("tokenizer.json", "vocab.json")):
        raise InputError(
            f"{path} has no tokenizer: neither tokenizer.json nor vocab.json with merges.txt"
        )
    with tempfile.TemporaryDirectory() as folder:
        own = (path / "config.yaml").is_file()
        # Of a configuration only the model's section matters here, and that is in the folder.
        from_huggingface(path, Path(folder) / "run", None if own else "nano")
        yield Path(folder) / "run"


def layout_of(run, overrides, axes=("tp", "pp")):
    """The Layout that "parallel.tp=2" and the like ask for, one that the run's model can be cut to.

    axes: those that may be asked for. InputError for others, and where a rule is broken.
    """
    asked = configuration.overridden({"parallel": {}}, overrides, ["parallel"])["parallel"]
    if others := sorted(asked.keys() - set(axes)):
        raise InputError(
            f"parallel.{others[0]}: a model in use is cut by {', '.join(axes)} alone, leave it out"
        )
    parallel = configuration.Parallel(**{"dp": 1} | asked)
    if parallel.dp == "auto":
        raise InputError("parallel.dp=auto: give the number of replicas, or leave it out for one")
    # Replicas share out what is asked, not the batches of training.
    one = dataclasses.replace(parallel, dp=1)
    dataclasses.replace(configuration.load(run / "config.yaml"), parallel=one)
    return Layout.of(parallel)


def opened(run, mesh=None):
    """(GPT, Tokenizer) of a run, on this rank's Mesh; InputError where one is not for the other."""
    _, model = load_run(run, mesh)
    tokenizer = Tokenizer.load(run / "tokenizer.json")
    if tokenizer.size > model.config.vocab:
        raise InputError(
            f"{run}/tokenizer.json has {tokenizer.size} tokens, the model only "
            f"{model.config.vocab} rows: they do not belong together"
        )
    return model, tokenizer
