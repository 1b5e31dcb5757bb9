"""AdamW and the learning rate as a pure function of the step.

No scheduler holds any state, so a resumed run needs nothing restored to go on with the right learning rate.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from experiments.settings import SCHEDULES


def learning_rate(step: int, *, peak: float, steps: int, warmup_steps: int, schedule: str) -> float:
    """Learning rate of one optimiser step.

    Args:
        step: counted from 0.
        peak: reached at the end of the warm-up.
        steps: length of the whole training.
        warmup_steps: the rate rises linearly over so many steps; 0 starts at the peak.
        schedule: what follows: ``cosine`` falls to zero at the end, ``inverse_sqrt`` falls as 1/sqrt(step),
            ``constant`` stays.

    Raises:
        ValueError: there is no such schedule.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"trainer.schedule={schedule!r}: choose one of {', '.join(SCHEDULES)}")
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "cosine":
        done = (step - warmup_steps) / max(1, steps - warmup_steps)
        return peak * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
    if schedule == "inverse_sqrt":
        return peak * math.sqrt(max(1, warmup_steps) / (step + 1))
    return peak


def make_optimizer(
    groups: list[dict[str, Any]], *, betas: tuple[float, float], device_type: str = "cpu"
) -> torch.optim.AdamW:
    """AdamW over the model's own parameter groups.

    Args:
        groups: dicts with ``params`` and ``weight_decay``; an optional ``lr_scale`` multiplies the learning rate
            of a group.
        betas: decay of the two moments.
        device_type: where the parameters live. One fused kernel per step is several times faster than a loop
            over many small tensors, on a CPU too.
    """
    filled = [group for group in groups if group["params"]]
    return torch.optim.AdamW(filled, lr=0.0, betas=betas, fused=device_type in ("cpu", "cuda"))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the rate of the next step in every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
