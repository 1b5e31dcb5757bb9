"""How a score is drawn: a mean as a point or along a line, with its interval; a floor; a paper's own numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from analysis.published import setting_values
from analysis.statistics import Interval, count_text, intervals
from analysis.style import COLOURS, colour, drawn


def mean_point(ax: Axes, place: float, found: Interval, look: Mapping[str, Any], *, across: bool = False) -> None:
    """A mean as one marker, with a whisker for its interval; one seed has no whisker.

    Args:
        ax: to draw into.
        place: on the axis of arms.
        found: the mean; nothing is drawn of none.
        look: what ``Axes.plot`` is told, colour and marker among it.
        across: scores run along x instead of y.
    """
    if not found.n:
        return
    x, y = (found.mean, place) if across else (place, found.mean)
    ax.plot([x], [y], **{**look, "linestyle": "none"})
    if found.n > 1:
        whisker = ax.hlines if across else ax.vlines
        whisker(place, found.low, found.high, color=look["color"], linewidth=1.2)


def mean_with_interval(
    ax: Axes,
    frame: pd.DataFrame,
    x: str,
    y: str,
    by: str = "variant",
    *,
    show_n: bool = True,
    looks: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """A line for each group through means over seeds, and a band for the 95 % bootstrap interval over seeds.

    Where a seed has several rows at one x (depths, operations), their mean counts. One seed has no band.

    Args:
        ax: to draw into.
        frame: columns ``x, y, seed`` and ``by``.
        x: column of places.
        y: column of scores.
        by: column of groups; variants have their own looks, other groups one after the other.
        show_n: say behind each name how many seeds there are.
        looks: what ``Axes.plot`` is told of a group, for groups that are arms of one variant.
    """
    seeds = frame.groupby([by, x, "seed"], sort=False, as_index=False)[y].mean()
    names = list(dict.fromkeys(frame[by]))
    for number, name in enumerate(names):
        look = (looks or {}).get(name) or drawn(str(name) if by == "variant" else list(COLOURS)[number % len(COLOURS)])
        means = intervals(seeds[seeds[by] == name], y, [x]).sort_values(x)
        means = means[means["n"] > 0]
        label = f"{name}  (n = {count_text(means['n'])})" if show_n else str(name)
        _line(ax, means, x, {"label": label, **look})


def mean_line(ax: Axes, means: pd.DataFrame, x: str, variant: str) -> None:
    """A variant's line through means that are known already, with a band for their intervals.

    Args:
        ax: to draw into.
        means: columns ``x`` and those of :class:`analysis.statistics.Interval`.
        x: column of places.
        variant: whose look it has, and its label.
    """
    means = means[means["n"] > 0].sort_values(x)
    if means.empty:
        return
    _line(ax, means, x, {"label": variant, **drawn(variant)})


def _line(ax: Axes, means: pd.DataFrame, x: str, look: Mapping[str, Any]) -> None:
    """Means with their band; one seed has none."""
    ax.plot(means[x], means["mean"], **look)
    if (means["n"] > 1).any():
        ax.fill_between(means[x], means["low"], means["high"], color=look["color"], alpha=0.18, linewidth=0)


def level(ax: Axes, found: Interval, variant: str, ends: tuple[float, float]) -> None:
    """A variant that has no place on the x axis: its mean as a line across, with a band for its interval.

    Args:
        ax: to draw into.
        found: its mean; nothing is drawn of none.
        variant: whose look it has, and its label.
        ends: the least and the greatest x, where its markers stand.
    """
    rows = [{"x": end, **found._asdict()} for end in ends]
    mean_line(ax, pd.DataFrame(rows), "x", variant)


def lines_by_size(ax: Axes, rows: pd.DataFrame, x: str, y: str, by: str, label: str) -> None:
    """Means over seeds with their band for each size of an arm, from small to large.

    Args:
        ax: to draw into.
        rows: columns ``by``, ``x``, ``y`` and ``seed``; nothing is drawn of none.
        x: column of places.
        y: column of values.
        by: column of sizes.
        label: with a place for the size, ``{:g} slots``.
    """
    if by in rows and rows[by].notna().any():
        sized = rows.dropna(subset=by).sort_values(by, kind="stable")
        mean_with_interval(ax, sized.assign(label=sized[by].map(label.format)), x, y, "label")


def floor_line(ax: Axes, runs: pd.DataFrame) -> None:
    """The trivial floor of the task as a thin grey line; nothing where there is none, or where they differ."""
    floors = set(runs["floor"].dropna()) if "floor" in runs else set()
    if len(floors) == 1:
        ax.axhline(float(floors.pop()), color="0.6", linewidth=0.8, zorder=0, label="trivial floor")


def mark_published(ax: Axes, rows: pd.DataFrame, x: str | None = None, *, share: bool = True) -> None:
    """A paper's own numbers: hollow markers joined by dashes, or dashed lines across where there is no x.

    Args:
        ax: to draw into.
        rows: of :func:`analysis.published.published`.
        x: setting whose value is the place of a number, such as ``memory_len``.
        share: the axis is in shares: numbers in per cent are divided by 100.

    Raises:
        ValueError: there are no numbers, or some have no such setting.
    """
    if rows.empty:
        raise ValueError("no published numbers to mark: leave the call out where a paper has none")
    values = rows["value"].where(rows["unit"] != "%", rows["value"] / 100) if share else rows["value"]
    for (paper, model), own in rows.assign(value=values).groupby(["paper", "model"], sort=False):
        variant = next((name for name in own["variant"] if name), str(model))
        label = f"{model}, {paper} (published)"
        if x is None:
            for value in own["value"]:
                ax.axhline(value, color=colour(variant), linestyle="--", linewidth=1, label=label)
                label = "_"
            continue
        places = pd.to_numeric(setting_values(own, x), errors="coerce")
        if places.isna().any():
            raise ValueError(f"published numbers of {model} in {paper} have no setting {x!r}: choose other rows")
        order = places.to_numpy(float).argsort(kind="stable")
        look = {**drawn(variant), "linestyle": "--", "markerfacecolor": "none", "linewidth": 1}
        ax.plot(places.iloc[order], own["value"].iloc[order], label=label, **look)
