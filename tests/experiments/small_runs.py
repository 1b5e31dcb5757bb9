"""Small real runs for tests: settings from conf/, generated reviews, and runs in processes that can be killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import pkgutil
import signal
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hydra import compose, initialize_config_dir

from experiments.config import RunConfig, build_run_config, build_task, register_resolvers
from experiments.settings import REPOSITORY
from experiments.store import RunFolder, run_folder

#: What may differ between two runs of the same settings: times, and what they are made from.
VOLATILE = (
    "time",
    "attempt",
    "attempts",
    "tokens_per_second",
    "wall_seconds",
    "peak_memory_bytes",
    "run_id",
)

#: What costs seconds to import; processes for tests are forked from one that has done so.
_PRELOAD = [
    "experiments.train",
    "experiments.job",
    "matplotlib.backends.backend_agg",
    "sympy",
    "tests.experiments.small_runs",
    "tests.faults.harness",
    "torch._dynamo",
]

TINY = (
    "scale=smoke",
    "logger=none",
    "trainer.progress=none",
    "trainer.steps=12",
    "trainer.val_every=4",
    "trainer.log_every=3",
    "trainer.checkpoint_every=2",
    "trainer.warmup_steps=2",
)


def settings(results: Path, *overrides: str) -> RunConfig:
    """Typed settings of a tiny run whose results go to a folder of the test's own."""
    register_resolvers()
    own = [f"store.root={results}", f"data.cache={results / 'cache'}"]
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3", job_name="run"):
        return build_run_config(compose("config", [*TINY, *own, *overrides]))


def folder_of(config: RunConfig) -> RunFolder:
    """Where a run is stored."""
    return run_folder(config, build_task(config).locate())


def write_reviews(root: Path, *, count: int = 400) -> Path:
    """Reviews in the schema of ``stanfordnlp/imdb`` whose words tell their label, most of the time."""
    rng = np.random.default_rng(0)
    words = {0: ("dull", "awful", "boring"), 1: ("great", "lovely", "moving")}
    (root / "imdb").mkdir(parents=True)
    for split in ("train", "test"):
        labels = np.arange(count) % 2
        texts = [" ".join(rng.choice(("the", "film", "plot", *words[int(label)]), 30)) for label in labels]
        texts = [f"{split} {number}: {text}" for number, text in enumerate(texts)]
        pq.write_table(pa.table({"text": texts, "label": labels}), root / "imdb" / f"{split}.parquet")
    return root


class Sabotage(NamedTuple):
    """A signal that a process sends itself around the n-th call of a function."""

    target: str  # "package.module:function" or "package.module:Class.method"
    call: int = 1
    when: Literal["before", "after", "halfway"] = "after"  # halfway: of Path.write_bytes
    number: int = signal.SIGKILL

    def arm(self) -> None:
        """Puts the trap into this process."""
        original, calls = pkgutil.resolve_name(self.target), 0

        def trapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls != self.call:
                return original(*args, **kwargs)
            if self.when == "halfway":
                path, content = args
                original(path, bytes(content)[: len(content) // 2])
            if self.when == "after":
                result = original(*args, **kwargs)
                os.kill(os.getpid(), self.number)
                return result
            os.kill(os.getpid(), self.number)
            return original(*args, **kwargs)

        module, _, path = self.target.partition(":")
        owner, _, name = path.rpartition(".")
        setattr(pkgutil.resolve_name(f"{module}:{owner}" if owner else module), name, trapped)


def run_here(config: RunConfig) -> int:
    """The exit code of a run in this process."""
    from experiments.job import run_job

    return run_job(config)


def run_apart(config: RunConfig, sabotage: Sabotage | None = None, *, kill_after: float = 120.0) -> int:
    """The exit code of a run in a process of its own; minus the signal's number if one killed it.

    Args:
        config: its settings.
        sabotage: when it is to stop itself.
        kill_after: seconds after which it is killed from outside.
    """
    return end_of(start_apart(_child, config, sabotage), kill_after=kill_after)


def start_apart(work: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Starts a process with all that is slow to import, where a function of a module works."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    process = context.Process(target=work, args=arguments)
    process.start()
    return process


def end_of(process: ForkServerProcess, *, kill_after: float = 120.0) -> int:
    """Its exit code; minus the signal's number if one killed it."""
    process.join(kill_after)
    if process.exitcode is None:
        process.kill()
        process.join()
    assert process.exitcode is not None
    return process.exitcode


def _child(config: RunConfig, sabotage: Sabotage | None) -> None:
    if sabotage is not None:
        sabotage.arm()
    raise SystemExit(int(run_here(config)))


def lasting(values: dict[str, Any]) -> dict[str, Any]:
    """What two runs of the same settings must have in common."""
    return {key: value for key, value in values.items() if key not in VOLATILE}


def outcome(folder: RunFolder) -> dict[str, Any]:
    """Everything of a finished run that must not depend on how often it was cut off."""
    result = json.loads(folder.result_file.read_text())
    return {
        "result": lasting(result),
        "metrics": [lasting(row) for row in folder.metrics()],
        "slices": folder.slices_file.read_text(),
    }


def rows(folder: RunFolder, split: str) -> Iterator[dict[str, Any]]:
    """The rows of one split."""
    return (row for row in folder.metrics() if row["split"] == split)
