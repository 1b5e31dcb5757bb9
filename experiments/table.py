"""The one table at the end of a sweep: every job with its score, the interval around it, its size, speed and state.

Scores on different data (``imdb`` and ``imdb-train25k``, or a stand-in) or scales never share a group. With several
seeds of one setting a line with their mean follows.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.intervals import bootstrap, wilson
from experiments.progress import clock_time
from experiments.redact import redact
from experiments.store import RunFolder


class Interval(NamedTuple):
    """A 95 % interval, and over what it was taken."""

    low: float
    high: float
    kind: str  # "seeds" (percentile bootstrap of their mean) or "examples" (Wilson, one seed)


@dataclass(frozen=True)
class Row:
    """One job of a sweep."""

    variant: str
    """Name or preset of the model."""
    task: str
    """Name of the task."""
    seed: int
    """Seed."""
    status: str
    """ok, skipped, failed, out of memory, interrupted, locked or not started."""
    settings: str = ""
    """What else the sweep varied, such as ``trainer.learning_rate=0.001``."""
    message: str = ""
    """Why there is no score."""
    data: str = ""
    """The data in one line: where they were found, and how to get the official ones."""
    folder: Path | None = None
    """Where the run lies."""
    result: Mapping[str, Any] = field(default_factory=dict)
    """result.json; empty without a result."""

    @property
    def metric(self) -> str:
        """Name of the headline metric."""
        return str(self.result.get("metric", ""))

    @property
    def score(self) -> float | None:
        """The headline on the test split."""
        value = self.result.get(f"test/{self.metric}")
        return float(value) if isinstance(value, int | float) else None

    @property
    def larger_is_better(self) -> bool:
        """Which way the headline goes. Results from before this was stored have shares only."""
        return bool(self.result.get("larger_is_better", True))

    @property
    def test(self) -> str:
        """The headline and, if it is a loss, the way it goes."""
        return self.metric if self.larger_is_better else f"{self.metric} (less is better)"

    @property
    def group(self) -> tuple[str, str, str]:
        """What must agree for scores to be comparable: task, data and scale."""
        return self.task, str(self.result.get("data_source", "")), str(self.result.get("scale", ""))

    @property
    def setting(self) -> tuple[str, ...]:
        """What all seeds of one setting share."""
        return (*self.group, self.variant, self.settings, str(self.result.get("config_hash", "")))


def interval(rows: Sequence[Row]) -> Interval | None:
    """The interval around the mean of one setting's seeds, or around one seed's score where that can be known."""
    scores = [row.score for row in rows if row.score is not None]
    if len(scores) > 1:
        return Interval(*bootstrap(scores), "seeds")
    if not scores:
        return None
    row = next(row for row in rows if row.score is not None)
    n = _examples_behind(row)
    return Interval(*wilson(scores[0], n), "examples") if n else None


def _examples_behind(row: Row) -> int | None:
    """How many test examples the headline is the mean of, where that is beyond doubt.

    A task may score more (longer prompts) than its headline counts, and an interval over too many examples would look
    too sure. So the slices must add up to the headline, and not each of them alone.
    """
    n, score = row.result.get("test/n"), row.score
    if not n or score is None or row.folder is None or not row.larger_is_better:  # a loss is no share of examples
        return None
    with suppress(OSError, KeyError, ValueError):
        with RunFolder(row.folder).slices_file.open(encoding="utf-8") as handle:
            slices = [(float(line["n"]), float(line[row.metric])) for line in csv.DictReader(handle)]
        adds_up = math.isclose(sum(count * value for count, value in slices) / n, score, abs_tol=1e-9)
        ambiguous = len(slices) > 1 and all(value == score for _, value in slices)
        return int(n) if adds_up and not ambiguous else None
    return None


def format_table(rows: Sequence[Row]) -> str:
    """The table as aligned plain text, with notes and floors."""
    return "\n".join([format_columns(*_cells(rows)), *_notes(rows)])


def print_table(rows: Sequence[Row]) -> None:
    """Prints the table with its notes: drawn on a terminal, plain elsewhere."""
    print_columns(*_cells(rows))
    for note in _notes(rows):
        print(note, flush=True)


def format_columns(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Aligned plain text. An empty line of ``body`` becomes a rule."""
    widths = [max(len(line[column]) for line in [header, *body] if line) for column in range(len(header))]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [_align(line, header, widths) if line else rule for line in [header, [], *body]]
    return "\n".join(lines)


def print_columns(header: Sequence[str], body: Sequence[Sequence[str]]) -> None:
    """Prints columns: drawn by rich on a terminal, as plain text elsewhere."""
    if not sys.stdout.isatty():
        print(format_columns(header, body), flush=True)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in header:
        table.add_column(name, justify="left" if name in _WORDS else "right", overflow="fold")
    for line in body:
        if line:
            table.add_row(*line)
        else:
            table.add_section()
    Console(highlight=False, markup=False).print(table)


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """One line per job with everything that result.json holds."""
    own = [
        {
            "variant": row.variant,
            "task": row.task,
            "seed": row.seed,
            "settings": redact(row.settings),
            "job_status": row.status,
            "message": redact(row.message),
            "folder": str(row.folder or ""),
        }
        for row in rows
    ]
    lines = [{**row.result, **line} for row, line in zip(rows, own, strict=True)]
    columns = list(dict.fromkeys([*own[0], *(column for line in lines for column in line)]))
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


#: Columns of words; the others hold numbers.
_WORDS = frozenset(("variant", "task", "data", "settings", "test", "status", "run", "what would happen"))
_WORDS |= {"model", "preset of", "paper (arXiv)", "job", "state", "sweep", "launcher", "validation", "best values"}


def _cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and body as text. An empty line stands between groups that must not be compared."""
    header = ["variant", "task", "data", "seed", "test", "score", "95 % interval", "floor"]
    header += ["parameters", "state size", "tokens/s", "peak memory", "time", "run", "status"]
    body: list[list[str]] = []
    for index, (_, group) in enumerate(groupby(sorted(rows, key=_order), key=lambda row: row.group)):
        body += [[]] if index else []
        for _, setting in groupby(group, key=lambda row: row.setting):
            seeds = list(setting)
            body += [_job_cells(row) for row in seeds]
            if sum(row.score is not None for row in seeds) > 1:
                body.append(_mean_cells(seeds))
    if any(row.settings for row in rows):
        header.insert(3, "settings")
    else:
        body = [line and line[:3] + line[4:] for line in body]
    return header, body


def _order(row: Row) -> tuple[Any, ...]:
    return (*row.setting, row.seed)


def _job_cells(row: Row) -> list[str]:
    result = row.result
    return [
        row.variant,
        row.task,
        str(result.get("data_source", "")),
        row.settings,
        str(row.seed),
        row.test,
        _number(row.score, ".4f"),
        _format_interval(interval([row])),
        _floor(result),
        *_size_cells(result),
        _number(result.get("tokens_per_second"), ",.0f"),
        _bytes(result.get("peak_memory_bytes")),
        clock_time(result["wall_seconds"]) if result.get("wall_seconds") is not None else "",
        row.folder.name if row.folder else "",
        row.status,
    ]


def _mean_cells(rows: Sequence[Row]) -> list[str]:
    row = rows[0]
    scores = [row.score for row in rows if row.score is not None]
    head = [row.variant, row.task, str(row.result.get("data_source", "")), row.settings]
    mean = _number(float(np.mean(scores)), ".4f")
    score = [f"mean of {len(scores)}", row.test, mean, _format_interval(interval(rows))]
    return [*head, *score, _floor(row.result), *_size_cells(row.result), "", "", "", "", ""]


def _floor(result: Mapping[str, Any]) -> str:
    """The first of the task's floors, which is that of its headline; the notes name them all."""
    return _number(next((value for key, value in result.items() if key.startswith("floor/")), None), ".4g")


def _size_cells(result: Mapping[str, Any]) -> list[str]:
    return [_number(result.get("num_params"), ",.0f"), _number(result.get("state_size"), ",.0f")]


def _notes(rows: Sequence[Row]) -> Iterator[str]:
    """Floors, what the intervals mean, and why jobs have no score; without keys and passwords."""
    yield from map(redact, _remarks(rows))


def _remarks(rows: Sequence[Row]) -> Iterator[str]:
    yield from _floors(rows)
    kinds = {found.kind for row in rows if (found := interval([row]))}
    if "examples" in kinds:
        yield "interval of one seed: Wilson, over test examples (how sure this model's score is; not how runs differ)"
    settings = groupby(sorted(rows, key=_order), key=lambda row: row.setting)
    if any(sum(row.score is not None for row in group) > 1 for _, group in settings):
        yield "interval of a mean: percentile bootstrap over seeds"
    yield from dict.fromkeys(f"data of {row.task}: {row.data}" for row in rows if row.data)
    for row in rows:
        if row.message:
            yield f"{row.status}: {row.variant} {row.task} s{row.seed}: {row.message}"


def _floors(rows: Iterable[Row]) -> Iterator[str]:
    """What trivial solutions reach, for each group."""
    for (task, source, scale), group in groupby(sorted(rows, key=_order), key=lambda row: row.group):
        result = next((row.result for row in group if row.result), {})
        floors = [f"{key[6:]} {value:.4g}" for key, value in result.items() if key.startswith("floor/")]
        if floors:
            yield f"floors of {task} ({source}, {scale}): {', '.join(floors)}"


def _align(cells: Sequence[str], header: Sequence[str], widths: Sequence[int]) -> str:
    """Words to the left, numbers to the right."""
    padded = [
        cell.ljust(width) if name in _WORDS else cell.rjust(width)
        for cell, name, width in zip(cells, header, widths, strict=True)
    ]
    return "  ".join(padded).rstrip()


def _format_interval(found: Interval | None) -> str:
    return f"{found.low:.4f} to {found.high:.4f}" if found else ""


def _number(value: Any, spec: str) -> str:
    return format(value, spec) if isinstance(value, int | float) else ""


def size_text(count: float) -> str:
    """Bytes as people read them: 640 KiB, 1.5 GiB."""
    unit, *larger = ("B", "KiB", "MiB", "GiB", "TiB")
    while abs(count) >= 1024 and larger:
        count, (unit, *larger) = count / 1024, larger
    return f"{count:,.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"


def _bytes(value: Any) -> str:
    return f"{value / 2**20:,.0f} MiB" if isinstance(value, int | float) else ""
