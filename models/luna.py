"""Luna: linear unified nested attention, bidirectional and causal.

Paper: "Luna: Linear Unified Nested Attention", arXiv 2106.01540, sections 3.1-3.3; details from the authors' code
(XuezheMax/fairseq-apollo, first release).

Bidirectional. M memory vectors P read the sequence (*pack*), and the sequence reads what they packed (*unpack*):

    Y_P = Attn(P, C)        softmax over positions            Y_X = Attn(X, Y_P)      softmax over the M slots
    X_A = LN(X + Y_X)       P' = LN(P + Y_P)                  X'  = LN(X_A + FFN(X_A))

P enters the bottom layer as a learned parameter, and each later layer takes the layer below's P'. P gets no
feed-forward.

Causal (section 3.3). Nothing is packed across positions, as that would show the future. With

    f(x, y, z)_t = 1/t x_t sum_{j<=t} y_j^T z_j

    pi = omega(P Wp (C Wc)^T)^T        u = softmax_M(f(X Wq, C Wk, pi))        Y = f(u, pi, C Wv)

| symbol | here |
|---|---|
| P, l slots | ``stream.memory``, M = ``memory_len`` |
| p-query, q, and keys/values of pack and unpack | ``pack_query``, ``query``, ``pack_context``, ``unpack_context`` |
| omega = log2(1 + 2^x), so omega(0) = 1 (final version; elu + 1 first) | :func:`omega` |
| the two running sums and t | ``LunaState`` |

``tied`` makes K = V inside each attention (5 D^2 weights instead of 7 D^2); it does not tie pack and unpack.

Two readings. The defaults are the authors': pack and unpack have projections of their own, and Y_P is never projected.
``shared`` is the reading of ConvLuna's authors (arXiv 2404.00798, vladyorsh/lra_efficient_transformers at ede87b9,
LunaBlock), whose baseline packs and unpacks with *one* attention module (4 D^2), so that Y_P passes its output
projection as well. The causal form packs no Y_P: there ``shared`` shares queries and keys.
``fresh_memory``: each layer starts from a learned P of its own instead of the layer below's P' (an ablation that the
paper is said to hold; its numbers were not found).

Deviations
* Post-norm is the paper's; pre-norm hands the normed streams to the attentions and norms both at the end.
* Shared with all variants here, not the authors': initialisation (theirs: Xavier with gain 1/sqrt(2) for each D x D
  matrix), no norm after the embedding, a GELU with bias in the classifier.
* The authors cut P to the sequence's length where that is shorter than M; here P always has M slots.
* Causal: P is static (a query only), and every layer takes the same P from the bottom, as there is no encoder to fill
  it. Positions may be learned, as in the paper, or rotary: f is a linear attention without normaliser, so RoPE on its
  queries and keys is well defined, and lets it run past any length. Padding packs nothing.
* Bidirectional Luna cannot use RoPE: slots have no position to rotate against. Asking for it is an error.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from models.block import BackboneConfig, MemoryBlock, Stream, register
from models.kernels.causal_luna import LunaSums, causal_luna, empty_sums, omega, packed_rows
from models.kernels.softmax import attention, visible
from models.layers import FeedForward, Residual, learned_slots, make_norm, merge_heads, rotate, rotation, split_heads


@dataclass(frozen=True)
class LunaOptions:
    """Options of ``model=luna``."""

    memory_len: int = 16
    """M, the number of memory slots (the paper's l: 16, 128, 256)."""
    tied: bool = False
    """Share keys and values inside each attention (the paper's LRA runs: untied)."""
    shared: bool = False
    """Pack and unpack with one attention, output projection included (ConvLuna's authors; Luna's authors: two)."""
    fresh_memory: bool = False
    """Each layer starts from a learned P of its own instead of the layer below's P' (causal: instead of one P)."""
    chunk_len: int = 64
    """Tokens per chunk of the causal form: speed only."""

    def __post_init__(self) -> None:
        for name in ("memory_len", "chunk_len"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name}={getattr(self, name)}: must be at least 1")


class LunaState(NamedTuple):
    """Causal: the running sums in float32 or better. Bidirectional: nothing travels along time."""

    key_pack: Float[Tensor, "B H d M"] | None
    pack_value: Float[Tensor, "B H M d"] | None
    position: int
    """t, tokens so far."""


@register("luna", LunaOptions)
class LunaBlock(MemoryBlock):
    """Pack, unpack, feed-forward."""

    def __init__(self, config: BackboneConfig, options: LunaOptions, *, causal: bool) -> None:
        super().__init__(config, options, causal=causal)
        if config.rotary and not causal:
            raise ValueError(
                f"backbone.positions={config.positions}: luna that reads both ways needs learned positions, since its "
                "memory slots have no place to rotate against; use backbone.positions=learned"
            )
        width, copies = config.width, 1 if options.tied else 2
        self.pack_query = nn.Linear(width, width)
        self.query = self.pack_query if options.shared else nn.Linear(width, width)
        if not causal:
            self.pack_context = nn.Linear(width, copies * width)
            self.memory_norm = make_norm(config)
        elif not options.shared:
            self.pack_context = nn.Linear(width, width)
        one = options.shared and not causal
        self.unpack_context = self.pack_context if one else nn.Linear(width, copies * width)
        self.out = nn.Linear(width, width)
        self.attend = Residual(config)
        self.feed = Residual(config)
        self.ffn = FeedForward(config)
        self.own_memory = learned_slots(options.memory_len, config) if options.fresh_memory else None

    @classmethod
    def memory_len(cls, options: LunaOptions) -> int:
        """M, unless each layer has a P of its own."""
        return 0 if options.fresh_memory else options.memory_len

    @classmethod
    def has_memory(cls, options: LunaOptions) -> bool:
        """Always, whoever learns P."""
        return True

    def init_state(self, batch_size: int) -> LunaState:
        """No token yet."""
        if not self.causal:
            return LunaState(None, None, position=0)
        sizes = self.config.num_heads, self.config.head_width, self.options.memory_len
        return LunaState(*empty_sums(batch_size, *sizes, like=self.query.weight), position=0)

    def forward(
        self, stream: Stream, state: LunaState | None, mask: Bool[Tensor, "B T"] | None = None
    ) -> tuple[Stream, LunaState]:
        """See :meth:`MemoryBlock.forward`."""
        x, memory = stream.tokens, stream.memory
        if self.own_memory is not None:
            memory = self.attend.dropout(self.own_memory)[None]
        assert memory is not None
        state = state or self.init_state(x.shape[0])
        h = self.attend.before(x)
        if self.causal:
            y, state = self._attend_causally(h, memory, state, mask)
        else:
            y, memory = self._pack_and_unpack(h, memory, mask)
            state = state._replace(position=state.position + x.shape[1])
        x = self.attend.after(x, self.out(torch.zeros_like(y) if self.memory_off else y))
        x = self.feed.after(x, self.ffn(self.feed.before(x)))
        return Stream(x, memory), state

    def _pack_and_unpack(
        self, context: Tensor, memory: Tensor, mask: Tensor | None
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B M D"]]:
        """Y_X before its output projection, and P'."""
        dropout = self.config.attention_dropout if self.training else 0.0
        normed = self.memory_norm(memory) if self.attend.pre else memory
        # At the bottom P is one for the whole batch: it is projected once.
        pack_query = self._heads(self.pack_query(normed)).expand(context.shape[0], -1, -1, -1)
        key_mask = None if mask is None else visible(mask)
        keys, values = self._keys_and_values(self.pack_context(context))
        packed = merge_heads(attention(pack_query, keys, values, mask=key_mask, dropout=dropout))
        if self.probe is not None:
            self.probe.softmax("write", pack_query, keys)
        if self.options.shared:
            packed = self.out(packed)
        keys, values = self._keys_and_values(self.unpack_context(packed))
        q = self._heads(self.query(context))
        y = attention(q, keys, values, dropout=dropout)
        if self.probe is not None:
            self.probe.softmax("read", q, keys)
        memory = memory + self.attend.dropout(packed)
        return merge_heads(y), memory if self.attend.pre else self.memory_norm(memory)

    def _attend_causally(
        self, context: Tensor, memory: Tensor, state: LunaState, mask: Tensor | None
    ) -> tuple[Float[Tensor, "B T D"], LunaState]:
        """Y before its output projection, and the running sums."""
        assert state.key_pack is not None
        assert state.pack_value is not None
        scale = 1.0 / math.sqrt(self.config.head_width)
        num_tokens = context.shape[1]
        k, v = self._keys_and_values(self.unpack_context(context))
        pack_keys = k if self.options.shared else self._heads(self.pack_context(context))
        pack_query = self._heads(self.pack_query(memory)) * scale
        pack = omega(pack_keys @ pack_query.transpose(-1, -2))  # [B, H, T, M]
        if mask is not None:
            pack = pack * mask[:, None, :, None]
        if self.training and self.config.attention_dropout:
            pack = functional.dropout(pack, self.config.attention_dropout)
        q = self._heads(self.query(context)) * scale
        if self.config.rotary:
            places = torch.arange(state.position, state.position + num_tokens, device=context.device)
            angles = rotation(places, self.config, context)
            q, k = rotate(q, angles), rotate(k, angles)
        y, sums = causal_luna(
            q,
            k,
            v,
            pack,
            LunaSums(state.key_pack, state.pack_value),
            num_before=state.position,
            chunk_len=self.options.chunk_len,
            dropout=self.config.attention_dropout if self.training else 0.0,
            probe=self.probe,
        )
        return merge_heads(y), LunaState(*sums, position=state.position + num_tokens)

    def _heads(self, x: Tensor) -> Tensor:
        return split_heads(x, self.config.num_heads)

    def _keys_and_values(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """One matrix for both when tied, else two side by side."""
        if self.options.tied:
            shared = self._heads(projected)
            return shared, shared
        keys, values = projected.chunk(2, dim=-1)
        return self._heads(keys), self._heads(values)

    def memory(
        self, stream: Stream, state: LunaState, mask: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B M D2"] | None:
        """P' (bidirectional), or the packed values of all heads side by side (causal)."""
        if not self.causal:
            return stream.memory
        assert state.pack_value is not None
        return packed_rows(state.pack_value, state.position, mask)

    def state_size(self, seq_len: int) -> int:
        """2·M·D, whatever the length (causal); nothing travels along time otherwise."""
        return 2 * self.options.memory_len * self.config.width if self.causal else 0
