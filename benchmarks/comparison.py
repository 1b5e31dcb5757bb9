"""What a comparison is made of: sizes, candidates that take one training step, goals for their ratios."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

import models
from experiments.measure import Step


class Shape(NamedTuple):
    """Sizes of one step."""

    batch: int = 4
    length: int = 4096
    width: int = 128
    num_heads: int = 4
    segment: int = 512
    slots: int = 64

    @property
    def num_tokens(self) -> int:
        """Tokens of the step."""
        return self.batch * self.length

    @property
    def ffn_width(self) -> int:
        """Of the feed-forward."""
        return 4 * self.width

    def config(self, positions: str = "none") -> models.BackboneConfig:
        """The backbone's share of these sizes."""
        return models.BackboneConfig(
            width=self.width, num_heads=self.num_heads, ffn_width=self.ffn_width, positions=positions
        )


class Candidate(NamedTuple):
    """A module to be measured: from vectors [B, T, D], or token ids [B, T], to one tensor or several."""

    build: Callable[[Shape], nn.Module]
    shape: Shape
    vocab_size: int | None = None
    """Number of ids, for a module that reads ids."""
    compiled: bool = False

    def module(self) -> nn.Module:
        """The same weights each time."""
        torch.manual_seed(0)
        module = self.build(self.shape)
        return torch.compile(module) if self.compiled else module  # type: ignore[return-value]

    def tokens(self) -> Tensor:
        """The same input each time."""
        generator = torch.Generator().manual_seed(1)
        size = (self.shape.batch, self.shape.length)
        if self.vocab_size:
            return torch.randint(self.vocab_size, size, generator=generator)
        return torch.randn(*size, self.shape.width, generator=generator)

    def step(self) -> Step:
        """One training step: forward, backward into the weights and into the vectors below."""
        module, x = self.module(), self.tokens()
        x.requires_grad_(x.is_floating_point())
        gradient: list[Tensor] = []

        def run() -> None:
            outputs = as_tuple(module(x))
            gradient[:] = gradient or [torch.full_like(output, 1e-3) for output in outputs]
            torch.autograd.backward(outputs, gradient)
            module.zero_grad(set_to_none=True)
            x.grad = None

        return run


def outputs(candidate: Candidate) -> tuple[Tensor, ...]:
    """What a candidate computes for an input of four whole segments (some peers refuse a part of one)."""
    short = candidate._replace(shape=candidate.shape._replace(batch=1, length=4 * candidate.shape.segment))
    with torch.no_grad():
        return as_tuple(short.module()(short.tokens()))


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """One output, or several, as several."""
    return (outputs,) if isinstance(outputs, Tensor) else outputs


class Goal(NamedTuple):
    """Ours over theirs, per token: at most so much time and so much added memory. None: only recorded."""

    ours: str
    theirs: str
    time: float | None
    memory: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Candidates that take turns, and what is asked of their ratios."""

    about: str
    candidates: dict[str, Candidate]
    goals: tuple[Goal, ...]
    rounds: int = 15
    same: tuple[tuple[str, str], ...] = ()
    """Pairs that must compute the same numbers."""
    packages: tuple[str, ...] = ()
    """Peers whose versions belong in the record."""

    @property
    def reference_shape(self) -> Shape:
        """Sizes of the reference step: the first candidate's."""
        return next(iter(self.candidates.values())).shape

    @property
    def weighed(self) -> tuple[str, ...]:
        """Candidates whose memory is measured: those of goals that speak of it."""
        named = {name for goal in self.goals if goal.memory is not None for name in goal[:2]}
        return tuple(name for name in self.candidates if name in named)
