"""Time and memory of a step, as little disturbed as one process can have it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

Step = Callable[[], object]
Result = TypeVar("Result")


class Timing(NamedTuple):
    """What several measurements of one step come to."""

    median: float
    spread: float
    """Distance between the quartiles as a share of the median: what to believe of the second digit."""

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        """Median and spread of a list of seconds."""
        median = statistics.median(seconds)
        if len(seconds) < 2 or not median:
            return cls(median, 0.0)
        low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
        return cls(median, (high - low) / median)


def in_fresh_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a module's function in a process of its own: nothing measured before leaves a trace in its memory."""
    with ProcessPoolExecutor(max_workers=1, mp_context=_processes(function.__module__)) as pool:
        return pool.submit(function, *arguments).result()


def _processes(module: str) -> BaseContext:
    """Forked from a process that has imported the module and done nothing else; imports take seconds."""
    if sys.platform == "win32":
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([module])  # heard by the first call only; then, others import on their own
    return context


def peak_memory(step: Step, device: str = "cpu") -> tuple[int, int]:
    """Bytes in use before the step, and at most during it.

    What earlier steps have freed is given back to the system first: else it would be used again unseen. Linux can
    forget the peak so far and is exact. Elsewhere the peak since the start of the process is all there is, so that a
    step smaller than what came before it (the import of torch) counts too little.
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return before, torch.cuda.max_memory_allocated()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc's own; others have none
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


def clock_of(device: str, threads: int) -> tuple[str, Callable[[], float]]:
    """What a step on a device is timed by, and its name.

    With one thread CPU time is taken, which other work on the machine hardly disturbs. With more, wall time: CPU time
    would count all threads' work, so that only a quiet machine tells the truth.
    """
    if device == "cpu" and threads == 1:
        return "CPU time", time.process_time
    return "wall time", time.perf_counter


def repeat(
    step: Step, *, clock: Callable[[], float], device: str, budget: float, most: int = 15, least: int = 3
) -> list[float]:
    """Seconds of each repetition, until the budget (in seconds) is spent.

    Args:
        step: Already warm.
        clock: Seconds.
        device: Waited for.
        budget: After so many seconds no further repetition starts.
        most: Repetitions.
        least: Repetitions; one, where a single one takes the whole budget.
    """
    seconds: list[float] = []
    while len(seconds) < most:
        start = clock()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - start)
        spent = sum(seconds)
        if spent >= budget and (len(seconds) >= least or seconds[0] >= budget):
            break
    return seconds
