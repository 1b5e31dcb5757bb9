"""Sweeps through Ray, started on this machine: ``make test-ray``, with requirements-ray.txt installed."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
from pathlib import Path

import pytest

from experiments.errors import ExitCode
from tests.launchers.eight import JOBS, command, read, statuses, surroundings, sweep, table, wait_for_step

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="requirements-ray.txt is not installed"),
]

RAY = ("hydra/launcher=ray",)


def test_the_table_is_that_of_a_local_sweep(tmp_path: Path) -> None:
    for name, arguments in (("local", ()), ("ray", RAY)):
        done = sweep(tmp_path / name, *JOBS, *arguments)
        assert done.returncode == ExitCode.OK, done.stdout + done.stderr
        assert statuses(tmp_path / name) == ["ok"] * 8
    assert table(tmp_path / "ray") == table(tmp_path / "local")
    again = sweep(tmp_path / "ray", *JOBS, *RAY)
    assert again.stdout.count("done before") == 8


def test_ctrl_c_keeps_checkpoints_and_the_same_command_goes_on(tmp_path: Path) -> None:
    long = ("model=fam", "trainer.steps=600", "trainer.val_every=300", "trainer.checkpoint_every=100")
    process = subprocess.Popen(
        command(*RAY, *long), env=surroundings(tmp_path / "cut"), stdout=subprocess.PIPE, text=True
    )
    wait_for_step(tmp_path / "cut", 150)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == ExitCode.INTERRUPTED, out
    assert statuses(tmp_path / "cut") == ["interrupted"]
    (status,) = (tmp_path / "cut").glob("runs/*/*/*/status.json")
    assert read(status)["state"] == "interrupted"
    for name, arguments in (("cut", RAY), ("whole", ())):
        assert sweep(tmp_path / name, *long, *arguments).returncode == ExitCode.OK
    assert table(tmp_path / "cut") == table(tmp_path / "whole")
