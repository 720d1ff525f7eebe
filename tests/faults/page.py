"""Writes docs/drills.md from results/drills.json, the last step of `make drills`."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# As a script, conftest.py hasn't done it.
sys.path += [str(ROOT / "tests"), str(ROOT / "tests" / "equivalence")]

import results  # noqa: E402
from table import table  # noqa: E402

PAGE = ROOT / "docs" / "drills.md"
SOURCES = (
    "minimtnlg/model", "minimtnlg/parallel", "minimtnlg/train", "tests/faults/drills.py",
    "tests/faults/ground.py", "tests/faults/test_drills.py",
)  # fmt: skip
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


def write(found, clock):
    """Keep {drill: (what happened, curve)} in results/drills.json, for the page."""
    names = "topic", "fault", "where", "layout"
    rows = [
        {name: getattr(drill, name) for name in names} | {"happened": happened, "curve": curve}
        for drill, (happened, curve) in found.items()
    ]
    clock.write("drills", drills=rows)


def page(found):
    """The text of docs/drills.md."""
    drills = found["drills"]
    parts = [HEAD.format(count=len(drills), **found)]
    for topic in dict.fromkeys(drill["topic"] for drill in drills):
        names = "fault", "where", "layout", "happened", "curve"
        rows = [[d[name] for name in names] for d in drills if d["topic"] == topic]
        head = ["fault", "where", "layout", "what happened", "the whole curve then"]
        parts += [f"## {topic}\n", table(head, rows) + "\n"]
    return "\n".join(parts)


if __name__ == "__main__":
    try:
        PAGE.write_text(page(results.read("drills", *SOURCES)))
    except ValueError as error:
        sys.exit(f"page.py: {error}")
    print(f"{PAGE.relative_to(ROOT)} is written")
