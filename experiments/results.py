"""Reading the store: every result, metric and slice as a data frame, and the intervals that go with them.

analysis/ knows the engine through this alone.

    load_results().groupby(["task", "data_source", "variant"])["test/accuracy"].agg(["mean", "count"])

Always group by ``data_source``: the official data, another split of them and a stand-in are different tests.
"""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from omegaconf import OmegaConf

from experiments.bench_rows import read_rows
from experiments.intervals import LEVEL as LEVEL
from experiments.intervals import bootstrap as bootstrap
from experiments.intervals import wilson as wilson
from experiments.settings import StoreConfig

if TYPE_CHECKING:
    from experiments.studies import StudyJob, StudyPlan

#: Columns of a result that are put beside each slice, so that slices can be grouped alone.
_LABELS = ("run_id", "config_hash", "study", "arm", "model", "variant", "task", "scale", "seed", "data_source")

#: Of diagnostics.npz, those by layer and head: see models/probe.py.
HEAD_MEASURES = ("read_entropy", "read_share", "write_entropy", "keep_share", "gate", "write_gate")

#: Of a test that was kept beside a run: what all its slices share.
_TEST_FIELDS = ("peak_memory_bytes", "hardware", "git_sha")

#: One of these is in every run's folder.
_RUN_FILES = ("result.json", "status.json", "lock")


def load_results(root: str | os.PathLike[str] | None = None, *, strict: bool = False) -> pd.DataFrame:
    """One row per finished run: the fields of result.json, and ``folder``. Torn files are named in a warning.

    Args:
        root: the results folder, its runs/ folder, or any folder above runs; default: where runs are stored.
        strict: torn files are an error.

    Raises:
        ValueError: a file is torn, if ``strict``.
    """
    return _frame([{**result, "folder": folder} for folder, result in _results(root, strict=strict)])


def load_metrics(run: str | os.PathLike[str]) -> pd.DataFrame:
    """The rows of a run's metrics.jsonl, in order.

    Args:
        run: a run folder, such as the ``folder`` column of :func:`load_results` holds.
    """
    path = Path(run) / "metrics.jsonl"
    return _frame(list(_metric_rows(path.read_text(encoding="utf-8").splitlines(), path)))


def load_config(run: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings of a run, as its config.yaml holds them.

    Args:
        run: a run folder, such as the ``folder`` column of :func:`load_results` holds.

    Raises:
        ValueError: the file is missing or torn.
    """
    path = Path(run) / "config.yaml"
    try:
        return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(path)))
    except Exception:  # the parser's own errors have no base class that OmegaConf names
        raise ValueError(f"{path} is missing or torn: restore it, or start this run over with force=true") from None


def load_slices(root: str | os.PathLike[str] | None = None, *, runs: pd.DataFrame | None = None) -> pd.DataFrame:
    """The slices of finished runs, each beside its run's labels.

    Args:
        root: as for :func:`load_results`.
        runs: rows of :func:`load_results`; only these are read, and nothing is looked for below ``root``.
    """
    table = load_results(root) if runs is None else runs
    bodies: dict[str, list[tuple[int, str]]] = {}  # by header: position of the run, and its lines
    for position, folder in enumerate(table["folder"] if len(table) else ()):
        with suppress(FileNotFoundError), open(os.path.join(folder, "slices.csv"), encoding="utf-8") as handle:
            if header := handle.readline():
                bodies.setdefault(header, []).append((position, handle.read()))
    if not bodies:
        return pd.DataFrame()
    frame = pd.concat([_read_bodies(header, found) for header, found in bodies.items()])
    frame = frame.sort_index(kind="stable")
    labels = table.reindex(columns=[*(name for name in _LABELS if name not in frame), "folder"])
    own = labels.iloc[frame.index].reset_index(drop=True)
    return pd.concat([frame.reset_index(drop=True), own], axis=1)


def load_curves(runs: pd.DataFrame, split: str) -> pd.DataFrame:
    """The rows that metrics.jsonl of some runs has of one split, each beside its run's labels.

    Args:
        runs: rows of :func:`load_results`.
        split: ``train``, ``val`` or ``memory``.
    """
    label = json.dumps(split)
    rows = []
    for labels in runs.reindex(columns=[*_LABELS, "folder"]).to_dict("records"):
        path = os.path.join(labels["folder"], "metrics.jsonl")
        with suppress(FileNotFoundError), open(path, encoding="utf-8") as handle:
            lines = (line for line in handle if label in line)  # most are of another split: they need not be parsed
            rows += [{**labels, **row} for row in _metric_rows(lines, path) if row["split"] == split]
    return _frame(rows)


def load_heads(runs: pd.DataFrame) -> pd.DataFrame:
    """How each layer and head reads, writes and gates its memory: shares and entropies of diagnostics.npz.

    Args:
        runs: rows of :func:`load_results`.

    Returns:
        One row for each layer (0 = bottom) and head of a run, beside its labels: those of :data:`HEAD_MEASURES` that it
        has. A gate that has slots instead of heads counts these.

    Raises:
        ValueError: a file is torn.
    """
    rows = []
    for labels in runs.reindex(columns=[*_LABELS, "folder"]).to_dict("records"):
        path = os.path.join(labels["folder"], "diagnostics.npz")
        try:
            with suppress(FileNotFoundError), open(path, "rb") as handle, np.load(handle) as stored:
                tables = {name: stored[name] for name in HEAD_MEASURES if name in stored}
                rows += [{**labels, **row} for row in _head_rows(tables)]
        except (BadZipFile, EOFError, ValueError):
            raise ValueError(f"{path} is torn: restore it, or start this run over with force=true") from None
    return _frame(rows)


def load_tests(runs: pd.DataFrame) -> pd.DataFrame:
    """What ``mode=eval run=... test={...}`` kept beside some runs: other tests than their own.

    Args:
        runs: rows of :func:`load_results`.

    Returns:
        One row for each slice of such a test, beside its run's labels: ``test`` (digits of its options); ``seconds``,
        ``peak_memory_bytes``, ``hardware`` and ``git_sha`` of the whole test; and the columns of the task's slices.

    Raises:
        ValueError: a file is torn.
    """
    rows = []
    for labels in runs.reindex(columns=[*_LABELS, "folder"]).to_dict("records"):
        for path in sorted(Path(labels["folder"]).glob("tests/*.json")):
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
                whole = {name: found[name] for name in _TEST_FIELDS}
                own = {"test": path.stem, "seconds": found["wall_seconds"], **whole}
                rows += [{**labels, **own, **cells} for cells in found["slices"]]
            except (ValueError, KeyError):
                raise ValueError(f"{path} is torn (no complete JSON): remove it, and test again") from None
    return _frame(rows)


def _head_rows(tables: Mapping[str, NDArray[np.float64]]) -> Iterator[dict[str, Any]]:
    """Tables [layers, heads], of which some may be narrower or have none, as rows."""
    cells: dict[tuple[int, int], dict[str, Any]] = {}
    for name, table in tables.items():
        for layer, head in zip(*np.isfinite(table).nonzero(), strict=True):
            cells.setdefault((int(layer), int(head)), {})[name] = float(table[layer, head])
    for (layer, head), measures in sorted(cells.items()):
        yield {"layer": layer, "head": head, **measures}


def load_bench(root: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """The rows of mode=bench, as ``bench.csv`` holds them: every cell as text, or NaN.

    Args:
        root: the results folder, or its runs/ folder; default: where runs are stored.

    Raises:
        ValueError: the file cannot be read, or is none of mode=bench.
    """
    top = StoreConfig().folder if root is None else Path(root).expanduser()
    return read_rows((top.parent if top.name == "runs" else top) / "bench.csv")


def load_jobs(study: str, *, scale: str | None = None) -> StudyPlan:
    """What a study consists of, by its file in conf/study: see :func:`experiments.studies.study_plan`.

    Raises:
        ValueError: there is no such study, or no such scale.
    """
    from experiments.studies import study_plan  # Hydra takes a moment, and most tables need no composing

    return study_plan(study, scale)


def find_same(
    plan: StudyPlan, jobs: Sequence[StudyJob], others: pd.DataFrame, *, known: pd.DataFrame | None = None
) -> dict[int, str]:
    """Finished runs that are jobs of a study, but carry another study's label or none.

    A sweep skips what is done, whoever did it first, so that studies share runs.

    Args:
        plan: the study.
        jobs: those that have no run of their own.
        others: rows of :func:`load_results`.
        known: rows that the study has: of runs on several data, those on the data of these are taken.

    Returns:
        Position in ``jobs`` and ``run_id``.

    Raises:
        ValueError: one job was run on several data, or at several precisions, and no row that is known chooses.
    """
    if others.empty:
        return {}
    found = {}
    candidates = dict(list(others[others["scale"] == plan.scale].groupby(["task", "model", "seed"])))
    for position, job in enumerate(jobs):
        rows = candidates.get((job.task, job.model, job.seed), others.iloc[:0])
        same_runs: dict[tuple[str, ...], str] = {}
        for (source, checksum, precision), same in rows.groupby(["data_source", "data_checksum", "precision"]):
            wanted = config_hash(job.overrides, str(source), str(checksum), precision=str(precision))
            for run_id in same.loc[same["config_hash"] == wanted, "run_id"]:
                same_runs[str(source), str(checksum), str(precision)] = str(run_id)
        if same_runs:
            found[position] = _one_of(same_runs, job, known)
    return found


def _one_of(runs: Mapping[tuple[str, ...], str], job: StudyJob, known: pd.DataFrame | None) -> str:
    """The run of a job by its source, checksum and precision: the only one, or the one of data that the study has."""
    if len(runs) > 1 and known is not None and len(known):
        own = known.loc[known["task"] == job.task, ["data_source", "data_checksum", "precision"]]
        chosen = set(own.astype(str).itertuples(index=False, name=None))
        runs = {facts: run_id for facts, run_id in runs.items() if facts in chosen} or runs
    if len(runs) > 1:
        facts = "; ".join(
            sorted(f"{run_id} on {source}, precision {bits}" for (source, _, bits), run_id in runs.items())
        )
        raise ValueError(
            f"{job.variant} on {job.task}: several finished runs are this job of the study ({facts}): "
            f"to choose, run it under the study's own label ({job.command}), or move the folders of the others away"
        )
    return next(iter(runs.values()))


def config_hash(overrides: Sequence[str], source: str, checksum: str, *, precision: str) -> str:
    """The ``config_hash`` that a job's result has: see :func:`experiments.studies.config_hash`."""
    from experiments.studies import config_hash as composed

    return composed(overrides, source, checksum, precision=precision)


def scaled_down(study: str, scale: str) -> dict[str, dict[str, tuple[Any, Any]]]:
    """What a study has less of than at paper scale: see :func:`experiments.studies.scaled_down`."""
    from experiments.studies import scaled_down as compared

    return compared(study, scale)


def _frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A frame of rows whose keys differ. Column by column: pandas takes three times as long over a list of dicts."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pd.DataFrame({name: [row.get(name) for row in rows] for name in names})


def _read_bodies(header: str, found: Sequence[tuple[int, str]]) -> pd.DataFrame:
    """Files of one header, read as one; the index says which run each row is of."""
    bodies = [body if body.endswith("\n") or not body else body + "\n" for _, body in found]
    frame = pd.read_csv(io.StringIO(header + "".join(bodies)))
    return frame.set_index(np.repeat([position for position, _ in found], [body.count("\n") for body in bodies]))


def _metric_rows(lines: Iterable[str], path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            warnings.warn(f"left out a torn line of {path}", stacklevel=3)


def _results(root: str | os.PathLike[str] | None, *, strict: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Folder and content of every result.json that can be read, sorted by folder."""
    top = StoreConfig().runs if root is None else Path(root).expanduser()
    if (top / "runs").is_dir():
        top = top / "runs"
    for folder in _run_folders(str(top)):
        path = os.path.join(folder, "result.json")
        try:
            with open(path, "rb") as handle:
                result = json.loads(handle.read())
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            result = None
        if isinstance(result, dict):
            yield folder, result
        elif strict:
            raise ValueError(f"{path} is torn (no complete JSON): restore it, or start this run over with force=true")
        else:
            warnings.warn(f"left out {path}: it is torn (no complete JSON)", stacklevel=3)


def _run_folders(top: str) -> Iterator[str]:
    """Folders below ``top`` that are a run's, sorted. What lies inside a run's (checkpoints, W&B) is not looked at."""
    try:
        with os.scandir(top) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
    except OSError:
        return
    if any(entry.name in _RUN_FILES for entry in entries):
        yield top
        return
    for entry in entries:
        if entry.is_dir():
            yield from _run_folders(entry.path)
