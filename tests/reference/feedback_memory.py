"""Feedback memory segments: arXiv 2404.09173v3, appendix C.2, one token at a time, one block after the other.

Memory keys and values come from a token's *output* of this layer, with the layer's own norm and projections.
"""

from torch import Tensor

from tests.reference.backbone import (
    Layer,
    LayerOutcome,
    Rows,
    after,
    attend,
    before,
    feed,
    linear,
    project,
    rotate,
)
from tests.reference.block_window import cache


def block(layer: Layer, rows: Rows, memory: Rows | None) -> LayerOutcome:
    """One layer."""
    p, config, size = layer.parameters, layer.config, layer.options.block_len

    def projected(row: Tensor, place: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        q, k, v = project(p.under("project"), before(p.under("attend"), row, config), config)
        return rotate(q, place, config), (rotate(k, place, config), v)

    outputs: Rows = []
    fed_back: list = []
    own: list = []
    for start in range(0, len(rows), size):
        inputs = rows[start : start + size]
        tokens = [projected(row, start + i) for i, row in enumerate(inputs)]
        own = [pair for _, pair in tokens]
        segments = fed_back[max(0, start - layer.options.memory_blocks * size) :]
        made = []
        for i, row in enumerate(inputs):
            seen = [*segments, *(own[: i + 1] if layer.causal else own)]
            y = linear(p.under("project.out"), attend(tokens[i][0], [k for k, _ in seen], [v for _, v in seen]))
            made.append(feed(layer, after(p.under("attend"), row, y, config)))
        outputs += made
        fed_back += [projected(row, start + i)[1] for i, row in enumerate(made)]

    opened = cache(own, size, 0)
    state = cache(fed_back, size, layer.options.memory_blocks)
    state |= {"open_keys": opened["keys"], "open_values": opened["values"]}
    return LayerOutcome(outputs, memory, state)
