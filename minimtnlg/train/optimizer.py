"""Adam with decoupled weight decay on fp32 masters, clipped by the global norm [S3, sec. 2.4].

The update itself is PyTorch's fused AdamW; lesson 04 writes it by hand and compares.
"""

import torch

from minimtnlg.train.precision import LossScale, Masters


def global_norm(tensors):
    """Euclidean norm of all tensors taken as one long vector, a scalar tensor."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))


class Optimizer:
    """Holds masters, Adam's moments and the loss scale of one model.

    optim: config.Optim. Use: zero(), then backward of loss * loss_scale.scale and accumulate() for
    each micro-batch, then step(lr).
    """

    def __init__(self, model, optim):
        self.optim = optim
        self.masters = Masters(model.parameters())
        first = self.masters.parameters[0]
        self.loss_scale = LossScale(first.dtype, first.device)
        matrices = [m for m in self.masters.masters if m.dim() >= 2]  # embeddings included
        vectors = [m for m in self.masters.masters if m.dim() < 2]  # biases and LayerNorms
        self.adam = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": optim.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=optim.lr,
            betas=(optim.beta1, optim.beta2),
            eps=optim.eps,
            fused=True,
        )

    def zero(self):
        """Forget the gradients of the step before."""
        self.masters.zero()

    def accumulate(self):
        """Take over the gradients of the micro-batch whose backward has just ended."""
        self.masters.accumulate()

    @torch.no_grad()
    def step(self, lr):
        """Unscale, clip, update; returns the global gradient norm before clipping (scalar tensor).

        With a loss scale, an overflow leaves weights and moments untouched, and lowers the scale.
        """
        gradients = [master.grad for master in self.masters.masters]
        if self.loss_scale.active:
            torch._foreach_div_(gradients, self.loss_scale.scale)
        norm = global_norm(gradients)
        finite = torch.isfinite(norm)
        if self.loss_scale.active:
            self.adam.found_inf = (~finite).float()  # the fused kernel then skips the update
        if self.optim.clip > 0:
            torch._foreach_mul_(gradients, (self.optim.clip / (norm + 1e-6)).clamp(max=1.0))
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        self.loss_scale.update(finite)
        self.masters.write_back()
        return norm
