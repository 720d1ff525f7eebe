# ---
# mark: 2
# minutes: 15
# help: half
# needs: [process group, collective, column-parallel, f and g]
# draws:
#   BUG: [vocabulary_counted_from_zero, foreign_tokens_not_zeroed]
# ---

# %% [markdown]
# # Find the bug: two slices read another text
#
# A model trained by one process is loaded by two, `parallel.tp=2`, and given the same batch. Its loss
# ought to be the same and is not, before any step. With `parallel.tp=1` all is well.
#
# The suspects are in the cell below: the embedding of the package, of which each rank has some rows
# of the table, and `_local`, which says where a token's row is. The loss uses `_local` too, for its
# labels. Comments are taken out. Find what is wrong, and mend it.
#
# **Target:** loss, gradients, norm and weights of one process to the last digits, on 2 and on 4
# ranks, with and without sequence parallelism. A token that no rank has is an error, not a row.
#
# After the cell of the suspects, `lab.compare(VocabularyEmbedding, "parallel.tp=2")` takes three
# steps with the code that stands there and prints what differs from one process. Its small model is
# not trained: its loss is about 4, a guess among 32 tokens, and the bug moves it by less than 1.
# `look_up` shows the embedding alone: what it should give is known for each token. (The installed
# package has the right lines; who reads them there finds no bug.)

# %% tags=["target"]
from minimtnlg.course.labs import excerpt

FILE, SUSPECTS = "parallel/tensor.py", ["_local", "VocabularyEmbedding"]
PLANTED, RIGHT = excerpt(FILE, SUSPECTS, BUG), excerpt(FILE, SUSPECTS)
WHY = {
    "vocabulary_counted_from_zero": "Rank $r$ of $t$ has the rows $rV/t$ to $(r+1)V/t - 1$ of the "
    "table, and they are numbers $0$ to $V/t - 1$ of its own. So its number for a token is the token "
    "minus its first row.",
    "foreign_tokens_not_zeroed": "A token that is elsewhere is given row 0 only in order to look "
    "something up. What comes of it must become zero before the sum over the ranks.",
}[BUG]

# %%
import torch
import torch.distributed as dist

from minimtnlg.course.labs import Lab

lab = Lab(FILE, SUSPECTS)


def embed(tokens, vocab):
    """(output [s, 2], gradient of this rank's rows) for tokens [s]; row i of the table is i+1, -i-1."""
    from minimtnlg.parallel.tensor import VocabularyEmbedding

    rank, n = dist.get_rank(), dist.get_world_size()
    embedding = VocabularyEmbedding(vocab, 2, dist.group.WORLD).double()
    rows = torch.arange(1.0, vocab + 1).chunk(n)[rank]
    with torch.no_grad():
        embedding.weight.copy_(torch.stack([rows, -rows], dim=1))
    y = embedding(torch.tensor(tokens)[:, None])[:, 0]
    (y * torch.arange(1, len(tokens) + 1)[:, None]).sum().backward()  # token s weighs s + 1
    return y.detach(), embedding.weight.grad


def look_up(suspect, tokens=(0, 1, 5, 7), vocab=8, ranks=2):
    """Print what each token is embedded as: token i should be i + 1."""
    (y, _), *_ = lab.run(suspect, embed, ranks, tuple(tokens), vocab)
    for token, row in zip(tokens, y.tolist(), strict=True):
        print(f"token {token}: {row[0]:g}, should be {token + 1}")


# %% tags=["stub"]
{{PLANTED}}


# %% [markdown] tags=["hint"]
# Bisect. The loss of the first step is wrong, so look at forward. `look_up(VocabularyEmbedding)` takes
# the embedding alone. Which tokens are right, those of rank 0 or those of rank 1? And what is in a
# wrong row: nothing, another row, or a sum of two?

# %% [markdown] tags=["hint"]
# Each rank looks something up for every token, also for those that it has not. The sum over the
# ranks is right only if exactly one of them contributes. For token 5 of 8 on two ranks: write down
# what `row` and `elsewhere` are on rank 0 and on rank 1, and what each of them adds.

# %% [markdown] tags=["hint"]
# {{WHY}}

# %% [markdown] tags=["oral"]
# **Q.** Rank 0 has row 0 of the table. Why is it not enough to look up row 0 for a foreign token, and
# why does a test with one token seldom show it?
#
# **A.** Row 0 is a word like any other, and would be added to the right row. A small table at the
# start of training has rows near zero, so the sum looks nearly right.
#
# **Q.** The sum over the ranks is g. What is done to the gradient on its way back, and what does a
# rank's table get of it?
#
# **A.** g passes the gradient unchanged to every rank. A table gets the gradients of the tokens whose
# rows it has; what the others would get is cut off where their rows were set to zero.


# %% tags=["solution"]
{{RIGHT}}


# %% tags=["check"]
from minimtnlg.course.check import Feedback, expect


def _check_rows(student, tokens, vocab, ranks):
    """Outputs and gradients by hand."""
    reports = lab.run(student, embed, ranks, tuple(tokens), vocab)
    values = torch.tensor(tokens).double() + 1
    weighed = torch.zeros(vocab, dtype=torch.float64)
    for s, token in enumerate(tokens):
        weighed[token] += s + 1
    for rank, (y, gradient) in enumerate(reports):
        where = f"rank {rank} of {ranks}, tokens {list(tokens)}, token i has row i + 1, -i - 1"
        look_at = "exactly one rank adds something for a token: which, and which row?"
        expect(y, torch.stack([values, -values], dim=1), f"the embeddings, {where}", look_at)
        right = weighed.chunk(ranks)[rank][:, None].expand(-1, 2)
        look_at = "a table gets gradients of the tokens whose rows it has"
        expect(gradient, right, f"the gradient of its rows, {where}, token s weighs s + 1", look_at)


def two_slices_are_one_process(student):
    """Three steps on two ranks are those of one process"""
    look_at = "look_up: which tokens are wrong, and what is in their place?"
    lab.expect_equal(student, "parallel.tp=2", look_at=look_at)


def by_hand(student):
    """Embeddings and gradients of eight tokens on two ranks"""
    _check_rows(student, (0, 1, 5, 7, 4, 3, 3, 0), 8, 2)


# %% tags=["hidden"]
def four_slices(student):
    """Four ranks with three rows each"""
    _check_rows(student, (11, 0, 3, 6, 9, 2, 5, 8, 8), 12, 4)


def pieces_of_the_sequence(student):
    """Sequence parallelism is one process too"""
    overrides = ("parallel.tp=2", "parallel.sequence_parallel=true")
    lab.expect_equal(student, *overrides, look_at="forward ends in g, or in a reduce-scatter")


def no_such_token(student):
    """A token outside of the vocabulary is an error on every rank"""

    def program(token):
        try:
            return f"{embed((1, token), 8)[0].tolist()}"
        except (IndexError, RuntimeError):
            return "an error"

    for token in (8, -1):
        for rank, got in enumerate(lab.run(student, program, 2, token)):
            if got != "an error":
                what = f"token {token} of a vocabulary of 8, on rank {rank}"
                raise Feedback(what, "an IndexError", got, "`elsewhere` is another rank, not nowhere")


# %% tags=["wrong"]
class zeroes_after_the_sum(VocabularyEmbedding):
    """Caught by: two_slices_are_one_process. What is foreign is set to zero, one line too late."""

    def forward(self, tokens):
        row, elsewhere = _local(tokens, self.weight.shape[0], self.group)
        x = F.embedding(row, self.weight)
        x = (scatter_sequence if self.sequence_parallel else g)(x, self.group)
        return x.masked_fill(elsewhere[..., None], 0) if x.shape[0] == len(tokens) else x


class zeroes_row_0(VocabularyEmbedding):
    """Caught by: two_slices_are_one_process. Row 0 stands for what is elsewhere, so it is zero."""

    def forward(self, tokens):
        row, _ = _local(tokens, self.weight.shape[0], self.group)
        x = F.embedding(row, self.weight).masked_fill((row == 0)[..., None], 0)
        return (scatter_sequence if self.sequence_parallel else g)(x, self.group)


class averages_the_slices(VocabularyEmbedding):
    """Caught by: two_slices_are_one_process. Two ranks add something, so one halves it."""

    def forward(self, tokens):
        row, _ = _local(tokens, self.weight.shape[0], self.group)
        x = F.embedding(row, self.weight) / size(self.group)
        return (scatter_sequence if self.sequence_parallel else g)(x, self.group)


class takes_rank_0_off(VocabularyEmbedding):
    """Caught by: two_slices_are_one_process. Rank 0 alone is thought to look up too much."""

    def forward(self, tokens):
        row, elsewhere = _local(tokens, self.weight.shape[0], self.group)
        x = F.embedding(row, self.weight)
        if rank(self.group) == 0:
            x = x.masked_fill(elsewhere[..., None], 0)
        return (scatter_sequence if self.sequence_parallel else g)(x, self.group)


class counts_by_remainder(VocabularyEmbedding):
    """Caught by: two_slices_are_one_process. Rows are numbered from 0 again on each rank: modulo."""

    def forward(self, tokens):
        x = F.embedding(tokens % self.weight.shape[0], self.weight)
        return (scatter_sequence if self.sequence_parallel else g)(x, self.group)


class forgives_every_token(VocabularyEmbedding):
    """Caught by: no_such_token. A row is clamped into the table; then no token is unknown."""

    def forward(self, tokens):
        rows = self.weight.shape[0]
        row = tokens - rank(self.group) * rows
        outside = (row < 0) | (row >= rows)
        x = F.embedding(row.clamp(0, rows - 1), self.weight).masked_fill(outside[..., None], 0)
        return (scatter_sequence if self.sequence_parallel else g)(x, self.group)


class always_sums(VocabularyEmbedding):
    """Caught by: pieces_of_the_sequence. g is put at the end, also where the sequence is cut."""

    def forward(self, tokens):
        row, elsewhere = _local(tokens, self.weight.shape[0], self.group)
        return g(F.embedding(row, self.weight).masked_fill(elsewhere[..., None], 0), self.group)
