"""Initial weights: MT-NLG's rule, drawn by name and by nothing else."""

import math

import pytest
import torch

from minimtnlg.config import Model, preset
from minimtnlg.model import GPT
from minimtnlg.model.init import RESIDUAL_OUTPUTS, draw

CONFIG = Model(layers=8, hidden=64, heads=4, seq=128, vocab=512)


def test_the_rule_of_mtnlg():
    """4.034e-3; the published 4.0e-3 is this, rounded [S3]."""
    std = preset("mtnlg-530b").model.init_std
    assert round(std * 1e3, 3) == 4.034
    assert float(f"{std:.1g}") == 4.0e-3


def test_every_tensor_has_its_spread():
    """A standard deviation of n numbers is known to 1 / sqrt(2n): five times that is allowed."""
    for name, parameter in GPT(CONFIG).named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            n = parameter.numel()
            std = math.sqrt(1 / (3 * 64)) / (4 if name.endswith(RESIDUAL_OUTPUTS) else 1)
            assert abs(parameter.std() / std - 1) < 5 / math.sqrt(2 * n), name
            assert abs(parameter.mean()) < 5 * std / math.sqrt(n), name


def test_two_matrices_a_layer_are_scaled():
    scaled = [n for n, _ in GPT(CONFIG).named_parameters() if n.endswith(RESIDUAL_OUTPUTS)]
    assert len(scaled) == 2 * CONFIG.layers


def test_no_two_tensors_are_alike():
    weights = [p.flatten()[:1000] for p in GPT(CONFIG).parameters() if p.dim() == 2]
    normal = torch.stack([w / w.norm() for w in weights])
    overlap = normal @ normal.T - torch.eye(len(weights))
    assert overlap.abs().max() < 0.2  # six times 1 / sqrt(1000)


def test_a_weight_depends_on_its_name_and_the_seed_alone():
    model = GPT(CONFIG, seed=3)
    shuffled = sorted(model.named_parameters(), key=lambda item: hash(item[0]))
    for name, parameter in shuffled:
        assert torch.equal(parameter, draw(name, parameter.shape, CONFIG, 3)), name
        if parameter.dim() == 2:
            assert not torch.equal(parameter, draw(name, parameter.shape, CONFIG, 4)), name


def test_more_layers_leave_the_first_ones_as_they_are():
    few, many = (
        dict(GPT(Model(layers=n, hidden=16, heads=2, seq=8, vocab=32)).named_parameters())
        for n in (2, 8)
    )
    for name, parameter in few.items():
        factor = 2 if name.endswith(RESIDUAL_OUTPUTS) else 1  # sqrt(2 * 8) / sqrt(2 * 2)
        torch.testing.assert_close(many[name] * factor, parameter, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_formats_hold_the_same_numbers_rounded(dtype):
    single, other = GPT(CONFIG).state_dict(), GPT(CONFIG, dtype=dtype).state_dict()
    assert all(torch.equal(other[name], single[name].to(dtype)) for name in single)


def test_the_loss_starts_at_ln_V_plus_one_sixth():
    """Logits are N(0, h std^2) with h std^2 = 1/3: the mean loss is ln V + 1/6."""
    losses = []
    for seed in range(4):
        g = torch.Generator().manual_seed(seed)
        tokens, labels = torch.randint(CONFIG.vocab, (2, 8, 128), generator=g)
        with torch.no_grad():
            logits = GPT(CONFIG, seed=seed)(tokens).transpose(0, 1)
        losses.append(torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()))
    # 4 096 labels, whose logits have a standard deviation of 0.58: the mean is known to 0.009
    assert abs(torch.stack(losses).mean() - math.log(512) - 1 / 6) < 0.03
