"""Attention inside a segment that stands between memory tokens: ``[read ; tokens ; write]``.

Causal (arXiv 2207.06881): the read block sees itself, a token the read block and the tokens up to its own, the write
block everything. Both ways: every row sees every row.

Nothing but the write block looks at the write block, and tokens look at nothing behind them, so a segment may come in
pieces: ``past`` holds the read block and the tokens that came before. Memory of earlier segments may stand in front: of
a causal call, every row sees it.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.kernels.softmax import attention, causal_attention, causal_mask, visible
from models.kernels.window import KeyValue, join
from models.probe import Probe


class Rows(NamedTuple):
    """How many rows of each kind a piece has."""

    read: int
    """In front; 0 where the piece does not open its segment."""
    tokens: int
    write: int
    """Behind; 0 where the piece does not close its segment, or where nothing is written."""

    def of(self, kind: str) -> "Rows":
        """The rows of one kind alone: "memory" or "tokens"; or "all"."""
        return {"all": self, "memory": self._replace(tokens=0), "tokens": Rows(0, self.tokens, 0)}[kind]


def pick(x: Float[Tensor, "*B R D"], rows: Rows, asking: Rows) -> Float[Tensor, "*B A D"]:
    """Of all rows, those that ask: the count of each kind is that in ``rows``, or 0."""
    if asking == rows:
        return x
    kinds = zip(x.split(rows, dim=-2), asking, strict=True)
    return torch.cat([kind[..., :count, :] for kind, count in kinds], dim=-2)


def segment_attention(
    q: Float[Tensor, "B H A d"],
    own: KeyValue,
    *,
    rows: Rows,
    asking: Rows | None = None,
    past: KeyValue,
    causal: bool,
    key_mask: Bool[Tensor, "B T"] | None = None,
    dropout: float = 0.0,
    probe: Probe | None = None,
    num_memory: int = 0,
    blind: bool = False,
) -> tuple[Float[Tensor, "B H A d"], KeyValue]:
    """Attention of the rows of this piece, or of some kinds of them.

    Args:
        q: Queries of the rows that ask.
        own: Keys and values of all rows.
        rows: All rows.
        asking: Those that ask, see :func:`pick`; None means all.
        past: Keys and values of the same segment from the pieces before, and of memory in front of it (may be empty).
        causal: See above.
        key_mask: True where a token is real. Tokens of a causal call do without, as padding stands on the right.
        dropout: On attention weights.
        probe: Records how tokens read the memory and how memory rows write.
        num_memory: For both of these: how many of the keys, in front of all, are memory.
        blind: Hide all memory rows from the tokens.

    Returns:
        The rows' mixed values; and what the segment's next piece will see of this and the pieces before.
    """
    everything = join([past, own])
    num_seen = everything.length - rows.write
    cache = KeyValue(*(x[:, :, :num_seen] for x in everything)) if rows.write else everything
    all_real = None
    if key_mask is not None and (rows.write or not causal):
        all_real = _all_real(key_mask, past.length + rows.read, rows.write)
    read, tokens, write = q.split(asking or rows, dim=2)
    if probe is not None:
        probe.softmax("write", write if causal or rows.write else read, everything.keys, memory=slice(num_memory))
        mask = causal_mask(tokens.shape[2], cache.length, tokens) if causal else None
        probe.softmax("read", tokens, (cache if causal else everything).keys, mask=mask, memory=slice(num_memory))
    if not causal and not blind:
        return attention(q, *everything, mask=all_real, dropout=dropout), cache

    outputs = []
    if read.shape[2]:
        front = KeyValue(*(x[:, :, : past.length + rows.read] for x in everything)) if causal else everything
        outputs.append(attention(read, *front, mask=None if causal else all_real, dropout=dropout))
    if tokens.shape[2]:
        seen = KeyValue(*(x[:, :, num_memory:] for x in cache)) if blind else cache
        if causal:
            outputs.append(causal_attention(tokens, *seen, dropout=dropout))
        else:
            real = None if all_real is None else all_real[..., num_memory : num_memory + seen.length]
            outputs.append(attention(tokens, *seen, mask=real, dropout=dropout))
    if write.shape[2]:
        outputs.append(attention(write, *everything, mask=all_real, dropout=dropout))
    return torch.cat(outputs, dim=2) if len(outputs) > 1 else (outputs or [q])[0], cache


def _all_real(key_mask: Bool[Tensor, "B T"], num_front: int, num_behind: int) -> Bool[Tensor, "B 1 1 K"]:
    """The padding of the tokens, among keys in front and behind that are never padding."""
    front, behind = (key_mask.new_ones(len(key_mask), number) for number in (num_front, num_behind))
    return visible(torch.cat((front, key_mask, behind), dim=1))
