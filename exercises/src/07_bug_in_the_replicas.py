# ---
# mark: 2
# minutes: 25
# help: half
# needs: [micro-batch, process group, collective, gradient hook, bucket, overlap]
# draws:
#   BUG: [buckets_expected_once, last_step_not_forgotten, divided_by_the_replicas_once_more]
# ---

# %% [markdown]
# # Find the bug: replicas that learn worse
#
# A run on two replicas was repeated with plain PyTorch in one process: the same model, the same
# batches, the same seed. The loss of the first step agrees to the last digit. Later the replicas
# are behind, and nothing crashes.
#
# The suspects are in the cell below: all of the package's `Replicas` but its `__init__`, without
# comments. Find the one that is wrong, and mend it.
#
# **Target:** loss, gradients, norm and weights of one process to the last digits, for any number of
# replicas and micro-batches. And what was right stays right: buckets leave during the last backward,
# and each is sent once a step.
#
# After the cell of the suspects, `lab.compare(Replicas, "parallel.dp=2")` takes three steps with the
# code that stands there, on as many replicas, and prints what differs from one process. One
# micro-batch each is `lab.compare(Replicas, "parallel.dp=2", "train.global_batch=2")`; without
# `train.global_batch` there are two. (The installed package has the right lines; who reads them there
# finds no bug.)
#
# | A step calls | |
# |---|---|
# | `zero()` | once, at its start |
# | `begin(last)`, backward, `accumulate()` | for each micro-batch; `last` says whether it is the last |
# | `_arrived(parameter)` | by autograd, when one gradient of this backward is complete |
# | `finish()` | at its end, and again before the update, when nothing is left to send; then `gradients` holds the sums |
#
# `_sums[b]` is the flat fp32 tensor of bucket `b`, `gradients` are views of it. `_place[p]` is
# (number of the bucket, place in it). Where the weights have the format of the sums, `p.grad` is
# itself a view of the bucket, `_views[p]`. The loss has been divided by the tokens of all replicas.

# %% tags=["target"]
from minimtnlg.course.labs import excerpt

_METHODS = "zero begin accumulate finish _expect_all _take _in_place _arrived _leave _land"
FILE, SUSPECTS = "parallel/replicas.py", [f"Replicas.{name}" for name in _METHODS.split()]
PLANTED, RIGHT = excerpt(FILE, SUSPECTS, BUG), excerpt(FILE, SUSPECTS)
SEEN, FOLLOW = {
    "buckets_expected_once": (
        "One process is right, two replicas are not: so it has to do with sending. The gradient of "
        "the first step is right: the first time all is sent as it should be. What does a step leave "
        "behind that the next one would need otherwise?",
        "Follow `_to_leave` through two steps: who fills it, who empties it, and who calls the "
        "method that fills it?",
    ),
    "last_step_not_forgotten": (
        "Wrong in one process too: nothing that sends is at fault. The first gradient is right, norm "
        "and weights are wrong: something of a step outlives it.",
        "Follow the sum of one parameter through two steps. Where is its gradient added, and where "
        "does it become zero?",
    ),
    "divided_by_the_replicas_once_more": (
        "One process is right, two replicas are not: so it has to do with sending. All gradients of "
        "the first step are wrong, and Adam hardly notices: they are wrong by a common factor.",
        "Follow the sum of one parameter from `_take` to `finish`. What is done to it besides "
        "adding? The loss has been divided already.",
    ),
}[BUG]

# %%
from minimtnlg.course.labs import Lab

lab = Lab(FILE, SUSPECTS)


# %% tags=["stub"]
{{PLANTED}}


# %% [markdown] tags=["hint"]
# Bisect before you read. One process or two replicas (`parallel.dp=1`)? One micro-batch or two? Is
# the gradient of the first step right, and only what comes later wrong? Are all gradients wrong or
# some? Each answer clears half of the suspects.

# %% [markdown] tags=["hint"]
# {{SEEN}}

# %% [markdown] tags=["hint"]
# {{FOLLOW}}

# %% [markdown] tags=["oral"]
# **Q.** Adam is nearly blind to one bug of this kind: all gradients too small by the same factor.
# Why, and what shows such a bug?
#
# **A.** Adam divides a gradient by its own size, so a common factor cancels. The norm shows it, and
# so does SGD, or clipping.
#
# **Q.** Two replicas compute the same sums from the same buckets, so they stay equal to each other
# to the last bit. Does that prove that they are right?
#
# **A.** No. Both can be wrong alike: a bucket sent too early, a factor, a forgotten zero. Only the
# comparison with one process that sees the whole batch tells.


# %% tags=["solution"]
{{RIGHT}}


# %% tags=["check"]
import torch
import torch.distributed as dist
from torch import nn

from minimtnlg.course.check import expect
from minimtnlg.parallel.collectives import Recorder

# Gradients of rank r in micro-batch k of step s: 10^r (k + 1) (s + 1) times these.
_FACTORS = [[1.0, 2.0], [3.0], [4.0, 5.0, 6.0], [7.0]]
_STEPS = 2


def _by_hand(student, ranks, m, dtype="float64", silent=False):
    """[(sums of each step, all-reduces after each pass and at the end of the last step)] by rank."""
    return lab.run(student, _sum_up, ranks, m, dtype, silent)


def _sum_up(m, dtype, silent):
    """What one rank does: two buckets of two parameters; silent: rank 1 has no use for the last."""
    from minimtnlg.parallel.replicas import Replicas

    parameters = [nn.Parameter(torch.zeros(len(f), dtype=getattr(torch, dtype))) for f in _FACTORS]
    rank, group = dist.get_rank(), dist.group.WORLD
    replicas = Replicas([parameters[:1:-1], parameters[1::-1]], group)
    sums, calls = [], []
    for s in range(_STEPS):
        replicas.zero()
        calls.clear()
        with Recorder() as seen:
            for k in range(m):
                replicas.begin(last=k == m - 1)
                used = list(zip(parameters, _FACTORS, strict=True))
                if silent and rank == 1:
                    used = used[:3]
                terms = [(p * torch.tensor(f, dtype=p.dtype)).sum() for p, f in used]
                (sum(terms) * 10**rank * (k + 1) * (s + 1)).backward()
                calls.append(len(seen.calls))
                replicas.accumulate()
            replicas.finish()
        calls.append(len(seen.calls))
        place = {p: x for p, x in zip(replicas.owned, replicas.gradients, strict=True)}
        sums.append([place[p].double().clone() for p in parameters])
        replicas.publish()
    return sums, calls


def _expect_sums(student, ranks, m, silent=False, dtype="float64"):
    reports = _by_hand(student, ranks, m, dtype, silent)
    for s in range(_STEPS):
        for i, factor in enumerate(_FACTORS):
            members = [r for r in range(ranks) if not (silent and r == 1 and i == 3)]
            times = sum(10**r for r in members) * sum(range(1, m + 1)) * (s + 1)
            right = torch.tensor(factor, dtype=torch.float64) * times
            for rank, (sums, _) in enumerate(reports):
                what = f"step {s}: the sum of parameter {i} on rank {rank} of {ranks}, "
                what += f"{m} micro-batches" if m > 1 else "1 micro-batch"
                look_at = "rank r adds 10**r times; which ranks, passes or steps are in it?"
                expect(sums[s][i], right, what, look_at)


def as_one_process(student):
    """Three steps on two replicas are those of one process"""
    look_at = "lab.compare: which of replicas, micro-batches, steps does it take?"
    lab.expect_equal(student, "parallel.dp=2", look_at=look_at)


def sums_by_hand(student):
    """Sums of two steps on two ranks, with numbers that can be read"""
    _expect_sums(student, 2, 2)


# %% tags=["hidden"]
def leaves_during_backward(student):
    """Both buckets leave in the last backward pass, once, and none before"""
    for rank, (_, calls) in enumerate(_by_hand(student, 2, 2)):
        what = f"all-reduces of rank {rank} after each backward pass of a step, and at its end"
        expect(calls, [0, 2, 2], what, "a full bucket leaves at once, in the last backward alone")


def other_numbers(student):
    """One process, three replicas, one and three micro-batches"""
    look_at = "what depends on the number of replicas or of micro-batches?"
    lab.expect_equal(student, "parallel.dp=1", look_at=look_at)
    _expect_sums(student, 3, 3)


def a_gradient_that_never_comes(student):
    """A parameter that one replica does not use gets the sum of the others"""
    _expect_sums(student, 2, 1, silent=True)


def sums_in_fp32(student):
    """Weights in bfloat16: the sums, of up to 770, are exact"""
    _expect_sums(student, 2, 4, dtype="bfloat16")


# %% tags=["wrong"]
class expects_buckets_once(Replicas):
    """Caught by: as_one_process. Zeros are all that a step needs at its start, it seems."""

    def zero(self):
        for parameter, gradient in zip(self.owned, self.gradients, strict=True):
            gradient.zero_()
            parameter.grad = gradient if parameter.dtype == self.dtype else None


class sends_at_the_end(Replicas):
    """Caught by: leaves_during_backward. Sums are right if they are sent when all is done."""

    def _arrived(self, parameter):
        if self.sending is not None:
            self._take(parameter)


class sends_in_every_pass(Replicas):
    """Caught by: as_one_process. The more often sums are sent, the more complete they seem."""

    def begin(self, last):
        self.sending = True


class averages(Replicas):
    """Caught by: as_one_process. Data parallelism is said to average."""

    def _land(self, b, work):
        work.wait()
        self._sums[b] /= collectives.size(self.group)


class averages_over_one_too_few(Replicas):
    """Caught by: sums_by_hand. A wrong factor is mended by another one, for two replicas."""

    def _leave(self, b):
        self._sums[b] /= 2
        _, work = collectives.all_reduce(self._sums[b], self.group, wait=False)
        self._under_way.append((b, work))


class forgets_after_sending(Replicas):
    """Caught by: as_one_process. Sums are cleared where they were used, before the update sees them."""

    def finish(self):
        while self._to_leave:
            self._leave(self._to_leave.popleft())
        while self._under_way:
            self._land(*self._under_way.popleft())
        for gradient in self.gradients:
            gradient.zero_()


class forgets_at_each_micro_batch(Replicas):
    """Caught by: as_one_process. Zeros at the start of a pass look like zeros at the start of a step."""

    def begin(self, last):
        self.sending = last
        for gradient in self.gradients:
            gradient.zero_()


class waits_for_all(Replicas):
    """Caught by: leaves_during_backward. Nothing leaves before every gradient is there."""

    def _arrived(self, parameter):
        if self.sending is None:
            return
        self._take(parameter)
        if not self.sending:
            return
        self.buckets[self._place[parameter][0]].missing.discard(parameter)
