"""The arms of a study: named settings that are no product of lists, such as those of one figure's curves.

    hydra:
      sweeper:
        arms:
          m2: {model: block_window, model.memory_blocks: 2}
          luna: {model: luna, model.memory_len: "1,4"}
        params:
          seed: 0,1,2

Each arm is a grid of its own: its settings times ``params`` times what the command line says. ``arm=m2,luna`` chooses
some. What a job belongs to is its label ``arm``, which changes no number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from experiments.compose import CONF, groups, parse
from experiments.errors import ConfigError, unknown

#: By name, the overrides of each arm.
Arms = Mapping[str, Sequence[str]]


def read_arms(node: Any) -> dict[str, list[str]]:
    """The arms as ``hydra.sweeper.arms`` holds them, brought to overrides."""
    plain: Any = OmegaConf.to_container(node) if OmegaConf.is_config(node) else node
    return {str(name): [f"{key}={_text(value)}" for key, value in arm.items()] for name, arm in (plain or {}).items()}


def expand(overrides: Sequence[Override], arms: Arms) -> list[list[str]]:
    """The overrides of each job: every combination of the values, arm by arm.

    Args:
        overrides: ``params`` of the study, then the command line; of the same key the last counts.
        arms: those of the study; empty where it has none.

    Raises:
        ConfigError: ``arm=...`` names none of them, or the command line sets a group that an arm sets.
    """
    chosen = choose(overrides, arms)
    if not arms:
        return _grid(overrides)
    others = [override for override in overrides if override.key_or_group != "arm"]
    return [job for name in chosen for job in _grid([*map(parse, (f"arm={name}", *arms[name])), *others])]


def complete(arguments: Sequence[str]) -> list[str]:
    """The command line as Hydra gets it.

    One run of an arm gets the settings of that arm where they are not there yet; a sweep's jobs come with all of
    theirs, and stay as they are. A sweep as a whole is composed by Hydra before its lists are: what one of their models
    or tasks knows, and the default does not, becomes a list of one. Mistakes are for
    :func:`experiments.preflight.check_command_line`.
    """
    if {"-m", "--multirun"}.intersection(arguments):
        return [_listed(text) for text in arguments]
    values = dict(text.split("=", 1) for text in arguments if "=" in text)
    study, arm = values.get("+study"), values.get("arm")
    if study is None or arm is None:
        return list(arguments)
    added = [text for text in arms_of(study).get(arm, []) if text.split("=", 1)[0] not in values]
    # Beside the others: Hydra takes no settings on both sides of an option such as --cfg.
    place = 1 + max(at for at, text in enumerate(arguments) if "=" in text and not text.startswith("-"))
    return [*arguments[:place], *added, *arguments[place:]]


def arms_of(study: str) -> dict[str, list[str]]:
    """The arms in the file of a study; none where there is no such file."""
    path = CONF / "study" / f"{study}.yaml"
    return read_arms(OmegaConf.select(OmegaConf.load(path), "hydra.sweeper.arms")) if path.is_file() else {}


def choose(overrides: Sequence[Override], arms: Arms) -> list[str]:
    """The names of the arms that the command line asks for: all of them where it asks for none.

    Raises:
        ConfigError: see :func:`expand`.
    """
    asked = [override for override in overrides if override.key_or_group == "arm"]
    if asked and not arms:
        raise ConfigError(f"{asked[-1].input_line}: arms belong to a study that has some: write +study=<name> with it")
    names = _names(asked[-1]) if asked else list(arms)
    for name in names:
        if name not in arms:
            raise ConfigError(unknown("arm", name, arms))
    own = {text.split("=", 1)[0] for name in names for text in arms[name]}
    for override in overrides:
        if override.key_or_group in own.intersection(groups()):
            raise ConfigError(f"{override.input_line}: the arms of the study set it; choose some with arm=<name>")
    return names


def _listed(text: str) -> str:
    if not text.startswith(("model.", "task.")) or parse(text).is_sweep_override():
        return text
    key, _, value = text.partition("=")
    return f"{key}=choice({value})"


def _names(override: Override) -> list[str]:
    if override.is_sweep_override() and override.is_discrete_sweep():
        return [str(name) for name in override.sweep_string_iterator()]
    return [override.get_value_element_as_str()]


def _grid(overrides: Sequence[Override]) -> list[list[str]]:
    return BasicSweeper.split_arguments(list(overrides), None)[0]


def _text(value: Any) -> str:
    """A value as the command line writes it."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(_text(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_text(item)}" for key, item in value.items()) + "}"
    return str(value)
