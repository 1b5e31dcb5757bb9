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
* B.2.1 and table 7, where FAM stands: ``models/fam_places.py``. B.2.2 and B.2.3, how a training sequence starts, random
  position offset and random state passing: ``models/fam_state.py``.
* No update before a block is full; a block with padding in it is never full.
* ``causal=False`` (classification, not in the paper): tokens see their block whole; FAM flows from left to right.

Ablations of the paper
* ``initial=prefix`` (B.1, B.4.6): every layer learns an F_0 of its own, at the level of its input (prefix tuning), and
  nothing is carried. The paper says no more, so the rest is as with the prompt, the zero first residual included.
* ``update=static``, SUM FAM (C.3): the layer's prompt is the query of every block; F_{τ-1} gives keys and values only.
  The residual, which the paper does not state, is the prompt as well, from the first block on.
* ``past_fams`` (table 6): tokens read F_{τ-n}..F_{τ-1}, each where it stood as the latest; the update, F_{τ-1} only.
* FM (C.2) has no FAM and is a variant of its own: ``models/feedback_memory.py``.

Remedies (ours). In the paper's update nothing brings F back: each block adds to it, and with the norm in front what was
written early fades as 1/τ (LOG.md). ``update=rescaled`` brings F_τ to unit RMS. ``update=gated`` lets each slot decide:

    g = clamp(1/2 + (W [heads of A^F's attention ; Norm(F_{τ-1})] + b)/6, 0, 1)     F_τ = (1 - g) F_{τ-1} + g F_τ^paper

A gate at 0 keeps its slot bit for bit, over any number of blocks. The first update is never gated.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from models.block import BackboneConfig, MemoryBlock, Stream, empty_cache, register
from models.block_window import blocks_at_once, cached_tokens, check_window
from models.errors import check_choice
from models.fam_places import FAM_POSITIONS, FamPlaces
from models.fam_state import FamState, RandomStart
from models.kernels.softmax import attention
from models.kernels.window import KeyValue, complete_blocks, join, split_blocks, trim, window_attention
from models.layers import (
    FeedForward,
    Residual,
    Rotation,
    SelfProjection,
    hard_sigmoid,
    learned_slots,
    merge_heads,
    rotate,
    token_rotation,
)

INITIALS = ("prompt", "prefix")
UPDATES = ("residual", "static", "rescaled", "gated")
NEED_FAM = ("initial", "update", "past_fams", "fam_positions", "random_state_passing", "random_position_offset")
NEED_ROPE = ("random_position_offset", "fam_positions")


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
        if self.fam_len == 0 and any(self.is_set(name) for name in NEED_FAM):
            raise ValueError(f"model.fam_len=0: {', '.join(NEED_FAM[:-1])} and {NEED_FAM[-1]} have no effect")

    def is_set(self, name: str) -> bool:
        """Whether an option is not the default."""
        return getattr(self, name) != getattr(FamOptions, name)


@register("fam", FamOptions)
class FamBlock(MemoryBlock):
    """Block sliding window attention with feedback attention memory."""

    sees_ahead = False

    def __init__(self, config: BackboneConfig, options: FamOptions, *, causal: bool) -> None:
        super().__init__(config, options, causal=causal)
        for name in NEED_ROPE:
            if options.is_set(name) and not config.rotary:
                positions = f"backbone.positions={config.positions}"
                raise ValueError(f"model.{name} has no effect with {positions}: it needs rope")
        self.places = FamPlaces(config, options.block_len, options.fam_len, options.fam_positions)
        self.attend = Residual(config)
        self.project = SelfProjection(config)
        self.feed = Residual(config)
        self.ffn = FeedForward(config)
        self.gate = nn.Linear(2 * config.width, 1) if options.update == "gated" else None
        self.own_memory = learned_slots(options.fam_len, config) if options.initial == "prefix" else None
        self.start = RandomStart(options, self.places)

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

        angles = token_rotation(state.position, x.shape[1], self.config, x)
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
            probe=self.probe if prefix else None,
        )
        cache = trim(join([past, own]), self.options.block_len, self.options.memory_blocks)
        state = state._replace(keys=cache.keys, values=cache.values, position=state.position + x.shape[1])
        above = None if initial is None or self.own_memory is not None else self._carry_prompt(initial)
        return Stream(self._finish(x, y), above), state

    def _finish(self, residual: Float[Tensor, "*B T D"], heads: Float[Tensor, "B H T d"]) -> Float[Tensor, "B T D"]:
        """The way of all rows behind attention: tokens, FAM and prompt alike."""
        x = self.attend.after(residual, self.project.output(heads))
        return self.feed.after(x, self.ffn(self.feed.before(x)))

    def _feedback(
        self, state: FamState, past: KeyValue, own: KeyValue, initial: Tensor | None, mask: Tensor | None
    ) -> tuple[Sequence[KeyValue] | None, FamState]:
        """The chain over blocks: what each block's tokens read, and the FAM after the last whole block."""
        if state.fam is None or self.memory_off:
            return None, state
        size, batch_size = self.options.block_len, own.keys.shape[0]
        num_open = past.length % size
        blocks = split_blocks(join([trim(past, size, memory_blocks=0), own]), size)
        complete = complete_blocks(mask, num_open, size)
        angles = self.places.rotations(state.position - num_open, len(blocks) + 1, own.keys)
        summary = initial if self.options.update == "static" else None

        prefix = []
        for index, block in enumerate(blocks):
            before, far = state.fam, state.prompt_offset
            assert before is not None
            q, k, v = self._project_fam(before, batch_size)
            read = rotate(k, angles[index] if far is None else self.places.from_afar(far, k))
            readable = (*state.older, KeyValue(read, v))
            prefix.append(join(readable))
            if block.length < size:
                break
            source = before if summary is None else summary
            if summary is not None:
                q, _, _ = self._project_fam(summary, batch_size)
            updated = self._update(state, source, q, KeyValue(k, v), block, angles[index + 1])
            first_is_prompt = False
            if complete is not None:
                updated = torch.where(complete[:, index, None, None], updated, before)
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
        self, state: FamState, source: Tensor, q: Tensor, fam: KeyValue, block: KeyValue, angles: Rotation | None
    ) -> Float[Tensor, "B F D"]:
        """F_τ: the queries of ``source``, which is also the residual, compress F_{τ-1} and one whole block."""
        seen = join([fam._replace(keys=rotate(fam.keys, angles)), block])
        q = rotate(q, angles)
        heads = attention(q, *seen, dropout=self._dropout)
        if self.probe is not None:
            self.probe.softmax("write", q, seen.keys, memory=slice(fam.length))
        holds_nothing = state.is_prompt and self.options.update != "static"
        # An explicit zero, as it is in float32 where autocast makes heads bfloat16: FAM is a sum over all blocks.
        updated = self._finish(torch.zeros_like(source) if holds_nothing else source, heads)
        if self.options.update == "rescaled":
            return functional.rms_norm(updated, updated.shape[-1:])
        if self.gate is None or state.is_prompt:
            return updated
        before = self.attend.before(source).expand(len(updated), -1, -1)
        score = self.gate(torch.cat((merge_heads(heads), before), dim=-1))
        gate = hard_sigmoid(score)
        if self.probe is not None:
            self.probe.gate(gate.squeeze(-1))
        return torch.lerp(source.expand_as(updated), updated, gate.to(updated.dtype))

    def _carry_prompt(self, prompt: Float[Tensor, "B2 F D"]) -> Float[Tensor, "B2 F D"]:
        """The prompt's own pass through this layer: slots see each other and nothing else."""
        (angles,) = self.places.rotations(0, 1, prompt)
        q, k, v = self.project(self.attend.before(prompt))
        return self._finish(prompt, attention(rotate(q, angles), rotate(k, angles), v, dropout=self._dropout))

    @property
    def _dropout(self) -> float:
        return self.config.attention_dropout if self.training else 0.0

    def memory(
        self, stream: Stream, state: FamState, mask: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B M D2"] | None:
        """F_τ after the last whole block."""
        return None if state.fam is None else state.fam.expand(stream.tokens.shape[0], -1, -1)

    def training_state(self, batch_size: int, *, seed: int, progress: float) -> FamState | None:
        """Random state passing and random position offset (B.2.2, B.2.3)."""
        return self.start.draw(self.init_state(batch_size), batch_size, seed=seed, progress=progress)

    def remember(self, state: FamState) -> None:
        """Keep the first sequence's FAM for a later step."""
        self.start.remember(state)

    def state_size(self, seq_len: int) -> int:
        """F·D, 2·F·D for each older FAM that is read, and at most 2·(m+1)·S·D."""
        cached = cached_tokens(seq_len, self.options.block_len, self.options.memory_blocks)
        num_older = min(seq_len // self.options.block_len, self.options.past_fams - 1)
        return (self.options.fam_len * (1 + 2 * num_older) + 2 * cached) * self.config.width
