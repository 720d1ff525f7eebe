"""Which layouts can be: the rules between model, layout and batches, each with what would fit.

Pure arithmetic over the sections of a configuration; config.py asks at every construction.
"""

import math


def broken(model, parallel, train):
    """Yield a sentence for each rule that this combination breaks: key, value, what would fit.

    model, parallel, train: config.Model, Parallel and Train. As long as parallel.dp is "auto", it
    counts as 1: what can't be cut for one replica can't be cut for several.
    """
    yield from _tensor(model, parallel)
    yield from _pipeline(model, parallel)
    if parallel.zero > 1 and parallel.pp > 1:
        yield (
            f"parallel.zero={parallel.zero} with parallel.pp={parallel.pp}: stages 2 and 3 of ZeRO "
            "would send gradients or weights for each micro-batch of the pipeline: choose "
            "parallel.zero=1 or parallel.pp=1"
        )
    if parallel.recompute == "selective" and model.attention == "sdpa":
        yield (
            "parallel.recompute=selective with model.attention=sdpa, a kernel that recomputes the "
            "attention core itself: choose model.attention=readable, or recompute none or full"
        )
    yield from _batches(parallel, train)


def _tensor(model, parallel):
    t = parallel.tp
    cut = {"heads": model.heads, "vocab": model.vocab}
    if parallel.sequence_parallel:
        cut["seq"] = model.seq
    fits = near_divisors(math.gcd(*cut.values()), t)
    for key, value in cut.items():
        if value % t:
            why = ", cut by parallel.sequence_parallel" * (key == "seq")
            yield f"parallel.tp={t} does not divide model.{key}={value}{why}: choose one of {fits}"
    if parallel.sequence_parallel and t == 1:
        yield (
            "parallel.sequence_parallel=true with parallel.tp=1: it cuts among the tensor-parallel "
            "ranks what they all hold; choose a tp above 1 or switch it off"
        )


def _pipeline(model, parallel):
    p, v, interleaved = parallel.pp, parallel.virtual, parallel.schedule == "interleaved"
    if v > 1 and not interleaved:
        yield (
            f"parallel.virtual={v} with parallel.schedule={parallel.schedule}: only the "
            "interleaved schedule has more than one chunk a stage; choose it, or virtual=1"
        )
    if interleaved and p == 1:
        yield (
            "parallel.schedule=interleaved with parallel.pp=1: it needs two stages or more; choose "
            "a pp above 1 or parallel.schedule=1f1b"
        )
    elif interleaved and v == 1:
        yield (
            "parallel.schedule=interleaved with parallel.virtual=1 is 1f1b: choose "
            "parallel.virtual=2 or more, or parallel.schedule=1f1b"
        )
    elif interleaved and model.layers % (p * v):
        yield (
            f"parallel.pp={p} x parallel.virtual={v} does not divide model.layers={model.layers}, "
            "as the interleaved schedule needs: choose a product of "
            f"{near_divisors(model.layers, p * v)}, or parallel.schedule=1f1b"
        )
    if p > model.layers:
        yield f"parallel.pp={p} stages need at least one layer each: model.layers={model.layers}"


def _batches(parallel, train):
    d = 1 if parallel.dp == "auto" else parallel.dp
    p, b = parallel.pp, train.micro_batch
    groups = p if parallel.schedule == "interleaved" else 1  # micro-batches go in groups of p
    for batch in train.batches():
        if batch % (b * d * groups) == 0:
            continue
        each, over = divmod(batch, d * groups)
        fits = [] if over else near_divisors(each, b)
        fit = "change train.global_batch, train.ramp or the layout"
        if fits:
            fit = f"train.micro_batch={min(fits, key=lambda n: abs(n - b))} would fit this batch"
        unit = "train.micro_batch * parallel.dp" + " * parallel.pp (interleaved)" * (groups > 1)
        product = f"{b} * {d}" + f" * {p}" * (groups > 1)
        yield f"a global batch of {batch} is not divisible by {unit} = {product}: {fit}"
        return  # one rung says enough


def near_divisors(number, wanted):
    """Up to four divisors of `number` nearest to `wanted`, sorted."""
    divisors = [d for d in range(1, number + 1) if number % d == 0] if number < 1e6 else [1]
    return sorted(sorted(divisors, key=lambda d: abs(d - wanted))[:4])
