"""CIFAR-10's images as grey pixels, from whatever file holds them.

``Grey`` is what all of them become: pixels ``[n,1024]``, row after row, and labels ``[n]``.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute

from data._sources import Files, column_names, find_parquet, read_columns
from data.base import DataError

SIDE, NUM_CLASSES = 32, 10
HUB_REPO, HUB_CONFIG = "uoft-cs/cifar10", "plain_text"
HINT = (
    f"put {HUB_CONFIG}/*.parquet of huggingface.co/datasets/{HUB_REPO}, or the unpacked cifar-10-batches-py, into "
    "DIR/cifar10 and set data.root=DIR or MEMATTN_DATA=DIR"
)

_SIZE = SIDE * SIDE
_BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}


class Grey(NamedTuple):
    """Images and their classes."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


def grey(red: NDArray[np.uint8], green: NDArray[np.uint8], blue: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """LRA's grey: trunc(255.5 (.2989 R + .5870 G + .1140 B) / 255), as TensorFlow has it.

    In whole numbers, so that no rounding is left to the machine. TensorFlow's own float32 gives the grey beside it for
    one colour in 70,000.
    """
    mixed = 2989 * red.astype(np.int32) + 5870 * green.astype(np.int32) + 1140 * blue.astype(np.int32)
    return (511 * mixed // (2 * 255 * 10_000)).astype(np.uint8)


def find_cifar(root: Path) -> Files | None:
    """The files of both parts, in any layout that :func:`read_cifar` reads; None where there are none.

    Raises:
        DataError: a folder holds one part only, or some of the batches.
    """
    named = (root / "cifar10_gray", root / "cifar10", root / "cifar10" / HUB_CONFIG, root / HUB_CONFIG, root)
    for folder in named:
        files = find_parquet(folder, ("train", "test"))
        if files:
            return files
    for folder in (root / "cifar-10-batches-py", root / "cifar10" / "cifar-10-batches-py", root / "cifar10", root):
        paths = {part: [folder / name for name in names] for part, names in _BATCHES.items()}
        missing = [path for part in paths.values() for path in part if not path.is_file()]
        if not missing:
            return paths
        if len(missing) < 6:
            raise DataError(f"{missing[0]}: missing; {HINT}")
    return None


def read_cifar(paths: Sequence[Path]) -> Grey:
    """One part: parquet or Arrow with ``pixels`` (grey) or ``img`` (PNG) and ``label``, or batches of Python's.

    Raises:
        DataError: a file cannot be read, or holds something else than 32 x 32 images of ten classes.
    """
    if paths[0].suffix not in (".parquet", ".arrow"):
        parts = [_read_batch(path) for path in paths]
        return Grey(np.concatenate([part.pixels for part in parts]), np.concatenate([part.labels for part in parts]))
    has = column_names(paths[0], HINT)
    name = next((name for name in ("img", "image") if name in has), "pixels")
    table, where = read_columns(paths, (name, "label"), HINT), str(paths[0])
    column = table.column(name)
    pixels = _from_grey(column, where) if name == "pixels" else _from_png(column, where)
    return Grey(pixels, _labels(table.column("label").to_pylist(), where))


def _labels(values: list[Any], where: str) -> NDArray[np.int64]:
    for row, label in enumerate(values):
        if not isinstance(label, int) or not 0 <= label < NUM_CLASSES:
            raise DataError(f"{where}: row {row} has the label {label!r}, not 0 to {NUM_CLASSES - 1}; {HINT}")
    return np.array(values, dtype=np.int64)


def _from_grey(column: pa.ChunkedArray, where: str) -> NDArray[np.uint8]:
    """Rows of 1,024 bytes, or lists of as many numbers."""
    kind = column.type
    is_bytes = pa.types.is_fixed_size_binary(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_bytes and not (is_list and pa.types.is_integer(kind.value_type)):
        raise DataError(f"{where}: column 'pixels' holds {kind}, neither bytes nor lists of whole numbers; {HINT}")
    sizes = compute.binary_length(column) if is_bytes else compute.list_value_length(column)
    sizes = sizes.fill_null(0).to_numpy()
    if (sizes != _SIZE).any():
        row = int(np.flatnonzero(sizes != _SIZE)[0])
        raise DataError(f"{where}: row {row} is an image of {sizes[row]} pixels, not {SIDE} x {SIDE}; {HINT}")
    if is_bytes:
        return np.frombuffer(b"".join(column.to_pylist()), dtype=np.uint8).reshape(-1, _SIZE)
    values = compute.list_flatten(column).to_numpy().reshape(-1, _SIZE)
    wrong = ~((values >= 0) & (values <= 255)).all(axis=1)  # a missing number is NaN here
    if wrong.any():
        raise DataError(f"{where}: row {np.flatnonzero(wrong)[0]} has a pixel that is not 0 to 255; {HINT}")
    return values.astype(np.uint8)


def _from_png(column: pa.ChunkedArray, where: str) -> NDArray[np.uint8]:
    """Images as files, the way that the ``datasets`` library stores them."""
    try:
        from PIL import Image  # not at the top: nothing else here decodes images
    except ImportError as error:
        raise DataError(f"{where}: holds PNG files, which need Pillow: pip install pillow") from error
    pixels = np.empty((len(column), _SIZE), dtype=np.uint8)
    for row, value in enumerate(column.to_pylist()):
        content: Any = value.get("bytes") if isinstance(value, dict) else value
        try:
            with Image.open(io.BytesIO(content or b"")) as image:
                size, colours = image.size, np.asarray(image.convert("RGB"))
        except (OSError, TypeError, SyntaxError) as error:
            raise DataError(f"{where}: row {row} is no image that can be read; {HINT}") from error
        if size != (SIDE, SIDE):
            raise DataError(f"{where}: row {row} is an image of {size[0]} x {size[1]}, not {SIDE} x {SIDE}; {HINT}")
        pixels[row] = grey(colours[..., 0], colours[..., 1], colours[..., 2]).ravel()
    return pixels


class _Unpickler(pickle.Unpickler):
    """Builds arrays and plain values, and calls nothing else that a file may name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.replace("numpy._core", "numpy.core"), name) == ("numpy.core.multiarray", "_reconstruct"):
            return np.empty(0).__reduce__()[0]
        known = {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return known[module, name]


def _read_batch(path: Path) -> Grey:
    """``cifar-10-batches-py``: all red values of an image, then all green, then all blue ones."""
    try:
        with path.open("rb") as file:
            content = _Unpickler(file, encoding="bytes").load()
        data, labels = content[b"data"], content[b"labels"]
    except Exception as error:  # a broken pickle may raise nearly anything
        raise DataError(f"{path}: is no batch of CIFAR-10 ({type(error).__name__}: {error}); {HINT}") from error
    if getattr(data, "shape", None) != (len(labels), 3 * _SIZE) or data.dtype != np.uint8:
        shape = getattr(data, "shape", type(data).__name__)
        raise DataError(f"{path}: holds data of the shape {shape}, not {len(labels)} x {3 * _SIZE} bytes; {HINT}")
    red, green, blue = data.reshape(-1, 3, _SIZE).transpose(1, 0, 2)
    return Grey(grey(red, green, blue), _labels(list(labels), str(path)))
