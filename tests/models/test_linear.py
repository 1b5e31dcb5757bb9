"""What the papers say of linear attention (arXiv 2006.16236, 2211.04076, 2104.09864 section 3.3), fact by fact."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import models
from models.block import Stream
from models.kernels.linear_attention import causal_linear, full_linear
from models.layers import rotate, rotation
from models.linear import FeatureMap, LinearBlock
from tests.models.cases import NUM_HEADS, WIDTH, Options, build, random_tokens

BOTH_WAYS: Options = {"causal": False, "num_classes": 3}
HEAD_WIDTH = WIDTH // NUM_HEADS


def linear_block(model: models.Model) -> LinearBlock:
    block = model.blocks[0]
    assert isinstance(block, LinearBlock)
    return block


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> bool:
    return actual.shape == expected.shape and bool((actual - expected).abs().max() <= tolerance)


def shifted(model: models.Model, by: int) -> models.ModelState:
    """The start of a sequence whose first token stands at position ``by``."""
    state = model.init_state(2)
    return models.ModelState(by, tuple(layer._replace(position=by) for layer in state.layers))


# ---- feature maps


def test_elu_plus_one_is_exact_far_below_zero_and_finite_far_above() -> None:
    """elu(x) + 1, computed as it stands, is 0 in float32 from x = -17 on, and its gradient with it."""
    phi = FeatureMap(models.BackboneConfig(), "elu")
    x = torch.tensor([-80.0, -30.0, -1.0, -0.0, 0.0, 1.0, 1e4], requires_grad=True)
    y = phi(x.reshape(1, 1, 1, -1)).flatten()
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert y.tolist() == pytest.approx([math.exp(-80), math.exp(-30), math.exp(-1), 1.0, 1.0, 2.0, 10_001.0])
    assert gradient.tolist() == pytest.approx([math.exp(-80), math.exp(-30), math.exp(-1), 1.0, 1.0, 1.0, 1.0])


def test_the_trained_map_starts_orthogonal_and_each_head_has_its_own() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = models.build_model(
            "linear", vocab_size=20, max_len=8, causal=True, width=16, num_heads=2, feature_map="ffn"
        )
    phi = linear_block(model).features
    assert phi.value is not None
    identity = torch.eye(8).expand(2, -1, -1)
    torch.testing.assert_close(phi.value.detach() @ phi.value.detach().transpose(1, 2), identity)
    assert not torch.equal(phi.value[0], phi.value[1])
    x = torch.randn(1, 2, 5, 8) * 10
    assert (phi(x) > 0).all()


# ---- the state


def test_the_state_is_the_matrix_and_the_normaliser_of_the_paper() -> None:
    model = build("linear", depth=1, positions="none")
    block, tokens = linear_block(model), random_tokens(2, 9)
    _, state = model(tokens)
    _, k, v = block.project(block.attend.before(model.embedding(tokens)))
    k = block.features(k)
    assert close(state.layers[0].matrix, torch.einsum("bhti,bhtj->bhij", k, v))
    assert close(state.layers[0].normaliser, k.sum(dim=2).unsqueeze(-1))


def test_the_state_does_not_grow() -> None:
    model = build("linear")
    assert {model.state_size(num_tokens) for num_tokens in (1, 10, 10**6)} == {2 * WIDTH * (HEAD_WIDTH + 1)}


@pytest.mark.parametrize("positions", ["rope", "none"])
@pytest.mark.parametrize("reads", [{}, BOTH_WAYS], ids=["causal", "both ways"])
def test_sums_are_kept_in_full_precision(reads: Options, positions: str) -> None:
    tokens = random_tokens(2, 10)
    model = build("linear", positions=positions, **reads).float()
    with torch.autocast("cpu", torch.bfloat16):
        _, state = model(tokens)
    assert {tensor.dtype for tensor in models.tensors(state)} == {torch.float32}
    half = build("linear", positions=positions, **reads).bfloat16()
    assert {tensor.dtype for tensor in models.tensors(half(tokens)[1])} == {torch.float32}


def test_both_ways_one_matrix_serves_all_tokens() -> None:
    """The rows of the last token are those of the causal form, which has then seen everything."""
    causal, full = build("linear", depth=1, num_classes=3), build("linear", depth=1, **BOTH_WAYS)
    full.load_state_dict(causal.state_dict())
    x = random(2, 7, WIDTH)
    rows, state = linear_block(causal)(Stream(x, None), None)
    full_rows, full_state = linear_block(full)(Stream(x, None), None)
    assert close(rows.tokens[:, -1], full_rows.tokens[:, -1])
    assert close(state.matrix, full_state.matrix)


def test_padding_never_enters_the_sums() -> None:
    for reads in ({}, BOTH_WAYS):
        model = build("linear", **reads)
        tokens = random_tokens(1, 9)
        mask = torch.arange(9)[None] < 5
        (_, padded), (_, alone) = model(tokens, mask), model(tokens[:, :5])
        for layer, layer_alone in zip(padded.layers, alone.layers, strict=True):
            assert close(layer.matrix, layer_alone.matrix)
            assert close(layer.normaliser, layer_alone.normaliser)


# ---- positions


def test_without_positions_it_sees_a_bag_of_tokens() -> None:
    model = build("linear", positions="none", **BOTH_WAYS)
    tokens = random_tokens(2, 9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    assert close(model(tokens)[0], model(tokens[:, order])[0])


@pytest.mark.parametrize("by", [1, 1_000_000])
def test_rope_sees_distances_only(by: int) -> None:
    model, tokens = build("linear"), random_tokens(2, 11)
    assert close(model(tokens)[0], model(tokens, None, shifted(model, by))[0], 1e-8)
    assert not close(model(tokens)[0], build("linear", positions="none")(tokens)[0], 1e-3)


def test_rope_turns_the_numerator_alone() -> None:
    """Weights are (R_t phi(q_t))·(R_j phi(k_j)) over sum_j phi(q_t)·phi(k_j), which is never turned."""
    model = build("linear", depth=1)
    block, x = linear_block(model), random(1, 6, WIDTH)
    q, k, v = block.project(block.attend.before(x))
    q, k = block.features(q), block.features(k)
    angles = rotation(torch.arange(6), model.config, x)
    turned = (rotate(q, angles) @ rotate(k, angles).transpose(-1, -2)).tril()
    plain = (q @ k.transpose(-1, -2)).tril()
    y = turned @ v / plain.sum(dim=-1, keepdim=True)
    expected = block.attend.after(x, block.project.output(y))
    expected = block.feed.after(expected, block.ffn(block.feed.before(expected)))
    out, state = block(Stream(x, None), None)
    assert close(out.tokens, expected, 1e-5)  # but for epsilon
    assert (state.normaliser > 0).all()


def test_a_turned_denominator_could_vanish() -> None:
    """Why RoPE is kept out of it: positive features, turned, have products of either sign."""
    config = models.BackboneConfig(width=WIDTH, num_heads=NUM_HEADS)
    features = torch.tensor([1.0, 1.0, 0.1, 0.1], dtype=torch.float64).expand(1, NUM_HEADS, 8, -1)
    turned = rotate(features, rotation(torch.arange(8), config, features))
    products = turned[0, 0] @ turned[0, 0].T
    assert products.min() < 0 < products.max()


def test_attention_dropout_leaves_the_normaliser_whole() -> None:
    for positions in ("rope", "none"):
        model = build("linear", depth=1, attention_dropout=0.5, positions=positions)
        tokens = random_tokens(2, 9)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            _, dropped = model(tokens)
        _, whole = model.eval()(tokens)
        assert close(dropped.layers[0].normaliser, whole.layers[0].normaliser)
        assert not close(dropped.layers[0].matrix, whole.layers[0].matrix, 1e-3)


# ---- the kernel


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_kernels_equal_the_loop(data: st.DataObject) -> None:
    num_tokens, chunk_len = data.draw(st.integers(1, 13)), data.draw(st.sampled_from([1, 2, 3, 5, 64]))
    width = data.draw(st.sampled_from([1, 3]))
    q, k = random(2, 2, num_tokens, 4, seed=1), random(2, 2, num_tokens, 4, seed=2)
    v, start = random(2, 2, num_tokens, width, seed=3), random(2, 2, 4, width, seed=4)
    total, read = start, []
    for t in range(num_tokens):
        total = total + k[:, :, t, :, None] * v[:, :, t, None, :]
        read.append((q[:, :, t, None] @ total)[:, :, 0])
    y, after = causal_linear(q, k, v, start, chunk_len=chunk_len)
    assert close(y, torch.stack(read, dim=2))
    assert close(after, total)
    y, after = full_linear(q, k, v, start)
    assert close(y, q @ total)
    assert close(after, total)


def test_long_sums_in_single_precision_stay_exact() -> None:
    """Sums over chunks, and chunks over the sequence: no chain of T roundings."""
    q, k, v = (random(1, 1, 8192, 4, seed=seed).exp() for seed in range(3))
    start = torch.zeros(1, 1, 4, 4)
    exact, _ = causal_linear(q, k, v, start.double())
    rounded, _ = causal_linear(q.float(), k.float(), v.float(), start)
    assert ((rounded.double() - exact) / exact).abs().max() < 1e-5
