"""From a configuration to a report: will it fit, how long will it take, and which layout is best.

    report(config, hw, stack)        everything about one layout, a dict
    search(config, gpus, hw, stack)  legal layouts that fit, the fastest first
    published(path)                  rows of published runs, to predict them
"""

import csv
import dataclasses
import math
from itertools import product
from types import SimpleNamespace

from minimtnlg import config as configuration
from minimtnlg import rules
from minimtnlg.config import Model
from minimtnlg.errors import InputError
from minimtnlg.plan import flops
from minimtnlg.plan.estimate import Job, estimate, job_of, limit
from minimtnlg.plan.hardware import hardware, stack
from minimtnlg.plan.memory import memory

RECOMPUTE = "none", "selective", "full"
BUBBLE = 0.2  # of the iteration, above which a warning is given


def report(config, gpus, hw, soft):
    """What a job needs, as a dict for JSON: its layout, seconds, rates, memory, energy, warnings.

    An InputError for a layout that no run could have, as for a number of GPUs that it can't fill.
    """
    config = configuration.sized(config, gpus)
    job = job_of(config, soft.attention)
    found, model, tokens = estimate(job, hw, soft), job.model, job.global_batch * job.model.seq
    stages = memory(job, hw, soft)
    mfu, hfu = flops.shares(
        model, job.global_batch, found.seconds, job.gpus, hw.tflops, job.recompute
    )
    run = config.train.tokens or config.train.steps * tokens
    days = run / tokens * found.seconds / 86400
    return {
        "layout": {k: v for k, v in job._asdict().items() if k != "model"} | {"gpus": job.gpus},
        "micro_batches": job.m,
        "iteration_s": found.seconds,
        "expected_error": hw.error or None,
        "limit_s": limit(job, hw, soft),
        "seconds": found._asdict() | {"seconds": found.seconds},
        "bubble": found.bubble / found.seconds,
        "tflops_per_gpu": hfu * hw.tflops,
        "mfu": mfu,
        "hfu": hfu,
        "tokens_per_s": tokens / found.seconds,
        "tokens": run,
        "days": days,
        "mwh": days * 24 * job.gpus * hw.watts / 1e6,
        "memory_gib": [stage._asdict() for stage in stages],
        "warnings": warnings(job, found, stages, hw),
    }


def warnings(job, found, stages, hw):
    """Lines about what runs, but not well."""
    most = max(stages, key=lambda stage: stage.reserved)
    lines = []
    if most.reserved > hw.memory_gib:
        lines.append(
            f"stage {stages.index(most)} reserves {most.reserved:.1f} GiB of {hw.memory_gib:g}: it "
            "does not fit; raise tp, pp or zero, or recompute more"
        )
    if found.bubble > BUBBLE * found.seconds:
        lines.append(
            f"the bubble takes {found.bubble / found.seconds:.0%} of the iteration: {job.m} "
            f"micro-batches on {job.pp} stages; a larger batch, fewer stages or interleaving help"
        )
    if job.tp > hw.per_node:
        lines.append(f"tp={job.tp} reaches over nodes of {hw.per_node} GPUs: its sums leave NVLink")
    return lines


def layouts(model, gpus, global_batch, hw):
    """Every Job on so many GPUs that the rules allow, one after the other."""
    t_max = 2 * hw.per_node
    fit = [t for t in range(1, t_max + 1) if not (model.heads % t or model.vocab % t or gpus % t)]
    for tp in fit:
        pieces = (False, True) if tp > 1 and model.seq % tp == 0 else (False,)
        for pp in _divisors(gpus // tp, model.layers):
            dp = gpus // (tp * pp)
            for b in (b for b in (1, 2, 4, 8, 16) if global_batch % (dp * b) == 0):
                chunks = [1]
                if pp > 1 and model.layers % pp == 0 and global_batch // (dp * b) % pp == 0:
                    chunks = _divisors(model.layers // pp, model.layers)
                kinds = ("none", "full") if model.attention == "sdpa" else RECOMPUTE
                zeros = (0, 1) if pp > 1 else (0, 1, 2, 3)
                for chosen in product(chunks, kinds, pieces, zeros):
                    yield Job(model, tp, pp, dp, b, global_batch, *chosen)


def _divisors(number, most):
    return [d for d in range(1, min(number, most) + 1) if number % d == 0]


def broken(job):
    """The first rule that a Job breaks, in words, or ""."""
    parallel = SimpleNamespace(
        **{k: getattr(job, k) for k in ("tp", "pp", "dp", "virtual", "zero", "recompute")},
        sequence_parallel=job.sequence_parallel,
        schedule="interleaved" if job.virtual > 1 else "1f1b",
    )
    train = SimpleNamespace(
        micro_batch=job.micro_batch, batches=lambda: [job.global_batch], dtype="bfloat16"
    )
    return next(iter(rules.broken(job.model, parallel, train)), "")


def search(config, gpus, hw, soft):
    """([(seconds, GiB reserved on the fullest stage, Job)] of the layouts that fit, fastest first;
    how many were looked at).
    """
    model = dataclasses.replace(config.model, attention=soft.attention)
    found, count = [], 0
    for job in layouts(model, gpus, config.train.global_batch, hw):
        count += 1
        most = max(stage.reserved for stage in memory(job, hw, soft, {0, job.pp - 1}))
        if most <= hw.memory_gib:
            found.append((estimate(job, hw, soft).seconds, most, job))
    if not count:
        raise InputError(
            f"no legal layout on {gpus} GPUs for a global batch of {config.train.global_batch}: "
            "replicas must divide the batch, stages the GPUs"
        )
    if not found:
        raise InputError(f"none of {count} legal layouts on {gpus} GPUs fits into their memory")
    return sorted(found, key=lambda one: one[:2]), count


def frontier(found):
    """Of the layouts of `search` those that no other beats in both seconds and memory."""
    best, least = [], math.inf
    for seconds, most, job in found:
        if most < least:
            best.append((seconds, most, job))
            least = most
    return best


WHOLE = (
    "layers", "hidden", "heads", "seq", "vocab", "tp", "pp", "dp", "interleave", "micro_batch",
    "global_batch", "gpus", "zero",
)  # fmt: skip
TEXT = "source", "model", "gpu", "recompute", "sequence_parallel", "stack"


def published(path):
    """[(row, Job, Hardware, Stack, measured seconds)] of a CSV file as scaling/published_runs.csv.

    An InputError names the row and the column of what can't be.
    """
    try:
        with open(path, newline="", encoding="utf-8") as f:
            rows = list(csv.DictReader(f))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"can't read {path}: {error}") from None
    if not rows:
        raise InputError(f"{path} has no rows")
    columns = {*WHOLE, *TEXT, "nic_gbytes_s", "iteration_s"}
    if missing := columns - set(rows[0]):
        raise InputError(f"{path} has no column {', '.join(sorted(missing))}")
    return [_row(row, f"{path} row {number}") for number, row in enumerate(rows, 2)]


def _row(row, where):
    def number(column, kind):
        try:
            value = kind(row[column])
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError
            return value
        except (ValueError, TypeError):
            raise InputError(f"{where}, column {column}: {row[column]!r} is no number") from None

    n = {column: number(column, int) for column in WHOLE}
    try:
        hw = dataclasses.replace(hardware(row["gpu"]), nic=number("nic_gbytes_s", float))
        soft = stack(row["stack"])
        model = Model(
            **{k: n[k] for k in ("layers", "hidden", "heads", "seq", "vocab")},
            attention=soft.attention,
        )
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    job = Job(
        model, n["tp"], n["pp"], n["dp"], n["micro_batch"], n["global_batch"], n["interleave"],
        row["recompute"], row["sequence_parallel"] == "1", n["zero"],
    )  # fmt: skip
    if min(job.tp, job.pp, job.dp, job.micro_batch, job.virtual) < 1 or job.gpus != n["gpus"]:
        raise InputError(f"{where}: tp x pp x dp = {job.gpus} ranks, column gpus says {n['gpus']}")
    if row["recompute"] not in RECOMPUTE:
        raise InputError(f"{where}, column recompute: {row['recompute']!r}: {RECOMPUTE}")
    if rule := broken(job):
        raise InputError(f"{where}: {rule}")
    return row, job, hw, soft, number("iteration_s", float)
