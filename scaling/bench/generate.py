"""Generation beside transformers' own, on the same weights in the same run: tokens a second.

    python scaling/bench/generate.py                        # nano, without training
    python scaling/bench/generate.py micro model.seq=512

Both sides continue the same prompts greedily with a key-value cache, in the same type, with the
same threads, and no text ends early. Prompts are of one length, or of lengths between half of that
and all of it. The sides alternate, so that a busy machine slows both; medians are compared. A new
token is one of a text: a step of 8 texts makes 8.
"""

import statistics
import sys
import time
from functools import partial
from typing import Annotated

import torch
import typer
from transformers import GPT2Config, GPT2LMHeadModel

from minimtnlg import device
from minimtnlg.config import load
from minimtnlg.errors import InputError
from minimtnlg.evaluate.generate import beam, generate
from minimtnlg.model import GPT
from minimtnlg.model.convert import to_gpt2


def theirs(model):
    """transformers' GPT-2 with the weights of our model, in its type and on its device."""
    m, first = model.config, next(model.parameters())
    shape = GPT2Config(
        vocab_size=m.vocab, n_positions=m.seq, n_embd=m.hidden, n_layer=m.layers, n_head=m.heads,
        bos_token_id=0, eos_token_id=None, pad_token_id=0, attn_implementation="sdpa",
    )  # fmt: skip
    other = GPT2LMHeadModel(shape).to(first.device, first.dtype).eval()
    other.load_state_dict(to_gpt2(model.state_dict(), m.heads))
    return other


def by_turns(sides, runs):
    """{name: median seconds} of functions that run one after the other, `runs` times."""
    times = {name: [] for name in sides}
    for _ in range(runs):
        for name, work in sides.items():
            device.synchronize()
            start = time.perf_counter()
            work()
            device.synchronize()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def mine(model, prompts, count, beams):
    """What we make of the prompts: lists of new ids."""
    if beams > 1:
        return [beam(model, prompts[0], count, beams)[0][0]]
    return generate(model, prompts, count)


def continued(model, prompts, count, beams):
    """What transformers makes of the prompts, padded on the left: lists of new ids."""
    longest = max(map(len, prompts))
    ids = [[0] * (longest - len(ids)) + ids for ids in prompts]
    mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]
    where = next(model.parameters()).device
    found = model.generate(
        torch.tensor(ids, device=where), attention_mask=torch.tensor(mask, device=where),
        max_new_tokens=count, do_sample=False, num_beams=beams, length_penalty=0.0,
    )  # fmt: skip
    return found[:, longest:].tolist()


def cases(model, length, count, batch):
    """{name: (prompts, beams)}."""
    g = device.generator("bench")

    def prompt(n):
        return torch.randint(model.config.vocab, (n,), generator=g).tolist()

    lengths = torch.randint(length // 2, length + 1, (batch,), generator=g).tolist()
    return {
        "one prompt": ([prompt(length)], 1),
        f"{batch} of one length": ([prompt(length) for _ in range(batch)], 1),
        f"{batch} of many lengths": ([prompt(n) for n in lengths], 1),
        "one prompt, 4 beams": ([prompt(length)], 4),
    }


def main(
    config: Annotated[str, typer.Argument()] = "nano",
    overrides: Annotated[list[str] | None, typer.Argument()] = None,
    length: Annotated[int | None, typer.Option(help="Tokens of a prompt; else half.")] = None,
    count: Annotated[int | None, typer.Option(help="New tokens; else half.")] = None,
    batch: Annotated[int, typer.Option(help="Prompts at a time.")] = 8,
    runs: Annotated[int, typer.Option(help="Alternating runs of each side.")] = 5,
):
    """Time our generation and that of transformers."""
    config = load(config, overrides or ())
    seq = config.model.seq
    length, count = length or seq // 2, count or seq // 2
    model = GPT(config.model, dtype=device.DTYPES[config.train.dtype]).requires_grad_(False)
    other = theirs(model)
    print(f"{device.name()}, {config.train.dtype}, {config.model.parameters():,} parameters")
    print(f"prompts of {length} tokens, {count} new ones\n")
    print(f"{'new tokens/s':<24}{'minimtnlg':>10}{'transformers':>14}{'ratio':>7}  same tokens")
    for name, (prompts, beams) in cases(model, length, count, batch).items():
        sides = {
            "minimtnlg": partial(mine, model, prompts, count, beams),
            "transformers": partial(continued, other, prompts, count, beams),
        }
        results = [side() for side in sides.values()]  # warms both up
        ours, others = (len(prompts) * count / s for s in by_turns(sides, runs).values())
        alike = sum(a == b for a, b in zip(*results, strict=True)) / len(prompts)
        print(f"{name:<24}{ours:>10,.0f}{others:>14,.0f}{ours / others:>7.2f}  {alike:.0%}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(f"generate.py: {error}")
