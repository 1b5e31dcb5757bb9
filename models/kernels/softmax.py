"""Softmax attention: one wrapper around torch's fused kernel, and the masks it needs.

``B`` batch, ``H`` heads, ``Q`` queries, ``K`` keys, ``d`` width of a head.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

# A mask of queries x keys is only built for so many entries at a time; more queries are cut in pieces.
MAX_MASK_ENTRIES = 1 << 24
# A CPU's kernel works on 512 keys at a time, hidden or not. With so many queries at a time, over the keys up to their
# own, up to a quarter is saved; from so many keys on, the kernel itself leaves out what is hidden.
CPU_QUERIES, CPU_KEYS = 128, 2048


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
    q: Float[Tensor, "B H Q d"],
    k: Float[Tensor, "B H K d"],
    v: Float[Tensor, "B H K d"],
    *,
    mask: Float[Tensor, "Q2 K2"] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "B H Q d"]:
    """Each query sees the keys up to its own position; the queries are the last of the keys' positions.

    ``mask`` is a :func:`causal_mask` for these numbers or larger ones, built before because many calls share it.
    """
    num_queries, num_keys = q.shape[2], k.shape[2]
    if num_queries == 1:
        return attention(q, k, v, dropout=dropout)
    at_once = _queries_at_once(num_queries, num_keys, q.device)
    if num_queries > at_once:
        pieces, seen = [], num_keys - num_queries
        mask = causal_mask(at_once, num_keys, q) if mask is None else mask
        for piece in q.split(at_once, dim=2):
            seen += piece.shape[2]
            pieces.append(causal_attention(piece, k[:, :, :seen], v[:, :, :seen], mask=mask, dropout=dropout))
        return torch.cat(pieces, dim=2)
    if num_queries == num_keys:
        return functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
    if mask is None:
        mask = causal_mask(num_queries, num_keys, q)
    return attention(q, k, v, mask=mask[-num_queries:, -num_keys:], dropout=dropout)


def _queries_at_once(num_queries: int, num_keys: int, device: torch.device) -> int:
    if device.type == "cpu" and num_keys < CPU_KEYS:
        return CPU_QUERIES
    return num_queries if num_queries == num_keys else max(1, MAX_MASK_ENTRIES // num_keys)
