"""The interpreter against one process: toy stages of plain matrices, every schedule, real sends.

Virtual stage x multiplies by its matrices, one to three of them; the last one's output is squared
and summed. What a stage returns, keeps and sends is looked at from outside.
"""

import pytest
import torch
from comparing import Outcomes, complaints
from torch.multiprocessing.reductions import StorageWeakRef

from minimtnlg.parallel.collectives import Recorder
from minimtnlg.parallel.layout import Layout
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.parallel.pipeline import carry_out
from minimtnlg.parallel.schedules import GPipe, Interleaved, OneFOneB

SHAPE = (4, 2, 6)  # of every message
MESHES = {}


def mesh_of(**sizes):
    layout = Layout(**sizes)
    if layout not in MESHES:
        MESHES[layout] = Mesh(layout) if layout.world > 1 else Mesh()
    return MESHES[layout]


def random(*shape, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64)


def matrices(x, trained=True):
    """Those of virtual stage x: one, two or three, so that stages are not alike."""
    return [(random(6, 6, seed=10 * x + i) / 3).requires_grad_(trained) for i in range(1 + x % 3)]


def start(k):
    """What the first virtual stage begins micro-batch k with."""
    return random(*SHAPE, seed=1000 + k)


def serial(pieces, m, frozen=()):
    """(loss, {virtual stage: gradients of its matrices}) of one process, one pass at a time."""
    model = {x: matrices(x, x not in frozen) for x in range(pieces)}
    loss = 0
    for k in range(m):
        y = start(k)
        for x in range(pieces):
            for w in model[x]:
                y = y @ w
        loss = loss + (y**2).sum()
    loss.backward()
    return loss.detach(), {x: [w.grad for w in model[x]] for x in range(pieces)}


class Toy:
    """This rank's virtual stages, and what happened to them."""

    def __init__(self, mesh, schedule, frozen=(), shift=0.0):
        self.mesh, self.schedule, self.shift = mesh, schedule, shift
        pp, stage = mesh.layout.pp, mesh.place.pp
        mine = range(stage, pp * schedule.virtual, pp)
        self.model = {x: matrices(x, x not in frozen) for x in mine}
        self.loss = torch.zeros((), dtype=torch.float64)
        self.backwards, self.outputs, self.alive, self.inputs = [], [], [], []

    def forward(self, k, chunk, x):
        self.alive.append(sum(not output.expired() for output in self.outputs))
        number = chunk * self.mesh.layout.pp + self.mesh.place.pp
        y = start(k) + self.shift if x is None else x
        if x is not None:
            self.inputs.append(StorageWeakRef(x.untyped_storage()))
        for w in self.model[number]:
            y = y @ w
        if number == self.mesh.layout.pp * self.schedule.virtual - 1:
            y = (y**2).sum()
            self.loss += y.detach()
        else:
            self.outputs.append(StorageWeakRef(y.untyped_storage()))
        return y

    def backward(self, k, chunk, y, gradient):
        self.backwards.append((k, chunk))
        torch.autograd.backward(y, gradient)

    def run(self, **options):
        backward = None if self.schedule.forward_only else self.backward
        options = {"shape": SHAPE, "dtype": torch.float64} | options
        with Recorder() as self.seen:
            carry_out(self.schedule, self.mesh, self.forward, backward, **options)
        return self

    def compared(self, frozen=()):
        """The rows of a case: what this rank has, and what one process has."""
        pieces = self.mesh.layout.pp * self.schedule.virtual
        loss, grads = serial(pieces, self.schedule.m, frozen)
        if pieces - 1 in self.model:
            yield "loss", self.loss, loss, 1e-9
        for x, own in self.model.items():
            for i, w in enumerate(own if not self.schedule.forward_only else ()):
                found = "nothing" if w.grad is None else w.grad
                yield f"{x}, {i}", found, "nothing" if x in frozen else grads[x][i], 1e-9


def of_kind(kind, n):
    """Schedules of n stages with fewer, as many and more micro-batches, as far as there are."""
    if kind is Interleaved:
        return [Interleaved(pp=n, m=n * i, virtual=v) for i in (1, 2) for v in (2, 3)]
    return [kind(pp=n, m=m) for m in (1, n, 2 * n + 1)]


# The cases, as the ranks run them.


def gpipe(me, n):
    for schedule in of_kind(GPipe, n):
        yield from Toy(mesh_of(pp=n), schedule).run().compared()


def one_f_one_b(me, n):
    for schedule in of_kind(OneFOneB, n):
        yield from Toy(mesh_of(pp=n), schedule).run().compared()


def interleaved(me, n):
    for schedule in of_kind(Interleaved, n) if n > 1 else ():
        yield from Toy(mesh_of(pp=n), schedule).run().compared()


def each_backward_once_in_order(me, n):
    schedule = OneFOneB(pp=n, m=5)
    toy = Toy(mesh_of(pp=n), schedule).run()
    yield "backward passes", toy.backwards, [(k, 0) for k in range(5)]


def forward_only(me, n):
    """No backward pass, the same loss; inputs and outputs are gone when it ends."""
    schedules = [kind(pp=n, m=5, forward_only=True) for kind in (GPipe, OneFOneB)]
    if n > 1:
        schedules.append(Interleaved(pp=n, m=n, virtual=2, forward_only=True))
    for schedule in schedules:
        with torch.no_grad():
            toy = Toy(mesh_of(pp=n), schedule).run()
        yield from toy.compared()
        yield "backward passes", toy.backwards, []
        yield "kept", [x.expired() for x in toy.inputs + toy.outputs].count(False), 0
        sent = [call.operation for call in toy.seen.calls].count("send")
        messages = sum(x < n * schedule.virtual - 1 for x in toy.model) * schedule.m
        yield "messages sent", sent, messages


def frozen_first_stages(me, n):
    """Where nothing before needs a gradient, none is computed; one that comes is received."""
    for count in {1, n - 1} if n > 1 else ():
        frozen = tuple(range(count))
        for kind in (GPipe, OneFOneB):
            toy = Toy(mesh_of(pp=n), kind(pp=n, m=n + 1), frozen).run()
            yield from toy.compared(frozen)
            # behind the first stage an input needs a gradient, since carry_out asks for it
            yield "backward passes", len(toy.backwards), 0 if me == 0 else n + 1


def frozen_middle_stage(me, n):
    frozen = (n // 2,)
    toy = Toy(mesh_of(pp=n), OneFOneB(pp=n, m=3), frozen if n > 2 else ()).run()
    yield from toy.compared(frozen if n > 2 else ())


def outputs_are_freed(me, n):
    """Of the outputs at most one is being sent and one just made; in the end all are gone."""
    for kind in (GPipe, OneFOneB, Interleaved) if n > 1 else ():
        for schedule in of_kind(kind, n):
            toy = Toy(mesh_of(pp=n), schedule).run()
            yield f"alive in {schedule}", max(toy.alive) <= 1, True
            yield f"left of {schedule}", [x.expired() for x in toy.outputs].count(False), 0
            yield f"inputs of {schedule}", [x.expired() for x in toy.inputs].count(False), 0


def slices(me, n):
    """With t ranks, 1/t of a message is sent and gathered; the whole where t does not divide it."""
    for t in {2, n} if n > 1 else ():
        pp, mesh = n // t, mesh_of(tp=t, pp=n // t)
        for on in (True, False):
            toy = Toy(mesh, OneFOneB(pp=pp, m=3)).run(slices=on)
            yield from toy.compared()
            yield from _sent(toy, 48 // t if on else 48, gathers=on)


def _sent(toy, elements, gathers):
    """Each message is so long; with slices one all-gather in the tensor group puts it together."""
    stage, pp, m = toy.mesh.place.pp, toy.mesh.layout.pp, toy.schedule.m
    links = (stage > 0) + (stage < pp - 1)  # out goes an activation, or a gradient
    calls = [(call.operation, call.group, call.elements) for call in toy.seen.calls]
    yield "sends", calls.count(("send", "pp", elements)), links * m
    yield "receives", calls.count(("receive", "pp", elements)), links * m
    yield "gathers", calls.count(("all_gather", "tp", elements)), links * m * gathers
    yield "calls", len(calls), links * m * (2 + gathers)


def messages_that_differ(me, n):
    """Without slices each tensor rank's message is its own, as sequence parallelism needs it."""
    if n < 4:
        return
    mesh = mesh_of(tp=2, pp=2)
    toy = Toy(mesh, GPipe(pp=2, m=2), shift=float(mesh.place.tp)).run(slices=False)
    if mesh.place.pp == 1:
        expected = 0
        for k in range(2):
            y = start(k) + mesh.place.tp
            for w in matrices(0) + matrices(1):
                y = y @ w
            expected += (y**2).sum().detach()
        yield "loss", toy.loss, expected, 1e-9


def an_odd_length_is_sent_whole(me, n):
    """Where t does not divide a message, all of it is sent by each rank."""
    if n < 4:
        return
    mesh = mesh_of(tp=2, pp=2)
    got = []

    def forward(k, chunk, x):
        got.append(x)
        return torch.full((3, 5), 7.0 + k) if x is None else x.sum()

    with Recorder() as seen:
        schedule = GPipe(pp=2, m=1, forward_only=True)
        carry_out(schedule, mesh, forward, shape=(3, 5), dtype=torch.float32)
    if mesh.place.pp == 1:
        yield "received", got[0], torch.full((3, 5), 7.0)
    else:
        yield "sent", [(call.operation, call.elements) for call in seen.calls], [("send", 15)]


CASES = [
    gpipe, one_f_one_b, interleaved, each_backward_once_in_order, forward_only,
    frozen_first_stages, frozen_middle_stage, outputs_are_freed, slices, messages_that_differ,
    an_odd_length_is_sent_whole,
]  # fmt: skip


def program(cases):
    return complaints(cases)


@pytest.fixture(scope="module")
def outcomes(request):
    return Outcomes(request, program)


@pytest.mark.parametrize("n", (1, 2, 4))
@pytest.mark.parametrize("case", CASES)
def test_equals_one_process(case, n, outcomes):
    if words := outcomes(case, n):
        pytest.fail("\n".join(words), pytrace=False)
