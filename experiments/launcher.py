"""The Hydra launcher ``local``: every job of a sweep is a process of its own, several at a time.

The parent starts ``python run.py <overrides of the job>``, shows progress and prints one table; a child is a run like
any other that prints into its own log. A crash, a lack of memory or a hang in one job touches no other, and each keeps
to its own threads or GPU. They share files only: the child writes where its run lies to $MEMATTN_JOB_FILE, and the
parent reads that run's status.json.

Importing this module loads neither torch nor Lightning.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from experiments.config import REPOSITORY, RunConfig, build_run_config
from experiments.errors import ConfigError, ExitCode, Interrupted, StoreError
from experiments.interrupts import SIGNALS, Interruption, end_with_parent
from experiments.progress import Snapshot
from experiments.store import RunFolder
from experiments.table import Row, format_table, print_table, write_csv

POLL_SECONDS = 0.2
LINE_SECONDS = 20.0
_LABELS = ("model", "task", "seed", "+study")


class LocalLauncher(Launcher):
    """Runs the jobs of a sweep as processes of this machine.

    Args:
        jobs: how many at a time; ``auto``: one per GPU (per ``trainer.devices`` of them), without GPUs one per
            ``trainer.threads`` cores.
    """

    def __init__(self, jobs: int | str = "auto") -> None:
        self.jobs = jobs
        self.config: DictConfig | None = None
        self.context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Takes what Hydra composed for the sweep as a whole."""
        self.config, self.context = config, hydra_context

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs or plans all jobs, and ends the program: a job's failure is no exception here, but an exit code."""
        assert self.config is not None
        folder = Path(self.config.hydra.sweep.dir)
        configs = [self._typed(overrides) for overrides in job_overrides]
        settings = varied_settings(job_overrides)
        if configs[0].mode in ("plan", "bench"):
            shutil.rmtree(folder, ignore_errors=True)
            raise SystemExit(_answer(configs, settings))
        everything = zip(job_overrides, configs, settings, strict=True)
        jobs = [Job(index + 1, len(configs), folder, *job) for index, job in enumerate(everything)]
        raise SystemExit(run_sweep(jobs, folder, places=find_places(self.jobs, configs)))

    def _typed(self, overrides: Sequence[str]) -> RunConfig:
        assert self.context is not None
        assert self.config is not None
        composed = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(composed):
            del composed["hydra"]
        return build_run_config(composed)


def _answer(configs: Sequence[RunConfig], settings: Sequence[str]) -> int:
    """What is answered by one process for all jobs: a benchmark's would disturb each other."""
    if configs[0].mode == "bench":
        from experiments.bench import run_bench

        try:
            return run_bench(configs)
        except ConfigError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            return ExitCode.USER_ERROR
    from experiments.plan import print_plan

    return print_plan(configs, settings)


def register_launcher() -> None:
    """Makes ``hydra/launcher=local`` known to Hydra.

    Hydra creates plugins out of the package ``hydra_plugins`` only. One class is not worth such a room, so this module
    goes by the name ``hydra_plugins.memattn`` as well.
    """
    plugins = Plugins.instance()  # imports the real hydra_plugins, where some plugin is installed
    package: Any = sys.modules.setdefault("hydra_plugins", ModuleType("hydra_plugins"))
    package.memattn = sys.modules["hydra_plugins.memattn"] = sys.modules[__name__]
    LocalLauncher.__module__ = "hydra_plugins.memattn"
    plugins.register(LocalLauncher)


@dataclass
class Job:
    """One job of a sweep and its process."""

    number: int
    total: int
    sweep: Path
    overrides: Sequence[str]
    config: RunConfig
    settings: str = ""
    process: subprocess.Popen[bytes] | None = None
    place: dict[str, str] = field(default_factory=dict)
    status: str = "not started"
    message: str = ""

    @property
    def mark(self) -> str:
        """``[1/2]``."""
        return f"[{self.number}/{self.total}]"

    @property
    def title(self) -> str:
        """Mark, variant, task and seed, and what else the sweep varies."""
        return " ".join(part for part in (self.mark, self.config.label, self.settings) if part)

    @property
    def name(self) -> str:
        """The part that the names of its files share."""
        return f"{self.number:03}-{self.config.label.replace(' ', '-').replace('/', '-')}"

    @property
    def log(self) -> Path:
        """All that the process printed."""
        return self.sweep / f"{self.name}.log"

    @property
    def report_file(self) -> Path:
        """What the process says of itself: its run folder, data and state."""
        return self.sweep / f".{self.name}.json"

    def report(self) -> dict[str, str]:
        """The content of the report, empty while there is none."""
        try:
            return json.loads(self.report_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def run_folder(self) -> RunFolder | None:
        """The folder of its run, once the process has found it."""
        path = self.report().get("folder")
        return RunFolder(path) if path else None

    def start(self, command: Sequence[str]) -> None:
        """Starts the process. It is no part of the terminal's group: Ctrl-C reaches it once, through the parent."""
        env = {
            **os.environ,
            **self.place,
            "MEMATTN_JOB": f"{self.number}/{self.total}",
            "MEMATTN_JOB_FILE": str(self.report_file),
            "MEMATTN_SWEEP": self.sweep.name,
            "MEMATTN_PARENT": str(os.getpid()),
            "OMP_NUM_THREADS": str(self.config.trainer.threads),
        }
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, *self.overrides],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.status = "running"

    @property
    def has_ended(self) -> bool:
        """Whether its process was started and has ended."""
        return self.process is not None and self.process.poll() is not None

    def send(self, number: int) -> None:
        """Sends a signal, unless the process has ended."""
        if self.process is not None and not self.has_ended:
            self.process.send_signal(number)

    def finish(self, *, interrupted: bool) -> None:
        """Reads how the ended process ended."""
        assert self.process is not None
        code = self.process.returncode
        self.status = _status_of(code, self.report().get("state", ""), interrupted=interrupted)
        if self.status in ("ok", "skipped"):
            return
        self.message = self.last_line().removeprefix(f"{self.mark} {self.config.label}").strip()
        if code < 0 and not interrupted:
            hint = " (the system may have run out of memory)" if -code == signal.SIGKILL else ""
            self.message = f"killed by {signal.Signals(-code).name}{hint}; last line: {self.message or 'none'}"

    def last_line(self) -> str:
        """The last line that the process printed."""
        with suppress(OSError):
            text = self.log.read_text(encoding="utf-8", errors="replace")
            return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
        return ""

    def row(self) -> Row:
        """Its line of the table."""
        folder, result, message = self.run_folder(), None, self.message
        if folder is not None and self.status in ("ok", "skipped"):
            try:
                result = folder.result()
            except StoreError as error:
                message = str(error)
        return Row(
            variant=self.config.model.label,
            task=self.config.task.name,
            seed=self.config.seed,
            status=self.status,
            settings=self.settings,
            message=message,
            data=self.report().get("data", ""),
            folder=folder.path if folder else None,
            result=result or {},
        )


def run_sweep(
    jobs: Sequence[Job],
    folder: Path,
    *,
    places: Sequence[dict[str, str]],
    command: Sequence[str] | None = None,
) -> int:
    """Runs all jobs, prints the table and where everything is.

    Args:
        jobs: what to run, in this order.
        folder: where logs and table go.
        places: environment of each job that may run at the same time (which GPU, or nothing).
        command: what a job's overrides are appended to; default: this interpreter and run.py.

    Returns:
        0 when every job is done, 1 when one is not, 130 or 143 when a signal ended the sweep.
    """
    folder.mkdir(parents=True, exist_ok=True)
    display = _Bars(jobs) if sys.stdout.isatty() else _Lines()
    try:
        stopped_by = _run_all(jobs, places, command or [sys.executable, str(REPOSITORY / "run.py")], display)
    finally:
        display.close()
        _conclude([job.row() for job in jobs], jobs, folder)
    if stopped_by is not None:
        return Interrupted(stopped_by).exit_code
    return ExitCode.OK if all(job.status in ("ok", "skipped") for job in jobs) else ExitCode.FAILED


def find_places(jobs: int | str, configs: Sequence[RunConfig]) -> list[dict[str, str]]:
    """The environment of each job that may run at the same time: as many as there are GPUs for, or as the cores carry.

    A GPU goes to one job, and a job gets as many as ``trainer.devices`` says.
    """
    gpus = [] if all(config.trainer.device == "cpu" for config in configs) else _visible_gpus()
    devices = max(config.trainer.devices for config in configs)
    groups = [",".join(gpus[first : first + devices]) for first in range(0, len(gpus), devices)]
    groups = groups[: max(1, len(gpus) // devices)]  # no group that is too small, unless there is no other
    threads = devices * max(config.trainer.threads for config in configs)
    count = (len(groups) or max(1, _cores() // threads)) if jobs == "auto" else int(jobs)
    count = max(1, min(count, len(configs)))
    return [{"CUDA_VISIBLE_DEVICES": groups[index % len(groups)]} if groups else {} for index in range(count)]


def varied_settings(job_overrides: Sequence[Sequence[str]]) -> list[str]:
    """For each job, the overrides that not all jobs share, beside model, task and seed."""
    common = set(job_overrides[0]).intersection(*job_overrides)
    return [
        " ".join(text for text in overrides if text not in common and text.partition("=")[0] not in _LABELS)
        for overrides in job_overrides
    ]


def follow_parent() -> None:
    """In a job of a sweep: makes sure that it does not outlive the sweep, even one that was killed outright."""
    parent = os.environ.get("MEMATTN_PARENT")
    if parent is not None:
        end_with_parent(int(parent))


class _Display(Protocol):
    """Shows a sweep at work."""

    def note(self, text: str) -> None:
        """One line that stays."""

    def show(self, running: Sequence[Job]) -> None:
        """Called several times a second with the jobs at work."""

    def close(self) -> None:
        """Leaves the terminal as it was."""


def _run_all(
    jobs: Sequence[Job], places: Sequence[dict[str, str]], command: Sequence[str], display: _Display
) -> int | None:
    """Keeps every place busy. Returns the signal that ended the sweep early, or None."""
    waiting, free = deque(jobs), list(places)
    running: list[Job] = []
    passed_on = False
    with Interruption() as interruption:
        try:
            while running or (waiting and interruption.signal_number is None):
                while waiting and free and interruption.signal_number is None:
                    job = waiting.popleft()
                    job.place = free.pop(0)
                    job.start(command)
                    running.append(job)
                    display.note(f"{job.title}  started, log: {job.log}")
                if interruption.signal_number is not None and not passed_on:
                    passed_on = True
                    display.note("stopping: each job keeps a checkpoint (Ctrl-C once more to kill them)")
                    for job in running:
                        job.send(interruption.signal_number)
                for job in [job for job in running if job.has_ended]:
                    running.remove(job)
                    free.append(job.place)
                    _end(job, display, interrupted=passed_on)
                display.show(running)
                time.sleep(POLL_SECONDS)
        except Interrupted:
            pass  # a second Ctrl-C: do not wait any longer
        finally:
            for job in running:
                job.send(signal.SIGKILL)
                job.status = "interrupted"
    return interruption.signal_number


def _end(job: Job, display: _Display, *, interrupted: bool) -> None:
    job.finish(interrupted=interrupted)
    line = job.last_line()
    if job.status in ("ok", "skipped") and line.startswith(job.mark):
        display.note(line)
    else:
        display.note(f"{job.title}  {job.status}: {job.message or line}".rstrip(": "))


def _status_of(code: int, state: str, *, interrupted: bool) -> str:
    if code == ExitCode.OK:
        return "skipped" if state == "skipped" else "ok"
    if code == ExitCode.OUT_OF_MEMORY:
        return "out of memory"
    if -code in SIGNALS and state in ("ok", "skipped"):  # after all was done, too late for a handler
        return state
    # A signal may also come before the process has a handler for it: nothing was begun then, so nothing has failed.
    asked = code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED) or -code in SIGNALS
    if asked or (interrupted and code < 0):
        return "interrupted"
    return "locked" if state == "locked" else "failed"


def _conclude(rows: Sequence[Row], jobs: Sequence[Job], folder: Path) -> None:
    """Prints and stores the table, and says where everything is."""
    with suppress(OSError):
        (folder / "table.txt").write_text(format_table(rows) + "\n", encoding="utf-8")
        write_csv(rows, folder / "table.csv")
    for job in jobs:
        with suppress(OSError):
            job.report_file.unlink(missing_ok=True)
    print(flush=True)
    print_table(rows)
    runs = jobs[0].config.store.runs
    print(f"runs   {runs}/<task>/<model>/<run>/  (result.json, metrics.jsonl, slices.csv, checkpoints/, ...)")
    print(f"sweep  {folder}  (table.txt, table.csv, a log for each job)")
    if any(list(row.folder.glob("wandb/offline-run-*")) for row in rows if row.folder):
        pattern = f"{shlex.quote(str(runs))}/*/*/*/wandb/offline-run-*"
        print(f"W&B    kept offline; browse: wandb leet <run folder>/wandb   upload: wandb sync {pattern}")
    sys.stdout.flush()


class _Lines:
    """Plain lines, now and then."""

    def __init__(self) -> None:
        self._next = time.monotonic() + LINE_SECONDS

    def note(self, text: str) -> None:
        """One line."""
        print(text, flush=True)

    def show(self, running: Sequence[Job]) -> None:
        """A line for each job at work, if it is time."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LINE_SECONDS
        for job in running:
            snapshot = _snapshot(job)
            if snapshot is not None:
                self.note(f"{job.title}  {snapshot}")

    def close(self) -> None:
        """Nothing to tidy."""


class _Bars:
    """One bar for each job at work."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
        )
        self._progress = Progress(*columns, refresh_per_second=4, transient=True)
        self._tasks: dict[int, Any] = {}
        self._jobs = {job.number: job for job in jobs}
        self._progress.start()

    def note(self, text: str) -> None:
        """A line above the bars."""
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, running: Sequence[Job]) -> None:
        """Moves the bars; a job that ended loses its own."""
        numbers = {job.number for job in running}
        for number in [number for number in self._tasks if number not in numbers]:
            self._progress.remove_task(self._tasks.pop(number))
        for job in running:
            if job.number not in self._tasks:
                self._tasks[job.number] = self._progress.add_task(job.title, total=None, text="starting")
            snapshot = _snapshot(job)
            if snapshot is not None:
                self._progress.update(
                    self._tasks[job.number], total=snapshot.steps, completed=snapshot.step, text=str(snapshot)
                )

    def close(self) -> None:
        """Removes the bars."""
        self._progress.stop()


def _snapshot(job: Job) -> Snapshot | None:
    """Where a job is, as its status.json says."""
    folder = job.run_folder()
    status = folder.status() if folder else {}
    if status.get("state") != "running" or "step" not in status or "steps" not in status:
        return None
    return Snapshot(**{name: status[name] for name in Snapshot._fields if name in status})


def _visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES names, else all."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
