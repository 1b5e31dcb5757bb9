"""The textbook forms that our speed is compared with compute what our forms compute."""

from collections.abc import Callable

import pytest
import torch

from benchmarks.comparison import Shape, as_tuple
from benchmarks.layers import FilteredMemoryLayer, LunaAttention

SHAPE = Shape(batch=2, length=37, width=16, num_heads=2, segment=8, slots=5)


@pytest.mark.parametrize("causal", [False, True])
def test_luna_equals_the_textbook_in_outputs_and_gradients(causal: bool) -> None:
    check_equal(lambda textbook: LunaAttention(SHAPE, causal=causal, textbook=textbook))


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_filtered_memory_equals_the_textbook_in_outputs_and_gradients(stride: int) -> None:
    check_equal(lambda textbook: FilteredMemoryLayer(SHAPE, stride=stride, textbook=textbook))


def check_equal(build: Callable[[bool], LunaAttention | FilteredMemoryLayer]) -> None:
    tokens = torch.randn(SHAPE.batch, SHAPE.length, SHAPE.width, dtype=torch.float64)
    results = []
    for textbook in (False, True):
        torch.manual_seed(0)
        layer = build(textbook).double()
        x = tokens.clone().requires_grad_()
        outputs = as_tuple(layer(x))
        gradients = torch.autograd.grad([output.square().sum() for output in outputs], [x, layer.memory])
        results.append((*outputs, *gradients))
    ours, theirs = results
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)
