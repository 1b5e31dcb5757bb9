"""Memformer: arXiv 2010.06891 (final version), one segment through the stack after the other, one query at a time.

writer    w_i = softmax([m_i Wq . m_i Wk , m_i Wq . x_j Wk ...] / (sqrt(d) t)),  m'_i = w_i [m_i ; x_j Wv ...]
forget    m_i = (m'_i + v_i) / |m'_i + v_i|
"""

import math
from typing import Any

import torch
from torch import Tensor

from tests.reference.backbone import (
    Layer,
    Parameters,
    Rows,
    SegmentOutcome,
    SegmentWalk,
    after,
    attend,
    before,
    feed,
    final_norm,
    heads,
    layers,
    linear,
    project,
    prompt,
    rotate,
    softmax,
    stack,
)


def unit(x: Tensor) -> Tensor:
    """On the unit sphere: x / |x|."""
    return x / torch.sqrt((x * x).sum())


def run_layer(layer: Layer, rows: Rows, memory: Rows) -> tuple[Rows, dict[str, Any]]:
    """Self-attention, memory reader, feed-forward."""
    p, config = layer.parameters, layer.config
    queries, keys, values = [], [], []
    for place, row in enumerate(rows):
        q, k, v = project(p.under("project"), before(p.under("attend"), row, config), config)
        queries.append(rotate(q, place, config))
        keys.append(rotate(k, place, config))
        values.append(v)

    context = [linear(p.under("read_context"), slot) for slot in memory]
    slot_keys = [heads(c[: config.width], config) for c in context]
    slot_values = [heads(c[config.width :], config) for c in context]
    above = []
    for place, row in enumerate(rows):
        last = place + 1 if layer.causal else len(rows)
        y = linear(p.under("project.out"), attend(queries[place], keys[:last], values[:last]))
        x = after(p.under("attend"), row, y, config)
        q = heads(linear(p.under("read_query"), before(p.under("read"), x, config)), config)
        y = linear(p.under("read_out"), attend(q, slot_keys, slot_values))
        above.append(feed(layer, after(p.under("read"), x, y, config)))
    return above, {"keys": stack(keys), "values": stack(values)}


def write(model: Any, slot: Tensor, rows: Rows) -> Tensor:
    """m'_i of one slot."""
    p, config = Parameters(model.named_parameters()).under("recurrence"), model.config
    q = heads(linear(p.under("query"), slot), config)
    keys = [heads(linear(p.under("key"), x), config) for x in (slot, *rows)]
    values = [heads(slot, config), *(heads(linear(p.under("value"), x), config) for x in rows)]
    out = []
    for h in range(config.num_heads):
        scores = torch.stack([q[h] @ key[h] for key in keys])
        weights = softmax(scores / (math.sqrt(len(q[h])) * model.options.temperature))
        out.append(sum(w * value[h] for w, value in zip(weights, values, strict=True)))
    return torch.cat(out)


def start(model: Any) -> Rows:
    """v_i / |v_i|."""
    return [unit(v) for v in prompt(model) or []]


def segment(model: Any, tokens: Rows, memory: Rows, *, is_whole: bool) -> SegmentOutcome:
    """One segment through all layers, and the update of the slots at its end."""
    rows, states = tokens, []
    for layer in layers(model):
        rows, cache = run_layer(layer, rows, memory)
        states.append(cache)
    top = final_norm(model, rows)
    if not is_whole:
        return SegmentOutcome(rows, memory, [*states, {"open_rows": torch.stack(top)}])

    states = [{"keys": s["keys"][:, :0], "values": s["values"][:, :0]} for s in states]
    written = [write(model, slot, top) for slot in memory]
    if model.options.forgetting:
        written = [new + v for new, v in zip(written, prompt(model) or [], strict=True)]
    return SegmentOutcome(rows, [unit(new) for new in written], [*states, {"open_rows": torch.stack(top)[:0]}])


WALK = SegmentWalk(start, segment, lambda model, memory: memory)
