"""Runs cases on ranks that are started once for each world size, and says how each came out."""

import json
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cases import expected
from on_ranks import program

from minimtnlg import run
from minimtnlg.ranks import RankError

SOURCES = (
    "minimtnlg/model", "minimtnlg/parallel", "minimtnlg/train",
    "tests/equivalence/cases.py", "tests/equivalence/on_ranks.py",
    "tests/equivalence/reference.py", "tests/equivalence/special.py",
)  # fmt: skip
TOLERANCE = 1e-11
STARTS = 3  # of new ranks after a case that ended them
WHATS = ("loss", "gradient", "norm", "sgd", "adam", "evaluation")


@dataclass
class Outcome:
    """How a case came out.

    differences: {what: [the largest one of all ranks, where]}. failure: why there are none.
    """

    differences: dict = field(default_factory=dict)
    failure: str = ""

    def complaint(self):
        """What is wrong, in words; "" where all is equal."""
        lines = [
            f"{what} differs by {self.differences[what][0]:.1e}: {self.differences[what][1]}"
            for what in WHATS
            if what in self.differences and not self.differences[what][0] < TOLERANCE
        ]
        return "\n".join(lines + [self.failure] * bool(self.failure))


def outcomes(cases):
    """{case: Outcome} for cases of one world size.

    Where a rank fails, so does the case that it was in; the others run on new ranks.
    """
    references = {case.serial: expected(case.serial) for case in cases}
    found, left, starts = {}, list(cases), STARTS
    while left and starts:
        done, failure = attempt(left, references)
        found |= zip(left, done, strict=False)
        left = left[len(done) :]
        if failure:
            found[left.pop(0)] = Outcome(failure=failure)
            starts -= 1
    return found | {case: Outcome(failure="not run, after others that failed") for case in left}


def attempt(cases, references):
    """(Outcomes of the cases up to one that ended the ranks, and how it did; "" where none did)."""
    world, failure = cases[0].layout.world, ""
    with tempfile.TemporaryDirectory() as folder:
        try:
            run(program, world, cases, references, folder, timeout=3600)
        except RankError as error:
            failure = "\n".join([str(error), *stuck(folder)])
        files = [Path(folder) / f"{rank}.jsonl" for rank in range(world)]
        lines = [file.read_text().splitlines() if file.exists() else [] for file in files]
    done = [merged([json.loads(line) for line in each]) for each in zip(*lines, strict=False)]
    return done, failure


def stuck(folder):
    """Lines that say where ranks were that waited for ever."""
    for path in sorted(Path(folder).glob("*.stuck")):
        for line in path.read_text().splitlines():
            if "/minimtnlg/" in line and "/_rank.py" not in line:
                yield f"{path.stem}: {line.strip()}"


def merged(by_rank):
    """The Outcome of one case from [[what, where, difference]] of each rank."""
    outcome = Outcome()
    for rank, differences in enumerate(by_rank):
        for what, where, difference in differences:
            largest = outcome.differences.setdefault(what, [-1.0, ""])
            if difference > largest[0]:
                largest[:] = [difference, f"rank {rank}, {where}"]
    return outcome


def write(found, clock):
    """Keep {case: Outcome} in results/equivalence.json, for the table."""
    rows = []
    for case, outcome in found.items():
        row = {"case": str(case)} | asdict(case) | {"failure": outcome.complaint()}
        rows.append(row | {what: outcome.differences.get(what, [None])[0] for what in WHATS})
    clock.write("equivalence", tolerance=TOLERANCE, cases=rows)
