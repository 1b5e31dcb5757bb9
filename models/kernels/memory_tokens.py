"""Attention inside a segment that stands between memory tokens: ``[read ; tokens ; write]``.

Causal (arXiv 2207.06881): the read block sees itself, a token the read block and the tokens up to its own, the write
block everything. Both ways: every row sees every row.

Nothing but the write block looks at the write block, and tokens look at nothing behind them, so a segment may come in
pieces: ``past`` holds the read block and the tokens that came before.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.kernels.softmax import attention, causal_attention, visible
from models.kernels.window import KeyValue, join


def segment_attention(
    q: Float[Tensor, "B H R d"],
    own: KeyValue,
    *,
    num_read: int,
    num_write: int,
    past: KeyValue,
    causal: bool,
    key_mask: Bool[Tensor, "B T"] | None = None,
    dropout: float = 0.0,
) -> tuple[Float[Tensor, "B H R d"], KeyValue]:
    """Attention of the R = num_read + T + num_write rows of this piece.

    Args:
        q: Queries of all rows.
        own: Keys and values of all rows.
        num_read: Rows in front; 0 where the piece does not open its segment.
        num_write: Rows behind; 0 where it does not close it, or where nothing is written.
        past: Keys and values of the same segment from the pieces before (may be empty).
        causal: See above.
        key_mask: True where a token is real. Tokens of a causal call do without, as padding stands on the right.
        dropout: On attention weights.

    Returns:
        The rows' mixed values; and what the segment's next piece will see of this and the pieces before.
    """
    num_seen = own.length - num_write
    kept = KeyValue(*(rows[:, :, :num_seen] for rows in own)) if num_write else own
    cache = join([past, kept])
    everything = join([past, own])
    all_real = None if key_mask is None else _all_real(key_mask, past.length + num_read, num_write)
    if not causal:
        return attention(q, *everything, mask=all_real, dropout=dropout), cache

    read, tokens, write = q.split((num_read, num_seen - num_read, num_write), dim=2)
    outputs = []
    if num_read:
        front = KeyValue(*(rows[:, :, :num_read] for rows in own))
        outputs.append(attention(read, *front, dropout=dropout))
    outputs.append(causal_attention(tokens, *cache, dropout=dropout))
    if num_write:
        outputs.append(attention(write, *everything, mask=all_real, dropout=dropout))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2), cache


def _all_real(key_mask: Bool[Tensor, "B T"], num_front: int, num_behind: int) -> Bool[Tensor, "B 1 1 K"]:
    """The padding of the tokens, among keys in front and behind that are never padding."""
    front, behind = (key_mask.new_ones(len(key_mask), number) for number in (num_front, num_behind))
    return visible(torch.cat((front, key_mask, behind), dim=1))
