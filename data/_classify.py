"""Sequences with one label each: their encoded form on disk, batches of unequal lengths, and how they are scored.

What the classification tasks share. A task of this kind derives from :class:`ClassificationTask` and says how
long its examples are, how a batch is made of some of them, and into which slices its scores fall. Sequences of
bytes or of other symbols with ids below 256 also find here how to store, read and pad them.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from data.base import Batch, DataError, Device, Evaluation, Kind, Model, Progress, Split, Task, evaluating

SPLITS: tuple[Split, ...] = ("train", "val", "test")
PAD_TO = 32  # padded lengths are multiples of this, so that compiled kernels see few shapes
WINDOW = 50  # batches among which examples are sorted by length


# Encoded sequences


class Sequences(NamedTuple):
    """One split of labelled sequences, one behind the other. The symbols lie on disk; the rest is small."""

    symbols: NDArray[np.uint8]  # of all sequences
    offsets: NDArray[np.int64]  # [n+1]: sequence i is symbols[offsets[i] : offsets[i + 1]]
    labels: NDArray[np.int64]  # [n]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Symbols of each sequence."""
        return np.diff(self.offsets)


def write_sequences(folder: Path, split: Split, sequences: Sequences) -> None:
    """Writes one split as three ``.npy`` files."""
    for name, values in sequences._asdict().items():
        np.save(folder / f"{split}_{name}.npy", values)


def read_sequences(folder: Path, split: Split) -> Sequences:
    """Opens one split; its symbols stay on disk (memory-mapped)."""
    return Sequences(
        np.load(folder / f"{split}_symbols.npy", mmap_mode="r"),
        np.load(folder / f"{split}_offsets.npy"),
        np.load(folder / f"{split}_labels.npy"),
    )


def padded(
    symbols: NDArray[np.uint8], offsets: NDArray[np.int64], rows: NDArray[np.int64], max_len: int
) -> tuple[Tensor, Tensor | None]:
    """Some of the sequences that lie one behind the other, as tokens ``[B,T]`` and mask: id = symbol + 1, 0 = pad.

    Each is cut behind ``max_len`` symbols. T is the longest of them, rounded up to a multiple of ``PAD_TO``; the mask
    is None where nothing is padded.
    """
    starts = offsets[rows]
    lengths = np.minimum(offsets[rows + 1] - starts, max_len)
    width = min(-(-int(lengths.max()) // PAD_TO) * PAD_TO, max_len)
    plain = np.asarray(symbols)  # a slice of a plain array costs a tenth of one of a mapped file
    tokens = np.zeros((len(rows), width), dtype=np.int64)
    for row, start, length in zip(tokens, starts.tolist(), lengths.tolist(), strict=True):
        row[:length] = plain[start : start + length]
    mask = np.arange(width) < lengths[:, None]
    tokens += mask
    return torch.from_numpy(tokens), None if mask.all() else torch.from_numpy(mask)


def padded_batch(sequences: Sequences, rows: NDArray[np.int64], max_len: int) -> Batch:
    """Some sequences as one batch, see :func:`padded`."""
    tokens, mask = padded(sequences.symbols, sequences.offsets, rows, max_len)
    return Batch(tokens, mask, torch.from_numpy(sequences.labels[rows]))


# Splits and order


def carve(digests: Sequence[bytes], size: int) -> NDArray[np.bool_]:
    """Marks ``size`` rows, the first by digest; rows with equal digests are marked together or not at all."""
    counts = Counter(digests)
    chosen, left = set(), size
    for digest in sorted(counts):
        if counts[digest] <= left:
            chosen.add(digest)
            left -= counts[digest]
    return np.array([digest in chosen for digest in digests], dtype=bool)


def epoch_order(lengths: NDArray[np.int64], batch_size: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """Rows of all batches of one epoch ``[batches, B]``: each row at most once, those of a batch of like length.

    Shuffled, then sorted by length among the rows of ``WINDOW`` neighbouring batches. Where all are equally
    long the sort changes nothing. The rest that fills no batch is left out of this epoch.
    """
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch))))
    rows = rng.permutation(len(lengths))
    rows = rows[: len(rows) // batch_size * batch_size]
    windows = []
    for start in range(0, len(rows), WINDOW * batch_size):
        window = rows[start : start + WINDOW * batch_size]
        batches = window[np.argsort(lengths[window], kind="stable")].reshape(-1, batch_size)
        windows.append(rng.permutation(batches))
    return np.concatenate(windows)


# The task


class ClassificationTask(Task):
    """A task whose splits are labelled examples: training in epochs, accuracy over a whole split.

    A subclass implements ``prepare`` (which must make the four methods below work), and

    * ``lengths``: the length of each example of a split before it is cut, by which alike ones are put into one batch;
    * ``make_batch``: a batch of some of them;
    * ``slices``: scores of a split, cell by cell. Each example belongs to one cell, so that the cells' ``n`` add
      up to the examples and their weighted accuracies to the accuracy.

    ``limit`` may say that less than a whole split is scored. Everything else is here.
    """

    kind: ClassVar[Kind] = "classify"
    metric: ClassVar[str] = "accuracy"

    def __init__(self, config: Any, **options: Any) -> None:
        super().__init__(config, **options)
        self._epoch: tuple[tuple[int, int], NDArray[np.int64]] | None = None
        self._train_lengths: NDArray[np.int64] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Loader processes find the order of the epoch anew instead of receiving it."""
        return {**self.__dict__, "_epoch": None, "_train_lengths": None}

    def split_sizes(self) -> dict[Split, int]:
        """Examples of each split."""
        return {split: len(self.lengths(split)) for split in SPLITS}

    @abstractmethod
    def lengths(self, split: Split) -> NDArray[np.int64]:
        """Length of each example of a split, before any is cut to ``max_len``."""

    @abstractmethod
    def make_batch(self, split: Split, rows: NDArray[np.int64]) -> Batch:
        """The examples ``rows`` of a split, padded to the longest of them."""

    @abstractmethod
    def slices(self, split: Split, correct: NDArray[np.bool_]) -> list[dict[str, Any]]:
        """One row ``{..., "n", "accuracy"}`` per cell; ``correct`` tells of the first examples of the split."""

    def limit(self, split: Split) -> int | None:
        """How many examples of a split are scored, from the first on; None: all."""
        return None

    def train_batch(self, step: int, batch_size: int) -> Batch:
        """Examples of like length; within an epoch none comes twice."""
        if self._train_lengths is None:
            self._train_lengths = np.minimum(self.lengths("train"), self.max_len)
        size = len(self._train_lengths)
        if size < batch_size:
            raise DataError(f"trainer.batch_size={batch_size} is more than the train split has ({size})")
        epoch, index = divmod(step, size // batch_size)
        if self._epoch is None or self._epoch[0] != (epoch, batch_size):
            order = epoch_order(self._train_lengths, batch_size, seed=self.seed, epoch=epoch)
            self._epoch = ((epoch, batch_size), order)
        return self.make_batch("train", self._epoch[1][index])

    def evaluate(
        self,
        model: Model,
        split: Split,
        *,
        batch_size: int,
        device: Device = "cpu",
        progress: Progress | None = None,
    ) -> Evaluation:
        """Scores every example once, the shortest first; ``progress`` counts examples."""
        started = time.perf_counter()
        order = np.argsort(self.lengths(split)[: self.limit(split)], kind="stable")
        correct = np.zeros(len(order), dtype=bool)
        loss, done, symbols = 0.0, 0, 0
        with evaluating(model):
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                batch = self.make_batch(split, rows)
                mask = None if batch.mask is None else batch.mask.to(device)
                logits, _ = model(batch.tokens.to(device), mask, None)
                hits, batch_loss = _score(logits, batch.targets.to(device))
                correct[rows], loss = hits.cpu().numpy(), loss + batch_loss
                done, symbols = done + len(rows), symbols + batch.tokens.numel()
                if progress is not None:
                    progress(done, len(order))
        metrics = {"accuracy": float(correct.mean()), "loss": loss / len(order)}
        return Evaluation(metrics, self.slices(split, correct), symbols, time.perf_counter() - started)


def _score(logits: Tensor, targets: Tensor) -> tuple[Tensor, float]:
    logits = logits.float()
    return logits.argmax(-1) == targets, float(F.cross_entropy(logits, targets, reduction="sum"))


def length_slices(lengths: NDArray[np.int64], correct: NDArray[np.bool_], edges: Sequence[int]) -> list[dict[str, Any]]:
    """Accuracy by length; slices begin at ``edges`` and the last has no end."""
    slices = []
    for low, high in zip(edges, (*edges[1:], None), strict=True):
        inside = (lengths >= low) & (lengths < (high or np.inf))
        if inside.any():
            row = {"length_from": low, "length_to": high, "n": int(inside.sum())}
            slices.append({**row, "accuracy": float(correct[inside].mean())})
    return slices
