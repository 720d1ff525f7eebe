"""Carries out the instructions of a schedule: the only place where pipeline stages talk.

It knows no model: forward and backward are functions. It keeps what lies between them - inputs
until their backward pass, outputs until they are sent, messages until they are used - and nothing
longer. Of an output only its place in autograd's graph outlives the sending [S13].
"""

import torch
from torch.autograd.graph import get_gradient_edge

from minimtnlg.device import device
from minimtnlg.parallel.collectives import all_gather, exchange, rank, size
from minimtnlg.parallel.schedules import Backward, Exchange, Forward, Free, needed, produced


def carry_out(schedule, mesh, forward, backward=None, *, shape=(), dtype=None, slices=True):
    """Carry out this rank's instructions of `schedule`, first to last.

    schedule      a Schedule of as many stages as the mesh has
    forward       forward(micro_batch, chunk, x) -> y. x is None where the model begins, else what
                  the virtual stage before returned; y goes on to the next. At the end of the model
                  y is a scalar, from which backward starts
    backward      backward(micro_batch, chunk, y, gradient) calls torch.autograd.backward(y,
                  gradient); None for a forward-only schedule
    shape, dtype  of every message
    slices        with tensor parallelism, send 1/t of a message and gather it over there
                  [S12]; not for ranks whose messages differ (sequence parallelism)
    """
    links = _Links(mesh, shape, dtype, slices)
    at = (mesh.place.pp, mesh.layout.pp, schedule.virtual)
    kept = {}  # (micro-batch, chunk): input, and the place of the output in autograd's graph

    def run_forward(op):
        x = links.take(needed(op, *at))
        if backward and x is not None:
            x.requires_grad_()
        y = forward(op.micro_batch, op.chunk, x)
        if backward:
            kept[op.micro_batch, op.chunk] = x, get_gradient_edge(y) if y.requires_grad else None
        links.post(produced(op, *at), y)

    def run_backward(op):
        x, y = kept.pop((op.micro_batch, op.chunk))
        gradient = links.take(needed(op, *at))
        if y is not None:  # else the model begins here, and all that is here is frozen
            backward(op.micro_batch, op.chunk, y, gradient)
        if x is not None:
            links.post(produced(op, *at), x.grad)

    carry = {
        Forward: run_forward,
        Backward: run_backward,
        Exchange: links.exchange,
        Free: links.free,
    }
    for op in schedule[mesh.place.pp]:
        carry[type(op)](op)


class _Links:
    """The messages of one rank: those to be sent, those on their way, those that are there."""

    def __init__(self, mesh, shape, dtype, slices):
        self.mesh, self.shape, self.dtype = mesh, torch.Size(shape), dtype
        self.slices = mesh.tp if slices and self.shape.numel() % mesh.layout.tp == 0 else None
        self.out, self.coming, self.works = {}, {}, {}

    def post(self, message, x):
        """Hand in a tensor for the exchange that will send it; nothing where message is None."""
        if message:
            pieces = x.detach().flatten().chunk(size(self.slices))
            self.out[message] = pieces[rank(self.slices)]

    def exchange(self, op):
        """Start the transfers of an Exchange."""
        length, stages = self.shape.numel() // size(self.slices), self.mesh.layout.pp
        for message in op.receives:
            self.coming[message] = torch.empty(length, dtype=self.dtype, device=device())
        works = exchange(
            [(self.out[message], self.mesh.peer(message.target % stages)) for message in op.sends],
            [(self.coming[m], self.mesh.peer(m.source % stages)) for m in op.receives],
            self.mesh.pp,
        )
        self.works |= dict.fromkeys((*op.sends, *op.receives), works)

    def take(self, message):
        """Wait for a message and return it, whole; None where message is None."""
        if message:
            self._wait(message)
            return all_gather(self.coming.pop(message), self.slices).view(self.shape)

    def free(self, op):
        """Wait until the messages of a Free are sent, then let them go."""
        for message in op.sends:
            self._wait(message)
            del self.out[message]

    def _wait(self, message):
        works = self.works.pop(message)  # one list for all messages of an exchange
        while works:  # each is waited for once: gloo would wait a second time for another message
            works.pop().wait()
