"""The weights of a run on disk: one safetensors file under the parameters' own names.

A file appears whole or not at all, and `latest` names it only when it is there. Nothing in the
folder can be executed.
"""

import os
from pathlib import Path

import safetensors
from safetensors.torch import load_file, save_file

from minimtnlg import config as configuration
from minimtnlg.device import DTYPES, device
from minimtnlg.errors import InputError
from minimtnlg.model import GPT


def save_weights(model, run, step):
    """Write RUN/checkpoints/step-N/model.safetensors, then let RUN/latest name it."""
    folder = Path(run) / "checkpoints" / f"step-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    _appear(folder / "model.safetensors", lambda path: save_file(model.state_dict(), path))
    _appear(Path(run) / "latest", lambda path: path.write_text(folder.name))


def load_run(run):
    """(Config, GPT) of a run's folder, with the weights that `latest` names.

    InputError where the folder is no run, or its weights are missing, damaged or of another shape.
    """
    run = Path(run)
    if not (run / "latest").is_file():
        raise InputError(
            f"{run} holds no finished run: remove it if it is there, then minimtnlg train "
            f"CONFIG --out {run}"
        )
    config = configuration.load(run / "config.yaml")
    path = run / "checkpoints" / (run / "latest").read_text().strip() / "model.safetensors"
    model = GPT(config.model, dtype=DTYPES[config.train.dtype])
    try:
        model.load_state_dict(load_file(path, device=str(device())))
    except (OSError, safetensors.SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"can't read the weights in {path}: {reason}") from None
    return config, model


def _appear(path, write):
    """Let `write` fill a file aside, then give it its name in one move."""
    aside = path.with_name(path.name + ".partial")
    write(aside)
    os.replace(aside, path)
