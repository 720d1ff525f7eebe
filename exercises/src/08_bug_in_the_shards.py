# ---
# mark: 2
# minutes: 20
# help: half
# needs: [micro-batch, collective, bucket, sharding, ZeRO]
# draws:
#   BUG: [sums_sent_again, new_weights_not_told, micro_batch_overwrites_the_one_before]
# ---

# %% [markdown]
# # Find the bug: two stages of ZeRO that disagree
#
# A run was moved from one stage of ZeRO to another, to save memory. All else is the same: batches,
# seed, replicas. Its loss is no longer that of before. So one of the stages computes something else,
# and ZeRO must not: it shares out what replicas hold, and computes nothing new.
#
# The suspects are in the cell below, methods of the package's `Zero` without their comments. Find
# the one that is wrong, and mend it.
#
# **Target:** stages 1, 2 and 3 all give loss, gradients, norm and weights of one process to the last
# digits. And what was right stays right: stage 1 sends each bucket once a step, and from stage 2 on
# no sum outlives its backward pass.
#
# After the cell of the suspects, `lab.compare(Zero, "parallel.dp=2", "parallel.zero=2")` takes three
# steps with the code that stands there, with two micro-batches on each of two replicas, and prints
# what differs from one process. `"train.global_batch=2"` more makes it one micro-batch. (The
# installed package has the right lines; who reads them there finds no bug.)
#
# A bucket's flat tensor has one *lane* for each rank of the data group: the rows that this rank owns,
# of all parameters of the bucket.
#
# | Of bucket `b` | stage 1 | stages 2, 3 |
# |---|---|---|
# | `_sums[b]` | gradients of all micro-batches, whole | those of a backward pass on their way, whole |
# | `_received[b]` | this rank's lane of `_sums[b]`, a view | this rank's lane of the sum over the step |
# | a bucket is sent | in the last backward pass | in every one |
#
# `gradients`, which the optimizer reads, are views of `_received`. So change what is in these
# tensors; of a new tensor in the list nobody hears.
#
# | Name | |
# |---|---|
# | `_leave(b)`, `_land(b, part, work)` | send a bucket; wait for it: `part` is this rank's lane of the sum |
# | `_take(parameter)` | move `parameter.grad` into `_sums` |
# | `_place[parameter]` | (number of its bucket, its place in it) |
# | `_expect_all()` | all gradients are still to come, all buckets still to leave |
# | `_gather(b)` | make the weights of a bucket whole, unless `_whole[b]` says that they are |
# | `_free_all()` | stage 3: give back the memory of all whole weights |
#
# `super()` is `Replicas`, with `_leave` and `_land` replaced.

# %% tags=["target"]
from minimtnlg.course.labs import excerpt

_METHODS = "zero begin accumulate finish publish _take _leave _land"
FILE, SUSPECTS = "parallel/zero.py", [f"Zero.{name}" for name in _METHODS.split()]
PLANTED, RIGHT = excerpt(FILE, SUSPECTS, BUG), excerpt(FILE, SUSPECTS)
_OF_SUMS = "Equal with one micro-batch, unequal with two, at stages 2 and 3 only: look at what happens "
WHERE, WHY = {
    "sums_sent_again": (
        _OF_SUMS + "to a bucket between two backward passes. What is in `_sums` when the second "
        "begins?",
        "Two backward passes bring $u_1$ and $u_2$. `_received` has to end as their sums over the "
        "replicas, $u_1 + u_2$. It ends as $u_1 + (u_1 + u_2)$, since the second pass sends all that "
        "is in `_sums`. When has a bucket done its work, and which method is called then?",
    ),
    "new_weights_not_told": (
        "The gradient of the first step equal and the weights not, also with one micro-batch, and "
        "stage 3 is right: look at what happens after the update, and at which stages.",
        "When each rank has moved its own shard, the weights that it has of the others' are old. "
        "`_gather` would bring the new ones. Why does it believe that there is nothing to do?",
    ),
    "micro_batch_overwrites_the_one_before": (
        _OF_SUMS + "when a bucket arrives for the second time.",
        "Two backward passes bring $u_1$ and $u_2$, both already summed over the replicas. "
        "`_received` has to end as $u_1 + u_2$, and ends as $u_2$.",
    ),
}[BUG]

# %%
from minimtnlg.course.labs import Lab

lab = Lab(FILE, SUSPECTS)


# %% tags=["stub"]
{{PLANTED}}


# %% [markdown] tags=["hint"]
# Bisect before you read. Make a table: stages 1, 2, 3 by one and two micro-batches
# (`train.global_batch=2` and without). In which cells does it differ? And is `gradient`, that of the
# first step, among what differs, or only what comes after the first update?

# %% [markdown] tags=["hint"]
# {{WHERE}}

# %% [markdown] tags=["hint"]
# {{WHY}}

# %% [markdown] tags=["oral"]
# **Q.** Why does one micro-batch not show a bug of accumulation, and what follows for testing?
#
# **A.** With one there is nothing to add up: overwriting and adding are the same. A test needs at
# least two micro-batches, and two steps for what is carried over from one step to the next.
#
# **Q.** At stage 2 each bucket is sent in every backward pass, at stage 1 once a step. What does
# stage 2 get for the traffic?
#
# **A.** It holds no whole sums between the passes: a rank keeps its n-th part of the gradients only.


# %% tags=["solution"]
{{RIGHT}}


# %% tags=["check"]
import torch
import torch.distributed as dist
from torch import nn

from minimtnlg.course.check import expect
from minimtnlg.parallel.collectives import Recorder

_STEPS = 2
_FACTORS = [[1.0, 2.0, 3.0], [4.0], [5.0, 6.0, 7.0, 8.0]]  # rows over two ranks: 2 + 1, 1 + 0, 2 + 2


def _train(stage, m):
    """What one rank finds in steps with a rate of -1.

    For each step: own gradients, whole weights, number of calls, sums left between the passes,
    whether `_received` has the tensors that the gradients are views of.
    """
    from minimtnlg.parallel.zero import Zero

    parameters = [nn.Parameter(torch.zeros(len(f), dtype=torch.float64)) for f in _FACTORS]
    zero = Zero([parameters[:0:-1], parameters[:1]], dist.group.WORLD, stage)
    rows = []
    for s in range(_STEPS):
        zero.zero()
        left = 0
        with Recorder() as seen:
            for k in range(m):
                zero.begin(last=k == m - 1)
                scale = 10 ** dist.get_rank() * (k + 1) * (s + 1)
                terms = zip(parameters, _FACTORS, strict=True)
                sum((p * torch.tensor(f).double()).sum() * scale for p, f in terms).backward()
                zero.accumulate()
                left += sum(sums is not None for sums in zero._sums)
            zero.finish()
        own = dict(zip(zero.parameters, zip(zero.owned, zero.gradients, strict=True), strict=True))
        gradients = [own[p][1].clone() for p in parameters]
        with torch.no_grad():
            for shard, gradient in own.values():
                shard += gradient
        zero.publish()
        stored = {x.untyped_storage().data_ptr() for x in zero._received}
        views = all(x.untyped_storage().data_ptr() in stored for x in zero.gradients if x.numel())
        weights = [p.detach().clone() for p in parameters]
        rows.append((gradients, weights, len(seen.calls), left, views))
    return rows


def _times(m, s):
    return 11 * sum(range(1, m + 1)) * (s + 1)


def _check_by_hand(student, stage, m):
    for rank, rows in enumerate(lab.run(student, _train, 2, stage, m)):
        for s, (gradients, weights, _, _, views) in enumerate(rows):
            where = f"rank {rank} of 2, stage {stage}, {m} micro-batches, step {s}"
            for i, factor in enumerate(_FACTORS):
                whole = torch.tensor(factor, dtype=torch.float64)
                n = -(-len(factor) // 2)
                right = whole[rank * n : (rank + 1) * n] * _times(m, s)
                look_at = "rank r adds 10**r times, micro-batch k another k + 1 times: which are in?"
                if not views:
                    look_at = "gradients are views of the first tensors in _received: fill these"
                expect(gradients[i], right, f"the sum of its rows of parameter {i}, {where}", look_at)
            moved = sum(_times(m, before) for before in range(s + 1))
            for i, factor in enumerate(_FACTORS):
                right = torch.tensor(factor, dtype=torch.float64) * moved
                look_at = "each rank moves its own rows; who tells the others?"
                expect(weights[i], right, f"the whole parameter {i} after publish, {where}", look_at)


def stage_2_is_one_process(student):
    """Three steps at stage 2 are those of one process"""
    look_at = "lab.compare: which of stages, micro-batches, steps does it take?"
    lab.expect_equal(student, "parallel.dp=2", "parallel.zero=2", look_at=look_at)


def stage_2_by_hand(student):
    """Stage 2 with numbers that can be read"""
    _check_by_hand(student, 2, 2)


# %% tags=["hidden"]
def stage_1_too(student):
    """Stage 1 is what it was: right, and one reduce-scatter for each bucket"""
    _check_by_hand(student, 1, 2)
    for rank, rows in enumerate(lab.run(student, _train, 2, 1, 2)):
        calls = [row[2] for row in rows]
        what = f"calls of rank {rank} in each of two steps at stage 1, two buckets"
        expect(calls, [2, 2], what, "a bucket is sent once, in the last backward pass")


def stage_3_too(student):
    """Stage 3 is one process"""
    look_at = "stage 3 sends and receives as stage 2, and frees the weights"
    lab.expect_equal(student, "parallel.dp=2", "parallel.zero=3", look_at=look_at)


def nothing_whole_is_left(student):
    """Stage 2 sends in every pass, and no sum outlives it"""
    for rank, rows in enumerate(lab.run(student, _train, 2, 2, 2)):
        for s, (_, _, calls, left, _) in enumerate(rows):
            expect(left, 0, f"sums left between passes on rank {rank}, step {s}", "set to None")
            expect(calls, 4, f"reduce-scatters of rank {rank}, step {s}: two passes, two buckets")


def other_numbers(student):
    """One micro-batch, three micro-batches"""
    _check_by_hand(student, 2, 1)
    _check_by_hand(student, 2, 3)


# %% tags=["wrong"]
class the_last_one_counts(Zero):
    """Caught by: stage_2_is_one_process. What a reduce-scatter brings is taken for the gradient."""

    def _land(self, b, part, work):
        work.wait()
        self._received[b].copy_(part)
        if self.stage > 1:
            self._sums[b] = None


class a_new_tensor_in_the_list(Zero):
    """Caught by: stage_2_by_hand. A sum is a sum, but the gradients are views of the old tensor."""

    def _land(self, b, part, work):
        work.wait()
        if self.stage == 1:
            self._received[b].copy_(part)
        else:
            self._received[b] = self._received[b] + part
            self._sums[b] = None


class keeps_the_sums(Zero):
    """Caught by: stage_2_is_one_process. What was sent is sent once more with the next pass."""

    def _land(self, b, part, work):
        work.wait()
        if self.stage == 1:
            self._received[b].copy_(part)
        else:
            self._received[b] += part


class adds_at_every_stage(Zero):
    """Caught by: stage_1_too. One rule for all stages looks simpler, but a lane is in its sums."""

    def _land(self, b, part, work):
        work.wait()
        self._received[b] += part
        if self.stage > 1:
            self._sums[b] = None


class takes_the_old_sums_off(Zero):
    """Caught by: nothing_whole_is_left. Zeros instead of None: right, and the memory is not freed."""

    def _land(self, b, part, work):
        work.wait()
        if self.stage == 1:
            self._received[b].copy_(part)
        else:
            self._received[b] += part
            self._sums[b].zero_()


class forgets_at_each_pass(Zero):
    """Caught by: stage_2_is_one_process. Zero before every pass, so that nothing is counted twice."""

    def begin(self, last):
        self.sending = last or self.stage > 1
        if self.stage > 1:
            for received in self._received:
                received.zero_()


class halves_the_sum(Zero):
    """Caught by: stage_2_is_one_process. Twice too large for two passes is mended by a factor."""

    def _land(self, b, part, work):
        work.wait()
        if self.stage == 1:
            self._received[b].copy_(part)
        else:
            self._received[b] += part / 2


class tells_at_stage_1_only(Zero):
    """Caught by: stage_2_is_one_process. Stage 2 is thought of as stage 3, which gathers later."""

    @torch.no_grad()
    def publish(self):
        if self.stage == 1:
            for b in range(len(self.buckets)):
                self._whole[b] = False
                self._gather(b)


class believes_that_all_is_whole(Zero):
    """Caught by: stage_2_is_one_process. At stages 1 and 2 nothing was freed, so nothing is gathered."""

    @torch.no_grad()
    def publish(self):
        if self.stage < 3:
            for b in range(len(self.buckets)):
                self._gather(b)


class sends_at_the_end_of_the_step(Zero):
    """Caught by: nothing_whole_is_left. Stage 2 does as stage 1: right, and all sums are kept."""

    def begin(self, last):
        self.sending = last

    def accumulate(self):
        Replicas.accumulate(self)

    def finish(self):
        Replicas.finish(self)
