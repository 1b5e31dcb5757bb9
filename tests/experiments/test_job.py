"""Every way in which a run can end: a state, one line, an exit code, and nothing finished is lost."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.config import RunConfig
from experiments.errors import CheckpointError, DivergedError, ExitCode
from experiments.job import MissingSource, evaluate_job, run_job
from experiments.store import RunFolder, run_folder
from tests.experiments.small_runs import folder_of, settings

Train = Callable[[RunConfig, RunFolder], dict[str, Any]]


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return settings(tmp_path, "model=fam", "task=passkey")


def trained(config: RunConfig, folder: RunFolder) -> dict[str, Any]:
    """Stands for a training that ends well."""
    folder.append_metrics({"step": 1, "split": "train", "loss": 0.5})
    return {"test/exact_match": 0.75, "test/n": 12, "steps": config.trainer.steps}


def failing(error: BaseException) -> Train:
    """Stands for a training that ends otherwise."""

    def train(config: RunConfig, folder: RunFolder) -> dict[str, Any]:
        folder.write_status("running", step=7, steps=12)
        raise error

    return train


def test_a_run_ends_with_a_result(config: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_job(config, train=trained) == ExitCode.OK
    folder = folder_of(config)
    result = folder.result()
    assert result is not None
    named = (
        "model",
        "task",
        "scale",
        "seed",
        "metric",
        "test/exact_match",
        "attempt",
        "status",
        "data_source",
    )
    expected = ["fam", "passkey", "smoke", 0, "exact_match", 0.75, None, "done", "generated"]
    assert [result.get(key) for key in named] == expected
    assert result["run_id"] == folder.run_id
    assert {"config_hash", "data_checksum", "git_sha", "torch", "variant", "study"} <= set(result)
    assert folder.config() == config
    assert not folder.is_locked()
    out = capsys.readouterr().out
    assert "fam passkey s0  test/exact_match 0.7500 on generated (floors: chance_exact_match 1e-05" in out
    assert str(folder.path) in out


def test_the_same_command_skips(config: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    run_job(config, train=trained)
    before = folder_of(config).result_file.read_bytes()
    capsys.readouterr()
    assert run_job(config, train=failing(AssertionError("trained again"))) == ExitCode.OK
    assert folder_of(config).result_file.read_bytes() == before
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith("fam passkey s0  done before, test/exact_match 0.7500 on generated (floors: ")
    assert line.endswith("; force=true runs it again")


def test_force_starts_over(config: RunConfig, tmp_path: Path) -> None:
    run_job(config, train=trained)
    forced = settings(tmp_path, "model=fam", "task=passkey", "force=true")
    assert run_job(forced, train=lambda *_: {"test/exact_match": 0.25}) == ExitCode.OK
    folder = folder_of(config)
    assert (folder.result() or {})["test/exact_match"] == 0.25
    assert folder.metrics() == [], "what the first run left is gone"
    assert folder.attempt == 1


def test_a_forced_run_that_is_cut_off_resumes_without_force(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forced = settings(tmp_path, "model=fam", "task=passkey", "force=true")
    run_job(forced, train=failing(KeyboardInterrupt()))
    assert "the same command resumes without force=true" in capsys.readouterr().err


FAILURES = {
    "diverged": (DivergedError("loss is nan at step 7"), "failed", 1, "failed: loss is nan at step 7"),
    "checkpoint": (CheckpointError("last.ckpt is truncated"), "failed", 1, "failed: last.ckpt is truncated"),
    "bug": (ValueError("inner\nmore"), "failed", 1, "failed: ValueError: inner"),
    "memory": (
        MemoryError(),
        "out_of_memory",
        3,
        "out of memory (MemoryError): try a larger trainer.accumulate",
    ),
    "gpu memory": (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory", 3, "out of memory (CUDA"),
    "disk": (
        OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl"),
        "failed",
        1,
        "failed: disk full (metrics.jsonl: No space left on device): make room, and the same command resumes",
    ),
    "permission": (
        PermissionError(errno.EACCES, "Permission denied", "metrics.jsonl"),
        "failed",
        2,
        "failed: cannot write there (metrics.jsonl: Permission denied): choose another folder with store.root=...",
    ),
    "Ctrl-C": (
        KeyboardInterrupt(),
        "interrupted",
        130,
        "interrupted: stopped by Ctrl-C; the same command resumes",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_recorded(name: str, config: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    error, state, code, line = FAILURES[name]
    assert run_job(config, train=failing(error)) == code
    folder = folder_of(config)
    status = folder.status()
    assert (status["state"], status["exit_code"], status["step"]) == (state, code, 7)
    assert folder.error_file.read_text().startswith(status["message"])
    assert "Traceback (most recent call last)" in folder.error_file.read_text()
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 1
    assert shown[0].startswith(f"fam passkey s0  {line}")
    assert shown[0].endswith(f"({folder.error_file})")
    assert folder.result() is None
    assert run_job(config, train=trained) == ExitCode.OK, "the same command runs it again"
    assert folder.status()["attempt"] == 2
    assert not folder.error_file.exists()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGUSR2, 143)]
)
def test_a_signal_interrupts(number: int, code: int, config: RunConfig) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def train(config: RunConfig, folder: RunFolder) -> dict[str, Any]:
        os.kill(os.getpid(), number)
        raise AssertionError("goes on after the signal")

    assert run_job(config, train=train) == code
    assert folder_of(config).state == "interrupted"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_at_work_is_left_alone(config: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    def train(config: RunConfig, folder: RunFolder) -> dict[str, Any]:
        status = folder.status()
        assert run_job(config, train=trained) == ExitCode.FAILED
        assert folder.status() == status
        return trained(config, folder)

    assert run_job(config, train=train) == ExitCode.OK
    line = capsys.readouterr().err
    assert line.startswith(f"fam passkey s0  locked: run {folder_of(config).run_id} is already running (process")
    assert line.count("\n") == 1


def test_a_result_that_was_changed_is_not_believed(config: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    run_job(config, train=trained)
    path = folder_of(config).result_file
    path.write_text(path.read_text().replace("0.75", "0.99"))
    assert run_job(config, train=trained) == ExitCode.FAILED
    line = capsys.readouterr().err
    assert f"failed: {path} was changed after the run had ended: restore it, or start this run over with" in line
    assert "0.99" in path.read_text(), "it is left as evidence"


def test_missing_data_are_a_users_mistake_on_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = settings(tmp_path, "task=lra_text", "task.source=folder", f"data.root={tmp_path / 'nothing'}")
    assert run_job(config) == ExitCode.USER_ERROR
    assert len(capsys.readouterr().err.splitlines()) == 1
    folder = run_folder(config, MissingSource())
    assert folder.status()["state"] == "failed"
    assert "Traceback" in folder.error_file.read_text()


def test_a_results_folder_that_is_none_gives_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    config = settings(tmp_path, "task=passkey", f"store.root={tmp_path / 'file'}")
    assert run_job(config, train=trained) == ExitCode.USER_ERROR
    line = capsys.readouterr().err
    assert "failed: cannot write there (" in line
    assert line.endswith("choose another folder with store.root=... or MEMATTN_RESULTS\n")


def test_a_sweep_is_told_where_its_job_stands(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEMATTN_JOB_FILE", str(tmp_path / "job.json"))
    monkeypatch.setenv("MEMATTN_JOB", "1/2")
    run_job(config, train=trained)
    report = json.loads((tmp_path / "job.json").read_text())
    assert (report["folder"], report["state"]) == (str(folder_of(config).path), "ok")
    assert report["data"].startswith("generated: ")
    run_job(config, train=trained)
    assert json.loads((tmp_path / "job.json").read_text())["state"] == "skipped"
    assert all(line.startswith("[1/2] fam passkey s0  ") for line in capsys.readouterr().out.splitlines())


def test_scoring_needs_a_run_that_is_done(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_job(config, train=failing(MemoryError()))
    run_id = folder_of(config).run_id
    capsys.readouterr()
    assert evaluate_job(settings(tmp_path, "mode=eval", f"run={run_id[:6]}")) == ExitCode.USER_ERROR
    assert f"run {run_id} is out_of_memory, not done: train it to its end first" in capsys.readouterr().err
    assert evaluate_job(settings(tmp_path, "mode=eval", "run=zzz")) == ExitCode.USER_ERROR
    assert "run=zzz: no stored run starts with this" in capsys.readouterr().err
