"""MQAR: layout, the power law, disjoint splits, scoring, streaming and floors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import data
from data.base import Split
from data.mqar import MQAR, Cell, MQARConfig
from tests.data.checks import fastest_batch, one_clear_line

SPLITS: tuple[Split, ...] = ("val", "test")


def make(*, seed: int = 0, **options: Any) -> MQAR:
    defaults: dict[str, Any] = {
        "vocab_size": 64,
        "block_len": 8,
        "train_cells": (Cell(16, 2), Cell(32, 8)),
        "eval_cells": (Cell(16, 2), Cell(32, 4), Cell(32, 8), Cell(96, 16)),
        "eval_samples": 10,
        "val_samples": 6,
    }
    return MQAR(MQARConfig(**{**defaults, **options}), seed=seed)


class Reader:
    """Looks each key up where it was said; with ``only_block`` only in the block that it is reading.

    ``wrong``: says another value. ``stranger``: what it says of a key that it cannot see.
    """

    def __init__(self, task: MQAR, *, only_block: int | None = None, wrong: bool = False, stranger: int = 0) -> None:
        self.task, self.only_block, self.wrong, self.stranger = task, only_block, wrong, stranger
        self.widest = 0

    def __call__(self, tokens: Tensor, mask: Tensor | None, state: Tensor | None) -> tuple[Tensor, Tensor]:
        assert mask is None
        self.widest = max(self.widest, tokens.shape[1])
        seen = tokens if state is None else torch.cat([state, tokens], dim=1)
        first = seen.shape[1] - tokens.shape[1]
        logits = torch.zeros(*tokens.shape, self.task.vocab_size)
        for row, ids in enumerate(seen.tolist()):
            for place in range(first, len(ids)):
                logits[row, place - first, self.answer(ids, place)] = 1.0
        return logits, seen

    def answer(self, ids: list[int], place: int) -> int:
        start = 0 if self.only_block is None else place // self.only_block * self.only_block
        half = self.task.vocab_size // 2
        for earlier in range(start + start % 2, place - 1, 2):  # pairs stand at even places
            if ids[earlier] == ids[place] and ids[earlier + 1] >= half:
                value = ids[earlier + 1]
                return half + (value - half + 1) % half if self.wrong else value
        return self.stranger


def test_layout_and_targets() -> None:
    task = make()
    for step in range(30):
        batch = task.train_batch(step, 4)
        num_pairs = {16: 2, 32: 8}[batch.tokens.shape[1]]
        assert batch.weights is not None
        for tokens, targets, weights in zip(batch.tokens, batch.targets, batch.weights, strict=True):
            keys, values = tokens[: 2 * num_pairs : 2], tokens[1 : 2 * num_pairs : 2]
            assert len(set(keys.tolist())) == len(set(values.tolist())) == num_pairs
            assert 1 <= int(keys.min()) <= int(keys.max()) < 32 <= int(values.min()) <= int(values.max()) < 64
            value_of = dict(zip(keys.tolist(), values.tolist(), strict=True))
            asked = targets.nonzero()[:, 0]
            assert (asked >= 2 * num_pairs).all()
            assert (asked % 2 == 0).all()
            assert sorted(tokens[asked].tolist()) == sorted(keys.tolist())  # each key once
            assert [value_of[int(key)] for key in tokens[asked]] == targets[asked].tolist()
            rest = torch.ones_like(tokens, dtype=torch.bool)
            rest[: 2 * num_pairs] = rest[asked] = False
            assert (tokens[rest] == 0).all()
            assert torch.equal(weights > 0, targets > 0)
            assert float(weights.sum()) == pytest.approx(1.0)


def test_random_filler_leaves_pairs_and_queries_alone() -> None:
    task = make(random_non_queries=True, train_cells=(Cell(64, 4),))
    batch = task.train_batch(0, 32)
    assert len(batch.tokens[:, 8:].unique()) > 50
    for tokens, targets in zip(batch.tokens, batch.targets, strict=True):
        value_of = dict(zip(tokens[:8:2].tolist(), tokens[1:8:2].tolist(), strict=True))
        asked = targets.nonzero()[:, 0]
        assert [value_of[int(key)] for key in tokens[asked]] == targets[asked].tolist()


def test_slots_follow_the_power_law() -> None:
    cell, rng = Cell(32, 1), np.random.default_rng(0)
    for power_a in (0.01, 0.5, 1.0):
        task = make(power_a=power_a, train_cells=(cell,))
        slots = (task.draw(rng, cell, 20_000).asked_at[:, 0] - 2) // 2
        law = np.arange(1, 16) ** (power_a - 1)
        np.testing.assert_allclose(np.bincount(slots, minlength=15) / len(slots), law / law.sum(), atol=0.015)


def test_slots_are_drawn_one_after_the_other() -> None:
    task, cell = make(power_a=0.01), Cell(16, 2)
    slots = (task.draw(np.random.default_rng(0), cell, 40_000).asked_at - 4) // 2
    law = 1 / np.arange(1, 7) ** 0.99
    law /= law.sum()
    second = np.bincount(slots[slots[:, 0] == 0, 1], minlength=6) / (slots[:, 0] == 0).sum()
    np.testing.assert_allclose(second, np.where(np.arange(6) == 0, 0, law / law[1:].sum()), atol=0.02)


def test_cells_are_drawn_by_their_shares() -> None:
    task = make(train_cells=(Cell(16, 2, share=3), Cell(32, 8)))
    lengths = [task.train_batch(step, 1).tokens.shape[1] for step in range(400)]
    assert lengths.count(16) / 400 == pytest.approx(0.75, abs=0.07)
    assert (task.max_len, task.longest_test) == (32, 96)


def test_batches_are_a_function_of_seed_and_step() -> None:
    first, again = make(seed=3).train_batch(7, 4), make(seed=3).train_batch(7, 4)
    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(first.targets, again.targets)
    for other in (make(seed=3).train_batch(8, 4), make(seed=4).train_batch(7, 4)):
        assert first.tokens.shape != other.tokens.shape or not torch.equal(first.tokens, other.tokens)


def test_splits_share_no_sequence() -> None:
    task = make(train_cells=(Cell(32, 8),), eval_cells=(Cell(32, 8),), eval_samples=200, val_samples=200)
    rows: dict[str, set[tuple[int, ...]]] = {}
    for split in SPLITS:
        rows[split] = {tuple(row) for row in task.evaluation_sequences(split, Cell(32, 8)).tokens.tolist()}
    rows["train"] = {tuple(row) for step in range(100) for row in task.train_batch(step, 32).tokens.tolist()}
    assert not rows["train"] & rows["val"]
    assert not rows["train"] & rows["test"]
    assert not rows["val"] & rows["test"]


def test_a_model_that_looks_up_scores_one_everywhere() -> None:
    task = make()
    result = task.evaluate(Reader(task), "test", batch_size=4)
    assert set(result.metrics.values()) == {1.0}
    assert set(result.metrics) == {"accuracy", "accuracy@2kv16", "accuracy@4kv32", "accuracy@8kv32", "accuracy@16kv96"}
    assert sum(row["n"] for row in result.slices) == 10 * (2 + 4 + 8 + 16)
    assert {row["trained"] for row in result.slices if row["num_kv_pairs"] == 16} == {False}
    assert result.symbols == 10 * (16 + 32 + 32 + 96)
    validated = task.evaluate(Reader(task), "val", batch_size=4)
    assert {(row["num_kv_pairs"], row["seq_len"]) for row in validated.slices} == {(2, 16), (4, 32), (8, 32)}
    assert sum(row["n"] for row in validated.slices) == 6 * (2 + 4 + 8)
    assert make(eval_cells=(Cell(96, 16),)).eval_cells("val") == list(make().config.train_cells)


def test_wrong_values_score_zero() -> None:
    task = make()
    assert set(task.evaluate(Reader(task, wrong=True), "test", batch_size=64).metrics.values()) == {0.0}
    blanks = task.evaluate(lambda tokens, mask, state: (torch.eye(64)[tokens * 0], None), "test", batch_size=64)
    assert set(blanks.metrics.values()) == {0.0}


def test_who_sees_only_its_block_is_right_at_distance_zero_only() -> None:
    task = make(eval_samples=300, eval_cells=(Cell(16, 2), Cell(32, 8)))
    result = task.evaluate(Reader(task, only_block=8, stranger=40), "test", batch_size=300)
    near = [row for row in result.slices if row["distance_blocks"] == 0]
    far = [row for row in result.slices if row["distance_blocks"] > 0]
    assert {row["accuracy"] for row in near} == {1.0}
    assert max(row["accuracy"] for row in far) < 0.12
    assert result.metrics["accuracy"] == pytest.approx(task.floors["own_block"], abs=0.03)


def test_floors() -> None:
    task = make()
    assert task.floors["any_value"] == 1 / 32
    assert task.floors["seen_value"] == pytest.approx((1 / 2 + 1 / 4 + 1 / 8) / 3)  # the cells of the headline
    far = make(block_len=2, train_cells=(Cell(64, 4),), eval_cells=(Cell(64, 4),))
    assert far.floors["own_block"] == 1 / 32  # no pair stands in the block of its query


def test_evaluation_does_not_depend_on_batch_size_chunk_or_seed() -> None:
    class Fussy(Reader):
        """Right for some keys only."""

        def answer(self, ids: list[int], place: int) -> int:
            return super().answer(ids, place) if ids[place] % 3 else 0

    results = []
    for batch_size, chunk, seed in ((64, 2048, 0), (3, 16, 0), (7, 9, 5)):
        task = make(seed=seed, eval_chunk=chunk)
        model = Fussy(task)
        results.append(task.evaluate(model, "test", batch_size=batch_size))
        assert model.widest <= max(chunk, 8)
    assert 0 < results[0].metrics["accuracy"] < 1
    assert all(result[:2] == results[0][:2] for result in results)


def test_progress_counts_symbols() -> None:
    task = make()
    reports: list[tuple[int, int]] = []
    result = task.evaluate(Reader(task), "test", batch_size=4, progress=lambda *pair: reports.append(pair))
    assert reports[-1] == (result.symbols, result.symbols)
    assert reports == sorted(reports)


def test_one_batch_is_cheap() -> None:
    task = make(vocab_size=128, train_cells=(Cell(128, 32),))
    assert fastest_batch(task, 64) < 0.01  # the best of many, with room for a busy machine; 0.3 ms on an idle core


def test_source_names_the_generator_and_its_options() -> None:
    assert make().locate() == make(seed=9).locate()
    assert make().locate().checksum != make(power_a=0.5).locate().checksum


def test_example_of_the_card_is_a_real_sequence() -> None:
    task = data.build_task("mqar", MQARConfig(vocab_size=16, train_cells=(Cell(16, 3),), eval_cells=(Cell(16, 3),)))
    assert isinstance(task, MQAR)
    batch = task.train_batch(0, 1)
    lines = [line.split() for line in task.card.splitlines()]
    assert ["tokens", *map(str, batch.tokens[0].tolist())] in lines
    assert ["targets", *(str(one) if one else "." for one in batch.targets[0].tolist())] in lines


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 63}, r"task.vocab_size must be even and 4 or more, got 63"),
        ({"power_a": 0.0}, r"task.power_a must be above 0 and at most 1"),
        ({"block_len": 0}, r"task.block_len must be 1 or more"),
        ({"eval_cells": ()}, r"task.eval_cells must be a list of at least one cell"),
        ({"train_cells": (Cell(17, 2),)}, r"task.train_cells\[0\]: seq_len must be even and at least 4 x num_kv_pairs"),
        ({"train_cells": (Cell(16, 5),)}, r"task.train_cells\[0\]: seq_len must be even .* got 16 and 5"),
        ({"eval_cells": (Cell(16, 2), Cell(256, 33))}, r"task.eval_cells\[1\]: 33 pairs need .* task.vocab_size=64"),
        ({"train_cells": (Cell(16, 2, share=0),)}, r"task.train_cells\[0\]: share must be above 0"),
        ({"eval_cells": (Cell(16, 2), Cell(16, 2, 3))}, r"task.eval_cells: the same seq_len and num_kv_pairs"),
    ],
)
def test_wrong_options_get_one_clear_line(options: dict[str, Any], message: str) -> None:
    with one_clear_line(ValueError, message):
        make(**options)
