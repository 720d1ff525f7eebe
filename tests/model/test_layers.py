"""Dropout without state, recomputation that keeps its arguments alone, the MLP."""

import itertools
import math

import pytest
import torch

from minimtnlg.model.layers import MLP, Draw, dropout, recomputed

DRAW = Draw(seed=1, step=20, micro_batch=3)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_zeroes_a_share_and_scales_the_rest(p):
    x = torch.ones(400, 500, dtype=torch.float64)
    y = dropout(x, p, DRAW, 0, "mlp")
    zeros = (y == 0).double().mean()
    assert abs(zeros - p) < 5 * math.sqrt(p * (1 - p) / x.numel())
    torch.testing.assert_close(y[y != 0].unique(), torch.tensor([1 / (1 - p)], dtype=y.dtype))


def test_dropout_off_is_the_identity():
    x = torch.ones(3)
    assert dropout(x, 0.5, None, 0, "mlp") is x
    assert dropout(x, 0.0, DRAW, 0, "mlp") is x


def test_dropout_of_a_gradient_is_the_same_mask():
    x = torch.ones(50, requires_grad=True)
    y = dropout(x, 0.4, DRAW, 0, "mlp")
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_keeps_one_byte_an_element(kept_bytes, dtype):
    x = torch.ones(1000, dtype=dtype, requires_grad=True)
    y, kept = kept_bytes(lambda: dropout(x, 0.1, DRAW, 0, "mlp"))
    assert y.dtype == dtype
    assert kept == 1000


def test_masks_differ_wherever_their_purpose_does():
    x = torch.ones(64)
    draws = [Draw(*numbers) for numbers in itertools.product((1, 2), repeat=3)]
    places = itertools.product((0, 1), ("embedding", "attention", "out", "mlp"))
    masks = {
        tuple((dropout(x, 0.5, draw, layer, site) == 0).tolist())
        for draw, (layer, site) in itertools.product(draws, places)
    }
    assert len(masks) == 8 * 8
    again = dropout(x, 0.5, Draw(2, 1, 2), 1, "out")
    assert torch.equal(again, dropout(x, 0.5, Draw(2, 1, 2), 1, "out"))


def test_masks_are_the_same_in_every_dtype():
    x = torch.ones(100, dtype=torch.float64)
    masks = [dropout(x.to(t), 0.5, DRAW, 0, "mlp") == 0 for t in (torch.float64, torch.bfloat16)]
    assert torch.equal(*masks)


def test_recomputed_keeps_its_argument_and_runs_twice_to_the_end(kept_bytes):
    ran = []

    def function(x):
        for _ in range(3):
            x = torch.sigmoid(x)  # each keeps its output
        y = x.clone()  # nothing of it is kept, yet the second run comes here too
        ran.append("end")
        return y

    x = torch.randn(100, dtype=torch.float64, requires_grad=True)
    plain, kept = kept_bytes(lambda: function(x))
    (expected,) = torch.autograd.grad(plain.sum(), x)
    assert kept == 3 * 800
    ran.clear()

    y, kept = kept_bytes(lambda: recomputed(function, x))
    assert kept <= 800 and ran == ["end"]
    (got,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(got, expected) and ran == ["end", "end"]


def test_mlp_is_the_formula(tiny, scramble):
    mlp = scramble(MLP(tiny()).double())
    x = torch.randn(5, 2, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u = x @ mlp.up.weight.T + mlp.up.bias
    assert u.shape[-1] == 4 * 24
    gelu = u / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
    torch.testing.assert_close(mlp(x), gelu @ mlp.down.weight.T + mlp.down.bias)
