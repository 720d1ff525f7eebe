"""ZeRO: the replicas of data parallelism stop holding the same things [S15].

- Stage 1: each of n ranks updates 1/n of the weights, so it has 1/n of the optimizer's state. A
  reduce-scatter gives it the sum of its gradients, an all-gather tells the others its new weights.
- Stage 2: gradients too are summed and given away at once, in every backward pass.
- Stage 3: weights too. Each block is gathered before it computes, forward and backward, and freed.

Every parameter is cut by itself along its first dimension. So a shard is a box of the global
tensor, and the tied embedding is cut alike on first and last stage. The last shards may be short or
empty. Nothing here knows the model or the optimizer: the optimizer steps whatever it is handed.
"""

import contextlib

import torch

from minimtnlg.errors import InputError
from minimtnlg.parallel import collectives
from minimtnlg.parallel.replicas import Bucket, Replicas


class Zero(Replicas):
    """Replicas of which each owns other weights.

    buckets  lists of the trained parameters, in the order in which backward ends with them
    group    the data group; None where there is one replica
    stage    1, 2 or 3
    modules  stage 3: modules[i] is what computes with the parameters of buckets[i]. It may contain
             modules that have buckets of their own

    owned[i] is this rank's shard of a parameter: a view of it, at stage 3 a tensor of its own.
    """

    cut = True

    def __init__(self, buckets, group, stage, modules=()):
        if stage not in (1, 2, 3):
            raise InputError(f"parallel.zero={stage!r}: the stages of ZeRO are 1, 2 and 3")
        self.stage, self._backward, self.freed = stage, False, stage == 3
        n, self._lane = collectives.size(group), collectives.rank(group)
        self._prepare([Bucket(parameters, n) for parameters in buckets], group)
        if stage == 1:  # the sums of the whole step; of these, this rank's lane becomes its own
            self._sums = [bucket.zeros(self.dtype) for bucket in self.buckets]
            self._received = [sums[self._lane : self._lane + 1] for sums in self._sums]
        else:  # the sums of a bucket are there while it fills and leaves
            self._sums = [None] * len(self.buckets)
            self._received = [bucket.zeros(self.dtype, lanes=1) for bucket in self.buckets]
        self.owned, self.gradients = [], []
        for b, bucket, i in self._each():
            shard = bucket.piece(bucket.parameters[i].detach(), i, self._lane)
            self.owned.append(shard.clone() if stage == 3 else shard)
            self.gradients.append(bucket.piece_in(self._received[b], i, shard))
        self._shard = dict(zip(self.parameters, self.owned, strict=True))
        self._whole = [True] * len(self.buckets)
        if stage == 3:
            self._free_all()
            for b, module in enumerate(modules):
                module.register_forward_pre_hook(lambda *_, b=b: self._gather(b))
                module.register_forward_hook(lambda _, __, y, b=b: self._after_forward(b, y))
        self._expect_all()

    def zero(self):
        self._expect_all()
        for gradients in self._sums if self.stage == 1 else self._received:
            gradients.zero_()
        for parameter in self.parameters:
            parameter.grad = None
        if self.stage > 1:  # the step before may have been interrupted
            self._sums = [None] * len(self.buckets)
        if self.stage == 3:
            self._backward = False
            self._free_all()

    def begin(self, last):
        self.sending = last or self.stage > 1

    def accumulate(self):
        super().accumulate()
        if self.stage > 1:  # nothing whole outlives a backward pass
            super().finish()
            self._expect_all()
        if self.stage == 3:
            self._backward = False
            self._free_all()

    def finish(self):
        if self.stage == 1:  # else accumulate has left nothing to send
            super().finish()

    @torch.no_grad()
    def publish(self):
        if self.stage < 3:
            for b in range(len(self.buckets)):
                self._whole[b] = False
                self._gather(b)

    def shard_of(self, whole, i):
        b, place = self._place[self.parameters[i]]
        return self.buckets[b].piece(whole, place, self._lane)

    @contextlib.contextmanager
    def gathered(self):
        """In the block all weights are whole; what is written to them there is lost at stage 3."""
        for b in range(len(self.buckets)):
            self._gather(b)
        yield
        if self.stage == 3:
            self._free_all()

    def _take(self, parameter):
        b, _ = self._place[parameter]
        if self._sums[b] is None and parameter.grad is not None:
            self._sums[b] = self.buckets[b].zeros(self.dtype)
        super()._take(parameter)

    def _in_place(self, parameter):
        return False

    def _leave(self, b):
        while self._under_way:  # at most one bucket beside the one that fills
            self._land(*self._under_way.popleft())
        if self._sums[b] is None:  # no gradient on this rank, but perhaps on others
            self._sums[b] = self.buckets[b].zeros(self.dtype)
        part, work = collectives.reduce_scatter(self._sums[b], self.group, wait=False)
        self._under_way.append((b, part, work))
        if self.stage == 3:
            self._free(b)

    def _land(self, b, part, work):
        work.wait()
        if self.stage == 1:
            self._received[b].copy_(part)
        else:
            self._received[b] += part
            self._sums[b] = None

    @torch.no_grad()
    def _gather(self, b):
        """Make the weights of a bucket whole: one all-gather, unless they are."""
        if self._whole[b]:
            return
        bucket = self.buckets[b]
        lane = bucket.zeros(bucket.parameters[0].dtype, lanes=1)
        for i, parameter in enumerate(bucket.parameters):
            shard = self._shard[parameter]
            bucket.piece_in(lane, i, shard).copy_(shard)
        flat = collectives.all_gather(lane, self.group)
        for i, parameter in enumerate(bucket.parameters):
            parameter.untyped_storage().resize_(parameter.numel() * parameter.element_size())
            # .data: what autograd has kept of the weights is the same storage, and stays valid
            parameter.data.copy_(bucket.whole_in(flat, i))
        self._whole[b] = True

    def _free(self, b):
        """Give the memory of whole weights back; their storages stay, empty."""
        for parameter in self.buckets[b].parameters:
            parameter.untyped_storage().resize_(0)
        self._whole[b] = False

    def _free_all(self):
        for b in range(len(self.buckets)):
            self._free(b)

    def _after_forward(self, b, y):
        """Free the weights until backward comes to them; recomputation is part of backward."""
        if y.requires_grad:
            y.register_hook(lambda _: self._begin_backward(b))
        if not self._backward:
            self._free(b)

    def _begin_backward(self, b):
        # The blocks before this one are done. What lacks a gradient leaves now, as on ranks where
        # it has one: all ranks make the calls of a group in one order.
        while self._backward and self.sending and self._to_leave and self._to_leave[0] < b:
            self._leave(self._to_leave.popleft())
        self._backward = True
        self._gather(b)


def bytes_held(parameters, n, stage, gradient=4, optimizer=12):
    """Bytes of weights (2), gradients and optimizer state that each of n ranks holds [S15, fig. 1].

    We keep gradients in fp32; S15's 120, 31.4, 16.6 and 1.9 GB for 7.5 B parameters on 64 ranks
    are those of gradient=2. optimizer: fp32 weights and Adam's two moments. Weights and gradients
    that stages 2 and 3 hold for the one block at work are not counted.
    """
    kept = (2 / n if stage == 3 else 2, gradient / n if stage >= 2 else gradient)
    return parameters * (sum(kept) + (optimizer / n if stage >= 1 else optimizer))


def elements_sent(parameters, n, stage, micro_batches=1):
    """Elements that each rank sends in a step on a ring of n ranks [S15].

    2, 2, 3 times the parameters at stages 1, 2, 3, times (n-1)/n, for one micro-batch; stage 0 is
    stage 1's. More micro-batches repeat the sum of the gradients at stage 2, all at stage 3.
    """
    times = {0: 2, 1: 2, 2: micro_batches + 1, 3: 3 * micro_batches}[stage]
    return times * parameters * (n - 1) / n
