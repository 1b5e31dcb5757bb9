"""Pairs of texts on disk: every text once, one behind the other, and pairs as two numbers of texts.

What reads a source yields :class:`Example` after :class:`Example`; here they become a checksum, and files. Texts are
known by their digest, so that one which stands in a thousand pairs is stored once, whatever the source calls it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data._classify import SPLITS
from data.base import Split

Ids = NDArray[np.int64]


class Text(NamedTuple):
    """A document in memory."""

    content: bytes
    digest: bytes

    @classmethod
    def of(cls, content: bytes) -> Text:
        """With its digest."""
        return cls(content, hashlib.blake2b(content, digest_size=16).digest())


class Example(NamedTuple):
    """A labelled pair in memory."""

    split: Split
    label: int
    first: Text
    second: Text

    @property
    def key(self) -> bytes:
        """A hash of the two texts: pairs stand in its order, so that the first few are a fair sample."""
        return hashlib.blake2b(self.first.digest + self.second.digest, digest_size=16).digest()


class Documents(NamedTuple):
    """All texts of a source. Their bytes lie on disk (memory-mapped)."""

    symbols: NDArray[np.uint8]
    offsets: Ids  # [n+1]: document i is symbols[offsets[i] : offsets[i + 1]]

    @property
    def lengths(self) -> Ids:
        """Bytes of each document."""
        return np.diff(self.offsets)


class Pairs(NamedTuple):
    """The pairs of one split, in the order of a hash of their texts."""

    documents: Ids  # [n,2]
    labels: Ids  # [n]


def content_checksum(examples: Iterable[Example]) -> str:
    """Digest of all pairs and labels of each split, whatever their order and file format."""
    rows: dict[Split, list[bytes]] = {split: [] for split in SPLITS}
    for example in examples:
        rows[example.split].append(example.key + bytes([example.label]))
    total = hashlib.sha256()
    for split in SPLITS:
        total.update(split.encode() + b"".join(sorted(rows[split])))
    return total.hexdigest()


def write_pairs(folder: Path, examples: Iterable[Example]) -> None:
    """Writes the documents as they come and then the pairs of each split."""
    ends, known = [0], dict[bytes, int]()
    rows: dict[Split, list[tuple[bytes, int, int, int]]] = {split: [] for split in SPLITS}
    with (folder / "documents.bin").open("wb") as file:
        for example in examples:
            for text in (example.first, example.second):
                if text.digest not in known:
                    known[text.digest] = len(known)
                    file.write(text.content)
                    ends.append(ends[-1] + len(text.content))
            numbers = known[example.first.digest], known[example.second.digest]
            rows[example.split].append((example.key, example.label, *numbers))
    np.save(folder / "offsets.npy", np.array(ends, dtype=np.int64))
    for split in SPLITS:
        table = [row[1:] for row in sorted(rows[split], key=lambda row: row[:2])]
        np.save(folder / f"{split}.npy", np.array(table, dtype=np.int64).reshape(-1, 3))


def read_documents(folder: Path) -> Documents:
    """Opens the texts that :func:`write_pairs` wrote."""
    return Documents(np.memmap(folder / "documents.bin", dtype=np.uint8, mode="r"), np.load(folder / "offsets.npy"))


def read_pairs(folder: Path, split: Split) -> Pairs:
    """The pairs of one split that :func:`write_pairs` wrote."""
    table = np.load(folder / f"{split}.npy")
    return Pairs(np.ascontiguousarray(table[:, 1:]), np.ascontiguousarray(table[:, 0]))
