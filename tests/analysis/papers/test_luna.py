"""Luna's figures: ours and the paper's numbers where they belong, and what is missing said in words."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from analysis.papers.luna import (
    ABLATIONS,
    TASKS,
    ablation_figure,
    ablation_table,
    bubbles,
    efficiency_figure,
    efficiency_table,
    lra_table,
    mean_scores,
    memory_size_figure,
    quality_speed_memory_figure,
    ratios,
)
from analysis.studies import Study, load_study
from tests.analysis.papers.made_luna import empty, half, measured, study


def drawn_lines(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(line.get_label()): (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
        for line in axes.lines
    }


def test_ours_and_the_papers_by_memory_size() -> None:
    figure = memory_size_figure(study("luna_lra"))
    assert [axes.get_title() for axes in figure.axes] == [*TASKS.values(), "mean of the five"]
    lines = drawn_lines(figure.axes[0])
    assert lines["luna"] == ([4, 16, 64], pytest.approx([0.512, 0.514, 0.518]))
    assert lines["transformer"] == ([4, 64], pytest.approx([0.41, 0.41]))
    assert lines["trivial floor"][1] == [0.3, 0.3]
    assert lines["Luna, luna (published)"] == ([16, 128, 256], pytest.approx([0.3743, 0.3801, 0.3798]))
    assert lines["Transformer (run again), luna (published)"][1] == pytest.approx([0.3711, 0.3711])
    mean = drawn_lines(figure.axes[-1])
    assert mean["luna"][1] == pytest.approx([0.512, 0.514, 0.518])
    assert mean["Luna, luna (published)"][1] == pytest.approx([0.6146, 0.6193, 0.6195])
    assert "luna  (n = 3)" in [text.get_text() for text in figure.legends[0].get_texts()]
    assert figure.get_supxlabel() == ""


def test_a_mean_needs_all_its_tasks() -> None:
    figure = memory_size_figure(half("luna_lra"))
    assert "luna" in drawn_lines(figure.axes[0])
    assert "luna" not in drawn_lines(figure.axes[3]), "nothing has run on Image"
    assert "luna" not in drawn_lines(figure.axes[-1])
    assert "To make them: python run.py -m +study=luna_lra" in figure.get_supxlabel()
    assert mean_scores(half("luna_lra").runs, ("lra_text", "lra_image")).empty


def test_without_runs_the_papers_numbers_stand_alone() -> None:
    figure = memory_size_figure(empty("luna_lra"))
    for axes in figure.axes:
        assert set(drawn_lines(axes)) == {"Luna, luna (published)", "Transformer (run again), luna (published)"}
    assert "python run.py -m +study=luna_lra" in figure.get_supxlabel()


def test_the_table_has_ours_in_bold_by_the_rule_and_the_papers_as_printed() -> None:
    rows = lra_table(study("luna_lra")).splitlines()
    assert rows[2] == "| trivial floor |  | 30.0 | 30.0 | 30.0 | 30.0 | 30.0 |  |"
    assert "| `luna`, memory 64 | ours | 51.8 (50.8 to 52.8), n = 3 |" in rows[8]
    assert "**" not in "".join(rows), "neighbours overlap"
    assert rows[-1] == "| Luna-256 | paper | 37.98 | 65.78 | 79.56 | 47.86 | 78.55 | 61.95 |"
    assert len(rows) == 2 + 1 + 6 + 15
    assert "`luna`, memory 16 | ours | 50.4, n = 1 | 50.4, n = 1 | 50.4, n = 1 | not run |" in lra_table(
        half("luna_lra")
    )
    assert "ours" not in lra_table(empty("luna_lra"))


def test_ablations_are_differences_to_luna() -> None:
    figure = ablation_figure(study("luna_memory_ablations"))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [ABLATIONS[name] for name in ("fresh", "tied", "shared", "pooled")]
    points = [line for line in figure.axes[-1].lines if line.get_linestyle() == "None"]
    assert [float(np.asarray(line.get_xdata())[0]) for line in points] == pytest.approx([-15, -5, -10, 0])
    table = ablation_table(study("luna_memory_ablations"))
    assert "-0.3 BLEU (WMT'14, 4 pairs) |" in table
    assert "number not found |" in table
    none = ablation_figure(empty("luna_memory_ablations"))
    assert none.axes == []
    assert "-0.3 BLEU" in ablation_table(empty("luna_memory_ablations"))


def test_ratios_are_to_the_transformer_at_the_same_length() -> None:
    found = ratios(measured().bench).set_index(["name", "length"])
    assert found["speed"].to_dict()["luna_16", 1000] == 2
    assert (found["speed"].to_dict()["luna_16", 4000], found["memory"].to_dict()["luna_16", 4000]) == (4, 0.125)
    assert found["spread"].tolist() == pytest.approx([0.02] * 12)
    assert ratios(measured(("luna_16",)).bench).empty, "there is nothing to divide by"
    assert ratios(pd.DataFrame()).empty


def test_efficiency_beside_the_papers_column() -> None:
    figure = efficiency_figure(measured())
    speed, memory = (drawn_lines(axes) for axes in figure.axes)
    assert speed["luna_16"] == ([1, 4], pytest.approx([2, 4]))
    assert memory["luna_16"] == ([1, 4], pytest.approx([0.5, 0.125]))
    assert speed["Luna-16, luna (published)"] == ([4], [5.5])
    assert memory["Luna-256, luna (published)"] == ([4], [0.16])
    assert speed["Local attention, luna (published)"] == ([4], [5.286])
    none = efficiency_figure(measured(()))
    assert "luna_16" not in drawn_lines(none.axes[0])
    assert "Luna-16, luna (published)" in drawn_lines(none.axes[0])
    table = efficiency_table(measured(lengths=(4000,)))
    assert "| `luna_16` | ours | not measured | not measured | not measured | 4.00, 0.12 |" in table
    assert "| Luna-16 | paper | not found | not found | not found | 5.5, 0.1 |" in table


def test_figure_1_joins_scores_and_costs_of_one_size() -> None:
    found = bubbles(study("luna_lra"), measured()).set_index("name")
    assert list(found.index) == ["transformer", "local", "linear", "luna_16"], "no score has 128 slots, no step has 4"
    columns = [found[name].to_dict()["luna_16"] for name in ("speed", "memory", "mean", "n")]
    assert columns == pytest.approx([4, 0.125, 0.514, 3])
    figure = quality_speed_memory_figure(study("luna_lra"), measured())
    theirs, ours = figure.axes
    assert {text.get_text() for text in ours.texts} == set(found.index)
    assert len(theirs.texts) == 12
    sizes = [disc.get_sizes()[0] for disc in ours.collections if hasattr(disc, "get_sizes")]
    assert sizes[0] / sizes[-1] == pytest.approx(64), "a disc's radius is in proportion to memory"


@pytest.mark.parametrize("lra", [half, empty])
def test_figure_1_without_ours(lra: Callable[[str], Study]) -> None:
    figure = quality_speed_memory_figure(lra("luna_lra"), measured())
    assert len(figure.axes) == 1
    assert len(figure.axes[0].texts) == 12
    assert "python run.py -m +study=luna_lra" in figure.get_supxlabel()


def test_what_is_committed_can_be_drawn() -> None:
    assert efficiency_figure(load_study("luna_efficiency", live=False)).axes
