"""Softmax attention: one wrapper around torch's fused kernel, and the masks it needs.

``B`` batch, ``H`` heads, ``Q`` queries, ``K`` keys, ``d`` width of a head.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

# A mask of queries x keys is only built for so many entries at a time; more queries are cut in pieces.
MAX_MASK_ENTRIES = 1 << 24


def attention(
    q: Float[Tensor, "B H Q d"],
    k: Float[Tensor, "B H K d"],
    v: Float[Tensor, "B H K d"],
    *,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    scale: float | None = None,
) -> Float[Tensor, "B H Q d"]:
    """softmax(scale q k^T + mask) v, fused.

    ``mask`` is boolean (True = visible) or additive, and broadcasts. ``scale`` is 1/sqrt(d) unless given.
    """
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale)


def visible(key_mask: Bool[Tensor, "B K"]) -> Bool[Tensor, "B 1 1 K"]:
    """A key mask as an attention mask. A row without any real key sees all: it is never used, but stays finite."""
    return (key_mask | ~key_mask.any(dim=-1, keepdim=True))[:, None, None, :]


def causal_mask(num_queries: int, num_keys: int, like: Tensor) -> Float[Tensor, "Q K"]:
    """Additive mask for queries that are the *last* ``num_queries`` of ``num_keys`` positions."""
    hidden = torch.ones(num_queries, num_keys, dtype=torch.bool, device=like.device).triu(num_keys - num_queries + 1)
    return torch.zeros(num_queries, num_keys, dtype=like.dtype, device=like.device).masked_fill_(hidden, -torch.inf)


def causal_attention(
    q: Float[Tensor, "B H Q d"], k: Float[Tensor, "B H K d"], v: Float[Tensor, "B H K d"], *, dropout: float = 0.0
) -> Float[Tensor, "B H Q d"]:
    """Each query sees the keys up to its own position; the queries are the last of the keys' positions."""
    num_queries, num_keys = q.shape[2], k.shape[2]
    if num_queries == num_keys:
        return functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
    if num_queries == 1:
        return attention(q, k, v, dropout=dropout)
    if num_queries * num_keys <= MAX_MASK_ENTRIES:
        return attention(q, k, v, mask=causal_mask(num_queries, num_keys, q), dropout=dropout)
    pieces, seen = [], num_keys - num_queries
    for piece in q.split(max(1, MAX_MASK_ENTRIES // num_keys), dim=2):
        seen += piece.shape[2]
        pieces.append(causal_attention(piece, k[:, :, :seen], v[:, :, :seen], dropout=dropout))
    return torch.cat(pieces, dim=2)
