"""Studies as if they had been run: the jobs of a study file with made scores, all of them, some or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from analysis.studies import Study
from analysis.study_files import cell_text
from experiments.results import load_jobs


def made_study(
    name: str,
    score: Callable[[Any], float],
    *,
    keep: Callable[[Any], bool] = lambda job: True,
    looks: Callable[[Any, int], dict[str, float]] | None = None,
    floor: float = 0.1,
    more: Callable[[Any], dict[str, Any]] = lambda job: {},
    slices: Callable[[Any], list[dict[str, float]]] = lambda job: [],
    heads: Callable[[Any], list[dict[str, float]]] = lambda job: [],
) -> Study:
    """A study of ``conf/study`` at laptop scale whose runs scored as told.

    Args:
        name: of the study.
        score: test accuracy of a job (``variant, task, seed, arm, settings``).
        keep: which jobs are done; the others are missing.
        looks: measures of the memory of a job at steps 10, 20 and 30.
        floor: of every task.
        more: further columns of a job's run.
        slices: rows of a job's test by length and the like.
        heads: rows of a job's layers and heads.
    """
    plan = load_jobs(name, scale="laptop")
    runs, memory, missing = [], [], []
    parts: list[dict[str, Any]] = []
    by_head: list[dict[str, Any]] = []
    for job in plan.jobs:
        values = {key: job.settings.get(key) for key in plan.varied if key != "arm"}
        settings = {key: cell_text(value) if isinstance(value, list) else value for key, value in values.items()}
        labels = {"variant": job.variant, "task": job.task, "seed": job.seed, "arm": job.arm, **settings}
        if not keep(job):
            missing.append({**labels, "command": job.command})
            continue
        arm = "-".join(map(str, [job.variant, job.task, *settings.values()]))
        row = {"run_id": f"{arm}-s{job.seed}", "config_hash": arm, "scale": "laptop", "data_source": "made", **labels}
        made = {"metric": "accuracy", "floor": floor, "test/accuracy": score(job), **_MACHINE}
        runs.append({**row, **made, **more(job)})
        parts += [{**row, **cells} for cells in slices(job)]
        by_head += [{**row, **cells} for cells in heads(job)]
        memory += [{**row, "step": step, **looks(job, step)} for step in (10, 20, 30)] if looks else []
    gone = pd.DataFrame(missing, columns=["variant", "task", "seed", *plan.varied, "command"])
    return Study(
        name=name,
        scale="laptop",
        runs=pd.DataFrame(runs),
        slices=pd.DataFrame(parts),
        curves=pd.DataFrame(),
        memory=pd.DataFrame(memory),
        missing=gone,
        command=plan.command,
        varied=plan.varied,
        num_jobs=len(plan.jobs),
        heads=pd.DataFrame(by_head),
    )


_MACHINE = {"hardware": "a machine", "torch": "2.13.0", "git_sha": "0123456789abcdef"}


def nothing(job: Any) -> bool:
    """Keeps no job."""
    return False


def seeds(*kept: int) -> Callable[[Any], bool]:
    """Keeps the jobs of some seeds."""
    return lambda job: job.seed in kept
