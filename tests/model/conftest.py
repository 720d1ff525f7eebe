"""What the tests of the model share: a random batch, and weights of which none is special."""

from collections import namedtuple

import pytest
import torch

from minimtnlg.config import Model

Batch = namedtuple("Batch", "tokens labels mask")


@pytest.fixture
def tiny():
    """tiny(heads=2, ...) -> config.Model of small sizes, all different."""
    sizes = dict(layers=2, hidden=24, heads=4, seq=10, vocab=31)  # 4 heads: 3 would hide a mix-up
    return lambda **changes: Model(**(sizes | changes))


@pytest.fixture
def batch_of():
    """batch_of(config, b, s) -> Batch of random tokens; about a quarter of them masked."""

    def make(config, b=2, s=None, seed=0):
        g = torch.Generator().manual_seed(seed)
        ids = torch.randint(config.vocab, (b, (s or config.seq) + 1), generator=g)
        mask = (torch.rand(b, ids.shape[1] - 1, generator=g) > 0.25).float()
        return Batch(ids[:, :-1], ids[:, 1:], mask)

    return make


@pytest.fixture
def scramble():
    """scramble(model) -> model; biases and LayerNorms random too, so that none can be forgotten."""

    def fill(model, std=0.3, seed=0):
        g = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = std * torch.randn(parameter.shape, generator=g, dtype=torch.float64)
                parameter.copy_(parameter.double() + noise)
        return model

    return fill


@pytest.fixture
def gradients():
    """gradients(model, batch, draw) -> (loss, {name: gradient}) of one forward and backward."""

    def compute(model, batch, draw=None):
        model.zero_grad()
        loss = model.loss(batch, draw)
        loss.backward()
        return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}

    return compute


@pytest.fixture
def kept_bytes():
    """kept_bytes(function) -> (its result, bytes that autograd kept, each storage once)."""

    def measure(function):
        storages = {}

        def pack(x):
            storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            return function(), sum(storages.values())

    return measure
