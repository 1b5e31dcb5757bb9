"""Options that join a task after runs of it were stored.

The identity of a run is made from all options of its task. An option that is marked as :func:`added` stays out of it
while it keeps its default, which stands for how the task was before: so earlier runs keep their names, and are found.
"""

from __future__ import annotations

from dataclasses import asdict, field, fields
from typing import Any

_MARK = {"added": True}


def added(default: Any) -> Any:
    """A dataclass field that came later; ``default`` must mean what the task did without it."""
    return field(default=default, metadata=_MARK)


def identifying(config: Any) -> dict[str, Any]:
    """The options of a task, as plain values, that tell its runs apart."""
    silent = {
        item.name for item in fields(config) if item.metadata == _MARK and getattr(config, item.name) == item.default
    }
    return {name: value for name, value in asdict(config).items() if name not in silent}
