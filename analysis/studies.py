"""A study (``conf/study/<name>.yaml``, a sweep) as data frames, from the committed files and from the live store.

    study = load_study("overview", scale="laptop")
    study.runs, study.slices, study.curves, study.memory       # one row a run, a slice, a validation
    study.missing[["variant", "task", "seed", "command"]]      # jobs without a finished run, and what makes each

``python -m analysis.collect <study>`` writes the committed files, ``results/studies/<study>/*.csv``:

| file | one row for | holds |
|---|---|---|
| ``runs.csv`` | each finished run | what was run, on which data and code; the varied settings; scores |
| ``slices.csv`` | each slice of a test | ``run_id``, then length, depth and the like, and the scores |
| ``curves.csv`` | each validation | ``run_id``, ``step``, and the scores |
| ``memory.csv`` | each look at the memory | ``run_id``, ``step``, and the measures |
| ``heads.csv`` | each layer and head of a trained model | ``run_id``, ``layer``, ``head``, and the measures |
| ``tests.csv`` | each slice of a later test of a stored run | ``run_id``, ``test``, its cost, then as ``slices.csv`` |

A study that measures speed (mode=bench) has no runs but ``bench.csv``: a row for each arm or package, phase and length.

What all rows of a run share stands in ``runs.csv`` alone; :func:`load_study` puts it beside the others. A cell
is written the same whatever other rows there are, so that a new run adds lines and changes none.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.bench_files import (
    arm_names,
    in_order,
    live_bench,
    merge_bench,
    missing_rows,
    read_bench,
    refuse_mixed_rows,
)
from analysis.study_files import FIRST, KEYS, LABELS, as_text, cell_text, merge, read_study, typed_table
from analysis.study_jobs import unmatched_jobs
from experiments.results import (
    find_same,
    load_config,
    load_curves,
    load_heads,
    load_jobs,
    load_results,
    load_slices,
    load_tests,
)

if TYPE_CHECKING:
    from experiments.results import StudyPlan


@dataclass(frozen=True, eq=False, kw_only=True)
class Study:
    """What is known of a study at one scale."""

    name: str
    """File name in conf/study."""
    scale: str
    """Column of the tables of sizes."""
    runs: pd.DataFrame
    """Finished runs: fields of result.json, the varied settings, ``floor``, the task's trivial one, and
    ``reach_blocks``: how many blocks a window looks through with all its layers, its own included, where it has one."""
    slices: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Test scores by length, depth and the like, beside their run's labels and settings."""
    curves: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Validations by ``step``, likewise."""
    memory: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Measures of the memory by ``step``, likewise."""
    missing: pd.DataFrame
    """Jobs that have no finished run: ``variant, task, seed``, settings, and ``command``. Where speed is measured, arms
    and lengths that have no row: ``name, variant, task, length``, the ``reason`` if one is known, and ``command``."""
    command: str
    """What runs the whole study, and skips what is done."""
    varied: tuple[str, ...] = ()
    """What it varies beside model, task and seed: ``arm``, where it has some, and dotted names of settings."""
    num_jobs: int = 0
    """Of the study: arms times seeds, or arms times lengths where speed is measured."""
    bench: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Measurements of speed, as in bench.csv: a row for each ``name`` (arm, variant or package), ``phase`` and
    ``length``, in the order of the arms. Empty where the study trains."""
    mode: str = "train"
    """train, or bench: measures speed, has no runs and no seeds."""
    heads: pd.DataFrame = field(default_factory=pd.DataFrame)
    """How each ``layer`` and ``head`` reads, writes and gates its memory after training, likewise."""
    tests: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Slices of tests that stored runs were put to later (``mode=eval run=... test={...}``), likewise; ``test`` tells
    them apart, ``seconds`` and ``peak_memory_bytes`` are of the whole test."""

    @property
    def arm(self) -> list[str]:
        """Columns that name an arm: what all its seeds share."""
        return ["task", "variant", *self.varied]

    def _telling(self, rows: pd.DataFrame) -> list[str]:
        """Which settings of an arm to name: all, or, beside its label, those that the label leaves open."""
        if "arm" not in self.varied:
            return [name for name in self.varied if not pd.isna(rows[name].iloc[0])]
        own = pd.concat([table for table in (self.runs, self.missing) if len(table)])
        own = own[own["arm"] == rows["arm"].iloc[0]]
        return ["arm", *(name for name in self.varied if name != "arm" and own[name].map(cell_text).nunique() > 1)]

    def describe_missing(self, *, limit: int | None = None) -> str:
        """The arms that lack seeds, or lengths, in one line; empty when all is there.

        Args:
            limit: arms that are named; of the others their number. Default: all.
        """
        if self.missing.empty:
            return ""
        if self.mode == "bench":
            return "; ".join(_lengths(str(name), rows) for name, rows in self.missing.groupby("name", sort=False))
        parts = []
        counts = {}
        if len(self.runs):
            have = self.runs.groupby(self.arm, dropna=False)["seed"].nunique()
            counts = {_arm_key(key): int(count) for key, count in have.items()}
        for key, rows in self.missing.groupby(self.arm, sort=False, dropna=False):
            done = counts.get(_arm_key(key), 0)
            settings = "".join(f" {name}={cell_text(rows[name].iloc[0])}" for name in self._telling(rows))
            where = f"{rows['variant'].iloc[0]} on {rows['task'].iloc[0]}{settings}"
            parts.append(f"{where}: {done} of {done + len(rows)} seeds")
        if limit is not None and len(parts) > limit:
            parts = [*parts[:limit], f"{len(parts) - limit} arms more"]
        return "; ".join(parts)


def load_study(
    name: str,
    *,
    scale: str | None = None,
    root: str | os.PathLike[str] | None = None,
    live: bool = True,
    committed: Path | None = None,
) -> Study:
    """All that is known of a study. Where both have a run, the store's is taken.

    Args:
        name: of the study.
        scale: default: the study's own, or if only one other has runs, that.
        root: the store, as for :func:`experiments.results.load_results`; default: where runs are stored.
        live: False: the committed files alone, for what is committed itself.
        committed: folder of committed studies; default: ``results/studies``.

    Raises:
        ValueError: no such study or scale; runs that no one figure can hold; a file that is torn.
    """
    plan = load_jobs(name, scale=scale)
    if plan.mode == "bench":
        text = read_bench(name, committed)
        return _bench_study(plan, scale, merge_bench(text, live_bench(name, root, scale)) if live else text)
    tables = read_study(name, committed)
    if live:
        tables = merge(tables, live_tables(plan if scale else name, root, kept=tables["runs"]))
    runs = typed_table(tables["runs"])
    if scale is None:
        plan = load_jobs(name, scale=_chosen_scale(name, runs, plan.scale))
    return _trained_study(plan, runs, tables)


def _trained_study(plan: StudyPlan, runs: pd.DataFrame, tables: Mapping[str, pd.DataFrame]) -> Study:
    """A study at one scale, from files of all: runs in their types, the others with cells of text."""
    if len(runs):
        runs = runs[runs["scale"] == plan.scale].reset_index(drop=True)
        runs = runs.reindex(columns=list(dict.fromkeys([*runs, *plan.varied])))
    refuse_mixed(runs, plan.varied)
    labels = runs.reindex(columns=["run_id", *LABELS, *plan.varied])
    others: dict[str, Any] = {kind: _labelled(typed_table(tables[kind]), labels) for kind in KEYS if kind != "runs"}
    return Study(
        name=plan.name,
        scale=plan.scale,
        command=plan.command,
        varied=plan.varied,
        num_jobs=len(plan.jobs),
        runs=runs,
        missing=_missing(plan, runs),
        **others,
    )


def _bench_study(plan: StudyPlan, scale: str | None, text: pd.DataFrame) -> Study:
    """A study that measures speed, from rows whose cells are text."""
    rows = typed_table(text)
    if scale is None:
        plan = load_jobs(plan.name, scale=_chosen_scale(plan.name, rows, plan.scale))
    if len(rows):
        rows = rows[rows["scale"] == plan.scale].reset_index(drop=True)
        refuse_mixed_rows(rows, plan.name)
    return Study(
        name=plan.name,
        scale=plan.scale,
        mode="bench",
        command=plan.command,
        varied=plan.varied,
        num_jobs=len(arm_names(plan)) * len(plan.lengths),
        runs=pd.DataFrame(columns=["run_id", *LABELS, *plan.varied]),
        missing=missing_rows(plan, rows),
        bench=in_order(plan, rows),
    )


def refuse_mixed(runs: pd.DataFrame, varied: Sequence[str] = ()) -> None:
    """One figure is of one scale, one source of data for each task, and one setting for each arm.

    Args:
        runs: columns ``task, variant, scale, data_source, config_hash`` and those of ``varied``.
        varied: what tells arms apart beside task and variant.

    Raises:
        ValueError: names what is mixed, and the way out.
    """
    if runs.empty:
        return
    if runs["scale"].nunique() > 1:
        found = ", ".join(sorted(map(str, runs["scale"].unique())))
        raise ValueError(f"runs of several scales ({found}) are not comparable: name one, scale=...")
    for task, rows in runs.groupby("task"):
        if rows["data_source"].nunique() > 1:
            found = ", ".join(sorted(map(str, rows["data_source"].unique())))
            raise ValueError(f"{task}: runs on several data sources ({found}) are not comparable: keep those of one")
    for _, rows in runs.groupby(["task", "variant", *varied], dropna=False):
        if rows["config_hash"].nunique() > 1:
            first = rows.iloc[0]
            found = ", ".join(sorted(map(str, rows["config_hash"].unique())))
            raise ValueError(
                f"{first['variant']} on {first['task']}: runs of several versions (config_hash {found}): "
                "move the run folders of one away, or leave them out of the committed files with "
                "python -m analysis.collect <study> --drop <config_hash>"
            )


def live_tables(
    study: str | StudyPlan, root: str | os.PathLike[str] | None = None, *, kept: pd.DataFrame | None = None
) -> dict[str, pd.DataFrame]:
    """What the store holds of a study, in the form of its files: every cell as text.

    Args:
        study: its name, for all scales, or its plan, for that scale alone.
        root: the store; default: where runs are stored.
        kept: rows of runs.csv: a job that has one needs no run that carries another study's label.

    Raises:
        ValueError: there is no such folder, or a result is torn.
    """
    plan = load_jobs(study) if isinstance(study, str) else study
    assert plan.mode != "bench", "its rows are those of live_bench"
    if root is not None and not Path(root).expanduser().is_dir():
        raise ValueError(f"{root} is no folder: name a results folder")
    everything = load_results(root, strict=True)
    if everything.empty:
        return {kind: pd.DataFrame() for kind in KEYS}
    everything = everything.drop_duplicates("run_id", ignore_index=True)  # a folder above two stores
    everything = everything.reindex(columns=list(dict.fromkeys([*everything, "arm"])))
    own = everything[everything["study"] == plan.name]
    if not isinstance(study, str):
        own = own[own["scale"] == plan.scale]
    settings = _settings(own, plan.varied)
    known = own[own["scale"] == plan.scale].join(settings)
    if kept is not None and len(kept):
        known = pd.concat([known, typed_table(kept[kept["scale"] == plan.scale])])
    missing = unmatched_jobs(plan, known)
    shared = find_same(plan, missing, everything.drop(own.index), known=known)
    jobs = {run_id: missing[position] for position, run_id in shared.items()}
    others = everything[everything["run_id"].isin(list(jobs))]
    labels = {name: [getattr(jobs[run_id], name) for run_id in others["run_id"]] for name in ("arm", "variant")}
    runs = pd.concat([own, others.assign(**labels)])  # a preset may be another's model with one setting
    runs = runs.assign(**_settings(runs, plan.varied), floor=_floors(runs), reach_blocks=_reaches(runs))
    runs = _blank_other_settings(runs, plan)
    frames = {
        "runs": runs[_columns(runs, plan.varied)],
        "slices": load_slices(runs=runs),
        "curves": load_curves(runs, "val"),
        "memory": load_curves(runs, "memory"),
        "heads": load_heads(runs),
        "tests": load_tests(runs),
    }
    return {kind: as_text(frame, kind) for kind, frame in frames.items()}


def _chosen_scale(name: str, runs: pd.DataFrame, own: str) -> str:
    """The study's own, where it has runs or there are none; else the only one that there are runs of."""
    scales = sorted(map(str, runs["scale"].unique())) if len(runs) else [own]
    if own not in scales and len(scales) > 1:
        raise ValueError(f"study {name} has runs of several scales ({', '.join(scales)}): name one, scale=...")
    return own if own in scales else scales[0]


def _blank_other_settings(runs: pd.DataFrame, plan: StudyPlan) -> pd.DataFrame:
    """An arm's rows name the settings that the arm sets; of the others it has whatever is the default."""
    for arm in dict.fromkeys(job.arm for job in plan.jobs if job.arm):
        own = {key for job in plan.jobs if job.arm == arm for key in job.settings}
        others = [name for name in plan.varied if name != "arm" and name not in own]
        runs.loc[runs["arm"] == arm, others] = ""
    return runs


def _missing(plan: StudyPlan, runs: pd.DataFrame) -> pd.DataFrame:
    """Jobs without a run, as a frame."""
    rows = []
    for job in unmatched_jobs(plan, runs):
        settings = {key: cell_text(value) if isinstance(value, list) else value for key, value in job.settings.items()}
        labels = {"variant": job.variant, "task": job.task, "seed": job.seed, "arm": job.arm}
        rows.append({**labels, **settings, "command": job.command})
    return pd.DataFrame(rows, columns=["variant", "task", "seed", *plan.varied, "command"])


def _settings(runs: pd.DataFrame, varied: Sequence[str]) -> pd.DataFrame:
    """What each run's config.yaml holds under some dotted names. Seeds of one setting share it."""
    varied = [name for name in varied if name != "arm"]  # a label, and another study's in a run that studies share
    if not varied or runs.empty:
        return pd.DataFrame(index=runs.index, columns=list(varied))
    found = {}
    for label, rows in runs.groupby("config_hash"):
        config = load_config(rows["folder"].iloc[0])
        found[label] = [cell_text(_select(config, name)) for name in varied]
    return pd.DataFrame([found[label] for label in runs["config_hash"]], index=runs.index, columns=list(varied))


def _select(config: Mapping[str, Any], name: str) -> Any:
    node: Any = config
    for key in name.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def _reaches(runs: pd.DataFrame) -> list[Any]:
    """How many blocks each run's window can look through, its own included; None where nothing bounds it."""
    found: dict[Any, int | None] = {}
    for label, rows in runs[runs["model"] == "block_window"].groupby("config_hash"):
        config = load_config(rows["folder"].iloc[0])
        depth, blocks = _select(config, "backbone.depth"), _select(config, "model.memory_blocks")
        found[label] = None if depth is None or blocks is None else int(depth) * int(blocks) + 1
    return [found.get(label) for label in runs["config_hash"]]


def _floors(runs: pd.DataFrame) -> list[Any]:
    """The trivial floor of each run's headline: the first that its task names."""
    names = [name for name in runs if str(name).startswith("floor/")]
    table = runs[names].to_dict("records") if names else [{} for _ in range(len(runs))]
    return [next((value for value in row.values() if pd.notna(value)), None) for row in table]


def _columns(runs: pd.DataFrame, varied: Sequence[str]) -> list[str]:
    """Columns of runs.csv in their order; what is no single value (milestones) or no fact (folder) stays out.

    So does what only other studies' runs in the store have.
    """
    head = [name for name in dict.fromkeys((*FIRST, *varied)) if name in runs]
    single = [name for name in map(str, runs) if not runs[name].map(lambda value: isinstance(value, list | dict)).any()]
    filled = [name for name in single if runs[name].notna().any()]
    return [*head, *sorted(set(filled) - set(head) - {"folder"})]


def _labelled(table: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Rows of the runs at hand, beside what runs.csv says of these."""
    if table.empty:
        return pd.DataFrame(columns=list(labels))
    return labels.merge(table, on="run_id", how="inner", suffixes=("", "_of_slice"))


def _arm_key(key: Any) -> tuple[str, ...]:
    return tuple(cell_text(part) for part in key) if isinstance(key, tuple) else (cell_text(key),)


def _lengths(name: str, rows: pd.DataFrame) -> str:
    """Where an arm was not measured, and why, as far as that is known."""
    parts = []
    for reason, own in rows.groupby("reason", sort=False):
        lengths = ", ".join(f"{length:,}" for length in own["length"])
        parts.append(f"{lengths} tokens" + (f" ({reason!s})" if reason else ""))
    return f"{name}: {', '.join(parts)}"
