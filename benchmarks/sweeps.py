"""What a sweep costs beside its runs: starting a job, and finding out that a thousand of them are done.

A job's own time is wall time, since most of it is a process that starts; so a quiet machine is needed. What a job must
import (torch, Lightning, Hydra, ours) is measured alone and taken off, as it is the price of a process of its own.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import Verdict, circumstances
from experiments.config import build_task, find_data
from experiments.preflight import check_command_line
from experiments.results import load_results
from experiments.settings import REPOSITORY
from experiments.store import run_folder

#: What a job imports before it can train.
IMPORTS = "import hydra, lightning, torch, experiments.train, experiments.preflight, models, data, wandb"

#: Runs of one step: nearly all of their time is getting there and back.
JOB = (
    *("task=memory_ops", "scale=smoke", "logger=none", "hydra.launcher.jobs=1"),
    *("trainer.steps=1", "trainer.warmup_steps=0"),
    *("task.eval_samples=1", "task.val_samples=1", "task.eval_factors=[1]"),
)

#: A sweep as large as a study of all variants.
MANY = (
    *("model=fam,infini,luna,rmt,transformer", "task=passkey", "scale=smoke", "logger=none"),
    "trainer.learning_rate=1e-3,2e-3,4e-3,8e-3",
)


def run(arguments: list[str]) -> float:
    """Seconds that a command of this interpreter takes.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    started = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, env=environment, capture_output=True, check=True)
    return time.perf_counter() - started


def sweep(results: Path, *arguments: str) -> float:
    """Seconds of ``run.py -m``."""
    return run([str(REPOSITORY / "run.py"), "-m", *arguments, f"store.root={results}"])


def launch_overhead(*, jobs: int, rounds: int) -> dict[str, Any]:
    """What each further job adds to a sweep that runs one at a time, its imports and its one step taken off."""
    rows = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            results = Path(folder)
            imports = run(["-c", IMPORTS])
            one = sweep(results / "one", *JOB, "seed=0")
            many = sweep(results / "many", *JOB, f"seed=range(0,{jobs})")
            trained = float(load_results(results / "many")["wall_seconds"].mean())
        rows.append({"job": (many - one) / (jobs - 1), "imports": imports, "trained": trained})
    best = min(rows, key=lambda row: row["job"] - row["imports"] - row["trained"])
    overhead = best["job"] - best["imports"] - best["trained"]
    return {**{key: round(value, 2) for key, value in best.items()}, "overhead": round(overhead, 2), "jobs": jobs}


def finish_all(arguments: list[str]) -> int:
    """Stores a result for every job of a sweep, as if it had been trained; returns how many."""
    configs = check_command_line(["-m", *arguments])
    source = find_data(configs[0], build_task(configs[0]))
    for config in configs:
        folder = run_folder(config, source)
        with folder.lock():
            folder.begin(config)
            folder.write_result({"metric": "exact_match", "test/exact_match": 0.5, "data_source": source.name})
    return len(configs)


def recognise(*, seeds: int) -> dict[str, Any]:
    """Seconds until a sweep whose jobs are all done has said so, imports and table included."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [*MANY, f"seed=range(0,{seeds})"]
        count = finish_all([*arguments, f"store.root={folder}"])
        seconds = sweep(Path(folder), *arguments)
    return {"jobs": count, "seconds": round(seconds, 2)}


def measure_sweeps(*, tiny: bool) -> tuple[dict[str, Any], list[Verdict]]:
    """The record, and verdicts in seconds."""
    launch = launch_overhead(jobs=2 if tiny else 5, rounds=1 if tiny else 3)
    done = recognise(seeds=2 if tiny else 50)
    verdicts = [
        Verdict.of("seconds to launch a job, imports taken off", "wall", launch["overhead"], 3.0),
        Verdict.of(f"seconds to recognise {done['jobs']} finished jobs", "wall", done["seconds"], 10.0),
    ]
    record = {
        "name": "sweeps",
        "about": "what a sweep costs beside its runs, in seconds of wall time",
        **circumstances(threads=1, packages=("hydra-core", "lightning")),
        "launch": launch,
        "finished": done,
        "goals": [verdict._asdict() for verdict in verdicts],
    }
    return record, verdicts
