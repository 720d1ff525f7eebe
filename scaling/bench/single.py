"""Training speed on one device, beside transformers and Megatron-Core, by turns in the same run.

    python scaling/bench/single.py                                     # nano
    python scaling/bench/single.py micro train.dtype=bfloat16
    python scaling/bench/single.py --sizes 125m,350m,760m,1.3b,2.7b,6.7b --json NAME.json   # a GPU

All sides take the same weights, batch and loss, and AdamW with the same numbers: ours and
transformers' is PyTorch's fused one, Megatron-Core's, without Transformer Engine and Apex, the one
that it takes then. What is timed is a whole step as a run makes it: forward and backward of
--micro-batches, clipping, update, and the loss read at the end. In 16 bits ours and Megatron-Core
carry fp32 masters and sum gradients in fp32, transformers do neither. `compiled` is ours with every
block through torch.compile: what it gains is what it would pay to use it.

The sides take turns, so that a busy or hot machine slows all, and medians are compared. In its turn
a side is alone on the device: it is built, warmed up and thrown away. What does not fit into memory
is a row that says so. MFU is model FLOPs [S13, eq. 7] over the peak: that of the data sheet, and
the fastest large product that was measured here.
"""

import datetime
import gc
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from gemms import sheet

from minimtnlg import device, engines, run
from minimtnlg.config import load, sized
from minimtnlg.data.batches import Batch
from minimtnlg.errors import InputError
from minimtnlg.files import appearing
from minimtnlg.model import build
from minimtnlg.model.convert import to_gpt2
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.train.mini import Mini

BASE = Path(__file__).parents[1] / "configs" / "gpt-1.3b.yaml"
SIZES = {  # GPT-3's shapes [S43, Table 2.1], 1.3b with S11's heads: layers, hidden, heads, b
    "125m": (12, 768, 12, 16),
    "350m": (24, 1024, 16, 16),
    "760m": (24, 1536, 16, 8),
    "1.3b": (24, 2048, 16, 4),
    "2.7b": (32, 2560, 32, 2),
    "6.7b": (32, 4096, 32, 1),
}
WARM_UP = 2  # steps; the first also compiles, and makes Adam's moments


def ours(config):
    """A function (micro-batches, number of the step) that makes a step and returns its loss."""
    engine = Mini(config, Mesh())
    return lambda batches, number: engine.step(batches, config.optim.lr, number)[0]


def compiled(config):
    """The same, with each block compiled; no block has a graph break, or this raises."""
    engine = Mini(config, Mesh())
    for block in engine.model.blocks:
        block.compile(fullgraph=True)
    return lambda batches, number: engine.step(batches, config.optim.lr, number)[0]


def megatron(config):
    """The same step by Megatron-Core."""
    engine = engines.named("megatron")(config, Mesh())
    return lambda batches, number: engine.step(batches, config.optim.lr, number)[0]


def transformers(config):
    """The same step with transformers' GPT-2 and PyTorch alone."""
    from transformers import GPT2Config, GPT2LMHeadModel  # which takes seconds

    m, optim = config.model, config.optim
    shape = GPT2Config(
        vocab_size=m.vocab, n_positions=m.seq, n_embd=m.hidden, n_layer=m.layers, n_head=m.heads,
        resid_pdrop=m.dropout, embd_pdrop=m.dropout, attn_pdrop=m.dropout,
        bos_token_id=0, eos_token_id=0, use_cache=False, attn_implementation=m.attention,
    )  # fmt: skip
    model = GPT2LMHeadModel(shape).to(device.device(), device.DTYPES[config.train.dtype])
    model.load_state_dict(to_gpt2(build(config).state_dict(), m.heads))
    betas = (optim.beta1, optim.beta2)
    decay = {"weight_decay": optim.weight_decay, "betas": betas, "eps": optim.eps}
    optimizer = torch.optim.AdamW(model.parameters(), lr=optim.lr, fused=True, **decay)

    def train_step(batches, number):
        optimizer.zero_grad()
        total = 0
        for batch in batches:
            logits = model(batch.tokens).logits
            loss = F.cross_entropy(logits.flatten(0, 1).float(), batch.labels.flatten())
            (loss / len(batches)).backward()
            total += loss.detach() / len(batches)
        torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip)
        optimizer.step()
        return total.item()

    return train_step


SIDES = {
    "minimtnlg": ours, "compiled": compiled, "transformers": transformers, "megatron": megatron,
}  # fmt: skip


def batches_of(config):
    """The micro-batches of a step: random tokens, nothing masked."""
    b, s, V = config.train.micro_batch, config.model.seq, config.model.vocab
    g = device.generator("bench")
    text = torch.randint(0, V, (config.train.global_batch, s + 1), generator=g)
    ones = torch.ones(b, s, device=device.device())
    return [
        Batch(t[:, :-1].contiguous(), t[:, 1:].contiguous(), ones)
        for t in text.to(device.device()).split(b)
    ]


def turn(side, config, steps):
    """(loss of the first step, seconds of a step, bytes at the peak or None) of one turn."""
    device.peak_memory()
    train_step, batches = SIDES[side](config), batches_of(config)
    losses = [train_step(batches, number) for number in range(WARM_UP)]
    device.synchronize()
    start = time.perf_counter()
    for number in range(WARM_UP, WARM_UP + steps):
        train_step(batches, number)
    device.synchronize()
    return losses[0], (time.perf_counter() - start) / steps, device.peak_memory()


def turns(config, sides, runs, steps):
    """{side: [what `turn` gives] or a word for why there is nothing}, by one rank of its own."""
    if device.device().type == "cpu":
        torch.set_num_threads(os.cpu_count())
    found = {side: [] for side in sides}
    for _ in range(runs):
        for side in sides:
            if isinstance(found[side], list):
                try:
                    found[side].append(turn(side, config, steps))
                except torch.OutOfMemoryError:
                    found[side] = "out of memory"
                gc.collect()  # after the exception is gone, which holds what did not fit
                device.peak_memory()
    return found


def rows_of(size, config, found, peak, measured):
    """What was found as rows, dicts. peak, measured: FLOP/s of the data sheet (None: unknown)."""
    b, s = config.train.global_batch, config.model.seq
    for side, results in found.items():
        row = {"size": size, "parameters": config.model.parameters(), "side": side}
        row |= {"micro_batch": config.train.micro_batch, "sequences": b, "seq": s}
        if isinstance(results, str):
            yield row | {"failed": results}
            continue
        seconds = statistics.median(seconds for _, seconds, _ in results)
        flops = config.model.flops(b) / seconds
        most = results[-1][2]
        yield row | {
            "loss": results[0][0],
            "ms": seconds * 1e3,
            "tokens_per_s": b * s / seconds,
            "tflops": flops / 1e12,
            "mfu": peak and flops / peak,
            "of_measured_peak": flops / measured,
            "memory_gib": most and most / 2**30,
        }


def line(row):
    """A row as text."""
    text = f"{row['size']:<8}{row['side']:<14}"
    if "failed" in row:
        return text + row["failed"]
    mfu, memory = (row[key] for key in ("mfu", "memory_gib"))
    shown = f"{mfu:.1%}" if mfu else "-", f"{memory:.1f}" if memory else "-"
    return (
        f"{text}{row['ms']:>10.1f}{row['tokens_per_s']:>11,.0f}{row['tflops']:>11.4g}{shown[0]:>8}"
        f"{row['of_measured_peak']:>9.1%}{shown[1]:>8}{row['loss']:>10.4f}"
    )


def configs_of(config, sizes, overrides, micro_batches):
    """{name: Config} of what is to be timed; each step has so many micro-batches."""
    found = {}
    for name in sizes.split(",") if sizes else [config]:
        given = []
        if sizes:
            if name not in SIZES:
                raise InputError(f"--sizes {name}: there are {', '.join(SIZES)}")
            layers, hidden, heads, b = SIZES[name]
            given = [f"model.layers={layers}", f"model.hidden={hidden}", f"model.heads={heads}"]
            given.append(f"train.micro_batch={b}")
        given += [*overrides, "model.attention=sdpa", "train.ramp=null"]
        b = load(BASE if sizes else config, given).train.micro_batch
        # The batch is the last word: a step of a long run has more, and takes longer.
        given.append(f"train.global_batch={b * micro_batches}")
        found[name if sizes else Path(name).stem] = sized(load(BASE if sizes else config, given), 1)
    return found


def main(
    config: Annotated[str, typer.Argument()] = "nano",
    overrides: Annotated[list[str] | None, typer.Argument()] = None,
    sizes: Annotated[str, typer.Option(help="Instead of CONFIG: 125m,1.3b and others.")] = "",
    only: Annotated[str, typer.Option(help="Sides, divided by commas.")] = "",
    micro_batches: Annotated[int, typer.Option(min=1, help="In a step.")] = 8,
    runs: Annotated[int, typer.Option(min=1, help="Turns of each side.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Timed steps in a turn.")] = 3,
    file: Annotated[Path | None, typer.Option("--json", help="Also write all rows here.")] = None,
):
    """Time a training step of each side."""
    overrides = list(overrides or [])
    if sizes and "=" in config:  # with --sizes there is no CONFIG before them
        overrides, config = [config, *overrides], "nano"
    gpu = device.device().type != "cpu"
    sides = only.split(",") if only else [*SIDES] if gpu else ["minimtnlg", "transformers"]
    if unknown := [side for side in sides if side not in SIDES]:
        raise InputError(f"--only {unknown[0]}: there are {', '.join(SIDES)}")
    chosen = configs_of(config, sizes, overrides, micro_batches)
    dtype = next(iter(chosen.values())).train.dtype
    peak = sheet().tflops * 1e12 if gpu and dtype in ("bfloat16", "float16") else None
    measured = device.matmul_flops(device.DTYPES[dtype], seconds=1)
    print(f"{device.name()}, torch {torch.__version__}, {dtype}; in TFLOP/s, the data sheet:")
    print(f"{peak / 1e12 if peak else '-'}, the fastest product: {measured / 1e12:.4g}")
    heads = f"{'ms/step':>10}{'tokens/s':>11}{'TFLOP/s':>11}{'MFU':>8}{'of fast.':>9}{'GiB':>8}"
    print(f"{'':<22}{heads}{'loss':>10}")
    rows = []
    for name, settings in chosen.items():
        [found] = run(turns, 1, settings, sides, runs, steps, timeout=7200)
        for row in rows_of(name, settings, found, peak, measured):
            print(line(row), flush=True)
            rows.append(row)
    if file:
        about = {"device": device.name(), "torch": torch.__version__, "dtype": dtype}
        about |= {"date": datetime.date.today().isoformat(), "runs": runs, "steps": steps}
        about |= {"peak_tflops": peak and peak / 1e12, "measured_tflops": measured / 1e12}
        with appearing(file) as aside:
            aside.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(f"single.py: {error}")
