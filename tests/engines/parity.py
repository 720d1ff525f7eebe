"""The real engines beside one process of ours: the same weights, batches and rates; what differs.

The process computes in float64, all micro-batches one after the other; it is proven in
tests/equivalence. The engines compute in float32, on gloo. Their global batch grows from step to
step, the masks of the first step are full and those of the others uneven.

    make parity        # runs all cases; results/parity.json, and the table of docs/engines.md
"""

import dataclasses
import re
import sys
from pathlib import Path

import torch

from minimtnlg import config as configuration
from minimtnlg import engines, run
from minimtnlg.config import Parallel
from minimtnlg.data.batches import Batch
from minimtnlg.device import generator
from minimtnlg.parallel.layout import Layout
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.train.mini import Mini

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests"))  # as a script, conftest.py hasn't done it

import results  # noqa: E402

PAGE = ROOT / "docs" / "engines.md"
SOURCES = (
    "minimtnlg/engines", "minimtnlg/model", "minimtnlg/parallel", "minimtnlg/train",
    "tests/engines/parity.py",
)  # fmt: skip
SMALL = (
    "model.layers=4 model.hidden=16 model.heads=4 model.seq=8 model.vocab=32 train.micro_batch=2 "
    "train.global_batch=24 train.ramp=null optim.eps=1e-3 optim.clip=0.1"
)
SIZES, LR = [8, 16, 24], 1e-2  # sequences in each step
LIMIT = 2e-6
WHATS = {
    "loss": "losses of three steps and of two validations, relative",
    "norm": "the gradients' norms before clipping, relative",
    "gradient": "every gradient",
    "parameter": "every parameter after three steps of Adam with eps 1e-3",
    "loss, eps 1e-8": "losses with Adam's usual eps of 1e-8, relative",
}
# A step of AdamW with these numbers is one of plain SGD at rate 1, as m / (sqrt(v) + eps) shows: so
# it tells the gradient, whatever the engine does with its own.
SGD = {"lr": 1e6, "eps": 1e6, "weight_decay": 0.0, "clip": 0.0}
INTERLEAVED = "schedule=interleaved virtual=2"
READABLE = "recompute=selective model.attention=readable"
CASES = {  # engine -> ranks -> overrides; a key without section is one of parallel
    "megatron": {
        1: ["tp=1"],
        2: [
            "tp=2",
            "tp=2 sequence_parallel=true",
            f"tp=2 sequence_parallel=true {READABLE}",
            "pp=2",
            "pp=2 recompute=full",
            f"pp=2 {INTERLEAVED}",
            "dp=2",
            "dp=2 zero=1 optim.clip=100",
        ],
        4: ["pp=4", "tp=2 pp=2", f"pp=2 dp=2 zero=1 {INTERLEAVED}"],
        8: ["tp=2 pp=2 dp=2", "tp=2 pp=2 dp=2 zero=1 sequence_parallel=true recompute=full"],
    },
    "deepspeed": {
        1: ["zero=0", "zero=1"],
        2: [
            "dp=2 zero=0",
            "dp=2 zero=1 optim.clip=100",
            "dp=2 zero=2",
            "dp=2 zero=3",
            "dp=2 zero=3 recompute=full model.dropout=0.2",
            "pp=2 zero=0 optim.clip=0",
            "pp=2 zero=1",
            "pp=2 zero=1 recompute=full model.dropout=0.2",
            "tp=2 zero=0",
            "tp=2 zero=3",
            f"tp=2 sequence_parallel=true zero=1 {READABLE}",
        ],
        4: [
            "dp=4 zero=0",
            "dp=4 zero=1",
            "dp=4 zero=2",
            "dp=4 zero=3",
            "pp=2 dp=2 zero=1",
            "tp=2 pp=2 zero=1",
            "tp=2 dp=2 zero=2",
            "pp=4 zero=1 model.layers=6",
        ],
        8: ["tp=2 pp=2 dp=2 zero=1"],
    },
}


def configure(case):
    """The Config of a case."""
    words = [word if "." in word else f"parallel.{word}" for word in case.split()]
    return configuration.sized(configuration.load("nano", [*SMALL.split(), *words]))


def mine(engine, number):
    """The micro-batches of this engine's replica in a step, as the trainer hands them out.

    Stages between the first and the last get shapes alone.
    """
    config, mesh, size = engine.config, engine.mesh, SIZES[number]
    g = generator("parity", number)
    ids = torch.randint(config.model.vocab, (size, config.model.seq + 1), generator=g)
    kept = torch.rand(size, 1, generator=g) if number else torch.ones(size, 1)
    mask = (torch.rand(size, config.model.seq, generator=g) < kept).float()
    pieces = [x.split(config.train.micro_batch) for x in (ids[:, :-1], ids[:, 1:], mask)]
    where = "meta" if 0 < mesh.place.pp < mesh.layout.pp - 1 else "cpu"
    batches = [Batch(*(x.to(where) for x in parts)) for parts in zip(*pieces, strict=True)]
    return batches[mesh.place.dp :: mesh.layout.dp]


def train(make, config, mesh):
    """What an engine tells of its steps and evaluations, and the weights that it ends with."""
    engine = make(config, mesh)
    told = [engine.step(mine(engine, number), LR, number) for number in range(len(SIZES))]
    told = {"loss": [loss for loss, _ in told], "norm": [norm for _, norm in told]}
    told["loss"] += [engine.evaluate(mine(engine, number)) for number in (0, 1)]
    return told, engine.state()


def all_of(make, config, mesh):
    """{what of WHATS: floats, or {name: tensor}} of one engine on this rank."""

    def changed(**optim):
        return dataclasses.replace(config, optim=dataclasses.replace(config.optim, **optim))

    told, weights = train(make, config, mesh)
    usual, _ = train(make, changed(eps=1e-8), mesh)
    engine = make(changed(**SGD), mesh)
    before = engine.state()
    engine.step(mine(engine, 1), SGD["lr"], 0)
    slopes = {name: before[name] - after for name, after in engine.state().items()}
    return told | {"gradient": slopes, "parameter": weights, "loss, eps 1e-8": usual["loss"]}


RIGHT = {}  # what `serial` found already: many cases differ in their layout alone


def serial(config):
    """The same by one process of ours in float64."""
    numbers = dataclasses.replace(config.train, dtype="float64")
    alone = dataclasses.replace(config, parallel=Parallel(dp=1), train=numbers)
    if str(alone) not in RIGHT:
        RIGHT[str(alone)] = all_of(Mini, alone, Mesh())
    return RIGHT[str(alone)]


def on_ranks(name, configs):
    """What `all_of` says of this rank, for each Config."""
    make, found = engines.named(name), []
    for config in configs:
        p = config.parallel
        found.append(all_of(make, config, Mesh(Layout(tp=p.tp, pp=p.pp, dp=p.dp))))
    return found


def block(whole, name, layout, place):
    """The part of a whole parameter that a rank has, by a table of its own."""
    cut = {"qkv": 0, "up": 0, "embedding": 0, "out": 1, "down": 1}
    *_, module, kind = name.split(".")
    if module not in cut or (kind == "bias" and cut[module] == 1):
        return whole
    return whole.chunk(layout.tp, cut[module])[place.tp]


def differences(config, right, ranks):
    """{what: largest difference of any rank from `right`}; ranks: what `all_of` said of each."""
    p = config.parallel
    layout, largest, names = Layout(tp=p.tp, pp=p.pp, dp=p.dp), dict.fromkeys(WHATS, 0.0), set()
    for rank, found in enumerate(ranks):
        place = layout.place(rank)
        for what, here in found.items():
            if isinstance(here, dict):
                names |= here.keys()
                each = [
                    (x.double() - block(right[what][name], name, layout, place)).abs().max().item()
                    for name, x in here.items()
                ]
            else:
                each = [abs(a / b - 1) for a, b in zip(here, right[what], strict=True)]
            # a NaN is infinitely wrong
            largest[what] = max([largest[what], *(x if x == x else float("inf") for x in each)])
    assert names == right["parameter"].keys(), "parameters that no rank has, or that nobody knows"
    return largest


def compare(name, world):
    """{case: `differences`} of all cases of an engine with so many ranks, started once."""
    cases = CASES[name][world]
    configs = [configure(case) for case in cases]
    ranks = run(on_ranks, world, name, configs, timeout=600)
    found = zip(cases, configs, zip(*ranks, strict=True), strict=True)
    return {case: differences(config, serial(config), told) for case, config, told in found}


def table(cases):
    """The table of docs/engines.md; cases: dicts of engine, layout and `differences`."""
    rows = [["engine", "layout", *WHATS], ["---"] * (2 + len(WHATS))]
    for case in cases:
        numbers = [f"{case[what]:.1e}" for what in WHATS]
        rows.append([case["engine"], f"`{case['layout']}`", *numbers])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    clock, cases = results.Clock(*SOURCES), []
    for name, worlds in CASES.items():
        for world in worlds:
            found = compare(name, world)
            cases += [{"engine": name, "layout": case} | found[case] for case in found]
    worst = max(case[what] for case in cases for what in WHATS)
    assert worst <= LIMIT, worst
    between = re.compile(r"(?<=<!-- parity -->\n).*?(?=<!-- end of parity -->)", re.S)
    text, places = between.subn(lambda _: table(cases) + "\n", PAGE.read_text())
    assert places == 1, f"{PAGE} has no place for the table"
    PAGE.write_text(text)
    clock.write("parity", limit=LIMIT, cases=cases)
    print(f"{table(cases)}\n{PAGE.name} is written; the largest difference is {worst:.1e}")
