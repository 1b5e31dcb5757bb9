"""What lra_pathfinder and lra_pathx share: pictures that are generated, or read in the Long Range Arena's layout."""

from __future__ import annotations

import hashlib
import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data import _snakes
from data._classify import SPLITS
from data._images import ImageConfig, Images, ImageTask, read_images, slice_by
from data._sources import build_once
from data.base import DataError, Source, Split

#: The folder of each difficulty in LRA's archive, by dashes of a target.
FOLDERS = {6: "curv_baseline", 9: "curv_contour_length_9", 14: "curv_contour_length_14"}
FACTS = ("distance", "distractors")

_READER = 1  # raise when original files yield other splits
_FIRST = {"train": 0, "val": 1 << 30, "test": 1 << 31}  # number of the first generated picture of a split
_CHUNK = 128  # pictures between two marks of progress


@dataclass(frozen=True, kw_only=True)
class PathfinderConfig(ImageConfig):
    """Options of both tasks."""

    num_train: int = 160_000
    """Training images: so many are generated, or kept of the original ones."""
    val_limit: int | None = 20_000
    """Validation images: so many are generated, or kept of the original ones; null: 20,000."""
    test_limit: int | None = 20_000
    """Test images: so many are generated, or kept of the original ones; null: 20,000."""
    contour_length: int = 14
    """Dashes of a target: 6 is easy, 9 intermediate, 14 what the Long Range Arena scores."""
    num_distractors: int = 5
    """Distractors asked for in a generated image; those that find no room are left out."""
    generator_seed: int = 0
    """Another one generates other images, the same for every seed of a run."""
    source: str = "auto"
    """"folder" reads original images, "generated" makes them; "auto": folder, if data.root is set or MEMATTN_DATA has
    them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.contour_length not in FOLDERS:
            raise ValueError(f"task.contour_length must be 6, 9 or 14, got {self.contour_length}")
        if self.source not in ("auto", "folder", "generated"):
            raise ValueError(f"task.source must be 'auto', 'folder' or 'generated', got '{self.source}'")
        for key, least in (("num_train", 1), ("num_distractors", 0), ("generator_seed", 0)):
            if getattr(self, key) < least:
                raise ValueError(f"task.{key} must be {least} or more, got {getattr(self, key)}")


class PathfinderTask(ImageTask):
    """Base of lra_pathfinder and lra_pathx."""

    folder_name: ClassVar[str]  # of LRA's archive
    distance_edges: ClassVar[tuple[float, ...]]  # pixels; slices of the evaluation
    distractor_edges: ClassVar[tuple[float, ...]]
    original_pixels: ClassVar[int]  # along each side

    def __init__(self, config: PathfinderConfig, **options: Any) -> None:
        super().__init__(config, side=self.original_pixels, num_classes=2, **options)
        self.config: PathfinderConfig = config
        self._source: Source | None = None
        self._folder: Path | None = None

    @abstractmethod
    def snakes(self) -> _snakes.SnakeConfig:
        """What generated images look like."""

    def sizes(self) -> dict[Split, int]:
        """Images of each split, if there are enough."""
        config = self.config
        return {"train": config.num_train, "val": config.val_limit or 20_000, "test": config.test_limit or 20_000}

    def locate(self) -> Source:
        """Finds the original images, or names the generator."""
        if self._source is None:
            self._folder = self._find()
            if self._folder is None:
                checksum = _snakes.fingerprint(self.snakes(), self.config.generator_seed)
                hint = f"for the original ones put {self._wanted()} of lra_release into DIR and set data.root=DIR"
                self._source = Source("generated", checksum, f"our own images; {hint}")
            else:
                self._source = Source("lra", checksum_of(self._folder), str(self._folder))
        return self._source

    def _wanted(self) -> str:
        return f"{self.folder_name}/{FOLDERS[self.config.contour_length]}"

    def _find(self) -> Path | None:
        if self.config.source == "generated":
            return None
        root = self.folder
        last = FOLDERS[self.config.contour_length]
        for parts in ((self.folder_name, last), ("lra_release", self.folder_name, last), (last,)):
            if root is not None and root.joinpath(*parts).is_dir():
                return root.joinpath(*parts)
        if self.root is None and self.config.source == "auto":
            return None
        problem = self.lacking(f"no {self._wanted()}")
        raise DataError(f"{self.name}: {problem}; put it there, or set task.source=generated")

    def open_splits(self) -> Mapping[Split, Images]:
        """Opens the images; generates them or reads the original ones, if that was not done before."""
        source = self.locate()
        home = self.cache / self.name
        if self._folder is None:
            folders = {split: self._generate(home / source.checksum[:16], split) for split in SPLITS}
            return {split: read_images(folder, split, FACTS) for split, folder in folders.items()}
        original, side = self._folder, self.original_pixels
        folder = home / f"lra-{source.checksum[:16]}-v{_READER}"
        build_once(folder, lambda partial: read_original(original, side, partial))
        sizes = self.sizes()
        return {split: read_images(folder, split).first(sizes[split]) for split in SPLITS}

    def _generate(self, home: Path, split: Split) -> Path:
        size = self.sizes()[split]
        folder = home / f"{split}-{size}"
        config, seed = self.snakes(), self.config.generator_seed
        build_once(folder, lambda partial: generate(config, seed, split, size, partial), resume=True)
        return folder

    def image_slices(self, images: Images, correct: NDArray[np.bool_]) -> list[dict[str, Any]]:
        """By distance between the discs, which alone gives the label away a little, and by distractors."""
        if not images.facts:
            return []
        by_distance = slice_by("distance", images.facts["distance"], correct, self.distance_edges)
        return by_distance + slice_by("distractors", images.facts["distractors"], correct, self.distractor_edges)


# Generated images


def generate(
    config: _snakes.SnakeConfig, seed: int, split: Split, size: int, folder: Path, num_threads: int | None = None
) -> None:
    """Fills ``folder`` with a split; goes on where a generation that was cut off has left it.

    Threads serve as well as processes would: the compiled loop holds no lock.
    """
    snakes = _snakes.Snakes(config, seed)
    arrays = {
        "pixels": _open_array(folder / f"{split}_pixels.npy", (size, config.side**2), "uint8"),
        "labels": _open_array(folder / f"{split}_labels.npy", (size,), "uint8"),
        **{name: _open_array(folder / f"{split}_{name}.npy", (size,), "float32") for name in FACTS},
    }

    def draw(start: int) -> int:
        for row in range(start, min(start + _CHUNK, size)):
            drawing = snakes.draw(_FIRST[split] + row)
            arrays["pixels"][row] = drawing.pixels.reshape(-1)
            arrays["labels"][row] = drawing.label
            arrays["distance"][row] = drawing.disc_distance
            arrays["distractors"][row] = drawing.num_distractors
        return start

    journal = folder / "done"
    done = _read_journal(journal)
    starts = [start for start in range(0, size, _CHUNK) if start not in done]
    with ThreadPoolExecutor(num_threads or len(os.sched_getaffinity(0))) as pool, journal.open("a") as notes:
        for number, start in enumerate(pool.map(draw, starts), start=1):
            notes.write(f"{start}\n")
            if number % 16 == 0:
                for array in arrays.values():
                    array.flush()
                notes.flush()
    for array in arrays.values():
        array.flush()
    journal.unlink()


def _open_array(path: Path, shape: tuple[int, ...], dtype: str) -> np.memmap[Any, Any]:
    if path.is_file():
        array = np.load(path, mmap_mode="r+")
        assert isinstance(array, np.memmap)
        assert array.shape == shape
        return array
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def _read_journal(path: Path) -> set[int]:
    """Chunks that are done; a last line that was cut off does not count."""
    text = path.read_text() if path.is_file() else ""
    path.write_text(text[: text.rfind("\n") + 1])
    return {int(line) for line in path.read_text().splitlines()}


# Original images


class Row(NamedTuple):
    """One image as the metadata name it."""

    path: Path
    label: int


def checksum_of(folder: Path) -> str:
    """Digest of the metadata and of the images' names and sizes: reading 200,000 images would take minutes.

    Raises:
        DataError: the folder lacks images or metadata.
    """
    for name in ("imgs", "metadata"):
        if not (folder / name).is_dir():
            raise DataError(
                f"{folder}: {name}/ is missing; unpack lra_release again, its layout is imgs/ and metadata/"
            )
    total = hashlib.sha256()
    for path in _metadata_of(folder):
        total.update(path.name.encode() + path.read_bytes())
    for path in sorted((folder / "imgs").iterdir()):
        with os.scandir(path) as entries:
            sizes = sorted((entry.name, entry.stat().st_size) for entry in entries)
        total.update(repr((path.name, sizes)).encode())
    return total.hexdigest()


def _metadata_of(folder: Path) -> list[Path]:
    paths = sorted((folder / "metadata").glob("*.npy"))
    if not paths:
        raise DataError(f"{folder / 'metadata'}: holds no *.npy; unpack lra_release again")
    return paths


def read_metadata(folder: Path) -> Iterator[Row]:
    """Images in the order of a fixed hash of their names; empty files, of which LRA has one, are dropped.

    The metadata are lines of text, whatever their suffix: folder, file, number, label and seven more.
    """
    rows = []
    for path in _metadata_of(folder):
        try:
            lines = path.read_text(encoding="ascii").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}: is not LRA's metadata, which are lines of text; unpack lra_release again"
            ) from error
        for number, line in enumerate(lines, start=1):
            fields = line.split()
            if len(fields) < 4:
                raise DataError(f"{path}:{number}: '{line[:40]}' has no label; the file is cut off or no metadata")
            if fields[3] not in ("0", "1"):
                raise DataError(f"{path}:{number}: the label {fields[3]} is neither 0 nor 1")
            rows.append(Row(folder / fields[0] / fields[1], int(fields[3])))
    rows.sort(key=lambda row: hashlib.blake2b(f"{row.path.parent.name}/{row.path.name}".encode()).digest())
    for row in rows:
        try:
            size = row.path.stat().st_size
        except OSError as error:
            raise DataError(f"{row.path}: is missing, but named in the metadata; unpack lra_release again") from error
        if size:
            yield row


def read_original(folder: Path, side: int, target: Path) -> None:
    """Encodes original images: 80 % train, 10 % validation, 10 % test, by a hash of their names."""
    rows = list(read_metadata(folder))
    bounds = [0, len(rows) * 8 // 10, len(rows) * 9 // 10, len(rows)]
    for split, start, stop in zip(SPLITS, bounds, bounds[1:], strict=False):
        if start == stop:
            raise DataError(f"{folder}: {len(rows)} images are too few for three splits")
        pixels = np.lib.format.open_memmap(
            target / f"{split}_pixels.npy", mode="w+", dtype="uint8", shape=(stop - start, side**2)
        )
        for index, row in enumerate(rows[start:stop]):
            pixels[index] = read_png(row.path, side)
        labels = np.array([row.label for row in rows[start:stop]], dtype=np.int64)
        pixels.flush()
        np.save(target / f"{split}_labels.npy", labels.astype(np.uint8))


def read_png(path: Path, side: int) -> NDArray[np.uint8]:
    """One grey image, flattened.

    Raises:
        DataError: it is no whole image of ``side`` x ``side`` pixels.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L"))
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        raise DataError(f"{path}: is no whole image ({error}); unpack lra_release again") from error
    if pixels.shape != (side, side):
        height, width = pixels.shape
        raise DataError(f"{path}: has {width}x{height} pixels, not {side}x{side}; is it of another data set?")
    return pixels.reshape(-1)
