"""Block sliding window attention (BSWA), with the Transformer-XL arm as an option.

Paper: "TransformerFAM", arXiv 2404.09173, section 2.1 and algorithm 1 (its baseline; after Longformer, arXiv
2004.05150). Stop-gradient arm: Transformer-XL, arXiv 1901.02860, section 3.2 (the paper's M1_SG).

    K^_t = [K_{τ-m..τ-1} ; K_{τ,<=t}]      V^ alike                      keys that token t of block τ sees
    A_τ  = Attn(Q_τ, K^, V^) + I_τ                                       (alg. 1)
    O_τ  = FF(Norm(A_τ)) + A_τ

| symbol | here |
|---|---|
| B, block size | ``block_len`` |
| m, memory segments | ``memory_blocks`` |
| τ, block index | ``number`` in ``kernels/window.py`` |
| receptive field, depth·m blocks and the own one | :func:`receptive_field` |

Deviations
* ``causal=False`` (classification): a block is seen whole by its own tokens, and the m blocks before it as above; the
  paper has no such setting. ``lookahead_blocks`` lets its tokens see the blocks after it, too: windows to both sides.
* ``stop_gradient``: the paper does not say where it cuts. As in Transformer-XL, the *inputs* of the memory blocks are
  detached and then projected, so that the projections still learn from them.
"""

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from models.block import BackboneConfig, MemoryBlock, Stream, empty_cache, register
from models.kernels.window import KeyValue, join, trim, window_attention
from models.layers import FeedForward, Residual, SelfProjection, rotate, token_rotation


@dataclass(frozen=True)
class BlockWindowOptions:
    """Options of ``model=block_window``."""

    block_len: int = 64
    """S, tokens in a block."""
    memory_blocks: int = 1
    """m, whole blocks before its own that a token sees."""
    lookahead_blocks: int = 0
    """Blocks after its own that a token sees; only with ``causal=False``."""
    stop_gradient: bool = False
    """Cut the gradient into the memory blocks (Transformer-XL; the paper's M1_SG)."""
    blocks_at_once: int | None = None
    """Blocks in one fused call: speed only. None: 1 on a CPU, all of them on a GPU."""

    def __post_init__(self) -> None:
        check_window(self.block_len, self.memory_blocks, self.blocks_at_once)
        if self.lookahead_blocks < 0:
            raise ValueError(f"model.lookahead_blocks={self.lookahead_blocks}: must be 0 or more")
        if self.stop_gradient and self.memory_blocks == 0:
            raise ValueError("model.stop_gradient has no effect with model.memory_blocks=0: there is nothing to cut")


def check_window(block_len: int, memory_blocks: int, blocks_at_once: int | None) -> None:
    """Raise ValueError unless a window of this shape exists."""
    if block_len < 1:
        raise ValueError(f"model.block_len={block_len}: must be at least 1")
    if memory_blocks < 0:
        raise ValueError(f"model.memory_blocks={memory_blocks}: must be 0 or more")
    if blocks_at_once is not None and blocks_at_once < 1:
        raise ValueError(f"model.blocks_at_once={blocks_at_once}: must be at least 1, or null for the default")


def receptive_field(block_len: int, memory_blocks: int, depth: int) -> int:
    """How many tokens back the first token of a block can reach through ``depth`` layers (section 2.1)."""
    return depth * memory_blocks * block_len


class WindowState(NamedTuple):
    """Keys (rotated) and values of the last m whole blocks and of the open one, and the number of tokens so far."""

    keys: Float[Tensor, "B H K d"]
    values: Float[Tensor, "B H K d"]
    position: int


@register("block_window", BlockWindowOptions)
class BlockWindowBlock(MemoryBlock):
    """Block sliding window attention and feed-forward."""

    sees_ahead = False

    def __init__(self, config: BackboneConfig, options: BlockWindowOptions, *, causal: bool) -> None:
        super().__init__(config, options, causal=causal)
        if causal and options.lookahead_blocks:
            raise ValueError(
                f"model.lookahead_blocks={options.lookahead_blocks}: a causal model sees no block after its own; use 0"
            )
        self.attend = Residual(config)
        self.project = SelfProjection(config)
        self.feed = Residual(config)
        self.ffn = FeedForward(config)

    @classmethod
    def reads_memory(cls, options: BlockWindowOptions) -> bool:
        """Whether a token sees blocks before its own."""
        return options.memory_blocks > 0

    def init_state(self, batch_size: int) -> WindowState:
        """No token yet."""
        return WindowState(empty_cache(self, batch_size), empty_cache(self, batch_size), position=0)

    def forward(
        self, stream: Stream, state: WindowState | None, mask: Bool[Tensor, "B T"] | None = None
    ) -> tuple[Stream, WindowState]:
        """See :meth:`MemoryBlock.forward`."""
        x = stream.tokens
        memory_blocks = 0 if self.memory_off else self.options.memory_blocks
        state = state or self.init_state(x.shape[0])
        past = KeyValue(state.keys, state.values)
        angles = token_rotation(state.position, x.shape[1], self.config, x)
        h = self.attend.before(x)
        q, k, v = self.project(h)
        own = KeyValue(rotate(k, angles), v)
        memory = own
        if self.options.stop_gradient:
            k, v = self.project.keys_and_values(h.detach())
            memory = KeyValue(rotate(k, angles), v)
        y = window_attention(
            rotate(q, angles),
            own,
            block_len=self.options.block_len,
            memory_blocks=memory_blocks,
            lookahead_blocks=self.options.lookahead_blocks,
            past=past,
            memory=memory if self.options.stop_gradient else None,
            causal=self.causal,
            key_mask=mask,
            blocks_at_once=blocks_at_once(self.options.blocks_at_once, self.options.block_len, x),
            dropout=self.config.attention_dropout if self.training else 0.0,
            probe=self.probe,
        )
        x = self.attend.after(x, self.project.output(y))
        x = self.feed.after(x, self.ffn(self.feed.before(x)))
        cache = trim(join([past, memory]), self.options.block_len, memory_blocks)
        return Stream(x, stream.memory), WindowState(*cache, position=state.position + stream.tokens.shape[1])

    def state_size(self, seq_len: int) -> int:
        """At most 2·(m+1)·S·D."""
        return 2 * cached_tokens(seq_len, self.options.block_len, self.options.memory_blocks) * self.config.width


def cached_tokens(seq_len: int, block_len: int, memory_blocks: int) -> int:
    """Tokens whose keys and values are kept after ``seq_len`` tokens: up to m whole blocks, and the open one."""
    whole, num_open = divmod(seq_len, block_len)
    return min(whole, memory_blocks) * block_len + num_open


def blocks_at_once(chosen: int | None, block_len: int, x: Float[Tensor, "B T D"]) -> int:
    """The option, or the default of the device."""
    if chosen is not None:
        return chosen
    return 1 if x.device.type == "cpu" else max(1, x.shape[1] // block_len)
