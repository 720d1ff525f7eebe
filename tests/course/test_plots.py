"""Figures that several lessons share say what they draw."""

import pytest
from matplotlib import pyplot as plt
from matplotlib.patches import Arc

from minimtnlg.course.plots import on_nodes, time_line
from minimtnlg.parallel.layout import Layout
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


def test_short_passes_of_chunks_have_no_number_and_ticks_are_whole():
    schedule = Interleaved(pp=4, m=8, virtual=2)
    _, ax = time_line(simulate(schedule, forward=0.5, backward=1))
    written = {end - start: text for (_, start, end), text in passes(ax).items()}
    assert written[0.5] is None and written[1] is not None
    assert all(tick == round(tick) for tick in ax.get_xticks())
    late = [Span(i, i + 0.5 + (i == 9), Forward(i % 2, i // 2 % 2)) for i in range(30)]
    _, ax = time_line(Simulation([late], [[]], [0], ""))  # one sleeper among them is no exception
    assert not ax.texts


@pytest.mark.parametrize("order", [("pp", "dp", "tp"), ("tp", "dp", "pp")])
@pytest.mark.parametrize("axis", ["tp", "pp", "dp"])
def test_links_between_nodes_are_dashed_and_counted_as_layout_counts_them(axis, order):
    layout = Layout(tp=2, pp=2, dp=4)
    _, ax = on_nodes(layout, axis, 4, order, title="Who leaves the node?")
    arcs = [patch for patch in ax.patches if isinstance(patch, Arc)]
    dashed = sum(arc.get_linestyle() in ("--", "dashed") for arc in arcs)
    assert (len(arcs) - dashed, dashed) == layout.links(axis, 4, order)
    texts = [text.get_text() for text in ax.texts]
    assert [text for text in texts if "node" in text] == [f"node {i}" for i in range(4)]
    assert sorted(int(text) for text in texts if "node" not in text) == list(range(16))
    boxes = sorted((box.get_x(), box.get_width()) for box in ax.patches if box not in arcs)
    assert len(boxes) == 4 + 16
