"""What the memory holds: its size, its rank and how alike its slots are, per layer and update.

A memory that is not used, that collapses into one direction or that blows up is seen in no test, only in bad
numbers. Three curves tell: RMS (does it grow?), effective rank (do its slots differ?), cosine (are they copies?).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.store import atomic_path

if TYPE_CHECKING:
    from data.base import Batch
    from experiments.hardware import Hardware
    from models import Model

MEASURES = {"rms": "RMS", "effective_rank": "effective rank", "cosine": "mean cosine of two slots"}

#: Of the panels: where a measure says something, so that noise is not drawn as a trend.
_LIMITS: dict[str, tuple[float | None, float | None]] = {
    "rms": (0, None),
    "effective_rank": (0.9, None),
    "cosine": (-1.05, 1.05),
}

_MAX_SEQUENCES = 8
_MAX_UPDATES = 128


class Diagnostics(NamedTuple):
    """Measures of each layer's memory ``[layers, updates]``, means over sequences."""

    layers: NDArray[np.int64]  # the blocks that have a memory, 0 = bottom
    tokens: NDArray[np.int64]  # [updates] symbols read when it was measured
    rms: NDArray[np.float64]
    effective_rank: NDArray[np.float64]
    cosine: NDArray[np.float64]


def diagnose(model: Model, batch: Batch, *, hardware: Hardware) -> Diagnostics | None:
    """Streams one batch through a model and measures its memory after every piece.

    A causal model reads one segment at a time, a classifier its whole sequence at once.

    Returns:
        None when no layer has a memory that travels along time.
    """
    tokens = batch.tokens[:_MAX_SEQUENCES].to(hardware.device)
    mask = None if batch.mask is None else batch.mask[:_MAX_SEQUENCES].to(hardware.device)
    length = tokens.shape[-1]
    piece = _segment_length(model, length) if model.causal else length
    ends, measured, state = [], [], None
    was_training = model.training
    model.eval()
    with torch.no_grad(), hardware.autocast():
        for start in range(0, length, piece):
            part = slice(start, start + piece)
            _, state = model(tokens[..., part], None if mask is None else mask[..., part], state)
            memories = model.memories(state)
            ends.append(min(start + piece, length))
            measured.append([None if memory is None else measure(memory) for memory in memories])
    model.train(was_training)
    layers = [index for index, values in enumerate(measured[-1]) if values is not None]
    if not layers:
        return None
    empty = (float("nan"),) * len(MEASURES)
    table = np.array([[values[index] or empty for values in measured] for index in layers])
    return Diagnostics(np.array(layers), np.array(ends), *np.moveaxis(table, -1, 0))


def measure(memory: Tensor) -> tuple[float, float, float]:
    """RMS, effective rank and mean pairwise cosine of memories ``[B, M, D]``.

    The effective rank is exp(entropy of the normalised singular values) (Roy & Vetterli 2007): 1 when all slots are
    multiples of each other, M when they are orthogonal and of one size.
    """
    memory = memory.float()
    singular = torch.linalg.svdvals(memory)
    shares = singular / singular.sum(-1, keepdim=True).clamp(min=1e-12)
    rank = torch.special.entr(shares).sum(-1).exp().mean()
    directions = torch.nn.functional.normalize(memory, dim=-1)
    slots = memory.shape[1]
    summed = directions.sum(1).square().sum(-1) - directions.square().sum((1, 2))  # over all pairs i != j
    cosine = (summed / max(slots * (slots - 1), 1)).mean() if slots > 1 else torch.tensor(float("nan"))
    return float(memory.square().mean().sqrt()), float(rank), float(cosine)


def write_diagnostics(diagnostics: Diagnostics, path: Path) -> None:
    """Stores the numbers as ``.npz``."""
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        np.savez(handle, **diagnostics._asdict())


def read_diagnostics(path: Path) -> Diagnostics:
    """Reads what :func:`write_diagnostics` stored."""
    with np.load(path) as stored:
        return Diagnostics(**{name: stored[name] for name in Diagnostics._fields})


def draw_diagnostics(diagnostics: Diagnostics, title: str, path: Path) -> None:
    """Draws one panel per measure, one line per layer, and stores it as a picture."""
    figure = diagnostics_figure(diagnostics, title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def diagnostics_figure(diagnostics: Diagnostics, title: str) -> Any:
    """A matplotlib figure; over the layers instead when there was one update only."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    over_layers = len(diagnostics.tokens) == 1
    for axes, (name, label) in zip(figure.subplots(1, len(MEASURES)), MEASURES.items(), strict=True):
        values = getattr(diagnostics, name)
        if over_layers:
            axes.plot(diagnostics.layers, values[:, 0], marker="o")
        else:
            for layer, curve in zip(diagnostics.layers, values, strict=True):
                axes.plot(diagnostics.tokens, curve, marker=".", label=f"layer {layer}")
        axes.set(xlabel="layer" if over_layers else "tokens read", ylabel=label)
        axes.set_ylim(*_LIMITS[name])
    if not over_layers:
        figure.axes[-1].legend(frameon=False)
    return figure


def _segment_length(model: Model, length: int) -> int:
    """The variant's own block where it has one; never more pieces than can be drawn."""
    block = getattr(model.options, "block_len", None) or max(1, length // 16)
    return max(block, block * -(-length // (block * _MAX_UPDATES)))
