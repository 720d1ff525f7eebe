"""The whole model: shapes, counts, causality, loss, gradients, recomputation."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from minimtnlg.config import PRESETS, Model, preset
from minimtnlg.errors import InputError
from minimtnlg.model import GPT, Draw
from minimtnlg.model.gpt import Block

SHAPES = st.builds(
    lambda layers, head, heads, seq, vocab: Model(
        layers=layers, hidden=head * heads, heads=heads, seq=seq, vocab=vocab
    ),
    st.integers(1, 3),
    st.integers(1, 8),
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(2, 40),
)
MODES = [("sdpa", "full"), ("readable", "selective"), ("readable", "full")]


@settings(max_examples=15, deadline=None)
@given(SHAPES)
def test_parameters_are_counted_exactly(config):
    assert sum(p.numel() for p in GPT(config).parameters()) == config.parameters()


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_of_the_presets(name):
    config = preset(name).model
    with torch.device("meta"):  # shapes alone; a block of 530B would take 20 GB
        block = Block(config, 0, "none")
    outside = (config.vocab + config.seq) * config.hidden + 2 * config.hidden
    counted = config.layers * sum(p.numel() for p in block.parameters()) + outside
    assert counted == config.parameters()


def test_parameters_of_mtnlg():
    assert preset("mtnlg-530b").model.parameters() == 529_600_819_200


def test_logits_have_the_documented_shape(tiny, batch_of):
    config = tiny()
    for s in (1, 7, config.seq):
        assert GPT(config)(batch_of(config, b=3, s=s).tokens).shape == (s, 3, config.vocab)


def test_longer_sequence_than_positions_is_refused(tiny):
    config = tiny()
    with pytest.raises(InputError, match=r"^a sequence of 11 tokens .* 10 positions .* model.seq$"):
        GPT(config)(torch.zeros(1, config.seq + 1, dtype=torch.long))


@pytest.mark.parametrize("attention", ["readable", "sdpa"])
def test_the_future_changes_nothing(tiny, batch_of, scramble, attention):
    config = tiny(attention=attention)
    model = scramble(GPT(config, dtype=torch.float64))
    tokens = batch_of(config).tokens
    before = model(tokens)
    for j in range(config.seq):
        changed = tokens.clone()
        changed[:, j] = (changed[:, j] + 1) % config.vocab
        after = model(changed)
        assert torch.equal(after[:j], before[:j])
        assert not torch.isclose(after[j:], before[j:]).all(dim=-1).any()


def test_sequences_of_a_batch_do_not_meet(tiny, batch_of, scramble):
    config = tiny()
    model = scramble(GPT(config, dtype=torch.float64))
    tokens = batch_of(config, b=4).tokens
    together = model(tokens)
    for i in range(4):
        torch.testing.assert_close(model(tokens[i : i + 1])[:, 0], together[:, i])


def test_loss_is_the_sum_over_unmasked_tokens(tiny, batch_of, scramble):
    config = tiny()
    model = scramble(GPT(config, dtype=torch.float64))
    batch = batch_of(config)
    probabilities = model(batch.tokens).softmax(-1)
    expected = 0.0
    for i, j in batch.mask.nonzero().tolist():
        expected -= probabilities[j, i, batch.labels[i, j]].log()
    assert 0 < batch.mask.sum() < batch.mask.numel()
    torch.testing.assert_close(model.loss(batch), expected)


def test_nothing_unmasked_gives_zero_loss_and_gradient(tiny, batch_of, gradients):
    config = tiny()
    batch = batch_of(config)
    loss, grads = gradients(GPT(config), batch._replace(mask=torch.zeros_like(batch.mask)))
    assert loss == 0
    assert all((g == 0).all() for g in grads.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_loss_is_summed_in_fp32_or_float64(tiny, batch_of, dtype):
    config = tiny()
    model = GPT(config, dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert model(batch_of(config).tokens).dtype == dtype
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    batch = batch_of(config)
    loss = model.loss(batch)
    assert loss.dtype == wide
    logits = model(batch.tokens).to(wide).transpose(0, 1)
    each = torch.nn.functional.cross_entropy(logits.mT, batch.labels, reduction="none")
    torch.testing.assert_close(loss, (each * batch.mask).sum())


@pytest.mark.parametrize("attention", ["readable", "sdpa"])
def test_gradients_are_the_finite_differences(batch_of, scramble, attention):
    config = Model(layers=1, hidden=4, heads=2, seq=3, vocab=5, attention=attention)
    model = scramble(GPT(config, dtype=torch.float64))
    names = [name for name, _ in model.named_parameters()]
    batch = batch_of(config)

    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self):
            return self.model.loss(batch)

    def loss(*tensors):
        state = {f"model.{name}": tensor for name, tensor in zip(names, tensors, strict=True)}
        return torch.func.functional_call(Loss(), state, ())

    start = [p.detach().clone().requires_grad_() for p in model.parameters()]
    assert torch.autograd.gradcheck(loss, start)


def test_dropout_changes_the_gradient_only_through_its_masks(tiny, batch_of, scramble, gradients):
    """With dropout, too, the gradient is the slope: along one random direction."""
    config, draw = tiny(dropout=0.2), Draw(1, 2, 3)
    model, batch = scramble(GPT(config, dtype=torch.float64)), batch_of(config)
    _, grads = gradients(model, batch, draw)
    g = torch.Generator().manual_seed(1)
    ways = {
        name: torch.randn(grad.shape, generator=g, dtype=grad.dtype) for name, grad in grads.items()
    }
    slope = sum((grads[name] * way).sum() for name, way in ways.items())
    step, losses = 1e-6, []
    with torch.no_grad():
        for move in (step, -2 * step):
            for name, parameter in model.named_parameters():
                parameter += move * ways[name]
            losses.append(model.loss(batch, draw))
    torch.testing.assert_close((losses[0] - losses[1]) / (2 * step), slope, rtol=1e-6, atol=0)


@pytest.mark.parametrize("attention, recompute", MODES)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputation_changes_no_bit(tiny, batch_of, gradients, attention, recompute, dropout):
    config, draw = tiny(attention=attention, dropout=dropout), Draw(1, 2, 3)
    batch = batch_of(config)
    kept = gradients(GPT(config, recompute="none"), batch, draw)
    again = gradients(GPT(config, recompute=recompute), batch, draw)
    assert torch.equal(kept[0], again[0])
    assert all(torch.equal(kept[1][name], again[1][name]) for name in kept[1])


@pytest.mark.parametrize("attention, recompute", MODES)
def test_recomputation_keeps_less(tiny, batch_of, kept_bytes, attention, recompute):
    config = tiny(attention=attention, dropout=0.1, hidden=12, seq=64)  # s > h: scores weigh most
    batch = batch_of(config)
    sizes = {}
    for mode in ("none", recompute):
        model = GPT(config, recompute=mode)
        _, sizes[mode] = kept_bytes(lambda model=model: model.loss(batch, Draw(1, 1, 1)))
    assert sizes[recompute] < 0.7 * sizes["none"]


@pytest.mark.parametrize("attention", ["readable", "sdpa"])
def test_each_draw_is_its_own(tiny, batch_of, attention):
    config = tiny(attention=attention, dropout=0.2)
    model, batch = GPT(config, dtype=torch.float64), batch_of(config)
    draws = [None, *(Draw(*n) for n in ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (1, 1, 1)))]
    losses = [model.loss(batch, draw).item() for draw in draws]
    assert len(set(losses)) == 5
    assert losses[5] == losses[1]


@pytest.mark.parametrize("attention", ["readable", "sdpa"])
def test_no_two_sites_share_a_mask(tiny, batch_of, attention):
    config, asked = tiny(attention=attention, dropout=0.2), []

    class Recorder(Draw):
        def purpose(self, *place):
            asked.append(super().purpose(*place))
            return asked[-1]

    GPT(config).loss(batch_of(config), Recorder(1, 1, 1))
    assert len(asked) == len(set(asked)) == 1 + 3 * config.layers


@pytest.mark.parametrize("attention", ["readable", "sdpa"])
@pytest.mark.parametrize("recompute", ["none", "full"])
def test_global_random_state_is_left_alone(tiny, batch_of, attention, recompute):
    config = tiny(attention=attention, dropout=0.2)
    batch = batch_of(config)
    before = torch.get_rng_state()
    model = GPT(config, recompute=recompute)
    model.loss(batch, Draw(1, 1, 1)).backward()
    assert torch.equal(torch.get_rng_state(), before)


def test_what_came_before_in_the_process_does_not_matter(tiny, batch_of):
    config = tiny(dropout=0.2)
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        losses.append(GPT(config).loss(batch_of(config), Draw(1, 1, 1)))
    assert torch.equal(*losses)
