"""Sums over chunks of tokens: what stood before each chunk, in full precision."""

import torch
from jaxtyping import Float
from torch import Tensor

from models.kernels.precision import no_autocast


def running_sums(
    left: Float[Tensor, "B H N a C"], right: Float[Tensor, "B H N C b"], start: Float[Tensor, "B H a b"]
) -> tuple[Float[Tensor, "B H N a b"], Float[Tensor, "B H a b"]]:
    """Sums of the chunks' products ``left @ right`` before each of N chunks, and after the last.

    The prefix is exclusive by a shift and a cumsum: subtracting afterwards would leak roundings of the future.

    Args:
        left: One factor of each chunk's product.
        right: The other.
        start: The sum before the first chunk. Its dtype is that of all sums.
    """
    with no_autocast(left):
        products = left.to(start.dtype) @ right.to(start.dtype)
        total = torch.cat((start.unsqueeze(2), products), dim=2).cumsum(dim=2)
    return total[:, :, :-1], total[:, :, -1]
