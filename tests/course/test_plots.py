"""Figures that several lessons share say what they draw."""

import pytest
from matplotlib import pyplot as plt

from minimtnlg.course.plots import time_line
from minimtnlg.parallel.schedules import Forward, GPipe, Interleaved, OneFOneB
from minimtnlg.parallel.simulate import Simulation, Span, simulate


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def passes(ax):
    """{(stage, start, end): number written into the pass} of what is drawn."""
    texts = {(round(y), x): text.get_text() for text in ax.texts for x, y in [text.get_position()]}
    found = {}
    for bar in ax.patches:
        row, start, end = round(bar.get_y() + 0.41), bar.get_x(), bar.get_x() + bar.get_width()
        found[row, start, end] = texts.get((row, (start + end) / 2))
    return found


@pytest.mark.parametrize("schedule", [GPipe(pp=3, m=4), Interleaved(pp=2, m=2, virtual=2)])
def test_each_pass_is_drawn_where_it_was_simulated(schedule):
    simulation = simulate(schedule)
    _, ax = time_line(simulation, title="All wait")
    assert passes(ax) == {
        (row, start, end): str(op.micro_batch)
        for row, spans in enumerate(simulation.computing)
        for start, end, op in spans
    }
    assert ax.get_title(loc="left") or ax.get_title() == "All wait"
    assert ax.get_xlim() == (0, simulation.total)
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        f"stage {row}" for row in range(schedule.pp)
    ]


def test_directions_differ_in_grey_and_chunks_in_hatch():
    _, ax = time_line(simulate(Interleaved(pp=2, m=2, virtual=2)))
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == [f"{way}, chunk {i}" for i in (0, 1) for way in ("forward", "backward")]
    looks = [(sum(p.get_facecolor()[:3]), p.get_hatch()) for p in ax.get_legend().get_patches()]
    (dark, plain), (light, _), (same_dark, hatched), _ = looks
    assert light > dark + 1 and same_dark == dark and hatched and not plain
    _, ax = time_line(simulate(OneFOneB(pp=2, m=2)))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["forward", "backward"]


def test_time_lines_on_shared_axes_have_one_clock():
    _, axes = plt.subplots(2, 1, sharex=True)
    long, short = simulate(GPipe(pp=2, m=9)), simulate(GPipe(pp=2, m=1))
    time_line(long, axes[0])
    time_line(short, axes[1], legend=False)
    assert axes[1].get_xlim() == (0, long.total) and axes[1].get_legend() is None


def test_measured_spans_and_passes_too_short_for_a_number():
    spans = [Span(i / 1e4, (i + 1) / 1e4, Forward(i)) for i in range(500)]
    _, ax = time_line(Simulation([spans, []], [[], []], [0, 0], ""))
    assert len(ax.patches) == 500 and not ax.texts
    assert ax.get_xlim() == (0, 0.05)
