"""The rows of a study that measures speed (mode=bench): ``results/studies/<study>/bench.csv``, and the store's own.

One row for each arm or package, length and phase, with what it was measured on. A row belongs to the study and the
scale that it is labelled with, and to no other.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.study_files import STUDIES, read_csv, typed_table, write_csv
from experiments.results import load_bench

if TYPE_CHECKING:
    from experiments.results import StudyPlan

#: What tells two rows of a study apart: a newer measurement takes the place of the older, whatever it was made on.
KEY = ("scale", "name", "phase", "length")

#: One study is one machine, one precision, one size of everything that all variants have.
SAME = (
    *("task", "width", "depth", "num_heads", "ffn_width", "piece_len", "batch_size"),
    *("device", "precision", "compiled", "threads", "clock", "hardware", "torch"),
)

#: Those that an arm may have of its own, but the same at all lengths.
SAME_IN_ARM = ("segment_len", "memory_len")


def read_bench(name: str, committed: Path | None = None) -> pd.DataFrame:
    """The committed rows of a study, every cell as text; an empty frame where there are none.

    Raises:
        ValueError: names the file and the line that is torn.
    """
    return read_csv((committed or STUDIES) / name / "bench.csv", "name")


def live_bench(name: str, root: str | os.PathLike[str] | None = None, scale: str | None = None) -> pd.DataFrame:
    """The rows of the store that carry a study's label, every cell as text.

    Args:
        name: of the study.
        root: the store; default: where runs are stored.
        scale: of these rows alone.

    Raises:
        ValueError: there is no such folder, or its ``bench.csv`` cannot be read or holds two measurements of the same.
    """
    if root is not None and not Path(root).expanduser().is_dir():
        raise ValueError(f"{root} is no folder: name a results folder")
    rows = load_bench(root)
    if rows.empty:
        return rows
    rows = rows[(rows["study"] == name) & (rows["scale"].isin([scale]) | (scale is None))]
    rows = rows.fillna("").replace({"True": "true", "False": "false"}).reset_index(drop=True)
    for _, twins in rows.groupby(list(KEY), sort=False):
        refuse_mixed_rows(typed_table(twins), name)
        if len(twins) > 1:
            first = twins.iloc[0]
            what = f"{first['name']}, {first['phase']}, {first['length']} tokens"
            raise ValueError(f"study {name}: {what} stands {len(twins)} times in the store's bench.csv: keep one row")
    return rows


def merge_bench(kept: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Rows of a study with some replaced or added, in the one order of its file."""
    parts = [part for part in (kept, new) if len(part)]
    if not parts:
        return pd.DataFrame()
    rows = pd.concat(parts, ignore_index=True).fillna("").drop_duplicates(list(KEY), keep="last")
    order = rows.assign(length=rows["length"].astype(int)).sort_values(list(KEY)).index
    return rows.loc[order].reset_index(drop=True)


def write_bench(name: str, rows: pd.DataFrame, committed: Path | None = None) -> Path:
    """Writes the committed rows of a study; returns the file."""
    path = (committed or STUDIES) / name / "bench.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_csv(rows, path)
    return path


def refuse_mixed_rows(rows: pd.DataFrame, study: str) -> None:
    """One figure of speed is of one machine, one precision and one size.

    Raises:
        ValueError: names what is mixed, and the way out.
    """
    way_out = "measure all anew on one, or take the rows of the other out of bench.csv"
    for column in SAME:
        if len(values := _values(rows[column])) > 1:
            raise ValueError(f"study {study} mixes {column}: {', '.join(values)}; {way_out}")
    for column in SAME_IN_ARM:
        for name, own in rows.groupby("name", sort=False):
            if len(values := _values(own[column])) > 1:
                raise ValueError(f"study {study}, {name} mixes {column}: {', '.join(values)}; {way_out}")


def _values(column: pd.Series) -> list[str]:
    return sorted(map(str, column.dropna().unique()))


def arm_names(plan: StudyPlan) -> dict[str, Any]:
    """What the rows of each job are called, and the job: its arm, or its variant where the study has no arms."""
    return {job.arm or job.variant: job for job in plan.jobs}


def missing_rows(plan: StudyPlan, rows: pd.DataFrame) -> pd.DataFrame:
    """What is not measured: ``name, variant, task, length, reason, command``, one row for each arm and length.

    Args:
        plan: of the study.
        rows: of the study, also those whose ``status`` is not ok.
    """
    variants = (
        rows[rows["package"].isna()] if len(rows) else pd.DataFrame(columns=["name", "length", "phase", "status"])
    )
    phases = {"train", *variants["phase"]}  # a classifier is not streamed
    found = []
    for name, job in arm_names(plan).items():
        for length in plan.lengths:
            own = variants[(variants["name"] == name) & (variants["length"] == length)]
            if set(own.loc[own["status"] == "ok", "phase"]) >= phases:
                continue
            reason = next((str(status) for status in own["status"] if status != "ok"), "")
            found.append([name, job.variant, job.task, length, reason, job.command])
    return pd.DataFrame(found, columns=["name", "variant", "task", "length", "reason", "command"])


def in_order(plan: StudyPlan, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows that were measured, in the order of the study's arms; packages behind the arms of their variant."""
    if rows.empty:
        return rows
    arms = list(arm_names(plan))
    variants = [job.variant for job in arm_names(plan).values()]
    is_peer = rows["package"].notna()
    # The last arm of a variant, so that packages stand behind all of these.
    last = {variant: place for place, variant in enumerate(variants)}
    places = rows["name"].map({name: place for place, name in enumerate(arms)})
    places = places.where(~is_peer, rows["variant"].map(last)).fillna(len(arms))
    table = rows.assign(_place=places, _peer=is_peer, _phase=rows["phase"] != "train")
    table = table[table["status"] == "ok"].sort_values(["_place", "_peer", "name", "_phase", "length"])
    return table.drop(columns=["_place", "_peer", "_phase"]).reset_index(drop=True)
