"""What can go wrong, each kind with its exit code, and the wording of "did you mean".

A user's mistake is a ``ValueError`` (here ``ConfigError``) whose text is one line: what was wrong, which key, and what
would work.
"""

from __future__ import annotations

import difflib
import errno
import signal
import sys
from collections.abc import Iterable
from enum import IntEnum

from experiments.redact import redact

#: What the system says when a folder cannot be written, or is none.
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)

#: How a message ends when nothing is lost.
RESUMES = "the same command resumes"


class ExitCode(IntEnum):
    """What a process of this project says to the shell."""

    OK = 0
    """Done now, or done before and skipped."""
    FAILED = 1
    """The run failed, or another process holds it; in a sweep: at least one job did."""
    USER_ERROR = 2
    """A setting or the data cannot be used as given; nothing was started."""
    OUT_OF_MEMORY = 3
    INTERRUPTED = 130
    """Ctrl-C (128 + SIGINT)."""
    TERMINATED = 143
    """SIGTERM (128 + 15), SIGUSR1 or SIGUSR2, as schedulers send them, or SIGHUP: the terminal was closed."""


class ConfigError(ValueError):
    """A setting that cannot be used: unknown, of the wrong type, out of range, or without effect."""


class StoreError(RuntimeError):
    """A stored file cannot be trusted (torn, edited, or of another run). The text names the file and the way out."""


class CheckpointError(StoreError):
    """A checkpoint is truncated, or belongs to another model."""


class DamagedError(CheckpointError):
    """A checkpoint does not hold what was written: it is torn, or something else has its name."""


class LockedError(RuntimeError):
    """Another process is working in the same run folder."""


class RankError(Exception):
    """Another process of the same run is gone."""


class DivergedError(ArithmeticError):
    """The loss is no number any more."""


class Interrupted(BaseException):
    """A signal asked the process to stop.

    Not an ``Exception``, so that no handler between here and there takes it for a failure; not a ``KeyboardInterrupt``
    either, which Lightning turns into ``exit(1)``.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number

    def __str__(self) -> str:
        return "Ctrl-C" if self.signal_number == signal.SIGINT else signal.Signals(self.signal_number).name

    @property
    def exit_code(self) -> ExitCode:
        """130 for Ctrl-C, 143 for everything else."""
        return ExitCode.INTERRUPTED if self.signal_number == signal.SIGINT else ExitCode.TERMINATED


def unknown(kind: str, name: str, choices: Iterable[str]) -> str:
    """One line for a name that does not exist.

    >>> unknown("model", "fma", ["fam", "luna"])
    "unknown model 'fma': did you mean 'fam'? There are: fam, luna"
    """
    known = sorted(choices)
    swapped = [word for word in known if sorted(word) == sorted(name)]
    close = swapped or difflib.get_close_matches(name, known, n=2, cutoff=0.7)
    hint = f"did you mean {' or '.join(repr(word) for word in close)}? " if close else ""
    return f"unknown {kind} '{name}': {hint}There are: {', '.join(known) or 'none'}"


def first_line(error: BaseException | str) -> str:
    """The first line with something in it of a message, or the error's type when it has no message.

    Keys and passwords are left out: the line is on its way to somebody who reads it.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines:
        return redact(lines[0])
    return error if isinstance(error, str) else type(error).__name__


#: How torch says it, on CPUs and GPUs, where it has no type of its own for it.
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was not enough memory, on whatever device."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(words in text for words in _NO_MEMORY)


def warn(text: str) -> None:
    """One line about something that stops nothing."""
    print(redact(f"warning: {text}"), file=sys.stderr, flush=True)


def explain_os_error(error: OSError) -> str:
    """One line for a folder that cannot be written, a full disk, and the like."""
    reason = error.strerror or first_line(error)
    where = f"{error.filename}: {reason}" if error.filename else reason
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"disk full ({where}): make room, and {RESUMES}"
    if error.errno in NOT_WRITABLE:
        return f"cannot write there ({where}): choose another folder with store.root=... or MEMATTN_RESULTS"
    return where
