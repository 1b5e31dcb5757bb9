"""Compare our speed and memory with peers, with textbook forms, and with ourselves at other lengths.

    make bench                                             # everything, into results/benchmarks/<name>.json
    python -m benchmarks.variants --only luna fam          # some
    python -m benchmarks.variants --tiny                   # does it run? seconds, and nothing is written

The goals are recorded beside what was reached and never asserted: they depend on the machine, which should be
quiet.
"""

import argparse
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.cases import comparisons
from benchmarks.comparison import Candidate, Comparison, Goal, outputs
from benchmarks.layers import Reference
from benchmarks.measure import Verdict, circumstances, take_turns
from benchmarks.memory import added_memory, measure_streaming
from experiments.measure import Timing, in_fresh_process

FOLDER = Path(__file__).resolve().parent.parent / "results" / "benchmarks"
REFERENCE = "reference"

#: Measured by modules of their own, on one thread.
ALONE = ("streaming", "overhead", "generation", "sweeps")


def measure(name: str, *, tiny: bool, threads: int, rounds: int | None) -> tuple[dict[str, Any], list[Verdict]]:
    """One comparison's record and its verdicts."""
    comparison = comparisons(tiny=tiny)[name]
    differences = {f"{a} - {b}": check_same(comparison, a, b) for a, b in comparison.same}
    load_before = os.getloadavg()[0]
    timings = time_candidates(comparison, rounds=rounds or comparison.rounds, threads=threads)
    memory = {candidate: in_fresh_process(added_memory, name, candidate, tiny) for candidate in comparison.weighed}
    verdicts = [verdict for goal in comparison.goals for verdict in judge(goal, comparison, timings, memory)]
    record = {
        "name": name,
        "about": comparison.about,
        **circumstances(threads=threads, packages=comparison.packages),
        "load_average_before": round(load_before, 2),
        "rounds": rounds or comparison.rounds,
        "largest_difference": differences,
        "candidates": describe(comparison, timings, memory),
        "goals": [verdict._asdict() for verdict in verdicts],
    }
    return record, verdicts


def check_same(comparison: Comparison, a: str, b: str) -> float:
    """The largest difference between what two candidates compute.

    Raises:
        RuntimeError: They compute different things, so that comparing their speed says nothing.
    """
    pairs = zip(outputs(comparison.candidates[a]), outputs(comparison.candidates[b]), strict=True)
    difference = max((x - y).abs().max().item() for x, y in pairs)
    if difference > 1e-4:
        raise RuntimeError(f"{a} and {b} differ by {difference:.1e}: their speed cannot be compared")
    return difference


def time_candidates(comparison: Comparison, *, rounds: int, threads: int) -> dict[str, Timing]:
    """Timings of the candidates and of the reference step of the first one's shape."""
    candidates = {REFERENCE: Candidate(Reference, comparison.reference_shape), **comparison.candidates}
    steps = {name: candidate.step() for name, candidate in candidates.items()}
    return {name: Timing.of(seconds) for name, seconds in take_turns(steps, rounds=rounds, threads=threads).items()}


def judge(goal: Goal, comparison: Comparison, timings: dict[str, Timing], memory: dict[str, int]) -> list[Verdict]:
    """Ratios per token of time and, where it was measured, of added memory."""
    what = f"{goal.ours} / {goal.theirs}"
    tokens = {name: comparison.candidates[name].shape.num_tokens for name in (goal.ours, goal.theirs)}

    def ratio(amounts: dict[str, float]) -> float:
        ours, theirs = (amounts[name] / tokens[name] for name in (goal.ours, goal.theirs))
        return ours / theirs if theirs else math.nan  # a step too small to add memory

    verdicts = [Verdict.of(what, "time", ratio({name: timing.median for name, timing in timings.items()}), goal.time)]
    if goal.memory is not None:
        verdicts.append(Verdict.of(what, "memory", ratio({k: float(v) for k, v in memory.items()}), goal.memory))
    return verdicts


def describe(comparison: Comparison, timings: dict[str, Timing], memory: dict[str, int]) -> dict[str, Any]:
    """What was measured of each candidate, in units that a person reads."""
    reference = comparison.reference_shape.num_tokens / timings[REFERENCE].median
    rows = {REFERENCE: comparison.reference_shape} | {k: c.shape for k, c in comparison.candidates.items()}
    described = {}
    for name, shape in rows.items():
        speed = shape.num_tokens / timings[name].median
        described[name] = {
            "shape": shape._asdict(),
            "milliseconds": round(timings[name].median * 1e3, 3),
            "spread": round(timings[name].spread, 3),
            "tokens_per_second": round(speed),
            "cost_of_reference": round(reference / speed, 3),
        }
        if name in memory:
            described[name]["added_megabytes"] = round(memory[name] / 2**20, 1)
    return described


def show(verdicts: dict[str, list[Verdict]]) -> None:
    """Print one line for each ratio."""
    table = Table("comparison", "ratio of", "measure", "ratio", "goal", "met")
    for name, rows in verdicts.items():
        for row in rows:
            goal = "-" if row.goal is None else f"<= {row.goal}"
            met = "-" if row.met is None else "yes" if row.met else "no"
            table.add_row(name, row.what, row.measure, f"{row.ratio:.3f}", goal, met)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def measure_any(name: str, chosen: argparse.Namespace) -> tuple[dict[str, Any], list[Verdict]]:
    """The record and the verdicts of whatever is called ``name``."""
    if name == "streaming":
        return measure_streaming(tiny=chosen.tiny)
    if name == "generation":
        from benchmarks.generation import measure_generation  # needs numba, which the others do not

        return measure_generation(tiny=chosen.tiny)
    if name == "overhead":
        from benchmarks.overhead import measure_overhead  # imports Lightning, which takes seconds

        return measure_overhead(tiny=chosen.tiny)
    if name == "sweeps":
        from benchmarks.sweeps import measure_sweeps

        return measure_sweeps(tiny=chosen.tiny)
    return measure(name, tiny=chosen.tiny, threads=chosen.threads, rounds=chosen.rounds)


def main(arguments: list[str] | None = None) -> None:
    """Measure, write, print."""
    names = (*comparisons(), *ALONE)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--tiny", action="store_true", help="sizes that only prove that it runs; write nothing")
    parser.add_argument("--threads", type=int, default=1, help="of comparisons; more than one takes wall time")
    parser.add_argument("--rounds", type=int, help="how often each step is timed (default: the comparison's own)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the records (default results/benchmarks)")
    chosen = parser.parse_args(arguments)

    verdicts = {}
    for name in chosen.only:
        print(f"measuring {name} ...", flush=True)
        record, verdicts[name] = measure_any(name, chosen)
        if not chosen.tiny:
            chosen.folder.mkdir(parents=True, exist_ok=True)
            (chosen.folder / file_name(name, chosen.threads)).write_text(json.dumps(record, indent=2) + "\n")
    show(verdicts)


def file_name(name: str, threads: int) -> str:
    """Comparisons with several threads are kept beside those with one."""
    alone = threads == 1 or name in ALONE
    return f"{name}.json" if alone else f"{name}-{threads}threads.json"


if __name__ == "__main__":
    main()
