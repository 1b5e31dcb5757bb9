"""How much arithmetic a training took, counted on the model itself.

A forward pass is run on tensors that have shapes but neither memory nor arithmetic, and its matrix products are
counted, those of attention included (on real CPU tensors torch counts fused attention as zero). The backward pass
takes twice as many: one product for each of a product's two factors. Element-wise work is left out, as usual.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

Shape = tuple[int, ...]

#: So many different lengths are counted; between them the count is interpolated.
_MAX_COUNTED = 5


def step_flops(model: nn.Module, shape: Shape) -> int:
    """Floating-point operations of one forward and backward pass on tokens of this shape."""
    return _counter(model)(shape)


def train_flops(model: nn.Module, passes: Mapping[Shape, int]) -> int:
    """Operations of a whole training.

    Args:
        model: the model that was trained; it is not touched.
        passes: how many forward and backward passes there were for each shape of the tokens.
    """
    count = _counter(model)
    total = 0.0
    for rest in {shape[:-1] for shape in passes}:
        lengths = np.array(sorted(shape[-1] for shape in passes if shape[:-1] == rest))
        times = np.array([passes[(*rest, int(length))] for length in lengths])
        places = np.unique(np.linspace(0, len(lengths) - 1, _MAX_COUNTED).round().astype(int))
        counted = [count((*rest, int(lengths[place]))) for place in places]
        total += float(np.dot(np.interp(lengths, lengths[places], counted), times))
    return round(total)


class _Products(TorchDispatchMode):
    """Adds up the operations of the matrix products below it. FlopCounterMode does, too, several times slower."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        return out


def _counter(model: nn.Module) -> Callable[[Shape], int]:
    """How to count one shape."""
    copied = copy.deepcopy(model).cpu()  # a model may keep tables; those of the real one stay real
    ghost = copy.deepcopy(copied).to("meta")

    def count(shape: Shape) -> int:
        try:
            return 3 * _count_on_meta(ghost, shape)
        except RuntimeError:  # a kernel that asks what the device can do gets no answer from this one
            return 3 * _count_on_fake_cpu(copied, shape)

    return count


def _count_on_meta(ghost: nn.Module, shape: Shape) -> int:
    # The plain backend of attention is made of products; the fused ones are one opaque operation each.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _Products() as products:
        ghost(torch.zeros(shape, dtype=_input_dtype(ghost), device="meta"), None, None)
    return products.flops


def _count_on_fake_cpu(copied: nn.Module, shape: Shape) -> int:
    """The same at ten times the cost."""
    tensors = [*copied.named_parameters(), *copied.named_buffers()]
    fake, products = FakeTensorMode(allow_non_fake_inputs=True), _Products()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), fake, products:
        weights: dict[str, Tensor] = {name: fake.from_tensor(tensor) for name, tensor in tensors}
        functional_call(copied, weights, (torch.zeros(shape, dtype=_input_dtype(copied)), None, None))
    return products.flops


def _input_dtype(model: nn.Module) -> torch.dtype:
    """What the model reads; a peer reads ids."""
    return getattr(model, "input_dtype", torch.int64)
