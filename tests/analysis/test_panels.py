"""Parts of figures: orders, levels, floors, one legend, and differences that need the same tasks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.marks import floor_line, level, lines_by_size
from analysis.panels import ALL, add_scores, differences, in_order, missing_notes, one_legend
from analysis.statistics import Interval, mean_interval
from analysis.style import missing_note
from tests.analysis.papers.made_studies import made_study, nothing, seeds


def runs(variants: tuple[str, ...] = ("luna", "fam"), tasks: tuple[str, ...] = ("copy", "text")) -> pd.DataFrame:
    rows = [
        {"variant": variant, "task": task, "seed": seed, "config_hash": variant + task, "test/accuracy": value}
        for variant in variants
        for task in tasks
        for seed, value in enumerate([0.5, 0.6, 0.7] if variant == "luna" else [0.4, 0.4, 0.4])
    ]
    return pd.DataFrame(rows)


def test_variants_stand_in_the_order_asked_for() -> None:
    frame = pd.DataFrame({"variant": ["b", "c", "a", "b"], "size": [16, 1, 4, 4]})
    found = in_order(frame, ("a", "b"), "size")
    assert found.values.tolist() == [["a", 4], ["b", 4], ["b", 16], ["c", 1]]
    assert in_order(frame.iloc[:0], ("a",), "size").empty


def test_a_level_has_its_markers_at_the_ends() -> None:
    axes = Figure().add_subplot()
    level(axes, Interval(0.5, 0.4, 0.6, 3), "transformer", (1, 64))
    assert np.asarray(axes.lines[0].get_xdata()).tolist() == [1, 64]
    assert axes.collections, "the band of its interval"
    level(axes, mean_interval([]), "local", (1, 64))
    assert len(axes.lines) == 1, "nothing is drawn of none"


def test_a_floor_is_drawn_if_there_is_one() -> None:
    axes = Figure().add_subplot()
    floor_line(axes, pd.DataFrame({"floor": [0.1, 0.1]}))
    floor_line(axes, pd.DataFrame({"floor": [0.1, 0.2]}))
    floor_line(axes, pd.DataFrame())
    assert [np.asarray(line.get_ydata()).tolist() for line in axes.lines] == [[0.1, 0.1]]


def test_a_legend_names_each_once_with_its_seeds() -> None:
    figure = Figure()
    for axes in figure.subplots(1, 2):
        axes.plot([0], [0], label="luna")
        axes.plot([0], [0], label="published")
    frame = runs()
    one_legend(figure, frame[(frame["task"] == "copy") | (frame["seed"] == 0)])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["luna  (n = 1 to 3)", "published"]
    empty = Figure()
    one_legend(empty, frame)
    assert empty.legends == []


def test_differences_are_paired_and_over_all_tasks_only_where_all_are_run() -> None:
    found = differences(runs(), "variant", "fam", ["luna", "mat"])
    assert found["task"].tolist() == ["copy", "text", ALL]
    assert found["mean"].tolist() == pytest.approx([0.2, 0.2, 0.2])
    frame = runs()
    half = frame[(frame["task"] == "copy") | (frame["variant"] == "fam")]
    assert differences(half, "variant", "fam", ["luna"])["task"].tolist() == ["copy"]
    assert differences(frame.iloc[:0], "variant", "fam", ["luna"]).empty


def test_scores_in_bold_by_the_rule() -> None:
    rows: dict[str, list[str]] = {"a": [], "b": []}
    add_scores(rows, {"a": Interval(0.9, 0.8, 0.95, 3), "b": Interval(0.5, 0.4, 0.6, 3)})
    assert rows == {"a": ["**90.0 (80.0 to 95.0), n = 3**"], "b": ["50.0 (40.0 to 60.0), n = 3"]}
    rows = {"a": [], "b": []}
    add_scores(rows, {"a": Interval(0.9, 0.8, 0.95, 3), "b": mean_interval([])})
    assert rows == {"a": ["90.0 (80.0 to 95.0), n = 3"], "b": ["not run"]}


def test_notes_on_what_is_missing_take_room_of_their_own() -> None:
    def score(job: object) -> float:
        return 0.5

    half = made_study("filtered_degradation", score, keep=seeds(0))
    none = made_study("filtered_temperature", score, keep=nothing)
    figure = Figure(figsize=(8, 3))
    missing_note(figure, half)
    height = figure.get_figheight()
    assert height > 3
    both = Figure(figsize=(8, 3))
    missing_notes(both, half, none)
    assert both.get_figheight() > height
    assert "+study=filtered_degradation" in both.get_supxlabel()
    assert "+study=filtered_temperature" in both.get_supxlabel()
    whole = Figure(figsize=(8, 3))
    missing_notes(whole, made_study("filtered_degradation", score))
    assert (whole.get_figheight(), whole.get_supxlabel()) == (3, "")


def test_sizes_of_one_arm_are_lines_of_their_own() -> None:
    rows = pd.DataFrame(
        [
            {"slots": slots, "blocks": blocks, "seed": seed, "score": slots + blocks + 0.1 * seed}
            for slots in (16, 1)
            for blocks in (1, 2)
            for seed in ((0, 1) if slots == 1 else (0,))
        ]
    )
    axes = Figure().add_subplot()
    lines_by_size(axes, rows, "blocks", "score", "slots", "{:g} slots")
    assert [line.get_label() for line in axes.lines] == ["1 slots  (n = 2)", "16 slots  (n = 1)"]
    assert np.asarray(axes.lines[0].get_ydata()).tolist() == pytest.approx([2.05, 3.05])
    assert len({line.get_marker() for line in axes.lines}) == 2
    assert len(axes.collections) == 1, "one seed has no band"
    lines_by_size(axes, rows.iloc[:0], "blocks", "score", "slots", "{:g} slots")
    lines_by_size(axes, pd.DataFrame(), "blocks", "score", "slots", "{:g} slots")
    assert len(axes.lines) == 2
