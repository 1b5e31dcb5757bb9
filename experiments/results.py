"""Reading the store: every result, metric and slice as a data frame. analysis/ knows the engine through this alone.

    load_results().groupby(["task", "data_source", "variant"])["test/accuracy"].agg(["mean", "count"])

Always group by ``data_source``: the official data and their stand-in are different tests.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.config import StoreConfig

#: Columns of a result that are put beside each slice, so that slices can be grouped alone.
_LABELS = ("run_id", "config_hash", "study", "model", "variant", "task", "scale", "seed", "data_source")


def load_results(root: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """One row per finished run: the fields of result.json, and ``folder``. Torn files are named in a warning.

    Args:
        root: the results folder, its runs/ folder, or any folder above runs; default: where runs are stored.
    """
    rows = [{**result, "folder": str(folder)} for folder, result in _results(root)]
    return pd.DataFrame(rows)


def load_metrics(run: str | os.PathLike[str]) -> pd.DataFrame:
    """The rows of a run's metrics.jsonl, in order.

    Args:
        run: a run folder, such as the ``folder`` column of :func:`load_results` holds.
    """
    path = Path(run) / "metrics.jsonl"
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            warnings.warn(f"left out a torn line of {path}", stacklevel=2)
    return pd.DataFrame(rows)


def load_slices(root: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """The slices of all finished runs below ``root`` (see :func:`load_results`), each beside its run's labels."""
    frames = []
    for folder, result in _results(root):
        path = folder / "slices.csv"
        try:
            frame = pd.read_csv(path)
        except (FileNotFoundError, pd.errors.EmptyDataError):
            continue
        labels = {key: result.get(key) for key in _LABELS if key not in frame}
        frames.append(frame.assign(**labels, folder=str(folder)))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _results(root: str | os.PathLike[str] | None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Folder and content of every result.json that can be read, sorted by folder."""
    top = StoreConfig().runs if root is None else Path(root).expanduser()
    if (top / "runs").is_dir():
        top = top / "runs"
    for path in sorted(top.rglob("result.json")):
        try:
            result = json.loads(path.read_bytes())
        except (OSError, ValueError):
            result = None
        if isinstance(result, dict):
            yield path.parent, result
        else:
            warnings.warn(f"left out {path}: it is torn (no complete JSON)", stacklevel=3)
