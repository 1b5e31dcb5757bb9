"""What a run will take, judged by what earlier runs of the store took: seconds a step, bytes on disk.

Only result.json of the tasks in question is read, once each; sizes on disk only of runs of the very kind that is asked
for. Importing this module loads neither torch nor Lightning.
"""

from __future__ import annotations

import heapq
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

#: Bytes of a parameter as it is stored, and of one in a training checkpoint: itself and AdamW's two means.
_WEIGHT = 4
_TRAINED = 3 * _WEIGHT
#: Training checkpoints that a run keeps: the last, and the one before it.
_KEPT = 2
#: Measured on runs at scale=smoke: a row of metrics.jsonl, and everything that does not grow with steps or parameters.
_ROW = 360
_REST = 224 * 1024
#: Finished runs of one kind whose sizes on disk are looked at.
_SAMPLES = 5


class Kind(NamedTuple):
    """Runs that take the same time a step."""

    variant: str
    task: str
    scale: str
    device: str


class Past(NamedTuple):
    """What is known of a finished run."""

    kind: Kind
    num_params: int
    seconds: float
    """Of one step, validations and checkpoints included."""
    folder: Path


class Pace(NamedTuple):
    """How long a step takes."""

    seconds: float
    is_own: bool
    """From runs of the same variant and device; else from any of the same task and scale."""


class History:
    """The finished runs of some tasks.

    Args:
        runs: the folder of runs.
        tasks: names of the tasks that will be asked for.
    """

    def __init__(self, runs: Path, tasks: Iterable[str]) -> None:
        self._own: dict[Kind, list[Past]] = defaultdict(list)
        self._any: dict[tuple[str, str], list[Past]] = defaultdict(list)
        for task in sorted(set(tasks)):
            for past in _finished(runs / task):
                self._own[past.kind].append(past)
                self._any[past.kind.task, past.kind.scale].append(past)
        self.bytes_of = cache(self._bytes_of)

    def pace(self, kind: Kind) -> Pace | None:
        """The median of finished runs, or None where there are none."""
        own, others = self._own.get(kind), self._any.get((kind.task, kind.scale))
        if own:
            return Pace(median(past.seconds for past in own), True)
        return Pace(median(past.seconds for past in others), False) if others else None

    def _bytes_of(self, kind: Kind, num_params: int) -> int | None:
        """Size on disk of a finished run of this kind and size, or None where there is none."""
        alike = [past for past in self._any.get((kind.task, kind.scale), []) if past.kind.variant == kind.variant]
        sizes = [bytes_below(past.folder) for past in alike if past.num_params == num_params][:_SAMPLES]
        return round(median(sizes)) if sizes else None


def checkpoint_bytes(num_params: int, *, num_rows: int) -> int:
    """What a run will hold on disk, by its size: best weights, training checkpoints, metrics and the rest."""
    return (_WEIGHT + _KEPT * _TRAINED) * num_params + _ROW * num_rows + _REST


def bytes_below(folder: Path) -> int:
    """Bytes of all files in a folder; what vanishes meanwhile does not count."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:
                continue
    return total


def makespan(seconds: Sequence[float], places: int) -> float:
    """How long jobs take that start in order, each on the first free one of ``places``."""
    ends = [0.0] * max(1, places)
    for length in seconds:
        heapq.heapreplace(ends, ends[0] + length)
    return max(ends)


def _finished(task: Path) -> Iterator[Past]:
    """All finished runs of a task whose result says how long it took."""
    for path in task.glob("*/*/result.json"):
        try:
            result: Any = json.loads(path.read_bytes())
            steps, wall = result["steps"], result["wall_seconds"]
            names = (str(result[name]) for name in ("variant", "task", "scale", "device"))
            if steps > 0 and wall >= 0:
                yield Past(Kind(*names), int(result["num_params"]), wall / steps, path.parent)
        except (OSError, ValueError, KeyError, TypeError):  # torn, or from before these were stored
            continue
