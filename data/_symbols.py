"""Symbols of the passkey task: text and ids, texts with gaps, and the numbers that are written into the gaps.

Shape letters: B prompts, L symbols of a text, W symbols in a gap.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from data.base import Split

Ids = NDArray[np.int64]

DIGITS, LETTERS = "0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
GAP = re.compile(r"\{([a-z]+)\d*\}")
STREAMS: dict[Split, int] = {"train": 0, "val": 1, "test": 2}


class Codec:
    """Symbols of one level: text to ids and back.

    Both levels are encodings of the same text, so they differ in nothing but the alphabet.

    Args:
        level: "word" or "byte".
        texts: all that is ever to be encoded, digits aside; the words in it are the vocabulary of the word level.
    """

    pad = 0

    def __init__(self, level: str, texts: Sequence[str]) -> None:
        self.level = level
        if level == "word":
            words = sorted({word for text in texts for word in self._split(GAP.sub(" ", text))})
            self.symbols = ["<pad>", "<end>", *DIGITS, *words]
            self._ids = {symbol: index for index, symbol in enumerate(self.symbols)}
            self.vocab_size, self.end = len(self.symbols), self._ids["<end>"]
        else:
            self.vocab_size, self.end = 258, 257

    @staticmethod
    def _split(text: str) -> list[str]:
        return re.findall(r"[a-z]+|[^\sa-z]", text.lower())

    def encode(self, text: str) -> Ids:
        """Ids of a text; at word level it may hold nothing but the words of this task."""
        if self.level == "byte":
            return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) + 1
        return np.array([self._ids[word] for word in self._split(text)], dtype=np.int64)

    def decode(self, ids: Sequence[int] | Ids | torch.Tensor) -> str:
        """Readable text of a sequence of ids."""
        numbers = [int(index) for index in ids]
        if self.level == "word":
            return " ".join(self.symbols[index] for index in numbers)
        raw = b"".join(
            bytes([index - 1]) if 1 <= index <= 256 else (b"<end>" if index == self.end else b"<pad>")
            for index in numbers
        )
        return raw.decode("utf-8", errors="replace")


class Alphabet(NamedTuple):
    """All strings of one width over some symbols, numbered from 0: keys are strings of digits, names of letters."""

    symbols: Ids
    width: int

    @classmethod
    def of(cls, codec: Codec, characters: str, width: int) -> Alphabet:
        """Strings of ``width`` of these characters."""
        return cls(np.concatenate([codec.encode(character) for character in characters]), width)

    @property
    def size(self) -> int:
        """How many strings there are."""
        return len(self.symbols) ** self.width

    def spell(self, numbers: Ids) -> Ids:
        """Ids ``[..., W]`` of the strings with these numbers."""
        base = len(self.symbols)
        return self.symbols[numbers[..., None] // base ** np.arange(self.width - 1, -1, -1, dtype=np.int64) % base]


class Template:
    """A text with gaps such as ``{value}``, as ids.

    ``{name0}`` and ``{name1}`` are two gaps of the width of ``name``.
    """

    def __init__(self, codec: Codec, text: str, widths: dict[str, int]) -> None:
        self.gaps: dict[str, list[slice]] = {}
        ids: list[int] = []
        last = 0
        for gap in GAP.finditer(text):
            ids.extend(codec.encode(text[last : gap.start()]).tolist())
            self.gaps.setdefault(gap[0][1:-1], []).append(slice(len(ids), len(ids) + widths[gap[1]]))
            ids.extend([Codec.pad] * widths[gap[1]])
            last = gap.end()
        self.ids = np.array([*ids, *codec.encode(text[last:]).tolist()], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def fill(self, **strings: Ids) -> Ids:
        """The text ``[..., L]`` with strings ``[..., W]`` in its gaps."""
        shape = np.broadcast_shapes(*(string.shape[:-1] for string in strings.values()))
        out = np.broadcast_to(self.ids, (*shape, len(self))).copy()
        for name, places in self.gaps.items():
            for place in places:
                out[..., place] = strings[name]
        return out


def mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scrambles 64 bits: the SplitMix64 finaliser."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def key_split(keys: Ids) -> Ids:
    """Split of each key by a fixed hash: 0 train, 1 val (one key in 20), 2 test (one in 20)."""
    bucket = mix(keys.astype(np.uint64)) % np.uint64(20)
    return np.where(bucket == 0, STREAMS["test"], np.where(bucket == 1, STREAMS["val"], STREAMS["train"]))


def draw_keys(rng: np.random.Generator, count: int, split: Split, size: int) -> Ids:
    """Draws ``count`` of the keys 0 to ``size`` - 1 that belong to a split, uniformly."""
    keys = np.empty(0, dtype=np.int64)
    while len(keys) < count:
        candidates = rng.integers(0, size, size=2 * count if split == "train" else 32 * count)
        keys = np.concatenate([keys, candidates[key_split(candidates) == STREAMS[split]]])
    return keys[:count]


def draw_distinct(draw: Callable[[int], Ids], num_rows: int, count: int) -> Ids:
    """Numbers ``[num_rows, count]`` that differ within a row; ``draw(n)`` yields n numbers."""
    numbers = draw(num_rows * count).reshape(num_rows, count)
    while True:
        order = np.argsort(numbers, axis=1, kind="stable")
        in_order = np.take_along_axis(numbers, order, axis=1)
        repeated = np.zeros(numbers.shape, dtype=bool)
        np.put_along_axis(repeated, order[:, 1:], in_order[:, 1:] == in_order[:, :-1], axis=1)
        if not repeated.any():
            return numbers
        numbers[repeated] = draw(int(repeated.sum()))
