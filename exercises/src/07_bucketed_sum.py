# ---
# mark: 3
# minutes: 45
# help: empty
# needs: [rank, micro-batch, number format, collective, bucket, gradient hook, overlap]
# draws:
#   GIVES: [sum, mean]
# ---

# %% [markdown]
# # The bucket machine, for real use
#
# Write the class that sums the gradients of a step over all micro-batches, and takes the {{GIVES}} of
# that over all ranks. A program uses it like this:
#
# ```python
# sums = BucketedSum(buckets, all_reduce)
# for each step:
#     for each micro-batch:
#         sums.begin(last)  # last: whether it is the last micro-batch of the step
#         loss.backward()
#     gradients = sums.finish()  # one for each parameter, in the order of the buckets
# ```
#
# `buckets` are lists of parameters. `all_reduce(flat)` starts the sum of `flat` over the ranks and
# returns a function that waits for it. Until that function was called, `flat` may be neither read
# nor written; afterwards it is the sum.
#
# - A bucket leaves in the last backward pass, as soon as all its gradients are there and the
#   buckets before it have left. No rank waits before `finish`. Other backward passes send nothing.
# - Buckets leave in their order on every rank, in whatever order gradients come. Some may not come
#   at all, on one rank or on all: then they count as zero.
# - Your class, not its user, clears `p.grad`: in every pass, so that no gradient counts twice. A
#   gradient that came in an earlier micro-batch and not in the last one counts as well. Its bucket
#   is not full in the last pass, so it leaves in `finish`.
# - What `finish` returns has to stay valid until the next `begin`, no longer.
# - Sums are fp32 where parameters have 16 bits, in the micro-batches and on the wire, and so are
#   the gradients that are returned. In float64 they stay float64: `torch.promote_types(p.dtype,
#   torch.float32)`.
#
# **Target:** {{AS_WHAT}}; one all-reduce for each bucket and step, whose bytes are those of the sums;
# the first leaves while backward still computes.

# %% tags=["target"]
AS_WHAT = {
    "sum": "gradients are those of one process that adds up all losses",
    "mean": "gradients are those of one process that takes the mean of the losses of all ranks, as "
    "PyTorch's DDP does",
}[GIVES]

# %%
from functools import partial

import torch
import torch.distributed as dist

from minimtnlg import run


# %% tags=["stub"]
class BucketedSum:
    """Sums gradients over micro-batches and ranks, in buckets that leave during backward."""

    def __init__(self, buckets, all_reduce):
        raise NotImplementedError("register a hook on each parameter, then begin() and finish()")

    def begin(self, last):
        """Before a backward pass; last: whether it is the last of the step."""

    def finish(self):
        """After the last backward pass: [gradient of each parameter, shaped like it]."""


# %% [markdown] tags=["hint"]
# Keep a sum for each parameter, in the right format, from the start of a step to its end. What
# should the hook do with a gradient that has come in the *first* micro-batch? And what must become
# of `p.grad`, so that it is not counted again in the next?

# %% [markdown] tags=["hint"]
# The hook adds `p.grad` to the sum and sets `p.grad = None`, in every pass. In the last pass it
# also counts down how many gradients its bucket still misses. Then *while* the next bucket in order
# misses nothing, that bucket leaves; this may be another one than the hook's own. `finish` lets the
# rest leave, waits, and prepares the next step.

# %% [markdown] tags=["hint"]
# ```python
# def arrived(self, b, p):  # partial(self.arrived, b) is the hook of the parameters of bucket b
#     self.sums[p] += p.grad
#     p.grad = None
#     if self.sending:
#         self.missing[b] -= 1
#         while some_have_not_left and self.missing[len(self.under_way)] == 0:
#             self.leave()
# ```
# `leave` takes bucket `len(self.under_way)`: `flat = torch.cat([self.sums[p].flatten() for p in
# bucket])`, and appends `(flat, self.all_reduce(flat))`. `finish`: leave until all have left, call
# each wait, cut `flat` with `split`, then set sums, `missing` and `under_way` anew. (And the {{GIVES}}
# over the ranks? An all-reduce adds.)

# %% [markdown] tags=["oral"]
# **Q.** Your hook looks at a bucket that is not its own. When, and why must it?
#
# **A.** Buckets leave in one order. A bucket that filled early waits for those before it; the hook
# that fills the last of those lets several leave.
#
# **Q.** A parameter got its gradient in the first micro-batch and none in the last. Why does its
# bucket leave in `finish` only, and what would go wrong if it never left?
#
# **A.** Nobody can know in the last pass that the gradient will not come. If the bucket did not leave,
# other ranks would wait for the call, or add it to the wrong one.


# %% tags=["solution"]
class BucketedSum:
    def __init__(self, buckets, all_reduce):
        self.buckets, self.all_reduce = buckets, all_reduce
        for b, bucket in enumerate(buckets):
            for p in bucket:
                p.register_post_accumulate_grad_hook(partial(self.arrived, b))
        self.restart()

    def restart(self):
        self.sums = {
            p: torch.zeros(p.shape, dtype=torch.promote_types(p.dtype, torch.float32))
            for bucket in self.buckets
            for p in bucket
        }
        self.missing = [len(bucket) for bucket in self.buckets]
        self.under_way, self.sending = [], False

    def begin(self, last):
        self.sending = last

    def arrived(self, b, p):
        self.sums[p] += p.grad
        p.grad = None
        if self.sending:
            self.missing[b] -= 1
            while self.waiting() and self.missing[len(self.under_way)] == 0:
                self.leave()

    def waiting(self):
        return len(self.under_way) < len(self.buckets)

    def leave(self):
        bucket = self.buckets[len(self.under_way)]
        flat = torch.cat([self.sums[p].flatten() for p in bucket])
        self.under_way.append((flat, self.all_reduce(flat)))

    def finish(self):
        while self.waiting():
            self.leave()
        gradients = []
        for bucket, (flat, wait) in zip(self.buckets, self.under_way, strict=True):
            wait()
            flat = flat / {"sum": 1, "mean": dist.get_world_size()}["{{GIVES}}"]
            pieces = flat.split([p.numel() for p in bucket])
            gradients += [piece.view(p.shape) for p, piece in zip(bucket, pieces, strict=True)]
        self.restart()
        return gradients


# %% tags=["check"]
import re
from functools import cache

from minimtnlg.course.check import Feedback, expect
from minimtnlg.parallel.collectives import Recorder
from minimtnlg.ranks import RankError

_PATIENCE = 10  # seconds; a job takes a fraction of one
_SHAPES = [[(2, 3), (4,)], [(5,)], [(3, 2), (1,), (2,)]]  # buckets of 10, 5 and 9 elements
_ALIKE = [[(4,)], [(2, 2)], [(1,), (3,)]]  # buckets of 4 elements: a mix-up raises no error


def _number(rank, k, i, shape):
    """A whole-numbered gradient that tells its rank, micro-batch and parameter."""
    size = int(torch.tensor(shape).prod())
    x = torch.arange(1, size + 1, dtype=torch.float64).view(shape)
    return x * 1000**rank * (k + 1) + 10 * i


def _pass(rank, k, shapes, order=None):
    """One backward pass: [(number of the parameter, its gradient)], in the order of arrival."""
    flat = [shape for bucket in shapes for shape in bucket]
    return [(i, _number(rank, k, i, flat[i])) for i in order or range(len(flat))]


# Each case: rank -> steps; a step is a list of passes, one for each micro-batch.


def _one(rank):
    return [[_pass(rank, 0, _SHAPES)]]


def _three(rank):
    return [[_pass(rank, k, _SHAPES) for k in range(3)]]


def _two_steps(rank):
    return [[_pass(rank, k, _SHAPES) for k in (0, 1)], [_pass(rank, k, _SHAPES) for k in (4, 2)]]


def _shuffled(rank):
    orders = [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]]
    return [[_pass(rank, k, _ALIKE, orders[(rank + k) % 3]) for k in range(2)]]


def _without(rank):
    """Parameter 1 comes nowhere; 0 only on rank 1; bucket 1 only on rank 0, and not in the end."""
    first, last = ([2, 3], [3]) if rank == 0 else ([3], [0, 3])
    return [[_pass(rank, 0, _ALIKE, first), _pass(rank, 1, _ALIKE, last)]]


def _sixteen_bits(rank):
    """256 first, then ones: in bfloat16 the sum stays at 256."""
    flat = [torch.ones(shape, dtype=torch.float64) for bucket in _SHAPES for shape in bucket]
    return [[[(i, x * (256 if k == 0 else 1)) for i, x in enumerate(flat)] for k in range(5)]]


class _Wire:
    """The all_reduce that is handed to the student's class; it keeps what is sent till the wait."""

    def __init__(self, log):
        self.log = log

    def __call__(self, flat):
        self.log.calls.append((self.log.phase, self.log.arrived, flat.numel(), flat.element_size()))
        with torch.no_grad():
            moving = flat.clone()
            work = dist.all_reduce(moving, async_op=True)
            flat.fill_(torch.nan)

        def wait():
            self.log.waits.append(self.log.phase)
            work.wait()
            with torch.no_grad():
                flat.copy_(moving)

        return wait


class _Log:
    def __init__(self):
        self.phase, self.arrived, self.calls, self.waits = "before the step", 0, [], []

    def count(self, parameter):
        self.arrived += 1


def _program(student, case, shapes, dtype):
    """What one rank reports: (gradients of each step, its log, the calls that the Recorder saw)."""
    log = _Log()
    buckets = [[torch.zeros(s, dtype=dtype, requires_grad=True) for s in b] for b in shapes]
    parameters = [p for bucket in buckets for p in bucket]
    for p in parameters:
        p.register_post_accumulate_grad_hook(log.count)
    found = []
    with Recorder() as seen:
        sums = student(buckets, _Wire(log))
        for passes in case(dist.get_rank()):
            for k, gradients in enumerate(passes):
                last = k == len(passes) - 1
                log.phase, log.arrived = "last pass" if last else "earlier pass", 0
                sums.begin(last)
                loss = 0
                for i, gradient in reversed(gradients):  # backward meets the last term first
                    loss = loss + (parameters[i] * gradient.to(dtype)).sum()
                loss.backward()
            log.phase = "finish"
            found.append(_copies(sums.finish()))
    return found, log, [(call.operation, call.bytes) for call in seen.calls]


def _copies(result):
    is_list = isinstance(result, list | tuple)
    return [x.detach().clone() if isinstance(x, torch.Tensor) else x
            for x in result] if is_list else result  # fmt: skip


@cache  # several checks look at one job, and a deadlock is waited for once
def _job(student, n, case, shapes_are_alike, dtype):
    shapes = _ALIKE if shapes_are_alike else _SHAPES
    try:
        return run(_program, n, student, case, shapes, dtype, timeout=_PATIENCE), None
    except RankError as error:
        return None, error


def _said(error, what):
    """A job that failed, in words."""
    if error.type == "NotImplementedError":
        raise NotImplementedError(error.message)
    if error.type != "TimeoutError":
        frames = re.findall(r"line (\d+), in (\S+)\n *(.+)", error.traceback)
        theirs = [f for f in frames if f[1] not in ("_program", "__call__", "wait", "_network")]
        place = "line {}, in {}: {}".format(*theirs[-1]) if theirs else "the calls did not match"
        raise Feedback(what, "every rank returns", str(error).splitlines()[0], place)
    places = [line for line in str(error).splitlines() if line.startswith("rank")]
    raise Feedback(
        f"{what}: does every rank return?", "all of them, at once",
        f"a deadlock; after {_PATIENCE} s " + ", ".join(places),
        "every rank must send every bucket, also one whose gradients did not all come",
    )  # fmt: skip


def _reports(student, n, case, what, alike=False, dtype=torch.float64):
    reports, error = _job(student, n, case, alike, dtype)
    if error is not None:
        _said(error, what)
    return reports


def _check_gradients(student, n, case, what, look_at, alike=False, dtype=torch.float64):
    """Compare each gradient with the sum over all ranks and micro-batches."""
    shapes = [shape for bucket in (_ALIKE if alike else _SHAPES) for shape in bucket]
    wide = torch.promote_types(dtype, torch.float32)
    for rank, (found, *_) in enumerate(_reports(student, n, case, what, alike, dtype)):
        for step, gradients in enumerate(found):
            where = f"{what}: rank {rank}" + (f", step {step}" if len(found) > 1 else "")
            if not isinstance(gradients, list) or len(gradients) != len(shapes):
                got = f"{len(gradients)} of them" if isinstance(gradients, list) else gradients
                expected = f"a list of {len(shapes)} tensors, one for each parameter"
                raise Feedback(f"{where}: what finish returns", expected, got, "the statement")
            for i, shape in enumerate(shapes):
                right = torch.zeros(shape, dtype=torch.float64)
                for other in range(n):
                    for gradient in (g for pas in case(other)[step] for j, g in pas if j == i):
                        right += gradient
                right /= n if GIVES == "mean" else 1
                name = f"{where}, gradient of parameter {i}"
                if isinstance(gradients[i], torch.Tensor) and gradients[i].isnan().any():
                    look_at = "flat is neither read nor written between all_reduce and its wait"
                expect(gradients[i], right.to(wide), name, look_at)


def two_ranks(student):
    """Two ranks, one micro-batch: both get what the statement says"""
    look_at = f"is a bucket full when it leaves, whose is each piece, is it the {GIVES} over the ranks?"
    _check_gradients(student, 2, _one, "one micro-batch", look_at)


_STARTS = "in the last pass the hook of a bucket's last gradient starts its sum"
_TOO_EARLY = "gradients of earlier passes do not make a bucket full"


def _check_overlap(student, n, case, what, late=_STARTS, early=_TOO_EARLY, alike=False):
    """A bucket leaves with the gradient of the last pass that fills it or one before it."""
    shapes = _ALIKE if alike else _SHAPES
    number = iter(range(sum(map(len, shapes))))
    members = [[next(number) for _ in bucket] for bucket in shapes]  # numbers of the parameters
    for rank, (_, log, _) in enumerate(_reports(student, n, case, what, alike)):
        where = f"{what}: when the sums start on rank {rank}"
        phases = [phase for phase, *_ in log.calls]
        look_at = "one call for each bucket" if len(phases) != len(shapes) else late
        expect(phases, ["last pass"] * len(shapes), where, look_at)
        order = [parameter for parameter, _ in case(rank)[0][-1]]
        full = [max(order.index(i) for i in bucket) + 1 for bucket in members]
        for b, (_, arrived, *_) in enumerate(log.calls):
            end = max(full[: b + 1])
            come = f"{what}: gradients of the last pass that had come on rank {rank} at call {b}"
            expect(arrived, end, come, late if arrived > end else early)


def leaves_when_full(student):
    """Each bucket leaves when it is full, and nobody waits before finish"""
    _check_overlap(student, 2, _one, "one micro-batch")
    for rank, (_, log, _) in enumerate(_reports(student, 2, _one, "one micro-batch")):
        if "last pass" in log.waits:
            raise Feedback(
                f"the waits of rank {rank}", "all in finish", f"{log.waits.count('last pass')} of "
                f"{len(log.waits)} during backward", "a rank that waits in a hook does not compute",
            )  # fmt: skip


def accumulation_is_silent(student):
    """Three micro-batches: each bucket leaves once, when it is full in the last pass"""
    for rank, (_, log, recorded) in enumerate(_reports(student, 2, _three, "three micro-batches")):
        look_at = "only the pass that begins with last=True sends"
        early = sum(phase == "earlier pass" for phase, *_ in log.calls)
        expect(early, 0, f"all-reduces of rank {rank} before the last pass", look_at)
        wanted = [("all_reduce", 8 * elements) for elements in (10, 5, 9)]
        what = f"calls and bytes of rank {rank} in a step, by the Recorder"
        expect(recorded, wanted, what, "a bucket is one tensor; 10, 5 and 9 numbers of 8 bytes")
    _check_overlap(student, 2, _three, "three micro-batches")
    look_at = "each pass adds to the sum once; what becomes of p.grad afterwards?"
    _check_gradients(student, 2, _three, "three micro-batches", look_at)


# %% tags=["hidden"]
def any_order_of_arrival(student):
    """Gradients come in another order on each of three ranks"""
    what = "shuffled arrival, two micro-batches"
    late = "a hook may fill a bucket for which others have waited: do they leave, too?"
    early = "the lesson's section 'The same order everywhere'"
    _check_overlap(student, 3, _shuffled, what, late, early, alike=True)
    _check_gradients(student, 3, _shuffled, what, "", alike=True)


def gradients_that_do_not_come(student):
    """A parameter without gradient on one rank, and one without any"""
    look_at = "finish: what has not left, leaves then; what has not come is zero"
    _check_gradients(student, 2, _without, "missing gradients", look_at, alike=True)


def sixteen_bits(student):
    """bfloat16 parameters: sums in fp32, here and on the wire"""
    what, bf16 = "bfloat16, gradients 256, 1, 1, 1, 1 on each rank", torch.bfloat16
    look_at = "the lesson's section 'In which format?'"
    for rank, (_, log, _) in enumerate(_reports(student, 2, _sixteen_bits, what, dtype=bf16)):
        sizes = {size for *_, size in log.calls}
        expect(sizes, {4}, f"{what}: bytes of a number on the wire, rank {rank}", look_at)
    _check_gradients(student, 2, _sixteen_bits, what, look_at, dtype=bf16)


def two_steps(student):
    """A second step with the same object"""
    look_at = "finish prepares the next step: sums, missing gradients, calls under way"
    _check_gradients(student, 2, _two_steps, "two steps of two micro-batches", look_at)


def _network(student, masks, micro_batches):
    """A network of two matrices on one rank: its gradients by the student's class."""
    rank = dist.get_rank()
    A, b, C, rows = _weights(rank)
    sums = student([[C], [A, b]], _Wire(_Log()))
    N = sum(mask.sum() for mask in masks)
    pairs = zip(rows.chunk(micro_batches), masks[rank].chunk(micro_batches), strict=True)
    for k, (x, mask) in enumerate(pairs):
        sums.begin(k == micro_batches - 1)
        (_losses(A, b, C, x) * mask / N).sum().backward()
    return _copies(sums.finish())


def _weights(rank):
    draw = torch.Generator().manual_seed(7)
    shapes = ((5, 4), (4,), (4, 3))
    weights = [torch.randn(s, generator=draw, dtype=torch.float64) for s in shapes]
    draw.manual_seed(70 + rank)
    return *(w.requires_grad_() for w in weights), torch.randn(12, 5, generator=draw).double()


def _losses(A, b, C, x):
    return -((x @ A + b).tanh() @ C).log_softmax(-1)[:, 0]


def a_small_network(student):
    """A network under uneven masks: gradients equal those of one process that sees all rows"""
    counts = (12, 5, 0)
    masks = [(torch.arange(12) < count).double() for count in counts]
    A, b, C, _ = _weights(0)
    rows = torch.cat([_weights(rank)[-1] for rank in range(3)])
    mean = _losses(A, b, C, rows)[torch.cat(masks).bool()].mean()
    expected = torch.autograd.grad(mean / (3 if GIVES == "mean" else 1), [C, A, b])
    try:
        ranks = run(_network, 3, student, masks, 4, timeout=_PATIENCE)
    except RankError as error:
        _said(error, "a small network")
    for rank, gradients in enumerate(ranks):
        for name, got, wanted in zip("CAb", gradients, expected, strict=True):
            what = f"a small network: gradient of {name} on rank {rank} of 3"
            look_at = f"the loss is divided by the tokens of all ranks already; then the {GIVES}"
            expect(got, wanted, what, look_at)


# %% tags=["wrong"]
def sums_at_the_end(buckets, all_reduce):
    """Caught by: leaves_when_full. Everything is sent when backward is over."""
    class Answer(BucketedSum):
        def begin(self, last):
            self.sending = False

    return Answer(buckets, all_reduce)


def sends_in_every_pass(buckets, all_reduce):
    """Caught by: accumulation_is_silent. Each micro-batch sends its own gradients."""
    class Answer(BucketedSum):
        total = None

        def begin(self, last):
            self.collect()
            self.sending = True

        def collect(self):
            if self.under_way:
                new = super().finish()
                total = self.total or [torch.zeros_like(x) for x in new]
                self.total = [x + y for x, y in zip(total, new, strict=True)]

        def finish(self):
            self.collect()
            total, self.total = self.total, None
            return total

    return Answer(buckets, all_reduce)


def leaves_as_they_fill(buckets, all_reduce):
    """Caught by: any_order_of_arrival. The first bucket to be full is the first to leave."""
    class Answer(BucketedSum):
        def restart(self):
            super().restart()
            self.under_way = {}

        def arrived(self, b, p):
            self.sums[p] += p.grad
            p.grad = None
            self.missing[b] -= self.sending
            if self.missing[b] == 0:
                self.send(b)

        def send(self, b):
            flat = torch.cat([self.sums[p].flatten() for p in self.buckets[b]])
            self.under_way[b] = flat, self.all_reduce(flat)

        def finish(self):
            for b in range(len(self.buckets)):
                if b not in self.under_way:
                    self.send(b)
            self.under_way = [self.under_way[b] for b in range(len(self.buckets))]
            return super().finish()

    return Answer(buckets, all_reduce)


def lets_its_own_bucket_leave(buckets, all_reduce):
    """Caught by: any_order_of_arrival. A bucket that had to wait is left for finish: if for while."""
    class Answer(BucketedSum):
        def arrived(self, b, p):
            self.sums[p] += p.grad
            p.grad = None
            if self.sending:
                self.missing[b] -= 1
                if self.missing[b] == 0 and b == len(self.under_way):
                    self.leave()

    return Answer(buckets, all_reduce)


def counts_over_all_passes(buckets, all_reduce):
    """Caught by: accumulation_is_silent. A bucket is full when each gradient has come once."""
    class Answer(BucketedSum):
        def arrived(self, b, p):
            self.sums[p] += p.grad
            p.grad = None
            self.missing[b] -= 1
            while self.sending and self.waiting() and self.missing[len(self.under_way)] <= 0:
                self.leave()

    return Answer(buckets, all_reduce)


def overlaps_one_micro_batch_alone(buckets, all_reduce):
    """Caught by: accumulation_is_silent. Counts over all passes, below zero, and all is left for finish."""
    class Answer(BucketedSum):
        def arrived(self, b, p):
            self.sums[p] += p.grad
            p.grad = None
            self.missing[b] -= 1
            if self.sending and self.missing[b] == 0 and self.waiting():
                self.leave()

    return Answer(buckets, all_reduce)


def waits_in_the_hook(buckets, all_reduce):
    """Caught by: leaves_when_full. The sum is started and waited for at once."""
    def at_once(flat):
        all_reduce(flat)()
        return lambda: None

    return BucketedSum(buckets, at_once)


def sums_in_sixteen_bits(buckets, all_reduce):
    """Caught by: sixteen_bits. The sums have the format of the parameters."""
    class Answer(BucketedSum):
        def restart(self):
            super().restart()
            self.sums = {p: torch.zeros_like(p, requires_grad=False) for p in self.sums}

    return Answer(buckets, all_reduce)


def widens_too_late(buckets, all_reduce):
    """Caught by: sixteen_bits. Micro-batches add up in p.grad, only the wire is fp32."""
    class Answer(BucketedSum):
        def arrived(self, b, p):
            if not self.sending:
                return
            super().arrived(b, p)

    return Answer(buckets, all_reduce)


def waits_for_every_gradient(buckets, all_reduce):
    """Caught by: gradients_that_do_not_come. A bucket that is never full never leaves."""
    class Answer(BucketedSum):
        def finish(self):
            gradients = []
            for b, bucket in enumerate(self.buckets):
                sums = [self.sums[p] for p in bucket]
                if b < len(self.under_way):
                    flat, wait = self.under_way[b]
                    wait()
                    pieces = flat.split([p.numel() for p in bucket])
                    sums = [x.view(p.shape) for p, x in zip(bucket, pieces, strict=True)]
                gradients += sums
            self.restart()
            return gradients

    return Answer(buckets, all_reduce)


def the_other_average(buckets, all_reduce):
    """Caught by: two_ranks. A mean for the sum, as DDP does it, or a sum for the mean."""
    class Answer(BucketedSum):
        def finish(self):
            n = dist.get_world_size()
            return [x / n if GIVES == "sum" else x * n for x in super().finish()]

    return Answer(buckets, all_reduce)


def keeps_the_gradient(buckets, all_reduce):
    """Caught by: accumulation_is_silent. p.grad adds up by itself, and is added once more."""
    class Answer(BucketedSum):
        def arrived(self, b, p):
            gradient = p.grad
            super().arrived(b, p)
            p.grad = gradient

    return Answer(buckets, all_reduce)


def forgets_the_next_step(buckets, all_reduce):
    """Caught by: two_steps. The sums of the first step are still there in the second."""
    class Answer(BucketedSum):
        def restart(self):
            sums = getattr(self, "sums", None)
            super().restart()
            self.sums = sums or self.sums

    return Answer(buckets, all_reduce)


def one_call_a_parameter(buckets, all_reduce):
    """Caught by: accumulation_is_silent. Every gradient travels by itself."""
    return BucketedSum([[p] for bucket in buckets for p in bucket], all_reduce)


def leaves_too_early(buckets, all_reduce):
    """Caught by: two_ranks. The bucket leaves with the first gradient, not with the last."""
    class Answer(BucketedSum):
        def restart(self):
            super().restart()
            self.missing = [1 for _ in self.buckets]

    return Answer(buckets, all_reduce)


def reads_before_the_wait(buckets, all_reduce):
    """Caught by: two_ranks. What was handed in is taken for the sum at once."""
    def copied(flat):
        wait = all_reduce(flat)
        early = flat.clone()

        def late():
            wait()
            flat.copy_(early)

        return late

    return BucketedSum(buckets, copied)
