"""Building models: what a user's mistake says, and what a model tells about itself."""

from typing import Any

import pytest
import torch
from torch import nn

import models
from tests.models.cases import (
    CASES,
    SEGMENT,
    VARIANTS,
    VOCAB_SIZE,
    WIDTH,
    Options,
    build,
    distinct_tokens,
    poolings,
    random_tokens,
)

CLASSIFY: Options = {"num_classes": 3}
BOTH_WAYS: Options = {"num_classes": 3, "causal": False}


def small(name: str, **overrides: Any) -> models.Model:
    """A model as a user would build it."""
    settings: Options = {"vocab_size": 20, "max_len": 32, "causal": True, "width": 16, "ffn_width": 16}
    return models.build_model(name, **(settings | overrides))


def test_what_there_is() -> None:
    assert models.available() == (
        "block_window",
        "fam",
        "feedback_memory",
        "filtered_memory",
        "infini",
        "linear",
        "luna",
        "mat",
        "memformer",
        "transformer",
    )
    for name in models.available():
        model = small(name)
        assert isinstance(model.options, models.options_class(name))
        assert isinstance(model.config, models.BackboneConfig)
        assert model.variant == name


# ---- mistakes


@pytest.mark.parametrize(
    ("name", "overrides", "text"),
    [
        # names
        (
            "blockwindow",
            {},
            f"unknown model 'blockwindow' (did you mean 'block_window'?); there are: {', '.join(VARIANTS)}",
        ),
        ("xyz", {}, f"unknown model 'xyz'; there are: {', '.join(VARIANTS)}"),
        # choices
        ("fam", {"ffn": "gatde"}, "backbone.ffn='gatde' (did you mean 'gated'?): choose one of gelu, gated"),
        ("fam", {"norm": "batch"}, "backbone.norm='batch': choose one of layer, rms"),
        (
            "fam",
            {"norm_position": "psot"},
            "backbone.norm_position='psot' (did you mean 'post'?): choose one of pre, post",
        ),
        (
            "fam",
            {"positions": "rotary"},
            "backbone.positions='rotary': choose one of learned, rope, both, none",
        ),
        (
            "fam",
            {"pooling": "maen", **CLASSIFY},
            "backbone.pooling='maen' (did you mean 'mean'?): choose one of mean, cls, memory",
        ),
        (
            "fam",
            {"pair": "concatt", **CLASSIFY},
            "pair='concatt' (did you mean 'concat'?): choose one of concat, interaction",
        ),
        (
            "mat",
            {"form": "controler"},
            "model.form='controler' (did you mean 'controller'?): "
            "choose one of tokens, controller, shared_controller, bottleneck",
        ),
        ("linear", {"feature_map": "elo"}, "model.feature_map='elo' (did you mean 'elu'?): choose one of elu, ffn"),
        (
            "fam",
            {"update": "sttic"},
            "model.update='sttic' (did you mean 'static'?): choose one of residual, static, rescaled, gated",
        ),
        ("fam", {"initial": "perfix"}, "model.initial='perfix' (did you mean 'prefix'?): choose one of prompt, prefix"),
        (
            "fam",
            {"fam_positions": "first"},
            "model.fam_positions='first': choose one of last, fractional, zero",
        ),
        # ranges
        ("fam", {"past_fams": 0}, "model.past_fams=0: must be at least 1"),
        ("fam", {"width": 0}, "backbone.width=0: must be at least 1"),
        ("fam", {"depth": 0}, "backbone.depth=0: must be at least 1"),
        ("fam", {"dropout": 1.0}, "backbone.dropout=1.0: must lie in [0, 1)"),
        ("fam", {"attention_dropout": -0.1}, "backbone.attention_dropout=-0.1: must lie in [0, 1)"),
        ("fam", {"block_len": 0}, "model.block_len=0: must be at least 1"),
        ("block_window", {"memory_blocks": -1}, "model.memory_blocks=-1: must be 0 or more"),
        ("mat", {"block_len": 0}, "model.block_len=0: must be at least 1"),
        ("mat", {"memory_len": -1}, "model.memory_len=-1: must be 0 or more"),
        ("memformer", {"memory_len": 0}, "model.memory_len=0: must be at least 1"),
        ("memformer", {"temperature": 0.0}, "model.temperature=0.0: must be above 0 and finite"),
        (
            "mat",
            {"carry": True, "bptt_segments": 0},
            "model.bptt_segments=0: must be at least 1, or null for all",
        ),
        (
            "block_window",
            {"blocks_at_once": 0},
            "model.blocks_at_once=0: must be at least 1, or null for the default",
        ),
        ("block_window", {"lookahead_blocks": -1}, "model.lookahead_blocks=-1: must be 0 or more"),
        (
            "block_window",
            {"lookahead_blocks": 1},
            "model.lookahead_blocks=1: a causal model sees no block after its own; use 0",
        ),
        ("luna", {"memory_len": 0}, "model.memory_len=0: must be at least 1"),
        ("luna", {"chunk_len": 0}, "model.chunk_len=0: must be at least 1"),
        ("linear", {"chunk_len": 0}, "model.chunk_len=0: must be at least 1"),
        ("fam", {"random_state_passing": 1.5}, "model.random_state_passing=1.5: must be a probability"),
        (
            "fam",
            {"random_state_passing": 0.5, "random_state_passing_from": 1.0},
            "model.random_state_passing_from=1.0: must lie in [0, 1)",
        ),
        ("transformer", {"vocab_size": 0}, "vocab_size=0 and max_len=32 must be at least 1"),
        # values that do not fit together
        (
            "fam",
            {"width": 30, "num_heads": 4},
            "backbone.width=30 is not divisible by backbone.num_heads=4: try width=32",
        ),
        (
            "transformer",
            {"width": 12, "num_heads": 4},
            "backbone.positions=rope rotates pairs, but a head is 3 wide: choose an even width / num_heads",
        ),
        (
            "fam",
            {"fam_len": 9, "block_len": 8},
            "model.fam_len=9: must lie between 0 and model.block_len=8, "
            "since FAM takes the last positions of its block",
        ),
        (
            "luna",
            {"positions": "rope", **BOTH_WAYS},
            "backbone.positions=rope: luna that reads both ways needs learned positions, since its memory "
            "slots have no place to rotate against; use backbone.positions=learned",
        ),
        (
            "block_window",
            {"pooling": "memory", **CLASSIFY},
            "backbone.pooling=memory: block_window has no memory to pool; use mean",
        ),
        (
            "transformer",
            {"causal": False},
            "causal=False predicts a next token that the model has already seen: pass causal=True",
        ),
        # settings without effect
        (
            "transformer",
            {"pooling": "mean"},
            "backbone.pooling=mean has no effect on next-token prediction: leave it null",
        ),
        ("transformer", {"pair": "concat"}, "pair='concat' has no effect without num_classes"),
        (
            "transformer",
            {"rope_base": 500.0, "positions": "learned"},
            "backbone.rope_base has no effect with backbone.positions=learned: leave it null",
        ),
        (
            "block_window",
            {"stop_gradient": True, "memory_blocks": 0},
            "model.stop_gradient has no effect with model.memory_blocks=0: there is nothing to cut",
        ),
        (
            "mat",
            {"carry": True, "memory_len": 0},
            "model.carry has no effect with model.memory_len=0: there is nothing to carry",
        ),
        (
            "mat",
            {"accumulate": True},
            "model.accumulate has no effect with model.carry=false: no memory leaves its segment",
        ),
        (
            "mat",
            {"form": "controller", "memory_len": 0},
            "model.form=controller needs memory: use model.memory_len of at least 1, or form=tokens",
        ),
        (
            "mat",
            {"form": "bottleneck"},
            "model.form=bottleneck: a causal token reads only what earlier segments wrote, and with "
            "model.carry=false that is nothing; use model.carry=true",
        ),
        (
            "mat",
            {"bptt_segments": 2},
            "model.bptt_segments has no effect with model.carry=false: no memory leaves its segment",
        ),
        (
            "mat",
            {"pooling": "memory", **CLASSIFY},
            "backbone.pooling=memory: with model.carry=false the last segment's memory has not heard the others; "
            "use mean, or carry",
        ),
        (
            "mat",
            {"pooling": "memory", "memory_len": 0, **BOTH_WAYS},
            "backbone.pooling=memory: mat has no memory to pool; use mean",
        ),
        (
            "fam",
            {"random_state_passing_from": 0.5},
            "model.random_state_passing_from has no effect with model.random_state_passing=0",
        ),
        (
            "fam",
            {"random_position_offset": True, "positions": "learned"},
            "model.random_position_offset has no effect with backbone.positions=learned: it needs rope",
        ),
        (
            "fam",
            {"random_state_passing": 0.8, "fam_len": 0},
            "model.fam_len=0: initial, update, past_fams, fam_positions, random_state_passing and "
            "random_position_offset have no effect",
        ),
        (
            "feedback_memory",
            {"memory_blocks": 0},
            "model.memory_blocks=0: nothing is fed back; use at least 1, or model=local",
        ),
        (
            "fam",
            {"past_fams": 2, "fam_len": 0},
            "model.fam_len=0: initial, update, past_fams, fam_positions, random_state_passing and "
            "random_position_offset have no effect",
        ),
        (
            "fam",
            {"initial": "prefix", "fam_len": 0},
            "model.fam_len=0: initial, update, past_fams, fam_positions, random_state_passing and "
            "random_position_offset have no effect",
        ),
        (
            "fam",
            {"fam_positions": "zero", "positions": "learned"},
            "model.fam_positions has no effect with backbone.positions=learned: it needs rope",
        ),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else None,
)
def test_a_mistake_gets_one_clear_line(name: str, overrides: Options, text: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole text is compared
        small(name, **overrides)
    assert str(error.value) == text


@pytest.mark.parametrize(
    ("name", "overrides", "parts"),
    [
        (
            "fam",
            {"block_length": 4},
            ("'block_length'", "did you mean 'block_len'?", "fam_len", "memory_blocks"),
        ),
        ("fam", {"widht": 32}, ("'widht'", "did you mean 'width'?", "num_heads")),
        ("transformer", {"widht": 32}, ("'widht'", "did you mean 'width'?", "num_heads")),
        ("transformer", {"memory_len": 4}, ("'memory_len'", "transformer", "num_heads")),
        ("luna", {"fam_len": 4}, ("'fam_len'", "luna", "memory_len")),
        ("fam", {"num_classes": 1}, ("num_classes=1", "at least 2")),
        ("fam", {"rope_base": 0.0}, ("backbone.rope_base=0.0", "must be")),
        ("fam", {"rope_base": -1.0}, ("backbone.rope_base=-1.0", "must be")),
        # In front of a causal sequence, CLS sees nothing: every text would get the same class.
        ("transformer", {"pooling": "cls", **CLASSIFY}, ("backbone.pooling=cls", "causal")),
        # Nor does it see more than its own block through a window.
        ("block_window", {"pooling": "cls", **BOTH_WAYS}, ("backbone.pooling=cls", "block_window", "mean")),
        ("fam", {"pooling": "cls", **BOTH_WAYS}, ("backbone.pooling=cls", "fam", "mean")),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else None,
)
def test_a_mistake_names_the_key_and_what_would_work(name: str, overrides: Options, parts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - its parts are looked for
        small(name, **overrides)
    text = str(error.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_more_tokens_than_positions(is_streamed: bool) -> None:
    model, tokens = small("fam", positions="learned", max_len=8), random_tokens(1, 9) % 20
    state = None
    if is_streamed:
        _, state = model(tokens[:, :5])
        tokens = tokens[:, 5:]
    with pytest.raises(ValueError, match="9 tokens") as error:
        model(tokens, None, state)
    assert str(error.value) == (
        "a sequence of 9 tokens is longer than the 8 learned positions: raise max_len, or use backbone.positions=rope"
    )


def test_rope_knows_no_end() -> None:
    logits, _ = small("fam", max_len=8)(random_tokens(1, 100) % 20)
    assert logits.shape == (1, 100, 20)


def test_a_classifier_reads_in_one_call() -> None:
    model, tokens = small("fam", **CLASSIFY), random_tokens(1, 9) % 20
    _, state = model(tokens)
    with pytest.raises(ValueError, match="in one call") as error:
        model(tokens, None, state)
    assert str(error.value) == "a classifier reads its sequence in one call: state must be None"


def test_a_config_is_frozen() -> None:
    model = small("fam")
    for settings, key in ((model.config, "width"), (model.options, "fam_len")):
        with pytest.raises(AttributeError):
            setattr(settings, key, 3)


# ---- what a model tells and does


@pytest.mark.parametrize("name", VARIANTS)
def test_shapes_of_logits(name: str) -> None:
    options, tokens = CASES[name].options, random_tokens(2, 2 * SEGMENT + 1)
    assert build(name, **options)(tokens)[0].shape == (2, 2 * SEGMENT + 1, VOCAB_SIZE)
    assert build(name, **options, **CLASSIFY)(tokens)[0].shape == (2, 3)
    assert build(name, **options, **BOTH_WAYS)(tokens)[0].shape == (2, 3)
    pairs = random_tokens(2, 2, 2 * SEGMENT + 1)
    assert build(name, **options, **BOTH_WAYS, pair="interaction")(pairs)[0].shape == (2, 3)


@pytest.mark.parametrize("name", VARIANTS)
def test_both_texts_of_a_pair_go_through_one_tower(name: str) -> None:
    """[a, b, a·b, a-b] of equal texts is [a, a, a·a, 0], whichever stands first."""
    model = build(name, pair="interaction", **BOTH_WAYS, **CASES[name].options)
    a, b = random_tokens(1, 9), random_tokens(1, 9, seed=1)
    same, swapped = torch.stack((a, a), dim=1), torch.stack((b, a), dim=1)
    assert torch.equal(model(same)[0], model(same.flip(1))[0])
    assert not torch.equal(model(swapped)[0], model(swapped.flip(1))[0])


@pytest.mark.parametrize("name", VARIANTS)
def test_rows_of_a_batch_are_independent(name: str) -> None:
    model = build(name, **CASES[name].options)
    tokens = random_tokens(3, 2 * SEGMENT + 1)
    other = torch.cat((tokens[:1], random_tokens(2, 2 * SEGMENT + 1, seed=1)))
    assert torch.equal(model(tokens)[0][0], model(other)[0][0])


@pytest.mark.parametrize(
    ("name", "pooling"),
    [(name, pooling) for name, case in CASES.items() for pooling in poolings(name, case.options)],
)
def test_weights_decay_and_the_rest_does_not(name: str, pooling: str) -> None:
    model = build(name, positions="learned", pooling=pooling, **BOTH_WAYS, **CASES[name].options)
    decayed, others = model.parameter_groups(0.1)
    assert decayed["weight_decay"] == 0.1
    assert others["weight_decay"] == 0.0
    everything = [*decayed["params"], *others["params"]]
    assert {id(p) for p in everything} == {id(p) for p in model.parameters()}
    assert len(everything) == len(list(model.parameters()))
    matrices = {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert {n for n, p in model.named_parameters() if any(p is one for one in decayed["params"])} == matrices
    assert not any("norm" in n or "embedding" in n or "positions" in n or "memory" in n for n in matrices)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_detached_state_has_no_history(name: str) -> None:
    model, tokens = build(name, **CASES[name].options), distinct_tokens(1, 3 * SEGMENT)
    _, state = model(tokens[:, : 2 * SEGMENT])
    assert any(tensor.requires_grad for tensor in models.tensors(state))
    detached = models.detach(state)
    assert not any(tensor.requires_grad for tensor in models.tensors(detached))
    assert type(detached) is type(state)
    assert [type(layer) for layer in detached.layers] == [type(layer) for layer in state.layers]
    logits, _ = model(tokens[:, 2 * SEGMENT :], None, state)
    detached_logits, _ = model(tokens[:, 2 * SEGMENT :], None, detached)
    assert torch.equal(logits, detached_logits)


@pytest.mark.parametrize("name", VARIANTS)
def test_memories_are_rows(name: str) -> None:
    """One ``[B, M, D]`` per layer of whatever travels along time, or None."""
    model = build(name, **CASES[name].options)
    _, state = model(random_tokens(2, 2 * SEGMENT))
    memories = model.memories(state)
    assert len(memories) == len(model.blocks)
    num_slots = 0 if model.learned_memory is None else len(model.learned_memory)
    num_rows = num_slots if CASES[name].memory_rows is None else CASES[name].memory_rows
    for memory in memories if model.recurrence is None else memories[-1:]:
        assert (memory is None) == (num_rows == 0)
        assert memory is None or memory.shape == (2, num_rows, WIDTH)


@pytest.mark.parametrize("name", VARIANTS)
def test_dropout_acts_in_training_only(name: str) -> None:
    model = build(name, dropout=0.3, attention_dropout=0.3, **CASES[name].options)
    tokens = random_tokens(2, 2 * SEGMENT + 1)
    with torch.random.fork_rng():
        assert not torch.equal(model(tokens)[0], model(tokens)[0])
        model.eval()
        assert torch.equal(model(tokens)[0], model(tokens)[0])


@pytest.mark.parametrize("name", VARIANTS)
def test_a_seed_gives_one_model(name: str) -> None:
    weights = []
    for _ in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            weights.append(small(name).state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize("name", VARIANTS)
def test_random_initialisation_is_sound(name: str) -> None:
    """Biases zero, norms one, and logits of the size of one: a loss near log V."""
    model = small(name, width=64, ffn_width=128, positions="learned")
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("bias"):
            assert torch.count_nonzero(parameter) == 0
        elif "norm.weight" in parameter_name:
            assert (parameter == 1).all()
    tokens = random_tokens(4, 32) % 20
    loss = nn.functional.cross_entropy(model(tokens[:, :-1])[0].flatten(0, 1), tokens[:, 1:].flatten())
    assert 2.0 < loss.item() < 6.0
