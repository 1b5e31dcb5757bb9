"""run.py as people type it, with real (tiny) trainings, from another folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

import data
from experiments.config import register_resolvers
from experiments.errors import ExitCode
from experiments.job import run_job
from experiments.listing import print_list
from experiments.plan import print_plan
from experiments.preflight import CONF, groups
from experiments.settings import REPOSITORY
from experiments.store import RunFolder
from tests.experiments.small_runs import TINY, folder_of, settings

RunPy = Callable[..., "subprocess.CompletedProcess[str]"]
TASK = ("task=passkey", *TINY)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of this module, and where its commands are typed."""
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def run_py(home: Path) -> RunPy:
    """Runs a command to its end."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(REPOSITORY / "run.py"), *arguments]
        env = {**os.environ, "MEMATTN_RESULTS": str(home / "results")}
        return subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, timeout=240)

    return run


@pytest.fixture(scope="module")
def sweep(run_py: RunPy) -> subprocess.CompletedProcess[str]:
    """A sweep of two variants, run once."""
    return run_py("-m", "model=fam,block_window", *TASK)


def results(home: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted((home / "results" / "runs").rglob("result.json"))]


def test_a_mistake_costs_one_line_and_no_traceback(run_py: RunPy) -> None:
    done = run_py("model=famm")
    assert done.returncode == ExitCode.USER_ERROR
    assert done.stdout == ""
    assert done.stderr == (
        f"error: unknown model 'famm': did you mean 'fam'? There are: {', '.join(groups()['model'])}\n"
    )


def test_help_shows_commands(run_py: RunPy) -> None:
    done = run_py("--help")
    assert done.returncode == 0
    assert "python run.py -m model=fam,luna task=lra_text " in done.stdout
    assert f"model: {', '.join(groups()['model'])}" in done.stdout


def test_a_sweep_trains_all_and_ends_with_one_table(sweep: subprocess.CompletedProcess[str], home: Path) -> None:
    assert sweep.returncode == ExitCode.OK, sweep.stdout + sweep.stderr
    assert sweep.stderr == ""
    assert [result["model"] for result in results(home)] == ["block_window", "fam"]
    header = next(line for line in sweep.stdout.splitlines() if line.startswith("variant"))
    for column in (
        "task",
        "data",
        "seed",
        "score",
        "parameters",
        "state size",
        "tokens/s",
        "peak memory",
        "time",
    ):
        assert column in header
    rows = [line.split() for line in sweep.stdout.splitlines() if line.startswith(("fam ", "block_window "))]
    assert [row[-1] for row in rows] == ["ok", "ok"]
    assert "floors of passkey (generated, smoke): chance_exact_match 1e-05" in sweep.stdout


def test_a_sweep_leaves_its_traces_in_one_place(sweep: subprocess.CompletedProcess[str], home: Path) -> None:
    (folder,) = (home / "results" / "sweeps").iterdir()
    names = {path.name for path in folder.iterdir()}
    logs = {"001-fam-passkey-s0.log", "002-block_window-passkey-s0.log"}
    assert names == {"multirun.yaml", "sweep.json", "table.txt", "table.csv", *logs}
    assert [path.name for path in home.iterdir()] == ["results"], "nothing is left where the command was typed"


def test_the_same_sweep_again_skips_what_is_done(
    sweep: subprocess.CompletedProcess[str], run_py: RunPy, home: Path
) -> None:
    before = results(home)
    again = run_py("-m", "model=fam,block_window", *TASK)
    assert again.returncode == ExitCode.OK
    assert again.stdout.count("done before, test/exact_match") == 2
    assert results(home) == before


def test_a_stored_run_scores_as_it_did(sweep: subprocess.CompletedProcess[str], run_py: RunPy, home: Path) -> None:
    result = results(home)[0]
    run_id = str(result["run_id"])
    done = run_py("mode=eval", f"run={run_id.partition('-')[0]}", "trainer.progress=none")
    assert done.returncode == ExitCode.OK, done.stderr
    assert run_id in done.stdout
    shown = next(line.split() for line in done.stdout.splitlines() if line.strip().startswith("test/exact_match "))
    assert [float(value) for value in shown[1:3]] == pytest.approx([result["test/exact_match"]] * 2, rel=1e-5)


def test_a_plan_says_what_would_happen_and_leaves_nothing(
    sweep: subprocess.CompletedProcess[str], run_py: RunPy, home: Path
) -> None:
    before = sorted(home.rglob("*"))
    done = run_py("-m", "model=fam,luna", "trainer.learning_rate=0.002,0.001", "mode=plan", *TASK)
    assert done.returncode == ExitCode.OK, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith(("fam ", "luna "))]
    assert ["skip: done" in line for line in lines] == [True, False, False, False]
    assert all("trainer.learning_rate=0.001" in line for line in (lines[1], lines[3]))
    assert "3 of 4 to run; results go to " in done.stdout
    assert sorted(home.rglob("*")) == before


def test_a_stored_run_is_exported(sweep: subprocess.CompletedProcess[str], run_py: RunPy, home: Path) -> None:
    run_id = str(results(home)[0]["run_id"])
    done = run_py("mode=export", f"run={run_id.partition('-')[0]}")
    assert done.returncode == ExitCode.OK, done.stderr
    (folder,) = (home / "results" / "runs").rglob("export")
    assert f"{run_id} exported to {folder}" in done.stdout


def test_the_store_is_looked_at_by_hand(sweep: subprocess.CompletedProcess[str], run_py: RunPy, home: Path) -> None:
    done = run_py("mode=status", "watch=0.5")
    assert done.returncode == ExitCode.OK, done.stderr
    assert "2 jobs: 2 done" in done.stdout
    unknown = run_py("mode=status", "sweep=999")
    assert unknown.returncode == ExitCode.USER_ERROR
    assert unknown.stderr.startswith("error:  sweep=999: no stored sweep starts with this (looked in ")
    assert unknown.stderr.count("\n") == 1


def test_sigterm_keeps_a_checkpoint(home: Path) -> None:
    arguments = ["model=luna", *TASK, "trainer.steps=3000", "trainer.val_every=3000", "trainer.log_every=1"]
    env = {**os.environ, "MEMATTN_RESULTS": str(home / "results")}
    command = [sys.executable, str(REPOSITORY / "run.py"), *arguments]
    process = subprocess.Popen(command, cwd=home, env=env, stderr=subprocess.PIPE, text=True)
    runs = home / "results" / "runs" / "passkey" / "luna"
    deadline = time.monotonic() + 120
    while not list(runs.glob("*/metrics.jsonl")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == ExitCode.TERMINATED
    assert "interrupted: stopped by SIGTERM; the same command resumes" in errors
    (path,) = runs.iterdir()
    folder = RunFolder(path)
    assert folder.state == "interrupted"
    assert folder.last_checkpoint.exists()


def test_a_plan_tells_every_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = settings(tmp_path, "model=fam", "task=passkey")

    def planned() -> str:
        assert print_plan([config]) == ExitCode.OK
        return capsys.readouterr().out

    def fail(*_: object) -> dict[str, object]:
        raise MemoryError

    assert " run  " in planned()
    run_job(config, train=fail)
    capsys.readouterr()
    assert "run again (out of memory)" in planned()
    folder = folder_of(config)
    with folder.lock():
        assert "skip: another process runs it now" in planned()
    folder.checkpoints.mkdir()
    folder.last_checkpoint.touch()
    folder.write_status("interrupted", step=7)
    assert "resume (interrupted at step 7)" in planned()
    run_job(config, train=lambda *_: {})
    capsys.readouterr()
    assert "skip: done" in planned()
    forced = settings(tmp_path, "model=fam", "task=passkey", "force=true")
    print_plan([forced])
    assert "start over (force=true)" in capsys.readouterr().out


def test_a_plan_without_data_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = settings(tmp_path, "task=lra_text", "task.source=folder", f"data.root={tmp_path / 'nothing'}")
    assert print_plan([config]) == ExitCode.USER_ERROR
    assert "cannot run: " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["passkey", "lm_text"])
def test_the_list_shows_a_tasks_card(name: str, run_py: RunPy) -> None:
    done = run_py("mode=list", f"task={name}")
    assert done.returncode == ExitCode.OK, done.stderr
    assert done.stdout.startswith(data.task_class(name).card.strip())
    assert done.stdout.endswith(f"Options and sizes: conf/task/{name}.yaml   Code: data/{name}.py\n")


def test_the_list_shows_what_exists(capsys: pytest.CaptureFixture[str]) -> None:
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3", job_name="run"):
        print_list(compose("config", ["scale=smoke"]))
    out = capsys.readouterr().out
    for text in ("  fam ", "  lra_text ", "  laptop ", "  overview ", "TransformerFAM", "Ours: all mechanisms"):
        assert text in out
    sizes = {line.split()[0]: line.split() for line in out.partition("scale=smoke")[2].splitlines() if line}
    assert sizes["fam"][1] == "2404.09173"
    assert sizes["rmt"][1:3] == ["mat", "2207.06881"]
    assert sizes["fam_gated"][1:3] == ["fam", "ours"]
    assert all(len(sizes[name]) >= 6 for name in groups()["model"])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, 143), (signal.SIGUSR2, 143), (signal.SIGINT, 130)])
def test_a_signal_before_a_run_has_begun_is_no_failure(home: Path, number: int, code: int) -> None:
    early = (
        "import runpy, signal, experiments.sweep_job as sweep_job; "
        f"sweep_job.follow_parent = lambda: signal.raise_signal({int(number)}); "
        f"runpy.run_path({str(REPOSITORY / 'run.py')!r}, run_name='__main__')"
    )
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", early], cwd=home, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert not done.stderr
