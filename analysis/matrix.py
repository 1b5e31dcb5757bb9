"""Variants by tasks: the table of scores, differences to one variant, aggregates and mean ranks.

A matrix of variants and tasks that is not full has no plain mean: scores are joined over the largest part of it that
has no gap, and what lies outside says over which tasks it was joined, or stays blank.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.readme import markdown
from analysis.statistics import (
    Interval,
    aggregate,
    bold,
    difference,
    headline,
    interval_text,
    mean_interval,
    normalised,
    ranks,
)
from analysis.studies import Study

#: As ``conf/study/overview.yaml`` names them; others come behind.
ORDER = (
    *("transformer", "local", "block_window", "transformer_xl", "linear", "luna", "filtered_memory", "mat", "rmt"),
    *("autocompressor", "memformer", "fam", "fam_gated", "feedback_memory", "infini", "infini_gated", "infini_delta"),
)


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
    return study.runs.assign(score=headline(study.runs))


def complete_block(runs: pd.DataFrame) -> Block:
    """The largest part of the matrix that has no gap; of equal ones the one that has more tasks.

    Args:
        runs: columns ``task, variant``.
    """
    full = set(zip(runs["task"], runs["variant"], strict=True))
    names = sorted(set(runs["variant"]))
    best = Block([], [])
    tasks = sorted(set(runs["task"]))
    for count in range(len(tasks), 0, -1):
        for chosen in combinations(tasks, count):
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
        The part of the matrix that has no gap, and for each variant its aggregate with the tasks that it is over:
        those of this part, or as many of them as the variant has.
    """
    runs = scored(study)
    runs = runs[runs["task"].isin(share_tasks(runs))]
    if runs.empty:
        return Block([], []), {}
    block, runs = complete_block(runs), runs.assign(score=normalised(runs))
    found = {}
    for variant, rows in runs.groupby("variant"):
        own = [task for task in block.tasks if (rows["task"] == task).any()]
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
        "Mean over seeds (95 % bootstrap interval); shares in %. Bold: no other interval of a column overlaps; "
        "nothing is bold in a column with gaps or with single seeds.",
        f"Aggregate: mean over {_names(block.tasks)}, 0 at a task's trivial floor and 1 at its ceiling; a variant that "
        "lacks one of them says which it is over, and is not comparable with the others.",
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
    strong = bold(list(entries.values()), larger_is_better=share)
    return [score_cell(found, share=share, strong=mark) for found, mark in zip(entries.values(), strong, strict=True)]


def _aggregate_column(
    block: Block, joined: dict[str, tuple[Interval, list[str]]], variants: Sequence[str]
) -> list[str]:
    """Cells; where a variant is outside the block, nothing is bold."""
    strong = dict.fromkeys(variants, False)
    if set(block.variants) == set(variants):
        strong = dict(zip(variants, bold([joined[name][0] for name in variants]), strict=True))
    cells = []
    for name in variants:
        found, tasks = joined.get(name, (None, []))
        text = score_cell(found, share=False, strong=strong[name]) if found else ""
        cells.append(text if tasks in ([], block.tasks) else f"{text}, over {_names(tasks)} only")
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


def score_cell(found: Interval, *, share: bool = True, strong: bool = False, with_n: bool = True) -> str:
    """``mean (low to high), n = 3``: a share in per cent, all else as it is; the mean bold where it is strong."""
    mean, *rest = interval_text(found, percent=share, with_n=with_n, none="not run").split(" ", 1)
    return " ".join([f"**{mean}**" if strong else mean, *rest])


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
