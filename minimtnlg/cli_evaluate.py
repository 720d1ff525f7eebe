"""The model in use: `minimtnlg generate`, and `evaluate`, beside the published numbers."""

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from minimtnlg.errors import InputError

MODELS = {"mtnlg": "MT-NLG", "gpt3": "GPT-3", "gopher": "Gopher"}


def generate(
    run: Annotated[Path, typer.Argument(help="A run, a Hugging Face GPT-2's folder, or hf:gpt2.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="The layout, as in parallel.tp=2 parallel.pp=2")
    ] = None,
    prompt: Annotated[
        str, typer.Option(help="What the text begins with; -: read from stdin.")
    ] = ...,
    count: Annotated[int, typer.Option(help="Tokens at most.")] = 40,
    samples: Annotated[int, typer.Option(min=1, help="How many texts are drawn.")] = 1,
    temperature: Annotated[
        float, typer.Option(help="0: the likeliest token; 1: drawn as the model says.")
    ] = 0.0,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k likeliest tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the likeliest that have p together.")
    ] = None,
    beams: Annotated[
        int | None, typer.Option(help="Show the best that beam search of this width finds.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 1,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text; may be given more than once.")
    ] = None,
):
    """Go on with a text. An empty prompt begins a new document."""
    from minimtnlg.evaluate.models import as_run, layout_of
    from minimtnlg.ranks import run as on_ranks

    if prompt == "-":
        prompt = sys.stdin.read().removesuffix("\n")
    drawn = temperature != 0
    if not drawn and (samples > 1 or (top_k, top_p) != (None, None)):
        raise InputError(
            "--samples, --top-k and --top-p are about draws, and at temperature 0 nothing is "
            "drawn: add --temperature 1"
        )
    if beams is not None and (drawn or stop):
        raise InputError("--beams searches, and neither draws nor stops: leave out the others")
    job = dict(
        prompt=prompt, count=count, samples=samples, beams=beams, stop=stop or [],
        draw=dict(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed),
    )  # fmt: skip
    with as_run(run) as folder:
        layout = layout_of(folder, overrides or ())
        if layout.world == 1:
            texts, tokens, seconds = _written(folder, layout, job)
        else:
            args = (_written, layout.world, folder, layout, job)
            texts, tokens, seconds = on_ranks(*args, timeout=math.inf)[0]
    print("\n\n".join(texts))
    print(f"{tokens} tokens in {seconds:.2f} s, {tokens / seconds:,.0f} tokens/s", file=sys.stderr)


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run, a Hugging Face GPT-2's folder, or hf:gpt2.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="The layout, as in parallel.tp=2 parallel.pp=2")
    ] = None,
    tasks: Annotated[str, typer.Option(help="Names divided by commas, as in boolq,piqa.")] = ...,
    shots: Annotated[
        str, typer.Option(help="Numbers of examples, as in 0,1,4; few: as published.")
    ] = "0",
    seed: Annotated[int, typer.Option(help="Of the examples that are drawn.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Items of each task; else all.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="A data set's file, a folder of them, or hub; else what packages ship."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Write the results there.")] = None,
):
    """Score tasks zero-, one- and few-shot; goes on where it was when it was interrupted."""
    from minimtnlg.evaluate import evaluation
    from minimtnlg.files import appearing

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise InputError("--tasks names no task")
    results = evaluation.evaluate(
        run, names, [_count(text) for text in shots.split(",")], overrides=overrides or (),
        seed=seed, limit=limit, data=data,
    )  # fmt: skip
    if int(os.environ.get("RANK", 0)) != 0:
        return  # one rank speaks for all
    _show(results)
    if out:
        with appearing(out) as aside:
            aside.write_text(json.dumps({"run": str(run), "results": results}, indent=1) + "\n")


def _written(run, layout, job):
    """(texts, how many new tokens they have, seconds), the same on every rank."""
    from minimtnlg.evaluate.generate import beam, until
    from minimtnlg.evaluate.generate import generate as continued
    from minimtnlg.evaluate.models import opened
    from minimtnlg.parallel.mesh import Mesh

    model, words = opened(run, Mesh(layout))
    ids = words.encode(job["prompt"]) or [words.eod]
    stop, cut = until(words, job["stop"])
    common = dict(eod=words.eod, vocab=words.size)
    began = time.perf_counter()
    if job["beams"] is None:
        prompts = [ids] * job["samples"]
        found = continued(model, prompts, job["count"], stop=stop, **job["draw"], **common)
        found = [(new, "") for new in found]
    else:
        found = beam(model, ids, job["count"], job["beams"], **common)
        found = [(new, f"{total:8.3f}  ") for new, total in found]
    seconds = time.perf_counter() - began
    texts = [before + job["prompt"] + cut(words.decode(new)) for new, before in found]
    return texts, sum(len(new) for new, _ in found), seconds


def _count(text):
    text = text.strip()
    if text != "few" and not (text.isascii() and text.isdecimal()):
        raise InputError(f"--shots {text!r}: numbers from 0 divided by commas, or few")
    return text if text == "few" else int(text)


def _show(results):
    """The table, in per cent; below it what has to be known to read it."""
    heads = ["task", "shots", "items", "accuracy", "+-", "majority", "chance", *MODELS.values()]
    rows = [
        [
            row["task"],
            str(row["shots"]),
            str(row["items"]),
            *(_percent(row[key]) for key in ("accuracy", "standard_error", "majority", "chance")),
            *(f"{row['published'][m]:.2f}" if m in row["published"] else "" for m in MODELS),
        ]
        for row in results
    ]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for name, *numbers in [heads, *rows]:
        cells = [n.rjust(width) for n, width in zip(numbers, widths[1:], strict=True)]
        print("  ".join([name.ljust(widths[0]), *cells]).rstrip())
    print("+- is one standard error; published: all items, with the papers' own number of shots")
    for task, data in {row["task"]: row["data"] for row in results}.items():
        print(f"{task}: {data}")
    for row in results:
        if row["cut"]:
            print(
                f"{row['task']}, {row['shots']} shots: {row['cut']} of {row['items']} items are "
                "longer than the model reads, their beginning was left out"
            )


def _percent(share):
    return "" if share is None else f"{100 * share:.2f}"
