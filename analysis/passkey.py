"""Passkey: where a key said once is still found, by length and depth.

The rows that these functions take are ``slices`` of :func:`analysis.studies.load_study`: one per run, length, depth and
number of blocks between key and question. A length and depth can have two of them, so means are taken by :func:`cells`.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage


def cells(slices: pd.DataFrame, by: str = "variant", scores: Sequence[str] = ("exact_match",)) -> pd.DataFrame:
    """One row per group, seed, length and depth: scores over all its prompts, however many blocks between.

    Args:
        slices: Columns ``by, seed, length_blocks, factor, depth, n`` and those of ``scores``.
        by: Column of groups.
        scores: Shares of right answers.
    """
    keys = [by, "seed", "length_blocks", "factor", "depth"]
    return pooled(slices, keys, *scores) if slices.duplicated(keys).any() else slices


def pooled(slices: pd.DataFrame, keys: Sequence[str], *scores: str) -> pd.DataFrame:
    """Means of scores over what their slices count, ``n``: one row for each of ``keys``, which must all be there."""
    right = slices.assign(**{name: slices["n"] * slices[name] for name in scores})
    summed = right.groupby(list(keys), sort=False, as_index=False)[["n", *scores]].sum()
    return summed.assign(**{name: summed[name] / summed["n"] for name in scores})


def seed_scores(slices: pd.DataFrame, score: str = "exact_match") -> pd.DataFrame:
    """The mean of each seed over the lengths and depths of an arm, as :func:`analysis.statistics.claim` takes it.

    Args:
        slices: Rows of one arm, as :func:`cells` takes them; no columns are asked of none.
        score: Share of right answers.

    Returns:
        Columns ``task, seed, scale, data_source, score``, and ``n``, the prompts that it is of.
    """
    if slices.empty:
        return pd.DataFrame(columns=["seed", "task", "scale", "data_source", "score", "n"])
    labels = slices[["seed", "task", "scale", "data_source"]].drop_duplicates()
    means = cells(slices, "arm", [score]).groupby("seed", as_index=False).agg(score=(score, "mean"), n=("n", "sum"))
    return labels.merge(means, on="seed")


def maps_figure(slices: pd.DataFrame, by: str = "variant", *, columns: int = 5) -> Figure:
    """A map of exact match over length and depth for each group.

    Args:
        slices: Columns ``by, seed, length_blocks, factor, depth, n, exact_match``.
        by: Column of groups, in the order of the maps; its values are their titles.
        columns: Maps side by side.
    """
    slices = cells(slices, by)
    names = list(dict.fromkeys(slices[by]))
    lines, columns = -(-len(names) // columns), min(columns, len(names))
    figure = Figure(figsize=(max(6.0, 1.0 + 1.85 * columns), 0.9 + 1.75 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False)
    for place, axes in enumerate(panels.flat):
        if place >= len(names):
            axes.set_visible(False)
            continue
        rows = slices[slices[by] == names[place]]
        lengths = sorted(map(int, rows["length_blocks"].unique()))
        image = _map(axes, rows, lengths)
        axes.set_title(f"{names[place]}  (n = {rows['seed'].nunique()})", fontsize=8)
        axes.set_ylabel("depth of the key" if place % columns == 0 else "", fontsize=8)
        axes.set_xlabel("length in blocks" if place + columns >= len(names) else "", fontsize=8)
        _mark_lengths(axes, lengths, int(rows.loc[rows["factor"] <= 1, "length_blocks"].max()))
    figure.colorbar(image, ax=panels, label="exact match", shrink=0.6)
    return figure


def _map(axes: Axes, rows: pd.DataFrame, lengths: list[int]) -> AxesImage:
    """Mean exact match over seeds: depth against length, each cell with its number."""
    table = rows.pivot_table(index="depth", columns="length_blocks", values="exact_match", aggfunc="mean")
    table = table.reindex(columns=lengths).sort_index(ascending=False)
    image = axes.imshow(table.to_numpy(), vmin=0, vmax=1, cmap="cividis", aspect="auto")
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        if not np.isnan(value):
            shade = "black" if value > 0.55 else "white"
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=6.5, color=shade)
    axes.set_xticks(range(len(lengths)), [str(length) for length in lengths], fontsize=7, rotation=90)
    axes.set_yticks(range(len(table)), [f"{depth:g}" for depth in table.index], fontsize=7)
    axes.set_xlabel("length in blocks")
    return image


def _mark_lengths(axes: Axes, lengths: list[int], longest: int) -> None:
    """A dashed line behind the longest training length."""
    axes.axvline(lengths.index(longest) + 0.5, color="white", linestyle="--", linewidth=1.2)
