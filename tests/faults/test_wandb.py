"""A W&B server that hangs, breaks off or answers nonsense: the run does not mind.

That nobody listens at all, and a mirror that breaks in the middle, are in tests/experiments/test_tracking.py.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from experiments import tracking
from experiments.config import RunConfig
from experiments.errors import ExitCode
from tests.experiments.small_runs import folder_of, run_here
from tests.faults.harness import apart, everything, small

KEY = "0123456789" * 4
SECONDS = 2.0


def _answer(status: str, kind: str, body: str) -> Callable[[socket.socket], None]:
    text = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    )
    return lambda connection: connection.sendall(text.encode())


SERVERS: dict[str, Callable[[socket.socket], None]] = {
    "hangs": lambda connection: time.sleep(60),
    "answers HTML": _answer("200 OK", "text/html", "<html>Please log in</html>"),
    "answers 500": _answer("500 Internal Server Error", "text/plain", "out of order"),
    "breaks off": lambda connection: None,
}


@contextmanager
def serving(treat: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server on this machine; yields its address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(1 << 16)
            treat(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


def run_with_server(config: RunConfig, address: str, home: Path) -> int:
    """A run of somebody who is logged in at a server."""
    for name in ("WANDB_MODE", "WANDB_DIR", "NETRC"):
        os.environ.pop(name, None)
    os.environ.update(WANDB_BASE_URL=address, WANDB_API_KEY=KEY, HOME=str(home))
    tracking.INIT_SECONDS = tracking.FINISH_SECONDS = SECONDS
    return run_here(config)


def test_a_server_out_of_order_costs_a_warning(
    tmp_path: Path, undisturbed: dict[str, Any], pytestconfig: pytest.Config
) -> None:
    """The run ends well within bounded time, with its numbers and one line of warning that tells no key."""
    chosen = SERVERS if pytestconfig.getoption("--every") else ("hangs",)
    for name in chosen:
        config = small(tmp_path / name, "logger=wandb")
        started = time.monotonic()
        with serving(SERVERS[name]) as address:
            done = apart(tmp_path / f"{name}.txt", run_with_server, config, address, tmp_path)
        assert done.code == ExitCode.OK, (name, done.err)
        assert everything(folder_of(config)) == undisturbed
        lines = done.err.splitlines()
        assert len(lines) == 1, (name, lines)
        assert lines[0].startswith("warning: W&B cannot be reached, the run is kept offline (")
        assert KEY not in done.err + done.out
        assert time.monotonic() - started < 120  # a bound, not a speed: nothing waits for the server without an end
