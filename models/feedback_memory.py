"""Feedback memory segments (FM): a window whose memory blocks are made from the layer's own outputs.

Paper: "TransformerFAM: Feedback attention is working memory", arXiv 2404.09173v3, appendix C.2 (an ablation that the
authors dropped: unlike FAM it loses the passkey over long context).

    (Q,K,V)_τ = QKV(Norm(I_τ))             (K^O,V^O)_τ = KV(Norm(O_τ))
    a_t  = Attn(q_t, [K^O_{τ-m..τ-1} ; K_{τ,<=t}]) + i_t          O_τ = FF(Norm(A_τ)) + A_τ

So the blocks of one layer form a chain: through O_{τ-1} a token reaches every block before it, where block sliding
window attention (``block_window``, whose memory is made from the inputs) reaches m blocks a layer.

| symbol | here |
|---|---|
| B, block size; m, memory segments | ``block_len``, ``memory_blocks`` |
| K^O, V^O of the last m whole blocks and of the open one | ``FeedbackMemoryState.keys``, ``.values`` |
| K, V of the open block | ``FeedbackMemoryState.open_keys``, ``.open_values`` |

Choices
* Which weights make K^O and V^O we found stated nowhere: the layer's own norm and projections do, as for FAM. They
  stand where their tokens stand.
* ``causal=False`` (classification, not in the paper): a block is seen whole; memory flows from left to right.

The layer walks block by block, as each block's keys need the outputs of the one before: slower than FAM, whose chain
has F rows only.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.block import BackboneConfig, MemoryBlock, Stream, empty_cache, register
from models.block_window import cached_tokens, check_window
from models.kernels.window import KeyValue, join, query_sizes, trim, window_attention
from models.layers import FeedForward, Residual, SelfProjection, rotate, token_rotation


@dataclass(frozen=True)
class FeedbackMemoryOptions:
    """Options of ``model=feedback_memory``."""

    block_len: int = 64
    """S, tokens in a block."""
    memory_blocks: int = 1
    """m, whole blocks before its own that a token sees (the paper's FM1, FM2, FM4)."""

    def __post_init__(self) -> None:
        check_window(self.block_len, self.memory_blocks, None)
        if self.memory_blocks == 0:
            raise ValueError("model.memory_blocks=0: nothing is fed back; use at least 1, or model=local")


class FeedbackMemoryState(NamedTuple):
    """One layer's state between two calls; keys are rotated."""

    keys: Float[Tensor, "B H K d"]
    """From the outputs of the last m whole blocks and of the open one."""
    values: Float[Tensor, "B H K d"]
    open_keys: Float[Tensor, "B H K2 d"]
    """From the inputs of the open block."""
    open_values: Float[Tensor, "B H K2 d"]
    position: int
    """Tokens so far."""


@register("feedback_memory", FeedbackMemoryOptions)
class FeedbackMemoryBlock(MemoryBlock):
    """Block sliding window attention over fed back memory blocks, and feed-forward."""

    sees_ahead = False

    def __init__(self, config: BackboneConfig, options: FeedbackMemoryOptions, *, causal: bool) -> None:
        super().__init__(config, options, causal=causal)
        self.attend = Residual(config)
        self.project = SelfProjection(config)
        self.feed = Residual(config)
        self.ffn = FeedForward(config)

    @classmethod
    def reads_memory(cls, options: FeedbackMemoryOptions) -> bool:
        """Always."""
        return True

    def init_state(self, batch_size: int) -> FeedbackMemoryState:
        """No token yet."""
        nothing = empty_cache(self, batch_size)
        return FeedbackMemoryState(nothing, nothing, nothing, nothing, position=0)

    def forward(
        self, stream: Stream, state: FeedbackMemoryState | None, mask: Bool[Tensor, "B T"] | None = None
    ) -> tuple[Stream, FeedbackMemoryState]:
        """See :meth:`MemoryBlock.forward`."""
        x = stream.tokens
        state = state or self.init_state(x.shape[0])
        sizes = query_sizes(state.open_keys.shape[2], x.shape[1], self.options.block_len)
        masks = [None] * len(sizes) if mask is None else mask.split(sizes, dim=1)
        outputs = []
        for rows, real in zip(x.split(sizes, dim=1), masks, strict=True):
            rows, state = self._block(rows, state, real)
            outputs.append(rows)
        return Stream(torch.cat(outputs, dim=1), stream.memory), state

    def _block(
        self, x: Float[Tensor, "B T D"], state: FeedbackMemoryState, mask: Bool[Tensor, "B T"] | None
    ) -> tuple[Float[Tensor, "B T D"], FeedbackMemoryState]:
        """Further tokens of one block."""
        size, stop = self.options.block_len, state.position + x.shape[1]
        angles = token_rotation(state.position, x.shape[1], self.config, x)
        q, k, v = self.project(self.attend.before(x))
        own = KeyValue(rotate(k, angles), v)
        memory, opened = KeyValue(state.keys, state.values), KeyValue(state.open_keys, state.open_values)
        whole, fed_back = _split(memory, memory.length - opened.length)
        y = window_attention(
            rotate(q, angles),
            own,
            block_len=size,
            memory_blocks=0 if self.memory_off else self.options.memory_blocks,
            past=opened if self.memory_off else join([whole, opened]),
            causal=self.causal,
            key_mask=mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            probe=self.probe,
        )
        x = self.attend.after(x, self.project.output(y))
        x = self.feed.after(x, self.ffn(self.feed.before(x)))

        k, v = self.project.keys_and_values(self.attend.before(x))
        memory = trim(join([whole, fed_back, KeyValue(rotate(k, angles), v)]), size, self.options.memory_blocks)
        opened = trim(join([opened, own]), size, 0)
        return x, FeedbackMemoryState(*memory, *opened, position=stop)

    def state_size(self, seq_len: int) -> int:
        """At most 2·(m+2)·S·D: of an open block's tokens, inputs and outputs are kept."""
        cached = cached_tokens(seq_len, self.options.block_len, self.options.memory_blocks)
        return 2 * (cached + seq_len % self.options.block_len) * self.config.width


def _split(pairs: KeyValue, place: int) -> tuple[KeyValue, KeyValue]:
    """What stands before ``place``, and the rest."""
    keys, values = (part.tensor_split((place,), dim=2) for part in pairs)
    return KeyValue(keys[0], values[0]), KeyValue(keys[1], values[1])
