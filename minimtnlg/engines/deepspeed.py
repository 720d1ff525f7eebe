"""DeepSpeed trains the same run, put together as for MT-NLG [S3, sec. 2.2]: three axes, two owners.

- Tensor parallelism is ours: DeepSpeed leaves it to the model, and is told the groups.
- The pipeline is DeepSpeed's PipelineModule. A layer of it is a whole stage of our model, so that a
  rank holds what it holds with our own engine; the two ends share the embedding (TiedLayerSpec).
- Replicas and ZeRO are DeepSpeed's: stages 0 and 1 with a pipeline, 0 to 3 without.

Initial weights, dropout masks, recomputation and AdamW are those of train/mini.py. DeepSpeed is not
changed, and nothing is compiled for it.
"""

import contextlib
import io
import itertools
import os
import warnings

import torch
from torch import nn

from minimtnlg.device import backend, device
from minimtnlg.engines import refuse
from minimtnlg.model import Draw, build
from minimtnlg.parallel.collectives import all_reduce, rank
from minimtnlg.parallel.tensor import cross_entropy, split_dimensions
from minimtnlg.train.mini import Mini, draw_data
from minimtnlg.train.optimizer import adamw, decayed, global_norm
from minimtnlg.train.start import refuse_other_weights
from minimtnlg.train.state import weights_of

if device().type == "cpu":
    os.environ["DS_ACCELERATOR"] = "cpu"  # read at the import; else it takes a GPU that is there

import deepspeed
from deepspeed.pipe import LayerSpec, PipelineModule, TiedLayerSpec
from deepspeed.runtime.pipe.topology import PipelineParallelGrid, PipeModelDataParallelTopology

# What it may compile when it starts: nothing. Else, on a CPU, it compiles for minutes an all-reduce
# through shared memory, and ended meanwhile leaves a lock for which the next process waits.
deepspeed.ops.__compatible_ops__ = {}
warnings.filterwarnings("ignore", message="`torch.distributed", category=FutureWarning)


class DeepSpeed:
    """One rank of a run by DeepSpeed; see train/mini.py for what the methods promise.

    DeepSpeed keeps its process groups in global variables: a process has one DeepSpeed at a time,
    and a new one takes the place of the last. torch.distributed has to be there, if for one rank.
    """

    packages = (*Mini.packages, "deepspeed")

    def __init__(self, config, mesh):
        self.refuse(config)
        self.config, self.mesh = config, mesh
        model = build(config, mesh)
        self.parameters, self.dimensions = dict(model.named_parameters()), split_dimensions(model)
        refuse_other_weights(self.parameters, self.dimensions, mesh)
        for name, x in self.parameters.items():  # the norm counts each slice, or one of all copies
            x.model_parallel = self.dimensions[name] is not None
        optimizer = adamw(decayed(self.parameters.values(), config.optim), config.optim)
        os.environ.setdefault("LOCAL_RANK", "0")  # what device() takes; DeepSpeed asks for a number
        with contextlib.redirect_stdout(io.StringIO()):  # where it prints its topology and layers
            deepspeed.init_distributed(backend(), auto_mpi_discovery=False)
            self.pipeline = _pipeline(model, mesh, self._loss) if mesh.layout.pp > 1 else None
            self.engine, *_ = deepspeed.initialize(
                model=self.pipeline or _Stage(model),
                mpu=None if self.pipeline else PipelineParallelGrid(_topology(mesh)),
                optimizer=optimizer,
                config=settings(config),
            )
        self.stage = self.pipeline.forward_funcs[0] if self.pipeline else self.engine.module
        self.keeps_norm = config.parallel.zero > 0
        if self.pipeline and not self.keeps_norm:
            optimizer.register_step_pre_hook(self._take_norm)

    @staticmethod
    def refuse(config):
        """InputError for what DeepSpeed can't do, or this adapter doesn't ask it for."""
        p, dtype, clip = config.parallel, config.train.dtype, config.optim.clip
        sentences = {
            f"train.dtype={dtype}: choose float32 or bfloat16":
                dtype not in ("float32", "bfloat16"),
            f"parallel.schedule={p.schedule}: choose 1f1b": p.schedule != "1f1b" and p.pp > 1,
            "parallel.zero=0 with train.dtype=bfloat16 that sums gradients in fp32: choose "
            "parallel.zero=1": dtype == "bfloat16" and p.zero == 0,
            f"parallel.zero=0 with parallel.pp={p.pp} and optim.clip={clip:g}, where its norm is "
            "not that of the whole model: choose parallel.zero=1, or optim.clip=0":
                p.zero == 0 and p.pp > 1 and clip > 0,
        }  # fmt: skip
        refuse("deepspeed", config, sentences)

    def draw(self, corpus):
        """(train, valid): data sets of int64 arrays [seq + 1], the same as for Mini."""
        return draw_data(self.config, corpus)

    def step(self, micro_batches, lr, number):
        """One optimizer step; returns floats, the same on every rank."""
        m, dp = len(micro_batches), self.mesh.layout.dp
        self.engine.set_train_batch_size(m * self.config.train.micro_batch * dp)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        seed, first = self.config.train.seed, rank(self.mesh.dp)
        self.stage.draws = iter([Draw(seed, number, k * dp + first) for k in range(m)])
        self._weigh(micro_batches)
        if self.pipeline:
            loss = self.engine.train_batch(_pairs(micro_batches))
        else:
            loss = self._passes(micro_batches)
        norm = self.engine.get_global_grad_norm() if self.keeps_norm else self.norm
        return loss.item(), float(norm)

    def evaluate(self, micro_batches):
        """Mean cross-entropy (nats per token, float), without dropout."""
        m = len(micro_batches)
        self.stage.draws = itertools.repeat(None)
        self._weigh(micro_batches)
        if self.pipeline:
            return self.engine.eval_batch(_pairs(micro_batches), num_micro_batches=m).item()
        with torch.no_grad():
            return self._mean([self._forward(batch) for batch in micro_batches]).item()

    def parts(self):
        """{key: state.Part} of the weights: what a checkpoint of this engine's run holds."""
        return weights_of(self.state(), self.dimensions, self.mesh.layout.tp)

    def numbers(self):
        """None: nothing beside them, so that a run can't go on from there."""

    def state(self):
        """{name: copy on the CPU} of this rank's parameters; every rank takes part."""
        state = {}
        for name, x in self.parameters.items():
            with deepspeed.zero.GatheredParameters(x):  # does nothing below stage 3
                state[name] = torch.clone(x.detach()).cpu()
        return state

    def _passes(self, micro_batches):
        """All passes of a step without a pipeline, and its update; the mean loss."""
        losses = []
        for number, batch in enumerate(micro_batches, 1):
            last = number == len(micro_batches)
            self.engine.set_gradient_accumulation_boundary(last)  # its own count ignores a ramp
            loss = self._forward(batch)
            self.engine.backward(loss)
            if last and not self.keeps_norm:
                self._take_norm()
            self.engine.step()  # clips and updates after the last backward, else only counts
            losses.append(loss.detach())
        return self._mean(losses)

    def _forward(self, batch):
        return self._loss(self.engine(batch.tokens), (batch.labels, batch.mask))

    def _loss(self, logits, answers):
        """Loss of one micro-batch, as DeepSpeed wants it; logits: [s, b, V/t]."""
        labels, mask = answers
        each = cross_entropy(logits.flatten(0, 1), labels.t().flatten(), self.mesh.tp)
        return (each * mask.t().flatten()).sum() * self.weight

    def _weigh(self, micro_batches):
        """Set what a sum of losses is multiplied by.

        DeepSpeed takes the mean over micro-batches, then over replicas: with this weight, that is
        the mean over all unmasked tokens, whatever the masks.
        """
        if self.mesh.place.pp < self.mesh.layout.pp - 1:
            return  # no labels here
        tokens = torch.stack([batch.mask.sum() for batch in micro_batches]).sum()
        tokens = all_reduce(tokens, self.mesh.dp).clamp(min=1)
        self.weight = len(micro_batches) * self.mesh.layout.dp / tokens

    def _mean(self, losses):
        return all_reduce(torch.stack(losses).mean(), self.mesh.dp) / self.mesh.layout.dp

    def _take_norm(self, *_):
        """Set the gradients' norm at stage 0 of ZeRO, where DeepSpeed keeps none."""
        counted = [
            x.grad
            for x in self.parameters.values()
            if (x.model_parallel or rank(self.mesh.tp) == 0)
            and not getattr(x, "ds_pipe_replicated", False)
        ]
        self.norm = global_norm(counted, [self.mesh.tp, self.mesh.pp])


class _Stage(nn.Module):
    """A stage of our model, or all of it, called with one tensor as DeepSpeed does.

    draws: iterator over the Draw of each pass to come.
    """

    def __init__(self, model):
        super().__init__()
        self.model, self.draws = model, None

    def forward(self, x):
        return self.model(x, next(self.draws))


@torch.no_grad()  # it sends the tied weight around, of which backward would warn
def _pipeline(model, mesh, loss):
    """The PipelineModule of a mesh. Each rank builds one layer of it, its own stage `model`."""
    end = TiedLayerSpec("ends", _Stage, model, tied_weight_attr="model.embedding.weight")
    layers = [end, *[LayerSpec(_Stage, model)] * (mesh.layout.pp - 2), end]
    net = PipelineModule(layers, topology=_topology(mesh), loss_fn=loss, partition_method="uniform")
    for x in model.parameters():
        x.ds_pipe_replicated = False  # it takes all of the last stage for a copy of the first,
    if model.ends():
        model.embedding.weight.ds_pipe_replicated = True  # where this alone is
    return net


def _topology(mesh):
    layout = mesh.layout
    return PipeModelDataParallelTopology(num_pp=layout.pp, num_mp=layout.tp, num_dp=layout.dp)


def settings(config):
    """DeepSpeed's configuration for a Config; the number of micro-batches is set at every step."""
    slices = not config.parallel.sequence_parallel  # where tensor ranks send the same, 1/t each
    return {
        "train_micro_batch_size_per_gpu": config.train.micro_batch,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.optim.clip,
        "bf16": {"enabled": config.train.dtype == "bfloat16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_optimization": {
            "stage": config.parallel.zero,
            # Stage 3 keeps vectors whole. Its own threshold would keep all of a small model.
            "stage3_param_persistence_threshold": config.model.ffn,
        },
        "pipeline": {"pipe_partitioned": slices, "grad_partitioned": slices},
    }


def _pairs(micro_batches):
    """Micro-batches as its pipeline reads them: (for the first stage, for the loss)."""
    return iter([(batch.tokens, (batch.labels, batch.mask)) for batch in micro_batches])
