"""A GPT-2 of Hugging Face's hub: "hf:gpt2", fetched once by the hub's own client and kept.

huggingface_hub keeps it in its own cache ($HF_HOME, else ~/.cache/huggingface) and looks there
first, so a model that is there needs no network.
"""

from pathlib import Path

from minimtnlg.errors import InputError

PREFIX = "hf:"
FILES = (  # what a run is made of; the same weights in other formats stay where they are
    "config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
)


def folder_of(name):
    """The folder that a name means: itself, or that of "hf:gpt2", which is fetched."""
    return fetched(str(name)) if str(name).startswith(PREFIX) else Path(name)


def fetched(name):
    """The folder of a model of the hub; name: "hf:gpt2", "hf:distilbert/distilgpt2".

    InputError, one line, for a name that the hub does not know or can't give, and where neither the
    hub can be reached nor the cache has it.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise InputError(
            f"{name} is fetched with the library huggingface_hub, which isn't installed: "
            "pip install 'minimtnlg[data]'"
        ) from None
    try:
        return Path(snapshot_download(name.removeprefix(PREFIX), allow_patterns=FILES))
    except Exception as error:  # the library raises many kinds, and lets through others' errors
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"couldn't fetch {name}: {reason[0][:300]}; check the name and the network"
        ) from None
