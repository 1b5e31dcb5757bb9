"""One job of a sweep, as the sweep's process knows it: what starts it, where its run lies, how it ended.

Parent and child share files only: the child writes where its run lies to $MEMATTN_JOB_FILE, and the parent reads that
run's status.json. Importing this module loads neither torch nor Lightning.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config import RunConfig, build_task, find_data
from experiments.engines.ticket import Ticket
from experiments.errors import ExitCode, StoreError
from experiments.interrupts import SIGNALS, end_with_parent
from experiments.job import headline
from experiments.redact import file_name, redact, redact_file
from experiments.settings import REPOSITORY
from experiments.store import RunFolder, Source, run_folder
from experiments.table import Row

if TYPE_CHECKING:
    from experiments.engines import End

ENDED_WELL = ("ok", "skipped")


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
        return f"{self.number:03}-{file_name(self.config.label)}"

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
                self.status, self.message = "skipped", f"done before, {self.describe(result)}"
                return True
        return False

    def describe(self, result: dict[str, Any]) -> str:
        """What a line says of a result."""
        return f"{headline(result)}; force=true runs it again"

    def finish(self, end: End, *, interrupted: bool) -> None:
        """Reads how its process ended."""
        redact_file(self.log)
        self.status = _status_of(end.code, self.report().get("state", ""), interrupted=interrupted)
        if self.status in ENDED_WELL:
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
        if folder is not None and self.status in ENDED_WELL:
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
            "settings": redact(self.settings),
            "folder": self.report().get("folder", ""),
            "id": self.id,
            "status": self.status,
            "message": redact(self.message),
        }


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
    if -code in SIGNALS and state in ENDED_WELL:  # after all was done, too late for a handler
        return state
    # A signal may also come before the process has a handler for it: nothing was begun then, so nothing has failed.
    asked = code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED) or -code in SIGNALS
    if asked or (interrupted and code < 0):
        return "interrupted"
    return "locked" if state == "locked" else "failed"
