"""``hydra/launcher=slurm`` and ``submitit_local``: jobs through submitit, which writes, queues and requeues them.

What SLURM starts is submitit's own process, and that one starts the job (ticket.py). The end of a job's time, or its
preemption, goes like this:

1. SLURM signals all processes of the job: USR2 before its time is over (``signal_delay_s``), TERM on preemption.
2. The run takes that as what it is (experiments/interrupts.py): it keeps a checkpoint at the next step and ends.
3. On USR2 submitit calls :meth:`RunTicket.checkpoint` and requeues the job; after a preemption SLURM does.
4. The job starts again under the same number, finds the checkpoint in the store and goes on.
"""

from __future__ import annotations

import getpass
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import submitit
from submitit.core.utils import UncompletedJobError

from experiments.engines import End
from experiments.engines.ticket import Child, Ticket
from experiments.errors import ConfigError, ExitCode, first_line
from experiments.settings import REPOSITORY

if TYPE_CHECKING:
    from experiments.sweep_job import Job

#: How often the queue is looked at.
_QUEUE_SECONDS = 3.0

#: How long a job may have left the queue before its result shows: nodes write through a shared file system.
_GRACE_SECONDS = 15.0

#: How long a job whose run was ended by a signal waits for SLURM to end it, before it asks to be queued again.
_PATIENCE_SECONDS = 120.0

#: Keys of the launcher that submitit takes for any executor; it wants the others with the executor's name in front.
_COMMON = frozenset(
    ("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name", "stderr_to_stdout")
)

_INTERRUPTED = (ExitCode.INTERRUPTED, ExitCode.TERMINATED)


class RunTicket:
    """What submitit calls on the node. It is pickled, and once more when the job is requeued."""

    def __init__(self) -> None:
        self._child: Child | None = None

    def __call__(self, ticket: Ticket) -> int:
        """Runs the job and returns its exit code."""
        self._child = Child(ticket)
        code = self._child.wait()
        if code in _INTERRUPTED and "SLURM_JOB_ID" in os.environ:
            _await_requeue()
        return code

    def checkpoint(self, ticket: Ticket) -> submitit.helpers.DelayedSubmission:
        """Called by submitit in its handler of USR2: ends the run with a checkpoint, and queues the same again."""
        if self._child is not None:
            self._child.stop()
        return submitit.helpers.DelayedSubmission(RunTicket(), ticket)

    def __getstate__(self) -> dict[str, Any]:
        return {"_child": None}


def _await_requeue() -> None:
    """Keeps a job alive whose run was ended by a signal: SLURM queues no job again that ends of itself.

    Preempted or cancelled, the job is killed within its time of grace, and queued again or not. Where nothing happens,
    somebody signalled it for reasons of their own: it asks submitit to requeue it, as the end of its time would.
    """
    time.sleep(_PATIENCE_SECONDS)
    while _states(["-j", os.environ["SLURM_JOB_ID"]]).get(_own_id(), "RUNNING") != "RUNNING":
        time.sleep(_QUEUE_SECONDS)
    os.kill(os.getpid(), submitit.JobEnvironment()._usr_sig())
    time.sleep(_PATIENCE_SECONDS)


def _own_id() -> str:
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]


class SubmititEngine:
    """Jobs through an executor of submitit.

    Args:
        kind: ``slurm`` or ``local``.
        settings: the keys of ``hydra.launcher`` (conf/hydra/launcher/).
        places: how many jobs at a time; None: that is the queue's business (``array_parallelism``).

    Raises:
        ConfigError: submitit refuses a key.
    """

    def __init__(self, kind: str, settings: Mapping[str, Any], *, places: int | None = None) -> None:
        self.name = "slurm" if kind == "slurm" else "submitit_local"
        self._kind, self._places = kind, places
        settings = dict(settings)
        folder = str(settings.pop("submitit_folder"))
        first = {f"{kind}_max_num_timeout": settings.pop("max_num_timeout")} if "max_num_timeout" in settings else {}
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster=kind, **first)
            named = {key if key in _COMMON else f"{kind}_{key}": value for key, value in settings.items()}
            self._executor.update_parameters(**{key: value for key, value in named.items() if value is not None})
        except (TypeError, ValueError, NameError, RuntimeError) as error:
            raise ConfigError(f"hydra.launcher: submitit says: {first_line(error)}") from error
        self._submitted: dict[int, submitit.Job[int]] = {}
        self._states: dict[str, str] = {}
        self._looked = 0.0
        self._missing: dict[str, float] = {}

    def has_room(self, job: Job, running: Sequence[Job]) -> bool:
        """A queue always has."""
        return self._places is None or len(running) < self._places

    def start(self, jobs: Sequence[Job]) -> None:
        """Submits jobs, several as one array."""
        self._share_path()
        tickets = [job.ticket() for job in jobs]
        submitted = self._executor.map_array(RunTicket(), tickets)
        for job, one in zip(jobs, submitted, strict=True):
            self._submitted[job.number] = one
            job.status = "running"
            if self._kind == "slurm":
                job.status, job.id = "queued", str(one.job_id)

    def ended(self, job: Job) -> End | None:
        """The exit code that its process returned, or what the queue knows of its end."""
        submitted = self._submitted[job.number]
        if not submitted.paths.result_pickle.exists():
            return self._lost(job) if self._kind == "slurm" else self._died(submitted)
        try:
            outcome, value = submitted._get_outcome_and_result()
        except (UncompletedJobError, OSError, EOFError) as error:
            return End(ExitCode.FAILED, first_line(error))
        return End(int(value)) if outcome == "success" else End(ExitCode.FAILED, _last_line(str(value)))

    def interrupt(self, jobs: Sequence[Job], signal_number: int) -> bool:
        """Jobs of this machine are told; those in a queue do not depend on the sweep's process, and go on."""
        if self._kind == "slurm":
            return False
        for job in jobs:
            for process in _processes(self._submitted[job.number]):
                if _is_run(process):  # submitit's own processes take no notice
                    process.send_signal(signal.SIGTERM)
        return True

    def kill(self, jobs: Sequence[Job]) -> None:
        """SIGKILL, to all that belongs to a job."""
        for job in jobs:
            for process in _processes(self._submitted[job.number]):
                process.kill()

    def close(self) -> None:
        """Nothing is held."""

    def _share_path(self) -> None:
        """Whatever folder the sweep was started from, its jobs must be able to import this module."""
        known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if str(REPOSITORY) not in known:
            os.environ["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), *filter(None, known)])

    def _died(self, submitted: submitit.Job[int]) -> End | None:
        """The process that submitit started may have been killed."""
        if not submitted.done():
            return None
        if submitted.paths.result_pickle.exists():
            return None  # next time
        return End(ExitCode.FAILED, f"submitit's process ended without a result: see {submitted.paths.stderr}")

    def _lost(self, job: Job) -> End | None:
        """Follows a job through the queue. One that left it without a result was cancelled or killed."""
        state = self._queue().get(job.id)
        if state is not None:
            self._missing.pop(job.id, None)
            job.status = "running" if state in ("RUNNING", "COMPLETING") else "queued"
            return None
        since = self._missing.setdefault(job.id, time.monotonic())
        if time.monotonic() - since < _GRACE_SECONDS:
            return None
        errors = _read(self._submitted[job.number].paths.stderr)
        if "oom" in errors.lower():
            message = f"SLURM killed it for its memory (hydra.launcher.mem_gb): {_last_line(errors)}"
            return End(ExitCode.OUT_OF_MEMORY, message)
        return End(ExitCode.TERMINATED, f"left the queue without a result (cancelled?): {_last_line(errors)}")

    def _queue(self) -> dict[str, str]:
        if time.monotonic() - self._looked >= _QUEUE_SECONDS:
            self._states = _states(["-u", getpass.getuser()], before=self._states)
            self._looked = time.monotonic()
        return self._states


def _processes(submitted: submitit.Job[int]) -> list[psutil.Process]:
    """What runs on this machine for a job: submitit's two processes and all below them."""
    with suppress(psutil.Error, ValueError):
        top = psutil.Process(int(submitted.job_id))
        return [top, *top.children(recursive=True)]
    return []


def _is_run(process: psutil.Process) -> bool:
    """Whether a process is the run that :class:`RunTicket` has started."""
    with suppress(psutil.Error):
        return process.environ().get("MEMATTN_PARENT") == str(process.ppid())
    return False


def _states(which: Sequence[str], before: Mapping[str, str] | None = None) -> dict[str, str]:
    """State of each job in the queue, by its number. squeue works with and without SLURM's accounting.

    Args:
        which: arguments that choose jobs.
        before: what to answer if the controller cannot be asked at the moment.
    """
    command = ["squeue", "--noheader", "--array", "--format=%i %T", *which]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        if "Invalid job id" in done.stderr:  # it is forgotten already
            return {}
        print(f"warning: squeue: {_last_line(done.stderr)}", file=sys.stderr, flush=True)
        return dict(before or {})
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line.strip())


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no output")
