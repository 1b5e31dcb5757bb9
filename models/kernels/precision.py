"""Sums over a whole sequence are kept in float32 or better, also where everything else runs in half precision."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def no_autocast(like: Tensor) -> AbstractContextManager[object]:
    """Inside, products keep the precision of their factors on the device of ``like``."""
    device = like.device.type
    # The meta device (counting FLOPs) knows no autocast.
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
