"""`minimtnlg dryrun`: any rank of the real job, pretended."""

import json
from typing import Annotated

import typer

from minimtnlg.errors import InputError


def dryrun(
    config: Annotated[str, typer.Argument(help="A YAML file or the name of a preset.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.key=value, as in parallel.pp=7")
    ] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="Ranks of the world.")] = None,
    rank: Annotated[int, typer.Option(min=0, help="Which rank to be.")] = 0,
    all_stages: Annotated[bool, typer.Option(help="The first rank of each stage.")] = False,
    engine: Annotated[str, typer.Option(help="mini (ours) or megatron.")] = "mini",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
):
    """Carry out the training step as any rank of the real job: nothing is computed or allocated."""
    from minimtnlg import config as configuration
    from minimtnlg.parallel.layout import Layout

    settings = configuration.sized(configuration.load(config, overrides or ()), gpus)
    layout = Layout.of(settings.parallel)
    if all_stages and rank:
        raise InputError("--rank and --all-stages: one of them")
    ranks = [layout.rank(stage) for stage in range(layout.pp)] if all_stages else [rank]
    found = [_dry(settings, number, engine) for number in ranks]
    if as_json:
        print(json.dumps(found if all_stages else found[0], indent=1))
    elif all_stages:
        print(_stages_text(found))
    else:
        print(_dry_text(found[0], settings, layout))


def _dry(settings, rank, engine):
    """The dry run of a rank as a dict for JSON, with what the formulas expect."""
    from minimtnlg import engines
    from minimtnlg.plan.dryrun import Ours, dry_run
    from minimtnlg.plan.estimate import job_of
    from minimtnlg.plan.expected import expected

    kind = Ours
    if engine == "megatron":
        engines.named("megatron")
        from minimtnlg.engines.megatron_dry_run import MegatronModel as kind
    elif engine != "mini":
        raise InputError(f"--engine {engine!r}: mini or megatron")
    run = dry_run(settings, rank, engine=kind)
    traffic = {" ".join(key): vars(sums) for key, sums in run.traffic.items()}
    job = job_of(settings, "readable")
    told = {} if engine == "megatron" else expected(settings, job, run.place.pp)
    counted = run.counted
    return {
        "rank": rank, "place": run.place._asdict(), "micro_batches": run.m,
        "parameters": run.count, "flops_per_micro_batch": run.flops, "traffic": traffic,
        "bytes": run.bytes, "peak_bytes": run.peak,
        "formulas": {name: {"counted": counted[name], "formula": told[name]} for name in told},
    }  # fmt: skip


def _dry_text(found, settings, layout):
    place, m = found["place"], found["micro_batches"]
    lines = [
        f"rank {found['rank']} of {layout.world}: stage {place['pp']} of {layout.pp}, replica "
        f"{place['dp']} of {layout.dp}, slice {place['tp']} of {layout.tp}; {m} micro-batches",
        f"{found['parameters']:,} parameters of {settings.model.parameters():,}; "
        f"{found['flops_per_micro_batch'] / 1e9:,.0f} GFLOP a micro-batch",
        "",
        f"{'in one step':30}{'calls':>9}{'GiB':>11}{'GiB on the wire':>17}",
    ]
    lines += [
        f"{name:30}{t['calls']:>9,}{t['bytes'] / 2**30:>11.3f}{t['wire_bytes'] / 2**30:>17.3f}"
        for name, t in found["traffic"].items()
    ]
    lines += ["", "at the peak"]
    lines += [f"  {kind:28}{size / 2**30:>9.2f} GiB" for kind, size in found["bytes"].items()]
    lines += [f"  {'all':28}{found['peak_bytes'] / 2**30:>9.2f} GiB"]
    if found["formulas"]:
        lines += ["", f"{'':34}{'counted':>24}{'by formula':>24}{'off':>8}"]
    for name, both in found["formulas"].items():
        counted, told = both["counted"], both["formula"]
        off = f"{counted / told - 1:8.1%}" if told else ""
        lines.append(f"{name:34}{counted:>24,.0f}{told:>24,.0f}{off}")
    return "\n".join(lines)


def _stages_text(found):
    head = ("stage", 5), ("rank", 7), ("parameters", 16), ("GFLOP a micro-batch", 21), ("GiB", 9)
    lines = ["".join(f"{name:>{width}}" for name, width in head)]
    lines += [
        f"{one['place']['pp']:>5}{one['rank']:>7}{one['parameters']:>16,}"
        f"{one['flops_per_micro_batch'] / 1e9:>21,.0f}{one['peak_bytes'] / 2**30:>9.2f}"
        for one in found
    ]
    return "\n".join(lines)
