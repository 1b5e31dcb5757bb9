"""Scoring a model: one function for validation, the test at the end of training, and ``mode=eval``."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from experiments import checkpoints
from experiments.config import build_model, build_run_config, build_task, to_plain
from experiments.errors import ConfigError, is_out_of_memory, unknown, warn
from experiments.finite import reporting_non_finite
from experiments.hardware import Hardware, free_memory, git_sha, hardware_line, peak_memory_bytes
from experiments.preflight import check_run
from experiments.progress import Snapshot, make_display
from experiments.store import write_atomically

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


def evaluate_run(config: RunConfig, folder: RunFolder, *, test: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Tests the best checkpoint of a stored run again, and prints the new numbers beside the stored ones.

    On the machine that trained the run they are equal.

    Args:
        config: the settings that the run was stored with.
        folder: the run. Nothing that is in it is changed.
        test: options of the task that only say what is tested (``eval_…``), and their values instead of the stored
            ones. What comes out is then kept beside the run, in ``tests/<digits>.json``.

    Returns:
        ``metrics`` (now), ``stored`` (as in result.json) and ``equal``; another test has nothing stored to
        compare with.

    Raises:
        CheckpointError: the best checkpoint is missing, torn or of another run.
        ConfigError: the data found now are not those that the run was trained on, or the task has no such test.
    """
    stored = folder.result() or {}
    _check_data(build_task(config), stored)
    if test:
        config = _with_test(config, test)
    hardware = Hardware.choose(config.trainer.device, config.trainer.precision)
    torch.set_num_threads(config.trainer.threads)
    task = build_task(config)
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
        started = time.perf_counter()
        found = evaluate_split(model, task, "test", hardware=hardware, sizes=sizes, progress=progress)
        seconds = time.perf_counter() - started
    metrics = tested_fields(found)
    before = {name: stored[name] for name in metrics if name in stored and not test}  # another test asks other things
    _print_comparison(folder, metrics, before, source=task.locate().name)
    if test:
        _keep(folder, test, {**metrics, "wall_seconds": seconds}, found, hardware)
    return {"metrics": metrics, "stored": before, "equal": metrics == before}


def _with_test(config: RunConfig, test: Mapping[str, Any]) -> RunConfig:
    """The settings of the run, with another test."""
    known = [item.name for item in fields(config.task.options) if item.name.startswith("eval_")]
    for name in test:
        if name not in known:
            raise ConfigError(f"task={config.task.name}: {unknown('test option', name, known)}")
    plain = to_plain(config)
    plain["task"].update(test)
    changed = build_run_config(plain)
    check_run(changed)
    return changed


def _keep(
    folder: RunFolder, test: Mapping[str, Any], metrics: dict[str, Any], found: Evaluation, hardware: Hardware
) -> None:
    """Writes what another test than the run's own gave, beside the run."""
    name = hashlib.sha256(json.dumps(test, sort_keys=True, default=str).encode()).hexdigest()[:10]
    path = folder.path / "tests" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    where = {
        "peak_memory_bytes": peak_memory_bytes(hardware.device),
        "device": hardware.device,
        "hardware": hardware_line(hardware.device),
        "torch": torch.__version__,
        "git_sha": git_sha(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    content = {"run_id": folder.run_id, "options": dict(test), **metrics, **where, "slices": found.slices}
    write_atomically(path, json.dumps(content, indent=2) + "\n")
    print(f"  kept in {path}")


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
