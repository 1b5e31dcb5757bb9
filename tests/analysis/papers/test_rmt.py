"""RMT's figures: what stands where, with all runs, some and none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from matplotlib.figure import Figure

from analysis.papers import rmt
from analysis.studies import Study
from tests.analysis.papers.lines import assert_note, filled, hollow, xs, ys
from tests.analysis.papers.made_recurrent import SCALING, SEGMENTS, made

FIGURES: list[tuple[Callable[[Study], Figure], str]] = [
    (rmt.segments_figure, "rmt_segments"),
    (rmt.memory_size_figure, "rmt_memory_size"),
    (rmt.gradient_figure, "rmt_bptt"),
    (rmt.scaling_figure, "rmt_scaling"),
]


@pytest.mark.parametrize("which", ["all", "half", "none"])
@pytest.mark.parametrize(("draw", "name"), FIGURES)
def test_a_figure_says_what_is_missing(draw: Callable[[Study], Figure], name: str, which: str) -> None:
    assert_note(draw(made(name, which)), name, which)


def test_ours_and_the_papers_segments_stand_side_by_side() -> None:
    copy = rmt.segments_figure(made("rmt_segments")).axes[0]
    ours = filled(copy)
    assert set(ours) == set(rmt.VARIANTS)
    assert xs(ours["rmt"]) == list(SEGMENTS)
    assert ys(ours["rmt"])[1] == pytest.approx(0.4 + 0.3 * (0.3 + 0.15 + 0.16 - 0.025) + 0.001 - 0.0002)
    theirs = hollow(copy)["Transformer-XL, rmt (published)"]
    assert xs(theirs) == [1, 3, 6, 9]
    assert ys(theirs) == [1.0, 1.0, 0.967, 0.278]
    assert theirs.get_markerfacecolor() == "none"
    upright = [line for line in copy.lines if line.get_linestyle() == ":" and len(set(xs(line))) == 1]
    assert [xs(line)[0] for line in upright] == [6]


def test_the_table_of_segments_leaves_out_the_first() -> None:
    line = rmt.segments_table(made("rmt_segments")).splitlines()[5]
    mean = 0.4 + 0.3 * (0.3 + 0.15 + 0.16 - 0.025) + 0.001 - 0.0004
    assert line.startswith(f"| `rmt` | {mean:.3f} (")
    assert "n = 3" in line


def test_memory_sizes_are_lines_and_places() -> None:
    figure = rmt.memory_size_figure(made("rmt_memory_size"))
    above, _, below, _ = figure.axes
    assert xs(filled(above)["rmt"]) == [1, 2, 4, 8, 16, 24]
    assert xs(filled(above)["transformer_xl"]) == [1, 24]
    assert list(filled(below)) == [f"rmt, {size} slots" for size in (1, 2, 4, 8, 16, 24)]
    assert ys(hollow(below)["RMT, rmt (published)"]) == [1.0, 1.0]


def test_an_uncut_gradient_stands_last() -> None:
    text, copy, paper = rmt.gradient_figure(made("rmt_bptt")).axes
    assert xs(filled(text)["rmt"]) == [1, 2, 4, 8]
    assert [label.get_text() for label in text.get_xticklabels()][-1] == "never"
    assert ys(filled(copy)["memformer"])[-1] > ys(filled(copy)["memformer"])[0]
    assert ys(hollow(paper)["RMT, 10 slots, rmt (published)"]) == [30.69, 27.95, 26.62, 26.37, 26.25]


def test_bounds_are_no_points_of_figure_5() -> None:
    figure = rmt.scaling_figure(made("rmt_scaling"))
    assert filled(figure.axes[0])["ours, trained on up to 7"].get_xdata().tolist() == list(SCALING)
    assert len(hollow(figure.axes[0])["RMT, BERT, rmt_1m (published)"].get_xdata()) == 12
    memorise = hollow(figure.axes[3])["trained on 2, rmt_1m (published)"]
    assert ys(memorise)[:4] == pytest.approx([1.0, 1.0, 0.996, 0.906])
    assert hollow(figure.axes[3])["trained on 1, rmt_1m (published)"].get_xdata().tolist() == [1]
