"""Studies of our own comparison as if they had been run, with slices, and a measured ``efficiency``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd

from analysis.studies import Study, load_study
from tests.analysis.papers.made_studies import made_study

Row = dict[str, Any]


def compared(
    name: str,
    score: Callable[[Any], float],
    *,
    keep: Callable[[Any], bool] = lambda job: True,
    fields: Callable[[Row], Row] | None = None,
    slices: Callable[[Row], list[Row]] | None = None,
) -> Study:
    """A study whose runs have all that the comparison asks for.

    Args:
        name: of the study.
        score: headline of a job on the test split.
        keep: which jobs are done.
        fields: more of a run: what its row holds instead.
        slices: of a run, by its row.
    """
    study = made_study(name, score, keep=keep, floor=0.2)
    rows = []
    for found in study.runs.to_dict("records"):
        row = {str(key): value for key, value in found.items()}
        loss = row["task"] == "lm_text"
        far = 3.0 if row["variant"] == "block_window" else None
        full = {"larger_is_better": not loss, "model": row["variant"], "state_size": 64, "reach_blocks": far, **row}
        rows.append({**full, **(fields(full) if fields else {})})
    labels = ("run_id", "variant", "task", "seed", "scale", "data_source")
    parts = [{**{key: row[key] for key in labels}, **part} for row in rows for part in (slices(row) if slices else [])]
    return replace(study, runs=pd.DataFrame(rows), slices=pd.DataFrame(parts))


def measured_costs(speeds: dict[str, tuple[float, int]]) -> Study:
    """The study ``efficiency``: tokens per second and state of some variants, and a package that is faster than all.

    Args:
        speeds: by variant.
    """
    rows = [
        {
            "name": name,
            "variant": variant,
            "package": package,
            "length": length,
            "phase": phase,
            "tokens_per_second": speed * more * 1024 / length,
            "added_bytes": 2**20 * state,
            "state_size": state,
        }
        for variant, (speed, state) in speeds.items()
        for name, package, more in ((variant, None, 1), (f"{variant} of a package", "package", 100))
        for length in (1024, 4096)
        for phase in ("train", "stream")
    ]
    return replace(load_study("efficiency", live=False), bench=pd.DataFrame(rows))
