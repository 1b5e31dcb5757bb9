"""The front: who is on it, what an interval forgives, and what is drawn."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.matrix import ORDER
from analysis.pareto import OBJECTIVES, measured, pareto_figure, pareto_front, pareto_points, pareto_table
from tests.analysis.comparisons import compared, measured_costs
from tests.analysis.papers.made_studies import nothing

#: Tokens per second and state. ``luna`` is as good as ``linear`` in nothing, ``fam`` scores more.
SPEEDS = {"transformer": (1000.0, 512), "linear": (4000.0, 64), "luna": (3000.0, 128), "fam": (500.0, 256)}
SCORES = {"transformer": 0.6, "linear": 0.5, "luna": 0.4, "fam": 0.7}


def score(job: Any) -> float:
    return SCORES.get(job.variant, 0.3) + 0.01 * job.seed


def points(*rows: tuple[float, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(OBJECTIVES))


def test_a_point_is_on_the_front_unless_another_is_at_least_as_good_and_better_somewhere() -> None:
    frame = points((0.9, 100, 10), (0.9, 100, 20), (0.8, 200, 10), (0.7, 150, 10))
    assert pareto_front(frame).tolist() == [True, False, True, False]
    assert pareto_front(points((0.9, 100, 10), (0.9, 100, 10))).tolist() == [True, True]
    assert pareto_front(points()).empty


def test_better_within_the_interval_is_not_better() -> None:
    frame = points((0.9, 100, 10), (0.8, 100, 10))
    assert pareto_front(frame).tolist() == [True, False]
    overlap = frame.assign(score_low=[0.79, 0.7], score_high=[0.95, 0.85])
    assert pareto_front(overlap).tolist() == [True, True]
    apart = frame.assign(score_low=[0.86, 0.7], score_high=[0.95, 0.85])
    assert pareto_front(apart).tolist() == [True, False]
    faster = overlap.assign(tokens_per_second=[101, 100])
    assert pareto_front(faster).tolist() == [True, False], "at least as good in all, and beyond doubt in one"


def test_intervals_of_what_should_be_small_turn_round() -> None:
    frame = points((0.9, 100, 10), (0.9, 100, 20))
    wide = frame.assign(state_size_low=[5, 14], state_size_high=[15, 25])
    assert pareto_front(wide).tolist() == [True, True]
    narrow = frame.assign(state_size_low=[9, 19], state_size_high=[11, 21])
    assert pareto_front(narrow).tolist() == [True, False]


def test_a_point_that_lacks_an_objective_is_not_on_the_front_and_keeps_none_off() -> None:
    frame = points((0.9, 100, 10), (0.95, float("nan"), 5))
    assert pareto_front(frame).tolist() == [True, False]


def test_points_have_scores_of_one_study_and_costs_of_the_other() -> None:
    found = pareto_points(compared("overview", score), measured_costs(SPEEDS)).set_index("variant")
    assert list(found.index) == [name for name in ORDER if name in SPEEDS]
    assert found["score"]["fam"] == pytest.approx((0.71 - 0.2) / 0.8)
    costs = found[["tokens_per_second", "state_size", "length", "n"]].to_numpy()
    assert costs[-1].tolist() == [125, 256, 4096, 3]
    assert found["front"].to_dict() == {"transformer": True, "linear": True, "luna": False, "fam": True}


def test_costs_are_ours_at_the_longest_common_length() -> None:
    costs = measured_costs(SPEEDS)
    found = measured(costs)
    assert set(found["length"]) == {4096}
    assert found["tokens_per_second"].max() == 1000
    short = costs.bench[(costs.bench["variant"] != "fam") | (costs.bench["length"] == 1024)]
    object.__setattr__(costs, "bench", short)
    assert set(measured(costs)["length"]) == {1024}
    object.__setattr__(costs, "bench", short.iloc[:0])
    assert measured(costs).empty


def test_the_figure_marks_the_front_and_the_table_names_who_has_no_place() -> None:
    scores, costs = compared("overview", score), measured_costs(SPEEDS)
    figure = pareto_figure(scores, costs)
    for axes in figure.axes:
        rings = [line for line in axes.lines if line.get_label() == "_front"]
        assert len(rings) == 3
    bold = [text.get_text() for text in figure.legends[0].get_texts() if text.get_fontweight() == "bold"]
    assert bold == ["transformer (n = 3)", "linear (n = 3)", "fam (n = 3)"]
    (place,) = [line for line in figure.axes[0].lines if line.get_label() == "fam (n = 3)"]
    assert np.asarray(place.get_xdata()).tolist() == [125]
    table = pareto_table(scores, costs)
    assert re.search(r"\| `fam` \| 0\.637 \(0\.6\d+ to 0\.6\d+\), n = 3 \| 125 \| 256\.0 \| 256 \| yes \|", table)
    assert "infini_delta." in table.splitlines()[-1]


def test_without_one_of_both_there_are_words() -> None:
    empty = compared("overview", score, keep=nothing)
    figure = pareto_figure(empty, measured_costs(SPEEDS))
    assert isinstance(figure, Figure)
    assert not figure.axes
    text = " ".join(text.get_text() for text in figure.texts)
    assert "+study=overview" in text
    assert "efficiency" not in text
    assert pareto_table(empty, measured_costs({})).startswith("Without a place")
