"""Is this cluster fit for a job? Ten minutes: the rate of each rank and wire, and a verdict.

    torchrun --nproc-per-node 8 scaling/probe.py                         # on a node of eight GPUs
    torchrun --nproc-per-node 2 scaling/probe.py --seconds 1 --mib 16    # on a laptop

- Products: each rank multiplies large matrices by itself, in bf16 on a GPU, fp32 on a CPU. A
  collective can't find a slow rank: the others wait for it, and all take the same time.
- Sums: an all-reduce among the ranks of each node, then among those with the same number in their
  node, all groups at once: tensor and data groups of Layout(tp=ranks of a node, dp=nodes).
- Exchanges: neighbours in these groups, a pair at a time, both ways at once. A bad wire shows in
  one pair, a bad rank in all of its pairs.
- Bus bandwidth: in an all-reduce among n ranks each sends 2 (n-1)/n of its tensor, on a ring. These
  bytes over the seconds are what one rank puts on its wire, so that they can be compared with the
  wire, whatever n. nccl-tests calls it busbw [S41].
- Verdict: exit status 1 where a rank, group or pair is below --slow x the median of its kind, or
  below half of what device and wires promise: then all of them may have taken a wrong way.
- The promise is that of a DGX with eight GPUs. The same GPUs have been built into nodes with fewer
  wires: say yours with --near and --far. With gloo nothing is promised but what these two say.
"""

import json
import math
import os
import socket
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import torch
import torch.distributed as dist
import typer
from torch.distributed.rendezvous import rendezvous

from minimtnlg import device
from minimtnlg.errors import InputError
from minimtnlg.files import appearing
from minimtnlg.parallel.collectives import all_reduce, exchange, wire_bytes
from minimtnlg.parallel.layout import Layout
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.train.start import launched

# By a part of the device's name: TFLOP/s in bf16, and GB/s each way of a GPU inside a node and
# between nodes. Where the switches add up, a sum can be faster than the wire [S41].
PROMISED = {
    "A100-SXM4": (312, 300, 25),  # [S3, sec. 2.3]; NVLink [S14]; one 200 Gb/s port a GPU [S12]
    "H100 80GB HBM3": (989, 450, 50),  # SXM, one 400 Gb/s port a GPU, as in a DGX H100 [S42]
}
FAR = 0.5  # below this share of the promise something else than slowness is wrong
PATIENCE = timedelta(minutes=5)  # then a dead wire or a missing rank ends the check


@dataclass(frozen=True)
class Rates:
    """One kind of measurement: {who: rate} and what is promised (None: nothing), in `unit`."""

    what: str
    unit: str
    values: dict
    promised: float | None

    @property
    def median(self):
        """Of all rates."""
        return statistics.median(self.values.values())

    def slow(self, factor):
        """Sentences about who is below factor x the median or FAR x the promise, slowest first."""
        for who, rate in sorted(self.values.items(), key=lambda pair: pair[1]):
            told = f"{who}: {self.what} at {rate:.3g} {self.unit}"
            if rate < factor * self.median:
                yield f"{told}, {rate / self.median:.2f} of the median"
            elif self.promised and rate < FAR * self.promised:
                share = f"{rate / self.promised:.2f} of what is promised"
                yield f"{told}, {share}" + " (a DGX: yours? --near, --far)" * (self.unit == "GB/s")


def gathered(mine):
    """{who: rate} of all ranks; where two have measured the same, the slower one counts."""
    everyone, values = [mine] * (dist.get_world_size() if dist.is_initialized() else 1), {}
    if dist.is_initialized():
        dist.all_gather_object(everyone, mine)
    for who, rate in (pair for rates in everyone for pair in rates.items()):
        values[who] = min(rate, values.get(who, math.inf))
    return values


def place():
    """(rank, world, local rank, ranks of this node) as a launcher says; (0, 1, 0, 1) without one.

    A launcher that says nothing of nodes has one rank on each. InputError for what makes no sense.
    """
    rank, world = launched()
    if world is None and int(os.environ.get("SLURM_NTASKS", 1)) > 1:
        raise InputError(
            "srun has started several of these, and told none its RANK: use on_all_ranks of a "
            "script that `minimtnlg launch --target slurm` writes"
        )
    if world is None:
        return 0, 1, 0, 1
    local, size = os.environ.get("LOCAL_RANK", 0), os.environ.get("LOCAL_WORLD_SIZE", 1)
    return rank, world, int(local), int(size)


def meet(store, rank, world, local, size):
    """The host of each rank; InputError, on every rank, where nodes aren't alike or what they seem.

    store: a torch.distributed.Store of all ranks. Nothing else is needed: a node that has lost a
    GPU is found here, before its ranks and the others wait for each other in two libraries.
    """
    mine = [socket.gethostname(), device.name(), torch.__version__, size, local]
    store.set(f"probe/{rank}", json.dumps(mine))
    told = [json.loads(x) for x in store.multi_get([f"probe/{r}" for r in range(world)])]
    one, *like = told[0][:4]
    for r, (host, *rest, there) in enumerate(told):
        if rest != like:
            mine, theirs = ("{}, torch {}, {} ranks".format(*x) for x in (like, rest))
            raise InputError(
                f"{one}, with rank 0, has {mine}, but {host}, with rank {r}, has {theirs}: "
                "take nodes that are alike"
            )
        first = r - r % size
        if there != r % size or host != told[first][0]:
            raise InputError(
                f"rank {r} of {world} has LOCAL_RANK {there} on {host}, rank {first} is on "
                f"{told[first][0]}: number ranks node by node, {size} on each, as torchrun does"
            )
    return [host for host, *_ in told]


def promised(name, size, near=None, far=None):
    """(TFLOP/s, GB/s inside a node, GB/s between nodes) of a device; None where nothing is.

    Wires are those of a DGX, so of nodes with eight ranks, but for what `near` and `far` say.
    """
    known = [rates for part, rates in PROMISED.items() if part in name]
    flops, *wires = known[0] if known else (None, None, None)
    dgx = wires if size == 8 else (None, None)
    return flops, *(given or of for given, of in zip((near, far), dgx, strict=True))


def measure(hosts, rank, size, seconds, nbytes, say=lambda text: None, wires=(None, None)):
    """[Rates], the same on every rank; each kind takes `seconds`, and what is sent is `nbytes`.

    hosts  name of the host of each rank, `size` ranks to a node
    say    is told what begins
    wires  GB/s inside and between nodes where they are not a DGX's
    """
    name = device.name() if device.backend() == "nccl" else "nothing is known of a CPU"
    flops, near, far = promised(name, size, *wires)
    say(f"ranks: {len(hosts)}, on a node: {size}, {device.name()}; multiplying")
    names = [f"rank {r} on {host}" for r, host in enumerate(hosts)]
    mine = {names[rank]: multiply(seconds) / 1e12}
    kinds = [Rates("products", "TFLOP/s", gathered(mine), flops)]
    if len(hosts) == 1:
        return kinds
    mesh = Mesh(Layout(tp=size, dp=len(hosts) // size))
    node, local = divmod(rank, size)
    paths = [
        ("inside nodes", mesh.tp, f"node {node} ({hosts[rank]})", near),
        ("between nodes", mesh.dp, f"rank {local} of each node", far),
    ]
    for where, group, group_name, rate in paths:
        if group is not None:
            say(f"adding up {where}")
            mine = {group_name: add_up(group, nbytes, seconds) / 1e9}
            kinds.append(Rates(f"sums {where}", "GB/s", gathered(mine), rate))
            say(f"exchanging {where}")
            there = swap(group, nbytes, seconds).items()
            mine = {" and ".join(names[r] for r in sorted((rank, p))): b / 1e9 for p, b in there}
            kinds.append(Rates(f"exchanges {where}", "GB/s", gathered(mine), rate))
    return kinds


def multiply(seconds):
    """FLOP/s of matrix products on this rank, sustained: the median over the later half.

    By then the chip is warm, and one that gets too hot has lowered its clock.
    """
    # Ranks on a CPU may share cores: products so short that some are not interrupted.
    cpu = device.device().type == "cpu"
    dtype, size = (torch.float32, 256) if cpu else (torch.bfloat16, None)
    rates, end = [], time.perf_counter() + seconds
    while not rates or time.perf_counter() < end:
        rates.append(device.matmul_flops(dtype, size))
    return statistics.median(rates[len(rates) // 2 :])


def add_up(group, nbytes, seconds):
    """Bus bandwidth, bytes/s, of an all-reduce of `nbytes` in this rank's group."""
    x = torch.zeros(nbytes // 4, device=device.device())  # zeros add up without overflow
    median = _seconds(lambda: all_reduce(x, group), seconds)
    return wire_bytes("all_reduce", x.nbytes, group.size()) / median


def swap(group, nbytes, seconds):
    """{neighbour in the ring of the group: bytes/s that each of the two sends the other}.

    The group has made a call together before, as NCCL demands of the first one.
    """
    ranks = dist.get_process_group_ranks(group)
    x, y = (torch.zeros(nbytes // 4, device=device.device()) for _ in "xy")
    found, rounds = {}, pairs(len(ranks))
    for partners in rounds:
        peers = [ranks[i] for i in partners.get(group.rank(), [])]  # one, or nobody this time

        def call(peers=peers):
            for work in exchange([(x, p) for p in peers], [(y, p) for p in peers], group):
                work.wait()

        median = _seconds(call, seconds / len(rounds))
        found |= {peer: x.nbytes / median for peer in peers}
    return found


def pairs(n):
    """Rounds of {index: [neighbour]}: all neighbours in a ring of n meet once, two at a time.

    pairs(4) is [{0: [1], 1: [0], 2: [3], 3: [2]}, {1: [2], 2: [1], 3: [0], 0: [3]}].
    """
    rounds = [{}, {}, {}]
    for i in range(n if n > 2 else 1):
        left_over = n % 2 and i == n - 1  # in an odd ring, both of its ends meet in other rounds
        rounds[2 if left_over else i % 2] |= {i: [(i + 1) % n], (i + 1) % n: [i]}
    return [partners for partners in rounds if partners]


def _seconds(call, seconds):
    """Median seconds of a call that all ranks repeat together for about `seconds`."""
    _timed(call)  # opens the connections
    slowest = torch.tensor(_timed(call), dtype=torch.float64, device=device.device())
    all_reduce(slowest, dist.group.WORLD, "max")  # they have to agree how often
    times = min(max(math.ceil(seconds / slowest.item()), 3), 10_000)
    return statistics.median(_timed(call) for _ in range(times))


def _timed(call):
    device.synchronize()
    start = time.perf_counter()
    call()
    device.synchronize()
    return time.perf_counter() - start


def table(kinds):
    """The rates as text: a line for each kind, with the name of the slowest."""
    rows = [("", "slowest", "median", "fastest", "promised", "slowest is")]
    for kind in kinds:
        who = min(kind.values, key=kind.values.get)
        shown = kind.values[who], kind.median, max(kind.values.values()), kind.promised
        numbers = ["-" if x is None else f"{x:.3g}" for x in shown]
        rows.append((f"{kind.what}, {kind.unit}", *numbers, who))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    line = "  ".join(f"{{:{'<' if i in (0, 5) else '>'}{w}}}" for i, w in enumerate(widths))
    return "\n".join(line.format(*row).rstrip() for row in rows)


def check(seconds, mib, slow, file, wires=(None, None)):
    """Measure, print on rank 0, write `file` there; return the sentences about who is slow."""
    rank, world, local, size = place()
    if rank == 0 and file and (file.is_dir() or not os.access(file.parent, os.W_OK)):
        raise InputError(f"--json {file}: no file can be written there")
    device.select()
    store = next(rendezvous("env://", timeout=PATIENCE))[0] if world > 1 else dist.HashStore()
    hosts = meet(store, rank, world, local, size)
    if world > 1:
        of = {"store": store, "rank": rank, "world_size": world, "timeout": PATIENCE}
        dist.init_process_group(device.backend(), **of)

    def say(text):
        if rank == 0:
            print(text, file=sys.stderr, flush=True)

    kinds = measure(hosts, rank, size, seconds, mib * 2**20, say, wires)
    found = [line for kind in kinds for line in kind.slow(slow)]
    if rank == 0:
        print(table(kinds))
        print(*(["not fit:", *found] if found else ["fit: nobody is slow"]), sep="\n")
        if file:
            here = {"device": device.name(), "hosts": hosts, "ranks_per_node": size}
            asked = {"seconds": seconds, "mib": mib, "slow": slow}
            result = here | asked | {"rates": [asdict(k) for k in kinds], "found": found}
            with appearing(file) as aside:
                aside.write_text(json.dumps(result, indent=1) + "\n")
    return found


def main(
    seconds: Annotated[int, typer.Option(min=0, help="For each kind of measurement.")] = 60,
    mib: Annotated[int, typer.Option(min=1, help="MiB of a tensor that is sent.")] = 256,
    slow: Annotated[float, typer.Option(min=0, max=1, help="Of the median: below is slow.")] = 0.8,
    near: Annotated[float | None, typer.Option(help="GB/s of a GPU each way in a node.")] = None,
    far: Annotated[float | None, typer.Option(help="The same between nodes.")] = None,
    file: Annotated[Path | None, typer.Option("--json", help="Also write all rates here.")] = None,
):
    """Measure every rank and every wire; exit status 1 if one of them is slow, 2 on bad input."""
    try:
        found = check(seconds, mib, slow, file, (near, far))
    except InputError as error:
        print(f"probe.py: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    except (RuntimeError, OSError) as error:  # whatever a library makes of a dead wire
        who, reason = os.environ.get("RANK", 0), str(error).strip().partition("\n")[0]
        print(f"probe.py: rank {who} on {socket.gethostname()}: {reason}", file=sys.stderr)
        os._exit(1)  # at once: to close what hangs might hang
    if dist.is_initialized():
        dist.destroy_process_group()
    raise typer.Exit(1 if found else 0)


if __name__ == "__main__":
    typer.run(main)
