"""What a run has to remember: weights, masters, Adam's moments, and a few numbers.

Everything else follows from these and from the number of samples consumed: the position in the
data, the batch ramp, the learning rate; every random draw is named by what it is for.
"""

from typing import NamedTuple

import torch

from minimtnlg.parallel.tensor import split_dimensions, whole_shape
from minimtnlg.train.boxes import held, owned, stage_of
from minimtnlg.train.checkpoint import described


class Part(NamedTuple):
    """What this rank has of one tensor of the model."""

    tensor: torch.Tensor  # the numbers themselves: what is copied into it is what the run has
    whole: tuple  # shape of the whole tensor
    split: int | None  # the dimension that tensor parallelism cuts
    cut: bool  # whether it has the rows of its replica alone (ZeRO)


def weights_of(state, dimensions, tp):
    """{key: Part} of the weights {name: tensor}; dimensions: {name: dimension cut in tp, or None}.

    All that engines tell who keep the rest of their state themselves.
    """
    return {
        f"weights/{name}": Part(x, whole_shape(x, dimensions[name], tp), dimensions[name], False)
        for name, x in state.items()
    }


def parts_of(model, optimizer):
    """{key: Part} of all tensors that a step of `optimizer` leaves behind; see checkpoint.KINDS."""
    splits, tp = split_dimensions(model), model.mesh.layout.tp
    names = {p: name for name, p in model.named_parameters()}
    replicas, parts = optimizer.replicas, {}
    pairs = zip(replicas.parameters, replicas.owned, optimizer.masters.masters, strict=True)
    for parameter, shard, master in pairs:
        name = names[parameter]
        split = splits[name]
        whole = whole_shape(parameter, split, tp)
        weight = shard if replicas.freed else parameter.detach()
        parts[f"weights/{name}"] = Part(weight, whole, split, replicas.freed)
        if master is not shard:
            parts[f"masters/{name}"] = Part(master, whole, split, replicas.cut)
        moments = _moments(optimizer.adam, master)
        for kind in ("exp_avg", "exp_avg_sq"):
            parts[f"{kind}/{name}"] = Part(moments[kind], whole, split, replicas.cut)
    return parts


def numbers_of(optimizer):
    """The numbers beside the tensors, the same on every rank, as JSON has them."""
    scale = optimizer.loss_scale
    step = _moments(optimizer.adam, optimizer.masters.masters[0])["step"]
    return {
        "adam_step": int(step),
        "loss_scale": scale.scale.item(),
        "loss_scale_good": scale.good.item(),
        "loss_scale_patience": scale.patience.item(),
    }


@torch.no_grad()
def restore(model, optimizer, checkpoint, parallel):
    """Give model and optimizer the state that a Checkpoint holds, whatever layout has written it.

    InputError for a checkpoint that has not all of it.
    """
    for key, part in parts_of(model, optimizer).items():
        box = held(part.whole, part.split, parallel, model.mesh.place, part.cut)
        part.tensor.copy_(checkpoint.read(key, box))
    found, scale = checkpoint.index["numbers"], optimizer.loss_scale
    for master in optimizer.masters.masters:
        _moments(optimizer.adam, master)["step"].fill_(found["adam_step"])
    scale.scale.fill_(found["loss_scale"])
    scale.good.fill_(found["loss_scale_good"])
    scale.patience.fill_(found["loss_scale_patience"])


def pieces_of(parts, config, place):
    """({key: (Box, copy on the CPU)} of what this rank writes, {key: its line of the index})."""
    pieces, tensors = {}, {}
    for key, part in parts.items():
        if stage_of(key.partition("/")[2], config.model.layers, config.parallel) != place.pp:
            continue
        box = owned(part.whole, part.split, config.parallel, place)
        tensors[key] = described(part.tensor, part.whole, part.split)
        if not box.empty:
            mine = part.tensor
            if not part.cut:
                first = box.offset[0] - held(*part[1:3], config.parallel, place, False).offset[0]
                mine = mine[first : first + box.shape[0]]
            pieces[key] = box, mine.to("cpu", copy=True, memory_format=torch.contiguous_format)
    return pieces, tensors


def _moments(adam, master):
    """Adam's state of one master; before its first step the zeros that it begins with."""
    state = adam.state[master]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=master.device)
        state["exp_avg"] = torch.zeros_like(master)
        state["exp_avg_sq"] = torch.zeros_like(master)
    return state
