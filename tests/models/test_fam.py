"""What the paper says of FAM (arXiv 2404.09173v3), fact by fact."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import models
from models.fam import FamBlock
from models.fam_state import FamState
from tests import reference
from tests.models.cases import SEGMENT, WIDTH, Options, build, distinct_tokens, random_tokens
from tests.reference.backbone import layers
from tests.reference.fam import carry_prompt, logits_block_by_block

FAM: Options = {"block_len": SEGMENT, "fam_len": 2, "memory_blocks": 0}


def fam_blocks(model: models.Model) -> list[FamBlock]:
    return [block for block in model.blocks if isinstance(block, FamBlock)]


def fams(state: models.ModelState) -> list[Tensor]:
    """Each layer's FAM."""
    return [layer.fam for layer in state.layers]


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> bool:
    return bool((actual - expected).abs().max() <= tolerance)


# ---- the initial FAM (B.1)


@torch.no_grad()
def test_first_update_has_a_zero_residual() -> None:
    model = build("fam", **FAM)
    for block in fam_blocks(model):
        # Nothing is added to the residual, so that only the residual is left.
        for linear in (block.project.out, block.ffn.down):
            linear.weight.zero_()
            linear.bias.zero_()
    _, state = model(random_tokens(2, 2 * SEGMENT))
    assert all(torch.count_nonzero(fam) == 0 for fam in fams(state))

    # Every other update keeps what was there.
    some_fam = torch.randn(2, FAM["fam_len"], WIDTH, dtype=torch.float64)
    started = model.init_state(2)
    started = started._replace(layers=tuple(layer._replace(fam=some_fam, is_prompt=False) for layer in started.layers))
    _, state = model(random_tokens(2, 2 * SEGMENT), None, started)
    assert all(torch.equal(fam, some_fam) for fam in fams(state))


def test_the_prompt_is_carried_in_a_pass_of_its_own() -> None:
    model = build("fam", depth=3, **FAM)
    assert model.learned_memory is not None
    _, state = model(random_tokens(2, SEGMENT - 1))
    _, other_state = model(random_tokens(2, SEGMENT - 1, seed=1))
    prompt = list(model.learned_memory)
    for layer, fam, other_fam in zip(layers(model), fams(state), fams(other_state), strict=True):
        assert torch.equal(fam, other_fam), "the prompt has seen tokens"
        assert close(fam[0], torch.stack(prompt))
        prompt = carry_prompt(layer, prompt)


def test_the_other_reading_of_the_prompt_leaks_the_future() -> None:
    """A layer that starts from the *updated* FAM of the layer below has seen the whole first block."""
    model = build("fam", **FAM)
    tokens = random_tokens(1, 2 * SEGMENT + 1)[0].tolist()
    last = SEGMENT - 1
    changed = [token if place != last else token + 1 for place, token in enumerate(tokens)]
    for leak in (False, True):
        before = logits_block_by_block(model, tokens, leak=leak)
        after = logits_block_by_block(model, changed, leak=leak)
        moved = (before - after)[:last].abs().max()
        assert moved > 1e-3 if leak else moved == 0.0


def test_slots_see_each_other_in_both_directions() -> None:
    model = build("fam", depth=1, block_len=SEGMENT, fam_len=3)
    assert model.learned_memory is not None
    _, state = model(random_tokens(1, SEGMENT))
    for slot in range(3):
        value = fams(state)[0][0, slot].square().sum()
        (gradient,) = torch.autograd.grad(value, model.learned_memory, retain_graph=True)
        assert gradient.abs().sum(dim=-1).min() > 0


def test_a_prefix_is_each_layers_own() -> None:
    """Prefix tuning: nothing comes up the stream, and F·D weights are learned by every layer instead of once."""
    prompted, prefixed = build("fam", depth=3, **FAM), build("fam", depth=3, initial="prefix", **FAM)
    num_slots = FAM["fam_len"] * WIDTH
    assert prefixed.num_parameters() - prompted.num_parameters() == (3 - 1) * num_slots
    assert prefixed.learned_memory is None
    _, state = prefixed(random_tokens(2, SEGMENT - 1))
    for block, fam in zip(fam_blocks(prefixed), fams(state), strict=True):
        assert block.own_memory is not None
        assert torch.equal(fam[0], block.own_memory)


def test_prefixes_that_equal_the_carried_prompt_are_the_prompt() -> None:
    prompted, prefixed = build("fam", depth=3, **FAM), build("fam", depth=3, initial="prefix", **FAM)
    weights = prompted.state_dict()
    prompt = list(weights.pop("learned_memory"))
    for index, layer in enumerate(layers(prompted)):
        weights[f"stack.{index}.own_memory"] = torch.stack(prompt)
        prompt = carry_prompt(layer, prompt)
    prefixed.load_state_dict(weights)
    tokens = random_tokens(2, 3 * SEGMENT + 1)
    (logits, state), (other_logits, other_state) = prompted(tokens), prefixed(tokens)
    assert close(logits, other_logits)
    assert all(close(fam, other) for fam, other in zip(fams(state), fams(other_state), strict=True))


# ---- one block (algorithm 2)


@pytest.mark.parametrize("num_tokens", [SEGMENT - 1, SEGMENT, 3 * SEGMENT + 2])
def test_layer_scan_equals_block_by_block_through_the_stack(num_tokens: int) -> None:
    model = build("fam", depth=3, block_len=SEGMENT, fam_len=2, memory_blocks=1)
    tokens = random_tokens(1, num_tokens)
    by_block = logits_block_by_block(model, tokens[0].tolist())
    by_layer = reference.forward(model, tokens)[0].logits
    assert close(by_layer, by_block)
    assert close(model(tokens)[0][0], by_block)


def test_fam_ignores_the_memory_blocks() -> None:
    tokens = random_tokens(2, 4 * SEGMENT)
    model = build("fam", depth=1, **(FAM | {"memory_blocks": 2}))
    # In the bottom layer, FAM is the same whatever tokens see beside their block.
    without = build("fam", depth=1, **FAM)
    assert torch.equal(fams(model(tokens)[1])[0], fams(without(tokens)[1])[0])

    # And what the cache holds of earlier blocks reaches the tokens, but not FAM.
    _, state = model(tokens)
    forged = state._replace(layers=tuple(layer._replace(keys=layer.keys + 1.0) for layer in state.layers))
    block = random_tokens(2, SEGMENT, seed=1)
    (logits, after), (forged_logits, forged_after) = model(block, None, state), model(block, None, forged)
    assert torch.equal(fams(after)[0], fams(forged_after)[0])
    assert not close(logits, forged_logits, 1e-3)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both ways"])
def test_tokens_of_a_block_do_not_see_the_fam_made_from_it(causal: bool) -> None:
    """The first block reads F_0 only: in a longer block F_1 is never made, and its tokens are the same."""
    shared: Options = {"causal": causal, "num_classes": 3, "fam_len": 2}
    updating, waiting = (
        build("fam", block_len=SEGMENT, **shared),
        build("fam", block_len=SEGMENT + 1, **shared),
    )
    waiting.load_state_dict(updating.state_dict())
    tokens = random_tokens(2, SEGMENT)
    (logits, state), (other_logits, other_state) = updating(tokens), waiting(tokens)
    assert close(logits, other_logits)
    assert not any(layer.is_prompt for layer in state.layers)
    assert all(layer.is_prompt for layer in other_state.layers)


def test_tokens_read_the_latest_fam_only() -> None:
    """With m=0, whatever the blocks before have done to the next one went through F_τ."""
    model = build("fam", **FAM)
    (_, state), (_, other) = (
        model(random_tokens(2, 2 * SEGMENT)),
        model(random_tokens(2, 2 * SEGMENT, seed=1)),
    )
    block = random_tokens(2, SEGMENT, seed=2)
    assert not close(model(block, None, state)[0], model(block, None, other)[0], 1e-6)
    swapped = tuple(
        layer._replace(fam=other_layer.fam) for layer, other_layer in zip(state.layers, other.layers, strict=True)
    )
    assert torch.equal(model(block, None, state._replace(layers=swapped))[0], model(block, None, other)[0])


def test_a_block_that_is_not_full_updates_nothing() -> None:
    model = build("fam", **FAM)
    tokens = random_tokens(2, 3 * SEGMENT - 1)
    (_, state), (_, before) = model(tokens), model(tokens[:, : 2 * SEGMENT])
    for fam, fam_before in zip(fams(state), fams(before), strict=True):
        assert close(fam, fam_before)


def test_rescaled_fam_has_unit_rms() -> None:
    model = build("fam", update="rescaled", **FAM)
    for fam in fams(model(random_tokens(2, 5 * SEGMENT))[1]):
        assert close(fam.square().mean(dim=-1), torch.ones(2, FAM["fam_len"], dtype=torch.float64))


def test_a_closed_gate_keeps_the_first_summary_bit_for_bit() -> None:
    model = build("fam", update="gated", **FAM)
    for block in fam_blocks(model):
        assert block.gate is not None
        torch.nn.init.constant_(block.gate.bias, -100.0)
    tokens = random_tokens(2, 9 * SEGMENT)
    (_, late), (_, early) = model(tokens), model(tokens[:, :SEGMENT])
    assert all(torch.equal(a, b) for a, b in zip(fams(late), fams(early), strict=True))


def test_an_open_gate_is_the_papers_update() -> None:
    gated, plain = build("fam", update="gated", **FAM), build("fam", **FAM)
    plain.load_state_dict({key: value for key, value in gated.state_dict().items() if ".gate." not in key})
    for block in fam_blocks(gated):
        assert block.gate is not None
        torch.nn.init.constant_(block.gate.bias, 100.0)
    tokens = random_tokens(2, 5 * SEGMENT)
    assert close(gated(tokens)[0], plain(tokens)[0])


def test_feedback_is_kept_in_full_precision() -> None:
    """Hundreds of small updates are added to one residual: bfloat16 would swallow them."""
    model = build("fam", **FAM).float()
    with torch.autocast("cpu", torch.bfloat16):
        _, state = model(random_tokens(2, 2 * SEGMENT))
    assert {fam.dtype for fam in fams(state)} == {torch.float32}


def test_memories_have_a_row_per_sequence_from_the_start() -> None:
    model = build("fam", **FAM)
    for num_tokens in (1, SEGMENT, 2 * SEGMENT + 1):
        _, state = model(random_tokens(3, num_tokens))
        shapes = [None if memory is None else memory.shape for memory in model.memories(state)]
        assert shapes == [(3, FAM["fam_len"], WIDTH)] * 2


# ---- ablations (C.3, tables 6 and 7)


@torch.no_grad()
def test_a_static_summary_asks_every_block_and_is_its_residual() -> None:
    model = build("fam", update="static", **FAM)
    for block in fam_blocks(model):
        for linear in (block.project.out, block.ffn.down):
            linear.weight.zero_()
            linear.bias.zero_()
    assert model.learned_memory is not None
    for num_blocks in (1, 4):
        for fam in fams(model(random_tokens(2, num_blocks * SEGMENT))[1]):
            assert torch.equal(fam, model.learned_memory.expand(2, -1, -1))


def test_under_a_static_summary_the_fam_before_gives_keys_and_values_only() -> None:
    model = build("fam", depth=1, update="static", **FAM)
    plain = build("fam", depth=1, **FAM)
    plain.load_state_dict(model.state_dict())
    first, second = random_tokens(2, SEGMENT), random_tokens(2, SEGMENT, seed=1)
    changes = {}
    for one in (model, plain):
        _, state = one(first)
        (layer,) = state.layers
        far = state._replace(layers=(layer._replace(fam=-100.0 * layer.fam),))
        (fam,), (moved,) = fams(one(second, None, state)[1]), fams(one(second, None, far)[1])
        changes[one.options.update] = (fam - moved).abs().max()
    # Behind the norm a large FAM is one more value among others; as a residual it would come through whole.
    assert 1e-6 < changes["static"] < 10 < changes["residual"]


def test_tokens_read_the_latest_fams() -> None:
    """Of four blocks' FAMs, the tokens of the fifth see the last n; older ones fade out of reach."""
    tokens = random_tokens(2, 4 * SEGMENT)
    for past_fams in (1, 2, 3):
        model = build("fam", depth=1, past_fams=past_fams, **FAM)
        _, state = model(tokens)
        (layer,) = state.layers
        assert len(layer.older) == past_fams - 1
        states = [model(tokens[:, : n * SEGMENT])[1].layers[0] for n in range(4, 0, -1)][1:past_fams]
        for kept, then in zip(reversed(layer.older), states, strict=True):
            block = fam_blocks(model)[0]
            _, _, values = block.project(block.attend.before(then.fam))
            assert close(kept.values, values)


def test_older_fams_are_for_tokens_not_for_the_update() -> None:
    one, three = (build("fam", depth=1, past_fams=past_fams, **FAM) for past_fams in (1, 3))
    tokens = random_tokens(2, 4 * SEGMENT)
    (logits, state), (other_logits, other_state) = one(tokens), three(tokens)
    assert close(fams(state)[0], fams(other_state)[0])
    # The prompt is all there is to read in the first block.
    assert close(logits[:, :SEGMENT], other_logits[:, :SEGMENT])
    assert not close(logits[:, SEGMENT:], other_logits[:, SEGMENT:], 1e-6)


@pytest.mark.parametrize(
    ("fam_positions", "places"),
    [("last", [6.0, 7.0]), ("fractional", [7 + 1 / 3, 7 + 2 / 3]), ("zero", [0.0, 0.0])],
)
def test_places_of_fam(fam_positions: str, places: list[float]) -> None:
    """Made from a block at m..m+3, two slots stand at m+2, m+3; or at m+3.33, m+3.66; or at 0."""
    (block,) = fam_blocks(build("fam", depth=1, fam_positions=fam_positions, **FAM))
    assert block.places.at(torch.tensor(8)).tolist() == pytest.approx(places)


@pytest.mark.parametrize("fam_positions", ["fractional", "zero"])
def test_other_places_stream_alike(fam_positions: str) -> None:
    model = build("fam", fam_positions=fam_positions, past_fams=2, **FAM)
    tokens = random_tokens(2, 4 * SEGMENT + 1)
    whole, state, logits = model(tokens)[0], None, []
    for piece in tokens.split(3, dim=1):
        out, state = model(piece, None, state)
        logits.append(out)
    assert close(torch.cat(logits, dim=1), whole, 1e-10)
    assert not close(whole, build("fam", past_fams=2, **FAM)(tokens)[0], 1e-6)


# ---- positions (B.2.1, B.2.2)


def shifted(model: models.Model, batch_size: int, by: int) -> models.ModelState:
    """The start of a sequence whose first token stands at position ``by``."""
    state = model.init_state(batch_size)
    return models.ModelState(by, tuple(layer._replace(position=by) for layer in state.layers))


@pytest.mark.parametrize("by", [1, SEGMENT, 62_831])
def test_an_offset_of_all_positions_changes_nothing(by: int) -> None:
    """RoPE's scores see distances only, so that B.2.2 taken literally is the identity."""
    model = build("fam", **(FAM | {"memory_blocks": 1}))
    tokens = random_tokens(2, 3 * SEGMENT + 1)
    (logits, state), (moved, moved_state) = model(tokens), model(tokens, None, shifted(model, 2, by))
    assert close(logits, moved, 1e-10)
    for fam, moved_fam in zip(fams(state), fams(moved_state), strict=True):
        assert close(fam, moved_fam, 1e-10)


def test_random_position_offset_moves_the_prompt_only() -> None:
    model = build("fam", depth=1, random_position_offset=True, **FAM)
    tokens = random_tokens(2, 3 * SEGMENT)
    state = model.init_state(2)
    offset = torch.tensor([0, 1000])
    far = state._replace(layers=tuple(layer._replace(prompt_offset=offset) for layer in state.layers))
    (logits, after), (far_logits, far_after) = model(tokens), model(tokens, None, far)
    # A sequence without an offset is as before; the other's first block sees the prompt from afar.
    assert close(far_logits[0], logits[0])
    assert not close(far_logits[1, :SEGMENT], logits[1, :SEGMENT], 1e-6)
    # From the first update on all distances are the usual ones.
    assert close(far_logits[1, SEGMENT:], logits[1, SEGMENT:])
    assert close(fams(far_after)[0], fams(after)[0])
    assert far_after.layers[0].prompt_offset is None


def test_random_position_offsets_are_drawn_per_sequence_and_shared_by_the_layers() -> None:
    model = build("fam", depth=3, random_position_offset=True, **FAM)
    drawn = []
    for seed in range(40):
        state = model.training_state(8, seed=seed, progress=0.0)
        assert state is not None
        first, *others = [layer.prompt_offset for layer in state.layers]
        assert all(torch.equal(first, other) for other in others)
        drawn.append(first)
    offsets = torch.cat(drawn)
    assert 0.4 < torch.count_nonzero(offsets) / offsets.numel() < 0.6
    longest_wavelength = 2 * math.pi * 10_000
    assert 0.9 * longest_wavelength < offsets.max() <= longest_wavelength
    assert offsets[offsets > 0].unique().numel() > 100
    again = model.training_state(8, seed=0, progress=0.0)
    assert again is not None
    assert torch.equal(again.layers[0].prompt_offset, drawn[0])


@pytest.mark.parametrize("num_tokens", [SEGMENT - 1, 2 * SEGMENT + 3])
def test_random_starts_equal_the_reference(num_tokens: int) -> None:
    """Offsets and passed states in outputs and states: the fast form does what the loops do."""
    model = build("fam", random_position_offset=True, random_state_passing=1.0, block_len=SEGMENT, fam_len=2)
    carried = torch.randn(2, FAM["fam_len"], WIDTH, dtype=torch.float64)
    offsets = torch.tensor([0, 123])
    tokens = random_tokens(2, num_tokens)
    for is_passed in (False, True):
        state, starts = model.init_state(2), []
        changed = []
        for layer, fam in zip(state.layers, carried, strict=True):
            passed: Options = {"fam": fam.expand(2, -1, -1), "is_prompt": False} if is_passed else {}
            changed.append(layer._replace(prompt_offset=offsets, **passed))
            starts.append({"carried_fam": fam} if is_passed else {})
        logits, after = model(tokens, None, state._replace(layers=tuple(changed)))
        for index, offset in enumerate(offsets.tolist()):
            moved = [{**start, "prompt_offset": offset} for start in starts]
            (expected,) = reference.forward(model, tokens[index : index + 1], starts=moved)
            assert close(logits[index], expected.logits)
            for fam, expected_state in zip(fams(after), expected.states, strict=True):
                assert close(fam[index if fam.shape[0] > 1 else 0], expected_state["fam"])


# ---- random state passing (B.2.3)


def passing_model(probability: float = 0.8, **options: Any) -> models.Model:
    return build("fam", random_state_passing=probability, **(FAM | options))


def is_passed(state: models.ModelState | None) -> bool:
    """Whether a training sequence starts from another's FAM; all layers must agree."""
    assert state is not None
    passed = {not layer.is_prompt for layer in state.layers}
    assert len(passed) == 1, "layers tossed different coins"
    return passed.pop()


def after_one_step(model: models.Model, seed: int = 0) -> models.ModelState:
    _, state = model(random_tokens(3, 2 * SEGMENT, seed=seed))
    model.remember(state)
    return state


def test_what_is_passed_on_is_stored_with_the_model() -> None:
    model = passing_model(1.0)
    names = {name for name, _ in model.named_buffers()}
    assert sum(name.endswith(".carried") for name in names) == len(model.blocks)
    assert names <= set(model.state_dict())
    assert not list(build("fam", **FAM).named_buffers())

    state = after_one_step(model)
    restored = passing_model(1.0, seed=1)
    restored.load_state_dict(model.state_dict())
    starts = [one.training_state(3, seed=3, progress=0.0) for one in (model, restored)]
    for start in starts:
        assert start is not None
        for fam, source in zip(fams(start), fams(state), strict=True):
            # Every sequence starts from batch item 0 of the step before.
            assert torch.equal(fam, source[:1].expand(3, -1, -1))


def test_nothing_is_passed_before_there_is_something() -> None:
    model = passing_model(probability=1.0)
    assert not is_passed(model.training_state(3, seed=0, progress=0.0))
    _, state = model(random_tokens(3, SEGMENT - 1))
    model.remember(state)  # no block was full: this is still the prompt
    assert not is_passed(model.training_state(3, seed=0, progress=0.0))
    after_one_step(model)
    assert is_passed(model.training_state(3, seed=0, progress=0.0))


def test_a_first_sequence_without_a_full_block_leaves_nothing() -> None:
    model = passing_model(probability=1.0)
    tokens = random_tokens(2, 2 * SEGMENT)
    mask = torch.arange(2 * SEGMENT) < torch.tensor([[SEGMENT - 1], [2 * SEGMENT]])
    _, state = model(tokens, mask)
    model.remember(state)
    assert not is_passed(model.training_state(2, seed=0, progress=0.0)), "the prompt was stored as if it held context"


@pytest.mark.parametrize("probability", [0.2, 0.8, 1.0])
def test_probability_of_passing(probability: float) -> None:
    model = passing_model(probability, depth=3)
    after_one_step(model)
    passed = [is_passed(model.training_state(2, seed=seed, progress=0.0)) for seed in range(1000)]
    assert abs(sum(passed) / len(passed) - probability) < 0.05
    assert passed[:5] == [is_passed(model.training_state(2, seed=seed, progress=0.0)) for seed in range(5)]


def test_passing_begins_at_a_share_of_the_training() -> None:
    model = passing_model(1.0, random_state_passing_from=0.5)
    after_one_step(model)
    begun = [is_passed(model.training_state(2, seed=0, progress=progress)) for progress in (0.0, 0.49, 0.5, 1.0)]
    assert begun == [False, False, True, True]


def test_a_passed_state_keeps_its_residual_and_has_no_gradient() -> None:
    model = passing_model(1.0)
    after_one_step(model)
    start = model.training_state(2, seed=0, progress=0.0)
    assert start is not None
    assert not any(tensor.requires_grad for tensor in models.tensors(start))
    tokens = random_tokens(2, 2 * SEGMENT, seed=5)
    logits, state = model(tokens, None, start)
    starts = [{"carried_fam": layer.fam[0]} for layer in start.layers]
    for index, expected in enumerate(reference.forward(model, tokens, starts=starts)):
        assert close(logits[index], expected.logits)
        for fam, expected_state in zip(fams(state), expected.states, strict=True):
            assert close(fam[index], expected_state["fam"])
    # The prompt took no part in it.
    assert model.learned_memory is not None
    (gradient,) = torch.autograd.grad(logits.sum(), model.learned_memory, allow_unused=True, materialize_grads=True)
    assert torch.count_nonzero(gradient) == 0


def test_what_is_passed_is_a_copy_without_history() -> None:
    model = passing_model(1.0)
    state = after_one_step(model)
    kept = [block.start.carried.clone() for block in fam_blocks(model)]
    assert all(not block.start.carried.requires_grad for block in fam_blocks(model))
    with torch.no_grad():
        for fam in fams(state):
            fam.zero_()
    assert all(torch.equal(block.start.carried, copy) for block, copy in zip(fam_blocks(model), kept, strict=True))


def test_evaluation_never_starts_from_another_sequence() -> None:
    model = passing_model(1.0).eval()
    tokens = random_tokens(2, 2 * SEGMENT)
    before, _ = model(tokens)
    after_one_step(model)
    after, state = model(tokens)
    assert torch.equal(before, after)
    assert isinstance(state.layers[0], FamState)


def test_without_random_options_training_starts_as_usual() -> None:
    model = build("fam", **FAM)
    start = model.training_state(2, seed=0, progress=0.5)
    tokens = distinct_tokens(2, 2 * SEGMENT)
    assert torch.equal(model(tokens, None, start)[0], model(tokens)[0])
    model.remember(model(tokens)[1])
    assert not list(model.named_buffers())
