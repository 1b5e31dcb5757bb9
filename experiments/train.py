"""One run from its settings to its result: train, keep the best by validation, test that once."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

import lightning
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities.exceptions import SIGTERMException

from data.module import TaskDataModule
from experiments import checkpoints
from experiments.callbacks import RunCallback
from experiments.config import RunConfig, build_model, build_task
from experiments.diagnostics import diagnose, draw_diagnostics, write_diagnostics
from experiments.errors import first_line, warn
from experiments.evaluate import evaluate_split, tested_fields
from experiments.flops import train_flops
from experiments.hardware import Hardware, hardware_line, peak_memory_bytes
from experiments.interrupts import Interruption
from experiments.lightning_modules import SequenceModule, derive_seed, make_module
from experiments.progress import Reporter, make_display
from experiments.tracking import Tracker, open_tracker
from models.probe import without_memory

if TYPE_CHECKING:
    from data.base import Task
    from experiments.store import RunFolder

#: Path of the seed that the weights are drawn with; no step is ever so far.
_INITIALISATION = 1 << 48

_MILESTONES = 8


def train(config: RunConfig, folder: RunFolder) -> dict[str, Any]:
    """Trains, validates and tests one run, going on from its last checkpoint if there is one.

    Killed at any moment and called again, it ends on a CPU with the numbers of a run that was never cut, bit for
    bit. Call it under ``folder.lock()``.

    Args:
        config: the run's settings.
        folder: where everything is stored but the result itself, which the caller writes.

    Returns:
        The fields of result.json that training knows: scores, milestones and costs.

    Raises:
        CheckpointError: a checkpoint cannot be read or written.
        DivergedError: a loss or gradient is NaN or infinite.
        Interrupted: a signal asked to stop (experiments/interrupts.py says which); a checkpoint is kept, of the last
            step or at most ``trainer.checkpoint_every`` steps before.
    """
    hardware = Hardware.choose(config.trainer.device, config.trainer.precision)
    torch.set_num_threads(config.trainer.threads)
    task = build_task(config)
    task.prepare()
    module = _build_module(config, task, hardware)
    with Interruption() as interruption, make_display(config.trainer.progress, config.label) as display:
        reporter = Reporter(display, folder)
        with open_tracker(config, folder, _facts(task, module)) as tracker:
            callback = RunCallback(
                task=task,
                folder=folder,
                config=config.trainer,
                reporter=reporter,
                tracker=tracker,
                interruption=interruption,
            )
            display.note(_headline(task, module))
            _fit(config, folder, task, module, callback)
            result = _finish(config, folder, task, module, callback, tracker)
            if tracker.hint:
                display.note(tracker.hint)
    return result


def _build_module(config: RunConfig, task: Task, hardware: Hardware) -> SequenceModule:
    """The model with its first weights, which are a function of the seed."""
    torch.manual_seed(derive_seed(config.seed, _INITIALISATION))
    model = build_model(config, task)
    return make_module(task.kind, model, config.trainer, hardware=hardware, seed=config.seed)


def _fit(config: RunConfig, folder: RunFolder, task: Task, module: SequenceModule, callback: RunCallback) -> None:
    """Trains from the last checkpoint, or from the start, to the last step."""
    resume, done = checkpoints.find_start(folder)
    folder.trim_metrics(done)
    callback.begin(done)
    if done:
        callback.reporter.display.note(f"goes on at step {done}")
    _quieten()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        warnings.filterwarnings("ignore", module=r"torch\.utils\.data")
        trainer = lightning.Trainer(
            accelerator="gpu" if module.hardware.device == "cuda" else module.hardware.device,
            devices=1,
            max_steps=config.trainer.steps,
            max_epochs=-1,
            callbacks=[callback],
            # This process is the whole job: Lightning is not to read what a scheduler put into the environment.
            plugins=[LightningEnvironment(), checkpoints.RunCheckpointIO(folder.run_id)],
            default_root_dir=folder.path,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        size, num_workers = config.trainer.batch_size, config.trainer.num_workers
        batches = TaskDataModule(task, batch_size=size, num_workers=num_workers)
        try:
            trainer.fit(module, datamodule=batches, ckpt_path=resume, weights_only=True)
        except SIGTERMException:  # Lightning saw the signal after our last look
            callback.interruption.check()
            raise
        except RuntimeError as error:
            if "DataLoader worker" in str(error):  # which got the signal, too, and ended of it
                callback.interruption.check()
            raise
    module.to(module.hardware.device)  # from where Lightning takes it away when it is done
    callback.catch_up(trainer, module)


def _quieten() -> None:
    """Lightning's hints and advertisements would bury our own lines."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _finish(
    config: RunConfig,
    folder: RunFolder,
    task: Task,
    module: SequenceModule,
    callback: RunCallback,
    tracker: Tracker,
) -> dict[str, Any]:
    """Tests the best checkpoint, looks into its memory, and collects the result."""
    best = checkpoints.load(folder.best_checkpoint, kind="weights", run_id=folder.run_id)
    checkpoints.load_weights(module.model, best["weights"], folder.best_checkpoint)
    test = evaluate_split(
        module.model,
        task,
        "test",
        config=config.trainer,
        hardware=module.hardware,
        progress=callback.evaluation_progress("testing"),
    )
    folder.write_slices(test.slices)
    memory = _look_at_memory(config, folder, task, module, callback, tracker)
    result = {
        **{f"val/{name}": value for name, value in best["metrics"].items()},
        **tested_fields(test),
        **memory,
        "steps": config.trainer.steps,
        "best_step": best["step"],
        "milestones": _milestones(callback.history),
        **{f"floor/{name}": value for name, value in task.floors.items()},  # some are measured on the prepared data
        **_facts(task, module),
        **_costs(folder, module, callback),
    }
    tracker.log_result(result)
    return result


def _facts(task: Task, module: SequenceModule) -> dict[str, Any]:
    """What is known about the model before it is trained."""
    return {
        "num_params": module.model.num_parameters(),
        "state_size": module.model.state_size(task.max_len),
        "device": module.hardware.device,
        "precision": module.hardware.precision,
    }


def _costs(folder: RunFolder, module: SequenceModule, callback: RunCallback) -> dict[str, Any]:
    """What the training took. The speed is the median over rows: no start-up, no hiccup of the machine."""
    rates = sorted(row["tokens_per_second"] for row in folder.metrics() if row["split"] == "train")
    return {
        "train_tokens": module.tokens,
        "train_flops": train_flops(module.model, module.passes),
        "tokens_per_second": rates[len(rates) // 2] if rates else None,
        "peak_memory_bytes": peak_memory_bytes(module.hardware.device),
        "wall_seconds": callback.wall_seconds,
        "attempts": folder.attempt,
        "hardware": hardware_line(module.hardware.device),
    }


def _milestones(history: list[tuple[int, float]]) -> list[list[float]]:
    """A few validations along the way, the last included: what somebody who repeats the run should see."""
    count = min(_MILESTONES, len(history))
    places = [round((index + 1) * len(history) / count) - 1 for index in range(count)]
    return [list(history[place]) for place in places]


def _headline(task: Task, module: SequenceModule) -> str:
    facts = _facts(task, module)
    size = f"{facts['num_params']:,} parameters, {facts['state_size']:,} numbers of state after {task.max_len} tokens"
    return f"{size}, {facts['device']} in {facts['precision']}, data: {task.locate().name}"


def _look_at_memory(
    config: RunConfig, folder: RunFolder, task: Task, module: SequenceModule, callback: RunCallback, tracker: Tracker
) -> dict[str, float]:
    """How the memory looks and what it is worth; never a reason to lose a run.

    Returns:
        ``memory/…``, measured on the batch that would come next (stored and drawn in full beside), and
        ``val/…_without_memory``: the headline metric when nothing is read from the memory, on the validation split, as
        the test split is touched once.
    """
    try:
        batch = task.train_batch(config.trainer.steps, config.trainer.batch_size)
        diagnostics = diagnose(module.model, batch, hardware=module.hardware)
        if diagnostics is None:
            return {}
        picture = folder.diagnostics_file.with_suffix(".png")
        write_diagnostics(diagnostics, folder.diagnostics_file)
        draw_diagnostics(diagnostics, f"{config.label}: memory by layer", picture)
        tracker.log_image("memory", picture)
        with without_memory(module.model):
            forgetful = evaluate_split(
                module.model,
                task,
                "val",
                config=config.trainer,
                hardware=module.hardware,
                progress=callback.evaluation_progress("testing without memory"),
            )
    except Exception as error:
        warn(f"no diagnostics ({first_line(error)})")
        return {}
    return {
        **{f"memory/{name}": value for name, value in diagnostics.summary().items()},
        f"val/{task.metric}_without_memory": forgetful.metrics[task.metric],
    }
