"""Memory tokens around each segment: the Memory Transformer, and its recurrent form RMT.

Papers: "Memory Transformer", arXiv 2006.11527 (MemTransformer); "Recurrent Memory Transformer", arXiv 2207.06881
(``carry``), for encoders arXiv 2304.11062.

M memory vectors are further rows of the sequence, and go through the ordinary layers. Segment τ of S tokens:

    causal        [R^L ; X^L ; W^L] = layers([M_τ ; X_τ ; M_τ])      M_{τ+1} = Norm(W^L)
    both ways     [R^L ; X^L]       = layers([M_τ ; X_τ])            M_{τ+1} = Norm(R^L)

Causal mask: the read block R sees itself, a token sees R and the tokens up to its own, the write block W sees all.
Both ways, every row sees every row, and R is written as well as read. M_0 is learned. Without ``carry``, every segment
begins with M_0 and nothing is written: the Memory Transformer on segments (its memory lives inside one pass).

| symbol | here |
|---|---|
| M_τ | ``MatMemory.slots`` |
| m, tokens of a segment | ``memory_len``, ``block_len`` |
| R, X, W | ``stream.memory``, ``stream.tokens``, ``stream.write`` |

``accumulate`` (ours, after AutoCompressor's idea of a growing list of summaries): nothing is overwritten. The write
block is M_0 in every segment (both ways, too), what it becomes is put behind the summaries so far, and the read block
is all of them.

Choices
* M_{τ+1} is the stack's final hidden state: what the head would read, so after the norm on top (pre-norm), and after
  dropout. M goes through the embedding's dropout each time it enters.
* Positions count inside a segment: R stands at -m..-1, tokens at 0..S-1, W at S..S+m-1 even where a classifier's last
  segment is shorter. Learned positions are the tokens' alone.
* Only full segments are written; a classifier's last segment ends with its sequence.
* M_0 is m independent random vectors. The authors' code repeats one, so that only positions tell its slots apart.
* ``bptt_segments`` cuts the gradient at every so-many-th border. The paper's "BPTT depth" lets each segment reach the
  same number of segments back, at the price of computing segments several times.
* Classification pools over all segments' tokens, or over the last memory; arXiv 2304.11062 has its loss on the last
  segment alone.
* Not here: the Memory Transformer's two other forms, MemCtrl and MemBottleneck.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.block import BackboneConfig, MemoryBlock, Stream, empty_cache, register
from models.kernels.memory_tokens import segment_attention
from models.kernels.window import KeyValue
from models.layers import FeedForward, Residual, Rotation, SelfProjection, rotate, rotation
from models.recurrence import Piece, StackOptions, StackRecurrence


@dataclass(frozen=True)
class MatOptions(StackOptions):
    """Options of ``model=mat``."""

    carry: bool = False
    """Hand the memory on from segment to segment (RMT)."""
    accumulate: bool = False
    """Keep the memories of all segments, instead of the last."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory_len < 0:
            raise ValueError(f"model.memory_len={self.memory_len}: must be 0 or more")
        if self.carry and not self.memory_len:
            raise ValueError("model.carry has no effect with model.memory_len=0: there is nothing to carry")
        for name in ("accumulate", "bptt_segments"):
            if getattr(self, name) and not self.carry:
                raise ValueError(f"model.{name} has no effect with model.carry=false: no memory leaves its segment")


class MatMemory(NamedTuple):
    """M_τ; without ``carry``, nothing."""

    slots: Float[Tensor, "B R D"] | None
    """R = M rows; when they accumulate, M for the start and M for each segment."""


class MatRecurrence(StackRecurrence):
    """Puts memory tokens around the segments."""

    options: MatOptions

    def __init__(self, config: BackboneConfig, options: MatOptions, *, causal: bool) -> None:
        super().__init__(config, options, causal=causal)
        if config.pooling == "memory" and options.memory_len and not options.carry:
            raise ValueError(
                "backbone.pooling=memory: with model.carry=false the last segment's memory has not heard the others; "
                "use mean, or carry"
            )
        self.dropout = nn.Dropout(config.dropout)
        self.has_write_block = options.carry and (causal or options.accumulate)

    def init_state(self, learned: Float[Tensor, "M D"] | None, batch_size: int) -> MatMemory:
        """M_0."""
        if learned is None or not self.options.carry:
            return MatMemory(None)
        return MatMemory(learned.expand(batch_size, -1, -1))

    def enter(
        self, tokens: Float[Tensor, "B T D"], learned: Float[Tensor, "M D"] | None, state: MatMemory, piece: Piece
    ) -> Stream:
        """The read block in front of a segment's first piece, the write block behind its last."""
        read, write = None, None
        start = None if learned is None else learned.expand(len(tokens), -1, -1)
        slots = start if state.slots is None else piece.seen(state).slots
        if piece.opens and slots is not None:
            read = self.dropout(slots)
        if piece.closes and self.has_write_block:
            write = start if self.options.accumulate else slots
            assert write is not None
            # The same vectors at both ends, where both stand in one piece.
            write = read if write is slots and read is not None else self.dropout(write)
        return Stream(tokens, read, write)

    def leave(
        self,
        top: Stream,
        learned: Float[Tensor, "M D"] | None,
        state: MatMemory,
        piece: Piece,
        mask: Bool[Tensor, "B T"] | None,
        changed: Bool[Tensor, " B"] | None,
    ) -> MatMemory:
        """M_{τ+1} at a segment's end."""
        if state.slots is None or not piece.closes:
            return state
        written = top.write if self.has_write_block else top.memory
        assert written is not None
        if changed is not None:
            # What accumulates is repeated for a sequence that is over: its last memory stays the last.
            written = torch.where(changed[:, None, None], written, self._last(state.slots))
        if self.options.accumulate:
            written = torch.cat((piece.seen(state).slots, written), dim=1)
        return MatMemory(written)

    def _last(self, slots: Float[Tensor, "B R D"]) -> Float[Tensor, "B M D"]:
        return slots[:, -self.options.memory_len :]

    def memory(self, state: MatMemory) -> Float[Tensor, "B M D"] | None:
        """The last segment's."""
        return None if state.slots is None else self._last(state.slots)

    def state_size(self, num_segments: int, num_open: int) -> int:
        """M·D; times 1 + the number of segments when they accumulate."""
        if not self.options.carry:
            return 0
        return self.options.memory_len * self.config.width * (1 + num_segments * self.options.accumulate)


class MatState(NamedTuple):
    """Keys (rotated) and values of the open segment: its read block and its tokens so far."""

    keys: Float[Tensor, "B H K d"]
    values: Float[Tensor, "B H K d"]
    num_open: int
    """Those tokens."""


@register("mat", MatOptions)
class MatBlock(MemoryBlock):
    """An ordinary layer over memory tokens and tokens."""

    sees_ahead = False
    recurrence = MatRecurrence

    def __init__(self, config: BackboneConfig, options: MatOptions, *, causal: bool) -> None:
        super().__init__(config, options, causal=causal)
        self.attend = Residual(config)
        self.project = SelfProjection(config)
        self.feed = Residual(config)
        self.ffn = FeedForward(config)

    @classmethod
    def memory_len(cls, options: MatOptions) -> int:
        """M."""
        return options.memory_len

    def init_state(self, batch_size: int) -> MatState:
        """No token of the segment yet."""
        return MatState(empty_cache(self, batch_size), empty_cache(self, batch_size), num_open=0)

    def forward(
        self, stream: Stream, state: MatState | None, mask: Bool[Tensor, "B T"] | None = None
    ) -> tuple[Stream, MatState]:
        """See :meth:`MemoryBlock.forward`."""
        num_tokens = stream.tokens.shape[1]
        state = state or self.init_state(len(stream.tokens))
        num_read, num_write = (0 if rows is None else rows.shape[1] for rows in (stream.memory, stream.write))
        x = torch.cat([rows for rows in (stream.memory, stream.tokens, stream.write) if rows is not None], dim=1)
        angles = self._angles(num_read, state.num_open, num_tokens, num_write, x)
        q, k, v = self.project(self.attend.before(x))
        y, cache = segment_attention(
            rotate(q, angles),
            KeyValue(rotate(k, angles), v),
            num_read=num_read,
            num_write=num_write,
            past=KeyValue(state.keys, state.values),
            causal=self.causal,
            key_mask=mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
        )
        x = self.attend.after(x, self.project.output(y))
        x = self.feed.after(x, self.ffn(self.feed.before(x)))
        read, tokens, write = x.split((num_read, num_tokens, num_write), dim=1)
        stream = Stream(tokens, read if num_read else None, write if num_write else None)
        return stream, MatState(*cache, num_open=state.num_open + num_tokens)

    def _angles(self, num_read: int, num_open: int, num_tokens: int, num_write: int, x: Tensor) -> Rotation | None:
        """RoPE of the rows of a piece, by their places in the segment."""
        if not self.config.rotary:
            return None
        behind = self.options.block_len
        runs = ((-num_read, 0), (num_open, num_open + num_tokens), (behind, behind + num_write))
        places = torch.cat([torch.arange(start, stop, device=x.device) for start, stop in runs])
        return rotation(places, self.config, x)

    def state_size(self, seq_len: int) -> int:
        """2·(R + tokens)·D in a segment that is open, else nothing."""
        num_whole, num_open = divmod(seq_len, self.options.block_len)
        num_read = self.options.memory_len * (1 + num_whole * self.options.accumulate)
        return 2 * (num_read + num_open) * self.config.width if num_open else 0
