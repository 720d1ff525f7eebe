"""From logits to a token: what a model says may come next, sharpened, cut off and drawn from.

Each function takes logits or probabilities of any shape [..., V] and works along the vocabulary.
"""

import torch

from minimtnlg.device import fp32


def distribution(logits, temperature=1.0, top_k=None, top_p=None):
    """The probabilities [..., V] to draw from, in fp32: softmax(logits / temperature), cut off.

    temperature  above 0: below 1 the likely become likelier, above 1 all become alike
    top_k        keep the k most likely tokens, and what ties with the last of them
    top_p        of what top_k leaves, keep the fewest tokens whose probabilities reach p together,
                 in (0, 1]; of equal ones the first

    What is kept is scaled to a sum of 1 again.
    """
    logits = logits.to(fp32(logits.dtype))
    temperature = max(temperature, torch.finfo(logits.dtype).tiny)  # else 0 / 0 for the largest
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature  # nothing above 0, no overflow
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k).values[..., -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    probabilities = logits.softmax(-1)
    if top_p is not None and top_p < 1:
        sizes, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = sizes.cumsum(-1) - sizes  # what more likely tokens have together
        kept = sizes.masked_fill(before >= top_p, 0)
        probabilities = torch.zeros_like(sizes).scatter(-1, order, kept)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    return probabilities


def drawn(probabilities, uniform):
    """The tokens [...] that numbers `uniform` [...] in [0, 1) draw from probabilities [..., V].

    The tokens lie side by side on a line, each as long as it is probable; the number points at one.
    So one number decides, and a token of probability 0 is never drawn.
    """
    line = probabilities.double().cumsum(-1)
    at = uniform.double()[..., None] * line[..., -1:]
    return (line <= at).sum(-1)
