"""What exists: ``mode=list`` shows models, tasks with their scales, and studies; with ``task=...`` that task's card."""

from __future__ import annotations

import os
import re
import sys
from itertools import takewhile
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from experiments.config import RunConfig, build_run_config, build_task, outline_model
from experiments.errors import ConfigError
from experiments.preflight import CONF, groups
from experiments.table import print_columns

#: Models are sized on a task that reads both ways, and on one that streams.
_SIZED = ("lra_text", "passkey")


def print_list(composed: DictConfig) -> None:
    """Prints every choice with its one-line description; ends quietly where nobody reads on (``| head``).

    Where the command line names a task, its card comes instead.

    Args:
        composed: What Hydra composed; models are sized at its scale.
    """
    import data

    try:
        if _names_a_task():
            _print_card(str(composed.task.name))
            return
        _section("Models (model=...)", {name: _model(name) for name in groups()["model"]})
        _print_sizes(composed)
        _section("Tasks (task=...)", {name: _first_line(data.task_class(name).card) for name in data.available()})
        _section("Scales (scale=...)", _scales())
        _section("Studies (-m +study=...)", {name: _headline("study", name) for name in groups().get("study", ())})
    except BrokenPipeError:
        # What is left in the buffer has to go somewhere when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _names_a_task() -> bool:
    """Whether the command line chose the task: the composed settings have one in any case."""
    return HydraConfig.initialized() and any(text.startswith("task=") for text in HydraConfig.get().overrides.task)


def _print_card(name: str) -> None:
    """The card on top of a task's file, and where its options and sizes stand."""
    import data

    print(data.task_class(name).card.strip())
    print()
    print(f"Options and sizes: conf/task/{name}.yaml   Code: data/{name}.py", flush=True)


def _section(title: str, lines: dict[str, str]) -> None:
    width = max((len(name) for name in lines), default=0)
    print(title)
    for name, text in lines.items():
        print(f"  {name:{width}}  {text}")
    print(flush=True)


def _print_sizes(composed: DictConfig) -> None:
    """For each model its paper, and its size on two tasks: parameters, numbers carried after a training sequence."""
    tasks = _SIZED
    header = ["model", "preset of", "paper (arXiv)"]
    header += [f"{task}: {what}" for task in tasks for what in ("parameters", "state size")]
    rows = []
    for name in groups()["model"]:
        sizes = [text for task in tasks for text in _sizes(_with(composed, name, task))]
        parent = str(_settings(name)["name"])
        rows.append([name, "" if parent == name else parent, _paper(name, parent), *sizes])
    print(f"Sizes at scale={composed.scale} (state size: numbers carried along time, after a training sequence)")
    print_columns(header, rows)
    print(flush=True)


def _sizes(composed: DictConfig) -> tuple[str, str]:
    try:
        config: RunConfig = build_run_config(composed)
        task = build_task(config)
        model = outline_model(config, task)
    except (ConfigError, ValueError):  # not every variant plays on every task
        return "-", "-"
    return f"{model.num_parameters():,}", f"{model.state_size(task.max_len):,}"


def _with(composed: DictConfig, model: str, task: str) -> DictConfig:
    """The same settings with another model and task."""
    other = composed.copy()
    with open_dict(other):
        other.model, other.task = _settings(model), OmegaConf.load(CONF / "task" / f"{task}.yaml")
    return other


def _settings(model: str) -> DictConfig:
    """A model's file; a preset's on top of what it starts from."""
    own = cast(DictConfig, OmegaConf.load(CONF / "model" / f"{model}.yaml"))
    parents = own.pop("defaults", [])
    return cast(DictConfig, OmegaConf.merge(*[_settings(str(parent)) for parent in parents], own))


def _paper(name: str, parent: str) -> str:
    """The arXiv id that a preset's file names, else the variant's first."""
    import models

    yaml = "\n".join(_comments("model", name))
    found = re.search(r"\d{4}\.\d{5}", yaml) or re.search(r"\d{4}\.\d{5}", _docstring(models.variant(parent)))
    return "ours" if "Ours" in yaml else found[0] if found else ""


def _scales() -> dict[str, str]:
    """For each scale, the tasks that have it with their size."""
    found: dict[str, list[str]] = {}
    for task in groups()["task"]:
        columns: Any = OmegaConf.select(OmegaConf.load(CONF / "task" / f"{task}.yaml"), "scales")
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
    """What the comment on top of a file of ``conf/`` says behind its command: what it is for."""
    lines = _comments(group, name)
    command = next((place for place, line in enumerate(lines) if line.startswith("python ")), -1)
    return " ".join(lines[command + 1 :])


def _headline(group: str, name: str) -> str:
    """The first line of what :func:`_comment` gives: a study goes on with its arms and what is scaled down."""
    lines = _comments(group, name)
    return next((line for line in lines if not line.startswith(("python ", "@package"))), "")


def _comments(group: str, name: str) -> list[str]:
    lines = (CONF / group / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return [line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), lines)]


def _docstring(cls: type) -> str:
    return sys.modules[cls.__module__].__doc__ or cls.__doc__ or ""


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
