"""The step against one plain pass over the whole batch: the reference of tests/equivalence."""

import pytest
import torch
from reference import Batch, Draws, adam, train

from minimtnlg.config import Model, Optim
from minimtnlg.errors import InputError
from minimtnlg.model import GPT
from minimtnlg.parallel.schedules import OneFOneB
from minimtnlg.train.optimizer import Optimizer
from minimtnlg.train.step import evaluate, step

SEED, NUMBER, LR = 11, 7, 3e-3
CONFIG = dict(layers=2, hidden=24, heads=3, seq=10, vocab=31)
# Unmasked tokens of each row of each micro-batch [2, s]: one row, one batch without any.
KEPT = [(10, 10), (0, 0), (1, 3), (0, 7)]
OPTIM = dict(lr=LR, min_lr=0.0, warmup_tokens=0, decay_tokens=1)


def micro_batches(kept=KEPT, s=10, vocab=31):
    g = torch.Generator().manual_seed(5)
    result = []
    for counts in kept:
        ids = torch.randint(vocab, (len(counts), s + 1), generator=g)
        mask = (torch.arange(s) < torch.tensor(counts)[:, None]).float()
        result.append(Batch(ids[:, :-1], ids[:, 1:], mask))
    return result


def build(dtype=torch.float64, optim=None, recompute="none", **changes):
    """(GPT, Optimizer) with random biases and LayerNorms, so that no gradient is special."""
    model = GPT(Model(**(CONFIG | changes)), dtype=dtype, recompute=recompute)
    g = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for p in model.parameters():
            noise = torch.randn(p.shape, generator=g, dtype=torch.float64)
            p.copy_(p.double() + 0.3 * noise)
    return model, Optimizer(model, Optim(**(OPTIM | (optim or {}))))


def reference_of(model, batches, optim):
    """The Step that one pass over the whole batch takes from fresh moments, with Adam."""
    weights = {
        name: p.detach().clone().requires_grad_(p.requires_grad)
        for name, p in model.named_parameters()
    }
    [expected] = train(weights, model.config, optim, [(batches, Draws(SEED, NUMBER))], adam)
    return expected


def assert_same(model, result, expected, tol=1e-11):
    """Loss, norm, every gradient (after clipping) and every parameter."""
    loss, norm, gradients, weights = expected
    assert abs(result[0] - loss) < tol
    assert abs(result[1] - norm) < tol * max(1.0, norm.item())
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert (p.grad - gradients[name]).abs().max() < tol, name
        else:
            assert p.grad is None, name
        assert (p - weights[name]).abs().max() < tol, name


# eps 1e-3: Adam's first step divides g by |g| + eps, which for a tiny eps is a sign and amplifies
# the last digit of a gradient that is zero up to rounding (the biases of the keys).
VARIANTS = {
    "plain": {},
    "clipped": dict(optim=dict(clip=0.05)),
    "not clipped": dict(optim=dict(clip=0.0)),
    "readable": dict(attention="readable"),
    "dropout": dict(dropout=0.3, attention="readable"),
    "dropout, full recomputation": dict(dropout=0.3, attention="readable", recompute="full"),
    "dropout, selective": dict(dropout=0.3, attention="readable", recompute="selective"),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_equals_one_pass_over_the_whole_batch(name):
    variant = dict(VARIANTS[name])
    model, optimizer = build(optim=dict(eps=1e-3) | variant.pop("optim", {}), **variant)
    expected = reference_of(model, micro_batches(), optimizer.optim)
    result = step(model, optimizer, micro_batches(), lr=LR, seed=SEED, number=NUMBER)
    assert_same(model, result, expected)
    if name == "clipped":
        assert result[1] > 0.05  # so clipping did act
        total = sum((p.grad**2).sum() for p in model.parameters()).sqrt()
        assert total.item() == pytest.approx(0.05, rel=1e-4)


@pytest.mark.parametrize("cut", [[8], [4, 4], [3, 5], [1] * 8])
def test_micro_batches_do_not_matter(cut):
    """The same eight rows in any cut give the same step."""
    rows = micro_batches([row for pair in KEPT for row in [(pair[0],), (pair[1],)]])
    model, optimizer = build(optim=dict(eps=1e-3))
    expected = reference_of(model, rows, optimizer.optim)
    pieces, begin = [], 0
    for size in cut:
        tokens, labels, mask, _ = zip(*rows[begin : begin + size], strict=True)
        pieces.append(Batch(torch.cat(tokens), torch.cat(labels), torch.cat(mask)))
        begin += size
    result = step(model, optimizer, pieces, lr=LR, seed=SEED, number=NUMBER)
    assert_same(model, result, expected)


def test_frozen_and_untouched_parameters():
    """Frozen weights stay; a matrix without gradient decays, a vector without gradient stays."""
    model, _ = build()
    model.blocks[0].mlp.up.weight.requires_grad_(False)
    model.blocks[1].attention.qkv.bias.requires_grad_(False)
    model.position.weight.requires_grad_(False)
    model.unused_matrix = torch.nn.Parameter(torch.ones(3, 2, dtype=torch.float64))
    model.unused_vector = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = Optimizer(model, Optim(**OPTIM, eps=1e-3, weight_decay=0.5))
    expected = reference_of(model, micro_batches(), optimizer.optim)
    frozen = model.blocks[0].mlp.up.weight.clone()
    result = step(model, optimizer, micro_batches(), lr=LR, seed=SEED, number=NUMBER)
    assert_same(model, result, expected)
    assert torch.equal(model.blocks[0].mlp.up.weight, frozen)
    assert (model.unused_matrix == 1 - LR * 0.5).all()
    assert (model.unused_vector == 1).all()


def test_a_batch_without_tokens_moves_nothing_but_decay():
    model, optimizer = build(optim=dict(weight_decay=0.5))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    batches = micro_batches([(0, 0), (0, 0)])
    loss, norm = step(model, optimizer, batches, lr=LR, seed=SEED, number=NUMBER)
    assert loss == 0 and norm == 0
    for name, p in model.named_parameters():
        factor = 1 - LR * 0.5 if p.dim() == 2 else 1
        assert torch.allclose(p, before[name] * factor, rtol=1e-15, atol=0), name


def test_mean_over_tokens_is_not_the_mean_of_means():
    """What a step would give that averages the micro-batches' means: far off with these masks."""
    model, optimizer = build()
    batches = micro_batches()
    means = torch.stack([evaluate(model, [b]) for b in batches])
    whole = evaluate(model, batches)
    loss, _ = step(model, optimizer, batches, lr=0.0, seed=SEED, number=NUMBER)
    assert abs(loss - whole) < 1e-12
    assert abs(loss - means.mean()) > 0.1


def test_evaluation_has_no_dropout_and_leaves_no_trace():
    model, optimizer = build(dropout=0.5)
    plain, _ = build()
    expected = reference_of(plain, micro_batches(), optimizer.optim)[0]
    assert abs(evaluate(model, micro_batches()) - expected) < 1e-12
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_same_seed_same_bits(dtype):
    def after_steps(seed, shift=0):
        model, optimizer = build(dtype, dropout=0.2)
        results = [
            step(model, optimizer, micro_batches(), lr=LR, seed=seed, number=number + shift)
            for number in (1, 2)
        ]
        return [x for pair in results for x in pair] + list(model.parameters())

    first = after_steps(1)
    assert all(torch.equal(a, b) for a, b in zip(first, after_steps(1), strict=True))
    for other in (after_steps(2), after_steps(1, shift=1)):  # other dropout masks
        assert not torch.equal(first[0], other[0])
        assert not torch.equal(first[-1], other[-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_steps_are_near_the_exact_one(dtype):
    """Losses of five steps in 16 and 32 bits follow those in 64, within their own precision."""

    def losses(dtype):
        model, optimizer = build(dtype)
        for number in range(5):
            loss, _ = step(model, optimizer, micro_batches(), lr=LR, seed=SEED, number=number)
            yield loss.item()

    exact, found = list(losses(torch.float64)), list(losses(dtype))
    assert exact[-1] < exact[0] - 0.5  # it does learn
    assert found == pytest.approx(exact, rel=max(1e-5, 8 * torch.finfo(dtype).eps))


def test_step_holds_no_state_of_its_own():
    """Two runs taken in turn do not disturb each other or the global random state."""
    alone, mixed = [build(dropout=0.2) for _ in range(2)]
    other = build(dropout=0.2)
    state = torch.get_rng_state()
    for number in (1, 2):
        one = step(*alone, micro_batches(), lr=LR, seed=1, number=number)
        step(*other, micro_batches([(3, 3)]), lr=LR, seed=2, number=number)
        two = step(*mixed, micro_batches(), lr=LR, seed=1, number=number)
        assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("zero", range(4))
def test_an_interrupted_step_leaves_nothing(zero):
    """As by Ctrl-C in a cell, in the middle of a backward pass; then the cell is run again."""

    def interrupt(_):
        raise KeyboardInterrupt

    def built():
        model, plain = build()
        return model, Optimizer(model, plain.optim, zero=zero)

    model, optimizer = built()
    handle = model.blocks[0].mlp.up.weight.register_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        step(model, optimizer, micro_batches(), lr=LR, seed=SEED, number=NUMBER)
    handle.remove()
    again, fresh = (
        (step(*pair, micro_batches(), lr=LR, seed=SEED, number=NUMBER), pair[1].replicas.owned)
        for pair in ((model, optimizer), built())
    )
    assert again[0] == fresh[0]
    assert all(torch.equal(a, b) for a, b in zip(again[1], fresh[1], strict=True))


def test_a_schedule_of_other_chunks_than_the_model_is_refused():
    model = GPT(Model(**CONFIG), virtual=2)
    optimizer = Optimizer(model, Optim(**OPTIM))
    for call in (
        lambda schedule: step(
            model, optimizer, micro_batches()[:1], lr=LR, seed=1, number=1, schedule=schedule
        ),
        lambda schedule: evaluate(model, micro_batches()[:1], schedule),
    ):
        with pytest.raises(InputError, match="1 chunks a stage for a model of 2"):
            call(OneFOneB(pp=1, m=1))
