"""Where a model stopped being finite: which variant, layer and segment, or which of its weights.

A NaN shows up in the loss, which says nothing about where it came from; and a memory that overflows far behind the
lengths of training shows up as a score of zero. Neither is left at that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from models import tensors

if TYPE_CHECKING:
    from data.base import Batch
    from models import Model, ModelState

#: Tokens in a "segment" of a variant that has none.
_PIECE = 64


def find_non_finite(model: Model, batch: Batch) -> str | None:
    """Reads a batch again, a causal model segment by segment, until something is NaN or infinite.

    Returns:
        ``weight stack.0.ffn.up.weight``, ``the inputs``, or ``fam, layer 1, segment 3`` (both from 0); None when all is
        finite.
    """
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return f"weight {name}"
    if not batch.tokens.isfinite().all():
        return "the inputs"
    length = batch.tokens.shape[-1]
    piece = (model.segment_len or _PIECE) if model.causal else length
    found: list[int] = []
    state = None
    with torch.no_grad(), _watching(model, found):
        for start in range(0, length, piece):
            part = slice(start, start + piece)
            mask = None if batch.mask is None else batch.mask[..., part]
            logits, state = model(batch.tokens[..., part], mask, state)
            where = f", segment {start // piece}" if model.causal else ""
            if found:
                return f"{model.variant}, layer {found[0]}{where}"
            if not _is_finite(state.memory):
                return f"{model.variant}, memory{where}"
            if not logits.isfinite().all():
                return f"{model.variant}, logits{where}"
    return None


@contextmanager
def reporting_non_finite(model: nn.Module, say: Callable[[str], None]) -> Iterator[None]:
    """Inside, the first call of a model whose output is not finite is told, and the work goes on."""
    told = False

    def look(module: nn.Module, inputs: Any, output: tuple[Tensor, ModelState]) -> None:
        nonlocal told
        logits, state = output
        if not told and not logits.isfinite().all():
            told = True
            say(f"{_place(module, state)}: not finite from here on")

    handle = model.register_forward_hook(look)
    try:
        yield
    finally:
        handle.remove()


def _place(model: Any, state: ModelState) -> str:
    """The lowest layer whose state is not finite, and the segment that was read last."""
    broken = (layer for layer, part in enumerate(state.layers) if not _is_finite(part))
    layer = next(broken, None)
    where = "memory" if not _is_finite(state.memory) else "output" if layer is None else f"layer {layer}"
    return f"{model.variant}, {where}, segment {max(state.position - 1, 0) // (model.segment_len or _PIECE)}"


@contextmanager
def _watching(model: Model, found: list[int]) -> Iterator[None]:
    """Collects the layers that return something that is not finite, in the order of their calls."""

    def watch(layer: int) -> Any:
        return model.blocks[layer].register_forward_hook(
            lambda module, inputs, output: None if _is_finite(output) else found.append(layer)
        )

    handles = [watch(layer) for layer in range(len(model.blocks))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_finite(state: Any) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors(state) if tensor.is_floating_point())
