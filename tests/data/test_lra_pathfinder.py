"""Pathfinder and Path-X: generated once and resumably, or read in LRA's layout; nothing is ever mixed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import data
from data import _pathfinder
from data._classify import SPLITS
from data._snakes import SnakeConfig, Snakes
from data.base import DataError
from data.lra_pathfinder import LraPathfinder, LraPathfinderConfig
from data.lra_pathx import LraPathx, LraPathxConfig
from tests.data.checks import one_clear_line

REPOSITORY = Path(__file__).parents[2]
SMALL = {"num_train": 40, "val_limit": 10, "test_limit": 12}


def make(tmp_path: Path, root: Path | None = None, *, seed: int = 0, **options: Any) -> LraPathfinder:
    return LraPathfinder(LraPathfinderConfig(**{**SMALL, **options}), root=root, cache=tmp_path / "cache", seed=seed)


# Generated images


def test_generated_images_are_those_of_the_generator(tmp_path: Path) -> None:
    task = make(tmp_path)
    assert task.locate().name == "generated"
    assert "pathfinder32/curv_contour_length_14" in task.locate().detail
    snakes = Snakes(SnakeConfig())
    for split, first in (("train", 0), ("val", 1 << 30), ("test", 1 << 31)):
        images = task.split(split)  # type: ignore[arg-type]
        for row in (0, 9):
            drawing = snakes.draw(first + row)
            np.testing.assert_array_equal(images.pixels[row], drawing.pixels.reshape(-1))
            assert images.labels[row] == drawing.label
            assert images.facts["distance"][row] == pytest.approx(drawing.disc_distance)
            assert images.facts["distractors"][row] == drawing.num_distractors
    assert [len(task.split(split).labels) for split in SPLITS] == [40, 10, 12]


def test_splits_share_no_image_and_more_images_begin_alike(tmp_path: Path) -> None:
    few, many = make(tmp_path), make(tmp_path, num_train=300)
    np.testing.assert_array_equal(many.split("train").pixels[:40], few.split("train").pixels)
    everything = np.concatenate([many.split(split).pixels for split in SPLITS])
    assert len(np.unique(everything, axis=0)) == len(everything)
    tests = list((tmp_path / "cache" / "lra_pathfinder").glob("*/test-12"))
    assert len(tests) == 1  # both use the same test images


def test_the_seed_of_a_run_changes_the_order_only(tmp_path: Path) -> None:
    one, other = make(tmp_path, seed=0), make(tmp_path, seed=1)
    np.testing.assert_array_equal(one.split("train").pixels, other.split("train").pixels)
    assert not torch.equal(one.train_batch(0, 8).tokens, other.train_batch(0, 8).tokens)
    fresh = make(tmp_path, generator_seed=1)
    assert fresh.locate().checksum != one.locate().checksum
    assert not np.array_equal(fresh.split("test").pixels, one.split("test").pixels)


@pytest.mark.parametrize("option", [{"contour_length": 6}, {"num_distractors": 10}])
def test_what_changes_the_images_changes_the_checksum(tmp_path: Path, option: dict[str, Any]) -> None:
    assert make(tmp_path, **option).locate().checksum != make(tmp_path).locate().checksum


def generate(folder: Path, size: int, *, num_threads: int) -> dict[str, bytes]:
    folder.mkdir(exist_ok=True)
    _pathfinder.generate(SnakeConfig(), 0, "val", size, folder, num_threads)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_any_number_of_threads_makes_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pathfinder, "_CHUNK", 16)
    assert generate(tmp_path / "one", 150, num_threads=1) == generate(tmp_path / "three", 150, num_threads=3)


def test_a_generation_that_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pathfinder, "_CHUNK", 16)
    wanted = generate(tmp_path / "whole", 150, num_threads=1)
    drawn: list[int] = []
    draw = Snakes.draw

    def until_the_end(self: Snakes, number: int) -> Any:
        drawn.append(number)
        if len(drawn) == 70:
            raise KeyboardInterrupt
        return draw(self, number)

    monkeypatch.setattr(Snakes, "draw", until_the_end)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "cut", 150, num_threads=1)
    with (tmp_path / "cut" / "done").open("a") as journal:
        journal.write("12")  # a line that was cut off
    assert generate(tmp_path / "cut", 150, num_threads=1) == wanted
    assert len(drawn) < 70 + 150 - 2 * 16


def test_a_prepared_task_opens_at_once_and_without_a_compiler(tmp_path: Path) -> None:
    make(tmp_path).prepare()
    program = (
        "import sys, time, data.lra_pathfinder as p\n"
        "start = time.perf_counter()\n"
        "task = p.LraPathfinder(p.LraPathfinderConfig(num_train=40, val_limit=10, test_limit=12), cache=sys.argv[1])\n"
        "task.train_batch(0, 8)\n"
        "print(time.perf_counter() - start < 1, 'numba' in sys.modules, 'PIL' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "cache")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=200, check=True)
    assert done.stdout.split() == ["True", "False", "False"]


def test_locating_is_quick(tmp_path: Path) -> None:
    started = time.perf_counter()
    make(tmp_path).locate()
    assert time.perf_counter() - started < 1


def test_slices_by_distance_and_distractors(tmp_path: Path) -> None:
    task = make(tmp_path, test_limit=60)

    def black_is_one(tokens: Tensor, mask: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        assert mask is None
        assert int(tokens.min()) == 1
        return torch.tensor([[0.0, 1.0]]).expand(len(tokens), 2), state

    result = task.evaluate(black_is_one, "test", batch_size=16)
    labels = task.split("test").labels
    assert result.metrics["accuracy"] == labels.mean()
    for name in ("distance", "distractors"):
        rows = [row for row in result.slices if f"{name}_from" in row]
        assert sum(row["n"] for row in rows) == 60
        assert sum(row["n"] * row["accuracy"] for row in rows) == pytest.approx(labels.sum())


def test_path_x_is_longer(tmp_path: Path) -> None:
    task = LraPathx(LraPathxConfig(num_train=3, val_limit=1, test_limit=1), cache=tmp_path)
    batch = task.train_batch(0, 2)
    assert batch.tokens.shape == (2, 16384)
    assert task.config.num_distractors == 17


def test_the_examples_of_the_cards_are_real(tmp_path: Path) -> None:
    for task in (make(tmp_path), LraPathx(LraPathxConfig(num_train=3, val_limit=1, test_limit=1), cache=tmp_path)):
        line = task.card.partition("Example")[2].splitlines()[1]
        row, label = line.split(", label ")
        wanted = bytes(int(symbol) - 1 for symbol in row.split())
        train = task.split("train")
        assert wanted in train.pixels[0].tobytes()
        assert train.labels[0] == int(label)


# Original images


def write_original(root: Path, count: int = 60, side: int = 32) -> Path:
    """LRA's layout, with one empty file."""
    folder = root / "pathfinder32" / "curv_contour_length_14"
    rng = np.random.default_rng(0)
    for part in range(2):
        (folder / "imgs" / str(part)).mkdir(parents=True)
        (folder / "metadata").mkdir(exist_ok=True)
        lines = []
        for number in range(count // 2):
            label = number % 2
            path = folder / "imgs" / str(part) / f"sample_{number}.png"
            pixels = rng.integers(0, 100, (side, side), dtype=np.uint8)
            pixels[0, 0] = 200 + label
            Image.fromarray(pixels).save(path)
            lines.append(f"imgs/{part} sample_{number}.png {number} {label} 1.0 14 4 2 0.5 1 1")
        (folder / "metadata" / f"{part}.npy").write_text("\n".join(lines) + "\n")
    (folder / "imgs" / "1" / "sample_3.png").write_bytes(b"")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_original(tmp_path / "lra")


def test_original_images_are_read_and_named(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make(tmp_path, root, num_train=1000, val_limit=None, test_limit=None)
    assert task.locate().name == "lra"
    assert [len(task.split(split).labels) for split in SPLITS] == [47, 6, 6]  # 59, as one is empty
    everything = np.concatenate([task.split(split).pixels for split in SPLITS])
    assert len(np.unique(everything, axis=0)) == 59
    for split in SPLITS:
        images = task.split(split)
        np.testing.assert_array_equal(images.pixels[:, 0], 200 + images.labels)
    assert task.slices("test", np.ones(6, dtype=bool)) == []
    monkeypatch.setenv("MEMATTN_DATA", str(root))
    assert make(tmp_path).locate() == task.locate()
    assert make(tmp_path, source="generated").locate().name == "generated"
    assert make(tmp_path, root / "pathfinder32").locate() == task.locate()
    assert len(make(tmp_path, root, num_train=5).split("train").labels) == 5


def _write(path: str, content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / path).write_bytes(content)

    return write


def _halve(folder: Path) -> None:
    path = folder / "imgs" / "0" / "sample_0.png"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _remove_metadata(folder: Path) -> None:
    for path in (folder / "metadata").iterdir():
        path.unlink()


def _enlarge(folder: Path) -> None:
    Image.new("L", (64, 64)).save(folder / "imgs" / "0" / "sample_0.png")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "imgs").rename(folder / "images"), r"imgs/ is missing"),
        (_remove_metadata, r"metadata: holds no \*.npy"),
        (_halve, r"sample_0.png: is no whole image"),
        (_write("imgs/0/sample_0.png", b"no image"), r"sample_0.png: is no whole image"),
        (_enlarge, r"sample_0.png: has 64x64 pixels, not 32x32"),
        (_write("metadata/1.npy", b"imgs/1 sample_0.png 0 7 1.0"), r"1.npy:1: the label 7 is neither 0 nor 1"),
        (_write("metadata/1.npy", b"imgs/1 sample_0.png"), r"1.npy:1: 'imgs/1 sample_0.png' has no label"),
        (_write("metadata/1.npy", b"\x93NUMPY\x01"), r"1.npy: is not LRA's metadata"),
        (lambda folder: (folder / "imgs/0/sample_1.png").unlink(), r"sample_1.png: is missing, but named"),
    ],
)
def test_damaged_folders_get_one_clear_line(tmp_path: Path, root: Path, damage: Any, message: str) -> None:
    damage(root / "pathfinder32" / "curv_contour_length_14")
    with one_clear_line(DataError, message) as error:
        make(tmp_path, root).prepare()
    assert str(root) in str(error.value)


def test_a_folder_that_was_asked_for_is_never_replaced(tmp_path: Path, root: Path) -> None:
    with pytest.raises(DataError, match=r"data.root=.* holds no pathfinder32/curv_baseline; .*task.source=generated"):
        make(tmp_path, root, contour_length=6).locate()
    with pytest.raises(DataError, match=r"data.root=.*nowhere is no folder"):
        make(tmp_path, tmp_path / "nowhere").locate()
    with pytest.raises(DataError, match=r"neither data.root nor MEMATTN_DATA is set"):
        make(tmp_path, source="folder").locate()


@pytest.mark.parametrize("name", ["lra_pathfinder", "lra_pathx"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contour_length": 7}, "task.contour_length must be 6, 9 or 14, got 7"),
        ({"source": "web"}, "task.source must be 'auto', 'folder' or 'generated', got 'web'"),
        ({"num_train": 0}, "task.num_train must be 1 or more, got 0"),
        ({"num_distractors": -1}, "task.num_distractors must be 0 or more, got -1"),
        ({"test_limit": 0}, "task.test_limit must be 1 or more, or null for all, got 0"),
    ],
)
def test_wrong_options_get_one_clear_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.config_class(name)(**options)
