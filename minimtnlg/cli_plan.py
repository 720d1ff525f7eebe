"""`minimtnlg plan`: what a job will take, and which layout is the best."""

import json
import statistics
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from minimtnlg.errors import InputError

SHOWN = 10  # layouts of a search


def plan(
    config: Annotated[str, typer.Argument(help="A YAML file or the name of a preset.")] = "",
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.key=value, as in parallel.pp=7")
    ] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="GPUs; else what the layout needs.")] = (
        None
    ),
    cluster: Annotated[
        str, typer.Option(help="A preset, as h100-80gb, or a YAML file of your own.")
    ] = "a100-80gb",
    stack: Annotated[
        str, typer.Option(help="megatron-2021, megatron-2022, deepspeed-2021, or a YAML file.")
    ] = "megatron-2022",
    probe: Annotated[
        Path | None, typer.Option(help="Rates of the cluster, by scaling/probe.py --json.")
    ] = None,
    search: Annotated[bool, typer.Option(help="Look for the best layouts of all.")] = False,
    rows: Annotated[
        Path | None, typer.Option(help="Predict the runs of a CSV file and compare.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write the time line of the pipeline for Chrome's tracer.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
):
    """Predict seconds, memory and energy of a job on a cluster, or find its best layout."""
    from minimtnlg import config as configuration
    from minimtnlg.plan import hardware, planner
    from minimtnlg.plan.estimate import job_of

    if (rows and (config or search or trace)) or (search and trace):
        raise InputError("--rows stands alone, and --search has no --trace: one thing at a time")
    if rows:
        found = _compared(planner.published(rows))
        print(json.dumps(found, indent=1) if as_json else _rows_text(found))
        return
    if not config:
        raise InputError("plan what? Name a preset or a YAML file, or give --rows FILE.csv")
    settings = configuration.load(config, overrides or ())
    hw, soft = hardware.hardware(cluster), hardware.stack(stack)
    hw = hardware.probed(hw, probe) if probe else hw
    if search:
        if gpus is None:
            raise InputError("--search takes --gpus N: how many there are")
        if chosen := [text for text in overrides or () if text.startswith("parallel.")]:
            raise InputError(f"{chosen[0]} with --search, which chooses the layout: leave it out")
        found = _searched(settings, gpus, hw, soft)
        print(json.dumps(found, indent=1) if as_json else _search_text(found, gpus))
        return
    found = planner.report(settings, gpus, hw, soft)
    if trace:
        job = job_of(configuration.sized(settings, gpus), soft.attention)
        _write_trace(job, hw, soft, trace)
    print(json.dumps(found, indent=1) if as_json else _report_text(found, hw))


def _compared(rows):
    """Predicted against measured, each row, and the mean absolute error by source and in all."""
    from minimtnlg.plan.estimate import estimate, limit
    from minimtnlg.plan.fit import left_out

    found, by_source = [], {}
    for row, job, hw, soft, measured in rows:
        seconds = estimate(job, hw, soft).seconds
        error = seconds / measured - 1
        by_source.setdefault(row["source"], []).append(abs(error))
        found.append({
            "source": row["source"], "model": row["model"], "gpus": job.gpus,
            "recompute": job.recompute, "measured_s": measured, "predicted_s": seconds,
            "limit_s": limit(job, hw, soft), "error": error,
        })  # fmt: skip
    every = [error for part in by_source.values() for error in part]
    without = {}
    if len(by_source) > 1 and find_spec("scipy"):
        without = {name: list(part) for name, part in left_out(rows).items()}
    others = [error for part in without.values() for error in part]
    return {
        "rows": found,
        "mean_error": {name: statistics.mean(part) for name, part in by_source.items()},
        "mean_error_of_all": statistics.mean(every),
        "left_out": {name: statistics.mean(part) for name, part in without.items()},
        "left_out_of_all": statistics.mean(others) if others else None,
    }


def _rows_text(found):
    lines = [f"{'source':13}{'model':15}{'GPUs':>5}{'recompute':>11}{'limit':>8}{'measured':>10}"
             f"{'predicted':>11}{'error':>8}"]  # fmt: skip
    for row in found["rows"]:
        lines.append(
            f"{row['source']:13}{row['model']:15}{row['gpus']:>5}{row['recompute']:>11}"
            f"{row['limit_s']:8.2f}{row['measured_s']:10.2f}{row['predicted_s']:11.2f}"
            f"{100 * row['error']:7.1f}%"
        )
    without = found["left_out"] | {"all": found["left_out_of_all"]}
    means = found["mean_error"] | {"all": found["mean_error_of_all"]}
    lines += ["", f"{'mean error':15}{'now':>8}{'fitted without its rows':>26}"]
    for name, mean in means.items():
        other = without.get(name)
        told = f"{100 * other:24.1f} %" if other is not None else f"{'-':>26}"
        lines.append(f"{name:15}{100 * mean:6.1f} %{told}")
    return "\n".join(lines)


def _searched(settings, gpus, hw, soft):
    """The fastest layouts and the frontier, as a dict for JSON."""
    from minimtnlg.plan.planner import frontier, search

    found, count = search(settings, gpus, hw, soft)
    return {
        "looked_at": count,
        "fit": len(found),
        "best": [_layout(*one) for one in found[:SHOWN]],
        "frontier": [_layout(*one) for one in frontier(found)],
    }


def _search_text(found, gpus):
    return "\n".join([
        f"{found['looked_at']} legal layouts on {gpus} GPUs, {found['fit']} fit; the fastest:",
        _table(found["best"]),
        "",
        "faster only with more memory:",
        _table(found["frontier"]),
    ])  # fmt: skip


def _layout(seconds, most, job):
    """A row of a search."""
    row = {k: v for k, v in job._asdict().items() if k not in ("model", "global_batch", "gpipe")}
    return {"seconds": seconds, "gib": most, **row}


def _table(rows):
    head = ["seconds", "GiB", "tp", "pp", "dp", "b", "virtual", "recompute", "sequence", "zero"]
    lines = ["".join(f"{name:>10}" for name in head)]
    for row in rows:
        seconds, gib, *others = row.values()
        cells = [f"{seconds:.2f}", f"{gib:.1f}", *map(str, others)]
        lines.append("".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)


def _report_text(found, hw):
    """The report of one layout, for people."""
    lay, parts = found["layout"], found["seconds"]
    most = max(found["memory_gib"], key=lambda stage: stage["reserved"])
    number = found["memory_gib"].index(most)
    error = (
        f" +- {found['expected_error']:.0%}" if found["expected_error"] else ", not calibrated here"
    )
    lines = [
        f"{lay['gpus']} GPUs: tp {lay['tp']} x pp {lay['pp']} x dp {lay['dp']}, "
        f"{found['micro_batches']} micro-batches of {lay['micro_batch']}",
        f"iteration        {found['iteration_s']:10.2f} s{error}; "
        f"perfect kernels and wires {found['limit_s']:.2f} s",
    ]
    lines += [
        f"  {name:15}{parts[name]:10.2f} s {parts[name] / found['iteration_s']:6.1%}"
        for name in parts
        if name != "seconds"
    ]
    lines += [
        f"rate             {found['tflops_per_gpu']:10.1f} TFLOP/s a GPU, MFU {found['mfu']:.1%}, "
        f"HFU {found['hfu']:.1%}, {found['tokens_per_s']:,.0f} tokens/s",
        f"{found['tokens']:.4g} tokens {found['days']:10.1f} days, {found['mwh']:,.0f} MWh",
        f"memory           {most['reserved']:10.1f} GiB of {hw.memory_gib:g} reserved on stage "
        f"{number}, {most['allocated']:.1f} allocated",
    ]
    lines += [
        f"  {name:15}{size:10.1f} GiB"
        for name, size in most.items()
        if name not in ("allocated", "reserved")
    ]
    return "\n".join(lines + [f"warning: {line}" for line in found["warnings"]])


def _write_trace(job, hw, soft, path):
    """Write the time line of the pipeline as Chrome's tracer reads it: a row for each stage."""
    from minimtnlg.files import appearing
    from minimtnlg.plan.estimate import simulated

    events = []
    for stage, spans in enumerate(simulated(job, hw, soft).computing):
        for start, end, op in spans:
            events.append({
                "name": f"{type(op).__name__.lower()} {op.micro_batch}", "ph": "X", "pid": 0,
                "tid": stage, "ts": start * 1e6, "dur": (end - start) * 1e6,
                "args": {"chunk": op.chunk},
            })  # fmt: skip
    with appearing(path) as aside:
        aside.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))
