"""A run that was cut off and started again ends with the numbers of one that never was, bit for bit."""

from __future__ import annotations

import random
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import checkpoints
from experiments.config import RunConfig
from experiments.errors import CheckpointError, ExitCode, Interrupted
from experiments.interrupts import Interruption
from tests.experiments.small_runs import (
    Sabotage,
    folder_of,
    outcome,
    rows,
    run_apart,
    run_here,
    settings,
    write_reviews,
)

STEP = "experiments.lightning_modules:SequenceModule.training_step"
ROW = "experiments.store:RunFolder.append_metrics"
SAVE = "experiments.checkpoints:save"
VALIDATE = "experiments.callbacks:evaluate_split"
TEST = "experiments.train:evaluate_split"
KILLED = -signal.SIGKILL

#: Everything that a checkpoint must not forget: dropout, parts of a batch, a memory kept from step to step.
PASSKEY = (
    "model=fam",
    "task=passkey",
    "backbone.dropout=0.1",
    "model.random_state_passing=0.8",
    "trainer.accumulate=2",
)


@pytest.fixture(scope="module")
def passkey(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, dict[str, Any]]:
    """Settings, and the outcome of a run that was never cut."""
    config = settings(tmp_path_factory.mktemp("whole"), *PASSKEY)
    assert run_apart(config) == ExitCode.OK
    return config, outcome(folder_of(config))


@pytest.mark.parametrize(
    "cuts",
    [
        pytest.param([(STEP, 1, "before")], id="before anything is stored"),
        pytest.param([(STEP, 5, "before"), (STEP, 1, "after"), (STEP, 4, "after")], id="at several steps"),
        pytest.param([("pathlib:Path.write_bytes", 1, "halfway")], id="in the middle of the first checkpoint"),
        pytest.param([("pathlib:Path.write_bytes", 4, "halfway")], id="in the middle of a later checkpoint"),
        pytest.param([("os:fsync", 5, "before")], id="before a checkpoint takes the place of the old one"),
        pytest.param([(ROW, 2, "after"), (ROW, 2, "after")], id="between a row and its checkpoint"),
        pytest.param([(SAVE, 2, "after"), (SAVE, 2, "after")], id="between the best checkpoint and the last"),
        pytest.param([(VALIDATE, 2, "before"), (VALIDATE, 1, "after")], id="around a validation"),
        pytest.param([(TEST, 1, "before"), (TEST, 1, "after")], id="around the test"),
    ],
)
def test_killed_run_ends_with_the_same_numbers(
    passkey: tuple[RunConfig, dict[str, Any]], cuts: list[tuple[str, int, Any]], tmp_path: Path
) -> None:
    whole = passkey[1]
    config = settings(tmp_path, *PASSKEY)
    for cut in cuts:
        assert run_apart(config, Sabotage(*cut)) == KILLED
    assert run_apart(config) == ExitCode.OK
    folder = folder_of(config)
    assert outcome(folder) == whole
    assert folder.result()["attempts"] == len(cuts) + 1  # type: ignore[index]
    assert not list(folder.checkpoints.glob(".*"))


def test_run_killed_at_random_moments_ends_with_the_same_numbers(
    passkey: tuple[RunConfig, dict[str, Any]], tmp_path: Path
) -> None:
    config = settings(tmp_path, *PASSKEY, "trainer.checkpoint_every=1")
    moments = [random.uniform(0.1, 1.2) for _ in range(5)]
    print("killed after", moments)
    for moment in moments:
        if run_apart(config, kill_after=moment) == ExitCode.OK:
            break
    assert run_apart(config) == ExitCode.OK
    assert outcome(folder_of(config)) == passkey[1]


def test_killed_run_on_text_ends_with_the_same_numbers(tmp_path: Path) -> None:
    root = write_reviews(tmp_path / "data")
    text = ("model=luna", "task=lra_text", f"data.root={root}", "backbone.dropout=0.1", "trainer.num_workers=0")
    whole, cut = settings(tmp_path / "whole", *text), settings(tmp_path / "cut", *text)
    assert run_apart(whole) == ExitCode.OK
    assert run_apart(cut, Sabotage(STEP, 7)) == KILLED
    assert run_apart(cut) == ExitCode.OK
    assert outcome(folder_of(cut)) == outcome(folder_of(whole))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_keeps_the_step_that_was_done(
    passkey: tuple[RunConfig, dict[str, Any]], number: int, code: int, tmp_path: Path
) -> None:
    config = settings(tmp_path, *PASSKEY, "trainer.checkpoint_every=100")
    folder = folder_of(config)
    assert run_apart(config, Sabotage(STEP, 7, number=number)) == code
    assert checkpoints.load(folder.last_checkpoint, kind="training", run_id=folder.run_id)["global_step"] == 7
    assert folder.state == "interrupted"
    assert run_apart(config) == ExitCode.OK
    assert outcome(folder) == passkey[1]


def test_signal_during_a_validation_makes_up_for_it(passkey: tuple[RunConfig, dict[str, Any]], tmp_path: Path) -> None:
    config = settings(tmp_path, *PASSKEY, "trainer.checkpoint_every=100")
    folder = folder_of(config)
    assert run_apart(config, Sabotage(VALIDATE, 2, "before", signal.SIGTERM)) == ExitCode.TERMINATED
    assert [row["step"] for row in rows(folder, "val")] == [4]
    # Killed again right after the row of the validation that was made up for: the row must not come twice.
    assert run_apart(config, Sabotage(ROW, 1)) == KILLED
    assert [row["step"] for row in rows(folder, "val")] == [4, 8]
    assert run_apart(config) == ExitCode.OK
    assert outcome(folder) == passkey[1]


def test_signal_during_the_last_validation(passkey: tuple[RunConfig, dict[str, Any]], tmp_path: Path) -> None:
    config = settings(tmp_path, *PASSKEY)
    assert run_apart(config, Sabotage(VALIDATE, 3, "before", signal.SIGTERM)) == ExitCode.TERMINATED
    assert run_apart(config) == ExitCode.OK
    assert outcome(folder_of(config)) == passkey[1]


def test_where_a_run_works_changes_none_of_its_numbers(
    passkey: tuple[RunConfig, dict[str, Any]], tmp_path: Path
) -> None:
    config = settings(tmp_path, *PASSKEY, "trainer.checkpoint_every=5", "trainer.progress=plain")
    assert run_apart(config) == ExitCode.OK
    assert outcome(folder_of(config)) == passkey[1]


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign", "weights", "code", "other run"])
def test_bad_checkpoint_is_one_line(damage: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = settings(tmp_path, *PASSKEY)
    assert run_apart(config, Sabotage(STEP, 5)) == KILLED
    folder = folder_of(config)
    path = folder.last_checkpoint
    content = torch.load(path, weights_only=True)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "foreign":
        torch.save({"state_dict": {}}, path)
    elif damage == "weights":
        path.write_bytes(folder.best_checkpoint.read_bytes())
    elif damage == "code":
        torch.save({**content, "callable": Interruption()}, path)
    else:
        checkpoints.save(path, content, kind="training", run_id="0123456789-s0")
    capfd.readouterr()
    assert run_here(config) == ExitCode.FAILED
    printed = capfd.readouterr().err.strip()
    assert str(path) in printed
    assert "force=true" in printed
    assert len(printed.splitlines()) == 1
    assert folder.state == "failed"


def test_force_starts_over(passkey: tuple[RunConfig, dict[str, Any]], tmp_path: Path) -> None:
    config = settings(tmp_path, *PASSKEY)
    assert run_apart(config, Sabotage(STEP, 5)) == KILLED
    folder_of(config).last_checkpoint.write_bytes(b"torn")
    forced = settings(tmp_path, *PASSKEY, "force=true")
    assert run_apart(forced) == ExitCode.OK
    assert outcome(folder_of(config)) == passkey[1]


@contextmanager
def _largest_file(size: int) -> Iterator[None]:
    """Lets writing fail as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    checkpoints.save(path, {"global_step": 1}, kind="training", run_id="a-s0")
    with _largest_file(10_000), pytest.raises(CheckpointError, match="could not be written") as caught:
        checkpoints.save(path, {"weights": torch.zeros(10_000)}, kind="training", run_id="a-s0")
    assert "intact" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert checkpoints.load(path, kind="training", run_id="a-s0")["global_step"] == 1
    assert [item.name for item in path.parent.iterdir()] == ["last.ckpt"]


def test_checkpoints_hold_plain_types_only(passkey: tuple[RunConfig, dict[str, Any]]) -> None:
    folder = folder_of(passkey[0])
    for path in (folder.last_checkpoint, folder.best_checkpoint):
        _assert_plain(torch.load(path, weights_only=True))


def _assert_plain(value: Any) -> None:
    if isinstance(value, dict):
        assert all(type(key) in (str, int) for key in value)
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            _assert_plain(item)
    else:
        assert type(value) in (str, int, float, bool, type(None), torch.Tensor), type(value)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds another model"):
        checkpoints.load_weights(torch.nn.Linear(2, 3), torch.nn.Linear(2, 2).state_dict(), tmp_path / "best.ckpt")


def test_second_signal_stops_at_once() -> None:
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted):
            interruption.check()
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)
