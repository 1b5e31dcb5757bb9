"""What all references share: the residual stream of one sequence, as a list of vectors.

Everything here is written from the equations, one sequence and one row at a time, without a batch, a mask or
a fused kernel. Padding does not exist: a padded sequence *is* the sequence cut to its real tokens. Nothing is
imported from ``models``: its parameters are read by name, its settings from ``config`` and ``options``.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: One vector ``[D]`` for each token (or slot).
Rows = list[Tensor]


class Parameters(dict[str, Tensor]):
    """Parameters by name."""

    def under(self, prefix: str) -> "Parameters":
        """Those whose name starts with ``prefix.``, without it."""
        start = prefix + "."
        return Parameters({name[len(start) :]: p for name, p in self.items() if name.startswith(start)})


class Layer(NamedTuple):
    """One layer's parameters and the settings of the whole."""

    parameters: Parameters
    config: Any
    options: Any
    causal: bool


class LayerOutcome(NamedTuple):
    """What a layer makes of one sequence."""

    rows: Rows
    memory: Rows | None
    """The memory for the layer above."""
    state: dict[str, Any]
    """What the layer hands to the next call, under the names of the variant's state."""
    slots: Rows | None = None
    """The memory as rows that a classifier may pool."""


class Outcome(NamedTuple):
    """What a model makes of one sequence (or one pair)."""

    logits: Tensor
    """``[T, V]`` or ``[C]``."""
    states: list[dict[str, Any]]
    """One per layer, and of a segment walk one more, the stack's own; of the first sequence of a pair."""


#: A variant: ``(layer, rows, memory, **start) -> outcome``.
Block = Callable[..., LayerOutcome]


class SegmentOutcome(NamedTuple):
    """What the whole stack makes of one segment of one sequence."""

    rows: Rows
    """On top of the stack, before the final norm."""
    memory: Rows
    """For the next segment."""
    states: list[dict[str, Any]]
    """One per layer, and the stack's own but for its memory."""


class SegmentWalk(NamedTuple):
    """A variant whose memory returns from the top of the stack."""

    start: Callable[[Any], Rows]
    """Model -> the memory before the first segment."""
    segment: Callable[..., SegmentOutcome]
    """(model, rows, memory, is_whole=...) -> outcome."""
    slots: Callable[[Any, Rows], Rows]
    """(model, memory) -> what a classifier may pool."""


# ---- layers, on one row


def linear(p: Parameters, x: Tensor) -> Tensor:
    """W x + b."""
    y = p["weight"] @ x
    return y + p["bias"] if "bias" in p else y


def normalise(p: Parameters, x: Tensor, config: Any) -> Tensor:
    """LayerNorm, or RMSNorm."""
    if config.norm == "rms":
        return x / torch.sqrt((x * x).mean() + 1e-5) * p["weight"]
    centred = x - x.mean()
    return centred / torch.sqrt((centred * centred).mean() + 1e-5) * p["weight"] + p["bias"]


def gelu(x: Tensor) -> Tensor:
    """The exact one: x Phi(x)."""
    return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


def feed_forward(p: Parameters, x: Tensor, config: Any) -> Tensor:
    """Two matrices with a GELU, or three with a SiLU gate."""
    hidden = linear(p.under("up"), x)
    if config.ffn == "gated":
        gate, value = hidden[: config.ffn_width], hidden[config.ffn_width :]
        return linear(p.under("down"), gate / (1.0 + torch.exp(-gate)) * value)
    return linear(p.under("down"), gelu(hidden))


def before(p: Parameters, x: Tensor, config: Any) -> Tensor:
    """What a residual step gives to its function: pre-norm norms, post-norm does not."""
    return normalise(p.under("norm"), x, config) if config.norm_position == "pre" else x


def after(p: Parameters, x: Tensor, y: Tensor, config: Any) -> Tensor:
    """The sum x + y, which post-norm norms."""
    return x + y if config.norm_position == "pre" else normalise(p.under("norm"), x + y, config)


def feed(layer: Layer, x: Tensor) -> Tensor:
    """The feed-forward's residual step."""
    p, config = layer.parameters, layer.config
    y = feed_forward(p.under("ffn"), before(p.under("feed"), x, config), config)
    return after(p.under("feed"), x, y, config)


# ---- attention of one query


def heads(x: Tensor, config: Any) -> Tensor:
    """``[D] -> [H, d]``."""
    return x.reshape(config.num_heads, config.width // config.num_heads)


def rotate(x: Tensor, position: int, config: Any) -> Tensor:
    """RoPE of ``[H, d]`` (arXiv 2104.09864), the pair (x_2i, x_2i+1) as a complex number.

    It is turned by the angle position · base^(-2i/d).
    """
    if config.positions not in ("rope", "both"):
        return x
    half, base = x.shape[-1] // 2, config.rope_base or 10_000.0
    angles = torch.tensor([position * base ** (-i / half) for i in range(half)], dtype=torch.float64)
    turned = torch.complex(x[:, 0::2], x[:, 1::2]) * torch.polar(torch.ones_like(angles), angles)
    return torch.stack((turned.real, turned.imag), dim=-1).reshape(x.shape)


def project(p: Parameters, x: Tensor, config: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of one row, ``[H, d]`` each."""
    q, k, v = linear(p.under("qkv"), x).reshape(3, config.width)
    return heads(q, config), heads(k, config), heads(v, config)


def softmax(scores: Tensor) -> Tensor:
    """exp(s) / sum exp(s)."""
    powers = torch.exp(scores - scores.max().detach())
    return powers / powers.sum()


def attend(q: Tensor, keys: Rows, values: Rows) -> Tensor:
    """softmax(q K^T / sqrt(d)) V of one query, head by head: ``[H, d] -> [D]``."""
    out = []
    for head in range(q.shape[0]):
        K = torch.stack([key[head] for key in keys])
        V = torch.stack([value[head] for value in values])
        out.append(softmax(K @ q[head] / math.sqrt(q.shape[1])) @ V)
    return torch.cat(out)


def stack(rows: Rows) -> Tensor:
    """Keys or values of several positions as the states hold them: ``[H, K, d]``."""
    return torch.stack(rows, dim=1)


# ---- the whole model


def embed(model: Any, tokens: list[int]) -> Rows:
    """Embedding, the CLS vector in front, learned positions."""
    p = Parameters(model.named_parameters())
    rows = [p["embedding.weight"][token] for token in tokens]
    if model.config.pooling == "cls":
        rows = [p["cls"], *rows]
    if model.config.positions in ("learned", "both"):
        rows = [row + p["positions"][place] for place, row in enumerate(rows)]
    return rows


def layers(model: Any) -> list[Layer]:
    """The model's layers, bottom first."""
    p = Parameters(model.named_parameters())
    return [
        Layer(p.under(f"stack.{index}"), model.config, model.options, model.causal)
        for index in range(model.config.depth)
    ]


def prompt(model: Any) -> Rows | None:
    """The learned memory that enters at the bottom."""
    p = Parameters(model.named_parameters())
    return list(p["learned_memory"]) if "learned_memory" in p else None


def final_norm(model: Any, rows: Rows) -> Rows:
    """Pre-norm needs a norm on top of the stack; post-norm has it already."""
    if model.config.norm_position == "post":
        return rows
    p = Parameters(model.named_parameters()).under("norm")
    return [normalise(p, row, model.config) for row in rows]


def next_token_logits(model: Any, rows: Rows) -> Tensor:
    """``[T, V]``."""
    p = Parameters(model.named_parameters()).under("head")
    return torch.stack([linear(p, row) for row in final_norm(model, rows)])


def walk(variant: SegmentWalk, model: Any, tokens: list[int]) -> tuple[Rows, Rows, list[dict[str, Any]]]:
    """Segment after segment, each through the whole stack."""
    rows, memory, size = embed(model, tokens), variant.start(model), model.options.block_len
    outputs: Rows = []
    states: list[dict[str, Any]] = []
    for number, start in enumerate(range(0, len(rows), size)):
        part = rows[start : start + size]
        # The end of a classifier's sequence is the end of its last segment.
        is_whole = len(part) == size or model.num_classes is not None
        # Windows of so many segments are trained as if the memory before each were a constant.
        is_cut = model.options.bptt_segments and number % model.options.bptt_segments == 0 and number
        seen = [slot.detach() for slot in memory] if is_cut else memory
        out, written, states = variant.segment(model, part, seen, is_whole=is_whole)
        outputs += out
        memory = written if is_whole else memory
    if memory:
        states[-1].setdefault("slots", torch.stack(memory))
    return outputs, variant.slots(model, memory), states


def read(
    block: Block | SegmentWalk, model: Any, tokens: list[int], starts: list[dict[str, Any]] | None = None
) -> tuple[Rows, Rows | None, list[dict[str, Any]]]:
    """Up the stack, layer by layer: the top rows, the top memory's slots, the layers' states."""
    if isinstance(block, SegmentWalk):
        return walk(block, model, tokens)
    rows, memory, slots, states = embed(model, tokens), prompt(model), None, []
    for index, layer in enumerate(layers(model)):
        rows, memory, state, slots = block(layer, rows, memory, **(starts[index] if starts else {}))
        states.append(state)
    return rows, slots, states


def represent(block: Block | SegmentWalk, model: Any, tokens: list[int]) -> tuple[Tensor, list[dict[str, Any]]]:
    """One vector for a sequence."""
    rows, slots, states = read(block, model, tokens)
    pooling = model.config.pooling or "mean"
    if pooling == "cls":
        return final_norm(model, rows)[0], states
    if pooling == "memory":
        assert slots is not None
        rows = slots
    # A memory that returns from the top is what the norm on top gave.
    if pooling != "memory" or not isinstance(block, SegmentWalk):
        rows = final_norm(model, rows)
    return torch.stack(rows).sum(dim=0) / len(rows), states


def classify(model: Any, features: Tensor) -> Tensor:
    """The classifier's two matrices."""
    p = Parameters(model.named_parameters()).under("head")
    return linear(p.under("classes"), gelu(linear(p.under("hidden"), features)))


def forward(
    block: Block | SegmentWalk,
    model: Any,
    tokens: Tensor,
    mask: Tensor | None = None,
    *,
    pair: str | None = None,
    starts: list[dict[str, Any]] | None = None,
) -> list[Outcome]:
    """One outcome for each sequence of the batch, from its real tokens alone."""
    mask = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
    outcomes = []
    for sequence, real in zip(tokens, mask, strict=True):
        if pair is not None:
            texts = [text[is_real].tolist() for text, is_real in zip(sequence, real, strict=True)]
            (a, states), (b, _) = (represent(block, model, text) for text in texts)
            features = [a, b, a * b, a - b] if pair == "interaction" else [a, b]
            outcomes.append(Outcome(classify(model, torch.cat(features)), states))
        elif model.num_classes is not None:
            pooled, states = represent(block, model, sequence[real].tolist())
            outcomes.append(Outcome(classify(model, pooled), states))
        else:
            rows, _, states = read(block, model, sequence[real].tolist(), starts)
            outcomes.append(Outcome(next_token_logits(model, rows), states))
    return outcomes
