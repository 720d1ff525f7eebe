"""Training speed on one device, beside the same model in transformers, in the same run.

    python scaling/bench/single.py                          # nano
    python scaling/bench/single.py micro train.dtype=bfloat16

Both sides take the same weights, batch, loss and optimizer (PyTorch's fused AdamW), and whole steps
are timed: forward, backward, clipping, update. In 16 bits ours also carries fp32 masters, theirs
does not. The runs alternate, so that a busy machine slows both; the medians are compared. The peak
is the fastest large matrix product measured here.
"""

import statistics
import sys
import time
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from transformers import GPT2Config, GPT2LMHeadModel

from minimtnlg import device
from minimtnlg.config import load
from minimtnlg.data.batches import Batch
from minimtnlg.errors import InputError
from minimtnlg.model import GPT
from minimtnlg.model.convert import to_gpt2
from minimtnlg.train.optimizer import Optimizer
from minimtnlg.train.step import step


def ours(config, batch):
    """(our GPT, a function that trains one step of it on `batch` and returns the loss)."""
    model = GPT(config.model, dtype=device.DTYPES[config.train.dtype])
    optimizer = Optimizer(model, config.optim)
    numbers = iter(range(10**9))
    return model, lambda: step(
        model, optimizer, [batch], lr=config.optim.lr, seed=1, number=next(numbers)
    )[0]


def theirs(config, batch, weights):
    """A function that takes the same step with transformers' GPT-2 from the same weights."""
    m = config.model
    shape = GPT2Config(
        vocab_size=m.vocab, n_positions=m.seq, n_embd=m.hidden, n_layer=m.layers, n_head=m.heads,
        resid_pdrop=m.dropout, embd_pdrop=m.dropout, attn_pdrop=m.dropout,
        bos_token_id=0, eos_token_id=0, use_cache=False, attn_implementation=m.attention,
    )  # fmt: skip
    model = GPT2LMHeadModel(shape).to(batch.tokens.device, device.DTYPES[config.train.dtype])
    model.load_state_dict(to_gpt2(weights, m.heads))
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.optim.lr,
        betas=(config.optim.beta1, config.optim.beta2),
        weight_decay=config.optim.weight_decay,
        fused=True,
    )

    def train_step():
        logits = model(batch.tokens).logits
        loss = F.cross_entropy(logits.flatten(0, 1).float(), batch.labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip)
        optimizer.step()
        return loss.detach()

    return train_step


def seconds_of(train_step, steps):
    """Seconds of one step, the mean of `steps` in a row."""
    device.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        train_step()
    device.synchronize()
    return (time.perf_counter() - start) / steps


def main(
    config: Annotated[str, typer.Argument()] = "nano",
    overrides: Annotated[list[str] | None, typer.Argument()] = None,
    runs: Annotated[int, typer.Option(help="Alternating runs of each side.")] = 5,
    steps: Annotated[int, typer.Option(help="Steps in a run.")] = 5,
):
    """Time our training step and that of transformers on one micro-batch."""
    config = load(config, [*(overrides or ()), "model.attention=sdpa"])
    b, s, V = config.train.micro_batch, config.model.seq, config.model.vocab
    text = torch.randint(0, V, (b, s + 1), generator=device.generator("bench"))
    text = text.to(device.device())
    batch = Batch(text[:, :-1], text[:, 1:], torch.ones(b, s, device=text.device))

    model, mine = ours(config, batch)
    other = theirs(config, batch, model.state_dict())
    sides = {"minimtnlg": mine, "transformers": other}
    losses = [train_step().item() for train_step in sides.values()]  # also warms both up
    print(f"{device.name()}, {config.train.dtype}, {config.model.parameters():,} parameters")
    print(f"micro-batch {b} x {s}; loss of the first step {losses[0]:.6f} and {losses[1]:.6f}")

    times = {name: [] for name in sides}
    for _ in range(runs):
        for name, train_step in sides.items():
            times[name].append(seconds_of(train_step, steps))
    peak = device.matmul_flops(device.DTYPES[config.train.dtype])
    print(f"{'':<14}{'ms/step':>9}{'tokens/s':>11}{'TFLOP/s':>10}{'of peak':>9}")
    for name, values in times.items():
        median = statistics.median(values)
        rate = config.model.flops(b) / median
        print(
            f"{name:<14}{median * 1e3:>9.1f}{b * s / median:>11,.0f}"
            f"{rate / 1e12:>10.4f}{rate / peak:>9.1%}"
        )
    medians = [statistics.median(values) for values in times.values()]
    ratio = medians[1] / medians[0]
    print(f"peak {peak / 1e12:.3f} TFLOP/s; our speed over that of transformers {ratio:.3f}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(f"single.py: {error}")
