"""The plain transformer: every token is its own memory.

Paper: "Attention Is All You Need", arXiv 1706.03762, section 3.2, in the residual form that the whole suite shares.

    o_t = softmax(q_t K^T / sqrt(d)) V                                                          (eq. 1)

over all positions (``causal=False``), or over those up to t. Its state is the key/value cache, which grows with the
sequence: the one variant here whose memory is not bounded.

Symbols: q, K, V ↔ ``q, k, v``; d ↔ ``config.head_width``.

Deviations: none that matters here (norm position, feed-forward and positions are the backbone's, the same for all).
"""

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from models.block import BackboneConfig, MemoryBlock, Stream, empty_cache, register
from models.kernels.softmax import attention, causal_attention, visible
from models.kernels.window import KeyValue, join
from models.layers import FeedForward, Residual, SelfProjection, rotate, token_rotation


@dataclass(frozen=True)
class TransformerOptions:
    """The plain transformer has no options of its own."""


class TransformerState(NamedTuple):
    """Keys (rotated) and values of all tokens so far."""

    keys: Float[Tensor, "B H T d"]
    values: Float[Tensor, "B H T d"]


@register("transformer", TransformerOptions)
class TransformerBlock(MemoryBlock):
    """Full softmax attention and feed-forward."""

    takes_runs = False

    def __init__(self, config: BackboneConfig, options: TransformerOptions, *, causal: bool) -> None:
        super().__init__(config, options, causal=causal)
        self.attend = Residual(config)
        self.project = SelfProjection(config)
        self.feed = Residual(config)
        self.ffn = FeedForward(config)

    def init_state(self, batch_size: int) -> TransformerState:
        """No token yet."""
        return TransformerState(empty_cache(self, batch_size), empty_cache(self, batch_size))

    def forward(
        self, stream: Stream, state: TransformerState | None, mask: Bool[Tensor, "B T"] | None = None
    ) -> tuple[Stream, TransformerState]:
        """See :meth:`MemoryBlock.forward`."""
        x = stream.tokens
        state = state or self.init_state(x.shape[0])
        start = state.keys.shape[2]
        q, k, v = self.project(self.attend.before(x))
        angles = token_rotation(start, x.shape[1], self.config, x)
        own = KeyValue(rotate(k, angles), v)
        seen = join([KeyValue(*state), own])
        dropout = self.config.attention_dropout if self.training else 0.0
        q = rotate(q, angles)
        if self.causal:
            # Padding stands on the right, so no real query ever looks at it.
            y = causal_attention(q, seen.keys, seen.values, dropout=dropout)
        else:
            y = attention(q, *seen, mask=None if mask is None else visible(mask), dropout=dropout)
        x = self.attend.after(x, self.project.output(y))
        x = self.feed.after(x, self.ffn(self.feed.before(x)))
        return Stream(x, stream.memory), TransformerState(*seen)

    def state_size(self, seq_len: int) -> int:
        """2·T·D: it grows with the sequence."""
        return 2 * seq_len * self.config.width
