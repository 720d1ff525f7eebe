"""Megatron-Core trains the same run: its model, schedules, data parallelism, optimizer and reader.

What is ours here is translation alone: a Config into its configurations (megatron_model.py), our
weights into its names, our micro-batches into its iterator. No file of Megatron's is changed; on a
CPU, its calls run inside `cpu_as_cuda`.

parallel.zero=1 is its distributed optimizer. Its loss is summed over tokens and its gradients are
divided by their number (calculate_per_token_loss), so masks may be uneven.
"""

import math

import torch
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer.module import Float16Module

from minimtnlg.device import device
from minimtnlg.engines import refuse
from minimtnlg.engines.cpu_as_cuda import on_device
from minimtnlg.engines.megatron_data import read
from minimtnlg.engines.megatron_model import gpt_chunks, our_names, settings, take_over_groups
from minimtnlg.model.init import draw
from minimtnlg.parallel.collectives import all_reduce, broadcast, size
from minimtnlg.parallel.tensor import cut, whole_shape
from minimtnlg.train.mini import Mini
from minimtnlg.train.start import refuse_other_weights
from minimtnlg.train.state import weights_of


class Megatron:
    """One rank of a run by Megatron-Core; see train/mini.py for what the methods promise.

    Megatron keeps its process groups in global variables: a process has one Megatron at a time, and
    a new one takes the place of the last.
    """

    packages = (*Mini.packages, "megatron-core")

    @on_device
    def __init__(self, config, mesh):
        self.refuse(config)
        self.config, self.mesh = config, mesh
        take_over_groups(config)
        self.settings = settings(config)
        self.chunks = [chunk.cuda() for chunk in gpt_chunks(config, self.settings)]
        self.parameters = our_names(self.chunks)
        self.dimensions = {
            name: p.partition_dim if p.tensor_model_parallel else None
            for name, p in self.parameters.items()
        }
        self._initialize()
        refuse_other_weights(self.parameters, self.dimensions, mesh)
        self._wrap()

    @staticmethod
    def refuse(config):
        """InputError for what Megatron-Core can't do, or this adapter doesn't ask it for."""
        p, layers = config.parallel, config.model.layers
        sentences = {
            f"train.dtype={config.train.dtype}: choose float32 or bfloat16":
                config.train.dtype not in ("float32", "bfloat16"),
            "parallel.schedule=gpipe: choose 1f1b or interleaved":
                p.schedule == "gpipe" and p.pp > 1,
            f"parallel.zero={p.zero}: choose 0, or 1 for its distributed optimizer": p.zero > 1,
            f"parallel.pp={p.pp} stages of unequal size: choose a divisor of "
            f"model.layers={layers}": layers % p.pp > 0,
        }  # fmt: skip
        refuse("megatron", config, sentences)

    @on_device
    def draw(self, corpus):
        """(train, valid), read by Megatron's own data sets; ours have the same samples."""
        return read(self.config, corpus)

    @on_device
    def step(self, micro_batches, lr, number):
        """One optimizer step; returns floats, the same on every rank."""
        for model in self.models:
            model.zero_grad_buffer()
        self.optimizer.zero_grad()
        loss = self._passes(micro_batches, forward_only=False)
        for group in self.optimizer.param_groups:
            group["lr"] = lr  # what its OptimizerParamScheduler does at every step
            group["weight_decay"] = self.config.optim.weight_decay * group["wd_mult"]
        _, norm, _ = self.optimizer.step()
        return loss, float(norm)

    @torch.no_grad()
    @on_device
    def evaluate(self, micro_batches):
        """Mean cross-entropy (nats per token, float), without dropout."""
        for model in self.models:
            model.eval()
        loss = self._passes(micro_batches, forward_only=True)
        for model in self.models:
            model.train()
        return loss

    def parts(self):
        """{key: state.Part} of the weights: what a checkpoint of this engine's run holds."""
        return weights_of(self.state(), self.dimensions, self.mesh.layout.tp)

    def numbers(self):
        """None: nothing beside them, so that a run can't go on from there."""

    def state(self):
        """{our name: copy on the CPU} of this rank's parameters."""
        return {name: torch.clone(p.detach()).cpu() for name, p in self.parameters.items()}

    @torch.no_grad()
    def _initialize(self):
        for name, parameter in self.parameters.items():
            dimension = self.dimensions[name]
            shape = whole_shape(parameter, dimension, self.mesh.layout.tp)
            whole = draw(name, shape, self.config.model, self.config.train.seed)
            parameter.copy_(cut(whole, dimension, self.mesh.tp))

    def _wrap(self):
        """The chunks inside Megatron's data parallelism, and its optimizer for them."""
        optim, zero = self.config.optim, self.config.parallel.zero == 1
        modules = self.chunks
        if self.settings.bf16:
            modules = [Float16Module(self.settings, chunk) for chunk in modules]
        replicas = DistributedDataParallelConfig(
            grad_reduce_in_fp32=True, overlap_grad_reduce=True, use_distributed_optimizer=zero
        )
        self.models = [
            DistributedDataParallel(self.settings, replicas, module, disable_bucketing=chunk > 0)
            for chunk, module in enumerate(modules)
        ]
        self.optimizer = get_megatron_optimizer(
            OptimizerConfig(
                optimizer="adam",
                lr=optim.lr,
                weight_decay=optim.weight_decay,
                adam_beta1=optim.beta1,
                adam_beta2=optim.beta2,
                adam_eps=optim.eps,
                clip_grad=optim.clip or math.inf,  # by 0 it would not even take the norm
                bf16=self.settings.bf16,
                params_dtype=self.settings.params_dtype,
                use_distributed_optimizer=zero,
            ),
            self.models,
            use_gloo_process_groups=False,
        )
        self.settings.finalize_model_grads_func = finalize_model_grads
        self.settings.grad_scale_func = self.optimizer.scale_loss
        syncs = [model.no_sync for model in self.models]
        self.settings.no_sync_func = syncs if len(syncs) > 1 else syncs[0]

    def _passes(self, micro_batches, forward_only):
        """All passes of one step by Megatron's schedule; the mean loss of the global batch."""
        return self._mean(passes(self.models, micro_batches, forward_only))

    def _mean(self, told):
        """The mean loss, known to the last stage, as a float on every rank."""
        zero = torch.zeros(2, device=device())
        total, count = all_reduce(torch.stack([zero, *told]).sum(0), self.mesh.dp)
        loss = total / count.clamp(min=1)
        return broadcast(loss, size(self.mesh.pp) - 1, self.mesh.pp).item()


def passes(models, micro_batches, forward_only=False):
    """All passes of micro-batches through the chunks `models` by Megatron's own schedule.

    Returns what the last stage tells: for each micro-batch its summed loss and its tokens.
    """
    b, s = micro_batches[0].tokens.shape
    iterators = [iter(micro_batches) for _ in models]  # each chunk goes through them
    return get_forward_backward_func()(
        forward_step_func=_forward,
        data_iterator=iterators if len(iterators) > 1 else iterators[0],
        model=models if len(models) > 1 else models[0],
        num_microbatches=len(micro_batches),
        seq_length=s,
        micro_batch_size=b,
        forward_only=forward_only,
    )


def _forward(iterator, model):
    """One micro-batch through one chunk, in the form that Megatron's schedules call."""
    batch = next(iterator)
    tokens, labels = batch.tokens, batch.labels
    positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    # no mask of attention: its kind, causal, is part of the layer
    output = model(tokens, positions, None, labels=labels)

    def loss(each):  # [b, s] in nats
        total, count = (each * batch.mask).sum(), batch.mask.sum()
        return total, count.int(), torch.stack([total.detach(), count])

    return output, loss
