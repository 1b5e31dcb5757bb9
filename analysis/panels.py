"""Parts that figures of several papers share: orders, one legend, differences to a reference, words."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.marks import mean_point
from analysis.readme import markdown
from analysis.statistics import Difference, Interval, bold, count_text, difference, interval_text, mean_interval
from analysis.studies import Study
from analysis.style import drawn, missing_note

#: Headline of all tasks of classification.
ACCURACY = "test/accuracy"

#: Where a row of differences is of all tasks together.
ALL = "all tasks"


def words(*studies: Study, about: str = "") -> Figure:
    """A figure of words alone: nothing of ours is there yet, and no paper's number either.

    Args:
        studies: which lack all their runs.
        about: what else there is to say, a sentence.
    """
    lines = [about] if about else []
    for study in studies:
        lines += [f"Study {study.name}, scale {study.scale}: nothing to draw yet.", f"To make it: {study.command}"]
    text = "\n".join(part for line in lines for part in textwrap.wrap(line, 90, break_on_hyphens=False))
    figure = Figure(figsize=(8, 1 + 0.25 * text.count("\n")))
    figure.text(0.03, 0.5, text, va="center", color="#661100", fontsize=9)
    return figure


def in_order(frame: pd.DataFrame, variants: Sequence[str], *by: str) -> pd.DataFrame:
    """Rows in an order of variants, each variant's by further columns; variants that are not named come last.

    Args:
        frame: columns ``variant`` and ``by``; an empty one is given back.
        variants: in their order.
        by: columns, from small to large.
    """
    if frame.empty:
        return frame
    place = frame["variant"].map({name: at for at, name in enumerate(variants)}).fillna(len(variants))
    return frame.assign(_place=place).sort_values(["_place", *by], kind="stable").drop(columns="_place")


def legend_above(figure: Figure, axes: Axes, *, ncols: int, fontsize: int = 7) -> None:
    """The legend of one panel, above all of them."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=ncols, fontsize=fontsize, frameon=False)


def one_legend(figure: Figure, runs: pd.DataFrame, by: str = "variant", *, ncols: int = 4) -> None:
    """A legend above all panels, each label once; ours say how many seeds their arms have.

    Args:
        figure: with labelled artists.
        runs: what was drawn, columns ``task``, ``seed``, ``config_hash`` and ``by``; arms of one label share a count.
        by: column whose values are the labels of what is ours.
        ncols: columns of the legend.
    """
    handles: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(str(label), handle)
    if not handles:
        return
    counts = _seed_counts(runs, by)
    labels = [f"{label}  ({counts[label]})" if label in counts else label for label in handles]
    figure.legend(
        list(handles.values()),
        labels,
        loc="outside upper center",
        ncols=min(ncols, len(labels)),
        fontsize=8,
        frameon=False,
    )


def _seed_counts(runs: pd.DataFrame, by: str) -> dict[str, str]:
    if runs.empty:
        return {}
    arms = [name for name in ("task", by, "config_hash") if name in runs]
    found = runs.groupby(arms, dropna=False)["seed"].nunique().groupby(by)
    return {str(name): f"n = {count_text(counts)}" for name, counts in found}


def say(ax: Axes, text: str) -> None:
    """Words where a panel has no point."""
    ax.text(0.5, 0.5, text, ha="center", transform=ax.transAxes, color="#661100")


def missing_notes(figure: Figure, *studies: Study) -> None:
    """:func:`analysis.style.missing_note` of a figure that is drawn from several studies."""
    notes = []
    for study in studies:
        missing_note(figure, study)
        notes += [figure.get_supxlabel()] if len(study.missing) else []
    if notes:
        figure.supxlabel("\n".join(notes), fontsize=7, x=0.01, ha="left", color="#661100")


def differences(
    runs: pd.DataFrame, by: str, reference: str, names: Sequence[str], value: str = ACCURACY
) -> pd.DataFrame:
    """Each arm less one of them, seed by seed: a row for each task and arm, and for all tasks together.

    Args:
        runs: columns ``task, seed, by`` and ``value``.
        by: column that names the arms.
        reference: the arm that is taken away.
        names: the others, in their order; those without a common seed have no row.
        value: column of scores.

    Returns:
        Columns ``task``, ``by`` and those of :class:`analysis.statistics.Difference`. The rows of :data:`ALL` are means
        over tasks, and are there only for arms that share a seed with the reference on every task of the frame.
    """
    columns = ["task", by, *Difference._fields]
    if runs.empty:
        return pd.DataFrame(columns=columns)
    found = []
    tasks = list(dict.fromkeys(runs["task"]))
    for name in names:
        gaps = {}
        for task in tasks:
            rows = runs[runs["task"] == task]
            gaps[task] = difference(rows[rows[by] == name], rows[rows[by] == reference], value)
        found += [[task, name, *gap] for task, gap in gaps.items() if gap.n]
        if len(tasks) > 1 and all(gap.n for gap in gaps.values()):
            found.append([ALL, name, *difference(runs[runs[by] == name], runs[runs[by] == reference], value)])
    return pd.DataFrame(found, columns=columns)


def difference_figure(
    study: Study, by: str, reference: str, names: Sequence[str], labels: Mapping[str, str] | None = None
) -> Figure:
    """What each arm gains over one of them, in points of accuracy: a panel for each task and one for all.

    Whiskers are 95 % bootstrap intervals of paired differences; a point without whiskers is of one seed. Behind each
    stands the number of pairs.

    Args:
        study: whose runs are compared.
        by: column that names the arms.
        reference: the arm that is taken away.
        names: the others, from top to bottom.
        labels: what stands at the axis for an arm, default its name.
    """
    found = differences(study.runs, by, reference, names)
    if found.empty:
        return words(study)
    tasks = [task for task in (*dict.fromkeys(study.runs["task"]), ALL) if (found["task"] == task).any()]
    figure = Figure(figsize=(10, 1.8 + 0.35 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    places = {name: -place for place, name in enumerate(names)}
    variants = dict(zip(study.runs[by], study.runs["variant"], strict=True))
    for axes, task in zip(panels, tasks, strict=True):
        axes.axvline(0, color="0.6", linewidth=0.8, zorder=0)
        for row in found[found["task"] == task].to_dict("records"):
            points = Interval(100 * row["mean"], 100 * row["low"], 100 * row["high"], row["n"])
            mean_point(axes, places[row[by]], points, drawn(str(variants[row[by]])), across=True)
            number, place = f"n = {row['n']:.0f}", (points.mean, places[row[by]])
            axes.annotate(number, place, (0, 6), textcoords="offset points", ha="center", fontsize=7)
        axes.set(title=task, xlabel=f"accuracy less {reference}'s, points")
        axes.set_yticks(list(places.values()), [(labels or {}).get(name, name) for name in names])
        axes.set_ylim(-len(names) + 0.4, 0.7)
        axes.margins(x=0.12)
        axes.grid(axis="x", alpha=0.25)
    missing_note(figure, study)
    return figure


def difference_table(
    runs: pd.DataFrame,
    by: str,
    names: Sequence[str],
    references: Sequence[str],
    labels: Mapping[str, str] | None = None,
    more: Mapping[str, Mapping[str, str]] | None = None,
) -> str:
    """Accuracy of each arm by task, and what it gains over others: a Markdown table.

    Args:
        runs: columns ``task, seed, by`` and the accuracy.
        by: column that names the arms.
        names: the arms, in their order.
        references: those that all others are held against.
        labels: what an arm is, in words behind its name.
        more: further columns by head: what stands there for an arm.
    """
    tasks = list(dict.fromkeys(runs["task"])) if len(runs) else []
    gaps = {name: differences(runs, by, name, names) for name in references}
    rows = {name: [f"`{name}`" + (f": {labels[name]}" if labels and name in labels else "")] for name in names}
    header = [by.rpartition(".")[2]]
    for task in tasks:
        header.append(f"{task}, %")
        own = runs[runs["task"] == task]
        add_scores(rows, {name: mean_interval(own.loc[own[by] == name, ACCURACY]) for name in names})
        for reference, found in gaps.items():
            header.append(f"{task}, less `{reference}`, points")
            for name in names:
                rows[name].append(_gap(found[(found["task"] == task) & (found[by] == name)], name == reference))
    for head, cells in (more or {}).items():
        header.append(head)
        for name in names:
            rows[name].append(cells.get(name, ""))
    return markdown(header, list(rows.values()))


def add_scores(rows: Mapping[str, list[str]], scores: Mapping[str, Interval]) -> None:
    """Adds one column of shares in per cent to the rows of a table, with interval and n: bold by the rule.

    Args:
        rows: cells so far, by name.
        scores: of each name; one without seeds is ``not run``, and then nothing is bold.
    """
    marks = dict(zip(scores, bold(list(scores.values())), strict=True))
    for name, cells in rows.items():
        text = interval_text(scores[name], percent=True, with_n=True, none="not run")
        cells.append(f"**{text}**" if marks[name] else text)


def _gap(rows: pd.DataFrame, is_reference: bool) -> str:
    """A difference in points with its interval, pairs and effect."""
    if rows.empty or is_reference:
        return "-" if is_reference else "not run"
    row = rows.iloc[0]
    text = f"{100 * row['mean']:+.1f}"
    if row["n"] > 1:
        text += f" ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})"
    effect = "" if math.isnan(row["effect"]) else f", g = {row['effect']:.1f}"
    return f"{text}, n = {row['n']:.0f}{effect}"
