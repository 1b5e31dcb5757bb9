"""Command line of the report: see the package's docstring."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.execute import execute
from analysis.report.site import build


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds the report. Returns 1 where a notebook failed; the report is there even so, and names it."""
    parser = argparse.ArgumentParser(prog="python -m analysis.report", description="Build results/report/index.html.")
    parser.add_argument("--no-notebooks", action="store_true", help="take the copies that were executed last")
    parser.add_argument("--live", action="store_true", help="also the runs of your own store")
    parser.add_argument("--root", type=Path, help="the store (default: where runs are stored)")
    parser.add_argument("--out", type=Path, help="another folder (default: results/report)")
    chosen = parser.parse_args(arguments)
    if chosen.root is not None and not chosen.root.is_dir():
        print(f"error: --root {chosen.root} is no folder: name a results folder", file=sys.stderr)
        return 2
    failed = False
    if not chosen.no_notebooks:
        out = chosen.out / "notebooks" if chosen.out else None
        failed = any(one.problem for one in execute(out=out))
    site = build(out=chosen.out, live=chosen.live, root=chosen.root)
    without_runs = [lack for lack in site.lacks if lack.runs]
    for lack in (lack for lack in site.lacks if not lack.runs):
        print(f"missing: {lack.text}" + (f"; to make it: {lack.command}" if lack.command else ""), file=sys.stderr)
    if without_runs:
        runs = sum(lack.runs for lack in without_runs)
        text = f"missing: {runs:,} runs of {len(without_runs)} studies; index.html#missing says what makes them"
        print(text, file=sys.stderr)
    print(f"wrote {site.folder / 'index.html'} and {len(site.files) - 1} more files")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
