"""Images as sequences: what every task that reads pictures pixel by pixel shares.

A split is a folder's memory-mapped ``<split>_pixels.npy`` (uint8, one flattened image a row) with its labels and,
where a task knows more of an image, its facts: numbers by which the evaluation is sliced. A task says where its
images come from (``open_splits``); batches, epochs and scores are the same for all.

Symbols are pixels plus one, as bytes are in ``lra_text``: 0 stays the pad that no image needs. Where black is the
symbol 0 and 0 is masked, as in LRA's own code, attention never sees most of a picture. Or a pixel is a real number,
(pixel / 255 - mean) / std with constants of the task: what S4 and its successors call LRA, and an easier problem,
since the model is told for nothing which grey lies beside which.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from data._classify import ClassificationTask
from data.base import Batch, Split


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """Options of every task on images."""

    pixels: str = "tokens"
    """How a pixel enters the model: "tokens" = as one of 256 symbols, each with an embedding of its own (LRA's); "real"
    = as a number, through a linear map (later work's)."""
    val_limit: int | None = None
    """Validate on the first so many images; null: on all."""
    test_limit: int | None = None
    """Test on the first so many images; null: on all."""

    def __post_init__(self) -> None:
        if self.pixels not in ("tokens", "real"):
            raise ValueError(f"task.pixels must be 'tokens' or 'real', got '{self.pixels}'")
        for key in ("val_limit", "test_limit"):
            limit = getattr(self, key)
            if limit is not None and limit < 1:
                raise ValueError(f"task.{key} must be 1 or more, or null for all, got {limit}")


class Images(NamedTuple):
    """One split; its pixels stay on disk."""

    pixels: NDArray[np.uint8]  # [n,T], T = pixels of an image, row after row
    labels: NDArray[np.int64]  # [n]
    facts: Mapping[str, NDArray[np.float32]]  # each [n]

    def first(self, size: int | None) -> Images:
        """The first ``size`` images; None: all."""
        facts = {name: values[:size] for name, values in self.facts.items()}
        return Images(self.pixels[:size], self.labels[:size], facts)


def write_images(folder: Path, split: Split, images: Images) -> None:
    """Writes one split."""
    np.save(folder / f"{split}_pixels.npy", images.pixels)
    np.save(folder / f"{split}_labels.npy", images.labels.astype(np.uint8))
    for name, values in images.facts.items():
        np.save(folder / f"{split}_{name}.npy", values.astype(np.float32))


def read_images(folder: Path, split: Split, facts: Sequence[str] = ()) -> Images:
    """Opens one split."""
    return Images(
        np.load(folder / f"{split}_pixels.npy", mmap_mode="r"),
        np.load(folder / f"{split}_labels.npy").astype(np.int64),
        {name: np.load(folder / f"{split}_{name}.npy") for name in facts},
    )


class ImageTask(ClassificationTask):
    """A task that classifies images; a subclass implements ``locate`` and ``open_splits``.

    ``pixel_mean`` and ``pixel_std`` are what real pixels, divided by 255, are normalised with. The default is MEGA's
    for Pathfinder; they are constants, so that no source and no split changes what a grey is.

    Args:
        config: options.
        side: pixels along each side of an image.
        num_classes: classes.
        options: those of :class:`data.base.Task`.
    """

    pixel_mean: ClassVar[float] = 0.5
    pixel_std: ClassVar[float] = 0.5

    def __init__(self, config: ImageConfig, *, side: int, num_classes: int, **options: Any) -> None:
        super().__init__(config, **options)
        self.side = side
        self.vocab_size = 257 if config.pixels == "tokens" else None
        self.num_classes: int = num_classes
        self.max_len = side * side
        self._splits: Mapping[Split, Images] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Loader processes open the memory-mapped files anew instead of receiving copies."""
        return {**super().__getstate__(), "_splits": {}}

    @abstractmethod
    def open_splits(self) -> Mapping[Split, Images]:
        """Opens all splits; makes and caches them, if that was not done before."""

    def image_slices(self, images: Images, correct: NDArray[np.bool_]) -> list[dict[str, Any]]:
        """Accuracy by facts of the images, for tasks that know some."""
        return []

    def prepare(self) -> None:
        """Makes and caches the images; later calls cost next to nothing."""
        self._splits = self.open_splits()

    def split(self, split: Split) -> Images:
        """One split, prepared if need be."""
        if not self._splits:
            self.prepare()
        return self._splits[split]

    def limit(self, split: Split) -> int | None:
        """How many images of a split are scored."""
        return {"val": self.config.val_limit, "test": self.config.test_limit}.get(split)

    def lengths(self, split: Split) -> NDArray[np.int64]:
        """All images are of one size."""
        return np.full(len(self.split(split).labels), self.max_len)

    def make_batch(self, split: Split, rows: NDArray[np.int64]) -> Batch:
        """The images ``rows`` of a split."""
        images = self.split(split)
        pixels, labels = torch.from_numpy(images.pixels[rows]), torch.from_numpy(images.labels[rows])
        if self.config.pixels == "tokens":
            return Batch(pixels.long().add_(1), None, labels)
        return Batch(pixels.float().div_(255).sub_(self.pixel_mean).div_(self.pixel_std), None, labels)

    def slices(self, split: Split, correct: NDArray[np.bool_]) -> list[dict[str, Any]]:
        """See :meth:`image_slices`."""
        return self.image_slices(self.split(split).first(len(correct)), correct)


def slice_by(
    name: str, values: NDArray[np.float32], correct: NDArray[np.bool_], edges: Sequence[float]
) -> list[dict[str, Any]]:
    """Accuracy between neighbouring ``edges`` of a fact; the last slice has no end."""
    slices = []
    for low, high in zip(edges, (*edges[1:], None), strict=True):
        inside = (values >= low) & (values < (np.inf if high is None else high))
        if inside.any():
            row = {f"{name}_from": low, f"{name}_to": high, "n": int(inside.sum())}
            slices.append({**row, "accuracy": float(correct[inside].mean())})
    return slices
