"""What all variants share whose memory returns from the top of the stack: cuts of the gradient, and replay."""

from typing import Any

import pytest
import torch
from torch import Tensor

import models
from tests.models.cases import (
    CASES,
    SEGMENT,
    VARIANTS,
    build,
    distinct_tokens,
    random_tokens,
    regrouped,
    token_gradients,
)

STACKED = [name for name in VARIANTS if models.variant(name).recurrence is not None]


def gradients(model: models.Model, tokens: Tensor) -> list[Tensor]:
    """By every parameter, of a loss over all logits."""
    torch.manual_seed(0)
    loss = model(tokens)[0].square().sum()
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
    return list(found)


@pytest.mark.parametrize("bptt_segments", [None, 2])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both ways"])
@pytest.mark.parametrize("name", STACKED)
def test_replay_gives_the_gradient_of_full_backpropagation(name: str, causal: bool, bptt_segments: int | None) -> None:
    """With dropout, too: a segment is computed again with the same draws."""
    setting: dict[str, Any] = {"dropout": 0.2, "attention_dropout": 0.2, "bptt_segments": bptt_segments}
    setting |= {"causal": causal, "num_classes": None if causal else 3}
    full = build(name, **setting, **CASES[name].options)
    replayed = regrouped(full, replay=True)
    tokens = random_tokens(2, 5 * SEGMENT + 2)
    with torch.random.fork_rng():
        for one, other in zip(gradients(full, tokens), gradients(replayed, tokens), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("name", STACKED)
def test_replay_keeps_the_memories_only(name: str) -> None:
    """What a further segment adds to the graph: without replay its activations, with it little more than the memory."""
    added = {}
    for replay in (False, True):
        model = build(name, replay=replay, depth=3, **CASES[name].options)
        sizes = []
        for num_segments in (4, 5):
            kept: dict[int, int] = {}

            def keep(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
                kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                logits, _ = model(random_tokens(2, num_segments * SEGMENT))
            sizes.append(sum(kept.values()))
            del logits
        added[replay] = sizes[1] - sizes[0]
    assert added[True] < 0.2 * added[False]


@pytest.mark.parametrize("bptt_segments", [1, 2, 3])
@pytest.mark.parametrize("name", STACKED)
def test_a_cut_changes_no_number_and_connects_what_lies_between_cuts(name: str, bptt_segments: int) -> None:
    full = build(name, **CASES[name].options)
    cut = regrouped(full, bptt_segments=bptt_segments)
    tokens = distinct_tokens(1, 6 * SEGMENT)
    logits, state = cut(tokens)
    assert torch.equal(logits, full(tokens)[0])
    for segment in range(6):
        value = logits[0, segment * SEGMENT].square().sum()
        reached = token_gradients(cut, tokens, value)[0].abs().sum(dim=-1)
        earliest = segment // bptt_segments * bptt_segments * SEGMENT
        assert torch.count_nonzero(reached[:earliest]) == 0
        assert reached[earliest] > 0
    # The cuts are counted from the start of the sequence, however it is fed.
    _, piece = cut(tokens[:, : 2 * SEGMENT + 1])
    _, piece = cut(tokens[:, 2 * SEGMENT + 1 :], None, piece)
    assert any(t.requires_grad for t in models.tensors(state.memory)) == any(
        t.requires_grad for t in models.tensors(piece.memory)
    )


@pytest.mark.parametrize("name", STACKED)
def test_an_open_segment_writes_nothing(name: str) -> None:
    model = build(name, **CASES[name].options)
    tokens = random_tokens(2, 3 * SEGMENT - 1)
    memory, before = (model.memories(model(part)[1])[-1] for part in (tokens, tokens[:, : 2 * SEGMENT]))
    assert memory is not None
    assert before is not None
    assert (memory - before).abs().max() < 1e-12
    after = model.memories(model(random_tokens(2, 3 * SEGMENT))[1])[-1]
    assert after is not None
    assert (after - before).abs().max() > 1e-3


@pytest.mark.parametrize("name", STACKED)
def test_the_last_segment_of_a_classifier_is_written_however_short(name: str) -> None:
    """So that a memory that is pooled has heard every token."""
    for causal in (True, False):
        model = build(name, causal=causal, num_classes=3, pooling="memory", **CASES[name].options)
        tokens = distinct_tokens(1, 2 * SEGMENT + 1)
        heard = token_gradients(model, tokens, model(tokens)[0].square().sum())[0].abs().sum(dim=-1)
        assert heard.min() > 0


@pytest.mark.parametrize("name", STACKED)
def test_memory_is_kept_in_full_precision(name: str) -> None:
    model = build(name, **CASES[name].options).float()
    with torch.autocast("cpu", torch.bfloat16):
        _, state = model(random_tokens(2, 2 * SEGMENT))
    memory = model.memories(state)[-1]
    assert memory is not None
    assert memory.dtype == torch.float32


@pytest.mark.parametrize("name", STACKED)
def test_a_long_stream_keeps_its_scale(name: str) -> None:
    """The memory is normed at each border, so that it cannot grow."""
    model = build(name, **CASES[name].options)
    sizes, state = [], None
    with torch.no_grad():
        for seed in range(20):
            _, state = model(random_tokens(2, 10 * SEGMENT, seed=seed), None, state)
            memory = model.memories(state)[-1]
            assert memory is not None
            sizes.append(memory.square().mean().sqrt().item())
    assert max(sizes) < 1.5 * sizes[0]
