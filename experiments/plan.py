"""What a command would do, job by job, without doing it: ``mode=plan``.

Time is judged by finished runs of the store, disk by them or by the model's size; both are guesses that a look at the
table should make before a night of computing is spent.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from experiments.config import RunConfig, build_task, find_data, outline_model, to_plain
from experiments.errors import ConfigError, ExitCode, StoreError, first_line
from experiments.estimates import History, Kind, bytes_below, checkpoint_bytes, makespan
from experiments.hardware import Hardware
from experiments.progress import clock_time
from experiments.store import RunFolder, run_folder
from experiments.table import print_columns, size_text

if TYPE_CHECKING:
    from experiments.identity import Source

HEADER = ["variant", "task", "data", "settings", "seed", "steps"]
HEADER += ["parameters", "state size", "time", "disk", "what would happen", "run"]


class Planned(NamedTuple):
    """One job and what it would take."""

    config: RunConfig
    settings: str
    data: str
    num_params: int
    state_size: int
    action: str
    run: str
    seconds: float | None = None
    """None: nobody knows. A skip takes none."""
    is_own: bool = True
    """The time is from runs of the same variant and device."""
    disk: int = 0
    """Bytes that it still needs."""

    @property
    def runs(self) -> bool:
        """Whether anything would be trained."""
        return not self.action.startswith(("skip", "cannot"))


def print_plan(
    configs: Sequence[RunConfig], settings: Sequence[str] | None = None, *, places: int | None = None
) -> int:
    """Prints a table with a line for each job, and what all of them would take.

    Args:
        configs: the jobs.
        settings: what else than model, task and seed the sweep varies, for each job.
        places: how many jobs run at a time, if that is known.

    Returns:
        The exit code: 2 when the data of a job cannot be found, else 0.
    """
    planner = _Planner(configs)
    jobs = [planner.plan(config, label) for config, label in zip(configs, settings or [""] * len(configs), strict=True)]
    header, rows = HEADER, [_cells(job) for job in jobs]
    if not any(settings or []):
        place = HEADER.index("settings")
        header, rows = HEADER[:place] + HEADER[place + 1 :], [row[:place] + row[place + 1 :] for row in rows]
    print_columns(header, rows)
    print(f"{sum(job.runs for job in jobs)} of {len(jobs)} to run; results go to {configs[0].store.runs}")
    for line in _totals(jobs, configs[0].store.folder, places):
        print(line, flush=True)
    return ExitCode.USER_ERROR if any(job.action.startswith("cannot") for job in jobs) else ExitCode.OK


class _Planner:
    """Plans jobs; what seeds share is built and looked up once."""

    def __init__(self, configs: Sequence[RunConfig]) -> None:
        self._history = History(configs[0].store.runs, [config.task.name for config in configs])
        self._sizes: dict[str, tuple[int, int]] = {}
        self._sources: dict[str, Source | str] = {}
        self._devices: dict[str, str] = {}

    def plan(self, config: RunConfig, settings: str) -> Planned:
        """What would happen with one job."""
        num_params, state_size = self._size(config)
        source = self._source(config)
        if isinstance(source, str):
            return Planned(config, settings, "", num_params, state_size, f"cannot run: {source}", "")
        try:
            folder = run_folder(config, source)
            action, done = _action(config, folder)
        except StoreError as error:
            return Planned(
                config, settings, source.name, num_params, state_size, f"cannot run: {first_line(error)}", ""
            )
        job = Planned(config, settings, source.name, num_params, state_size, action, folder.run_id, seconds=0.0)
        return self._estimate(job, folder, done) if job.runs else job

    def _estimate(self, job: Planned, folder: RunFolder, done: int) -> Planned:
        config, trainer = job.config, job.config.trainer
        kind = Kind(config.model.label, config.task.name, config.scale, self._device(trainer.device))
        pace = self._history.pace(kind)
        num_rows = trainer.steps // trainer.log_every + 2 * (trainer.steps // trainer.val_every + 1)
        measured = self._history.bytes_of(kind, job.num_params)
        total = measured or checkpoint_bytes(job.num_params, num_rows=num_rows)
        disk = max(0, total - bytes_below(folder.path))
        if pace is None:
            return job._replace(seconds=None, disk=disk)
        return job._replace(seconds=pace.seconds * max(0, trainer.steps - done), is_own=pace.is_own, disk=disk)

    def _size(self, config: RunConfig) -> tuple[int, int]:
        """Parameters and state size of the model."""
        key = _key(config, "model", "backbone", "task")
        if key not in self._sizes:
            task = build_task(config)
            model = outline_model(config, task)
            self._sizes[key] = model.num_parameters(), model.state_size(task.max_len)
        return self._sizes[key]

    def _source(self, config: RunConfig) -> Source | str:
        """Where the data come from, or why there are none. It is the same for all seeds."""
        key = _key(config, "task", "data", "scale")
        if key not in self._sources:
            try:
                self._sources[key] = find_data(config, build_task(replace(config, seed=0)))
            except (ValueError, OSError) as error:
                self._sources[key] = first_line(error)
        return self._sources[key]

    def _device(self, name: str) -> str:
        """The device that ``auto`` means here. One that is not here may be there where the jobs will run."""
        if name not in self._devices:
            try:
                self._devices[name] = Hardware.choose(name).device
            except ConfigError:
                self._devices[name] = name
        return self._devices[name]


def _key(config: RunConfig, *sections: str) -> str:
    """Those settings as text."""
    plain = to_plain(config)
    return json.dumps([plain[section] for section in sections], sort_keys=True, default=str)


def _cells(job: Planned) -> list[str]:
    return [
        job.config.model.label,
        job.config.task.name,
        job.data,
        job.settings,
        str(job.config.seed),
        f"{job.config.trainer.steps:,}",
        f"{job.num_params:,}",
        f"{job.state_size:,}",
        _time(job) if job.runs else "",
        size_text(job.disk) if job.runs else "",
        job.action,
        job.run,
    ]


def _time(job: Planned) -> str:
    if job.seconds is None:
        return "?"
    return f"{'' if job.is_own else '~'}{clock_time(job.seconds)}"


def _action(config: RunConfig, folder: RunFolder) -> tuple[str, int]:
    """What would happen, and the step that it would start from."""
    if folder.is_locked():
        return "skip: another process runs it now", 0
    if config.force and folder.path.exists():
        return "start over (force=true)", 0
    state, status, _ = folder.read()
    if state == "done":
        return "skip: done", 0
    if state == "new":
        return "run", 0
    state = state.replace("_", " ")
    if not folder.can_resume:
        return f"run again ({state})", 0
    step = status.get("step")
    return f"resume ({state} at step {step})", step if isinstance(step, int) else 0


def _totals(jobs: Sequence[Planned], store: Path, places: int | None) -> list[str]:
    """How many jobs of each kind, how long, and whether the disk holds them."""
    skipped = sum(job.action.startswith("skip") for job in jobs)
    resumed = sum(job.action.startswith("resume") for job in jobs)
    to_do = [job for job in jobs if job.runs]
    cannot = len(jobs) - len(to_do) - skipped
    counts = f"to run {len(to_do) - resumed}, to resume {resumed}, to skip {skipped}"
    lines = [f"jobs   {counts}" + (f", cannot run {cannot}" if cannot else "")]
    if not to_do:
        return lines
    lines.append(f"time   {_hours(to_do, places)}")
    if any(not job.is_own for job in to_do):
        lines.append("       ~: by other variants or devices, at the same task and scale")
    need, free = sum(job.disk for job in to_do), shutil.disk_usage(_existing(store)).free
    lines.append(f"disk   {size_text(need)} needed, {size_text(free)} free at {store}")
    if need > free:
        lines.append(
            f"warning: the disk will be full before the jobs are done: make room at {store}, or set store.root"
        )
    return lines


def _hours(jobs: Sequence[Planned], places: int | None) -> str:
    known = [job.seconds for job in jobs if job.seconds is not None]
    if not known:
        return "? (no finished run of these tasks at this scale)"
    text = f"{clock_time(sum(known))} of one process"
    if places is not None and places > 1:
        text += f", {clock_time(makespan(known, places))} with {places} jobs at a time"
    unknown = len(jobs) - len(known)
    return f"{text}, and {unknown} job{'s' if unknown > 1 else ''} of unknown length" if unknown else text


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.is_dir() and os.access(path, os.R_OK))
