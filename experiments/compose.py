"""The jobs of a command line, composed by Hydra and typed: what many jobs share is done once.

Hydra needs 50 ms to compose one job, and typing takes another 30. A sweep of a thousand jobs composes some twenty
choices of groups (model, task, ...); its other jobs differ in values, which are set on a copy, or in the seed alone.
Whatever is not as simple as that is left to Hydra, errors included: the result is the same (a test compares them).
"""

from __future__ import annotations

import copy
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.config import REPOSITORY, RunConfig, build_run_config, register_resolvers
from experiments.errors import ConfigError, first_line, unknown
from experiments.store import MissingSource, identify

CONF = REPOSITORY / "conf"

#: Of a comparison with paper scale: sections whose numbers say how much smaller a run is.
_SIZES = ("backbone.width", "backbone.depth", "trainer.batch_size", "trainer.steps")


@dataclass(frozen=True)
class StudyJob:
    """One job of a study, by what tells its result from the others'."""

    variant: str
    """Label of the model: its preset, or its name."""
    task: str
    """Name of the task."""
    seed: int
    """Seed."""
    settings: Mapping[str, Any]
    """What else the study varies: dotted name and value."""
    overrides: tuple[str, ...]
    """Of the command line: ``python run.py <overrides>``."""

    @property
    def command(self) -> str:
        """What runs this job alone."""
        return f"python run.py {shlex.join(self.overrides)}"


@dataclass(frozen=True)
class StudyPlan:
    """All jobs of a study at one scale."""

    name: str
    """File name in conf/study, and label of its runs."""
    mode: str
    """train, or bench: then there are no runs."""
    scale: str
    """Column of the tables of sizes."""
    varied: tuple[str, ...]
    """Dotted names of what it varies beside model, task and seed."""
    jobs: tuple[StudyJob, ...]
    """In the order of the sweep."""
    command: str
    """What runs all jobs, and skips those that are done."""


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


def parse(text: str) -> Override:
    """An override as Hydra's grammar reads it."""
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
    return plain and not override.is_sweep_override() and not key.startswith("hydra") and not _is_group(key)


def _is_group(key: str) -> bool:
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


@cache
def study_plan(name: str, scale: str | None = None) -> StudyPlan:
    """The jobs of ``conf/study/<name>.yaml``.

    Args:
        name: of the study.
        scale: default: the study's.

    Raises:
        ConfigError: there is no such study or scale, or its file cannot be composed.
    """
    if name not in groups().get("study", ()):
        raise ConfigError(unknown("study", name, groups().get("study", ())))
    fixed = [f"+study={name}", *([f"scale={scale}"] if scale else [])]
    try:
        register_resolvers()
        with composing():
            composed = compose("config", fixed, return_hydra_config=True)
        params: Any = OmegaConf.to_container(composed.hydra.sweeper.params or OmegaConf.create({}))
        swept = [f"{key}={value}" for key, value in params.items()]
        lines = BasicSweeper.split_arguments([parse(text) for text in swept], None)[0]
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"conf/study/{name}.yaml cannot be composed: {first_line(error)}") from error
    if composed.scale not in composed.task.scales:
        raise ConfigError(unknown("scale", composed.scale, map(str, composed.task.scales)))
    jobs = tuple(_study_job(line, composed, fixed) for line in lines)
    varied = tuple(dict.fromkeys(key for job in jobs for key in job.settings))
    return StudyPlan(name, str(composed.mode), composed.scale, varied, jobs, f"python run.py -m {shlex.join(fixed)}")


def _study_job(line: Sequence[str], composed: DictConfig, fixed: Sequence[str]) -> StudyJob:
    """A job by its overrides. They say all that is asked for, so that nothing has to be composed for each job."""
    values: dict[str, Any] = {item.key_or_group.lstrip("+"): item.value() for item in map(parse, line)}
    model, task = values.pop("model", None), values.pop("task", None)
    return StudyJob(
        variant=_label(model) if model else str(composed.model.get("variant") or composed.model.name),
        task=str(task or composed.task.name),
        seed=int(values.pop("seed", composed.seed)),
        settings={key: value for key, value in values.items() if not _is_group(key) and not key.startswith("hydra")},
        overrides=(*fixed, *line),
    )


def _label(choice: str) -> str:
    """What the results of ``model=<choice>`` are called."""
    preset: Any = OmegaConf.load(CONF / "model" / f"{choice}.yaml")
    return str(preset.get("variant") or preset.get("name") or choice)


def config_hash(overrides: Sequence[str], source: str, checksum: str, *, precision: str) -> str:
    """The ``config_hash`` that a job's result has, had it been computed on these data.

    Args:
        overrides: of the job.
        source: name of the data's source.
        checksum: of the data.
        precision: as the result names it; what ``auto`` means depends on the machine.
    """
    with composing():
        config = composer().config(overrides)
    if precision == "bf16" and config.trainer.precision == "auto":
        config = replace(config, trainer=replace(config.trainer, precision="bf16"))
    return identify(config, MissingSource(name=source, checksum=checksum)).config_hash


@cache
def scaled_down(study: str, scale: str) -> dict[str, dict[str, tuple[Any, Any]]]:
    """What a study has less of than at paper scale.

    Returns:
        By task and dotted name: the value, and that of paper scale; empty at paper scale.
    """
    found = {}
    for task in dict.fromkeys(job.task for job in study_plan(study, scale).jobs):
        with composing():
            fixed = [f"+study={study}", f"task={task}"]
            here, paper = (compose("config", [*fixed, f"scale={column}"]) for column in (scale, "paper"))
        names = [*_SIZES, *(f"task.{key}" for key in here.task if key not in ("scales", "steps"))]
        pairs = {name: (OmegaConf.select(here, name), OmegaConf.select(paper, name)) for name in names}
        found[task] = {name: pair for name, pair in pairs.items() if _is_less(*pair)}
    return found


def _is_less(here: Any, paper: Any) -> bool:
    """Whether a number is smaller, or there is a limit where paper scale has none."""
    numbers = [value for value in (here, paper) if isinstance(value, int | float) and not isinstance(value, bool)]
    return here < paper if len(numbers) == 2 else len(numbers) == 1 and paper is None
