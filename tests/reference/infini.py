"""Infini-attention: arXiv 2404.07143v2, eq. 6 to 11, one token at a time; beside it ARMT's γ and our gate on writing.

Inside a segment every token reads the memory of the segments before; at its end every token is written, against that
same memory.

Choices where the paper is silent (``models/infini.py`` says why): an empty memory reads as zero, with or without the
gate; only whole segments are written; the scale is that of one head.
"""

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
    project,
    rotate,
    stack,
)

#: M and z of each head.
Memory = list[tuple[Tensor, Tensor]]


def sigma(x: Tensor) -> Tensor:
    """ELU + 1, feature by feature."""
    return torch.stack([value + 1.0 if value > 0 else torch.exp(value) for value in x])


def read(x: Tensor, memory: tuple[Tensor, Tensor]) -> Tensor:
    """Eq. 7 for one query (or key) of one head: ``[d] -> [d]``."""
    matrix, normaliser = memory
    weight = sigma(x) @ normaliser
    return sigma(x) @ matrix / weight if weight > 0 else torch.zeros_like(x)


def new_share(x: Tensor, normaliser: Tensor) -> float:
    """ARMT's γ: how much of a key the normaliser does not hold."""
    key = sigma(x).detach()
    return min(1.0, max(0.0, 1.0 - float(normaliser.detach() @ key) / float(key @ key)))


def written_share(p: Parameters, head: int, key: Tensor) -> Tensor:
    """Our gate u on writing, of one key of one head."""
    score = p["write_gate.weight"][head, 0] @ key + p["write_gate.bias"][head, 0, 0]
    return torch.clamp(score / 6 + 0.5, 0.0, 1.0)


def write(p: Parameters, memory: Memory, keys: Rows, values: Rows, update: str) -> Memory:
    """Eq. 8 or 9, head by head: all tokens of a segment against the memory before it."""
    written = []
    for head, (matrix, normaliser) in enumerate(memory):
        new_matrix, new_normaliser = matrix, normaliser
        for key, value in zip(keys, values, strict=True):
            k, v, counted = key[head], value[head], 1.0
            mapped = sigma(k) * written_share(p, head, k) if update == "gated" else sigma(k)
            if update.startswith("delta"):
                v = v - read(k, (matrix, normaliser))
            if update == "delta_corrected":
                counted = new_share(k, normaliser)
            new_matrix = new_matrix + torch.outer(mapped, v)
            new_normaliser = new_normaliser + counted * mapped
        written.append((new_matrix, new_normaliser))
    return written


def gates(p: Parameters, options: object) -> Tensor:
    """Weight g of each head, from β."""
    beta = p["gate"]
    if options.gate == "hard_sigmoid":  # type: ignore[attr-defined]
        return torch.clamp(0.2 * beta + 0.5, 0.0, 1.0)
    return 1.0 / (1.0 + torch.exp(-beta))


def block(layer: Layer, rows: Rows, memory: Rows | None) -> LayerOutcome:
    """One layer, segment by segment."""
    p, config, options = layer.parameters, layer.config, layer.options
    width, size = config.width // config.num_heads, options.block_len
    zeros = rows[0].new_zeros(width, width)
    kept: Memory = [(zeros, zeros[0]) for _ in range(config.num_heads)]
    outputs: Rows = []
    open_keys: Rows = []
    open_values: Rows = []
    for start in range(0, len(rows), size):
        inputs = rows[start : start + size]
        projected = [project(p.under("project"), before(p.under("attend"), row, config), config) for row in inputs]
        open_keys, open_values = [k for _, k, _ in projected], [v for _, _, v in projected]
        places = range(start, start + len(inputs))
        turned = [rotate(k, place, config) for k, place in zip(open_keys, places, strict=True)]
        for i, row in enumerate(inputs):
            query, seen = projected[i][0], i + 1 if layer.causal else len(inputs)
            local = heads(attend(rotate(query, places[i], config), turned[:seen], open_values[:seen]), config)
            mixed = []
            for head, g in enumerate(gates(p, options)):
                weight = 0.0 * g if options.first_segment == "skip" and start == 0 else g
                mixed.append(weight * read(query[head], kept[head]) + (1.0 - weight) * local[head])
            y = linear(p.under("project.out"), torch.cat(mixed))
            outputs.append(feed(layer, after(p.under("attend"), row, y, config)))
        if len(inputs) == size:
            kept = write(p, kept, open_keys, open_values, options.update)
            open_keys, open_values = [], []

    empty = rows[0].new_empty(config.num_heads, 0, width)
    state = {
        "matrix": torch.stack([matrix for matrix, _ in kept]),
        "normaliser": torch.stack([normaliser for _, normaliser in kept]),
        "keys": stack(open_keys) if open_keys else empty,
        "values": stack(open_values) if open_values else empty,
        "position": len(rows),
    }
    return LayerOutcome(outputs, memory, state)
