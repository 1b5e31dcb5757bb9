"""The 95 % intervals of tables and figures. analysis/ takes them from results.py.

Apart from the data frames, so that a job's start and a sweep's table do not wait for pandas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

LEVEL = 0.95
_Z = 1.959964  # the normal distribution's two-sided 95 % point
_DRAWS = 10_000


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval for a share of ``n`` independent examples (Wilson 1927)."""
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap(values: Sequence[float]) -> tuple[float, float]:
    """Percentile bootstrap of the mean, 95 %; the draws are the same each time."""
    draws = np.random.default_rng(0).choice(np.asarray(values, dtype=float), size=(_DRAWS, len(values)))
    low, high = np.quantile(draws.mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
