"""What ``mode=tune`` leaves behind: a table of the searches, and the best values as files that ``recipe=tuned`` reads.

    conf/recipe/tuned/<task>/<model>.yaml
        tuned: {<scale>: {trainer: {learning_rate: ...}}}        what was found, under how it was found
        trainer: {learning_rate: ${tuned.${scale}.trainer....}}  puts it in its place

The scale is no group of Hydra, so one file holds all scales, and what is tuned at one keeps what was tuned at another.
"""

from __future__ import annotations

import csv
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra import compose
from omegaconf import OmegaConf

from experiments.compose import CONF, composer, parse
from experiments.errors import ConfigError, explain_os_error
from experiments.search import Search, Tried
from experiments.space import Value, assignment, configured
from experiments.store import write_atomically
from experiments.table import format_columns, print_columns

HEADER = ["variant", "task", "data", "settings", "validation", "recipe", "best", "trials", "failed", "best values"]

#: Sections of the command line that say where a search works, and not what it finds.
_ELSEWHERE = ("data", "store", "logger", "hydra")

#: A scale of a written file, under its comments.
_SCALE = re.compile(r"((?:^  #.*\n)+)  (\w+):\n", re.MULTILINE)


def conclude(searches: Sequence[Search], folder: Path) -> bool:
    """Prints and stores the table, and writes the best values of every search that is done.

    Returns:
        Whether every search has had its trials, and one of them a score.
    """
    body = [_cells(search) for search in searches]
    header = HEADER
    if not any(search.settings for search in searches):
        place = HEADER.index("settings")
        header, *body = [line[:place] + line[place + 1 :] for line in (HEADER, *body)]
    print(flush=True)
    print_columns(header, body)
    notes = [note for search in searches for note in _notes(search)]
    notes += list(_written(searches))
    notes += [f"trials {search.label}: {search.folder}" for search in searches]
    print("\n".join(notes), flush=True)
    with suppress(OSError):
        write_atomically(folder / "table.txt", "\n".join([format_columns(header, body), *notes]) + "\n")
    for search in searches:
        with suppress(OSError):
            _write_trials(search)
    return all(search.best is not None and not search.missing for search in searches)


def _cells(search: Search) -> list[str]:
    tried, best = search.tried(), search.best
    recipe = next((trial for trial in tried if trial.values == search.values_of_recipe), None)
    return [
        search.config.model.label,
        search.config.task.name,
        search.source.name,
        search.settings,
        search.metric if search.larger_is_better else f"{search.metric} (less is better)",
        _score(recipe),
        _score(best),
        f"{len(tried)} of {len(tried) + search.missing}",
        str(sum(trial.score is None for trial in tried)),
        _text(best.values) if best else "",
    ]


def _score(trial: Tried | None) -> str:
    return "" if trial is None else "failed" if trial.score is None else f"{trial.score:.4f}"


def _text(values: Mapping[str, Value]) -> str:
    return " ".join(assignment(key, value) for key, value in values.items())


def _notes(search: Search) -> Iterator[str]:
    """Why trials have no score."""
    for trial in search.tried():
        if trial.score is None:
            yield f"failed: {search.label} trial {trial.number} ({_text(trial.values)}): {trial.reason}"


def _write_trials(search: Search) -> None:
    """One line for each trial that is done."""
    rows = [
        {"trial": one.number, search.metric: one.score, **one.values, "reason": one.reason} for one in search.tried()
    ]
    if rows:
        with (search.folder / "trials.csv").open("w", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def _written(searches: Sequence[Search]) -> Iterator[str]:
    """Writes what was found, and says where."""
    places = [(_chosen_model(search.recipe), search.config.task.name, search.config.scale) for search in searches]
    for search, place in zip(searches, places, strict=True):
        best = search.best
        if search.missing:
            yield f"not written: {search.label} lacks {search.missing} trials; the same command goes on"
        elif best is None:
            yield f"not written: every trial of {search.label} failed; force=true starts its search over"
        elif places.count(place) > 1:
            yield f"not written: {search.label} shares its file with another search of this command; tune it alone"
        else:
            try:
                path = write_tuned(search, best, model=place[0])
            except (OSError, ConfigError) as error:
                reason = explain_os_error(error) if isinstance(error, OSError) else str(error)
                yield f"not written: {search.label}: {reason}"
                continue
            yield f"wrote  {path}"
            if path.is_relative_to(CONF):
                yield f"use    python run.py {_choices(search, place[0])} recipe=tuned"


def write_tuned(search: Search, best: Tried, *, model: str) -> Path:
    """Writes the values of a trial into the file of its variant and task, beside those of other scales.

    Args:
        search: the search.
        best: its trial.
        model: file of conf/model/ that the search starts from; names the file.

    Returns:
        The file.

    Raises:
        ConfigError: the file that is there is none of ours.
    """
    path = search.tune.files / search.config.task.name / f"{model}.yaml"
    scale = search.config.scale
    comments, tables = _read(path)
    comments[scale] = _comments(search, best, model)
    tables[scale] = dict(best.values)
    keys = list(dict.fromkeys(key for table in tables.values() for key in table))
    lines = ["# @package _global_", f"# python run.py {_choices(search, model)} recipe=tuned"]
    lines += ["# Written by mode=tune, which chose these values by validation; each scale by its own search.", "tuned:"]
    for name in sorted(tables):
        values = {key: _value(tables[name], key, search, model, name) for key in keys}
        lines += [*comments[name], f"  {name}:", *_yaml(values, indent=4)]
    lines += _yaml({key: f"${{tuned.${{scale}}.{key}}}" for key in keys})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "\n".join(lines) + "\n")
    return path


def _value(table: Mapping[str, Value], key: str, search: Search, model: str, scale: str) -> Value:
    """What a scale says of a key; one that only another scale's search varied keeps its configured value."""
    if key in table:
        return table[key]
    return configured(composer().config([f"model={model}", f"task={search.config.task.name}", f"scale={scale}"]), key)


def _yaml(values: Mapping[str, Value], *, indent: int = 0) -> list[str]:
    """Lines of nested sections for dotted keys."""
    node = OmegaConf.create()
    for key, value in values.items():
        OmegaConf.update(node, key, value)
    return [" " * indent + line for line in OmegaConf.to_yaml(node).splitlines()]


def _read(path: Path) -> tuple[dict[str, list[str]], dict[str, dict[str, Value]]]:
    """Comments and values of a written file by scale; empty where there is none."""
    if not path.exists():
        return {}, {}
    text = path.read_text(encoding="utf-8")
    comments = {scale: lines.splitlines() for lines, scale in _SCALE.findall(text)}
    content: Any = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    tables = {str(scale): dict(_flat(table)) for scale, table in (content.get("tuned") or {}).items()}
    if set(tables) != set(comments):
        raise ConfigError(f"{path} was not written by mode=tune: move it away, or choose another tune.folder")
    return comments, tables


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Value]]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _comments(search: Search, best: Tried, model: str) -> list[str]:
    """How the values were found."""
    tried = search.tried()
    failed = sum(trial.score is None for trial in tried)
    recipe = next((trial for trial in tried if trial.values == search.values_of_recipe), None)
    seeds = [config.seed for config in search.configs]
    return [
        f"  # {_command(search, model)}",
        f"  # {len(tried)} trials ({failed} failed), {'seed' if len(seeds) == 1 else 'mean over seeds'} "
        f"{', '.join(map(str, seeds))}: {search.metric} {_score(best)}, of the recipe {_score(recipe) or 'unknown'}",
        f"  # data {search.source.name}; {best.hardware or 'unknown hardware'}; commit {best.git_sha or 'unknown'}",
    ]


def _choices(search: Search, model: str) -> str:
    return f"model={model} task={search.config.task.name} scale={search.config.scale}"


def _command(search: Search, model: str) -> str:
    """The command that repeats a search alone, without what says where data and results lie."""
    said = [text for text in (*search.recipe, *search.said) if not _is_left_out(parse(text).key_or_group)]
    seeds = ",".join(str(config.seed) for config in search.configs)
    words = [*_choices(search, model).split(), f"seed={seeds}", "mode=tune", *said]
    return shlex.join(["python", "run.py", *(["-m"] if "," in seeds else []), *words])


def _is_left_out(key: str) -> bool:
    """Whether a command for others says it anyway, or need not say it."""
    shown = key in ("model", "task", "scale")
    return shown or key in ("tune.folder", "tune.parallel") or key.partition(".")[0] in _ELSEWHERE


def _chosen_model(recipe: Sequence[str]) -> str:
    """The file of conf/model/ that a setting starts from."""
    return str(compose("config", list(recipe), return_hydra_config=True).hydra.runtime.choices["model"])
