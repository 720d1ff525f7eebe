"""Adam with decoupled weight decay on fp32 masters, clipped by the global norm [S3].

The update itself is PyTorch's fused AdamW; lesson 04 writes it by hand and compares. Which weights
a rank updates is decided by its replicas (parallel/replicas.py, zero.py).
"""

import torch

from minimtnlg.device import fp32
from minimtnlg.parallel.collectives import all_reduce, rank
from minimtnlg.parallel.replicas import Replicas, in_buckets
from minimtnlg.parallel.tensor import split_dimensions
from minimtnlg.parallel.zero import Zero
from minimtnlg.train.precision import LossScale, Masters


def global_norm(tensors, groups=()):
    """Euclidean norm of all tensors taken as one long vector, a scalar tensor.

    groups: the process groups along which other ranks have other parts of that vector.
    """
    square = torch.nn.utils.get_total_norm(tensors) ** 2
    for group in groups:
        all_reduce(square, group)
    return square.sqrt()


def decayed(tensors, optim):
    """Groups for a torch optimizer: matrices, embeddings included, decay; vectors do not."""
    matrices = [x for x in tensors if x.dim() >= 2]
    vectors = [x for x in tensors if x.dim() < 2]  # biases and LayerNorms
    return [
        {"params": matrices, "weight_decay": optim.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def adamw(groups, optim):
    """PyTorch's fused AdamW with the numbers of config.Optim; the rate is set at every step."""
    betas = (optim.beta1, optim.beta2)
    return torch.optim.AdamW(groups, lr=optim.lr, betas=betas, eps=optim.eps, fused=True)


class Optimizer:
    """Holds the gradient sums, masters, Adam's moments and the loss scale of one rank.

    model: a GPT. optim: config.Optim. zero: the stage of ZeRO, 0 to 3. rule: rule(groups, optim)
    gives the torch optimizer, for groups of parameters with their weight decay.

    Use: zero(), then backward of loss * loss_scale.scale and accumulate() for each micro-batch,
    then step(lr).
    """

    def __init__(self, model, optim, zero=0, rule=adamw):
        self.optim, self.mesh = optim, model.mesh
        self.replicas = _replicas(model, zero)
        self.masters = Masters(self.replicas.owned)
        first = next(model.parameters())
        self.loss_scale = LossScale(first.dtype, first.device)
        self._nothing = torch.zeros((), dtype=fp32(first.dtype), device=first.device)
        self._counted = _counted_here(model, self.replicas.parameters)
        self._tied = model.embedding.weight if self.mesh.ends else None
        self.adam = rule(decayed(self.masters.masters, optim), optim)

    def zero(self):
        """Forget the gradients of the step before."""
        self.replicas.zero()

    def accumulate(self):
        """Take over the gradients of the micro-batch whose backward has just ended."""
        self.replicas.accumulate()

    def finish(self):
        """Complete the sums over the replicas; nothing of this step is sent later."""
        self.replicas.finish()

    @torch.no_grad()
    def step(self, lr, good=None):
        """Complete the sums, unscale, clip, update; returns the norm before clipping (scalar).

        The norm is that of the gradient of the whole model, each parameter counted once. good:
        good(norm) gives a boolean scalar tensor; where it is false, weights and moments stay as
        they are. With a loss scale so does an overflow, which also lowers the scale.
        """
        self.finish()
        gradients = self.replicas.gradients
        for parameter, gradient in zip(self.replicas.parameters, gradients, strict=True):
            if parameter is self._tied:  # each end of the pipeline has what its own use gave
                all_reduce(gradient, self.mesh.ends)
        if self.loss_scale.active and gradients:
            torch._foreach_div_(gradients, self.loss_scale.scale)
        norm = self._norm()
        finite = torch.isfinite(norm)
        update = good(norm) & finite if good else finite
        watched = self.loss_scale.active or good
        # Where this is 1, the fused kernel skips the update.
        self.adam.found_inf = (~update).float() if watched else None
        if self.optim.clip > 0 and gradients:
            torch._foreach_mul_(gradients, (self.optim.clip / (norm + 1e-6)).clamp(max=1.0))
        self._hand_over()
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        self.loss_scale.update(finite)
        self.masters.write_back()
        self.replicas.publish()
        return norm

    def _norm(self):
        """Norm of the gradient of the whole model: each number is counted on one rank alone."""
        pairs = zip(self.replicas.gradients, self._counted, strict=True)
        counted = [gradient for gradient, here in pairs if here]
        elsewhere = [self.mesh.tp, self.mesh.pp, self.mesh.dp if self.replicas.cut else None]
        return global_norm([self._nothing, *counted], elsewhere)

    def _hand_over(self):
        for master, gradient in zip(self.masters.masters, self.replicas.gradients, strict=True):
            master.grad = gradient


def _replicas(model, zero):
    """The data-parallel side of a model at a stage of ZeRO."""
    if zero < 3:
        buckets = in_buckets(model.parameters())
        return Zero(buckets, model.mesh.dp, zero) if zero else Replicas(buckets, model.mesh.dp)
    blocks = [block for block in reversed(model.blocks) if block is not None]
    inside = {p for block in blocks for p in block.parameters()}
    trained = [[p for p in block.parameters() if p.requires_grad] for block in blocks]
    trained.append([p for p in model.parameters() if p.requires_grad and p not in inside])
    units = [unit for unit in zip(trained, [*blocks, model], strict=True) if unit[0]]
    return Zero([ps for ps, _ in units], model.mesh.dp, zero, [module for _, module in units])


def _counted_here(model, parameters):
    """For each parameter whether this rank counts it in the norm.

    What all tensor ranks have is counted on the first of them, the tied embedding on the first
    stage.
    """
    dimensions = split_dimensions(model)
    whole = {p for name, p in model.named_parameters() if dimensions[name] is None}
    elsewhere = whole if rank(model.mesh.tp) else set()
    if model.mesh.ends and model.mesh.place.pp:
        elsewhere = elsewhere | {model.embedding.weight}
    return [p not in elsewhere for p in parameters]
