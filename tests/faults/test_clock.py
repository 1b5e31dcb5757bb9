"""A clock that jumps: times may look odd, numbers never."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from experiments.config import RunConfig
from experiments.errors import ExitCode
from tests.experiments.small_runs import folder_of, run_here
from tests.faults.harness import apart, everything, small

DAY, YEAR = 86_400.0, 365 * 86_400.0


def run_with_jump(config: RunConfig, seconds: float) -> int:
    """A run whose wall clock jumps once, after it was read a few times."""
    read, calls = time.time, 0

    def jumped() -> float:
        nonlocal calls
        calls += 1
        return read() + (seconds if calls > 5 else 0)

    time.time = jumped
    return run_here(config)


@pytest.mark.parametrize("seconds", [-DAY, YEAR], ids=["a day back", "a year ahead"])
def test_a_jump_of_the_clock_changes_no_number(seconds: float, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """Numbers are the same; durations and speeds, which are no differences of the wall clock, stay sane."""
    config = small(tmp_path)
    started = time.monotonic()
    done = apart(tmp_path / "printed.txt", run_with_jump, config, seconds)
    took = time.monotonic() - started
    folder = folder_of(config)
    assert done.code == ExitCode.OK, done.err
    assert everything(folder) == undisturbed
    result, times = folder.result() or {}, [row["time"] for row in folder.metrics()]
    assert abs(times[-1] - times[0]) > DAY / 2, "the jump fell into the run"
    assert 0 < result["wall_seconds"] < took
    rates = [row["tokens_per_second"] for row in folder.metrics() if row["split"] == "train"]
    assert all(0 < rate < 1e9 for rate in [*rates, result["tokens_per_second"]])
