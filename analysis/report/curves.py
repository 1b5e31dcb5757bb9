"""Small line drawings: some hundred bytes each, as a study has hundreds of runs with several."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

_WIDTH, _HEIGHT, _MARGIN = 160, 56, 4


def curve_svg(title: str, steps: Sequence[float], values: Sequence[float]) -> str:
    """A line through values by step, with its ends in words; empty where there are fewer than two numbers.

    Args:
        title: what is drawn.
        steps: places, rising.
        values: one for each step; what is no number is left out.
    """
    points = [(float(x), float(y)) for x, y in zip(steps, values, strict=True) if math.isfinite(float(y))]
    if len(points) < 2:
        return ""
    (x_low, x_high), (y_low, y_high) = (_ends([point[axis] for point in points]) for axis in (0, 1))
    places = " ".join(
        f"{_MARGIN + (x - x_low) / (x_high - x_low) * (_WIDTH - 2 * _MARGIN):.0f},"
        f"{_HEIGHT - _MARGIN - (y - y_low) / (y_high - y_low) * (_HEIGHT - 2 * _MARGIN):.1f}"
        for x, y in points
    )
    name, first, last = html.escape(title), f"{points[0][1]:.4g}", f"{points[-1][1]:.4g}"
    label = f"{name} from {first} at step {points[0][0]:.0f} to {last} at step {points[-1][0]:.0f}"
    return (
        f'<figure class="curve"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
        f'<polyline points="{places}"/></svg><figcaption>{name}<br>{first} → {last}</figcaption></figure>'
    )


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """Least and greatest, apart even where all are the same."""
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 1, high + 1)
