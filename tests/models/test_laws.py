"""The laws that every variant obeys, over all registered variants.

1 causality · 2 pieces of any size · 3 parity with the reference · 4 padding · 5 limits · 6 gradient reach ·
7 accounting. A variant is under test by being registered; it then needs a reference (``tests/reference``) and
an entry in ``cases.py``.
"""

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import models
from models.transformer import TransformerBlock
from tests import reference
from tests.models.cases import (
    CASES,
    FFN_WIDTH,
    SEGMENT,
    SETTINGS,
    VARIANTS,
    VOCAB_SIZE,
    WIDTH,
    Options,
    build,
    covering,
    distinct_tokens,
    poolings,
    random_tokens,
    regrouped,
    token_gradients,
    top_rows,
)
from tests.models.parity import (
    MEMORY_FIELDS,
    assert_close,
    assert_parity,
    build_setting,
    gradients,
    label,
    of_fast_form,
    of_reference,
    tokens_and_mask,
)

BACKBONES: tuple[Options, ...] = (
    {"positions": "rope", "norm_position": "pre"},
    {"positions": "learned", "norm_position": "post", "norm": "rms", "ffn": "gated"},
)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_under_test(name: str) -> None:
    assert name in reference.BLOCKS, f"{name} has no reference: add tests/reference/{name}.py"
    assert name in CASES, f"{name} has no entry in tests/models/cases.py"


# ---- 1 causality


@pytest.mark.parametrize("backbone", BACKBONES, ids=label)
@pytest.mark.parametrize(("name", "options"), SETTINGS, ids=label)
def test_a_token_changes_nothing_before_it(name: str, options: Options, backbone: Options) -> None:
    num_tokens = 3 * SEGMENT + 2
    model = build(name, **backbone, **options)
    # Sequence t of the batch has its token t changed, so that one pair of calls tries all places.
    original = random_tokens(1, num_tokens).expand(num_tokens, -1)
    changed = original.clone()
    changed.diagonal().add_(1).remainder_(VOCAB_SIZE)
    before, after = model(original)[0], model(changed)[0]
    for t in range(num_tokens):
        assert torch.equal(before[t, :t], after[t, :t]), f"token {t} leaks to the places before it"
        assert not torch.equal(before[t, t], after[t, t])
        same_block = (t + 1) % SEGMENT != 0
        reaches_next = CASES[name].mixes(options) if same_block else options == CASES[name].options
        if t + 1 < num_tokens and reaches_next:
            assert not torch.equal(before[t, t + 1], after[t, t + 1]), f"token {t} does not reach the next"


@pytest.mark.parametrize("backbone", BACKBONES, ids=label)
@pytest.mark.parametrize(("name", "options"), SETTINGS, ids=label)
def test_no_gradient_flows_to_later_tokens(name: str, options: Options, backbone: Options) -> None:
    num_tokens = 2 * SEGMENT + 1
    model = build(name, **backbone, **options)
    tokens = distinct_tokens(num_tokens, num_tokens)
    # Sequence t looks at its logits at place t.
    value = model(tokens)[0].diagonal().square().sum()
    reaches = token_gradients(model, tokens, value).abs().sum(dim=-1)  # [t, source]
    assert torch.count_nonzero(reaches.triu(1)) == 0
    assert reaches.diagonal().min() > 0


# ---- 2 pieces of any size


@pytest.mark.parametrize("backbone", BACKBONES, ids=label)
@pytest.mark.parametrize(("name", "options"), SETTINGS, ids=label)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(data=st.data())
def test_pieces_give_the_same_as_the_whole(name: str, options: Options, backbone: Options, data: st.DataObject) -> None:
    num_tokens = 5 * SEGMENT + 3
    cuts = data.draw(st.sets(st.integers(1, num_tokens - 1)), label="cuts")
    model, tokens = build(name, **backbone, **options), random_tokens(2, num_tokens)
    whole, state_of_whole = model(tokens)

    # Each piece may even go through another grouping.
    groupings = [model, *(regrouped(model, **other) for other in CASES[name].regroup)]
    edges, state, logits = [0, *sorted(cuts), num_tokens], model.init_state(2), []
    for start, stop in itertools.pairwise(edges):
        grouping = data.draw(st.sampled_from(groupings), label="grouping")
        piece, state = grouping(tokens[:, start:stop], None, state)
        logits.append(piece)
    assert_close(torch.cat(logits, dim=1), whole)
    assert_close(state, state_of_whole)


@pytest.mark.parametrize(("name", "options"), SETTINGS, ids=label)
def test_a_long_stream_goes_run_by_run(name: str, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of one segment, or of one token where there are none: outputs, state and gradients stay."""
    model, tokens = build(name, **options), random_tokens(2, 3 * SEGMENT + 1)
    results = []
    for numbers in (models.block.CPU_RUN_NUMBERS, 1):
        monkeypatch.setattr(models.block, "CPU_RUN_NUMBERS", numbers)
        logits, state = model(tokens)
        gradients = torch.autograd.grad(logits.square().sum(), list(model.parameters()), allow_unused=True)
        results.append((logits, state, gradients))
    assert_close(results[1], results[0])


@pytest.mark.parametrize(("name", "options"), SETTINGS, ids=label)
def test_one_token_at_a_time(name: str, options: Options) -> None:
    model, tokens = build(name, **options), random_tokens(2, 3 * SEGMENT + 2)
    whole, state_of_whole = model(tokens)
    state = None
    for place in range(tokens.shape[1]):
        logits, state = model(tokens[:, place : place + 1], None, state)
        assert_close(logits[:, 0], whole[:, place])
    assert_close(state, state_of_whole)


@pytest.mark.parametrize("name", VARIANTS)
def test_an_empty_piece_changes_nothing(name: str) -> None:
    model, tokens = build(name, **CASES[name].options), random_tokens(2, SEGMENT + 1)
    nothing, state = model(tokens[:, :0])
    assert nothing.shape == (2, 0, VOCAB_SIZE)
    logits, state = model(tokens, None, state)
    assert_close(logits, model(tokens)[0])
    assert_close(model(tokens[:, :0], None, state)[1], state)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both ways"])
@pytest.mark.parametrize("name", VARIANTS)
def test_grouping_changes_speed_only(name: str, causal: bool) -> None:
    model = build(name, causal=causal, num_classes=3, **CASES[name].options)
    tokens = random_tokens(3, 5 * SEGMENT + 1)
    mask = torch.arange(tokens.shape[1]) < torch.tensor([[tokens.shape[1]], [3 * SEGMENT], [SEGMENT + 1]])
    for other in CASES[name].regroup:
        fast = regrouped(model, **other)
        assert_close(fast(tokens)[0], model(tokens)[0])
        assert_close(fast(tokens, mask)[0], model(tokens, mask)[0])


# ---- 3 parity with the reference

PARITY = [(name, setting) for name in VARIANTS if name in CASES for setting in covering(name)]


@pytest.mark.parametrize(("name", "setting"), PARITY, ids=label)
def test_parity_with_the_reference(name: str, setting: Options) -> None:
    model, pair = build_setting(name, setting)
    tokens, mask = tokens_and_mask(setting)
    expected = of_reference(model, tokens, mask, pair)
    expected_gradients = gradients(model, expected)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, CASES[name].float32_tolerance)):
        fast = copy.deepcopy(model).to(dtype)
        actual = of_fast_form(fast, tokens, mask, list(expected))
        assert_parity(actual, expected, tolerance)
        assert_parity(gradients(fast, actual), expected_gradients, tolerance)


# ---- 4 padding


def padded_batch() -> tuple[Tensor, Tensor]:
    """Six sequences in seven blocks: whole, open, at a border, shorter than a block, one token, none."""
    lengths = torch.tensor([7 * SEGMENT, 3 * SEGMENT + 2, 2 * SEGMENT, SEGMENT - 1, 1, 0])
    return random_tokens(6, 7 * SEGMENT), torch.arange(7 * SEGMENT) < lengths[:, None]


def reads_of(name: str, options: Options) -> list[Options]:
    """Ways to read a padded sequence."""
    pooled: list[Options] = [
        {"causal": False, "num_classes": 3, "pooling": pooling} for pooling in poolings(name, options)
    ]
    return [{"causal": True}, {"causal": True, "num_classes": 3}, *pooled]


PADDING = [(name, options, reads) for name, options in SETTINGS for reads in reads_of(name, options)]


@pytest.mark.parametrize(("name", "options", "reads"), PADDING, ids=label)
def test_what_stands_behind_the_mask_changes_nothing(name: str, options: Options, reads: Options) -> None:
    tokens, mask = padded_batch()
    tokens, mask = tokens[:-1], mask[:-1]
    other = torch.where(mask, tokens, random_tokens(*tokens.shape, seed=1))
    model = build(name, **options, **reads)
    (logits, state), (other_logits, other_state) = model(tokens, mask), model(other, mask)
    if "num_classes" in reads:
        assert torch.equal(logits, other_logits)
    else:
        assert torch.equal(logits[mask], other_logits[mask])
    for memory, other_memory in zip(model.memories(state), model.memories(other_state), strict=True):
        assert (memory is None) == (other_memory is None)
        assert memory is None or other_memory is None or torch.equal(memory, other_memory)


@pytest.mark.parametrize(("name", "options", "reads"), PADDING, ids=label)
def test_a_padded_sequence_is_the_sequence_alone(name: str, options: Options, reads: Options) -> None:
    tokens, mask = padded_batch()
    model = build(name, **options, **reads)
    logits, state = model(tokens, mask)
    for index, length in enumerate(mask.sum(dim=1).tolist()[:-1]):
        alone, state_alone = model(tokens[index : index + 1, :length])
        padded = logits[index : index + 1]
        assert_close(padded if "num_classes" in reads else padded[:, :length], alone)
        for field in MEMORY_FIELDS:
            memory = getattr(state.layers[-1], field, None)
            if memory is not None:
                assert_close(memory[index], getattr(state_alone.layers[-1], field)[0])
        if model.recurrence is not None:
            memory, memory_alone = model.memories(state)[-1], model.memories(state_alone)[-1]
            assert (memory is None) == (memory_alone is None)
            if memory is not None and memory_alone is not None:
                assert_close(memory[index], memory_alone[0])


@pytest.mark.parametrize(("name", "options", "reads"), PADDING, ids=label)
def test_padding_has_no_gradient_and_no_nan(name: str, options: Options, reads: Options) -> None:
    tokens, mask = padded_batch()
    model = build(name, vocab_size=tokens.numel(), **options, **reads)
    tokens = torch.arange(tokens.numel()).reshape(tokens.shape)
    logits, _ = model(tokens, mask)
    assert logits.isfinite().all()
    # The last sequence has no real token: it must stay finite, but what it says is nobody's business.
    logits = logits[:-1] if "num_classes" in reads else logits[mask]
    logits.square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), parameter_name
    assert model.embedding.weight.grad is not None
    assert torch.count_nonzero(model.embedding.weight.grad[tokens][~mask]) == 0


# ---- 5 limits


@pytest.mark.parametrize("memory_blocks", [0, 1, 2])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both ways"])
def test_fam_without_feedback_is_block_window(causal: bool, memory_blocks: int) -> None:
    shared: Options = {
        "block_len": SEGMENT,
        "memory_blocks": memory_blocks,
        "causal": causal,
        "num_classes": 3,
    }
    fam, window = build("fam", fam_len=0, **shared), build("block_window", **shared)
    window.load_state_dict(fam.state_dict())
    tokens, mask = padded_batch()
    for padding in (None, mask):
        logits, state = fam(tokens, padding)
        window_logits, window_state = window(tokens, padding)
        assert torch.equal(logits, window_logits)
        for layer, window_layer in zip(state.layers, window_state.layers, strict=True):
            assert torch.equal(layer.keys, window_layer.keys)
            assert torch.equal(layer.values, window_layer.values)


@pytest.mark.parametrize("num_tokens", [1, SEGMENT, 4 * SEGMENT - 1, 4 * SEGMENT])
@pytest.mark.parametrize(
    ("causal", "window"),
    [
        (True, {"block_len": 4 * SEGMENT, "memory_blocks": 0}),
        (False, {"block_len": 4 * SEGMENT, "memory_blocks": 0}),
        (True, {"block_len": SEGMENT, "memory_blocks": 3}),
        (False, {"block_len": SEGMENT, "memory_blocks": 3, "lookahead_blocks": 3}),
        (True, {"block_len": 1, "memory_blocks": 4 * SEGMENT}),
    ],
    ids=label,
)
def test_a_window_over_everything_is_the_transformer(causal: bool, window: Options, num_tokens: int) -> None:
    windowed = build("block_window", causal=causal, num_classes=3, **window)
    plain = build("transformer", causal=causal, num_classes=3)
    plain.load_state_dict(windowed.state_dict())
    tokens = random_tokens(2, num_tokens)
    (logits, state), (plain_logits, plain_state) = windowed(tokens), plain(tokens)
    assert_close(logits, plain_logits, 1e-13)
    for layer, plain_layer in zip(state.layers, plain_state.layers, strict=True):
        # A window forgets its oldest block at a border; the transformer never does.
        kept = tuple(cache[:, :, num_tokens - layer.keys.shape[2] :] for cache in plain_layer)
        assert_close((layer.keys, layer.values), kept, 1e-13)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both ways"])
def test_mat_without_memory_is_its_blocks_alone(causal: bool) -> None:
    """And so the plain transformer where one segment covers everything."""
    shared: Options = {"causal": causal, "num_classes": 3}
    tokens, mask = padded_batch()
    # A sequence without any token has no logits to compare.
    tokens, mask = tokens[:-1], mask[:-1]
    others: tuple[tuple[int, str, Options], ...] = (
        (SEGMENT, "block_window", {"block_len": SEGMENT, "memory_blocks": 0}),
        (7 * SEGMENT, "transformer", {}),
    )
    for block_len, name, options in others:
        mat = build("mat", block_len=block_len, memory_len=0, **shared)
        other = build(name, **shared, **options)
        other.load_state_dict(mat.state_dict())
        for padding in (None, mask):
            assert_close(mat(tokens, padding)[0], other(tokens, padding)[0], 1e-13)


def test_fam_within_one_block_is_the_transformer_with_its_prompt_as_prefix() -> None:
    """The prompt reads itself only, and every token reads the prompt: a prefix language model."""
    num_slots, num_tokens = 3, 6
    fam = build("fam", block_len=8, fam_len=num_slots, positions="none")
    plain = build("transformer", causal=False, num_classes=2, positions="none")
    tokens = random_tokens(1, num_tokens)
    assert fam.learned_memory is not None
    rows = torch.cat((fam.learned_memory[None], fam.embedding(tokens)), dim=1)
    visible = torch.ones(num_slots + num_tokens, num_slots + num_tokens, dtype=torch.bool).tril()
    visible[:num_slots, :num_slots] = True
    for block, plain_block in zip(fam.blocks, plain.blocks, strict=True):
        assert isinstance(plain_block, TransformerBlock)
        plain_block.load_state_dict(block.state_dict())
        q, k, v = plain_block.project(plain_block.attend.before(rows))
        scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(~visible, -torch.inf)
        rows = plain_block.attend.after(rows, plain_block.project.output(scores.softmax(dim=-1) @ v))
        rows = plain_block.feed.after(rows, plain_block.ffn(plain_block.feed.before(rows)))
    assert_close(fam(tokens)[0], fam.head(fam.norm(rows[:, num_slots:])), 1e-13)


# ---- 6 reach of the gradient

REACH = [(name, *reach) for name, case in CASES.items() for reach in case.reach]


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both ways"])
@pytest.mark.parametrize(("name", "options", "reach"), REACH, ids=label)
def test_gradient_reaches_as_far_as_the_memory(
    name: str, options: Options, reach: Any, causal: bool, depth: int
) -> None:
    num_blocks = 8
    border = (num_blocks - 1) * SEGMENT
    model = build(name, depth=depth, causal=causal, num_classes=3, **options)
    tokens = distinct_tokens(1, num_blocks * SEGMENT)
    rows = top_rows(model, tokens)[0]
    # The first and the last token of the last block reach equally far: memory comes in whole blocks.
    for place in (border, border + SEGMENT - 1):
        reached = token_gradients(model, tokens, rows[place].square().sum())[0].abs().sum(dim=-1)
        earliest = int(max(0, border - reach(depth)))
        assert torch.count_nonzero(reached[:earliest]) == 0
        assert reached[earliest] > 0


@pytest.mark.parametrize("lookahead_blocks", [0, 1, 2])
@pytest.mark.parametrize("memory_blocks", [0, 1])
def test_a_window_to_both_sides_reaches_as_far_as_it_says(memory_blocks: int, lookahead_blocks: int) -> None:
    model = build(
        "block_window",
        depth=1,
        causal=False,
        num_classes=3,
        block_len=SEGMENT,
        memory_blocks=memory_blocks,
        lookahead_blocks=lookahead_blocks,
    )
    tokens = distinct_tokens(1, 7 * SEGMENT - 1)
    rows = top_rows(model, tokens)[0]
    for place in range(tokens.shape[1]):
        reached = token_gradients(model, tokens, rows[place].square().sum())[0].abs().sum(dim=-1)
        blocks_away = torch.arange(tokens.shape[1]) // SEGMENT - place // SEGMENT
        assert torch.equal(reached > 0, (blocks_away >= -memory_blocks) & (blocks_away <= lookahead_blocks))


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both ways"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "memory"])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_classifier_hears_every_token_or_is_refused(name: str, pooling: str, causal: bool) -> None:
    """A CLS vector in front, say, hears nothing in a causal model, and one block only in a window."""
    try:
        model = build(name, causal=causal, num_classes=3, pooling=pooling, **CASES[name].options)
    except ValueError:
        return
    tokens = distinct_tokens(1, 6 * SEGMENT)
    heard = token_gradients(model, tokens, model(tokens)[0].square().sum())[0].abs().sum(dim=-1)
    assert heard.min() > 0


def test_stopped_gradient_still_teaches_the_projections() -> None:
    """Inputs of the memory blocks are constants, but W_K and W_V go on learning from them."""
    model = build("block_window", depth=1, block_len=SEGMENT, memory_blocks=1, stop_gradient=True)
    weight = next(p for name, p in model.named_parameters() if name.endswith("qkv.weight"))
    tokens = distinct_tokens(1, 2 * SEGMENT)
    (stopped,) = torch.autograd.grad(top_rows(model, tokens)[0, SEGMENT:].square().sum(), weight)
    # The same with a memory block that is a constant throughout.
    with torch.no_grad():
        _, state = model(tokens[:, :SEGMENT])
    (constant,) = torch.autograd.grad(top_rows(model, tokens[:, SEGMENT:], state).square().sum(), weight)
    queries, keys, values = (stopped - constant).split(WIDTH)
    assert_close(queries, torch.zeros_like(queries))
    assert keys.abs().max() > 1e-3
    assert values.abs().max() > 1e-3


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both ways"])
def test_stopped_gradient_changes_no_number(causal: bool) -> None:
    shared: Options = {"causal": causal, "num_classes": 3, "block_len": SEGMENT, "memory_blocks": 2}
    stopped, plain = build("block_window", stop_gradient=True, **shared), build("block_window", **shared)
    plain.load_state_dict(stopped.state_dict())
    tokens = random_tokens(2, 4 * SEGMENT + 1)
    assert_close(stopped(tokens), plain(tokens), 1e-13)


# ---- 7 accounting


@pytest.mark.parametrize(("name", "options"), SETTINGS, ids=label)
def test_state_size_counts_what_is_carried(name: str, options: Options) -> None:
    model = build(name, depth=3, **options)
    for num_tokens in (1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 5 * SEGMENT + 3, 16 * SEGMENT):
        _, state = model(random_tokens(2, num_tokens))
        carried = sum(tensor[0].numel() for tensor in models.tensors(state))
        case = CASES[name]
        closed_form = 3 * case.state_size(options, num_tokens) + case.stack_state_size(options, num_tokens)
        assert model.state_size(num_tokens) == carried == closed_form


@pytest.mark.parametrize(
    ("name", "pooling"),
    [(name, pooling) for name, case in CASES.items() for pooling in poolings(name, case.options)],
)
def test_state_of_a_classifier_is_counted_too(name: str, pooling: str) -> None:
    model = build(name, causal=False, num_classes=3, pooling=pooling, **CASES[name].options)
    _, state = model(random_tokens(2, 3 * SEGMENT + 1))
    assert model.state_size(3 * SEGMENT + 1) == sum(tensor[0].numel() for tensor in models.tensors(state))


@pytest.mark.parametrize("ffn", ["gelu", "gated"])
@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize(
    ("name", "options", "reads"),
    [
        (name, options, reads)
        for name, options in SETTINGS
        for reads in ("next_token", *poolings(name, options), "concat", "interaction")
    ],
    ids=label,
)
def test_number_of_parameters(name: str, options: Options, reads: str, norm: str, ffn: str) -> None:
    num_classes, depth, max_len, is_cls = 5, 3, 20, reads == "cls"
    causal, is_pair = reads == "next_token", reads in ("concat", "interaction")
    setting: Options = {"norm": norm, "ffn": ffn, "depth": depth, "max_len": max_len, "positions": "learned"}
    setting |= {"causal": causal, "num_classes": None if causal else num_classes}
    if not causal:
        setting["pair" if is_pair else "pooling"] = reads
    model = build(name, **setting, **options)

    norm_size = WIDTH if norm == "rms" else 2 * WIDTH
    hidden = (2 if ffn == "gated" else 1) * FFN_WIDTH
    feed_forward = norm_size + hidden * (WIDTH + 1) + WIDTH * (FFN_WIDTH + 1)
    layer = CASES[name].num_parameters(options, causal, norm) + feed_forward
    layers = CASES[name].num_layers(options, depth) * layer
    layers += CASES[name].stack_parameters(options)
    num_slots = models.variant(name).memory_len(model.options)
    below = WIDTH * (VOCAB_SIZE + (max_len + is_cls) + is_cls + num_slots)
    features = WIDTH * {"concat": 2, "interaction": 4}.get(reads, 1)
    head = WIDTH * VOCAB_SIZE if causal else FFN_WIDTH * (features + 1) + num_classes * (FFN_WIDTH + 1)
    assert model.num_parameters() == below + layers + norm_size + head
