"""The textbook forms that our speed is compared with compute what our forms compute."""

import pytest
import torch

from benchmarks.cases import LunaAttention, Shape, as_tuple

SHAPE = Shape(batch=2, length=37, width=16, num_heads=2, segment=8, slots=5)


@pytest.mark.parametrize("causal", [False, True])
def test_luna_equals_the_textbook_in_outputs_and_gradients(causal: bool) -> None:
    tokens = torch.randn(SHAPE.batch, SHAPE.length, SHAPE.width, dtype=torch.float64)
    results = []
    for textbook in (False, True):
        torch.manual_seed(0)
        layer = LunaAttention(SHAPE, causal=causal, textbook=textbook).double()
        x = tokens.clone().requires_grad_()
        outputs = as_tuple(layer(x))
        gradients = torch.autograd.grad([output.square().sum() for output in outputs], [x, layer.memory])
        results.append((*outputs, *gradients))
    ours, theirs = results
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)
