"""Filtered-memory Luna: "On Difficulties of Attention Factorization through Shared Memory", arXiv 2404.00798.

Of the paper (ConvLuna is its model) only title, abstract and opening could be read, and its authors' code: none of its
tables and figures. So nothing published stands in these figures. They are our questions to it: does the filter help,
which of the four changes that its code makes to Luna does the work, how small may the memory be, and do the memory's
rows collapse in training.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.claims import Claim, Part
from analysis.panels import (
    ACCURACY,
    add_scores,
    difference_figure,
    difference_table,
    floor_line,
    in_order,
    level,
    mean_line,
    one_legend,
    words,
)
from analysis.readme import markdown
from analysis.statistics import Verdict, claim, intervals, mean_interval
from analysis.studies import Study
from analysis.style import colour, drawn, mean_with_interval, missing_note

MEMORY = "model.memory_len"
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
    runs = in_order(study.runs.assign(**{MEMORY: pd.to_numeric(study.runs[MEMORY])}), ORDER, MEMORY)
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
    runs = in_order(study.runs.assign(**{MEMORY: pd.to_numeric(study.runs[MEMORY])}), ORDER, MEMORY)
    arms = runs[["variant", MEMORY]].drop_duplicates()
    names = {
        f"`{variant}`" + ("" if pd.isna(size) else f", memory {size:g}"): (variant, size)
        for variant, size in arms.itertuples(index=False)
    }
    rows = {name: [name] for name in names}
    tasks = list(dict.fromkeys(runs["task"]))
    for task in tasks:
        own = runs[runs["task"] == task]
        add_scores(rows, {name: mean_interval(_arm(own, *arm)[ACCURACY]) for name, arm in names.items()})
    return markdown(["model", *(f"{task}, %" for task in tasks)], list(rows.values()))


def _arm(runs: pd.DataFrame, variant: str, size: float | None) -> pd.DataFrame:
    rows = runs[runs["variant"] == variant]
    sizes = pd.to_numeric(rows[MEMORY])
    return rows[sizes.isna()] if size is None or pd.isna(size) else rows[sizes == size]


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
        cells = [_number(rows[name]) for name in ("effective_rank_first", "effective_rank", "cosine")]
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


def _number(values: pd.Series) -> str:
    found = mean_interval(values)
    return f"{found.mean:.2f}" if found.n < 2 else f"{found.mean:.2f} ({found.low:.2f} to {found.high:.2f})"


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
    places = [PACKINGS.index(str(name)) + shift for name in means[PACKING]]
    label = str(runs["unpacking"].iloc[0])
    axes.plot(places, means["mean"], label=label, **{**drawn(look), "linestyle": "none", "markersize": 6})
    for place, row in zip(places, means.to_dict("records"), strict=True):
        if row["n"] > 1:
            axes.vlines(place, row["low"], row["high"], color=colour(look), linewidth=1.2)


def _of(study: Study, *, task: str | None = None, **settings: str | float) -> pd.DataFrame:
    """Runs of one arm; settings by the last part of their name."""
    rows = study.runs
    if rows.empty:
        return rows
    if task is not None:
        rows = rows[rows["task"] == task]
    for name, asked in settings.items():
        column = name if name == "variant" else f"model.{name}"
        held = rows[column] if isinstance(asked, str) else pd.to_numeric(rows[column])
        rows = rows[held == asked]
    return rows


def _better(better: str, worse: str, task: str | None = None) -> Part:
    """One variant of the decomposition beats another."""
    where = f" on {task}" if task else ""

    def test(study: Study) -> Verdict:
        return claim(_of(study, task=task, variant=better), _of(study, task=task, variant=worse), ACCURACY)

    return Part(f"`{better}` is more accurate than `{worse}`{where}", "filtered_decomposition", test)


def _filter_helps(study: Study) -> Verdict:
    filtered = _of(study, filter="conv", kernel=4, stride=1)
    return claim(filtered, _of(study, filter="none"), ACCURACY)


def any_task(better: Sequence[pd.DataFrame], worse: Sequence[pd.DataFrame]) -> Verdict:
    """Whether there is a task on which the first is better: supported if on one, contradicted if on all tested.

    Args:
        better: runs of the one, a frame for each task.
        worse: runs of the other, likewise.
    """
    verdicts = [claim(one, other, ACCURACY) for one, other in zip(better, worse, strict=True)]
    tested = [verdict for verdict in verdicts if verdict.value != "not tested"]
    if not tested:
        return Verdict("not tested", "; ".join(dict.fromkeys(verdict.reason for verdict in verdicts)), None)
    reasons = "; ".join(verdict.reason for verdict in tested)
    for verdict in tested:
        if verdict.value == "supported":
            return Verdict("supported", f"on one of {len(tested)} tasks: {verdict.reason}", verdict.difference)
    if all(verdict.value == "contradicted" for verdict in tested):
        return Verdict("contradicted", f"on each of {len(tested)} tasks: {reasons}", None)
    return Verdict("undecided", reasons, None)


def _one_cell(study: Study) -> Verdict:
    tasks = ("lra_listops", "lra_text")
    one = [_of(study, task=task, variant="filtered_memory", memory_len=1) for task in tasks]
    return any_task(one, [_of(study, task=task, variant="transformer") for task in tasks])


def _rank_falls(variant: str) -> Part:
    """The memory of a variant loses rank from its first look to its last."""

    def test(study: Study) -> Verdict:
        ends = memory_ends(study.memory)
        ends = ends[ends["variant"] == variant] if len(ends) else ends
        if ends.empty:
            return Verdict("not tested", "there are no looks at its memory", None)
        return claim(ends.assign(effective_rank=ends["effective_rank_first"]), ends, "effective_rank")

    return Part(
        f"the effective rank of `{variant}`'s memory is lower at the end of training than at the first look",
        "filtered_degradation",
        test,
    )


def _rank_kept(better: str, worse: str) -> Part:
    """One variant's memory ends with a higher rank than another's."""

    def test(study: Study) -> Verdict:
        ends = memory_ends(study.memory)
        if ends.empty:
            return Verdict("not tested", "there are no looks at its memory", None)
        return claim(ends[ends["variant"] == better], ends[ends["variant"] == worse], "effective_rank")

    text = f"the memory of `{better}` ends with a higher effective rank than that of `{worse}`"
    return Part(text, "filtered_degradation", test)


def _learned_packing(study: Study) -> Verdict:
    learned, fixed = (_of(study, pack_temperature=name, unpack_scale="none") for name in ("learn", "sqrt"))
    return claim(learned, fixed, ACCURACY)


_SMALL = "Two tasks of LRA, 2 layers of 64, 512 symbols; where the paper says it, on what and by how much is not known."
_OWN_MEASURE = "How the paper measures it could not be read: effective rank is our measure."

CLAIMS = (
    Claim(
        "conv_luna",
        "abstract",
        "Filtering the input before it meets the memory improves accuracy considerably.",
        (
            _better("filtered_memory", "luna_shared", "lra_listops"),
            _better("filtered_memory", "luna_shared", "lra_text"),
        ),
        caveat=f"All four changes of its code together, against Luna as its authors built it. {_SMALL}",
    ),
    Claim(
        "conv_luna",
        "abstract",
        "Memory should not be reached by attention alone: it is the filter that helps.",
        (
            _better("luna_filter", "luna_shared", "lra_listops"),
            _better("luna_filter", "luna_shared", "lra_text"),
            Part(
                "on lra_text ConvLuna with its filter is more accurate than without", "filtered_filters", _filter_helps
            ),
        ),
        caveat="The filter alone; its code never changes it alone.",
    ),
    Claim(
        "conv_luna",
        "said in a summary of it",
        "In some cases a memory of one cell beats the transformer.",
        (
            Part(
                "`filtered_memory` with one cell is more accurate than the transformer on some task",
                "filtered_sizes",
                _one_cell,
            ),
        ),
        caveat=f"Two tasks are tried, so chance has two. {_SMALL}",
    ),
    Claim(
        "conv_luna",
        "said in a summary of it",
        "Memory degrades: its rows collapse while Luna is trained.",
        (_rank_falls("luna_shared"), _rank_falls("luna")),
        caveat=_OWN_MEASURE,
    ),
    Claim(
        "conv_luna",
        "said in a summary of it",
        "ConvLuna's memory degrades less.",
        (_rank_kept("filtered_memory", "luna_shared"), _rank_kept("luna_filter", "luna_shared")),
        caveat=_OWN_MEASURE,
    ),
    Claim(
        "ours",
        "its code",
        "Of the other three changes each helps alone: no value projection, a learned packing temperature, unscaled "
        "unpacking.",
        tuple(
            _better(name, "luna_shared") for name in ("luna_no_value", "luna_pack_temperature", "luna_unpack_unscaled")
        ),
        caveat="Mean over both tasks. Its text names the temperature; the other two stand in its code only.",
    ),
    Claim(
        "ours",
        "its code",
        "With the filter on, a learned packing temperature is better than the fixed root of the head's width.",
        (Part("`pack_temperature=learn` is more accurate than `sqrt`", "filtered_temperature", _learned_packing),),
        caveat="Unpacking unscaled, as in its code, where that is an oversight.",
    ),
    Claim(
        "conv_luna",
        "results table",
        "Its accuracies on the Long Range Arena.",
        untestable="No number of its tables could be read, so there is nothing to hold ours against.",
    ),
)
