"""The jobs of a study, and which finished run is one of them; what analysis/ asks through results.py."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from hydra import compose
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.arms import Arms, arms_of, expand
from experiments.compose import CONF, composer, composing, groups, is_group, parse
from experiments.config import register_resolvers
from experiments.errors import ConfigError, first_line, unknown
from experiments.identity import MissingSource, identify

#: Of a comparison with paper scale: sections whose numbers say how much smaller a run is.
_SIZES = ("backbone.width", "backbone.depth", "trainer.batch_size", "trainer.steps")


@dataclass(frozen=True)
class StudyJob:
    """One job of a study, by what tells its result from the others'."""

    arm: str | None
    """Name of its arm, where the study has some."""
    model: str
    """Name of the model, which presets share."""
    variant: str
    """Label of the model: its preset, or its name."""
    task: str
    """Name of the task."""
    seed: int
    """Seed."""
    settings: Mapping[str, Any]
    """What else the study varies: dotted name and value."""
    overrides: tuple[str, ...]
    """All of its settings, those of its arm too."""
    of_arm: frozenset[str] = frozenset()
    """Groups that its arm sets, so that the command line may not."""

    @property
    def command(self) -> str:
        """What runs this job alone."""
        asked = [text for text in self.overrides if text.partition("=")[0] not in self.of_arm]
        return f"python run.py {shlex.join(asked)}"


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
    """What it varies beside model, task and seed: ``arm``, where it has some, and dotted names."""
    jobs: tuple[StudyJob, ...]
    """In the order of the sweep."""
    command: str
    """What runs all jobs, and skips those that are done."""
    lengths: tuple[int, ...] = ()
    """mode=bench: at which each arm is measured."""


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
        arms = arms_of(name)
        lines = expand([parse(f"{key}={value}") for key, value in params.items()], arms)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"conf/study/{name}.yaml cannot be composed: {first_line(error)}") from error
    if composed.scale not in composed.task.scales:
        raise ConfigError(unknown("scale", composed.scale, map(str, composed.task.scales)))
    jobs = tuple(_study_job(line, composed, fixed, arms) for line in lines)
    varied = dict.fromkeys(key for job in jobs for key in (*(["arm"] if job.arm else []), *job.settings))
    command = f"python run.py -m {shlex.join(fixed)}"
    mode = str(composed.mode)
    lengths = tuple(sorted(map(int, composed.bench.lengths))) if mode == "bench" else ()
    return StudyPlan(name, mode, composed.scale, tuple(varied), jobs, command, lengths)


def _study_job(line: Sequence[str], composed: DictConfig, fixed: Sequence[str], arms: Arms) -> StudyJob:
    """A job by its overrides. They say all that is asked for, so that nothing has to be composed for each job."""
    values: dict[str, Any] = {item.key_or_group.lstrip("+"): item.value() for item in map(parse, line)}
    model, task, arm = (values.pop(name, None) for name in ("model", "task", "arm"))
    name, variant = _names(model) if model else (composed.model.name, composed.model.get("variant"))
    return StudyJob(
        arm=arm,
        model=str(name),
        variant=str(variant or name),
        task=str(task or composed.task.name),
        seed=int(values.pop("seed", composed.seed)),
        settings={key: value for key, value in values.items() if not is_group(key) and not key.startswith("hydra")},
        overrides=(*fixed, *line),
        of_arm=frozenset(key for text in arms.get(arm, ()) if is_group(key := text.partition("=")[0])),
    )


@cache
def _names(choice: str) -> tuple[str, str | None]:
    """The model of ``model=<choice>``, and what the results of a preset are called."""
    preset: Any = OmegaConf.load(CONF / "model" / f"{choice}.yaml")
    base = next((entry for entry in preset.get("defaults", ()) if isinstance(entry, str) and entry != "_self_"), None)
    name, variant = _names(base) if base else (choice, None)
    return preset.get("name") or name, preset.get("variant") or variant


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
