"""What the memory holds, how it is used, and what it is worth: the same measures for every variant.

A memory that is not used, that collapses into one direction or that blows up is seen in no test, only in bad numbers.

| measure | of | says |
|---|---|---|
| ``rms`` | each layer and update | does it grow? |
| ``effective_rank``, ``spectrum`` | each layer (and update) | do its rows differ? exp(entropy of the singular values) |
| ``cosine`` | each layer and update | are its rows copies of each other? |
| ``read_entropy`` … ``write_gate`` | each layer and head | how it is read and written: see :mod:`models.probe` |
| ``knock_out`` | all layers, and each | how much of the output is owed to it |

The knock-out is the total variation distance between what the model predicts and what it predicts when it reads nothing
from the memory: the share of probability that moves. It is a mean over the predictions that are scored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.results import HEAD_MEASURES
from experiments.store import atomic_path
from models.probe import observe, reads_memory, without_memory

if TYPE_CHECKING:
    from data.base import Batch
    from experiments.hardware import Hardware
    from models import Model

CURVES = {"rms": "RMS", "effective_rank": "effective rank", "cosine": "mean cosine of two rows"}

#: Of the panels: where a measure says something, so that noise is not drawn as a trend.
_LIMITS: dict[str, tuple[float | None, float | None]] = {
    "rms": (0, None),
    "effective_rank": (0.9, None),
    "cosine": (-1.05, 1.05),
}

_MAX_SEQUENCES = 8
_MAX_UPDATES = 128


class Diagnostics(NamedTuple):
    """Measures of every layer, 0 = bottom; NaN where a layer has nothing to measure. All are means over sequences."""

    tokens: NDArray[np.int64]  # [updates] symbols read when the memory was measured
    curves: dict[str, NDArray[np.float64]]  # by name of CURVES: [layers, updates]
    spectrum: NDArray[np.float64]  # [layers, K] shares of the singular values after the last update, largest first
    attention: dict[str, NDArray[np.float64]]  # of HEAD_MEASURES, what there is: [layers, heads], or slots of a gate
    knock_out: NDArray[np.float64]  # [1 + layers]: without any memory, and without that of each layer

    def summary(self) -> dict[str, float]:
        """One number for each measure: the mean over layers, after the last update."""
        numbers = {name: _mean(values[:, -1]) for name, values in self.curves.items()}
        numbers |= {name: _mean(values) for name, values in self.attention.items()}
        numbers["knock_out"] = float(self.knock_out[0])
        return {name: number for name, number in numbers.items() if math.isfinite(number)}


def diagnose(model: Model, batch: Batch, *, hardware: Hardware, curves: bool = True) -> Diagnostics | None:
    """Measures the memory of a model on one batch.

    Args:
        model: Left as it was.
        batch: Of which a few sequences are read, the longest, cut to one length.
        hardware: Device and precision of the passes.
        curves: Measure after every update (a causal model is then streamed, one segment at a time) and for each
            layer the knock-out; otherwise only at the end and for all layers at once, in two forward passes.

    Returns:
        None when the model has no memory beside its tokens.
    """
    if not reads_memory(model):
        return None
    batch = _few(batch, hardware.device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), hardware.autocast():
            return _diagnose(model, batch, curves)
    finally:
        model.train(was_training)


def _diagnose(model: Model, batch: Batch, curves: bool) -> Diagnostics:
    length = batch.tokens.shape[-1]
    with observe(model) as probes:
        logits, _ = model(batch.tokens)
    attention = {name: _table([probe.means().get(name) for probe in probes]) for name in HEAD_MEASURES}
    spectrum = _table([None if probe.rows is None else _spectrum(probe.rows) for probe in probes])
    ends, measured = [length], [[_measures(probe.rows) for probe in probes]]
    if curves and model.causal:
        ends, measured = _stream(model, batch)
    each = [[layer] for layer in range(len(model.blocks))] if curves else []
    return Diagnostics(
        np.array(ends),
        dict(zip(CURVES, np.array(measured).transpose(2, 1, 0), strict=True)),
        spectrum,
        {name: table for name, table in attention.items() if not np.isnan(table).all()},
        np.array([_knock_out(model, batch, logits, layers) for layers in (None, *each)]),
    )


def _stream(model: Model, batch: Batch) -> tuple[list[int], list[list[tuple[float, float, float]]]]:
    """Tokens read and each layer's measures, after every piece."""
    length = batch.tokens.shape[-1]
    piece = _segment_length(model, length)
    ends, measured, state = [], [], None
    with observe(model) as probes:
        for start in range(0, length, piece):
            _, state = model(batch.tokens[..., start : start + piece], None, state)
            ends.append(min(start + piece, length))
            measured.append([_measures(probe.rows) for probe in probes])
    return ends, measured


def _knock_out(model: Model, batch: Batch, logits: Tensor, layers: list[int] | None) -> float:
    """Total variation distance to what the model predicts without the memory of these layers."""
    with without_memory(model, layers):
        without, _ = model(batch.tokens)
    moved = (logits.float().softmax(dim=-1) - without.float().softmax(dim=-1)).abs().sum(dim=-1) / 2
    if moved.dim() == 1:  # a classifier predicts once for each sequence
        return float(moved.mean())
    weights = torch.ones_like(moved) if batch.weights is None else batch.weights
    return float((moved * weights).sum() / weights.sum())


def _measures(memory: Tensor | None) -> tuple[float, float, float]:
    return (math.nan,) * 3 if memory is None else measure(memory)


def measure(memory: Tensor) -> tuple[float, float, float]:
    """RMS, effective rank and mean pairwise cosine of memories ``[B, M, D]``.

    The effective rank is exp(entropy of the normalised singular values) (Roy & Vetterli 2007): 1 when all slots are
    multiples of each other, M when they are orthogonal and of one size.
    """
    memory = memory.float()
    rank = torch.special.entr(_shares(memory)).sum(-1).exp().mean()
    directions = torch.nn.functional.normalize(memory, dim=-1)
    slots = memory.shape[1]
    summed = directions.sum(1).square().sum(-1) - directions.square().sum((1, 2))  # over all pairs i != j
    cosine = (summed / max(slots * (slots - 1), 1)).mean() if slots > 1 else torch.tensor(float("nan"))
    return float(memory.square().mean().sqrt()), float(rank), float(cosine)


def _shares(memory: Tensor) -> Tensor:
    """Singular values, largest first, as shares of their sum ``[B, min(M, D)]``."""
    if not memory.isfinite().all():
        return memory.new_full((len(memory), min(memory.shape[1:])), torch.nan)
    singular = torch.linalg.svdvals(memory.float())
    return singular / singular.sum(-1, keepdim=True).clamp(min=1e-12)


def _spectrum(memory: Tensor) -> Tensor:
    return _shares(memory).mean(dim=0)


def _table(rows: list[Tensor | None]) -> NDArray[np.float64]:
    """Rows of unequal lengths, or none, as one table with NaN."""
    table = np.full((len(rows), max((len(row) for row in rows if row is not None), default=1)), math.nan)
    for index, row in enumerate(rows):
        if row is not None:
            table[index, : len(row)] = row.double().cpu().numpy()
    return table


def _mean(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan


def _few(batch: Batch, device: str) -> Batch:
    """The longest sequences of a batch, cut to the shortest of them: padding would be measured, too."""
    rows, length = torch.arange(min(_MAX_SEQUENCES, len(batch.tokens))), batch.tokens.shape[-1]
    if batch.mask is not None:
        lengths = batch.mask.sum(dim=-1).flatten(1).amin(dim=1) if batch.mask.dim() > 2 else batch.mask.sum(dim=-1)
        rows = lengths.argsort(descending=True, stable=True)[:_MAX_SEQUENCES]
        length = int(lengths[rows].min())
    weights = None if batch.weights is None else batch.weights[rows, :length].to(device)
    return type(batch)(batch.tokens[rows, ..., :length].to(device), None, batch.targets[rows].to(device), weights)


def _segment_length(model: Model, length: int) -> int:
    """The variant's own block where it has one; never more pieces than can be drawn."""
    block = model.segment_len or max(1, length // 16)
    return max(block, block * -(-length // (block * _MAX_UPDATES)))


def write_diagnostics(diagnostics: Diagnostics, path: Path) -> None:
    """Stores the numbers as ``.npz``, one array under each name."""
    arrays: Mapping[str, Any] = {
        "tokens": diagnostics.tokens,
        **diagnostics.curves,
        "spectrum": diagnostics.spectrum,
        **diagnostics.attention,
        "knock_out": diagnostics.knock_out,
    }
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        np.savez(handle, **arrays)


def read_diagnostics(path: Path) -> Diagnostics:
    """Reads what :func:`write_diagnostics` stored."""
    with np.load(path) as stored:
        return Diagnostics(
            stored["tokens"],
            {name: stored[name] for name in CURVES},
            stored["spectrum"],
            {name: stored[name] for name in HEAD_MEASURES if name in stored},
            stored["knock_out"],
        )


def draw_diagnostics(diagnostics: Diagnostics, title: str, path: Path) -> None:
    """Draws :func:`diagnostics_figure` and stores it as a picture."""
    figure = diagnostics_figure(diagnostics, title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def diagnostics_figure(diagnostics: Diagnostics, title: str) -> Any:
    """A matplotlib figure: the curves above, one line per layer; spectrum, attention and knock-out below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    above, below = figure.subplots(2, len(CURVES))
    for axes, (name, label) in zip(above, CURVES.items(), strict=True):
        _draw_curves(axes, diagnostics.tokens, diagnostics.curves[name])
        axes.set(ylabel=label)
        axes.set_ylim(*_LIMITS[name])
    for layer, shares in enumerate(diagnostics.spectrum):
        below[0].plot(np.arange(1, len(shares) + 1), shares, marker=".", label=f"layer {layer}")
    below[0].set(xlabel="singular value", ylabel="share of the sum")
    below[0].legend(frameon=False)
    _draw_attention(below[1], diagnostics.attention)
    names = ["all", *map(str, range(len(diagnostics.knock_out) - 1))]
    below[2].bar(names, diagnostics.knock_out, color="0.4")
    below[2].set(xlabel="layer without memory", ylabel="knock-out", ylim=(0, 1))
    return figure


def _draw_curves(axes: Any, tokens: NDArray[np.int64], values: NDArray[np.float64]) -> None:
    """Over the tokens; over the layers instead when there was one update only."""
    if len(tokens) == 1:
        axes.plot(range(len(values)), values[:, 0], marker="o")
        axes.set(xlabel="layer")
        return
    for curve in values:
        axes.plot(tokens, curve, marker=".")
    axes.set(xlabel="tokens read")


def _draw_attention(axes: Any, attention: Mapping[str, NDArray[np.float64]]) -> None:
    """One column for each measure, one point for each layer and head, coloured by layer."""
    for place, table in enumerate(attention.values()):
        for layer, values in enumerate(table):
            axes.plot(np.full(len(values), place + 0.12 * layer), values, "o", color=f"C{layer}", markersize=4)
    labels = [name.replace("_", "\n") for name in attention]
    axes.set_xticks(range(len(labels)), labels)
    axes.set_ylim(-0.05, 1.05)
