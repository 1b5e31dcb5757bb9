"""A sweep: jobs go to an engine, their ends come back, and one table closes it.

A job is ``python run.py <overrides>``, a run like any other that prints into its own log. A crash, a lack of memory or
a hang in one job touches no other. Parent and child share files only: the child writes where its run lies to
$MEMATTN_JOB_FILE, and the parent reads that run's status.json. What is done already is recognised here, without a
process; everything that the sweep knows of its jobs stands in ``sweep.json``, where ``mode=status`` reads it.

Importing this module loads neither torch nor Lightning.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from experiments.config import REPOSITORY, RunConfig, build_task, find_data
from experiments.engines.ticket import Ticket
from experiments.errors import ExitCode, Interrupted, StoreError
from experiments.interrupts import SIGNALS, Interruption, end_with_parent
from experiments.job import headline
from experiments.store import RunFolder, Source, run_folder, write_atomically
from experiments.sweep_display import Display, make_sweep_display
from experiments.table import Row, format_table, print_table, write_csv

if TYPE_CHECKING:
    from experiments.engines import End, Engine

POLL_SECONDS = 0.2

#: File of a sweep's folder that says which jobs it has and how each stands.
MANIFEST = "sweep.json"

#: So many lines "done before" are printed at most; the table has them all.
_SKIPPED_LINES = 20

_ENDED_WELL = ("ok", "skipped")


@dataclass
class Job:
    """One job of a sweep."""

    number: int
    total: int
    sweep: Path
    overrides: Sequence[str]
    config: RunConfig
    settings: str = ""
    command: Sequence[str] = field(default_factory=lambda: (sys.executable, str(REPOSITORY / "run.py")))
    status: str = "not started"
    """not started, queued, running, ok, skipped, failed, out of memory, interrupted or locked."""
    message: str = ""
    id: str = ""
    """What the engine calls it, such as SLURM's number."""
    had_company: bool = False
    """Whether other jobs ran beside it."""
    attempts: int = 0
    """How often it was started by this sweep."""
    _report: dict[str, str] = field(default_factory=dict)

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

    def ticket(self) -> Ticket:
        """The process that an engine is to start."""
        environment = {
            "MEMATTN_JOB": f"{self.number}/{self.total}",
            "MEMATTN_JOB_FILE": str(self.report_file),
            "MEMATTN_SWEEP": self.sweep.name,
            "OMP_NUM_THREADS": str(self.config.trainer.threads),
        }
        return Ticket([*self.command, *self.overrides], environment, str(self.log), os.getcwd())

    def report(self) -> dict[str, str]:
        """The content of the report, empty while there is none."""
        with suppress(OSError, ValueError):
            self._report = json.loads(self.report_file.read_text(encoding="utf-8"))
        return self._report

    def run_folder(self) -> RunFolder | None:
        """The folder of its run, once it is known."""
        path = self.report().get("folder")
        return RunFolder(path) if path else None

    def skip_if_done(self) -> bool:
        """Whether its run is done already; then this is its end. What cannot be found is left to the child to say."""
        if self.config.force:
            return False
        with suppress(ValueError, OSError, StoreError):
            source = _locate(self.config)
            folder = run_folder(self.config, source)
            result = folder.result()
            if result is not None:
                self._report = {"folder": str(folder.path), "data": f"{source.name}: {source.detail}"}
                self.status, self.message = "skipped", f"done before, {headline(result)}; force=true runs it again"
                return True
        return False

    def finish(self, end: End, *, interrupted: bool) -> None:
        """Reads how its process ended."""
        self.status = _status_of(end.code, self.report().get("state", ""), interrupted=interrupted)
        if self.status in _ENDED_WELL:
            return
        self.message = self.last_line().removeprefix(f"{self.mark} {self.config.label}").strip()
        if end.code < 0 and not interrupted:
            name = signal.Signals(-end.code).name
            self.message = f"killed by {name}{end.message}; last line: {self.message or 'none'}"
        elif end.message:
            self.message = end.message

    def last_line(self) -> str:
        """The last line that the process printed."""
        with suppress(OSError):
            text = self.log.read_text(encoding="utf-8", errors="replace")
            return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
        return ""

    def row(self) -> Row:
        """Its line of the table."""
        folder, result, message = self.run_folder(), None, self.message
        if folder is not None and self.status in _ENDED_WELL:
            message = ""
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

    def entry(self) -> dict[str, object]:
        """Its line of the manifest."""
        return {
            "number": self.number,
            "label": self.config.label,
            "settings": self.settings,
            "folder": self.report().get("folder", ""),
            "id": self.id,
            "status": self.status,
            "message": self.message,
        }


class Supply(Protocol):
    """Where the jobs of a sweep come from: a list, or a tuner that waits for results."""

    @property
    def jobs(self) -> Sequence[Job]:
        """All jobs so far, in the order of the table."""

    def take(self) -> Job | None:
        """The next job that may start; None: none now."""

    @property
    def is_exhausted(self) -> bool:
        """Whether no job will ever come any more."""

    def ended(self, job: Job) -> None:
        """Told of each job that has ended."""


class Listed:
    """A supply whose jobs are known from the start."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self._waiting = deque(jobs)

    def take(self) -> Job | None:
        """In the order of the list."""
        return self._waiting.popleft() if self._waiting else None

    @property
    def is_exhausted(self) -> bool:
        """Whether the list is at its end."""
        return not self._waiting

    def ended(self, job: Job) -> None:
        """Of no interest."""


class Sweep:
    """One sweep on one engine.

    Args:
        supply: what to run.
        engine: where.
        folder: where logs, manifest and table go.
        display: what people see meanwhile; default: bars on a terminal, else lines.
    """

    def __init__(self, supply: Supply, engine: Engine, folder: Path, display: Display | None = None) -> None:
        self.supply, self.engine, self.folder = supply, engine, folder
        self.display = display or make_sweep_display()
        self._running: list[Job] = []
        self._held: Job | None = None  # taken from the supply, waits for room
        self._again: deque[Job] = deque()  # killed while others ran: once more, alone
        self._started = time.time()
        self._shown = 0  # lines about skipped jobs

    def run(self) -> int:
        """Runs all jobs and prints the table.

        Returns:
            0 when every job is done, 1 when one is not, 130 or 143 when a signal ended the sweep.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            stopped_by = self._run_all()
        finally:
            self.display.close()
            self.engine.close()
            self._write_manifest(ended=time.time())
            _conclude(self.supply.jobs, self.folder)
        if stopped_by is not None:
            return Interrupted(stopped_by).exit_code
        return ExitCode.OK if all(job.status in _ENDED_WELL for job in self.supply.jobs) else ExitCode.FAILED

    def _run_all(self) -> int | None:
        """Keeps the engine busy. Returns the signal that ended the sweep early, or None."""
        with Interruption() as interruption:
            asked = False
            try:
                while self._running or (self._has_more() and interruption.signal_number is None):
                    if interruption.signal_number is None:
                        self._start_some()
                    elif not asked:
                        asked = True
                        if not self._interrupt(interruption.signal_number):
                            break
                    self._collect(interrupted=asked)
                    self.display.show(self._running)
                    if self._running:
                        time.sleep(POLL_SECONDS)
            except Interrupted:
                pass  # a second Ctrl-C: do not wait any longer
            finally:  # what still runs after a second Ctrl-C, or a failure of this loop; a queue keeps its jobs
                ours = [job for job in self._running if not job.id]
                self.engine.kill(ours)
                for job in ours:
                    job.status = "interrupted"
        return interruption.signal_number

    def _has_more(self) -> bool:
        return bool(self._held or self._again or not self.supply.is_exhausted)

    def _start_some(self) -> None:
        """Starts what the engine has room for; jobs that can start together are handed over together."""
        batch: list[Job] = []
        while (job := self._next()) is not None:
            if job.skip_if_done():
                self._say_skipped(job)
                self.supply.ended(job)
            elif self.engine.has_room(job, [*self._running, *batch]):
                batch.append(job)
            else:
                self._held = job
                break
        if not batch and not self._running and self._again and self._held is None and self.supply.is_exhausted:
            batch = [self._again.popleft()]
        if not batch:
            return
        self._running += batch
        for job in batch:
            job.attempts += 1
        for job in self._running:
            job.had_company = job.had_company or len(self._running) > 1
        self.engine.start(batch)
        for job in batch:
            self.display.note(f"{job.title}  {_started(job)}, log: {job.log}")
        self._write_manifest()

    def _next(self) -> Job | None:
        job, self._held = self._held or self.supply.take(), None
        return job

    def _interrupt(self, number: int) -> bool:
        """Asks the jobs to stop. False: the engine leaves them at work, and there is nothing to wait for."""
        if self.engine.interrupt(self._running, number):
            self.display.note("stopping: each job keeps a checkpoint (Ctrl-C once more to kill them)")
            return True
        names = ", ".join(sorted({job.id.partition("_")[0] for job in self._running}))
        self.display.note(f"the jobs go on in the queue ({names}): mode=status shows them, scancel ends them")
        return False

    def _collect(self, *, interrupted: bool) -> None:
        """Takes back the jobs that have ended."""
        ends = [(job, self.engine.ended(job)) for job in self._running]
        for job, end in ends:
            if end is None:
                continue
            self._running.remove(job)
            job.finish(end, interrupted=interrupted)
            if end.code == -signal.SIGKILL and job.had_company and job.attempts == 1 and not interrupted:
                self.display.note(f"{job.title}  killed, goes on alone when the others have ended")
                job.status, job.had_company = "not started", False
                self._again.append(job)
                continue
            self._say_ended(job)
            self.supply.ended(job)
        if any(end is not None for _, end in ends):
            self._write_manifest()

    def _say_ended(self, job: Job) -> None:
        line = job.last_line()
        if job.status in _ENDED_WELL and line.startswith(job.mark):
            self.display.note(line)
        else:
            self.display.note(f"{job.title}  {job.status}: {job.message or line}".rstrip(": "))

    def _say_skipped(self, job: Job) -> None:
        self._shown += 1
        if self._shown <= _SKIPPED_LINES:
            self.display.note(f"{job.mark} {job.config.label}  {job.message}")
        elif self._shown == _SKIPPED_LINES + 1:
            self.display.note("... and more; the table names all")

    def _write_manifest(self, ended: float | None = None) -> None:
        """A sweep whose disk is full goes on without it."""
        content = {
            "sweep": self.folder.name,
            "launcher": self.engine.name,
            "command": shlex.join(["python", *sys.argv]),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": round(self._started, 3),
            "updated": round(time.time(), 3),
            "ended": None if ended is None else round(ended, 3),
            "jobs": [job.entry() for job in self.supply.jobs],
        }
        with suppress(OSError):
            write_atomically(self.folder / MANIFEST, json.dumps(content, indent=1) + "\n", sync=False)


def run_sweep(jobs: Sequence[Job], engine: Engine, folder: Path) -> int:
    """Runs jobs that are all known; see :class:`Sweep`."""
    return Sweep(Listed(jobs), engine, folder).run()


def varied_settings(job_overrides: Sequence[Sequence[str]], labels: Iterable[str]) -> list[str]:
    """For each job, the overrides that not all jobs share, beside those that its label holds."""
    labels = set(labels)
    common = set(job_overrides[0]).intersection(*job_overrides)
    return [
        " ".join(text for text in overrides if text not in common and text.partition("=")[0] not in labels)
        for overrides in job_overrides
    ]


def follow_parent() -> None:
    """In a job of a sweep: makes sure that it does not outlive the sweep, even one that was killed outright."""
    parent = os.environ.get("MEMATTN_PARENT")
    if parent is not None:
        end_with_parent(int(parent))


def _started(job: Job) -> str:
    return f"{'submitted' if job.status == 'queued' else 'started'}{f' as {job.id}' if job.id else ''}"


#: Data by task and folder: the same for all variants and seeds, so that a sweep looks for them once.
_SOURCES: dict[str, Source] = {}


def _locate(config: RunConfig) -> Source:
    key = repr((config.task, config.data, config.scale))
    if key not in _SOURCES:
        _SOURCES[key] = find_data(config, build_task(config))
    return _SOURCES[key]


def _status_of(code: int, state: str, *, interrupted: bool) -> str:
    if code == ExitCode.OK:
        return "skipped" if state == "skipped" else "ok"
    if code == ExitCode.OUT_OF_MEMORY:
        return "out of memory"
    if -code in SIGNALS and state in _ENDED_WELL:  # after all was done, too late for a handler
        return state
    # A signal may also come before the process has a handler for it: nothing was begun then, so nothing has failed.
    asked = code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED) or -code in SIGNALS
    if asked or (interrupted and code < 0):
        return "interrupted"
    return "locked" if state == "locked" else "failed"


def _conclude(jobs: Sequence[Job], folder: Path) -> None:
    """Prints and stores the table, and says where everything is."""
    rows = [job.row() for job in jobs]
    with suppress(OSError):
        (folder / "table.txt").write_text(format_table(rows) + "\n", encoding="utf-8")
        write_csv(rows, folder / "table.csv")
    for job in jobs:
        if job.status not in ("queued", "running"):
            with suppress(OSError):
                job.report_file.unlink(missing_ok=True)
    print(flush=True)
    print_table(rows)
    runs = jobs[0].config.store.runs
    print(f"runs   {runs}/<task>/<model>/<run>/  (result.json, metrics.jsonl, slices.csv, checkpoints/, ...)")
    print(f"sweep  {folder}  (table.txt, table.csv, {MANIFEST}, a log for each job)")
    if any(list(row.folder.glob("wandb/offline-run-*")) for row in rows if row.folder):
        pattern = f"{shlex.quote(str(runs))}/*/*/*/wandb/offline-run-*"
        print(f"W&B    kept offline; browse: wandb leet <run folder>/wandb   upload: wandb sync {pattern}")
    sys.stdout.flush()
