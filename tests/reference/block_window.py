"""Block sliding window attention: arXiv 2404.09173, eq. 1 and algorithm 1, one query at a time.

Query t sees key j iff j <= t and floor(j/B) >= floor(t/B) - m; without causality, its own block and the
``lookahead_blocks`` after it whole.
"""

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
    stack,
)


def block(layer: Layer, rows: Rows, memory: Rows | None) -> LayerOutcome:
    """One layer."""
    p, config, options = layer.parameters, layer.config, layer.options
    queries, own, later = [], [], []
    for place, row in enumerate(rows):
        h = before(p.under("attend"), row, config)
        q, k, v = project(p.under("project"), h, config)
        queries.append(rotate(q, place, config))
        own.append((rotate(k, place, config), v))
        # Transformer-XL: as memory, a token's input is a constant, but the projections go on learning.
        _, k, v = project(p.under("project"), h.detach() if options.stop_gradient else h, config)
        later.append((rotate(k, place, config), v))

    outputs = []
    for t, row in enumerate(rows):
        seen = []
        for j in range(len(rows)):
            blocks_back = t // options.block_len - j // options.block_len
            if 0 < blocks_back <= options.memory_blocks:
                seen.append(later[j])
            elif -options.lookahead_blocks <= blocks_back <= 0 and (j <= t or not layer.causal):
                seen.append(own[j])
        y = attend(queries[t], [key for key, _ in seen], [value for _, value in seen])
        y = linear(p.under("project.out"), y)
        outputs.append(feed(layer, after(p.under("attend"), row, y, config)))
    return LayerOutcome(outputs, memory, cache(later, options.block_len, options.memory_blocks))


def cache(pairs: list, block_len: int, memory_blocks: int) -> dict:
    """Keys and values that a later token may still see: m whole blocks and the open one."""
    num_whole = len(pairs) // block_len
    kept = pairs[max(0, num_whole - memory_blocks) * block_len :]
    empty = pairs[0][0].new_empty(pairs[0][0].shape[0], 0, pairs[0][0].shape[1])
    return {
        "keys": stack([key for key, _ in kept]) if kept else empty,
        "values": stack([value for _, value in kept]) if kept else empty,
        "position": len(pairs),
    }
