"""A model that is not finite is told where: weight, layer, segment."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import models
from data.base import Batch
from experiments.errors import DivergedError
from experiments.finite import find_non_finite, reporting_non_finite
from experiments.hardware import Hardware
from experiments.lightning_modules import make_module
from tests.experiments.small_runs import settings

HUGE = 3e38


def tiny(name: str = "infini") -> models.Model:
    return models.build_model(
        name, vocab_size=11, max_len=64, causal=True, width=16, depth=3, num_heads=2, block_len=8
    ).eval()


def batch_of(tokens: torch.Tensor) -> Batch:
    return Batch(tokens, None, tokens)


def test_finite_is_not_reported() -> None:
    tokens = torch.randint(11, (2, 40))
    model, told = tiny(), list[str]()
    assert find_non_finite(model, batch_of(tokens)) is None
    with reporting_non_finite(model, told.append):
        model(tokens)
    assert not told


def test_a_weight_is_named() -> None:
    model = tiny()
    model.blocks[1].get_parameter("ffn.up.weight").data[0, 0] = torch.nan
    assert find_non_finite(model, batch_of(torch.randint(11, (2, 40)))) == "weight stack.1.ffn.up.weight"


def test_layer_and_segment_are_named() -> None:
    model = tiny()
    outputs = 0

    def overflow(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        nonlocal outputs
        outputs += 1
        return output * torch.inf if outputs == 4 else output

    model.blocks[1].get_submodule("ffn").register_forward_hook(overflow)
    assert find_non_finite(model, batch_of(torch.randint(11, (2, 40)))) == "infini, layer 1, segment 3"


def test_an_evaluation_goes_on_and_is_told_once() -> None:
    model, told = tiny("fam"), list[str]()
    tokens = torch.randint(10, (1, 40))
    model.embedding.weight.data[10] = HUGE
    with reporting_non_finite(model, told.append):
        _, state = model(tokens[:, :16])
        for _ in range(2):
            _, state = model(torch.full((1, 8), 10), state=state)
    assert told == ["fam, layer 0, segment 2: not finite from here on"]


def test_training_stops_before_the_weights_are_lost(tmp_path: Path) -> None:
    config = settings(tmp_path, "task=passkey", "model=fam")
    module = make_module("next_token", tiny(), config.trainer, hardware=Hardware("cpu", "32"), seed=0)
    module.losses, module.gradient_norms = [torch.tensor(torch.inf)], [torch.tensor(torch.nan)]
    with pytest.raises(DivergedError, match="loss is inf at step 5, first in the backward pass"):
        module._refuse(4, batch_of(torch.randint(11, (2, 40))))
