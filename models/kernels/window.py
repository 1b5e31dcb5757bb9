"""Block sliding window attention: a token sees its own block (causally, or whole) and the ``m`` blocks before it.

Without causality it may also see blocks after its own (``lookahead_blocks``).

Tokens are counted in blocks of ``S`` from the start of the sequence. A query at position t sees key j iff
j <= t and floor(j/S) >= floor(t/S) - m (arXiv 2404.09173, eq. 1), and beside them the keys of its block's *prefix*, if
there is one (FAM's feedback slots). No mask of T x T is ever built; time and memory grow as T·(m+1)·S.

Calls may stop anywhere inside a block: ``past`` holds the last m whole blocks and the open one, and always starts at a
block border.

Two choices make the cost per token flat in T: blocks are taken apart with ``split`` and put together with ``cat`` (a
slice ``k[:, :, a:b]`` inside the loop would give each block a gradient of full length), and each block's keys are
gathered only when its turn comes.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.kernels.softmax import attention, causal_attention, causal_mask, visible
from models.probe import Probe


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


def complete_blocks(mask: Bool[Tensor, "B T"] | None, num_open: int, block_len: int) -> Bool[Tensor, "B N"] | None:
    """Which sequences fill each whole block of this call with real tokens; None when all do.

    ``num_open`` tokens of the first block came before, and were real.
    """
    if mask is None:
        return None
    real = torch.cat((mask.new_ones(mask.shape[0], num_open), mask), dim=1)
    num_whole = real.shape[1] // block_len
    return real[:, : num_whole * block_len].unflatten(1, (num_whole, block_len)).all(dim=2)


def trim(cache: KeyValue, block_len: int, memory_blocks: int) -> KeyValue:
    """What the next call needs: the last ``memory_blocks`` whole blocks and the open one."""
    drop = max(0, cache.length // block_len - memory_blocks) * block_len
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
    lookahead_blocks: int = 0,
    past: KeyValue,
    memory: KeyValue | None = None,
    prefix: Sequence[KeyValue] | None = None,
    causal: bool = True,
    key_mask: Bool[Tensor, "B T"] | None = None,
    blocks_at_once: int = 1,
    dropout: float = 0.0,
    probe: Probe | None = None,
) -> Float[Tensor, "B H T d"]:
    """Block sliding window attention of T new tokens.

    Args:
        q: Queries of the new tokens.
        own: Keys and values of the new tokens.
        block_len: S.
        memory_blocks: m.
        lookahead_blocks: Blocks after its own that a query sees; not with ``causal``.
        past: Keys and values of the last m whole blocks and the open one (may be empty).
        memory: The new tokens' keys and values as *later blocks* see them, where that differs from ``own``
            (a stopped gradient).
        prefix: For each block touched by the new tokens, keys and values that all its queries see.
        causal: Inside a block, hide what comes after the query; otherwise the block is seen whole.
        key_mask: True where a new token is real. A causal call does without, as padding stands on the right.
        blocks_at_once: How many whole blocks go through one fused call. Changes speed, not numbers: few keep the
            data in a CPU's cache, many fill a GPU.
        dropout: On attention weights.
        probe: Records how the tokens read the memory: the prefix, or else the blocks before.
    """
    assert not (causal and lookahead_blocks)
    num_open, num_past_blocks = past.length % block_len, past.length // block_len
    sizes = query_sizes(num_open, q.shape[2], block_len)
    own_blocks = split_blocks(join([past, own]), block_len)
    memory_keys = own_blocks if memory is None else split_blocks(join([past, memory]), block_len)
    masks = _BlockMasks(key_mask, past.length, block_len, causal)

    blocks = []
    for number, queries in enumerate(q.split(sizes, dim=2), start=num_past_blocks):
        first, stop = max(0, number - memory_blocks), min(number + lookahead_blocks + 1, len(own_blocks))
        extra = [prefix[number - num_past_blocks]] if prefix else []
        seen = [*memory_keys[first:number], *extra, *own_blocks[number:stop]]
        blocks.append(_Block(queries, first, number, stop, sum(slots.length for slots in extra), seen))
        if probe is not None:
            _record(probe, blocks[-1], causal=causal)

    def is_regular(block: _Block) -> bool:
        """Seeing a full window of whole blocks without padding: such blocks share one shape and one mask."""
        full = block.stop - block.first == memory_blocks + 1 + lookahead_blocks
        full = full and block.num_prefix == blocks[-1].num_prefix
        whole = block.queries.shape[2] == block_len and block.seen[-1].length == block_len
        return full and whole and not masks.padded(block)

    outputs: list[Tensor] = []
    for group in _groups(blocks, blocks_at_once, is_regular):
        outputs.extend(_attend(group, masks, dropout))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)


class _Block(NamedTuple):
    """The queries of one block, and all that they see: memory blocks, prefix, own block, blocks after it."""

    queries: Float[Tensor, "B H Q d"]
    first: int
    """The first memory block."""
    number: int
    """The block itself."""
    stop: int
    """One more than the last block seen."""
    num_prefix: int
    """Keys of the prefix, which no padding mask speaks of."""
    seen: list[KeyValue]


def _groups(blocks: list[_Block], at_once: int, is_regular: Callable[[_Block], bool]) -> Iterator[list[_Block]]:
    """Runs of up to ``at_once`` regular blocks; any other block stands alone."""
    group: list[_Block] = []
    for block in blocks:
        regular = at_once > 1 and is_regular(block)
        if group and (len(group) == at_once or not regular):
            yield group
            group = []
        if regular:
            group.append(block)
        else:
            yield [block]
    if group:
        yield group


def _attend(group: list[_Block], masks: "_BlockMasks", dropout: float) -> Sequence[Float[Tensor, "B H Q d"]]:
    """One fused call for a group of blocks; several ride side by side as further heads."""
    seen = [join(block.seen) for block in group]
    if len(group) == 1:
        block, (keys, values) = group[0], seen[0]
        if masks.is_causal:
            mask = masks.causal(block.queries, keys.shape[2])
            return [causal_attention(block.queries, keys, values, mask=mask, dropout=dropout)]
        mask = masks.padding(block) if masks.padded(block) else None
        return [attention(block.queries, keys, values, mask=mask, dropout=dropout)]
    queries = torch.stack([block.queries for block in group], dim=2).flatten(1, 2)  # [B, H·G, S, d]
    keys = torch.stack([key_value.keys for key_value in seen], dim=2).flatten(1, 2)
    values = torch.stack([key_value.values for key_value in seen], dim=2).flatten(1, 2)
    if masks.is_causal:
        mask = masks.causal(queries, keys.shape[2])
        out = causal_attention(queries, keys, values, mask=mask, dropout=dropout)
    else:
        out = attention(queries, keys, values, dropout=dropout)
    return out.unflatten(1, (-1, len(group))).unbind(dim=2)


def _record(probe: Probe, block: _Block, *, causal: bool) -> None:
    """How the queries of one block read the memory among all that they see."""
    num_before = sum(part.length for part in block.seen[: block.number - block.first])
    memory = slice(num_before, num_before + block.num_prefix) if block.num_prefix else slice(num_before)
    keys = join(block.seen).keys
    mask = causal_mask(block.queries.shape[2], keys.shape[2], keys) if causal else None
    probe.softmax("read", block.queries, keys, mask=mask, memory=memory)


class _BlockMasks:
    """The masks of one call, each built once.

    A causal call needs no padding mask: padding stands on the right, where no real query looks.
    """

    def __init__(self, key_mask: Tensor | None, num_past: int, block_len: int, causal: bool) -> None:
        self.is_causal = causal
        self.built: dict[tuple[int, int], Tensor] = {}
        self.real: tuple[Tensor, ...] = ()
        self.has_padding: list[bool] = []
        if key_mask is not None and not causal:
            past = key_mask.new_ones(key_mask.shape[0], num_past)
            self.real = torch.cat((past, key_mask), dim=1).split(block_len, dim=1)
            # One look at the device for all blocks.
            self.has_padding = (~torch.stack([block.all() for block in self.real])).tolist()

    def padded(self, block: _Block) -> bool:
        """Whether padding lies anywhere in what a block sees."""
        return any(self.has_padding[block.first : block.stop])

    def causal(self, queries: Tensor, num_keys: int) -> Tensor | None:
        """The causal mask inside a block; None where it takes none."""
        num_queries = queries.shape[2]
        if num_queries in (1, num_keys):
            return None
        if (num_queries, num_keys) not in self.built:
            self.built[num_queries, num_keys] = causal_mask(num_queries, num_keys, queries)
        return self.built[num_queries, num_keys]

    def padding(self, block: _Block) -> Tensor:
        """The mask of one block's queries over all that they see."""
        before, after = self.real[block.first : block.number], self.real[block.number : block.stop]
        prefix = after[0].new_ones(len(block.queries), block.num_prefix)
        return visible(torch.cat((*before, prefix, *after), dim=1)).expand(-1, -1, block.queries.shape[2], -1)
