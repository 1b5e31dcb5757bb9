"""Figures of filtered memory: the right numbers where they belong, and what is missing said in words."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.figure import Figure

from analysis.papers.filtered_memory import (
    CHANGES,
    decomposition_figure,
    decomposition_table,
    degradation_figure,
    degradation_table,
    filters_figure,
    memory_ends,
    sizes_figure,
    sizes_table,
    temperature_figure,
)
from analysis.studies import Study
from tests.analysis.papers.made_filtered_memory import study
from tests.analysis.papers.made_studies import nothing, seeds

FIGURES: list[tuple[Callable[[Study], Figure], str]] = [
    (sizes_figure, "filtered_sizes"),
    (decomposition_figure, "filtered_decomposition"),
    (filters_figure, "filtered_filters"),
    (degradation_figure, "filtered_degradation"),
    (temperature_figure, "filtered_temperature"),
]


def texts(figure: Figure) -> str:
    return " ".join(text.get_text().replace("\n", " ") for text in figure.texts) + figure.get_supxlabel()


@pytest.mark.parametrize(("draw", "name"), FIGURES)
def test_whole_half_and_nothing(draw: Callable[[Study], Figure], name: str) -> None:
    whole = draw(study(name))
    assert whole.axes
    assert whole.get_supxlabel() == ""
    half = draw(study(name, keep=seeds(0)))
    assert len(half.axes) == len(whole.axes)
    assert "To make them: python run.py" in half.get_supxlabel()
    none = draw(study(name, keep=nothing))
    assert none.axes == [], "never an empty axis"
    assert f"python run.py -m +study={name}" in texts(none)


def test_sizes_are_drawn_down_to_one_cell() -> None:
    figure = sizes_figure(study("filtered_sizes"))
    axes = figure.axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert np.asarray(lines["filtered_memory"].get_xdata()).tolist() == [1, 4, 16, 64]
    assert np.asarray(lines["filtered_memory"].get_ydata()).tolist() == pytest.approx([0.611, 0.614, 0.626, 0.674])
    assert np.asarray(lines["transformer"].get_ydata()).tolist() == pytest.approx([0.411, 0.411])
    assert np.asarray(lines["trivial floor"].get_ydata()).tolist() == [0.1, 0.1]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "filtered_memory  (n = 3)" in legend
    assert "transformer  (n = 3)" in legend
    rows = sizes_table(study("filtered_sizes")).splitlines()
    assert rows[0] == "| model | lra_listops, % | lra_text, % |"
    best = "**67.4 (66.4 to 68.4), n = 3**"
    assert rows[-1] == f"| `filtered_memory`, memory 64 | {best} | {best} |"


def test_the_decomposition_is_of_differences() -> None:
    figure = decomposition_figure(study("filtered_decomposition"))
    assert [axes.get_title() for axes in figure.axes] == ["lra_listops", "lra_text", "all tasks"]
    points = [line for line in figure.axes[0].lines if line.get_linestyle() == "None"]
    found = [float(np.asarray(line.get_xdata())[0]) for line in points]
    assert found == pytest.approx([-5, 2, -5, -5, -5, 10])
    shared = decomposition_figure(study("filtered_decomposition"), "luna_shared")
    labels = [label.get_text() for label in shared.axes[0].get_yticklabels()]
    assert labels[0] == CHANGES["luna"]
    table = decomposition_table(study("filtered_decomposition"))
    assert "| `luna_filter`: + filter | 53.1 (52.1 to 54.1), n = 3 | +2.0 (+2.0 to +2.0), n = 3, g = 1.6 |" in table


def test_filters_by_kind_kernel_and_stride() -> None:
    figure = filters_figure(study("filtered_filters"))
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert set(lines) == {
        *("trivial floor", "no filter", "conv, stride 1", "conv, stride 2", "max_pool, stride 1", "max_pool, stride 2"),
    }
    assert np.asarray(lines["max_pool, stride 2"].get_xdata()).tolist() == [2, 4, 8]
    assert np.asarray(lines["max_pool, stride 2"].get_ydata()).tolist() == pytest.approx([0.711] * 3)
    assert lines["conv, stride 2"].get_markerfacecolor() == "white"
    assert np.asarray(lines["no filter"].get_ydata())[0] == pytest.approx(0.411)


def test_degradation_is_drawn_by_step() -> None:
    figure = degradation_figure(study("filtered_degradation"))
    assert len(figure.axes) == 2, "measures that nobody took have no panel"
    ranks = {str(line.get_label()): line for line in figure.axes[0].lines}
    assert np.asarray(ranks["luna"].get_xdata()).tolist() == [10, 20, 30]
    assert np.asarray(ranks["luna"].get_ydata()).tolist() == pytest.approx([7.01, 6.01, 5.01])
    ends = memory_ends(study("filtered_degradation").memory)
    assert len(ends) == 15
    assert ends.loc[ends["variant"] == "luna", "effective_rank_first"].tolist() == pytest.approx([7, 7.01, 7.02])
    table = degradation_table(study("filtered_degradation"))
    assert "| `luna` | 3 | 7.01 (7.00 to 7.02) | 5.01 (5.00 to 5.02) | 0.30 (0.30 to 0.30) | 51.1" in table


def test_temperatures_stand_side_by_side() -> None:
    figure = temperature_figure(study("filtered_temperature"))
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["unit", "sqrt", "learn"]
    ours = [line for line in axes.lines if str(line.get_label()).startswith("unpacking")]
    own = [line for line in ours if line.get_label() == ours[0].get_label()]
    assert sorted(float(np.asarray(line.get_ydata())[0]) for line in own) == pytest.approx([0.611, 0.611, 0.661])


def test_tables_of_nothing_name_the_command() -> None:
    for table, name in ((sizes_table, "filtered_sizes"), (decomposition_table, "filtered_decomposition")):
        assert f"python run.py -m +study={name}" in table(study(name, keep=nothing))
    assert "python run.py" in degradation_table(study("filtered_degradation", keep=nothing))
