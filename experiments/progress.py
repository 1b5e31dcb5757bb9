"""What a run shows while it works: a bar on a terminal, a line now and then elsewhere, and status.json."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

if TYPE_CHECKING:
    from experiments.store import RunFolder

STATUS_SECONDS = 1.0
LINE_SECONDS = 10.0

#: Columns of a terminal on which a bar has room for its title.
_WIDE = 110


class Snapshot(NamedTuple):
    """Where a run is."""

    step: int
    steps: int
    phase: str = "training"  # training, validating or testing
    loss: float | None = None
    metric_name: str = ""
    metric: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: float | None = None

    def __str__(self) -> str:
        parts = [f"step {self.step}/{self.steps}"]
        if self.phase != "training":
            parts.append(self.phase)
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        if self.metric is not None:
            parts.append(f"{self.metric_name} {self.metric:.4f}")
        if self.tokens_per_second is not None:
            parts.append(f"{self.tokens_per_second:,.0f} tok/s")
        if self.eta_seconds is not None:
            parts.append(f"{clock_time(self.eta_seconds)} left")
        return "  ".join(parts)


class Display:
    """Shows snapshots to whoever is watching. This one shows nothing: in a sweep the parent reads status.json."""

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def show(self, snapshot: Snapshot, *, important: bool = False) -> None:
        """Shows where the run is; ``important`` marks what must not be skipped, such as a validation."""

    def note(self, text: str) -> None:
        """Shows one line of text."""

    def close(self) -> None:
        """Leaves the terminal as it was."""


class Lines(Display):
    """A plain line every ten seconds and at each validation."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._last = time.monotonic()

    def show(self, snapshot: Snapshot, *, important: bool = False) -> None:
        """One line, if it is time."""
        now = time.monotonic()
        if important or now - self._last >= LINE_SECONDS:
            self._last = now
            self.note(str(snapshot))

    def note(self, text: str) -> None:
        """One line."""
        print(f"{self.title}  {text}", flush=True)


class Bar(Display):
    """A bar that stays on one line of a terminal."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        console = console or Console()
        columns = [BarColumn(bar_width=None), TextColumn("{task.fields[text]}")]
        if console.width >= _WIDE:
            columns.insert(0, TextColumn("{task.description}"))
        self._progress = Progress(*columns, console=console, auto_refresh=False, expand=True)
        self._task = self._progress.add_task(title, total=None, text="")
        self._progress.start()

    def show(self, snapshot: Snapshot, *, important: bool = False) -> None:
        """Moves the bar."""
        self._progress.update(
            self._task, total=snapshot.steps, completed=snapshot.step, text=str(snapshot), refresh=True
        )

    def note(self, text: str) -> None:
        """A line above the bar."""
        self._progress.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """The bar's last state stays on the screen."""
        self._progress.stop()


def make_display(kind: str, title: str) -> Display:
    """The display for ``trainer.progress``: bar, plain, none, or auto (a bar on a terminal, else plain)."""
    if kind == "auto":
        kind = "bar" if sys.stdout.isatty() else "plain"
    if kind == "bar":
        return Bar(title)
    return Lines(title) if kind == "plain" else Display()


class Reporter:
    """Passes snapshots on to a display and, at most once a second, to status.json.

    Asking whether a report is :meth:`due` costs next to nothing, so training asks at every step.
    """

    def __init__(self, display: Display, folder: RunFolder) -> None:
        self.display = display
        self._folder = folder
        self._next = 0.0

    def due(self) -> bool:
        """Whether a second has gone by since the last report."""
        return time.monotonic() >= self._next

    def report(self, snapshot: Snapshot, *, important: bool = False) -> None:
        """Shows and stores where the run is."""
        self.display.show(snapshot, important=important)
        if self.due():
            self._next = time.monotonic() + STATUS_SECONDS
            with suppress(OSError):  # a heartbeat is worth no run; what is wrong shows at the next checkpoint
                self._folder.write_status("running", **snapshot._asdict())


def clock_time(seconds: float) -> str:
    """A duration as people read it: 0:07, 3:20, 2:03:20."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
