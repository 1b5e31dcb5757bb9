"""Maps of what each layer and head does with its memory: shares, entropies and gates of ``Study.heads``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage


def heads_figure(heads: pd.DataFrame, by: str, measures: Mapping[str, str], *, columns: int = 7) -> Figure:
    """A map over layers and heads for each group and measure, means over seeds; each cell with its number.

    Args:
        heads: columns ``by, seed, layer, head`` and the measures, shares between 0 and 1.
        by: column of groups, one column of maps each, in order of appearance.
        measures: what each measure is called, one line of maps each, or more where the groups need them.
        columns: maps side by side.
    """
    names = list(dict.fromkeys(heads[by]))
    parts = [names[first : first + columns] for first in range(0, len(names), columns)]
    lines = [(measure, part) for measure in measures for part in parts]
    widest = len(parts[0])
    figure = Figure(
        figsize=(max(4.5, 1.0 + min(1.75, 9 / widest) * widest), 0.7 + 1.7 * len(lines)), layout="constrained"
    )
    panels = figure.subplots(len(lines), widest, squeeze=False)
    for line, (measure, part) in zip(panels, lines, strict=True):
        images = []
        for axes in line[len(part) :]:
            axes.set_visible(False)
        for axes, name in zip(line, part, strict=False):
            rows = heads[heads[by] == name]
            if measure not in rows or rows[measure].isna().all():
                axes.set_axis_off()
                axes.text(0.5, 0.5, "not measured", ha="center", va="center", fontsize=7, transform=axes.transAxes)
            else:
                images.append(_map(axes, rows, measure))
            axes.set_title(f"{name}\nn = {rows['seed'].nunique()}", fontsize=7)
        line[0].set_ylabel("layer", fontsize=8)
        if images:
            figure.colorbar(images[0], ax=line, label=measures[measure], shrink=0.9)
    return figure


def _map(axes: Axes, rows: pd.DataFrame, measure: str) -> AxesImage:
    table = rows.pivot_table(index="layer", columns="head", values=measure, aggfunc="mean").sort_index(ascending=False)
    values = table.to_numpy()
    image = axes.imshow(values, vmin=0, vmax=1, cmap="cividis", aspect="auto")
    for (layer, head), value in np.ndenumerate(values):
        if not np.isnan(value):
            shade = "black" if value > 0.55 else "white"
            axes.text(head, layer, f"{value:.2f}", ha="center", va="center", fontsize=6, color=shade)
    axes.set_xticks(range(values.shape[1]), [str(head) for head in table.columns], fontsize=7)
    axes.set_yticks(range(values.shape[0]), [str(layer) for layer in table.index], fontsize=7)
    axes.set_xlabel("head", fontsize=7)
    return image
