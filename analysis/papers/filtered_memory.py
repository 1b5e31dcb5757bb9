"""Filtered-memory Luna: "On Difficulties of Attention Factorization through Shared Memory", arXiv 2404.00798.

Of the paper (ConvLuna is its model) only title, abstract and opening could be read, and its authors' code: none of its
tables and figures. So nothing published stands in these figures. They are our questions to it: does the filter help,
which of the four changes that its code makes to Luna does the work, how small may the memory be, and do the memory's
rows collapse in training.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.arms import MEMORY, rows_where, sized
from analysis.marks import floor_line, level, mean_line, mean_point, mean_with_interval
from analysis.panels import ACCURACY, add_scores, difference_figure, difference_table, in_order, one_legend, words
from analysis.readme import markdown
from analysis.statistics import Interval, interval_text, intervals, mean_interval
from analysis.studies import Study
from analysis.style import drawn, missing_note

#: The arms of ``filtered_decomposition`` in their order, and what each has that ``luna_shared`` has not.
CHANGES = {
    "luna": "Luna of its own authors",
    "luna_shared": "Luna of ConvLuna's authors",
    "luna_filter": "+ filter",
    "luna_no_value": "+ no value projection",
    "luna_pack_temperature": "+ learned packing temperature",
    "luna_unpack_unscaled": "+ unscaled unpacking",
    "filtered_memory": "all four: ConvLuna",
}
ORDER = ("transformer", *CHANGES)
#: Measures of the memory, with what stands at their axis.
MEASURES = {
    "effective_rank": "effective rank of the memory",
    "cosine": "mean cosine of two rows",
    "write_entropy": "entropy of packing",
    "read_entropy": "entropy of unpacking",
}
KERNEL, STRIDE, FILTER = "model.kernel", "model.stride", "model.filter"
PACKING, UNPACKING = "model.pack_temperature", "model.unpack_scale"
PACKINGS = ("unit", "sqrt", "learn")


def sizes_figure(study: Study) -> Figure:
    """Accuracy by number of memory cells down to one, a panel for each task; the transformer's is a line across.

    Args:
        study: ``filtered_sizes``.
    """
    if study.runs.empty:
        return words(study)
    runs = in_order(sized(study.runs), ORDER, MEMORY)
    cells = runs[MEMORY].dropna()
    ends = (cells.min(), cells.max()) if len(cells) else (1.0, 64.0)
    tasks = list(dict.fromkeys(runs["task"]))
    figure = Figure(figsize=(5 * len(tasks), 4.2), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        own = runs[runs["task"] == task]
        floor_line(axes, own)
        level(axes, mean_interval(own.loc[own["variant"] == "transformer", ACCURACY]), "transformer", ends)
        mean_with_interval(axes, own[own[MEMORY].notna()], MEMORY, ACCURACY, show_n=False)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(cells.unique()), [f"{size:g}" for size in sorted(cells.unique())])
        axes.set(title=task, xlabel="memory cells", ylabel="accuracy")
        axes.grid(alpha=0.25)
    one_legend(figure, runs)
    missing_note(figure, study)
    return figure


def sizes_table(study: Study) -> str:
    """The same as a Markdown table: a row for each variant and size, bold by the rule."""
    if study.runs.empty:
        return f"Nothing to show yet. To make it: `{study.command}`"
    runs = in_order(sized(study.runs), ORDER, MEMORY)
    arms = runs[["variant", MEMORY]].drop_duplicates()
    names = {
        f"`{variant}`" + ("" if pd.isna(size) else f", memory {size:g}"): {
            "variant": variant,
            MEMORY: None if pd.isna(size) else size,
        }
        for variant, size in arms.itertuples(index=False)
    }
    rows = {name: [name] for name in names}
    tasks = list(dict.fromkeys(runs["task"]))
    for task in tasks:
        own = runs[runs["task"] == task]
        add_scores(rows, {name: mean_interval(rows_where(own, arm)[ACCURACY]) for name, arm in names.items()})
    return markdown(["model", *(f"{task}, %" for task in tasks)], list(rows.values()))


def decomposition_figure(study: Study, reference: str = "luna") -> Figure:
    """What each of ConvLuna's four changes gains alone, and all of them together.

    Args:
        study: ``filtered_decomposition``.
        reference: the arm that is taken away: ``luna``, or ``luna_shared``, from which each change is one step.
    """
    names = [name for name in CHANGES if name != reference]
    return difference_figure(study, "variant", reference, names, CHANGES)


def decomposition_table(study: Study) -> str:
    """The same as a Markdown table, against Luna and against Luna as ConvLuna's authors built it."""
    if study.runs.empty:
        return f"Nothing to show yet. To make it: `{study.command}`"
    return difference_table(study.runs, "variant", list(CHANGES), ("luna", "luna_shared"), CHANGES)


def filters_figure(study: Study) -> Figure:
    """Accuracy by width of the filter's window, a line for each kind and stride; without a filter it is a line across.

    Args:
        study: ``filtered_filters``.
    """
    if study.runs.empty:
        return words(study)
    tasks = list(dict.fromkeys(study.runs["task"]))
    figure = Figure(figsize=(7 * len(tasks), 4.2), layout="constrained")
    runs = _filters(study.runs)
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        own = runs[runs["task"] == task]
        floor_line(axes, own)
        _draw_filters(axes, own)
        axes.set(title=task, xlabel="tokens in the filter's window", ylabel="accuracy")
        axes.grid(alpha=0.25)
    one_legend(figure, runs, "filter", ncols=3)
    missing_note(figure, study)
    return figure


def _filters(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs with the column ``filter``: what kind with what stride, as the legend says it."""
    kinds = [
        "no filter" if kind == "none" else f"{kind}, stride {float(stride):g}"
        for kind, stride in zip(runs[FILTER], runs[STRIDE], strict=True)
    ]
    return runs.assign(filter=kinds, **{KERNEL: pd.to_numeric(runs[KERNEL])})


def _draw_filters(axes: Axes, runs: pd.DataFrame) -> None:
    """Kinds have a marker and a colour, strides a line and a fill."""
    kernels = sorted(runs.loc[runs["filter"] != "no filter", KERNEL].unique())
    ends = (kernels[0], kernels[-1]) if kernels else (2, 8)
    looks = {"conv": drawn("filtered_memory"), "max_pool": {**drawn("fam"), "markersize": 5}}
    for label, own in runs.groupby("filter", sort=True):
        means = intervals(own, ACCURACY, [KERNEL])
        if label == "no filter":
            level(axes, mean_interval(own[ACCURACY]), "transformer", ends)
            axes.lines[-1].set_label(str(label))
            continue
        kind = str(own[FILTER].iloc[0])
        mean_line(axes, means, KERNEL, "filtered_memory" if kind == "conv" else "fam")
        wide = float(own[STRIDE].iloc[0]) > 1
        axes.lines[-1].set(**looks.get(kind, {}), label=str(label))
        axes.lines[-1].set(linestyle=":" if wide else "-", markerfacecolor="white" if wide else None)
    axes.set_xscale("log", base=2)
    axes.set_xticks(kernels, [f"{size:g}" for size in kernels])


def degradation_figure(study: Study) -> Figure:
    """Effective rank, cosine and entropies of the memory over training, a line for each variant.

    The measures are ours, taken at each validation: what the paper calls memory degradation, and how it measured that,
    could not be read.

    Args:
        study: ``filtered_degradation``.
    """
    measures = [name for name in MEASURES if name in study.memory and study.memory[name].notna().any()]
    if not measures:
        return words(study)
    figure = Figure(figsize=(9, 3.4 * ((len(measures) + 1) // 2) + 0.6), layout="constrained")
    grid = figure.subplots((len(measures) + 1) // 2, 2, sharex=True, squeeze=False)
    for axes, name in zip(grid.flat, measures, strict=False):
        rows = in_order(study.memory[study.memory[name].notna()], ORDER, "step")
        mean_with_interval(axes, rows, "step", name, show_n=False)
        for drawn_line in axes.lines:
            drawn_line.set_markevery(0.2)
        axes.set_ylabel(MEASURES[name])
        axes.grid(alpha=0.25)
    for axes in grid[-1]:
        axes.set_xlabel("step")
    for axes in list(grid.flat)[len(measures) :]:
        axes.remove()
    one_legend(figure, study.runs, ncols=3)
    missing_note(figure, study)
    return figure


def degradation_table(study: Study) -> str:
    """Effective rank at the first and at the last look of each run, the cosine at the last, and the accuracy."""
    ends = in_order(memory_ends(study.memory), ORDER)
    if ends.empty:
        return f"Nothing to show yet. To make it: `{study.command}`"
    header = [
        "model",
        "n",
        "effective rank, first look",
        "effective rank, last look",
        "cosine, last look",
        "accuracy, %",
    ]
    lines = []
    for variant, rows in ends.groupby("variant", sort=False):
        scores = study.runs.loc[study.runs["variant"] == variant]
        cells = [
            interval_text(mean_interval(rows[name]), digits=2)
            for name in ("effective_rank_first", "effective_rank", "cosine")
        ]
        row = {str(variant): [f"`{variant}`", str(len(rows)), *cells]}
        lines.append((row, mean_interval(scores[ACCURACY])))
    cells_by_name = {name: cells for row, _ in lines for name, cells in row.items()}
    add_scores(cells_by_name, {name: score for row, score in lines for name in row})
    return markdown(header, list(cells_by_name.values()))


def memory_ends(memory: pd.DataFrame) -> pd.DataFrame:
    """The last look at each run's memory, and beside it ``effective_rank_first``, that of its first look."""
    if memory.empty or "effective_rank" not in memory:
        return pd.DataFrame()
    ordered = memory.sort_values("step", kind="stable").groupby("run_id", sort=False)
    last, first = ordered.tail(1), ordered.head(1).set_index("run_id")["effective_rank"]
    return last.assign(effective_rank_first=last["run_id"].map(first)).sort_index()


def temperature_figure(study: Study) -> Figure:
    """Accuracy by what packing logits are divided by, with and without the scale of unpacking.

    Args:
        study: ``filtered_temperature``.
    """
    if study.runs.empty:
        return words(study)
    tasks = list(dict.fromkeys(study.runs["task"]))
    figure = Figure(figsize=(6 * len(tasks), 4), layout="constrained")
    looks = {"none": ("filtered_memory", -0.08), "sqrt": ("luna", 0.08)}
    runs = study.runs.assign(unpacking=[f"unpacking scale {scale}" for scale in study.runs[UNPACKING]])
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        own = runs[runs["task"] == task]
        floor_line(axes, own)
        for scale, (look, shift) in looks.items():
            _draw_temperatures(axes, own[own[UNPACKING] == scale], look, shift)
        axes.set_xticks(range(len(PACKINGS)), PACKINGS)
        axes.set_xlim(-0.5, len(PACKINGS) - 0.5)
        axes.set(title=task, xlabel="packing logits over", ylabel="accuracy")
        axes.grid(axis="y", alpha=0.25)
    one_legend(figure, runs, "unpacking", ncols=3)
    missing_note(figure, study)
    return figure


def _draw_temperatures(axes: Axes, runs: pd.DataFrame, look: str, shift: float) -> None:
    """A point with its interval for each temperature, a little aside, so that two scales do not cover each other."""
    if runs.empty:
        return
    means = intervals(runs, ACCURACY, [PACKING])
    label = str(runs["unpacking"].iloc[0])
    for temperature, *found in means.itertuples(index=False):
        point = {**drawn(look), "markersize": 6, "label": label}
        mean_point(axes, PACKINGS.index(str(temperature)) + shift, Interval(*found), point)
