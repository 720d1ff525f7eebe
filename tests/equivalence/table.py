"""Writes docs/equivalence.md from results/equivalence.json, the last step of `make equivalence`."""

import sys
from pathlib import Path

from outcomes import SOURCES, WHATS
from special import TOPICS

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests"))  # as a script, conftest.py hasn't done it

import results  # noqa: E402

PAGE = ROOT / "docs" / "equivalence.md"
MEANING = {
    "loss": "the loss, the mean over all unmasked tokens of the global batch",
    "gradient": "every gradient, after clipping",
    "norm": "the norm of the gradients before clipping",
    "sgd": "every parameter after a step of SGD",
    "adam": "every parameter after each of three steps of Adam",
    "evaluation": "the loss of the trained model without dropout",
}
COLUMNS = ("DP", "ZeRO-1", "ZeRO-2", "ZeRO-3")
HEAD = """# Parallel equals serial

Every legal layout of up to eight ranks trains a step with SGD and three with Adam, in float64. So
does one process that sees the whole batch, written in plain formulas that share no code with the
package ([reference.py](../tests/equivalence/reference.py)). Each rank compares all that it has with
its part of that. Dropout is on, masks are uneven, gradients are clipped, layers don't
divide over stages, nor rows over the shards of ZeRO ([cases.py](../tests/equivalence/cases.py)).

`make equivalence` has written this page: {count} cases, torch {torch}, {machine}. A difference of
more than {tolerance:.0e} would have stopped it. The sources' hash is `{sources:.16}`.
"""


def table(head, rows):
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def largest(cases):
    return max(case[what] for case in cases for what in WHATS)


def cell(cases):
    """How many cases, and their largest difference."""
    return f"{len(cases)}: {largest(cases):.1e}" if cases else ""


def grouped(cases, *names):
    """{values of these fields: the cases that have them}, in the order of the cases."""
    groups = {}
    for case in cases:
        groups.setdefault(tuple(case[name] for name in names), []).append(case)
    return groups


def page(found):
    cases = sorted(found["cases"], key=lambda case: (case["pp"], case["tp"], case["sp"]))
    plain, special = ([c for c in cases if bool(c["about"]) == wanted] for wanted in (False, True))
    layouts = [
        [f"t = {tp}{', sequence cut' * sp}", f"p = {pp}, {schedule}"]
        + [cell([case for case in group if case["zero"] == zero]) for zero in range(4)]
        for (pp, tp, sp, schedule), group in grouped(plain, "pp", "tp", "sp", "schedule").items()
    ]
    topics = {case.about: topic for topic, cases in TOPICS.items() for case in cases}
    abouts = [
        [topics[about], about, cell(group)] for (about,), group in grouped(special, "about").items()
    ]
    parts = [
        HEAD.format(count=len(cases), **found),
        "## What is compared\n",
        "Largest difference over all cases, ranks and tensors.\n",
        table(["", "largest"], [[MEANING[w], f"{max(c[w] for c in cases):.1e}"] for w in WHATS]),
        "\n## Layouts\n",
        "Number of cases, and their largest difference. The cases of a row differ in the number of",
        "replicas, 1 to 8, and in recomputation, none, selective and full.\n",
        table(["tensor ranks", "stages, schedule", *COLUMNS], layouts),
        "\n## Special cases\n",
        "Each on some layouts ([special.py](../tests/equivalence/special.py)).\n",
        table(["", "", "cases: largest"], sorted(abouts)),
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    try:
        found = results.read("equivalence", *SOURCES)
    except ValueError as error:
        sys.exit(f"table.py: {error}")
    if failed := [case["case"] for case in found["cases"] if case["failure"]]:
        sys.exit(f"{len(failed)} cases are not equal: {', '.join(failed)}")
    PAGE.write_text(page(found))
    print(f"{PAGE.relative_to(ROOT)} is written")
