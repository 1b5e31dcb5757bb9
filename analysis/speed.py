"""The table of speed and memory as ratios, from the records that ``make bench`` leaves.

make bench                # measure into results/benchmarks/
python -m analysis.speed  # redraw the table from those files alone
"""

import argparse
import json
import re
from itertools import groupby
from pathlib import Path
from typing import Any

from analysis.readme import BENCHMARKS, markdown, write_section

FOLDER = BENCHMARKS.parent


def load(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """All records by name. Those with several threads stay out, as they are no CPU times, and those without goals."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return [record for record in records if record["threads"] == 1 and "goals" in record]


def speed_table(records: list[dict[str, Any]]) -> str:
    """One line for each pair of candidates: ratios of time and of added memory, with the goals."""
    lines = []
    for record in records:
        about = record["about"]
        for what, goals in groupby(record["goals"], key=lambda goal: goal["what"]):
            cells = {_column(goal["measure"]): _cell(goal) for goal in goals}
            lines.append([about, what, cells.get("time", ""), cells.get("memory", ""), str(record["commit"])[:7]])
            about = ""
    return markdown(["what", "ratio of", "time (goal)", "memory (goal)", "commit"], lines)


def _column(measure: str) -> str:
    return "memory" if "memory" in measure else "time"


def _cell(goal: dict[str, Any]) -> str:
    """The ratio with its goal; a goal that was missed stands out."""
    ratio = f"{goal['ratio']:.2f}" if goal["ratio"] >= 0.1 else f"{goal['ratio']:.3f}"
    if goal["goal"] is None:
        return ratio
    return f"{ratio} ({goal['goal']:g})" if goal["met"] else f"**{ratio}** ({goal['goal']:g}, missed)"


def report(records: list[dict[str, Any]]) -> str:
    """The section of results/benchmarks/README.md."""
    machines = sorted({re.sub(r", (torch threads.*|\d+ threads used)$", "", record["hardware"]) for record in records})
    goals = [goal for record in records for goal in record["goals"] if goal["goal"] is not None]
    met = sum(goal["met"] for goal in goals)
    text = (
        "One training step (forward and backward) as a ratio within one run, one thread, CPU time; memory is what the "
        f"step adds at its peak. {', '.join(machines)}. {met} of {len(goals)} goals are met. Each file beside this "
        "page holds sizes, versions, spread and load."
    )
    return f"{text}\n\n{speed_table(records)}"


def main() -> None:
    """Command line: see the module's docstring."""
    argparse.ArgumentParser(description="Table of speed and memory against peers.").parse_args()
    write_section("speed", report(load()), BENCHMARKS)
    print("wrote the speed section of results/benchmarks/README.md")


if __name__ == "__main__":
    main()
