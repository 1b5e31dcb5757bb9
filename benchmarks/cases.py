"""What is compared with what, at which size, and the goals.

One step is forward and backward in float32. "Attention" means projections and attention, without norms and
feed-forward; "layer" is a variant's whole block; "model" is one layer between embedding and logits. Candidates that
compute the same function share their weights, and the comparison first checks that they do.
"""

from functools import partial

import models
from benchmarks.comparison import Candidate, Comparison, Goal, Shape
from benchmarks.layers import (
    VOCAB_SIZE,
    AttentionOnly,
    FilteredMemoryLayer,
    Layer,
    LunaAttention,
    PeerClassifier,
    Reference,
    classifier,
    copy_infini,
    copy_local_attention,
    copy_x_transformers,
    language_model,
    our_options,
    peer_attention,
    peer_language_model,
    twin,
)

FULL = Shape()
TINY = Shape(batch=1, length=64, width=16, num_heads=2, segment=16, slots=4)

FLOOR = "block SDPA"
INFINI, INFINI_DELTA = "infini-transformer-pytorch", "infini-transformer-pytorch-delta"

RECURRENT = (
    "block_window",
    "fam",
    "feedback_memory",
    "infini",
    "infini_delta",
    "linear",
    "luna",
    "filtered_memory",
    "mat",
    "rmt",
    "memformer",
)
"""What claims a cost per token and a memory that do not grow, without presets that change neither."""


def comparisons(*, tiny: bool = False) -> dict[str, Comparison]:
    """All comparisons by name.

    Args:
        tiny: Sizes that prove only that everything runs.
    """
    shape = TINY if tiny else FULL
    return {
        "fam": _fam(shape),
        "fam_peer": _fam_peer(shape),
        "block_window": _block_window(shape),
        "infini": _infini(shape),
        "infini_floor": _infini_floor(shape),
        "linear": _linear(shape),
        "luna": _luna(shape),
        "luna_causal": _luna_causal(shape),
        "filtered_memory": _filtered_memory(shape),
        "mat": _mat(shape),
        "rmt": _rmt(shape),
        "memformer": _memformer(shape),
        "cost_per_token": _cost_per_token(shape, lengths=(64, 128) if tiny else (4096, 65536)),
    }


def _fam(shape: Shape) -> Comparison:
    return Comparison(
        about="what feedback memory adds to block sliding window attention, feed-forward included",
        candidates={name: Candidate(partial(Layer, name), shape) for name in ("block_window", "fam")},
        goals=(Goal("fam", "block_window", time=1.3, memory=1.3),),
    )


def _fam_peer(shape: Shape) -> Comparison:
    theirs = "block-recurrent-transformer-pytorch"
    return Comparison(
        about="models: feedback memory against its nearest kin in a package, the block-recurrent transformer",
        candidates=_language_models(shape, "fam", theirs),
        goals=(Goal("fam", theirs, time=0.8, memory=0.7),),
        packages=(theirs,),
    )


def _block_window(shape: Shape) -> Comparison:
    ours, theirs = "block_window", "local-attention"
    own = partial(AttentionOnly, ours, positions="none")
    return Comparison(
        about="block sliding window attention against the package local-attention",
        candidates={
            ours: Candidate(own, shape),
            theirs: Candidate(twin(own, partial(peer_attention, theirs), copy_local_attention), shape),
        },
        goals=(Goal(ours, theirs, time=0.25, memory=0.2),),
        same=((ours, theirs),),
        packages=(theirs,),
    )


def _infini(shape: Shape) -> Comparison:
    # The peer's first segment has no gate.
    linear = partial(AttentionOnly, "infini", first_segment="skip")
    delta = partial(AttentionOnly, "infini_delta", first_segment="skip")
    return Comparison(
        about="Infini-attention against the package infini-transformer-pytorch, sums and delta rule",
        candidates={
            "infini": Candidate(linear, shape),
            "infini compiled": Candidate(linear, shape, compiled=True),
            "infini_delta": Candidate(delta, shape),
            INFINI: Candidate(twin(linear, partial(peer_attention, INFINI), copy_infini), shape),
            INFINI_DELTA: Candidate(twin(delta, partial(peer_attention, INFINI_DELTA), copy_infini), shape),
        },
        goals=(
            Goal("infini", INFINI, time=0.55, memory=0.5),
            Goal("infini compiled", INFINI, time=0.45),
            Goal("infini_delta", INFINI_DELTA, time=0.55, memory=0.5),
            Goal("infini_delta", "infini", time=1.1, memory=1.2),
        ),
        same=(("infini", INFINI), ("infini_delta", INFINI_DELTA)),
        packages=(INFINI,),
    )


def _infini_floor(shape: Shape) -> Comparison:
    ours = partial(AttentionOnly, "infini", positions="none")
    return Comparison(
        about="what the compressive memory adds to local attention inside segments, without positions",
        candidates={
            FLOOR: Candidate(Reference, shape),
            "infini": Candidate(ours, shape),
            "infini compiled": Candidate(ours, shape, compiled=True),
        },
        goals=(Goal("infini", FLOOR, time=1.45, memory=1.6), Goal("infini compiled", FLOOR, time=1.25)),
    )


def _linear(shape: Shape) -> Comparison:
    theirs = "linear-attention-transformer"  # approximate, so there is nothing to be equal to
    return Comparison(
        about="causal linear attention against softmax inside blocks, and against an approximate package",
        candidates={
            FLOOR: Candidate(Reference, shape),
            "linear": Candidate(partial(AttentionOnly, "linear", positions="none"), shape),
            theirs: Candidate(partial(peer_attention, theirs), shape),
        },
        goals=(Goal("linear", FLOOR, time=1.22), Goal("linear", theirs, time=None)),
        packages=(theirs,),
    )


def _luna(shape: Shape) -> Comparison:
    few, many = shape.slots, 4 * shape.slots
    return Comparison(
        about="bidirectional Luna attention against the textbook's",
        candidates=_luna_pairs(shape, (few, many), causal=False),
        goals=(
            Goal(f"luna M={few}", f"textbook M={few}", time=0.85, memory=0.55),
            Goal(f"luna M={many}", f"textbook M={many}", time=0.45, memory=0.3),
        ),
        same=tuple((f"luna M={slots}", f"textbook M={slots}") for slots in (few, many)),
    )


def _luna_causal(shape: Shape) -> Comparison:
    few, many = shape.slots // 4, shape.slots
    return Comparison(
        about="causal Luna attention against outer products for every position",
        candidates=_luna_pairs(shape, (few, many), causal=True),
        goals=(
            Goal(f"luna M={many}", f"textbook M={many}", time=0.05, memory=0.2),
            Goal(f"luna M={few}", f"textbook M={few}", time=0.15, memory=0.4),
        ),
        rounds=5,
        same=tuple((f"luna M={slots}", f"textbook M={slots}") for slots in (few, many)),
    )


def _luna_pairs(shape: Shape, slots: tuple[int, ...], *, causal: bool) -> dict[str, Candidate]:
    return {
        f"{name} M={num}": Candidate(
            partial(LunaAttention, causal=causal, textbook=name == "textbook"), shape._replace(slots=num)
        )
        for num in slots
        for name in ("luna", "textbook")
    }


def _filtered_memory(shape: Shape) -> Comparison:
    goals = {1: 0.7, 4: 0.8}
    return Comparison(
        about="ConvLuna's layer, kernel 4, against the textbook's",
        candidates={
            f"{name} stride {stride}": Candidate(
                partial(FilteredMemoryLayer, stride=stride, textbook=name == "textbook"), shape
            )
            for stride in goals
            for name in ("filtered_memory", "textbook")
        },
        goals=tuple(
            Goal(f"filtered_memory stride {stride}", f"textbook stride {stride}", time=time, memory=0.85)
            for stride, time in goals.items()
        ),
        same=tuple((f"filtered_memory stride {stride}", f"textbook stride {stride}") for stride in goals),
    )


def _mat(shape: Shape) -> Comparison:
    theirs = "x-transformers"
    own = partial(classifier, "mat", whole=True)
    return Comparison(
        about="models: memory tokens in front of one long segment against the package x-transformers",
        candidates={
            "mat": Candidate(own, shape, VOCAB_SIZE),
            theirs: Candidate(twin(own, partial(PeerClassifier, theirs), copy_x_transformers), shape, VOCAB_SIZE),
        },
        goals=(Goal("mat", theirs, time=1.0, memory=1.0),),
        same=(("mat", theirs),),
        packages=(theirs,),
    )


def _rmt(shape: Shape) -> Comparison:
    # Nothing to be equal to: the peer also attends to a learned key, and never reads what it wrote as it wrote it.
    theirs = "recurrent-memory-transformer-pytorch"
    return Comparison(
        about="models: the recurrent memory transformer against the package of that name",
        candidates=_language_models(shape, "rmt", theirs, positions="learned"),
        goals=(Goal("rmt", theirs, time=0.8, memory=0.7),),
        packages=(theirs,),
    )


def _memformer(shape: Shape) -> Comparison:
    theirs = "memformer-encoder"  # its slots are updated by a GRU: another model
    return Comparison(
        about="models: Memformer, reading both ways in segments, against the encoder of the package memformer",
        candidates={
            "memformer": Candidate(partial(classifier, "memformer"), shape, VOCAB_SIZE),
            theirs: Candidate(partial(PeerClassifier, theirs), shape, VOCAB_SIZE),
        },
        goals=(Goal("memformer", theirs, time=0.7),),
        packages=("memformer",),
    )


def _language_models(shape: Shape, ours: str, theirs: str, *, positions: str = "rope") -> dict[str, Candidate]:
    return {
        ours: Candidate(partial(language_model, ours, positions=positions), shape, VOCAB_SIZE),
        theirs: Candidate(partial(peer_language_model, theirs), shape, VOCAB_SIZE),
    }


def _cost_per_token(shape: Shape, lengths: tuple[int, int]) -> Comparison:
    short, long = lengths
    small = shape._replace(batch=1, segment=shape.segment // 4, slots=shape.slots // 4)
    return Comparison(
        about="cost per token in a long sequence over that in a short one (batch 1, small blocks): of a layer, or of a "
        "model where memory returns from its top",
        candidates={
            f"{name} T={length}": _alone(name, small._replace(length=length))
            for name in RECURRENT
            for length in lengths
        },
        goals=tuple(Goal(f"{name} T={long}", f"{name} T={short}", time=1.5) for name in RECURRENT),
        rounds=5,
    )


def _alone(name: str, shape: Shape) -> Candidate:
    """A variant's layer; a whole model where the layer is not whole without its stack."""
    if models.variant(our_options(name, shape)[0]).recurrence is None:
        return Candidate(partial(Layer, name), shape)
    return Candidate(partial(language_model, name), shape, VOCAB_SIZE)
