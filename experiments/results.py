"""Reading the store: every result, metric and slice as a data frame, and the intervals that go with them.

analysis/ knows the engine through this alone.

    load_results().groupby(["task", "data_source", "variant"])["test/accuracy"].agg(["mean", "count"])

Always group by ``data_source``: the official data, another split of them and a stand-in are different tests.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from experiments.config import RunConfig, StoreConfig
from experiments.errors import StoreError

LEVEL = 0.95
_Z = 1.959964  # the normal distribution's two-sided 95 % point
_DRAWS = 10_000

#: Columns of a result that are put beside each slice, so that slices can be grouped alone.
_LABELS = ("run_id", "config_hash", "study", "arm", "model", "variant", "task", "scale", "seed", "data_source")


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval for a share of ``n`` independent examples (Wilson 1927)."""
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap(values: Sequence[float]) -> tuple[float, float]:
    """Percentile bootstrap of the mean, 95 %; the draws are the same each time."""
    draws = np.random.default_rng(0).choice(np.asarray(values, dtype=float), size=(_DRAWS, len(values)))
    low, high = np.quantile(draws.mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def load_results(root: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """One row per finished run: the fields of result.json, and ``folder``. Torn files are named in a warning.

    Args:
        root: the results folder, its runs/ folder, or any folder above runs; default: where runs are stored.
    """
    rows = [{**result, "folder": str(folder)} for folder, result in _results(root)]
    return pd.DataFrame(rows)


def load_study(name: str, *overrides: str, root: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """The rows of :func:`load_results` that a study asks for, found by their settings.

    A run that several studies share keeps the labels of the first; here ``study`` and ``arm`` are this study's. Seeds,
    arms or data of which there is no finished run yet are not there.

    Args:
        name: the study, in its default size.
        overrides: what else its command line said, such as ``scale=smoke``.
        root: as for :func:`load_results`.

    Raises:
        ConfigError: the study or an override does not exist.
    """
    from experiments.preflight import check_command_line

    arms = {_settings(config): config.arm for config in check_command_line(["-m", f"+study={name}", *overrides])}
    rows = []
    for folder, result in _results(root):
        settings = _stored_settings(folder)
        if settings in arms:
            rows.append({**result, "study": name, "arm": arms[settings], "folder": str(folder)})
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


def load_config(run: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings of a run, as its config.yaml holds them.

    Args:
        run: a run folder, such as the ``folder`` column of :func:`load_results` holds.
    """
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(Path(run) / "config.yaml")))


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


def _settings(config: RunConfig) -> str:
    """What a run is, whatever its data."""
    from experiments.store import MissingSource, identify

    return identify(config, MissingSource()).run_id


def _stored_settings(folder: Path) -> str | None:
    """Those of a stored run; None where they cannot be read (any more)."""
    from experiments.store import RunFolder

    try:
        return _settings(RunFolder(folder).config())
    except StoreError:
        return None


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
