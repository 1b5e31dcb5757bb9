"""Looking at a memory at work: how sharply it is read and written, what it is worth, and a model without it.

Nothing is measured unless asked for: :func:`observe` gives each layer a :class:`Probe`, and the blocks record there
what their fused attention does not show. :func:`without_memory` switches the reading off: tokens get nothing from the
memory, which is written as before. Both leave the model as it was.

| measure | what it says |
|---|---|
| ``read_entropy`` | how tokens spread their reading over the memory: 0 one row, 1 all rows alike |
| ``read_share`` | how much of a token's attention falls on the memory, where it stands beside other keys |
| ``write_entropy`` | how a memory row spreads its writing over what it reads: 0 one token, 1 all alike |
| ``keep_share`` | how much of a writing row's attention falls on the memory before |
| ``gate`` | what a learned gate gives to the memory (``infini``), or to the update (``fam`` with gates) |
| ``write_gate`` | how much of a token a learned gate writes (``infini`` with gates) |

Entropies are shares of the greatest possible, the logarithm of the number of rows, so that memories of any size
compare; where there is one row only, there is nothing to say (NaN).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

if TYPE_CHECKING:
    from models.backbone import Model
    from models.block import MemoryBlock
    from models.recurrence import StackRecurrence

EVERYTHING = slice(None)


class Probe:
    """Measures of one layer, each a mean over sequences, queries and calls: ``[H]``, or ``[F]`` for gates of slots."""

    def __init__(self) -> None:
        self.rows: Tensor | None = None
        """The memory after the last call, ``[B, M, D2]``; None where the layer keeps none."""
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def means(self) -> dict[str, Float[Tensor, " H"]]:
        """Of all calls so far."""
        return {name: total / self._counts[name] for name, total in self._sums.items()}

    @torch.no_grad()
    def softmax(
        self,
        verb: str,
        q: Float[Tensor, "B H Q d"],
        k: Float[Tensor, "B2 H K d"],
        *,
        scale: float | None = None,
        mask: Float[Tensor, "Q K"] | None = None,
        memory: slice = EVERYTHING,
    ) -> None:
        """Softmax attention as ``kernels.softmax.attention`` computes it. All scores are computed once more.

        Args:
            verb: ``read`` or ``write``.
            q: Queries.
            k: Keys.
            scale: On the scores; 1/sqrt(d) unless given.
            mask: Additive.
            memory: Which of the keys are the memory.
        """
        scores = (q.float() @ k.float().transpose(-1, -2)) * (q.shape[-1] ** -0.5 if scale is None else scale)
        visible = None if mask is None else mask.isfinite()
        if mask is not None:
            scores = scores + mask.float()
        self.weights(verb, scores.softmax(dim=-1), memory=memory, visible=visible)

    @torch.no_grad()
    def weights(
        self,
        verb: str,
        weights: Float[Tensor, "B H Q K"],
        *,
        memory: slice = EVERYTHING,
        visible: Bool[Tensor, "Q K"] | None = None,
    ) -> None:
        """Non-negative weights, in any unit, of each query over keys; ``visible`` are all keys unless given."""
        weights = weights.float()
        within = weights[..., memory]
        if not within.numel():
            return
        if memory != EVERYTHING:
            share = within.sum(dim=-1) / weights.sum(dim=-1)
            self._add("read_share" if verb == "read" else "keep_share", share)
        # What is written comes from everything that is seen; what is read, from the memory.
        chosen = memory if verb == "read" else EVERYTHING
        spread = weights[..., chosen]
        spread = spread / spread.sum(dim=-1, keepdim=True)
        seen = spread.new_tensor(spread.shape[-1]) if visible is None else visible[:, chosen].sum(dim=-1).float()
        entropy = torch.special.entr(spread).sum(dim=-1) / seen.log()
        self._add(f"{verb}_entropy", entropy.where(seen > 1, torch.nan))

    @torch.no_grad()
    def gate(self, values: Float[Tensor, "*B G"], name: str = "gate") -> None:
        """Values of a gate, between 0 and 1."""
        self._put(name, values.double().reshape(-1, values.shape[-1]))

    def _add(self, name: str, values: Float[Tensor, "B H Q"]) -> None:
        self._put(name, values.double().transpose(1, 2).flatten(0, 1))

    def _put(self, name: str, rows: Float[Tensor, "N H"]) -> None:
        """Adds up what can be added up."""
        self._sums[name] = self._sums.get(name, 0) + rows.nansum(dim=0)
        self._counts[name] = self._counts.get(name, 0) + (~rows.isnan()).sum(dim=0)


def reads_memory(model: "Model") -> bool:
    """Whether there is a memory that :func:`without_memory` takes away."""
    return model.blocks[0].reads_memory(model.options)


@contextmanager
def observe(model: "Model") -> Iterator[list[Probe]]:
    """Inside, one probe per layer, bottom first, records every forward pass.

    Sequences must be without padding (a mask is refused), since what padding writes would be measured, too.
    """
    probes = [Probe() for _ in model.blocks]
    parts: list[MemoryBlock | StackRecurrence] = [*model.blocks]
    if model.recurrence is not None:
        parts.append(model.recurrence)  # the top layer's probe records what returns from the top
    for part, probe in zip(parts, [*probes, probes[-1]], strict=False):
        part.probe = probe
    try:
        yield probes
    finally:
        for part in parts:
            part.probe = None


@contextmanager
def without_memory(model: "Model", layers: Iterable[int] | None = None) -> Iterator[None]:
    """Inside, tokens read nothing from the memory in these layers (default: in all); it is written as before.

    The slots that a memory begins with, where they are learned, count as memory. A state from outside must not be
    handed in, nor one from inside be used outside.
    """
    chosen = model.blocks if layers is None else [model.blocks[layer] for layer in layers]
    for block in chosen:
        block.memory_off = True
    try:
        yield
    finally:
        for block in chosen:
            block.memory_off = False
