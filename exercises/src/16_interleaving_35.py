# ---
# mark: 1
# minutes: 10
# help: worked
# needs: [schedule, micro-batch, bubble, layout, stage]
# draws:
#   COUNTED: [too many, missing]
#   INCREMENT: [32, 64, 16]
# ---

# %% [markdown]
# # Why 35 stages cannot interleave
#
# MT-NLG has 105 layers on 35 stages, three on each. Three chunks of one layer each would have cut its
# bubble to a third. Write down what was against it.
#
# A layout interleaves if it has two stages or more, if `p * v` divides the layers, and if *each*
# batch of the ramp makes $m$ whole micro-batches on each replica, where `p` divides $m$. Below is the
# same for 1F1B, written out. Copy it and change it.
#
# ```
# the reason                  what it says
# ("stages", p)               p = 1: there is no pipeline
# ("layers", left)            layers that are left if p * v chunks get equally many
# ("batch", batch, left)      sequences that are left if the batch is cut into whole micro-batches
# ("groups", batch, n)        m is whole, and p does not divide it: n micro-batches are {{COUNTED}}
# ```
#
# They come in this order; for each batch of `batches` there is at most one.
#
# **Target:** for MT-NLG's `(105, 35, 3, 8, 1)` and its batches from {{INCREMENT}} to 1920 in steps of
# {{INCREMENT}} there are {{REASONS}} reasons, all of them about groups. The last is `("groups", 1920, {{LAST}})`.

# %% tags=["target"]
_M = [batch // 8 for batch in range(INCREMENT, 1921, INCREMENT)]  # micro-batches of one sequence
REASONS = sum(m % 35 > 0 for m in _M)
N = "m % p" if COUNTED == "too many" else "-m % p"
GROUPS = r"240 = 6 \cdot 35 + 30" if COUNTED == "too many" else r"240 = 7 \cdot 35 - 5"
COUNT = {
    "too many": "`m % p` is how many are left after the last whole group of p.",
    "missing": "Python's `-m % p` is how many are missing to the next multiple of p.",
}[COUNTED]
LAST = 240 - 35 * 6 if COUNTED == "too many" else 35 * 7 - 240

# %%
RAMP = range(INCREMENT, 1921, INCREMENT)  # MT-NLG's global batches, from the first to the last


def against_1f1b(layers, p, d, b, batches):
    """What forbids 1F1B, as a list of reasons; of an empty list: nothing.

    p, d, b: stages, replicas, sequences in a micro-batch. batches: all global batches of the run.
    """
    found = []
    if layers < p:
        found.append(("layers", p - layers))  # stages without a layer
    for batch in batches:
        m, left = divmod(batch, d * b)
        if left:
            found.append(("batch", batch, left))
    return found


# against_1f1b(105, 35, 8, 1, RAMP) is []: nothing forbids MT-NLG's 1F1B.
# against_1f1b(105, 35, 12, 1, [32, 1920]) is [("batch", 32, 8)]: 32 = 2 * 12 + 8.


# %% tags=["stub"]
def against_interleaving(layers, p, v, d, b, batches):
    """What forbids the interleaved schedule of v chunks a stage: a list of reasons."""
    raise NotImplementedError("copy the body of against_1f1b; change one rule and add two")


# %% [markdown] tags=["hint"]
# Two rules do not look at a batch: the one about stages, which is new, and the one about layers, which
# 1F1B has in a weaker form. `%` gives what is left.

# %% [markdown] tags=["hint"]
# In the loop, `left` is what does not make whole micro-batches. Only if it is 0 may you ask about
# groups of `p`. For 1920 sequences on 8 replicas m is 240, and ${{GROUPS}}$.

# %% [markdown] tags=["hint"]
# ```python
# if p < 2:
#     ...                       # ("stages", p)
# if layers % (p * v):
#     ...                       # ("layers", ...)
# for batch in batches:
#     m, left = divmod(batch, d * b)
#     if left:
#         ...                   # as above
#     elif m % p:
#         ...                   # ("groups", batch, n)
# ```
# {{COUNT}}

# %% [markdown] tags=["oral"]
# **Q.** A batch of 1120 sequences has no reason against it. Why does that not help?
#
# **A.** A run keeps its layout from the first step to the last. Nearly all batches of the ramp, the final
# 1920 among them, do not make groups of 35 on eight replicas.
#
# **Q.** Suppose the batch had been 1960 from the beginning. What else would have had to change, and why
# is that hard to see in this list?
#
# **A.** 1960 makes 245 micro-batches, seven groups of 35, so the rules allow it. But DeepSpeed's pipeline
# had no interleaving, and three chunks send three times as many whole tensors between the stages, which
# costs more than the bubble that is saved. The list says what is legal, not what is fast.


# %% tags=["solution"]
def against_interleaving(layers, p, v, d, b, batches):
    reasons = []
    if p < 2:
        reasons.append(("stages", p))
    if layers % (p * v):
        reasons.append(("layers", layers % (p * v)))
    for batch in batches:
        m, left = divmod(batch, d * b)
        if left:
            reasons.append(("batch", batch, left))
        elif m % p:
            reasons.append(("groups", batch, {{N}}))
    return reasons


# %% tags=["check"]
from minimtnlg.course.check import Feedback, expect


def _reasons(student, *given):
    """What comes back, as a list of tuples."""
    found = student(*given)
    try:
        return [tuple(reason) for reason in found]
    except TypeError:
        raise Feedback("what comes back", "a list of reasons, which are tuples", found) from None


PARTS = {
    "stages": ("kind", "p"),
    "layers": ("kind", "layers left"),
    "batch": ("kind", "batch", "sequences left"),
    "groups": ("kind", "batch", "n"),
}


def _same(student, given, right, what, look_at=""):
    """The student's reasons, compared one by one and part by part."""
    got = _reasons(student, *given)
    if len(got) == len(right):
        for i, (mine, reason) in enumerate(zip(got, right, strict=True)):
            if len(mine) != len(reason):
                raise Feedback(f"reason {i} of the {what}", reason, mine, look_at)
            for part, x, y in zip(PARTS[reason[0]], mine, reason, strict=True):
                expect(x, y, f"reason {i}, its {part}, of the {what}", look_at)
    expect(got, right, what, look_at)


def mtnlg(student):
    """MT-NLG's stages, chunks and batches; and stages that can interleave"""
    of = (105, 35, 3, 8, 1)
    what = f"reasons against {of} and the batches 1120 and 1920"
    _same(student, (*of, [1120, 1920]), [("groups", 1920, LAST)], what,
          f"140 and 240 micro-batches in groups of 35: how many are {COUNTED}?")  # fmt: skip
    what = f"reasons against {of} and the batches of the ramp"
    got = _reasons(student, *of, list(RAMP))
    groups = [reason[1] for reason in got if reason[:1] == ("groups",) and len(reason) == 3]
    right = [batch for batch in RAMP if batch not in range(0, 1921, 280)]
    expect(groups, right, f"batches that make no whole groups, of the {what}",
           "35 micro-batches on 8 replicas are 280 sequences")  # fmt: skip
    expect(len(got), REASONS, f"how many {what}", "105 layers do make 35 x 3 chunks")
    _same(student, (*of, [280, 1960]), [], f"reasons against {of} and batches 280 and 1960",
          "245 micro-batches are seven groups of 35")  # fmt: skip


def chunks_of_layers(student):
    """Chunks that do not get equally many layers"""
    for p, v, left in ((35, 2, 35), (7, 5, 0), (8, 3, 9), (15, 7, 0), (4, 2, 1)):
        right = [("layers", left)] if left else []
        _same(student, (105, p, v, 1, 1, [840]), right,
              f"reasons against {v} chunks on each of {p} stages, 105 layers",
              "p times v chunks have to get equally many")  # fmt: skip


def one_stage(student):
    """A single stage has nothing to interleave"""
    _same(student, (96, 1, 2, 8, 1, [64, 128]), [("stages", 1)],
          "reasons against p = 1, v = 2", "every m is a multiple of 1")  # fmt: skip


def whole_micro_batches(student):
    """A batch that makes no whole micro-batches is not asked for groups"""
    _same(student, (24, 4, 3, 6, 2, [48, 50, 59]), [("batch", 50, 2), ("batch", 59, 11)],
          "reasons against p = 4 on d = 6 with b = 2",
          "what 6 replicas with micro-batches of 2 take at once are 12 sequences")  # fmt: skip


def groups_of_micro_batches(student):
    """Groups are counted in micro-batches of one replica, not in sequences"""
    one = ("groups", 8, 2)
    _same(student, (24, 4, 3, 2, 2, [8, 16]), [one], "reasons against p = 4, d = 2, b = 2",
          "8 sequences make 2 micro-batches on each of 2 replicas")  # fmt: skip


# %% tags=["hidden"]
def everything_at_once(student):
    """All four kinds of reasons, in their order"""
    one, two = {"too many": (1, 2), "missing": (2, 1)}[COUNTED]
    right = [("layers", 4), ("groups", 8, one), ("batch", 11, 1), ("groups", 22, two)]
    _same(student, (10, 3, 2, 2, 1, [12, 8, 18, 11, 22]), right,
          "reasons against p = 3, v = 2, d = 2, b = 1, 10 layers, batches 12, 8, 18, 11 and 22")  # fmt: skip
    _same(student, (5, 1, 2, 2, 3, [7]), [("stages", 1), ("layers", 1), ("batch", 7, 1)],
          "reasons against p = 1, v = 2, d = 2, b = 3, 5 layers, a batch of 7")  # fmt: skip


def as_the_package(student):
    """Random layouts: refused where the package refuses them"""
    import random
    from types import SimpleNamespace

    from minimtnlg import rules

    draw = random.Random(35)
    for _ in range(300):
        layers, b, v = draw.choice((24, 96, 105)), 2, draw.randint(2, 4)
        p, d = draw.randint(1, 4), draw.randint(1, 4)
        batches = [draw.choice((24, 48, 50, 96)) for _ in range(draw.randint(1, 3))]
        parallel = SimpleNamespace(
            tp=1, pp=p, virtual=v, dp=d, zero=0, sequence_parallel=False, schedule="interleaved",
            recompute="none",
        )  # fmt: skip
        train = SimpleNamespace(micro_batch=b, batches=lambda batches=batches: batches)
        model = SimpleNamespace(heads=1, vocab=1, seq=1, layers=layers, attention="sdpa")
        refused = bool(list(rules.broken(model, parallel, train)))
        got = bool(_reasons(student, layers, p, v, d, b, batches))
        expect(got, refused, f"whether anything is against layers {layers}, p {p}, v {v}, d {d}, "
               f"b {b}, batches {batches}")  # fmt: skip


# %% tags=["wrong"]
def _against(layers, p, v, d, b, batches, chunks, n, full_only=False, both=False):
    found = [("stages", p)] if p < 2 else []
    if chunks:
        found.append(("layers", chunks))
    for batch in list(batches)[-1:] if full_only else batches:
        m, left = divmod(batch, d * b)
        if left:
            found.append(("batch", batch, left))
        if (both or not left) and m % p:
            found.append(("groups", batch, n(m, p)))
    return found


def only_the_full_batch(layers, p, v, d, b, batches):
    """Caught by: mtnlg. The ramp is forgotten: a run is thought to have one batch."""
    return _against(layers, p, v, d, b, batches, layers % (p * v), lambda m, p: {{N}}, True)


def counts_the_other_way(layers, p, v, d, b, batches):
    """Caught by: mtnlg. What is too many is taken for what is missing, or the reverse."""
    return _against(layers, p, v, d, b, batches, layers % (p * v), lambda m, p: p - ({{N}}))


def counts_sequences(layers, p, v, d, b, batches):
    """Caught by: groups_of_micro_batches. Groups of sequences of the whole batch."""
    return _against(layers, p, v, 1, 1, batches, layers % (p * v), lambda m, p: {{N}})


def stages_alone_divide_the_layers(layers, p, v, d, b, batches):
    """Caught by: chunks_of_layers. p divides the layers; that chunks must be equal is overlooked."""
    return _against(layers, p, v, d, b, batches, layers % p, lambda m, p: {{N}})


def chunks_alone_divide_the_layers(layers, p, v, d, b, batches):
    """Caught by: chunks_of_layers. Each stage cuts what it has: v has to divide the layers."""
    return _against(layers, p, v, d, b, batches, layers % v, lambda m, p: {{N}})


def asks_for_groups_of_parts(layers, p, v, d, b, batches):
    """Caught by: everything_at_once. A batch without whole micro-batches is asked for groups, too."""
    return _against(
        layers, p, v, d, b, batches, layers % (p * v), lambda m, p: {{N}}, both=True
    )


def forgets_one_stage(layers, p, v, d, b, batches):
    """Caught by: one_stage. All numbers are divisible by 1, so a single stage is thought to do."""
    found = _against(layers, p, v, d, b, batches, layers % (p * v), lambda m, p: {{N}})
    return [reason for reason in found if reason[0] != "stages"]


def says_what_forbids_1f1b(layers, p, v, d, b, batches):
    """Caught by: mtnlg. The rules of 1F1B are handed on unchanged."""
    return against_1f1b(layers, p, d, b, batches)
