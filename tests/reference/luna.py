"""Luna: arXiv 2106.01540, sections 3.1-3.3, one query at a time.

Bidirectional: Y_P = Attn(P, C), Y_X = Attn(X, Y_P), and P' = P + Y_P without a feed-forward.
Causal, with f(x, y, z)_t = 1/t · x_t · sum_{j<=t} y_j^T z_j written as it stands, outer products and all:

    pi = omega(P Wp (C Wc)^T)^T        u_t = softmax(f(X Wq, C Wk, pi)_t)        y_t = f(u, pi, C Wv)_t
"""

import math

import torch
from torch import Tensor

from tests.reference.backbone import (
    Layer,
    LayerOutcome,
    Parameters,
    Rows,
    after,
    attend,
    before,
    feed,
    heads,
    linear,
    normalise,
    rotate,
    softmax,
)


def block(layer: Layer, rows: Rows, memory: Rows | None) -> LayerOutcome:
    """One layer. Parameters that two projections share go by the name of the first."""
    if layer.options.fresh_memory:
        memory = list(layer.parameters["own_memory"])
    assert memory is not None
    return _causal(layer, rows, memory) if layer.causal else _bidirectional(layer, rows, memory)


def keys_and_values(p: Parameters, x: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
    """``[H, d]`` each; one matrix serves as both when tied."""
    y, width = linear(p, x), layer.config.width
    keys, values = (y, y) if layer.options.tied else (y[:width], y[width:])
    return heads(keys, layer.config), heads(values, layer.config)


def _bidirectional(layer: Layer, rows: Rows, memory: Rows) -> LayerOutcome:
    p, config = layer.parameters, layer.config
    context = [before(p.under("attend"), row, config) for row in rows]
    is_pre = config.norm_position == "pre"

    pairs = [keys_and_values(p.under("pack_context"), c, layer) for c in context]
    packed = []
    for slot in memory:
        q = linear(p.under("pack_query"), normalise(p.under("memory_norm"), slot, config) if is_pre else slot)
        packed.append(attend(heads(q, config), [k for k, _ in pairs], [v for _, v in pairs]))

    shared = layer.options.shared
    if shared:
        packed = [linear(p.under("out"), y) for y in packed]
    unpack_context, query = (
        (p.under("pack_context"), p.under("pack_query")) if shared else (p.under("unpack_context"), p.under("query"))
    )
    pairs = [keys_and_values(unpack_context, y, layer) for y in packed]
    outputs = []
    for row, c in zip(rows, context, strict=True):
        y = attend(heads(linear(query, c), config), [k for k, _ in pairs], [v for _, v in pairs])
        outputs.append(feed(layer, after(p.under("attend"), row, linear(p.under("out"), y), config)))

    above = [slot + y for slot, y in zip(memory, packed, strict=True)]
    if not is_pre:
        above = [normalise(p.under("memory_norm"), slot, config) for slot in above]
    return LayerOutcome(outputs, above, {}, slots=above)


def omega(x: Tensor) -> Tensor:
    """log2(1 + 2^x)."""
    return torch.log(1.0 + 2.0**x) / math.log(2.0)


def _causal(layer: Layer, rows: Rows, memory: Rows) -> LayerOutcome:
    p, config = layer.parameters, layer.config
    scale = 1.0 / math.sqrt(config.width // config.num_heads)
    slots = [heads(linear(p.under("pack_query"), slot), config) * scale for slot in memory]
    head_range = range(config.num_heads)

    key_pack: list = [0.0 for _ in head_range]  # sum_j k_j^T pi_j  [d, M], one for each head
    pack_value: list = [0.0 for _ in head_range]  # sum_j pi_j^T v_j  [M, d]
    outputs = []
    for place, row in enumerate(rows):
        c, t = before(p.under("attend"), row, config), place + 1
        k, v = keys_and_values(p.under("unpack_context"), c, layer)
        shared = layer.options.shared
        c_pack = k if shared else heads(linear(p.under("pack_context"), c), config)
        q = heads(linear(p.under("pack_query" if shared else "query"), c), config)
        q = rotate(q * scale, place, config)
        k = rotate(k, place, config)
        y = []
        for h in head_range:
            pi = torch.stack([omega(slot[h] @ c_pack[h]) for slot in slots])
            key_pack[h] = key_pack[h] + torch.outer(k[h], pi)
            pack_value[h] = pack_value[h] + torch.outer(pi, v[h])
            u = softmax(q[h] @ key_pack[h] / t)
            y.append(u @ pack_value[h] / t)
        attended = linear(p.under("out"), torch.cat(y))
        outputs.append(feed(layer, after(p.under("attend"), row, attended, config)))

    state = {"key_pack": torch.stack(key_pack), "pack_value": torch.stack(pack_value), "position": len(rows)}
    packed = [torch.cat([pack_value[h][m] for h in head_range]) / len(rows) for m in range(len(memory))]
    return LayerOutcome(outputs, memory, state, slots=packed)
