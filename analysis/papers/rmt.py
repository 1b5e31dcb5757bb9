"""Recurrent Memory Transformer (arXiv 2207.06881) and its scaling to a million tokens (2304.11062), beside ours.

The papers train one model for each number of segments; one run of ours meets 1 to 6 and is tested on each.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.arms import MEMORY, plain_ticks, rows_where, sized
from analysis.marks import floor_line, level, lines_by_size, mark_published, mean_with_interval
from analysis.panels import in_order, one_legend, say
from analysis.published import published, setting_values
from analysis.readme import markdown
from analysis.statistics import interval_text, mean_interval
from analysis.studies import Study
from analysis.style import COLOURS, drawn, missing_note

OPS = {"copy": "copy", "reverse": "reverse", "associative": "associative retrieval"}
FACTS = {"memorize": "memorise", "detect": "detect and memorise", "reasoning": "reasoning"}
#: Variants of ``rmt_segments``, as the paper's figure 3 calls those that it has.
VARIANTS = ("local", "mat", "transformer_xl", "rmt", "memformer", "fam")
#: Arms of ``rmt_scaling``: trained on how many segments.
TRAINED = {"n1": "1 segment", "n2": "up to 2", "n4": "up to 4", "n7": "up to 7"}

#: The paper's series of figure 5, by segments in training; each has one look in all panels.
SERIES = ("1", "2", "3", "4", "5", "6", "7", "3-5")

OP, DEPTH = "task.op", "model.bptt_segments"
SYMBOLS, BITS = "symbol_accuracy", "bits_per_byte"
LM = "language modelling, WikiText-103"


# Number of segments: figure 3


def segments_figure(study: Study) -> Figure:
    """Figure 3: accuracy of copy, reverse and retrieval by number of segments; the paper's means hollow and dashed.

    A grey dotted line stands at the most segments that ours were trained on; each of the paper's points is a model of
    its own, trained on that number.

    Args:
        study: ``rmt_segments``.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, (op, title) in zip(figure.subplots(1, 3, sharey=True), OPS.items(), strict=True):
        rows = rows_where(study.slices, {OP: op})
        floor_line(axes, rows_where(study.runs, {OP: op}))
        if len(rows):
            rows = in_order(rows, VARIANTS)
            mean_with_interval(axes, rows, "length_blocks", SYMBOLS, show_n=False)
            axes.axvline(_reach(rows), color="0.5", linestyle=":", linewidth=1)
        theirs = published(paper="rmt", where="figure 3", setting={"op": op})
        base = theirs["model"] == "Transformer"  # one line: a whole window at one segment, ``local`` at more
        mark_published(axes, theirs.assign(variant=theirs["variant"].mask(base, "transformer")), "segments")
        axes.set(title=title, xlabel="segments", xscale="log", ylim=(-0.03, 1.05))
        plain_ticks(axes, _places(rows, "length_blocks", theirs, "segments"))
        axes.grid(alpha=0.25)
    figure.axes[0].set_ylabel("accuracy by symbol")
    one_legend(figure, study.runs)
    missing_note(figure, study)
    return figure


def segments_table(study: Study) -> str:
    """Accuracy by symbol over the trained lengths of more than one segment, and beyond: a Markdown table.

    Args:
        study: ``rmt_segments``.
    """
    lines = []
    for variant in VARIANTS:
        cells = [f"`{variant}`"]
        for op in OPS:
            rows = rows_where(study.slices, {OP: op, "variant": variant})
            for part in (within(rows), _beyond(rows)):
                found = mean_interval(by_seed(part)[SYMBOLS])
                cells.append(interval_text(found, with_n=True, none="-"))
        lines.append(cells)
    header = [""]
    for title in OPS.values():
        header += [f"{title}, trained lengths from 2 segments", f"{title}, longer"]
    return markdown(header, lines)


# Size of the memory: figures 4, 5b and 8


def memory_size_figure(study: Study) -> Figure:
    """Figures 4 and 8: accuracy by memory size, above over the trained lengths, below by number of segments.

    Above, ``transformer_xl`` is a line across: it keeps a whole segment. Below, the paper's points are those of a
    memory of half a segment (figure 8).

    Args:
        study: ``rmt_memory_size``.
    """
    figure = Figure(figsize=(9, 7), layout="constrained")
    panels = figure.subplots(2, 2, sharey=True)
    for (above, below), op in zip(panels.T, ("copy", "reverse"), strict=True):
        runs, slices = rows_where(study.runs, {OP: op}), rows_where(study.slices, {OP: op})
        above.set(title=f"{op}: trained lengths", xscale="log", xlabel="memory slots", ylim=(-0.03, 1.05))
        below.set(title=f"{op}: by length", xscale="log", xlabel="segments")
        own = sized(rows_where(runs, {"variant": "rmt"}))
        if len(own):
            mean_with_interval(above, own, MEMORY, f"test/{SYMBOLS}", show_n=False)
            plain_ticks(above, own[MEMORY])
        elif runs.empty:
            say(above, "no run yet")
        _window(above, rows_where(runs, {"variant": "transformer_xl"}), own)
        floor_line(above, runs)
        floor_line(below, runs)
        lines_by_size(
            below, sized(rows_where(slices, {"variant": "rmt"})), "length_blocks", SYMBOLS, MEMORY, "rmt, {:g} slots"
        )
        theirs = published(paper="rmt", where="figure 8", setting={"op": op})
        mark_published(below, theirs, "segments")
        plain_ticks(below, _places(slices, "length_blocks", theirs, "segments"))
        for axes in (above, below):
            axes.grid(alpha=0.25)
    for axes in panels[:, 0]:
        axes.set_ylabel("accuracy by symbol")
    one_legend(figure, study.runs)
    missing_note(figure, study)
    return figure


def _window(axes: Axes, runs: pd.DataFrame, sized: pd.DataFrame) -> None:
    if len(runs):
        ends = (sized[MEMORY].min(), sized[MEMORY].max()) if len(sized) else (1.0, 24.0)
        level(axes, mean_interval(runs[f"test/{SYMBOLS}"]), "transformer_xl", ends)


# Depth of the gradient: the tables of language modelling


def gradient_figure(study: Study) -> Figure:
    """How far back the gradient reaches: ours on bytes of books and on copy, the paper's on WikiText-103.

    Ours cuts the gradient at fixed borders, after so many segments; the paper's unrolls so many earlier ones from each.
    The scores are of other units, so that they have panels of their own.

    Args:
        study: ``rmt_bptt``.
    """
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    panels = figure.subplots(1, 3)
    titles = {"lm_text": (f"test/{BITS}", "bits per byte"), "memory_ops": (f"test/{SYMBOLS}", "accuracy by symbol")}
    for axes, (task, (score, label)) in zip(panels, titles.items(), strict=False):
        runs = rows_where(study.runs, {"task": task})
        if task == "memory_ops":
            floor_line(axes, runs)
        if len(runs):
            depth = pd.to_numeric(runs[DEPTH])
            whole = 2 * depth.max() if depth.notna().any() else 8.0
            mean_with_interval(axes, runs.assign(at=depth.fillna(whole)), "at", score, show_n=False)
            places = sorted(depth.dropna().unique())
            axes.set_xscale("log", base=2)
            axes.set_xticks([*places, whole], [*(f"{place:g}" for place in places), "never"])
        else:
            say(axes, "no run yet")
        axes.set(title=task, xlabel="gradient cut after segments", ylabel=label)
    _paper_depths(panels[2])
    for axes in panels:
        axes.grid(alpha=0.25)
    one_legend(figure, study.runs)
    missing_note(figure, study)
    return figure


def _paper_depths(axes: Axes) -> None:
    """Perplexity by segments that the gradient goes back, a line for each memory size at segments of 50."""
    rows = published(paper="rmt", where=LM, model="RMT", setting={"segment_len": 50})
    for number, size in enumerate(sorted(set(setting_values(rows, "memory_len")))):
        own = rows[setting_values(rows, "memory_len") == size].reset_index(drop=True)
        _hollow(axes, setting_values(own, "bptt"), own["value"], f"RMT, {size} slots, rmt (published)", number)
    axes.set(title="WikiText-103 (the paper's)", xlabel="segments that the gradient goes back", ylabel="perplexity")


# Length: 2304.11062


def scaling_figure(study: Study) -> Figure:
    """Figures 1 and 5: facts kept over segments. Above ours with the paper's figure 1, below the paper's figure 5.

    Args:
        study: ``rmt_scaling``.
    """
    names = {arm: f"ours, trained on {label}" for arm, label in TRAINED.items()}
    looks = {name: drawn(variant) for name, variant in zip(names.values(), COLOURS, strict=False)}
    figure = Figure(figsize=(10, 7), layout="constrained")
    panels = figure.subplots(2, 3, sharey=True)
    for (above, below), (op, title) in zip(panels.T, FACTS.items(), strict=True):
        slices = rows_where(study.slices, {OP: op})
        floor_line(above, rows_where(study.runs, {OP: op}))
        if len(slices):
            ours = slices.assign(label=slices["arm"].map(names))
            mean_with_interval(above, ours, "length_blocks", SYMBOLS, "label", looks=looks)
        longest = published(paper="rmt_1m", where="figure 1", metric="accuracy", setting={"op": op})
        mark_published(above, longest, "eval_segments")
        theirs = published(paper="rmt_1m", where="figure 5", setting={"op": op})
        _paper_series(below, theirs)
        above.set(title=title, xscale="log", xlabel="segments", ylim=(-0.03, 1.05))
        plain_ticks(above, _every(_places(slices, "length_blocks", longest, "eval_segments")))
        below.set(title=f"{title} (figure 5)", xlabel="segments")
        for axes in (above, below):
            axes.grid(alpha=0.25)
    for axes in panels[:, 0]:
        axes.set_ylabel("accuracy")
    one_legend(figure, study.runs, "arm")
    missing_note(figure, study)
    return figure


def _paper_series(axes: Axes, rows: pd.DataFrame) -> None:
    """A line for each number of segments in training; bounds are left out, since they are no values."""
    exact = setting_values(rows, "bound").isna() & setting_values(rows, "eval_segments").notna()
    rows = rows[exact].reset_index(drop=True)
    trained = setting_values(rows, "train_segments").fillna(setting_values(rows, "train_range"))
    for name in dict.fromkeys(sorted(trained, key=str)):
        own = rows[trained == name].reset_index(drop=True)
        label = f"trained on {name}, rmt_1m (published)"
        _hollow(axes, setting_values(own, "eval_segments"), own["value"] / 100, label, SERIES.index(str(name)))
    axes.set_xticks([1, 5, 10, 15])


def _hollow(axes: Axes, places: pd.Series, values: pd.Series, label: str, number: int) -> None:
    """One of several lines of a paper that are all of one model, in the look of a number."""
    order = pd.to_numeric(places).to_numpy(float).argsort(kind="stable")
    look = {**drawn(list(COLOURS)[number]), "linestyle": "--", "markerfacecolor": "none", "linewidth": 1}
    axes.plot(places.iloc[order], values.iloc[order], label=label, **look)


# Rows of frames


def _reach(slices: pd.DataFrame) -> float:
    """The most segments that were trained on."""
    return float(slices.loc[slices["factor"] <= 1, "length_blocks"].max())


def within(slices: pd.DataFrame) -> pd.DataFrame:
    """Trained lengths of more than one segment, which nothing but memory can bridge.

    Args:
        slices: of a study of these papers.
    """
    return slices[(slices["factor"] <= 1) & (slices["length_blocks"] > 1)] if len(slices) else slices


def _beyond(slices: pd.DataFrame) -> pd.DataFrame:
    return slices[slices["factor"] > 1] if len(slices) else slices


def by_seed(slices: pd.DataFrame, score: str = SYMBOLS) -> pd.DataFrame:
    """The mean score of each seed, as :func:`analysis.statistics.claim` takes it.

    Args:
        slices: of a study of these papers.
        score: column of it.

    Returns:
        Columns ``task, seed, scale, data_source`` and ``score``; a seed of several tasks has a row for each.
    """
    keys = ["task", "seed", "scale", "data_source"]
    if slices.empty:
        return pd.DataFrame(columns=[*keys, score])
    return slices.groupby(keys)[score].mean().reset_index()


def _places(slices: pd.DataFrame, column: str, rows: pd.DataFrame, setting: str) -> pd.Series:
    ours = slices[column] if column in slices else pd.Series(dtype=float)
    return pd.concat([ours, pd.to_numeric(setting_values(rows, setting))], ignore_index=True)


def _every(places: pd.Series) -> pd.Series:
    """Powers of four of many places, so that ticks do not touch."""
    return places[np.log2(places.astype(float)) % 2 == 0]
