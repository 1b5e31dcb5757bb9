"""The one LightningDataModule: batches of any task, addressed by optimiser step.

This is the only file of the room that knows Lightning.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import lightning
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from data.base import Batch, Task


class TaskDataModule(lightning.LightningDataModule):
    """Feeds ``task.train_batch(step)`` to a trainer, from the trainer's current step on and without an end.

    A batch is a function of its step alone, so a resumed run goes on with the very batch that it would have
    seen, and any number of loader processes yields the same batches in the same order. Validation and test do
    not pass through here: they are ``task.evaluate``.

    Args:
        task: the task.
        batch_size: sequences in the batch of one optimiser step.
        num_workers: loader processes; 0 makes the batches in the training process.
    """

    def __init__(self, task: Task, *, batch_size: int, num_workers: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"trainer.batch_size must be 1 or more, got {batch_size}")
        if num_workers < 0:
            raise ValueError(f"trainer.num_workers must be 0 or more, got {num_workers}")
        self.task = task
        self.batch_size = batch_size
        self.num_workers = num_workers

    def prepare_data(self) -> None:
        """Encodes and caches what the task reads."""
        self.task.prepare()

    def train_dataloader(self) -> DataLoader[Batch]:
        """An endless loader that begins at the trainer's global step."""
        return DataLoader(
            _BatchOfStep(self.task, self.batch_size),
            sampler=_StepsFromNow(self),
            batch_size=None,  # what the data set yields are batches already
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )


class _BatchOfStep(Dataset[Batch]):
    """The training batches of a task, by step."""

    def __init__(self, task: Task, batch_size: int) -> None:
        self.task = task
        self.batch_size = batch_size

    def __getitem__(self, step: int) -> Batch:
        return self.task.train_batch(step, self.batch_size)


class _StepsFromNow(Sampler[int]):
    """Steps without an end; has no length, so that Lightning never believes an epoch to be over."""

    def __init__(self, module: TaskDataModule) -> None:
        self.module = module

    def __iter__(self) -> Iterator[int]:
        trainer = self.module.trainer
        return itertools.count(0 if trainer is None else trainer.global_step)
