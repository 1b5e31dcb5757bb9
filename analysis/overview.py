"""Our own comparison: every mechanism on every task, at equal size, segment and memory budget.

The studies ``overview`` (three tasks) and ``overview_all`` (all tasks) give the table and the figure of scores, the mean
ranks and the differences to the transformer; ``state_size`` gives recall against what a model carries, ``compressions``
recall against how often a memory was written in between. analysis/pareto.py sets quality against cost.

A matrix of variants and tasks that is not full has no plain mean: scores are joined over the largest part of it that has
no gap, and what lies outside says over which tasks it was joined, or stays blank.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.readme import markdown
from analysis.statistics import Interval, aggregate, bold, difference, mean_interval, normalised, ranks
from analysis.studies import Study
from analysis.style import colour, marker, mean_with_interval, missing_note

#: As ``conf/study/overview.yaml`` names them; others come behind.
ORDER = (
    *("transformer", "local", "block_window", "transformer_xl", "linear", "luna", "filtered_memory", "mat", "rmt"),
    *("autocompressor", "memformer", "fam", "fam_gated", "feedback_memory", "infini", "infini_delta"),
)
FLOOR = {"color": "grey", "linewidth": 0.8, "zorder": 0}


class Block(NamedTuple):
    """A part of the matrix without a gap."""

    tasks: list[str]
    variants: list[str]


def variants_of(study: Study) -> list[str]:
    """The variants of a study, run or not, in the order of the overview."""
    names = [str(name) for frame in (study.runs, study.missing) if len(frame) for name in frame["variant"]]
    return sorted(dict.fromkeys(names), key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def tasks_of(study: Study) -> list[str]:
    """The tasks of a study, run or not, by name."""
    return sorted({str(name) for frame in (study.runs, study.missing) if len(frame) for name in frame["task"]})


def scored(study: Study) -> pd.DataFrame:
    """The runs, with the headline on the test split as ``score``."""
    if study.runs.empty:
        return pd.DataFrame(columns=["task", "variant", "seed", "score", "larger_is_better", "floor", "metric"])
    return study.runs.assign(score=[row[f"test/{row['metric']}"] for row in study.runs.to_dict("records")])


def complete_pairs(runs: pd.DataFrame) -> set[tuple[str, str]]:
    """Task and variant, where the variant has every seed that any variant has on this task."""
    wanted = runs.groupby("task")["seed"].agg(set)
    return {
        (task, variant)
        for (task, variant), rows in runs.groupby(["task", "variant"])
        if set(rows["seed"]) == wanted[task]
    }


def complete_block(runs: pd.DataFrame, tasks: Sequence[str] | None = None) -> Block:
    """The largest part of the matrix that has no gap; of equal ones the one that has more tasks.

    Args:
        runs: columns ``task, variant, seed``.
        tasks: to choose from; default: all.
    """
    full, names = complete_pairs(runs), list(dict.fromkeys(runs["variant"]))
    best = Block([], [])
    candidates = sorted(set(runs["task"])) if tasks is None else sorted(tasks)
    for count in range(len(candidates), 0, -1):
        for chosen in combinations(candidates, count):
            fitting = [name for name in names if all((task, name) in full for task in chosen)]
            if len(chosen) * len(fitting) > len(best.tasks) * len(best.variants):
                best = Block(list(chosen), fitting)
    return best


def share_tasks(runs: pd.DataFrame) -> list[str]:
    """Tasks that can be put on one scale: a share that is better when larger, above a floor that is known."""
    fits = runs["larger_is_better"].fillna(False).astype(bool) & pd.to_numeric(runs["floor"]).notna()
    return sorted(set(runs["task"]) - set(runs.loc[~fits, "task"]))


def aggregates(study: Study) -> tuple[Block, dict[str, tuple[Interval, list[str]]]]:
    """Scores of several tasks as one number, 0 at the trivial floors and 1 at the ceilings.

    Returns:
        The part of the matrix that has no gap, and for each variant its aggregate with the tasks that it is over: those of
        this part, or as many of them as the variant has.
    """
    runs = scored(study)
    runs = runs[runs["task"].isin(share_tasks(runs))]
    if runs.empty:
        return Block([], []), {}
    block, full = complete_block(runs), complete_pairs(runs)
    runs = runs.assign(score=normalised(runs))
    found = {}
    for variant, rows in runs.groupby("variant"):
        own = [task for task in block.tasks if (task, variant) in full]
        if own:
            found[str(variant)] = (aggregate(rows[rows["task"].isin(own)], "score"), own)
    return block, found


def mean_ranks(study: Study) -> tuple[Block, pd.DataFrame]:
    """Mean ranks over the tasks of the part of the matrix that has no gap, losses included; empty for one variant."""
    runs = scored(study)
    if runs.empty:
        return Block([], []), pd.DataFrame(columns=list(Interval._fields))
    block = complete_block(runs)
    if len(block.variants) < 2:
        return block, pd.DataFrame(columns=list(Interval._fields))
    rows = runs[runs["task"].isin(block.tasks) & runs["variant"].isin(block.variants)]
    sign = np.where(rows["larger_is_better"].astype(bool), 1, -1)
    return block, ranks(rows.assign(score=rows["score"] * sign), "score")


def scores_table(study: Study) -> str:
    """Variants by tasks: mean, interval and n; then aggregate and mean rank. Markdown."""
    runs, tasks, variants = scored(study), tasks_of(study), variants_of(study)
    columns = [_task_column(runs[runs["task"] == task], variants) for task in tasks]
    block, joined = aggregates(study)
    rank_block, places = mean_ranks(study)
    columns += [_aggregate_column(block, joined, variants), _rank_column(places, variants)]
    header = ["`model=`", *(_task_header(runs, task) for task in tasks), "aggregate", "mean rank"]
    lines = [[f"`{variant}`", *(column[row] for column in columns)] for row, variant in enumerate(variants)]
    notes = [
        "Mean over seeds (95 % bootstrap interval); shares in %. Bold: the interval overlaps with no other's of the column.",
        f"Aggregate: mean of the tasks' scores, 0 at the trivial floor and 1 at the ceiling, over {_names(block.tasks)}; "
        "a variant that lacks one of them says which it is over, and is not comparable with the others.",
        f"Mean rank: over {_names(rank_block.tasks)}, among {len(rank_block.variants)} variants; "
        "blank where a variant lacks one of these tasks.",
    ]
    return "\n\n".join([markdown(header, lines), *notes])


def _names(tasks: Sequence[str]) -> str:
    return ", ".join(f"`{task}`" for task in tasks) or "no task"


def _task_header(runs: pd.DataFrame, task: str) -> str:
    rows = runs[runs["task"] == task]
    if rows.empty:
        return f"`{task}`"
    first, floor = rows.iloc[0], pd.to_numeric(rows["floor"]).dropna()
    share = bool(first["larger_is_better"])
    name = str(first["metric"]).replace("_", " ") + (", %" if share else ", less is better")
    return f"`{task}` {name}" + (f" (floor {_number(floor.iloc[0], share=share)})" if len(floor) else "")


def _task_column(rows: pd.DataFrame, variants: Sequence[str]) -> list[str]:
    """The cells of one task."""
    share = bool(rows["larger_is_better"].iloc[0]) if len(rows) else True
    entries = {name: mean_interval(rows.loc[rows["variant"] == name, "score"]) for name in variants}
    run = [name for name in variants if entries[name].n]
    strong = dict(zip(run, bold([entries[name] for name in run], larger_is_better=share), strict=True))
    return [
        _cell(entries[name], share=share, strong=strong[name]) if name in strong else "not run" for name in variants
    ]


def _aggregate_column(
    block: Block, joined: dict[str, tuple[Interval, list[str]]], variants: Sequence[str]
) -> list[str]:
    """Cells; only the variants of the block compete for bold."""
    strong = dict(zip(block.variants, bold([joined[name][0] for name in block.variants]), strict=True))
    cells = []
    for name in variants:
        if name not in joined:
            cells.append("")
            continue
        found, tasks = joined[name]
        text = _cell(found, share=False, strong=strong.get(name, False))
        cells.append(text if name in strong else f"{text}, over {_names(tasks)} only")
    return cells


def _rank_column(places: pd.DataFrame, variants: Sequence[str]) -> list[str]:
    known = {str(name): Interval(*row) for name, row in zip(places.index, places.to_numpy(), strict=True)}
    cells = []
    for name in variants:
        found = known.get(name)
        has_interval = found is not None and not np.isnan(found.low)
        span = f" ({found.low:.1f} to {found.high:.1f})" if found is not None and has_interval else ""
        cells.append("" if found is None else f"{found.mean:.1f}{span}")
    return cells


def _cell(found: Interval, *, share: bool, strong: bool) -> str:
    mean = _number(found.mean, share=share)
    span = f" ({_number(found.low, share=share)} to {_number(found.high, share=share)})" if found.n > 1 else ""
    return f"{f'**{mean}**' if strong else mean}{span}, n = {found.n}"


def _number(value: float, *, share: bool) -> str:
    return f"{100 * value:.1f}" if share else f"{value:.3f}"


def differences_table(study: Study, baseline: str = "transformer") -> str:
    """Paired differences to one variant, seed by seed, with their effect size. Markdown.

    Args:
        study: ``overview`` or ``overview_all``.
        baseline: the variant that the others are held against.
    """
    runs, tasks = scored(study), tasks_of(study)
    lines = []
    for variant in variants_of(study):
        if variant == baseline:
            continue
        cells = [_difference_cell(runs[runs["task"] == task], variant, baseline) for task in tasks]
        lines.append([f"`{variant}`", *cells])
    note = (
        f"Score less that of `{baseline}` on the same seeds: mean (95 % bootstrap interval over seeds), shares in "
        "percentage points; g: Hedges' effect size."
    )
    return "\n\n".join([markdown(["`model=`", *(f"`{task}`" for task in tasks)], lines), note])


def _difference_cell(rows: pd.DataFrame, variant: str, baseline: str) -> str:
    first, second = (rows.loc[rows["variant"] == name, ["task", "seed", "score"]] for name in (variant, baseline))
    found = difference(first, second, "score")
    if not found.n:
        return "not run" if first.empty or second.empty else "no seed in common"
    share = bool(rows["larger_is_better"].iloc[0])
    scale, digits = (100, 1) if share else (1, 3)
    mean, low, high = (f"{scale * value:+.{digits}f}" for value in found[:3])
    span = f" ({low} to {high})" if found.n > 1 else ""
    effect = f", g = {found.effect:+.1f}" if np.isfinite(found.effect) else ""
    return f"{mean}{span}{effect}, n = {found.n}"


def scores_figure(study: Study) -> Figure:
    """One panel a task: a dot and an interval for each variant, the trivial floor as a grey line."""
    runs, variants = scored(study), variants_of(study)
    tasks = [task for task in tasks_of(study) if (runs["task"] == task).any()]
    if not tasks:
        return words(study)
    num_columns = min(3, len(tasks))
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
        spread = None if found.n < 2 else [[found.mean - found.low], [found.high - found.mean]]
        look = {"color": colour(variant), "marker": marker(variant), "markersize": 5, "capsize": 2}
        axes.errorbar([found.mean], [place], xerr=spread, linestyle="none", **look)
        axes.text(1.01, place, f"n = {found.n}", transform=axes.get_yaxis_transform(), fontsize=6, va="center")
    floor = pd.to_numeric(rows["floor"]).dropna()
    if len(floor):
        axes.axvline(floor.iloc[0], **FLOOR)
    less = "" if bool(rows["larger_is_better"].iloc[0]) else " (less is better)"
    axes.set_xlabel(f"{str(rows['metric'].iloc[0]).replace('_', ' ')}{less}", fontsize=9)
    axes.set_yticks(range(len(variants)), variants, fontsize=8)
    axes.set_ylim(-0.6, len(variants) - 0.4)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", alpha=0.25)


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
    panels += [(f"{count:.0f} pairs", pairs[pairs["num_kv_pairs"] == count]) for count in counts]
    for axes, (title, rows) in zip(grid.flat, panels, strict=False):
        mean_with_interval(axes, rows, "state_size", "accuracy")
        axes.set_title(title, fontsize=9)
        axes.grid(alpha=0.25)
    for axes in list(grid.flat)[len(panels) :]:
        axes.remove()
    _floor_line(grid[0, 0], runs)
    smallest = runs.loc[runs["state_size"] > 0, "state_size"].min()
    grid[0, 0].set_xscale("symlog", base=2, linthresh=smallest if smallest > 0 else 1)
    grid[0, 0].set_ylim(-0.03, 1.03)
    figure.supylabel("accuracy", fontsize=9)
    figure.suptitle("numbers carried along time (state_size) against associative recall", fontsize=9)
    _legend(figure, grid[0, 0])
    missing_note(figure, study)
    return figure


def recall_by_pairs(study: Study) -> pd.DataFrame:
    """Accuracy over all queries of a number of pairs: ``variant, seed, state_size, num_kv_pairs, accuracy``."""
    keys = ["run_id", "variant", "seed", "num_kv_pairs"]
    if study.slices.empty or "num_kv_pairs" not in study.slices:
        return pd.DataFrame(columns=[*keys, "state_size", "accuracy"])
    found = pooled(study.slices, keys, "accuracy")
    return found.merge(study.runs[["run_id", "state_size"]], on="run_id")


def pooled(slices: pd.DataFrame, keys: Sequence[str], value: str) -> pd.DataFrame:
    """The mean of a score over what its slices count, one row for each of ``keys``."""
    right = slices.assign(**{value: slices["n"] * slices[value]})
    summed = right.groupby(list(keys), sort=False, as_index=False)[["n", value]].sum()
    return summed.assign(**{value: summed[value] / summed["n"]})


def best_per_state(study: Study) -> str:
    """Which variant recalls most with at most so many numbers carried along time. Markdown.

    Of each variant the arm counts that fills the budget best, not the one that scores best: nothing is chosen by test.
    """
    runs = scored(study)
    header = [
        "numbers carried, at most",
        "best",
        "accuracy, %",
        "next",
        "accuracy, %",
        "intervals apart from all others",
    ]
    sizes = runs["state_size"].astype(float) if len(runs) else pd.Series(dtype=float)
    lines = []
    for power in range(int(np.ceil(np.log2(max(1.0, sizes.max())))) + 1 if len(runs) else 0):
        entries = _within(runs, 2**power)
        if len(entries) < 2:
            continue
        order = sorted(entries, key=lambda name: -entries[name].mean)
        apart = bold([entries[name] for name in order])[0]
        cells = [text for name in order[:2] for text in (f"`{name}`", _cell(entries[name], share=True, strong=False))]
        lines.append([f"{2**power:,}", *cells, "yes" if apart else "no"])
    lines = [line for row, line in enumerate(lines) if row == 0 or line[1:] != lines[row - 1][1:]]
    return markdown(header, lines) if lines else f"No two variants of study `{study.name}` were run."


def _within(runs: pd.DataFrame, budget: float) -> dict[str, Interval]:
    """The scores of each variant's largest arm within a budget."""
    found = {}
    for variant, rows in runs[runs["state_size"] <= budget].groupby("variant"):
        largest = rows[rows["state_size"] == rows["state_size"].max()]
        found[str(variant)] = mean_interval(largest["score"])
    return found


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
        mean_with_interval(axes, own, "writes", "exact_match")
        trained = own.loc[own["factor"] <= 1, "writes"]
        if len(trained):
            axes.axvline(trained.max(), color="grey", linestyle="--", linewidth=0.8)
        _floor_line(axes, study.runs[study.runs["task"] == task])
        axes.set(xscale="log", ylim=(-0.03, 1.03), xlabel="blocks between fact and question (dashed: longest trained)")
        axes.set_title(titles[task], fontsize=9)
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("exact match")
    _legend(figure, panels[0])
    missing_note(figure, study)
    return figure


def written_between(study: Study) -> pd.DataFrame:
    """Slices whose fact stands in the first block, with ``writes``: blocks that end between it and its question."""
    slices = study.slices
    if slices.empty:
        return pd.DataFrame(
            columns=["task", "variant", "seed", "writes", "exact_match", "factor", "scale", "data_source"]
        )
    first = slices["task"] == "memory_ops"
    if "depth" in slices:
        first |= slices["depth"] == 0
    keys = ["task", "variant", "seed", "scale", "data_source", "length_blocks", "factor"]
    found = pooled(slices[first], keys, "exact_match")
    return found.assign(writes=found["length_blocks"] - 1)


def _floor_line(axes: Axes, runs: pd.DataFrame) -> None:
    floor = pd.to_numeric(runs["floor"]).dropna()
    if len(floor):
        axes.axhline(floor.iloc[0], **FLOOR)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, fontsize=7, frameon=False)


def words(study: Study) -> Figure:
    """What stands in place of a figure that has nothing to draw."""
    figure = Figure(figsize=(8, 1.6), layout="constrained")
    figure.suptitle(f"Nothing to draw yet: no run of study {study.name} is done.", fontsize=9)
    missing_note(figure, study)
    return figure
