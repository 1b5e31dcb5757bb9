"""Block sliding window attention: a token sees its own block (causally, or whole) and the ``m`` blocks before it.

Tokens are counted in blocks of ``S`` from the start of the sequence. A query at position t sees key j iff
j <= t and floor(j/S) >= floor(t/S) - m (arXiv 2404.09173, eq. 1), and beside them the keys of its block's *prefix*, if
there is one (FAM's feedback slots). No mask of T x T is ever built; time and memory grow as T·(m+1)·S.

Calls may stop anywhere inside a block: ``past`` holds the last m whole blocks and the open one, and always starts at a
block border.

Two choices make the cost per token flat in T: blocks are taken apart with ``split`` and put together with ``cat`` (a slice
``k[:, :, a:b]`` inside the loop would give each block a gradient of full length), and each block's keys are gathered only
when its turn comes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.kernels.softmax import attention, causal_mask, visible


class KeyValue(NamedTuple):
    """Keys and values of the same positions, ``[B, H, K, d]`` each."""

    keys: Float[Tensor, "B H K d"]
    values: Float[Tensor, "B H K d"]

    @property
    def length(self) -> int:
        """Number of positions."""
        return self.keys.shape[2]


def join(parts: Sequence[KeyValue]) -> KeyValue:
    """Concatenate along the positions; empty parts cost nothing (nor change the dtype)."""
    filled = [part for part in parts if part.length] or parts[:1]
    if len(filled) == 1:
        return filled[0]
    return KeyValue(torch.cat([p.keys for p in filled], dim=2), torch.cat([p.values for p in filled], dim=2))


def split_blocks(key_value: KeyValue, block_len: int) -> list[KeyValue]:
    """Cut into blocks of ``block_len``; the last may be shorter."""
    if not key_value.length:
        return []
    pairs = zip(key_value.keys.split(block_len, dim=2), key_value.values.split(block_len, dim=2), strict=True)
    return [KeyValue(keys, values) for keys, values in pairs]


def query_sizes(num_open: int, num_new: int, block_len: int) -> list[int]:
    """How many of the new tokens fall in each block, when ``num_open`` tokens of the first block were already there."""
    first = min(block_len - num_open, num_new)
    whole, rest = divmod(num_new - first, block_len)
    return [first] + [block_len] * whole + ([rest] if rest else [])


def trim(cache: KeyValue, block_len: int, memory_blocks: int) -> KeyValue:
    """What the next call needs: the last ``memory_blocks`` whole blocks and the open one."""
    whole, num_open = divmod(cache.length, block_len)
    drop = max(0, whole - memory_blocks) * block_len
    if not drop:
        return cache
    # A copy, so that the dropped blocks are freed.
    return KeyValue(cache.keys[:, :, drop:].clone(), cache.values[:, :, drop:].clone())


def window_attention(
    q: Float[Tensor, "B H T d"],
    own: KeyValue,
    *,
    block_len: int,
    memory_blocks: int,
    past: KeyValue,
    memory: KeyValue | None = None,
    prefix: Sequence[KeyValue] | None = None,
    causal: bool = True,
    key_mask: Bool[Tensor, "B T"] | None = None,
    blocks_at_once: int = 1,
    dropout: float = 0.0,
) -> Float[Tensor, "B H T d"]:
    """Block sliding window attention of T new tokens.

    Args:
        q: Queries of the new tokens.
        own: Keys and values of the new tokens.
        block_len: S.
        memory_blocks: m.
        past: Keys and values of the last m whole blocks and the open one (may be empty).
        memory: The new tokens' keys and values as *later blocks* see them, where that differs from ``own``
            (a stopped gradient).
        prefix: For each block touched by the new tokens, keys and values that all its queries see.
        causal: Inside a block, hide what comes after the query; otherwise the block is seen whole.
        key_mask: True where a new token is real.
        blocks_at_once: How many whole blocks go through one fused call. Changes speed, not numbers: few keep the data in
            a CPU's cache, many fill a GPU.
        dropout: On attention weights.
    """
    num_open, num_past_blocks = past.length % block_len, past.length // block_len
    own_blocks = split_blocks(join([past, own]), block_len)
    seen_blocks = own_blocks if memory is None else split_blocks(join([past, memory]), block_len)
    sizes = query_sizes(num_open, q.shape[2], block_len)
    masks = _BlockMasks(key_mask, past.length, block_len, causal)

    def gather(index: int) -> KeyValue:
        """All that the queries of block ``index`` see: memory blocks, prefix, own block."""
        before = seen_blocks[max(0, index - memory_blocks) : index]
        extra = [prefix[index - num_past_blocks]] if prefix else []
        return join([*before, *extra, own_blocks[index]])

    def first_key(index: int) -> int:
        return max(0, index - memory_blocks)

    outputs, queue = [], []

    def flush() -> None:
        """Send the queued blocks, which all have the same shape and mask, through one call."""
        if not queue:
            return
        queries = torch.stack([q_block for q_block, _ in queue], dim=2).flatten(1, 2)  # [B, H·G, S, d]
        seen = [gather(index) for _, index in queue]
        keys = torch.stack([kv.keys for kv in seen], dim=2).flatten(1, 2)
        values = torch.stack([kv.values for kv in seen], dim=2).flatten(1, 2)
        mask = masks.causal_mask(queries.shape[2], keys.shape[2], q)
        out = attention(queries, keys, values, mask=mask, dropout=dropout)
        outputs.extend(out.unflatten(1, (q.shape[1], len(queue))).unbind(dim=2))
        queue.clear()

    for index, q_block in enumerate(q.split(sizes, dim=2), start=num_past_blocks):
        whole = q_block.shape[2] == block_len and index >= memory_blocks
        if blocks_at_once > 1 and whole and masks.none_padded(first_key(index), index):
            queue.append((q_block, index))
            if len(queue) == blocks_at_once:
                flush()
            continue
        flush()
        seen = gather(index)
        num_extra = prefix[index - num_past_blocks].length if prefix else 0
        mask = masks.mask(q_block, seen.length, first_key(index), index, num_extra)
        outputs.append(attention(q_block, seen.keys, seen.values, mask=mask, dropout=dropout))
    flush()
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)


class _BlockMasks:
    """The masks of one call, each built once."""

    def __init__(self, key_mask: Tensor | None, num_past: int, block_len: int, causal: bool) -> None:
        self.causal = causal
        self.cache: dict[tuple[int, int], Tensor] = {}
        self.blocks: tuple[Tensor, ...] | None = None
        if key_mask is not None:
            past = key_mask.new_ones(key_mask.shape[0], num_past)
            self.blocks = torch.cat((past, key_mask), dim=1).split(block_len, dim=1)
            self.full = [bool(block.all()) for block in self.blocks]

    def none_padded(self, first: int, last: int) -> bool:
        """Whether blocks ``first..last`` hold real tokens only."""
        return self.blocks is None or all(self.full[first : last + 1])

    def causal_mask(self, num_queries: int, num_keys: int, like: Tensor) -> Tensor | None:
        """The causal mask inside a block; None where nothing is hidden."""
        if not self.causal or num_queries == 1:
            return None
        key = (num_queries, num_keys)
        if key not in self.cache:
            self.cache[key] = causal_mask(num_queries, num_keys, like)
        return self.cache[key]

    def mask(self, q: Tensor, num_keys: int, first: int, last: int, num_extra: int) -> Tensor | None:
        """The mask of one block's queries over blocks ``first..last``, ``num_extra`` prefix keys before the last."""
        causal = self.causal_mask(q.shape[2], num_keys, q)
        if self.none_padded(first, last):
            return causal
        assert self.blocks is not None
        extra = self.blocks[last].new_ones(q.shape[0], num_extra)
        real = visible(torch.cat((*self.blocks[first:last], extra, self.blocks[last]), dim=1))
        if causal is None:
            return real.expand(-1, -1, q.shape[2], -1)
        return real & (causal == 0)
