"""TransformerFAM: feedback attention as working memory.

Paper: "TransformerFAM: Feedback attention is working memory", arXiv 2404.09173v3, section 2.2, algorithm 2, appendix B.
There is no public code; where the paper is silent, the choice and its reason stand under "Choices".

Each layer keeps F "virtual activations" (FAM). Tokens of block τ read F_{τ-1} beside their window; at the block's end
the same activations, as queries, read the block, and go through the same projections and feed-forward to become F_τ.

    (Q,K,V)_τ = QKV(Norm(I_τ))            (Q^F,K^F,V^F)_{τ-1} = QKV(Norm(F_{τ-1}))     same weights, same norm
    tokens    a_t  = Attn(q_t, [K_{τ-m..τ-1} ; K^F_{τ-1} ; K_{τ,<=t}]) + i_t           O_τ = FF(Norm(A_τ)) + A_τ
    feedback  A^F  = Attn(Q^F_{τ-1}, [K^F_{τ-1} ; K_τ]) + F_{τ-1}                      F_τ = FF(Norm(A^F)) + A^F

| symbol | here |
|---|---|
| B, block size; m, memory segments; L_F | ``block_len``, ``memory_blocks``, ``fam_len`` |
| F_τ, the layer's feedback activations [B, F, D] | ``FamState.fam`` |
| F_0, the learned prompt as it arrives at this layer | ``stream.memory`` |
| K^F_{τ-1}, V^F_{τ-1} as tokens of block τ read them | ``prefix`` |

**Fast form.** F_τ depends on F_{τ-1} and on block τ's keys and values, never on its outputs. So a layer projects all
its tokens at once, runs the chain over blocks with F rows only, and then lets all blocks attend: never block by block
through the stack. The numbers are the same (tests/reference).

Choices (section numbers: the paper's)
* B.1: the prompt is carried through the layers in a pass of its own (slots see each other, ordinary residuals), and
  each layer takes what arrives as its F_0. Letting a layer start from the *updated* FAM of the layer below would leak
  the future inside the first block. First update: the residual is zero, as F_0 holds no context.
* B.2.1: F_τ takes the last F positions of block τ. Tokens read K^F_{τ-1} at the end of block τ-1; for the update, its
  queries and keys stand at the end of block τ (figure 4 shows a copy there). F_0 stands at -F..-1.
* No update before a block is full; a block with padding in it is never full.
* B.2.2, random position offset: RoPE's scores depend on distances only, so an offset of *all* positions changes
  nothing (proved in tests). It can only act on the distance to the prompt, whose positions are fixed: that is what
  the option does.
* B.2.3, random state passing: one coin per step for all layers; batch item 0's last FAM is kept without gradient, all
  sequences start from it, and its residual stays. ``random_state_passing_from`` delays it, since it hurts from step 0.
* ``causal=False`` (classification, not in the paper): tokens see their block whole; FAM flows from left to right.

Remedies (ours). In the paper's update nothing brings F back: each block adds to it, and with the norm in front what was
written early fades as 1/τ (LOG.md). ``update=rescaled`` brings F_τ to unit RMS. ``update=gated`` lets each slot decide:

    g = clamp(1/2 + (W [heads of A^F's attention ; Norm(F_{τ-1})] + b)/6, 0, 1)     F_τ = (1 - g) F_{τ-1} + g F_τ^paper

A gate at 0 keeps its slot bit for bit, over any number of blocks. The first update is never gated.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from models.block import BackboneConfig, MemoryBlock, Stream, empty_cache, register
from models.block_window import blocks_at_once, cached_tokens, check_window
from models.kernels.softmax import attention
from models.kernels.window import KeyValue, join, split_blocks, trim, window_attention
from models.layers import FeedForward, Residual, Rotation, SelfProjection, merge_heads, rotate, rotation

UPDATES = ("residual", "rescaled", "gated")


@dataclass(frozen=True)
class FamOptions:
    """Options of ``model=fam``."""

    block_len: int = 64
    """S, tokens in a block."""
    fam_len: int = 4
    """F, feedback activations per layer. 0 gives ``block_window``, exactly."""
    memory_blocks: int = 1
    """m, whole blocks before its own that a token sees."""
    update: str = "residual"
    """How F_τ follows from F_{τ-1}: "residual" is the paper's; "rescaled" and "gated" are ours (see Remedies)."""
    random_position_offset: bool = False
    """B.2.2, training only: half of the sequences see the prompt from a random distance."""
    random_state_passing: float = 0.0
    """B.2.3, training only: probability of starting from the last step's FAM (the paper: 0.8)."""
    random_state_passing_from: float = 0.0
    """Share of the training after which random state passing begins."""
    blocks_at_once: int | None = None
    """Blocks in one fused call: speed only. None: 1 on a CPU, all of them on a GPU."""

    def __post_init__(self) -> None:
        check_window(self.block_len, self.memory_blocks, self.blocks_at_once)
        if not 0 <= self.fam_len <= self.block_len:
            raise ValueError(
                f"model.fam_len={self.fam_len}: must lie between 0 and model.block_len={self.block_len}, "
                "since FAM takes the last positions of its block"
            )
        if not 0.0 <= self.random_state_passing <= 1.0:
            raise ValueError(f"model.random_state_passing={self.random_state_passing}: must be a probability")
        if not 0.0 <= self.random_state_passing_from < 1.0:
            raise ValueError(f"model.random_state_passing_from={self.random_state_passing_from}: must lie in [0, 1)")
        if self.random_state_passing_from and not self.random_state_passing:
            raise ValueError("model.random_state_passing_from has no effect with model.random_state_passing=0")
        if self.update not in UPDATES:
            raise ValueError(f"model.update={self.update}: must be one of {', '.join(UPDATES)}")
        has_effect = self.update != "residual" or self.random_state_passing or self.random_position_offset
        if self.fam_len == 0 and has_effect:
            raise ValueError("model.fam_len=0: update, random_state_passing and random_position_offset have no effect")


class FamState(NamedTuple):
    """One layer's state between two calls."""

    fam: Float[Tensor, "B2 F D"] | None
    """F_τ, the feedback activations; None before the prompt has arrived."""
    keys: Float[Tensor, "B H K d"]
    """Rotated keys of the last m whole blocks and of the open one."""
    values: Float[Tensor, "B H K d"]
    position: int
    """Tokens so far."""
    is_prompt: bool
    """Whether ``fam`` is still the prompt F_0, whose first update has no residual."""
    first_is_prompt: bool = True
    """The same of batch item 0, which padding may keep from filling its first block."""
    prompt_offset: Int[Tensor, " B"] | None = None
    """Random position offset of this training sequence."""


@register("fam", FamOptions)
class FamBlock(MemoryBlock):
    """Block sliding window attention with feedback attention memory."""

    sees_ahead = False
    carried: Tensor
    """Batch item 0's FAM after the last training step (random state passing)."""
    has_carried: Tensor

    def __init__(self, config: BackboneConfig, options: FamOptions, *, causal: bool) -> None:
        super().__init__(config, options, causal=causal)
        if options.random_position_offset and not config.rotary:
            raise ValueError(
                f"model.random_position_offset has no effect with backbone.positions={config.positions}: it needs rope"
            )
        self.attend = Residual(config)
        self.project = SelfProjection(config)
        self.feed = Residual(config)
        self.ffn = FeedForward(config)
        self.gate = nn.Linear(2 * config.width, 1) if options.update == "gated" else None
        if options.random_state_passing:
            self.register_buffer("carried", torch.zeros(options.fam_len, config.width))
            self.register_buffer("has_carried", torch.zeros((), dtype=torch.bool))

    @classmethod
    def memory_len(cls, options: FamOptions) -> int:
        """The prompt's slots."""
        return options.fam_len

    def init_state(self, batch_size: int) -> FamState:
        """No token yet; the prompt comes up the stream with the first call."""
        return FamState(None, empty_cache(self, batch_size), empty_cache(self, batch_size), position=0, is_prompt=True)

    def forward(
        self, stream: Stream, state: FamState | None, mask: Bool[Tensor, "B T"] | None = None
    ) -> tuple[Stream, FamState]:
        """See :meth:`MemoryBlock.forward`. The prompt is only sent on while a layer above may still need it."""
        x = stream.tokens
        state = state or self.init_state(x.shape[0])
        prompt = stream.memory if self.options.fam_len else None
        if state.fam is None:
            state = state._replace(fam=prompt)
        else:
            prompt = None
        past = KeyValue(state.keys, state.values)

        angles = self._angles(past.length, state.position, x)
        token_angles = angles and angles.rows(self._num_before(past.length), len(angles.cos))
        q, k, v = self.project(self.attend.before(x))
        own = KeyValue(rotate(k, token_angles), v)

        prefix, state = self._feedback(state, past, own, angles, mask)
        y = window_attention(
            rotate(q, token_angles),
            own,
            block_len=self.options.block_len,
            memory_blocks=self.options.memory_blocks,
            past=past,
            prefix=prefix,
            causal=self.causal,
            key_mask=mask,
            blocks_at_once=blocks_at_once(self.options.blocks_at_once, self.options.block_len, x),
            dropout=self._dropout,
        )
        x = self.attend.after(x, self.project.output(y))
        x = self.feed.after(x, self.ffn(self.feed.before(x)))

        cache = trim(join([past, own]), self.options.block_len, self.options.memory_blocks)
        state = state._replace(keys=cache.keys, values=cache.values, position=state.position + x.shape[1])
        return Stream(x, None if prompt is None else self._carry_prompt(prompt)), state

    def _feedback(
        self, state: FamState, past: KeyValue, own: KeyValue, angles: Rotation | None, mask: Tensor | None
    ) -> tuple[Sequence[KeyValue] | None, FamState]:
        """The chain over blocks: what each block's tokens read, and the FAM after the last whole block."""
        if not self.options.fam_len:
            return None, state
        size, batch_size = self.options.block_len, own.keys.shape[0]
        num_open = past.length % size
        open_part = KeyValue(past.keys[:, :, past.length - num_open :], past.values[:, :, past.length - num_open :])
        blocks = split_blocks(join([open_part, own]), size)
        complete = _complete_blocks(mask, num_open, size)

        prefix = []
        for index, block in enumerate(blocks):
            assert state.fam is not None
            q, k, v = (rows.expand(batch_size, -1, -1, -1) for rows in self.project(self.attend.before(state.fam)))
            prefix.append(KeyValue(rotate(k, self._read_angles(state, angles, index)), v))
            if block.length < size:
                break
            updated = self._update(state, q, k, v, block, self._fam_angles(angles, index + 1))
            first_is_prompt = False
            if complete is not None:
                updated = torch.where(complete[index][:, None, None], updated, state.fam)
                if self.options.random_state_passing:  # nothing else asks, and asking waits for the device
                    first_is_prompt = state.first_is_prompt and not bool(complete[index][0])
            state = state._replace(fam=updated, is_prompt=False, first_is_prompt=first_is_prompt, prompt_offset=None)
        return prefix, state

    def _update(
        self, state: FamState, q: Tensor, k: Tensor, v: Tensor, block: KeyValue, angles: Rotation | None
    ) -> Float[Tensor, "B F D"]:
        """F_τ from F_{τ-1}: compress one whole block."""
        assert state.fam is not None
        seen = join([KeyValue(rotate(k, angles), v), block])
        heads = attention(rotate(q, angles), *seen, dropout=self._dropout)
        y = self.project.output(heads)
        # An explicit zero, as it is in float32 where autocast makes y bfloat16: FAM is a sum over all blocks.
        a = self.attend.after(torch.zeros_like(state.fam) if state.is_prompt else state.fam, y)
        updated = self.feed.after(a, self.ffn(self.feed.before(a)))
        if self.options.update == "rescaled":
            return functional.rms_norm(updated, updated.shape[-1:])
        if self.gate is None or state.is_prompt:
            return updated
        before = self.attend.before(state.fam).expand(len(updated), -1, -1)
        score = self.gate(torch.cat((merge_heads(heads), before), dim=-1))
        gate = (score / 6 + 0.5).clamp(0, 1)  # a hard sigmoid; PyTorch's own rounds 1/6 to float32
        return torch.lerp(state.fam.expand_as(updated), updated, gate.to(updated.dtype))

    def _carry_prompt(self, prompt: Float[Tensor, "B2 F D"]) -> Float[Tensor, "B2 F D"]:
        """The prompt's own pass through this layer: slots see each other and nothing else."""
        angles = self._angles(0, 0, prompt[:, :0])
        q, k, v = self.project(self.attend.before(prompt))
        y = attention(rotate(q, angles), rotate(k, angles), v, dropout=self._dropout)
        a = self.attend.after(prompt, self.project.output(y))
        return self.feed.after(a, self.ffn(self.feed.before(a)))

    @property
    def _dropout(self) -> float:
        return self.config.attention_dropout if self.training else 0.0

    def _num_before(self, num_past: int) -> int:
        """Rows of :meth:`_angles` before the first new token: the FAM's own, and the open block's."""
        return self.options.fam_len + num_past % self.options.block_len

    def _angles(self, num_past: int, position: int, x: Tensor) -> Rotation | None:
        """RoPE from the FAM's first place before the open block to the last new token."""
        if not self.config.rotary:
            return None
        start = position - self._num_before(num_past)
        return rotation(torch.arange(start, position + x.shape[1], device=x.device), self.config, x)

    def _fam_angles(self, angles: Rotation | None, index: int) -> Rotation | None:
        """The last F positions before block ``index`` of this call."""
        start = index * self.options.block_len
        return angles and angles.rows(start, start + self.options.fam_len)

    def _read_angles(self, state: FamState, angles: Rotation | None, index: int) -> Rotation | None:
        """Where tokens of block ``index`` find FAM: right before their block, or, with an offset, farther away."""
        if state.prompt_offset is None:
            return self._fam_angles(angles, index)
        places = torch.arange(-self.options.fam_len, 0, device=state.keys.device)
        return rotation((places - state.prompt_offset[:, None])[:, None], self.config, state.keys)

    def memory(
        self, stream: Stream, state: FamState, mask: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B M D2"] | None:
        """F_τ after the last whole block."""
        return None if state.fam is None else state.fam.expand(stream.tokens.shape[0], -1, -1)

    def training_state(self, batch_size: int, *, seed: int, progress: float) -> FamState | None:
        """Random state passing and random position offset (B.2.2, B.2.3)."""
        generator = torch.Generator().manual_seed(seed)
        coins = torch.rand(2, batch_size + 1, generator=generator)
        state = self.init_state(batch_size)
        passing = self.options.random_state_passing > 0 and progress >= self.options.random_state_passing_from
        if passing and bool(self.has_carried) and coins[0, -1] < self.options.random_state_passing:
            state = state._replace(fam=self.carried.expand(batch_size, -1, -1), is_prompt=False, first_is_prompt=False)
        if self.options.random_position_offset:
            longest = 2 * math.pi * (self.config.rope_base or 10_000.0)
            offset = (coins[0, :-1] * longest).long() * (coins[1, :-1] < 0.5)
            state = state._replace(prompt_offset=offset.to(state.keys.device))
        return state

    @torch.no_grad()
    def remember(self, state: FamState) -> None:
        """Keep the first sequence's FAM for a later step."""
        if self.options.random_state_passing and state.fam is not None and not state.first_is_prompt:
            self.carried.copy_(state.fam[0])
            self.has_carried.fill_(True)

    def state_size(self, seq_len: int) -> int:
        """F·D and at most 2·(m+1)·S·D."""
        cached = cached_tokens(seq_len, self.options.block_len, self.options.memory_blocks)
        return (self.options.fam_len + 2 * cached) * self.config.width


def _complete_blocks(mask: Tensor | None, num_open: int, block_len: int) -> Sequence[Tensor] | None:
    """For each block of this call, which sequences fill it with real tokens; None when all do."""
    if mask is None:
        return None
    opened = mask.new_ones(mask.shape[0], num_open)
    return [block.all(dim=1) for block in torch.cat((opened, mask), dim=1).split(block_len, dim=1)]
