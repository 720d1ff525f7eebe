"""Dry-runs a rank of each stage of MT-NLG on 2 240 GPUs, and keeps what was counted: `make dryrun`.

Every stage is carried out by the package's own step; none is taken to be like its neighbour.
"""

import resource
import time

from results import Clock

from minimtnlg import config as configuration
from minimtnlg.parallel.layout import Layout
from minimtnlg.plan.dryrun import dry_run

SOURCES = (
    "minimtnlg/config.py", "minimtnlg/presets.py", "minimtnlg/model", "minimtnlg/parallel",
    "minimtnlg/train/optimizer.py", "minimtnlg/train/step.py", "minimtnlg/plan/dryrun.py",
    "tests/dryrun.py",
)  # fmt: skip


def whole(layout, runs):
    """Parameters of the model that these DryRuns, one of each stage, hold among all their slices.

    What is cut counts as often as there are slices; the tied embedding counts on the first stage.
    """
    total = 0
    for run in runs:
        copy = run.place.pp > 0 and run.place.pp == layout.pp - 1
        for name, (count, cut) in run.parameters.items():
            if not (copy and name == "embedding.weight"):
                total += count * (layout.tp if cut else 1)
    return total


def main():
    clock, config = Clock(*SOURCES), configuration.sized(configuration.load("mtnlg-530b"))
    p = config.parallel
    layout, runs, rows = Layout(tp=p.tp, pp=p.pp, dp=p.dp), [], []
    for stage in range(layout.pp):
        start = time.perf_counter()
        runs.append(dry_run(config, layout.rank(stage)))
        row = {
            "stage": stage, "rank": runs[-1].rank, "parameters": runs[-1].count,
            "flops_per_micro_batch": runs[-1].flops, "peak_bytes": runs[-1].peak,
            "seconds": round(time.perf_counter() - start, 1),
        }  # fmt: skip
        print(row, flush=True)
        rows.append(row)
    total, stated = whole(layout, runs), config.model.parameters()
    assert total == stated, f"{total:,} parameters were counted, the configuration has {stated:,}"
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
    clock.write("dryrun", ranks=layout.world, parameters=total, memory_kib=most, stages=rows)
    print(f"{total:,} parameters on {layout.world:,} ranks")


if __name__ == "__main__":
    main()
