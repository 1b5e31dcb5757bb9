"""The settings of a run as typed, frozen dataclasses, and the one way to get there from what Hydra composed.

Hydra checks neither ranges nor ``+new=keys``. So every section goes through ``OmegaConf.to_object``, which really
runs ``__post_init__``, after its keys were compared with the fields of its dataclass. What comes out is plain Python:
nothing behind this module knows OmegaConf.

Importing this module loads neither torch nor Lightning; typing a config loads torch, since the variants define their
options in models/.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.errors import ConfigError, first_line, unknown
from experiments.settings import (
    BenchConfig,
    DataConfig,
    LoggerConfig,
    ModelConfig,
    StoreConfig,
    TaskConfig,
    TrainerConfig,
    TuneConfig,
    check,
    check_choice,
)
from experiments.typed import refuse_unknown, typed

if TYPE_CHECKING:
    from data.base import Source, Task
    from models import BackboneConfig, Model

MODES = ("train", "eval", "export", "bench", "tune", "plan", "status", "list")


@dataclass(frozen=True)
class RunConfig:
    """Everything about one run. Built by :func:`build_run_config`."""

    model: ModelConfig
    """The variant."""
    backbone: BackboneConfig
    """What all variants share."""
    task: TaskConfig
    """The task."""
    trainer: TrainerConfig
    """Training."""
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    """Mirror of the metrics."""
    data: DataConfig = field(default_factory=DataConfig)
    """Where data are looked for."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """Where results go."""
    bench: BenchConfig = field(default_factory=BenchConfig)
    """What mode=bench measures; changes nothing else."""
    tune: TuneConfig = field(default_factory=TuneConfig)
    """How mode=tune searches; changes nothing else."""
    mode: str = "train"
    """train, eval (score a stored run again), export (write its model to be used elsewhere), bench (measure its cost),
    tune (search for better values), plan (say what would happen), status (show how a sweep stands) or list."""
    scale: str = "laptop"
    """Column of the task's table of sizes that the settings were taken from."""
    seed: int = 0
    """Of initialisation, data order and dropout."""
    force: bool = False
    """Throw away what is stored of this run, and start over."""
    study: str | None = None
    """Name of the study that this run belongs to; a label."""
    arm: str | None = None
    """Which arm of that study; a label."""
    run: str | None = None
    """mode=eval, mode=export: the run, by the first digits of its hash."""
    test: dict[str, Any] | None = None
    """mode=eval: values of the task's options ``eval_…`` that differ from those that the run was stored with."""
    sweep: str | None = None
    """mode=status: the sweep, by the first digits of its id; null: the latest; all: a line for each."""
    watch: float | None = None
    """mode=status: show it again every so many seconds until its jobs have ended; null: once."""

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, MODES)
        check(0 <= self.seed < 2**31, "seed", self.seed, "must lie in [0, 2^31)")
        check_mode(self.mode, run=self.run, force=self.force, sweep=self.sweep, watch=self.watch)
        if self.mode != "eval" and self.test is not None:
            raise ConfigError(f"test={self.test} has no effect with mode={self.mode}: it is for mode=eval")
        check(self.watch is None or 0.1 <= self.watch < math.inf, "watch", self.watch, "seconds, at least 0.1")
        training = self.mode in ("train", "tune", "plan")
        if self.data.allow_standin and not (self.scale == "paper" and training):
            where = f"mode={self.mode}" if not training else f"scale={self.scale}"
            raise ConfigError(f"data.allow_standin=true has no effect with {where}: only scale=paper refuses stand-ins")

    @property
    def label(self) -> str:
        """Short name for lines and tables: ``fam lra_text s0``."""
        return f"{self.model.label} {self.task.name} s{self.seed}"


def check_mode(
    mode: str, *, run: str | None, force: bool, sweep: str | None = None, watch: float | None = None
) -> None:
    """Refuses settings that the mode would ignore, and asks for those that it needs."""
    if mode in ("eval", "export") and not run:
        raise ConfigError(f"mode={mode} needs run=<first digits of the run's hash>: see results/runs/<task>/<model>/")
    if mode not in ("eval", "export") and run:
        raise ConfigError(f"run={run} has no effect with mode={mode}: it names the run for mode=eval or mode=export")
    for key, value, does in (("sweep", sweep, "names the sweep"), ("watch", watch, "repeats what is shown")):
        if mode != "status" and value is not None:
            raise ConfigError(f"{key}={value} has no effect with mode={mode}: it {does} for mode=status")
    if force and mode not in ("train", "tune", "plan"):
        raise ConfigError(f"force=true has no effect with mode={mode}: it starts a run over with mode=train")


def build_run_config(composed: DictConfig | Mapping[str, Any]) -> RunConfig:
    """Types what Hydra composed, or what :func:`to_plain` wrote.

    Raises:
        ConfigError: one line naming the key: unknown, missing, of the wrong type, out of range or without effect.
    """
    values = _resolved(composed)
    for name in ("size", "tuned"):  # tables that other values are taken from
        values.pop(name, None)
    refuse_unknown(values, [item.name for item in fields(RunConfig)], "")
    built = {name: _built(name, _section(values, name)) for name in _SECTIONS}
    rest = _built("", {key: value for key, value in values.items() if key not in _SECTIONS})
    try:
        return RunConfig(**built, **asdict(rest))
    except ValueError as error:
        raise ConfigError(first_line(error)) from error


def to_plain(config: RunConfig) -> dict[str, Any]:
    """The config as nested dicts of plain values; :func:`build_run_config` reads it back."""
    plain = asdict(config)
    for section in ("model", "task"):
        plain[section].update(plain[section].pop("options") or {})
    return plain


@cache
def sweep_id() -> str:
    """Name of the sweep that this process starts: when, and which process."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"


def sweep_folder(root: str | None, mode: str) -> Path:
    """Where this process keeps what belongs to its sweep: logs and the table. A plan or a benchmark has none."""
    if mode in ("plan", "bench"):
        return Path(tempfile.gettempdir()) / f"memattn-plan-{sweep_id()}"
    return StoreConfig(root).folder / "sweeps" / sweep_id()


def register_resolvers() -> None:
    """Makes known what conf/config.yaml calls ``${sweep_folder:...}``."""
    OmegaConf.register_new_resolver("sweep_folder", lambda root, mode: str(sweep_folder(root, mode)), replace=True)


def build_task(config: RunConfig) -> Task:
    """The task of a run, not yet located or prepared."""
    import data

    options = config.task.options
    return data.build_task(config.task.name, options, root=config.data.root, cache=config.data.cache, seed=config.seed)


def find_data(config: RunConfig, task: Task) -> Source:
    """Where the data of a run come from.

    Raises:
        DataError: there are none, or only a stand-in where the run wants the real ones.
    """
    from data.base import refuse_standin

    source = task.locate()
    refuse_standin(config.task.name, source, scale=config.scale, allowed=config.data.allow_standin)
    return source


def build_model(config: RunConfig, task: Task) -> Model:
    """The untrained model of a run, with the head that the task needs."""
    import models

    return models.build_model(
        config.model.name,
        vocab_size=task.vocab_size,
        max_len=task.max_len,
        num_classes=task.num_classes,
        causal=task.kind == "next_token",
        pair=task.pair_head if task.kind == "pair" else None,
        **_shallow(config.backbone),
        **_shallow(config.model.options),
    )


def outline_model(config: RunConfig, task: Task) -> Model:
    """The model of a run without its numbers: sizes and mistakes cost no memory.

    Drawing first weights is left out: for weights without numbers, torch would load its compiler first, for seconds.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Undrawn(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if getattr(func, "__module__", None) == "torch.nn.init":
                return kwargs["tensor"] if "tensor" in kwargs else args[0]
            return func(*args, **kwargs)

    with torch.device("meta"), Undrawn():
        return build_model(config, task)


@dataclass(frozen=True)
class _Labels:
    """The top-level values of a RunConfig, for their types."""

    mode: str = "train"
    scale: str = "laptop"
    seed: int = 0
    force: bool = False
    study: str | None = None
    arm: str | None = None
    run: str | None = None
    test: dict[str, Any] | None = None
    sweep: str | None = None
    watch: float | None = None


#: Typed sections by name and values: the jobs of a sweep share most of theirs, and typing one takes milliseconds.
_TYPED: dict[tuple[str, str], Any] = {}


def _built(name: str, values: dict[str, Any]) -> Any:
    """A typed section. It is frozen, so that every config with the same values may hold the same one."""
    key = name, repr(values)
    if key not in _TYPED:
        _TYPED[key] = _SECTIONS.get(name, lambda section: typed(_Labels, section, ""))(values)
    return _TYPED[key]


def _model_config(values: dict[str, Any]) -> ModelConfig:
    import models

    name, options = _split_options(values, "model", ("name", "variant"), models.available())
    return ModelConfig(name["name"], name.get("variant"), typed(models.options_class(name["name"]), options, "model"))


def _task_config(values: dict[str, Any]) -> TaskConfig:
    import data

    values.pop("scales", None)
    name, options = _split_options(values, "task", ("name",), data.available())
    return TaskConfig(name["name"], typed(data.config_class(name["name"]), options, "task"))


def _backbone_config(values: dict[str, Any]) -> Any:
    import models

    return typed(models.BackboneConfig, values, "backbone")


_SECTIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "model": _model_config,
    "backbone": _backbone_config,
    "task": _task_config,
    "trainer": lambda section: typed(TrainerConfig, section, "trainer"),
    "logger": lambda section: typed(LoggerConfig, section, "logger"),
    "data": lambda section: typed(DataConfig, section, "data"),
    "store": lambda section: typed(StoreConfig, section, "store"),
    "bench": lambda section: typed(BenchConfig, section, "bench"),
    "tune": lambda section: typed(TuneConfig, section, "tune"),
}


def _split_options(
    values: dict[str, Any], section: str, own: tuple[str, ...], available: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Separates our keys (name, variant) from the options, and checks the name."""
    head = {key: values[key] for key in own if values.get(key) is not None}
    name = str(head.get("name"))
    if name not in available:
        raise ConfigError(unknown(section, name, available))
    head = {key: str(value) for key, value in head.items()}
    return head, {key: value for key, value in values.items() if key not in own}


def _resolved(composed: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Plain dicts with every interpolation filled in."""
    node = composed if isinstance(composed, DictConfig) else OmegaConf.create(dict(composed))
    scales = OmegaConf.select(node, "task.scales")
    if scales is not None and str(node.scale) not in scales:
        raise ConfigError(unknown("scale", str(node.scale), (str(name) for name in scales)))
    _check_tuned(node)
    try:
        values = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        where = f"{error.full_key}: " if error.full_key else ""
        raise ConfigError(f"{where}{first_line(error)}") from error
    return {str(key): value for key, value in values.items()} if isinstance(values, dict) else {}


def _check_tuned(node: DictConfig) -> None:
    """``recipe=tuned`` makes the table ``tuned``; conf/recipe/tuned/<task>/<model>.yaml fills it, scale by scale."""
    tuned = OmegaConf.select(node, "tuned")
    if tuned is None or str(node.scale) in tuned:
        return
    model = OmegaConf.select(node, "model.variant") or OmegaConf.select(node, "model.name")
    what = f"model={model} task={OmegaConf.select(node, 'task.name')} scale={node.scale}"
    raise ConfigError(f"recipe=tuned: nothing is tuned for {what}; this does it: python run.py {what} mode=tune")


def _section(values: dict[str, Any], name: str) -> dict[str, Any]:
    section = values.get(name)
    if section is None:
        section = {}
    if not isinstance(section, dict):
        raise ConfigError(f"{name}={section}: is a section; set one of its keys, such as {name}.<key>=<value>")
    return dict(section)


def _shallow(instance: Any) -> dict[str, Any]:
    return {item.name: getattr(instance, item.name) for item in fields(instance)} if is_dataclass(instance) else {}
