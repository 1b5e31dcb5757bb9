"""What the paper says of Infini-attention (arXiv 2404.07143v2), fact by fact, and what follows from it."""

import math

import pytest
import torch
from torch import Tensor

import models
from models.infini import RULES, InfiniBlock
from models.kernels.linear_memory import LinearMemory, empty_memory, feature_map, inverse, recall, write
from tests.models.cases import (
    NUM_HEADS,
    SEGMENT,
    VOCAB_SIZE,
    WIDTH,
    Options,
    build,
    distinct_tokens,
    random_tokens,
    token_gradients,
    top_rows,
)

INFINI: Options = {"block_len": SEGMENT}
UPDATES = ("linear", "delta", "delta_corrected")
HEAD_WIDTH = WIDTH // NUM_HEADS


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> bool:
    return actual.shape == expected.shape and bool((actual - expected).abs().max() <= tolerance)


def infini_blocks(model: models.Model) -> list[InfiniBlock]:
    return [block for block in model.blocks if isinstance(block, InfiniBlock)]


def set_gates(model: models.Model, value: float) -> models.Model:
    for block in infini_blocks(model):
        torch.nn.init.constant_(block.gate, value)
    return model


def written(k: Tensor, v: Tensor, update: str = "linear") -> list[LinearMemory]:
    """The memories before and after each segment of mapped keys and of values, ``[N, S, d]``."""
    start = empty_memory(1, 1, k.shape[-1], value_width=v.shape[-1], dtype=k.dtype)
    matrices, normalisers = write(k[None, None], v[None, None], start, update=update)
    return [LinearMemory(*pair) for pair in zip(matrices[0, 0], normalisers[0, 0], strict=True)]


def read(q: Tensor, memory: LinearMemory) -> Tensor:
    numerator, denominator = recall(q, memory)
    return numerator * inverse(denominator)


# ---- the memory (eq. 7 to 9)


def test_linear_memory_is_kernel_attention_over_the_segments_before() -> None:
    k, v, q = feature_map(random(3, 4, 6)), random(3, 4, 5, seed=1), feature_map(random(7, 6, seed=2))
    for number, memory in enumerate(written(k, v)[1:], start=1):
        keys, values = k[:number].flatten(0, 1), v[:number].flatten(0, 1)
        weights = q @ keys.T
        assert close(read(q, memory), weights / weights.sum(dim=-1, keepdim=True) @ values)
        assert (read(q, memory) <= values.max(dim=0).values + 1e-12).all()
        assert (read(q, memory) >= values.min(dim=0).values - 1e-12).all()


def test_linear_memory_knows_no_order_and_delta_none_inside_a_segment() -> None:
    k, v = feature_map(random(3, 4, 6)), random(3, 4, 5, seed=1)
    inside, across = torch.tensor([2, 0, 3, 1]), torch.tensor([2, 0, 1])
    for update in UPDATES:
        last = written(k, v, update)[-1]
        assert all(map(close, written(k[:, inside], v[:, inside], update)[-1], last))
        moved = written(k[across], v[across], update)[-1]
        assert close(moved.matrix, last.matrix) == (update == "linear")


def test_the_first_write_is_the_same_and_the_normaliser_always() -> None:
    k, v = feature_map(random(3, 4, 6)), random(3, 4, 5, seed=1)
    linear, delta, corrected = (written(k, v, update) for update in UPDATES)
    assert torch.equal(linear[1].matrix, delta[1].matrix)
    assert torch.equal(linear[1].matrix, corrected[1].matrix)
    assert not close(linear[2].matrix, delta[2].matrix, 1e-3)
    for one, other in zip(linear, delta, strict=True):
        assert torch.equal(one.normaliser, other.normaliser)


@pytest.mark.parametrize("segment_len", [1, 64])
@pytest.mark.parametrize(
    ("update", "shares"),
    [("linear", [1.0, 1.0, 1.0]), ("delta", [1.0, 0.5, 0.5]), ("delta_corrected", [1.0, 1.0, 1.0])],
)
def test_what_is_left_of_a_value_that_is_written_again(update: str, shares: list[float], segment_len: int) -> None:
    """Delta leaves M as it is the second time, but z grows: the read is halved. ARMT's correction mends that."""
    key, value = feature_map(random(1, 1, 6)), random(1, 1, 5, seed=1)
    memories = written(key.expand(3, segment_len, -1), value.expand(3, segment_len, -1), update)
    if update != "linear":
        assert close(memories[1].matrix, memories[2].matrix)
    for memory, share in zip(memories[1:], shares, strict=True):
        assert close(read(key[0], memory), share * value[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_feature_map_never_cancels(dtype: torch.dtype) -> None:
    x = torch.linspace(-60, 60, 241, dtype=torch.float64).to(dtype)
    exact = torch.where(x > 0, x.double() + 1, x.double().exp())
    mapped = feature_map(x).double()
    assert (mapped > 0).all()
    assert ((mapped - exact).abs() <= 2 * torch.finfo(dtype).eps * exact).all()
    assert feature_map(torch.tensor([-1e4, 1e4])).isfinite().all()
    # What the usual form does.
    assert torch.nn.functional.elu(torch.tensor(-18.0)).add(1) == 0


def test_feature_map_has_the_gradient_of_elu() -> None:
    x = random(50).requires_grad_()
    (gradient,) = torch.autograd.grad(feature_map(x).sum(), x)
    assert close(gradient, torch.where(x > 0, 1.0, x.exp()).detach())


@pytest.mark.parametrize("update", ["linear", "delta"])
def test_gradients_of_the_memory_are_those_of_differences(update: str) -> None:
    """The corrected rule's factor has no gradient on purpose; the reference stands for it."""
    k, v, q = random(1, 1, 3, 2, 3), random(1, 1, 3, 2, 2, seed=1), random(4, 3, seed=2)
    start = empty_memory(1, 1, 3, value_width=2, dtype=k.dtype)

    def final_read(k: Tensor, v: Tensor, q: Tensor) -> Tensor:
        matrices, normalisers = write(feature_map(k), v, start, update=update)
        return read(feature_map(q), LinearMemory(matrices[0, 0, -1], normalisers[0, 0, -1]))

    assert torch.autograd.gradcheck(final_read, tuple(x.requires_grad_() for x in (k, v, q)))


def test_an_almost_empty_memory_reads_finite_with_finite_gradients() -> None:
    q = feature_map(torch.full((1, 4), -100.0)).requires_grad_()
    for scale in (0.0, 1e-45, 1e-20, 1.0):
        matrix, normaliser = torch.full((4, 3), scale).requires_grad_(), torch.full((4,), scale).requires_grad_()
        y = read(q, LinearMemory(matrix, normaliser))
        gradients = torch.autograd.grad(y.sum(), (q, matrix, normaliser))
        assert all(tensor.isfinite().all() for tensor in (y, *gradients))


# ---- gate and local attention (eq. 6, 10)


@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid"])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both ways"])
@pytest.mark.parametrize("update", RULES)
def test_a_closed_gate_is_local_attention(update: str, causal: bool, gate: str) -> None:
    shared: Options = {"causal": causal, "num_classes": 3}
    infini = set_gates(build("infini", update=update, gate=gate, **INFINI, **shared), -math.inf)
    window = build("block_window", memory_blocks=0, **INFINI, **shared)
    window.load_state_dict({name: value for name, value in infini.state_dict().items() if "gate" not in name})
    tokens = random_tokens(3, 4 * SEGMENT + 3)
    mask = torch.arange(tokens.shape[1]) < torch.tensor([[tokens.shape[1]], [2 * SEGMENT], [SEGMENT + 1]])
    for padding in (None, mask):
        assert close(infini(tokens, padding)[0], window(tokens, padding)[0])


@pytest.mark.parametrize("num_tokens", [1, SEGMENT - 1, SEGMENT])
def test_within_one_segment_skip_is_the_transformer_and_zero_lacks_the_memory_share(num_tokens: int) -> None:
    tokens = random_tokens(2, num_tokens)
    skip = build("infini", first_segment="skip", **INFINI)
    plain = build("transformer")
    weights = {name: value for name, value in skip.state_dict().items() if "gate" not in name}
    plain.load_state_dict(weights)
    assert close(skip(tokens)[0], plain(tokens)[0])

    # ``zero``: A = (1 - g) A_dot, as if the output projection were smaller.
    zero = set_gates(build("infini", depth=1, **INFINI), math.log(3.0))
    shrunk = build("transformer", depth=1)
    weights = {name: value for name, value in zero.state_dict().items() if "gate" not in name}
    weights["stack.0.project.out.weight"] = weights["stack.0.project.out.weight"] / 4
    shrunk.load_state_dict(weights)
    assert close(zero(tokens)[0], shrunk(tokens)[0])


def test_from_the_second_segment_on_both_rules_are_one() -> None:
    zero, skip = (build("infini", depth=1, first_segment=rule, **INFINI) for rule in ("zero", "skip"))
    tokens = random_tokens(2, 3 * SEGMENT)
    (logits, _), (other, _) = zero(tokens), skip(tokens)
    assert torch.equal(logits[:, SEGMENT:], other[:, SEGMENT:])
    assert not close(logits[:, :SEGMENT], other[:, :SEGMENT], 1e-3)


def test_an_open_gate_hears_nothing_of_its_own_segment() -> None:
    model = set_gates(build("infini", depth=1, positions="none", **INFINI), math.inf)
    tokens = distinct_tokens(1, 3 * SEGMENT)
    heard = token_gradients(model, tokens, top_rows(model, tokens)[0, -1].square().sum())[0].abs().sum(dim=-1)
    assert heard[: 2 * SEGMENT].min() > 0
    assert torch.count_nonzero(heard[2 * SEGMENT : -1]) == 0
    assert heard[-1] > 0


def test_the_gate_weighs_the_memory_head_by_head() -> None:
    """O = [g A_mem + (1 - g) A_dot] W_O, with the scale of a head."""
    model = build("infini", depth=1, positions="none", **INFINI)
    (block,) = infini_blocks(model)
    x = random(2, 2 * SEGMENT, WIDTH)
    q, k, v = block.project(block.attend.before(x))
    local = torch.zeros_like(v)
    for t in range(2 * SEGMENT):
        start = t // SEGMENT * SEGMENT
        scores = q[:, :, t : t + 1] @ k[:, :, start : t + 1].transpose(-1, -2) / math.sqrt(HEAD_WIDTH)
        local[:, :, t] = (scores.softmax(dim=-1) @ v[:, :, start : t + 1])[:, :, 0]
    keys, values = feature_map(k[:, :, :SEGMENT]), v[:, :, :SEGMENT]
    weights = feature_map(q[:, :, SEGMENT:]) @ keys.transpose(-1, -2)
    recalled = torch.cat((torch.zeros_like(values), weights / weights.sum(dim=-1, keepdim=True) @ values), dim=2)
    g = torch.sigmoid(block.gate)[:, None, None]
    expected = block.attend.after(x, block.project.output(g * recalled + (1 - g) * local))
    expected = block.feed.after(expected, block.ffn(block.feed.before(expected)))
    assert close(block(models.Stream(x, None), None)[0].tokens, expected)


def test_gates_start_where_they_are_told_and_learn_from_the_start() -> None:
    for gate, start, weight in (("sigmoid", 0.0, 0.5), ("sigmoid", -2.0, 0.1192029), ("hard_sigmoid", 1.0, 0.7)):
        model = models.build_model(
            "infini", vocab_size=VOCAB_SIZE, max_len=64, causal=True, gate=gate, gate_init=start, **INFINI
        )
        for block in infini_blocks(model):
            assert block.memory_weight().tolist() == pytest.approx([weight] * 4)
        model(random_tokens(2, 2 * SEGMENT))[0].square().sum().backward()
        for block in infini_blocks(model):
            assert block.gate.grad is not None
            assert block.gate.grad.abs().min() > 0


def test_gates_never_decay_and_learn_at_their_own_rate() -> None:
    model = build("infini", gate_lr_scale=20.0, **INFINI)
    decayed, others, gates = model.parameter_groups(0.1)
    assert [id(gate) for gate in gates["params"]] == [id(block.gate) for block in infini_blocks(model)]
    assert (gates["weight_decay"], gates["lr_scale"]) == (0.0, 20.0)
    assert (decayed["weight_decay"], decayed["lr_scale"]) == (0.1, 1.0)
    assert (others["weight_decay"], others["lr_scale"]) == (0.0, 1.0)
    everything = [parameter for group in (decayed, others, gates) for parameter in group["params"]]
    assert sorted(map(id, everything)) == sorted(map(id, model.parameters()))
    assert len(build("infini", **INFINI).parameter_groups(0.1)) == 2


# ---- positions (section 4.1)


def test_the_memory_knows_no_positions() -> None:
    """With and without RoPE the bottom layer writes the same, and what is read does not depend on the place."""
    rotary, plain = (build("infini", depth=1, positions=positions, **INFINI) for positions in ("rope", "none"))
    plain.load_state_dict(rotary.state_dict())
    tokens = random_tokens(2, 3 * SEGMENT)
    (logits, state), (other, other_state) = rotary(tokens), plain(tokens)
    assert torch.equal(state.layers[0].matrix, other_state.layers[0].matrix)
    assert torch.equal(state.layers[0].normaliser, other_state.layers[0].normaliser)
    assert not close(logits, other, 1e-3)


# ---- the recurrence


@pytest.mark.parametrize("update", RULES)
def test_all_segments_at_once_are_segment_by_segment_through_the_stack(update: str) -> None:
    model, tokens = build("infini", depth=3, update=update, **INFINI), random_tokens(2, 5 * SEGMENT)
    whole, state, pieces = model(tokens)[0], None, []
    for piece in tokens.split(SEGMENT, dim=1):
        logits, state = model(piece, None, state)
        pieces.append(logits)
    assert close(torch.cat(pieces, dim=1), whole)


@pytest.mark.parametrize("update", RULES)
def test_a_detached_state_cuts_the_gradient_that_flows_otherwise(update: str) -> None:
    model, tokens = build("infini", update=update, **INFINI), distinct_tokens(1, 3 * SEGMENT)
    first, last = tokens[:, :SEGMENT], tokens[:, 2 * SEGMENT :]
    _, state = model(tokens[:, : 2 * SEGMENT])
    for before, flows in ((state, True), (models.detach(state), False)):
        value = model(last, None, before)[0].square().sum()
        assert bool(token_gradients(model, tokens, value)[:, : first.shape[1]].abs().max() > 0) == flows


def test_an_emptied_memory_leaves_local_attention_alone() -> None:
    """The ablation at inference: M = z = 0 is the first segment over again."""
    model = build("infini", **INFINI)
    _, state = model(random_tokens(2, 3 * SEGMENT))
    cleared = tuple(
        layer._replace(matrix=torch.zeros_like(layer.matrix), normaliser=torch.zeros_like(layer.normaliser))
        for layer in state.layers
    )
    segment = random_tokens(2, SEGMENT, seed=1)
    assert torch.equal(model(segment, None, state._replace(layers=cleared))[0], model(segment)[0])
    assert not close(model(segment, None, state)[0], model(segment)[0], 1e-3)


def test_a_segment_with_padding_is_not_written() -> None:
    model, tokens = build("infini", **INFINI), random_tokens(2, 3 * SEGMENT)
    mask = torch.arange(3 * SEGMENT) < torch.tensor([[2 * SEGMENT + 1], [3 * SEGMENT]])
    (_, padded), (_, two), (_, three) = model(tokens, mask), model(tokens[:, : 2 * SEGMENT]), model(tokens)
    for layer, layer_two, layer_three in zip(padded.layers, two.layers, three.layers, strict=True):
        assert close(layer.matrix[0], layer_two.matrix[0])
        assert close(layer.normaliser[0], layer_two.normaliser[0])
        assert close(layer.matrix[1], layer_three.matrix[1])


# ---- the gate on writing (ours)


def set_write_gates(model: models.Model, value: float) -> models.Model:
    for block in infini_blocks(model):
        assert block.write_gate is not None
        torch.nn.init.constant_(block.write_gate.bias, value)
    return model


def test_a_closed_write_gate_keeps_the_memory_bit_for_bit() -> None:
    model, tokens = build("infini", update="gated", **INFINI), random_tokens(2, 9 * SEGMENT)
    _, early = model(tokens[:, : 2 * SEGMENT])
    _, late = set_write_gates(model, -100.0)(tokens[:, 2 * SEGMENT :], None, early)
    for before, after in zip(early.layers, late.layers, strict=True):
        assert before.normaliser.abs().min() > 0
        assert torch.equal(before.matrix, after.matrix)
        assert torch.equal(before.normaliser, after.normaliser)


def test_an_open_write_gate_and_one_that_is_the_same_for_all_tokens_are_the_linear_rule() -> None:
    gated, linear = build("infini", update="gated", **INFINI), build("infini", **INFINI)
    linear.load_state_dict({name: value for name, value in gated.state_dict().items() if "write_gate" not in name})
    tokens = random_tokens(2, 5 * SEGMENT)
    assert close(set_write_gates(gated, 100.0)(tokens)[0], linear(tokens)[0])
    for block in infini_blocks(gated):
        assert block.write_gate is not None
        torch.nn.init.zeros_(block.write_gate.weight)
    assert close(set_write_gates(gated, -1.0)(tokens)[0], linear(tokens)[0])


def test_write_gates_start_half_open_and_learn_from_the_start() -> None:
    model = models.build_model("infini", vocab_size=VOCAB_SIZE, max_len=64, causal=True, update="gated", **INFINI)
    model(random_tokens(2, 2 * SEGMENT))[0].square().sum().backward()
    for block in infini_blocks(model):
        gate = block.write_gate
        assert gate is not None
        assert (gate(random(2, block.config.num_heads, 5, block.config.head_width)) == 0.5).all()
        assert gate.weight.grad is not None
        assert gate.weight.grad.abs().max() > 0


# ---- size and precision


def test_size_of_the_papers_memory() -> None:
    """Table 1: d_key (d_value + 1) H l, 1.6M for 12 layers of 8 heads of 128."""
    paper: Options = {"width": 1024, "num_heads": 8, "depth": 12, "ffn_width": 4096, "block_len": 2048}
    with torch.device("meta"):
        model = models.build_model("infini", vocab_size=8, max_len=8, causal=True, **paper)
    assert model.state_size(0) == model.state_size(32_768) == 128 * 129 * 8 * 12 == 1_585_152
    assert model.state_size(2047) == 1_585_152 + 2 * 2047 * 1024 * 12


@pytest.mark.parametrize("update", RULES)
def test_memory_is_kept_in_full_precision(update: str) -> None:
    model = build("infini", update=update, **INFINI).float()
    tokens = random_tokens(2, 3 * SEGMENT)
    with torch.autocast("cpu", torch.bfloat16):
        logits, state = model(tokens)
        logits.float().square().sum().backward()
    for layer in state.layers:
        assert layer.matrix.dtype == layer.normaliser.dtype == torch.float32
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())
    half, half_state = build("infini", update=update, **INFINI).bfloat16()(tokens)
    assert half.dtype == torch.bfloat16
    assert half_state.layers[0].matrix.dtype == torch.float32


def test_a_million_tokens_do_not_stall_the_normaliser() -> None:
    """With σ = 1 and segments of 2,048, bfloat16 stops growing at 524,288 tokens and float16 is infinite at 65,536."""
    keys = torch.ones(1, 1, 1, 2048, 1, dtype=torch.bfloat16)
    memory = empty_memory(1, 1, 1, value_width=1, dtype=keys.dtype)
    for _ in range(512):
        matrices, normalisers = write(keys.float(), keys.float(), memory)
        memory = LinearMemory(matrices[:, :, -1], normalisers[:, :, -1])
    assert memory.normaliser.item() == memory.matrix.item() == 2**20


def test_at_a_border_nothing_is_carried_but_the_memory() -> None:
    model = build("infini", **INFINI)
    _, state = model(random_tokens(2, 2 * SEGMENT))
    assert all(layer.keys.shape[2] == layer.values.shape[2] == 0 for layer in state.layers)


# ---- mistakes


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (
            {"update": "dleta"},
            "model.update='dleta' (did you mean 'delta'?): choose one of linear, delta, delta_corrected, gated",
        ),
        ({"first_segment": "none"}, "model.first_segment='none': choose one of zero, skip"),
        ({"gate": "tanh"}, "model.gate='tanh': choose one of sigmoid, hard_sigmoid"),
        (
            {"gate_init": -100.0},
            "model.gate_init=-100.0: must lie within ±16 for gate=sigmoid, which beyond is flat and never learns",
        ),
        (
            {"gate_init": 3.0, "gate": "hard_sigmoid"},
            "model.gate_init=3.0: must lie within ±2.5 for gate=hard_sigmoid, which beyond is flat and never learns",
        ),
        (
            {"gate_init": math.nan},
            "model.gate_init=nan: must lie within ±16 for gate=sigmoid, which beyond is flat and never learns",
        ),
        ({"gate_lr_scale": 0.0}, "model.gate_lr_scale=0.0: must be above 0 and finite"),
        ({"gate_lr_scale": math.inf}, "model.gate_lr_scale=inf: must be above 0 and finite"),
        ({"block_len": 0}, "model.block_len=0: must be at least 1"),
        ({"blocks_at_once": 0}, "model.blocks_at_once=0: must be at least 1, or null for the default"),
    ],
)
def test_a_mistake_gets_one_clear_line(overrides: Options, text: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole text is compared
        models.build_model("infini", vocab_size=8, max_len=8, causal=True, **overrides)
    assert str(error.value) == text
