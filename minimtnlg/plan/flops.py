"""FLOPs: what the model needs, what the hardware does, and the shares of the peak that follow.

Multiplications and additions of the matrix products, nothing else, as in the papers [S12; S13]. A
backward pass is two products for each one of the forward pass; recomputation adds forward passes.
"""

from minimtnlg.parallel.layout import virtual_stages


def stages(model, pp, virtual=1, tp=1, sequences=1, recompute="none"):
    """[hardware FLOPs of a rank of each stage] for forward and backward over some sequences."""
    cut = virtual_stages(model.layers, pp * virtual)
    counts = [sum(map(len, cut[stage::pp])) for stage in range(pp)]
    totals = [count * model.layer_flops(recompute) for count in counts]
    totals[-1] += model.logits_flops()
    return [sequences * total / tp for total in totals]


def shares(model, sequences, seconds, gpus, tflops, recompute):
    """(MFU, HFU): the share of the peak that the model's FLOPs are, and all that are carried out.

    sequences in `seconds` on `gpus` of a peak of `tflops` each. What was really recomputed counts
    in the second, not S13's eq. 8, which takes it for full recomputation less the attention.
    """
    peak = seconds * gpus * tflops * 1e12
    return model.flops(sequences) / peak, model.flops(sequences, recompute) / peak
