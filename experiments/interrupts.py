"""Signals that ask a process to stop, and processes that end with the one that started them.

Ctrl-C, SIGTERM, a terminal that is closed (SIGHUP) and the warnings that schedulers send before they end a job (SIGUSR1
or SIGUSR2, often several) are one and the same request, which training answers at the next step with a checkpoint.
Importing this module loads neither torch nor Lightning, so that the handlers can stand before either is imported.
"""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

from experiments.errors import ExitCode, Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

_PR_SET_PDEATHSIG = 1

_Handler = Callable[[int, FrameType | None], None]


class Interruption:
    """Context in which a first signal is only noted; a second Ctrl-C stops at once.

    Schedulers warn more than once and in several ways, so their signals never stop at once. In a thread that is not the
    main one, where Python lets nobody handle signals, it notes nothing.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        """The first signal that came."""
        self._saw_ctrl_c = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        self._before = _install(self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _restore(self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        impatient = number == signal.SIGINT and self._saw_ctrl_c
        self._saw_ctrl_c |= number == signal.SIGINT
        self.signal_number = self.signal_number or number
        if impatient:
            raise Interrupted(number)

    def check(self) -> None:
        """Stops here if a signal has come.

        Raises:
            Interrupted: it has.
        """
        if self.signal_number is not None:
            raise Interrupted(self.signal_number)


@contextmanager
def raising_interrupted() -> Iterator[None]:
    """Turns the first signal into Interrupted. Training puts its own, more patient handlers on top."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    before = _install(stop)
    try:
        yield
    finally:
        _restore(before)


@contextmanager
def not_listening() -> Iterator[None]:
    """While the end of a run is being stored, a scheduler's next signal says nothing new. Ctrl-C still does."""
    before = _install(lambda number, frame: None, SIGNALS[1:])
    try:
        yield
    finally:
        _restore(before)


def end_with_parent(parent: int, number: int = signal.SIGTERM) -> None:
    """Makes sure that this process does not outlive the one that started it, even one that was killed outright.

    Args:
        parent: process id of that one.
        number: the signal that this process then gets.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            sys.exit(ExitCode.TERMINATED)
        return
    threading.Thread(target=_watch, args=(parent, number), daemon=True).start()


def _watch(parent: int, number: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), number)


def _install(handler: _Handler, numbers: tuple[signal.Signals, ...] = SIGNALS) -> dict[signal.Signals, Any]:
    """Returns the handlers before; nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return {}

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _leave_terminal()
        handler(number, frame)

    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # as nohup wants it
    return {number: signal.signal(number, handle) for number in numbers if not (number == signal.SIGHUP and ignored)}


def _leave_terminal() -> None:
    """Lets what is printed go nowhere: each write to a terminal that is closed is an error, which would end the run."""
    for descriptor in (0, 1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                null = os.open(os.devnull, os.O_RDWR)
                os.dup2(null, descriptor)
                os.close(null)


def _restore(before: dict[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)
