"""A clock over instructions: who computes when, who idles, what is kept, and whether all ends.

The network is the strictest that instructions may meet: a transfer begins when both its ends have
come to it, a stage carries out its exchanges one after the other, and nothing is stored on the way.
What ends here ends on every network that forgives more.
"""

from collections import defaultdict, deque
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

from minimtnlg.errors import InputError
from minimtnlg.parallel.schedules import Backward, Exchange, Forward, Free, needed, produced


class Span(NamedTuple):
    """One instruction on the time line; start and end are in the unit of the durations."""

    start: float
    end: float
    instruction: Forward | Backward | Exchange


@dataclass(frozen=True)
class Simulation:
    """What happened. Print it for a time line.

    computing:  for each stage the Spans of its Forward and Backward
    exchanging: for each stage the Spans of its Exchange, from its turn in line until it is over
    in_flight:  for each stage the largest number of (micro-batch, chunk) whose forward pass has
                begun and whose backward pass has not ended: activations are kept for so many
    deadlock:   "" or a line that says who waits for whom; the Spans go to where all stood still
    """

    computing: list[list[Span]]
    exchanging: list[list[Span]]
    in_flight: list[int]
    deadlock: str

    @property
    def total(self):
        """Time until the last stage is done."""
        spans = [span for stage in self.computing + self.exchanging for span in stage]
        return max((span.end for span in spans), default=0)

    @property
    def idle(self):
        """Time of each stage in which it does not compute."""
        busy = [sum(span.end - span.start for span in stage) for stage in self.computing]
        return [self.total - time for time in busy]

    @property
    def idle_over_ideal(self):
        """Idle time by computing time, over all stages; the bubble as the papers give it.

        (p-1)/m for GPipe and 1F1B, (p-1)/(v m) interleaved, with equal stages and free transfers
        [S12].
        """
        return sum(self.idle) / (self.total * len(self.computing) - sum(self.idle))

    @property
    def idle_over_total(self):
        """Idle time by all time, over all stages: 1 - m/(m+p-1) where the other is (p-1)/m."""
        return sum(self.idle) / (self.total * len(self.computing))

    def text(self, width=110):
        """The time line: a row for each stage, time from left to right, cut off at `width`."""
        return "\n".join(_rows(self, width))

    __str__ = text


def simulate(schedule, forward=1, backward=2, transfer=0, blocking=False):
    """Carries out the instructions of all stages against a clock; returns a Simulation.

    schedule:          a Schedule, or for each stage the list of its instructions
    forward, backward: duration of one pass through one chunk: a number, or a list with one number
                       for each virtual stage, in the order of the layers
    transfer:          duration of a message; those of one exchange travel side by side
    blocking:          a stage waits in every exchange until it is over, instead of computing on

    Each stage keeps its order and nothing is left to chance, so durations change when a schedule
    ends but not whether: one blocking run without deadlock proves it for any durations.

    InputError for instructions that are wrong on any network: a tensor used before it is there, or
    sent and received in different orders, an instruction given twice.
    """
    stages = [list(schedule[number]) for number in range(len(schedule))]
    ops = [op for stage in stages for op in stage if isinstance(op, Forward | Backward)]
    if not ops:
        raise InputError("this schedule computes nothing: it has no Forward and no Backward")
    virtual = 1 + max(op.chunk for op in ops)
    for stage, instructions in enumerate(stages):
        _check_order(stage, instructions, len(stages), virtual)
    _check_channels(stages)
    ticks = {
        Forward: _each("forward", forward, len(stages) * virtual),
        Backward: _each("backward", backward, len(stages) * virtual),
    }
    return _Run(stages, virtual, ticks, transfer, blocking).run()


def _each(name, durations, count):
    durations = [durations] * count if isinstance(durations, int | float) else list(durations)
    if len(durations) != count:
        raise InputError(
            f"{name} lists {len(durations)} durations for {count} virtual stages: "
            "give one for each, or one number for all"
        )
    if min(durations) <= 0:
        raise InputError(f"{name} lasts {min(durations)}: durations are above 0")
    return durations


def _check_order(stage, instructions, pp, virtual):
    """A stage by itself: what an instruction uses must have come before it."""
    there = set()
    for instruction in instructions:
        if isinstance(instruction, Exchange):
            uses = instruction.sends
            gives = [instruction, *instruction.receives, *(f"sending {m!r}" for m in uses)]
        elif isinstance(instruction, Free):
            uses, gives = [f"sending {m!r}" for m in instruction.sends], [instruction]
        else:
            uses = [needed(instruction, stage, pp, virtual)]
            if isinstance(instruction, Backward):
                uses.append(Forward(instruction.micro_batch, instruction.chunk))
            gives = [instruction, produced(instruction, stage, pp, virtual)]
        for use in uses:
            if use and use not in there:
                raise InputError(f"stage {stage}: {instruction} comes before {use}")
        if instruction in there:
            raise InputError(f"stage {stage}: {instruction} comes twice")
        there.update(gives)


def _check_channels(stages):
    """Two stages together: what one sends is what the other receives, in the same order."""
    sent, received = defaultdict(list), defaultdict(list)
    for stage, instructions in enumerate(stages):
        for exchange in (x for x in instructions if isinstance(x, Exchange)):
            for message in exchange.sends:
                sent[stage, message.target % len(stages)].append(message)
            for message in exchange.receives:
                received[message.source % len(stages), stage].append(message)
    for source, target in sorted(sent.keys() | received.keys()):
        pairs = zip_longest(sent[source, target], received[source, target], fillvalue="nothing")
        for number, (there, here) in enumerate(pairs):
            if there != here:
                raise InputError(
                    f"transfer {number} from stage {source} to stage {target}: "
                    f"one sends {there}, the other receives {here}"
                )


class _Run:
    """Each stage has two hands: one computes, the other carries out its exchanges in line."""

    def __init__(self, stages, virtual, ticks, transfer, blocking):
        self.pp, self.virtual, self.ticks = len(stages), virtual, ticks
        self.transfer, self.blocking = transfer, blocking
        self.todo = [deque(instructions) for instructions in stages]
        self.line = [deque() for _ in stages]  # (when the stage started it, Exchange)
        self.computed_until = [0] * self.pp
        self.exchanged_until = [0] * self.pp
        self.came = {}  # (message, stage): when this end of the transfer had its turn
        self.over = {}  # (message, stage): when the exchange with this end was over
        self.computing = [[] for _ in stages]
        self.exchanging = [[] for _ in stages]

    def run(self):
        while any([self._compute(stage) | self._exchange(stage) for stage in range(self.pp)]):
            pass
        in_flight = [_most_in_flight(spans) for spans in self.computing]
        return Simulation(self.computing, self.exchanging, in_flight, self._deadlock())

    def _compute(self, stage):
        """Goes on until an instruction has to wait; returns whether it moved at all."""
        todo, moved = self.todo[stage], False
        while todo and not (self.blocking and self.line[stage]):
            op, now = todo[0], self.computed_until[stage]
            if isinstance(op, Exchange):
                self.line[stage].append((now, op))
            else:
                waits = self._waits(op, stage)
                if any((message, stage) not in self.over for message in waits):
                    break
                start = end = max([now] + [self.over[message, stage] for message in waits])
                if not isinstance(op, Free):
                    end += self.ticks[type(op)][op.chunk * self.pp + stage]
                    self.computing[stage].append(Span(start, end, op))
                self.computed_until[stage] = end
            todo.popleft()
            moved = True
        return moved

    def _waits(self, op, stage):
        """The messages that must have come, or gone, before this instruction."""
        if isinstance(op, Free):
            return op.sends
        message = needed(op, stage, self.pp, self.virtual)
        return (message,) if message and message.source % self.pp != stage else ()

    def _exchange(self, stage):
        """Ends the exchanges in line until one has to wait; returns whether any came to its end."""
        line, moved = self.line[stage], False
        while line:
            start, exchange = line[0]
            start = max(start, self.exchanged_until[stage])
            ends = self._other_ends(exchange, stage)
            for message, _ in ends:
                self.came[message, stage] = start
            if any(end not in self.came for end in ends):
                break
            over = max([start] + [self.came[end] for end in ends]) + self.transfer
            for message, _ in ends:
                self.over[message, stage] = over
            self.exchanging[stage].append(Span(start, over, exchange))
            self.exchanged_until[stage] = over
            if self.blocking:
                self.computed_until[stage] = max(over, self.computed_until[stage])
            line.popleft()
            moved = True
        return moved

    def _other_ends(self, exchange, stage):
        """(message, stage at its other end) for each message of the exchange."""
        sends = [(message, message.target % self.pp) for message in exchange.sends]
        return sends + [(message, message.source % self.pp) for message in exchange.receives]

    def _deadlock(self):
        """Who waits for whom, in words; "" when all is done.

        A stage that is left has an exchange in line, since _check_order lets an instruction wait
        only for exchanges before it. It waits for a stage that is left too, and so on in a circle.
        """
        left = [stage for stage in range(self.pp) if self.line[stage]]
        if not left:
            return ""
        stage, waits = left[0], {}
        while stage not in waits:
            ends = self._other_ends(self.line[stage][0][1], stage)
            message, peer = next(end for end in ends if end not in self.came)
            does = "receive" if message.target % self.pp == peer else "send"
            waits[stage] = (f"stage {stage} waits for stage {peer} to {does} {message}", peer)
            stage = peer
        circle = [text for text, _ in list(waits.values())[list(waits).index(stage) :]]
        return "deadlock: " + "; ".join(circle)


def _most_in_flight(spans):
    """The most forward passes at a time of which the backward pass is still to come."""
    backward = {(op.micro_batch, op.chunk) for *_, op in spans if isinstance(op, Backward)}
    most = now = 0
    for *_, op in spans:
        if isinstance(op, Backward):
            now -= 1
        elif (op.micro_batch, op.chunk) in backward:
            now += 1
        most = max(most, now)
    return most


def _rows(simulation, width):
    """The lines of Simulation.text."""
    spans = [span for stage in simulation.computing for span in stage if span.end > span.start]
    chunks = any(span.instruction.chunk for span in spans)
    total, head = simulation.total or 1, len(f"stage {len(simulation.computing)}  ")
    unit = min((span.end - span.start for span in spans), default=1)
    longest = max((len(_label(span.instruction, chunks)) for span in spans), default=1)
    roomy = total / unit * (longest + 1) <= width - head  # else a letter for each unit of time
    scale = (longest + 1 if roomy else 1) / unit
    for number, stage in enumerate(simulation.computing):
        row = ["."] * round(total * scale)
        for start, end, op in stage:
            cell = slice(round(start * scale), round(end * scale))
            room = cell.stop - cell.start
            label, letter = _label(op, chunks), _letter(op, chunks)
            row[cell] = f"{label:-<{room - 1}} " if roomy else letter * room
        line = f"{f'stage {number}':{head}}{''.join(row)}".rstrip()
        yield line if len(line) <= width else line[: width - 3] + ">>>"
    if roomy:
        legend = f"F0{'a' * chunks}: forward of micro-batch 0{', chunk a' * chunks}; B: backward"
    else:
        legend = "a: forward of chunk a, A: backward" if chunks else "F: forward, B: backward"
    yield f"{'':{head}}{legend}; .: idle"
    yield simulation.deadlock or (
        f"{'':{head}}total {total:g}, idle {simulation.idle_over_ideal:.1%} of the ideal time; "
        f"in flight at most {', '.join(map(str, simulation.in_flight))}"
    )


def _label(op, chunks):
    return f"{type(op).__name__[0]}{op.micro_batch}{chr(ord('a') + op.chunk) if chunks else ''}"


def _letter(op, chunks):
    letter = _label(op, chunks)[-1 if chunks else 0]
    return letter.upper() if isinstance(op, Backward) else letter
