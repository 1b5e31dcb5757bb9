"""How speed and memory are measured here, and the facts that stand beside every number.

Wall time on a machine that others use says little. What is stable to about 3 % is the *ratio* of two medians
of CPU time, taken on one thread, with the candidates (and a fixed reference step) taking turns in one
process: a slow moment then hits all of them. Memory is what one step adds to the resident size at its peak,
in a process of its own, since a process that has run another candidate already holds the memory that it
needs.
"""

import contextlib
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from experiments.hardware import git_sha, hardware_line

Step = Callable[[], object]
Result = TypeVar("Result")


def take_turns(steps: dict[str, Step], *, rounds: int, threads: int = 1) -> dict[str, list[float]]:
    """Seconds of each step in each round, the candidates taking turns.

    Args:
        steps: One callable for each candidate; each is called once more beforehand, to warm up.
        rounds: How often each is timed.
        threads: With one, CPU time is taken, which other work on the machine hardly disturbs. With more, wall
            time: CPU time would count all threads' work, so that only a quiet machine tells the truth.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for step in steps.values():
            step()
        for _ in range(rounds):
            for name, step in steps.items():
                start = clock()
                step()
                seconds[name].append(clock() - start)
    finally:
        torch.set_num_threads(before)
    return seconds


class Timing(NamedTuple):
    """What several measurements of one step come to."""

    median: float
    spread: float
    """Distance between the quartiles as a share of the median: what to believe of the second digit."""

    @classmethod
    def of(cls, seconds: list[float]) -> "Timing":
        """Median and spread of a list of seconds."""
        median = statistics.median(seconds)
        if len(seconds) < 2 or not median:
            return cls(median, 0.0)
        low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
        return cls(median, (high - low) / median)


class Verdict(NamedTuple):
    """One ratio and its goal."""

    what: str
    measure: str
    ratio: float
    goal: float | None
    met: bool | None

    @classmethod
    def of(cls, what: str, measure: str, ratio: float, goal: float | None) -> "Verdict":
        """Compare; without a goal there is nothing to meet."""
        return cls(what, measure, round(ratio, 4), goal, None if goal is None else ratio <= goal)


def in_fresh_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a module's function in a new interpreter: nothing measured before leaves a trace in its memory."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_memory(step: Step) -> tuple[int, int]:
    """Bytes resident before the step, and at most during it.

    Linux can forget the peak so far and is exact. Elsewhere the peak since the start of the process is all
    there is, so that a step smaller than what came before it (the import of torch) counts too little.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        before = _status_bytes("VmRSS")
        step()
        return before, max(before, _status_bytes("VmHWM"))
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    step()
    return before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status_bytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key + ":")).split()[1]) * 1024


def circumstances(*, threads: int, packages: tuple[str, ...] = ()) -> dict[str, Any]:
    """When, where, and with what something was measured."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_sha(),
        "hardware": hardware_line("cpu"),
        "threads": threads,
        "clock": "CPU time" if threads == 1 else "wall time",
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("torch", *packages)},
        },
    }
