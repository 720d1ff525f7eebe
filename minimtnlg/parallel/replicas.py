"""Data parallelism: each replica has its own micro-batches; gradients are summed over the replicas.

- Gradients of all micro-batches are first added up here, in fp32 whatever the weights' format.
- Only the last backward pass of a step sends: accumulation costs no communication.
- Sums travel in buckets. A bucket leaves as soon as its last gradient is there, while backward
  still computes the others [S3, sec. 2.1.2].
- Buckets leave in one order, the same on every rank, whatever order gradients come in: two ranks
  that called a group in different orders would add up different buckets.

The step divides the loss by the tokens of the whole global batch, so replicas only add.
"""

import contextlib
from collections import deque
from itertools import accumulate

import torch
import torch.nn.functional as F

from minimtnlg.device import fp32
from minimtnlg.parallel import collectives

BUCKET_BYTES = 64 * 2**20  # of fp32 sums


def in_buckets(parameters, size=BUCKET_BYTES):
    """Lists of the trained parameters, in the order of backward: the last layer's come first.

    The fp32 sums of each list take `size` bytes or a little more, a quarter of all if that is less:
    a small model too has something left to compute while a bucket is on its way.
    """
    trained = [p for p in parameters if p.requires_grad]
    size = min(size, sum(4 * p.numel() for p in trained) / 4)
    buckets, filled = [], size
    for parameter in reversed(trained):
        if filled >= size:
            buckets.append([])
            filled = 0
        buckets[-1].append(parameter)
        filled += 4 * parameter.numel()
    return buckets


class Bucket:
    """The places of some parameters in a flat tensor of [lanes, elements of a lane].

    With one lane they lie one after the other. With more, each parameter is cut along its first
    dimension into as many pieces, and lane i has everybody's i-th piece; a piece that is short or
    empty is filled up with zeros. A reduce-scatter then gives each rank its pieces (zero.py).
    """

    def __init__(self, parameters, lanes=1):
        self.parameters, self.lanes = parameters, lanes
        self.rows = [-(-len(p) // lanes) for p in parameters]  # of a piece
        lengths = [rows * p[:1].numel() for rows, p in zip(self.rows, parameters, strict=True)]
        self.ends = list(accumulate(lengths, initial=0))
        self.missing = set()  # parameters whose last gradient of the step is still to come

    def zeros(self, dtype, lanes=None):
        """A flat tensor for the parameters, of one lane if lanes=1."""
        device = self.parameters[0].device
        return torch.zeros(lanes or self.lanes, self.ends[-1], dtype=dtype, device=device)

    def piece(self, x, i, lane):
        """Piece number `lane` of x, which is shaped like parameter i: some of its rows, a view."""
        return x[lane * self.rows[i] : (lane + 1) * self.rows[i]]

    def add(self, flat, i, x):
        """Add x, which is shaped like parameter i, to all its pieces in `flat`."""
        place = flat[:, self.ends[i] : self.ends[i + 1]]
        x = x.flatten()
        if short := place.numel() - x.numel():
            x = F.pad(x, (0, short))  # a copy, which most don't need
        place += x.view(place.shape)

    def piece_in(self, lane, i, like):
        """The piece of parameter i in the one lane [1, elements], shaped like `like`: a view."""
        return lane[0, self.ends[i] : self.ends[i] + like.numel()].view(like.shape)

    def whole_in(self, flat, i):
        """Parameter i from all its pieces in `flat`; a view where there is one lane."""
        p = self.parameters[i]
        return flat[:, self.ends[i] : self.ends[i + 1]].flatten()[: p.numel()].view(p.shape)


class Replicas:
    """Sums the gradients of a step over its micro-batches and over the data group.

    buckets  lists of the trained parameters, in the order in which they leave (see in_buckets)
    group    the data group; None where there is one replica

    A step: zero(); then for each micro-batch begin(last), backward, accumulate(); then finish().
    Now gradients[i] is the gradient of owned[i], what this rank updates of parameters[i]: here all
    of it, the same on each replica. They are in the order of use, last bucket first. A parameter
    that got no gradient has a gradient of zero. After the update, publish().
    """

    cut = False  # whether each rank of the data group owns other weights than the others
    freed = False  # whether between steps it has only those that it owns

    def __init__(self, buckets, group=None):
        self._prepare([Bucket(parameters) for parameters in buckets], group)
        self._sums = [bucket.zeros(self.dtype) for bucket in self.buckets]
        self.owned = self.parameters
        self.gradients = [bucket.whole_in(self._sums[b], i) for b, bucket, i in self._each()]
        self._views = dict(zip(self.owned, self.gradients, strict=True))
        self._expect_all()

    def _prepare(self, buckets, group):
        self.buckets, self.group = buckets, group
        self.dtype = fp32(buckets[0].parameters[0].dtype) if buckets else torch.float32
        # sending: whether the backward pass at work completes the sums; None between the passes
        self.sending, self._under_way = None, deque()
        self._place = {bucket.parameters[i]: (b, i) for b, bucket, i in self._each()}
        self.parameters = list(self._place)
        for parameter in self.parameters:
            parameter.register_post_accumulate_grad_hook(self._arrived)

    def _each(self):
        """(number of its bucket, the bucket, place in it) of each parameter, last to first."""
        for b, bucket in reversed(list(enumerate(self.buckets))):
            for i in reversed(range(len(bucket.parameters))):
                yield b, bucket, i

    def zero(self):
        """Start a step: all sums are zero, and every bucket is still to leave."""
        self._expect_all()
        for parameter, gradient in zip(self.owned, self.gradients, strict=True):
            gradient.zero_()
            # Where the weights have the format of the sums, autograd adds into the bucket itself.
            parameter.grad = gradient if parameter.dtype == self.dtype else None

    def begin(self, last):
        """Before a backward pass; last: whether it is the last of the step for its parameters."""
        self.sending = last

    def accumulate(self):
        """After a backward pass: gradients that are not in the sums yet move there."""
        for parameter in self.parameters:
            self._take(parameter)
        self.sending = None

    def finish(self):
        """Send what has not left yet, wait until all sums are complete."""
        while self._to_leave:
            self._leave(self._to_leave.popleft())
        while self._under_way:
            self._land(*self._under_way.popleft())

    def publish(self):
        """After the update, tell the others; every replica has made the same update."""

    def shard_of(self, whole, i):
        """The part of `whole`, shaped like parameters[i], that belongs to owned[i]."""
        return whole

    def gathered(self):
        """A block in which all weights are whole, as they always are here."""
        return contextlib.nullcontext()

    def _expect_all(self):
        self.sending = None
        while self._under_way:  # of a step that was interrupted; it still writes into the sums
            self._under_way.popleft()[-1].wait()
        self._to_leave = deque(range(len(self.buckets)))
        for bucket in self.buckets:
            bucket.missing = set(bucket.parameters)

    @torch.no_grad()
    def _take(self, parameter):
        b, i = self._place[parameter]
        if parameter.grad is not None and not self._in_place(parameter):
            self.buckets[b].add(self._sums[b], i, parameter.grad)
            parameter.grad = None

    def _in_place(self, parameter):
        """Whether autograd has added this gradient into its bucket."""
        return parameter.grad is self._views[parameter]

    def _arrived(self, parameter):
        """Called by autograd when a parameter's gradient in this backward pass is complete."""
        if self.sending is None:  # somebody else's backward pass, outside of a step
            return
        self._take(parameter)
        if not self.sending:
            return
        self.buckets[self._place[parameter][0]].missing.discard(parameter)
        while self._to_leave and not self.buckets[self._to_leave[0]].missing:
            self._leave(self._to_leave.popleft())

    def _leave(self, b):
        _, work = collectives.all_reduce(self._sums[b], self.group, wait=False)
        self._under_way.append((b, work))

    def _land(self, b, work):
        work.wait()
