"""Writes docs/drills.md from results/drills.json, the last step of `make drills`."""

import json
import platform
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests" / "equivalence"))  # as a script, conftest.py hasn't done it

import outcomes  # noqa: E402
from table import table  # noqa: E402

RESULTS = ROOT / "results" / "drills.json"
PAGE = ROOT / "docs" / "drills.md"
SOURCES = ("minimtnlg/model", "minimtnlg/parallel", "minimtnlg/train", "tests/faults")
HEAD = """# Drills

A tiny run of eight steps, with dropout, a batch that grows and a checkpoint every three steps, is
disturbed in {count} ways ([drills.py](../tests/faults/drills.py)). Ranks, calls, bytes and bits are
drawn at random, the same ones every time. After each fault the run either

- goes on from its last good checkpoint: then every loss, gradient norm, learning rate and
  validation loss, and every byte of the last checkpoint are those of the run that nothing has
  disturbed; in another layout, or another order of additions, all that is logged within 1e-10;
- or refuses with one line, and has changed nothing.

No process outlives its run, and no half-written file stays.

`make drills` has written this page: torch {torch}, {machine}. The sources' hash is
`{sources:.16}`.
"""


def fingerprint():
    """A hash of the sources that the outcomes depend on."""
    return outcomes.fingerprint(SOURCES)


def write(found, sources):
    """Keep {drill: (what happened, curve)}, with the fingerprint of the sources that ran."""
    names = "topic", "fault", "where", "layout"
    rows = [
        {name: getattr(drill, name) for name in names} | {"happened": happened, "curve": curve}
        for drill, (happened, curve) in found.items()
    ]
    about = {"sources": sources, "torch": torch.__version__, "machine": platform.machine()}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(about | {"drills": rows}, indent=1) + "\n")


def page(results):
    """The text of docs/drills.md."""
    drills = results["drills"]
    parts = [HEAD.format(count=len(drills), **results)]
    for topic in dict.fromkeys(drill["topic"] for drill in drills):
        names = "fault", "where", "layout", "happened", "curve"
        rows = [[d[name] for name in names] for d in drills if d["topic"] == topic]
        head = ["fault", "where", "layout", "what happened", "the whole curve then"]
        parts += [f"## {topic}\n", table(head, rows) + "\n"]
    return "\n".join(parts)


if __name__ == "__main__":
    results = json.loads(RESULTS.read_text())
    if results["sources"] != fingerprint():
        sys.exit(f"{RESULTS.relative_to(ROOT)} is of other sources: run make drills")
    PAGE.write_text(page(results))
    print(f"{PAGE.relative_to(ROOT)} is written")
