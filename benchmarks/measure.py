"""How speed and memory are measured here, and the facts that stand beside every number.

Wall time on a machine that others use says little. What is stable to about 3 % is the *ratio* of two medians
of CPU time, taken on one thread, with the candidates (and a fixed reference step) taking turns in one
process: a slow moment then hits all of them. Memory is what one step adds to the resident size at its peak,
in a process of its own, since a process that has run another candidate already holds the memory that it
needs.
"""

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, NamedTuple

import torch

from experiments.hardware import git_sha, hardware_line
from experiments.measure import Step, clock_of


def take_turns(steps: dict[str, Step], *, rounds: int, threads: int = 1) -> dict[str, list[float]]:
    """Seconds of each step in each round, the candidates taking turns.

    Args:
        steps: One callable for each candidate; each is called once more beforehand, to warm up.
        rounds: How often each is timed.
        threads: With one, CPU time is taken; with more, wall time.
    """
    _, clock = clock_of("cpu", threads)
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


def circumstances(*, threads: int, packages: tuple[str, ...] = ()) -> dict[str, Any]:
    """When, where, and with what something was measured."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_sha(),
        "hardware": hardware_line("cpu"),
        "threads": threads,
        "clock": clock_of("cpu", threads)[0],
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("torch", *packages)},
        },
    }
