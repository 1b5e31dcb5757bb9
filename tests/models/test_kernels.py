"""The parameter-free functions against loops over batch, heads and positions; and what they cost."""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from models.block import BackboneConfig
from models.kernels import softmax
from models.kernels.causal_luna import LunaSums, causal_luna
from models.kernels.linear_memory import UPDATES, LinearMemory, empty_memory, segment_memory
from models.kernels.softmax import attention, causal_attention, causal_mask, visible
from models.kernels.window import KeyValue, query_sizes, trim, window_attention
from models.layers import rotate, rotation
from tests.models.cases import CASES, SEGMENT, VARIANTS, build, random_tokens

BATCH, HEADS, HEAD_WIDTH = 2, 2, 4


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_pairs(length: int, seed: int) -> KeyValue:
    shape = (BATCH, HEADS, length, HEAD_WIDTH)
    return KeyValue(random(*shape, seed=seed), random(*shape, seed=seed + 100))


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> bool:
    return actual.shape == expected.shape and bool((actual - expected).abs().max() <= tolerance)


def read(q: Tensor, seen: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Softmax attention of one query ``[d]`` over (key, value) pairs."""
    total, weighted = torch.zeros((), dtype=q.dtype), torch.zeros_like(q)
    for key, value in seen:
        power = torch.exp(q @ key / math.sqrt(HEAD_WIDTH))
        total, weighted = total + power, weighted + power * value
    return weighted / total


# ---- window attention


def window_loop(
    q: Tensor,
    own: KeyValue,
    *,
    block_len: int,
    memory_blocks: int,
    lookahead_blocks: int,
    past: KeyValue,
    memory: KeyValue | None = None,
    prefix: list[KeyValue] | None = None,
    causal: bool = True,
    key_mask: Tensor | None = None,
) -> Tensor:
    """Place p sees place j iff -a <= floor(p/S) - floor(j/S) <= m (a: lookahead), and j <= p where it is causal."""
    out = torch.zeros_like(q)
    for b, h, t in itertools.product(range(BATCH), range(HEADS), range(q.shape[2])):
        p = past.length + t
        block = p // block_len
        seen = []
        for j in range(past.length + own.length):
            is_own = j // block_len == block
            is_memory = 0 < block - j // block_len <= memory_blocks
            source, place = (past, j) if j < past.length else (own, j - past.length)
            if source is own and key_mask is not None and not key_mask[b, place]:
                continue
            if source is own and is_memory and memory is not None:
                source = memory
            is_ahead = 0 < j // block_len - block <= lookahead_blocks
            if is_memory or is_ahead or (is_own and (j <= p or not causal)):
                seen.append((source.keys[b, h, place], source.values[b, h, place]))
        if prefix is not None:
            extra = prefix[block - past.length // block_len]
            seen += [(extra.keys[b, h, i], extra.values[b, h, i]) for i in range(extra.length)]
        out[b, h, t] = read(q[b, h, t], seen) if seen else 0.0
    return out


@settings(max_examples=120, deadline=None, derandomize=True)
@given(data=st.data())
def test_window_attention_equals_the_loop(data: st.DataObject) -> None:
    block_len, memory_blocks = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 3))
    num_past_blocks = data.draw(st.integers(0, memory_blocks))
    num_open = data.draw(st.integers(0, block_len - 1))
    num_tokens = data.draw(st.integers(1, 4 * block_len + 1))
    past = random_pairs(num_past_blocks * block_len + num_open, seed=1)
    own = random_pairs(num_tokens, seed=2)
    num_blocks = len(query_sizes(num_open, num_tokens, block_len))
    num_slots = data.draw(st.sampled_from([0, 1, 3]))
    key_mask = None
    if data.draw(st.booleans()):
        lengths = torch.tensor([num_tokens, data.draw(st.integers(1, num_tokens))])
        key_mask = torch.arange(num_tokens) < lengths[:, None]
    q = random(BATCH, HEADS, num_tokens, HEAD_WIDTH)
    causal = data.draw(st.booleans())
    arguments: dict[str, Any] = {
        "block_len": block_len,
        "memory_blocks": memory_blocks,
        "lookahead_blocks": 0 if causal else data.draw(st.integers(0, 2)),
        "past": past,
        "memory": random_pairs(num_tokens, seed=3) if data.draw(st.booleans()) else None,
        "prefix": [random_pairs(num_slots, seed=10 + i) for i in range(num_blocks)] if num_slots else None,
        "causal": causal,
        "key_mask": key_mask,
    }
    expected = window_loop(q, own, **arguments)
    at_once = data.draw(st.integers(1, 5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(softmax, "CPU_QUERIES", data.draw(st.sampled_from([2, 128])))
        actual = window_attention(q, own, **arguments, blocks_at_once=at_once)
    real = torch.ones(BATCH, num_tokens, dtype=torch.bool) if key_mask is None else key_mask
    assert actual.isfinite().all()
    assert close(actual.transpose(1, 2)[real], expected.transpose(1, 2)[real])


@pytest.mark.parametrize(
    ("num_open", "num_new", "sizes"),
    [
        (0, 1, [1]),
        (0, 4, [4]),
        (0, 9, [4, 4, 1]),
        (3, 1, [1]),
        (3, 2, [1, 1]),
        (1, 11, [3, 4, 4]),
        (2, 1, [1]),
    ],
)
def test_query_sizes(num_open: int, num_new: int, sizes: list[int]) -> None:
    assert query_sizes(num_open, num_new, 4) == sizes


@pytest.mark.parametrize(
    ("length", "memory_blocks", "kept"),
    [(3, 0, 3), (4, 0, 0), (4, 1, 4), (9, 1, 5), (16, 2, 8), (19, 2, 11), (0, 1, 0)],
)
def test_trim_keeps_whole_blocks_and_frees_the_rest(length: int, memory_blocks: int, kept: int) -> None:
    cache = random_pairs(length, seed=0)
    trimmed = trim(cache, 4, memory_blocks)
    assert torch.equal(trimmed.keys, cache.keys[:, :, length - kept :])
    assert torch.equal(trimmed.values, cache.values[:, :, length - kept :])
    if kept < length:
        for part in trimmed:
            assert part.untyped_storage().nbytes() == part.numel() * part.element_size()


# ---- softmax attention


@pytest.mark.parametrize(("max_entries", "at_once"), [(1 << 24, 0), (20, 0), (1, 0), (1 << 24, 3), (1 << 24, 128)])
@pytest.mark.parametrize(("num_queries", "num_keys"), [(5, 5), (1, 6), (4, 9), (7, 8)])
def test_causal_attention_equals_the_loop(
    num_queries: int, num_keys: int, max_entries: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(softmax, "MAX_MASK_ENTRIES", max_entries)
    monkeypatch.setattr(softmax, "CPU_QUERIES", at_once)
    monkeypatch.setattr(softmax, "CPU_KEYS", 100 if at_once else 0)
    q, (k, v) = random(BATCH, HEADS, num_queries, HEAD_WIDTH, seed=5), random_pairs(num_keys, seed=6)
    expected = torch.empty_like(q)
    for b, h, t in itertools.product(range(BATCH), range(HEADS), range(num_queries)):
        last = num_keys - num_queries + t + 1
        expected[b, h, t] = read(q[b, h, t], list(zip(k[b, h, :last], v[b, h, :last], strict=True)))
    assert close(causal_attention(q, k, v), expected)
    mask = causal_mask(num_queries + 1, num_keys + 2, q)
    assert close(causal_attention(q, k, v, mask=mask), expected), "a larger mask serves as well"


def test_causal_attention_takes_a_few_queries_at_a_time_on_a_cpu() -> None:
    """At the sizes that are used: outputs and gradients of one fused call, with and without keys before."""
    for num_keys in (300, 700):
        inputs = [random(1, 1, length, 8, seed=length + i) for i, length in enumerate((300, num_keys, num_keys))]
        results = []
        for mask in (None, causal_mask(300, num_keys, inputs[0])):
            q, k, v = (x.clone().requires_grad_() for x in inputs)
            y = attention(q, k, v, mask=mask) if mask is not None else causal_attention(q, k, v)
            results.append((y, *torch.autograd.grad(y.square().sum(), (q, k, v))))
        assert all(close(a, b, 1e-11) for a, b in zip(*results, strict=True))


def test_a_row_without_real_keys_stays_finite() -> None:
    key_mask = torch.tensor([[True, False, True], [False, False, False]])
    q, (k, v) = random(BATCH, HEADS, 2, HEAD_WIDTH), random_pairs(3, seed=1)
    out = attention(q, k, v, mask=visible(key_mask))
    assert out.isfinite().all()
    expected = read(q[0, 0, 0], [(k[0, 0, j], v[0, 0, j]) for j in (0, 2)])
    assert close(out[0, 0, 0], expected)


# ---- causal Luna


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    num_tokens=st.integers(1, 13),
    chunk_len=st.sampled_from([1, 2, 3, 5, 64]),
    run_len=st.sampled_from([None, 2, 5]),
    num_before=st.sampled_from([0, 1, 1000]),
    num_padded=st.integers(0, 3),
)
def test_causal_luna_equals_the_loop(
    num_tokens: int, chunk_len: int, run_len: int | None, num_before: int, num_padded: int
) -> None:
    num_slots = 3
    q, (k, v) = random(BATCH, HEADS, num_tokens, HEAD_WIDTH, seed=7), random_pairs(num_tokens, seed=8)
    pack = random(BATCH, HEADS, num_tokens, num_slots, seed=9).exp()
    pack[1, :, num_tokens - min(num_padded, num_tokens) :] = 0.0
    start = float(num_before > 0)
    sums = LunaSums(
        start * random(BATCH, HEADS, HEAD_WIDTH, num_slots, seed=10),
        start * random(BATCH, HEADS, num_slots, HEAD_WIDTH, seed=11),
    )
    y, after = causal_luna(q, k, v, pack, sums, num_before=num_before, chunk_len=chunk_len, run_len=run_len)
    for b, h in itertools.product(range(BATCH), range(HEADS)):
        key_pack, pack_value = sums.key_pack[b, h], sums.pack_value[b, h]
        for j in range(num_tokens):
            t = num_before + j + 1
            key_pack = key_pack + torch.outer(k[b, h, j], pack[b, h, j])
            pack_value = pack_value + torch.outer(pack[b, h, j], v[b, h, j])
            u = (q[b, h, j] @ key_pack / t).softmax(dim=-1)
            assert close(y[b, h, j], u @ pack_value / t)
        assert close(after.key_pack[b, h], key_pack)
        assert close(after.pack_value[b, h], pack_value)


# ---- linear memory


def memory_loop(k: Tensor, v: Tensor, memory: tuple[Tensor, Tensor], update: str) -> tuple[Tensor, Tensor]:
    """One segment ``[S, d]`` of mapped keys is written, token by token against the memory before it."""
    matrix, normaliser = memory
    for key, value in zip(k, v, strict=True):
        weight, share = memory[1] @ key, 1.0
        if update != "linear" and weight > 0:
            value = value - key @ memory[0] / weight
        if update == "delta_corrected":
            share = (1 - weight / (key @ key)).clamp(0, 1)
        matrix, normaliser = matrix + torch.outer(key, value), normaliser + share * key
    return matrix, normaliser


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    num_tokens=st.integers(1, 9),
    segment_len=st.integers(1, 5),
    num_open=st.integers(0, 4),
    update=st.sampled_from(UPDATES),
    is_fresh=st.booleans(),
    is_partial=st.booleans(),
)
def test_segment_memory_equals_the_loop(
    num_tokens: int, segment_len: int, num_open: int, update: str, is_fresh: bool, is_partial: bool
) -> None:
    value_width, num_open = 3, num_open % segment_len
    length = num_open + num_tokens
    q = random(BATCH, HEADS, num_tokens, HEAD_WIDTH, seed=1).exp()
    k = random(BATCH, HEADS, length, HEAD_WIDTH, seed=2).exp()
    v = random(BATCH, HEADS, length, value_width, seed=3)
    before = empty_memory(BATCH, HEADS, HEAD_WIDTH, value_width=value_width, dtype=q.dtype)
    if not is_fresh:
        before = LinearMemory(
            random(BATCH, HEADS, HEAD_WIDTH, value_width, seed=4), random(BATCH, HEADS, HEAD_WIDTH, seed=5).exp()
        )
    complete = torch.ones(BATCH, length // segment_len, dtype=torch.bool)
    complete[1:] = not is_partial
    whole = length - length % segment_len
    y, after = segment_memory(
        q,
        k[:, :, :whole],
        v[:, :, :whole],
        before,
        segment_len=segment_len,
        num_open=num_open,
        update=update,
        complete=complete if is_partial else None,
    )
    for b, h in itertools.product(range(BATCH), range(HEADS)):
        memory = (before.matrix[b, h], before.normaliser[b, h])
        for start in range(0, length, segment_len):
            segment = range(start, min(start + segment_len, length))
            for place in segment:
                if place >= num_open:
                    query = q[b, h, place - num_open]
                    weight = query @ memory[1]
                    expected = query @ memory[0] / weight if weight > 0 else torch.zeros(value_width).double()
                    assert close(y[b, h, place - num_open], expected)
            if len(segment) == segment_len and complete[b, start // segment_len]:
                memory = memory_loop(k[b, h, segment], v[b, h, segment], memory, update)
        assert close(after.matrix[b, h], memory[0], 1e-10)
        assert close(after.normaliser[b, h], memory[1])


# ---- rotary positions


def test_rotation_sees_distances_only() -> None:
    config = BackboneConfig(width=HEADS * HEAD_WIDTH, num_heads=HEADS)
    q, k = random(1, HEADS, 1, HEAD_WIDTH, seed=1), random(1, HEADS, 1, HEAD_WIDTH, seed=2)

    def score(query_place: int, key_place: int) -> Tensor:
        turned = [
            rotate(x, rotation(torch.tensor([place]), config, x)) for x, place in ((q, query_place), (k, key_place))
        ]
        return (turned[0] * turned[1]).sum(dim=-1)

    assert close(score(5, 3), score(1_000_005, 1_000_003), 1e-9)
    assert close(score(0, 0), (q * k).sum(dim=-1))
    assert not close(score(5, 3), score(5, 4), 1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rotation_keeps_the_dtype_and_its_precision(dtype: torch.dtype) -> None:
    config = BackboneConfig(width=HEADS * HEAD_WIDTH, num_heads=HEADS)
    x, places = random(1, HEADS, 3, HEAD_WIDTH), torch.tensor([0, 7, 100_000])
    exact = rotate(x, rotation(places, config, x))
    rounded = rotate(x.to(dtype), rotation(places, config, x.to(dtype)))
    assert rounded.dtype == dtype
    assert close(rounded.double(), exact, 8 * torch.finfo(dtype).eps)


# ---- cost


class Written(TorchDispatchMode):
    """Counts the numbers that operations write: new tensors, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, Tensor)}
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in given:
                self.total += tensor.numel()
        return out


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "transformer"])
def test_forward_and_backward_grow_linearly(name: str) -> None:
    """A slice in a loop over blocks would give each block a gradient of full length: quadratic work."""
    model = build(name, depth=1, max_len=1, **CASES[name].options)
    written = []
    for num_blocks in (16, 64):
        tokens = random_tokens(1, num_blocks * SEGMENT)
        with Written() as counter:
            model(tokens)[0].sum().backward()
        written.append(counter.total)
    assert written[1] < 4.2 * written[0]
