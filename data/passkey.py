"""Passkey: find a number that was said once, somewhere in a long and boring text, and repeat it.

Task card
    Source      generated; the format of Landmark Attention (arXiv 2305.16300) as TransformerFAM (2404.09173,
                section 3.2) and Infini-attention (2404.07143, appendix B) use it.
    Layout      instruction, filler, needle, filler, question, key, end mark. The needle states the key twice;
                the question ends in the stem that the key completes. The filler is one period of five
                sentences, repeated; it starts at a random phase and is cut anywhere.
    Depth       share of the filler that stands before the needle: 0 = right behind the instruction, 1 = right
                before the question.
    Length      of the prompt (all but key and end mark), in blocks of ``block_len`` symbols; one of n
                blocks ends somewhere inside the n-th, where the key still fits behind it: a block of 24
                would else cut one answer in five, the papers' blocks of 1,024 and more cut one in 200. All
                prompts of a batch are equally long.
    Vocabulary  ``level: word``: 35 symbols (lower-case words, single digits, punctuation);
                ``level: byte``: 258 = pad + 256 bytes (id = byte + 1) + end mark. Pad is 0 and never needed.
    Keys        fixed width. By a fixed hash one key in 20 belongs to test, one in 20 to validation, the rest
                to training: no key that is asked for at the end was ever an answer before.
    Target      the next symbol. The digits of the key share a loss weight of ``answer_weight``, all other
                symbols one of ``lm_weight``.
    Metric      exact match of the whole key under greedy, free-running decoding (chance 1e-5 for 5 digits)
                and accuracy per symbol (chance 0.1), by length and depth. Prompts are streamed in chunks with
                the state handed on, so memory grows with length only if the model's state does.
    Truncated   nothing.

Example (word level, 2 blocks of 32)
    there is a pass key here . remember it . and back again . the grass is green . the sky the pass key is
    3 8 0 0 9 . remember it . 3 8 0 0 9 is the pass key . what is the pass key ? the pass key is 3 8 0 0 9 <end>

Ours, not the papers': the short instruction, the word level, the curriculum of lengths, the loss weights.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from data.base import Batch, Device, Evaluation, Kind, Model, Progress, Source, Split, Task, evaluating

Ids = NDArray[np.int64]

INSTRUCTION = "There is a pass key here. Remember it.\n"
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
NEEDLE = ("\nThe pass key is ", ". Remember it. ", " is the pass key.\n")  # the key stands in the two gaps
QUESTION = "\nWhat is the pass key? The pass key is "

_VERSION = 2  # raise when the same configuration yields other symbols
_STREAMS = {"train": 0, "val": 1, "test": 2}
_EVALUATION_SEED = 0  # one validation and one test set for all runs
_ROWS_PER_DEPTH = 4  # prompts of a cell that are equally long; the next ones end elsewhere in the last block


@dataclass(frozen=True)
class Stage:
    """One stage of the curriculum of lengths."""

    until: float
    """The stage lasts until this share of all training steps is done; the last stage ends at 1."""
    min_blocks: int
    """Shortest prompt, in blocks."""
    max_blocks: int
    """Longest prompt, in blocks; each step draws uniformly between the two."""


@dataclass(frozen=True)
class PasskeyConfig:
    """Options of the passkey task."""

    level: str = "word"
    """Symbols: "word" (small closed vocabulary) or "byte"."""
    block_len: int = 64
    """Symbols in a block, the unit in which lengths are counted; normally the models' segment length."""
    key_digits: int = 5
    """Width of the key; leading zeros count."""
    steps: int = 1000
    """Number of training steps that the curriculum's fractions refer to."""
    curriculum: tuple[Stage, ...] = (Stage(0.3, 1, 2), Stage(0.6, 1, 4), Stage(1.0, 1, 8))
    """Stages of growing length, in order."""
    depth: str | float = "random"
    """Where the needle stands in training: "random" per sequence, or one share of the filler in [0, 1]."""
    answer_weight: float = 1.0
    """Loss weight of the key's digits, summed over a sequence."""
    lm_weight: float = 0.1
    """Loss weight of all other symbols, summed over a sequence."""
    eval_factors: tuple[float, ...] = (1, 2, 4, 8, 16, 32, 64)
    """Test lengths as multiples of the longest training length, besides the training lengths themselves."""
    eval_blocks: tuple[int, ...] | None = None
    """Test lengths in blocks, instead of ``eval_factors``."""
    eval_depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Depths at which every test length is asked."""
    eval_samples: int = 16
    """Prompts per cell of length and depth."""
    val_factors: tuple[float, ...] = (1,)
    """Validation lengths as multiples of the longest training length."""
    val_depths: tuple[float, ...] = (0.0, 0.5, 1.0)
    """Depths at which every validation length is asked."""
    val_samples: int = 48
    """Prompts in each validation length, over all depths."""
    eval_chunk: int = 2048
    """Symbols of each prompt that are streamed through the model at a time (rounded to whole blocks)."""

    def __post_init__(self) -> None:
        for name in ("curriculum", "eval_factors", "eval_depths", "val_factors", "val_depths", "eval_blocks"):
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


def _check_config(config: PasskeyConfig) -> None:
    def require(holds: bool, key: str, rule: str) -> None:
        if not holds:
            raise ValueError(f"task.{key} must be {rule}, got {getattr(config, key)!r}")

    require(config.level in ("word", "byte"), "level", "'word' or 'byte'")
    require(3 <= config.key_digits <= 12, "key_digits", "3 to 12")
    for key in ("block_len", "steps", "eval_samples", "val_samples", "eval_chunk"):
        require(getattr(config, key) >= 1, key, "1 or more")
    for key in ("answer_weight", "lm_weight"):
        require(getattr(config, key) >= 0, key, "0 or more")
    require(config.answer_weight + config.lm_weight > 0, "answer_weight", "above 0 where lm_weight is 0")
    depth = -1.0 if isinstance(config.depth, str) else config.depth
    require(config.depth == "random" or 0 <= depth <= 1, "depth", "'random' or a share in [0, 1]")
    for key in ("eval_depths", "val_depths"):
        depths = getattr(config, key)
        require(len(depths) > 0 and all(0 <= d <= 1 for d in depths), key, "a list of shares in [0, 1]")
    require(len(config.val_factors) > 0, "val_factors", "a list of at least one factor")
    for key in ("eval_factors", "val_factors"):
        require(all(factor > 0 for factor in getattr(config, key)), key, "a list of factors above 0")
    require(all(blocks >= 1 for blocks in config.eval_blocks or ()), "eval_blocks", "1 or more each, or null")
    _check_curriculum(config)


def _check_curriculum(config: PasskeyConfig) -> None:
    stages = config.curriculum
    ends = [stage.until for stage in stages]
    if not stages or ends != sorted(set(ends)) or ends[0] <= 0 or ends[-1] != 1:
        raise ValueError(f"task.curriculum: `until` must grow from above 0 to exactly 1, got {ends}")
    for index, stage in enumerate(stages):
        if not 1 <= stage.min_blocks <= stage.max_blocks:
            raise ValueError(
                f"task.curriculum[{index}]: needs 1 <= min_blocks <= max_blocks, "
                f"got {stage.min_blocks} and {stage.max_blocks}"
            )
    frame_len = Codec(config.level, config.key_digits).frame_len
    if config.max_blocks * config.block_len < frame_len:
        raise ValueError(
            f"task.curriculum: {config.max_blocks} blocks of block_len={config.block_len} are too short: "
            f"a prompt without any filler has {frame_len} symbols at task.level={config.level}"
        )


class Codec:
    """Symbols of one level: text to ids and back, and the fixed parts of a prompt as ids.

    Both levels are encodings of the same text, so they differ in nothing but the alphabet.
    """

    pad = 0

    def __init__(self, level: str, key_digits: int) -> None:
        self.level = level
        if level == "word":
            texts = (INSTRUCTION, FILLER, *NEEDLE, QUESTION)
            words = sorted({word for text in texts for word in self._split(text)})
            self.symbols = ["<pad>", "<end>", *"0123456789", *words]
            self._ids = {symbol: index for index, symbol in enumerate(self.symbols)}
            self.vocab_size, self.end = len(self.symbols), self._ids["<end>"]
        else:
            self.vocab_size, self.end = 258, 257
        self.digits = self.encode("0123456789")
        self.instruction, self.filler, self.question = map(self.encode, (INSTRUCTION, FILLER, QUESTION))
        self.needle = [self.encode(part) for part in NEEDLE]
        self.needle_len = sum(map(len, self.needle)) + 2 * key_digits
        #: length of a prompt without any filler
        self.frame_len = len(self.instruction) + self.needle_len + len(self.question)

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


class Prompts(NamedTuple):
    """Prompts of one common length, as the few numbers that define them; symbols are made on demand."""

    codec: Codec
    length: int
    phase: Ids  # [B] where in its period the filler starts
    prefix: Ids  # [B] filler symbols before the needle
    answers: Ids  # [B,K] the key's digits as ids

    def symbols(self, start: int, stop: int) -> Ids:
        """The piece ``[B, stop - start]`` of every prompt: a prompt is never held as a whole."""
        codec = self.codec
        columns = np.arange(start, stop, dtype=np.int64)
        in_needle = columns - len(codec.instruction) - self.prefix[:, None]  # 0 at the needle's first symbol
        interruption = np.where(in_needle >= codec.needle_len, codec.needle_len, 0)
        filler_index = columns + (self.phase[:, None] - len(codec.instruction)) - interruption
        out = codec.filler[filler_index % len(codec.filler)]
        rows, places = np.nonzero((in_needle >= 0) & (in_needle < codec.needle_len))
        out[rows, places] = self._needles()[rows, in_needle[rows, places]]
        _overlay(out, start, codec.instruction, 0)
        _overlay(out, start, codec.question, self.length - len(codec.question))
        return out

    def pieces(self, chunk: int) -> Iterator[Ids]:
        """All prompts from left to right, ``chunk`` symbols at a time."""
        for start in range(0, self.length, chunk):
            yield self.symbols(start, min(start + chunk, self.length))

    def _needles(self) -> Ids:
        before, between, after = (np.tile(part, (len(self.phase), 1)) for part in self.codec.needle)
        return np.concatenate([before, self.answers, between, self.answers, after], axis=1)

    def rows(self, start: int, stop: int) -> Prompts:
        """Some of the prompts."""
        return self._replace(
            phase=self.phase[start:stop], prefix=self.prefix[start:stop], answers=self.answers[start:stop]
        )


def _overlay(out: Ids, start: int, part: Ids, position: int) -> None:
    """Writes ``part``, whose place is ``position`` in the prompt, into the piece that begins at ``start``."""
    first, last = max(position, start), min(position + len(part), start + out.shape[1])
    if first < last:
        out[:, first - start : last - start] = part[first - position : last - position]


def key_split(keys: Ids) -> Ids:
    """Split of each key by a fixed hash: 0 train, 1 val (one key in 20), 2 test (one in 20)."""
    mixed = keys.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)  # the SplitMix64 finaliser
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bucket = (mixed ^ (mixed >> np.uint64(31))) % np.uint64(20)
    return np.where(bucket == 0, _STREAMS["test"], np.where(bucket == 1, _STREAMS["val"], _STREAMS["train"]))


def draw_keys(rng: np.random.Generator, count: int, split: Split, key_digits: int) -> Ids:
    """Draws ``count`` keys of a split, uniformly, as integers."""
    keys = np.empty(0, dtype=np.int64)
    while len(keys) < count:
        candidates = rng.integers(0, 10**key_digits, size=2 * count if split == "train" else 32 * count)
        keys = np.concatenate([keys, candidates[key_split(candidates) == _STREAMS[split]]])
    return keys[:count]


def _generator(*entropy: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))


class _Cell(NamedTuple):
    """One length of an evaluation: every depth, ``samples`` prompts each."""

    blocks: int
    depths: tuple[float, ...]
    samples: int


class Passkey(Task):
    """The passkey task; see the card on top of this file."""

    name: ClassVar[str] = "passkey"
    kind: ClassVar[Kind] = "next_token"
    config_class: ClassVar[type] = PasskeyConfig
    metric: ClassVar[str] = "exact_match"

    def __init__(self, config: PasskeyConfig, **options: Any) -> None:
        super().__init__(config, **options)
        self.config: PasskeyConfig = config
        self.codec = Codec(config.level, config.key_digits)
        self.vocab_size: int = self.codec.vocab_size
        self.num_classes = None
        self.max_len = config.max_blocks * config.block_len + config.key_digits
        self.longest_test = max(self.eval_blocks("test")) * config.block_len + config.key_digits
        self.floors = {"chance_exact_match": 10.0**-config.key_digits, "chance_symbol_accuracy": 0.1}

    def locate(self) -> Source:
        """A generator's data version is a digest of its text and options."""
        text = (INSTRUCTION, FILLER, NEEDLE, QUESTION)
        digest = hashlib.sha256(json.dumps([_VERSION, text, asdict(self.config)]).encode()).hexdigest()
        return Source("generated", digest, "generated from the seed; nothing to download")

    # Training

    def stage(self, step: int) -> Stage:
        """The stage of the curriculum at a training step."""
        done = step / self.config.steps
        stages = self.config.curriculum
        return next((stage for stage in stages if done < stage.until), stages[-1])

    def prompt_length(self, step: int) -> int:
        """Length in symbols of all prompts of a training step."""
        return self._draw_length(_generator(self.seed, _STREAMS["train"], step), self.stage(step))

    def train_batch(self, step: int, batch_size: int) -> Batch:
        """Prompts, keys and end marks of one step, all of one length."""
        rng = _generator(self.seed, _STREAMS["train"], step)
        length = self._draw_length(rng, self.stage(step))
        num_filler = length - self.codec.frame_len
        if self.config.depth == "random":
            prefix = rng.integers(0, num_filler + 1, size=batch_size)
        else:
            prefix = np.full(batch_size, round(float(self.config.depth) * num_filler), dtype=np.int64)
        prompts = self._draw_prompts(rng, "train", length, prefix)
        end = np.full((batch_size, 1), self.codec.end, dtype=np.int64)
        sequence = np.concatenate([prompts.symbols(0, length), prompts.answers, end], axis=1)
        tokens = torch.from_numpy(sequence)
        return Batch(tokens[:, :-1].contiguous(), None, tokens[:, 1:].contiguous(), self._weights(batch_size, length))

    def _draw_length(self, rng: np.random.Generator, stage: Stage) -> int:
        blocks = int(rng.integers(stage.min_blocks, stage.max_blocks + 1))
        return self._length_within(blocks, rng)

    def _length_within(self, blocks: int, rng: np.random.Generator) -> int:
        """Symbols of a prompt that ends in its last block, with room for the key behind it."""
        block_len, key_digits = self.config.block_len, self.config.key_digits
        room = int(rng.integers(min(key_digits, block_len - 1), block_len))
        return max(blocks * block_len - room, self.codec.frame_len)

    def _draw_prompts(self, rng: np.random.Generator, split: Split, length: int, prefix: Ids) -> Prompts:
        num_rows, num_digits = len(prefix), self.config.key_digits
        phase = rng.integers(0, len(self.codec.filler), size=num_rows)
        keys = draw_keys(rng, num_rows, split, num_digits)
        powers = 10 ** np.arange(num_digits - 1, -1, -1, dtype=np.int64)
        return Prompts(self.codec, length, phase, prefix, self.codec.digits[keys[:, None] // powers % 10])

    def _weights(self, batch_size: int, length: int) -> torch.Tensor:
        num_digits = self.config.key_digits
        weights = torch.full((length + num_digits,), self.config.lm_weight / length)  # also of the end mark
        weights[length - 1 : length - 1 + num_digits] = self.config.answer_weight / num_digits
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
        """Asks for the key at every length and depth; ``progress`` counts symbols streamed."""
        started = time.perf_counter()
        cells = self._cells(split)
        total = sum(cell.blocks * self.config.block_len * len(cell.depths) * cell.samples for cell in cells)
        done, slices = 0, []
        with evaluating(model):
            for cell in cells:
                correct = np.empty((cell.samples, len(cell.depths), self.config.key_digits), dtype=bool)
                for first, prompts in self._passes(split, cell):
                    answers = self._answer(model, prompts, batch_size, device)
                    hits = (answers == prompts.answers).reshape(-1, *correct.shape[1:])
                    correct[first : first + _ROWS_PER_DEPTH] = hits
                    done += len(answers) * cell.blocks * self.config.block_len
                    if progress is not None:
                        progress(done, total)
                slices += self._rows(cell, correct)
        return Evaluation(self._metrics(split, slices), slices, total, time.perf_counter() - started)

    def eval_blocks(self, split: Split) -> list[int]:
        """The lengths of an evaluation in blocks, shortest first."""
        config = self.config
        longest = config.max_blocks
        factors = config.val_factors if split == "val" else config.eval_factors
        blocks = {max(1, round(factor * longest)) for factor in factors}
        if split != "val":
            blocks = blocks if config.eval_blocks is None else set(config.eval_blocks)
            blocks |= {config.min_blocks, (config.min_blocks + longest) // 2, longest}
        shortest = -(-self.codec.frame_len // config.block_len)
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
            rng = _generator(_EVALUATION_SEED, _STREAMS[split], cell.blocks, first)
            length = self._length_within(cell.blocks, rng)
            num_samples = min(_ROWS_PER_DEPTH, cell.samples - first)
            prefix = np.rint(np.array(cell.depths) * (length - self.codec.frame_len)).astype(np.int64)
            yield first, self._draw_prompts(rng, split, length, np.tile(prefix, num_samples))

    def _answer(self, model: Model, prompts: Prompts, batch_size: int, device: Device) -> Ids:
        """Greedy, free-running answers ``[B,K]``; nothing is held but a chunk and the model's state."""
        chunk = max(1, self.config.eval_chunk // self.config.block_len) * self.config.block_len
        answers = []
        for row in range(0, len(prompts.phase), batch_size):
            state: Any = None
            for piece in prompts.rows(row, row + batch_size).pieces(chunk):
                logits, state = model(torch.from_numpy(piece).to(device), None, state)
            digits = [logits[:, -1].argmax(-1)]
            while len(digits) < self.config.key_digits:
                logits, state = model(digits[-1][:, None], None, state)
                digits.append(logits[:, -1].argmax(-1))
            answers.append(torch.stack(digits, dim=1).cpu().numpy())
        return np.concatenate(answers)

    def _rows(self, cell: _Cell, correct: NDArray[np.bool_]) -> list[dict[str, Any]]:
        return [
            {
                "length_blocks": cell.blocks,
                "length_tokens": cell.blocks * self.config.block_len,
                "factor": cell.blocks / self.config.max_blocks,
                "depth": depth,
                "n": cell.samples,
                "exact_match": float(correct[:, index].all(-1).mean()),
                "symbol_accuracy": float(correct[:, index].mean()),
            }
            for index, depth in enumerate(cell.depths)
        ]

    def _metrics(self, split: Split, slices: list[dict[str, Any]]) -> dict[str, float]:
        """Means over depths, by length; the headline is over the training lengths (val: over all it asks)."""
        metrics: dict[str, float] = {}
        for name in ("exact_match", "symbol_accuracy"):
            headline = [row[name] for row in slices if split == "val" or row["factor"] <= 1]
            metrics[name] = float(np.mean(headline))
            for blocks in dict.fromkeys(row["length_blocks"] for row in slices if row["factor"] >= 1):
                scores = [row[name] for row in slices if row["length_blocks"] == blocks]
                metrics[f"{name}@{self._label(blocks)}"] = float(np.mean(scores))
        return metrics

    def _label(self, blocks: int) -> str:
        factor = blocks / self.config.max_blocks
        return f"{blocks}b" if self.config.eval_blocks is not None else f"{factor:.4g}x"
