"""What a sweep says of itself: ``sweeps/<id>/sweep.json``, rewritten by its parent on every change. Read here.

    {"sweep": id, "launcher": "local", "command": "...", "pid": 1, "host": "...",
     "started": seconds, "updated": seconds, "ended": seconds or null,
     "jobs": [{"number": 1, "label": "fam lra_text s0", "settings": "", "folder": "", "id": "", "status": "running",
               "message": ""}, ...]}

``id`` is the scheduler's. ``folder`` is empty until the parent has heard of the run; a job says it first in a file of
its own beside the manifest (``.<number>-<label>.json``), which is read where the manifest is silent. Keys that are not
known are passed over, so that a later version's sweep can still be looked at. Importing this module loads neither torch
nor Lightning.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.errors import ConfigError, StoreError

MANIFEST = "sweep.json"

#: What a sweep says of jobs that have not been started.
WAITING = ("not started", "queued")


@dataclass(frozen=True)
class JobRecord:
    """One job as the sweep's parent knows it."""

    number: int
    """From 1."""
    label: str
    """Variant, task and seed."""
    settings: str = ""
    """What else the sweep varies."""
    folder: str = ""
    """The run's folder; empty while nobody knows it."""
    id: str = ""
    """The scheduler's name for it; empty for a process of this machine."""
    status: str = "not started"
    """not started, queued, running, ok, skipped, failed, out of memory, interrupted or locked."""
    message: str = ""
    """Why it ended as it did."""


@dataclass(frozen=True)
class SweepRecord:
    """One sweep and its jobs."""

    sweep: str
    """Its id: the name of its folder."""
    launcher: str
    """What starts its jobs: local, submitit, slurm, ray."""
    command: str
    """What was typed."""
    pid: int
    """The process that looks after it."""
    host: str
    """The machine of that process."""
    started: float
    """Seconds since 1970."""
    updated: float
    """Last change."""
    ended: float | None
    """None while it is at work, or if its process was killed."""
    jobs: tuple[JobRecord, ...]
    """In the order of their numbers."""


def find_sweeps(store: Path) -> list[Path]:
    """The folders of all sweeps that have a manifest, the latest last: their names begin with when they started."""
    return sorted(path.parent for path in (store / "sweeps").glob(f"*/{MANIFEST}"))


def find_sweep(store: Path, prefix: str) -> Path:
    """The folder of the one sweep whose id starts with ``prefix``.

    Raises:
        ConfigError: there is none, or more than one.
    """
    sweeps = store / "sweeps"
    names = sorted(path.name for path in sweeps.iterdir() if path.is_dir()) if sweeps.is_dir() else []
    found = [name for name in names if name.startswith(prefix)]
    if prefix in found or len(found) == 1:
        return sweeps / (prefix if prefix in found else found[0])
    if not found:
        raise ConfigError(f"sweep={prefix}: no stored sweep starts with this (looked in {sweeps})")
    raise ConfigError(f"sweep={prefix}: {len(found)} sweeps start with this, give more digits: {', '.join(found[:5])}")


def read_manifest(folder: Path) -> SweepRecord:
    """What the sweep of a folder says of itself.

    Raises:
        StoreError: it is missing, torn or no manifest.
    """
    path = folder / MANIFEST
    try:
        stored = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise StoreError(f"{path} is missing: what is left of this sweep are its logs and its table") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise StoreError(f"{path} is torn (no complete JSON): mode=status sweep=all shows the others") from error
    try:
        record = _sweep(stored)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path} is no manifest of a sweep ({type(error).__name__}: {error})") from error
    return replace(record, jobs=tuple(_with_folder(job, folder) for job in record.jobs))


def _with_folder(job: JobRecord, sweep: Path) -> JobRecord:
    """The job with its run's folder, by its own report if the sweep does not know it yet, or never will."""
    if job.folder:
        return job
    for path in sweep.glob(f".{job.number:03}-*.json"):
        with suppress(OSError, ValueError):
            report = json.loads(path.read_bytes())
            if isinstance(report, dict):
                return replace(job, folder=str(report.get("folder") or ""))
    return job


def _sweep(stored: Mapping[str, Any]) -> SweepRecord:
    ended = stored.get("ended")
    return SweepRecord(
        sweep=str(stored["sweep"]),
        launcher=str(stored.get("launcher", "")),
        command=str(stored.get("command", "")),
        pid=int(stored.get("pid", 0)),
        host=str(stored.get("host", "")),
        started=float(stored["started"]),
        updated=float(stored.get("updated", stored["started"])),
        ended=None if ended is None else float(ended),
        jobs=tuple(sorted((_job(job) for job in stored["jobs"]), key=lambda job: job.number)),
    )


def _job(stored: Mapping[str, Any]) -> JobRecord:
    texts = {name: str(stored.get(name) or "") for name in ("settings", "folder", "id", "message")}
    status = str(stored.get("status", "not started"))
    return JobRecord(number=int(stored["number"]), label=str(stored["label"]), status=status, **texts)
