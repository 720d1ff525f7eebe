"""Every committed figure is read in grey, by eyes that see no hues, and by ears."""

import json
import re
from collections import Counter

import matplotlib
import pytest
from figure_rules import contrast, faults, lightness, words
from style_rules import breaches

from minimtnlg.course import plots, show
from minimtnlg.course.sources import ROOT, exercise_sources, lessons

matplotlib.use("agg")

from matplotlib import pyplot as plt  # noqa: E402

LESSONS = [lesson.name for lesson in lessons()]


def pictures(name):
    """[(cell, data, metadata)] of the figures of a committed lesson."""
    cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return [
        (cell["id"], output["data"], output["metadata"])
        for cell in cells
        for output in cell.get("outputs", [])
        if any(kind.startswith("image/") for kind in output.get("data", {}))
    ]


FIGURES = {name: pictures(name) for name in LESSONS}


@pytest.mark.parametrize("name", LESSONS)
def test_figures_are_legible_and_need_no_hues(name):
    svgs = [(cell, "".join(data.get("image/svg+xml", ""))) for cell, data, _ in FIGURES[name]]
    found = {cell: faults(svg) for cell, svg in svgs if svg}
    assert not {cell: lines for cell, lines in found.items() if lines}


@pytest.mark.parametrize("name", LESSONS)
def test_figures_say_what_is_seen(name):
    for cell, data, metadata in FIGURES[name]:
        (kind,) = (kind for kind in data if kind.startswith("image/"))
        alt = metadata[kind]["alt"]
        assert len(alt) >= 60 and len(alt.split()) >= 12, f"{cell}: {alt!r} says little"
        assert re.search(r"\d", alt) or len(alt) >= 150, f"{cell}: {alt!r} has no number"
        assert "".join(data["text/plain"]) == alt
        if svg := "".join(data.get("image/svg+xml", "")):
            assert alt.casefold() not in {said.casefold() for said in words(svg)}, f"{cell}: title"
            label, described = re.search(r'aria-label="([^"]*)"', svg), re.search(
                r"(?s)<desc>(.*?)</desc>", svg
            )  # fmt: skip
            assert label and described and described[1].split()[0] == alt.split()[0]


def test_no_two_figures_say_the_same():
    alts = Counter(
        list(metadata.values())[0]["alt"] for found in FIGURES.values() for *_, metadata in found
    )
    assert alts.total() > 100 and not [alt for alt, times in alts.items() if times > 1]


SOURCES = {source.path.stem: source for source in [*lessons(), *exercise_sources()]}


@pytest.mark.parametrize("stem", SOURCES)
def test_figures_have_the_one_style(stem):
    code = [cell.source for cell in SOURCES[stem].cells if cell.cell_type == "code"]
    found = {source[:60]: breaches(source) for source in code if "{{" not in source}
    assert not {source: lines for source, lines in found.items() if lines}


@pytest.mark.parametrize(
    "code, said",
    [
        ("plt.rcParams['font.size'] = 20", "rcParams"),
        ("ax.plot(x, color='red')", "take a colour"),
        ("ax.plot(x, 'r--')", "take a colour"),
        ("ax.plot(x, c='C3')", "take a colour"),
        ("fills = ['#ff0000']", "no colour of"),
        ("fills = ['#0072B2']", "no colour of"),  # there as COLOURS["blue"]
        ("ax.imshow(x, cmap='jet')", "rise evenly"),
        ("ax.text(0, 0, 'x', fontsize=6)", "8 points"),
    ],
)
def test_a_style_of_its_own_is_named(code, said):
    assert said in " ".join(breaches(code))


def test_colours_of_the_course_pass():
    assert breaches("ax.bar(x, y, color=COLOURS['blue'], ec='black', hatch='//')") == []
    assert breaches("ax.plot(x, '#F6D58E', c='0.7', mfc='#dddddd')") == []


def drawn(draw):
    """Faults of the figure that `draw(axes)` makes."""
    with matplotlib.rc_context():
        plots.style()
        fig, ax = plt.subplots()
        draw(ax)
        data, _ = show.render(fig, "a figure")
    plt.close(fig)
    return " ".join(faults(data["image/svg+xml"]))


def bars(ax, *looks):
    for i, look in enumerate(looks):
        ax.bar([i], [1], label=f"bar {i}", **look)
    ax.legend()


@pytest.mark.parametrize(
    "draw, said",
    [
        (lambda ax: ax.text(0.5, 0.5, "tiny", fontsize=7), "letters of 7.0 points"),
        (lambda ax: ax.text(0.5, 0.5, "pale", color="#bbbbbb"), "contrast of 1.9"),
        (lambda ax: (ax.barh(0, 1, color=plots.COLOURS["green"]),
                     ax.text(0.5, 0, "38", color="white")), "contrast of 3.4"),
        (lambda ax: bars(ax, dict(color=plots.COLOURS["sky"]), dict(color=plots.COLOURS["orange"])),
         "differ by 1 of L* alone"),
        (lambda ax: [ax.plot([0, i], color=c, ls="-", marker="", label=str(i)) for i, c in
                     enumerate((plots.COLOURS["red"], plots.COLOURS["blue"]))] and ax.legend(),
         "of L* alone"),
        (lambda ax: ax.figure.set_figwidth(14), "points wide"),
    ],
)  # fmt: skip
def test_a_figure_that_is_hard_to_see_is_named(draw, said):
    assert said in drawn(draw)


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: bars(ax, dict(color=plots.COLOURS["sky"]),
                        dict(color=plots.COLOURS["orange"], hatch="//")),
        lambda ax: bars(ax, dict(color=plots.COLOURS["blue"]), dict(color=plots.COLOURS["sky"])),
        lambda ax: [ax.plot([0, i], label=str(i)) for i in range(7)] and ax.legend(),
        lambda ax: (ax.barh(0, 1, color="black"), ax.text(0.5, 0, "38", color="white")),
    ],
)  # fmt: skip
def test_a_figure_that_differs_in_more_than_hue_passes(draw):
    assert drawn(draw) == ""


def test_lightness_and_contrast_are_those_of_the_standards():
    assert round(lightness("#ffffff")) == 100 and lightness("#000000") == 0
    assert round(lightness("#777777"), 1) == 50.0
    assert round(contrast("#000000", "#ffffff"), 6) == 21
    assert round(contrast("#767676", "#ffffff"), 2) == 4.54  # the lightest grey that is legible
