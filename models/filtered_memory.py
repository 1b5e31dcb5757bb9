"""ConvLuna: Luna that packs a filtered sequence. Bidirectional; and a causal form of our own.

Paper: "On Difficulties of Attention Factorization through Shared Memory", arXiv 2404.00798. Its equations and tables
could not be had, so the source is its authors' code (vladyorsh/lra_efficient_transformers at ede87b9), and the block's
defaults are what that code trains as ConvLuna. X are the tokens, P the memory, split(.) cuts the width into heads:

    pack     q = split(P W_q)/exp(t)    k~ = F(split(X W_k))    v~ = F(split(X))      softmax over filtered positions
             Y_P = concat(softmax(q k~^T) v~) W_o
    unpack   q = split(X W_q)           k = split(Y_P W_k)      v = split(Y_P)        softmax over the M slots
             Y_X = concat(softmax(q k^T) v) W_o
    X_A = LN(X + Y_X)        P' = LN(P + Y_P)        X' = LN(X_A + FFN(X_A))

F is one filter for packing keys and values: a depthwise convolution without bias whose kernel is shared by all channels
of a head, or max pooling. From their Luna (sqrt scales, values projected, no filter) to this, four things change; the
presets ``luna_filter``, ``luna_no_value``, ``luna_pack_temperature`` and ``luna_unpack_unscaled`` change one each.

| symbol | here |
|---|---|
| P, M cells | ``stream.memory``, ``memory_len`` |
| W_q, W_k, (W_v), W_o of unpacking; of packing | ``query`` ... ``out``; ``pack_query`` ... ``pack_out`` |
| F, its kernel size and stride | ``filter``, ``kernel``, ``stride``; weights ``filter_weight`` |
| t, one scalar per block, 0 at first | ``log_temperature`` |

Causal form (ours; the paper has none). Luna's (arXiv 2106.01540, section 3.3) over causally filtered tokens: F~_t sees
the last k tokens, and at the start those that there are. With f(x, y, z)_t = 1/t x_t sum_{j<=t} y_j^T z_j

    pi = omega(s P W_q F~(X W_k)^T)^T      u = softmax_M(f(r X W_q, F~(X W_k), pi))      Y = f(u, pi, F~(X W_v)) W_o

where s is the packing's scale (1, 1/sqrt(d) or exp(-t): how sharply omega switches) and r the unpacking's. What enters
a sum is what is packed, so unpacking keys and values are filtered too (in Y_P W_k above, k is linear in v~). RoPE turns
q and k after the filter. P is a query only. The state holds the two sums and the inputs of the last k-1 tokens.
* ``stride`` must be 1: causal tokens meet in the sums alone, so a token between two windows would not know its nearest
  predecessors.
* ``sharing=qk`` is refused, since it is ``full``: there is one value and one output projection only.

Choices
* Windows. The authors pad the convolution at stride 1 ("same", (k-1)//2 tokens in front) and nothing else, so max
  pooling and strides lose up to k-1 last tokens, and a sequence shorter than k packs nothing. Here window n starts at
  token n·stride as theirs does, and the last windows are cut short: ceil(T/stride) filtered positions, the same ones
  wherever they had any.
* Padding. Theirs can win a maximum, or stays in the softmax as a zero. Here it does not exist (``kernels/filters.py``),
  and a filtered position is real when its window starts at a real token: with padding on the right, when it holds one.
* A stride above k is refused: the tokens between two windows would reach nobody.
* Their unpacking has no scale because an argument slipped (the flag for it is dead); ``unpack_scale=none`` is that.
* ``sharing=qk`` is their script of May 2023. ``none`` is their non-simplified block, where a slip shares nothing.

Deviations
* Post-norm is theirs; pre-norm hands the normed streams to both attentions, raw values included.
* Shared with all variants here: initialisation, positions that start random (theirs: zero), no weight decay on kernel
  and temperature, the classifier. CLS, mean and memory pooling: ``backbone.pooling``. Their M is 256.
* As in ``luna``, RoPE is refused where the model reads both ways: slots have no position to rotate against.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from models.block import BackboneConfig, MemoryBlock, Stream, register
from models.errors import check_choice
from models.kernels.causal_luna import LunaSums, causal_luna, empty_sums, omega, packed_rows
from models.kernels.filters import convolve, max_pool
from models.kernels.softmax import attention, visible
from models.layers import FeedForward, Residual, make_norm, merge_heads, rotate, rotation, split_heads

FILTERS = ("conv", "max_pool", "none")
PACK_TEMPERATURES = ("unit", "sqrt", "learn")
UNPACK_SCALES = ("none", "sqrt")
SHARINGS = ("full", "qk", "none")


@dataclass(frozen=True)
class FilteredMemoryOptions:
    """Options of ``model=filtered_memory``."""

    memory_len: int = 16
    """M, the number of memory slots."""
    filter: str = "conv"
    """On packing keys and values: ``conv`` (a kernel per head), ``max_pool``, or ``none``."""
    kernel: int = 4
    """k, tokens in a window; 1 with ``filter=none``, and only there."""
    stride: int = 1
    """Tokens from the start of one window to that of the next, at most k; 1 in the causal form."""
    value_projection: bool = False
    """Project values; otherwise the input itself is cut into heads."""
    pack_temperature: str = "learn"
    """What packing logits are divided by: ``unit`` 1, ``sqrt`` sqrt(d), ``learn`` exp(t) with a trained t."""
    unpack_scale: str = "none"
    """``sqrt`` divides unpacking logits by sqrt(d)."""
    sharing: str = "full"
    """What pack and unpack share: ``full`` all projections, ``qk`` those of queries and keys, ``none``."""
    chunk_len: int = 64
    """Tokens per chunk of the causal form: speed only."""

    def __post_init__(self) -> None:
        check_choice("model.filter", self.filter, FILTERS)
        check_choice("model.pack_temperature", self.pack_temperature, PACK_TEMPERATURES)
        check_choice("model.unpack_scale", self.unpack_scale, UNPACK_SCALES)
        check_choice("model.sharing", self.sharing, SHARINGS)
        for name in ("memory_len", "kernel", "stride", "chunk_len"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name}={getattr(self, name)}: must be at least 1")
        for name in ("kernel", "stride"):
            if self.filter == "none" and getattr(self, name) != 1:
                raise ValueError(
                    f"model.{name}={getattr(self, name)} has no effect with model.filter=none: set it to 1"
                )
        if self.filter != "none" and self.kernel == 1:
            raise ValueError(
                "model.kernel=1: a window of one token filters nothing; use 2 or more, or model.filter=none"
            )


class FilteredMemoryState(NamedTuple):
    """Causal: two running sums, in float32 or better, and a tail. Bidirectional: nothing travels along time."""

    key_pack: Float[Tensor, "B H d M"] | None
    pack_value: Float[Tensor, "B H M d"] | None
    tail: Float[Tensor, "B K D"] | None
    """What the attention was given for the last K = min(t, k-1) tokens: the next windows begin there."""
    position: int
    """t, tokens so far."""


@register("filtered_memory", FilteredMemoryOptions)
class FilteredMemoryBlock(MemoryBlock):
    """Filter, pack, unpack, feed-forward."""

    def __init__(self, config: BackboneConfig, options: FilteredMemoryOptions, *, causal: bool) -> None:
        super().__init__(config, options, causal=causal)
        _check(config, options, causal)

        def project() -> nn.Linear:
            return nn.Linear(config.width, config.width)

        def values() -> nn.Module:
            return project() if options.value_projection else nn.Identity()

        # What is shared is one module under two names.
        apart = options.sharing == "none"
        self.query, self.key, self.value, self.out = project(), project(), values(), project()
        self.pack_query = project() if apart else self.query
        self.pack_key = project() if apart else self.key
        if not causal:
            self.pack_value = self.value if options.sharing == "full" else values()
            self.pack_out = self.out if options.sharing == "full" else project()
            self.memory_norm = make_norm(config)

        learns = options.pack_temperature == "learn"
        self.log_temperature = nn.Parameter(torch.zeros(())) if learns else None
        bound = options.kernel**-0.5
        weight = torch.empty(config.num_heads, options.kernel).uniform_(-bound, bound)
        self.filter_weight = nn.Parameter(weight) if options.filter == "conv" else None

        self.attend = Residual(config)
        self.feed = Residual(config)
        self.ffn = FeedForward(config)

    @classmethod
    def memory_len(cls, options: FilteredMemoryOptions) -> int:
        """M."""
        return options.memory_len

    def init_state(self, batch_size: int) -> FilteredMemoryState:
        """No token yet."""
        if not self.causal:
            return FilteredMemoryState(None, None, None, position=0)
        sizes = self.config.num_heads, self.config.head_width, self.options.memory_len
        sums = empty_sums(batch_size, *sizes, like=self.query.weight)
        return FilteredMemoryState(
            *sums, tail=self.query.weight.new_empty(batch_size, 0, self.config.width), position=0
        )

    def forward(
        self, stream: Stream, state: FilteredMemoryState | None, mask: Bool[Tensor, "B T"] | None = None
    ) -> tuple[Stream, FilteredMemoryState]:
        """See :meth:`MemoryBlock.forward`."""
        x, memory = stream.tokens, stream.memory
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
        self, context: Float[Tensor, "B T D"], memory: Float[Tensor, "B2 M D"], mask: Bool[Tensor, "B T"] | None
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B M D"]]:
        """Y_X before its output projection, and P'."""
        dropout = self.config.attention_dropout if self.training else 0.0
        normed = self.memory_norm(memory) if self.attend.pre else memory
        # At the bottom P is one for the whole batch: it is projected once.
        q = self._heads(self.pack_query(normed) * self._pack_scale()).expand(context.shape[0], -1, -1, -1)
        keys = self._filter(self._heads(self.pack_key(context)), mask)
        values = self._filter(self._heads(self.pack_value(context)), mask)
        real = None if mask is None else visible(mask[:, :: self.options.stride])
        packed = attention(q, keys, values, mask=real, dropout=dropout, scale=1.0)
        if self.probe is not None:
            self.probe.softmax("write", q, keys, scale=1.0)
        packed = self.pack_out(merge_heads(packed))  # Y_P
        keys, values = self._heads(self.key(packed)), self._heads(self.value(packed))
        q = self._heads(self.query(context))
        y = attention(q, keys, values, dropout=dropout, scale=self._unpack_scale())
        if self.probe is not None:
            self.probe.softmax("read", q, keys, scale=self._unpack_scale())
        memory = memory + self.attend.dropout(packed)
        return merge_heads(y), memory if self.attend.pre else self.memory_norm(memory)

    def _attend_causally(
        self,
        context: Float[Tensor, "B T D"],
        memory: Float[Tensor, "B2 M D"],
        state: FilteredMemoryState,
        mask: Bool[Tensor, "B T"] | None,
    ) -> tuple[Float[Tensor, "B T D"], FilteredMemoryState]:
        """Y before its output projection, and the state after."""
        assert state.key_pack is not None
        assert state.pack_value is not None
        assert state.tail is not None
        num_tokens, dropout = context.shape[1], self.config.attention_dropout if self.training else 0.0
        seen = torch.cat((state.tail, context), dim=1) if state.tail.shape[1] else context
        k, v = (self._filter_causally(self._heads(rows(seen)), num_tokens) for rows in (self.key, self.value))
        shares = self.options.sharing != "none"
        pack_keys = k if shares else self._filter_causally(self._heads(self.pack_key(seen)), num_tokens)

        slots = self._heads(self.pack_query(memory) * self._pack_scale())
        pack = omega(pack_keys @ slots.transpose(-1, -2))  # [B, H, T, M]
        if mask is not None:
            pack = pack * mask[:, None, :, None]
        q = self._heads(self.query(context)) * self._unpack_scale()
        if self.config.rotary:
            places = torch.arange(state.position, state.position + num_tokens, device=context.device)
            angles = rotation(places, self.config, context)
            q, k = rotate(q, angles), rotate(k, angles)
        y, sums = causal_luna(
            q,
            k,
            v,
            functional.dropout(pack, dropout),
            LunaSums(state.key_pack, state.pack_value),
            num_before=state.position,
            chunk_len=self.options.chunk_len,
            dropout=dropout,
            probe=self.probe,
        )
        tail = seen[:, max(0, seen.shape[1] - (self.options.kernel - 1)) :].clone()  # a copy frees the rest
        return merge_heads(y), FilteredMemoryState(*sums, tail=tail, position=state.position + num_tokens)

    def _filter(self, x: Float[Tensor, "B H T d"], mask: Bool[Tensor, "B T"] | None) -> Float[Tensor, "B H N d"]:
        """F: ceil(T / stride) windows."""
        size, stride = self.options.kernel, self.options.stride
        num_windows = math.ceil(x.shape[2] / stride)
        if self.filter_weight is not None:
            before = (size - 1) // 2 if stride == 1 else 0
            return convolve(x, self.filter_weight, num_windows=num_windows, stride=stride, before=before, real=mask)
        if self.options.filter == "max_pool":
            return max_pool(x, size, num_windows=num_windows, stride=stride, real=mask)
        return x

    def _filter_causally(self, x: Float[Tensor, "B H S d"], num_tokens: int) -> Float[Tensor, "B H T d"]:
        """F~: a window that ends at each of the last ``num_tokens``. Padding needs no care: it stands behind."""
        size = self.options.kernel
        before = size - 1 - (x.shape[2] - num_tokens)
        if self.filter_weight is not None:
            return convolve(x, self.filter_weight, num_windows=num_tokens, before=before)
        return max_pool(x, size, num_windows=num_tokens, before=before) if size > 1 else x

    def _pack_scale(self) -> Tensor | float:
        """What packing logits are multiplied by; it is put on the M queries."""
        if self.log_temperature is not None:
            return torch.exp(-self.log_temperature)
        return self.config.head_width**-0.5 if self.options.pack_temperature == "sqrt" else 1.0

    def _unpack_scale(self) -> float:
        """What unpacking logits are multiplied by."""
        return self.config.head_width**-0.5 if self.options.unpack_scale == "sqrt" else 1.0

    def _heads(self, x: Tensor) -> Tensor:
        return split_heads(x, self.config.num_heads)

    def memory(
        self, stream: Stream, state: FilteredMemoryState, mask: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B M D2"] | None:
        """P' (bidirectional), or the packed values of all heads side by side (causal)."""
        if not self.causal:
            return stream.memory
        assert state.pack_value is not None
        return packed_rows(state.pack_value, state.position, mask)

    def state_size(self, seq_len: int) -> int:
        """2·M·D and at most (k-1)·D (causal); nothing travels along time otherwise."""
        if not self.causal:
            return 0
        return (2 * self.options.memory_len + min(seq_len, self.options.kernel - 1)) * self.config.width


def _check(config: BackboneConfig, options: FilteredMemoryOptions, causal: bool) -> None:
    """Raise ValueError unless these options make sense in this direction."""
    if config.rotary and not causal:
        raise ValueError(
            f"backbone.positions={config.positions}: filtered_memory that reads both ways needs learned positions, "
            "since its memory slots have no place to rotate against; use backbone.positions=learned"
        )
    if causal and options.stride > 1:
        raise ValueError(
            f"model.stride={options.stride}: causal filtered_memory would hide the last tokens until a window is full; "
            "use model.stride=1"
        )
    if options.stride > options.kernel:
        raise ValueError(
            f"model.stride={options.stride}: tokens between windows of model.kernel={options.kernel} would never be "
            f"packed; use at most {options.kernel}"
        )
    if causal and options.sharing == "qk":
        raise ValueError(
            "model.sharing=qk: causal filtered_memory has one value and one output projection, so this is full; "
            "use model.sharing=full"
        )
