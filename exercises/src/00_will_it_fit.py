# ---
# mark: 1
# minutes: 15
# help: worked
# needs: [training state, layout]
# draws:
#   STATE: [20, 16, 18]
#   UNEVEN: [refused, deepest]
# ---

# %% [markdown]
# # Will it fit?
#
# Before a job starts, ask whether each GPU can hold its share. The stub knows the answer for a job of
# one GPU, without cuts. Change it for `tp` slices and `pp` stages. Two things are in a GPU's memory:
#
# - its part of the training state, {{STATE}} bytes a parameter: each of the `tp * pp` GPUs of a
#   replica keeps the same share. {{STATE_SAID}}
# - the lists at the entrance of its layers: for each layer and each token one list of `hidden`
#   numbers of 2 bytes, for `batch` sequences of `seq` tokens. A stage keeps those of its own layers.
#   The lists are not cut: every slice of a stage keeps them whole.
#
# Do not round the bytes: a GPU's share may come out as a fraction. {{UNEVEN_SAID}}
#
# **Target:** `will_it_fit(12_000, layers=4, hidden=10, seq=5, batch=3, gpu_memory={{ROOM}}, tp=2,
# pp=2)` is `({{HELD}}, True)`. On one GPU the state takes {{STATE}} times 12 000 bytes and the lists
# take 1 200.

# %% tags=["target"]
STATE_SAID = {
    20: "(As in the lesson.)",
    16: "(The lesson's 20, without a sum of the gradients in 32 bits.)",
    18: "(The lesson's 20, without the gradient in 16 bits.)",
}[STATE]
UNEVEN_SAID = {
    "refused": "All stages have the same number of layers. If `pp` does not divide `layers`, raise a "
    "`ValueError`.",
    "deepest": "If `pp` does not divide `layers`, some stages have one layer more than others, and the "
    "answer is for a GPU of such a stage. If there are more stages than layers, raise a `ValueError`.",
}[UNEVEN]
HELD = 12_000 * STATE // 4 + 600  # 2 of the 4 layers: 3 sequences of 5 tokens, lists of 20 bytes
ROOM = HELD + 600
# What the printed solution counts and what it refuses.
DEEP = {"refused": "layers // pp", "deepest": "-(-layers // pp)"}[UNEVEN]
REFUSED = {"refused": "layers % pp", "deepest": "pp > layers"}[UNEVEN]


# %% tags=["stub"]
def will_it_fit(parameters, layers, hidden, seq, batch, gpu_memory, tp=1, pp=1):
    """(bytes, fits): the bytes on one GPU, and whether they are at most `gpu_memory` bytes."""
    state = {{STATE}} * parameters
    lists = 2 * batch * layers * seq * hidden
    raise NotImplementedError(f"{state} and {lists} bytes are of one GPU: cut them, and say if it fits")


# %% [markdown] tags=["hint"]
# Two terms, added. Which of the two cuts shrinks which term?

# %% [markdown] tags=["hint"]
# The training state shrinks with both, to `{{STATE}} * parameters / (tp * pp)`. The lists shrink only with
# the number of stages, for every slice keeps the whole list.

# %% [markdown] tags=["hint"]
# A stage has `{{DEEP}}` layers; put that in place of `layers`. First raise the `ValueError`,
# `if {{REFUSED}}`. What fills the memory to the last byte still fits. Return both values: the
# bytes, and whether they fit.


# %% tags=["solution"]
def will_it_fit(parameters, layers, hidden, seq, batch, gpu_memory, tp=1, pp=1):
    if {{REFUSED}}:
        raise ValueError(f"{layers} layers can't be cut into {pp} stages")
    state = {{STATE}} * parameters / (tp * pp)
    lists = 2 * batch * ({{DEEP}}) * seq * hidden
    return state + lists, state + lists <= gpu_memory


# %% tags=["check"]
from minimtnlg.course.check import Feedback, expect


def _compare(got, held, fits, what, look_at):
    """The bytes first, and then the verdict."""
    if not isinstance(got, tuple | list) or len(got) != 2:
        raise Feedback(what, "two values, (bytes, fits)", got)
    expect(got[0], held, f"bytes on one GPU: {what}", look_at)
    expect(got[1], fits, f"whether these {held} bytes fit: {what}", "at most gpu_memory bytes")


def the_target(student):
    """The example of the statement, cut into 2 slices and 2 stages"""
    got = student(12_000, 4, 10, 5, 3, ROOM, tp=2, pp=2)
    what = f"{3000 * STATE} of training state, 600 of lists"
    look_at = f"both cuts shrink the {STATE} bytes a parameter; every slice keeps its lists whole"
    _compare(got, HELD, True, what, look_at)


def training_state_alone(student):
    """One GPU, no sequence: the bytes of each parameter"""
    got = student(1_000_000, 4, 8, 16, 0, 80e9)
    _compare(got, STATE * 10**6, True, "a million parameters, no lists", f"{STATE} bytes a parameter")


def lists_alone(student):
    """One GPU, no parameter: the lists at the entrance of each layer"""
    got = student(0, 3, 5, 4, 2, 200)
    look_at = "for each layer, token and sequence a list of `hidden` numbers of 2 bytes"
    _compare(got, 240, False, "lists of 2 sequences, 4 tokens, 3 layers, h = 5", look_at)


# %% tags=["hidden"]
def full_to_the_last_byte(student):
    """Full to the last byte fits; one byte less does not"""
    for room, fits in ((HELD, True), (HELD - 1, False)):
        got = student(12_000, 4, 10, 5, 3, room, tp=2, pp=2)
        _compare(got, HELD, fits, f"the example with {room} bytes of memory", "the example before")


def each_cut_by_itself(student):
    """Slices leave the lists whole, stages divide them"""
    got = student(4_000, 6, 10, 5, 7, 80e9, tp=4)
    look = "slices cut the training state, and every slice keeps the lists whole"
    _compare(got, 1000 * STATE + 4200, True, "4 slices, 1 stage", look)
    got = student(4_000, 6, 10, 5, 7, 80e9, pp=2)
    look = "stages cut the training state, and a stage keeps the lists of its layers"
    _compare(got, 2000 * STATE + 2100, True, "1 slice, 2 stages", look)


def a_fraction_stays(student):
    """Bytes that the GPUs do not divide are not rounded"""
    got = student(1, 3, 5, 4, 0, 80e9, tp=7)
    _compare(got, STATE / 7, True, "1 parameter in 7 slices, no lists", "the share is not rounded")


def mtnlg(student):
    """MT-NLG on 8 slices and 35 stages: one sequence fits, the whole batch does not"""
    shape = dict(parameters=529_600_819_200, layers=105, hidden=20_480, seq=2_048)
    state, sequence = 1_891_431_497.142857 * STATE, 251_658_240
    for batch, fits in ((1, True), (35, True), (1920, False)):
        got = student(batch=batch, gpu_memory=80e9, tp=8, pp=35, **shape)
        what = f"{batch} sequences on 8 slices and 35 stages"
        _compare(got, state + batch * sequence, fits, what, "3 layers a stage, lists whole")


def unequal_stages(student):
    """When `pp` does not divide `layers`"""
    look = f"the statement: {UNEVEN_SAID}"
    if UNEVEN == "deepest":
        for pp, deepest in ((4, 2), (5, 2), (6, 1)):
            got = student(30_000, 6, 10, 5, 3, 80e9, tp=1, pp=pp)
            held = 30_000 * STATE / pp + 300 * deepest
            _compare(got, held, True, f"6 layers in {pp} stages", look)
    for pp in (4, 12) if UNEVEN == "refused" else (7, 12):
        try:
            got = student(12_000, 6, 10, 5, 3, 80e9, tp=1, pp=pp)
        except ValueError:
            continue
        raise Feedback(f"6 layers in {pp} stages", "ValueError", got, look)


# %% tags=["wrong"]
def weights_only(parameters, layers, hidden, seq, batch, gpu_memory, tp=1, pp=1):
    """Caught by: training_state_alone. The model is taken for its weights of 2 bytes."""
    total, _ = will_it_fit(parameters, layers, hidden, seq, batch, gpu_memory, tp, pp)
    total -= (STATE - 2) * parameters / (tp * pp)
    return total, total <= gpu_memory


def as_published(parameters, layers, hidden, seq, batch, gpu_memory, tp=1, pp=1):
    """Caught by: training_state_alone. A number is copied: 16 of the ZeRO paper, or 20 of MT-NLG."""
    total, _ = will_it_fit(parameters, layers, hidden, seq, batch, gpu_memory, tp, pp)
    total += ((16 if STATE == 20 else 20) - STATE) * parameters / (tp * pp)
    return total, total <= gpu_memory


def slices_cut_the_lists(parameters, layers, hidden, seq, batch, gpu_memory, tp=1, pp=1):
    """Caught by: the_target. Everything is believed to shrink by t."""
    if layers % pp:
        raise ValueError("unequal stages")
    total = (STATE * parameters / pp + 2 * batch * layers // pp * seq * hidden) / tp
    return total, total <= gpu_memory


def stages_keep_all_lists(parameters, layers, hidden, seq, batch, gpu_memory, tp=1, pp=1):
    """Caught by: the_target. A stage is believed to keep the lists of every layer."""
    if layers % pp:
        raise ValueError("unequal stages")
    total = STATE * parameters / (tp * pp) + 2 * batch * layers * seq * hidden
    return total, total <= gpu_memory


def slices_alone_cut_the_state(parameters, layers, hidden, seq, batch, gpu_memory, tp=1, pp=1):
    """Caught by: the_target. Stages are thought to divide the work and not the parameters."""
    total, _ = will_it_fit(parameters, layers, hidden, seq, batch, gpu_memory, tp, pp)
    total += STATE * parameters / tp * (1 - 1 / pp)
    return total, total <= gpu_memory


def full_is_too_full(parameters, layers, hidden, seq, batch, gpu_memory, tp=1, pp=1):
    """Caught by: full_to_the_last_byte. Less than, where at most is meant."""
    total, _ = will_it_fit(parameters, layers, hidden, seq, batch, gpu_memory, tp, pp)
    return total, total < gpu_memory


def whole_bytes(parameters, layers, hidden, seq, batch, gpu_memory, tp=1, pp=1):
    """Caught by: a_fraction_stays. Bytes are counted, so they are rounded."""
    total, _ = will_it_fit(parameters, layers, hidden, seq, batch, gpu_memory, tp, pp)
    return int(total), int(total) <= gpu_memory


def rounds_the_layers_down(parameters, layers, hidden, seq, batch, gpu_memory, tp=1, pp=1):
    """Caught by: unequal_stages. Layers that do not fit a stage are lost."""
    total = STATE * parameters / (tp * pp) + 2 * batch * (layers // pp) * seq * hidden
    return total, total <= gpu_memory


def a_part_of_a_layer(parameters, layers, hidden, seq, batch, gpu_memory, tp=1, pp=1):
    """Caught by: unequal_stages. A stage may have one and a half layers."""
    total = STATE * parameters / (tp * pp) + 2 * batch * layers / pp * seq * hidden
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


# %% [markdown] tags=["oral"]
# **Q.** It does not fit. You may double the slices or double the stages. Which of the two frees more
# memory on each GPU, and why might you take the other all the same?
#
# **A.** The stages: both halve the training state, but only they halve the lists. Slices may be the only
# choice where there are as many stages as layers already; and they make no GPU wait for another stage.
#
# **Q.** A colleague adds 8 replicas, because the job does not fit. What does your function say to that?
#
# **A.** It has no argument for replicas: each is a whole copy, so the bytes on a GPU do not change. (The
# sequences of a batch are shared out, which makes the lists shorter if they were the trouble.)
