"""What the paper and its authors' code say of Luna (arXiv 2106.01540), fact by fact."""

import math

import pytest
import torch
from torch import Tensor

import models
from models.block import Stream
from models.luna import LunaBlock, omega
from tests.models.cases import (
    NUM_HEADS,
    WIDTH,
    Options,
    build,
    distinct_tokens,
    random_tokens,
    token_gradients,
)

BOTH_WAYS: Options = {"causal": False, "num_classes": 3, "memory_len": 3}
CAUSAL: Options = {"memory_len": 3, "chunk_len": 4}


def luna_block(model: models.Model, index: int = 0) -> LunaBlock:
    block = model.blocks[index]
    assert isinstance(block, LunaBlock)
    return block


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> bool:
    return actual.shape == expected.shape and bool((actual - expected).abs().max() <= tolerance)


def make_untied(tied: models.Model, untied: models.Model) -> None:
    """Give an untied model the weights of a tied one: K and V are the same matrix."""
    weights = tied.state_dict()
    for name, weight in untied.state_dict().items():
        if weight.shape != weights[name].shape:
            weights[name] = torch.cat((weights[name], weights[name]))
    untied.load_state_dict(weights)


@pytest.mark.parametrize("options", [BOTH_WAYS, CAUSAL], ids=["both ways", "causal"])
def test_tied_means_that_keys_are_values(options: Options) -> None:
    tied = build("luna", tied=True, positions="learned", **options)
    untied = build("luna", positions="learned", **options)
    make_untied(tied, untied)
    tokens = random_tokens(2, 9)
    assert close(tied(tokens)[0], untied(tokens)[0])


# ---- both ways


def test_memory_gets_no_feed_forward() -> None:
    """P' = LN(P + Y_P), and neither the feed-forward nor the output projection has a part in it."""
    block = luna_block(build("luna", norm_position="post", **BOTH_WAYS))
    stream = Stream(rows(2, 7), rows(2, 3, seed=1))
    (before, _) = block(stream, None)
    with torch.no_grad():
        for linear in (block.ffn.down, block.out):
            linear.weight.zero_()
    (after, _) = block(stream, None)
    assert before.memory is not None
    assert torch.equal(before.memory, after.memory)
    assert not close(before.tokens, after.tokens, 1e-3)


def test_memory_of_a_layer_is_what_the_layer_below_packed() -> None:
    model = build("luna", **BOTH_WAYS)
    tokens = random_tokens(2, 7)
    assert model.positions is not None
    assert model.learned_memory is not None
    stream = Stream(model.embedding(tokens) + model.positions[:7], model.learned_memory[None])
    for block in model.blocks:
        assert stream.memory is not None
        stream, _ = block(stream, None)
    pooled = build("luna", pooling="memory", **BOTH_WAYS)
    pooled.load_state_dict(model.state_dict())
    assert stream.memory is not None
    assert close(pooled(tokens)[0], pooled.head(pooled.norm(stream.memory).mean(dim=1)))


def test_without_positions_luna_sees_a_bag_of_tokens() -> None:
    model = build("luna", positions="none", **BOTH_WAYS)
    tokens = random_tokens(2, 9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    assert close(model(tokens)[0], model(tokens[:, order])[0])


def test_tokens_meet_in_the_memory_only() -> None:
    """With a zero query the memory packs a plain mean: swapping two tokens changes no other token's row."""
    block = luna_block(build("luna", **BOTH_WAYS))
    with torch.no_grad():
        block.pack_query.weight.zero_()
        block.pack_query.bias.zero_()
    x = rows(1, 6)
    swapped = x[:, [1, 0, 2, 3, 4, 5]]
    memory = rows(1, 3, seed=1)
    out, swapped_out = (block(Stream(rows_in, memory), None)[0].tokens for rows_in in (x, swapped))
    assert close(out[:, 2:], swapped_out[:, 2:])
    assert close(out[:, :2], swapped_out[:, :2].flip(1))


# ---- causal


def test_omega() -> None:
    x = torch.linspace(-20, 20, 41, dtype=torch.float64)
    assert omega(torch.zeros(1)).item() == pytest.approx(1.0)
    assert (omega(x) > 0).all()
    assert close(omega(x), torch.log2(1 + 2**x))


def test_the_first_token_divides_by_one() -> None:
    """y_1 = (u · pi_1) v_1: t counts from 1."""
    model = build("luna", depth=1, positions="none", **CAUSAL)
    block = luna_block(model)
    x = rows(1, 1)
    h = block.attend.before(x)
    memory = rows(1, 3, seed=1)
    scale = 1 / math.sqrt(WIDTH // NUM_HEADS)

    def heads(y: Tensor) -> Tensor:
        return y.reshape(-1, NUM_HEADS, WIDTH // NUM_HEADS).transpose(0, 1)  # [H, rows, d]

    k, v = (heads(part) for part in block.unpack_context(h)[0].chunk(2, dim=-1))
    q = heads(block.query(h)[0]) * scale
    slots, packed = heads(block.pack_query(memory)[0]) * scale, heads(block.pack_context(h)[0])
    pi = omega(slots @ packed.transpose(1, 2))  # [H, M, 1]
    u = ((q @ k.transpose(1, 2)) * pi.transpose(1, 2)).softmax(dim=-1)  # [H, 1, M]
    y = (u @ pi * v).transpose(0, 1).reshape(1, 1, WIDTH)
    expected = block.attend.after(x, block.out(y))
    expected = block.feed.after(expected, block.ffn(block.feed.before(expected)))
    assert close(block(Stream(x, memory), None)[0].tokens, expected)


def test_causal_memory_is_a_query_only() -> None:
    """Every layer takes the same P from the bottom, whatever the tokens are."""
    model = build("luna", depth=3, **CAUSAL)
    assert model.learned_memory is not None
    stream = Stream(rows(2, 5), model.learned_memory[None])
    for block in model.blocks:
        above, _ = block(stream, None)
        assert above.memory is stream.memory
        stream = above


def test_causal_padding_packs_nothing() -> None:
    model = build("luna", **CAUSAL)
    tokens = random_tokens(1, 9)
    mask = torch.arange(9)[None] < 5
    (_, padded), (_, alone) = model(tokens, mask), model(tokens[:, :5])
    for layer, layer_alone in zip(padded.layers, alone.layers, strict=True):
        assert close(layer.key_pack, layer_alone.key_pack)
        assert close(layer.pack_value, layer_alone.pack_value)


def test_causal_state_does_not_grow() -> None:
    model = build("luna", **CAUSAL)
    sizes = {model.state_size(num_tokens) for num_tokens in (1, 10, 1_000_000)}
    assert sizes == {2 * 2 * 3 * WIDTH}
    assert {tensor.numel() for tensor in models.tensors(model(random_tokens(1, 50))[1])} == {3 * WIDTH}


def test_causal_sums_are_kept_in_full_precision() -> None:
    model = build("luna", **CAUSAL).float()
    with torch.autocast("cpu", torch.bfloat16):
        _, state = model(random_tokens(2, 10))
    assert {tensor.dtype for tensor in models.tensors(state)} == {torch.float32}
    half = build("luna", **CAUSAL).bfloat16()
    assert {tensor.dtype for tensor in models.tensors(half(random_tokens(2, 10))[1])} == {torch.float32}


@pytest.mark.parametrize("options", [BOTH_WAYS, CAUSAL], ids=["both ways", "causal"])
def test_memory_slots_all_learn(options: Options) -> None:
    model = build("luna", **options)
    tokens = distinct_tokens(2, 9)
    value = model(tokens)[0].square().sum()
    assert model.learned_memory is not None
    (gradient,) = torch.autograd.grad(value, model.learned_memory, retain_graph=True)
    assert gradient.abs().sum(dim=-1).min() > 0
    assert token_gradients(model, tokens, value).abs().sum(dim=-1).min() > 0
