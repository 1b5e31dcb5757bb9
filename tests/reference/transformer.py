"""The plain transformer: arXiv 1706.03762, eq. 1, one query at a time."""

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
    p, config = layer.parameters, layer.config
    queries, keys, values = [], [], []
    for place, row in enumerate(rows):
        q, k, v = project(p.under("project"), before(p.under("attend"), row, config), config)
        queries.append(rotate(q, place, config))
        keys.append(rotate(k, place, config))
        values.append(v)

    outputs = []
    for place, row in enumerate(rows):
        last = place + 1 if layer.causal else len(rows)
        y = linear(p.under("project.out"), attend(queries[place], keys[:last], values[:last]))
        outputs.append(feed(layer, after(p.under("attend"), row, y, config)))
    return LayerOutcome(outputs, memory, {"keys": stack(keys), "values": stack(values)})
