"""How long a class takes: 200 students, three exercises, one of them on ranks.

    python scaling/bench/grade.py [--students 200] [--jobs 2]

Of twenty students twelve hand in the solution, three a wrong answer of the exercise's own, two the
untouched stub, two code that raises, and one a loop without end, which takes all the seconds that
there are. Prints minutes by the clock, seconds of a processor, and the points of each kind.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

from minimtnlg.course import drawn, exercises, grade
from minimtnlg.course.sources import ROOT, tags

EXERCISES = ("accumulate", "ring_all_reduce", "the_frontier")
KINDS = ["solution"] * 12 + ["wrong"] * 3 + ["stub", "raises"] * 2 + ["loops"]


def notebook(cells):
    """A notebook's text."""
    listed = [{"cell_type": "code", "source": code} for code in cells]
    return json.dumps({"cells": listed, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def cells(source, kind):
    """What a student of this kind hands in."""
    values, (target, _) = drawn.values(source), exercises.asked(source)

    def code(tag):
        found = source.tagged(tag) if tag else [c for c in source.cells if not tags(c)]
        return [drawn.fill(c.source, values) for c in found if c.cell_type == "code"]

    start = ["\n".join(f"{name} = {value!r}" for name, value in values.items()), *code("")]
    if kind == "wrong":
        wrong = next(iter(exercises.load(source.path).wrong))
        return [*start, *code("solution"), *code("wrong"), f"{target} = {wrong}"]
    if kind in ("solution", "stub"):
        return start + code(kind)
    body = {"raises": "raise ValueError('not today')", "loops": "while True: pass"}[kind]
    return [*start, f"def {target}(*a, **k):\n    {body}"]


def main():
    """Hand in, grade, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    chosen = parser.parse_args()
    sources = [exercises.find(name) for name in EXERCISES]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(chosen.students):
            kind = KINDS[number % len(KINDS)]
            for source in sources:
                path = Path(folder, f"{kind}-{number:03d}", f"{source.stem}.ipynb")
                path.parent.mkdir(exist_ok=True)
                path.write_text(notebook(cells(source, kind)), encoding="utf-8")
        began = time.perf_counter()
        results = grade.grade([folder], root=ROOT, jobs=chosen.jobs, kept=None,
                              tell=lambda text: print(text, flush=True))  # fmt: skip
        seconds = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{chosen.students} students, {len(EXERCISES)} exercises, {chosen.jobs} side by side, "
          f"{os.cpu_count()} cores: {seconds / 60:.1f} minutes")  # fmt: skip
    print(f"{(used.ru_utime + used.ru_stime) / len(results):.2f} s of a processor each, "
          "not counting what was ended at the limit")  # fmt: skip
    for kind in dict.fromkeys(KINDS):
        points = {r.points for r in results if r.student.startswith(kind)}
        print(f"{kind:10} points {sorted(points)}")


if __name__ == "__main__":
    main()
