"""One job as a command: what an engine hands to whoever runs it, here or on another machine.

Holds plain values only and imports nothing heavy: it is pickled, and it is what runs first on a node.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_POLL_SECONDS = 0.2


class Ticket(NamedTuple):
    """A process to start. Paths must mean the same on the machine that starts it: nodes share a file system."""

    command: Sequence[str]
    """Interpreter, run.py and overrides."""
    environment: Mapping[str, str]
    """Added to the environment of the machine."""
    log: str
    """File that takes all that the process prints; attempts after a requeue are added."""
    folder: str
    """Working directory, so that relative paths in overrides mean what they meant to the user."""

    def open(self) -> subprocess.Popen[bytes]:
        """Starts the process, in a group of its own: Ctrl-C in a terminal reaches it once, through its parent."""
        with Path(self.log).open("ab") as output:
            return subprocess.Popen(
                list(self.command),
                env={**os.environ, **self.environment, "MEMATTN_PARENT": str(os.getpid())},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


class Child:
    """A ticket at work in this process's care."""

    def __init__(self, ticket: Ticket) -> None:
        self.process = ticket.open()

    def wait(self) -> int:
        """Its exit code. Polls: unlike ``Popen.wait`` it may be interrupted by a handler that waits as well."""
        while (code := self.process.poll()) is None:
            time.sleep(_POLL_SECONDS)
        return code

    def stop(self) -> int:
        """Asks for a checkpoint, waits for it, and returns the exit code."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        return self.wait()


def run_ticket(ticket: Ticket) -> int:
    """Runs a job to its end. An interruption of this process reaches it as SIGTERM; the end is waited for."""
    child = Child(ticket)
    try:
        return child.wait()
    except BaseException:
        child.stop()
        raise
