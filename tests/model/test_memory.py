"""What backward keeps of a layer is S13's formula: a stray copy or a fat mask would be noticed."""

import pytest
import torch
from saving import kept

from minimtnlg.config import Model
from minimtnlg.device import device
from minimtnlg.model import GPT, Draw

# (s, b, h, a): 5as/h = 20, 40 and 64, the last being MT-NLG's share of the attention core.
SHAPES = [(128, 2, 128, 4), (96, 4, 96, 8), (128, 2, 160, 16)]
DROPOUT = Draw(seed=1, step=0, micro_batch=0)


def formula(shape, recompute):
    """Bytes a layer keeps, in units of sbh [S13, secs. 4.1 and 5]."""
    s, _, h, a = shape
    return {"none": 34 + 5 * a * s / h, "selective": 34, "full": 2}[recompute]


def model(shape, layers, recompute):
    """A GPT as the formula supposes it: bf16, dropout 0.1, the readable path."""
    s, _, h, a = shape
    config = Model(
        layers=layers, hidden=h, heads=a, seq=s, vocab=64, dropout=0.1, attention="readable"
    )
    return GPT(config, dtype=torch.bfloat16, recompute=recompute)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("recompute", ["none", "selective"])
def test_a_layer_keeps_what_the_formula_says(shape, recompute):
    s, b, h, _ = shape
    block = model(shape, 1, recompute).blocks[0]
    x = torch.randn(s, b, h, dtype=torch.bfloat16, device=device(), requires_grad=True)
    # The formula leaves out the causal mask, s^2 bytes, and the LayerNorms' means and deviations.
    assert 1 <= kept(block, x, DROPOUT) / (s * b * h) / formula(shape, recompute) < 1.015


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_each_layer_of_a_model_adds_its_share(shape, recompute):
    s, b, h, _ = shape
    tokens = torch.zeros(b, s, dtype=torch.long, device=device())
    one, three = (kept(model(shape, n, recompute), tokens, DROPOUT) / (s * b * h) for n in (1, 3))
    layer = (three - one) / 2
    assert 1 <= round(layer, 9) / formula(shape, recompute) < 1.015
    # Around the layers: the embedding's mask, the last LayerNorm's input, the output layer's input.
    assert 1 + 2 + 2 <= one - layer < (1 + 2 + 2) * 1.06


def test_full_recomputation_keeps_only_the_inputs_of_the_layers():
    shape = s, b, h, _ = SHAPES[0]
    tokens = torch.zeros(b, s, dtype=torch.long, device=device())
    one, four = (kept(model(shape, n, "full"), tokens, DROPOUT) for n in (1, 4))
    assert four - one == 3 * 2 * s * b * h
