# ---
# mark: 2
# minutes: 20
# help: half
# needs: [roofline, wave]
# draws:
#   ROWS: [300, 513]
#   COLUMNS: [256, 400]
#   MEMORY: [works beside, works before]
# ---

# %% [markdown]
# # Tiles and waves
#
# A GPU with `sms` multiprocessors multiplies $[m, k]$ by $[k, n]$. How long does it take?
#
# - The result is cut into tiles of `rows` by `columns`; what is left at an edge is a tile, too.
# - Each multiprocessor computes one tile at a time. A tile takes $2 \cdot$ rows $\cdot$ columns
#   $\cdot k$ FLOPs, at `rate` FLOP/s *of one multiprocessor*, whether it is full or not.
# - As many tiles as there are multiprocessors make a wave; the last one takes as long as a full one.
# - The GPU takes the tile shape of `tiles` that is fastest.
# - The memory reads both operands and writes the result once, numbers of `size` bytes, at `memory`
#   bytes/s. {{RULE}}
#
# **Target:** m = {{ROWS}}, n = {{COLUMNS}}, k = 64 on 4 multiprocessors of 1e9 FLOP/s each, with tiles of 128 x
# 128 alone, and a memory of 1e8 bytes/s: {{TILES}} tiles, {{WAVES}} waves, {{SECONDS}} seconds.

# %%
import math

# %% tags=["target"]
TILES = -(-ROWS // 128) * -(-COLUMNS // 128)
WAVES = -(-TILES // 4)
_waves, _bytes = WAVES * 0.002097152, 2 * 64 * (ROWS + COLUMNS) + 2 * ROWS * COLUMNS
SECONDS = f"{max(_waves, _bytes / 1e8) if MEMORY == 'works beside' else _waves + _bytes / 1e8:.9f}"
RULE = {
    "works beside": "It works while the multiprocessors do: the longer of the two times counts.",
    "works before": "On this GPU the multiprocessors stand still meanwhile: the two times add up.",
}[MEMORY]
TOGETHER = {"works beside": "max", "works before": "sum"}[MEMORY]


# %% tags=["stub"]
def product_seconds(m, n, k, sms, rate, memory, tiles=((128, 128),), size=2):
    """Seconds of a product [m, k] x [k, n] on a GPU.

    sms      multiprocessors
    rate     FLOP/s of one of them
    memory   bytes/s of the whole GPU
    tiles    pairs (rows, columns) that the GPU can choose from
    size     bytes of a number
    """
    raise NotImplementedError("count tiles, then waves; take the best shape; then the bytes")
    best = math.inf
    for rows, columns in tiles:
        count = 1  # how many tiles of this shape?
        waves = 1  # how many waves are that?
        best = min(best, waves * count * (2 * rows * columns * k / rate))  # one tile's time each?
    moved = size * (m * k + k * n + m * n) / memory
    return best, moved  # which of them counts?


# %% [markdown] tags=["hint"]
# For one shape: how many tiles are there along m, how many along n? Rounded up, each.

# %% [markdown] tags=["hint"]
# `waves = math.ceil(tiles / sms)`. Each wave takes the time of one tile on one multiprocessor.

# %% [markdown] tags=["hint"]
# A wave takes as long as one tile, whatever their number: in the line with `min`, `count` is a factor
# too many. `moved` is right as it stands. The rule about the memory says what becomes of `best` and
# `moved`.

# %% tags=["solution"]
def product_seconds(m, n, k, sms, rate, memory, tiles=((128, 128),), size=2):
    best = min(
        math.ceil(math.ceil(m / rows) * math.ceil(n / columns) / sms)
        * (2 * rows * columns * k / rate)
        for rows, columns in tiles
    )
    moved = size * (m * k + k * n + m * n) / memory
    both = best, moved
    return {{TOGETHER}}(both)


# %% [markdown] tags=["oral"]
# **Q.** One row more, and a product takes nearly twice as long. How can that be?
#
# **A.** The row begins a new row of tiles, these no longer fit into the last wave, and a wave with a
# single tile takes as long as a full one. If there was one wave, there are two now.
#
# **Q.** Why does the GPU not always take the smallest tiles, which waste least at the edges?
#
# **A.** In this model they often win. A real multiprocessor is slower with small tiles: each number
# that is loaded is used in fewer products, so it waits for memory. The rate depends on the shape.


# %% tags=["check"]
from minimtnlg.course.check import expect

FAST = 1e30  # bytes/s, a memory that never counts


def the_target(student):
    """The product of the target, with this memory, a fast one and a slow one"""
    tiles = len(range(0, ROWS, 128)) * len(range(0, COLUMNS, 128))
    waves = len(range(0, tiles, 4)) * 0.002097152
    moved = 2 * (64 * ROWS + 64 * COLUMNS + ROWS * COLUMNS)
    for memory in (1e8, FAST, 1e6):
        right = waves + moved / memory
        if MEMORY == "works beside":
            right = max(waves, moved / memory)
        what = f"seconds of m = {ROWS}, n = {COLUMNS}, k = 64, memory {memory:g} bytes/s"
        expect(student(ROWS, COLUMNS, 64, 4, 1e9, memory), right, what,
               "first the waves alone; then both operands and the result")  # fmt: skip


def one_tile_more_is_a_wave_more(student):
    """The last wave takes as long as a full one"""
    expect(student(5 * 128, 128, 64, 4, 1e9, FAST), 0.004194304, "seconds of five tiles on four",
           "round the number of waves up")  # fmt: skip


def edges_are_tiles(student):
    """What is left at an edge is a tile"""
    expect(student(129, 257, 10, 100, 1e6, FAST), 0.32768, "seconds of six tiles on a hundred",
           "one wave, which takes as long as one whole tile")  # fmt: skip
    expect(student(129, 257, 10, 3, 1e6, FAST), 0.65536, "seconds of six tiles on three",
           "round up along each side by itself, then multiply")  # fmt: skip


def memory_is_a_floor(student):
    """Both operands are read, the result is written"""
    expect(student(128, 128, 1, 1, 1e30, 1e3), 2 * (128 + 128 + 128 * 128) / 1e3,
           "seconds of a product that is all bytes",
           "m k + k n + m n numbers of `size` bytes")  # fmt: skip
    expect(student(2, 3, 5, 1, 1e30, 62.0), 1.0, "seconds of [2, 5] x [5, 3] that is all bytes")

# %% tags=["hidden"]
def the_best_shape_is_taken(student):
    """Of several tile shapes the fastest"""
    shapes = ((256, 128), (128, 256), (64, 64))
    expect(student(256, 64, 8, 4, 1e6, FAST, shapes), 0.065536, "seconds with three shapes",
           "take the minimum over the shapes")  # fmt: skip
    shapes = ((128, 128), (256, 64), (128, 256))
    expect(student(256, 64, 8, 1, 1e6, FAST, shapes), 0.262144, "seconds with three other shapes",
           "rows go with m, columns with n; the smallest shape need not win")  # fmt: skip


def arithmetic_and_memory(student):
    """Arithmetic takes a second or two, and the memory one"""
    more = 0.0 if MEMORY == "works beside" else 1.0
    expect(student(128, 128, 128, 1, 4194304.0, 98304.0), 1.0 + more, "seconds of one and of one")
    expect(student(128, 128, 128, 1, 2097152.0, 98304.0), 2.0 + more, "seconds of two and of one",
           RULE)  # fmt: skip


def numbers_have_a_size(student):
    """Numbers of four bytes take twice the memory's time"""
    expect(student(8, 8, 8, 1, 1e30, 192.0, size=4), 4.0, "seconds with size=4")

# %% tags=["wrong"]
def _both(seconds, moved):
    return max(seconds, moved) if MEMORY == "works beside" else seconds + moved


def _product(m, n, k, sms, rate, memory, tiles, size, up=math.ceil, best=min, both=_both, reads=1):
    seconds = best(
        up(math.ceil(m / rows) * math.ceil(n / columns) / sms) * (2 * rows * columns * k / rate)
        for rows, columns in tiles
    )
    return both(seconds, size * (reads * (m * k + k * n) + m * n) / memory)


def forgets_the_last_wave(m, n, k, sms, rate, memory, tiles=((128, 128),), size=2):
    """Caught by: one_tile_more_is_a_wave_more. Waves are rounded down."""
    return _product(m, n, k, sms, rate, memory, tiles, size, up=lambda x: max(1, math.floor(x)))


def waves_may_be_parts(m, n, k, sms, rate, memory, tiles=((128, 128),), size=2):
    """Caught by: one_tile_more_is_a_wave_more. A part of a wave takes a part of its time."""
    return _product(m, n, k, sms, rate, memory, tiles, size, up=lambda x: max(1, x))


def cuts_the_area(m, n, k, sms, rate, memory, tiles=((128, 128),), size=2):
    """Caught by: edges_are_tiles. Tiles are the area of the result over that of a tile."""
    seconds = min(
        math.ceil(m * n / (rows * columns) / sms) * (2 * rows * columns * k / rate)
        for rows, columns in tiles
    )
    return _both(seconds, size * (m * k + k * n + m * n) / memory)


def takes_the_first_shape(m, n, k, sms, rate, memory, tiles=((128, 128),), size=2):
    """Caught by: the_best_shape_is_taken. The first shape is as good as any."""
    return _product(m, n, k, sms, rate, memory, tiles[:1], size)


def takes_the_slowest_shape(m, n, k, sms, rate, memory, tiles=((128, 128),), size=2):
    """Caught by: the_best_shape_is_taken. The slowest shape decides."""
    return _product(m, n, k, sms, rate, memory, tiles, size, best=max)


def swaps_the_sides(m, n, k, sms, rate, memory, tiles=((128, 128),), size=2):
    """Caught by: the_best_shape_is_taken. Rows are counted along n."""
    return _product(m, n, k, sms, rate, memory, [shape[::-1] for shape in tiles], size)


def takes_the_smallest_shape(m, n, k, sms, rate, memory, tiles=((128, 128),), size=2):
    """Caught by: the_best_shape_is_taken. Small tiles waste least, it thinks."""
    return _product(m, n, k, sms, rate, memory, [min(tiles, key=math.prod)], size)


def reads_one_operand_twice(m, n, k, sms, rate, memory, tiles=((128, 128),), size=2):
    """Caught by: memory_is_a_floor. k n is taken for m k."""
    seconds = _product(m, n, k, sms, rate, 1e30, tiles, size)
    return _both(seconds, size * (2 * m * k + m * n) / memory)


def as_another_gpu_does(m, n, k, sms, rate, memory, tiles=((128, 128),), size=2):
    """Caught by: arithmetic_and_memory. The sum where the longer time counts, or the other way."""
    other = (lambda x, y: x + y) if MEMORY == "works beside" else max
    return _product(m, n, k, sms, rate, memory, tiles, size, both=other)


def forgets_the_memory(m, n, k, sms, rate, memory, tiles=((128, 128),), size=2):
    """Caught by: memory_is_a_floor. Only the arithmetic counts."""
    return _product(m, n, k, sms, rate, memory, tiles, size, both=lambda x, y: x)


def only_writes(m, n, k, sms, rate, memory, tiles=((128, 128),), size=2):
    """Caught by: memory_is_a_floor. The operands are in the GPU already."""
    return _product(m, n, k, sms, rate, memory, tiles, size, reads=0)


def two_bytes_always(m, n, k, sms, rate, memory, tiles=((128, 128),), size=2):
    """Caught by: numbers_have_a_size. Numbers have two bytes."""
    return _product(m, n, k, sms, rate, memory, tiles, 2)
