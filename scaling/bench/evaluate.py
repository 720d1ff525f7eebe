"""Scoring and writing beside transformers and the harness's own backend: same weights, one run.

    python scaling/bench/evaluate.py                        # nano's layers, a vocabulary of its own
    python scaling/bench/evaluate.py micro --vocab gpt2     # GPT-2's 50 257 tokens

Needs the extra [test]. All sides score the same pairs of BoolQ (two answers of one token after a
passage) and PIQA (two long answers after a short question), as lists of ids, and their scores are
compared first; pairs of more than 1 024 tokens are left out. tokens/s counts the tokens of all
pairs, read once or more often: what is read for "yes" need not be read again for "no", which two of
the three know. Runs alternate; the medians are compared.

transformers: pairs sorted by length and padded to the right, batches of as many tokens as ours,
log_softmax of all logits, as one would write it. lm-eval: its HFLM, batches of 16 pairs.

Then all sides go on with the beginnings of 16 passages, greedily, in one batch; tokens/s are new
tokens. More cases of that are in generate.py.
"""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from generate import by_turns, continued  # beside this file
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from minimtnlg import config as configuration
from minimtnlg import device
from minimtnlg.data import tokenizer
from minimtnlg.data.sources import task_records
from minimtnlg.errors import InputError
from minimtnlg.evaluate.datasets import load
from minimtnlg.evaluate.generate import generate
from minimtnlg.evaluate.scoring import encoded, scores
from minimtnlg.evaluate.tasks import pairs_of
from minimtnlg.model import GPT
from minimtnlg.train.checkpoint import load_run, save_model
from minimtnlg.train.huggingface import to_huggingface

BATCH = 4096  # tokens, padding included
NEW, ALIKE = 64, 16  # tokens to write for each passage, passages


def exported(settings, vocab, folder):
    """(our GPT, its Tokenizer, a folder that transformers reads): weights as drawn."""
    if vocab == "gpt2":
        words = tokenizer.gpt2()
    else:
        words = tokenizer.train((r["passage"] for r in task_records("boolq")), int(vocab))
    changed = [f"model.vocab={words.size}", "model.seq=1024", "model.attention=sdpa"]
    config = configuration.sized(configuration.load(*settings[:1], [*settings[1:], *changed]))
    run = folder / "run"
    run.mkdir()
    configuration.save(config, run / "config.yaml")
    words.save(run / "tokenizer.json")
    save_model(GPT(config.model, dtype=device.DTYPES[config.train.dtype]), run, 0)
    to_huggingface(run, folder / "hf")
    return load_run(run)[1], words, folder / "hf"


@torch.no_grad()
def plainly(model, pairs):
    """[log P] of pairs by transformers; model: its GPT-2."""
    where = model.device
    order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1]))
    found = [0.0] * len(pairs)
    while order:
        longest = sum(map(len, pairs[order[0]])) - 1
        chosen, order = order[: max(1, BATCH // longest)], order[max(1, BATCH // longest) :]
        tokens = torch.zeros(len(chosen), longest, dtype=torch.long)
        for row, i in enumerate(chosen):
            text = pairs[i][0] + pairs[i][1][:-1]
            tokens[row, : len(text)] = torch.tensor(text)
        rows = model(tokens.to(where)).logits.log_softmax(-1)
        for row, i in enumerate(chosen):
            context, continuation = pairs[i]
            at = torch.arange(len(continuation), device=where) + len(context) - 1
            labels = torch.tensor(continuation, device=where)
            found[i] = rows[row, at, labels].sum().item()
    return found


def main(
    config: Annotated[str, typer.Argument()] = "nano",
    overrides: Annotated[list[str] | None, typer.Argument()] = None,
    vocab: Annotated[str, typer.Option(help="Tokens to train, or gpt2.")] = "2000",
    items: Annotated[int, typer.Option(help="Of each task.")] = 100,
    runs: Annotated[int, typer.Option(help="Alternating runs of each side.")] = 5,
):
    """Time our scoring and writing, those of transformers and of the harness's backend."""
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        model, words, hf = exported([config, *(overrides or ())], vocab, Path(folder))
        theirs = AutoModelForCausalLM.from_pretrained(hf).to(device.device())
        backend = HFLM(theirs, tokenizer=AutoTokenizer.from_pretrained(hf), batch_size=16)
    shape = model.config
    print(f"{device.name()}, {next(model.parameters()).dtype}, {shape.parameters():,} parameters")
    print(f"{shape.layers} layers, hidden {shape.hidden}, vocabulary {shape.vocab:,}")
    print(f"{'':<7}{'':<14}{'s':>8}{'tokens/s':>11}{'ours is':>10}")
    for name in ("boolq", "piqa"):
        texts = [pair for item in load(name)[0][:items] for pair in pairs_of(name, item)]
        pairs = encoded(words, texts)
        chosen = [i for i, pair in enumerate(pairs) if sum(map(len, pair)) <= shape.seq]
        texts, pairs = [texts[i] for i in chosen], [pairs[i] for i in chosen]
        requests = [(text, *pair) for text, pair in zip(texts, pairs, strict=True)]
        sides = {
            "minimtnlg": lambda pairs=pairs: [s.logprob for s in scores(model, pairs, batch=BATCH)],
            "transformers": lambda pairs=pairs: plainly(theirs, pairs),
            "lm-eval": lambda requests=requests: [
                logprob
                for logprob, _ in backend._loglikelihood_tokens(requests, disable_tqdm=True)
            ],
        }
        first, *others = [torch.tensor(side(), dtype=torch.float64) for side in sides.values()]
        worst = max((first - other).abs().max().item() for other in others)
        show(name, sum(len(a) + len(b) for a, b in pairs), by_turns(sides, runs))
        print(f"{name:<7}largest difference of two scores {worst:.1e} nats")
    sides = writing(model, words, theirs, backend)
    ours, *others = [side() for side in sides.values()]
    show("write", NEW * ALIKE, by_turns(sides, runs))
    same = [sum(a == b for a, b in zip(ours, other, strict=True)) for other in others]
    print(f"{'write':<7}the same text as ours: {same[0]} and {same[1]} of {ALIKE}")


def writing(model, words, theirs, backend):
    """{side: function that returns ALIKE continuations as texts}."""
    texts = [record["passage"][:150] for record in task_records("boolq")][:ALIKE]
    prompts = [words.encode(text) for text in texts]
    asked = {"until": [], "max_gen_toks": NEW, "do_sample": False}
    requests = [Instance("generate_until", {}, (text, asked), i) for i, text in enumerate(texts)]

    def read(found):
        return [words.decode(ids) for ids in found]

    return {
        "minimtnlg": lambda: read(generate(model, prompts, NEW, vocab=words.size)),
        "transformers": lambda: read(continued(theirs, prompts, NEW, 1)),
        "lm-eval": lambda: backend.generate_until(requests, disable_tqdm=True),
    }


def show(name, tokens, times):
    """Print a line for each side; times: its median seconds."""
    for side, seconds in times.items():
        faster = f"{seconds / times['minimtnlg']:.2f} x"
        print(f"{name:<7}{side:<14}{seconds:>8.3f}{tokens / seconds:>11,.0f}{faster:>10}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(f"evaluate.py: {error}")
