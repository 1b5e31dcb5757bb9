"""The same at the same time: one command several times at once, and a hundred processes that write."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from data.base import Source
from experiments.config import RunConfig
from experiments.errors import ExitCode
from experiments.store import RunFolder, run_folder
from tests.experiments.small_runs import folder_of, run_here
from tests.faults.harness import apart, ended, everything, forked, small, started_apart, sweep

WRITERS, ROWS = 100, 5


@pytest.mark.parametrize("count", [2, 5])
def test_the_same_command_at_once_trains_once(count: int, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """Of several exactly one trains; the others end with one line, and leave the run alone."""
    config = small(tmp_path)
    logs = [tmp_path / f"{number}.txt" for number in range(count)]
    processes = [started_apart(log, run_here, config) for log in logs]
    ends = [ended(process, log) for process, log in zip(processes, logs, strict=True)]
    folder = folder_of(config)
    trained = [end for end in ends if " after " in end.out]
    assert len(trained) == 1
    for end in ends:
        if end is not trained[0] and "done before" not in end.out:
            assert end.code == ExitCode.FAILED
            assert f"locked: run {folder.run_id} is already running (process" in end.err
            assert len(end.err.splitlines()) == 1
    assert folder.log_file.read_text().count("started by process") == 1
    assert everything(folder) == undisturbed


def test_the_same_sweep_at_once_trains_each_run_once(tmp_path: Path) -> None:
    """The jobs of the second sweep wait for those of the first, and find their runs done."""
    configs = [small(tmp_path, f"seed={seed}") for seed in (0, 1)]
    logs = [tmp_path / f"{number}.txt" for number in range(2)]
    processes = [started_apart(log, sweep, configs, None, tmp_path / log.stem) for log in logs]
    ends = [ended(process, log) for process, log in zip(processes, logs, strict=True)]
    assert [end.code for end in ends] == [ExitCode.OK, ExitCode.OK], ends
    for config in configs:
        assert folder_of(config).log_file.read_text().count("started by process") == 1


def folder_number(config: RunConfig, number: int) -> RunFolder:
    """A run folder for each two of three writers; every third has the same."""
    return run_folder(config, Source("generated", str(number if number % 3 else 0), ""))


def write_for_its_life(config: RunConfig, number: int) -> int:
    """Does to its folder what a run does, many times, under the lock."""
    folder = folder_number(config, number)
    for row in range(ROWS):
        with folder.lock(patience=120):
            folder.attempt = number
            folder.write_status("running", step=row)
            folder.append_metrics({"step": row, "split": "train", "loss": number + row / 100})
            folder.log(f"row {row} of {number}")
            assert folder.status()["attempt"] == number, "another one writes, too"
    with folder.lock(patience=120):
        if not folder.is_done:
            folder.write_result({"metric": "loss", "test/loss": number})
    assert (folder.result() or {})["status"] == "done"
    return 0


def write_all_at_once(config: RunConfig) -> int:
    """A hundred processes; number of those that failed."""
    ready, go = os.pipe()
    numbers = []
    for writer in range(WRITERS):
        number = os.fork()
        if number == 0:
            os.read(ready, 1)
            code = forked(lambda writer=writer: write_for_its_life(config, writer))  # type: ignore[misc]
            os._exit(code)
        numbers.append(number)
    os.write(go, b"." * WRITERS)
    return sum(os.waitpid(number, 0)[1] != 0 for number in numbers)


def test_a_hundred_writers_tear_and_lose_no_record(tmp_path: Path) -> None:
    """Rows, lines, statuses and results of a hundred processes at once, a third of them in one and the same folder."""
    config = small(tmp_path)
    done = apart(tmp_path / "printed.txt", write_all_at_once, config)
    assert done.code == 0, done.err
    rows: set[tuple[int, int]] = set()
    for folder in {
        folder_number(config, number).path: folder_number(config, number) for number in range(WRITERS)
    }.values():
        stored = [json.loads(line) for line in folder.metrics_file.read_text().splitlines()]
        assert all(row["loss"] == row["attempt"] + row["step"] / 100 for row in stored)
        rows |= {(row["attempt"], row["step"]) for row in stored}
        assert len(folder.log_file.read_text().splitlines()) == len(stored)
        assert folder.is_done
        assert {path.name for path in folder.path.iterdir()} == {
            "lock",
            "log.txt",
            "metrics.jsonl",
            "result.json",
            "status.json",
        }
    assert len(rows) == WRITERS * ROWS
