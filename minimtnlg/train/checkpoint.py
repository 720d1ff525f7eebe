"""The weights of a run on disk: one safetensors file under the parameters' own names.

A file appears whole or not at all, and `latest` names it only when it is there. Nothing in the
folder can be executed.
"""

from pathlib import Path

import safetensors
from safetensors.torch import load_file, save_file

from minimtnlg import config as configuration
from minimtnlg.device import DTYPES, device
from minimtnlg.errors import InputError
from minimtnlg.files import appearing
from minimtnlg.model import GPT


def save_weights(model, run, step):
    """Write RUN/checkpoints/step-N/model.safetensors, then let RUN/latest name it."""
    folder = Path(run) / "checkpoints" / f"step-{step}"
    with appearing(folder / "model.safetensors") as path:
        save_file(model.state_dict(), path)
    with appearing(Path(run) / "latest") as path:
        path.write_text(folder.name)


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
