"""One optimiser step, for every kind of task.

The step is a pure function of (weights, optimiser, seed, step): the batch depends on (seed, step) only, it is cut into
parts, and the random generator is seeded anew for each of them. That is all there is to exact resume (no generator's
state is ever saved), and to sharing the parts among devices: it makes no difference which of them computes which.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import lightning
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn import functional

from experiments.errors import DivergedError, is_out_of_memory, warn
from experiments.finite import find_non_finite
from experiments.hardware import Hardware, free_memory
from experiments.optim import learning_rate, make_optimizer, set_learning_rate
from experiments.ranks import Ranks

if TYPE_CHECKING:
    from data.base import Batch
    from experiments.settings import TrainerConfig

_MASK = (1 << 64) - 1


def derive_seed(seed: int, *path: int) -> int:
    """A well-mixed seed for one purpose (SplitMix64), so that neighbouring seeds and steps share nothing."""
    mixed = 0
    for part in (seed, *path):
        mixed = (mixed + part + 0x9E3779B97F4A7C15) & _MASK
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        mixed ^= mixed >> 31
    return mixed >> 1  # some generators want a signed 64-bit number


class SequenceModule(lightning.LightningModule, ABC):
    """What training shares over all kinds of tasks. A subclass says what the loss of a batch is.

    Optimisation is manual in Lightning's sense: a step owns its whole batch, cuts it into parts and sees the norm of
    the gradient; and it spares Lightning's closures at every step. A part that does not fit into memory is cut further.

    Args:
        model: ``(tokens, mask, state) -> (logits, state)``.
        trainer_config: optimiser, schedule and length of the run.
        hardware: precision of the forward passes.
        seed: of the run.
    """

    def __init__(self, model: nn.Module, trainer_config: TrainerConfig, *, hardware: Hardware, seed: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model: Any = model  # more than a Module: see models.Model
        self.trainer_config = trainer_config
        self.hardware = hardware
        self.seed = seed
        self.ranks = Ranks()
        self.part_size = trainer_config.batch_size // trainer_config.parts
        self.micro_batch_size = self.part_size
        """Sequences that go through the model at once."""
        # Of the steps since the last row of metrics. They stay on the device, so that no step waits for it.
        self.losses: list[Tensor] = []
        self.gradient_norms: list[Tensor] = []
        # Of the whole run, all ranks: forward and backward passes by shape of a part's tokens, and tokens, padding too.
        self.passes: Counter[tuple[int, ...]] = Counter()
        self.tokens = 0
        # A function and no submodule: the weights keep their own names, and evaluation runs uncompiled.
        self.run_model: Any = torch.compile(model.forward) if trainer_config.compile else model.forward

    @abstractmethod
    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Sum of the weighted losses of a part of a batch."""

    @abstractmethod
    def normaliser(self, batch: Batch) -> float:
        """What the sum over a whole batch is divided by."""

    def learning_rate(self, step: int) -> float:
        """Learning rate of a step."""
        config = self.trainer_config
        return learning_rate(
            step,
            peak=config.learning_rate,
            steps=config.steps,
            warmup_steps=config.warmup_steps,
            schedule=config.schedule,
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over the model's own parameter groups."""
        config = self.trainer_config
        groups = self.model.parameter_groups(config.weight_decay)
        return make_optimizer(groups, betas=(config.beta1, config.beta2), device_type=self.hardware.device)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One optimiser step on one global batch."""
        step, optimizer = self.trainer.global_step, self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        loss = self._backward(batch, step)
        if self.ranks.size > 1:
            loss, fits = self.ranks.sum_gradients(self.model.parameters(), loss, self.micro_batch_size)
            self.ranks.share_buffers(self.model)
            self._shrink_to(fits)
        limit = self.trainer_config.clip_norm
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), float("inf") if limit is None else limit)
        if self.ranks.rank == 0:  # the only one that writes rows
            self.losses.append(loss)
            self.gradient_norms.append(norm)
            self._count(batch)
        if self.hardware.device == "cpu" and not math.isfinite(norm):  # elsewhere, each step would wait for the answer
            self._refuse(step, batch)
        set_learning_rate(optimizer.optimizer, self.learning_rate(step))
        optimizer.step()
        optimizer.zero_grad()

    def _backward(self, batch: Batch, step: int) -> Tensor:
        """Adds the gradients of this rank's parts, as small as they must be to fit. Returns the sum of their losses."""
        while True:
            try:
                return self._backward_parts(batch, step)
            except Exception as error:
                can_shrink = self.trainer_config.auto_micro_batch and self.micro_batch_size > 1
                if not can_shrink or not is_out_of_memory(error):
                    raise
            # Behind the except, where the error no longer holds on to the activations.
            for parameter in self.model.parameters():
                parameter.grad = None
            free_memory()
            self._shrink_to((self.micro_batch_size + 1) // 2)

    def _backward_parts(self, batch: Batch, step: int) -> Tensor:
        """The last part comes first: what the first sequence leaves in the model must not reach the others."""
        parts = list(split_batch(batch, self.trainer_config.parts))
        normaliser, losses, state = self.normaliser(batch), [], None
        for index in reversed(self.ranks.own(len(parts))):
            # The first part draws what an undivided batch does.
            torch.manual_seed(derive_seed(self.seed, step, *([index] if index else [])))
            part_seed = derive_seed(derive_seed(self.seed, step), index)
            pieces = list(enumerate(cut_batch(parts[index], self.micro_batch_size)))
            for number, piece in reversed(pieces):
                seed = derive_seed(part_seed, number) if number else part_seed
                loss, state = self._forward(piece, seed=seed, step=step)
                loss = loss / normaliser
                self.manual_backward(loss)
                losses.append(loss.detach())
        if self.ranks.rank == 0:
            self.model.remember(state)  # after the backward pass, which still reads what is overwritten here
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _shrink_to(self, size: int) -> None:
        """Lets no more sequences through the model at once from here on."""
        if size < self.micro_batch_size:
            warn(f"out of memory with {self.micro_batch_size} sequences at once: goes on with {size}, the same batch")
            self.micro_batch_size = size

    def _count(self, batch: Batch) -> None:
        """Adds a batch to what the run has cost."""
        self.passes[(self.part_size, *batch.tokens.shape[1:])] += self.trainer_config.parts
        self.tokens += batch.tokens.numel()

    def _forward(self, batch: Batch, *, seed: int, step: int) -> tuple[Tensor, Any]:
        """Summed loss of a part of a batch, and the state after it; autocast stays out of the backward pass."""
        size = len(batch.targets)
        with self.hardware.autocast():
            state = self.model.training_state(size, seed=seed, progress=step / self.trainer_config.steps)
            logits, state = self.run_model(batch.tokens, batch.mask, state)
        return self.loss(logits.float(), batch), state

    def _refuse(self, step: int, batch: Batch) -> None:
        """Stops before the weights are touched, so that the place can still be found."""
        torch.manual_seed(derive_seed(self.seed, step))
        with self.hardware.autocast():
            self.check_finite(step + 1, where=find_non_finite(self.model, batch) or "the backward pass")

    def check_finite(self, last_step: int | None = None, *, where: str | None = None) -> None:
        """Looks at all steps since the last row.

        Args:
            last_step: the last of them; default: the trainer's.
            where: what is known of the place.

        Raises:
            DivergedError: a loss or a gradient was NaN or infinite; names the first such step.
        """
        if not self.losses:
            return
        losses, norms = torch.stack(self.losses), torch.stack(self.gradient_norms)
        finite = losses.isfinite() & norms.isfinite()
        if bool(finite.all()):
            return
        index = int((~finite).nonzero()[0])
        what, value = ("loss", losses[index]) if not losses[index].isfinite() else ("gradient", norms[index])
        last_step = self.trainer.global_step if last_step is None else last_step
        step = last_step - len(self.losses) + index + 1
        place = f", first in {where}" if where else ""
        raise DivergedError(
            f"{what} is {float(value)} at step {step}{place} (learning rate {self.learning_rate(step - 1):.3g}): "
            "try a lower trainer.learning_rate, more trainer.warmup_steps or a smaller trainer.clip_norm"
        )

    def take_window(self) -> dict[str, float]:
        """Mean loss since the last row, and the last gradient norm and learning rate; starts a new window."""
        self.check_finite()
        row = {
            "loss": float(torch.stack(self.losses).double().mean()),
            "grad_norm": float(self.gradient_norms[-1]),
            "learning_rate": self.learning_rate(self.trainer.global_step - 1),
        }
        self.losses, self.gradient_norms = [], []
        return row

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what the row of metrics that is being collected needs, as plain numbers."""
        checkpoint["window"] = {
            "losses": [float(loss) for loss in self.losses],
            "gradient_norms": [float(norm) for norm in self.gradient_norms],
            "passes": [[list(shape), count] for shape, count in self.passes.items()],
            "tokens": self.tokens,
            "micro_batch_size": self.micro_batch_size,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes it back."""
        window, device = checkpoint["window"], self.hardware.device  # Lightning has not moved the module there yet
        self.losses = [torch.tensor(loss, device=device) for loss in window["losses"]]
        self.gradient_norms = [torch.tensor(norm, device=device) for norm in window["gradient_norms"]]
        self.passes = Counter({tuple(shape): count for shape, count in window["passes"]})
        self.tokens = window["tokens"]
        self.micro_batch_size = window.get("micro_batch_size", self.part_size)  # of before it was kept


class ClassifyModule(SequenceModule):
    """Classifies a sequence or a pair of sequences."""

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Sum of the cross-entropies."""
        return functional.cross_entropy(logits, batch.targets, reduction="sum")

    def normaliser(self, batch: Batch) -> float:
        """Number of examples."""
        return float(len(batch.targets))


class NextTokenModule(SequenceModule):
    """Predicts the next token."""

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Sum of the weighted cross-entropies of all tokens."""
        each = functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
        weights = batch.mask if batch.weights is None else batch.weights
        return each.sum() if weights is None else (each * weights.flatten()).sum()

    def normaliser(self, batch: Batch) -> float:
        """Number of sequences when targets are weighted (to the same sum in each sequence), else of tokens."""
        if batch.weights is not None:
            return float(len(batch.targets))
        return float(batch.targets.numel() if batch.mask is None else batch.mask.sum())


def make_module(
    kind: str, model: nn.Module, trainer_config: TrainerConfig, *, hardware: Hardware, seed: int
) -> SequenceModule:
    """The module for a task's ``kind``."""
    cls = NextTokenModule if kind == "next_token" else ClassifyModule
    return cls(model, trainer_config, hardware=hardware, seed=seed)


def split_batch(batch: Batch, parts: int) -> Iterator[Batch]:
    """Cuts a batch into parts of equal size."""
    assert len(batch.targets) % parts == 0, (len(batch.targets), parts)
    return cut_batch(batch, len(batch.targets) // parts)


def cut_batch(batch: Batch, size: int) -> Iterator[Batch]:
    """Cuts a batch into pieces of ``size`` sequences; the last may be smaller."""
    if size >= len(batch.targets):
        yield batch
        return
    for start in range(0, len(batch.targets), size):
        fields: list[Any] = [None if field is None else field[start : start + size] for field in batch]
        yield type(batch)(*fields)
