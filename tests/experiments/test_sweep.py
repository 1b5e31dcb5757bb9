"""The loop of a sweep against an engine that is told what happens, and the parts of the local engine."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import sweep as sweep_module
from experiments.config import RunConfig, build_task, find_data
from experiments.engines import End
from experiments.engines import local as local_module
from experiments.engines.local import GIB, LocalEngine, find_places
from experiments.errors import ExitCode
from experiments.store import run_folder
from experiments.sweep import MANIFEST, run_sweep
from experiments.sweep_job import Job
from tests.experiments.small_runs import settings


class Told:
    """An engine whose jobs end as they are told, in the order in which they were started."""

    name = "told"

    def __init__(self, ends: dict[int, list[int]], *, at_once: int = 2) -> None:
        self.ends, self.at_once = ends, at_once
        self.batches: list[list[int]] = []
        self.closed = False

    @property
    def started(self) -> list[int]:
        """The jobs that were started, in order."""
        return [number for batch in self.batches for number in batch]

    def has_room(self, job: Job, running: Sequence[Job]) -> bool:
        return len(running) < self.at_once

    def start(self, jobs: Sequence[Job]) -> None:
        self.batches.append([job.number for job in jobs])
        for job in jobs:
            job.status = "running"

    def ended(self, job: Job) -> End | None:
        return End(self.ends.get(job.number, [0]).pop(0))

    def interrupt(self, jobs: Sequence[Job], signal_number: int) -> bool:
        return True

    def kill(self, jobs: Sequence[Job]) -> None:
        """Nothing runs."""

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[Job]]:
    monkeypatch.setattr(sweep_module, "POLL_SECONDS", 0.0)
    config = settings(tmp_path, "model=fam", "task=passkey")

    def make(count: int) -> list[Job]:
        return [
            Job(number, count, tmp_path / "sweep", [f"seed={number}"], replace(config, seed=number))
            for number in range(1, count + 1)
        ]

    return make


def finish(config: RunConfig) -> Path:
    """Stores a result for a run, as if it had been trained."""
    folder = run_folder(config, find_data(config, build_task(config)))
    with folder.lock():
        folder.begin(config)
        folder.write_result({"metric": "exact_match", "test/exact_match": 1.0, "data_source": "generated"})
    return folder.path


def test_what_is_done_needs_no_process(
    jobs: Callable[[int], list[Job]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed, engine = jobs(3), Told({})
    done = finish(listed[1].config)
    assert run_sweep(listed, engine, tmp_path / "sweep") == ExitCode.OK
    assert engine.started == [1, 3]
    assert [job.status for job in listed] == ["ok", "skipped", "ok"]
    assert "[2/3] fam passkey s2  done before, test/exact_match 1.0000" in capsys.readouterr().out
    assert listed[1].row().folder == done
    assert engine.closed


def test_force_runs_what_is_done(jobs: Callable[[int], list[Job]], tmp_path: Path) -> None:
    listed, engine = jobs(1), Told({})
    finish(listed[0].config)
    listed[0].config = replace(listed[0].config, force=True)
    run_sweep(listed, engine, tmp_path / "sweep")
    assert engine.batches == [[1]]


def test_jobs_that_fit_together_are_handed_over_together(jobs: Callable[[int], list[Job]], tmp_path: Path) -> None:
    engine = Told({}, at_once=100)
    run_sweep(jobs(5), engine, tmp_path / "sweep")
    assert engine.batches == [[1, 2, 3, 4, 5]]


def test_a_job_that_the_system_killed_beside_others_gets_one_more_chance_alone(
    jobs: Callable[[int], list[Job]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed, engine = jobs(3), Told({1: [-signal.SIGKILL, 0], 2: [-signal.SIGKILL, -signal.SIGKILL]})
    assert run_sweep(listed, engine, tmp_path / "sweep") == ExitCode.FAILED
    assert engine.batches[0] == [1, 2]
    assert sorted(engine.started) == [1, 1, 2, 2, 3]
    assert all(len(batch) == 1 for batch in engine.batches[-2:]), "alone"
    assert [job.status for job in listed] == ["ok", "failed", "ok"]
    assert "killed, goes on alone when the others have ended" in capsys.readouterr().out


def test_a_job_that_was_killed_alone_has_failed(jobs: Callable[[int], list[Job]], tmp_path: Path) -> None:
    listed, engine = jobs(1), Told({1: [-signal.SIGKILL]})
    assert run_sweep(listed, engine, tmp_path / "sweep") == ExitCode.FAILED
    assert engine.batches == [[1]]


def test_the_manifest_says_how_each_job_stands(jobs: Callable[[int], list[Job]], tmp_path: Path) -> None:
    listed = jobs(3)
    finish(listed[0].config)
    run_sweep(listed, Told({2: [1]}), tmp_path / "sweep")
    manifest = json.loads((tmp_path / "sweep" / MANIFEST).read_text())
    assert manifest["launcher"] == "told"
    assert manifest["started"] <= manifest["ended"]
    assert [job["status"] for job in manifest["jobs"]] == ["skipped", "failed", "ok"]
    assert manifest["jobs"][0]["folder"].endswith("-s1")


def test_many_skipped_jobs_do_not_bury_the_table(
    jobs: Callable[[int], list[Job]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = jobs(30)
    for job in listed:
        finish(job.config)
    engine = Told({})
    assert run_sweep(listed, engine, tmp_path / "sweep") == ExitCode.OK
    assert engine.batches == []
    assert capsys.readouterr().out.count("done before") == 20


def test_a_job_waits_for_memory(jobs: Callable[[int], list[Job]], monkeypatch: pytest.MonkeyPatch) -> None:
    listed, engine = jobs(2), LocalEngine([{}, {}], memory=4 * GIB)
    monkeypatch.setattr(local_module, "available_memory", lambda: 6 * GIB)
    assert engine.has_room(listed[0], []), "one job may always run"
    assert not engine.has_room(listed[1], [listed[0]]), "the first has not taken its 4 GiB yet"
    monkeypatch.setattr(local_module, "available_memory", lambda: 9 * GIB)
    assert engine.has_room(listed[1], [listed[0]])


def test_memory_is_learned_from_jobs_of_the_same_kind(
    jobs: Callable[[int], list[Job]], monkeypatch: pytest.MonkeyPatch
) -> None:
    listed, engine = jobs(2), LocalEngine([{}, {}])
    monkeypatch.setattr(local_module, "available_memory", lambda: 3 * GIB)
    assert engine.has_room(listed[1], [listed[0]]), "a job like no other is believed to be small"
    engine._peaks["fam", "passkey"] = 2 * GIB
    assert not engine.has_room(listed[1], [listed[0]])


def test_every_place_takes_one_job(jobs: Callable[[int], list[Job]], monkeypatch: pytest.MonkeyPatch) -> None:
    listed, engine = jobs(3), LocalEngine([{}, {}], memory=1)
    assert engine.has_room(listed[1], listed[:1])
    assert not engine.has_room(listed[2], listed[:2])


def test_available_memory_is_a_number_of_bytes() -> None:
    assert GIB // 8 < local_module.available_memory() < 1 << 50


def test_a_run_of_two_devices_takes_two_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(tmp_path, "trainer.devices=2", "task=passkey")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    assert find_places("auto", [config] * 4) == [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"}]


def test_data_are_looked_for_once_and_for_all_seeds() -> None:
    from experiments.preflight import check_command_line, groups

    for task in groups()["task"]:
        configs = check_command_line(["-m", f"task={task}", "scale=smoke", "seed=0,1"])
        sources = [find_data(config, build_task(config)) for config in configs]
        assert sources[0].checksum == sources[1].checksum, f"{task}: the seed is no part of the data"
