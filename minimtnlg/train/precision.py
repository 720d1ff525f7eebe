"""16-bit weights with an fp32 memory, and the loss scale that keeps fp16 gradients from vanishing.

- Masters: fp32 weights beside 16-bit weights: the 2 + 4 of MT-NLG's 20 bytes a parameter. Another
  2 + 4 are gradients, summed in fp32 by parallel/replicas.py [S3, sec. 2.1.1].
- LossScale: Megatron's dynamic rule [S10]. bfloat16 has fp32's range and needs none.
"""

import torch

from minimtnlg.device import fp32


class Masters:
    """The fp32 side of the weights that a rank updates.

    .masters is a list in the order of .weights. A weight that is fp32 (or float64) already is its
    own master.
    """

    def __init__(self, weights):
        self.weights = list(weights)
        self.masters = [
            w if w.dtype == fp32(w.dtype) else w.detach().to(fp32(w.dtype)) for w in self.weights
        ]

    @torch.no_grad()
    def write_back(self):
        """Round the masters into the 16-bit weights, after the optimizer has moved them."""
        pairs = [
            pair for pair in zip(self.weights, self.masters, strict=True) if pair[0] is not pair[1]
        ]
        if pairs:
            torch._foreach_copy_(*map(list, zip(*pairs, strict=True)))  # few kernels for all


class LossScale:
    """Multiplies the loss before backward, so that small fp16 gradients do not round to zero.

    Halved after `hysteresis` steps in which a gradient overflowed, doubled after `window` steps
    without one [S10, DynamicGradScaler]. State is kept in tensors: no step waits for the device.
    For any other dtype than float16 the scale is 1 and stays.
    """

    def __init__(self, dtype, device, initial=2.0**16, minimum=1.0, window=1000, hysteresis=2):
        self.active = dtype == torch.float16
        self.minimum, self.window, self.hysteresis = minimum, window, hysteresis
        self.scale = torch.tensor(initial if self.active else 1.0, device=device)
        self.good = torch.zeros((), device=device)  # steps without overflow in a row
        self.patience = torch.tensor(float(hysteresis), device=device)  # overflows still forgiven

    def update(self, finite):
        """Adjust after a step; finite: boolean scalar tensor, whether all gradients were finite."""
        if not self.active:
            return
        self.good = torch.where(finite, self.good + 1, 0.0)
        self.patience = torch.where(finite, self.patience, self.patience - 1)
        halved = (self.scale / 2).clamp(min=self.minimum)
        self.scale = torch.where(~finite & (self.patience <= 0), halved, self.scale)
        grow = self.good >= self.window
        self.scale = torch.where(grow, self.scale * 2, self.scale)
        self.patience = torch.where(grow, float(self.hysteresis), self.patience)
        self.good = torch.where(grow, 0.0, self.good)
