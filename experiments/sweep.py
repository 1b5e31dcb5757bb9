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
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from experiments.errors import ExitCode, Interrupted
from experiments.interrupts import Interruption
from experiments.manifest import MANIFEST
from experiments.redact import redact
from experiments.store import write_atomically
from experiments.sweep_display import Display, make_sweep_display
from experiments.sweep_job import ENDED_WELL, Job
from experiments.table import format_table, print_table, write_csv

if TYPE_CHECKING:
    from experiments.engines import Engine

POLL_SECONDS = 0.2

#: So many lines "done before" are printed at most; the table has them all.
_SKIPPED_LINES = 20


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


Conclude = Callable[[Sequence[Job], Path], None]


class Sweep:
    """One sweep on one engine.

    Args:
        supply: what to run.
        engine: where.
        folder: where logs, manifest and table go.
        display: what people see meanwhile; default: bars on a terminal, else lines.
        conclude: what is printed and stored of the jobs at the end; default: the table.
    """

    def __init__(
        self,
        supply: Supply,
        engine: Engine,
        folder: Path,
        display: Display | None = None,
        conclude: Conclude | None = None,
    ) -> None:
        self.supply, self.engine, self.folder = supply, engine, folder
        self._conclude = conclude or _conclude
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
            self._conclude(self.supply.jobs, self.folder)
            _forget_reports(self.supply.jobs)
        if stopped_by is not None:
            return Interrupted(stopped_by).exit_code
        return ExitCode.OK if all(job.status in ENDED_WELL for job in self.supply.jobs) else ExitCode.FAILED

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
        if not batch and not self._running and self._again and self._held is None:
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
        if job.status in ENDED_WELL and line.startswith(job.mark):
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
            "command": redact(shlex.join(["python", *sys.argv])),
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


def _started(job: Job) -> str:
    return f"{'submitted' if job.status == 'queued' else 'started'}{f' as {job.id}' if job.id else ''}"


def _forget_reports(jobs: Sequence[Job]) -> None:
    for job in jobs:
        if job.status not in ("queued", "running"):
            with suppress(OSError):
                job.report_file.unlink(missing_ok=True)


def _conclude(jobs: Sequence[Job], folder: Path) -> None:
    """Prints and stores the table, and says where everything is."""
    rows = [job.row() for job in jobs]
    with suppress(OSError):
        (folder / "table.txt").write_text(format_table(rows) + "\n", encoding="utf-8")
        write_csv(rows, folder / "table.csv")
    print(flush=True)
    print_table(rows)
    runs = jobs[0].config.store.runs
    print(f"runs   {runs}/<task>/<model>/<run>/  (result.json, metrics.jsonl, slices.csv, checkpoints/, ...)")
    print(f"sweep  {folder}  (table.txt, table.csv, {MANIFEST}, a log for each job)")
    if any(list(row.folder.glob("wandb/offline-run-*")) for row in rows if row.folder):
        pattern = f"{shlex.quote(str(runs))}/*/*/*/wandb/offline-run-*"
        print(f"W&B    kept offline; browse: wandb leet <run folder>/wandb   upload: wandb sync {pattern}")
    sys.stdout.flush()
