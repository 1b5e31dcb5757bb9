"""Where the jobs of a sweep run. One file per engine; the sweep (experiments/sweep.py) knows them by this alone.

An engine starts ``python run.py <overrides>`` for each job, on this machine or on another, and says how it ended. All
else is the same everywhere: the child trains, skips or resumes in the store, and prints into the job's log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from experiments.sweep_job import Job


class End(NamedTuple):
    """How a job's process ended."""

    code: int
    """Exit code; negative: the number of the signal that killed it."""
    message: str = ""
    """What the engine knows and the job's log does not."""


class Engine(Protocol):
    """Runs jobs."""

    name: str
    """As in ``hydra/launcher=<name>``."""

    def has_room(self, job: Job, running: Sequence[Job]) -> bool:
        """Whether the job may be started beside those that are started and have not ended."""

    def start(self, jobs: Sequence[Job]) -> None:
        """Starts jobs, or puts them into a queue; sets ``job.status`` and, where there is one, ``job.id``."""

    def ended(self, job: Job) -> End | None:
        """How a started job ended; None while it has not. Asked several times a second."""

    def interrupt(self, jobs: Sequence[Job], signal_number: int) -> bool:
        """Asks jobs to keep a checkpoint and end.

        Returns:
            False if they are left alone instead, since they do not depend on this process.
        """

    def kill(self, jobs: Sequence[Job]) -> None:
        """Ends jobs at once."""

    def close(self) -> None:
        """Gives back what the engine holds. No job runs any more, or those that do are left alone."""
