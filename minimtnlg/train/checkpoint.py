"""The weights of a run on disk: one safetensors file under the parameters' own names.

A file appears whole or not at all, and `latest` names it only when it is there. Nothing in the
folder can be executed.
"""

from pathlib import Path

import safetensors
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from minimtnlg import config as configuration
from minimtnlg.device import DTYPES, device
from minimtnlg.errors import InputError
from minimtnlg.files import appearing
from minimtnlg.model import GPT
from minimtnlg.parallel.collectives import rank, size


def save_weights(engine, run, step):
    """Write RUN/checkpoints/step-N/model.safetensors, then let RUN/latest name it.

    Every rank takes part; the file holds the whole model and is written by rank 0. engine: see
    mini.py.
    """
    state = whole_state(engine.state(), engine.dimensions, engine.mesh)
    if state is not None:
        save_state(state, run, step)


def save_state(state, run, step):
    """`save_weights` of a whole state, {name: tensor}, by one process."""
    folder = Path(run) / "checkpoints" / f"step-{step}"
    with appearing(folder / "model.safetensors") as path:
        save_file(state, path)
    with appearing(Path(run) / "latest") as path:
        path.write_text(folder.name)


def whole_state(state, dimensions, mesh):
    """{name: whole tensor} on rank 0, in the order of the layers; None on the other ranks.

    state: {name: tensor on the CPU} of what this rank has; dimensions: {name: dimension along which
    tensor parallelism cuts it, or None}. Every rank takes part. Slices are put together on the
    first tensor rank of each stage, stages on the first.
    """
    if mesh.place.dp > 0:  # the first replica has all
        return None
    slices = _gathered(state, mesh.tp)
    if slices is None:
        return None
    stage = dict(slices[0])
    for name, dimension in dimensions.items():
        if dimension is not None:
            stage[name] = torch.cat([part[name] for part in slices], dimension)
    stages = _gathered(stage, mesh.pp)
    if stages is None:
        return None
    whole = {name: x for state in reversed(stages) for name, x in state.items()}
    return {name: whole[name] for name in sorted(whole, key=_place)}


def _place(name):
    """Sorts parameters as a model of one stage has them."""
    first, number, *_ = name.split(".")
    if first == "blocks":
        return 2, int(number)
    return {"embedding": 0, "position": 1, "norm": 3}[first], 0


def _gathered(value, group):
    """[value of each rank of the group] on the first of them, None on the others."""
    if group is None:
        return [value]
    values = [None] * size(group) if rank(group) == 0 else None
    dist.gather_object(value, values, group=group, group_dst=0)
    return values


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
