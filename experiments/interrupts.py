"""Ctrl-C and SIGTERM as a request that training answers at the next step, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from experiments.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Context in which a first signal is only noted; a second one stops at once.

    In a thread that is not the main one, where Python lets nobody handle signals, it notes nothing.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        impatient = self.signal_number is not None
        self.signal_number = number
        if impatient:
            raise Interrupted(number)

    def check(self) -> None:
        """Stops here if a signal has come.

        Raises:
            Interrupted: it has.
        """
        if self.signal_number is not None:
            raise Interrupted(self.signal_number)
