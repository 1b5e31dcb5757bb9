"""How a sweep stands, live, from the files of the store alone: ``mode=status``.

The sweep's manifest says which jobs there are; how each of them stands is what its run's own files say: result.json,
the heartbeat in status.json, the lock. So it is right for any launcher, from any machine that sees the store, and
after the sweep's own process was killed.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.config import RunConfig
from experiments.errors import ExitCode, Interrupted, StoreError, first_line
from experiments.manifest import WAITING, JobRecord, SweepRecord, find_sweep, find_sweeps, read_manifest
from experiments.progress import clock_time
from experiments.redact import redact
from experiments.store import RunFolder
from experiments.table import print_columns

#: A run writes a sign of life every second while it steps and validates; compiling or reading data may take longer.
SILENT_SECONDS = 300.0

#: States in the order of the line that counts them.
_STATES = ("done", "running", "waiting", "not started", "silent", "interrupted", "out of memory", "failed")

#: Runs that are shown where there is no sweep, beside those at work.
_LAST = 10

HEADER = ["job", "settings", "state", "step", "test", "score", "last sign", "left", "run"]


@dataclass(frozen=True)
class Standing:
    """How one job stands."""

    label: str
    """Variant, task and seed."""
    state: str
    """done, running, waiting, not started, silent, interrupted, out of memory or failed."""
    settings: str = ""
    """What else the sweep varies."""
    message: str = ""
    """Why."""
    step: int | None = None
    """Where it is."""
    steps: int | None = None
    """Where it will end."""
    metric: str = ""
    """Name of the score."""
    score: float | None = None
    """The headline on the test split."""
    age: float | None = None
    """Seconds since its last sign of life; never negative."""
    left: float | None = None
    """Seconds until it ends, by its own reckoning."""
    run: str = ""
    """Name of its folder."""


def print_status(config: RunConfig) -> int:
    """Shows the sweep that ``sweep`` names, once or, with ``watch``, until its jobs have ended.

    Returns:
        The exit code: 0 whatever the jobs did; ``mode=train`` tells that.

    Raises:
        ConfigError: there is no such sweep.
        StoreError: its manifest cannot be read.
    """
    try:
        _repeat(config)
    except KeyboardInterrupt:
        pass
    except Interrupted as error:  # Ctrl-C, in a program that listens for signals
        if error.exit_code != ExitCode.INTERRUPTED:
            raise
    return ExitCode.OK


def _repeat(config: RunConfig) -> None:
    while True:
        if config.watch is not None and sys.stdout.isatty():
            print("\x1b[H\x1b[2J", end="")
        over = _show(config)
        if config.watch is None or over:
            return
        time.sleep(config.watch)
        if not sys.stdout.isatty():
            print(flush=True)


def _show(config: RunConfig) -> bool:
    """One picture. Returns whether nothing is left to wait for."""
    store = config.store.folder
    if config.sweep == "all":
        return _show_all(store)
    sweeps = find_sweeps(store)
    if config.sweep is None and not sweeps:
        return _show_runs(config.store.runs)
    sweep = read_manifest(find_sweep(store, config.sweep) if config.sweep else sweeps[-1])
    standings = sweep_standings(sweep)
    print(_title(sweep))
    _print_standings(standings)
    print(_count(standings), flush=True)
    if config.sweep is None:
        _print_others(config.store.runs, {job.folder for job in sweep.jobs})
    return _is_settled(sweep, standings)


def sweep_standings(sweep: SweepRecord) -> list[Standing]:
    """How each job of a sweep stands."""
    over = is_over(sweep)
    return [job_standing(job, since=sweep.started, sweep_is_over=over) for job in sweep.jobs]


def is_over(sweep: SweepRecord) -> bool:
    """Whether nothing more will be started: the sweep has ended, or its process is gone from this machine."""
    return sweep.ended is not None or _is_gone(sweep.pid, sweep.host)


def job_standing(job: JobRecord, *, since: float = 0.0, sweep_is_over: bool = False) -> Standing:
    """How one job stands: by its run's own files where there are any, else by what the sweep says.

    Args:
        job: what the sweep says.
        since: when the sweep started; what a run's files say of a time before is old.
        sweep_is_over: nothing more will be started.
    """
    if job.folder and Path(job.folder).is_dir():
        found = run_standing(RunFolder(job.folder), label=job.label)
        if found.state == "silent" and job.status in ("failed", "out of memory", "interrupted"):
            # The sweep saw the process end, and knows how.
            found = replace(found, state=job.status, message=_line(job.message))
        updated = _number(RunFolder(job.folder).status().get("updated")) or 0.0
        is_old = job.status in WAITING and found.state != "done" and updated < since
        if found.state != "new" and not is_old:
            return replace(found, settings=job.settings)
    state = {"ok": "done", "skipped": "done", "locked": "failed"}.get(job.status, job.status)
    if job.status in WAITING:  # a scheduler keeps what it has queued
        state = "not started" if sweep_is_over and not job.id else "waiting"
    if job.status == "running" and sweep_is_over and not job.id:
        state = "silent"
    return Standing(job.label, state, job.settings, message=_line(job.message))


def run_standing(folder: RunFolder, *, label: str = "", now: float | None = None) -> Standing:
    """How a run stands, by its own files.

    Args:
        folder: the run.
        label: what to call it; default: its model, task and seed.
        now: seconds since 1970; default: now.
    """
    label = label or _label(folder.path)
    try:
        state, status, result = folder.read()
    except StoreError as error:
        return Standing(label, "failed", message=_line(str(error)), run=folder.run_id)
    own = Standing(label, state.replace("_", " "), run=folder.run_id, age=_age(status, now))
    if result is not None:
        metric, steps = str(result.get("metric", "")), _number(result.get("steps"))
        score = _number(result.get(f"test/{metric}"))
        return replace(own, metric=metric, score=score, step=steps, steps=steps)
    own = replace(own, step=_number(status.get("step")), steps=_number(status.get("steps")))
    if status.get("state") != "running":
        return replace(own, message=_line(str(status.get("message", ""))))
    age = own.age if own.age is not None else float("inf")
    # The lock tells most on the machine of the run: not every network file system passes locks on.
    alive = state == "running" or (status.get("host") != socket.gethostname() and age < SILENT_SECONDS)
    if not alive:
        return replace(own, state="silent", message="its process is gone, and left no word: the same command resumes")
    if age >= SILENT_SECONDS:
        return replace(own, state="silent", message=f"no sign of life for {clock_time(age)}")
    eta = _number(status.get("eta_seconds"))
    return replace(own, state="running", left=None if eta is None else max(0.0, eta - age))


def _is_settled(sweep: SweepRecord, standings: Sequence[Standing]) -> bool:
    """Whether nothing is left to wait for."""
    states = {standing.state for standing in standings}
    return not states & {"running", "waiting"} and ("silent" not in states or is_over(sweep))


def _show_all(store: Path) -> bool:
    """One line for each sweep."""
    header, rows, over = ["sweep", "launcher", "started", "jobs", "state"], [], True
    for folder in find_sweeps(store):
        try:
            sweep = read_manifest(folder)
        except StoreError as error:
            rows.append([folder.name, "", "", "", _line(str(error))])
            continue
        standings = sweep_standings(sweep)
        over = over and _is_settled(sweep, standings)
        rows.append([sweep.sweep, sweep.launcher, _moment(sweep.started), str(len(standings)), _count(standings)])
    if rows:
        print_columns(header, rows)
    else:
        print(f"no sweep yet below {store / 'sweeps'}", flush=True)
    return over


def _show_runs(runs: Path) -> bool:
    """Without any sweep: the runs at work, and those that did not end well last."""
    standings = _stored(runs)
    at_work = [standing for standing in standings if standing.state == "running"]
    others = [standing for standing in standings if standing.state not in ("running", "done", "new")]
    print(f"no sweep yet; runs below {runs}")
    _print_standings([*at_work, *others[:_LAST]])
    print(_count(standings) or "no run is stored", flush=True)
    return not at_work


def _print_others(runs: Path, known: set[str]) -> None:
    """Runs at work that are no part of the sweep, so that none is overlooked."""
    others = [standing for standing in _stored(runs, without=known) if standing.state == "running"]
    if others:
        print("\nat work beside this sweep")
        _print_standings(others)
        sys.stdout.flush()


def _stored(runs: Path, without: set[str] | None = None) -> list[Standing]:
    """All stored runs, those with the latest sign of life first."""
    paths = [path.parent for path in runs.glob("*/*/*/status.json") if str(path.parent) not in (without or ())]
    standings = [run_standing(RunFolder(path)) for path in paths]
    return sorted(standings, key=lambda standing: float("inf") if standing.age is None else standing.age)


def _print_standings(standings: Sequence[Standing]) -> None:
    """A table, and below it why jobs are not well. Columns in which nothing stands are left out."""
    rows = [_cells(standing) for standing in standings]
    kept = [place for place in range(len(HEADER)) if any(row[place] for row in rows)]
    if rows:
        print_columns([HEADER[place] for place in kept], [[row[place] for place in kept] for row in rows])
    for standing in standings:
        if standing.message:
            print(f"{standing.state}: {standing.label}: {standing.message}")


def _cells(standing: Standing) -> list[str]:
    at_work = standing.state == "running"
    return [
        standing.label,
        standing.settings,
        standing.state,
        "" if standing.step is None else f"{standing.step:,.0f}/{standing.steps or 0:,.0f}",
        standing.metric if standing.score is not None else "",
        "" if standing.score is None else f"{standing.score:.4f}",
        f"{clock_time(standing.age)} ago" if standing.age is not None and standing.state != "done" else "",
        clock_time(standing.left) if at_work and standing.left is not None else "",
        standing.run,
    ]


def _title(sweep: SweepRecord) -> str:
    text = f"sweep {sweep.sweep} ({sweep.launcher}), started {_moment(sweep.started)}"
    if sweep.ended is not None:
        return f"{text}, ended {_moment(sweep.ended)}"
    if is_over(sweep):
        return f"{text}; its process {sweep.pid} is gone: the same command goes on: {redact(sweep.command)}"
    return f"{text}, process {sweep.pid} on {sweep.host}"


def _count(standings: Sequence[Standing]) -> str:
    """``6 jobs: 3 done, 2 running, 1 failed``."""
    counts = Counter(standing.state for standing in standings)
    states = [*_STATES, *sorted(set(counts) - set(_STATES))]
    parts = [f"{counts[state]} {state}" for state in states if counts[state]]
    return f"{len(standings)} {'job' if len(standings) == 1 else 'jobs'}: {', '.join(parts)}" if parts else ""


def _age(status: dict[str, Any], now: float | None) -> float | None:
    """Seconds since the last sign of life. One from the future, by another machine's clock, is as fresh as can be."""
    updated = _number(status.get("updated"))
    return None if updated is None else max(0.0, (time.time() if now is None else now) - updated)


def _is_gone(pid: int, host: str) -> bool:
    """Whether a process of this machine has ended. Of other machines nothing is known."""
    if host != socket.gethostname() or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's, but there
        return False
    return False


def _label(path: Path) -> str:
    """Model, task and seed out of ``<task>/<model>/<hash>-s<seed>``."""
    return f"{path.parent.name} {path.parent.parent.name} {path.name.rpartition('-')[2]}"


def _number(value: Any) -> Any:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _line(text: str) -> str:
    return redact(first_line(text)) if text else ""


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
