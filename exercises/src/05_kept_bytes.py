# ---
# mark: 1
# minutes: 10
# help: worked
# needs: [saved tensor, activation checkpointing]
# draws:
#   DROPOUT: [0.1, 0.0]
#   LAYERS: [3, 5, 8]
# ---

# %% [markdown]
# # The highest point
#
# A model has $L$ layers. For each of them somebody has chosen what is recomputed: `"none"`,
# `"selective"` or `"full"`. Dropout is {{DROPOUT}}. How many bytes of activations are held at the
# highest point of the step?
#
# Backward goes from the last layer to the first. What a layer has not kept is made again when
# backward comes to it, and stands there together with what it has kept. When backward leaves the
# layer, all of it is gone. Count as in the lesson: 16 bits, one byte for a number of a mask,
# attention weights written out.
#
# `after_forward` is the worked example. It is right for dropout 0.1 and for the moment when
# forward ends. By hand, with $5as/h = 64$ and two layers, the first `"full"`, the second
# `"selective"`: $2 + 34 = 36$, in units of $sbh$. Then backward makes the core of the second layer
# again: $36 + 64 = 100$. Then the second layer is gone, and the first is made again:
# $2 + 96 = 98$. The highest point is $100$.
#
# **Target:** {{LAYERS}} layers of MT-NLG ($s = 2048$, $b = 1$, $h = 20\,480$, $a = 128$), all with
# full recomputation and dropout {{DROPOUT}}, hold {{PEAK}} bytes; and the right number for any other
# choice. A puzzle: in which layer does it make no difference what you choose? (The picture below the
# last check answers, once all have passed.)

# %% tags=["target"]
numbers, weights = 2048 * 20480, 128 * 2048 * 2048
layer = 34 * numbers + 5 * weights if DROPOUT else 32 * numbers + 2 * weights
PEAK = 2 * numbers * (LAYERS - 1) + layer
LEFT, WHOLE = {
    0.1: (
        "Your dropout is that of the worked example: its `core` and its 34 hold here too.",
        "`whole` is `34 + core`.",
    ),
    0.0: (
        "Without dropout the lesson's section \"What other settings change\" says what falls away "
        "from the whole layer. Of the 34 that are left when the core is thrown away, the two masks "
        "outside the core fall away.",
        "Without dropout `whole` is `32 + 2 * a * s / h`, and `\"selective\"` keeps 32.",
    ),
}[DROPOUT]

# %%
def after_forward(ways, s, b, h, a):
    """Bytes that a model with dropout 0.1 holds when forward ends.

    ways: "none", "selective" or "full" for each layer, the first layer first.
    """
    core = 5 * a * s / h  # the attention weights, in units of sbh: softmax, mask, and after dropout
    keeps = {"none": 34 + core, "selective": 34, "full": 2}
    return s * b * h * sum(keeps[way] for way in ways)


# %% tags=["stub"]
def peak_bytes(ways, s, b, h, a):
    """The most bytes of activations that are held at once, with dropout {{DROPOUT}}.

    ways: "none", "selective" or "full" for each layer, the first layer first; at least one.
    """
    core = 5 * a * s / h  # right for dropout 0.1
    keeps = {"none": 34 + core, "selective": 34, "full": 2}  # so is this
    held = sum(keeps[way] for way in ways)  # forward is over
    raise NotImplementedError("walk back over the layers: made again, counted, gone")
    return s * b * h * held  # not the highest point yet


# %% [markdown] tags=["hint"]
# Take three layers, `"full"` each, and write down what is held while backward is in the last one,
# then in the one before it. Which tensors stand in memory twice? None.

# %% [markdown] tags=["hint"]
# While backward is in a layer, that layer holds what it would hold without recomputation, whatever
# was chosen for it. The layers before it hold what they keep. {{LEFT}}

# %% [markdown] tags=["hint"]
# ```python
# peak = 0
# for way in reversed(ways):
#     held += whole - keeps[way]  # made again
#     peak = max(peak, held)
#     held -= whole  # backward leaves the layer
# ```
# {{WHOLE}} Who has solved the puzzle needs no loop.

# %% [markdown] tags=["oral"]
# **Q.** All layers but one are `"full"`. For which layer is `"none"` free, in memory, and why?
#
# **A.** The last one. Backward begins there, so its inside stands on top of all other inputs in any
# case; to keep it changes nothing at the highest point, and saves one forward pass of a layer.
#
# **Q.** Selective recomputation for all layers of MT-NLG's shape: the peak is $34L + 64$. Why not
# $34L$, and why not $98L$?
#
# **A.** One core is made again at a time. It must be there while backward is in its layer, and it
# is freed before the next one is made.
#
# **Q.** For each choice, in which layer is the highest point?
#
# **A.** In the last. On the way back a layer is exchanged for the inside of the one before, which
# kept at most that inside; so what is held only falls.


# %% tags=["solution"]
def peak_bytes(ways, s, b, h, a):
    weights = a * s / h  # numbers in the attention weights, in units of sbh
    masked = {{DROPOUT}} > 0
    rest = 34 if masked else 32  # two masks outside the core
    whole = rest + (5 if masked else 2) * weights  # in the core a mask, and what it has passed
    keeps = {"none": whole, "selective": rest, "full": 2}
    held, peak = sum(keeps[way] for way in ways), 0
    for way in reversed(ways):
        held += whole - keeps[way]  # made again
        peak = max(peak, held)
        held -= whole  # backward leaves the layer
    return s * b * h * peak


# %% tags=["check"]
from minimtnlg.course.check import expect

_MT = 2048, 1, 20480, 128  # s, b, h, a
_SMALL = 24, 3, 20, 4


def _tensors(s, b, h, a):
    """[(bytes, part)] of what one layer keeps, tensor by tensor, in the order of forward."""
    numbers, weights = s * b * h, a * s * s * b
    wide, masks = 2 * 4 * numbers, DROPOUT > 0
    listed = [(2 * numbers, "input"), (2 * numbers, "rest"), (6 * numbers, "rest")]
    listed += [(2 * weights, "core")] + [(weights, "core"), (2 * weights, "core")] * masks
    listed += [(2 * numbers, "rest")] + [(numbers, "rest")] * masks
    listed += [(2 * numbers, "rest"), (2 * numbers, "rest"), (wide, "rest"), (wide, "rest")]
    return listed + [(numbers, "rest")] * masks


_KEEPS = {"none": ("input", "rest", "core"), "selective": ("input", "rest"), "full": ("input",)}


def _count(ways, s, b, h, a):
    """The highest point, by putting every tensor into memory and taking it out again."""
    memory, highest = {}, 0
    for layer, way in enumerate(ways):
        for i, (size, part) in enumerate(_tensors(s, b, h, a)):
            if part in _KEEPS[way]:
                memory[layer, i] = size
        highest = max(highest, sum(memory.values()))
    for layer in reversed(range(len(ways))):
        for i, (size, _) in enumerate(_tensors(s, b, h, a)):
            memory[layer, i] = size  # made again, unless it is there
        highest = max(highest, sum(memory.values()))
        memory = {place: size for place, size in memory.items() if place[0] != layer}
    return float(highest)


def _check(student, ways, sizes, look_at):
    s, b, h, a = sizes
    what = f"bytes at the highest point, {', '.join(ways)}; s {s}, b {b}, h {h}, a {a}"
    expect(student(list(ways), *sizes), _count(ways, *sizes), what, look_at)


def full_everywhere(student):
    """All layers with full recomputation: the target"""
    what = f"bytes at the highest point of {LAYERS} layers of MT-NLG, full recomputation"
    look_at = "the inputs of all layers, and the inside of the one that is being made again"
    expect(student(["full"] * LAYERS, *_MT), float(PEAK), what, look_at)
    _check(student, ["full"] * LAYERS, _SMALL, look_at)


def nothing_recomputed(student):
    """Without recomputation the highest point is the end of forward"""
    look_at = "everything is there already when backward begins"
    _check(student, ["none"] * LAYERS, _MT, look_at)
    _check(student, ["none"] * LAYERS, _SMALL, look_at)


def cores_recomputed(student):
    """Selective recomputation: one core at a time"""
    look_at = "one core is made again and used and freed before the next"
    _check(student, ["selective"] * LAYERS, _MT, look_at)


def a_choice_for_each_layer(student):
    """Every layer has a choice of its own"""
    look_at = "what do the layers before this one keep, and what does this one add?"
    _check(student, ["full", "selective"], _MT, look_at)
    _check(student, ["none", "full", "selective", "full"], _SMALL, look_at)


# %% tags=["hidden"]
def every_choice(student):
    """All choices for one, two and three layers"""
    from itertools import product

    look_at = "walk back by hand: which layers are still there?"
    for layers in (1, 2, 3):
        for ways in product(_KEEPS, repeat=layers):
            _check(student, ways, _SMALL, look_at)


def of_real_layers(student):
    """As what autograd keeps of the package's layer"""
    import torch
    from torch.autograd.graph import saved_tensors_hooks

    from minimtnlg.config import Model
    from minimtnlg.model import GPT, Draw
    from minimtnlg.model.layers import recomputed

    s, b, h, a = 32, 2, 32, 4
    config = Model(
        layers=1, hidden=h, heads=a, seq=s, vocab=64, dropout=DROPOUT, attention="readable"
    )
    draw = Draw(seed=1, step=0, micro_batch=0)

    def kept(way):
        """Bytes kept by a layer, but for what the formula leaves out (lesson 05)."""
        recompute = "selective" if way == "selective" else "none"
        block = GPT(config, dtype=torch.bfloat16, recompute=recompute).blocks[0]
        x = torch.randn(s, b, h).to(torch.bfloat16).requires_grad_()
        weights = {p.untyped_storage().data_ptr() for p in block.parameters()}
        found = {}

        def pack(y):
            causal_mask = y.dtype == torch.bool and y.dim() == 2
            of_layer_norm = y.is_floating_point() and y.shape[-1] == 1
            if not (causal_mask or of_layer_norm):
                found[y.untyped_storage().data_ptr()] = y
            return y

        with saved_tensors_hooks(pack, lambda y: y):
            y = recomputed(block, x, draw) if way == "full" else block(x, draw)
        del y
        return sum(y.untyped_storage().nbytes() for at, y in found.items() if at not in weights)

    by_way = {way: kept(way) for way in _KEEPS}
    for ways in (["none", "none"], ["full", "full", "full"], ["selective", "full", "selective"]):
        right = sum(by_way[way] for way in ways[:-1]) + by_way["none"]
        what = f"bytes at the highest point, {', '.join(ways)}, by the saved tensors of real layers"
        expect(student(ways, s, b, h, a), float(right), what, "the lesson's list of terms")


# %% tags=["wrong"]
def _layer(s, h, a):
    """(whole layer, without its core) in units of sbh"""
    rest = 34 if DROPOUT else 32
    return rest + (5 if DROPOUT else 2) * a * s / h, rest


def _kept(ways, s, b, h, a):
    whole, rest = _layer(s, h, a)
    return s * b * h * sum({"none": whole, "selective": rest, "full": 2}[way] for way in ways)


def stops_at_the_end_of_forward(ways, s, b, h, a):
    """Caught by: full_everywhere. What is kept is taken for all that is ever there."""
    return _kept(ways, s, b, h, a)


def whole_layer_on_top(ways, s, b, h, a):
    """Caught by: full_everywhere. A whole layer is added, and its input counts twice."""
    return _kept(ways, s, b, h, a) + s * b * h * _layer(s, h, a)[0]


def all_layers_made_again(ways, s, b, h, a):
    """Caught by: full_everywhere. Backward is thought to make all layers again at once."""
    return s * b * h * len(ways) * _layer(s, h, a)[0]


def other_dropout(ways, s, b, h, a):
    """Caught by: full_everywhere. The terms of the other setting: masks are there or not."""
    rest = 32 if DROPOUT else 34
    whole = rest + (2 if DROPOUT else 5) * a * s / h
    keeps = {"none": whole, "selective": rest, "full": 2}
    return s * b * h * (sum(keeps[way] for way in ways[:-1]) + whole)


def masks_of_the_core_only(ways, s, b, h, a):
    """Caught by: cores_recomputed. The 34 is thought to have no dropout in it."""
    rest = 32 if DROPOUT else 34
    whole = _layer(s, h, a)[0]
    keeps = {"none": whole, "selective": rest, "full": 2}
    return s * b * h * (sum(keeps[way] for way in ways[:-1]) + whole)


def begins_at_the_first_layer(ways, s, b, h, a):
    """Caught by: a_choice_for_each_layer. Backward is walked in the order of forward."""
    return peak_bytes(list(ways)[::-1], s, b, h, a)


def adds_a_core_whatever_was_chosen(ways, s, b, h, a):
    """Caught by: nothing_recomputed. The last layer is made again although it was kept."""
    whole, rest = _layer(s, h, a)
    again = {"none": whole - 2, "selective": whole - rest, "full": whole - 2}
    return _kept(ways, s, b, h, a) + s * b * h * again[ways[-1]]


def adds_the_most_expensive_layer(ways, s, b, h, a):
    """Caught by: every_choice. What most is made again anywhere is added to all that is kept."""
    whole, rest = _layer(s, h, a)
    again = {"none": 0, "selective": whole - rest, "full": whole - 2}
    return _kept(ways, s, b, h, a) + s * b * h * max(again[way] for way in ways)


# %% tags=["picture"]
def way_back(student):
    """What is held while backward is in each layer; of an answer that is right."""
    import matplotlib.pyplot as plt

    lines = {}
    for way in _KEEPS:  # in layer i the layers behind it are gone: the peak of a shorter model
        models = [[way] * i for i in range(1, LAYERS + 1)]
        lines[way] = [student(ways, *_MT) for ways in models]
        expect(lines[way], [_count(ways, *_MT) for ways in models], way)
    fig, ax = plt.subplots(figsize=(5, 3.4))
    for way, held in lines.items():
        ax.plot(range(LAYERS), [x / 1e9 for x in held], marker="o", label=way)
    ax.invert_xaxis()
    ax.set(xticks=range(LAYERS), xlabel="backward is in layer", ylabel="GB held", ylim=(0, None))
    title = "Highest in the last layer, whatever is chosen:\nits own choice changes nothing"
    ax.set_title(title, fontsize=11)
    ax.legend()
    return fig, (
        "Bytes held while backward goes from the last layer to the first, for none, selective and "
        "full in all layers. Each line falls, and in layer 0 all are at one point: the inside of "
        "one layer. The highest point is in the last layer, so its own choice changes nothing."
    )
