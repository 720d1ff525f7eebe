"""The one style of all figures: legible, the same bytes at each build, and readable in grey.

Every line differs by colour, line style and marker at once, so that neither colour vision nor a
colour printer is needed. The colours are those of Okabe and Ito (2008), yellow left out, which is
too light for lines, ordered so that neighbours differ in lightness.
"""

from minimtnlg.errors import InputError

COLOURS = {
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
