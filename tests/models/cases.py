"""What the laws need to know of each variant. A new one joins with an entry in :data:`CASES` and a reference.

Everything is tiny: blocks of four tokens, width 8, two layers.
"""

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import models
from models.block_window import receptive_field

SEGMENT = 4
VOCAB_SIZE = 96
WIDTH, FFN_WIDTH, NUM_HEADS = 8, 12, 2
Options = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One variant under test."""

    options: Options
    """Small options, with a memory that reaches through a sequence or at least into the block before."""
    others: tuple[Options, ...]
    """More settings worth holding to causality and to chunk invariance."""
    axes: dict[str, tuple]
    """Values of options that parity with the reference must cover."""
    regroup: tuple[Options, ...]
    """Settings that change speed only."""
    refuses: Callable[[Options], Any]
    """Combinations of :data:`BACKBONE_AXES` and ``axes`` that cannot be built."""
    num_parameters: Callable[[Options, bool, str], int]
    """Closed form of one layer without its feed-forward step: (options, causal, norm) -> parameters."""
    state_size: Callable[[Options, int], int]
    """Closed form of one causal layer: (options, tokens) -> numbers carried."""
    reach: tuple[tuple[Options, Callable[[int], float]], ...]
    """(options, depth -> how many tokens back the first token of a block receives gradient from)."""
    both_ways: Options | None = None
    """Backbone settings that ``causal=False`` needs."""
    float32_tolerance: float = 1e-5
    """Relative error that parity in float32 allows."""
    memory_rows: int | None = None
    """Rows of the memory as diagnostics see it, where they are not the learned slots."""
    num_layers: Callable[[Options, int], int] = lambda options, depth: depth
    """Closed form of a stack: (options, depth) -> how many layers' parameters it has."""
    mixes: Callable[[Options], bool] = lambda options: True
    """Whether a token of a causal model hears the token before it in its own block."""
    stack_parameters: Callable[[Options], int] = lambda options: 0
    """Closed form of what belongs to the stack as a whole, but for the learned memory."""
    stack_state_size: Callable[[Options, int], int] = lambda options, num_tokens: 0
    """Closed form of a causal stack's own: (options, tokens) -> numbers carried."""


def _norm(norm: str) -> int:
    return WIDTH if norm == "rms" else 2 * WIDTH


def _linear(rows: int, columns: int) -> int:
    return rows * columns + rows


def _attention(options: Options, causal: bool, norm: str) -> int:
    """One norm, Q, K, V and the output projection: 4 D² + 4 D."""
    return _norm(norm) + 4 * _linear(WIDTH, WIDTH)


FAM_UPDATES = ("residual", "static", "rescaled", "gated")


def _fam(options: Options, causal: bool, norm: str) -> int:
    """Nothing of its own but a prefix, where it has one, and the gate, which is not the paper's."""
    gate = 2 * WIDTH + 1 if options.get("update") == "gated" else 0
    prefix = options["fam_len"] * WIDTH if options.get("initial") == "prefix" else 0
    return _attention(options, causal, norm) + gate + prefix


def _infini(options: Options, causal: bool, norm: str) -> int:
    """One gate for each head (arXiv 2404.07143, eq. 10); the gate on writing, which is not the paper's."""
    write_gate = WIDTH + NUM_HEADS if options.get("update") == "gated" else 0
    return _attention(options, causal, norm) + NUM_HEADS + write_gate


def _infini_state(options: Options, num_tokens: int) -> int:
    """d_key (d_value + 1) H (table 1), and the open segment's keys and values."""
    head_width = WIDTH // NUM_HEADS
    return head_width * (head_width + 1) * NUM_HEADS + 2 * WIDTH * (num_tokens % SEGMENT)


def _feature_attention(options: Options, causal: bool, norm: str) -> int:
    """Nothing of its own with elu + 1; two matrices d x d for each head when the feature map is trained."""
    trained = 2 * WIDTH * WIDTH // NUM_HEADS if options["feature_map"] == "ffn" else 0
    return _attention(options, causal, norm) + trained


def _luna(options: Options, causal: bool, norm: str) -> int:
    """5 D² tied and 7 D² untied (arXiv 2106.01540); the causal form packs with one matrix."""
    copies = 1 if options["tied"] else 2
    pack = 1 if causal else copies
    matrices = 2 + copies if options.get("shared") else 3 + pack + copies
    own_memory = options["memory_len"] * WIDTH if options.get("fresh_memory") else 0
    return (_norm(norm) if causal else 2 * _norm(norm)) + matrices * _linear(WIDTH, WIDTH) + own_memory


def _filtered(options: Options, causal: bool, norm: str) -> int:
    """Queries, keys, perhaps values, outputs, once or twice; a kernel per head; a temperature."""
    settings: Options = {"filter": "conv", "kernel": 4, "pack_temperature": "learn", "sharing": "full"} | options
    values = 1 if settings.get("value_projection") else 0
    query_key = 4 if settings["sharing"] == "none" else 2
    value_out = 1 + values if causal or settings["sharing"] == "full" else 2 * (1 + values)
    kernel = NUM_HEADS * settings["kernel"] if settings["filter"] == "conv" else 0
    own = kernel + (settings["pack_temperature"] == "learn")
    return (_norm(norm) if causal else 2 * _norm(norm)) + (query_key + value_out) * _linear(WIDTH, WIDTH) + own


def _refuses_filtered(options: Options) -> bool:
    defaults: Options = {"stride": 1, "sharing": "full"}
    options = defaults | options
    is_off = options["filter"] == "none"
    if options["causal"]:
        return (options["kernel"] == 1) != is_off or options["stride"] > 1 or options["sharing"] == "qk"
    return (
        (options["kernel"] == 1) != is_off
        or options["stride"] > options["kernel"]
        or options["positions"] in ("rope", "both")
    )


def _cached(options: Options, num_tokens: int) -> int:
    """Keys and values of up to m whole blocks and of the open one."""
    whole, num_open = divmod(num_tokens, SEGMENT)
    return 2 * WIDTH * (min(whole, options["memory_blocks"]) * SEGMENT + num_open)


def _is_plain_fam(options: Options) -> bool:
    """Whether nothing is set that would have no effect without FAM."""
    plain: Options = {"initial": "prompt", "update": "residual", "past_fams": 1, "fam_positions": "last"}
    return all(options.get(key, value) == value for key, value in plain.items())


def _fam_state(options: Options, num_tokens: int) -> int:
    """FAM, keys and values of the older FAMs that are still read, and the window's."""
    num_older = min(num_tokens // SEGMENT, options.get("past_fams", 1) - 1)
    return options["fam_len"] * WIDTH * (1 + 2 * num_older) + _cached(options, num_tokens)


def _segment_cache(options: Options, num_tokens: int) -> int:
    """Keys and values of the open segment and the memory tokens in front of it, by each network that needs them.

    Causal memories that accumulate stay there behind their segment.
    """
    whole, num_open = divmod(num_tokens, SEGMENT)
    form = options.get("form", "tokens")
    num_blocks = (whole if options.get("accumulate") else 0) + (num_open > 0)
    num_read = options["memory_len"] * num_blocks
    for_tokens = num_read if form == "bottleneck" else num_read + num_open
    for_write_block = num_read + num_open if form != "tokens" and options["carry"] else 0
    return 2 * WIDTH * (for_tokens + for_write_block)


def _mat_layers(options: Options, depth: int) -> int:
    """A controller is a layer of its own."""
    more = {"tokens": 0, "controller": depth, "shared_controller": 1, "bottleneck": depth}
    return depth + more[options.get("form", "tokens")]


def _refuses_mat(options: Options) -> bool:
    defaults: Options = {"form": "tokens", "accumulate": False, "bptt_segments": None}
    options = defaults | options
    if options["reads"] == "cls":
        return True
    if not options["memory_len"] and (options["carry"] or options["form"] != "tokens" or options["reads"] == "memory"):
        return True
    needs_carry = options["accumulate"] or options["bptt_segments"] or options["reads"] == "memory"
    needs_carry = needs_carry or (options["form"] == "bottleneck" and options["causal"])
    return bool(needs_carry and not options["carry"])


def _carried_slots(options: Options, num_tokens: int) -> int:
    """One memory."""
    return options["memory_len"] * WIDTH if options["carry"] else 0


def _window_reach(memory_blocks: int) -> Callable[[int], float]:
    return lambda depth: receptive_field(SEGMENT, memory_blocks, depth)


_WINDOW_REGROUP: tuple[Options, ...] = ({"blocks_at_once": 1}, {"blocks_at_once": 2}, {"blocks_at_once": 100})

CASES: dict[str, Case] = {
    "transformer": Case(
        options={},
        others=(),
        axes={},
        regroup=(),
        refuses=lambda options: options["reads"] == "memory",
        num_parameters=_attention,
        state_size=lambda options, num_tokens: 2 * num_tokens * WIDTH,
        reach=(({}, lambda depth: math.inf),),
    ),
    "block_window": Case(
        options={"block_len": SEGMENT, "memory_blocks": 1},
        others=(
            {"block_len": SEGMENT, "memory_blocks": 0},
            {"block_len": SEGMENT, "memory_blocks": 2, "blocks_at_once": 2},
            {"block_len": SEGMENT, "memory_blocks": 1, "stop_gradient": True},
        ),
        axes={
            "block_len": (SEGMENT,),
            "memory_blocks": (0, 1, 2, 3),
            "lookahead_blocks": (0, 1, 2),
            "stop_gradient": (False, True),
        },
        regroup=_WINDOW_REGROUP,
        refuses=lambda options: (
            options["reads"] in ("cls", "memory")
            or (options.get("stop_gradient") and not options["memory_blocks"])
            or (options["causal"] and options.get("lookahead_blocks"))
        ),
        num_parameters=_attention,
        state_size=_cached,
        reach=(
            ({"block_len": SEGMENT, "memory_blocks": 0}, _window_reach(0)),
            ({"block_len": SEGMENT, "memory_blocks": 1}, _window_reach(1)),
            ({"block_len": SEGMENT, "memory_blocks": 2}, _window_reach(2)),
            ({"block_len": SEGMENT, "memory_blocks": 2, "stop_gradient": True}, lambda depth: 0),
        ),
    ),
    "feedback_memory": Case(
        options={"block_len": SEGMENT, "memory_blocks": 1},
        others=({"block_len": SEGMENT, "memory_blocks": 2},),
        axes={"block_len": (SEGMENT,), "memory_blocks": (1, 2, 3)},
        regroup=(),
        refuses=lambda options: options["reads"] in ("cls", "memory"),
        num_parameters=_attention,
        state_size=lambda options, num_tokens: _cached(options, num_tokens) + 2 * WIDTH * (num_tokens % SEGMENT),
        reach=(({"block_len": SEGMENT, "memory_blocks": 1}, lambda depth: math.inf),),
    ),
    "linear": Case(
        options={"feature_map": "elu", "chunk_len": 4},
        others=({"feature_map": "ffn", "chunk_len": 3},),
        axes={"feature_map": ("elu", "ffn"), "chunk_len": (1, 3, 64)},
        regroup=({"chunk_len": 1}, {"chunk_len": 5}, {"chunk_len": 1000}),
        refuses=lambda options: options["reads"] == "memory",
        num_parameters=_feature_attention,
        state_size=lambda options, num_tokens: WIDTH * (WIDTH // NUM_HEADS + 1),
        reach=(({"chunk_len": 4}, lambda depth: math.inf),),
        memory_rows=WIDTH // NUM_HEADS,
    ),
    "luna": Case(
        options={"memory_len": 3, "tied": False, "chunk_len": 4},
        others=(
            {"memory_len": 5, "tied": True, "chunk_len": 3},
            {"memory_len": 3, "tied": False, "shared": True, "fresh_memory": True, "chunk_len": 4},
        ),
        axes={
            "memory_len": (1, 3, 6),
            "tied": (False, True),
            "shared": (False, True),
            "fresh_memory": (False, True),
            "chunk_len": (1, 3, 64),
        },
        regroup=({"chunk_len": 1}, {"chunk_len": 5}, {"chunk_len": 1000}),
        refuses=lambda options: not options["causal"] and options["positions"] in ("rope", "both"),
        num_parameters=_luna,
        state_size=lambda options, num_tokens: 2 * options["memory_len"] * WIDTH,
        reach=(({"memory_len": 3, "chunk_len": 4}, lambda depth: math.inf),),
        both_ways={"positions": "learned"},
    ),
    "filtered_memory": Case(
        options={"memory_len": 3, "filter": "conv", "kernel": 4, "stride": 1, "chunk_len": 4},
        others=(
            {"memory_len": 5, "filter": "max_pool", "kernel": 3, "sharing": "none", "chunk_len": 3},
            {"memory_len": 2, "filter": "none", "kernel": 1, "value_projection": True, "pack_temperature": "sqrt"},
            {"memory_len": 1, "filter": "conv", "kernel": 9, "unpack_scale": "sqrt", "pack_temperature": "unit"},
        ),
        axes={
            "memory_len": (1, 3),
            "filter": ("conv", "max_pool", "none"),
            "kernel": (1, 3, 4),
            "stride": (1, 2, 3),
            "value_projection": (False, True),
            "pack_temperature": ("unit", "sqrt", "learn"),
            "unpack_scale": ("none", "sqrt"),
            "sharing": ("full", "qk", "none"),
            "chunk_len": (1, 3, 64),
        },
        regroup=({"chunk_len": 1}, {"chunk_len": 5}, {"chunk_len": 1000}),
        refuses=lambda options: _refuses_filtered(
            {"filter": "conv", "kernel": 4, "stride": 1, "sharing": ""} | options
        ),
        num_parameters=_filtered,
        state_size=lambda options, num_tokens: (
            (2 * options["memory_len"] + min(num_tokens, options["kernel"] - 1)) * WIDTH
        ),
        reach=(
            ({"memory_len": 3, "filter": "conv", "kernel": 4, "chunk_len": 4}, lambda depth: math.inf),
            ({"memory_len": 3, "filter": "max_pool", "kernel": 2, "chunk_len": 4}, lambda depth: math.inf),
        ),
        both_ways={"positions": "learned"},
        # A key's bias has no gradient on paper; what fused attention rounds there grows with raw values and raw logits.
        float32_tolerance=2e-5,
    ),
    "mat": Case(
        options={"block_len": SEGMENT, "memory_len": 2, "carry": True},
        others=(
            {"block_len": SEGMENT, "memory_len": 3, "carry": False},
            {"block_len": SEGMENT, "memory_len": 0, "carry": False},
            {"block_len": SEGMENT, "memory_len": SEGMENT + 1, "carry": True, "bptt_segments": 2, "replay": True},
            {"block_len": SEGMENT, "memory_len": 2, "carry": True, "accumulate": True},
            {"block_len": SEGMENT, "memory_len": 2, "carry": True, "form": "controller"},
            {"block_len": SEGMENT, "memory_len": 3, "carry": False, "form": "controller"},
            {"block_len": SEGMENT, "memory_len": 2, "carry": True, "form": "shared_controller", "accumulate": True},
            {"block_len": SEGMENT, "memory_len": 2, "carry": True, "form": "bottleneck"},
        ),
        axes={
            "block_len": (SEGMENT,),
            "form": ("tokens", "controller", "shared_controller", "bottleneck"),
            "memory_len": (0, 1, 2, SEGMENT + 1),
            "carry": (True, False),
            "accumulate": (False, True),
            "bptt_segments": (None, 1, 2),
        },
        regroup=({"replay": True}, {"replay": False}),
        refuses=_refuses_mat,
        num_parameters=_attention,
        num_layers=_mat_layers,
        mixes=lambda options: options.get("form") != "bottleneck",
        state_size=_segment_cache,
        stack_state_size=_carried_slots,
        reach=(
            ({"block_len": SEGMENT, "memory_len": 2, "carry": True}, lambda depth: math.inf),
            ({"block_len": SEGMENT, "memory_len": 1, "carry": True, "accumulate": True}, lambda depth: math.inf),
            *(
                ({"block_len": SEGMENT, "memory_len": 2, "carry": True, "form": form}, lambda depth: math.inf)
                for form in ("controller", "shared_controller", "bottleneck")
            ),
            ({"block_len": SEGMENT, "memory_len": 2, "carry": False}, lambda depth: 0),
            ({"block_len": SEGMENT, "memory_len": 2, "carry": False, "form": "controller"}, lambda depth: 0),
            ({"block_len": SEGMENT, "memory_len": 2, "carry": True, "bptt_segments": 1}, lambda depth: 0),
            # Of eight segments, the last two are connected; of windows of four, the last four.
            ({"block_len": SEGMENT, "memory_len": 2, "carry": True, "bptt_segments": 2}, lambda depth: SEGMENT),
            ({"block_len": SEGMENT, "memory_len": 2, "carry": True, "bptt_segments": 4}, lambda depth: 3 * SEGMENT),
        ),
    ),
    "memformer": Case(
        options={"block_len": SEGMENT, "memory_len": 2},
        others=(
            {"block_len": SEGMENT, "memory_len": SEGMENT + 1, "temperature": 1.0, "forgetting": False},
            {"block_len": SEGMENT, "memory_len": 3, "bptt_segments": 2, "replay": True},
        ),
        axes={
            "block_len": (SEGMENT,),
            "memory_len": (1, 2, SEGMENT + 1),
            "temperature": (0.25, 1.0),
            "forgetting": (True, False),
            "bptt_segments": (None, 1, 2),
        },
        regroup=({"replay": True}, {"replay": False}),
        refuses=lambda options: options["reads"] == "cls",
        # Beside self-attention, the memory reader: a norm, and Q, K, V and the output projection once more.
        num_parameters=lambda options, causal, norm: 2 * _attention(options, causal, norm),
        state_size=lambda options, num_tokens: 2 * WIDTH * (num_tokens % SEGMENT),
        stack_parameters=lambda options: 3 * WIDTH * WIDTH,
        stack_state_size=lambda options, num_tokens: (options["memory_len"] + num_tokens % SEGMENT) * WIDTH,
        reach=(
            ({"block_len": SEGMENT, "memory_len": 2}, lambda depth: math.inf),
            ({"block_len": SEGMENT, "memory_len": 1, "forgetting": False}, lambda depth: math.inf),
            ({"block_len": SEGMENT, "memory_len": 2, "bptt_segments": 1}, lambda depth: 0),
            ({"block_len": SEGMENT, "memory_len": 2, "bptt_segments": 2}, lambda depth: SEGMENT),
        ),
    ),
    "fam": Case(
        options={"block_len": SEGMENT, "fam_len": 2, "memory_blocks": 0},
        others=(
            {"block_len": SEGMENT, "fam_len": 3, "memory_blocks": 1, "blocks_at_once": 2},
            {"block_len": SEGMENT, "fam_len": SEGMENT, "memory_blocks": 2, "update": "rescaled"},
            {"block_len": SEGMENT, "fam_len": 2, "memory_blocks": 0, "update": "gated"},
            {"block_len": SEGMENT, "fam_len": 2, "memory_blocks": 1, "update": "static", "past_fams": 3},
            {"block_len": SEGMENT, "fam_len": 2, "memory_blocks": 0, "initial": "prefix"},
            {"block_len": SEGMENT, "fam_len": 0, "memory_blocks": 1},
        ),
        axes={
            "block_len": (SEGMENT,),
            "memory_blocks": (0, 1, 2, 3),
            "fam_len": (0, 1, 2, SEGMENT),
            "initial": ("prompt", "prefix"),
            "update": FAM_UPDATES,
            "past_fams": (1, 2, 3),
            "fam_positions": ("last", "fractional", "zero"),
        },
        regroup=_WINDOW_REGROUP,
        refuses=lambda options: (
            options["reads"] == "cls"
            or (options["fam_len"] == 0 and (options["reads"] == "memory" or not _is_plain_fam(options)))
            or (options.get("fam_positions", "last") != "last" and options["positions"] not in ("rope", "both"))
        ),
        num_parameters=_fam,
        state_size=_fam_state,
        reach=(
            ({"block_len": SEGMENT, "fam_len": 2, "memory_blocks": 0}, lambda depth: math.inf),
            ({"block_len": SEGMENT, "fam_len": 1, "memory_blocks": 1}, lambda depth: math.inf),
            ({"block_len": SEGMENT, "fam_len": 2, "memory_blocks": 0, "update": "static"}, lambda depth: math.inf),
            ({"block_len": SEGMENT, "fam_len": 2, "memory_blocks": 0, "initial": "prefix"}, lambda depth: math.inf),
            ({"block_len": SEGMENT, "fam_len": 0, "memory_blocks": 1}, _window_reach(1)),
        ),
    ),
    "infini": Case(
        options={"block_len": SEGMENT},
        others=(
            {"block_len": SEGMENT, "update": "delta", "blocks_at_once": 2},
            {"block_len": SEGMENT, "update": "delta_corrected", "gate": "hard_sigmoid", "gate_init": 0.5},
            {"block_len": SEGMENT, "first_segment": "skip", "gate_init": -1.0},
            {"block_len": SEGMENT, "update": "gated"},
        ),
        axes={
            "block_len": (SEGMENT,),
            "update": ("linear", "delta", "delta_corrected", "gated"),
            "first_segment": ("zero", "skip"),
            "gate": ("sigmoid", "hard_sigmoid"),
            "gate_init": (0.0, 1.0),
        },
        regroup=_WINDOW_REGROUP,
        refuses=lambda options: options["reads"] in ("cls", "memory"),
        num_parameters=_infini,
        state_size=_infini_state,
        reach=tuple(
            ({"block_len": SEGMENT, "update": update}, lambda depth: math.inf)
            for update in ("linear", "delta", "delta_corrected", "gated")
        ),
        memory_rows=WIDTH // NUM_HEADS,
    ),
}

VARIANTS = models.available()
#: What all variants share, as values that parity with the reference must cover.
BACKBONE_AXES: dict[str, tuple] = {
    "ffn": ("gelu", "gated"),
    "norm": ("layer", "rms"),
    "norm_position": ("pre", "post"),
    "positions": ("learned", "rope", "both", "none"),
    "reads": ("next_token", "mean", "cls", "memory", "concat", "interaction"),
    "causal": (True, False),
    "padded": (False, True),
    "num_tokens": (SEGMENT - 1, SEGMENT, 2 * SEGMENT, 3 * SEGMENT + 2),
}
#: (name, options) of every variant in every setting that the entry names.
SETTINGS = [(name, options) for name, case in CASES.items() for options in (case.options, *case.others)]


def build(name: str, *, seed: int = 0, **overrides: Any) -> models.Model:
    """A tiny float64 model whose parameters are all random, biases and norms included."""
    settings: Options = {
        "width": WIDTH,
        "ffn_width": FFN_WIDTH,
        "num_heads": NUM_HEADS,
        "depth": 2,
        "max_len": 64,
    }
    settings |= {"vocab_size": VOCAB_SIZE, "causal": True}
    if not overrides.get("causal", True):
        settings |= CASES[name].both_ways or {}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = models.build_model(name, **(settings | overrides)).double()
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def regrouped(model: models.Model, **options: Any) -> models.Model:
    """The same model with other settings of speed."""
    settings = {field: getattr(model.options, field) for field in model.options.__dataclass_fields__}
    shared = {field: getattr(model.config, field) for field in model.config.__dataclass_fields__}
    other = models.build_model(
        model.variant,
        vocab_size=model.vocab_size,
        max_len=model.max_len,
        num_classes=model.num_classes,
        causal=model.causal,
        **(shared | settings | options),
    )
    other.double().load_state_dict(model.state_dict())
    return other


def distinct_tokens(*shape: int, seed: int = 0) -> Tensor:
    """Every token is another symbol, so that a row of the embedding's gradient is one token's gradient."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(VOCAB_SIZE, generator=generator)[: math.prod(shape)].reshape(shape)


def random_tokens(*shape: int, seed: int = 0) -> Tensor:
    """Symbols drawn at random."""
    return torch.randint(VOCAB_SIZE, shape, generator=torch.Generator().manual_seed(seed))


def top_rows(model: models.Model, tokens: Tensor, state: models.ModelState | None = None) -> Tensor:
    """The normed rows below the head, ``[B, T, D]``: a classifier has them too."""
    return model._run(tokens, None, state)[0]


def token_gradients(model: models.Model, tokens: Tensor, value: Tensor) -> Tensor:
    """Derivative of ``value`` by each token's embedding, ``[*tokens.shape, D]``; tokens must be distinct."""
    assert tokens.unique().numel() == tokens.numel()
    (gradient,) = torch.autograd.grad(value, model.embedding.weight, retain_graph=True)
    return gradient[tokens]


def poolings(name: str, options: Options) -> list[str]:
    """What a classifier that reads both ways may pool."""
    setting = options | {"causal": False, "positions": "learned"}
    return [reads for reads in ("mean", "cls", "memory") if not CASES[name].refuses(setting | {"reads": reads})]


def covering(name: str) -> list[Options]:
    """Settings in which every possible pair of values of any two axes occurs: dozens instead of thousands."""
    axes, refuses = BACKBONE_AXES | CASES[name].axes, CASES[name].refuses
    choose, seen, chosen, misses = random.Random(0), set[Any](), [], 0

    def is_valid(setting: Options) -> bool:
        # A next token must not be seen; and in front of a causal sequence, CLS sees nothing.
        unfit = "cls" if setting["causal"] else "next_token"
        return setting["reads"] != unfit and not refuses(setting)

    def pairs(setting: Options) -> set:
        return set(itertools.combinations(sorted((axis, str(value)) for axis, value in setting.items()), 2))

    while misses < 5:
        drawn = [{axis: choose.choice(values) for axis, values in axes.items()} for _ in range(100)]
        best = max(filter(is_valid, drawn), key=lambda setting: len(pairs(setting) - seen))
        misses = 0 if pairs(best) - seen else misses + 1
        if not misses:
            seen |= pairs(best)
            chosen.append(best)
    return chosen
