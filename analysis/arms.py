"""Arms of a study: which rows, how they look, and tables of their scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from analysis.published import setting_values
from analysis.readme import markdown
from analysis.statistics import interval_text, mean_interval
from analysis.studies import Study
from analysis.style import MARKERS, drawn

#: Column of the number of memory slots.
MEMORY = "model.memory_len"


def only_arms(study: Study, arms: Mapping[str, str]) -> Study:
    """A study of some of its arms, in this order, with their names in a column ``label``.

    Args:
        study: whose runs name their ``arm``.
        arms: what each is called in a figure.
    """
    return _changed(study, lambda frame: _labelled(frame, arms))


def only_task(study: Study, task: str) -> Study:
    """A study of its runs on one task."""
    return _changed(study, lambda frame: frame[frame["task"] == task] if len(frame) else frame)


def _changed(study: Study, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Study:
    """A study with all its tables changed alike; it has as many jobs as are then left."""
    kinds = ("runs", "slices", "curves", "memory", "heads", "tests", "missing")
    tables: dict[str, Any] = {kind: change(getattr(study, kind)) for kind in kinds}
    return replace(study, **tables, num_jobs=len(tables["runs"]) + len(tables["missing"]))


def _labelled(frame: pd.DataFrame, arms: Mapping[str, str]) -> pd.DataFrame:
    if frame.empty:
        return frame
    rows = frame[frame["arm"].isin(list(arms))]
    order = rows["arm"].map({arm: place for place, arm in enumerate(arms)})
    return rows.assign(label=rows["arm"].map(arms)).iloc[order.argsort(kind="stable")].reset_index(drop=True)


def rows_where(frame: pd.DataFrame, values: Mapping[str, object]) -> pd.DataFrame:
    """Rows by what stands in their columns; none where there is no such column.

    Args:
        frame: of a study.
        values: for each column, what its rows must hold: a number, whether read as text or not, or a text; None stands
            for nothing there.
    """
    for column, value in values.items():
        if column not in frame:
            return frame.iloc[:0]
        found = pd.to_numeric(frame[column]) if isinstance(value, int | float) else frame[column]
        frame = frame[found.isna()] if value is None else frame[found == value]
    return frame


def sized(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows with the number of memory slots as a number, NaN where there are none."""
    return frame.assign(**{MEMORY: pd.to_numeric(frame[MEMORY])}) if MEMORY in frame else frame


def step_ratios(
    rows: pd.DataFrame, plain: pd.DataFrame, on: Sequence[str], measures: Mapping[str, str]
) -> pd.DataFrame:
    """Measurements of a step over those of another arm; rows that have no counterpart are left out.

    Args:
        rows: of a study's ``bench``.
        plain: rows that they are divided by, one for each value of ``on``.
        on: columns that counterparts share.
        measures: column of what is divided, by the name of its ratio.

    Returns:
        ``rows`` with the ratios, and ``spread``, by how much the repetitions of both scatter.
    """
    both = rows.merge(plain[[*on, "spread", *measures.values()]], on=list(on), suffixes=("", "_plain"))
    found = {name: both[column] / both[f"{column}_plain"] for name, column in measures.items()}
    return both.assign(**found, spread=both["spread"] + both["spread_plain"])


def longest(runs: pd.DataFrame, score: str) -> str:
    """The column of a test score at the longest multiple of the training length; the plain one where there is none."""
    found = {}
    for column in map(str, runs):
        name, _, factor = column.partition("@")
        if name == f"test/{score}" and factor.endswith("x") and runs[column].notna().any():
            found[float(factor[:-1])] = column
    return found[max(found)] if found else f"test/{score}"


def score_table(runs: pd.DataFrame, by: Sequence[str], scores: Mapping[str, str], *, digits: int = 3) -> str:
    """Means over seeds with their intervals, a line for each group: Markdown.

    Args:
        runs: columns ``by, seed`` and those of ``scores``.
        by: columns of groups, in order of appearance.
        scores: column of each score, by its heading.
        digits: behind the point.
    """
    heads = [name.rpartition(".")[2] for name in by]
    lines = []
    for key, rows in runs.groupby(list(by), sort=False, dropna=False):
        found = [
            interval_text(mean_interval(rows.get(column, ())), digits=digits, none="-") for column in scores.values()
        ]
        lines.append([*map(_plain, key), *found, str(rows["seed"].nunique())])
    return markdown([*heads, *scores, "n"], lines)


def published_table(rows: pd.DataFrame, setting: str, column: str = "dataset") -> str:
    """A paper's numbers as printed, a line for each model and value of a setting: Markdown.

    Args:
        rows: of :func:`analysis.published.published`.
        setting: key that tells the lines of one model apart.
        column: whose values head the columns.
    """
    heads = list(dict.fromkeys(rows[column]))
    values = setting_values(rows, setting)
    lines = []
    for (model, value), own in rows.assign(at=values).groupby(["model", "at"], sort=True, dropna=False):
        cells = {row[column]: f"{row['value']:g}{' %' if row['unit'] == '%' else ''}" for row in own.to_dict("records")}
        lines.append([str(model), _plain(value), *(cells.get(head, "") for head in heads)])
    return markdown(["published", setting, *heads], lines)


def _plain(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def published_lines(ax: Axes, rows: pd.DataFrame, x: str, by: str = "dataset") -> None:
    """A paper's numbers of one model on several data sets: a dashed line with hollow markers for each.

    Args:
        ax: to draw into; the numbers are drawn as printed.
        rows: of :func:`analysis.published.published`.
        x: setting whose value is the place of a number.
        by: column of lines.
    """
    places = pd.to_numeric(setting_values(rows, x))
    for number, (name, own) in enumerate(rows.assign(place=places).groupby(by, sort=False)):
        own = own.sort_values("place")
        look = {**drawn(list(MARKERS)[number]), "linestyle": "--", "markerfacecolor": "none", "linewidth": 1}
        ax.plot(own["place"], own["value"], label=f"{name}, {own['paper'].iloc[0]} (published)", **look)


def plain_ticks(ax: Axes, places: pd.Series) -> None:
    """Ticks of a logarithmic axis where there is something, as plain numbers; those that would touch are left out."""
    shown: list[float] = []
    for place in sorted({float(place) for place in places.dropna()}):
        if place > 0 and (not shown or place / shown[-1] > 1.35):
            shown.append(place)
    ax.set_xticks(shown, [f"{place:,.10g}" for place in shown])
    ax.set_xticks([], minor=True)


def bits_label(runs: pd.DataFrame) -> str:
    """What stands at an axis of bits per byte: with the trivial floor, which lies too far off to be drawn."""
    floors = sorted(set(runs["floor"].dropna())) if "floor" in runs else []
    floor = f"; trivial: {float(floors[0]):.2f}" if len(floors) == 1 else ""
    return f"bits per byte (less is better{floor})"
