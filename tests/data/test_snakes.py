"""Pictures of snakes: the same anywhere, by the rules, and like those of the original generator."""

from __future__ import annotations

import hashlib
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from data._snakes import Drawing, SnakeConfig, Snakes, fingerprint, make_tables, path_x

REFERENCE = (
    Path(os.environ.get("MEMATTN_DATA") or Path(__file__).parents[2].parent / "shared" / "data") / "pathfinder_ref"
)


def draw(config: SnakeConfig, size: int, *, seed: int = 0) -> list[Drawing]:
    snakes = Snakes(config, seed)
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(snakes.draw, range(size)))


@pytest.fixture(scope="module")
def small() -> list[Drawing]:
    return draw(SnakeConfig(), 2000)


def pixels(drawings: list[Drawing]) -> NDArray[np.uint8]:
    return np.stack([drawing.pixels for drawing in drawings])


def digest(config: SnakeConfig, size: int) -> str:
    return hashlib.sha256(pixels(draw(config, size)).tobytes()).hexdigest()[:16]


def test_a_picture_depends_on_configuration_seed_and_number_only(small: list[Drawing]) -> None:
    snakes = Snakes(SnakeConfig())
    for number in (7, 3, 7, 1999):
        again, wanted = snakes.draw(number), small[number]
        np.testing.assert_array_equal(again.pixels, wanted.pixels)
        assert again[1:] == wanted[1:]
    assert not np.array_equal(Snakes(SnakeConfig(), seed=1).draw(7).pixels, small[7].pixels)
    assert len(np.unique(pixels(small).reshape(2000, -1), axis=0)) == 2000
    assert fingerprint(SnakeConfig(), 0) != fingerprint(SnakeConfig(contour_length=9), 0) != fingerprint(path_x(), 0)


def test_pictures_are_the_same_on_every_machine() -> None:
    """Whoever changes the pictures raises VERSION in _snakes.py and the digests here."""
    assert [digest(SnakeConfig(), 20), digest(path_x(), 3)] == ["f7715f4e634d4e85", "a1121dabbf4d8f58"]


def test_margin_and_label_are_drawn_first() -> None:
    assert {Snakes(path_x()).draw(number).label for number in range(8)} == {0, 1}
    assert len(Snakes(path_x())._tables) == 2


def test_tables_know_the_geometry() -> None:
    tables = make_tables(SnakeConfig(), 1)
    assert len(tables.candidates) == 18
    assert set(np.linalg.norm(tables.candidates, axis=1).round(1)) <= {2.2, 2.8, 3.0, 3.2, 3.6, 2.0}
    assert len(tables.nearby) == 5
    right, down = tables.stamps[180], tables.stamps[270]  # -180 degrees is the first orientation
    assert right[4].argmax() == 3  # the head is in the middle, the dash lies behind it
    assert down[:, 4].argmax() == 3
    assert tables.stamps[tables.stamps.shape[0] - len(tables.candidates) :].max() == 147  # the original's peak, too
    assert (tables.masks >= tables.stamps).mean() > 0.9
    np.testing.assert_array_equal(tables.to_next[[180, 270]], [[0, 4], [4, 0]])


def test_discs_lie_where_the_rules_put_them(small: list[Drawing]) -> None:
    for drawing in small[:200]:
        for y, x in (drawing.origin, drawing.terminal):
            assert min(y, x) >= 2
            assert max(y, x) <= 29  # one pixel of frame, one of gap
        assert drawing.pixels[drawing.origin] > 200
        assert drawing.pixels[drawing.terminal] > 200
        middle = max(abs(axis - 15) for axis in drawing.origin) <= 1
        ring = 5 <= math.dist(drawing.origin, (15, 15)) <= 10
        assert middle or ring
        assert drawing.disc_distance == math.dist(drawing.origin, drawing.terminal)


def test_label_one_joins_the_discs() -> None:
    """Without distractors one can often walk from disc to disc over the dashes just where the label says so."""
    config = replace(path_x(num_distractors=0), margins=(2,))
    right = [joined(drawing, step=5) == bool(drawing.label) for drawing in draw(config, 40)]
    assert np.mean(right) > 0.65  # snakes that come near each other look joined


def joined(drawing: Drawing, *, step: int) -> bool:
    lit = np.argwhere(drawing.pixels > 100)
    near = ((lit[:, None] - lit[None]) ** 2).sum(-1) <= step**2
    reached = (lit == drawing.origin).all(1)
    while True:
        grown = near[reached].any(0)
        if (grown == reached).all():
            return bool(reached[(lit == drawing.terminal).all(1)].all())
        reached = grown


@pytest.mark.parametrize("config", [SnakeConfig(contour_length=6), SnakeConfig(contour_length=9), path_x(6), path_x(9)])
def test_easier_sets_have_shorter_snakes(config: SnakeConfig) -> None:
    size = 300 if config.side == 32 else 10
    lit = [(pixels(draw(one, size)) > 64).mean() for one in (config, replace(config, contour_length=14))]
    assert lit[0] < lit[1]


def test_labels_are_balanced_and_brightness_says_nothing_of_them(small: list[Drawing]) -> None:
    labels = np.array([drawing.label for drawing in small])
    assert labels.mean() == pytest.approx(0.5, abs=0.035)  # three standard errors
    brightness = pixels(small).mean((1, 2))
    means = [brightness[labels == label].mean() for label in (0, 1)]
    assert means[0] == pytest.approx(means[1], abs=4 * brightness.std() / np.sqrt(500))
    assert np.corrcoef(labels, [drawing.num_distractors for drawing in small])[0, 1] == pytest.approx(0, abs=0.09)


def test_distance_between_the_discs_gives_little_away(small: list[Drawing]) -> None:
    labels = np.array([drawing.label for drawing in small])
    distances = np.array([drawing.disc_distance for drawing in small])
    best = max(((distances > edge) == labels).mean() for edge in range(40))
    assert best < 0.58
    middle = [min(np.hypot(y - 15.5, x - 15.5) for y, x in (one.origin, one.terminal)) for one in small]
    assert np.mean(middle) == pytest.approx(3.9, abs=0.25)  # papers/lra.md 5.2, measured on original images


# The original generator: papers/lra.md 5.2 (pixel mean, deviation, zeros, above 64, above 200; distractors placed)

MEASURED = {
    "pf32_hard_nd5": (SnakeConfig(), 2000, 1.27),
    "pf32_hard_nd10": (SnakeConfig(num_distractors=10), 2000, 2.05),
    "pf128_hard_nd17": (path_x(), 100, 14.7),
}


def statistics(images: NDArray[np.uint8]) -> dict[str, float]:
    values = images.astype(np.float64)
    return {
        "mean": values.mean(),
        "deviation": values.std(),
        "zeros": (values == 0).mean(),
        "above 64": (values > 64).mean(),
        "above 200": (values > 200).mean(),
    }


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="no images of the original generator")
@pytest.mark.parametrize("name", MEASURED)
def test_statistics_are_those_of_the_original(name: str) -> None:
    config, size, placed = MEASURED[name]
    drawings = draw(config, size)
    with np.load(REFERENCE / f"{name}.npz") as reference:
        wanted = statistics(reference["x"])
    ours = statistics(pixels(drawings))
    assert (pixels(drawings).max((1, 2)) == 255).all()
    assert ours == pytest.approx(wanted, rel=0.1)
    found = np.mean([drawing.num_distractors for drawing in drawings])
    assert found == pytest.approx(placed, rel=0.25)
