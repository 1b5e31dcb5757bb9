"""Scoring a model: one function for validation, the test at the end of training, and ``mode=eval``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from experiments import checkpoints
from experiments.config import build_model, build_task
from experiments.errors import ConfigError, is_out_of_memory, warn
from experiments.finite import reporting_non_finite
from experiments.hardware import Hardware, free_memory
from experiments.progress import Snapshot, make_display

if TYPE_CHECKING:
    from data.base import Evaluation, Progress, Task
    from experiments.config import RunConfig
    from experiments.settings import TrainerConfig
    from experiments.store import RunFolder


@dataclass
class BatchSize:
    """Sequences that are evaluated at once; shrinks when they do not fit."""

    now: int
    is_automatic: bool = True

    @classmethod
    def of(cls, config: TrainerConfig) -> BatchSize:
        """As many as in a part of a training batch, which takes more memory."""
        return cls(config.batch_size // config.parts, config.auto_micro_batch)

    @property
    def may_shrink(self) -> bool:
        """Whether a smaller one is worth a try."""
        return self.is_automatic and self.now > 1


def evaluate_split(
    model: nn.Module,
    task: Task,
    split: Literal["val", "test"],
    *,
    hardware: Hardware,
    sizes: BatchSize,
    progress: Progress | None = None,
) -> Evaluation:
    """Scores a model on a split, on the device and in the precision of the run.

    A split that does not fit into memory is begun again in batches of half the size.
    """
    while True:
        try:
            with hardware.autocast(), reporting_non_finite(model, lambda text: warn(f"{split}: {text}")):
                return task.evaluate(model, split, batch_size=sizes.now, device=hardware.device, progress=progress)
        except Exception as error:
            if not sizes.may_shrink or not is_out_of_memory(error):
                raise
        sizes.now = (sizes.now + 1) // 2
        warn(f"{split}: out of memory, goes on with {sizes.now} sequences at once")
        free_memory()


def tested_fields(evaluation: Evaluation) -> dict[str, Any]:
    """The fields ``test/…`` of a result, with the number of examples."""
    fields: dict[str, Any] = {f"test/{name}": value for name, value in evaluation.metrics.items()}
    return {**fields, "test/n": sum(int(row["n"]) for row in evaluation.slices)}


def evaluate_run(config: RunConfig, folder: RunFolder) -> dict[str, Any]:
    """Tests the best checkpoint of a stored run again, and prints the new numbers beside the stored ones.

    On the machine that trained the run they are equal.

    Args:
        config: the settings that the run was stored with.
        folder: the run; nothing in it is changed.

    Returns:
        ``metrics`` (now), ``stored`` (as in result.json) and ``equal``.

    Raises:
        CheckpointError: the best checkpoint is missing, torn or of another run.
        ConfigError: the data found now are not those that the run was trained on.
    """
    stored = folder.result() or {}
    hardware = Hardware.choose(config.trainer.device, config.trainer.precision)
    torch.set_num_threads(config.trainer.threads)
    task = build_task(config)
    _check_data(task, stored)
    task.prepare()
    best = checkpoints.load(folder.best_checkpoint, kind="weights", run_id=folder.run_id)
    model = build_model(config, task)
    checkpoints.load_weights(model, best["weights"], folder.best_checkpoint)
    model.to(hardware.device)

    now = Snapshot(best["step"], config.trainer.steps)
    with make_display(config.trainer.progress, config.label) as display:

        def progress(done: int, total: int) -> None:
            display.show(now._replace(phase=f"testing {done / max(total, 1):.0%}"))

        sizes = BatchSize.of(config.trainer)
        test = evaluate_split(model, task, "test", hardware=hardware, sizes=sizes, progress=progress)
    metrics = tested_fields(test)
    before = {name: stored[name] for name in metrics if name in stored}
    _print_comparison(folder, metrics, before, source=task.locate().name)
    return {"metrics": metrics, "stored": before, "equal": metrics == before}


def _check_data(task: Task, stored: dict[str, Any]) -> None:
    source = task.locate()
    if stored and (source.name, source.checksum) != (stored["data_source"], stored["data_checksum"]):
        raise ConfigError(
            f"the run was trained on {stored['data_source']} ({stored['data_checksum'][:12]}), but found now was "
            f"{source.name} ({source.checksum[:12]}): set data.root or MEMATTN_DATA to the same data"
        )


def _print_comparison(folder: RunFolder, metrics: dict[str, Any], stored: dict[str, Any], *, source: str) -> None:
    width = max(map(len, metrics))
    print(f"{folder.run_id} on {source}\n  {'':{width}}  {'now':>12}  {'stored':>12}")
    for name, value in metrics.items():
        old = f"{stored[name]:.6g}" if name in stored else "-"
        differs = "  differs" if stored.get(name, value) != value else ""
        print(f"  {name:{width}}  {value:>12.6g}  {old:>12}{differs}")
