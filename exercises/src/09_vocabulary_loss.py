# ---
# mark: 3
# minutes: 30
# help: empty
# needs: [rank, process group, collective, column-parallel]
# draws:
#   DEALT: [in blocks, in turn]
#   RANKS: [4, 2]
# ---

# %% [markdown]
# # The loss over a cut vocabulary
#
# $N$ tokens of text are to be predicted, and each of $t$ ranks holds a part of their logits, $[N, V/t]$:
# {{WHICH_COLUMNS}}. The labels are whole
# on every rank. Write the cross-entropy of each of the $N$ rows and its gradient.
#
# **Target:** on every rank, the $N$ losses $-\ln(e^{z_y} / \sum_j e^{z_j})$, in nats, and the
# gradient of their sum for this rank's logits, both equal to those of one process, in float64; also
# for logits of some thousands. At most two calls of a collective, in which a rank hands in at most
# three numbers a row. The given tensors stay as they are.
#
# `dist.all_reduce(x, dist.ReduceOp.MAX)` replaces `x` by the largest over the ranks, element by
# element; without the second argument it sums.
#
# To try it, a vocabulary of four on two ranks, and one row, whose label is 2; the lesson has the answer:
#
# ```python
# def on_a_rank():
#     logits = torch.tensor([[1.0, 2, 3, 4]]).log(){{PART}}
#     return vocabulary_loss(logits, torch.tensor([2]))
# run(on_a_rank, 2)
# ```

# %% tags=["target"]
WHICH_COLUMNS, PART = {
    "in blocks": (
        "rank 0 the columns $0$ to $V/t - 1$ of the vocabulary, rank 1 the next $V/t$, and so on",
        ".chunk(2, 1)[dist.get_rank()]",
    ),
    "in turn": (
        "the vocabulary is dealt like cards, rank 0 has the columns $0, t, 2t, \\dots$, rank 1 has "
        "$1, t + 1, 2t + 1, \\dots$, and so on",
        "[:, dist.get_rank()::2]",
    ),
}[DEALT]
COLUMN = {
    "in blocks": "`labels - dist.get_rank() * logits.shape[1]` is the column of the label in this "
    "rank's part. It is negative or too large where another rank has it; then this rank adds zero. "
    "Put your own column in range (`clamp`) before you look anything up, and keep a mask that says "
    "where it was in range.",
    "in turn": "`labels // t` is the column of the label in the part of the rank that has it. That "
    "is rank `labels % t`; every other rank adds zero. So keep a mask that says where the label is "
    "here.",
}[DEALT]

# %%
import torch
import torch.distributed as dist

from minimtnlg import run


# %% tags=["stub"]
def vocabulary_loss(logits, labels):
    """(losses [N], gradient [N, V/t] of their sum), over all ranks of the world.

    logits: [N, V/t], this rank's columns. labels: [N], ids of the whole vocabulary.
    """
    raise NotImplementedError("what does the loss of a row need from the other ranks?")


# %% [markdown] tags=["hint"]
# What does the loss of one row need from the other ranks? Not their logits: the largest of all, the
# sum of all exponentials, and one logit that a single rank has. In which order are they needed?

# %% [markdown] tags=["hint"]
# {{COLUMN}} The two sums travel in one call: `torch.stack([first, second])`.

# %% [markdown] tags=["hint"]
# ```python
# largest = logits.amax(1)                       # then all_reduce with MAX
# shifted = logits - largest[:, None]
# rows = torch.arange(len(labels))
# label = shifted[rows, column] * here           # here: the mask, column: in range
# sums = torch.stack([shifted.exp().sum(1), label])  # then all_reduce
# ```
# With `total, label = sums`, a loss is `total.log() - label`: the shift falls out. The gradient is
# the probability, `shifted.exp() / total[:, None]`, less 1 at the label's column, where it is here.

# %% [markdown] tags=["oral"]
# **Q.** Why does the largest logit need a call of its own, before the two sums?
#
# **A.** The exponentials of all ranks must be shifted by the same number, or their sums don't fit
# together. So it has to be known before they are taken.
#
# **Q.** Your function sends nothing to make the gradient. What would have to be sent if the logits
# were computed by a row-parallel product instead?
#
# **A.** Then each rank would have a summand of all logits, and they would have to be summed first,
# $V$ numbers a row. Column-parallel logits are complete, each on one rank.


# %% tags=["solution"]
def vocabulary_loss(logits, labels):
    n, width = logits.shape
    largest = logits.amax(1)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    shifted = logits - largest[:, None]
    exponentials = shifted.exp()

    rank, t = dist.get_rank(), dist.get_world_size()
    column, owner = {
        "in blocks": (labels % width, labels // width),
        "in turn": (labels // t, labels % t),
    }["{{DEALT}}"]
    rows, here = torch.arange(n), owner == rank
    sums = torch.stack([exponentials.sum(1), shifted[rows, column] * here])
    dist.all_reduce(sums)
    total, label = sums

    gradient = exponentials / total[:, None]
    gradient[rows, column] -= here.to(gradient.dtype)
    return total.log() - label, gradient


# %% tags=["check"]
import re
from functools import cache

from minimtnlg.course.check import Feedback, expect
from minimtnlg.parallel.collectives import Recorder
from minimtnlg.ranks import RankError

_PATIENCE = 10  # seconds; a job takes a fraction of one


def _whole(n, vocab, scale):
    """All logits [n, vocab]: scale 0 gives the logarithms of 1, 2, 3 ... in every row."""
    if scale == 0:
        return torch.arange(1, vocab + 1, dtype=torch.float64).log().expand(n, vocab).contiguous()
    draw = torch.Generator().manual_seed(n + vocab)
    return scale * torch.randn(n, vocab, dtype=torch.float64, generator=draw) + 3 * scale


def _parts(whole, t):
    """The columns of each rank."""
    return whole.chunk(t, 1) if DEALT == "in blocks" else [whole[:, r::t] for r in range(t)]


def _program(student, vocab, labels, scale):
    """What one rank reports: (answer, its logits and labels before, after, calls)."""
    labels = torch.tensor(labels)
    whole = _whole(len(labels), vocab, scale)
    logits = _parts(whole, dist.get_world_size())[dist.get_rank()].clone()
    before = logits.clone(), labels.clone()
    with Recorder() as seen:
        answer = student(logits, labels)
    if isinstance(answer, tuple):
        answer = tuple(x.detach().clone() if hasattr(x, "detach") else x for x in answer)
    return answer, before, (logits, labels), [(c.operation, c.elements) for c in seen.calls]


@cache  # several checks look at one job, and a deadlock is waited for once
def _job(student, t, vocab, labels, scale):
    try:
        return run(_program, t, student, vocab, labels, scale, timeout=_PATIENCE), None
    except RankError as error:
        return None, error


def _reports(student, t, vocab, labels, scale=1):
    """What `_program` returned on t ranks; failures are put into words."""
    reports, error = _job(student, t, vocab, tuple(labels), scale)
    what = f"{t} ranks, {len(labels)} rows, vocabulary of {vocab}"
    if error is None:
        for rank, (answer, *_) in enumerate(reports):
            if not isinstance(answer, tuple) or len(answer) != 2:
                kind = type(answer).__name__
                raise Feedback(f"what rank {rank} returns", "(losses, gradient)", kind)
        return reports
    if error.type == "NotImplementedError":
        raise NotImplementedError(error.message)
    if error.type == "TimeoutError":
        lines = [line for line in str(error).splitlines() if line.startswith("rank")]
        got = f"a deadlock; after {_PATIENCE} s " + ", ".join(lines)
        look_at = "do all ranks make the same calls in the same order?"
        raise Feedback(f"{what}: does every rank return?", f"all {t}, at once", got, look_at)
    frames = re.findall(r"line (\d+), in (\S+)\n *(.+)", error.traceback)
    theirs = [frame for frame in frames if frame[1] != "_program"]
    where = "line {}, in {}: {}".format(*theirs[-1]) if theirs else ""
    raise Feedback(what, "each rank returns", str(error).splitlines()[0], where)


def _expected(vocab, labels, scale):
    """(losses, gradient) in one process, from all logits."""
    leaf = _whole(len(labels), vocab, scale).requires_grad_()
    rows = torch.arange(len(labels))
    losses = leaf.logsumexp(1) - leaf[rows, torch.tensor(labels)]
    losses.sum().backward()
    return losses.detach(), leaf.grad


def _check_losses(student, t, vocab, labels, scale=1):
    expected = _expected(vocab, labels, scale)[0]
    for rank, (answer, *_) in enumerate(_reports(student, t, vocab, labels, scale)):
        what = f"losses on rank {rank} of {t}; labels {labels}, {vocab // t} columns a rank"
        look_at = (
            "largest and sum of exponentials of all ranks; the label's logit from one rank alone: "
            f"columns are dealt {DEALT}"
        )
        if scale > 100:  # the small ones are right, or this check would not run
            look_at = "exp(710) is inf and exp(-750) is 0: what is to be subtracted, on all ranks alike?"
        expect(answer[0], expected, what, look_at)


def _check_gradient(student, t, vocab, labels, scale=1):
    expected = _parts(_expected(vocab, labels, scale)[1], t)
    for rank, (answer, *_) in enumerate(_reports(student, t, vocab, labels, scale)):
        what = f"gradient on rank {rank} of {t}; labels {labels}, {vocab // t} columns a rank"
        look_at = "its probabilities, less 1 at the label, on the one rank that has it"
        expect(answer[1], expected[rank], what, look_at)


_LABELS = [7, 2, 11, 4]


def losses(student):
    """Losses on two ranks"""
    _check_losses(student, 2, 4, [2], scale=0)
    _check_losses(student, 2, 12, _LABELS)


def gradient(student):
    """The gradient on two ranks"""
    _check_gradient(student, 2, 4, [2], scale=0)
    _check_gradient(student, 2, 12, _LABELS)


def traffic(student):
    """At most two calls and three numbers a row"""
    n = len(_LABELS)
    for rank, (*_, calls) in enumerate(_reports(student, 2, 12, _LABELS)):
        listed = ", ".join(f"{operation} of {elements}" for operation, elements in calls)
        if len(calls) > 2 or sum(elements for _, elements in calls) > 3 * n:
            raise Feedback(
                f"calls of rank {rank} of 2 for {n} rows", f"at most 2, {3 * n} numbers in all",
                f"{len(calls)}: {listed}", "the largest; then two sums in one call",
            )  # fmt: skip


def leaves_what_it_is_given(student):
    """Logits and labels are as before"""
    for rank, (_, before, after, _) in enumerate(_reports(student, 2, 12, _LABELS)):
        look_at = "operations that end in _ and -= change the tensor that was handed in"
        expect(after, before, f"(logits, labels) of rank {rank} of 2 after the call", look_at)


# %% tags=["hidden"]
def large_logits(student):
    """Logits of some thousands"""
    _check_losses(student, 2, 12, _LABELS, scale=2000)
    _check_gradient(student, 2, 12, _LABELS, scale=2000)


def every_label(student):
    """More ranks; labels are all of the vocabulary, the first and the last of each part too"""
    labels = list(range(12))
    _check_losses(student, RANKS, 12, labels)
    _check_gradient(student, RANKS, 12, labels)


def three_ranks(student):
    """Three ranks, and all labels on one of them"""
    _check_losses(student, 3, 15, [6, 9, 5])
    _check_gradient(student, 3, 15, [6, 9, 5])


def one_column_a_rank(student):
    """A single row, and one column on each of four ranks"""
    _check_losses(student, 4, 4, [3])
    _check_gradient(student, 4, 4, [3])


# %% tags=["wrong"]
def _column(logits, labels):
    """(rows, column in range, whether it is here)"""
    rank, t, width = dist.get_rank(), dist.get_world_size(), logits.shape[1]
    in_blocks = DEALT == "in blocks"
    here = (labels // width if in_blocks else labels % t) == rank
    return torch.arange(len(labels)), labels % width if in_blocks else labels // t, here


def _finish(shifted, total, label, rows, column, here):
    result = shifted.exp() / total[:, None]
    result[rows, column] -= here.to(result.dtype)
    return total.log() - label, result


def _shifted(logits):
    largest = logits.amax(1)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return logits - largest[:, None]


def _mine(whole):
    """This rank's columns."""
    rank, t = dist.get_rank(), dist.get_world_size()
    return whole.chunk(t, 1)[rank] if DEALT == "in blocks" else whole[:, rank::t]


def over_its_own_part(logits, labels):
    """Caught by: losses. A softmax over the part is taken for the softmax over the whole."""
    rows, column, here = _column(logits, labels)
    shifted = logits - logits.amax(1, keepdim=True)
    total = shifted.exp().sum(1)
    return _finish(shifted, total, shifted[rows, column] * here, rows, column, here)


def gathers_the_logits(logits, labels):
    """Caught by: traffic. The right result from a tensor that no rank should hold."""
    parts = [torch.empty_like(logits) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, logits.contiguous())
    whole = torch.cat(parts, 1) if DEALT == "in blocks" else torch.stack(parts, 2).flatten(1)
    whole.requires_grad_()
    losses = torch.nn.functional.cross_entropy(whole, labels, reduction="none")
    losses.sum().backward()
    return losses.detach(), _mine(whole.grad)


def without_the_largest(logits, labels):
    """Caught by: large_logits. The shift cancels on paper, so it is left out."""
    rows, column, here = _column(logits, labels)
    sums = torch.stack([logits.exp().sum(1), logits[rows, column] * here])
    dist.all_reduce(sums)
    return _finish(logits, *sums, rows, column, here)


def its_own_largest(logits, labels):
    """Caught by: losses. Each rank shifts by its own maximum; the sums don't fit together."""
    rows, column, here = _column(logits, labels)
    shifted = logits - logits.amax(1, keepdim=True)
    sums = torch.stack([shifted.exp().sum(1), shifted[rows, column] * here])
    dist.all_reduce(sums)
    return _finish(shifted, *sums, rows, column, here)


def the_sum_of_the_largest(logits, labels):
    """Caught by: large_logits. Any common shift cancels, but a sum of maxima is far too much."""
    rows, column, here = _column(logits, labels)
    largest = logits.amax(1)
    dist.all_reduce(largest)
    shifted = logits - largest[:, None]
    sums = torch.stack([shifted.exp().sum(1), shifted[rows, column] * here])
    dist.all_reduce(sums)
    return _finish(shifted, *sums, rows, column, here)


def every_rank_has_the_label(logits, labels):
    """Caught by: losses. Out of range is put in range, and what stands there is added."""
    rows, column, here = _column(logits, labels)
    shifted = _shifted(logits)
    sums = torch.stack([shifted.exp().sum(1), shifted[rows, column]])
    dist.all_reduce(sums)
    return _finish(shifted, *sums, rows, column, here)


def ids_as_columns(logits, labels):
    """Caught by: losses. A token's id is taken for its column, on every rank."""
    rows, here = torch.arange(len(labels)), labels < logits.shape[1]
    column, shifted = labels.clamp(max=logits.shape[1] - 1), _shifted(logits)
    sums = torch.stack([shifted.exp().sum(1), shifted[rows, column] * here])
    dist.all_reduce(sums)
    return _finish(shifted, *sums, rows, column, here)


def dealt_the_other_way(logits, labels):
    """Caught by: losses. Blocks are taken for turns, or turns for blocks."""
    rank, t, width = dist.get_rank(), dist.get_world_size(), logits.shape[1]
    in_turn = DEALT == "in blocks"
    here = (labels % t if in_turn else labels // width) == rank
    rows, column = torch.arange(len(labels)), labels // t if in_turn else labels % width
    shifted = _shifted(logits)
    sums = torch.stack([shifted.exp().sum(1), shifted[rows, column] * here])
    dist.all_reduce(sums)
    return _finish(shifted, *sums, rows, column, here)


def less_one_on_every_rank(logits, labels):
    """Caught by: gradient. The 1 is subtracted wherever the clamped column points."""
    rows, column, here = _column(logits, labels)
    shifted = _shifted(logits)
    sums = torch.stack([shifted.exp().sum(1), shifted[rows, column] * here])
    dist.all_reduce(sums)
    return _finish(shifted, *sums, rows, column, torch.ones_like(here))


def sums_the_gradients(logits, labels):
    """Caught by: gradient. Gradients of ranks get summed in data parallelism, so here as well."""
    losses, result = vocabulary_loss(logits, labels)
    dist.all_reduce(result)
    return losses, result


def gradient_of_the_mean(logits, labels):
    """Caught by: gradient. PyTorch's loss is a mean by default."""
    losses, result = vocabulary_loss(logits, labels)
    return losses, result / len(losses)


def three_calls(logits, labels):
    """Caught by: traffic. Right, and each sum goes by itself, with a latency of its own."""
    rows, column, here = _column(logits, labels)
    shifted = _shifted(logits)
    total, label = shifted.exp().sum(1), shifted[rows, column] * here
    dist.all_reduce(total)
    dist.all_reduce(label)
    return _finish(shifted, total, label, rows, column, here)


def shifts_in_place(logits, labels):
    """Caught by: leaves_what_it_is_given. The logits are the caller's."""
    rows, column, here = _column(logits, labels)
    largest = logits.amax(1)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    logits -= largest[:, None]
    sums = torch.stack([logits.exp().sum(1), logits[rows, column] * here])
    dist.all_reduce(sums)
    return _finish(logits, *sums, rows, column, here)


def first_column_forgotten(logits, labels):
    """Caught by: every_label. column > 0 leaves out the first of a part."""
    rows, column, here = _column(logits, labels)
    here, shifted = here & (column > 0), _shifted(logits)
    sums = torch.stack([shifted.exp().sum(1), shifted[rows, column] * here])
    dist.all_reduce(sums)
    return _finish(shifted, *sums, rows, column, here)


def squeezed(logits, labels):
    """Caught by: one_column_a_rank. squeeze() takes away an axis of length 1, whichever it is."""
    rows, column, here = _column(logits, labels)
    shifted = _shifted(logits)
    total, label = shifted.exp().sum(1).squeeze(), (shifted[rows, column] * here).squeeze()
    sums = torch.stack([total, label])
    dist.all_reduce(sums)
    total, label = sums
    result = (shifted.exp().squeeze() / total.unsqueeze(-1)).reshape(logits.shape)
    result[rows, column] -= here.to(result.dtype)
    return total.log() - label, result
