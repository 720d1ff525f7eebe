"""The picture on README: 2 240 GPUs and how MT-NLG lies on them, drawn from its Layout.

    python docs/picture.py        # writes docs/picture.svg

From the cluster to one replica, to one node, to one layer: each step down is one way to cut. Every
place comes from `Layout.place` and `Layout.node`, every number from the preset. It is plain SVG,
the same bytes each time, on a white card, so that it reads in light and dark mode; letters are
large enough for a phone, and nothing is told by colour alone.
"""

from pathlib import Path

from minimtnlg import config as configuration
from minimtnlg.course.plots import COLOURS
from minimtnlg.parallel.layout import Layout, virtual_stages
from minimtnlg.plan.estimate import job_of
from minimtnlg.plan.memory import parameters

FILE = Path(__file__).with_name("picture.svg")
WIDE, HIGH, LEFT, RIGHT = 840, 856, 18, 822
DATA, PIPE, TENSOR, INK, PALE = COLOURS["blue"], COLOURS["red"], COLOURS["green"], "#222", "#D8DCE0"
CONFIG = configuration.sized(configuration.load("mtnlg-530b"))
LAYOUT = Layout(tp=CONFIG.parallel.tp, pp=CONFIG.parallel.pp, dp=CONFIG.parallel.dp)
# The GPU that the picture leads to: of the last replica, since a row at the edge hides no other.
HERE = LAYOUT.place(LAYOUT.rank(pp=LAYOUT.pp // 2, dp=LAYOUT.dp - 1, tp=2))
STEP = (RIGHT - 100) / LAYOUT.pp  # from stage to stage in the cluster
ROW, TOP = 17, 76  # from replica to replica; the first one's top
CHAIN, NODES, LAST = 336, 504, 780  # tops of the lower parts


def number(x):
    """2240 as 2 240."""
    return f"{x:,}".replace(",", "\u00a0")


def box(x, y, wide, high, fill="none", line="none", width=1.0, round=0.0):
    """A rectangle."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high:.1f}" fill="{fill}" '
        f'stroke="{line}" stroke-width="{width}" rx="{round}"/>'
    )


def words(x, y, text, size=19, fill=INK, weight="normal", anchor="start"):
    """A line of text; y is where it stands."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}" font-weight="{weight}" '
        f'text-anchor="{anchor}">{text}</text>'
    )


def told(y, head, colour, *lines):
    """A heading in the colour of its axis and what follows it, a line each."""
    parts = [words(LEFT, y, head, 21, colour, "bold")]
    return parts + [words(LEFT, y + 25 * i, line) for i, line in enumerate(lines, 1)]


def light(x, wide, y, below, across, until, colour):
    """The beam from a part, x to x + wide at height y, to what shows it larger."""
    points = f"{x:.1f},{y} {x + wide:.1f},{y} {below + across:.1f},{until} {below:.1f},{until}"
    return f'<polygon points="{points}" fill="{colour}" fill-opacity="0.13"/>'


def squares(places, wide, high, fill):
    """Many equal squares as one path."""
    path = "".join(f"M{x:.1f} {y:.1f}h{wide}v{high}h-{wide}z" for x, y in places)
    return f'<path d="{path}" fill="{fill}"/>'


def cluster():
    """All ranks: a row for each replica, a node for each of its stages, a dot for each slice."""
    dots = {True: [], False: []}
    for rank in range(LAYOUT.world):
        place, (_, gpu) = LAYOUT.place(rank), LAYOUT.node(rank)
        x = 100 + place.pp * STEP + (gpu % 4) * 4.5
        y = TOP + place.dp * ROW + (gpu // 4) * 6
        dots[place.dp == HERE.dp].append((x, y))
    middle = TOP + LAYOUT.dp * ROW / 2
    row = TOP + HERE.dp * ROW
    return [
        squares(dots[False], 3.8, 5, "#9AA5B1"),
        squares(dots[True], 3.8, 5, DATA),
        box(96, row - 3, RIGHT - 96 + 2, ROW, line=DATA, width=1.6),
        words(461, TOP - 12, f"{LAYOUT.pp} nodes in a row, one for each stage", anchor="middle"),
        words(LEFT, middle - 18, f"{LAYOUT.dp}", 34, DATA, "bold"),
        words(LEFT, middle + 4, "replicas", 18),
        *told(
            TOP + LAYOUT.dp * ROW + 32,
            f"Data parallel: {LAYOUT.dp} replicas share the batch", DATA,
            f"Each row holds the whole model and reads {CONFIG.train.global_batch // LAYOUT.dp} of "
            f"the {number(CONFIG.train.global_batch)} sequences of a step.",
            "Once a step the rows add up their gradients.",
        ),
    ]  # fmt: skip


def replica():
    """One row: its stages, with the layers of each."""
    each, parts = (RIGHT - LEFT) / LAYOUT.pp, []
    for stage, layers in enumerate(virtual_stages(CONFIG.model.layers, LAYOUT.pp)):
        x, chosen = LEFT + stage * each, stage == HERE.pp
        parts.append(box(x + 1.5, CHAIN, each - 3, 48, "white", PIPE if chosen else "#666",
                         2.4 if chosen else 1))  # fmt: skip
        bar = 40 / len(layers)
        parts += [
            box(x + 5, CHAIN + 4 + i * bar, each - 10, bar - 3, PIPE if chosen else PALE)
            for i in range(len(layers))
        ]
    arrow = "M{0} {1}H{2}m-9 -5l9 5l-9 5"
    return [
        *parts,
        f'<path d="{arrow.format(LEFT + 110, CHAIN - 12, RIGHT - 2)}" fill="none" stroke="{INK}" '
        'stroke-width="1.8"/>',
        words(LEFT, CHAIN - 6, "one replica", 18),
        *told(
            CHAIN + 78, f"Pipeline parallel: {LAYOUT.pp} stages share the layers", PIPE,
            f"{CONFIG.model.layers // LAYOUT.pp} of the {CONFIG.model.layers} layers lie on each "
            "node. Activations travel from stage to stage,",
            "gradients come back; micro-batches follow each other, so that few nodes wait.",
        ),
    ]  # fmt: skip


def node():
    """One node: its GPUs, and which of them is the one that the picture leads to."""
    parts, size = [box(LEFT, NODES, 264, 138, "white", PIPE, 2.4, 6)], 54
    for slice_ in range(LAYOUT.tp):
        rank = LAYOUT.rank(HERE.pp, HERE.dp, slice_)
        _, gpu = LAYOUT.node(rank)
        x, y, chosen = LEFT + 14 + gpu % 4 * 61, NODES + 12 + gpu // 4 * 62, rank == mine()
        parts.append(box(x, y, size, size - 2, TENSOR if chosen else PALE, INK, 1, 4))
        ink = "white" if chosen else INK
        parts.append(words(x + size / 2, y + 33, slice_, 20, ink, "bold", "middle"))
    return [*parts, words(LEFT, NODES + 162, f"one node: {LAYOUT.tp} GPUs, one stage", 18)]


def layer():
    """One layer: its four matrices, true to scale, each cut in slices; one GPU's are filled."""
    h, x = 35, 330
    parts = [words(x, NODES + 22, "one layer: four matrices", 18)]
    shapes = (("QKV", 3, 1, True), ("out", 1, 1, False), ("up", 4, 1, True), ("down", 1, 4, False))
    for name, wide, high, columns in shapes:
        wide, high = wide * h, high * h
        y = NODES + 69 - high / 2
        across, down = (wide / LAYOUT.tp, high) if columns else (wide, high / LAYOUT.tp)
        for i in range(LAYOUT.tp):
            left, top = (x + i * across, y) if columns else (x, y + i * down)
            fill = TENSOR if i == HERE.tp else PALE
            parts.append(box(left, top, across, down, fill, "white", 0.6))
        parts.append(box(x, y, wide, high, line=INK))
        parts.append(words(x + wide / 2, NODES + 162, name, 18, anchor="middle"))
        x += wide
        if columns:
            parts.append(words(x + 11, NODES + 77, "\u00b7", 26, weight="bold", anchor="middle"))
            x += 22
        else:
            parts.append(words(x + 24, NODES + 78, "\u03a3", 26, TENSOR, "bold", "middle"))
            x += 48
    return parts


def mine():
    """The rank that the picture leads to."""
    return LAYOUT.rank(**HERE._asdict())


def picture():
    """The text of docs/picture.svg."""
    count = round(parameters(job_of(CONFIG))[HERE.pp])
    row, each = TOP + HERE.dp * ROW + ROW - 3, (RIGHT - LEFT) / LAYOUT.pp
    stage = LEFT + HERE.pp * each
    parts = [
        box(0.5, 0.5, WIDE - 1, HIGH - 1, "white", "#D0D7DE", 1, 10),
        light(96, RIGHT - 94, row, LEFT, RIGHT - LEFT, CHAIN - 30, DATA),
        light(stage + 1.5, each - 3, CHAIN + 48, LEFT, 264, NODES, PIPE),
        words(LEFT, 36, f"{number(LAYOUT.world)} GPUs train one model of "
              f"{round(CONFIG.model.parameters() / 1e9)} billion parameters", 25, weight="bold"),
        *cluster(), *replica(), *node(), *layer(),
        *told(NODES + 198, f"Tensor parallel: {LAYOUT.tp} slices share each matrix", TENSOR,
              "Two matrices are cut by columns, two by rows; after each pair the GPUs of a node",
              "add up (\u03a3) their results. The dark parts are those of one GPU."),
        words(LEFT, LAST + 24, f"So GPU {number(mine())} is slice {HERE.tp} of stage {HERE.pp} of "
              f"replica {HERE.dp}, and holds", 20, weight="bold"),
        words(LEFT, LAST + 51, f"{number(count)} of {number(CONFIG.model.parameters())} "
              "parameters.", 20, weight="bold"),
    ]  # fmt: skip
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {HIGH}" width="{WIDE}" '
        f'height="{HIGH}" font-family="Helvetica, Arial, sans-serif" role="img">'
    )
    return "\n".join([head, f"<title>{alt()}</title>", *parts, "</svg>", ""])


def alt():
    """What one sees, for those who don't."""
    return (
        f"How Megatron-Turing NLG lies on {LAYOUT.world} GPUs. {LAYOUT.dp} rows of "
        f"{LAYOUT.pp} nodes are {LAYOUT.dp} replicas, which share the batch. One row is shown "
        f"larger: {LAYOUT.pp} stages of {CONFIG.model.layers // LAYOUT.pp} layers each, which hand "
        f"on activations. One node is shown larger: {LAYOUT.tp} GPUs, each with one slice of every "
        "matrix of these layers. The four matrices of a layer are cut by columns or by rows, and "
        "one GPU's slices are filled."
    )


if __name__ == "__main__":
    FILE.write_text(picture(), encoding="utf-8")
    print(f"{FILE.name} is written, {len(picture()) / 1000:.0f} kB")
