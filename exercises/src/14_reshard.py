# ---
# mark: 2
# minutes: 30
# help: empty
# needs: [box, checkpoint, sharding]
# draws:
#   PLACE: [offset, end]
#   ROWS: [8, 10]
# ---

# %% [markdown]
# # Put it back together
#
# A run was saved by some layout: nobody knows which, and there may be no rule behind its cuts. Each
# rank has left a file, here a dict `{key: ({{PLACE}}, tensor)}`. The tensor is a box of the whole
# tensor of that name, and `{{PLACE}}` says where in the whole it {{BEGINS}}, in each dimension{{COMMENT}}.
#
# - A file may lack a key. A box may be empty, as where there are more ranks than rows. Boxes may
#   have any sizes.
# - The same numbers may be in several files, as those of replicas. Then they are the same bits, and
#   any copy will do.
# - Numbers may be missing, since a file was lost. An invented number is worse than an error.
#
# **Target:** `read(files, key, offset, shape)` returns a new tensor: the box of `shape` at
# `offset`, with the type of what was saved and bit for bit its numbers. It raises a ValueError that
# says how many numbers are missing, if it is not all there. A key that no file has is a KeyError.
# Tensors have one dimension or more.
#
# To try it: `small` is a matrix of {{ROWS}} x 4, saved by two slices. All of it is
# `read(small, "w", (0, 0), ({{ROWS}}, 4))`.

# %%
import torch

whole = torch.arange(4.0 * ROWS).view(ROWS, 4)
small = [{"w": ({{LEFT}}, whole[:, :2])}, {"w": ({{RIGHT}}, whole[:, 2:])}]


# %% tags=["target"]
BEGINS, COMMENT = {
    "offset": ("begins", ""),
    "end": ("ends", ": where the next number after it would be"),
}[PLACE]
LEFT, RIGHT = {"offset": ("(0, 0)", "(0, 2)"), "end": (f"({ROWS}, 2)", f"({ROWS}, 4)")}[PLACE]
AT = {
    "offset": "place",
    "end": "[e - n for e, n in zip(place, tensor.shape, strict=True)]",
}[PLACE]


# %% tags=["stub"]
def read(files, key, offset, shape):
    """The box of `shape` at `offset` of the tensor `key`, put together from `files`.

    files: a list of {key: ({{PLACE}}, tensor)}. ValueError where numbers are missing, KeyError where
    no file has the key.
    """
    raise NotImplementedError("make a tensor, copy into it what each file has in common with it")


# %% [markdown] tags=["hint"]
# For one file and one dimension: the common part begins at the larger of the two beginnings and
# ends at the smaller of the two ends. Where is this part in the file's tensor, and where in your
# result?

# %% [markdown] tags=["hint"]
# A sum of sizes does not tell whether something is missing: a number may have come twice. Keep a
# second tensor of the same shape, of `bool`, and note in it which numbers have arrived.

# %% [markdown] tags=["hint"]
# ```python
# for place, tensor in boxes:
#     at = {{AT}}
#     here, there = [], []           # slices of the result, of the file's tensor
#     for d in range(len(shape)):
#         begin = max(at[d], offset[d])
#         end = max(begin, min(at[d] + tensor.shape[d], offset[d] + shape[d]))
#         here.append(slice(begin - offset[d], end - offset[d]))
#         there.append(slice(begin - at[d], end - at[d]))
#     result[tuple(here)] = tensor[tuple(there)]
# ```
# The `max(begin, ...)` makes an empty slice where nothing is common, instead of a negative one.
# Without it a slice such as `5:-3` would take what nobody meant.


# %% tags=["solution"]
def read(files, key, offset, shape):
    boxes = [file[key] for file in files if key in file]
    if not boxes:
        raise KeyError(key)
    result = torch.empty(shape, dtype=boxes[0][1].dtype)
    arrived = torch.zeros(shape, dtype=torch.bool)
    for box in boxes:
        place, tensor = box
        at = {{AT}}
        here, there = [], []
        for d, (mine, size) in enumerate(zip(offset, shape, strict=True)):
            begin = max(at[d], mine)
            end = max(begin, min(at[d] + tensor.shape[d], mine + size))
            here.append(slice(begin - mine, end - mine))
            there.append(slice(begin - at[d], end - at[d]))
        if arrived[tuple(here)].numel():
            result[tuple(here)] = tensor[tuple(there)]
            arrived[tuple(here)] = True
    if missing := (~arrived).sum().item():
        raise ValueError(f"{missing} numbers of {key} are missing")
    return result


# %% [markdown] tags=["oral"]
# **Q.** Why is it not enough to count the numbers that were copied?
#
# **A.** Replicas leave the same numbers more than once. Two copies of one half are as many numbers as
# the whole, and half of the result was never written. What counts is which places have arrived.
#
# **Q.** Two hundred ranks read one checkpoint into another layout. Does any of them need to know how
# it was cut, or hold a whole tensor?
#
# **A.** Neither. Each asks for its own box and takes from each file what the two have in common. The
# places that are written beside the tensors are all that is needed.


# %% tags=["check"]
import random

from minimtnlg.course.check import Feedback, expect


def _bits(x):
    """The numbers as bits: -0.0 is not 0.0, and a NaN equals itself."""
    return x.contiguous().view(-1).view(torch.uint8).tolist()


def _numbers(shape, dtype=torch.float32, seed=14):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=g).to(dtype)


def _saved(x, boxes, key="w"):
    """A file for each (offset, shape), with copies of those numbers of `x`."""
    return [{key: _entry(offset, x[_at(offset, shape)].clone())} for offset, shape in boxes]


def _entry(offset, tensor):
    """What a file has of a box that begins at `offset`."""
    end = tuple(o + n for o, n in zip(offset, tensor.shape, strict=True))
    return (tuple(offset) if PLACE == "offset" else end), tensor


def _at(offset, shape):
    return tuple(slice(o, o + n) for o, n in zip(offset, shape, strict=True))


def _look(student, x, boxes, offset, shape, what, look_at):
    """Ask for a box of `x` that was saved as `boxes`; type, shape and bits have to be right."""
    files = _saved(x, boxes)
    right = x[_at(offset, shape)]
    said = f"{what}: the box {tuple(shape)} at {tuple(offset)} of {tuple(x.shape)}"
    try:
        got = student(files, "w", offset, shape)
    except ValueError as error:
        text = f"ValueError: {error}"
        raise Feedback(said, "a tensor; every number is in a file", text, look_at) from None
    if not isinstance(got, torch.Tensor):
        raise Feedback(said, "a tensor", type(got).__name__, "return what you have filled")
    expect(str(got.dtype), str(x.dtype), f"{said}, its type", "make the result of a box's type")
    expect(list(got.shape), list(right.shape), f"{said}, its shape", "the shape that was asked for")
    if x.dtype == torch.float32:
        expect(got, right, said, look_at)
    if _bits(got) != _bits(right):
        raise Feedback(f"{said}, its bits", "those that were saved", "others", look_at)


def _missing(student, x, boxes, offset, shape, count, what, look_at):
    """Ask for numbers of which `count` are in no file."""
    said = f"{what}: {count} numbers of the box {tuple(shape)} at {tuple(offset)} are in no file"
    try:
        got = student(_saved(x, boxes), "w", offset, shape)
    except ValueError as error:
        if str(count) not in str(error):
            look = "count the numbers of the wanted box that no file has had"
            raise Feedback(said, f"a text with {count} in it", str(error), look) from None
        return
    got = got.tolist() if isinstance(got, torch.Tensor) else got
    raise Feedback(said, "ValueError", got, look_at)


SLICES = [((0, 0), (8, 2)), ((0, 2), (8, 2))]


def boxes_in_common(student):
    """The whole matrix, and a box of it, from two slices"""
    look_at = f"{PLACE} says where a file's box {BEGINS} in the whole, offset where yours begins"
    slices = [((0, 0), (ROWS, 2)), ((0, 2), (ROWS, 2))]
    for offset, shape in (((0, 0), (ROWS, 4)), ((2, 1), (3, 2))):
        _look(student, _numbers((ROWS, 4)), slices, offset, shape, "two slices", look_at)


def rows_of_it(student):
    """Rows across both slices, as ZeRO wants them"""
    look_at = "where the common part is in the wanted box, and where in the file's: two offsets"
    for first in (0, 2, 5):
        _look(student, _numbers((8, 4)), SLICES, (first, 0), (3, 4), "three rows", look_at)


def one_dimension(student):
    """A bias of unequal parts, one of them empty"""
    boxes = [((0,), (5,)), ((5,), (0,)), ((5,), (1,)), ((6,), (3,))]
    look_at = "take sizes from the tensors; a tensor has as many dimensions as its offset"
    for first, size in ((0, 9), (4, 3), (5, 1), (8, 1)):
        _look(student, _numbers((9,)), boxes, (first,), (size,), "a bias", look_at)


def says_what_is_missing(student):
    """A lost file is a ValueError with the count"""
    x, look_at = _numbers((8, 4)) + 10, "note which numbers have arrived; zeros look like numbers"
    _missing(student, x, SLICES[:1], (0, 0), (8, 4), 16, "one slice is lost", look_at)
    _missing(student, x, SLICES[:1], (3, 1), (2, 2), 2, "one slice is lost", look_at)
    _missing(student, x, SLICES[:1], (0, 2), (8, 2), 16, "all that is wanted is lost", look_at)
    look_at = "only what is wanted has to be there"
    _look(student, x, SLICES[:1], (2, 0), (4, 2), "one slice is lost, the other wanted", look_at)


def keeps_the_type(student):
    """float64 and bfloat16 stay what they are, bit for bit"""
    for dtype in (torch.float64, torch.bfloat16):
        x = _numbers((8, 4), dtype)
        look_at = "copy into a result of the same type"
        _look(student, x, SLICES, (0, 0), (8, 4), str(dtype), look_at)
        x[0, 0], x[4, 1] = -0.0, float("inf")
        look_at = "copy these as they are: -0.0 + 0.0 is 0.0, and a zero is a number, no hole"
        what = f"{dtype} with a -0.0 and an infinity"
        _look(student, x, SLICES, (0, 0), (8, 4), what, look_at)


# %% tags=["hidden"]
def replicas_and_holes(student):
    """What came twice does not make up for what never came"""
    x = _numbers((6, 2))
    twice = [((0, 0), (4, 2)), ((0, 0), (4, 2)), ((2, 0), (4, 2))]
    look_at = "numbers may be in several files: write them again, don't add, don't count twice"
    _look(student, x, twice, (0, 0), (6, 2), "replicas", look_at)
    _look(student, x, twice, (1, 1), (4, 1), "replicas", look_at)
    holes = [((0, 0), (3, 2)), ((0, 0), (3, 2)), ((1, 0), (2, 2))]
    look_at = "a count of copied numbers counts some twice; note for each whether it has arrived"
    _missing(student, x, holes, (0, 0), (6, 2), 6, "replicas of the upper half", look_at)


def nan_is_a_number(student):
    """A NaN that was saved is no missing number"""
    x = torch.full((4, 4), float("nan"))
    boxes = [((0, 0), (4, 3)), ((0, 3), (4, 1))]
    files = _saved(x, boxes)
    try:
        got = student(files, "w", (1, 1), (2, 3))
    except ValueError as error:
        look_at = "mark what has arrived beside the numbers, not by a special number"
        raise Feedback("a box of NaN, all of it saved", "the NaN", str(error), look_at) from None
    expect(got.isnan().all().item(), True, "whether the saved NaN came back", "copy, don't repair")


def whole_numbers(student):
    """int64, where a NaN can't mark what is missing"""
    x = torch.arange(2**60, 2**60 + 24).view(4, 6)
    boxes = [((0, 0), (4, 5)), ((0, 5), (4, 1))]
    look_at = "copy into a result of the same type; through a float the last digits are lost"
    _look(student, x, boxes, (1, 2), (3, 4), "int64", look_at)


def any_cut(student):
    """Random cuts in 1 to 3 dimensions, boxes far apart and touching"""
    for seed in range(60):
        draw = random.Random(seed)
        shape = [draw.randint(1, 7) for _ in range(draw.choice((1, 2, 3)))]
        boxes = [((0,) * len(shape), tuple(shape))]
        for _ in range(draw.randint(0, 6)):  # cut one of the boxes in two, perhaps into nothing
            at, size = boxes.pop(draw.randrange(len(boxes)))
            d = draw.randrange(len(shape))
            first = draw.randint(0, size[d])
            for begin, n in ((0, first), (first, size[d] - first)):
                offset, part = list(at), list(size)
                offset[d], part[d] = at[d] + begin, n
                boxes.append((tuple(offset), tuple(part)))
        offset = [draw.randrange(n) for n in shape]
        size = [draw.randint(1, n - o) for n, o in zip(shape, offset, strict=True)]
        look_at = "where two boxes have nothing in common, a slice can come out negative"
        x, what = _numbers(shape, seed=seed), f"{len(boxes)} boxes"
        _look(student, x, boxes, offset, size, what, look_at)


def an_empty_box(student):
    """Who wants nothing gets nothing, without complaint"""
    look_at = "a rank without rows asks too: the answer has the wanted shape and type"
    x = _numbers((8, 4), torch.bfloat16)
    _look(student, x, SLICES[:1], (8, 0), (0, 4), "no rows", look_at)


def leaves_the_files(student):
    """The result is new: changing it changes no file"""
    x = _numbers((8, 4))
    files = _saved(x, SLICES)
    got = student(files, "w", (0, 0), (8, 2))
    got.fill_(7.0)
    after = files[0]["w"][1]
    look_at = "a view of a file's tensor is the file's tensor; copy"
    expect(after, x[:, :2], "the file's tensor after your result was overwritten", look_at)


def other_keys(student):
    """Only what is asked for; an unknown key is a KeyError"""
    x, y = _numbers((4, 2)), _numbers((4, 2), seed=15)
    files = [*_saved(x, [((0, 0), (4, 2))]), *_saved(y, [((0, 0), (4, 2))], "b"), {}]
    look_at = "a file may lack the key, and has others"
    expect(student(files, "b", (0, 0), (4, 2)), y, "b, where the first file has w alone", look_at)
    try:
        got = student(files, "c", (0, 0), (4, 2))
    except KeyError:
        return
    except ValueError as error:
        got = f"ValueError: {error}"
    raise Feedback("a key that no file has", "KeyError", got, "not even its type is known")


# %% tags=["wrong"]
def _boxes(files, key):
    """[(where it begins, tensor)] of all files that have the key."""
    boxes = [file[key] for file in files if key in file]
    if PLACE == "offset":
        return boxes
    return [
        (tuple(e - n for e, n in zip(end, x.shape, strict=True)), x) for end, x in boxes
    ]


def _copied(files, key, offset, shape, start, put=None, clip=True, sizes=None):
    """What most wrong answers share: (result, how many numbers were copied)."""
    boxes = _boxes(files, key)
    if not boxes:
        raise KeyError(key)
    result, count = start(boxes[0][1].dtype), 0
    for at, tensor in boxes:
        here, there = [], []
        for d in range(len(shape)):
            begin = max(at[d], offset[d])
            end = min(at[d] + tensor.shape[d], offset[d] + shape[d])
            if clip:
                end = max(begin, end)
            here.append(slice(begin - offset[d], end - offset[d]))
            there.append(slice(begin - at[d], end - at[d]))
        part = tensor[tuple(there)]
        if put:
            put(result, tuple(here), part)
        else:
            result[tuple(here)] = part.to(result.dtype)
        count += part.numel()
    return result, count


def silent_zeros(files, key, offset, shape):
    """Caught by: says_what_is_missing. What no file has stays zero, and training goes on."""
    return _copied(files, key, offset, shape, lambda t: torch.zeros(shape, dtype=t))[0]


def counts_the_copied(files, key, offset, shape):
    """Caught by: replicas_and_holes. Replicas make up for what is missing."""
    result, count = _copied(files, key, offset, shape, lambda t: torch.empty(shape, dtype=t))
    if count < result.numel():
        raise ValueError(f"{result.numel() - count} numbers are missing")
    return result


def adds_up(files, key, offset, shape):
    """Caught by: keeps_the_type. Sums parts, as a reduce-scatter would: -0.0 is lost."""

    def put(result, here, part):
        result[here] += part

    result, count = _copied(files, key, offset, shape, lambda t: torch.zeros(shape, dtype=t), put)
    if count < result.numel():
        raise ValueError(f"{result.numel() - count} numbers are missing")
    return result


def always_float32(files, key, offset, shape):
    """Caught by: keeps_the_type. torch.zeros without a type."""
    read(files, key, offset, shape)
    return _copied(files, key, offset, shape, lambda t: torch.zeros(shape))[0]


def nan_means_missing(files, key, offset, shape):
    """Caught by: nan_is_a_number. Fills with NaN and takes every NaN for a hole."""
    result, _ = _copied(files, key, offset, shape, lambda t: torch.full(shape, torch.nan, dtype=t))
    if missing := result.isnan().sum().item():
        raise ValueError(f"{missing} numbers are missing")
    return result


def zero_means_missing(files, key, offset, shape):
    """Caught by: keeps_the_type. Fills with zeros and takes every zero for a hole."""
    result, _ = _copied(files, key, offset, shape, lambda t: torch.zeros(shape, dtype=t))
    if missing := (result == 0).sum().item():
        raise ValueError(f"{missing} numbers are missing")
    return result


def negative_slices(files, key, offset, shape):
    """Caught by: any_cut. Where nothing is common, the slice ends before it begins."""
    result, _ = _copied(
        files, key, offset, shape, lambda t: torch.empty(shape, dtype=t), clip=False
    )
    read(files, key, offset, shape)
    return result


def equal_parts(files, key, offset, shape):
    """Caught by: one_dimension. Takes the i-th file for the i-th of equal parts."""
    parts = [file[key][1] for file in files if key in file]
    dim = 1 if parts[0].dim() > 1 else 0
    size = parts[0].shape[dim]
    result = parts[0].new_zeros(shape)
    read(files, key, offset, shape)
    for i, part in enumerate(parts):
        box = [0] * part.dim()
        box[dim] = i * size
        ends = tuple(o + n for o, n in zip(box, part.shape, strict=True))
        moved = [{key: (tuple(box) if PLACE == "offset" else ends, part)}]
        result += _copied(moved, key, offset, shape, lambda t: torch.zeros(shape, dtype=t))[0]
    return result


def concatenates_columns(files, key, offset, shape):
    """Caught by: one_dimension. All tensors are cut like a row-parallel matrix."""
    joined = torch.cat([file[key][1] for file in files if key in file], dim=1)
    if joined.shape[1] < offset[1] + shape[1]:
        missing = shape[0] * (offset[1] + shape[1] - max(joined.shape[1], offset[1]))
        raise ValueError(f"{missing} numbers are missing")
    return joined[tuple(slice(o, o + n) for o, n in zip(offset, shape, strict=True))].clone()


def asks_for_too_much(files, key, offset, shape):
    """Caught by: says_what_is_missing. Builds the whole first, and all of that has to be there."""
    boxes = _boxes(files, key)
    ends = [[o + n for o, n in zip(at, x.shape, strict=True)] for at, x in boxes]
    ends += [[o + n for o, n in zip(offset, shape, strict=True)]]
    if offset[-1] + shape[-1] <= 2 and len(boxes) == 1 and boxes[0][1].dim() == 2:
        ends += [[8, 4]]  # as large as it was when all files were there
    whole = tuple(map(max, zip(*ends, strict=True)))
    everything = read(files, key, (0,) * len(whole), whole)
    return everything[tuple(slice(o, o + n) for o, n in zip(offset, shape, strict=True))].clone()


def one_file_is_enough(files, key, offset, shape):
    """Caught by: boxes_in_common. Looks for a single file that has all of it."""
    for file in files:
        try:
            return read([file], key, offset, shape)
        except (KeyError, ValueError):
            pass
    raise ValueError(f"{torch.Size(shape).numel()} numbers are missing")


def offset_of_the_file(files, key, offset, shape):
    """Caught by: boxes_in_common. Writes each part at the beginning of the result."""
    result = read(files, key, offset, shape)
    for file in files:
        if key in file:
            part = file[key][1]
            at = tuple(slice(0, min(n, m)) for n, m in zip(part.shape, shape, strict=True))
            result[at] = part[at]
    return result


def the_other_corner(files, key, offset, shape):
    """Caught by: boxes_in_common. The place of a box is taken for its other corner."""
    sign = 1 if PLACE == "end" else -1
    moved = [
        {k: (tuple(p + sign * n for p, n in zip(place, x.shape, strict=True)), x)
         for k, (place, x) in file.items()}
        for file in files
    ]  # fmt: skip
    return read(moved, key, offset, shape)


def hands_out_a_view(files, key, offset, shape):
    """Caught by: leaves_the_files. Where one file has it all, nothing needs to be copied."""
    result = read(files, key, offset, shape)
    for at, x in _boxes(files, key):
        inside = all(a <= o and o + n <= a + m for a, o, n, m in
                     zip(at, offset, shape, x.shape, strict=True))  # fmt: skip
        if inside:
            return x[tuple(slice(o - a, o - a + n) for a, o, n in
                           zip(at, offset, shape, strict=True))]  # fmt: skip
    return result


def complains_about_nothing(files, key, offset, shape):
    """Caught by: an_empty_box. No common part at all is taken for a lost file."""
    if 0 in shape:
        raise ValueError("0 numbers found, some are missing")
    return read(files, key, offset, shape)


def unknown_is_missing(files, key, offset, shape):
    """Caught by: other_keys. A wrong name is reported as lost numbers."""
    try:
        return read(files, key, offset, shape)
    except KeyError:
        raise ValueError(f"{torch.Size(shape).numel()} numbers are missing") from None


def through_a_float(files, key, offset, shape):
    """Caught by: whole_numbers. Everything goes through float64, which seems wide enough."""
    read(files, key, offset, shape)
    dtype = next(file[key][1].dtype for file in files if key in file)
    return _copied(files, key, offset, shape, lambda t: torch.zeros(shape).double())[0].to(dtype)
