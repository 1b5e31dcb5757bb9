"""Peers: packages from PyPI that do what a variant here does, brought to our signatures so that both can be measured.

Nothing that trains needs them. ``make bench`` installs them into an environment of its own, and each is imported when
one of its models is built.

Sizes are ours as near as a peer allows: a gated feed-forward is 2/3 as wide, so that it has as many weights, and where
a peer fixes its width that is four times the model's. Positions, norms and initial values are the peer's own.
"""

import importlib.util
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Peer:
    """What a peer is, and how it is not ours."""

    name: str
    """In tables, and for the functions here."""
    package: str
    """On PyPI; pinned in requirements-bench.txt or requirements-bench-nodeps.txt."""
    variant: str
    """Ours, or a preset of ours, that it corresponds to."""
    differs: str
    """From ours: known deviations and defects, in a line."""
    is_causal: bool = True
    """Whether no position of the language model sees a later one."""

    @property
    def is_installed(self) -> bool:
        """Whether it can be built here."""
        return importlib.util.find_spec(self.package.replace("-", "_")) is not None

    @property
    def version(self) -> str:
        """Of the installed package."""
        return metadata.version(self.package)


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "infini-transformer-pytorch",
            "infini-transformer-pytorch",
            "infini",
            "the first segment has no gate; a head starts with a gate of 4.5e-5 on its memory",
        ),
        Peer(
            "infini-transformer-pytorch-delta",
            "infini-transformer-pytorch",
            "infini_delta",
            "as infini-transformer-pytorch",
        ),
        Peer(
            "recurrent-memory-transformer-pytorch",
            "recurrent-memory-transformer-pytorch",
            "rmt",
            "a learned key for attending to nothing; memory written is not what is written next; "
            "without Transformer-XL memories, whose training path is not that of generation",
        ),
        Peer(
            "memformer-encoder",
            "memformer",
            "memformer",
            "slots are updated by a GRU and a feed-forward; the encoder reads both ways, and its relative bias tells "
            "future tokens apart by one value only",
            is_causal=False,
        ),
        Peer(
            "x-transformers",
            "x-transformers",
            "mat",
            "memory tokens in front of the whole sequence, not of each segment; causal among themselves",
        ),
        Peer(
            "local-attention",
            "local-attention",
            "block_window",
            "positions count inside a window; scores are a full matrix for each window",
        ),
        Peer(
            "block-recurrent-transformer-pytorch",
            "block-recurrent-transformer-pytorch",
            "fam",
            "the nearest kin, not the same: gated states in one layer, written by cross-attention",
        ),
        Peer(
            "linear-attention-transformer",
            "linear-attention-transformer",
            "linear",
            "approximate: a bucket of 64 tokens sees whole buckets before it, nothing of itself",
        ),
    )
}


def installed() -> tuple[str, ...]:
    """Names of the peers that can be built here."""
    return tuple(name for name, peer in PEERS.items() if peer.is_installed)


class Sizes(NamedTuple):
    """Of a whole model."""

    vocab_size: int
    max_len: int
    width: int
    depth: int
    num_heads: int
    ffn_width: int
    segment_len: int
    memory_len: int

    @property
    def shared(self) -> dict[str, int]:
        """What most peers call by the same names."""
        return {"num_tokens": self.vocab_size, "dim": self.width, "depth": self.depth, "heads": self.num_heads}

    @property
    def head_width(self) -> int:
        """Width of one head."""
        return self.width // self.num_heads

    @property
    def ffn_multiple(self) -> float:
        """Feed-forward over model width."""
        return self.ffn_width / self.width

    @property
    def whole_len(self) -> int:
        """The longest sequence, in whole segments."""
        return math.ceil(self.max_len / self.segment_len) * self.segment_len


def build_language_model(name: str, **sizes: int) -> nn.Module:
    """A peer's whole model, from tokens ``[B, T]`` to logits ``[B, T, V]``.

    Args:
        name: One of :func:`installed`.
        **sizes: All of ``vocab_size``, ``max_len``, ``width``, ``depth``, ``num_heads``, ``ffn_width``,
            ``segment_len`` (also the length of a window or block) and ``memory_len``.
    """
    return _LANGUAGE_MODELS[_known(name)](Sizes(**sizes))


def build_encoder(name: str, **sizes: int) -> nn.Module:
    """An encoder, from tokens ``[B, T]`` to rows ``[B, T, D]``, of those peers that have one; sizes as above."""
    return _ENCODERS[_known(name)](Sizes(**sizes))


def build_attention(name: str, *, width: int, num_heads: int, segment_len: int) -> nn.Module:
    """Projections and attention alone of those peers that have them apart, from ``[B, T, D]`` to ``[B, T, D]``.

    They have no biases, and no norm in front.
    """
    return _ATTENTIONS[_known(name)](width, num_heads, segment_len)


def _known(name: str) -> str:
    if name not in PEERS:
        raise ValueError(f"no peer is called {name!r}; there are {', '.join(PEERS)}")
    if not PEERS[name].is_installed:
        raise ValueError(f"peer {name} needs the package {PEERS[name].package}: see requirements-bench.txt")
    return name


# ---- from segments to sequences


class Segments(nn.Module):
    """A segment-recurrent model walked over a whole sequence, the graph kept: full back-propagation through time."""

    def __init__(
        self, model: nn.Module, segment_len: int, step: Callable[[nn.Module, Tensor, Any], tuple[Tensor, Any]]
    ) -> None:
        super().__init__()
        self.model, self.segment_len, self.step = model, segment_len, step

    def forward(self, tokens: Tensor) -> Tensor:
        """Outputs of all segments."""
        outputs, memory = [], None
        for segment in tokens.split(self.segment_len, dim=1):
            output, memory = self.step(self.model, segment, memory)
            outputs.append(output)
        return torch.cat(outputs, dim=1)


class WholeBuckets(nn.Module):
    """A causal model that takes multiples of a length only."""

    def __init__(self, model: nn.Module, bucket_len: int) -> None:
        super().__init__()
        self.model, self.bucket_len = model, bucket_len

    def forward(self, tokens: Tensor) -> Tensor:
        """Outputs of the tokens; what fills the last bucket stands behind them."""
        num_tokens = tokens.shape[1]
        return self.model(functional.pad(tokens, (0, -num_tokens % self.bucket_len)))[:, :num_tokens]


# ---- one builder for each


def _infini(sizes: Sizes, *, delta: bool = False) -> nn.Module:
    from infini_transformer_pytorch import InfiniTransformer

    model = InfiniTransformer(
        **sizes.shared, dim_head=sizes.head_width, ff_mult=sizes.ffn_multiple, use_mem_delta_rule=delta
    )

    def step(model: nn.Module, tokens: Tensor, memory: Any) -> tuple[Tensor, Any]:
        logits, _, memory = model(tokens, past_memories=memory, return_new_memories=True)
        return logits, memory

    return Segments(model, sizes.segment_len, step)


def _infini_attention(width: int, num_heads: int, segment_len: int, *, delta: bool = False) -> nn.Module:
    from infini_transformer_pytorch.infini_transformer import CausalAttention

    attention = CausalAttention(width, dim_head=width // num_heads, heads=num_heads, use_mem_delta_rule=delta)
    attention.norm = nn.Identity()

    def step(attention: nn.Module, x: Tensor, memory: Any) -> tuple[Tensor, Any]:
        y, _, memory = attention(x, past_memories=memory, return_new_memories=True)
        return y, memory

    return Segments(attention, segment_len, step)


def _rmt(sizes: Sizes) -> nn.Module:
    from recurrent_memory_transformer_pytorch import RecurrentMemoryTransformer

    model = RecurrentMemoryTransformer(
        **sizes.shared,
        dim_head=sizes.head_width,
        ff_mult=sizes.ffn_multiple,
        num_memory_tokens=sizes.memory_len,
        seq_len=sizes.segment_len,
        use_flash_attn=True,
        use_xl_memories=False,
        num_residual_streams=1,
    )

    def step(model: nn.Module, tokens: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        with warnings.catch_warnings():  # it chooses its kernel in a way that torch has renamed
            warnings.simplefilter("ignore", FutureWarning)
            logits, memory_after, _ = model(tokens, memory)
        return logits, memory_after

    return Segments(model, sizes.segment_len, step)


def _memformer(sizes: Sizes) -> nn.Module:
    return nn.Sequential(_memformer_encoder(sizes), nn.Linear(sizes.width, sizes.vocab_size))


def _memformer_encoder(sizes: Sizes) -> nn.Module:
    from memformer import Memformer

    encoder = Memformer(
        dim=sizes.width,
        num_memory_slots=sizes.memory_len,
        mem_update_attn_heads=sizes.num_heads,
        encoder_only=True,
        enc_num_tokens=sizes.vocab_size,
        enc_max_seq_len=sizes.segment_len,
        enc_depth=sizes.depth,
        enc_heads=sizes.num_heads,
    )

    def step(encoder: nn.Module, tokens: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        return encoder(tokens, mems=memory)

    return Segments(encoder, sizes.segment_len, step)


def _x_transformers(sizes: Sizes, *, encoder: bool = False) -> nn.Module:
    from x_transformers import Decoder, Encoder, TransformerWrapper

    layers = (Encoder if encoder else Decoder)(
        dim=sizes.width,
        depth=sizes.depth,
        heads=sizes.num_heads,
        attn_dim_head=sizes.head_width,
        attn_flash=True,
        ff_mult=sizes.ffn_multiple,
    )
    return TransformerWrapper(
        num_tokens=sizes.vocab_size,
        max_seq_len=sizes.max_len,
        num_memory_tokens=sizes.memory_len,
        attn_layers=layers,
        return_only_embed=encoder,
    )


def _local_attention(sizes: Sizes) -> nn.Module:
    from local_attention import LocalTransformer

    return LocalTransformer(
        **sizes.shared,
        dim_head=sizes.head_width,
        ff_mult=sizes.ffn_multiple,
        max_seq_len=sizes.max_len,
        local_attn_window_size=sizes.segment_len,
        exact_windowsize=False,
        num_residual_streams=1,
    )


def _local_attention_alone(width: int, num_heads: int, segment_len: int) -> nn.Module:
    from local_attention.transformer import LocalMHA

    return LocalMHA(
        dim=width,
        window_size=segment_len,
        dim_head=width // num_heads,
        heads=num_heads,
        causal=True,
        exact_windowsize=False,
        use_rotary_pos_emb=False,
    )


def _block_recurrent(sizes: Sizes) -> nn.Module:
    from block_recurrent_transformer_pytorch import BlockRecurrentTransformer

    model = BlockRecurrentTransformer(
        **sizes.shared,
        dim_head=sizes.head_width,
        ff_mult=sizes.ffn_multiple,
        max_seq_len=sizes.whole_len,
        block_width=sizes.segment_len,
        num_state_vectors=sizes.memory_len,
        recurrent_layers=(max(1, sizes.depth // 2),),  # the middle, as its default
        use_flash_attn=True,
    )

    def whole(model: nn.Module, tokens: Tensor, memory: None) -> tuple[Tensor, None]:
        with warnings.catch_warnings():  # as above
            warnings.simplefilter("ignore", FutureWarning)
            return model(tokens)[0], None

    return Segments(model, sizes.whole_len, whole)  # it walks over its blocks itself


LINEAR_BUCKET = 64


def _linear(sizes: Sizes) -> nn.Module:
    from linear_attention_transformer import LinearAttentionTransformerLM

    model = LinearAttentionTransformerLM(
        **sizes.shared,
        dim_head=sizes.head_width,
        max_seq_len=math.ceil(sizes.max_len / LINEAR_BUCKET) * LINEAR_BUCKET,
        causal=True,
        blindspot_size=LINEAR_BUCKET,
        use_axial_pos_emb=False,
    )
    return WholeBuckets(model, LINEAR_BUCKET)


def _linear_attention(width: int, num_heads: int, segment_len: int) -> nn.Module:
    from linear_attention_transformer.linear_attention_transformer import SelfAttention

    return SelfAttention(width, num_heads, causal=True, blindspot_size=LINEAR_BUCKET)


_LANGUAGE_MODELS: dict[str, Callable[[Sizes], nn.Module]] = {
    "infini-transformer-pytorch": _infini,
    "infini-transformer-pytorch-delta": partial(_infini, delta=True),
    "recurrent-memory-transformer-pytorch": _rmt,
    "memformer-encoder": _memformer,
    "x-transformers": _x_transformers,
    "local-attention": _local_attention,
    "block-recurrent-transformer-pytorch": _block_recurrent,
    "linear-attention-transformer": _linear,
}
_ENCODERS: dict[str, Callable[[Sizes], nn.Module]] = {
    "memformer-encoder": _memformer_encoder,
    "x-transformers": partial(_x_transformers, encoder=True),
}
_ATTENTIONS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "infini-transformer-pytorch": _infini_attention,
    "infini-transformer-pytorch-delta": partial(_infini_attention, delta=True),
    "local-attention": _local_attention_alone,
    "linear-attention-transformer": _linear_attention,
}
