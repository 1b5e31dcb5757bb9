"""Luna, "Luna: Linear Unified Nested Attention", arXiv 2106.01540: its tables and its figure 1, beside ours.

Of its table of speed and memory only the column of 4K is at hand, through figure 1; of its ablation of the extra
sequence P no number; what tied keys and values cost stands in its table of translation, in BLEU.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.arms import MEMORY, sized, step_ratios
from analysis.marks import floor_line, level, mark_published, mean_line, mean_point
from analysis.panels import (
    ACCURACY,
    add_scores,
    difference_figure,
    difference_table,
    in_order,
    missing_notes,
    one_legend,
)
from analysis.published import published, setting_values
from analysis.readme import markdown
from analysis.statistics import Interval, aggregate, count_text, mean_interval
from analysis.studies import Study
from analysis.style import colour, drawn, missing_note

TASKS = {
    "lra_listops": "ListOps",
    "lra_text": "Text",
    "lra_retrieval": "Retrieval",
    "lra_image": "Image",
    "lra_pathfinder": "Pathfinder",
}
#: Figure 1 leaves Retrieval out of its mean.
FIGURE_1 = tuple(task for task in TASKS if task != "lra_retrieval")
ORDER = ("transformer", "local", "linear", "luna")
TABLE, BUBBLES, SPEED = "LRA results table", "figure 1", "speed and memory table"
#: The arms of ``luna_memory_ablations`` in their order.
ABLATIONS = {
    "luna": "P is carried up the layers",
    "fresh": "P is learned anew in each layer",
    "tied": "keys are values",
    "shared": "pack and unpack are one attention",
    "pooled": "the classifier reads P",
}
#: Lines for one variant in several sizes, small to large.
SIZE_LINES = (":", "-.", "-")


def memory_size_figure(study: Study) -> Figure:
    """Accuracy by memory size, a panel for each task of LRA and one for their mean; the paper's Luna hollow and dashed.

    The transformer, local and linear attention have no memory size: they are lines across. Of the paper's only the
    transformer is drawn, as its authors ran it again; :func:`lra_table` has all.

    Args:
        study: ``luna_lra``.
    """
    runs = _sized(study.runs)
    figure = Figure(figsize=(10, 6.6), layout="constrained")
    sizes = runs[MEMORY].dropna().astype(float)
    ends = (sizes.min(), sizes.max()) if len(sizes) else (4.0, 64.0)
    grid = figure.subplots(2, 3, sharex=True)
    for axes, task in zip(grid.flat, [*TASKS, None], strict=True):
        floor_line(axes, runs[runs["task"] == task])
        _draw_sizes(axes, mean_scores(runs, (task,) if task else tuple(TASKS)), ends)
        _mark_paper(axes, task)
        axes.set(title=TASKS[task] if task else "mean of the five")
        axes.set_xscale("log", base=2)
        axes.set_xticks([4, 16, 64, 256], ["4", "16", "64", "256"])
        axes.grid(alpha=0.25)
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy")
    for axes in grid[-1]:
        axes.set_xlabel("memory slots")
    one_legend(figure, runs)
    missing_note(figure, study)
    return figure


def _sized(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs with the number of slots as a number, in the order of the figures."""
    if runs.empty:
        return pd.DataFrame(columns=["task", "variant", "seed", MEMORY, ACCURACY])
    return in_order(sized(runs), ORDER, MEMORY)


def mean_scores(runs: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
    """The mean accuracy over some tasks of each arm that has a run on every one of them.

    Args:
        runs: columns ``task, variant, seed, model.memory_len`` and the accuracy.
        tasks: that the mean is of.

    Returns:
        Columns ``variant, model.memory_len, mean, low, high, n``.
    """
    rows = []
    own = runs[runs["task"].isin(list(tasks))]
    for (variant, size), scores in own.groupby(["variant", MEMORY], sort=False, dropna=False):
        if set(scores["task"]) == set(tasks):
            rows.append([variant, size, *aggregate(scores, ACCURACY)])
    return pd.DataFrame(rows, columns=["variant", MEMORY, *Interval._fields])


def _draw_sizes(axes: Axes, means: pd.DataFrame, ends: tuple[float, float]) -> None:
    """Lines by memory size, and lines across from end to end for what has none."""
    for variant, rows in means.groupby("variant", sort=False):
        if rows[MEMORY].notna().any():
            mean_line(axes, rows, MEMORY, str(variant))
        else:
            level(axes, Interval(*rows[list(Interval._fields)].iloc[0]), str(variant), ends)


def _mark_paper(axes: Axes, task: str | None) -> None:
    """The paper's Luna and transformer on a task, or their mean over the five."""
    rows = _table_rows(task)
    own = rows[rows["model"].str.startswith("Luna")].assign(model="Luna")
    mark_published(axes, own, "memory_len")
    mark_published(axes, rows[rows["model"] == "Transformer (run again)"])


def _table_rows(task: str | None) -> pd.DataFrame:
    if task is None:
        return published(paper="luna", where=TABLE, metric="mean_accuracy", setting={"tasks": 5})
    return published(paper="luna", where=TABLE, task=task)


def lra_table(study: Study) -> str:
    """Accuracy on LRA by memory size as a Markdown table: ours, bold by the rule, then all rows of the paper's."""
    runs = _sized(study.runs)
    arms = {
        f"`{variant}`" + ("" if pd.isna(size) else f", memory {size:g}"): (variant, size)
        for variant, size in runs[["variant", MEMORY]].drop_duplicates().itertuples(index=False)
    }
    cells = {name: [name, "ours"] for name in arms}
    for tasks in (*((task,) for task in TASKS), tuple(TASKS)):
        means = mean_scores(runs, tasks)
        add_scores(cells, {name: _score(means, *arm) for name, arm in arms.items()})
    floors = [["trivial floor", "", *(_floor(runs, task) for task in TASKS), ""]] if arms else []
    header = ["model", "from", *(f"{name}, %" for name in TASKS.values()), "mean of the five, %"]
    return markdown(header, [*floors, *cells.values(), *_paper_lines()])


def _score(means: pd.DataFrame, variant: str, size: float) -> Interval:
    for row in means[means["variant"] == variant].to_dict("records"):
        if row[MEMORY] == size or (pd.isna(row[MEMORY]) and pd.isna(size)):
            return Interval(row["mean"], row["low"], row["high"], row["n"])
    return mean_interval([])


def _floor(runs: pd.DataFrame, task: str) -> str:
    floors = runs.loc[runs["task"] == task, "floor"].dropna().unique()
    return f"{100 * floors[0]:.1f}" if len(floors) == 1 else "-"


def _paper_lines() -> list[list[str]]:
    """The paper's table: a line for each of its models, numbers as it prints them."""
    columns = [_table_rows(task).set_index("model")["value"] for task in (*TASKS, None)]
    return [
        [model, "paper", *(f"{values[model]:.2f}" if model in values else "-" for values in columns)]
        for model in sorted(columns[0].index, key=_place)
    ]


def _place(model: str) -> tuple[int, int, str]:
    """Transformers first, Luna last by size, all others between by name."""
    name, _, size = model.partition("-")
    if name == "Luna":
        return 2, int(size), ""
    return int(not model.startswith("Transformer")), 0, model


def ablation_figure(study: Study) -> Figure:
    """What carrying P up, untied keys and values and the rest are worth: each change as a difference to Luna.

    The paper's numbers have other units, or could not be found: they stand in :func:`ablation_table`.

    Args:
        study: ``luna_memory_ablations``.
    """
    return difference_figure(study, "arm", "luna", [name for name in ABLATIONS if name != "luna"], ABLATIONS)


def ablation_table(study: Study) -> str:
    """The ablations as a Markdown table, beside what the paper has of them."""
    if study.runs.empty:
        tied = f"Tied less untied in the paper: {_tied_in_paper()}."
        return f"Nothing of ours to show yet. To make it: `{study.command}`\n\n{tied}"
    more = {"paper, change": {"fresh": _fresh_in_paper(), "tied": _tied_in_paper()}}
    return difference_table(study.runs, "arm", list(ABLATIONS), ("luna",), ABLATIONS, more)


def _tied_in_paper() -> str:
    """Tied less untied, in BLEU, over all pairs of the table of translation."""
    rows = published(paper="luna", where="WMT'14 table", variant="luna")
    keys = [setting_values(rows, key) for key in ("memory_len", "omega", "tied")]
    table = rows.assign(memory=keys[0], omega=keys[1], tied=keys[2]).pivot_table("value", ["memory", "omega"], "tied")
    gaps = (table[True] - table[False]).round(2)
    ends = " to ".join(dict.fromkeys(f"{gap:+.1f}" for gap in (gaps.min(), gaps.max())))
    return f"{ends} BLEU (WMT'14, {len(gaps)} pairs)"


def _fresh_in_paper() -> str:
    rows = published(paper="luna", where="ablation of contextual P", variant="luna_fresh", not_found=True)
    found = rows["value"].dropna()
    return f"{found.iloc[0]:.2f} %" if len(found) else "number not found"


def ratios(bench: pd.DataFrame) -> pd.DataFrame:
    """Speed and memory of a training step as ratios to the transformer's at the same length.

    Args:
        bench: rows of bench.csv.

    Returns:
        Columns ``name, variant, memory_len, length, speed, memory``, and ``spread``, by how much the times of both
        scatter. Lengths that the transformer lacks have no rows.
    """
    columns = ["name", "variant", "memory_len", "length", "speed", "memory", "spread"]
    if bench.empty:
        return pd.DataFrame(columns=columns)
    rows = bench[(bench["phase"] == "train") & (bench["status"] == "ok") & bench["package"].isna()]
    plain = rows[rows["variant"] == "transformer"]
    return step_ratios(rows, plain, ["length"], {"speed": "tokens_per_second", "memory": "added_bytes"})[columns]


def efficiency_figure(study: Study) -> Figure:
    """Training speed and memory over the transformer's, by length; the paper's at 4K are hollow.

    Args:
        study: ``luna_efficiency``.
    """
    found = ratios(study.bench)
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True)
    labels = {"speed": "training speed over the transformer's", "memory": "memory of a step over the transformer's"}
    for axes, (column, label) in zip(panels, labels.items(), strict=True):
        axes.axhline(1, color="0.6", linewidth=0.8, zorder=0)
        for name, rows in found[found["variant"] != "transformer"].groupby("name", sort=False):
            axes.plot(rows["length"] / 1000, rows[column], label=str(name), **_size_look(found, str(name)))
        _mark_ratios(axes, f"relative_{column}")
        axes.set(xlabel="thousand bytes of text", ylabel=label, yscale="log")
        axes.set_yticks(*_plain_ticks(*axes.get_ylim()))
        axes.minorticks_off()
        axes.set_xlim(0, 1.08 * axes.dataLim.xmax)
        axes.grid(alpha=0.25)
    one_legend(figure, pd.DataFrame())
    missing_note(figure, study)
    return figure


def _plain_ticks(low: float, high: float) -> tuple[list[float], list[str]]:
    """Ticks of a logarithmic axis of ratios, as one says them."""
    ticks = [tick for tick in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if low <= tick <= high]
    return ticks, [f"{tick:g}" for tick in ticks]


def _size_look(rows: pd.DataFrame, name: str) -> dict[str, object]:
    """A variant's look; where it has several sizes, larger ones have larger markers and lines of their own."""
    variant = str(rows.loc[rows["name"] == name, "variant"].iloc[0])
    names = list(dict.fromkeys(rows.loc[rows["variant"] == variant].sort_values("memory_len")["name"]))
    if len(names) == 1:
        return drawn(variant)
    place = names.index(name)
    return {**drawn(variant), "linestyle": SIZE_LINES[place % len(SIZE_LINES)], "markersize": 4 + 2 * place}


def _mark_ratios(axes: Axes, metric: str) -> None:
    """The paper's ratios at 4K: those of its own table, and of local and linear attention from figure 1."""
    rows = published(paper="luna", where=SPEED, metric=metric)
    for place, (_, own) in enumerate(rows.sort_values("setting", key=_slots).groupby("model", sort=False)):
        mark_published(axes, own, "length_k")
        axes.lines[-1].set_markersize(4 + 2 * place)
    mark_published(axes, published(paper="luna", where=BUBBLES, metric=metric, variant=["local", "linear"]), "length_k")


def _slots(settings: pd.Series) -> pd.Series:
    return settings.str.extract(r"memory_len=(\d+)")[0].astype(int)


def efficiency_table(study: Study) -> str:
    """Speed and memory over the transformer's by length as a Markdown table; the paper's numbers below ours."""
    found = ratios(study.bench)
    lengths = sorted(set(found["length"]) | {1000, 2000, 3000, 4000})
    header = ["model", "from", *(f"{length / 1000:g}K: speed, memory" for length in lengths)]
    lines = []
    for name, rows in found.groupby("name", sort=False):
        own = rows.set_index("length")
        cells = [
            "{:.2f}, {:.2f}".format(*own.loc[length, ["speed", "memory"]]) if length in own.index else "not measured"
            for length in lengths
        ]
        lines.append([f"`{name}`", "ours", *cells])
    return markdown(header, [*lines, *_paper_ratios(lengths)])


def _paper_ratios(lengths: Sequence[int]) -> list[list[str]]:
    """The paper's table of speed and memory, with what could not be found."""
    rows = published(paper="luna", where=[SPEED, BUBBLES], metric=["relative_speed", "relative_memory"], not_found=True)
    rows = rows.assign(length=1000 * setting_values(rows, "length_k").astype(int))
    lines = []
    for model in sorted(set(rows["model"]), key=_place):
        own = rows[rows["model"] == model]
        values = own.dropna(subset="value").drop_duplicates(["length", "metric"])
        table = values.pivot(index="length", columns="metric", values="value")
        cells = [
            "{:g}, {:g}".format(*table.loc[length, ["relative_speed", "relative_memory"]])
            if length in table.index
            else "not found"
            for length in lengths
        ]
        lines.append([model, "paper", *cells])
    return lines


def bubbles(lra: Study, efficiency: Study) -> pd.DataFrame:
    """Arms that have a score on the four tasks of figure 1 and a measured step: what they are worth, and their cost.

    Args:
        lra: ``luna_lra``.
        efficiency: ``luna_efficiency``; of it the longest text counts.

    Returns:
        Columns ``variant, name, speed, memory, mean, low, high, n``.
    """
    means = mean_scores(_sized(lra.runs), FIGURE_1)
    costs = ratios(efficiency.bench)
    costs = costs[costs["length"] == costs["length"].max()]
    costs = costs.assign(slots=pd.to_numeric(costs["memory_len"]).where(costs["variant"] == "luna").fillna(0))
    means = means.assign(slots=pd.to_numeric(means[MEMORY]).fillna(0))
    both = costs.merge(means, on=["variant", "slots"])
    return both[["variant", "name", "speed", "memory", *Interval._fields]]


def quality_speed_memory_figure(lra: Study, efficiency: Study) -> Figure:
    """Figure 1: mean accuracy without Retrieval over training speed, a disc's radius in proportion to memory.

    The paper's on the left, hollow; ours on the right, with the interval of the mean. Both axes are shared.

    Args:
        lra: ``luna_lra``.
        efficiency: ``luna_efficiency``.
    """
    ours = bubbles(lra, efficiency)
    figure = Figure(figsize=(10, 5), layout="constrained")
    count = 2 if len(ours) else 1
    panels = figure.subplots(1, count, sharex=True, sharey=True, squeeze=False)[0]
    _draw_bubbles(panels[0], _paper_bubbles(), hollow=True)
    if len(ours):
        _draw_bubbles(panels[1], ours)
    titles = ("the paper's, text of 4,000 bytes", f"ours (n = {count_text(ours['n'])})")
    for axes, title in zip(panels, titles, strict=False):
        axes.set(title=title, xlabel="training speed over the transformer's")
        axes.grid(alpha=0.25)
        axes.margins(x=0.18, y=0.12)
    panels[0].set_ylabel("mean accuracy without Retrieval")
    missing_notes(figure, lra, efficiency)
    return figure


def _paper_bubbles() -> pd.DataFrame:
    """The paper's figure 1 in the form of :func:`bubbles`."""
    rows = published(paper="luna", where=BUBBLES)
    variants = dict(zip(rows["model"], rows["variant"], strict=True))
    table = rows.pivot(index="model", columns="metric", values="value").reset_index(names="name")
    table = table.rename(columns={"relative_speed": "speed", "relative_memory": "memory"})
    named = [variants[name] or name for name in table["name"]]
    return table.assign(variant=named, mean=table["mean_accuracy"] / 100, low=np.nan, high=np.nan, n=1)


def _draw_bubbles(axes: Axes, rows: pd.DataFrame, *, hollow: bool = False) -> None:
    """Discs; the paper's are hollow and dashed. The marker in the middle says which variant it is."""
    for row in rows.to_dict("records"):
        own, x, y = colour(row["variant"]), [row["speed"]], [row["mean"]]
        line, face = ("--", "none") if hollow else ("-", own)
        area = (40 * row["memory"]) ** 2
        axes.scatter(x, y, area, facecolor=face, edgecolor=own, alpha=1 if hollow else 0.25, linestyle=line)
        mean_point(
            axes, x[0], Interval(*(row[name] for name in Interval._fields)), {**drawn(row["variant"]), "mfc": face}
        )
        side = "right" if _has_neighbour(rows, row["speed"], row["mean"]) else "left"
        shift = (-5 if side == "right" else 5, -2)
        axes.annotate(row["name"], (x[0], y[0]), shift, textcoords="offset points", fontsize=7, ha=side)


def _has_neighbour(rows: pd.DataFrame, speed: float, score: float) -> bool:
    """Whether a name written to the right of a disc would cover another disc."""
    away, up = rows["speed"] - speed, (rows["mean"] - score).abs()
    near = (away > 0) & (away < 0.15 * np.ptp(rows["speed"])) & (up < 0.025 * np.ptp(rows["mean"]))
    return bool(near.any())
