"""``mode=status``: how a sweep stands, from files that a sweep, its jobs or a kill left behind. All made by hand."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from experiments import status
from experiments.errors import ConfigError, ExitCode, StoreError
from experiments.manifest import JobRecord, find_sweep, read_manifest
from experiments.settings import REPOSITORY
from experiments.status import SILENT_SECONDS, job_standing, print_status, run_standing
from experiments.store import RunFolder
from tests.experiments.small_runs import settings

HERE = socket.gethostname()
RESULT = {"metric": "accuracy", "test/accuracy": 0.75, "steps": 100}


class Store:
    """A store made by hand, whose runs are locked as long as a test wants it."""

    def __init__(self, root: Path, locks: ExitStack) -> None:
        self.root, self._locks = root, locks

    def run(self, number: int, state: str, *, locked: bool = False, age: float = 0.0, **fields: Any) -> RunFolder:
        """A run whose status says so, as of ``age`` seconds ago."""
        folder = RunFolder(self.root / "runs" / "lra_text" / "fam" / f"{number:010x}-s{number}")
        if locked:
            self._locks.enter_context(folder.lock())
        folder.path.mkdir(parents=True, exist_ok=True)
        content = {"state": state, "host": HERE, "updated": time.time() - age, **fields}
        folder.status_file.write_text(json.dumps(content))
        return folder

    def done(self, number: int) -> RunFolder:
        """A finished run."""
        folder = self.run(number, "running")
        folder.write_result(RESULT)
        return folder

    def sweep(self, name: str, jobs: list[dict[str, Any]], **fields: Any) -> Path:
        """A sweep's manifest; its process is this one."""
        folder = self.root / "sweeps" / name
        folder.mkdir(parents=True)
        own = {"sweep": name, "launcher": "local", "command": "python run.py -m", "pid": os.getpid(), "host": HERE}
        numbered = [{"number": number, "label": f"fam lra_text s{number}", **job} for number, job in enumerate(jobs)]
        times = {"started": time.time() - 60, "updated": time.time(), "ended": None}
        (folder / "sweep.json").write_text(json.dumps({**own, **times, "jobs": numbered, **fields}))
        return folder


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)  # so that a slow machine ages nothing
    with ExitStack() as locks:
        yield Store(tmp_path, locks)


@pytest.fixture
def ended_process() -> int:
    """The number of a process that is no more."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def shown(store: Store, capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    """What the command prints."""
    assert print_status(settings(store.root, "mode=status", *overrides)) == ExitCode.OK
    return capsys.readouterr().out


def job(folder: RunFolder | None, state: str, **fields: Any) -> JobRecord:
    return JobRecord(1, "fam lra_text s0", folder=str(folder.path) if folder else "", status=state, **fields)


def test_every_state_of_a_job_is_told(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    at_work: dict[str, Any] = {"step": 30, "steps": 100, "eta_seconds": 90.0}
    folders = [
        (store.done(0), "ok"),
        (store.run(1, "running", locked=True, age=3, **at_work), "running"),
        (store.run(2, "failed", message="DivergedError: loss is nan"), "failed"),
        (store.run(3, "out_of_memory", message="out of memory (8 GiB)"), "out of memory"),
        (store.run(4, "interrupted", message="stopped by SIGTERM", step=7, steps=100), "interrupted"),
        (store.run(5, "running", locked=True, age=SILENT_SECONDS + 10, **at_work), "running"),
        (store.run(6, "running", age=3, **at_work), "running"),
    ]
    jobs = [{"folder": str(folder.path), "status": state} for folder, state in folders]
    store.sweep("20260101-120000-1", [*jobs, {"status": "queued"}, {"status": "not started", "settings": "a=1"}])
    out = shown(store, capsys)
    lines = {line.split()[2]: line for line in out.splitlines() if line.startswith("fam lra_text s")}
    states = {seed: line[len("fam lra_text s0") :].replace("a=1", "").split("  ") for seed, line in lines.items()}
    found = {seed: next(part.strip() for part in parts if part.strip()) for seed, parts in states.items()}
    assert found == {
        "s0": "done",
        "s1": "running",
        "s2": "failed",
        "s3": "out of memory",
        "s4": "interrupted",
        "s5": "silent",
        "s6": "silent",
        "s7": "waiting",
        "s8": "waiting",
    }
    assert "accuracy  0.7500" in lines["s0"]
    assert "30/100" in lines["s1"]
    assert "0:03 ago" in lines["s1"]
    assert "1:27" in lines["s1"], "what was left three seconds ago"
    assert "a=1" in lines["s8"]
    assert "failed: fam lra_text s2: DivergedError: loss is nan" in out
    assert "silent: fam lra_text s5: no sign of life for 5:10" in out
    assert "silent: fam lra_text s6: its process is gone" in out
    assert "9 jobs: 1 done, 1 running, 2 waiting, 2 silent, 1 interrupted, 1 out of memory, 1 failed" in out


def test_a_heartbeat_from_the_future_is_fresh_and_none_is_negative(store: Store) -> None:
    folder = store.run(1, "running", locked=True, age=-7200, step=1, steps=2, eta_seconds=5.0)
    standing = run_standing(folder)
    assert (standing.state, standing.age, standing.left) == ("running", 0.0, 5.0)
    old = run_standing(folder, now=time.time() - 10**6)
    assert (old.state, old.age) == ("running", 0.0)


def test_a_run_of_another_machine_is_judged_by_its_heartbeat(store: Store) -> None:
    fresh = store.run(1, "running", age=5, host="another", pid=1)
    assert run_standing(fresh).state == "running", "its lock may not reach here"
    old = store.run(2, "running", age=SILENT_SECONDS + 1, host="another", pid=1)
    assert run_standing(old).state == "silent"


def test_what_the_runs_files_say_wins_over_the_manifest(store: Store) -> None:
    assert job_standing(job(store.done(1), "running")).state == "done"
    assert job_standing(job(store.run(2, "failed", message="no"), "ok")).state == "failed"
    locked = store.run(3, "running", locked=True, step=1, steps=2)
    assert job_standing(job(locked, "locked")).state == "running"
    # A sweep that saw its process die knows more than a status that was never finished.
    killed = job_standing(job(store.run(4, "running"), "failed", message="killed by SIGKILL; last line: none"))
    assert (killed.state, killed.message) == ("failed", "killed by SIGKILL; last line: none")
    # A failure of last week is not what a job is that waits for its turn.
    old = store.run(5, "failed", age=1000)
    assert job_standing(job(old, "not started"), since=time.time() - 10).state == "waiting"
    assert job_standing(job(store.done(6), "not started"), since=time.time() + 10).state == "done"


def test_without_a_folder_the_manifest_is_all_there_is() -> None:
    states = {"ok": "done", "skipped": "done", "locked": "failed", "failed": "failed", "queued": "waiting"}
    assert {state: job_standing(job(None, state)).state for state in states} == states
    assert job_standing(job(None, "not started"), sweep_is_over=True).state == "not started"
    assert job_standing(job(None, "queued", id="77"), sweep_is_over=True).state == "waiting", "a scheduler keeps it"
    assert job_standing(job(None, "running"), sweep_is_over=True).state == "silent"
    gone = JobRecord(1, "fam lra_text s0", folder=os.devnull + "/nothing", status="ok")
    assert job_standing(gone).state == "done"


def test_a_result_that_cannot_be_trusted_is_a_failure(store: Store) -> None:
    folder = store.done(1)
    folder.result_file.write_text(folder.result_file.read_text().replace("0.75", "0.95"))
    standing = run_standing(folder)
    assert standing.state == "failed"
    assert "was changed after the run had ended" in standing.message


def test_a_sweep_whose_process_is_gone_says_so(
    store: Store, capsys: pytest.CaptureFixture[str], ended_process: int
) -> None:
    store.sweep("20260101-120000-1", [{"status": "running"}, {"status": "not started"}], pid=ended_process)
    out = shown(store, capsys, "watch=1")
    assert f"its process {ended_process} is gone: the same command goes on: python run.py -m" in out
    assert "2 jobs: 1 not started, 1 silent" in out


def test_processes_of_other_machines_are_not_looked_at(
    store: Store, capsys: pytest.CaptureFixture[str], ended_process: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.sweep("20260101-120000-1", [{"status": "queued"}], pid=ended_process, host="another")
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("that is another machine's"))
    out = shown(store, capsys)
    assert f"process {ended_process} on another" in out
    assert "1 job: 1 waiting" in out


def test_sweeps_are_found_by_their_first_digits(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("20260101-120000-1", "20260101-130000-2", "20260202-120000-3"):
        store.sweep(name, [{"status": "ok"}], ended=time.time())
    assert shown(store, capsys).startswith("sweep 20260202-120000-3 (local), started ")
    assert shown(store, capsys, "sweep='20260101-13'").startswith("sweep 20260101-130000-2 ")
    assert find_sweep(store.root, "20260202").name == "20260202-120000-3"
    with pytest.raises(ConfigError, match=r"^sweep=2026: 3 sweeps start with this, give more digits: 20260101-12"):
        find_sweep(store.root, "2026")
    with pytest.raises(ConfigError, match=r"^sweep=9: no stored sweep starts with this \(looked in "):
        find_sweep(store.root, "9")
    lines = shown(store, capsys, "sweep=all").splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["20260101-120000-1", "20260101-130000-2", "20260202-120000-3"]
    assert all("1 job: 1 done" in line for line in lines[2:])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"sweep": "1", "jobs": [', "is torn (no complete JSON)"),
        ("[]", "is no manifest of a sweep ("),
        ('{"sweep": "1", "started": 1, "jobs": [{}]}', "is no manifest of a sweep ("),
        (None, "is missing: what is left of this sweep are its logs"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_one_line(
    store: Store, capsys: pytest.CaptureFixture[str], text: str | None, problem: str
) -> None:
    folder = store.sweep("20260101-120000-1", [])
    (folder / "sweep.json").unlink()
    if text is not None:
        (folder / "sweep.json").write_text(text)
    with pytest.raises(StoreError) as caught:
        read_manifest(folder)
    assert str(caught.value).startswith(f"{folder / 'sweep.json'} {problem}")
    assert "\n" not in str(caught.value)
    if text is not None:
        assert problem in shown(store, capsys, "sweep=all")


def test_a_later_versions_manifest_can_be_read(store: Store) -> None:
    folder = store.sweep("one", [{"status": "ok", "colour": "green"}], weather="fine")
    assert read_manifest(folder).jobs[0].status == "ok"


def test_without_a_sweep_the_runs_themselves_are_shown(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no run is stored" in shown(store, capsys)
    store.done(0)
    store.run(1, "running", locked=True, step=3, steps=9)
    for number in range(2, 20):
        store.run(number, "failed", age=number, message=f"reason {number}")
    out = shown(store, capsys)
    assert "fam lra_text s1 " in out
    assert "reason 2\n" in out
    assert "reason 19\n" not in out, "only the last ones"
    assert "20 jobs: 1 done, 1 running, 18 failed" in out


def test_a_job_is_found_by_its_own_report_before_its_sweep_knows(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    run = store.run(1, "running", locked=True, step=1, steps=2)
    folder = store.sweep("one", [{"status": "running"}, {"status": "queued", "id": "77_1"}], ended=time.time())
    (folder / ".000-fam-lra_text-s0.json").write_text('{"folder": "')
    (folder / ".001-fam-lra_text-s1.json").write_text(json.dumps({"folder": str(run.path), "data": "x"}))
    first, second = read_manifest(folder).jobs
    assert (first.folder, second.folder) == ("", str(run.path))
    assert "2 jobs: 1 running, 1 silent" in shown(store, capsys), "a queue goes on when the sweep has ended"


def test_a_run_beside_the_sweep_is_not_overlooked(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    own = store.run(1, "running", locked=True, step=1, steps=2)
    store.sweep("one", [{"folder": str(own.path), "status": "running"}])
    assert "beside" not in shown(store, capsys)
    store.run(2, "running", locked=True, step=1, steps=2)
    out = shown(store, capsys)
    assert "fam lra_text s2 " in out.partition("at work beside this sweep")[2]


def test_watching_ends_with_the_jobs(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = store.run(1, "running", locked=True, step=1, steps=2)
    store.sweep("one", [{"folder": str(folder.path), "status": "running"}])
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            folder.write_result(RESULT)

    monkeypatch.setattr(status.time, "sleep", sleep)
    out = shown(store, capsys, "watch=2.5")
    assert naps == [2.5, 2.5]
    assert [line for line in out.splitlines() if line.startswith("1 job")] == ["1 job: 1 running"] * 2 + [
        "1 job: 1 done"
    ]


def test_ctrl_c_ends_the_command_well(store: Store) -> None:
    store.sweep("one", [{"status": "queued", "id": "77"}])
    command = [sys.executable, str(REPOSITORY / "run.py"), "mode=status", "watch=60", f"store.root={store.root}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "1 job: 1 waiting" not in (line := process.stdout.readline()):
        assert line or process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == ExitCode.OK


def test_ctrl_c_ends_watching_well(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.sweep("one", [{"status": "queued"}])

    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(status.time, "sleep", stop)
    assert print_status(settings(store.root, "mode=status", "watch=1")) == ExitCode.OK


def test_a_terminal_is_cleared_between_pictures(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.sweep("one", [{"status": "ok"}], ended=time.time())
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert shown(store, capsys, "watch=1").startswith("\x1b[H\x1b[2J")
    assert not shown(store, capsys).startswith("\x1b[H")


def test_messages_hide_keys(store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "abcdefgh1234")
    store.sweep("one", [{"status": "failed", "message": "no entry with abcdefgh1234"}])
    out = shown(store, capsys)
    assert "abcdefgh1234" not in out
    assert "no entry with [hidden]" in out
