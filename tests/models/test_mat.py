"""What the papers say of memory tokens (arXiv 2006.11527, 2207.06881), fact by fact."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import models
from models.block import Stream
from models.mat import MatBlock
from models.transformer import TransformerBlock
from tests.models.cases import SEGMENT, WIDTH, Options, build, distinct_tokens, random_tokens, token_gradients

MAT: Options = {"block_len": SEGMENT, "memory_len": 2}
RMT: Options = MAT | {"carry": True}
AUTOCOMPRESSOR: Options = RMT | {"accumulate": True}
BOTH_WAYS: Options = {"causal": False, "num_classes": 3}


def tops(model: models.Model, tokens: Tensor) -> list[Stream]:
    """What the top block makes of each segment."""
    seen: list[Stream] = []
    handle = model.blocks[-1].register_forward_hook(lambda module, args, output: seen.append(output[0]))
    model(tokens)
    handle.remove()
    return seen


def slots(state: models.ModelState) -> Tensor:
    """All that is handed on."""
    return state.memory.slots


# ---- the mask


def test_the_read_block_is_blind_to_the_tokens_and_the_write_block_sees_them_all() -> None:
    model = build("mat", depth=3, **RMT)
    (one,), (other,) = (tops(model, random_tokens(1, SEGMENT, seed=seed)) for seed in (0, 1))
    assert one.memory is not None
    assert other.memory is not None
    assert torch.equal(one.memory, other.memory)

    tokens = distinct_tokens(1, SEGMENT)
    (top,) = tops(model, tokens)
    assert top.write is not None
    for slot in top.write[0]:
        assert token_gradients(model, tokens, slot.square().sum())[0].abs().sum(dim=-1).min() > 0


def test_slots_of_a_block_see_each_other_both_ways() -> None:
    model = build("mat", depth=1, **(RMT | {"memory_len": 3}))
    slots_in = torch.randn(1, 3, WIDTH, dtype=torch.float64, requires_grad=True)
    state = model.init_state(1)
    state = state._replace(memory=state.memory._replace(slots=slots_in))
    seen: list[Stream] = []
    handle = model.blocks[0].register_forward_hook(lambda module, args, output: seen.append(output[0]))
    model(random_tokens(1, SEGMENT), None, state)
    handle.remove()
    for rows in (seen[0].memory, seen[0].write):
        assert rows is not None
        for slot in rows[0]:
            (gradient,) = torch.autograd.grad(slot.square().sum(), slots_in, retain_graph=True)
            assert gradient.abs().sum(dim=-1).min() > 0


def test_no_token_sees_the_write_block() -> None:
    """A segment that is one token short of its end has no write block, and its tokens are the same."""
    model = build("mat", **RMT)
    tokens = random_tokens(2, SEGMENT)
    assert (model(tokens)[0][:, :-1] - model(tokens[:, :-1])[0]).abs().max() < 1e-13
    longer = build("mat", **(RMT | {"block_len": SEGMENT + 1}))
    longer.load_state_dict(model.state_dict())
    assert (model(tokens)[0] - longer(tokens)[0]).abs().max() < 1e-13


@pytest.mark.parametrize("num_slots", [1, 3])
def test_both_ways_it_is_the_transformer_over_memory_and_tokens(num_slots: int) -> None:
    """MemTransformer: an ordinary layer on [X_mem ; X_seq], without any rule for memory rows."""
    shared: Options = {"causal": False, "num_classes": 3, "positions": "none"}
    model = build("mat", block_len=8, memory_len=num_slots, **shared)
    plain = build("transformer", **shared)
    tokens = random_tokens(1, 6)
    assert model.learned_memory is not None
    stream = Stream(torch.cat((model.learned_memory[None], model.embedding(tokens)), dim=1), None)
    for block, plain_block in zip(model.blocks, plain.blocks, strict=True):
        assert isinstance(plain_block, TransformerBlock)
        plain_block.load_state_dict(block.state_dict())
        stream, _ = plain_block(stream, None, None)
    pooled = model.norm(stream.tokens)[:, num_slots:].mean(dim=1)
    assert (model(tokens)[0] - model.head(pooled)).abs().max() < 1e-13


# ---- the memory along time


def test_without_carry_every_segment_begins_anew() -> None:
    model = build("mat", **MAT)
    tokens = random_tokens(2, 3 * SEGMENT)
    logits, state = model(tokens)
    assert models.tensors(state.memory) == []
    for start in range(0, 3 * SEGMENT, SEGMENT):
        part = slice(start, start + SEGMENT)
        assert (logits[:, part] - model(tokens[:, part])[0]).abs().max() < 1e-13
    assert all(top.write is None for top in tops(model, tokens))


@pytest.mark.parametrize("depth", [1, 4])
def test_all_that_is_stored_between_segments_is_m_vectors(depth: int) -> None:
    """RMT's point against a cache in each of N layers: m·d, whatever N."""
    model = build("mat", depth=depth, **RMT)
    _, state = model(random_tokens(2, 3 * SEGMENT))
    assert [tensor[0].numel() for tensor in models.tensors(state) if tensor.numel()] == [2 * WIDTH]
    assert model.state_size(3 * SEGMENT) == 2 * WIDTH


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both ways"])
def test_the_next_memory_is_the_final_hidden_state_of_the_memory_rows(causal: bool) -> None:
    model = build("mat", causal=causal, num_classes=3, **RMT)
    tokens = random_tokens(2, 2 * SEGMENT)
    top = tops(model, tokens)[-1]
    written = top.write if causal else top.memory
    assert written is not None
    assert torch.equal(slots(model(tokens)[1]), model.norm(written))


def test_what_one_segment_does_to_the_next_goes_through_the_memory() -> None:
    model = build("mat", **RMT)
    (_, state), (_, other) = (model(random_tokens(2, SEGMENT, seed=seed)) for seed in (0, 1))
    segment = random_tokens(2, SEGMENT, seed=2)
    assert (model(segment, None, state)[0] - model(segment, None, other)[0]).abs().max() > 1e-6
    swapped = state._replace(memory=other.memory)
    assert torch.equal(model(segment, None, swapped)[0], model(segment, None, other)[0])


def test_the_same_vectors_stand_at_both_ends() -> None:
    """Dropout included: read and write block of one segment enter as one draw."""
    model = build("mat", dropout=0.5, **RMT)
    entered: list[Stream] = []
    handle = model.blocks[0].register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model(random_tokens(2, 2 * SEGMENT))
    handle.remove()
    for stream in entered:
        assert stream.memory is not None
        assert stream.write is not None
        assert torch.equal(stream.memory, stream.write)


# ---- accumulation


def test_summaries_accumulate_both_ways_and_none_is_overwritten() -> None:
    model = build("mat", **AUTOCOMPRESSOR, **BOTH_WAYS)
    tokens = random_tokens(2, 4 * SEGMENT)
    before, after = slots(model(tokens[:, : 2 * SEGMENT])[1]), slots(model(tokens)[1])
    assert before.shape == (2, 3 * 2, WIDTH)
    assert after.shape == (2, 5 * 2, WIDTH)
    assert torch.equal(after[:, : 3 * 2], before)
    assert model.learned_memory is not None
    assert torch.equal(after[0, :2], model.learned_memory)
    assert model.state_size(4 * SEGMENT) == model.state_size(4 * SEGMENT - 1) == 5 * 2 * WIDTH


@pytest.mark.parametrize("form", ["tokens", "controller", "bottleneck"])
def test_causal_summaries_stay_in_the_layers_and_none_is_overwritten(form: str) -> None:
    """A summary that saw one that came later would not be the same."""
    model = build("mat", form=form, **AUTOCOMPRESSOR)
    tokens = random_tokens(2, 4 * SEGMENT)
    before, after = (model(tokens[:, : count * SEGMENT])[1] for count in (2, 4))
    assert slots(before).shape == slots(after).shape == (2, 2, WIDTH)
    for early, late in zip(before.layers, after.layers, strict=True):
        assert early.keys.shape[2] == 2 * 2
        assert late.keys.shape[2] == 4 * 2
        for name in ("keys", "values", "control_keys", "control_values"):
            kept = getattr(late, name)[:, :, : getattr(early, name).shape[2]]
            assert torch.allclose(kept, getattr(early, name), rtol=0, atol=1e-13)


def test_every_summary_is_read_by_every_later_segment() -> None:
    model = build("mat", depth=1, **AUTOCOMPRESSOR)
    _, state = model(random_tokens(1, 3 * SEGMENT))
    (layer,) = state.layers
    values, newest = layer.values.detach().requires_grad_(), slots(state).detach().requires_grad_()
    memory = state.memory._replace(slots=newest)
    logits, _ = model(random_tokens(1, 1), None, state._replace(layers=(layer._replace(values=values),), memory=memory))
    of_values, of_newest = torch.autograd.grad(logits.square().sum(), (values, newest))
    assert of_values.shape[2] == 3 * 2
    assert of_values[0].abs().sum(dim=(0, 2)).min() > 0
    assert of_newest[0].abs().sum(dim=-1).min() > 0


def test_a_cut_parts_a_segment_from_the_summaries_in_the_layers() -> None:
    model = build("mat", bptt_segments=2, **AUTOCOMPRESSOR)
    tokens = distinct_tokens(1, 5 * SEGMENT)
    heard = token_gradients(model, tokens, model(tokens)[0][0, 3 * SEGMENT].square().sum())[0].abs().sum(dim=-1)
    assert torch.count_nonzero(heard[: 2 * SEGMENT]) == 0
    assert heard[2 * SEGMENT : 3 * SEGMENT].min() > 0


def test_a_write_block_is_the_learned_one_where_memories_accumulate() -> None:
    model = build("mat", **AUTOCOMPRESSOR)
    entered: list[Stream] = []
    handle = model.blocks[0].register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    model(random_tokens(2, 3 * SEGMENT))
    handle.remove()
    assert isinstance(model.blocks[0], MatBlock)
    assert model.learned_memory is not None
    for stream in entered:
        assert stream.write is not None
        assert torch.equal(stream.write[0], model.learned_memory)


# ---- MemCtrl and MemBottleneck


def networks(block: torch.nn.Module, **shared: Any) -> tuple[TransformerBlock, TransformerBlock]:
    """The tokens' layer and the memory's, as plain Transformer layers."""
    parts = block.state_dict()
    found = []
    for owner in ("", "controller."):
        (plain,) = build("transformer", depth=1, **shared).blocks
        assert isinstance(plain, TransformerBlock)
        plain.load_state_dict({name: parts[owner + name] for name in plain.state_dict()})
        found.append(plain)
    return found[0], found[1]


def embedded(model: models.Model, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The learned memory and the tokens as they enter."""
    assert model.learned_memory is not None
    return model.learned_memory.expand(len(tokens), -1, -1), model.embedding(tokens)


@pytest.mark.parametrize("form", ["controller", "shared_controller"])
def test_a_controller_is_a_second_layer_that_sees_the_same_and_answers_for_the_memory(form: str) -> None:
    shared: Options = BOTH_WAYS | {"positions": "none"}
    model = build("mat", depth=3, block_len=8, memory_len=2, form=form, **shared)
    tokens = random_tokens(2, 6)
    memory, x = embedded(model, tokens)
    for block in model.blocks:
        rows = Stream(torch.cat((memory, x), dim=1), None)
        by_tokens, by_memory = (layer(rows, None, None)[0].tokens for layer in networks(block, **shared))
        memory, x = by_memory[:, :2], by_tokens[:, 2:]
    assert (model(tokens)[0] - model.head(model.norm(x).mean(dim=1))).abs().max() < 1e-13


def test_a_bottleneck_shows_the_tokens_the_updated_memory_and_nothing_else() -> None:
    shared: Options = BOTH_WAYS | {"positions": "none"}
    model = build("mat", depth=3, block_len=8, memory_len=2, form="bottleneck", **shared)
    tokens = random_tokens(2, 6)
    memory, x = embedded(model, tokens)
    for block in model.blocks:
        by_tokens, by_memory = networks(block, **shared)
        memory = by_memory(Stream(torch.cat((memory, x), dim=1), None), None, None)[0].tokens[:, :2]
        q, _, _ = by_tokens.project(by_tokens.attend.before(x))
        _, k, v = by_tokens.project(by_tokens.attend.before(memory))
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(dim=-1)
        assert weights.shape[2:] == (6, 2)  # O(m n), and no token-token path
        x = by_tokens.attend.after(x, by_tokens.project.output(weights @ v))
        x = by_tokens.feed.after(x, by_tokens.ffn(by_tokens.feed.before(x)))
    assert (model(tokens)[0] - model.head(model.norm(x).mean(dim=1))).abs().max() < 1e-13


@pytest.mark.parametrize("setting", [{"causal": True}, BOTH_WAYS], ids=["causal", "both ways"])
@pytest.mark.parametrize("options", [MAT, RMT, AUTOCOMPRESSOR], ids=["mat", "rmt", "autocompressor"])
def test_a_controller_with_the_tokens_weights_is_no_controller(options: Options, setting: Options) -> None:
    plain = build("mat", **options, **setting)
    controlled = build("mat", form="controller", **options, **setting)
    weights = plain.state_dict()
    controlled.load_state_dict({name: weights[name.replace("controller.", "")] for name in controlled.state_dict()})
    tokens = random_tokens(2, 3 * SEGMENT + 1)
    assert (plain(tokens)[0] - controlled(tokens)[0]).abs().max() < 1e-13


def test_a_shared_controller_is_one_for_all_layers() -> None:
    """MemCtrl-shared: the layers of MemCtrl, but with equal weights, and these are counted and trained once."""
    shared = build("mat", depth=3, form="shared_controller", **RMT)
    separate = build("mat", depth=3, form="controller", **RMT)
    separate.load_state_dict(shared.state_dict())
    tokens = random_tokens(2, 3 * SEGMENT + 1)
    assert torch.equal(shared(tokens)[0], separate(tokens)[0])
    one_layer = sum(p.numel() for p in networks(shared.blocks[0])[1].parameters())
    assert separate.num_parameters() - shared.num_parameters() == 2 * one_layer
    for block in shared.blocks:
        assert isinstance(block, MatBlock)
        assert block.controller is next(one.controller for one in shared.blocks if isinstance(one, MatBlock))


@pytest.mark.parametrize("form", ["tokens", "controller", "shared_controller"])
def test_memory_in_front_of_a_causal_segment_hears_no_token(form: str) -> None:
    """Else the future would leak through it: what it says is the same whatever the segment."""
    model = build("mat", form=form, **MAT)
    (one,), (other,) = (tops(model, random_tokens(1, SEGMENT, seed=seed)) for seed in (0, 1))
    assert one.memory is not None
    assert other.memory is not None
    assert torch.equal(one.memory, other.memory)


def test_through_a_causal_bottleneck_a_token_hears_earlier_segments_and_none_of_its_own() -> None:
    model = build("mat", form="bottleneck", **RMT)
    tokens = distinct_tokens(1, 3 * SEGMENT)
    logits, _ = model(tokens)
    places = torch.arange(3 * SEGMENT)
    for place in places.tolist():
        heard = token_gradients(model, tokens, logits[0, place].square().sum())[0].abs().sum(dim=-1) > 0
        assert torch.equal(heard, (places < place // SEGMENT * SEGMENT) | (places == place))


@pytest.mark.parametrize("form", ["controller", "bottleneck"])
def test_the_write_block_of_the_controller_sees_the_whole_segment(form: str) -> None:
    model = build("mat", depth=1, form=form, **RMT)
    tokens = distinct_tokens(1, SEGMENT)
    (top,) = tops(model, tokens)
    assert top.write is not None
    for slot in top.write[0]:
        assert token_gradients(model, tokens, slot.square().sum())[0].abs().sum(dim=-1).min() > 0
