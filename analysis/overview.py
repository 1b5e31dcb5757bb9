"""Our own comparison: every mechanism on every task, at equal size, segment and memory budget.

The studies ``overview`` (three tasks) and ``overview_all`` (all tasks) give the scores, ``state_size`` gives recall
against what a model carries, ``compressions`` recall against how often a memory was written in between. The tables are
those of analysis/matrix.py and analysis/recall.py; analysis/pareto.py sets quality against cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.arms import only_task
from analysis.marks import floor_line, mean_point, mean_with_interval
from analysis.matrix import scored, tasks_of, variants_of
from analysis.panels import one_legend, words
from analysis.recall import recall_by_length, recall_by_pairs, written_between
from analysis.statistics import mean_interval
from analysis.studies import Study
from analysis.style import drawn, missing_note


def scores_figure(study: Study) -> Figure:
    """One panel a task: a dot and an interval for each variant, the trivial floor as a grey line."""
    runs, variants = scored(study), variants_of(study)
    tasks = [task for task in tasks_of(study) if (runs["task"] == task).any()]
    if not tasks:
        return words(study)
    num_columns = 5 if len(tasks) > 6 else min(3, len(tasks))
    num_rows = -(-len(tasks) // num_columns)
    figure = Figure(figsize=(10, num_rows * (0.8 + 0.2 * len(variants)) + 0.6), layout="constrained")
    grid = figure.subplots(num_rows, num_columns, sharey=True, squeeze=False)
    for axes, task in zip(grid.flat, tasks, strict=False):
        _dots(axes, runs[runs["task"] == task], variants)
        axes.set_title(task, fontsize=10)
    for axes in list(grid.flat)[len(tasks) :]:
        axes.remove()
    grid[0, 0].invert_yaxis()
    missing_note(figure, study)
    return figure


def _dots(axes: Axes, rows: pd.DataFrame, variants: Sequence[str]) -> None:
    """Means with their intervals, one line of the panel for each variant."""
    for place, variant in enumerate(variants):
        found = mean_interval(rows.loc[rows["variant"] == variant, "score"])
        if not found.n:
            axes.text(
                0.5, place, "not run", transform=axes.get_yaxis_transform(), fontsize=6, color="grey", va="center"
            )
            continue
        mean_point(axes, place, found, {**drawn(variant), "markersize": 5}, across=True)
        axes.text(1.01, place, f"n = {found.n}", transform=axes.get_yaxis_transform(), fontsize=6, va="center")
    floor = pd.to_numeric(rows["floor"]).dropna()
    if len(floor):
        axes.axvline(floor.iloc[0], color="0.6", linewidth=0.8, zorder=0)
    less = "" if bool(rows["larger_is_better"].iloc[0]) else " (less is better)"
    axes.set_xlabel(f"{str(rows['metric'].iloc[0]).replace('_', ' ')}{less}", fontsize=9)
    axes.set_yticks(range(len(variants)), variants, fontsize=8)
    axes.set_ylim(-0.6, len(variants) - 0.4)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", alpha=0.25)


def lengths_figure(study: Study) -> Figure:
    """A strip for each variant: exact match of the passkey by length, those that hold it longest on top.

    A cell has the mean over seeds, and below it the 95 % bootstrap interval; a cell that was not tested is hatched.
    """
    study = only_task(study, "passkey")
    rows = recall_by_length(study)
    if rows.empty:
        return words(study)
    table = rows.pivot_table(index="variant", columns="length_blocks", values="exact_match", aggfunc="mean")
    lengths = sorted(map(int, table.columns))
    order = list(table.fillna(0).mean(axis=1).sort_values(ascending=False, kind="stable").index)
    figure = Figure(figsize=(1.6 + 0.8 * len(lengths), 1.0 + 0.36 * len(order)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(table.loc[order].to_numpy(), vmin=0, vmax=1, cmap="cividis", aspect="auto")
    axes.set_facecolor("0.92")
    axes.patch.set_hatch("///")
    axes.patch.set_edgecolor("0.75")
    for (variant, blocks), own in rows.groupby(["variant", "length_blocks"]):
        found = mean_interval(own["exact_match"])
        place = (lengths.index(int(str(blocks))), order.index(str(variant)))
        span = "" if found.n < 2 else f"\n{100 * found.low:.0f} to {100 * found.high:.0f}"
        look: dict[str, Any] = {"ha": "center", "color": "black" if found.mean > 0.55 else "white"}
        axes.text(*place, f"{100 * found.mean:.0f}", va="bottom" if span else "center", size=8, **look)
        axes.text(*place, span, va="center", size=5, **look)
    _length_axis(axes, rows, lengths)
    seeds = rows.groupby("variant")["seed"].nunique()
    axes.set_yticks(range(len(order)), [f"{name}  (n = {seeds[name]})" for name in order], fontsize=8)
    figure.colorbar(image, ax=axes, label="exact match", shrink=0.7, pad=0.01)
    missing_note(figure, study)
    return figure


def _length_axis(axes: Axes, rows: pd.DataFrame, lengths: Sequence[int]) -> None:
    """Lengths in blocks and symbols, with a line behind the longest of training."""
    symbols = rows.groupby("length_blocks")["length_tokens"].max()
    names = [f"{blocks:,}\n{symbols[blocks]:,.0f}" for blocks in lengths]
    axes.set_xticks(range(len(lengths)), names, fontsize=7)
    trained = sum(blocks <= rows.loc[rows["factor"] <= 1, "length_blocks"].max() for blocks in lengths)
    axes.axvline(trained - 0.5, color="white", linewidth=2)
    axes.axvline(trained - 0.5, color="black", linestyle="--", linewidth=1.2)
    axes.set_xlabel("length of the prompt in blocks and in symbols; left of the line: as in training", fontsize=8)
    axes.set_xticks(np.arange(len(lengths) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.6)
    axes.tick_params(which="both", length=0)


def state_size_figure(study: Study) -> Figure:
    """Associative recall against the numbers that a model carries: the headline, then by number of pairs."""
    runs = scored(study)
    if runs.empty:
        return words(study)
    pairs = recall_by_pairs(study)
    counts = sorted(pairs["num_kv_pairs"].unique())
    num_columns = min(3, 1 + len(counts))
    num_rows = -(-(1 + len(counts)) // num_columns)
    figure = Figure(figsize=(10, 2.9 * num_rows + 1.0), layout="constrained")
    grid = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False)
    panels = [("all that training has", runs.rename(columns={"score": "accuracy"}))]
    for count in counts:
        own = pairs[pairs["num_kv_pairs"] == count]
        panels.append((f"{count:.0f} pairs" + ("" if own["trained"].any() else ", more than in training"), own))
    for axes, (title, rows) in zip(grid.flat, panels, strict=False):
        mean_with_interval(axes, rows, "state_size", "accuracy", show_n=False)
        axes.set_title(title, fontsize=9)
        axes.grid(alpha=0.25)
    for axes in list(grid.flat)[len(panels) :]:
        axes.remove()
    for place, axes in enumerate(list(grid.flat)[: len(panels)]):
        if place + num_columns >= len(panels):
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("numbers carried along time", fontsize=9)
    floor_line(grid[0, 0], runs)
    _state_axis(grid[0, 0], runs["state_size"])
    grid[0, 0].set_ylim(-0.03, 1.03)
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy", fontsize=9)
    one_legend(figure, runs, ncols=5)
    missing_note(figure, study)
    return figure


def _state_axis(axes: Axes, sizes: pd.Series) -> None:
    """Logarithmic to the base of 2, with a place for those that carry nothing."""
    smallest, largest = sizes[sizes > 0].min(), sizes.max()
    if not largest > 0:
        return
    axes.set_xscale("symlog", base=2, linthresh=smallest, linscale=0.6)
    powers = range(math.ceil(math.log2(smallest)), math.floor(math.log2(largest)) + 1)
    ticks = [*([0] if (sizes == 0).any() else []), *(2**power for power in powers if power % 2 == 0)]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], fontsize=7)
    axes.set_xlim(-smallest / 4 if 0 in ticks else smallest / 1.2, largest * 1.2)


def compressions_figure(study: Study) -> Figure:
    """Exact match over the number of times that a memory was written between a fact and its question."""
    rows = written_between(study)
    tasks = [task for task in ("passkey", "memory_ops") if (rows["task"] == task).any()]
    if not tasks:
        return words(study)
    figure = Figure(figsize=(5 * len(tasks), 4.6), layout="constrained")
    panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    titles = {"passkey": "passkey said at the very start", "memory_ops": "memorize: a fact at the very start"}
    for axes, task in zip(panels, tasks, strict=True):
        own = rows[rows["task"] == task]
        mean_with_interval(axes, own, "writes", "exact_match", show_n=False)
        trained = own.loc[own["factor"] <= 1, "writes"]
        if len(trained):
            axes.axvline(trained.max(), color="grey", linestyle="--", linewidth=0.8)
        floor_line(axes, study.runs[study.runs["task"] == task])
        axes.set_xscale("symlog", linthresh=1, linscale=0.4)  # a fact and its question may stand in one block
        ticks = [0, *(4**power for power in range(6) if 4**power <= max(1, own["writes"].max()))]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.set(xlim=(-0.15, 1.2 * max(1, own["writes"].max())), ylim=(-0.03, 1.03))
        axes.set_xlabel("blocks between fact and question (dashed: longest trained)")
        axes.set_title(titles[task], fontsize=9)
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("exact match")
    one_legend(figure, study.runs, ncols=5)
    missing_note(figure, study)
    return figure
