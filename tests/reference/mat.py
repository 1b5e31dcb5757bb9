"""Memory tokens: arXiv 2006.11527 and, with ``carry``, 2207.06881, one segment through the stack after the other.

    causal      [R ; X ; W] = layers([M ; X ; M])    M' = Norm(W)
    both ways   [R ; X]     = layers([M ; X])        M' = Norm(R)

A row's kind and its place decide what it sees; rows that nobody writes or reads are not there. With a controller, a
row's kind also decides by whose weights it looks at what it sees; through a bottleneck, tokens see updated memory only.
Memories that accumulate go through all layers again in each segment; causal, none sees a later one.
"""

from typing import Any, NamedTuple

import torch
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
    writer: int = 0
    """Of the read block: the segment that wrote the row, from 1; 0 is the start."""
    is_constant: bool = False
    """Whether the row went up before the last cut of the gradient, so that its keys and values are constants."""

    def detached(self, x: Tensor) -> Tensor:
        """What a layer makes of the row."""
        return x.detach() if self.is_constant else x


def sees(query: Row, key: Row, *, causal: bool) -> bool:
    """The paper's mask."""
    if not causal or query.kind == "write":
        return True
    if query.kind == "read":
        return key.kind == "read" and key.writer <= query.writer
    return key.kind == "read" or (key.kind == "token" and key.place <= query.place)


def update(network: Layer, asking: list[Row], shown: list[Row]) -> tuple[list[Row], dict[str, Tensor]]:
    """One ordinary layer for the rows that ask, and the keys and values of what a later token would find."""
    p, config = network.parameters, network.config
    keys, values = [], []
    for row in shown:
        _, k, v = project(p.under("project"), before(p.under("attend"), row.x, config), config)
        keys.append(row.detached(rotate(k, row.place, config)))
        values.append(row.detached(v))

    above = []
    for row in asking:
        q, _, _ = project(p.under("project"), before(p.under("attend"), row.x, config), config)
        seen = [i for i, other in enumerate(shown) if sees(row, other, causal=network.causal)]
        mixed = attend(rotate(q, row.place, config), [keys[i] for i in seen], [values[i] for i in seen])
        y = linear(p.under("project.out"), mixed)
        above.append(row._replace(x=row.detached(feed(network, after(p.under("attend"), row.x, y, config)))))
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
    stays = model.causal and options.accumulate
    # A summary that stays keeps its place, and what comes later stands further on.
    shift = len(front) - options.memory_len if stays else 0
    writers = [i // options.memory_len for i in range(len(front))]
    last_cut = writers[-1] // options.bptt_segments * options.bptt_segments if stays and options.bptt_segments else 0
    rows = [
        Row("read", shift + i - len(front), x, writer, is_constant=writer < last_cut)
        for i, (x, writer) in enumerate(zip(front, writers, strict=True))
    ]
    rows += [Row("token", shift + i, x) for i, x in enumerate(tokens)]
    rows += [Row("write", shift + options.block_len + i, x) for i, x in enumerate(behind)]

    caches: list[dict[str, Tensor]] = []
    for layer, controller in zip(layers(model), controllers(model), strict=True):
        rows, cache = run_layer(layer, controller, rows)
        caches.append(cache)
    states: list[dict[str, Any]] = [cache | {"num_open": len(tokens)} for cache in caches]
    if is_whole:
        # Nothing of a segment stays in the layers behind its end but summaries.
        kept = len(front) if stays else 0
        states = [{name: value[:, :kept] for name, value in cache.items()} | {"num_open": 0} for cache in caches]

    if is_whole and options.carry:
        writer = "write" if behind else "read"
        written = final_norm(model, [row.x for row in rows if row.kind == writer])
        memory = [*memory, *written] if options.accumulate else written
    last: dict[str, Any] = {"slots": torch.stack(slots(model, memory))} if stays else {}
    return SegmentOutcome([row.x for row in rows if row.kind == "token"], memory, [*states, last])


def slots(model: Any, memory: Rows) -> Rows:
    """The last segment's memory."""
    return memory[-model.options.memory_len :] if model.options.carry else []


WALK = SegmentWalk(start, segment, slots)
