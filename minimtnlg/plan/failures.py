"""What a checkpoint weighs, how often one pays, and what failures cost a run.

- The best interval between saves: Young's first order [S44], Daly's higher one [S45].
- The share of time that's lost, by Daly's exact model; and one run, played failure by failure.

All times have one unit, here called seconds. An interval counts the computing between two saves,
without the save itself: from the end of one to the beginning of the next.
"""

import math
import random
from typing import NamedTuple

from minimtnlg.errors import InputError

WRITE = 273e9  # bytes/s of saves to Selene's file system, 40 % of its peak [S12, sec. 5.10]
READ = 1e12  # bytes/s at most when 384 nodes load a checkpoint from it [S12, sec. 5.10]

# Bytes a parameter: weight, gradient, master, moments. In 16 bits a gradient is also summed in
# fp32: 2 + 4. From fp32 on a weight is its own master, and a gradient its own sum.
STATES = {
    "bfloat16": (2, 2 + 4, 4, 4 + 4),
    "float16": (2, 2 + 4, 4, 4 + 4),
    "float32": (4, 4, 0, 4 + 4),
    "float64": (8, 8, 0, 8 + 8),
}


def state_bytes(config):
    """{state: exact bytes} that a run holds once, over all ranks of a replica.

    20 bytes a parameter in 16 bits [S3, sec. 2.1.1]: 10.6 TB for MT-NLG.
    """
    sizes = STATES[config.train.dtype]
    names = "weights", "gradients", "masters", "moments"
    return {n: size * config.model.parameters() for n, size in zip(names, sizes, strict=True)}


def checkpoint_bytes(config):
    """{state: exact bytes} of a checkpoint: the states without gradients, which a step makes anew.

    14 bytes a parameter in 16 bits: 7.4 TB for MT-NLG, and 2 % more than the 13.8 TB that S12,
    sec. 5.10, tells of 1 T parameters.
    """
    return {name: size for name, size in state_bytes(config).items() if name != "gradients"}


def save_seconds(bytes, bytes_per_second=WRITE):
    """Seconds to write so many bytes; with READ, to load them."""
    _positive(bytes=bytes, bytes_per_second=bytes_per_second)
    return bytes / bytes_per_second


def mtbf(node_mtbf, nodes):
    """Mean time between failures of a cluster whose nodes fail by themselves."""
    _positive(node_mtbf=node_mtbf, nodes=nodes)
    return node_mtbf / nodes


def young(cost, mtbf):
    """Best interval to first order, sqrt(2 C M), for a cost of a save far below the mtbf [S44].

    Then saves take as long as failures throw away, half an interval each.
    """
    _positive(cost=cost, mtbf=mtbf)
    return math.sqrt(2 * cost * mtbf)


def daly(cost, mtbf):
    """Best interval to a higher order, for any cost of a save [S45]."""
    _positive(cost=cost, mtbf=mtbf)
    if cost >= 2 * mtbf:
        return mtbf
    x = math.sqrt(cost / (2 * mtbf))
    return math.sqrt(2 * cost * mtbf) * (1 + x / 3 + x * x / 9) - cost


def lost_fraction(interval, cost, restart, mtbf):
    """Expected share of the wall time that isn't progress: saves, lost work and restarts.

    Daly's exact model [S45]: failures at exponential gaps, which hit saves and restarts too. Work
    takes M exp(R/M) (exp((tau + C)/M) - 1) / tau times its own length, the inverse of what is left.
    """
    _positive(interval=interval, cost=cost, restart=restart, mtbf=mtbf)
    period = (interval + cost) / mtbf
    return 1 - interval / mtbf * math.exp(-period - restart / mtbf) / -math.expm1(-period)


class Played(NamedTuple):
    """One run: its seconds are the work and the three parts, exactly."""

    seconds: float
    failures: int
    lost: float  # seconds of work that failures threw away
    saving: float  # seconds that saves stopped the run, those that failed too
    restarting: float  # seconds of restarts, those that failed too


def simulate(work, interval, cost, restart, mtbf, seed, delay=None):
    """Play one run to its end, from failure to failure: Played.

    work: seconds of computing. A save follows every interval and the end. It stops the run for
    `cost` and can be loaded `delay` after it began; delay=None: a save that isn't asynchronous.
    """
    delay = cost if delay is None else delay
    _positive(work=work, interval=interval, cost=cost, restart=restart, mtbf=mtbf, delay=delay)
    period = interval + cost
    if not cost <= delay <= period:
        raise InputError(f"delay={delay:g} isn't from cost={cost:g} to interval + cost={period:g}")
    if interval + delay + restart > 10 * mtbf:
        raise InputError(f"interval={interval:g} and a restart hardly ever fit in mtbf={mtbf:g}")
    draw = random.Random(seed)
    saves, saved, failures = math.ceil(work / interval), 0, 0
    lost, saving, restarting, again = 0.0, 0.0, 0.0, 0.0  # again: the first start is free
    while True:
        up = draw.expovariate(1 / mtbf) - again  # until the next failure
        left = work - saved * interval
        needed = left + (saves - saved - 1) * cost + delay
        if up >= needed:
            saving, restarting = saving + needed - left, restarting + again
            return Played(work + lost + saving + restarting, failures, lost, saving, restarting)
        failures, restarting = failures + 1, restarting + again + min(up, 0)
        again, up = restart, max(up, 0)
        computed = min(left, up // period * interval + min(up % period, interval))
        kept = max(0, int((up - interval - delay) // period) + 1)  # saves that can be loaded
        saved, saving = saved + kept, saving + up - computed
        lost += computed - kept * interval


def _positive(**numbers):
    """InputError for the first number that isn't above zero and finite."""
    for name, value in numbers.items():
        if not 0 < value < math.inf:
            raise InputError(f"{name}={value:g} must be a finite number above zero")
