"""Where needles stand, and prompts that are never held as a whole.

Shape letters: B prompts, N needles, L symbols of a needle, C symbols of a piece, A of an answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from data._filler import Haystack
from data._needles import BEFORE, BEHIND, TARGET, Facts, Puzzle
from data._symbols import Ids


class Placement(NamedTuple):
    """The rules by which needles find their places."""

    puzzle: Puzzle
    block_len: int
    spacing: int | None  # symbols of filler between one needle and the next
    straddle: str  # whether a needle may stand on both sides of a block border: "any", "never" or "always"

    @property
    def frame_len(self) -> int:
        """Length of a prompt without the filler that may stand wherever it likes."""
        return self.puzzle.frame_len + (len(self.puzzle.lengths) - 1) * (self.spacing or 0)

    @property
    def shortest(self) -> int:
        """Length of the shortest prompt in which all needles find a place, and behind which the answer does."""
        lengths, answer_len = self.puzzle.lengths, self.puzzle.answer_len
        if self.puzzle.num_names == 0 and self.straddle == "any":
            return self.frame_len  # whatever the border does to the answer: earlier runs have seen it so
        shortest = self.frame_len
        if self.straddle != "any":
            last = self._forward(np.full((1, len(lengths)), len(self.puzzle.instruction)))[0, -1]
            shortest = int(last + lengths[-1]) + len(self.puzzle.question)
        room = -shortest % self.block_len
        return shortest if room >= min(answer_len, self.block_len - 1) else shortest + room + 1

    def place(self, rng: np.random.Generator, depth: Ids, length: int) -> tuple[Ids, Ids]:
        """Order of the needles and where each begins.

        Args:
            rng: for the needles that may stand anywhere.
            depth: ``[B]`` symbols of free filler before the target; with ``spacing`` before the first needle.
            length: of the prompts.

        Returns:
            Which needle stands first, second, ...: ``[B,N]``; and where they begin ``[B,N]``, ascending.
        """
        lengths = self.puzzle.lengths
        if self.spacing is not None:
            order, _ = self._draw(rng, np.zeros_like(depth), 0)
            prefix = depth[:, None] + self.spacing * np.arange(len(lengths))
        else:
            order, prefix = self._draw(rng, depth, length - self.frame_len)
        starts = len(self.puzzle.instruction) + prefix + np.cumsum(lengths) - lengths
        if self.straddle != "any":
            starts = self._backward(self._forward(starts), length - len(self.puzzle.question))
        return order, starts

    def _draw(self, rng: np.random.Generator, depth: Ids, room: int) -> tuple[Ids, Ids]:
        """Order of the needles and symbols of filler before each ``[B,N]``, ascending; the target's is ``depth``.

        Places are drawn as real numbers, so that order is random also among needles with no filler between them.
        """
        roles = self.puzzle.roles
        if len(roles) == 1:
            return np.zeros((len(depth), 1), dtype=np.int64), depth[:, None]
        draws = rng.random((len(depth), len(roles)))
        target = depth[:, None] + draws[:, roles == TARGET]
        low = np.where(roles == BEHIND, target, 0.0)
        high = np.where(roles == BEFORE, target, room + 1.0)
        places = np.where(roles == TARGET, target, low + draws * (high - low))
        order = np.argsort(places, axis=1)
        prefix = np.minimum(np.take_along_axis(places, order, axis=1).astype(np.int64), room)
        if self.puzzle.in_order:
            order = np.broadcast_to(np.arange(len(roles)), order.shape)
        return order, prefix

    def _forward(self, starts: Ids) -> Ids:
        """Moves needles to the right, to the next place that borders and the needles before leave."""
        moved, free = starts.copy(), np.zeros(len(starts), dtype=np.int64)
        for index, length in enumerate(self.puzzle.lengths):
            start = np.maximum(starts[:, index], free)
            offset = start % self.block_len
            low, high = self._offsets(int(length))
            start = start + np.where(offset < low, low - offset, np.where(offset > high, self.block_len - offset, 0))
            moved[:, index], free = start, start + length
        return moved

    def _backward(self, starts: Ids, end: int) -> Ids:
        """Moves needles that stand beyond ``end``, or too near to one that was moved, to the left."""
        moved, limit = starts.copy(), np.full(len(starts), end)
        for index in reversed(range(starts.shape[1])):
            length = int(self.puzzle.lengths[index])
            start = np.minimum(starts[:, index], limit - length)
            offset = start % self.block_len
            low, high = self._offsets(length)
            start = start - np.where(offset < low, offset + 1, np.where(offset > high, offset - high, 0))
            moved[:, index], limit = start, start
        return moved

    def _offsets(self, length: int) -> tuple[int, int]:
        """First and last place within a block where a needle may begin."""
        if self.straddle == "never":
            return 0, self.block_len - length
        return max(0, self.block_len - length + 1), self.block_len - 1


class Prompts(NamedTuple):
    """Prompts of one common length, as the few numbers that define them; symbols are made on demand."""

    puzzle: Puzzle
    length: int
    haystack: Haystack
    starts: Ids  # [B,N] where needles begin, ascending
    facts: Facts  # with needles in the order in which they stand

    @classmethod
    def build(
        cls, placement: Placement, haystack: Haystack, facts: Facts, places: tuple[Ids, Ids], length: int
    ) -> Prompts:
        """Puts needles at their places."""
        order, starts = places
        needles = np.take_along_axis(facts.needles, order[..., None], axis=1)
        needed = np.take_along_axis(facts.needed, order, axis=1)
        return cls(placement.puzzle, length, haystack, starts, facts._replace(needles=needles, needed=needed))

    @property
    def answers(self) -> Ids:
        """What is to be answered ``[B,A]``."""
        return self.facts.answers

    def symbols(self, start: int, stop: int) -> Ids:
        """The piece ``[B, stop - start]`` of every prompt: a prompt is never held as a whole."""
        puzzle, needles = self.puzzle, self.facts.needles
        letters = np.arange(needles.shape[-1])
        places = self.starts[..., None] + (letters - start)  # [B,N,L]
        here = (letters < puzzle.lengths[:, None]) & (places >= 0) & (places < stop - start)
        rows, columns = np.nonzero(here)[0], places[here]
        is_filler = np.ones((len(needles), stop - start), dtype=bool)
        is_filler[rows, columns] = False
        passed = np.clip(start - self.starts, 0, puzzle.lengths).sum(1) + len(puzzle.instruction)
        filler_index = np.cumsum(is_filler, axis=1) - 1 + (start - passed)[:, None]
        out = self.haystack.at(filler_index)
        out[rows, columns] = needles[here]
        _overlay(out, start, puzzle.instruction[None], 0)
        _overlay(out, start, self.facts.question, self.length - self.facts.question.shape[1])
        return out

    def pieces(self, chunk: int) -> Iterator[Ids]:
        """All prompts from left to right, ``chunk`` symbols at a time."""
        for start in range(0, self.length, chunk):
            yield self.symbols(start, min(start + chunk, self.length))

    def rows(self, start: int, stop: int) -> Prompts:
        """Some of the prompts."""
        parts: list[Any] = [part[start:stop] for part in self.facts]
        facts = Facts(*parts)
        return self._replace(haystack=self.haystack.rows(start, stop), starts=self.starts[start:stop], facts=facts)

    def blocks_between(self, block_len: int) -> Ids:
        """Block borders ``[B]`` between the farthest needle that is needed and the end of the question.

        Counted from the needle's last symbol: from 1 on, nothing of it stands in the block that has to answer.
        """
        ends = np.where(self.facts.needed, self.starts + self.puzzle.lengths - 1, self.length).min(1)
        return (self.length - 1) // block_len - ends // block_len


def _overlay(out: Ids, start: int, part: Ids, position: int) -> None:
    """Writes ``part``, whose place is ``position`` in the prompt, into the piece that begins at ``start``."""
    first, last = max(position, start), min(position + part.shape[1], start + out.shape[1])
    if first < last:
        out[:, first - start : last - start] = part[:, first - position : last - position]
