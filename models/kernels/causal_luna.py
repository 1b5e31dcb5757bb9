"""Causal Luna attention in chunks, with running sums instead of outer products per position.

    pi_j  = omega(p k^pack_j)                              activations of the M packing queries      (no softmax over j)
    u_t   = softmax_M( 1/t · sum_{j<=t} (q_t . k_j) pi_j )
    y_t   = 1/t · sum_{j<=t} (u_t . pi_j) v_j

Both sums are unnormalised linear attentions, so a chunk needs its own part (two small triangular products) and two
running sums from before it: ``sum k_j pi_j^T`` [d, M] and ``sum pi_j v_j^T`` [M, d]. All chunks run at once (on a CPU:
as many as its cache can hold); the sums before each chunk are an exclusive prefix (shift, then cumsum: subtracting
afterwards would leak roundings of the future), in float32 or better. Time and memory are linear in T; nothing of size
T·M·d is ever built.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from models.kernels.prefix import running_sums
from models.probe import Probe

CPU_RUN_LEN = 4096


class LunaSums(NamedTuple):
    """What the tokens so far leave behind."""

    key_pack: Float[Tensor, "B H d M"]
    """sum_j k_j pi_j^T."""
    pack_value: Float[Tensor, "B H M d"]
    """sum_j pi_j v_j^T."""


def empty_sums(batch_size: int, num_heads: int, head_width: int, num_slots: int, *, like: Tensor) -> LunaSums:
    """No token yet: zeros on the device of ``like``, in float32 or better."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    key_pack = torch.zeros(batch_size, num_heads, head_width, num_slots, dtype=dtype, device=like.device)
    return LunaSums(key_pack, key_pack.transpose(-1, -2).contiguous())


def packed_rows(
    pack_value: Float[Tensor, "B H M d"], position: int, mask: Bool[Tensor, "B T"] | None
) -> Float[Tensor, "B M D"]:
    """What the slots hold: the packed values sum_j pi_j v_j^T / t, heads side by side.

    Args:
        pack_value: The sum after ``position`` tokens.
        position: Tokens so far, padding included.
        mask: True where a token of the last call is real; only the last call may be padded.
    """
    if mask is None:
        return (pack_value / max(position, 1)).transpose(1, 2).flatten(2)
    num_real = (position - mask.shape[1] + mask.sum(dim=1)).clamp(min=1).to(pack_value.dtype)
    return (pack_value / num_real[:, None, None, None]).transpose(1, 2).flatten(2)


def omega(x: Tensor) -> Tensor:
    """log2(1 + 2^x): positive, and 1 at 0 (Luna's authors' code, commit 3e186df)."""
    return functional.softplus(x, beta=math.log(2.0))


def causal_luna(
    q: Float[Tensor, "B H T d"],
    k: Float[Tensor, "B H T d"],
    v: Float[Tensor, "B H T d"],
    pack: Float[Tensor, "B H T M"],
    sums: LunaSums,
    *,
    num_before: int,
    chunk_len: int = 64,
    run_len: int | None = None,
    dropout: float = 0.0,
    probe: Probe | None = None,
) -> tuple[Float[Tensor, "B H T d"], LunaSums]:
    """Causal Luna over T new tokens.

    Args:
        q: Queries, already scaled.
        k: Keys.
        v: Values.
        pack: pi, the activations of the packing; zero where a token is padding.
        sums: Running sums of the tokens before.
        num_before: How many tokens those were.
        chunk_len: Tokens per chunk: speed only.
        run_len: Tokens whose chunks run at once: speed only. None: 4,096 on a CPU, all elsewhere.
        dropout: On the unpacking weights u.
        probe: Records how slots write (pi over the new tokens) and how tokens read (u).
    """
    if probe is not None:
        probe.weights("write", pack.transpose(-1, -2))
    if run_len is None:
        run_len = CPU_RUN_LEN if q.device.type == "cpu" else q.shape[2]
    outputs = []
    runs = (x.split(run_len, dim=2) for x in (q, k, v, pack))
    for q, k, v, pack in zip(*runs, strict=True):
        y, sums = _run(q, k, v, pack, sums, num_before=num_before, chunk_len=chunk_len, dropout=dropout, probe=probe)
        outputs.append(y)
        num_before += y.shape[2]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2), sums


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pack: Tensor,
    sums: LunaSums,
    *,
    num_before: int,
    chunk_len: int,
    dropout: float,
    probe: Probe | None,
) -> tuple[Float[Tensor, "B H T d"], LunaSums]:
    """All chunks of one run at once."""
    num_tokens = q.shape[2]
    chunk_len = min(chunk_len, num_tokens)
    padding = -num_tokens % chunk_len
    if padding:
        # Zeros at the end add nothing to the sums, and no real token looks at them.
        q, k, v, pack = (functional.pad(x, (0, 0, 0, padding)) for x in (q, k, v, pack))
    counts = torch.arange(num_before + 1, num_before + 1 + q.shape[2], device=q.device)
    q, k, v, pack = (x.unflatten(2, (-1, chunk_len)) for x in (q, k, v, pack))  # [B, H, N, C, ·]
    # Rounded last: in half precision, whole numbers above 256 (bfloat16) are not exact.
    inverse = counts.to(sums.key_pack.dtype).reciprocal().to(q.dtype).view(-1, chunk_len, 1)  # 1/t [N, C, 1]

    before_key_pack, key_pack = running_sums(k.transpose(-1, -2), pack, sums.key_pack)
    scores = (q @ k.transpose(-1, -2)).tril() @ pack + q @ before_key_pack.to(q.dtype)
    unpack = (scores * inverse).softmax(dim=-1)  # u [B, H, N, C, M]
    if probe is not None:
        probe.weights("read", unpack.flatten(2, 3)[:, :, :num_tokens])
    unpack = functional.dropout(unpack, dropout)
    before_pack_value, pack_value = running_sums(pack.transpose(-1, -2), v, sums.pack_value)
    y = (unpack @ pack.transpose(-1, -2)).tril() @ v + unpack @ before_pack_value.to(q.dtype)
    y = (y * inverse).flatten(2, 3)[:, :, :num_tokens]
    return y, LunaSums(key_pack, pack_value)
