"""Memory operations: copy, reverse, look up, memorise, detect and combine, over one block or very many.

Task card
    Source      generated; the tasks of the Recurrent Memory Transformer: ``copy``, ``reverse`` and ``associative``
                (retrieval) of arXiv 2207.06881, ``memorize``, ``detect`` and ``reasoning`` of arXiv 2304.11062.
    Operations  copy         symbols, ``<go>``, the symbols ``num_copies`` times over
                reverse      symbols, ``<go>``, the symbols from last to first
                associative  ``num_pairs`` pairs of a letter and a digit anywhere in noise, ``? letter <go>``: its digit
                memorize     ``person in place`` at the very start, noise, ``where person <go>``: the place
                detect       the same fact anywhere in the noise
                reasoning    two facts in any order anywhere in the noise: where a person is, and how many doors on the
                             person then goes; the six places stand on a ring. Either fact alone leaves the answer open.
    Length      symbols that are fed to a model (all but the last of the answer), in blocks of ``block_len``. Copy and
                reverse fill their blocks exactly, so 3 blocks of 24 copy 24 symbols twice and 2 blocks reverse 24, as
                in the paper; the other prompts end anywhere inside their last block. All of a batch are equally long.
    Vocabulary  68 symbols, the same for every operation: pad (never needed), 5 marks, 10 digits, 26 letters, 4 persons,
                6 places, 16 words of noise. Copy and reverse use the first ``num_symbols`` letters.
    Splits      training, validation and test draw from three streams of random numbers that never meet.
    Target      the next symbol; only the symbols of the answer weigh, 1 together.
    Metric      accuracy per symbol and exact match of the whole answer, decoded greedily and free-running, by number of
                blocks. The headline is accuracy per symbol over the training lengths. Prompts are streamed in chunks
                with the state handed on, so memory grows with length only if the model's state does.
    Floors      ``guess``: one of the symbols that can be an answer. ``own_block``: right where all that an answer needs
                stands in the block that is being read, a guess elsewhere.
    Truncated   nothing.

Example (one block of 24 each; the office is the last of the ring, the bathroom the first)
    copy         b a h c d d e a <go> b a h c d d e a b a h c d d e a
    reverse      b a h c d d e a b h e c <go> c e h b a e d d c h a b
    associative  a 9 lamp y 5 boat book g 2 glass cat tree bread tree k 5 field cat ? k <go> 5
    memorize     mary in office lamp book bread tree lamp cloud hill stone field cat lamp boat cloud boat book
                 where mary <go> office
    detect       cloud field glass mary in office tree lamp cloud hill stone field cat lamp boat cloud boat book
                 where mary <go> office
    reasoning    glass lamp mary in office lamp cloud hill stone field cat lamp boat cloud boat mary moves 1
                 where mary <go> bathroom

Differs from the papers
    copy, reverse  the symbol count follows the length, and a model meets several lengths; there one per run.
    associative    the pairs lie scattered in noise, since a block is the models' segment; there they stand side by side
                   and segments hold a few symbols.
    memorize, detect, reasoning
                   facts are three symbols from a small vocabulary, trained from scratch; there they are bAbI's
                   sentences, for BERT. Noise is 16 words drawn independently, and none of it looks like a fact; there
                   it is QuALITY's prose, with sentences like those of the facts. The class is said as the next symbol;
                   there it is one of six outputs of a classifier. ``reasoning`` adds a number of doors to a place;
                   there two sentences of bAbI are both needed. Chance is 1/6 in both.
    curriculum     each step draws a number of blocks from its stage's range, within one run. There the first three
                   have none that is described, and the last three go on from the checkpoint with one segment less.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from data._generated import (
    Ids,
    Stage,
    check_curriculum,
    decode_greedily,
    distinct,
    evaluation_stream,
    floor_stream,
    generated_source,
    require,
    stage_at,
    training_stream,
    whole_blocks,
)
from data.base import Batch, Device, Evaluation, Kind, Model, Progress, Source, Split, Task, evaluating

MARKS = ("<go>", "?", "where", "in", "moves")
PERSONS = ("mary", "john", "daniel", "sandra")
PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")  # a ring: one door on from each to the next
NOISE = (
    *("boat", "book", "bread", "cat", "cloud", "door", "field", "glass"),
    *("hill", "lamp", "rain", "river", "road", "snow", "stone", "tree"),
)
SYMBOLS = ("<pad>", *MARKS, *"0123456789", *"abcdefghijklmnopqrstuvwxyz", *PERSONS, *PLACES, *NOISE)
OPS = ("copy", "reverse", "associative", "memorize", "detect", "reasoning")

_VERSION = 1  # raise when the same configuration yields other symbols
_ID = {symbol: index for index, symbol in enumerate(SYMBOLS)}
_FLOOR_ROWS = 64  # sequences of a length from which a floor is estimated


@dataclass(frozen=True)
class MemoryOpsConfig:
    """Options of the memory operations."""

    op: str = "copy"
    """copy, reverse, associative, memorize, detect or reasoning."""
    block_len: int = 24
    """Symbols in a block, the unit in which lengths are counted; normally the models' segment length."""
    steps: int = 1000
    """Number of training steps that the curriculum's fractions refer to."""
    curriculum: tuple[Stage, ...] = (Stage(0.3, 1, 2), Stage(0.6, 1, 4), Stage(1.0, 1, 6))
    """Stages of growing length, in order."""
    num_symbols: int = 8
    """Size of the alphabet of copy and reverse."""
    num_copies: int = 2
    """How often copy repeats its symbols."""
    num_pairs: int = 4
    """Pairs of associative."""
    eval_factors: tuple[float, ...] = (1, 2, 4)
    """Test lengths as multiples of the longest training length, besides the training lengths themselves."""
    eval_blocks: tuple[int, ...] | None = None
    """Test lengths in blocks, instead of ``eval_factors``."""
    eval_samples: int = 64
    """Prompts of each test length."""
    val_samples: int = 48
    """Validation prompts, spread over the training lengths."""
    eval_chunk: int = 2048
    """Symbols of each prompt that are streamed through the model at a time (rounded to whole blocks)."""

    def __post_init__(self) -> None:
        for name in ("curriculum", "eval_factors", "eval_blocks"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        _check_config(self)

    @property
    def min_blocks(self) -> int:
        """The shortest training length in blocks."""
        return min(stage.min_blocks for stage in self.curriculum)

    @property
    def max_blocks(self) -> int:
        """The longest training length in blocks."""
        return max(stage.max_blocks for stage in self.curriculum)

    @property
    def shortest(self) -> int:
        """Fewest symbols that hold the operation: one symbol to copy, or all facts and the question."""
        facts = {"copy": self.num_copies - 2, "reverse": -1, "associative": 2 * self.num_pairs, "reasoning": 6}
        return facts.get(self.op, 3) + 3


def _check_config(config: MemoryOpsConfig) -> None:
    require(config, config.op in OPS, "op", f"one of {', '.join(OPS)}")
    for key in ("block_len", "steps", "num_copies", "eval_samples", "val_samples", "eval_chunk"):
        require(config, getattr(config, key) >= 1, key, "1 or more")
    require(config, 2 <= config.num_symbols <= 26, "num_symbols", "2 to 26")
    require(config, 1 <= config.num_pairs <= 26, "num_pairs", "1 to 26")
    require(config, all(factor > 0 for factor in config.eval_factors), "eval_factors", "a list of factors above 0")
    require(config, all(blocks >= 1 for blocks in config.eval_blocks or ()), "eval_blocks", "1 or more each, or null")
    check_curriculum(config.curriculum)
    for blocks in (config.min_blocks, *(config.eval_blocks or ())):
        if blocks * config.block_len < config.shortest:
            raise ValueError(
                f"task.curriculum: {blocks} blocks of block_len={config.block_len} are too short: "
                f"task.op={config.op} takes {config.shortest} symbols at least"
            )


class Prompts(NamedTuple):
    """Prompts of one length, and what is to be said behind them.

    ``needed``: the places in the prompt without which the symbols of an answer cannot be known.
    """

    tokens: Ids  # [B,P]; ends in <go>
    answers: Ids  # [B,A]
    needed: Ids  # [B,A,facts]

    def rows(self, start: int, stop: int) -> Prompts:
        """Some of the prompts."""
        return Prompts(*(part[start:stop] for part in self))


class MemoryOps(Task):
    """The memory operations; see the card on top of this file."""

    name: ClassVar[str] = "memory_ops"
    kind: ClassVar[Kind] = "next_token"
    config_class: ClassVar[type] = MemoryOpsConfig
    metric: ClassVar[str] = "symbol_accuracy"

    def __init__(self, config: MemoryOpsConfig, **options: Any) -> None:
        super().__init__(config, **options)
        self.config: MemoryOpsConfig = config
        self.vocab_size: int = len(SYMBOLS)
        self.num_classes = None
        self.max_len = config.max_blocks * config.block_len
        self.longest_test = max(self.eval_blocks("test")) * config.block_len
        self.floors = self._floors()

    def locate(self) -> Source:
        """A generator's data version is a digest of its options and symbols."""
        return generated_source(_VERSION, self.config, SYMBOLS)

    # Training

    def stage(self, step: int) -> Stage:
        """The stage of the curriculum at a training step."""
        return stage_at(self.config.curriculum, step / self.config.steps)

    def train_batch(self, step: int, batch_size: int) -> Batch:
        """Prompts and answers of one step, all of one length."""
        rng, stage = training_stream(self.seed, step), self.stage(step)
        blocks = int(rng.integers(stage.min_blocks, stage.max_blocks + 1))
        prompts = self.draw(rng, blocks, batch_size)
        sequence = torch.from_numpy(np.concatenate([prompts.tokens, prompts.answers], axis=1))
        num_answers = prompts.answers.shape[1]
        weights = torch.zeros(batch_size, sequence.shape[1] - 1)
        weights[:, -num_answers:] = 1 / num_answers
        return Batch(sequence[:, :-1].contiguous(), None, sequence[:, 1:].contiguous(), weights)

    def draw(self, rng: np.random.Generator, blocks: int, num_rows: int) -> Prompts:
        """Draws prompts that end in their n-th block."""
        config, longest = self.config, blocks * self.config.block_len
        if config.op == "copy":
            return _copy(rng, longest // (1 + config.num_copies), num_rows, config.num_symbols, config.num_copies)
        if config.op == "reverse":
            return _reverse(rng, longest // 2, num_rows, config.num_symbols)
        length = max(longest - int(rng.integers(config.block_len)), config.shortest)
        if config.op == "associative":
            return _associative(rng, length, num_rows, config.num_pairs)
        return _ASKING[config.op](rng, length, num_rows)

    # Evaluation

    def evaluate(
        self,
        model: Model,
        split: Split,
        *,
        batch_size: int,
        device: Device = "cpu",
        progress: Progress | None = None,
    ) -> Evaluation:
        """Decodes the answers at every length; ``progress`` counts symbols, those of the answers included."""
        started = time.perf_counter()
        everything = [(blocks, self.evaluation_prompts(split, blocks)) for blocks in self.eval_blocks(split)]
        total = sum(prompts.tokens.size + prompts.answers.size for _, prompts in everything)
        done, slices = 0, []
        chunk = whole_blocks(self.config.eval_chunk, self.config.block_len)
        with evaluating(model):
            for blocks, prompts in everything:
                correct = np.empty_like(prompts.answers, dtype=bool)
                for first in range(0, len(correct), batch_size):
                    part = prompts.rows(first, first + batch_size)
                    said = decode_greedily(model, part.tokens, correct.shape[1], chunk=chunk, device=device)
                    correct[first : first + batch_size] = said == part.answers
                    done += part.tokens.size + part.answers.size
                    if progress is not None:
                        progress(done, total)
                slices.append(self._row(blocks, prompts, correct))
        return Evaluation(self._metrics(slices), slices, total, time.perf_counter() - started)

    def eval_blocks(self, split: Split) -> list[int]:
        """The lengths of an evaluation in blocks, shortest first; validation asks the training lengths."""
        config = self.config
        trained = set(range(config.min_blocks, config.max_blocks + 1))
        if split == "val":
            return sorted(trained)
        longer = {max(config.min_blocks, round(factor * config.max_blocks)) for factor in config.eval_factors}
        return sorted(trained | (longer if config.eval_blocks is None else set(config.eval_blocks)))

    def evaluation_prompts(self, split: Split, blocks: int) -> Prompts:
        """All prompts of one length of a split."""
        samples = self.config.eval_samples
        if split == "val":
            samples = max(1, self.config.val_samples // len(self.eval_blocks("val")))
        return self.draw(evaluation_stream(split, blocks), blocks, samples)

    def _row(self, blocks: int, prompts: Prompts, correct: NDArray[np.bool_]) -> dict[str, Any]:
        return {
            "op": self.config.op,
            "length_blocks": blocks,
            "length_tokens": prompts.tokens.shape[1] + prompts.answers.shape[1] - 1,
            "factor": blocks / self.config.max_blocks,
            "n": len(correct),
            "exact_match": float(correct.all(-1).mean()),
            "symbol_accuracy": float(correct.mean()),
        }

    def _metrics(self, slices: list[dict[str, Any]]) -> dict[str, float]:
        """Scores by length; the headline is the mean over the training lengths."""
        metrics: dict[str, float] = {}
        for name in ("symbol_accuracy", "exact_match"):
            trained = [row[name] for row in slices if self._is_trained(row["length_blocks"])]
            metrics[name] = float(np.mean(trained))
            metrics |= {f"{name}@{row['length_blocks']}b": row[name] for row in slices}
        return metrics

    def _is_trained(self, blocks: int) -> bool:
        return self.config.min_blocks <= blocks <= self.config.max_blocks

    def _floors(self) -> dict[str, float]:
        """What is reached without memory, over the training lengths."""
        classes = {"copy": self.config.num_symbols, "reverse": self.config.num_symbols, "associative": 10}
        guess = 1 / classes.get(self.config.op, len(PLACES))
        within = [
            _within_block(self.draw(floor_stream(blocks), blocks, _FLOOR_ROWS), self.config.block_len).mean()
            for blocks in range(self.config.min_blocks, self.config.max_blocks + 1)
        ]
        own_block = float(np.mean(within))
        return {"guess": guess, "own_block": own_block + (1 - own_block) * guess}


def _within_block(prompts: Prompts, block_len: int) -> NDArray[np.bool_]:
    """Where all that an answer needs stands in the block in which it is said ``[B,A]``."""
    said_at = prompts.tokens.shape[1] - 1 + np.arange(prompts.answers.shape[1])
    return (prompts.needed // block_len == said_at[:, None] // block_len).all(-1)


def encode(text: str) -> Ids:
    """Ids of symbols that are parted by blanks."""
    return np.array([_ID[symbol] for symbol in text.split()], dtype=np.int64)


def decode(ids: Ids | torch.Tensor) -> str:
    """Symbols of ids."""
    return " ".join(SYMBOLS[int(index)] for index in ids)


# The operations. Each draws prompts of one length for a whole batch at once.


def _copy(rng: np.random.Generator, count: int, num_rows: int, num_symbols: int, num_copies: int) -> Prompts:
    source = _ID["a"] + rng.integers(num_symbols, size=(num_rows, count))
    return _echo(source, np.tile(np.arange(count), num_copies))


def _reverse(rng: np.random.Generator, count: int, num_rows: int, num_symbols: int) -> Prompts:
    source = _ID["a"] + rng.integers(num_symbols, size=(num_rows, count))
    return _echo(source, np.arange(count)[::-1])


def _echo(source: Ids, order: Ids) -> Prompts:
    """Symbols, ``<go>``, and the symbols again in some order."""
    num_rows = len(source)
    tokens = np.concatenate([source, np.full((num_rows, 1), _ID["<go>"])], axis=1)
    return Prompts(tokens, source[:, order], np.broadcast_to(order[None, :, None], (num_rows, len(order), 1)))


def _associative(rng: np.random.Generator, length: int, num_rows: int, num_pairs: int) -> Prompts:
    letters = distinct(rng, 26, num_pairs, num_rows)
    pairs = np.stack([_ID["a"] + letters, _ID["0"] + rng.integers(10, size=(num_rows, num_pairs))], axis=2)
    asked = rng.integers(num_pairs, size=(num_rows, 1))
    key, value = np.take_along_axis(pairs, asked[:, :, None], axis=1)[:, 0].T
    tokens, places = _scatter(rng, pairs, length, _question("?", key))
    return Prompts(tokens, value[:, None], np.take_along_axis(places, asked, axis=1)[:, :, None])


def _memorize(rng: np.random.Generator, length: int, num_rows: int) -> Prompts:
    return _where(rng, length, num_rows, at_start=True)


def _detect(rng: np.random.Generator, length: int, num_rows: int) -> Prompts:
    return _where(rng, length, num_rows, at_start=False)


def _where(rng: np.random.Generator, length: int, num_rows: int, *, at_start: bool) -> Prompts:
    person, place = _people(rng, num_rows), rng.integers(len(PLACES), size=num_rows)
    facts = _facts(person, "in", _ID[PLACES[0]] + place)[:, None]
    tokens, places = _scatter(rng, facts, length, _question("where", person), at_start=at_start)
    return Prompts(tokens, facts[:, 0, 2:], places[:, :, None])


def _reasoning(rng: np.random.Generator, length: int, num_rows: int) -> Prompts:
    person, place = _people(rng, num_rows), rng.integers(len(PLACES), size=num_rows)
    doors = rng.integers(len(PLACES), size=num_rows)
    is_in, moves = _facts(person, "in", _ID[PLACES[0]] + place), _facts(person, "moves", _ID["0"] + doors)
    swapped = rng.integers(2, size=(num_rows, 1)) == 1
    facts = np.stack([np.where(swapped, moves, is_in), np.where(swapped, is_in, moves)], axis=1)
    tokens, places = _scatter(rng, facts, length, _question("where", person))
    answer = _ID[PLACES[0]] + (place + doors) % len(PLACES)
    return Prompts(tokens, answer[:, None], places[:, None])


def _people(rng: np.random.Generator, num_rows: int) -> Ids:
    return _ID[PERSONS[0]] + rng.integers(len(PERSONS), size=num_rows)


def _facts(first: Ids, mark: str, last: Ids) -> Ids:
    return np.stack([first, np.full_like(first, _ID[mark]), last], axis=1)


def _question(mark: str, about: Ids) -> Ids:
    return _facts(np.full_like(about, _ID[mark]), "<go>", about)[:, [0, 2, 1]]


def _scatter(
    rng: np.random.Generator, facts: Ids, length: int, question: Ids, *, at_start: bool = False
) -> tuple[Ids, Ids]:
    """Noise with facts in it, in their order, and a question behind: ``[B,length]`` and where facts begin ``[B,F]``."""
    num_rows, num_facts, fact_len = facts.shape
    num_noise = length - num_facts * fact_len - question.shape[1]
    tokens = _ID[NOISE[0]] + rng.integers(len(NOISE), size=(num_rows, length))
    gaps = np.zeros((num_rows, num_facts), dtype=np.int64)  # noise before each fact
    if not at_start:
        gaps = np.sort(rng.integers(num_noise + 1, size=gaps.shape), axis=1)
    places = gaps + fact_len * np.arange(num_facts)
    for index in range(fact_len):
        np.put_along_axis(tokens, places + index, facts[:, :, index], axis=1)
    tokens[:, -question.shape[1] :] = question
    return tokens, places


_ASKING: dict[str, Callable[[np.random.Generator, int, int], Prompts]] = {
    "memorize": _memorize,
    "detect": _detect,
    "reasoning": _reasoning,
}
