"""Do two pieces come from the same film review? The stand-in of lra_retrieval, where no pairs of papers are at hand.

A review of at least ``SHORTEST`` bytes gives two pieces of equal length: its beginning and its end. Label 1: both of
one review; label 0: the beginning of one and the end of another. Every piece stands in one pair of each label, and both
texts of a pair are equally long with either label: neither which piece it is nor how long tells anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from data._classify import Sequences
from data._pairs import Example, Text
from data.base import Split

SHORTEST = 1024  # bytes of a review
STEP = 64  # a piece is half a review long, rounded down to a multiple of this, so that others are just as long
VERSION = "same-review-1"  # raise when other pairs come of the same reviews


def pair_reviews(reviews: Sequences, split: Split) -> Iterator[Example]:
    """Pairs of one split: of n reviews n with label 1 and n with label 0.

    A review that stands twice is taken once; one that shares its length with no other is left out.
    """
    for pieces in _by_length(reviews).values():
        if len(pieces) > 1:
            for (begin, end), (_, other) in zip(pieces, [*pieces[1:], pieces[0]], strict=True):
                yield Example(split, 1, begin, end)
                yield Example(split, 0, begin, other)


def _by_length(reviews: Sequences) -> dict[int, list[tuple[Text, Text]]]:
    """Beginning and end of each review, by their length, in the order of a hash."""
    found: dict[bytes, tuple[Text, Text]] = {}
    symbols = np.asarray(reviews.symbols)
    for row in np.flatnonzero(reviews.lengths >= SHORTEST).tolist():
        content = symbols[reviews.offsets[row] : reviews.offsets[row + 1]].tobytes()
        size = len(content) // (2 * STEP) * STEP
        digest = hashlib.blake2b(content, digest_size=16).digest()
        found[digest] = Text.of(content[:size]), Text.of(content[-size:])
    groups: dict[int, list[tuple[Text, Text]]] = {}
    for _, pieces in sorted(found.items()):
        groups.setdefault(len(pieces[0].content), []).append(pieces)
    return groups
