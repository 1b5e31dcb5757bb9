"""The jobs of a command line, composed by Hydra and typed: what many jobs share is done once.

Hydra needs 50 ms to compose one job, and typing takes another 30. A sweep of a thousand jobs composes some twenty
choices of groups (model, task, ...); its other jobs differ in values, which are set on a copy, or in the seed alone.
Whatever is not as simple as that is left to Hydra, errors included: the result is the same (a test compares them).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.config import RunConfig, build_run_config
from experiments.settings import REPOSITORY

CONF = REPOSITORY / "conf"


class Composer:
    """Composes jobs inside :func:`composing`, and remembers what they share."""

    def __init__(self) -> None:
        self._bases: dict[tuple[str, ...], DictConfig] = {}
        self._settings: dict[tuple[str, ...], RunConfig] = {}

    def config(self, overrides: Sequence[str]) -> RunConfig:
        """The typed settings of a job.

        Raises:
            HydraException, OmegaConfBaseException: Hydra cannot compose it.
            ConfigError: a section is wrong.
        """
        parsed = [parse(text) for text in overrides]
        seeds = [item.value() for item in parsed if _is_value(item) and item.key_or_group == "seed"]
        if len(seeds) != 1 or type(seeds[0]) is not int:
            return self._without_seed(overrides, parsed)
        others = [item for item in parsed if item.key_or_group != "seed"]
        texts = tuple(str(item.input_line) for item in others)
        if texts not in self._settings:
            self._settings[texts] = self._without_seed(texts, others)
        return replace(self._settings[texts], seed=seeds[0])

    def _without_seed(self, overrides: Sequence[str], parsed: Sequence[Override]) -> RunConfig:
        choices = tuple(str(item.input_line) for item in parsed if not _is_value(item))
        if choices not in self._bases:
            self._bases[choices] = compose("config", list(choices))
        composed = copy.deepcopy(self._bases[choices])
        try:
            for item in parsed:
                if _is_value(item):
                    OmegaConf.update(composed, item.key_or_group, item.value(), merge=True)
        except OmegaConfBaseException:
            composed = compose("config", list(overrides))
        return build_run_config(composed)


@cache
def composer() -> Composer:
    """The one of this process: what the check of the command line composed, the launcher need not compose again."""
    return Composer()


@contextmanager
def composing() -> Iterator[None]:
    """Context for composing, unless a program that Hydra started is at work: then its own search path holds."""
    if GlobalHydra.instance().is_initialized():
        yield
        return
    with initialize_config_dir(str(CONF), version_base="1.3", job_name="run"):
        yield


@lru_cache(maxsize=1 << 14)
def parse(text: str) -> Override:
    """An override as Hydra's grammar reads it; kept, as the jobs of a sweep are made of few texts."""
    return OverridesParser.create().parse_override(text)


def groups() -> dict[str, tuple[str, ...]]:
    """The choices of every config group: ``{"model": ("block_window", ...), ...}``."""
    found: dict[str, list[str]] = {}
    for path in sorted(CONF.rglob("*.yaml")):
        if path.parent != CONF:
            found.setdefault(path.parent.relative_to(CONF).as_posix(), []).append(path.stem)
    return {group: tuple(names) for group, names in found.items()}


def _is_value(override: Override) -> bool:
    """Whether an override sets a value that exists, and chooses no file of ``conf/``."""
    key = override.key_or_group
    plain = not (override.is_add() or override.is_delete() or override.is_force_add() or override.package)
    return plain and not override.is_sweep_override() and not key.startswith("hydra") and not is_group(key)


def is_group(key: str) -> bool:
    """Whether a key chooses a file of ``conf/``."""
    return "/" in key or Path(CONF, key).is_dir()


def keys(composed: DictConfig) -> list[str]:
    """Dotted names of every section and value. Nothing is resolved, so that a bad value does not hide the keys."""
    found: list[str] = []
    stack: list[tuple[str, Any]] = [("", OmegaConf.to_container(composed, resolve=False))]
    while stack:
        prefix, node = stack.pop()
        for key, value in node.items():
            name = f"{prefix}{key}"
            found.append(name)
            if isinstance(value, dict):
                stack.append((f"{name}.", value))
    return found
