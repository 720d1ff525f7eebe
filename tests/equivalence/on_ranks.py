"""One rank of a layout trains a case and compares what it has with its part of the reference.

Which part that is, is worked out here a second time, from the rank alone.
"""

import faulthandler
import json
import math
from pathlib import Path

import torch
import torch.distributed as dist
from cases import EXTRA, SEED

from minimtnlg.model import GPT
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.parallel.schedules import named
from minimtnlg.train.optimizer import Optimizer, adamw
from minimtnlg.train.step import evaluate, step

PATIENCE = 60  # seconds; a case takes one or two
CUT = {  # the dimension along which tensor parallelism cuts; what is not named is whole
    "attention.qkv.weight": 0,
    "attention.qkv.bias": 0,
    "attention.out.weight": 1,
    "mlp.up.weight": 0,
    "mlp.up.bias": 0,
    "mlp.down.weight": 1,
    "embedding.weight": 0,
}


def sgd(groups, optim):
    """PyTorch's SGD; as it has no memory, its decay comes to lr * decay * weight."""
    return torch.optim.SGD(groups, lr=optim.lr)


RULES = {"sgd": sgd, "adam": adamw}


def program(cases, references, folder):
    """What every rank runs: all cases; a line of JSON for each into the folder, as soon as done.

    A line is a list of [what, where, difference], the largest of each what. A rank that takes
    longer than PATIENCE for a case waits for ever: it says where, and ends.
    """
    meshes, rank = {}, dist.get_rank()
    with (
        open(Path(folder) / f"{rank}.jsonl", "w", buffering=1) as results,
        open(Path(folder) / f"{rank}.stuck", "w") as stuck,
    ):
        for case in cases:
            faulthandler.dump_traceback_later(PATIENCE, exit=True, file=stuck)
            dist.barrier()  # so that a rank that fails fails in the case that all are in
            if case.layout not in meshes:
                meshes[case.layout] = Mesh(case.layout)
            part = Part(case, rank)
            pairs = comparisons(part, meshes[case.layout], references[case.serial])
            print(json.dumps(largest(pairs)), file=results)
        faulthandler.cancel_dump_traceback_later()


class Part:
    """What a rank has of a case's tensors. Ranks count tp first, then dp, then pp."""

    def __init__(self, case, rank):
        self.case = case
        self.tp = rank % case.tp
        self.dp = rank // case.tp % case.dp
        self.pp = rank // case.tp // case.dp

    def has(self, name):
        """Whether a parameter is on this rank's stage, the tied embedding being on two."""
        case, first, last = self.case, self.pp == 0, self.pp == self.case.pp - 1
        if not name.startswith("blocks."):
            return {"embedding": first or last, "position": first, "norm": last}[name.split(".")[0]]
        pieces, layer = case.pp * case.virtual, int(name.split(".")[1])
        each, over = divmod(case.layers, pieces)
        order = [piece for piece in range(pieces) for _ in range(each + (piece < over))]
        return order[layer] % case.pp == self.pp

    def of(self, whole, found):
        """(name, tensor) of what the stage should have; what was found has to be just that."""
        named = [(name, x) for name, x in whole.items() if self.has(name)]
        assert {name for name, _ in named} == found.keys(), "other parameters than the stage's"
        return named

    def block(self, name, whole):
        """The rank's block of a whole parameter."""
        cut = [dimension for end, dimension in CUT.items() if name.endswith(end)]
        return whole.chunk(self.case.tp, cut[0])[self.tp] if cut else whole

    def shard(self, name, whole):
        """The rows of the block that the rank updates."""
        block = self.block(name, whole)
        rows = -(-len(block) // self.case.dp)
        return block[self.dp * rows :][:rows] if self.case.zero else block

    def batches(self, number):
        """The replica's micro-batches: each dp-th of the global batch."""
        return self.case.batches(number)[self.dp :: self.case.dp]


def comparisons(part, mesh, serial):
    """Yields (what, where, found, expected) of tensors that should be equal.

    serial: what cases.expected says that one process comes to.
    """
    case = part.case
    for rule, make in RULES.items():
        model = built(part, mesh)
        optimizer = Optimizer(model, case.optim, zero=case.zero, rule=make)
        for number, wanted in enumerate(serial[rule]):
            at = f"step {number} of {rule}"
            loss, norm = step(
                model, optimizer, part.batches(number), lr=case.optim.lr, seed=SEED, number=number,
                schedule=schedule(case),
            )  # fmt: skip
            yield "loss", at, loss, wanted.loss
            yield "norm", at, norm, wanted.norm
            gradients = own_gradients(model, optimizer.replicas)
            for name, expected in part.of(wanted.gradients, gradients):
                yield "gradient", f"{name}, {at}", gradients[name], part.shard(name, expected)
            with optimizer.replicas.gathered():
                weights = {name: x.detach().clone() for name, x in model.named_parameters()}
            for name, expected in part.of(wanted.weights, weights):
                yield rule, f"{name}, {at}", weights[name], part.block(name, expected)
    loss = evaluate(model, part.batches(0), schedule(case, forward_only=True))
    yield "evaluation", "after adam", loss, serial["evaluation"]


def largest(comparisons):
    """[[what, where, difference]]: the largest difference of each what."""
    worst = {}
    for what, where, found, expected in comparisons:
        fits = found.shape == expected.shape
        difference = (found - expected).abs().max().item() if fits and found.numel() else 0.0
        if not fits or math.isnan(difference):
            difference = math.inf
        if what not in worst or difference > worst[what][-1]:
            worst[what] = [what, where, difference]
    return list(worst.values())


def built(part, mesh):
    """The rank's GPT. What random numbers the process has drawn before must not matter."""
    case, noise = part.case, part.case.noise()
    torch.manual_seed(dist.get_rank())
    model = GPT(
        case.model, mesh, seed=SEED, dtype=torch.float64, recompute=case.recompute,
        virtual=case.virtual, sequence_parallel=case.sp,
    )  # fmt: skip
    if case.extra is not None and part.has("blocks.0.extra"):
        add_extra(model.blocks[0], case)
    with torch.no_grad():
        for name, x in model.named_parameters():
            x += part.block(name, noise[name])
            x.requires_grad_(case.trains(name))
    return model


def add_extra(block, case):
    """Give a block a parameter that only training on the micro-batches of case.extra uses."""
    block.extra = torch.nn.Parameter(torch.zeros(EXTRA, case.hidden, dtype=torch.float64))
    plain = block.forward

    def forward(x, draw, cache):
        y = plain(x, draw, cache)
        return y + block.extra.sum(0) if draw and draw.micro_batch in case.extra else y

    block.forward = forward


def schedule(case, forward_only=False):
    return named(case.schedule, case.pp, case.m, case.virtual, forward_only)


def own_gradients(model, replicas):
    """{name: gradient of what this rank updates}, complete after a step."""
    names = {x: name for name, x in model.named_parameters()}
    pairs = zip(replicas.parameters, replicas.gradients, strict=True)
    return {names[x]: gradient for x, gradient in pairs}
