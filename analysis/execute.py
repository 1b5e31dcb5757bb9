"""Run the notebooks from their scripts, and keep the executed copies: ``results/report/notebooks/<name>.ipynb``.

    python -m analysis.execute               # all, two at a time (make notebooks)
    python -m analysis.execute luna fam      # these

They run in the repository's folder. Figures land in ``results/figures/`` (``analysis.notebook.show``). A cell that
fails ends its notebook and no other: one line names notebook, cell and error, the copy holds the traceback, the exit
code is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, CellExecutionError, DeadKernelError

from analysis.sync import as_text, notebook_of, scripts

ROOT = Path(__file__).resolve().parents[1]
EXECUTED = ROOT / "results" / "report" / "notebooks"

#: Seconds that one cell may take.
CELL_LIMIT = 600

#: Notebooks that run at once: each is a process that mostly draws.
AT_ONCE = 2


@dataclass(frozen=True)
class Executed:
    """How it went with a notebook."""

    name: str
    """Of its script."""
    path: Path
    """The executed copy."""
    seconds: float
    """That it took, the start of its kernel included."""
    problem: str = ""
    """Cell and error in one line; empty when all cells ran."""


def execute(
    names: Sequence[str] = (), *, folder: Path | None = None, out: Path | None = None, at_once: int = AT_ONCE
) -> list[Executed]:
    """Runs notebooks, all of them whatever fails; says of each how it went.

    Args:
        names: of notebooks; default: all.
        folder: their scripts; default: ``analysis/notebooks``.
        out: for the executed copies; default: ``results/report/notebooks``.
        at_once: that run at the same time.

    Raises:
        ValueError: there is no notebook of such a name, or a script has no cells.
    """
    chosen = [(script, notebook_of(script)) for script in scripts(names, folder)]
    target = out or EXECUTED
    target.mkdir(parents=True, exist_ok=True)
    # Its check of frozen modules, which no notebook here is debugged with, would be printed for each.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")

    async def all_of_them() -> list[Executed]:
        gate = asyncio.Semaphore(at_once)

        async def one(script: Path, notebook: Any) -> Executed:
            async with gate:
                return await _execute_one(script.stem, notebook, target / f"{script.stem}.ipynb")

        return await asyncio.gather(*(one(script, notebook) for script, notebook in chosen))

    return asyncio.run(all_of_them())


async def _execute_one(name: str, notebook: Any, path: Path) -> Executed:
    start = time.perf_counter()
    client = NotebookClient(
        notebook,
        timeout=CELL_LIMIT,
        kernel_name="python3",
        resources={"metadata": {"path": str(ROOT)}},
        record_timing=False,
        # No history of a user, and no warning about the transport to a process of the same machine.
        extra_arguments=["--HistoryManager.enabled=False", "--IPKernelApp.log_level=40"],
    )
    problem, number = "", 0
    try:
        async with client.async_setup_kernel():
            for number, cell in enumerate(notebook.cells, start=1):
                await client.async_execute_cell(cell, number - 1)
    except CellExecutionError as error:
        problem = f"cell {number}: {error.ename}: {_first_line(error.evalue)}"
    except (CellControlSignal, DeadKernelError, RuntimeError, TimeoutError) as error:
        problem = f"cell {number}: {_first_line(str(error))}"
    path.write_text(as_text(notebook), encoding="utf-8")
    return Executed(name, path, time.perf_counter() - start, problem)


def problem_of(notebook: Any) -> str:
    """What an executed copy says went wrong, in one line; empty when all of its cells ran."""
    for number, cell in enumerate(notebook.cells, start=1):
        for output in cell.get("outputs", ()):
            if output.output_type == "error":
                return f"cell {number}: {output.ename}: {_first_line(output.evalue)}"
    return ""


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Run the notebooks, and keep the executed copies.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of notebooks (default: all)")
    chosen = parser.parse_args(arguments)
    try:
        done = execute(chosen.names)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for one in done:
        if one.problem:
            print(f"error: notebook {one.name}, {one.problem}", file=sys.stderr)
        else:
            print(f"{one.name}: {one.seconds:.0f} s")
    return 1 if any(one.problem for one in done) else 0


if __name__ == "__main__":
    raise SystemExit(main())
