"""Memformer's figures and tables, and Memory Transformer's: what stands where, with all runs, some and none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from analysis.arms import MEMORY
from analysis.papers import memformer
from analysis.studies import Study
from tests.analysis.papers.lines import assert_note, filled, hollow, xs, ys
from tests.analysis.papers.made_recurrent import made, measured

FIGURES: list[tuple[Callable[[Study], Figure], str]] = [
    (memformer.slots_figure, "memformer_slots"),
    (memformer.writes_figure, "memformer_slots"),
]


@pytest.mark.parametrize("which", ["all", "half", "none"])
@pytest.mark.parametrize(("draw", "name"), FIGURES)
def test_a_figure_says_what_is_missing(draw: Callable[[Study], Figure], name: str, which: str) -> None:
    assert_note(draw(made(name, which)), name, which)


def test_memformers_sizes_are_those_that_differ_in_nothing_else() -> None:
    copy, _, paper = memformer.slots_figure(made("memformer_slots")).axes
    assert xs(filled(copy)["memformer"]) == [1, 2, 4, 8, 16]
    (theirs,) = hollow(paper).values()
    assert xs(theirs) == [1, 16, 32, 64]
    assert ys(theirs) == [1.627, 1.604, 1.600, 1.594]


def test_ablations_are_held_against_the_size_that_they_have() -> None:
    runs = memformer.ablations(made("memformer_slots"))
    assert set(runs["label"]) == {memformer.ALL_OF_IT, "temperature 0.5", "temperature 1", "no forgetting"}
    assert set(runs.loc[runs["label"] == memformer.ALL_OF_IT, MEMORY]) == {8}
    assert set(runs["label"].value_counts()) == {6}
    table = memformer.ablation_table(made("memformer_slots"))
    assert "| Memformer, decoder_layers=6; encoder_layers=2; memory_len=32 (published) |  |  | 1.600 |" in table
    assert "| ours, no forgetting | 0." in table


@pytest.mark.parametrize("arm", ["slots", "no_forgetting"])
def test_one_arm_alone_is_no_ablation(arm: str) -> None:
    study = made("memformer_slots")
    runs = study.runs[study.runs["arm"] == arm].reset_index(drop=True)
    found = memformer.ablations(replace(study, runs=runs))
    assert set(found["label"]) == ({"no forgetting"} if arm == "no_forgetting" else set())


def test_writes_are_shares_over_time_and_by_head() -> None:
    over_time, by_head, paper = memformer.writes_figure(made("memformer_slots")).axes
    assert ys(over_time.lines[0]) == pytest.approx([0.1, 0.2, 0.3])
    assert np.asarray(by_head.images[0].get_array())[0].tolist() == [0.0, 0.25]
    assert np.asarray(paper.images[0].get_array())[1, 0] == 0.92


def test_replay_is_a_ratio_beside_the_papers() -> None:
    absolute, memory, speed = memformer.replay_figure(measured()).axes
    assert len(absolute.lines) == 4
    assert ys(memory.lines[0]) == pytest.approx([0.2, 0.2])
    assert ys(speed.lines[1]) == pytest.approx([0.95, 0.95])
    assert [ys(line)[0] for line in memory.lines[2:]] == pytest.approx([9885 / 16177, 7229 / 16177])
    assert [ys(line)[0] for line in speed.lines[2:]] == [0.48, 0.90]
    empty = memformer.replay_figure(measured(empty=True))
    assert len(empty.axes[1].lines) == 2


def test_translation_is_the_papers_alone() -> None:
    assert "| MemBottleneck | memory_len=20 | 10.41 |" in memformer.translation_table()
