"""From a configuration to a report: will it fit, how long will it take, and which layout is best.

    report(config, gpus, hw, soft)  everything about one layout, a dict
    search(config, gpus, hw, soft)  legal layouts that fit, the fastest first
    published(path)                 rows of published runs, to predict them
"""

import csv
import dataclasses
import math
from collections import Counter
from itertools import product
from types import SimpleNamespace

from minimtnlg import config as configuration
from minimtnlg import rules
from minimtnlg.config import Model
from minimtnlg.errors import InputError
from minimtnlg.plan import flops
from minimtnlg.plan.estimate import Job, estimate, job_of, limit
from minimtnlg.plan.hardware import hardware, names, stack
from minimtnlg.plan.memory import memory
from minimtnlg.train.ramps import batches

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
    if rule := broken(job, config.train.batches()):
        raise InputError(rule)
    run, days = _whole_run(config, job, hw, soft)
    return {
        "layout": {k: v for k, v in job._asdict().items() if k != "model"} | {"gpus": job.gpus},
        "micro_batches": job.m,
        "iteration_s": found.seconds,
        "expected_error": hw.error if _calibrated(config, job, hw, soft) else None,
        "limit_s": limit(job, hw, soft),
        "seconds": found._asdict(),
        "bubble": found.bubble / found.seconds,
        "tflops_per_gpu": hfu * hw.tflops,
        "mfu": mfu,
        "hfu": hfu,
        "tokens_per_s": tokens / found.seconds,
        "tokens": run,
        "days": days,
        "mwh": days * 24 * job.gpus * hw.watts / 1e6,
        "memory_gib": [stage._asdict() for stage in stages],
        "warnings": warnings(config, job, found, stages, hw),
    }


def _whole_run(config, job, hw, soft):
    """(tokens, days) of all iterations, those of the ramp at their own batches."""
    seconds = tokens = 0
    for batch, count in Counter(batches(config.train, config.model.seq)).items():
        tokens += count * batch * config.model.seq
        seconds += count * estimate(job._replace(global_batch=batch), hw, soft).seconds
    return tokens, seconds / 86400


def _calibrated(config, job, hw, soft):
    """Whether the runs of the calibration were like this one."""
    known = soft in [stack(name) for name in names("stacks.yaml")]
    half = config.train.dtype in ("bfloat16", "float16")
    return known and half and not job.zero and not job.gpipe and job.tp <= hw.per_node


def warnings(config, job, found, stages, hw):
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
    if config.train.dtype not in ("bfloat16", "float16"):
        lines.append(f"train.dtype={config.train.dtype} is planned as if it had 16 bits")
    if job.tp > hw.per_node:
        lines.append(f"tp={job.tp} reaches over nodes of {hw.per_node} GPUs: its sums leave NVLink")
    return lines


def layouts(model, gpus, rungs, hw):
    """Every Job on so many GPUs that the rules allow, one after the other.

    rungs: the global batches of the run, the last the full one. Slices go up to twice the GPUs of a
    node, micro-batches up to 16 sequences; the schedule is 1F1B, or interleaved.
    """
    t_max = 2 * hw.per_node
    fit = [t for t in range(1, t_max + 1) if not (model.heads % t or model.vocab % t or gpus % t)]
    for tp in fit:
        pieces = (False, True) if tp > 1 and model.seq % tp == 0 else (False,)
        for pp in _divisors(gpus // tp, model.layers):
            dp = gpus // (tp * pp)
            for b in (b for b in (1, 2, 4, 8, 16) if not any(n % (dp * b) for n in rungs)):
                chunks = [1]
                groups = not any(n % (dp * b * pp) for n in rungs)
                if pp > 1 and model.layers % pp == 0 and groups:
                    chunks = _divisors(model.layers // pp, model.layers)
                kinds = ("none", "full") if model.attention == "sdpa" else RECOMPUTE
                zeros = (0, 1) if pp > 1 else (0, 1, 2, 3)
                for chosen in product(chunks, kinds, pieces, zeros):
                    yield Job(model, tp, pp, dp, b, rungs[-1], *chosen)


def _divisors(number, most):
    return [d for d in range(1, min(number, most) + 1) if number % d == 0]


def broken(job, rungs=None):
    """The first rule that a Job breaks, in words, or ""; rungs: the batches of its ramp."""
    parallel = SimpleNamespace(
        **{k: getattr(job, k) for k in ("tp", "pp", "dp", "virtual", "zero", "recompute")},
        sequence_parallel=job.sequence_parallel,
        schedule="gpipe" if job.gpipe else "interleaved" if job.virtual > 1 else "1f1b",
    )
    train = SimpleNamespace(
        micro_batch=job.micro_batch, batches=lambda: rungs or [job.global_batch]
    )
    return next(iter(rules.broken(job.model, parallel, train)), "")


def search(config, gpus, hw, soft):
    """([(seconds, GiB reserved on the fullest stage, Job)] of the layouts that fit, fastest first;
    how many were looked at).
    """
    model = dataclasses.replace(config.model, attention=soft.attention)
    found, count = [], 0
    for job in layouts(model, gpus, config.train.batches(), hw):
        count += 1
        most = max(stage.reserved for stage in memory(job, hw, soft, {0, job.pp - 1}))
        if most <= hw.memory_gib:
            found.append((estimate(job, hw, soft).seconds, most, job))
    if not count:
        raise InputError(
            f"no legal layout on {gpus} GPUs for global batches from {config.train.batches()[0]} "
            f"to {config.train.global_batch}: replicas must divide each batch, stages the GPUs"
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
        with open(path, newline="", encoding="utf-8-sig") as f:
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
    def number(column, kind, least=1):
        try:
            value = kind(row[column])
            if least <= value < 1e15:
                return value
        except (ValueError, OverflowError):
            pass
        raise InputError(f"{where}, column {column}: {row[column]!r} is no such number")

    for column in (*WHOLE, *TEXT, "nic_gbytes_s", "iteration_s"):
        if row[column] is None:
            raise InputError(f"{where} ends before column {column}")
    n = {column: number(column, int, column != "zero") for column in WHOLE}
    if row["sequence_parallel"] not in ("0", "1"):
        raise InputError(
            f"{where}, column sequence_parallel: {row['sequence_parallel']!r}, not 0 or 1"
        )
    if n["zero"] > 3:
        raise InputError(f"{where}, column zero: {n['zero']}, but ZeRO has the stages 1 to 3")
    try:
        hw = dataclasses.replace(hardware(row["gpu"]), nic=number("nic_gbytes_s", float, 1e-6))
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
    if job.gpus != n["gpus"]:
        raise InputError(f"{where}: tp x pp x dp = {job.gpus} ranks, column gpus says {n['gpus']}")
    if row["recompute"] not in RECOMPUTE:
        raise InputError(f"{where}, column recompute: {row['recompute']!r}: {RECOMPUTE}")
    if rule := broken(job):
        raise InputError(f"{where}: {rule}")
    return row, job, hw, soft, number("iteration_s", float, 1e-9)
