# ---
# mark: 1
# minutes: 10
# help: worked
# needs: [rank, process group, collective]
# draws:
#   ROUND: [right, left]
#   GIVEN: [the whole tensor, one piece]
#   ORDER: [[0, 2, 1, 3, 6, 4, 7, 5], [0, 3, 6, 1, 4, 7, 2, 5], [7, 0, 2, 1, 5, 3, 6, 4]]
# ---

# %% [markdown]
# # Bytes round a ring
#
# Eight GPUs stand in machines of two: ranks 0 and 1 in machine 0, ranks 2 and 3 in machine 1, and
# so on. A ring may go through them in any order. How many bytes does each link between two machines
# carry?
#
# The order lists the ranks round the ring; each rank sends to its {{ROUND}} neighbour in this list:
# `order[i]` sends to `order[i {{SIGN}} 1]`, and the ring is closed. A link goes one way: what
# machine 0 sends to machine 1 is `links[0, 1]`, and the way back is `links[1, 0]`. What stays in a
# machine crosses no link. `k` is the number of bytes of {{GIVEN}}. (A piece is an $n$-th of the
# tensor.)
#
# `ring_of_ranks` is the worked example: a ring 0, 1, 2, ... to the right, an all-gather, and `k`
# bytes in the whole tensor. With 4 ranks, two in a machine, and $k = 400$, each
# rank sends 3 messages of 100 bytes. Rank 1 sends them from machine 0 to 1, rank 3 from 1 to 0:
# `{(0, 1): 300.0, (1, 0): 300.0}`.
#
# **Target:** an all-reduce in the order {{ORDER}} with `k` = 8000 makes {{LINKS}} links busy, and the
# busiest carries {{BUSIEST}} bytes. As a puzzle: which orders make the busiest link carry the
# least, and which the most? (The picture below the last check answers, once all have passed.)

# %% tags=["target"]
SIGN = {"right": "+", "left": "-"}[ROUND]
piece, crossed = (1000 if GIVEN == "the whole tensor" else 8000), {}
for _ in range(14):  # every message of an all-reduce, one by one
    for i in range(8):
        pair = ORDER[i] // 2, ORDER[(i + (1 if ROUND == "right" else -1)) % 8] // 2
        if pair[0] != pair[1]:
            crossed[pair] = crossed.get(pair, 0) + piece
LINKS, BUSIEST = len(crossed), max(crossed.values())

# %%
def ring_of_ranks(n, gpus, k):
    """{(machine, machine): bytes} of an all-gather of k bytes in all, n ranks in a ring."""
    piece, messages = k / n, n - 1  # what each rank sends
    links = {}
    for rank in range(n):
        here, there = rank // gpus, (rank + 1) % n // gpus
        if here != there:
            links[here, there] = links.get((here, there), 0) + messages * piece
    return links


# %% tags=["stub"]
def ring_links(order, gpus, operation, k):
    """{(machine, machine): bytes} for each link that carries any.

    order: the ranks, round the ring. gpus: in a machine. operation: "all_reduce", "all_gather" or
    "reduce_scatter". k: bytes of {{GIVEN}}.
    """
    n = len(order)
    piece, messages = k / n, n - 1  # right for which k, and for which operations?
    raise NotImplementedError("go round `order` as ring_of_ranks goes round range(n)")
    return {("here", "there"): messages * piece}


# %% [markdown] tags=["hint"]
# Change three things in `ring_of_ranks`: where the next rank comes from, how many messages each
# rank sends, and how long a message is.

# %% [markdown] tags=["hint"]
# A reduce-scatter takes as many messages as an all-gather, and an all-reduce is one after the
# other. Whatever the operation, a message is one piece: an $n$-th of the whole tensor.

# %% [markdown] tags=["hint"]
# ```python
# for i in range(n):
#     here, there = order[i] // gpus, order[(i {{SIGN}} 1) % n] // gpus
# ```
# The rest of the loop is that of `ring_of_ranks`. `messages` is `n - 1`, and twice that for an
# all-reduce.

# %% [markdown] tags=["oral"]
# **Q.** You turn the ring round, so that everybody sends to the other side. Which numbers change?
#
# **A.** Each link's bytes become those of the link back. The sums and the busiest number stay.
#
# **Q.** Two ranks in each machine. Which order is best for the links, and how does the busiest link
# grow with the number of GPUs in a machine?
#
# **A.** Machine after machine: then one rank of each machine sends out of it, so a link carries what
# one rank sends, however many GPUs are in the machine.


# %% tags=["solution"]
def ring_links(order, gpus, operation, k):
    n = len(order)
    piece = {"the whole tensor": k / n, "one piece": k}["{{GIVEN}}"]
    messages = 2 * (n - 1) if operation == "all_reduce" else n - 1
    neighbour = {"right": 1, "left": -1}["{{ROUND}}"]
    carried = {}
    for i in range(n):
        here, there = order[i] // gpus, order[(i + neighbour) % n] // gpus
        if here != there:
            carried[here, there] = carried.get((here, there), 0) + messages * piece
    return carried


# %% tags=["check"]
from minimtnlg.course.check import Feedback, expect

_OPERATIONS = {"all_reduce": 14, "all_gather": 7, "reduce_scatter": 7}  # steps of eight ranks


def _moved(order, gpus, operation, k):
    """The links' bytes, by moving every piece of every step round the ring."""
    n, links = len(order), {}
    steps = (n - 1) * (2 if operation == "all_reduce" else 1)
    size = k if GIVEN == "one piece" else k / n
    following = order[1:] + order[:1] if ROUND == "right" else order[-1:] + order[:-1]
    for _ in range(steps):
        for source, to in zip(order, following, strict=True):
            if source // gpus != to // gpus:
                pair = source // gpus, to // gpus
                links[pair] = links.get(pair, 0.0) + size
    return links


def _check(student, order, gpus, operation, k):
    what = f"bytes on the links, {operation}, order {order}, {gpus} GPUs in a machine, k {k}"
    got, right = student(list(order), gpus, operation, k), _moved(order, gpus, operation, k)
    if not isinstance(got, dict):
        raise Feedback(what, "a dict {(machine, machine): bytes}", got, "the docstring")
    expect(got, right, what, _mistake(got, right, operation))


def _mistake(got, right, operation):
    """What to look at, as far as the wrong links tell."""
    if any(isinstance(pair, tuple) and pair[:1] == pair[1:] for pair in got):
        return "what stays in a machine crosses no link"
    if set(got) != set(right):
        return f"order[i] sends to order[i {SIGN} 1], round the ring; a link goes one way"
    try:
        factors = {round(got[pair] / right[pair], 6) for pair in right}
    except TypeError:
        return ""
    if len(factors) == 1:
        return f"how many messages does a rank send, and how long is one? k is that of {GIVEN}"
    return "a link carries what all ranks send over it"


def the_target(student):
    """An all-reduce in the order of the target"""
    _check(student, ORDER, 2, "all_reduce", 8000)


def three_collectives(student):
    """All three collectives"""
    for operation in _OPERATIONS:
        _check(student, ORDER, 2, operation, 8000)


def machine_after_machine(student):
    """The ranks in their order: one rank of each machine sends out of it"""
    _check(student, list(range(8)), 2, "all_gather", 800)


# %% tags=["hidden"]
def other_sizes(student):
    """Other numbers of ranks, also three in a machine, and a single machine"""
    for order, gpus in (([0, 3, 1, 6, 4, 7, 2, 8, 5], 3), ([2, 0, 1], 1), ([3, 1, 2, 0], 4)):
        for operation in _OPERATIONS:
            _check(student, order, gpus, operation, 900)


def twice_over_one_link(student):
    """Two ranks of one machine send to the same machine"""
    _check(student, [0, 2, 1, 3, 4, 5], 2, "reduce_scatter", 600)
    _check(student, [0, 4, 1, 5, 3, 2], 2, "reduce_scatter", 600)


def of_real_messages(student):
    """What four real ranks send in an all-gather along the ring"""
    import torch
    import torch.distributed as dist

    from minimtnlg import run

    order = [0, 3, 1, 2]

    def program():
        rank, n, sent = dist.get_rank(), len(order), []
        side = 1 if ROUND == "right" else -1
        place = order.index(rank)
        to, source = order[(place + side) % n], order[(place - side) % n]
        piece = torch.zeros(5, dtype=torch.float64)
        for _ in range(n - 1):
            incoming = torch.empty_like(piece)
            work = dist.isend(piece, to)
            dist.recv(incoming, source)
            work.wait()
            sent.append((rank, to, piece.nbytes))
            piece = incoming
        return sent

    right = {}
    for source, to, size in sum(run(program, 4, timeout=60), []):
        right[source, to] = right.get((source, to), 0.0) + size
    got = student(order, 1, "all_gather", 40 if GIVEN == "one piece" else 160)
    expect(got, right, "bytes that real ranks sent in an all-gather, each in its own machine")


# %% tags=["wrong"]
_SIDE = 1 if ROUND == "right" else -1


def _links(order, gpus, sent, side=_SIDE, inside=False, closed=True, adds=True):
    """{(machine, machine): bytes} where each rank sends `sent` bytes."""
    n, links = len(order), {}
    for i in range(n):
        if not closed and i + side in (-1, n):
            continue
        pair = order[i] // gpus, order[(i + side) % n] // gpus
        if inside or pair[0] != pair[1]:
            links[pair] = sent + (links.get(pair, 0) if adds else 0)
    return links


def _sent(order, operation, k):
    messages = (2 if operation == "all_reduce" else 1) * (len(order) - 1)
    return messages * (k if GIVEN == "one piece" else k / len(order))


def other_side(order, gpus, operation, k):
    """Caught by: the_target. Everybody sends to the other neighbour."""
    return _links(order, gpus, _sent(order, operation, k), side=-_SIDE)


def other_k(order, gpus, operation, k):
    """Caught by: the_target. k is taken for the whole tensor where it is a piece, or vice versa."""
    n = len(order)
    return ring_links(order, gpus, operation, k / n if GIVEN == "one piece" else k * n)


def all_reduce_as_one_way(order, gpus, operation, k):
    """Caught by: the_target. An all-reduce is thought to be n - 1 messages."""
    return ring_links(order, gpus, "all_gather", k)


def all_twice(order, gpus, operation, k):
    """Caught by: three_collectives. Every collective is thought to send 2 (n - 1) pieces."""
    return ring_links(order, gpus, "all_reduce", k)


def in_the_order_of_the_ranks(order, gpus, operation, k):
    """Caught by: the_target. Rank r is thought to send to rank r + 1, whatever the order."""
    return ring_links(sorted(order), gpus, operation, k)


def counts_inside(order, gpus, operation, k):
    """Caught by: machine_after_machine. What stays in a machine is listed too."""
    return _links(order, gpus, _sent(order, operation, k), inside=True)


def leaves_the_ring_open(order, gpus, operation, k):
    """Caught by: the_target. The last in the list is thought to send to nobody."""
    return _links(order, gpus, _sent(order, operation, k), closed=False)


def forgets_the_other_rank(order, gpus, operation, k):
    """Caught by: twice_over_one_link. A link is set, not added to."""
    return _links(order, gpus, _sent(order, operation, k), adds=False)


def both_ways_in_one(order, gpus, operation, k):
    """Caught by: the_target. A link is thought to have no direction."""
    links = {}
    for (a, b), size in ring_links(order, gpus, operation, k).items():
        links[min(a, b), max(a, b)] = links.get((min(a, b), max(a, b)), 0) + size
    return links


def whole_tensors(order, gpus, operation, k):
    """Caught by: the_target. Whole tensors are thought to travel round."""
    return ring_links(order, gpus, operation, k * len(order))


def two_in_a_machine(order, gpus, operation, k):
    """Caught by: other_sizes. The number of GPUs in a machine is that of the target."""
    return ring_links(order, 2, operation, k)


# %% tags=["picture"]
def traffic(student):
    """The bytes on each link in the order of the target."""
    import matplotlib.pyplot as plt

    links = student(list(ORDER), 2, "all_reduce", 8000)
    fig, ax = plt.subplots(figsize=(5, 3.8))
    ax.imshow([[links.get((a, b), 0) for b in range(4)] for a in range(4)], cmap="Greys", vmin=0)
    for (a, b), size in links.items():
        ink = "white" if 2 * size > max(links.values()) else "black"
        ax.text(b, a, f"{size / 1000:g}", ha="center", va="center", color=ink)
    ax.set(xticks=range(4), yticks=range(4), xlabel="to machine", ylabel="from machine")
    ax.grid(False)
    title = "Thousands of bytes on each link"
    if links == _moved(ORDER, 2, "all_reduce", 8000):  # the answer of the puzzle
        one = 14 * (8000 if GIVEN == "one piece" else 1000)
        title += f"\nThe busiest of any order: at least {one / 1000:g}, what one rank sends"
        title += f",\nand {2 * one / 1000:g} where both ranks of a machine send to the same one"
    ax.set_title(title, fontsize=10)
    told = ", ".join(f"{a} to {b} {size:g}" for (a, b), size in sorted(links.items()))
    return fig, f"Bytes on each link between machines, in the order {ORDER}: {told}. {title}."
