"""Looking at a memory changes nothing; its measures are those of weights known beforehand; without it, it is gone."""

import math
from typing import Any

import pytest
import torch

import models
from models.infini import InfiniBlock
from models.probe import Probe, observe, reads_memory, without_memory
from tests.models.cases import CASES, SEGMENT, VARIANTS, build, distinct_tokens, token_gradients

NUM_TOKENS = 3 * SEGMENT + 2
ENTROPIES = ("read_entropy", "write_entropy")

#: What is recorded of each variant; a gate says more than a share where there is one.
TOLD = {
    "block_window": {"read_entropy", "read_share"},
    "fam": {"read_entropy", "read_share", "write_entropy", "keep_share"},
    "feedback_memory": {"read_entropy", "read_share"},
    "filtered_memory": set(ENTROPIES),
    "infini": {"read_entropy", "gate"},
    "linear": {"read_entropy"},
    "luna": set(ENTROPIES),
    "mat": {"read_entropy", "read_share", "write_entropy", "keep_share"},
    "memformer": {"read_entropy", "write_entropy", "keep_share"},
    "transformer": set(),
}

#: Variants with their own options, and presets with a gate beside.
LOOKED_AT = [
    *((name, {}, TOLD[name]) for name in VARIANTS),
    ("fam", {"update": "gated"}, TOLD["fam"] | {"gate"}),
    ("infini", {"update": "gated"}, TOLD["infini"] | {"write_gate"}),
]

#: Options with a memory, and nothing but it between segments.
MEMORY_ALONE: dict[str, dict[str, Any]] = {
    "block_window": {"memory_blocks": 2},
    "fam": {"memory_blocks": 0},
    "mat": {"carry": True},
}

SETTINGS = [
    *((name, {}) for name in VARIANTS if name != "transformer"),
    *(("mat", {"form": form}) for form in ("controller", "bottleneck")),
    ("mat", {"accumulate": True}),
    *(("fam", {"update": update}) for update in ("static", "gated")),
    ("infini", {"update": "delta", "first_segment": "skip"}),
    ("infini", {"update": "gated"}),
]


def make(name: str, *, causal: bool = True, **settings: Any) -> models.Model:
    options = CASES[name].options | MEMORY_ALONE.get(name, {}) | settings
    return build(name, causal=causal, num_classes=None if causal else 3, **options).eval()


# ---- measures


def test_entropy_is_the_share_of_the_greatest() -> None:
    probe = Probe()
    probe.weights("read", torch.tensor([[[1.0, 1.0, 1.0, 1.0]], [[0.0, 7.0, 0.0, 0.0]]])[None])
    probe.weights("write", torch.tensor([1.0, 1.0, 2.0]).view(1, 1, 1, 3))
    means = probe.means()
    assert means["read_entropy"].tolist()[0] == pytest.approx(1.0)
    assert means["read_entropy"][1] == 0, "one key of four"
    assert means["write_entropy"].item() == pytest.approx(1.5 * math.log(2) / math.log(3))


def test_softmax_is_that_of_attention() -> None:
    q, k = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 6, 4)
    visible = torch.ones(5, 6, dtype=torch.bool).tril(1)
    mask = torch.zeros(5, 6).masked_fill(~visible, -torch.inf)
    weights = (q @ k.transpose(-1, -2) / 2 + mask).softmax(dim=-1)
    probe, expected = Probe(), Probe()
    probe.softmax("read", q, k, mask=mask, memory=slice(2))
    expected.weights("read", weights, memory=slice(2), visible=visible)
    for name, value in expected.means().items():
        torch.testing.assert_close(probe.means()[name], value)
    torch.testing.assert_close(probe.means()["read_share"].float(), weights[..., :2].sum(dim=-1).mean(dim=(0, 2)))


def test_where_one_key_is_visible_there_is_nothing_to_say() -> None:
    """Weights that vanish are there nevertheless."""
    probe, alone = Probe(), Probe()
    probe.softmax("read", 1000 * torch.ones(1, 1, 1, 1), torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 4, 1))
    assert probe.means()["read_entropy"].item() == pytest.approx(0.5)
    alone.weights("read", torch.ones(1, 1, 2, 2), visible=torch.tensor([[True, False], [True, True]]))
    assert alone.means()["read_entropy"].item() == pytest.approx(1.0), "of the second query alone"


def test_calls_are_averaged_and_an_empty_memory_says_nothing() -> None:
    probe = Probe()
    probe.weights("read", torch.ones(1, 1, 3, 2), memory=slice(0))
    assert not probe.means()
    probe.gate(torch.tensor([0.2, 0.4]))
    probe.gate(torch.tensor([0.4, 0.4]))
    assert probe.means()["gate"].tolist() == pytest.approx([0.3, 0.4])


# ---- every variant


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both ways"])
@pytest.mark.parametrize(("name", "settings", "expected"), LOOKED_AT)
def test_looking_changes_no_number(name: str, settings: dict[str, Any], expected: set[str], causal: bool) -> None:
    model, tokens = make(name, causal=causal, **settings), distinct_tokens(2, NUM_TOKENS)
    before, _ = model(tokens)
    with observe(model) as probes:
        during, _ = model(tokens)
    assert torch.equal(before, during)
    assert all(block.probe is None for block in model.blocks)
    told = set().union(*(probe.means() for probe in probes))
    assert told == expected
    for probe in probes:
        for measure, values in probe.means().items():
            assert values.isfinite().all(), measure
            assert (values >= 0).all(), measure
            assert (values <= 1 + 1e-6).all(), measure


@torch.no_grad()
def test_the_gate_on_writing_is_told_head_by_head() -> None:
    model = make("infini", update="gated")
    for block in model.blocks:
        assert isinstance(block, InfiniBlock)
        assert block.write_gate is not None
        block.write_gate.weight.zero_()
        block.write_gate.bias.copy_(torch.tensor([-1.5, 9.0]).view(-1, 1, 1))
    with observe(model) as probes:
        model(distinct_tokens(2, NUM_TOKENS))
    for probe in probes:
        assert probe.means()["write_gate"].tolist() == pytest.approx([0.25, 1.0])


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_without_its_memory_a_segment_is_alone(name: str, settings: dict[str, Any]) -> None:
    """No gradient reaches what stands before the segment; switched on again, it is what it was."""
    model = make(name, **settings)
    assert reads_memory(model)
    tokens = distinct_tokens(1, NUM_TOKENS)
    before, _ = model(tokens)
    with without_memory(model):
        without, _ = model(tokens)
    gradient = token_gradients(model, tokens, without[:, 3 * SEGMENT :].square().sum())
    assert not gradient[:, : 3 * SEGMENT].any()
    assert gradient[:, 3 * SEGMENT :].any()
    assert not torch.equal(before, without)
    assert torch.equal(before, model(tokens)[0])


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_without_memory_pieces_give_the_same_as_the_whole(name: str, settings: dict[str, Any]) -> None:
    model, tokens = make(name, **settings), distinct_tokens(2, NUM_TOKENS)
    with without_memory(model):
        whole, _ = model(tokens)
        parts, state = [], None
        for piece in tokens.split((1, SEGMENT, SEGMENT + 2, NUM_TOKENS - 2 * SEGMENT - 3), dim=1):
            logits, state = model(piece, state=state)
            parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both ways"])
@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("block_window", {"memory_blocks": 0}),
        ("fam", {"fam_len": 0}),
        ("mat", {"memory_len": 0, "carry": False}),
    ],
)
def test_without_memory_is_the_variant_that_has_none(name: str, twin: dict[str, Any], causal: bool) -> None:
    model, other = make(name, causal=causal), make(name, causal=causal, **twin)
    other.load_state_dict(model.state_dict(), strict=False)
    tokens = distinct_tokens(2, NUM_TOKENS)
    assert not reads_memory(other)
    with without_memory(model):
        torch.testing.assert_close(model(tokens)[0], other(tokens)[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["block_window", "feedback_memory", "infini"])
def test_where_nothing_was_written_there_is_nothing_to_miss(name: str) -> None:
    """Of memories that begin empty; the gate of ``infini`` stays as it was."""
    model, tokens = make(name), distinct_tokens(2, SEGMENT)
    with without_memory(model):
        without, _ = model(tokens)
    assert torch.equal(model(tokens)[0], without)


@pytest.mark.parametrize("options", [{}, {"form": "controller"}, {"form": "bottleneck"}, {"accumulate": True}])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both ways"])
def test_what_is_not_read_is_written_nevertheless(options: dict[str, Any], causal: bool) -> None:
    model, tokens = make("mat", causal=causal, **options), distinct_tokens(1, 2 * SEGMENT)
    with without_memory(model):
        _, state = model(tokens)
    memory = model.memories(state)[-1]
    assert memory is not None
    gradient = token_gradients(model, tokens, memory.square().sum())
    assert gradient[:, SEGMENT:].any()


def test_padding_is_refused() -> None:
    model, tokens = make("luna", causal=False), distinct_tokens(2, SEGMENT)
    with observe(model), pytest.raises(ValueError, match="without padding"):
        model(tokens, torch.ones_like(tokens, dtype=torch.bool))


def test_one_layer_can_go_without() -> None:
    model, tokens = make("luna"), distinct_tokens(1, NUM_TOKENS)
    results = []
    for layers in (None, [0], [1], []):
        with without_memory(model, layers):
            results.append(model(tokens)[0])
    assert torch.equal(results[-1], model(tokens)[0])
    assert all(not torch.equal(one, other) for place, one in enumerate(results) for other in results[:place])
