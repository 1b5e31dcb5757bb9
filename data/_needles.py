"""What the prompts of the passkey task state and ask: one puzzle for each kind.

Shape letters: B prompts, N needles, L symbols of a needle, A symbols of an answer, K keys, V values of a key, W symbols
of a name or value, Q symbols of a question.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import factorial, perm
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data._filler import FILLER, Cyclic, Haystack, Noise
from data._symbols import DIGITS, LETTERS, Alphabet, Codec, Ids, Template, draw_distinct, draw_keys, key_split
from data.base import Split


class Wording(NamedTuple):
    """The fixed text of a kind, with gaps."""

    instruction: str
    needle: str
    question: str
    link: str = ""  # of variable tracking: the needle that names a name


_NAMED = "There are keys here. Remember them.\n"
_KEY = "\nThe key {name} is {value}.\n"
_TRACKED = "There are names here. Remember them.\n"
_LET = ("\nLet {name} = {value}.\n", "\nLet {name} = {other}.\n")
WORDINGS = {
    "single": Wording(
        "There is a pass key here. Remember it.\n",
        "\nThe pass key is {value}. Remember it. {value} is the pass key.\n",
        "\nWhat is the pass key? The pass key is ",
    ),
    "multi_key": Wording(_NAMED, _KEY, "\nWhat is the key {name}? The key {name} is "),
    "multi_value": Wording(_NAMED, _KEY, "\nWhat was the key {name} each time? It was "),
    "multi_query": Wording(_NAMED, _KEY, "\nWhat are the keys {names}? They are "),
    "overwrite": Wording(_NAMED, _KEY, "\nWhat is the key {name} now? The key {name} is now "),
    "tracking": Wording(_TRACKED, _LET[0], "\nWhat is {name}? {name} = ", _LET[1]),
    "tracking names": Wording(_TRACKED, _LET[0], "\nWhich names are {value}? They are ", _LET[1]),
}

# What a needle has to do with the question.
TARGET, BEHIND, BEFORE, FREE = range(4)


class Facts(NamedTuple):
    """What a batch of prompts states and asks; needles in the order in which they were thought up."""

    needles: Ids  # [B,N,L]
    question: Ids  # [B,Q]
    answers: Ids  # [B,A]
    needed: NDArray[np.bool_]  # [B,N] whose value is part of the answer, or leads to it
    names: Ids  # [B,K] all that are stated
    values: Ids  # [B,K] all that are stated


class Puzzle(ABC):
    """A kind of question, with all that is fixed about its prompts.

    Args:
        level: "word" or "byte".
        wording: name of the texts in ``WORDINGS``.
        key_digits: width of a value.
        name_letters: width of a name.
    """

    lengths: Ids  # [N] symbols of each needle, in the order in which they stand
    roles: Ids  # [N] what each needle has to do with the question
    num_answers = 1  # values or names that the answer consists of
    answered_by_names = False
    in_order = False  # needles stand in the order in which they were thought up
    num_names = 0  # that a prompt states
    num_values = 1  # that a prompt states

    def __init__(self, level: str, wording: str, *, key_digits: int, name_letters: int) -> None:
        self.wording = WORDINGS[wording]
        named = wording != "single"  # of the named kinds all share one alphabet
        used = [*WORDINGS.values()] if named else [self.wording]
        texts = [text for each in used for text in each]
        self.codec = Codec(level, [*texts, FILLER, *([", ", " ".join(LETTERS)] if named else [])])
        self.values = Alphabet.of(self.codec, DIGITS, key_digits)
        self.names = Alphabet.of(self.codec, LETTERS if named else "", name_letters) if named else self.values
        self.instruction = self.codec.encode(self.wording.instruction)
        self.filler = self.codec.encode(FILLER)
        self.needle = self._template(self.wording.needle)
        self.question = self._template(self.wording.question.format_map(self._listed()))

    def _template(self, text: str) -> Template:
        return Template(
            self.codec, text, {"name": self.names.width, "other": self.names.width, "value": self.values.width}
        )

    def _listed(self) -> dict[str, str]:
        """What stands for the gaps of the question's text: themselves, but a list of names for ``{names}``."""
        names = ", ".join(f"{{name{index}}}" for index in range(self.num_answers))
        return {"name": "{name}", "value": "{value}", "names": names}

    @property
    def answer(self) -> Alphabet:
        """What one part of the answer is."""
        return self.names if self.answered_by_names else self.values

    @property
    def answer_len(self) -> int:
        """Symbols of the whole answer."""
        return self.num_answers * self.answer.width

    @property
    def frame_len(self) -> int:
        """Length of a prompt without any filler."""
        return len(self.instruction) + int(self.lengths.sum()) + len(self.question)

    @property
    @abstractmethod
    def ways(self) -> int:
        """How many answers are left to one who remembers all that was stated but not what belongs to what."""

    @abstractmethod
    def draw(self, rng: np.random.Generator, num_rows: int, split: Split) -> Facts:
        """What ``num_rows`` prompts state and ask."""

    def noise(self, seeds: Ids, facts: Facts) -> Haystack:
        """A haystack made of needles about other names."""
        return Noise(self.needle, self.names, self.values, seeds, facts.names, facts.values)

    def prose(self, origin: Ids) -> Haystack:
        """The papers' five sentences."""
        return Cyclic(self.filler, 0, origin)

    def check_supply(self) -> None:
        """Raises ValueError where a split has too few names or values for a prompt whose own must all differ."""
        names = smallest_split(self.names.size) if self.answered_by_names else self.names.size
        for key, needed, supply in (
            ("name_letters", self.num_names, names),
            ("key_digits", self.num_values, smallest_split(self.values.size)),
        ):
            if 2 * needed > supply:
                raise ValueError(
                    f"task.{key} is too small: a prompt states {needed} different ones of {supply} that a split has, "
                    "and may take half of them"
                )

    def _values(self, rng: np.random.Generator, num_rows: int, split: Split, count: int) -> Ids:
        return draw_distinct(lambda number: draw_keys(rng, number, split, self.values.size), num_rows, count)


def smallest_split(size: int) -> int:
    """Keys, of ``size`` in all, in the split that has fewest."""
    return int(np.bincount(key_split(np.arange(min(size, 10_000))), minlength=3).min())


class Single(Puzzle):
    """One key without a name, stated once: the papers' passkey."""

    ways = 1

    def __init__(self, level: str, *, key_digits: int) -> None:
        super().__init__(level, "single", key_digits=key_digits, name_letters=0)
        self.lengths, self.roles = np.array([len(self.needle)]), np.array([TARGET])

    def draw(self, rng: np.random.Generator, num_rows: int, split: Split) -> Facts:
        """See :class:`Puzzle`."""
        keys = draw_keys(rng, num_rows, split, self.values.size)[:, None]
        needles = self.needle.fill(value=self.values.spell(keys))
        question = np.tile(self.question.ids, (num_rows, 1))
        needed = np.ones((num_rows, 1), dtype=bool)
        return Facts(needles, question, needles[..., self.needle.gaps["value"][0]][:, 0], needed, keys[:, :0], keys)


class Named(Puzzle):
    """K named keys with V values each; the last or all values of the first keys are asked for."""

    def __init__(
        self,
        level: str,
        kind: str,
        *,
        key_digits: int,
        name_letters: int,
        num_keys: int = 1,
        num_values: int = 1,
        num_queries: int = 1,
    ) -> None:
        self.shape, self.num_queries = (num_keys, num_values), num_queries
        self.num_names, self.num_values = num_keys, num_keys * num_values
        self.in_order = kind == "multi_value"  # values are asked for in the order of their appearance
        self.num_answers = num_values if kind == "multi_value" else num_queries
        super().__init__(level, kind, key_digits=key_digits, name_letters=name_letters)
        self.lengths = np.full(self.num_values, len(self.needle))
        needed = np.zeros(self.shape, dtype=bool)
        needed[:num_queries, 0 if kind == "multi_value" else -1 :] = True
        self.needed = needed.ravel()
        roles = np.where(needed, BEHIND, FREE)
        roles[:num_queries][~needed[:num_queries]] = BEFORE  # what was overwritten
        self.roles = roles.ravel()
        self.roles[self.needed.argmax()] = TARGET

    @property
    def ways(self) -> int:
        """See :class:`Puzzle`."""
        return perm(self.num_values, self.num_answers)

    def draw(self, rng: np.random.Generator, num_rows: int, split: Split) -> Facts:
        """See :class:`Puzzle`."""
        num_keys, num_values = self.shape
        names = draw_distinct(lambda number: rng.integers(0, self.names.size, size=number), num_rows, num_keys)
        values = self._values(rng, num_rows, split, self.num_values)
        needles = self.needle.fill(
            name=self.names.spell(names.repeat(num_values, axis=1)), value=self.values.spell(values)
        )
        # Asked in any order: the needle that stands first of all that are needed must not always be asked first.
        turns = rng.permuted(np.tile(np.arange(self.num_queries), (num_rows, 1)), axis=1)
        asked = self.names.spell(np.take_along_axis(names, turns, axis=1))
        gaps = self.question.gaps
        question = self.question.fill(**{name: asked[:, index] for index, name in enumerate(gaps)})
        answers = self.values.spell(values[:, self.needed])
        if self.num_queries > 1:
            answers = np.take_along_axis(answers, turns[..., None], axis=1)
        needed = np.tile(self.needed, (num_rows, 1))
        return Facts(needles, question, answers.reshape(num_rows, -1), needed, names, values)


class Tracking(Puzzle):
    """Chains of names: the first is given a value, each other one the name before it.

    Needles stand level by level: the beginnings of all chains, then their second links, and so on; within a level the
    chains come in any order, so that place never tells which chain a name belongs to.
    """

    in_order = True

    def __init__(
        self, level: str, *, key_digits: int, name_letters: int, num_chains: int, num_hops: int, ask: str
    ) -> None:
        self.num_chains, self.num_levels = num_chains, num_hops + 1
        self.num_names, self.num_values = num_chains * self.num_levels, num_chains
        self.answered_by_names = ask == "names"
        self.num_answers = self.num_levels if self.answered_by_names else 1
        wording = "tracking names" if self.answered_by_names else "tracking"
        super().__init__(level, wording, key_digits=key_digits, name_letters=name_letters)
        self.link = self._template(self.wording.link)
        self.lengths = np.repeat([len(self.needle), len(self.link)], [num_chains, num_chains * num_hops])
        self.roles = np.full(self.num_names, BEHIND)
        self.roles[0] = TARGET

    @property
    def ways(self) -> int:
        """See :class:`Puzzle`."""
        return self.num_chains * factorial(self.num_levels) if self.answered_by_names else self.num_chains

    def draw(self, rng: np.random.Generator, num_rows: int, split: Split) -> Facts:
        """See :class:`Puzzle`."""
        names = draw_distinct(lambda number: self._draw_names(rng, number, split), num_rows, self.num_names)
        values = self._values(rng, num_rows, split, self.num_chains)
        asked = rng.integers(0, self.num_chains, size=num_rows)
        spelt = self.names.spell(names)
        value = self.values.spell(values[np.arange(num_rows), asked])
        needed = np.arange(self.num_names) % self.num_chains == asked[:, None]
        chain = spelt[needed].reshape(num_rows, self.num_levels, -1)
        question = self.question.fill(**({"value": value} if self.answered_by_names else {"name": chain[:, -1]}))
        answers = chain.reshape(num_rows, -1) if self.answered_by_names else value
        levels = np.arange(self.num_names).reshape(self.num_levels, self.num_chains)
        order = rng.permuted(np.tile(levels, (num_rows, 1, 1)), axis=2).reshape(num_rows, -1)
        needles = np.take_along_axis(self._needles(spelt, self.values.spell(values)), order[..., None], axis=1)
        return Facts(needles, question, answers, np.take_along_axis(needed, order, axis=1), names, values)

    def _needles(self, names: Ids, values: Ids) -> Ids:
        """What all chains state, level by level ``[B,N,L]``; the shorter needles end in padding that nobody sees."""
        needles = np.zeros((len(names), self.num_names, self.lengths.max()), dtype=np.int64)
        first = self.num_chains
        needles[:, :first, : len(self.needle)] = self.needle.fill(name=names[:, :first], value=values)
        needles[:, first:, : len(self.link)] = self.link.fill(name=names[:, first:], other=names[:, :-first])
        return needles

    def _draw_names(self, rng: np.random.Generator, count: int, split: Split) -> Ids:
        if self.answered_by_names:
            return draw_keys(rng, count, split, self.names.size)
        return rng.integers(0, self.names.size, size=count)
