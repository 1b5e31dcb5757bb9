"""Slot attention of Memformer's writer: each slot attends itself and the tokens, but no other slot."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from models.kernels.window import KeyValue
from models.probe import Probe


def slot_attention(
    q: Float[Tensor, "B H M d"],
    slots: KeyValue,
    tokens: KeyValue,
    *,
    scale: float,
    key_mask: Bool[Tensor, "B T"] | None = None,
    dropout: float = 0.0,
    probe: Probe | None = None,
) -> Float[Tensor, "B H M e"]:
    """softmax(scale [q_i . k_i , q_i K^T]) [m_i ; V] for each slot i (arXiv 2010.06891, final version).

    Args:
        q: One query for each slot.
        slots: Each slot's own key, and what it keeps of itself.
        tokens: Keys and values of the T tokens.
        scale: On the scores.
        key_mask: True where a token is real.
        dropout: On attention weights.
        probe: Records how the slots write.
    """
    own = (q * slots.keys).sum(dim=-1, keepdim=True)
    others = q @ tokens.keys.transpose(-1, -2)
    if key_mask is not None:
        others = others.masked_fill(~key_mask[:, None, None, :], -torch.inf)
    weights = (torch.cat((own, others), dim=-1) * scale).softmax(dim=-1)
    if probe is not None:
        probe.weights("write", weights, memory=slice(1))
    weights = functional.dropout(weights, dropout)
    own, others = weights.split((1, tokens.length), dim=-1)
    return own * slots.values + others @ tokens.values
