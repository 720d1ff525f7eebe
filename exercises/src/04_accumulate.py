# ---
# mark: 2
# minutes: 20
# help: empty
# needs: [micro-batch]
# draws:
#   OLD: [gone, kept]
#   LONELY: [6, 10, 14]
# ---

# %% [markdown]
# # Accumulate under uneven masks
#
# A step sees its batch in micro-batches. Each is a pair `(rows, mask)`; `mask` is 1 where a loss
# counts and 0 where it does not. `losses(rows)` gives the loss of every token, in the shape of
# `mask`.
#
# {{LEAVE_SAID}} of each parameter the gradient of the **mean over all tokens that count**, in all
# micro-batches together. Return that mean. Run `backward` once for each micro-batch, because all of
# them together would not fit into memory.
#
# - At the start each `.grad` is `None`, or still holds a gradient of the step before.
#   {{OLD_SAID}}
# - A micro-batch may have no token that counts. A whole batch without one has loss 0 and
#   gradient 0.
# - A parameter that the batch never touches has {{UNTOUCHED_SAID}}, not `None`.
#
# **Target:** losses {{LONELY}} in one micro-batch of one token and 2, 2, 2 in the other give {{MEAN}}, not
# {{WRONG}}.

# %% tags=["target"]
LEAVE_SAID = {"gone": "Leave in `.grad`", "kept": "Add to `.grad`"}[OLD]
OLD_SAID = {
    "gone": "That must not count.",
    "kept": "That stays, and yours is added to it; `None` counts as zero.",
}[OLD]
UNTOUCHED_SAID = {"gone": "gradient 0", "kept": "what it had, or gradient 0"}[OLD]
MEAN = (LONELY + 2 + 2 + 2) // 4
WRONG = (LONELY + 2) // 2  # the mean of the two means
STUB_SAID = {"gone": "left in", "kept": "added to"}[OLD]
EMPTIED = {  # of the printed solution: what each .grad is before the first backward
    "gone": "torch.zeros_like(p)",
    "kept": "torch.zeros_like(p) if p.grad is None else p.grad",
}[OLD]

# %%
import torch


# %% tags=["stub"]
def accumulate(parameters, losses, micro_batches):
    """Mean loss over all tokens that count, a float; its gradient is {{STUB_SAID}} each .grad.

    Parameters:
        parameters     list of tensors that require a gradient
        losses         function: rows of one micro-batch -> loss of every token, like its mask
        micro_batches  list of (rows, mask)
    """
    raise NotImplementedError("count the tokens, see to .grad, then one backward a micro-batch")


# %% [markdown] tags=["hint"]
# By which number must each token's loss be divided? Can you know it while you look at the first
# micro-batch only?

# %% [markdown] tags=["hint"]
# Go over `micro_batches` twice. The first time only add up `mask.sum()`. The second time, the share
# of a micro-batch is `(losses(rows) * mask).sum()` divided by that number; `backward` adds its
# gradient to what is in `.grad`. So what must be there before the second time?

# %% [markdown] tags=["hint"]
# `N = max(1, sum(mask.sum().item() for _, mask in micro_batches))`. Set `p.grad` to
# `{{EMPTIED}}` for each parameter. For each micro-batch: `share = ...`,
# `share.backward()`, `total += share.item()`. The float is summed from shares already divided by N.


# %% tags=["solution"]
def accumulate(parameters, losses, micro_batches):
    N = max(1, sum(mask.sum().item() for _, mask in micro_batches))
    for p in parameters:
        p.grad = {{EMPTIED}}
    total = 0.0
    for rows, mask in micro_batches:
        share = (losses(rows) * mask).sum() / N
        share.backward()
        total += share.item()
    return total


# %% tags=["check"]
from minimtnlg.course.check import Feedback, expect

IDEA = "the lesson's section Idea, 'A batch in pieces'"


def _run(student, weights, losses, batches, before=None):
    """(loss, gradients) of the student's function on fresh copies of `weights`."""
    parameters = [w.clone().requires_grad_() for w in weights]
    for p in parameters if before is not None else []:
        p.grad = torch.full_like(p, before)
    got = student(parameters, lambda rows: losses(parameters, rows), batches)
    if any(p.grad is None for p in parameters):
        what = "the .grad of every parameter after the call, also of one that no loss depends on"
        expected = "a tensor (zeros where nothing was added)"
        raise Feedback(what, expected, "None", "the last rule of the statement")
    return got, [p.grad for p in parameters]


def _one(*numbers):
    return torch.tensor([numbers], dtype=torch.float64)


def _product(parameters, rows):
    """The loss of a token is w times its number: the gradient is the number itself."""
    return parameters[0] * rows


W = [torch.tensor(1.0, dtype=torch.float64)]


def the_target(student):
    """A lonely token with a large loss and three with loss 2"""
    batches = [(_one(LONELY), _one(1)), (_one(2, 2, 2), _one(1, 1, 1))]
    loss, (gradient,) = _run(student, W, _product, batches)
    case = f"of {LONELY} | 2 2 2"
    expect(loss, float(MEAN), f"the loss {case}", f"{IDEA}: a mean over tokens")
    look_at = f"{IDEA}: divide before backward"
    expect(gradient.item(), float(MEAN), f"the gradient {case}", look_at)


def masked_tokens_do_not_count(student):
    """Masked tokens count neither above nor below the fraction bar"""
    batches = [(_one(6, 9, 9), _one(1, 0, 0)), (_one(2, 2, 2), _one(1, 1, 1))]
    loss, (gradient,) = _run(student, W, _product, batches)
    expect(loss, 3.0, "the loss of 6 (9) (9) | 2 2 2, masked in brackets", IDEA)
    expect(gradient.item(), 3.0, "its gradient", IDEA)


def any_cut_gives_the_same(student):
    """Twelve tokens in cuts of 12, 6, 4, 3 and 1: the same loss and gradient"""
    numbers, mask = torch.arange(1.0, 13, dtype=torch.float64), torch.ones(12, dtype=torch.float64)
    mask[[1, 5, 6, 7, 8]] = 0
    mean = (numbers * mask).sum().item() / 7
    for cut in (12, 6, 4, 3, 1):
        batches = list(zip(numbers.split(cut), mask.split(cut), strict=True))
        loss, (gradient,) = _run(student, W, _product, batches)
        expect(loss, mean, f"the loss in pieces of {cut}", "a cut must not change the result")
        expect(gradient.item(), mean, f"the gradient in pieces of {cut}", "count N over all")


# %% tags=["hidden"]
def gradients_of_the_step_before(student):
    """Gradients of the step before, as the statement has it"""
    batches = [(_one(6), _one(1)), (_one(2, 2, 2), _one(1, 1, 1))]
    _, (gradient,) = _run(student, W, _product, batches, before=100.0)
    look_at = f"backward adds to what .grad holds. {OLD_SAID}"
    wanted = 3.0 if OLD == "gone" else 103.0
    expect(gradient.item(), wanted, "the gradient 3 when .grad held 100 before", look_at)


def nothing_to_count(student):
    """Empty micro-batches, an empty batch, an untouched parameter"""
    two = [*W, torch.zeros(2, 3, dtype=torch.float64)]
    empty = (_one(5, 5), _one(0, 0))
    for batches, mean in (([empty, (_one(4, 8), _one(1, 1)), empty], 6.0), ([empty, empty], 0.0)):
        loss, (gradient, untouched) = _run(student, two, _product, batches)
        name = "the whole batch masked" if mean == 0 else "the first and last of three masked"
        expect(loss, mean, f"the loss, {name}", "0 divided by 0 is not 0")
        expect(gradient, torch.tensor(mean, dtype=torch.float64), f"the gradient, {name}", IDEA)
        what = f"the gradient of a parameter that no loss depends on, {name}"
        expect(untouched, two[1], what, "zero, not None")


def one_backward_a_micro_batch(student):
    """One graph at a time: a micro-batch is over before the next begins"""
    alive, most = set(), [0]

    def losses(parameters, rows):
        loss = parameters[0] * rows
        alive.add(id(rows))
        most[0] = max(most[0], len(alive))
        loss.register_hook(lambda gradient: alive.discard(id(rows)))
        return loss

    batches = [(_one(k, 1), _one(1, k % 2)) for k in range(1, 6)]
    _run(student, W, losses, batches)
    if most[0] != 1:
        raise Feedback(
            "micro-batches waiting for their backward at one time", 1, most[0],
            "backward inside the loop: the memory of one micro-batch is all there is",
        )  # fmt: skip


def a_small_network(student):
    """A network in float64: every gradient equals that of one pass over the whole batch"""
    draw = torch.Generator().manual_seed(4)
    weights = [torch.randn(n, generator=draw, dtype=torch.float64) for n in ((5, 4), (4,), (4, 3))]
    rows = torch.randn(6, 7, 5, generator=draw, dtype=torch.float64)
    mask = (torch.rand(6, 7, generator=draw) > torch.linspace(0, 1, 6)[:, None]).double()

    def losses(parameters, rows):
        A, b, C = parameters
        return -((rows @ A + b).tanh() @ C).log_softmax(-1)[..., 0]

    whole = [w.clone().requires_grad_() for w in weights]
    mean = losses(whole, rows)[mask.bool()].mean()
    expected = torch.autograd.grad(mean, whole)
    batches = list(zip(rows.split(2), mask.split(2), strict=True))
    loss, gradients = _run(student, weights, losses, batches)
    expect(loss, mean.item(), "the loss of six rows of seven tokens, two at a time", IDEA)
    for name, got, wanted in zip("AbC", gradients, expected, strict=True):
        expect(got, wanted, f"the gradient of {name}", IDEA)


# %% tags=["wrong"]
def mean_of_means(parameters, losses, micro_batches):
    """Caught by: the_target. The mean of the micro-batches' means is taken for the mean."""
    for p in parameters:
        p.grad = torch.zeros_like(p)
    total = 0.0
    for rows, mask in micro_batches:
        mean = (losses(rows) * mask).sum() / max(1, mask.sum().item()) / len(micro_batches)
        mean.backward()
        total += mean.item()
    return total


def tokens_of_the_last(parameters, losses, micro_batches):
    """Caught by: the_target. Divides by the tokens of the last micro-batch, left in a variable."""
    for p in parameters:
        p.grad = torch.zeros_like(p)
    total = 0.0
    for rows, mask in micro_batches:
        share = (losses(rows) * mask).sum()
        share.backward()
        total += share.item()
    N = max(1, mask.sum().item())
    for p in parameters:
        p.grad /= N
    return total / N


def sum_of_means(parameters, losses, micro_batches):
    """Caught by: the_target. Forgets to divide by the number of micro-batches as well."""
    m = len(micro_batches)
    loss = mean_of_means(parameters, losses, micro_batches)
    for p in parameters:
        p.grad *= m
    return loss * m


def only_the_loss_is_scaled(parameters, losses, micro_batches):
    """Caught by: the_target. Divides the number that is returned, after backward has run."""
    N = max(1, sum(mask.sum().item() for _, mask in micro_batches))
    for p in parameters:
        p.grad = torch.zeros_like(p)
    total = 0.0
    for rows, mask in micro_batches:
        share = (losses(rows) * mask).sum()
        share.backward()
        total += share.item()
    return total / N


def counts_masked_tokens(parameters, losses, micro_batches):
    """Caught by: masked_tokens_do_not_count. N is taken for the number of all tokens."""
    N = sum(mask.numel() for _, mask in micro_batches)
    for p in parameters:
        p.grad = torch.zeros_like(p)
    total = 0.0
    for rows, mask in micro_batches:
        share = (losses(rows) * mask).sum() / N
        share.backward()
        total += share.item()
    return total


def old_gradients_the_other_way(parameters, losses, micro_batches):
    """Caught by: gradients_of_the_step_before. Whether backward adds or not is taken from habit."""
    before = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
    if OLD == "kept":
        for p in parameters:
            p.grad = None
    loss = accumulate(parameters, losses, micro_batches)
    if OLD == "gone":
        for p, old in zip(parameters, before, strict=True):
            p.grad += old
    return loss


def divides_the_old_ones_too(parameters, losses, micro_batches):
    """Caught by: gradients_of_the_step_before. Sums first, and divides .grad by N at the end."""
    N = max(1, sum(mask.sum().item() for _, mask in micro_batches))
    for p in parameters:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    total = 0.0
    for rows, mask in micro_batches:
        share = (losses(rows) * mask).sum()
        share.backward()
        total += share.item()
    for p in parameters:
        p.grad /= N
    return total / N


def skips_nothing(parameters, losses, micro_batches):
    """Caught by: nothing_to_count. Divides by N even where it is zero."""
    N = sum(mask.sum() for _, mask in micro_batches)
    for p in parameters:
        p.grad = torch.zeros_like(p)
    total = 0.0
    for rows, mask in micro_batches:
        share = (losses(rows) * mask).sum() / N
        share.backward()
        total += share.item()
    return total


def leaves_none(parameters, losses, micro_batches):
    """Caught by: nothing_to_count. Empties .grad with None, as optimizers do by default."""
    N = max(1, sum(mask.sum().item() for _, mask in micro_batches))
    for p in parameters:
        p.grad = None
    total = 0.0
    for rows, mask in micro_batches:
        share = (losses(rows) * mask).sum() / N
        share.backward()
        total += share.item()
    return total


def one_backward_at_the_end(parameters, losses, micro_batches):
    """Caught by: one_backward_a_micro_batch. Right numbers, but every graph is kept."""
    N = max(1, sum(mask.sum().item() for _, mask in micro_batches))
    for p in parameters:
        p.grad = torch.zeros_like(p)
    total = sum((losses(rows) * mask).sum() for rows, mask in micro_batches) / N
    total.backward()
    return total.item()


# %% [markdown] tags=["oral"]
# **Q.** Your function goes over the masks before the first backward. In a job of many replicas, what
# would have to be known before the first backward, and what would go wrong without it?
#
# **A.** The number of tokens that count on *all* replicas. With its own number each replica makes the
# mean over its own tokens, and the mean of these means counts the tokens of a nearly empty replica far
# too much.
#
# **Q.** Every token counts in every micro-batch, and all micro-batches have the same size. Does the usual
# code (mean loss of each, divided by m) give the same as yours? So why not use it?
#
# **A.** It does. But the first padded or masked sequence makes it wrong, and nothing shows it: the loss
# goes on falling.
