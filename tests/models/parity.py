"""How tests compare: states with states, and the fast forms with the references."""

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

import models
from tests import reference
from tests.models.cases import Options, build, distinct_tokens

Quantities = dict[str, Tensor]
#: What padding never enters; a cache also holds padding, which the reference never sees.
MEMORY_FIELDS = ("fam", "key_pack", "pack_value", "matrix", "normaliser", "slots")


def label(value: Any) -> str | None:
    """Short test names for dictionaries of options."""
    return "-".join(f"{v}" for v in value.values()) or "plain" if isinstance(value, dict) else None


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-10) -> None:
    """Equal states: whole numbers exactly, tensors within ``tolerance`` of their largest entry (or of 1)."""
    if isinstance(expected, Tensor):
        assert actual.shape == expected.shape
        if expected.numel():
            error = (actual - expected).abs().max().item() / max(1.0, expected.abs().max().item())
            assert error <= tolerance
    elif isinstance(expected, tuple):
        for one, other in zip(actual, expected, strict=True):
            assert_close(one, other, tolerance)
    else:
        assert actual == expected


def build_setting(name: str, setting: Options) -> tuple[models.Model, str | None]:
    """The model of a parity setting, and how it reads pairs."""
    own = (*fields(models.BackboneConfig), *fields(models.options_class(name)))
    overrides = {field.name: setting[field.name] for field in own if field.name in setting}
    reads = setting["reads"]
    pair = reads if reads in ("concat", "interaction") else None
    return build(
        name,
        **overrides,
        causal=setting["causal"],
        num_classes=None if reads == "next_token" else 3,
        pair=pair,
        pooling=None if reads == "next_token" or pair else reads,
    ), pair


def tokens_and_mask(setting: Options) -> tuple[Tensor, Tensor | None]:
    """Two sequences (or pairs) of distinct symbols; padded, their lengths differ."""
    shape = (2, 2) if setting["reads"] in ("concat", "interaction") else (2,)
    num_tokens = setting["num_tokens"]
    tokens = distinct_tokens(*shape, num_tokens)
    if not setting["padded"]:
        return tokens, None
    lengths = torch.tensor([num_tokens, (num_tokens + 1) // 2, 1, max(1, num_tokens - 2)])
    lengths = lengths[: 2 ** len(shape)].reshape(shape)
    return tokens, torch.arange(num_tokens) < lengths[..., None]


def of_fast_form(model: models.Model, tokens: Tensor, mask: Tensor | None, names: list[str]) -> Quantities:
    """What the reference names, as the fast form gives it."""
    return named(names, *model(tokens, mask), mask=mask)


def named(names: list[str], logits: Tensor, state: models.ModelState, *, mask: Tensor | None = None) -> Quantities:
    """What the reference names, picked from logits and state."""
    found = {}
    for name in names:
        kind, sequence, *place = name.split(".")
        if kind == "logits":
            value = logits[int(sequence)]
            if mask is not None and value.ndim == 2:  # a row for each token
                value = value[mask[int(sequence)]]
            found[name] = value
        else:
            # What stands above the layers is the stack's own.
            value = getattr((*state.layers, state.memory)[int(place[0])], place[1])
            value = torch.as_tensor(value, dtype=logits.dtype)
            # What all sequences share (FAM's prompt) has a batch of one.
            found[name] = value[min(int(sequence), len(value) - 1)] if value.ndim else value
    return found


def of_reference(model: models.Model, tokens: Tensor, mask: Tensor | None, pair: str | None) -> Quantities:
    """Logits and states; of padded sequences, their memories only."""
    fixed = set(MEMORY_FIELDS)
    if getattr(model.options, "accumulate", False) and not model.causal:
        fixed.remove("slots")  # a list as long as the longest sequence of the batch
    found = {}
    for sequence, outcome in enumerate(reference.forward(model, tokens, mask, pair=pair)):
        found[f"logits.{sequence}"] = outcome.logits
        for layer, state in enumerate(outcome.states):
            for field, value in state.items():
                if mask is None or field in fixed:
                    found[f"state.{sequence}.{layer}.{field}"] = torch.as_tensor(value).double()
    return found


def gradients(model: models.Model, quantities: Quantities) -> Quantities:
    """Of a random weighting of all quantities, by every parameter; the embedding's rows are the tokens'."""
    generator = torch.Generator().manual_seed(1)
    loss = torch.zeros((), dtype=torch.float64)
    for _, value in sorted(quantities.items()):
        weights = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        loss = loss + (weights * value).sum()
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
    return {f"gradient.{name}": gradient for name, gradient in zip(parameters, found, strict=True)}


def assert_parity(actual: Quantities, expected: Quantities, tolerance: float) -> None:
    """Each tensor agrees within ``tolerance`` of its own largest entry.

    Some gradients are zero on paper (a key's bias under softmax) and rounding in practice: nothing smaller
    than a hundredth of the largest entry of all tensors counts as the measure.
    """
    floor = 0.01 * max(value.abs().max().item() for value in expected.values() if value.numel())
    for name, value in expected.items():
        assert actual[name].shape == value.shape, name
        if value.numel():
            error = (actual[name].double() - value).abs().max().item() / max(floor, value.abs().max().item())
            assert error <= tolerance, f"{name}: relative error {error:.1e}"
