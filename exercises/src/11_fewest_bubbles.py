# ---
# mark: 4
# minutes: 50
# help: empty
# needs: [stage, schedule, bubble]
# draws:
#   STAGES: [4, 5, 6]
#   MICRO_BATCHES: [8, 12]
#   ROOM: [p, p - i]
# ---

# %% [markdown]
# # Fewest bubbles
#
# A backward pass does two things. It makes the gradient of the stage's input, for which the stage
# above waits, and the gradients of the stage's weights, for which nobody waits. Cut it in two:
# `B3` is the first half for micro-batch 3, `W3` the second, `F3` the forward pass. Each takes one
# unit of time, messages take none. What was a bubble may be filled with a `W`.
#
# Memory is the limit. What `F3` saves is kept until `W3` is over. Of $p$ stages, stage $i$ has room
# for ${{ROOM}}$ micro-batches at a time. (1F1B, with `W` right after `B`, keeps $p - i$.)
#
# **Target:** {{STAGES}} stages, {{MICRO_BATCHES}} micro-batches: 1F1B with whole backward passes
# ends at {{PLAIN}}; yours ends at {{BOUND}}, and within the room on each stage. Any $p$, and any
# $m \ge p$. No schedule is faster. No check asks you why, but think of an answer: somebody may.
#
# To look at your schedule: `print(drawn(fewest_bubbles({{STAGES}}, {{MICRO_BATCHES}})))`. The lines are
# long; smaller sizes show the same.


# %%
def drawn(stages):
    """A row of text for each stage, a pass in each unit of time; below what the stages keep."""
    at, free, over, rows = [0] * len(stages), [0] * len(stages), {}, [""] * len(stages)
    width = 1 + max(len(x) for passes in stages for x in passes)
    moved = True
    while moved:
        moved = False
        for i, passes in enumerate(stages):
            while at[i] < len(passes):
                kind, j = passes[at[i]][0], passes[at[i]][1:]
                needs = {
                    "F": [("F", j, i - 1)],
                    "B": [("F", j, i), ("B", j, i + 1)],
                    "W": [("B", j, i)],
                }[kind]
                needs = [need for need in needs if 0 <= need[2] < len(stages)]
                if not all(need in over for need in needs):
                    break
                start = max([free[i], *(over[need] for need in needs)])
                waits = start - len(rows[i]) // width
                rows[i] += ".".ljust(width) * waits + passes[at[i]].ljust(width)
                free[i] = over[kind, j, i] = start + 1
                at[i] += 1
                moved = True
    keeps = [[0] for _ in stages]
    for kept, passes in zip(keeps, stages, strict=True):
        for x in passes:
            kept.append(kept[-1] + {"F": 1, "B": 0, "W": -1}[x[0]])
    stuck = [f"stage {i} at {x[at[i]]}" for i, x in enumerate(stages) if at[i] < len(x)]
    end = f"they wait for ever: {', '.join(stuck)}" if stuck else f"ends at {max(free)}"
    return "\n".join([*rows, f"{end}; the stages keep at most {' '.join(str(max(x)) for x in keeps)}"])


# %% tags=["target"]
PLAIN = 3 * (MICRO_BATCHES + STAGES - 1)
WAYS = {"p": 1, "p - i": 2}[ROOM]  # how often the other stages have to be waited for
BOUND = 3 * MICRO_BATCHES + WAYS * (STAGES - 1)


# %% tags=["stub"]
def fewest_bubbles(p, m):
    """For each of p stages the list of its passes, as ["F0", "F1", "B0", "W0", ...]; m >= p."""
    raise NotImplementedError("return p lists of 3 m passes; begin with 1F1B, cut each B in two")


# %% [markdown] tags=["hint"]
# Begin with 1F1B, with `W` right after its `B`, and print it. Where is the waiting now? Compare
# with the whole backward passes: how much has been gained already, and why?

# %% [markdown] tags=["hint"]
# The last stage can't begin before time $p - 1$. From then on it should never wait. At the end, the
# last `B` has to climb through all stages: what should each stage do at that time, and what should
# the last stage have done *before*, so that the last `B` leaves early? Its `W` can come later, if
# there is room for what they keep.

# %% [markdown] tags=["hint"]
# Leave `F` and `B` in the order of 1F1B. From `B` number `late` on, follow each `B` with the oldest
# `W` that is left, and put the remaining ones at the end. With `W` late by `late` micro-batches,
# stage $i$ keeps $p - i + \text{late}$. It has room for ${{ROOM}}$, so how late can its `W` be?


# %% tags=["solution"]
def fewest_bubbles(p, m):
    stages = []
    for i in range(p):
        late = {{ROOM}} - (p - i)  # what the stage has room for beside what 1F1B keeps
        ahead = p - i - 1
        passes, weights = [f"F{j}" for j in range(ahead)], 0
        for j in range(m):
            passes += [f"F{ahead + j}"] * (ahead + j < m) + [f"B{j}"]
            if j >= late:
                passes.append(f"W{weights}")
                weights += 1
        stages.append(passes + [f"W{j}" for j in range(weights, m)])
    return stages


# %% [markdown] tags=["oral"]
# **Q.** Why can no schedule be faster than {{BOUND}}, with {{STAGES}} stages, {{MICRO_BATCHES}}
# micro-batches and room for ${{ROOM}}$ on stage $i$?
#
# **A.** The last stage begins after $p - 1$ forward passes elsewhere and computes $3m$. With room
# for $p$ that is all. With room for $p - i$ the last stage has room for one: its `W` must come
# before its next `F`. So its last `B` ends at $p - 1 + 3m - 1$ at the earliest; then come $p - 1$
# times `B` on the stages above, and a `W`: $3m + 2(p-1)$.
#
# **Q.** The training step needs all gradients before the optimizer moves the weights. Does this
# schedule change the result of a step?
#
# **A.** No. Each `W` adds the same gradient, later. Sums come in the same order on each stage, so
# even the rounding is the same, if `W` keeps the order of micro-batches.


# %% tags=["check"]
import re

from minimtnlg.course.check import Feedback, expect


def _room(p, i):
    return p if ROOM == "p" else p - i


def _stages(student, p, m):
    """The student's lists, if each stage makes each pass once."""
    sizes = f"{p} stages, {m} micro-batches"
    answer = student(p, m)
    try:
        stages = [list(passes) for passes in answer]
    except TypeError:
        raise Feedback(sizes, "a list of passes for each stage", repr(answer)) from None
    expect(len(stages), p, f"number of lists, {sizes}")
    for i, passes in enumerate(stages):
        for x in passes:
            if not isinstance(x, str) or not re.fullmatch("[FBW](0|[1-9][0-9]*)", x):
                raise Feedback(f"a pass of stage {i}, {sizes}", "text such as F0, B0, W0", repr(x))
        wanted = {f"{kind}{j}" for kind in "FBW" for j in range(m)}
        if wrong := sorted(set(passes) ^ wanted) or [x for x in passes if passes.count(x) > 1]:
            count = passes.count(wrong[0])
            what = f"how often {wrong[0]} comes on stage {i}, {sizes}"
            expect(count, int(wrong[0] in wanted), what, "F0 to B{m-1} and W{m-1}, each once")
    return stages


def _play(student, p, m):
    """{(kind, j, stage): (start, end)}; Feedback if the schedule waits for ever or keeps too much.

    Unit by unit: at each tick every stage looks whether its next pass can begin.
    """
    stages, sizes = _stages(student, p, m), f"{p} stages, {m} micro-batches"
    times, turn, tick = {}, [0] * p, 0

    def done(kind, j, i):
        return not 0 <= i < p or times.get((kind, j, i), (0, tick + 1))[1] <= tick

    while any(turn[i] < 3 * m for i in range(p)):
        began = []
        for i in range(p):
            if turn[i] == 3 * m:
                continue
            kind, j = stages[i][turn[i]][0], int(stages[i][turn[i]][1:])
            if kind == "F":
                ready = done("F", j, i - 1)
            elif kind == "B":
                ready = done("F", j, i) and done("B", j, i + 1)
            else:
                ready = done("B", j, i)
            if ready:
                began.append((kind, j, i))
        if not began:
            stuck = [i for i in range(p) if turn[i] < 3 * m]
            where = ", ".join(f"stage {i} at {stages[i][turn[i]]}" for i in stuck)
            raise Feedback(
                f"{sizes}: does every stage come to its end?", "yes", f"no, they wait: {where}",
                "B needs the F of its stage and the B of the stage below, W needs its B",
            )  # fmt: skip
        for kind, j, i in began:
            times[kind, j, i] = tick, tick + 1
            turn[i] += 1
        tick += 1
    for i, passes in enumerate(stages):
        kept = 0
        for x in passes:
            kept += {"F": 1, "B": 0, "W": -1}[x[0]]
            if kept > _room(p, i):
                what = f"micro-batches that stage {i} keeps at {x}, {sizes}"
                look_at = f"there is room for {ROOM}; what F saves is given back by its W alone"
                raise Feedback(what, f"at most {_room(p, i)}", kept, look_at)
    return times


def _end(student, p, m):
    return max(end for _, end in _play(student, p, m).values())


def _check_bound(student, p, m):
    what = f"time until {p} stages are done with {m} micro-batches"
    look_at = "drawn shows it: where does a stage wait, for whom, and what does that one do meanwhile?"
    expect(_end(student, p, m), 3 * m + WAYS * (p - 1), what, look_at)


def beats_1f1b(student):
    """Legal, within the room on each stage, and faster than 1F1B with whole backward passes"""
    end = _end(student, STAGES, MICRO_BATCHES)
    if end >= PLAIN:
        what = f"time until {STAGES} stages are done with {MICRO_BATCHES} micro-batches"
        look_at = "drawn shows it: where does a stage wait, for whom, and what does that one do?"
        raise Feedback(what, f"less than {PLAIN}, the best is {BOUND}", end, look_at)


def reaches_the_bound(student):
    """No schedule is faster"""
    _check_bound(student, STAGES, MICRO_BATCHES)


# %% tags=["hidden"]
def other_sizes(student):
    """One to seven stages, as many micro-batches or more: legal, within the room, the fastest"""
    for p in range(1, 8):
        for m in (p, p + 1, 2 * p + 1, 3 * p):
            _check_bound(student, p, m)


def many_micro_batches(student):
    """A hundred micro-batches: what each stage waits does not grow"""
    _check_bound(student, 4, 100)


# %% tags=["wrong"]
def _with(p, m, late, ahead=lambda p, i: p - i - 1):
    """1F1B with `W` late by late(p, i) micro-batches."""
    stages = []
    for i in range(p):
        first, weights = min(ahead(p, i), m), 0
        passes = [f"F{j}" for j in range(first)]
        for j in range(m):
            passes += [f"F{first + j}"] * (first + j < m) + [f"B{j}"]
            if j >= late(p, i):
                passes.append(f"W{weights}")
                weights += 1
        stages.append(passes + [f"W{j}" for j in range(weights, m)])
    return stages


def weights_before_inputs(p, m):
    """Caught by: beats_1f1b. W comes before its B, as if it needed nothing from it."""
    swap = {"B": "W", "W": "B", "F": "F"}
    return [[swap[x[0]] + x[1:] for x in passes] for passes in _with(p, m, lambda p, i: 0)]


def all_weights_at_the_end(p, m):
    """Caught by: beats_1f1b. Nobody waits for W, so all of them can wait; the memory can't."""
    return _with(p, m, lambda p, i: m)


def one_micro_batch_later_than_fits(p, m):
    """Caught by: beats_1f1b. W is late by one more than there is room for."""
    return _with(p, m, lambda p, i: _late(p, i) + 1)


def as_late_everywhere(p, m):
    """Caught by: beats_1f1b. Each stage has its W as late as the last one may in the other rule."""
    return _with(p, m, lambda p, i: p - 1)


def gpipe(p, m):
    """Caught by: beats_1f1b. All forward passes first, then B, then W."""
    return [[f"{kind}{j}" for kind in "FBW" for j in range(m)] for _ in range(p)]


def one_after_the_other(p, m):
    """Caught by: beats_1f1b. F, B, W of a micro-batch, then the next: within any room, but slow."""
    return [[f"{kind}{j}" for j in range(m) for kind in "FBW"] for _ in range(p)]


def one_pass_ahead_too_few(p, m):
    """Caught by: reaches_the_bound. A shorter warm-up leaves room, and stages that wait."""
    return _with(p, m, _late, lambda p, i: max(0, p - i - 2))


def nearly(p, m):
    """Caught by: reaches_the_bound. One W too early, or too late: what does a unit matter?"""
    if ROOM == "p":  # some of the room is left
        return _with(p, m, lambda p, i: max(0, i - 1))
    stages = _with(p, m, lambda p, i: 0)
    stages[0][-3:-1] = stages[0][-2:-3:-1] + stages[0][-3:-2]  # two W after the last B
    return stages


def only_for_many(p, m):
    """Caught by: other_sizes. Right where there are far more micro-batches than stages."""
    return fewest_bubbles(p, m) if m >= 2 * p else gpipe(p, m)


def of_the_example(p, m):
    """Caught by: other_sizes. The schedule of the target, whatever is asked for."""
    return fewest_bubbles(STAGES, MICRO_BATCHES)


def _late(p, i):
    return i if ROOM == "p" else 0


# %% tags=["picture"]
def picture(student):
    """The student's schedule, each F, B and W."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    from minimtnlg.course.plots import COLOURS

    times = _play(student, STAGES, MICRO_BATCHES)
    end = max(until for _, until in times.values())
    looks = {"F": (COLOURS["blue"], "white"), "B": ("#F6D58E", "black"), "W": ("white", "black")}
    fig, ax = plt.subplots(figsize=(8, 0.9 + 0.4 * STAGES))
    for (kind, j, i), (start, _) in times.items():
        face, ink = looks[kind]
        ax.barh(i, 1, 0.82, start, facecolor=face, edgecolor="black", lw=0.5)
        ax.text(start + 0.5, i, j, ha="center", va="center_baseline", fontsize=8, color=ink)
    names = {"F": "forward", "B": "gradient of the input", "W": "gradients of weights"}
    handles = [Patch(facecolor=looks[k][0], edgecolor="black", label=names[k]) for k in "FBW"]
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.35), ncols=3, fontsize=9)
    ax.set_yticks(range(STAGES), [f"stage {i}" for i in range(STAGES)])
    ax.set(xlim=(0, end), ylim=(STAGES - 0.5, -0.5), xlabel="time")
    ax.set_title(f"Your schedule ends at {end}; 1F1B ends at {PLAIN}, the bound is {BOUND}")
    ax.grid(False)
    rows = drawn(_stages(student, STAGES, MICRO_BATCHES))
    return fig, f"Time line of your schedule, a pass a unit of time:\n{rows}"
