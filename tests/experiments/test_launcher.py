"""A sweep: processes of their own, several at a time, one table, a truthful exit code. The children here are tiny."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.config import RunConfig
from experiments.engines.local import LocalEngine, find_places
from experiments.errors import ExitCode
from experiments.launcher import LABELS
from experiments.settings import REPOSITORY
from experiments.store import RunFolder
from experiments.sweep import run_sweep
from experiments.sweep_job import Job, varied_settings
from tests.experiments.small_runs import settings

#: Does what its first word says, as a run of run.py would: reports its folder, prints a last line, exits with a code.
CHILD = """
import json, os, pathlib, signal, sys, time
from experiments.sweep_job import follow_parent
from experiments.store import RunFolder

follow_parent()
what, root = sys.argv[1], pathlib.Path(sys.argv[2])
number = os.environ["MEMATTN_JOB"].partition("/")[0]
folder = RunFolder(root / "runs" / "passkey" / "fam" / f"{number}-s0")
report = {"folder": str(folder.path), "data": "generated: here"}

def end(state, code, line):
    pathlib.Path(os.environ["MEMATTN_JOB_FILE"]).write_text(json.dumps({**report, "state": state}))
    print(f"[{os.environ['MEMATTN_JOB']}] fam passkey s0  {line}", flush=True)
    raise SystemExit(code)

with folder.lock():
    (root / f"started-{number}").write_text(json.dumps(dict(os.environ)))
    if what == "wait":
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, lambda *_: end("interrupted", 143, "interrupted: stopped by a signal"))
        time.sleep(60)
    if what == "meet":  # both of two jobs must be at work at once
        deadline = time.monotonic() + 30
        while len(list(root.glob("started-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        if time.monotonic() >= deadline:
            end("failed", 1, "failed: alone")
    if what == "crash":
        raise RuntimeError("out of the blue")
    if what == "kill":
        print("half way", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "memory":
        end("out_of_memory", 3, "out of memory (8 GiB)")
    if what == "locked":
        end("locked", 1, "locked: run is already running")
    folder.write_result({"metric": "exact_match", "test/exact_match": 0.5, "data_source": "generated"})
    end("skipped" if what == "skip" else "ok", 0, "test/exact_match 0.5000")
"""


class Sweep:
    """A sweep of tiny children below a folder."""

    def __init__(self, root: Path, config: RunConfig) -> None:
        self.root, self.config = root, config
        self.folder = root / "sweeps" / "one"
        (root / "child.py").write_text(CHILD)

    def jobs(self, *whats: str) -> list[Job]:
        """One job for each word."""
        root = str(self.root)
        command = [sys.executable, str(self.root / "child.py")]
        return [
            Job(number, len(whats), self.folder, [what, root], self.config, command=command)
            for number, what in enumerate(whats, start=1)
        ]

    def run(self, *whats: str, at_once: int = 2) -> int:
        """The exit code of a sweep over what its jobs do."""
        return run_sweep(self.jobs(*whats), LocalEngine([{}] * at_once), self.folder)

    def statuses(self) -> list[str]:
        """Status of each job, as the stored table says."""
        with (self.folder / "table.csv").open() as handle:
            return [line["job_status"] for line in csv.DictReader(handle)]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    return Sweep(tmp_path, settings(tmp_path, "model=fam", "task=passkey"))


def test_jobs_run_side_by_side_and_end_in_a_table(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.run("meet", "meet") == ExitCode.OK
    assert sweep.statuses() == ["ok", "ok"]
    out = capsys.readouterr().out
    assert "[1/2] fam passkey s0  started, log: " in out
    assert "[2/2] fam passkey s0  test/exact_match 0.5000\n" in out
    assert (sweep.folder / "table.txt").read_text() in out
    assert f"runs   {sweep.root}/runs/<task>/<model>/<run>/" in out
    assert f"sweep  {sweep.folder}" in out
    assert "data of passkey: generated: here" in out


def test_a_job_gets_its_surroundings(sweep: Sweep) -> None:
    jobs = sweep.jobs("ok")
    run_sweep(jobs, LocalEngine([{"CUDA_VISIBLE_DEVICES": "3"}]), sweep.folder)
    seen = json.loads((sweep.root / "started-1").read_text())
    assert seen["MEMATTN_JOB"] == "1/1"
    assert seen["MEMATTN_SWEEP"] == "one"
    assert seen["MEMATTN_PARENT"] == str(os.getpid())
    assert seen["OMP_NUM_THREADS"] == "1"
    assert seen["CUDA_VISIBLE_DEVICES"] == "3"


def test_one_bad_job_stops_no_other(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.run("crash", "memory", "kill", "locked", "skip", "ok") == ExitCode.FAILED
    assert sweep.statuses() == ["failed", "out of memory", "failed", "locked", "skipped", "ok"]
    before_table = capsys.readouterr().out.partition("variant")[0]
    assert "[1/6] fam passkey s0  failed: RuntimeError: out of the blue" in before_table
    assert "[2/6] fam passkey s0  out of memory: out of memory (8 GiB)" in before_table
    assert "[3/6] fam passkey s0  failed: killed by SIGKILL (the system may have run out of memory)" in before_table
    assert "Traceback" in (sweep.folder / "001-fam-passkey-s0.log").read_text()


def test_skipped_jobs_are_a_success(sweep: Sweep) -> None:
    assert sweep.run("skip", "ok") == ExitCode.OK


PARENT = """
import pathlib, sys
from tests.experiments.small_runs import settings
from tests.experiments.test_launcher import Sweep

root = pathlib.Path(sys.argv[1])
sweep = Sweep(root, settings(root, "model=fam", "task=passkey"))
raise SystemExit(int(sweep.run("wait", "wait", "ok")))
"""


def start_parent(root: Path) -> subprocess.Popen[str]:
    """A sweep in a process of its own, with two jobs at work that wait, and a third that has to."""
    process = subprocess.Popen([sys.executable, "-c", PARENT, str(root)], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(list(root.glob("started-*"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143)])
def test_a_signal_is_passed_on_and_the_table_still_printed(sweep: Sweep, number: int, code: int) -> None:
    process = start_parent(sweep.root)
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == code
    assert sweep.statuses() == ["interrupted", "interrupted", "not started"]
    assert "stopping: each job keeps a checkpoint" in out
    assert "not started" in out


def test_jobs_do_not_outlive_a_sweep_that_was_killed(sweep: Sweep) -> None:
    process = start_parent(sweep.root)
    process.kill()
    process.communicate(timeout=30)
    runs = [RunFolder(path) for path in (sweep.root / "runs" / "passkey" / "fam").iterdir()]
    deadline = time.monotonic() + 10
    while any(run.is_locked() for run in runs):
        assert time.monotonic() < deadline, "orphans still hold their runs"
        time.sleep(0.02)


def test_places_follow_cores_threads_and_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = [settings(tmp_path, "trainer.device=cpu")] * 8
    two = [settings(tmp_path, "trainer.device=cpu", "trainer.threads=2")] * 8
    gpu = [settings(tmp_path)] * 8
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)), raising=False)
    assert find_places("auto", one) == [{}] * 4
    assert find_places("auto", two) == [{}] * 2
    assert find_places(3, one) == [{}] * 3
    assert find_places("auto", one[:1]) == [{}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert find_places("auto", gpu) == [{"CUDA_VISIBLE_DEVICES": "4"}, {"CUDA_VISIBLE_DEVICES": "6"}]
    assert find_places(3, gpu)[2] == {"CUDA_VISIBLE_DEVICES": "4"}
    assert find_places("auto", one) == [{}] * 4, "jobs on the CPU need no GPU"
    both = [settings(tmp_path, "trainer.devices=2")] * 8
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    assert find_places("auto", both) == [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6")
    assert find_places("auto", both) == [{"CUDA_VISIBLE_DEVICES": "6"}], "the run itself then says that it is one"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_places("auto", both) == [{}] * 2


def test_settings_are_what_the_sweep_varies_beside_model_task_and_seed() -> None:
    jobs = [["model=fam", "scale=smoke", f"trainer.steps={steps}", "seed=0"] for steps in (1, 2)]
    assert varied_settings(jobs, LABELS) == ["trainer.steps=1", "trainer.steps=2"]
    assert varied_settings([["model=fam"], ["model=luna"]], LABELS) == ["", ""]
