"""The rows of ``bench.csv``: what tells two apart, and how they are read and kept. Loads no torch."""

from __future__ import annotations

import fcntl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.errors import ConfigError, first_line
from experiments.store import atomic_path

#: Whose measurement a row is. Files from before there were such columns have rows of no study.
LABELS = ("study", "scale")

#: What tells two rows apart: a newer measurement of the same takes the place of the older.
KEY = [
    *LABELS,
    *("name", "task", "width", "depth", "num_heads", "ffn_width", "segment_len", "memory_len", "piece_len"),
    *("batch_size", "length", "phase", "device", "precision", "compiled", "threads", "hardware"),
]


def read_rows(path: Path) -> pd.DataFrame:
    """What was measured before, every cell as text or NaN; an empty frame where there is no file.

    Raises:
        ConfigError: the file is there, but holds something else.
    """
    if not path.exists():
        return pd.DataFrame()
    try:
        table = pd.read_csv(path, dtype=object)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({first_line(error)}): move it away") from error
    table = table.reindex(columns=list(dict.fromkeys([*LABELS, *table]))).astype(object)
    if missing := [column for column in KEY if column not in table]:
        raise ConfigError(f"{path}: has no column {missing[0]}, so it is not of mode=bench as it is now: move it away")
    return table


def keep_row(row: Mapping[str, Any], path: Path) -> None:
    """Adds a row to the table, in the place of an older one of the same. Two processes may do so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # closing the file gives it back
        table, old = pd.DataFrame([row]).astype(object), read_rows(path)
        if len(old):
            # As text, since a table that is read back has nothing else.
            table = pd.concat([old[_keys(old) != _keys(table).iloc[0]], table], ignore_index=True)
        with atomic_path(path) as temporary:
            table.to_csv(temporary, index=False)


def _keys(table: pd.DataFrame) -> pd.Series:
    return table[KEY].fillna("").astype(str).agg("\t".join, axis=1)
