# ---
# mark: 3
# minutes: 30
# help: empty
# needs: [rank, process group, collective, sharding, ZeRO]
# draws:
#   GIVES: [sum, mean]
# ---

# %% [markdown]
# # ZeRO-1, whatever the rows
#
# Write ZeRO-1 for a list of weights. Every rank holds all of them, the same numbers on
# each, and in every step it has gradients of its own. Cut each weight along its first dimension.
# The number of rows need not be a multiple of the ranks, and there may be fewer rows than ranks.
#
# `Adam` below is given: it moves one tensor and keeps its two averages. All collectives of the
# lesson are yours to use, and rows of zeros may travel along.
#
# **Target:** after each step every rank has the weights, in the tensors that it was given, of one
# process that gives Adam the *{{GIVES}}* of the ranks' gradients. Each row of each weight has averages on
# one rank and on no other, and a rank keeps no other numbers from step to step: a view of the weights
# is none, a copy is. A rank sends no more than
# an all-reduce of the gradients would, with rows rounded up to a multiple of the ranks. The
# gradients stay as they are.
#
# To try it, a weight of three rows on two ranks; both should print the same, other than at first:
#
# ```python
# def on_a_rank():
#     weights = [torch.ones(3, 2)]
#     zero = Zero1(weights)
#     zero.step([torch.full((3, 2), dist.get_rank() + 1.0)])
#     return weights[0]
# for weight in run(on_a_rank, 2):
#     print(weight)
# ```

# %%
import torch
import torch.distributed as dist

from minimtnlg import run
from minimtnlg.parallel.collectives import all_gather, all_reduce, reduce_scatter


class Adam:
    """Adam for one tensor of any number of rows, also none."""

    def __init__(self, weight):
        self.mean, self.square = torch.zeros_like(weight), torch.zeros_like(weight)
        self.steps = 0

    def update(self, weight, gradient):
        """Moves `weight` in place; both have the shape of the tensor that Adam was made for."""
        self.steps += 1
        self.mean += 0.1 * (gradient - self.mean)
        self.square += 0.05 * (gradient**2 - self.square)
        mean = self.mean / (1 - 0.9**self.steps)
        square = self.square / (1 - 0.95**self.steps)
        weight -= 0.1 * mean / (square.sqrt() + 0.1)


# %% tags=["stub"]
class Zero1:
    """ZeRO-1 over all ranks.

    weights: list of tensors, the same on each rank, of one row or more.
    """

    def __init__(self, weights):
        raise NotImplementedError("which rows of each weight are mine? Make an Adam for these")

    def step(self, gradients):
        """gradients: list of tensors, shaped like the weights; each rank has other ones."""
        raise NotImplementedError("reduce-scatter, update my rows, all-gather, write them back")


# %% [markdown] tags=["hint"]
# Begin with the lesson's `stage_1`, which is right when $n$ divides the rows. A collective of equal
# parts needs a multiple of $n$ rows. Which number of rows does each part have, if 5 rows are to lie
# on 4 ranks? The group to hand in is `dist.group.WORLD`.

# %% [markdown] tags=["hint"]
# Parts of `rows = -(-len(w) // n)` rows, rounded up: rank $r$ has `w[r * rows : (r + 1) * rows]`.
# Python cuts this off at the end by itself, so the last parts may be short or empty, and it is a
# view of `w`. Before a collective fill up with zeros, after it cut off: what comes back to a rank
# has `rows` rows, of which the first `len(own)` are its own.

# %% [markdown] tags=["hint"]
# ```python
# def filled(x, rows):
#     y = x.new_zeros(rows, *x.shape[1:])
#     y[: len(x)] = x
#     return y
# ```
# `__init__`: for each weight `own`, a view, and `Adam(own)`. `step`: for each weight
# `part = reduce_scatter(filled(gradient, n * rows), group)[: len(own)]`, which is a sum, then
# `adam.update(own, part)`, then `w.copy_(all_gather(filled(own, rows), group)[: len(w)])`.

# %% [markdown] tags=["oral"]
# **Q.** A weight has one row and there are four ranks. Which calls does a rank without a row make,
# and what would happen if it made none?
#
# **A.** The same as all others, with rows of zeros. Collectives are matched by their order, so if one
# rank stayed away the others would wait for ever.
#
# **Q.** Adam hardly cares whether it gets a sum or a mean of gradients. What does care?
#
# **A.** The small number that is added to the root, clipping by the norm, and every optimizer that
# moves weights by the gradient itself, such as SGD.


# %% tags=["solution"]
class Zero1:
    def __init__(self, weights):
        rank, n = dist.get_rank(), dist.get_world_size()
        self.weights = weights
        self.rows = [-(-len(w) // n) for w in weights]
        pairs = zip(weights, self.rows, strict=True)
        self.own = [w[rank * rows : (rank + 1) * rows] for w, rows in pairs]
        self.adams = [Adam(own) for own in self.own]

    def step(self, gradients):
        n, everybody = dist.get_world_size(), dist.group.WORLD
        everything = zip(self.weights, self.rows, self.own, self.adams, gradients, strict=True)
        for w, rows, own, adam, gradient in everything:
            total = reduce_scatter(self.filled(gradient, n * rows), everybody)
            part = total / {"sum": 1, "mean": n}["{{GIVES}}"]
            adam.update(own, part[: len(own)])
            w.copy_(all_gather(self.filled(own, rows), everybody)[: len(w)])

    def filled(self, x, rows):
        return torch.cat([x, x.new_zeros(rows - len(x), *x.shape[1:])])


# %% tags=["check"]
import gc
import re
import time
from functools import cache

from minimtnlg.course.check import Feedback, expect
from minimtnlg.parallel.collectives import Recorder, wire_bytes
from minimtnlg.ranks import RankError

_PATIENCE = 20  # seconds; a job takes a fraction of one
_STEPS = 3
_EVEN = ((8, 3), (4,), (4, 2))
_UNEVEN = ((5, 3), (7,), (3, 2))
_FEW = ((5, 3), (1,), (2, 2), (3,))


def _tensors(shapes, seed):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, dtype=torch.float64, generator=g) for shape in shapes]


def _bytes_alive():
    found = [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor) and x.dim()]
    return sum(
        {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in found}.values()
    )


def _program(student, shapes):
    """What one rank reports: weights, whether gradients are untouched, bytes kept, calls."""
    rank = dist.get_rank()
    weights = _tensors(shapes, 1)
    given = tuple(weights)  # the student's class may put others into its list
    steps = [_tensors(shapes, 1000 * (number + 1) + rank) for number in range(_STEPS)]
    copies = [[g.clone() for g in gradients] for gradients in steps]
    gc.collect()
    before = _bytes_alive()
    zero = student(weights)
    with Recorder() as seen:
        for gradients in steps:
            zero.step(gradients)
    untouched = all(
        torch.equal(a, b)
        for x, y in zip(steps, copies, strict=True)
        for a, b in zip(x, y, strict=True)
    )
    kept = []
    for _ in range(20):  # a thread of the library may hold what was sent for a moment
        gc.collect()
        kept.append(_bytes_alive() - before)
        time.sleep(0.01)
    del zero
    return [w.clone() for w in given], untouched, min(kept), seen.calls


@cache  # several checks look at one job
def _job(student, n, shapes):
    try:
        return run(_program, n, student, shapes, timeout=_PATIENCE), None
    except RankError as error:
        return None, error


def _reports(student, n, shapes):
    """What `_program` returned on n ranks; a failure is put into words."""
    reports, error = _job(student, n, shapes)
    if error is None:
        return reports
    if error.type == "NotImplementedError":
        raise NotImplementedError(error.message)
    rows = ", ".join(str(shape[0]) for shape in shapes)
    got, look_at = str(error).splitlines()[0], _where(error)
    if error.type == "TimeoutError":
        got, look_at = "a deadlock", "do all ranks make the same calls, also those without rows?"
    raise Feedback(f"{n} ranks, weights of {rows} rows", "each rank returns", got, look_at)


def _where(error):
    """The student's line in the report of a failed rank."""
    frames = re.findall(r"line (\d+), in (\S+)\n *(.+)", error.traceback)
    theirs = [frame for frame in frames if frame[1] not in ("_program", "update")]
    line = "line {}, in {}: {}".format(*theirs[-1]) if theirs else ""
    return line or "shapes: what a collective takes and returns is filled up to whole parts"


def _alone(n, shapes):
    """The weights of one process that sees all gradients, with PyTorch's formulas written out."""
    weights = _tensors(shapes, 1)
    means = [torch.zeros_like(w) for w in weights]
    squares = [torch.zeros_like(w) for w in weights]
    for number in range(_STEPS):
        everyone = [_tensors(shapes, 1000 * (number + 1) + rank) for rank in range(n)]
        for i, w in enumerate(weights):
            g = sum(gradients[i] for gradients in everyone) / (n if GIVES == "mean" else 1)
            means[i] = 0.9 * means[i] + 0.1 * g
            squares[i] = 0.95 * squares[i] + 0.05 * g**2
            m, v = means[i] / (1 - 0.9 ** (number + 1)), squares[i] / (1 - 0.95 ** (number + 1))
            weights[i] = w - 0.1 * m / (v.sqrt() + 0.1)
    return weights


def _check_weights(student, n, shapes):
    expected = _alone(n, shapes)
    for rank, (weights, *_) in enumerate(_reports(student, n, shapes)):
        before = _tensors(shapes, 1)
        for shape, first, got, right in zip(shapes, before, weights, expected, strict=True):
            what = f"weight {list(shape)} on rank {rank} of {n} after {_STEPS} steps"
            expect(got, right, what, _why(got, first))


def _why(got, first):
    """The idea to look at when a weight is wrong: `first` is what it was before all steps."""
    if bool((got == first).all()):
        return "nothing has been written into the tensor that Zero1 was given"
    if bool((got == first).flatten(1).all(1).any() if got.dim() > 1 else (got == first).any()):
        return "some rows are as at first: who writes them into the tensor that Zero1 was given?"
    return f"the {GIVES} of my rows, their own averages, all rows back: the lesson's lines by hand"


def _check_state(student, n, shapes):
    """The numbers kept by each rank are two averages of its rows; all rows are somewhere."""
    kept = [report[2] // 8 for report in _reports(student, n, shapes)]  # numbers of 8 bytes
    numbers = 2 * sum(torch.Size(shape).numel() for shape in shapes)
    expect(
        sum(kept), numbers, f"numbers that {n} ranks keep besides the weights, together",
        "two averages of each row, on one rank; copies, buffers, filled-up rows count as well",
    )  # fmt: skip
    most = 2 * sum(-(-shape[0] // n) * torch.Size(shape[1:]).numel() for shape in shapes)
    if max(kept) > most:
        raise Feedback(
            f"numbers that one rank of {n} keeps besides the weights", f"{most} at the most",
            max(kept), "every weight is cut by itself, not handed out whole",
        )  # fmt: skip


def _check_traffic(student, n, shapes):
    rows = [-(-shape[0] // n) * n for shape in shapes]
    numbers = sum(r * torch.Size(s[1:]).numel() for r, s in zip(rows, shapes, strict=True))
    most = wire_bytes("all_reduce", 8 * numbers, n)
    for rank, (*_, calls) in enumerate(_reports(student, n, shapes)):
        if (sent := sum(call.wire_bytes for call in calls) / _STEPS) > most * (1 + 1e-9):
            raise Feedback(
                f"bytes that rank {rank} of {n} sends in a step", f"{most:.0f} at the most",
                f"{sent:.0f}", "a reduce-scatter and an all-gather are an all-reduce, no more",
            )  # fmt: skip


def two_ranks(student):
    """Two ranks, rows that divide: the weights of one process"""
    _check_weights(student, 2, _EVEN)


def keeps_its_own_averages(student):
    """Averages of each row on one rank alone, and no other number is kept"""
    _check_state(student, 2, _EVEN)


def sends_an_all_reduce(student):
    """A rank sends no more than an all-reduce"""
    _check_traffic(student, 2, _EVEN)


def rows_that_do_not_divide(student):
    """Five, seven and three rows on two ranks"""
    _check_weights(student, 2, _UNEVEN)


def leaves_the_gradients(student):
    """The gradients stay as they are"""
    for rank, (_, untouched, *_) in enumerate(_reports(student, 2, _UNEVEN)):
        look_at = "an all-reduce, and += on a view, write into what you were given"
        expect(untouched, True, f"whether the gradients of rank {rank} are as before", look_at)


# %% tags=["hidden"]
def fewer_rows_than_ranks(student):
    """Four ranks and weights of one, two and three rows"""
    _check_weights(student, 4, _FEW)


def uneven_averages(student):
    """Uneven rows: averages of each row on one rank alone"""
    _check_state(student, 2, _UNEVEN)
    _check_state(student, 4, _FEW)


def uneven_traffic(student):
    """Uneven rows: no more than an all-reduce of the rows rounded up"""
    _check_traffic(student, 2, _UNEVEN)
    _check_traffic(student, 4, _FEW)


def same_bits_everywhere(student):
    """All ranks hold the same bits"""
    (first, *_), *others = _reports(student, 4, _FEW)
    for rank, (weights, *_) in enumerate(others, start=1):
        same = all(torch.equal(a, b) for a, b in zip(weights, first, strict=True))
        look_at = "a row is updated once, on its own rank, and then copied"
        expect(same, True, f"whether rank {rank} has the bits of rank 0", look_at)


# %% tags=["wrong"]
def _rounded_up(w):
    return -(-len(w) // dist.get_world_size())


def _given(total):
    """What Adam is to be given, from the sum over the ranks."""
    return total / (dist.get_world_size() if GIVES == "mean" else 1)


class everybody_updates_everything(Zero1):
    """Caught by: keeps_its_own_averages. The weights are right: it is plain data parallelism."""

    def __init__(self, weights):
        self.weights, self.adams = weights, [Adam(w) for w in weights]

    def step(self, gradients):
        for w, adam, gradient in zip(self.weights, self.adams, gradients, strict=True):
            adam.update(w, _given(all_reduce(gradient.clone(), dist.group.WORLD)))


class all_reduce_then_cut(Zero1):
    """Caught by: sends_an_all_reduce. Right, but the rest of the sum travels for nothing."""

    def step(self, gradients):
        rank, everybody = dist.get_rank(), dist.group.WORLD
        everything = zip(self.weights, self.rows, self.own, self.adams, gradients, strict=True)
        for w, rows, own, adam, gradient in everything:
            total = _given(all_reduce(gradient.clone(), everybody))
            adam.update(own, total[rank * rows : (rank + 1) * rows])
            w.copy_(all_gather(self.filled(own, rows), everybody)[: len(w)])


class forgets_the_all_gather(Zero1):
    """Caught by: two_ranks. After the update the others still have the old rows."""

    def step(self, gradients):
        n = dist.get_world_size()
        everything = zip(self.rows, self.own, self.adams, gradients, strict=True)
        for rows, own, adam, gradient in everything:
            part = reduce_scatter(self.filled(gradient, n * rows), dist.group.WORLD)
            adam.update(own, _given(part[: len(own)]))


class the_other_average(Zero1):
    """Caught by: two_ranks. Adam divides sizes out, so a mean for a sum seems to do no harm."""

    def step(self, gradients):
        factor = dist.get_world_size() if GIVES == "mean" else 1 / dist.get_world_size()
        Zero1.step(self, [gradient * factor for gradient in gradients])


class own_gradient_alone(Zero1):
    """Caught by: two_ranks. Each rank updates its rows, with what it has seen itself."""

    def step(self, gradients):
        rank, everybody = dist.get_rank(), dist.group.WORLD
        everything = zip(self.weights, self.rows, self.own, self.adams, gradients, strict=True)
        for w, rows, own, adam, gradient in everything:
            adam.update(own, gradient[rank * rows : (rank + 1) * rows])
            w.copy_(all_gather(self.filled(own, rows), everybody)[: len(w)])


class forgets_from_step_to_step(Zero1):
    """Caught by: two_ranks. Nothing kept is the least memory: a new Adam in each step."""

    def step(self, gradients):
        self.adams = [Adam(own) for own in self.own]
        Zero1.step(self, gradients)


class drops_the_remainder(Zero1):
    """Caught by: rows_that_do_not_divide. len(w) // n rows each: the last ones have no owner."""

    def __init__(self, weights):
        n = dist.get_world_size()
        Zero1.__init__(self, [w[: len(w) // n * n] for w in weights])

    def step(self, gradients):
        pairs = zip(gradients, self.weights, strict=True)
        Zero1.step(self, [gradient[: len(w)] for gradient, w in pairs])


class cuts_like_tensor_split(Zero1):
    """Caught by: fewer_rows_than_ranks. The rows are shared out one way, the sum another."""

    def __init__(self, weights):
        rank, n = dist.get_rank(), dist.get_world_size()
        self.weights, self.rows = weights, [_rounded_up(w) for w in weights]
        self.own = [w.tensor_split(n)[rank] for w in weights]
        self.adams = [Adam(own) for own in self.own]


class averages_of_filled_up_rows(Zero1):
    """Caught by: uneven_averages. All ranks keep as many rows, also rows that do not exist."""

    def __init__(self, weights):
        Zero1.__init__(self, weights)
        pairs = zip(self.own, self.rows, strict=True)
        self.adams = [Adam(self.filled(own, rows)) for own, rows in pairs]

    def step(self, gradients):
        n, everybody = dist.get_world_size(), dist.group.WORLD
        everything = zip(self.weights, self.rows, self.own, self.adams, gradients, strict=True)
        for w, rows, own, adam, gradient in everything:
            filled = self.filled(own, rows)
            part = reduce_scatter(self.filled(gradient, n * rows), everybody)
            adam.update(filled, _given(part))
            w.copy_(all_gather(filled, everybody)[: len(w)])


class whole_weights_handed_out(Zero1):
    """Caught by: keeps_its_own_averages. Each weight whole to one rank: a large one fills it."""

    def __init__(self, weights):
        rank, n = dist.get_rank(), dist.get_world_size()
        self.weights = weights
        self.adams = [Adam(w) if i % n == rank else None for i, w in enumerate(weights)]

    def step(self, gradients):
        n = dist.get_world_size()
        for i, (w, gradient) in enumerate(zip(self.weights, gradients, strict=True)):
            total = gradient.clone()
            dist.reduce(total, i % n)
            if self.adams[i]:
                self.adams[i].update(w, _given(total))
            dist.broadcast(w, i % n)


class empty_shards_stay_away(Zero1):
    """Caught by: fewer_rows_than_ranks. A rank without rows makes no call; the others wait."""

    def step(self, gradients):
        mine = [i for i, own in enumerate(self.own) if len(own)]
        for name in ("weights", "rows", "own", "adams"):
            setattr(self, name, [getattr(self, name)[i] for i in mine])
        Zero1.step(self, [gradients[i] for i in mine])


class copies_its_own_rows(Zero1):
    """Caught by: keeps_its_own_averages. A copy of the own rows is safer than a view, and is memory."""

    def __init__(self, weights):
        Zero1.__init__(self, weights)
        self.own = [own.clone() for own in self.own]


class new_entries_of_the_list(Zero1):
    """Caught by: two_ranks. The list gets the new weights, and the model has other tensors."""

    def step(self, gradients):
        n, everybody = dist.get_world_size(), dist.group.WORLD
        everything = zip(self.rows, self.adams, gradients, strict=True)
        for i, (rows, adam, gradient) in enumerate(everything):
            w, rank = self.weights[i], dist.get_rank()
            own = w[rank * rows : (rank + 1) * rows].clone()
            part = reduce_scatter(self.filled(gradient, n * rows), everybody)
            adam.update(own, _given(part[: len(own)]))
            self.weights[i] = all_gather(self.filled(own, rows), everybody)[: len(w)]


class new_tensors_for_the_weights(Zero1):
    """Caught by: two_ranks. The list has new tensors, and the model keeps the old ones."""

    def __init__(self, weights):
        Zero1.__init__(self, [w.clone() for w in weights])
