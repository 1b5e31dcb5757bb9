"""Sweeps through submitit's local executor: what a job of SLURM goes through, without SLURM."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from experiments.errors import ExitCode
from tests.launchers.eight import command, read, statuses, surroundings, sweep, table, wait_for_step

SUBMITIT = ("hydra/launcher=submitit_local",)


def test_the_table_is_that_of_a_local_sweep(tmp_path: Path) -> None:
    for name, arguments in (("local", ()), ("submitit", SUBMITIT)):
        done = sweep(tmp_path / name, "model=fam,transformer", *arguments)
        assert done.returncode == ExitCode.OK, done.stdout + done.stderr
    assert statuses(tmp_path / "submitit") == ["ok"] * 2
    assert table(tmp_path / "submitit") == table(tmp_path / "local")


def test_ctrl_c_keeps_a_checkpoint(tmp_path: Path) -> None:
    long = ("model=fam", "trainer.steps=20000", "trainer.val_every=20000", "trainer.checkpoint_every=20000")
    process = subprocess.Popen(command(*SUBMITIT, *long), env=surroundings(tmp_path), stdout=subprocess.PIPE, text=True)
    wait_for_step(tmp_path, 20)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == ExitCode.INTERRUPTED, out
    assert statuses(tmp_path) == ["interrupted"]
    (status,) = tmp_path.glob("runs/*/*/*/status.json")
    assert read(status)["state"] == "interrupted"
    assert (status.parent / "checkpoints" / "last.ckpt").exists()
