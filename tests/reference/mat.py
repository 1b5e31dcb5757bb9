"""Memory tokens: arXiv 2006.11527 and, with ``carry``, 2207.06881, one segment through the stack after the other.

    causal      [R ; X ; W] = layers([M ; X ; M])    M' = Norm(W)
    both ways   [R ; X]     = layers([M ; X])        M' = Norm(R)

A row's kind and its place decide what it sees; rows that nobody writes or reads are not there. With a controller, a
row's kind also decides by whose weights it looks at what it sees; through a bottleneck, tokens see updated memory only.
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


def update(network: Layer, asking: list[Row], shown: list[Row]) -> tuple[list[Row], dict[str, Tensor]]:
    """One ordinary layer for the rows that ask, and the keys and values of what a later token would find."""
    p, config = network.parameters, network.config
    keys, values = [], []
    for row in shown:
        _, k, v = project(p.under("project"), before(p.under("attend"), row.x, config), config)
        keys.append(rotate(k, row.place, config))
        values.append(v)

    above = []
    for row in asking:
        q, _, _ = project(p.under("project"), before(p.under("attend"), row.x, config), config)
        seen = [i for i, other in enumerate(shown) if sees(row, other, causal=network.causal)]
        mixed = attend(rotate(q, row.place, config), [keys[i] for i in seen], [values[i] for i in seen])
        y = linear(p.under("project.out"), mixed)
        above.append(row._replace(x=feed(network, after(p.under("attend"), row.x, y, config))))
    kept = [i for i, row in enumerate(shown) if row.kind != "write"]
    return above, {"keys": stack([keys[i] for i in kept]), "values": stack([values[i] for i in kept])}


def run_layer(layer: Layer, controller: Layer, rows: list[Row]) -> tuple[list[Row], dict[str, Tensor]]:
    """All rows through one layer, and what a later token and the write block would find."""
    if layer.options.form == "tokens":
        return update(layer, rows, rows)
    tokens = [row for row in rows if row.kind == "token"]
    memory, control = update(controller, [row for row in rows if row.kind != "token"], rows)
    tokens, cache = update(layer, tokens, memory if layer.options.form == "bottleneck" else rows)
    if layer.options.carry:
        # Else no write block comes.
        cache |= {f"control_{name}": value for name, value in control.items()}
    read = [row for row in memory if row.kind == "read"]
    return [*read, *tokens, *memory[len(read) :]], cache


def controllers(model: Any) -> list[Layer]:
    """Each layer's network for memory rows: its own, or the bottom layer's."""
    found = layers(model)
    if model.options.form == "shared_controller":
        found = [found[0]] * len(found)
    return [layer._replace(parameters=layer.parameters.under("controller")) for layer in found]


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

    caches: list[dict[str, Tensor]] = []
    for layer, controller in zip(layers(model), controllers(model), strict=True):
        rows, cache = run_layer(layer, controller, rows)
        caches.append(cache)
    states: list[dict[str, Any]] = [cache | {"num_open": len(tokens)} for cache in caches]
    if is_whole:
        # Nothing of a segment stays in the layers behind its end.
        states = [{name: value[:, :0] for name, value in cache.items()} | {"num_open": 0} for cache in caches]

    if is_whole and options.carry:
        writer = "write" if behind else "read"
        written = final_norm(model, [row.x for row in rows if row.kind == writer])
        memory = [*memory, *written] if options.accumulate else written
    return SegmentOutcome([row.x for row in rows if row.kind == "token"], memory, [*states, {}])


def slots(model: Any, memory: Rows) -> Rows:
    """The last segment's memory."""
    return memory[-model.options.memory_len :] if model.options.carry else []


WALK = SegmentWalk(start, segment, slots)
