"""Image task: layouts and sources with honest names, LRA's grey, disjoint splits, classes, a stand-in that is one."""

from __future__ import annotations

import io
import itertools
import os
import pickle
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import data.lra_image
from data._cifar import Grey, grey, read_cifar
from data._classify import SPLITS
from data._shapes import SHAPES, draw_shapes
from data.base import DataError
from data.lra_image import CLASSES, LraImage, LraImageConfig, shrink, split_images
from tests.data.checks import one_clear_line

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_cifar = pytest.mark.skipif(not (SHARED / "cifar10_gray").is_dir(), reason="no local copy of CIFAR-10")
SIZES = {"train": 120, "test": 40}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("MEMATTN_DATA", "MEMATTN_CACHE", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.lra_image, "_SHAPES", {"train": 300, "test": 100})


def colours(part: str) -> tuple[NDArray[np.uint8], list[int]]:
    """Images ``[n,32,32,3]`` of noise, and their classes; three of train stand in test, too."""
    rng = np.random.default_rng(1)
    drawn = {name: rng.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8) for name, size in SIZES.items()}
    drawn["test"][:3] = drawn["train"][:3]
    return drawn[part], [row % 10 for row in range(SIZES[part])]


def greys(part: str) -> tuple[NDArray[np.uint8], list[int]]:
    """The same as grey rows."""
    images, labels = colours(part)
    return grey(images[..., 0], images[..., 1], images[..., 2]).reshape(-1, 1024), labels


def png(image: NDArray[np.uint8]) -> bytes:
    """An image as the content of a file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png")
    return buffer.getvalue()


def write_bytes(root: Path) -> None:
    for part in SIZES:
        pixels, labels = greys(part)
        column = pa.array([row.tobytes() for row in pixels], pa.binary(1024))
        (root / "cifar10_gray").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"pixels": column, "label": labels}), root / "cifar10_gray" / f"{part}.parquet")


def write_lists(root: Path) -> None:
    for part in SIZES:
        pixels, labels = greys(part)
        root.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"pixels": pixels.astype(int).tolist(), "label": labels}), root / f"{part}.parquet")


def table_of_files(part: str) -> pa.Table:
    images, labels = colours(part)
    return pa.table({"img": [{"bytes": png(image), "path": None} for image in images], "label": labels})


def write_files(root: Path) -> None:
    folder = root / "cifar10" / "plain_text"
    folder.mkdir(parents=True)
    for part in SIZES:
        pq.write_table(table_of_files(part), folder / f"{part}-00000-of-00001.parquet")


def write_batches(root: Path) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    images, labels = colours("train")
    batches = {f"data_batch_{n + 1}": (images[n * 24 : n * 24 + 24], labels[n * 24 : n * 24 + 24]) for n in range(5)}
    for name, (batch, classes) in (batches | {"test_batch": colours("test")}).items():
        planes = batch.transpose(0, 3, 1, 2).reshape(len(batch), -1)
        (folder / name).write_bytes(pickle.dumps({b"data": planes, b"labels": classes}, protocol=3))


LAYOUTS = {"bytes": write_bytes, "lists": write_lists, "files": write_files, "batches": write_batches}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_bytes(tmp_path / "data")
    return tmp_path / "data"


def make(tmp_path: Path, root: Path | None = None, *, seed: int = 0, **options: Any) -> LraImage:
    return LraImage(LraImageConfig(**options), root=root, cache=tmp_path / "cache", seed=seed)


# Grey


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        ((0, 0, 0), 0),
        ((255, 255, 255), 255),
        ((255, 0, 0), 76),
        ((0, 255, 0), 149),  # 149.98: Pillow and torchvision round to 150
        ((0, 0, 255), 29),
        ((12, 200, 99), 132),
        ((128, 128, 128), 128),
    ],
)
def test_grey_is_lra_s(colour: tuple[int, int, int], expected: int) -> None:
    red, green, blue = (np.array([value], dtype=np.uint8) for value in colour)
    assert grey(red, green, blue).tolist() == [expected]
    assert int(255.5 * (0.2989 * colour[0] + 0.5870 * colour[1] + 0.1140 * colour[2]) / 255) == expected


def test_grey_is_tensorflow_s_but_for_one_colour_in_70_000() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (3, 500_000), dtype=np.uint8)
    scaled = rgb.astype(np.float32) * np.float32(1 / 255)
    mixed = np.float32(0.2989) * scaled[0] + np.float32(0.587) * scaled[1] + np.float32(0.114) * scaled[2]
    difference = (mixed * np.float32(255.5)).astype(np.uint8).astype(int) - grey(*rgb)
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() < 5e-5


def test_grey_images_stay_as_they_are() -> None:
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(grey(every, every, every), every)


# Sources


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_images(layout: str, tmp_path: Path, root: Path) -> None:
    expected = make(tmp_path, root).locate()
    assert expected.name == "cifar10-local"  # its images are not CIFAR-10's
    LAYOUTS[layout](tmp_path / layout)
    task = make(tmp_path, tmp_path / layout)
    assert (task.locate().name, task.locate().checksum) == (expected.name, expected.checksum)
    assert "not the grey images" in task.locate().detail
    assert {split: len(task.split(split).labels) for split in SPLITS} == {"train": 106, "val": 11, "test": 40}


def test_the_environment_names_a_folder_too(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMATTN_DATA", str(root))
    assert make(tmp_path).locate() == make(tmp_path, root).locate()
    assert make(tmp_path, source="standin").locate().name == "standin-shapes"


def test_the_cached_copy_of_the_hub_is_read(tmp_path: Path, root: Path) -> None:
    folder = tmp_path / "hf" / "datasets" / "uoft-cs___cifar10" / "plain_text" / "0.0.0" / "abc"
    folder.mkdir(parents=True)
    for part in SIZES:
        table = table_of_files(part)
        with (
            pa.OSFile(str(folder / f"cifar10-{part}.arrow"), "wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as out,
        ):
            out.write_table(table)
    source = make(tmp_path).locate()
    assert (source.name, source.checksum) == ("cifar10-hub", make(tmp_path, root).locate().checksum)
    assert make(tmp_path, root).locate().name == "cifar10-local"  # a folder comes first


def test_checksum_is_of_the_content_in_any_order(tmp_path: Path, root: Path) -> None:
    before = make(tmp_path, root).locate().checksum
    path = root / "cifar10_gray" / "train.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take(list(range(SIZES["train"]))[::-1]), path, compression="gzip")
    assert make(tmp_path, root).locate().checksum == before
    labels = [(label + 1) % 10 for label in table["label"].to_pylist()]
    pq.write_table(table.set_column(1, "label", [labels]), path)
    assert make(tmp_path, root).locate().checksum != before


def test_a_folder_that_was_asked_for_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"data.root=.*empty holds no cifar10/train.parquet; task.source=standin for a"):
        make(tmp_path, tmp_path / "empty").locate()
    with pytest.raises(DataError, match=r"data.root=.*nowhere is no folder"):
        make(tmp_path, tmp_path / "nowhere").locate()
    with pytest.raises(DataError, match=r"neither data.root nor MEMATTN_DATA is set"):
        make(tmp_path, source="folder").locate()
    with pytest.raises(DataError, match=r"switched off"):
        make(tmp_path, source="hub").locate()
    monkeypatch.setenv("MEMATTN_DATA", str(tmp_path / "empty"))
    assert "empty holds no cifar10" in make(tmp_path).locate().detail


def table(size: int = 1024, label: Any = 3, *, name: str = "pixels") -> pa.Table:
    """Twelve images, the last of another size and class than it should be, perhaps."""
    rows, labels = [bytes(1024)] * 11 + [bytes(size)], [0] * 11 + [label]
    return pa.table({name: rows, "label": labels})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "test.parquet").unlink(), r"test.parquet is missing; put train.parquet and test"),
        (lambda folder: _cut(folder / "train.parquet"), r"train.parquet: cannot be read"),
        (lambda folder: (folder / "train.parquet").write_bytes(b""), r"train.parquet: cannot be read"),
        (
            lambda folder: pq.write_table(table(name="picture"), folder / "train.parquet"),
            r"train.parquet: column 'pixels' is missing \(it has: picture, label\)",
        ),
        (
            lambda folder: pq.write_table(table().drop_columns("label"), folder / "test.parquet"),
            r"test.parquet: column 'label' is missing \(it has: pixels\)",
        ),
        (
            lambda folder: pq.write_table(table(784), folder / "test.parquet"),
            r"test.parquet: row 11 is an image of 784 pixels, not 32 x 32",
        ),
        (
            lambda folder: pq.write_table(table(label=10), folder / "train.parquet"),
            r"train.parquet: row 11 has the label 10, not 0 to 9",
        ),
        (
            lambda folder: pq.write_table(table(label=None), folder / "train.parquet"),
            r"train.parquet: row 11 has the label None, not 0 to 9",
        ),
        (
            lambda folder: pq.write_table(pa.table({"pixels": ["a"], "label": [0]}), folder / "train.parquet"),
            r"column 'pixels' holds string, neither bytes nor lists of whole numbers",
        ),
        (
            lambda folder: pq.write_table(pa.table({"pixels": [[256] * 1024], "label": [0]}), folder / "test.parquet"),
            r"test.parquet: row 0 has a pixel that is not 0 to 255",
        ),
        (
            lambda folder: pq.write_table(
                pa.table({"pixels": [None, [0] * 1024], "label": [0, 0]}), folder / "test.parquet"
            ),
            r"test.parquet: row 0 is an image of 0 pixels",
        ),
        (
            lambda folder: pq.write_table(table().slice(0, 3), folder / "train.parquet"),
            r"train.parquet: holds 3 images, too few",
        ),
        (
            lambda folder: pq.write_table(_one_file(b"no png"), folder / "train.parquet"),
            r"train.parquet: row 0 is no image that can be read",
        ),
        (
            lambda folder: pq.write_table(_one_file(png(np.zeros((28, 28, 3), np.uint8))), folder / "train.parquet"),
            r"train.parquet: row 0 is an image of 28 x 28, not 32 x 32",
        ),
    ],
)
def test_damaged_folders_get_one_clear_line(tmp_path: Path, root: Path, damage: Any, message: str) -> None:
    damage(root / "cifar10_gray")
    with one_clear_line(DataError, message) as error:
        make(tmp_path, root).locate()
    assert str(root) in str(error.value)
    assert "uoft-cs/cifar10" in str(error.value) or "test.parquet there" in str(error.value)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _one_file(content: bytes) -> pa.Table:
    return pa.table({"img": [{"bytes": content, "path": None}], "label": [0]})


def test_png_files_without_pillow_get_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path / "data")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r"holds PNG files, which need Pillow: pip install pillow$"):
        make(tmp_path, tmp_path / "data").locate()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nonsense", r"data_batch_3: is no batch of CIFAR-10 \(UnpicklingError"),
        (pickle.dumps(len), r"data_batch_3: is no batch of CIFAR-10 \(UnpicklingError: it asks for builtins.len\)"),
        (pickle.dumps({b"labels": [1]}), r"data_batch_3: is no batch of CIFAR-10 \(KeyError"),
        (pickle.dumps({b"data": 3, b"labels": [1]}), r"data_batch_3: holds data of the shape int, not 1 x 3072 bytes"),
    ],
)
def test_a_batch_is_read_and_never_run(tmp_path: Path, content: bytes, message: str) -> None:
    write_batches(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(content)
    with one_clear_line(DataError, message):
        make(tmp_path, tmp_path).locate()
    path.unlink()
    with pytest.raises(DataError, match=r"data_batch_3: missing; put"):
        make(tmp_path, tmp_path).locate()


# Splits


def test_splits_are_disjoint_and_depend_on_the_pixels_alone(tmp_path: Path, root: Path) -> None:
    task = make(tmp_path, root)
    rows = {split: [bytes(row) for row in task.split(split).pixels] for split in SPLITS}
    assert sorted(map(len, rows.values())) == [11, 40, 106]  # three images of train stand in test
    assert len(set().union(*rows.values())) == 157
    wanted = {bytes(row): label for part in SIZES for row, label in zip(*greys(part), strict=True)}
    assert rows.keys() == set(SPLITS)
    for split in SPLITS:
        assert [wanted[row] for row in rows[split]] == task.split(split).labels.tolist()
    parts = {part: Grey(greys(part)[0][::-1], np.array(greys(part)[1][::-1])) for part in SIZES}
    for split, images in split_images(parts).items():
        assert [bytes(row) for row in images.pixels] == rows[split]
    other = make(tmp_path, root, seed=5)
    assert [bytes(row) for row in other.split("val").pixels] == rows["val"]


def test_equal_images_stay_on_one_side() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 1024), dtype=np.uint8)[np.arange(60) % 30]
    parts = {"train": Grey(pixels, np.zeros(60, dtype=np.int64)), "test": Grey(pixels[:1], np.zeros(1, dtype=np.int64))}
    found = {split: {bytes(row) for row in images.pixels} for split, images in split_images(parts).items()}
    assert len(found["train"]) + len(found["val"]) == 29
    assert not found["train"] & found["val"]


def test_pixels_stay_on_disk_and_are_found_again(tmp_path: Path, root: Path) -> None:
    assert isinstance(make(tmp_path, root).split("train").pixels, np.memmap)
    for path in (root / "cifar10_gray").iterdir():
        stamp = path.stat()
        path.write_bytes(b"x" * stamp.st_size)  # of the same size and time: only the cache can answer
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert len(make(tmp_path, root).split("test").labels) == 40


# Symbols and scores


def test_ids_are_pixels_plus_one(tmp_path: Path, root: Path) -> None:
    task = make(tmp_path, root)
    batch = task.train_batch(0, 16)
    assert batch.tokens.shape == (16, 1024)
    assert (batch.tokens.dtype, batch.mask, task.vocab_size) == (torch.int64, None, 257)
    known = {bytes(row) for row in greys("train")[0]}
    assert all(bytes(row) in known for row in (batch.tokens - 1).to(torch.uint8).numpy())
    red, green, blue = np.array([[0, 255, 255], [0, 255, 0], [0, 255, 0]], dtype=np.uint8)
    ids = " ".join(str(value + 1) for value in grey(red, green, blue).tolist())  # black, white, red
    assert re.search(rf"^ +{ids}$", task.card, re.MULTILINE)  # the card's example


def test_real_pixels_have_s4_s_constants(tmp_path: Path, root: Path) -> None:
    tokens, task = make(tmp_path, root).train_batch(0, 8).tokens, make(tmp_path, root, pixels="real")
    real = task.train_batch(0, 8).tokens
    assert (real.dtype, task.vocab_size) == (torch.float32, None)
    torch.testing.assert_close(real, (tokens - 1 - 122.6) / 61.0)


def test_a_smaller_side_is_the_mean_of_four(tmp_path: Path, root: Path) -> None:
    large, small = make(tmp_path, root), make(tmp_path, root, side=16)
    assert small.max_len == 256
    for split in SPLITS:  # the same images in the same order
        means = large.split(split).pixels.reshape(-1, 16, 2, 16, 2).mean(axis=(2, 4))
        np.testing.assert_array_equal(small.split(split).pixels, np.floor(means + 0.5).reshape(-1, 256))
        np.testing.assert_array_equal(small.split(split).labels, large.split(split).labels)
    assert shrink(np.full((1, 1024), 255, dtype=np.uint8)).tolist() == [[255] * 256]


def test_slices_are_the_classes(tmp_path: Path, root: Path) -> None:
    task = make(tmp_path, root, val_limit=7)

    def frog(tokens: Tensor, mask: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        return torch.nn.functional.one_hot(torch.full((len(tokens),), 6), 10).float(), state

    result = task.evaluate(frog, "test", batch_size=16)
    assert result.metrics["accuracy"] == pytest.approx(0.1)
    assert result.slices == [{"class": name, "n": 4, "accuracy": float(name == "frog")} for name in CLASSES]
    assert sum(row["n"] for row in task.evaluate(frog, "val", batch_size=16).slices) == 7
    shapes = make(tmp_path, source="standin").evaluate(frog, "test", batch_size=64)
    assert [row["class"] for row in shapes.slices] == list(SHAPES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side": 8}, "task.side must be 32 or 16, got 8"),
        ({"source": "web"}, "task.source must be 'auto', 'folder', 'hub' or 'standin', got 'web'"),
        ({"pixels": "grey"}, "task.pixels must be 'tokens' or 'real', got 'grey'"),
        ({"test_limit": 0}, "task.test_limit must be 1 or more, or null for all, got 0"),
    ],
)
def test_wrong_options_get_one_clear_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LraImageConfig(**options)


# The stand-in


def test_a_machine_without_photographs_gets_shapes_and_is_told(tmp_path: Path) -> None:
    task = make(tmp_path)
    source = task.locate()
    assert source.name == "standin-shapes"
    assert "neither data.root nor MEMATTN_DATA is set" in source.detail
    assert "uoft-cs/cifar10" in source.detail
    assert "\n" not in source.detail
    assert {split: len(task.split(split).labels) for split in SPLITS} == {"train": 270, "val": 30, "test": 100}
    rows = [bytes(row) for split in SPLITS for row in task.split(split).pixels]
    assert len(set(rows)) == 400
    assert task.num_classes == len(SHAPES) == len(CLASSES)


def test_shapes_come_from_a_seed_alone() -> None:
    (pixels, labels), again, other = draw_shapes(50, seed=0), draw_shapes(50, seed=0), draw_shapes(50, seed=1)
    np.testing.assert_array_equal(pixels, again[0])
    np.testing.assert_array_equal(labels, again[1])
    assert pixels.shape == (50, 1024)
    assert not (pixels == other[0]).all(axis=1).any()
    assert np.bincount(labels).tolist() == [5] * 10


def test_classes_differ_in_outline_and_not_in_brightness() -> None:
    pixels, labels = draw_shapes(5000, seed=3)
    assert np.ptp([pixels[labels == label].mean() for label in range(10)]) < 12
    assert pixels.std(axis=1).min() > 3  # something is to be seen in every picture
    x, y = np.meshgrid(*2 * [np.linspace(-1, 1, 65, dtype=np.float32)])
    outlines = [distance(x, y) < 0 for distance in SHAPES.values()]
    assert all(0.1 < outline.mean() < 0.8 for outline in outlines)
    assert all((one != other).mean() > 0.05 for one, other in itertools.combinations(outlines, 2))


# The real data


@needs_cifar
def test_real_images_have_the_stated_splits(tmp_path: Path) -> None:
    task = make(tmp_path, SHARED)
    source = task.locate()
    assert source.name == "cifar10"
    assert {split: len(task.split(split).labels) for split in SPLITS} == {"train": 45000, "val": 5000, "test": 10000}
    rows = {split: {bytes(row) for row in task.split(split).pixels} for split in SPLITS}
    assert sum(map(len, rows.values())) == len(set().union(*rows.values())) == 60000
    assert np.bincount(task.split("test").labels).tolist() == [1000] * 10
    train = task.split("train").pixels
    assert train.mean() / 255 == pytest.approx(0.48, abs=0.002)
    assert train.std() / 255 == pytest.approx(0.24, abs=0.002)
    started = time.process_time()
    again = make(tmp_path, SHARED)
    assert again.train_batch(0, 32).tokens.shape == (32, 1024)
    assert time.process_time() - started < 1
    parts = {part: read_cifar([SHARED / "cifar10_gray" / f"{part}.parquet"]) for part in SIZES}
    assert [len(part.labels) for part in parts.values()] == [50000, 10000]
