"""``hydra/launcher=local``: processes of this machine, as many at a time as devices, cores and memory carry."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from experiments.engines import End

if TYPE_CHECKING:
    import subprocess

    from experiments.config import RunConfig
    from experiments.sweep_job import Job

GIB = 1 << 30

#: What a job is believed to need before any like it was seen: torch, Lightning and a small model.
_FIRST_GUESS = 1 * GIB

#: Left to the rest of the machine.
_RESERVE = GIB // 2


class LocalEngine:
    """A pool of places, each for one job: a GPU, several, or some cores.

    A job is started when a place is free and the memory that is available holds what the job will need and what the
    running ones will still take: as much as the largest job of the same variant and task has taken so far.

    Args:
        places: environment of each job that may run at the same time (which GPUs, or nothing).
        memory: bytes that a job needs; None: learned from the jobs before.
    """

    name = "local"

    def __init__(self, places: Sequence[dict[str, str]], *, memory: int | None = None) -> None:
        self._free = list(places)
        self._memory = memory
        self._peaks: dict[tuple[str, str], int] = {}
        self._processes: dict[int, tuple[subprocess.Popen[bytes], dict[str, str]]] = {}

    def has_room(self, job: Job, running: Sequence[Job]) -> bool:
        """Whether place and memory are free. One job may always run: it is for the job to fail."""
        if len(running) >= len(self._free) + len(self._processes):
            return False
        growth = sum(max(0, self._need(other) - self._look(other)) for other in running)
        return not running or available_memory() - _RESERVE >= self._need(job) + growth

    def start(self, jobs: Sequence[Job]) -> None:
        """Starts processes."""
        for job in jobs:
            place = self._free.pop(0)
            ticket = job.ticket()
            ticket = ticket._replace(environment={**ticket.environment, **place})
            self._processes[job.number] = ticket.open(), place
            job.status = "running"

    def ended(self, job: Job) -> End | None:
        """The exit code of its process."""
        process, place = self._processes[job.number]
        if process.poll() is None:
            return None
        del self._processes[job.number]
        self._free.append(place)
        hint = " (the system may have run out of memory)" if process.returncode == -signal.SIGKILL else ""
        return End(process.returncode, hint)

    def interrupt(self, jobs: Sequence[Job], signal_number: int) -> bool:
        """Passes the signal on."""
        self._send(jobs, signal_number)
        return True

    def kill(self, jobs: Sequence[Job]) -> None:
        """SIGKILL."""
        self._send(jobs, signal.SIGKILL)

    def close(self) -> None:
        """Nothing is held."""

    def _send(self, jobs: Sequence[Job], number: int) -> None:
        for job in jobs:
            if job.number in self._processes:
                self._processes[job.number][0].send_signal(number)

    def _need(self, job: Job) -> int:
        """Bytes that a job takes at its peak, as far as is known."""
        return self._memory or self._peaks.get(_kind(job), max(self._peaks.values(), default=_FIRST_GUESS))

    def _look(self, job: Job) -> int:
        """Bytes that a running job takes now; remembers the peak of its kind."""
        now = 0
        if job.number not in self._processes:  # to be started in a moment
            return now
        with suppress(psutil.Error):
            process = psutil.Process(self._processes[job.number][0].pid)
            family = [process, *process.children(recursive=True)]
            now = sum(member.memory_info().rss for member in family)
        self._peaks[_kind(job)] = max(now, self._peaks.get(_kind(job), 0))
        return now


def _kind(job: Job) -> tuple[str, str]:
    return job.config.model.label, job.config.task.name


def find_places(jobs: int | str, configs: Sequence[RunConfig]) -> list[dict[str, str]]:
    """The environment of each job that may run at the same time: as many as there are GPUs for, or as the cores carry.

    A GPU goes to one job, and a job gets as many as ``trainer.devices`` says.
    """
    gpus = [] if all(config.trainer.device == "cpu" for config in configs) else _visible_gpus()
    devices = max(config.trainer.devices for config in configs)
    groups = [",".join(gpus[first : first + devices]) for first in range(0, len(gpus), devices)]
    groups = groups[: max(1, len(gpus) // devices)]  # no group that is too small, unless there is no other
    threads = devices * max(config.trainer.threads for config in configs)
    count = (len(groups) or max(1, available_cores() // threads)) if jobs == "auto" else int(jobs)
    count = max(1, min(count, len(configs)))
    return [{"CUDA_VISIBLE_DEVICES": groups[index % len(groups)]} if groups else {} for index in range(count)]


def available_memory() -> int:
    """Bytes that may still be taken: of the machine, or of the container's limit where there is one."""
    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # no control group, or no limit ("max")
        limit, used = int((group / "memory.max").read_text()), int((group / "memory.current").read_text())
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        free = min(free, limit - used + int(statistics.get("inactive_file", 0)))
    return free


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES names, else all."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]
