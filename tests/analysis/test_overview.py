"""Figures of our own comparison: whole, half and without data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.matrix import ORDER
from analysis.overview import compressions_figure, lengths_figure, scores_figure, state_size_figure
from analysis.passkey import pooled
from analysis.recall import best_per_state, recall_by_length, recall_by_pairs, written_between
from analysis.studies import Study
from tests.analysis.made_overview import made, put_to_later
from tests.analysis.papers.made_studies import nothing, seeds

FIGURES: list[tuple[Callable[[Study], Figure], str]] = [
    (scores_figure, "overview"),
    (scores_figure, "overview_all"),
    (lengths_figure, "overview"),
    (state_size_figure, "state_size"),
    (compressions_figure, "compressions"),
]


def labels(axes: Axes) -> list[str]:
    return [str(line.get_label()) for line in axes.lines]


@pytest.mark.parametrize(("draw", "name"), FIGURES)
def test_half_a_study_is_drawn_with_a_note(draw: Callable[[Study], Figure], name: str) -> None:
    figure = draw(made(name, seeds(0)))
    assert figure.axes
    assert f"python run.py -m +study={name} scale=laptop" in figure.get_supxlabel().replace("\n", " ")
    assert "arms more" in figure.get_supxlabel().replace("\n", " ")
    assert "nan" not in figure.get_supxlabel()


@pytest.mark.parametrize(("draw", "name"), FIGURES)
def test_nothing_is_said_in_words(draw: Callable[[Study], Figure], name: str) -> None:
    figure = draw(made(name, nothing))
    assert not figure.axes
    assert f"+study={name}" in " ".join(text.get_text() for text in figure.texts)


def test_scores_have_a_dot_an_interval_and_a_floor_for_each_task() -> None:
    figure = scores_figure(made("overview", lambda job: (job.variant, job.task) != ("fam", "lra_text")))
    assert [axes.get_title() for axes in figure.axes] == ["lra_listops", "lra_text", "passkey"]
    listops, text, _ = figure.axes
    (dot,) = [line for line in listops.lines if line.get_color() == "#000000"]
    assert dot.get_xdata() == pytest.approx([0.302])
    assert len(listops.collections) == len(ORDER), "whiskers"
    assert [label.get_text() for label in listops.get_yticklabels()] == list(ORDER)
    (floor,) = [line for line in listops.lines if str(line.get_color()) == "0.6"]
    assert list(np.asarray(floor.get_xdata())) == [0.2, 0.2]
    assert [words.get_text() for words in text.texts].count("not run") == 1
    assert "not run" not in [words.get_text() for words in listops.texts]


def test_recall_counts_every_query_once() -> None:
    found = recall_by_pairs(made("state_size", seeds(0)))
    assert found["accuracy"].unique() == pytest.approx([0.5 * 10 / 40])
    assert pooled(found.assign(n=1), ["variant"], "accuracy")["accuracy"].unique() == pytest.approx([0.125])


def test_a_later_test_counts_where_it_goes_beyond_the_own() -> None:
    study = made("overview", lambda job: job.variant == "fam_gated" and job.task == "passkey" and job.seed < 2)
    found = recall_by_length(put_to_later(study, 256, 4096))
    assert sorted(found["length_blocks"].unique()) == [2, 18, 256, 4096]
    assert found.loc[found["length_blocks"] == 4096, "exact_match"].tolist() == [1.0, 1.0]
    pd.testing.assert_frame_equal(found[found["length_blocks"] < 4096], recall_by_length(study))
    few = put_to_later(study, 4096, prompts=2).tests.assign(test="zz", exact_match=0.0)
    many = put_to_later(study, 4096).tests
    for order in ([few, many], [many, few]):
        both = recall_by_length(replace(study, tests=pd.concat(order)))
        assert both.loc[both["length_blocks"] == 4096, "exact_match"].eq(1).all(), "the test of most prompts"
    start = few[few["depth"] == 0].assign(n=200)
    mixed = recall_by_length(replace(study, tests=pd.concat([many, start])))
    assert mixed.loc[mixed["length_blocks"] == 4096, "exact_match"].eq(0.5).all(), "depths count alike"


def test_lengths_stay_whole_numbers_beside_slices_that_have_none() -> None:
    study = made("overview", seeds(0))
    whole = recall_by_length(study)
    text = study.slices.iloc[:3].assign(task="lra_text", length_blocks=math.nan, length_tokens=math.nan)
    joined = replace(study, slices=pd.concat([study.slices, text], ignore_index=True))
    assert joined.slices["length_blocks"].dtype == float
    pd.testing.assert_frame_equal(recall_by_length(joined), whole)
    ticks = lengths_figure(joined).axes[0].get_xticklabels()
    assert [label.get_text() for label in ticks] == ["2\n48", "18\n432", "256\n6,144"]


def test_lengths_put_the_longest_memory_on_top_and_say_where_training_ends() -> None:
    figure = lengths_figure(made("overview"))
    axes = figure.axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert (names[0], names[-1]) == ("fam_gated  (n = 3)", "fam  (n = 3)")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["2\n48", "18\n432", "256\n6,144"]
    assert {tuple(np.asarray(line.get_xdata())) for line in axes.lines} == {(1.5, 1.5)}
    assert "lra_text" not in lengths_figure(made("overview", seeds(0))).get_supxlabel()


def test_state_size_has_a_place_for_what_carries_nothing() -> None:
    figure = state_size_figure(made("state_size"))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["all that training has", "2 pairs", "8 pairs, more than in training"]
    (window,) = [line for line in figure.axes[0].lines if line.get_label() == "block_window"]
    assert np.asarray(window.get_xdata()).tolist() == [0, 16, 32, 64]
    assert figure.axes[0].get_xlim()[0] < 0
    assert not figure.get_supxlabel()


def test_the_best_of_each_budget_is_chosen_by_size_and_not_by_score() -> None:
    table = best_per_state(made("state_size"))
    assert "| 4 | `fam` | 63.2 (63.0 to 63.4), n = 3 | `memformer` |" in table
    assert "| 8 |" not in table  # nothing is new there
    assert table.splitlines()[-1].split(" | ")[1] == "`infini_delta`"
    luckier = made("state_size")
    smallest = (luckier.runs["variant"] == "memformer") & (luckier.runs["state_size"] == 4)
    luckier.runs.loc[smallest, "test/accuracy"] = 0.9
    assert "| 4 | `memformer` | 90.0" in best_per_state(luckier)
    assert "| 8 | `fam` |" in best_per_state(luckier)  # memformer's arm of 8 counts there
    assert best_per_state(made("state_size", nothing)).startswith("No two variants")


def test_compressions_take_the_facts_of_the_first_block() -> None:
    study = made("compressions")
    rows = written_between(study)
    assert sorted(rows["writes"].unique()) == [1, 17, 255]
    assert rows["exact_match"].max() < 1  # the passkeys of depth 1 are not among them
    figure = compressions_figure(study)
    assert [axes.get_title()[:8] for axes in figure.axes] == ["passkey ", "memorize"]
    for axes in figure.axes:
        assert axes.get_xlim()[0] < 0, "a fact and its question may stand in one block"
        (gate,) = [line for line in axes.lines if line.get_label() == "fam_gated"]
        assert np.asarray(gate.get_ydata()) == pytest.approx([512 / (512 + b) + 0.001 for b in (2, 18, 256)], abs=2e-3)
        (trained,) = [line for line in axes.lines if line.get_linestyle() == "--"]
        assert np.asarray(trained.get_xdata()).tolist() == [17, 17]
