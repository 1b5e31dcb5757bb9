"""MQAR: multi-query associative recall. Key-value pairs are said once; later every key asks for its value.

Task card
    Source      generated; the task of Zoology (arXiv 2312.04927) as its public code generates it.
    Layout      N pairs ``key value`` fill the first 2N places. The rest is slots of two places: N of them, drawn
                without replacement by a power law of the slot's number g, p ~ g^(power_a - 1), hold a key, each key
                once; what is left over is filler. At ``power_a`` 0.01 most queries follow soon behind the pairs; at
                1 all slots are equally likely. Slots are drawn in the order of the pairs, as there, so the pair that
                stands first is often asked first.
    Vocabulary  ``vocab_size`` V: 0 = blank, 1 .. V/2-1 keys, V/2 .. V-1 values. Within a sequence neither a key nor
                a value comes twice.
    Filler      the blank; with ``random_non_queries`` any symbol of the vocabulary, keys and values included.
    Length      cells of (seq_len, num_kv_pairs). All sequences of a step are of one cell, drawn by the cells' shares.
    Splits      training, validation and test draw from three streams of random numbers that never meet.
    Target      at each query the value of its key; nothing elsewhere. The value itself never enters the sequence: the
                symbol behind a query is filler. The N queries share a loss weight of 1.
    Metric      accuracy over queries, by cell and, in the slices, by distance: blocks of ``block_len`` symbols between
                the block that holds the value and the block that asks (0 = the same block). The headline is the mean
                over the cells that are no longer and hold no more pairs than training. Sequences are streamed in
                chunks with the state handed on, so memory grows with length only if the model's state does.
    Floors      ``seen_value``: some value of the sequence, 1/N. ``own_block``: right where pair and query stand in one
                block, any value elsewhere.
    Truncated   nothing.

Example (vocabulary 16, 16 symbols, 3 pairs; ``.`` = no target)
    tokens       1 15   3  9   4 10   1  0   4  0   3  0   0  0   0  0
    targets      .  .   .  .   .  .  15  .  10  .   9  .   .  .   .  .

What it is for: accuracy over the number of pairs, beside ``state_size`` in result.json, shows what a model recalls for
what it carries. Ours, not the paper's: blocks and distances, endless training data, small vocabularies below
``scale=paper``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from data._generated import (
    Ids,
    distinct,
    evaluation_stream,
    floor_stream,
    generated_source,
    require,
    stream,
    training_stream,
    whole_blocks,
)
from data.base import Batch, Device, Evaluation, Kind, Model, Progress, Source, Split, Task, evaluating

_VERSION = 1  # raise when the same configuration yields other symbols
_BLANK = 0
_FLOOR_ROWS = 64  # sequences of a cell from which a floor is estimated


@dataclass(frozen=True)
class Cell:
    """One size of sequence."""

    seq_len: int
    """Symbols in a sequence; even."""
    num_kv_pairs: int
    """Pairs, and so queries, in a sequence."""
    share: float = 1.0
    """How often a training step is of this cell, relative to the others; no effect in evaluation."""


@dataclass(frozen=True)
class MQARConfig:
    """Options of multi-query associative recall."""

    vocab_size: int = 256
    """Blank, keys and values together; even."""
    block_len: int = 16
    """Symbols in a block, the unit of distance; normally the models' segment length."""
    power_a: float = 0.01
    """Power law of the queries' places: near 0 soon behind the pairs, 1 anywhere."""
    random_non_queries: bool = False
    """Fill what is no query with random symbols instead of blanks."""
    train_cells: tuple[Cell, ...] = (Cell(32, 4), Cell(64, 8), Cell(128, 16))
    """Sizes to train on."""
    eval_cells: tuple[Cell, ...] = (Cell(32, 4), Cell(64, 8), Cell(128, 16), Cell(256, 32))
    """Sizes to test; validation asks those that are no longer and no fuller than training (else ``train_cells``)."""
    eval_samples: int = 64
    """Test sequences in each cell."""
    val_samples: int = 32
    """Validation sequences in each of its cells."""
    eval_chunk: int = 2048
    """Symbols of each sequence that are streamed through the model at a time (rounded to whole blocks)."""

    def __post_init__(self) -> None:
        for name in ("train_cells", "eval_cells"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        _check_config(self)


def _check_config(config: MQARConfig) -> None:
    require(config, config.vocab_size >= 4 and config.vocab_size % 2 == 0, "vocab_size", "even and 4 or more")
    require(config, 0 < config.power_a <= 1, "power_a", "above 0 and at most 1")
    for key in ("block_len", "eval_samples", "val_samples", "eval_chunk"):
        require(config, getattr(config, key) >= 1, key, "1 or more")
    for key in ("train_cells", "eval_cells"):
        cells = getattr(config, key)
        require(config, len(cells) > 0, key, "a list of at least one cell")
        for index, cell in enumerate(cells):
            _check_cell(config, cell, f"task.{key}[{index}]")
        if len({(cell.seq_len, cell.num_kv_pairs) for cell in cells}) < len(cells):
            raise ValueError(f"task.{key}: the same seq_len and num_kv_pairs stand there twice")


def _check_cell(config: MQARConfig, cell: Cell, key: str) -> None:
    if cell.num_kv_pairs < 1 or cell.seq_len % 2 or cell.seq_len < 4 * cell.num_kv_pairs:
        raise ValueError(
            f"{key}: seq_len must be even and at least 4 x num_kv_pairs, two symbols for each pair and two for each "
            f"query, got {cell.seq_len} and {cell.num_kv_pairs}"
        )
    if cell.num_kv_pairs > config.vocab_size // 2 - 1:
        raise ValueError(
            f"{key}: {cell.num_kv_pairs} pairs need as many different keys, but task.vocab_size={config.vocab_size} "
            f"has {config.vocab_size // 2 - 1}"
        )
    if cell.share <= 0:
        raise ValueError(f"{key}: share must be above 0, got {cell.share}")


class Sequences(NamedTuple):
    """Sequences of one cell: pair n stands at 2n, is asked at ``asked_at[:, n]``."""

    tokens: Ids  # [B,T]
    values: Ids  # [B,N]
    asked_at: Ids  # [B,N]

    def distance(self, block_len: int) -> Ids:
        """Blocks between the value of a pair and the place that asks for it ``[B,N]``."""
        said_at = 2 * np.arange(self.values.shape[1]) + 1
        return self.asked_at // block_len - said_at // block_len

    def rows(self, start: int, stop: int) -> Sequences:
        """Some of the sequences."""
        return Sequences(*(part[start:stop] for part in self))


class MQAR(Task):
    """Multi-query associative recall; see the card on top of this file."""

    name: ClassVar[str] = "mqar"
    kind: ClassVar[Kind] = "next_token"
    config_class: ClassVar[type] = MQARConfig
    metric: ClassVar[str] = "accuracy"

    def __init__(self, config: MQARConfig, **options: Any) -> None:
        super().__init__(config, **options)
        self.config: MQARConfig = config
        self.vocab_size: int = config.vocab_size
        self.num_classes = None
        self.max_len = max(cell.seq_len for cell in config.train_cells)
        self.longest_test = max(cell.seq_len for cell in config.eval_cells)
        shares = np.array([cell.share for cell in config.train_cells])
        self._shares = shares / shares.sum()
        self.floors = self._floors()

    def locate(self) -> Source:
        """A generator's data version is a digest of its options."""
        return generated_source(_VERSION, self.config)

    # Training

    def train_batch(self, step: int, batch_size: int) -> Batch:
        """Sequences of one step, all of one cell; a target of 0 is none."""
        rng = training_stream(self.seed, step)
        cell = self.config.train_cells[rng.choice(len(self._shares), p=self._shares)]
        sequences = self.draw(rng, cell, batch_size)
        targets = np.full_like(sequences.tokens, _BLANK)
        np.put_along_axis(targets, sequences.asked_at, sequences.values, axis=1)
        targets_of = torch.from_numpy(targets)
        weights = (targets_of != _BLANK).float() / cell.num_kv_pairs
        return Batch(torch.from_numpy(sequences.tokens), None, targets_of, weights)

    def draw(self, rng: np.random.Generator, cell: Cell, num_rows: int) -> Sequences:
        """Draws sequences of one cell."""
        config, num_pairs, half = self.config, cell.num_kv_pairs, self.config.vocab_size // 2
        keys = 1 + distinct(rng, half - 1, num_pairs, num_rows)
        values = half + distinct(rng, half, num_pairs, num_rows)
        asked_at = 2 * num_pairs + 2 * self._slots(rng, cell, num_rows)
        tokens = np.full((num_rows, cell.seq_len), _BLANK, dtype=np.int64)
        if config.random_non_queries:
            tokens = rng.integers(0, config.vocab_size, size=tokens.shape)
        tokens[:, 0 : 2 * num_pairs : 2] = keys
        tokens[:, 1 : 2 * num_pairs : 2] = values
        np.put_along_axis(tokens, asked_at, keys, axis=1)
        return Sequences(tokens, values, asked_at)

    def _slots(self, rng: np.random.Generator, cell: Cell, num_rows: int) -> Ids:
        """A slot for each pair, drawn one after the other without replacement ``[B,N]``.

        The order of log p + Gumbel noise is exactly the order of such draws.
        """
        num_slots = cell.seq_len // 2 - cell.num_kv_pairs
        log_law = (self.config.power_a - 1) * np.log(np.arange(1, num_slots + 1))
        return np.argsort(-log_law - rng.gumbel(size=(num_rows, num_slots)), axis=1)[:, : cell.num_kv_pairs]

    # Evaluation

    def evaluate(
        self,
        model: Model,
        split: Split,
        *,
        batch_size: int,
        device: Device = "cpu",
        progress: Progress | None = None,
    ) -> Evaluation:
        """Asks every key of every sequence; ``progress`` counts symbols streamed."""
        started = time.perf_counter()
        samples = self.config.val_samples if split == "val" else self.config.eval_samples
        cells = self.eval_cells(split)
        total = samples * sum(cell.seq_len for cell in cells)
        done, slices = 0, []
        with evaluating(model):
            for cell in cells:
                sequences = self.evaluation_sequences(split, cell)
                correct = np.empty_like(sequences.values, dtype=bool)
                for first in range(0, samples, batch_size):
                    part = sequences.rows(first, first + batch_size)
                    correct[first : first + batch_size] = self._answers(model, part, device) == part.values
                    done += part.tokens.size
                    if progress is not None:
                        progress(done, total)
                slices += self._rows(cell, sequences, correct)
        return Evaluation(self._metrics(slices), slices, total, time.perf_counter() - started)

    def eval_cells(self, split: Split) -> list[Cell]:
        """The cells of an evaluation, few pairs first."""
        cells = self.config.eval_cells
        if split == "val":
            cells = tuple(cell for cell in cells if self._is_trained(cell)) or self.config.train_cells
        return sorted(cells, key=lambda cell: (cell.num_kv_pairs, cell.seq_len))

    def evaluation_sequences(self, split: Split, cell: Cell) -> Sequences:
        """All sequences of one cell of a split."""
        samples = self.config.val_samples if split == "val" else self.config.eval_samples
        return self.draw(evaluation_stream(split, cell.seq_len, cell.num_kv_pairs), cell, samples)

    def _answers(self, model: Model, part: Sequences, device: Device) -> Ids:
        """What the model says at each query ``[B,N]``; nothing is held but a chunk and the model's state."""
        answers = np.zeros_like(part.values)
        chunk = whole_blocks(self.config.eval_chunk, self.config.block_len)
        for start, logits, _ in stream(model, part.tokens, chunk=chunk, device=device):
            said = logits.argmax(-1).cpu().numpy()
            row, pair = np.nonzero((part.asked_at >= start) & (part.asked_at < start + said.shape[1]))
            answers[row, pair] = said[row, part.asked_at[row, pair] - start]
        return answers

    def _is_trained(self, cell: Cell) -> bool:
        """Whether a cell is neither longer nor fuller than training."""
        trained = self.config.train_cells
        fullest = max(one.num_kv_pairs for one in trained)
        return cell.seq_len <= self.max_len and cell.num_kv_pairs <= fullest

    def _rows(self, cell: Cell, sequences: Sequences, correct: NDArray[np.bool_]) -> list[dict[str, Any]]:
        """One row per distance."""
        distance = sequences.distance(self.config.block_len)
        return [
            {
                "num_kv_pairs": cell.num_kv_pairs,
                "seq_len": cell.seq_len,
                "distance_blocks": int(blocks),
                "trained": self._is_trained(cell),
                "n": int((distance == blocks).sum()),
                "accuracy": float(correct[distance == blocks].mean()),
            }
            for blocks in np.unique(distance)
        ]

    def _metrics(self, slices: list[dict[str, Any]]) -> dict[str, float]:
        """Accuracy by cell; the headline is the mean over cells within training (over all, where none is)."""
        cells: dict[tuple[int, int], list[dict[str, Any]]] = {}
        for row in slices:
            cells.setdefault((row["num_kv_pairs"], row["seq_len"]), []).append(row)
        scores = {cell: _pooled(rows) for cell, rows in cells.items()}
        trained = [scores[cell] for cell, rows in cells.items() if rows[0]["trained"]]
        metrics = {"accuracy": float(np.mean(trained or list(scores.values())))}
        return metrics | {f"accuracy@{pairs}kv{length}": score for (pairs, length), score in scores.items()}

    def _floors(self) -> dict[str, float]:
        """What is reached without recall, over the cells of the headline."""
        cells, within = self.eval_cells("val"), []
        for cell in cells:
            sequences = self.draw(floor_stream(cell.seq_len, cell.num_kv_pairs), cell, _FLOOR_ROWS)
            within.append(float((sequences.distance(self.config.block_len) == 0).mean()))
        own_block, any_value = float(np.mean(within)), 2 / self.config.vocab_size
        return {
            "seen_value": float(np.mean([1 / cell.num_kv_pairs for cell in cells])),
            "own_block": own_block + (1 - own_block) * any_value,
            "any_value": any_value,
        }


def _pooled(rows: list[dict[str, Any]]) -> float:
    return sum(row["n"] * row["accuracy"] for row in rows) / sum(row["n"] for row in rows)
