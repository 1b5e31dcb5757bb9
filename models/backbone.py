"""The backbone that all variants share: embedding, positions, the stack of blocks, the final norm, the head.

::

    tokens ──► embed ──► block 1 ──► … ──► block L ──► norm ──► head ──► logits
    stream   memory ─────►  │  ────► … ────►  │                 (up the depth)
    state    before ─────►  │                 │  ─────► after    (along time, one per block)

A variant whose memory returns from the top (:mod:`models.recurrence`) is walked up segment by segment, and its memory
is one more state, the stack's own.
"""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.block import BackboneConfig, MemoryBlock, Stream, check_keys, detach, make_options, tensors, variant
from models.heads import ClassifyHead, NextTokenHead, PairHead, mean_pool
from models.kernels.window import query_sizes
from models.layers import RealEmbedding, make_norm
from models.recurrence import Piece


class ModelState(NamedTuple):
    """What one call hands to the next."""

    position: int
    """Tokens so far."""
    layers: tuple[Any, ...]
    """One state per block, bottom first."""
    memory: Any = None
    """The stack's own state, of a variant whose memory returns from the top."""


class Model(nn.Module):
    """A stack of one variant's blocks with an embedding below and a head above. Build it with :func:`build_model`."""

    def __init__(
        self,
        block: type[MemoryBlock],
        config: BackboneConfig,
        options: Any,
        *,
        vocab_size: int | None,
        max_len: int,
        num_classes: int | None,
        causal: bool,
        pair: str | None,
    ) -> None:
        super().__init__()
        self.config, self.options, self.variant = config, options, block.variant
        self.vocab_size, self.num_classes, self.causal, self.max_len = vocab_size, num_classes, causal, max_len
        self.pooling = _pooling(config, num_classes)
        self.recompute = False
        """Keep no activations inside a block, and compute them again on the way back: the same numbers."""
        num_slots = block.memory_len(options)

        self.embedding = RealEmbedding(config.width) if vocab_size is None else nn.Embedding(vocab_size, config.width)
        has_cls = self.pooling == "cls"
        self.cls = nn.Parameter(torch.zeros(config.width)) if has_cls else None
        self.positions = nn.Parameter(torch.empty(max_len + has_cls, config.width)) if config.learned else None
        self.learned_memory = nn.Parameter(torch.empty(num_slots, config.width)) if num_slots else None
        self.dropout = nn.Dropout(config.dropout)
        self.stack = nn.ModuleList(block(config, options, causal=causal) for _ in range(config.depth))
        for upper in self.blocks[1:]:
            upper.share(self.blocks[0])
        self.recurrence = block.recurrence(config, options, causal=causal) if block.recurrence else None
        self.norm = make_norm(config) if config.norm_position == "pre" else nn.Identity()
        self.head = _make_head(config, vocab_size, num_classes, pair)
        if self.pooling == "cls" and (causal or not block.sees_ahead):
            reader = f"causal {self.variant}" if causal else self.variant
            raise ValueError(
                f"backbone.pooling=cls: CLS stands in front, and {reader} never shows it the whole sequence; use mean"
            )
        if self.pooling == "memory" and not block.has_memory(options):
            others = "mean or cls" if block.sees_ahead and not causal else "mean"
            raise ValueError(f"backbone.pooling=memory: {self.variant} has no memory to pool; use {others}")
        self._initialise()

    @property
    def blocks(self) -> list[MemoryBlock]:
        """The stack, bottom first."""
        return cast(list[MemoryBlock], list(self.stack))

    @property
    def segment_len(self) -> int | None:
        """S, where the variant reads in segments (or blocks)."""
        return getattr(self.options, "block_len", None)

    @property
    def input_dtype(self) -> torch.dtype:
        """What tokens are: ids, or real numbers where there is no vocabulary."""
        return torch.float32 if self.vocab_size is None else torch.int64

    def _initialise(self) -> None:
        """Xavier for matrices (fused ones as they stand), zero biases, N(0, 1/D) for all that enters at the bottom."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for parameter in (self.embedding.weight, self.positions, self.learned_memory):
            if parameter is not None:
                nn.init.normal_(parameter, std=self.config.width**-0.5)

    def init_state(self, batch_size: int) -> ModelState:
        """The state before the first token (the same as passing None)."""
        layers = tuple(block.init_state(batch_size) for block in self.blocks)
        memory = self.recurrence and self.recurrence.init_state(self.learned_memory, batch_size)
        return ModelState(0, layers, memory)

    def forward(
        self,
        tokens: Int[Tensor, "B *P T"] | Float[Tensor, "B *P T"],
        mask: Bool[Tensor, "B *P T"] | None = None,
        state: ModelState | None = None,
    ) -> tuple[Float[Tensor, "B ..."], ModelState]:
        """Logits and the state after these tokens.

        Args:
            tokens: ``[B, T]`` ids, or real numbers where ``vocab_size`` is None; ``[B, 2, T]`` for a pair.
            mask: True where a token is real; padding stands on the right. None means no padding.
            state: What the call before returned, to go on with the same sequences. Pieces of any length may be fed;
                only the last may be padded, as padding takes up places.

        Returns:
            Logits ``[B, C]`` when classifying, ``[B, T, V]`` when predicting the next token; and the state.

        Raises:
            ValueError: The sequence is longer than the learned positions; a classifier is given a state (it reads a
                sequence in one call) or no token; or padding where a probe looks.
        """
        if state is not None and self.num_classes is not None and state.position:
            raise ValueError("a classifier reads its sequence in one call: state must be None")
        if self.num_classes is not None and not tokens.shape[-1]:
            raise ValueError("a classifier needs at least one token")
        if mask is not None and self.blocks[0].probe is not None:
            raise ValueError("observe() measures sequences without padding: pass no mask")
        if isinstance(self.head, PairHead):
            first, state = self._represent(tokens[:, 0], None if mask is None else mask[:, 0])
            second, _ = self._represent(tokens[:, 1], None if mask is None else mask[:, 1])
            return self.head(first, second), state
        if self.num_classes is not None:
            pooled, state = self._represent(tokens, mask, state)
            return self.head(pooled), state
        x, state, _ = self._run(tokens, mask, state)
        return self.head(x), state

    def _represent(
        self, tokens: Tensor, mask: Tensor | None, state: ModelState | None = None
    ) -> tuple[Float[Tensor, "B D"], ModelState]:
        """One vector for each sequence."""
        x, state, memory = self._run(tokens, mask, state)
        if self.pooling == "cls":
            return x[:, 0], state
        if memory is not None:
            return memory.mean(dim=1), state
        return mean_pool(x, mask), state

    def _run(
        self, tokens: Tensor, mask: Tensor | None, state: ModelState | None
    ) -> tuple[Float[Tensor, "B T D"], ModelState, Float[Tensor, "B M D"] | None]:
        """Embed, walk up the blocks, norm. The last output is the top block's memory, where it is pooled."""
        start = 0 if state is None else state.position
        x, mask = self._embed(tokens, mask, start)
        if not x.shape[1]:
            return self.norm(x), state or self.init_state(len(x)), None
        if self.recurrence is not None:
            x, state = self._walk(x, mask, state or self.init_state(len(x)))
            return x, state, self.recurrence.memory(state.memory) if self.pooling == "memory" else None
        memory = None if self.learned_memory is None else self.dropout(self.learned_memory)[None]
        stream, after = self._climb(Stream(x, memory), state.layers if state else [None] * len(self.blocks), mask)
        top = self.blocks[-1].memory(stream, after[-1], mask) if self.pooling == "memory" else None
        state = ModelState(start + x.shape[1], after)
        # A memory that is a sum is in float32 whatever the weights are in.
        return self.norm(stream.tokens), state, None if top is None else self.norm(top.to(stream.tokens.dtype))

    def _climb(self, stream: Stream, layers: Iterable[Any], mask: Tensor | None) -> tuple[Stream, tuple[Any, ...]]:
        """Up the blocks."""
        after = []
        # What is replayed as a whole is not kept anyway.
        is_replayed = self.recurrence is not None and self.recurrence.replay
        recompute = self.recompute and not is_replayed and torch.is_grad_enabled()
        for block, before in zip(self.blocks, layers, strict=True):
            if recompute:
                stream, block_state = checkpoint(block.in_runs, stream, before, mask, use_reentrant=False)
            else:
                stream, block_state = block.in_runs(stream, before, mask)
            after.append(block_state)
            if block.probe is not None:
                block.probe.rows = block.memory(stream, block_state, mask)
        return stream, tuple(after)

    def _walk(
        self, x: Float[Tensor, "B T D"], mask: Tensor | None, state: ModelState
    ) -> tuple[Float[Tensor, "B T D"], ModelState]:
        """Segment by segment, as a segment's memory comes from the top of the one before."""
        assert self.recurrence is not None
        segment_len, bptt_segments = self.recurrence.segment_len, self.recurrence.bptt_segments
        sizes = query_sizes(state.position % segment_len, x.shape[1], segment_len)
        parts, masks = x.split(sizes, dim=1), [None] * len(sizes) if mask is None else mask.split(sizes, dim=1)
        tops = []
        for index, (tokens, real) in enumerate(zip(parts, masks, strict=True)):
            number, num_open = divmod(state.position, segment_len)
            # A classifier's sequence is at its end, so that its last segment is whole however short.
            is_last = self.num_classes is not None and index == len(sizes) - 1
            closes = is_last or num_open + tokens.shape[1] == segment_len
            is_cut = bool(bptt_segments and number and number % bptt_segments == 0)
            piece = Piece(number, opens=num_open == 0, closes=closes, is_cut=is_cut)
            if self.recurrence.replay and torch.is_grad_enabled():
                top, layers, memory = checkpoint(self._read, tokens, real, state, piece, use_reentrant=False)
            else:
                top, layers, memory = self._read(tokens, real, state, piece)
            state = ModelState(state.position + tokens.shape[1], layers, memory)
            tops.append(top)
        return tops[0] if len(tops) == 1 else torch.cat(tops, dim=1), state

    def _read(
        self, tokens: Float[Tensor, "B T D"], mask: Tensor | None, state: ModelState, piece: Piece
    ) -> tuple[Float[Tensor, "B T D"], tuple[Any, ...], Any]:
        """A piece of one segment: its normed top rows, the layers' states, the stack's memory."""
        assert self.recurrence is not None
        stream = self.recurrence.enter(tokens, self.learned_memory, state.memory, piece)
        before = detach(state.layers) if piece.is_cut and piece.opens else state.layers
        stream, layers = self._climb(stream, before, mask)
        memory, write = (None if rows is None else self.norm(rows) for rows in stream[1:])
        top = Stream(self.norm(stream.tokens), memory, write)
        changed = None
        if piece.closes:
            layers = tuple(block.close(layer, len(tokens)) for block, layer in zip(self.blocks, layers, strict=True))
            if mask is not None:
                # A segment with padding in it is not full, unless it is the last of a classifier's.
                changed = mask.all(dim=1) if self.num_classes is None else mask.any(dim=1)
        memory = self.recurrence.leave(top, self.learned_memory, state.memory, piece, mask, changed)
        if self.recurrence.probe is not None:
            self.recurrence.probe.rows = self.recurrence.memory(memory)
        return top.tokens, layers, memory

    def _embed(self, tokens: Tensor, mask: Tensor | None, start: int) -> tuple[Tensor, Tensor | None]:
        """Embedding, the CLS vector in front, and learned positions."""
        x = self.embedding(tokens)
        if self.cls is not None:
            x = torch.cat((self.cls.expand(x.shape[0], 1, -1), x), dim=1)
            mask = None if mask is None else torch.cat((mask.new_ones(len(mask), 1), mask), dim=1)
        if self.positions is not None:
            stop = start + x.shape[1]
            if stop > len(self.positions):
                raise ValueError(
                    f"a sequence of {stop} tokens is longer than the {len(self.positions)} learned positions: "
                    "raise max_len, or use backbone.positions=rope"
                )
            x = x + self.positions[start:stop]
        return self.dropout(x), mask

    def memories(self, state: ModelState) -> list[Float[Tensor, "B M D"] | None]:
        """For each block, its memory in this state as rows; None where it has none that travels along time.

        A memory that returns from the top of the stack is the top block's.
        """
        if self.recurrence is not None:
            return [*[None] * (len(self.blocks) - 1), self.recurrence.memory(state.memory)]
        # What is still shared by all sequences has a batch of one.
        batch_size = max((tensor.shape[0] for tensor in tensors(state)), default=1)
        no_tokens = self.embedding.weight.new_empty(batch_size, 0, self.config.width)
        stream = Stream(no_tokens, None)
        return [block.memory(stream, layer) for block, layer in zip(self.blocks, state.layers, strict=True)]

    def state_size(self, seq_len: int) -> int:
        """Numbers carried along time for one sequence after ``seq_len`` tokens, all layers."""
        num_tokens = seq_len + (self.cls is not None)
        if self.recurrence is not None:
            segment_len = self.recurrence.segment_len
            if self.num_classes is not None:
                # The last segment is whole however short.
                num_tokens = -(-num_tokens // segment_len) * segment_len
            layers = sum(block.state_size(num_tokens) for block in self.blocks)
            return layers + self.recurrence.state_size(*divmod(num_tokens, segment_len))
        return sum(block.state_size(num_tokens) for block in self.blocks)

    def num_parameters(self) -> int:
        """Trained numbers."""
        return sum(parameter.numel() for parameter in self.parameters())

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for AdamW: matrices decay; norms, biases, embeddings, positions and memories do not.

        The first two learn at the common rate. ``lr_scale`` of any further group multiplies it, as a block asks for.
        """
        matrices = {id(module.weight) for module in self.modules() if isinstance(module, nn.Linear)}
        scales = {
            id(block.get_parameter(name)): scale
            for block in self.blocks
            for name, scale in block.learning_rate_scales().items()
        }
        groups: dict[tuple[bool, float], list[nn.Parameter]] = {(True, 1.0): [], (False, 1.0): []}
        for parameter in self.parameters():
            key = id(parameter) in matrices, scales.get(id(parameter), 1.0)
            groups.setdefault(key, []).append(parameter)
        return [
            {"params": parameters, "weight_decay": weight_decay if decays else 0.0, "lr_scale": scale}
            for (decays, scale), parameters in groups.items()
        ]

    def training_state(self, batch_size: int, *, seed: int, progress: float) -> ModelState | None:
        """Where a training sequence starts, for variants that randomise it; None for the ordinary start."""
        layers = tuple(block.training_state(batch_size, seed=seed, progress=progress) for block in self.blocks)
        return None if any(layer is None for layer in layers) else ModelState(0, layers)

    def remember(self, state: ModelState) -> None:
        """After a training step: let each block keep what a later :meth:`training_state` may start from."""
        for block, layer in zip(self.blocks, state.layers, strict=True):
            block.remember(layer)


def _pooling(config: BackboneConfig, num_classes: int | None) -> str | None:
    if num_classes is None:
        if config.pooling is not None:
            raise ValueError(f"backbone.pooling={config.pooling} has no effect on next-token prediction: leave it null")
        return None
    return config.pooling or "mean"


def _make_head(config: BackboneConfig, vocab_size: int | None, num_classes: int | None, pair: str | None) -> nn.Module:
    if num_classes is None:
        if vocab_size is None:
            raise ValueError("vocab_size=null reads real numbers, of which no next one is predicted: set num_classes")
        if pair is not None:
            raise ValueError(f"pair={pair!r} has no effect without num_classes")
        return NextTokenHead(config, vocab_size)
    return ClassifyHead(config, num_classes) if pair is None else PairHead(config, num_classes, pair)


def build_model(
    name: str,
    *,
    vocab_size: int | None,
    max_len: int,
    num_classes: int | None = None,
    causal: bool = False,
    pair: str | None = None,
    **overrides: Any,
) -> Model:
    """Build any registered variant; no configuration system needed.

    Args:
        name: One of :func:`models.available`.
        vocab_size: Number of token ids. None: tokens are real numbers, which a linear map takes to the width (only with
            ``num_classes``).
        max_len: Longest sequence; bounds learned positions only.
        num_classes: Classify (logits ``[B, C]``); None predicts the next token (``[B, T, V]``).
        causal: A position sees nothing after it. Next-token prediction needs it.
        pair: Compare two sequences, tokens ``[B, 2, T]``: ``concat`` or ``interaction``.
        **overrides: Fields of :class:`BackboneConfig` and of the variant's options, e.g. ``width=128, block_len=64``.

    Raises:
        ValueError: An unknown name or option, or values that do not fit together; the message names the key.
    """
    block = variant(name)
    shared = {field.name for field in fields(BackboneConfig)}
    own = {field.name for field in fields(block.Options)}
    check_keys(overrides, (*sorted(own), *sorted(shared)), name)
    config = make_options(BackboneConfig, {key: value for key, value in overrides.items() if key in shared}, name)
    options = make_options(block.Options, {key: value for key, value in overrides.items() if key in own}, name)
    if num_classes is not None and num_classes < 2:
        raise ValueError(f"num_classes={num_classes}: must be at least 2, or null to predict the next token")
    if num_classes is None and not causal:
        raise ValueError("causal=False predicts a next token that the model has already seen: pass causal=True")
    if max_len < 1 or (vocab_size is not None and vocab_size < 1):
        raise ValueError(f"vocab_size={vocab_size} and max_len={max_len} must be at least 1")
    return Model(
        block,
        config,
        options,
        vocab_size=vocab_size,
        max_len=max_len,
        num_classes=num_classes,
        causal=causal,
        pair=pair,
    )
