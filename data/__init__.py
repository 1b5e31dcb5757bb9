"""Tasks by name. A task is one file ``data/<name>.py`` plus ``conf/task/<name>.yaml``; see README.md here.

Nothing heavy is imported before a task is asked for, so listing the tasks costs nothing.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.base import Task

_SHARED = {"base", "module", "options", "prepare"}


def available() -> tuple[str, ...]:
    """Names of all tasks: the files of this folder that are neither shared nor start with an underscore."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in names if name not in _SHARED and not name.startswith("_")))


def task_class(name: str) -> type[Task]:
    """The Task subclass called ``name``.

    Raises:
        ValueError: there is no such task; the message lists those that exist.
    """
    if name not in available():
        close = difflib.get_close_matches(name, available(), n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise ValueError(f"unknown task '{name}'.{hint} Available: {', '.join(available())}")
    module = importlib.import_module(f"data.{name}")
    for value in vars(module).values():
        if getattr(value, "name", None) == name and getattr(value, "__module__", None) == module.__name__:
            return value
    raise ValueError(f"data/{name}.py defines no Task with name = '{name}'")


def config_class(name: str) -> type:
    """The frozen dataclass that holds the options of task ``name``."""
    return task_class(name).config_class


def build_task(
    name: str,
    config: Any = None,
    *,
    root: str | Path | None = None,
    cache: str | Path | None = None,
    seed: int = 0,
) -> Task:
    """Builds a task, ready to be located and prepared.

    Args:
        name: one of :func:`available`.
        config: an instance of ``config_class(name)``; default: its defaults.
        root: folder that holds data sets; default ``$MEMATTN_DATA``.
        cache: folder for encoded data; default ``$MEMATTN_CACHE``, else ``~/.cache/memattn``.
        seed: of the training stream.
    """
    cls = task_class(name)
    return cls(cls.config_class() if config is None else config, root=root, cache=cache, seed=seed)
