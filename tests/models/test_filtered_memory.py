"""What the authors' code of ConvLuna (arXiv 2404.00798) does, fact by fact; and our windows and causal form."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import models
from models.filtered_memory import FilteredMemoryBlock, FilteredMemoryOptions
from models.kernels.filters import convolve, max_pool
from models.luna import LunaBlock, LunaOptions
from tests.models.cases import NUM_HEADS, WIDTH, Options, build, distinct_tokens, random_tokens, token_gradients

BOTH_WAYS: Options = {"causal": False, "num_classes": 3, "memory_len": 3}
CAUSAL: Options = {"memory_len": 3, "chunk_len": 4, "positions": "learned"}
DIRECTIONS = pytest.mark.parametrize("direction", [BOTH_WAYS, CAUSAL], ids=["both ways", "causal"])
#: What ``filtered_memory`` must be told to be Luna.
LUNA: Options = {
    "filter": "none",
    "kernel": 1,
    "value_projection": True,
    "pack_temperature": "sqrt",
    "unpack_scale": "sqrt",
}


def blocks(model: models.Model) -> list[FilteredMemoryBlock]:
    return [block for block in model.blocks if isinstance(block, FilteredMemoryBlock)]


def learned(model: models.Model) -> Tensor:
    assert model.learned_memory is not None
    return model.learned_memory


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> bool:
    return actual.shape == expected.shape and bool((actual - expected).abs().max() <= tolerance)


def with_weights_of(source: models.Model, target: models.Model, **changed: Tensor) -> models.Model:
    """``target`` with all weights that it shares with ``source`` by name, and some set for every layer."""
    weights = source.state_dict()
    found = {name: weights.get(name, weight) for name, weight in target.state_dict().items()}
    for name in found:
        if name.rpartition(".")[2] in changed:
            found[name] = changed[name.rpartition(".")[2]]
    target.load_state_dict(found)
    return target


def batch_with_padding() -> tuple[Tensor, Tensor]:
    """Four sequences: whole, cut at a window's border or not, shorter than a kernel, one token."""
    lengths = torch.tensor([13, 8, 6, 1])
    return random_tokens(4, 13), torch.arange(13) < lengths[:, None]


# ---- as trained


def test_defaults_are_what_the_authors_train() -> None:
    assert dataclasses.asdict(FilteredMemoryOptions(memory_len=256)) == {
        "memory_len": 256,
        "filter": "conv",
        "kernel": 4,
        "stride": 1,
        "value_projection": False,
        "pack_temperature": "learn",
        "unpack_scale": "none",
        "sharing": "full",
        "chunk_len": 64,
    }


def test_a_block_has_as_many_parameters_as_theirs() -> None:
    """16,495 fewer than their Luna's: a value projection less (16,512), a kernel (16) and a temperature (1) more."""
    config = models.BackboneConfig(width=128, num_heads=4, ffn_width=512, norm_position="post", positions="learned")

    def count(block: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in block.parameters())

    ours = count(FilteredMemoryBlock(config, FilteredMemoryOptions(), causal=False))
    assert ours == count(LunaBlock(config, LunaOptions(shared=True), causal=False)) - 16_495


def test_one_kernel_per_head_starts_like_their_convolution() -> None:
    model = models.build_model("filtered_memory", vocab_size=9, max_len=9, causal=True)
    for block in model.blocks:
        assert isinstance(block, FilteredMemoryBlock)
        assert block.filter_weight is not None
        assert block.log_temperature is not None
        assert block.filter_weight.shape == (model.config.num_heads, 4)
        assert block.filter_weight.abs().max() <= 0.5
        assert block.log_temperature.shape == ()
        assert block.log_temperature == 0


@DIRECTIONS
def test_the_temperature_starts_as_no_scale_at_all(direction: Options) -> None:
    learned, unit = (build("filtered_memory", pack_temperature=name, **direction) for name in ("learn", "unit"))
    with_weights_of(unit, learned, log_temperature=torch.zeros(()))
    tokens = random_tokens(2, 9)
    assert torch.equal(learned(tokens)[0], unit(tokens)[0])


@DIRECTIONS
def test_the_temperature_divides_packing_logits(direction: Options) -> None:
    learned, root = (build("filtered_memory", pack_temperature=name, **direction) for name in ("learn", "sqrt"))
    head_width = torch.tensor(WIDTH / NUM_HEADS, dtype=torch.float64)
    with_weights_of(root, learned, log_temperature=head_width.sqrt().log())
    tokens = random_tokens(2, 9)
    assert close(learned(tokens)[0], root(tokens)[0])


@DIRECTIONS
def test_the_temperature_and_the_kernel_learn(direction: Options) -> None:
    model = build("filtered_memory", **direction)
    model(random_tokens(2, 9))[0].square().sum().backward()
    for block in blocks(model):
        assert block.log_temperature is not None
        assert block.filter_weight is not None
        assert block.log_temperature.grad is not None
        assert block.filter_weight.grad is not None
        assert block.log_temperature.grad != 0
        assert torch.count_nonzero(block.filter_weight.grad) == block.filter_weight.numel()


@DIRECTIONS
def test_a_kernel_that_keeps_its_own_token_filters_nothing(direction: Options) -> None:
    """Both ways token n stands at place (k-1)//2 of window n ("same" padding); causally at the last."""
    filtered, plain = (
        build("filtered_memory", **direction),
        build("filtered_memory", **direction | {"filter": "none", "kernel": 1}),
    )
    place = 1 if not filtered.causal else 3
    own = functional.one_hot(torch.tensor(place), 4).double().expand(NUM_HEADS, -1)
    with_weights_of(plain, filtered, filter_weight=own)
    tokens, mask = batch_with_padding()
    assert close(filtered(tokens, mask)[0][mask[:, 0]], plain(tokens, mask)[0][mask[:, 0]])


@DIRECTIONS
def test_without_value_projection_the_input_is_cut_into_heads(direction: Options) -> None:
    plain, projected = (build("filtered_memory", value_projection=on, **direction) for on in (False, True))
    with_weights_of(plain, projected)
    with torch.no_grad():
        for block in blocks(projected):
            assert isinstance(block.value, torch.nn.Linear)
            block.value.weight.copy_(torch.eye(WIDTH))
            block.value.bias.zero_()
    tokens = random_tokens(2, 9)
    assert close(plain(tokens)[0], projected(tokens)[0])


# ---- law 5: Luna


@DIRECTIONS
@pytest.mark.parametrize("positions", ["learned", "none"])
def test_unfiltered_it_is_luna_as_its_authors_read_it(direction: Options, positions: str) -> None:
    """With every projection shared: the same numbers and gradients, bit for bit."""
    setting = direction | {"positions": positions}
    luna = build("luna", shared=True, **setting)
    ours = build("filtered_memory", sharing="full", **setting, **LUNA)
    weights = {}
    for name, weight in luna.state_dict().items():
        path, _, what = name.rpartition(".")
        if path.endswith("context"):
            layer = path.rpartition(".")[0]
            weights[f"{layer}.key.{what}"], weights[f"{layer}.value.{what}"] = weight.chunk(2)
        else:
            weights[name] = weight
    for name in ours.state_dict():
        weights.setdefault(name, weights.get(name.replace(".pack_", "."), torch.empty(0)))
    weights = {name: weight for name, weight in weights.items() if name in ours.state_dict()}
    ours.load_state_dict(weights)
    tokens, mask = batch_with_padding()
    assert_same_function(luna, ours, tokens, mask)


@DIRECTIONS
def test_unfiltered_and_apart_it_is_luna_as_its_own_authors_have_it(direction: Options) -> None:
    """They project no Y_P: the packing's output projection is the identity."""
    luna = build("luna", **direction)
    ours = build("filtered_memory", sharing="none", **direction, **LUNA)
    weights = ours.state_dict() | {name: w for name, w in luna.state_dict().items() if name in ours.state_dict()}
    for name, weight in luna.state_dict().items():
        path, _, what = name.rpartition(".")
        layer = path.rpartition(".")[0]
        if path.endswith(".pack_context") and not luna.causal:
            weights[f"{layer}.pack_key.{what}"], weights[f"{layer}.pack_value.{what}"] = weight.chunk(2)
            weights[f"{layer}.pack_out.{what}"] = torch.eye(WIDTH) if what == "weight" else torch.zeros(WIDTH)
        elif path.endswith(".pack_context"):
            weights[f"{layer}.pack_key.{what}"] = weight
        elif path.endswith(".unpack_context"):
            weights[f"{layer}.key.{what}"], weights[f"{layer}.value.{what}"] = weight.chunk(2)
    ours.load_state_dict(weights)
    tokens, mask = batch_with_padding()
    assert_same_function(luna, ours, tokens, mask)


def assert_same_function(luna: models.Model, ours: models.Model, tokens: Tensor, mask: Tensor) -> None:
    """Logits, gradients at the embedding and the learned memory, and causal sums."""
    for padding in (None, mask):
        (logits, state), (our_logits, our_state) = luna(tokens, padding), ours(tokens, padding)
        assert close(our_logits, logits, 1e-13)
        for layer, our_layer in zip(state.layers, our_state.layers, strict=True):
            if luna.causal:
                assert close(our_layer.key_pack, layer.key_pack, 1e-13)
                assert close(our_layer.pack_value, layer.pack_value, 1e-13)
        gradients = [
            torch.autograd.grad(out.square().sum(), [model.embedding.weight, learned(model)])
            for model, out in ((luna, logits), (ours, our_logits))
        ]
        for expected, actual in zip(*gradients, strict=True):
            assert close(actual, expected, 1e-11)


# ---- windows

SHAPES = [(4, 1), (4, 2), (4, 4), (3, 1), (5, 3)]


@pytest.mark.parametrize("num_tokens", [1, 3, 4, 8, 21])
@pytest.mark.parametrize(("size", "stride"), [*SHAPES, (2, 5)])
def test_windows_are_theirs_wherever_they_had_any(size: int, stride: int, num_tokens: int) -> None:
    """``conv1d`` and ``max_pool1d`` as their code calls them, beside ours: the same first windows, and a rest."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, NUM_HEADS, num_tokens, 3, generator=generator, dtype=torch.float64)
    kernel = torch.randn(NUM_HEADS, size, generator=generator, dtype=torch.float64)
    channels = x.transpose(2, 3).flatten(1, 2)
    weight = kernel.repeat_interleave(3, dim=0)[:, None]
    num_windows, is_same = math.ceil(num_tokens / stride), stride == 1
    ours = convolve(x, kernel, num_windows=num_windows, stride=stride, before=(size - 1) // 2 if is_same else 0)
    pooled = max_pool(x, size, num_windows=num_windows, stride=stride)
    assert ours.shape == pooled.shape == (2, NUM_HEADS, num_windows, 3)

    if is_same or num_tokens >= size:
        padded = functional.pad(channels, ((size - 1) // 2, size // 2)) if is_same else channels
        theirs = functional.conv1d(padded, weight, stride=stride, groups=len(weight))
        theirs = theirs.unflatten(1, (NUM_HEADS, 3)).transpose(2, 3)
        assert theirs.shape[2] == num_windows or not is_same
        assert close(ours[:, :, : theirs.shape[2]], theirs)
    if num_tokens >= size:
        theirs = functional.max_pool1d(channels, size, stride).unflatten(1, (NUM_HEADS, 3)).transpose(2, 3)
        assert torch.equal(pooled[:, :, : theirs.shape[2]], theirs)
        assert num_windows - theirs.shape[2] <= max(1, size - 1)


@pytest.mark.parametrize("name", ["conv", "max_pool"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "memory"])
@pytest.mark.parametrize(("size", "stride"), SHAPES)
def test_padding_is_nothing_to_any_filter(size: int, stride: int, name: str, pooling: str) -> None:
    """A padded sequence is the sequence alone, whatever stands behind, and padding has no gradient."""
    setting = BOTH_WAYS | {"filter": name, "kernel": size, "stride": stride, "pooling": pooling}
    model = build("filtered_memory", **setting)
    tokens, mask = batch_with_padding()
    logits = model(tokens, mask)[0]
    other = torch.where(mask, tokens, random_tokens(*tokens.shape, seed=1))
    assert torch.equal(logits, model(other, mask)[0])
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        assert close(logits[row], model(tokens[row : row + 1, :length])[0][0])

    distinct = distinct_tokens(*tokens.shape)
    gradient = token_gradients(model, distinct, model(distinct, mask)[0].square().sum())
    assert gradient.isfinite().all()
    assert torch.count_nonzero(gradient[~mask]) == 0
    assert (gradient[mask].abs().sum(dim=-1) > 0).all()


@pytest.mark.parametrize("name", ["conv", "max_pool"])
@pytest.mark.parametrize("stride", [1, 4])
def test_a_sequence_of_padding_alone_stays_finite(stride: int, name: str) -> None:
    model = build("filtered_memory", filter=name, stride=stride, **BOTH_WAYS)
    tokens, mask = random_tokens(2, 9), torch.zeros(2, 9, dtype=torch.bool)
    mask[0] = True
    logits = model(tokens, mask)[0]
    assert logits.isfinite().all()
    logits[0].square().sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


def test_a_stride_packs_a_shorter_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []

    def record(q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
        lengths.append(k.shape[2])
        return functional.scaled_dot_product_attention(q, k, v)

    monkeypatch.setattr("models.filtered_memory.attention", record)
    build("filtered_memory", depth=1, stride=4, **BOTH_WAYS)(random_tokens(1, 9))
    assert lengths == [3, 3]  # ceil(9 / 4) filtered positions, then M slots


# ---- causal


@pytest.mark.parametrize("name", ["conv", "max_pool"])
def test_a_causal_window_holds_the_last_k_tokens(name: str) -> None:
    """What the last token adds to the sum of packed values depends on k tokens, in the bottom layer."""
    size, num_tokens = 3, 9
    model = build("filtered_memory", depth=1, filter=name, kernel=size, **CAUSAL)
    tokens = distinct_tokens(1, num_tokens)
    packed = model(tokens)[1].layers[0].pack_value
    before = model(tokens[:, :-1])[1].layers[0].pack_value
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(packed.shape, generator=generator, dtype=torch.float64)
    reached = token_gradients(model, tokens, (packed * weights).sum())
    reached_before = token_gradients(model, tokens[:, :-1], (before * weights).sum())
    added = reached[:, :-1] - reached_before
    assert close(added[:, :-2], torch.zeros_like(added[:, :-2]))
    assert (added[:, -2:].abs().sum(dim=-1) > 1e-6).all()


def test_the_state_carries_k_minus_one_tokens() -> None:
    model = build("filtered_memory", kernel=4, **CAUSAL)
    for num_tokens, kept in ((1, 1), (2, 2), (3, 3), (4, 3), (50, 3)):
        _, state = model(random_tokens(2, num_tokens))
        assert {layer.tail.shape for layer in state.layers} == {(2, kept, WIDTH)}
    assert model.state_size(3) == model.state_size(10**6) == 2 * (2 * 3 + 3) * WIDTH
    unfiltered = build("filtered_memory", **CAUSAL, **LUNA)
    assert unfiltered.state_size(10**6) == 2 * (2 * 3) * WIDTH


def test_causal_sums_are_kept_in_full_precision() -> None:
    for options in ({}, {"filter": "max_pool"}, LUNA):
        model = build("filtered_memory", **CAUSAL, **options).float()
        with torch.autocast("cpu", torch.bfloat16):
            logits, state = model(random_tokens(2, 10))
            model(random_tokens(2, 3), None, state)
        assert logits.isfinite().all()
        assert {layer.pack_value.dtype for layer in state.layers} == {torch.float32}
        half = build("filtered_memory", **CAUSAL, **options).bfloat16()
        assert {layer.key_pack.dtype for layer in half(random_tokens(2, 10))[1].layers} == {torch.float32}


@pytest.mark.parametrize("options", [{}, {"filter": "max_pool", "stride": 4}], ids=["conv", "max_pool"])
def test_reading_both_ways_runs_in_half_precision(options: Options) -> None:
    tokens, mask = batch_with_padding()
    model = build("filtered_memory", **BOTH_WAYS, **options).float()
    exact = model(tokens, mask)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert close(model(tokens, mask)[0].float(), exact, 0.1)
    assert model.bfloat16()(tokens, mask)[0].isfinite().all()


# ---- mistakes


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"filter": "cnov"}, "model.filter='cnov' (did you mean 'conv'?): choose one of conv, max_pool, none"),
        ({"pack_temperature": "root"}, "model.pack_temperature='root': choose one of unit, sqrt, learn"),
        ({"unpack_scale": "learn"}, "model.unpack_scale='learn': choose one of none, sqrt"),
        ({"sharing": "all"}, "model.sharing='all': choose one of full, qk, none"),
        ({"memory_len": 0}, "model.memory_len=0: must be at least 1"),
        ({"kernel": 0}, "model.kernel=0: must be at least 1"),
        ({"stride": 0}, "model.stride=0: must be at least 1"),
        ({"chunk_len": 0}, "model.chunk_len=0: must be at least 1"),
        ({"filter": "none"}, "model.kernel=4 has no effect with model.filter=none: set it to 1"),
        (
            {"filter": "none", "kernel": 1, "stride": 2},
            "model.stride=2 has no effect with model.filter=none: set it to 1",
        ),
        (
            {"stride": 5, "causal": False, "num_classes": 3, "positions": "learned"},
            "model.stride=5: tokens between windows of model.kernel=4 would never be packed; use at most 4",
        ),
        ({"kernel": 1}, "model.kernel=1: a window of one token filters nothing; use 2 or more, or model.filter=none"),
        (
            {"stride": 4},
            "model.stride=4: causal filtered_memory would hide the last tokens until a window is full; "
            "use model.stride=1",
        ),
        (
            {"sharing": "qk"},
            "model.sharing=qk: causal filtered_memory has one value and one output projection, so this is full; "
            "use model.sharing=full",
        ),
        (
            {"positions": "rope", "causal": False, "num_classes": 3},
            "backbone.positions=rope: filtered_memory that reads both ways needs learned positions, since its memory "
            "slots have no place to rotate against; use backbone.positions=learned",
        ),
    ],
)
def test_a_mistake_gets_one_clear_line(options: Options, text: str) -> None:
    settings: Options = {"vocab_size": 9, "max_len": 9, "causal": True}
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole text is compared
        models.build_model("filtered_memory", **(settings | options))
    assert str(error.value) == text
