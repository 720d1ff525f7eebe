"""The three engines on the same model, layout and machine, in one run: seconds a step, tokens/s.

    python scaling/bench/engines.py                       # nano: one rank, TP2, PP2, DP2
    python scaling/bench/engines.py nano parallel.tp=2    # this layout alone
    python scaling/bench/engines.py scaling/configs/gpt-1.3b.yaml train.global_batch=16 \\
        --only mini,megatron                              # on one GPU; a third would not fit

All start from the same weights in the same ranks and take the same batch. What is timed is a whole
step: all micro-batches, clipping, update. The engines take turns, so that a busy machine slows all
of them, and medians are compared. On a CPU the ranks share its cores evenly, and Megatron-Core runs
without its fusions, with PyTorch's AdamW as it comes; ours and DeepSpeed's is the fused one.
"""

import os
import statistics
import sys
import time
from typing import Annotated

import torch
import torch.distributed as dist
import typer

from minimtnlg import device, engines, run
from minimtnlg.config import load, sized
from minimtnlg.data.batches import Batch
from minimtnlg.engines import ENGINES
from minimtnlg.errors import InputError
from minimtnlg.parallel.layout import Layout
from minimtnlg.parallel.mesh import Mesh

# DeepSpeed's pipeline clips with ZeRO 1 alone, so all have it there; with one replica it cuts
# nothing.
LAYOUTS = {
    "one rank": [],
    "TP2": ["parallel.tp=2"],
    "PP2": ["parallel.pp=2", "parallel.zero=1"],
    "DP2": ["parallel.dp=2"],
}


def batch_of(config, mesh):
    """The micro-batches of this rank's replica: one global batch of random tokens."""
    model, train = config.model, config.train
    g = device.generator("bench")
    text = torch.randint(model.vocab, (train.global_batch, model.seq + 1), generator=g)
    text = text.to(device.device())
    mine = text.split(train.micro_batch)[mesh.place.dp :: mesh.layout.dp]
    ones = torch.ones(train.micro_batch, model.seq, device=text.device)
    return [Batch(t[:, :-1].contiguous(), t[:, 1:].contiguous(), ones) for t in mine]


def measure(config, names, runs, steps):
    """What a rank found: ({engine: [seconds of a step] for each run}, {engine: first loss}, gpu).

    A run's seconds are the mean of `steps`. gpu: whether the rank has one of its own.
    """
    gpu = device.device().type == "cuda"
    if not gpu:
        torch.set_num_threads(max(1, os.cpu_count() // dist.get_world_size()))
    mesh = Mesh(Layout.of(config.parallel))
    sides = {name: engines.named(name)(config, mesh) for name in names}
    batch, lr = batch_of(config, mesh), config.optim.lr
    losses = {name: engine.step(batch, lr, 1)[0] for name, engine in sides.items()}  # warms up
    seconds = {name: [] for name in names}
    for number in range(runs):
        for name, engine in sides.items():
            dist.barrier()
            device.synchronize()
            start = time.perf_counter()
            for k in range(steps):
                engine.step(batch, lr, 2 + number * steps + k)
            device.synchronize()
            seconds[name].append((time.perf_counter() - start) / steps)
    return seconds, losses, gpu


def show(title, config, seconds, losses, peak):
    """Print one layout's table; peak: FLOP/s of the whole machine's cores, or of a GPU."""
    tokens = config.train.global_batch * config.model.seq
    flops = config.model.flops(config.train.global_batch)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"\n{title:<11}{'ms/step':>9}{'tokens/s':>10}{'of peak':>9}{'loss':>9}{'our speed':>11}")
    for name, median in medians.items():
        print(
            f"{name:<11}{median * 1e3:>9.1f}{tokens / median:>10,.0f}"
            f"{flops / median / peak:>9.1%}{losses[name]:>9.4f}"
            f"{median / medians['mini']:>11.2f}"
        )


def main(
    config: Annotated[str, typer.Argument()] = "nano",
    overrides: Annotated[list[str] | None, typer.Argument()] = None,
    only: Annotated[str, typer.Option(help="Engines, divided by commas.")] = ",".join(ENGINES),
    runs: Annotated[int, typer.Option(help="Alternating runs of each engine.")] = 5,
    steps: Annotated[int, typer.Option(help="Steps in a run.")] = 3,
):
    """Time a training step of each engine."""
    given, names = overrides or [], only.split(",")
    layouts = LAYOUTS
    asked = any(override.startswith("parallel.") for override in given)
    if asked or torch.cuda.device_count() == 1:
        layouts = {" ".join(given) or "one rank": []}
    print(f"{device.name()}, torch {torch.__version__}")
    for title, layout in layouts.items():
        settings = sized(load(config, [*given, *layout]))
        for name in names:
            engines.named(name).refuse(settings)
        p = settings.parallel
        world = p.tp * p.pp * p.dp
        seconds, losses, gpu = run(measure, world, settings, names, runs, steps, timeout=3600)[0]
        peak = device.matmul_flops(device.DTYPES[settings.train.dtype])
        show(title, settings, seconds, losses, peak * world if gpu else peak)


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(f"engines.py: {error}")
