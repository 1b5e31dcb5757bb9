"""Gets data ready before any run, and says what there is.

    python -m data.prepare task=all                                 every task, with its options of scale=laptop
    python -m data.prepare task=lm_text scale=paper data.root=DIR   one task, from a folder of yours
    python -m data.prepare task=lra_text task.source=hub            one option of the task, as run.py takes it

Each task locates its data (or downloads or generates them), verifies their checksum and encodes them into the cache;
what is there already costs next to nothing. A preparation that was cut off starts over with the same command, and
what it left half-written is never used. The exit code is 2 when a task's data cannot be had; the other tasks go on.

This is the only file of the room that knows OmegaConf: a task's options come from ``conf/task/<name>.yaml``.
"""

from __future__ import annotations

import difflib
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import data
from data.base import Source, Task, refuse_standin

CONF = Path(__file__).resolve().parents[1] / "conf"
KEYS = ("task", "scale", "data.root", "data.cache", "data.allow_standin")

OK, USER_ERROR, INTERRUPTED = 0, 2, 130


@dataclass(frozen=True)
class Order:
    """What the command line asks for."""

    tasks: tuple[str, ...]
    """Names of tasks."""
    scale: str = "laptop"
    """Column of each task's table of sizes."""
    root: str | None = None
    """Folder that holds data sets; None: $MEMATTN_DATA, if set."""
    cache: str | None = None
    """Folder for encoded data; None: $MEMATTN_CACHE, else ~/.cache/memattn."""
    allow_standin: bool = False
    """Whether scale=paper may do with a stand-in."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the one task that is asked for, in place of those of its file."""


@dataclass(frozen=True)
class Report:
    """What came of one task."""

    task: str
    seconds: float
    source: Source | None = None
    sizes: str = ""
    cached_bytes: int = 0
    problem: str = ""
    """Why its data cannot be had."""

    def cells(self) -> list[str]:
        """Its line of the table."""
        name, standin = (self.source.name, "yes" if self.source.is_standin else "no") if self.source else ("none", "")
        where = self.problem or (self.source.detail if self.source else "")
        return [self.task, name, standin, self.sizes, _size(self.cached_bytes), f"{self.seconds:.1f}", where]


HEADER = ["task", "source", "stand-in", "train / val / test", "in the cache", "seconds", "where"]


def parse(arguments: Sequence[str]) -> Order:
    """Reads ``key=value`` words.

    Raises:
        ValueError: one line that says what is wrong and what would work.
    """
    values: dict[str, str] = {}
    options: list[str] = []
    for text in arguments:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"cannot read '{text}' (there is no '='): write key=value; --help shows how")
        if key.startswith("task."):
            options.append(text.removeprefix("task."))
        elif key in KEYS:
            if value != "null":  # as run.py takes it: the default
                values[key] = value
        else:
            raise ValueError(_unknown("key", key, (*KEYS, "task.<option>")))
    if "task" not in values:
        raise ValueError(f"task=... is missing: all, or one of {', '.join(data.available())}")
    if values["task"] not in ("all", *data.available()):
        raise ValueError(_unknown("task", values["task"], ("all", *data.available())))
    if options and values["task"] == "all":
        raise ValueError(f"task.{options[0]} is an option of one task: name it with task=...")
    scale = values.get("scale", "laptop")
    allow = values.get("data.allow_standin", "false")
    if allow not in ("true", "false"):
        raise ValueError(f"data.allow_standin={allow}: expected true or false")
    if allow == "true" and scale != "paper":
        raise ValueError(
            f"data.allow_standin=true has no effect with scale={scale}: only scale=paper refuses stand-ins"
        )
    return Order(
        tasks=data.available() if values["task"] == "all" else (values["task"],),
        scale=scale,
        root=values.get("data.root"),
        cache=values.get("data.cache"),
        allow_standin=allow == "true",
        options=OmegaConf.to_container(OmegaConf.from_dotlist(options)),  # type: ignore[arg-type]
    )


def task_options(name: str, scale: str, changed: Mapping[str, Any]) -> Any:
    """The options of a task at a scale, as run.py would compose them.

    Raises:
        ValueError: there is no such scale or option, or a value cannot be.
    """
    own: Any = OmegaConf.load(CONF / "task" / f"{name}.yaml")
    if scale not in own.scales:
        raise ValueError(_unknown("scale", scale, list(own.scales)))
    trainer = OmegaConf.load(CONF / "trainer" / "default.yaml")  # its steps are what a curriculum refers to
    composed = OmegaConf.create({"task": own, "size": own.scales[scale], "trainer": trainer})
    values: Any = OmegaConf.to_container(composed.task, resolve=True)
    known = {key: value for key, value in values.items() if key not in ("name", "scales")}
    for key in changed:
        if key not in known:
            raise ValueError(_unknown("key in task", key, list(known)))
    try:
        schema = OmegaConf.structured(data.config_class(name))
        return OmegaConf.to_object(OmegaConf.merge(schema, known, dict(changed)))
    except OmegaConfBaseException as error:
        raise ValueError(f"task={name}: {_first_line(error)}") from error


def prepare(name: str, order: Order) -> Report:
    """Prepares one task; what goes wrong with its data stands in the report."""
    started = time.monotonic()
    source = None
    try:
        options = task_options(name, order.scale, order.options)
        task = data.build_task(name, options, root=order.root, cache=order.cache)
        source = task.locate()
        refuse_standin(name, source, scale=order.scale, allowed=order.allow_standin)
        task.prepare()
        sizes, cached = _sizes(task), _bytes_below(task.cache / name)
    except (ValueError, OSError) as error:
        return Report(name, time.monotonic() - started, source, problem=f"cannot be had: {_first_line(error)}")
    return Report(name, time.monotonic() - started, source, sizes, cached)


def _sizes(task: Task) -> str:
    sizes = task.split_sizes()
    numbers = " / ".join(f"{sizes[split]:,}" for split in ("train", "val", "test") if split in sizes)
    return f"{numbers} {task.unit}" if sizes else "made when asked for"


def _bytes_below(folder: Path) -> int:
    """Everything that the task keeps in the cache, of other sources too."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB" if count else "-"


def _table(rows: Iterable[Sequence[str]]) -> str:
    lines = [HEADER, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _unknown(kind: str, name: str, choices: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, choices, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"unknown {kind} '{name}': {hint}There are: {', '.join(choices)}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def main(arguments: Sequence[str]) -> int:
    """Prepares what is asked for, prints the table, and returns the exit code."""
    if {"--help", "-h"} & set(arguments):
        print(__doc__)
        return OK
    try:
        order = parse(arguments)
        for name in order.tasks:
            task_options(name, order.scale, order.options)  # a wrong setting is found before anything is downloaded
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    reports: list[Report] = []
    try:
        for name in order.tasks:
            print(f"{name}: preparing", file=sys.stderr, flush=True)
            reports.append(prepare(name, order))
    except KeyboardInterrupt:
        print("interrupted: the same command starts this task over, and finds those before it done", file=sys.stderr)
        return INTERRUPTED
    finally:
        if reports:
            print(_table(report.cells() for report in reports), flush=True)
    return USER_ERROR if any(report.problem for report in reports) else OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
