"""What is compared: every legal layout of up to eight ranks, and the special cases.

Every case is nasty on purpose, so that a bug has nowhere to hide: dropout is on, masks are uneven,
gradients are clipped, some rows of the vocabulary are padding, some positions are never reached,
layers don't divide over the stages, rows don't divide over the shards of ZeRO, and the weights of
no parameter are special.
"""

import contextlib
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import combinations, product

import reference
import torch
from reference import Batch

from minimtnlg.config import Config, Model, Optim, Parallel, Train
from minimtnlg.parallel.layout import Layout

SEED = 1  # of the weights and of the masks of dropout
PADDING = 3  # rows of the embedding that are no token
STEPS = 3  # of Adam; SGD makes one, since it has no memory that a second could show
ROWS = 2  # sequences of a micro-batch
EXTRA = 3  # rows of the extra parameter


@dataclass(frozen=True, kw_only=True)
class Case:
    """One layout and what it trains on. m: micro-batches of each replica."""

    about: str = ""  # what makes it special
    tp: int = 1
    pp: int = 1
    dp: int = 1
    zero: int = 0
    sp: bool = False
    schedule: str = "1f1b"
    virtual: int = 1
    recompute: str = "none"
    m: int = 3
    layers: int = 2
    hidden: int = 20
    heads: int = 4
    vocab: int = 40
    seq: int = 12
    s: int = 8  # tokens of a sequence
    dropout: float = 0.1
    attention: str = "readable"
    masks: str = "uneven"
    clip: float = 0.5
    frozen: tuple = ()  # beginnings of names
    extra: tuple | None = None  # block 0 has one more parameter, used in these micro-batches

    def __str__(self):
        words = [f"tp{self.tp}", f"pp{self.pp}", f"dp{self.dp}", f"zero{self.zero}"]
        words += ["sp"] * self.sp + [self.schedule + str(self.virtual) * (self.virtual > 1)]
        words += [self.recompute, f"m{self.m}"] + [self.about] * bool(self.about)
        return "-".join(words).replace(" ", "_")

    @property
    def layout(self):
        return Layout(tp=self.tp, pp=self.pp, dp=self.dp)

    @cached_property
    def serial(self):
        """The case as one process sees it: those that compute the same in other ways are one."""
        same = dict(about="", pp=1, zero=0, schedule="", virtual=1, recompute="none")
        return replace(self, **same)

    @property
    def model(self):
        names = ("layers", "hidden", "heads", "seq", "vocab", "dropout", "attention")
        return Model(**{name: getattr(self, name) for name in names})

    @property
    def optim(self):
        # eps: where a gradient is zero up to rounding, as that of the keys' biases, Adam with a
        # tiny eps would make a step of it that rounding alone decides.
        return Optim(
            lr=0.03, min_lr=0, warmup_tokens=0, decay_tokens=1, eps=1e-3, weight_decay=0.5,
            clip=self.clip,
        )  # fmt: skip

    @property
    def config(self):
        return Config(
            model=self.model,
            parallel=Parallel(
                tp=self.tp, pp=self.pp, dp=self.dp, virtual=self.virtual, zero=self.zero,
                schedule=self.schedule, sequence_parallel=self.sp, recompute=self.recompute,
            ),
            optim=self.optim,
            train=Train(steps=STEPS, global_batch=self.m * self.dp * ROWS, micro_batch=ROWS),
        )  # fmt: skip

    def trains(self, name):
        return not name.startswith(self.frozen)

    def noise(self):
        """{name: what is added to the initial weights, so that none of them is special}."""
        sizes = reference.shapes(self.model)
        if self.extra is not None:
            sizes["blocks.0.extra"] = [EXTRA, self.hidden]
        return {
            name: torch.empty(size, dtype=torch.float64).normal_(
                0, 0.3, generator=reference.seeded("noise", name)
            )
            for name, size in sizes.items()
        }

    def batches(self, step):
        """The Batches of a step in the order of their numbers, those of all replicas together."""
        return [self._batch(step, k) for k in range(self.m * self.dp)]

    def _batch(self, step, k):
        g = torch.Generator().manual_seed(1000 * step + k)
        ids = torch.randint(self.vocab - PADDING, (ROWS, self.s + 1), generator=g)
        # From none to all, and more of them in the first micro-batches than in the last.
        kept = torch.randint(self.s // (1 + k % 3) + 1, (ROWS, 1), generator=g)
        mask = (torch.arange(self.s) < kept).double()
        if self.masks == "nothing" or self.masks == "silent replica" and k % self.dp == 1:
            mask = torch.zeros_like(mask)
        return Batch(ids[:, :-1], ids[:, 1:], mask, k in (self.extra or ()))


@cache
def expected(case):
    """{rule: [reference.Step]} and {"evaluation": loss}: what one process comes to."""
    weights = case.noise()
    for name, x in reference.initial(case.model, SEED).items():
        weights[name] += x
    for name, x in weights.items():
        x.requires_grad_(case.trains(name))
    steps = [
        (case.batches(number), reference.Draws(SEED, number, case.tp, case.sp))
        for number in range(STEPS)
    ]
    rules = {"sgd": (reference.sgd, steps[:1]), "adam": (reference.adam, steps)}
    with one_thread():
        found = {
            name: reference.train(weights, case.model, case.optim, some, update)
            for name, (update, some) in rules.items()
        }
        last = found["adam"][-1].weights
        return found | {"evaluation": reference.mean_loss(last, case.model, case.batches(0))}


@contextlib.contextmanager
def one_thread():
    """On tensors this small, threads wait for each other longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def legal(case):
    """Whether the design allows the case."""
    c, interleaved = case, case.schedule == "interleaved"
    return all(
        [
            c.heads % c.tp == 0 and c.vocab % c.tp == 0,
            not c.sp or c.tp > 1 and c.s % c.tp == 0,
            c.pp * c.virtual <= c.layers,
            c.zero < 2 or c.pp == 1,
            not interleaved or c.pp > 1 and c.m % c.pp == 0 and c.layers % (c.pp * c.virtual) == 0,
            c.recompute != "selective" or c.attention == "readable",
        ]
    )


AXES = {
    "tp": (1, 2, 4),
    "pp": (1, 2, 4),
    "dp": (1, 2, 4, 8),
    "zero": (0, 1, 2, 3),
    "sp": (False, True),
    "schedule": ("1f1b", "gpipe", "interleaved"),
    "recompute": ("none", "selective", "full"),
}


def candidates():
    """The product of AXES, legal or not."""
    for values in product(*AXES.values()):
        case = Case(**dict(zip(AXES, values, strict=True)))
        if case.schedule == "interleaved":
            yield replace(case, m=4, virtual=2, layers=2 * case.pp)
        else:  # more layers than stages, but not twice as many
            yield replace(case, layers=case.pp + 1)


def everything(ranks=8):
    """Every legal case of up to so many ranks."""
    return [case for case in candidates() if legal(case) and case.layout.world <= ranks]


def pairs(case):
    """Each pair of values of two axes that the case has."""
    return set(combinations([(axis, getattr(case, axis)) for axis in AXES], 2))


def few(cases):
    """Some of the cases, which together have every pair that all have.

    Those first that bring the most new pairs for what their ranks cost.
    """
    missing, chosen = set().union(*map(pairs, cases)), []
    while missing:
        best = max(cases, key=lambda case: len(pairs(case) & missing) / (case.layout.world + 3))
        missing -= pairs(best)
        chosen.append(best)
    return chosen
