# ---
# mark: 2
# minutes: 15
# help: half
# needs: [micro-batch, saved tensor, activation checkpointing]
# draws:
#   BUG: [one_generator_for_all_passes, masks_are_numbered]
# ---

# %% [markdown]
# # Find the bug: gradients of another model
#
# A run with `parallel.recompute=full` saves its memory, and learns worse. The same run without
# recomputation learns well. Nothing crashes, the loss of a step looks like a loss, and models
# without dropout don't suffer.
#
# The suspect is in the cell below, `dropout` of the package. Its comments are taken out. Mend it.
#
# **Target:** for the same micro-batch the gradients with full and with selective recomputation are
# those without, to the last digit. A pass draws the same masks whenever it is made again: in this
# process, or after a restart. Two layers, two places in a layer, two pieces and two micro-batches
# have different masks. PyTorch's global generator is not touched.
#
# `draw.purpose(layer, site, piece)` is a tuple that names one draw of the whole run, and
# `generator(*purpose)` is a `torch.Generator` seeded by it. After the cell of the suspect,
# `compare(dropout)` makes the passes below with the code that stands there, and prints what differs.
# Change what it runs. (The installed package has the right lines; who reads them there finds no bug.)

# %% tags=["target"]
from minimtnlg.course.labs import excerpt

FILE, SUSPECTS = "model/layers.py", ["dropout"]
PLANTED, RIGHT = excerpt(FILE, SUSPECTS, BUG), excerpt(FILE, SUSPECTS)
WHY = {
    "one_generator_for_all_passes": "A generator has a state that every draw moves on. Where does "
    "the second draw for a purpose begin, and where would it have to?",
    "masks_are_numbered": "The seed is made of the purpose and of something that no two calls "
    "share. The second run of a layer makes its calls anew.",
}[BUG]

# %%
import torch

from minimtnlg.config import Model
from minimtnlg.course.labs import Lab
from minimtnlg.data.batches import Batch
from minimtnlg.model import GPT, Draw

lab = Lab(FILE, SUSPECTS)


def passes(p, recomputations):
    """[(loss, gradients)] of one micro-batch with dropout p, for each way of recomputing."""
    config = Model(
        layers=2, hidden=16, heads=2, seq=8, vocab=32, dropout=p, attention="readable"
    )
    tokens = torch.arange(2 * 9).view(2, 9) * 7 % 32
    batch = Batch(tokens[:, :-1], tokens[:, 1:], torch.ones(2, 8))
    found = []
    for recompute in recomputations:
        model = GPT(config, seed=1, dtype=torch.float64, recompute=recompute)
        loss = model.loss(batch, Draw(seed=1, step=5, micro_batch=0))
        loss.backward()
        found.append((loss.item(), {name: p.grad for name, p in model.named_parameters()}))
    return found


def compare(suspect):
    """Print loss and gradients of passes that should all be alike, beside those of the first."""
    ways = ["none", "none", "selective", "full"]
    for p in (0.0, 0.3):
        ((first, *others),) = lab.run(suspect, passes, 1, p, tuple(ways))
        for way, (loss, gradients) in zip(ways[1:], others, strict=True):
            wrong = [n for n, x in gradients.items() if not torch.equal(x, first[1][n])]
            same = "same" if loss == first[0] else f"{loss - first[0]:+.2f}"
            print(f"dropout {p}  recompute {way:10} loss {same:6} gradients that differ {len(wrong)}")


# %% tags=["stub"]
{{PLANTED}}


# %% [markdown] tags=["hint"]
# Bisect. Without dropout all is equal: so the masks are at fault, not the recomputation. `compare`
# also makes the plain pass twice, without any recomputation. Does the loss of the second one agree
# with the first?

# %% [markdown] tags=["hint"]
# Full recomputation runs the forward of a layer twice, with the same `draw`. Backward then uses the
# second run. If its masks are others than those that made the loss, the gradients belong to another
# model. On which things does a mask depend in the cell, besides its purpose?

# %% [markdown] tags=["hint"]
# {{WHY}}

# %% [markdown] tags=["oral"]
# **Q.** With your bug, which of these would show a difference: the loss of the first step, the loss
# of a run without recomputation, the gradient with recomputation? Why does nobody see it in the loss?
#
# **A.** The gradient with recomputation alone is surely wrong: it is that of other masks than the
# loss. The loss of any single pass is that of some masks, and one mask is as likely as another.
#
# **Q.** Why not keep the masks, or the state of the global generator, instead?
#
# **A.** Masks are what recomputation wants to be rid of, a byte for each element. The global state
# would have to be saved and restored around each piece and in each checkpoint, and would depend on
# the order of all draws, so another layout or a restart would draw other masks.


# %% tags=["solution"]
{{RIGHT}}


# %% tags=["check"]
from minimtnlg.course.check import Feedback, expect

_P = 0.3


def _gradients_equal(student, way):
    ((plain, other),) = lab.run(student, passes, 1, _P, ("none", way))
    look_at = "the second forward of a layer has to draw the masks of the first"
    for name, gradient in plain[1].items():
        expect(other[1][name], gradient, f"the gradient of {name}, recompute {way}", look_at)
    expect(other[0], plain[0], f"the loss, recompute {way}", look_at)


def _masks(purposes, warm):
    """dropout of ones for each ((seed, step, micro-batch), layer, site, piece), after a warm-up."""
    from minimtnlg.model.layers import dropout

    ones = torch.ones(64, 64, dtype=torch.float64)
    for _ in range(warm):
        torch.rand(7)
        dropout(ones, _P, Draw(1, 2, 3), 0, "out", 0)
    torch.manual_seed(11)
    found = [dropout(ones, _P, Draw(*of), layer, site, piece) for of, layer, site, piece in purposes]
    return found, torch.rand(3)


_ONE = ((1, 2, 3), 0, "out", 0)
_OTHERS = {
    "another layer": ((1, 2, 3), 1, "out", 0),
    "another place in the layer": ((1, 2, 3), 0, "mlp", 0),
    "another piece": ((1, 2, 3), 0, "out", 1),
    "another micro-batch": ((1, 2, 4), 0, "out", 0),
    "another step": ((1, 3, 3), 0, "out", 0),
}


def _drawn(student, warm=0):
    """([dropout of ones], what the global generator gives afterwards)."""
    purposes = (_ONE, _ONE, *_OTHERS.values())
    ((found, after),) = lab.run(student, _masks, 1, purposes, warm)
    for x in found:
        if not isinstance(x, torch.Tensor):
            raise Feedback("what dropout returns", "a tensor like x", repr(x))
    return found, after


def recomputation_is_exact(student):
    """Full recomputation gives the gradients of a plain pass, with dropout that drops"""
    (ones, *_), _ = _drawn(student)
    kept = sorted(set(ones.flatten().tolist()))
    expect(kept, [0.0, 1 / (1 - _P)], "values of dropout of ones, with p 0.3", "zero, or scaled")
    share = (ones == 0).double().mean().item()
    if not 0.27 < share < 0.33:  # 4096 elements: four standard errors
        raise Feedback("share of zeros with p = 0.3", "about 0.3", share, "random < p is dropped")
    _gradients_equal(student, "full")


def masks_have_names(student):
    """The same purpose gives the same mask, another purpose another one"""
    (one, again, *others), _ = _drawn(student)
    expect(again, one, "a second call with the same purpose", "what moves on between two calls?")
    for what, other in zip(_OTHERS, others, strict=True):
        if torch.equal(other, one):
            raise Feedback(f"the mask of {what}", "another mask", "the same", "draw.purpose")


# %% tags=["hidden"]
def selective_too(student):
    """Selective recomputation gives the gradients of a plain pass"""
    _gradients_equal(student, "selective")


def whenever_it_is_made(student):
    """A pass draws the same masks in another process, whatever came before"""
    expect(_drawn(student, warm=2)[0], _drawn(student)[0], "masks, after other draws", "the seed")


def leaves_the_global_generator(student):
    """PyTorch's global generator is not touched"""
    right = torch.rand(3, generator=torch.Generator().manual_seed(11))
    look_at = "a generator of your own, so that nobody else's numbers change"
    expect(_drawn(student)[1], right, "torch.rand(3) after manual_seed(11) and dropout", look_at)


def nothing_to_drop(student):
    """Without a draw, or with p = 0, x itself comes back"""

    def program():
        from minimtnlg.model.layers import dropout

        x = torch.arange(6.0)
        return [dropout(x, 0.5, None, 0, "out"), dropout(x, 0.0, Draw(1, 1, 1), 0, "out")]

    (found,) = lab.run(student, program, 1)
    expect(found, [torch.arange(6.0)] * 2, "dropout of 0 ... 5 in evaluation, and with p = 0")


# %% tags=["wrong"]
def drops_nothing(x, p, draw, layer, site, piece=0):
    """Caught by: recomputation_is_exact. Without masks there is no difference any more."""
    return x


def drops_all(x, p, draw, layer, site, piece=0):
    """Caught by: recomputation_is_exact. Zeros agree with zeros."""
    return x * 0


def new_masks(x, p, draw, layer, site, piece=0):
    """Caught by: recomputation_is_exact. Any mask is thought to be as good as another."""
    if draw is None or p == 0:
        return x
    return x * (torch.rand(x.shape) >= p) / (1 - p)


def seeds_the_global_generator(x, p, draw, layer, site, piece=0):
    """Caught by: leaves_the_global_generator. manual_seed makes the draw repeatable, for all."""
    if draw is None or p == 0:
        return x
    g = generator(*draw.purpose(layer, site, piece), device=x.device)
    torch.manual_seed(g.initial_seed())
    return x * (torch.rand(x.shape, device=x.device) >= p) / (1 - p)


def one_mask_for_all(x, p, draw, layer, site, piece=0):
    """Caught by: masks_have_names. One fixed seed repeats every draw, and all draws are one."""
    if draw is None or p == 0:
        return x
    random = torch.rand(x.shape, generator=generator("dropout"), device=x.device)
    return x * (random >= p) / (1 - p)


def forgets_the_layer(x, p, draw, layer, site, piece=0):
    """Caught by: masks_have_names. The seed of the pass is enough, it seems."""
    if draw is None or p == 0:
        return x
    g = generator(*draw.purpose(0, site, piece), device=x.device)
    return x * (torch.rand(x.shape, generator=g, device=x.device) >= p) / (1 - p)


def keeps_the_masks(x, p, draw, layer, site, piece=0, kept={}):  # noqa: B006
    """Caught by: whenever_it_is_made. The second run takes the mask that the first has drawn."""
    if draw is None or p == 0:
        return x
    purpose = draw.purpose(layer, site, piece)
    if purpose not in kept:
        kept[purpose] = torch.rand(x.shape, device=x.device) >= p
    return x * kept[purpose] / (1 - p)


def does_not_scale(x, p, draw, layer, site, piece=0):
    """Caught by: recomputation_is_exact. Dropping is thought to be all of dropout."""
    if draw is None or p == 0:
        return x
    g = generator(*draw.purpose(layer, site, piece), device=x.device)
    return x * (torch.rand(x.shape, generator=g, device=x.device) >= p)
