"""What tasks on images share: batches, epochs, scores, slices."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from data._classify import SPLITS
from data._images import ImageConfig, Images, ImageTask, read_images, slice_by, write_images
from data.base import Source, Split

SIDE, SIZES = 4, {"train": 50, "val": 13, "test": 21}


def images(split: Split) -> Images:
    """Images whose first pixel is their number and whose second pixel is their label."""
    size = SIZES[split]
    rng = np.random.default_rng(SPLITS.index(split))
    pixels = rng.integers(0, 256, (size, SIDE * SIDE), dtype=np.uint8)
    labels = rng.integers(0, 3, size)
    pixels[:, 0], pixels[:, 1] = np.arange(size), labels
    return Images(pixels, labels, {"number": np.arange(size, dtype=np.float32)})


class Numbered(ImageTask):
    name: ClassVar[str] = "numbered"
    config_class: ClassVar[type] = ImageConfig

    def __init__(self, config: ImageConfig, **options: Any) -> None:
        super().__init__(config, side=SIDE, num_classes=3, **options)

    def locate(self) -> Source:
        return Source("numbered", "0", "here")

    def open_splits(self) -> Mapping[Split, Images]:
        folder = self.cache / self.name
        if not folder.is_dir():
            folder.mkdir(parents=True)
            for split in SPLITS:
                write_images(folder, split, images(split))
        return {split: read_images(folder, split, ["number"]) for split in SPLITS}

    def image_slices(self, images: Images, correct: NDArray[np.bool_]) -> list[dict[str, Any]]:
        return slice_by("number", images.facts["number"], correct, (0, 5, 20, 100))


def make(tmp_path: Path, *, seed: int = 0, **options: Any) -> Numbered:
    return Numbered(ImageConfig(**options), cache=tmp_path, seed=seed)


def read(tokens: Tensor, mask: Tensor | None, state: Any) -> tuple[Tensor, Any]:
    """Reads the label that stands in the second pixel."""
    return torch.nn.functional.one_hot(tokens[:, 1] - 1, 3) * 10.0, state


def test_what_is_written_is_read_back_and_stays_on_disk(tmp_path: Path) -> None:
    task = make(tmp_path)
    for split in SPLITS:
        found, wanted = task.split(split), images(split)
        assert isinstance(found.pixels, np.memmap)
        np.testing.assert_array_equal(found.pixels, wanted.pixels)
        np.testing.assert_array_equal(found.labels, wanted.labels)
        np.testing.assert_array_equal(found.facts["number"], wanted.facts["number"])
    assert isinstance(task.split("test").first(3).pixels, np.memmap)
    assert [len(values) for values in task.split("test").first(3)[:2]] == [3, 3]


def test_tokens_are_pixels_plus_one_and_nothing_is_padding(tmp_path: Path) -> None:
    task = make(tmp_path)
    batch = task.train_batch(0, 8)
    assert batch.tokens.dtype == batch.targets.dtype == torch.int64
    assert batch.tokens.shape == (8, task.max_len)
    assert batch.mask is None
    rows = batch.tokens[:, 0].numpy() - 1
    np.testing.assert_array_equal(batch.tokens.numpy(), images("train").pixels[rows].astype(int) + 1)
    np.testing.assert_array_equal(batch.targets.numpy(), images("train").labels[rows])
    assert task.vocab_size == 257
    assert 1 <= int(batch.tokens.min()) <= int(batch.tokens.max()) <= 256


def test_real_pixels_are_normalised_numbers_of_the_same_images(tmp_path: Path) -> None:
    task, tokens = make(tmp_path, pixels="real"), make(tmp_path)
    assert task.vocab_size is None
    batch = task.train_batch(3, 8)
    assert batch.tokens.dtype == torch.float32
    assert batch.mask is None
    same = tokens.train_batch(3, 8)
    torch.testing.assert_close(batch.tokens, ((same.tokens - 1) / 255 - 0.5) / 0.5)
    assert torch.equal(batch.targets, same.targets)
    assert -1 <= float(batch.tokens.min()) <= float(batch.tokens.max()) <= 1


def test_within_an_epoch_no_image_comes_twice(tmp_path: Path) -> None:
    task = make(tmp_path)
    epochs = []
    for epoch in range(3):
        numbers = [task.train_batch(7 * epoch + index, 7).tokens[:, 0].tolist() for index in range(7)]
        epochs.append([number for batch in numbers for number in batch])
        assert len(set(epochs[-1])) == 49
    assert len({tuple(epoch) for epoch in epochs}) == 3


def _batch_of(task: Numbered) -> list[list[int]]:
    return task.train_batch(12, 7).tokens.tolist()


def test_a_batch_depends_on_seed_step_and_size_only(tmp_path: Path) -> None:
    one, other = make(tmp_path), make(tmp_path)
    for step in (3, 40, 3, 9, 8):  # in any order, across epochs
        other.train_batch(step, 5)
    for step in range(15):
        assert torch.equal(one.train_batch(step, 7).tokens, other.train_batch(step, 7).tokens)
    assert not torch.equal(one.train_batch(0, 7).tokens, make(tmp_path, seed=1).train_batch(0, 7).tokens)
    assert len(pickle.dumps(one)) < 2000  # a loader process opens the files itself
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(_batch_of, [one]) == _batch_of(other)


def test_too_large_a_batch_gets_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"trainer.batch_size=64 is more than the train split has \(50\)"):
        make(tmp_path).train_batch(0, 64)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_every_image_is_scored_once(tmp_path: Path, batch_size: int) -> None:
    task = make(tmp_path)
    reports: list[tuple[int, int]] = []
    result = task.evaluate(read, "test", batch_size=batch_size, progress=lambda *pair: reports.append(pair))
    assert result.metrics["accuracy"] == 1.0
    assert result.metrics["loss"] == pytest.approx(np.log1p(2 * np.exp(-10)), rel=1e-3)
    assert result.symbols == 21 * 16
    assert reports[-1] == (21, 21)

    def zero(tokens: Tensor, mask: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        return torch.tensor([[1.0, 0.0, 0.0]]).expand(len(tokens), 3), state

    share = float((task.split("test").labels == 0).mean())
    assert task.evaluate(zero, "test", batch_size=batch_size).metrics["accuracy"] == share


def test_slices_and_limits(tmp_path: Path) -> None:
    rows = make(tmp_path).evaluate(read, "test", batch_size=4).slices
    assert rows == [
        {"number_from": 0, "number_to": 5, "n": 5, "accuracy": 1.0},
        {"number_from": 5, "number_to": 20, "n": 15, "accuracy": 1.0},
        {"number_from": 20, "number_to": 100, "n": 1, "accuracy": 1.0},
    ]
    task = make(tmp_path, test_limit=4, val_limit=2)
    assert task.evaluate(read, "test", batch_size=3).slices[0]["n"] == 4
    assert task.evaluate(read, "val", batch_size=3).slices[0]["n"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pixels": "colours"}, "task.pixels must be 'tokens' or 'real', got 'colours'"),
        ({"val_limit": 0}, "task.val_limit must be 1 or more, or null for all, got 0"),
    ],
)
def test_wrong_options_get_one_clear_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageConfig(**options)
