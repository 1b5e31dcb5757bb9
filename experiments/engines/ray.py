"""``hydra/launcher=ray``: each job a task of a Ray cluster, or of one that is started on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ray

from experiments.engines import End
from experiments.engines.ticket import run_ticket
from experiments.errors import ConfigError, ExitCode, first_line
from experiments.settings import REPOSITORY

if TYPE_CHECKING:
    from experiments.sweep_job import Job


class RayEngine:
    """Jobs as Ray's tasks: Ray finds each a node with the cores, GPUs and memory that it asks for.

    Args:
        settings: ``init`` and ``remote``: what ``ray.init`` and ``ray.remote`` are called with.

    Raises:
        ConfigError: the cluster cannot be reached, or Ray refuses a key.
    """

    name = "ray"

    def __init__(self, settings: Mapping[str, Any]) -> None:
        init = {key: value for key, value in settings["init"].items() if value is not None}
        remote = {key: value for key, value in settings["remote"].items() if value is not None}
        path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
        try:
            ray.init(runtime_env={"env_vars": {"PYTHONPATH": path}}, **init)
            self._run = ray.remote(**remote)(run_ticket)
        except (ConnectionError, TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(f"hydra/launcher=ray: {first_line(error)}") from error
        self._tasks: dict[int, Any] = {}

    def has_room(self, job: Job, running: Sequence[Job]) -> bool:
        """Ray queues what does not fit yet."""
        return True

    def start(self, jobs: Sequence[Job]) -> None:
        """Hands tasks over. Which of them run already is not asked."""
        for job in jobs:
            self._tasks[job.number] = self._run.remote(job.ticket())
            job.status = "running"

    def ended(self, job: Job) -> End | None:
        """The exit code that the task returned, or why Ray lost it."""
        task = self._tasks[job.number]
        if not ray.wait([task], timeout=0)[0]:
            return None
        try:
            return End(int(ray.get(task)))
        except ray.exceptions.OutOfMemoryError as error:
            return End(ExitCode.OUT_OF_MEMORY, f"Ray: {first_line(error)}")
        except ray.exceptions.TaskCancelledError:
            return End(ExitCode.INTERRUPTED)
        except ray.exceptions.RayError as error:
            return End(ExitCode.FAILED, f"Ray: {first_line(error)}")

    def interrupt(self, jobs: Sequence[Job], signal_number: int) -> bool:
        """Cancels the tasks: each passes it on to its run, and waits for the checkpoint."""
        for job in jobs:
            ray.cancel(self._tasks[job.number], force=False)
        return True

    def kill(self, jobs: Sequence[Job]) -> None:
        """Ends the workers; a run follows its parent."""
        for job in jobs:
            ray.cancel(self._tasks[job.number], force=True)

    def close(self) -> None:
        """Leaves the cluster, or ends the one that was started here."""
        ray.shutdown()
