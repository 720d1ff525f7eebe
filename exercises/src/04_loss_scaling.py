# ---
# mark: 2
# minutes: 30
# help: half
# needs: [number format, master weights]
# draws:
#   RENEWED: [growth, good]
#   FACTOR: [2, 4]
#   WINDOW: [4, 3, 5]
# ---

# %% [markdown]
# # A loss scale that finds its size
#
# In float16 small gradients become zero. So the loss is multiplied by a scale before backward, and
# its gradients come out that much larger (the lesson's first deeper part). Write what happens after
# backward, in `step`.
#
# - A step is **good** if every number of every gradient is finite. Then each weight moves by `rate`
#   times its gradient divided by the scale that the gradient was made with, in 32 bits. A step that
#   is not good moves nothing.
# - **Down**: a bad step uses up one unit of patience (the lesson's `hysteresis`). The bad step that leaves none, and each one after
#   it, divides the scale by {{FACTOR}}, but never to below 1.
# - **Up**: `window` good steps in a row multiply the scale by {{FACTOR}}, and the count begins again. A
#   bad step ends a row.
# - Patience is full again {{RENEWED_SAID}}. {{ASIDE}}
#
# **Target:** from 1024, `window` {{WINDOW}} and `patience` 2, the steps `{{FLAGS}}` (g good, b bad)
# leave the scales {{SCALES}}.

# %% tags=["target"]
RENEWED_SAID = {
    "growth": "when the scale has grown, and not before",
    "good": "after every good step",
}[RENEWED]
ASIDE = {
    "growth": "(So it is in Megatron.)",
    "good": "(In Megatron only when the scale has grown.)",
}[RENEWED]
FLAGS = "bbbgb" + "g" * WINDOW + "b" + "g" * (WINDOW - 1) + "bb"


def _scales(flags, scale, window, patience):
    """The scale after each step, one row of equal steps at a time."""
    import itertools

    left, scales = patience, []
    for kind, row in itertools.groupby(flags):
        n = len(list(row))
        if kind == "g":
            scales += [scale * FACTOR ** (i // window) for i in range(1, n + 1)]
            left = patience if RENEWED == "good" or n >= window else left
        else:
            times = [max(0, i + 1 - max(left, 1)) for i in range(1, n + 1)]
            scales += [max(1.0, scale / FACTOR**k) for k in times]
            left -= n
        scale = scales[-1]
    return scales


HISTORY = _scales(FLAGS, 1024.0, WINDOW, 2)
SCALES = ", ".join(f"{scale:.0f}" for scale in HISTORY)
# flags, first scale, window, patience -> scales
HISTORIES = {
    case: _scales(*case)
    for case in [
        ("ggggggggggggg", 8.0, 3, 2),
        ("ggbggbggbgggg", 8.0, 3, 9),
        ("bbbbbbbbbb", 16.0, 3, 2),
        ("bgbgbgbgbgbg", 64.0, 3, 2),
        ("bgbgbgbgbgbg", 64.0, 3, 4),
        ("bbgggbbgggbb", 64.0, 3, 2),
        ("gbgg" * 12 + "bbb" * 3 + "ggggg" * 9 + "b", 2.0**16, 5, 3),
        ("b" * 20 + "g" * 20, 2.0**16, 1, 1),
        ("bggbbgggbbbggggbbbb" * 4, 4096.0, 2, 2),
    ]
}
LEFT = {  # of the printed solution
    "growth": "self.patience if grows else self.left",
    "good": "self.patience",
}[RENEWED]

# %%
import torch


# %% tags=["stub"]
class LossScaling:
    """Moves weights in 32 bits by the gradients of a loss that was multiplied by `scale`."""

    def __init__(self, scale, window, patience):
        self.scale, self.window, self.patience = scale, window, patience
        self.good = 0  # good steps in a row
        self.left = patience

    def step(self, weights, gradients, rate):
        """Moves the weights in place and sets `self.scale` for the next step; whether it was good.

        weights    list of float32 tensors
        gradients  list of float16 tensors of the same shapes: of scale times the loss
        """
        finite = all(gradient.isfinite().all().item() for gradient in gradients)
        raise NotImplementedError(f"good is {finite}: move or not, count, and set the next scale")


# %% [markdown] tags=["hint"]
# Three parts, in this order: move the weights; count; change the scale. Why must the weights move
# before the scale changes? And what is $2^{-10}$ divided by $2^{16}$ in float16, whose smallest
# number is $2^{-24}$?

# %% [markdown] tags=["hint"]
# `gradient.float() / self.scale` is in 32 bits; `weight -= ...` changes the tensor in place. A good step
# adds 1 to `good`, and if that makes `window`, the scale grows and `good` is 0 again. A bad step sets
# `good` to 0 and takes 1 from `left`; if `left <= 0` then, the scale shrinks.

# %% [markdown] tags=["hint"]
# ```python
# if finite:
#     ...  # move each weight, then count
#     grows = self.good == self.window
#     if grows:
#         self.scale, self.good = self.scale * {{FACTOR}}, 0
#     self.left = {{LEFT}}
# else:
#     ...  # self.scale becomes max(1.0, self.scale / {{FACTOR}}) if no patience is left
# ```


# %% tags=["solution"]
class LossScaling:
    def __init__(self, scale, window, patience):
        self.scale, self.window, self.patience = scale, window, patience
        self.good, self.left = 0, patience

    def step(self, weights, gradients, rate):
        finite = all(gradient.isfinite().all().item() for gradient in gradients)
        if finite:
            for weight, gradient in zip(weights, gradients, strict=True):
                weight -= rate * gradient.float() / self.scale
            self.good += 1
            grows = self.good == self.window
            if grows:
                self.scale, self.good = self.scale * {{FACTOR}}, 0
            self.left = {{LEFT}}
        else:
            self.good = 0
            self.left -= 1
            if self.left <= 0:
                self.scale = max(1.0, self.scale / {{FACTOR}})
        return finite


# %% tags=["check"]
from minimtnlg.course.check import Feedback, expect

GOOD, BAD = [3.0, -1.0], [3.0, float("inf")]


def _half(*numbers):
    return torch.tensor(numbers, dtype=torch.float16)


def _history(student, flags, scale, window, patience):
    """The scales after each step; an answer that is not the step's kind is put into words."""
    scaling, scales = student(scale, window, patience), []
    for i, flag in enumerate(flags):
        good = scaling.step([torch.zeros(2)], [_half(*(GOOD if flag == "g" else BAD))], 1.0)
        what = f"what step {i} of {flags} returns"
        if good not in (True, False) or bool(good) != (flag == "g"):
            raise Feedback(what, flag == "g", good, "whether every number was finite")
        scales.append(float(scaling.scale))
    return scales


def _compare(student, flags, scale, window, patience, wanted):
    got = _history(student, flags, scale, window, patience)
    for i, (one, other) in enumerate(zip(wanted, got, strict=True)):
        if one != other:
            what = f"the scale after step {i} of {flags}, from {scale:g}, window {window}, "
            before = wanted[i - 1] if i else scale
            if flags[i] == "g":
                row = i - flags.rfind("b", 0, i)
                look_at = f"good step {row} in a row; after each {window} the scale grows, else it stays"
            else:
                look_at = "a bad step: is patience left after it? It is full again " + RENEWED_SAID
                look_at += "; the scale never falls below 1"
            raise Feedback(what + f"patience {patience}; it was {before:g}", one, other, look_at)


def moves_and_skips(student):
    """A good step moves the weights, a bad one moves nothing"""
    scaling = student(1024.0, 9, 9)
    one, two = torch.tensor([1.0, 2.0]), torch.tensor([[5.0]])
    look_at = "the gradient is that of 1024 times the loss; a weight moves in place"
    scaling.step([one, two], [_half(512.0, -256.0), _half(1024.0).view(1, 1)], 0.5)
    expect(one, torch.tensor([0.75, 2.125]), "weights 1, 2 after gradients 512, -256", look_at)
    expect(two, torch.tensor([[4.5]]), "the weight 5 of another tensor after gradient 1024", look_at)
    for freak in ("inf", "-inf", "nan"):
        scaling.step([one, two], [_half(512.0, 1.0), _half(float(freak)).view(1, 1)], 0.5)
        look_at = "one number that is not finite is enough: no tensor moves"
        expect(one, torch.tensor([0.75, 2.125]), f"the weights after a gradient of {freak}", look_at)
        expect(two, torch.tensor([[4.5]]), f"the weight with a gradient of {freak}", look_at)


def history_of_the_target(student):
    """The scales of the target"""
    _compare(student, FLAGS, 1024.0, WINDOW, 2, HISTORY)


def divides_in_32_bits(student):
    """A gradient that float16 could not hold any more is not lost"""
    weight, scaling = torch.tensor([0.0]), student(2.0**16, 9, 9)
    scaling.step([weight], [_half(2.0**-10)], 1.0)
    look_at = "first to 32 bits, then divide: 2**-26 is zero in float16"
    expect(weight, torch.tensor([-(2.0**-26)]), "weight 0 after gradient 2**-10, scale 2**16", look_at)


def divides_by_its_own_scale(student):
    """In the step after which the scale grows, the old one still counts"""
    weight = torch.tensor([0.0])
    student(64.0, 1, 1).step([weight], [_half(64.0)], 1.0)
    look_at = "this gradient was made with the scale before the step"
    what = "weight 0 after gradient 64, scale 64; with window 1 the scale grows"
    expect(weight, torch.tensor([-1.0]), what, look_at)


# %% tags=["hidden"]
def other_histories(student):
    """Other orders of good and bad steps"""
    for case, wanted in HISTORIES.items():
        _compare(student, *case, wanted)


def never_below_one(student):
    """The scale ends at 1 on its way down, and finds its way up from there"""
    for start, shrunk in ((8.0, {2: [4, 2, 1], 4: [2, 1, 1]}), (6.0, {2: [3, 1.5, 1], 4: [1.5, 1, 1]})):
        wanted = [*shrunk[FACTOR], 1, 1, 1, FACTOR, FACTOR, FACTOR**2, FACTOR**2]
        _compare(student, "bbbbbggggg", start, 2, 1, [float(x) for x in wanted])


def as_the_package(student):
    """The package's scale on 200 random steps"""
    from minimtnlg.train.precision import LossScale

    draw = torch.Generator().manual_seed(5)
    flags = "".join("b" if x < 0.2 else "g" for x in torch.rand(200, generator=draw).tolist())
    patience = 1 if RENEWED == "good" else 3  # with a patience of 1 both rules are the package's
    theirs, wanted = LossScale(torch.float16, "cpu", 2.0**100, 1.0, 6, patience), []
    for flag in flags:
        theirs.update(torch.tensor(flag == "g"))
        doublings = theirs.scale.log2().item() - 100
        wanted.append(2.0**100 * float(FACTOR) ** doublings)
    _compare(student, flags, 2.0**100, 6, patience, wanted)


def one_call_one_object(student):
    """Two scales at once have nothing to do with each other"""
    one, two = student(8.0, 2, 1), student(8.0, 2, 1)
    for _ in range(2):
        one.step([torch.zeros(1)], [_half(1.0)], 1.0)
    expect(float(one.scale), 8.0 * FACTOR, "the scale after two good steps, window 2")
    expect(float(two.scale), 8.0, "the scale of another object")


# %% tags=["wrong"]
class NeverSkips(LossScaling):
    """Caught by: moves_and_skips. The scale is lowered, and the step is taken all the same."""

    def step(self, weights, gradients, rate):
        for weight, gradient in zip(weights, gradients, strict=True):
            weight -= rate * gradient.float() / self.scale
        return super().step([w.clone() for w in weights], gradients, rate)


class LooksForInfOnly(LossScaling):
    """Caught by: moves_and_skips. inf is looked for; inf - inf gives nan."""

    def step(self, weights, gradients, rate):
        seen = [torch.where(g.isnan(), 0.0, g) for g in gradients]
        good = super().step([w.clone() for w in weights], seen, rate)
        if good:
            for weight, gradient in zip(weights, gradients, strict=True):
                weight -= rate * gradient.float() / self.scale
        return good


class SkipsOneTensor(LossScaling):
    """Caught by: moves_and_skips. Each tensor decides for itself whether it moves."""

    def step(self, weights, gradients, rate):
        for weight, gradient in zip(weights, gradients, strict=True):
            if gradient.isfinite().all():
                weight -= rate * gradient.float() / self.scale
        return super().step([w.clone() for w in weights], gradients, rate)


class ForgetsToDivide(LossScaling):
    """Caught by: moves_and_skips. Adam would hide the factor, so it is left in."""

    def step(self, weights, gradients, rate):
        return super().step(weights, gradients, rate * self.scale)


class DividesIn16Bits(LossScaling):
    """Caught by: divides_in_32_bits. The gradient is divided as it is, and made 32 bits then."""

    def step(self, weights, gradients, rate):
        scale, self.scale = self.scale, 1.0
        divided = [g / scale for g in gradients]
        for weight, gradient in zip(weights, divided, strict=True):
            if all(g.isfinite().all() for g in gradients):
                weight -= rate * gradient.float()
        self.scale = scale
        return super().step([w.clone() for w in weights], gradients, rate)


class DividesByTheNextScale(LossScaling):
    """Caught by: divides_by_its_own_scale. The scale is adjusted first, the weights move after."""

    def step(self, weights, gradients, rate):
        good = super().step([w.clone() for w in weights], gradients, rate)
        if good:
            for weight, gradient in zip(weights, gradients, strict=True):
                weight -= rate * gradient.float() / self.scale
        return good


class NoPatience(LossScaling):
    """Caught by: history_of_the_target. Every bad step makes the scale smaller."""

    def step(self, weights, gradients, rate):
        self.left = 0
        return super().step(weights, gradients, rate)


class RenewsTheOtherWay(LossScaling):
    """Caught by: history_of_the_target. Patience is thought to be filled up by the other event."""

    def step(self, weights, gradients, rate):
        before, scale = self.left, self.scale
        good = super().step(weights, gradients, rate)
        if good:
            grew = self.scale > scale
            self.left = self.patience if RENEWED == "growth" or grew else before
        return good


class NeverRenews(LossScaling):
    """Caught by: other_histories. Patience is spent once, for the whole run."""

    def step(self, weights, gradients, rate):
        before = self.left
        good = super().step(weights, gradients, rate)
        if good:
            self.left = before
        return good


class CountsAllGoodSteps(LossScaling):
    """Caught by: history_of_the_target. Good steps are counted, in a row or not."""

    def step(self, weights, gradients, rate):
        before = self.good
        good = super().step(weights, gradients, rate)
        if not good:
            self.good = before
        return good


class NeverBeginsTheCountAgain(LossScaling):
    """Caught by: other_histories. The count goes on behind the window, and never equals it again."""

    def step(self, weights, gradients, rate):
        before = self.good
        good = super().step(weights, gradients, rate)
        if good:
            self.good = before + 1
        return good


class GoesOnDoubling(LossScaling):
    """Caught by: other_histories. The count does not begin again: each further step is a growth."""

    def step(self, weights, gradients, rate):
        scale = self.scale
        good = super().step(weights, gradients, rate)
        if good and self.scale > scale:
            self.good = self.window - 1
        return good


class NoFloor(LossScaling):
    """Caught by: never_below_one. The scale shrinks for ever."""

    def step(self, weights, gradients, rate):
        lowest = self.scale
        good = super().step(weights, gradients, rate)
        if not good and self.left <= 0:
            self.scale = lowest / FACTOR
        return good


# %% [markdown] tags=["oral"]
# **Q.** A job has many replicas. In one of them a gradient overflows, in the others all is finite. What
# must the others do, and what happens if they don't know?
#
# **A.** They must skip the step and change their scale in the same way. A replica that moves alone has
# other weights from then on, and the replicas' gradients no longer belong to one model. (The sum over
# the replicas tells them: a sum with one `inf` in it is not finite.)
#
# **Q.** Why is the scale doubled again and again, although a scale of, say, 1024 works well?
#
# **A.** Gradients change during the run. When they shrink, more of them fall below the smallest number
# of float16; a larger scale saves them. How large it may be shows only by trying: the price is a
# skipped step now and then.
