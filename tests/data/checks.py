"""What the tests of all tasks ask in the same words."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from data.base import Task


@contextmanager
def one_clear_line(kind: type[Exception], message: str) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """The block raises such an error, whose text is one line that matches ``message``."""
    with pytest.raises(kind, match=message) as error:
        yield error
    assert "\n" not in str(error.value)


def fastest_batch(task: Task, batch_size: int) -> float:
    """Seconds of the quickest of thirty training batches: the best of many leaves room for a busy machine."""
    times = []
    for step in range(30):
        started = time.perf_counter()
        task.train_batch(step, batch_size)
        times.append(time.perf_counter() - started)
    return min(times)
