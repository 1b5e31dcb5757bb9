"""Copy what the store holds of a study into its committed files.

    python -m analysis.collect overview                    # results/studies/overview/*.csv
    python -m analysis.collect overview --drop 20c93696ac  # without a run, or the runs of a setting

Rows of runs that the store no longer has are kept. What is dropped is named. Of a study that measures speed
(mode=bench) it is the rows of ``bench.csv`` that carry its label.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.bench_files import live_bench, merge_bench, read_bench, refuse_mixed_rows, write_bench
from analysis.studies import live_tables, load_study, refuse_mixed
from analysis.study_files import merge, read_study, typed_table, write_study
from experiments.results import load_jobs


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
    runs, lines = tables["runs"], []
    for digits in drop:
        gone = [str(row.run_id) for row in runs.itertuples() if _is_named(row, digits)] if len(runs) else []
        if not gone:
            raise ValueError(f"--drop {digits}: no run_id or config_hash of study {name} starts with this")
        tables = {kind: _without(table, gone) for kind, table in tables.items()}
        runs = tables["runs"]
        lines.append(f"left out {', '.join(gone)}")
    if runs.empty:
        return [*lines, f"no finished run of study {name} in the store, and none was kept"]
    for _, rows in typed_table(runs).groupby("scale"):
        refuse_mixed(rows.reindex(columns=list(dict.fromkeys([*rows, *plan.varied]))), plan.varied)
    paths = write_study(name, tables, committed)
    old = len(kept["runs"]) - len(set(kept["runs"].get("run_id", ())) & set(new["runs"].get("run_id", ())))
    lines += [f"wrote {path.parent.name}/{path.name}: {len(tables[path.stem]):,} rows" for path in paths]
    return [*lines, f"{len(new['runs'])} runs from the store, {old} kept as they were"]


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
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if len(study.missing):
        print(f"missing: {study.describe_missing()}\nrun {study.command}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
