"""What generated tasks share: streams of random numbers, distinct draws, stages, streaming, greedy decoding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data._generated import (
    Stage,
    check_curriculum,
    decode_greedily,
    distinct,
    evaluation_stream,
    floor_stream,
    stage_at,
    stream,
    training_stream,
    whole_blocks,
)


def test_streams_never_meet() -> None:
    streams = [training_stream(0, 7), training_stream(1, 7), training_stream(0, 8), floor_stream(7)]
    streams += [evaluation_stream("val", 7), evaluation_stream("test", 7), evaluation_stream("test", 7, 1)]
    assert len({int(one.integers(2**62)) for one in streams}) == len(streams)
    assert training_stream(3, 5).integers(2**62) == training_stream(3, 5).integers(2**62)


@pytest.mark.parametrize(("num_choices", "count"), [(1, 1), (7, 2), (8, 2), (8, 8), (63, 60), (400, 100), (4095, 64)])
def test_distinct_numbers_are_distinct_and_in_range(num_choices: int, count: int) -> None:
    drawn = distinct(np.random.default_rng(0), num_choices, count, 50)
    assert drawn.shape == (50, count)
    assert all(len(set(row)) == count for row in drawn.tolist())
    assert drawn.min() >= 0
    assert drawn.max() < num_choices


@pytest.mark.parametrize(("num_choices", "count"), [(5, 3), (12, 3)])
def test_distinct_numbers_are_uniform_at_every_place(num_choices: int, count: int) -> None:
    drawn = distinct(np.random.default_rng(0), num_choices, count, 20_000)
    for place in range(count):
        shares = np.bincount(drawn[:, place], minlength=num_choices) / len(drawn)
        np.testing.assert_allclose(shares, 1 / num_choices, atol=0.015)
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1] + 1 / (num_choices - 1)) < 0.03


def test_stages_follow_each_other() -> None:
    stages = (Stage(0.5, 1, 1), Stage(1.0, 1, 2))
    check_curriculum(stages)
    assert [stage_at(stages, done) for done in (0.0, 0.49, 0.5, 1.0, 2.0)] == [stages[i] for i in (0, 0, 1, 1, 1)]


def test_chunks_are_whole_blocks() -> None:
    assert [whole_blocks(chunk, 24) for chunk in (1, 24, 47, 48, 100)] == [24, 24, 24, 48, 96]


class Counter:
    """Says how many symbols it has seen, and keeps nothing but that number."""

    def __init__(self) -> None:
        self.widest = 0

    def __call__(self, tokens: Tensor, mask: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        self.widest = max(self.widest, tokens.shape[1])
        seen = state or 0
        logits = torch.zeros(*tokens.shape, 100)
        for place in range(tokens.shape[1]):
            logits[:, place, seen + place + 1] = 1.0
        return logits, seen + tokens.shape[1]


@pytest.mark.parametrize("chunk", [1, 4, 10, 100])
def test_sequences_are_streamed_with_the_state_handed_on(chunk: int) -> None:
    model = Counter()
    tokens = np.zeros((2, 10), dtype=np.int64)
    starts, said = [], []
    for start, logits, _ in stream(model, tokens, chunk=chunk, device="cpu"):
        starts.append(start)
        said += logits[0].argmax(-1).tolist()
    assert said == list(range(1, 11))
    assert starts == list(range(0, 10, chunk))
    assert model.widest == min(chunk, 10)
    assert decode_greedily(model, tokens, 3, chunk=chunk, device="cpu").tolist() == [[10, 11, 12]] * 2
