"""The one style of all figures: legible, the same bytes at each build, and readable in grey.

Every line differs by colour, line style and marker at once, so that neither colour vision nor a
colour printer is needed. The colours are those of Okabe and Ito (2008), yellow left out, which is
too light for lines, ordered so that neighbours differ in lightness.
"""

from statistics import median

from minimtnlg.errors import InputError
from minimtnlg.parallel.layout import ORDER

COLOURS = {  # in lessons by these names; else black, white, greys and tints of these
    "blue": "#0072B2",
    "orange": "#E69F00",
    "red": "#D55E00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "black": "#000000",
    "pink": "#CC79A7",
}
_LINES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1))]
_MARKERS = ["o", "s", "^", "D", "v", "P", "X"]


def style():
    """Set matplotlib's defaults for every figure of the course."""
    import matplotlib
    from cycler import cycler

    matplotlib.rcParams.update(
        {
            "figure.figsize": (7, 4),
            "figure.dpi": 96,
            "font.size": 11,
            "axes.titlesize": 12,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.3,
            "lines.linewidth": 1.8,
            "lines.markersize": 5,
            "axes.prop_cycle": cycler(color=list(COLOURS.values()))
            + cycler(linestyle=_LINES)
            + cycler(marker=_MARKERS),
            "legend.frameon": False,
            "svg.hashsalt": "minimtnlg",  # ids in the file do not depend on the run
            "svg.fonttype": "path",  # looks the same without the font
        }
    )


def loss_curve(runs, x="tokens", title="Loss during training"):
    """Draw the loss of one or more runs.

    Parameters:
        runs   {label: metrics}; metrics is a list of the objects in `metrics.jsonl`, one a step
        x      which field is the horizontal axis: "tokens" or "step"
        title  of the figure

    Returns (figure, axes). Steps with a `valid_loss` are drawn as points of the same colour.
    InputError for a run without steps or without the field `x`.
    """
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots()
    for label, metrics in runs.items():
        if not metrics or x not in metrics[0]:
            known = ", ".join(metrics[0]) if metrics else "none, the run is empty"
            raise InputError(f"run {label!r}: its metrics have no {x!r}; they have {known}")
        every = max(1, len(metrics) // 10)  # a marker on each point would hide the line
        steps = [m for m in metrics if m.get("loss") is not None]
        (line,) = ax.plot(
            [m[x] for m in steps], [m["loss"] for m in steps], label=label, markevery=every
        )
        measured = [m for m in metrics if m.get("valid_loss") is not None]
        if measured:
            ax.plot(
                [m[x] for m in measured],
                [m["valid_loss"] for m in measured],
                linestyle="none",
                marker="*",
                markersize=9,
                color=line.get_color(),
                label=f"{label}, validation",
            )
    units = {"tokens": "tokens seen", "step": "steps"}
    ax.set(xlabel=units.get(x, x), ylabel="loss (nats per token)", title=title)
    ax.legend()
    return fig, ax


def time_line(simulation, ax=None, title="", legend=True):
    """Draw who computes when in a pipeline: a row for each stage, time from left to right.

    Parameters:
        simulation  a parallel.simulate.Simulation; measured Spans in one are drawn as well
        ax          where to draw; axes that share x get one clock. None: a new figure
        title       of the axes
        legend      whether to explain the looks, on the right

    Returns (figure, axes). Forward passes are dark, backward passes light, and each bears the
    number of its micro-batch where there is room to read it. Chunks after the first are hatched.
    The text twin for a lesson is `print(simulation)`.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import MaxNLocator

    stages, right = simulation.computing, simulation.total
    if ax is None:
        _, ax = plt.subplots(figsize=(7.5, 0.9 + 0.36 * len(stages)))
    elif not ax.get_autoscalex_on():  # another time line is there
        right = max(right, ax.get_xlim()[1])
    points = 72 * ax.figure.get_figwidth() * ax.get_position().width  # wide are the axes
    several = any(op.chunk for spans in stages for *_, op in spans)
    legible = 8 if several else 5  # points; a digit on a hatch has to be large
    lengths = {}
    for start, end, op in (span for spans in stages for span in spans):
        lengths.setdefault(type(op), []).append(end - start)
    usual = {kind: median(found) for kind, found in lengths.items()}  # all have numbers or none
    looks = {}
    for row, spans in enumerate(stages):
        for start, end, op in spans:
            look, ink = _look(op)
            looks.setdefault((op.chunk, type(op).__name__), look)
            ax.barh(row, end - start, 0.82, start, clip_on=False, **look)  # the last one's edge too
            text = str(op.micro_batch)
            per_length = points / right / (0.62 * len(text) + 0.3)
            size = min(8, (end - start) * per_length)
            if size >= 5 and usual[type(op)] * per_length >= legible:
                around = [
                    withStroke(
                        linewidth=2.4 if look["hatch"] else 1.8, foreground=look["facecolor"]
                    )
                ]
                middle = dict(ha="center", va="center_baseline", clip_on=True)
                font = dict(color=ink, fontsize=size, path_effects=around)
                ax.text((start + end) / 2, row, text, **middle, **font)
    if legend:
        handles = [
            Patch(label=kind.lower() + (f", chunk {chunk}" if several else ""), **look)
            for (chunk, kind), look in sorted(looks.items(), key=lambda x: (x[0][0], x[0][1] < "F"))
        ]
        ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
    ax.set_yticks(range(len(stages)), [f"stage {row}" for row in range(len(stages))])
    ax.set(xlim=(0, right), ylim=(len(stages) - 0.5, -0.5), xlabel="time", title=title)
    if right >= 4:  # in passes, not in seconds
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.tick_params(axis="y", length=0)
    ax.grid(False)
    return ax.figure, ax


def on_nodes(layout, axis, gpus_per_node=8, order=ORDER, ax=None, title=""):
    """Draw which links the groups along `axis` use, with the ranks on GPUs as Layout.node says.

    Parameters:
        layout                a parallel.layout.Layout, of 16 ranks at most to be legible
        axis                  "tp", "pp" or "dp"
        gpus_per_node, order  as in Layout.node
        ax, title             where to draw, None: a new figure; title of the axes

    Returns (figure, axes). Squares are GPUs with their ranks, boxes are nodes. Links inside a node
    are solid arcs, links between nodes dashed ones; layout.links counts them.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Arc, Rectangle

    if ax is None:
        _, ax = plt.subplots(figsize=(7, 2.4))
    at = {rank: layout.node(rank, gpus_per_node, order) for rank in range(layout.world)}
    x = {rank: node * (gpus_per_node + 0.8) + gpu for rank, (node, gpu) in at.items()}
    nodes = 1 + max(node for node, _ in at.values())
    for node in range(nodes):
        left = node * (gpus_per_node + 0.8) - 0.6
        box = dict(facecolor="#eeeeee", edgecolor="black", lw=0.8)
        ax.add_patch(Rectangle((left, -0.7), gpus_per_node + 0.2, 1.15, **box))
        ax.text(left + gpus_per_node / 2, -1.05, f"node {node}", ha="center", va="top", fontsize=9)
    for rank in range(layout.world):
        box = dict(facecolor="white", edgecolor="black", lw=0.8)
        ax.add_patch(Rectangle((x[rank] - 0.36, -0.5), 0.72, 0.72, **box))
        ax.text(x[rank], -0.16, rank, ha="center", va="center", fontsize=9)
        group = layout.group(rank, axis)
        after = group[(group.index(rank) + 1) % len(group)]
        if len(group) > 2 or rank < after:  # a ring of two has one link
            inside = at[rank][0] == at[after][0]
            look = dict(color=COLOURS["blue" if inside else "red"], ls="-" if inside else "--")
            wide = abs(x[rank] - x[after])
            middle = (x[rank] + x[after]) / 2, 0.22
            ax.add_patch(Arc(middle, wide, 0.9 * wide**0.7, theta1=0, theta2=180, lw=1.6, **look))
    right = nodes * (gpus_per_node + 0.8) - 1
    ax.set(xlim=(-0.9, right), ylim=(-1.9, 0.4 + 0.45 * right**0.7), xticks=[], yticks=[])
    ax.set_title(title)
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax.figure, ax


def _look(op):
    """(how a pass is drawn, the colour of its number)."""
    look = dict(lw=0.5, hatch=("", "///", "...", "xxx")[op.chunk % 4])
    if type(op).__name__ == "Forward":
        return look | dict(facecolor=COLOURS["blue"], edgecolor="#A6D5F2"), "white"
    return look | dict(facecolor="#F6D58E", edgecolor="#9A6A00"), "black"
