"""Filters along the sequence: depthwise convolution and max pooling over windows of tokens.

Window n holds the ``size`` tokens from ``n·stride - before`` on. Tokens before the first and after the last do not
exist: they add nothing to a sum and never win a maximum, and neither does padding. A window is *real* when token
``n·stride`` is; with ``before=0`` and padding on the right that means: when it holds at least one real token.

Both filters walk over the ``size`` places of a window and treat all windows at once. No window is ever copied out, and
each output is one sum in a fixed order: what stands outside a window cannot change even its last bit, which a library's
convolution (FFT, Winograd) does not promise.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


def convolve(
    x: Float[Tensor, "B H T d"],
    kernel: Float[Tensor, "H k"],
    *,
    num_windows: int,
    stride: int = 1,
    before: int = 0,
    real: Bool[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B H N d"]:
    """y_n = sum_i w_i x_{n·stride - before + i}, one kernel per head for all its channels.

    Args:
        x: Keys or values.
        kernel: w.
        num_windows: N.
        stride: Tokens between the starts of two windows.
        before: Tokens of the first window that lie before the first token.
        real: True where a token is no padding; None when none is.
    """
    if real is not None:
        x = x * real[:, None, :, None]
    x = _pad(x, kernel.shape[1], num_windows, stride, before, fill=0.0)
    return _Convolve.apply(x, kernel.to(x.dtype), num_windows, stride)


class _Convolve(torch.autograd.Function):
    """Written out because of the way back: autograd would fill and add a gradient of full length for every place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, num_windows: int, stride: int) -> Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.windows = num_windows, stride
        first, *others = zip(_places(x, kernel.shape[1], num_windows, stride), _by_place(kernel), strict=True)
        y = first[0] * first[1]
        for place, weight in others:
            y.addcmul_(place, weight)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, kernel = ctx.saved_tensors
        size = kernel.shape[1]
        x_gradient = kernel_gradient = None
        if ctx.needs_input_grad[0]:
            x_gradient = torch.zeros_like(x)
            places = _places(x_gradient, size, *ctx.windows)
            for place, weight in zip(places, _by_place(kernel), strict=True):
                place.addcmul_(gradient, weight)
        if ctx.needs_input_grad[1]:
            products = [(gradient * place).sum(dim=(0, 2, 3)) for place in _places(x, size, *ctx.windows)]
            kernel_gradient = torch.stack(products, dim=1)
        return x_gradient, kernel_gradient, None, None


def _by_place(kernel: Tensor) -> tuple[Float[Tensor, "H 1 1"], ...]:
    return kernel[:, :, None, None].unbind(dim=1)


def max_pool(
    x: Float[Tensor, "B H T d"],
    size: int,
    *,
    num_windows: int,
    stride: int = 1,
    before: int = 0,
    real: Bool[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B H N d"]:
    """y_n = max_i x_{n·stride - before + i}, channel by channel; zero where a window is not real.

    Args:
        x: Keys or values.
        size: k, tokens in a window.
        num_windows: N.
        stride: Tokens between the starts of two windows.
        before: Tokens of the first window that lie before the first token.
        real: True where a token is no padding; None when none is.
    """
    if real is not None:
        x = x.masked_fill(~real[:, None, :, None], -torch.inf)
    places = _places(_pad(x, size, num_windows, stride, before, fill=-torch.inf), size, num_windows, stride)
    y = places[0]
    for place in places[1:]:
        y = torch.maximum(y, place)
    # An infinity would turn into NaN under a weight of zero.
    return y if real is None else y.masked_fill(~real[:, None, ::stride, None], 0.0)


def _pad(x: Tensor, size: int, num_windows: int, stride: int, before: int, *, fill: float) -> Float[Tensor, "B H P d"]:
    """From the first token of the first window to the last token of the last."""
    length = (num_windows - 1) * stride + size
    after = length - before - x.shape[2]  # negative where the stride leaves the last tokens out
    return functional.pad(x, (0, 0, before, after), value=fill)


def _places(x: Float[Tensor, "B H P d"], size: int, num_windows: int, stride: int) -> list[Float[Tensor, "B H N d"]]:
    """The first token of every window, the second of every window, and so on."""
    span = (num_windows - 1) * stride + 1
    return [x[:, :, place : place + span : stride] for place in range(size)]
