"""Proves one layout on this machine: the same weights and batch through one process and through it.

- One process computes what is right, in the plainest way: one pass over the whole global batch,
  PyTorch's own clipping, SGD and Adam. Of the layout's code it shares the layers alone.
- The ranks of the layout train as in earnest: micro-batches, schedule, ZeRO. Each compares what it
  has.
- In float64: what is left is rounding, 1e-10 at the very most, and a mistake stands out.

The batch is random and its masks are uneven. Dropout is off: its masks belong to a layout.
"""

import dataclasses
import tempfile
from collections import defaultdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from minimtnlg import config as configuration
from minimtnlg.config import Optim, Parallel
from minimtnlg.data.batches import Batch
from minimtnlg.device import device, generator, memory
from minimtnlg.errors import InputError
from minimtnlg.model import build
from minimtnlg.parallel import schedules
from minimtnlg.parallel.layout import Layout
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.parallel.tensor import cut, split_dimensions
from minimtnlg.ranks import run
from minimtnlg.train.optimizer import Optimizer, adamw
from minimtnlg.train.step import evaluate, step

STEPS, LR = 3, 1e-2
LIMIT = 1e-10  # above it, a difference is no rounding


def sgd(groups, optim):
    """Plain SGD: it shows a gradient of the wrong size, to which Adam is blind."""
    return torch.optim.SGD([group | {"weight_decay": 0.0} for group in groups], lr=optim.lr)


# rule -> (how to make it, largest gradient norm). Clipping would hide a wrong size from SGD. eps:
# with Adam's 1e-8, a gradient that is zero but for rounding would move weights.
RULES = {"sgd": (sgd, 0.0), "adam": (adamw, 1.0)}
OPTIM = Optim(lr=LR, min_lr=0.0, warmup_tokens=0, decay_tokens=1, eps=1e-3)


def configure(source="nano", overrides=()):
    """The Config to verify: that of `load`, with a batch that fits its layout, in float64.

    Two micro-batches of one sequence for each stage, on each replica; a train.* override wins.
    """
    given = configuration.values_of(source, overrides).get("parallel", {})
    pp, dp = (n if isinstance(n := given.get(axis), int) and n > 0 else 1 for axis in ("pp", "dp"))
    batch = 2 * pp * dp
    small = [f"train.global_batch={batch}", "train.micro_batch=1", "train.ramp=null"]
    fixed = ["train.dtype=float64", "model.dropout=0"]
    return configuration.sized(configuration.load(source, [*small, *overrides, *fixed]))


def verify(config, timeout=1800):
    """Compare one process with the layout of `config` (see `configure`).

    Returns a dict: `layout`; `max_abs_diff`, the largest differences over three steps of loss,
    gradient (first step), grad_norm, and of the parameters after them, `sgd` and `adam`; `worst`,
    which tensor each of them was found in; `gradients`, the difference for each parameter.
    InputError for a model too large for this machine, RankError after `timeout` seconds.
    """
    _refuse_too_large(config)
    p = config.parallel
    layout = {field.name: getattr(p, field.name) for field in dataclasses.fields(p)}
    with tempfile.TemporaryDirectory(prefix="minimtnlg-verify-") as folder:
        losses, norms = _serial(config, Path(folder))
        found = run(_compare, Layout.of(p).world, config, folder, losses, norms, timeout=timeout)
    largest = defaultdict(dict)  # {"loss": {name of the tensor: difference}, ...}
    for differences in found:
        for (kind, name), value in differences.items():
            largest[kind][name] = _worse(value, largest[kind].get(name, 0.0))
    worst = {kind: max(of, key=lambda name: _order(of[name])) for kind, of in largest.items()}
    return {
        "layout": layout,
        "max_abs_diff": {kind: largest[kind][name] for kind, name in worst.items()},
        "worst": worst,
        "gradients": largest["gradient"],
    }


def equal(result):
    """Whether a result of `verify` says that parallel equals serial; a NaN is a difference."""
    return all(value <= LIMIT for value in result["max_abs_diff"].values())


def _batches(config, number):
    """The global batch of a step as micro-batches, in the order of their samples."""
    model, train = config.model, config.train
    g = generator("verify", train.seed, number)
    ids = torch.randint(model.vocab, (train.global_batch, model.seq + 1), generator=g)
    kept = torch.rand(train.global_batch, 1, generator=g)  # another share of each sequence
    mask = (torch.rand(train.global_batch, model.seq, generator=g) < kept).double()
    whole = (ids[:, :-1], ids[:, 1:], mask)
    return [Batch(*p) for p in zip(*(x.split(train.micro_batch) for x in whole), strict=True)]


def _serial(config, folder):
    """What is right: ({rule: losses}, {rule: norms}); tensors go into folder/RULE.safetensors."""
    losses, norms = defaultdict(list), defaultdict(list)
    alone = dataclasses.replace(config, parallel=Parallel(dp=1))
    for rule, (make, clip) in RULES.items():
        model = build(alone)
        named = dict(model.named_parameters())
        decayed = [p for p in named.values() if p.dim() >= 2]
        rest = [p for p in named.values() if p.dim() < 2]
        groups = [
            {"params": decayed, "weight_decay": OPTIM.weight_decay},
            {"params": rest, "weight_decay": 0.0},
        ]
        optimizer, gradients = make(groups, OPTIM), {}
        for number in range(STEPS):
            columns = zip(*map(dataclasses.astuple, _batches(config, number)), strict=True)
            batch = Batch(*(torch.cat(column).to(device()) for column in columns))
            optimizer.zero_grad()
            loss = model.loss(batch) / batch.mask.sum()
            loss.backward()
            gradients = gradients or {f"gradient {n}": p.grad.clone() for n, p in named.items()}
            norm = torch.nn.utils.clip_grad_norm_(named.values(), clip or float("inf"))
            optimizer.step()
            losses[rule].append(loss.item())
            norms[rule].append(norm.item())
        with torch.no_grad():
            losses[rule].append((model.loss(batch) / batch.mask.sum()).item())
        save_file(gradients | model.state_dict(), folder / f"{rule}.safetensors")
    return losses, norms


def _compare(config, folder, losses, norms):
    """One rank of the layout: {(kind, name): largest difference} of what this rank has."""
    p = config.parallel
    mesh = Mesh(Layout.of(p))
    found = {}

    def note(kind, name, here, there):
        value = abs(here - there) if isinstance(here, float) else _distance(here, there)
        found[kind, name] = _worse(value, found.get((kind, name), 0.0))

    for rule, (make, clip) in RULES.items():
        model = build(config, mesh)
        optimizer = Optimizer(model, dataclasses.replace(OPTIM, clip=clip), p.zero, make)
        names, dimensions = {p: n for n, p in model.named_parameters()}, split_dimensions(model)
        with safe_open(Path(folder) / f"{rule}.safetensors", "pt", str(device())) as right:

            def slice_of(key, name, right=right, dimensions=dimensions):
                return cut(right.get_tensor(key), dimensions[name], mesh.tp)

            for number in range(STEPS):
                mine = _batches(config, number)[mesh.place.dp :: p.dp]
                mine = [Batch(*(x.to(device()) for x in dataclasses.astuple(b))) for b in mine]
                schedule = schedules.named(p.schedule, p.pp, len(mine), p.virtual)
                loss, norm = step(
                    model, optimizer, mine, lr=LR, seed=1, number=number, schedule=schedule
                )
                note("loss", f"{rule}, step {number}", loss.item(), losses[rule][number])
                note("grad_norm", f"{rule}, step {number}", norm.item(), norms[rule][number])
                if rule == "sgd" and number == 0:
                    replicas = optimizer.replicas
                    for i, parameter in enumerate(replicas.parameters):
                        name = names[parameter]
                        whole = slice_of(f"gradient {name}", name)
                        note("gradient", name, replicas.gradients[i], replicas.shard_of(whole, i))
            mean = evaluate(model, mine).item()
            note("loss", f"{rule}, evaluation", mean, losses[rule][-1])
            with optimizer.replicas.gathered():
                for parameter, name in names.items():
                    note(rule, name, parameter.detach(), slice_of(name, name))
    return found


def _distance(here, there):
    return (here - there).abs().max().item() if here.numel() else 0.0


def _order(value):
    return float("inf") if value != value else value  # NaN is the worst


def _worse(a, b):
    return max(a, b, key=_order)


def _refuse_too_large(config):
    p, count = config.parallel, config.model.parameters()
    world = Layout.of(p).world
    # Serial: weights, gradients, moments, and what is written; each replica: the first four.
    need = 8 * count * (7 + 4 * p.dp) + 0.3e9 * world
    if need > memory():
        changed = dataclasses.asdict(p).items() - dataclasses.asdict(Parallel()).items()
        same = " ".join(f"parallel.{key}={value}" for key, value in sorted(changed))
        raise InputError(
            f"{count:,} parameters in float64 on {world} ranks take about {need / 1e9:,.0f} GB, "
            f"this machine has {memory() / 1e9:,.0f} GB: minimtnlg verify nano {same} proves the "
            "same layout on a small model"
        )
