"""Layers that the variants share: norms, residual steps, feed-forward, projections into heads, rotary positions."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from models.block import BackboneConfig


def make_norm(config: BackboneConfig) -> nn.Module:
    """LayerNorm or RMSNorm over the width."""
    return nn.LayerNorm(config.width) if config.norm == "layer" else nn.RMSNorm(config.width, eps=1e-5)


class RealEmbedding(nn.Module):
    """x w + b for each real number x: what stands in the place of a table of embeddings."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Float[Tensor, "*B T"] | Int[Tensor, "*B T"]) -> Float[Tensor, "*B T D"]:
        """One row for each number.

        Raises:
            ValueError: The inputs are ids.
        """
        if not x.is_floating_point():
            raise ValueError(f"inputs are {x.dtype}, but vocab_size=null reads real numbers: pass floats")
        return x.to(self.weight.dtype).unsqueeze(-1) * self.weight + self.bias


class Residual(nn.Module):
    """One residual step around a function f, with the norm before it or after the sum.

    pre:  y = x + dropout(f(norm(x)))        post:  y = norm(x + dropout(f(x)))

    The step is split in two calls, since memory variants stand between them (FAM drops the residual of its first
    update, Luna sends two streams through).
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.norm = make_norm(config)
        self.dropout = nn.Dropout(config.dropout)
        self.pre = config.norm_position == "pre"

    def before(self, x: Float[Tensor, "*B T D"]) -> Float[Tensor, "*B T D"]:
        """What f is given."""
        return self.norm(x) if self.pre else x

    def after(self, x: Float[Tensor, "*B T D"], y: Float[Tensor, "*B2 T D"]) -> Float[Tensor, "*B2 T D"]:
        """Put f's output ``y`` on the residual ``x``."""
        y = x + self.dropout(y)
        return y if self.pre else self.norm(y)


class FeedForward(nn.Module):
    """down(gelu(up x)), or gated: down(silu(gate x) * up x)."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.gated = config.ffn == "gated"
        self.up = nn.Linear(config.width, config.ffn_width * (2 if self.gated else 1))
        self.down = nn.Linear(config.ffn_width, config.width)

    def forward(self, x: Float[Tensor, "*B T D"]) -> Float[Tensor, "*B T D"]:
        """Applied to each row alone."""
        hidden = self.up(x)
        if self.gated:
            gate, hidden = hidden.chunk(2, dim=-1)
            return self.down(functional.silu(gate) * hidden)
        return self.down(functional.gelu(hidden))


def hard_sigmoid(x: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """0 below -3, 1 above 3, a line between. PyTorch's own rounds 1/6 to float32."""
    return (x / 6 + 0.5).clamp(0, 1)


def learned_slots(num_slots: int, config: BackboneConfig) -> nn.Parameter:
    """A layer's own memory before it has seen anything: N(0, 1/D), like all that enters at the bottom."""
    return nn.Parameter(nn.init.normal_(torch.empty(num_slots, config.width), std=config.width**-0.5))


def split_heads(x: Float[Tensor, "B T D"], num_heads: int) -> Float[Tensor, "B H T d"]:
    """Cut the width into heads."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def merge_heads(x: Float[Tensor, "B H T d"]) -> Float[Tensor, "B T D"]:
    """Put the heads side by side again."""
    return x.transpose(1, 2).flatten(2)


class SelfProjection(nn.Module):
    """Queries, keys and values of the same rows in one matrix product, and the output projection."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(
        self, x: Float[Tensor, "B T D"]
    ) -> tuple[Float[Tensor, "B H T d"], Float[Tensor, "B H T d"], Float[Tensor, "B H T d"]]:
        """Queries, keys, values."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def queries(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B H T d"]:
        """Queries alone, with the same weights."""
        width = x.shape[-1]
        return split_heads(functional.linear(x, self.qkv.weight[:width], self.qkv.bias[:width]), self.num_heads)

    def keys_and_values(self, x: Float[Tensor, "B T D"]) -> tuple[Float[Tensor, "B H T d"], Float[Tensor, "B H T d"]]:
        """Keys and values alone, with the same weights."""
        width = x.shape[-1]
        both = functional.linear(x, self.qkv.weight[width:], self.qkv.bias[width:])
        k, v = both.unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return k, v

    def output(self, heads: Float[Tensor, "B H T d"]) -> Float[Tensor, "B T D"]:
        """Merge the heads and project."""
        return self.out(merge_heads(heads))


class Rotation(NamedTuple):
    """Cosines and sines of RoPE for a run of positions."""

    cos: Float[Tensor, "*B T half"]
    sin: Float[Tensor, "*B T half"]

    def rows(self, start: int, stop: int) -> "Rotation":
        """The rotation of the positions ``start:stop`` of this run."""
        return Rotation(self.cos[..., start:stop, :], self.sin[..., start:stop, :])


def rotation(positions: Int[Tensor, "*B T"] | Float[Tensor, "*B T"], config: BackboneConfig, like: Tensor) -> Rotation:
    """RoPE's angles (arXiv 2104.09864, eq. 14) for absolute positions, on the device of ``like`` and as precise.

    The angles are computed in float64 and only their cosines are rounded (to float32 or better), so that a position
    of a million is as exact as a position of one.
    """
    base = 10_000.0 if config.rope_base is None else config.rope_base
    half = config.head_width // 2
    # Apple's GPUs have no float64.
    positions = positions.cpu() if positions.device.type == "mps" else positions
    wavelengths = base ** -(torch.arange(half, dtype=torch.float64, device=positions.device) / half)
    angles = positions.to(torch.float64).unsqueeze(-1) * wavelengths
    dtype = torch.promote_types(like.dtype, torch.float32)
    return Rotation(angles.cos().to(like.device, dtype), angles.sin().to(like.device, dtype))


def token_rotation(start: int, num_tokens: int, config: BackboneConfig, like: Tensor) -> Rotation | None:
    """RoPE's angles of ``num_tokens`` tokens from position ``start`` on; None where nothing is rotated."""
    if not config.rotary:
        return None
    return rotation(torch.arange(start, start + num_tokens, device=like.device), config, like)


def rotate(x: Float[Tensor, "B H T d"], angles: Rotation | None) -> Float[Tensor, "B H T d"]:
    """Turn the pairs (x_{2i}, x_{2i+1}) by their position's angles; None leaves them."""
    if angles is None:
        return x
    dtype = torch.promote_types(x.dtype, torch.float32)
    pairs = x.to(dtype).unflatten(-1, (-1, 2))
    cos, sin = angles.cos.to(dtype), angles.sin.to(dtype)
    if torch.compiler.is_compiling():
        # Inductor has no complex kernels, but fuses this.
        real, imaginary = pairs.unbind(dim=-1)
        turned = torch.stack((real * cos - imaginary * sin, imaginary * cos + real * sin), dim=-1)
    else:
        # One pass over x instead of seven.
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.complex(cos, sin))
    return turned.flatten(-2).to(x.dtype)
