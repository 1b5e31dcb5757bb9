"""Under bfloat16 autocast every variant stays finite and near float32, streams alike, and keeps its memory in float32.

Errors are relative: |half - full| / |full|, both as one vector. One rounding to bfloat16's 8 bits errs by up to 2^-9 =
.002, and from embedding to logits two layers round a dozen times: .01 is what arithmetic allows, not what a bug leaves.
"""

from contextlib import AbstractContextManager
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import models
from tests.models.cases import SEGMENT, SETTINGS, Options, build, random_tokens
from tests.models.parity import MEMORY_FIELDS, label


class Tolerance(NamedTuple):
    """Relative errors that autocast may make. Beside each, the largest of 6 seeds x 4 forms x all settings."""

    logits: float = 0.03
    """.010 to .022."""
    states: float = 0.03
    """.006 to .019."""
    gradients: float = 0.10
    """Of a loss by all parameters at once: .020 to .055."""
    pieces: float = 0.01
    """A sequence in pieces against the whole, both under autocast: 0 to .007."""


#: Measured as well, where more is needed.
TOLERANCES = {
    # What returns from the top has been through the whole stack once for each segment: states .040, gradients .111.
    "mat": Tolerance(states=0.06, gradients=0.17),
    # Likewise FAM, block by block: states .037, gradients .097, both in ``update=static``.
    "fam": Tolerance(states=0.06, gradients=0.15),
    # Pieces sum in another order; what then falls on the other side of a rounding is seen by all later tokens: .014.
    "luna": Tolerance(pieces=0.02),
}
FORMS: dict[str, Options] = {
    "causal": {},
    "causal, post": {"positions": "learned", "norm_position": "post", "norm": "rms", "ffn": "gated"},
    "both ways": {"causal": False, "num_classes": 3},
}


def half() -> AbstractContextManager[object]:
    return torch.autocast("cpu", dtype=torch.bfloat16)


def error(actual: Tensor, expected: Tensor) -> float:
    """Relative to the whole of ``expected``; nothing at all is exact."""
    assert actual.isfinite().all()
    assert actual.shape == expected.shape
    difference = torch.linalg.vector_norm(actual.double() - expected.double())
    return (difference / torch.linalg.vector_norm(expected.double()).clamp(min=1e-30)).item()


def worst(actual: models.ModelState, expected: models.ModelState) -> float:
    """The largest error of a tensor of a state."""
    pairs = zip(models.tensors(actual), models.tensors(expected), strict=True)
    return max((error(one, other) for one, other in pairs), default=0.0)


def memories(state: models.ModelState) -> list[Tensor]:
    """What is written again and again; a cache of keys and values may be halved, as it is written once."""
    found = [getattr(part, field, None) for part in (*state.layers, state.memory) for field in MEMORY_FIELDS]
    return [memory for memory in found if memory is not None]


def gradient(model: models.Model, logits: Tensor) -> Tensor:
    """Of a loss, by all parameters that it reaches, as one vector."""
    model.zero_grad()
    logits.float().square().mean().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


every_setting = pytest.mark.parametrize(("name", "options"), SETTINGS, ids=label)
SUMS = ("filtered_memory", "infini", "linear", "luna")


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@every_setting
def test_autocast_stays_near_full_precision(name: str, options: Options, form: Options) -> None:
    model, tokens = build(name, **form, **options).float(), random_tokens(2, 4 * SEGMENT + 3)
    allowed = TOLERANCES.get(name, Tolerance())
    logits, state = model(tokens)
    expected_gradient = gradient(model, logits)
    with half():
        half_logits, half_state = model(tokens)
    assert error(half_logits, logits) <= allowed.logits
    assert worst(half_state, state) <= allowed.states
    assert {memory.dtype for memory in memories(half_state)} <= {torch.float32}
    # As many entries as in full precision: no parameter has lost its gradient.
    assert error(gradient(model, half_logits), expected_gradient) <= allowed.gradients


@every_setting
def test_pieces_give_nearly_the_same_as_the_whole(name: str, options: Options) -> None:
    model, tokens = build(name, **options).float(), random_tokens(2, 3 * SEGMENT + 2)
    with half():
        whole, state_of_whole = model(tokens)
        for size in (1, SEGMENT + 1):
            state, logits = model.init_state(2), []
            for piece in tokens.split(size, dim=1):
                out, state = model(piece, None, state)
                logits.append(out)
            allowed = TOLERANCES.get(name, Tolerance()).pieces
            assert error(torch.cat(logits, dim=1), whole) <= allowed
            assert worst(state, state_of_whole) <= allowed


@pytest.mark.parametrize(("name", "options"), [case for case in SETTINGS if case[0] in SUMS], ids=label)
@torch.no_grad()
def test_errors_do_not_grow_with_the_length(name: str, options: Options) -> None:
    """After forty segments a memory that is a sum is as near to full precision as after four.

    Where a memory goes through the network again and again, a random one may magnify any rounding.
    """
    model, tokens = build(name, **options).float(), random_tokens(2, 40 * SEGMENT)
    _, state = model(tokens)
    with half():
        logits, half_state = model(tokens)
    assert logits.isfinite().all()
    assert worst(half_state, state) <= TOLERANCES.get(name, Tolerance()).states
