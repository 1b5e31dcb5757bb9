"""What the paper says of Memformer (arXiv 2010.06891, final version), fact by fact."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import models
import models.recurrence
from models.block import Stream
from models.kernels.slots import slot_attention
from models.kernels.window import KeyValue
from models.memformer import MemformerMemory, MemformerRecurrence
from tests.models.cases import SEGMENT, WIDTH, Options, build, random_tokens

MEMFORMER: Options = {"block_len": SEGMENT, "memory_len": 3}


def slots(model: models.Model, tokens: Tensor) -> Tensor:
    """The memory after these tokens."""
    memory = model.memories(model(tokens)[1])[-1]
    assert memory is not None
    return memory


def recurrence(model: models.Model) -> MemformerRecurrence:
    assert isinstance(model.recurrence, MemformerRecurrence)
    return model.recurrence


def random_heads(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# ---- reader


def test_every_layer_reads_the_same_memory() -> None:
    model = build("memformer", depth=3, **MEMFORMER)
    read: list[Tensor] = []
    handles = [
        block.register_forward_pre_hook(lambda module, args: read.append(args[0].memory)) for block in model.blocks
    ]
    model(random_tokens(2, 2 * SEGMENT))
    for handle in handles:
        handle.remove()
    first, second = read[:3], read[3:]
    assert all(torch.equal(memory, first[0]) for memory in first)
    assert all(torch.equal(memory, second[0]) for memory in second)
    assert not torch.equal(first[0], second[0])


def test_what_one_segment_does_to_the_next_goes_through_the_slots() -> None:
    model = build("memformer", **MEMFORMER)
    (_, state), (_, other) = (model(random_tokens(2, SEGMENT, seed=seed)) for seed in (0, 1))
    segment = random_tokens(2, SEGMENT, seed=2)
    assert (model(segment, None, state)[0] - model(segment, None, other)[0]).abs().max() > 1e-6
    swapped = state._replace(memory=other.memory)
    assert torch.equal(model(segment, None, swapped)[0], model(segment, None, other)[0])


# ---- writer


def test_a_slot_attends_itself_and_the_tokens_but_no_other_slot() -> None:
    model = build("memformer", **MEMFORMER)
    memory = random_heads(1, 3, WIDTH).requires_grad_()
    rows = random_heads(1, SEGMENT, WIDTH, seed=1).requires_grad_()
    written = recurrence(model)._write(memory, rows, None)
    for slot in range(3):
        by_slots, by_rows = torch.autograd.grad(written[0, slot].square().sum(), (memory, rows), retain_graph=True)
        reached = by_slots[0].abs().sum(dim=-1)
        assert reached[slot] > 0
        assert torch.count_nonzero(reached) == 1
        assert by_rows[0].abs().sum(dim=-1).min() > 0


def test_a_slot_enters_its_update_unprojected() -> None:
    """With all the weight on itself it stays as it is, bit for bit, whatever the projections are."""
    model = build("memformer", **MEMFORMER)
    memory = random_heads(1, 3, WIDTH)
    nothing = torch.zeros(1, SEGMENT, dtype=torch.bool)
    assert torch.equal(recurrence(model)._write(memory, random_heads(1, SEGMENT, WIDTH), nothing), memory)


def test_a_lower_temperature_is_a_sharper_choice() -> None:
    q, own = random_heads(1, 2, 3, 4), KeyValue(random_heads(1, 2, 3, 4, seed=1), torch.zeros(1, 2, 3, 4).double())
    keys = random_heads(1, 2, 5, 4, seed=2)
    # Values that are the tokens' numbers: what is written are the weights.
    tokens = KeyValue(keys, torch.eye(5, dtype=torch.float64).expand(1, 2, -1, -1))
    own = KeyValue(own.keys, torch.zeros(1, 2, 3, 5, dtype=torch.float64))
    largest = []
    for temperature in (1.0, 0.5, 0.25):
        weights = slot_attention(q, own, tokens, scale=0.5 / temperature)
        scores = torch.cat(((q * own.keys).sum(-1, keepdim=True), q @ keys.transpose(-1, -2)), dim=-1)
        expected = (scores * 0.5 / temperature).softmax(dim=-1)
        assert (weights - expected[..., 1:]).abs().max() < 1e-14
        largest.append(expected.max(dim=-1).values)
    assert (largest[0] < largest[1]).all()
    assert (largest[1] < largest[2]).all()


# ---- forgetting


def test_slots_start_and_stay_on_the_unit_sphere() -> None:
    model = build("memformer", **MEMFORMER)
    assert model.learned_memory is not None
    start = slots(model, random_tokens(2, SEGMENT - 1))
    assert (start[0] - functional.normalize(model.learned_memory, dim=-1)).abs().max() < 1e-15
    for forgetting in (True, False):
        model = build("memformer", forgetting=forgetting, **MEMFORMER)
        lengths = slots(model, random_tokens(2, 5 * SEGMENT)).norm(dim=-1)
        assert (lengths - 1).abs().max() < 1e-12


@pytest.mark.parametrize("forgetting", [True, False])
def test_without_news_a_slot_drifts_to_its_own_direction(forgetting: bool) -> None:
    model = build("memformer", forgetting=forgetting, **MEMFORMER)
    assert model.learned_memory is not None
    bias = model.learned_memory.detach() * torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64)
    home = functional.normalize(bias, dim=-1)
    begin = functional.normalize(random_heads(1, 3, WIDTH), dim=-1)
    # A segment that the writer sees nothing of, but that counts as full.
    rows = random_heads(1, SEGMENT, WIDTH, seed=1)
    nothing, full = torch.zeros(1, SEGMENT, dtype=torch.bool), torch.ones(1, dtype=torch.bool)
    piece = models.recurrence.Piece(number=0, opens=True, closes=True)
    memory, distances = begin, []
    for _ in range(60):
        state = MemformerMemory(memory, rows[:, :0])
        memory = recurrence(model).leave(Stream(rows, None), bias, state, piece, nothing, full).slots
        distances.append((memory[0] - home).norm(dim=-1))
    if forgetting:
        assert all((b <= a + 1e-12).all() for a, b in itertools.pairwise(distances))
        assert distances[-1].max() < 1e-3
    else:
        assert (memory - begin).abs().max() < 1e-12


def test_the_pace_grows_with_the_length_of_the_bias() -> None:
    begin = functional.normalize(random_heads(WIDTH), dim=-1)
    home = functional.normalize(random_heads(WIDTH, seed=1), dim=-1)
    moved = [(functional.normalize(begin + length * home, dim=-1) - home).norm() for length in (0.25, 1.0, 4.0)]
    assert moved[0] > moved[1] > moved[2]
    # The model's own update does the same.
    model = build("memformer", **MEMFORMER)
    state = MemformerMemory(begin.expand(1, 3, -1), begin[None, None, :0].reshape(1, 0, WIDTH))
    bias = torch.stack([length * home for length in (0.25, 1.0, 4.0)])
    rows = torch.zeros(1, 1, WIDTH, dtype=torch.float64)
    piece = models.recurrence.Piece(number=0, opens=True, closes=True)
    nothing, full = torch.zeros(1, 1, dtype=torch.bool), torch.ones(1, dtype=torch.bool)
    after = recurrence(model).leave(Stream(rows, None), bias, state, piece, nothing, full).slots[0]
    for slot, expected in zip(after, moved, strict=True):
        assert abs((slot - home).norm() - expected) < 1e-12
