"""Figures and claims of our own comparison: whole, half and without data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.claims import judge, outcome
from analysis.matrix import ORDER
from analysis.overview import CLAIMS, compressions_figure, scores_figure, state_size_figure
from analysis.overview_claims import beyond_reach, forgets, keeps_longer, more_per_number, one_cell
from analysis.recall import best_per_state, pooled, recall_by_pairs, written_between
from analysis.statistics import Value
from analysis.studies import Study
from tests.analysis.comparisons import Row, compared
from tests.analysis.papers.made_studies import nothing, seeds

FIGURES: list[tuple[Callable[[Study], Figure], str]] = [
    (scores_figure, "overview"),
    (scores_figure, "overview_all"),
    (state_size_figure, "state_size"),
    (compressions_figure, "compressions"),
]
#: Where a variant's recall has fallen to a half, in blocks.
HALF = {"fam_gated": 512, "fam": 32}


def score(job: Any) -> float:
    place = ORDER.index(job.variant) if job.variant in ORDER else 0
    return 0.3 + 0.03 * place + 0.002 * job.seed


def sizes(row: Row) -> Row:
    """Windows carry sixteen numbers a block, all others one a slot and some by their width."""
    for name, unit in (
        ("model.memory_blocks", 16),
        ("model.memory_len", 1),
        ("model.fam_len", 1),
        ("backbone.width", 0.5),
    ):
        value = row.get(name)
        if value is not None and not math.isnan(float(value)):
            return {"state_size": int(value * unit)}
    return {}


def pairs(row: Row) -> list[Row]:
    """Right half of the time nearby, never far away; there are three times as many queries far away."""
    return [
        {"num_kv_pairs": count, "distance": far, "n": 10 + 20 * far, "accuracy": 0.5 * (1 - far) + 0.01 * row["seed"]}
        for count in (2, 8)
        for far in (0, 1)
    ]


def lengths(row: Row) -> list[Row]:
    """Recall that halves with length, at the start of a passkey; its end is always right."""
    cells = []
    for blocks in (2, 18, 256):
        half = HALF.get(row["variant"], 64)
        right = min(1.0, half / (half + blocks) + 0.001 * row["seed"])
        cell = {"length_blocks": blocks, "factor": blocks / 18, "n": 20, "exact_match": right}
        start = {**cell, "depth": 0.0, "blocks_between": blocks - 1}
        end = {**cell, "depth": 1.0, "blocks_between": 0, "exact_match": 1.0}
        cells += [start, end] if row["task"] == "passkey" else [cell]
    return cells


def made(name: str, keep: Callable[[Any], bool] = lambda job: True) -> Study:
    slices = {"state_size": pairs, "compressions": lengths, "overview": lengths, "overview_all": lengths}
    fields = sizes if name == "state_size" else None
    return compared(name, score, keep=keep, fields=fields, slices=slices.get(name))


def labels(axes: Axes) -> list[str]:
    return [str(line.get_label()) for line in axes.lines]


@pytest.mark.parametrize(("draw", "name"), FIGURES)
def test_half_a_study_is_drawn_with_a_note(draw: Callable[[Study], Figure], name: str) -> None:
    figure = draw(made(name, seeds(0)))
    assert figure.axes
    assert f"python run.py -m +study={name} scale=laptop" in figure.get_supxlabel().replace("\n", " ")
    assert "arms more" in figure.get_supxlabel().replace("\n", " ")


@pytest.mark.parametrize(("draw", "name"), FIGURES)
def test_nothing_is_said_in_words(draw: Callable[[Study], Figure], name: str) -> None:
    figure = draw(made(name, nothing))
    assert not figure.axes
    assert f"+study={name}" in " ".join(text.get_text() for text in figure.texts)


def test_scores_have_a_dot_an_interval_and_a_floor_for_each_task() -> None:
    figure = scores_figure(made("overview", lambda job: (job.variant, job.task) != ("fam", "lra_text")))
    assert [axes.get_title() for axes in figure.axes] == ["lra_listops", "lra_text", "passkey"]
    listops, text, _ = figure.axes
    (dots,) = [c for c in listops.containers if c[0].get_color() == "#000000"]
    assert dots[0].get_xdata() == pytest.approx([0.302])
    assert [label.get_text() for label in listops.get_yticklabels()] == list(ORDER)
    (floor,) = [line for line in listops.lines if str(line.get_color()) == "0.6"]
    assert list(np.asarray(floor.get_xdata())) == [0.2, 0.2]
    assert [words.get_text() for words in text.texts].count("not run") == 1
    assert "not run" not in [words.get_text() for words in listops.texts]


def test_recall_counts_every_query_once() -> None:
    found = recall_by_pairs(made("state_size", seeds(0)))
    assert found["accuracy"].unique() == pytest.approx([0.5 * 10 / 40])
    assert pooled(found.assign(n=1), ["variant"], "accuracy")["accuracy"].unique() == pytest.approx([0.125])


def test_state_size_has_a_place_for_what_carries_nothing() -> None:
    figure = state_size_figure(made("state_size"))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["all that training has", "2 pairs", "8 pairs"]
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
        (gate,) = [line for line in axes.lines if line.get_label() == "fam_gated"]
        assert np.asarray(gate.get_ydata()) == pytest.approx([512 / (512 + b) + 0.001 for b in (2, 18, 256)], abs=2e-3)
        (trained,) = [line for line in axes.lines if line.get_linestyle() == "--"]
        assert np.asarray(trained.get_xdata()).tolist() == [17, 17]


@pytest.mark.parametrize(
    ("better", "worse", "expected"), [("fam_gated", "fam", "supported"), ("fam", "fam_gated", "contradicted")]
)
def test_what_is_kept_longer(better: str, worse: str, expected: Value) -> None:
    for task in ("passkey", "memory_ops"):
        assert keeps_longer(better, worse, task)(made("compressions")).value == expected


def test_forgetting_is_seen_and_so_is_none() -> None:
    study = made("compressions")
    assert forgets("luna", "passkey")(study).value == "supported"
    study.slices["exact_match"] = study.slices["exact_match"].where(study.slices["length_blocks"] < 256, 1.0)
    assert forgets("luna", "memory_ops")(study).value == "contradicted"


def test_beyond_the_reach_only_far_keys_of_trained_lengths_count() -> None:
    study = made("overview")
    assert beyond_reach("fam_gated")(study).value == "supported"
    assert beyond_reach("fam")(study).value == "contradicted"
    verdict = beyond_reach("fam_gated")(study)
    assert verdict.difference is not None
    assert verdict.difference.mean == pytest.approx(512 / 530 - 64 / 82)  # 18 blocks, key in the first of them
    without = made("overview", lambda job: job.variant != "block_window")
    assert beyond_reach("fam")(without).reason == "no run of block_window says how far it looks"


def test_one_cell_against_the_largest_of_the_study() -> None:
    study = made("filtered_sizes")  # all sizes score alike
    assert one_cell("luna", "lra_text")(study).value == "supported"
    larger = compared("filtered_sizes", lambda job: 0.01 * (job.settings.get("model.memory_len") or 0))
    assert one_cell("luna", "lra_text")(larger).value == "contradicted"
    half = made("filtered_sizes", lambda job: job.settings.get("model.memory_len") != 64)
    assert one_cell("luna", "lra_text")(half).value == "not tested"
    copied = compared("rmt_memory_size", lambda job: 0.01 * (job.settings.get("model.memory_len") or 0))
    assert one_cell("rmt", "memory_ops", suffices=False, **{"task.op": "copy"})(copied).value == "supported"


def test_per_number_the_window_carries_at_least_as_much() -> None:
    verdict = more_per_number("rmt")(made("state_size"))
    assert verdict.value == "supported"
    assert verdict.reason.startswith("16 numbers against 16: ")
    assert more_per_number("block_window", "rmt")(made("state_size")).reason.startswith("0 numbers against 4: ")
    heavy = compared("state_size", score, fields=lambda row: {"state_size": 8 * (row["variant"] == "luna")})
    assert more_per_number("luna")(heavy).value == "not tested"


def test_every_claim_is_decided_by_code_with_data_and_without() -> None:
    wanted = {part.study for claim in CLAIMS for part in claim.parts}
    for keep, possible in ((lambda job: True, {"supported", "contradicted", "undecided"}), (nothing, {"not tested"})):
        studies = {name: made(name, keep) for name in wanted}
        for claim in CLAIMS:
            values = [part.test(studies[part.study]).value for part in claim.parts]
            assert set(values) <= possible, claim.text


def test_the_claims_are_judged_from_what_is_committed() -> None:
    found = judge(CLAIMS)
    assert [one.claim for one in found] == list(CLAIMS)
    assert all(one.claim.paper == "ours" for one in found)
    assert outcome([verdict for _, verdict in found[0].evidence]) == found[0].outcome
