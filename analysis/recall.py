"""Recall against what a memory costs it: by number of pairs, by numbers carried, by writes in between."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.matrix import score_cell, scored
from analysis.passkey import pooled
from analysis.readme import markdown
from analysis.statistics import Interval, bold, mean_interval
from analysis.studies import Study


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

    Args:
        study: ``overview``, or another with runs on ``passkey``.
        depth: of the key in the prompt; default: all depths, pooled.

    Returns:
        One row for each variant, seed and length: labels, ``length_blocks, length_tokens, factor`` (in lengths of
        training), ``n`` prompts and their ``exact_match``.
    """
    labels = ["task", "variant", "seed", "scale", "data_source"]
    keys = [*labels, "length_blocks", "length_tokens", "factor"]
    tests = [study.slices, *(rows for _, rows in study.tests.groupby("test"))] if len(study.tests) else [study.slices]
    tests = [rows[rows["task"] == "passkey"] for rows in tests if len(rows)]
    tests = [rows if depth is None else rows[rows["depth"] == depth] for rows in tests if len(rows)]
    if not any(map(len, tests)):
        return pd.DataFrame(columns=[*keys, "n", "exact_match"])
    found = pd.concat([pooled(rows, keys, "exact_match") for rows in tests if len(rows)])
    # Beside slices of other tasks, which have no blocks, whole numbers are none.
    found = found.astype({"length_blocks": int, "length_tokens": int})
    # The own test stands first: a later one counts where it goes further, and one of several that go as far.
    return found.drop_duplicates(["variant", "seed", "length_blocks"], ignore_index=True)
