"""Memory operations: what each prompt asks, lengths, disjoint splits, scoring by greedy decoding, floors."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data._generated import Stage
from data.base import Split
from data.memory_ops import NOISE, OPS, PERSONS, PLACES, SYMBOLS, MemoryOps, MemoryOpsConfig, decode, encode
from tests.data.checks import fastest_batch, one_clear_line

GROWING = (Stage(0.5, 1, 2), Stage(1.0, 1, 3))
SPLITS: tuple[Split, ...] = ("val", "test")


def make(op: str = "copy", *, seed: int = 0, **options: Any) -> MemoryOps:
    defaults: dict[str, Any] = {
        "op": op,
        "block_len": 24,
        "steps": 100,
        "curriculum": GROWING,
        "eval_factors": (1, 2),
        "eval_samples": 10,
        "val_samples": 12,
    }
    return MemoryOps(MemoryOpsConfig(**{**defaults, **options}), seed=seed)


def solve(op: str, text: str) -> str:
    """The answer, or as much of it as follows from the text; the text holds ``<go>``."""
    before, said = (part.split() for part in text.split("<go>"))
    if op in ("copy", "reverse"):
        answer = before * 2 if op == "copy" else before[::-1]
        return answer[len(said)] if len(said) < len(answer) else "<pad>"
    asked = before[-1]
    if op == "associative":
        found = re.search(rf"\b{asked} (\d)", text)
        return found[1] if found else "<pad>"
    found = re.search(rf"\b{asked} in (\w+)", text)
    moved = re.search(rf"\b{asked} moves (\d)", text)
    if found is None or (op == "reasoning" and moved is None):
        return "<pad>"
    return PLACES[(PLACES.index(found[1]) + (int(moved[1]) if moved else 0)) % 6]


class Reader:
    """A model that reads and solves, from all it was fed or from its own block only."""

    def __init__(self, task: MemoryOps, *, only_block: bool = False, fails_from: int | None = None) -> None:
        self.task, self.only_block, self.fails_from = task, only_block, fails_from
        self.widest = 0

    def __call__(self, tokens: Tensor, mask: Tensor | None, state: Tensor | None) -> tuple[Tensor, Tensor]:
        assert mask is None
        self.widest = max(self.widest, tokens.shape[1])
        seen = tokens if state is None else torch.cat([state, tokens], dim=1)
        logits = torch.zeros(*tokens.shape, self.task.vocab_size)
        for row, ids in enumerate(seen):
            logits[row, -1, int(encode(self.next_symbol(ids))[0])] = 1.0
        return logits, seen

    def next_symbol(self, ids: Tensor) -> str:
        text = decode(ids)
        if "<go>" not in text:
            return "<pad>"
        if self.fails_from is not None and len(text.split("<go>")[1].split()) >= self.fails_from:
            return "<go>"
        answer = solve(self.task.config.op, text)
        if self.only_block:
            block_len = self.task.config.block_len
            text = decode(ids[(len(ids) - 1) // block_len * block_len :])
            return solve(self.task.config.op, text) if "<go>" in text and "where" in text else "<pad>"
        return answer


def test_the_vocabulary_is_one_for_all_operations() -> None:
    assert len(set(SYMBOLS)) == len(SYMBOLS) == 68
    assert {make(op).vocab_size for op in OPS} == {68}
    assert decode(encode("mary in garden")) == "mary in garden"


@pytest.mark.parametrize("op", OPS)
def test_every_answer_follows_from_its_prompt(op: str) -> None:
    task = make(op)
    for step in (0, 60, 80, 99):
        batch = task.train_batch(step, 16)
        assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])
        assert batch.weights is not None
        torch.testing.assert_close(batch.weights.sum(1), torch.ones(16))
        for tokens, targets, weights in zip(batch.tokens, batch.targets, batch.weights, strict=True):
            answered = decode(targets[weights > 0]).split()
            prompt, said = decode(tokens).split("<go>")
            assert [*said.split(), answered[-1]] == answered
            for index, symbol in enumerate(answered):
                assert solve(op, f"{prompt}<go> {' '.join(answered[:index])}") == symbol


FORMS = {
    "copy": r"((?:[a-h] )+)<go>( [a-h])+",
    "reverse": r"((?:[a-h] )+)<go>( [a-h])+",
    "associative": r"(NOISE |[a-z] \d )*\? [a-z] <go> \d",
    "memorize": r"(PERSON) in PLACE (NOISE )*where \1 <go> PLACE",
    "detect": r"(NOISE )*(PERSON) in PLACE (NOISE )*where \2 <go> PLACE",
    "reasoning": r"(NOISE )*(PERSON) (in PLACE|moves [0-5]) (NOISE )*\2 (in PLACE|moves [0-5]) (NOISE )*"
    r"where \2 <go> PLACE",
}


@pytest.mark.parametrize("op", OPS)
def test_layout(op: str) -> None:
    form = FORMS[op]
    for name, words in (("NOISE", NOISE), ("PERSON", PERSONS), ("PLACE", PLACES)):
        form = form.replace(name, f"(?:{'|'.join(words)})")
    task = make(op)
    for step in range(50, 60):
        batch = task.train_batch(step, 8)
        for tokens, last in zip(batch.tokens, batch.targets[:, -1:], strict=True):
            text = decode(torch.cat([tokens, last]))
            assert re.fullmatch(form, text), text
            if op == "associative":
                assert len(re.findall(r"[a-z] \d(?= |$)", text.partition("?")[0])) == 4
                keys = re.findall(r"\b([a-z]) \d", text.partition("?")[0])
                assert len(set(keys)) == 4


def test_facts_of_reasoning_come_in_both_orders_and_either_alone_says_nothing() -> None:
    batch = make("reasoning", curriculum=(Stage(1, 1, 1),)).train_batch(0, 6000)
    texts = [decode(torch.cat([row, last])) for row, last in zip(batch.tokens, batch.targets[:, -1:], strict=True)]
    assert 0.45 < np.mean([text.index(" in ") < text.index(" moves ") for text in texts]) < 0.55
    counts = np.zeros((6, 6, 6))
    for text in texts:
        place, doors = re.search(r"\bin (\w+)", text)[1], re.search(r"moves (\d)", text)[1]  # type: ignore[index]
        counts[PLACES.index(place), int(doors), PLACES.index(text.split()[-1])] += 1
    for axis in (0, 1):
        shares = counts.sum(axis) / counts.sum(axis).sum(1, keepdims=True)
        np.testing.assert_allclose(shares, 1 / 6, atol=0.06)


@pytest.mark.parametrize("op", OPS)
def test_lengths_follow_the_curriculum(op: str) -> None:
    task = make(op)
    fed = []
    for step in range(100):
        length = task.train_batch(step, 2).tokens.shape[1]
        assert length <= (2 if step < 50 else 3) * 24 <= task.max_len == 72
        fed.append(length)
    assert {-(-length // 24) for length in fed} == {1, 2, 3}
    assert {length % 24 == 0 for length in fed} == ({True} if op in ("copy", "reverse") else {True, False})
    assert task.longest_test == 144


def test_copy_and_reverse_are_the_papers_sizes() -> None:
    rng = np.random.default_rng(0)
    copied, reversed_ = make("copy").draw(rng, 3, 1), make("reverse").draw(rng, 2, 1)
    assert copied.tokens.shape == (1, 25)
    assert copied.answers.shape == (1, 48)
    assert reversed_.tokens.shape == (1, 25)
    assert reversed_.answers.shape == (1, 24)


def test_facts_stand_anywhere_and_at_the_start_of_memorize() -> None:
    starts: dict[str, set[int]] = {"memorize": set(), "detect": set()}
    for op, found in starts.items():
        prompts = make(op, block_len=16).draw(np.random.default_rng(0), 1, 500)
        found.update(prompts.needed[:, 0, 0].tolist())
        length = prompts.tokens.shape[1]
        assert max(found) <= length - 6
    assert starts["memorize"] == {0}
    assert starts["detect"] == set(range(max(starts["detect"]) + 1))


@pytest.mark.parametrize("op", OPS)
def test_batches_are_a_function_of_seed_and_step(op: str) -> None:
    first, again = make(op, seed=3).train_batch(7, 4), make(op, seed=3).train_batch(7, 4)
    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(first.targets, again.targets)
    for other in (make(op, seed=3).train_batch(8, 4), make(op, seed=4).train_batch(7, 4)):
        assert first.tokens.shape != other.tokens.shape or not torch.equal(first.tokens, other.tokens)


@pytest.mark.parametrize("op", OPS)
def test_splits_share_no_prompt(op: str) -> None:
    task = make(op, curriculum=(Stage(1, 2, 3),), val_samples=200, eval_samples=100)
    rows: dict[str, set[tuple[int, ...]]] = {}
    for split in SPLITS:
        drawn = [task.evaluation_prompts(split, blocks).tokens.tolist() for blocks in (2, 3)]
        rows[split] = {tuple(row) for prompts in drawn for row in prompts}
    rows["train"] = set()
    for step in range(100):
        batch = task.train_batch(step, 16)
        assert batch.weights is not None
        num_answers = int((batch.weights[0] > 0).sum())
        rows["train"] |= {tuple(row) for row in batch.tokens[:, : batch.tokens.shape[1] - num_answers + 1].tolist()}
    assert not rows["train"] & rows["val"]
    assert not rows["train"] & rows["test"]
    assert not rows["val"] & rows["test"]


@pytest.mark.parametrize("op", OPS)
def test_a_model_that_remembers_scores_one_everywhere(op: str) -> None:
    task = make(op)
    model = Reader(task)
    result = task.evaluate(model, "test", batch_size=64)
    assert [(row["op"], row["length_blocks"], row["n"]) for row in result.slices] == [
        (op, blocks, 10) for blocks in (1, 2, 3, 6)
    ]
    assert set(result.metrics.values()) == {1.0}
    assert {"symbol_accuracy", "exact_match", "exact_match@6b", "symbol_accuracy@1b"} <= set(result.metrics)
    validated = task.evaluate(Reader(task), "val", batch_size=64)
    assert [(row["length_blocks"], row["n"]) for row in validated.slices] == [(1, 4), (2, 4), (3, 4)]


@pytest.mark.parametrize("op", OPS)
def test_wrong_answers_score_zero(op: str) -> None:
    task = make(op)
    assert set(task.evaluate(Reader(task, fails_from=0), "test", batch_size=64).metrics.values()) == {0.0}


def test_answers_are_free_running() -> None:
    task = make("copy", curriculum=(Stage(1, 1, 1),), eval_factors=(1,))
    metrics = task.evaluate(Reader(task, fails_from=4), "test", batch_size=64).metrics
    assert metrics["exact_match"] == 0.0
    assert metrics["symbol_accuracy"] == pytest.approx(4 / 16)


@pytest.mark.parametrize("op", ["memorize", "detect", "reasoning"])
def test_who_sees_only_its_block_reaches_the_floor(op: str) -> None:
    task = make(op, curriculum=(Stage(1, 1, 2),), eval_samples=200, eval_factors=(1,))
    metrics = task.evaluate(Reader(task, only_block=True), "test", batch_size=200).metrics
    guess, own_block = task.floors["guess"], task.floors["own_block"]
    assert guess == 1 / 6
    assert metrics["symbol_accuracy"] == pytest.approx((own_block - guess) / (1 - guess), abs=0.2)


def test_floors() -> None:
    assert make("copy").floors["guess"] == make("reverse").floors["guess"] == 1 / 8
    assert make("associative").floors["guess"] == 1 / 10
    one = make("copy", curriculum=(Stage(1, 1, 1),))
    assert one.floors["own_block"] == 1  # it all stands in one block
    assert make("memorize", curriculum=(Stage(1, 2, 4),)).floors["own_block"] == 1 / 6
    # Two blocks of 24 copy 16 symbols: <go> is the 17th, so 7 + 1 symbols are said before the border, the rest after.
    two = make("copy", curriculum=(Stage(1, 2, 2),)).floors["own_block"]
    assert two == pytest.approx(8 / 32 + 24 / 32 / 8)


def test_evaluation_does_not_depend_on_batch_size_chunk_or_seed() -> None:
    class Fussy(Reader):
        """Right for some prompts only."""

        def next_symbol(self, ids: Tensor) -> str:
            return super().next_symbol(ids) if int(ids[0]) % 3 else "<pad>"

    results = []
    for batch_size, chunk, seed in ((64, 2048, 0), (3, 24, 0), (7, 30, 5)):
        task = make("detect", seed=seed, eval_chunk=chunk)
        model = Fussy(task)
        results.append(task.evaluate(model, "test", batch_size=batch_size))
        assert model.widest <= max(chunk, 24)
    assert 0 < results[0].metrics["symbol_accuracy"] < 1
    assert all(result[:2] == results[0][:2] for result in results)


def test_lengths_can_be_listed() -> None:
    task = make("detect", eval_blocks=[100], eval_samples=2)
    reports: list[tuple[int, int]] = []
    assert task.eval_blocks("test") == [1, 2, 3, 100]
    result = task.evaluate(Reader(task), "test", batch_size=8, progress=lambda *pair: reports.append(pair))
    assert result.metrics["exact_match@100b"] == 1.0
    assert 99 * 24 < result.slices[-1]["length_tokens"] <= 100 * 24
    assert reports[-1] == (result.symbols, result.symbols)
    assert reports == sorted(reports)


@pytest.mark.parametrize("op", OPS)
def test_one_batch_is_cheap(op: str) -> None:
    task = make(op, curriculum=(Stage(1, 6, 6),))
    assert fastest_batch(task, 32) < 0.005  # the best of many, with room for a busy machine; 0.1 ms on an idle core


def test_source_names_the_generator_and_its_options() -> None:
    assert make().locate() == make(seed=9).locate()
    assert make().locate().checksum != make("reverse").locate().checksum


@pytest.mark.parametrize("op", OPS)
def test_examples_of_the_card_are_real_sequences(op: str) -> None:
    task = make(op, curriculum=(Stage(1, 1, 1),))
    batch = task.train_batch(0, 1)
    text = decode(torch.cat([batch.tokens[0], batch.targets[0, -1:]]))
    assert f"{op} {text}" in " ".join(task.card.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"op": "sort"}, r"task.op must be one of copy, reverse, associative, memorize, detect, reasoning, got 'sort'"),
        ({"block_len": 0}, r"task.block_len must be 1 or more"),
        ({"num_symbols": 27}, r"task.num_symbols must be 2 to 26"),
        ({"num_pairs": 0}, r"task.num_pairs must be 1 to 26"),
        ({"eval_factors": [0]}, r"task.eval_factors must be a list of factors above 0"),
        ({"eval_blocks": [0]}, r"task.eval_blocks must be 1 or more"),
        ({"curriculum": ()}, r"`until` must grow from above 0 to exactly 1"),
        ({"curriculum": (Stage(0.5, 2, 3),)}, r"`until` must grow from above 0 to exactly 1, got \[0.5\]"),
        ({"curriculum": (Stage(1.0, 3, 2),)}, r"task.curriculum\[0\]: needs 1 <= min_blocks <= max_blocks"),
        ({"op": "associative", "block_len": 8}, r"1 blocks of block_len=8 are too short: .* takes 11 symbols"),
        ({"op": "reasoning", "block_len": 8}, r"1 blocks of block_len=8 are too short: .* takes 9 symbols"),
        ({"op": "copy", "block_len": 2}, r"1 blocks of block_len=2 are too short: .* takes 3 symbols"),
    ],
)
def test_wrong_options_get_one_clear_line(options: dict[str, Any], message: str) -> None:
    with one_clear_line(ValueError, message):
        make(**options)
