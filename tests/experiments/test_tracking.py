"""The W&B mirror, with the real wandb, offline: what it holds, and that nothing about it stops a run."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments import tracking
from experiments.config import RunConfig
from experiments.errors import ExitCode
from experiments.store import RunFolder
from experiments.tracking import Tracker, is_logged_in, open_tracker, wandb_mode
from tests.experiments.small_runs import folder_of, run_here, settings

KEY = "0123456789" * 4


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_DIR", "NETRC", "MEMATTN_SWEEP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def mirrored(config: RunConfig) -> dict[str, Any]:
    """The records of a run's offline mirror: the run, its rows, its summary and its exit."""
    [folder] = (folder_of(config).path / "wandb").glob("offline-run-*")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    records = [json.loads(line) for line in lines]
    found: dict[str, Any] = {"history": [], "summary": {}}
    for record in records:
        content = record.get(record["type"])
        if record["type"] == "history":
            found["history"].append(content["item"])
        elif record["type"] == "summary":
            found["summary"].update(content.get("update", {}))
        elif record["type"] in ("run", "exit"):
            found[record["type"]] = content
    return found


def test_two_runs_of_one_process_are_two_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "")  # W&B itself refuses an empty mode
    monkeypatch.setenv("MEMATTN_SWEEP", "20260101-noon")
    configs = [
        settings(tmp_path, f"model={model}", "task=passkey", "logger=wandb", "trainer.progress=plain")
        for model in ("fam", "transformer")
    ]
    for config in configs:
        assert run_here(config) == ExitCode.OK
    printed = capfd.readouterr()
    assert "wandb leet" in printed.out
    assert "wandb sync" in printed.out
    assert "wandb:" not in printed.err
    for config, model in zip(configs, ("fam", "transformer"), strict=True):
        folder, mirror = folder_of(config), mirrored(config)
        run_hash = folder.run_id.removesuffix("-s0")
        run = mirror["run"]
        assert run["run_id"] == folder.run_id
        assert run["run_group"] == "passkey/20260101-noon"
        assert run["display_name"] == f"{model}-passkey-s0-{run_hash}"
        assert run["config"]["update"]["trainer"]["steps"] == 12
        assert run["config"]["update"]["sweep"] == "20260101-noon"
        assert run["config"]["update"]["variant"] == model
        assert run["config"]["update"]["data_source"] == "generated"
        assert set(run["tags"]) == {model, "passkey", "smoke", "data:generated", "sweep:20260101-noon"}
        assert run["config"]["update"]["num_params"] == folder.result()["num_params"]  # type: ignore[index]
        assert mirror["exit"].get("exit_code", 0) == 0
        _assert_same_rows(folder, mirror["history"])
        assert mirror["summary"]["test/n"] == 100
        assert ("memory.path" in mirror["summary"]) == (model == "fam")


def test_tags_are_short_and_each_stands_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "secret-study")
    config = settings(tmp_path, "model=fam_gated", "task=passkey")
    config = replace(config, study="secret-study", model=replace(config.model, variant="x" * 100))
    tags = tracking._tags(config, {})
    assert tags == ["x" * 64, "fam", "passkey", "smoke", "study:[hidden]"]
    assert len(tracking._tags(settings(tmp_path, "model=fam", "task=passkey"), {})) == 3


def _assert_same_rows(folder: RunFolder, history: list[dict[str, Any]]) -> None:
    values: dict[int, dict[str, Any]] = {item["_step"]: item for item in history}
    for row in folder.metrics():
        for name in ("loss", "grad_norm", "exact_match"):
            if name in row:
                assert values[row["step"]][f"{row['split']}/{name}"] == pytest.approx(row[name])


def test_failed_run_is_failed_there_too(tmp_path: Path) -> None:
    config = settings(tmp_path, "model=transformer", "task=passkey", "logger=wandb")
    folder = folder_of(config)
    folder.path.mkdir(parents=True)
    tracker = open_tracker(config, folder, {})
    tracker.log({"step": 1, "split": "train", "loss": 2.0})
    with pytest.raises(ArithmeticError), tracker:
        raise ArithmeticError
    mirror = mirrored(config)
    assert mirror["exit"]["exit_code"] == 1
    assert mirror["history"][0]["train/loss"] == 2.0


def test_unreachable_server_leaves_an_offline_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(tracking, "INIT_SECONDS", 1.0)
    config = settings(tmp_path, "model=transformer", "task=passkey", "logger=wandb")
    assert run_here(config) == ExitCode.OK
    warnings = [line for line in capfd.readouterr().err.splitlines() if line]
    assert len(warnings) == 1
    assert "cannot be reached" in warnings[0]
    assert KEY not in warnings[0]
    _assert_same_rows(folder_of(config), mirrored(config)["history"])


@pytest.mark.parametrize("broken", ["folder", "mode"])
def test_broken_mirror_warns_once_and_stops_no_run(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = settings(tmp_path, "model=transformer", "task=passkey", "logger=wandb")
    if broken == "mode":
        monkeypatch.setenv("WANDB_MODE", "onlin")
    else:
        folder_of(config).path.mkdir(parents=True)
        (folder_of(config).path / "wandb").write_text("a file where W&B wants a folder")
    assert run_here(config) == ExitCode.OK
    warnings = [line for line in capfd.readouterr().err.splitlines() if line]
    assert len(warnings) == 1
    assert "the run goes on" in warnings[0]


def test_call_that_fails_is_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = settings(tmp_path, "model=transformer", "task=passkey", "logger=wandb")
    folder = folder_of(config)
    folder.path.mkdir(parents=True)
    with open_tracker(config, folder, {}) as tracker:
        tracker.log({"step": 1, "split": "train", "loss": object()})  # nothing that W&B can store
        tracker.log_image("memory", tmp_path / "missing.png")
        tracker.log({"step": 2, "split": "train", "loss": 1.0})
        tracker.log_result({"test/accuracy": 0.5})
    assert len(capfd.readouterr().err.splitlines()) <= 1


def test_disabled_or_none_is_no_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(tmp_path, "model=transformer", "task=passkey", "logger=none")
    assert type(open_tracker(config, folder_of(config), {})) is Tracker
    monkeypatch.setenv("WANDB_MODE", "disabled")
    config = settings(tmp_path, "model=transformer", "task=passkey", "logger=wandb")
    assert type(open_tracker(config, folder_of(config), {})) is Tracker


def test_mode_is_online_only_for_somebody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert wandb_mode("auto") == "offline"
    assert wandb_mode("online") == "online"
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert wandb_mode("auto") == "online"
    assert wandb_mode("offline") == "offline"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert wandb_mode("auto") == "offline"
    monkeypatch.delenv("WANDB_API_KEY")
    login = tmp_path / "netrc"
    login.write_text(f"machine api.wandb.ai login user password {KEY}\n")
    login.chmod(0o600)
    assert not is_logged_in()
    monkeypatch.setenv("NETRC", str(login))
    assert is_logged_in()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not is_logged_in()
