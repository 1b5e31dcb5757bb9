"""Infini-attention: local attention beside a compressive memory of a fixed size.

Paper: "Leave No Context Behind: Efficient Infinite Context Transformers with Infini-attention", arXiv 2404.07143v2,
sections 3.1 and 4.1; equation numbers are v2's. There is no public code of the authors.

Tokens come in segments of N. Each head keeps a matrix M and a normaliser z of all whole segments before, reads them
with the queries of its local attention, and mixes both with one learned number.

    A_dot = softmax(Q K^T / sqrt(d)) V            causal, inside the segment                          (6)
    A_mem = σ(Q) M_{s-1} / σ(Q) z_{s-1}           σ(x) = elu(x) + 1                                   (7)
    M_s = M_{s-1} + σ(K)^T V                      z_s = z_{s-1} + sum_t σ(K_t)      "Linear"           (8)
    M_s = M_{s-1} + σ(K)^T (V - σ(K) M_{s-1} / σ(K) z_{s-1})      z_s as above      "Linear + Delta"   (9)
    A = g A_mem + (1 - g) A_dot                   g = sigmoid(β), one β for each head                 (10)
    O = [A^1; ...; A^H] W_O                                                                           (11)

Reading comes before writing, so that no token reads its own segment through the memory.

| symbol | here |
|---|---|
| N, segment length | ``block_len`` (S) |
| M_s, z_s | ``matrix``, ``normaliser`` of ``InfiniState`` |
| σ | ``feature_map`` in ``kernels/linear_memory.py`` |
| Linear, Linear + Delta | ``update=linear``, ``update=delta`` |
| β, g | ``gate``, :meth:`InfiniBlock.memory_weight` |
| w, b, u (ours) | :class:`WriteGate` |

**Fast form.** All segments at once: an exclusive prefix sum over segments for (8), a scan over segments of one d x d
product each for (9); see ``kernels/linear_memory.py``. The numbers are those of the loop over segments.

Choices where the paper is silent
* Segments are counted from the start of the sequence. The open segment's keys and values are part of the state; they
  are written when it is whole. A segment with padding in it is never whole: nothing could read it.
* First segment: M_0 = z_0 = 0 make (7) 0/0. ``first_segment=zero`` reads zero and applies the gate, so that
  A = (1 - g) A_dot; ``first_segment=skip`` leaves A = A_dot.
* σ(Q) z below 1e-12 counts as 1e-12; the paper has no epsilon. M and z are float32 or better, also under autocast.
* β starts at 0 (``gate_init``), never decays, and may have its own learning rate (``gate_lr_scale``): others
  have found that at a small common rate it hardly moves. ``gate=hard_sigmoid`` is clamp(β/5 + 1/2, 0, 1).
* Positions: RoPE turns queries and keys of local attention only, relative to the segment's start; the memory gets them
  unturned (section 4.1). Learned positions come in with the embedding and cannot be kept out of it.
* ``attention_dropout`` acts on local attention: the memory's weights are never spelled out.
* ``causal=False`` (classification, not in the paper): tokens see their segment whole; memory flows from left to right.

Deviations
* (6) prints sqrt(d_model); with several heads that flattens the softmax, and we divide by sqrt(d) of a head.
* ``update=delta_corrected`` is an ablation, not the paper's. (9) leaves M as it is when a pair is written again, yet z
  grows, and the pair is read back halved. ARMT's factor on the increment of z mends that.

Remedy (ours). Sums take in every token for good, so that the share of what was written early fades as 1/s. With
``update=gated`` each head decides by a token's key how much of it is written, in both sums of (8):

    u_t σ(K_t) instead of σ(K_t)        u_t = clamp(1/2 + (w·K_t + b)/6, 0, 1)      w [d], b of each head, 0 at first

Tokens with a gate at 0 leave the memory as it is, bit for bit, however many there are. The state does not grow; each
token costs a product of d numbers a head more. At the start all u are 1/2 and cancel in (7): the model is that of the
linear rule, and w learns before b. Outside ±3 the gate is flat and learns no more. (Its slope is 1/6, as that of
``fam_gated``; that of ``gate=hard_sigmoid`` 1/5.)
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.block import BackboneConfig, MemoryBlock, Stream, empty_cache, register
from models.block_window import blocks_at_once, check_window
from models.errors import check_choice
from models.kernels.linear_memory import UPDATES, LinearMemory, empty_memory, feature_map, inverse, segment_memory
from models.kernels.window import KeyValue, complete_blocks, join, trim, window_attention
from models.layers import FeedForward, Residual, SelfProjection, hard_sigmoid, merge_heads, rotate, rotation

GATES = {"sigmoid": 16.0, "hard_sigmoid": 2.5}
"""By name, how far from 0 a gate may start: beyond, its gradient is below 1e-6, or zero."""
RULES = (*UPDATES, "gated")


@dataclass(frozen=True)
class InfiniOptions:
    """Options of ``model=infini``."""

    block_len: int = 64
    """S, tokens in a segment (the paper's N)."""
    update: str = "linear"
    """``linear`` (8) or ``delta`` (9); ``delta_corrected`` and ``gated`` are not the paper's (Deviations, Remedy)."""
    first_segment: str = "zero"
    """Before anything is written: ``zero`` reads zero and applies the gate, ``skip`` leaves local attention alone."""
    gate: str = "sigmoid"
    """``sigmoid`` or ``hard_sigmoid``."""
    gate_init: float = 0.0
    """β at the start; 0 weighs memory and local attention alike."""
    gate_lr_scale: float = 1.0
    """Learning rate of β, as a multiple of the other weights'."""
    blocks_at_once: int | None = None
    """Segments in one fused call of local attention: speed only. None: 1 on a CPU, all of them on a GPU."""

    def __post_init__(self) -> None:
        check_window(self.block_len, 0, self.blocks_at_once)
        check_choice("model.update", self.update, RULES)
        check_choice("model.first_segment", self.first_segment, ("zero", "skip"))
        check_choice("model.gate", self.gate, tuple(GATES))
        if not abs(self.gate_init) <= GATES[self.gate]:
            raise ValueError(
                f"model.gate_init={self.gate_init}: must lie within ±{GATES[self.gate]:g} for gate={self.gate}, "
                "which beyond is flat and never learns"
            )
        if not 0.0 < self.gate_lr_scale < float("inf"):
            raise ValueError(f"model.gate_lr_scale={self.gate_lr_scale}: must be above 0 and finite")


class InfiniState(NamedTuple):
    """One layer's state between two calls."""

    matrix: Float[Tensor, "B H d d"]
    """M of the whole segments, in float32 or better."""
    normaliser: Float[Tensor, "B H d"]
    """z of the whole segments."""
    keys: Float[Tensor, "B H K d"]
    """Keys of the open segment, not rotated: both the memory and local attention will read them."""
    values: Float[Tensor, "B H K d"]
    position: int
    """Tokens so far."""


class WriteGate(nn.Module):
    """u, how much of a token each head writes (see Remedy)."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.num_heads, 1, config.head_width))
        self.bias = nn.Parameter(torch.zeros(config.num_heads, 1, 1))

    def forward(self, keys: Float[Tensor, "B H K d"]) -> Float[Tensor, "B H K 1"]:
        """Between 0 and 1, of the keys as the memory knows them."""
        return hard_sigmoid((keys * self.weight).sum(dim=-1, keepdim=True) + self.bias)


@register("infini", InfiniOptions)
class InfiniBlock(MemoryBlock):
    """Local attention gated with a compressive memory, and feed-forward."""

    sees_ahead = False

    def __init__(self, config: BackboneConfig, options: InfiniOptions, *, causal: bool) -> None:
        super().__init__(config, options, causal=causal)
        self.attend = Residual(config)
        self.project = SelfProjection(config)
        self.gate = nn.Parameter(torch.full((config.num_heads,), float(options.gate_init)))
        self.write_gate = WriteGate(config) if options.update == "gated" else None
        self.feed = Residual(config)
        self.ffn = FeedForward(config)

    def init_state(self, batch_size: int) -> InfiniState:
        """No token yet."""
        heads, width, cache = self.config.num_heads, self.config.head_width, empty_cache(self, batch_size)
        memory = empty_memory(
            batch_size, heads, width, value_width=width, dtype=self.gate.dtype, device=self.gate.device
        )
        return InfiniState(*memory, keys=cache, values=cache, position=0)

    @classmethod
    def reads_memory(cls, options: InfiniOptions) -> bool:
        """Always."""
        return True

    def learning_rate_scales(self) -> dict[str, float]:
        """β's own learning rate."""
        return {"gate": self.options.gate_lr_scale}

    def memory_weight(self) -> Float[Tensor, " H"]:
        """g, the weight that each head gives to the memory (figure 3)."""
        if self.options.gate == "sigmoid":
            return self.gate.sigmoid()
        return (self.gate / 5 + 0.5).clamp(0, 1)

    def forward(
        self, stream: Stream, state: InfiniState | None, mask: Bool[Tensor, "B T"] | None = None
    ) -> tuple[Stream, InfiniState]:
        """See :meth:`MemoryBlock.forward`."""
        x = stream.tokens
        state = state or self.init_state(x.shape[0])
        past = KeyValue(state.keys, state.values)
        q, k, v = self.project(self.attend.before(x))
        own = KeyValue(k, v)
        seen = join([past, own])

        local = self._attend_locally(q, own, past, mask)
        length = seen.length - seen.length % self.options.block_len
        recalled, memory = segment_memory(
            feature_map(q.to(state.matrix.dtype)),
            self._written(seen.keys[:, :, :length].to(state.matrix.dtype)),
            seen.values[:, :, :length],
            LinearMemory(state.matrix, state.normaliser),
            segment_len=self.options.block_len,
            num_open=past.length,
            update="linear" if self.write_gate is not None else self.options.update,
            complete=complete_blocks(mask, past.length, self.options.block_len),
            probe=self.probe,
        )
        if self.memory_off:
            recalled = torch.zeros_like(recalled)
        y = torch.lerp(local, recalled.to(local.dtype), self._weights(state.position, local))
        if self.probe is not None:
            self.probe.gate(self.memory_weight())
        x = self.attend.after(x, self.project.output(y))
        x = self.feed.after(x, self.ffn(self.feed.before(x)))

        cache = trim(seen, self.options.block_len, memory_blocks=0)
        position = state.position + x.shape[1]
        return Stream(x, stream.memory), InfiniState(*memory, *cache, position=position)

    def _written(self, keys: Float[Tensor, "B H K d"]) -> Float[Tensor, "B H K d"]:
        """σ(K) as it enters the memory."""
        if self.write_gate is None:
            return feature_map(keys)
        gate = self.write_gate(keys)
        if self.probe is not None:
            self.probe.gate(gate.squeeze(-1).transpose(1, 2), "write_gate")
        return gate * feature_map(keys)

    def _attend_locally(
        self, q: Tensor, own: KeyValue, past: KeyValue, mask: Tensor | None
    ) -> Float[Tensor, "B H T d"]:
        """A_dot (6): the new tokens over their own segments."""
        if self.config.rotary:
            # Only distances inside a segment count, so the open segment's start may be called zero.
            places = torch.arange(past.length + own.length, device=q.device)
            angles = rotation(places, self.config, q)
            before, new = angles.rows(0, past.length), angles.rows(past.length, past.length + own.length)
            q, own = rotate(q, new), own._replace(keys=rotate(own.keys, new))
            past = past._replace(keys=rotate(past.keys, before))
        return window_attention(
            q,
            own,
            block_len=self.options.block_len,
            memory_blocks=0,
            past=past,
            causal=self.causal,
            key_mask=mask,
            blocks_at_once=blocks_at_once(self.options.blocks_at_once, self.options.block_len, own.values[:, 0]),
            dropout=self.config.attention_dropout if self.training else 0.0,
        )

    def _weights(self, position: int, local: Float[Tensor, "B H T d"]) -> Float[Tensor, "H T1 1"]:
        """Weight g of each head, or of each head and token where the first segment goes without."""
        weights = self.memory_weight()[:, None, None].to(local.dtype)
        if self.options.first_segment == "skip" and position < self.options.block_len:
            places = torch.arange(position, position + local.shape[2], device=local.device)
            weights = weights * (places >= self.options.block_len)[:, None]
        return weights

    def memory(
        self, stream: Stream, state: InfiniState, mask: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B M D2"] | None:
        """One row for each of a key's d features: M_i / z_i, the mean of what it holds, heads side by side."""
        return merge_heads(state.matrix * inverse(state.normaliser.unsqueeze(-1)))

    def state_size(self, seq_len: int) -> int:
        """H·d·(d + 1), and 2·D for each token of the open segment."""
        memory = self.config.width * (self.config.head_width + 1)
        return memory + 2 * (seq_len % self.options.block_len) * self.config.width
