# ---
# mark: 2
# minutes: 15
# help: half
# needs: [layout, rank, process group, collective, ZeRO, stage]
# draws:
#   BUG: [norm_of_own_stage, tied_embedding_counted_twice, tied_embedding_summed_twice, norm_of_own_shard]
# ---

# %% [markdown]
# # Find the bug: a norm that depends on the layout
#
# The same model, the same batch, two layouts on the same cluster. The log shows the same loss for
# the first step, and another `grad_norm`. Clipping uses this norm, so some steps later the losses
# part as well.
#
# The suspects are in the cell below: what the package's optimizer does after backward, and which
# parameters a rank counts in the norm, without comments. Find what is wrong, and mend it.
#
# **Target:** loss, gradients, norm and weights of one process to the last digits, in every layout:
# tensor slices, stages, replicas, each alone and together, with and without ZeRO.
#
# After the cell of the suspects,
# `lab.compare(Optimizer, "parallel.pp=2", "parallel.dp=2", "parallel.zero=1")` takes three steps with
# the code that stands there, and prints what differs from one process. `sgd` is not clipped, `adam`
# is clipped at 1. More stages need more layers: `"parallel.pp=3", "model.layers=3"`. (The installed
# package has the right lines; who reads them there finds no bug.)
#
# | | |
# |---|---|
# | `mesh` | this rank's process groups, one for each axis of the layout; `None` where the size is 1 |
# | `mesh.ends` | first and last stage, which both have the embedding and use it in their own way |
# | `mesh.place` | the rank's number on each axis |
# | `replicas.cut` | whether each replica has another shard of the gradients (ZeRO) |
# | `global_norm(tensors, groups)` | the root of the sum of all squares, here and along the groups |

# %% tags=["target"]
from minimtnlg.course.labs import excerpt

FILE = "train/optimizer.py"
SUSPECTS = ["_counted_here", "Optimizer.step", "Optimizer._norm"]
PLANTED, RIGHT = excerpt(FILE, SUSPECTS, BUG), excerpt(FILE, SUSPECTS)

# %%
from minimtnlg.course.labs import Lab

lab = Lab(FILE, SUSPECTS)


# %% tags=["stub"]
{{PLANTED}}


# %% [markdown] tags=["hint"]
# Bisect by axes. Three layouts of two ranks: `parallel.tp=2`, `parallel.pp=2`, and `parallel.dp=2`
# with `parallel.zero=1`. Which of them is unequal by itself? And are the gradients equal, so that only
# the norm of right gradients is wrong?

# %% [markdown] tags=["hint"]
# The norm is that of one long vector with each number of the whole model in it once. Walk along the
# axis that you found: do its ranks have different numbers, so that their squares are summed? Or the
# same, so that one of them counts? And is there a tensor on that axis that two ranks both have?

# %% [markdown] tags=["hint"]
# Stages have different parameters: sum. Shards of ZeRO are different: sum; whole replicas are alike:
# don't. The tied embedding is on both ends of the pipeline: its two gradients are added once, and
# then both ends have the same sum, of which one end counts.

# %% [markdown] tags=["oral"]
# **Q.** Why does SGD without clipping not notice a wrong norm, and which runs do notice it?
#
# **A.** The norm is used for clipping only. A run that is clipped takes steps of another length, at
# each layout another one; one that is never clipped shows it only in the log.
#
# **Q.** Without ZeRO the squares are not summed along the data group, with ZeRO they are. Why?
#
# **A.** Without ZeRO every replica holds the same whole gradient after the all-reduce; summing would
# count it d times. With ZeRO each holds another part of it.


# %% tags=["solution"]
{{RIGHT}}


# %% tags=["check"]
import torch

from minimtnlg.course.check import expect

_PIPELINE, _SHARDS = ("parallel.pp=2",), ("parallel.dp=2", "parallel.zero=1")


def stages_and_shards(student):
    """Two stages, each on two replicas with ZeRO, are one process"""
    look_at = "lab.compare with one axis at a time: which is unequal by itself?"
    lab.expect_equal(student, *_PIPELINE, *_SHARDS, look_at=look_at)


def slices(student):
    """Two tensor slices are one process"""
    look_at = "what all slices have is counted by one, what is cut by each"
    lab.expect_equal(student, "parallel.tp=2", look_at=look_at)


# %% tags=["hidden"]
def whole_replicas(student):
    """Two replicas without ZeRO are one process"""
    look_at = "replicas that hold the same are counted once"
    lab.expect_equal(student, "parallel.dp=2", look_at=look_at)


def slices_of_stages(student):
    """Two slices of each of two stages are one process"""
    look_at = "a slice of the embedding is on both ends, too"
    lab.expect_equal(student, "parallel.tp=2", *_PIPELINE, look_at=look_at)


def three_stages(student):
    """Three stages are one process: one of them is no end"""
    look_at = "what does the stage in the middle have, and who adds it?"
    lab.expect_equal(student, "parallel.pp=3", "model.layers=3", look_at=look_at)


def _one_update(clip):
    """One stage of two takes the norm of gradients that are all 1, and clips; what comes out."""
    import torch.distributed as dist

    from minimtnlg.config import Model, Optim
    from minimtnlg.model import GPT
    from minimtnlg.parallel.layout import Layout
    from minimtnlg.parallel.mesh import Mesh
    from minimtnlg.train.optimizer import Optimizer

    config = Model(layers=2, hidden=4, heads=1, seq=3, vocab=5)
    model = GPT(config, Mesh(Layout(pp=dist.get_world_size())), dtype=torch.float64)
    optim = Optim(
        lr=1.0, min_lr=0.0, warmup_tokens=0, decay_tokens=1, clip=clip, weight_decay=0.0
    )

    def sgd(groups, optim):
        return torch.optim.SGD([group | {"weight_decay": 0.0} for group in groups], lr=optim.lr)

    optimizer = Optimizer(model, optim, 0, sgd)
    before = [p.detach().clone() for p in optimizer.replicas.parameters]
    optimizer.zero()
    for gradient in optimizer.replicas.gradients:
        gradient.fill_(1.0)
    norm = optimizer.step(1.0)
    moved = {}
    for p, old in zip(optimizer.replicas.parameters, before, strict=True):
        kind = "the embedding" if p is model.embedding.weight else "the others"
        moved[kind] = (old - p.detach()).max().item()
    return norm.item(), moved


def gradients_of_one(student):
    """Gradients of 1 on each of two stages: the norm by hand, clipped and not"""
    h, numbers = 4, 2 * (12 * 16 + 13 * 4) + 3 * 4 + 2 * 4  # two blocks, positions, last norm
    norm = (numbers + 5 * h * 2**2) ** 0.5  # the embedding's gradient is 1 from each end
    for clip in (0.0, norm / 10):
        factor = 0.1 if clip else 1.0
        for rank, (got, moved) in enumerate(lab.run(student, _one_update, 2, clip)):
            where = f"stage {rank} of 2, every gradient 1 on it, {'clipped' if clip else 'no clipping'}"
            expect(got, norm, f"the norm, {where}", "all numbers of the model, each once")
            right = {"the embedding": 2 * factor, "the others": factor}
            look_at = "the embedding's gradient is the sum of those of both ends"
            expect(moved, right, f"how far weights move, {where}", look_at, tol=1e-6)


# %% tags=["wrong"]
class each_stage_for_itself(Optimizer):
    """Caught by: stages_and_shards. Each stage clips the gradients that it has."""

    def _norm(self):
        pairs = zip(self.replicas.gradients, self._counted, strict=True)
        counted = [gradient for gradient, here in pairs if here]
        elsewhere = [self.mesh.tp, self.mesh.dp if self.replicas.cut else None]
        return global_norm([self._nothing, *counted], elsewhere)


class sums_over_the_ends(Optimizer):
    """Caught by: three_stages. The ends are taken for the pipeline, which two stages can't tell."""

    def _norm(self):
        pairs = zip(self.replicas.gradients, self._counted, strict=True)
        counted = [gradient for gradient, here in pairs if here]
        elsewhere = [self.mesh.tp, self.mesh.ends, self.mesh.dp if self.replicas.cut else None]
        return global_norm([self._nothing, *counted], elsewhere)


class all_groups_there_are(Optimizer):
    """Caught by: whole_replicas. Squares are summed along each axis, also among replicas alike."""

    def _norm(self):
        pairs = zip(self.replicas.gradients, self._counted, strict=True)
        counted = [gradient for gradient, here in pairs if here]
        return global_norm([self._nothing, *counted], [self.mesh.tp, self.mesh.pp, self.mesh.dp])


class counts_what_it_has(Optimizer):
    """Caught by: stages_and_shards. The norm of all that a rank has, without asking who else has it."""

    def _norm(self):
        elsewhere = [self.mesh.tp, self.mesh.pp, self.mesh.dp if self.replicas.cut else None]
        return global_norm([self._nothing, *self.replicas.gradients], elsewhere)


class leaves_the_embedding_out(Optimizer):
    """Caught by: stages_and_shards. Counted twice is mended by counting it nowhere."""

    def _norm(self):
        triples = zip(
            self.replicas.parameters, self.replicas.gradients, self._counted, strict=True
        )
        counted = [gradient for p, gradient, here in triples if here and p is not self._tied]
        elsewhere = [self.mesh.tp, self.mesh.pp, self.mesh.dp if self.replicas.cut else None]
        return global_norm([self._nothing, *counted], elsewhere)


class halves_the_norm(Optimizer):
    """Caught by: slices. A factor that is right for two stages is taken for the mend."""

    def _norm(self):
        pairs = zip(self.replicas.gradients, self._counted, strict=True)
        counted = [gradient for gradient, here in pairs if here]
        elsewhere = [self.mesh.tp, self.mesh.pp, self.mesh.dp if self.replicas.cut else None]
        return global_norm([self._nothing, *counted], elsewhere) / 2


class shards_for_themselves(Optimizer):
    """Caught by: stages_and_shards. Replicas have the same gradients, so no sum is needed."""

    def _norm(self):
        pairs = zip(self.replicas.gradients, self._counted, strict=True)
        counted = [gradient for gradient, here in pairs if here]
        return global_norm([self._nothing, *counted], [self.mesh.tp, self.mesh.pp])
