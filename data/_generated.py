"""What generated tasks share: random streams that never meet, a curriculum of lengths, streaming, greedy decoding."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.base import Device, Model, Source, Split

Ids = NDArray[np.int64]

EVALUATION_SEED = 0  # one validation and one test set for all runs
_STREAMS: dict[Split, int] = {"train": 0, "val": 1, "test": 2}
_FLOORS = 3


@dataclass(frozen=True)
class Stage:
    """One stage of the curriculum of lengths."""

    until: float
    """The stage lasts until this share of all training steps is done; the last stage ends at 1."""
    min_blocks: int
    """Shortest sequence, in blocks."""
    max_blocks: int
    """Longest sequence, in blocks; each step draws uniformly between the two."""


def require(config: Any, holds: bool, key: str, rule: str) -> None:
    """Refuses an option in one line that names it."""
    if not holds:
        raise ValueError(f"task.{key} must be {rule}, got {getattr(config, key)!r}")


def check_curriculum(stages: Sequence[Stage]) -> None:
    """Refuses stages that do not cover a training run."""
    ends = [stage.until for stage in stages]
    if not stages or ends != sorted(set(ends)) or ends[0] <= 0 or ends[-1] != 1:
        raise ValueError(f"task.curriculum: `until` must grow from above 0 to exactly 1, got {ends}")
    for index, stage in enumerate(stages):
        if not 1 <= stage.min_blocks <= stage.max_blocks:
            raise ValueError(
                f"task.curriculum[{index}]: needs 1 <= min_blocks <= max_blocks, "
                f"got {stage.min_blocks} and {stage.max_blocks}"
            )


def stage_at(stages: Sequence[Stage], done: float) -> Stage:
    """The stage in which a share ``done`` of all steps lies."""
    return next((stage for stage in stages if done < stage.until), stages[-1])


def training_stream(seed: int, step: int) -> np.random.Generator:
    """The numbers of one training step."""
    return _generator(seed, _STREAMS["train"], step)


def evaluation_stream(split: Split, *cell: int) -> np.random.Generator:
    """The numbers of one cell of validation or test: the same for every seed, and none of training's."""
    assert split != "train"
    return _generator(EVALUATION_SEED, _STREAMS[split], *cell)


def floor_stream(*cell: int) -> np.random.Generator:
    """Numbers to estimate a floor with."""
    return _generator(EVALUATION_SEED, _FLOORS, *cell)


def _generator(*entropy: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))


def distinct(rng: np.random.Generator, num_choices: int, count: int, num_rows: int) -> Ids:
    """In each row ``count`` different numbers below ``num_choices``, in random order ``[B,count]``."""
    if 4 * count > num_choices:
        return rng.permuted(np.tile(np.arange(num_choices), (num_rows, 1)), axis=1)[:, :count]
    drawn = rng.integers(num_choices, size=(num_rows, 2 * count))  # enough, nearly always, when repetitions are dropped
    order = np.argsort(drawn, axis=1, kind="stable")
    ordered = np.take_along_axis(drawn, order, axis=1)
    repeated = np.zeros_like(drawn, dtype=bool)
    np.put_along_axis(repeated, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    kept = np.take_along_axis(drawn, np.argsort(repeated, axis=1, kind="stable")[:, :count], axis=1)
    again = repeated.sum(1) > count
    if again.any():
        kept[again] = distinct(rng, num_choices, count, int(again.sum()))
    return kept


def generated_source(version: int, config: Any, *fixed: Any) -> Source:
    """A generator's data version: a digest of its options and of what is fixed in its code."""
    digest = hashlib.sha256(json.dumps([version, fixed, asdict(config)]).encode()).hexdigest()
    return Source("generated", digest, "generated from the seed; nothing to download")


def whole_blocks(chunk: int, block_len: int) -> int:
    """``chunk`` rounded down to whole blocks; one at least."""
    return max(1, chunk // block_len) * block_len


def stream(model: Model, tokens: Ids, *, chunk: int, device: Device) -> Iterator[tuple[int, Tensor, Any]]:
    """Feeds ``[B,T]`` in chunks with the state handed on; yields where each began, its logits and the state."""
    state: Any = None
    for start in range(0, tokens.shape[1], chunk):
        piece = torch.from_numpy(np.ascontiguousarray(tokens[:, start : start + chunk]))
        logits, state = model(piece.to(device), None, state)
        yield start, logits, state


def decode_greedily(model: Model, prompts: Ids, num_symbols: int, *, chunk: int, device: Device) -> Ids:
    """The ``num_symbols`` that a model goes on with, each read from its own earlier ones ``[B,num_symbols]``."""
    for piece in stream(model, prompts, chunk=chunk, device=device):
        _, logits, state = piece
    symbols = [logits[:, -1].argmax(-1)]
    while len(symbols) < num_symbols:
        logits, state = model(symbols[-1][:, None], None, state)
        symbols.append(logits[:, -1].argmax(-1))
    return torch.stack(symbols, dim=1).cpu().numpy()
