"""Unnormalised linear attention: products of queries with a sum of outer products, causal or over all tokens.

    causal      y_t = q_t sum_{j<=t} k_j^T v_j                both ways      y_t = q_t sum_j k_j^T v_j

The causal form works in chunks, all at once: inside a chunk a product under a triangle, before it one matrix ``[d, e]``
from an exclusive prefix sum. Time and memory are linear in T; nothing of size T·d·e is ever built.

A column of ones beside the values makes the last column of y the sum of the weights q_t·k_j, so that one call gives a
normalised attention its numerator and its denominator. On a CPU this is also faster than summing the weights.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from models.kernels.prefix import running_sums


def causal_linear(
    q: Float[Tensor, "B H T d"],
    k: Float[Tensor, "B H T d"],
    v: Float[Tensor, "B H T e"],
    start: Float[Tensor, "B H d e"],
    *,
    chunk_len: int = 32,
) -> tuple[Float[Tensor, "B H T e"], Float[Tensor, "B H d e"]]:
    """Causal form over T new tokens: y, and the sum of k^T v after the last.

    Args:
        q: Queries.
        k: Keys; zero where a token is padding.
        v: Values.
        start: The sum of k^T v over the tokens before, float32 or better.
        chunk_len: Tokens per chunk: speed only.
    """
    num_tokens = q.shape[2]
    chunk_len = min(chunk_len, num_tokens)
    padding = -num_tokens % chunk_len
    if padding:
        # Zeros at the end add nothing to the sum, and no real token looks at them.
        q, k, v = (functional.pad(x, (0, 0, 0, padding)) for x in (q, k, v))
    # Dense once: else each of the products below would make its own copy.
    q, k, v = (x.contiguous().unflatten(2, (-1, chunk_len)) for x in (q, k, v))  # [B, H, N, C, ·]
    before, after = running_sums(k.transpose(-1, -2), v, start)
    y = (q @ k.transpose(-1, -2)).tril() @ v + q @ before.to(q.dtype)
    return y.flatten(2, 3)[:, :, :num_tokens], after


def full_linear(
    q: Float[Tensor, "B H T d"],
    k: Float[Tensor, "B H T d"],
    v: Float[Tensor, "B H T e"],
    start: Float[Tensor, "B H d e"],
) -> tuple[Float[Tensor, "B H T e"], Float[Tensor, "B H d e"]]:
    """The same where each query reads all tokens, those after it included."""
    _, total = running_sums(k.transpose(-1, -2).unsqueeze(2), v.unsqueeze(2), start)
    return q @ total.to(q.dtype), total
