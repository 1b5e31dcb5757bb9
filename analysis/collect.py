"""Copy what the store holds of a study into its committed files.

    python -m analysis.collect overview                    # results/studies/overview/*.csv
    python -m analysis.collect overview --drop 20c93696ac  # without a run, or the runs of a setting

Rows of runs that the store no longer has are kept, and where another study has committed the same run, its rows are
copied: studies share runs. What is dropped is named. Of a study that measures speed
(mode=bench) it is the rows of ``bench.csv`` that carry its label.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from analysis.bench_files import live_bench, merge_bench, read_bench, refuse_mixed_rows, write_bench
from analysis.studies import live_tables, load_study, refuse_mixed
from analysis.study_files import (
    KEYS,
    cell_text,
    committed_studies,
    describe_lost,
    merge,
    read_study,
    typed_table,
    write_study,
)
from analysis.study_jobs import strange_runs, unmatched_jobs
from experiments.results import find_same, load_jobs

if TYPE_CHECKING:
    from experiments.results import StudyJob, StudyPlan


def collect(
    name: str,
    *,
    scale: str | None = None,
    root: Path | None = None,
    drop: Sequence[str] = (),
    committed: Path | None = None,
) -> list[str]:
    """Merges the store's runs into the files of a study.

    Args:
        name: of the study.
        scale: of the runs that are copied; default: the study's own.
        root: the store; default: where runs are stored.
        drop: first digits of ``run_id`` or ``config_hash``: these rows are left out.
        committed: folder of committed studies; default: ``results/studies``.

    Returns:
        Lines that say what was done.

    Raises:
        ValueError: no such study or scale, a torn file, nothing to drop, or rows that no one figure could hold. Nothing
            is written then.
    """
    plan = load_jobs(name, scale=scale)
    if plan.mode == "bench":
        return _collect_bench(name, scale, root, drop, committed)
    kept = read_study(name, committed)
    new = live_tables(plan, root, kept=kept["runs"])
    tables = merge(kept, new)
    strays = [other for other in committed_studies(committed) if not _is_study(other)]
    shared = _shared_tables(plan, tables["runs"], strays, committed)
    tables = merge(tables, shared)
    lines = [f"{other}: committed rows, and no conf/study/{other}.yaml: they were not looked at" for other in strays]
    lines += describe_lost(kept, tables)
    runs = tables["runs"]
    for digits in drop:
        gone = [str(row.run_id) for row in runs.itertuples() if _is_named(row, digits)] if len(runs) else []
        if not gone:
            raise ValueError(f"--drop {digits}: no run_id or config_hash of study {name} starts with this")
        tables = {kind: _without(table, gone) for kind, table in tables.items()}
        runs = tables["runs"]
        lines.append(f"left out {', '.join(gone)}")
    if runs.empty and not drop:
        return [*lines, f"no finished run of study {name} in the store, and none was kept"]
    for _, rows in typed_table(runs).groupby("scale") if len(runs) else ():
        refuse_mixed(rows.reindex(columns=list(dict.fromkeys([*rows, *plan.varied]))), plan.varied)
    paths = write_study(name, tables, committed)
    old = len(kept["runs"]) - len(set(kept["runs"].get("run_id", ())) & set(new["runs"].get("run_id", ())))
    lines += [f"wrote {path.parent.name}/{path.name}: {len(tables[path.stem]):,} rows" for path in paths]
    if len(shared["runs"]):
        lines.append(f"{len(shared['runs'])} runs copied from other studies' files")
    return [*lines, f"{len(new['runs'])} runs from the store, {old} kept as they were"]


def _is_study(name: str) -> bool:
    try:
        return bool(load_jobs(name))
    except ValueError:
        return False


def _shared_tables(
    plan: StudyPlan, runs: pd.DataFrame, strays: Collection[str], committed: Path | None
) -> dict[str, pd.DataFrame]:
    """Rows of the same runs in other studies' committed files, for jobs that have none, labelled as this study's."""
    found: dict[str, list[pd.DataFrame]] = {kind: [] for kind in KEYS}
    typed = typed_table(runs)
    missing = unmatched_jobs(plan, typed[typed["scale"] == plan.scale] if len(typed) else typed)
    for name in committed_studies(committed):
        if name in (plan.name, *strays) or not missing:
            continue
        tables, foreign = read_study(name, committed), set(load_jobs(name).varied) - {"arm"}
        same = find_same(plan, missing, typed_table(tables["runs"]), known=typed)
        jobs = {run_id: missing[at] for at, run_id in same.items()}
        for kind, table in tables.items():
            own = table[table["run_id"].isin(list(jobs))] if len(table) else table
            if kind == "runs":
                own = pd.DataFrame([_relabelled(row, jobs[row["run_id"]], foreign) for _, row in own.iterrows()])
            found[kind].append(own)
        missing = [job for job in missing if job not in jobs.values()]
    parts = {kind: [table for table in tables if len(table)] for kind, tables in found.items()}
    return {kind: pd.concat(tables).fillna("") if tables else pd.DataFrame() for kind, tables in parts.items()}


def _relabelled(row: pd.Series, job: StudyJob, foreign: Collection[str]) -> dict[str, str]:
    """A row of runs.csv with the settings of this study's job instead of the other study's."""
    cells = {str(name): cell for name, cell in row.items() if name not in foreign}
    settings = {name: cell_text(value) for name, value in job.settings.items()}
    return {**cells, **settings, "variant": job.variant, "arm": job.arm or ""}


def _collect_bench(
    name: str, scale: str | None, root: Path | None, drop: Sequence[str], committed: Path | None
) -> list[str]:
    if drop:
        raise ValueError(f"--drop {drop[0]}: study {name} measures speed and has no runs: edit its bench.csv")
    kept, new = read_bench(name, committed), live_bench(name, root, scale)
    rows = merge_bench(kept, new)
    if rows.empty:
        return [f"no measurement of study {name} in the store, and none was kept"]
    for _, own in rows.groupby("scale"):
        refuse_mixed_rows(typed_table(own), name)
    path = write_bench(name, rows, committed)
    lines = [f"wrote {path.parent.name}/{path.name}: {len(rows):,} rows"]
    return [*lines, f"{len(new)} measurements from the store, {len(rows) - len(new)} kept as they were"]


def _is_named(row: object, digits: str) -> bool:
    return any(str(getattr(row, name, "")).startswith(digits) for name in ("run_id", "config_hash"))


def _without(table: pd.DataFrame, runs: Sequence[str]) -> pd.DataFrame:
    return table[~table["run_id"].isin(runs)].reset_index(drop=True) if len(table) else table


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Copy what the store holds of a study into its committed files.")
    parser.add_argument("study")
    parser.add_argument("--scale", help="of the runs that are copied (default: the study's own)")
    parser.add_argument("--root", type=Path, help="results folder to collect from (default: where runs are stored)")
    parser.add_argument("--drop", nargs="+", default=[], metavar="DIGITS", help="leave out these runs or settings")
    chosen = parser.parse_args(arguments)
    try:
        for line in collect(chosen.study, scale=chosen.scale, root=chosen.root, drop=chosen.drop):
            print(line)
        study = load_study(chosen.study, scale=chosen.scale, live=False)
        strange = strange_runs(load_jobs(chosen.study, scale=study.scale), study.runs)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if strange:
        print(f"other settings than the study's: {', '.join(strange)}\nleave them out with --drop, then run it again")
    if len(study.missing):
        print(f"missing: {study.describe_missing()}\nrun {study.command}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
