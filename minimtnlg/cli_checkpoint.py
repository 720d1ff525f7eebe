"""`minimtnlg checkpoint`: what is in a run's checkpoints, and other forms of them."""

import json
from pathlib import Path
from typing import Annotated

import typer

from minimtnlg.errors import InputError

checkpoint = typer.Typer(
    no_args_is_help=True, help="Look at checkpoints, check, rewrite or convert them."
)


@checkpoint.command("inspect")
def inspect(
    path: Annotated[Path, typer.Argument(help="A run, or the folder of one checkpoint.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
):
    """Show what a checkpoint holds: step, layout, tensors, bytes."""
    from minimtnlg.train.audit import contents, opened

    found = opened(path)
    about = contents(found)
    if as_json:
        print(json.dumps(about))
        return
    samples = "" if about["samples"] is None else f", after {about['samples']:,} samples"
    print(f"{found.folder}  step {about['step']}{samples}")
    print(f"{about['files']} files, {about['bytes']:,} bytes")
    if about["layout"]:
        print("layout  " + ", ".join(f"{key} {value}" for key, value in about["layout"].items()))
    for row in about["kinds"]:
        print(
            f"{row['kind']:<11} {row['tensors']:>5} tensors  {row['dtype']:<9}"
            f"{row['numbers']:>16,} numbers {row['bytes']:>18,} bytes"
        )


@checkpoint.command("verify")
def verify(
    path: Annotated[Path, typer.Argument(help="A run, or the folder of one checkpoint.")],
):
    """Read every byte and say whether all are sound; exit status 1 where one is not."""
    from minimtnlg.train.audit import complaints

    if told := complaints(path):
        print("\n".join(told))
        raise typer.Exit(1)
    print(f"{path}  every byte is sound")


@checkpoint.command("reshard")
def reshard(
    path: Annotated[Path, typer.Argument(help="A run.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="parallel.key=value, as in parallel.tp=2")
    ] = None,
    out: Annotated[Path, typer.Option(help="The new run; it must not exist yet.")] = ...,
):
    """Rewrite the latest checkpoint of a run for another layout."""
    from minimtnlg.train.reshard import reshard as rewrite

    p = rewrite(path, out, overrides or ()).parallel
    print(f"{out}  tp {p.tp}, pp {p.pp}, dp {p.dp}, zero {p.zero}, virtual {p.virtual}")


@checkpoint.command("convert")
def checkpoint_convert(
    path: Annotated[
        Path, typer.Argument(help="A run, a folder of the other two kinds, or hf:NAME of the hub.")
    ],
    to: Annotated[str, typer.Option(help="hf (a Hugging Face folder), megatron or run.")] = ...,
    out: Annotated[Path, typer.Option(help="The new folder; it must not exist yet.")] = ...,
    config: Annotated[
        str | None,
        typer.Option(help="With --to run: YAML file or preset for what PATH says nothing about."),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Read a Megatron folder: its pickles can run any code.")
    ] = False,
):
    """Write a run's weights for Hugging Face or Megatron-Core, or make a run of theirs."""
    from minimtnlg.engines import megatron_checkpoint as megatron
    from minimtnlg.train import hub, huggingface
    from minimtnlg.train.export import KINDS, kind_of

    if to not in KINDS:
        raise InputError(f"--to {to!r}: one of {', '.join(KINDS)}")
    path = hub.folder_of(path)
    kind = kind_of(path)
    if kind == to:
        raise InputError(f"{path} is of the kind {to} already")
    if "run" not in (kind, to):
        raise InputError(f"{path} is of the kind {kind}: convert it --to run, then that --to {to}")
    if to == "hf":
        step = huggingface.to_huggingface(path, out)
    elif to == "megatron":
        step = megatron.to_megatron(path, out)
    elif kind == "hf":
        step = huggingface.from_huggingface(path, out, config)
    else:
        step = megatron.from_megatron(path, out, config, trust)
    print(f"{out}  kind {to}, from {path}, step {step}")
