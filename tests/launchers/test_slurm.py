"""Sweeps through a real SLURM of one node (cluster.py): ``make test-slurm``, as root, with slurm-wlm and munge."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.errors import ExitCode
from tests.launchers.cluster import Cluster, missing
from tests.launchers.eight import (
    JOBS,
    command,
    read,
    statuses,
    surroundings,
    sweep,
    table,
    wait_for_step,
    wait_until,
)

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]

SLURM = ("hydra/launcher=slurm", "hydra.launcher.mem_gb=1")

#: A run of a minute or so that a signal surely meets at work.
LONG = ("model=fam", "trainer.steps=1500", "trainer.val_every=500", "trainer.checkpoint_every=100")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("slurm") / "cluster") as running:
        yield running


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """The long run's line of the table, from this machine without a scheduler."""
    results = tmp_path_factory.mktemp("undisturbed")
    assert sweep(results, *LONG).returncode == ExitCode.OK
    return table(results)


def test_the_table_is_that_of_a_local_sweep(cluster: Cluster, tmp_path: Path) -> None:
    for name, arguments in (("local", ()), ("submitit", ("hydra/launcher=submitit_local",)), ("slurm", SLURM)):
        done = sweep(tmp_path / name, *JOBS, *arguments, environment=cluster.environment)
        assert done.returncode == ExitCode.OK, done.stdout + done.stderr
        assert statuses(tmp_path / name) == ["ok"] * 8
    assert table(tmp_path / "slurm") == table(tmp_path / "local")
    assert table(tmp_path / "submitit") == table(tmp_path / "local")
    again = sweep(tmp_path / "slurm", *JOBS, *SLURM, environment=cluster.environment)
    assert again.stdout.count("done before") == 8
    assert "submitted" not in again.stdout, "what is done costs the queue nothing"


def test_a_preempted_job_is_queued_again_and_ends_as_if_nothing_had_been(
    cluster: Cluster, tmp_path: Path, undisturbed: list[dict[str, str]]
) -> None:
    process = start(cluster, tmp_path, *LONG, "hydra.launcher.partition=low")
    wait_for_step(tmp_path, 200)
    exclusive = ["sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=sleep 3"]
    assert "Submitted" in cluster.ask(*exclusive)
    out, errors = process.communicate(timeout=240)
    assert process.returncode == ExitCode.OK, out + errors
    assert table(tmp_path) == undisturbed
    assert run_log(tmp_path).count("[attempt 2] started") == 1
    assert "[attempt 1] interrupted" in run_log(tmp_path)


def test_a_job_out_of_time_is_queued_again_and_ends_as_if_nothing_had_been(
    cluster: Cluster, tmp_path: Path, undisturbed: list[dict[str, str]]
) -> None:
    walltime = ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=45")  # 15 seconds are left
    process = start(cluster, tmp_path, *LONG, *walltime)
    out, errors = process.communicate(timeout=400)
    assert process.returncode == ExitCode.OK, out + errors
    assert table(tmp_path) == undisturbed
    assert "[attempt 1] interrupted" in run_log(tmp_path)


def test_ctrl_c_leaves_the_jobs_in_the_queue(cluster: Cluster, tmp_path: Path) -> None:
    process = start(cluster, tmp_path, *LONG, "seed=7")
    wait_for_step(tmp_path, 100)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED
    assert "the jobs go on in the queue" in out
    assert statuses(tmp_path) == ["running"]
    assert "RUNNING" in cluster.ask("squeue", "--noheader", "--format=%T")
    wait_until(lambda: any(tmp_path.glob("runs/*/*/*/result.json")), 180)


def test_a_cancelled_job_is_reported_and_not_queued_again(cluster: Cluster, tmp_path: Path) -> None:
    process = start(cluster, tmp_path, *LONG, "seed=8")
    wait_for_step(tmp_path, 100)
    (job,) = manifest(tmp_path)["jobs"]
    cluster.ask("scancel", job["id"])
    out, errors = process.communicate(timeout=120)
    assert process.returncode == ExitCode.FAILED, out + errors
    assert statuses(tmp_path) == ["interrupted"]
    assert not list(tmp_path.glob("runs/*/*/*/result.json"))
    assert "[attempt 1] interrupted" in run_log(tmp_path), "a cancelled run keeps its checkpoint, too"


def start(cluster: Cluster, results: Path, *arguments: str) -> subprocess.Popen[str]:
    """A sweep on SLURM, at work in the background."""
    return subprocess.Popen(
        command(*SLURM, *arguments),
        env=surroundings(results, cluster.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def manifest(results: Path) -> dict[str, Any]:
    """The manifest of the only sweep."""
    (path,) = results.glob("sweeps/*/sweep.json")
    return read(path)


def run_log(results: Path) -> str:
    """What the only run's log.txt says."""
    (path,) = results.glob("runs/*/*/*/log.txt")
    return path.read_text(encoding="utf-8")
