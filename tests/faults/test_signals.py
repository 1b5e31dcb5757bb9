"""Signals that ask to stop: a checkpoint, an exit code, and a run that goes on as if nothing had been."""

from __future__ import annotations

import os
import pty
import random
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from experiments import checkpoints
from experiments.config import RunConfig
from experiments.errors import ExitCode
from tests.experiments.small_runs import folder_of, run_here
from tests.faults.harness import apart, end_of, everything, run_with_signal, small, start_apart, sweep


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP"])
def test_a_signal_keeps_the_step_and_resumes_bit_for_bit(
    name: str, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    """Asked to stop in any step, the run keeps that step, ends with 143, and the same command ends it."""
    config, step = small(tmp_path, "trainer.checkpoint_every=100"), random.randint(1, 7)
    folder = folder_of(config)
    done = apart(tmp_path / "printed.txt", run_with_signal, config, getattr(signal, name), step)
    assert done.code == ExitCode.TERMINATED
    assert done.err == (
        f"transformer memory_ops s0  interrupted: stopped by {name}; the same command resumes ({folder.error_file})\n"
    )
    assert checkpoints.load(folder.last_checkpoint, kind="training", run_id=folder.run_id)["global_step"] == step
    assert apart(tmp_path / "printed.txt", run_here, config).code == ExitCode.OK
    assert everything(folder) == undisturbed
    assert (folder.result() or {})["attempts"] == 2


def sweep_in_terminal(terminal: str, configs: list[RunConfig]) -> None:
    """A sweep that leads a session and prints to its terminal, as a command does in a window."""
    os.setsid()
    handle = os.open(terminal, os.O_RDWR)  # the first terminal that the leader opens is the session's
    for descriptor in (0, 1, 2):
        os.dup2(handle, descriptor)
    raise SystemExit(int(sweep(configs)))


def test_a_closed_terminal_keeps_checkpoints_and_ends_the_sweep(tmp_path: Path) -> None:
    """A hang-up (the window is closed, the connection lost) stops a sweep as SIGTERM does; nobody is left behind."""
    configs = [
        small(tmp_path, f"seed={seed}", "trainer.steps=5000", "trainer.val_every=5000", "trainer.checkpoint_every=5000")
        for seed in (0, 1)
    ]
    folders = [folder_of(config) for config in configs]
    master, slave = pty.openpty()
    process = start_apart(sweep_in_terminal, os.ttyname(slave), configs)
    deadline = time.monotonic() + 60
    while not all(folder.metrics_file.exists() and folder.metrics() for folder in folders):
        assert process.exitcode is None
        assert time.monotonic() < deadline
        _drain(master)
        time.sleep(0.02)
    os.close(slave)
    os.close(master)
    assert end_of(process, kill_after=30) == ExitCode.TERMINATED
    assert [folder.state for folder in folders] == ["interrupted", "interrupted"]
    assert [folder.status()["message"] for folder in folders] == ["stopped by SIGHUP; the same command resumes"] * 2
    for folder in folders:
        content = checkpoints.load(folder.last_checkpoint, kind="training", run_id=folder.run_id)
        assert content["global_step"] > 0
    table = (tmp_path / "sweeps" / "one" / "table.csv").read_text()
    assert table.count(",interrupted") == 2


def _drain(master: int) -> None:
    os.set_blocking(master, False)
    with suppress(OSError):
        os.read(master, 1 << 16)


def run_under_nohup(config: RunConfig) -> int:
    """A run that was told to ignore hang-ups, and gets one."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return run_with_signal(config, signal.SIGHUP, 3)


def test_nohup_is_respected(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """Where hang-ups are ignored, as nohup does, the run goes on."""
    config = small(tmp_path)
    assert apart(tmp_path / "printed.txt", run_under_nohup, config).code == ExitCode.OK
    assert everything(folder_of(config)) == undisturbed
