"""A step that runs out of memory goes on in smaller pieces: the same batch, the same numbers, kept on resuming."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import checkpoints
from experiments.config import RunConfig
from experiments.errors import ExitCode, is_out_of_memory
from experiments.evaluate import evaluate_run
from experiments.lightning_modules import SequenceModule
from experiments.store import RunFolder
from models import Model
from tests.experiments.small_runs import folder_of, outcome, rows, run_here, settings

PASSKEY = ("model=transformer", "task=passkey", "trainer.batch_size=8")
ERRORS: dict[str, Callable[[], Exception]] = {
    "GPU": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "CPU": lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    "Python": MemoryError,
}


class Small:
    """A device on which so many sequences fit, in training and in evaluation."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.training: float = float("inf")
        self.evaluation: float = float("inf")
        self.error = ERRORS["GPU"]
        self.failed = 0
        original = Model.forward

        def forward(model: Model, tokens: torch.Tensor, *rest: Any) -> Any:
            room = self.training if torch.is_grad_enabled() else self.evaluation
            # Some of the gradients of the parts before are there already when it fails.
            if model.training == torch.is_grad_enabled() and len(tokens) > room:
                self.failed += 1
                raise self.error()
            return original(model, tokens, *rest)

        patch.setattr(Model, "forward", forward)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Small:
    return Small(monkeypatch)


def trained(root: Path, *overrides: str) -> tuple[RunConfig, RunFolder]:
    config = settings(root, *PASSKEY, *overrides)
    assert run_here(config) == ExitCode.OK
    return config, folder_of(config)


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return checkpoints.load(folder.last_checkpoint, kind="training", run_id=folder.run_id)["state_dict"]


@pytest.mark.parametrize("kind", ERRORS)
def test_the_numbers_are_those_of_the_whole_batch(
    kind: str, small: Small, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = trained(tmp_path / "whole")[1]
    assert (whole.result() or {})["micro_batch_size"] == 8
    capfd.readouterr()
    small.training, small.error = 3, ERRORS[kind]
    cut = trained(tmp_path / "cut")[1]
    assert (cut.result() or {})["micro_batch_size"] == 2
    assert small.failed == 2, "halved twice in the first step, and never again"
    assert capfd.readouterr().err.splitlines() == [
        "warning: out of memory with 8 sequences at once: goes on with 4, the same batch",
        "warning: out of memory with 4 sequences at once: goes on with 2, the same batch",
    ]
    for name, weight in weights(whole).items():
        torch.testing.assert_close(weights(cut)[name], weight, rtol=1e-3, atol=1e-5)
    losses = [[row["loss"] for row in rows(folder, "train")] for folder in (whole, cut)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert cut.run_id == whole.run_id


def test_gradients_of_a_step_that_failed_half_way_are_taken_back(small: Small, tmp_path: Path) -> None:
    expected = trained(tmp_path / "whole", "trainer.accumulate=2", "trainer.steps=3")[1]
    calls, forward = 0, Model.forward

    def failing(model: Model, *arguments: Any) -> Any:
        nonlocal calls
        if model.training and torch.is_grad_enabled():
            calls += 1
            if calls == 2:
                raise MemoryError
        return forward(model, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Model, "forward", failing)
        folder = trained(tmp_path / "cut", "trainer.accumulate=2", "trainer.steps=3")[1]
    assert (folder.result() or {})["micro_batch_size"] == 2
    losses = [[row["loss"] for row in rows(each, "train")] for each in (expected, folder)]
    norms = [[row["grad_norm"] for row in rows(each, "train")] for each in (expected, folder)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_a_resumed_run_goes_on_with_the_smaller_size(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropout = "backbone.dropout=0.1"
    small.training = 4
    whole = trained(tmp_path / "whole", dropout)[1]
    config, steps, step = settings(tmp_path / "cut", *PASSKEY, dropout), 0, SequenceModule.training_step

    def interrupted(module: SequenceModule, batch: Any, index: int) -> None:
        nonlocal steps
        steps += 1
        if steps == 5:
            os.kill(os.getpid(), signal.SIGUSR1)
        step(module, batch, index)

    monkeypatch.setattr(SequenceModule, "training_step", interrupted)
    assert run_here(config) == ExitCode.TERMINATED
    small.failed = 0
    assert run_here(config) == ExitCode.OK
    assert not small.failed
    assert outcome(folder_of(config)) == outcome(whole)


def test_evaluation_is_halved_by_itself(small: Small, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = trained(tmp_path / "whole")[1].result() or {}
    capfd.readouterr()
    small.evaluation = 3
    original = Model.forward

    def evaluated(model: Model, *arguments: Any) -> Any:
        if not model.training and len(arguments[0]) > small.evaluation:
            small.failed += 1
            raise small.error()
        return original(model, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Model, "forward", evaluated)
        config, folder = trained(tmp_path / "cut")
        assert capfd.readouterr().err.splitlines()[:2] == [
            "warning: val: out of memory, goes on with 4 sequences at once",
            "warning: val: out of memory, goes on with 2 sequences at once",
        ]
        again = evaluate_run(config, folder)
    result = folder.result() or {}
    assert result["micro_batch_size"] == 8, "training has fitted"
    assert result["test/exact_match"] == whole["test/exact_match"]
    assert again["equal"]


def test_one_sequence_that_does_not_fit_ends_the_run(
    small: Small, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    small.training = 0
    config = settings(tmp_path, *PASSKEY)
    assert run_here(config) == ExitCode.OUT_OF_MEMORY
    assert small.failed == 4
    assert folder_of(config).state == "out_of_memory"
    assert "try a larger trainer.accumulate" in capfd.readouterr().err


def test_it_can_be_switched_off(small: Small, tmp_path: Path) -> None:
    small.training = 4
    assert run_here(settings(tmp_path, *PASSKEY, "trainer.auto_micro_batch=false")) == ExitCode.OUT_OF_MEMORY
    assert small.failed == 1


def test_other_errors_are_not_repeated(small: Small, tmp_path: Path) -> None:
    small.training, small.error = 4, lambda: RuntimeError("shapes differ")
    assert run_here(settings(tmp_path, *PASSKEY)) == ExitCode.FAILED
    assert small.failed == 1
    assert not is_out_of_memory(small.error())
