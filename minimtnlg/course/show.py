"""What a cell displays: a figure with its alternative text, a piece of the package's source."""

import inspect
import io
import os
from pathlib import Path

from minimtnlg.course.sources import ROOT

SVG_LIMIT = 60_000  # characters; above it a picture of pixels is smaller and draws faster
DPI = 144  # two pixels of the file for one of the page


def figure(fig, alt):
    """Display a matplotlib figure and close it.

    `alt` says in words what the figure shows, with the numbers that matter: it is the image's
    alternative text (output metadata, and `<desc>` in an SVG) and its text form.
    """
    import matplotlib.pyplot as plt
    from IPython.display import display

    alt = " ".join(alt.split())
    data, metadata = render(fig, alt)
    plt.close(fig)
    display(data, metadata=metadata, raw=True)


def render(fig, alt):
    """(data, metadata) of one display output: SVG where that is small, else PNG."""
    import base64

    svg = io.StringIO()
    nothing = {"Date": None, "Creator": None}  # so that the same figure is the same bytes
    fig.savefig(svg, format="svg", bbox_inches="tight", metadata=nothing)
    text = _described(svg.getvalue(), alt)
    if len(text) <= SVG_LIMIT:
        return {"image/svg+xml": text, "text/plain": alt}, {"image/svg+xml": {"alt": alt}}
    png = io.BytesIO()
    fig.savefig(png, format="png", bbox_inches="tight", dpi=DPI, metadata={"Software": None})
    raw = png.getvalue()
    width = int.from_bytes(raw[16:20], "big")  # of the PNG header
    data = {"image/png": base64.b64encode(raw).decode(), "text/plain": alt}
    return data, {"image/png": {"alt": alt, "width": width * 72 // DPI}}


def _described(svg, alt):
    """The SVG with role, label and <desc>, where screen readers look."""
    from xml.sax.saxutils import escape, quoteattr

    start = svg.index("<svg ")
    end = svg.index(">", start)
    opening = svg[start:end] + f' role="img" aria-label={quoteattr(alt)}>'
    return f"{opening}<desc>{escape(alt)}</desc>{svg[end + 1 :]}"


def show(obj):
    """Display the source of one class or function of the package, with a link to its file."""
    from IPython.display import display

    obj = inspect.unwrap(obj)
    source, line = inspect.getsourcelines(obj)
    code = inspect.cleandoc("\n" + "".join(source)).rstrip()
    file = Path(inspect.getsourcefile(obj)).resolve()
    place = file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else file.name
    # Lessons lie one folder below the repository, here and in work/.
    link = f"[`{place}`, line {line}](../{place}#L{line})"
    data = {
        "text/markdown": f"{link}\n\n```python\n{code}\n```",
        "text/plain": f"{place}, line {line}{os.linesep}{code}",
    }
    display(data, raw=True)
