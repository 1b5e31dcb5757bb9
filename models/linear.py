"""Linear attention: softmax's exponential replaced by a product of feature maps, so that memory is one matrix a head.

Paper: "Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention", arXiv 2006.16236; details from
the authors' code (idiap/fast-transformers). Trainable feature map: arXiv 2211.04076, from its authors' code.

    S_t = sum_{j<=t} phi(k_j)^T v_j        z_t = sum_{j<=t} phi(k_j)        y_t = phi(q_t) S_t / (phi(q_t)·z_t + eps)

over j <= t when causal, over all tokens otherwise: then one S and one z serve the whole sequence.

    elu  phi(x) = elu(x) + 1                          ffn  phi(x) = softplus(x W_1) * sigmoid(x W_2)

| symbol | here |
|---|---|
| S, z, of each head | ``LinearState.matrix``, ``LinearState.normaliser`` |
| phi | :class:`FeatureMap` |
| W_1, W_2 of each head, the same for queries and keys | ``FeatureMap.value``, ``FeatureMap.gate`` |
| eps = 1e-6 (authors' code) | ``EPSILON`` |

As in the authors' code, queries are not scaled by 1/sqrt(d), and padding is left out by zeroing phi(k).

Choices
* RoPE turns phi(q) and phi(k) in the numerator alone, as its own paper does with linear attention (RoFormer, arXiv
  2104.09864, section 3.3): y_t = sum_j (R_t phi(q_t))·(R_j phi(k_j)) v_j / sum_j phi(q_t)·phi(k_j). Turned features
  are no longer positive, and a turned denominator could vanish. The weights of a row therefore need not sum to one,
  and may be negative; they see distances only, and the state stays as small.
* Attention dropout: there is no matrix of weights to drop from. It drops a token from S for all queries; z stays whole.
* ``ffn`` is the gated form with one block, without the optional penalty that keeps W_1 orthogonal: it starts so, and as
  no ``nn.Linear`` holds it, weight decay leaves it alone. The code's division by sqrt(d) cancels in y.

Deviations: the residual form, norms and feed-forward are the backbone's, the same for all variants.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from models.block import BackboneConfig, MemoryBlock, Stream, register
from models.errors import check_choice
from models.kernels.linear_attention import causal_linear, full_linear
from models.kernels.linear_memory import feature_map
from models.layers import FeedForward, Residual, SelfProjection, merge_heads, rotate, rotation

EPSILON = 1e-6


@dataclass(frozen=True)
class LinearOptions:
    """Options of ``model=linear``."""

    feature_map: str = "elu"
    """phi: ``elu`` (elu + 1) or ``ffn`` (trainable, arXiv 2211.04076)."""
    chunk_len: int = 32
    """Tokens per chunk of the causal form: speed only."""

    def __post_init__(self) -> None:
        check_choice("model.feature_map", self.feature_map, ("elu", "ffn"))
        if self.chunk_len < 1:
            raise ValueError(f"model.chunk_len={self.chunk_len}: must be at least 1")


class LinearState(NamedTuple):
    """The sums over all tokens so far, float32 or better."""

    matrix: Float[Tensor, "B H d d"]
    """S, with the keys turned by RoPE where positions are rotary."""
    normaliser: Float[Tensor, "B H d 1"]
    """z as a column, never turned."""
    position: int
    """Tokens so far."""


class FeatureMap(nn.Module):
    """phi: positive features of queries and keys."""

    def __init__(self, config: BackboneConfig, kind: str) -> None:
        super().__init__()
        self.value = self.gate = None
        if kind == "ffn":
            shape = (config.num_heads, config.head_width, config.head_width)
            self.value, self.gate = nn.Parameter(torch.empty(shape)), nn.Parameter(torch.empty(shape))
            for head in range(config.num_heads):
                nn.init.orthogonal_(self.value[head])
                nn.init.xavier_uniform_(self.gate[head])

    def forward(self, x: Float[Tensor, "B H T d"]) -> Float[Tensor, "B H T d"]:
        """Applied to each row alone."""
        if self.value is None or self.gate is None:
            return feature_map(x)
        return functional.softplus(x @ self.value) * (x @ self.gate).sigmoid()


@register("linear", LinearOptions)
class LinearBlock(MemoryBlock):
    """Linear attention and feed-forward."""

    def __init__(self, config: BackboneConfig, options: LinearOptions, *, causal: bool) -> None:
        super().__init__(config, options, causal=causal)
        self.attend = Residual(config)
        self.project = SelfProjection(config)
        self.features = FeatureMap(config, options.feature_map)
        self.feed = Residual(config)
        self.ffn = FeedForward(config)

    @classmethod
    def reads_memory(cls, options: LinearOptions) -> bool:
        """Always: tokens see each other in no other way."""
        return True

    def init_state(self, batch_size: int) -> LinearState:
        """No token yet."""
        weight = self.project.out.weight
        num_heads, d = self.config.num_heads, self.config.head_width
        dtype = torch.promote_types(weight.dtype, torch.float32)
        sums = torch.zeros(batch_size, num_heads, d, d + 1, dtype=dtype, device=weight.device)
        return LinearState(sums[..., :d], sums[..., d:], position=0)

    def forward(
        self, stream: Stream, state: LinearState | None, mask: Bool[Tensor, "B T"] | None = None
    ) -> tuple[Stream, LinearState]:
        """See :meth:`MemoryBlock.forward`."""
        x = stream.tokens
        state = state or self.init_state(x.shape[0])
        q, k, v = self.project(self.attend.before(x))
        q, k = self.features(q), self.features(k)
        if mask is not None:
            k = k * mask[:, None, :, None]
        start = state.normaliser
        y, weight, state = self._attend(q, k, v, state)
        if self.probe is not None:
            self._record(q, k, start)
        y = torch.zeros_like(y) if self.memory_off else y / (weight + EPSILON)
        x = self.attend.after(x, self.project.output(y))
        x = self.feed.after(x, self.ffn(self.feed.before(x)))
        return Stream(x, stream.memory), state._replace(position=state.position + x.shape[1])

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, state: LinearState
    ) -> tuple[Float[Tensor, "B H T d"], Float[Tensor, "B H T 1"], LinearState]:
        """phi(q) S and phi(q)·z of every token, and the sums after the last."""
        ones = torch.ones_like(v[..., :1])
        if self.training and self.config.attention_dropout:
            v = v * functional.dropout(ones, self.config.attention_dropout)
        if self.config.rotary:
            places = torch.arange(state.position, state.position + v.shape[2], device=v.device)
            angles = rotation(places, self.config, v)
            y, matrix = self._read(rotate(q, angles), rotate(k, angles), v, state.matrix)
            weight, normaliser = self._read(q, k, ones, state.normaliser)
        else:
            # The same queries and keys in both: ones beside the values are S and z in one product.
            both, sums = self._read(q, k, torch.cat((v, ones), dim=-1), torch.cat(state[:2], dim=-1))
            y, weight = both.tensor_split((-1,), dim=-1)
            matrix, normaliser = sums.tensor_split((-1,), dim=-1)
        return y, weight, state._replace(matrix=matrix, normaliser=normaliser)

    def _record(self, q: Tensor, k: Tensor, start: Float[Tensor, "B H d 1"]) -> None:
        """y_t is a mean of the rows S_i / z_i with weights phi(q_t)_i z_i."""
        assert self.probe is not None
        sums = start.transpose(-1, -2) + (k.cumsum(dim=2) if self.causal else k.sum(dim=2, keepdim=True))
        self.probe.weights("read", q * sums)

    def _read(self, q: Tensor, k: Tensor, v: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        if self.causal:
            return causal_linear(q, k, v, start, chunk_len=self.options.chunk_len)
        return full_linear(q, k, v, start)

    def memory(
        self, stream: Stream, state: LinearState, mask: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B M D2"] | None:
        """One row for each of a key's d features: S_i / z_i, heads side by side (with RoPE, of the turned keys)."""
        return merge_heads(state.matrix / (state.normaliser + EPSILON))

    def state_size(self, seq_len: int) -> int:
        """D·d + D, whatever the length."""
        return self.config.width * (self.config.head_width + 1)
