"""Luna as one would write it from the paper's equations, term by term and eagerly.

These are what our forms are compared with, in place of implementations that no package index serves. They
compute the same numbers with the same weights (tests/benchmarks/test_textbook.py) and take no care: scores
and weights are materialised, each sequence projects the shared memory anew, and the causal form holds an
outer product for every position.

Shape letters: B batch, T tokens, D width, H heads, d width of a head, M memory slots.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

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
