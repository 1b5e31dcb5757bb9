"""Drawn shapes: ten classes of grey 32 x 32 pictures, for machines that have no real ones.

A picture is one shape of random place, size, tilt and grey on a ground of another grey, in slanting light and with
noise. The mean brightness says nothing about the class. All draws come from one seed.

Shape letters: n pictures; x and y run over ``[n,32,32]``, in units of the shape's size, y downwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.floating[Any]]
SIDE = 32
_CHUNK = 1000  # pictures drawn at a time


def _bar(x: Grid, y: Grid) -> Grid:
    return np.maximum(np.abs(x) - 0.95, np.abs(y) - 0.28)


def _plus(x: Grid, y: Grid) -> Grid:
    return np.minimum(_bar(x, y), _bar(y, x))


def _triangle(x: Grid, y: Grid) -> Grid:
    return np.maximum(np.abs(x) * 0.87 - y * 0.5, y) - 0.5


#: By class, the distance to the border of the shape: negative inside.
SHAPES: dict[str, Callable[[Grid, Grid], Grid]] = {
    "disc": lambda x, y: np.hypot(x, y) - 0.85,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.7) - 0.2,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) - 0.75,
    "frame": lambda x, y: np.abs(np.maximum(np.abs(x), np.abs(y)) - 0.65) - 0.17,
    "triangle": _triangle,
    "plus": _plus,
    "cross": lambda x, y: _plus((x + y) * np.float32(0.5**0.5), (x - y) * np.float32(0.5**0.5)),
    "lying bar": _bar,
    "standing bar": lambda x, y: _bar(y, x),
    "two discs": lambda x, y: np.hypot(np.abs(x) - 0.55, y) - 0.38,
}


def draw_shapes(num_images: int, *, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pictures ``[n,1024]``, row after row, and their classes, all equally frequent."""
    rng = np.random.Generator(np.random.Philox(seed))
    labels = rng.permutation(np.arange(num_images) % len(SHAPES))
    chunks = [labels[start : start + _CHUNK] for start in range(0, num_images, _CHUNK)]
    return np.concatenate([_draw(chunk, rng) for chunk in chunks]), labels


def _draw(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.uint8]:
    def between(low: float, high: float) -> Grid:
        return rng.uniform(low, high, (len(labels), 1, 1)).astype(np.float32)

    size, tilt = between(6, 12), between(-0.3, 0.3)  # half the width of the shape, in pixels; radians
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float32) - np.float32((SIDE - 1) / 2)
    x, y = columns - between(-1, 1) * (15 - size), rows - between(-1, 1) * (15 - size)
    x, y = (x * np.cos(tilt) + y * np.sin(tilt)) / size, (y * np.cos(tilt) - x * np.sin(tilt)) / size
    cover = np.empty_like(x)
    for label, distance in enumerate(SHAPES.values()):
        own = labels == label
        cover[own] = np.clip(0.5 - distance(x[own], y[own]) * size[own], 0, 1)

    ground, contrast = between(50, 205), between(40, 120) * np.sign(between(-1, 1))
    light = (columns * between(-1, 1) + rows * between(-1, 1)) * np.float32(1.5)
    noise = rng.standard_normal(x.shape, dtype=np.float32) * between(4, 16)
    return np.clip(ground + contrast * cover + light + noise, 0, 255).astype(np.uint8).reshape(len(labels), -1)
