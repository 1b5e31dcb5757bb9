"""Scores by learning rate: validation chooses, of rates that have all seeds, and the test split is not asked."""

from __future__ import annotations

from typing import Any

from analysis.claims.overview import at_own_rate
from analysis.rates import RATE, at_chosen_rates, chosen_rates, rates_table
from analysis.studies import Study
from tests.analysis.comparisons import Row, compared
from tests.analysis.papers.made_studies import nothing


def score(job: Any) -> float:
    """On the test split the fastest rate is best, and Luna is as good as its rate."""
    return 0.6 + (job.settings[RATE] if job.variant == "luna" else 0.0) + 0.001 * job.seed


def validated(row: Row) -> Row:
    """On the validation split the slowest is best, and the fastest has a seed of luck."""
    lucky = row[RATE] == 0.004 and row["seed"] == 1
    return {"val/accuracy": 0.9 if lucky else 0.6 - row[RATE]}


def made(keep: Any = lambda job: True) -> Study:
    return compared("text_rates", score, keep=keep, fields=validated)


def test_validation_chooses_and_the_mean_of_all_seeds_counts() -> None:
    assert chosen_rates(made(lambda job: job.seed != 1))["luna"] == 0.001
    assert chosen_rates(made())["luna"] == 0.004, "its mean"
    lucky_alone = made(lambda job: job.seed == 1 or job.settings[RATE] != 0.004)
    assert chosen_rates(lucky_alone)["luna"] == 0.001, "one seed against three"
    rows = at_chosen_rates(lucky_alone)
    assert set(rows[RATE]) == {0.001}
    assert set(rows["variant"]) == set(made().runs["variant"])
    assert chosen_rates(made(nothing)) == {}


def test_the_table_has_all_rates_and_names_the_chosen_one() -> None:
    lines = rates_table(made(lambda job: job.seed != 1 and job.variant != "fam")).splitlines()
    assert lines[0] == "| `model=` | 0.001 | 0.002 | 0.004 | chosen by validation |"
    luna = next(line for line in lines if line.startswith("| `luna`"))
    assert luna == (
        "| `luna` | 60.2 (60.1 to 60.3), n = 2 | 60.3 (60.2 to 60.4), n = 2 | 60.5 (60.4 to 60.6), n = 2 | 0.001 |"
    )
    assert "| `fam` | not run | not run | not run |  |" in lines


def test_a_claim_holds_variants_against_each_other_at_their_own_rates() -> None:
    study = made()
    assert at_own_rate("luna", "transformer", margin=0.01)(study).value == "supported"
    assert at_own_rate("luna", "transformer")(study).reason.startswith("0.004 against 0.004: difference 0.004 ")
    assert at_own_rate("luna", "transformer")(made(nothing)).value == "not tested"
