"""Quality against cost: which variants no other beats in score, speed and state at once.

Scores are the aggregates of ``overview``; speed, memory and state those of the study ``efficiency`` (``mode=bench``):
a training step at the longest length that all measured variants reached. Two studies, two sizes of model: the scores
are of small models that were trained, speed and state of larger ones that were not.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from analysis.marks import mean_point
from analysis.matrix import aggregates, variants_of
from analysis.panels import legend_above, words
from analysis.readme import markdown
from analysis.statistics import Interval, interval_text
from analysis.studies import Study
from analysis.style import drawn, missing_note

#: What a point of the front is judged by, and whether more of it is better.
OBJECTIVES: Mapping[str, bool] = {"score": True, "tokens_per_second": True, "state_size": False}

#: Column of each panel, and what stands at its axis.
PANELS = {
    "tokens_per_second": "training, tokens per second",
    "added_bytes": "memory of a training step, MiB",
    "state_size": "numbers carried along time",
}


def pareto_front(frame: pd.DataFrame, objectives: Mapping[str, bool] = OBJECTIVES) -> pd.Series:
    """Whether each point is on the front: unless another is at least as good in all and better in one beyond intervals.

    Args:
        frame: one row a point; a column for each objective, and where it has intervals ``<objective>_low`` and
            ``<objective>_high``. Without them any difference counts. A point that lacks an objective is not on the
            front and keeps none off it.
        objectives: column, and whether more is better.

    Returns:
        Truth values by the frame's index.
    """
    whole = frame[list(objectives)].notna().all(axis=1)
    points = frame[whole]
    means, lows, highs = (_ends(points, objectives, end) for end in ("", "_low", "_high"))
    at_least = (means[:, None] >= means[None]).all(axis=2)  # [other, point]
    beyond = (lows[:, None] > highs[None]).any(axis=2)
    front = pd.Series(False, index=frame.index)
    front.loc[whole] = np.logical_not((at_least & beyond).any(axis=0))
    return front


def _ends(points: pd.DataFrame, objectives: Mapping[str, bool], end: str) -> np.ndarray:
    """Points by objectives, more is better in all: the means, or one end of the intervals."""
    columns = []
    for name, more in objectives.items():
        wanted = end if more else {"_low": "_high", "_high": "_low"}.get(end, "")
        found = points[name].astype(float)
        if f"{name}{wanted}" in points:
            found = points[f"{name}{wanted}"].astype(float).fillna(found)
        columns.append(found if more else -found)
    return np.stack(columns, axis=1)


def pareto_points(scores: Study, costs: Study) -> pd.DataFrame:
    """One row for each variant that was both trained and measured.

    Args:
        scores: ``overview``.
        costs: ``efficiency``.

    Returns:
        Columns ``variant, score, score_low, score_high, n``, those of :data:`PANELS`, ``length``, and ``front``.
    """
    block, joined = aggregates(scores)
    rows = [
        {"variant": name, "score": found.mean, "score_low": found.low, "score_high": found.high, "n": found.n}
        for name, (found, _) in joined.items()
        if name in block.variants
    ]
    points = pd.DataFrame(rows, columns=["variant", "score", "score_low", "score_high", "n"])
    points = points.merge(measured(costs), on="variant", how="inner")
    order = variants_of(scores)
    points = points.sort_values("variant", key=lambda names: names.map(order.index)).reset_index(drop=True)
    return points.assign(front=pareto_front(points))


def measured(costs: Study) -> pd.DataFrame:
    """Our variants' training step at the longest length that all of them reached: ``variant`` and the costs."""
    columns = ["variant", "length", *PANELS]
    bench = costs.bench
    if bench.empty:
        return pd.DataFrame(columns=columns)
    ours = bench["package"].isna() | (bench["package"].astype(str) == "")
    rows = bench[ours & (bench["phase"] == "train")].dropna(subset=["tokens_per_second"])
    reached = rows.groupby("variant")["length"].agg(set)
    common = set.intersection(*reached) if len(reached) else set()
    return rows.loc[rows["length"] == max(common), columns] if common else pd.DataFrame(columns=columns)


def pareto_figure(scores: Study, costs: Study) -> Figure:
    """Aggregate score over speed, memory and state; the variants of the front have a ring and their name in bold.

    Args:
        scores: ``overview``.
        costs: ``efficiency``.
    """
    points = pareto_points(scores, costs)
    if points.empty:
        empty = [study for study, rows in ((scores, scores.runs), (costs, costs.bench)) if rows.empty]
        return words(*empty, about="A point needs the scores of a variant on every task, and its speed.")
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    panels = figure.subplots(1, len(PANELS), sharey=True)
    for axes, (column, label) in zip(panels, PANELS.items(), strict=True):
        _panel(axes, points, column, 2**20 if column == "added_bytes" else 1)
        axes.set_xscale("log")
        axes.set_xlabel(f"{label}\nat length {points['length'].iloc[0]:,.0f}", fontsize=9)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="x", labelsize=7, labelrotation=30)
        axes.grid(alpha=0.25)
    tasks = ", ".join(aggregates(scores)[0].tasks)
    panels[0].set_ylabel(f"aggregate score: {tasks}", fontsize=8)
    legend_above(figure, panels[0], ncols=6, fontsize=8)
    for text, on_front in zip(figure.legends[0].get_texts(), points["front"], strict=True):
        text.set_fontweight("bold" if on_front else "normal")
    missing_note(figure, scores)
    return figure


def _panel(axes: Axes, points: pd.DataFrame, column: str, unit: int) -> None:
    """A point and an interval for each variant; a ring around those of the front."""
    for row in points.to_dict("records"):
        place, found = row[column] / unit, Interval(row["score"], row["score_low"], row["score_high"], row["n"])
        look = {**drawn(row["variant"]), "markersize": 6, "label": f"{row['variant']} (n = {row['n']})"}
        mean_point(axes, place, found, look)
        if row["front"]:
            axes.plot(
                [place], [found.mean], linestyle="none", marker="o", ms=13, mfc="none", mec="black", label="_front"
            )


def pareto_table(scores: Study, costs: Study) -> str:
    """The same as a Markdown table, and who could not be placed."""
    points = pareto_points(scores, costs)
    header = ["`model=`", "aggregate", "tokens/s", "memory, MiB", "state", "on the front"]
    lines = []
    for row in points.to_dict("records"):
        score = Interval(row["score"], row["score_low"], row["score_high"], row["n"])
        costs_of_row = [
            f"{row['tokens_per_second']:,.0f}",
            f"{row['added_bytes'] / 2**20:,.1f}",
            f"{row['state_size']:,.0f}",
        ]
        place = "yes" if row["front"] else ""
        lines.append([f"`{row['variant']}`", interval_text(score, with_n=True), *costs_of_row, place])
    absent = [name for name in variants_of(scores) if name not in set(points["variant"])]
    note = f"Without a place, for lack of scores on every task or of a measured speed: {', '.join(absent) or 'none'}."
    return "\n\n".join([*([markdown(header, lines)] if lines else []), note])
