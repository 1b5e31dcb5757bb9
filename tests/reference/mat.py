"""Memory tokens: arXiv 2006.11527 and, with ``carry``, 2207.06881, one segment through the stack after the other.

    causal      [R ; X ; W] = layers([M ; X ; M])    M' = Norm(W)
    both ways   [R ; X]     = layers([M ; X])        M' = Norm(R)

A row's kind and its place decide what it sees; rows that nobody writes or reads are not there.
"""

from typing import Any, NamedTuple

from torch import Tensor

from tests.reference.backbone import (
    Layer,
    Rows,
    SegmentOutcome,
    SegmentWalk,
    after,
    attend,
    before,
    feed,
    final_norm,
    layers,
    linear,
    project,
    prompt,
    rotate,
    stack,
)


class Row(NamedTuple):
    """One row of ``[read ; tokens ; write]``."""

    kind: str
    place: int
    x: Tensor


def sees(query: Row, key: Row, *, causal: bool) -> bool:
    """The paper's mask."""
    if not causal or query.kind == "write":
        return True
    if query.kind == "read":
        return key.kind == "read"
    return key.kind == "read" or (key.kind == "token" and key.place <= query.place)


def run_layer(layer: Layer, rows: list[Row]) -> tuple[list[Row], dict[str, Any]]:
    """One ordinary layer over all rows, and the keys and values that a later token would find."""
    p, config = layer.parameters, layer.config
    queries, keys, values = [], [], []
    for row in rows:
        q, k, v = project(p.under("project"), before(p.under("attend"), row.x, config), config)
        queries.append(rotate(q, row.place, config))
        keys.append(rotate(k, row.place, config))
        values.append(v)

    above = []
    for row, q in zip(rows, queries, strict=True):
        seen = [i for i, other in enumerate(rows) if sees(row, other, causal=layer.causal)]
        y = linear(p.under("project.out"), attend(q, [keys[i] for i in seen], [values[i] for i in seen]))
        above.append(row._replace(x=feed(layer, after(p.under("attend"), row.x, y, config))))
    kept = [i for i, row in enumerate(rows) if row.kind != "write"]
    cache = {"keys": stack([keys[i] for i in kept]), "values": stack([values[i] for i in kept])}
    return above, cache


def start(model: Any) -> Rows:
    """M_0, where there is something to hand on."""
    return (prompt(model) or []) if model.options.carry else []


def segment(model: Any, tokens: Rows, memory: Rows, *, is_whole: bool) -> SegmentOutcome:
    """One segment through all layers."""
    options, learned = model.options, prompt(model) or []
    front = memory if options.carry else learned
    behind: Rows = []
    if is_whole and options.carry and (model.causal or options.accumulate):
        behind = learned if options.accumulate else memory
    rows = [Row("read", i - len(front), x) for i, x in enumerate(front)]
    rows += [Row("token", i, x) for i, x in enumerate(tokens)]
    rows += [Row("write", options.block_len + i, x) for i, x in enumerate(behind)]

    states: list[dict[str, Any]] = []
    for layer in layers(model):
        rows, cache = run_layer(layer, rows)
        states.append(cache | {"num_open": len(tokens)})
    if is_whole:
        # Nothing of a segment stays in the layers behind its end.
        states = [{"keys": s["keys"][:, :0], "values": s["values"][:, :0], "num_open": 0} for s in states]

    if is_whole and options.carry:
        writer = "write" if behind else "read"
        written = final_norm(model, [row.x for row in rows if row.kind == writer])
        memory = [*memory, *written] if options.accumulate else written
    return SegmentOutcome([row.x for row in rows if row.kind == "token"], memory, [*states, {}])


def slots(model: Any, memory: Rows) -> Rows:
    """The last segment's memory."""
    return memory[-model.options.memory_len :] if model.options.carry else []


WALK = SegmentWalk(start, segment, slots)
