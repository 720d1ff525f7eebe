"""Two paths of attention: both are the formula, in every number format."""

import math

import pytest
import torch

from minimtnlg.model import GPT, Draw
from minimtnlg.model.attention import Attention, readable_core, sdpa_core

CORES = pytest.mark.parametrize("core", [readable_core, sdpa_core])


def qkv(b=2, a=5, s=6, d=4, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    return torch.randn(3, b, a, s, d, generator=g, dtype=torch.float64).to(dtype)


@CORES
def test_core_is_the_formula(core):
    q, k, v = qkv()
    got = core(q, k, v, 0.0, None, 0)
    for i in range(q.shape[2]):  # token i looks at tokens 0 to i
        scores = torch.einsum("nad,nasd->nas", q[:, :, i], k[:, :, : i + 1]) / math.sqrt(4)
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        expected = torch.einsum("nas,nasd->nad", weights, v[:, :, : i + 1])
        torch.testing.assert_close(got[:, :, i], expected)


@CORES
def test_first_token_sees_itself_alone(core):
    q, k, v = qkv()
    torch.testing.assert_close(core(q, k, v, 0.0, None, 0)[:, :, 0], v[:, :, 0])


@CORES
def test_large_scores_do_not_overflow(core):
    q, k, v = 1e3 * qkv(dtype=torch.float32)
    assert core(q, k, v, 0.0, None, 0).isfinite().all()


@CORES
def test_dropout_falls_on_the_weights(core):
    """With v = 1, a unit matrix, the result is the weights: each one zero or its own / (1 - p)."""
    s, p = 32, 0.3
    q, k, _ = qkv(b=4, a=4, s=s)
    v = torch.eye(s, dtype=q.dtype).expand(4, 4, s, s)
    whole, dropped = (core(q, k, v, p, draw, 0) for draw in (None, Draw(1, 1, 1)))
    assert torch.equal(whole, core(q, k, v, 0.0, Draw(1, 1, 1), 0))
    kept = dropped != 0
    torch.testing.assert_close(dropped, kept * whole / (1 - p))
    past = whole.nonzero().shape[0]
    assert past == 16 * s * (s + 1) / 2
    assert abs(kept.sum() / past - (1 - p)) < 5 * math.sqrt(p * (1 - p) / past)


@CORES
def test_dropout_repeats_its_mask_for_its_purpose_alone(core):
    q, k, v = qkv()

    def dropped(step, micro_batch, layer):
        return core(q, k, v, 0.3, Draw(1, step, micro_batch), layer)

    assert torch.equal(dropped(1, 1, 0), dropped(1, 1, 0))
    for other in ((2, 1, 0), (1, 2, 0), (1, 1, 1)):
        assert not torch.equal(dropped(*other), dropped(1, 1, 0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_paths_agree_at_the_level_of_the_dtype(tiny, batch_of, scramble, gradients, dtype):
    """Loss, and every gradient, by its norm: within a few roundings of the format."""
    runs = []
    for attention in ("readable", "sdpa"):
        config = tiny(attention=attention, seq=32)
        model = scramble(GPT(config, dtype=dtype), std=0.1)
        runs.append(gradients(model, batch_of(config, b=4)))
    (loss, grads), (other, others) = runs
    eps = torch.finfo(dtype).eps
    assert abs(loss - other) <= 4 * eps * abs(loss)
    for name in grads:
        a, b = grads[name].double(), others[name].double()
        assert (a - b).norm() <= 8 * eps * a.norm(), name


def test_rows_of_qkv_go_head_by_head(tiny, scramble):
    """Zeroing the block of rows of one head silences that head and no other."""
    config = tiny(hidden=12, heads=2)
    d, x = config.head_size, torch.randn(5, 2, 12, generator=torch.Generator().manual_seed(0))
    attention = scramble(Attention(config, 0, "none"))
    attention.out = torch.nn.Identity()  # show the heads side by side
    with torch.no_grad():
        before = attention(x, None)
        attention.qkv.weight[2 * d : 3 * d] = 0  # the values of head 0
        attention.qkv.bias[2 * d : 3 * d] = 0
        after = attention(x, None)
    assert (after[..., :d] == 0).all() and (before[..., :d] != 0).all()
    assert torch.equal(after[..., d:], before[..., d:]) and (after[..., d:] != 0).all()
