# ---
# mark: 3
# minutes: 30
# help: empty
# needs: [rank, process group, collective]
# draws:
#   ROUND: [right, left]
#   RANKS: [4, 3, 5]
# ---

# %% [markdown]
# # A ring all-reduce that never waits for itself
#
# Write the all-reduce of the lesson on a stricter network: all you have is a `send` and a
# `receive` that both wait for the other side. And the tensor need not be a multiple of the ranks.
#
# `send(tensor, to)` returns when rank `to` has begun to receive. `receive(tensor, source)` fills
# `tensor` with what rank `source` sends; it must have the right length and type already. Of `dist`
# you need `get_rank()` and `get_world_size()`, and nothing else.
#
# On this network messages go round to the {{ROUND}}: rank $r$ sends to rank $r {{SIGN}} 1$ alone, and
# the ring is closed.
#
# **Target:** every rank returns the sum of all `x`, the same bits on each, and its own `x` is as
# before. For 2, 3, 4 ... ranks and at least one element a rank, also 4 ranks and 5 elements; no
# rank waits for ever. If $n$ divides the length, each rank sends exactly $2(n-1)/n$ of the tensor, in
# $2(n-1)$ messages: {{RANKS}} ranks send {{SENT}} numbers each of a tensor of {{LENGTH}}.
#
# Messages move side by side. Let each take one beat, and a rank take part in one at a time: then
# each of the $2(n-1)$ steps takes 3 beats at most. 5 ranks are done in 24. Were only one message on
# its way at a time, they would need 40.
#
# To try it: `run(lambda: ring_all_reduce(torch.arange(4.0), send, receive), 2, timeout=10)`.

# %% tags=["target"]
SIGN, BACK = {"right": ("+", "-"), "left": ("-", "+")}[ROUND]
LENGTH, SENT = 2 * RANKS, 4 * (RANKS - 1)

# %%
import torch
import torch.distributed as dist

from minimtnlg import run


def send(tensor, to):
    """Waits until rank `to` receives."""
    dist.send(size_of(tensor), existing(to))
    dist.send(tensor.contiguous(), to)


def receive(tensor, source):
    """Fills the contiguous `tensor`; waits until rank `source` sends. ValueError if it misfits."""
    size = torch.zeros(2, dtype=torch.int64)
    dist.recv(size, existing(source))
    if not torch.equal(size, size_of(tensor)):
        sent, room = ("{} x {} bytes".format(*x.tolist()) for x in (size, size_of(tensor)))
        raise ValueError(f"rank {source} sends {sent}, and there is room for {room}")
    dist.recv(tensor, source)


def size_of(tensor):
    """[numbers, bytes of one]: goes ahead of each tensor."""
    return torch.tensor([tensor.numel(), tensor.element_size()])


def existing(rank):
    """The rank, if there is such a one."""
    if rank not in range(dist.get_world_size()):
        raise ValueError(f"no rank {rank}: there are {dist.get_world_size()}, from 0 on")
    return rank


# %% tags=["stub"]
def ring_all_reduce(x, send, receive):
    """The sum of the x of all ranks, on each of them, as a new tensor.

    x: [length], the same length on each rank, not fewer elements than ranks.
    """
    raise NotImplementedError("reduce-scatter, then all-gather, from send and receive alone")


# %% [markdown] tags=["hint"]
# Begin with the lesson's `shift`: send to one side, receive from the other. If all ranks send
# first, all wait. What if every other rank receives first? Try it on paper with three ranks as
# well: two neighbours then do the same, and still nobody waits for ever.

# %% [markdown] tags=["hint"]
# `x.tensor_split(n)` cuts any length into $n$ pieces; they are views of `x`, so write into copies.
# Before receiving you need an empty tensor of the right length: that of the piece which comes, and
# not of the one which goes. In step $i$ of the reduce-scatter, rank $r$ receives piece
# $r {{BACK}} 1 {{BACK}} i$.

# %% [markdown] tags=["hint"]
# ```python
# def shift(piece, length):
#     incoming = piece.new_empty(length)
#     if rank % 2 == 0:  # send, then receive; odd ranks the other way round
# ```
# Reduce-scatter: begin with piece $r {{BACK}} 1$; in step $i = 1, \dots, n - 1$ shift, then add your
# own piece $r {{BACK}} 1 {{BACK}} i$. Now you hold piece $r$, complete. All-gather: in step $i$ shift
# again; what comes is the complete piece $r {{BACK}} i$. All indices modulo $n$; at the end
# `torch.cat`.

# %% [markdown] tags=["oral"]
# **Q.** Three ranks, and every other rank receives first. Two neighbours then do the same thing. Why
# does nobody wait for ever?
#
# **A.** Ranks 0 and 2 send first, rank 1 receives first. Rank 1 takes what one of them sends; that
# one can then receive, which frees the other. A circle needs everybody to wait in the same call.
#
# **Q.** Why do all ranks end with the same bits, although each adds numbers in an order of its own?
#
# **A.** They don't: each piece is summed once, along one way round the ring, and then copied. Two
# pieces have two orders, but each of them has only one.


# %% tags=["solution"]
def ring_all_reduce(x, send, receive):
    rank, n = dist.get_rank(), dist.get_world_size()
    side = {"right": 1, "left": -1}["{{ROUND}}"]

    def shift(piece, like):
        incoming = torch.empty_like(like)
        if rank % 2 == 0:
            send(piece, (rank + side) % n)
            receive(incoming, (rank - side) % n)
        else:
            receive(incoming, (rank - side) % n)
            send(piece, (rank + side) % n)
        return incoming

    mine = x.tensor_split(n)
    moving = mine[(rank - side) % n]
    for step in range(1, n):
        own = mine[(rank - side * (1 + step)) % n]
        moving = shift(moving, own) + own
    whole = [moving] * n
    for step in range(1, n):
        moving = shift(moving, mine[(rank - side * step) % n])
        whole[(rank - side * step) % n] = moving
    return torch.cat(whole)


# %% tags=["check"]
import re
from functools import cache

from minimtnlg.course.check import Feedback, expect
from minimtnlg.ranks import RankError

_PATIENCE = 10  # seconds; a job takes a fraction of one


def _program(student, length, whole_numbers):
    """What one rank does and reports: (result, its x before, its x after, its messages).

    A message is (kind, the other rank, elements).
    """
    rank, messages = dist.get_rank(), []
    x = torch.randn(length, dtype=torch.float64, generator=torch.Generator().manual_seed(rank))
    if whole_numbers:
        x = torch.arange(1, length + 1, dtype=torch.float64) * 10**rank
    before = x.clone()

    def counted_send(tensor, to):
        send(tensor, to)
        messages.append(("send", to, tensor.numel()))

    def counted_receive(tensor, source):
        receive(tensor, source)
        messages.append(("receive", source, tensor.numel()))

    result = student(x, counted_send, counted_receive)
    result = result.detach().clone() if isinstance(result, torch.Tensor) else result
    return result, before, x, messages


@cache  # several checks look at one job, and a deadlock is waited for once
def _job(student, n, length, whole_numbers=True):
    """(reports of the ranks, None), or (None, the RankError)."""
    try:
        return run(_program, n, student, length, whole_numbers, timeout=_PATIENCE), None
    except RankError as error:
        return None, error


def _reports(student, n, length, whole_numbers=True):
    """What `_program` returned on n ranks; a deadlock or another failure is put into words."""
    if (n, length) != (2, 8):
        _see_above(student, 2, 8)
    reports, error = _job(student, n, length, whole_numbers)
    if error is None:
        return reports
    if error.type == "NotImplementedError":
        raise NotImplementedError(error.message)
    if error.type != "TimeoutError":
        raise Feedback(
            f"{n} ranks, {length} elements", "each rank returns the sum",
            str(error).splitlines()[0], _where(error),
        )  # fmt: skip
    places = [line for line in str(error).splitlines() if line.startswith("rank")]
    raise Feedback(
        f"{n} ranks, {length} elements: does every rank return?", f"all {n}, at once",
        f"a deadlock; after {_PATIENCE} s " + ", ".join(places),
        "write down for each rank the call in which it waits, and for whom",
    )  # fmt: skip


def _target(student):
    """Reports of the job of `more_ranks`, which is the one to say why there are none."""
    _see_above(student, 2, 8)
    _see_above(student, RANKS, LENGTH)
    return _reports(student, RANKS, LENGTH)


def _see_above(student, n, length):
    """Short words if a job failed of which an earlier check has spoken: it is waited for once."""
    _, error = _job(student, n, length)
    if error and error.type != "NotImplementedError":
        raise Feedback(f"{n} ranks", "each rank returns", "not so; a check above says more")


def _sent(messages):
    """[(to, elements)] of what a rank has sent."""
    return [(to, size) for kind, to, size in messages if kind == "send"]


def _beats(logs):
    """How long the messages of all ranks take, one beat each, as early as both sides are free."""
    logs, free = [list(log) for log in logs], [0] * len(logs)
    moved = True
    while moved:
        moved = False
        for rank, log in enumerate(logs):
            if log and log[0][0] == "send":
                _, to, size = log[0]
                if logs[to] and logs[to][0] == ("receive", rank, size):
                    free[rank] = free[to] = max(free[rank], free[to]) + 1
                    del log[0], logs[to][0]
                    moved = True
    return max(free)


def _where(error):
    """The student's line in the report of a failed rank."""
    ours = ("_program", "counted_send", "counted_receive", "send", "receive", "existing")
    frames = re.findall(r"line (\d+), in (\S+)\n *(.+)", error.traceback)
    theirs = [frame for frame in frames if frame[1] not in ours]
    return "line {}, in {}: {}".format(*theirs[-1]) if theirs else ""


def _check_sum(student, n, length):
    reports = _reports(student, n, length)
    expected = sum(before for _, before, _, _ in reports)
    for rank, (result, *_) in enumerate(reports):
        what = f"the result on rank {rank} of {n}, {length} elements (rank r adds 10**r * (i + 1))"
        look_at = "divide it by i + 1: each digit tells how often one rank's x is in it"
        expect(result, expected, what, look_at)


def two_ranks(student):
    """Two ranks return, with the sum"""
    _check_sum(student, 2, 8)
    for rank, (*_, messages) in enumerate(_reports(student, 2, 8)):
        look_at = "the sum is to be built from the `send` and `receive` that are given"
        what = f"does rank {rank} of 2 use its `send`?"
        expect(bool(_sent(messages)), True, what, look_at)


def more_ranks(student):
    """The ranks of the target return, with the sum"""
    _check_sum(student, RANKS, LENGTH)


def leaves_the_input(student):
    """Each rank's own x is as before"""
    for rank, (_, before, after, _) in enumerate(_target(student)):
        look_at = "pieces made by chunk or tensor_split are views: += changes x"
        expect(after, before, f"x on rank {rank} of {RANKS} after the call", look_at)


def traffic(student):
    """Each rank sends 2 (n - 1) / n of the tensor"""
    for rank, (*_, messages) in enumerate(_target(student)):
        what = f"elements that rank {rank} of {RANKS} sends, for a tensor of {LENGTH}"
        look_at = f"each message is one piece of {RANKS}, in each of {2 * RANKS - 2} steps"
        if not _sent(messages):
            look_at = "only what goes through the `send` that your function is given is counted"
        expect(sum(size for _, size in _sent(messages)), SENT, what, look_at)


def goes_round_one_way(student):
    """Every message goes to the neighbour on the side of the statement"""
    for rank, (*_, messages) in enumerate(_target(student)):
        neighbour = (rank + 1 if ROUND == "right" else rank - 1) % RANKS
        what = f"the ranks to which rank {rank} of {RANKS} sends"
        look_at = f"the ring of the statement goes to the {ROUND}; the pieces follow it"
        expect(sorted({to for to, _ in _sent(messages)}), [neighbour], what, look_at)


# %% tags=["hidden"]
def three_ranks(student):
    """An odd number of ranks"""
    _check_sum(student, 3, 12)


def five_ranks(student):
    """Five ranks; what each sends, in how many messages"""
    _check_sum(student, 5, 20)
    for rank, (*_, messages) in enumerate(_reports(student, 5, 20)):
        what = f"elements in the messages of rank {rank} of 5, for a tensor of 20"
        sizes = [size for _, size in _sent(messages)]
        expect(sizes, [4] * 8, what, "2 (n - 1) messages of one piece each")


def uneven_length(student):
    """Lengths that the ranks do not divide"""
    for n, length in ((2, 3), (3, 4), (4, 5)):
        _check_sum(student, n, length)


def side_by_side(student):
    """Messages of different ranks move at the same time: 5 ranks are done in 24 beats"""
    beats = _beats([messages for *_, messages in _reports(student, 5, 20)])
    if beats > 24:
        raise Feedback(
            "beats until 5 ranks are done, one for a message", "24 at most", beats,
            "in the first step, which rank can begin only when another is done with its message?",
        )  # fmt: skip


def same_bits_everywhere(student):
    """All ranks hold the same bits, also where sums are rounded"""
    (first, *_), *others = _reports(student, 4, 64, whole_numbers=False)
    for rank, (other, *_) in enumerate(others, start=1):
        if not torch.equal(other, first):
            raise Feedback(
                f"the results of rank 0 and rank {rank} of 4 on random numbers",
                "the same bits", f"{int((other != first).sum())} of 64 numbers differ",
                "a piece is summed once, in one order, and then copied",
            )  # fmt: skip


# %% tags=["wrong"]
_SIDE = 1 if ROUND == "right" else -1


def _shift(piece, like, send, receive, side=_SIDE):
    rank, n = dist.get_rank(), dist.get_world_size()
    incoming = torch.empty_like(like)
    for sending in (True, False) if rank % 2 == 0 else (False, True):
        if sending:
            send(piece, (rank + side) % n)
        else:
            receive(incoming, (rank - side) % n)
    return incoming


def _scatter(x, send, receive, side=_SIDE):
    rank, n = dist.get_rank(), dist.get_world_size()
    mine = x.tensor_split(n)
    moving = mine[(rank - side) % n]
    for step in range(1, n):
        own = mine[(rank - side * (1 + step)) % n]
        moving = _shift(moving, own, send, receive, side) + own
    return mine, moving


def everybody_sends_first(x, send, receive):
    """Caught by: two_ranks. The code reads as though one rank did it: send, then receive."""
    rank, n = dist.get_rank(), dist.get_world_size()
    total, moving = x.clone(), x
    for _ in range(n - 1):
        incoming = torch.empty_like(x)
        send(moving, (rank + _SIDE) % n)
        receive(incoming, (rank - _SIDE) % n)
        total, moving = total + incoming, incoming
    return total


def sends_whole_tensors_round(x, send, receive):
    """Caught by: traffic. The right sum, and n - 1 tensors sent by each rank."""
    total, moving = x.clone(), x
    for _ in range(dist.get_world_size() - 1):
        moving = _shift(moving, moving, send, receive)
        total = total + moving
    return total


def rank_0_does_it(x, send, receive):
    """Caught by: traffic. One collects and hands out: right, and rank 0 sends n - 1 tensors."""
    rank, n = dist.get_rank(), dist.get_world_size()
    total = x.clone()
    if rank > 0:
        send(x, 0)
        receive(total, 0)
        return total
    for other in range(1, n):
        incoming = torch.empty_like(x)
        receive(incoming, other)
        total += incoming
    for other in range(1, n):
        send(total, other)
    return total


def leaves_it_to_the_library(x, send, receive):
    """Caught by: two_ranks. dist.all_reduce gives the sum, and nothing was built."""
    total = x.clone()
    dist.all_reduce(total)
    return total


def forgets_the_all_gather(x, send, receive):
    """Caught by: two_ranks. One complete piece each is taken for the end."""
    rank = dist.get_rank()
    mine, moving = _scatter(x, send, receive)
    return torch.cat([moving if i == rank else piece for i, piece in enumerate(mine)])


def adds_into_the_input(x, send, receive):
    """Caught by: leaves_the_input. Pieces are views of x; += and copy_ write into it."""
    rank, n = dist.get_rank(), dist.get_world_size()
    mine = x.tensor_split(n)
    for step in range(1, n):
        own = mine[(rank - _SIDE * (1 + step)) % n]
        own += _shift(mine[(rank - _SIDE * step) % n], own, send, receive)
    for step in range(1, n):
        piece = mine[(rank - _SIDE * step) % n]
        piece.copy_(_shift(mine[(rank - _SIDE * (step - 1)) % n], piece, send, receive))
    return x.clone()


def drops_the_remainder(x, send, receive):
    """Caught by: uneven_length. Pieces of length // n: what is left over is never added."""
    n = dist.get_world_size()
    even = len(x) // n * n
    return torch.cat([ring_all_reduce(x[:even], send, receive), x[even:]])


def cuts_with_chunk(x, send, receive):
    """Caught by: uneven_length. Of 5 elements chunk(4) makes three pieces, and not four."""
    rank, n = dist.get_rank(), dist.get_world_size()
    mine = x.chunk(n)
    moving = mine[(rank - _SIDE) % n]
    for step in range(1, n):
        own = mine[(rank - _SIDE * (1 + step)) % n]
        moving = _shift(moving, own, send, receive) + own
    whole = [moving] * n
    for step in range(1, n):
        place = (rank - _SIDE * step) % n
        whole[place] = moving = _shift(moving, mine[place], send, receive)
    return torch.cat(whole)


def rank_0_alone_receives_first(x, send, receive):
    """Caught by: side_by_side. The circle is cut at one place, so one message moves at a time."""
    rank, n = dist.get_rank(), dist.get_world_size()
    mine = x.tensor_split(n)

    def shift(piece, like):
        incoming = torch.empty_like(like)
        for sending in (True, False) if rank else (False, True):
            if sending:
                send(piece, (rank + _SIDE) % n)
            else:
                receive(incoming, (rank - _SIDE) % n)
        return incoming

    moving = mine[(rank - _SIDE) % n]
    for step in range(1, n):
        own = mine[(rank - _SIDE * (1 + step)) % n]
        moving = shift(moving, own) + own
    whole = [moving] * n
    for step in range(1, n):
        place = (rank - _SIDE * step) % n
        whole[place] = moving = shift(moving, mine[place])
    return torch.cat(whole)


def expects_what_it_sends(x, send, receive):
    """Caught by: uneven_length. The piece that comes is thought to be as long as the one sent."""
    rank, n = dist.get_rank(), dist.get_world_size()
    mine = x.tensor_split(n)
    moving = mine[(rank - _SIDE) % n]
    for step in range(1, n):
        own = mine[(rank - _SIDE * (1 + step)) % n]
        moving = _shift(moving, moving, send, receive) + own
    whole = [moving] * n
    for step in range(1, n):
        moving = _shift(moving, moving, send, receive)
        whole[(rank - _SIDE * step) % n] = moving
    return torch.cat(whole)


def forgets_to_close_the_ring(x, send, receive):
    """Caught by: two_ranks. The neighbour is the next number, also where there is none."""
    rank, incoming = dist.get_rank(), torch.empty_like(x)
    if rank % 2 == 0:
        send(x, rank + _SIDE)
        receive(incoming, rank - _SIDE)
    else:
        receive(incoming, rank - _SIDE)
        send(x, rank + _SIDE)
    return x + incoming


def one_piece_off(x, send, receive):
    """Caught by: two_ranks. After the reduce-scatter rank r is thought to hold piece r + 1."""
    rank, n = dist.get_rank(), dist.get_world_size()
    mine, moving = _scatter(x, send, receive)
    came = [moving]  # piece r, then that of the neighbour, ...
    for step in range(1, n):
        came.append(_shift(came[-1], mine[(rank - _SIDE * step) % n], send, receive))
    return torch.cat([came[(_SIDE * (rank - piece) + 1) % n] for piece in range(n)])


def the_other_way_round(x, send, receive):
    """Caught by: goes_round_one_way. The same ring turned round: only its direction is wrong."""
    rank, n = dist.get_rank(), dist.get_world_size()
    mine, moving = _scatter(x, send, receive, -_SIDE)
    whole = [moving] * n
    for step in range(1, n):
        place = (rank + _SIDE * step) % n
        whole[place] = moving = _shift(moving, mine[place], send, receive, -_SIDE)
    return torch.cat(whole)


def doubles_its_partners(x, send, receive):
    """Caught by: traffic. log2(n) exchanges look cheap; each of them is a whole tensor."""
    rank, n, distance = dist.get_rank(), dist.get_world_size(), 1
    total = x.clone()
    while distance < n:
        partner, incoming = rank ^ distance, torch.empty_like(x)
        for sending in (True, False) if rank < partner else (False, True):
            if sending:
                send(total, partner)
            else:
                receive(incoming, partner)
        total, distance = total + incoming, 2 * distance
    return total
