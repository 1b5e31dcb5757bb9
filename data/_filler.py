"""What stands around the needles of the passkey task, symbol by symbol wherever it is asked for.

Nothing is held but a period, a memory-mapped text or a seed, so that a million symbols cost no more than a chunk.
Shape letters: B prompts, C symbols of a chunk, S sentences, L symbols of a sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from data._symbols import STREAMS, Alphabet, Ids, Template, key_split, mix

FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
NUM_SEEDS = 2**62  # of the noise; its rows never share one


class Haystack(Protocol):
    """The fillers of a batch of prompts, each endless."""

    def at(self, index: Ids) -> Ids:
        """Symbols ``[B,C]`` at these places of each filler; may be called for any piece, in any order."""

    def rows(self, start: int, stop: int) -> Haystack:
        """Those of some prompts."""


class Cyclic(NamedTuple):
    """A text that is read over and over again, by each prompt from another place on."""

    text: NDArray[np.integer]  # of any width, so that a memory-mapped text of bytes is never copied
    shift: int  # what makes a symbol an id
    origin: Ids  # [B] where each prompt begins to read

    def at(self, index: Ids) -> Ids:
        """See :class:`Haystack`."""
        symbols = self.text[(self.origin[:, None] + index) % len(self.text)]
        return symbols.astype(np.int64) + self.shift if self.shift else symbols

    def rows(self, start: int, stop: int) -> Cyclic:
        """See :class:`Haystack`."""
        return self._replace(origin=self.origin[start:stop])


class Noise(NamedTuple):
    """Needles without an end, none of which says anything about a name or a value that the prompt is about."""

    template: Template
    names: Alphabet
    values: Alphabet
    seeds: Ids  # [B]
    taken_names: Ids  # [B,K] stated by the prompt
    taken_values: Ids  # [B,K]

    def at(self, index: Ids) -> Ids:
        """See :class:`Haystack`."""
        length = len(self.template)
        first, last = int(index.min()) // length, int(index.max()) // length
        sentences = self._sentences(np.arange(first, last + 1))
        return np.take_along_axis(sentences.reshape(len(self.seeds), -1), index - first * length, axis=1)

    def rows(self, start: int, stop: int) -> Noise:
        """See :class:`Haystack`."""
        seeds, names, values = (part[start:stop] for part in (self.seeds, self.taken_names, self.taken_values))
        return self._replace(seeds=seeds, taken_names=names, taken_values=values)

    def _sentences(self, numbers: Ids) -> Ids:
        """Sentences ``[B,S,L]`` with these numbers: a hash of seed and number says what they state."""
        random = mix(mix(self.seeds.astype(np.uint64))[:, None] + numbers.astype(np.uint64))
        names = (random % np.uint64(self.names.size)).astype(np.int64)
        values = (mix(random) % np.uint64(self.values.size)).astype(np.int64)
        names = _next_that(names, self.names.size, lambda found: ~_within(found, self.taken_names))
        values = _next_that(
            values,
            self.values.size,  # of train, lest training meets what is asked in a test
            lambda found: (key_split(found) == STREAMS["train"]) & ~_within(found, self.taken_values),
        )
        return self.template.fill(name=self.names.spell(names), value=self.values.spell(values))


def _within(found: Ids, taken: Ids) -> NDArray[np.bool_]:
    return (found[:, :, None] == taken[:, None, :]).any(-1)


def _next_that(numbers: Ids, size: int, fits: Callable[[Ids], NDArray[np.bool_]]) -> Ids:
    """The numbers themselves, or the nearest above (round the end) that fits."""
    while not (fine := fits(numbers)).all():
        numbers = np.where(fine, numbers, (numbers + 1) % size)
    return numbers
