"""Sheets of sample images."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.sheets import sample_sheet


def test_every_image_stands_there_with_its_caption() -> None:
    images = np.arange(5 * 8 * 8, dtype=np.uint8).reshape(5, 8, 8)
    figure = sample_sheet(images, [f"label {number}" for number in range(5)], columns=3)
    shown = [axis for axis in figure.axes if axis.images]
    assert len(figure.axes) == 6
    assert [axis.get_title() for axis in shown] == [f"label {number}" for number in range(5)]
    for axis, image in zip(shown, images, strict=True):
        np.testing.assert_array_equal(np.asarray(axis.images[0].get_array()), image)


def test_captions_are_counted() -> None:
    with pytest.raises(ValueError, match="2 images and 1 captions"):
        sample_sheet(np.zeros((2, 4, 4), dtype=np.uint8), ["one"])
