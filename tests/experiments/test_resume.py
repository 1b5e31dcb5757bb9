"""A run that was cut off and started again ends with the numbers of one that never was, bit for bit."""

from __future__ import annotations

import random
import resource
import shutil
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
from experiments.store import RunFolder
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


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143), (signal.SIGUSR2, 143)]
)
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


class Bomb:
    """Executes code when it is unpickled: it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def damage_file(path: Path, how: str) -> None:
    """Damages a checkpoint."""
    content = bytearray(path.read_bytes())
    if how == "truncated":
        path.write_bytes(content[:-1000])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif how == "code":
        torch.save({**torch.load(path, weights_only=True), "bomb": Bomb(path.with_name("executed"))}, path)
    else:
        path.unlink()


DAMAGES = ["truncated", "empty", "flipped", "code"]


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run that was killed in its sixth step, with checkpoints of steps 2 and 4 and a validation at 4."""
    config = settings(tmp_path_factory.mktemp("cut"), *PASSKEY)
    assert run_apart(config, Sabotage(STEP, 6)) == KILLED
    return config


def copy_of(cut: RunConfig, root: Path) -> RunConfig:
    """The same run, in a store of its own."""
    config = settings(root, *PASSKEY)
    shutil.copytree(folder_of(cut).path, folder_of(config).path)
    return config


def said(folder: RunFolder) -> list[str]:
    """What the log tells of damage; nothing may have been executed."""
    assert not (folder.checkpoints / "executed").exists()
    lines = folder.log_file.read_text().splitlines()
    return [line.partition("] ")[2] for line in lines if "damaged" in line]


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_checkpoint_falls_back_to_the_one_before(
    how: str, cut: RunConfig, passkey: tuple[RunConfig, dict[str, Any]], tmp_path: Path
) -> None:
    config = copy_of(cut, tmp_path)
    folder = folder_of(config)
    damage_file(folder.last_checkpoint, how)
    assert run_apart(config) == ExitCode.OK
    assert said(folder) == [
        f"{folder.last_checkpoint} is damaged (kept as last.damaged): goes on from the checkpoint before it, at step 2"
    ]
    assert outcome(folder) == passkey[1]


@pytest.mark.parametrize("how", DAMAGES)
def test_no_intact_checkpoint_starts_again(
    how: str, cut: RunConfig, passkey: tuple[RunConfig, dict[str, Any]], tmp_path: Path
) -> None:
    config = copy_of(cut, tmp_path)
    folder = folder_of(config)
    damage_file(folder.last_checkpoint, how)
    damage_file(folder.previous_checkpoint, how)
    assert run_apart(config) == ExitCode.OK
    assert said(folder) == [f"{folder.last_checkpoint} is damaged (kept as last.damaged): starts again from step 0"]
    assert outcome(folder) == passkey[1]


@pytest.mark.parametrize("how", ["flipped", "missing"])
def test_best_weights_that_are_damaged_start_again(
    how: str, cut: RunConfig, passkey: tuple[RunConfig, dict[str, Any]], tmp_path: Path
) -> None:
    config = copy_of(cut, tmp_path)
    folder = folder_of(config)
    damage_file(folder.best_checkpoint, how)
    # Killed before there is a new one: what is left of the old history must not be gone on from.
    assert run_apart(config, Sabotage(STEP, 1)) == KILLED
    line = f"{folder.best_checkpoint}, which the test at the end needs, is damaged or missing: starts again from step 0"
    assert said(folder) == [line]
    assert not folder.can_resume
    assert run_apart(config) == ExitCode.OK
    assert said(folder) == [line]
    assert outcome(folder) == passkey[1]


def test_killed_while_the_old_checkpoint_makes_room(
    cut: RunConfig, passkey: tuple[RunConfig, dict[str, Any]], tmp_path: Path
) -> None:
    config = copy_of(cut, tmp_path)
    folder = folder_of(config)
    assert run_apart(config, Sabotage("experiments.checkpoints:_sync", 1)) == KILLED  # the old one not yet moved
    assert folder.last_checkpoint.exists()
    folder.last_checkpoint.replace(folder.previous_checkpoint)  # and just moved
    assert run_apart(config) == ExitCode.OK
    assert not said(folder)
    assert outcome(folder) == passkey[1]


def test_checkpoint_of_before_there_were_digests_is_read(
    cut: RunConfig, passkey: tuple[RunConfig, dict[str, Any]], tmp_path: Path
) -> None:
    config = copy_of(cut, tmp_path)
    folder = folder_of(config)
    for path in (folder.last_checkpoint, folder.best_checkpoint):
        torch.save(torch.load(path, weights_only=True), path)
    folder.previous_checkpoint.unlink()
    assert run_apart(config) == ExitCode.OK
    assert not said(folder)
    assert outcome(folder) == passkey[1]


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    checkpoints.save(path, {"weights": torch.arange(50.0)}, kind="training", run_id="a-s0")
    assert torch.load(path, weights_only=True)["weights"].sum() == 1225, "an ordinary file of torch"
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(CheckpointError):
            checkpoints.load(path, kind="training", run_id="a-s0")
    path.write_bytes(content)
    assert checkpoints.load(path, kind="training", run_id="a-s0")["weights"].sum() == 1225


@pytest.mark.parametrize("damage", ["foreign", "weights", "other run"])
def test_bad_checkpoint_is_one_line(damage: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = settings(tmp_path, *PASSKEY)
    assert run_apart(config, Sabotage(STEP, 5)) == KILLED
    folder = folder_of(config)
    path = folder.last_checkpoint
    content = torch.load(path, weights_only=True)
    if damage == "foreign":
        torch.save({"state_dict": {}}, path)
    elif damage == "weights":
        path.write_bytes(folder.best_checkpoint.read_bytes())
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


def test_second_ctrl_c_stops_at_once() -> None:
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted) as caught:
            interruption.check()
        assert caught.value.exit_code == ExitCode.TERMINATED, "what came first"
        with pytest.raises(Interrupted) as caught:
            signal.raise_signal(signal.SIGINT)
        assert caught.value.exit_code == ExitCode.INTERRUPTED


def test_what_a_scheduler_sends_is_one_request() -> None:
    with Interruption() as interruption:
        for number in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM):
            signal.raise_signal(number)
        with pytest.raises(Interrupted, match="SIGUSR1") as caught:
            interruption.check()
    assert caught.value.exit_code == ExitCode.TERMINATED
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
