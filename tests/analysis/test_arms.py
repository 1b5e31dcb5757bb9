"""Some arms of a study, their columns and their tables; maps by layer and head, and by length and depth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.arms import (
    MEMORY,
    bits_label,
    longest,
    only_arms,
    plain_ticks,
    published_table,
    rows_where,
    score_table,
    sized,
    step_ratios,
)
from analysis.heads import heads_figure
from analysis.marks import mean_with_interval
from analysis.passkey import cells, maps_figure, seed_scores
from analysis.published import published
from tests.analysis.papers.made_studies import made_study


def test_a_study_of_some_arms_keeps_their_order_and_counts_its_own() -> None:
    study = made_study("fam_passkey", lambda job: 0.5, keep=lambda job: job.seed == 0)
    own = only_arms(study, {"rmt": "RMT", "m1": "M1", "fam": "FAM"})
    assert own.runs["label"].tolist() == ["RMT", "M1", "FAM"]
    assert (own.num_jobs, len(own.missing)) == (9, 6)
    assert own.describe_missing().startswith(
        "rmt on passkey arm=rmt: 1 of 3 seeds; block_window on passkey arm=m1: 1 of"
    )
    assert study.num_jobs == 54
    assert own.slices.empty


def test_missing_arms_name_the_settings_that_their_label_leaves_open() -> None:
    study = made_study("fam_blocks", lambda job: 0.5, keep=lambda job: False)
    text = study.describe_missing()
    assert "fam on lm_text arm=past_fams model.past_fams=2: 0 of 3 seeds" in text
    assert "transformer_xl on lm_text arm=m1_sg: 0 of 3 seeds" in text
    runs = pd.DataFrame(
        [
            {
                "arm": "past_fams",
                "model.memory_blocks": None,
                "model.past_fams": 1.0,
                "task": "",
                "variant": "",
                "seed": 0,
            }
        ]
    )
    assert "arm=past_fams model.past_fams=2: 0 of 3 seeds" in replace(study, runs=runs).describe_missing()


def test_the_longest_test_is_by_number_and_not_by_letter() -> None:
    runs = pd.DataFrame({"test/accuracy": [0.1], "test/accuracy@8x": [0.2], "test/accuracy@14.1x": [0.3]})
    assert longest(runs, "accuracy") == "test/accuracy@14.1x"
    assert longest(runs.assign(**{"test/accuracy@14.1x": math.nan}), "accuracy") == "test/accuracy@8x"
    assert longest(runs, "exact_match") == "test/exact_match"


def test_tables_of_scores_and_of_published_numbers() -> None:
    runs = pd.DataFrame({"model.fam_len": [1.0, 1.0, 2.0], "seed": [0, 1, 0], "score": [0.25, 0.75, 0.5]})
    lines = score_table(runs, ["model.fam_len"], {"right": "score", "none": "other"}).splitlines()
    assert lines[0] == "| fam_len | right | none | n |"
    assert lines[2] == "| 1 | 0.500 (0.250 to 0.750) | - | 2 |"
    assert lines[3] == "| 2 | 0.500 | - | 1 |"
    table = published_table(published(paper="fam", where="table 6"), "past_fams")
    assert table.splitlines()[2:4] == ["| FAM | 1 | 15.9 |", "| FAM | 2 | 15.8 |"]


def test_labels_and_ticks_of_axes() -> None:
    assert bits_label(pd.DataFrame({"floor": [2.861, 2.861]})) == "bits per byte (less is better; trivial: 2.86)"
    assert bits_label(pd.DataFrame()) == "bits per byte (less is better)"
    axes = Figure().add_subplot(xscale="log")
    plain_ticks(axes, pd.Series([1024, 16, 16, 18, math.nan]))
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["16", "1,024"]


def test_maps_by_head_leave_out_what_was_not_measured() -> None:
    rows = [
        {"arm": arm, "seed": seed, "layer": layer, "head": head, "gate": gate + 0.1 * seed, "share": math.nan}
        for arm, gate in (("a", 0.25), ("b", 0.75), ("c", 0.5))
        for seed in (0, 1)
        for layer in (0, 1)
        for head in (0, 1, 2)
    ]
    figure = heads_figure(pd.DataFrame(rows), "arm", {"gate": "gate", "share": "share"}, columns=2)
    panels = [axes for axes in figure.axes if axes.get_title() and axes.get_visible()]
    assert [axes.get_title() for axes in panels] == ["a\nn = 2", "b\nn = 2", "c\nn = 2"] * 2
    assert [text.get_text() for text in panels[1].texts] == ["0.80"] * 6
    assert [text.get_text() for text in panels[3].texts] == ["not measured"]


def test_maps_by_depth_weigh_prompts_and_mark_training() -> None:
    slices = pd.DataFrame(
        {
            "arm": "fam",
            "seed": 0,
            "length_blocks": [2, 2, 4],
            "factor": [1.0, 1.0, 2.0],
            "depth": 0.0,
            "n": [1, 3, 4],
            "exact_match": [1.0, 0.0, 0.5],
        }
    )
    assert cells(slices, "arm")["exact_match"].tolist() == [0.25, 0.5]
    axes = maps_figure(slices, "arm").axes[0]
    assert [text.get_text() for text in axes.texts] == ["25", "50"]
    assert np.asarray(axes.lines[0].get_xdata()).tolist() == [0.5, 0.5]


def test_groups_that_are_no_variants_may_have_looks() -> None:
    frame = pd.DataFrame({"label": ["a", "b"], "seed": 0, "x": [1, 1], "y": [0.5, 0.25]})
    axes = Figure().add_subplot()
    mean_with_interval(axes, frame, "x", "y", "label", looks={"b": {"color": "#123456", "marker": "*"}})
    assert [line.get_marker() for line in axes.lines] == ["s", "*"]


def test_rows_by_what_stands_in_their_columns() -> None:
    frame = pd.DataFrame({"variant": ["luna", "luna", "local"], MEMORY: ["4", "16", None]})
    assert rows_where(frame, {"variant": "luna"}).index.tolist() == [0, 1]
    assert rows_where(frame, {"variant": "luna", MEMORY: 16}).index.tolist() == [1], "numbers are read as such"
    assert rows_where(frame, {MEMORY: None}).index.tolist() == [2]
    assert rows_where(frame, {"arm": "fam"}).empty
    assert rows_where(pd.DataFrame(), {"arm": "fam", MEMORY: 4}).empty
    assert sized(frame)[MEMORY].tolist()[:2] == [4, 16]
    assert math.isnan(sized(frame)[MEMORY][2])
    assert sized(frame[["variant"]]).columns.tolist() == ["variant"]


def test_ratios_of_a_step_are_of_counterparts() -> None:
    rows = pd.DataFrame({"length": [1, 2, 4], "seconds": [3.0, 6, 8], "spread": [0.1, 0.2, 0.3], "name": "fam"})
    plain = pd.DataFrame({"length": [2, 1], "seconds": [4.0, 1], "spread": [0.05, 0.1], "name": "window"})
    found = step_ratios(rows, plain, ["length"], {"time": "seconds"})
    assert found["length"].tolist() == [1, 2]
    assert found["time"].tolist() == [3, 1.5]
    assert found["spread"].tolist() == [0.2, 0.25]
    assert set(found["name"]) == {"fam"}


def test_a_seed_has_one_score_over_its_lengths_and_depths() -> None:
    row = {"arm": "fam", "task": "passkey", "scale": "laptop", "data_source": "made", "length_blocks": 2, "factor": 1}
    slices = pd.DataFrame(
        [
            {**row, "seed": 0, "depth": 0, "n": 1, "exact_match": 0.0},
            {**row, "seed": 0, "depth": 0, "n": 3, "exact_match": 1.0},
            {**row, "seed": 0, "depth": 1, "n": 1, "exact_match": 0.25},
            {**row, "seed": 1, "depth": 1, "n": 1, "exact_match": 1.0},
        ]
    )
    found = seed_scores(slices)
    assert found[["seed", "score", "n"]].to_numpy().tolist() == [[0, 0.5, 5], [1, 1.0, 1]]
    assert set(found.columns) == {"task", "seed", "scale", "data_source", "score", "n"}
    assert set(seed_scores(pd.DataFrame()).columns) == set(found.columns)
