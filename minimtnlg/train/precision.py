"""16-bit weights with an fp32 memory, and the loss scale that keeps fp16 gradients from vanishing.

- Masters: fp32 weights and fp32 gradient sums beside 16-bit weights: 2 + 4 and 2 + 4 of MT-NLG's
  20 bytes a parameter [S3, sec. 2.1.1].
- LossScale: Megatron's dynamic rule [S10]. bfloat16 has fp32's range and needs none.
"""

import torch

from minimtnlg.device import fp32


class Masters:
    """The fp32 side of a model's trainable parameters.

    .masters is a list in the order of .parameters; each master's .grad is the sum of the gradients
    of the step so far. Where a parameter is fp32 (or float64) already, it is its own master.
    """

    def __init__(self, parameters):
        self.parameters = [p for p in parameters if p.requires_grad]
        self.masters = [p if p.dtype == fp32(p.dtype) else _copy(p) for p in self.parameters]

    @torch.no_grad()
    def accumulate(self):
        """Move the micro-batch's 16-bit gradients into the fp32 sums. Call after each backward."""
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if master is not parameter and parameter.grad is not None:
                master.grad.add_(parameter.grad)
                parameter.grad = None

    def zero(self):
        """Start a step: every sum is zero, also of a parameter that the batch will never touch."""
        for master in self.masters:
            master.grad = torch.zeros_like(master) if master.grad is None else master.grad.zero_()

    @torch.no_grad()
    def write_back(self):
        """Round the masters into the 16-bit weights, after the optimizer has moved them."""
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if master is not parameter:
                parameter.copy_(master)


def _copy(parameter):
    master = parameter.detach().to(fp32(parameter.dtype))
    master.grad = torch.zeros_like(master)
    return master


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
