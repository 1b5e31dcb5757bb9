"""A sweep at work, as people see it: a bar for each job on a terminal, lines now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from experiments.progress import Snapshot

if TYPE_CHECKING:
    from experiments.sweep_job import Job

LINE_SECONDS = 20.0


class Display(Protocol):
    """Shows a sweep at work."""

    def note(self, text: str) -> None:
        """One line that stays."""

    def show(self, running: Sequence[Job]) -> None:
        """Called several times a second with the jobs at work."""

    def close(self) -> None:
        """Leaves the terminal as it was."""


def make_sweep_display() -> Display:
    """Bars on a terminal, else lines."""
    return Bars() if sys.stdout.isatty() else Lines()


class Lines:
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


class Bars:
    """One bar for each job at work."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
        )
        self._progress = Progress(*columns, refresh_per_second=4, transient=True)
        self._tasks: dict[int, Any] = {}
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
