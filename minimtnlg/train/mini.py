"""Our own engine: the model of model/, the step of step.py, the optimizer of optimizer.py.

The trainer asks a few things of an engine, and engines/ has two more that answer them:

    refuse(config)                  before anything is made: an InputError for what it can't do
    draw(corpus)                    the samples that the run reads
    step(micro_batches, lr, number) one update; the loss and the gradients' norm as floats
    evaluate(micro_batches)         the mean loss as a float
    state()                         what this rank has of the weights, under our names
    parts(), numbers()              what a checkpoint holds (state.py): here all that a run needs to
                                    go on, of other engines the weights alone
    restore(checkpoint)             our own engine only: go on from there

dimensions, {name: dimension or None}, says where tensor parallelism has cut what `state` returns.
"""

import torch

from minimtnlg.data.batches import draw
from minimtnlg.errors import InputError
from minimtnlg.model import build
from minimtnlg.parallel import schedules
from minimtnlg.parallel.tensor import split_dimensions
from minimtnlg.train import ramps, state
from minimtnlg.train.optimizer import Optimizer
from minimtnlg.train.start import refuse_other_weights
from minimtnlg.train.step import evaluate, step


class Mini:
    """One rank of a run. config: config.Config with dp filled in. mesh: this rank's Mesh."""

    packages = ("minimtnlg", "torch", "numpy")  # whose versions have to agree on all nodes

    def __init__(self, config, mesh):
        self.config, self.mesh = config, mesh
        self.model = build(config, mesh)
        self.dimensions = split_dimensions(self.model)
        refuse_other_weights(dict(self.model.named_parameters()), self.dimensions, mesh)
        self.optimizer = Optimizer(self.model, config.optim, config.parallel.zero)

    @staticmethod
    def refuse(config):
        """InputError for what this engine can't do: nothing, of all that a Config can say."""

    def draw(self, corpus):
        """(train, valid): data sets of int64 arrays [seq + 1]; see `draw_data`."""
        return draw_data(self.config, corpus)

    def step(self, micro_batches, lr, number, limits=None):
        """One optimizer step; see `train.step.step`. Returns floats, the same on every rank."""
        loss, norm = step(
            self.model,
            self.optimizer,
            micro_batches,
            lr=lr,
            seed=self.config.train.seed,
            number=number,
            schedule=self._schedule(len(micro_batches)),
            limits=limits,
        )
        return loss.item(), norm.item()  # waits for the device

    def evaluate(self, micro_batches):
        """Mean cross-entropy (nats per token, float), without dropout."""
        schedule = self._schedule(len(micro_batches), forward_only=True)
        return evaluate(self.model, micro_batches, schedule).item()

    def state(self):
        """{name: copy on the CPU} of this rank's parameters; every rank takes part."""
        with self.optimizer.replicas.gathered():
            found = self.model.state_dict()
            return {name: torch.clone(x).cpu() for name, x in found.items()}

    def parts(self):
        """{key: state.Part} of all tensors that the run needs to go on."""
        return state.parts_of(self.model, self.optimizer)

    def numbers(self):
        """The numbers beside them, as JSON has them."""
        return state.numbers_of(self.optimizer)

    def restore(self, checkpoint):
        """Take over what a Checkpoint holds."""
        state.restore(self.model, self.optimizer, checkpoint, self.config.parallel)

    def _schedule(self, m, forward_only=False):
        p = self.config.parallel
        return schedules.named(p.schedule, p.pp, m, p.virtual, forward_only)


def draw_data(config, corpus):
    """(train, valid): all samples that the run will read, as data.batches draws them."""
    train, seq = config.train, config.model.seq
    if max(train.steps * train.global_batch, train.tokens // seq) > 2**31:
        raise InputError(
            f"train.steps={train.steps}, train.tokens={train.tokens} come to more than 2**31 "
            "samples, too many to draw: lower them"
        )

    def part(name, samples):
        return draw(corpus, name, samples, seq, train.seed, config.data.weights, config.data.split)

    return part("train", ramps.total_samples(train, seq)), part("valid", valid_samples(train))


def valid_samples(train):
    """How many samples one validation loss is made of: eval_batches global batches."""
    return train.eval_batches * train.global_batch
