"""Checks the command line before Hydra sees it, so that a mistake costs one clear line and not a traceback.

Hydra composes each combination anyway. Doing it here first, with every section typed and every model built without
memory, finds a bad value of a sweep's last job before its first job starts.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.arms import choose, complete, expand, read_arms
from experiments.compose import CONF, composer, composing, groups, keys, parse
from experiments.config import RunConfig, build_task, outline_model, register_resolvers
from experiments.errors import ConfigError, explain_os_error, first_line, unknown
from experiments.identity import MissingSource, identify
from experiments.space import assignment, domains

#: Bytes that a sweep needs at least: Hydra's record of it, the table and logs.
_ROOM = 1 << 18

#: What these modes read of the command line.
_READ_BY = {
    "eval": (
        "mode",
        "run",
        "test",
        "data",
        "store",
        "trainer.device",
        "trainer.threads",
        "trainer.progress",
    ),
    "bench": (
        "mode",
        "model",
        "task",
        "scale",
        "study",
        "arm",
        "backbone",
        "bench",
        "store",
        "trainer.device",
        "trainer.precision",
        "trainer.threads",
        "trainer.compile",
    ),
    "export": ("mode", "run", "store"),
    "status": ("mode", "sweep", "watch", "store"),
    "list": ("mode", "scale", "task"),
}


def check_command_line(arguments: Sequence[str]) -> list[RunConfig]:
    """The typed settings of every job that this command line asks for; empty when it only asks for help.

    Args:
        arguments: ``sys.argv`` without the program.

    Raises:
        ConfigError: one line that says what is wrong and what would work.
    """
    args = get_args_parser().parse_args(list(arguments))
    if args.help or args.hydra_help or args.info or args.shell_completion:
        return []
    for flag in ("config_path", "config_name", "config_dir", "experimental_rerun"):
        if getattr(args, flag):
            raise ConfigError(f"--{flag.replace('_', '-')} is not supported: settings live in {CONF}")
    overrides = [_parse(text) for text in args.overrides]
    for override in overrides:
        _check_key(override)
        _check_choices(override)
    _check_mode(overrides, multirun=args.multirun)
    register_resolvers()
    with composing():
        _check_launcher(overrides, is_sweep=args.multirun or _mode(overrides) == "tune")
        jobs = list(_jobs(overrides, multirun=args.multirun or _mode(overrides) == "tune"))
        configs = _check_jobs(jobs)
    _refuse_duplicates(jobs, configs)
    if configs[0].mode == "tune" or (args.multirun and configs[0].mode == "train"):
        _check_writable(configs[0].store.folder / "sweeps")
    return configs


def check_run(config: RunConfig) -> None:
    """Builds task and model, without data and without memory, to find settings that do not fit together.

    Raises:
        ConfigError: the one-line message of whoever refused.
    """
    try:
        task = build_task(config)
        outline_model(config, task)
    except ValueError as error:
        raise ConfigError(first_line(error)) from error
    if config.backbone.positions in ("learned", "both") and (task.longest_test or 0) > task.max_len:
        raise ConfigError(
            f"backbone.positions={config.backbone.positions} has positions for the {task.max_len} symbols of training, "
            f"and task={config.task.name} tests on {task.longest_test}: use backbone.positions=rope"
        )


def as_sweep(arguments: Sequence[str], configs: Sequence[RunConfig]) -> list[str]:
    """With -m where ``mode=tune`` is asked for without: a search is a sweep, also that of one variant.

    Args:
        arguments: ``sys.argv`` without the program.
        configs: what :func:`check_command_line` found in them.
    """
    args = get_args_parser().parse_args(list(arguments))
    alone = any(config.mode == "tune" for config in configs) and not (args.multirun or args.cfg)
    return [*arguments, "--multirun"] if alone else list(arguments)


def quoted(arguments: Sequence[str]) -> list[str]:
    """The arguments with the digits of ``run=`` and ``sweep=`` in quotes, where 3e10 is no number."""
    return [re.sub(r"^(run|sweep)=([0-9a-f-]+)$", r"\1='\2'", text) for text in arguments]


def _parse(text: str) -> Override:
    try:
        override = parse(text)
        if not override.key_or_group:
            raise HydraException("there is no key")
        return override
    except HydraException as error:
        reason = first_line(error) if "=" in text else "there is no '='"
        advice = "write key=value, and quote what a shell would change"
        raise ConfigError(f"cannot read '{text}' ({reason}): {advice}") from error


def _text(override: Override) -> str:
    """The override as it was typed."""
    return override.input_line or ""


def _check_key(override: Override) -> None:
    """Refuses keys that Hydra would take, but that do not do what they seem to."""
    text, key = _text(override), override.key_or_group
    if override.is_delete():
        raise ConfigError(f"{text}: settings cannot be removed; set a value instead ({key}=...)")
    if override.value_type in (ValueType.GLOB_CHOICE_SWEEP, ValueType.INTERVAL_SWEEP):
        raise ConfigError(f"{text}: write the values as a list (a,b,c), as choice(a,b) or as range(start,stop,step)")
    if key == "hydra.mode":
        raise ConfigError(f"{text}: use -m for a sweep, and nothing for one run")
    if key == "hydra.sweeper.max_batch_size":
        raise ConfigError(f"{text}: a sweep runs as a whole; hydra.launcher.jobs says how many jobs run at a time")
    if key == "hydra.launcher.jobs" and not re.fullmatch(r"auto|[1-9]\d*", _values(override)[0]):
        raise ConfigError(f"{text}: how many jobs run at a time: auto, or a number from 1")
    if key == "hydra.launcher.memory_gb" and not re.fullmatch(r"auto|\d*\.?\d*[1-9]\d*(\.\d*)?", _values(override)[0]):
        raise ConfigError(f"{text}: GiB that a job needs: auto, or a number above 0")
    if key == "size" or key.startswith(("size.", "task.scales")):
        raise ConfigError(f"{text}: the table of sizes is read-only here; set what reads it, such as backbone.width")
    if key == "tuned" or key.startswith("tuned."):
        raise ConfigError(f"{text}: what mode=tune has found is read-only here; set the value itself")
    if key == "study" and not override.is_add():
        raise ConfigError(f"{text}: write +{text}")
    if override.is_add() and not override.is_force_add() and key in groups() and key != "study":
        raise ConfigError(f"{text}: write {text.lstrip('+')}")


def _check_choices(override: Override) -> None:
    """A group's value must be one of its files. Groups of Hydra itself have more choices than conf/ holds."""
    group = override.key_or_group
    choices = groups().get(group)
    if choices is None or (group.startswith("hydra/") and group != "hydra/launcher"):
        return
    for value in _values(override):
        if value not in choices:
            raise ConfigError(unknown(group, value, choices))


def _values(override: Override) -> list[str]:
    """The value, or each value of a sweep, as the command line would write it."""
    if override.is_sweep_override() and override.is_discrete_sweep():
        return [str(value) for value in override.sweep_string_iterator()]
    return [override.get_value_element_as_str()]


def _check_mode(overrides: Sequence[Override], *, multirun: bool) -> None:
    swept = [override for override in overrides if override.is_sweep_override()]
    if swept and not multirun:
        raise ConfigError(f"{_text(swept[0])}: several values need -m (python run.py -m ...)")
    for override in swept:
        key = override.key_or_group
        if key in ("mode", "study", "store.root") or key.startswith("hydra") or _is_below(key, ("tune",)):
            raise ConfigError(f"{_text(override)}: one {key} at a time")
    mode = _mode(overrides)
    if mode == "list" and multirun:
        raise ConfigError("mode=list shows what exists: leave out -m")
    for name, does in (("eval", "scores"), ("export", "exports")):
        if mode == name and multirun:
            raise ConfigError(f"mode={name} {does} one stored run: leave out -m")
    if mode == "status" and multirun:
        raise ConfigError("mode=status shows what was started before: leave out -m")
    for override in overrides:
        for other in ("bench", "tune"):
            if mode != other and _is_below(override.key_or_group, (other,)):
                raise ConfigError(f"{_text(override)} has no effect with mode={mode}: it is for mode={other}")
        if mode in _READ_BY and not _is_below(override.key_or_group, (*_READ_BY[mode], "hydra")):
            read = ", ".join(_READ_BY[mode])
            raise ConfigError(f"{_text(override)} has no effect with mode={mode}: it reads {read}")
    if mode == "list":
        _check_list(overrides)


def _check_launcher(overrides: Sequence[Override], *, is_sweep: bool) -> None:
    """Who runs the jobs of a sweep, and with which settings: keys that the chosen launcher has."""
    chosen = [item for item in overrides if _is_below(item.key_or_group, ("hydra/launcher", "hydra.launcher"))]
    if chosen and not is_sweep:
        raise ConfigError(f"{_text(chosen[0])} has no effect without -m: one run works in this process")
    if chosen:
        _compose([_text(item) for item in chosen], with_hydra=True)


def _check_list(overrides: Sequence[Override]) -> None:
    """``mode=list`` shows what exists, or the card of one task; neither depends on options, nor a card on the scale."""
    names_a_task = any(override.key_or_group == "task" for override in overrides)
    for override in overrides:
        if override.key_or_group.startswith("task."):
            raise ConfigError(f"{_text(override)} has no effect with mode=list: task=<name> shows that task's card")
        if override.key_or_group == "scale" and names_a_task:
            raise ConfigError(f"{_text(override)} has no effect with mode=list task=...: a card holds for all scales")


def _mode(overrides: Sequence[Override]) -> str:
    """What the command line says, else its study, else train."""
    said = {item.key_or_group: _values(item)[0] for item in overrides if item.key_or_group in ("mode", "study")}
    if "mode" not in said and "study" in said:
        study = OmegaConf.load(CONF / "study" / f"{said['study']}.yaml")
        return str(OmegaConf.select(study, "mode", default="train"))
    return said.get("mode", "train")


def _is_below(key: str, sections: Sequence[str]) -> bool:
    return any(key == section or key.startswith((f"{section}.", f"{section}/")) for section in sections)


def _jobs(overrides: Sequence[Override], *, multirun: bool) -> Iterator[list[str]]:
    """The overrides of each job, in the order in which Hydra's sweeper will launch them."""
    fixed = [_text(override) for override in overrides if not override.is_sweep_override()]
    params, arms = _study(fixed)
    if multirun:
        texts = [f"{key}={value}" for key, value in params.items()] + [_text(item) for item in overrides]
        parsed = [_parse(text) for text in texts if not text.startswith("hydra")]
        for override in (*parsed, *(_parse(text) for arm in arms.values() for text in arm)):
            _check_choices(override)
        yield from expand(parsed, arms)
        return
    choose(overrides, arms)
    given = [override.key_or_group for override in overrides]
    free = [key for key in (*(["arm"] if arms else []), *params) if key.lstrip("+") not in given]
    job = complete(fixed)
    free += [override.key_or_group for override in map(_parse, job) if override.is_sweep_override()]
    if free:
        raise ConfigError(f"a study sweeps over {', '.join(free)}: add -m, or choose one of each")
    yield job


def _study(fixed: list[str]) -> tuple[Mapping[str, Any], Mapping[str, list[str]]]:
    """What the chosen study sweeps over, and its arms."""
    if not any("study=" in text or text.startswith("hydra.sweeper") for text in fixed):
        return {}, {}
    own = [text for text in fixed if "study=" in text or text.startswith("hydra")]
    sweeper = _compose(own, with_hydra=True).hydra.sweeper
    params: Any = OmegaConf.to_container(sweeper.params or OmegaConf.create({}))
    return params, read_arms(sweeper.arms)


def _check_jobs(jobs: Sequence[list[str]]) -> list[RunConfig]:
    """The typed settings of all jobs; what the jobs of one setting share is checked once."""
    checked = set()
    common = set(jobs[0]).intersection(*jobs)
    configs = []
    for overrides in jobs:
        try:
            config = _composed(overrides)
            if config.mode == "bench":
                from experiments.bench import sized

                config = sized(config)
            parts = repr((config.model, config.backbone, config.task, config.scale))
            if config.mode in ("train", "tune", "plan", "bench") and parts not in checked:
                check_run(config)
                checked.add(parts)
            space = repr((parts, config.trainer))
            if config.mode == "tune" and space not in checked:
                _check_space(config, overrides)
                checked.add(space)
        except ConfigError as error:
            where = " ".join(text for text in overrides if text not in common)
            raise ConfigError(f"{error} (in the job {where})" if where else str(error)) from error
        configs.append(config)
    return configs


def _check_space(config: RunConfig, overrides: list[str]) -> None:
    """Composes and builds what a search may come to: each choice, and both ends of each range."""
    for key, domain in domains(config).items():
        for value in domain.ends:
            try:
                check_run(_composed([*overrides, assignment(key, value)]))
            except ConfigError as error:
                raise ConfigError(f"tune.space.{key}: {error}") from error


def _composed(overrides: list[str]) -> RunConfig:
    try:
        return composer().config(overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_diagnose(overrides, error)) from error


def _refuse_duplicates(jobs: Sequence[list[str]], configs: Sequence[RunConfig]) -> None:
    """Two jobs that are the same run would wait for each other's lock."""
    seen: dict[object, list[str]] = {}
    for job, config in zip(jobs, configs, strict=True):
        key = identify(config, MissingSource())
        if key in seen:
            raise ConfigError(f"two jobs are the same run: {' '.join(seen[key])} and {' '.join(job)}")
        seen[key] = job


def _check_writable(folder: Path) -> None:
    """Creates the folder of sweeps and tries to write there; Hydra would fail with a traceback."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as handle:
            handle.write(bytes(_ROOM))
    except OSError as error:
        raise ConfigError(explain_os_error(error)) from error


def _compose(overrides: list[str], *, with_hydra: bool = False) -> DictConfig:
    try:
        return compose("config", overrides, return_hydra_config=with_hydra)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_diagnose(overrides, error)) from error


def _diagnose(overrides: list[str], error: Exception) -> str:
    """Finds the override whose key does not exist in what its groups compose to."""
    parsed = [_parse(text) for text in overrides]
    chosen = [_text(item) for item in parsed if item.key_or_group in groups()]
    try:
        known = keys(compose("config", chosen, return_hydra_config=True))
    except MissingConfigException as missing:
        group, _, name = str(missing.missing_cfg_file).rpartition("/")
        return unknown(group, name, missing.options or ())
    except (HydraException, OmegaConfBaseException):
        return first_line(error)
    for override in parsed:
        key = override.key_or_group
        if key not in known and key not in groups() and "/" not in key:
            return _unknown_key(key, known)
        if key in known and override.is_add() and not override.is_force_add():
            return f"{_text(override)}: the key exists, leave out the +"
    return first_line(error)


def _unknown_key(key: str, known: Sequence[str]) -> str:
    """Names the keys of the section that the user meant, and the same name in another section."""
    section, _, leaf = key.rpartition(".")
    elsewhere = [name for name in known if name.rpartition(".")[2] == leaf and not name.startswith(("size", "hydra"))]
    if elsewhere:
        return f"unknown key '{key}': did you mean '{elsewhere[0]}'?"
    siblings = [name for name in known if name.rpartition(".")[0] == section]
    if section and siblings:
        return unknown(f"key in {section}", leaf, [name.rpartition(".")[2] for name in siblings])
    hidden = ("hydra", "size")
    return unknown("key", key, [name for name in known if "." not in name and name not in hidden])


def is_job_of_sweep() -> bool:
    """Whether this process was started by a sweep, which has checked its settings already."""
    return "MEMATTN_JOB" in os.environ
