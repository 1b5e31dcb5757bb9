"""Several processes for one run: the numbers of one, and no process that outlives it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import checkpoints
from experiments.callbacks import RunCallback
from experiments.config import RunConfig
from experiments.errors import ConfigError, ExitCode
from experiments.hardware import Hardware
from experiments.ranks import OtherRanks, Ranks
from experiments.settings import REPOSITORY
from experiments.store import RunFolder
from tests.experiments.small_runs import (
    TINY,
    Sabotage,
    folder_of,
    outcome,
    rows,
    run_apart,
    run_here,
    settings,
)

STEP = "experiments.lightning_modules:SequenceModule.training_step"
CPU = ("task=passkey", "trainer.device=cpu", "backbone.dropout=0.1")
TWO = "trainer.devices=2"
FAM = ("model=fam", "model.random_state_passing=0.8", *CPU)


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return checkpoints.load(folder.last_checkpoint, kind="training", run_id=folder.run_id)["state_dict"]


def others_of(root: Path) -> list[int]:
    """Processes that work for a run below a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has just ended
            continue
        if "experiments.ranks" in words and any(word.startswith(str(root)) for word in words):
            found.append(int(path.parent.name))
    return found


def assert_alone(root: Path) -> None:
    """The others have ended, or do so in a moment."""
    deadline = time.monotonic() + 10
    while others_of(root):
        assert time.monotonic() < deadline, "a process outlives its run"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def fam(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, dict[str, Any]]:
    """Settings of a run of two processes, and its outcome."""
    config = settings(tmp_path_factory.mktemp("two"), *FAM, TWO)
    assert run_apart(config) == ExitCode.OK
    return config, outcome(folder_of(config))


def assert_alike(one: RunFolder, two: RunFolder) -> None:
    """The same numbers within the order of sums."""
    expected = weights(one)
    for name, weight in weights(two).items():
        wanted = expected[name].double()  # FAM keeps a truth value, too
        assert torch.linalg.vector_norm(weight.double() - wanted) <= 1e-5 * torch.linalg.vector_norm(wanted), name
    for row, other in zip(rows(one, "train"), rows(two, "train"), strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
    first, second = one.result() or {}, two.result() or {}
    for name in ("train_tokens", "train_flops", "micro_batch_size", "test/n"):
        assert first[name] == second[name], name


def test_two_processes_train_as_one_does_in_two_parts(fam: tuple[RunConfig, dict[str, Any]], tmp_path: Path) -> None:
    one = settings(tmp_path, *FAM, "trainer.accumulate=2")
    assert run_apart(one) == ExitCode.OK
    assert_alike(folder_of(one), folder_of(fam[0]))
    assert folder_of(one).run_id == folder_of(fam[0]).run_id
    assert (folder_of(fam[0]).result() or {})["devices"] == 2
    assert not list(folder_of(fam[0]).path.glob("rank-*"))


@pytest.mark.parametrize("model", ["transformer", "rmt"])
def test_so_do_other_variants_and_parts_of_a_share(model: str, tmp_path: Path) -> None:
    parts = (f"model={model}", *CPU, "trainer.accumulate=4", "trainer.steps=3")
    one, two = settings(tmp_path / "one", *parts), settings(tmp_path / "two", *parts, TWO, "trainer.recompute=true")
    assert run_apart(one) == ExitCode.OK
    assert run_apart(two) == ExitCode.OK
    assert_alike(folder_of(one), folder_of(two))


def test_a_cut_run_of_two_processes_ends_with_the_same_numbers(
    fam: tuple[RunConfig, dict[str, Any]], tmp_path: Path
) -> None:
    config = settings(tmp_path, *FAM, TWO)
    assert run_apart(config, Sabotage(STEP, 5, number=signal.SIGUSR2)) == ExitCode.TERMINATED
    assert_alone(tmp_path)
    assert folder_of(config).state == "interrupted"
    assert run_apart(config, Sabotage(STEP, 4)) == -signal.SIGKILL
    assert_alone(tmp_path)
    assert run_apart(config) == ExitCode.OK
    assert outcome(folder_of(config)) == fam[1]


def test_a_run_may_go_on_with_another_number_of_processes(
    fam: tuple[RunConfig, dict[str, Any]], tmp_path: Path
) -> None:
    assert run_apart(settings(tmp_path, *FAM, TWO), Sabotage(STEP, 6)) == -signal.SIGKILL
    one = settings(tmp_path, *FAM, "trainer.accumulate=2")
    assert run_apart(one) == ExitCode.OK
    assert_alike(folder_of(one), folder_of(fam[0]))


def test_a_process_that_dies_ends_the_run_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config, log = settings(tmp_path, "model=transformer", *CPU, TWO), RunCallback._log

    def kill(callback: RunCallback, *arguments: Any) -> None:
        (child,) = others_of(tmp_path)
        os.kill(child, signal.SIGKILL)
        log(callback, *arguments)

    monkeypatch.setattr(RunCallback, "_log", kill)
    assert run_here(config) == ExitCode.FAILED
    (line,) = capfd.readouterr().err.splitlines()
    assert "failed: process 1 of 2 of this run was killed by SIGKILL, the system may have run out of memory" in line
    assert_alone(tmp_path)
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("code", "state", "line"),
    [(3, "out_of_memory", "process 1 of 2: no room"), (1, "failed", "process 1 of 2 of this run failed (no room)")],
)
def test_a_process_that_does_not_start_is_not_waited_for(
    code: int,
    state: str,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def start(others: OtherRanks, rank: int, port: int) -> subprocess.Popen[bytes]:
        with others._log(rank).open("wb") as log:
            return subprocess.Popen([sys.executable, "-c", f"print('no room'); raise SystemExit({code})"], stdout=log)

    monkeypatch.setattr(OtherRanks, "_start", start)
    config = settings(tmp_path, "model=transformer", *CPU, TWO)
    assert run_here(config) == code
    assert folder_of(config).state == state
    assert line in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["error", "diverged"])
def test_what_ends_rank_0_ends_the_others(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = settings(tmp_path, "model=transformer", *CPU, TWO, "trainer.log_every=5")
    if kind == "error":

        def fail(*arguments: Any, **options: Any) -> None:
            raise ValueError("out of the blue")

        monkeypatch.setattr("experiments.callbacks.evaluate_split", fail)
    else:
        assert run_apart(config, Sabotage(STEP, 3, number=signal.SIGTERM)) == ExitCode.TERMINATED
        folder = folder_of(config)
        content = checkpoints.load(folder.last_checkpoint, kind="training", run_id=folder.run_id)
        content["state_dict"]["model.embedding.weight"].fill_(float("nan"))
        checkpoints.save(folder.last_checkpoint, content, kind="training", run_id=folder.run_id)
    capfd.readouterr()
    assert run_here(config) == ExitCode.FAILED
    (line,) = capfd.readouterr().err.splitlines()
    assert ("out of the blue" if kind == "error" else "loss is nan at step 4, first in weight embedding.weight") in line
    assert_alone(tmp_path)


def test_a_sweep_of_such_runs_runs_each_once(tmp_path: Path) -> None:
    arguments = ["-m", "model=fam,transformer", *CPU, *TINY, TWO, "trainer.steps=2", "hydra.launcher.jobs=2"]
    env = {**os.environ, "MEMATTN_RESULTS": str(tmp_path / "results")}
    command = [sys.executable, str(REPOSITORY / "run.py"), *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == ExitCode.OK, done.stderr + done.stdout
    results = [json.loads(path.read_text()) for path in (tmp_path / "results" / "runs").rglob("result.json")]
    assert sorted((result["model"], result["devices"], result["attempts"]) for result in results) == [
        ("fam", 2, 1),
        ("transformer", 2, 1),
    ]
    assert len(list((tmp_path / "results" / "sweeps").iterdir())) == 1
    assert_alone(tmp_path)


def test_neighbouring_parts_go_to_one_process() -> None:
    assert [list(Ranks(rank, 2).own(6)) for rank in (0, 1)] == [[0, 1, 2], [3, 4, 5]]
    assert list(Ranks().own(3)) == [0, 1, 2]


def test_more_devices_than_there_are_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert Hardware.choose("cuda").device == "cuda"
    with pytest.raises(ConfigError, match=r"trainer\.devices=2: torch sees 1 GPU here; use at most trainer\.devices=1"):
        Hardware.choose("cuda", devices=2)
    assert Hardware.choose("cpu", devices=8).device == "cpu"
