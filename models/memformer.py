"""Memformer: slots that every layer reads by cross-attention, written on top of the stack by slot attention.

Paper: "Memformer: A Memory-Augmented Transformer for Sequence Modeling", arXiv 2010.06891, final version (Findings of
AACL 2022).

Segment τ. Each layer: self-attention inside the segment, memory reader, feed-forward, each with its residual.

    reader    Y = Attn(X W_Q, M_τ W_K, M_τ W_V)                                          the same M_τ in every layer
    writer    a_i = [q_i . k_i , q_i K_X^T] / sqrt(d)    w_i = softmax(a_i / t)           own slot and tokens, no others
              m'_i = w_i [m_i ; X W_V]                                                     q_i = m_i W_Q, k_i = m_i W_K
    forget    m_i <- (m'_i + v_i) / |m'_i + v_i|         m_i at the start = v_i / |v_i|

The old slot enters its own update unprojected, and no projection follows. Without news a slot drifts on the unit sphere
to v_i / |v_i|, the faster the longer v_i is.

| symbol | here |
|---|---|
| M_τ, k slots | ``MemformerMemory.slots``, ``memory_len`` |
| v_i | the backbone's learned memory |
| t (the paper's tau), forgetting | ``temperature``, ``forgetting`` |
| W_Q, W_K, W_V of the writer | ``MemformerRecurrence.query``, ``key``, ``value`` |

Choices (the paper is silent)
* t = 0.25 (only t < 1 is said; its table has t = 1 as the worse). v_i ~ N(0, 1/D), so of norm near 1.
* Several heads cut m_i into slices, without an output projection. The norm is over the whole slot, floored at 1e-6.
* The writer reads the stack's final hidden states, so after the norm on top. Keys and values of slots are taken from
  the slots as they are: they have norm 1 already.
* ``forgetting=false`` leaves v_i out of the update; slots still return to the sphere.
* Rotary positions are the tokens' in the segment; slots have none.

Deviations
* The paper has an encoder, which keeps the memory, and a decoder that predicts the *next* segment from the encoder's
  states. Here it is one stack: causal, a token sees M_τ and the tokens up to its own in its segment; both ways
  (classification), its whole segment.
* Only full segments are written; a classifier's last segment ends with its sequence.
* ``bptt_segments`` cuts the gradient at every so-many-th border: the paper's time horizon. ``replay`` is its MRBP.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from models.block import BackboneConfig, MemoryBlock, Stream, empty_cache, register
from models.kernels.memory_tokens import Rows, segment_attention
from models.kernels.slots import slot_attention
from models.kernels.softmax import attention
from models.kernels.window import KeyValue
from models.layers import FeedForward, Residual, SelfProjection, merge_heads, rotate, split_heads, token_rotation
from models.recurrence import Piece, StackOptions, StackRecurrence


@dataclass(frozen=True)
class MemformerOptions(StackOptions):
    """Options of ``model=memformer``."""

    temperature: float = 0.25
    """Of the writer's softmax: below 1, a slot takes in less, but more clearly."""
    forgetting: bool = True
    """Biased memory normalisation: slots drift back to where they began."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory_len < 1:
            raise ValueError(f"model.memory_len={self.memory_len}: must be at least 1")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"model.temperature={self.temperature}: must be above 0 and finite")


class MemformerMemory(NamedTuple):
    """M_τ, and what the writer will read."""

    slots: Float[Tensor, "B M D"]
    open_rows: Float[Tensor, "B T2 D"]
    """Top rows of the open segment's tokens."""


class MemformerRecurrence(StackRecurrence):
    """The writer."""

    options: MemformerOptions

    def __init__(self, config: BackboneConfig, options: MemformerOptions, *, causal: bool) -> None:
        super().__init__(config, options, causal=causal)
        self.query, self.key, self.value = (nn.Linear(config.width, config.width, bias=False) for _ in range(3))

    def init_state(self, learned: Float[Tensor, "M D"] | None, batch_size: int) -> MemformerMemory:
        """v_i / |v_i|."""
        assert learned is not None
        slots = functional.normalize(learned, dim=-1, eps=1e-6).expand(batch_size, -1, -1)
        return MemformerMemory(slots, slots[:, :0])

    def enter(
        self,
        tokens: Float[Tensor, "B T D"],
        learned: Float[Tensor, "M D"] | None,
        state: MemformerMemory,
        piece: Piece,
    ) -> Stream:
        """Every piece sees the memory of the segments before."""
        return Stream(tokens, piece.seen(state).slots)

    def leave(
        self,
        top: Stream,
        learned: Float[Tensor, "M D"] | None,
        state: MemformerMemory,
        piece: Piece,
        mask: Bool[Tensor, "B T"] | None,
        changed: Bool[Tensor, " B"] | None,
    ) -> MemformerMemory:
        """The update at a segment's end."""
        rows = top.tokens if piece.opens else torch.cat((state.open_rows, top.tokens), dim=1)
        if not piece.closes:
            return state._replace(open_rows=rows)
        if mask is not None:
            mask = torch.cat((mask.new_ones(len(mask), rows.shape[1] - mask.shape[1]), mask), dim=1)
        slots = self._write(piece.seen(state).slots, rows, mask)
        if self.options.forgetting:
            assert learned is not None
            slots = slots + learned
        slots = functional.normalize(slots, dim=-1, eps=1e-6)
        if changed is not None:
            slots = torch.where(changed[:, None, None], slots, state.slots)
        return MemformerMemory(slots, rows[:, :0])

    def _write(
        self, slots: Float[Tensor, "B M D"], rows: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"] | None
    ) -> Float[Tensor, "B M D"]:
        """M'."""

        def heads(x: Tensor) -> Tensor:
            return split_heads(x, self.config.num_heads)

        written = slot_attention(
            heads(self.query(slots)),
            KeyValue(heads(self.key(slots)), heads(slots)),
            KeyValue(heads(self.key(rows)), heads(self.value(rows))),
            scale=1 / (math.sqrt(self.config.head_width) * self.options.temperature),
            key_mask=mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            probe=self.probe,
        )
        return merge_heads(written)

    def memory(self, state: MemformerMemory) -> Float[Tensor, "B M D"] | None:
        """The slots."""
        return state.slots

    def state_size(self, num_segments: int, num_open: int) -> int:
        """M·D, and the open segment's rows."""
        return (self.options.memory_len + num_open) * self.config.width


class MemformerState(NamedTuple):
    """Keys (rotated) and values of the open segment."""

    keys: Float[Tensor, "B H K d"]
    values: Float[Tensor, "B H K d"]


@register("memformer", MemformerOptions)
class MemformerBlock(MemoryBlock):
    """Self-attention, memory reader, feed-forward."""

    sees_ahead = False
    recurrence = MemformerRecurrence

    def __init__(self, config: BackboneConfig, options: MemformerOptions, *, causal: bool) -> None:
        super().__init__(config, options, causal=causal)
        self.attend = Residual(config)
        self.project = SelfProjection(config)
        self.read = Residual(config)
        self.read_query = nn.Linear(config.width, config.width)
        self.read_context = nn.Linear(config.width, 2 * config.width)
        self.read_out = nn.Linear(config.width, config.width)
        self.feed = Residual(config)
        self.ffn = FeedForward(config)

    @classmethod
    def memory_len(cls, options: MemformerOptions) -> int:
        """K."""
        return options.memory_len

    def init_state(self, batch_size: int) -> MemformerState:
        """No token of the segment yet."""
        return MemformerState(empty_cache(self, batch_size), empty_cache(self, batch_size))

    def forward(
        self, stream: Stream, state: MemformerState | None, mask: Bool[Tensor, "B T"] | None = None
    ) -> tuple[Stream, MemformerState]:
        """See :meth:`MemoryBlock.forward`."""
        x, memory = stream.tokens, stream.memory
        assert memory is not None
        state = state or self.init_state(len(x))
        past = KeyValue(*state)
        dropout = self.config.attention_dropout if self.training else 0.0
        angles = token_rotation(past.length, x.shape[1], self.config, x)
        q, k, v = self.project(self.attend.before(x))
        y, cache = segment_attention(
            rotate(q, angles),
            KeyValue(rotate(k, angles), v),
            rows=Rows(read=0, tokens=x.shape[1], write=0),
            past=past,
            causal=self.causal,
            key_mask=mask,
            dropout=dropout,
        )
        x = self.attend.after(x, self.project.output(y))
        x = self.read.after(x, self._read(self.read.before(x), memory, dropout))
        x = self.feed.after(x, self.ffn(self.feed.before(x)))
        return Stream(x, memory), MemformerState(*cache)

    def _read(
        self, x: Float[Tensor, "B T D"], memory: Float[Tensor, "B M D"], dropout: float
    ) -> Float[Tensor, "B T D"]:
        """What the tokens find in the slots."""
        keys, values = self.read_context(memory).chunk(2, dim=-1)
        q, k, v = (split_heads(rows, self.config.num_heads) for rows in (self.read_query(x), keys, values))
        y = attention(q, k, v, dropout=dropout)
        if self.probe is not None:
            self.probe.softmax("read", q, k)
        return self.read_out(merge_heads(torch.zeros_like(y) if self.memory_off else y))

    def state_size(self, seq_len: int) -> int:
        """2·D for each token of the open segment."""
        return 2 * (seq_len % self.options.block_len) * self.config.width
