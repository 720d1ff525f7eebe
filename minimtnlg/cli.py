"""The command line: each command reads its input, calls the package and prints a short table.

A user's mistake, and a file that can't be read or written, is one line on stderr and exit status 2,
a failed rank or lesson 1, an interruption 130; no traceback.
"""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from minimtnlg.cli_checkpoint import checkpoint
from minimtnlg.cli_course import course
from minimtnlg.cli_dryrun import dryrun
from minimtnlg.cli_evaluate import evaluate, generate
from minimtnlg.cli_grade import grade
from minimtnlg.cli_plan import plan
from minimtnlg.errors import InputError

app = typer.Typer(
    help="Megatron-Turing NLG 530B, readable, from one laptop core to a cluster.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data = typer.Typer(no_args_is_help=True, help="Prepare a corpus, or list what one can be made of.")
app.add_typer(data, name="data")
app.add_typer(checkpoint, name="checkpoint")
app.add_typer(course, name="course")
app.command()(generate)
app.command()(evaluate)
app.command()(plan)
app.command()(dryrun)
app.command()(grade)


@app.command()
def doctor():
    """Show what is installed, how fast this machine is and which lessons run here."""
    from minimtnlg.doctor import report

    report()


@data.command("prepare")
def data_prepare(
    out: Annotated[Path, typer.Option(help="Folder of the corpus; it must not exist yet.")],
    sources: Annotated[
        str,
        typer.Option(help="Names from `data sources`, paths or hf:NAME, divided by commas."),
    ] = "",
    vocab: Annotated[
        str, typer.Option(help="Size of the vocabulary to train, or gpt2 for GPT-2's own.")
    ] = "2048",
):
    """Fetch text, train a tokenizer on it and write Megatron's .bin and .idx files."""
    from minimtnlg.data.prepare import prepare

    if vocab != "gpt2" and not vocab.isdecimal():
        raise InputError(f"--vocab {vocab!r}: a number of tokens, or gpt2")
    corpus = prepare(out, _named(sources), vocab if vocab == "gpt2" else int(vocab))
    corpus.verify()  # one that was there already may have changed since


@data.command("curate")
def data_curate(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.key=value, as in dedup.jaccard=0.9")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of all steps; a begun one goes on.")] = ...,
    sources: Annotated[
        str,
        typer.Option(help="Names from `data sources`, paths or hf:NAME, divided by commas."),
    ] = "",
    recipe: Annotated[
        Path | None, typer.Option(help="A YAML file of sections; else MT-NLG's numbers.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="How many work side by side; else one a core.")
    ] = None,
    on_error: Annotated[
        str, typer.Option(help="stop at what can't be read, or skip it and say so.")
    ] = "stop",
):
    """Make a clean corpus as MT-NLG's was made: extract, filter, deduplicate, decontaminate."""
    from minimtnlg.data.curate import curate, summary
    from minimtnlg.data.recipe import load

    if on_error not in ("stop", "skip"):
        raise InputError(f"--on-error {on_error!r}: stop or skip")
    chosen = load(recipe, overrides or ())
    curate(out, _named(sources), chosen, processes, on_error == "stop")
    print(summary(out))


@data.command("sources")
def data_sources():
    """List the known sources with their licence and origin."""
    from minimtnlg.data.sources import describe_sources

    rows = describe_sources()
    short = ("name", "kind", "default", "needs", "megabytes", "cached", "licence", "version")
    _table([{key: row[key] for key in short} for row in rows])
    print()
    _table([{key: row[key] for key in ("name", "origin")} for row in rows])
    print()
    _table([{key: row[key] for key in ("name", "package")} for row in rows])


@app.command()
def train(
    config: Annotated[str, typer.Argument(help="A YAML file or the name of a preset.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.key=value, as in optim.lr=1e-3")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = ...,
    ranks: Annotated[
        int | None, typer.Option(min=1, help="Ranks to start; by default what the layout needs.")
    ] = None,
    engine: Annotated[str, typer.Option(help="mini (ours), megatron or deepspeed.")] = "mini",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest sound checkpoint in --out.")
    ] = False,
):
    """Train a GPT; write metrics, weights and a picture of the loss, and show a greedy sample.

    Local ranks are started as the layout needs them, unless a launcher such as torchrun did.
    """
    from minimtnlg import config as configuration
    from minimtnlg import engines
    from minimtnlg.train.trainer import train as run_training

    settings = configuration.load(config, overrides or ())
    chosen = engines.named(engine)
    result = run_training(settings, out, ranks=ranks, engine=chosen, resume=resume)
    if int(os.environ.get("RANK", 0)) != 0:
        return  # one rank speaks for all
    if result["stopped"]:
        print(f"{result['stopped']}: saved after step {result['steps']}; --resume goes on there")
        return
    if result["loss"] is None:
        print(f"{out} has made all its {result['steps']} steps already")
        return
    print(
        f"{result['steps']} steps, {result['tokens']:,} tokens in {result['seconds']:.0f} s\n"
        f"validation loss  {result['valid_loss']:.3f} nats per token\n"
        f"unigram entropy  {result['unigram_entropy']:.3f}  "
        "(the best of a model that sees no context)"
    )
    _draw_loss(out, result["unigram_entropy"])
    if "MASTER_ADDR" not in os.environ:  # what a launcher's ranks train may not fit into one
        _show_sample(out)


@app.command()
def verify(
    config: Annotated[str, typer.Argument(help="A YAML file or the name of a preset.")] = "nano",
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.key=value, as in parallel.tp=2")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
):
    """Prove that a layout computes what one process does: losses, gradients, updated weights."""
    from minimtnlg.train.verify import LIMIT, configure, equal
    from minimtnlg.train.verify import verify as compare

    if "=" in config:  # no CONFIG, only overrides
        config, overrides = "nano", [config, *(overrides or [])]
    result = compare(configure(config, overrides or ()))
    if as_json:
        print(json.dumps(result))
    else:
        print("layout  " + ", ".join(f"{key} {value}" for key, value in result["layout"].items()))
        differences = result["max_abs_diff"].items()
        _table([
            {"largest difference of": kind, "": f"{value:.1e}", "found in": result["worst"][kind]}
            for kind, value in differences
        ])  # fmt: skip
        verdict = f"equal: all within {LIMIT:g}" if equal(result) else f"NOT EQUAL: above {LIMIT:g}"
        print(f"parallel and serial are {verdict}")
    if not equal(result):
        raise typer.Exit(1)


@app.command()
def launch(
    config: Annotated[str, typer.Argument(help="A YAML file or the name of a preset.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.key=value, as in parallel.dp=4")
    ] = None,
    target: Annotated[
        str, typer.Option(help="torchrun, slurm, deepspeed, kubernetes or azureml.")
    ] = ...,
    engine: Annotated[str, typer.Option(help="mini (ours), megatron or deepspeed.")] = "mini",
    run: Annotated[str | None, typer.Option(help="Folder of the run; else runs/NAME.")] = None,
    nodes: Annotated[
        int | None, typer.Option(help="Nodes to fill; else as many as the layout needs.")
    ] = None,
    gpus_per_node: Annotated[int, typer.Option(help="GPUs that each node has.")] = 8,
    out: Annotated[Path | None, typer.Option(help="File to write; else stdout.")] = None,
):
    """Write the script that starts a run on a cluster."""
    from minimtnlg.launch import TARGETS, script, write

    text = script(
        config, overrides or (), target=target, engine=engine, run=run, nodes=nodes,
        gpus_per_node=gpus_per_node,
    )  # fmt: skip
    if out is None:
        print(text, end="")
        return
    write(text, out)
    print(f"start it with: {TARGETS[target].start.format(shlex.quote(str(out)))}")


def _named(sources):
    """The names that commas divide; None where no text is given, for the default mixture."""
    return [name.strip() for name in sources.split(",") if name.strip()] if sources else None


def _show_sample(run, prompt="The history of the"):
    """Print what the trained model makes of a prompt, always taking the likeliest token."""
    from minimtnlg.data.tokenizer import Tokenizer
    from minimtnlg.evaluate.generate import greedy
    from minimtnlg.train.checkpoint import load_run

    config, model = load_run(run)
    tokenizer = Tokenizer.load(run / "tokenizer.json")
    start = tokenizer.encode(prompt)[: config.model.seq]
    ids = greedy(model, start, 40, tokenizer.eod, tokenizer.size)
    print(f"greedy sample    {tokenizer.decode(start)}|{tokenizer.decode(ids)}")


def _draw_loss(run, entropy):
    """Write RUN/loss.png where matplotlib is installed; say how to get it where it is not.

    entropy: of single tokens, in nats: the line that a model has to get below.
    """
    try:
        from minimtnlg.course.plots import loss_curve, style

        style()
    except ModuleNotFoundError:
        print("no picture of the loss: pip install 'minimtnlg[course]' brings matplotlib")
        return
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    fig, ax = loss_curve({run.name: rows})
    ax.axhline(entropy, color="black", linestyle=":", label="unigram entropy")
    ax.legend()
    fig.savefig(run / "loss.png", dpi=144, bbox_inches="tight")
    print(f"picture          {run / 'loss.png'}")


def _table(rows):
    """Print a list of equal dicts as aligned columns."""
    widths = {key: max(len(str(row[key])) for row in [*rows, {key: key}]) for key in rows[0]}
    for row in [{key: key for key in widths}, *rows]:
        print("  ".join(str(row[key]).ljust(width) for key, width in widths.items()).rstrip())


def main():
    """Entry point of the `minimtnlg` command."""
    from minimtnlg.ranks import RankError

    try:
        app()
    except (InputError, OSError, RankError) as error:
        mistake = not isinstance(error, RankError) or error.type == "InputError"
        text = error.message if isinstance(error, RankError) and mistake else error
        print(f"minimtnlg: {text}", file=sys.stderr)
        sys.exit(2 if mistake else 1)
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] == "minimtnlg":  # not a package to install, but a mistake
            raise
        print(f"minimtnlg: {error}; minimtnlg doctor says what brings it", file=sys.stderr)
        sys.exit(2)
    except SystemExit as end:
        if end.code == 130:  # what typer makes of Ctrl-C, without a word
            print("minimtnlg: interrupted", file=sys.stderr)
        raise
