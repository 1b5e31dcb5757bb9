"""Associative memory of a fixed size: a matrix of key-value outer products and the sum of the keys.

    read     y_t = φ(q_t) M / φ(q_t) z                                   M [d, e],  z [d]
    linear   M' = M + Σ_j φ(k_j)^T v_j                                   z' = z + Σ_j φ(k_j)
    delta    M' = M + Σ_j φ(k_j)^T (v_j - φ(k_j) M / φ(k_j) z)           z' as above

φ is positive (:func:`feature_map`), so that a read is a weighted mean of values. A memory that holds nothing reads as
zero. The sums over j run over a *segment*: all its tokens read, and are corrected against, the memory before it.

Nothing here is sequential in the tokens. Linear: all segments' products at once, and an exclusive prefix sum over
segments (shift, then cumsum: subtracting a segment's own share afterwards would leak roundings of the future). Delta:
z does not depend on M, so that with W = diag(1 / φ(K) z) φ(K) one segment is an affine map of M,

    M' = (I - φ(K)^T W) M + φ(K)^T V

whose parts are products known for all segments at once; only d x d products are left to a scan over segments.

``delta_corrected`` also keeps the normaliser from counting what is known already (ARMT, its code's
``new_info_coef``), the factor without gradient:

    z' = z + Σ_j γ_j φ(k_j),     γ_j = clamp(1 - φ(k_j) z / |φ(k_j)|², 0, 1)

Memories are in float32 or better, and so are all products with them, also under autocast. Shape letters: ``N``
segments, ``S`` tokens of a segment, ``d`` width of a key, ``e`` width of a value.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from models.kernels.precision import no_autocast
from models.probe import Probe

UPDATES = ("linear", "delta", "delta_corrected")
#: A denominator below this counts as this: its square is still a normal float32, so that no gradient overflows.
SMALLEST = 1e-12


class LinearMemory(NamedTuple):
    """What the tokens so far leave behind."""

    matrix: Float[Tensor, "*B d e"]
    """M, the sum of outer products of keys and values."""
    normaliser: Float[Tensor, "*B d"]
    """z, the sum of keys."""


def empty_memory(
    *shape: int, value_width: int, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> LinearMemory:
    """A memory that holds nothing, ``[*shape, e]`` and ``[*shape]``, in float32 or better; ``shape`` ends in d."""
    dtype = torch.promote_types(dtype, torch.float32)
    return LinearMemory(
        torch.zeros(*shape, value_width, dtype=dtype, device=device), torch.zeros(*shape, dtype=dtype, device=device)
    )


def feature_map(x: Float[Tensor, "*B d"]) -> Float[Tensor, "*B d"]:
    """φ(x) = elu(x) + 1: x + 1 above zero, e^x below.

    Written as a sum of two parts of which one is constant: ``elu(x) + 1`` itself cancels to exactly zero below -18 in
    float32 (-6.5 in bfloat16), and a memory of zeros is divided by zero.
    """
    return _FeatureMap.apply(x)


class _FeatureMap(torch.autograd.Function):
    """The derivative of φ is min(φ, 1), so that φ is all that need be kept, and one product goes back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        mapped = x.clamp(max=0).exp_().add_(x.relu())
        ctx.save_for_backward(mapped)
        return mapped

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (mapped,) = ctx.saved_tensors
        return gradient * mapped.clamp(max=1)


def recall(q: Float[Tensor, "*B T d"], memory: LinearMemory) -> tuple[Float[Tensor, "*B T e"], Float[Tensor, "*B T 1"]]:
    """Numerator and denominator of a read with mapped queries."""
    return q @ memory.matrix, q @ memory.normaliser.unsqueeze(-1)


def inverse(denominator: Tensor) -> Tensor:
    """1 / denominator, and zero where the memory holds nothing."""
    return torch.where(denominator > 0, denominator.clamp(min=SMALLEST).reciprocal(), 0.0)


def segment_memory(
    q: Float[Tensor, "B H T d"],
    k: Float[Tensor, "B H K d"],
    v: Float[Tensor, "B H K e"],
    memory: LinearMemory,
    *,
    segment_len: int,
    num_open: int = 0,
    update: str = "linear",
    complete: Bool[Tensor, "B N"] | None = None,
    probe: Probe | None = None,
) -> tuple[Float[Tensor, "B H T e"], LinearMemory]:
    """Read T new tokens from the memory before their segments, and write every segment that is whole.

    Calls may stop anywhere inside a segment, whose keys and values the caller keeps until it is whole.

    Args:
        q: Mapped queries of the new tokens.
        k: Mapped keys of the N = K / S segments that the new tokens make whole, from the start of the first.
        v: Their values.
        memory: What the whole segments before left behind; its dtype is that of all products.
        segment_len: S.
        num_open: Tokens of the first segment that came before the new ones.
        update: One of :data:`UPDATES`.
        complete: For each of the N segments, whether it is written; None writes all.
        probe: Records how the tokens read: y is a mean of the rows M_i / z_i with weights φ(q)_i z_i.
    """
    dtype = memory.matrix.dtype
    with no_autocast(q):
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        k, v = (x.unflatten(2, (x.shape[2] // segment_len, segment_len)) for x in (k, v))
        if complete is not None:
            k = k * complete[:, None, :, None, None]
        memories = write(k, v, memory, update=update)
        y = _read_segments(q, memories, num_open, segment_len, probe)
    return y, LinearMemory(memories.matrix[:, :, -1], memories.normaliser[:, :, -1])


def _read_segments(
    q: Tensor, memories: LinearMemory, num_open: int, segment_len: int, probe: Probe | None
) -> Float[Tensor, "B H T e"]:
    """Each query from the memory before its segment; the first stands at place ``num_open`` of the first segment."""
    num_tokens = q.shape[2]
    if num_open + num_tokens <= segment_len:
        q, skipped = q.unsqueeze(2), 0  # one segment: a single token costs what a single token costs
    else:
        skipped = num_open
        q = functional.pad(q, (0, 0, num_open, -(num_open + num_tokens) % segment_len))
        q = q.unflatten(2, (-1, segment_len))
    matrices, normalisers = (part[:, :, : q.shape[2]] for part in memories)
    if probe is not None:
        probe.weights("read", (q * normalisers.unsqueeze(-2)).flatten(2, 3))
    numerator, denominator = recall(q, LinearMemory(matrices, normalisers))
    return (numerator * inverse(denominator)).flatten(2, 3)[:, :, skipped : skipped + num_tokens]


def write(
    k: Float[Tensor, "B H N S d"], v: Float[Tensor, "B H N S e"], memory: LinearMemory, *, update: str = "linear"
) -> LinearMemory:
    """The N + 1 memories before each of N segments and after the last, ``[B, H, N + 1, ...]``."""
    normalisers = _corrected_normalisers(k, memory) if update == "delta_corrected" else _sums(k, memory)
    products = k.transpose(-1, -2) @ v  # φ(K)^T V
    if update == "linear":
        return LinearMemory(torch.cat((memory.matrix.unsqueeze(2), products), dim=2).cumsum(dim=2), normalisers)
    known = k @ normalisers[:, :, :-1].unsqueeze(-1)  # φ(K) z [B, H, N, S, 1]
    forget = k.transpose(-1, -2) @ (k * inverse(known))  # φ(K)^T W
    matrices = [memory.matrix]
    for erased, added in zip(forget.unbind(2), products.unbind(2), strict=True):
        matrices.append(matrices[-1] - erased @ matrices[-1] + added)
    return LinearMemory(torch.stack(matrices, dim=2), normalisers)


def _sums(k: Tensor, memory: LinearMemory) -> Float[Tensor, "B H N1 d"]:
    """Normalisers before each segment and after the last."""
    return torch.cat((memory.normaliser.unsqueeze(2), k.sum(dim=-2)), dim=2).cumsum(dim=2)


def _corrected_normalisers(k: Tensor, memory: LinearMemory) -> Float[Tensor, "B H N1 d"]:
    """The same where a key counts by its share that is new."""
    normalisers = [memory.normaliser]
    squares = k.detach().square().sum(dim=-1, keepdim=True).clamp(min=SMALLEST)
    for keys, square in zip(k.unbind(2), squares.unbind(2), strict=True):
        known = (keys @ normalisers[-1].unsqueeze(-1)).detach()
        new = (1 - known / square).clamp(0, 1)  # γ [B, H, S, 1]
        normalisers.append(normalisers[-1] + (new * keys).sum(dim=-2))
    return torch.stack(normalisers, dim=2)
