"""Image: which of ten things does a photograph show, read pixel by pixel? From LRA (arXiv 2011.04006).

Task card
    Source      CIFAR-10 (Krizhevsky 2009), turned grey by LRA's formula. Looked for in
                1. a local folder (data.root or MEMATTN_DATA): cifar10_gray/*.parquet (grey pixels), parquet in the
                   schema of uoft-cs/cifar10 (PNG), or the original cifar-10-batches-py;
                2. the Hugging Face hub, or its cached copy;
                3. shapes drawn by data/_shapes.py: a stand-in, of another difficulty.
                Results name the source: ``cifar10`` (byte for byte the grey images that our numbers are measured on),
                ``cifar10-local``, ``cifar10-hub`` (a folder, or the hub, with others) or ``standin-shapes``. Never
                compare numbers across sources.
    Splits      cifar10: train 45,000, val 5,000, test 10,000; standin-shapes: 18,000, 2,000, 4,000. Val is a tenth of
                the train images, the first by a hash of their 1,024 pixels, whatever ``side`` and seed are. Images of
                train that stand in test pixel for pixel would be dropped (CIFAR-10 has none).
    Vocabulary  pixels=tokens: 257, id = grey + 1, 0 = pad, which no image needs; pixels=real: none, (grey / 255 -
                122.6 / 255) / (61 / 255) as a number, S4's constants.
    Length      side x side, row after row: 1,024, or 256 where side=16 averages 2 x 2 pixels (halves are rounded up).
    Truncated   nothing.
    Metric      accuracy over the whole split; with a limit, over its first images in the order of the hash. Slices
                by class.
    Floors      majority 0.1; logistic regression on CIFAR-10's grey pixels 0.293, on the means of 2 x 2 of them 0.303
                (full-batch L-BFGS, 60 iterations, weight decay 0.003, fitted to train, whole test split); the same
                on standin-shapes 0.135 and 0.148.

Example:
    a photograph whose first row is black, then white, then red, label 6 (frog), pixels=tokens ->
    1 256 77

Unlike LRA: its val are the last 5,000 of the order that TensorFlow Datasets shuffles CIFAR-10 into, other members than
here; its ids are 0 to 255 and black counts as padding in attention (here every pixel is seen); its validation and test
drop the last incomplete batch. Like LRA: no augmentation, no hint of rows and columns. ``pixels=real`` and ``side=16``
are easier and shorter problems than LRA's; only pixels=tokens with side=32 is its Image task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data._cifar import HINT, HUB_CONFIG, HUB_REPO, NUM_CLASSES, Grey, find_cifar, read_cifar
from data._classify import SPLITS, carve
from data._images import ImageConfig, Images, ImageTask, read_images, write_images
from data._shapes import SHAPES, draw_shapes
from data._sources import Files, build_once, find_on_hub, remembered, search
from data.base import DataError, Source, Split

#: Digest of the grey images and labels, in any order.
OFFICIAL_CHECKSUM = "a4497d762756ed2d6ed5ac14c1b74f52437e86fda4159ad0e2c0a68f03431af1"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
#: Test accuracy of multinomial logistic regression on CIFAR-10's grey pixels, by side.
FLOORS = {32: 0.293, 16: 0.303}

_VERSION = 1  # raise when the same source yields other splits or another encoding
_SHAPES = {"train": 20_000, "test": 4_000}
_SHAPES_VERSION = "shapes-1"  # raise when other shapes are drawn


@dataclass(frozen=True, kw_only=True)
class LraImageConfig(ImageConfig):
    """Options of the lra_image task."""

    side: int = 32
    """Pixels along each side: 32, or 16 by averaging 2 x 2 pixels (a quarter of the length; not LRA's task)."""
    source: str = "auto"
    """Where to look: "auto" (folder, hub, standin, in this order) or one of "folder", "hub", "standin"."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side not in (32, 16):
            raise ValueError(f"task.side must be 32 or 16, got {self.side}")
        if self.source not in ("auto", "folder", "hub", "standin"):
            raise ValueError(f"task.source must be 'auto', 'folder', 'hub' or 'standin', got '{self.source}'")


class _Found(NamedTuple):
    """A source that was found, not yet read."""

    kind: str  # folder, hub or standin
    files: Files
    where: str


class LraImage(ImageTask):
    """The lra_image task; see the card on top of this file."""

    name: ClassVar[str] = "lra_image"
    config_class: ClassVar[type] = LraImageConfig
    pixel_mean: ClassVar[float] = 122.6 / 255
    pixel_std: ClassVar[float] = 61.0 / 255

    def __init__(self, config: LraImageConfig, **options: Any) -> None:
        side = config.side if isinstance(config, LraImageConfig) else 32  # what else it may be is refused by Task
        super().__init__(config, side=side, num_classes=NUM_CLASSES, **options)
        self.config: LraImageConfig = config
        self.floors = {"majority": 0.1, "cifar10_logistic_regression": FLOORS[config.side]}
        self._found: _Found | None = None
        self._source: Source | None = None

    # Sources

    def locate(self) -> Source:
        """Finds and verifies the images; a first visit to the hub downloads them."""
        if self._source is None:
            self._found = self._find()
            self._source = self._verify(self._found)
        return self._source

    def _find(self) -> _Found:
        finders = {"folder": self._find_folder, "hub": self._find_hub}
        result = search(self.config.source, self.root, finders)
        if result.found:
            return _Found(result.kind, result.found, result.where)
        if result.wanted in ("auto", "standin"):
            return _Found("standin", {}, "; ".join(result.tried or ["task.source=standin"]))
        raise DataError(
            f"lra_image: no CIFAR-10: {'; '.join(result.tried)}; task.source=standin for a stand-in, or {HINT}"
        )

    def _find_folder(self) -> tuple[Files | None, str]:
        files = None if self.folder is None else find_cifar(self.folder)
        if files:
            return files, str(files["train"][0].parent)
        return None, self.lacking("no cifar10/train.parquet")

    @staticmethod
    def _find_hub() -> tuple[Files | None, str]:
        return find_on_hub(HUB_REPO, HUB_CONFIG, ("train", "test"))

    def _verify(self, found: _Found) -> Source:
        if found.kind == "standin":
            checksum = hashlib.sha256(f"{_SHAPES_VERSION} {_SHAPES}".encode()).hexdigest()
            return Source(
                "standin-shapes", checksum, f"drawn shapes, not photographs ({found.where}); {HINT}", is_standin=True
            )
        paths = [path for part in sorted(found.files) for path in found.files[part]]
        checksum = remembered(self.cache, paths, lambda: content_checksum(_read_parts(found)))
        if checksum == OFFICIAL_CHECKSUM:
            return Source("cifar10", checksum, found.where)
        name = "cifar10-hub" if found.kind == "hub" else "cifar10-local"
        return Source(name, checksum, f"not the grey images that our numbers are measured on ({found.where}); {HINT}")

    # Encoded copies

    def open_splits(self) -> Mapping[Split, Images]:
        """Encodes the images into the cache, once per content and side."""
        source = self.locate()
        assert self._found is not None
        found = self._found

        def build(folder: Path) -> None:
            for split, images in split_images(_read_parts(found)).items():
                pixels = shrink(images.pixels) if self.config.side == 16 else images.pixels
                write_images(folder, split, Images(pixels, images.labels, {}))

        folder = f"{source.name}-{source.checksum[:16]}-{self.config.side}-v{_VERSION}"
        build_once(self.cache / self.name / folder, build)
        return {split: read_images(self.cache / self.name / folder, split) for split in SPLITS}

    def image_slices(self, images: Images, correct: NDArray[np.bool_]) -> list[dict[str, Any]]:
        """Accuracy by class."""
        names = tuple(SHAPES) if self.locate().name == "standin-shapes" else CLASSES
        cells = [(name, correct[images.labels == label]) for label, name in enumerate(names)]
        return [{"class": name, "n": len(hits), "accuracy": float(hits.mean())} for name, hits in cells if len(hits)]


def _read_parts(found: _Found) -> dict[str, Grey]:
    if found.kind == "standin":
        return {part: Grey(*draw_shapes(size, seed=seed)) for seed, (part, size) in enumerate(_SHAPES.items())}
    parts = {part: read_cifar(paths) for part, paths in found.files.items()}
    for part, images in parts.items():
        if len(images.labels) < 10:
            raise DataError(f"{found.files[part][0]}: holds {len(images.labels)} images, too few; {HINT}")
    return parts


def _digests(images: Grey) -> list[bytes]:
    return [hashlib.blake2b(row, digest_size=16).digest() for row in np.ascontiguousarray(images.pixels)]


def content_checksum(parts: Mapping[str, Grey]) -> str:
    """Digest of all images and labels of each part, whatever their order and file format."""
    total = hashlib.sha256()
    for name, part in sorted(parts.items()):
        rows = sorted(
            digest + bytes([label]) for digest, label in zip(_digests(part), part.labels.tolist(), strict=True)
        )
        total.update(name.encode() + b"".join(rows))
    return total.hexdigest()


def split_images(parts: Mapping[str, Grey]) -> dict[Split, Grey]:
    """Train, val and test, each in the order of a hash of the pixels."""
    test, rest, digests = parts["test"], parts["train"], _digests(parts["train"])
    asked = set(_digests(test))
    kept = np.array([digest not in asked for digest in digests], dtype=bool)
    is_val = carve([digest for digest in digests if digest not in asked], int(kept.sum()) // 10)
    rest = Grey(rest.pixels[kept], rest.labels[kept])
    found: dict[Split, Grey] = {
        "train": Grey(rest.pixels[~is_val], rest.labels[~is_val]),
        "val": Grey(rest.pixels[is_val], rest.labels[is_val]),
        "test": test,
    }
    return {split: _sorted(images) for split, images in found.items()}


def _sorted(images: Grey) -> Grey:
    digests = _digests(images)
    order = sorted(range(len(digests)), key=lambda row: (digests[row], images.labels[row]))
    return Grey(images.pixels[order], images.labels[order])


def shrink(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Means of 2 x 2 pixels, halves rounded up: ``[n,1024]`` -> ``[n,256]``."""
    blocks = pixels.reshape(len(pixels), 16, 2, 16, 2).astype(np.uint16)
    return ((blocks.sum(axis=(2, 4)) + 2) // 4).astype(np.uint8).reshape(len(pixels), 256)
