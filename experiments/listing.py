"""What exists: ``mode=list`` shows models, tasks with their scales, and studies."""

from __future__ import annotations

import os
import sys
from itertools import takewhile

from omegaconf import OmegaConf

from experiments.preflight import CONF, groups


def print_list() -> None:
    """Prints every choice with its one-line description; ends quietly where nobody reads on (``| head``)."""
    import data

    try:
        _section("Models (model=...)", {name: _model(name) for name in groups()["model"]})
        _section("Tasks (task=...)", {name: _first_line(data.task_class(name).card) for name in data.available()})
        _section("Scales (scale=...)", _scales())
        _section("Studies (-m +study=...)", {name: _comment("study", name) for name in groups().get("study", ())})
    except BrokenPipeError:
        # What is left in the buffer has to go somewhere when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _section(title: str, lines: dict[str, str]) -> None:
    width = max((len(name) for name in lines), default=0)
    print(title)
    for name, text in lines.items():
        print(f"  {name:{width}}  {text}")
    print(flush=True)


def _scales() -> dict[str, str]:
    """For each scale, the tasks that have it with their size."""
    found: dict[str, list[str]] = {}
    for task in groups()["task"]:
        columns = OmegaConf.select(OmegaConf.load(CONF / "task" / f"{task}.yaml"), "scales")
        for scale, size in columns.items():
            text = f"{task}: width {size['width']}, depth {size['depth']}, {size['steps']:,} steps"
            found.setdefault(str(scale), []).append(text)
    return {scale: "; ".join(texts) for scale, texts in found.items()}


def _model(name: str) -> str:
    """A variant says what it is in its own file, a preset in its yaml."""
    import models

    if name in models.available():
        return _first_line(_docstring(models.variant(name)))
    return _comment("model", name)


def _comment(group: str, name: str) -> str:
    """The last line of the comment on top of a file of ``conf/``, which says what it is for."""
    lines = (CONF / group / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    top = list(takewhile(lambda line: line.startswith("#"), lines))
    return top[-1].lstrip("# ") if top else ""


def _docstring(cls: type) -> str:
    return sys.modules[cls.__module__].__doc__ or cls.__doc__ or ""


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
