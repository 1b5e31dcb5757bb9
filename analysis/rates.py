"""Whether a variant loses for lack of a learning rate: its scores by rate, and at the rate that validation chooses.

All variants get the same rates and seeds, and nothing but the validation split chooses.
"""

from __future__ import annotations

import pandas as pd

from analysis.matrix import score_cell, scored, variants_of
from analysis.readme import markdown
from analysis.statistics import mean_interval
from analysis.studies import Study

RATE = "trainer.learning_rate"


def chosen_rates(study: Study) -> dict[str, float]:
    """The rate of each variant that is best on validation, mean over seeds.

    A rate that lacks seeds which another has is left out: one lucky seed chooses nothing.

    Args:
        study: ``text_rates``, whose task's score is better when larger.
    """
    runs = study.runs
    if runs.empty:
        return {}
    validated = runs.assign(validation=[row[f"val/{row['metric']}"] for row in runs.to_dict("records")])
    table = validated.groupby(["variant", RATE])["validation"].agg(["mean", "count"]).reset_index()
    whole = table[table["count"] == table.groupby("variant")["count"].transform("max")]
    best = whole.loc[whole.groupby("variant")["mean"].idxmax()]
    return {str(name): float(rate) for name, rate in zip(best["variant"], best[RATE], strict=True)}


def at_chosen_rates(study: Study) -> pd.DataFrame:
    """The runs of each variant at the rate that validation chose, with their ``score`` on the test split."""
    runs, chosen = scored(study), chosen_rates(study)
    return runs[runs[RATE] == runs["variant"].map(chosen)] if len(runs) else runs


def rates_table(study: Study) -> str:
    """Variants by rates: mean, interval and n on the test split; then the rate that validation chose. Markdown."""
    runs, chosen = scored(study), chosen_rates(study)
    both = [frame[RATE] for frame in (study.runs, study.missing) if len(frame)]
    rates = sorted({float(rate) for column in both for rate in column})
    lines = []
    for name in variants_of(study):
        own = runs[runs["variant"] == name]
        cells = [score_cell(mean_interval(own.loc[own[RATE] == rate, "score"] if len(own) else [])) for rate in rates]
        lines.append([f"`{name}`", *cells, f"{chosen[name]:g}" if name in chosen else ""])
    note = (
        "Test score in %: mean over seeds (95 % bootstrap interval). Chosen: the rate with the best mean score on the "
        "validation split, of those that have all seeds; no claim that it is better than the others."
    )
    return "\n\n".join([markdown(["`model=`", *(f"{rate:g}" for rate in rates), "chosen by validation"], lines), note])
