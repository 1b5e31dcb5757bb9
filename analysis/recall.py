"""Recall against what a memory costs it: by number of pairs, by numbers carried, by writes in between."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.matrix import score_cell, scored
from analysis.passkey import pooled
from analysis.readme import markdown
from analysis.statistics import Interval, bold, mean_interval
from analysis.studies import Study

#: What tells the runs of one study apart here.
_RUN = ("task", "variant", "seed")


def recall_by_pairs(study: Study) -> pd.DataFrame:
    """Accuracy over all queries of a number of pairs.

    Args:
        study: ``state_size``.

    Returns:
        Columns ``run_id, variant, seed, state_size, num_kv_pairs, accuracy``, and ``trained``: on as many or not.
    """
    keys = ["run_id", "variant", "seed", "num_kv_pairs"]
    if study.slices.empty or "num_kv_pairs" not in study.slices:
        return pd.DataFrame(columns=[*keys, "state_size", "accuracy", "trained"])
    trained = study.slices.groupby("num_kv_pairs")["trained"].any()
    found = pooled(study.slices, keys, "accuracy")
    found = found.assign(trained=found["num_kv_pairs"].map(trained))
    return found.merge(study.runs[["run_id", "state_size"]], on="run_id")


def best_per_state(study: Study) -> str:
    """Which variant recalls most with at most so many numbers carried along time. Markdown.

    Of each variant the arm counts that fills the budget best, not the one that scores best: nothing is chosen by test.
    """
    runs = scored(study)
    header = [
        "numbers carried, at most",
        "best",
        "accuracy, %",
        "next",
        "accuracy, %",
        "intervals apart from all others",
    ]
    sizes = runs["state_size"].astype(float) if len(runs) else pd.Series(dtype=float)
    lines = []
    for power in range(int(np.ceil(np.log2(max(1.0, sizes.max())))) + 1 if len(runs) else 0):
        entries = _within(runs, 2**power)
        if len(entries) < 2:
            continue
        order = sorted(entries, key=lambda name: -entries[name].mean)
        apart = bold([entries[name] for name in order])[0]
        cells = [text for name in order[:2] for text in (f"`{name}`", score_cell(entries[name]))]
        lines.append([f"{2**power:,}", *cells, "yes" if apart else "no"])
    lines = [line for row, line in enumerate(lines) if row == 0 or line[1:] != lines[row - 1][1:]]
    return markdown(header, lines) if lines else f"No two variants of study `{study.name}` were run."


def _within(runs: pd.DataFrame, budget: float) -> dict[str, Interval]:
    """The scores of each variant's largest arm within a budget."""
    found = {}
    for variant, rows in runs[runs["state_size"] <= budget].groupby("variant"):
        largest = rows[rows["state_size"] == rows["state_size"].max()]
        found[str(variant)] = mean_interval(largest["score"])
    return found


def written_between(study: Study) -> pd.DataFrame:
    """Slices whose fact stands at the very start, with ``writes``: how many blocks end between it and its question."""
    slices = study.slices
    if slices.empty:
        return pd.DataFrame(
            columns=["task", "variant", "seed", "writes", "exact_match", "factor", "scale", "data_source"]
        )
    first = slices["task"] == "memory_ops"
    if "depth" in slices:
        first |= slices["depth"] == 0
    slices = slices[first].assign(
        writes=slices["length_blocks"] - 1
    )  # of memory_ops: the fact is all of the first block
    if "blocks_between" in slices:
        slices["writes"] = slices["blocks_between"].fillna(slices["writes"])
    keys = ["task", "variant", "seed", "scale", "data_source", "length_blocks", "factor", "writes"]
    return pooled(slices, keys, "exact_match")


def recall_by_length(study: Study, *, depth: float | None = None) -> pd.DataFrame:
    """Exact match of a passkey by length: the runs' own test, and tests beyond it that came later.

    A length that a run's own test has is that test's alone. Of several later ones that with the most prompts counts,
    depth by depth.

    Args:
        study: ``overview``, or another with runs on ``passkey``.
        depth: of the key in the prompt; default: the mean over those that a length was tested at.

    Returns:
        One row for each variant, seed and length: labels, ``length_blocks, length_tokens, factor`` (in lengths of
        training), ``n`` prompts and their ``exact_match``.
    """
    keys = [*_RUN, "scale", "data_source", "length_blocks", "length_tokens", "factor"]
    own, later = (_by_depth(rows, [*keys, "depth"], depth) for rows in (study.slices, study.tests))
    if own.empty and later.empty:
        return pd.DataFrame(columns=[*keys, "n", "exact_match"])
    places = pd.MultiIndex.from_frame(own[[*_RUN, "length_blocks"]])
    later = later[~pd.MultiIndex.from_frame(later[[*_RUN, "length_blocks"]]).isin(places)]
    found = pd.concat([rows for rows in (own, later) if len(rows)]).groupby(keys, sort=False, as_index=False)
    table = found.agg(n=("n", "sum"), exact_match=("exact_match", "mean"))
    # Beside slices of other tasks, which have no blocks, whole numbers are none.
    return table.astype({"length_blocks": int, "length_tokens": int})


def _by_depth(slices: pd.DataFrame, keys: list[str], depth: float | None) -> pd.DataFrame:
    """Passkey's cells; of one that several tests have, that of the most prompts."""
    rows = slices[slices["task"] == "passkey"] if len(slices) else slices
    rows = rows[rows["depth"] == depth] if len(rows) and depth is not None else rows
    if rows.empty:
        return pd.DataFrame(columns=[*keys, "n", "exact_match"])
    tests = [cells for _, cells in rows.groupby("test")] if "test" in rows else [rows]
    cells = pd.concat([pooled(one, keys, "exact_match") for one in tests])
    if len(tests) == 1:
        return cells
    return cells.sort_values("n", ascending=False, kind="stable").drop_duplicates(keys)
