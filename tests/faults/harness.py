"""What the tests of faults share: runs and sweeps in processes that start fast, and ways to disturb them.

A process is forked from one that has torch and Lightning imported (tests/experiments/small_runs.py), so that a run
takes half a second and hundreds of kills take minutes. A sweep's jobs are forked likewise from the sweep's process:
real processes with their own group, log and parent, only without the seconds of importing.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from experiments.config import RunConfig
from experiments.engines.local import LocalEngine
from experiments.engines.ticket import Ticket
from experiments.errors import Interrupted
from experiments.interrupts import SIGNALS, raising_interrupted
from experiments.store import RunFolder
from experiments.sweep import run_sweep
from experiments.sweep_job import Job, follow_parent
from tests.experiments.small_runs import Sabotage, end_of, outcome, run_here, settings, start_apart

STEP = "experiments.lightning_modules:SequenceModule.training_step"
KILLED = -signal.SIGKILL

#: The smallest run that has nearly all that a run can have: dropout, several validations, a slice for each length.
SMALL = (
    "task=memory_ops",
    "backbone.width=16",
    "backbone.dropout=0.1",
    "task.eval_samples=2",
    "task.val_samples=4",
    "trainer.steps=8",
    "trainer.val_every=4",
    "trainer.log_every=2",
    "trainer.checkpoint_every=1",
)


def small(root: Path, *overrides: str) -> RunConfig:
    """Settings of a run of some tenths of a second; with ``model=fam``, which has a memory, of a second."""
    model = () if any(text.startswith("model=") for text in overrides) else ("model=transformer",)
    return settings(root, *model, *SMALL, *overrides)


def everything(folder: RunFolder) -> dict[str, Any]:
    """All numbers of a finished run that must not depend on what happened to it, the tested weights included."""
    digest = hashlib.sha256()
    weights = torch.load(folder.best_checkpoint, weights_only=True)["weights"]
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    if folder.diagnostics_file.exists():
        with np.load(folder.diagnostics_file) as arrays:
            for name in sorted(arrays.files):
                digest.update(name.encode() + arrays[name].tobytes())
    return {**outcome(folder), "weights": digest.hexdigest()}


def run_with_signal(config: RunConfig, number: int, step: int) -> int:
    """A run that gets a signal at the beginning of a step, from 1."""
    Sabotage(STEP, step, "before", number).arm()
    return run_here(config)


# Processes


class Ended(NamedTuple):
    """How a process ended, and what it said."""

    code: int
    out: str
    err: str


def started_apart(log: Path, work: Callable[..., int], *arguments: Any) -> Any:
    """Starts ``work``, a function of a module, whose value is the exit code. Prints to ``log``, errors beside it."""
    return start_apart(work_apart, log, work, *arguments)


def apart(log: Path, work: Callable[..., int], *arguments: Any) -> Ended:
    """As :func:`started_apart`, to the end."""
    process = started_apart(log, work, *arguments)
    return ended(process, log)


def ended(process: Any, log: Path) -> Ended:
    """Waits for a process that prints to ``log``."""
    code = end_of(process)
    return Ended(code, log.read_text(), log.with_suffix(".err").read_text())


def work_apart(log: Path, work: Callable[..., int], *arguments: Any) -> None:
    """Ends this process with the value of ``work``; what it prints goes to ``log``, errors beside it."""
    _print_to(log, log.with_suffix(".err"))
    raise SystemExit(int(work(*arguments)))


def _print_to(out: Path, err: Path) -> None:
    for path, descriptor in ((out, 1), (err, 2)):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, descriptor)
        os.close(handle)


# Sweeps


#: Done in a job's process before it runs, by the job's number.
Prepare = Callable[[int], None]


def sweep(configs: Sequence[RunConfig], prepare: Prepare | None = None, folder: Path | None = None) -> int:
    """A sweep in this process, with its real loop, engine and table; its jobs are forked. Returns its exit code.

    Args:
        configs: of its jobs, two of which run at a time.
        prepare: what a job's process does first.
        folder: where its logs go.
    """
    folder = folder or configs[0].store.folder / "sweeps" / "one"

    def fork_job(ticket: Ticket) -> ForkedJob:
        number = int(ticket.environment["MEMATTN_JOB"].partition("/")[0])
        return ForkedJob(ticket, configs[number - 1], prepare)

    jobs = [Job(number, len(configs), folder, [], config) for number, config in enumerate(configs, start=1)]
    Ticket.open = fork_job  # type: ignore[method-assign, assignment]
    return run_sweep(jobs, LocalEngine([{}, {}], memory=1), folder)


class ForkedJob:
    """A job as run.py would start it; looks like ``subprocess.Popen``."""

    def __init__(self, ticket: Ticket, config: RunConfig, prepare: Prepare | None) -> None:
        self.returncode: int | None = None
        parent = os.getpid()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            _print_to(Path(ticket.log), Path(ticket.log))
            os.environ.update({**ticket.environment, "MEMATTN_PARENT": str(parent)})
            for number in SIGNALS:  # those of the sweep are no business of the job
                signal.signal(number, signal.SIG_DFL)
            _end_as(lambda: _job(config, prepare))

    def poll(self) -> int | None:
        """The exit code, once there is one."""
        if self.returncode is None:
            number, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if number else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


def _job(config: RunConfig, prepare: Prepare | None) -> int:
    try:
        with raising_interrupted():
            follow_parent()
            if prepare is not None:
                prepare(int(os.environ["MEMATTN_JOB"].partition("/")[0]))
            return run_here(config)
    except Interrupted as error:
        return error.exit_code


def _end_as(work: Callable[[], int]) -> None:
    """Ends this forked process with the value of ``work``; nothing that its parent had begun is done once more."""
    code = 70
    try:
        code = int(work())
    except SystemExit as error:
        code = int(error.code or 0) if not isinstance(error.code, str) else 70
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def forked(work: Callable[[], int]) -> int:
    """The exit code of ``work`` in a fork of this process."""
    sys.stdout.flush()
    number = os.fork()
    if number == 0:
        _end_as(work)
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


# Every operation on files


_MOVES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


def watch_operations(below: Path, act: Callable[[str], None]) -> None:
    """From now on, calls ``act`` before this process changes any file below a folder; there is no way back.

    What counts: opening to write, the middle of a ``write_bytes`` or ``write_text``, fsync, rename, removal, mkdir.
    """
    inside = str(below.resolve()) + os.sep

    def told(event: str, name: str) -> None:
        if name.startswith(inside):
            plain = re.sub(r"\.\d+\.tmp$", ".tmp", name.removeprefix(inside))
            act(f"{event} {plain.rpartition(os.sep)[2]}")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | os.PathLike) and flags & (os.O_WRONLY | os.O_RDWR):
                told("open", os.fspath(path))
        elif event in _MOVES and isinstance(arguments[0], str | os.PathLike):
            told(event.removeprefix("os."), os.fspath(arguments[0]))

    sys.addaudithook(hook)
    sync, write = os.fsync, Path.write_bytes

    def synced(descriptor: int) -> None:
        told("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    def write_halves(path: Path, content: Any) -> int:
        write(path, bytes(content)[: len(content) // 2])
        told("half of", str(path))
        return write(path, content)

    os.fsync = synced  # type: ignore[assignment]
    Path.write_bytes = write_halves  # type: ignore[method-assign, assignment]
    Path.write_text = lambda path, text, encoding=None: write_halves(path, text.encode())  # type: ignore


def run_and_tell_operations(config: RunConfig, tally: Path) -> int:
    """A run that is not disturbed; its operations on files, a line each, go to ``tally``."""
    names: list[str] = []
    watch_operations(config.store.folder, names.append)
    code = run_here(config)
    tally.write_bytes("\n".join(names).encode())  # outside of what is watched
    return code


def kill_at_operation(below: Path, number: int, *, note: Path | None = None) -> None:
    """Kills this process before its so many-th operation on files, from 1; leaves a note of which that was."""
    count = 0

    def act(name: str) -> None:
        nonlocal count
        count += 1
        if count == number:
            if note is not None:
                write(note, name.encode())
            os.kill(os.getpid(), signal.SIGKILL)

    write = Path.write_bytes

    watch_operations(below, act)


def run_until_operation(config: RunConfig, number: int) -> int:
    """A run that is killed before its so many-th operation on files."""
    kill_at_operation(config.store.folder, number)
    return run_here(config)


# Mounts


_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18


def own_mounts() -> bool:
    """Gives this process mounts of its own, which end with it; False where the system does not let us."""
    if sys.platform != "linux":
        return False
    libc, user, group = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWNS) != 0:
        if libc.unshare(_CLONE_NEWNS | _CLONE_NEWUSER) != 0:
            return False
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    return libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) == 0


def mount_small(folder: Path, size: int, *, again: bool = False) -> None:
    """A file system of so many bytes at a folder; ``again``: gives it another size."""
    _mount("tmpfs", folder, _MS_REMOUNT if again else 0, f"size={size}")


def mount_read_only(folder: Path) -> None:
    """Makes a folder one that nobody can write to, root included."""
    _mount(str(folder), folder, _MS_BIND)
    _mount("none", folder, _MS_REMOUNT | _MS_BIND | _MS_RDONLY)


def _mount(source: str, folder: Path, flags: int, options: str = "") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), str(folder).encode(), b"tmpfs", flags, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), f"mount {folder}")


def try_mounts() -> int:
    """0 where a process may have mounts of its own."""
    return 0 if own_mounts() else 1
