"""FLOPs: what the model needs, what the hardware does, and the shares of the peak that follow.

Multiplications and additions of the matrix products, nothing else, as in the papers [S12; S13]. A
backward pass is two products for each one of the forward pass; recomputation adds forward passes.
"""

from minimtnlg.parallel.layout import virtual_stages


def layer(model, sequences=1):
    """Forward FLOPs of one transformer layer: 24 s h^2 + 4 s^2 h for a sequence [S13, app. A]."""
    s, h = model.seq, model.hidden
    return sequences * (24 * s * h * h + 4 * s * s * h)


def logits(model, sequences=1):
    """Forward FLOPs of the output layer: 2 s h V for a sequence."""
    return sequences * 2 * model.seq * model.hidden * model.vocab


def again(model, recompute, sequences=1):
    """FLOPs of one layer that a backward pass repeats."""
    s, h = model.seq, model.hidden
    core = sequences * 4 * s * s * h
    return {"none": 0, "selective": core, "full": layer(model, sequences)}[recompute]


def stages(model, pp, virtual=1, tp=1, sequences=1, recompute="none"):
    """[hardware FLOPs of a rank of each stage] for forward and backward over some sequences."""
    cut = virtual_stages(model.layers, pp * virtual)
    counts = [sum(map(len, cut[stage::pp])) for stage in range(pp)]
    each = 3 * layer(model, sequences) + again(model, recompute, sequences)
    totals = [count * each for count in counts]
    totals[-1] += 3 * logits(model, sequences)
    return [total / tp for total in totals]


def shares(model, sequences, seconds, gpus, tflops, recompute):
    """(MFU, HFU): the share of the peak that the model's FLOPs are, and all that are carried out.

    sequences in `seconds` on `gpus` of a peak of `tflops` each. What was really recomputed counts
    in the second, not S13's eq. 8, which takes it for full recomputation less the attention.
    """
    peak = seconds * gpus * tflops * 1e12
    return model.flops(sequences) / peak, model.flops(sequences, recompute) / peak
