"""What the engine adds to a training step over a plain loop, and how much of a step is waiting for data.

The plain loop is what one would write by hand: batch, forward, loss, backward, clip, AdamW. The engine is
``run.py``'s own, whole: Lightning, its loader and hooks, our rows, heartbeat and locks. Both take the same
steps in turns, in CPU time on one thread; a step's time runs from one update of the weights to the next.
"""

import contextlib
import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from benchmarks.measure import Verdict, circumstances
from experiments.config import RunConfig, build_model, build_task
from experiments.hardware import Hardware
from experiments.job import run_job
from experiments.lightning_modules import make_module
from experiments.measure import Timing
from experiments.optim import make_optimizer, set_learning_rate
from experiments.preflight import check_command_line

PAIRS = (("transformer", "lra_text"), ("fam", "passkey"))
WARM_UP = 5


def settings(model: str, task: str, scale: str, steps: int, store: str) -> RunConfig:
    """A run of so many steps that validates at its end only and logs to the store alone."""
    arguments = {
        "model": model,
        "task": task,
        "scale": scale,
        "logger": "none",
        "store.root": store,
        "trainer.progress": "none",
        "trainer.device": "cpu",
        "trainer.steps": steps,
        "trainer.warmup_steps": 0,
        "trainer.val_every": steps,
    }
    return check_command_line([f"{key}={value}" for key, value in arguments.items()])[0]


@contextlib.contextmanager
def optimizer_steps() -> Iterator[list[float]]:
    """CPU times at which optimiser steps begin, whoever takes them, as long as the context lasts."""
    starts: list[float] = []
    handle = register_optimizer_step_pre_hook(lambda *_: starts.append(time.process_time()))
    try:
        yield starts
    finally:
        handle.remove()


def engine_steps(model: str, task: str, scale: str, steps: int) -> list[float]:
    """Seconds of each step of a whole run of the engine, in a store of its own.

    Raises:
        RuntimeError: The run failed; holds what it printed.
    """
    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as store, optimizer_steps() as starts:
        config = settings(model, task, scale, steps, store)
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            code = run_job(config)
    if code:
        raise RuntimeError(f"the engine's run exited {code}: {printed.getvalue()}")
    return gaps(starts)


def plain_steps(model: str, task: str, scale: str, steps: int) -> tuple[list[float], list[float]]:
    """Seconds of each step of a plain loop, and of making each batch."""
    config = settings(model, task, scale, steps, "unused")
    torch.set_num_threads(config.trainer.threads)  # as the engine does; idle ones would spin on this process's clock
    source = build_task(config)
    source.prepare()
    network = build_model(config, source).train()
    module = make_module(source.kind, network, config.trainer, hardware=Hardware("cpu", "32"), seed=0)
    betas = (config.trainer.beta1, config.trainer.beta2)
    optimizer = make_optimizer(network.parameter_groups(config.trainer.weight_decay), betas=betas)
    loading = []
    with optimizer_steps() as starts:
        for step in range(steps):
            begun = time.process_time()
            batch = source.train_batch(step, config.trainer.batch_size)
            loading.append(time.process_time() - begun)
            logits, _ = network(batch.tokens, batch.mask)
            (module.loss(logits, batch) / module.normaliser(batch)).backward()
            nn.utils.clip_grad_norm_(network.parameters(), config.trainer.clip_norm or float("inf"))
            set_learning_rate(optimizer, module.learning_rate(step))
            optimizer.step()
            optimizer.zero_grad()
    return gaps(starts), loading[WARM_UP:]


def gaps(starts: list[float]) -> list[float]:
    """Distances between neighbours, without the first steps, which warm up."""
    return [after - before for before, after in itertools.pairwise(starts)][WARM_UP:]


def compare(model: str, task: str, *, steps: int, rounds: int) -> dict[str, Any]:
    """Engine and plain loop in turns, at smoke size. Means, since a row of metrics falls on few steps."""
    engine: list[float] = []
    plain: list[float] = []
    for _ in range(rounds):
        plain += plain_steps(model, task, "smoke", steps)[0]
        engine += engine_steps(model, task, "smoke", steps)
    added = statistics.mean(engine) - statistics.mean(plain)
    return {
        "model": model,
        "task": task,
        "scale": "smoke",
        "steps": steps * rounds,
        "plain_milliseconds": round(statistics.mean(plain) * 1e3, 3),
        "engine_milliseconds": round(statistics.mean(engine) * 1e3, 3),
        "added_milliseconds": round(added * 1e3, 3),
        "added_milliseconds_median": round((Timing.of(engine).median - Timing.of(plain).median) * 1e3, 3),
        "engine_over_plain": round(statistics.mean(engine) / statistics.mean(plain), 3),
    }


def data_share(model: str, task: str, scale: str, *, steps: int) -> dict[str, Any]:
    """How much of a plain step is making the batch."""
    seconds, loading = plain_steps(model, task, scale, steps)
    share = statistics.mean(loading) / statistics.mean(seconds)
    return {
        "model": model,
        "task": task,
        "scale": scale,
        "batch_milliseconds": round(statistics.mean(loading) * 1e3, 4),
        "step_milliseconds": round(statistics.mean(seconds) * 1e3, 3),
        "share": round(share, 5),
    }


def measure_overhead(*, tiny: bool) -> tuple[dict[str, Any], list[Verdict]]:
    """The record, and verdicts on the share of data loading; the engine's part is stated, without a goal."""
    steps, rounds = (12, 1) if tiny else (300, 3)
    scales = ("smoke",) if tiny else ("smoke", "laptop")
    overhead = [compare(model, task, steps=steps, rounds=rounds) for model, task in PAIRS]
    shares = [data_share(model, task, scale, steps=min(steps, 40)) for model, task in PAIRS for scale in scales]
    verdicts = [
        Verdict.of(f"engine / plain loop, {row['model']} {row['task']}", "time", row["engine_over_plain"], None)
        for row in overhead
    ] + [
        Verdict.of(f"batch / step, {row['model']} {row['task']} {row['scale']}", "time", row["share"], 0.02)
        for row in shares
    ]
    record = {
        "name": "overhead",
        "about": "what the engine adds to a step over a plain loop, and the share of data loading",
        **circumstances(threads=1, packages=("lightning",)),
        "overhead": overhead,
        "data_loading": shares,
        "goals": [verdict._asdict() for verdict in verdicts],
    }
    return record, verdicts
