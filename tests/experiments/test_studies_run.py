"""Every stored study, run at smoke scale with one seed: all of its arms train, and the study finds them."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from analysis.studies import load_study
from experiments import bench
from experiments.errors import ExitCode
from experiments.preflight import check_command_line, groups
from experiments.studies import study_plan
from tests.experiments.small_runs import run_apart

PLANS = {study: study_plan(study, "smoke") for study in groups()["study"]}

#: A study's tasks apart, so that none takes long and several processes share them.
TRAINED = [
    (study, task)
    for study, plan in PLANS.items()
    if plan.mode == "train"
    for task in dict.fromkeys(job.task for job in plan.jobs)
]


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One results folder for all: what studies share is trained once."""
    return tmp_path_factory.mktemp("studies")


@pytest.mark.parametrize(("study", "task"), TRAINED)
def test_all_arms_of_a_study_train(study: str, task: str, results: Path) -> None:
    wanted = [job for job in PLANS[study].jobs if job.task == task and job.seed == 0]
    own = [f"store.root={results}", f"data.cache={results / 'cache'}", "logger=none", "trainer.progress=none"]
    for job in wanted:
        (config,) = check_command_line([*shlex.split(job.command)[2:], *own])
        assert run_apart(config) == ExitCode.OK, job.command
    found = load_study(study, scale="smoke", root=results)
    assert not ((found.missing["task"] == task) & (found.missing["seed"] == 0)).any()
    runs = found.runs[found.runs["task"] == task]
    assert len(runs) == len(wanted)
    assert (runs["status"] == "done").all()
    assert set(runs["run_id"]) <= set(found.curves["run_id"])


@pytest.mark.parametrize("study", [study for study, plan in PLANS.items() if plan.mode == "bench"])
def test_all_arms_of_a_study_are_measured(study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "in_fresh_process", lambda work, *arguments: work(*arguments))
    small = ["bench.lengths=[64]", "bench.max_seconds=0.01", "bench.peers=false", f"store.root={tmp_path}"]
    configs = check_command_line(["-m", f"+study={study}", "scale=smoke", *small])
    assert bench.run_bench(configs) == ExitCode.OK
    assert (tmp_path / "bench.csv").read_text().count(",ok\n") >= len(PLANS[study].jobs)
