"""Pipeline schedules as data: for each stage the list of instructions that it carries out.

- A schedule is an order of computing. GPipe, 1F1B and interleaved 1F1B differ in how many forward
  passes each stage makes ahead (its warm-up), and in nothing else.
- Transfers follow from the order by one rule, so no schedule writes its own: they take place at
  the ticks of a clock that all stages share, and therefore can't wait for one another in a circle.
- One object is drawn and simulated (simulate.py) and executed (pipeline.py).

Virtual stage x is the x-th of the p * v pieces of the model in the order of its layers. It lives on
stage x % p as that stage's chunk x // p [S12].
"""

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property, lru_cache

from minimtnlg.errors import InputError


@dataclass(frozen=True, slots=True)
class Forward:
    """Compute the forward pass of one micro-batch through one chunk of the stage."""

    micro_batch: int
    chunk: int = 0


@dataclass(frozen=True, slots=True)
class Backward:
    """Compute the backward pass of one micro-batch through one chunk of the stage."""

    micro_batch: int
    chunk: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """A tensor [s, b, h] that goes from one virtual stage to a neighbouring one."""

    micro_batch: int
    source: int
    target: int

    @property
    def kind(self):
        """"activation" on its way to the next virtual stage, "gradient" back to the one before."""
        return "activation" if self.target > self.source else "gradient"

    def __str__(self):
        return f"the {self.kind} of micro-batch {self.micro_batch} for virtual stage {self.target}"


@dataclass(frozen=True, slots=True)
class Exchange:
    """Start these transfers together, and go on computing.

    A Forward or Backward waits for the one message that it needs, a Free for those that it names.
    A stage carries out its exchanges one after the other; the messages of one are independent.
    """

    sends: tuple[Message, ...]
    receives: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Free:
    """Wait until these tensors are sent, then give their memory back.

    An output that only the next stage needs would else be kept until its backward pass; on the
    first stage of MT-NLG that is 2.73 GiB [S13].
    """

    sends: tuple[Message, ...]


def needed(op, stage, pp, virtual):
    """The Message that a Forward or Backward on `stage` waits for; None at the ends."""
    here = op.chunk * pp + stage
    source = here - 1 if isinstance(op, Forward) else here + 1
    return Message(op.micro_batch, source, here) if 0 <= source < pp * virtual else None


def produced(op, stage, pp, virtual):
    """The Message that a Forward or Backward on `stage` results in; None at the ends."""
    here = op.chunk * pp + stage
    target = here + 1 if isinstance(op, Forward) else here - 1
    return Message(op.micro_batch, here, target) if 0 <= target < pp * virtual else None


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """m micro-batches through pp stages; schedule[stage] is the tuple of that stage's instructions.

    forward_only: no backward passes, for evaluation and generation.
    """

    pp: int
    m: int
    forward_only: bool = False
    virtual = 1  # chunks a stage; Interleaved has more

    def __post_init__(self):
        for name, size in (("parallel.pp", self.pp), ("parallel.virtual", self.virtual)):
            if not isinstance(size, int) or size < 1:
                raise InputError(f"{name}={size!r}: sizes are whole numbers from 1")
        if not isinstance(self.m, int) or self.m < 1:
            raise InputError(f"{self.m!r} micro-batches: a pipeline needs one or more")

    def warm_up(self, stage):
        """Forward passes of `stage` before its first backward pass."""
        raise NotImplementedError

    def order(self, stage):
        """What `stage` computes: a list of Forward and Backward.

        After the warm-up, one forward and one backward pass in turn (steady state); then the
        backward passes that are left (cool-down).
        """
        turns = self._turns()
        forwards = [Forward(i, chunk) for i, chunk in turns]
        backwards = [Backward(i, self.virtual - 1 - chunk) for i, chunk in turns]
        if self.forward_only:
            return forwards
        ahead = self.warm_up(stage)
        steady = zip(forwards[ahead:], backwards, strict=False)
        cool_down = backwards[len(forwards) - ahead :]
        return [*forwards[:ahead], *(op for pair in steady for op in pair), *cool_down]

    def _turns(self):
        """(micro-batch, chunk) of the forward passes: pp micro-batches a time, chunk by chunk."""
        return [
            (i, chunk)
            for first in range(0, self.m, self.pp)
            for chunk in range(self.virtual)
            for i in range(first, min(first + self.pp, self.m))
        ]

    @cached_property
    def _streams(self):
        return _with_transfers([self.order(stage) for stage in range(self.pp)], self.virtual)

    def __getitem__(self, stage):
        return self._streams[stage]

    def __len__(self):
        return self.pp


class GPipe(Schedule):
    """All forward passes, then all backward passes: m micro-batches in flight [S12]."""

    def warm_up(self, stage):
        return self.m


class OneFOneB(Schedule):
    """1F1B: GPipe's bubble, but at most p - stage micro-batches in flight [S12].

    The last stage alternates at once; each stage before it makes one more forward pass ahead.
    MT-NLG was trained with 1F1B [S3, sec. 2.1.2].
    """

    def warm_up(self, stage):
        return min(self.pp - stage - 1, self.m)


@dataclass(frozen=True, kw_only=True)
class Interleaved(Schedule):
    """1F1B with v chunks a stage: a bubble v times smaller, v times the messages [S12].

    Micro-batches go through one chunk after the other in groups of exactly p, so m must be a
    multiple of p. Megatron-Core also takes other groups, with more micro-batches in flight.
    """

    virtual: int

    def __post_init__(self):
        super().__post_init__()
        if self.pp == 1:
            raise InputError(
                "parallel.pp=1: the interleaved schedule needs two stages or more; "
                "parallel.schedule=1f1b takes one"
            )
        if self.m % self.pp:
            below = self.m // self.pp * self.pp
            fits = f"{below} or {below + self.pp}" if below else f"{self.pp}"
            raise InputError(
                f"{self.m} micro-batches on parallel.pp={self.pp} stages: the interleaved schedule "
                f"moves them in groups of {self.pp}, so {fits} would fit; "
                "parallel.schedule=1f1b takes any number"
            )

    def warm_up(self, stage):
        # The last chunk comes after (v-1) p passes through the others. From there it is
        # p - stage - 1 stages down to the loss and as many back: forward passes fill both ways.
        return min(2 * (self.pp - stage - 1) + (self.virtual - 1) * self.pp, self.virtual * self.m)


@lru_cache  # a training asks for the same one at every step
def named(name, pp, m, virtual=1, forward_only=False):
    """The schedule that parallel.schedule names: "gpipe", "1f1b" or "interleaved"."""
    if name == "interleaved":
        return Interleaved(pp=pp, m=m, virtual=virtual, forward_only=forward_only)
    return {"gpipe": GPipe, "1f1b": OneFOneB}[name](pp=pp, m=m, forward_only=forward_only)


# Ticks of the clock. A backward pass is two products for each one of a forward pass, and under full
# recomputation that forward pass again. Faster backward passes than the clock's cost nothing.
TICKS = {Forward: 1, Backward: 3}


def _clock(orders, virtual):
    """(start tick of each op of each stage, {message: tick at which it is there}).

    Every stage keeps its order, starts each op as soon as it can, and transfers take no time.
    """
    pp = len(orders)
    starts, free_at, there = [[] for _ in orders], [0] * pp, {}
    tick = 0
    while waiting := [s for s in range(pp) if len(starts[s]) < len(orders[s])]:
        began = False
        for stage in waiting:
            op = orders[stage][len(starts[stage])]
            need = needed(op, stage, pp, virtual)
            if free_at[stage] > tick or need and there.get(need, tick + 1) > tick:
                continue
            began = True
            starts[stage].append(tick)
            free_at[stage] = tick + TICKS[type(op)]
            if message := produced(op, stage, pp, virtual):
                there[message] = free_at[stage]
        if not began and max(free_at) <= tick:
            stage = waiting[0]
            op = orders[stage][len(starts[stage])]
            raise InputError(f"no order to carry out: stage {stage} would wait forever at {op}")
        tick += 1
    return starts, there


def _with_transfers(orders, virtual):
    """The instructions of each stage: its order of computing, with Exchange and Free between.

    A message is exchanged at the tick at which it is ready, by both its ends, before whatever they
    start at that tick or later. All that a stage does before its exchange of tick T waits for
    earlier exchanges alone, so the earliest one that is left always goes through: no deadlock.
    """
    starts, there = _clock(orders, virtual)
    # exchanges[stage][tick] is (sends, receives). A stage has at most one message ready at a tick,
    # so no two of an exchange go the same way between the same stages.
    exchanges = [defaultdict(lambda: ([], [])) for _ in orders]
    for message, tick in there.items():
        exchanges[message.source % len(orders)][tick][0].append(message)
        exchanges[message.target % len(orders)][tick][1].append(message)
    streams = []
    for stage, order in enumerate(orders):
        events = [(tick, 1, op) for tick, op in zip(starts[stage], order, strict=True)]
        for tick, (sends, receives) in exchanges[stage].items():
            events.append((tick, 0, Exchange(tuple(sends), tuple(receives))))
        streams.append(_with_frees(op for _, _, op in sorted(events, key=lambda e: e[:2])))
    return streams


def _with_frees(instructions):
    """Puts a Free for what an exchange sent before the next exchange, or at the end."""
    stream, sent = [], ()
    for instruction in instructions:
        if isinstance(instruction, Exchange):
            if sent:
                stream.append(Free(sent))
            sent = instruction.sends
        stream.append(instruction)
    return tuple(stream + [Free(sent)] if sent else stream)
