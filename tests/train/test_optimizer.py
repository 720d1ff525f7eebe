"""Adam against Adam written by hand; clipping; which parameters decay."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from minimtnlg.config import Optim
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.train.optimizer import Optimizer, global_norm

RATES = [0.0, 1e-3, 3e-3, 2e-3, 1e-4, 1e-3]  # the rate changes at each step


class Weights(nn.Module):
    """A matrix, an embedding, two vectors, a frozen matrix: no forward is needed here."""

    mesh = Mesh()

    def __init__(self, dtype=torch.float64):
        super().__init__()
        g = torch.Generator().manual_seed(3)
        for name, shape in dict(matrix=(5, 4), embedding=(7, 3), bias=(4,), norm=(6,)).items():
            value = torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)
            setattr(self, name, nn.Parameter(value))
        self.frozen = nn.Parameter(torch.ones(3, 3, dtype=dtype), requires_grad=False)


def gradients_of(model, number, size=1.0):
    g = torch.Generator().manual_seed(number)
    return {
        name: size * torch.randn(p.shape, generator=g, dtype=torch.float64)
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def adam_by_hand(weights, steps, optim, decayed):
    """The update of S3 on dicts of float64 tensors; steps: list of (lr, gradients)."""
    weights = dict(weights)
    m = {name: torch.zeros_like(w) for name, w in weights.items()}
    v = {name: torch.zeros_like(w) for name, w in weights.items()}
    for t, (lr, gradients) in enumerate(steps, 1):
        norm = math.sqrt(sum((g**2).sum().item() for g in gradients.values()))
        clipped = min(1.0, optim.clip / (norm + 1e-6)) if optim.clip else 1.0
        for name, gradient in gradients.items():
            g = gradient * clipped
            m[name] = optim.beta1 * m[name] + (1 - optim.beta1) * g
            v[name] = optim.beta2 * v[name] + (1 - optim.beta2) * g**2
            m_hat = m[name] / (1 - optim.beta1**t)
            v_hat = v[name] / (1 - optim.beta2**t)
            if name in decayed:
                weights[name] = weights[name] * (1 - lr * optim.weight_decay)
            weights[name] = weights[name] - lr * m_hat / (v_hat.sqrt() + optim.eps)
    return weights


def give(model, gradients):
    for name, gradient in gradients.items():
        parameter = getattr(model, name)
        parameter.grad = gradient.to(parameter.dtype).clone()


@pytest.mark.parametrize("clip", [0.0, 0.7, 1e6])
def test_equals_adam_by_hand(clip):
    optim = Optim(lr=3e-3, min_lr=0.0, warmup_tokens=0, decay_tokens=1, weight_decay=0.3, clip=clip)
    model = Weights()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer, steps, norms = Optimizer(model, optim), [], []
    for number, lr in enumerate(RATES):
        steps.append((lr, gradients_of(model, number, size=10.0 ** (number - 3))))
        optimizer.zero()
        give(model, steps[-1][1])
        optimizer.accumulate()
        norms.append(optimizer.step(lr).item())
    expected = adam_by_hand(start, steps, optim, decayed={"matrix", "embedding"})
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter, expected[name], rtol=0, atol=1e-12), name
    assert not torch.equal(model.bias, start["bias"])
    assert torch.equal(model.frozen, start["frozen"])
    whole = [torch.cat([g.flatten() for g in gs.values()]).norm().item() for _, gs in steps]
    assert norms == pytest.approx(whole, rel=1e-12)  # before clipping


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_weights_are_rounded_masters(dtype):
    """In every precision the masters follow Adam by hand; the weights are they, rounded."""
    optim = Optim(lr=1e-2, min_lr=0.0, warmup_tokens=0, decay_tokens=1)
    model = Weights(dtype)
    start = {name: p.detach().double() for name, p in model.named_parameters()}
    optimizer, steps = Optimizer(model, optim), []
    for number in range(4):
        gradients = gradients_of(model, number, size=0.1)
        given = {name: g.to(dtype).double() for name, g in gradients.items()}  # as 16 bits hold it
        steps.append((1e-2, given))
        optimizer.zero()
        give(model, {n: g * optimizer.loss_scale.scale for n, g in gradients.items()})
        optimizer.accumulate()
        optimizer.step(1e-2)
    expected = adam_by_hand(start, steps, optim, decayed={"matrix", "embedding"})
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    for name, master in zip(trained, optimizer.masters.masters, strict=True):
        assert torch.allclose(master.double(), expected[name], rtol=0, atol=1e-5), name
        assert torch.equal(getattr(model, name), master.to(dtype))


def test_no_gradient_is_a_zero_gradient():
    """Weight decay still acts on a matrix that the batch never touched, and moments still fade."""
    optim = Optim(lr=0.1, min_lr=0.0, warmup_tokens=0, decay_tokens=1, weight_decay=0.5)
    model = Weights()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = Optimizer(model, optim)
    optimizer.zero()
    model.bias.grad = torch.ones_like(model.bias)
    optimizer.accumulate()
    assert optimizer.step(0.1).item() == pytest.approx(2.0)
    assert torch.allclose(model.matrix, before["matrix"] * 0.95, rtol=1e-14)
    assert torch.equal(model.norm, before["norm"])
    assert torch.allclose(model.bias, before["bias"] - 0.1, atol=1e-7)
    optimizer.zero()
    optimizer.accumulate()
    assert optimizer.step(0.1).item() == 0.0
    assert (model.bias < before["bias"] - 0.1 - 0.05).all()  # the momentum of the step before


def test_zero_forgets_the_step_before():
    model = Weights(torch.bfloat16)
    optimizer = Optimizer(model, Optim(lr=0.1, min_lr=0.0, warmup_tokens=0, decay_tokens=1))
    norms = []
    for _ in range(2):
        optimizer.zero()
        give(model, gradients_of(model, 1))
        optimizer.accumulate()
        norms.append(optimizer.step(0.1).item())
    assert norms[0] == norms[1]


def test_a_bad_step_moves_nothing_and_is_forgotten():
    model = Weights()
    optimizer = Optimizer(model, Optim(lr=1.0, min_lr=0.0, warmup_tokens=0, decay_tokens=1))
    moved = []
    for good in (lambda norm: norm < 0, None):  # nobody judges the second one
        before = [p.clone() for p in model.parameters()]
        optimizer.zero()
        give(model, gradients_of(model, 1))
        optimizer.accumulate()
        optimizer.step(0.1, good)
        moved += [not all(map(torch.equal, before, model.parameters()))]
    assert moved == [False, True]


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=6))
@settings(deadline=None, max_examples=25)
def test_norm_is_that_of_one_long_vector(shapes):
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    whole = torch.cat([t.flatten() for t in tensors])
    assert global_norm(tensors).item() == pytest.approx((whole**2).sum().sqrt().item(), rel=1e-12)
