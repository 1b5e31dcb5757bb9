"""The committed files of a study, ``results/studies/<study>/*.csv``: how they are written, merged and read.

What all rows of a run share stands in ``runs.csv`` alone. A cell is written the same whatever other rows there are, so
that a new run adds lines and changes none; analysis/studies.py has the table of files.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Collection, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import pandas as pd

STUDIES = Path(__file__).resolve().parents[1] / "results" / "studies"


#: What names a row of each file.
KEYS = {
    "runs": ("task", "variant", "seed", "run_id"),
    "slices": ("run_id",),
    "curves": ("run_id", "step"),
    "memory": ("run_id", "step"),
    "heads": ("run_id", "layer", "head"),
    "tests": ("run_id", "test"),
}


#: Columns of runs.csv that come first; then the settings that the study varies, then all others by name.
FIRST = (
    *("run_id", "study", "arm", "model", "variant", "task", "scale", "seed"),
    *("data_source", "metric", "larger_is_better"),
)


#: Put beside slices, curves and memory.
LABELS = ("study", "model", "variant", "task", "scale", "seed", "data_source")


#: Never numbers, even where all of a column look like one: ``12e4567890`` is a hash.
_TEXT = frozenset(
    (
        *(*FIRST, "config_hash", "data_checksum", "git_sha", "torch", "python", "hardware", "device", "precision"),
        *("status", "name", "package", "commit", "date", "clock", "test"),
    )
) - {"seed", "larger_is_better"}


#: Of load_slices, load_curves, load_heads and load_tests: what runs.csv holds, and what is different each time.
_NOT_KEPT = frozenset((*LABELS, "arm", "config_hash", "folder", "split", "attempt", "time"))


def read_study(name: str, committed: Path | None = None) -> dict[str, pd.DataFrame]:
    """The committed files of a study, every cell as text; empty frames where there are none.

    Raises:
        ValueError: names the file and the line that is torn.
    """
    folder = (committed or STUDIES) / name
    tables = {kind: read_csv(folder / f"{kind}.csv") for kind in KEYS}
    known = set(tables["runs"].get("run_id", ()))
    for kind in KEYS:
        strange = set(tables[kind].get("run_id", ())) - known
        if strange:
            raise ValueError(f"{folder / kind}.csv: no row of runs.csv is {sorted(strange)[0]}: one of them is torn")
    return tables


def committed_studies(committed: Path | None = None) -> list[str]:
    """Names of the studies that have committed runs."""
    return sorted(path.parent.name for path in (committed or STUDIES).glob("*/runs.csv"))


def merge(kept: Mapping[str, pd.DataFrame], new: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Files of a study with the rows of some runs replaced or added; all other rows stay.

    So do those of a kind that the new files lack for a run, such as later tests that a copied store left behind, unless
    the run was computed again: then they are of another model, and go (:func:`describe_lost`).
    """
    again = set(new["runs"].get("run_id", ())) - _same_results(kept["runs"], new["runs"])
    tables = {}
    for kind, old in kept.items():
        stays = old[~_is_replaced(old, new[kind], kind, again)] if len(old) else old
        parts = [part for part in (stays, new[kind]) if len(part)]
        tables[kind] = _ordered(pd.concat(parts).fillna(""), kind) if parts else pd.DataFrame()
    return tables


def _same_results(kept: pd.DataFrame, new: pd.DataFrame) -> set[str]:
    """Runs that are in both with the same scores, time and code: the same computation."""
    if kept.empty or new.empty:
        return set()
    shared = [
        name
        for name in map(str, kept)
        if name in new and (name.startswith("test/") or name in ("git_sha", "wall_seconds"))
    ]
    tables = (frame[["run_id", *shared]].itertuples(index=False, name=None) for frame in (kept, new))
    before, now = ({str(run_id): facts for run_id, *facts in rows} for rows in tables)
    return {run_id for run_id, facts in now.items() if before.get(run_id) == facts}


def _is_replaced(old: pd.DataFrame, new: pd.DataFrame, kind: str, again: Collection[str]) -> pd.Series:
    """Which old rows give way: those that the new ones are about, and those of runs that were computed again."""

    def about(table: pd.DataFrame) -> pd.Series:
        return table["run_id"] + " " + table["test"] if kind == "tests" else table["run_id"]

    gone = old["run_id"].isin(list(again))
    return gone | about(old).isin(set(about(new))) if len(new) else gone


def describe_lost(kept: Mapping[str, pd.DataFrame], tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """A line for each kind of rows that some runs had before and have no more."""
    lines = []
    for kind, old in kept.items():
        gone = old[~old["run_id"].isin(tables[kind].get("run_id", ()))] if len(old) else old
        if len(gone):
            runs = ", ".join(sorted(set(gone["run_id"])))
            lines.append(f"{kind}.csv: {len(gone):,} rows went with the old results of runs computed again: {runs}")
    return lines


def write_study(name: str, tables: Mapping[str, pd.DataFrame], committed: Path | None = None) -> list[Path]:
    """Writes the committed files; what has no rows gets no file. Returns those written."""
    folder = (committed or STUDIES) / name
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, table in tables.items():
        path = folder / f"{kind}.csv"
        if len(table):
            write_csv(table, path)
            paths.append(path)
        else:
            path.unlink(missing_ok=True)
    return paths


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_suffix(".tmp")
    table.to_csv(temporary, index=False, lineterminator="\n")
    temporary.replace(path)


def as_text(frame: pd.DataFrame, kind: str) -> pd.DataFrame:
    """What a file of this kind keeps of a frame, every cell as text."""
    if frame.empty:
        return pd.DataFrame()
    if kind != "runs":
        frame = frame[[name for name in frame if name == "run_id" or name not in _NOT_KEPT]]
        frame = frame[["run_id", *(name for name in frame if name != "run_id")]]
    cells = {name: [cell_text(value) for value in values] for name, values in frame.items()}
    return _ordered(pd.DataFrame(cells, dtype=object), kind)


def _ordered(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Rows and columns in the one order of a file."""
    if kind == "runs":
        rest = sorted(set(map(str, table)) - set(FIRST))
        settings = [name for name in rest if "." in name.partition("/")[0] and "@" not in name]
        head = [name for name in FIRST if name in table]
        table = table[[*head, *settings, *(name for name in rest if name not in settings)]]
    keys = [_sortable(table[name]) for name in KEYS[kind] if name in table]
    order = sorted(range(len(table)), key=lambda row: tuple(key[row] for key in keys))
    return table.iloc[order].reset_index(drop=True)


def _sortable(cells: pd.Series) -> list[tuple[float, str]]:
    return [(float(cell), "") if cell.isdigit() else (-1.0, cell) for cell in cells]


def cell_text(value: Any) -> str:
    """A value as it stands in a file; whole numbers without a point, so that a column may gain gaps."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list | tuple | dict):
        return json.dumps(value)
    if isinstance(value, bool) or type(value).__name__ == "bool":
        return "true" if value else "false"
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Real):
        number = float(value)
        return "" if math.isnan(number) else str(int(number)) if number.is_integer() else repr(number)
    return str(value)


def read_csv(path: Path, needs: str = "run_id") -> pd.DataFrame:
    """Every cell as text; an empty frame where there is no file.

    Args:
        path: of the file.
        needs: a column that every such file has.

    Raises:
        ValueError: a line has not as many cells as the header, or the last one is cut off.
    """
    if not path.is_file():
        return pd.DataFrame()
    text = path.read_text(encoding="utf-8")
    lines = csv.reader(io.StringIO(text), strict=True)
    try:
        header = next(lines, [])
        rows = list(lines)
        for number, row in enumerate(rows, start=2):
            if len(row) != len(header):
                raise ValueError(f"line {number} has {len(row)} cells, its header {len(header)}")
        if not text.endswith("\n") or needs not in header:
            raise ValueError("it does not end with a whole line" if header else "it is empty")
    except (csv.Error, ValueError) as error:
        advice = "restore it (git checkout), or collect it again"
        raise ValueError(f"{path} is torn ({error}): {advice}") from None
    return pd.DataFrame(rows, columns=header, dtype=object)


def typed_table(table: pd.DataFrame) -> pd.DataFrame:
    """Numbers and truth values out of text; a column is what all its cells are."""
    return pd.DataFrame({name: _typed_column(str(name), cells) for name, cells in table.items()})


def _typed_column(name: str, cells: pd.Series) -> pd.Series:
    full = cells[cells != ""]
    if name in _TEXT or full.empty:
        return cells.where(cells != "", None)
    if full.isin(["true", "false"]).all():
        flags = cells.map({"true": True, "false": False})
        return flags.astype(bool) if len(full) == len(cells) else flags
    try:
        return pd.to_numeric(cells.where(cells != "", None))
    except ValueError:
        return cells.where(cells != "", None)
