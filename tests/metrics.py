"""What a run has logged, for tests that compare runs."""

import json

TIMES = {"step_s", "tokens_per_s", "tflops"}  # what no two runs have alike


def rows(out):
    """The rows of metrics.jsonl of the run in folder `out`."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def timeless(out):
    """The same without the times."""
    return [{key: row[key] for key in row.keys() - TIMES} for row in rows(out)]
