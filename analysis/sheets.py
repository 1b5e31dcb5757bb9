"""Sheets of sample images, for tasks on images.

    python -m analysis.sheets IMAGES.npz results/figures/lra_pathfinder_samples

``IMAGES.npz`` holds ``images`` [n,h,w] and ``captions`` [n]; this room knows no task that could make them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray


def sample_sheet(
    images: NDArray[np.uint8], captions: Sequence[str], *, columns: int = 4, inches: float = 1.6
) -> Figure:
    """Images in rows, each with its caption above it.

    Args:
        images: grey, [n,h,w].
        captions: one for each image.
        columns: images in a row.
        inches: width of an image.
    """
    if len(images) != len(captions) or not len(images):
        raise ValueError(f"{len(images)} images and {len(captions)} captions: there must be as many, and at least one")
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(columns * inches, rows * (inches + 0.25)), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image, caption in zip(axes.flat, images, captions, strict=False):
        axis.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_title(caption, fontsize=7)
    figure.tight_layout(pad=0.4)
    plt.close(figure)
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw a sheet of sample images.")
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    chosen = parser.parse_args()
    with np.load(chosen.images) as loaded:
        sheet = sample_sheet(loaded["images"], [str(caption) for caption in loaded["captions"]])
    sheet.savefig(chosen.out.with_suffix(".png"), dpi=100)
