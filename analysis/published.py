"""The papers' own numbers, out of ``results/published.csv``, to stand beside what was measured here.

    rows = published(task="lra_text", variant="luna", metric="accuracy")
    rows["value"], setting_values(rows, "memory_len")

A row is one number as a paper gives it. Nothing is rounded, converted or joined: what two papers say about one model
are two rows. The columns, all text but ``value``, ``n`` and ``settings``:

| column | holds |
|---|---|
| ``paper``, ``arxiv`` | a short key of the paper that the number stands in, and its arXiv id where that is known |
| ``where`` | the place in the paper: ``table 2``, ``figure 4b``, ``section 3.2``, or a name where no number is known |
| ``model`` | as the paper names it |
| ``variant``, ``task`` | what corresponds here (``conf/model``, ``conf/task``), empty where nothing does |
| ``dataset`` | as the paper names it |
| ``setting`` | ``key=value; key=value``, keys sorted, each once: what else tells the row from its neighbours |
| ``metric``, ``value``, ``unit`` | the number; ``value`` is NaN where it is known not to be known |
| ``split`` | ``test``, ``val``, or empty where it is not said |
| ``error``, ``n`` | reported deviation or interval, number of seeds; empty where not reported |
| ``status`` | see :data:`STATUSES` |
| ``source`` | section of the reading notes, and the place in the paper that they rest on |
| ``note`` | doubts, and where two places contradict each other |
| ``settings`` | ``setting`` as a dictionary: added by :func:`load_published` |

Keys of a setting are names of our options where there is one (``memory_len``, ``memory_blocks``, ``fam_len``); the
others stand in ``results/README.md``.
"""

from __future__ import annotations

import csv
import difflib
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

RESULTS = Path(__file__).resolve().parents[1] / "results"

COLUMNS = (
    *("paper", "arxiv", "where", "model", "variant", "task", "dataset", "setting", "metric", "value", "unit"),
    *("split", "error", "n", "status", "source", "note"),
)

#: What ``status`` says of a value.
STATUSES = {
    "stated": "printed as a number in the paper, or in what the source says it was copied from",
    "read": "read off a plot, out of its drawing commands, or from a script that redraws it",
    "derived": "recomputed from other numbers or from the authors' result files",
    "not_found": "no number could be had: the row keeps its place and has no value",
}

Setting = dict[str, bool | int | float | str]


def load_published(path: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """All rows: ``value`` as float, ``n`` as nullable integer, ``settings`` as dictionaries, all else as text.

    Args:
        path: another file of the same form; default: the committed one.

    Raises:
        ValueError: names the file, the line and what is wrong with it.
    """
    file = RESULTS / "published.csv" if path is None else Path(path)
    if not file.is_file():
        raise ValueError(f"{file} is not there: it is written by hand and committed, nothing makes it anew")
    rows = []
    try:
        with file.open(encoding="utf-8", newline="") as text:
            lines = csv.reader(text, strict=True)
            _check_header(file.name, next(lines, []))
            for cells in lines:
                rows.append(_row(cells, f"{file.name}, line {lines.line_num}"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{file.name} is not UTF-8: byte {error.start}") from None
    except csv.Error as error:
        raise ValueError(f"{file.name}, line {lines.line_num}: {error}") from None
    frame = pd.DataFrame(rows, columns=[*COLUMNS, "settings"])
    text_columns = {name: "str" for name in COLUMNS if name not in ("value", "n")}
    return frame.astype({**text_columns, "value": float, "n": "Int64"})


def published(
    *,
    setting: Mapping[str, bool | int | float | str] | None = None,
    not_found: bool = False,
    path: str | os.PathLike[str] | None = None,
    **columns: str | Collection[str],
) -> pd.DataFrame:
    """Rows with a value whose named columns hold what is asked for: ``published(paper="fam", where="table 5")``.

    Args:
        setting: what a row's settings must hold; they may hold more.
        not_found: also the rows without a value.
        path: as for :func:`load_published`.
        columns: a column's value, or several of which one must fit. A variant or a task of which no paper says anything
            gives no rows.

    Raises:
        ValueError: there is no such column, or no row of the file holds such a value in it (``variant`` and ``task``
            aside).
    """
    rows = load_published(path)
    fits = pd.Series(True, index=rows.index)
    for name, asked in columns.items():
        if name not in COLUMNS or name in ("value", "n", "setting"):
            raise ValueError(f"published.csv cannot be asked by {name!r}{_close(name, set(COLUMNS))}")
        wanted = [asked] if isinstance(asked, str) else list(asked)
        known = set(rows[name])
        strange = [value for value in wanted if value not in known]
        if strange and name not in ("variant", "task"):
            raise ValueError(f"published.csv has no {name} {strange[0]!r}{_close(strange[0], known)}")
        fits &= rows[name].isin(wanted)
    if setting is not None:
        fits &= pd.Series([setting.items() <= found.items() for found in rows["settings"]], index=rows.index)
    if not not_found:
        fits &= rows["status"] != "not_found"
    return rows[fits].reset_index(drop=True)


def setting_values(rows: pd.DataFrame, key: str) -> pd.Series:
    """What each row's settings hold under a key; None where they hold nothing."""
    return pd.Series([settings.get(key) for settings in rows["settings"]], index=rows.index, name=key, dtype=object)


def parse_setting(text: str) -> Setting:
    """``"memory_len=16; tied=true"`` as ``{"memory_len": 16, "tied": True}``.

    Raises:
        ValueError: a part is not ``key=value``, or the keys are not sorted, or one stands twice.
    """
    parts = [part.partition("=") for part in text.split("; ")] if text else []
    for key, equals, value in parts:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", key) or not re.fullmatch(r"[^\s=;]([^=;]*[^\s=;])?", value):
            raise ValueError(f"setting {text!r}: {key + equals + value!r} is not key=value; parts are joined by '; '")
    keys = [key for key, _, _ in parts]
    if keys != sorted(set(keys)):
        raise ValueError(f"setting {text!r}: keys must be sorted, and each stand once")
    return {key: _typed(value) for key, _, value in parts}


def _typed(value: str) -> bool | int | float | str:
    if value in ("true", "false"):
        return value == "true"
    if re.fullmatch(r"-?\d+", value):
        return int(value)
    return float(value) if re.fullmatch(r"-?\d+\.\d+", value) else value


def _check_header(name: str, header: list[str]) -> None:
    if header != list(COLUMNS):
        missing = [column for column in COLUMNS if column not in header]
        unknown = [column for column in header if column not in COLUMNS]
        wrong = f"missing {', '.join(missing)}" if missing else f"unknown {', '.join(unknown)}" if unknown else "order"
        raise ValueError(f"{name}, line 1: columns must be {','.join(COLUMNS)} ({wrong})")


def _row(cells: list[str], where: str) -> dict[str, Any]:
    """A line's cells, checked as far as no other line is needed for it."""
    if len(cells) != len(COLUMNS):
        raise ValueError(f"{where}: {len(cells)} cells, expected {len(COLUMNS)}")
    row: dict[str, Any] = dict(zip(COLUMNS, cells, strict=True))
    if row["status"] not in STATUSES:
        raise ValueError(f"{where}: status {row['status']!r} is none of {', '.join(STATUSES)}")
    if (row["status"] == "not_found") != (row["value"] == ""):
        raise ValueError(f"{where}: a value stands in every row but those of status not_found")
    if row["value"] and not re.fullmatch(r"-?\d+(\.\d+)?", row["value"]):
        raise ValueError(f"{where}: value {row['value']!r} is not a plain number")
    if row["n"] and not re.fullmatch(r"[1-9]\d*", row["n"]):
        raise ValueError(f"{where}: n {row['n']!r} is not a number of seeds")
    try:
        row["settings"] = parse_setting(row["setting"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    row["value"] = float(row["value"] or "nan")
    row["n"] = int(row["n"]) if row["n"] else None
    return row


def _close(word: str, known: set[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    shown = sorted(known - {""})[:12]
    return f": did you mean {near[0]!r}?" if near else f"; there are: {', '.join(shown)}{' ...' * (len(known) > 12)}"
