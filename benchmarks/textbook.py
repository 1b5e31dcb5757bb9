"""Luna and ConvLuna as one would write them from their papers' equations, term by term and eagerly.

These are what our forms are compared with, in place of implementations that no package index serves. They
compute the same numbers with the same weights (tests/benchmarks/test_textbook.py) and take no care: scores
and weights are materialised, each sequence projects the shared memory anew, and the causal form holds an
outer product for every position.

Shape letters: B batch, T tokens, D width, H heads, d width of a head, M memory slots, N filtered positions.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from models.filtered_memory import FilteredMemoryBlock
from models.layers import merge_heads, split_heads
from models.luna import LunaBlock, omega


class TextbookLuna(nn.Module):
    """Bidirectional Luna attention (arXiv 2106.01540, section 3.1), without residuals and feed-forward."""

    def __init__(self, ours: LunaBlock) -> None:
        super().__init__()
        self.num_heads = ours.config.num_heads
        self.pack_query = ours.pack_query
        self.pack_key, self.pack_value = halves(ours.pack_context)
        self.query = ours.query
        self.key, self.value = halves(ours.unpack_context)
        self.out = ours.out

    def forward(
        self, x: Float[Tensor, "B T D"], memory: Float[Tensor, "1 M D"]
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B M D"]]:
        """Y_X after its output projection, and Y_P."""
        memory = memory.expand(len(x), -1, -1)
        packed = self._attend(self.pack_query(memory), self.pack_key(x), self.pack_value(x))
        y = self._attend(self.query(x), self.key(packed), self.value(packed))
        return self.out(y), packed

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = (split_heads(rows, self.num_heads) for rows in (query, key, value))
        scores = q / math.sqrt(q.shape[-1]) @ k.transpose(-1, -2)
        return merge_heads(scores.softmax(dim=-1) @ v)


class TextbookCausalLuna(nn.Module):
    """Causal Luna attention (section 3.3) by summing outer products: twice B·H·T·d·M numbers."""

    def __init__(self, ours: LunaBlock) -> None:
        super().__init__()
        self.num_heads = ours.config.num_heads
        self.pack_query, self.pack_context = ours.pack_query, ours.pack_context
        self.query = ours.query
        self.key, self.value = halves(ours.unpack_context)
        self.out = ours.out

    def forward(self, x: Float[Tensor, "B T D"], memory: Float[Tensor, "1 M D"]) -> Float[Tensor, "B T D"]:
        """Y after its output projection."""
        memory = memory.expand(len(x), -1, -1)
        projected = (self.pack_query(memory), self.pack_context(x), self.query(x), self.key(x), self.value(x))
        p, c, q, k, v = (split_heads(rows, self.num_heads) for rows in projected)
        scale = 1.0 / math.sqrt(q.shape[-1])
        pack = omega(scale * p @ c.transpose(-1, -2)).transpose(-1, -2)
        unpack = running_mean_attention(scale * q, k, pack).softmax(dim=-1)
        return self.out(merge_heads(running_mean_attention(unpack, pack, v)))


class TextbookFilteredMemory(nn.Module):
    """ConvLuna's block (arXiv 2404.00798), both ways: one attention for pack and unpack, raw values."""

    def __init__(self, ours: FilteredMemoryBlock) -> None:
        super().__init__()
        self.ours = ours  # its weights, norms and feed-forward; its attention is not called

    def forward(
        self, x: Float[Tensor, "B T D"], memory: Float[Tensor, "1 M D"]
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B M D"]]:
        """X' and P'."""
        ours, memory = self.ours, memory.expand(len(x), -1, -1)
        h, slots = ours.attend.norm(x), ours.memory_norm(memory)
        assert ours.log_temperature is not None
        scale = torch.exp(-ours.log_temperature)
        packed = self._attend(scale * ours.query(slots), self._filter(ours.key(h)), self._filter(h))
        packed = ours.out(packed)
        x = x + ours.out(self._attend(ours.query(h), ours.key(packed), packed))
        return x + ours.ffn(ours.feed.norm(x)), memory + packed

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = (split_heads(rows, self.ours.config.num_heads) for rows in (query, key, value))
        return merge_heads((q @ k.transpose(-1, -2)).softmax(dim=-1) @ v)

    def _filter(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B N D"]:
        """A depthwise convolution, one kernel for all channels of a head."""
        config, options = self.ours.config, self.ours.options
        assert self.ours.filter_weight is not None
        weight = self.ours.filter_weight.repeat_interleave(config.head_width, dim=0).unsqueeze(1)
        before = (options.kernel - 1) // 2 if options.stride == 1 else 0
        after = (-x.shape[1] % options.stride) + options.kernel - options.stride - before
        rows = functional.pad(x.transpose(1, 2), (before, after))
        return functional.conv1d(rows, weight, stride=options.stride, groups=config.width).transpose(1, 2)


def running_mean_attention(
    x: Float[Tensor, "B H T a"], y: Float[Tensor, "B H T a"], z: Float[Tensor, "B H T b"]
) -> Float[Tensor, "B H T b"]:
    """f(x, y, z)_t = 1/t x_t sum_{j<=t} y_j^T z_j (section 3.3)."""
    sums = (y.unsqueeze(-1) * z.unsqueeze(-2)).cumsum(dim=2)
    counts = torch.arange(1, x.shape[2] + 1, device=x.device, dtype=x.dtype)
    return (x.unsqueeze(-2) @ sums).squeeze(-2) / counts[:, None]


def halves(linear: nn.Linear) -> tuple[nn.Linear, nn.Linear]:
    """Two projections that hold the upper and the lower half of one: the paper's keys and values."""
    weights, biases = linear.weight.detach().chunk(2), linear.bias.detach().chunk(2)
    parts = []
    for weight, bias in zip(weights, biases, strict=True):
        part = nn.Linear(linear.in_features, len(weight), dtype=weight.dtype)
        with torch.no_grad():
            part.weight.copy_(weight)
            part.bias.copy_(bias)
        parts.append(part)
    return parts[0], parts[1]
