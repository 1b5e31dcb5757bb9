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
| F_0, the learned prompt as it arrives at this layer, or its own prefix | ``stream.memory``, ``own_memory`` |
| K^F_{τ-1}, V^F_{τ-1} (and those of older FAMs) as tokens of block τ read them | ``prefix`` |

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

Ablations of the paper
* ``initial=prefix`` (B.1, B.4.6): every layer learns an F_0 of its own, at the level of its input (prefix tuning), and
  nothing is carried. The paper says no more, so the rest is as with the prompt, the zero first residual included.
* ``update=static``, SUM FAM (C.3): the layer's prompt is the query of every block; F_{τ-1} gives keys and values only.
  The residual, which the paper does not state, is the prompt as well, from the first block on.
* ``past_fams`` (table 6): tokens read F_{τ-n}..F_{τ-1}, each where it stood as the latest; the update, F_{τ-1} only.
* ``fam_positions`` (table 7): the slots stand in the gap behind the block's last position p, at p + i/(F+1) for
  i = 1..F (``fractional``), or all at 0 (``zero``).
* FM (C.2) has no FAM and is a variant of its own: ``models/feedback_memory.py``.

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
from models.errors import check_choice
from models.kernels.softmax import attention
from models.kernels.window import KeyValue, complete_blocks, join, split_blocks, trim, window_attention
from models.layers import FeedForward, Residual, Rotation, SelfProjection, merge_heads, rotate, rotation

INITIALS = ("prompt", "prefix")
UPDATES = ("residual", "static", "rescaled", "gated")
FAM_POSITIONS = ("last", "fractional", "zero")


@dataclass(frozen=True)
class FamOptions:
    """Options of ``model=fam``."""

    block_len: int = 64
    """S, tokens in a block."""
    fam_len: int = 4
    """F, feedback activations per layer. 0 gives ``block_window``, exactly."""
    memory_blocks: int = 1
    """m, whole blocks before its own that a token sees."""
    initial: str = "prompt"
    """F_0: a "prompt" carried up through the layers (the paper's), or a "prefix" that each layer learns for itself."""
    update: str = "residual"
    """How F_τ follows from F_{τ-1}: "residual" is the paper's, "static" its ablation, "rescaled" and "gated" ours."""
    past_fams: int = 1
    """How many of the latest FAMs tokens read (the paper: 1)."""
    fam_positions: str = "last"
    """Where FAM stands: "last" positions of its block (the paper's), "fractional" ones behind it, or "zero"."""
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
        check_choice("model.initial", self.initial, INITIALS)
        check_choice("model.update", self.update, UPDATES)
        check_choice("model.fam_positions", self.fam_positions, FAM_POSITIONS)
        if self.past_fams < 1:
            raise ValueError(f"model.past_fams={self.past_fams}: must be at least 1")
        reads_otherwise = self.past_fams > 1 or self.fam_positions != "last"
        is_random = self.random_state_passing or self.random_position_offset
        made_otherwise = self.initial != "prompt" or self.update != "residual"
        if self.fam_len == 0 and (made_otherwise or reads_otherwise or is_random):
            raise ValueError(
                "model.fam_len=0: initial, update, past_fams, fam_positions, random_state_passing and "
                "random_position_offset have no effect"
            )


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
    """Random position offset of this training sequence (on the CPU, as all places of FAM)."""
    older: tuple[KeyValue, ...] = ()
    """Rotated keys and values ``[B, H, F, d]`` of the FAMs before F_τ that tokens still read, oldest first."""


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
        if options.fam_positions != "last" and not config.rotary:
            raise ValueError(
                f"model.fam_positions has no effect with backbone.positions={config.positions}: it needs rope"
            )
        self.attend = Residual(config)
        self.project = SelfProjection(config)
        self.feed = Residual(config)
        self.ffn = FeedForward(config)
        self.gate = nn.Linear(2 * config.width, 1) if options.update == "gated" else None
        shape = options.fam_len, config.width
        self.own_memory = nn.Parameter(torch.empty(shape)) if options.initial == "prefix" else None
        if self.own_memory is not None:
            nn.init.normal_(self.own_memory, std=config.width**-0.5)
        if options.random_state_passing:
            self.register_buffer("carried", torch.zeros(shape))
            self.register_buffer("has_carried", torch.zeros((), dtype=torch.bool))

    @classmethod
    def memory_len(cls, options: FamOptions) -> int:
        """The prompt's slots, unless each layer has a prefix of its own."""
        return 0 if options.initial == "prefix" else options.fam_len

    @classmethod
    def has_memory(cls, options: FamOptions) -> bool:
        """Wherever there is FAM."""
        return options.fam_len > 0

    def init_state(self, batch_size: int) -> FamState:
        """No token yet; the prompt comes up the stream with the first call."""
        return FamState(None, empty_cache(self, batch_size), empty_cache(self, batch_size), position=0, is_prompt=True)

    def forward(
        self, stream: Stream, state: FamState | None, mask: Bool[Tensor, "B T"] | None = None
    ) -> tuple[Stream, FamState]:
        """See :meth:`MemoryBlock.forward`. The prompt is only sent on while a layer above may still need it."""
        x = stream.tokens
        state = state or self.init_state(x.shape[0])
        initial = None
        if state.fam is None or self.options.update == "static":
            initial = stream.memory if self.own_memory is None else self.attend.dropout(self.own_memory)[None]
        if state.fam is None:
            state = state._replace(fam=initial)
        past = KeyValue(state.keys, state.values)

        angles = self._angles(torch.arange(state.position, state.position + x.shape[1], device=x.device), x)
        q, k, v = self.project(self.attend.before(x))
        own = KeyValue(rotate(k, angles), v)

        prefix, state = self._feedback(state, past, own, initial, mask)
        y = window_attention(
            rotate(q, angles),
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
        above = None if initial is None or self.own_memory is not None else self._carry_prompt(initial)
        return Stream(x, above), state

    def _feedback(
        self, state: FamState, past: KeyValue, own: KeyValue, initial: Tensor | None, mask: Tensor | None
    ) -> tuple[Sequence[KeyValue] | None, FamState]:
        """The chain over blocks: what each block's tokens read, and the FAM after the last whole block."""
        if not self.options.fam_len:
            return None, state
        size, batch_size = self.options.block_len, own.keys.shape[0]
        num_open = past.length % size
        open_part = KeyValue(past.keys[:, :, past.length - num_open :], past.values[:, :, past.length - num_open :])
        blocks = split_blocks(join([open_part, own]), size)
        complete = complete_blocks(mask, num_open, size)
        angles = self._fam_angles(state.position - num_open, len(blocks) + 1, own.keys)
        summary = initial if self.options.update == "static" else None

        prefix = []
        for index, block in enumerate(blocks):
            assert state.fam is not None
            source = state.fam
            q, k, v = self._project_fam(source, batch_size)
            read = KeyValue(rotate(k, self._read_angles(state, angles[index])), v)
            readable = (*state.older, read)
            prefix.append(join(readable))
            if block.length < size:
                break
            if summary is not None:
                source, (q, _, _) = summary, self._project_fam(summary, batch_size)
            updated = self._update(state, source, q, KeyValue(k, v), block, angles[index + 1])
            first_is_prompt = False
            if complete is not None:
                updated = torch.where(complete[:, index, None, None], updated, state.fam)
                if self.options.random_state_passing:  # nothing else asks, and asking waits for the device
                    first_is_prompt = state.first_is_prompt and not bool(complete[0, index])
            state = state._replace(
                fam=updated,
                is_prompt=False,
                first_is_prompt=first_is_prompt,
                prompt_offset=None,
                older=readable[1:] if len(readable) == self.options.past_fams else readable,
            )
        return prefix, state

    def _project_fam(self, fam: Float[Tensor, "B2 F D"], batch_size: int) -> list[Tensor]:
        """Queries, keys and values of FAM, or of the prompt; either may be one for all sequences."""
        return [rows.expand(batch_size, -1, -1, -1) for rows in self.project(self.attend.before(fam))]

    def _update(
        self,
        state: FamState,
        source: Tensor,
        q: Tensor,
        fam: KeyValue,
        block: KeyValue,
        angles: Rotation | None,
    ) -> Float[Tensor, "B F D"]:
        """F_τ: the queries of ``source``, which is also the residual, compress F_{τ-1} and one whole block."""
        seen = join([fam._replace(keys=rotate(fam.keys, angles)), block])
        heads = attention(rotate(q, angles), *seen, dropout=self._dropout)
        y = self.project.output(heads)
        holds_nothing = state.is_prompt and self.options.update != "static"
        # An explicit zero, as it is in float32 where autocast makes y bfloat16: FAM is a sum over all blocks.
        a = self.attend.after(torch.zeros_like(source) if holds_nothing else source, y)
        updated = self.feed.after(a, self.ffn(self.feed.before(a)))
        if self.options.update == "rescaled":
            return functional.rms_norm(updated, updated.shape[-1:])
        if self.gate is None or state.is_prompt:
            return updated
        before = self.attend.before(source).expand(len(updated), -1, -1)
        score = self.gate(torch.cat((merge_heads(heads), before), dim=-1))
        gate = (score / 6 + 0.5).clamp(0, 1)  # a hard sigmoid; PyTorch's own rounds 1/6 to float32
        return torch.lerp(source.expand_as(updated), updated, gate.to(updated.dtype))

    def _carry_prompt(self, prompt: Float[Tensor, "B2 F D"]) -> Float[Tensor, "B2 F D"]:
        """The prompt's own pass through this layer: slots see each other and nothing else."""
        (angles,) = self._fam_angles(0, 1, prompt)
        q, k, v = self.project(self.attend.before(prompt))
        y = attention(rotate(q, angles), rotate(k, angles), v, dropout=self._dropout)
        a = self.attend.after(prompt, self.project.output(y))
        return self.feed.after(a, self.ffn(self.feed.before(a)))

    @property
    def _dropout(self) -> float:
        return self.config.attention_dropout if self.training else 0.0

    def _angles(self, places: Tensor, like: Tensor) -> Rotation | None:
        return rotation(places, self.config, like) if self.config.rotary else None

    def _fam_places(self, border: Tensor) -> Int[Tensor, "*N F"] | Float[Tensor, "*N F"]:
        """Where FAM stands between the blocks that meet at ``border``, the first position of the later one."""
        slots = torch.arange(self.options.fam_len, device=border.device)
        if self.options.fam_positions == "zero":
            return torch.zeros_like(border[..., None] + slots)
        if self.options.fam_positions == "fractional":
            return border[..., None] - 1 + (slots + 1).double() / (self.options.fam_len + 1)
        return border[..., None] - self.options.fam_len + slots

    def _fam_angles(self, start: int, num_borders: int, like: Tensor) -> Sequence[Rotation | None]:
        """RoPE of FAM before each block from position ``start`` on."""
        # On the CPU, as Apple's GPUs have no float64 for places between two positions.
        borders = start + self.options.block_len * torch.arange(num_borders)
        angles = self._angles(self._fam_places(borders), like)
        if angles is None:
            return [None] * num_borders
        return [Rotation(cos, sin) for cos, sin in zip(*angles, strict=True)]

    def _read_angles(self, state: FamState, angles: Rotation | None) -> Rotation | None:
        """Where tokens find FAM: where it stands, or, with a random offset, farther away."""
        if state.prompt_offset is None:
            return angles
        places = self._fam_places(torch.zeros_like(state.prompt_offset)) - state.prompt_offset[:, None]
        return self._angles(places[:, None], state.keys)

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
            state = state._replace(prompt_offset=offset)
        return state

    @torch.no_grad()
    def remember(self, state: FamState) -> None:
        """Keep the first sequence's FAM for a later step."""
        if self.options.random_state_passing and state.fam is not None and not state.first_is_prompt:
            self.carried.copy_(state.fam[0])
            self.has_carried.fill_(True)

    def state_size(self, seq_len: int) -> int:
        """F·D, 2·F·D for each older FAM that is read, and at most 2·(m+1)·S·D."""
        cached = cached_tokens(seq_len, self.options.block_len, self.options.memory_blocks)
        num_older = min(seq_len // self.options.block_len, self.options.past_fams - 1)
        return (self.options.fam_len * (1 + 2 * num_older) + 2 * cached) * self.config.width
