"""ConvLuna: arXiv 2404.00798 as its authors' code has it, one query and one window at a time; and our causal form.

    pack    Y_P = Attn(P, F(X W_k), F(X W_v)) W_o        unpack    Y_X = Attn(X, Y_P W_k, Y_P W_v) W_o

The filter F makes of the rows of a window their weighted sum, head by head, or their maximum. Rows outside the
sequence do not exist. Causal: Luna's running sums (section 3.3 of arXiv 2106.01540) of what the last k tokens give.
"""

import math

import torch
from torch import Tensor

from tests.reference.backbone import (
    Layer,
    LayerOutcome,
    Rows,
    after,
    before,
    feed,
    heads,
    linear,
    normalise,
    rotate,
    softmax,
)
from tests.reference.luna import omega


def block(layer: Layer, rows: Rows, memory: Rows | None) -> LayerOutcome:
    """One layer."""
    assert memory is not None
    return _causal(layer, rows, memory) if layer.causal else _bidirectional(layer, rows, memory)


def project(layer: Layer, side: str, what: str, x: Tensor) -> Tensor:
    """``[D]``: what ``side`` (pack or unpack) makes of a row, with its own matrix or the one that both share."""
    options = layer.options
    if what == "value" and not options.value_projection:
        return x
    shared = options.sharing == "full" or (options.sharing == "qk" and what in ("query", "key"))
    name = what if shared or side == "unpack" else f"pack_{what}"
    return linear(layer.parameters.under(name), x)


def filter_window(layer: Layer, window: list[tuple[int, Tensor]]) -> Tensor:
    """``[H, d]`` from (place in the window, row ``[H, d]``) pairs."""
    if layer.options.filter == "none":
        ((_, only),) = window
        return only
    if layer.options.filter == "max_pool":
        return torch.stack([row for _, row in window]).max(dim=0).values
    kernel = layer.parameters["filter_weight"]
    total = torch.zeros_like(window[0][1])
    for place, row in window:
        total = total + torch.stack([kernel[head, place] * row[head] for head in range(len(row))])
    return total


def filtered(layer: Layer, rows: Rows, starts: list[int]) -> Rows:
    """What the filter makes of the windows that begin at ``starts``."""
    size = layer.options.kernel
    windows = [[(i, rows[s + i]) for i in range(size) if 0 <= s + i < len(rows)] for s in starts]
    return [filter_window(layer, window) for window in windows]


def pack_divisor(layer: Layer) -> Tensor | float:
    """exp(t), sqrt(d) or 1."""
    match layer.options.pack_temperature:
        case "learn":
            return torch.exp(layer.parameters["log_temperature"])
        case "sqrt":
            return math.sqrt(layer.config.width // layer.config.num_heads)
        case _:
            return 1.0


def unpack_divisor(layer: Layer) -> float:
    """sqrt(d) or 1."""
    return math.sqrt(layer.config.width // layer.config.num_heads) if layer.options.unpack_scale == "sqrt" else 1.0


def attend(q: Tensor, keys: Rows, values: Rows, divisor: Tensor | float) -> Tensor:
    """softmax(q K^T / divisor) V of one query, head by head: ``[H, d] -> [D]``."""
    out = []
    for head in range(len(q)):
        scores = torch.stack([q[head] @ key[head] for key in keys]) / divisor
        weights = softmax(scores)
        out.append(sum(weight * value[head] for weight, value in zip(weights, values, strict=True)))
    return torch.cat(out)


def _bidirectional(layer: Layer, rows: Rows, memory: Rows) -> LayerOutcome:
    p, config, options = layer.parameters, layer.config, layer.options

    def of(side: str, what: str, x: Tensor) -> Tensor:
        return heads(project(layer, side, what, x), config)

    context = [before(p.under("attend"), row, config) for row in rows]
    is_pre = config.norm_position == "pre"
    # "Same" padding of the convolution at stride 1; every other window begins at its own token.
    shift = (options.kernel - 1) // 2 if options.filter == "conv" and options.stride == 1 else 0
    starts = [start - shift for start in range(0, len(rows), options.stride)]
    keys = filtered(layer, [of("pack", "key", c) for c in context], starts)
    values = filtered(layer, [of("pack", "value", c) for c in context], starts)
    packed = []
    for slot in memory:
        q = of("pack", "query", normalise(p.under("memory_norm"), slot, config) if is_pre else slot)
        packed.append(project(layer, "pack", "out", attend(q, keys, values, pack_divisor(layer))))

    keys = [of("unpack", "key", y) for y in packed]
    values = [of("unpack", "value", y) for y in packed]
    outputs = []
    for row, c in zip(rows, context, strict=True):
        y = attend(of("unpack", "query", c), keys, values, unpack_divisor(layer))
        y = project(layer, "unpack", "out", y)
        outputs.append(feed(layer, after(p.under("attend"), row, y, config)))

    above = [slot + y for slot, y in zip(memory, packed, strict=True)]
    if not is_pre:
        above = [normalise(p.under("memory_norm"), slot, config) for slot in above]
    return LayerOutcome(outputs, above, {}, slots=above)


def _causal(layer: Layer, rows: Rows, memory: Rows) -> LayerOutcome:
    p, config, options = layer.parameters, layer.config, layer.options

    def of(side: str, what: str, x: Tensor) -> Tensor:
        return heads(project(layer, side, what, x), config)

    context = [before(p.under("attend"), row, config) for row in rows]
    starts = [place - options.kernel + 1 for place in range(len(rows))]
    pack_keys = filtered(layer, [of("pack", "key", c) for c in context], starts)
    keys = filtered(layer, [of("unpack", "key", c) for c in context], starts)
    values = filtered(layer, [of("unpack", "value", c) for c in context], starts)
    slots = [of("pack", "query", slot) / pack_divisor(layer) for slot in memory]
    head_range = range(config.num_heads)

    key_pack: list = [0.0 for _ in head_range]  # sum_j k_j^T pi_j  [d, M], one for each head
    pack_value: list = [0.0 for _ in head_range]  # sum_j pi_j^T v_j  [M, d]
    outputs = []
    for place, row in enumerate(rows):
        t = place + 1
        q = rotate(of("unpack", "query", context[place]) / unpack_divisor(layer), place, config)
        k = rotate(keys[place], place, config)
        y = []
        for h in head_range:
            pi = torch.stack([omega(slot[h] @ pack_keys[place][h]) for slot in slots])
            key_pack[h] = key_pack[h] + torch.outer(k[h], pi)
            pack_value[h] = pack_value[h] + torch.outer(pi, values[place][h])
            u = softmax(q[h] @ key_pack[h] / t)
            y.append(u @ pack_value[h] / t)
        attended = project(layer, "unpack", "out", torch.cat(y))
        outputs.append(feed(layer, after(p.under("attend"), row, attended, config)))

    tail = context[max(0, len(rows) - options.kernel + 1) :]
    state = {
        "key_pack": torch.stack(key_pack),
        "pack_value": torch.stack(pack_value),
        "tail": torch.stack(tail) if tail else rows[0].new_empty(0, config.width),
        "position": len(rows),
    }
    packed = [torch.cat([pack_value[h][m] for h in head_range]) / len(rows) for m in range(len(memory))]
    return LayerOutcome(outputs, memory, state, slots=packed)
