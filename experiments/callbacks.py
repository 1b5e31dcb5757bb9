"""What happens between two training steps: metrics, validation, checkpoints, interruption."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import lightning

from experiments import checkpoints
from experiments.diagnostics import diagnose
from experiments.errors import Interrupted, first_line, warn
from experiments.evaluate import BatchSize, evaluate_split
from experiments.lightning_modules import SequenceModule
from experiments.progress import Snapshot

if TYPE_CHECKING:
    from data.base import Task
    from experiments.interrupts import Interruption
    from experiments.progress import Reporter
    from experiments.settings import TrainerConfig
    from experiments.store import RunFolder
    from experiments.tracking import Tracker


class RunCallback(lightning.Callback):
    """Watches over one run.

    One callback and not five: a run that was cut off equals one that never was because rows, validation and
    checkpoints come in one fixed order. A checkpoint at step s holds everything up to s, the validation at s
    included, unless the user stopped the run in the middle of that validation; then resuming begins with it.

    Args:
        task: what is validated on.
        folder: where rows and checkpoints go.
        config: how often.
        reporter: told about progress.
        tracker: mirror of the rows.
        interruption: asked after every step.
    """

    def __init__(
        self,
        *,
        task: Task,
        folder: RunFolder,
        config: TrainerConfig,
        reporter: Reporter,
        tracker: Tracker,
        interruption: Interruption,
    ) -> None:
        self.task, self.folder, self.config = task, folder, config
        self.reporter, self.tracker, self.interruption = reporter, tracker, interruption
        self.sizes = BatchSize.of(config)
        self.check_others: Callable[[], None] = lambda: None
        """Raises when another process of this run has died; its share of the last step is then missing."""
        self.history: list[tuple[int, float]] = []  # (step, headline metric) of every validation
        self.now = Snapshot(0, config.steps, metric_name=task.metric)
        self._seconds_before = 0.0  # of earlier attempts, as far as their work was kept
        self._attempt_started = time.monotonic()
        self._first_step = 0
        self._window_started = time.monotonic()
        self._window_tokens = 0

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and value of the best validation so far.

        The later of equals: a score that reached its ceiling says no more, but the learning rate goes on falling.
        """
        return max(reversed(self.history), key=lambda entry: self.task.merit(entry[1]), default=None)

    @property
    def wall_seconds(self) -> float:
        """Seconds that went into this run, over all attempts."""
        return self._seconds_before + time.monotonic() - self._attempt_started

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the watch."""
        return {"history": [list(entry) for entry in self.history], "seconds": self.wall_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it back."""
        self.history = [(step, value) for step, value in state_dict["history"]]
        self.now = self.now._replace(metric=self.history[-1][1] if self.history else None)
        self._seconds_before = state_dict["seconds"]

    def begin(self, step: int) -> None:
        """Says where this attempt starts; before the trainer does."""
        self._first_step = step
        self.now = self.now._replace(step=step)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Starts the clocks, and makes up for a validation that the last attempt was stopped in."""
        module = _ours(pl_module)
        self.catch_up(trainer, module)
        self._window_started, self._window_tokens = time.monotonic(), module.tokens

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """The fixed order: row, validation, checkpoint, interruption, report."""
        self.check_others()
        module, config, step = _ours(pl_module), self.config, trainer.global_step
        last = step == config.steps
        self.now = self.now._replace(step=step)
        if last or step % config.log_every == 0:
            self._log(module)
        with self._off_the_clock():
            if last or step % config.val_every == 0:
                self._validate(trainer, module)
            elif step % config.checkpoint_every == 0 or self.interruption.signal_number is not None:
                self._save(trainer, module)
        self.interruption.check()
        if self.reporter.due():
            self._preview(module)
            self._report()

    def catch_up(self, trainer: lightning.Trainer, module: SequenceModule) -> None:
        """Validates if the checkpoint was written before the validation that belongs to its step.

        Also for a checkpoint of the last step, from which Lightning starts no training any more.
        """
        step = trainer.global_step
        due = step > 0 and (step == self.config.steps or step % self.config.val_every == 0)
        if due and (not self.history or self.history[-1][0] < step):
            self._validate(trainer, module)

    def _log(self, module: SequenceModule) -> None:
        """Writes the row of the steps since the last one. Only here does training wait for the device."""
        window = module.take_window()
        now = time.monotonic()
        rate = (module.tokens - self._window_tokens) / max(now - self._window_started, 1e-9)
        self._window_started, self._window_tokens = now, module.tokens
        self.now = self.now._replace(loss=window["loss"], tokens_per_second=rate)
        self._record({"step": self.now.step, "split": "train", **window, "tokens_per_second": rate})

    def _validate(self, trainer: lightning.Trainer, module: SequenceModule) -> None:
        """Scores the validation split and keeps the weights if they are the best so far."""
        module.check_finite()
        try:
            evaluation = evaluate_split(
                module.model,
                self.task,
                "val",
                hardware=module.hardware,
                sizes=self.sizes,
                progress=self.evaluation_progress("validating"),
            )
        except Interrupted:
            self._save(trainer, module)
            raise
        value = evaluation.metrics[self.task.metric]
        is_best = self.best is None or self.task.merit(value) >= self.task.merit(self.best[1])
        self.history.append((self.now.step, value))
        self._record({"step": self.now.step, "split": "val", **evaluation.metrics})
        self._look_at_memory(module)
        if is_best:
            self._save_best(module, evaluation.metrics)
        self._save(trainer, module)
        self.now = self.now._replace(metric=value)
        self._report(important=True)

    def _look_at_memory(self, module: SequenceModule) -> None:
        """A row on the memory: two forward passes on a few sequences, the same at every validation."""
        try:
            batch = self.task.train_batch(self.config.steps, self.config.batch_size)
            diagnostics = diagnose(module.model, batch, hardware=module.hardware, curves=False)
        except Exception as error:  # never a reason to lose a run
            warn(f"no look at the memory ({first_line(error)})")
            return
        if diagnostics is not None:
            self._record({"step": self.now.step, "split": "memory", **diagnostics.summary()})

    def evaluation_progress(self, phase: str) -> Callable[[int, int], None]:
        """What ``task.evaluate`` calls now and then: reports, and lets an interruption through."""

        def progress(done: int, total: int) -> None:
            self.interruption.check()
            self.check_others()
            if self.reporter.due():
                self.reporter.report(self.now._replace(phase=f"{phase} {done / max(total, 1):.0%}"))

        return progress

    def _record(self, row: dict[str, Any]) -> None:
        """Stores and mirrors a row; the row of a validation that is made up for may be there already."""
        stored = self.folder.metrics() if self.now.step == self._first_step else []
        if (row["step"], row["split"]) not in [(old["step"], old["split"]) for old in stored]:
            self.folder.append_metrics(row)
        self.tracker.log(row)

    def _save_best(self, module: SequenceModule, metrics: dict[str, float]) -> None:
        content = {"step": self.now.step, "metrics": dict(metrics), "weights": module.model.state_dict()}
        checkpoints.save(self.folder.best_checkpoint, content, kind="weights", run_id=self.folder.run_id)

    def _save(self, trainer: lightning.Trainer, module: SequenceModule) -> None:
        """Writes the checkpoint to go on from; never one that holds NaN."""
        module.check_finite()  # waits for the device, so that a sum that was broken off is known as such
        self.check_others()
        trainer.save_checkpoint(self.folder.last_checkpoint, weights_only=False)

    def _preview(self, module: SequenceModule) -> None:
        """Before the first row there is a loss and a speed to show, too."""
        if self.now.tokens_per_second is None and module.losses:
            rate = (module.tokens - self._window_tokens) / max(time.monotonic() - self._window_started, 1e-9)
            self.now = self.now._replace(loss=float(module.losses[-1]), tokens_per_second=rate)

    def _report(self, *, important: bool = False) -> None:
        done = self.now.step - self._first_step
        spent = time.monotonic() - self._attempt_started
        eta = spent / done * (self.now.steps - self.now.step) if done else None
        self.reporter.report(self.now._replace(eta_seconds=eta), important=important)

    @contextmanager
    def _off_the_clock(self) -> Iterator[None]:
        """What happens inside is no training: it does not count in tokens per second."""
        started = time.monotonic()
        yield
        self._window_started += time.monotonic() - started


def _ours(module: lightning.LightningModule) -> SequenceModule:
    assert isinstance(module, SequenceModule)
    return module
