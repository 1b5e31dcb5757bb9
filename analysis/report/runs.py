"""A study's runs on one page: settings, commands, scores, slices, curves, and what the store has beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.report.curves import curve_svg
from analysis.studies import Study
from analysis.study_files import LABELS, cell_text
from experiments.results import load_jobs

#: Small drawings of one run, at most.
_MAX_CURVES = 8

_SPLITS = ("val/", "test/")


@dataclass(frozen=True)
class Run:
    """One finished run, as its page shows it."""

    run_id: str
    seed: Any
    score: str
    """The headline on the test split."""
    command: str
    """What makes it."""
    facts: dict[str, str]
    """What it does not share with the other seeds of its arm."""
    scores: list[tuple[str, str, str]]
    """Metric, on validation, on test."""
    slices: pd.DataFrame
    """Test scores by length, depth and the like, as text."""
    curves: list[str]
    """Drawings: the headline over validations, then the measures of the memory."""
    folder: Path | None
    """In the store, where that has it."""


@dataclass(frozen=True)
class Arm:
    """Runs that differ in their seed alone."""

    anchor: str
    title: str
    metric: str
    facts: dict[str, str]
    """What all seeds share."""
    runs: list[Run]

    @cached_property
    def folder(self) -> Path | None:
        """Of the first run that the store has."""
        return next((run.folder for run in self.runs if run.folder), None)

    @cached_property
    def config(self) -> str:
        """Its config.yaml, where the store has it."""
        path = self.folder / "config.yaml" if self.folder else None
        return path.read_text(encoding="utf-8") if path and path.is_file() else ""

    @cached_property
    def picture(self) -> Path | None:
        """What its memory does: the drawing of the first run that the store has."""
        path = self.folder / "diagnostics.png" if self.folder else None
        return path if path and path.is_file() else None


def arm_anchor(study: Study, number: int) -> str:
    """Where on the study's page an arm is, counted in the order of its runs."""
    return f"{study.scale}-arm-{number + 1}"


def settings_text(study: Study, row: Mapping[Any, Any] | pd.Series) -> str:
    """What an arm sets: ``arm=m2 model.memory_len=16``."""
    values = {name: cell_text(row.get(name)) for name in study.varied}
    return " ".join(f"{name}={value}" for name, value in values.items() if value)


def arms(study: Study, folders: Mapping[str, Path]) -> list[Arm]:
    """All runs of a study, by arm.

    Args:
        study: to show.
        folders: of the runs that the store has, by ``run_id``.
    """
    if study.runs.empty:
        return []
    details = _Details(study, folders)
    found = []
    for number, (_, runs) in enumerate(study.runs.groupby(study.arm, sort=False, dropna=False)):
        rows = runs.sort_values("seed").to_dict("records")
        facts = [_facts(row) for row in rows]
        shared = {name: text for name, text in facts[0].items() if all(one.get(name) == text for one in facts)}
        title = f"{rows[0]['variant']} on {rows[0]['task']} {settings_text(study, rows[0])}".strip()
        own = [
            details.run(row, {name: text for name, text in fact.items() if name not in shared})
            for row, fact in zip(rows, facts, strict=True)
        ]
        found.append(Arm(arm_anchor(study, number), title, str(rows[0]["metric"]), shared, own))
    return found


def measurements(study: Study) -> tuple[dict[str, str], pd.DataFrame]:
    """What all measurements of a study share, and the others' columns, one row a measurement; as text."""
    table = study.bench.map(short)
    table = table.set_index([name for name in ("name", "phase", "length") if name in table]).reset_index()
    shared = {str(name): str(cells.iloc[0]) for name, cells in table.items() if cells.nunique() == 1}
    return {name: text for name, text in shared.items() if text}, table.drop(columns=list(shared))


def _facts(row: Mapping[Any, Any]) -> dict[str, str]:
    """All that is known of a run beside its scores, as text."""
    shown = {str(name): short(value) for name, value in row.items() if not str(name).startswith(_SPLITS)}
    return {name: text for name, text in shown.items() if text and name not in ("run_id", "seed")}


def short(value: Any) -> str:
    """A value as a reader wants it: numbers with five digits."""
    if isinstance(value, float) and not value.is_integer():
        return "" if pd.isna(value) else f"{value:.5g}"
    return cell_text(value)


class _Details:
    """What the other tables say of a run, looked up by its id."""

    def __init__(self, study: Study, folders: Mapping[str, Path]) -> None:
        self.study = study
        self.folders = folders
        self.slices = _by_run(study.slices)
        self.curves = _by_run(study.curves)
        self.memory = _by_run(study.memory)
        self.commands = dict(_commands(study))

    def run(self, row: Mapping[Any, Any], facts: dict[str, str]) -> Run:
        """One row of runs.csv with all that belongs to it."""
        run_id, metric = str(row["run_id"]), str(row["metric"])
        return Run(
            run_id=run_id,
            seed=row["seed"],
            score=short(row.get(f"test/{metric}")),
            command=self.commands.get(run_id, self.study.command),
            facts={"run_id": run_id, **facts},
            scores=_scores(row),
            slices=self._own(self.slices, run_id).map(short),
            curves=self._drawings(run_id, metric),
            folder=self.folders.get(run_id),
        )

    def _own(self, tables: Mapping[str, pd.DataFrame], run_id: str) -> pd.DataFrame:
        """Rows of a run without its labels and settings, and without columns that say nothing of it."""
        table = tables.get(run_id, pd.DataFrame())
        labels = {"run_id", *LABELS, *self.study.varied}
        return table.drop(columns=[name for name in labels if name in table]).dropna(axis=1, how="all")

    def _drawings(self, run_id: str, metric: str) -> list[str]:
        validations, memory = self._own(self.curves, run_id), self._own(self.memory, run_id)
        drawings = list(_draw(validations, [metric], "val/"))
        return [*drawings, *_draw(memory, [str(name) for name in memory if name != "step"], "memory/")][:_MAX_CURVES]


def _draw(table: pd.DataFrame, names: Sequence[str], prefix: str) -> Iterator[str]:
    for name in names:
        if name in table and "step" in table and pd.api.types.is_numeric_dtype(table[name]):
            drawing = curve_svg(f"{prefix}{name}", table["step"].tolist(), table[name].tolist())
            if drawing:
                yield drawing


def _by_run(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {str(run_id): rows for run_id, rows in table.groupby("run_id", sort=False)} if len(table) else {}


def _scores(row: Mapping[Any, Any]) -> list[tuple[str, str, str]]:
    names = dict.fromkeys(str(name).partition("/")[2] for name in row if str(name).startswith(_SPLITS))
    scores = [(name, *(short(row.get(split + name)) for split in _SPLITS)) for name in names]
    return [(name, val, test) for name, val, test in scores if val or test]


def _commands(study: Study) -> Iterator[tuple[str, str]]:
    """Run and command of each job that is done."""
    jobs: dict[tuple[str, ...], str] = {}
    for job in load_jobs(study.name, scale=study.scale).jobs:
        wanted = {**job.settings, "arm": job.arm}
        key = (job.variant, job.task, cell_text(job.seed), *(cell_text(wanted.get(name)) for name in study.varied))
        jobs[key] = job.command
    for row in study.runs.to_dict("records"):
        key = tuple(cell_text(row.get(name)) for name in ("variant", "task", "seed", *study.varied))
        if key in jobs:
            yield str(row["run_id"]), jobs[key]
