"""Long texts: finding, reading and encoding the documents of lm_text, whose card says what they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data._sources import read_columns
from data.base import DataError, Split

Ids = NDArray[np.int64]

SPLITS: tuple[Split, ...] = ("test", "val", "train")  # the order in which a text that stands twice is taken
NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("validation", "valid", "val"),
    "test": ("test",),
}
HINT = (
    "for long text put train.parquet, validation.parquet and test.parquet with a column 'text' (PG-19: data/*.parquet "
    "of huggingface.co/datasets/emozilla/pg19), or .txt files, into DIR/books and set data.root=DIR or MEMATTN_DATA=DIR"
)
FLOORS = "floors.json"


class Corpus(NamedTuple):
    """The documents of one split, one behind the other. The bytes lie on disk."""

    text: NDArray[np.uint8]
    offsets: Ids  # [n+1]: document i is text[offsets[i] : offsets[i + 1]]

    def places(self, size: int) -> Ids:
        """Where a document has ``size`` bytes or more: the first of them, side by side over the document."""
        spans = zip(self.offsets[:-1].tolist(), self.offsets[1:].tolist(), strict=True)
        return np.concatenate([np.arange(start, stop - size + 1, size, dtype=np.int64) for start, stop in spans])

    def windows(self, starts: Ids, size: int) -> Ids:
        """Ids ``[B, size + 1]``: ``size`` bytes from each start, behind the byte (or the document's front) before."""
        ids = np.zeros((len(starts), size + 1), dtype=np.int64)
        opens = np.isin(starts, self.offsets)
        for row, (start, is_front) in enumerate(zip(starts.tolist(), opens.tolist(), strict=True)):
            first = start if is_front else start - 1
            ids[row, first - start + 1 :] = self.text[first : start + size]
            ids[row, first - start + 1 :] += 1
        return ids


# Reading


class FoundText(NamedTuple):
    """A source that was found, not yet read."""

    kind: str  # books, wikitext2, text, loose (.txt files without splits) or hub
    files: dict[Split, Sequence[Path]]
    where: str


def documents(found: FoundText) -> Iterator[tuple[Split, bytes, bytes]]:
    """Split, content and digest of every document, each text once.

    Raises:
        DataError: a file cannot be read, is not UTF-8, is empty or lacks the column ``text``.
    """
    seen: set[bytes] = set()
    for split in SPLITS:
        for text in _read(found, split):
            digest = hashlib.blake2b(text, digest_size=16).digest()
            if digest not in seen:
                seen.add(digest)
                yield split, text, digest


def _read(found: FoundText, split: Split) -> Iterator[bytes]:
    paths = found.files[split]
    if found.kind == "hub":
        lines = read_columns(paths, ("text",), HINT).column("text").to_pylist()
        text = "".join(line or "" for line in lines).encode()
        if not text:
            raise DataError(f"{paths[0]}: holds no text; {HINT}")
        yield text
        return
    for path in paths:
        yield from _read_parquet(path) if found.kind == "books" else [_read_text(path)]


def _read_text(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        raw.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 (byte 0x{error.object[error.start]:02x} at {error.start}); "
            "convert it, say with `iconv -f latin1 -t utf8`"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {HINT}") from error
    if not raw:
        raise DataError(f"{path}: is empty; take it out, or fill it")
    return raw


def _read_parquet(path: Path) -> Iterator[bytes]:
    """One book after the other, few at a time."""
    row = 0
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if "text" not in names:
                raise DataError(f"{path}: column 'text' is missing (it has: {', '.join(names)}); {HINT}")
            kind = file.schema_arrow.field("text").type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise DataError(f"{path}: column 'text' holds {kind}, not text; {HINT}")
            for batch in file.iter_batches(batch_size=16, columns=["text"]):
                for text in batch.column(0).to_pylist():
                    if not text:
                        raise DataError(f"{path}: row {row} has no text; take it out, or fill it")
                    yield text.encode()
                    row += 1
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read ({str(error).strip().splitlines()[0]}); {HINT}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 behind row {row} (byte {error.start}); {HINT}") from error


def find_text(folder: Path) -> tuple[str, dict[Split, Sequence[Path]]] | None:
    """Text files by split, or at least three without splits.

    Raises:
        DataError: the folder holds some of the splits only.
    """
    found = {split: next(filter(None, (_text_of(folder, name) for name in NAMES[split])), []) for split in SPLITS}
    missing = [NAMES[split][0] for split in SPLITS if not found[split]]
    if not missing:
        is_wiki = all(paths[0].suffix == ".tokens" for paths in found.values())
        return ("wikitext2" if is_wiki else "text"), dict(found)
    loose = sorted(folder.glob("*.txt"))
    if len(missing) < len(SPLITS):
        raise DataError(f"{folder}: text of the split {missing[0]} is missing; put {missing[0]}.txt there")
    return ("loose", _split_loose(loose)) if len(loose) >= 3 else None


def _text_of(folder: Path, name: str) -> list[Path]:
    single = [path for path in (folder / f"{name}.txt", folder / f"wiki.{name}.tokens") if path.is_file()]
    return single[:1] or sorted((folder / name).glob("*.txt"))


def _split_loose(paths: list[Path]) -> dict[Split, Sequence[Path]]:
    """By a hash of the content: the first twentieth is test, the next val, at least one file each."""
    by_digest = {hashlib.blake2b(_read_text(path), digest_size=16).digest(): path for path in paths}
    order = [by_digest[digest] for digest in sorted(by_digest)]
    if len(order) < 3:
        raise DataError(f"{paths[0].parent}: holds fewer than three different .txt files, one for each split")
    size = max(1, len(order) // 20)
    return {"test": order[:size], "val": order[size : 2 * size], "train": order[2 * size :]}


# Encoding


def write_corpora(folder: Path, texts: Iterator[tuple[Split, bytes]]) -> None:
    """Writes the documents of all splits, and what is known of the test split.

    Raises:
        DataError: a split has no document (each of its texts stands in another split too).
    """
    ends: dict[Split, list[int]] = {split: [0] for split in SPLITS}
    for split, text in texts:
        with (folder / f"{split}_text.bin").open("ab") as file:
            file.write(text)
        ends[split].append(ends[split][-1] + len(text))
    for split in SPLITS:
        if len(ends[split]) == 1:
            raise DataError(f"lm_text: the split {split} has no text of its own; {HINT}")
        np.save(folder / f"{split}_offsets.npy", np.array(ends[split], dtype=np.int64))
    (folder / FLOORS).write_text(json.dumps(byte_entropies(read_corpus(folder, "test"))))


def read_corpus(folder: Path, split: Split) -> Corpus:
    """Opens one split; its bytes stay on disk (memory-mapped)."""
    text = np.memmap(folder / f"{split}_text.bin", dtype=np.uint8, mode="r")
    return Corpus(text, np.load(folder / f"{split}_offsets.npy"))


def byte_entropies(corpus: Corpus, *, chunk: int = 1 << 22) -> dict[str, float]:
    """Bits per byte of the best table of three bytes and of one, both counted in the very text that they predict."""
    counts = np.zeros(1 << 24, dtype=np.int64)  # of three bytes in a row
    singles = np.zeros(256, dtype=np.int64)
    for start, stop in zip(corpus.offsets[:-1].tolist(), corpus.offsets[1:].tolist(), strict=True):
        for first in range(start, stop - 2, chunk):
            text = np.asarray(corpus.text[first : min(first + chunk + 2, stop)], dtype=np.int32)
            codes, numbers = np.unique((text[:-2] << 16) | (text[1:-1] << 8) | text[2:], return_counts=True)
            counts[codes] += numbers
    for first in range(0, len(corpus.text), chunk):
        singles += np.bincount(corpus.text[first : first + chunk], minlength=256)
    before = counts.reshape(1 << 16, 256).sum(1)  # of the two that stand before a third
    return {"order_2_entropy": _entropy(counts) - _entropy(before), "order_0_entropy": _entropy(singles)}


def _entropy(counts: Ids) -> float:
    shares = counts[counts > 0] / max(1, int(counts.sum()))
    return float(-(shares * np.log2(shares)).sum())
