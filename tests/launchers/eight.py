"""The same sweep of eight jobs, whoever runs it: what its table must hold, to the last digit."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from experiments.config import REPOSITORY

#: Small runs, of variants whose memory goes along time, along depth and through the whole stack.
JOBS = ("model=fam,luna,rmt,transformer", "seed=0,1")
SETTINGS = ("task=passkey", "scale=smoke", "trainer.steps=12", "trainer.warmup_steps=2", "logger=none")

#: What depends on the machine and the moment, and not on what was computed.
_MEASURED = ("tokens_per_second", "peak_memory_bytes", "wall_seconds", "folder", "attempts", "job_status", "hardware")


def sweep(
    results: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs ``run.py -m`` to its end."""
    return subprocess.run(
        command(*arguments), env=surroundings(results, environment), capture_output=True, text=True, check=False
    )


def command(*arguments: str) -> list[str]:
    """``run.py -m`` with the settings of small runs; arguments come last and win."""
    return [sys.executable, str(REPOSITORY / "run.py"), "-m", *SETTINGS, *arguments]


def surroundings(results: Path, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment of a sweep that stores its results below a folder."""
    return {**(environment or os.environ), "MEMATTN_RESULTS": str(results), "OMP_NUM_THREADS": "1"}


def table(results: Path) -> list[dict[str, str]]:
    """The table of the one sweep below a folder, without what was measured."""
    (path,) = results.glob("sweeps/*/table.csv")
    with path.open(encoding="utf-8") as handle:
        return [{key: value for key, value in line.items() if key not in _MEASURED} for line in csv.DictReader(handle)]


def statuses(results: Path) -> list[str]:
    """How each job of that sweep ended."""
    (path,) = results.glob("sweeps/*/table.csv")
    with path.open(encoding="utf-8") as handle:
        return [line["job_status"] for line in csv.DictReader(handle)]
