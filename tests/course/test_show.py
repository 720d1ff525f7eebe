"""Figures carry their words, are the same bytes each time, and differ in more than colour."""

import base64
import xml.etree.ElementTree as ElementTree

import matplotlib
import pytest

matplotlib.use("agg")

import matplotlib.pyplot as plt  # noqa: E402

from minimtnlg.course import plots, show  # noqa: E402
from minimtnlg.errors import InputError  # noqa: E402

METRICS = [
    {"step": i, "tokens": 100 * i, "loss": 8 - i / 10, "valid_loss": 8.0 if i % 5 == 0 else None}
    for i in range(20)
]


@pytest.fixture(autouse=True)
def style():
    with matplotlib.rc_context():
        plots.style()
        yield
    plt.close("all")


@pytest.fixture
def shown(monkeypatch):
    """What was displayed: a list of (data, metadata)."""
    seen = []

    def display(data, metadata=None, raw=False):
        seen.append((data, metadata))

    monkeypatch.setattr("IPython.display.display", display)
    return seen


def test_small_figure_is_an_svg_with_its_alternative_text(shown):
    fig, ax = plt.subplots()
    ax.plot([1, 2], [3, 4])
    alt = 'Loss < 4 & "falling"'
    show.figure(fig, alt=alt)
    ((data, metadata),) = shown
    root = ElementTree.fromstring(data["image/svg+xml"])
    assert root.get("role") == "img" and root.get("aria-label") == alt
    assert root.find("{http://www.w3.org/2000/svg}desc").text == alt
    assert data["text/plain"] == metadata["image/svg+xml"]["alt"] == alt
    assert not plt.get_fignums(), "a shown figure is closed"


def test_large_figure_is_a_png_of_the_same_size_on_the_page():
    fig, ax = plt.subplots()
    ax.scatter(range(2000), range(2000))
    data, metadata = show.render(fig, "a line of points")
    raw = base64.b64decode(data["image/png"])
    pixels = int.from_bytes(raw[16:20], "big")
    assert metadata["image/png"] == {"alt": "a line of points", "width": pixels // 2}
    assert "image/svg+xml" not in data


def test_the_same_figure_is_the_same_bytes():
    def draw():
        return show.render(plots.loss_curve({"nano": METRICS})[0], "falls")

    assert draw() == draw()


def test_lines_differ_without_colour_and_in_lightness():
    cycle = plt.rcParams["axes.prop_cycle"].by_key()
    assert len({str(line) for line in cycle["linestyle"]}) == len(cycle["color"])
    assert len(set(cycle["marker"])) == len(cycle["color"])
    grey = [
        0.2126 * r + 0.7152 * g + 0.0722 * b
        for r, g, b in map(matplotlib.colors.to_rgb, cycle["color"])
    ]
    neighbours = zip(grey, grey[1:], strict=False)
    assert all(abs(one - other) > 0.1 for one, other in neighbours), grey


def test_loss_curve_draws_each_run_and_its_validation():
    fig, ax = plots.loss_curve({"a": METRICS, "b": METRICS[:5]}, x="step")
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["a", "a, validation", "b", "b, validation"]
    assert ax.get_xlabel() == "steps"
    with pytest.raises(InputError, match="'b'.*no 'hours'"):
        plots.loss_curve({"b": METRICS}, x="hours")


def test_show_prints_one_function_with_a_link(shown):
    show.show(plots.style)
    ((data, _),) = shown
    assert data["text/plain"].startswith("minimtnlg/course/plots.py, line ")
    assert "](../minimtnlg/course/plots.py#L" in data["text/markdown"]
    assert "def style():" in data["text/plain"] and "def loss_curve" not in data["text/plain"]


def test_show_of_a_method_begins_at_the_margin(shown):
    from minimtnlg.course.sources import Lesson

    show.show(Lesson.name.fget)
    assert "\ndef name(self):" in shown[0][0]["text/plain"]
