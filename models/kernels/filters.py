"""Filters along the sequence: depthwise convolution and max pooling over windows of tokens.

Window n holds the ``size`` tokens from ``n·stride - before`` on. Tokens before the first and after the last do not
exist: they add nothing to a sum and never win a maximum, and neither does padding. A window is *real* when token
``n·stride`` is; with ``before=0`` and padding on the right that means: when it holds at least one real token.

Both filters walk over the ``size`` places of a window and treat all windows at once. No window is ever copied out, and
each output is one sum in a fixed order: what stands outside a window cannot change even its last bit, which a library's
convolution (FFT, Winograd) does not promise.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
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
    weights = kernel.to(x.dtype)[:, :, None, None].unbind(dim=1)  # k times [H, 1, 1]
    places = _places(x, len(weights), num_windows, stride, before, fill=0.0)
    y = places[0] * weights[0]
    for place, weight in zip(places[1:], weights[1:], strict=True):
        y = torch.addcmul(y, place, weight)
    return y


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
    places = _places(x, size, num_windows, stride, before, fill=-torch.inf)
    y = places[0]
    for place in places[1:]:
        y = torch.maximum(y, place)
    # An infinity would turn into NaN under a weight of zero.
    return y if real is None else y.masked_fill(~real[:, None, ::stride, None], 0.0)


def _places(
    x: Tensor, size: int, num_windows: int, stride: int, before: int, *, fill: float
) -> list[Float[Tensor, "B H N d"]]:
    """The first token of every window, the second of every window, and so on."""
    span = (num_windows - 1) * stride + 1
    after = span + size - 1 - before - x.shape[2]  # negative where the stride leaves the last tokens out
    x = functional.pad(x, (0, 0, before, after), value=fill)
    return [x[:, :, place : place + span : stride] for place in range(size)]
