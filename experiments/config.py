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
from experiments.space import read_space
from experiments.typed import refuse_unknown, typed

if TYPE_CHECKING:
    from data.base import Source, Task
    from models import BackboneConfig, Model

REPOSITORY = Path(__file__).resolve().parents[1]

MODES = ("train", "eval", "export", "bench", "tune", "plan", "status", "list")
SAMPLERS = ("tpe", "random")
SCHEDULES = ("cosine", "inverse_sqrt", "constant")
PRECISIONS = ("auto", "32", "bf16")
DEVICES = ("auto", "cpu", "cuda", "mps")
PROGRESS = ("auto", "bar", "plain", "none")
LOGGERS = ("wandb", "none")
WANDB_MODES = ("auto", "offline", "online")


@dataclass(frozen=True)
class ModelConfig:
    """Which variant, and its own options."""

    name: str
    """Registered name of the variant: one of ``models.available()``."""
    variant: str | None = None
    """Label of a preset of the same variant; shown in tables, changes no number."""
    options: Any = None
    """An instance of ``models.options_class(name)``."""

    @property
    def label(self) -> str:
        """What tables and log lines call this variant."""
        return self.variant or self.name


@dataclass(frozen=True)
class TaskConfig:
    """Which task, and its own options."""

    name: str
    """Registered name of the task: one of ``data.available()``."""
    options: Any = None
    """An instance of ``data.config_class(name)``."""


@dataclass(frozen=True)
class TrainerConfig:
    """How long, how fast and on what a run trains."""

    batch_size: int
    """Sequences per optimiser step, over all accumulated parts."""
    steps: int
    """Optimiser steps of the whole run."""
    learning_rate: float
    """Peak learning rate of AdamW."""
    accumulate: int | None = None
    """Parts that a batch is cut into, computed one after the other, to save memory; null: one for each device. Divides
    batch_size, and is a multiple of devices. Each part draws its own dropout."""
    devices: int = 1
    """GPUs, or processes where device is cpu, that share one run on this machine: each computes its share of the parts.
    Changes no number but in the last digits."""
    auto_micro_batch: bool = True
    """When a step runs out of memory, compute its parts again in halves, and so on down to single sequences, and keep
    that size for the rest of the run. The batch stays the same, and so do the numbers but for the order of sums and
    for the draws of dropout. false: the run fails."""
    recompute: bool = False
    """Keep no activations inside a block, and compute them again on the way back: less memory, one more forward pass,
    the same numbers."""
    warmup_steps: int = 0
    """Steps of linear warm-up from zero; with every schedule, ``constant`` included."""
    schedule: str = "cosine"
    """After the warm-up: cosine (to zero), inverse_sqrt or constant."""
    weight_decay: float = 0.01
    """Of AdamW; never on norms, biases, embeddings and memories."""
    beta1: float = 0.9
    """AdamW's decay of the mean of gradients."""
    beta2: float = 0.98
    """AdamW's decay of the mean of squared gradients."""
    clip_norm: float | None = 1.0
    """Largest norm of the gradient; null switches clipping off."""
    precision: str = "auto"
    """32, bf16 (mixed) or auto: bf16 on a GPU that has it, else 32."""
    device: str = "auto"
    """cpu, cuda, mps or auto: the best there is."""
    threads: int = 1
    """CPU threads of this process. One is fastest as soon as anything else runs beside it."""
    val_every: int = 100
    """Steps between validations; the last step is always validated."""
    log_every: int = 50
    """Steps between rows of metrics.jsonl."""
    checkpoint_every: int = 100
    """Steps between checkpoints: what a killed run may lose."""
    compile: bool = False
    """torch.compile; costs a minute, pays off on long GPU runs."""
    num_workers: int = 0
    """Processes that prepare batches; any number gives the same batches."""
    progress: str = "auto"
    """bar, plain (a line now and then), none, or auto: bar on a terminal, else plain."""

    def __post_init__(self) -> None:
        for name in (
            "batch_size",
            "steps",
            "devices",
            "threads",
            "val_every",
            "log_every",
            "checkpoint_every",
        ):
            _check(getattr(self, name) >= 1, f"trainer.{name}", getattr(self, name), "must be at least 1")
        _check(self.num_workers >= 0, "trainer.num_workers", self.num_workers, "must be 0 or more")
        _check(0 < self.learning_rate <= 1, "trainer.learning_rate", self.learning_rate, "must lie in (0, 1]")
        _check(0 <= self.weight_decay <= 1, "trainer.weight_decay", self.weight_decay, "must lie in [0, 1]")
        for name in ("beta1", "beta2"):
            _check(0 <= getattr(self, name) < 1, f"trainer.{name}", getattr(self, name), "must lie in [0, 1)")
        if self.clip_norm is not None:
            _check(
                self.clip_norm > 0,
                "trainer.clip_norm",
                self.clip_norm,
                "must be above 0, or null for no clipping",
            )
        _check_choice("trainer.schedule", self.schedule, SCHEDULES)
        _check_choice("trainer.precision", self.precision, PRECISIONS)
        _check_choice("trainer.device", self.device, DEVICES)
        _check_choice("trainer.progress", self.progress, PROGRESS)
        self._check_together()

    def _check_together(self) -> None:
        _check(
            0 <= self.warmup_steps <= self.steps,
            "trainer.warmup_steps",
            self.warmup_steps,
            f"must lie between 0 and trainer.steps={self.steps}",
        )
        key, value = ("accumulate", self.accumulate) if self.accumulate is not None else ("devices", self.devices)
        _check(self.parts >= 1, f"trainer.{key}", value, "must be at least 1")
        _check(
            self.parts % self.devices == 0,
            "trainer.accumulate",
            value,
            f"must be a multiple of trainer.devices={self.devices}, or null: one part for each device",
        )
        _check(
            self.batch_size % self.parts == 0,
            f"trainer.{key}",
            value,
            f"must divide trainer.batch_size={self.batch_size}",
        )

    @property
    def parts(self) -> int:
        """Parts that a batch is cut into."""
        return self.devices if self.accumulate is None else self.accumulate


@dataclass(frozen=True)
class LoggerConfig:
    """Where metrics are mirrored. The store is always written; this changes no number."""

    name: str = "none"
    """wandb or none."""
    project: str | None = None
    """Project of Weights & Biases."""
    entity: str | None = None
    """User or team of Weights & Biases; null: the login's default."""
    mode: str | None = None
    """offline, online, or auto: online when somebody is logged in, else offline."""

    def __post_init__(self) -> None:
        _check_choice("logger.name", self.name, LOGGERS)
        if self.name == "wandb":
            _check_choice("logger.mode", self.mode or "auto", WANDB_MODES)
            return
        for name in ("project", "entity", "mode"):
            value = getattr(self, name)
            _check(value is None, f"logger.{name}", value, f"has no effect with logger={self.name}")


@dataclass(frozen=True)
class DataConfig:
    """Where data are looked for. Never changes what a run is: the checksum of what was found does."""

    root: str | None = None
    """Folder that holds the data sets; null: $MEMATTN_DATA, if set."""
    cache: str | None = None
    """Folder for encoded data; null: $MEMATTN_CACHE, else ~/.cache/memattn."""
    allow_standin: bool = False
    """scale=paper takes stand-in data too, where a task has no better. (Where there are real ones, they are taken.)"""


@dataclass(frozen=True)
class StoreConfig:
    """Where results go."""

    root: str | None = None
    """Folder that holds runs/ and sweeps/; null: $MEMATTN_RESULTS, else results/ beside run.py."""

    @property
    def folder(self) -> Path:
        """The results folder, absolute."""
        chosen = self.root or os.environ.get("MEMATTN_RESULTS") or REPOSITORY / "results"
        return Path(chosen).expanduser().absolute()

    @property
    def runs(self) -> Path:
        """One folder per run below: <task>/<model>/<hash>-s<seed>."""
        return self.folder / "runs"


@dataclass(frozen=True)
class BenchConfig:
    """What mode=bench measures. Sizes that are null are those of the scale."""

    lengths: tuple[int, ...] = (1024, 4096, 16384, 65536)
    """Tokens in a sequence."""
    batch_size: int = 1
    """Sequences in a step."""
    segment_len: int | None = None
    """Length of a segment (block, window) for all variants that have one."""
    memory_len: int | None = None
    """Memory slots (of FAM: feedback slots) for all variants that have them."""
    piece_len: int = 512
    """Tokens of a piece of a stream."""
    peers: bool = True
    """Measure installed packages from PyPI beside the variants that they correspond to."""
    max_seconds: float = 10.0
    """Of repetitions of one step. Where a single one took longer, greater lengths are skipped."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", tuple(self.lengths))
        _check(len(self.lengths) > 0, "bench.lengths", list(self.lengths), "must name at least one length")
        for length in self.lengths:
            _check(length >= 1, "bench.lengths", length, "must be at least 1")
        for name in ("batch_size", "segment_len", "memory_len", "piece_len"):
            value = getattr(self, name)
            _check(value is None or value >= 1, f"bench.{name}", value, "must be at least 1")
        _check(self.max_seconds > 0, "bench.max_seconds", self.max_seconds, "must be above 0")


@dataclass(frozen=True)
class TuneConfig:
    """How mode=tune searches: the same budget for every variant, scores on validation only."""

    trials: int = 16
    """Trials of each search, the configured values (the first) and failed ones included. More go on where it ended."""
    seed: int = 0
    """Of the sampler."""
    sampler: str = "tpe"
    """tpe (draws near what did well) or random."""
    parallel: int = 4
    """Trials of one search at work at once; with 1 each trial knows all before it."""
    space: dict[str, Any] = field(default_factory=dict)
    """What is varied: {times: [a, b]}, {low: a, high: b} or {choices: [...]} for each key (experiments/space.py)."""
    folder: str | None = None
    """Where the chosen values are written; null: conf/recipe/tuned of this checkout, which recipe=tuned reads."""

    def __post_init__(self) -> None:
        for name in ("trials", "parallel"):
            _check(getattr(self, name) >= 1, f"tune.{name}", getattr(self, name), "must be at least 1")
        _check(self.seed >= 0, "tune.seed", self.seed, "must be 0 or more")
        _check_choice("tune.sampler", self.sampler, SAMPLERS)
        read_space(self.space)

    @property
    def files(self) -> Path:
        """One file below for each task and variant: <task>/<model>.yaml."""
        return Path(self.folder).expanduser().absolute() if self.folder else REPOSITORY / "conf" / "recipe" / "tuned"


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
    sweep: str | None = None
    """mode=status: the sweep, by the first digits of its id; null: the latest; all: a line for each."""
    watch: float | None = None
    """mode=status: show it again every so many seconds until its jobs have ended; null: once."""

    def __post_init__(self) -> None:
        _check_choice("mode", self.mode, MODES)
        _check(0 <= self.seed < 2**31, "seed", self.seed, "must lie in [0, 2^31)")
        check_mode(self.mode, run=self.run, force=self.force, sweep=self.sweep, watch=self.watch)
        _check(self.watch is None or 0.1 <= self.watch < math.inf, "watch", self.watch, "seconds, at least 0.1")
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


def _check(holds: bool, key: str, value: Any, rule: str) -> None:
    if not holds:
        raise ConfigError(f"{key}={value}: {rule}")


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(unknown(key, value, choices))
