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
| layer_seq, layer_mem | the block itself, ``MatBlock.controller`` |

``form`` (the Memory Transformer's own three). ``tokens``: one ordinary layer for all rows, as above. ``controller``
(MemCtrl): memory rows and tokens have networks of their own, norms, attention and feed-forward, and both see the same
rows as before. ``bottleneck`` (MemBottleneck): the tokens see the *updated* memory and nothing else. X^ms: all rows.

    controller    M' = layer_mem(q = M, kv = X^ms)      X' = layer_seq(q = X, kv = X^ms)
    bottleneck    M' = layer_mem(q = M, kv = X^ms)      X' = layer_seq(q = X, kv = M')

``shared_controller`` (MemCtrl-shared): layer_mem is one for the whole stack.

``accumulate`` (ours, after AutoCompressor's idea of a growing list of summaries): nothing is overwritten. The write
block is M_0 in every segment (both ways, too), what it becomes is put behind the summaries so far, and the read block
is all of them. Causal, a summary sees its own block and those before it, as AutoCompressor's soft prompts see one
another. What comes later never reaches it, so it goes up the stack once, in front of the segment behind its own, and
later segments find its keys and values: work grows with the square of the length, not with its cube.

Choices
* M_{τ+1} is the stack's final hidden state: what the head would read, so after the norm on top (pre-norm), and after
  dropout. M goes through the embedding's dropout each time it enters.
* Positions count inside a segment: R stands at -m..-1, tokens at 0..S-1, W at S..S+m-1 even where a classifier's last
  segment is shorter. Learned positions are the tokens' alone. Where causal memories accumulate, all of a segment stands
  m further than the segment before, so that each summary keeps its place (RoPE knows differences only).
* Only full segments are written; a classifier's last segment ends with its sequence.
* M_0 is m independent random vectors. The authors' code repeats one, so that only positions tell its slots apart.
* Causal summaries meet the embedding's dropout once, and a cut of the gradient parts a segment from their keys and
  values, too.
* ``bptt_segments`` cuts the gradient at every so-many-th border. The paper's "BPTT depth" lets each segment reach the
  same number of segments back, at the price of computing segments several times.
* Classification pools over all segments' tokens, or over the last memory; arXiv 2304.11062 has its loss on the last
  segment alone.
* The paper's text was not at hand: its forms are built from notes on it. "Shared" in its table is read as one layer_mem
  for all layers; M' in a bottleneck is what layer_mem's feed-forward gives, and layer_seq's norm stands before it.
* Causal ``controller``: the mask is that of ``tokens``, so layer_mem hears tokens in the write block only; without
  ``carry`` it shapes a learned prefix. Nobody reads the memory rows on top of the stack then, so that the top layer's
  layer_mem is idle. ``carry`` and ``accumulate`` with the forms are ours.
* Causal ``bottleneck`` needs ``carry``, else no token would hear another: a token may read R' alone, which earlier
  segments wrote; W' has heard what follows it. So the tokens of one segment do not hear each other. To let them, each
  token would need an updated memory of its own: M times the work.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.block import BackboneConfig, MemoryBlock, Stream, empty_cache, register
from models.errors import check_choice
from models.kernels.memory_tokens import Rows, pick, segment_attention
from models.kernels.softmax import attention
from models.kernels.window import KeyValue, join
from models.layers import FeedForward, Residual, Rotation, SelfProjection, rotate, rotation
from models.recurrence import Piece, StackOptions, StackRecurrence
from models.transformer import TransformerBlock, TransformerOptions

FORMS = ("tokens", "controller", "shared_controller", "bottleneck")


@dataclass(frozen=True)
class MatOptions(StackOptions):
    """Options of ``model=mat``."""

    form: str = "tokens"
    """What memory rows are: further "tokens", rows with a "controller" or a "shared_controller", or a "bottleneck"."""
    carry: bool = False
    """Hand the memory on from segment to segment (RMT)."""
    accumulate: bool = False
    """Keep the memories of all segments, instead of the last; causal, as keys and values in every layer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("model.form", self.form, FORMS)
        if self.memory_len < 0:
            raise ValueError(f"model.memory_len={self.memory_len}: must be 0 or more")
        if self.form != "tokens" and not self.memory_len:
            raise ValueError(f"model.form={self.form} needs memory: use model.memory_len of at least 1, or form=tokens")
        if self.carry and not self.memory_len:
            raise ValueError("model.carry has no effect with model.memory_len=0: there is nothing to carry")
        for name in ("accumulate", "bptt_segments"):
            if getattr(self, name) and not self.carry:
                raise ValueError(f"model.{name} has no effect with model.carry=false: no memory leaves its segment")


class MatMemory(NamedTuple):
    """M_τ; without ``carry``, nothing."""

    slots: Float[Tensor, "B R D"] | None
    """M rows; where memories accumulate both ways, M for the start and M for each segment. (Causal, the layers keep
    the older ones.)"""


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
        if options.form == "bottleneck" and causal and not options.carry:
            raise ValueError(
                "model.form=bottleneck: a causal token reads only what earlier segments wrote, and with "
                "model.carry=false that is nothing; use model.carry=true"
            )
        self.dropout = nn.Dropout(config.dropout)
        self.has_write_block = options.carry and (causal or options.accumulate)
        self.keeps_all = options.accumulate and not causal

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
        if self.keeps_all:
            written = torch.cat((piece.seen(state).slots, written), dim=1)
        return MatMemory(written)

    def _last(self, slots: Float[Tensor, "B R D"]) -> Float[Tensor, "B M D"]:
        return slots[:, -self.options.memory_len :]

    def memory(self, state: MatMemory) -> Float[Tensor, "B M D"] | None:
        """The last segment's."""
        return None if state.slots is None else self._last(state.slots)

    def state_size(self, num_segments: int, num_open: int) -> int:
        """M·D; times 1 + the number of segments where they accumulate both ways."""
        if not self.options.carry:
            return 0
        return self.options.memory_len * self.config.width * (1 + num_segments * self.keeps_all)


class MatState(NamedTuple):
    """Keys (rotated) and values of the open segment, as its next tokens and its write block will see them.

    Between segments nothing, or the summaries that have been read, where causal memories accumulate.
    """

    keys: Float[Tensor, "B H K d"]
    """The read block and the tokens so far; of a bottleneck, the updated read block."""
    values: Float[Tensor, "B H K d"]
    control_keys: Float[Tensor, "B H C d"]
    """The controller's own, of the read block and the tokens so far; none where no write block will come."""
    control_values: Float[Tensor, "B H C d"]
    num_open: int
    """Those tokens."""


@register("mat", MatOptions)
class MatBlock(MemoryBlock):
    """An ordinary layer over memory tokens and tokens, or one for each."""

    sees_ahead = False
    recurrence = MatRecurrence

    def __init__(self, config: BackboneConfig, options: MatOptions, *, causal: bool) -> None:
        super().__init__(config, options, causal=causal)
        self.attend = Residual(config)
        self.project = SelfProjection(config)
        self.feed = Residual(config)
        self.ffn = FeedForward(config)
        has_controller = options.form != "tokens"
        self.controller = TransformerBlock(config, TransformerOptions(), causal=causal) if has_controller else None
        self.keeps_summaries = options.accumulate and causal

    def share(self, bottom: MemoryBlock) -> None:
        """One controller for all layers."""
        assert isinstance(bottom, MatBlock)
        if self.options.form == "shared_controller":
            self.controller = bottom.controller

    @classmethod
    def memory_len(cls, options: MatOptions) -> int:
        """M."""
        return options.memory_len

    def init_state(self, batch_size: int) -> MatState:
        """No token of the segment yet."""
        nothing = empty_cache(self, batch_size)
        return MatState(nothing, nothing, nothing, nothing, num_open=0)

    def close(self, state: MatState, batch_size: int) -> MatState:
        """The summaries stay, where they accumulate; the tokens stand behind them."""
        if not self.keeps_summaries:
            return self.init_state(batch_size)
        num_tokens = 0 if self.options.form == "bottleneck" else state.num_open
        num_read = state.keys.shape[2] - num_tokens
        keys, values, control_keys, control_values = (rows[:, :, :num_read] for rows in state[:-1])
        return MatState(keys, values, control_keys, control_values, num_open=0)

    def forward(
        self, stream: Stream, state: MatState | None, mask: Bool[Tensor, "B T"] | None = None
    ) -> tuple[Stream, MatState]:
        """See :meth:`MemoryBlock.forward`."""
        state = state or self.init_state(len(stream.tokens))
        past, control = KeyValue(state.keys, state.values), KeyValue(state.control_keys, state.control_values)
        num_open = state.num_open
        if self.controller is None:
            above, cache = self._step(self, stream, kind="all", past=past, num_open=num_open, mask=mask)
        else:
            above, control = self._control(self.controller, stream, past=control, num_open=num_open, mask=mask)
            if self.options.form == "bottleneck":
                tokens, cache = self._read(stream.tokens, above, past=past, num_open=num_open)
            else:
                (tokens, *_), cache = self._step(self, stream, kind="tokens", past=past, num_open=num_open, mask=mask)
            above = above._replace(tokens=tokens)
        return above, MatState(*cache, *control, num_open=num_open + stream.tokens.shape[1])

    def _step(
        self,
        layer: "MatBlock | TransformerBlock",
        stream: Stream,
        *,
        kind: str,
        past: KeyValue,
        num_open: int,
        mask: Bool[Tensor, "B T"] | None,
    ) -> tuple[Stream, KeyValue]:
        """Rows of one kind go through ``layer``, in sight of all kinds; and what the next piece will see of this."""
        x, rows = _join(stream)
        asking = rows.of(kind)
        num_memory = rows.read + past.length - num_open
        angles = self._angles(rows, num_open, num_memory, x)
        q, k, v = layer.project(layer.attend.before(x))
        y, cache = segment_attention(
            pick(rotate(q, angles), rows, asking),
            KeyValue(rotate(k, angles), v),
            rows=rows,
            asking=asking,
            past=past,
            causal=self.causal,
            key_mask=mask,
            dropout=self._attention_dropout,
            probe=self.probe,
            num_memory=num_memory,
            blind=self.memory_off,
        )
        read, tokens, write = _finish(layer, pick(x, rows, asking), y).split(asking, dim=1)
        return Stream(tokens, read if asking.read else None, write if asking.write else None), cache

    def _control(
        self,
        controller: TransformerBlock,
        stream: Stream,
        *,
        past: KeyValue,
        num_open: int,
        mask: Bool[Tensor, "B T"] | None,
    ) -> tuple[Stream, KeyValue]:
        """The memory rows go through their own network."""
        if self.causal and not self.options.carry:
            # Without a write block, no memory row will ever hear a token.
            stream = stream._replace(tokens=stream.tokens[:, :0])
        above, cache = self._step(controller, stream, kind="memory", past=past, num_open=num_open, mask=mask)
        return above, cache if self.options.carry else past

    def _read(
        self, tokens: Float[Tensor, "B T D"], memory: Stream, *, past: KeyValue, num_open: int
    ) -> tuple[Float[Tensor, "B T D"], KeyValue]:
        """The tokens see the updated memory and nothing else; a causal one, only what has not heard the tokens."""
        x, rows = _join(memory._replace(tokens=tokens[:, :0], write=None if self.causal else memory.write))
        num_memory = rows.read + past.length
        k, v = self.project.keys_and_values(self.attend.before(x))
        cache = join([past, KeyValue(rotate(k, self._angles(rows, num_open, num_memory, x)), v)])
        q = self.project.queries(self.attend.before(tokens))
        q = rotate(q, self._angles(Rows(0, tokens.shape[1], 0), num_open, num_memory, x))
        if self.probe is not None:
            self.probe.softmax("read", q, cache.keys)
        y = attention(q, *cache, dropout=self._attention_dropout)
        return _finish(self, tokens, torch.zeros_like(y) if self.memory_off else y), cache

    @property
    def _attention_dropout(self) -> float:
        return self.config.attention_dropout if self.training else 0.0

    def _angles(self, rows: Rows, num_open: int, num_memory: int, like: Tensor) -> Rotation | None:
        """RoPE of the rows of a piece, by their places in the segment, behind ``num_memory`` rows of memory."""
        if not self.config.rotary:
            return None
        behind = self.options.block_len
        runs = ((-rows.read, 0), (num_open, num_open + rows.tokens), (behind, behind + rows.write))
        places = torch.cat([torch.arange(start, stop, device=like.device) for start, stop in runs])
        if self.keeps_summaries:
            places = places + (num_memory - self.options.memory_len)
        return rotation(places, self.config, like)

    def state_size(self, seq_len: int) -> int:
        """2·D for each row that is seen again, by each network that sees it.

        These are the rows of an open segment, and all summaries that were read, where they stay.
        """
        num_whole, num_open = divmod(seq_len, self.options.block_len)
        num_read = self.options.memory_len * (num_whole * self.keeps_summaries + (num_open > 0))
        num_rows = num_read if self.options.form == "bottleneck" else num_read + num_open
        if self.controller is not None and self.options.carry:
            num_rows += num_read + num_open
        return 2 * num_rows * self.config.width


def _join(stream: Stream) -> tuple[Float[Tensor, "B R D"], Rows]:
    """All rows of a piece, and how many there are of each kind."""
    nothing = stream.tokens[:, :0]
    parts = [nothing if part is None else part for part in (stream.memory, stream.tokens, stream.write)]
    return torch.cat(parts, dim=1), Rows(*(part.shape[1] for part in parts))


def _finish(
    layer: MatBlock | TransformerBlock, x: Float[Tensor, "B A D"], y: Float[Tensor, "B H A d"]
) -> Float[Tensor, "B A D"]:
    """Both residual steps of an ordinary layer, once its attention has given ``y``."""
    x = layer.attend.after(x, layer.project.output(y))
    return layer.feed.after(x, layer.ffn(layer.feed.before(x)))
