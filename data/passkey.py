"""Passkey: find what was said once, somewhere in a long and boring text, and repeat it.

Task card
    Source      generated; the format of Landmark Attention (arXiv 2305.16300) as TransformerFAM (2404.09173,
                section 3.2) and Infini-attention (2404.07143, appendix B) use it. The kinds of question beyond
                theirs are those of RULER (NVIDIA/RULER) and, for what is overwritten, BABILong, in our wording.
    Layout      instruction, filler with needles in it, question, answer, end mark. The question ends in the stem
                that the answer completes. Filler is cut wherever a needle stands.
    Kind        what needles say, and what is asked; each has an example below.
                single       one key, stated twice in one needle
                multi_key    several named keys, one is asked for
                multi_value  one name, several values: all, in the order of their appearance
                multi_query  several named keys, several are asked for, in any order
                overwrite    several values of each name, anywhere among each other: the latest of one name
                tracking     chains of names, each equal to the one before: the value of a last name
                             (``ask: value``), or all names of a value, the first first (``ask: names``)
    Filler      ``period``: five sentences, repeated, from a random phase on. ``text``: film reviews of the
                task lra_text, each split its own, one behind the other, from a random byte on; byte level only.
                ``needles``: needles about other names, drawn anew and without an end (RULER's hardest haystack).
    Depth       share of the filler that stands before the needle: 0 = right behind the instruction, 1 = right
                before the question. Of several: before the first that the answer needs; others that it needs
                stand anywhere behind it, what it overwrites anywhere before it, the rest anywhere. With
                ``spacing``, so many symbols of filler stand between two needles, and depth is that of their group.
    Borders     ``straddle: never`` or ``always`` moves each needle, by less than a block unless it has to make
                room, to the next place where no block border, or one, falls inside it.
    Length      of the prompt (all but answer and end mark), in blocks of ``block_len`` symbols; one of n
                blocks ends somewhere inside the n-th, where the answer still fits behind it: a block of 24
                would else cut one answer in five, the papers' blocks of 1,024 and more cut one in 200. All
                prompts of a batch are equally long.
    Vocabulary  ``level: word``: 35 symbols (lower-case words, single digits, punctuation), 73 for named kinds
                (letters too); ``level: byte``: 258 = pad + 256 bytes (id = byte + 1) + end mark. Pad is 0 and
                never needed.
    Keys        fixed width, and no two of a prompt the same. By a fixed hash one key in 20 belongs to test, one
                in 20 to validation, the rest to training: no key that is asked for at the end was ever an answer
                before. The same holds for names where they are the answer. A name is ``name_letters`` letters.
    Target      the next symbol. The symbols of the answer share a loss weight of ``answer_weight``, all other
                symbols one of ``lm_weight``. The parts of an answer follow one another without a gap.
    Metric      exact match of the whole answer under greedy, free-running decoding and accuracy per symbol; for
                answers of several parts also the share of right parts (``part_match``, RULER's score). By length,
                depth and ``blocks_between``: borders between the farthest needle that is needed and the end of the
                question; from 1 on it lies outside the block that has to answer. Prompts are streamed in chunks
                with the state handed on, so memory grows with length only if the model's state does.
    Floors      ``chance_exact_match`` and ``chance_symbol_accuracy``: guessing symbols (1e-5 and 0.1 for 5 digits).
                ``unbound_exact_match``: guessing among what was stated, all remembered but nothing that binds it.
    Truncated   nothing.

Examples (word level, blocks of 32, step 1 of seed 0)
    kind=single (2 blocks)
        there is a pass key here . remember it . and back again . the grass is green . the sky the pass key
        is 3 8 0 0 9 . remember it . 3 8 0 0 9 is the pass key . what is the pass key ? the pass key is 3 8
        0 0 9 <end>
    kind=multi_key (3 blocks)
        there are keys here . remember them . and back again . the grass is green . the sky is the key t g
        is 0 0 2 0 8 . blue . the sun the key q u is 9 0 7 8 2 . is yellow . here we the key m v is 0 4 8 1
        2 . go the key j w is 9 9 7 3 2 . what is the key j w ? the key j w is 9 9 7 3 2 <end>
    kind=multi_value, num_values=3 (3 blocks)
        there are keys here . remember them . and back again . the grass is green . the sky is blue . the
        sun is yellow . here we go . there and back the key j w is 4 9 4 0 3 . the key j w is 7 3 9 8 5 .
        the key j w is 6 4 5 8 1 . what was the key j w each time ? it was 4 9 4 0 3 7 3 9 8 5 6 4 5 8 1
        <end>
    kind=multi_query (3 blocks)
        there are keys here . remember them . and back again . the grass is green . the the key t g is 0 0 2
        0 8 . sky is blue the key q u is 9 0 7 8 2 . . the sun is yellow the key j w is 9 9 7 3 2 . the key
        m v is 0 4 8 1 2 . what are the keys m v , j w ? they are 0 4 8 1 2 9 9 7 3 2 <end>
    kind=overwrite, num_values=2 (3 blocks)
        there are keys here . remember them . the key j w is 7 3 9 8 5 . and back again . the grass is green
        . the sky the key m v is 0 4 8 1 2 . is blue . the sun is yellow . the key m v is 9 9 7 3 2 . here
        the key j w is 6 4 5 8 1 . what is the key j w now ? the key j w is now 6 4 5 8 1 <end>
    kind=tracking (3 blocks)
        there are names here . remember them . and back again . the grass is green . the sky is blue . the
        sun is yellow . here we go let j w = 0 0 2 0 8 . let m v = 9 0 7 8 2 . let q u = m v . let t g = j w
        . let b g = q u . let z y = t g . what is z y ? z y = 0 0 2 0 8 <end>
    kind=tracking, ask=names, num_chains=1 (2 blocks)
        there are names here . remember them . and back again . the grass is green . the let j w = 0 0 2 0 8
        . let t g = j w . let q u = t g . which names are 0 0 2 0 8 ? they are j w t g q u <end>
    kind=multi_key, num_keys=1, filler=needles (3 blocks)
        there are keys here . remember them . the key p t is 3 6 9 2 5 . the key v f is 5 0 3 0 8 . the key
        j j is 6 4 2 2 4 . the key p l is 3 3 0 3 6 . the key e g is 3 8 0 0 4 the key m v is 7 3 9 8 5 . .
        what is the key m v ? the key m v is 7 3 9 8 5 <end>

Ours, not the papers': the short instruction, the word level, the curriculum of lengths, the loss weights, and all
wording beyond that of ``single``.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from data._filler import FILLER, NUM_SEEDS, Cyclic, Haystack
from data._generated import Stage, stage_at
from data._needles import Facts, Puzzle
from data._passkey_options import PasskeyConfig
from data._prompts import Prompts
from data._symbols import GAP, STREAMS, Ids
from data.base import Batch, Device, Evaluation, Kind, Model, Progress, Source, Split, Task, evaluating
from data.options import identifying

if TYPE_CHECKING:
    from data.lra_text import LraText

_VERSION = 2  # raise when the same configuration yields other symbols
_EVALUATION_SEED = 0  # one validation and one test set for all runs
_ROWS_PER_DEPTH = 4  # prompts of a cell that are equally long; the next ones end elsewhere in the last block


def _generator(*entropy: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))


class _Cell(NamedTuple):
    """One length of an evaluation: every depth, ``samples`` prompts each."""

    blocks: int
    depths: tuple[float, ...]
    samples: int


class _Scores(NamedTuple):
    """What came of a cell: S samples, D depths, A symbols of an answer."""

    cell: _Cell
    correct: NDArray[np.bool_]  # [S,D,A]
    between: NDArray[np.int64]  # [S,D] block borders between needle and question


class Passkey(Task):
    """The passkey task; see the card on top of this file."""

    name: ClassVar[str] = "passkey"
    kind: ClassVar[Kind] = "next_token"
    config_class: ClassVar[type] = PasskeyConfig
    metric: ClassVar[str] = "exact_match"

    def __init__(self, config: PasskeyConfig, **options: Any) -> None:
        super().__init__(config, **options)
        self.config: PasskeyConfig = config
        self.placement = config.placement()
        self.puzzle = self.placement.puzzle
        self.codec = self.puzzle.codec
        self.vocab_size: int = self.codec.vocab_size
        self.num_classes = None
        self.max_len = config.max_blocks * config.block_len + self.puzzle.answer_len
        self.longest_test = max(self.eval_blocks("test")) * config.block_len + self.puzzle.answer_len
        self.floors = _floors(self.puzzle, config.filler)
        self._reviews: LraText | None = None
        if config.filler == "text":
            from data.lra_text import LraText, LraTextConfig  # not at the top: nothing else here needs pyarrow

            self._reviews = LraText(LraTextConfig(), root=options.get("root"), cache=options.get("cache"))

    def locate(self) -> Source:
        """A generator's data version is a digest of its text and options, and of the text that it reads."""
        wording = self.puzzle.wording
        needle = GAP.split(wording.needle + wording.link)[::2]
        parts: list[Any] = [_VERSION, (wording.instruction, FILLER, needle, wording.question), identifying(self.config)]
        name, detail = "generated", "generated from the seed; nothing to download"
        if self._reviews is not None:
            reviews = self._reviews.locate()
            parts.append(reviews.checksum)
            name, detail = f"generated+{reviews.name}", f"generated from the seed, in reviews: {reviews.detail}"
        return Source(name, hashlib.sha256(json.dumps(parts).encode()).hexdigest(), detail)

    def prepare(self) -> None:
        """Encodes and caches the reviews, if any are read."""
        if self._reviews is not None:
            self._reviews.prepare()

    # Training

    def stage(self, step: int) -> Stage:
        """The stage of the curriculum at a training step."""
        return stage_at(self.config.curriculum, step / self.config.steps)

    def prompt_length(self, step: int) -> int:
        """Length in symbols of all prompts of a training step."""
        return self._draw_length(_generator(self.seed, STREAMS["train"], step), self.stage(step))

    def train_batch(self, step: int, batch_size: int) -> Batch:
        """Prompts, keys and end marks of one step, all of one length."""
        rng = _generator(self.seed, STREAMS["train"], step)
        length = self._draw_length(rng, self.stage(step))
        room = length - self.placement.frame_len
        if self.config.depth == "random":
            depth = rng.integers(0, room + 1, size=batch_size)
        else:
            depth = np.full(batch_size, round(float(self.config.depth) * room), dtype=np.int64)
        prompts = self._draw_prompts(rng, "train", length, depth)
        end = np.full((batch_size, 1), self.codec.end, dtype=np.int64)
        sequence = np.concatenate([prompts.symbols(0, length), prompts.answers, end], axis=1)
        tokens = torch.from_numpy(sequence)
        return Batch(tokens[:, :-1].contiguous(), None, tokens[:, 1:].contiguous(), self._weights(batch_size, length))

    def _draw_length(self, rng: np.random.Generator, stage: Stage) -> int:
        blocks = int(rng.integers(stage.min_blocks, stage.max_blocks + 1))
        return self._length_within(blocks, rng)

    def _length_within(self, blocks: int, rng: np.random.Generator) -> int:
        """Symbols of a prompt that ends in its last block, with room for the answer behind it."""
        block_len = self.config.block_len
        room = int(rng.integers(min(self.puzzle.answer_len, block_len - 1), block_len))
        return max(blocks * block_len - room, self.placement.shortest)

    def _draw_prompts(self, rng: np.random.Generator, split: Split, length: int, depth: Ids) -> Prompts:
        """Prompts whose target stands behind so much filler: ``depth [B]``."""
        origin = rng.integers(0, self._num_origins(split), size=len(depth))
        facts = self.puzzle.draw(rng, len(depth), split)
        places = self.placement.place(rng, depth, length)
        return Prompts.build(self.placement, self._haystack(split, origin, facts), facts, places, length)

    def _num_origins(self, split: Split) -> int:
        """Number of places from which a prompt may begin to read its filler, or of seeds for it."""
        if self._reviews is not None:
            return len(self._reviews.split(split).symbols)
        return NUM_SEEDS if self.config.filler == "needles" else len(self.puzzle.filler)

    def _haystack(self, split: Split, origin: Ids, facts: Facts) -> Haystack:
        if self._reviews is not None:
            return Cyclic(self._reviews.split(split).symbols, 1, origin)
        return self.puzzle.noise(origin, facts) if self.config.filler == "needles" else self.puzzle.prose(origin)

    def _weights(self, batch_size: int, length: int) -> torch.Tensor:
        answer_len = self.puzzle.answer_len
        weights = torch.full((length + answer_len,), self.config.lm_weight / length)  # also of the end mark
        weights[length - 1 : length - 1 + answer_len] = self.config.answer_weight / answer_len
        return weights.repeat(batch_size, 1)

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
        """Asks for the key at every length and depth; ``progress`` counts symbols streamed, piece by piece.

        Long prompts take minutes each: whoever waits for a signal, or watches, is told between their pieces.
        """
        started = time.perf_counter()
        cells = self._cells(split)
        total = sum(cell.blocks * self.config.block_len * len(cell.depths) * cell.samples for cell in cells)
        done, scores = 0, []

        def streamed(symbols: int) -> None:
            if progress is not None:
                progress(done + symbols, total)

        with evaluating(model):
            for cell in cells:
                shape = (cell.samples, len(cell.depths))
                correct, between = np.empty((*shape, self.puzzle.answer_len), dtype=bool), np.empty(shape, dtype=int)
                for first, prompts in self._passes(split, cell):
                    rows = slice(first, first + _ROWS_PER_DEPTH)
                    answers = self._answer(model, prompts, batch_size, device, streamed)
                    correct[rows] = (answers == prompts.answers).reshape(-1, *correct.shape[1:])
                    between[rows] = prompts.blocks_between(self.config.block_len).reshape(-1, shape[1])
                    done += len(answers) * cell.blocks * self.config.block_len
                    streamed(0)
                scores.append(_Scores(cell, correct, between))
        slices = [row for each in scores for row in self._slices(each)]
        return Evaluation(self._metrics(split, scores), slices, total, time.perf_counter() - started)

    def eval_blocks(self, split: Split) -> list[int]:
        """The lengths of an evaluation in blocks, shortest first."""
        config = self.config
        longest = config.max_blocks
        factors = config.val_factors if split == "val" else config.eval_factors
        blocks = {max(1, round(factor * longest)) for factor in factors}
        if split != "val":
            blocks = blocks if config.eval_blocks is None else set(config.eval_blocks)
            blocks |= {config.min_blocks, (config.min_blocks + longest) // 2, longest}
        shortest = -(-self.placement.shortest // config.block_len)
        return sorted({max(shortest, number) for number in blocks})

    def _cells(self, split: Split) -> list[_Cell]:
        config = self.config
        depths, samples = config.eval_depths, config.eval_samples
        if split == "val":
            depths, samples = config.val_depths, max(1, config.val_samples // len(config.val_depths))
        return [_Cell(blocks, depths, samples) for blocks in self.eval_blocks(split)]

    def _passes(self, split: Split, cell: _Cell) -> Iterator[tuple[int, Prompts]]:
        """Prompts of equal length, all depths side by side, with the number of the first sample."""
        for first in range(0, cell.samples, _ROWS_PER_DEPTH):
            rng = _generator(_EVALUATION_SEED, STREAMS[split], cell.blocks, first)
            length = self._length_within(cell.blocks, rng)
            num_samples = min(_ROWS_PER_DEPTH, cell.samples - first)
            depth = np.rint(np.array(cell.depths) * (length - self.placement.frame_len)).astype(np.int64)
            yield first, self._draw_prompts(rng, split, length, np.tile(depth, num_samples))

    def _answer(
        self, model: Model, prompts: Prompts, batch_size: int, device: Device, streamed: Callable[[int], None]
    ) -> Ids:
        """Greedy, free-running answers ``[B,A]``; nothing is held but a chunk and the model's state."""
        chunk = max(1, self.config.eval_chunk // self.config.block_len) * self.config.block_len
        answers, symbols = [], 0
        for row in range(0, len(prompts.answers), batch_size):
            state: Any = None
            for piece in prompts.rows(row, row + batch_size).pieces(chunk):
                logits, state = model(torch.from_numpy(piece).to(device), None, state)
                symbols += piece.size
                streamed(symbols)
            answer = [logits[:, -1].argmax(-1)]
            while len(answer) < self.puzzle.answer_len:
                logits, state = model(answer[-1][:, None], None, state)
                answer.append(logits[:, -1].argmax(-1))
            answers.append(torch.stack(answer, dim=1).cpu().numpy())
        return np.concatenate(answers)

    def _measures(self, correct: NDArray[np.bool_]) -> dict[str, float]:
        """Scores of some answers ``[n,A]``."""
        scores = {"exact_match": float(correct.all(-1).mean()), "symbol_accuracy": float(correct.mean())}
        if self.puzzle.num_answers > 1:
            parts = correct.reshape(len(correct), self.puzzle.num_answers, -1)
            scores["part_match"] = float(parts.all(-1).mean())
        return scores

    def _slices(self, scores: _Scores) -> Iterator[dict[str, Any]]:
        """A row for each depth and number of borders that the cell's prompts have behind their needles."""
        cell = scores.cell
        for index, depth in enumerate(cell.depths):
            between = scores.between[:, index]
            for borders in np.unique(between).tolist():
                rows = between == borders
                yield {
                    "length_blocks": cell.blocks,
                    "length_tokens": cell.blocks * self.config.block_len,
                    "factor": cell.blocks / self.config.max_blocks,
                    "depth": depth,
                    "blocks_between": borders,
                    "n": int(rows.sum()),
                    **self._measures(scores.correct[rows, index]),
                }

    def _metrics(self, split: Split, scores: list[_Scores]) -> dict[str, float]:
        """Means over depths, by length; the headline is over the training lengths (val: over all it asks)."""
        longest = self.config.max_blocks
        by_length = {
            each.cell.blocks: [self._measures(each.correct[:, index]) for index in range(len(each.cell.depths))]
            for each in scores
        }
        trained = [blocks for blocks in by_length if split == "val" or blocks <= longest]
        metrics: dict[str, float] = {}
        for name in by_length[trained[0]][0]:
            metrics[name] = float(np.mean([cell[name] for blocks in trained for cell in by_length[blocks]]))
            for blocks, cells in by_length.items():
                if blocks >= longest:
                    metrics[f"{name}@{self._label(blocks)}"] = float(np.mean([cell[name] for cell in cells]))
        return metrics

    def _label(self, blocks: int) -> str:
        factor = blocks / self.config.max_blocks
        return f"{blocks}b" if self.config.eval_blocks is not None else f"{factor:.4g}x"


def _floors(puzzle: Puzzle, filler: str) -> dict[str, float]:
    """What guessing reaches; the second kind of guess only where it is known among how many."""
    base = len(puzzle.answer.symbols)
    floors = {"chance_exact_match": float(base) ** -puzzle.answer_len, "chance_symbol_accuracy": 1 / base}
    unknown = puzzle.ways == 1 or filler == "needles"
    return floors if unknown else {**floors, "unbound_exact_match": 1 / puzzle.ways}
