# ---
# mark: 1
# minutes: 15
# help: worked
# needs: [residual stream, causal attention]
# draws:
#   FFN: [3, 6, 8]
#   OUTPUT: [untied, tied]
#   BIASES: [none, all]
# ---

# %% [markdown]
# # Count every parameter
#
# From five numbers of a GPT, find the exact number of its parameters. The stub counts MT-NLG, line
# by line as in the lesson. The model of this exercise is another one:
#
# - The MLP goes from $h$ to {{FFN}}$h$ and back.
# - The four matrices of a layer have {{BIASES_SAID}}.
# - {{OUTPUT_SAID}}
#
# All the rest is as in the lesson: each LayerNorm has $2h$ parameters, there are two in a layer and
# one at the end, and each of $s$ positions has a row of $h$ numbers.
#
# **Target:** one layer with $h = 6$, $s = 9$ and $V = 17$ has {{SMALL}} parameters. MT-NLG's five
# numbers (105 layers, $h = 20480$, 128 heads, $s = 2048$, $V = 51200$) give {{LARGE}}.

# %% tags=["target"]
BIASES_SAID = {"none": "no biases", "all": "a bias each"}[BIASES]
OUTPUT_SAID = {
    "untied": "The output does not use the embedding again: it is a second matrix of $V \\times h$.",
    "tied": "The embedding is used again at the output, as in MT-NLG.",
}[OUTPUT]


def _sizes(layers, h, s, V):
    """The sizes of all tensors, one after the other."""
    for _ in range(layers):
        for inputs, outputs in ((h, 3 * h), (h, h), (h, FFN * h), (FFN * h, h)):
            yield inputs * outputs
            if BIASES == "all":
                yield outputs
        yield from [h] * 4
    yield from [h, h, s * h, V * h]
    if OUTPUT == "untied":
        yield V * h


COUNTED = {  # (layers, h, s, V) -> the sizes, added up
    case: sum(_sizes(*case))
    for case in [
        (1, 6, 9, 17), (3, 6, 9, 17), (2, 10, 7, 100), (2, 8, 5, 11), (5, 6, 13, 29), (1, 1, 1, 1),
        (7, 12, 2, 1000), (105, 20480, 2048, 51200), (7, 1000, 100_003, 10_000_019),
    ]
}  # fmt: skip
SMALL = COUNTED[1, 6, 9, 17]
LARGE = f"{COUNTED[105, 20480, 2048, 51200]:,}".replace(",", " ")
# The terms of the printed solution.
ATTENTION = {"none": "4 * h * h", "all": "4 * h * h + 4 * h"}[BIASES]
MLP = f"2 * {FFN} * h * h" + {"none": "", "all": f" + {FFN} * h + h"}[BIASES]
TABLES = {"untied": "2 * vocab * h + seq * h", "tied": "vocab * h + seq * h"}[OUTPUT]


# %% tags=["stub"]
def count_parameters(layers, hidden, heads, seq, vocab):
    """The exact number of parameters, an int."""
    L, h = layers, hidden
    parts = {  # of MT-NLG: which lines change, and is one missing?
        "attention, h to 3h": L * (3 * h * h + 3 * h),
        "attention, h to h": L * (h * h + h),
        "MLP, h to 4h": L * (4 * h * h + 4 * h),
        "MLP, 4h to h": L * (4 * h * h + h),
        "LayerNorms": (2 * L + 1) * 2 * h,
        "embedding": vocab * h,
        "positions": seq * h,
    }
    raise NotImplementedError(f"change what differs in these {len(parts)} lines, return their sum")


# %% [markdown] tags=["hint"]
# Take the three points of the statement one at a time, and find the lines that each of them
# changes. Which of the five numbers occurs in no line, and should it?

# %% [markdown] tags=["hint"]
# In MT-NLG's `L * (4 * h * h + 4 * h)` the first term is a matrix of $h \times 4h$, the second its
# bias, one number for each of $4h$ outputs. Write {{FFN}} for the 4, and keep the second term or
# not. A LayerNorm is not a matrix: its $2h$ stay.

# %% [markdown] tags=["hint"]
# Take one layer with $h = 6$, $s = 9$, $V = 17$. The two matrices of the MLP have $2 \cdot 6 \cdot
# {{FFN}} \cdot 6$ numbers, those of attention $6 \cdot 18 + 6 \cdot 6$; the LayerNorms have $(2 + 1)
# \cdot 12$, the positions $9 \cdot 6$. Add what the matrices have besides ({{BIASES_SAID}}), and
# the table or tables of $17 \cdot 6$. The sum must be {{SMALL}}.


# %% tags=["solution"]
def count_parameters(layers, hidden, heads, seq, vocab):
    h = hidden
    attention = {{ATTENTION}}
    mlp = {{MLP}}
    norms = 2 * 2 * h
    return layers * (attention + mlp + norms) + 2 * h + {{TABLES}}


# %% tags=["check"]
from itertools import combinations, product

from minimtnlg.course.check import Feedback


def _advice(student):
    """The fewest usual mistakes that explain a wrong count, or None if that is not clear."""
    layers, h, s, V = sizes = 7, 1000, 100_003, 10_000_019  # so far apart that they tell
    off = _counted(student, layers, h, 1, s, V)[1] - COUNTED[sizes]
    n, more = layers * h, 4 - FFN
    kept = [(5 + FFN) * n, 9 * n, 4 * n, (1 + FFN) * n, 5 * n]  # all biases, or those of one half
    usual = {
        f"the middle of the MLP: {FFN}h wherever the stub has 4h": [
            2 * more * n * h, more * n * h, more * n, 2 * more * n * h + more * n
        ],
        "the biases: the statement says which matrices have one": (
            kept if BIASES == "none" else [-(5 + FFN) * n, -4 * n, -(1 + FFN) * n]
        ),
        "the output: a matrix of its own, or the embedding again?": [
            V * h if OUTPUT == "tied" else -V * h
        ],
        "the LayerNorms: two in a layer and one at the end, 2h each": [
            -2 * h, -2 * n, -2 * n - h, 2 * n - 2 * h
        ],
        "the positions: a row of h numbers for each of s places": [-s * h],
    }  # fmt: skip
    for size in (1, 2, 3):
        found = [
            names for names in combinations(usual, size)
            if off in map(sum, product(*(usual[name] for name in names)))
        ]  # fmt: skip
        if found:
            return "; ".join(found[0]) if len(found) == 1 else None


def _counted(student, layers, h, heads, s, V):
    """(what it is, the student's count)."""
    what = f"parameters for L = {layers}, h = {h}, a = {heads}, s = {s}, V = {V}"
    got = student(layers, h, heads, s, V)
    if not isinstance(got, int):
        raise Feedback(what, "an exact number, an int", repr(got))
    return what, got


def _compare(student, layers, h, heads, s, V):
    what, got = _counted(student, layers, h, heads, s, V)
    expected = COUNTED[layers, h, s, V]
    if got != expected:
        raise Feedback(what, expected, got, _advice(student) or "count one tensor after the other")


def one_layer(student):
    """The model of the target: one layer, h = 6"""
    _compare(student, 1, 6, 1, 9, 17)


def several_layers(student):
    """Layers repeat, tables and the final LayerNorm do not"""
    _compare(student, 3, 6, 1, 9, 17)
    _compare(student, 2, 10, 1, 7, 100)


def heads_share_the_matrices(student):
    """More heads are no more parameters"""
    _, one = _counted(student, 2, 8, 1, 5, 11)
    for heads in (2, 4, 8):
        what, got = _counted(student, 2, 8, heads, 5, 11)
        if got != one:
            look_at = "a head is a part of the matrices, not one more"
            raise Feedback(what, f"{one}, your number for a = 1", got, look_at)


# %% tags=["hidden"]
def sizes_that_all_differ(student):
    """Sizes that have nothing to do with each other"""
    for layers, h, heads, s, V in ((5, 6, 3, 13, 29), (1, 1, 1, 1, 1), (7, 12, 2, 2, 1000)):
        _compare(student, layers, h, heads, s, V)


def numbers_of_mtnlg(student):
    """MT-NLG's five numbers in this model, to the last parameter"""
    _compare(student, 105, 20480, 128, 2048, 51200)


# %% tags=["wrong"]
def as_mtnlg(layers, hidden, heads, seq, vocab):
    """Caught by: one_layer. One formula is taken for the formula of every GPT."""
    L, h = layers, hidden
    return 12 * L * h * h + 13 * L * h + (vocab + seq) * h + 2 * h


def no_final_norm(layers, hidden, heads, seq, vocab):
    """Caught by: one_layer. Everything is thought to be in a layer or a table."""
    return count_parameters(layers, hidden, heads, seq, vocab) - 2 * hidden


def output_the_other_way(layers, hidden, heads, seq, vocab):
    """Caught by: one_layer. The output is counted with the embedding where it has a matrix, or twice."""
    sign = 1 if OUTPUT == "tied" else -1
    return count_parameters(layers, hidden, heads, seq, vocab) + sign * vocab * hidden


def biases_the_other_way(layers, hidden, heads, seq, vocab):
    """Caught by: one_layer. Biases are counted without a look at the model."""
    sign = 1 if BIASES == "none" else -1
    total = count_parameters(layers, hidden, heads, seq, vocab)
    return total + sign * layers * (5 + FFN) * hidden


def norms_without_shift(layers, hidden, heads, seq, vocab):
    """Caught by: one_layer. A LayerNorm is believed to have a scale alone."""
    return count_parameters(layers, hidden, heads, seq, vocab) - (2 * layers + 1) * hidden


def computed_positions(layers, hidden, heads, seq, vocab):
    """Caught by: one_layer. Positions are taken for numbers that need no table."""
    return count_parameters(layers, hidden, heads, seq, vocab) - seq * hidden


def one_norm_a_layer(layers, hidden, heads, seq, vocab):
    """Caught by: one_layer. One LayerNorm before attention serves the MLP as well."""
    return count_parameters(layers, hidden, heads, seq, vocab) - layers * 2 * hidden


def matrices_for_each_head(layers, hidden, heads, seq, vocab):
    """Caught by: heads_share_the_matrices. Each head is given matrices of full size."""
    more = layers * (heads - 1) * 3 * hidden * hidden
    return count_parameters(layers, hidden, heads, seq, vocab) + more


def a_norm_too_many(layers, hidden, heads, seq, vocab):
    """Caught by: several_layers. The final LayerNorm is counted in each layer."""
    return count_parameters(layers, hidden, heads, seq, vocab) + 2 * hidden * (layers - 1)


def rounded_for_reading(layers, hidden, heads, seq, vocab):
    """Caught by: numbers_of_mtnlg. Floating point of 32 bits, good for seven digits."""
    import numpy as np

    return int(np.float32(count_parameters(layers, hidden, heads, seq, vocab)))


# %% [markdown] tags=["oral"]
# **Q.** You double $h$ and leave the other four numbers as they are. How does the share of the
# parameters that sits in the tables change, roughly, and why?
#
# **A.** It halves, as long as it is small. A layer grows with $h^2$, a table with $h$.
#
# **Q.** Name a change of the model that changes what it computes and not the number of its
# parameters, and one line of your count that shows it.
#
# **A.** The number of heads, for example: it occurs in no line, since heads cut the same matrices
# differently. Also the causal mask, or another function in place of GeLU: neither has a parameter.
