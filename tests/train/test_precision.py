"""What 16-bit numbers lose and what the fp32 side keeps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from minimtnlg.config import Optim
from minimtnlg.parallel.mesh import Mesh
from minimtnlg.train.optimizer import Optimizer
from minimtnlg.train.precision import LossScale
from minimtnlg.train.step import step

OPTIM = Optim(lr=1e-3, min_lr=0.0, warmup_tokens=0, decay_tokens=1, weight_decay=0.0, clip=0.0)


class Linear(nn.Module):
    """loss = sum of slope * w: the gradient is `slope`, whatever w. A batch holds its slope."""

    def __init__(self, dtype, start=1.0, size=(4, 3)):
        super().__init__()
        self.w = nn.Parameter(torch.full(size, start, dtype=dtype))

    def loss(self, batch, draw=None):
        return (self.w.float() * batch.slope).sum()

    # What the step asks of any model.
    mesh, virtual, sequence_parallel = Mesh(), 1, False

    def stage(self, batch, x, draw, chunk):
        return self.loss(batch, draw)

    def ends(self, chunk):
        return True

    def handed_on(self, batch):
        return ()


class Slope:
    """A micro-batch of one token."""

    mask = torch.ones(1, 1)

    def __init__(self, slope):
        self.slope = slope


def take(model, optimizer, *slopes, lr=1e-3):
    """One step over micro-batches with these slopes, each given its weight in the mean."""
    return step(model, optimizer, [Slope(s) for s in slopes], lr=lr, seed=1, number=1)


# ---------------------------------------------------------------- masters


def test_masters_keep_updates_that_bfloat16_loses():
    """At 1.0 bfloat16 moves by 2^-8 at least; Adam's steps of 1e-3 are all lost without masters."""
    pure = torch.nn.Parameter(torch.ones(4, 3, dtype=torch.bfloat16))
    adam = torch.optim.AdamW([pure], lr=1e-3, weight_decay=0.0)
    model = Linear(torch.bfloat16)
    optimizer = Optimizer(model, OPTIM)
    for _ in range(50):
        pure.grad = torch.ones_like(pure)
        adam.step()
        take(model, optimizer, 1.0)
    assert (pure == 1).all()  # not one step arrived
    assert torch.allclose(optimizer.masters.masters[0], torch.tensor(0.95), atol=1e-5)
    assert torch.equal(model.w, torch.full((4, 3), 0.95, dtype=torch.bfloat16))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_are_summed_in_fp32(dtype):
    """1 + 300 x 2^-12: each small one is lost in a 16-bit sum."""
    model = Linear(dtype)
    optimizer = Optimizer(model, OPTIM)
    optimizer.zero()
    for slope in [1.0] + [2.0**-12] * 300:
        model.loss(Slope(slope)).backward()
        optimizer.accumulate()
        assert model.w.grad is None
    (total,) = optimizer.replicas.gradients
    assert (total == 1 + 300 * 2.0**-12).all()
    assert total.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_wide_parameter_is_its_own_master(dtype):
    model = Linear(torch.float32).to(dtype)
    optimizer = Optimizer(model, OPTIM)
    assert optimizer.masters.masters[0] is model.w
    optimizer.zero()
    model.loss(Slope(0.5)).backward()
    optimizer.accumulate()
    optimizer.masters.write_back()
    assert (model.w.grad == 0.5).all() and (model.w == 1).all()


def test_frozen_parameters_have_no_master():
    model = Linear(torch.bfloat16)
    model.frozen = nn.Parameter(torch.ones(5, dtype=torch.bfloat16), requires_grad=False)
    masters = Optimizer(model, OPTIM).masters
    assert [m.shape for m in masters.masters] == [(4, 3)]


def test_twenty_bytes_a_parameter_while_training():
    """(2 + 4) weights, (2 + 4) gradients, (4 + 4) moments [S3, sec. 2.1.1]."""
    model = Linear(torch.bfloat16, size=(64, 32))
    optimizer = Optimizer(model, OPTIM)
    take(model, optimizer, 1.0)
    optimizer.zero()
    model.loss(Slope(1.0)).backward()  # the moment at which everything is there
    tensors = [model.w, model.w.grad]
    for master in optimizer.masters.masters:
        state = optimizer.adam.state[master]
        tensors += [master, master.grad, state["exp_avg"], state["exp_avg_sq"]]
        assert state["step"].numel() == 1  # all that is left: one number a tensor
        assert len(state) == 3
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    assert sum(storages.values()) == 20 * 64 * 32
    assert [t.element_size() for t in tensors] == [2, 2, 4, 4, 4, 4]


# ---------------------------------------------------------------- loss scale


def test_only_float16_is_scaled():
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        scale = LossScale(dtype, "cpu")
        scale.update(torch.tensor(False))
        assert not scale.active and scale.scale == 1
    assert LossScale(torch.float16, "cpu").scale == 2**16


def test_small_gradients_survive_in_float16():
    """A gradient of 1e-8 is zero in fp16; scaled by 2^16 it is not, and Adam moves as in fp32."""
    models = {name: Linear(torch.float16) for name in ("scaled", "unscaled")}
    for name, model in models.items():
        optimizer = Optimizer(model, OPTIM)
        if name == "unscaled":
            optimizer.loss_scale.scale.fill_(1.0)
        _, norm = take(model, optimizer, 1e-6 / 64, lr=0.1)
        models[name] = (norm.item(), optimizer.masters.masters[0][0, 0].item())
    norm, weight = models["scaled"]
    assert norm == pytest.approx(1e-6 / 64 * 12**0.5, rel=1e-3)
    gradient = 1e-6 / 64
    assert weight == pytest.approx(1 - 0.1 * gradient / (gradient + OPTIM.eps), rel=1e-3)
    assert models["unscaled"] == (0.0, 1.0)


def test_an_overflow_changes_nothing_but_the_scale():
    model = Linear(torch.float16)
    optimizer = Optimizer(model, OPTIM)
    take(model, optimizer, 0.1)  # so that there are moments to spoil

    def everything():
        master = optimizer.masters.masters[0]
        return [model.w, master, *optimizer.adam.state[master].values()]

    before = [t.clone() for t in everything()]
    _, norm = take(model, optimizer, 1e30)
    assert not torch.isfinite(norm)
    assert optimizer.loss_scale.scale == 2**16  # the first overflow is forgiven
    take(model, optimizer, float("nan"), 0.1)
    assert optimizer.loss_scale.scale == 2**15  # the second is not
    assert all(torch.equal(a, b) for a, b in zip(before, everything(), strict=True))
    _, norm = take(model, optimizer, 0.1)  # and training goes on
    assert torch.isfinite(norm)
    assert all(not torch.equal(a, b) for a, b in zip(before, everything(), strict=True))


class Rule:
    """The rule of S10 in plain Python, to compare with."""

    def __init__(self, initial, minimum, window, hysteresis):
        self.scale, self.minimum, self.window = initial, minimum, window
        self.hysteresis = self.left = hysteresis
        self.good = 0

    def update(self, finite):
        if finite:
            self.good += 1
            if self.good == self.window:
                self.good, self.left, self.scale = 0, self.hysteresis, self.scale * 2
        else:
            self.good, self.left = 0, self.left - 1
            if self.left <= 0:
                self.scale = max(self.scale / 2, self.minimum)


@given(
    st.lists(st.booleans(), max_size=40),
    st.integers(0, 5),
    st.integers(1, 4),
    st.integers(1, 3),
)
@settings(deadline=None, max_examples=60)
def test_scale_follows_the_rule(steps, power, window, hysteresis):
    options = dict(initial=2.0**power, minimum=1.0, window=window, hysteresis=hysteresis)
    scale, rule = LossScale(torch.float16, "cpu", **options), Rule(**options)
    for finite in steps:
        scale.update(torch.tensor(finite))
        rule.update(finite)
        assert scale.scale.item() == rule.scale >= 1.0


def test_scale_by_hand():
    scale = LossScale(torch.float16, "cpu", initial=4.0, window=3, hysteresis=2)
    seen = []
    for finite in "g b g b b b g g g b b".split():
        scale.update(torch.tensor(finite == "g"))
        seen.append(int(scale.scale))
    #               g  b  g  b  b  b  g  g  g  b  b
    assert seen == [4, 4, 4, 2, 1, 1, 1, 1, 2, 2, 1]
