"""Variants by tasks: the right numbers in the right cells, and no mean over a matrix with gaps."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from analysis.matrix import (
    ORDER,
    Block,
    aggregates,
    complete_block,
    differences_table,
    mean_ranks,
    scores_table,
    variants_of,
)
from analysis.studies import Study
from experiments.results import load_jobs
from tests.analysis.comparisons import compared
from tests.analysis.papers.made_studies import nothing, seeds


def score(job: Any) -> float:
    """The later in the order, the better; on lm_text a loss, so that the order turns round."""
    return 0.3 + 0.03 * ORDER.index(job.variant) + 0.002 * job.seed


def without(variant: str, task: str) -> Any:
    return lambda job: (job.variant, job.task) != (variant, task)


def rows_of(table: str) -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    return {cells[0].strip("`"): cells[1:] for cells in lines}


def test_the_order_is_that_of_the_study() -> None:
    assert tuple(dict.fromkeys(job.variant for job in load_jobs("overview").jobs)) == ORDER
    assert variants_of(compared("overview", score, keep=nothing)) == list(ORDER)


def test_cells_hold_mean_interval_and_n_and_only_what_stands_apart_is_bold() -> None:
    rows = rows_of(scores_table(compared("overview", score)))
    assert rows["`model=`".strip("`")][:3] == [f"`{task}` accuracy, % (floor 20.0)" for task in _TASKS]
    assert rows["transformer"][0] == "30.2 (30.0 to 30.4), n = 3"
    assert rows["infini_delta"][0] == "**78.2** (78.0 to 78.4), n = 3"
    assert sum("**" in cell for cells in rows.values() for cell in cells) == 4  # three tasks and their aggregate
    assert rows["infini_delta"][3:] == ["**0.728** (0.726 to 0.729), n = 3", "1.0 (1.0 to 1.0)"]


_TASKS = ("lra_listops", "lra_text", "passkey")


def test_what_was_not_run_is_said_and_never_joined_into_a_mean() -> None:
    study = compared("overview", score, keep=without("fam", "passkey"))
    table = scores_table(study)
    rows = rows_of(table)
    assert rows["fam"][2] == "not run"
    assert rows["fam"][3].endswith(", n = 3, over `lra_listops`, `lra_text` only")
    assert len(rows["fam"]) == 4  # no rank
    assert "over" not in rows["luna"][3]
    assert "among 16 variants" in table
    assert "**" not in rows["infini_delta"][2] + rows["infini_delta"][3]
    assert "**" in rows["infini_delta"][0]


def test_single_seeds_have_no_interval_and_no_bold() -> None:
    table = scores_table(compared("overview", score, keep=seeds(0)))
    assert rows_of(table)["infini_delta"] == ["78.0, n = 1"] * 3 + ["0.725, n = 1", "1.0"]
    assert "**" not in table


def test_a_table_of_nothing_says_not_run() -> None:
    study = compared("overview", score, keep=nothing)
    assert rows_of(scores_table(study))["luna"][:3] == ["not run"] * 3
    assert set(rows_of(differences_table(study))["luna"]) == {"not run"}
    assert aggregates(study) == (Block([], []), {})
    assert mean_ranks(study)[1].empty


def test_a_loss_counts_in_ranks_and_not_in_the_aggregate() -> None:
    study = compared("overview_all", score, keep=lambda job: job.task in ("lm_text", "mqar"))
    table = scores_table(study)
    assert "`lm_text` accuracy, less is better (floor 0.200)" in table
    assert aggregates(study)[0].tasks == ["mqar"]
    block, ranks = mean_ranks(study)
    assert block.tasks == ["lm_text", "mqar"]
    assert set(ranks["mean"]) == {(1 + len(ORDER)) / 2}  # first on one, last on the other
    column = sorted(name for name in table.split("`") if name.startswith("lra"))
    assert "lra_image" in column
    assert rows_of(table)["transformer"][0].startswith("**0.302**")


@pytest.mark.parametrize(
    ("gaps", "expected"),
    [
        ([], Block(["a", "b", "c"], ["x", "y", "z"])),
        ([("a", "x")], Block(["a", "b", "c"], ["y", "z"])),
        ([("a", "x"), ("a", "y"), ("a", "z")], Block(["b", "c"], ["x", "y", "z"])),
        ([("a", "x"), ("a", "y")], Block(["b", "c"], ["x", "y", "z"])),
    ],
)
def test_the_largest_part_without_a_gap(gaps: list[tuple[str, str]], expected: Block) -> None:
    pairs = [(task, variant) for task in "abc" for variant in "xyz" if (task, variant) not in gaps]
    assert complete_block(pd.DataFrame(pairs, columns=["task", "variant"])) == expected


def test_differences_are_paired_and_in_points() -> None:
    study = compared("overview", score, keep=without("fam", "passkey"))
    rows = rows_of(differences_table(study))
    assert "transformer" not in rows
    assert rows["local"][0] == "+3.0 (+3.0 to +3.0), g = +12.0, n = 3"
    assert rows["fam"][2] == "not run"
    lonely: Study = compared("overview", score, keep=lambda job: job.seed == (job.variant == "transformer"))
    assert rows_of(differences_table(lonely))["luna"] == ["no seed in common"] * 3
