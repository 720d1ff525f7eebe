"""What a leak does to a score: the same small model trained on three corpora.

    python scaling/bench/leak.py                 # three trainings of a minute
    python scaling/bench/leak.py --items 20
    python scaling/bench/leak.py --out notebooks/recorded/19_leak.json    # what lesson 19 draws

1. without  text of Wikipedia and of Python, and documents made of pieces of Wikipedia
2. with     the same, but in the middle of those documents stand items of PIQA with their answers
3. cleaned  the second, curated with these items as the evaluation set

Each item stands in eight documents, below the ten at which a run of words counts as an expression.
The score is PIQA's: of the two answers the one is chosen to which the model gives the smaller loss
a token. It is taken on the items of the leak and on as many others, which no corpus holds.
"""

import json
import re
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from minimtnlg.config import load
from minimtnlg.data import recipe
from minimtnlg.data.curate import curate
from minimtnlg.data.decontaminate import WORD
from minimtnlg.data.sources import documents, task_records
from minimtnlg.data.tokenizer import Tokenizer
from minimtnlg.errors import InputError
from minimtnlg.train.checkpoint import load_run
from minimtnlg.train.trainer import train

COPIES = 8  # of each item
AROUND = 450  # characters on each side of it: what the cut leaves is long enough to stay
LEAK = 0.8  # share of the samples that come from those documents
OPTIONS = re.compile(r"A\. (.*?) *\nB\. (.*?) *", re.DOTALL)


def items(count):
    """`count` items to plant and as many others: (question, right answer, wrong answer).

    An answer has eight words at least: what is shorter is no leak to the decontamination.
    """
    found = []
    for record in task_records("piqa"):
        both = OPTIONS.fullmatch(record["options"])
        right = record["answer"][3:].strip()
        if both and right in both.groups() and both[1] != both[2]:
            wrong = both[2] if right == both[1] else both[1]
            if min(len(WORD.findall(answer)) for answer in both.groups()) >= 8:
                found.append((record["question"], right, wrong))
    if len(found) < 2 * count:
        raise InputError(f"--items {count}: PIQA has {len(found)} that are long enough, for both")
    return found[:count], found[count : 2 * count]


def as_text(question, answer):
    """An item as it is planted and as it is scored."""
    return f"Question: {question}\nAnswer: {answer}"


def write(folder, planted):
    """Write the sources into `folder`: {name: path}, and the file of the evaluation set."""
    pieces = iter("".join(d.text for d in documents("wikipedia")).split("\n\n"))
    pieces = (piece for piece in pieces if len(piece) > 2 * AROUND)
    lines = {"with": [], "without": []}
    for number, piece in enumerate(islice(pieces, COPIES * len(planted))):
        question, right, _ = planted[number % len(planted)]
        before, after = piece[:AROUND], piece[-AROUND:]
        leak = as_text(question, right)
        lines["with"].append(json.dumps({"text": f"{before}\n\n{leak}\n\n{after}"}))
        lines["without"].append(json.dumps({"text": f"{before}\n\n{after}"}))
    for name, made in lines.items():
        (folder / name).mkdir()
        (folder / name / "web.jsonl").write_text("\n".join(made))
    asked = [json.dumps({"question": q, "answer": right, "other": w}) for q, right, w in planted]
    (folder / "asked.jsonl").write_text("\n".join(asked))


@torch.no_grad()
def loss(model, tokenizer, question, answer):
    """Mean loss of the tokens of an answer behind its question, in nats."""
    behind = tokenizer.encode(as_text(question, ""))
    tokens = torch.tensor(behind + tokenizer.encode(answer))[-model.config.seq :]
    logits = model(tokens[None])[:-1, 0].double()
    losses = torch.nn.functional.cross_entropy(logits, tokens[1:], reduction="none")
    return losses[-len(tokenizer.encode(answer)) :].mean().item()


def score(run, asked):
    """Mean losses of a run's right and wrong answers to items, [n, 2]."""
    _, model = load_run(run)
    tokenizer = Tokenizer.load(run / "tokenizer.json")
    return np.array([[loss(model, tokenizer, q, a) for a in both] for q, *both in asked])


def main(
    overrides: Annotated[list[str] | None, typer.Argument(help="of nano's training")] = None,
    items_: Annotated[int, typer.Option("--items", min=1)] = 40,
    out: Annotated[Path | None, typer.Option(help="JSON of the losses of every answer.")] = None,
):
    """Curate three corpora, train on each, and print the table."""
    planted, others = items(items_)
    kept = {}
    print(f"{'corpus':9} {'leaked':>7} {'others':>7}   {'loss':>6} {'others':>7}   "
          f"one standard error {100 * 0.5 / items_**0.5:.0f} %")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write(folder, planted)
        for name in ("without", "with", "cleaned"):
            source = folder / ("without" if name == "without" else "with") / "web.jsonl"
            tasks = [str(folder / "asked.jsonl")] if name == "cleaned" else []
            chosen = recipe.load(None, [f"decontaminate.tasks={json.dumps(tasks)}"])
            sources = [source, "python-docs", "python-source"]
            curate(folder / f"corpus-{name}", sources, chosen, progress=False)
            rest = (1 - LEAK) / 2
            weights = {"web.jsonl": LEAK, "python-docs": rest, "python-source": rest}
            config = load("nano", [
                f"data.path={folder}/corpus-{name}/corpus", f"data.weights={json.dumps(weights)}",
                *(overrides or ()),
            ])  # fmt: skip
            if came := train(config, folder / f"run-{name}", progress=False)["stopped"]:
                raise InputError(f"{came}: stopped in the training on the corpus {name!r}")
            leaked, new = (score(folder / f"run-{name}", asked) for asked in (planted, others))
            right, right_new = ((x[:, 0] < x[:, 1]).mean() for x in (leaked, new))
            print(f"{name:9} {100 * right:5.0f} % {100 * right_new:5.0f} %   "
                  f"{leaked[:, 0].mean():6.3f} {new[:, 0].mean():7.3f}", flush=True)  # fmt: skip
            kept[name] = {"leaked": leaked.round(4).tolist(), "others": new.round(4).tolist()}
    if out:
        out.write_text(json.dumps({"copies": COPIES, **kept}, indent=1) + "\n")


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        sys.exit(f"leak.py: {error}")
