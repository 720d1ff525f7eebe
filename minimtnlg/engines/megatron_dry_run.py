"""Megatron-Core's own model and schedules as a rank that a dry run pretends to be.

Forward and backward passes alone: its optimizer reads numbers back, and there are none.
"""

import torch
from megatron.core import tensor_parallel

from minimtnlg.device import DTYPES
from minimtnlg.engines.cpu_as_cuda import on_device
from minimtnlg.engines.megatron import Megatron, passes
from minimtnlg.engines.megatron_model import gpt_chunks, our_names, settings, take_over_groups
from minimtnlg.plan.dryrun import fake_batch


class MegatronModel:
    """What plan.dryrun.Ours is, with Megatron-Core's GPTModel."""

    @on_device
    def __init__(self, config, mesh):
        Megatron.refuse(config)
        self.config = config
        take_over_groups(config)
        # states of random numbers can't be compared where there are no numbers
        tensor_parallel.random.initialize_rng_tracker(inference_rng_tracker=True, force_reset=True)
        before = torch.get_default_dtype()
        torch.set_default_dtype(DTYPES[config.train.dtype])  # fake parameters can't be converted
        try:
            self.chunks = gpt_chunks(config, settings(config))
        finally:
            torch.set_default_dtype(before)

    def parameters(self):
        """{our name: (elements, whether it is cut over the tensor group)}."""
        named = our_names(self.chunks).items()
        return {name: (p.numel(), p.tensor_model_parallel) for name, p in named}

    @on_device
    def step(self, m):
        """Forward and backward of m micro-batches."""
        for chunk in self.chunks:
            chunk.zero_grad()
        passes(self.chunks, [fake_batch(self.config)] * m)

    def held(self):
        """{kind: tensors} that stay from step to step."""
        parameters = [p for chunk in self.chunks for p in chunk.parameters()]
        return {"parameters": parameters, "gradients": [p.grad for p in parameters]}
