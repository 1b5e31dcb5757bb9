"""Which rows of ``runs.csv`` are which jobs of a study: by their labels, and whether their settings are the job's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from analysis.study_files import cell_text
from experiments.results import config_hash

if TYPE_CHECKING:
    from experiments.results import StudyJob, StudyPlan

#: A row's labels and varied settings as text, by column.
Cells = Mapping[str, str]


def unmatched_jobs(plan: StudyPlan, runs: pd.DataFrame) -> list[StudyJob]:
    """Jobs that no run is labelled as: of the same arm, and of the settings that the job names."""
    done: dict[tuple[str, ...], list[Cells]] = {}
    for cells in _labels(plan, runs):
        done.setdefault((cells["variant"], cells["task"], cells["seed"]), []).append(cells)
    return [
        job
        for job in plan.jobs
        if not any(_is_labelled(cells, job) for cells in done.get((job.variant, job.task, cell_text(job.seed)), ()))
    ]


def strange_runs(plan: StudyPlan, runs: pd.DataFrame) -> list[str]:
    """Runs that are labelled as a job of the study and have other settings than the job: ``run_id`` of each.

    A command line with ``+study=<name>`` and a setting of its own makes such runs; so does a study that was changed.
    Composes each setting once, some tenth of a second.

    Args:
        plan: the study.
        runs: its rows, at the plan's scale.
    """
    found: list[str] = []
    for _, rows in runs.groupby("config_hash") if len(runs) else ():
        first, cells = rows.iloc[0], _labels(plan, rows.iloc[:1])[0]
        job = next((job for job in plan.jobs if _is_labelled(cells, job)), None)
        if job is None:  # a seed or setting more than the study has: no figure takes it for another's
            continue
        source, checksum, precision = (str(first[name]) for name in ("data_source", "data_checksum", "precision"))
        if config_hash(job.overrides, source, checksum, precision=precision) != first["config_hash"]:
            found += map(str, rows["run_id"])
    return found


def _labels(plan: StudyPlan, runs: pd.DataFrame) -> list[Cells]:
    rows = runs.reindex(columns=["variant", "task", "seed", *plan.varied]).to_dict("records")
    return [{str(name): cell_text(value) for name, value in row.items()} for row in rows]


def _is_labelled(cells: Cells, job: StudyJob) -> bool:
    """Whether a row's labels and settings are those that a job names."""
    wanted = {"variant": job.variant, "task": job.task, "seed": job.seed, **job.settings}
    if job.arm:
        wanted["arm"] = job.arm
    return all(cells[name] == cell_text(value) for name, value in wanted.items())
