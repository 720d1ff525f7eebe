"""What the small model came to: its loss curve, its price, its evaluation.

    make model                         # trains it, unless it is there
    python scaling/bench/small.py      # writes notebooks/recorded/small.json and docs/small.md

Seconds are those that the steps took on the machine that trained it, busy or not. Beside their
sum stands what it would be at the rate that the fastest tenth of the steps reached.
"""

import json
import os
import platform
import textwrap
from pathlib import Path
from statistics import quantiles

from minimtnlg.course.need import need
from minimtnlg.data import batches
from minimtnlg.data.corpus import Corpus
from minimtnlg.data.tokenizer import Tokenizer
from minimtnlg.evaluate import hans
from minimtnlg.evaluate.evaluation import evaluate
from minimtnlg.evaluate.scoring import of_texts
from minimtnlg.train.checkpoint import load_run

ROOT = Path(__file__).parents[2]
RECORD, PAGE = ROOT / "notebooks" / "recorded" / "small.json", ROOT / "docs" / "small.md"
EVERY = 25  # steps between two points of the curve


def training(run, config):
    """The facts of the training: tokens, losses, seconds, curve."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seconds = sum(row["step_s"] for row in rows)
    quiet = quantiles((row["tokens_per_s"] for row in rows), n=10)[-1]
    data = config.data
    return {
        "parameters": config.model.parameters(),
        "steps": len(rows),
        "tokens": rows[-1]["tokens"],
        "valid_loss": rows[-1]["valid_loss"],
        "unigram_entropy": batches.unigram_entropy(Corpus(data.path), data.weights, data.split),
        "seconds": seconds,
        "tokens_per_s": rows[-1]["tokens"] / seconds,
        "quiet_tokens_per_s": quiet,
        "quiet_seconds": rows[-1]["tokens"] / quiet,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "curve": [
            {key: round(row[key], 4) for key in ("tokens", "loss", "valid_loss") if key in row}
            for row in rows
            if row["step"] % EVERY == 0 or row is rows[-1]
        ],
    }


def misled(run, model):
    """Results on HANS, in the form of `evaluate`; and with the threshold moved."""
    logprobs = of_texts(model, Tokenizer.load(run / "tokenizer.json"))  # which cuts nothing
    items, pool, rows = hans.examples(20, seed=1), hans.examples(40, seed=2), []
    for count in (0, 1, 2, 4):
        found = hans.ask(logprobs, items, pool, count, labels="balanced")
        (share, error), (moved, _) = found.accuracy(), found.shifted()
        row = {"task": "hans (ours)", "shots": count, "items": len(items), "accuracy": share}
        row |= {"standard_error": error, "majority": 0.5, "chance": 0.5, "cut": 0}
        rows.append(row | {"threshold moved": moved})
    return rows


def page(found):
    """docs/small.md as text."""
    told = found["training"]
    curve = [row for row in told["curve"] if "valid_loss" in row]
    points = [*curve[:: max(1, len(curve) // 8)], curve[-1]]
    lines = [f"| {x['tokens']:,} | {x['loss']:.3f} | {x['valid_loss']:.3f} |" for x in points]
    lines = list(dict.fromkeys(lines))
    rows = [
        f"| {x['task']} | {x['shots']} | {x['items']} | {100 * x['accuracy']:.1f} | "
        f"{100 * x['standard_error']:.1f} | {100 * x['majority']:.1f} | {100 * x['chance']:.1f} | "
        f"{x['cut']} |"
        for x in found["evaluation"]
    ]
    text = f"""# The small model

`make model` trains the preset `small`: {told["parameters"]:,} parameters, {told["tokens"]:,}
tokens of the default corpus, {told["steps"]:,} steps. It lies in the cache beside `nano`, and
lessons 18 to 20 take it where their parameter says `"small"`. A training that is interrupted goes
on from its last checkpoint when the command is given again. When it is done, nothing is done again.

This page and its numbers, [small.json](../notebooks/recorded/small.json), are written by `python
scaling/bench/small.py`.

## Training

On {told["machine"]}, shared with other work, the steps took {told["seconds"]:,.0f} s, or
{told["tokens_per_s"]:,.0f} tokens/s. A tenth of them reached {told["quiet_tokens_per_s"]:,.0f}
tokens/s; at that rate it would have been {told["quiet_seconds"]:,.0f} s. The validation loss is
{told["valid_loss"]:.3f} nats per token; the best of a model that sees no context is
{told["unigram_entropy"]:.3f}.

| Tokens | Training loss | Validation loss |
|---:|---:|---:|
{chr(10).join(lines)}

## Evaluation

In per cent, with one standard error. Majority is what the commonest answer comes to. Cut are the
questions that are longer than the {found["seq"]} tokens that the model reads. The cloze set is made
of Moby-Dick, HANS of our own words: neither can be compared with published numbers.

| Task | Shots | Questions | Right | +- | Majority | Chance | Cut |
|---|---:|---:|---:|---:|---:|---:|---:|
{chr(10).join(rows)}

{verdicts(found["evaluation"])}
"""
    parts = text.split("\n\n")
    wrapped = [part if part[0] in "#|" else textwrap.fill(part, 100) for part in parts]
    return "\n\n".join(wrapped) + "\n"


def verdicts(rows):
    """Which rows are above what is had for nothing, by more than two standard errors, in words."""
    above = [
        f"{row['task']} with {row['shots']} shots"
        for row in rows
        if row["accuracy"] - 2 * row["standard_error"] > max(row["majority"], row["chance"])
    ]
    told = f"these rows: {', '.join(above)}" if above else "no row"
    return (
        "Above both the commonest answer and chance, by more than two standard errors, there is "
        f"{told}; of rows that know nothing, one in forty would be there by luck."
    )


def main():
    """Measure, and write both files."""
    run = need("small")
    config, model = load_run(run)
    results = evaluate(run, ["boolq", "cloze"], [0]) + evaluate(run, ["piqa"], [0, 1, 2, 4])
    keys = "task", "shots", "items", "accuracy", "standard_error", "majority", "chance", "cut"
    rows = [{key: row[key] for key in keys} for row in results] + misled(run, model)
    found = {"training": training(run, config), "seq": config.model.seq, "evaluation": rows}
    RECORD.write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text(page(found))
    print(f"{RECORD}\n{PAGE}")


if __name__ == "__main__":
    main()
