"""Linear attention: arXiv 2006.16236, one query at a time, each pair of tokens weighed on its own.

    y_t = sum_j w_tj v_j / (sum_j n_tj + 1e-6)        n_tj = phi(q_t)·phi(k_j)        over j <= t, or over all j

and w_tj = n_tj, or, with rotary positions, (R_t phi(q_t))·(R_j phi(k_j)) (arXiv 2104.09864, section 3.3).
"""

import torch
from torch import Tensor

from tests.reference.backbone import (
    Layer,
    LayerOutcome,
    Rows,
    after,
    before,
    feed,
    linear,
    project,
    rotate,
)


def features(layer: Layer, x: Tensor) -> Tensor:
    """The feature map of one row, head by head: ``[H, d] -> [H, d]``."""
    p = layer.parameters.under("features")
    if layer.options.feature_map == "elu":
        return torch.where(x > 0, x + 1.0, torch.exp(x))
    mapped = []
    for head in range(x.shape[0]):
        value, gate = x[head] @ p["value"][head], x[head] @ p["gate"][head]
        mapped.append(torch.log(1.0 + torch.exp(value)) / (1.0 + torch.exp(-gate)))
    return torch.stack(mapped)


def block(layer: Layer, rows: Rows, memory: Rows | None) -> LayerOutcome:
    """One layer."""
    p, config = layer.parameters, layer.config
    tokens = []
    for row in rows:
        q, k, v = project(p.under("project"), before(p.under("attend"), row, config), config)
        tokens.append((features(layer, q), features(layer, k), v))
    turned = [(rotate(q, place, config), rotate(k, place, config)) for place, (q, k, _) in enumerate(tokens)]

    outputs = []
    for t, row in enumerate(rows):
        seen = range(t + 1 if layer.causal else len(rows))
        heads: list = []
        for h in range(config.num_heads):
            weighted = sum((turned[t][0][h] @ turned[j][1][h]) * tokens[j][2][h] for j in seen)
            total = sum(tokens[t][0][h] @ tokens[j][1][h] for j in seen)
            heads.append(weighted / (total + 1e-6))
        y = linear(p.under("project.out"), torch.cat(heads))
        outputs.append(feed(layer, after(p.under("attend"), row, y, config)))

    matrix = sum(k[:, :, None] * v[:, None, :] for (_, k), (_, _, v) in zip(turned, tokens, strict=True))
    normaliser = sum(k[:, :, None] for _, k, _ in tokens)
    return LayerOutcome(outputs, memory, {"matrix": matrix, "normaliser": normaliser, "position": len(rows)})
