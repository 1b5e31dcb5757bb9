"""Passkey: the format, the streams of randomness, the lengths, and the scoring by greedy decoding."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import data
from data._filler import FILLER
from data._needles import WORDINGS
from data._symbols import Codec, draw_keys, key_split
from data.passkey import Passkey, PasskeyConfig, Stage
from tests.data.checks import fastest_batch, one_clear_line

GROWING = (Stage(0.5, 2, 3), Stage(1.0, 2, 6))
LEVELS = ("word", "byte")


def make(level: str = "word", *, seed: int = 0, **options: Any) -> Passkey:
    defaults: dict[str, Any] = {
        "level": level,
        "block_len": 32 if level == "word" else 80,
        "steps": 100,
        "curriculum": GROWING,
        "eval_factors": (1, 2, 4),
        "eval_samples": 6,
        "val_samples": 12,
    }
    return Passkey(PasskeyConfig(**{**defaults, **options}), seed=seed)


def squeeze(task: Passkey, ids: Tensor) -> str:
    """Text without spaces and capitals, the same for both levels."""
    return re.sub(r"\s", "", task.codec.decode(ids)).lower()


class Reader:
    """A model that reads what it is fed, remembers the key and continues the answer."""

    def __init__(self, task: Passkey, *, fails_from: int | None = None) -> None:
        self.task, self.fails_from = task, fails_from
        self.widest = 0

    def __call__(self, tokens: Tensor, mask: Tensor | None, state: Tensor | None) -> tuple[Tensor, Tensor]:
        assert mask is None
        self.widest = max(self.widest, tokens.shape[1])
        seen = tokens if state is None else torch.cat([state, tokens], dim=1)
        logits = torch.zeros(*tokens.shape, self.task.vocab_size)
        for row, ids in enumerate(seen):
            logits[row, -1, self.next_symbol(ids)] = 1.0
        return logits, seen

    def next_symbol(self, ids: Tensor) -> int:
        text = squeeze(self.task, ids)
        known, asked = re.search(r"passkeyis(\d{5})\.", text), re.search(r"passkeyis(\d*)$", text)
        if known is None or asked is None:
            return 0
        index = len(asked[1])
        if self.fails_from is not None and index >= self.fails_from:
            return self.task.codec.end
        return int(self.task.puzzle.values.symbols[int(known[1][index])])


def test_vocabularies_are_small_and_readable() -> None:
    assert make("word").vocab_size == 35
    assert make("byte").vocab_size == 258
    word, byte = (Codec(level, [*WORDINGS["single"], FILLER]) for level in LEVELS)
    assert word.decode(word.encode("The sky is blue.")) == "the sky is blue ."
    assert byte.decode(byte.encode("The sky is blue.")) == "The sky is blue."
    assert byte.encode("A").tolist() == [ord("A") + 1]
    assert word.decode([word.pad, word.end]) == byte.decode([byte.pad, byte.end]).replace("><", "> <")


@pytest.mark.parametrize("level", LEVELS)
def test_layout_of_a_training_sequence(level: str) -> None:
    task = make(level)
    batch = task.train_batch(99, 8)
    assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])
    for tokens, targets in zip(batch.tokens, batch.targets, strict=True):
        text = squeeze(task, torch.cat([tokens, targets[-1:]]))
        form = r"thereisapasskeyhere\.rememberit\.(.*)thepasskeyis(\d{5})\.rememberit\.\2isthepasskey\.(.*)"
        match = re.fullmatch(form + r"whatisthepasskey\?thepasskeyis\2<end>", text)
        assert match is not None, text
        period = "thegrassisgreen.theskyisblue.thesunisyellow.herewego.thereandbackagain."
        assert match[1] + match[3] in period * 40  # the needle interrupts one periodic text


@pytest.mark.parametrize("level", LEVELS)
def test_batches_are_a_function_of_seed_and_step(level: str) -> None:
    first, again = make(level, seed=3).train_batch(7, 4), make(level, seed=3).train_batch(7, 4)
    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(first.targets, again.targets)
    for other in (make(level, seed=3).train_batch(8, 4), make(level, seed=4).train_batch(7, 4)):
        assert first.tokens.shape != other.tokens.shape or not torch.equal(first.tokens, other.tokens)


def test_lengths_follow_the_curriculum_and_are_exact() -> None:
    task = make()
    block_len, digits = task.config.block_len, task.config.key_digits
    lengths = []
    for step in range(100):
        stage = task.stage(step)
        assert stage == GROWING[0 if step < 50 else 1]
        length = task.prompt_length(step)
        assert max(task.placement.frame_len, (stage.min_blocks - 1) * block_len + 1) <= length
        assert length <= stage.max_blocks * block_len
        assert task.train_batch(step, 2).tokens.shape == (2, length + digits)
        lengths.append(length)
    assert len({length % block_len for length in lengths}) > 20  # not always a whole number of blocks
    assert {-(-length // block_len) for length in lengths} == {2, 3, 4, 5, 6}
    assert task.max_len == 6 * block_len + digits >= max(lengths) + digits
    assert task.stage(1000) == GROWING[1]  # past the end


def test_loss_weights_do_not_depend_on_the_length() -> None:
    task = make(answer_weight=1.0, lm_weight=0.1)
    for step in (0, 60, 80):
        batch = task.train_batch(step, 3)
        assert batch.weights is not None
        torch.testing.assert_close(batch.weights.sum(1), torch.full((3,), 1.1))
        heavy = batch.weights[0] > 0.1
        assert squeeze(task, batch.targets[0][heavy]) == squeeze(task, batch.targets[0])[-10:-5]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 1.0])
def test_needle_stands_at_the_depth_asked_for(level: str, depth: float) -> None:
    task = make(level, depth=depth)
    length = task.prompt_length(99)
    tokens = task.train_batch(99, 4).tokens
    num_filler = length - task.placement.frame_len
    start = len(task.puzzle.instruction) + round(depth * num_filler)
    stem = torch.from_numpy(task.codec.encode("\nThe pass key is "))
    for row in tokens:
        assert torch.equal(row[start : start + len(stem)], stem)


def test_random_depth_reaches_both_ends() -> None:
    task = make(curriculum=(Stage(1, 3, 3),))
    starts = set()
    for step in range(40):
        for row in task.train_batch(step, 32).tokens:
            text = task.codec.decode(row)
            before, after = text.split(" the pass key is ")[0], text.split(" is the pass key . ")[1]
            starts.add((before.endswith("remember it ."), after.startswith("what")))
    assert starts == {(False, False), (True, False), (False, True)}


def test_phase_of_the_filler_is_random() -> None:
    task = make(depth=1.0, curriculum=(Stage(1, 4, 4),))
    first = {int(row[len(task.puzzle.instruction)]) for row in task.train_batch(0, 64).tokens}
    assert len(first) > 8


def test_keys_of_the_splits_are_disjoint_and_cover_all() -> None:
    everything = key_split(np.arange(100_000))
    shares = [float((everything == split).mean()) for split in range(3)]
    assert shares == pytest.approx([0.9, 0.05, 0.05], abs=0.005)
    drawn = {
        split: set(draw_keys(np.random.default_rng(0), 20_000, split, 10**5).tolist())
        for split in ("train", "val", "test")
    }
    assert not drawn["train"] & drawn["val"]
    assert not drawn["train"] & drawn["test"]
    assert not drawn["val"] & drawn["test"]
    assert min(map(len, drawn.values())) > 4000


def test_keys_asked_in_evaluation_were_never_trained() -> None:
    task = make(eval_samples=64)
    trained = {squeeze(task, row)[-5:] for step in range(50) for row in task.train_batch(step, 64).tokens}
    assert {int(key_split(np.array([int(key)]))[0]) for key in trained} == {0}
    for split, code in (("val", 1), ("test", 2)):
        for cell in task._cells(split):  # type: ignore[arg-type]
            for _, prompts in task._passes(split, cell):  # type: ignore[arg-type]
                keys = [int(squeeze(task, torch.from_numpy(row))) for row in prompts.answers]
                assert set(key_split(np.array(keys)).tolist()) == {code}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("chunk", [1, 7, 32, 10_000])
def test_pieces_joined_are_the_prompt(level: str, chunk: int) -> None:
    task = make(level)
    length = task.placement.frame_len + 150
    prompts = task._draw_prompts(np.random.default_rng(0), "test", length, np.array([0, 77, 150]))
    whole = prompts.symbols(0, length)
    assert whole.shape == (3, length)
    assert np.array_equal(np.concatenate(list(prompts.pieces(chunk)), axis=1), whole)
    assert np.array_equal(prompts.rows(1, 3).symbols(0, length), whole[1:])


@pytest.mark.parametrize("level", LEVELS)
def test_a_model_that_remembers_scores_one_everywhere(level: str) -> None:
    task = make(level)
    model = Reader(task)
    result = task.evaluate(model, "test", batch_size=64)
    assert {row["length_blocks"] for row in result.slices} == {2, 4, 6, 12, 24}
    assert all(row["exact_match"] == row["symbol_accuracy"] == 1.0 for row in result.slices)
    cells = Counter[tuple[int, float]]()
    for row in result.slices:
        cells[row["length_blocks"], row["depth"]] += row["n"]
    assert list(cells.values()) == [6] * 25
    assert set(result.metrics.values()) == {1.0}
    assert {"exact_match", "exact_match@1x", "exact_match@4x", "symbol_accuracy@2x"} <= set(result.metrics)
    assert model.widest <= 2048


def test_answers_are_free_running() -> None:
    task = make()
    metrics = task.evaluate(Reader(task, fails_from=3), "test", batch_size=64).metrics
    assert metrics["exact_match"] == 0.0
    assert metrics["symbol_accuracy"] == pytest.approx(3 / 5)


def test_a_model_that_guesses_scores_chance() -> None:
    task = make(eval_samples=64)

    def guess(tokens: Tensor, mask: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        logits = torch.zeros(*tokens.shape, task.vocab_size)
        logits[..., task.puzzle.values.symbols[7]] = 1.0
        return logits, state

    metrics = task.evaluate(guess, "test", batch_size=64).metrics
    assert metrics["exact_match"] == 0.0
    assert metrics["symbol_accuracy"] == pytest.approx(task.floors["chance_symbol_accuracy"], abs=0.04)


def test_evaluation_does_not_depend_on_batch_size_chunk_or_seed() -> None:
    class Fussy(Reader):
        """Right for some keys only."""

        def next_symbol(self, ids: Tensor) -> int:
            right = super().next_symbol(ids)
            return right if int(ids.sum()) % 3 else 0

    results = []
    for batch_size, chunk, seed in ((64, 2048, 0), (3, 64, 0), (7, 100, 5)):
        task = make(seed=seed, eval_chunk=chunk)
        model = Fussy(task)
        results.append(task.evaluate(model, "test", batch_size=batch_size))
        assert model.widest <= max(chunk, task.config.block_len)
    assert 0 < results[0].metrics["symbol_accuracy"] < 1
    assert all(result[:2] == results[0][:2] for result in results)


def test_validation_is_cheap_and_within_training() -> None:
    task = make()
    result = task.evaluate(Reader(task), "val", batch_size=64)
    assert [(row["length_blocks"], row["depth"], row["n"]) for row in result.slices] == [
        (6, 0.0, 4),
        (6, 0.5, 4),
        (6, 1.0, 4),
    ]
    assert result.symbols == 12 * 6 * 32


def test_lengths_can_be_listed() -> None:
    task = make(eval_blocks=[254], eval_samples=2, eval_chunk=512)
    assert task.eval_blocks("test") == [2, 4, 6, 254]
    reports: list[tuple[int, int]] = []
    result = task.evaluate(Reader(task), "test", batch_size=8, progress=lambda *pair: reports.append(pair))
    assert result.metrics["exact_match@254b"] == 1.0
    assert result.slices[-1]["length_tokens"] == 254 * 32
    assert reports[-1] == (result.symbols, result.symbols)
    assert reports == sorted(reports)
    steps = np.diff([done for done, _ in reports])
    assert steps.max() <= 8 * task.config.eval_chunk, "a long prompt tells between its pieces"


def test_modules_are_scored_in_evaluation_mode_without_gradients() -> None:
    task = make(eval_samples=1, eval_factors=(1,))

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(task.vocab_size, task.vocab_size)

        def forward(self, tokens: Tensor, mask: Tensor | None, state: Any) -> tuple[Tensor, Any]:
            assert not self.training
            logits = self.embed(tokens)
            assert not logits.requires_grad
            return logits, state

    net = Net()
    task.evaluate(net, "val", batch_size=8)
    assert net.training


def test_one_batch_takes_well_under_three_milliseconds() -> None:
    task = make(curriculum=(Stage(1, 32, 32),))
    task.train_batch(0, 32)
    assert fastest_batch(task, 32) < 0.01  # the best of many, with room for a busy machine; 0.3 ms on an idle core


def test_source_names_the_generator_and_its_options() -> None:
    assert make().locate() == make(seed=9).locate()
    assert make().locate().name == "generated"
    assert make().locate().checksum != make(lm_weight=0.2).locate().checksum


@pytest.mark.parametrize("block_len", [24, 32])
def test_the_key_never_stands_on_both_sides_of_a_block_border(block_len: int) -> None:
    task = make(block_len=block_len)
    lengths = {task.prompt_length(step) % block_len for step in range(200)}
    assert max(lengths) == block_len - task.config.key_digits
    assert min(lengths) == 1


def test_example_of_the_card_is_a_real_sequence() -> None:
    config = PasskeyConfig(block_len=32, curriculum=(Stage(1, 2, 2),))
    task = data.build_task("passkey", config)
    assert isinstance(task, Passkey)
    batch = task.train_batch(1, 1)
    text = task.codec.decode(torch.cat([batch.tokens[0], batch.targets[0, -1:]]))
    assert text in " ".join(task.card.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "char"}, r"task.level must be 'word' or 'byte', got 'char'"),
        ({"key_digits": 1}, r"task.key_digits must be 3 to 12"),
        ({"block_len": 0}, r"task.block_len must be 1 or more"),
        ({"depth": 1.5}, r"task.depth must be 'random' or a share"),
        ({"depth": "start"}, r"task.depth must be 'random' or a share"),
        ({"eval_depths": [2.0]}, r"task.eval_depths must be a list of shares"),
        ({"eval_factors": [0]}, r"task.eval_factors must be a list of factors above 0"),
        ({"eval_blocks": [0]}, r"task.eval_blocks must be 1 or more"),
        ({"val_factors": []}, r"task.val_factors must be a list of at least one"),
        ({"answer_weight": 0.0, "lm_weight": 0.0}, r"task.answer_weight must be above 0"),
        ({"curriculum": ()}, r"`until` must grow from above 0 to exactly 1"),
        ({"curriculum": (Stage(0.5, 2, 3),)}, r"`until` must grow from above 0 to exactly 1, got \[0.5\]"),
        ({"curriculum": (Stage(1.0, 3, 2),)}, r"task.curriculum\[0\]: needs 1 <= min_blocks <= max_blocks"),
        ({"curriculum": (Stage(1.0, 1, 1),)}, r"1 blocks of block_len=32 are too short"),
    ],
)
def test_wrong_options_get_one_clear_line(options: dict[str, Any], message: str) -> None:
    with one_clear_line(ValueError, message):
        make(**options)
