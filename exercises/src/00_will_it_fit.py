# ---
# mark: 2
# minutes: 15
# needs: [training state, layout]
# ---

# %% [markdown]
# # Will it fit?
#
# Before a job starts, ask whether each GPU can hold its share. Two things are in its memory:
#
# - its part of the training state, 20 bytes a parameter: each of the `tp * pp` GPUs of a replica
#   keeps the same share;
# - the lists at the entrance of its layers: for each layer and each token one list of `hidden`
#   numbers of 2 bytes, for `batch` sequences of `seq` tokens. A stage has `layers / pp` layers. The
#   lists are not cut: every slice of a stage keeps them whole.
#
# All stages have the same number of layers. If `pp` does not divide `layers`, raise a `ValueError`.
#
# **Target:** `will_it_fit(12_000, layers=4, hidden=10, seq=5, batch=3, gpu_memory=61_200, tp=2,
# pp=2)` is `(60_600, True)`.


# %% tags=["stub"]
def will_it_fit(parameters, layers, hidden, seq, batch, gpu_memory, tp=1, pp=1):
    """(bytes, fits): the bytes on one GPU, and whether they are at most `gpu_memory` bytes."""
    raise NotImplementedError("add the GPU's training state and the lists of its own layers")


# %% [markdown] tags=["hint"]
# Two terms, added. Which of the two cuts shrinks which term?

# %% [markdown] tags=["hint"]
# The training state shrinks with both, to `20 * parameters / (tp * pp)`. The lists shrink only with
# the number of stages, for every slice keeps the whole list.

# %% [markdown] tags=["hint"]
# The lists take `2 * batch * (layers / pp) * seq * hidden` bytes. First raise the `ValueError` if
# `layers % pp` is not 0. What fills the memory to the last byte still fits. Return both values: the
# bytes, and whether they fit.


# %% tags=["solution"]
def will_it_fit(parameters, layers, hidden, seq, batch, gpu_memory, tp=1, pp=1):
    if layers % pp:
        raise ValueError(f"{layers} layers can't be cut into {pp} equal stages")
    state = 20 * parameters / (tp * pp)
    lists = 2 * batch * (layers // pp) * seq * hidden
    return state + lists, state + lists <= gpu_memory


# %% tags=["check"]
from minimtnlg.course.check import expect

LOOK = "the lesson's sections Trouble (20 bytes) and Idea (the lists, the three cuts)"


def training_state_alone(student):
    """One GPU, no sequence: 20 bytes a parameter"""
    got = student(1_000_000, 4, 8, 16, 0, 80e9)
    expect(got, (20e6, True), "(bytes, fits) of a million parameters", LOOK)


def lists_alone(student):
    """One GPU, no parameter: the lists at the entrance of each layer"""
    got = student(0, 3, 5, 4, 2, 200)
    expect(got, (240.0, False), "(bytes, fits) of 2 sequences, 4 tokens, 3 layers, h = 5", LOOK)


def the_target(student):
    """The example of the statement, cut into 2 slices and 2 stages"""
    got = student(12_000, 4, 10, 5, 3, 61_200, tp=2, pp=2)
    expect(got, (60_600.0, True), "(bytes, fits): 60 000 of training state, 600 of lists", LOOK)


# %% tags=["hidden"]
from minimtnlg.course.check import Feedback, expect


def full_to_the_last_byte(student):
    """Full to the last byte fits; one byte less does not"""
    for room, fits in ((60_600, True), (60_599, False)):
        got = student(12_000, 4, 10, 5, 3, room, tp=2, pp=2)
        expect(got, (60_600.0, fits), f"(bytes, fits) with {room} bytes of memory", "at most")


def each_cut_by_itself(student):
    """Slices leave the lists whole, stages divide them"""
    got = student(4_000, 6, 10, 5, 7, 80e9, tp=4)
    expect(got, (24_200.0, True), "4 slices, 1 stage", "every slice keeps the lists whole")
    got = student(4_000, 6, 10, 5, 7, 80e9, pp=2)
    expect(got, (42_100.0, True), "1 slice, 2 stages", "a stage keeps the lists of its layers")


def mtnlg(student):
    """MT-NLG on 8 slices and 35 stages: one sequence fits, the whole batch does not"""
    shape = dict(parameters=529_600_819_200, layers=105, hidden=20_480, seq=2_048)
    state, sequence = 37_828_629_942.857, 251_658_240
    for batch, fits in ((1, True), (35, True), (1920, False)):
        got = student(batch=batch, gpu_memory=80e9, tp=8, pp=35, **shape)
        expect(got, (state + batch * sequence, fits), f"{batch} sequences", "3 layers a stage")


def unequal_stages_are_refused(student):
    """Stages of unequal depth are refused"""
    for pp in (4, 12):
        try:
            got = student(12_000, 6, 10, 5, 3, 80e9, tp=1, pp=pp)
        except ValueError:
            continue
        look = "the statement: stages have the same number of layers"
        raise Feedback(f"6 layers in {pp} stages", "ValueError", got, look)


# %% tags=["wrong"]
def weights_only(parameters, layers, hidden, seq, batch, gpu_memory, tp=1, pp=1):
    """Caught by: training_state_alone. The model is taken for its weights of 2 bytes."""
    total, _ = will_it_fit(parameters, layers, hidden, seq, batch, gpu_memory, tp, pp)
    total -= 18 * parameters / (tp * pp)
    return total, total <= gpu_memory


def sixteen_bytes(parameters, layers, hidden, seq, batch, gpu_memory, tp=1, pp=1):
    """Caught by: training_state_alone. The count of the ZeRO paper, without the summed gradient."""
    total, _ = will_it_fit(parameters, layers, hidden, seq, batch, gpu_memory, tp, pp)
    total -= 4 * parameters / (tp * pp)
    return total, total <= gpu_memory


def slices_cut_the_lists(parameters, layers, hidden, seq, batch, gpu_memory, tp=1, pp=1):
    """Caught by: the_target. Everything is believed to shrink by t."""
    if layers % pp:
        raise ValueError("unequal stages")
    total = (20 * parameters / pp + 2 * batch * layers // pp * seq * hidden) / tp
    return total, total <= gpu_memory


def stages_keep_all_lists(parameters, layers, hidden, seq, batch, gpu_memory, tp=1, pp=1):
    """Caught by: the_target. A stage is believed to keep the lists of every layer."""
    if layers % pp:
        raise ValueError("unequal stages")
    total = 20 * parameters / (tp * pp) + 2 * batch * layers * seq * hidden
    return total, total <= gpu_memory


def full_is_too_full(parameters, layers, hidden, seq, batch, gpu_memory, tp=1, pp=1):
    """Caught by: full_to_the_last_byte. Less than, where at most is meant."""
    total, _ = will_it_fit(parameters, layers, hidden, seq, batch, gpu_memory, tp, pp)
    return total, total < gpu_memory


def rounds_the_layers_down(parameters, layers, hidden, seq, batch, gpu_memory, tp=1, pp=1):
    """Caught by: unequal_stages_are_refused. Layers that do not fit a stage are lost."""
    total = 20 * parameters / (tp * pp) + 2 * batch * (layers // pp) * seq * hidden
    return total, total <= gpu_memory


# %% tags=["picture"]
def picture(student):
    """Bytes on a GPU of MT-NLG against the number of stages, for 1 and 8 slices."""
    import matplotlib.pyplot as plt

    shape = dict(parameters=529_600_819_200, layers=105, hidden=20_480, seq=2_048)
    stages = [1, 3, 5, 7, 15, 21, 35, 105]
    fig, ax = plt.subplots()
    for tp in (1, 8):
        held = [student(batch=1, gpu_memory=80e9, tp=tp, pp=pp, **shape)[0] / 1e9 for pp in stages]
        ax.plot(stages, held, label="1 slice" if tp == 1 else f"{tp} slices")
    ax.axhline(80, color="black", linestyle=":", label="one GPU: 80 GB")
    ax.set(xscale="log", yscale="log", xlabel="stages", ylabel="on each GPU (GB)")
    ax.set_xticks(stages, stages)
    ax.minorticks_off()
    ax.set_title("MT-NLG, one sequence: which of your layouts fit")
    ax.legend()
    alt = "Memory on each GPU against the number of stages, for 1 and 8 slices; a line at 80 GB."
    return fig, alt
