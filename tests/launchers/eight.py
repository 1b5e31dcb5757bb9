"""The same sweep of eight jobs, whoever runs it: what its table must hold, to the last digit."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.settings import REPOSITORY

#: Small runs, of variants whose memory goes along time, along depth and through the whole stack.
JOBS = ("model=fam,luna,rmt,transformer", "seed=0,1")
SETTINGS = ("task=passkey", "scale=smoke", "trainer.steps=12", "trainer.warmup_steps=2", "logger=none")

#: What depends on the machine and the moment, and not on what was computed.
_MEASURED = frozenset(
    ("tokens_per_second", "peak_memory_bytes", "wall_seconds", "folder", "attempts", "job_status", "hardware")
) | {"git_sha"}


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
    """The table of the latest sweep below a folder, without what was measured."""
    return [{key: value for key, value in line.items() if key not in _MEASURED} for line in _lines(results)]


def statuses(results: Path) -> list[str]:
    """How each job of that sweep ended."""
    return [line["job_status"] for line in _lines(results)]


def _lines(results: Path) -> list[dict[str, str]]:
    path = max(results.glob("sweeps/*/table.csv"))
    with path.open(encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def read(path: Path) -> dict[str, Any]:
    """A file of JSON, empty while it is being replaced."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def wait_for_step(results: Path, step: int) -> None:
    """Until the only run has come so far."""
    wait_until(lambda: any(read(path).get("step", 0) >= step for path in results.glob("runs/*/*/*/status.json")), 90)


def wait_until(holds: Callable[[], bool], seconds: float) -> None:
    """Polls."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to this"
        time.sleep(0.2)
