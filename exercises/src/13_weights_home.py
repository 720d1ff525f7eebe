# ---
# mark: 3
# minutes: 45
# help: empty
# needs: [stage, schedule, column-parallel, row-parallel, adapter]
# draws:
#   QKV: ["queries, keys, values", "values, keys, queries", "keys, values, queries"]
#   CHUNKS: [interleaved, stacked]
# ---

# %% [markdown]
# # Bring the weights home
#
# Somebody has trained a GPT with an engine of their own, in slices, stages and chunks. Each rank
# has left what it holds: `ranks[stage, chunk, slice]` is a dict `{name: tensor}`. Put it together.
#
# - **Names** are Megatron's, as in the lesson. Layers are counted anew in each chunk. {{CHUNKS_RULE}}
#   Chunks may have different numbers of layers, also none.
# - **Slices.** The embedding and the matrices and biases of column-parallel layers (QKV, `fc1`) are
#   cut along dimension 0. The matrices of row-parallel layers (`proj`, `fc2`) are cut along
#   dimension 1. All else is whole on each slice.
# - **QKV.** A slice of it, matrix or bias, has three blocks of rows: {{QKV}}, of all its heads each.
#   (The first checkpoints of Megatron-LM had such blocks, queries first [S10].) Ours goes head by
#   head: queries, keys and values of head 0, then of head 1.
#
# **Target:** `bring_home` returns `{our name: whole tensor}`, exact to the last bit, for any such
# run. If two ranks disagree about a parameter that both have whole, the tied embedding included, it
# raises a ValueError whose text has our name of it.
#
# `from_megatron_name` renames, and knows that `output_layer.weight` is the embedding; the number of
# the layer is yours. To try it: `bring_home(small_run, 4)`, or with 2 heads. `small_run` has two
# stages of one layer, in two slices.

# %%
import torch

from minimtnlg.model.convert import from_megatron_name, megatron_name

SHAPES = {  # of half a layer with h = 8, under our names
    "attention_norm.weight": [8],
    "attention_norm.bias": [8],
    "attention.qkv.weight": [12, 8],
    "attention.qkv.bias": [12],
    "attention.out.weight": [8, 4],
    "attention.out.bias": [8],
    "mlp_norm.weight": [8],
    "mlp_norm.bias": [8],
    "mlp.up.weight": [16, 8],
    "mlp.up.bias": [16],
    "mlp.down.weight": [8, 16],
    "mlp.down.bias": [8],
}
g = torch.Generator().manual_seed(13)
small_run = {}
for stage in (0, 1):
    one, other = (
        {megatron_name(f"blocks.0.{name}"): torch.rand(x, generator=g) for name, x in SHAPES.items()}
        for _ in range(2)
    )
    both = {name: x for name, x in one.items() if list(x.shape) == [8]}  # whole on both slices
    small_run |= {(stage, 0, 0): one, (stage, 0, 1): other | both}


# %% tags=["target"]
CHUNKS_RULE = {
    "interleaved": "Chunk 0 of all stages comes before chunk 1 of all stages.",
    "stacked": "All chunks of stage 0 come before those of stage 1.",
}[CHUNKS]
IN_ORDER = {"interleaved": "at", "stacked": "at[::-1]"}[CHUNKS]
# At which place of a slice are the queries, the keys, the values?
_BLOCKS = [QKV.split(", ").index(kind) for kind in ("queries", "keys", "values")]
BLOCKS = "" if _BLOCKS == [0, 1, 2] else f"[{_BLOCKS}]"
CUT = f"x.unflatten(0, (3, heads, -1)){BLOCKS}"


# %% tags=["stub"]
def bring_home(ranks, heads):
    """{our name: whole tensor}; heads: of the whole model."""
    raise NotImplementedError("go through the chunks in the model's order, join slices, rename")


# %% [markdown] tags=["hint"]
# Forget slices and QKV at first. Sort the chunks into the order in which a token meets them, and
# keep a count of the layers before each of them. `name.split(".", 3)` takes a layer's number out of
# its name. How many layers does a chunk have? Its names say so.

# %% [markdown] tags=["hint"]
# For each name of a chunk, collect the tensors of all slices in a list. There are three cases:
# `torch.cat(parts)`, `torch.cat(parts, 1)`, and parts that all have to be equal. A row-parallel
# layer's bias belongs to the third. The tied embedding comes a second time, from the last chunk,
# also in slices.

# %% [markdown] tags=["hint"]
# A slice of QKV has `heads // slices` heads, so it is rows of the shape `(3, heads // slices,
# size)`. Put these into the order `(heads // slices, 3, size)` *before* the slices are joined:
#
# ```python
# blocks = x.unflatten(0, (3, heads // slices, -1)){{BLOCKS}}  # queries, keys, values
# blocks.transpose(0, 1).flatten(0, 2)
# ```
#
# Works for the matrix and for the bias.


# %% tags=["solution"]
COLUMNS = ("embedding.weight", "qkv.weight", "qkv.bias", "up.weight", "up.bias")
ROWS = ("out.weight", "down.weight")


def in_order(name, parts, heads):
    """Slices of QKV head by head, others as they are; heads: of a slice."""
    if ".qkv." not in name:
        return parts
    blocks = [{{CUT}} for x in parts]  # queries, keys, values
    return [x.transpose(0, 1).flatten(0, 2) for x in blocks]


def joined(name, parts):
    """The whole tensor of the slices `parts`."""
    if name.endswith((*COLUMNS, *ROWS)):
        return torch.cat(parts, 1 if name.endswith(ROWS) else 0)
    if not all(torch.equal(parts[0], part) for part in parts):
        raise ValueError(f"slices disagree about {name}")
    return parts[0]


def bring_home(ranks, heads):
    slices = len({slice_ for _, _, slice_ in ranks})
    whole, before = {}, 0
    places = {(chunk, stage) for stage, chunk, _ in ranks}
    for chunk, stage in sorted(places, key=lambda at: {{IN_ORDER}}):
        parts, layers = [ranks[stage, chunk, i] for i in range(slices)], set()
        for name in parts[0]:
            number = name
            if name.startswith("decoder.layers."):
                _, _, layer, rest = name.split(".", 3)
                layers.add(layer)
                number = f"decoder.layers.{before + int(layer)}.{rest}"
            ours = from_megatron_name(number)
            each = in_order(ours, [part[name] for part in parts], heads // slices)
            value = joined(ours, each)
            if ours in whole and not torch.equal(whole[ours], value):
                raise ValueError(f"stages disagree about {ours}")
            whole[ours] = value
        before += len(layers)
    return whole


# %% [markdown] tags=["oral"]
# **Q.** All shapes fit and no error comes, though the rows of QKV are in the wrong order. How would
# you notice?
#
# **A.** By computing with them: the loss of a batch is that of the run before, or it is not. Names,
# shapes and norms of the matrices say nothing, since the same rows are there.
#
# **Q.** Why is the bias of a column-parallel layer cut, and that of a row-parallel layer whole?
#
# **A.** The first is added to a slice's own outputs. The second is added to the whole output, after
# the sum over the slices, and each slice has that whole output. Added before, it would come in as
# many times as there are slices.


# %% tags=["check"]
import copy
import random

from minimtnlg.course.check import Feedback, expect

_LOOK = {
    "names": "how many layers come before this chunk, in the order of the model?",
    "qkv": "which rows of a slice belong to one head? Put them together before you join slices",
    "slices": "which dimension is cut, and what is not cut at all?",
    "tied": "output_layer is the embedding once more, from the last chunk, and cut as it is",
}


def _whole(layers, heads=4, size=2, vocab=12, seed=0):
    """Weights of a model under our names; every number is there once."""
    h, start = heads * size, seed
    shapes = {"embedding.weight": (vocab, h), "position.weight": (5, h)}
    for layer in range(layers):
        for norm in ("attention_norm", "mlp_norm"):
            shapes |= {f"blocks.{layer}.{norm}.{kind}": (h,) for kind in ("weight", "bias")}
        for name, out, into in (
            ("attention.qkv", 3 * h, h),
            ("attention.out", h, h),
            ("mlp.up", 4 * h, h),
            ("mlp.down", h, 4 * h),
        ):
            shapes[f"blocks.{layer}.{name}.weight"] = (out, into)
            shapes[f"blocks.{layer}.{name}.bias"] = (out,)
    shapes |= {"norm.weight": (h,), "norm.bias": (h,)}
    whole = {}
    for name, shape in shapes.items():
        count = torch.Size(shape).numel()
        whole[name] = torch.arange(start, start + count, dtype=torch.float64).view(shape)
        start += count
    return whole


def _sliced(name, x, i, slices, heads):
    """What slice i has of x."""
    if ".qkv." in name:
        size = len(x) // (3 * heads)
        mine = range(i * heads // slices, (i + 1) * heads // slices)
        rows = [
            (3 * head + ("queries", "keys", "values").index(kind)) * size + row
            for kind in QKV.split(", ")
            for head in mine
            for row in range(size)
        ]
        return x[rows]
    if name == "embedding.weight" or ".up." in name:
        each = len(x) // slices
        return x[i * each : (i + 1) * each].clone()
    if name.endswith(("out.weight", "down.weight")):
        each = x.shape[1] // slices
        return x[:, i * each : (i + 1) * each].clone()
    return x.clone()


def _left(whole, layers, slices=1, heads=4):
    """What the ranks leave; layers[chunk][stage] is how many layers are there."""
    chunks, stages, before, ranks = len(layers), len(layers[0]), 0, {}
    places = [(chunk, stage) for chunk in range(chunks) for stage in range(stages)]
    if CHUNKS == "stacked":
        places.sort(key=lambda place: (place[1], place[0]))
    for chunk, stage in places:
        local = {}
        if (chunk, stage) == (0, 0):
            local |= {name: name for name in ("embedding.weight", "position.weight")}
        for layer in range(layers[chunk][stage]):
            first = f"blocks.{before + layer}."
            inner = [name.removeprefix(first) for name in whole if name.startswith(first)]
            local |= {f"blocks.{layer}.{name}": first + name for name in inner}
        if (chunk, stage) == (chunks - 1, stages - 1):
            local |= {name: name for name in ("norm.weight", "norm.bias")}
        before += layers[chunk][stage]
        for i in range(slices):
            ranks[stage, chunk, i] = {
                megatron_name(mine): _sliced(name, whole[name], i, slices, heads)
                for mine, name in local.items()
            }
            if (chunk, stage) == (chunks - 1, stages - 1) and chunks * stages > 1:
                tied = _sliced("embedding.weight", whole["embedding.weight"], i, slices, heads)
                ranks[stage, chunk, i]["output_layer.weight"] = tied
    return ranks


def _say(layers, slices):
    chunks = "; ".join(f"chunk {i}: {', '.join(map(str, row))}" for i, row in enumerate(layers))
    return f"{slices} slice{'s' * (slices > 1)}, layers of each stage ({chunks})"


def _check(student, layers, slices=1, heads=4, look_at="names", order=None):
    whole = _whole(sum(map(sum, layers)), heads)
    ranks = _left(whole, layers, slices, heads)
    if order is not None:
        draw = random.Random(order)
        shuffled = [(place, list(local.items())) for place, local in ranks.items()]
        for _, items in shuffled:
            draw.shuffle(items)
        draw.shuffle(shuffled)
        ranks = {place: dict(items) for place, items in shuffled}
    what = f"a run with {_say(layers, slices)}"
    got = _answer(student, ranks, heads, whole, what, slices, sum(map(len, layers)))
    if not isinstance(got, dict) or set(got) != set(whole):
        absent = [name for name in whole if not isinstance(got, dict) or name not in got]
        found = f"without {absent[0]}" if absent else f"and {min(set(got) - set(whole))}"
        raise Feedback(f"names in {what}", f"{len(whole)} of them", found, _LOOK["names"])
    for name, x in whole.items():
        expect(got[name], x, f"{name} in {what}", _LOOK["qkv" if "qkv" in name else look_at], tol=0)


def _answer(student, ranks, heads, whole, what, slices, chunks):
    """What the student returns; a refusal of a run in which nothing differs is put into words."""
    try:
        return student(ranks, heads)
    except ValueError as error:
        name = next((x for x in whole if x in str(error)), None)
        if name is None:  # no refusal, an error in the student's code
            raise
        look_at = _LOOK["tied"] if name == "embedding.weight" else ""
        if name.startswith("blocks.") and 1 in (slices, chunks):  # else it may be both
            look_at = _LOOK["names" if slices == 1 else "slices"]
        text = f"ValueError: {error}"
        raise Feedback(what, "an answer: no two ranks disagree", text, look_at) from None


def _refuses(student, ranks, name, what):
    try:
        got = student(ranks, 4)
    except ValueError as error:
        if name in str(error):
            return
        raise Feedback(what, f"a ValueError that names {name}", f"ValueError: {error}") from None
    answer = f"an answer with {len(got)} tensors" if isinstance(got, dict) else repr(got)
    look_at = "two ranks hold the same parameter: which of them is right?"
    raise Feedback(what, f"a ValueError that names {name}", answer, look_at)


def one_rank(student):
    """One rank with two layers: names, and QKV head by head"""
    _check(student, [[2]], look_at="qkv")


def two_stages(student):
    """Two stages of two layers: numbers of layers, the tied embedding"""
    _check(student, [[2, 2]])


def two_slices(student):
    """Two slices: what is cut, along which dimension, and what is not"""
    _check(student, [[1]], slices=2, look_at="slices")
    _check(student, [[1, 1]], slices=2, look_at="slices")


def copies_that_differ(student):
    """The embedding of the last stage has drifted away from that of the first"""
    ranks = _left(_whole(2), [[1, 1]])
    ranks[1, 0, 0]["output_layer.weight"][3, 1] += 1
    _refuses(student, ranks, "embedding.weight", "a run whose two embeddings differ")


# %% tags=["hidden"]
def two_chunks(student):
    """Two chunks a stage, in the order of the model"""
    _check(student, [[1, 1], [1, 1]])


def uneven(student):
    """Stages and chunks of different size, one without layers, twelve layers in all"""
    _check(student, [[2, 1, 0], [3, 2, 4]])
    _check(student, [[0, 3, 1, 2]])


def everything(student):
    """Four slices, three stages, two chunks, eight heads"""
    _check(student, [[1, 2, 1], [1, 0, 2]], slices=4, heads=8, look_at="slices")


def any_order(student):
    """Ranks and names come in any order"""
    for seed in range(3):
        _check(student, [[2, 1], [1, 8]], slices=2, order=seed)


def slices_that_differ(student):
    """A LayerNorm, then a bias, that is not the same on both slices, by very little"""
    for name in ("blocks.1.mlp_norm.weight", "blocks.1.attention.out.bias", "position.weight"):
        ranks = _left(_whole(2), [[1, 1]], slices=2)
        stage, local = (0, name) if "blocks" not in name else (1, name.replace(".1.", ".0."))
        ranks[stage, 0, 1][megatron_name(local)] *= 1 + 1e-9
        _refuses(student, ranks, name, f"a run whose slices differ in {name}")


def leaves_the_ranks_alone(student):
    """What the ranks left is not changed"""
    ranks = _left(_whole(3), [[1, 2]], slices=2)
    before = copy.deepcopy(ranks)
    student(ranks, 4)
    expect(ranks, before, "the ranks' tensors after the call", tol=0)


def keeps_the_type(student):
    """Weights in bfloat16 stay so"""
    ranks = {
        place: {name: x.bfloat16() for name, x in local.items()}
        for place, local in _left(_whole(1), [[1]], slices=2).items()
    }
    types = sorted({str(x.dtype) for x in student(ranks, 4).values()})
    expect(types, ["torch.bfloat16"], "the types of the weights, from ranks in bfloat16")


# %% tags=["wrong"]
def _rearranged(ranks, key):
    """The ranks with each chunk at another place: the solution then meets them in that order."""
    places = sorted({(chunk, stage) for stage, chunk, _ in ranks}, key=key)
    at = {place: index for index, place in enumerate(places)}
    return {(at[chunk, stage], 0, i): local for (stage, chunk, i), local in ranks.items()}


def numbers_as_they_are(ranks, heads):
    """Caught by: two_stages. Layer 0 of a later stage is put in the place of layer 0."""
    whole = {}
    for place in sorted({place[:2] for place in ranks}):
        one = {(0, 0, i): local for (*at, i), local in ranks.items() if tuple(at) == place}
        whole |= bring_home(one, heads)
    return whole


def the_other_order_of_chunks(ranks, heads):
    """Caught by: two_chunks. Stage after stage for chunk after chunk, or the other way round."""
    stacked = CHUNKS == "interleaved"
    return bring_home(_rearranged(ranks, key=lambda at: at[::-1] if stacked else at), heads)


def chunks_of_one_size(ranks, heads):
    """Caught by: uneven. Each chunk is thought to have as many layers as the first."""
    whole, size = {}, 0
    places = sorted({(c, s) for s, c, _ in ranks})
    if CHUNKS == "stacked":
        places.sort(key=lambda place: place[::-1])
    for index, (chunk, stage) in enumerate(places):
        one = {(0, 0, i): local for (s, c, i), local in ranks.items() if (c, s) == (chunk, stage)}
        for name, x in bring_home(one, heads).items():
            first, _, rest = name.partition(".")
            if first == "blocks":
                layer, _, rest = rest.partition(".")
                size = max(size, int(layer) + 1) if index == 0 else size
                name = f"blocks.{index * size + int(layer)}.{rest}"
            whole[name] = x
    return whole


def takes_qkv_as_it_is(ranks, heads):
    """Caught by: one_rank. The shapes fit, so the rows are thought to be in order."""
    mixed = bring_home(ranks, heads)
    for name, x in mixed.items():
        if ".qkv." in name:
            mixed[name] = x.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)
    return mixed


def blocks_the_other_way_round(ranks, heads):
    """Caught by: one_rank. The last block is taken for the queries, or the first for the values."""
    whole = bring_home(ranks, heads)
    for name, x in whole.items():
        if ".qkv." in name:
            whole[name] = x.unflatten(0, (heads, 3, -1)).flip(1).flatten(0, 2)
    return whole


def joins_then_sorts(ranks, heads):
    """Caught by: two_slices. The joined rows are taken for all queries, all keys, all values."""
    slices = len({i for *_, i in ranks})
    whole = bring_home(ranks, heads)
    for name, x in whole.items():
        if ".qkv." in name:
            parts = x.unflatten(0, (slices, heads // slices, 3, -1)).transpose(1, 2).flatten(0, 3)
            whole[name] = parts.unflatten(0, (3, heads, -1)).transpose(0, 1).flatten(0, 2)
    return whole


def joins_all_biases(ranks, heads):
    """Caught by: two_slices. A row-parallel layer's bias is thought to be cut like the others."""
    slices = len({i for *_, i in ranks})
    whole = bring_home(ranks, heads)
    return {
        name: torch.cat([x] * slices) if name.endswith(("out.bias", "down.bias")) else x
        for name, x in whole.items()
    }


def adds_biases(ranks, heads):
    """Caught by: two_slices. Each slice is thought to have its share of a row-parallel bias."""
    slices = len({i for *_, i in ranks})
    whole = bring_home(ranks, heads)
    return {
        name: x * slices if name.endswith(("out.bias", "down.bias")) else x
        for name, x in whole.items()
    }


def output_layer_is_whole(ranks, heads):
    """Caught by: two_slices. By its Megatron name, the tied embedding is not among what is cut."""
    tied = [local[name] for local in ranks.values() for name in local if "output_layer" in name]
    if not all(torch.equal(tied[0], x) for x in tied):
        raise ValueError("slices disagree about embedding.weight")
    return bring_home(ranks, heads)


def counts_each_slice(ranks, heads):
    """Caught by: two_slices. Layers are counted once for each slice."""
    slices = len({i for *_, i in ranks})
    whole = {}
    for name, x in bring_home(ranks, heads).items():
        first, _, rest = name.partition(".")
        layer, _, rest = rest.partition(".")
        whole[f"blocks.{int(layer) * slices}.{rest}" if first == "blocks" else name] = x
    return whole


def rows_are_rows(ranks, heads):
    """Caught by: two_slices. "Row-parallel" is taken for a cut of the first dimension."""
    slices = len({i for *_, i in ranks})
    whole = bring_home(ranks, heads)
    for name, x in whole.items():
        if name.endswith(ROWS):
            whole[name] = torch.cat(x.chunk(slices, 1))
    return whole


def first_rank_is_right(ranks, heads):
    """Caught by: copies_that_differ. Copies are the same, why look?"""
    first = {place: dict(local) for place, local in ranks.items()}
    for (stage, chunk, _), local in first.items():
        local.pop("output_layer.weight", None)
        for name in local:
            if "norm" in name or "position" in name or name.endswith(("proj.bias", "fc2.bias")):
                local[name] = ranks[stage, chunk, 0][name]
    return bring_home(first, heads)


def looks_at_the_embedding_alone(ranks, heads):
    """Caught by: slices_that_differ. Only the tied embedding is thought to be there twice."""
    first = {place: dict(local) for place, local in ranks.items()}
    for (stage, chunk, _), local in first.items():
        for name in local:
            if "norm" in name or "position" in name or name.endswith(("proj.bias", "fc2.bias")):
                local[name] = ranks[stage, chunk, 0][name]
    return bring_home(first, heads)


def nearly_equal_is_equal(ranks, heads):
    """Caught by: slices_that_differ. Copies that got the same updates differ by nothing at all."""
    rounded = {
        place: {name: x.float().to(x.dtype) for name, x in local.items()}
        for place, local in ranks.items()
    }
    return bring_home(rounded, heads)


def as_the_dict_has_them(ranks, heads):
    """Caught by: any_order. The order in which the ranks come is taken for that of the model."""
    seen = list(dict.fromkeys((chunk, stage) for stage, chunk, _ in ranks))
    return bring_home(_rearranged(ranks, key=seen.index), heads)
