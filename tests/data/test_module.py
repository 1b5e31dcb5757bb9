"""The registry of tasks and the data module: exact resume, any number of loader processes."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

import data
from data.base import Batch, Task, evaluating
from data.module import TaskDataModule
from data.passkey import Passkey, PasskeyConfig, Stage

REPOSITORY = Path(__file__).parents[2]


def make_task() -> Passkey:
    return Passkey(PasskeyConfig(block_len=32, steps=10, curriculum=(Stage(1, 2, 3),)))


class Recorder(lightning.LightningModule):
    """Trains nothing worth the name and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[Tensor] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        assert isinstance(batch, Batch)
        self.seen.append(batch.tokens)
        return self.weight**2

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(steps: int) -> lightning.Trainer:
    return lightning.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def fit(steps: int, checkpoint: Path | None = None, save: Path | None = None) -> list[Tensor]:
    model, runner = Recorder(), trainer(steps)
    data_module = TaskDataModule(make_task(), batch_size=4)
    runner.fit(model, datamodule=data_module, ckpt_path=checkpoint, weights_only=True)
    if save is not None:
        runner.save_checkpoint(save)
    return model.seen


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*`isinstance.treespec, LeafSpec.` is deprecated")
def test_a_resumed_run_sees_the_batches_it_would_have_seen(tmp_path: Path) -> None:
    whole = fit(7)
    assert [len(tokens) for tokens in whole] == [4] * 7
    first = fit(3, save=tmp_path / "cut.ckpt")
    rest = fit(7, checkpoint=tmp_path / "cut.ckpt")
    assert len(rest) == 4
    assert all(torch.equal(*pair) for pair in zip(whole, first + rest, strict=True))


def take(num_workers: int) -> list[Batch]:
    loader = TaskDataModule(make_task(), batch_size=4, num_workers=num_workers).train_dataloader()
    return list(islice(loader, 5))


def test_loader_processes_change_nothing() -> None:
    task = make_task()
    for step, (alone, shared) in enumerate(zip(take(0), take(2), strict=True)):
        expected = task.train_batch(step, 4)
        for batch in (alone, shared):
            assert isinstance(batch, Batch)
            assert torch.equal(batch.tokens, expected.tokens)
            assert torch.equal(batch.targets, expected.targets)
            assert batch.mask is None


def test_loader_has_no_end() -> None:
    with pytest.raises(TypeError):
        len(TaskDataModule(make_task(), batch_size=4).train_dataloader())


def test_wrong_numbers_get_one_clear_line() -> None:
    with pytest.raises(ValueError, match=r"trainer.batch_size must be 1 or more, got 0"):
        TaskDataModule(make_task(), batch_size=0)
    with pytest.raises(ValueError, match=r"trainer.num_workers must be 0 or more, got -1"):
        TaskDataModule(make_task(), batch_size=1, num_workers=-1)


# The registry


def test_every_task_is_two_files() -> None:
    assert {"lra_text", "passkey"} <= set(data.available())
    for name in data.available():
        assert data.task_class(name).name == name
        options: Any = OmegaConf.to_container(OmegaConf.load(REPOSITORY / "conf" / "task" / f"{name}.yaml"))
        assert options["name"] == name
        assert set(options["scales"]) == {"smoke", "laptop", "paper"}
        assert len({frozenset(column) for column in options["scales"].values()}) == 1  # columns of one table
        names = {field.name for field in dataclasses.fields(data.config_class(name))}
        assert set(options) - {"name", "scales"} == names  # every option is visible in the yaml


@pytest.mark.parametrize("scale", ["smoke", "laptop", "paper"])
@pytest.mark.parametrize("name", data.available())
def test_every_column_makes_a_task(name: str, scale: str, tmp_path: Path) -> None:
    task = OmegaConf.load(REPOSITORY / "conf" / "task" / f"{name}.yaml")
    size = OmegaConf.select(task, f"scales.{scale}")
    composed = OmegaConf.create({"task": task, "size": size, "trainer": {"steps": size.steps}})
    resolved: Any = OmegaConf.to_container(composed, resolve=True)
    options = {key: value for key, value in resolved["task"].items() if key not in ("name", "scales")}
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(data.config_class(name)), options))
    assert data.build_task(name, config, cache=tmp_path).config == config


@pytest.mark.parametrize("name", data.available())
def test_every_task_keeps_the_contract(name: str, tmp_path: Path) -> None:
    task = data.build_task(name, cache=tmp_path, seed=1)
    assert isinstance(task, Task)
    assert "Task card" in task.card
    assert "Example" in task.card
    assert task.kind in ("classify", "pair", "next_token")
    assert (task.num_classes is None) == (task.kind == "next_token")
    assert task.vocab_size > 1
    assert task.max_len >= 1
    assert task.metric
    assert all(0 <= floor <= 1 for floor in task.floors.values())
    with pytest.raises(ValueError, match=f"task {name}: config must be of type"):
        data.build_task(name, {"seq_len": 3})
    with pytest.raises(ValueError, match="seed must be 0 or more, got -1"):
        data.build_task(name, seed=-1)


def test_unknown_tasks_are_answered_with_a_guess() -> None:
    with pytest.raises(ValueError, match=r"unknown task 'passkeys'. Did you mean 'passkey'\? Available: lra_"):
        data.config_class("passkeys")


def test_listing_the_tasks_loads_nothing_heavy() -> None:
    program = "import sys, data; data.available(); print({'torch', 'pyarrow', 'lightning'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "set()"


def test_evaluating_puts_the_model_back_even_after_an_error() -> None:
    model: Any = torch.nn.Dropout()

    def fail() -> None:
        with evaluating(model):
            assert not model.training
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert model.training
    assert torch.is_grad_enabled()
