"""What makes a run that run, and the folder that holds it."""

from __future__ import annotations

import dataclasses
import errno
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data.base import Source
from experiments.config import RunConfig
from experiments.errors import ConfigError, LockedError, StoreError
from experiments.identity import WITHOUT_EFFECT, identify
from experiments.results import load_curves, load_metrics, load_results, load_slices
from experiments.store import RunFolder, atomic_path, find_run, run_folder, write_atomically
from tests.experiments.small_runs import settings

SOURCE = Source("generated", "abc", "")
RESULT: dict[str, Any] = {
    "task": "passkey",
    "model": "fam",
    "seed": 0,
    "metric": "accuracy",
    "test/accuracy": 0.5,
}


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return settings(tmp_path, "model=fam", "task=passkey")


@pytest.fixture
def folder(config: RunConfig) -> Iterator[RunFolder]:
    """A folder at work."""
    folder = run_folder(config, SOURCE)
    with folder.lock():
        folder.begin(config)
        yield folder


def test_a_run_lives_below_its_task_and_model(config: RunConfig, tmp_path: Path) -> None:
    folder = run_folder(config, SOURCE)
    identity = identify(config, SOURCE)
    assert folder.path == tmp_path / "runs" / "passkey" / "fam" / f"{identity.hash}-s0"
    assert folder.run_id == identity.run_id
    assert len(identity.hash) == 10
    assert not folder.path.exists(), "asking for a folder creates none"


@pytest.mark.parametrize(
    "override",
    [
        "model=luna",
        "model.fam_len=2",
        "backbone.depth=2",
        "task.key_digits=3",
        "trainer.steps=13",
        "trainer.learning_rate=0.5",
        "trainer.precision=bf16",
        "trainer.accumulate=2",
        "seed=1",
    ],
)
def test_what_can_change_the_numbers_makes_another_run(config: RunConfig, tmp_path: Path, override: str) -> None:
    other = settings(tmp_path, *dict.fromkeys(["model=fam", "task=passkey", override]))
    assert identify(other, SOURCE).hash != identify(config, SOURCE).hash


@pytest.mark.parametrize(
    "override",
    [
        "trainer.device=cpu",
        "trainer.threads=2",
        "trainer.log_every=1",
        "trainer.checkpoint_every=7",
        "trainer.num_workers=2",
        "trainer.progress=plain",
        "trainer.compile=true",
        "trainer.accumulate=1",
        "trainer.recompute=true",
        "trainer.auto_micro_batch=false",
        "logger=wandb",
        "data.root=elsewhere",
        "data.cache=elsewhere",
        "store.root=elsewhere",
        "force=true",
    ],
)
def test_where_a_run_works_does_not(config: RunConfig, tmp_path: Path, override: str) -> None:
    other = settings(tmp_path, "model=fam", "task=passkey", override)
    assert identify(other, SOURCE) == identify(config, SOURCE)


def test_names_of_stored_runs_stay_what_they_are(tmp_path: Path) -> None:
    config = settings(tmp_path, "model=transformer", "task=passkey", "trainer.device=cpu")
    assert identify(config, SOURCE._replace(name="made")).run_id == "5de245c7ee-s0"


def test_only_the_number_of_parts_counts_not_of_devices(config: RunConfig, tmp_path: Path) -> None:
    def named(*overrides: str) -> str:
        return identify(settings(tmp_path, "model=fam", "task=passkey", *overrides), SOURCE).run_id

    assert named("trainer.devices=2") == named("trainer.accumulate=2")
    assert named("trainer.devices=2", "trainer.accumulate=4") == named("trainer.accumulate=4")
    assert len({named(), named("trainer.devices=2"), named("trainer.accumulate=4")}) == 3


def test_every_setting_without_effect_exists(config: RunConfig) -> None:
    assert set(WITHOUT_EFFECT) <= {field.name for field in dataclasses.fields(config.trainer)}


def test_data_are_part_of_the_identity(config: RunConfig) -> None:
    whole = identify(config, SOURCE)
    assert identify(config, SOURCE._replace(checksum="other")).hash != whole.hash
    assert identify(config, SOURCE._replace(name="other")).hash != whole.hash
    assert identify(config, SOURCE._replace(detail="other")) == whole


def test_seeds_of_one_setting_share_their_config_hash(config: RunConfig, tmp_path: Path) -> None:
    other = settings(tmp_path, "model=fam", "task=passkey", "seed=1")
    assert identify(other, SOURCE).config_hash == identify(config, SOURCE).config_hash


HOLD = """
import sys, time
from experiments.store import RunFolder
with RunFolder(sys.argv[1]).lock():
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_told_who_holds_the_run(folder: RunFolder) -> None:
    other = RunFolder(folder.path.with_name("other-s0"))
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(other.path)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "locked\n"
        assert other.is_locked()
        with pytest.raises(LockedError) as caught, other.lock():
            pass
        message = str(caught.value)
        assert message.startswith(f"run other-s0 is already running (process {child.pid} on ")
        threading.Timer(0.5, child.kill).start()
        with other.lock(patience=30):
            pass  # who is patient gets it, however the other ended
    finally:
        child.kill()
        child.communicate()
    assert not other.is_locked()


def test_state_tells_a_killed_run_from_one_at_work(folder: RunFolder, config: RunConfig) -> None:
    assert folder.state == "running"
    killed = RunFolder(folder.path.with_name("killed-s0"))
    assert killed.state == "new"
    with killed.lock():
        killed.begin(config)
    assert killed.status()["state"] == "running"
    assert killed.state == "interrupted"


def test_attempts_are_counted_and_the_last_failure_forgotten(folder: RunFolder, config: RunConfig) -> None:
    folder.write_error("broken")
    folder.write_status("failed", message="broken")
    (folder.path / ".status.json.1.tmp").touch()
    again = RunFolder(folder.path)
    again.begin(config)
    assert again.attempt == 2
    assert not again.error_file.exists()
    assert not list(folder.path.glob(".*.tmp"))
    assert again.config() == config


def test_rows_carry_attempt_and_time_and_survive_a_torn_line(folder: RunFolder) -> None:
    folder.append_metrics({"step": 1, "loss": 0.5})
    folder.append_metrics({"step": 2, "loss": float("nan")})
    with folder.metrics_file.open("a") as handle:
        handle.write('{"step": 3, "lo')
    rows = folder.metrics()
    assert [(row["step"], row["loss"], row["attempt"]) for row in rows] == [(1, 0.5, 1), (2, None, 1)]
    assert rows[0]["time"] > 0
    with pytest.warns(UserWarning, match="torn line"):
        assert len(load_metrics(folder.path)) == 2


def test_rows_beyond_the_checkpoint_are_dropped(folder: RunFolder) -> None:
    for step in (1, 2, 3):
        folder.append_metrics({"step": step})
    folder.trim_metrics(2)
    folder.append_metrics({"step": 3})
    assert [row["step"] for row in folder.metrics()] == [1, 2, 3]


def test_a_result_ends_the_run(folder: RunFolder) -> None:
    assert folder.result() is None
    assert not folder.is_done
    folder.write_result(RESULT)
    assert folder.result() == {**RESULT, "run_id": folder.run_id, "status": "done"}
    assert folder.is_done
    assert folder.state == "done"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: text[:-5], "is torn (no complete JSON)"),
        (lambda text: text.replace("0.5", "0.9"), "was changed after the run had ended"),
        (lambda text: json.dumps({"run_id": "another-s0"}), "belongs to another run"),
        (lambda text: "[]", "belongs to another run"),
    ],
)
def test_a_result_that_cannot_be_trusted_is_named(folder: RunFolder, change: Any, problem: str) -> None:
    folder.write_result(RESULT)
    folder.result_file.write_text(change(folder.result_file.read_text()))
    with pytest.raises(StoreError) as caught:
        folder.result()
    expected = f"{folder.result_file} {problem}: restore it, or start this run over with force=true"
    assert str(caught.value) == expected


def test_settings_that_cannot_be_read_are_named(folder: RunFolder) -> None:
    folder.config_file.write_text("model: {name: nothing")
    with pytest.raises(StoreError, match=r"config\.yaml cannot be read \(.*\): start over with force=true$"):
        folder.config()


def test_clearing_keeps_the_lock_alone(folder: RunFolder) -> None:
    folder.checkpoints.mkdir()
    folder.last_checkpoint.touch()
    folder.clear()
    assert [path.name for path in folder.path.iterdir()] == ["lock"]
    assert folder.is_locked()


def test_slices_keep_every_column(folder: RunFolder) -> None:
    folder.write_slices([{"length": 1, "accuracy": 0.5}, {"length": 2, "depth": 0.1}])
    assert folder.slices_file.read_text() == "length,accuracy,depth\n1,0.5,\n2,,0.1\n"


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")

    def fill_the_disk() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half of the n")
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        fill_the_disk()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_is_found_by_its_first_digits(tmp_path: Path) -> None:
    for name in ("aa11-s0", "aa11-s1", "bb22-s0"):
        (tmp_path / "runs" / "task" / "model" / name).mkdir(parents=True)
    runs = tmp_path / "runs"
    assert find_run(runs, "b").run_id == "bb22-s0"
    assert find_run(runs, "aa11-s1").run_id == "aa11-s1"
    with pytest.raises(ConfigError, match=r"^run=aa: 2 runs start with this, give more digits: task/model/aa11-s0"):
        find_run(runs, "aa")
    with pytest.raises(ConfigError, match=r"^run=cc: no stored run starts with this \(looked in "):
        find_run(runs, "cc")


def test_results_are_read_as_frames_and_torn_ones_named(folder: RunFolder, tmp_path: Path) -> None:
    folder.write_result(RESULT)
    folder.write_slices([{"length": 8, "n": 2, "accuracy": 0.5}])
    torn = folder.path.with_name("torn-s0")
    torn.mkdir()
    (torn / "result.json").write_text('{"task"')
    with pytest.warns(UserWarning, match=r"left out .*torn-s0/result\.json: it is torn"):
        frame = load_results(tmp_path)
    assert frame[["task", "test/accuracy", "folder"]].values.tolist() == [["passkey", 0.5, str(folder.path)]]
    with pytest.warns(UserWarning, match="torn"):
        slices = load_slices(tmp_path / "runs")
    assert slices[["run_id", "model", "length", "accuracy"]].values.tolist() == [[folder.run_id, "fam", 8, 0.5]]


def test_a_torn_result_is_an_error_where_that_is_asked_for(folder: RunFolder, tmp_path: Path) -> None:
    folder.result_file.write_text('{"task"')
    with pytest.raises(ValueError, match=r"result\.json is torn"):
        load_results(tmp_path, strict=True)


def test_slices_and_curves_of_chosen_runs(folder: RunFolder, tmp_path: Path) -> None:
    other = RunFolder(folder.path.with_name("ffff-s1"))
    other.path.mkdir(parents=True)
    for one, column in ((folder, "length"), (other, "depth")):
        one.write_result(RESULT)
        one.write_slices([{column: 8, "accuracy": 0.5}, {column: 16, "accuracy": 0.25}])
        one.append_metrics({"step": 1, "split": "train", "loss": 0.5})
        one.append_metrics({"step": 2, "split": "val", "accuracy": 0.75})
    (folder.path / "checkpoints" / "inner").mkdir(parents=True)
    (folder.path / "checkpoints" / "inner" / "result.json").write_text("{}")
    runs = load_results(tmp_path)
    assert runs["run_id"].tolist() == sorted([folder.run_id, other.run_id])
    slices = load_slices(tmp_path)
    assert slices.loc[slices["run_id"] == folder.run_id, ["length", "accuracy"]].values.tolist() == [
        [8, 0.5],
        [16, 0.25],
    ]
    assert slices.loc[slices["run_id"] == other.run_id, "depth"].tolist() == [8, 16]
    own = runs[runs["run_id"] == other.run_id]
    assert set(load_slices(runs=own)["run_id"]) == {other.run_id}
    curves = load_curves(own, "val")
    assert curves[["run_id", "step", "accuracy"]].values.tolist() == [[other.run_id, 2, 0.75]]


def test_an_empty_store_is_an_empty_frame(tmp_path: Path) -> None:
    assert load_results(tmp_path).empty
    assert load_slices(tmp_path).empty
